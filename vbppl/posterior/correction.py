"""Draws of the posterior itself, by importance resampling of a guide's: all different, never copies.

A draw of weight `w` is taken `n w` times, rounded up or down at random, and never twice: what a weight exceeds `1/n` by
is cut off. The number weighed grows until that is at most three per cent of the whole. (With copies, quantiles and
plots of `n` draws would look as exact as those of `n` different ones.)
"""

from __future__ import annotations

import numpy as np

from vbppl.core.numerics import psis
from vbppl.core.types import Array
from vbppl.inference.solution import Solution
from vbppl.posterior.weighted_draws import draw

POOL = 20  # draws that are weighed at first for one that is asked for
MOST_LOST = 0.03  # of the weight, to draws that would be needed more than once


def resample(solution: Solution, rng: np.random.Generator, n: int) -> dict[str, Array]:
    """`n` draws on the sites' supports, `(n, ...)` each.

    Raises:
      ValueError: the weights cannot be trusted; the message says by how much.
    """
    guide, phi, target = solution.guide, solution.phi, solution.target
    log_ratio, z = np.zeros(0), np.zeros((0, target.dim))
    for pool in (POOL * n, 3 * POOL * n):
        new, more = draw(guide, phi, target, rng, pool)
        log_ratio, z = np.append(log_ratio, more), np.append(z, new, axis=0)
        smoothed = psis.smooth(np.where(np.isfinite(log_ratio), log_ratio, -np.inf))
        kept, lost = psis.capped(np.exp(smoothed.log_weights), 1 / n)
        if smoothed.usable and lost <= MOST_LOST:
            # Systematic: to take the heaviest draws once only would bring back the guide's sds.
            shares = np.cumsum(kept)
            at = rng.permutation(np.arange(n) + rng.uniform()) / n
            return target.constrain(z[np.searchsorted(shares / shares[-1], at)])
    raise ValueError(
        f"importance weights cannot repair this guide: Pareto k {smoothed.shape:.2f}, and {lost:.1%} of the weight "
        f"of {len(z):,} draws lies in a few that {n} different ones cannot hold. See posterior.check()."
    )
