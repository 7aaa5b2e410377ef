"""What is tried where the report is poor and the guide was ours to choose.

Where the starts disagreed, or nothing converged, draws of the prior are starts too: it may lie where no box reaches.
Other modes that the restarts met come next, since they would be there in any coordinates: they become a mixture. Then
the other coordinates of hierarchical sites. What is no better is not kept; what was tried is said.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from vbppl.core.watch import Watch
from vbppl.fitting.plan import FULL_RANK_DIM, Plan
from vbppl.fitting.prepare import from_prior, judged, prepare
from vbppl.guides.gaussian import FullRank
from vbppl.guides.mixture import Mixture
from vbppl.inference import bound
from vbppl.inference.deterministic import fixed_draws
from vbppl.inference.deterministic.problem import Deterministic, Problem
from vbppl.inference.initialization import LOWER, InitializationError
from vbppl.inference.solution import Note, Searched, Solution, Status
from vbppl.posterior.report import DECENTER, AnyReport
from vbppl.target.batched import BLOCK, evaluate

HALFWAY = 0.5  # between centred and not: where data and prior say equally much
DISAGREE = 1.0  # nats between the bounds that starts led to
APART = 1.0  # sds between two modes of a mixture


def escalate(
    plan: Plan, problem: Any, solution: Solution, report: AnyReport, watch: Watch
) -> tuple[Solution, AnyReport]:
    """A better solution with its report, if there is one; else the same."""
    better, report = _escalated(plan, problem, solution, report, watch)
    lost = [note for note in solution.notes if note.topic == "precision" and note not in better.notes]
    return (better.noted(*lost[0]) if lost else better), report


def _escalated(
    plan: Plan, problem: Any, solution: Solution, report: AnyReport, watch: Watch
) -> tuple[Solution, AnyReport]:
    ours = plan.is_automatic and isinstance(plan.settings, Deterministic)
    if not ours or report.verdict not in ("poor", "unknown") or solution.status.was_cut_short or watch.is_over:
        return solution, report
    solution, report = _from_prior(plan, problem, solution, report, watch)
    if report.verdict not in ("poor", "unknown") or watch.is_over:
        return solution, report
    if _modes(solution) and solution.target.dim <= FULL_RANK_DIM:
        return _mixture(problem, solution, report, watch)
    return _other_coordinates(plan, problem, solution, report, watch)


def _modes(solution: Solution) -> tuple:
    """The other modes that restarts met."""
    return solution.other_modes.found if isinstance(solution.other_modes, Searched) else ()


def _from_prior(
    plan: Plan, problem: Problem, before: Solution, report: AnyReport, watch: Watch
) -> tuple[Solution, AnyReport]:
    """Begin once more where a draw of the prior climbs to, if that is far higher than where the fit is."""
    searched = before.other_modes
    agreed = before.status.converged and isinstance(searched, Searched) and searched.spread < DISAGREE
    if agreed or plan.start is not None or (found := from_prior(before.target, problem.raw_keys[0])) is None:
        return before, report
    values, height = found
    loc = np.asarray(before.guide.frame(np.asarray(before.phi, np.float64), before.target)[0])
    here, said = float(evaluate(before.target, loc[None])[0][0]), f"{BLOCK} draws of the prior were starts too"
    if not height > np.nan_to_num(here, nan=-np.inf) + LOWER + before.target.dim:
        return before.noted("starts", f"{said}, and led nowhere higher"), report
    again = prepare(dataclasses.replace(plan, start=values), problem.targets, problem.raw_keys)
    try:
        (after,) = plan.solve(dataclasses.replace(again, precision=problem.precision), watch)
    except InitializationError as error:
        return before.noted("starts", f"{said}, and could not be climbed from: {error.what}"), report
    after, card = judged(after, problem.raw_keys[0], watch)
    if after.status.was_cut_short or not card.elbo.value > np.nan_to_num(report.elbo.value, nan=-np.inf):
        return before.noted("starts", f"{said}, and led to no higher bound"), report
    text = f"{said}; one of them led to a bound {card.elbo.value - report.elbo.value:.3g} nats higher"
    if isinstance(searched, Searched):
        modes = Searched((), searched.starts + BLOCK, searched.spread)
        after = dataclasses.replace(after, other_modes=modes, status=_sum(after, [before]))
    return after.noted("starts", text), card.beside(after)


def _other_coordinates(
    plan: Plan, problem: Problem, before: Solution, report: AnyReport, watch: Watch
) -> tuple[Solution, AnyReport]:
    """Fit in other coordinates too, halfway ones first, until an answer is right; keep the highest bound."""
    now, tried = np.asarray(before.target.centred), [(before, report)]
    others = [np.full_like(now, HALFWAY), *plan.coordinates] if len(plan.coordinates) > 1 else []
    for row in others:
        if np.all(row == now) or watch.is_over:
            continue
        one = prepare(dataclasses.replace(plan, coordinates=row[None]), problem.targets, problem.raw_keys)
        try:
            (after,) = plan.solve(dataclasses.replace(one, precision=problem.precision), watch)
        except InitializationError:  # so these coordinates are no choice
            text = f"{_seen(row)} ones were tried: no start has a finite density there"
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
    bounds = [f"{card.elbo} {_seen(solution.target.centred)}" for solution, card in (kept, *left)]
    text = f"fitted to the end in {len(tried)}: ELBO {bounds[0]}, kept; {'; '.join(bounds[1:])}"
    own = tuple(note for note in kept[0].notes if note.topic != "coordinates")
    return dataclasses.replace(kept[0], notes=(Note("coordinates", text), *own)), kept[1].without(DECENTER)


def _seen(centred: Any) -> str:
    """Coordinates in a word."""
    low, high = np.min(centred), np.max(centred)
    return "halfway" if low != high or 0 < low < 1 else ("decentred", "centred")[int(low)]


def _mixture(problem: Problem, before: Solution, report: AnyReport, watch: Watch) -> tuple[Solution, AnyReport]:
    """A full-rank Gaussian for each mode that the restarts found, weighed by the evidence it accounts for."""
    loc, scale = before.guide.frame(np.asarray(before.phi, np.float64), before.target)
    here = np.stack([loc, np.log(scale)])
    fits: list[Solution] = []
    for place in (here, *(mode.place for mode in _modes(before))):
        settings = dataclasses.replace(problem.settings, kind="auto", draws=None)
        one = dataclasses.replace(
            problem,
            targets=[before.target],
            settings=settings,
            coordinates=np.asarray(before.target.centred)[None],
            start=place[None],
        )
        fits += fixed_draws.solve_full_rank(one, watch)
    if any(fit.status.was_cut_short for fit in fits):
        return before, report
    raw, target, components, elbos = problem.raw_keys[0], before.target, list[np.ndarray](), list[float]()
    for fit in fits:
        # Two restarts may have met the same mode.
        if fit.status.converged and all(_away(fit.phi, other) > APART for other in components):
            elbo = bound.elbo(fit.guide, fit.phi, target, raw).value
            if np.isfinite(elbo):
                components, elbos = [*components, fit.phi], [*elbos, elbo]
    if len(components) < 2:
        return before, report
    phi = Mixture.of(components, elbos)
    weights = ", ".join(f"{weight:.2f}" for weight in np.exp(phi["log_weights"]))
    mixed = dataclasses.replace(
        before,
        guide=Mixture(),
        phi=phi,
        status=_sum(before, fits),
        other_modes=dataclasses.replace(before.other_modes, found=(), held=_modes(before)),
    ).noted("guide", f"a mixture of {len(components)} modes, weights {weights}")
    mixed, again = judged(mixed, raw, watch)
    return (mixed, again) if again.elbo.value > report.elbo.value else (before, report)


def _sum(before: Solution, fits: list[Solution]) -> Status:
    """The status of the first fit with what all of them cost."""
    every = [before.status, *(fit.status for fit in fits)]
    costs = {name: sum(getattr(status, name) for status in every) for name in ("gradients", "seconds", "compiling")}
    return dataclasses.replace(before.status, **costs)


def _away(phi: np.ndarray, other: np.ndarray) -> float:
    """How far apart two full-rank Gaussians lie, in sds of the wider one."""
    guide = FullRank()
    sd = np.maximum(guide.sd(phi), guide.sd(other))
    return float(np.abs((guide.loc(phi) - guide.loc(other)) / sd).max())
