"""The arguments of a model: arrays and sources, which are data, and settings, which shape the program."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core import archive, devices
from vbppl.core.errors import ModelError, of_kind
from vbppl.core.pytree import is_array
from vbppl.core.types import PyTree
from vbppl.data.padded import is_padded
from vbppl.data.source import UNNAMED, Source, is_source
from vbppl.model.shapes import as_numbers


def name_of(function: Callable[..., Any]) -> str:
    """What to call a function in messages; a `functools.partial` has no name of its own."""
    function = function.func if isinstance(function, functools.partial) else function
    return getattr(function, "__name__", type(function).__name__)


def by_name(values: Any) -> Mapping[str, Any]:
    """Values of sites, or an error where they are no dict of them."""
    return of_kind("values", values, isinstance(values, Mapping), "a dict of values by the sites' names")


def split(
    arguments: PyTree, function: Callable[..., Any]
) -> tuple[tuple[Any, ...], tuple[Setting | FunctionType | None, ...], Any]:
    """The data among a model's arguments; for each argument its setting, or None where it is data; the structure."""
    paths, structure = jax.tree_util.tree_flatten_with_path(arguments, is_leaf=_is_whole)
    leaves = [
        as_source(leaf, path, function) if is_source(leaf) else _data_at(leaf, path, function) for path, leaf in paths
    ]
    settings = tuple(None if is_data(leaf) else Setting.of(leaf, name_of(function)) for leaf in leaves)
    return tuple(leaf for leaf in leaves if is_data(leaf)), settings, structure


def _is_whole(argument: Any) -> bool:
    """Whether an argument is not to be looked into; JAX will refuse iterators of which it is not told so."""
    return isinstance(argument, (Source, Iterator))


@dataclasses.dataclass(frozen=True)
class Setting:
    """An argument that is no data. Its type counts: 1, 1.0 and True are equal but not the same."""

    value: Any
    kind: type

    @classmethod
    def of(cls, value: Any, function: str) -> Setting | FunctionType:
        """Wrap `value`, which must be hashable: it becomes a part of compiled programs. A function stays bare."""
        if isinstance(value, FunctionType):
            return value
        try:
            hash(value)
        except TypeError:
            raise ModelError(
                f"{function} got an argument of type {type(value).__name__}, which is neither numbers nor hashable.",
                details=repr(value)[:200],
                mend="Pass arrays, numbers, strings, or lists, tuples and dicts of these.",
            ) from None
        return cls(value, type(value))


def value_of(setting: Setting | FunctionType | None) -> Any:
    """The argument itself."""
    return setting.value if isinstance(setting, Setting) else setting


def as_source(leaf: Any, path: tuple, function: Callable[..., Any]) -> Source:
    """The source, under the name of its argument; one that a model passes on to another keeps its name."""
    if isinstance(leaf, Source) and leaf.name != UNNAMED:
        return leaf
    return (leaf if isinstance(leaf, Source) else Source(leaf)).named(_argument(path, function))


def _argument(path: tuple, function: Callable[..., Any]) -> str:
    """What a function calls the argument, or the part of one, that stands at `path` of `(args, kwargs)`."""
    names = list(inspect.signature(function).parameters)
    first, argument, *rest = path
    at = argument.idx if isinstance(argument, jax.tree_util.SequenceKey) else argument.key
    name = names[min(at, len(names) - 1)] if first.idx == 0 else at
    more = f"[{at - len(names) + 1}]" if first.idx == 0 and at >= len(names) else ""
    return name + more + jax.tree_util.keystr(tuple(rest))


# What other languages' statements take, and what says it here.
FOREIGN = {
    "infer": "Leave it out: a latent site's coordinates are chosen by vb.fit, or by vb.decenter.",
    "obs_mask": "Write dist.mask(mask) for rows that do not count; what is missing is a latent site of its own.",
    "rng_key": "Leave it out: a seed is given to fit, and to my_model(...).sample(n, seed=...).",
    "observed": "Write obs=y.",
    "event_dim": "Leave it out: every number of a param is learnt, whatever its shape.",
}


def check_keywords(word: str, site: str, given: Mapping[str, Any], known: str) -> None:
    """Refuse keywords that a statement does not have."""
    for name in given:
        mend = FOREIGN.get(name, f"Write {known}.")
        raise TypeError(f"site '{site}': {word} has no argument {name}=.\n  To mend it: {mend}")


def check_function(function: Any) -> None:
    """Refuse what cannot be called, and functions that do not run when they are."""
    of_kind("function", function, callable(function), "a function of the model's arguments")
    kinds = (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    if any(is_one(function) for is_one in kinds):
        raise TypeError(
            f"{name_of(function)} yields or is asynchronous, so none of its statements would run.\n"
            "  To mend it: Write a plain function; a value leaves it by return, or by vb.deterministic."
        )


def _data_at(leaf: Any, path: tuple, function: Callable[..., Any]) -> Any:
    """Things that hold numbers (a pandas column, say) as arrays; an array of anything else is an error."""
    if isinstance(leaf, jax.Array) or not hasattr(leaf, "__array__") or (is_array(leaf) and leaf.dtype.kind in "bfc"):
        return leaf
    array = as_numbers(leaf, f"argument {_argument(path, function)} of {name_of(function)}")
    return leaf if is_array(leaf) else array


def missing_in(arguments: PyTree, function: Callable[..., Any]) -> str:
    """Which arguments of a function hold NaN, one a line; "" where none does."""
    lines = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(arguments, is_leaf=_is_whole)[0]:
        floats = is_array(leaf) and devices.is_here(leaf) and jnp.issubdtype(leaf.dtype, np.floating)
        if floats and (off := np.isnan(np.asarray(leaf))).any():
            first = ", ".join(str(int(i)) for i in np.argwhere(off)[0])
            where = f": {off.sum()} of {off.size} values; the first, at [{first}]" if off.ndim else ""
            lines.append(f"argument {_argument(path, function)} of {name_of(function)} holds NaN{where}")
    return "\n".join(lines)


def told(arguments: PyTree, function: Callable[..., Any]) -> dict[str, str]:
    """What a function's arguments are, by their names: of arrays the kind, the shape and a digest of the numbers.

    Alike in every precision of a session, so that data can be recognised in another process.
    """
    parts: dict[str, dict[str, str]] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(arguments, is_leaf=_is_whole)[0]:
        parts.setdefault(_argument(path[:2], function), {})[_argument(path, function)] = told_of(leaf)
    found = {}
    for name, texts in parts.items():  # of a long list, or a network, all together
        found |= texts if len(texts) <= 8 else {name: f"{len(texts)} parts [] {archive.digest(*texts.values())}"}
    return found


def told_defaults(arguments: tuple[Any, Any], function: Callable[..., Any]) -> dict[str, str]:
    """The arguments of a function that were left at their defaults, as `told`."""
    args, kwargs = arguments
    signature = inspect.signature(function)
    given = signature.bind(*args, **kwargs).arguments
    rest = {name: p.default for name, p in signature.parameters.items() if name not in given}
    return told(((), {name: value for name, value in rest.items() if value is not inspect.Parameter.empty}), function)


def told_of(leaf: Any) -> str:
    """One argument, as `told`."""
    if isinstance(leaf, (set, frozenset)):  # which each process puts in an order of its own
        return f"{type(leaf).__name__} of {', '.join(sorted(map(repr, leaf)))}"
    if isinstance(leaf, Source) or not is_array(leaf):
        text = name_of(leaf) if callable(leaf) else repr(leaf)
        return type(leaf).__name__ if " at 0x" in text else text
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if not devices.is_here(leaf):
        return f"an array {list(leaf.shape)} over several processes"
    kinds = {np.floating: ("float", "f4"), np.integer: ("int", np.int64), np.bool_: ("bool", np.bool_)}
    word, wide = next((known for kind, known in kinds.items() if jnp.issubdtype(leaf.dtype, kind)), ("", np.complex64))
    with np.errstate(over="ignore"):  # of numbers that single precision has not
        return f"{word or leaf.dtype}{list(leaf.shape)} {archive.digest(np.asarray(leaf).astype(wide))}"


def is_data(leaf: Any) -> bool:
    """Arrays are data. An integer of NumPy (`k.max() + 1`) is a size, as the same Python int would be."""
    return isinstance(leaf, Source) or (is_array(leaf) and not isinstance(leaf, (np.integer, np.bool_)))


def shown(value: Any) -> str:
    """An argument in a line: of arrays the dtype and shape."""
    leaves = jax.tree.leaves(value)
    if is_array(value) or is_padded(value):
        return f"{value.dtype}{list(value.shape)}"
    if any(is_array(leaf) for leaf in leaves):
        return f"<{type(value).__name__}>"
    return name_of(value) if callable(value) else repr(value)
