"""How far below the best member of its family a fit may lie: a bound on the optimality gap.

A bound on fixed draws, maximised, lies above the true maximum on average, because the maximum of an average is
at most the average of the maxima. So `R` independent sets of draws, each maximised anew, give an upper
bound on what the family can reach, and the bound of the fit on fresh draws a lower one:

    gap <= mean max_r + t s / sqrt R - (ELBO - 2 se),

with `t` the 95% quantile of Student's t with `R - 1` degrees of freedom (Mak, Morton and Wood 1999, "Monte Carlo
Bounding Techniques for Determining Solution Quality in Stochastic Programs"). That needs draws that are
unbiased, so they are jittered within their strata and not rescaled; and it holds for what the search can
reach: everywhere if the log density is concave, else in this basin.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.keys import host_generator
from vbppl.core.numerics import natural_gradient
from vbppl.core.special import NORMAL_ENTROPY
from vbppl.guides.gaussian import FullRank, MeanField
from vbppl.guides.noise import orders_of_strata
from vbppl.inference.bound import Estimate
from vbppl.inference.deterministic import mean_field
from vbppl.posterior.report import Gap
from vbppl.target.batched import Batch
from vbppl.target.target import Target

SETS, STUDENT = 4, 2.353  # sets of draws; the 95% quantile of Student's t with 3 degrees of freedom
MIN_DRAWS, DRAWS_A_DIM = 1024, 16  # draws; draws a dimension
MOST_NUMBERS = 2**23  # of one set
TOLERANCE, LEFT = 1e-4, 1e-2  # nats at which a search ends; that it may leave


def optimality_gap(target: Target, guide: Any, phi: np.ndarray, elbo: Estimate, raw_key: np.ndarray) -> Gap:
    """The gap of a mean-field or full-rank fit, from `SETS` further fits that start from it.

    Raises:
      ModelError: the guide is of another family.
    """
    search = SEARCHES.get(guide.__class__)
    if search is None:
        raise ModelError(
            f"the optimality gap of a {type(guide).__name__} guide is not known.",
            mend="Fit with 'mean_field' or 'full_rank'.",
        )
    draws = max(MIN_DRAWS, DRAWS_A_DIM * target.dim)
    if draws * target.dim > MOST_NUMBERS:
        raise ModelError(
            f"the optimality gap of a fit in {target.dim:,} dims would take {draws:,} draws of them, four times.",
            mend="Look at the restarts and the draw noise of the report card instead.",
        )
    noise = np.stack([_jittered(host_generator(raw_key, f"gap {i}"), draws, target.dim) for i in range(SETS)])
    highest = search(Batch.of(target, SETS), phi, noise) + target.dim * NORMAL_ENTROPY
    above = float(highest.mean())
    bound = above + STUDENT * float(highest.std(ddof=1)) / np.sqrt(SETS) - (elbo.value - 2 * elbo.se)
    return Gap(float(np.maximum(bound, 0.0)), float(np.maximum(above - elbo.value, 0.0)))


def _highest_mean_field(batch: Batch, phi: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The greatest bound on each set of draws, without the entropy's constant, `(sets,)`."""
    x = np.tile(np.asarray(phi, np.float64).reshape(-1), (SETS, 1))  # loc, then log sd
    *_, ends = mean_field.descend(batch, x, noise, TOLERANCE)
    return np.where(ends.decrement <= LEFT, -ends.value, np.nan)


def _highest_full_rank(batch: Batch, phi: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The same with any factor."""
    loc, factor = (np.asarray(part(phi), np.float64) for part in (FullRank().loc, FullRank().factor))
    start = np.tile(loc, (SETS, 1)), np.tile(factor, (SETS, 1, 1))
    at = natural_gradient.evaluate(batch, *start, noise, np.arange(SETS))
    at = natural_gradient.ascend(batch, at, noise, batch.rounding, np.full(SETS, TOLERANCE))
    return np.where(at.decrement <= LEFT, at.bound, np.nan)


# Of other families no search is known that gets to the end.
SEARCHES: dict[type, Callable[[Batch, np.ndarray, np.ndarray], np.ndarray]] = {
    MeanField: _highest_mean_field,
    FullRank: _highest_full_rank,
}


def _jittered(rng: np.random.Generator, draws: int, dim: int) -> np.ndarray:
    """A Latin hypercube with a random place in each stratum: every draw exactly normal, `(draws, dim)`."""
    stratification = orders_of_strata(rng, draws, dim)
    quantile = np.vectorize(NormalDist().inv_cdf)
    return quantile(np.clip((stratification + rng.random((draws, dim))) / draws, 1e-12, 1 - 1e-12))
