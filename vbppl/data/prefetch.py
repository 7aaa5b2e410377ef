"""Rows that are read on the host while the device computes: what a stochastic fit is fed with.

`Minibatches` say which places come next; a `Prefetched` holds them for as many steps as `BYTES` allow, together with
what the sources hold there. One thread reads and ships the next one while the compiled loop works through the present
one. What is read for a chunk of steps is a function of the cursor alone, so a fit that goes on from a cursor is given
what an unbroken one would be.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from vbppl.core import devices
from vbppl.core.keys import named, wrap
from vbppl.core.pytree import pytree
from vbppl.core.types import Array
from vbppl.data.readers import prefetched
from vbppl.data.shuffle import Minibatches
from vbppl.data.source import Source, mesh_of, part_of

STEPS = 1000  # read ahead at most: as many as one call of the loop makes
BYTES = 2**23  # read ahead: larger blocks of memory are given back to the system each time, and asked for anew


@pytree
class Prefetched:
    """Rows of the next steps, read ahead; stands in for the minibatches that they come from.

    Attributes:
      stream: where they come from.
      begin: its cursor at the first step.
      rows: by the plate's name the indices, or the `RowBlock`: leaves `(steps, ...)`.
    """

    stream: Minibatches
    begin: Any
    rows: dict[str, Any]

    made = 0  # numbers a step: they are all here

    @property
    def most(self) -> int:
        """For how many steps there are rows."""
        return len(jax.tree.leaves(self.rows)[0])

    def ahead(self, key: Array, cursor: Any, steps: int) -> dict[str, Any]:
        """The rows of `steps` steps from `cursor` on, which lies in here."""
        if steps == self.most:
            return self.rows  # the usual case, in which nothing is copied
        _, size, length = self.stream.plates[0]
        (epoch, place), (first_epoch, first_place) = cursor[0], self.begin[0]
        done = ((epoch - first_epoch) * size + place - first_place) // length
        return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, done, steps), self.rows)

    def after(self, cursor: Any, steps: Array) -> Any:
        """As the minibatches' own."""
        return self.stream.after(cursor, steps)


class Prefetcher:
    """Reads ahead for a fit.

    Args:
      stream: of rows; the plates of all sources are among its plates.
      sources: by the plate's name.
      raw_key: of the fit.
    """

    def __init__(self, stream: Minibatches, sources: dict[str, list[Source]], raw_key: np.ndarray):
        self.stream, self.sources, self.raw_key = stream, sources, raw_key
        shown = {name: length for name, _, length in stream.plates}
        needed = [shown[name] * source.row_bytes for name, found in sources.items() for source in found]
        indices = sum(4 * length for length in shown.values())
        self.steps = int(np.clip(BYTES // (sum(needed) + indices), 1, STEPS))

    @property
    def is_repeatable(self) -> bool:
        """Whether the same rows can be read twice."""
        return all(source.is_repeatable for found in self.sources.values() for source in found)

    def feeds(self, cursor: Any, steps: int) -> Iterator[tuple[Prefetched, int]]:
        """Rows for the next `steps` steps in parts, each with its number of steps; the last may have room for more."""
        most = -(-steps // self.steps) * self.steps
        indices = jax.tree.map(np.asarray, _indices(self.stream, self.raw_key, cursor, most))
        cursor = jax.tree.map(np.asarray, cursor)

        mesh = mesh_of(self.sources)

        def read(start: int) -> tuple[Prefetched, int]:
            count = min(self.steps, steps - start)
            begin = self._moved(cursor, start)
            of = {name: found[start : start + self.steps] for name, found in indices.items()}
            rows = {name: self._shown(name, places, begin, count) for name, places in of.items()}
            return devices.put(Prefetched(self.stream, begin, rows), mesh), count

        yield from prefetched(read, range(0, steps, self.steps))

    def _shown(self, name: str, indices: np.ndarray, begin: Any, count: int) -> Any:
        """The indices of a plate, `(steps, rows shown)`, or its part if it has sources."""
        if name not in self.sources:
            return indices
        at = next(i for i, plate in enumerate(self.stream.plates) if plate[0] == name)
        _, size, length = self.stream.plates[at]
        taken = int(begin[at][0]) * size + int(begin[at][1])
        mesh = mesh_of(self.sources[name])
        part = part_of(self.sources[name], indices if mesh else indices[:count], size, taken)
        if mesh or count == self.steps:
            return part
        # One program for all parts: the last of a chunk is filled up with steps that are not made.
        return jax.tree.map(lambda leaf: np.pad(leaf, [(0, self.steps - count)] + [(0, 0)] * (leaf.ndim - 1)), part)

    def _moved(self, cursor: Any, steps: int) -> Any:
        places = [
            int(at[0]) * size + int(at[1]) + steps * length for (_, size, length), at in zip(self.stream.plates, cursor)
        ]
        return tuple(np.array(divmod(place, size), np.int32) for place, (_, size, _) in zip(places, self.stream.plates))


@functools.partial(jax.jit, static_argnames="steps")
def _indices(stream: Minibatches, raw_key: Array, cursor: Any, steps: int) -> dict[str, Array]:
    return stream.ahead(named(wrap(raw_key), "rows"), cursor, steps)
