"""Directions against dense linear algebra: spectra, bounds in closed form, moments of draws."""

from __future__ import annotations

import numpy as np
import pytest
from cases import dense, gaussian

from vbppl.core.numerics.draws import whitened_draws
from vbppl.core.numerics.lanczos import Normal, gain, matched_draws, spectrum

DIM = 60


def some_normal(rng, rank=3):
    directions = np.linalg.qr(rng.standard_normal((DIM, rank)))[0]
    return Normal(rng.standard_normal(DIM), rng.standard_normal(DIM), directions, np.linspace(-1, 1, rank))


def some_precision(rng):
    """Most eigenvalues near one, two far below and two far above, in units that differ by powers of ten."""
    vectors = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0]
    values = np.concatenate([[0.01, 0.1], rng.uniform(0.9, 1.1, DIM - 4), [7.0, 40.0]])
    sd = np.exp(3 * rng.standard_normal(DIM))
    return (vectors * values) @ vectors.T / np.outer(sd, sd), sd, values, vectors


def test_a_normal_is_what_its_matrix_says():
    rng = np.random.default_rng(0)
    at = some_normal(rng)
    factor, noise = dense(at), rng.standard_normal((4, DIM))
    np.testing.assert_allclose(at.factor_times(noise), noise @ factor.T, atol=1e-12)
    np.testing.assert_allclose(at.transposed_factor_times(noise[0]), factor.T @ noise[0], atol=1e-12)
    assert at.log_det == pytest.approx(np.linalg.slogdet(factor)[1])
    np.testing.assert_allclose(at.sd, np.sqrt(np.diag(factor @ factor.T)))


def test_a_look_finds_both_ends_of_the_spectrum_whatever_the_units():
    rng = np.random.default_rng(1)
    precision, sd, values, vectors = some_precision(rng)
    at = Normal.mean_field(np.zeros(DIM), np.log(sd))
    found = spectrum(gaussian(precision, np.ones(DIM)), at, whitened_draws(rng, 4, DIM), 30, rng)
    assert found.useful == 4
    # Those that gain most come first: 40, 7, 0.01, 0.1.
    np.testing.assert_allclose(found.curvature[:4], values[[-1, -2, 0, 1]], rtol=1e-5)
    overlap = np.abs(np.sum(found.directions[:, :4] * vectors[:, [-1, -2, 0, 1]], axis=0))
    np.testing.assert_allclose(overlap, 1.0, atol=1e-5)


def test_a_direction_gains_what_the_bound_gains():
    """The bound of a normal for a Gaussian density, in closed form, with a direction and without."""
    rng = np.random.default_rng(2)
    precision, sd, values, vectors = some_precision(rng)

    def bound(at):
        factor = dense(at)
        return np.linalg.slogdet(factor)[1] - np.sum(factor * (precision @ factor)) / 2

    without = Normal.mean_field(np.zeros(DIM), np.log(sd))
    for k in (0, -1):
        for stretch in (-np.log(values[k]) / 2, 0.3):
            at = Normal(without.loc, without.log_sd, vectors[:, [k]], np.array([stretch]))
            found = spectrum(gaussian(precision, 0.0), at, whitened_draws(rng, 4, DIM), 1, rng)
            assert found.worth == pytest.approx(bound(at) - bound(without), rel=1e-6)
        best = Normal(without.loc, without.log_sd, vectors[:, [k]], np.array([-np.log(values[k]) / 2]))
        assert gain(values[k]) == pytest.approx(bound(best) - bound(without), rel=1e-9)


def test_a_look_goes_on_where_a_space_is_invariant():
    at = Normal.mean_field(np.zeros(3), np.zeros(3))
    rng = np.random.default_rng(3)
    found = spectrum(gaussian(np.eye(3), 0.0), at, whitened_draws(rng, 2, 3), 10, rng)
    np.testing.assert_allclose(found.curvature, 1.0, rtol=1e-9)
    assert found.useful == 0


def test_points_without_a_density_make_no_directions():
    def density(z):
        log_p, gradient = gaussian(np.eye(DIM), 0.0)(z)
        return log_p, np.where(z[:, :1] > 1.0, np.nan, gradient)

    rng = np.random.default_rng(4)
    at = Normal.mean_field(np.zeros(DIM), np.zeros(DIM))
    found = spectrum(density, at, whitened_draws(rng, 16, DIM), 10, rng)
    assert found.useful == 0
    everywhere = spectrum(lambda z: (z[:, 0], np.nan * z), at, whitened_draws(rng, 16, DIM), 10, rng)
    assert everywhere.useful == 0


@pytest.mark.parametrize("draws", [16, 40, 120])
def test_matched_draws_have_exact_moments_along_the_directions(draws):
    rng = np.random.default_rng(5)
    directions = np.linalg.qr(rng.standard_normal((DIM, 6)))[0]
    noise = matched_draws(whitened_draws(rng, draws, DIM), directions)
    assert noise.shape == (draws, DIM)
    moment = noise.T @ noise / draws
    np.testing.assert_allclose(noise.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(moment @ directions, directions, atol=1e-10)
    # The diagonal is no longer exact, but far nearer to one than independent draws have it.
    assert np.abs(np.diag(moment) - 1).max() < 0.3 * np.sqrt(2 / draws)
