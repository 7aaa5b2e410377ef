"""Frozen dataclasses that are JAX pytrees.

Every thing in vbppl is such a class: its array fields are data, so that `jit`, `vmap` and `grad`
see through it, and its `static()` fields are part of the compiled program. Two objects whose
static fields are equal and whose arrays have equal shapes share one compiled program.

JAX rebuilds pytrees with placeholders in the place of arrays, so rebuilding must not run
`__post_init__`: a check of a value there would fail on a placeholder. This is why the
registration is written here instead of `jax.tree_util.register_dataclass`.
"""

from __future__ import annotations

import dataclasses
import weakref
from types import FunctionType
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np

T = TypeVar("T")


def static(**kwargs: Any) -> Any:
    """A field that shapes the program: hashable, compared by value, never traced."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
def pytree(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass and a JAX pytree.

    >>> import jax
    >>> @pytree
    ... class Line:
    ...     slope: float
    ...     name: str = static(default="line")
    >>> jax.tree.map(lambda leaf: 2 * leaf, Line(3.0))
    Line(slope=6.0, name='line')
    """
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType] -- the line above made it a dataclass
    data = tuple(f.name for f in fields if not f.metadata.get("static"))
    meta = tuple(f.name for f in fields if f.metadata.get("static"))

    def flatten(self):
        return tuple(getattr(self, name) for name in data), tuple(_weak(getattr(self, name)) for name in meta)

    def flatten_with_keys(self):
        children, aux = flatten(self)
        return tuple((jax.tree_util.GetAttrKey(n), c) for n, c in zip(data, children)), aux

    def unflatten(aux, children):
        new = object.__new__(cls)
        for name, value in zip(data + meta, (*children, *map(_strong, aux))):
            object.__setattr__(new, name, value)
        return new

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


# JAX's caches keep what is static for ever. A function there would keep all that it closes over, so structures hold
# functions weakly, and the objects themselves keep them alive. References to one function are one object, whose hash
# and identity outlive it.


def _weak(value: Any) -> Any:
    if isinstance(value, FunctionType):
        return weakref.ref(value)
    return tuple(map(_weak, value)) if type(value) is tuple else value


def _strong(value: Any) -> Any:
    if isinstance(value, weakref.ref):
        return value()
    return tuple(map(_strong, value)) if type(value) is tuple else value


def set_field(self: Any, name: str, value: Any) -> None:
    """Set a field of a frozen object: only for `__post_init__`, before anyone else sees it."""
    object.__setattr__(self, name, value)


def is_array(leaf: Any) -> bool:
    """Is this leaf data (an array), rather than a static Python value?"""
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic))
