"""What a layer is: a bijection with parameters; and `Layered`, a guide whose draws go through some.

    z = layer_n(... layer_1(e)),   e ~ base,   log q(z) = log q_base(e) - sum_i log |d layer_i|

A layer is written for a single point `(dim,)`, as a textbook has it; `Layered` does the rest. It gets the target, since
a layer may know plates, and begins near the identity, so that the base finds its place first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.pytree import pytree
from vbppl.core.types import AnyArray, Array, PyTree
from vbppl.guides.base import Draws, Guide, Start, is_traced, joined
from vbppl.guides.noise import Noise
from vbppl.target.target import Target

RUNS = 8  # of places at equal distances, up to which they are cut out


class Layer:
    """The protocol. `psi` are the parameters.

    Attributes:
      takes_many: it takes points `(..., dim)`, of NumPy's as well: on the host nothing is compiled then.
      evaluations: of the density, about, that a point costs; none, usually.
    """

    takes_many = False
    evaluations = 0

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
    # Does a base of mean field begin with standard normals, since a layer says where `z` lies?
    begins_standard = False

    @classmethod
    def of(cls, base: Guide, *layers: Layer) -> Layered:
        """Through these layers, the first one next to the base."""
        return cls(base, layers)

    def init(self, target: Target, start: Start) -> PyTree:
        psis = tuple(layer.init(target, start) for layer in self.layers)
        base = np.zeros((2, target.dim), start.loc.dtype) if self.begins_standard else self.base.init(target, start)
        return {"base": base, "layers": jax.tree.map(np.asarray, psis)}

    def noise(self, target: Target) -> Noise:
        return self.base.noise(target)

    def draw(self, phi: PyTree, noise: AnyArray, target: Target) -> Draws:
        if not self._is_here((phi, noise, target)):
            return _draw(self, phi, noise, target)
        drawn = self.base.draw(phi["base"], noise, target)
        z, log_det = self.bend(phi, drawn.z, target)
        return Draws(z, drawn.log_q - log_det, drawn.log_weight)

    def log_prob(self, phi: PyTree, z: AnyArray, target: Target) -> Array:
        e, log_det = self.straighten(phi, z, target)
        return self.base.log_prob(phi["base"], e, target) + log_det

    def monitored(self, phi: PyTree) -> tuple[Array, Array]:
        return joined([self.base.monitored(phi["base"]), super().monitored(phi["layers"])])

    def step_scale(self, phi: PyTree, power: Array, unknown: Array) -> PyTree:
        pairs = zip(self.layers, phi["layers"])
        layers = tuple(layer.step_scale(psi, power, unknown) for layer, psi in pairs)
        return {"base": self.base.step_scale(phi["base"], power, unknown), "layers": layers}

    def bend(self, phi: PyTree, e: AnyArray, target: Target) -> tuple[AnyArray, AnyArray]:
        """Where points of the base `(points, dim)` go, and log |dz/de|, `(points,)`."""
        if self._is_here((phi, e, target)):
            return _through(self.layers, phi["layers"], np.asarray(e), target, "forward_and_log_det")
        return _bent(self.layers, phi["layers"], jnp.asarray(e), target)

    def straighten(self, phi: PyTree, z: AnyArray, target: Target) -> tuple[AnyArray, AnyArray]:
        """Whence points `(points, dim)` come, and log |de/dz|, `(points,)`."""
        if self._is_here((phi, z, target)):
            layers, psis = self.layers[::-1], phi["layers"][::-1]
            return _through(layers, psis, np.asarray(z), target, "inverse_and_log_det")
        return _straightened(self.layers, phi["layers"], jnp.asarray(z), target)

    def _is_here(self, tree: PyTree) -> bool:
        """On the host, by layers that can be there."""
        return all(layer.takes_many for layer in self.layers) and not is_traced(tree)


def taken(x: AnyArray, places: np.ndarray) -> AnyArray:
    """`x[..., places]`, cut out in slices where that takes few: the derivative of an index is a slow scatter."""
    runs, start = list[slice](), 0
    while start < len(places) and len(runs) <= RUNS:
        stride = int(places[start + 1] - places[start]) if start + 1 < len(places) else 1
        same = np.flatnonzero(np.diff(places[start:]) != stride)
        stop = start + int(same[0]) + 1 if len(same) else len(places)
        if stride < 1:
            return x[..., places]
        runs.append(slice(int(places[start]), int(places[stop - 1]) + 1, stride))
        start = stop
    if not 0 < len(runs) <= RUNS:
        return x[..., places]
    parts = [x[..., run] for run in runs]
    return parts[0] if len(parts) == 1 else x.__array_namespace__().concatenate(parts, axis=-1)


def evaluations_of(guide: Guide) -> int:
    """How many evaluations of the density a draw of the guide itself costs, about."""
    return sum(layer.evaluations for layer in guide.layers) if isinstance(guide, Layered) else 0


def among(
    places: tuple[int, ...] | None, move: Callable[[AnyArray], tuple[AnyArray, AnyArray]], points: AnyArray
) -> tuple[AnyArray, AnyArray]:
    """`points`, `(..., dim)`, with those at `places` moved; and what else `move` says."""
    if places is None:
        return move(points)
    at, rest = np.array(places, int), np.setdiff1d(np.arange(points.shape[-1]), places)
    moved, more = move(taken(points, at))
    joined = points.__array_namespace__().concatenate([moved, taken(points, rest)], axis=-1)
    return taken(joined, np.argsort(np.concatenate([at, rest]))), more


class Bend(NamedTuple):
    """A way from the points of a base to `z`, and back; both `(points, dim)` to such and a log |det|, `(points,)`."""

    there: Callable[[AnyArray], tuple[AnyArray, AnyArray]]
    back: Callable[[AnyArray], tuple[AnyArray, AnyArray]]


def stay(points: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Points that stay where they are."""
    return points, np.zeros(len(points))


STRAIGHT = Bend(stay, stay)


def unlayered(guide: Guide, phi: PyTree, target: Target) -> tuple[Guide, PyTree, Bend]:
    """The guide under its layers with its parameters, and the way through the layers for points on the host."""
    if isinstance(guide, Layered):
        # In float64: what few layers do to points costs nothing, and a density is as exact as its parameters.
        floats = lambda leaf: np.asarray(leaf, np.float64 if jnp.issubdtype(leaf.dtype, jnp.floating) else None)  # noqa: E731
        phi = jax.tree.map(floats, phi)
        bend = Bend(lambda e: guide.bend(phi, e, target), lambda z: guide.straighten(phi, z, target))
        return guide.base, phi["base"], bend
    return guide, phi, STRAIGHT


def _through(
    layers: tuple[Layer, ...], psis: tuple[PyTree, ...], points: np.ndarray, target: Target, way: str
) -> tuple[np.ndarray, np.ndarray]:
    """Points on the host through some layers, one way or the other, and the sum of the log |det|."""
    total = np.zeros(len(points))
    for layer, psi in zip(layers, psis):
        points, log_det = getattr(layer, way)(jax.tree.map(np.asarray, psi), points, target)
        total = total + log_det
    return points, total


@jax.jit
def _bent(layers: tuple[Layer, ...], psis: tuple[PyTree, ...], z: Array, target: Target) -> tuple[Array, Array]:
    total = jnp.zeros(len(z), z.dtype)
    for layer, psi in zip(layers, psis):
        z, log_det = jax.vmap(lambda e, layer=layer, psi=psi: layer.forward_and_log_det(psi, e, target))(z)
        total += log_det
    return z, total


@jax.jit
def _straightened(layers: tuple[Layer, ...], psis: tuple[PyTree, ...], z: Array, target: Target) -> tuple[Array, Array]:
    total = jnp.zeros(len(z), z.dtype)
    for layer, psi in reversed(list(zip(layers, psis))):
        z, log_det = jax.vmap(lambda z, layer=layer, psi=psi: layer.inverse_and_log_det(psi, z, target))(z)
        total += log_det
    return z, total


@functools.partial(jax.jit, inline=True)
def _draw(guide: Layered, phi: PyTree, noise: Array, target: Target) -> Draws:
    drawn = guide.base.draw(phi["base"], noise, target)
    z, log_det = guide.bend(phi, drawn.z, target)
    return Draws(z, drawn.log_q - log_det, drawn.log_weight)
