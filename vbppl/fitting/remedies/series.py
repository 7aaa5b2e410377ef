"""A series whose hyperparameters are latent: a conditional Laplace guide in a normal's place."""

from __future__ import annotations

import dataclasses

import numpy as np

from vbppl.core.watch import Watch
from vbppl.fitting.plan import Plan
from vbppl.fitting.remedies.choice import unless_worse
from vbppl.fitting.remedies.costs import costing, together
from vbppl.guides.gaussian import is_normal
from vbppl.inference.bound import elbo
from vbppl.inference.deterministic.beyond.series import begun, is_series, series_of
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.initialization import InitializationError
from vbppl.inference.solution import Note, Solution
from vbppl.posterior.report import AnyReport
from vbppl.target.target import parameterisations_of

WORTHWHILE = 0.02  # nats


def condition_series(
    plan: Plan, problem: Problem, before: Solution, report: AnyReport, watch: Watch
) -> tuple[Solution, AnyReport]:
    """A Newton step to a whole series given its hyperparameters, where it is one in the coordinates of the model."""
    target = problem.targets[0]
    is_moved = not np.array_equal(parameterisations_of(before.target), plan.parameterisations[0])
    # What was met in other coordinates lies elsewhere in these.
    if not is_normal(before.guide) or (is_moved and before.other_modes.found) or not is_series(target):
        return before, report
    try:
        first = dataclasses.replace(begun(problem), other_modes=before.other_modes)
    except InitializationError:  # in these coordinates; others had a start
        return before, report
    search = series_of(problem, 0, first)
    if isinstance(search, str):
        return before, report
    begins_well, cut = search.begin(watch)
    if not begins_well:
        before = dataclasses.replace(before, status=together(before, [search.spent(first)]))
        if not cut:
            before = before.noted("series", "its hyperparameters given, it has no mode to begin from, left out")
        return before, report.beside(before)
    after, _ = search.climbed(watch)
    if after.status.was_cut_short:
        return before, report
    gain = elbo(after.guide, after.phi, after.target, problem.raw_keys[0]).value - report.elbo.value
    tried = Note("series", f"a Laplace approximation of the series given its hyperparameters gains {gain:.2f} nats")
    before = dataclasses.replace(before, status=together(before, [after]))
    after = costing(after, before)
    if after.other_modes.found or not (after.status.converged and gain > WORTHWHILE):
        left = "but leaves out a mode" if after.other_modes.found else "left out"
        before = before.noted(tried.topic, f"{tried.text}, {left}")
        return before, report.beside(before)
    return unless_worse(problem, before, report, after, tried, watch)
