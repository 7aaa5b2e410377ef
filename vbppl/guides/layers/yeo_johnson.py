"""Skewness, one number a coordinate: the Yeo-Johnson transformation, run backwards, from a normal to the data's shape.

With `a = |v|`, and `r = 1 + p` where `v >= 0`, `r = 1 - p` where `v < 0`,

    T(v; p) = sign(v) ((1 + a)^r - 1) / r,    log T' = (r - 1) log(1 + a),    z = c + s T((e - c) / s; p).

With `p > 0` the upper tail is the longer one and the lower one the shorter; at `p = 0` it is the identity, bit for bit
(Yeo and Johnson 2000, "A new family of power transformations to improve normality or symmetry", whose lambda is
`1 - p` run forwards; as margins of a Gaussian copula: Smith, Loaiza-Maya and Nott 2020, "High-dimensional copula
variational approximation through transformation").

Power `r = 2` makes an exponential tail, as the log of a scale has that may be zero, or a wall seen through a logit.
Beyond `|p| = 1` the other tail would have an end, where weights see nothing; so `p` stays within .95.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from vbppl.core.pytree import pytree
from vbppl.core.types import AnyArray, Array, PyTree
from vbppl.guides.base import Start
from vbppl.guides.gaussian import start_log_sd
from vbppl.guides.layers.base import Layer
from vbppl.target.target import Target

MAX_BEND = 0.95
LIMIT = 0.9499  # up to which a solver goes: at the very most, `arctanh` is infinite


def bent(v: AnyArray, p: AnyArray) -> tuple[AnyArray, AnyArray]:
    """`T(v; p) - v` and `log T'`, elementwise: the first is exactly zero at `p = 0`."""
    xp = v.__array_namespace__()
    a, sign = xp.abs(v), xp.sign(v)
    q = sign * p  # r - 1
    log_a = xp.log1p(a)
    # ((1 + a)^r - 1) / r - a without a difference of what is nearly equal at small q; at large powers it has none.
    grown = xp.where(
        xp.abs(q * log_a) < 1,
        ((1 + a) * xp.expm1(q * log_a) - q * a) / (1 + q),
        xp.expm1((1 + q) * log_a) / (1 + q) - a,
    )
    return sign * grown, q * log_a


def straightened(t: AnyArray, p: AnyArray) -> tuple[AnyArray, AnyArray]:
    """The inverse: `v - t` where `t = T(v; p)`, and `log T'` at `v`, elementwise."""
    xp = t.__array_namespace__()
    b, sign = xp.abs(t), xp.sign(t)
    q = sign * p
    log_b = xp.log1p((1 + q) * b) / (1 + q)  # log(1 + |v|)
    grown = xp.where(xp.abs(q * log_b) < 1, q * b + (1 + (1 + q) * b) * xp.expm1(-q * log_b), xp.expm1(log_b) - b)
    return sign * grown, q * log_b


@pytree
class YeoJohnson(Layer):
    """`psi` is `(3, dim)`: `c`, `log s`, `arctanh(p / .95)`."""

    takes_many = True

    @staticmethod
    def of(centre: np.ndarray, scale: np.ndarray, p: np.ndarray) -> np.ndarray:
        """The `psi` of these, `(dim,)` each, `|p|` up to `LIMIT`."""
        return np.stack([centre, np.log(scale), np.arctanh(p / MAX_BEND)])

    def init(self, target: Target, start: Start) -> np.ndarray:
        return np.stack([start.loc, start_log_sd(start), np.zeros_like(start.loc)])

    def forward_and_log_det(self, psi: AnyArray, e: AnyArray, target: Target | None = None) -> tuple[Array, Array]:
        xp = psi.__array_namespace__()
        more, log_slope = bent((e - psi[0]) * xp.exp(-psi[1]), MAX_BEND * xp.tanh(psi[2]))
        return e + xp.exp(psi[1]) * more, log_slope.sum(-1)

    def inverse_and_log_det(self, psi: AnyArray, z: AnyArray, target: Target | None = None) -> tuple[Array, Array]:
        xp = psi.__array_namespace__()
        less, log_slope = straightened((z - psi[0]) * xp.exp(-psi[1]), MAX_BEND * xp.tanh(psi[2]))
        return z + xp.exp(psi[1]) * less, -log_slope.sum(-1)

    def step_scale(self, psi: Array, power: Array, unknown: Array) -> PyTree:
        # The centre moves in units of the scale, what has no units by itself.
        return jnp.where(jnp.arange(3)[:, None] == 0, jnp.exp(psi[1]), 1.0)
