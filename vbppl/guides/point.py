"""A single point: the posterior mode (MAP), for models whose mode is what is wanted."""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import one_of
from vbppl.core.pytree import pytree, static
from vbppl.core.types import AnyArray, Array
from vbppl.guides.base import Draws, Guide, Start
from vbppl.guides.noise import Noise, Nothing
from vbppl.target.target import Target


@pytree
class MAP(Guide):
    """The maximum of the joint density: a point, so it has no spread and no evidence bound.

    The mode depends on the coordinates in which the density is written, so the space must be
    named: "constrained" maximises the density of the values on their supports, as a textbook
    would; "unconstrained" the density of `z`, which includes log |dx/dz|.
    """

    space: Literal["constrained", "unconstrained"] = static(default="constrained")

    def __post_init__(self) -> None:
        one_of("space", self.space, "constrained", "unconstrained")

    def init(self, target: Target, start: Start) -> np.ndarray:
        # Nothing is climbed here: what begins at the mode above a start is made ready by `prepare`.
        return start.loc

    def noise(self, target: Target) -> Noise:
        return Nothing()

    def draw(self, phi: AnyArray, noise: AnyArray, target: Target) -> Draws:
        # A point has no density of its own: nothing is taken off the log joint, and that is the whole bound.
        z, log_p = _at(phi, target, self.space == "unconstrained")
        z, draws = jnp.broadcast_to(z, (len(noise), *z.shape)), len(noise)
        zeros = jnp.zeros(draws, z.dtype)
        return Draws(z, zeros, zeros - np.log(draws), jnp.broadcast_to(log_p, (draws,)))

    def log_prob(self, phi: AnyArray, z: AnyArray, target: Target) -> Array:
        raise TypeError("a MAP estimate is a point and has no density; fit with guide='full_rank' for one.")

    def monitored(self, phi: Array) -> tuple[Array, Array]:
        # In units of a hundredth: a point has no sd to compare with.
        return phi, jnp.full_like(phi, 0.01)


@functools.partial(jax.jit, static_argnames="jacobian", inline=True)
def _at(phi: Array, target: Target, jacobian: bool) -> tuple[Array, Array]:
    return phi, target.log_density(phi, jacobian=jacobian)
