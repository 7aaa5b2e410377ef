"""Running a model forward at the draws of a posterior."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.aliases import Array
from vbppl.errors import ModelError, VbpplWarning
from vbppl.keys import wrap
from vbppl.models import Model
from vbppl.trace import Outline, abstract_sites, drawn_anew, from_prior, given, required, values_of

AT_ONCE = 64  # draws run side by side: bounds the memory that intermediate values take


def predict(
    model: Model, draws: Mapping[str, Array], params: Mapping[str, Any], raw_key: np.ndarray, n: int = 1
) -> dict[str, Array]:
    """Draws of everything in `model` that the posterior does not fix, `(n, ...)` for each site.

    Observed sites are drawn anew. A latent site whose rows are others than the posterior's (a new
    school) is drawn from its prior given the rest, with a warning.

    Args:
      model: the fitted model, or the same function with other data.
      draws: of the posterior, `(n, ...)` for each latent site.
      n: the number of draws of a model that has no latent site at all.
    """
    sites = abstract_sites(model)
    latent = {n: s for n, s in sites.items() if s.kind == "sample" and n in draws}
    if draws and not latent:
        raise ModelError(
            f"{model!r} has none of the posterior's sites ({', '.join(draws)}).",
            mend="Predict with the function that was fitted, applied to other data.",
        )
    changed = [name for name, site in latent.items() if np.shape(draws[name])[1:] != site.shape]
    for name in changed:
        _say_drawn_from_prior(name, np.shape(draws[name])[1:], latent[name])
    kept = {name: draws[name] for name in latent if name not in changed}
    n = next((np.shape(value)[0] for value in draws.values()), n)
    new = _forward(model, kept, dict(params), raw_key, n)
    return {name: new[name] for name in sites if name in new and name not in kept}


def log_likelihood(model: Model, draws: Mapping[str, Array], params: Mapping[str, Any]) -> dict[str, Array]:
    """The log density of each observation at each draw, `(n, *batch)` for each observed site."""
    names = [slot for slot, site in abstract_sites(model).items() if site.kind == "sample" and not site.observed]
    return _log_likelihood(model, {name: draws[name] for name in names}, dict(params))


def _say_drawn_from_prior(name: str, before: tuple[int, ...], site: Outline) -> None:
    if not site.frames:
        raise ModelError(
            f"the posterior's values have shape {before}, but this model's site has shape {site.shape}.",
            site=name,
            mend="Only the rows of a plate may change in number between fit and prediction.",
        )
    warnings.warn(
        VbpplWarning(
            f"site '{name}' has shape {before} in the posterior and {site.shape} here: its rows are new, "
            "and are drawn from their prior given the other sites."
        ),
        stacklevel=4,
    )


@functools.partial(jax.jit, static_argnames="n")
def _forward(model: Model, draws: dict[str, Array], params: dict[str, Any], raw_key: Array, n: int) -> dict[str, Array]:
    def one(draw: tuple[Array, dict[str, Array]]) -> dict[str, Array]:
        key, values = draw
        return values_of(model.trace(drawn_anew(given({**values, **params}, from_prior(wrap(key))))))

    keys = jax.random.key_data(jax.random.split(wrap(raw_key), n))
    return jax.lax.map(one, (keys, draws), batch_size=min(n, AT_ONCE))


@jax.jit
def _log_likelihood(model: Model, draws: dict[str, Array], params: dict[str, Any]) -> dict[str, Array]:
    def one(values: dict[str, Array]) -> dict[str, Array]:
        sites = model.trace(given({**values, **params}, required))
        observed = [s for s in sites.values() if s.kind == "sample" and s.observed]
        return {s.name: jnp.broadcast_to(s.dist.log_prob(s.value), s.dist.batch_shape) for s in observed}

    if not draws:
        return jax.tree.map(lambda value: value[None], one({}))
    n = jax.tree.leaves(draws)[0].shape[0]
    return jax.lax.map(one, draws, batch_size=min(n, AT_ONCE))
