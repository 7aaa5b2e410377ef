"""Distributions of one number between bounds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.scipy.special as special

from vbppl.core.pytree import pytree
from vbppl.core.special import HALF_LOG_TWO_PI, betaln, log1mexp, xlog1py, xlogy
from vbppl.core.types import Array, ArrayLike
from vbppl.distributions.base import Distribution
from vbppl.distributions.constraints.scalar import greater_than_eq, interval, less_than_eq, real, unit_interval
from vbppl.distributions.families.real import Normal

FAR = -10.0  # below it a normal's probabilities come near the least numbers of 32 bits


@pytree
class Uniform(Distribution):
    """`p(x) = 1 / (high - low)` between `low` and `high`."""

    low: ArrayLike = 0.0
    high: ArrayLike = 1.0

    @property
    def support(self):
        return interval(self.low, self.high)

    def _sample(self, key, shape):
        return self.low + (self.high - self.low) * jax.random.uniform(key, shape, self.dtype)

    def _log_density(self, x):
        return -jnp.log(self.high - self.low)

    def _moments(self):
        return 0.5 * (self.low + self.high), jnp.square(self.high - self.low) / 12.0

    def cdf(self, x):
        return jnp.clip((x - self.low) / (self.high - self.low), 0.0, 1.0)

    def icdf(self, q):
        return self.low + (self.high - self.low) * q


@pytree
class Beta(Distribution):
    """`p(x) = x^(concentration1 - 1) (1 - x)^(concentration0 - 1) / B(concentration1, concentration0)`."""

    concentration1: ArrayLike
    concentration0: ArrayLike
    support = unit_interval

    def _sample(self, key, shape):
        a, b = (jnp.asarray(value, self.dtype) for value in (self.concentration1, self.concentration0))
        info = jnp.finfo(self.dtype)
        return jnp.clip(jax.random.beta(key, a, b, shape, self.dtype), info.tiny, 1 - info.epsneg)

    def _log_density(self, x):
        a, b = self.concentration1, self.concentration0
        return xlogy(a - 1.0, x) + xlog1py(b - 1.0, -x) - betaln(a, b)

    def _moments(self):
        a, b, total = self.concentration1, self.concentration0, self.concentration1 + self.concentration0
        return a / total, a * b / (jnp.square(total) * (total + 1.0))

    def cdf(self, x):
        return special.betainc(self.concentration1, self.concentration0, jnp.clip(x, 0.0, 1.0))


@pytree
class TruncatedNormal(Distribution):
    """A normal with `loc` and `scale`, given that it lies between `low` and `high` (`None`: no bound)."""

    loc: ArrayLike = 0.0
    scale: ArrayLike = 1.0
    low: ArrayLike | None = None
    high: ArrayLike | None = None

    @property
    def support(self):
        if self.high is None:
            return real if self.low is None else greater_than_eq(self.low)
        return less_than_eq(self.high) if self.low is None else interval(self.low, self.high)

    def _window(self) -> tuple[Array, Array, Array]:
        """The bounds `a < b` of the standard normal, on the side where its tail is small, and that side.

        The two tails mirror each other, and only the left one has a `cdf` that does not round to one.
        """
        low = -jnp.inf if self.low is None else (self.low - self.loc) / self.scale
        high = jnp.inf if self.high is None else (self.high - self.loc) / self.scale
        right = jnp.greater(low, 0)
        # A bound at infinity keeps its place in `where`, but the gradient must not meet it.
        return jnp.where(right, -high, low), jnp.where(right, -low, high), jnp.where(right, -1.0, 1.0)

    def _log_mass(self) -> Array:
        a, b, _ = self._window()
        log_b = _log_ndtr(b)
        finite = jnp.isfinite(a)
        gap = jnp.where(finite, log_b - _log_ndtr(jnp.where(finite, a, b - 1.0)), 1.0)
        return log_b + jnp.where(finite, log1mexp(gap), 0.0)

    def _sample(self, key, shape):
        a, b, side = self._window()
        # Never 0, whose quantile is minus infinity where the window has no lower end.
        u = jnp.maximum(jax.random.uniform(key, shape, self.dtype), jnp.finfo(self.dtype).tiny)
        far = b < FAR
        below = special.ndtr(a)
        # Each branch gets an argument that it can bear where the other is taken, lest gradients be NaN.
        near = special.ndtri(jnp.where(far, 0.5, below + u * (special.ndtr(b) - below)))
        log_a, log_b = (_log_ndtr(jnp.where(far, t, FAR)) for t in (jnp.maximum(a, jnp.finfo(self.dtype).min), b))
        log_p = jnp.logaddexp(jnp.log(u) + log_b, jnp.log1p(-u) + log_a)
        return jnp.clip(self.loc + self.scale * side * jnp.where(far, _far_quantile(log_p), near), self.low, self.high)

    def _log_density(self, x):
        return Normal(self.loc, self.scale).log_prob(x) - self._log_mass()

    def _moments(self):
        a, b, side = self._window()
        mass = self._log_mass()
        at_a, at_b = (jnp.exp(-0.5 * jnp.square(t) - HALF_LOG_TWO_PI - mass) for t in (a, b))
        first = at_a - at_b
        second = 1.0 + _edge(a) * at_a - _edge(b) * at_b
        return self.loc + self.scale * (side * first), jnp.square(self.scale) * (second - jnp.square(first))


def _far_quantile(log_p: Array) -> Array:
    """`Phi^-1(exp(log_p))` far below zero, by Newton's steps on `log Phi`: it is concave, so they all stay below."""
    x = -jnp.sqrt(-2.0 * log_p)
    for _ in range(4):
        x = jax.lax.stop_gradient(x)  # the last step alone has the right derivative, one over the slope
        log_cdf = special.log_ndtr(x)
        x = x - (log_cdf - log_p) / jnp.exp(-0.5 * jnp.square(x) - HALF_LOG_TWO_PI - log_cdf)
    return x


def _edge(t: Array) -> Array:
    return jnp.where(jnp.isfinite(t), t, 0.0)


def _log_ndtr(t: Array) -> Array:
    """`log Phi(t)`, which is 0 with gradient 0 at infinity."""
    return jnp.where(jnp.isfinite(t), special.log_ndtr(_edge(t)), 0.0)
