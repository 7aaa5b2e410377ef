"""Modes that differ only in the order of exchangeable parts are one, and the card says so."""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.keys import raw_key
from vbppl.inference.deterministic.relabelling import exchangeable, in_better_order, relabelled
from vbppl.target.batched import evaluate

RNG = np.random.default_rng(0)
Y = np.concatenate([RNG.normal(-3.0, 1.0, 12), RNG.normal(3.0, 1.0, 14), RNG.normal(0.0, 1.0, 8)])


@vb.model
def mixture(y, weights, means):
    locs = vb.sample("locs", dist.Normal(means, 4.0).to_event(1))
    slopes = vb.sample("slopes", dist.Normal(0.0, 1.0).expand((len(weights),)).to_event(1))
    vb.factor("unlike parts", jnp.sum(-((slopes - jnp.arange(len(weights))) ** 2)))  # an axis as long, of other things
    with vb.plate("row", len(y)):
        z = vb.sample("z", dist.Categorical(weights))
        vb.sample("y", dist.Normal(locs[z], 1.0), obs=y)


def target_of(weights, means=(0.0, 0.0, 0.0)):
    target = vb.target(mixture(Y, np.asarray(weights), np.asarray(means)))
    return target, lambda z: evaluate(target, z)


def at(target, locs):
    return np.asarray(target.unconstrain({"locs": np.asarray(locs), "slopes": np.arange(3.0) / 1.5}), np.float64)


def is_near(place):
    return lambda loc: np.abs(loc - place).max() < 0.5


@pytest.mark.parametrize(
    ("weights", "means", "orders"),
    [
        ([1 / 3, 1 / 3, 1 / 3], [0.0, 0.0, 0.0], 6),
        ([0.25, 0.5, 0.25], [0.0, 0.0, 0.0], 2),
        ([0.25, 0.5, 0.25], [0.0, 0.0, 1.0], None),
        ([0.25, 0.3, 0.45], [0.0, 0.0, 0.0], None),
    ],
    ids=["all", "two of three", "told apart by the prior", "told apart by the weights"],
)
def test_an_end_is_another_one_relabelled_where_the_density_is_the_same(weights, means, orders):
    target, density = target_of(weights, means)
    best, other = at(target, [-3.0, 0.1, 3.0]), at(target, [3.1, 0.1, -3.0])
    found = relabelled(target, density, raw_key(0), best, other, is_near(best))
    if orders is None:
        assert found is None
    else:
        assert (found.orders, found.sites) == (orders, ("locs",))
        np.testing.assert_allclose(found.loc, at(target, [-3.0, 0.1, 3.1]), rtol=1e-6)


def test_a_part_too_many_makes_no_further_orders():
    target, density = target_of([1 / 3, 1 / 3, 1 / 3])
    best, other = at(target, [-3.0, 3.0, 3.1]), at(target, [3.0, 3.1, -3.0])
    assert relabelled(target, density, raw_key(0), best, other, is_near(best)).orders == 3


def test_exchangeable_parts_are_found_without_another_end():
    target, density = target_of([1 / 3, 1 / 3, 1 / 3])
    best = at(target, [-3.0, 0.1, 3.0])
    assert exchangeable(target, density, raw_key(0), best, is_near(best)) == (6, ("locs",))
    target, density = target_of([0.25, 0.3, 0.45])
    assert exchangeable(target, density, raw_key(0), best, is_near(best)) == (1, ())


def test_a_better_order_is_found_where_the_prior_tells_parts_apart():
    means = np.array([-3.0, 0.0, 3.0])
    target, density = target_of([1 / 3, 1 / 3, 1 / 3], means)
    z = np.asarray(target.unconstrain({"locs": np.array([0.2, 3.1, -3.0]), "slopes": np.ones(3)}), np.float64)
    values = target.constrain(in_better_order(target, density, z))
    best = max(itertools.permutations([0.2, 3.1, -3.0]), key=lambda locs: scipy.stats.norm.logpdf(locs, means, 4).sum())
    np.testing.assert_allclose(values["locs"], best, rtol=1e-6)
    assert in_better_order(target, density, np.asarray(target.unconstrain(values), np.float64)) is None


@vb.model
def two(y):
    locs = vb.sample("locs", dist.Normal(0.0, 4.0).expand((2,)).to_event(1))
    with vb.plate("row", len(y)):
        z = vb.sample("z", dist.Bernoulli(0.5))
        vb.sample("y", dist.Normal(locs[z], 1.0), obs=y)


def test_one_labelling_is_described_and_its_evidence_times_the_orders_is_the_whole():
    y = Y[:26]
    posterior = vb.fit(two(y))
    report: Any = posterior.report
    assert (report.verdict, report.other_modes.orders, report.other_modes.found) == ("good", 2, ())
    assert "one of 2 equal modes, which differ in the order of locs alone" in str(report)
    grid = np.linspace(-8.0, 8.0, 641)
    each = scipy.stats.norm.logpdf(y, grid[:, None], 1.0) + np.log(0.5)
    log_p = np.logaddexp(each[:, None], each[None]).sum(axis=-1)
    log_p += np.add.outer(*[scipy.stats.norm.logpdf(grid, 0.0, 4.0)] * 2)
    whole = scipy.special.logsumexp(log_p) + 2 * np.log(grid[1] - grid[0])
    assert report.log_evidence + np.log(2) == pytest.approx(whole, abs=0.02)
    # By the same grid: the means where locs[0] is the lower one, or the higher.
    half = np.exp(log_p - log_p.max()) * (grid[:, None] < grid[None])
    means = np.array([np.sum(half * grid[:, None]), np.sum(half * grid[None])]) / half.sum()
    np.testing.assert_allclose(np.sort(posterior.mean()["locs"]), means, atol=0.02)


@vb.model
def three(y):
    weights = vb.sample("weights", dist.Dirichlet(np.ones(3)))
    with vb.plate("component", 3):
        locs = vb.sample("locs", dist.Normal(0.0, 5.0))
        scale = vb.sample("scale", dist.HalfNormal(2.0))
    with vb.plate("row", len(y)):
        z = vb.sample("z", dist.Categorical(weights))
        vb.sample("y", dist.Normal(locs[z], scale[z]), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_mixture_of_100_000_rows_is_fitted_without_a_start(seed):
    rng = np.random.default_rng(seed)
    z = rng.choice(3, 100_000, p=[0.5, 0.3, 0.2])
    posterior = vb.fit(three((np.array([-4.0, 0.0, 4.0])[z] + rng.normal(size=len(z))).astype(np.float32)), seed=seed)
    report: Any = posterior.report
    assert (report.verdict, report.other_modes.orders) == ("good", 6)
    assert posterior.status.gradients < 6_000
    mean, sd = (
        {name: np.asarray(value) for name, value in each.items()} for each in (posterior.mean(), posterior.sd())
    )
    order = np.argsort(mean["locs"])
    for name, truth in (("locs", [-4.0, 0.0, 4.0]), ("weights", [0.5, 0.3, 0.2]), ("scale", [1.0, 1.0, 1.0])):
        assert np.all(np.abs(mean[name][order] - truth) < 4 * sd[name][order])
    states = posterior.probabilities("z", n=10).argmax(axis=-1)
    assert (np.argsort(order)[states] == z).mean() > 0.95
