"""Distributions of counts without an upper bound, and those whose probability is itself random."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from vbppl.core.errors import ModelError
from vbppl.core.pytree import pytree, set_field
from vbppl.core.special import at_once, deviance, log_factorial_error, log_split, safe_log
from vbppl.core.types import Array, ArrayLike
from vbppl.distributions.base import Distribution, Renamed, Wrapper, broadcast_batch, exactly_one
from vbppl.distributions.constraints.integer import integer_interval, nonnegative_integer
from vbppl.distributions.families.bounded import Beta, log_beta_tail
from vbppl.distributions.families.finite import Binomial, count_quantile, many, sigmoids, whole
from vbppl.distributions.families.positive import Gamma, gamma_tails, log_gamma_tails
from vbppl.distributions.samplers import count


def _poisson(key: Array, rate: Array, shape: tuple[int, ...]) -> Array:
    rate = jnp.broadcast_to(rate, shape)
    large = many(rate)
    few = jnp.where(large, 1.0, rate)
    few = count(key, jnp.floor(few), lambda k: few / (k + 1), rate.dtype)
    z = jax.random.normal(jax.random.fold_in(key, 1), shape, rate.dtype)
    return whole(jnp.where(large, count_quantile(z, rate, jnp.where(large, rate, 1.0), 1.0, 1.0), few))


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


def _log_tails(heads: Array, x: ArrayLike, odds: tuple[Array, Array]) -> Array:
    """The log density of `x` tails before a number of heads, which need not be whole; the last coin is a head.

    The coin's two sides have probabilities in the proportion of `odds`; that of tails may be 0.
    """
    head, tail = odds
    is_rare = tail < head
    high, low = jnp.where(is_rare, head, tail), jnp.where(is_rare, tail, head)
    log_high = -jnp.log1p(low / high)
    log_low = safe_log(low) - jnp.log(low + high)
    logs = jnp.where(is_rare, log_high, log_low), jnp.where(is_rare, log_low, log_high)
    return _log_tails_of(heads, x, (head / (head + tail), tail / (head + tail)), logs)


def _log_tails_of(heads: Array, x: ArrayLike, sides: tuple[Array, Array], logs: tuple[Array, Array]) -> Array:
    """The same by the probabilities of the two sides, which may round to 0, and their logarithms."""
    return jnp.log(heads / (heads + x)) + log_split((heads, x), sides, logs)


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
        rate = jnp.asarray(self.rate, self.dtype)
        certain = jnp.isinf(rate)
        odds = jnp.where(certain, 1.0, rate), jnp.where(certain, 0.0, 1.0)
        return _log_tails(jnp.asarray(self.concentration, self.dtype), x, odds)

    def _moments(self):
        return self.concentration / self.rate, self.concentration / self.rate * (1.0 + 1.0 / self.rate)

    # At most k tails before the r-th head: the r-th smallest of uniform numbers, a Beta's, is a head.

    @property
    def _sides(self) -> tuple[Array, Array]:
        tails = 1.0 / (1.0 + jnp.asarray(self.rate, self.dtype))
        return jnp.where(tails == 0, 1.0, self.rate * tails), tails

    def cdf(self, x):
        below = Beta(self.concentration, _following(x, self.dtype)).cdf(self._sides[0])
        return jnp.where(x < 0, 0.0, below)

    def log_cdf(self, x):
        each = self.concentration, _following(x, self.dtype)
        return jnp.where(x < 0, -jnp.inf, log_beta_tail(*each, *self._sides))

    def log_survival(self, x):
        each = _following(x, self.dtype), self.concentration
        return jnp.where(x < 0, 0.0, log_beta_tail(*each, *self._sides[::-1]))


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
    support = nonnegative_integer  # whatever they are

    @property
    def base_dist(self) -> GammaPoisson:
        """The same distribution as a mixture over Gamma rates."""
        return GammaPoisson(self.concentration, self.concentration / jnp.asarray(self.location))

    def log_prob(self, x):
        return Distribution.log_prob(self, x)

    def _log_density(self, x):
        # Not by the rate, which is infinite where the mean is 0.
        mean, concentration = (jnp.asarray(each, self.dtype) for each in (self.location, self.concentration))
        return _log_tails(concentration, x, (concentration, mean))


@pytree
class NegativeBinomialLogits(Renamed):
    """The number of heads before `total_count` tails, a positive number, where `logits` are those of heads.

    The density is that of logits of any size; draws, moments and tails of those from -80 to 80 in 32 bits.
    """

    total_count: ArrayLike
    logits: ArrayLike
    batch_shape = Distribution.batch_shape
    support = nonnegative_integer

    @property
    def base_dist(self) -> GammaPoisson:
        """The same distribution as a mixture over Gamma rates."""
        return GammaPoisson(self.total_count, jnp.exp(-jnp.asarray(self.logits)))

    def log_prob(self, x):
        return Distribution.log_prob(self, x)

    def _log_density(self, x):
        (heads, tails), (log_heads, log_tails) = sigmoids(jnp.asarray(self.logits, self.dtype))
        return _log_tails_of(jnp.asarray(self.total_count, self.dtype), x, (tails, heads), (log_tails, log_heads))


def _gamma_terms(n: Array, a: Array, b: Array, x: Array) -> list[tuple[Array]]:
    """Of which numbers the density of a beta-binomial has factorials: what the binomial coefficients are made of."""
    return [(t,) for t in (n, x, n - x, a + b, a, b, n + a + b, x + a, n - x + b)]


def _of_beta_binomial(n: Array, a: Array, b: Array, x: Array, factorials: Sequence[Array] = ()) -> Array:
    # C(n, x) C(a + b, a) / C(n + a + b, x + a), each a split at the probability where the last has no deviance,
    # and what Gamma(t) = t! / t leaves: every term alone would be of the size of `n`.
    both, heads, tails, total = a + b, x + a, n - x + b, n + a + b
    factorials = factorials or at_once(log_factorial_error, *_gamma_terms(n, a, b, x))
    logs = at_once(jnp.log, *((t,) for t in (jnp.maximum(n, 1.0), both, a, b, total, heads, tails)))
    log_n, log_both, log_a, log_b, log_total, log_heads, log_tails = logs
    probs = (heads / total, log_heads - log_total), (tails / total, log_tails - log_total)
    splits = [
        (count, all_ * p, log_all + log_p)
        for all_, log_all, counts in ((n, log_n, (x, n - x)), (both, log_both, (a, b)))
        for count, (p, log_p) in zip(counts, probs)
    ]
    signs = (1, -1, -1, 1, -1, -1, -1, 1, 1)
    rest = log_a + log_b - log_both - (probs[0][1] + log_tails)
    return sum(map(operator.mul, signs, factorials)) - sum(at_once(deviance, *splits)) + rest


@jax.custom_jvp
def _log_beta_binomial(n: Array, a: Array, b: Array, x: Array) -> Array:
    return _of_beta_binomial(n, a, b, x)


@functools.partial(_log_beta_binomial.defjvp, symbolic_zeros=True)
def _slopes_of_beta_binomial(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Any]:
    # By `a` it is psi(x + a) - psi(n + a + b) - psi(a) + psi(a + b), where `psi(t)` is `log t - 1/t` and the slope of
    # `log_factorial_error`; by `b` the same of tails. JAX's own, of all the terms, is half as much again to compile.
    n, a, b, x = primals
    errors = at_once(lambda t: jax.jvp(log_factorial_error, (t,), (jnp.ones_like(t),)), *_gamma_terms(n, a, b, x))
    factorials, (*_, of_both, of_a, of_b, of_total, of_heads, of_tails) = zip(*errors)
    both, total, slope = a + b, n + a + b, 0.0
    by_total = 1.0 / total  # a product of concentrations may be too large or too small for a number
    off = (x * b - (n - x) * a) * by_total
    sides = (x, x + a, 1.0 / a, off, of_heads - of_a), (n - x, n - x + b, 1.0 / b, -off, of_tails - of_b)
    logs = at_once(_log_of_ratio, *((tilt * by, t * by_total * (both * by)) for _, t, by, tilt, _ in sides))
    of_all = of_both - of_total - n * by_total / both
    for (k, t, by, _, of_side), log_ratio, tangent in zip(sides, logs, tangents[1:3]):
        if not isinstance(tangent, SymbolicZero):
            slope += (log_ratio + of_side + k / t * by + of_all) * tangent
    if not all(isinstance(tangents[i], SymbolicZero) for i in (0, 3)):  # totals and counts are whole, as a rule
        moved = (jnp.zeros_like(t) if isinstance(by, SymbolicZero) else by for t, by in zip((n, x), tangents[::3]))
        slope += jax.jvp(lambda n, x: _of_beta_binomial(n, a, b, x), (n, x), tuple(moved))[1]
    return _of_beta_binomial(n, a, b, x, factorials), slope


def _log_of_ratio(less_one: Array, ratio: Array) -> Array:
    """The logarithm of `ratio`, which is `1 + less_one`: near one by what is exact there."""
    near = jnp.abs(less_one) < 0.1
    return jnp.where(near, jnp.log1p(jnp.where(near, less_one, 0.0)), jnp.log(jnp.where(near, 1.0, ratio)))


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
        parts = (self.total_count, self.concentration1, self.concentration0, x)
        return _log_beta_binomial(*(jnp.asarray(part, self.dtype) for part in parts))

    def _moments(self):
        a, b, n = self.concentration1, self.concentration0, self.total_count
        return n * a / (a + b), n * a * b * (a + b + n) / (jnp.square(a + b) * (a + b + 1.0))

    # There is no closed form: the counts of the tail are summed, from `x` outwards.

    def cdf(self, x):
        return jnp.exp(self.log_cdf(x))

    def log_cdf(self, x):
        return self._log_sum(self.concentration1, self.concentration0, jnp.floor(x))

    def log_survival(self, x):
        return self._log_sum(self.concentration0, self.concentration1, self.total_count - 1 - jnp.floor(x))

    def _log_sum(self, a: ArrayLike, b: ArrayLike, x: ArrayLike) -> Array:
        """`log P(at most x)` of the one with these concentrations."""
        parts = (jnp.asarray(part, self.dtype) for part in (a, b, self.total_count, x))
        return _log_sum_of_counts(*jnp.broadcast_arrays(*parts))


BLOCK = 64  # counts that are summed at once


def _summed(a: Array, b: Array, n: Array, x: Array) -> Array:
    """`log P(at most x)` of a beta-binomial, by blocks of counts."""
    at = jnp.arange(BLOCK, dtype=a.dtype).reshape(-1, *(1,) * a.ndim)
    first = jnp.clip(x, -1.0, n)

    def add(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        start, total = carry
        counts = first - start - at
        inside = counts >= 0
        each = BetaBinomial(a, b, n)._log_density(jnp.where(inside, counts, 0.0))
        block = jax.nn.logsumexp(jnp.where(inside, each, jnp.finfo(a.dtype).min), axis=0)
        return start + BLOCK, jnp.logaddexp(total, block)

    start = jnp.zeros((), a.dtype), jnp.full(a.shape, jnp.finfo(a.dtype).min)
    total = jax.lax.while_loop(lambda carry: jnp.any(first - carry[0] >= 0), add, start)[1]
    return jnp.where(x < 0, -jnp.inf, jnp.where(x >= n, 0.0, jnp.minimum(total, 0.0)))


@jax.custom_jvp
def _log_sum_of_counts(a: Array, b: Array, n: Array, x: Array) -> Array:
    return _summed(a, b, n, x)


@_log_sum_of_counts.defjvp
def _slopes(primals, tangents):
    # A loop of unknown length has no reverse; the counts have no slope.
    a, b, n, x = primals
    found, by_a = jax.jvp(lambda a: _summed(a, b, n, x), (a,), (jnp.ones_like(a),))
    by_b = jax.jvp(lambda b: _summed(a, b, n, x), (b,), (jnp.ones_like(b),))[1]
    return found, by_a * tangents[0] + by_b * tangents[1]


@pytree
class ZeroInflatedDistribution(Wrapper):
    """0 with probability `gate = sigmoid(gate_logits)`, otherwise a draw of `base_dist`, which may be 0 too.

    >>> d = ZeroInflatedDistribution(Poisson(2.0), gate=0.25)
    >>> round(float(jnp.exp(d.log_prob(0))), 4)  # 1/4 + 3/4 exp(-2)
    0.3515
    """

    base_dist: Distribution
    gate: ArrayLike = None
    gate_logits: ArrayLike = None

    def __post_init__(self):
        exactly_one(self, "gate", "gate_logits")
        super().__post_init__()
        if not isinstance(self.base_dist, Distribution) or not self.base_dist.is_discrete or self.base_dist.event_dim:
            raise ModelError(
                f"the base_dist of ZeroInflatedDistribution is {type(self.base_dist).__name__}, which is not one of "
                "counts.",
                mend="Write ZeroInflatedDistribution(dist.Poisson(rate), gate=0.1).",
            )

    @property
    def batch_shape(self):
        given = {"gate": self.gate, "gate_logits": self.gate_logits}
        shapes = {name: np.shape(value) for name, value in given.items() if value is not None}
        return broadcast_batch("ZeroInflatedDistribution", {"base_dist": self.base_dist.batch_shape, **shapes})

    def _gate(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """The probabilities of the gate and of the rest, and their logarithms."""
        if self.gate is None:
            return sigmoids(self.gate_logits)
        gate = jnp.asarray(self.gate, self.dtype)
        return (gate, 1.0 - gate), (safe_log(gate), safe_log(1.0 - gate))

    def _sample(self, key, shape):
        key_gate, key_count = jax.random.split(key)
        is_zero = jax.random.bernoulli(key_gate, self._gate()[0][0], shape)
        return jnp.where(is_zero, 0, self.base_dist._sample(key_count, shape))

    def log_prob(self, x):
        log_gate, log_rest = self._gate()[1]
        each = log_rest + self.base_dist.log_prob(x)
        return jnp.where(jnp.equal(x, 0), _log_of_either(log_gate, each), each)

    def _moments(self):
        (gate, rest), _ = self._gate()
        mean = self.base_dist.mean
        return rest * mean, lambda: rest * (self.base_dist.variance + gate * jnp.square(mean))

    def cdf(self, x):
        (gate, rest), _ = self._gate()
        return jnp.where(jnp.less(x, 0), 0.0, gate + rest * self.base_dist.cdf(x))

    def log_cdf(self, x):
        log_gate, log_rest = self._gate()[1]
        return jnp.where(jnp.less(x, 0), -jnp.inf, _log_of_either(log_gate, log_rest + self.base_dist.log_cdf(x)))

    def log_survival(self, x):
        return jnp.where(jnp.less(x, 0), 0.0, self._gate()[1][1] + self.base_dist.log_survival(x))


def _log_of_either(one: Array, other: Array) -> Array:
    """The logarithm of a sum of two probabilities, of which neither need be possible."""
    possible = jnp.maximum(one, other) > -jnp.inf
    return jnp.where(possible, jnp.logaddexp(jnp.where(possible, one, 0.0), other), -jnp.inf)
