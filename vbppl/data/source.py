"""Data that stay on the host and are read in parts: memory maps, random-access sources, iterators of batches.

A `Source` stands for such data in the place of an array among a model's arguments. It has a length, a
shape and a dtype, and nothing else can be done with it but `vb.subsample(source)` inside its plate.
To JAX it is a node without leaves: compiled programs belong to its outline, never to its data. The
rows themselves travel with the rows that a plate shows, in a `RowBlock`.

There are three kinds. An array that supports NumPy's `take` (`np.memmap` above all) is read by index arrays. A
random-access source (`__len__` and `__getitem__`, Grain's protocol, PyTorch's map-style data sets) is
read by an index array if it understands one, else row by row. An iterable of batches is read in its own
order and cut anew; it does not know how many rows there are, so the plate must: `len` of a loader is a
number of batches, or of nothing at all.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core import devices
from vbppl.core.errors import ModelError
from vbppl.core.pytree import pytree, static
from vbppl.core.types import AnyArray, Array, PyTree, Shape
from vbppl.data.padded import PaddedRows, is_padded, without_padding
from vbppl.data.readers import Batches, reader_of

UNNAMED = "source"


class Outline(NamedTuple):
    """What is known of a source without its numbers; `size` is None where only the plate knows it."""

    name: str
    size: int | None
    structure: Any
    shapes: tuple[Shape, ...]
    dtypes: tuple[np.dtype, ...]
    mesh: Any = None  # of the devices over which rows are split as they are read; None for one


class Source:
    """Data that stay on the host, one row or batch of rows at a time; see the head of this file.

    Memory maps, random-access sources and iterables of batches among a model's arguments are taken for
    sources by themselves; others (an array too large for the device, an HDF5 data set) are wrapped by hand.

    >>> import vbppl as vb
    >>> source = vb.Source(np.zeros((1000, 3)))
    >>> len(source), source.shape
    (1000, (1000, 3))

    Args:
      data: has `take`-able rows, or `__len__` and `__getitem__`, or yields batches: arrays, or pytrees of arrays, with
        the rows along axis 0.
    """

    def __init__(self, data: Any):
        self._reader = data._attached() if isinstance(data, Source) else reader_of(data)
        leaves, structure = jax.tree.flatten(self._reader.row)
        shapes, dtypes = tuple(leaf.shape for leaf in leaves), tuple(leaf.dtype for leaf in leaves)
        self.outline = Outline(UNNAMED, self._reader.size, structure, shapes, dtypes)

    @property
    def name(self) -> str:
        """The model's argument that it is."""
        return self.outline.name

    @property
    def is_iterator(self) -> bool:
        """Are its rows given in an order of its own?"""
        return self.outline.size is None

    @property
    def shape(self) -> Shape:
        """`(rows, ...)`."""
        return (len(self), *self._only(self.outline.shapes))

    @property
    def dtype(self) -> np.dtype:
        """Of its numbers on the device."""
        return jax.dtypes.canonicalize_dtype(self._only(self.outline.dtypes))

    @property
    def ndim(self) -> int:
        """The number of axes, the rows' included."""
        return 1 + len(self._only(self.outline.shapes))

    def __len__(self) -> int:
        if self.outline.size is None:
            raise ModelError(
                f"'{self.name}' yields batches, so it has no number of rows (its own length counts batches, if any).",
                mend='Pass the number of rows to the model as an int, and to the plate: vb.plate("rows", n).',
            )
        return self.outline.size

    def named(self, name: str) -> Source:
        """The same data as the argument `name` of a model."""
        return _rebuilt(self.outline._replace(name=name), self._reader)

    def over(self, mesh: Any) -> Source:
        """The same data, whose rows are split over the devices of `mesh` as they are read; each process reads its own.

        Raises:
          ModelError: they come in an order of their own.
        """
        if self.is_iterator:
            mend = "Give something with a length and rows by index, such as a memory map."
            raise ModelError("the batches of an iterator cannot be split over devices.", mend=mend)
        return _rebuilt(self.outline._replace(mesh=mesh), self._reader)

    def same_data(self, other: Source) -> bool:
        """Is the `other` of the same object of the user's?"""
        return self._reader is not None and other._reader is not None and self._reader.data is other._reader.data

    def load(self) -> PyTree:
        """All rows, on the host."""
        return self.read(np.arange(len(self)))

    def read(self, indices: np.ndarray) -> PyTree:
        """The rows `indices`, `(n,)`, on the host: arrays `(n, ...)`."""
        return self._checked(
            lambda: self._attached().read(indices), len(indices), f"rows {np.array2string(indices, threshold=6)}"
        )

    def share(self, indices: np.ndarray) -> PyTree:
        """The rows `indices`, `(..., n)`, as arrays `(..., n, ...)` over all devices; each process reads its own.

        Where devices do not divide `n`, as `PaddedRows`.
        """
        mesh, n = self.outline.mesh, indices.shape[-1]
        whole = -(-n // mesh.size) * mesh.size
        indices = indices[..., np.minimum(np.arange(whole), n - 1)]
        mine = np.array([device.process_index == jax.process_index() for device in mesh.devices.flat])
        mine = indices[..., np.repeat(mine, whole // mesh.size)]
        sharding = devices.along(mesh, indices.ndim - 1)

        def spread(leaf: np.ndarray) -> Any:
            own = leaf.reshape(*mine.shape, *leaf.shape[1:])
            made = jax.make_array_from_process_local_data(sharding, own, (*indices.shape, *leaf.shape[1:]))
            return made if whole == n else PaddedRows(made, n)

        return jax.tree.map(spread, self.read(mine.reshape(-1)))

    def following(self, begin: int | None, count: int, size: int) -> PyTree:
        """Of an iterator the next `count` rows, `(count, ...)`, where an epoch has `size` rows.

        They are those after the first `begin`, if the iterator can be repeated; else those after the last given.
        """
        reader = self._attached()
        what = f"{count} rows after the first {reader.taken if begin is None else begin:,}"
        return self._checked(lambda: reader.following(self.name, begin, count, size), count, what)

    def again(self) -> None:
        """Let an iterator begin anew, if it can."""
        if isinstance(self._reader, Batches):
            self._reader.again()

    @property
    def is_repeatable(self) -> bool:
        """Whether its rows can be read again; those of a generator cannot."""
        return not self.is_iterator or self._attached().is_repeatable

    @property
    def numbers(self) -> int:
        """How many numbers a row holds."""
        return sum(math.prod(shape) for shape in self.outline.shapes)

    @property
    def row_bytes(self) -> int:
        """The bytes of a row."""
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in zip(self.outline.shapes, self.outline.dtypes))

    def unread(self, shape: Shape) -> PyTree:
        """Arrays in the place of rows that no one may look at: NaN, or the smallest integer. `shape` is the batch."""
        filled = [_unread((*shape, *own), dtype) for own, dtype in zip(self.outline.shapes, self.outline.dtypes)]
        return jax.tree.unflatten(self.outline.structure, filled)

    def _attached(self) -> Any:
        if self._reader is None:
            raise ModelError(
                f"the data of source '{self.name}' are not here: a saved or copied model keeps only their shapes.",
                mend="Apply the model to its data again.",
            )
        return self._reader

    def _checked(self, read: Callable[[], PyTree], count: int, what: str) -> PyTree:
        try:
            rows = read()
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"source '{self.name}' failed: {type(error).__name__}: {error}",
                details=what,
                mend="Try to read these rows outside the fit.",
            ) from error
        found = [leaf.shape for leaf in jax.tree.leaves(rows)]
        wanted = [(count, *shape) for shape in self.outline.shapes]
        if jax.tree.structure(rows) != self.outline.structure or found != wanted:
            raise ModelError(
                f"source '{self.name}' gave rows of other shapes than before.",
                details=f"{what}\nexpected: {wanted}\ngot:      {found}",
                mend="Every row must have the same structure and shapes.",
            )
        return rows

    def _only(self, parts: tuple) -> Any:
        if len(parts) != 1 or self.outline.structure != jax.tree.structure(0):
            raise ModelError(
                f"the rows of '{self.name}' are not one array but {self.outline.structure}.",
                mend="Take the parts after subsampling: x, y = vb.subsample(rows, event_dim=(1, 0)).",
            )
        return parts[0]

    def __repr__(self) -> str:
        rows = "rows" if self.is_iterator else self.outline.size
        arrays = ", ".join(f"{d}{[rows, *s]}" for s, d in zip(self.outline.shapes, self.outline.dtypes))
        return f"<source of {arrays}>".replace("'", "")

    def __reduce__(self) -> Any:
        # The user's object may be a file, or a loader with threads.
        return _rebuilt, (self.outline._replace(mesh=None), None)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise ModelError(
            f"'{self.name}' stays on the host and is read in parts, so the model cannot compute with it as a whole.",
            mend=f"Write vb.subsample({self.name}) inside its plate; or pass np.asarray(...) to load it all.",
        )

    __array__ = __jax_array__ = __getitem__ = __iter__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __matmul__ = __rmatmul__ = __pow__ = __neg__ = __lt__ = __gt__ = __le__ = __ge__ = _refuse


def _rebuilt(outline: Outline, reader: Any) -> Source:
    source = object.__new__(Source)
    source.outline, source._reader = outline, reader
    return source


jax.tree_util.register_pytree_node(
    Source, lambda source: ((), source.outline), lambda outline, _: _rebuilt(outline, None)
)


@pytree
class RowBlock:
    """The rows of a plate that are shown, with what its sources hold there.

    Attributes:
      indices: which, `(rows,)`.
      blocks: by a source's name its rows, arrays `(rows, ...)`.
      known: whether `indices` name rows of the plate; an iterator does not say which rows it gives.
      number: where all rows are gone through in parts, which of them it is; None for a batch.
      mesh: of the devices over which the rows taken of an array are split; None for one.
    """

    indices: AnyArray
    blocks: dict[str, PyTree]
    known: bool = static(default=True)
    number: AnyArray | None = None
    mesh: Any = static(default=None)


def spread(rows: Mapping[str, Any], mesh: Any) -> Mapping[str, Any]:
    """In a program: the rows of a batch, such that each device of `mesh` computes with its share of them."""
    if mesh is None:
        return rows
    blocks = {name: found if isinstance(found, RowBlock) else RowBlock(found, {}) for name, found in rows.items()}
    return {name: dataclasses.replace(block, mesh=mesh) for name, block in blocks.items()}


def split_rows(array: Array, shown: Any, axis: int = 0) -> Array:
    """In a program: rows shown that have been taken along `axis` of an array, each on the device that works with it."""
    mesh = shown.mesh if isinstance(shown, RowBlock) else None
    # Whole in between: otherwise the compiler splits the indices too, and gathers them again for each array.
    return devices.constrained(devices.everywhere(array, mesh), mesh and devices.along(mesh, axis % array.ndim))


def is_source(leaf: Any) -> bool:
    """Is an argument of a model to be read in parts?"""
    if isinstance(leaf, (Source, np.memmap)):
        return True
    plain = (str, bytes, bytearray, memoryview, range, type, set, frozenset, Mapping, np.ndarray, np.generic, jax.Array)
    if isinstance(leaf, plain) or hasattr(leaf, "__array__"):
        return False
    return hasattr(leaf, "__iter__") or (hasattr(leaf, "__getitem__") and hasattr(leaf, "__len__"))


def unpadded(tree: PyTree) -> PyTree:
    """Arrays and sources as a model is to see them."""

    def is_whole(leaf: Any) -> bool:
        return isinstance(leaf, (PaddedRows, Source))  # a source would lose its data, if it were taken apart

    return jax.tree.map(without_padding, tree, is_leaf=is_whole)


def mesh_of(tree: PyTree) -> Any:
    """The mesh over which arrays are spread, or sources as they are read; None where all is on one device.

    Raises:
      ModelError: an iterator, whose batches come once and whole, stands beside sources that are split.
    """
    found = jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, Source))
    sources = [leaf for leaf in found if isinstance(leaf, Source)]
    split = next((source.outline.mesh for source in sources if source.outline.mesh is not None), None)
    if split is not None and any(source.is_iterator for source in sources):
        mend = "Give both as something with a length and rows by index, or split neither."
        raise ModelError("an iterator of batches stands beside a source that is split over devices.", mend=mend)
    return devices.mesh_of([leaf for leaf in found if not isinstance(leaf, Source)]) or split


def part_of(
    sources: Iterable[Source], indices: np.ndarray, size: int, begin: int | None = None, shared: bool = True
) -> RowBlock:
    """The rows `indices` of a plate of `size` rows, `(..., n)`, with what its sources hold there.

    An iterator gives its next rows instead: those after its first `begin`, or after the last that it gave. Where not
    `shared`, every process reads all of them, whatever devices there are.
    """
    blocks = {}
    for source in sources:
        if shared and source.outline.mesh is not None:
            blocks[source.name] = source.share(indices)
            continue
        flat = indices.reshape(-1)
        rows = source.following(begin, len(flat), size) if source.is_iterator else source.read(flat)
        blocks[source.name] = jax.tree.map(lambda leaf: leaf.reshape(*indices.shape, *leaf.shape[1:]), rows)
    return RowBlock(indices, blocks, not any(source.is_iterator for source in sources))


def places_of(plate: str, shown: Any) -> AnyArray:
    """Which rows of `plate` are shown, where they come as indices or as a part.

    Raises:
      ModelError: they come from an iterator.
    """
    if not isinstance(shown, RowBlock):
        return shown
    if not shown.known:
        raise ModelError(
            f"plate '{plate}' shows the batches of an iterator ({', '.join(shown.blocks)}), which does not say "
            "which rows they are; so the same rows of another array, or of a latent site, cannot be found.",
            mend="Let the iterator yield all that belongs to a row, or use a random-access source.",
        )
    return shown.indices


def shown_of(data: PyTree, plate: str, shown: Any) -> PyTree:
    """The rows shown of arrays and sources, all of which have the rows of `plate` along their first axis.

    Raises:
      ModelError: the rows of a source have not been read.
    """

    def taken(leaf: Any) -> Any:
        if not isinstance(leaf, Source):
            return leaf if shown is None else split_rows(leaf[places_of(plate, shown)], shown)
        if not isinstance(shown, RowBlock) or leaf.name not in shown.blocks:
            raise ModelError(
                f"all rows of '{leaf.name}' are wanted at once, or others than those of plate '{plate}'; it is read "
                "in parts.",
                mend="Load it: np.asarray(...).",
            )
        return jax.tree.map(without_padding, shown.blocks[leaf.name], is_leaf=is_padded)

    return jax.tree.map(taken, data, is_leaf=lambda leaf: isinstance(leaf, Source))


def _unread(shape: Shape, dtype: np.dtype) -> Array:
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    least = jnp.nan if jnp.issubdtype(dtype, jnp.inexact) else False if dtype.kind == "b" else jnp.iinfo(dtype).min
    # Behind a barrier nobody takes them for numbers that are known: see `core/programs/known.py`.
    return jax.lax.optimization_barrier(jnp.full(shape, least, dtype))
