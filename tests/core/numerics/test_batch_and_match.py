"""Batch-and-match finds a Gaussian exactly, and saves a full-rank fit whose bound shows no way up."""

from __future__ import annotations

import numpy as np
import pytest

from vbppl.core.numerics.batch_and_match import _matched, match
from vbppl.core.numerics.draws import whitened_draws


def gaussian(mean, covariance):
    precision = np.linalg.inv(covariance)

    def density(z):
        gradient = -(z - mean) @ precision
        return ((z - mean) * gradient).sum(axis=1) / 2, gradient

    return density


def fresh(dim, draws=64):
    return lambda step: whitened_draws(np.random.default_rng(step), draws, dim)


@pytest.mark.parametrize("dim", [1, 3, 10])
def test_a_gaussian_is_matched(dim):
    rng = np.random.default_rng(dim)
    root = rng.normal(size=(dim, dim))
    mean, covariance = rng.normal(size=dim), root @ root.T + 0.1 * np.eye(dim)
    loc, factor = match(gaussian(mean, covariance), np.zeros(dim), np.eye(dim), fresh(dim))
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((loc - mean) / sd, 0.0, atol=1e-2)
    np.testing.assert_allclose((factor @ factor.T - covariance) / np.outer(sd, sd), 0.0, atol=2e-2)


def test_one_step_solves_the_quadratic_matrix_equation_of_the_paper():
    """`Sigma' U Sigma' + Sigma' = V`, with `U` and `V` formed as the paper writes them."""
    rng = np.random.default_rng(0)
    loc, factor, z, g, lam = rng.normal(size=3), np.eye(3), rng.normal(size=(20, 3)), rng.normal(size=(20, 3)), 2.5
    new_loc, new = _matched(loc, factor, z, g, lam)
    sigma, slope, middle = new @ new.T, g.mean(axis=0), z.mean(axis=0)
    u = lam * np.cov(g.T, bias=True) + lam / (1 + lam) * np.outer(slope, slope)
    v = np.eye(3) + lam * np.cov(z.T, bias=True) + lam / (1 + lam) * np.outer(loc - middle, loc - middle)
    np.testing.assert_allclose(sigma @ u @ sigma + sigma, v, atol=1e-10)
    np.testing.assert_allclose(new_loc, loc / (1 + lam) + lam / (1 + lam) * (sigma @ slope + middle), atol=1e-12)


def test_gradients_that_are_not_finite_are_left_out():
    exact = gaussian(np.array([1.0, 2.0]), np.eye(2))

    def holed(z):
        log_p, gradient = exact(z)
        return log_p, np.where(z[:, :1] > 2.5, np.nan, gradient)

    loc, factor = match(holed, np.zeros(2), np.eye(2), fresh(2))
    assert np.isfinite(loc).all() and np.isfinite(factor).all()
    np.testing.assert_allclose(loc, [1.0, 2.0], atol=0.2)


def test_without_any_finite_gradient_it_stays_where_it_is():
    loc, factor = match(lambda z: (np.zeros(len(z)), np.full_like(z, np.nan)), np.ones(2), np.eye(2), fresh(2))
    np.testing.assert_array_equal(loc, 1.0)
    np.testing.assert_array_equal(factor, np.eye(2))
