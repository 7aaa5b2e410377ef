"""Location-scale families, and the coordinates between centred and not in which such a site can be seen.

With a weight `w` for each site the flat vector holds `z` where

    value = (1 - w) loc + scale^(1 - w) z,

which is the value itself for `w = 1` (centred) and `(value - loc) / scale` for `w = 0` (Papaspiliopoulos,
Roberts and Sköld 2007, "A General Framework for the Parametrization of Hierarchical Models", section 2).
The weight is a number, not a property of the program, so one compiled density serves both.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from vbppl.core.types import Array, ArrayLike
from vbppl.distributions.base import ExpandedDistribution, Independent, MaskedDistribution
from vbppl.distributions.constraints.scalar import Affine
from vbppl.distributions.families.real import Cauchy, Gumbel, Laplace, Logistic, Normal, StudentT

FAMILIES = (Normal, StudentT, Cauchy, Laplace, Logistic, Gumbel)


def location_scale(dist: Any) -> tuple[ArrayLike, ArrayLike] | None:
    """The location and scale of `dist`, which broadcast with its draws; None if it has none."""
    core = dist
    while isinstance(core, (ExpandedDistribution, Independent, MaskedDistribution)):
        core = core.base_dist
    return (core.loc, core.scale) if isinstance(core, FAMILIES) else None


def coordinates(dist: Any, weight: Array | None, decentred: bool = False) -> Any:
    """The bijector from a site's slice of the flat vector onto its values: its support, unless there is a weight.

    `decentred` stands for a weight of 0 that is known when the program is compiled, and costs less.
    """
    parts = location_scale(dist)
    if parts is None or (weight is None and not decentred):
        return dist.support
    loc, scale = parts
    if weight is None:
        return Affine(loc, scale)
    return Affine((1 - weight) * loc, jnp.exp((1 - weight) * jnp.log(scale)))
