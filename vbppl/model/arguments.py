"""The arguments of a model: arrays and sources, which are data, and settings, which shape the program."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from types import FunctionType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core import archive, devices
from vbppl.core.errors import ModelError, of_kind
from vbppl.core.keys import named
from vbppl.core.pytree import is_array
from vbppl.core.types import PyTree
from vbppl.data.padded import is_padded
from vbppl.data.source import UNNAMED, Source, is_source
from vbppl.model.labels.names import Argument, Names, ReadError, Unread, checked, is_unread, is_words
from vbppl.model.missing.places import located
from vbppl.model.shapes import as_numbers


def name_of(function: Callable[..., Any]) -> str:
    """What to call a function in messages; a `functools.partial` has no name of its own."""
    function = function.func if isinstance(function, functools.partial) else function
    return getattr(function, "__name__", type(function).__name__)


def by_name(values: Any) -> Mapping[str, Any]:
    """Values of sites, or an error where they are no dict of them."""
    return of_kind("values", values, isinstance(values, Mapping), "a dict of values by the sites' names")


def split(arguments: PyTree, function: Callable[..., Any]) -> tuple[tuple[Any, ...], tuple[Static, ...], Any]:
    """The data among a model's arguments; for each argument its setting, or None where it is data; the structure."""

    def is_whole(part: Any) -> bool:  # not all that is given by position, which may be strings alone
        return part is not arguments[0] and _is_whole(part)

    paths, structure = jax.tree_util.tree_flatten_with_path(arguments, is_leaf=is_whole)
    leaves = [_leaf(leaf, path, function) for path, leaf in paths]
    settings = tuple(None if is_data(leaf) else _setting(leaf, name_of(function)) for leaf in leaves)
    return tuple(leaf for leaf in leaves if is_data(leaf)), settings, structure


def _is_whole(argument: Any) -> bool:
    """Whether an argument is not to be looked into; JAX will refuse iterators of which it is not told so."""
    return is_unread(argument) or is_words(argument) or isinstance(argument, (Source, Iterator))


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


EXACTLY = ", exactly "  # between the digests of an array in 32 bits and in 64

Static: TypeAlias = Setting | Names | FunctionType | None


def _setting(leaf: Any, function: str) -> Static:
    """An argument that is no data, as a part of a program."""
    return leaf if isinstance(leaf, (Setting, Names)) else Setting.of(leaf, function)


def value_of(setting: Static) -> Any:
    """The argument itself."""
    if not isinstance(setting, (Setting, Names)):
        return setting
    return list(setting.value) if setting.kind is list else setting.value


def shown_to_run(setting: Static, number: int) -> Any:
    """The argument as the model's function gets it: of names only how many there are."""
    return Unread(number, setting) if isinstance(setting, Names) else value_of(setting)


def _leaf(leaf: Any, path: tuple, function: Callable[..., Any]) -> Any:
    """An argument as data, as names of rows, or as it is."""

    def called() -> str:
        return f"argument {_argument(path, function)} of {name_of(function)}"

    if is_unread(leaf):  # passed on by a model to another
        return Setting(leaf, Unread)
    if not is_words(leaf) and is_source(leaf):
        return as_source(leaf, path, function)
    names = Names.of(leaf, called)
    return _data_at(leaf, called) if names is None else names


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
    "rng_key": "Leave it out: a seed is given to fit, and to my_model(...).sample(n, seed=...).",
    "observed": "Write obs=y.",
    "event_dim": "Leave it out: every number of a param is learnt, whatever its shape.",
}


def check_keywords(word: str, site: str, given: Mapping[str, Any], known: str) -> None:
    """Refuse keywords that a statement does not have."""
    for name in given:
        mend = FOREIGN.get(name, f"Write {known}.")
        raise TypeError(f"site '{site}': {word} has no argument {name}=.\n  To mend it: {mend}")


def without_infer(site: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of a sample statement without NumPyro's `infer={"enumerate": "parallel"}`, which is what is done."""
    asked = given.get("infer")
    if not isinstance(asked, Mapping) or asked and "enumerate" not in asked:
        return dict(given)
    if asked and dict(asked) != {"enumerate": "parallel"}:
        raise ModelError(
            f"infer is {asked!r:.80}, of which only {{'enumerate': 'parallel'}} has a meaning here.",
            site=site,
            mend="Leave it out: discrete latent sites are summed out anyway.",
        )
    return {name: value for name, value in given.items() if name != "infer"}


def plain_function(function: Any, made: type) -> Callable[..., Any]:
    """The function that a decorator makes a model; of one that was `made` a model before, or a partial of it, its own.

    Raises:
      TypeError: it cannot be called, or would not run when it is.
    """
    if isinstance(function, made):
        return function.__wrapped__
    if isinstance(function, functools.partial) and isinstance(function.func, made):
        return functools.partial(function.func.__wrapped__, *function.args, **function.keywords)
    of_kind("function", function, callable(function), "a function of the model's arguments")
    kinds = (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    if any(is_one(function) for is_one in kinds):
        raise TypeError(
            f"{name_of(function)} yields or is asynchronous, so none of its statements would run.\n"
            "  To mend it: Write a plain function; a value leaves it by return, or by vb.deterministic."
        )
    return function


def _data_at(leaf: Any, called: Callable[[], str]) -> Any:
    """Things that hold numbers (a pandas column, say) as arrays; an array of anything else is an error."""
    if isinstance(leaf, jax.Array) or not hasattr(leaf, "__array__") or (is_array(leaf) and leaf.dtype.kind in "bfc"):
        return leaf
    array = as_numbers(leaf, called())
    return leaf if is_array(leaf) else array


def named_arrays(model: Any) -> dict[str, Any]:
    """The arrays among a model's arguments that are here, by names that a file may have: `x`, `data_x`."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(model.arguments, is_leaf=_is_whole)[0]:
        is_here = is_array(leaf) and is_data(leaf) and devices.is_here(leaf)
        if is_here and np.dtype(leaf.dtype).kind not in "USMO":  # of the rest some are labels
            found[re.sub(r"\W+", "_", _argument(path, model.function)).strip("_")] = leaf
    return found


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

    The digest is of their 32 bits, alike in every precision of a session, so that data can be recognised in another
    process; of data in double precision one of all their digits follows, for those who have them again.
    """
    parts: dict[str, dict[str, str]] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(arguments, is_leaf=_is_whole)[0]:
        parts.setdefault(_argument(path[:2], function), {})[_argument(path, function)] = told_of(leaf)
    found = {}
    for name, texts in parts.items():  # of a long list, or a network, all together
        found |= texts if len(texts) <= 8 else {name: _together(list(texts.values()))}
    return found


def _together(texts: Sequence[str]) -> str:
    rounded = [text.split(EXACTLY)[0] for text in texts]
    exactly = f"{EXACTLY}{archive.digest(*texts)}" if rounded != texts else ""
    return f"{len(texts)} parts [] {archive.digest(*rounded)}{exactly}"


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
    exactly = f"{EXACTLY}{archive.digest(np.asarray(leaf))}" if leaf.dtype in (np.float64, np.complex128) else ""
    with np.errstate(over="ignore"):  # of numbers that single precision has not
        return f"{word or leaf.dtype}{list(leaf.shape)} {archive.digest(np.asarray(leaf).astype(wide))}{exactly}"


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


def changing(site: str) -> ModelError:
    """The error where another run has other statements."""
    mend = "Let the same statements run each time: nothing that counts runs, or is random, may choose among them."
    return ModelError("the site was not there when the model was first run.", site=site, mend=mend)


def refuse_function(name: str, dist: Any) -> None:
    """A model stands in a statement applied to its arguments."""
    if callable(dist) and not isinstance(dist, type) and not (hasattr(dist, "log_prob") or hasattr(dist, "rvs")):
        called = getattr(dist, "__name__", type(dist).__name__)
        raise ModelError(
            f"the second argument of sample is the function {called}, not a distribution.",
            site=name,
            mend=f"A model stands here applied to its arguments: write {called}(...), with {called} under @vb.model.",
        )


def submodel(run: Any, name: str, program: Any, obs: Any) -> Any:
    """What a model returns that stands in a statement: it is run as a part of the current run, under a longer name."""
    if obs is not None:
        mend = "Condition it by the names of its sites: sample(name, other(x).condition(y=...))."
        raise ModelError("a model has no single value to observe.", site=name, mend=mend)
    before, run.prefix = run.prefix, name + "/"
    try:
        return program.inline()
    finally:
        run.prefix = before


def numbers_of(name: str, what: str, value: Any, whole: bool = False) -> Any:
    """What a statement gets, as arrays."""
    if hasattr(value, "log_prob"):
        mend = f"Take its log_prob(x) here, or state that a site has it: vb.sample({name!r}, ...)."
        raise ModelError(f"{what} is a distribution, {type(value).__name__}, not numbers.", site=name, mend=mend)
    try:
        return jnp.asarray(value) if whole else jax.tree.map(jnp.asarray, value)
    except (TypeError, ValueError):
        mend = "Pass numbers, arrays, or containers of these."
        raise ModelError(f"{what} is {value!r:.80}, not numbers.", site=name, mend=mend) from None


def made_by_key(name: str, init: Any) -> Any:
    """What a param begins with, where `init` is a function of a key: the same in each run."""
    if not callable(init) or any(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(init)):
        return init
    try:
        with jax.ensure_compile_time_eval():
            return init(named(jax.random.key(0), name))
    except TypeError as error:
        called = getattr(init, "__name__", type(init).__name__)
        raise ModelError(
            f"init is a function ({called}) that a key alone does not satisfy.",
            site=name,
            mend="Pass the initial value itself, or a function of a key: lambda key: jax.random.normal(key, (3,)).",
        ) from error


def settled(model: Any, outlines: Callable[[Any], Mapping[str, Any]] | None) -> Any:
    """The same model, whose lists of names are settings where its function reads what they say.

    Args:
      model: just applied to its arguments.
      outlines: makes an abstract run; None where the model is a part of another.

    Raises:
      ModelError: it reads an array of strings or dates, or has no use for it.
    """
    names = {i: setting for i, setting in enumerate(model.settings) if isinstance(setting, Names)}

    def reading(numbers: Container[int]) -> Any:
        settings = (Setting(s.value, s.kind) if i in numbers else s for i, s in enumerate(model.settings))
        return located(dataclasses.replace(model, settings=tuple(settings)))

    model = model if outlines is None else located(model)
    if not names or outlines is None:
        return reading(names) if names else model
    try:
        sites = outlines(model)
    except ReadError as error:
        names[error.number].refuse()
        return settled(reading([error.number]), outlines)
    except Exception:  # it will be told where the model is asked for something
        return reading([i for i, each in names.items() if each.kind is not np.ndarray])
    used = [each.labels for site in sites.values() for each in (site, *site.dims)]
    for number, each in names.items():
        if Argument(number, is_array=False) in used:
            checked(each.called, each.value)
        else:
            each.refuse()
    return model


def no_such_site(name: str, where: str, known: Mapping[str, Any]) -> ModelError:
    """The error of a name that is none of the sites' of a model."""
    close = difflib.get_close_matches(name, known, n=1)
    return ModelError(
        f"{where} has no site '{name}'.",
        details=f"its sites: {', '.join(known)}",
        mend=f"Did you mean '{close[0]}'?" if close else "Use one of these names.",
    )


def leading_draws(sites: Mapping[str, Any], values: Mapping[str, Any]) -> int | None:
    """How many draws `values` holds along a leading axis; None where it holds single values.

    Raises:
      ModelError: some sites have draws and others single values, or they differ in number.
    """
    given = {n: jnp.shape(values[n]) for n, s in sites.items() if s.kind == "sample" and not s.observed and n in values}
    draws = {name: shape[0] if shape[1:] == sites[name].shape and shape else None for name, shape in given.items()}
    single = [name for name, shape in given.items() if shape == sites[name].shape]
    counts = {count for name, count in draws.items() if name not in single}
    if len(counts) > 1 or (counts and single and counts != {None}):
        raise ModelError(
            "the values are neither one value for each site nor the same number of draws of each.",
            details="\n".join(f"{name}: site {sites[name].shape}, values {shape}" for name, shape in given.items()),
            mend="Give every latent site a value of its own shape, or n of them along a new first axis.",
        )
    return next(iter(counts), None)
