"""Pareto smoothing against ArviZ, theory and closed forms.

The sign trap: `array_stats.psislw(x)` smooths the weights `exp(-x)`, because it was made for leave-one-out
cross-validation, where `x` is a log likelihood. Given `log p - log q` as it stands, it calls bad weights perfect.
"""

from __future__ import annotations

import numpy as np
import pytest
from arviz_stats.base import array_stats
from scipy import special, stats

from vbppl.core.numerics import psis


def narrow(draws, sd=0.6, seed=0):
    """`log p - log q` for `p = N(0, 1)` at draws of `q = N(0, sd)`: the tail has `k = 1 - sd^2`."""
    z = sd * np.random.default_rng(seed).standard_normal(draws)
    return stats.norm.logpdf(z) - stats.norm.logpdf(z, scale=sd)


# Where 3 sqrt(draws) is whole. Elsewhere ArviZ rounds the length of the tail down, where the paper and R's loo
# round it up, and `k` differs in the second digit.
@pytest.mark.parametrize("draws", [100, 225, 2500, 10_000])
@pytest.mark.parametrize("sd", [0.6, 0.8, 1.5])
def test_weights_and_shape_are_those_of_arviz(draws, sd):
    log_weights = narrow(draws, sd)
    theirs, k = array_stats.psislw(-log_weights)
    ours = psis.smooth(log_weights)
    assert ours.shape == pytest.approx(float(k), abs=1e-9)
    np.testing.assert_allclose(ours.log_weights, theirs, atol=1e-9)


@pytest.mark.parametrize("draws", [1000, 4000])
def test_shape_differs_from_arviz_only_by_the_rounding_of_the_tail_length(draws):
    log_weights = narrow(draws)
    assert psis.smooth(log_weights).shape == pytest.approx(float(array_stats.psislw(-log_weights)[1]), abs=0.03)


def test_arviz_without_the_minus_sign_calls_bad_weights_perfect():
    log_weights = narrow(2500)
    assert float(array_stats.psislw(log_weights)[1]) < 0 < 0.4 < psis.smooth(log_weights).shape


def test_shape_is_what_theory_says():
    shapes = [psis.smooth(narrow(40_000, seed=seed)).shape for seed in range(10)]
    # The tail of the weights has k = 1 - 0.36 up to a slowly varying factor, whose bias is negative.
    assert 0.5 < np.mean(shapes) < 0.7


@pytest.mark.parametrize("shape", [-0.5, 0.01, 0.5, 1.5])
def test_pareto_fit_recovers_the_shape_and_scale_of_scipys_generalised_pareto(shape):
    excess = np.sort(stats.genpareto.rvs(shape, scale=3.0, size=20_000, random_state=0))
    found, scale = psis.fit_pareto(excess)
    # The asymptotic standard error of the shape is (1 + k) / sqrt(n), four of them; it is never below that of k = 0.
    assert found == pytest.approx(shape, abs=4 * max(1 + shape, 1) / np.sqrt(20_000))
    assert scale == pytest.approx(3.0, rel=0.1)


def test_smoothing_makes_the_evidence_less_noisy():
    raw = [np.log(np.mean(np.exp(narrow(1000, seed=seed)))) for seed in range(200)]
    smoothed = [psis.smooth(narrow(1000, seed=seed)).log_mean for seed in range(200)]
    assert np.mean(np.square(smoothed)) < np.mean(np.square(raw))
    # Both densities are normalised: the truth is 0. Truncation at the largest weight costs a little.
    assert np.mean(smoothed) == pytest.approx(0.0, abs=0.05)


def test_weights_add_up_to_one_and_keep_their_order():
    log_weights = narrow(1000)
    smoothed = psis.smooth(log_weights).log_weights
    assert np.exp(smoothed).sum() == pytest.approx(1.0)
    assert np.all(np.diff(smoothed[np.argsort(log_weights)]) >= -1e-12)


def test_a_constant_added_to_all_log_weights_moves_only_the_log_mean():
    log_weights = narrow(1000)
    here, far = psis.smooth(log_weights), psis.smooth(log_weights + 1e5)
    np.testing.assert_allclose(far.log_weights, here.log_weights, atol=1e-9)
    assert far.log_mean - 1e5 == pytest.approx(here.log_mean, abs=1e-9)
    assert far.shape == pytest.approx(here.shape, abs=1e-6)


def test_constant_weights_have_no_tail_and_are_worth_every_draw():
    smoothed = psis.smooth(np.full(1000, -3.0))
    assert smoothed.shape == -np.inf
    assert smoothed.ess == pytest.approx(1000)
    assert smoothed.log_mean == pytest.approx(-3.0)
    assert smoothed.usable


def test_one_dominating_weight_is_worth_one_draw_and_unusable():
    smoothed = psis.smooth(np.r_[np.zeros(999), 800.0])
    assert smoothed.shape > 1
    assert smoothed.ess == pytest.approx(1.0)
    assert not smoothed.usable


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("log_weights", [np.zeros(0), np.full(50, -np.inf)], ids=["none", "zeros"])
def test_weights_that_are_all_zero_are_worth_nothing(log_weights):
    smoothed = psis.smooth(log_weights)
    assert (smoothed.ess, smoothed.log_mean, smoothed.usable) == (0.0, -np.inf, False)


@pytest.mark.filterwarnings("error")
def test_draws_of_weight_zero_stay_at_zero_and_count_in_the_mean():
    log_weights = np.where(np.arange(4000) % 2 == 0, 0.0, -np.inf)
    smoothed = psis.smooth(log_weights)
    assert np.all(smoothed.log_weights[1::2] == -np.inf)
    assert smoothed.log_mean == pytest.approx(np.log(0.5))
    assert smoothed.ess == pytest.approx(2000)


def test_a_tail_without_a_mean_is_left_as_it_is():
    """Its fitted order statistics would drown nearly constant weights in a tail that they do not have."""
    log_weights = 0.1 * np.random.default_rng(0).standard_normal(4000) ** 4
    smoothed = psis.smooth(log_weights)
    assert smoothed.shape > 1
    np.testing.assert_allclose(np.exp(smoothed.log_weights), np.exp(log_weights) / np.exp(log_weights).sum())


def test_nearly_constant_weights_are_usable_whatever_their_tail():
    """The best Gaussian for the logit of Beta(9, 3): its tails are too light, and it hardly matters."""
    z = 1.21 + 0.695 * np.random.default_rng(0).standard_normal(4000)
    log_p = 9 * z - 12 * np.logaddexp(0, z)
    smoothed = psis.smooth(log_p - stats.norm.logpdf(z, 1.21, 0.695))
    assert smoothed.shape > 1 and smoothed.ess > 0.9 * 4000
    assert smoothed.usable
    assert smoothed.log_mean == pytest.approx(special.betaln(9, 3), abs=0.02)


def test_the_weights_handed_in_are_not_changed():
    log_weights = narrow(1000)
    before = log_weights.copy()
    psis.smooth(log_weights)
    np.testing.assert_array_equal(log_weights, before)
