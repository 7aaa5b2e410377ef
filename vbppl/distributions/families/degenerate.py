"""The two limits of a distribution: all mass on one point, and none anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.pytree import pytree, set_field, static
from vbppl.core.special import all_rightmost
from vbppl.core.types import ArrayLike, Shape
from vbppl.distributions.arguments import as_shape
from vbppl.distributions.base import Distribution, broadcast_batch
from vbppl.distributions.constraints.base import Bijector, widened
from vbppl.distributions.constraints.scalar import real


@pytree
class Delta(Distribution):
    """All mass on `v`, whose last `event_dim` dimensions are one event; `log p(v) = log_density`."""

    v: ArrayLike = 0.0
    log_density: ArrayLike = 0.0
    event_dim: int = static(default=0)

    @property
    def batch_shape(self):
        point = np.shape(self.v)
        shapes = {"v": point[: len(point) - self.event_dim], "log_density": np.shape(self.log_density)}
        return broadcast_batch("Delta", shapes)

    @property
    def event_shape(self):
        return np.shape(self.v)[np.ndim(self.v) - self.event_dim :]

    @property
    def support(self):
        return widened(real, self.event_dim)

    def _sample(self, key, shape):
        return jnp.broadcast_to(self.v, shape)

    def log_prob(self, x):
        same = all_rightmost(jnp.equal(x, self.v), self.event_dim)
        return jnp.where(same, jnp.asarray(self.log_density, self.dtype), -jnp.inf)

    def _moments(self):
        return self.v, jnp.zeros((), self.dtype)


@pytree
class ImproperUniform(Distribution):
    """A flat density of height one on all of `support`; it cannot be drawn from, and does not look at `x`.

    A value has the shape `batch_shape + event_shape`.

    Raises:
      ModelError: `support` is no constraint.
    """

    support: Bijector
    batch: Shape = static()
    event: Shape = static()

    def __init__(self, support: Bijector, batch_shape: Sequence[int], event_shape: Sequence[int]):
        if not isinstance(support, Bijector):
            raise ModelError(
                f"the support of ImproperUniform is {support!r}, which is not a constraint.",
                mend="Give it one of dist.constraints, as dist.constraints.positive.",
            )
        shapes = {"batch_shape": batch_shape, "event_shape": event_shape}
        batch, event = (as_shape("ImproperUniform", name, shape) for name, shape in shapes.items())
        if len(event) < support.event_dim:
            raise ModelError(
                f"an event on the support {support} has at least {support.event_dim} dimensions.",
                details=f"event_shape: {event}",
                mend="Give ImproperUniform the shape of one event.",
            )
        set_field(self, "support", widened(support, len(event)))
        set_field(self, "batch", batch)
        set_field(self, "event", event)

    batch_shape, event_shape = property(attrgetter("batch")), property(attrgetter("event"))

    @property
    def event_dim(self):
        return len(self.event)

    @property
    def dtype(self):
        return jnp.result_type(float)

    def _sample(self, key, shape):
        raise ModelError(
            "ImproperUniform has no total mass, so it cannot be drawn from.",
            mend="Give this site a proper prior, or do not draw from the prior.",
        )

    def log_prob(self, x):
        shape = np.broadcast_shapes(np.shape(x)[: np.ndim(x) - self.event_dim], self.batch)
        return jnp.zeros(shape, jnp.result_type(x, 0.0))
