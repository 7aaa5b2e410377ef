"""What leaves the trace of a step: of each site its arrays, and how they make one site of all steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from vbppl.core.types import Array
from vbppl.distributions.stacked import Stacked
from vbppl.model.control_flow.hidden import Counted, States
from vbppl.model.primitives import Site


@dataclasses.dataclass(frozen=True)
class StepSite:
    """What leaves the trace of a step of one site.

    Attributes:
      site: without its numbers.
      rest: how value, distribution and what was told are put together again: for each its structure, and its leaves
        with None in the place of what the trace has computed.
      shapes: batch and event of its distribution.
      leaves: what the trace has computed, in order.
    """

    site: Site
    rest: tuple[tuple[Any, list[Any]], ...]
    shapes: tuple[Any, ...]
    leaves: Sequence[Array]

    @classmethod
    def of(cls, site: Site) -> StepSite:
        parts = [jax.tree.flatten(part) for part in (site.value, site.dist, site.told)]
        leaves = [leaf for own, _ in parts for leaf in own if isinstance(leaf, jax.core.Tracer)]
        rest = tuple(
            (tree, [None if isinstance(leaf, jax.core.Tracer) else leaf for leaf in own]) for own, tree in parts
        )
        shapes = (tuple(site.dist.batch_shape), tuple(site.dist.event_shape)) if site.kind == "sample" else ()
        return cls(dataclasses.replace(site, value=None, dist=None, told=None, step=None), rest, shapes, leaves)

    @property
    def are_values(self) -> list[bool]:
        """For each of the leaves whether it is a part of the value, or of what was told with it."""
        of_value, of_dist, of_told = (sum(leaf is None for leaf in own) for _, own in self.rest)
        return [True] * of_value + [False] * of_dist + [True] * of_told

    def stacked(self, found: Sequence[tuple[Array, bool]], length: int) -> Site:
        """The site of all steps, from what each of these leaves is at all steps, and whether it changes."""
        computed = iter(found)
        value, dist, told = ([next(computed) if leaf is None else (leaf, None) for leaf in own] for _, own in self.rest)
        trees = [tree for tree, _ in self.rest]

        def whole(leaf: Any, changes: bool | None) -> Array:
            return jnp.broadcast_to(leaf, (length, *jnp.shape(leaf))) if changes is None else leaf

        value, told = (tree.unflatten([whole(*leaf) for leaf in own]) for tree, own in zip(trees[::2], (value, told)))
        if self.shapes:
            # What is the same at each step stands once, as a step has it.
            once = trees[1].unflatten([leaf[0] if changes is False else leaf for leaf, changes in dist])
            axes = tuple(0 if changes else None for _, changes in dist)
            dist = Stacked(once, axes, length, *self.shapes)
        return dataclasses.replace(
            self.site, value=value, dist=dist if self.shapes else None, told=told, steps=(length, *self.site.steps)
        )


@dataclasses.dataclass(frozen=True)
class Traced:
    """One trace of a step.

    Attributes:
      y: the structure of what it gives back.
      sites: the sites, plates apart.
      plates: the plates, by name.
      stated: the sites whose log densities it gives, where there are hidden states.
    """

    y: Any
    sites: list[StepSite]
    plates: dict[str, Site]
    stated: list[StepSite]

    @classmethod
    def of(cls, y: Any, sites: Sequence[Site]) -> Traced:
        """That of a step which gives back `y`."""
        found = [StepSite.of(site) for site in sites if site.kind != "plate"]
        stated = [each for each in found if each.site.kind in ("sample", "factor")]
        return cls(jax.tree.structure(y), found, {s.name: s for s in sites if s.kind == "plate"}, stated)


def log_probs_by_row(states: States, sites: Sequence[Site], number: Array) -> list[Array]:
    """The log densities of a step's statements, each in the rows of the states; one number where it is outside."""
    found, own = [], states.own(number)
    for site in sites:
        if site.kind not in ("sample", "factor"):
            continue
        log_prob = site.value
        if site.kind == "sample":
            log_prob = jnp.broadcast_to(site.dist.log_prob(site.value), site.dist.batch_shape)
            if site.name in own and (inside := states.hidden[site.name].support.is_inside(own[site.name])) is not True:
                events = tuple(range(log_prob.ndim, jnp.ndim(inside)))
                log_prob = jnp.where(jnp.all(inside, axis=events), log_prob, -jnp.inf)
        found.append(states.by_row(site, log_prob))
    return found


def counted(site: StepSite, found: Sequence[tuple[Array, bool]], length: int) -> Site:
    """A latent site of all steps whose density is a part of the sum over hidden states."""
    whole = site.stacked(found, length)
    return dataclasses.replace(whole, dist=Counted(tuple(whole.dist.batch_shape), tuple(whole.dist.event_shape)))
