"""Coordinates between centred and not, in which a site of a location-scale family can be seen.

With a weight `w` for each site the flat vector holds `z` where

    value = (1 - w) loc + scale^(1 - w) z,

which is the value itself for `w = 1` (centred) and `(value - loc) / scale` for `w = 0` (Papaspiliopoulos,
Roberts and Sköld 2007, "A General Framework for the Parametrization of Hierarchical Models", section 2).
The weight is a number, not a property of the program, so one compiled density serves both.

The density of the value is asked at its standard form, straight from `z`,

    u = (value - loc) / scale = scale^-w (z - w loc scale^(w - 1)),

which is `z` itself for `w = 0`. In 32 bits `loc + scale z` is `loc`, whatever `z`, where the scale is below 10^-7 of
it: by a difference of such values a decentred density would not fall with `z` at all.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from vbppl.core.pytree import pytree
from vbppl.core.types import Array
from vbppl.distributions.base import ExpandedDistribution, Independent, MaskedDistribution, Wrapper
from vbppl.distributions.constraints.scalar import Affine
from vbppl.distributions.families.real import LocationScale


def coordinates(dist: Any, weight: Array | None, decentred: bool = False) -> Any:
    """The bijector from a site's slice of the flat vector onto its values: its support, unless there is a weight.

    `decentred` stands for a weight of 0 that is known when the program is compiled, and costs less.
    """
    if dist.location_scale is None or (weight is None and not decentred):
        return dist.support
    loc, scale = dist.location_scale
    if weight is None:
        return Affine(loc, scale)
    return Affine((1 - weight) * loc, jnp.exp((1 - weight) * jnp.log(scale)))


def log_prob_at(dist: Any, weight: Array | None, z: Array, value: Array) -> Array:
    """The log density of the `value` that a slice `z` of the flat vector stands for in such coordinates."""
    standard = _in_standard_units(dist)
    if standard is None:  # a family of the user's own: only it knows its density
        return dist.log_prob(value)
    if weight is None:
        return standard.log_prob(z)
    loc, log_scale = dist.location_scale[0], jnp.log(dist.location_scale[1])
    return standard.log_prob(jnp.exp(-weight * log_scale) * (z - weight * loc * jnp.exp((weight - 1) * log_scale)))


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
