"""A traced program evaluated with arrays whose entries are all equal kept as one number.

Where one index is asked for in every row, `table[index]` need not gather row by row: it is one number, seen in all
rows. XLA does not find that by itself, and the slopes of a gather are a scatter, which a processor does one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.extend.core
import jax.numpy as jnp

# Of equal entries these make equal entries.
ELEMENTWISE = frozenset(
    (
        *("add", "sub", "mul", "div", "neg", "sign", "abs", "floor", "ceil", "round", "square", "max", "min"),
        *("exp", "log", "log1p", "expm1", "sqrt", "rsqrt", "logistic", "tanh", "erf", "lgamma", "digamma"),
        *("rem", "lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "xor", "select_n", "clamp", "is_finite"),
        *("convert_element_type", "copy", "integer_pow", "pow"),
    )
)


class Uniform(NamedTuple):
    """An array of this shape with one number in all places."""

    number: Any
    shape: tuple[int, ...]

    def spread(self) -> Any:
        """The array."""
        return jnp.broadcast_to(self.number, self.shape)


def evaluated(closed: Any, *arguments: Any) -> list[Any]:
    """The outputs of a closed program.

    >>> program = jax.make_jaxpr(lambda i, table: table[jnp.full(1000, i)])(0, jnp.arange(3.0))
    >>> again = jax.make_jaxpr(lambda *arguments: evaluated(program, *arguments))(1, jnp.arange(3.0))
    >>> [each.eqns[-1].primitive.name for each in (program, again)]  # gathered a thousand times, and once
    ['gather', 'broadcast_in_dim']
    """
    return [_whole(each) for each in _evaluated(closed.jaxpr, closed.consts, arguments)]


def _whole(value: Any) -> Any:
    return value.spread() if isinstance(value, Uniform) else value


def _evaluated(jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    found = dict(zip(jaxpr.constvars, constants))
    found.update(zip(jaxpr.invars, arguments))

    def read(atom: Any) -> Any:
        return found[atom] if isinstance(atom, jax.extend.core.Var) else atom.val

    for equation in jaxpr.eqns:
        made = _applied(equation, [read(atom) for atom in equation.invars])
        found.update(zip(equation.outvars, made))
    return [read(atom) for atom in jaxpr.outvars]


def _applied(equation: Any, given: list[Any]) -> Sequence[Any]:
    """The outputs of one equation."""
    name, settings = equation.primitive.name, equation.params
    if name in ("jit", "pjit"):
        return _evaluated(settings["jaxpr"].jaxpr, settings["jaxpr"].consts, given)
    numbers = [each.number if isinstance(each, Uniform) else each for each in given]
    shape = equation.outvars[0].aval.shape if len(equation.outvars) == 1 else ()
    if shape and all(jnp.ndim(number) == 0 for number in numbers):
        if name in ELEMENTWISE:
            (number,) = bind(equation, numbers)
            return [Uniform(number, shape)]
        if name in ("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose"):
            return [Uniform(numbers[0], shape)]
    if name == "gather" and isinstance(given[1], Uniform) and (found := _gathered(equation, *given)) is not None:
        return [found]
    return bind(equation, [_whole(each) for each in given])


def bind(equation: Any, given: Sequence[Any]) -> Sequence[Any]:
    """The outputs of one equation at what is given."""
    settings, functions = equation.primitive.get_bind_params(equation.params), ()
    if isinstance(settings, tuple):  # of JAX before 0.10
        functions, settings = settings
    with equation.ctx.manager:
        found = equation.primitive.bind(*functions, *given, **settings)
    return found if equation.primitive.multiple_results else [found]


def _gathered(equation: Any, operand: Any, indices: Uniform) -> Any:
    """What stands at one place of `operand`, seen in all rows; None where each row has an operand of its own."""
    numbers = equation.params["dimension_numbers"]
    if numbers.operand_batching_dims or isinstance(operand, Uniform):
        return None
    at = jnp.broadcast_to(indices.number, indices.shape[-1:])
    inside = numbers._replace(offset_dims=tuple(range(len(numbers.offset_dims))))
    settings = {**equation.params, "dimension_numbers": inside}
    found, shape = equation.primitive.bind(operand, at, **settings), equation.outvars[0].aval.shape
    if not numbers.offset_dims:
        return Uniform(found, shape)
    return jax.lax.broadcast_in_dim(found, shape, numbers.offset_dims)
