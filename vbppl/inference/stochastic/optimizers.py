"""The steps of a stochastic fit: Adam with a falling step size, or any Optax transformation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.pytree import pytree, static
from vbppl.core.types import Array, PyTree

DECAYS = (0.9, 0.99)
TINY = 1e-8


@pytree
class AnnealedAdam:
    """Adam whose step size falls by half a cosine, and whose steps have the guide's own units in the end.

    Adam with decays 0.9 and 0.99 (Kingma and Ba 2015, algorithm 1), the second shorter than usual
    because the scale of a bound's gradient changes while the guide shrinks onto the posterior.

    Attributes:
      first: the step size, in the units that `Guide.step_scale` says.
      unknown: the unit of learnt numbers, such as the weights of networks, of which it is not known; see
        `schedule.successive_halving`.
    """

    first: float = 0.1
    unknown: float = 1.0

    def init(self, params: PyTree) -> PyTree:
        """Zero moments, made on the host."""
        return tuple(jax.tree.map(lambda leaf: np.zeros(np.shape(leaf), leaf.dtype), params) for _ in range(2))

    def rates(
        self, steps: Array, fallen: Array, step_size: Array, last: Array, power: Array
    ) -> tuple[Array, Array, Array]:
        """For each step its size over `1 - b1^t`; `1 / (1 - b2^t)`, which unbiases the squares; and its power.

        Args:
          steps: their numbers, from 0.
          fallen: the part of the fall behind each, 0 to 1.
          step_size: times `first`, the step size before the fall.
          last: the fraction of it that is left after the fall.
          power: see `update`; it rises to 1 while the step size falls.
        """
        step_size = step_size * self.first * (last + (1 - last) * (1 + jnp.cos(jnp.pi * fallen)) / 2)
        done = (steps + 1).astype(fallen.dtype)
        left = [-jnp.expm1(done * math.log(decay)) for decay in DECAYS]  # 1 - decay^t, without a power: dear
        return step_size / left[0], 1 / left[1], jnp.broadcast_to(power, fallen.shape)

    def update(
        self,
        gradient: PyTree,
        moments: PyTree,
        params: PyTree,
        rates: tuple[Array, Array, Array],
        step_scale: Callable[[Array, Array], PyTree],
    ) -> tuple[PyTree, PyTree]:
        """New params and moments; `step_scale(power, unknown)` says how long a unit step is for each number."""
        step_size, unbias, power = rates
        # Means and squares with the old params' units: the step does not know yet where it goes.
        means = jax.tree.map(lambda m, g: DECAYS[0] * m + (1 - DECAYS[0]) * g, moments[0], gradient)
        squares = jax.tree.map(lambda v, g: DECAYS[1] * v + (1 - DECAYS[1]) * g * g, moments[1], gradient)

        def moved(param: Array, mean: Array, square: Array, unit: Array) -> Array:
            return (param - step_size * unit * mean / (jnp.sqrt(square * unbias) + TINY)).astype(param.dtype)

        return jax.tree.map(moved, params, means, squares, step_scale(power, jnp.asarray(self.unknown))), (
            means,
            squares,
        )


@pytree
class Optax:
    """Any Optax transformation, used as it is: its own step sizes and schedules."""

    transformation: Any = static()

    def init(self, params: PyTree) -> PyTree:
        """The transformation's state."""
        return self.transformation.init(params)

    def rates(self, steps: Array, fallen: Array, step_size: Array, last: Array, power: Array) -> tuple[()]:
        """None: the transformation has its own."""
        return ()

    def update(
        self,
        gradient: PyTree,
        moments: PyTree,
        params: PyTree,
        rates: tuple[()],
        step_scale: Callable[[Array, Array], PyTree],
    ) -> tuple[PyTree, PyTree]:
        """New params and moments."""
        update, moments = self.transformation.update(gradient, moments, params)
        import optax  # .1 s, and who has such a transformation has imported it

        return optax.apply_updates(params, update), moments
