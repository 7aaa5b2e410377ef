"""Draws of a guide, each with the densities of target and guide and the weight that they give it.

The weights `w = p / q` make averages over draws of the guide those of the posterior, as far as the guide reaches. How
much they vary, whether they move a mean or a standard deviation, and whether their tail lets averages settle
down is what a guide is judged by.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from vbppl.core.numerics import psis
from vbppl.core.pytree import pytree, static
from vbppl.core.types import PyTree
from vbppl.guides.base import Guide
from vbppl.inference.bound import weighed_draws
from vbppl.target.target import Target

KEPT = 2**22  # numbers of the draws that a report holds on to


@pytree
class Worst:
    """The worst of some numbers, and the coordinate whose it is."""

    value: float
    name: str = static()


@pytree
class WeightedDraws:
    """Independent draws of a guide in unconstrained space, and what they weigh.

    Attributes:
      z: the draws, `(draws, dim)`.
      log_ratio: `log p - log q` at each, `(draws,)`, in nats; not finite where the density is not.
      log_weight: of each, Pareto-smoothed: the exponentials sum to one, `(draws,)`.
    """

    z: np.ndarray
    log_ratio: np.ndarray
    log_weight: np.ndarray

    @classmethod
    def none(cls, dim: int) -> WeightedDraws:
        """No draws."""
        return cls(np.zeros((0, dim)), np.zeros(0), np.zeros(0))

    @classmethod
    def of(cls, z: np.ndarray, log_ratio: np.ndarray) -> WeightedDraws:
        """Draws with their weights smoothed; where the density is not finite a draw weighs nothing."""
        return weigh(z, log_ratio, ()).draws

    def few(self) -> WeightedDraws:
        """The first of them, as many as a report holds on to, in the session's dtype."""
        count = max(KEPT // max(self.z.shape[1], 1), 1)
        some = self if len(self.z) <= count else WeightedDraws.of(self.z[:count], self.log_ratio[:count])
        # The guide made them in this dtype, so nothing is lost.
        return dataclasses.replace(some, z=some.z.astype(jnp.result_type(float)))


@dataclasses.dataclass(frozen=True)
class Weighing:
    """What weighing some draws has shown.

    Attributes:
      draws: what was weighed.
      lost: the share of draws at which the density is not finite.
      log_weight_sd: of those at which it is, in nats.
      smoothed: their weights.
      mean_shift: by how many sds weighing moves the worst mean.
      log_sd_shift: by how much the worst log sd.
    """

    draws: WeightedDraws
    lost: float
    log_weight_sd: float
    smoothed: psis.Smoothed
    mean_shift: Worst
    log_sd_shift: Worst

    @property
    def ess(self) -> float:
        """The effective sample size as a fraction of all draws."""
        return self.smoothed.ess / len(self.draws.z)

    @property
    def log_evidence(self) -> float:
        """The log of the average weight, in nats; not a number where the weights do not settle down."""
        return self.smoothed.log_mean + float(np.log1p(-self.lost)) if self.smoothed.usable else np.nan


def draw(
    guide: Guide, phi: PyTree, target: Target, rng: np.random.Generator, draws: int
) -> tuple[np.ndarray, np.ndarray]:
    """Independent draws of the guide, `(draws, dim)`, and `log p - log q` at them, `(draws,)`."""
    log_ratio, z = weighed_draws(guide, phi, target, rng, draws)
    return z, log_ratio


def weigh(z: np.ndarray, log_ratio: np.ndarray, names: Sequence[str]) -> Weighing:
    """Weigh draws `z`, `(draws, dim)`, by `log p - log q`; `names` are those of the coordinates."""
    # A draw without a density weighs nothing, but counts: the average weight is over all draws.
    finite = np.isfinite(log_ratio)
    smoothed = psis.smooth(log_ratio[finite])
    log_weight = np.full(len(z), -np.inf)
    log_weight[finite] = smoothed.log_weights
    shifts = _shifts(np.exp(smoothed.log_weights), z[finite], names)
    sd = float(log_ratio[finite].std()) if finite.any() else np.nan
    return Weighing(WeightedDraws(z, log_ratio, log_weight), 1 - float(finite.mean()), sd, smoothed, *shifts)


def _shifts(weights: np.ndarray, z: np.ndarray, names: Sequence[str]) -> tuple[Worst, Worst]:
    """How far weighing moves the means (in sds) and log sds of the coordinates: the worst of each."""
    if not names or not len(z):
        return Worst(0.0, "none"), Worst(0.0, "none")
    mean, sd = z.mean(axis=0), z.std(axis=0)
    weighed = weights @ z
    weighed_sd = np.sqrt(weights @ (z - weighed) ** 2)
    with np.errstate(divide="ignore"):
        means, log_sds = np.abs(weighed - mean) / sd, np.abs(np.log(weighed_sd / sd))
    worst, widest = int(np.argmax(means)), int(np.argmax(log_sds))
    return Worst(float(means[worst]), names[worst]), Worst(float(log_sds[widest]), names[widest])
