"""Which operation of a program is the first to make NaN of numbers that are none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core
import numpy as np

CALLS = frozenset(("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call"))


def first_nan(function: Callable[..., Any], *args: Any) -> str:
    """The name of that operation where `function` is computed at `args`, one after the other; "" where there is none.

    Whatever is called inside is followed; loops and branches are operations of their own.

    >>> first_nan(lambda x: jax.numpy.log(x) + 1.0, -1.0)
    'log'
    """
    closed = jax.make_jaxpr(function)(*args)
    return _followed(closed, jax.tree.leaves(args))[1]


def _followed(closed: Any, arguments: Sequence[Any]) -> tuple[list[Any], str]:
    """The outputs of a closed program, as far as NaN is met, and what made it."""
    jaxpr = closed.jaxpr
    numbers = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *arguments]))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jax.extend.core.Literal) else numbers[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        inner, name = equation.params.get("jaxpr", equation.params.get("call_jaxpr")), equation.primitive.name
        if name in CALLS and isinstance(inner, jax.extend.core.ClosedJaxpr):
            outputs, found = _followed(inner, inputs)
            if found:
                return [], found
        else:
            own = {atom: numbers[atom] for atom in equation.invars if not isinstance(atom, jax.extend.core.Literal)}
            one = jaxpr.replace(constvars=[], invars=[*own], outvars=equation.outvars, eqns=[equation])
            outputs = jax.extend.core.jaxpr_as_fun(jax.extend.core.ClosedJaxpr(one, []))(*own.values())
            if any(map(_has_nan, outputs)) and not any(map(_has_nan, inputs)):
                return [], name
        numbers.update(zip(equation.outvars, outputs))
    return [read(atom) for atom in jaxpr.outvars], ""


def _has_nan(value: Any) -> bool:
    # Keys have a dtype of their own, of which NumPy knows nothing.
    is_number = jax.numpy.issubdtype(jax.numpy.result_type(value), np.inexact)
    return is_number and bool(np.isnan(np.asarray(value)).any())
