"""Which entries are missing, found by NumPy from a model's arguments when it is applied to them.

So many numbers are latent as entries are missing, and a program is made for shapes: the places belong to the model, as
data whose length counts. Other data of which as many are missing compile nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from vbppl.core import devices
from vbppl.core.errors import ModelError
from vbppl.core.programs.dependence import dependence
from vbppl.core.programs.known import Known
from vbppl.core.types import Array

WORD = "obs_mask="  # under which a model notes that its function writes it


SUMMED = (
    "Leave these rows out; or, where they do not count there either, compute with the data themselves and not with "
    "what the statement returns."
)
INTEGRATED = (
    "State them before the scan, without a density of their own, and observe what is filled up: "
    "gap = vb.sample('gap', dist.ImproperUniform(dist.constraints.real, (), (len(at),))), y = y.at[at].set(gap)."
)


def located(model: Any) -> Any:
    """The same model, with the places of what its statements call missing; as it is where none does.

    Raises:
      ModelError: which these are does not follow from the arguments alone.
    """
    leaves, structure = jax.tree.flatten(dataclasses.replace(model, missing={}))
    if not any(name == WORD for name, _ in model.reads):
        return model
    shapes = [jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]

    left_out: dict[str, bool] = {}  # the sites whose missing values are, and which are discrete

    def masks(coordinate: Array, summed: Array, leaves: Any) -> tuple[dict[str, Array], dict[str, Any]]:
        found: dict[str, Array] = {}
        sites = jax.tree.unflatten(structure, leaves).trace(_noting(found, left_out, coordinate, summed))
        return found, {
            name: site.dist.log_prob(site.value) if site.dist else site.value for name, site in sites.items()
        }

    try:
        somewhere = [jax.ShapeDtypeStruct((), jnp.result_type(kind)) for kind in (float, int)]
        closed, (found, computed) = jax.make_jaxpr(masks, return_shape=True)(*somewhere, shapes)
    except Exception:  # it will be told where the model is asked for something
        return model
    depends = dependence(closed.jaxpr, origins={closed.jaxpr.invars[1]: 1})[len(found) :]
    names = [name for name in sorted(computed) for _ in jax.tree.leaves(computed[name])]
    if used := [name for name, does in zip(names, depends) if does]:
        is_discrete = next(iter(left_out.values()))
        raise ModelError(
            f"the values of {' or '.join(map(repr, left_out))} that are missing are "
            f"{'summed' if is_discrete else 'integrated'} out, but '{used[0]}' is computed from them.",
            site=used[0],
            mend=SUMMED if is_discrete else INTEGRATED,
        )
    checked = dict.fromkeys(left_out)  # nothing of them is latent
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return dataclasses.replace(model, missing=checked)
    known = Known.of(closed.jaxpr, closed.consts, closed.jaxpr.invars[:2])
    numbers = known(None, None, *(leaf if devices.is_here(leaf) else None for leaf in leaves))
    return dataclasses.replace(model, missing=checked | _places(dict(zip(sorted(found), numbers))))


def _places(masks: dict[str, np.ndarray | None]) -> dict[str, np.ndarray]:
    for name, mask in masks.items():
        if mask is None:
            raise ModelError(
                "obs_mask does not follow from the model's data by plain arithmetic and comparisons, so that how many "
                "numbers are missing is not known before the run.",
                site=name,
                mend="Pass the mask as an argument of the model: m = ~np.isnan(y).",
            )
    return {name: np.flatnonzero(~mask).astype(np.int32) for name, mask in masks.items() if mask is not None}


def _noting(found: dict[str, Array], left_out: dict[str, bool], coordinate: Array, summed: Array) -> Any:
    """The handler that notes masks, and answers latent sites with points that hang on `coordinate`.

    What hangs on values that are missing and left out hangs on `summed`.
    """

    def interpret(site: Any) -> Any:
        support: Any = getattr(site.dist, "support", None)
        if site.kind == "missing" and site.dist is not None:
            left_out[site.name] = site.dist.is_discrete
            return dataclasses.replace(site, value=site.value + summed)
        if site.kind == "missing":
            found[site.name] = site.value
            return dataclasses.replace(site, value=None)
        if site.kind != "sample" or site.value is not None:
            return site
        if support.is_discrete:
            return dataclasses.replace(site, value=support.feasible(site.shape, jnp.result_type(int)))
        z = jnp.full(support.unconstrained_shape(site.shape), coordinate, jnp.result_type(float))
        return dataclasses.replace(site, value=support.forward(z))

    return interpret
