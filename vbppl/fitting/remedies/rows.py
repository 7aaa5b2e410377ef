"""Rows that no coordinates can move: a conditional Laplace guide in a normal's place."""

from __future__ import annotations

import dataclasses

from vbppl.core.watch import Watch
from vbppl.fitting.plan import Plan
from vbppl.fitting.remedies.choice import unless_worse
from vbppl.guides.gaussian import normal_of
from vbppl.guides.layers.conditionally_structured import hyperparameters_of
from vbppl.inference.deterministic.beyond.conditional_laplace import NestedSearch
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.solution import Note, Solution
from vbppl.posterior.report import AnyReport
from vbppl.target.drivers import drivers_of

DIM = 256  # dims up to which the blocks cost less than the fit before them
PROMISED = 0.1  # nats: compiling costs seconds
WORTHWHILE = 0.02  # nats


def condition_rows(
    plan: Plan, problem: Problem, before: Solution, report: AnyReport, watch: Watch
) -> tuple[Solution, AnyReport]:
    """A Newton step to each row given the hyperparameters, where these drive what is non-centred by hand, or no normal.

    Where a site is movable, other coordinates do as much for less, and where nothing is a row, bent hyperparameters.
    """
    moves = before.target.layout.movable and (plan.tries_pseudo_data or len(plan.parameterisations) > 1)
    return (before, report) if moves else _conditioned(problem, before, report, watch)


def condition_other_rows(
    plan: Plan, problem: Problem, before: Solution, report: AnyReport, watch: Watch
) -> tuple[Solution, AnyReport]:
    """The same in the coordinates of movable sites that were kept, where there are rows beside these."""
    layout = before.target.layout
    is_beside = layout.movable and any(slot.plates and slot.name not in layout.movable for slot in layout.slots)
    return _conditioned(problem, before, report, watch) if is_beside else (before, report)


def _conditioned(problem: Problem, before: Solution, report: AnyReport, watch: Watch) -> tuple[Solution, AnyReport]:
    target = before.target
    is_normal = target.dim <= DIM and normal_of(before.guide, before.phi) is not None
    if not (is_normal and before.status.converged) or not drivers_of(target):
        return before, report
    if not hyperparameters_of(target)[2]:  # nothing is a row
        return before, report
    search = NestedSearch(dataclasses.replace(problem, targets=[target]), 0, before)
    if not search.promised >= PROMISED:  # or there are no blocks
        before = search.spent(before)
        return before, report.beside(before)
    after, x = search.climbed(watch)
    if after.status.was_cut_short:
        return before, report

    gained = search.compared(x)
    tried = Note("rows", f"a Laplace approximation given the hyperparameters gains {gained}")
    before, left = search.spent(before), "left out"
    if after.other_modes.found:
        left = "but leaves out a mode"
    elif gained.is_sure(WORTHWHILE):
        return unless_worse(problem, before, report, search.spent(after), tried, watch)
    before = before.noted(tried.topic, f"{tried.text}, {left}")
    return before, report.beside(before)
