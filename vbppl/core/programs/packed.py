"""A tree of many small arrays as few, to cross the border of a program: XLA takes its time over each result."""

from __future__ import annotations

import collections
from typing import Any

import jax
import jax.numpy as jnp

from vbppl.core.pytree import pytree, static

FEW = 4  # of one shape, below which they stay apart


@pytree
class Packed:
    """A tree whose leaves of one shape and dtype are one array.

    >>> packed = Packed.of({name: jnp.ones(()) for name in "abcdef"} | {"g": jnp.zeros(3)})
    >>> [array.shape for array in packed.arrays]
    [(6,), (3,)]
    >>> packed.tree()["g"]
    Array([0., 0., 0.], dtype=float32)

    Attributes:
      arrays: of several leaves along a first axis, or one leaf.
      places: for each leaf its array, and where it is in it, None of one by itself.
      structure: of the tree.
    """

    arrays: tuple[Any, ...]
    places: tuple[tuple[int, int | None], ...] = static()
    structure: Any = static()

    @classmethod
    def of(cls, tree: Any) -> Packed:
        """The tree, in a program that is being traced."""
        leaves, structure = jax.tree.flatten(tree)
        alike: dict[Any, list[int]] = collections.defaultdict(list)
        for number, leaf in enumerate(leaves):
            alike[jnp.shape(leaf), str(jnp.result_type(leaf))].append(number)
        arrays, places = [], {}
        for numbers in alike.values():
            if len(numbers) < FEW:
                places.update((number, (len(arrays) + index, None)) for index, number in enumerate(numbers))
                arrays += [leaves[number] for number in numbers]
            else:
                places.update((number, (len(arrays), index)) for index, number in enumerate(numbers))
                arrays.append(jnp.stack([leaves[number] for number in numbers]))
        return cls(tuple(arrays), tuple(places[number] for number in range(len(leaves))), structure)

    def tree(self, draws: bool = False) -> Any:
        """The tree again; its leaves have an axis of draws in front where the arrays have."""
        before = (slice(None),) * draws
        leaves = [self.arrays[at] if i is None else self.arrays[at][*before, i] for at, i in self.places]
        return self.structure.unflatten(leaves)
