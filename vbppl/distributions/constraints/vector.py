"""Maps of vectors."""

from __future__ import annotations

import functools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.pytree import pytree, static
from vbppl.distributions.constraints.base import Bijector, Independent, as_float, like
from vbppl.distributions.constraints.scalar import real


@pytree
class Simplex(Bijector):
    """`K` non-negative numbers with sum one, by breaking a stick; `z` has `K - 1` entries.

    `x_k = s_k prod_{j<k} (1 - s_j)`, where `s_k = sigmoid(z_k - log(K - 1 - k))`, so that `z = 0` is uniform.
    """

    name = "simplex"
    event_dim = 1
    unconstrained_dim = 1

    def forward_and_log_det(self, z):
        z = as_float(z)
        u = z - like(self._offset(z.shape[-1]), z)
        log_rest = jnp.cumsum(jax.nn.log_sigmoid(-u), axis=-1)
        before = jnp.concatenate([jnp.zeros_like(u[..., :1]), log_rest], axis=-1)
        log_x = before.at[..., :-1].add(jax.nn.log_sigmoid(u))
        log_det = jnp.sum(log_x[..., :-1], axis=-1) - jnp.sum(jax.nn.softplus(u), axis=-1)
        return jnp.exp(jnp.maximum(log_x, np.log(jnp.finfo(u.dtype).tiny))), log_det

    def inverse(self, x):
        x = as_float(x)
        tail = jnp.flip(jnp.cumsum(jnp.flip(x, -1), axis=-1), -1)
        return jnp.log(x[..., :-1]) - jnp.log(tail[..., 1:]) + like(self._offset(x.shape[-1] - 1), x)

    def check(self, x):
        tolerance = 1e-6 + np.shape(x)[-1] * jnp.finfo(jnp.result_type(x, 0.0)).eps
        return jnp.all(jnp.greater_equal(x, 0), axis=-1) & (jnp.abs(jnp.sum(x, axis=-1) - 1) < tolerance)

    def unconstrained_shape(self, x_shape):
        return (*x_shape[:-1], x_shape[-1] - 1)

    def constrained_shape(self, z_shape):
        return (*z_shape[:-1], z_shape[-1] + 1)

    @staticmethod
    def _offset(n: int) -> np.ndarray:
        return np.log(np.arange(n, 0, -1))


@pytree
class OrderedVector(Bijector):
    """Increasing numbers; `x_0 = z_0`, `x_k = x_{k-1} + exp z_k`."""

    name = "ordered_vector"
    event_dim = 1
    unconstrained_dim = 1

    def forward_and_log_det(self, z):
        z = as_float(z)
        steps = jnp.concatenate([z[..., :1], jnp.exp(z[..., 1:])], axis=-1)
        return jnp.cumsum(steps, axis=-1), jnp.sum(z[..., 1:], axis=-1)

    def inverse(self, x):
        x = jnp.asarray(x)
        return jnp.concatenate([x[..., :1], jnp.log(jnp.diff(x, axis=-1))], axis=-1)

    def check(self, x):
        return jnp.all(jnp.diff(x, axis=-1) > 0, axis=-1)


@pytree
class PositiveOrderedVector(OrderedVector):
    """Increasing positive numbers; `x_k = x_{k-1} + exp z_k`, from `x_{-1} = 0`.

    Here NumPyro's map is not followed: `exp` of an ordered vector overflows at `z = 5` in 32 bits.
    """

    name = "positive_ordered_vector"

    def forward_and_log_det(self, z):
        z = as_float(z)
        return jnp.cumsum(jnp.exp(z), axis=-1), jnp.sum(z, axis=-1)

    def inverse(self, x):
        x = jnp.asarray(x)
        return jnp.log(jnp.concatenate([x[..., :1], jnp.diff(x, axis=-1)], axis=-1))

    def check(self, x):
        return (jnp.asarray(x)[..., 0] > 0) & super().check(x)


@pytree
class ZeroSum(Bijector):
    """Numbers whose sum along each of the last `event_dim` axes is zero.

    An isometry of one number less along each axis onto the hyperplane, so that `log |dx/dz|` is zero: with `s` the sum
    of `z` and `n` numbers, `x_k = z_k - s / (n + sqrt n)`, and the last is what is left.
    """

    name = "zero_sum"
    event_dim: int = static(default=1)

    @property
    def unconstrained_dim(self):
        return self.event_dim

    def forward_and_log_det(self, z):
        x = as_float(z)
        for axis in range(-self.event_dim, 0):
            n = x.shape[axis] + 1
            total = jnp.sum(x, axis=axis, keepdims=True)
            shift = total / (n + np.sqrt(n))
            x = jnp.concatenate([x - shift, (n - 1) * shift - total], axis=axis)
        return x, jnp.zeros(x.shape[: x.ndim - self.event_dim], x.dtype)

    def inverse(self, x):
        z = as_float(x)
        for axis in range(-self.event_dim, 0):
            n = z.shape[axis]
            last = jax.lax.slice_in_dim(z, n - 1, n, axis=axis)
            z = jax.lax.slice_in_dim(z, 0, n - 1, axis=axis) - last / (1 + np.sqrt(n))
        return z

    def check(self, x):
        tolerance = 8 * jnp.finfo(jnp.result_type(x, 0.0)).eps * math.prod(np.shape(x)[-self.event_dim :])
        axes = tuple(range(-self.event_dim, 0))
        largest = jnp.max(jnp.abs(x), axis=axes)
        sums = (jnp.max(jnp.abs(jnp.sum(x, axis=axis, keepdims=True)), axis=axes) for axis in axes)
        return functools.reduce(operator.and_, (total <= tolerance * (1 + largest) for total in sums))

    def unconstrained_shape(self, x_shape):
        split = len(x_shape) - self.event_dim
        return (*x_shape[:split], *(size - 1 for size in x_shape[split:]))

    def constrained_shape(self, z_shape):
        split = len(z_shape) - self.event_dim
        return (*z_shape[:split], *(size + 1 for size in z_shape[split:]))

    def describe(self):
        return f"zero_sum({self.event_dim})"


real_vector = Independent(real, 1)
zero_sum = ZeroSum
simplex = Simplex()
ordered_vector = OrderedVector()
positive_ordered_vector = PositiveOrderedVector()
