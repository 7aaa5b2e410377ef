"""Which latent sites drive the scales of others, and which have heavy tails: from one abstract run each."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from vbppl.core.types import Array
from vbppl.distributions.quantiles import by_quantiles
from vbppl.model.handlers import at_point
from vbppl.model.primitives import Site
from vbppl.target.target import Target


def drivers_of(target: Target) -> frozenset[str]:
    """The latent sites on which the scale of a latent site depends, or whose support is not the real line.

    By name. A scale is that of a location-scale family. Supports are real where log |dx/dz| does not depend on `z`;
    what has a latent location or scale in its support's coordinates, as a log-normal, is no more bent than a normal.
    """
    leaves, structure = jax.tree.flatten(target.model)
    shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    latent = tuple(slot.name for slot in target.layout.slots)
    return _drivers(structure, shapes, latent, target.layout.movable, jnp.result_type(float))


def heavy_tailed(target: Target) -> tuple[str, ...]:
    """The latent sites whose priors have no variance, and quantiles by which they can be seen instead."""

    def run(model: Any) -> dict[str, Any]:
        found = model.trace(at_point(0.0))
        return {slot.name: by_quantiles(found[slot.name].dist) for slot in target.layout.slots}

    found = jax.eval_shape(run, target.model)  # in alphabetical order
    return tuple(slot.name for slot in target.layout.slots if found[slot.name] is not None)


@functools.lru_cache(maxsize=256)
def _drivers(
    structure: Any, shapes: tuple[Any, ...], latent: tuple[str, ...], movable: tuple[str, ...], dtype: Any
) -> frozenset[str]:
    def run(coordinates: dict[str, Array], leaves: Any) -> tuple[list[Array], dict[str, Array]]:
        def interpret(site: Site) -> Site:
            return at_point(coordinates.get(site.name, jnp.zeros((), dtype)))(site)

        found = jax.tree.unflatten(structure, leaves).trace(interpret)
        mine = {name: found[name] for name in latent}
        scales = [site.dist.location_scale[1] for site in mine.values() if site.dist.location_scale is not None]
        z = {name: jnp.full(s.dist.support.unconstrained_shape(s.shape), coordinates[name]) for name, s in mine.items()}
        dets = {name: s.dist.support.forward_and_log_det(z[name])[1] for name, s in mine.items()}
        return scales, dets

    coordinates = {name: jax.ShapeDtypeStruct((), dtype) for name in latent}
    closed, (scales, _) = jax.make_jaxpr(run, return_shape=True)(coordinates, shapes)
    reached = _reached(closed.jaxpr, sorted(latent))
    bent = {name for name, found in zip(sorted(latent), reached[len(scales) :]) if name in found}
    return frozenset(bent.difference(movable).union(*reached[: len(scales)]))


def _reached(jaxpr: Any, names: list[str]) -> list[frozenset[str]]:
    """By which of its first arguments each output of a program is reached: followed through its equations."""
    nothing, by = frozenset[str](), {var: frozenset([name]) for var, name in zip(jaxpr.invars, names)}
    is_known = lambda atom: not hasattr(atom, "val")  # noqa: E731 -- a literal is no variable
    for equation in jaxpr.eqns:
        found = nothing.union(*(by.get(atom, nothing) for atom in equation.invars if is_known(atom)))
        by.update(dict.fromkeys(equation.outvars, found))
    return [by.get(atom, nothing) if is_known(atom) else nothing for atom in jaxpr.outvars]
