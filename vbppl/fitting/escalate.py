"""What is tried where the report is poor and the guide was ours to choose.

Other modes that the restarts met come first, since they would be there in any coordinates: they become a mixture. Then
the other coordinates of hierarchical sites. What is no better is not kept; what was tried is said.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from vbppl.core.watch import Watch
from vbppl.fitting.plan import FULL_RANK_DIM, Plan
from vbppl.fitting.prepare import judged
from vbppl.guides.gaussian import FullRank
from vbppl.guides.mixture import Mixture
from vbppl.inference import bound
from vbppl.inference.deterministic import fixed_draws
from vbppl.inference.deterministic.problem import Deterministic, Problem
from vbppl.inference.initialization import InitializationError
from vbppl.inference.solution import Note, Searched, Solution, Status
from vbppl.posterior.report import DECENTER, AnyReport

APART = 1.0  # sds between two modes of a mixture


def escalate(
    plan: Plan, problem: Any, solution: Solution, report: AnyReport, watch: Watch
) -> tuple[Solution, AnyReport]:
    """A better solution with its report, if there is one; else the same."""
    ours = plan.is_automatic and isinstance(plan.settings, Deterministic)
    if not ours or report.verdict not in ("poor", "unknown") or solution.status.was_cut_short or watch.is_over:
        return solution, report
    if _modes(solution) and solution.target.dim <= FULL_RANK_DIM:
        return _mixture(problem, solution, report, watch)
    return _other_coordinates(plan, problem, solution, report, watch)


def _modes(solution: Solution) -> tuple:
    """The other modes that restarts met."""
    return solution.other_modes.found if isinstance(solution.other_modes, Searched) else ()


def _other_coordinates(
    plan: Plan, problem: Problem, before: Solution, report: AnyReport, watch: Watch
) -> tuple[Solution, AnyReport]:
    """Fit in the other coordinates too, if there are any, and keep the higher bound."""
    other = np.any(problem.coordinates != before.target.centred, axis=1)
    if not other.any():
        return before, report
    start = None if problem.start is None else problem.start[other]
    try:
        (after,) = plan.solve(dataclasses.replace(problem, coordinates=problem.coordinates[other], start=start), watch)
    except InitializationError:  # so these coordinates are no choice
        return before.noted("coordinates", "the others were tried: no start has a finite density there"), report
    if after.status.was_cut_short:
        return before, report
    after, again = judged(after, problem.raw_keys[0], watch)
    if again.cut_short:
        return before, report
    # A bound that is not a number is no better.
    pairs = [(before, report), (after, again)]
    kept, left = pairs if report.elbo.value >= again.elbo.value else pairs[::-1]
    words = ["centred" if np.any(solution.target.centred) else "decentred" for solution, _ in (kept, left)]
    text = f"both were fitted to the end: ELBO {kept[1].elbo} {words[0]}, kept; {left[1].elbo} {words[1]}"
    own = tuple(note for note in kept[0].notes if note.topic != "coordinates")
    notes = (Note("coordinates", text), *own)
    return dataclasses.replace(kept[0], notes=notes), kept[1].without(DECENTER)


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
