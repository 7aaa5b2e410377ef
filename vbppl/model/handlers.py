"""Handlers: each is a function `Site -> Site` that answers the statements of one run."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vbppl.core.errors import ModelError
from vbppl.core.keys import named, wrap
from vbppl.core.types import Array, ArrayLike
from vbppl.model.control_flow.steps import key_at, value_at
from vbppl.model.modules import Parts, mutable_parts, parts
from vbppl.model.primitives import Handler, Site


class Answer(NamedTuple):
    """The value of a site, and what else is known with it: a pytree, the site's `told`."""

    value: Any
    told: Any


def answered(value_of: Callable[[Site], Any]) -> Handler:
    """Give each sample site that has no value the one that `value_of` finds; errors of its distribution name it.

    It may be an `Answer`, which says more than the value.
    """

    def interpret(site: Site) -> Site:
        if site.kind != "sample" or site.value is not None:
            return site
        with at_site(site):
            found = value_of(site)
        value, told = found if isinstance(found, Answer) else (found, None)
        return dataclasses.replace(site, value=value, told=told)

    return interpret


def from_prior(key: Array) -> Handler:
    """Draw every site that has no value from its distribution, each with a key of its own name."""
    return answered(lambda site: site.dist.sample(key_at(key, site.name, site.step)))


def drawn_anew(handler: Handler) -> Handler:
    """Forget the observations, so that `handler` draws them: for predictive draws."""

    def interpret(site: Site) -> Site:
        if site.kind == "sample" and site.observed:
            site = dataclasses.replace(site, value=None, observed=False)
        return handler(site)

    return interpret


def given(values: Mapping[str, Any], handler: Handler) -> Handler:
    """Take the values of unobserved sites and of params from `values`; ask `handler` for the rest."""

    def interpret(site: Site) -> Site:
        if site.kind == "sample" and site.value is None and site.name in values:
            return dataclasses.replace(site, value=jnp.asarray(value_at(site, values[site.name])))
        if site.kind == "param" and site.name in values:
            value = values[site.name]
            return dataclasses.replace(site, value=value.made() if isinstance(value, Parts) else value)
        return handler(site)

    return interpret


def required(site: Site) -> Site:
    """The handler that has no values: it says which site lacks one."""
    if site.kind == "sample" and site.value is None:
        mend = f"Add {site.name!r} to the values: an array of shape {site.whole_shape}, or draws (n, ...) of it."
        raise ModelError("no value was given for this site.", site=site.name, mend=mend)
    return site


def at_point(coordinate: ArrayLike) -> Handler:
    """The handler for runs whose shapes are wanted: each latent site where all its `z` are `coordinate`."""

    def value_of(site: Site) -> Any:
        if site.dist.is_discrete:
            return site.dist.sample(jax.random.key(0))
        support = site.dist.support
        z = jnp.full(support.unconstrained_shape(site.shape), coordinate, jnp.result_type(float))
        return support.forward(z)

    return answered(value_of)


def at_rows(
    rows: Mapping[str, Any], handler: Handler, params: Mapping[str, tuple[Array, ...]] = MappingProxyType({})
) -> Handler:
    """Let plates show `rows`, where these name them, and params hold the unconstrained `params`; else `handler`.

    The trainable leaves of a param's `init` are replaced by the current values; the rest of it stays.
    """

    def interpret(site: Site) -> Site:
        if site.kind == "plate":
            return dataclasses.replace(site, value=rows.get(site.name))
        if site.kind == "param" and site.name in params:
            learnt = tuple(site.constraint.forward(leaf) for leaf in params[site.name])
            return dataclasses.replace(site, value=dataclasses.replace(parts(site.value), learnt=learnt).made())
        return handler(site)

    return interpret


def in_mode(handler: Handler, states: Mapping[str, tuple], raw_key: Array | None) -> Handler:
    """Hand modules out with their own `states`, in training mode with a `raw_key`, in evaluation mode with None.

    What a module or a mutable value has become in the run is in its site's value afterwards.
    """
    key = None if raw_key is None else wrap(raw_key)

    def interpret(site: Site) -> Site:
        if site.kind == "key":
            return dataclasses.replace(site, value=None if key is None else named(key, site.name))
        if site.kind not in ("param", "mutable"):
            return handler(site)
        site = handler(site)
        found = parts_of(site)
        if site.name in states:
            found = dataclasses.replace(found, state=states[site.name])
        elif not found.has_training_mode:
            return site
        return dataclasses.replace(site, value=found.in_mode(None if key is None else named(key, site.name)))

    return interpret


def parts_of(site: Site) -> Parts:
    """The value of a param or of a mutable site, taken apart; all numbers of the latter are state."""
    return mutable_parts(site.value) if site.kind == "mutable" else parts(site.value)


def states_of(sites: Mapping[str, Site]) -> dict[str, tuple]:
    """What runs in training mode change, by the sites' names: batch statistics, mutable values."""
    found = {site.name: parts_of(site).state for site in sites.values() if site.kind in ("param", "mutable")}
    return {name: state for name, state in found.items() if state}


def log_probs(site: Site) -> Array:
    """The log density of a sample site's value, in its batch shape; a factor's value."""
    return site.dist.log_prob(site.value) if site.kind == "sample" else site.value


@contextlib.contextmanager
def at_site(site: Site) -> Iterator[None]:
    """Name `site` in errors of its distribution, which does not know where it stands."""
    try:
        yield
    except ModelError as error:
        if error.site is not None:
            raise
        raise ModelError(error.what, site=site.name, details=error.details, mend=error.mend) from None
