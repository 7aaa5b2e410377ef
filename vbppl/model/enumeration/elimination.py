"""Sum discrete variables out of a product of factors, plate by plate, and draw them again.

The factors are tables of logarithms. A variable stands in plates, in each row of which it has a value of its own, and
so does a factor. The innermost plates come first: there each variable is summed out of the factors that it stands in,
row by row; what is left of them is multiplied along the plates in which no variable is left. (Obermeyer, Bingham,
Jankowiak, Pradhan, Chiu, Rush and Goodman 2019, "Tensor Variable Elimination for Plated Factor Graphs", algorithm 1.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vbppl.core.errors import ModelError
from vbppl.core.keys import named
from vbppl.core.special import log_sum
from vbppl.core.types import Array

NUMBERS = 2**26  # of one table


class Variable(NamedTuple):
    """What is summed out: in each row of its plates it has one of `size` values, counted from 0."""

    name: str
    size: int
    plates: tuple[str, ...]


class Factor(NamedTuple):
    """The logarithms of one factor at all values of its variables, in all rows of its plates.

    `table` has an axis for each variable, and then one for each plate.
    """

    variables: tuple[str, ...]
    plates: tuple[str, ...]
    table: Array


class Sum(NamedTuple):
    """How one variable was summed out: of the product of the factors that it stood in."""

    variable: str
    factor: Factor


class Eliminated(NamedTuple):
    """What is left when all variables are summed out.

    Attributes:
      marginals: for each set of variables that met, the log of the sum in each row of the plates that they share.
      groups: the names of the variables of each of these, in order.
      sums: how it was done, in order.
    """

    marginals: tuple[Factor, ...]
    groups: tuple[tuple[str, ...], ...]
    sums: tuple[Sum, ...]


def eliminate(
    factors: Sequence[Factor],
    variables: Sequence[Variable],
    sum_rows: Callable[[Factor, str, str], Array] | None = None,
) -> Eliminated:
    """Sum all variables out of the product of `factors`, each of which has at least one.

    Args:
      factors: their variables and plates in the order of `variables`, and of one list of all plates.
      sum_rows: how a factor is summed along a plate, its last axis but those after it: given the factor, the plate, and
        a variable that stands outside of it.

    Raises:
      ModelError: variables meet that stand in different plates, neither inside the other's; or a table would be too
        large.
    """
    known = {variable.name: variable for variable in variables}
    order, plates = tuple(known), {v.name: frozenset(v.plates) for v in variables}
    left = [_Held(factor, frozenset(factor.variables)) for factor in factors]
    marginals, groups, sums = [], [], []
    while left:
        leaf = max((held.plates for held in left), key=len)
        here = [held for held in left if held.plates == leaf]
        left = [held for held in left if held.plates != leaf]
        for group in _connected(here, {name for name, where in plates.items() if where == leaf}):
            met = frozenset().union(*(held.met for held in group))
            members = [held.factor for held in group]
            inside = [name for name in order if plates[name] == leaf and any(name in f.variables for f in members)]
            while inside:
                name = min(reversed(inside), key=lambda name: _joint(members, name, known))
                inside.remove(name)
                members, done = _summed(members, name, known)
                sums.append(done)
            found = product(members, order)
            if not found.variables:
                marginals.append(found)
                groups.append(tuple(name for name in order if name in met))
                continue
            outer = frozenset().union(*(plates[name] for name in found.variables))
            if outer == leaf:
                raise _crossing([known[name] for name in found.variables])
            left.append(_Held(_reduced(found, outer, sum_rows), met))
    return Eliminated(tuple(marginals), tuple(groups), tuple(sums))


class _Held(NamedTuple):
    """A factor with all variables that have been summed, or will be, together with its own."""

    factor: Factor
    met: frozenset[str]

    @property
    def plates(self) -> frozenset[str]:
        return frozenset(self.factor.plates)


def product(factors: Sequence[Factor], order: Sequence[str]) -> Factor:
    """The product of factors in the same plates; its variables in this order."""
    met = {v for f in factors for v in f.variables}
    variables, plates = tuple(v for v in order if v in met), factors[0].plates
    tables = [aligned(factor, variables, plates) for factor in factors]
    return Factor(variables, plates, sum(tables[1:], tables[0]))


def aligned(factor: Factor, variables: Sequence[str], plates: Sequence[str]) -> Array:
    """The table with an axis for each of these variables and plates, of length 1 where the factor has none."""
    names, axes = (*factor.variables, *factor.plates), (*variables, *plates)
    order = sorted(range(len(names)), key=lambda axis: axes.index(names[axis]))
    table = factor.table if order == list(range(len(names))) else jnp.transpose(factor.table, order)
    shape = iter(table.shape)
    return table.reshape([next(shape) if name in names else 1 for name in axes])


def _connected(here: Sequence[_Held], names: set[str]) -> list[list[_Held]]:
    """The factors in groups that share one of the variables `names`."""
    groups: list[tuple[set[str], list[_Held]]] = []
    for held in here:
        mine, members = names & set(held.factor.variables), [held]
        for other in [group for group in groups if group[0] & mine]:
            groups.remove(other)
            mine, members = mine | other[0], other[1] + members
        groups.append((mine, members))
    return [members for _, members in groups]


def _joint(factors: Sequence[Factor], name: str, known: Mapping[str, Variable]) -> int:
    """How many joint values meet where `name` is summed out."""
    return math.prod(known[v].size for v in {v for f in factors if name in f.variables for v in f.variables})


def _summed(factors: list[Factor], name: str, known: Mapping[str, Variable]) -> tuple[list[Factor], Sum]:
    mine, others = ([f for f in factors if (name in f.variables) == has] for has in (True, False))
    rows = math.prod(mine[0].table.shape[len(mine[0].variables) :])
    check_size([known[v] for v in known if any(v in f.variables for f in mine)], rows)
    whole = product(mine, tuple(known))
    axis = whole.variables.index(name)
    rest = tuple(v for v in whole.variables if v != name)
    found = Factor(rest, whole.plates, log_sum(whole.table, axis))
    return [*others, found], Sum(name, whole)


def check_size(variables: Sequence[Variable], rows: int, site: str | None = None) -> None:
    """Refuse a table that would be too large, before it is made."""
    joint = math.prod(v.size for v in variables)
    if joint * rows <= NUMBERS:
        return
    sizes = " x ".join(f"{v.name} ({v.size:,})" for v in variables)
    raise ModelError(
        f"summing out would need {joint:,} joint values of {sizes} in {rows:,} row{'s' * (rows != 1)}, "
        f"{joint * rows:,} numbers; the limit is {NUMBERS:,}.",
        site=site or variables[0].name,
        mend="Let fewer discrete sites meet in one statement, give them fewer values, or put independent ones into a "
        "plate; write a state that is handed on from step to step with vb.scan.",
    )


def _reduced(factor: Factor, outer: frozenset[str], sum_rows: Callable[..., Array] | None) -> Factor:
    """The product of a factor's rows along the plates that are not in `outer`."""
    for plate in [plate for plate in factor.plates if plate not in outer]:
        axis = len(factor.variables) + factor.plates.index(plate)
        table = sum_rows(factor, plate, factor.variables[0]) if sum_rows else jnp.sum(factor.table, axis=axis)
        factor = Factor(factor.variables, tuple(p for p in factor.plates if p != plate), table)
    return factor


def _crossing(variables: Sequence[Variable]) -> ModelError:
    """What is said where sites meet that stand in plates neither of which is inside the other."""
    one = variables[0]
    other = next(v for v in variables if set(v.plates) != set(one.plates))
    return ModelError(
        f"'{one.name}' (plate {', '.join(one.plates) or 'none'}) and '{other.name}' (plate "
        f"{', '.join(other.plates) or 'none'}) meet in one statement, so that every row of the one meets every row of "
        "the other: their joint values are too many to sum.",
        site=other.name,
        mend="Put one of the two plates inside the other, or make one of the two sites continuous.",
    )


def draw(eliminated: Eliminated, key: Array) -> dict[str, Array]:
    """The variables drawn from what was summed, jointly: for each the index of its value, in its plates."""
    found: dict[str, tuple[tuple[str, ...], Array]] = {}
    for name, factor in reversed(eliminated.sums):
        # What was summed out later is known by now, and with it the distribution of this one.
        table = at_indices(factor, {v: found[v] for v in factor.variables if v != name})
        noise = jax.random.gumbel(named(key, name), table.shape, table.dtype)
        found[name] = factor.plates, jnp.argmax(table + noise, axis=0)
    return {name: index for name, (_, index) in found.items()}


def at_indices(factor: Factor, drawn: Mapping[str, tuple[tuple[str, ...], Array]]) -> Array:
    """A factor's table where its variables, all or all but one, have these values: for each its plates and indices.

    With an axis for the variable that has none, if there is one, and one for each plate.
    """
    left = [at for at, v in enumerate(factor.variables) if v not in drawn]
    rows = factor.table.shape[len(factor.variables) :]
    if not drawn:
        return factor.table
    table = jnp.moveaxis(factor.table, left[0], 0) if left else factor.table
    grid = jnp.meshgrid(*map(jnp.arange, rows), indexing="ij") if rows else []
    at = [_at(drawn[v], factor.plates, rows) for v in factor.variables if v in drawn]
    return table[(*(slice(None) for _ in left), *at, *grid)]


def _at(drawn: tuple[tuple[str, ...], Array], plates: tuple[str, ...], rows: tuple[int, ...]) -> Array:
    mine, index = drawn
    shape = [size if plate in mine else 1 for plate, size in zip(plates, rows)]
    return jnp.broadcast_to(index.reshape(shape), rows)


def probabilities(
    factors: Sequence[Factor], variables: Sequence[Variable], rows: Mapping[str, int]
) -> dict[str, Array]:
    """For each variable the probability of each value in each row, `(size, *plates)`, given all else.

    They are the slopes of the log sum in a factor of the variable alone.
    """

    def total(extra: dict[str, Array]) -> Array:
        more = [Factor((v.name,), v.plates, extra[v.name]) for v in variables]
        found = eliminate([*factors, *more], variables).marginals
        return sum((jnp.sum(marginal.table) for marginal in found), jnp.zeros(()))

    dtype = jnp.result_type(*(factor.table for factor in factors))
    return jax.grad(total)({v.name: jnp.zeros((v.size, *(rows[p] for p in v.plates)), dtype) for v in variables})
