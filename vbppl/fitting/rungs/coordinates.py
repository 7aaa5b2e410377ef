"""Other coordinates of hierarchical sites, halfway ones first: all are bounds on the same evidence."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from vbppl.core.watch import Watch
from vbppl.fitting.plan import Plan
from vbppl.fitting.prepare import judged, prepare
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.deterministic.pseudo_data import in_words
from vbppl.inference.initialization import InitializationError
from vbppl.inference.solution import Note, Solution
from vbppl.posterior.report import DECENTER, AnyReport
from vbppl.target.target import coordinates_of

HALFWAY = 0.5  # between centred and not: where data and prior say equally much


def move_coordinates(
    plan: Plan, problem: Problem, before: Solution, report: AnyReport, watch: Watch
) -> tuple[Solution, AnyReport]:
    """Fit in other coordinates too, halfway ones first, until an answer is right; keep the highest bound."""
    if before.other_modes.found:  # they would be there in any coordinates
        return before, report
    now, tried, layout = coordinates_of(before.target), [(before, report)], before.target.layout
    halfway = layout.packed(layout.in_coordinates(dict.fromkeys(layout.movable, HALFWAY), float))
    others = [halfway, *plan.coordinates] if len(plan.coordinates) > 1 else []
    for row in others:
        if np.all(row == now) or watch.is_over:
            continue
        only = dataclasses.replace(plan, coordinates=row[None], pseudo_data=False)
        one = prepare(only, problem.targets, problem.raw_keys)
        try:
            (after,) = plan.solve(dataclasses.replace(one, precision=problem.precision), watch)
        except InitializationError:  # so these coordinates are no choice
            text = f"{_seen(layout, row)} ones were tried: no start has a finite density there"
            tried = [(tried[0][0].noted("coordinates", text), report), *tried[1:]]
            continue
        after, again = judged(after, problem.raw_keys[0], watch)
        if after.status.was_cut_short or again.cut_short:
            break
        tried.append((after, again))
        if again.verdict in ("good", "corrected") and again.elbo.value > report.elbo.value:
            break
    if len(tried) == 1:
        return tried[0]
    # A bound that is not a number is no better.
    kept, *left = sorted(tried, key=lambda pair: -np.nan_to_num(pair[1].elbo.value, nan=-np.inf))
    bounds = [f"{card.elbo} {_seen(layout, coordinates_of(solution.target))}" for solution, card in (kept, *left)]
    text = f"fitted to the end in {len(tried)}: ELBO {bounds[0]}, kept; {'; '.join(bounds[1:])}"
    own = tuple(note for note in kept[0].notes if note.topic != "coordinates")
    return dataclasses.replace(kept[0], notes=(Note("coordinates", text), *own)), kept[1].without(DECENTER)


def _seen(layout: Any, row: np.ndarray) -> str:
    """Coordinates in a word."""
    each = in_words(layout.unpacked(row))
    words = set(each.values())
    return words.pop() if len(words) == 1 else ", ".join(f"{name} {word}" for name, word in each.items())
