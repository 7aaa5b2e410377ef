"""Discrete latent sites are summed out: against sums over all their values in NumPy."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

import vbppl as vb
import vbppl.distributions as dist

Y = np.array([-1.3, 0.4, 2.2, 1.9])
PSI, LOCS = 0.3, np.array([-1.0, 0.5, 2.0])
WEIGHTS = np.array([0.2, 0.5, 0.3])
locs_of, weights = jnp.asarray(LOCS, jnp.float32), jnp.asarray(WEIGHTS, jnp.float32)


def normal(y, loc, scale=1.0):
    return stats.norm.logpdf(y, loc, scale)


def coin(k, p):
    return np.log(p) if k else np.log1p(-p)


@vb.model
def mixture(y):
    locs = vb.sample("locs", dist.Normal(0.0, 3.0).expand((3,)).to_event(1))
    with vb.plate("row", len(y)):
        z = vb.sample("z", dist.Categorical(WEIGHTS))
        vb.sample("y", dist.Normal(locs[z], 1.0), obs=y)


def of_mixture(locs):
    rows = [logsumexp([np.log(w) + normal(y, loc) for w, loc in zip(WEIGHTS, locs)]) for y in Y]
    return normal(locs, 0.0, 3.0).sum() + sum(rows)


@vb.model
def two_sites_in_a_row(y):
    a = vb.sample("a", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(y)):
        z = vb.sample("z", dist.Bernoulli(PSI))
        c = vb.sample("c", dist.Categorical(WEIGHTS))
        vb.sample("y", dist.Normal(a * z + locs_of[c] * (1 + z), 1.0), obs=y)


def of_two_sites(a):
    def row(y):
        pairs = itertools.product(range(2), range(3))
        return logsumexp([coin(z, PSI) + np.log(WEIGHTS[c]) + normal(y, a * z + LOCS[c] * (1 + z)) for z, c in pairs])

    return normal(a, 0.0) + sum(map(row, Y))


@vb.model
def a_chain_in_a_row(y, w):
    a = vb.sample("a", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(y)):
        one = vb.sample("one", dist.Bernoulli(PSI))
        two = vb.sample("two", dist.Bernoulli(jnp.where(one, 0.9, 0.2)))
        vb.sample("w", dist.Normal(a * two, 0.5), obs=w)
        three = vb.sample("three", dist.Categorical(jnp.where((two == 1)[:, None], weights, weights[::-1])))
        vb.sample("y", dist.Normal(locs_of[three], 1.0), obs=y)


def of_chain(a):
    def each(y, w, one, two, three):
        states = coin(one, PSI) + coin(two, 0.9 if one else 0.2) + np.log((WEIGHTS if two else WEIGHTS[::-1])[three])
        return states + normal(w, a * two, 0.5) + normal(y, LOCS[three])

    states = list(itertools.product(range(2), range(2), range(3)))
    return normal(a, 0.0) + sum(logsumexp([each(y, w, *s) for s in states]) for y, w in zip(Y, Y[::-1]))


@vb.model
def nested_plates(y):
    a = vb.sample("a", dist.Normal(0.0, 1.0))
    with vb.plate("group", y.shape[0], dim=-2):
        kind = vb.sample("kind", dist.Categorical(WEIGHTS))
        with vb.plate("row", y.shape[1], dim=-1):
            outlier = vb.sample("outlier", dist.Bernoulli(jnp.where(kind == 0, 0.5, 0.1)))
            vb.sample("y", dist.Normal(a + locs_of[kind], 1.0 + 4.0 * outlier), obs=y)


TABLE = np.array([[0.3, -2.0, 1.1], [5.0, 0.2, 0.0]])


def of_nested(a):
    def row(y, kind):
        p = 0.5 if kind == 0 else 0.1
        return logsumexp([coin(k, p) + normal(y, a + LOCS[kind], 1.0 + 4.0 * k) for k in range(2)])

    groups = [[np.log(WEIGHTS[k]) + sum(row(y, k) for y in group) for k in range(3)] for group in TABLE]
    return normal(a, 0.0) + sum(map(logsumexp, groups))


@vb.model
def outside_of_plates(y):
    a = vb.sample("a", dist.Normal(0.0, 1.0))
    regime = vb.sample("regime", dist.Bernoulli(PSI))
    parts = vb.sample("parts", dist.Bernoulli(0.4).expand((2,)))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(a + regime + 2.0 * parts[0] * parts[1], 1.0), obs=y)
    with vb.plate("other", 2):
        vb.sample("x", dist.Bernoulli(jnp.where(regime, 0.8, 0.3)), obs=np.array([1, 0]))


def of_outside(a):
    def each(regime, one, two):
        of_states = coin(regime, PSI) + coin(one, 0.4) + coin(two, 0.4)
        x = coin(1, 0.8 if regime else 0.3) + coin(0, 0.8 if regime else 0.3)
        return of_states + x + normal(Y, a + regime + 2.0 * one * two).sum()

    return normal(a, 0.0) + logsumexp([each(*bits) for bits in itertools.product(range(2), repeat=3)])


@vb.model
def zero_inflated(counts):
    log_rate = vb.sample("a", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(counts)):
        is_zero = vb.sample("is_zero", dist.Bernoulli(PSI))
        vb.sample("counts", dist.Poisson(jnp.exp(log_rate) * (1 - is_zero)), obs=counts)


COUNTS = np.array([0, 3, 0, 1])


def of_zero_inflated(a):
    p = PSI * (COUNTS == 0) + (1 - PSI) * stats.poisson.pmf(COUNTS, np.exp(a))
    return normal(a, 0.0) + np.log(p).sum()


VOTES = np.array([[0, 0, 1], [2, 2, 2], [1, 0, 1], [2, 1, 2]])  # items, annotators


@vb.model
def dawid_skene(votes):
    with vb.plate("annotator", votes.shape[1], dim=-1):
        skill = vb.sample("skill", dist.Normal(0.0, 1.0))
    with vb.plate("item", votes.shape[0], dim=-2):
        truth = vb.sample("truth", dist.Categorical(WEIGHTS))
        with vb.plate("annotator", votes.shape[1], dim=-1):
            logits = skill[:, None] * (jnp.arange(3) == truth[..., None])
            vb.sample("votes", dist.Categorical(logits=logits), obs=votes)


def of_dawid_skene(skill):
    def item(votes, truth):
        logits = skill[:, None] * (np.arange(3) == truth)
        return np.log(WEIGHTS[truth]) + (logits[np.arange(3), votes] - logsumexp(logits, axis=1)).sum()

    return normal(skill, 0.0).sum() + sum(logsumexp([item(votes, k) for k in range(3)]) for votes in VOTES)


CAUGHT, MOST = np.array([[2, 3], [0, 1], [4, 4]]), np.array([5, 2, 4])


@vb.model
def counts_of_animals(caught):
    a = vb.sample("a", dist.Normal(0.0, 1.0))
    with vb.plate("place", 3, dim=-2):
        there = vb.sample("there", dist.Binomial(MOST[:, None], PSI))
        with vb.plate("visit", 2, dim=-1):
            vb.sample("caught", dist.Binomial(there, jax.nn.sigmoid(a)), obs=caught)


def of_counts(a):
    p, total = 1 / (1 + np.exp(-a)), normal(a, 0.0)
    for caught, most in zip(CAUGHT, MOST):
        each = [stats.binom.pmf(n, most, PSI) * stats.binom.pmf(caught, n, p).prod() for n in range(most + 1)]
        total += np.log(sum(each))
    return total


@vb.model
def spike_and_slab(y):
    with vb.plate("row", len(y)):
        slab = vb.sample("slab", dist.Bernoulli(PSI))
        a = vb.sample("a", dist.Normal(0.0, jnp.where(slab, 3.0, 0.1)))
        vb.sample("y", dist.Normal(a, 1.0), obs=y)


def of_spike(a):
    prior = [logsumexp([coin(k, PSI) + normal(each, 0.0, (0.1, 3.0)[k]) for k in range(2)]) for each in a]
    return sum(prior) + normal(Y, a).sum()


@vb.model
def a_prior_at_an_edge(y):
    """A chance of exactly zero, and a transition that cannot be undone."""
    a = vb.sample("a", dist.Normal(0.0, 1.0))
    survival = jax.nn.sigmoid(a)
    moves = jnp.stack([jnp.stack([survival, 1.0 - survival]), jnp.array([0.0, 1.0])])
    with vb.plate("row", len(y)):
        one = vb.sample("one", dist.Categorical(jnp.array([1.0, 0.0])))
        two = vb.sample("two", dist.Categorical(moves[one]))
        vb.sample("y", dist.Bernoulli(jnp.where(two == 0, 0.6, 0.0)), obs=y)


def of_edge(a):
    survival = 1 / (1 + np.exp(-a))
    return normal(a, 0.0) + np.log(survival * 0.6) * 2 + np.log(survival * 0.4 + 1 - survival) * 2


CASES = {
    "mixture": (mixture(Y), of_mixture, "locs", np.array([-0.7, 0.3, 1.5])),
    "two sites": (two_sites_in_a_row(Y), of_two_sites, "a", 0.7),
    "chain": (a_chain_in_a_row(Y, Y[::-1]), of_chain, "a", 0.7),
    "nested": (nested_plates(TABLE), of_nested, "a", 0.7),
    "outside": (outside_of_plates(Y), of_outside, "a", 0.7),
    "zero-inflated": (zero_inflated(COUNTS), of_zero_inflated, "a", 0.7),
    "dawid-skene": (dawid_skene(VOTES), of_dawid_skene, "skill", np.array([0.5, 2.0, -0.3])),
    "counts": (counts_of_animals(CAUGHT), of_counts, "a", 0.7),
    "spike and slab": (spike_and_slab(Y), of_spike, "a", np.array([0.2, -0.1, 1.5, 2.0])),
    "edge": (a_prior_at_an_edge(np.array([1, 0, 0, 1])), of_edge, "a", 0.7),
}


IN_HASTE = {"xla_backend_optimization_level": 0}


@pytest.mark.parametrize("name", CASES)
def test_the_density_is_the_sum_over_all_values(name):
    model, evidence, site, at = CASES[name]
    both = jax.value_and_grad(lambda model, x: model.log_joint({site: x}), argnums=1)
    value, slope = jax.jit(both, compiler_options=IN_HASTE)(model, jnp.asarray(at))
    np.testing.assert_allclose(value, evidence(at), rtol=3e-6)
    flat = np.atleast_1d(at).astype(float)
    steps = 1e-5 * np.eye(len(flat))
    ends = [[evidence((flat + sign * step).reshape(np.shape(at))) for sign in (1, -1)] for step in steps]
    numerical = [(up - down) / 2e-5 for up, down in ends]
    np.testing.assert_allclose(np.atleast_1d(slope), numerical, rtol=2e-4, atol=1e-5)
