"""Maps one after the other."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from vbppl.core.pytree import pytree, set_field
from vbppl.core.special import all_rightmost, sum_rightmost
from vbppl.distributions.constraints.base import Bijector, as_float


@pytree
class Chain(Bijector):
    """The maps `parts`, the first one first."""

    parts: tuple[Bijector, ...]

    def __post_init__(self):
        set_field(self, "parts", tuple(self.parts))

    @property
    def event_dim(self):
        return self.unconstrained_dim + sum(part.event_dim - part.unconstrained_dim for part in self.parts)

    @property
    def unconstrained_dim(self):
        # The event of the chain must hold the event of each part.
        dim = 0
        for part in reversed(self.parts):
            dim = max(dim - part.event_dim, 0) + part.unconstrained_dim
        return dim

    def of_numbers(self):
        return Chain(tuple(part.of_numbers() for part in self.parts))

    def forward_and_log_det(self, z):
        x, log_dets = as_float(z), []
        for part in self.parts:
            x, log_det = part.forward_and_log_det(x)
            log_dets.append(log_det)
        batch_dims = np.ndim(x) - self.event_dim
        total = sum(sum_rightmost(one, np.ndim(one) - batch_dims) for one in log_dets)
        return x, jnp.broadcast_to(total, np.shape(x)[:batch_dims])

    def inverse(self, x):
        for part in reversed(self.parts):
            x = part.inverse(x)
        return x

    def check(self, x):
        batch_dims = np.ndim(x) - self.event_dim
        ok = jnp.ones(np.shape(x)[:batch_dims], bool)
        for part in reversed(self.parts):
            one = part.check(x)
            ok &= all_rightmost(one, np.ndim(one) - batch_dims)
            x = part.inverse(x)
        return ok

    def unconstrained_shape(self, x_shape):
        for part in reversed(self.parts):
            x_shape = part.unconstrained_shape(x_shape)
        return x_shape

    def feasible(self, x_shape, dtype=None):
        first, *later = self.parts  # the first may know where zero does not lead
        x = first.feasible(first.constrained_shape(self.unconstrained_shape(x_shape)), dtype)
        for part in later:
            x = part.forward(x)
        return x

    def constrained_shape(self, z_shape):
        for part in self.parts:
            z_shape = part.constrained_shape(z_shape)
        return z_shape

    def describe(self):
        return f"chain({', '.join(map(str, self.parts))})"
