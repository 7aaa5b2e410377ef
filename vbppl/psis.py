"""Pareto-smoothed importance sampling: how far importance weights can be trusted, and their mending.

The largest weights are replaced by the expected order statistics of a generalised Pareto
distribution fitted to them; its shape `k` says whether their average settles down: the weights have
finite variance for `k < 1/2`, and are usable up to `min(1 - 1 / log10 S, 0.7)` (Vehtari, Simpson, Gelman, Yao and Gabry 2024,
"Pareto Smoothed Importance Sampling", sections 2 and 3).
"""

from __future__ import annotations

import numpy as np


def smooth(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Normalised, smoothed log weights, `(draws,)`, and the shape `k` of their tail.

    Where the largest weights are all but equal there is no tail to fit: `k` is minus infinity.
    """
    log_weights = np.asarray(log_weights, np.float64)
    draws = len(log_weights)
    log_weights = log_weights - log_weights.max()
    tail = int(np.ceil(min(0.2 * draws, 3 * np.sqrt(draws))))
    order = np.argsort(log_weights)
    cut = log_weights[order[-tail - 1]]
    excess = np.exp(log_weights[order[-tail:]]) - np.exp(cut)
    shape = -np.inf
    if tail > 4 and excess[0] >= 0 and excess[-1] > 1e-10:
        shape, scale = fit_pareto(np.maximum(excess, 1e-300))
        ranks = (np.arange(tail) + 0.5) / tail
        quantiles = scale * (-np.log1p(-ranks) if abs(shape) < 1e-8 else np.expm1(-shape * np.log1p(-ranks)) / shape)
        log_weights[order[-tail:]] = np.minimum(np.log(quantiles + np.exp(cut)), 0.0)
    return log_weights - log_sum_exp(log_weights), float(shape)


def fit_pareto(excess: np.ndarray) -> tuple[float, float]:
    """Shape and scale of the generalised Pareto distribution of sorted `excess > 0`, `(n,)`.

    A posterior mean over the profile of the scale (Zhang and Stephens 2009, section 4), the shape then drawn
    a little towards 1/2, as for 10 further observations.
    """
    n = len(excess)
    grid = 30 + int(np.sqrt(n))
    at = np.arange(1, grid + 1) - 0.5
    slopes = 1 / excess[-1] + (1 - np.sqrt(grid / at)) / (3 * excess[int(n / 4 + 0.5) - 1])
    shapes = np.log1p(-slopes[:, None] * excess).mean(axis=1)
    profile = n * (np.log(-slopes / shapes) - shapes - 1)
    weights = np.exp(profile - log_sum_exp(profile))
    slope = np.sum(weights * slopes)
    shape = np.log1p(-slope * excess).mean()
    return float((n * shape + 5) / (n + 10)), float(-shape / slope)


def usable(draws: int) -> float:
    """The largest shape with which `draws` weights may be averaged."""
    return min(1 - 1 / np.log10(draws), 0.7)


def log_sum_exp(values: np.ndarray) -> float:
    """`log sum exp(values)` without overflow."""
    top = values.max()
    return float(top + np.log(np.exp(values - top).sum()))
