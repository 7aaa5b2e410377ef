"""The report of a fit: the limits that decide, the numbers, the verdict, and how they are shown."""

from __future__ import annotations

import dataclasses
import html
import math
from typing import NamedTuple

import numpy as np

from vbppl.core.pytree import pytree, static
from vbppl.core.tables import html_lines
from vbppl.inference.bound import Estimate
from vbppl.inference.solution import Note, NotSearched, Searched, Solution, Status
from vbppl.posterior.weighted_draws import WeightedDraws, Worst

LOG_WEIGHT_SD = 0.7  # nats
MEAN_SHIFT, LOG_SD_SHIFT = 0.2, 0.25  # sds; logs of sds
LEAST_ESS, CORRECTING_ESS = 0.05, 0.1  # of the draws
TRUSTED_K = 0.7
SOME_DIMS, MANY_DIMS, MEASURED = 10, 30, 400  # dims; dims; effective draws
DRAW_NOISE = 0.2  # sds
TAIL, HEAVY_TAIL = 0.35, 0.7  # logs of sds
CORRELATED, WIDENED = 1.4, 1.25  # by what factor an sd is too small: for a reason; to be named

# Advice. That about coordinates is taken back where they were tried (`Report.without`).
DECENTER = "vb.decenter(model): the scale of a site is latent"
RESAMPLE = "posterior.resample(n): draws weighed by importance, which are nearer"
SAMPLER = "a sampler, such as BlackJAX's NUTS on vb.target(model).log_density"
LINEAR_RESPONSE = "posterior.linear_response(): sds with the correlations, which pass the checks that these fail"

COLOURS = {"good": "#1a7f37", "corrected": "#9a6700", "poor": "#cf222e"}


class Gap(NamedTuple):
    """A bound on how many nats the best member of the guide's family lies above the fit.

    Attributes:
      bound: in nats; a 95% upper bound where the log density is concave, else for this basin. Not a number where
        a search for it did not end.
      estimate: the middle of it.
    """

    bound: float
    estimate: float

    def __str__(self) -> str:
        if not np.isfinite(self.bound):
            return "optimality gap: not available, since a further fit did not come to its end"
        return f"optimality gap: {self.estimate:.2g} nats, below {self.bound:.2g} (95%, in this basin)"


@pytree
class Report:
    """How good a fit is, and why.

    Attributes:
      elbo: of the guide, in nats.
      log_weight_sd: the standard deviation of `log p - log q` over draws from `q`, in nats.
      ess: effective sample size of the weights, as a fraction of the draws.
      pareto_k: the shape of the weights' tail; below 0.7 their averages settle down.
      log_evidence: by smoothed importance sampling, in nats; not a number where `pareto_k` forbids it.
      mean_shift: by how many sds weighing moves the mean of the worst coordinate, and which.
      log_sd_shift: how much it changes the log sd of the worst coordinate, and which.
      tail: the log of how much wider than the guide the density is along the ridge of the worst coordinate,
        out to ten sds, and which; not a number where it was not looked at.
      widened: for a mean-field guide the coordinates whose sds correlations would widen most, and by what
        factor, the widest first (linear response from the average curvature).
      least_eigenvalue: of that curvature, in units of the guide's sds; at or below zero the bound has no
        strict maximum. Not a number where it was not looked at.
      draws: what was weighed; none where each row was judged by itself.
      other_modes: what the solver has found beside the fitted mode, or why it looked for nothing.
      seconds: what judging took by the clock.
      gap: a bound on what the guide's family could still gain, where it was asked for.
      verdict: "good", "corrected" (the weighted draws of `posterior.resample` are right, the guide's own
        are not quite) or "poor".
      reasons: why not good, in words.
      advice: what to try next.
      status: why the fit ended.
      notes: what the fit, and judging it, chose by itself, and why.
      cut_short: "interrupted" where a person did not wait for the verdict, else empty.
    """

    elbo: Estimate
    log_weight_sd: float
    ess: float
    pareto_k: float
    log_evidence: float
    mean_shift: Worst
    log_sd_shift: Worst
    tail: Worst
    widened: tuple[Worst, ...]
    least_eigenvalue: float
    draws: WeightedDraws
    other_modes: Searched | NotSearched
    seconds: float = 0.0
    gap: Gap | None = None
    verdict: str = static(default="good")
    reasons: tuple[str, ...] = static(default=())
    advice: tuple[str, ...] = static(default=())
    status: Status = static(default=Status("", False, "", 0, 0))
    notes: tuple[Note, ...] = static(default=())
    cut_short: str = static(default="")

    @classmethod
    def unfinished(cls, solution: Solution, seconds: float) -> Report:
        """Of a fit whose judging was interrupted: nothing is known, so it is poor."""
        nothing = Worst(math.nan, "not looked at")
        return cls(
            elbo=Estimate(math.nan, math.nan),
            log_weight_sd=math.nan,
            ess=math.nan,
            pareto_k=math.nan,
            log_evidence=math.nan,
            mean_shift=nothing,
            log_sd_shift=nothing,
            tail=nothing,
            widened=(),
            least_eigenvalue=math.nan,
            draws=WeightedDraws.none(solution.target.dim),
            other_modes=solution.other_modes,
            seconds=seconds,
            verdict="poor",
            reasons=("the fit was interrupted before it was judged",),
            advice=("vb.fit(model, start=posterior)",),
            status=solution.status,
            notes=solution.notes,
            cut_short="interrupted",
        )

    def beside(self, solution: Solution) -> Report:
        """The same, with what `solution` tells today: after judging, more may have been noted there."""
        own = tuple(note for note in self.notes if note.topic == "judging")
        return dataclasses.replace(
            self, status=solution.status, other_modes=solution.other_modes, notes=(*own, *solution.notes)
        )

    def without(self, advice: str) -> Report:
        """The same without one piece of advice, which has been followed."""
        return dataclasses.replace(self, advice=tuple(step for step in self.advice if step != advice))

    def lines(self) -> list[str]:
        """The card as lines of text."""
        return [
            f"verdict: {self.verdict}" + "".join(f"\n  - {reason}" for reason in self.reasons),
            *(f"  but {caveat}" for caveat in self._caveats()),
            *(f"  try: {step}" for step in self.advice),
            *self._lines_of_numbers(),
            *self._lines_of_the_solver(),
            *map(str, self.notes),
        ]

    def _caveats(self) -> list[str]:
        """What the verdict does not cover."""
        return [str(self.other_modes)] if isinstance(self.other_modes, NotSearched) else []

    def _lines_of_numbers(self) -> list[str]:
        evidence = f"{self.log_evidence:.3f} by PSIS" if np.isfinite(self.log_evidence) else "PSIS cannot say"
        lines = [
            f"ELBO {self.elbo} nats, so log evidence >= {self.elbo.value - 2 * self.elbo.se:.3f} ({evidence})",
            f"log p - log q: sd {self.log_weight_sd:.2f} nats, ESS {self.ess:.0%} of the draws, "
            f"Pareto k {self.pareto_k:.2f}",
        ]
        mean, log_sd = self.mean_shift, self.log_sd_shift
        if np.isfinite(mean.value):
            moved = f"weighing would move a mean by {mean.value:.2f} sd ({mean.name})"
            lines.append(f"{moved}, a log sd by {log_sd.value:.2f} ({log_sd.name})")
        if np.isfinite(self.tail.value):
            wide = f"{np.exp(self.tail.value):.2f} times as wide at most ({self.tail.name})"
            lines.append(f"out to ten sds the density is {wide}")
        if np.isfinite(self.least_eigenvalue):
            wide = ", ".join(f"{each.name} {each.value:.2f}" for each in self.widened if each.value > WIDENED)
            what = f"the sds of {wide} times" if wide else f"no sd by more than {WIDENED - 1:.0%}"
            lines.append(f"linear response would widen {what}; least curvature {self.least_eigenvalue:.2g}")
        return lines

    def _lines_of_the_solver(self) -> list[str]:
        return [
            f"stopped: {self.status}",
            *([] if self._caveats() else filter(None, [str(self.other_modes)])),
            *([str(self.gap)] if self.gap is not None else []),
            f"took {self.status.seconds:.2g} s, {self.status.compiling:.2g} s of them compiling; "
            f"judging it {self.seconds:.2g} s",
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in self.reasons)
        advice = "".join(f"<li>but {html.escape(caveat)}</li>" for caveat in self._caveats())
        advice += "".join(f"<li>try: {html.escape(step)}</li>" for step in self.advice)
        rest = html_lines([*self._lines_of_numbers(), *self._lines_of_the_solver(), *map(str, self.notes)])
        head = f"<p><b style='color:{COLOURS[self.verdict]}'>{self.verdict}</b></p>"
        return f"{head}<ul>{reasons}{advice}</ul><p>{rest}</p>"


@pytree
class Unjudged:
    """In the place of a report, where there is no distribution to judge.

    Attributes:
      elbo: what was maximised, in nats: of a point the log joint density there.
      seconds: what finding that out took by the clock.
      why: why there is nothing to judge.
      verdict: "unjudged".
      reasons: why not good: none.
    """

    elbo: Estimate
    seconds: float = 0.0
    why: str = static(default="")
    verdict: str = static(default="unjudged")
    reasons: tuple[str, ...] = static(default=())

    @property
    def cut_short(self) -> str:
        """Nothing was: see `Report`."""
        return ""

    def beside(self, solution: Solution) -> Unjudged:
        """The same."""
        return self

    def without(self, advice: str) -> Unjudged:
        """The same: there is no advice."""
        return self

    def lines(self) -> list[str]:
        """The card as lines of text."""
        return [f"log joint at the mode {self.elbo.value:.3f} nats"]

    def __str__(self) -> str:
        return "\n".join([f"not judged: {self.why}", *self.lines()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<p>{html_lines(str(self).splitlines())}</p>"


def shape_reasons(card: Report, dim: int, draws: int, lost: float) -> list[str]:
    """What speaks against the guide's shape, in words; empty where nothing does."""
    reasons = []
    mean, log_sd, tail = card.mean_shift, card.log_sd_shift, card.tail
    if lost:
        reasons.append(f"{lost:.1%} of the guide's draws have no finite density")
    if mean.value > MEAN_SHIFT:
        reasons.append(f"in unconstrained space the mean of {mean.name} is off by about {mean.value:.2f} sd")
    if log_sd.value > LOG_SD_SHIFT:
        off = f"{np.expm1(log_sd.value):.0%}"
        reasons.append(f"in unconstrained space the sd of {log_sd.name} is off by about {off}")
    if card.ess < LEAST_ESS:
        reasons.append(f"the effective sample size is {card.ess:.1%} of the draws")
    if tail.value > TAIL:
        wide = f"the density of {tail.name} is {np.exp(tail.value):.1f} times as wide as the guide"
        reasons.append(f"{wide}, in a tail that draws of the guide do not reach")
    widest = card.widened[0] if card.widened else Worst(1.0, "")
    if widest.value > CORRELATED:
        what = f"the sd of {widest.name} {widest.value:.1f} times"
        reasons.append(f"correlations that mean field leaves out would widen {what}")
    # The sd of log w grows with sqrt(dim) by itself. Beyond a few dims it decides only where the shifts, which
    # are known to one over the root of the effective number of draws, cannot.
    measured = dim >= SOME_DIMS and card.ess * draws >= MEASURED
    if card.log_weight_sd > LOG_WEIGHT_SD * max(1.0, np.sqrt(dim / MANY_DIMS)) and not measured:
        reasons.append(f"log p - log q varies by {card.log_weight_sd:.2f} nats over the guide's draws")
    if card.other_modes.held:
        reasons.append("there are several modes; the guide holds those that the restarts found, and there may be more")
    return reasons


def solver_reasons(status: Status, other_modes: Searched | NotSearched) -> list[str]:
    """What the solver itself has told against its solution, which no weighing can mend."""
    reasons = []
    if status.draw_noise > DRAW_NOISE:
        reasons.append(f"another set of fixed draws would move the answer by {status.draw_noise:.2f} sd")
    if not status.converged and status.reason != "steps":
        reasons.append(f"the fit did not converge: {status.text}")
    for lower, away, _ in other_modes.found:
        reasons.append(f"a restart found another mode, {away:.0f} sd away, whose bound is {lower:.1f} nats lower")
    return reasons
