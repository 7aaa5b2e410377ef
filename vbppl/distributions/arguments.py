"""What may be given to a distribution, and what is told to whoever gives something else."""

from __future__ import annotations

import difflib
import inspect
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.types import ArrayLike, Shape


def as_array(values: Sequence[Any], distribution: Any, name: str) -> ArrayLike:
    """A list as an array: NumPy's, which compiles nothing, unless some of its values may be latent variables."""
    latent = any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(values))
    try:
        return jnp.asarray(values) if latent else np.asarray(values)
    except ValueError:
        mend = "Pad them to one length, and let what is padding not count: d.mask(is_real)."
        what = f"{type(distribution).__name__}: the rows of {name} differ in length."
        raise TypeError(f"{what}\n  To mend it: {mend}") from None


def check_kind(distribution: Any, name: str, kind: str, value: Any, mend: str = "Give {0}({2}=...) {1}.") -> None:
    """Raise where a parameter cannot be what its field is declared as, before JAX meets it in a formula."""
    if kind == "ArrayLike":
        # What has neither a dtype nor numbers of its own may still say how to become an array.
        dtype = getattr(value, "dtype", None if isinstance(value, (int, float)) else type(value))
        if dtype is None or hasattr(value, "__jax_array__") or (hasattr(value, "__array__") and dtype is type(value)):
            return
        good = dtype is not type(value) and (
            jnp.issubdtype(dtype, np.bool_) or jnp.issubdtype(dtype, np.integer) or jnp.issubdtype(dtype, np.floating)
        )
        words = "a number or an array of numbers"
    else:
        good = {"int": isinstance(value, (int, np.integer)), "Distribution": hasattr(value, "log_prob")}.get(kind, True)
        words = {"int": "a whole number", "Distribution": "a distribution"}.get(kind, "")
    if not good:
        found = repr(value) if len(repr(value)) < 40 else f"a {type(value).__name__}"
        of = type(distribution).__name__
        link, mend = "which", mend.format(of, words, name)
        if (applied := getattr(value, "function", None)) is not None and hasattr(value, "inline"):
            called = getattr(applied, "__name__", "helper")
            found, link = f"the model {found}, which has run nothing", "and"
            mend = f'State it, vb.sample("part", {called}(...)), which returns what it returns; or drop its @vb.model.'
        raise ModelError(f"the {name} of {of} is {found}, {link} is not {words}.", mend=mend)


def as_weight(distribution: Any, weight: Any) -> ArrayLike:
    """What `d.weighted(weight)` is given, as numbers."""
    weight = as_array(weight, distribution, "weight") if isinstance(weight, (list, tuple)) else weight
    check_kind(distribution, "weight", "ArrayLike", weight, "Write {0}(...).weighted(w), with w {1} from 0 on.")
    return weight


def as_shape(of: str, name: str, sizes: Any) -> Shape:
    """A shape as whole numbers, a single one as that of one dimension; or an error that names the argument."""
    try:
        shape = tuple(operator.index(size) for size in np.atleast_1d(np.array(sizes, object)))
    except TypeError:
        shape = (-1,)
    if min(shape, default=0) < 0:
        raise ModelError(
            f"the {name} of {of} is {sizes!r}, which is not a tuple of whole numbers from 0 on.",
            mend=f"Write {name}=(3,) for three, or () for one.",
        )
    return shape


# What other libraries call a parameter.
ALIASES = {"mu": "loc", "mean": "loc", "sigma": "scale", "sd": "scale", "std": "scale", "lam": "rate", "p": "probs"}
ALIASES |= {"n": "total_count", "alpha": "concentration", "beta": "rate", "cov": "covariance_matrix", "nu": "df"}


def check_call(cls: type, count: int, given: Iterable[str]) -> None:
    """Raise where more values, or other names, are given than the class has parameters: with the name that is meant."""
    parameters = inspect.signature(cls).parameters
    known = [p.name for p in parameters.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if len(known) < len(parameters):
        return
    if not known:
        mend = "Write them in the class as fields, each with a type: loc: float = 0.0."
        raise TypeError(f"{cls.__name__} has no parameters, but some were given.\n  To mend it: {mend}")
    if getattr(cls, "__dataclass_fields__", None) == {}:
        mend = f"Leave it out, and write them in the class as fields: {known[0]}: float = 0.0."
        raise TypeError(f"{cls.__name__} sets its parameters in an __init__ of its own.\n  To mend it: {mend}")
    if count > len(known):
        mend = f"Write {cls.__name__}({', '.join(f'{name}=...' for name in known)})."
        raise TypeError(
            f"{cls.__name__} takes {', '.join(known)}, but {count} values were given.\n  To mend it: {mend}"
        )
    for name in given:
        if name in known:
            continue
        close = [ALIASES[name]] if ALIASES.get(name) in known else difflib.get_close_matches(name, known, n=1)
        mend = f"Did you mean {close[0]}=?" if close else f"It takes {', '.join(known)}."
        if name == "scale" and "rate" in known:
            mend = "Give rate=, which is one over the scale."
        if name == "validate_args":
            mend = "Leave it out: what is known of the numbers is always looked at."
        raise TypeError(f"{cls.__name__} has no parameter {name}.\n  To mend it: {mend}")


def no_pytree(distribution: Any) -> ModelError:
    """What to raise where a distribution of one's own is no pytree."""
    return ModelError(
        f"{type(distribution).__name__} does not say which of its attributes are parameters.",
        mend="Write @pytree above it (from vbppl.core.pytree), and its parameters as fields: loc: float = 0.0.",
    )
