"""Run a model under an interpreter and keep the answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vbppl.aliases import Array
from vbppl.errors import ModelError
from vbppl.keys import named
from vbppl.language import Interpreter, Run, Site, running


def trace(function: Callable[[], Any], interpreter: Interpreter) -> dict[str, Site]:
    """The sites of one run of `function`, in the order of its statements."""
    with running(Run(interpreter)) as run:
        function()
    return run.sites


def from_prior(key: Array) -> Interpreter:
    """Draw every site that has no value from its distribution, each with a key of its own name."""

    def interpret(site: Site) -> Site:
        if site.kind == "sample" and site.value is None:
            return dataclasses.replace(site, value=site.dist.sample(named(key, site.name)))
        return site

    return interpret


def drawn_anew(interpreter: Interpreter) -> Interpreter:
    """Forget the observations, so that `interpreter` draws them: for predictive draws."""

    def interpret(site: Site) -> Site:
        if site.kind == "sample" and site.observed:
            site = dataclasses.replace(site, value=None, observed=False)
        return interpreter(site)

    return interpret


def given(values: Mapping[str, Any], interpreter: Interpreter) -> Interpreter:
    """Take the values of unobserved sites and of params from `values`; ask `interpreter` for the rest."""

    def interpret(site: Site) -> Site:
        if site.kind == "sample" and site.value is None and site.name in values:
            value = jnp.asarray(values[site.name])
            check_shape(site, value)
            return dataclasses.replace(site, value=value)
        if site.kind == "param" and site.name in values:
            return dataclasses.replace(site, value=values[site.name])
        return interpreter(site)

    return interpret


def required(site: Site) -> Site:
    """The interpreter that has no values: it says which site lacks one."""
    if site.kind == "sample" and site.value is None:
        raise ModelError("no value was given for this site.", site=site.name, mend=f"Add {site.name!r} to the values.")
    return site


def check_shape(site: Site, value: Any) -> None:
    """A value that replaces a site's must have exactly the site's shape."""
    if tuple(jnp.shape(value)) != site.shape:
        raise ModelError(
            f"the value given has shape {tuple(jnp.shape(value))}, but the site has shape {site.shape}.",
            site=site.name,
            mend="Give one value of the site's shape; model.shapes() prints the shapes of all sites.",
        )


def log_density(site: Site) -> Array:
    """What a site adds to the log joint density, a scalar: summed over its rows, times N/B."""
    if site.kind == "sample":
        log_prob = site.dist.log_prob(site.value)
    elif site.kind == "factor":
        log_prob = site.value
    else:
        return jnp.zeros(())
    return _scaled(jnp.sum(log_prob), site.scale)


def log_joint(sites: Mapping[str, Site]) -> Array:
    """The log joint density of a run, a scalar."""
    terms = [log_density(site) for site in sites.values() if site.kind in ("sample", "factor")]
    return sum(terms[1:], terms[0]) if terms else jnp.zeros(())


def values_of(sites: Mapping[str, Site]) -> dict[str, Array]:
    """The values of the sample and deterministic sites of a run."""
    return {
        name: jax.tree.map(jnp.asarray, site.value)
        for name, site in sites.items()
        if site.kind in ("sample", "deterministic")
    }


def _scaled(value: Array, scale: float) -> Array:
    return value if scale == 1.0 else value * scale
