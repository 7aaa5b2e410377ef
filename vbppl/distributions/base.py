"""What a distribution is: a frozen pytree with five members.

`sample(key, sample_shape)`, `log_prob(x)`, `batch_shape`, `event_shape`, `support`. Any object
with these members can stand in a `sample` statement. Shapes are the field's own: a draw has shape
`sample_shape + batch_shape + event_shape`, and `log_prob` sums over the event, so it has shape
`sample_shape + batch_shape`.

A new distribution gives the mathematics of one event: parameters as fields, `support`, `_sample(key, shape)`,
`_log_density(x)`, which is asked on the support alone, and, where they have a closed form, `_moments()`. Everything
else is derived here.

`_sample` gets the *whole* shape of the draws, to which the parameters broadcast, and fills it with
independent values. That makes `expand` right by construction: an expanded distribution asks
its base for a larger shape, and no draw is ever copied along a new dimension.

The wrappers `ExpandedDistribution`, `Independent` and `MaskedDistribution` live here too, because `expand`, `to_event`,
`mask` and `weighted` of every distribution return them. What they do not say themselves they forward to their base.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from types import FunctionType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError, whole_number
from vbppl.core.pytree import pytree, set_field, static
from vbppl.core.special import safe_log, sum_rightmost
from vbppl.core.types import Array, ArrayLike, Shape
from vbppl.distributions import arguments
from vbppl.distributions.constraints.base import Bijector, independent


class Distribution:
    """The protocol, with what can be derived from it.

    A parameter may be a number, an array, or a list of them (`Normal([0, mu], 2.0)`).

    Attributes:
      support: the bijector onto the set of values; of the class, or a property of the object.
      event_dim: how many rightmost dimensions of a draw make one event (0: scalars).
      is_discrete: True where the support is countable.
      has_rsample: True where `sample` is differentiable in the parameters: of all but discrete ones.
      domain: where `_log_density` holds: the support, or with its edge, where the formula has a limit.
      parameter_dims: for each parameter that is itself an event, how many of its rightmost
        dimensions do not belong to the batch (0 where not listed).
      in_coordinates: of a log-normal, say, `support.forward(v)` number by number, the distribution of `v`; else None.
      location_scale: of a family `loc + scale u`, the pair of both, which broadcast with the draws; of a multivariate
        normal the mean and the Cholesky factor; else that of `in_coordinates`, or None. It can be seen non-centred.
    """

    support: ClassVar[Bijector]
    event_dim: ClassVar[int] = 0
    parameter_dims: ClassVar[dict[str, int]] = {}
    in_coordinates: ClassVar[Distribution | None] = None
    location_scale: Any = property(lambda self: getattr(self.in_coordinates, "location_scale", None))
    is_discrete: Any = property(operator.attrgetter("support.is_discrete"))
    has_rsample: Any = property(lambda self: not self.is_discrete)
    domain: Any = property(operator.attrgetter("support"))

    def __new__(cls, *args: Any, **kwargs: Any) -> Distribution:
        fields = getattr(cls, "__dataclass_fields__", {})
        if len(args) > len(fields) or not fields.keys() >= kwargs.keys():
            arguments.check_call(cls, len(args), kwargs)
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if args or kwargs:  # another library's base class takes shapes, and ours nothing
            raise arguments.no_pytree(self)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # pyright: ignore[reportArgumentType] -- every subclass is one
            value, kind = getattr(self, field.name), str(field.type)
            if isinstance(value, (list, tuple)) and kind.startswith("ArrayLike"):
                value = arguments.as_array(value, self, field.name)
                set_field(self, field.name, value)
            if value is not None or field.default is not None:
                arguments.check_kind(self, field.name, kind.partition(" ")[0], value)

    @property
    def batch_shape(self) -> Shape:
        """The shape of independent, not identical draws: what the parameters' shapes broadcast to."""
        dims = self.parameter_dims
        shapes = {k: np.shape(v)[: np.ndim(v) - dims.get(k, 0)] for k, v in parameters(self).items()}
        return broadcast_batch(type(self).__name__, shapes)

    @property
    def event_shape(self) -> Shape:
        """The shape of one event."""
        return ()

    def shape(self, sample_shape: Shape = ()) -> Shape:
        """The shape of `sample(key, sample_shape)`."""
        return (*sample_shape, *self.batch_shape, *self.event_shape)

    @property
    def dtype(self) -> Any:
        """The floating-point dtype that the parameters promote to."""
        return jnp.result_type(*parameters(self).values(), 0.0)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draws of shape `sample_shape + batch_shape + event_shape`."""
        shape = self.shape(sample_shape)
        draws = self._sample(key, shape)
        if jnp.shape(draws) != shape:
            raise self._misshapen("draws", "_sample", jnp.shape(draws), shape)
        return draws

    def _sample(self, key: Array, shape: Shape) -> Array:
        """Independent draws of the whole `shape`, to which the parameters broadcast."""
        raise self._lacks("way of drawing", "_sample(self, key, shape)", "draws of the whole shape")

    def log_prob(self, x: ArrayLike) -> Array:
        """The log density of `x`, in the batch shape; `-inf` off the support, with gradient zero."""
        inside = self.domain.check(x)
        x = self.domain.replaced(x, ~inside)
        x = jnp.asarray(x, self.dtype) if self.is_discrete else x  # counts enter formulas of real numbers
        return jnp.where(inside, self._log_density(x), -jnp.inf)

    def _log_density(self, x: Array) -> Array:
        """The log density at points of the domain."""
        raise self._lacks("log density", "_log_density(self, x)", "that of each event")

    def _moments(self) -> tuple[ArrayLike, Any]:
        """The mean and the variance of each number, which broadcast to the shape of one draw.

        A variance that costs more than a few operations is a function that gives it: a mean should not wait for it.
        """
        raise self._no("mean and variance")

    @property
    def mean(self) -> Array:
        """The mean, in the shape of one draw."""
        return jnp.broadcast_to(self._moments()[0], self.shape())

    @property
    def variance(self) -> Array:
        """The variance of each number, in the shape of one draw."""
        found = self._moments()[1]
        return jnp.broadcast_to(found() if isinstance(found, FunctionType) else found, self.shape())

    def cdf(self, x: ArrayLike) -> Array:
        """The probability of at most `x`."""
        raise self._no("cdf")

    def icdf(self, q: ArrayLike) -> Array:
        """The quantile for probability `q`."""
        raise self._no("icdf")

    def log_cdf(self, x: ArrayLike) -> Array:
        """The logarithm of the probability of at most `x`, which in a tail is known where `cdf` has rounded to 0.

        A class that has only a `cdf` gets the logarithm of that, with its rounding.
        """
        return safe_log(self.cdf(x))

    def log_survival(self, x: ArrayLike) -> Array:
        """The logarithm of the probability of more than `x`: see `log_cdf`.

        >>> from vbppl.distributions import Normal
        >>> round(float(Normal(0.0, 1.0).log_survival(20.0)), 2)  # the probability itself is 3e-89
        -203.92
        """
        return safe_log(1.0 - self.cdf(x))

    def _no(self, what: str) -> NotImplementedError:
        return NotImplementedError(f"{type(self).__name__} has no closed form for `{what}`; estimate it from draws.")

    def _lacks(self, what: str, method: str, result: str) -> ModelError:
        mend = f"Write `def {method}` in its class, which returns {result}."
        return ModelError(f"{type(self).__name__} has no {what}.", mend=mend)

    def _misshapen(self, what: str, method: str, found: Shape, wanted: Shape) -> ModelError:
        core: Any = self
        while hasattr(core, "base_dist"):
            core = core.base_dist
        details = f"returned: {found}\nwanted:   {wanted}"
        mend = f"Let its `{method}` return draws of the whole shape that it is given, parameters broadcast."
        if method != "_sample":
            mend = (
                f"Let its `{method}` return one number for each event: no sum over them, a constant broadcast to them."
            )
        return ModelError(f"the {what} of {type(core).__name__} have the wrong shape.", details=details, mend=mend)

    def check_density(self, x: ArrayLike) -> None:
        """Refuse a `_log_density` of one's own that gives fewer numbers than there are events in `x`, or more."""
        shape = jnp.shape(x)
        wanted = shape[: len(shape) - len(self.event_shape)]
        found = jax.eval_shape(self._log_density, x).shape
        if found != wanted:
            raise self._misshapen("log densities", "_log_density", found, wanted)

    def expand(self, batch_shape: Sequence[int] | int) -> Distribution:
        """The same distribution over a larger batch; its draws are independent."""
        batch_shape = arguments.as_shape("expand", "batch_shape", batch_shape)
        return self if batch_shape == self.batch_shape else ExpandedDistribution(self, batch_shape)

    def expand_by(self, sample_shape: Sequence[int] | int) -> Distribution:
        """The same distribution, with `sample_shape` in front of its batch."""
        return self.expand((*arguments.as_shape("expand_by", "sample_shape", sample_shape), *self.batch_shape))

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> Distribution:
        """Read rightmost batch dimensions (all of them by default) as a part of the event."""
        dims = len(self.batch_shape) if reinterpreted_batch_ndims is None else reinterpreted_batch_ndims
        return Independent(self, whole_number("reinterpreted_batch_ndims", dims, 0)) if dims else self

    def mask(self, mask: ArrayLike) -> Distribution:
        """The same distribution, whose log density counts only where `mask` is true."""
        return MaskedDistribution(self, mask)

    def weighted(self, weight: ArrayLike) -> Distribution:
        """The same distribution, drawn from as before, whose log density counts `weight` times."""
        weight = arguments.as_weight(self, weight)
        return MaskedDistribution(self, jnp.asarray(weight) != 0, weight)


def parameters(distribution: Any) -> dict[str, Any]:
    """The parameters that were given, by name."""
    if not dataclasses.is_dataclass(distribution):
        raise arguments.no_pytree(distribution)
    fields = dataclasses.fields(distribution)
    values = {f.name: getattr(distribution, f.name) for f in fields if not f.metadata.get("static")}
    return {name: value for name, value in values.items() if value is not None}


def broadcast_batch(name: str, shapes: dict[str, Shape]) -> Shape:
    """The shape that all `shapes` broadcast to, or an error that shows them."""
    try:
        return tuple(np.broadcast_shapes(*shapes.values()))
    except ValueError:
        raise ModelError(
            f"the batch shapes of the parameters of {name} do not broadcast.",
            details="\n".join(f"{parameter}: {shape}" for parameter, shape in shapes.items()),
            mend="Make them equal from the right, or 1, as NumPy does.",
        ) from None


def exactly_one(distribution: Any, *names: str) -> str:
    """The name of the one parameter among `names` that was given."""
    given = [name for name in names if getattr(distribution, name) is not None]
    if len(given) != 1:
        of, words = type(distribution).__name__, " and ".join(given) or "none"
        what = f"{of} takes exactly one of {', '.join(names)}; given: {words}."
        raise ModelError(what, mend=f"Write {of}({names[-1]}=...).")
    return given[0]


def forwarded(*names: str, to: str = "base_dist") -> Any:
    """Properties that ask the inner distribution, the attribute `to`, for its own of these names."""
    return [property(operator.attrgetter(f"{to}.{name}"), doc=f"The `{name}` of `{to}`.") for name in names]


class Wrapper(Distribution):
    """`base_dist` seen otherwise: whatever a wrapper does not say itself is what its base says."""

    base_dist: Distribution

    batch_shape, event_shape, event_dim, dtype = forwarded("batch_shape", "event_shape", "event_dim", "dtype")
    is_discrete, has_rsample, support = forwarded("is_discrete", "has_rsample", "support")
    (location_scale,) = forwarded("location_scale")

    def _sample(self, key, shape):
        return self.base_dist._sample(key, shape)

    def _moments(self):
        return self.base_dist.mean, lambda: self.base_dist.variance


class Renamed(Wrapper):
    """`base_dist` under other parameters: its densities and quantiles too are the base's."""

    def log_prob(self, x):
        return self.base_dist.log_prob(x)

    def cdf(self, x):
        return self.base_dist.cdf(x)

    def icdf(self, q):
        return self.base_dist.icdf(q)

    def log_cdf(self, x):
        return self.base_dist.log_cdf(x)

    def log_survival(self, x):
        return self.base_dist.log_survival(x)


@pytree
class ExpandedDistribution(Renamed):
    """`base_dist`, independently over `batch_shape`, to which its own batch shape broadcasts.

    >>> from vbppl.distributions import Normal
    >>> Normal(0.0, 1.0).expand((3,)).batch_shape
    (3,)
    """

    base_dist: Distribution
    expanded_shape: Shape = static()

    def __init__(self, base_dist: Distribution, batch_shape: Sequence[int] = ()):
        arguments.check_kind(self, "base_dist", "Distribution", base_dist)
        batch_shape = arguments.as_shape("ExpandedDistribution", "batch_shape", batch_shape)
        pairs = zip(base_dist.batch_shape[::-1], batch_shape[::-1])
        if len(base_dist.batch_shape) > len(batch_shape) or any(own not in (1, size) for own, size in pairs):
            raise ModelError(
                f"the batch shape {base_dist.batch_shape} of {type(base_dist).__name__} does not expand to "
                f"{batch_shape}.",
                mend="Expand to a shape that ends in the batch shape, or has other sizes only where that is 1.",
            )
        inner = base_dist.base_dist if isinstance(base_dist, ExpandedDistribution) else base_dist
        set_field(self, "base_dist", inner)
        set_field(self, "expanded_shape", batch_shape)

    @property
    def batch_shape(self):
        return self.expanded_shape

    def log_prob(self, x):
        log_prob = self.base_dist.log_prob(x)
        return jnp.broadcast_to(log_prob, np.broadcast_shapes(np.shape(log_prob), self.expanded_shape))


@pytree
class Independent(Wrapper):
    """`base_dist`, with `reinterpreted_batch_ndims` batch dimensions read as a part of the event.

    >>> from vbppl.distributions import Normal
    >>> d = Normal(np.zeros((2, 3)), 1.0).to_event(1)
    >>> d.batch_shape, d.event_shape
    ((2,), (3,))
    """

    base_dist: Distribution
    reinterpreted_batch_ndims: int = static()

    def __post_init__(self):
        super().__post_init__()
        batch_shape = self.base_dist.batch_shape
        if not 0 <= self.reinterpreted_batch_ndims <= len(batch_shape):
            raise ModelError(
                f"to_event({self.reinterpreted_batch_ndims}) does not fit the batch shape {batch_shape}.",
                mend="Expand the distribution first, or take fewer dimensions.",
            )

    @property
    def batch_shape(self):
        return self.base_dist.batch_shape[: len(self.base_dist.batch_shape) - self.reinterpreted_batch_ndims]

    @property
    def event_shape(self):
        whole = self.base_dist.batch_shape
        return whole[len(whole) - self.reinterpreted_batch_ndims :] + self.base_dist.event_shape

    @property
    def event_dim(self):
        return self.base_dist.event_dim + self.reinterpreted_batch_ndims

    @property
    def support(self):
        return independent(self.base_dist.support, self.reinterpreted_batch_ndims)

    def log_prob(self, x):
        return sum_rightmost(self.base_dist.log_prob(x), self.reinterpreted_batch_ndims)


@pytree
class MaskedDistribution(Wrapper):
    """`base_dist`, whose log density is 0 where `counted` is false; elsewhere it counts `weight` times if there is one.

    Both broadcast with the batch. Masked values may be anything, `nan` included: nobody looks at them.
    """

    base_dist: Distribution
    counted: ArrayLike
    weight: ArrayLike | None = None

    @property
    def batch_shape(self):
        shapes = {"distribution": self.base_dist.batch_shape, "mask": np.shape(self.counted)}
        return broadcast_batch(f"the masked {type(self.base_dist).__name__}", shapes)

    def mask(self, mask):
        # A weight that is NaN where nothing counts would be NaN in the gradient.
        weight = None if self.weight is None else jnp.where(mask, self.weight, 0.0)
        return MaskedDistribution(dataclasses.replace(self, weight=weight), mask)

    def log_prob(self, x):
        if self.counted is True:
            return self.base_dist.log_prob(x)
        mask = jnp.asarray(self.counted, bool)
        # What is masked may be NaN, and `0 * nan` is NaN in the gradient: so it is replaced before it is looked at.
        x = self.support.replaced(jnp.asarray(x), ~mask)
        found = jnp.where(mask, self.base_dist.log_prob(x), 0.0)
        return found if self.weight is None else found * self.weight
