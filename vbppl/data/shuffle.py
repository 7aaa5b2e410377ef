"""Which rows of a subsampled plate are shown at each step.

Rows come from an endless stream of epochs, each a random permutation of all rows: each step shows
the next B places of the stream. A row is therefore shown exactly once an epoch, every
batch is full (one may straddle two epochs), and the weight N/B is always right.

The permutation is never stored. An eight-round Feistel network on the places of a grid, `high` by `low`, the
smallest that is nearly square and holds N, permutes the places (Black and Rogaway 2002, "Ciphers with
Arbitrary Finite Domains", the generalised Feistel cipher): a round adds a hash of one coordinate to the
other, modulo its length. Walking its cycles until the result is below N keeps it a permutation of the N
rows; the grid has at most `low` places more than N, so hardly any place walks. O(B) work a step whatever N
is, and nothing to save but the step's number.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.keys import named
from vbppl.core.pytree import pytree, static
from vbppl.core.types import Array

ROUNDS = 8  # with four, some pairs of neighbours among seven rows are a quarter too frequent


@pytree
class Minibatches:
    """The plates that are shown in part: `(name, size, rows shown)` each; none: `Minibatches()`."""

    plates: tuple[tuple[str, int, int], ...] = static(default=())

    most = 2**31  # steps for which `ahead` has rows

    @property
    def made(self) -> int:
        """How many numbers are made for each step."""
        return sum(length for _, _, length in self.plates)

    def start(self) -> tuple[np.ndarray, ...]:
        """Where each plate's stream begins: `(epoch, place)`."""
        return tuple(np.zeros(2, np.int32) for _ in self.plates)

    def ahead(self, key: Array, cursor: tuple[Array, ...], steps: int) -> dict[str, Array]:
        """The indices to show at the next steps, `(steps, rows shown)`, by the plate's name.

        Args:
          key: of the whole fit, the same at every step.
          cursor: for each plate the epoch and the place in it, `(2,)`.
          steps: how many.
        """
        return {
            name: _shown(named(key, name), at, size, steps * length).reshape(steps, length)
            for (name, size, length), at in zip(self.plates, cursor)
        }

    def after(self, cursor: tuple[Array, ...], steps: Array) -> tuple[Array, ...]:
        """Where the streams stand `steps` steps later."""
        return tuple(
            jnp.stack([at[0] + (at[1] + steps * length) // size, (at[1] + steps * length) % size])
            for (_, size, length), at in zip(self.plates, cursor)
        )


def _shown(key: Array, at: Array, size: int, count: int) -> Array:
    """The next `count` indices of a stream that stands at `at`: `(count,)`."""
    epoch, place = jnp.divmod(at[1] + jnp.arange(count), size)
    epochs = at[0] + jnp.arange(count // size + 2)  # as many as the places can touch
    round_keys = jax.vmap(lambda e: jax.random.bits(jax.random.fold_in(key, e), (ROUNDS,), "uint32"))(epochs)
    return permuted(round_keys, epoch, place, size)


def permuted(round_keys: Array, epoch: Array, place: Array, size: int) -> Array:
    """Where each `place` (< size) goes in the permutation of `range(size)` that its epoch's keys name.

    Args:
      round_keys: `(epochs, ROUNDS)` uint32.
      epoch: `(places,)` ints below `epochs`.
      place: `(places,)` ints below `size`.
    """
    high = math.isqrt(size - 1) + 1
    low = -(-size // high)

    def key(r: int) -> Array:
        # Most often the places touch two epochs; to choose is cheaper than to look up.
        return jnp.where(epoch == 0, *round_keys[:, r]) if len(round_keys) == 2 else round_keys[epoch, r]

    def feistel(x: Array) -> Array:
        left, right = x // low, x % low
        for r in range(0, ROUNDS, 2):
            left = _added(left, _mixed(right ^ key(r)), high)
            right = _added(right, _mixed(left ^ key(r + 1)), low)
        return left * low + right

    def walk(x: Array) -> Array:
        return jnp.where(x >= size, feistel(x), x)

    first = feistel(place.astype(jnp.uint32))
    return jax.lax.while_loop(lambda x: jnp.any(x >= size), walk, first).astype(jnp.int32)


def _added(x: Array, bits: Array, length: int) -> Array:
    """`x` plus a number below `length` made of 32 random bits, modulo `length`, which is at most 2^16."""
    total = x + ((bits >> 16) * length >> 16)
    return jnp.where(total >= length, total - length, total)


def _mixed(x: Array) -> Array:
    """A well-mixing function of 32 bits (constants: Ellis 2019, "lowbias32", by exhaustive search)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
