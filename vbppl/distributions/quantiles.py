"""A site of a heavy-tailed family seen by the quantiles of its prior.

A Cauchy has no variance, and where the data say little its posterior has none either. No normal reaches into such
tails, nor does a mixture of normals. With `F` the cumulative distribution function of the prior, and `Phi` that of a
standard normal,

    value = F^-1(Phi(z)),    log |dvalue/dz| = log phi(z) - log p(value),

the prior of `z` is a standard normal, so the tails of its posterior are no heavier than one (the parametrisation that
Stan's user's guide, "Reparameterization", has for Cauchy priors). It is a change of coordinates only.

    Cauchy:      value = loc + scale tan(pi (Phi(z) - 1/2)),        HalfCauchy:  value = scale tan(pi Phi(z) / 2).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.scipy import special

from vbppl.core.pytree import pytree
from vbppl.core.special import HALF_LOG_TWO_PI, log1p_square
from vbppl.core.types import Array, ArrayLike
from vbppl.distributions.constraints.base import as_float
from vbppl.distributions.constraints.scalar import Positive, Real
from vbppl.distributions.families.positive import HalfCauchy
from vbppl.distributions.families.real import Cauchy, core_of

NEAREST = 1e-18  # angle, from where on slopes in 32 bits overflow: 8.8 sds out, where a quantile stands still


def by_quantiles(dist: Any) -> Any:
    """The bijector from a standard normal onto a site's values, `F^-1(Phi(z))`; None of a family that has none here."""
    core = core_of(dist)
    if isinstance(core, HalfCauchy):
        return HalfCauchyQuantiles(core.scale)
    return CauchyQuantiles(core.loc, core.scale) if isinstance(core, Cauchy) else None


@pytree
class CauchyQuantiles(Real):
    """All real numbers, by the quantiles of a Cauchy."""

    loc: ArrayLike
    scale: ArrayLike

    def forward_and_log_det(self, z):
        z = as_float(z)
        # Near the middle the distance to it counts, in the tails that to the nearer end.
        middle = jnp.tan(jnp.pi / 2 * special.erf(z / np.sqrt(2.0)))
        t = jnp.where(jnp.abs(z) < 0.5, middle, jnp.sign(z) * _far(jnp.pi * special.ndtr(-jnp.abs(z))))
        log_det = jnp.log(self.scale) + np.log(np.pi) + log1p_square(t) - z**2 / 2 - HALF_LOG_TWO_PI
        return self.loc + self.scale * t, log_det

    def inverse(self, x):
        u = (as_float(x) - self.loc) / self.scale
        return -jnp.sign(u) * special.ndtri(jnp.arctan2(1.0, jnp.abs(u)) / np.pi)


@pytree
class HalfCauchyQuantiles(Positive):
    """Positive numbers, by the quantiles of a half-Cauchy."""

    scale: ArrayLike

    def forward_and_log_det(self, z):
        z = as_float(z)
        near = jnp.tan(jnp.pi / 2 * jnp.maximum(special.ndtr(jnp.minimum(z, 0.0)), NEAREST))
        t = jnp.where(z < 0, near, _far(jnp.pi / 2 * special.ndtr(-jnp.maximum(z, 0.0))))
        log_det = jnp.log(self.scale) + np.log(np.pi / 2) + log1p_square(t) - z**2 / 2 - HALF_LOG_TWO_PI
        return self.scale * t, log_det

    def inverse(self, x):
        u = as_float(x) / self.scale
        below, above = special.ndtri(2 / np.pi * jnp.arctan(u)), special.ndtri(2 / np.pi * jnp.arctan2(1.0, u))
        return jnp.where(u < 1, below, -above)


def _far(angle: Array) -> Array:
    """The quantile at this angle from the end of the upper tail."""
    return 1 / jnp.tan(jnp.maximum(angle, NEAREST))


QUANTILES = CauchyQuantiles, HalfCauchyQuantiles
