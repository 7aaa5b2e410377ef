"""A mixture of the modes that restarts met: they would be there in any coordinates."""

from __future__ import annotations

import dataclasses

import numpy as np

from vbppl.core.watch import Watch
from vbppl.fitting.plan import FULL_RANK_DIM, Plan
from vbppl.fitting.prepare import judged
from vbppl.fitting.rungs.costs import together
from vbppl.guides.gaussian import FullRank
from vbppl.guides.mixture import Mixture
from vbppl.inference import bound
from vbppl.inference.deterministic import fixed_draws
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.solution import Solution
from vbppl.posterior.report import AnyReport
from vbppl.target.target import coordinates_of

APART = 1.0  # sds between two modes of a mixture


def mix_modes(
    plan: Plan, problem: Problem, before: Solution, report: AnyReport, watch: Watch
) -> tuple[Solution, AnyReport]:
    """A full-rank Gaussian for each mode that the restarts found, weighed by the evidence it accounts for."""
    if not before.other_modes.found or before.target.dim > FULL_RANK_DIM:
        return before, report
    loc, scale = before.guide.frame(np.asarray(before.phi, np.float64), before.target)
    here = np.stack([loc, np.log(scale)])
    fits: list[Solution] = []
    for place in (here, *(mode.place for mode in before.other_modes.found)):
        settings = dataclasses.replace(problem.settings, kind="auto", draws=None)
        one = dataclasses.replace(
            problem,
            targets=[before.target],
            settings=settings,
            coordinates=coordinates_of(before.target)[None],
            start=place[None],
            pseudo_data=False,
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
        status=together(before, fits),
        other_modes=dataclasses.replace(before.other_modes, found=(), held=before.other_modes.found),
    ).noted("guide", f"a mixture of {len(components)} modes, weights {weights}")
    mixed, again = judged(mixed, raw, watch)
    return (mixed, again) if again.elbo.value > report.elbo.value else (before, report)


def _away(phi: np.ndarray, other: np.ndarray) -> float:
    """How far apart two full-rank Gaussians lie, in sds of the wider one."""
    guide = FullRank()
    sd = np.maximum(guide.sd(phi), guide.sd(other))
    return float(np.abs((guide.loc(phi) - guide.loc(other)) / sd).max())
