"""Guides that know rows: one Gaussian for what all rows share, and a normal of its own for each row beside it.

    q(z) = q(shared) prod_i N(z_i | loc_i, sd_i)

A latent site inside one of the guide's plates is local, every other one is shared. A step reads, and draws
noise for, the rows shown alone, and weighs their terms N/B. Because a row's normal is independent of all
else, its divergence from a Gaussian prior stands in closed form, whatever that prior depends on:

    bound = E_q[log p(y | z)] + E_q[log p(shared)] + H(shared) - N/B sum_i E_q[KL(N(loc_i, sd_i), p(z_i | shared))].
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError, of_kind
from vbppl.core.programs.compiling import in_batches
from vbppl.core.pytree import pytree, set_field, static
from vbppl.core.special import NORMAL_ENTROPY, sum_rightmost
from vbppl.core.types import AnyArray, Array, PyTree, Shape
from vbppl.data.rows import lengths_of
from vbppl.distributions.families.real import Normal
from vbppl.guides.base import Draws, Guide, RowWise, Start, is_traced, joined, over_draws, uniform_weights
from vbppl.guides.gaussian import FullRank, Gaussian, MeanField
from vbppl.guides.noise import RowNormals
from vbppl.target.layout import Slot, shown_slices
from vbppl.target.target import Target

AT_ONCE = 16  # draws evaluated side by side outside the steps: bounds the memory that they take

GAUSSIAN = "a Gaussian guide, such as vb.FullRank()"  # of what rows share

Moments: TypeAlias = Mapping[str, tuple[Any, Any]]  # `loc` and `sd` of normals, by the site's name


class _Drawn(NamedTuple):
    """What noise makes at the rows shown.

    Attributes:
      sites: in unconstrained space, by name in the layout's order, `(draws, *shown shape)` each.
      shared: the shared sites of all rows, `(draws, shared dim)`.
      normals: of each local site; see `RowGuide._normals_at`.
    """

    sites: dict[str, Array]
    shared: Array
    normals: Moments

    @property
    def z(self) -> Array:
        """The draws as a target takes them, `(draws, shown dim)`."""
        return _flat(self.sites.values(), self.shared)


class RowGuide(RowWise):
    """What guides with local parts share. They give `shared`, `local_plates` and, unless it is a table, `conditional`.

    A row's normal may depend on the draw of what all rows share, never on other rows: so its divergence has a closed
    form at each draw.
    """

    shared: Gaussian
    # Do the rows' normals not depend on what all rows share? Then they are the same for all draws.
    is_factorised = True

    def local_plates(self, target: Target) -> tuple[str, ...]:
        """The plates whose latent sites are local."""
        raise NotImplementedError

    def conditional(self, phi: PyTree, shared: Array, target: Target) -> Moments:
        """For each local site `loc` and `sd` of the rows that `target` shows: `slot.shown(...)` each.

        In unconstrained space, given one draw of the shared sites, `(shared dim,)`, at which a guide that
        `is_factorised` does not look. By default they are read off a table.
        """
        return from_table(phi["local"], self.table(target), target.rows)

    def table(self, target: Target) -> list[Slot]:
        """The local sites whose normals stand in a table, `phi["local"]`."""
        return self.slots(target, local=True)

    def init(self, target: Target, start: Start) -> PyTree:
        # Around the start: the shared sites' parameters, and the table.
        shared, local = (start.of(_places(slots)) for slots in (self.slots(target, local=False), self.table(target)))
        return {"shared": self.shared.init(target, shared), "local": MeanField().init(target, local)}

    def monitored(self, phi: PyTree) -> tuple[Array, Array]:
        rest = super().monitored(_without(phi, ("shared", "local")))
        return joined([self.shared.monitored(phi["shared"]), MeanField().monitored(phi["local"]), rest])

    def step_scale(self, phi: PyTree, power: Array, unknown: Array) -> PyTree:
        guides = {"shared": self.shared, "local": MeanField()}
        of_gaussians = {name: guide.step_scale(phi[name], power, unknown) for name, guide in guides.items()}
        return of_gaussians | super().step_scale(_without(phi, guides), power, unknown)

    def slots(self, target: Target, local: bool) -> list[Slot]:
        """The local sites, or the shared ones."""
        plates = self.local_plates(target)
        return [slot for slot in target.layout.slots if any(p in plates for p in slot.plates) == local]

    def noise(self, target: Target) -> RowNormals:
        return RowNormals.of(target.layout, tuple(slot.name for slot in self.slots(target, local=True)), target.rows)

    def draw(self, phi: PyTree, noise: AnyArray, target: Target) -> Draws:
        return _draw(self, phi, noise, target)

    def bound(self, phi: PyTree, noise: AnyArray, target: Target) -> Array:
        # The local sites' divergences in closed form where they have one, the entropies always.
        if not is_traced((phi, noise, target)):
            return _bounds_in_turn(self, phi, noise, target)
        drawn = self._drawn(phi, noise, target)
        entropy, lengths = self.shared.entropy(phi["shared"]), lengths_of(target.rows)
        for slot in self.slots(target, local=True):
            each = jnp.log(drawn.normals[slot.name][1]) + NORMAL_ENTROPY
            entropy += sum_rightmost(each, len(slot.unconstrained)) * slot.weight(lengths)

        def density(z: Array, normals: Moments = drawn.normals) -> Array:
            return target.run(z, shown=True).with_normals(normals)

        return over_draws(density, drawn.z, *self._beside(drawn)) + entropy

    def frame(self, phi: PyTree, target: Target) -> tuple[AnyArray, AnyArray]:
        if not self.is_factorised:
            return super().frame(phi, target)
        # Exact: each row's normal is independent of all else.
        normals, found = self.normals(phi, target), []
        for number, part in enumerate(self.shared.frame(phi["shared"], target)):
            sites = self._shared_sites(np.asarray(part), target) | {n: both[number] for n, both in normals.items()}
            found.append(np.concatenate([np.zeros(0), *(np.ravel(sites[slot.name]) for slot in target.layout.slots)]))
        return found[0], found[1]

    def log_prob(self, phi: PyTree, z: AnyArray, target: Target) -> Array:
        shapes = {name: shape for name, (_, shape) in shown_slices(target.layout, target.rows).items()}
        sites = _split(z, shapes)
        shared = _flat([_whole(slot, sites[slot.name]) for slot in self.slots(target, local=False)], z)
        return self._log_q(phi, target, _Drawn(sites, shared, self._normals_at(phi, shared, target)))

    def _log_q(self, phi: PyTree, target: Target, drawn: _Drawn) -> Array:
        """The log density of what was drawn, the terms of the rows shown weighted N/B: `(draws,)`."""
        total, lengths = self.shared.log_prob(phi["shared"], drawn.shared, target), lengths_of(target.rows)
        for slot in self.slots(target, local=True):
            each = Normal(*drawn.normals[slot.name]).log_prob(drawn.sites[slot.name])
            total += sum_rightmost(each, len(slot.unconstrained)) * slot.weight(lengths)
        return total

    def _drawn(self, phi: PyTree, noise: Array, target: Target) -> _Drawn:
        """What `noise` makes at the rows that the target shows."""
        sites, of_shared = _split(noise, self.noise(target).shapes()), self.slots(target, local=False)
        shared = self.shared.transform(phi["shared"], _flat([sites[slot.name] for slot in of_shared], noise))
        normals, whole = self._normals_at(phi, shared, target), self._shared_sites(shared, target)
        for slot in target.layout.slots:
            if slot.name in normals:
                loc, sd = normals[slot.name]
                sites[slot.name] = loc + sd * sites[slot.name]
            elif any(plate in target.rows for plate in slot.plates):
                flat = whole[slot.name].reshape(len(noise), -1)
                sites[slot.name] = flat[:, slot.indices(target.rows) - slot.start]
            else:
                sites[slot.name] = whole[slot.name]
        return _Drawn(sites, shared, normals)

    def _normals_at(self, phi: PyTree, shared: Array, target: Target) -> Moments:
        """`conditional` at draws of `shared`, with an axis of draws only where they are not alike."""
        if self.is_factorised:
            return self.conditional(phi, shared[0], target)
        return jax.vmap(lambda one: self.conditional(phi, one, target))(shared)

    def _beside(self, drawn: _Drawn) -> tuple[Moments, ...]:
        """What varies with the draws beside `z`."""
        return () if self.is_factorised else (drawn.normals,)

    def _shared_sites(self, shared: AnyArray, target: Target) -> dict[str, Any]:
        """The shared sites of all rows, by name, from `(..., shared dim)`."""
        return _split(shared, {slot.name: slot.unconstrained for slot in self.slots(target, local=False)})

    def divergences(self, phi: PyTree, noise: Array, target: Target) -> dict[str, tuple[Array, Array]]:
        drawn = self._drawn(phi, noise, target)

        def one(z: Array, normals: Moments = drawn.normals) -> dict[str, tuple[Array, Array]]:
            return target.run(z, shown=True).divergences(normals)

        return jax.vmap(one)(drawn.z, *self._beside(drawn))

    def normals(self, phi: PyTree, target: Target) -> Moments:
        return self.conditional(phi, jnp.zeros(0), target)

    def values(self, phi: PyTree, noise: Array, target: Target) -> dict[str, Array]:
        # In unconstrained space.
        return self._drawn(phi, noise, target).sites

    def row_log_weights(self, phi: PyTree, values: dict[str, Array], target: Target) -> Array:
        plate = target.layout.only_plate().name
        sites = [values[slot.name] for slot in target.layout.slots]
        z = _flat(sites, sites[0].reshape(len(sites[0]), -1))
        log_p = jax.vmap(lambda one: target.run(one, shown=True).by_row(plate))(z)
        for name, normal in self.normals(phi, target).items():
            log_p -= Normal(*normal).log_prob(values[name]).reshape(*log_p.shape, -1).sum(axis=2)
        return log_p

    def apart(self, phi: PyTree, target: Target, rng: np.random.Generator, draws: int) -> dict[str, Array]:
        """Draws in unconstrained space of the shared sites and of those of the table: for each `(draws, ...)`."""
        dtype, size = phi["shared"].dtype, len(_places(self.slots(target, local=False)))
        noise = rng.standard_normal((draws, size)).astype(dtype)
        found = self._shared_sites(self.shared.transform(phi["shared"], noise), target)
        for name, (loc, sd) in from_table(phi["local"], self.table(target), {}).items():
            found[name] = loc + sd * rng.standard_normal((draws, *loc.shape)).astype(dtype)
        return found


@pytree
class Structured(RowGuide):
    """One Gaussian for what all rows share, and independent normals for the sites inside `plates`.

    >>> Structured("row").plates
    ('row',)

    Attributes:
      plates: the name of the plate whose latent sites are local, or the names of several.
      shared: the guide of all other sites.
    """

    plates: Any = static()
    shared: Gaussian = FullRank()

    def __post_init__(self) -> None:
        of_kind("shared", self.shared, isinstance(self.shared, Gaussian), GAUSSIAN)
        names = (self.plates,) if isinstance(self.plates, str) else self.plates
        is_list = isinstance(names, (tuple, list)) and all(isinstance(name, str) for name in names)
        set_field(self, "plates", tuple(of_kind("plates", names, is_list, "the name of a plate, or a tuple of names")))

    def local_plates(self, target: Target) -> tuple[str, ...]:
        return self.plates

    def init(self, target: Target, start: Start) -> PyTree:
        known = [plate.name for plate in target.layout.plates]
        for plate in self.plates:
            if not any(plate in slot.plates for slot in target.layout.slots):
                raise ModelError(
                    f"Structured names the plate '{plate}', which holds no latent site of the model.",
                    details=f"the plates: {', '.join(known) or 'none'}",
                    mend="Name the plate whose latent sites shall each have a normal of their own.",
                )
        return super().init(target, start)


def beside_rows(guide: Guide, target: Target, plates: Iterable[str]) -> Guide:
    """The guide for a fit in which `plates` show a part of their rows.

    Mean field becomes `Structured`: the same family, of which a step reads, and draws noise for, the rows shown alone.
    """
    local = {plate for slot in target.layout.slots for plate in slot.plates} & set(plates)
    return Structured(tuple(sorted(local)), guide) if local and isinstance(guide, MeanField) else guide


def from_table(table: Array, slots: list[Slot], rows: Mapping[str, Array]) -> Moments:
    """The rows shown of a table `(2, coordinates)` of `loc` and `log sd`: `(loc, sd)` for each of `slots`."""
    found, start, table = {}, 0, jnp.asarray(table)
    for slot in slots:
        places = slot.indices(rows) - slot.start + start
        found[slot.name] = (table[0][places], jnp.exp(table[1][places]))
        start += slot.stop - slot.start
    return found


def _without(phi: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: leaf for name, leaf in phi.items() if name not in names}


def _places(slots: list[Slot]) -> np.ndarray:
    return np.concatenate([np.zeros(0, int), *(np.arange(slot.start, slot.stop) for slot in slots)])


def _flat(sites: Iterable[Array], like: AnyArray) -> Array:
    """`sites` side by side, `(draws, ...)`; no column where there are none."""
    return jnp.concatenate([like[:, :0], *(site.reshape(len(like), -1) for site in sites)], axis=1)


def _split(flat: AnyArray, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """What stands side by side in the last axis of `flat`, by name, each of its shape."""
    found, start = {}, 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape)
        found[name], start = flat[..., start:stop].reshape((*flat.shape[:-1], *shape)), stop
    return found


def _whole(slot: Slot, site: Array) -> Array:
    if site[0].size < slot.stop - slot.start:
        raise ModelError(
            "the density of what all rows share needs all of it, but its plate shows a part of its rows.",
            site=slot.name,
            mend="Name its plate in the guide too: vb.guides.Structured((...)); or use the plain bound.",
        )
    return site


@functools.partial(jax.jit, inline=True)
def _draw(guide: RowGuide, phi: PyTree, noise: Array, target: Target) -> Draws:
    drawn = guide._drawn(phi, noise, target)
    log_p = over_draws(lambda z: target.run(z, shown=True).log_density(), drawn.z)
    return Draws(drawn.z, guide._log_q(phi, target, drawn), uniform_weights(drawn.z), log_p)


@jax.jit
def _bounds_in_turn(guide: RowGuide, phi: PyTree, noise: Array, target: Target) -> Array:
    one = lambda e: guide.bound(phi, e[None], target)[0]  # noqa: E731
    return in_batches(one, noise, AT_ONCE)
