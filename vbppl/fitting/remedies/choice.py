"""The last word on a richer solution, and whether a good one is worth bettering: the report's."""

from __future__ import annotations

from vbppl.core.watch import Watch
from vbppl.fitting.prepare import judge_solution
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.solution import Note, Solution
from vbppl.posterior.report import VERDICTS, AnyReport, Report


def leaves_room(report: AnyReport, log_sd: float) -> bool:
    """Whether the report sees a standard deviation that is off by more than this, in its log."""
    return isinstance(report, Report) and abs(report.log_sd_error.value) > log_sd


def unless_worse(
    problem: Problem, before: Solution, report: AnyReport, after: Solution, tried: Note, watch: Watch
) -> tuple[Solution, AnyReport]:
    """A richer solution and its report, where that is no worse; else what there was, and what was `tried`."""
    topic, text = tried
    after, new_report = judge_solution(after.noted(topic, f"{text}, kept"), problem.raw_keys[0], watch)
    if new_report.cut_short or VERDICTS.index(new_report.verdict) < VERDICTS.index(report.verdict):
        before = before.noted(topic, f"{text}, but would be {new_report.verdict}")
        return before, report.beside(before)
    return after, new_report
