"""What is known of a value in part (censored), and what was seen only because it lies somewhere (truncated).

Of a censored value it is known on which side of a bound it lies: it was a draw of the base like all others, and its
density is the probability of that side. A truncated value would not be in the data on the other side: its density is
the base's, over the probability of this one. Both stand over any base of one number that has a `cdf`, and are as exact
in the tails as its `log_cdf` and `log_survival` are.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.pytree import pytree, set_field
from vbppl.core.special import log1mexp
from vbppl.core.types import Array, ArrayLike, Shape
from vbppl.distributions.base import Distribution, Renamed, Wrapper, broadcast_batch
from vbppl.distributions.constraints.base import Bijector
from vbppl.distributions.constraints.integer import IntegerInterval, integer_greater_than
from vbppl.distributions.constraints.scalar import (
    greater_than_eq,
    interval,
    less_than_eq,
    positive,
    real,
    unit_interval,
)

STEPS = 64  # halvings of an interval in which a draw lies
WIDEST = 1e4  # of the unconstrained numbers among which a draw is searched


@pytree
class Bounds(Bijector):
    """Two numbers, the lower one first; either may be infinite."""

    name = "bounds"
    event_dim = 1

    def forward_and_log_det(self, z):
        raise ModelError("bounds of an interval are observed, not latent.", mend="Pass obs=, of shape (..., 2).")

    def feasible(self, x_shape, dtype=None):
        return jnp.broadcast_to(jnp.asarray([0.0, 1.0], dtype), x_shape)

    def check(self, x):
        return jnp.less_equal(jnp.asarray(x)[..., 0], jnp.asarray(x)[..., 1])


class _Restricted(Wrapper):
    """What the wrappers share: a base of one number with a `cdf`, and other arrays that broadcast with its batch."""

    location_scale: ClassVar[None] = None
    parts: ClassVar[tuple[str, ...]]

    def __post_init__(self):
        super().__post_init__()
        base, name = self.base_dist, type(self).__name__
        if not isinstance(base, Distribution) or base.event_dim:
            raise ModelError(
                f"the base of {name} is {type(base).__name__}, whose values are no single numbers.",
                mend=f"Write {name}(dist.Normal(loc, scale), ...): plates and shapes come after it.",
            )
        if not _has_cdf(base):
            mend = "Take a base that has one, as dist.Normal, Gamma, Weibull or Poisson; or give its class a cdf."
            raise ModelError(f"{type(base).__name__} has no cdf, of which {name} is made.", mend=mend)

    @property
    def batch_shape(self):
        given = {name: getattr(self, name) for name in self.parts}
        shapes = {name: np.shape(value) for name, value in given.items() if value is not None}
        return broadcast_batch(type(self).__name__, {"base_dist": self.base_dist.batch_shape, **shapes})


def _has_cdf(base: Any) -> bool:
    while type(base).cdf is Renamed.cdf:
        base = base.base_dist
    return type(base).cdf is not Distribution.cdf


@pytree
class RightCensoredDistribution(_Restricted):
    """A value of `base_dist` of which, where `censored`, is known that it is more than what is seen: `log P(X > x)`.

    Draws are whole values, of which none is censored.

    >>> from vbppl.distributions import Exponential
    >>> d = RightCensoredDistribution(Exponential(0.1), np.array([False, True]))
    >>> [round(float(p), 3) for p in d.log_prob(np.array([4.0, 12.0]))]  # log .1 - .4, and -1.2
    [-2.703, -1.2]
    """

    base_dist: Distribution
    censored: ArrayLike = False
    parts = ("censored",)

    def log_prob(self, x):
        return _observed_or(self.censored, self.base_dist, x, _log_above)


@pytree
class LeftCensoredDistribution(_Restricted):
    """A value of `base_dist` of which, where `censored`, is known that it is at most what is seen: `log P(X <= x)`.

    >>> from vbppl.distributions import Normal
    >>> round(float(LeftCensoredDistribution(Normal(0.0, 1.0), True).log_prob(0.0)), 4)  # one half
    -0.6931
    """

    base_dist: Distribution
    censored: ArrayLike = False
    parts = ("censored",)

    def log_prob(self, x):
        return _observed_or(self.censored, self.base_dist, x, _log_below)


def _log_below(base: Distribution, x: ArrayLike) -> Array:
    """`log P(X <= x)`; what is certain at an infinite `x` has gradients of zero, where the formulas' would be NaN."""
    far = jnp.isinf(x)
    return jnp.where(far, jnp.where(x > 0, 0.0, -jnp.inf), base.log_cdf(base.support.replaced(x, far)))


def _log_above(base: Distribution, x: ArrayLike) -> Array:
    """`log P(X > x)`, as `_log_below`."""
    far = jnp.isinf(x)
    return jnp.where(far, jnp.where(x > 0, -jnp.inf, 0.0), base.log_survival(base.support.replaced(x, far)))


def _observed_or(censored: ArrayLike, base: Distribution, x: ArrayLike, tail: Any) -> Array:
    """The density of what is observed, and the probability of the tail beyond what is censored."""
    censored, x = jnp.asarray(censored, bool), jnp.asarray(x)
    # Each is asked where the other is not: a bound may lie off the support, and a density be infinite there.
    return jnp.where(censored, tail(base, x), base.log_prob(base.support.replaced(x, censored)))


@pytree
class IntervalCensoredDistribution(_Restricted):
    """A value of `base_dist` between two observed bounds, `(..., 2)`: `log P(lower < X <= upper)`.

    Where `right_censored` it is more than the lower bound and the upper is not looked at; where `left_censored` at most
    the upper one; with both it lies outside the two. Where the bounds are equal it was observed.

    >>> from vbppl.distributions import Exponential
    >>> round(float(IntervalCensoredDistribution(Exponential(1.0)).log_prob(np.array([1.0, 2.0]))), 4)
    -1.4587
    """

    base_dist: Distribution
    left_censored: ArrayLike = False
    right_censored: ArrayLike = False
    parts = ("left_censored", "right_censored")
    event_dim = 1

    @property
    def event_shape(self):
        return (2,)

    is_discrete = False
    support = Bounds()

    def _sample(self, key, shape):
        x = self.base_dist._sample(key, shape[:-1])
        return jnp.stack([x, x], axis=-1)

    def log_prob(self, x):
        base, (lower, upper) = self.base_dist, jnp.moveaxis(jnp.asarray(x, self.dtype), -1, 0)
        left, right = jnp.asarray(self.left_censored, bool), jnp.asarray(self.right_censored, bool)
        point = jnp.equal(lower, upper) & ~left & ~right
        # A bound that is not looked at may be anything: each formula gets some other where it is not asked.
        lower, upper = jnp.where(left & ~right, 1.0, lower), jnp.where(right & ~left, 1.0, upper)
        one_side = jnp.where(left, _log_below(base, upper), _log_above(base, lower))
        outside = jnp.logaddexp(_log_below(base, lower), _log_above(base, upper))
        usual = ~left & ~right & ~point
        between = log_mass(base, jnp.where(usual, lower, 0.0), jnp.where(usual, upper, 1.0))
        found = jnp.where(point, base.log_prob(base.support.replaced(upper, ~point)), between)
        return jnp.where(left & right, outside, jnp.where(left | right, one_side, found))


def log_mass(base: Distribution, low: ArrayLike, high: ArrayLike) -> Array:
    """`log P(low < X <= high)` of a distribution, seen from the tail in which the two lie."""
    below = _log_below(base, low), _log_below(base, high)
    above = _log_above(base, low), _log_above(base, high)
    left = below[0] < above[0]
    larger, smaller = jnp.where(left, below[1], above[0]), jnp.where(left, below[0], above[1])
    some = larger > smaller
    # Without a tail beyond, the difference is the larger one itself; the gradient must not meet infinity.
    whole = ~jnp.isfinite(smaller)
    gap = jnp.where(some & ~whole, larger - jnp.where(whole, 0.0, smaller), 1.0)
    return jnp.where(some, larger + jnp.where(whole, 0.0, log1mexp(gap)), -jnp.inf)


@pytree
class TruncatedDistribution(_Restricted):
    """`base_dist`, given that it lies between `low` and `high` (`None`: no bound), both included.

    Of a normal `TruncatedNormal` is faster, and has moments.

    >>> from vbppl.distributions import Geometric
    >>> d = TruncatedDistribution(Geometric(0.5), low=1)  # of which no zero is ever counted
    >>> round(float(np.exp(d.log_prob(1))), 4)  # 1/4 of 1/2
    0.5
    """

    base_dist: Distribution
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    parts = ("low", "high")

    def __post_init__(self):
        super().__post_init__()
        for name, nowhere in (("low", -np.inf), ("high", np.inf)):
            value = getattr(self, name)
            if isinstance(value, (float, np.floating)) and value == nowhere:  # which is no bound
                set_field(self, name, None)

    @property
    def has_rsample(self):
        return not self.is_discrete

    @property
    def support(self):
        (low, high), (own_low, own_high) = _bounds(self.base_dist), (self._low, self.high)
        own_high = _rounded(jnp.floor, own_high) if self.is_discrete else own_high
        low = own_low if low is None else low if own_low is None else jnp.maximum(low, own_low)
        high = own_high if high is None else high if own_high is None else jnp.minimum(high, own_high)
        if self.is_discrete:
            return integer_greater_than(low) if high is None else IntegerInterval(low, high)
        if high is None:
            return real if low is None else greater_than_eq(low)
        return less_than_eq(high) if low is None else interval(low, high)

    def log_prob(self, x):
        inside = self.support.check(x)
        x = self.support.replaced(jnp.asarray(x), ~inside)
        return jnp.where(inside, self.base_dist.log_prob(x) - self._log_mass(), -jnp.inf)

    def _moments(self):
        raise self._no("mean and variance")

    def cdf(self, x):
        return jnp.exp(self.log_cdf(x))

    def log_cdf(self, x):
        x, below = jnp.asarray(x, self.dtype), self._below()
        inside = self._log_part(x if self.high is None else jnp.minimum(x, self.high)) - self._log_mass()
        return inside if below is None else jnp.where(x <= below, -jnp.inf, jnp.minimum(inside, 0.0))

    def log_survival(self, x):
        x, below = jnp.asarray(x, self.dtype), self._below()
        x = x if below is None else jnp.maximum(x, below)
        above = _log_above(self.base_dist, x) if self.high is None else log_mass(self.base_dist, x, self.high)
        inside = jnp.minimum(above - self._log_mass(), 0.0)
        return inside if self.high is None else jnp.where(x >= self.high, -jnp.inf, inside)

    @property
    def _low(self) -> ArrayLike | None:
        return _rounded(jnp.ceil, self.low) if self.is_discrete else self.low

    def _below(self) -> ArrayLike | None:
        """What all values are more than."""
        low = self._low
        return low - 1 if self.is_discrete and low is not None else low

    def _log_mass(self) -> Array:
        below = self._below()
        if below is None:
            return _log_below(self.base_dist, self.high) if self.high is not None else jnp.zeros(())
        return _log_above(self.base_dist, below) if self.high is None else log_mass(self.base_dist, below, self.high)

    def _sample(self, key, shape):
        u = jax.random.uniform(key, shape, self.dtype, minval=jnp.finfo(self.dtype).tiny)
        base, log_part = self.base_dist, self._log_part
        support: Any = self.support
        # The part rises through the support; the draw is where it is the whole, and log u.
        goal = jnp.log(u) + self._log_mass()
        if self.is_discrete:
            return _first_count(lambda k: log_part(k) >= goal, support.low, shape)
        falls = isinstance(support, less_than_eq)  # the one map down from a bound
        forward = lambda z: support.forward(-z if falls else z)  # noqa: E731
        z = _crossing(lambda z: log_part(forward(z)) >= goal, shape, self.dtype)
        x = jax.lax.stop_gradient(forward(z))
        # By the implicit function: what moves the goal moves the draw by as much, over the density; in logarithms, as
        # that may be no number where the draw is. Where there is no mass to draw from all is NaN.
        inverse = jnp.exp(jnp.minimum(log_part(x) - base.log_prob(x), jnp.log(jnp.finfo(self.dtype).max)))
        moved = goal - log_part(x)
        return x + (moved - jax.lax.stop_gradient(moved)) * jax.lax.stop_gradient(inverse)

    def _log_part(self, x: Array) -> Array:
        """`log P(low < X <= x)` of the base."""
        below = self._below()
        return _log_below(self.base_dist, x) if below is None else log_mass(self.base_dist, below, x)


@pytree
class LeftTruncatedDistribution(TruncatedDistribution):
    """`base_dist`, given that it is at least `low`."""

    def __init__(self, base_dist: Distribution, low: ArrayLike = 0.0):
        for name, value in (("base_dist", base_dist), ("low", low), ("high", None)):
            set_field(self, name, value)
        self.__post_init__()


@pytree
class RightTruncatedDistribution(TruncatedDistribution):
    """`base_dist`, given that it is at most `high`."""

    def __init__(self, base_dist: Distribution, high: ArrayLike = 0.0):
        for name, value in (("base_dist", base_dist), ("low", None), ("high", high)):
            set_field(self, name, value)
        self.__post_init__()


@pytree
class TwoSidedTruncatedDistribution(TruncatedDistribution):
    """`base_dist`, given that it lies between `low` and `high`."""

    low: ArrayLike | None = 0.0
    high: ArrayLike | None = 1.0


def _rounded(inwards: Any, bound: ArrayLike | None) -> Any:
    """A bound of counts as the last whole number within it."""
    is_whole = bound is None or not jnp.issubdtype(jnp.result_type(bound), jnp.floating)
    return bound if is_whole else inwards(bound)


def _bounds(base: Distribution) -> tuple[Any, Any]:
    """Between which numbers a distribution lies, None where there is no bound."""
    support = base.support
    if isinstance(support, type(positive)):
        return 0.0, None
    if isinstance(support, type(unit_interval)):
        return 0.0, 1.0
    return getattr(support, "low", None), getattr(support, "high", None)


def _crossing(reached: Any, shape: Shape, dtype: Any) -> Array:
    """Where a condition that holds from some number on begins to hold, by halving."""

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = 0.5 * (ends[0] + ends[1])
        here = reached(middle)
        return jnp.where(here, ends[0], middle), jnp.where(here, middle, ends[1])

    ends = jnp.full(shape, -WIDEST, dtype), jnp.full(shape, WIDEST, dtype)
    return jax.lax.stop_gradient(jax.lax.fori_loop(0, STEPS, halve, ends)[1])


def _first_count(reached: Any, low: ArrayLike, shape: Shape) -> Array:
    """The first whole number from `low` on at which a condition holds."""
    whole = jnp.result_type(int)
    most = jnp.iinfo(whole).max // 2

    def grow(_: Array, top: Array) -> Array:
        return jnp.where(reached(low + top), top, jnp.minimum(2 * top, most))

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (ends[0] + ends[1]) // 2
        here = reached(low + middle)
        return jnp.where(here, ends[0], middle), jnp.where(here, middle, ends[1])

    top = jax.lax.fori_loop(0, 30, grow, jnp.ones(shape, whole))
    ends = jax.lax.fori_loop(0, 31, halve, (jnp.full(shape, -1, whole), top))
    return jnp.asarray(low, whole) + ends[1]
