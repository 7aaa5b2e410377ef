"""Judging a solution against its density: the report.

Draws from the guide are weighed by `w = p / q`, and three questions are asked of them, because none
alone is enough. How much do the `log w` vary? (At the exact posterior not at all.) Does weighing
move a mean or a standard deviation? And can the weights themselves be trusted (effective sample
size, Pareto k)? Pareto k alone gives false alarms exactly where a fit is nearly perfect and the
weights almost constant. What the draws cannot see is looked for elsewhere: another mode by the
restarts of the solver, a heavy tail along the ridges of the density.

What the solver tells against its solution (not converged, other modes) makes it poor whatever the draws say: they come
from the guide, and cannot know.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from vbppl.core.keys import host_generator
from vbppl.core.numerics import psis
from vbppl.core.types import PyTree
from vbppl.core.watch import Watch
from vbppl.guides.base import Guide
from vbppl.guides.gaussian import FullRank, MeanField, normal_of
from vbppl.guides.noise import Nothing
from vbppl.inference import bound
from vbppl.inference.bound import WORK, Estimate, work
from vbppl.inference.solution import Note, Solution
from vbppl.posterior import report
from vbppl.posterior.linear_response import Curvature, curvature
from vbppl.posterior.report import Report, Unjudged, shape_reasons, solver_reasons
from vbppl.posterior.row_evidence import judge_rows, weighs_rows
from vbppl.posterior.weighted_draws import Weighing, Worst, draw, weigh
from vbppl.target.batched import HEAVY, evaluate
from vbppl.target.target import Target

DRAWS, MORE = 4_000, 12_000  # draws, and more in doubt
TAIL_DIM, REACH = 64, 10  # dims; sds
POINT = "a MAP estimate is a point: there is no distribution to judge"


def judge(solution: Solution, raw: np.ndarray, watch: Watch = Watch()) -> Report | Unjudged:  # noqa: B008 -- frozen
    """How good a solution is, from fresh draws of its guide.

    Args:
      solution: what a solver gave back.
      raw: the key of the whole fit.
      watch: where its deadline has passed, doubts are not looked into with more draws.

    Returns:
      the report; one that knows nothing, and is therefore poor, where a person interrupts: the fit is not lost.
    """
    began = time.perf_counter()
    try:
        with np.errstate(all="ignore"):  # what is not finite is told by the report
            found = _judged(solution, raw, watch)
    except KeyboardInterrupt:
        return Report.unfinished(solution, time.perf_counter() - began)
    return dataclasses.replace(found, seconds=time.perf_counter() - began)


def _judged(solution: Solution, raw: np.ndarray, watch: Watch) -> Report | Unjudged:
    """By the questions that the guide allows: none of a point, row by row where it is amortised."""
    guide, phi, target = solution.guide, solution.phi, solution.target
    elbo = bound.elbo(guide, phi, target, raw)
    if isinstance(guide.noise(target), Nothing):
        return Unjudged(elbo, why=POINT)
    if weighs_rows(guide, phi, target):
        return judge_rows(solution, elbo, raw)
    return _judged_whole(solution, elbo, raw, watch)


def _judged_whole(solution: Solution, elbo: Estimate, raw: np.ndarray, watch: Watch) -> Report:
    """By draws of all coordinates together."""
    guide, phi, target = solution.guide, solution.phi, solution.target
    rng, names = host_generator(raw, "judge"), target.layout.coordinates
    tail, curved = _tail(guide, phi, target), curvature(guide, phi, target, raw)
    # Intermediate values grow with the data, and so does the price of a draw.
    most = int(np.clip(WORK / max(work(guide, phi, target) + 10 * target.dim, 1), 256, DRAWS + MORE))
    weighing = weigh(*draw(guide, phi, target, rng, min(most, DRAWS)), names)
    card = _report(solution, elbo, weighing, tail, curved)
    doubtful = card.verdict != "good" or card.log_weight_sd > report.LOG_WEIGHT_SD
    if doubtful and most > DRAWS and watch.is_over:
        text = f"by {DRAWS:,} draws only, as the time was over; in doubt there would be {most:,}"
        card = dataclasses.replace(card, notes=(Note("judging", text), *card.notes))
    elif doubtful and most > DRAWS:
        # The shifts and the tail shape of few draws are noisy: where something may be wrong, many more are taken.
        z, log_ratio = draw(guide, phi, target, rng, most - DRAWS)
        before = weighing.draws
        weighing = weigh(np.append(before.z, z, axis=0), np.append(before.log_ratio, log_ratio), names)
        card = _report(solution, elbo, weighing, tail, curved)
    if card.verdict == "poor" and curved.factor is not None and solution.status.converged:
        card = _corrected_by_linear_response(card, solution, curved.factor, rng)
    return dataclasses.replace(card, draws=weighing.draws.few())


def _report(solution: Solution, elbo: Estimate, weighing: Weighing, tail: Worst, curved: Curvature) -> Report:
    """What was found, and the verdict on it."""
    card = Report(
        elbo,
        weighing.log_weight_sd,
        weighing.ess,
        weighing.smoothed.shape,
        weighing.log_evidence,
        weighing.mean_shift,
        weighing.log_sd_shift,
        tail,
        curved.widened,
        curved.least,
        weighing.draws,
        solution.other_modes,
        status=solution.status,
        notes=solution.notes,
    )
    return _with_verdict(card, solution.target, weighing)


def _with_verdict(card: Report, target: Target, weighing: Weighing) -> Report:
    """Good without reasons; corrected where weighing mends what they say; else poor."""
    reasons = shape_reasons(card, target.dim, len(weighing.draws.z), weighing.lost)
    fatal = solver_reasons(card.status, card.other_modes)
    # Of weights that are nearly constant the shape of the tail means nothing.
    trusted = card.pareto_k < report.TRUSTED_K or card.ess > psis.EVEN
    mendable = trusted and card.ess >= report.CORRECTING_ESS and not weighing.lost
    mendable = mendable and not card.tail.value > report.HEAVY_TAIL
    if not reasons and not fatal:
        return dataclasses.replace(card, verdict="good", reasons=(), advice=())
    # Weighing cannot bring back what the guide's draws never reach, nor a mode that they do not know of.
    if fatal or not mendable:
        advice = (*([report.DECENTER] if np.any(target.centred) else []), report.SAMPLER)
        return dataclasses.replace(card, verdict="poor", reasons=(*reasons, *fatal), advice=advice)
    return dataclasses.replace(card, verdict="corrected", reasons=tuple(reasons), advice=(report.RESAMPLE,))


def _corrected_by_linear_response(
    card: Report, solution: Solution, factor: np.ndarray, rng: np.random.Generator
) -> Report:
    """The card of a mean-field fit that is poor for its correlations alone.

    The Gaussian with the linear-response covariance is held to the same standard: where it meets it, its sds are
    the ones to use.
    """
    if solution.other_modes.found:
        return card
    phi, target = solution.phi, solution.target
    gaussian = FullRank().of(np.asarray(MeanField().loc(phi), np.float64), factor).astype(phi.dtype)
    weighing = weigh(*draw(FullRank(), gaussian, target, rng, DRAWS), target.layout.coordinates)
    # Its own curvature is left out: correlations are what it has.
    if _report(solution, card.elbo, weighing, card.tail, Curvature()).reasons:
        return card
    return dataclasses.replace(card, verdict="corrected", advice=(report.LINEAR_RESPONSE, "guide='full_rank'"))


def _tail(guide: Guide, phi: PyTree, target: Target) -> Worst:
    """How much wider than the guide the density is along its ridges, the log of it, and of which coordinate.

    The ridge of a coordinate runs through the guide's conditional means of the others. Along it a Gaussian
    falls off by `t^2 / 2` at `t` sds, further out than any draw goes; a density with heavier tails does not.
    """
    normal = normal_of(guide, phi) if 0 < target.dim <= TAIL_DIM and target.data_size <= HEAVY else None
    if normal is None:
        return Worst(np.nan, "not looked at")
    loc, factor = normal
    covariance = factor @ factor.T
    # E[z | z_i at t sds] = loc + t Cov[:, i] / sd_i: a column for each coordinate.
    ridges = covariance / np.sqrt(np.diagonal(covariance))
    # Steps of an eighth of an sd: the trapezoid's error for a normal is below rounding.
    t = np.linspace(-REACH, REACH, 8 * REACH + 1)
    log_p = evaluate(target, (loc + t[:, None, None] * ridges.T).reshape(-1, target.dim))[0].reshape(len(t), -1)
    if not np.isfinite(log_p).any(axis=0).all():
        return Worst(np.nan, "not looked at")
    log_p = np.where(np.isfinite(log_p), log_p, -np.inf)
    weights = np.exp(log_p - log_p.max(axis=0))
    weights /= weights.sum(axis=0)
    mean = weights.T @ t
    log_sds = 0.5 * np.log(np.sum(weights * (t[:, None] - mean) ** 2, axis=0))
    worst = int(np.argmax(log_sds))
    return Worst(float(log_sds[worst]), target.layout.coordinates[worst])
