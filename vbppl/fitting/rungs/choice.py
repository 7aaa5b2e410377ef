"""The last word on a richer solution: its report."""

from __future__ import annotations

from vbppl.core.watch import Watch
from vbppl.fitting.prepare import judged
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.solution import Note, Solution
from vbppl.posterior.report import VERDICTS, AnyReport


def unless_worse(
    problem: Problem, before: Solution, report: AnyReport, after: Solution, tried: Note, watch: Watch
) -> tuple[Solution, AnyReport]:
    """A richer solution and its report, where that is no worse; else what there was, and what was `tried`."""
    topic, text = tried
    after, card = judged(after.noted(topic, f"{text}, kept"), problem.raw_keys[0], watch)
    if card.cut_short or VERDICTS.index(card.verdict) < VERDICTS.index(report.verdict):
        before = before.noted(topic, f"{text}, but would be {card.verdict}")
        return before, report.beside(before)
    return after, card
