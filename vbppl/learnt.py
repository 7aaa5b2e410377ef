"""Where a program's learning begins: the initial values of its params, the first states of its modules."""

from __future__ import annotations

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from vbppl.errors import ModelError
from vbppl.language import Site
from vbppl.models import Model
from vbppl.trace import of_the_right_shape, parts_of, trainable


def initial_params(model: Model) -> dict[str, Any]:
    """The unconstrained initial values of a program's params: for each the trainable leaves of its `init`.

    Raises:
      ModelError: an `init` has nothing to train, or does not lie on its support.
    """
    params = _initial_params(model)
    for name, leaves in params.items():
        if not leaves:
            raise ModelError(
                "init holds no floating-point number, so there is nothing to learn.",
                site=name,
                mend="Write it with floats: 1.0, not 1; jnp.zeros(3), not jnp.zeros(3, int).",
            )
        if not all(isinstance(leaf, jax.core.Tracer) or np.all(np.isfinite(leaf)) for leaf in leaves):
            raise ModelError(
                "init does not lie inside the param's support, or is not finite.",
                site=name,
                mend="Start from a value strictly inside, for instance 1.0 for constraints.positive.",
            )
    return params


@jax.jit
def _initial_params(model: Model) -> dict[str, Any]:
    sites = model.trace(of_the_right_shape)
    return {
        site.name: tuple(site.constraint.inverse(jnp.asarray(leaf)) for leaf in trainable(site.value))
        for site in sites.values()
        if site.kind == "param"
    }


@jax.jit
def first_states(model: Model) -> dict[str, Any]:
    """What the first step finds in a program's modules and mutable values, by the sites' names."""
    found: dict[str, Any] = {}

    def interpret(site: Site) -> Site:
        if site.kind in ("param", "mutable"):
            found[site.name] = parts_of(site).state  # now: later statements may change it
        return of_the_right_shape(site)

    model.trace(interpret)
    return {name: state for name, state in found.items() if state}
