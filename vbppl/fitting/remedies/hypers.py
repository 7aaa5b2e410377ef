"""Hyperparameters that depend on the scales among them: a conditionally structured Gaussian in a normal's place."""

from __future__ import annotations

import dataclasses

from vbppl.core.watch import Watch
from vbppl.fitting.plan import Plan
from vbppl.fitting.remedies.choice import better_of, leaves_room, unless_worse
from vbppl.fitting.remedies.costs import costing
from vbppl.guides.gaussian import normal_of
from vbppl.guides.layers.conditionally_structured import hyperparameters_of
from vbppl.inference.deterministic.beyond.conditionally_structured import Search
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.solution import Note, Solution
from vbppl.posterior.report import AnyReport

DIM = 256  # dims up to which the search costs less than the fit before it
# Nats, and where what there is is good: a plain Gaussian is the simpler answer. One skewed scale by itself lacks .028
# (a gamma of shape three, in logs); of .05 left out beside a good eight schools, tau was .26 log sd too narrow.
WORTHWHILE, BESIDE_GOOD = 0.02, 0.04
# Of the worst log sd, by the report, from where on a good guide is bettered: on real posteriors what is a normal has
# .01 to .05, and above .06 noises of regressions and scales of few groups were off by up to .26.
ROOM = 0.06
# Nats to the posterior, as the log weights' spread has them, from where on it is too: fewer draws than tell of a scale.
APART = 0.1
TOPIC = "hyperparameters"


def can_structure(before: Solution) -> bool:
    """Whether it is a normal at its optimum in which something drives something, and no other mode was met."""
    is_normal = before.target.dim <= DIM and normal_of(before.guide, before.phi) is not None
    alone = is_normal and before.status.converged and not before.other_modes.found
    return alone and bool(hyperparameters_of(before.target)[0])


def structure_hypers(
    plan: Plan, problem: Problem, before: Solution, report: AnyReport, watch: Watch
) -> tuple[Solution, AnyReport]:
    """Bend what drives scales, and let what is beside it depend on it; keep that where new draws see a gain."""
    if not can_structure(before) or any(note.topic == TOPIC for note in before.notes):  # it was left out
        return before, report
    if plan.structured is not None and before.phi is plan.structured[0]:
        after = costing(plan.structured[1], before)
        return better_of(before, report, after, plan.structured[2].beside(after))
    if report.verdict == "good" and not leaves_room(report, ROOM, APART):
        return before, report
    search = Search(dataclasses.replace(problem, targets=[before.target]), 0, before)
    after, x = search.climbed(watch)
    if after.status.was_cut_short:
        return before, report
    gained = search.compared(x)
    tried = Note(TOPIC, f"a conditionally structured Gaussian gains {gained}")
    before, after = search.spent(before), search.spent(after)
    if gained.is_sure(BESIDE_GOOD if report.verdict == "good" else WORTHWHILE):
        return unless_worse(problem, before, report, after, tried, watch)
    before = before.noted(tried.topic, f"{tried.text}, left out")
    return before, report.beside(before)
