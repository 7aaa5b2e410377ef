"""Coordinates between centred and not, in which a site of a location-scale family can be seen.

With a weight `w` for each site the flat vector holds `z` where

    value = (1 - w) loc + scale^(1 - w) z,

which is the value itself for `w = 1` (centred) and `(value - loc) / scale` for `w = 0` (Papaspiliopoulos,
Roberts and Sköld 2007, "A General Framework for the Parametrization of Hierarchical Models", section 2).
The weight is a number, not a property of the program, so one compiled density serves both.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from vbppl.core.types import Array
from vbppl.distributions.constraints.scalar import Affine


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
