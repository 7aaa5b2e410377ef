"""`shard`: rows that are split over all devices, those of other processes too."""

from __future__ import annotations

import zlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh

from vbppl.core import archive, devices
from vbppl.core.errors import ModelError
from vbppl.core.types import PyTree
from vbppl.data.padded import PaddedRows
from vbppl.data.readers import empty
from vbppl.data.source import Source

MEND = "Give arrays with rows: x, y = vb.shard(x, y)."


def shard(*data: PyTree) -> Any:
    """Split rows over all devices: `x, y = vb.shard(x, y)`, then everything as on one.

    >>> import numpy as np, vbppl as vb
    >>> x, y = vb.shard(np.zeros((12, 3)), np.zeros(12))
    >>> x.shape
    (12, 3)

    Under `jax.distributed` each process gives rows of its own, as many as it has; the model sees those of all, in the
    order of the processes.

    Args:
      data: arrays, or pytrees of arrays. Those with as many rows (along axis 0) as the first are split over the
        devices, in order; the others are on each of them, as everything is that is not passed through here. Of a
        `vb.Source` the rows are split as they are read: every process opens all of it, and reads its own.

    Returns:
      the arrays on the devices: one alone where one was given, else a tuple.

    Raises:
      ModelError: there is no array with rows, or processes disagree on more than rows.
    """
    everything = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    mesh = Mesh(np.array(everything), ("rows",), axis_types=(AxisType.Auto,))
    leaves, structure = jax.tree.flatten(data, is_leaf=lambda leaf: isinstance(leaf, (Source, PaddedRows)))
    if not leaves:
        raise ModelError("there is nothing to split over the devices.", mend=MEND)
    at = [number for number, leaf in enumerate(leaves) if not isinstance(leaf, Source)]
    leaves = [leaf.over(mesh) if isinstance(leaf, Source) else leaf for leaf in leaves]
    for number, leaf in zip(at, _placed([leaves[number] for number in at], mesh)):
        leaves[number] = leaf
    found = jax.tree.unflatten(structure, leaves)
    return found if len(found) != 1 else found[0]


def _placed(leaves: list[Any], mesh: Mesh) -> list[Any]:
    """The arrays on the devices of `mesh`, split where they have rows."""
    leaves = [leaf if isinstance(leaf, jax.Array) else np.asarray(leaf) for leaf in leaves]
    count = len(leaves[0]) if leaves and np.ndim(leaves[0]) else 0
    is_split = [np.shape(leaf)[:1] == (count,) and count > 0 for leaf in leaves]
    counts = _counts(leaves, is_split, count)
    if leaves and not counts.sum():
        raise ModelError("there are no rows to split over the devices.", mend=MEND)
    return [_split(leaf, counts, mesh) if rows else devices.put(leaf, mesh) for leaf, rows in zip(leaves, is_split)]


def _counts(leaves: list[Any], is_split: list[bool], count: int) -> np.ndarray:
    """The rows of each process, which must agree on all else."""
    for leaf in leaves:
        held = jax.dtypes.canonicalize_dtype(leaf.dtype)
        if leaf.dtype.kind not in "biufc" or (leaf.dtype.kind in "iu" and not np.array_equal(leaf, leaf.astype(held))):
            what = f"numbers that {held} holds" if leaf.dtype.kind in "iu" else "numbers"
            raise ModelError(f"an array of {leaf.dtype} cannot be put on a device: its values are no {what}.")
    if jax.process_count() == 1:
        return np.array([count])
    outlines = [(str(leaf.dtype), leaf.shape[rows:]) for leaf, rows in zip(leaves, is_split)]
    same = [leaf for leaf, rows in zip(leaves, is_split) if not rows]
    said = [count, *(zlib.crc32(text.encode()) % 2**31 for text in (repr(outlines), archive.digest(*same)))]
    found = np.asarray(multihost_utils.process_allgather(np.array(said, np.int32)))
    for column, what in ((1, "dtypes or shapes"), (2, "numbers of what has no rows")):
        if len(set(found[:, column])) > 1:
            raise ModelError(
                f"the processes gave vb.shard different {what}.",
                details=f"process {jax.process_index()}: {outlines}",
                mend="Each gives its own rows of the same arrays, and the same of all else.",
            )
    return found[:, 0].astype(int)


def _split(leaf: Any, counts: np.ndarray, mesh: Mesh) -> Any:
    """The rows of all processes, in order, split evenly over the devices."""
    rows, each, leaf = int(counts.sum()), -(-int(counts.sum()) // mesh.size), np.asarray(leaf)
    owners = np.array([device.process_index for device in mesh.devices.flat])
    ends = each * np.searchsorted(owners, np.arange(len(counts) + 1))
    given = [range(stop - count, stop) for count, stop in zip(counts.tolist(), np.cumsum(counts).tolist())]
    room = [range(*pair) for pair in zip(ends.tolist(), ends[1:].tolist())]
    kept = [range(*np.clip([to.start, to.stop], own.start, own.stop).tolist()) for own, to in zip(given, room)]
    # Where processes have about as many rows, few belong to another's devices.
    away = [np.r_[own.start : stay.start, stay.stop : own.stop] for own, stay in zip(given, kept)]
    me = jax.process_index() if len(counts) > 1 else 0
    own, stay, to, most = given[me], kept[me], room[me], max(map(len, away))
    mine = empty((len(to), *leaf.shape[1:]), leaf.dtype)
    mine[max(rows - to.start, 0) :] = 0
    if stay:
        mine[stay.start - to.start : stay.stop - to.start] = leaf[stay.start - own.start : stay.stop - own.start]
    if most:
        sent = np.zeros((most, *leaf.shape[1:]), leaf.dtype)
        sent[: len(away[me])] = leaf[away[me] - own.start]
        for at, part in zip(away, np.asarray(multihost_utils.process_allgather(sent))):
            here = np.flatnonzero((at >= to.start) & (at < to.stop))
            mine[at[here] - to.start] = part[here]
    array = jax.make_array_from_process_local_data(devices.along(mesh), mine, (each * mesh.size, *leaf.shape[1:]))
    return array if each * mesh.size == rows else PaddedRows(array, rows)
