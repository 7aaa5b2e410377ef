"""Centred or not: in which coordinates a hierarchical site is seen.

A site `theta ~ Normal(mu, tau)` whose `tau` is itself latent makes a funnel: the scale of `theta` hangs on
`tau`. In the coordinates `z = (theta - mu) / tau` the funnel is gone from the prior, and a Gaussian guide
fits much better where the data say little about each `theta` (`distributions/location_scale.py`).

That is a choice of coordinates, not of model: `decenter` changes the bijector between the flat vector and the
site, and nothing else. Names, shapes, densities of values and the evidence stay as they are.
"""

from __future__ import annotations

import dataclasses

from vbppl.core.errors import ModelError, of_kind
from vbppl.model.model import Model
from vbppl.model.trace import abstract_sites


def decenter(model: Model, *names: str) -> Model:
    """The same model with the sites `names` fitted in the coordinates `(value - loc) / scale`.

    Without names, all latent location-scale sites whose scale depends on other latent sites.

    >>> import numpy as np, vbppl as vb, vbppl.distributions as dist
    >>> @vb.model
    ... def schools(sigma, y):
    ...     tau = vb.sample("tau", dist.HalfNormal(5.0))
    ...     with vb.plate("school", 2):
    ...         theta = vb.sample("theta", dist.Normal(0.0, tau))
    ...         vb.sample("y", dist.Normal(theta, sigma), obs=y)
    >>> vb.decenter(schools(np.ones(2), np.ones(2))).decentered
    ('theta',)

    Raises:
      ModelError: a name is not that of a latent site with a location and a scale.
    """
    of_kind("model", model, hasattr(model, "decentered"), "a model applied to its arguments")
    known = [name for name, site in abstract_sites(model).items() if site.location_scale]
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise ModelError(
                "only a latent site with a location and a scale can be non-centred.",
                site=str(name)[:80],
                details=f"such sites of this model: {', '.join(known) or 'none'}",
                mend="Name one of these.",
            )
    return dataclasses.replace(model, decentered=names or hierarchical_sites(model))


def hierarchical_sites(model: Model) -> tuple[str, ...]:
    """The latent location-scale sites whose scale depends on other latent sites."""
    return tuple(name for name, site in abstract_sites(model).items() if site.hierarchical)
