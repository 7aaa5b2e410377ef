"""Normal vectors whose numbers are tied: walks in time, neighbours on a map, effects whose sum is zero."""

from __future__ import annotations

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError, whole_number
from vbppl.core.pytree import pytree, set_field, static
from vbppl.core.special import HALF_LOG_TWO_PI
from vbppl.core.types import Array, ArrayLike, Shape
from vbppl.distributions.arguments import as_shape
from vbppl.distributions.base import Distribution
from vbppl.distributions.constraints.vector import ZeroSum, real_vector


@pytree
class GaussianRandomWalk(Distribution):
    """`num_steps` numbers: the first is `Normal(0, scale)`, and so is each step to the next."""

    scale: ArrayLike = 1.0
    num_steps: int = static(default=1)
    event_dim = 1
    support = real_vector

    def __post_init__(self):
        super().__post_init__()
        set_field(self, "num_steps", whole_number("num_steps", self.num_steps, 1))

    @property
    def event_shape(self):
        return (self.num_steps,)

    def _sample(self, key, shape):
        steps = jnp.asarray(self.scale, self.dtype)[..., None] * jax.random.normal(key, shape, self.dtype)
        return jnp.cumsum(steps, axis=-1)

    def log_prob(self, x):
        steps = jnp.diff(x, axis=-1, prepend=0.0) / jnp.asarray(self.scale, self.dtype)[..., None]
        return -0.5 * jnp.sum(jnp.square(steps), axis=-1) - self.num_steps * (jnp.log(self.scale) + HALF_LOG_TWO_PI)

    def _moments(self):
        scale = jnp.asarray(self.scale, self.dtype)[..., None]
        return jnp.zeros((), self.dtype), jnp.square(scale) * jnp.arange(1.0, self.num_steps + 1, dtype=self.dtype)


@pytree
class CAR(Distribution):
    """A map: each number is normal about `correlation` times the mean of its neighbours' distances from `loc`.

    Its precision matrix is `conditional_precision (D - correlation A)`, where `A` is `adj_matrix`, symmetric, and `D`
    the number of neighbours of each. The correlation lies between -1 and 1: a proper prior, where ICAR's is not.
    """

    loc: ArrayLike
    correlation: ArrayLike
    conditional_precision: ArrayLike
    adj_matrix: ArrayLike
    event_dim = 1
    parameter_dims: ClassVar[dict[str, int]] = {"loc": 1, "adj_matrix": 2}
    support = real_vector

    def __post_init__(self):
        super().__post_init__()
        shape, loc = np.shape(self.adj_matrix), np.shape(self.loc)
        if len(shape) < 2 or shape[-1] != shape[-2] or loc[-1:] not in ((), (1,), shape[-1:]):
            raise ModelError(
                "the parameters of CAR do not fit together.",
                details=f"loc: {loc}\nadj_matrix: {shape}",
                mend="Give loc the shape (..., K) and adj_matrix the shape (..., K, K).",
            )
        if not loc:
            set_field(self, "loc", jnp.reshape(self.loc, (1,)))

    @property
    def event_shape(self):
        return np.shape(self.adj_matrix)[-1:]

    def _factor(self) -> Array:
        """The Cholesky factor of the precision, for a conditional precision of one."""
        adjacent = jnp.asarray(self.adj_matrix, self.dtype)
        neighbours = jnp.sum(adjacent, axis=-1)[..., None] * jnp.eye(adjacent.shape[-1], dtype=self.dtype)
        return jnp.linalg.cholesky(neighbours - jnp.asarray(self.correlation)[..., None, None] * adjacent)

    def _sample(self, key, shape):
        noise = jax.random.normal(key, shape, self.dtype)[..., None]
        factor = jnp.broadcast_to(self._factor(), (*shape, shape[-1]))
        moved = jax.lax.linalg.triangular_solve(factor, noise, left_side=True, lower=True, transpose_a=True)[..., 0]
        return self.loc + moved / jnp.sqrt(jnp.asarray(self.conditional_precision, self.dtype))[..., None]

    def log_prob(self, x):
        precision, factor = jnp.asarray(self.conditional_precision, self.dtype), self._factor()
        u = jnp.einsum("...ji,...j->...i", factor, x - self.loc)
        log_det = jnp.sum(jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)), axis=-1)
        size = factor.shape[-1]
        constant = size * (0.5 * jnp.log(precision) - HALF_LOG_TWO_PI) + log_det
        return constant - 0.5 * precision * jnp.sum(jnp.square(u), axis=-1)

    def _moments(self):
        def variance():
            factor = self._factor()
            eye = jnp.broadcast_to(jnp.eye(factor.shape[-1], dtype=factor.dtype), factor.shape)
            inverse = jax.lax.linalg.triangular_solve(factor, eye, left_side=True, lower=True)
            precision = jnp.asarray(self.conditional_precision, self.dtype)[..., None]
            return jnp.sum(jnp.square(inverse), axis=-2) / precision

        return self.loc, variance


@pytree
class ZeroSumNormal(Distribution):
    """Independent normals, `event_shape`, with sd `scale`, given that their sum along each axis of the event is zero.

    The effects of the levels of a factor, beside an intercept. The density is in coordinates along the hyperplane, in
    the units of the vector.

    >>> round(float(ZeroSumNormal(2.0, (4,)).variance[0]), 4)  # 4 times 3/4
    3.0
    """

    scale: ArrayLike
    event: Shape = static(default=())

    def __init__(self, scale: ArrayLike, event_shape: Shape):
        sizes = as_shape("ZeroSumNormal", "event_shape", event_shape)
        if not sizes or min(sizes) < 2:
            raise ModelError(
                f"the event_shape of ZeroSumNormal is {event_shape!r}; its numbers have a sum of zero.",
                mend="Give at least two numbers along each axis: event_shape=(5,).",
            )
        set_field(self, "scale", scale)
        set_field(self, "event", sizes)
        self.__post_init__()

    @property
    def event_shape(self):
        return self.event

    @property
    def event_dim(self):
        return len(self.event)

    @property
    def support(self):
        return ZeroSum(len(self.event))

    def _sample(self, key, shape):
        x = jax.random.normal(key, shape, self.dtype)
        for axis in range(-len(self.event), 0):
            x = x - jnp.mean(x, axis=axis, keepdims=True)
        return jnp.asarray(self.scale, self.dtype).reshape(*np.shape(self.scale), *(1,) * len(self.event)) * x

    def _log_density(self, x):
        free = math.prod(size - 1 for size in self.event)
        square = jnp.sum(jnp.square(x), axis=tuple(range(-len(self.event), 0))) / jnp.square(self.scale)
        return -0.5 * square - free * (jnp.log(self.scale) + HALF_LOG_TWO_PI)

    def _moments(self):
        part = math.prod(1.0 - 1.0 / size for size in self.event)
        scale = jnp.asarray(self.scale, self.dtype).reshape(*np.shape(self.scale), *(1,) * len(self.event))
        return jnp.zeros((), self.dtype), jnp.square(scale) * part
