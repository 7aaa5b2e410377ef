"""Which rows of its plates a density is asked for: checked, read from sources, or all of them in parts."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from vbppl.core import devices
from vbppl.core.errors import ModelError, of_kind
from vbppl.core.types import Array
from vbppl.data.readers import prefetched
from vbppl.data.source import RowBlock, Source, mesh_of, part_of, places_of

PART = 2**20  # numbers that are read from the sources at once, where all rows are gone through


@dataclasses.dataclass(frozen=True)
class PlateRows:
    """A plate's size, how many of its rows the model asks to be shown at a time, and what is read along it."""

    name: str
    size: int
    subsample_size: int | None
    sources: tuple[str, ...] = ()


Plates = Sequence[PlateRows]
Sources = Mapping[str, Source]


def checked(plates: Plates, sources: Sources, rows: Mapping[str, Any] | None) -> dict[str, Any]:
    """`rows` as index arrays, or as parts where a plate has sources.

    Raises:
      ModelError: a name is no plate's, an index no row's, or a plate with sources would show all its rows.
    """
    of_kind("rows", rows, rows is None or isinstance(rows, Mapping), "a dict of indices by the plates' names")
    given, known = dict(rows or {}), {plate.name: plate for plate in plates}
    for name, found in given.items():
        if name not in known:
            raise ModelError(f"rows names '{name}', but the model's plates are {', '.join(known) or 'none'}.")
        if not isinstance(found, RowBlock):
            given[name] = _indices(known[name], found)
            if known[name].sources:
                given[name] = shown(known[name], sources, np.asarray(given[name]))
    unread = [plate for plate in plates if plate.sources and plate.name not in given]
    if unread:
        raise ModelError(
            f"plate '{unread[0].name}' shows all its rows, but {', '.join(unread[0].sources)} is read in parts.",
            mend="Fit with batch_size=...; or load the data: np.asarray(...).",
        )
    return given


def shown(plate: PlateRows, sources: Sources, indices: np.ndarray, shared: bool = False) -> RowBlock:
    """The rows `indices` of a plate, with what its sources hold there; of iterators the rows that follow."""
    return part_of([sources[name] for name in plate.sources], indices, plate.size, shared=shared)


def numbers(plates: Plates, sources: Sources) -> int:
    """How many numbers the sources hold."""
    return sum(plate.size * _row_numbers(plate, sources) for plate in plates)


def parts(plates: Plates, sources: Sources) -> Iterator[tuple[float, dict[str, Any]]]:
    """Sets of rows, each with its share of all: see `Target.parts`. The next is read while one is used."""
    streamed = [plate for plate in plates if plate.sources]
    if not streamed:
        yield 1.0, {}
        return
    for name in {name for plate in streamed for name in plate.sources}:
        sources[name].again()
    mesh = mesh_of(list(sources.values()))
    stretches = (enumerate(_stretches(plate.size, _row_numbers(plate, sources))) for plate in streamed)

    def read(chosen: tuple[tuple[int, range], ...]) -> tuple[float, dict[str, Any]]:
        share, rows = 1.0, {}
        for plate, (number, stretch) in zip(streamed, chosen):
            share *= len(stretch) / plate.size
            part = shown(plate, sources, np.array(stretch), shared=True)
            rows[plate.name] = dataclasses.replace(part, number=np.int32(number))
        return share, devices.put(rows, mesh)

    yield from prefetched(read, itertools.product(*stretches))


def indices_of(rows: Mapping[str, Any]) -> dict[str, Any]:
    """The indices of rows shown, which come alone or in parts."""
    return {name: places_of(name, found) for name, found in rows.items()}


def lengths_of(rows: Mapping[str, Any]) -> dict[str, int]:
    """How many rows of each plate are shown."""
    return {name: (found.indices if isinstance(found, RowBlock) else found).shape[0] for name, found in rows.items()}


def _indices(plate: PlateRows, found: Any) -> Array:
    indices = jnp.asarray(found)
    if indices.ndim != 1 or not indices.size or not jnp.issubdtype(indices.dtype, jnp.integer):
        what = f"{indices.dtype}{list(indices.shape)}"
        raise ModelError(f"the rows of plate '{plate.name}' must be some integers in one dimension, not {what}.")
    if not isinstance(indices, jax.core.Tracer):
        known = np.asarray(indices)  # not `jnp`: inside a compiled program even a constant's least is none
        least, greatest = known.min(), known.max()
        if least < 0 or greatest >= plate.size:
            raise ModelError(
                f"rows names rows {least} to {greatest} of plate '{plate.name}', which has {plate.size}, from 0 on."
            )
    return indices


def _row_numbers(plate: PlateRows, sources: Sources) -> int:
    return sum(sources[name].numbers for name in plate.sources)


def _stretches(size: int, width: int) -> list[range]:
    """The rows of a plate in stretches of about `PART` numbers, of equal length where its size allows."""
    most = int(np.clip(PART // max(width, 1), 1, size))
    length = next((length for length in range(most, most // 2, -1) if size % length == 0), most)
    return [range(start, min(start + length, size)) for start in range(0, size, length)]
