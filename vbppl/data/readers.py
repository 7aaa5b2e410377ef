"""How the host reads data in parts: arrays, random-access data sets, iterables of batches; and one step ahead.

A reader knows the user's object (`data`), what a row looks like (`row`, a pytree of arrays without the rows' axis), and
how many there are (`size`; None where only the plate knows). `read(indices)` gives rows, `(n, ...)`, in the order of
`indices`; a reader of batches has its own order, and `following` instead. What they give lies in memory of its own,
which the user's object cannot write over while the device computes with it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np

from vbppl.core.errors import ModelError, VbpplWarning, of_kind
from vbppl.core.types import PyTree

Item = TypeVar("Item")
Made = TypeVar("Made")
SKIP = 2**14  # rows that are passed over at once
SIDE_BY_SIDE = 2  # threads that gather rows of an array
ALONE = 2**18  # bytes that one of them gathers no slower
ALIGNED = 64  # bytes: what begins at a multiple of it JAX uses where it lies, on a CPU, and copies otherwise


def reader_of(data: Any) -> Any:
    """The reader for what a user gave."""
    in_parts = hasattr(data, "__iter__") or hasattr(data, "__getitem__")
    has_rows = in_parts and tuple(getattr(data, "shape", (1,)))[:1] not in ((), (0,))
    is_some = has_rows and not isinstance(data, (str, bytes, Mapping))
    of_kind("data", data, is_some, "an array with rows, a data set with a length, or batches of arrays")
    if isinstance(data, np.ndarray):
        return Taking(data)
    if hasattr(data, "__array__") and hasattr(data, "shape") and hasattr(data, "dtype"):
        return Sorting(data)
    if isinstance(data, (list, tuple)) or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        return Batches(data)
    return Indexing(data)


def prefetched(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """`make(item)` for each item, in order; while one is used a thread makes the next."""
    with ThreadPoolExecutor(1, thread_name_prefix="vbppl-reader") as pool:
        tasks = (pool.submit(make, item) for item in items)
        task = next(tasks, None)
        while task is not None:
            made, task = task.result(), next(tasks, None)
            yield made


class Taking:
    """An array of NumPy, mapped into memory or not."""

    def __init__(self, data: np.ndarray):
        self.data, self.size, self.row = data, len(data), data[0]
        self.pool = ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="vbppl-taker")  # no thread before a task

    def read(self, indices: np.ndarray) -> PyTree:
        if np.min(indices, initial=0) < 0 or np.max(indices, initial=0) >= self.size:
            raise IndexError(f"rows {np.min(indices)} to {np.max(indices)} are asked for, of {self.size}.")
        rows = empty((len(indices), *self.data.shape[1:]), self.data.dtype)
        # Rows that lie far apart keep memory and disk waiting, so several are waited for at a time.
        ends = np.linspace(0, len(indices), SIDE_BY_SIDE + 1 if rows.nbytes > ALONE else 2).astype(int)
        stretches = list(map(slice, ends, ends[1:]))

        def take(stretch: slice) -> None:
            # In "raise" mode it would all be copied once more.
            np.take(self.data, indices[stretch], axis=0, out=rows[stretch], mode="clip")

        tasks = [self.pool.submit(take, stretch) for stretch in stretches[1:]]
        take(stretches[0])
        for task in tasks:
            task.result()
        return rows


class Sorting:
    """What has NumPy's shape and dtype, but wants its indices in increasing order: an HDF5 data set."""

    def __init__(self, data: Any):
        self.data, self.size, self.row = data, len(data), np.asarray(data[0])

    def read(self, indices: np.ndarray) -> PyTree:
        unique, places = np.unique(indices, return_inverse=True)
        rows = np.asarray(self.data[unique])
        return np.take(rows, places, axis=0, out=empty((len(places), *rows.shape[1:]), rows.dtype), mode="clip")


class Indexing:
    """A random-access data set: asked for an array of indices if it understands that, else row by row."""

    def __init__(self, data: Any):
        self.data, self.size = data, len(data)
        if not self.size:
            raise ModelError(f"a source has no rows: {type(data).__name__} of length 0.")
        self.row = jax.tree.map(np.asarray, data[0])
        self.by_array = self._understands_arrays()

    def read(self, indices: np.ndarray) -> PyTree:
        if self.by_array:
            return jax.tree.map(lambda leaf: _own(np.asarray(leaf)), self.data[indices])
        # Copied before the next is asked for, which may be written into the same memory.
        rows = [jax.tree.map(lambda leaf: np.array(leaf)[None], self.data[int(i)]) for i in indices]
        return jax.tree.map(_own, *rows)

    def _understands_arrays(self) -> bool:
        """Do two rows come back as two, each like the first?"""
        try:
            rows = jax.tree.map(np.asarray, self.data[np.array([0, self.size - 1])])
        except Exception:  # whatever a foreign class raises: then it is asked row by row
            return False
        wanted = jax.tree.map(lambda leaf: ((2, *leaf.shape), leaf.dtype), self.row)
        return wanted == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), rows)


class Batches:
    """An iterable of batches, read in its own order and cut anew, epoch after epoch."""

    def __init__(self, data: Any):
        self.data, self.size, self.is_repeatable = data, None, iter(data) is not data
        self.batches, self.taken, self.in_epoch, self.longest = iter(data), 0, 0, 0
        self.left = self._next_batch()
        if self.left is None:
            raise ModelError(f"a source yields no batch: {type(data).__name__} is exhausted.")
        self.row = jax.tree.map(lambda leaf: leaf[0], self.left)

    def again(self) -> None:
        """Begin anew, if that can be done."""
        if self.is_repeatable and self.taken:
            self.batches, self.taken, self.in_epoch, self.left = iter(self.data), 0, 0, None

    def following(self, name: str, begin: int | None, count: int, size: int) -> PyTree:
        """The next `count` rows, after the first `begin` if it can be repeated, where an epoch has `size` rows."""
        if self.is_repeatable and begin not in (None, self.taken):
            self._seek(name, begin, size)
        parts, wanted = [], count
        while wanted:
            rows = self._next_rows(name, size)
            used = min(wanted, _length(rows))
            parts.append(_cut(rows, 0, used))
            self.left = _cut(rows, used, None) if used < _length(rows) else None
            wanted -= used
            if wanted:  # the next batch may be written into the memory of this one
                parts[-1] = jax.tree.map(np.array, parts[-1])
        self.taken += count
        return jax.tree.map(_own, *parts)

    def _seek(self, name: str, begin: int, size: int) -> None:
        """Go to the rows after the first `begin`: a new epoch, and some of its rows passed over."""
        self.again()
        self.taken = begin // size * size
        while self.taken < begin:
            self.following(name, self.taken, min(begin - self.taken, SKIP), size)

    def _next_rows(self, name: str, size: int) -> PyTree:
        """The rows left of the last batch, or the next batch; at the end of an epoch the next begins."""
        rows = self._next_batch() if self.left is None else self.left
        if rows is not None:
            return rows
        if not self.is_repeatable:
            raise ModelError(
                f"source '{name}' ended after {self.in_epoch:,} rows of a plate of {size:,}, before the fit did.",
                mend="Pass something that can be iterated again (a loader, not a generator), or that never ends.",
            )
        self._check_total(name, size)
        self.batches, self.in_epoch = iter(self.data), 0
        return self._next_batch()

    def _next_batch(self) -> PyTree:
        batch = next(self.batches, None)
        if batch is None:
            return None
        batch = jax.tree.map(np.asarray, batch)
        shapes = [leaf.shape for leaf in jax.tree.leaves(batch)]
        if len({shape[:1] for shape in shapes}) != 1 or shapes[0] in ((), (0,)):
            raise ModelError(
                "the arrays of a batch must have the same number of rows, one at least, along axis 0.",
                details=", ".join(map(str, shapes)),
            )
        self.in_epoch, self.longest = self.in_epoch + shapes[0][0], max(self.longest, shapes[0][0])
        return batch

    def _check_total(self, name: str, size: int) -> None:
        if self.in_epoch == size:
            return
        said = f"an epoch of source '{name}' has {self.in_epoch:,} rows, but its plate says {size:,}"
        if not 0 <= size - self.in_epoch < self.longest:
            raise ModelError(
                f"{said}: every batch would be weighed wrongly.",
                mend="Give the plate the number of rows, not of batches, that the source yields in one epoch.",
            )
        # A loader that drops a ragged last batch shows other rows in each epoch, and N is still right.
        warnings.warn(
            VbpplWarning(f"{said}; the last {size - self.in_epoch:,} seem to be dropped by it."), stacklevel=2
        )


def _own(*parts: np.ndarray) -> np.ndarray:
    """Arrays one after the other, in memory of their own."""
    shape = (sum(map(len, parts)), *parts[0].shape[1:])
    return np.concatenate(parts, out=empty(shape, np.result_type(*parts)))


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory that JAX uses where it lies, on a CPU."""
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + ALIGNED, np.uint8)
    start = -room.ctypes.data % ALIGNED
    return room[start : start + size].view(dtype).reshape(shape)


def _length(rows: PyTree) -> int:
    return len(jax.tree.leaves(rows)[0])


def _cut(rows: PyTree, start: int, stop: int | None) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[start:stop], rows)
