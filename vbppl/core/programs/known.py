"""What NumPy can tell of a program's outputs before anything compiles.

A trace leaves a program of JAX's operations. Those that only move numbers, compare them or do arithmetic are
followed here in NumPy, as far as they lead to an output that is wanted; whatever else stands in between makes it
unknown. So a look at a million numbers takes milliseconds, where JAX would compile first.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import jax
import jax.extend.core
import numpy as np

Step: TypeAlias = tuple[Callable[..., Any], Sequence[Any], Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class Known:
    """The part of a program that NumPy can follow: steps, each from atoms to variables.

    Attributes:
      steps: in order.
      constants: by their variables; a list of pairs, which can be emptied when what they came from is gone.
      arguments: the program's own variables.
      outputs: those that are known; None in the place of the others.
    """

    steps: tuple[Step, ...]
    constants: list[tuple[Any, Any]]
    arguments: Sequence[Any]
    outputs: tuple[Any, ...]

    @classmethod
    def of(cls, jaxpr: Any, constants: Sequence[Any] = (), unknown: Collection[Any] = (), skip: int = 0) -> Known:
        """That part of `jaxpr` that leads to the outputs after the first `skip`; `unknown` arguments have no number."""
        found, steps = {*jaxpr.constvars, *jaxpr.invars}.difference(unknown), []

        def is_known(atom: Any) -> bool:
            return isinstance(atom, jax.extend.core.Literal) or atom in found

        for equation in jaxpr.eqns:
            if all(map(is_known, equation.invars)) and (step := _in_numpy(equation)) is not None:
                steps.append((step, equation.invars, equation.outvars))
                found.update(equation.outvars)
        outputs = tuple(atom if is_known(atom) else None for atom in jaxpr.outvars[skip:])
        wanted, kept = {atom for atom in outputs if isinstance(atom, jax.extend.core.Var)}, []
        for step in reversed(steps):
            if wanted.intersection(step[2]):
                wanted.update(atom for atom in step[1] if isinstance(atom, jax.extend.core.Var))
                kept.append(step)
        held = [(var, value) for var, value in zip(jaxpr.constvars, constants) if var in wanted]
        arguments = tuple(var if var in wanted else None for var in jaxpr.invars)
        return cls(tuple(reversed(kept)), held, arguments, outputs)

    def __call__(self, *arguments: Any) -> list[np.ndarray | None]:
        """The outputs at these arguments; None where they are not known."""
        given = [(var, value) for var, value in zip(self.arguments, arguments) if var is not None and value is not None]
        numbers = {var: np.asarray(value, var.aval.dtype) for var, value in (*self.constants, *given)}

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, jax.extend.core.Literal) else numbers[atom]

        with np.errstate(all="ignore"):
            for step, atoms, variables in self.steps:
                try:
                    values = step(*map(read, atoms))
                except (ValueError, IndexError, KeyError):  # what NumPy refuses, or what hangs on it, is not known
                    continue
                for variable, value in zip(variables, values if isinstance(values, list) else [values]):
                    if value is not None:
                        numbers[variable] = np.asarray(value, variable.aval.dtype)

        def is_told(atom: Any) -> bool:
            return atom is not None and (isinstance(atom, jax.extend.core.Literal) or atom in numbers)

        return [np.asarray(read(atom), atom.aval.dtype) if is_told(atom) else None for atom in self.outputs]


def _in_numpy(equation: Any) -> Callable[..., Any] | None:
    """What an equation does, in NumPy; None where that is not known, or too much."""
    name, settings = equation.primitive.name, equation.params
    if name in CALLS:
        inner = settings.get("call_jaxpr", settings.get("jaxpr"))
        known = Known.of(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()))
        return None if None in known.outputs else known
    if name == "gather" and not _reads_rows(settings, equation.invars[0].aval.shape):
        return None
    if name == "dot_general" and not _is_small(settings, equation):
        return None
    if name == "eigh" and float(equation.invars[0].aval.size) * equation.invars[0].aval.shape[-1] > PRODUCTS:
        return None
    if name in MOVES:
        return functools.partial(MOVES[name], settings, equation.outvars[0].aval)
    return UFUNCS.get(name)


def _reads_rows(settings: Mapping[str, Any], shape: Sequence[int]) -> bool:
    """Is it `x[indices]`, along the first axis alone? JAX gathers in many other ways."""
    how, one = settings["dimension_numbers"], tuple(settings["slice_sizes"]) == (1, *shape[1:])
    plain = not (how.operand_batching_dims or how.start_indices_batching_dims)
    return one and plain and tuple(how.collapsed_slice_dims) == tuple(how.start_index_map) == (0,)


def _is_small(settings: Mapping[str, Any], equation: Any) -> bool:
    """A product of matrices, without batches, that takes no time: not that of a network."""
    (left, _), batches = settings["dimension_numbers"]
    terms = np.prod([equation.invars[0].aval.shape[dim] for dim in left], dtype=float)
    return not any(batches) and float(terms) * equation.outvars[0].aval.size <= PRODUCTS


PRODUCTS = 1e8  # of numbers, in a product of matrices
CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call")

SAME = ("exp", "exp2", "log", "log1p", "expm1", "sqrt", "cbrt", "sin", "cos", "tan", "sinh", "cosh", "tanh", "square")
SAME += ("abs", "sign", "floor", "ceil", "round")
OTHERWISE = {"add": "add", "sub": "subtract", "mul": "multiply", "div": "true_divide", "rem": "fmod", "pow": "power"}
OTHERWISE |= {"neg": "negative", "max": "maximum", "min": "minimum", "is_finite": "isfinite", "not": "invert"}
OTHERWISE |= {
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
}
OTHERWISE |= {"and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "copy": "asarray", "copy_p": "asarray"}
OTHERWISE |= {"stop_gradient": "asarray"}
UFUNCS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {ours: getattr(np, theirs) for ours, theirs in ({name: name for name in SAME} | OTHERWISE).items()}
    | {
        "logistic": lambda x: 1 / (1 + np.exp(-x)),
        "rsqrt": lambda x: 1 / np.sqrt(x),
        "clamp": lambda low, x, high: np.clip(x, low, high),
        "select_n": lambda which, *cases: np.choose(np.asarray(which, int), cases),
    }
)


def _spread(settings: Mapping[str, Any], out: Any, x: Any) -> np.ndarray:
    shape = [1] * len(out.shape)
    for own, dim in enumerate(settings["broadcast_dimensions"]):
        shape[dim] = np.shape(x)[own]
    return np.broadcast_to(np.reshape(x, shape), out.shape)


def _slice(settings: Mapping[str, Any], _: Any, x: Any) -> np.ndarray:
    strides = settings["strides"] or (None,) * np.ndim(x)
    return x[tuple(map(slice, settings["start_indices"], settings["limit_indices"], strides))]


def _iota(settings: Mapping[str, Any], out: Any) -> np.ndarray:
    shape = [1] * len(out.shape)
    shape[settings["dimension"]] = -1
    return np.broadcast_to(np.arange(out.shape[settings["dimension"]]).reshape(shape), out.shape)


def _dot(settings: Mapping[str, Any], _: Any, x: Any, y: Any) -> np.ndarray:
    return np.tensordot(x, y, settings["dimension_numbers"][0])


def _eigh(_: Any, __: Any, x: Any) -> list[np.ndarray]:
    # NumPy raises an error for what is not finite; a matrix with eigenvalues of 0 is no covariance either.
    values, vectors = np.linalg.eigh(np.where(np.isfinite(x), x, 0.0))
    return [vectors, values]


def _cumsum(settings: Mapping[str, Any], _: Any, x: Any) -> np.ndarray:
    along = functools.partial(np.flip, axis=settings["axis"]) if settings["reverse"] else np.asarray
    return along(np.cumsum(along(x), axis=settings["axis"]))


def _reduced(by: Any) -> Callable[..., np.ndarray]:
    return lambda settings, _, x: by.reduce(x, axis=settings["axes"])


def _rows(settings: Mapping[str, Any], out: Any, x: Any, indices: Any) -> np.ndarray:
    # As JAX does; where it would fill in another number, NumPy raises an error, and what comes of it is not known.
    fills = settings["mode"] == jax.lax.GatherScatterMode.FILL_OR_DROP
    taken = np.take(x, indices[..., 0], axis=0, mode="raise" if fills else "clip")
    window = settings["dimension_numbers"].offset_dims
    last = range(taken.ndim - len(window), taken.ndim)
    return np.moveaxis(taken, last, window).reshape(out.shape)


MOVES: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "broadcast_in_dim": _spread,
        "concatenate": lambda settings, _, *parts: np.concatenate(parts, settings["dimension"]),
        "convert_element_type": lambda _, out, x: np.asarray(x).astype(out.dtype),
        "cumsum": _cumsum,
        "dot_general": _dot,
        "eigh": _eigh,
        "gather": _rows,
        "integer_pow": lambda settings, _, x: np.power(x, settings["y"]),
        "iota": _iota,
        "reduce_and": _reduced(np.bitwise_and),
        "reduce_max": _reduced(np.maximum),
        "reduce_min": _reduced(np.minimum),
        "reduce_or": _reduced(np.bitwise_or),
        "reduce_prod": _reduced(np.multiply),
        "reduce_sum": _reduced(np.add),
        "reshape": lambda _, out, x: np.reshape(x, out.shape),
        "rev": lambda settings, _, x: np.flip(x, settings["dimensions"]),
        "slice": _slice,
        "squeeze": lambda _, out, x: np.reshape(x, out.shape),
        "stack": lambda settings, _, *parts: np.stack(parts, settings["axis"]),
        "tile": lambda settings, _, x: np.tile(x, settings["reps"]),
        "transpose": lambda settings, _, x: np.transpose(x, settings["permutation"]),
    }
)
