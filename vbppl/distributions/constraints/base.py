"""Maps from unconstrained space onto supports, with log determinants.

A support *is* the bijector onto it: `positive` is the set of positive numbers, `positive(x)` asks whether
`x` lies in it, and `positive.forward(z)` maps a real `z` into it. The one primitive is

    x, log_det = bijector.forward_and_log_det(z),      log_det = log |dx / dz|

where `x` is read in its free coordinates: the first `K - 1` entries of a simplex, the entries below the
diagonal of a correlation Cholesky factor. Densities of this house are densities in those coordinates, so
that `exp(log_prob(x) + log_det)` integrates to one over `z`. (TensorFlow Probability measures the simplex
by the area of the embedded surface, which differs by `log sqrt K`: its log determinants never enter here.)

Shapes: `z` has `unconstrained_dim` event dimensions, `x` has `event_dim`, and `log_det` and `check(x)` have
the batch shape, that is the shape of `x` without its event. The maps are NumPyro's, so that starting values
and posteriors in `z` mean the same; the formulas run in logarithms, so that values and gradients are finite
for `|z| <= 50` in 32 bits, and a bounded `x` never touches its bounds.

Bounds are data: they may be arrays that broadcast, or latent variables (`Uniform(0, a)`).
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.pytree import pytree, static
from vbppl.core.special import all_rightmost, sum_rightmost
from vbppl.core.types import Array, ArrayLike, Shape


class Bijector:
    """The protocol; a new map writes `forward_and_log_det`, `inverse` and `check`.

    Attributes:
      name: what error messages call it.
      event_dim: how many rightmost dimensions of `x` make one event.
      unconstrained_dim: the same for `z`.
      is_discrete: True for supports that no map reaches from the reals.
    """

    name: ClassVar[str] = ""
    event_dim: ClassVar[int] = 0
    unconstrained_dim: ClassVar[int] = 0
    is_discrete: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        # `dataclass` writes a `__repr__` unless the class has its own: keep the short one.
        cls.__repr__ = lambda self: self.describe()

    def forward(self, z: ArrayLike) -> Array:
        """The point of the support for `z`."""
        return self.forward_and_log_det(z)[0]

    def forward_and_log_det(self, z: ArrayLike) -> tuple[Array, Array]:
        """`x` and `log |dx / dz|`, the latter in the batch shape."""
        raise self._lacks("map from the reals", "forward_and_log_det(self, z)", "x and log |dx/dz|")

    def inverse(self, x: ArrayLike) -> Array:
        """The `z` for a point of the support."""
        raise self._lacks("way back to the reals", "inverse(self, x)", "the z that is mapped to x")

    def check(self, x: ArrayLike) -> Array:
        """Is each event of `x` on the support? In the batch shape."""
        raise self._lacks("test", "check(self, x)", "whether each event lies on the support")

    def _lacks(self, what: str, method: str, result: str) -> ModelError:
        mend = f"Write `def {method}` in its class, which returns {result}."
        return ModelError(f"the support {type(self).__name__} has no {what}.", mend=mend)

    def __call__(self, x: ArrayLike) -> Array:
        return self.check(x)

    def unconstrained_shape(self, x_shape: Shape) -> Shape:
        """The shape of `z` for an `x` of this shape."""
        return tuple(x_shape)

    def constrained_shape(self, z_shape: Shape) -> Shape:
        """The shape of `x` for a `z` of this shape."""
        bounds = (np.shape(leaf) for leaf in jax.tree.leaves(self))
        return np.broadcast_shapes(tuple(z_shape), *bounds)

    def feasible(self, x_shape: Shape, dtype: Any = None) -> Array:
        """Some point of the support: the image of `z = 0`."""
        return self.forward(jnp.zeros(self.unconstrained_shape(x_shape), dtype))

    def replaced(self, x: ArrayLike, where: Array) -> Array:
        """`x` with a point of the support in the place of the events `where`, in the batch shape, is true."""
        wide = where.reshape(where.shape + (1,) * self.event_dim)
        dtype = jnp.result_type(x)
        point = self.feasible(np.broadcast_shapes(wide.shape, np.shape(x)), dtype)
        return jnp.where(wide, point.astype(dtype), x)

    def of_numbers(self) -> Bijector:
        """The same, but of what batch dimensions were read into an event, for each of the numbers."""
        return self

    def describe(self) -> str:
        """A few words for error messages, such as `interval(0.0, 2.0)`."""
        bounds = ", ".join(describe_leaf(leaf) for leaf in jax.tree.leaves(self))
        name = self.name or type(self).__name__
        return f"{name}({bounds})" if bounds else name


def describe_leaf(leaf: Any) -> str:
    """A bound, or the dtype and shape of one that is no plain number."""
    if isinstance(leaf, jax.core.Tracer) or np.ndim(leaf):
        return f"{jnp.result_type(leaf)}{list(np.shape(leaf))}"
    return str(leaf.item() if hasattr(leaf, "item") else leaf)


def as_float(z: ArrayLike) -> Array:
    """`z` as an array of floating-point numbers."""
    return jnp.asarray(z, jnp.result_type(z, 0.0))


def like(constant: np.ndarray, x: Array) -> Array:
    """A constant in the dtype of `x`."""
    return jnp.asarray(constant, x.dtype)


@pytree
class Independent(Bijector):
    """`dims` batch dimensions of `base`, read as a part of the event."""

    base: Bijector
    dims: int = static()

    def of_numbers(self):
        return self.base.of_numbers()

    @property
    def event_dim(self):
        return self.base.event_dim + self.dims

    @property
    def unconstrained_dim(self):
        return self.base.unconstrained_dim + self.dims

    @property
    def is_discrete(self):
        return self.base.is_discrete

    def forward_and_log_det(self, z):
        x, log_det = self.base.forward_and_log_det(z)
        return x, sum_rightmost(log_det, self.dims)

    def inverse(self, x):
        return self.base.inverse(x)

    def check(self, x):
        return all_rightmost(self.base.check(x), self.dims)

    def unconstrained_shape(self, x_shape):
        return self.base.unconstrained_shape(x_shape)

    def constrained_shape(self, z_shape):
        return self.base.constrained_shape(z_shape)

    def feasible(self, x_shape, dtype=None):
        return self.base.feasible(x_shape, dtype)

    def describe(self):
        return f"independent({self.base}, {self.dims})"


independent = Independent


def widened(support: Bijector, event_dim: int) -> Bijector:
    """`support`, whose events are read with so many dimensions, at least those of its own."""
    dims = event_dim - support.event_dim
    return independent(support, dims) if dims > 0 else support
