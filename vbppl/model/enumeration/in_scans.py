"""Discrete sites in the steps of a scan, which the scan itself sums out: see `control_flow.hidden`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from vbppl.core.types import Array
from vbppl.model.control_flow.hidden import Hidden
from vbppl.model.enumeration.support import Support
from vbppl.model.handlers import given
from vbppl.model.primitives import Handler, Site


def hiding(names: Sequence[str], handler: Handler, **how: Any) -> Handler:
    """Let the discrete sites `names`, where they stand in scans, be hidden states; ask `handler` for the rest."""

    def interpret(site: Site) -> Site:
        if site.step is None or site.name not in names or site.kind != "sample" or site.value is not None:
            return handler(site)
        support = Support.of(site)
        return dataclasses.replace(site, value=support.value(jnp.zeros((), int)), told=Hidden(support, **how))

    return interpret


def drawn(once: Callable[..., Any], names: Sequence[str], key: Array, values: Mapping[str, Any]) -> dict[str, Array]:
    """The sites `names` drawn given the rest of a run, where other discrete sites have these `values`."""
    if not names:
        return {}
    sites, _ = once(lambda handler: given(values, hiding(names, handler, key=key)))
    return {name: sites[name].value for name in names}


def mixed_rows(once: Callable[..., Any], names: Sequence[str], key: Array) -> dict[str, Array]:
    """For each of these in plates whether what its scan states of a row looks at other rows of it."""
    sites, _ = once(lambda handler: hiding(names, handler, key=key, checked=True))
    told = {name: site.told for name, site in sites.items() if name in names and isinstance(site.told, dict)}
    return {name: jnp.any(each["mixed"]) for name, each in told.items() if "mixed" in each}
