"""What a layer is: a bijection with parameters; and `Layered`, a guide whose draws go through some.

    z = layer_n(... layer_1(e)),   e ~ base,   log q(z) = log q_base(e) - sum_i log |d layer_i|

A layer is written for a single point `(dim,)`, as a textbook has it; `Layered` does the rest. It gets the target, since
a layer may know plates, and begins near the identity, so that the base finds its place first.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.pytree import pytree
from vbppl.core.types import AnyArray, Array, PyTree
from vbppl.guides.base import Draws, Guide, Start, joined
from vbppl.guides.noise import Noise
from vbppl.target.target import Target


class Layer:
    """The protocol. `psi` are the parameters."""

    def init(self, target: Target, start: Start) -> PyTree:
        """The parameters to begin with: near the identity."""
        raise NotImplementedError

    def forward_and_log_det(self, psi: PyTree, e: Array, target: Target) -> tuple[Array, Array]:
        """The point `z`, `(dim,)`, where `e` goes, and log |dz/de|, a scalar."""
        raise NotImplementedError

    def inverse_and_log_det(self, psi: PyTree, z: Array, target: Target) -> tuple[Array, Array]:
        """The point `e`, `(dim,)`, whence `z` comes, and log |de/dz|, a scalar."""
        raise NotImplementedError

    def step_scale(self, psi: PyTree, power: Array, unknown: Array) -> PyTree:
        """As `Guide.step_scale`; by default what is learnt has no units, and a unit step is 1 long."""
        return jax.tree.map(jnp.ones_like, psi)


@pytree
class Layered(Guide):
    """A guide whose draws are bent by layers; `phi` is `{"base": phi, "layers": (psi, ...)}`.

    Attributes:
      base: a guide of all coordinates, without rows of its own.
      layers: those through which its draws go, one after the other.
    """

    base: Guide
    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, base: Guide, *layers: Layer) -> Layered:
        """Through these layers, the first one next to the base."""
        return cls(base, layers)

    def init(self, target: Target, start: Start) -> PyTree:
        psis = tuple(layer.init(target, start) for layer in self.layers)
        return {"base": self.base.init(target, start), "layers": jax.tree.map(np.asarray, psis)}

    def noise(self, target: Target) -> Noise:
        return self.base.noise(target)

    def draw(self, phi: PyTree, noise: AnyArray, target: Target) -> Draws:
        return _draw(self, phi, noise, target)

    def log_prob(self, phi: PyTree, z: AnyArray, target: Target) -> Array:
        e, total = z, jnp.zeros(len(z), z.dtype)
        for layer, psi in reversed(list(zip(self.layers, phi["layers"]))):
            e, log_det = jax.vmap(lambda one, layer=layer, psi=psi: layer.inverse_and_log_det(psi, one, target))(e)
            total += log_det
        return self.base.log_prob(phi["base"], e, target) + total

    def monitored(self, phi: PyTree) -> tuple[Array, Array]:
        return joined([self.base.monitored(phi["base"]), super().monitored(phi["layers"])])

    def step_scale(self, phi: PyTree, power: Array, unknown: Array) -> PyTree:
        pairs = zip(self.layers, phi["layers"])
        layers = tuple(layer.step_scale(psi, power, unknown) for layer, psi in pairs)
        return {"base": self.base.step_scale(phi["base"], power, unknown), "layers": layers}


@functools.partial(jax.jit, inline=True)
def _draw(guide: Layered, phi: PyTree, noise: Array, target: Target) -> Draws:
    drawn = guide.base.draw(phi["base"], noise, target)
    z, log_q = drawn.z, drawn.log_q
    for layer, psi in zip(guide.layers, phi["layers"]):
        z, log_det = jax.vmap(lambda e, layer=layer, psi=psi: layer.forward_and_log_det(psi, e, target))(z)
        log_q = log_q - log_det
    return Draws(z, log_q, drawn.log_weight)
