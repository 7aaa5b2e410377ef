"""Rows that are split over devices which do not divide their number: filled up where they lie, never seen by a model.

JAX wants equal shares of all devices. What a model is given is `array[:rows]`, taken inside the compiled program, where
the compiler knows which device holds what, masks what is beyond, and moves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from vbppl.core import devices
from vbppl.core.pytree import pytree, static
from vbppl.core.types import Array, Shape


@pytree
class PaddedRows:
    """An array of `rows` rows, split over devices: stands for `array[:rows]`.

    A model's argument: compute with it there, or with `jnp.asarray(rows)`, of which nothing is split.

    Attributes:
      array: with rows of zeros at the end, so that all devices hold equally many.
      rows: how many there are.
    """

    array: Any
    rows: int = static()

    @property
    def shape(self) -> Shape:
        """Without what was filled up."""
        return (self.rows, *self.array.shape[1:])

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.array.ndim

    @property
    def dtype(self) -> np.dtype:
        """Of its numbers."""
        return self.array.dtype

    def __repr__(self) -> str:
        return f"<{self.rows:,} rows of shape {self.shape[1:]}, {self.dtype}, split over devices>"

    def __len__(self) -> int:
        return self.rows

    def __jax_array__(self) -> Array:
        return self.array[: self.rows]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(devices.on_host(self.array)[: self.rows], dtype)

    def __iter__(self) -> Iterator[Array]:
        return iter(self.__jax_array__())

    def __getitem__(self, index: Any) -> Array:
        return self.__jax_array__()[index]


def is_padded(leaf: Any) -> bool:
    """For `is_leaf`."""
    return isinstance(leaf, PaddedRows)


def without_padding(leaf: Any) -> Any:
    """The array as a model is to see it; anything else as it is."""
    return leaf.__jax_array__() if is_padded(leaf) else leaf
