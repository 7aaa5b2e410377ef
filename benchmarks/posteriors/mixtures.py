"""Posteriors with several modes or none that is Gaussian: mixtures, item responses, the funnel, two far modes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

import vbppl as vb
import vbppl.distributions as dist
from benchmarks.posteriors import data


@vb.model
def ordered_mixture(y, centres, centre_sd, scale, scale_sd):
    """Normal components in order of their locations."""
    components = len(centres)
    weights = vb.sample("weights", dist.Dirichlet(2.0 * jnp.ones(components)))
    locs = vb.sample("locs", dist.ImproperUniform(dist.constraints.ordered_vector, (), (components,)))
    vb.factor("locs_prior", jnp.sum(dist.Normal(centres, centre_sd).log_prob(locs)))
    scales = vb.sample("scales", dist.LogNormal(jnp.log(scale) * jnp.ones(components), scale_sd).to_event(1))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(locs, scales)), obs=y)


def faithful():
    """Two kinds of eruption, in minutes."""
    return ordered_mixture(data.FAITHFUL, data.FAITHFUL.mean() + np.array([-15.0, 15.0]), 15.0, 3.75, 1.0)


def galaxies():
    """Three clusters of galaxies.

    The prior on locations is what makes one mode of it: the next has exp(-20) of its mass (by Laplace's
    approximation). With a vague prior several modes share the posterior, and NUTS cannot weigh them.
    """
    return ordered_mixture(data.GALAXIES, np.array([9.0, 21.0, 33.0]), 3.0, 1.5, 0.5)


@vb.model
def item_response(answers):
    """Two-parameter item response: abilities of persons, difficulties and discriminations of items."""
    persons, items = answers.shape
    with vb.plate("item", items, dim=-1):
        difficulty = vb.sample("difficulty", dist.Normal(0.0, 1.5))
        slope = vb.sample("slope", dist.LogNormal(0.0, 0.5))
    with vb.plate("person", persons, dim=-2):
        ability = vb.sample("ability", dist.Normal(0.0, 1.0))
        with vb.plate("item", items, dim=-1):
            vb.sample("answer", dist.Bernoulli(logits=slope * (ability - difficulty)), obs=answers)


def answers():
    """Forty persons and eight items, simulated (NumPy's RandomState(5))."""
    rs = np.random.RandomState(5)
    ability, difficulty, slope = rs.randn(40, 1), np.linspace(-1.5, 1.5, 8), np.exp(0.4 * rs.randn(8))
    return item_response((rs.rand(40, 8) < 1 / (1 + np.exp(-slope * (ability - difficulty)))).astype(int))


@vb.model
def funnel():
    """Neal's (2003) funnel, nine leaves."""
    v = vb.sample("v", dist.Normal(0.0, 3.0))
    with vb.plate("leaf", 9):
        vb.sample("x", dist.Normal(0.0, jnp.exp(v / 2)))


def funnel_exactly(draws: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws from the funnel."""
    v = 3.0 * rng.standard_normal(draws)
    return {"v": v, "x": np.exp(v / 2)[:, None] * rng.standard_normal((draws, 9))}


TWO_LOCS, TWO_WEIGHTS = np.array([-4.0, 4.0]), np.array([0.4, 0.6])


@vb.model
def two_modes(weights, locs):
    """Two modes eight standard deviations apart in the first of two coordinates."""
    mixing = dist.Categorical(weights)
    x = vb.sample("x", dist.MixtureSameFamily(mixing, dist.Normal(locs, 1.0)))
    vb.sample("y", dist.Normal(x / 4, 1.0))


def two_modes_exactly(draws: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws from both modes."""
    x = rng.choice(TWO_LOCS, size=draws, p=TWO_WEIGHTS) + rng.standard_normal(draws)
    return {"x": x, "y": x / 4 + rng.standard_normal(draws)}
