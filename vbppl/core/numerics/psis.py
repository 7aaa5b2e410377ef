"""Pareto-smoothed importance sampling: how far importance weights can be trusted, and their mending.

The largest weights are replaced by the expected order statistics of a generalised Pareto
distribution fitted to them; its shape `k` says whether their average settles down: the weights have
finite variance for `k < 1/2`, and are usable up to `min(1 - 1 / log10 S, 0.7)` (Vehtari, Simpson,
Gelman, Yao and Gabry 2024, "Pareto Smoothed Importance Sampling", sections 2 and 3).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

EVEN = 0.8  # of the draws: with so large an effective size the weights are nearly constant, whatever their tail


class Smoothed(NamedTuple):
    """Importance weights and what they are worth.

    Attributes:
      log_weights: normalised: their exponentials add up to 1, `(draws,)`.
      shape: the shape `k` of the tail; minus infinity where the largest weights are all but equal.
      ess: the effective sample size, in draws.
      log_mean: the log of the average weight: the log evidence, where the weights are `p / q`.
      rise: by how much the largest weight exceeds those below the tail, as a share of them. Where it is a few
        percent, as of a guide that is the posterior, the tail may have any shape: no average is moved by it.
    """

    log_weights: np.ndarray
    shape: float
    ess: float
    log_mean: float
    rise: float

    @property
    def usable(self) -> bool:
        """Whether averages with these weights settle down, or there is next to nothing to weigh."""
        draws = len(self.log_weights)
        return draws > 1 and (self.shape < min(1 - 1 / np.log10(draws), 0.7) or self.ess > EVEN * draws)


def smooth(log_weights: np.ndarray) -> Smoothed:
    """Smooth the largest of `log_weights`, `(draws,)`; minus infinity is a weight of zero.

    A fitted tail with `k >= 1` has no mean, so its order statistics have no expectation that could
    replace the weights: they stay as they are.
    """
    log_weights = np.asarray(log_weights, np.float64)
    draws, top = len(log_weights), log_weights.max(initial=-np.inf)
    if not np.isfinite(top):
        return Smoothed(log_weights, np.inf, 0.0, float(top), np.inf)
    log_weights = log_weights - top
    tail = int(np.ceil(min(0.2 * draws, 3 * np.sqrt(draws))))
    # The tail, and the largest weight that is not in it: excesses are measured from there.
    order = np.argsort(log_weights)[-tail - 1 :]
    cut, *largest = np.exp(log_weights[order])
    shape, excess = -np.inf, np.array(largest) - cut
    rise = float(excess[-1] / cut) if len(excess) and cut > 0 else np.inf
    # Four numbers tell no shape; and where the largest weights are all but equal there is no tail to smooth.
    if tail > 4 and excess[-1] > 1e-10:
        shape, scale = fit_pareto(np.maximum(excess, 1e-300))
    if -np.inf < shape < 1:
        ranks = (np.arange(tail) + 0.5) / tail
        quantiles = scale * (-np.log1p(-ranks) if abs(shape) < 1e-8 else np.expm1(-shape * np.log1p(-ranks)) / shape)
        # No smoothed weight exceeds the largest raw one, which is 1 here: else the smoothing itself could be the tail.
        log_weights[order[1:]] = np.minimum(np.log(quantiles + cut), 0.0)
    log_sum = np.logaddexp.reduce(log_weights)
    log_weights = log_weights - log_sum
    ess = 1 / np.sum(np.exp(2 * log_weights))
    return Smoothed(log_weights, float(shape), float(ess), float(top + log_sum - np.log(draws)), rise)


def fit_pareto(excess: np.ndarray) -> tuple[float, float]:
    """Shape and scale of the generalised Pareto distribution of sorted `excess > 0`, `(n,)`.

    A posterior mean over the profile of the scale (Zhang and Stephens 2009, section 4), the shape then drawn
    a little towards 1/2, as for 10 further observations.
    """
    n = len(excess)
    grid = 30 + int(np.sqrt(n))
    at = np.arange(1, grid + 1) - 0.5
    # Candidates of `-shape / scale`, dense where the likelihood peaks; the quartile of the excesses sets their scale.
    slopes = 1 / excess[-1] + (1 - np.sqrt(grid / at)) / (3 * excess[int(n / 4 + 0.5) - 1])
    shapes = np.log1p(-slopes[:, None] * excess).mean(axis=1)
    profile = n * (np.log(-slopes / shapes) - shapes - 1)
    weights = np.exp(profile - np.logaddexp.reduce(profile))
    slope = np.sum(weights * slopes)
    shape = np.log1p(-slope * excess).mean()
    return float((n * shape + 5) / (n + 10)), float(-shape / slope)


def capped(weights: np.ndarray, most: float) -> tuple[np.ndarray, float]:
    """Weights that sum to one with none above `most`, and the share that was cut off and spread over the rest."""
    capped, lost = weights, 0.0
    for _ in range(100):
        excess = float(np.maximum(capped - most, 0).sum())
        if excess <= 1e-12:
            break
        lost += excess
        room = np.where(capped < most, capped, 0.0)
        capped = np.minimum(capped, most) + excess * room / max(room.sum(), 1e-300)
    return np.minimum(capped, most), min(lost, 1.0)
