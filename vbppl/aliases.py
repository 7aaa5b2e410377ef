"""Names for the types that appear in signatures."""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array
ArrayLike: TypeAlias = jax.Array | np.ndarray | np.generic | float | int
Shape: TypeAlias = tuple[int, ...]
PyTree: TypeAlias = Any
Seed: TypeAlias = int | jax.Array
