"""The objectives are unbiased, and sticking the landing is without variance at the exact posterior."""

from __future__ import annotations

import dataclasses
import itertools

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.guides.gaussian import FullRank, MeanField
from vbppl.objectives import ClosedForm, StickingTheLanding
from vbppl.target import Target

WAITS = Target.of(cases.gamma_exponential(cases.WAITS))
PAIRS = Target.of(cases.normal_normal(cases.PAIRS))
EXACT_PAIRS = np.array([[0.049793, 0.475155], np.log([0.203700, 0.249222])])
KEYS = 20_000


def exact_bound(loc, log_sd):
    """`E_q[log p]` of case 3 by quadrature, `log p = -(3 rate) + 3 log rate - 3 rate`, plus the entropy."""

    def integrand(e):
        z = loc + np.exp(log_sd) * e
        return stats.norm.pdf(e) * (3 * z - 6 * np.exp(z))

    return integrate.quad(integrand, -12, 12)[0] + 0.5 * np.log(2 * np.pi * np.e) + log_sd


def gradients(objective, guide, phi, target, draws, keys):
    strata = guide.strata(target, draws, np.random.default_rng(0))

    @jax.jit
    @jax.vmap
    def gradient(key):
        noise = guide.noise(strata, key, draws)
        return jax.value_and_grad(lambda phi: objective(guide, phi, target, noise, {}))(phi)

    return [np.asarray(leaf, float) for leaf in gradient(jax.random.split(jax.random.key(1), keys))]


@pytest.mark.parametrize("draws", [1, 2, 16])
@pytest.mark.parametrize("objective", [ClosedForm(), StickingTheLanding()], ids=["closed", "sticking"])
def test_bound_and_gradient_are_unbiased(objective, draws):
    phi, step = np.array([[-0.5], [-0.3]]), 1e-5
    values, slopes = gradients(objective, MeanField(), jnp.asarray(phi), WAITS, draws, KEYS)
    expected = [
        (exact_bound(-0.5 + step, -0.3) - exact_bound(-0.5 - step, -0.3)) / (2 * step),
        (exact_bound(-0.5, -0.3 + step) - exact_bound(-0.5, -0.3 - step)) / (2 * step),
    ]
    found = np.column_stack([values, slopes.reshape(KEYS, 2)])
    error = np.abs(found.mean(axis=0) - [exact_bound(-0.5, -0.3), *expected])
    assert np.all(error < 4.5 * found.std(axis=0) / np.sqrt(KEYS)), error


def test_stratified_draws_are_less_noisy_than_independent_ones():
    phi = jnp.array([[-0.5], [-0.3]])
    one, sixteen = (gradients(ClosedForm(), MeanField(), phi, WAITS, n, 2000)[1].std(axis=0) for n in (1, 16))
    assert np.all(sixteen < one / 4)  # what independent draws would have


@pytest.mark.parametrize("guide", [MeanField(), FullRank()], ids=["mean_field", "full_rank"])
def test_sticking_the_landing_has_no_variance_at_the_exact_posterior(guide, x64):
    # Bayes' rule for each coordinate: precision 0.1 + 4 n, mean by precisions.
    precision = 0.1 + 4 * np.array([6.0, 4.0])
    loc = (0.1 * np.array([0.0, 0.5]) + np.array([6.0, 4.0]) * cases.PAIRS.sum(axis=0)) / precision
    phi = jnp.asarray(guide.of(loc, np.diag(precision**-0.5)))
    target = Target.of(cases.normal_normal(cases.PAIRS))
    values, slopes = gradients(StickingTheLanding(), guide, phi, target, 1, 100)
    assert values.std() < 1e-12
    assert np.abs(slopes).max() < 1e-10
    assert gradients(ClosedForm(), guide, phi, target, 1, 100)[1].std(axis=0).max() > 0.1


def test_minibatch_gradients_average_to_the_full_gradient_over_all_index_sets(x64):
    x, y = (values[:8] for values in cases.logistic_data())
    target, noise = Target.of(cases.logistic_regression(x, y)), np.array([[0.3, -1.0, 0.7]])
    phi = jnp.array([[0.9, 1.8, 2.1], [-1.5, -1.5, -1.3]])
    sets = np.array(list(itertools.combinations(range(8), 3)))
    slope = jax.jit(jax.grad(lambda phi, rows: ClosedForm()(MeanField(), phi, target, noise, rows)))
    full = slope(phi, {})
    batches = jax.vmap(lambda rows: slope(phi, {"row": rows}))(sets)
    assert len(sets) == special.comb(8, 3)
    np.testing.assert_allclose(batches.mean(axis=0), full, rtol=1e-5)
    assert np.abs(batches - full).max() > 0.1


def test_a_plate_of_latents_weighs_its_rows_and_their_entropy(x64):
    """A step draws noise for the rows that are shown alone; they, and their entropies, count N/B times."""

    @vb.model
    def rows_apart(y):
        with vb.plate("row", len(y)):
            x = vb.sample("x", dist.Normal(0.0, 1.0))
            vb.sample("y", dist.Normal(x, 1.0), obs=vb.subsample(y))

    y = np.array([0.5, -1.0, 2.0, 0.0])
    target, phi = Target.of(rows_apart(y)), jnp.stack([jnp.asarray(y) / 2, jnp.full(4, -0.3)])
    noise = jnp.array([[0.3, -1.0, 0.7, 0.1]])
    sets = np.array(list(itertools.combinations(range(4), 2)))
    slope = jax.grad(lambda phi, noise, rows: ClosedForm()(MeanField(), phi, target, noise, rows))
    batches = jax.vmap(lambda rows: slope(phi, noise[:, rows], {"row": rows}))(sets)
    np.testing.assert_allclose(batches.mean(axis=0), slope(phi, noise, {}), rtol=1e-10)


def test_params_of_the_model_are_learnt_by_the_same_gradient():
    """With `x` marginal, `y ~ N(0, 1 + scale^2)`; at the exact posterior the bound's slope is the evidence's."""

    @vb.model
    def scaled(y):
        scale = vb.param("scale", 1.0, constraint=dist.constraints.positive)
        x = vb.sample("x", dist.Normal(0.0, scale))
        vb.sample("y", dist.Normal(x, 1.0), obs=y)

    target = Target.of(scaled(3.0))
    phi = np.array([[1.5], [np.log(0.5) / 2]])

    def loss(raw, noise):
        at = dataclasses.replace(target, params={"scale": (raw,)})
        return ClosedForm()(MeanField(), phi, at, noise, {})

    noise = np.random.default_rng(0).standard_normal((200_000, 1))
    found = float(jax.grad(loss)(jnp.asarray(0.0), np.concatenate([noise, -noise])))

    def evidence(raw):
        return stats.norm.logpdf(3.0, scale=np.sqrt(1 + np.exp(2 * raw)))

    expected = (evidence(1e-5) - evidence(-1e-5)) / 2e-5
    assert found == pytest.approx(expected, abs=4 * 0.71 / np.sqrt(200_000))  # sd of (x^2 - 1) antithetic: 0.71
