"""Judging a guide against a density."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vbppl.aliases import PyTree
from vbppl.guides.base import Guide
from vbppl.keys import host_generator
from vbppl.target import Target

SETS = 8


class Estimate(NamedTuple):
    """A value with its Monte Carlo standard error, both in nats."""

    value: float
    se: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.se:.3f}"


def elbo(guide: Guide, phi: PyTree, target: Target, raw_key: np.ndarray) -> Estimate:
    """The evidence lower bound at all rows, from fresh draws.

    Eight independent sets of draws; within a set the draws are moment-exact where the guide can,
    so the standard error is taken between the sets, never within one.
    """
    draws = int(np.clip(4 * target.dim, 256, 1024))
    rng = host_generator(raw_key, "elbo")
    means = np.array([guide.fresh_bound(phi, target, rng, draws).mean() for _ in range(SETS)])
    return Estimate(float(means.mean()), float(means.std(ddof=1) / np.sqrt(SETS)))
