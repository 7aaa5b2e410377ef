"""How programs are compiled: at which of LLVM's levels, with which products, and over draws for few numbers of them."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.core
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax.extend.core import get_opaque_trace_state

from vbppl.core import devices
from vbppl.core.programs.packed import Packed
from vbppl.core.programs.random_bits import Apart, apart, is_random
from vbppl.core.programs.rerolling.rerolled import rerolled

MIN_DRAWS, SOME_DRAWS, MAX_DRAWS = 8, 256, 1024  # of a call, by what a draw costs
FEW_DRAWS = 64  # side by side
HEAVY = 10**8  # numbers that a program computes, above which care in compiling pays
SMALL, LARGE = 2 * 10**4, 10**6  # numbers of a draw, up to which draws that nobody asked for cost nothing, and too much
MOMENT = 2**26  # numbers of all draws, up to which these are computed at once, and their random bits on the host
TURNS = 32  # of a loop whose length nobody knows
TOP = get_opaque_trace_state()  # nothing is traced


def on_accelerator() -> bool:
    """Whether programs run on a device that waits for the host, as a GPU does wherever a loop's length is data."""
    return jax.default_backend() != "cpu"


def compiler_options(level: int = 2) -> dict[str, Any] | None:
    """How a program is compiled: on a processor by default one level below LLVM's highest, which is XLA's default.

    What runs for a moment asks for level 0 (`ByWork`). The highest took 1.2 to 2.1 times the CPU seconds (a chunk of
    steps of eight schools 4.3 beside 2.1), and no program of ours ran faster by it; one level lower still, those with
    large data take four times as long.
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
    if n <= size:
        return jax.vmap(function)(xs)
    batches = -(-n // size)
    if more := batches * size - n:
        xs = jax.tree.map(lambda x: jnp.concatenate([x, jnp.broadcast_to(x[:1], (more, *x.shape[1:]))]), xs)
    xs = jax.tree.map(lambda x: x.reshape(batches, size, *x.shape[1:]), xs)
    found = jax.lax.map(jax.vmap(function), xs)
    return jax.tree.map(lambda leaf: leaf.reshape(batches * size, *leaf.shape[2:])[:n], found)


@functools.lru_cache(maxsize=256)
def numbers_in(jaxpr: jax.extend.core.Jaxpr, once: bool = False) -> int:
    """How many numbers a program computes, about: those that its operations give out, and the products in them.

    With `once`, as if each loop had a single turn: how many there may be at a time, at most.
    """
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        inner = [
            numbers_in(getattr(each, "jaxpr", each), once)
            for each in jax.tree.leaves(params, is_leaf=_is_program)
            if _is_program(each)
        ]
        turns = 1 if once else params.get("length", 1) if name == "scan" else TURNS if name == "while" else 1
        given = sum(math.prod(getattr(out.aval, "shape", ())) for out in equation.outvars)
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            given *= math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)  # pyright: ignore[reportAttributeAccessIssue]
        total += given + turns * (max(inner, default=0) if name == "cond" else sum(inner))
    return total


def _is_program(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def _is_within(tree: Any) -> bool:
    """Whether a program is being traced: around these arguments, or around the call."""
    return get_opaque_trace_state() != TOP or any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


class ByWork:
    """A program that is compiled in haste where it runs for a moment, and with care where there is much to run.

    A prediction from eight schools took 1.0 CPU seconds to compile with care and 0.5 in haste; it then ran for 3
    milliseconds in the place of one.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self._function, self._options = function, options
        self._traced = jax.jit(function, **options)
        self._compiled: dict[int, Any] = {}

    def __call__(self, *args: Any, **static: Any) -> Any:
        """The results of the function.

        Where a program is being traced they become a part of it, at its own level.
        """
        if _is_within(args):
            return self._function(*args, **static)
        return self.at(numbers_in(self._traced.trace(*args, **static).jaxpr.jaxpr))(*args, **static)

    def at(self, numbers: int) -> Any:
        """The program where so many numbers are computed."""
        level = 0 if numbers < HEAVY else 2
        if level not in self._compiled:  # not before: to ask for the backend starts it
            self._compiled[level] = jax.jit(self._function, compiler_options=compiler_options(level), **self._options)
        return self._compiled[level]


class OverDraws:
    """A function of one draw as a program over any number of draws, which is compiled for few of these numbers.

    >>> double = OverDraws(lambda draw, by: {"x": draw * by})
    >>> [double(np.arange(n), 2.0)["x"].shape for n in (1000, 1001, 3000)]  # one program
    [(1000,), (1001,), (3000,)]
    """

    def __init__(self, one: Callable[..., Any], side_by_side: int | None = FEW_DRAWS) -> None:
        """Of `one(draw, *shared)`, with so many draws together, which bounds intermediate values; None: all."""
        # Traced by itself, the function of a user runs once: how much it computes is seen, and all programs hold it.
        self._one = jax.jit(rerolled(lambda draw, *shared: Packed.of(one(draw, *shared))))

        def program(draws: Any, *shared: Any) -> Any:
            if side_by_side is None:
                return jax.vmap(self._one, (0, *(None for _ in shared)))(draws, *shared)
            return in_batches(lambda draw: self._one(draw, *shared), draws, side_by_side)

        self._program, self._compiled = program, ByWork(program)
        self._flat = jax.jit(lambda draws, *shared: jax.vmap(self._one, (0, *(None for _ in shared)))(draws, *shared))

    def __call__(self, draws: Any, *shared: Any) -> Any:
        """The results `(n, ...)` at `draws`, a tree of arrays `(n, ...)`, with `shared` trees beside each.

        Where a program is being traced they become a part of it.

        Raises:
          ValueError: there are not as many draws of one thing as of another.
        """
        if _is_within((draws, shared)):
            return self._program(draws, *shared).tree(draws=True)
        leaves, structure = jax.tree.flatten(devices.on_host(draws))
        if len(counts := {len(leaf) for leaf in leaves}) != 1:
            raise ValueError(f"there are {' and '.join(map(str, sorted(counts)))} draws of one thing and another.")
        shared, (n,) = devices.put(shared), counts
        jaxpr = self._one.trace(structure.unflatten([_first(leaf) for leaf in leaves]), *shared).jaxpr.jaxpr
        numbers = numbers_in(jaxpr)
        size, program = _size(n, numbers), self._compiled.at(n * numbers)
        # The host would be long at the random bits of more; without any, more are further calls of the same program.
        if (max(n, size) if is_random(jaxpr) else size) * numbers_in(jaxpr, once=True) <= MOMENT:
            some = structure.unflatten([_padded(leaf[:size], size) for leaf in leaves])
            program = self._side_by_side(n * numbers, some, *shared)
        blocks = range(0, max(n, 1), size)
        found: list[np.ndarray] = []
        for begin in blocks:
            block = structure.unflatten([_padded(leaf[begin : begin + size], size) for leaf in leaves])
            with devices.transfers_are_meant():  # a call of its own for them takes longer than the program
                parts, results = jax.tree.flatten(devices.on_host(program(block, *shared)))
            if len(blocks) == 1:
                return jax.device_put(results.unflatten([part[:n] for part in parts]).tree(draws=True))
            found = found or [np.empty((n, *part.shape[1:]), part.dtype) for part in parts]
            for whole, part in zip(found, parts):
                whole[begin : begin + size] = part[: n - begin]
        return jax.device_put(results.unflatten(found).tree(draws=True))

    def _side_by_side(self, numbers: int, draws: Any, *shared: Any) -> Callable[..., Any]:
        """The program at as many draws as these, all at once, which is given its random bits."""
        traced = self._flat.trace(draws, *shared)
        parts, results = apart(traced.jaxpr), jax.tree.structure(traced.out_info)

        def program(draws: Any, *shared: Any) -> Any:
            arguments = jax.tree.leaves((draws, shared))
            return results.unflatten(_rest(parts).at(numbers)(parts.made(arguments), arguments))

        return program


@functools.lru_cache(maxsize=256)
def _rest(parts: Apart) -> ByWork:
    return ByWork(parts.rest)


def _size(n: int, numbers: int) -> int:
    """Of a call: the next number of draws of which there are programs, as far as those not asked for cost little."""
    if numbers >= LARGE:
        return min(max(n, 1), MAX_DRAWS)
    if numbers > SMALL:  # a call computes for milliseconds, and further ones of the same program cost no more
        return min(max(1 << (n - 1).bit_length(), MIN_DRAWS), SOME_DRAWS)
    return MIN_DRAWS if n <= MIN_DRAWS else MAX_DRAWS


def _first(leaf: np.ndarray) -> np.ndarray:
    return leaf[0] if len(leaf) else np.zeros(leaf.shape[1:], leaf.dtype)


def _padded(leaf: np.ndarray, size: int) -> np.ndarray:
    """So many rows, the first again and again where there are too few."""
    more = size - len(leaf)
    return np.concatenate([leaf, np.broadcast_to(_first(leaf), (more, *leaf.shape[1:]))]) if more else leaf
