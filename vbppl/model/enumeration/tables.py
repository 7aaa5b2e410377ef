"""A function run once, at all values of each of its arguments that an output depends on, and of no others."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vbppl.core.programs.dependence import dependence
from vbppl.core.programs.uniform import evaluated


class Tabulated(NamedTuple):
    """A function of whole numbers, run once without them.

    Attributes:
      names: of its arguments.
      shapes: of its results, a pytree.
      depends: for each result the set of arguments that it depends on, as the bits of an integer.
      program: from the arguments, in the order of their names sorted, to the leaves of the results.
    """

    names: tuple[str, ...]
    shapes: Any
    depends: Any
    program: Callable[..., Sequence[Any]]

    @classmethod
    def of(cls, function: Callable[[dict[str, Any]], Any], names: Sequence[str]) -> Tabulated:
        """Run `function`, from `{name: index}` to a pytree of arrays.

        >>> table = Tabulated.of(lambda i: (i["a"] + 10 * i["b"], i["b"], 7), ["a", "b"])
        >>> table.depends, [jnp.shape(each) for each in table.at({"a": 2, "b": 3})]
        ((3, 2, 0), [(2, 3), (3,), ()])
        """
        index = jax.ShapeDtypeStruct((), jnp.int32)
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(dict.fromkeys(names, index))
        # A dictionary's values go in by their sorted keys.
        origins = {var: 1 << list(names).index(name) for var, name in zip(closed.jaxpr.invars, sorted(names))}
        found = dependence(closed.jaxpr, origins=origins)
        depends = jax.tree.unflatten(jax.tree.structure(shapes), found)
        return cls(tuple(names), shapes, depends, functools.partial(evaluated, closed))

    def at(self, sizes: Mapping[str, int]) -> Any:
        """The results at all indices below `sizes`, with a leading axis for each that they depend on, in order."""
        ordered, bits, found = sorted(self.names), jax.tree.leaves(self.depends), self.program
        # What does not depend on an index is not batched by JAX either: each table is as large as it must be.
        for place, name in reversed(list(enumerate(self.names))):
            inside = [0 if other == name else None for other in ordered]
            found = jax.vmap(found, in_axes=inside, out_axes=[0 if each >> place & 1 else None for each in bits])
        leaves = found(*(jnp.arange(sizes[name], dtype=jnp.int32) for name in ordered))
        return jax.tree.unflatten(jax.tree.structure(self.shapes), leaves)
