"""A guide written in the words of the language, with `param` and `sample` statements."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from vbppl.core.pytree import pytree
from vbppl.core.types import AnyArray, Array, PyTree
from vbppl.guides.base import Draws, RowWise, Start
from vbppl.guides.noise import Keys, Noise
from vbppl.target import guide_program
from vbppl.target.target import Target


@pytree
class ProgramGuide(RowWise):
    """What `vb.fit(model, guide=my_guide(x))` makes of a guide program; `phi` holds its params.

    Draws and closed forms are on the supports, where the program's distributions live.
    """

    program: Any  # a `Model` under `@vb.guide`; how it is written stays below the waist

    def init(self, target: Target, start: Start) -> PyTree:
        # The params' own initial values: nobody knows what they mean for the place of the draws.
        return guide_program.first_params(self.program, target)

    def noise(self, target: Target) -> Noise:
        return Keys()

    def draw(self, phi: PyTree, noise: AnyArray, target: Target) -> Draws:
        return _draw(self, phi, noise, target)

    def bound(self, phi: PyTree, noise: AnyArray, target: Target) -> Array:
        # Per draw: closed-form divergences where they hold, `log p - log q` elsewhere.
        return over_keys(noise, lambda key: guide_program.bound(self.program, phi, target, key))

    def log_prob(self, phi: PyTree, z: AnyArray, target: Target) -> Array:
        return jax.vmap(lambda one: guide_program.log_prob_at(self.program, phi, target, one))(z)

    def divergences(self, phi: PyTree, noise: Array, target: Target) -> dict[str, tuple[Array, Array]]:
        return over_keys(noise, lambda key: guide_program.divergences(self.program, phi, target, key))

    def values(self, phi: PyTree, noise: Array, target: Target) -> dict[str, Array]:
        return over_keys(noise, lambda key: guide_program.latent_values(self.program, phi, key, target.rows))

    def row_log_weights(self, phi: PyTree, values: dict[str, Array], target: Target) -> Array:
        return jax.vmap(lambda one: guide_program.row_log_weights(self.program, phi, target, one))(values)

    def normals(self, phi: PyTree, target: Target) -> dict[str, tuple[Array, Array]]:
        return guide_program.normals(self.program, phi, target)


def over_keys(raw_keys: Array, function: Any) -> Any:
    """`function` of each key, which come as raw data, `(draws, 2)`."""
    return jax.vmap(lambda raw: function(jax.random.wrap_key_data(raw)))(raw_keys)


@functools.partial(jax.jit, inline=True)
def _draw(guide: ProgramGuide, phi: PyTree, raw_keys: Array, target: Target) -> Draws:
    found = over_keys(raw_keys, lambda key: guide_program.drawn(guide.program, phi, target, key))
    count = len(raw_keys)
    weights = jnp.full(count, -math.log(count), found.log_q.dtype)
    return Draws(found.z, found.log_q, weights, found.log_p, found.values)
