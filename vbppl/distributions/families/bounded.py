"""Distributions of one number between bounds."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.scipy.special as special
import numpy as np

from vbppl.core.pytree import pytree
from vbppl.core.special import HALF_LOG_TWO_PI, log1mexp, xlog1py, xlogy
from vbppl.core.types import Array, ArrayLike
from vbppl.distributions.base import Distribution
from vbppl.distributions.constraints.base import Bijector
from vbppl.distributions.constraints.scalar import greater_than, interval, less_than, real, unit_interval


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

    def log_prob(self, x):
        inside = jnp.greater_equal(x, self.low) & jnp.less_equal(x, self.high)
        return jnp.where(inside, -jnp.log(self.high - self.low), -jnp.inf)

    @property
    def mean(self):
        return self._fill(0.5 * (self.low + self.high))

    @property
    def variance(self):
        return self._fill(jnp.square(self.high - self.low) / 12.0)

    def cdf(self, x):
        return jnp.clip((x - self.low) / (self.high - self.low), 0.0, 1.0)

    def icdf(self, q):
        return self.low + (self.high - self.low) * q


@pytree
class Beta(Distribution):
    """`p(x) = x^(concentration1 - 1) (1 - x)^(concentration0 - 1) / B(concentration1, concentration0)`."""

    concentration1: ArrayLike
    concentration0: ArrayLike
    support: ClassVar[Bijector] = unit_interval

    def _sample(self, key, shape):
        a = jnp.asarray(self.concentration1, self.dtype)
        b = jnp.asarray(self.concentration0, self.dtype)
        info = jnp.finfo(self.dtype)
        return jnp.clip(jax.random.beta(key, a, b, shape, self.dtype), info.tiny, 1 - info.epsneg)

    def log_prob(self, x):
        inside = jnp.greater_equal(x, 0) & jnp.less_equal(x, 1)
        x = jnp.where(inside, x, 0.5)
        a, b = self.concentration1, self.concentration0
        log_prob = xlogy(a - 1.0, x) + xlog1py(b - 1.0, -x) - special.betaln(a, b)
        return jnp.where(inside, log_prob, -jnp.inf)

    @property
    def mean(self):
        return self._fill(self.concentration1 / (self.concentration1 + self.concentration0))

    @property
    def variance(self):
        total = self.concentration1 + self.concentration0
        return self._fill(self.concentration1 * self.concentration0 / (jnp.square(total) * (total + 1.0)))

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
        if self.low is None and self.high is None:
            return real
        if self.high is None:
            return greater_than(self.low)
        if self.low is None:
            return less_than(self.high)
        return interval(self.low, self.high)

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
        if self.low is None and self.high is None:
            return jnp.zeros_like(b)
        log_b = _log_ndtr(b)
        finite = jnp.isfinite(a)
        gap = jnp.where(finite, log_b - _log_ndtr(jnp.where(finite, a, b - 1.0)), 1.0)
        return log_b + jnp.where(finite, log1mexp(gap), 0.0)

    def _sample(self, key, shape):
        a, b, side = self._window()
        u = jax.random.uniform(key, shape, self.dtype)
        below = special.ndtr(a)
        x = side * special.ndtri(below + u * (special.ndtr(b) - below))
        x = self.loc + self.scale * x
        if self.low is not None:
            x = jnp.maximum(x, self.low)
        return x if self.high is None else jnp.minimum(x, self.high)

    def log_prob(self, x):
        u = (x - self.loc) / self.scale
        log_prob = -0.5 * jnp.square(u) - (jnp.log(self.scale) + HALF_LOG_TWO_PI) - self._log_mass()
        inside = jnp.ones(np.shape(log_prob), bool)
        if self.low is not None:
            inside &= jnp.greater_equal(x, self.low)
        if self.high is not None:
            inside &= jnp.less_equal(x, self.high)
        return jnp.where(inside, log_prob, -jnp.inf)

    def _moments(self) -> tuple[Array, Array]:
        a, b, side = self._window()
        mass = self._log_mass()
        at_a, at_b = (jnp.exp(-0.5 * jnp.square(t) - HALF_LOG_TWO_PI - mass) for t in (a, b))
        first = at_a - at_b
        second = 1.0 + _edge(a) * at_a - _edge(b) * at_b
        return side * first, second - jnp.square(first)

    @property
    def mean(self):
        return self._fill(self.loc + self.scale * self._moments()[0])

    @property
    def variance(self):
        return self._fill(jnp.square(self.scale) * self._moments()[1])


def _edge(t: Array) -> Array:
    return jnp.where(jnp.isfinite(t), t, 0.0)


def _log_ndtr(t: Array) -> Array:
    """`log Phi(t)`, which is 0 with gradient 0 at infinity."""
    finite = jnp.isfinite(t)
    return jnp.where(finite, special.log_ndtr(jnp.where(finite, t, 0.0)), 0.0)
