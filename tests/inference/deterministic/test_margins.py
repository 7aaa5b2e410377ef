"""The steps of a Gaussian and of the bends of its margins: slopes, metric, predicted gain, and where they end."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

import vbppl as vb
from vbppl.core.errors import ModelError
from vbppl.core.numerics.draws import whitened_draws
from vbppl.guides.layers.yeo_johnson import LIMIT, bent
from vbppl.inference.deterministic.beyond import margins
from vbppl.inference.deterministic.beyond.margins import Frame

LOC, FACTOR = np.array([0.2, -0.1]), np.array([[1.0, 0.0], [0.8, 0.4]])
FRAME, P = Frame(np.array([0.0, 0.1]), np.array([1.2, 0.8])), np.array([0.4, -0.3])


def log_gamma(z):
    """Log-gammas of shape 1.5 that lean on each other, with their slope."""
    x = z.copy()
    x[:, 1] = z[:, 1] - 0.5 * z[:, 0]
    slope = 1.5 - np.exp(x)
    slope[:, 0] -= 0.5 * slope[:, 1]
    return np.sum(1.5 * x - np.exp(x), axis=1), slope


def evaluate(noise, loc=LOC, factor=FACTOR, p=P, is_full=True):
    return margins.evaluate(log_gamma, FRAME, *margins.in_batch(loc, factor, is_full), p, noise)


@pytest.fixture(scope="module")
def noise():
    return whitened_draws(np.random.default_rng(0), 512, 2)


def test_slopes_are_those_of_the_bound_on_the_same_draws(noise):
    """Of `loc`, of the rows of `L` and of each bend, where `loc` and `L` make up for it; by central differences."""
    at = evaluate(noise)

    def slope(change):
        step = 1e-5
        return (evaluate(noise, *change(step)).bound - evaluate(noise, *change(-step)).bound) / (2 * step)

    for i, unit in enumerate(np.eye(2)):
        along = slope(lambda t, unit=unit: (LOC + t * FACTOR @ unit, FACTOR, P))
        assert at.at.mean_gradient[0, i] == pytest.approx(along, rel=1e-6, abs=1e-8)
        mean, share = at.shift[:, i]
        made_up = lambda t, unit=unit, mean=mean, share=share: (  # noqa: E731
            LOC - t * mean * unit,
            FACTOR * (1 - t * share * unit)[:, None],
            P + t * unit,
        )
        assert at.slope[i] == pytest.approx(slope(made_up), rel=1e-6, abs=1e-8)
    wider = slope(lambda t: (LOC, FACTOR @ (np.eye(2) + t * np.eye(2)[:, :1] * np.eye(2)[:1]), P))
    assert at.at.covariance_gradient[0, 0, 0] == pytest.approx(wider, rel=1e-6, abs=1e-8)


def test_the_metric_of_bends_is_what_a_gaussian_leaves_of_their_scores():
    """By Monte Carlo: the covariance of the scores, less what those of `loc` and `L` explain."""
    e = np.random.default_rng(1).standard_normal((400_000, 2))
    v = (LOC + e @ FACTOR.T - FRAME.centre) / FRAME.scale
    step = 1e-5
    by_p = (v + bent(v, P + step)[0] - v - bent(v, P - step)[0]) / (2 * step)
    w = by_p * np.exp(-bent(v, P)[1])
    score = np.sign(v) * np.log1p(np.abs(v)) - w * P / (1 + np.abs(v)) - e @ np.linalg.inv(FACTOR) * w * FRAME.scale
    gaussian = np.stack([*e.T, *((e**2 - 1) / np.sqrt(2)).T, e[:, 0] * e[:, 1]], axis=1)
    explained = score.T @ gaussian / len(e)
    expected = score.T @ score / len(e) - explained @ explained.T
    np.testing.assert_allclose(evaluate(e[:100]).fisher, expected, rtol=0.03)


def test_the_metric_at_a_normal_is_known():
    frame = Frame(np.zeros(1), np.ones(1))
    at = margins.evaluate(
        log_gamma_one, frame, np.zeros((1, 1)), np.ones((1, 1, 1)), np.zeros(1), np.array([[1.0], [-1.0]])
    )
    assert at.fisher[0, 0] == pytest.approx(0.577, abs=1e-3)  # by quadrature of the formula in three moments


def log_gamma_one(z):
    return np.sum(1.5 * z - np.exp(z), axis=1), 1.5 - np.exp(z)


@pytest.mark.parametrize("is_full", [True, False])
def test_an_ascent_ends_at_the_optimum_that_a_search_without_slopes_finds(noise, is_full):
    at = evaluate(noise, np.zeros(2), 0.8 * np.eye(2), np.zeros(2), is_full)
    steps, ascent = 0, margins.ascent(log_gamma, FRAME, at, noise, 1e-12)
    while True:
        try:
            at, steps = next(ascent), steps + 1
        except StopIteration as end:
            at = end.value
            break
    assert at.reason == "converged" and steps <= 8 and at.decrement < margins.ENOUGH

    def negated(x):
        factor = np.array([[np.exp(x[2]), 0.0], [x[4] if is_full else 0.0, np.exp(x[3])]])
        return -evaluate(noise, x[:2], factor, LIMIT * np.tanh(x[5:]), is_full).bound

    best = min(optimize.minimize(negated, start, method="BFGS").fun for start in (np.zeros(7), np.full(7, -0.2)))
    assert -best - 2 * margins.ENOUGH < at.bound < -best + 1e-6


def test_two_looks_predict_a_gain_where_there_is_one_and_none_where_there_is_none():
    sets = [whitened_draws(np.random.default_rng(seed), 256, 2) for seed in range(20)]
    normal = lambda z: (-np.sum(z**2, axis=1) / 2, -z)  # noqa: E731
    frame, batch = Frame(np.zeros(2), np.ones(2)), margins.in_batch(np.zeros(2), np.eye(2), True)
    flat = np.zeros(2)
    none = [margins.evaluate(normal, frame, *batch, flat, noise) for noise in sets]
    assert max(abs(one.promised(other)) for one, other in zip(none[::2], none[1::2])) < 1e-3
    # The best normal for a log-gamma of shape a has the mean log a - s^2/2 and the variance s^2 = 1/a.
    mean, sd = np.log(1.5) - 1 / 3, np.sqrt(1 / 1.5)
    frame = Frame(np.full(2, mean), np.full(2, sd))
    batch = margins.in_batch(frame.centre, np.diag(frame.scale), True)
    some = [margins.evaluate(log_gamma_one, frame, *batch, flat, noise) for noise in sets]
    promised = [one.promised(other) for one, other in zip(some[::2], some[1::2])]
    assert 0.03 < min(promised) and max(promised) < 0.25  # a normal lies 2 x 0.055 nats below


def test_a_base_without_a_solver_is_refused_whole():
    with pytest.raises(ModelError) as error:
        vb.fit(vb.density(lambda z: -jnp.sum(z**2), 3), vb.guides.Copula(vb.LowRank(2)))
    assert str(error.value) == (
        "the margins of a LowRank guide cannot be shaped on fixed draws.\n"
        "  To mend it: Use vb.guides.Copula(vb.FullRank()) or vb.guides.Copula(vb.MeanField()); "
        "or method=vb.Stochastic()."
    )
