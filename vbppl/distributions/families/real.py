"""Distributions of one number on the whole real line: families of location and scale.

Each is `x = loc + scale u` for a standard `u`: a family names the sampler of `u`, and writes its densities in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import jax.scipy.special as special
import jax.scipy.stats as stats
import numpy as np

from vbppl.core.pytree import pytree
from vbppl.core.special import HALF_LOG_TWO_PI, LOG_TWO, betaln, log1mexp, log1p_square, log_ndtr
from vbppl.core.types import Array, ArrayLike
from vbppl.distributions.base import Distribution
from vbppl.distributions.constraints.scalar import real


class LocationScale(Distribution):
    """What the families share; `standard(key, shape, dtype)` draws `u`."""

    loc: ArrayLike
    scale: ArrayLike
    support = real
    standard: ClassVar[Callable[..., Array]]

    @property
    def location_scale(self) -> tuple[ArrayLike, ArrayLike]:
        return self.loc, self.scale

    def _standardised(self, x: ArrayLike) -> Any:
        return (x - self.loc) / self.scale

    def _sample(self, key, shape):
        return self.loc + self.scale * self.standard(key, shape, self.dtype)


@pytree
class _Standardised(LocationScale):
    """Families with no other parameters."""

    loc: ArrayLike = 0.0
    scale: ArrayLike = 1.0

    def _log_below(self, u: Array) -> Array:
        """`log P(standard <= u)`."""
        raise NotImplementedError

    def log_cdf(self, x):
        return self._log_below(self._standardised(x))

    def log_survival(self, x):
        return self._log_below(-self._standardised(x))  # all but Gumbel's are symmetric


@pytree
class Normal(_Standardised):
    """`log p(x) = -((x - loc) / scale)^2 / 2 - log scale - log(2 pi) / 2`; `scale` is the standard deviation.

    >>> round(float(Normal(0.0, 2.0).log_prob(1.0)), 4)
    -1.7371
    """

    standard = staticmethod(jax.random.normal)

    def log_prob(self, x):
        u = self._standardised(x)
        return -0.5 * jnp.square(u) - (jnp.log(self.scale) + HALF_LOG_TWO_PI)

    def _moments(self):
        return self.loc, jnp.square(self.scale)

    def cdf(self, x):
        return special.ndtr(self._standardised(x))

    def _log_below(self, u):
        return log_ndtr(u)

    def icdf(self, q):
        return self.loc + self.scale * special.ndtri(q)


@pytree
class StudentT(LocationScale):
    """Student's t with `df` degrees of freedom, moved by `loc` and stretched by `scale`."""

    df: ArrayLike
    loc: ArrayLike = 0.0
    scale: ArrayLike = 1.0

    def standard(self, key, shape, dtype):
        # JAX's draws are infinite where the Gamma underflows: 1.3% of them for a `df` of 0.1 in 32 bits.
        key_normal, key_gamma = jax.random.split(key)
        half = 0.5 * jnp.asarray(self.df, dtype)
        spread = jnp.exp(0.5 * (jnp.log(half) - jax.random.loggamma(key_gamma, half, shape, dtype)))
        largest = jnp.finfo(dtype).max
        draws = jax.random.normal(key_normal, shape, dtype) * jnp.minimum(spread, largest)
        return jnp.clip(draws, -largest, largest)

    def log_prob(self, x):
        # JAX's formula loses 0.5 nats at a `df` of 1e6 in 32 bits, and is -inf where `x^2` overflows.
        df = jnp.asarray(self.df, self.dtype)
        log_norm = betaln(0.5, 0.5 * df) + 0.5 * jnp.log(df) + jnp.log(self.scale)
        return -0.5 * (df + 1.0) * log1p_square(self._standardised(x) / jnp.sqrt(df)) - log_norm

    def _moments(self):
        df = jnp.where(jnp.greater(self.df, 2), self.df, 3.0)
        finite = jnp.square(self.scale) * df / (df - 2)
        heavy = jnp.where(jnp.greater(self.df, 1), jnp.inf, jnp.nan)
        mean = jnp.where(jnp.greater(self.df, 1), self.loc, jnp.nan)
        return mean, jnp.where(jnp.greater(self.df, 2), finite, heavy)


@pytree
class Cauchy(_Standardised):
    """`p(x) = 1 / (pi scale (1 + ((x - loc) / scale)^2))`; it has neither mean nor variance."""

    standard = staticmethod(jax.random.cauchy)

    def log_prob(self, x):
        return -log1p_square(self._standardised(x)) - jnp.log(self.scale) - np.log(np.pi).item()

    def cdf(self, x):
        return jnp.arctan2(1.0, -self._standardised(x)) / np.pi

    def _log_below(self, u):
        above = jnp.log1p(-jnp.arctan2(1.0, jnp.maximum(u, 0.0)) / np.pi)
        return jnp.where(u > 0, above, jnp.log(jnp.arctan2(1.0, -u)) - np.log(np.pi).item())

    def icdf(self, q):
        # In the tails the distance to the nearer end counts, which `q - 0.5` has rounded away.
        end = jnp.where(q < 0.5, -1.0, 1.0) / jnp.tan(np.pi * jnp.minimum(q, 1.0 - q))
        return self.loc + self.scale * jnp.where(jnp.abs(q - 0.5) < 0.25, jnp.tan(np.pi * (q - 0.5)), end)


@pytree
class Laplace(_Standardised):
    """`p(x) = exp(-|x - loc| / scale) / (2 scale)`."""

    standard = staticmethod(jax.random.laplace)

    def log_prob(self, x):
        return stats.laplace.logpdf(x, self.loc, self.scale)

    def _moments(self):
        return self.loc, 2.0 * jnp.square(self.scale)

    def cdf(self, x):
        return stats.laplace.cdf(x, self.loc, self.scale)

    def _log_below(self, u):
        below = jnp.minimum(u, 0.0) - LOG_TWO
        return jnp.where(u < 0, below, jnp.log1p(-0.5 * jnp.exp(-jnp.maximum(u, 0.0))))

    def icdf(self, q):
        return self.loc + self.scale * jnp.where(q < 0.5, jnp.log(2.0 * q), -jnp.log(2.0 * (1.0 - q)))


@pytree
class Logistic(_Standardised):
    """The distribution whose `cdf` is `1 / (1 + exp(-(x - loc) / scale))`."""

    standard = staticmethod(jax.random.logistic)

    def log_prob(self, x):
        u = self._standardised(x)
        return -jax.nn.softplus(u) - jax.nn.softplus(-u) - jnp.log(self.scale)

    def _moments(self):
        return self.loc, jnp.square(self.scale) * (np.pi**2 / 3)

    def cdf(self, x):
        return jax.nn.sigmoid(self._standardised(x))

    def _log_below(self, u):
        return jax.nn.log_sigmoid(u)

    def icdf(self, q):
        return self.loc + self.scale * special.logit(q)


@pytree
class Gumbel(_Standardised):
    """The limit of maxima, whose `cdf` is `exp(-exp(-(x - loc) / scale))`."""

    standard = staticmethod(jax.random.gumbel)

    def log_prob(self, x):
        u = self._standardised(x)
        return -u - jnp.exp(-u) - jnp.log(self.scale)

    def _moments(self):
        return self.loc + self.scale * np.euler_gamma, jnp.square(self.scale) * (np.pi**2 / 6)

    def cdf(self, x):
        return jnp.exp(-jnp.exp(-self._standardised(x)))

    def log_cdf(self, x):
        return -jnp.exp(-self._standardised(x))

    def log_survival(self, x):
        u = self._standardised(x)
        # Far out the probability is exp(-u), which may be smaller than any number.
        far = u > 30.0
        return jnp.where(far, -u, log1mexp(jnp.exp(-jnp.where(far, 0.0, u))))

    def icdf(self, q):
        return self.loc - self.scale * jnp.log(-jnp.log(q))
