"""Centred or not: in which coordinates a hierarchical site is seen.

A site `theta ~ Normal(mu, tau)` whose `mu` or `tau` is itself latent makes a funnel: the scale of
`theta` hangs on `tau`. In the coordinates `z = (theta - mu) / tau` the funnel is gone from the
prior, and a Gaussian guide fits much better where the data say little about each `theta`
(Papaspiliopoulos, Roberts and Sköld 2007, "A General Framework for the Parametrization of
Hierarchical Models").

That is a choice of coordinates, not of model: `decenter` changes the bijector between the flat vector and the
site, and nothing else. Names, shapes, densities of values and the evidence stay as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vbppl.aliases import Array
from vbppl.bijectors.scalar import Affine
from vbppl.distributions.base import ExpandedDistribution, Independent, MaskedDistribution
from vbppl.distributions.real import Cauchy, Gumbel, Laplace, Logistic, Normal, StudentT
from vbppl.errors import ModelError
from vbppl.language import Site
from vbppl.models import Model, abstract_sites
from vbppl.trace import of_the_right_shape

LOCATION_SCALE = (Normal, StudentT, Cauchy, Laplace, Logistic, Gumbel)


def decenter(model: Model, *names: str) -> Model:
    """The same model with the sites `names` fitted in the coordinates `(value - loc) / scale`.

    Without names, all latent location-scale sites whose scale depends on other latent sites.

    >>> import numpy as np, vbppl as vb, vbppl.distributions as dist
    >>> @vb.model
    ... def schools(sigma, y):
    ...     tau = vb.sample("tau", dist.HalfNormal(5.0))
    ...     with vb.plate("school", 2):
    ...         theta = vb.sample("theta", dist.Normal(0.0, tau))
    ...         vb.sample("y", dist.Normal(theta, sigma), obs=y)
    >>> vb.decenter(schools(np.ones(2), np.ones(2))).decentered
    ('theta',)

    Raises:
      ModelError: a name is not that of a latent site with a location and a scale.
    """
    known = _location_scale_sites(model)
    for name in names:
        if name not in known:
            raise ModelError(
                "only a latent site with a location and a scale can be decentred.",
                site=name,
                details=f"such sites of this model: {', '.join(known) or 'none'}",
                mend="Name one of these.",
            )
    return dataclasses.replace(model, decentered=names or hierarchical_sites(model))


def coordinates(site: Site, decentered: bool) -> Any:
    """The bijector from a site's slice of the flat vector onto its values."""
    parts = location_scale(site.dist) if decentered else None
    return site.dist.support if parts is None else Affine(*parts)


def location_scale(dist: Any) -> tuple[Array, Array] | None:
    """The location and scale of `dist`, in the shape of its draws; None if it has none."""
    shape, core = tuple(dist.batch_shape) + tuple(dist.event_shape), dist
    while isinstance(core, (ExpandedDistribution, Independent, MaskedDistribution)):
        core = core.base_dist
    if not isinstance(core, LOCATION_SCALE):
        return None
    return jnp.broadcast_to(core.loc, shape), jnp.broadcast_to(core.scale, shape)


def hierarchical_sites(model: Model) -> tuple[str, ...]:
    """The latent location-scale sites whose scale depends on other latent sites."""
    outlines = {n: s for n, s in abstract_sites(model).items() if s.kind == "sample" and not s.observed}
    names = _location_scale_sites(model)

    def scales(values: Mapping[str, Array], model: Model) -> list[Array]:
        def interpret(site: Site) -> Site:
            if site.kind == "sample" and site.value is None:
                return dataclasses.replace(site, value=values[site.name])
            return of_the_right_shape(site)

        sites = model.trace(interpret)
        parts = (location_scale(sites[name].dist) for name in names)
        return [loc_and_scale[1] for loc_and_scale in parts if loc_and_scale is not None]

    values = {name: jax.ShapeDtypeStruct(s.shape, jnp.result_type(float)) for name, s in outlines.items()}
    depends = _depend_on_first_argument(scales, values, model)
    return tuple(name for name, hangs in zip(names, depends) if hangs)


def _location_scale_sites(model: Model) -> tuple[str, ...]:
    found: list[str] = []

    def run(model: Model) -> None:
        for site in model.trace(of_the_right_shape).values():
            if site.kind == "sample" and not site.observed and location_scale(site.dist) is not None:
                found.append(site.name)

    jax.eval_shape(run, model)
    return tuple(found)


def _depend_on_first_argument(function: Any, first: Any, second: Any) -> list[bool]:
    """Which outputs of `function(first, second)` depend on `first`: followed through its equations."""
    jaxpr = jax.make_jaxpr(function)(first, second).jaxpr
    reached = set(jaxpr.invars[: len(jax.tree.leaves(first))])
    for equation in jaxpr.eqns:
        if any(isinstance(v, type(jaxpr.invars[0])) and v in reached for v in equation.invars):
            reached.update(equation.outvars)
    return [v in reached if isinstance(v, type(jaxpr.invars[0])) else False for v in jaxpr.outvars]
