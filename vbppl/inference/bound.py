"""The bound from fresh draws: every choice between fits is made by it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from vbppl.core.keys import host_generator
from vbppl.core.types import PyTree
from vbppl.guides.base import FEWEST, Guide
from vbppl.target.batched import HEAVY
from vbppl.target.target import Target


class Estimate(NamedTuple):
    """A value with its Monte Carlo standard error, both in nats."""

    value: float
    se: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.se:.3f}"


SETS = 8
WORK = 4e8  # draws times numbers in the data


def elbo(guide: Guide, phi: PyTree, target: Target, raw_key: np.ndarray) -> Estimate:
    """The evidence lower bound at all rows, from fresh draws.

    Independent sets of draws; within a set the draws are moment-exact where the guide can, so the
    standard error is taken between the sets, never within one.
    """
    draws = 32 if target.data_size > HEAVY else int(np.clip(4 * target.dim, 256, 1024))
    draws = int(np.clip(WORK / max(work(guide, phi, target), 1), FEWEST, draws)) // 2 * 2  # antithetic pairs
    rng = host_generator(raw_key, "elbo")
    means = np.array([guide.fresh_bound(phi, target, rng, draws).mean() for _ in range(SETS)])
    return Estimate(float(means.mean()), float(means.std(ddof=1) / np.sqrt(SETS)))


def work(guide: Guide, phi: PyTree, target: Target) -> float:
    """What one draw costs at all rows, in numbers touched: the data, and each row's way through networks."""
    rows = max((plate.size for plate in target.layout.plates), default=1)
    weights = sum(np.size(leaf) for leaf in jax.tree.leaves(target.params)) + guide.network_size(phi)
    return target.data_size + rows * weights
