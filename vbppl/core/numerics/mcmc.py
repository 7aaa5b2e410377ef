"""What draws of Markov chains are worth: R-hat and effective sample sizes.

Of draws `x`, `(chains, draws, columns)`, each column by itself. All are of Vehtari, Gelman, Simpson, Carpenter and
Buerkner (2021), "Rank-Normalization, Folding, and Localization: An Improved R-hat for Assessing Convergence of MCMC":
chains are split into halves and replaced by the normal quantiles of their ranks, so that heavy tails do no harm; folded
about the median they tell of spread as well as of place. A column that does not vary has none of these: NaN.
"""

from __future__ import annotations

import functools
from statistics import NormalDist

import numpy as np

STILL = 1e-20  # a variance that is rounding
TAILS = 0.05, 0.95  # the quantiles whose effective sizes are that of the tails


def r_hat(x: np.ndarray) -> np.ndarray:
    """Rank-normalised split R-hat, the greater of that of place and of spread, `(columns,)`; 1 where chains agree."""
    halves = _split(x)
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    return np.fmax(_ratio(_normal_scores(halves)), _ratio(_normal_scores(folded)))


def ess_bulk(x: np.ndarray) -> np.ndarray:
    """For how many independent draws they count in the middle of each column, `(columns,)`."""
    return _effective_size(_normal_scores(_split(x)))


def ess_tail(x: np.ndarray) -> np.ndarray:
    """For how many they count in the worse of the tails: the 5% and the 95% quantile, `(columns,)`."""
    halves = _split(x)
    levels = np.quantile(halves, TAILS, axis=(0, 1))
    return np.fmin(*(_effective_size((halves <= level).astype(np.float64)) for level in levels))


def ess_mean(x: np.ndarray) -> np.ndarray:
    """For how many independent draws they count where the mean itself is asked for, `(columns,)`."""
    return _effective_size(_split(x))


def _split(x: np.ndarray) -> np.ndarray:
    """The halves of each chain as chains of their own."""
    half = x.shape[1] // 2
    return np.concatenate([x[:, :half], x[:, -half:]]).astype(np.float64)


@functools.lru_cache(maxsize=4)
def _scores(count: int) -> np.ndarray:
    """The normal quantile of each half rank of `count` draws: at `2 r` that of rank `r`, counted from 1."""
    at = np.clip((np.arange(2 * count + 1) / 2 - 3 / 8) / (count + 1 / 4), 1e-9, None)
    return np.array(list(map(NormalDist().inv_cdf, at)))


def _normal_scores(x: np.ndarray) -> np.ndarray:
    """Each column's ranks over all chains as normal quantiles; equal draws share a rank."""
    flat = x.reshape(-1, x.shape[2])
    found, scores = np.empty(flat.shape), _scores(len(flat))
    for i, column in enumerate(flat.T):
        order = np.argsort(column)
        ordered = column[order]
        first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        counts = np.diff(np.append(first, len(ordered)))
        # Twice the mean of the ranks first + 1, ..., first + count.
        found[order, i] = np.repeat(scores[2 * first + counts + 1], counts)
    return found.reshape(x.shape)


def _ratio(x: np.ndarray) -> np.ndarray:
    """The sd of all chains, as they would be if they went on, over that within them."""
    draws = x.shape[1]
    within, between = x.var(axis=1, ddof=1).mean(axis=0), x.mean(axis=1).var(axis=0, ddof=1)
    # Scores are of order one: of a chain that stands still only the rounding of its mean is left.
    within = np.where(within < STILL, 0.0, within)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt((draws - 1) / draws + between / within)


def _effective_size(x: np.ndarray) -> np.ndarray:
    """By Geyer's initial monotone sequence of autocorrelations over all chains (the paper's equations 10 to 13)."""
    chains, draws, _ = x.shape
    centred = x - x.mean(axis=1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(centred, 1 << (2 * draws - 1).bit_length(), axis=1)) ** 2
    covariance = np.fft.irfft(spectrum.mean(axis=0), axis=0)[:draws] / draws
    within = covariance[0] * draws / (draws - 1)
    variance = covariance[0] + x.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = 1 - (within - covariance) / variance
    rho[0] = 1.0
    even, odd = rho[: draws // 2 * 2 : 2], rho[1 : draws // 2 * 2 : 2]
    positive = np.cumprod(even + odd > 0, axis=0).astype(bool)
    pairs = np.minimum.accumulate(np.where(positive, even + odd, 0.0), axis=0)
    # The first even lag that is left out still counts once, where it is positive.
    stop = np.minimum(positive.sum(axis=0), len(even) - 1)
    last = np.where(positive.all(axis=0), 0.0, np.maximum(np.take_along_axis(even, stop[None], 0)[0], 0.0))
    time = -1 + 2 * pairs.sum(axis=0) + last
    size = chains * draws / np.maximum(time, 1 / np.log10(chains * draws))
    return np.where(variance > 0, size, np.nan)
