"""Sums inside of sums: discrete sites around scans with hidden states, and such scans in scans; against all paths."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

import vbppl as vb
import vbppl.distributions as dist
from vbppl.model.predictive import log_likelihood
from vbppl.target import discrete

TRANSITIONS = np.array([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.25, 0.25, 0.5]])
LOC = np.array([-1.0, 0.5, 2.0])
transitions, loc_of = jnp.asarray(TRANSITIONS, jnp.float32), jnp.asarray(LOC, jnp.float32)
Y = np.array([[0.3, -0.2], [1.0, 0.4], [0.2, 0.9]])


def hidden(state, y, shift, name="state"):
    state = vb.sample(name, dist.Categorical(transitions[state]))
    vb.sample("y", dist.Normal(loc_of[state] + shift, 0.5), obs=y)
    return state, None


def paths_of(y, shift):
    """The log density of each path of states and what was observed."""
    return {
        path: sum(
            np.log(TRANSITIONS[old, new]) + stats.norm.logpdf(value, LOC[new] + shift, 0.5)
            for old, new, value in zip((0, *path[:-1]), path, y)
        )
        for path in itertools.product(range(3), repeat=len(y))
    }


def evidence(y, shift):
    return logsumexp(list(paths_of(y, shift).values()))


@vb.model
def kinds_of_sequences(y):
    with vb.plate("sequence", 2):
        kind = vb.sample("kind", dist.Bernoulli(0.3))
        vb.scan(lambda state, y: hidden(state, y, kind), jnp.zeros(2, int), y)


@vb.model
def kind_of_all(y):
    kind = vb.sample("kind", dist.Bernoulli(0.3))
    vb.scan(lambda state, y: hidden(state, y, kind), 0, y)


def of_kinds(y):
    return np.logaddexp(np.log(0.7) + evidence(y, 0.0), np.log(0.3) + evidence(y, 1.0))


def test_likelihoods_of_a_scan_inside_of_a_sum():
    found = log_likelihood(kinds_of_sequences(Y), {}, {})["y"]  # they were left out
    np.testing.assert_allclose(found, [[of_kinds(Y[:, 0]), of_kinds(Y[:, 1])]], rtol=1e-5)
    np.testing.assert_allclose(log_likelihood(kind_of_all(Y[:, 0]), {}, {})["y"], [of_kinds(Y[:, 0])], rtol=1e-5)


@pytest.mark.slow
def test_probabilities_in_a_scan_beside_a_sum():
    """That of a state was refused where any discrete site stood outside of its scan."""

    @vb.model
    def beside(x, y):
        with vb.plate("row", 2):
            vb.sample("x", dist.Normal(vb.sample("z", dist.Bernoulli(0.3)), 1.0), obs=x)
        vb.scan(lambda state, y: hidden(state, y, 0.0), 0, y)

    target, paths = vb.target(beside(Y[0], Y[:, 0])), paths_of(Y[:, 0], 0.0)
    shares = {path: np.exp(each - evidence(Y[:, 0], 0.0)) for path, each in paths.items()}
    expected = [[sum(p for path, p in shares.items() if path[t] == k) for k in range(3)] for t in range(3)]
    np.testing.assert_allclose(discrete.probabilities(target, "state", {}, 1), expected, atol=1e-5)
    ones = np.exp(np.log([0.7, 0.3]) + stats.norm.logpdf(Y[0][:, None], [0.0, 1.0], 1.0))
    expected = ones / ones.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(discrete.probabilities(target, "z", {}, 1), expected, atol=1e-5)
    with pytest.raises(vb.ModelError) as error:
        discrete.probabilities(vb.target(kind_of_all(Y[:, 0])), "state", {}, 1)
    assert str(error.value) == (
        "site 'state': its scan depends on discrete sites outside, which are summed too.\n"
        "  To mend it: Estimate them from draws: posterior.sample(n) has the site."
    )


@vb.model
def scans_in_scans(y):
    def step(kind, y):
        kind = vb.sample("kind", dist.Bernoulli(jnp.where(kind == 1, 0.8, 0.3)))
        vb.scan(lambda state, y: hidden(state, y, kind), 0, y)
        return kind, None

    vb.scan(step, 0, y)


@pytest.mark.slow
def test_hidden_states_of_a_scan_in_a_scan_are_drawn():
    """What the inner scan drew for its states stood in the tables of the outer, and lacked the outer's axis."""
    n, one = 3000, np.array([0.3, 0.8])
    inner = [[paths_of(row, kind) for kind in (0, 1)] for row in Y]
    sums = np.array([[logsumexp(list(each.values())) for each in row] for row in inner])
    kinds, states, total = np.zeros(3), np.zeros((3, 2, 3)), 0.0
    for path in itertools.product((0, 1), repeat=3):
        prior = np.prod([one[old] if new else 1 - one[old] for old, new in zip((0, *path[:-1]), path)])
        weight = prior * np.exp(sums[range(3), path].sum())
        total, kinds = total + weight, kinds + weight * np.array(path)
        for t, kind in enumerate(path):
            for own, each in inner[t][kind].items():
                states[t, (0, 1), own] += weight * np.exp(each - sums[t, kind])
    target = vb.target(scans_in_scans(Y))
    drawn = discrete.completed(target, {}, n, np.zeros(2, np.uint32))
    assert drawn["state"].shape == (n, 3, 2)
    spread = 4 * 0.5 / np.sqrt(n)
    np.testing.assert_allclose(np.mean(drawn["kind"], axis=0), kinds / total, atol=spread)
    shares = np.stack([np.mean(np.asarray(drawn["state"]) == k, axis=0) for k in range(3)], axis=-1)
    np.testing.assert_allclose(shares, states / total, atol=spread)
    with pytest.raises(vb.ModelError) as error:  # an empty dict was the answer
        log_likelihood(scans_in_scans(Y), {}, {})
    assert str(error.value) == (
        "site 'y': it is observed in a scan whose hidden states are summed out inside of a scan that sums out others, "
        "so that its density has no steps of its own.\n"
        "  To mend it: Take the sum of all, model.log_joint(values)."
    )


def test_rows_that_mix_in_a_scan_in_a_scan_are_found():
    @vb.model
    def mixing(y):
        def step(level, y):
            level = vb.sample("level", dist.Normal(level, 1.0))

            def inner(state, y):
                with vb.plate("row", 2):
                    state = vb.sample("state", dist.Bernoulli(0.1 + 0.8 * jnp.mean(1.0 * state)))
                    vb.sample("y", dist.Normal(state + level, 1.0), obs=y)
                return state, None

            vb.scan(inner, jnp.zeros(2, int), y)
            return level, None

        vb.scan(step, 0.0, y)

    with pytest.raises(vb.ModelError, match="site 'state': a row of it depends on other rows"):
        vb.target(mixing(np.zeros((2, 3, 2))))


def test_conditions_and_interventions_reach_what_a_scan_has_summed():
    """The names were looked up among the sites that are left: "has no site 'y'"."""

    @vb.model
    def one(y):
        def step(state, y):
            state = vb.sample("state", dist.Categorical(transitions[state]))
            loc = vb.deterministic("loc", loc_of[state])
            vb.sample("y", dist.Normal(loc, 0.5), obs=y)
            return state, None

        vb.scan(step, 0, y)

    model, y = one(np.zeros(3)), Y[:, 0]
    np.testing.assert_allclose(model.condition(y=y).log_joint({}), evidence(y, 0.0), rtol=1e-5)
    expected = stats.norm.logpdf(0.0, y, 0.5).sum()
    np.testing.assert_allclose(model.do(loc=y).log_joint({}), expected, rtol=1e-5)
    with pytest.raises(vb.ModelError, match="site 'loc': condition cannot set a deterministic statement"):
        model.condition(loc=y)
