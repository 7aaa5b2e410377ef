"""The report of chains: R-hat, effective sizes and divergences of all that a user reads off, and the verdict.

The rule. Chains that started apart are *good* where each scalar has a rank-normalised split R-hat of at most 1.01 and
bulk and tail effective sizes of at least 400 (Vehtari, Gelman, Simpson, Carpenter and Buerkner 2021), no path diverged
(Betancourt 2017, "A Conceptual Introduction to Hamiltonian Monte Carlo", section 6.2), and no mode that the fit has met
lies where none of them came; else *poor*.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from vbppl.core.numerics import mcmc
from vbppl.core.pytree import pytree, static
from vbppl.inference.sampling import Chains
from vbppl.inference.solution import Note, Solution, Status
from vbppl.posterior.quantities import MAX_NUMBERS, Worst
from vbppl.posterior.report import NOTHING, AnyReport, Report, to_decenter
from vbppl.posterior.weighted_draws import KEPT, WeightedDraws, values_of
from vbppl.target.axes import axes_of, coordinate_names
from vbppl.target.target import Target

R_HAT, ESS = 1.01, 400.0
NEAR = 4.0  # sds of another mode within which a draw has visited it
LARGEST = 1e300  # in the place of infinity: ranks do not care


@pytree
class ChainReport(Report):
    """How good draws of Markov chains are, and why; what `Report` says of a guide's stands at its defaults.

    Attributes:
      fitted: the report on the guide from which the chains began.
      r_hat: the worst, of all scalars of the latent and deterministic sites.
      ess_bulk: the smallest effective size of a mean.
      ess_tail: the smallest of the 5% and 95% quantiles.
      divergences: of how many paths the energy was lost.
      acceptance: the average acceptance probability.
      step_size: in units of the posterior's sds.
    """

    fitted: AnyReport | None = None
    r_hat: Worst = NOTHING
    ess_bulk: Worst = NOTHING
    ess_tail: Worst = NOTHING
    divergences: int = static(default=0)
    acceptance: float = static(default=math.nan)
    step_size: float = static(default=math.nan)

    @property
    def of_guide(self) -> AnyReport:
        """The report on the guide alone."""
        return self if self.fitted is None else self.fitted

    def beside(self, solution: Solution) -> Report:
        """The same: nothing is noted in the solution that is about the chains."""
        return self

    @property
    def details(self) -> tuple[str, ...]:
        """All that the card leaves out, a line each."""
        return (*self.reasons, *map(str, self.notes))

    def _verdict_line(self) -> str:
        said = f"verdict: {self.verdict}"
        # Only chains that started apart can show that they disagree.
        one = " as far as one chain can tell" if self.chains == 1 else ""
        return super()._verdict_line().replace(said, said + one, 1)

    def lines(self) -> list[str]:
        """The card, at most eight lines."""
        worst = " and ".join(f"{x.value:,.0f} ({x.name})" for x in (self.ess_bulk, self.ess_tail))
        of = "" if self.chains > 1 else " of the halves of the one chain"
        found = f"worst R-hat{of} {self.r_hat.value:.3f} ({self.r_hat.name}), bulk and tail ESS {worst}"
        draws = f"NUTS: {self.status}; divergences: {self.divergences:,}"
        guide = f"the guide alone: verdict {self.of_guide.verdict}, ELBO {self.elbo} nats"
        evidence = f", log evidence {self.log_evidence:.3f}" if np.isfinite(self.log_evidence) else ""
        held = [str(note) for note in self.notes if note.topic == "params"]
        more = f". {len(self.notes)} note{'s' * (len(self.notes) > 1)}: check().details" if self.notes else ""
        return [
            self._verdict_line(),
            f"  {found} (limits {R_HAT:g} and {ESS:.0f})",
            *([f"  try: {'; or '.join(self.advice[:2])}"] if self.advice else []),
            f"{draws}; acceptance {self.acceptance:.2f}, step size {self.step_size:.2g} sd",
            *held,
            f"{guide}{evidence}",
            f"took {self.status.seconds:.2g} s; judging it {self.seconds:.2g} s{more}",
        ]


def judge_chains(
    solution: Solution, fitted: AnyReport, target: Target, found: Chains, notes: tuple[Note, ...] = ()
) -> ChainReport:
    """What chains are worth.

    Args:
      solution: what was fitted.
      fitted: the report on its guide.
      target: the density that the chains have drawn from, in the precision in which they have.
      found: the chains.
      notes: on how they were drawn.
    """
    x, names = _scalars(target, found.z)
    if found.z.shape[1] >= 4:
        sizes = _worst(mcmc.ess_bulk(x), names, np.nanargmin), _worst(mcmc.ess_tail(x), names, np.nanargmin)
        r_hat = _worst(mcmc.r_hat(x), names, np.nanargmax)
    else:
        r_hat, sizes = Worst(math.nan, "too few draws"), (Worst(math.nan, "too few draws"),) * 2
    chains, draws = found.z.shape[:2]
    text = f"{chains} chain{'s' * (chains > 1)} of {draws:,} draws" + f", {found.cut_short}" * bool(found.cut_short)
    status = Status(found.cut_short or "draws", not found.cut_short, text, found.steps, found.gradients, found.seconds)
    report = ChainReport(
        fitted.elbo,
        _equal_weights(found),
        getattr(fitted, "other_modes", solution.other_modes),
        log_evidence=fitted.log_evidence if isinstance(fitted, Report) else math.nan,
        ess=1.0,
        pareto_k=-math.inf,
        status=status,
        notes=(*notes, *_notes(solution, fitted)),
        cut_short=found.cut_short,
        chains=chains,
        fitted=fitted,
        r_hat=r_hat,
        ess_bulk=sizes[0],
        ess_tail=sizes[1],
        divergences=int(found.diverged.sum()),
        acceptance=float(found.acceptance.mean()),
        step_size=found.step_size,
    )
    reasons = _reasons(report, found)
    advice = _advice(report, found, target) if reasons else ()
    return dataclasses.replace(report, verdict="poor" if reasons else "good", reasons=reasons, advice=advice)


def _scalars(target: Target, z: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """All that a user reads off, `(chains, draws, scalars)`, and its names; coordinates where that is too much."""
    chains, draws, dim = z.shape
    values = values_of(target, z.reshape(-1, dim)) if target.layout.reported else {}
    if not values or sum(value.size for value in values.values()) > MAX_NUMBERS:
        return z, list(coordinate_names(target))
    columns = [np.asarray(value, np.float64).reshape(chains, draws, -1) for value in values.values()]
    known = axes_of(target)
    names = [each for name, value in values.items() for each in known.names(name, value.shape[1:])]
    return np.clip(np.concatenate(columns, axis=2), -LARGEST, LARGEST), names


def _worst(numbers: np.ndarray, names: list[str], which: object) -> Worst:
    """The worst of those that are numbers: what does not vary has none."""
    if np.isnan(numbers).all():
        return Worst(math.nan, "nothing varies")
    at = int(which(numbers))  # pyright: ignore[reportCallIssue]
    return Worst(float(numbers[at]), names[at])


def _equal_weights(found: Chains) -> WeightedDraws:
    """The draws of one chain after the other, evenly thinned to as many as a report holds on to."""
    step = -(-found.z.size // KEPT) if found.z.size else 1
    z, log_p = found.z[:, ::step].reshape(-1, found.z.shape[2]), found.log_p[:, ::step].reshape(-1)
    even = np.full(len(z), -math.log(max(len(z), 1)))
    return WeightedDraws(z, log_p, log_p, log_p, even, -math.inf, math.nan, np.zeros(len(z), bool))


def _notes(solution: Solution, fitted: AnyReport) -> tuple[Note, ...]:
    """What the fit has noted, and what stays as it was learnt."""
    params = ", ".join(solution.target.layout.params)
    own = (Note("params", f"{params} stay at the values that the fit has learnt"),) if params else ()
    return (*own, *(fitted.notes if isinstance(fitted, Report) else solution.notes))


def _reasons(report: ChainReport, found: Chains) -> tuple[str, ...]:
    """What speaks against the chains, the worst first."""
    reasons, total = [], found.diverged.size
    moved, apart = ("chain", "halves of the one chain") if report.chains == 1 else ("chains", "chains")
    if not np.isfinite(report.r_hat.value):
        reasons.append(f"the {moved} did not move" if total else "no draws were taken")
    if report.divergences:
        share = f"{report.divergences:,} of {total:,} paths diverged"
        reasons.append(f"{share}: they could not follow the density where it bends most")
    for lower, away, (mean, log_sd), *_ in (*report.other_modes.found, *report.other_modes.held):
        off = np.abs(found.z.reshape(-1, found.z.shape[2]) - mean) / np.exp(log_sd)
        if not off.max(axis=1).min(initial=np.inf) < NEAR:
            what = f"the other mode, {away:.0f} sd away, whose bound is {lower:.1f} nats lower"
            reasons.append(f"no chain came to {what}")
    if report.r_hat.value > R_HAT:
        reasons.append(f"the {apart} differ in {report.r_hat.name}: R-hat {report.r_hat.value:.3f}")
    for what, size in (("bulk", report.ess_bulk), ("tail", report.ess_tail)):
        if size.value < ESS:
            reasons.append(f"the {what} effective sample size of {size.name} is {size.value:,.0f}")
    return tuple(reasons)


def _advice(report: ChainReport, found: Chains, target: Target) -> tuple[str, ...]:
    """What to try, for what was found."""
    steps = []
    if report.divergences or not np.isfinite(report.r_hat.value):
        steps += to_decenter(target)
        steps.append("vb.refine(posterior, target_accept=0.999)")
    if report.r_hat.value > 1.1 or report.other_modes.found:
        steps.append("a fit that holds all modes, guide='auto'; or write the model so that it has one")
    elif report.r_hat.value > R_HAT or min(report.ess_bulk.value, report.ess_tail.value) < ESS:
        steps.append(f"vb.refine(posterior, n={4 * max(found.z.shape[1], 250):_})")
    return tuple(steps)
