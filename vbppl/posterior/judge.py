"""Judging a guide against a density: the report card.

Draws from the guide are weighed by `w = p / q`, and three questions are asked of them, because none
alone is enough. How much do the `log w` vary? (At the exact posterior not at all.) Does weighing
move a mean or a standard deviation? And can the weights themselves be trusted (effective sample
size, Pareto k)? Pareto k alone gives false alarms exactly where a fit is nearly perfect and the
weights almost constant. What the draws cannot see is looked for elsewhere: another mode by the
restarts of the fit, a heavy tail along the ridges of the density.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from vbppl.core.keys import host_generator
from vbppl.core.numerics import psis
from vbppl.core.numerics.draws import whitened_draws
from vbppl.core.types import PyTree
from vbppl.guides.base import Guide
from vbppl.guides.gaussian import FullRank, Gaussian, MeanField
from vbppl.guides.mixture import Mixture
from vbppl.inference.bound import WORK, Estimate, work
from vbppl.inference.solution import Status
from vbppl.posterior.report import Report
from vbppl.target.batched import HEAVY, evaluate
from vbppl.target.target import Target

DRAWS, MORE = 4_000, 12_000  # draws, and more in doubt
LOG_WEIGHT_SD = 0.7  # nats
MEAN_SHIFT, LOG_SD_SHIFT = 0.2, 0.25
LEAST_ESS, CORRECTING_ESS = 0.05, 0.1
SOME_DIMS, MANY_DIMS, MEASURED = 10, 30, 400  # dims; dims; effective draws
DRAW_NOISE = 0.2  # sds
TAIL, HEAVY_TAIL = 0.35, 0.7  # logs of sds
TAIL_DIM, REACH = 64, 10  # dims; sds
CORRELATED, NAMED = 1.4, 5  # ratio of sds; coordinates


def judge(guide: Guide, phi: PyTree, target: Target, bound: Estimate, status: Status, raw_key: np.ndarray) -> Report:
    """The report card of a fit, from fresh draws of the guide."""
    rng, names = host_generator(raw_key, "judge"), target.layout.coordinates
    tail, curvature = _tail(guide, phi, target), _curvature(guide, phi, target, raw_key)
    several = isinstance(guide, Mixture)
    # Intermediate values grow with the data, and so does the price of a draw.
    most = int(np.clip(WORK / max(work(guide, phi, target) + 10 * target.dim, 1), 256, DRAWS + MORE))
    weighed = guide.weighed_draws(phi, target, rng, min(most, DRAWS))
    card = _card(_Weighed.of(*weighed, names), bound, status, tail, curvature, target, several)
    if (card.verdict != "good" or card.log_weight_sd > LOG_WEIGHT_SD) and most > DRAWS:
        # The shifts and the tail shape of few draws are noisy: where something may be wrong, many more are taken.
        more = guide.weighed_draws(phi, target, rng, most - DRAWS)
        weighed = np.append(weighed[0], more[0]), np.append(weighed[1], more[1], axis=0)
        card = _card(_Weighed.of(*weighed, names), bound, status, tail, curvature, target, several)
    if card.verdict == "poor" and curvature.factor is not None and not card.other_modes and status.converged:
        card = _corrected_by_linear_response(card, curvature.factor, phi, target, rng)
    return card


class _Weighed(NamedTuple):
    """What weighing some draws has shown."""

    draws: int
    lost: float  # the share of draws at which the density is not finite
    log_weight_sd: float
    smoothed: psis.Smoothed
    mean_shift: tuple[float, str]
    log_sd_shift: tuple[float, str]

    @classmethod
    def of(cls, log_weights: np.ndarray, z: np.ndarray, names: tuple[str, ...]) -> _Weighed:
        finite = np.isfinite(log_weights)
        draws, log_weights, z = len(log_weights), log_weights[finite], z[finite]
        smoothed = psis.smooth(log_weights)
        shifts = _shifts(np.exp(smoothed.log_weights), z, names)
        sd = float(log_weights.std()) if len(z) else np.nan
        return cls(draws, 1 - float(finite.mean()), sd, smoothed, *shifts)


def _card(
    weighed: _Weighed,
    bound: Estimate,
    status: Status,
    tail: tuple[float, str],
    curvature: _Curvature,
    target: Target,
    several_modes: bool = False,
) -> Report:
    smoothed, lost = weighed.smoothed, weighed.lost
    card = Report(
        "good",
        (),
        (),
        bound,
        weighed.log_weight_sd,
        smoothed.ess / weighed.draws,
        smoothed.shape,
        smoothed.log_mean + float(np.log1p(-lost)) if smoothed.usable else np.nan,
        weighed.mean_shift,
        weighed.log_sd_shift,
        tail,
        curvature.widened,
        curvature.least,
        status.other_modes,
        status,
    )
    return _with_verdict(card, target.dim, weighed.draws, lost, several_modes, bool(np.any(target.centred)))


def _corrected_by_linear_response(
    card: Report, factor: np.ndarray, phi: PyTree, target: Target, rng: np.random.Generator
) -> Report:
    """The card of a mean-field fit that is poor for its correlations alone.

    The Gaussian with the linear-response covariance is held to the same standard: where it meets it, its sds are
    the ones to use.
    """
    gaussian = FullRank().of(np.asarray(MeanField().loc(phi), np.float64), factor).astype(phi.dtype)
    weighed = _Weighed.of(*FullRank().weighed_draws(gaussian, target, rng, DRAWS), target.layout.coordinates)
    nothing = _Curvature((), np.nan, None)
    if _card(weighed, card.elbo, card.status, card.tail, nothing, target).reasons:
        return card
    advice = ("posterior.linear_response(): sds with the correlations, which pass the checks that these fail",)
    return dataclasses.replace(card, verdict="corrected", advice=(*advice, "guide='full_rank'"))


def _shifts(weights: np.ndarray, z: np.ndarray, names: tuple[str, ...]) -> tuple[tuple[float, str], tuple[float, str]]:
    """How far weighing moves the means (in sds) and log sds of the coordinates: the worst of each."""
    if not names or not len(z):
        return (0.0, "none"), (0.0, "none")
    mean, sd = z.mean(axis=0), z.std(axis=0)
    weighed = weights @ z
    weighed_sd = np.sqrt(weights @ (z - weighed) ** 2)
    with np.errstate(divide="ignore"):
        means, log_sds = np.abs(weighed - mean) / sd, np.abs(np.log(weighed_sd / sd))
    worst, widest = int(np.argmax(means)), int(np.argmax(log_sds))
    return (float(means[worst]), names[worst]), (float(log_sds[widest]), names[widest])


def _tail(guide: Guide, phi: PyTree, target: Target) -> tuple[float, str]:
    """How much wider than the guide the density is along its ridges, the log of it, and of which coordinate.

    The ridge of a coordinate runs through the guide's conditional means of the others. Along it a Gaussian
    falls off by `t^2 / 2` at `t` sds, further out than any draw goes; a density with heavier tails does not.
    """
    if not isinstance(guide, Gaussian) or not 0 < target.dim <= TAIL_DIM or target.data_size > HEAVY:
        return np.nan, "not looked at"
    factor, loc = np.asarray(guide.factor(phi), np.float64), np.asarray(guide.loc(phi), np.float64)
    covariance = factor @ factor.T
    ridges = covariance / np.sqrt(np.diagonal(covariance))  # a column for each coordinate
    t = np.linspace(-REACH, REACH, 8 * REACH + 1)
    log_p = evaluate(target, (loc + t[:, None, None] * ridges.T).reshape(-1, target.dim))[0].reshape(len(t), -1)
    if not np.isfinite(log_p).any(axis=0).all():
        return np.nan, "not looked at"
    log_p = np.where(np.isfinite(log_p), log_p, -np.inf)
    weights = np.exp(log_p - log_p.max(axis=0))
    weights /= weights.sum(axis=0)
    mean = weights.T @ t
    log_sds = 0.5 * np.log(np.sum(weights * (t[:, None] - mean) ** 2, axis=0))
    worst = int(np.argmax(log_sds))
    return float(log_sds[worst]), target.layout.coordinates[worst]


class _Curvature(NamedTuple):
    """Of a mean-field guide's bound: the sds that correlations would widen, the least eigenvalue, the covariance."""

    widened: tuple[tuple[float, str], ...]
    least: float
    factor: np.ndarray | None  # `L L^T` is the covariance by linear response


def _curvature(guide: Guide, phi: PyTree, target: Target, raw_key: np.ndarray) -> _Curvature:
    """What correlations would do to the sds of a mean-field guide.

    `K = -sd E[Hess l] sd`, by Stein's lemma from gradients at moment-exact draws; its diagonal is 1 at the
    optimum, and the linear-response covariance is `sd K^-1 sd` where third derivatives average to nothing.
    """
    if not isinstance(guide, MeanField) or not 1 < target.dim <= TAIL_DIM or target.data_size > HEAVY:
        return _Curvature((), np.nan, None)
    noise = whitened_draws(host_generator(raw_key, "curvature"), max(64, 4 * target.dim), target.dim)
    sd = np.asarray(guide.sd(phi), np.float64)
    gradient = evaluate(target, np.asarray(guide.loc(phi), np.float64) + sd * noise)[1] * sd
    cross = -gradient.T @ noise / len(noise)
    if not np.isfinite(cross).all():
        return _Curvature((), np.nan, None)
    values, vectors = np.linalg.eigh((cross + cross.T) / 2)
    if values[0] <= 0:
        return _Curvature((), float(values[0]), None)
    ratios = np.sqrt(vectors**2 @ (1 / values))
    widest = np.argsort(-ratios)[:NAMED]
    named = tuple((float(ratios[i]), target.layout.coordinates[i]) for i in widest)
    return _Curvature(named, float(values[0]), sd[:, None] * vectors / np.sqrt(values))


def _with_verdict(card: Report, dim: int, draws: int, lost: float, several_modes: bool, can_decenter: bool) -> Report:
    reasons = _shape_reasons(card, dim, draws, lost)
    if several_modes:
        reasons.append("there are several modes; the guide holds those that the restarts found, and there may be more")
    heavy = card.tail[0] > HEAVY_TAIL
    trusted = card.pareto_k < 0.7 or card.ess > psis.EVEN
    correctable = trusted and card.ess >= CORRECTING_ESS and not lost and not heavy
    advice = ["posterior.resample(n): draws weighed by importance, which are nearer"] if correctable else []
    fatal = list(_fatal_reasons(card))
    if (reasons and not correctable) or fatal:
        verdict = "poor"
        advice = [
            *(["vb.decenter(model): the scale of a site is latent"] if can_decenter else []),
            "a sampler, such as BlackJAX's NUTS on vb.target(model).log_density",
        ]
    else:
        verdict = "corrected" if reasons else "good"
    advice = advice if reasons or fatal else []
    return dataclasses.replace(card, verdict=verdict, reasons=tuple(reasons + fatal), advice=tuple(advice))


def _shape_reasons(card: Report, dim: int, draws: int, lost: float) -> list[str]:
    reasons = []
    (mean, mean_name), (log_sd, log_sd_name) = card.mean_shift, card.log_sd_shift
    if lost:
        reasons.append(f"{lost:.1%} of the guide's draws have no finite density")
    if mean > MEAN_SHIFT:
        reasons.append(f"in unconstrained space the mean of {mean_name} is off by about {mean:.2f} sd")
    if log_sd > LOG_SD_SHIFT:
        reasons.append(f"in unconstrained space the sd of {log_sd_name} is off by about {np.expm1(log_sd):.0%}")
    if card.ess < LEAST_ESS:
        reasons.append(f"the effective sample size is {card.ess:.1%} of the draws")
    if card.tail[0] > TAIL:
        wide = f"the density of {card.tail[1]} is {np.exp(card.tail[0]):.1f} times as wide as the guide"
        reasons.append(f"{wide}, in a tail that draws of the guide do not reach")
    ratio, name = card.widened[0] if card.widened else (1.0, "")
    if ratio > CORRELATED:
        reasons.append(f"correlations that mean field leaves out would widen the sd of {name} {ratio:.1f} times")
    # The sd of log w grows with sqrt(dim) by itself. Beyond a few dims it decides only where the shifts, which
    # are known to one over the root of the effective number of draws, cannot.
    measured = dim >= SOME_DIMS and card.ess * draws >= MEASURED
    if card.log_weight_sd > LOG_WEIGHT_SD * max(1.0, np.sqrt(dim / MANY_DIMS)) and not measured:
        reasons.append(f"log p - log q varies by {card.log_weight_sd:.2f} nats over the guide's draws")
    return reasons


def _fatal_reasons(card: Report) -> list[str]:
    reasons = []
    if card.status.draw_noise > DRAW_NOISE:
        reasons.append(f"another set of fixed draws would move the answer by {card.status.draw_noise:.2f} sd")
    if not card.status.converged and card.status.reason != "steps":
        reasons.append(f"the fit did not converge: {card.status.text}")
    for lower, away in card.other_modes:
        reasons.append(f"a restart found another mode, {away:.0f} sd away, whose bound is {lower:.1f} nats lower")
    return reasons
