"""How programs are compiled: at which of LLVM's levels, with which products, and over draws for few numbers of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from vbppl.core import devices

FEWEST, FEW, MOST = 8, 64, 1024  # draws of a call: these, and where they are dear the powers of two between
HEAVY = 2 * 10**6  # numbers that a program looks at, above which it takes longer to run than to compile


def on_accelerator() -> bool:
    """Whether programs run on a device that waits for the host, as a GPU does wherever a loop's length is data."""
    return jax.default_backend() != "cpu"


def compiler_options(level: int = 2) -> dict[str, Any] | None:
    """How a program is compiled: on a processor one level below LLVM's highest, which is XLA's default.

    The highest took 1.2 to 2.1 times the CPU seconds (a chunk of steps of eight schools 4.3 beside 2.1), and no program
    of ours ran faster by it; one level lower still, those with large data take four times as long.
    """
    return None if on_accelerator() else {"xla_backend_optimization_level": level}


def in_full_precision() -> AbstractContextManager[Any]:
    """Products as exact as their numbers, which fits on fixed draws rely on, unless the session asks for others.

    By default a GPU rounds the factors of a product to 10 bits: on an H100 a logistic regression of 100,000 rows then
    took 2.3 times the gradients and ended .012 sd off; exact products gave the processor's answer in as many gradients.
    """
    asked = jax.config.jax_default_matmul_precision is not None  # pyright: ignore[reportAttributeAccessIssue]
    return jax.default_matmul_precision("highest") if on_accelerator() and not asked else contextlib.nullcontext()


def in_batches(function: Callable[[Any], Any], xs: Any, size: int) -> Any:
    """`jax.lax.map` of so many at once; the last batch is filled up, as a smaller one would be compiled on its own."""
    n = len(jax.tree.leaves(xs)[0])
    size = min(n, size)
    more = -n % size
    if more:
        xs = jax.tree.map(lambda x: jnp.concatenate([x, jnp.broadcast_to(x[:1], (more, *x.shape[1:]))]), xs)
    return jax.tree.map(lambda found: found[:n], jax.lax.map(function, xs, batch_size=size))


class ByWork:
    """A program that is compiled in haste where it runs for a moment, and with care where there is much to run.

    A prediction from eight schools took 1.0 CPU seconds to compile with care and 0.5 in haste; it then ran for 3
    milliseconds in the place of one.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self._function, self._options = function, options
        self._compiled: dict[int, Any] = {}

    def __call__(self, work: int, *args: Any, **static: Any) -> Any:
        """The results of `function(*args, **static)`, of which so many numbers are looked at.

        Where they are traced they become a part of the program around them, which has a level of its own.
        """
        return (self._function if _is_traced(args) else self.at(work))(*args, **static)

    def at(self, work: int) -> Any:
        """The program for so much work."""
        level = 0 if work < HEAVY else 2
        if level not in self._compiled:  # not before: to ask for the backend starts it
            self._compiled[level] = jax.jit(self._function, compiler_options=compiler_options(level), **self._options)
        return self._compiled[level]


class OverDraws:
    """A function of one draw as a program over any number of draws, which is compiled for few of these numbers.

    >>> double = OverDraws(lambda draw, by: {"x": draw * by})
    >>> [double(np.arange(n), 2.0)["x"].shape for n in (1000, 1001, 3000)]  # one program
    [(1000,), (1001,), (3000,)]
    """

    def __init__(self, one: Callable[..., Any], side_by_side: int | None = FEW) -> None:
        """Of `one(draw, *shared)`, with so many draws together, which bounds intermediate values; None: all."""

        def program(draws: Any, *shared: Any) -> Any:
            if side_by_side is None:
                return jax.vmap(one, (0, *(None for _ in shared)))(draws, *shared)
            return in_batches(lambda draw: one(draw, *shared), draws, side_by_side)

        self._program, self._compiled = program, ByWork(program)

    def __call__(self, draws: Any, *shared: Any) -> Any:
        """The results `(n, ...)` at `draws`, a tree of arrays `(n, ...)`, with `shared` trees beside each.

        Where they are traced they become a part of the program around them.
        """
        if _is_traced((draws, shared)):
            return self._program(draws, *shared)
        leaves, structure = jax.tree.flatten(devices.on_host(draws))
        shared, n = devices.put(shared), len(leaves[0])
        work = n * sum(np.size(leaf) for leaf in jax.tree.leaves(shared))
        size, program = _size(n, work), self._compiled.at(work)
        blocks = range(0, n, size)
        found: list[np.ndarray] = []
        for begin in blocks:
            block = structure.unflatten([_padded(leaf[begin : begin + size], size) for leaf in leaves])
            parts, results = jax.tree.flatten(devices.on_host(program(jax.device_put(block), *shared)))
            if len(blocks) == 1:
                return jax.device_put(results.unflatten([part[:n] for part in parts]))
            found = found or [np.empty((n, *part.shape[1:]), part.dtype) for part in parts]
            for whole, part in zip(found, parts):
                whole[begin : begin + size] = part[: n - begin]
        return jax.device_put(results.unflatten(found))


def _is_traced(tree: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def _size(n: int, work: int) -> int:
    """Of a call: the next number of which there are programs; few where draws that nobody asked for cost nothing."""
    if n <= FEWEST:
        return FEWEST
    return MOST if work < HEAVY else min(max(FEW, 1 << (n - 1).bit_length()), MOST)


def _padded(leaf: np.ndarray, size: int) -> np.ndarray:
    """So many rows, the first again and again where there are too few."""
    return np.concatenate([leaf, np.broadcast_to(leaf[:1], (size - len(leaf), *leaf.shape[1:]))])
