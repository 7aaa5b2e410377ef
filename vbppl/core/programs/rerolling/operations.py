"""The operations that a program needs, each thing once, with what is added one after the other as one sum."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

SMALL = 256  # numbers of an operand or result, above which a copy side by side costs more than it saves
ADDENDS = 8  # one after the other, from which on their order is given up and they are added at once


@dataclasses.dataclass(eq=False)
class Operation:
    """What a program does at one place: here an equation.

    Attributes:
      inputs: its operands, variables and literals.
      outputs: its results.
      kind: what it shares with those that are alike, beside which it can be done; None of one that stands alone.
      family: of a slice its operand and shape, wherever it begins; None of all else, and of large ones.
      equation: what it does.
    """

    inputs: Sequence[Any]
    outputs: Sequence[Any]
    kind: Hashable = None
    family: Hashable = None
    equation: Any = None


@dataclasses.dataclass(eq=False)
class Sum(Operation):
    """All inputs, of one shape, are added."""


class Needs:
    """Which operations need which, and how far each is from the program's arguments and from its end."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        """Of `operations` in an order in which they can be done."""
        maker = {var: each for each in operations for var in each.outputs}
        self.of = {each: [maker[a] for a in each.inputs if is_variable(a) and a in maker] for each in operations}
        self.users: dict[Operation, list[Operation]] = {each: [] for each in operations}
        self.from_start: dict[Operation, int] = {}
        self.to_end = dict.fromkeys(operations, 0)
        for each in operations:
            self.from_start[each] = 1 + max((self.from_start[need] for need in self.of[each]), default=0)
        for each in reversed(operations):
            for need in self.of[each]:
                self.users[need].append(each)
                self.to_end[need] = max(self.to_end[need], self.to_end[each] + 1)


def is_variable(atom: Any) -> bool:
    """Or else a literal."""
    return isinstance(atom, jax.extend.core.Var)


def identity(atom: Any) -> Hashable:
    """Equal of what is the same at any arguments."""
    return atom if is_variable(atom) else (str(atom.aval), np.asarray(atom.val).tobytes())


def operations_of(jaxpr: Any) -> tuple[list[Operation], list[Any]]:
    """What a program must do, each thing once and long sums at once; and its outputs."""
    same: dict[Any, Any] = {}
    known: dict[Hashable, Operation] = {}
    found: list[Operation] = []

    def first(atom: Any) -> Any:
        return same.get(atom, atom) if is_variable(atom) else atom

    for equation in jaxpr.eqns:
        inputs, what = [first(atom) for atom in equation.invars], _what(equation)
        key = None if what is None else (what, *map(identity, inputs))
        if key is not None and key in known:
            same.update(zip(equation.outvars, known[key].outputs))
            continue
        kind, family = _kind(what, equation, inputs), _family(equation, inputs)
        found.append(Operation(inputs, equation.outvars, kind, family, equation))
        if key is not None:
            known[key] = found[-1]
    outputs = [first(atom) for atom in jaxpr.outvars]
    return _with_sums(_needed(found, outputs), outputs), outputs


def _what(equation: Any) -> Hashable:
    """What an equation does with its operands; None where that cannot be compared."""
    what = (equation.primitive, tuple(sorted(equation.params.items(), key=lambda item: item[0])), str(equation.ctx))
    try:
        hash(what)
    except TypeError:
        return None
    return what


def _kind(what: Hashable, equation: Any, inputs: Sequence[Any]) -> Hashable:
    """What it shares with the equations beside which it can be done; None of one that has to stand alone."""
    avals = [atom.aval for atom in (*inputs, *equation.outvars)]
    is_comparable = what is not None and all(map(_is_small, avals))
    return (what, tuple((a.shape, str(a.dtype)) for a in avals)) if is_comparable else None


def _family(equation: Any, inputs: Sequence[Any]) -> Hashable:
    aval = equation.outvars[0].aval
    is_slice = equation.primitive.name == "slice" and equation.params["strides"] is None and _is_small(aval)
    return (identity(inputs[0]), aval.shape) if is_slice else None


def _is_small(aval: Any) -> bool:
    return hasattr(aval, "size") and 0 < aval.size <= SMALL and not jnp.issubdtype(aval.dtype, jax.dtypes.extended)


def _needed(operations: list[Operation], outputs: Sequence[Any]) -> list[Operation]:
    wanted, kept = set(filter(is_variable, outputs)), []
    for each in reversed(operations):
        if wanted.intersection(each.outputs):
            wanted.update(filter(is_variable, each.inputs))
            kept.append(each)
    return kept[::-1]


def _with_sums(operations: list[Operation], outputs: Sequence[Any]) -> list[Operation]:
    """Numbers that are added one after the other are added at once, where nobody needs what is between."""
    uses = collections.Counter(atom for each in operations for atom in each.inputs if is_variable(atom))
    uses.update(filter(is_variable, outputs))
    adds = {each.outputs[0]: each for each in operations if _is_addition(each)}
    inner = {a for each in adds.values() for a in each.inputs if is_variable(a) and a in adds and uses[a] == 1}
    sums, left_out = {}, set()
    for var in (var for var in adds if var not in inner):
        chain = list(_added(var, adds, inner))
        addends = [atom for atom, is_between in chain if not is_between]
        if len(addends) >= ADDENDS:
            left_out.update(atom for atom, is_between in chain if is_between)
            sums[var] = Sum(addends, [var])
    return [sums.get(each.outputs[0], each) for each in operations if each.outputs[0] not in left_out]


def _is_addition(operation: Operation) -> bool:
    avals = [atom.aval for atom in (*operation.inputs, *operation.outputs)]
    is_add = operation.equation.primitive.name == "add" and operation.kind is not None
    return is_add and all((a.shape, a.dtype) == (avals[0].shape, avals[0].dtype) for a in avals)


def _added(var: Any, adds: dict[Any, Operation], inner: set[Any]) -> Iterator[tuple[Any, bool]]:
    """What is added to `var`, in order, and the sums between, which are told by True."""
    ahead = list(reversed(adds[var].inputs))
    while ahead:
        atom = ahead.pop()
        is_between = is_variable(atom) and atom in inner
        yield atom, is_between
        if is_between:
            ahead.extend(reversed(adds[atom].inputs))
