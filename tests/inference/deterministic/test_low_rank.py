"""The low-rank fit against exact Gaussians: covariances by linear algebra, bounds and evidence in closed form."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from cases import dense, gaussian

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.numerics.draws import whitened_draws
from vbppl.core.numerics.lanczos import Normal
from vbppl.core.watch import Watch, last
from vbppl.inference.deterministic.low_rank import Search, bound_on, gain_over

EPS = float(np.finfo(float).eps)


def rounding(value):
    return 16 * EPS * max(abs(value), 1.0)


def factor_covariance(dim, rank, seed=0):
    """The precision of `rank` common factors and uniquenesses, in units that differ by powers of ten."""
    rng = np.random.default_rng(seed)
    covariance = np.diag(np.exp(rng.uniform(-1, 1, dim))) + (loadings := rng.standard_normal((dim, rank))) @ loadings.T
    scale = 10 ** rng.uniform(-3, 3, dim)
    return np.linalg.inv(covariance) / np.outer(scale, scale)


def few_rows(dim, rows, seed=0):
    """The precision of a regression with fewer rows than columns: stiff along `rows` directions."""
    x = np.random.default_rng(seed).standard_normal((rows, dim))
    return np.eye(dim) + x.T @ x / 0.25


def random_walk(dim):
    """The precision of a random walk that is seen with noise: no small rank will do."""
    return np.diag(np.full(dim, 2.1)) - np.eye(dim, k=1) - np.eye(dim, k=-1)


def fitted(precision, rank, loc=0.0, seed=0, draws=None):
    """A fit from the mean-field optimum, which is known: the mean, and the conditional sds."""
    start = Normal.mean_field(np.zeros(len(precision)) + loc, -np.log(np.diag(precision)) / 2)
    search = Search(gaussian(precision, loc), start, rank, np.random.default_rng(seed), rounding, draws)
    return last(search.rounds(), search.first, Watch())[0]


def gap(precision, at, loc=0.0):
    """KL(q || p) of two normals, in nats (Kullback 1959)."""
    factor, away = dense(at), at.loc - loc
    trace = np.sum(factor * (precision @ factor)) + away @ precision @ away
    return (trace - len(away) - np.linalg.slogdet(precision)[1]) / 2 - at.log_det


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
def test_the_slope_is_the_derivative_of_the_bound(signs):
    rng, dim = np.random.default_rng(0), 6
    root = rng.standard_normal((dim, dim))
    quadratic = gaussian(root @ root.T + np.eye(dim), 1.0)

    def density(z):
        log_p, gradient = quadratic(z)
        return log_p - np.sum(z**4, axis=1) / 10, gradient - 0.4 * z**3

    directions = np.linalg.qr(rng.standard_normal((dim, 3)))[0]
    start = Normal(rng.standard_normal(dim), 0.3 * rng.standard_normal(dim), directions, 0.4 * np.array(signs))
    function = bound_on(density, start, rng.standard_normal((10, dim)))
    x = 0.3 * rng.standard_normal(2 * dim + 3)
    numerical = [(function(x + 1e-6 * e)[0] - function(x - 1e-6 * e)[0]) / 2e-6 for e in np.eye(len(x))]
    np.testing.assert_allclose(function(x)[1], numerical, atol=1e-6)


@pytest.mark.parametrize("rank", [pytest.param(4, marks=pytest.mark.slow), None])
def test_common_factors_are_recovered(rank):
    precision = factor_covariance(600, 4)
    loc = np.random.default_rng(1).standard_normal(600) / np.sqrt(np.diag(precision))
    climb = fitted(precision, rank, loc)
    assert climb.reason == "converged"
    assert len(climb.at.stretch) == 4
    assert gap(precision, climb.at, loc) < 0.01
    assert gap(precision, Normal.mean_field(loc, -np.log(np.diag(precision)) / 2), loc) > 5
    exact, factor = np.linalg.inv(precision), dense(climb.at)
    sd = np.sqrt(np.diag(exact))
    np.testing.assert_allclose(climb.at.sd, sd, rtol=0.01)
    np.testing.assert_allclose((factor @ factor.T) / np.outer(sd, sd), exact / np.outer(sd, sd), atol=0.01)


def test_a_regression_with_few_rows_is_recovered():
    """Narrow directions, which a diagonal plus `V V^T` does not have."""
    precision = few_rows(600, 10)
    climb = fitted(precision, 10)
    assert climb.reason == "converged"
    assert gap(precision, climb.at) < 0.1
    np.testing.assert_allclose(climb.at.sd, np.sqrt(np.diag(np.linalg.inv(precision))), rtol=0.02)


def test_units_do_not_matter():
    precision = few_rows(300, 5)
    scale = 1e3 ** np.random.default_rng(2).uniform(-1, 1, 300)
    plain, scaled = fitted(precision, 5), fitted(precision / np.outer(scale, scale), 5)
    np.testing.assert_allclose(scaled.at.sd, scale * plain.at.sd, rtol=1e-3)
    assert gap(precision / np.outer(scale, scale), scaled.at) == pytest.approx(gap(precision, plain.at), abs=1e-3)
    assert scaled.gradients == plain.gradients


def test_more_directions_are_never_worse_and_none_is_better_than_the_truth():
    precision = random_walk(100)
    gaps = [gap(precision, fitted(precision, rank).at) for rank in (1, 4, 16)]
    best = gap(precision, Normal.mean_field(np.zeros(100), -np.log(np.diag(precision)) / 2))
    assert best > gaps[0] > gaps[1] > gaps[2] > 0


@pytest.mark.slow
def test_the_gain_is_told_by_draws_that_the_fit_has_not_seen():
    precision = random_walk(200)
    first = Normal.mean_field(np.zeros(200), -np.log(np.diag(precision)) / 2)
    climb = fitted(precision, 8, draws=64)
    gained, se = gain_over(gaussian(precision, 0.0), climb.at, first, np.random.default_rng(3))
    assert abs(gained - (gap(precision, first) - gap(precision, climb.at))) < 5 * se + 1e-6


def test_few_draws_do_not_tempt_the_directions():
    """64 draws in 200 dims, where free directions have no maximum; the fit is about as good as on exact draws."""
    precision = random_walk(200)
    few, exact = fitted(precision, 4, draws=64), fitted(precision, 4, draws=400)
    lost = gap(precision, few.at) - gap(precision, exact.at)
    assert 0 < lost < 5
    assert few.loss == pytest.approx(lost, rel=0.5)


def test_free_directions_would_fit_the_gaps_between_the_draws():
    """Why directions are not chosen on the fixed draws: stretched where no draw lies, the bound only grows."""
    noise = whitened_draws(np.random.default_rng(0), 64, 100)
    empty = np.linalg.svd(noise)[2][-1][:, None]
    bounds = []
    for stretch in (0.0, 5.0, 10.0):
        start = Normal(np.zeros(100), np.zeros(100), empty, np.array([stretch]))
        x = np.concatenate([np.zeros(100), start.log_sd, start.stretch])
        bounds.append(-bound_on(gaussian(np.eye(100), 0.0), start, noise)(x)[0])
    np.testing.assert_allclose(np.diff(bounds), [5.0, 5.0], atol=1e-6)


@vb.model
def regression(x, y):
    beta = vb.sample("beta", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(x @ beta, 0.5), obs=y)


def data(dim=40, rows=3):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, dim))
    return x, x @ rng.standard_normal(dim) + 0.5 * rng.standard_normal(rows)


def test_a_regression_reaches_its_evidence():
    x, y = data()
    covariance = x @ x.T + 0.25 * np.eye(len(y))
    evidence = -(len(y) * np.log(2 * np.pi) + np.linalg.slogdet(covariance)[1] + y @ np.linalg.solve(covariance, y)) / 2
    posterior = vb.fit(regression(x, y), "low_rank")
    assert -0.05 < posterior.elbo.value - evidence < 4 * posterior.elbo.se + 1e-3
    exact = np.linalg.inv(np.eye(x.shape[1]) + x.T @ x / 0.25)
    away = (posterior.mean()["beta"] - exact @ x.T @ y / 0.25) / np.sqrt(np.diag(exact))
    assert np.abs(away).max() < 0.05
    np.testing.assert_allclose(posterior.sd()["beta"], np.sqrt(np.diag(exact)), rtol=0.02)
    assert posterior.status.converged, posterior.status
    assert "above the first mean field" in str(posterior.status)


def test_the_same_seed_gives_the_same_bits_and_new_data_compile_nothing(compilations):
    x, y = data()
    first = vb.fit(regression(x, y), vb.LowRank(3))
    before = compilations()
    again, other = vb.fit(regression(x, y), vb.LowRank(3)), vb.fit(regression(x, y + 1), vb.LowRank(3))
    assert compilations() == before
    np.testing.assert_array_equal(first.phi, again.phi)
    assert not np.array_equal(first.phi, other.phi)


@vb.model
def independent(dim):
    vb.sample("z", dist.Normal(jnp.arange(dim) * 1.0, 2.0).to_event(1))


def test_directions_that_gain_nothing_are_left_out():
    posterior = vb.fit(independent(20), "low_rank")
    assert posterior.elbo.value == pytest.approx(0.0, abs=1e-3)
    assert "were left out" in str(posterior.status)
    assert posterior.status.converged
    np.testing.assert_allclose(posterior.sd()["z"], 2.0, rtol=1e-3)


def test_an_interrupted_fit_returns_what_there_is():
    x, y = data()

    def stop(progress):
        if len(progress.params["guide"]) > 2:
            raise KeyboardInterrupt

    with pytest.warns(vb.VbpplWarning, match="interrupted"):
        posterior = vb.fit(regression(x, y), "low_rank", callback=stop)
    assert posterior.status.reason == "interrupted"
    assert len(posterior.phi) > 3
    assert np.isfinite(posterior.elbo.value)


def test_draws_that_cannot_serve_are_refused():
    x, y = data()
    with pytest.raises(vb.ModelError, match=r"rank 10 cannot be fitted on 30 fixed draws(.|\n)*at least 40 draws"):
        vb.fit(regression(x, y), vb.LowRank(10), method=vb.Deterministic(draws=30))
    with pytest.raises(vb.ModelError, match="'latin_hypercube' draws are not"):
        vb.fit(regression(x, y), "low_rank", method=vb.Deterministic(kind="latin_hypercube"))


def test_many_fits_get_their_directions_too():
    x, y = data()
    alone = vb.fit(regression(x, y + 1), vb.LowRank(3))
    both = vb.fit_many(regression, [(x, y), (x, y + 1)], vb.LowRank(3))
    for posterior in both:
        assert isinstance(posterior.guide, vb.LowRank)
    assert both[1].elbo.value == pytest.approx(alone.elbo.value, abs=0.01)
    sd = alone.sd()["beta"]
    np.testing.assert_allclose(both[1].mean()["beta"], alone.mean()["beta"], atol=0.02 * sd.max())
