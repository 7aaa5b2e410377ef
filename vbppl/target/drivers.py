"""Which latent sites drive others, and in which order, and which have heavy tails: from one abstract run each."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from vbppl.core.types import Array
from vbppl.distributions.quantiles import by_quantiles
from vbppl.model.handlers import at_point
from vbppl.model.primitives import Site
from vbppl.target.target import Target

Places = tuple[int, ...]


def drivers_of(target: Target) -> frozenset[str]:
    """The latent sites on which the scale of a latent site depends, or whose support is not the real line.

    By name. A scale is that of a location-scale family. Supports are real where log |dx/dz| does not depend on `z`;
    what has a latent location or scale in its support's coordinates, as a log-normal, is no more bent than a normal.
    """
    return _found(target)[0]


def driving_order(target: Target, hypers: Iterable[tuple[str, Iterable[int]]]) -> tuple[Places, Places]:
    """The places of drivers among hyperparameters, which have their places by name, and of what these drive.

    First come the drivers on which a scale depends, be it of what was observed: how well the other drivers are known
    depends on these (the rates of a curve on the noise about it), so that these others are in both lists.
    """
    drivers, scales = _found(target)
    ranked = list[int](), list[int](), list[int]()
    for name, places in hypers:
        ranked[0 if name in drivers & scales else 1 if name in drivers else 2].extend(places)
    first, others, driven = (tuple(places) for places in ranked)
    return first + others, others + driven if first else driven


def _found(target: Target) -> tuple[frozenset[str], frozenset[str]]:
    """The drivers, and the latent sites on which any scale depends."""
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
) -> tuple[frozenset[str], frozenset[str]]:
    def run(coordinates: dict[str, Array], leaves: Any) -> tuple[list[Array], list[Array], dict[str, Array]]:
        def interpret(site: Site) -> Site:
            return at_point(coordinates.get(site.name, jnp.zeros((), dtype)))(site)

        found = jax.tree.unflatten(structure, leaves).trace(interpret)
        mine = {name: found[name] for name in latent}
        others = [s for name, s in found.items() if s.kind == "sample" and name not in mine]
        scales, seen = (
            [site.dist.location_scale[1] for site in sites if site.dist.location_scale is not None]
            for sites in (mine.values(), others)
        )
        z = {name: jnp.full(s.dist.support.unconstrained_shape(s.shape), coordinates[name]) for name, s in mine.items()}
        dets = {name: s.dist.support.forward_and_log_det(z[name])[1] for name, s in mine.items()}
        return scales, seen, dets

    coordinates = {name: jax.ShapeDtypeStruct((), dtype) for name in latent}
    closed, (scales, seen, _) = jax.make_jaxpr(run, return_shape=True)(coordinates, shapes)
    reached = _reached(closed.jaxpr, sorted(latent))
    count = len(scales)
    bent = {name for name, found in zip(sorted(latent), reached[count + len(seen) :]) if name in found}
    drivers = frozenset(bent.difference(movable).union(*reached[:count]))
    return drivers, frozenset[str]().union(*reached[: count + len(seen)])


def _reached(jaxpr: Any, names: list[str]) -> list[frozenset[str]]:
    """By which of its first arguments each output of a program is reached: followed through its equations."""
    nothing, by = frozenset[str](), {var: frozenset([name]) for var, name in zip(jaxpr.invars, names)}
    is_known = lambda atom: not hasattr(atom, "val")  # noqa: E731 -- a literal is no variable
    for equation in jaxpr.eqns:
        found = nothing.union(*(by.get(atom, nothing) for atom in equation.invars if is_known(atom)))
        by.update(dict.fromkeys(equation.outvars, found))
    return [by.get(atom, nothing) if is_known(atom) else nothing for atom in jaxpr.outvars]
