"""The host's draws have the moments they promise, and marginals that a normal's are told apart from only just."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vbppl.core.numerics.draws import fresh_draws, latin_hypercube, normal_draws, whitened_draws

SHAPES = [(2, 1), (32, 1), (32, 3), (32, 16), (64, 32), (130, 64)]


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("draws", "dim"), SHAPES)
def test_whitened_draws_have_mean_0_and_second_moment_1_exactly(draws, dim):
    noise = whitened_draws(generator(), draws, dim)
    assert noise.shape == (draws, dim)
    np.testing.assert_allclose(noise.mean(axis=0), 0.0, atol=1e-15)
    np.testing.assert_allclose(noise.T @ noise / draws, np.eye(dim), atol=1e-12)


@pytest.mark.parametrize(("draws", "dim"), SHAPES)
def test_whitened_draws_come_in_antithetic_pairs_so_odd_moments_vanish(draws, dim):
    noise = whitened_draws(generator(1), draws, dim)
    np.testing.assert_array_equal(noise[: draws // 2], -noise[draws // 2 :])
    thirds = np.einsum("ni,nj,nk->ijk", noise, noise, noise) / draws
    np.testing.assert_allclose(thirds, 0.0, atol=1e-12)


def test_whitened_draws_make_the_mean_of_any_cubic_exact():
    rng = generator(2)
    matrix, slope, cubic = rng.normal(size=(4, 4)), rng.normal(size=4), rng.normal(size=(4, 4, 4))
    noise = whitened_draws(rng, 32, 4)
    values = 1.0 + noise @ slope + np.einsum("ni,ij,nj->n", noise, matrix, noise)
    values += np.einsum("ni,nj,nk,ijk->n", noise, noise, noise, cubic)
    assert values.mean() == pytest.approx(1.0 + np.trace(matrix), abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_two_draws_a_dimension_are_whitened_even_where_their_columns_repeat(seed):
    """Four values in two columns are often the same column twice, up to signs."""
    noise = whitened_draws(generator(seed), 4, 2)
    np.testing.assert_allclose(noise.T @ noise / 4, np.eye(2), atol=1e-12)


def test_fewer_draws_than_two_a_dimension_keep_the_mean_and_each_variance():
    noise = whitened_draws(generator(), 32, 100)
    np.testing.assert_allclose(noise.mean(axis=0), 0.0, atol=1e-15)
    np.testing.assert_allclose((noise**2).mean(axis=0), 1.0, atol=1e-12)
    off_diagonal = (noise.T @ noise / 32)[np.triu_indices(100, 1)]
    # Random signs and orders: correlations of 16 independent pairs, mean 0 and sd 1/4.
    assert abs(off_diagonal.mean()) < 4 * 0.25 / np.sqrt(100)
    assert off_diagonal.std() == pytest.approx(0.25, rel=0.1)


@pytest.mark.parametrize("draws", [8, 32, 33, 500])
def test_each_coordinate_of_a_latin_hypercube_is_one_set_of_values_in_another_order(draws):
    noise = latin_hypercube(generator(), draws, 5)
    ordered = np.sort(noise, axis=0)
    np.testing.assert_array_equal(ordered, np.broadcast_to(ordered[:, :1], ordered.shape))
    assert not np.array_equal(noise[:, 0], noise[:, 1])
    # The stratum of each value, from SciPy's normal: one value in each, give or take a neighbour.
    stratification = draws * stats.norm.cdf(ordered[:, 0])
    np.testing.assert_allclose(stratification, np.arange(draws) + 0.5, atol=1.0)


@pytest.mark.parametrize("draws", [8, 32, 33, 500])
def test_a_latin_hypercube_has_the_first_five_moments_of_a_normal(draws):
    noise = latin_hypercube(generator(), draws, 2)
    for power, moment in enumerate([0, 1, 0, 3, 0], start=1):
        np.testing.assert_allclose((noise**power).mean(axis=0), moment, atol=1e-10)


def test_the_mean_of_a_lognormal_is_right_to_half_a_percent_on_32_draws():
    (mean,) = np.exp(latin_hypercube(generator(), 32, 1)).mean(axis=0)
    assert mean == pytest.approx(np.exp(0.5), rel=0.005)


@pytest.mark.parametrize("make", [normal_draws, latin_hypercube, whitened_draws])
def test_marginals_are_close_to_normal(make):
    noise = make(generator(3), 2000, 3)
    for column in noise.T:
        assert stats.kstest(column, "norm").pvalue > 1e-3


def test_whitening_leaves_marginals_close_to_normal_even_at_two_draws_a_dimension():
    pooled = np.concatenate([whitened_draws(generator(seed), 64, 32)[:32].ravel() for seed in range(20)])
    assert stats.kstest(pooled, "norm").statistic < 0.02
    assert stats.kurtosis(pooled) == pytest.approx(0.0, abs=0.2)


@pytest.mark.parametrize("make", [normal_draws, latin_hypercube, whitened_draws])
def test_the_same_generator_gives_the_same_bits_and_another_seed_others(make):
    first, again, other = (make(generator(seed), 16, 3) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("dim", [1, 3])
def test_fresh_draws_are_whitened_and_differ_from_set_to_set(dim):
    first, other = (np.sort(fresh_draws(generator(seed), 32, dim), axis=0) for seed in (0, 1))
    np.testing.assert_allclose(first.mean(axis=0), 0.0, atol=1e-14)
    np.testing.assert_allclose(first.T @ first / 32 if dim == 1 else (first**2).mean(axis=0), 1.0, atol=1e-12)
    assert not np.allclose(first, other)


def test_draws_without_dimensions_are_empty():
    assert whitened_draws(generator(), 4, 0).shape == (4, 0)


def test_an_odd_number_of_antithetic_draws_is_refused():
    with pytest.raises(ValueError, match=r"^antithetic draws come in pairs: 5 is odd\.$"):
        whitened_draws(generator(), 5, 2)
