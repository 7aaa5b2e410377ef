"""Models to measure, each twice: in the words of the language, and as a flat density written by hand.

The density by hand is the limit: a function of the flat vector and the data in plain `jax.numpy`,
with constants left in, so that both sides give the same number of nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import vbppl as vb
import vbppl.distributions as dist

LOG_ROOT_TWO_PI = math.log(2 * math.pi) / 2


class Case(NamedTuple):
    """A model applied to its data, and `log_density(z, *data)` at `z`, `(dim,)`, by hand."""

    name: str
    model: vb.Model
    log_density: Callable
    data: tuple[np.ndarray, ...]


@vb.model
def eight_schools(sigma, y):
    """Rubin's (1981) hierarchy."""
    mu = vb.sample("mu", dist.Normal(0.0, 5.0))
    tau = vb.sample("tau", dist.HalfCauchy(5.0))
    with vb.plate("school", len(sigma)):
        theta = vb.sample("theta", dist.Normal(mu, tau))
        vb.sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools_by_hand(z, sigma, y):
    """The same as a flat density."""
    mu, log_tau, theta = z[0], z[1], z[2:]
    tau = jnp.exp(log_tau)
    half_cauchy = math.log(2 / (5 * math.pi)) - jnp.log1p((tau / 5) ** 2) + log_tau
    priors = normal(mu, 0.0, 5.0) + half_cauchy
    return priors + jnp.sum(normal(theta, mu, tau) + normal(y, theta, sigma))


@vb.model
def logistic(x, y):
    """A logistic regression."""
    beta = vb.sample("beta", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def logistic_by_hand(z, x, y):
    """The same as a flat density."""
    logits = x @ z
    return jnp.sum(normal(z, 0.0, 1.0)) + jnp.sum(-jax.nn.softplus((1 - 2 * y) * logits))


@vb.model
def thirty_sites(groups):
    """Ten small hierarchies of different sizes: thirty latent sites, 85 numbers."""
    for i, y in enumerate(groups):
        loc = vb.sample(f"loc_{i}", dist.Normal(0.0, 5.0))
        scale = vb.sample(f"scale_{i}", dist.HalfNormal(2.0))
        with vb.plate(f"unit_{i}", len(y)):
            theta = vb.sample(f"theta_{i}", dist.Normal(loc, scale))
            vb.sample(f"y_{i}", dist.Normal(theta, 1.0), obs=y)


def thirty_sites_by_hand(z, *groups):
    """The same as a flat density, with a loop over the groups as in the model.

    One array for all groups would be faster still; but so would one plate in the model.
    """
    total, start = 0.0, 0
    for y in groups:
        loc, log_scale, theta = z[start], z[start + 1], z[start + 2 : start + 2 + len(y)]
        start += 2 + len(y)
        scale = jnp.exp(log_scale)
        half_normal = normal(scale, 0.0, 2.0) + math.log(2) + log_scale
        total += normal(loc, 0.0, 5.0) + half_normal + jnp.sum(normal(theta, loc, scale) + normal(y, theta, 1.0))
    return total


def normal(x, loc, scale):
    """The log density of a normal."""
    return -(((x - loc) / scale) ** 2) / 2 - jnp.log(scale) - LOG_ROOT_TWO_PI


def cases() -> list[Case]:
    """The three models that the overhead is measured on."""
    rng = np.random.default_rng(0)
    sigma = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    schools = (sigma, np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]))
    x = rng.standard_normal((10_000, 50))
    labels = (rng.random(10_000) < jax.nn.sigmoid(x @ rng.standard_normal(50))).astype(float)
    groups = tuple(rng.standard_normal(2 + i) * 2 + i for i in range(10))
    found = [
        Case("eight schools", eight_schools(*schools), eight_schools_by_hand, schools),
        Case("logistic 10,000 x 50", logistic(x, labels), logistic_by_hand, (x, labels)),
        Case("30 sites", thirty_sites(groups), thirty_sites_by_hand, groups),
    ]
    return [case._replace(data=tuple(jnp.asarray(a, jnp.result_type(float)) for a in case.data)) for case in found]
