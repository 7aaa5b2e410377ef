"""Where each latent site lies in the flat vector: the shapes of a model, fixed before any number is known.

Sites lie one after the other in the order of their statements. Where a plate shows only a part of
its rows, a step of a stochastic fit needs only these rows' coordinates: `Slot.indices` finds them
without looking at the others, so that a step costs what its batch costs, however many rows there are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.plain_words import brief
from vbppl.core.pytree import pytree
from vbppl.core.types import AnyArray, Array, Shape
from vbppl.data.rows import PlateRows, indices_of, lengths_of
from vbppl.distributions.families.degenerate import Delta
from vbppl.distributions.location_scale import Parameterisation, precisions_shape
from vbppl.model.arguments import by_name
from vbppl.model.enumeration.marginal import independents
from vbppl.model.shapes import as_numbers
from vbppl.model.trace import Outline, abstract_sites

FEW = 16  # slots that are cut out of a vector one by one


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where a latent site lies in the flat vector: `z[start:stop]`, of shape `unconstrained`.

    `plates` are the plates around it, and `axes` says which axis of `unconstrained` each of them owns. `vector_dim`
    numbers are moved together where it is seen in other coordinates; 0 where each is by itself.
    """

    name: str
    shape: Shape
    event_shape: Shape
    unconstrained: Shape
    start: int
    stop: int
    plates: tuple[str, ...]
    axes: tuple[int, ...] = ()
    vector_dim: int = 0

    @property
    def event_dim(self) -> int:
        """How many of the rightmost axes of `unconstrained` belong to the event."""
        return len(self.unconstrained) - len(self.shape) + len(self.event_shape)

    @property
    def pseudo_data_shapes(self) -> tuple[Shape, Shape]:
        """The shapes of its pseudo-data and of their precisions: see `Parameterisation`."""
        return self.unconstrained, precisions_shape(self.unconstrained, self.vector_dim)

    def shown(self, lengths: Mapping[str, int]) -> Shape:
        """`unconstrained` where plates show so many rows only, by their names."""
        shape = list(self.unconstrained)
        for plate, axis in zip(self.plates, self.axes):
            shape[axis] = lengths.get(plate, shape[axis])
        return tuple(shape)

    def weight(self, lengths: Mapping[str, int]) -> float:
        """How much each coordinate counts where so many rows are shown: N/B for each plate."""
        return math.prod(self.unconstrained) / math.prod(self.shown(lengths))

    def indices(self, rows: Mapping[str, Any]) -> Array:
        """The places in `z` of the rows shown, of shape `shown`: O(rows shown), not O(rows)."""
        plates = dict(zip(self.axes, self.plates))
        rows = indices_of({name: rows[name] for name in self.plates if name in rows})
        places, stride = jnp.asarray(self.start), 1
        for axis in reversed(range(len(self.unconstrained))):
            along = rows.get(plates.get(axis, ""), jnp.arange(self.unconstrained[axis]))
            right = len(self.unconstrained) - 1 - axis
            places = places + stride * along.reshape((-1,) + (1,) * right)
            stride *= self.unconstrained[axis]
        return places


@dataclasses.dataclass(frozen=True)
class Layout:
    """The shapes of a model: hashable, so that equal shapes share compiled programs.

    `movable` are the sites with other parameterisations, as numbers say, `funnels` those among them whose scale is
    latent, `fixed_noncentred` those that are non-centred for good, and `by_quantiles` those that are seen by the
    quantiles of their priors; if it `is_settled` how they are seen, programs have it compiled in. `data_plates` are the
    plates around each observed site. Discrete latent sites have no place: they are `summed` out. `reported` are the
    latent and deterministic sites that a point tells, `completed` all of them, and `tables` counts the values summed
    over in all rows, those of scans included, `tables_of_rows` without these. `observations` are the numbers of the
    largest observed site.
    """

    slots: tuple[Slot, ...]
    plates: tuple[PlateRows, ...]
    params: tuple[str, ...]
    observed: tuple[str, ...]
    reported: tuple[str, ...]
    movable: tuple[str, ...] = ()
    funnels: tuple[str, ...] = ()
    fixed_noncentred: tuple[str, ...] = ()
    by_quantiles: tuple[str, ...] = ()
    is_settled: bool = False
    has_training_mode: bool = False
    data_plates: tuple[tuple[str, tuple[str, ...]], ...] = ()
    summed: tuple[str, ...] = ()
    completed: tuple[str, ...] = ()
    tables: int = 0
    tables_of_rows: int = 0
    observations: int = 0

    @classmethod
    def of(cls, sites: Mapping[str, Outline], decentered: tuple[str, ...]) -> Layout:
        """The layout of a model whose sites have these outlines."""
        slots: list[Slot] = []
        for site in sites.values():
            if site.kind == "sample" and not site.observed and not site.states:
                slots.append(_slot(site, slots[-1].stop if slots else 0))
        plates = [site for site in sites.values() if site.kind == "plate"]
        summed = [s for s in sites.values() if s.states]
        reported = [s for s in sites.values() if _is_reported(s, sites)]
        if moved := [s.name for s in sites.values() if s.of_summed and s.name in decentered]:
            what = "its location or scale depends on a discrete site, which is summed out, so it cannot be non-centred."
            raise ModelError(what, site=moved[0], mend="Leave it out of vb.decenter.")
        return cls(
            slots=tuple(slots),
            plates=tuple(PlateRows(s.name, s.size, s.subsample_size, s.sources) for s in plates),
            params=tuple(s.name for s in sites.values() if s.kind == "param"),
            observed=tuple(s.name for s in sites.values() if s.observed),
            reported=tuple(s.name for s in reported if not s.states and not _needs_summed(s)),
            movable=tuple(s.name for s in sites.values() if s.movable or s.name in decentered),
            funnels=tuple(s.name for s in sites.values() if s.hierarchical),
            has_training_mode=any(s.has_training_mode for s in sites.values()),
            data_plates=tuple((s.name, tuple(f.name for f in s.frames)) for s in sites.values() if s.observed),
            summed=tuple(s.name for s in summed),
            completed=tuple(s.name for s in reported),
            tables=sum(s.values_summed for s in summed),
            tables_of_rows=sum(s.values_summed for s in summed if not s.steps),
            observations=max(
                (math.prod(s.shape) for s in sites.values() if s.kind == "sample" and s.observed), default=0
            ),
        )

    def centred_by(self, weights: Mapping[str, float], dtype: Any) -> dict[str, Parameterisation]:
        """How the `movable` sites are parameterised if centred as far as `weights` say, without pseudo-data."""
        return {
            slot.name: Parameterisation(
                np.asarray(weights[slot.name], dtype), *(np.zeros(s, dtype) for s in slot.pseudo_data_shapes)
            )
            for slot in self.slots
            if slot.name in self.movable
        }

    def packed(self, forms: Mapping[str, Parameterisation]) -> np.ndarray:
        """The parameterisations as one row of numbers, as solvers hand it on: `(numbers,)`, or none if settled."""
        names = () if self.is_settled else self.movable
        parts = zip(*(jax.tree.leaves(forms[name]) for name in names))  # numbers of one kind beside each other
        return np.concatenate([np.zeros(0), *(np.ravel(part) for kind in parts for part in kind)])

    def unpacked(self, row: Any) -> dict[str, Parameterisation]:
        """What has been `packed`."""
        movable = [slot for slot in self.slots if slot.name in self.movable]
        shapes = zip(*(((), *slot.pseudo_data_shapes) for slot in movable))
        found: list[list[Any]] = [[] for _ in movable]
        start = 0
        for kind in shapes:
            for parts, shape in zip(found, kind):
                stop = start + math.prod(shape)
                parts.append(row[start:stop].reshape(shape))
                start = stop
        return {slot.name: Parameterisation(*parts) for slot, parts in zip(movable, found)}

    @property
    def dim(self) -> int:
        """The length of the flat vector."""
        return self.slots[-1].stop if self.slots else 0

    @property
    def shown(self) -> dict[str, int]:
        """How many rows are shown at a time, of the plates that show only a part."""
        return {p.name: p.subsample_size for p in self.plates if p.subsample_size and p.subsample_size < p.size}

    def only_plate(self) -> PlateRows:
        """The one plate that all latent sites stand in, alone.

        Raises:
          ModelError: there is none.
        """
        plates = {slot.plates for slot in self.slots}
        if len(plates) != 1 or len(next(iter(plates))) != 1:
            raise ModelError(
                "weights by row need a model all of whose latent sites stand in one plate.",
                details="\n".join(f"{slot.name}: {', '.join(slot.plates) or 'no plate'}" for slot in self.slots),
                mend="Learn what all rows share as a param, as in a VAE; or use the evidence lower bound.",
            )
        name = next(iter(plates))[0]
        return next(plate for plate in self.plates if plate.name == name)

    def showing(self, lengths: Mapping[str, int | None]) -> Layout:
        """The same layout with so many rows of these plates shown, and all of the others."""
        plates = (dataclasses.replace(p, subsample_size=lengths.get(p.name)) for p in self.plates)
        return dataclasses.replace(self, plates=tuple(plates))

    def is_partly_shown(self, rows: Mapping[str, Any]) -> bool:
        """Does any coordinate of `z` belong to a plate of which `rows` are shown?"""
        return any(plate in rows for slot in self.slots for plate in slot.plates)

    def places(self, rows: Mapping[str, Any]) -> Array:
        """The places in `z` of the coordinates that belong to `rows`, `(shown_dim,)`."""
        return jnp.concatenate([slot.indices(rows).reshape(-1) for slot in self.slots])

    def shown_places(self, rows: Mapping[str, Any]) -> Any:
        """The same, or all places where `rows` show every coordinate: an index into `z`."""
        return self.places(rows) if self.is_partly_shown(rows) else slice(None)

    def weights(self, rows: Mapping[str, Any]) -> np.ndarray:
        """How much each of these coordinates counts, `(shown_dim,)`: N/B for each plate around it."""
        lengths = lengths_of(rows)
        return np.concatenate([np.full(math.prod(s.shown(lengths)), s.weight(lengths)) for s in self.slots])

    def flat(self, z: Any, batched: bool = False) -> Array:
        """`z` as an array of the session's dtype, after checking that it is `(dim,)`, or `(n, dim)` where `batched`."""
        z = z if hasattr(z, "shape") else as_numbers(z, "z")
        shape = z.shape
        if shape[-1:] != (self.dim,) or len(shape) > 1 + batched:
            names = ", ".join(f"{slot.name}{list(slot.unconstrained)}" for slot in self.slots)
            raise ValueError(f"z has shape {shape}, not ({self.dim},); its coordinates are {names or 'none'}.")
        return jnp.asarray(z, jnp.result_type(float))

    def in_order(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The latent and deterministic sites in the order of the model's statements, which JAX forgets."""
        if lost := [name for name in self.reported if name not in values]:
            mend = (
                "Let the same statements run each time: nothing that counts runs, or is random, may choose among them."
            )
            raise ModelError("the site was there only when the model was first run.", site=lost[0], mend=mend)
        return {name: values[name] for name in self.reported}

    def latent_values(self, values: Mapping[str, Any]) -> dict[str, AnyArray]:
        """The values of the latent sites among `values`, none of which may be missing."""
        missing = [slot.name for slot in self.slots if slot.name not in by_name(values)]
        if missing:
            raise ModelError(
                f"the values lack the latent site{'s' * (len(missing) > 1)} {', '.join(missing)}.",
                details="\n".join(f"{slot.name}: {slot.shape}" for slot in self.slots),
                mend="Give a value of its shape, or draws of it, for each latent site.",
            )
        found = {slot.name: values[slot.name] for slot in self.slots}
        return {name: value if isinstance(value, jax.Array) else np.asarray(value) for name, value in found.items()}


@pytree
class Apart:
    """A flat vector, slot by slot: what is differentiated by some of them passes by all that depends on others alone.

    A derivative by a part of one array goes through the rest too, with zeros: where a prior's normalising constant
    depends on hyperparameters, second derivatives by the rows then cost, and compile, third ones of `lgamma`.
    """

    parts: tuple[Array, ...]

    @property
    def whole(self) -> Array:
        """The flat vector."""
        return jnp.concatenate(self.parts)


def shown_slices(layout: Layout, rows: Mapping[str, Any]) -> dict[str, tuple[int, Shape]]:
    """For each slot where it begins, and its shape, in a `z` that holds the rows shown alone."""
    lengths, start, found = lengths_of(rows), 0, {}
    for slot in layout.slots:
        found[slot.name] = (start, slot.shown(lengths))
        start += math.prod(slot.shown(lengths))
    return found


def sliced(layout: Layout, z: Array | Apart, rows: Mapping[str, Any]) -> dict[str, Array]:
    """What each slot has of a `z` that holds the rows shown alone, in its shape."""
    places = shown_slices(layout, rows)
    sizes = [math.prod(shape) for _, shape in places.values()]
    if isinstance(z, Apart):
        parts = z.parts
    elif len(sizes) <= FEW:
        # The derivative of a slice is a vector of the whole length, padded by zeros: of a few that fuses with the rest.
        parts = [z[start : start + size] for (start, _), size in zip(places.values(), sizes)]
    else:
        parts = jax.lax.split(z, sizes)
    return {name: part.reshape(shape) for part, (name, (_, shape)) in zip(parts, places.items())}


def marginal_sites(model: Any) -> dict[str, Outline]:
    """The sites of a run of a `Model` as a fit sees them, with a mark on what depends on discrete latent sites.

    Raises:
      ModelError: they cannot be summed out.
    """
    sites = abstract_sites(model)
    names = tuple(name for name, site in sites.items() if site.states)
    if not names or any(site.unbounded[0] for site in sites.values()):
        return sites
    leaves, structure = jax.tree.flatten(model)
    shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    try:
        fixed = independents(structure, shapes, names, jnp.result_type(float))
    except ModelError as error:
        raise brief(error) from error.__cause__
    marks = {"of_summed": True, "movable": False, "hierarchical": False}
    return {name: site if name in fixed else dataclasses.replace(site, **marks) for name, site in sites.items()}


def _is_reported(site: Outline, sites: Mapping[str, Outline]) -> bool:
    """A latent site is, and a deterministic one, unless it needs rows that are not all there at once."""
    if site.kind == "deterministic":
        return not any(sites[frame.name].sources for frame in site.frames)
    return site.kind == "sample" and not site.observed


def _needs_summed(site: Outline) -> bool:
    """A continuous latent site has its own value whatever the discrete ones are; a deterministic one need not."""
    return site.kind == "deterministic" and site.of_summed


def _slot(site: Outline, start: int) -> Slot:
    if site.is_discrete:
        raise ModelError(site.unbounded[0], site=site.name, mend=site.unbounded[1])
    if site.distribution == Delta.__name__:
        raise ModelError(
            "a latent variable cannot have all its mass on one point (Delta): its density has no gradient.",
            site=site.name,
            mend="Write vb.deterministic(name, value), or pass obs=... if it is observed.",
        )
    batch = len(site.shape) - len(site.event)
    return Slot(
        site.name,
        site.shape,
        site.event,
        site.unconstrained,
        start,
        start + math.prod(site.unconstrained),
        tuple(frame.name for frame in site.frames),
        tuple(batch + frame.dim for frame in site.frames),
        site.vector_dim,
    )
