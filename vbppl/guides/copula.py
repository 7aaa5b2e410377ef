"""A Gaussian copula: normals whose margins are bent, each by one number."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import of_kind
from vbppl.core.pytree import pytree
from vbppl.core.types import Array
from vbppl.guides.gaussian import FullRank, Gaussian
from vbppl.guides.layers.base import Layered
from vbppl.guides.layers.yeo_johnson import YeoJohnson


@pytree
class Copula(Layered):
    """A Gaussian copula with skewed margins: the draws of a Gaussian, each coordinate bent on its own.

    What has a long tail to one side is met: the log of a scale that may be zero, a share that may be none, a parameter
    at a wall. Dependence stays that of a normal, so a funnel is not. See `guides/layers/yeo_johnson`.

    >>> import vbppl as vb
    >>> vb.guides.Copula(), vb.guides.Copula(vb.MeanField())
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

    def monitored(self, phi: Mapping[str, Any]) -> tuple[Array, Array]:
        # Each margin by three of its points: a bend and its frame can make up for each other.
        loc, sd = self.base.frame(phi["base"])
        points = jnp.stack([loc - sd, loc, loc + sd])
        for layer, psi in zip(self.layers, phi["layers"]):
            points, _ = layer.forward_and_log_det(psi, points)
        return points.ravel(), jnp.tile((points[2] - points[0]) / 2, 3)
