"""Where the params of a model begin, and what the first step of a fit finds in its modules."""

from __future__ import annotations

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.model.handlers import at_point, parts_of
from vbppl.model.modules import parts
from vbppl.model.primitives import Site


def initial_params(model: Any) -> dict[str, Any]:
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
def _initial_params(model: Any) -> dict[str, Any]:
    sites = model.trace(at_point(0.0))
    return {
        site.name: tuple(site.constraint.inverse(jnp.asarray(leaf)) for leaf in parts(site.value).learnt)
        for site in sites.values()
        if site.kind == "param"
    }


@jax.jit
def initial_states(model: Any) -> dict[str, Any]:
    """What the first step finds in a program's modules and mutable values, by the sites' names."""
    found, somewhere = {}, at_point(0.0)

    def interpret(site: Site) -> Site:
        if site.kind in ("param", "mutable"):
            found[site.name] = parts_of(site).state  # now: later statements may change it
        return somewhere(site)

    model.trace(interpret)
    return {name: state for name, state in found.items() if state}
