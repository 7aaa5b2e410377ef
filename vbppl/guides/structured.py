"""Guides that know rows: one Gaussian for what all rows share, and a normal of its own for each row beside it.

    q(z) = q(shared) prod_i N(z_i | loc_i, sd_i)

A latent site inside one of the guide's plates is local, every other one is shared. A step reads, and draws
noise for, the rows shown alone, and weighs their terms N/B. Because a row's normal is independent of all
else, its divergence from a Gaussian prior stands in closed form, whatever that prior depends on:

    bound = E_q[log p(y | z)] + E_q[log p(shared)] + H(shared) - N/B sum_i E_q[KL(N(loc_i, sd_i), p(z_i | shared))].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.numerics.draws import fresh_draws, latin_hypercube, normal_draws, whitened_draws
from vbppl.core.pytree import pytree, set_field, static
from vbppl.core.special import HALF_LOG_TWO_PI
from vbppl.core.types import AnyArray, Array, PyTree
from vbppl.data.rows import lengths_of
from vbppl.guides.base import MOST, Guide, averaged, blocks_of_rows
from vbppl.guides.gaussian import (
    START_SD,
    FullRank,
    Gaussian,
    MeanField,
    orders_of_strata,
    shown_log_densities,
    stratified_normals,
)
from vbppl.target.layout import Slot, shown_slices
from vbppl.target.target import Target

WHITENED = 32  # dims up to which the draws behind the bound are whitened
AT_ONCE = 16  # draws evaluated side by side outside the steps: bounds the memory that they take


class RowGuide(Guide):
    """What guides with local parts share. They give `shared`, `local_plates` and `moments`."""

    shared: Gaussian

    def local_plates(self, target: Target) -> tuple[str, ...]:
        """The plates whose latent sites are local."""
        raise NotImplementedError

    def moments(self, phi: PyTree, target: Target, rows: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
        """For each local site `loc` and `sd` of the rows shown, in unconstrained space: `slot.shown(...)` each."""
        raise NotImplementedError

    def monitored(self, phi: PyTree) -> tuple[Array, Array]:
        """Means in posterior sds and log sds; what else is learnt, relatively."""
        rest = super().monitored(_without(phi, ("shared", "local")))
        parts = self.shared.monitored(phi["shared"]), MeanField().monitored(phi["local"]), rest
        return jnp.concatenate([values for values, _ in parts]), jnp.concatenate([units for _, units in parts])

    def metric(self, phi: PyTree, power: Array, pace: Array) -> PyTree:
        """Means move in posterior sds, what else is learnt at a pace of its own."""
        guides = {"shared": self.shared, "local": MeanField()}
        of_gaussians = {name: guide.metric(phi[name], power, pace) for name, guide in guides.items()}
        return of_gaussians | super().metric(_without(phi, guides), power, pace)

    def slots(self, target: Target, local: bool) -> list[Slot]:
        """The local sites, or the shared ones."""
        plates = self.local_plates(target)
        return [slot for slot in target.layout.slots if any(p in plates for p in slot.plates) == local]

    def stratification(self, target: Target, draws: int, rng: np.random.Generator) -> np.ndarray:
        """For each normal of a draw an order of the strata: the shared sites', and those of the rows shown."""
        return orders_of_strata(rng, draws, self.noise_dim(target, target.layout.shown))

    def noise_dim(self, target: Target, lengths: Mapping[str, int]) -> int:
        """How many normals a draw takes where plates show so many rows."""
        local = sum(math.prod(slot.shown(lengths)) for slot in self.slots(target, local=True))
        return local + sum(slot.stop - slot.start for slot in self.slots(target, local=False))

    def noise(self, stratification: Array, key: Array, draws: int) -> Array:
        """Standard normals, `(draws, noise_dim)`, site after site; stratified as those of a Gaussian guide."""
        return stratified_normals(stratification, key, draws)

    def points(self, phi: PyTree, target: Target, noise: Array, rows: Mapping[str, Array]) -> Array:
        """The draws, `(draws, dim)`; zero where a row is not shown."""
        z, _ = self.drawn(phi, target, noise, rows, self.moments(phi, target, rows))
        if not target.layout.is_partly_shown(rows):
            return z
        return jnp.zeros((len(noise), target.dim), z.dtype).at[:, target.layout.places(rows)].set(z)

    def bound(self, phi: PyTree, target: Target, noise: Array, rows: Mapping[str, Array]) -> Array:
        """Per draw: the local sites' divergences in closed form where they have one, the entropies always."""
        moments = self.moments(phi, target, rows)
        z, _ = self.drawn(phi, target, noise, rows, moments)
        entropy = self.shared.entropy(phi["shared"])
        for slot in self.slots(target, local=True):
            sd = moments[slot.name][1]
            entropy += (jnp.sum(jnp.log(sd)) + sd.size * (HALF_LOG_TWO_PI + 0.5)) * slot.weight(lengths_of(rows))
        return shown_log_densities(target, z, rows, moments) + entropy

    def log_weights(
        self, phi: PyTree, target: Target, noise: Array, rows: Mapping[str, Array], density_phi: PyTree
    ) -> Array:
        """`log p(z_n) - log q(z_n)`, the rows' terms weighted N/B."""
        moments = self.moments(phi, target, rows)
        z, shared = self.drawn(phi, target, noise, rows, moments)
        if density_phi is not phi:
            moments = self.moments(density_phi, target, rows)
        return shown_log_densities(target, z, rows) - self.log_q(density_phi, target, z, shared, rows, moments)

    def drawn(
        self, phi: PyTree, target: Target, noise: Array, rows: Mapping[str, Array], moments: Mapping[str, Any]
    ) -> tuple[Array, Array]:
        """What `noise` makes: `z` of the rows shown, `(draws, shown_dim)`, and of the shared sites, all rows."""
        local = self.slots(target, local=True)
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
        return _joined(pieces, noise), shared

    def divergences(
        self, phi: PyTree, target: Target, noise: Array, rows: Mapping[str, Array]
    ) -> dict[str, tuple[Array, Array]]:
        """Of the local sites, in closed form."""
        moments = self.moments(phi, target, rows)
        z, _ = self.drawn(phi, target, noise, rows, moments)
        return jax.vmap(lambda one: target.divergences(one, rows, moments))(z)

    def normals(self, phi: PyTree, target: Target, rows: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
        """`moments`."""
        return self.moments(phi, target, rows)

    def values(self, phi: PyTree, target: Target, noise: Array, rows: Mapping[str, Array]) -> dict[str, Array]:
        """In unconstrained space."""
        z, _ = self.drawn(phi, target, noise, rows, self.moments(phi, target, rows))
        slices = shown_slices(target.layout, rows)
        return {n: z[:, at : at + math.prod(shape)].reshape(-1, *shape) for n, (at, shape) in slices.items()}

    def row_log_weights(
        self, phi: PyTree, target: Target, values: dict[str, Array], rows: Mapping[str, Array]
    ) -> Array:
        """Row by row, nothing in closed form."""
        pieces = (values[slot.name] for slot in target.layout.slots)
        z = jnp.concatenate([piece.reshape(len(piece), -1) for piece in pieces], axis=1)
        log_p = jax.vmap(lambda one: target.row_log_density(one, rows))(z)
        moments = self.moments(phi, target, rows)
        for name, (loc, sd) in moments.items():
            each = -(((values[name] - loc) / sd) ** 2) / 2 - jnp.log(sd) - HALF_LOG_TWO_PI
            log_p -= each.reshape(*log_p.shape, -1).sum(axis=2)
        return log_p

    def next_states(
        self, phi: PyTree, target: Target, noise: Array, rows: Mapping[str, Array]
    ) -> dict[str, dict[str, Any]]:
        """Of the model, run at the draws."""
        z, _ = self.drawn(phi, target, noise, rows, self.moments(phi, target, rows))
        return {"guide": {}, "model": averaged(jax.vmap(lambda one: target.next_states(one, rows, shown=True))(z))}

    def log_q(
        self,
        phi: PyTree,
        target: Target,
        z: Array,
        shared: Array,
        rows: Mapping[str, Array],
        moments: Mapping[str, Any],
    ) -> Array:
        """The guide's log density in unconstrained space, at `z` and `shared` of `drawn`: `(draws,)`."""
        total, start = self.shared.flat_log_prob(phi["shared"], shared), 0
        local = self.slots(target, local=True)
        for slot in target.layout.slots:
            size = math.prod(slot.shown(lengths_of(rows)))
            if slot in local:
                loc, sd = (part.reshape(-1) for part in moments[slot.name])
                residual = (z[:, start : start + size] - loc) / sd
                each = -(residual**2) / 2 - jnp.log(sd) - HALF_LOG_TWO_PI
                total += each.sum(axis=1) * slot.weight(lengths_of(rows))
            start += size
        return total

    def fresh_bound(self, phi: PyTree, target: Target, rng: np.random.Generator, draws: int) -> np.ndarray:
        """Terms of the bound at moment-exact draws, over all rows in blocks; each block has draws of its own."""
        draws, blocks = blocks_of_rows(target, draws)
        total = np.zeros(draws)
        for rows, share in blocks:
            dim = self.noise_dim(target, lengths_of(rows))
            make = fresh_draws if dim <= WHITENED else latin_hypercube  # whitening costs draws dim^2
            noise = make(rng, draws, dim).astype(_dtype(phi))
            total += share * np.asarray(_bound(self, phi, target, noise, rows), np.float64)
        return total

    def weighed_draws(
        self, phi: PyTree, target: Target, rng: np.random.Generator, draws: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """`log p - log q` at independent draws of all sites and rows, and the draws."""
        draws = min(draws, max(MOST // target.dim, 1))
        noise = normal_draws(rng, draws, target.dim).astype(_dtype(phi))
        total = np.zeros(draws)
        for rows, share in blocks_of_rows(target, draws)[1]:
            part = noise[:, self._taken(target, rows)]
            total += share * np.asarray(_log_weights(self, phi, target, part, rows), np.float64)
        return total, np.asarray(self.all_points(phi, target, noise), np.float64)

    def all_points(self, phi: PyTree, target: Target, noise: np.ndarray) -> AnyArray:
        """The draws at all rows, `(draws, dim)`, of noise of that shape; sources are gone through in parts."""
        if not target.model.sources:
            return _points(self, phi, target, noise, {})
        z = np.zeros_like(noise)
        for _, rows in target.parts():
            part = np.asarray(_points(self, phi, target, noise[:, self._taken(target, rows)], rows))
            shown = target.layout.shown_places(rows)
            z[:, shown] = part[:, shown]
        return z

    def _taken(self, target: Target, rows: Mapping[str, Any]) -> np.ndarray:
        """The places in noise of all rows that belong to the rows shown: all of the shared sites'."""
        local = self.slots(target, local=True)
        taken = [np.ravel(s.indices(rows)) if s in local else np.arange(s.start, s.stop) for s in target.layout.slots]
        return np.concatenate([np.zeros(0, int), *taken])

    def sample(self, phi: PyTree, target: Target, rng: np.random.Generator, draws: int) -> dict[str, Array]:
        """Independent draws, mapped onto the supports."""
        noise = normal_draws(rng, draws, target.dim).astype(_dtype(phi))
        return target.constrain(self.all_points(phi, target, noise))

    def quadrature(self, phi: PyTree, target: Target, rng: np.random.Generator, draws: int) -> dict[str, Array]:
        """Moment-exact draws, mapped onto the supports."""
        noise = whitened_draws(rng, draws, target.dim).astype(_dtype(phi))
        return target.constrain(self.all_points(phi, target, noise))

    def drawn_apart(
        self, phi: PyTree, target: Target, rng: np.random.Generator, draws: int, table: list[Slot]
    ) -> dict[str, Array]:
        """Draws in unconstrained space of the shared sites and of those of the table: for each `(draws, ...)`."""
        shared = self.slots(target, local=False)
        noise = rng.standard_normal((draws, sum(slot.stop - slot.start for slot in shared))).astype(_dtype(phi))
        flat, found, start = self.shared.transform(phi["shared"], noise), {}, 0
        for slot in shared:
            size = slot.stop - slot.start
            found[slot.name] = flat[:, start : start + size].reshape(draws, *slot.unconstrained)
            start += size
        for name, (loc, sd) in from_table(phi["local"], table, {}).items():
            found[name] = loc + sd * rng.standard_normal((draws, *loc.shape)).astype(_dtype(phi))
        return found

    def log_prob(self, phi: PyTree, target: Target, values: Mapping[str, Any]) -> Array:
        """`log q(z(x)) - log |dx/dz|`."""
        z, log_det = target.unconstrain(values), target.log_det(values)
        flat = jnp.atleast_2d(z)
        shared = _joined([flat[:, s.start : s.stop] for s in self.slots(target, local=False)], flat)
        log_q = self.log_q(phi, target, flat, shared, {}, self.moments(phi, target, {}))
        return log_q.reshape(log_det.shape) - log_det

    def first_phi(self, target: Target, loc: np.ndarray, table: list[Slot]) -> dict[str, Any]:
        """Around the point `loc`: the shared sites' parameters, and a table for the sites `table`."""
        shared, rows = (_joined([loc[None, s.start : s.stop] for s in slots], loc[None])[0]
                        for slots in (self.slots(target, local=False), table))  # fmt: skip
        return {
            "shared": np.asarray(self.shared.init(target, np.asarray(shared))),
            "local": np.stack([rows, np.full_like(rows, math.log(START_SD))]),
        }


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
        """`plates`."""
        return self.plates

    def init(self, target: Target, loc: np.ndarray) -> PyTree:
        """Narrow, around `loc`."""
        known = [plate.name for plate in target.layout.plates]
        for plate in self.plates:
            if not any(plate in slot.plates for slot in target.layout.slots):
                raise ModelError(
                    f"Structured names the plate '{plate}', which holds no latent site of the model.",
                    details=f"the plates: {', '.join(known) or 'none'}",
                    mend="Name the plate whose latent sites shall each have a normal of their own.",
                )
        return self.first_phi(target, loc, self.slots(target, local=True))

    def moments(self, phi: PyTree, target: Target, rows: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
        """The rows shown of the table."""
        return from_table(phi["local"], self.slots(target, local=True), rows)


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


def _dtype(phi: PyTree) -> Any:
    return phi["shared"].dtype


@jax.jit
def _bound(guide: RowGuide, phi: PyTree, target: Target, noise: Array, rows: dict[str, Array]) -> Array:
    one = lambda e: guide.bound(phi, target, e[None], rows)[0]  # noqa: E731
    return jax.lax.map(one, noise, batch_size=min(AT_ONCE, len(noise)))


@jax.jit
def _log_weights(guide: RowGuide, phi: PyTree, target: Target, noise: Array, rows: dict[str, Array]) -> Array:
    one = lambda e: guide.log_weights(phi, target, e[None], rows, phi)[0]  # noqa: E731
    return jax.lax.map(one, noise, batch_size=min(AT_ONCE, len(noise)))


@jax.jit
def _points(guide: RowGuide, phi: PyTree, target: Target, noise: Array, rows: dict[str, Any]) -> Array:
    return guide.points(phi, target, noise, rows)
