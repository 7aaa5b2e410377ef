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
from vbppl.core.special import FAR, HALF_LOG_TWO_PI, LOG_TWO, betaln, log1mexp, log1p_square, log_ndtr, log_tail
from vbppl.core.types import Array, ArrayLike
from vbppl.distributions.base import Distribution, ExpandedDistribution, Independent, MaskedDistribution
from vbppl.distributions.constraints.scalar import real
from vbppl.distributions.samplers import log_gamma


def core_of(dist: Any) -> Any:
    """What the wrappers are around that leave a family's location and scale as they are."""
    while isinstance(dist, (ExpandedDistribution, Independent, MaskedDistribution)):
        dist = dist.base_dist
    return dist


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
        spread = jnp.exp(0.5 * (jnp.log(half) - log_gamma(key_gamma, half, shape, dtype)))
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

    def cdf(self, x):
        return jnp.exp(self.log_cdf(x))

    def log_cdf(self, x):
        return self._log_below(self._standardised(x))

    def log_survival(self, x):
        return self._log_below(-self._standardised(x))

    def _log_below(self, u: Array) -> Array:
        df, u = jnp.broadcast_arrays(jnp.asarray(self.df, self.dtype), u)
        low = u < 0
        # With t = sqrt(df) sinh v the density in v is cosh(v)^-df, over a Beta function: log-concave, whatever df is.
        w, log_norm = jnp.where(low, -u, u) / jnp.sqrt(df), betaln(0.5 * df, 0.5)
        far = w > FAR
        start = jnp.arcsinh(jnp.where(far, 1.0, w))
        middle = (df * jnp.square(start) < 1.0) & (start < 2.0) & ~far
        start = jnp.where(far, jnp.log(2.0 * jnp.where(far, w, 1.0)), start)
        outer = log_tail(lambda s: -df * _log_cosh(jnp.where(middle, 2.0, start) + s), df, steps=2) - log_norm
        # Next to the middle one half, less what lies between, by Gauss-Legendre quadrature.
        nodes, weights = (
            jnp.asarray(t, df.dtype).reshape(-1, *(1,) * df.ndim) for t in np.polynomial.legendre.leggauss(16)
        )
        inner = jnp.where(middle, start, 0.0)
        masses = 0.5 * weights * jnp.exp(-df * _log_cosh(0.5 * inner * (nodes + 1.0)) - log_norm)
        between = inner * jnp.sum(masses, axis=0)
        inner = jnp.log(jnp.where(low, 0.5 - between, 0.5 + between))
        return jnp.where(middle, inner, jnp.where(low, outer, jnp.log1p(-jnp.exp(jnp.where(low, -1.0, outer)))))


def _log_cosh(v: Array) -> Array:
    """`log cosh v` for `v >= 0`, to rounding of itself, since it counts `df` times."""
    near = jnp.minimum(v, 20.0)
    return 0.5 * jnp.log1p(jnp.square(jnp.sinh(near))) + (v - near)


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
        # Below -10 it is 0 in any precision, with slope zero, where that of the outer exponential would be NaN.
        return jnp.exp(-jnp.exp(-jnp.maximum(self._standardised(x), -10.0)))

    def log_cdf(self, x):
        return -jnp.exp(-self._standardised(x))

    def log_survival(self, x):
        u = self._standardised(x)
        # Far out the probability is exp(-u), which may be smaller than any number.
        far = u > 30.0
        return jnp.where(far, -u, log1mexp(jnp.exp(-jnp.where(far, 0.0, jnp.maximum(u, -10.0)))))

    def icdf(self, q):
        return self.loc - self.scale * jnp.log(-jnp.log(q))


@pytree
class AsymmetricLaplace(LocationScale):
    """A Laplace with the scale `scale asymmetry` to the left of `loc`, and `scale / asymmetry` to the right.

    Its quantile at `asymmetry^2 / (1 + asymmetry^2)` is `loc`: so it stands for quantile regression.
    """

    loc: ArrayLike = 0.0
    scale: ArrayLike = 1.0
    asymmetry: ArrayLike = 1.0

    def standard(self, key, shape, dtype):
        left, right = jax.random.exponential(key, (2, *shape), dtype)
        return right / self.asymmetry - left * self.asymmetry

    def _fall(self, u: Array) -> Array:
        """How far down the density is from its top, in nats."""
        return jnp.where(u < 0, -u / self.asymmetry, u * self.asymmetry)

    def log_prob(self, x):
        k = self.asymmetry
        return -self._fall(self._standardised(x)) - jnp.log(self.scale) - jnp.log(k + 1.0 / k)

    def _moments(self):
        k, scale = self.asymmetry, self.scale
        return self.loc + scale * (1.0 / k - k), jnp.square(scale) * (jnp.square(1.0 / k) + jnp.square(k))

    def cdf(self, x):
        u, square = self._standardised(x), jnp.square(self.asymmetry)
        tail = jnp.exp(-self._fall(u)) / (1.0 + square)
        return jnp.where(u < 0, square * tail, 1.0 - tail)

    def log_cdf(self, x):
        return self._log_tail(x, -1.0)

    def log_survival(self, x):
        return self._log_tail(x, 1.0)

    def _log_tail(self, x: ArrayLike, side: float) -> Array:
        u, square = self._standardised(x), jnp.square(self.asymmetry)
        both = -self._fall(u) - jnp.log1p(square)
        tail = jnp.where(u < 0, both + jnp.log(square), both)
        return jnp.where((u < 0) == (side < 0), tail, jnp.log1p(-jnp.exp(tail)))

    def icdf(self, q):
        k = jnp.asarray(self.asymmetry, self.dtype)
        square, q = jnp.square(k), jnp.asarray(q, self.dtype)
        left = q < square / (1.0 + square)
        low, high = jnp.where(left, q, 0.5) * (1.0 + 1.0 / square), jnp.where(left, 0.5, 1.0 - q) * (1.0 + square)
        return self.loc + self.scale * jnp.where(left, k * jnp.log(low), -jnp.log(high) / k)


@pytree
class SkewNormal(LocationScale):
    """`p(x) = 2 phi(u) Phi(skew u) / scale` with `u = (x - loc) / scale`; `skew` 0 is the normal (Azzalini 1985)."""

    loc: ArrayLike = 0.0
    scale: ArrayLike = 1.0
    skew: ArrayLike = 0.0

    @property
    def _delta(self) -> Array:
        skew = jnp.asarray(self.skew, self.dtype)
        return skew / jnp.hypot(1.0, skew)

    def standard(self, key, shape, dtype):
        first, second = jax.random.normal(key, (2, *shape), dtype)
        return self._delta * jnp.abs(first) + second / jnp.hypot(1.0, jnp.asarray(self.skew, dtype))

    def log_prob(self, x):
        u = self._standardised(x)
        log_scale = jnp.log(self.scale) + (HALF_LOG_TWO_PI - LOG_TWO)
        return -0.5 * jnp.square(u) - log_scale + log_ndtr(self.skew * u)

    def _moments(self):
        mean = self._delta * np.sqrt(2 / np.pi).item()
        return self.loc + self.scale * mean, jnp.square(self.scale) * (1.0 - jnp.square(mean))
