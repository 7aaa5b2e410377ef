"""A Gaussian copula: normals whose margins are bent, each by one number."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import of_kind
from vbppl.core.pytree import pytree
from vbppl.core.types import AnyArray, Array
from vbppl.guides.base import Draws, is_traced
from vbppl.guides.gaussian import FullRank, Gaussian
from vbppl.guides.layers.base import Layered
from vbppl.guides.layers.yeo_johnson import YeoJohnson
from vbppl.target.target import Target


@pytree
class Copula(Layered):
    """A Gaussian copula with skewed margins: the draws of a Gaussian, each coordinate bent on its own.

    What has a long tail to one side is met: the log of a scale that may be zero, a share that may be none, a parameter
    at a wall. Dependence stays that of a normal, so a funnel is not. See `guides/layers/yeo_johnson`.

    >>> import vbppl as vb
    >>> vb.Copula(), vb.Copula(vb.MeanField())
    (Copula(base=FullRank()), Copula(base=MeanField()))

    Attributes:
      base: the Gaussian: `vb.FullRank()`, or `vb.MeanField()` for one without correlations.
    """

    base: Gaussian = dataclasses.field(default_factory=FullRank)
    layers: tuple[YeoJohnson, ...] = dataclasses.field(default=(YeoJohnson(),), repr=False)

    def __post_init__(self) -> None:
        is_bends = isinstance(self.layers, tuple) and all(isinstance(layer, YeoJohnson) for layer in self.layers)
        of_kind("layers", self.layers, is_bends and bool(self.layers), "a tuple of YeoJohnson()")

    @staticmethod
    def of(base: Gaussian, normal: tuple[np.ndarray, np.ndarray], *bends: np.ndarray) -> Mapping[str, Any]:
        """The `phi` of this normal `(loc, factor)`, and of these layers."""
        return {"base": base.of(*normal), "layers": bends}

    # Its layers take many points as they take one: on the host nothing is compiled.

    def bend(self, phi: Mapping[str, Any], e: AnyArray, target: Target) -> tuple[AnyArray, AnyArray]:
        if is_traced((phi, e, target)):
            return super().bend(phi, e, target)
        z, total = e, np.zeros(len(e))
        for layer, psi in zip(self.layers, phi["layers"]):
            z, log_det = layer.forward_and_log_det(np.asarray(psi), np.asarray(z), target)
            total = total + log_det
        return z, total

    def straighten(self, phi: Mapping[str, Any], z: AnyArray, target: Target) -> tuple[AnyArray, AnyArray]:
        if is_traced((phi, z, target)):
            return super().straighten(phi, z, target)
        e, total = z, np.zeros(len(z))
        for layer, psi in reversed(list(zip(self.layers, phi["layers"]))):
            e, log_det = layer.inverse_and_log_det(np.asarray(psi), np.asarray(e), target)
            total = total + log_det
        return e, total

    def draw(self, phi: Mapping[str, Any], noise: AnyArray, target: Target) -> Draws:
        drawn = self.base.draw(phi["base"], noise, target)
        z, log_det = self.bend(phi, drawn.z, target)
        return Draws(z, drawn.log_q - log_det, drawn.log_weight)

    def monitored(self, phi: Mapping[str, Any]) -> tuple[Array, Array]:
        # Each margin by three of its points: a bend and its frame can make up for each other.
        loc, sd = self.base.frame(phi["base"])
        points = jnp.stack([loc - sd, loc, loc + sd])
        for layer, psi in zip(self.layers, phi["layers"]):
            points, _ = layer.forward_and_log_det(psi, points)
        return points.ravel(), jnp.tile((points[2] - points[0]) / 2, 3)
