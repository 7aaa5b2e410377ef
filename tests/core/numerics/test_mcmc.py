"""What draws of Markov chains are worth, against closed forms and ArviZ."""

from __future__ import annotations

import numpy as np
import pytest

from vbppl.core.numerics import mcmc


def chains_of(rho: float, draws: int = 1000, columns: int = 3, seed: int = 0) -> np.ndarray:
    """Four chains `x_t = rho x_{t-1} + noise` with unit variance, `(4, draws, columns)`."""
    noise = np.random.default_rng(seed).normal(size=(4, draws, columns))
    x = noise.copy()
    for t in range(1, draws):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * noise[:, t]
    return x


@pytest.mark.parametrize("rho", [-0.5, 0.9, *(pytest.param(rho, marks=pytest.mark.slow) for rho in (0.0, 0.5))])
def test_autoregressive_chains_are_worth_what_their_correlation_says(rho):
    x = chains_of(rho, draws=20_000, columns=20)
    right = 80_000 * (1 - rho) / (1 + rho)
    for found in (mcmc.ess_mean(x), mcmc.ess_bulk(x)):
        # The variance of the estimate falls with the number of times the chains forget where they were.
        assert abs(np.log(found / right).mean()) < 0.05, found / right


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
def test_all_agree_with_arviz(rho):
    array_stats = pytest.importorskip("arviz_stats.base").array_stats
    x = chains_of(rho)
    x[..., 1], x[..., 2] = np.exp(3 * x[..., 1]), np.round(x[..., 2])  # heavy tails, and ties
    axes = {"chain_axis": 0, "draw_axis": 1}
    pairs = (
        (mcmc.ess_bulk, lambda y: array_stats.ess(y, method="bulk", **axes)),
        (mcmc.ess_mean, lambda y: array_stats.ess(y, method="mean", **axes)),
        (mcmc.ess_tail, lambda y: array_stats.ess(y, method="tail", prob=mcmc.TAILS, **axes)),
        (mcmc.r_hat, lambda y: array_stats.rhat(y, method="rank", **axes)),
    )
    for ours, theirs in pairs:
        # Where a sequence is cut the two differ by a single lag.
        np.testing.assert_allclose(ours(x), [float(theirs(x[..., i])) for i in range(3)], rtol=2e-3)


def test_r_hat_sees_chains_that_differ_in_place_or_in_spread_and_a_drift():
    x = chains_of(0.0, columns=4)
    x[0, :, 1] += 0.5
    x[0, :, 2] *= 2
    x[..., 3] += np.linspace(-0.5, 0.5, 1000)
    found = mcmc.r_hat(x)
    assert found[0] < 1.01 and np.all(found[1:] > 1.01), found


def test_a_column_that_does_not_vary_has_no_number_and_stuck_chains_have_an_infinite_r_hat():
    x = np.zeros((4, 100, 2))
    x[..., 1] = np.arange(4)[:, None]
    assert np.isnan(mcmc.r_hat(x)[0]) and mcmc.r_hat(x)[1] == np.inf
    assert np.isnan(mcmc.ess_bulk(x)[0]) and mcmc.ess_bulk(x)[1] < 10
    assert np.isnan(mcmc.ess_mean(x)[0])


def test_infinite_and_heavy_tailed_values_do_no_harm_to_ranks():
    x = chains_of(0.0, columns=1)
    wild = np.clip(np.sign(x) * np.exp(np.minimum(x**2 * 100, 690)), -1e300, 1e300)
    np.testing.assert_allclose(mcmc.ess_bulk(wild), mcmc.ess_bulk(x), rtol=0.05)
    assert mcmc.r_hat(wild) < 1.01
