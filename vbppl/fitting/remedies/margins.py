"""Shaped margins: a Gaussian copula in the place of a Gaussian whose coordinates are skewed."""

from __future__ import annotations

import dataclasses

from vbppl.core.watch import Watch
from vbppl.fitting.plan import Plan
from vbppl.fitting.remedies.choice import unless_worse
from vbppl.guides.gaussian import correlations_of
from vbppl.inference.deterministic.beyond.copula import Margins
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.solution import Note, Solution
from vbppl.posterior.report import AnyReport

PROMISED = 0.03  # nats: of what promised less, nothing gained more


def shape_margins(
    plan: Plan, problem: Problem, before: Solution, report: AnyReport, watch: Watch
) -> tuple[Solution, AnyReport]:
    """Bend the margins of the Gaussian, where two looks promise anything; keep them where new draws see a gain."""
    if correlations_of(before.guide) == "other" or not before.status.converged:
        return before, report
    search = Margins(dataclasses.replace(problem, targets=[before.target]), 0, before)
    after, bent = search.shaped(watch, PROMISED)
    if bent is None or after.status.was_cut_short:
        return search.spent(before), report
    gain = search.gain(bent)
    after, tried = search.spent(after), f"a Gaussian copula with shaped margins gains {gain.in_words}"
    if not gain.is_sure():
        return search.spent(before).noted("margins", f"{tried}, too little to be kept"), report
    return unless_worse(problem, search.spent(before), report, after, Note("margins", tried), watch)
