"""What a guide has wrong is measured where a user reads it, with errors that are calibrated."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.posterior import quantities
from vbppl.posterior.weighted_draws import WeightedDraws, draw


@vb.model
def normals(scales):
    vb.sample("x", dist.Normal(jnp.zeros(len(scales)), scales).to_event(1))


@vb.model
def on_supports():
    s = vb.sample("s", dist.Gamma(3.0, 1.0))
    vb.deterministic("double", 2 * s)
    vb.deterministic("always", jnp.ones(2))


def drawn(target, phi, seed=0, count=4000):
    return draw(vb.MeanField(), phi, target, np.random.default_rng(seed), count).weighed()


def test_errors_are_those_of_the_exact_posterior_and_their_errors_are_calibrated():
    target = vb.target(normals(np.array([1.0, 1.0])))
    phi = np.array([[0.3, 0.0], np.log([1.0, 1.2])], np.float32)
    found = [quantities.errors(target, drawn(target, phi, seed), None) for seed in range(40)]
    for at, exact in ((0, -0.3), (1, 0.0)):
        z = np.array([(each.mean[at] - exact) / each.mean_se[at] for each in found])
        assert abs(z.mean()) < 0.7 and 0.2 < z.std() < 1.5  # draws are stratified: less noisy than is claimed
    for at, exact in ((0, 0.0), (1, -np.log(1.2))):
        z = np.array([(each.log_sd[at] - exact) / each.log_sd_se[at] for each in found])
        assert abs(z.mean()) < 0.7 and 0.2 < z.std() < 1.5
    assert [found[0].name(i) for i in range(2)] == ["x[0]", "x[1]"]


def test_sites_are_judged_on_their_supports_and_what_is_constant_is_not():
    target = vb.target(on_supports())
    phi = np.array([[np.log(2.5)], [np.log(0.5)]], np.float32)  # log-normal: mean 2.5 e^(1/8), against a mean of 3
    found = quantities.errors(target, drawn(target, phi, count=16_000), None)
    mean, sd = 2.5 * np.exp(0.125), 2.5 * np.exp(0.125) * np.sqrt(np.exp(0.25) - 1)
    names = [found.name(i) for i in range(4)]
    assert names == ["s", "double", "always[0]", "always[1]"]
    np.testing.assert_allclose(found.mean[:2], (3 - mean) / sd, atol=0.03)
    np.testing.assert_allclose(found.log_sd[:2], np.log(np.sqrt(3) / sd), atol=0.05)
    assert np.isnan(found.mean[2:]).all() and np.isnan(found.log_sd[2:]).all()


@pytest.mark.parametrize("away", [0.0, 0.5, 2.0])
def test_an_ideal_judge_is_as_good_as_the_total_variation_allows(away):
    target = vb.target(normals(np.ones(1)))
    phi = np.array([[away], [0.0]], np.float32)
    draws = drawn(target, phi, count=16_000)
    exact = stats.norm.cdf(away / 2)  # (1 + TV) / 2 with TV = 2 Phi(away / 2) - 1
    assert quantities.classifier_accuracy(draws) == pytest.approx(exact, abs=0.01)
    assert quantities.errors(target, draws, None).told_apart.value == pytest.approx(exact, abs=0.02)


def test_a_contrast_that_the_data_know_is_a_direction():
    """Coordinates of sd 10 whose difference has sd 0.5."""
    covariance = np.full((3, 3), 100.0) + np.diag([0.125, 0.125, 50.0])
    directions = quantities.narrow_directions(np.linalg.cholesky(covariance))
    first = directions[0] / np.abs(directions[0]).max()
    np.testing.assert_allclose(np.abs(first), [1.0, 1.0, 0.0], atol=0.01)
    assert first[0] * first[1] < 0
    assert len(quantities.narrow_directions(np.eye(3))) == 0


def test_values_are_those_of_constrain_whatever_their_number():
    target = vb.target(on_supports())
    z = np.linspace(-1, 1, 1500, dtype=np.float32)[:, None]
    found = quantities.values_of(target, z)
    np.testing.assert_allclose(found["double"], 2 * np.exp(z[:, 0]), rtol=1e-6)
    assert found["always"].shape == (1500, 2)


def test_the_tail_is_that_of_the_scale_on_which_it_is_shorter():
    """Of a normal there is none; of a Student t what it is by quadrature."""
    target = vb.density(lambda z: -0.5 * jnp.sum(z**2), 1)
    worst = quantities.tail(target, (np.zeros(1), np.eye(1)), lambda z: -0.5 * (z**2).sum(axis=1))
    assert worst.value == pytest.approx(0.0, abs=1e-6)
    heavy = quantities.tail(target, (np.zeros(1), np.eye(1)), lambda z: stats.t.logpdf(z[:, 0], 2.0))
    t = np.linspace(-10, 10, 200_001)
    p = stats.t.pdf(t, 2.0)
    assert heavy.value == pytest.approx(0.5 * np.log((p * t**2).sum() / p.sum()), abs=0.01)


def test_a_value_that_overflows_is_unknown_and_not_passed_over():
    @vb.model
    def overflowing():
        x = vb.sample("x", dist.Normal(0.0, 1.0))
        vb.deterministic("huge", jnp.exp(80 * x))

    found = quantities.errors(
        vb.target(overflowing()), drawn(vb.target(overflowing()), np.zeros((2, 1), np.float32)), None
    )
    assert abs(found.mean[0]) < 0.1 and np.isposinf(found.mean[1]) and np.isposinf(found.log_sd_se[1])
    card = vb.fit(overflowing()).check()
    assert card.verdict == "unknown" and "the error of the mean of huge could not be measured" in card.details


def test_a_log_sd_error_is_seen_by_how_log_weights_vary():
    """Log weights normal given x, of variance 0.2 x^2, such that E[w | x] is exp(0.2 (x^2 - 1)): x has the precision
    1 - 2 * 0.2 in the place of 1, and the log sd error -log(0.6) / 2.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20_000, 20))
    variance = 0.2 * x[:, 0] ** 2
    log_w = 0.2 * (x[:, 0] ** 2 - 1) - variance / 2 + np.sqrt(variance) * rng.standard_normal(20_000)
    log_q = -(x**2).sum(axis=1) / 2
    draws = WeightedDraws.of(x, log_q + log_w, log_q, log_q, np.ones(20_000, bool))
    (found,), (se,) = quantities._by_cumulants(x[:, :1], draws)
    assert found == pytest.approx(-np.log(0.6) / 2, abs=4 * se) and se < 0.05
