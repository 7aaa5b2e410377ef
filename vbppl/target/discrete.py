"""The discrete sites that a density has summed out, drawn again, and the probabilities of their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core import devices
from vbppl.core.errors import ModelError
from vbppl.core.keys import named, wrap
from vbppl.core.programs.compiling import ByWork, OverDraws
from vbppl.core.types import Array
from vbppl.model.claims import SOMEWHERE
from vbppl.model.enumeration import marginal
from vbppl.model.handlers import at_point, at_rows, given, required
from vbppl.model.primitives import Handler, Site
from vbppl.model.trace import log_joint, values_of
from vbppl.target.density import Evaluable

SIDE_BY_SIDE = 8  # draws: each has a table of all values in all rows


def _once(target: Evaluable, values: Mapping[str, Any]) -> marginal.Once:
    """A run at `values` of the sites that are not summed out, all rows shown."""

    def once(summing: Callable[[Handler], Handler]) -> tuple[dict[str, Site], Any]:
        return target.model.trace(at_rows({}, summing(given(values, required)), target.params)), ()

    return once


def completed(target: Evaluable, values: Mapping[str, Any], n: int, raw_key: np.ndarray) -> dict[str, Array]:
    """Draws `(n, ...)` of all sites, of which the discrete ones are drawn given `values` of the others."""
    draws = np.arange(n, dtype=np.uint32), _latent(target, values)
    found = devices.readable(_completed(draws, target, raw_key))
    return {name: found[name] for name in target.layout.completed}


def _latent(target: Evaluable, values: Mapping[str, Any]) -> dict[str, Any]:
    return {slot.name: values[slot.name] for slot in target.layout.slots}


def _complete(draw: tuple[Array, dict[str, Array]], target: Evaluable, raw_key: Array) -> dict[str, Array]:
    number, values = draw
    key = jax.random.fold_in(named(wrap(raw_key), "discrete sites"), number)
    drawn = marginal.drawn(_once(target, values), target.layout.summed, key)
    sites, _ = _once(target, {**values, **drawn})(lambda handler: handler)
    return values_of({name: sites[name] for name in target.layout.completed if name in sites})


_completed = OverDraws(_complete, side_by_side=SIDE_BY_SIDE)


def probabilities(target: Evaluable, name: str, values: Mapping[str, Any], n: int) -> np.ndarray:
    """The probability of each value of the discrete site `name`, `(*shape, values)`: the mean over draws."""
    return np.asarray(devices.readable(_mean_probabilities(target, _latent(target, values), np.arange(n), name)))


@jax.jit
def _log_conditional(target: Evaluable, values: dict[str, Array]) -> Array:
    discrete = target.layout.summed
    rest = {name: value for name, value in values.items() if name not in discrete}
    joint, _ = _once(target, values)(lambda handler: handler)
    summed, _ = marginal.summed_out(_once(target, rest), discrete)
    return log_joint(joint) - log_joint(summed)


def log_conditional(target: Evaluable, values: Mapping[str, Any], many: bool) -> Array:
    """The log density of the discrete sites given the others: a scalar, or `(n,)` at `many` draws."""
    mine = {name: jnp.asarray(values[name]) for name in (*_latent(target, values), *target.layout.summed)}
    return _log_conditionals(mine, target) if many else _log_conditional(target, mine)


_log_conditionals = OverDraws(lambda values, target: _log_conditional(target, values), side_by_side=SIDE_BY_SIDE)


def check_rows(target: Evaluable) -> None:
    """Refuse a model whose rows look at other rows of a discrete site, by one evaluation at some point.

    Raises:
      ModelError: one does, and which.
    """
    # Without a plate there are no rows; and what is read in parts cannot be looked at side by side.
    if not (target.layout.summed and target.layout.plates) or target.model.sources:
        return
    mixed = devices.readable(_mixed(target, np.zeros(2, np.uint32)))
    for name in (name for name, is_mixed in mixed.items() if is_mixed):
        discrete = ", ".join(f"'{each}'" for each in target.layout.summed)
        raise ModelError(
            f"a row of it depends on other rows of the discrete sites around it (among {discrete}), which are summed "
            "out row by row.",
            site=name,
            mend="Compute each row from its own row of the discrete sites: no sum, shift or index along their plate.",
        )


@ByWork
def _mixed(target: Evaluable, raw_key: Array) -> dict[str, Array]:
    def once(summing: Callable[[Handler], Handler]) -> tuple[dict[str, Site], Any]:
        return target.model.trace(at_rows({}, summing(at_point(SOMEWHERE)), target.params)), ()

    return marginal.mixed_rows(once, target.layout.summed, wrap(raw_key))


def _mean(target: Evaluable, values: dict[str, Array], number: Array, name: str) -> Array:
    def one(values: Mapping[str, Array]) -> Array:
        return marginal.probabilities(_once(target, values), name, target.layout.summed)

    def add(total: Array, draw: Any) -> tuple[Array, None]:
        return total + one(draw[1]) / len(number), None

    like = jax.eval_shape(one, jax.tree.map(lambda leaf: leaf[0], values))
    return jax.lax.scan(add, jnp.zeros(like.shape, like.dtype), (number, values))[0]


_mean_probabilities = ByWork(_mean, static_argnames="name")
