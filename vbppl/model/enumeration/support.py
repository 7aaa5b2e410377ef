"""The values that a discrete site can take, where there are finitely many."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.core
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.types import Array, Shape
from vbppl.distributions.constraints import base, integer
from vbppl.model.primitives import Site

MAX_VALUES = 2**20  # joint values of one row of a site: its own dimensions together

BOUND_IT = "Cut it off, dist.Categorical(logits=dist.Poisson(3.0).log_prob(jnp.arange(50))); or pass obs=."


@dataclasses.dataclass(frozen=True)
class Support:
    """The values of one row of a site: of one number all whole numbers from `low` on, of several each combination.

    Attributes:
      low: the least value.
      each: how many values each number has.
      shape: the site's.
      plates: the plates around it, each with the axis of `shape` that it owns.
      bounds: arrays of the least and largest value of each number, where they differ between numbers; else None.
    """

    low: int
    each: int
    shape: Shape
    plates: tuple[tuple[str, int], ...]
    bounds: tuple[Any, Any] | None = None

    @classmethod
    def of(cls, site: Site) -> Support:
        """That of a latent discrete site.

        Raises:
          ModelError: there are infinitely many values, or nobody knows how many before the run.
        """
        support = site.dist.support
        while isinstance(support, base.Independent):
            support = support.base
        batch = len(site.dist.batch_shape)
        place = site.shape, tuple((frame.name, batch + frame.dim) for frame in site.frames)
        if isinstance(support, integer.Boolean):
            return cls(0, 2, *place)._checked(site)
        if not isinstance(support, integer.IntegerInterval):
            kind = "infinitely many values" if isinstance(support, integer.IntegerAtLeast) else f"support {support}"
            raise ModelError(
                f"a discrete latent site is summed over its values, but {_family(site)} has {kind}.",
                site=site.name,
                mend=BOUND_IT,
            )
        if isinstance(support.low, jax.core.Tracer) or isinstance(support.high, jax.core.Tracer):
            raise ModelError(
                f"how many values {_family(site)} has is computed from data or other sites, so that nobody can count "
                "them before the run.",
                site=site.name,
                mend="Pass it as an int (total_count=10), not as an array: ints are a part of the program.",
            )
        low, high = np.asarray(support.low), np.asarray(support.high)
        least, most = int(low.min()), int(high.max())
        bounds = None if (low == least).all() and (high == most).all() else (low, high)
        return cls(least, most - least + 1, *place, bounds)._checked(site)

    def _checked(self, site: Site) -> Support:
        if self.count > MAX_VALUES:
            numbers = math.prod(self.own)
            raise ModelError(
                f"{numbers:,} numbers of {self.each} values each have {self.each}^{numbers} values together, more than "
                f"the {MAX_VALUES:,} that can be summed.",
                site=site.name,
                mend="Put them into a plate if they are independent: with vb.plate(...), where each is summed alone.",
            )
        return self

    @property
    def own(self) -> Shape:
        """The site's shape with 1 along plates: that of what stands in one row."""
        along = [axis for _, axis in self.plates]
        return tuple(1 if axis in along else size for axis, size in enumerate(self.shape))

    @property
    def count(self) -> int:
        """How many values a row has."""
        numbers = math.prod(self.own)
        return self.each**numbers if numbers <= 64 or self.each == 1 else MAX_VALUES + 1

    def digits(self) -> np.ndarray:
        """Each value of a row as the numbers in it, counted from 0: `(count, *own)`."""
        numbers = math.prod(self.own)
        return np.indices((self.each,) * numbers).reshape(numbers, self.count).T.reshape(self.count, *self.own)

    def value(self, index: Array) -> Array:
        """The value `index`, in all rows."""
        return self._inside(self._counted(index))

    def is_inside(self, index: Array) -> Array | bool:
        """Where the value `index` is one that the number can have."""
        if self.bounds is None:
            return True
        found, (low, high) = self._counted(index), self.bounds
        return (found >= low) & (found <= high)

    def values(self, indices: Array, plates: Sequence[str]) -> Array:
        """The value of each row, whose `indices` have an axis for each of the plates in this order."""
        if math.prod(self.own) == 1:
            return self._inside(jnp.broadcast_to(self._in_place(indices, plates) + self.low, self.shape))
        flat = jnp.asarray(self.digits().reshape(self.count, -1))[indices]
        return self._inside(self._unfolded(flat, plates) + self.low)

    def by_number(self, table: Array, plates: Sequence[str]) -> Array:
        """A probability for each value of a row, `(count, *plates)`, as one for each value of each number in it.

        Returns: `(*shape, each)`.
        """
        if math.prod(self.own) == 1:
            rows = self._in_place(jnp.moveaxis(table, 0, -1), plates, 1)
            return jnp.broadcast_to(rows, (*self.shape, self.each))
        is_value = self.digits().reshape(self.count, -1)[:, :, None] == np.arange(self.each)
        flat = jnp.tensordot(jnp.moveaxis(table, 0, -1), jnp.asarray(is_value, table.dtype), 1)
        return self._unfolded(flat, plates, 1)

    def _counted(self, index: Array) -> Array:
        found = index if math.prod(self.own) == 1 else jnp.asarray(self.digits())[index]
        return jnp.broadcast_to(found + self.low, self.shape)

    def _in_place(self, rows: Array, plates: Sequence[str], more: int = 0) -> Array:
        """An array with an axis for each plate, and `more` behind, with each where it stands in the site's shape."""
        axis = dict(self.plates)
        order = sorted(range(len(plates)), key=lambda at: axis[plates[at]])
        rest = range(len(plates), len(plates) + more)
        moved, along = jnp.transpose(rows, [*order, *rest]), set(axis.values())
        shape = (size if at in along else 1 for at, size in enumerate(self.shape))
        return moved.reshape((*shape, *moved.shape[len(plates) :]))

    def _unfolded(self, flat: Array, plates: Sequence[str], more: int = 0) -> Array:
        """An array `(*plates, numbers of a row)`, and `more` axes behind, in the site's shape."""
        axis = dict(self.plates)
        inner = [at for at in range(len(self.shape)) if at not in axis.values()]
        whole = flat.reshape(
            (*flat.shape[: len(plates)], *(self.shape[at] for at in inner), *flat.shape[len(plates) + 1 :])
        )
        places = [axis[plate] for plate in plates] + inner
        order = [places.index(at) for at in range(len(self.shape))]
        return jnp.transpose(whole, [*order, *range(len(order), len(order) + more)])

    def _inside(self, value: Array) -> Array:
        """Moved to the nearest value of its number: what is computed from one beyond need not be a number."""
        value = value.astype(jnp.result_type(int))
        return value if self.bounds is None else jnp.clip(value, *self.bounds)


def _family(site: Site) -> str:
    core = site.dist
    while hasattr(core, "base_dist"):
        core = core.base_dist
    return type(core).__name__
