"""Models with known answers: by quadrature, linear algebra or long optimisation in float64.

Each case is a model applied to its data, and what the best Gaussians in unconstrained space are.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.pytree import pytree, static


@vb.model
def beta_bernoulli(flips):
    p = vb.sample("p", dist.Beta(1.0, 1.0))
    with vb.plate("flip", len(flips)):
        vb.sample("flips", dist.Bernoulli(p), obs=flips)


FLIPS = np.array([1, 1, 1, 1, 1, 1, 1, 1, 0, 0])


@vb.model
def normal_normal(y):
    x = vb.sample("x", dist.Normal(jnp.array([0.0, 0.5]), 0.1**-0.5).to_event(1))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(x, jnp.array([6.0, 4.0]) ** -0.5).to_event(1), obs=y)


PAIRS = np.array([[-0.1, 0.3], [0.0, 0.4], [0.2, 0.5], [0.1, 0.7]])


@vb.model
def gamma_exponential(y):
    rate = vb.sample("rate", dist.Gamma(1.0, 1.0))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Exponential(rate), obs=y)


WAITS = np.array([3.0, 2.0])


@vb.model
def linear_regression(x, y, prior_sd=1.0, noise=0.5):
    beta = vb.sample("beta", dist.Normal(jnp.zeros(x.shape[1]), prior_sd).to_event(1))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(x @ beta, noise), obs=y)


def quadratic_data():
    t = np.linspace(-1, 2, 20)
    x = np.stack([np.ones(20), t, t**2], axis=1)
    return x, 1 + 0.5 * t - 0.8 * t**2 + 0.3 * np.sin(7.0 * np.arange(20))


@vb.model
def correlated_pair():
    vb.sample("z", dist.MultivariateNormal(jnp.zeros(2), jnp.array([[1.0, 0.9], [0.9, 1.0]])))


@vb.model
def poisson_regression(x, y):
    a = vb.sample("a", dist.Normal(0.0, 1.0))
    b = vb.sample("b", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Poisson(jnp.exp(a + b * x)), obs=y)


COUNTS = np.array(
    [0, 1, 0, 2, 1, 0, 1, 1, 2, 0, 1, 3, 1, 2, 1, 0, 2, 3, 2, 1]
    + [4, 2, 3, 2, 5, 3, 2, 4, 3, 6, 4, 5, 3, 7, 5, 6, 8, 5, 7, 9]
)


@vb.model
def logistic_regression(x, y, offset=0.0):
    beta = vb.sample("beta", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    if offset:
        vb.factor("c", offset)
    with vb.plate("row", len(y)):
        x, y = vb.subsample(x, event_dim=1), vb.subsample(y)
        vb.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def logistic_data():
    x = np.random.RandomState(0).randn(200, 3)
    p = 1 / (1 + np.exp(-x @ np.array([1.0, 2.0, 3.0])))
    return x, (np.random.RandomState(1).rand(200) < p).astype(int)


@vb.model
def mixture(y):
    w = vb.sample("w", dist.Dirichlet(jnp.array([0.5, 0.5])))
    scale = vb.sample("scale", dist.LogNormal(0.0, 2.0))
    locs = vb.sample("locs", dist.Normal(jnp.zeros(2), 10.0).to_event(1))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.MixtureSameFamily(dist.Categorical(w), dist.Normal(locs, scale)), obs=y)


MIXED = np.array([0.0, 1.0, 10.0, 11.0, 12.0])


@vb.model
def far_datum(y):
    x = vb.sample("x", dist.Normal(0.0, 1.0))
    vb.sample("y", dist.Normal(x, 0.5), obs=y)


@vb.model
def eight_schools(sigma, y=None):
    mu = vb.sample("mu", dist.Normal(0.0, 5.0))
    tau = vb.sample("tau", dist.HalfCauchy(5.0))
    with vb.plate("school", len(sigma)):
        theta = vb.sample("theta", dist.Normal(mu, tau))
        vb.sample("y", dist.Normal(theta, sigma), obs=y)


SCHOOLS_Y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SCHOOLS_SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


class Nested:
    """A place for a model function that has not a name of its own in its module."""

    @vb.model
    def inner():
        vb.sample("x", dist.Normal(0.0, 1.0))


@vb.model
def funnel():
    v = vb.sample("v", dist.Normal(0.0, 3.0))
    with vb.plate("i", 9):
        vb.sample("x", dist.Normal(0.0, jnp.exp(v / 2)))


@vb.model
def two_far_modes():
    vb.sample(
        "x", dist.MixtureSameFamily(dist.Categorical(jnp.array([0.5, 0.5])), dist.Normal(jnp.array([-10.0, 10.0]), 1.0))
    )


def seen(target, weight):
    """A target whose movable sites are centred as far as `weight` says."""
    layout = target.layout
    return target.replace(parameterisations=layout.centred_by(dict.fromkeys(layout.movable, weight), np.float64))


def flat_moments(posterior):
    """Mean and sd of the Gaussian guide in unconstrained space, float64."""
    phi = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), posterior.phi)
    return posterior.guide.frame(phi, posterior.target)


@vb.model
def rooted(y):
    """`log(x)` of a real `x`: not a number wherever a draw falls below zero."""
    x = vb.sample("x", dist.Normal(1.0, 1.0))
    vb.factor("root", jnp.log(x) / 4)
    vb.sample("y", dist.Normal(x, 1.0), obs=y)


def gaussian(precision, loc):
    """The log density, up to a constant, and its gradient."""

    def density(z):
        away = z - loc
        return -((away @ precision) * away).sum(axis=1) / 2, -away @ precision

    return density


def dense(at):
    """The factor of a normal as a matrix."""
    inner = np.eye(len(at.loc)) + (at.directions * np.expm1(at.stretch)) @ at.directions.T
    return np.exp(at.log_sd)[:, None] * inner


def flow_of_flowjax(dim, **how):
    """A masked autoregressive flow, where FlowJAX is installed."""
    flows = pytest.importorskip("flowjax.flows", reason="pip install '.[flow]'")
    base = pytest.importorskip("flowjax.distributions").Normal(jnp.zeros(dim))
    how = {"flow_layers": 4, "nn_width": 16, "invert": False} | how
    return vb.guides.Flow(flows.masked_autoregressive_flow(jax.random.key(0), base_dist=base, **how).bijection)


@pytree
class Same:
    """Nothing but the identity, in FlowJAX's protocol."""

    weight: Any = np.float32(0.0)
    back: Any = static(default=lambda v: (v, jnp.zeros(())))
    shape: tuple = static(default=(4,))
    cond_shape: tuple | None = static(default=None)

    def transform_and_log_det(self, e):
        return e, jnp.zeros(())

    def inverse_and_log_det(self, v):
        return self.back(v)
