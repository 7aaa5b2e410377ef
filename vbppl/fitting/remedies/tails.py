"""Sites whose priors have no variance, seen by the quantiles of these: no normal reaches into a Cauchy's tails."""

from __future__ import annotations

import dataclasses

import numpy as np

from vbppl.core.watch import Watch
from vbppl.fitting.plan import Plan, parameterisations_to_choose
from vbppl.fitting.prepare import judge_solution, prepare
from vbppl.fitting.remedies.costs import together
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.initialization import InitializationError
from vbppl.inference.solution import Solution
from vbppl.posterior.report import VERDICTS, AnyReport
from vbppl.target.drivers import heavy_tailed
from vbppl.target.target import seen_by_quantiles


def see_by_quantiles(
    plan: Plan, problem: Problem, before: Solution, report: AnyReport, watch: Watch
) -> tuple[Solution, AnyReport]:
    """Fit with heavy-tailed sites seen by their quantiles; keep that where the verdict, else the bound, is better.

    A change of coordinates, so both are bounds on the same evidence. Later remedies go on in those that were kept.
    """
    if not (names := heavy_tailed(before.target)) or not plan.tries_pseudo_data:
        return before, report
    _, again = _replanned(plan, problem, names)
    said = f"{', '.join(names)} by quantiles, as the prior has no variance"
    try:
        (after,) = plan.solve(again, watch)
    except InitializationError:
        return before.noted("tails", f"{said}: no start has a finite density there"), report
    after, new_report = judge_solution(after, problem.raw_keys[0], watch)
    if after.status.was_cut_short or new_report.cut_short:
        return before, report
    gain = float(np.nan_to_num(new_report.elbo.value, nan=-np.inf) - np.nan_to_num(report.elbo.value, nan=-np.inf))
    worse, better = VERDICTS.index(report.verdict), VERDICTS.index(new_report.verdict)
    kept = better > worse or (better == worse and gain > 0)
    first, second = (after, before) if kept else (before, after)
    first = dataclasses.replace(first, status=together(first, [second]))
    first = first.noted("tails", f"{said}: the bound gains {gain:.2f} nats, {'kept' if kept else 'left out'}")
    return first, (new_report if kept else report).beside(first)


def in_its_parameterisation(plan: Plan, problem: Problem, solution: Solution) -> tuple[Plan, Problem]:
    """Plan and problem with sites seen by quantiles, where those of the solution are."""
    names = solution.target.layout.by_quantiles
    return (plan, problem) if names == problem.targets[0].layout.by_quantiles else _replanned(plan, problem, names)


def _replanned(plan: Plan, problem: Problem, names: tuple[str, ...]) -> tuple[Plan, Problem]:
    target = seen_by_quantiles(problem.targets[0], names)
    plan = dataclasses.replace(
        plan, parameterisations=parameterisations_to_choose(target, plan.tries_pseudo_data, None)
    )
    return plan, dataclasses.replace(prepare(plan, [target], problem.raw_keys), precision=problem.precision)
