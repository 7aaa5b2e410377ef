"""Arrays that lie on several devices, maybe of several processes: where they are put, fetched and agreed on.

JAX does the rest: a program whose arguments are spread over a mesh is partitioned by its compiler. Four things are
ours. Numbers that come from the host are put beside those that are spread; what a program gives back to the host is
whole on every device; where processes work together they follow the numbers of the first; and one whose partner has
died says so.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.core
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vbppl.core import archive
from vbppl.core.errors import ModelError
from vbppl.core.types import PathLike, PyTree


def mesh_of(tree: PyTree) -> Any:
    """The mesh over which arrays of `tree` are spread; None where all lie on one device."""
    shardings = (leaf.sharding for leaf in jax.tree.leaves(tree) if _is_placed(leaf))
    return next((s.mesh for s in shardings if isinstance(s, NamedSharding) and s.mesh.size > 1), None)


def _is_placed(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)


def along(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Arrays whose `axis` is split over all devices of `mesh`."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, mesh.axis_names))


def whole(mesh: Mesh) -> NamedSharding:
    """Arrays that every device of `mesh` holds."""
    return NamedSharding(mesh, PartitionSpec())


def spans_processes(mesh: Mesh | None) -> bool:
    """Do devices of `mesh` belong to several processes?"""
    return mesh is not None and mesh.is_multi_process


def put(tree: PyTree, mesh: Mesh | None = None) -> PyTree:
    """The arrays on the device, and on all of `mesh` if there is one; what is spread stays where it lies."""
    if mesh is None and mesh_of(tree) is None:
        return jax.device_put(tree)  # all leaves by one call

    def placed(leaf: Any) -> Any:
        if _is_placed(leaf) and isinstance(leaf.sharding, NamedSharding) and leaf.sharding.mesh.size > 1:
            return leaf
        if mesh is None:
            return jax.device_put(leaf)
        return jax.make_array_from_process_local_data(whole(mesh), np.array(leaf), np.shape(leaf))

    return jax.tree.map(placed, tree)


def transfers_are_meant() -> AbstractContextManager[Any]:
    """In this block arrays may come from the host and go back, though the session guards transfers.

    JAX's own context takes 10 microseconds, an eighth of a small call: it is entered only where there is a guard.
    """
    kinds = ("", "_host_to_device", "_device_to_device", "_device_to_host")
    is_guarded = any(getattr(jax.config, f"jax_transfer_guard{kind}") not in (None, "allow") for kind in kinds)
    return jax.transfer_guard("allow") if is_guarded else contextlib.nullcontext()


def constrained(tree: PyTree, sharding: NamedSharding | None) -> PyTree:
    """In a program: the same arrays, laid out like this; unchanged where there is no mesh."""
    return tree if sharding is None else jax.lax.with_sharding_constraint(tree, sharding)


def everywhere(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """In a program: what it gives back, whole on every device, so that each host can read it."""
    return constrained(tree, None if mesh is None else whole(mesh))


def readable(tree: PyTree) -> PyTree:
    """The arrays whole in this process, also those of which it holds a part; every process must call it."""

    def gathered(leaf: Any) -> Any:
        return leaf if is_here(leaf) else _gathering(leaf.sharding.mesh)(leaf)

    return jax.tree.map(gathered, tree)


@functools.cache
def _gathering(mesh: Mesh) -> Any:
    return jax.jit(lambda leaf: leaf, out_shardings=whole(mesh))


def on_host(tree: PyTree) -> PyTree:
    """The same as arrays of NumPy."""
    return jax.tree.map(np.asarray, readable(tree))


def agreed(tree: PyTree) -> PyTree:
    """The numbers of the first process in all of them, to the bit; each must call this with arrays of equal shapes."""
    leaves, structure = jax.tree.flatten(tree)
    if not leaves:
        return tree
    leaves = [np.asarray(leaf) for leaf in leaves]
    # As bytes: doubles would become what the session has.
    raw = np.concatenate([np.frombuffer(leaf.tobytes(), np.uint8) for leaf in leaves])
    raw, ends = np.asarray(multihost_utils.broadcast_one_to_all(raw)), np.cumsum([leaf.nbytes for leaf in leaves])
    parts = (raw[end - leaf.nbytes : end] for end, leaf in zip(ends, leaves))
    found = [np.frombuffer(part.tobytes(), leaf.dtype).reshape(leaf.shape) for part, leaf in zip(parts, leaves)]
    return jax.tree.unflatten(structure, [part.copy() for part in found])


def first_reads(path: PathLike) -> bytes:
    """In all processes what the first one finds in a file; nothing where it finds none."""
    content = b""
    if jax.process_index() == 0 and os.path.exists(path):
        with open(path, "rb") as file:
            content = file.read()
    size = int(agreed(np.int64(len(content))))
    found = np.frombuffer(content, np.uint8) if len(content) == size else np.zeros(size, np.uint8)
    return agreed(found).tobytes() if size else b""


def digest(tree: PyTree, mesh: Mesh | None) -> str:
    """A short hash of arrays; those of which each process holds a part are hashed part by part."""
    parts = [
        part
        for leaf in jax.tree.leaves(tree)
        for part in ([leaf] if is_here(leaf) else [shard.data for shard in leaf.addressable_shards])
    ]
    mine = archive.digest(*parts)
    if not spans_processes(mesh):
        return mine
    return archive.digest(multihost_utils.process_allgather(np.frombuffer(mine.encode(), np.uint8)))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Say so, and what to do, where another process of the same work has ended.

    Raises:
      ModelError: it has.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or not re.search(LOST, str(error)):
            raise
        raise ModelError(
            f"process {jax.process_index()} of {jax.process_count()} waits for another one in vain: it has ended.",
            details=str(error).partition("\n")[0][:200],
            mend="Look at what the others have said last, and start all of them again: with checkpoint=... a fit by "
            "stochastic steps goes on from where it was.",
        ) from error


LOST = r"(?i)gloo|connection|socket|heartbeat|UNAVAILABLE|DEADLINE_EXCEEDED|preempt|NCCL|coordination"


def is_here(leaf: Any) -> bool:
    """Can this process read all of the array by itself?"""
    return not _is_placed(leaf) or leaf.is_fully_addressable or leaf.is_fully_replicated
