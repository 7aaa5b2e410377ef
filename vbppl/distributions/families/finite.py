"""Distributions on a finite set: coins, classes, and counts out of a given total.

Probabilities may be given as `probs` or as `logits`; the choice is a part of the compiled program. Log
probabilities are differentiable in either, at the edges (`probs` 0 or 1, `logits` of 100) too.
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.pytree import pytree
from vbppl.core.special import deviance, log_factorial_error, log_split, safe_log, sum_of_others, xlog1py, xlogy
from vbppl.core.types import Array, ArrayLike
from vbppl.distributions.base import Distribution, exactly_one
from vbppl.distributions.constraints.base import as_float
from vbppl.distributions.constraints.integer import boolean, integer_interval, multinomial, nonnegative_integer
from vbppl.distributions.families.bounded import Beta, log_beta_tail
from vbppl.distributions.samplers import count


def whole(x: Array) -> Array:
    """`x` as integers; what exceeds them is the largest, since the conversion of such a number is not defined."""
    dtype = jnp.result_type(int)
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        return jnp.asarray(x, dtype)
    largest = jnp.iinfo(dtype).max
    fits = jnp.less(x, largest)
    return jnp.where(fits, jnp.where(fits, x, 0).astype(dtype), largest)


def sigmoids(logits: ArrayLike) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """The probabilities of heads and tails, and their logarithms."""
    logits = as_float(logits)
    probs = (jax.nn.sigmoid(logits), jax.nn.sigmoid(-logits))
    return probs, (-jax.nn.softplus(-logits), -jax.nn.softplus(logits))


MANY = 2.0**14


def many(variance: Array) -> Array:
    """Where a count has so large a variance that `count_quantile` is off by 7e-6, or 5e-7 in 64 bits, of a probability.

    A search for it takes about six sds of steps.
    """
    return variance > min(jnp.finfo(variance.dtype).eps ** -0.5, MANY)


def count_quantile(z: Array, mean: Array, variance: Array, skew: ArrayLike, excess: ArrayLike) -> Array:
    """The count that is as likely to be exceeded as the standard normal `z` is, for the cumulants over `variance`.

    Cornish and Fisher (1938), with Sheppard's correction for whole numbers: the error is `variance^(-3/2)`.
    """
    root, square = jnp.sqrt(variance), jnp.square(z)
    third = excess * (square - 3.0) / 24.0 - jnp.square(skew) * (2.0 * square - 5.0) / 36.0 - 1.0 / 24.0
    return jnp.floor(mean + root * z + (0.5 + skew * (square - 1.0) / 6.0 + z * third / root))


class _Chances(Distribution):
    """What all share: `probs` or `logits`."""

    probs: ArrayLike
    logits: ArrayLike

    def __post_init__(self):
        exactly_one(self, "probs", "logits")
        Distribution.__post_init__(self)


class _Coin(_Chances):
    """What the distributions made of coins share."""

    def _probs(self) -> Array:
        return jax.nn.sigmoid(as_float(self.logits)) if self.probs is None else jnp.asarray(self.probs, self.dtype)

    def _tails(self) -> Array:
        """`1 - probs`, which of large `logits` is not zero."""
        return jax.nn.sigmoid(-as_float(self.logits)) if self.probs is None else 1 - jnp.asarray(self.probs, self.dtype)

    def _log_heads_and_tails(self, heads: ArrayLike, tails: ArrayLike) -> Array:
        """`heads log p + tails log(1 - p)`."""
        if self.probs is None:
            return -heads * jax.nn.softplus(-self.logits) - tails * jax.nn.softplus(self.logits)
        probs = jnp.asarray(self.probs, self.dtype)
        return xlogy(heads, probs) + xlog1py(tails, -probs)


def binomial(key: Array, total: Array, p: Array, q: Array, shape: tuple[int, ...]) -> Array:
    """The number of heads among `total` coins, whose chances are `p` and `q = 1 - p`."""
    variance = jnp.broadcast_to(total * p * q, shape)
    large = many(variance)
    few = jnp.broadcast_to(jnp.where(large, 1.0, total), shape)
    rare, other = jnp.minimum(p, q), jnp.maximum(p, q)  # of which there are few enough to be told one by one
    mode = jnp.minimum(jnp.floor((few + 1) * rare), few)
    told = count(key, mode, lambda k: jnp.where(k < few, (few - k) * rare / ((k + 1) * other), 0.0), variance.dtype)
    z = jax.random.normal(jax.random.fold_in(key, 1), shape, variance.dtype)
    heads = count_quantile(z, total * p, jnp.where(large, variance, 1.0), q - p, 1.0 - 6.0 * p * q)
    found = whole(jnp.where(large, jnp.clip(heads, 0.0, total), told))
    return jnp.where(~large & (p > q) & (told >= 0), whole(few) - found, found)


@pytree
class DiscreteUniform(Distribution):
    """Every whole number from `low` to `high`, both included, with the same probability."""

    low: ArrayLike = 0
    high: ArrayLike = 1

    @property
    def support(self):
        return integer_interval(self.low, self.high)

    @property
    def _count(self) -> Array:
        return jnp.asarray(self.high, self.dtype) - self.low + 1.0

    def _sample(self, key, shape):
        return whole(jax.random.randint(key, shape, self.low, jnp.asarray(self.high) + 1))

    def _log_density(self, x):
        return jnp.broadcast_to(-jnp.log(self._count), x.shape)

    def _moments(self):
        return self.low + 0.5 * (self._count - 1.0), (jnp.square(self._count) - 1.0) / 12.0

    def cdf(self, x):
        return jnp.clip((jnp.floor(jnp.asarray(x, self.dtype)) - self.low + 1.0) / self._count, 0.0, 1.0)

    def log_cdf(self, x):
        return self._log_share(jnp.floor(jnp.asarray(x, self.dtype)) - self.low + 1.0)

    def log_survival(self, x):
        return self._log_share(self.high - jnp.floor(jnp.asarray(x, self.dtype)))

    def _log_share(self, part: Array) -> Array:
        part = jnp.clip(part, 0.0, self._count)
        most = part > 0.9 * self._count
        return jnp.where(most, jnp.log1p(-(self._count - part) / self._count), safe_log(part / self._count))

    def icdf(self, q):
        return self.low + jnp.maximum(jnp.ceil(q * self._count) - 1.0, 0.0)


@pytree
class Bernoulli(_Coin):
    """1 with probability `probs = sigmoid(logits)`, otherwise 0.

    >>> round(float(Bernoulli(logits=100.0).log_prob(0)))
    -100
    """

    probs: ArrayLike = None
    logits: ArrayLike = None
    support = boolean

    def _sample(self, key, shape):
        return whole(jax.random.bernoulli(key, self._probs(), shape))

    def _log_density(self, x):
        if self.probs is None:
            # `log sigmoid(logits)` for heads, `log sigmoid(-logits)` for tails: one softplus, where two would be
            # most of the cost of a large logistic regression.
            return -jax.nn.softplus((1 - 2 * x) * self.logits)
        return self._log_heads_and_tails(x, 1 - x)

    def _moments(self):
        p = self._probs()
        return p, p * self._tails()


@pytree
class Binomial(_Coin):
    """The number of heads among `n` = `total_count` coins: `p(x) = C(n, x) probs^x (1 - probs)^(n - x)`.

    `logits` in the place of `probs` are log odds.
    """

    total_count: ArrayLike = 1
    probs: ArrayLike = None
    logits: ArrayLike = None

    @property
    def support(self):
        return integer_interval(0, self.total_count)

    def _sample(self, key, shape):
        total, p, q = (jnp.asarray(t, self.dtype) for t in (self.total_count, self._probs(), self._tails()))
        return binomial(key, total, p, q, shape)

    def _log_density(self, x):
        tails = jnp.asarray(self.total_count, self.dtype) - x
        if self.probs is None:
            return log_split((x, tails), *sigmoids(self.logits))
        p = jnp.asarray(self.probs, self.dtype)
        return log_split((x, tails), (p, 1 - p), (safe_log(p), safe_log(1 - p)))

    def _moments(self):
        p = self._probs()
        return self.total_count * p, self.total_count * p * self._tails()

    # More than k heads: the (k + 1)-th smallest of n uniform numbers, a Beta's, is a head.

    def cdf(self, x):
        n, k = self._between(x)
        inside = Beta(n - k, k + 1.0).cdf(self._tails())
        return jnp.where(x < 0, 0.0, jnp.where(x >= self.total_count, 1.0, inside))

    def log_cdf(self, x):
        n, k = self._between(x)
        inside = log_beta_tail(n - k, k + 1.0, self._tails(), self._probs())
        return jnp.where(x < 0, -jnp.inf, jnp.where(x >= self.total_count, 0.0, inside))

    def log_survival(self, x):
        n, k = self._between(x)
        inside = log_beta_tail(k + 1.0, n - k, self._probs(), self._tails())
        return jnp.where(x < 0, 0.0, jnp.where(x >= self.total_count, -jnp.inf, inside))

    def _between(self, x: ArrayLike) -> tuple[Array, Array]:
        """`n`, at least 1, and the whole part of `x` in 0 ... n - 1."""
        n = jnp.maximum(jnp.asarray(self.total_count, self.dtype), 1.0)
        return n, jnp.clip(jnp.floor(jnp.asarray(x, self.dtype)), 0.0, n - 1.0)


@pytree
class Geometric(_Coin):
    """The number of tails before the first head: `p(x) = (1 - probs)^x probs`; `logits` are log odds."""

    probs: ArrayLike = None
    logits: ArrayLike = None
    support = nonnegative_integer

    def _sample(self, key, shape):
        u = jax.random.exponential(key, shape, self.dtype)
        return whole(jnp.floor(-u / self._log_heads_and_tails(0.0, 1.0)))

    def _log_density(self, x):
        return self._log_heads_and_tails(jnp.ones_like(x), x)

    def _moments(self):
        p, tails = self._probs(), self._tails()
        return tails / p, tails / jnp.square(p)

    def cdf(self, x):
        return -jnp.expm1(self.log_survival(x))

    def log_survival(self, x):
        return self._log_heads_and_tails(0.0, jnp.maximum(jnp.floor(jnp.asarray(x, self.dtype)) + 1.0, 0.0))


def at_class(values: Array, index: Array) -> Array:
    """Of `values` for each class, `(..., K)`, those of the classes `index`, `(...)`."""
    if values.ndim == 1:
        return values[index]
    shape = np.broadcast_shapes(index.shape, values.shape[:-1])
    values = jnp.broadcast_to(values, (*shape, values.shape[-1]))
    return jnp.take_along_axis(values, jnp.broadcast_to(index, shape)[..., None], axis=-1)[..., 0]


class _Classes(_Chances):
    """What the distributions made of classes share: `probs`, which sum to one, or `logits`, `(..., K)`."""

    parameter_dims: ClassVar[dict[str, int]] = {"probs": 1, "logits": 1}

    def __post_init__(self):
        super().__post_init__()
        if np.ndim(self._given) == 0:
            name = type(self).__name__
            raise TypeError(f"{name} needs a vector of at least one class, not the number {self._given!r}.")

    @property
    def _given(self) -> ArrayLike:
        return self.logits if self.probs is None else self.probs

    @property
    def _classes(self) -> int:
        return np.shape(self._given)[-1]

    def _probs(self) -> Array:
        return (
            jax.nn.softmax(as_float(self.logits), axis=-1)
            if self.probs is None
            else jnp.asarray(self.probs, self.dtype)
        )

    def _log_probs(self) -> Array:
        return jax.nn.log_softmax(as_float(self.logits), axis=-1) if self.probs is None else safe_log(self.probs)


@pytree
class Categorical(_Classes):
    """Class `k` out of `0 ... K - 1` with probability `probs[k]`, `(..., K)`; or in proportion to `exp(logits[k])`."""

    probs: ArrayLike = None
    logits: ArrayLike = None

    @property
    def support(self):
        return integer_interval(0, self._classes - 1)

    def _sample(self, key, shape):
        noise = jax.random.gumbel(key, (*shape, self._classes), self.dtype)
        return whole(jnp.argmax(self._log_probs() + noise, axis=-1))

    def _log_density(self, x):
        return at_class(self._log_probs(), whole(x))

    def _moments(self):
        p, classes = self._probs(), jnp.arange(self._classes, dtype=self.dtype)
        mean = p @ classes
        return mean, lambda: jnp.sum(p * jnp.square(classes - mean[..., None]), axis=-1)

    def cdf(self, x):
        return jnp.exp(self.log_cdf(x))

    def log_cdf(self, x):
        return self._log_sum(x, self._log_probs(), 0)

    def log_survival(self, x):
        return self._log_sum(x, jnp.flip(self._log_probs(), -1), 1)

    def _log_sum(self, x: ArrayLike, log_probs: Array, above: int) -> Array:
        """Of the first classes up to `x`, or of the last ones after it: of `log_probs` in that order."""
        sums = jax.lax.cumlogsumexp(jnp.maximum(log_probs, jnp.finfo(log_probs.dtype).min), axis=log_probs.ndim - 1)
        x = jnp.floor(jnp.asarray(x, self.dtype))
        count = (self._classes - 1 - x) if above else x + 1  # how many there are
        found = at_class(sums, whole(jnp.clip(count, 1, self._classes) - 1))
        return jnp.where(count < 1, -jnp.inf, jnp.where(count >= self._classes, 0.0, found))


@pytree
class Multinomial(_Classes):
    """Counts of each class, `(K,)`, among `total_count` draws, by `probs` or in proportion to `exp(logits)`."""

    total_count: ArrayLike = 1
    probs: ArrayLike = None
    logits: ArrayLike = None
    event_dim = 1

    @property
    def event_shape(self):
        return (self._classes,)

    @property
    def support(self):
        return multinomial(self.total_count)

    def _sample(self, key, shape):
        probs = jnp.moveaxis(jnp.broadcast_to(jnp.asarray(self._probs(), self.dtype), shape), -1, 0)
        here = jnp.flip(jnp.cumsum(jnp.flip(probs, 0), axis=0), 0)  # of this class and all later ones
        here = jnp.where(here > 0, here, 1.0)

        def step(left, inputs):
            """One class out of those that are left."""
            key, p, q = inputs
            heads = jnp.minimum(binomial(key, left.astype(self.dtype), p, q, shape[:-1]), left)
            return left - heads, heads

        chances = probs[:-1] / here[:-1], here[1:] / here[:-1]
        total = jnp.broadcast_to(whole(jnp.asarray(self.total_count)), shape[:-1])
        left, counts = jax.lax.scan(step, total, (jax.random.split(key, self._classes - 1), *chances))
        return jnp.moveaxis(jnp.concatenate([counts, left[None]]), 0, -1)

    def _log_density(self, x):
        total = jnp.asarray(self.total_count, self.dtype)
        log_total, log_probs = jnp.log(jnp.maximum(total, 1.0)), jnp.asarray(self._log_probs(), self.dtype)
        means = total[..., None] * jnp.asarray(self._probs(), self.dtype)
        rest = deviance(x, means, log_total[..., None] + log_probs) + log_factorial_error(x)
        return log_factorial_error(total) - jnp.sum(rest, axis=-1)

    def _moments(self):
        mean = jnp.asarray(self.total_count)[..., None] * self._probs()
        return mean, lambda: mean * sum_of_others(self._probs())
