"""Coordinates in which a site of a location-scale family can be seen: centred, not, between, or by pseudo-data.

With a weight `w` for each site the flat vector holds `z` where

    value = (1 - w) loc + scale^(1 - w) z,

which is the value itself for `w = 1` (centred) and `(value - loc) / scale` for `w = 0` (Papaspiliopoulos,
Roberts and Sköld 2007, "A General Framework for the Parametrization of Hierarchical Models", section 2).
The weight is a number, not a property of the program, so one compiled density serves both.

Pseudo-data say how far each row is centred by itself: if of a row `y` had been observed with precision `d`, its value
would be distributed, given `loc` and `scale`, as

    value = loc + r (y - loc) + scale / sqrt(q) z,    q = 1 + d scale^2,  r = d scale^2 / q,

with `z` standard normal, for a normal prior. Where the likelihood is normal and (y, d) are the data themselves, `z` is
therefore independent of everything that `loc` and `scale` depend on, whatever their values; elsewhere nearly so.
`d = 0` is decentred, a large `d` centred. It is a change of coordinates only: the density stays that of the model (Tan
2021, "Use of model reparametrization to improve variational Bayes", has such an affine map). Both at once:

    value = (1 - w) loc + r (y - loc) + scale^(1 - w) / sqrt(q) z.

The density of the value is asked at its standard form, straight from `z`,

    u = (value - loc) / scale = scale^-w (z / sqrt(q) - w loc scale^(w - 1)) + r / scale (y - loc),

which is `z` itself for `w = d = 0`. In 32 bits `loc + scale z` is `loc`, whatever `z`, where the scale is below 10^-7
of it: by a difference of such values a decentred density would not fall with `z` at all.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from vbppl.core.pytree import pytree
from vbppl.core.types import Array, ArrayLike
from vbppl.distributions.base import ExpandedDistribution, Independent, MaskedDistribution, Wrapper
from vbppl.distributions.constraints.scalar import Affine
from vbppl.distributions.families.real import LocationScale


@pytree
class Coordinates:
    """How a site is seen: numbers among the data, so that one program serves all.

    Attributes:
      weight: 1.0 if it is centred, 0.0 if not, or between.
      y: pseudo-data, of the shape of the site's slice of the flat vector; of no consequence where `d` is zero.
      d: their precisions, of the same shape; not below zero.
    """

    weight: ArrayLike
    y: ArrayLike = 0.0
    d: ArrayLike = 0.0


def coordinates(dist: Any, seen: Coordinates | None, decentred: bool = False) -> Any:
    """The bijector from a site's slice of the flat vector onto its values: its support, where it is not `seen` so.

    `decentred` stands for a weight of 0 that is known when the program is compiled, and costs less.
    """
    if dist.location_scale is None or (seen is None and not decentred):
        return dist.support
    loc, scale = dist.location_scale
    if seen is None:
        return Affine(loc, scale)
    told, shrunk, q = _told(seen, scale)
    log_scale = (1 - seen.weight) * jnp.log(scale)
    moved = (1 - seen.weight) * loc + told * scale * (seen.y - loc)
    return _Moved(moved, jnp.exp(log_scale) * shrunk, log_scale - jnp.log(q) / 2)


@pytree
class _Moved(Affine):
    """Of which the log of the scale is known: its own logarithm would take as long to compile as the rest."""

    log_scale: ArrayLike

    def forward_and_log_det(self, z):
        x = self.loc + self.scale * z
        return x, jnp.broadcast_to(self.log_scale, x.shape)


def _told(seen: Coordinates, scale: ArrayLike) -> tuple[Array, Array, Array]:
    """How far pseudo-data draw a value to themselves, `r / scale`, and narrow it, `1 / sqrt(q)`; `q`."""
    # Not the scale's square, which overflows at half of the way: zero times infinity would be no number.
    drawn = seen.d * scale
    q = 1 + drawn * scale
    shrunk = 1 / jnp.sqrt(q)
    return drawn * shrunk * shrunk, shrunk, q


def log_prob_at(dist: Any, seen: Coordinates | None, z: Array, value: Array) -> Array:
    """The log density of the `value` that a slice `z` of the flat vector stands for in such coordinates."""
    standard = _in_standard_units(dist)
    if standard is None:  # a family of the user's own: only it knows its density
        return dist.log_prob(value)
    if seen is None:
        return standard.log_prob(z)
    (loc, scale), weight = dist.location_scale, seen.weight
    log_scale, (told, shrunk, _) = jnp.log(scale), _told(seen, scale)
    u = jnp.exp(-weight * log_scale) * (z * shrunk - weight * loc * jnp.exp((weight - 1) * log_scale))
    return standard.log_prob(u + told * (seen.y - loc))


@pytree
class _StandardUnits(Wrapper):
    """`base_dist`, whose density is asked at `u` in the place of `loc + scale u`."""

    base_dist: LocationScale

    def log_prob(self, x):
        core: Any = self.base_dist
        standard = dataclasses.replace(core, loc=jnp.zeros_like(core.loc), scale=jnp.ones_like(core.scale))
        return standard.log_prob(x) - jnp.log(core.scale)


def _in_standard_units(dist: Any) -> Any:
    """The same in the wrappers around it; None where the family inside is not known to move and stretch."""
    core = dist
    while isinstance(core, (ExpandedDistribution, Independent, MaskedDistribution)):
        core = core.base_dist
    if not isinstance(core, LocationScale):
        return None
    inner = _StandardUnits(core)
    return jax.tree.map(lambda part: inner if part is core else part, dist, is_leaf=lambda part: part is core)
