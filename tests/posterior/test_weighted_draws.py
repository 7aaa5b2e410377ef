"""Draws and what they weigh: a proposal's density is that of its points, and averages are the posterior's."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

import vbppl as vb
from vbppl.posterior import weighted_draws
from vbppl.posterior.weighted_draws import Ellipsoid, WeightedDraws, draw, draw_more

pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")


@pytest.fixture
def ellipsoid():
    return Ellipsoid(np.array([1.0, -2.0]), np.array([[2.0, 0.0], [1.0, 0.5]]))


@pytest.mark.parametrize("dim", [1, 2, 3, 20])
def test_the_density_of_far_draws_integrates_to_one(dim):
    around = Ellipsoid(np.full(dim, 3.0), 2.0 * np.eye(dim))
    sphere = 2 * np.pi ** (dim / 2) / special.gamma(dim / 2)

    def at(log_radius):  # along one axis, times the surface of the sphere, in units of z
        radius = np.exp(log_radius)
        z = np.full((1, dim), 3.0)
        z[0, 0] += radius
        return np.exp(around.log_far(z)[0] + dim * log_radius) * sphere

    low, high = (np.log(2.0 * np.sqrt(dim) * end) for end in (weighted_draws.MIN_RADIUS, weighted_draws.MAX_RADIUS))
    assert integrate.quad(at, low, high)[0] == pytest.approx(1.0, abs=1e-6)
    assert at(low - 0.01) == at(high + 0.01) == 0


def test_far_draws_lie_as_often_in_each_shell_as_their_density_says(ellipsoid):
    z = ellipsoid.far(np.random.default_rng(0), 4000)
    radii = np.sqrt((ellipsoid.residual(z) ** 2).sum(axis=1)) / np.sqrt(2)
    share = np.log(np.sort(radii) / 0.05) / np.log(200 / 0.05)
    assert np.abs(share - (np.arange(4000) + 0.5) / 4000).max() < 1e-3
    assert np.isfinite(ellipsoid.log_far(z)).all()


def test_the_densities_of_normal_and_student_draws_are_those_of_scipy(ellipsoid):
    z = ellipsoid.student(np.random.default_rng(1), 200)
    shape = ellipsoid.factor @ ellipsoid.factor.T
    exact = stats.multivariate_t(ellipsoid.loc, shape, df=5).logpdf(z)
    np.testing.assert_allclose(ellipsoid.log_student(z), exact, rtol=1e-9)
    exact = stats.multivariate_normal(ellipsoid.loc, shape).logpdf(z)
    np.testing.assert_allclose(ellipsoid.log_normal(z), exact, rtol=1e-9)


def test_an_ellipsoid_around_weighted_draws_has_their_moments():
    rng = np.random.default_rng(2)
    z, weights = rng.standard_normal((500, 3)), rng.dirichlet(np.ones(500))
    around = Ellipsoid.around(z, weights)
    np.testing.assert_allclose(around.loc, np.average(z, axis=0, weights=weights))
    covariance = np.cov(z, rowvar=False, aweights=weights, ddof=0)
    np.testing.assert_allclose(around.factor @ around.factor.T, covariance, rtol=1e-6)


def two_scales():
    """Half of the mass in a core ten times as narrow: `faults.md` of a guide that holds one of the two."""

    def log_density(z):
        squares = jnp.sum(z**2)
        return jnp.logaddexp(-squares / 2, -squares / (2 * 0.1**2) - 2 * jnp.log(0.1)) - jnp.log(4 * jnp.pi)

    return vb.density(log_density, 2)


@pytest.mark.parametrize("sd", [0.1, 1.0])  # a guide on the core, and one on the broad half
@pytest.mark.parametrize("further", [False, True])
def test_weights_find_what_the_guide_holds_none_of(sd, further):
    target, guide, rng = two_scales(), vb.MeanField(), np.random.default_rng(3)
    phi = np.stack([np.zeros(2), np.full(2, np.log(sd))]).astype(np.float32)
    drawn = draw(guide, phi, target, rng, 4000)
    if further:
        drawn = drawn.joined(draw_more(guide, phi, target, rng, 4000, drawn.weighed()))
    found = drawn.weighed()
    assert found.own.mean() == pytest.approx(0.75 if not further else 0.5625, abs=0.01)
    assert found.log_evidence == pytest.approx(0.0, abs=0.12)  # normalised
    spread = np.sqrt(found.weights @ found.z[:, 0] ** 2)
    assert spread == pytest.approx(np.sqrt((1 + 0.01) / 2), rel=0.1)


def test_draws_stand_as_often_as_they_weigh():
    weights = np.random.default_rng(4).dirichlet(np.ones(50))
    flat = np.zeros(50)
    draws = WeightedDraws(np.zeros((50, 1)), flat, flat, flat, np.log(weights), 0.1, 0.0, flat == 0)
    counts = np.bincount(draws.chosen(np.random.default_rng(5), 1000), minlength=50)
    assert np.abs(counts - 1000 * weights).max() <= 1.0  # systematic: rounded up or down
    assert draws.ess == pytest.approx(1 / np.sum(weights**2))


def test_a_report_holds_on_to_no_more_draws_than_fit(monkeypatch):
    monkeypatch.setattr(weighted_draws, "KEPT", 600)
    flat = np.zeros(1000)
    draws = WeightedDraws.of(np.zeros((1000, 3)), flat, flat, flat, np.arange(1000) < 750).few()
    assert draws.z.shape == (200, 3) and draws.own.mean() == 0.75
    assert draws.weights.sum() == pytest.approx(1.0)


def test_a_guide_of_many_dims_is_weighed_by_its_own_draws():
    target = vb.density(lambda z: -0.5 * jnp.sum(z**2), weighted_draws.FAR_DIM + 1)
    phi = np.zeros((2, target.dim), np.float32)
    assert draw(vb.MeanField(), phi, target, np.random.default_rng(0), 200).own.all()


def test_the_evidence_is_known_where_no_weight_is_twice_the_others_whatever_the_shape_of_their_tail():
    """All but even ones with a Pareto tail of shape 2, beside one draw that has met what no other has."""
    zeros, tail = np.zeros(2000), stats.genpareto.ppf((np.arange(200) + 0.5) / 200, 2.0)
    for rise, is_known in ((0.5, True), (30.0, False)):
        weights = np.concatenate([np.ones(1800), 1 + rise * tail / tail[-1]])
        draws = WeightedDraws.of(zeros[:, None], np.log(weights), zeros, zeros, np.arange(2000) < 1500)
        assert draws.pareto_k > 0.7 and not draws.trusted and draws.tells_evidence is is_known
        assert draws.log_evidence == pytest.approx(np.log(weights.mean()), abs=1e-3)
