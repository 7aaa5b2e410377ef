"""Supports of whole numbers, which no map from the reals reaches."""

from __future__ import annotations

import jax.numpy as jnp

from vbppl.core.errors import ModelError
from vbppl.core.pytree import pytree
from vbppl.core.types import Array, ArrayLike
from vbppl.distributions.constraints.base import Bijector, describe_leaf


class Discrete(Bijector):
    """A support of whole numbers: it can be checked, but there is no map from the reals onto it."""

    is_discrete = True

    def forward_and_log_det(self, z):
        raise ModelError(
            f"the support {self.describe()} is discrete, so no map leads to it from unconstrained space.",
            mend="Observe this site, or sum the variable out of the model, as MixtureSameFamily does.",
        )

    def inverse(self, x):
        return self.forward_and_log_det(x)

    def feasible(self, x_shape, dtype=None):
        return jnp.broadcast_to(jnp.asarray(getattr(self, "low", 0), dtype), x_shape)


def _is_whole(x: ArrayLike) -> Array:
    return jnp.equal(jnp.floor(x), x)


@pytree
class Boolean(Discrete):
    """0 and 1."""

    name = "boolean"

    def check(self, x):
        return jnp.equal(x, 0) | jnp.equal(x, 1)


@pytree
class IntegerInterval(Discrete):
    """The whole numbers from `low` to `high`, both included."""

    name = "integer_interval"
    low: ArrayLike
    high: ArrayLike

    def check(self, x):
        return jnp.greater_equal(x, self.low) & jnp.less_equal(x, self.high) & _is_whole(x)


@pytree
class IntegerAtLeast(Discrete):
    """The whole numbers from `low` on."""

    name = "integer_at_least"
    low: ArrayLike

    def check(self, x):
        return jnp.greater_equal(x, self.low) & _is_whole(x)

    def describe(self):
        words = {"0": "nonnegative_integer", "1": "positive_integer"}
        return words.get(describe_leaf(self.low), super().describe())


@pytree
class Multinomial(Discrete):
    """Vectors of counts with sum `total_count`."""

    name = "multinomial"
    event_dim = 1
    unconstrained_dim = 1
    total_count: ArrayLike

    def check(self, x):
        counts = jnp.all(jnp.greater_equal(x, 0) & _is_whole(x), axis=-1)
        return counts & jnp.equal(jnp.sum(x, axis=-1), self.total_count)

    def constrained_shape(self, z_shape):
        return tuple(z_shape)

    def feasible(self, x_shape, dtype=None):
        return jnp.zeros(x_shape, dtype).at[..., 0].set(jnp.asarray(self.total_count, dtype))


boolean = Boolean()
nonnegative_integer = IntegerAtLeast(0)
positive_integer = IntegerAtLeast(1)
integer_interval, multinomial = IntegerInterval, Multinomial
integer_greater_than = IntegerAtLeast  # NumPyro's name; its bound is included, as there
