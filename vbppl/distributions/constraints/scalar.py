"""Maps of one number."""

from __future__ import annotations

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from vbppl.core.pytree import pytree
from vbppl.core.types import Array, ArrayLike
from vbppl.distributions.constraints.base import Bijector, as_float


@pytree
class Real(Bijector):
    """All finite numbers; `x = z`."""

    name = "real"

    def forward_and_log_det(self, z):
        z = as_float(z)
        return z, jnp.zeros_like(z)

    def inverse(self, x):
        return x

    def check(self, x):
        return jnp.isfinite(x)


@pytree
class Positive(Bijector):
    """`x > 0`; `x = exp z`."""

    name = "positive"

    def forward_and_log_det(self, z):
        z = as_float(z)
        return jnp.exp(z), z

    def inverse(self, x):
        return jnp.log(x)

    def check(self, x):
        return jnp.greater(x, 0)


@pytree
class Nonnegative(Positive):
    """`x >= 0`; `x = exp z`."""

    name = "nonnegative"

    def check(self, x):
        return jnp.greater_equal(x, 0)


@pytree
class SoftplusPositive(Positive):
    """`x > 0`; `x = log(1 + exp z)`."""

    name = "softplus_positive"

    def forward_and_log_det(self, z):
        z = as_float(z)
        return jax.nn.softplus(z), jax.nn.log_sigmoid(z)

    def inverse(self, x):
        return x + jnp.log(-jnp.expm1(-x))


@pytree
class GreaterThan(Bijector):
    """`x > low`; `x = low + exp z`."""

    name = "greater_than"
    low: ArrayLike

    def forward_and_log_det(self, z):
        z = as_float(z)
        if not _are_finite(self.low):
            return _row_by_row(z, self.low, jnp.inf)
        x = _inside(self.low + jnp.exp(z), low=self.low)
        return x, jnp.broadcast_to(z, x.shape)

    def inverse(self, x):
        return jnp.log(x - self.low) if _are_finite(self.low) else _back_row_by_row(x, self.low, jnp.inf)

    def check(self, x):
        return jnp.greater(x, self.low)


@pytree
class GreaterThanEq(GreaterThan):
    """`x >= low`; `x = low + exp z`."""

    name = "greater_than_eq"

    def check(self, x):
        return jnp.greater_equal(x, self.low)


@pytree
class LessThan(Bijector):
    """`x < high`; `x = high - exp z`."""

    name = "less_than"
    high: ArrayLike

    def forward_and_log_det(self, z):
        z = as_float(z)
        if not _are_finite(self.high):
            return _row_by_row(z, -jnp.inf, self.high)
        x = _inside(self.high - jnp.exp(z), high=self.high)
        return x, jnp.broadcast_to(z, x.shape)

    def inverse(self, x):
        return jnp.log(self.high - x) if _are_finite(self.high) else _back_row_by_row(x, -jnp.inf, self.high)

    def check(self, x):
        return jnp.less(x, self.high)


@pytree
class LessThanEq(LessThan):
    """`x <= high`; `x = high - exp z`."""

    name = "less_than_eq"

    def check(self, x):
        return jnp.less_equal(x, self.high)


@pytree
class Interval(Bijector):
    """`low <= x <= high`; `x = low + (high - low) / (1 + exp(-z))`.

    Where a bound is infinite, the map is that of the other one alone, or `x = z`.

    >>> interval(0.0, 2.0)
    interval(0.0, 2.0)
    >>> float(interval(0.0, 2.0).forward(0.0))
    1.0
    """

    name = "interval"
    low: ArrayLike
    high: ArrayLike

    def forward_and_log_det(self, z):
        z = as_float(z)
        if not _are_finite(self.low, self.high):
            return _row_by_row(z, self.low, self.high)
        width = self.high - self.low
        x = _inside(self.low + width * jax.nn.sigmoid(z), self.low, self.high)
        return x, jnp.broadcast_to(jnp.log(width) - jax.nn.softplus(z) - jax.nn.softplus(-z), x.shape)

    def inverse(self, x):
        if not _are_finite(self.low, self.high):
            return _back_row_by_row(x, self.low, self.high)
        return jnp.log(x - self.low) - jnp.log(self.high - x)

    def check(self, x):
        return jnp.greater_equal(x, self.low) & jnp.less_equal(x, self.high)


@pytree
class UnitInterval(Bijector):
    """`0 <= x <= 1`; `x = 1 / (1 + exp(-z))`."""

    name = "unit_interval"

    def forward_and_log_det(self, z):
        z = as_float(z)
        return _inside(jax.nn.sigmoid(z), 0.0, 1.0), -jax.nn.softplus(z) - jax.nn.softplus(-z)

    def inverse(self, x):
        return jnp.log(x) - jnp.log1p(-x)

    def check(self, x):
        return jnp.greater_equal(x, 0) & jnp.less_equal(x, 1)


def _are_finite(*bounds: ArrayLike) -> bool:
    """Whether this is known while a program is traced."""
    return all(not isinstance(bound, jax.core.Tracer) and bool(np.all(np.isfinite(bound))) for bound in bounds)


def _row_by_row(z: Array, low: ArrayLike, high: ArrayLike) -> tuple[Array, Array]:
    """The map and its log determinant for bounds of which any may be infinite.

    What is not taken has arguments that it can bear, lest gradients be NaN.
    """
    above, below = jnp.isfinite(low), jnp.isfinite(high)
    both, one = above & below, above ^ below
    far = jnp.exp(jnp.where(one, z, 0.0))
    half = jnp.where(above, jnp.where(above, low, 0.0) + far, jnp.where(below, high, 0.0) - far)
    start, end = jnp.where(both, low, 0.0), jnp.where(both, high, 1.0)
    between = start + (end - start) * jax.nn.sigmoid(z)
    x = jnp.where(both, between, jnp.where(one, half, z))
    log_det = jnp.log(end - start) - jax.nn.softplus(z) - jax.nn.softplus(-z)
    return _inside(x, low, high), jnp.where(both, log_det, jnp.where(one, z, jnp.zeros_like(x)))


def _back_row_by_row(x: ArrayLike, low: ArrayLike, high: ArrayLike) -> Array:
    above, below = jnp.isfinite(low), jnp.isfinite(high)
    over = jnp.log(jnp.where(above, x - jnp.where(above, low, 0.0), 1.0))
    under = jnp.log(jnp.where(below, jnp.where(below, high, 0.0) - x, 1.0))
    return jnp.where(above, over - under, jnp.where(below, under, x))


def _inside(x: Array, low: ArrayLike | None = None, high: ArrayLike | None = None) -> Array:
    """Keep `x` a rounding error away from its bounds: rounded onto one, its density could be infinite."""
    if low is not None:
        low = jnp.asarray(low, x.dtype)
        x = jnp.maximum(x, jax.lax.stop_gradient(low + _margin(low)))
    if high is not None:
        high = jnp.asarray(high, x.dtype)
        x = jnp.minimum(x, jax.lax.stop_gradient(high - _margin(high)))
    return x


def _margin(bound: Array) -> Array:
    info = jnp.finfo(bound.dtype)
    size = jnp.where(jnp.isfinite(bound), jnp.abs(bound), 0.0)
    return jnp.maximum(size * info.eps, info.tiny)


@pytree
class Affine(Real):
    """All numbers; `x = loc + scale z`, where `scale` may be negative but not zero."""

    name = "affine"
    loc: ArrayLike
    scale: ArrayLike

    def forward_and_log_det(self, z):
        x = self.loc + self.scale * as_float(z)
        return x, jnp.broadcast_to(jnp.log(jnp.abs(self.scale)), x.shape)

    def inverse(self, x):
        return (x - self.loc) / self.scale


@pytree
class Power(Positive):
    """`x > 0`; `x = z^exponent`, for `z > 0`."""

    name = "power"
    exponent: ArrayLike

    def forward_and_log_det(self, z):
        x = jnp.power(z, self.exponent)
        return x, jnp.log(jnp.abs(self.exponent)) + (self.exponent - 1.0) * jnp.log(z)

    def feasible(self, x_shape, dtype=None):
        return jnp.ones(x_shape, dtype)  # the image of 0, which is no positive number, may be infinite

    def inverse(self, x):
        return jnp.power(x, 1.0 / self.exponent)


real = Real()
positive = Positive()
nonnegative = Nonnegative()
softplus_positive = SoftplusPositive()
unit_interval = UnitInterval()
greater_than, less_than, interval = GreaterThan, LessThan, Interval
greater_than_eq, less_than_eq = GreaterThanEq, LessThanEq
