"""The steps of a stochastic fit: Adam with a falling step size, or any Optax transformation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vbppl.aliases import Array, PyTree
from vbppl.pytree import pytree, static

DECAYS = (0.9, 0.99)
TINY = 1e-8


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
        return tuple(jax.tree.map(lambda leaf: np.zeros(np.shape(leaf), leaf.dtype), params) for _ in range(2))

    def rates(self, steps: Array, progress: Array, size: Array) -> tuple[Array, Array]:
        """For each step its size over `1 - b1^t`, and `1 / (1 - b2^t)`: what unbiases the moments."""
        size = size * self.first * (self.last + (1 - self.last) * (1 + jnp.cos(jnp.pi * progress)) / 2)
        return size / (1 - DECAYS[0] ** (steps + 1)), 1 / (1 - DECAYS[1] ** (steps + 1))

    def update(
        self, gradient: PyTree, moments: PyTree, params: PyTree, rates: tuple[Array, Array]
    ) -> tuple[PyTree, PyTree]:
        """New params and moments."""
        size, unbias = rates
        means = jax.tree.map(lambda m, g: DECAYS[0] * m + (1 - DECAYS[0]) * g, moments[0], gradient)
        squares = jax.tree.map(lambda v, g: DECAYS[1] * v + (1 - DECAYS[1]) * g * g, moments[1], gradient)

        def moved(param: Array, mean: Array, square: Array) -> Array:
            return (param - size * mean / (jnp.sqrt(square * unbias) + TINY)).astype(param.dtype)

        return jax.tree.map(moved, params, means, squares), (means, squares)


@pytree
class Optax:
    """Any Optax transformation, used as it is: its own step sizes and schedules."""

    transformation: Any = static()

    def init(self, params: PyTree) -> PyTree:
        """The transformation's state."""
        return self.transformation.init(params)

    def rates(self, steps: Array, progress: Array, size: Array) -> tuple[()]:
        """None: the transformation has its own."""
        return ()

    def update(self, gradient: PyTree, moments: PyTree, params: PyTree, rates: tuple[()]) -> tuple[PyTree, PyTree]:
        """New params and moments."""
        update, moments = self.transformation.update(gradient, moments, params)
        return optax.apply_updates(params, update), moments
