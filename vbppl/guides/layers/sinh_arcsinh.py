"""Skewness and tails, coordinate by coordinate: the sinh-arcsinh transformation.

    z = c + s sinh(d (arcsinh((e - c) / s) + k))

With `k > 0` the upper tail is the longer one, with `d > 1` both are longer than a normal's, with `d < 1` shorter
(Jones and Pewsey 2009, "Sinh-arcsinh distributions"). At `k = 0`, `d = 1` it is the identity.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from vbppl.core.pytree import pytree
from vbppl.core.types import Array, PyTree
from vbppl.guides.base import Start
from vbppl.guides.gaussian import start_log_sd
from vbppl.guides.layers.base import Layer
from vbppl.target.target import Target


@pytree
class SinhArcsinh(Layer):
    """`psi` is `(4, dim)`: `c`, `log s`, `k`, `log d`."""

    def init(self, target: Target, start: Start) -> np.ndarray:
        nothing = np.zeros_like(start.loc)
        return np.stack([start.loc, start_log_sd(start), nothing, nothing])

    def forward_and_log_det(self, psi: Array, e: Array, target: Target) -> tuple[Array, Array]:
        centre, scale, skew, tail = psi[0], jnp.exp(psi[1]), psi[2], jnp.exp(psi[3])
        x = (e - centre) / scale
        bent = tail * (jnp.arcsinh(x) + skew)
        # log cosh by its exponents: cosh itself overflows a hundred sds out.
        log_det = psi[3] + jnp.logaddexp(bent, -bent) - math.log(2) - jnp.log1p(x**2) / 2
        return centre + scale * jnp.sinh(bent), jnp.sum(log_det)

    def inverse_and_log_det(self, psi: Array, z: Array, target: Target) -> tuple[Array, Array]:
        centre, scale, skew, tail = psi[0], jnp.exp(psi[1]), psi[2], jnp.exp(psi[3])
        y = (z - centre) / scale
        straight = jnp.arcsinh(y) / tail - skew
        log_det = jnp.logaddexp(straight, -straight) - math.log(2) - psi[3] - jnp.log1p(y**2) / 2
        return centre + scale * jnp.sinh(straight), jnp.sum(log_det)

    def step_scale(self, psi: Array, power: Array, unknown: Array) -> PyTree:
        # The centre moves in units of the scale, what has no units by itself.
        return jnp.where(jnp.arange(4)[:, None] == 0, jnp.exp(psi[1]), 1.0)
