"""Draws from the prior of a model, and its log density at values of its sites, whole or site by site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vbppl.core.errors import ModelError
from vbppl.core.keys import wrap
from vbppl.core.programs.compiling import OverDraws
from vbppl.core.types import Array
from vbppl.model.arguments import leading_draws, name_of, no_such_site
from vbppl.model.enumeration.marginal import marginal
from vbppl.model.handlers import drawn_anew, from_prior, given, log_probs, required
from vbppl.model.trace import Outline, abstract_sites, log_joint, summed, summed_sites, values_of


def own_params(model: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `params` that the model has, or an error where some are missing."""
    own = [name for name, site in abstract_sites(model).items() if site.kind == "param"] if params else []
    if missing := [name for name in own if name not in params]:
        raise ModelError(f"params lacks {', '.join(missing)}.", details=f"it has: {', '.join(params)}")
    return {name: params[name] for name in own}


@OverDraws
def prior_draws(number: Array, model: Any, params: dict[str, Any], raw: Array) -> dict[str, Array]:
    """The values of all sites in draw `number` of the key `raw`, observed ones drawn anew."""
    key = jax.random.fold_in(wrap(raw), number)
    return values_of(model.trace(drawn_anew(given(params, from_prior(key)))))


@OverDraws
def latent_draws(number: Array, model: Any, raw: Array) -> dict[str, Array]:
    """The same of the latent sites alone: what is observed is as it is, and costs no draws."""
    sites = model.trace(from_prior(jax.random.fold_in(wrap(raw), number)))
    return values_of({name: site for name, site in sites.items() if site.kind == "sample" and not site.observed})


@jax.jit
def joint_density(model: Any, values: dict[str, Any]) -> Array:
    """The log joint density at `values`, with discrete sites that have none summed out; `(n,)` of draws `(n, ...)`."""
    sites = abstract_sites(model)
    _check_values(model, sites, values)
    drawn = {name: value for name, value in values.items() if sites[name].kind == "sample"}
    params, left_out = {n: v for n, v in values.items() if sites[n].kind == "param"}, summed_sites(sites, values)

    def density(drawn: dict[str, Array]) -> Array:
        return log_joint(marginal(model, lambda summing: summing(given({**drawn, **params}, required)), left_out))

    return density(drawn) if leading_draws(sites, drawn) is None else jax.vmap(density)(drawn)


@jax.jit
def site_densities(model: Any, values: dict[str, Any], raw: Array | None) -> dict[str, Array]:
    """The log density of each site, a scalar: at `values` of all latent ones; at the first draw of the key `raw`."""
    _check_values(model, abstract_sites(model), values)
    sites = model.trace(given(values, required if raw is None else from_prior(jax.random.fold_in(wrap(raw), 0))))
    counted = {name: site for name, site in sites.items() if site.kind in ("sample", "factor")}
    return {name: summed([(jnp.asarray(log_probs(site)), site.scale)]) for name, site in counted.items()}


def _check_values(model: Any, sites: Mapping[str, Outline], values: Mapping[str, Any]) -> None:
    for name in values:
        if name not in sites:
            raise no_such_site(name, name_of(model.function), sites)
        if sites[name].kind == "sample" and sites[name].observed:
            raise ModelError(
                "the site is observed, so its value is the model's own data.",
                site=name,
                mend="Leave it out of the values, or apply the model to other data.",
            )
