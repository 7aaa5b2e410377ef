"""Distributions of counts without an upper bound, and those whose probability is itself random."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.scipy.special as special

from vbppl.core.pytree import pytree, set_field
from vbppl.core.special import betaln, xlogy
from vbppl.core.types import Array, ArrayLike
from vbppl.distributions.base import Distribution
from vbppl.distributions.constraints.base import Bijector
from vbppl.distributions.constraints.integer import integer_interval, nonnegative_integer
from vbppl.distributions.families.bounded import Beta
from vbppl.distributions.families.finite import Binomial
from vbppl.distributions.families.positive import Gamma


class _Count(Distribution):
    """What all counts share: they cannot be reparameterised."""

    is_discrete: ClassVar[bool] = True
    has_rsample: ClassVar[bool] = False
    support: ClassVar[Bijector] = nonnegative_integer

    def _split(self, x: ArrayLike) -> tuple[Array, Array]:
        """Where `x` is a count, and `x` there (0 elsewhere)."""
        inside = self.support.check(x)
        return inside, jnp.where(inside, jnp.asarray(x, self.dtype), 0.0)


def _poisson(key: Array, rate: Array, shape: tuple[int, ...]) -> Array:
    return jax.random.poisson(key, jnp.broadcast_to(rate, shape), shape, dtype=jnp.result_type(int))


@pytree
class Poisson(_Count):
    """`p(x) = rate^x exp(-rate) / x!`; a `rate` of 0 makes only `x = 0` possible."""

    rate: ArrayLike

    def _sample(self, key, shape):
        return _poisson(key, jnp.asarray(self.rate, self.dtype), shape)

    def log_prob(self, x):
        inside, x = self._split(x)
        rate = jnp.asarray(self.rate, self.dtype)
        return jnp.where(inside, xlogy(x, rate) - rate - special.gammaln(x + 1), -jnp.inf)

    def _moments(self):
        return self.rate, self.rate


@pytree
class GammaPoisson(_Count):
    """A Poisson whose rate is `Gamma(concentration, rate)`: a negative binomial."""

    concentration: ArrayLike
    rate: ArrayLike = 1.0

    def _sample(self, key, shape):
        key_rate, key_count = jax.random.split(key)
        rate = Gamma(self.concentration, self.rate)._sample(key_rate, shape)
        return _poisson(key_count, rate, shape)

    def log_prob(self, x):
        return _negative_binomial(self, x, self.concentration, jnp.log(self.rate))

    def _moments(self):
        return self.concentration / self.rate, self.concentration / self.rate * (1.0 + 1.0 / self.rate)


@pytree
class NegativeBinomial2(_Count):
    """Counts with the given `mean` and variance `mean + mean^2 / concentration`."""

    location: ArrayLike
    concentration: ArrayLike

    def __init__(self, mean: ArrayLike, concentration: ArrayLike):
        # The argument is called `mean`, as elsewhere; the field cannot be, since `mean` is a property.
        set_field(self, "location", mean)
        set_field(self, "concentration", concentration)
        self.__post_init__()

    def _sample(self, key, shape):
        return GammaPoisson(self.concentration, self.concentration / self.location)._sample(key, shape)

    def log_prob(self, x):
        log_rate = jnp.log(self.concentration) - jnp.log(self.location)
        return _negative_binomial(self, x, self.concentration, log_rate)

    def _moments(self):
        return self.location, self.location + jnp.square(self.location) / self.concentration


def _negative_binomial(self: _Count, x: ArrayLike, concentration: ArrayLike, log_rate: Array) -> Array:
    """`log C(x + concentration - 1, x) + concentration log q + x log(1 - q)`, where `logit q = log_rate`."""
    inside, x = self._split(x)
    ways = -jnp.log(x + concentration) - betaln(concentration, x + 1.0)
    log_prob = ways - concentration * jax.nn.softplus(-log_rate) - x * jax.nn.softplus(log_rate)
    return jnp.where(inside, log_prob, -jnp.inf)


@pytree
class BetaBinomial(_Count):
    """A binomial of `total_count` whose probability is `Beta(concentration1, concentration0)`."""

    concentration1: ArrayLike
    concentration0: ArrayLike
    total_count: ArrayLike = 1

    @property
    def support(self):
        return integer_interval(0, self.total_count)

    def _sample(self, key, shape):
        key_probs, key_count = jax.random.split(key)
        probs = Beta(self.concentration1, self.concentration0)._sample(key_probs, shape)
        return Binomial(self.total_count, probs)._sample(key_count, shape)

    def log_prob(self, x):
        inside, x = self._split(x)
        total = jnp.asarray(self.total_count, self.dtype)
        a, b = self.concentration1, self.concentration0
        ways = -jnp.log1p(total) - betaln(total - x + 1, x + 1)
        log_prob = ways + betaln(x + a, total - x + b) - betaln(a, b)
        return jnp.where(inside, log_prob, -jnp.inf)

    def _moments(self):
        a, b, n = self.concentration1, self.concentration0, self.total_count
        return n * a / (a + b), n * a * b * (a + b + n) / (jnp.square(a + b) * (a + b + 1.0))
