"""The report of a fit: the limits that decide, the numbers, the verdict, and how they are shown.

The rule. A fit is *good* where every quantity that a user reads off is right within the limits, two standard errors
included, no tail was missed and the solver came to its end. It is *corrected* where it is not, but weighted draws are
right: their weights can be trusted, the errors are known to a tenth of an sd, and no tail was missed. It is
*unknown* where nothing speaks against it, but not everything could be measured; else it is *poor*.
"""

from __future__ import annotations

import dataclasses
import html
import math
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from vbppl.core.errors import PoorPosteriorError, one_of
from vbppl.core.pytree import pytree, static
from vbppl.core.tables import badge, folded, html_lines, spaced
from vbppl.inference.bound import Estimate
from vbppl.inference.solution import Note, NotSearched, Searched, Solution, Status
from vbppl.posterior.quantities import LOG_SD_ERROR, Errors, Worst, weightless
from vbppl.posterior.weighted_draws import WeightedDraws

MEAN_ERROR = 0.25  # sds, with two standard errors; of log sds it is `LOG_SD_ERROR`
KNOWN = 0.1  # a standard error below which an error counts as measured
NARROW_TAIL, TAIL, HEAVY_TAIL = -1.2, 0.35, 0.7  # logs of sds along a ridge; the last cannot be weighed away
DRAW_NOISE = 0.2  # sds
MANY = math.log(11)  # the log of by what factor an sd is too large to be told in per cent
CORRELATED, WIDENED = 1.4, 1.25  # by what factor an sd is too small: for a reason; to be named
VERDICTS = ("poor", "unknown", "corrected", "good")  # from the worst to the best

# Advice. That about coordinates begins so, and is taken back where they were tried (`Report.without`).
DECENTER = "vb.decenter(model, "
SAMPLER = "vb.refine(posterior), which samples on from there"
CORRECTED = "posterior.uncorrected() for the guide alone; all else speaks of the weighted draws"

COLOURS = {"good": "#1a7f37", "corrected": "#9a6700", "unknown": "#57606a", "poor": "#cf222e"}


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


NOTHING = Worst(math.nan, "not looked at")


@pytree
class Report:
    """How good a fit is, and why.

    Attributes:
      elbo: of the guide, in nats.
      log_evidence: by importance sampling, in nats; not a number where the weights cannot be trusted.
      mean_error: by how many sds of the guide the mean of the worst quantity is off.
      log_sd_error: the log of the right sd over the guide's, of the worst quantity.
      tail: the log of how much wider than the guide the density is along the ridge of the worst coordinate,
        out to ten sds; not a number where it was not looked at.
      told_apart: how often an ideal judge tells a draw of the guide from one of the posterior, one half at best.
      worst_told_apart: the same where it sees one quantity only, that by which it is easiest.
      widened: for a mean-field guide the coordinates whose sds correlations would widen most, and by what
        factor, the widest first (linear response from the average curvature).
      least_eigenvalue: of that curvature, in units of the guide's sds; at or below zero the bound has no
        strict maximum. Not a number where it was not looked at.
      draws: what was weighed; none where each row was judged by itself.
      log_weight_sd: the standard deviation of `log p - log q` over draws of the guide, in nats.
      ess: the effective sample size of the weights, as a fraction of the draws.
      pareto_k: the shape of the weights' tail; below 0.7 their averages settle down.
      other_modes: what the solver has found beside the fitted mode, or why it looked for nothing.
      seconds: what judging took by the clock.
      gap: a bound on what the guide's family could still gain, where it was asked for.
      verdict: "good", "corrected" (the posterior speaks of the weighted draws, which are right), "unknown" or "poor".
      reasons: why not good, in words.
      advice: what to try next.
      status: why the fit ended.
      notes: what the fit, and judging it, chose by itself, and why.
      cut_short: "interrupted" where a person did not wait for the verdict, else empty.
      chains: of how many Markov chains the draws are, one chain after the other; 0 where they are weighted ones.
    """

    elbo: Estimate
    draws: WeightedDraws
    other_modes: Searched | NotSearched
    log_evidence: float = math.nan
    mean_error: Worst = NOTHING
    log_sd_error: Worst = NOTHING
    tail: Worst = NOTHING
    told_apart: float = math.nan
    worst_told_apart: Worst = NOTHING
    widened: tuple[Worst, ...] = ()
    least_eigenvalue: float = math.nan
    log_weight_sd: float = math.nan
    ess: float = math.nan
    pareto_k: float = math.nan
    seconds: float = 0.0
    gap: Gap | None = None
    verdict: str = static(default="good")
    reasons: tuple[str, ...] = static(default=())
    advice: tuple[str, ...] = static(default=())
    status: Status = static(default=Status("", False, "", 0, 0))
    notes: tuple[Note, ...] = static(default=())
    cut_short: str = static(default="")
    chains: int = static(default=0)

    @classmethod
    def unfinished(cls, solution: Solution, seconds: float) -> Report:
        """Of a `solution` whose judging was interrupted after so many `seconds`: nothing is known."""
        return cls(
            Estimate(math.nan, math.nan),
            WeightedDraws.none(solution.target.dim),
            solution.other_modes,
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
        """The same without the advice that begins so, which has been followed."""
        return dataclasses.replace(self, advice=tuple(step for step in self.advice if not step.startswith(advice)))

    @property
    def replaces_guide(self) -> bool:
        """Does a posterior speak of the draws rather than of the guide?"""
        return self.verdict == "corrected" or self.chains > 0

    @property
    def of_guide(self) -> AnyReport:
        """The report on the guide, where this is one on chains that began from it; else the same."""
        return self

    @property
    def tail_is_met(self) -> bool:
        """Is the density along its ridges as wide as the guide, as far as was looked?"""
        return not (self.tail.value > TAIL or self.tail.value < NARROW_TAIL)

    def require(self, verdict: Literal["poor", "unknown", "corrected", "good"] = "corrected") -> None:
        """For scripts: go on only where the answer is at least as good as `verdict`.

        Raises:
          PoorPosteriorError: it is not; with the reasons.
        """
        one_of("verdict", verdict, *VERDICTS)
        if VERDICTS.index(self.verdict) < VERDICTS.index(verdict):
            why = "; ".join(self.reasons) or "see the report"
            raise PoorPosteriorError(f"the posterior is {self.verdict}, not {verdict!r} or better: {why}.")

    @property
    def details(self) -> tuple[str, ...]:
        """All that the card leaves out, a line each."""
        lines = [f"log p - log q: sd {self.log_weight_sd:.2f} nats over draws of the guide"]
        if np.isfinite(self.tail.value):
            wide = f"{np.exp(self.tail.value):.2f} times as wide as the guide at most ({self.tail.name})"
            lines.append(f"out to ten sds the density is {wide}")
        if np.isfinite(self.least_eigenvalue):
            wide = ", ".join(f"{each.name} {each.value:.2f}" for each in self.widened if each.value > WIDENED)
            what = f"the sds of {wide} times" if wide else f"no sd by more than {WIDENED - 1:.0%}"
            lines.append(f"linear response would widen {what}; least curvature {self.least_eigenvalue:.2g}")
        return (*self.reasons, *lines, *map(str, self.notes))

    def lines(self) -> list[str]:
        """The card, at most eight lines: verdict, worst quantity, what to do, evidence, how it ended, what it cost."""
        lines = [self._verdict_line(), *self._worst_line()]
        lines += [f"  try: {'; or '.join(self.advice[:2])}"] if self.advice else []
        lines += self._evidence_lines()
        searched = str(self.other_modes) if isinstance(self.other_modes, Searched) else ""
        took = f"took {self.status.seconds:.2g} s, {self.status.compiling:.2g} s of them compiling"
        return [
            *lines,
            f"stopped: {self.status}" + (f"; {searched}" if searched else ""),
            f"{took}; judging it {self.seconds:.2g} s"
            + (f". {len(self.notes)} note{'s' * (len(self.notes) > 1)}: check().details" if self.notes else ""),
        ]

    def _verdict_line(self) -> str:
        line = f"verdict: {self.verdict}{self.other_modes.one_of}"
        if isinstance(self.other_modes, NotSearched):
            line += f" as far as was looked ({self.other_modes})"
        for first in self.reasons[:1]:
            more = len(self.reasons) - 1
            line += f": {first}" + (f", and {more} more reason{'s' * (more > 1)}: check().details" if more else "")
        return line

    def _worst_line(self) -> list[str]:
        mean, log_sd = self.mean_error, self.log_sd_error
        if not np.isfinite(mean.value + log_sd.value):
            return []
        mean_text = f"{mean.name} is {mean.value:.2f} ± {mean.se:.2f} sd off" if mean.se < KNOWN else "unknown"
        sd_text = f"{log_sd.name} {_too_wide(log_sd)}" if log_sd.se < KNOWN else "unknown"
        which = "of the guide alone, " if self.verdict == "corrected" else ""
        return [f"  {which}worst mean: {mean_text}; worst sd: {sd_text} (limits {MEAN_ERROR:g} sd, 26% and 35%)"]

    def _evidence_lines(self) -> list[str]:
        lines = []
        if np.isfinite(self.told_apart):
            worst = f"; by {self.worst_told_apart.name} alone: {self.worst_told_apart.value:.0%}"
            lines.append(
                f"an ideal judge tells guide from posterior in {self.told_apart:.0%} of draws (50% is perfect)"
                + (worst if self.worst_told_apart.value > 0.5 else "")
            )
        loss, evidence = max(self.log_evidence - self.elbo.value, 0.0), "log evidence unknown"
        if np.isfinite(self.log_evidence):
            evidence = f"log evidence {self.log_evidence:.3f}{self.other_modes.of_all(self.log_evidence)}"
            evidence += f": the guide is {loss:.2f} nats from the posterior (KL)" if np.isfinite(loss) else ""
        lines.append(f"ELBO {self.elbo} nats, {evidence}" + (f"; {self.gap}" if self.gap is not None else ""))
        if len(self.draws):
            far = int(np.sum(~self.draws.own))
            tail = "no tail of large weights" if self.pareto_k == -math.inf else f"Pareto k {self.pareto_k:.2f}"
            worth = f"worth {self.ess * len(self.draws):,.0f}; {tail}"
            lines.append(f"{len(self.draws):,} draws, {far:,} of them beside the guide's own, {worth}")
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        first, *rest = self.lines()
        word = f"verdict: {self.verdict}"
        head = f"<p>{badge(word, COLOURS[self.verdict])}{html.escape(first.removeprefix(word))}</p>"
        return head + spaced(rest) + folded("details", spaced(self.details))


@pytree
class Unjudged:
    """In the place of a report, where there is no distribution to judge.

    Attributes:
      elbo: what was maximised, in nats: of a point the log joint density there.
      seconds: what finding that out took by the clock.
      why: why there is nothing to judge.
      verdict: "unjudged".
      reasons: why not good: none.
      chains: of how many Markov chains there are draws: none.
    """

    elbo: Estimate
    seconds: float = 0.0
    why: str = static(default="")
    verdict: str = static(default="unjudged")
    reasons: tuple[str, ...] = static(default=())
    chains: int = static(default=0)

    @property
    def cut_short(self) -> str:
        """Nothing was: see `Report`."""
        return ""

    @property
    def replaces_guide(self) -> bool:
        """There are no draws."""
        return False

    @property
    def of_guide(self) -> Unjudged:
        """The same."""
        return self

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


AnyReport: TypeAlias = Report | Unjudged


def decided(report: Report, found: Errors, mendable: bool, usual_advice: tuple[str, ...]) -> Report:
    """The card with its verdict: see the head of this file.

    Args:
      report: the numbers.
      found: the errors of all quantities.
      mendable: whether weighing is known to mend what is wrong.
      usual_advice: what to try where it does not.
    """
    off, unknown = error_reasons(found)
    if unknown and weightless(report.draws) and not np.isfinite((found.mean_se, found.log_sd_se)).any():
        unknown = [f"no error could be measured in {report.draws.z.shape[1]:,} dims{report.draws.worth}"]
    missed, fatal = _shape_reasons(report), solver_reasons(report.status, report.other_modes)
    if report.other_modes.held:
        missed.append("there are several modes; the guide holds those that the restarts found, and there may be more")
    reasons = (*fatal, *missed, *off, *unknown)
    if not reasons:
        return dataclasses.replace(report, verdict="good", reasons=(), advice=())
    if mendable and not fatal and not (report.tail.value > HEAVY_TAIL) and not report.draws.without_number:
        return dataclasses.replace(report, verdict="corrected", reasons=reasons, advice=(CORRECTED,))
    verdict = "poor" if fatal or missed or off else "unknown"
    return dataclasses.replace(report, verdict=verdict, reasons=reasons, advice=usual_advice)


def error_reasons(found: Errors, beyond: float = 2.0) -> tuple[list[str], list[str]]:
    """What is off, so many standard errors beyond its limit, and what could not be measured: the worst of each."""
    off, unknown = [], []
    both = (
        ("mean", np.abs(found.mean), found.mean_se, MEAN_ERROR),
        ("sd", np.abs(found.log_sd), found.log_sd_se, LOG_SD_ERROR),
    )
    for what, value, se, limit in both:
        open_ = ~(value + 2 * se <= limit) & ~np.isnan(found.mean)
        wrong = np.flatnonzero(open_ & (value - beyond * se > limit))
        if len(wrong):
            worst = int(wrong[np.argmax((value - 2 * se)[wrong])])
            off.append(f"the {what} of {found.name(worst)} is off by {_amount(found, worst, what)}")
        unsure = np.setdiff1d(np.flatnonzero(open_), wrong)
        if len(unsure):
            worst = int(unsure[np.argmax(np.nan_to_num(value + 2 * se, nan=np.inf)[unsure])])
            by = f"may be too much: {_amount(found, worst, what)}" if se[worst] < KNOWN else "could not be measured"
            unknown.append(f"the error of the {what} of {found.name(worst)} {by}")
    return off, unknown


def _amount(found: Errors, at: int, what: str) -> str:
    """How far a mean or an sd is off, with its standard error."""
    if what == "mean":
        return f"{abs(found.mean[at]):.2f} ± {found.mean_se[at]:.2f} sd"
    return _too_wide(Worst(float(found.log_sd[at]), "", float(found.log_sd_se[at])))


def _too_wide(log_sd: Worst) -> str:
    """By what share of the right sd the guide's is too small or too large."""
    if log_sd.value < -MANY:
        return f"more than {math.expm1(MANY):.0f} times too large"
    off, error = abs(math.expm1(-log_sd.value)), math.exp(-log_sd.value) * log_sd.se
    return f"{off:.0%} ± {error:.0%} too {'small' if log_sd.value > 0 else 'large'}"


def _shape_reasons(report: Report) -> list[str]:
    """What speaks against the guide's shape besides, in words; empty where nothing does."""
    reasons = []
    if report.draws.lost:
        none = "no finite density" if report.draws.without_number else "a density of zero"
        reasons.append(f"{report.draws.lost:.1%} of the guide's draws have {none}")
    if not report.tail_is_met:
        wide = f"the density of {report.tail.name} is {np.exp(report.tail.value):.2f} times as wide as the guide"
        where = "in a tail that draws of the guide do not reach" if report.tail.value > 0 else "out to ten sds"
        reasons.append(f"{wide}, {where}")
    widest = next(iter(report.widened), Worst(1.0, ""))
    if widest.value > CORRELATED:
        what = f"the sd of {widest.name} {widest.value:.1f} times"
        reasons.append(f"correlations that mean field leaves out would widen {what}")
    return reasons


def solver_reasons(status: Status, other_modes: Searched | NotSearched) -> list[str]:
    """What the solver itself has told against its solution, which no weighing can mend."""
    reasons = []
    if status.draw_noise > DRAW_NOISE:
        reasons = [f"another set of fixed draws would move the answer by {status.draw_noise:.2g} sd"]
    if not status.converged and status.reason != "steps":
        reasons.append(f"the fit did not converge: {status.text}")
    return [*reasons, *map(str, other_modes.found)]


def to_decenter(target: Any) -> list[str]:
    """The advice to decenter the hierarchical sites that are centred; none where there are none."""
    centred = {name for name, form in target.parameterisations.items() if form.weight == 1}
    names = [repr(name) for name in target.layout.funnels if name in centred]
    return [f"{DECENTER}{', '.join(names)}): the scale is latent"] if names else []
