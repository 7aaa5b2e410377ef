"""Names for the types that appear in signatures."""

from __future__ import annotations

import os
from typing import Any, TypeAlias

import jax

Array: TypeAlias = jax.Array
# A number, an array of JAX or NumPy, or, as the parameter of a distribution, a list of them. A checker reads `Any`:
# of the union it would refuse `loc + scale * noise`, because a list and a NumPy bool cannot.
ArrayLike: TypeAlias = Any
AnyArray: TypeAlias = Any  # of JAX or of NumPy: a formula that is written once and answers in kind
Shape: TypeAlias = tuple[int, ...]
PyTree: TypeAlias = Any
Seed: TypeAlias = int | jax.Array
PathLike: TypeAlias = str | os.PathLike[str]
