"""Ordered classes: a latent number, of which it is seen between which cutpoints it lies."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.pytree import pytree
from vbppl.core.special import log1mexp, log_ndtr
from vbppl.core.types import Array, ArrayLike
from vbppl.distributions.base import Distribution
from vbppl.distributions.constraints.integer import integer_interval
from vbppl.distributions.families.finite import at_class, whole


class _Ordered(Distribution):
    """What both share: class `k` of `0 ... K` where the number lies above `k` of the `K` cutpoints, `(..., K)`."""

    predictor: ArrayLike
    cutpoints: ArrayLike
    parameter_dims: ClassVar[dict[str, int]] = {"cutpoints": 1}

    def __post_init__(self):
        super().__post_init__()
        if np.ndim(self.cutpoints) == 0:
            raise ModelError(
                f"the cutpoints of {type(self).__name__} are one number.",
                mend="Give a vector of them, one less than there are classes: dist.Normal(0, 3).expand((4,)) through "
                "dist.transforms.OrderedTransform().",
            )

    @property
    def support(self):
        return integer_interval(0, np.shape(self.cutpoints)[-1])

    def _log_below(self, t: Array) -> Array:
        """`log P(noise <= t)`; the noise is symmetric."""
        raise NotImplementedError

    def _log_between(self, low: Array, high: Array) -> Array:
        """`log P(low < noise <= high)`."""
        raise NotImplementedError

    def _noise(self, key, shape):
        raise NotImplementedError

    def _at(self, k: Array) -> Array:
        """The cutpoint above class `k`, seen from the predictor."""
        most = np.shape(self.cutpoints)[-1] - 1
        return at_class(jnp.asarray(self.cutpoints, self.dtype), whole(jnp.clip(k, 0, most))) - self.predictor

    def _sample(self, key, shape):
        number = self.predictor + self._noise(key, shape)
        return whole(jnp.sum(number[..., None] > jnp.asarray(self.cutpoints), axis=-1))

    def _log_density(self, x):
        first, last = jnp.equal(x, 0), jnp.equal(x, np.shape(self.cutpoints)[-1])
        low, high = self._at(x - 1), self._at(x)
        between = self._log_between(low, jnp.where(first | last, low + 1.0, high))
        return jnp.where(first, self._log_below(high), jnp.where(last, self._log_below(-low), between))

    def _moments(self):
        # Of a count the mean is the sum of the probabilities of more than each number.
        seen = jnp.asarray(self.cutpoints, self.dtype) - jnp.asarray(self.predictor)[..., None]
        above = jnp.exp(self._log_below(-seen))
        mean = jnp.sum(above, axis=-1)
        return mean, lambda: jnp.sum(self._probs() * jnp.square(self._classes() - mean), axis=0)

    def _classes(self) -> Array:
        """All classes, along a first axis."""
        count = np.shape(self.cutpoints)[-1] + 1
        return jnp.arange(count, dtype=self.dtype).reshape(-1, *(1,) * len(self.batch_shape))

    def _probs(self) -> Array:
        classes = jnp.broadcast_to(self._classes(), (np.shape(self.cutpoints)[-1] + 1, *self.batch_shape))
        return jnp.exp(self._log_density(classes))

    def cdf(self, x):
        return jnp.exp(self.log_cdf(x))

    def log_cdf(self, x):
        x = jnp.floor(jnp.asarray(x, self.dtype))
        inside = self._log_below(self._at(x))
        return jnp.where(x < 0, -jnp.inf, jnp.where(x >= np.shape(self.cutpoints)[-1], 0.0, inside))

    def log_survival(self, x):
        x = jnp.floor(jnp.asarray(x, self.dtype))
        inside = self._log_below(-self._at(x))
        return jnp.where(x < 0, 0.0, jnp.where(x >= np.shape(self.cutpoints)[-1], -jnp.inf, inside))


@pytree
class OrderedLogistic(_Ordered):
    """`P(x <= k) = sigmoid(cutpoints[k] - predictor)`: proportional odds.

    >>> d = OrderedLogistic(0.0, [-1.0, 1.0])
    >>> [round(float(jnp.exp(d.log_prob(k))), 3) for k in range(3)]
    [0.269, 0.462, 0.269]
    """

    predictor: ArrayLike
    cutpoints: ArrayLike

    def _log_below(self, t):
        return jax.nn.log_sigmoid(t)

    def _log_between(self, low, high):
        return jax.nn.log_sigmoid(high) + jax.nn.log_sigmoid(-low) + log1mexp(high - low)

    def _noise(self, key, shape):
        return jax.random.logistic(key, shape, self.dtype)


@pytree
class OrderedProbit(_Ordered):
    """`P(x <= k) = Phi(cutpoints[k] - predictor)`."""

    predictor: ArrayLike
    cutpoints: ArrayLike

    def _log_below(self, t):
        return log_ndtr(t)

    def _log_between(self, low, high):
        right = low > 0  # seen from the tail in which both lie
        low, high = jnp.where(right, -high, low), jnp.where(right, -low, high)
        whole_tail = log_ndtr(high)
        return whole_tail + log1mexp(whole_tail - log_ndtr(low))

    def _noise(self, key, shape):
        return jax.random.normal(key, shape, self.dtype)
