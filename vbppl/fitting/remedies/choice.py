"""The last word on a richer solution, and whether a good one is worth bettering: the report's."""

from __future__ import annotations

from vbppl.core.watch import Watch
from vbppl.fitting.prepare import judge_solution
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.solution import Note, Solution
from vbppl.posterior.report import VERDICTS, AnyReport, Report

KEPT = ", kept"
CLEARLY = 0.1  # nats by which a solution is nearer, beyond two standard errors of both bounds


def leaves_room(report: AnyReport, log_sd: float, apart: float = float("inf")) -> bool:
    """Whether the report sees a log sd that is off by more than this, or log weights by more nats `apart`."""
    off, weights = (report.log_sd_error.value, report.log_weight_sd) if isinstance(report, Report) else (0.0, 0.0)
    return abs(off) > log_sd or weights**2 / 2 > apart


def unless_worse(
    problem: Problem, before: Solution, report: AnyReport, after: Solution, tried: Note, watch: Watch
) -> tuple[Solution, AnyReport]:
    """A richer solution and its report, where that is no worse; else what there was, and what was `tried`."""
    after, again = judge_solution(after.noted(tried.topic, f"{tried.text}{KEPT}"), problem.raw_keys[0], watch)
    return better_of(before, report, after, again)


def better_of(before: Solution, report: AnyReport, after: Solution, again: AnyReport) -> tuple[Solution, AnyReport]:
    """The same of two that are judged: the last note of `after` is what was tried."""
    # What is nearer and has to be corrected shows that "good" was luck.
    nearer = again.verdict == "corrected" and again.elbo.least > report.elbo.value + 2 * report.elbo.se + CLEARLY
    no_worse = VERDICTS.index(again.verdict) >= VERDICTS.index(report.verdict)
    if not again.cut_short and (no_worse or nearer):
        return after, again
    topic, text = after.notes[-1]
    before = before.noted(topic, f"{text.removesuffix(KEPT)}, but would be {again.verdict}")
    return before, report.beside(before)
