"""What a traced program's outputs depend on: followed through its equations, and into the programs within them.

What is followed is the flow of numbers: an array of which one entry depends on something depends on it. Calls (`jit`,
`custom_jvp`, checkpoints) are followed argument by argument; of `scan` and `while` each number carried along is
followed until nothing more reaches it; what a branch or the end of a loop is chosen by reaches all that it gives.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax.extend.core

# Programs called with the equation's own arguments. Of what is not named here each output depends on each input.
CALLS = frozenset(("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2", "shard_map"))
CALLS |= {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}


def dependence(jaxpr: Any, inputs: Sequence[int] = (), origins: Mapping[Any, int] = MappingProxyType({})) -> list[int]:
    """For each output of a program the set of origins that it depends on, as the bits of an integer.

    >>> import jax
    >>> program = jax.make_jaxpr(lambda x, y, z: (x + y, 2 * z))(1.0, 1.0, 1.0).jaxpr
    >>> dependence(program, [0b001, 0b010, 0b100])
    [3, 4]

    Args:
      jaxpr: an open program.
      inputs: what its arguments depend on; nothing if left out.
      origins: variables of it that stand for themselves, whatever they are computed from.
    """
    found = dict(zip(jaxpr.invars, inputs))
    found.update((var, origins[var]) for var in jaxpr.invars if var in origins)

    def read(atom: Any) -> int:
        return found.get(atom, 0) if isinstance(atom, jax.extend.core.Var) else 0

    for equation in jaxpr.eqns:
        given = [read(atom) for atom in equation.invars]
        references = [atom for atom in equation.invars if type(getattr(atom, "aval", None)).__name__ == "AbstractRef"]
        if references:  # it may write into these
            made = [_union(given)] * len(equation.outvars)
            found.update((atom, _union(given)) for atom in references)
        else:
            made = _through(equation, given)
        found.update((var, origins.get(var, each)) for var, each in zip(equation.outvars, made))
    return [read(atom) for atom in jaxpr.outvars]


def _union(given: Sequence[int]) -> int:
    return functools.reduce(operator.or_, given, 0)


def _through(equation: Any, given: list[int]) -> list[int]:
    """What each output of an equation depends on."""
    name, settings = equation.primitive.name, equation.params
    if name == "scan":
        body = settings["jaxpr"].jaxpr
        # The settings differ between versions of JAX; the shapes do not: rows have one more axis outside than inside.
        carried = _alike(equation.outvars, body.outvars)
        last = _alike(equation.invars, body.invars)
        return _scan(body, given[: last - carried], given[last - carried : last], given[last:])
    if name == "while":
        return _while(settings, given)
    if name == "cond":
        which, *rest = given
        return [which | _union(each) for each in zip(*(dependence(b.jaxpr, rest) for b in settings["branches"]))]
    inner = settings.get("jaxpr", settings.get("call_jaxpr", settings.get("fun_jaxpr")))
    if name in CALLS and inner is not None:
        return dependence(getattr(inner, "jaxpr", inner), given)
    return [_union(given)] * len(equation.outvars)


def _alike(outer: Sequence[Any], inner: Sequence[Any]) -> int:
    return sum(len(one.aval.shape) == len(other.aval.shape) for one, other in zip(outer, inner))


def _scan(body: Any, constants: list[int], carry: list[int], rows: list[int]) -> list[int]:
    while True:
        made = dependence(body, [*constants, *carry, *rows])
        grown = [before | after for before, after in zip(carry, made)]
        if grown == carry:
            return [*carry, *made[len(carry) :]]
        carry = grown


def _while(settings: Mapping[str, Any], given: list[int]) -> list[int]:
    of_test, of_body = settings["cond_nconsts"], settings["cond_nconsts"] + settings["body_nconsts"]
    carry = given[of_body:]
    while True:
        (goes_on,) = dependence(settings["cond_jaxpr"].jaxpr, [*given[:of_test], *carry])
        made = dependence(settings["body_jaxpr"].jaxpr, [*given[of_test:of_body], *carry])
        grown = [before | after | goes_on for before, after in zip(carry, made)]
        if grown == carry:
            return carry
        carry = grown
