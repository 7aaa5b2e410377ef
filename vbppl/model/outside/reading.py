"""What a model's function reads from outside its arguments: globals, closures and defaults, told by their names.

A compiled program holds for ever what stood there when it was compiled, as under `jax.jit`. So a model notes what its
function reads when it is applied: other numbers are another model, with programs of its own, and numbers that change
while a model is in use are refused by name. What a function changes itself (a counter, a list of notes) is not looked
at; neither is what lies behind C code and generators, in containers within five others, in attributes whose names the
code computes, or in objects of installed packages that are neither dataclasses nor pytrees.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import dis
import functools
import inspect
import operator
import random
import sys
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
    functions, names = list(functions), Code()
    while True:  # an object may be read by a function that is met after it
        looking = _Looking(names, {}, set(), [], [])
        for function in functions:
            looking.at("", function, Code(), 0)
        every = functools.reduce(operator.or_, looking.met, Code())
        if not looking.objects or (every.attributes, every.stored) == (names.attributes, names.stored):
            return looking.found
        names = Code(attributes=every.attributes, stored=every.stored)


@dataclasses.dataclass(frozen=True)
class Code:
    """What a function's instructions name.

    Attributes:
      globals, attributes: which it reads; texts count as attributes, as in `getattr(settings, "scale")`.
      assigned, stored: which variables outside of it, and which attributes, it sets.
      changes: whether it changes a container.
      masks: whether it writes `obs_mask=`.
    """

    globals: frozenset[str] = frozenset()
    attributes: frozenset[str] = frozenset()
    assigned: frozenset[str] = frozenset()
    stored: frozenset[str] = frozenset()
    changes: bool = False
    masks: bool = False

    def __or__(self, other: Code) -> Code:
        """Of both."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))
        return Code(*(one | more for one, more in pairs))


@functools.lru_cache(maxsize=1024)
def _read_by(code: types.CodeType) -> Code:
    """That of one function, and of those that it defines."""
    steps = list(dis.get_instructions(code))
    inner = [_read_by(const) for const in code.co_consts if isinstance(const, types.CodeType)]

    def named(*begins: str) -> frozenset[str]:
        return frozenset(step.argval for step in steps if step.opname.startswith(begins))

    attributes, stored = named("LOAD_ATTR", "LOAD_METHOD"), named("STORE_ATTR")
    changes = bool(attributes & CHANGES) or any(s.opname in ("STORE_SUBSCR", "STORE_ATTR") for s in steps)
    parts = [part for const in code.co_consts for part in (const if type(const) is tuple else [const])]
    texts = frozenset(part for part in parts if isinstance(part, str))
    assigned = named("STORE_GLOBAL", "STORE_DEREF")
    own = Code(named("LOAD_GLOBAL"), attributes | texts, assigned, stored, changes, "obs_mask" in texts)
    return functools.reduce(operator.or_, inner, own)


@dataclasses.dataclass(frozen=True)
class _Looking:
    """A walk through what functions read.

    Attributes:
      names: the attributes that all of them read and set, as far as is known.
      found: what was found, by its name.
      seen: the identities of what was looked at.
      met: the code of the functions and methods that were.
      objects: the classes of a user's own objects that were.
    """

    names: Code
    found: dict[str, Any]
    seen: set[int]
    met: list[Code]
    objects: list[type]

    def at(self, name: str, value: Any, by: Code, depth: int) -> None:
        """Put what `value` holds, as the code `by` reads it, among what was found."""
        if isinstance(value, PLAIN):
            if not (depth and by.changes):
                self.found[name] = value
            return
        if isinstance(value, jax.core.Tracer) or id(value) in self.seen or depth > DEPTH:
            return
        self.seen.add(id(value))
        function = inspect.unwrap(value) if callable(value) else value
        if is_array(value) or _is_noise(value):
            self.found[name] = value
        elif isinstance(function, types.FunctionType):
            if not _is_library(function.__module__):
                self.into(name, function, depth)
        else:
            kind = value if isinstance(value, type) else type(value)
            if _is_own(kind.__module__):
                by = by | self.names | _called(kind, (by | self.names).attributes)
                self.objects.append(kind)
                self.met.append(Code(attributes=by.attributes, stored=by.stored))
            for key, part in _parts(value, by):
                # Which attributes the code sets is known by their names; of what lies in containers it is not.
                within = Code() if key.startswith(".") and isinstance(part, PLAIN) else by
                self.at((name or (kind.__name__ if key.startswith(".") else "")) + key, part, within, depth + 1)

    def into(self, name: str, function: types.FunctionType, depth: int) -> None:
        """The same of all that a function names."""
        by = _read_by(function.__code__)
        self.met.append(by)
        if by.masks:
            self.found[WORD] = True
        outer = {key: function.__globals__[key] for key in sorted(by.globals) if key in function.__globals__}
        for key, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
            with contextlib.suppress(ValueError):  # a cell that is still empty
                outer[key] = cell.cell_contents
        for key, part in outer.items():
            if key not in by.assigned:
                self.at(key, part, by, 0)
        defaults = {f"default {i}": part for i, part in enumerate(function.__defaults__ or ())}
        for key, part in (defaults | (function.__kwdefaults__ or {})).items():
            self.at(f"{name or function.__name__}({key})", part, by, 0)


def _parts(value: Any, by: Code) -> Iterator[tuple[str, Any]]:
    """What a module, a container, a table, a partial or bound function, or an object holds, each with its name."""
    if isinstance(value, types.ModuleType):
        if value is random or value is np.random or (value is np and "random" in by.attributes):
            source = random.random.__self__ if value is random else np.random.normal.__self__
            yield (".random" if value is np else "", source)
        elif not _is_library(value.__name__):
            yield from ((f".{key}", getattr(value, key)) for key in sorted(by.attributes) if key in vars(value))
    elif isinstance(value, Mapping) or hasattr(type(value), "columns"):
        yield from ((f"[{key!r}]", value[key]) for key in value)
    elif isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        value = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        yield from ((f"[{i}]", part) for i, part in enumerate(value))
    elif hasattr(type(value), "__array__"):
        yield "", np.asarray(value)
    elif isinstance(value, functools.partial):
        yield from (("", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, (types.MethodType, types.BuiltinMethodType)) and not isinstance(value.__self__, type):
        yield from (("", getattr(value, "__func__", None)), ("", value.__self__))
    elif _is_own((value if isinstance(value, type) else type(value)).__module__):
        own = getattr(value, "__dict__", ()) if dataclasses.is_dataclass(type(value)) else ()
        for key in sorted({*own, *by.attributes, *UNNAMED} - by.stored - {"__init__"}):
            part = inspect.getattr_static(value, key, None)
            if isinstance(part, types.MemberDescriptorType):  # of __slots__
                yield f".{key}", getattr(value, key, None)
            elif part is not None:
                yield f".{key}", _function_of(part)
    elif dataclasses.is_dataclass(type(value)) or isinstance(value, (types.SimpleNamespace, argparse.Namespace)):
        yield from ((f".{key}", part) for key, part in getattr(value, "__dict__", {}).items())
    else:  # of an installed package, as an NNX layer is
        leaves = jax.tree_util.tree_flatten_with_path(value)[0]
        yield from ((jax.tree_util.keystr(path), leaf) for path, leaf in leaves if path)


# What is called of an object without its name.
UNNAMED = frozenset(f"__{name}__" for name in "call getitem getattr iter len enter float array jax_array".split())


def _called(kind: type, attributes: frozenset[str]) -> Code:
    """What code that names these `attributes` runs of the methods of a class, and those of each other."""
    found, names = Code(), frozenset[str]()
    while more := (UNNAMED | attributes | found.attributes) - names - {"__init__"}:
        names |= more
        for name in more:
            found = found | _read_by_call(_function_of(inspect.getattr_static(kind, name, None)))
    return found


def _read_by_call(function: Any) -> Code:
    is_read = isinstance(function, types.FunctionType) and not _is_library(function.__module__)
    return _read_by(function.__code__) if is_read else Code()


def _function_of(part: Any) -> Any:
    """Of what stands in a class: what a property or a class method runs; all else as it is."""
    kept = {property: "fget", functools.cached_property: "func", classmethod: "__func__", staticmethod: "__func__"}
    return getattr(part, kept[type(part)]) if type(part) in kept else part


def _is_library(module: str | None) -> bool:
    return (module or "").partition(".")[0] in LIBRARIES


@functools.lru_cache(maxsize=1024)
def _is_own(module: str | None) -> bool:
    """Whether it is a user's, and neither Python's nor an installed package, whose classes are not followed."""
    package = (module or "").partition(".")[0]
    where = getattr(sys.modules.get(package), "__file__", None) or ""
    is_installed = "site-packages" in where or "dist-packages" in where
    return package not in LIBRARIES | sys.stdlib_module_names and not is_installed


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
        with jax.ensure_compile_time_eval():  # a model may be read while a gradient of it is traced
            value = jax.random.key_data(value)
    kind = f"{value.dtype}{list(value.shape)}"
    # NumPy's repr leaves out the middle of a long array.
    return f"{kind} {archive.digest(value if np.asarray(value).dtype.kind in 'biufcV' else repr(value.tolist()))}"
