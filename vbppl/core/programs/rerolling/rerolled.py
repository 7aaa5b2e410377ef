"""The outputs of a program whose alike operations are done side by side."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend.core.primitives import convert_element_type_p

from vbppl.core.programs.rerolling.loops import Loop, rounds_with_loops
from vbppl.core.programs.rerolling.operations import Operation, Sum, identity, is_variable, operations_of
from vbppl.core.programs.rerolling.rounds import FEW, Round
from vbppl.core.programs.uniform import bind

MANY = 200  # operations of a program, below which it compiles in no time
SPARSE = 4  # times as many slices of an array as are needed, from which on they are taken one by one


def rerolled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, to be traced within a program, with its alike operations on few numbers side by side.

    As it was where fewer than half of the operations would go and none become a loop.

    >>> def loop(xs):
    ...     return sum(jnp.exp(xs[i]) * jnp.sin(xs[i]) for i in range(100))
    >>> before, after = (len(jax.make_jaxpr(f)(jnp.arange(100.0)).eqns) for f in (loop, rerolled(loop)))
    >>> before > 50 * after
    True
    """

    @functools.wraps(function)
    def joined(*arguments: Any, **static: Any) -> Any:
        closed, shapes = jax.make_jaxpr(functools.partial(function, **static), return_shape=True)(*arguments)
        return _rerolled(closed, shapes)(*arguments)

    return joined


def rerolled_at(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """As `rerolled`, traced here and now, at arguments of these shapes."""
    return _rerolled(*jax.make_jaxpr(function, return_shape=True)(*arguments))


def _rerolled(closed: Any, shapes: Any) -> Callable[..., Any]:
    avals, structure = [var.aval for var in closed.jaxpr.invars], jax.tree.structure(shapes)
    if any(map(_is_inline, closed.jaxpr.eqns)):
        closed = jax.make_jaxpr(functools.partial(_inlined, closed))(*avals)
    if (operations := len(closed.jaxpr.eqns)) >= MANY and not closed.jaxpr.effects:
        again = jax.make_jaxpr(functools.partial(_evaluated, closed))(*avals)
        # What is not alike gains nothing, and is better as it was written; what was a chain is better as a loop.
        before, after = (sum(each.primitive.name == "scan" for each in c.jaxpr.eqns) for c in (closed, again))
        closed = again if 2 * len(again.jaxpr.eqns) <= operations or before < after else closed
    return lambda *arguments: structure.unflatten(
        jax.core.eval_jaxpr(closed.jaxpr, closed.consts, *jax.tree.leaves(arguments))
    )


def _is_inline(equation: Any) -> bool:
    """Whether it is a program that was to be written into the one around it, which JAX does sooner or later."""
    return equation.primitive.name in ("jit", "pjit") and equation.params["inline"]


def _inlined(closed: Any, *arguments: Any) -> list[Any]:
    """The outputs of a closed program, with those in it that were to be a part of it."""
    found = dict(zip((*closed.jaxpr.constvars, *closed.jaxpr.invars), (*closed.consts, *arguments)))

    def read(atom: Any) -> Any:
        return found[atom] if is_variable(atom) else atom.val

    for equation in closed.jaxpr.eqns:
        given = [read(atom) for atom in equation.invars]
        made = _inlined(equation.params["jaxpr"], *given) if _is_inline(equation) else bind(equation, given)
        found.update(zip(equation.outvars, made))
    return [read(atom) for atom in closed.jaxpr.outvars]


def _evaluated(closed: Any, *arguments: Any) -> list[Any]:
    """The outputs of a closed program, with what is alike side by side."""
    operations, outputs = operations_of(closed.jaxpr)
    rounds = rounds_with_loops(operations, outputs)
    given = zip((*closed.jaxpr.constvars, *closed.jaxpr.invars), (*closed.consts, *arguments))
    values = _Values(dict(given), rounds, outputs)
    for each in rounds:
        values.compute(each.operations)
    return [_as_weak_as(var.aval, values.read(atom)) for var, atom in zip(closed.jaxpr.outvars, outputs)]


def _as_weak_as(aval: Any, value: Any) -> Any:
    """The same, which yields to the dtype of others only if it did: side by side, all hold to theirs."""
    if jax.typeof(value).weak_type == aval.weak_type:
        return value
    return convert_element_type_p.bind(value, new_dtype=aval.dtype, weak_type=aval.weak_type, sharding=None)


def _joins(operation: Operation) -> bool:
    """Whether it takes its operands as one array: a sum, a loop, or what makes an array of them."""
    if isinstance(operation, (Sum, Loop)):
        return True
    shapes = {atom.aval.shape for atom in operation.inputs}
    return operation.equation.primitive.name in ("stack", "concatenate") and len(shapes) == 1


class _Values:
    """What the variables of a program are: each by itself, or one of an array of several side by side."""

    def __init__(self, given: dict[Any, Any], rounds: Sequence[Round], outputs: Sequence[Any]) -> None:
        """Of what is `given`; what is to be computed tells which results are needed by themselves."""
        alone = (mates[0] for _, mates in rounds if len(mates) == 1 and not _joins(mates[0]))
        atoms = itertools.chain(outputs, *(each.inputs for each in alone))
        self._alone = set(filter(is_variable, atoms))
        self._own = given
        self._arrays: list[Any] = []
        self._places: dict[Any, tuple[int, int]] = {}  # the array, and where along its first axis
        self._parts: list[Sequence[Any]] = []  # of the arrays of which many are needed by themselves
        self._columns: dict[Any, Any] = {}

    def compute(self, alike: Sequence[Operation]) -> None:
        """What some operations give: one, or alike ones, of which none needs another."""
        (one, *others), name = alike, alike[0].equation and alike[0].equation.primitive.name
        is_family = bool(others) and one.family is not None and len({each.family for each in alike}) == 1
        if isinstance(one, Loop):
            self._turns(one)
        elif isinstance(one, Sum):
            self._own[one.outputs[0]] = self._sum(one.inputs)
        elif not others and _joins(one):
            self._own[one.outputs[0]] = self._joined(one)
        elif name == "split" and one.equation.params["axis"] == 0:
            self._split(one)
        elif not others or (is_family and not self._sliced(alike)):
            for each in alike:
                self._own.update(zip(each.outputs, bind(each.equation, [self.read(atom) for atom in each.inputs])))
        elif not is_family:
            arrays, axes = zip(*(self._column(atoms) for atoms in zip(*(each.inputs for each in alike))))
            found = jax.vmap(lambda *given: bind(one.equation, given), axes, axis_size=len(alike))(*arrays)
            for variables, array in zip(zip(*(each.outputs for each in alike)), found):
                self._place(variables, array)

    def read(self, atom: Any) -> Any:
        """One value by itself."""
        if not is_variable(atom):
            return atom.val
        if atom not in self._own:
            number, index = self._places[atom]
            part = self._parts[number][index] if self._parts[number] else self._arrays[number][index]
            self._own[atom] = part.reshape(atom.aval.shape)
        return self._own[atom]

    def _place(self, variables: Sequence[Any], array: Any, places: Sequence[int] | None = None) -> None:
        self._places.update(zip(variables, zip(itertools.repeat(len(self._arrays)), places or range(len(variables)))))
        self._arrays.append(array)
        # All at once: the derivative of each slice is an array of all of them.
        is_apart = sum(var in self._alone for var in variables) >= FEW
        self._parts.append(jax.lax.split(array, (1,) * len(array)) if is_apart else ())

    def _column(self, atoms: Sequence[Any]) -> tuple[Any, int | None]:
        """Operands side by side along a first axis, or the one that all have."""
        key = tuple(map(identity, atoms))
        if len(set(key)) == 1:
            return self.read(atoms[0]), None
        if key not in self._columns:
            runs = list(self._runs(atoms))
            self._columns[key] = runs[0] if len(runs) == 1 else jnp.concatenate(runs)
        return self._columns[key], 0

    def _runs(self, atoms: Sequence[Any]) -> Iterator[Any]:
        """The arrays, one after the other, that make up operands side by side."""
        places = [self._places.get(atom) if is_variable(atom) else None for atom in atoms]
        for is_part, run in itertools.groupby(_evenly_spaced(places), lambda part: part[2] > 0):
            if is_part:
                for begin, end, step in run:
                    number, first = places[begin]  # pyright: ignore[reportGeneralTypeIssues]
                    last = first + (end - begin - 1) * step
                    array = self._arrays[number]
                    is_whole = step == 1 and end - begin == len(array)
                    yield array if is_whole else jax.lax.slice_in_dim(array, first, last + 1, step)
            else:
                some = [atom for begin, end, _ in run for atom in atoms[begin:end]]
                numpy = jnp if any(map(is_variable, some)) else np
                yield numpy.stack([numpy.asarray(self.read(atom), atom.aval.dtype) for atom in some])

    def _sum(self, atoms: Sequence[Any]) -> Any:
        ordered = sorted(atoms, key=lambda a: self._places.get(a, (-1, 0)) if is_variable(a) else (-1, 0))
        sums = [jax.lax.convert_element_type(jnp.sum(run, axis=0), run.dtype) for run in self._runs(ordered)]
        return functools.reduce(jax.lax.add, sums)

    def _joined(self, operation: Operation) -> Any:
        """An array of arrays, as the program's own code has asked for it."""
        array, axis = self._column(operation.inputs)
        if axis is None:
            array = jnp.broadcast_to(array, (len(operation.inputs), *jnp.shape(array)))
        shape, settings = operation.outputs[0].aval.shape, operation.equation.params
        return jnp.moveaxis(array, 0, settings.get("axis", settings.get("dimension"))).reshape(shape)

    def _turns(self, loop: Loop) -> None:
        def strong(atom: Any) -> Any:
            return jax.lax.convert_element_type(self.read(atom), np.dtype(atom.aval.dtype))

        shared, starts = [strong(atom) for atom in loop.shared], {j: strong(atom) for j, atom in loop.starts.items()}

        def turn(before: dict[int, Any], along: list[Any]) -> tuple[dict[int, Any], dict[int, Any]]:
            now: list[Any] = []
            told = {"now": now, "before": before, "shared": shared, "along": along}
            for equation, sources in zip(loop.equations, loop.sources):
                now += bind(equation, [told[where][which] for where, which in sources])
            return {j: now[j] for j in before}, {j: now[j] for j in loop.kept}

        along = [self._column(atoms)[0] for atoms in loop.along]
        _, found = jax.lax.scan(turn, starts, along, loop.length)
        for j, variables in loop.kept.items():
            self._place(variables, found[j])

    def _split(self, operation: Operation) -> None:
        """Equal parts of one array that follow each other are an array again."""
        whole, begin = self.read(operation.inputs[0]), 0
        for size, run in itertools.groupby(operation.outputs, lambda var: var.aval.shape[0]):
            variables = list(run)
            end = begin + size * len(variables)
            self._place(variables, whole[begin:end].reshape(len(variables), size, *whole.shape[1:]))
            begin = end

    def _sliced(self, alike: Sequence[Operation]) -> bool:
        """Whether slices of one array lie along one axis; they are an array then."""
        starts = np.array([each.equation.params["start_indices"] for each in alike])
        shape, order = alike[0].outputs[0].aval.shape, np.lexsort(starts.T[::-1])
        first, last = starts[order[0]], starts[order[-1]]
        axes = np.flatnonzero((starts != first).any(axis=0))
        if len(axes) != 1:
            return False
        axis = int(axes[0])
        places = starts[:, axis] - first[axis]
        step = int(np.gcd.reduce(places)) if shape[axis] == 1 else int(shape[axis])
        # Those between are taken along, if they are not many.
        if np.any(places % step) or last[axis] - first[axis] >= SPARSE * step * len(alike):
            return False
        strides = [step if shape[axis] == 1 and dim == axis else 1 for dim in range(len(shape))]
        part = jax.lax.slice(self.read(alike[0].inputs[0]), first.tolist(), (last + shape).tolist(), strides)
        part = part.reshape(*shape[:axis], -1, *shape[axis:])
        self._place([each.outputs[0] for each in alike], jnp.moveaxis(part, axis, 0), (places // step).tolist())
        return True


def _evenly_spaced(places: Sequence[tuple[int, int] | None]) -> Iterator[tuple[int, int, int]]:
    """Where parts of one array that follow each other in even steps begin and end, and the step; 0 of others."""
    begin = 0
    while begin < len(places):
        end, here, step = begin + 1, places[begin], 0
        if here is not None and end < len(places) and (then := places[end]) is not None:
            step = then[1] - here[1]
            while end < len(places) and places[end] == (here[0], here[1] + (end - begin) * step):
                end += 1
        is_part = step > 0 and end - begin >= FEW
        yield (begin, end, step) if is_part else (begin, begin + 1, 0)
        begin = end if is_part else begin + 1
