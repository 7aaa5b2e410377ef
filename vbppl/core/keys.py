"""Keys for random numbers: from seeds, from names, from step numbers.

A key is derived by meaning, `key -> fold_in(key, name)`, so that adding a site to a model does
not change the draws of the others. Seeds are accepted at the door only; inside, keys travel as
raw data (`uint32` arrays), because making a key outside a compiled program would itself compile
one.
"""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.types import Array, Seed


def raw_key(seed: Seed, name: str = "seed") -> np.ndarray:
    """The raw data, `(2,)` uint32, of the key for `seed`: an int or a JAX key (new or old style).

    >>> raw_key(7).tolist()
    [0, 7]
    """
    if isinstance(seed, (int, np.integer)) and not isinstance(seed, bool):
        if not 0 <= int(seed) < 2**64:
            raise ValueError(f"{name} must lie between 0 and 2**64 - 1, not {seed}.")
        return np.array([int(seed) >> 32, int(seed) & 0xFFFFFFFF], np.uint32)
    if isinstance(seed, (jax.Array, np.ndarray)):
        data = jax.random.key_data(seed) if jnp.issubdtype(seed.dtype, jax.dtypes.prng_key) else seed
        data = np.asarray(data)
        if data.shape == (2,) and data.dtype == np.uint32:
            return data
    raise TypeError(f"{name} must be an int or a single threefry key (jax.random.key(0)), not {seed!r:.80}.")


def wrap(raw: Array) -> Array:
    """The keys whose raw data are `raw`, `(..., 2)`; for use inside compiled programs."""
    return jax.random.wrap_key_data(raw, impl="threefry2x32")


def named(key: Array, name: str) -> Array:
    """The key for the thing called `name`."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def host_generator(raw: np.ndarray, purpose: str) -> np.random.Generator:
    """NumPy's generator for the same seed: for draws made on the host without compiling."""
    return np.random.default_rng([int(raw[0]), int(raw[1]), zlib.crc32(purpose.encode())])
