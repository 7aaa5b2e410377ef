"""Distributions of counts without an upper bound, and those whose probability is itself random."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from vbppl.core.pytree import pytree, set_field
from vbppl.core.special import deviance, log_factorial_error, log_split, safe_log
from vbppl.core.types import Array, ArrayLike
from vbppl.distributions.base import Distribution, Renamed
from vbppl.distributions.constraints.integer import integer_interval, nonnegative_integer
from vbppl.distributions.families.bounded import Beta, log_beta_tail
from vbppl.distributions.families.finite import Binomial, count_quantile, many, whole
from vbppl.distributions.families.positive import Gamma, gamma_tails, log_gamma_tails


def _poisson(key: Array, rate: Array, shape: tuple[int, ...]) -> Array:
    rate = jnp.broadcast_to(rate, shape)
    large = many(rate)
    few = jax.random.poisson(key, jnp.where(large, 1.0, rate), shape, dtype=jnp.result_type(int))
    z = jax.random.normal(jax.random.fold_in(key, 1), shape, rate.dtype)
    return jnp.where(large, whole(count_quantile(z, rate, jnp.where(large, rate, 1.0), 1.0, 1.0)), few)


def _following(x: ArrayLike, dtype: Any) -> Array:
    """The count after `x`; 1 of what is below zero."""
    return jnp.floor(jnp.maximum(jnp.asarray(x, dtype), 0.0)) + 1.0


@pytree
class Poisson(Distribution):
    """`p(x) = rate^x exp(-rate) / x!`; a `rate` of 0 makes only `x = 0` possible."""

    rate: ArrayLike
    support = nonnegative_integer

    def _sample(self, key, shape):
        return _poisson(key, jnp.asarray(self.rate, self.dtype), shape)

    def _log_density(self, x):
        rate = jnp.asarray(self.rate, self.dtype)
        rate = jnp.where(rate < 0, jnp.nan, rate)
        return -deviance(x, rate, safe_log(rate)) - log_factorial_error(x)

    def _moments(self):
        return self.rate, self.rate

    # Fewer than n events until a time is the n-th one after it, and that time is a Gamma's.

    def cdf(self, x):
        return jnp.where(x < 0, 0.0, gamma_tails(_following(x, self.dtype), self.rate)[1])

    def log_cdf(self, x):
        return jnp.where(x < 0, -jnp.inf, log_gamma_tails(_following(x, self.dtype), self.rate)[1])

    def log_survival(self, x):
        return jnp.where(x < 0, 0.0, log_gamma_tails(_following(x, self.dtype), self.rate)[0])


@pytree
class GammaPoisson(Distribution):
    """A Poisson whose rate is `Gamma(concentration, rate)`: a negative binomial."""

    concentration: ArrayLike
    rate: ArrayLike = 1.0
    support = nonnegative_integer

    def _sample(self, key, shape):
        key_rate, key_count = jax.random.split(key)
        rate = Gamma(self.concentration, self.rate)._sample(key_rate, shape)
        return _poisson(key_count, rate, shape)

    def _log_density(self, x):
        # A binomial's density, of `concentration` heads (which need not be whole) and x tails; the last coin is a head.
        rate, heads = self.rate, jnp.asarray(self.concentration, self.dtype)
        probs, logs = (rate / (1.0 + rate), 1.0 / (1.0 + rate)), (jnp.log(rate) - jnp.log1p(rate), -jnp.log1p(rate))
        return jnp.log(heads / (heads + x)) + log_split((heads, x), probs, logs)

    def _moments(self):
        return self.concentration / self.rate, self.concentration / self.rate * (1.0 + 1.0 / self.rate)

    # At most k tails before the r-th head: the r-th smallest of uniform numbers, a Beta's, is a head.

    def cdf(self, x):
        below = Beta(self.concentration, _following(x, self.dtype)).cdf(self.rate / (1.0 + self.rate))
        return jnp.where(x < 0, 0.0, below)

    def log_cdf(self, x):
        odds = (self.rate / (1.0 + self.rate), 1.0 / (1.0 + self.rate))
        return jnp.where(x < 0, -jnp.inf, log_beta_tail(self.concentration, _following(x, self.dtype), *odds))

    def log_survival(self, x):
        odds = (1.0 / (1.0 + self.rate), self.rate / (1.0 + self.rate))
        return jnp.where(x < 0, 0.0, log_beta_tail(_following(x, self.dtype), self.concentration, *odds))


@pytree
class NegativeBinomial2(Renamed):
    """Counts with the given `mean` and variance `mean + mean^2 / concentration`."""

    location: ArrayLike
    concentration: ArrayLike

    def __init__(self, mean: ArrayLike, concentration: ArrayLike):
        # The argument is called `mean`, as elsewhere; the field cannot be, since `mean` is a property.
        set_field(self, "location", mean)
        set_field(self, "concentration", concentration)
        self.__post_init__()

    batch_shape = Distribution.batch_shape  # of these parameters, for the sake of the error that names them

    @property
    def base_dist(self) -> GammaPoisson:
        """The same distribution as a mixture over Gamma rates."""
        return GammaPoisson(self.concentration, self.concentration / self.location)


@pytree
class BetaBinomial(Distribution):
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

    def _log_density(self, x):
        # C(n, x) C(a + b, a) / C(n + a + b, x + a), each a split at the probability where the last has no deviance,
        # and what Gamma(t) = t! / t leaves: every term alone would be of the size of `n`.
        n, a, b = (jnp.asarray(t, self.dtype) for t in (self.total_count, self.concentration1, self.concentration0))
        heads, tails, total = x + a, n - x + b, n + a + b
        probs = heads / total, tails / total
        logs = jnp.log(heads) - jnp.log(total), jnp.log(tails) - jnp.log(total)
        both = log_factorial_error(total) - log_factorial_error(heads) - log_factorial_error(tails)
        rest = jnp.log(a) + jnp.log(b) - jnp.log(a + b) - (logs[0] + jnp.log(tails))
        return log_split((x, n - x), probs, logs) + log_split((a, b), probs, logs) - both + rest

    def _moments(self):
        a, b, n = self.concentration1, self.concentration0, self.total_count
        return n * a / (a + b), n * a * b * (a + b + n) / (jnp.square(a + b) * (a + b + 1.0))
