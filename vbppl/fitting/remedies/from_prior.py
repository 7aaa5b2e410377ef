"""Starts from the prior: where the starts disagreed, or nothing converged, it may lie where no box reaches."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np

from vbppl.core.watch import Watch
from vbppl.fitting.plan import Plan
from vbppl.fitting.prepare import from_prior, judge_solution, prepare
from vbppl.fitting.remedies.costs import together
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.deterministic.relabelling import in_one_order
from vbppl.inference.initialization import LOWER, InitializationError
from vbppl.inference.solution import Searched, Solution, searched_both
from vbppl.posterior.report import AnyReport
from vbppl.target.batched import BLOCK, evaluate

DISAGREE = 1.0  # nats between the bounds that starts led to


def begin_at_prior(
    plan: Plan, problem: Problem, before: Solution, report: AnyReport, watch: Watch
) -> tuple[Solution, AnyReport]:
    """Begin once more where a draw of the prior climbs to, if that is far higher than where the fit is."""
    searched = before.other_modes
    agreed = before.status.converged and isinstance(searched, Searched) and searched.spread < DISAGREE
    if agreed or plan.start is not None or (found := from_prior(before.target, problem.raw_keys[0])) is None:
        return before, report
    values, height = found
    loc = _frame(before)[0]
    here, said = float(evaluate(before.target, loc[None])[0][0]), f"{BLOCK} draws of the prior were starts too"
    if not height > np.nan_to_num(here, nan=-np.inf) + LOWER + before.target.dim:
        return before.noted("starts", f"{said}, and led nowhere higher"), report
    again = prepare(dataclasses.replace(plan, start=values), problem.targets, problem.raw_keys)
    try:
        (after,) = plan.solve(dataclasses.replace(again, precision=problem.precision), watch)
    except InitializationError as error:
        return before.noted("starts", f"{said}, and could not be climbed from: {error.what}"), report
    after, new_report = judge_solution(after, problem.raw_keys[0], watch)
    if after.status.was_cut_short or not new_report.elbo.value > np.nan_to_num(report.elbo.value, nan=-np.inf):
        return before.noted("starts", f"{said}, and led to no higher bound"), report
    text = f"{said}; one of them led to a bound {new_report.elbo.value - report.elbo.value:.3g} nats higher"
    if isinstance(searched, Searched):
        orders, sites = _orders(after, problem, searched)
        modes = dataclasses.replace(
            searched, found=(), starts=searched.starts + BLOCK, orders=orders, exchangeable=sites
        )
        modes = searched_both(modes, after.other_modes)
        after = dataclasses.replace(after, other_modes=modes, status=together(after, [before]))
    return after.noted("starts", text), new_report.beside(after)


def _frame(solution: Solution) -> tuple[np.ndarray, np.ndarray]:
    """Where its guide lies, and its sds, `(dim,)` each."""
    phi = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), solution.phi)
    loc, scale = solution.guide.frame(phi, solution.target)
    return np.asarray(loc), np.asarray(scale)


def _orders(after: Solution, problem: Problem, searched: Searched) -> tuple[int, tuple[str, ...]]:
    """In how many orders of parts the density is the same there: not in as many, or of the same sites, as before."""
    if searched.orders == 1 and not after.target.layout.summed:
        return 1, ()
    loc, scale = _frame(after)
    place = np.stack([loc, np.log(np.maximum(scale, 1e-300))])[None]
    density = functools.partial(evaluate, after.target)
    return in_one_order(after.target, density, problem.raw_keys[0], place, 0, ())[1:]
