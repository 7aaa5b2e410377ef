"""A traced program without its random bits, which NumPy makes before it runs.

XLA compiles a loop of threefry for each key that is derived and for each array of bits: two for a sample statement, of
.04 to .07 CPU seconds each, in a program that then runs for a millisecond. Keys are derived from keys and counters
alone, so they and their bits are known before the program begins. They are made here, to the same bits, by
Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), and handed to what is
left of it. (XLA's own generator, `impl="rbg"`, compiles no faster: .8 to .9 CPU seconds for the prior draws of eight
schools, beside .7 to .9 of threefry's loops and .3 so.)

What is derived inside of a loop stays in the program, with the key that it is derived from.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from vbppl.core import devices
from vbppl.core.keys import wrap
from vbppl.core.programs.known import MOVES
from vbppl.core.programs.uniform import bind
from vbppl.core.types import Shape

ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)
ROUNDS, PARITY = 5, np.uint32(0x1BD11BDA)
CACHED = 2**14  # numbers that are hashed together


@dataclasses.dataclass(frozen=True)
class _Made:
    """What the host knows: the number of an argument, or of a step."""

    number: int
    is_key: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Apart:
    """A program taken apart.

    Attributes:
      rest: what is left of it, a function of what was made and of the arguments.
      steps: each makes one more array of keys, as uint64, or of bits, from those before it.
      wanted: which of these `rest` is given, and whether they are keys.
      arguments: which of the program's arguments the steps read.
    """

    rest: Callable[[Sequence[Any], Sequence[Any]], list[Any]]
    steps: Sequence[tuple[Callable[..., np.ndarray], Sequence[Any]]]
    wanted: Sequence[tuple[int, bool]]
    arguments: frozenset[int]

    def made(self, arguments: Sequence[Any]) -> list[np.ndarray]:
        """What `rest` is given besides: keys as raw data `(..., 2)`, and bits."""
        known: list[Any] = [devices.on_host(each) if i in self.arguments else None for i, each in enumerate(arguments)]
        for step, given in self.steps:
            known.append(step(*(known[each.number] if isinstance(each, _Made) else each for each in given)))
        return [_unpacked(known[number]) if is_key else known[number] for number, is_key in self.wanted]


@functools.lru_cache(maxsize=256)
def apart(closed: Any) -> Apart:
    """The program in two parts.

    >>> program = jax.make_jaxpr(lambda key, x: x + jax.random.normal(jax.random.fold_in(wrap(key), 7), (3,)))
    >>> key = np.array([0, 1], np.uint32)
    >>> parts = apart(program(key, 1.0))
    >>> made = parts.made([key, 1.0])
    >>> made[0].dtype.name, "random" in str(jax.make_jaxpr(parts.rest)(made, [key, 1.0]))
    ('uint32', False)
    """
    steps, wanted = [], {}

    def noted(equation: Any, given: Sequence[Any]) -> list[None]:
        wanted.update({each.number: each.is_key for each in given if isinstance(each, _Made)})
        return [None] * len(equation.outvars)

    count = len(closed.jaxpr.invars)
    arguments = [_Made(i, False) for i in range(count)]
    outputs = _followed(closed.jaxpr, [None] * len(closed.consts), arguments, count, steps, noted)
    wanted.update({each.number: each.is_key for each in outputs if isinstance(each, _Made)})
    kept = [pair for pair in wanted.items() if pair[0] >= count]
    read = frozenset(each.number for _, given in steps for each in given if isinstance(each, _Made))

    def rest(made: Sequence[Any], values: Sequence[Any]) -> list[Any]:
        known = dict(enumerate(values))
        known.update((number, wrap(each) if is_key else each) for (number, is_key), each in zip(kept, made))

        def told(value: Any) -> Any:
            return known[value.number] if isinstance(value, _Made) else value

        def run(equation: Any, given: Sequence[Any]) -> Sequence[Any]:
            return bind(equation, list(map(told, given)))

        return list(map(told, _followed(closed.jaxpr, closed.consts, arguments, count, [], run)))

    return Apart(rest, steps, kept, read)


def _followed(
    jaxpr: Any,
    constants: Sequence[Any],
    arguments: Sequence[Any],
    count: int,
    steps: list[Any],
    otherwise: Callable[[Any, Sequence[Any]], Sequence[Any]],
) -> list[Any]:
    """The outputs of a program; a `_Made` for what the host makes by `steps`, after the `count` arguments of all."""
    found = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments]))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jax.extend.core.Literal) else found[atom]

    for equation in jaxpr.eqns:
        given, name = [read(atom) for atom in equation.invars], equation.primitive.name
        if name in ("jit", "pjit") and is_random(equation.params["jaxpr"].jaxpr):
            inner = equation.params["jaxpr"]
            made = _followed(inner.jaxpr, inner.consts, given, count, steps, otherwise)
        elif makers := _makers(equation, given):
            is_key = jnp.issubdtype(equation.outvars[0].aval.dtype, jax.dtypes.prng_key)
            made = [_Made(count + len(steps) + i, is_key) for i in range(len(makers))]
            steps += [(maker, given) for maker in makers]
        else:
            made = otherwise(equation, given)
        found.update(zip(equation.outvars, made))
    return [read(atom) for atom in jaxpr.outvars]


def is_random(jaxpr: Any) -> bool:
    """Whether a program makes random bits, outside of its loops."""
    return any(
        equation.primitive.name.startswith("random_")
        or (equation.primitive.name in ("jit", "pjit") and is_random(equation.params["jaxpr"].jaxpr))
        for equation in jaxpr.eqns
    )


def _makers(equation: Any, given: Sequence[Any]) -> Sequence[Callable[..., np.ndarray]]:
    """How the host makes each output of an equation; none where it does not."""
    known = all(isinstance(each, _Made) or np.isscalar(each) or isinstance(each, np.ndarray) for each in given)
    if not equation.outvars:  # a program of a model without latent sites gives nothing back
        return ()
    name, settings, out = equation.primitive.name, equation.params, equation.outvars[0].aval
    # Where bits are not counted one by one, JAX hashes other counters.
    if not (known and given and isinstance(given[0], _Made) and jax.config.jax_threefry_partitionable):  # pyright: ignore[reportAttributeAccessIssue]
        return ()
    if name == "random_wrap":
        return (_packed,) if str(out.dtype) == "key<fry>" else ()
    if not given[0].is_key:
        return ()
    # Further keys come of keys that are known, so of this kind.
    if name in STEPS:
        return (functools.partial(STEPS[name], settings),)
    if name in ("slice", "squeeze", "reshape", "broadcast_in_dim"):
        return (functools.partial(MOVES[name], settings, out),)
    if name == "unstack":
        return [functools.partial(np.take, indices=i, axis=settings["axis"]) for i in range(len(equation.outvars))]
    return ()


def hashed(keys: np.ndarray, first: Any, second: Any) -> tuple[np.ndarray, np.ndarray]:
    """Two words for each key, a uint64, and each counter of two words, to which its shape is broadcast.

    >>> words = hashed(np.uint64(0), np.uint32(0), np.uint32(0))
    >>> [hex(int(word)) for word in words]  # as Random123 publishes them
    ['0x6b200159', '0x99ba4efe']
    """
    keys, first, second = np.broadcast_arrays(keys, np.uint32(first), np.uint32(second))
    words = np.empty((2, keys.size), np.uint32)
    flat = keys.reshape(-1), first.reshape(-1), second.reshape(-1)
    for begin in range(0, keys.size, CACHED):
        words[:, begin : begin + CACHED] = _rounds(*(each[begin : begin + CACHED] for each in flat))
    one, other = words.reshape(2, *keys.shape)
    return one, other


def _rounds(keys: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    halves = (keys >> np.uint64(32)).astype(np.uint32), keys.astype(np.uint32)
    schedule = (*halves, halves[0] ^ halves[1] ^ PARITY)
    x, y, high = first + schedule[0], second + schedule[1], np.empty_like(first)
    for turn in range(ROUNDS):
        for by in ROTATIONS[turn % 2]:
            x += y
            np.right_shift(y, np.uint32(32 - by), out=high)
            y <<= np.uint32(by)
            y |= high
            y ^= x
        x += schedule[(turn + 1) % 3]
        y += schedule[(turn + 2) % 3]
        y += np.uint32(turn + 1)
    return x, y


def _packed(raw: np.ndarray) -> np.ndarray:
    words = raw.astype(np.uint64)
    return words[..., 0] << np.uint64(32) | words[..., 1]


def _unpacked(keys: Any) -> np.ndarray:
    return np.stack([(keys >> np.uint64(32)).astype(np.uint32), keys.astype(np.uint32)], axis=-1)


def _counted(keys: np.ndarray, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """The words of counters from 0 on, `(*keys, *shape)`."""
    counters = np.arange(math.prod(shape), dtype=np.uint32).reshape(shape)
    return hashed(keys.reshape(*keys.shape, *(1 for _ in shape)), np.uint32(0), counters)


def _joined(words: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return words[0].astype(np.uint64) << np.uint64(32) | words[1]


def _bits(settings: Mapping[str, Any], keys: np.ndarray) -> np.ndarray:
    words, width = _counted(keys, settings["shape"]), settings["bit_width"]
    return _joined(words) if width == 64 else (words[0] ^ words[1]).astype(f"uint{width}")


def _fold_in(_: Any, keys: np.ndarray, number: Any) -> np.ndarray:
    return _joined(hashed(keys, np.uint32(0), np.asarray(number).astype(np.uint32)))


STEPS: Mapping[str, Callable[..., np.ndarray]] = MappingProxyType(
    {
        "random_bits": _bits,
        "random_fold_in": _fold_in,
        "random_split": lambda settings, keys: _joined(_counted(keys, settings["shape"])),
    }
)
