"""The steps of a stochastic fit: Adam with a falling step size, or any Optax transformation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vbppl.aliases import Array, PyTree
from vbppl.pytree import pytree, static


@pytree
class AnnealedAdam:
    """Adam whose step size falls by half a cosine within a round, from `first` to `first * last`.

    Adam with decays 0.9 and 0.99 (Kingma and Ba 2015, algorithm 1), the second shorter than usual
    because the scale of a bound's gradient changes while the guide shrinks onto the posterior.

    Attributes:
      first: the step size at the start of a round, in units of `phi`.
      last: the fraction of it that is left at the end.
    """

    first: float = 0.1
    last: float = 0.01

    def init(self, params: PyTree) -> PyTree:
        """Zero moments, made on the host."""
        shapes = jax.eval_shape(_adam().init, params)
        return jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)

    def update(
        self, gradient: PyTree, state: PyTree, params: PyTree, progress: Array, size: Array
    ) -> tuple[PyTree, PyTree]:
        """The step to add to `params`; `progress` runs from 0 to 1 in a round of step size `size`."""
        direction, state = _adam().update(gradient, state)
        size = size * self.first * (self.last + (1 - self.last) * (1 + jnp.cos(jnp.pi * progress)) / 2)
        return jax.tree.map(lambda d: (-size * d).astype(d.dtype), direction), state


@pytree
class Optax:
    """Any Optax transformation, used as it is: its own step sizes and schedules."""

    transformation: Any = static()

    def init(self, params: PyTree) -> PyTree:
        """The transformation's state."""
        return self.transformation.init(params)

    def update(
        self, gradient: PyTree, state: PyTree, params: PyTree, progress: Array, size: Array
    ) -> tuple[PyTree, PyTree]:
        """The step to add to `params`."""
        return self.transformation.update(gradient, state, params)


def _adam() -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=0.9, b2=0.99)
