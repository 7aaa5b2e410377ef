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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.pytree import pytree, set_field, static
from vbppl.core.special import HALF_LOG_TWO_PI
from vbppl.core.types import AnyArray, Array, PyTree
from vbppl.data.rows import lengths_of
from vbppl.guides.base import Draws, Guide, RowWise, Start, is_traced, over_draws, uniform_weights
from vbppl.guides.gaussian import START_SD, FullRank, Gaussian, MeanField
from vbppl.guides.noise import Noise, RowNormals
from vbppl.target.layout import Slot, shown_slices
from vbppl.target.target import Target

AT_ONCE = 16  # draws evaluated side by side outside the steps: bounds the memory that they take


class _Drawn(NamedTuple):
    """What noise makes: `z` of the rows shown, `(draws, shown_dim)`, of the shared sites all rows, and the normals."""

    z: Array
    shared: Array
    moments: Mapping[str, tuple[Array, Array]]


class RowGuide(RowWise):
    """What guides with local parts share. They give `shared`, `local_plates` and `conditional`."""

    shared: Gaussian

    def local_plates(self, target: Target) -> tuple[str, ...]:
        """The plates whose latent sites are local."""
        raise NotImplementedError

    def conditional(self, phi: PyTree, target: Target) -> dict[str, tuple[Array, Array]]:
        """For each local site `loc` and `sd` of the rows shown, in unconstrained space: `slot.shown(...)` each."""
        raise NotImplementedError

    def monitored(self, phi: PyTree) -> tuple[Array, Array]:
        rest = super().monitored(_without(phi, ("shared", "local")))
        parts = self.shared.monitored(phi["shared"]), MeanField().monitored(phi["local"]), rest
        return jnp.concatenate([values for values, _ in parts]), jnp.concatenate([units for _, units in parts])

    def step_scale(self, phi: PyTree, power: Array, unknown: Array) -> PyTree:
        guides = {"shared": self.shared, "local": MeanField()}
        of_gaussians = {name: guide.step_scale(phi[name], power, unknown) for name, guide in guides.items()}
        return of_gaussians | super().step_scale(_without(phi, guides), power, unknown)

    def slots(self, target: Target, local: bool) -> list[Slot]:
        """The local sites, or the shared ones."""
        plates = self.local_plates(target)
        return [slot for slot in target.layout.slots if any(p in plates for p in slot.plates) == local]

    def noise(self, target: Target) -> Noise:
        return RowNormals.of(target.layout, tuple(slot.name for slot in self.slots(target, local=True)), target.rows)

    def draw(self, phi: PyTree, noise: AnyArray, target: Target) -> Draws:
        return _draw(self, phi, noise, target)

    def bound(self, phi: PyTree, noise: AnyArray, target: Target) -> Array:
        # The local sites' divergences in closed form where they have one, the entropies always.
        if not is_traced((phi, noise, target)):
            return _bounds_in_turn(self, phi, noise, target)
        z, _, moments = self._drawn(phi, noise, target)
        entropy, lengths = self.shared.entropy(phi["shared"]), lengths_of(target.rows)
        for slot in self.slots(target, local=True):
            sd = moments[slot.name][1]
            entropy += (jnp.sum(jnp.log(sd)) + sd.size * (HALF_LOG_TWO_PI + 0.5)) * slot.weight(lengths)
        return shown_log_densities(target, z, moments) + entropy

    def frame(self, phi: PyTree, target: Target) -> tuple[AnyArray, AnyArray]:
        # Exact: each row's normal is independent of all else.
        moments, (loc, sd) = self.conditional(phi, target), self.shared.frame(phi["shared"], target)
        found, start = [], 0
        for slot in target.layout.slots:
            if slot.name in moments:
                found.append([np.ravel(part) for part in moments[slot.name]])
                continue
            stop = start + slot.stop - slot.start
            found.append([np.asarray(part[start:stop]) for part in (loc, sd)])
            start = stop
        whole = [np.concatenate([np.zeros(0), *parts]) for parts in zip(*found)] or [np.zeros(0)] * 2
        return whole[0], whole[1]

    def log_prob(self, phi: PyTree, z: AnyArray, target: Target) -> Array:
        local, slices = self.slots(target, local=True), shown_slices(target.layout, target.rows)
        parts = {s: z[:, slices[s.name][0] :][:, : math.prod(slices[s.name][1])] for s in target.layout.slots}
        shared = _joined([_whole(slot, part) for slot, part in parts.items() if slot not in local], z)
        return self._log_q(phi, target, _Drawn(z, shared, self.conditional(phi, target)))

    def _log_q(self, phi: PyTree, target: Target, drawn: _Drawn) -> Array:
        """The log density of what was drawn, the terms of the rows shown weighted N/B: `(draws,)`."""
        total, lengths = self.shared.log_prob(phi["shared"], drawn.shared, target), lengths_of(target.rows)
        slices = shown_slices(target.layout, target.rows)
        for slot in self.slots(target, local=True):
            start, shape = slices[slot.name]
            loc, sd = (part.reshape(-1) for part in drawn.moments[slot.name])
            residual = (drawn.z[:, start : start + math.prod(shape)] - loc) / sd
            each = -(residual**2) / 2 - jnp.log(sd) - HALF_LOG_TWO_PI
            total += each.sum(axis=1) * slot.weight(lengths)
        return total

    def _drawn(self, phi: PyTree, noise: Array, target: Target) -> _Drawn:
        """What `noise` makes at the rows that the target shows."""
        rows, moments, local = target.rows, self.conditional(phi, target), self.slots(target, local=True)
        sizes = [math.prod(s.shown(lengths_of(rows))) if s in local else s.stop - s.start for s in target.layout.slots]
        parts = dict(zip(target.layout.slots, jnp.split(noise, np.cumsum(sizes)[:-1], axis=1)))
        shared = self.shared.transform(phi["shared"], _joined([parts[s] for s in parts if s not in local], noise))
        pieces, start = [], 0
        for slot, part in parts.items():
            if slot in local:
                loc, sd = moments[slot.name]
                pieces.append(loc.reshape(-1) + sd.reshape(-1) * part)
                continue
            piece, start = shared[:, start : start + part.shape[1]], start + part.shape[1]
            shown = any(plate in rows for plate in slot.plates)
            pieces.append(piece[:, (slot.indices(rows) - slot.start).reshape(-1)] if shown else piece)
        return _Drawn(_joined(pieces, noise), shared, moments)

    def divergences(self, phi: PyTree, noise: Array, target: Target) -> dict[str, tuple[Array, Array]]:
        z, _, moments = self._drawn(phi, noise, target)
        return jax.vmap(lambda one: target.run(one, shown=True).divergences(moments))(z)

    def normals(self, phi: PyTree, target: Target) -> dict[str, tuple[Array, Array]]:
        return self.conditional(phi, target)

    def values(self, phi: PyTree, noise: Array, target: Target) -> dict[str, Array]:
        # In unconstrained space.
        z, slices = self._drawn(phi, noise, target).z, shown_slices(target.layout, target.rows)
        return {n: z[:, at : at + math.prod(shape)].reshape(-1, *shape) for n, (at, shape) in slices.items()}

    def row_log_weights(self, phi: PyTree, values: dict[str, Array], target: Target) -> Array:
        pieces = (values[slot.name] for slot in target.layout.slots)
        z = jnp.concatenate([piece.reshape(len(piece), -1) for piece in pieces], axis=1)
        plate = target.layout.only_plate().name
        log_p = jax.vmap(lambda one: target.run(one, shown=True).by_row(plate))(z)
        for name, (loc, sd) in self.conditional(phi, target).items():
            each = -(((values[name] - loc) / sd) ** 2) / 2 - jnp.log(sd) - HALF_LOG_TWO_PI
            log_p -= each.reshape(*log_p.shape, -1).sum(axis=2)
        return log_p

    def apart(
        self, phi: PyTree, target: Target, rng: np.random.Generator, draws: int, table: list[Slot]
    ) -> dict[str, Array]:
        """Draws in unconstrained space of the shared sites and of those of the table: for each `(draws, ...)`."""
        shared, dtype = self.slots(target, local=False), phi["shared"].dtype
        noise = rng.standard_normal((draws, sum(slot.stop - slot.start for slot in shared))).astype(dtype)
        flat, found, start = self.shared.transform(phi["shared"], noise), {}, 0
        for slot in shared:
            size = slot.stop - slot.start
            found[slot.name] = flat[:, start : start + size].reshape(draws, *slot.unconstrained)
            start += size
        for name, (loc, sd) in from_table(phi["local"], table, {}).items():
            found[name] = loc + sd * rng.standard_normal((draws, *loc.shape)).astype(dtype)
        return found

    def first_phi(self, target: Target, start: Start, table: list[Slot]) -> dict[str, Any]:
        """Around the start: the shared sites' parameters, and a table for the sites `table`."""
        log_sd = np.full_like(start.loc, math.log(START_SD)) if start.log_sd is None else start.log_sd
        (loc, sd), (rows, row_sd) = (
            [np.concatenate([whole[:0], *(whole[s.start : s.stop] for s in slots)]) for whole in (start.loc, log_sd)]
            for slots in (self.slots(target, local=False), table)
        )
        shared = Start(loc, None if start.log_sd is None else sd, start.raw_key)
        return {"shared": self.shared.init(target, shared), "local": np.stack([rows, row_sd.astype(rows.dtype)])}


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
        set_field(self, "plates", (self.plates,) if isinstance(self.plates, str) else tuple(self.plates))

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
        return self.first_phi(target, start, self.slots(target, local=True))

    def conditional(self, phi: PyTree, target: Target) -> dict[str, tuple[Array, Array]]:
        return from_table(phi["local"], self.slots(target, local=True), target.rows)


def beside_rows(guide: Guide, target: Target, plates: Iterable[str]) -> Guide:
    """The guide for a fit in which `plates` show a part of their rows.

    Mean field becomes `Structured`: the same family, of which a step reads, and draws noise for, the rows shown alone.
    """
    local = {plate for slot in target.layout.slots for plate in slot.plates} & set(plates)
    return Structured(tuple(sorted(local)), guide) if local and isinstance(guide, MeanField) else guide


def from_table(table: Array, slots: list[Slot], rows: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
    """The rows shown of a table `(2, coordinates)` of `loc` and `log sd`: `(loc, sd)` for each of `slots`."""
    found, start, table = {}, 0, jnp.asarray(table)
    for slot in slots:
        places = slot.indices(rows) - slot.start + start
        found[slot.name] = (table[0][places], jnp.exp(table[1][places]))
        start += slot.stop - slot.start
    return found


def _without(phi: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: leaf for name, leaf in phi.items() if name not in names}


def _joined(parts: list[Any], like: AnyArray) -> Array:
    """`parts` side by side, `(draws, ...)`; no column where there are none."""
    return jnp.concatenate([like[:, :0], *parts], axis=1)


def _whole(slot: Slot, part: Array) -> Array:
    if part.shape[1] < slot.stop - slot.start:
        raise ModelError(
            "the density of what all rows share needs all of it, but its plate shows a part of its rows.",
            site=slot.name,
            mend="Name its plate in the guide too: vb.Structured((...)); or use the plain bound.",
        )
    return part


def shown_log_densities(target: Target, z: Array, normals: Any = None) -> Array:
    """The log density at each draw of `z`, `(draws, shown_dim)`, with `normals` in closed form: `(draws,)`."""
    return over_draws(lambda point: target.run(point, shown=True).with_normals(normals or {}), z)


@functools.partial(jax.jit, inline=True)
def _draw(guide: RowGuide, phi: PyTree, noise: Array, target: Target) -> Draws:
    drawn = guide._drawn(phi, noise, target)
    log_p = shown_log_densities(target, drawn.z)
    return Draws(drawn.z, guide._log_q(phi, target, drawn), uniform_weights(drawn.z), log_p)


@jax.jit
def _bounds_in_turn(guide: RowGuide, phi: PyTree, noise: Array, target: Target) -> Array:
    one = lambda e: guide.bound(phi, e[None], target)[0]  # noqa: E731
    return jax.lax.map(one, noise, batch_size=min(AT_ONCE, len(noise)))
