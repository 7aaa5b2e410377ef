"""Distributions of one positive number.

Off the support the log density is `-inf`, with gradient zero. At the edge itself both are what the formula
says in the limit, as long as that is finite: an exponential, or a Gamma with concentration one, at `x = 0`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.scipy.special as special
import numpy as np

from vbppl.core.pytree import pytree
from vbppl.core.special import (
    HALF_LOG_TWO_PI,
    LARGE,
    LOG_TWO,
    log1mexp,
    log1p_square,
    log_gamma_term,
    log_ndtr,
    log_of_tail,
    log_tail,
    tails,
    xlogy,
    zero_times_log,
)
from vbppl.core.types import Array, ArrayLike
from vbppl.distributions.base import Distribution, Renamed
from vbppl.distributions.constraints.scalar import greater_than_eq, nonnegative, positive
from vbppl.distributions.families.real import Normal
from vbppl.distributions.samplers import log_gamma


def _where_finite(tail: ArrayLike, order: int, moment: Callable[[Array], Array]) -> Array:
    """`moment(tail)` where the tail falls fast enough for a moment of this order, and infinity elsewhere."""
    finite = jnp.greater(tail, order)
    return jnp.where(finite, moment(jnp.where(finite, tail, 3.0)), jnp.inf)


def _log1mexp(x: Array) -> Array:
    """`log(1 - exp(-x))` for `x >= 0`, which is `-inf` at 0, with gradient zero there."""
    some = x > 0
    return jnp.where(some, log1mexp(jnp.where(some, x, 1.0)), -jnp.inf)


def _representable(x: Array) -> Array:
    """`x`, where rounded to zero or to infinity the least or the largest number: a draw lies on the support."""
    info = jnp.finfo(x.dtype)
    return jnp.clip(x, info.tiny, info.max)


@pytree
class LogNormal(Distribution):
    """`log x` is normal with mean `loc` and standard deviation `scale`."""

    loc: ArrayLike = 0.0
    scale: ArrayLike = 1.0
    support = positive

    @property
    def in_coordinates(self):
        return Normal(self.loc, self.scale)

    def _sample(self, key, shape):
        return _representable(jnp.exp(self.loc + self.scale * jax.random.normal(key, shape, self.dtype)))

    def _log_density(self, x):
        log_x = jnp.log(x)
        return -0.5 * jnp.square((log_x - self.loc) / self.scale) - log_x - (jnp.log(self.scale) + HALF_LOG_TWO_PI)

    def _moments(self):
        squared = jnp.square(self.scale)
        # One exponential: `expm1(squared)` may overflow where the variance does not.
        log_variance = 2.0 * (self.loc + squared) + jnp.log(-jnp.expm1(-squared))
        return jnp.exp(self.loc + 0.5 * squared), jnp.exp(log_variance)

    def cdf(self, x):
        return special.ndtr((jnp.log(jnp.maximum(x, 0)) - self.loc) / self.scale)

    def icdf(self, q):
        return jnp.exp(self.loc + self.scale * special.ndtri(q))

    def log_cdf(self, x):
        return self._log_tail(x, 1.0, -jnp.inf)

    def log_survival(self, x):
        return self._log_tail(x, -1.0, 0.0)

    def _log_tail(self, x: ArrayLike, side: float, outside: float) -> Array:
        inside = jnp.greater(x, 0)
        u = (jnp.log(jnp.where(inside, x, 1.0)) - self.loc) / self.scale
        return jnp.where(inside, log_ndtr(side * u), outside)


@pytree
class HalfNormal(Distribution):
    """`|u|`, where `u` is normal with mean zero and standard deviation `scale`."""

    scale: ArrayLike = 1.0
    support = nonnegative

    def _sample(self, key, shape):
        return jnp.abs(self.scale * jax.random.normal(key, shape, self.dtype))

    def _log_density(self, x):
        return -0.5 * jnp.square(x / self.scale) - (jnp.log(self.scale) + (HALF_LOG_TWO_PI - LOG_TWO))

    def _moments(self):
        return self.scale * np.sqrt(2 / np.pi).item(), jnp.square(self.scale) * (1 - 2 / np.pi)

    def cdf(self, x):
        return special.erf(jnp.maximum(x, 0) / (self.scale * 2**0.5))

    def icdf(self, q):
        return self.scale * 2**0.5 * special.erfinv(q)

    def log_survival(self, x):
        u = jnp.maximum(x, 0) / self.scale
        return jnp.where(u < 1, jnp.log1p(-self.cdf(jnp.minimum(x, self.scale))), log_ndtr(-u) + LOG_TWO)


@pytree
class HalfCauchy(Distribution):
    """`p(x) = 2 / (pi scale (1 + (x / scale)^2))` for `x >= 0`; it has neither mean nor variance."""

    scale: ArrayLike = 1.0
    support = nonnegative

    def _sample(self, key, shape):
        return jnp.abs(self.scale * jax.random.cauchy(key, shape, self.dtype))

    def _log_density(self, x):
        return np.log(2 / np.pi).item() - jnp.log(self.scale) - log1p_square(x / self.scale)

    def cdf(self, x):
        return jnp.arctan(jnp.maximum(x, 0) / self.scale) * (2 / np.pi)

    def icdf(self, q):
        return self.scale * jnp.tan(q * (np.pi / 2))

    def log_survival(self, x):
        u = jnp.maximum(x, 0) / self.scale
        far = jnp.log(jnp.arctan2(1.0, u)) + np.log(2 / np.pi).item()
        return jnp.where(u < 1, jnp.log1p(-self.cdf(jnp.minimum(x, self.scale))), far)


@pytree
class Exponential(Distribution):
    """`p(x) = rate exp(-rate x)` for `x >= 0`."""

    rate: ArrayLike = 1.0
    support = nonnegative

    def _sample(self, key, shape):
        return jax.random.exponential(key, shape, self.dtype) / self.rate

    def _log_density(self, x):
        return jnp.log(self.rate) - self.rate * x

    def _moments(self):
        return 1.0 / self.rate, 1.0 / jnp.square(self.rate)

    def cdf(self, x):
        return -jnp.expm1(-self.rate * jnp.maximum(x, 0))

    def icdf(self, q):
        return -jnp.log1p(-q) / self.rate

    def log_cdf(self, x):
        return _log1mexp(-self.log_survival(x))

    def log_survival(self, x):
        return -self.rate * jnp.maximum(x, 0)


@pytree
class Gamma(Distribution):
    """`p(x) = rate^concentration x^(concentration - 1) exp(-rate x) / Gamma(concentration)`."""

    concentration: ArrayLike
    rate: ArrayLike = 1.0
    support = positive
    domain = nonnegative

    def _sample(self, key, shape):
        root = jnp.exp(0.5 * self._log_standard(key, shape))
        return _representable(root / self.rate * root)

    def _log_standard(self, key: Array, shape: tuple[int, ...]) -> Array:
        """`log x` for a rate of one. It may be far out of the range of a number, its root with the rate is less so."""
        return log_gamma(key, self.concentration, shape, self.dtype)

    def _log_density(self, x):
        a, rate = self.concentration, self.rate
        edge = jnp.equal(x, 0)
        inside = jnp.where(edge, 1.0, x)
        log_x = jnp.log(inside)
        density = log_gamma_term(a, rate * inside, jnp.log(rate) + log_x) - log_x
        # At zero the density is finite for a concentration of one alone.
        return jnp.where(edge, zero_times_log(a - 1.0) + jnp.log(rate) - rate * x, density)

    def _moments(self):
        return self.concentration / self.rate, self.concentration / jnp.square(self.rate)

    def cdf(self, x):
        return gamma_tails(self.concentration, self.rate * jnp.maximum(x, 0))[0]

    def log_cdf(self, x):
        return log_gamma_tails(self.concentration, self.rate * jnp.maximum(x, 0))[0]

    def log_survival(self, x):
        return log_gamma_tails(self.concentration, self.rate * jnp.maximum(x, 0))[1]


def gamma_tails(a: ArrayLike, x: ArrayLike) -> tuple[Array, Array]:
    """The probabilities below and above `x` of a Gamma of concentration `a` and rate one."""
    large, wide = jnp.greater(a, LARGE), Gamma(jnp.maximum(a, LARGE))
    small, at = jnp.where(large, 1.0, a), jnp.where(large, 1.0, x)
    lower, upper = tails(wide.log_prob, x, wide.mean, jnp.sqrt(wide.variance))
    return (jnp.where(large, lower, special.gammainc(small, at)), jnp.where(large, upper, special.gammaincc(small, at)))


def log_gamma_tails(a: ArrayLike, x: ArrayLike) -> tuple[Array, Array]:
    """The logarithms of `gamma_tails`."""
    lower, upper = gamma_tails(a, x)
    a, x = jnp.broadcast_arrays(jnp.asarray(a, lower.dtype), jnp.asarray(x, lower.dtype))

    def beyond(outwards: float) -> Callable[[Array], Array]:
        def log_tail_where(far: Array) -> Array:
            inside = far & (x > 0)
            # Elsewhere any point of a tail will do.
            density, at = Gamma(jnp.where(inside, a, 1.0)), jnp.where(inside, x, 4.0 if outwards > 0 else 0.25)
            # The mass per log x is log-concave, whatever the concentration.
            log_mass = lambda s: density.log_prob(at * jnp.exp(outwards * s)) + jnp.log(at) + outwards * s  # noqa: E731
            return jnp.where(inside, log_tail(log_mass, at), -jnp.inf)

        return log_tail_where

    return log_of_tail(lower, upper, beyond(-1.0)), log_of_tail(upper, lower, beyond(1.0))


@pytree
class InverseGamma(Distribution):
    """`1 / x` is `Gamma(concentration, rate)`; the usual name of `rate` here is scale."""

    concentration: ArrayLike
    rate: ArrayLike = 1.0
    support = positive

    def _sample(self, key, shape):
        root = jnp.exp(-0.5 * Gamma(self.concentration, self.rate)._log_standard(key, shape))
        return _representable(root * self.rate * root)

    def _log_density(self, x):
        log_x = jnp.log(x)
        return log_gamma_term(self.concentration, self.rate / x, jnp.log(self.rate) - log_x) - log_x

    def _moments(self):
        a, rate = self.concentration, self.rate
        mean = _where_finite(a, 1, lambda a: rate / (a - 1.0))
        return mean, _where_finite(a, 2, lambda a: jnp.square(rate / (a - 1.0)) / (a - 2.0))

    def cdf(self, x):
        inside = positive.check(x)
        x = positive.replaced(x, ~inside)
        return jnp.where(inside, gamma_tails(self.concentration, self.rate / x)[1], 0.0)

    def log_cdf(self, x):
        return self._log_tails(x, 1, -jnp.inf)

    def log_survival(self, x):
        return self._log_tails(x, 0, 0.0)

    def _log_tails(self, x: ArrayLike, which: int, outside: float) -> Array:
        inside = positive.check(x)
        x = positive.replaced(x, ~inside)
        return jnp.where(inside, log_gamma_tails(self.concentration, self.rate / x)[which], outside)


@pytree
class Chi2(Renamed):
    """The sum of `df` squared standard normals."""

    df: ArrayLike

    @property
    def base_dist(self) -> Gamma:
        """The same distribution as a Gamma."""
        return Gamma(0.5 * self.df, 0.5)


@pytree
class Weibull(Distribution):
    """The distribution whose `cdf` is `1 - exp(-(x / scale)^concentration)`."""

    scale: ArrayLike
    concentration: ArrayLike
    support = positive
    domain = nonnegative

    def _sample(self, key, shape):
        u = jax.random.exponential(key, shape, self.dtype)
        root = jnp.power(u, 0.5 / self.concentration)
        return _representable(root * self.scale * root)

    def _log_density(self, x):
        u, k = x / self.scale, self.concentration
        return jnp.log(k) - jnp.log(self.scale) + xlogy(k - 1.0, u) - jnp.exp(xlogy(k, u))

    def _moments(self):
        t = 1.0 / jnp.asarray(self.concentration, self.dtype)
        return self.scale * jnp.exp(special.gammaln(1.0 + t)), lambda: self._variance(t)

    def _variance(self, t):
        # log(second moment / mean^2), of order t^2: by the series of log Gamma(1 + t) where that would cancel.
        n, small = jnp.arange(2.0, 24.0, dtype=self.dtype), t < 0.1
        powers = jnp.power(-jnp.where(small, t, 0.0)[..., None], n)
        series = jnp.sum(special.zeta(n, 1.0) * powers * (2.0**n - 2.0) / n, axis=-1)
        excess = jnp.where(small, series, special.gammaln(1.0 + 2.0 * t) - 2.0 * special.gammaln(1.0 + t))
        return jnp.square(self.mean) * jnp.expm1(excess)

    def cdf(self, x):
        return -jnp.expm1(self.log_survival(x))

    def log_cdf(self, x):
        return _log1mexp(-self.log_survival(x))

    def log_survival(self, x):
        u = jnp.maximum(x, 0) / self.scale
        return -jnp.exp(xlogy(self.concentration, u))

    def icdf(self, q):
        return self.scale * jnp.power(-jnp.log1p(-q), 1.0 / self.concentration)


@pytree
class Pareto(Distribution):
    """`p(x) = alpha scale^alpha / x^(alpha + 1)` for `x >= scale`."""

    scale: ArrayLike
    alpha: ArrayLike

    @property
    def support(self):
        return greater_than_eq(self.scale)

    def _sample(self, key, shape):
        root = jnp.exp(0.5 * jax.random.exponential(key, shape, self.dtype) / self.alpha)
        return jnp.clip(root * self.scale * root, self.scale, jnp.finfo(self.dtype).max)

    def _log_density(self, x):
        return jnp.log(self.alpha) - self.alpha * self._log_ratio(x) - jnp.log(x)

    def _log_ratio(self, x: Array) -> Array:
        """`log(x / scale)`: next to the scale the logarithms would cancel, far from it the ratio may overflow."""
        near = jnp.less(x, 2.0 * self.scale)
        return jnp.where(
            near, jnp.log1p(jnp.where(near, x - self.scale, 0.0) / self.scale), jnp.log(x) - jnp.log(self.scale)
        )

    def _moments(self):
        alpha, scale = self.alpha, self.scale
        mean = _where_finite(alpha, 1, lambda a: a * scale / (a - 1.0))
        return mean, _where_finite(alpha, 2, lambda a: jnp.square(scale / (a - 1.0)) * a / (a - 2.0))

    def cdf(self, x):
        return -jnp.expm1(self.log_survival(x))

    def log_cdf(self, x):
        return _log1mexp(-self.log_survival(x))

    def log_survival(self, x):
        return -self.alpha * self._log_ratio(jnp.maximum(x, self.scale))

    def icdf(self, q):
        return self.scale * jnp.exp(-jnp.log1p(-q) / self.alpha)
