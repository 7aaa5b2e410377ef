"""Other coordinates of hierarchical sites, pseudo-data and halfway ones first: all are bounds on the same evidence.

A fit in these costs many times what hyperparameters given a structure do, so that where such are an answer it is not
begun, and where it stays clearly below the bound that stands it is not brought to its end.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from vbppl.core.watch import Watch
from vbppl.fitting.plan import Plan
from vbppl.fitting.prepare import judge_solution, prepare
from vbppl.fitting.remedies.costs import costing, together
from vbppl.fitting.remedies.hypers import structure_hypers
from vbppl.guides.gaussian import is_normal
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.deterministic.pseudo_data import by_rule, in_words
from vbppl.inference.initialization import ONE_START_DIM, InitializationError
from vbppl.inference.solution import Note, Solution, searched_both
from vbppl.posterior.report import DECENTER, AnyReport, Report
from vbppl.target.batched import Batch
from vbppl.target.target import parameterisations_of

HALFWAY = 0.5  # between centred and not: where data and prior say equally much
ANSWERS = ("good", "corrected")


def reparameterise(
    plan: Plan, problem: Problem, before: Solution, report: AnyReport, watch: Watch
) -> tuple[Solution, AnyReport]:
    """Fit in other coordinates too, until an answer is right; keep it, else the highest bound."""
    # Other modes would be there in any coordinates, and what is no Gaussian already has to stay what it is.
    stays = before.other_modes.found or before.other_modes.held or not is_normal(before.guide)
    phi, _, structured = plan.structured or (None, None, report)
    if stays or not before.target.layout.movable:
        return before, report
    if before.phi is phi and structured.verdict in ANSWERS:  # for a fraction of what a fit anew would take
        return structure_hypers(plan, problem, before, report, watch)
    if before.target.dim > ONE_START_DIM:  # a fit to the end in each is dear, and no weights tell the answer among them
        said = f"more than {ONE_START_DIM:,} dims are fitted to the end only where the starts' bound was highest"
        return (before.noted("parameterisation", said) if _may_move(plan) else before), report
    now, layout = parameterisations_of(before.target), before.target.layout
    tried, left, costs = [(before, report)], list[str](), list[Solution]()
    for row, begun in _others(plan, before):
        if np.all(row == now) or watch.is_over:
            continue
        only = dataclasses.replace(plan, parameterisations=row[None], tries_pseudo_data=False)
        one = prepare(only, problem.targets, problem.raw_keys)
        standing = float(np.nan_to_num([each.elbo.least for _, each in tried], nan=-np.inf).max())
        start = one.start if begun is None else begun
        one = dataclasses.replace(one, start=start, precision=problem.precision, standing=standing)
        try:
            (after,) = plan.solve(one, watch)
        except InitializationError:  # so these coordinates are no choice
            left.append(f"{_in_words(layout, row)}: no start has a finite density there")
            continue
        costs.append(after)
        if after.status.reason == "behind":
            left.append(f"{_in_words(layout, row)} left at {after.bounds[-1]:.2f} on few draws")
            continue
        if begun is not None:  # it began where the first had ended, so it has the modes that this one has met
            after = dataclasses.replace(after, other_modes=searched_both(before.other_modes, after.other_modes))
        after, again = judge_solution(after, problem.raw_keys[0], watch)
        if after.status.was_cut_short or again.cut_short:
            break
        tried.append((after, again))
        if _is_answer(again, tried):
            break
    paid = dataclasses.replace(before, status=together(before, costs))
    return _kept(paid, tried, left) if len(tried) > 1 or left else (before, report)


def _kept(paid: Solution, tried: list[tuple[Solution, AnyReport]], left: list[str]) -> tuple[Solution, AnyReport]:
    """The one to keep of those that were fitted to their ends, at the price `paid`, with a note of what was tried."""
    # A bound that is not a number is no better.
    every = sorted(tried, key=lambda pair: (not _is_answer(pair[1], tried), -_height(pair[1])))
    kept, report = every[0]
    bounds = [
        f"{report.elbo} {_in_words(each.target.layout, parameterisations_of(each.target))}" for each, report in every
    ]
    text = f"fitted to the end in {len(tried)}: ELBO {bounds[0]}, kept; {'; '.join([*bounds[1:], *left])}"
    notes = (Note("parameterisation", text), *(note for note in kept.notes if note.topic != "parameterisation"))
    return dataclasses.replace(costing(kept, paid), notes=notes), report.without(DECENTER)


def _may_move(plan: Plan) -> bool:
    return plan.tries_pseudo_data or len(plan.parameterisations) > 1


def _others(plan: Plan, before: Solution) -> list[tuple[Any, Any]]:
    """The coordinates to try, as rows of numbers, with the place to begin where that is known."""
    layout = before.target.layout
    among = [(row, None) for row in plan.parameterisations if len(plan.parameterisations) > 1]
    # Halfway is to first order what pseudo-data are.
    if not plan.tries_pseudo_data or any(np.any(each.d) for each in before.target.parameterisations.values()):
        return among
    halfway = layout.packed(layout.centred_by(dict.fromkeys(layout.movable, HALFWAY), float))
    loc, scale = before.guide.frame(np.asarray(before.phi, np.float64), before.target)
    rows, x = by_rule(Batch.of(before.target), [before.target], np.concatenate([loc, np.log(scale)])[None])
    first = [(rows[0], x.reshape(1, 2, -1))] if layout.movable and np.isfinite(x).all() else []
    return [*first, *([(halfway, None)] if among else []), *among]


def _is_answer(report: AnyReport, tried: list[tuple[Solution, AnyReport]]) -> bool:
    """Is it right, and does no other bound say that it has missed some of the evidence?"""
    # The evidence by its weighted draws is no less than any bound, unless these miss some of it.
    evidence = np.nan_to_num(report.log_evidence, nan=-np.inf) if isinstance(report, Report) else -np.inf
    return report.verdict in ANSWERS and max(evidence, _height(report)) >= max(_height(other) for _, other in tried)


def _height(report: AnyReport) -> float:
    return float(np.nan_to_num(report.elbo.value, nan=-np.inf))


def _in_words(layout: Any, row: np.ndarray) -> str:
    """Coordinates in a word."""
    each = in_words(layout.unpacked(row))
    words = set(each.values())
    return words.pop() if len(words) == 1 else ", ".join(f"{name} {word}" for name, word in each.items())
