"""Skewness and two tails, coordinate by coordinate: the sinh-arcsinh transformation with a tail weight on either side.

    u = arcsinh((e - c) / s) + k,    d = d- where u < 0, d+ elsewhere,    z = c + s d sinh(u / d)

With `k > 0` the upper side is the longer one; with `d < 1` a tail is longer than a normal's, at `d = 1/2` exponential,
with `d > 1` shorter (Jones and Pewsey 2009, "Sinh-arcsinh distributions", here with a `d` for each side, since the log
of a scale that may be zero has an exponential tail to the left only). At `k = 0`, `d = 1` it is the identity. Where the
sides meet the slope is the same on both.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from vbppl.core.pytree import pytree, static
from vbppl.core.types import AnyArray, Array, PyTree
from vbppl.guides.base import Start
from vbppl.guides.gaussian import start_log_sd
from vbppl.guides.layers.base import Layer, among
from vbppl.target.target import Target


@pytree
class SinhArcsinh(Layer):
    """`psi` is `(5, coordinates)`: `c`, `log s`, `k`, `log d-`, `log d+`.

    Attributes:
      places: the coordinates that are bent; None for all.
    """

    places: tuple[int, ...] | None = static(default=None)
    takes_many = True

    def init(self, target: Target, start: Start) -> np.ndarray:
        at = slice(None) if self.places is None else np.array(self.places, int)
        nothing = np.zeros_like(start.loc[at])
        return np.stack([start.loc[at], start_log_sd(start)[at], nothing, nothing, nothing])

    def forward_and_log_det(self, psi: AnyArray, e: AnyArray, target: Target | None) -> tuple[AnyArray, AnyArray]:
        scale = psi.__array_namespace__().exp(psi[1])

        def bend(e: AnyArray) -> tuple[AnyArray, AnyArray]:
            x = (e - psi[0]) / scale
            xp = x.__array_namespace__()
            u = xp.arcsinh(x) + psi[2]
            tail = xp.exp(xp.where(u < 0, psi[3], psi[4]))
            scaled = u / tail
            z = psi[0] + scale * tail * xp.sinh(scaled)
            return z, (log_cosh(scaled) - xp.log1p(x**2) / 2).sum(-1)

        return among(self.places, bend, e)

    def inverse_and_log_det(self, psi: AnyArray, z: AnyArray, target: Target | None) -> tuple[AnyArray, AnyArray]:
        scale = psi.__array_namespace__().exp(psi[1])

        def straighten(z: AnyArray) -> tuple[AnyArray, AnyArray]:
            y = (z - psi[0]) / scale
            xp = y.__array_namespace__()
            tail = xp.exp(xp.where(y < 0, psi[3], psi[4]))  # `y` has the sign of `u`
            scaled = xp.arcsinh(y / tail)
            x = xp.sinh(scaled * tail - psi[2])
            return psi[0] + scale * x, (xp.log1p(x**2) / 2 - log_cosh(scaled)).sum(-1)

        return among(self.places, straighten, z)

    def step_scale(self, psi: Array, power: Array, unknown: Array) -> PyTree:
        # The centre moves in units of the scale, what has no units by itself.
        return jnp.where(jnp.arange(5)[:, None] == 0, jnp.exp(psi[1]), 1.0)


def log_cosh(x: AnyArray) -> AnyArray:
    """By its exponents: cosh itself overflows a hundred sds out."""
    return x.__array_namespace__().logaddexp(x, -x) - math.log(2)
