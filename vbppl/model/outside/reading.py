"""What a model's function reads from outside its arguments: globals, closures and defaults, told by their names.

A compiled program holds for ever what stood there when it was compiled, as under `jax.jit`. So a model notes what its
function reads when it is applied: other numbers are another model, with programs of its own, and numbers that change
while a model is in use are refused by name. What a function changes itself (a counter, a list of notes) is not looked
at; neither is what lies behind C code, generators, or attributes of objects that are no dataclasses.
"""

from __future__ import annotations

import contextlib
import dataclasses
import dis
import functools
import inspect
import random
import types
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from vbppl.core import archive
from vbppl.core.errors import ModelError
from vbppl.core.pytree import is_array
from vbppl.model.missing.places import WORD
from vbppl.model.shapes import check_range

PLAIN = (bool, int, float, complex, str, bytes)
GENERATORS = (random.Random, np.random.Generator, np.random.RandomState)
CHANGES = {"append", "extend", "add", "update", "pop", "setdefault", "insert", "clear"}
LIBRARIES = {"builtins", "jax", "jaxlib", "numpy", "scipy", "optax", "vbppl", "random"}
DEPTH = 4  # how far into containers, dataclasses and modules is looked
Reading = tuple[tuple[str, str], ...]


def reading(functions: Iterable[Callable[..., Any]]) -> Reading:
    """The names of all that is read, each with a digest: a hashable value that holds no data.

    Raises:
      ModelError: an array holds integers that would wrap.
    """
    found = {name: value for name, value in _found(functions).items() if not _is_noise(value)}
    for name, value in found.items():
        if isinstance(value, np.ndarray):
            check_range(value, f"{name}, read from outside the arguments,")
    return tuple((name, _digest(value)) for name, value in found.items())


@contextlib.contextmanager
def unchanged(before: Reading, functions: Sequence[Callable[..., Any]]) -> Iterator[Callable[..., Any]]:
    """A run of the first of `functions`, which must find what stood there `before` and draw from no hidden generator.

    Yields: it, to be run; where numbers that it reads stand in programs of another precision, over views of them.

    Raises:
      ModelError: something has changed, or it has drawn.
    """
    check(before, functions)
    first, *rest = functions
    wide = {id(value) for value in _found(functions).values() if _is_of_another_precision(value)}
    first = _over_views(first, wide, {}) if wide else first
    found = _found((first, *rest))
    for name, value in found.items():
        if isinstance(value, np.ndarray) and (fault := _unseen(value)):
            raise ModelError(
                f"{name}, which the model reads from outside its arguments, {fault}.",
                mend=f"Pass it as an argument of the model, or put a new array there: {name} = np.array(...).",
            )
    states = {name: (value, _state(value)) for name, value in found.items() if _is_noise(value)}
    yield first
    if drawn := [name for name, (value, state) in states.items() if _state(value) != state]:
        raise ModelError(
            f"the model draws from {drawn[0]}, which would give the same numbers for ever: a model is run once and "
            "then compiled.",
            mend="Write vb.sample(...) for what is random in the model; draw fixed numbers outside, and pass them.",
        )


def check(before: Reading, functions: Iterable[Callable[..., Any]]) -> None:
    """Raise a `ModelError` that names what the functions read and what has changed since `before`."""
    now = dict(reading(functions)) if before else {}
    if changed := [(name, then) for name, then in before if now.get(name, then) != then]:
        raise ModelError(
            f"{changed[0][0]}, which the model reads from outside its arguments, has changed since the model was "
            "applied to them.",
            details="\n".join(f"{name}: {then} then, {now[name]} now" for name, then in changed),
            mend="Pass it as an argument of the model, or apply the model again.",
        )


def _held(array: np.ndarray) -> np.ndarray:
    """What a program that is traced now would hold: JAX converts an array once, by its identity."""
    traced = jax.make_jaxpr(lambda: array)()
    (held,) = traced.consts or (atom.val for atom in traced.jaxpr.outvars)
    return np.asarray(held)


def _is_of_another_precision(value: Any) -> bool:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iufc" or value.dtype.itemsize < 8:
        return False
    return _held(value).dtype != jax.dtypes.canonicalize_dtype(value.dtype)


def _unseen(array: np.ndarray) -> str:
    """Why a program that is traced now would not hold these numbers; "" where it would."""
    if _is_of_another_precision(array):
        return "was read in another precision before, and JAX keeps the numbers that it made of it then"
    if array.dtype.kind not in "biufc":
        return ""
    held = _held(array)
    is_same = np.array_equal(held, array.astype(held.dtype), equal_nan=held.dtype.kind in "fc")
    return "" if is_same else "was changed in place, but JAX still holds the numbers that it had before"


def _over_views(value: Any, wide: Container[int], made: dict[int, Any]) -> Any:
    """The same with a view, which JAX has not met, in the place of each array of `wide`, as far as functions are read.

    What is `made` already is not made again, so that functions may name each other.
    """

    def anew(part: Any) -> Any:
        return _over_views(part, wide, made)

    if id(value) in made:
        return made[id(value)]
    new = made[id(value)] = value.view() if id(value) in wide else value
    if type(value) in (list, tuple):
        parts = type(value)(map(anew, value))
        new = parts if any(one is not other for one, other in zip(parts, value)) else value
    elif type(value) is dict:
        parts = {key: anew(part) for key, part in value.items()}
        new = parts if any(parts[key] is not value[key] for key in value) else value
    elif isinstance(value, functools.partial):
        new = functools.partial(anew(value.func), *anew(value.args), **anew(value.keywords))
    elif isinstance(function := getattr(value, "_function", None), types.FunctionType):  # under `@model`
        new = type(value)(anew(function))
    elif isinstance(value, types.FunctionType) and not _is_library(value.__module__):
        return _function_over(value, anew, made)
    made[id(value)] = new
    return new


def _function_over(function: types.FunctionType, anew: Callable[[Any], Any], made: dict[int, Any]) -> Callable:
    """The same code over `anew` of what it reads; the function itself where it sets globals."""
    by, names, cells = _read_by(function.__code__), dict(function.__globals__), function.__closure__ or ()
    if not by.assigned.isdisjoint(names):
        return function
    closure = tuple(types.CellType() for _ in cells) or None
    new = made[id(function)] = types.FunctionType(function.__code__, names, function.__name__, closure=closure)
    for name in ("__module__", "__qualname__"):
        setattr(new, name, getattr(function, name))
    new.__defaults__, new.__kwdefaults__ = anew(function.__defaults__), anew(function.__kwdefaults__)
    names.update({name: anew(names[name]) for name in by.globals if name in names})
    for empty, cell in zip(closure or (), cells):
        with contextlib.suppress(ValueError):  # a cell that is still empty
            empty.cell_contents = anew(cell.cell_contents)
    return new


def _found(functions: Iterable[Callable[..., Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for function in functions:
        _look("", function, Code(), found, seen, 0)
    return found


@dataclasses.dataclass(frozen=True)
class Code:
    """What a function's instructions name: globals, attributes, what they assign, and whether they change a thing."""

    globals: frozenset[str] = frozenset()
    attributes: frozenset[str] = frozenset()
    assigned: frozenset[str] = frozenset()
    changes: bool = False
    masks: bool = False  # whether it writes `obs_mask=`


@functools.lru_cache(maxsize=1024)
def _read_by(code: types.CodeType) -> Code:
    """That of one function, and of those that it defines."""
    steps = list(dis.get_instructions(code))
    inner = [_read_by(const) for const in code.co_consts if isinstance(const, types.CodeType)]

    def named(*begins: str) -> frozenset[str]:
        return frozenset(step.argval for step in steps if step.opname.startswith(begins))

    attributes = named("LOAD_ATTR", "LOAD_METHOD")
    changes = bool(attributes & CHANGES) or any(s.opname in ("STORE_SUBSCR", "STORE_ATTR") for s in steps)
    masks = any(part == "obs_mask" for const in code.co_consts for part in (const if type(const) is tuple else [const]))
    own = Code(named("LOAD_GLOBAL"), attributes, named("STORE_GLOBAL", "STORE_DEREF"), changes, masks)
    parts = [own, *inner]
    every = (
        frozenset[str]().union(*(getattr(p, field) for p in parts)) for field in ("globals", "attributes", "assigned")
    )
    changes, masks = (any(getattr(part, field) for part in parts) for field in ("changes", "masks"))
    return Code(*every, changes=changes, masks=masks)


def _look(name: str, value: Any, by: Code, found: dict[str, Any], seen: set[int], depth: int) -> None:
    """Put what `value` holds, as the code `by` reads it, among what was found."""
    if isinstance(value, PLAIN):
        if not (depth and by.changes):
            found[name] = value
        return
    if isinstance(value, (type, jax.core.Tracer)) or id(value) in seen or depth > DEPTH:
        return
    seen.add(id(value))
    function = inspect.unwrap(value) if callable(value) else value
    if is_array(value) or _is_noise(value):
        found[name] = value
    elif isinstance(function, types.FunctionType):
        if not _is_library(function.__module__):
            _look_into(name, function, found, seen, depth)
    else:
        for key, part in _parts(value, by):
            _look(name + key, part, by, found, seen, depth + 1)


def _look_into(name: str, function: types.FunctionType, found: dict[str, Any], seen: set[int], depth: int) -> None:
    by = _read_by(function.__code__)
    if by.masks:
        found[WORD] = True
    outer = {key: function.__globals__[key] for key in sorted(by.globals) if key in function.__globals__}
    for key, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        with contextlib.suppress(ValueError):  # a cell that is still empty
            outer[key] = cell.cell_contents
    for key, part in outer.items():
        if key not in by.assigned:
            _look(key, part, by, found, seen, 0)
    defaults = {f"default {i}": part for i, part in enumerate(function.__defaults__ or ())}
    for key, part in (defaults | (function.__kwdefaults__ or {})).items():
        _look(f"{name or function.__name__}({key})", part, by, found, seen, 0)


def _parts(value: Any, by: Code) -> Iterator[tuple[str, Any]]:
    """What a module, a container, a table, a partial or bound function, or a dataclass holds, each with its name."""
    if isinstance(value, types.ModuleType):
        if value is random or value is np.random or (value is np and "random" in by.attributes):
            source = random.random.__self__ if value is random else np.random.normal.__self__
            yield (".random" if value is np else "", source)
        elif not _is_library(value.__name__):
            yield from ((f".{key}", getattr(value, key)) for key in sorted(by.attributes) if key in vars(value))
    elif isinstance(value, Mapping) or hasattr(value, "columns"):
        yield from ((f"[{key!r}]", value[key]) for key in value)
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{i}]", part) for i, part in enumerate(value))
    elif hasattr(value, "__array__"):
        yield "", np.asarray(value)
    elif isinstance(value, functools.partial):
        yield from (("", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, (types.MethodType, types.BuiltinMethodType)) and not isinstance(value.__self__, type):
        yield from (("", getattr(value, "__func__", None)), ("", value.__self__))
    elif dataclasses.is_dataclass(value) or isinstance(value, types.SimpleNamespace):
        yield from ((f".{key}", part) for key, part in getattr(value, "__dict__", {}).items())


def _is_library(module: str | None) -> bool:
    return (module or "").partition(".")[0] in LIBRARIES


def _is_noise(value: Any) -> bool:
    return isinstance(value, GENERATORS)


def _state(generator: Any) -> str:
    if isinstance(generator, random.Random):
        return repr(generator.getstate())
    return repr(generator.bit_generator.state if isinstance(generator, np.random.Generator) else generator.get_state())


def _digest(value: Any) -> str:
    if not is_array(value):
        return f"{type(value).__name__} {value!r:.80}" + ("" if len(repr(value)) <= 80 else archive.digest(repr(value)))
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    kind = f"{value.dtype}{list(value.shape)}"
    # NumPy's repr leaves out the middle of a long array.
    return f"{kind} {archive.digest(value if np.asarray(value).dtype.kind in 'biufcV' else repr(value.tolist()))}"
