"""Guides against SciPy's normals, known modes and closed forms; their noise against the normal law."""

from __future__ import annotations

import cases
import jax
import numpy as np
import pytest
from scipy import stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.guides.gaussian import START_SD, FullRank, MeanField
from vbppl.target import Target

DIM = 4
RNG = np.random.default_rng(0)
LOC, LOWER = RNG.standard_normal(DIM), np.tril(RNG.standard_normal((DIM, DIM))) + 2 * np.eye(DIM)
GAUSSIANS = [(MeanField(), np.diag(np.diagonal(LOWER))), (FullRank(), LOWER)]
IDS = ["mean_field", "full_rank"]


@vb.model
def flat(dim):
    vb.sample("z", dist.Normal(np.zeros(dim), 1.0).to_event(1))


@pytest.mark.parametrize(("guide", "factor"), GAUSSIANS, ids=IDS)
def test_a_gaussian_guide_is_scipys_normal(guide, factor, x64):
    phi = guide.of(LOC, factor)
    normal = stats.multivariate_normal(LOC, factor @ factor.T)
    noise = RNG.standard_normal((5, DIM))
    z = guide.transform(phi, noise)
    np.testing.assert_allclose(guide.factor(phi), factor, atol=1e-12)
    np.testing.assert_allclose(z, LOC + noise @ factor.T, atol=1e-12)
    np.testing.assert_allclose(guide.residual(phi, z), noise, atol=1e-10)
    np.testing.assert_allclose(guide.flat_log_prob(phi, z), normal.logpdf(z), rtol=1e-10)
    np.testing.assert_allclose(guide.entropy(phi), normal.entropy(), rtol=1e-12)
    np.testing.assert_allclose(guide.sd(phi), np.sqrt(np.diag(normal.cov)), rtol=1e-12)
    np.testing.assert_allclose(guide.loc(phi), LOC)


@pytest.mark.parametrize(("guide", "factor"), GAUSSIANS, ids=IDS)
def test_the_start_is_narrow_and_around_the_point(guide, factor):
    phi = guide.init(Target.of(flat(DIM)), LOC)
    np.testing.assert_allclose(guide.loc(phi), LOC)
    np.testing.assert_allclose(guide.factor(phi), START_SD * np.eye(DIM), atol=1e-12)


@pytest.mark.parametrize(("guide", "factor"), GAUSSIANS, ids=IDS)
def test_a_shift_is_told_in_sds_of_a_mean_and_in_logs_of_an_sd(guide, factor):
    before, sds = guide.of(LOC, factor), np.linalg.norm(factor, axis=1)
    moved = guide.of(LOC + 0.3 * sds * (np.arange(DIM) == 2), factor)
    assert guide.shift(before, moved) == pytest.approx(0.3)
    wider = guide.of(LOC, np.exp(0.2 * (np.arange(DIM) == 1))[:, None] * factor)
    assert guide.shift(before, wider) == pytest.approx(0.2)


def drawn(draws, keys, dim=3):
    guide = MeanField()
    strata = guide.strata(Target.of(flat(dim)), draws, np.random.default_rng(0))
    noise = jax.jit(jax.vmap(lambda key: guide.noise(strata, key, draws)))
    return np.asarray(noise(jax.random.split(jax.random.key(2), keys)), float)


@pytest.mark.parametrize("draws", [1, 2, 3, 16])
def test_every_draw_is_exactly_normal(draws):
    noise = drawn(draws, 4000)
    assert noise.shape == (4000, draws, 3)
    # Draws of one key go together, so each is judged by itself: 48 tests at most, one in 10^4 each.
    assert min(stats.kstest(column, "norm").pvalue for column in noise.reshape(4000, -1).T) > 1e-4


@pytest.mark.parametrize("draws", [1, 2, 3, 16])
def test_coordinates_are_independent_within_a_draw(draws):
    """A stratum that always met the same stratum of another coordinate would bias every product."""
    noise = drawn(draws, 20_000)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        for power in (1, 2):
            product = (noise[..., i] ** power * noise[..., j] ** power).mean(axis=1)
            assert abs(product.mean() - (power == 2)) < 4.5 * product.std() / np.sqrt(len(product))
        # Not only moments: one draw's pair of uniforms fills the square evenly.
        cells = (8 * stats.norm.cdf(noise[:, 0, [i, j]])).astype(int)
        assert stats.chisquare(np.bincount(cells @ [8, 1], minlength=64)).pvalue > 1e-4


@pytest.mark.parametrize("draws", [2, 16])
def test_each_stratum_of_each_coordinate_is_met_once(draws):
    uniform = stats.norm.cdf(drawn(draws, 50))
    # All but the common rotation: the fractions within a stratum agree over the draws.
    strata = np.sort((uniform * draws).astype(int), axis=1)
    np.testing.assert_array_equal(strata, np.broadcast_to(np.arange(draws)[:, None], strata.shape))


def test_noise_is_finite_at_the_edges_of_the_uniform(monkeypatch):
    guide, strata = MeanField(), np.array([[0, 0], [1, 1]])
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: np.array([0.0, 1.0 - 2.0**-24], np.float32))
    assert np.isfinite(guide.noise(strata, jax.random.key(0), 2)).all()


# Case 11: the mode in two coordinate systems, up to the labels.
MODES = {
    "constrained": {"w": (0.375, 0.625), "locs": (0.4989, 10.9845), "scale": 0.65143},
    "unconstrained": {"w": (0.41667, 0.58333), "locs": (0.4987, 10.9814), "scale": 0.71330},
}


def check_mode(space, seed, method):
    posterior = vb.fit(cases.mixture(cases.MIXED), vb.MAP(space), seed=seed, method=method)
    found, expected = posterior.mean(), MODES[space]
    order = np.argsort(found["locs"])
    np.testing.assert_allclose(found["locs"][order], expected["locs"], atol=2e-3)
    np.testing.assert_allclose(found["w"][order], expected["w"], atol=2e-3)
    assert found["scale"] == pytest.approx(expected["scale"], abs=2e-3)
    assert posterior.status.converged, posterior.status


@pytest.mark.parametrize("space", MODES)
def test_map_finds_the_mode_of_the_space_that_is_named(space):
    check_mode(space, 0, "auto")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("space", MODES)
def test_map_finds_the_mode_from_every_seed(space, seed):
    check_mode(space, seed, vb.Stochastic())


def test_map_refuses_a_space_that_is_none():
    with pytest.raises(ValueError, match="space must be 'constrained' or 'unconstrained', not 'real'"):
        vb.MAP("real")


@vb.guide
def beta_guide(flips):
    a = vb.param("a", 2.0, constraint=dist.constraints.positive)
    b = vb.param("b", 2.0, constraint=dist.constraints.positive)
    vb.sample("p", dist.Beta(a, b))


@pytest.mark.slow  # the derivatives of Beta draws take long to compile
def test_a_guide_program_of_the_right_family_reaches_the_evidence():
    method = vb.Stochastic(steps=1000, draws=16)
    posterior = vb.fit(cases.beta_bernoulli(cases.FLIPS), beta_guide(cases.FLIPS), method=method)
    assert posterior.elbo.value == pytest.approx(-6.20456, abs=0.01)
    exact, a, b = stats.beta(9, 3), posterior.params["a"], posterior.params["b"]
    assert abs(a / (a + b) - exact.mean()) < 0.02 * exact.std()
    assert stats.beta(a, b).std() == pytest.approx(exact.std(), rel=0.03)


@vb.model
def one_normal():
    vb.sample("x", dist.Normal(-1.0, 1.0))


@vb.guide
def wrong_normal():
    vb.sample("x", dist.Normal(2.0, 2.0))


def test_a_divergence_in_closed_form_has_no_monte_carlo_error():
    """Case 9; a guide without params has nothing to learn, so that one step is as good as many."""
    posterior = vb.fit(one_normal(), wrong_normal())
    assert posterior.elbo.value == pytest.approx(-5.306853, abs=1e-5)
    assert posterior.elbo.se < 1e-6
    assert posterior.status.converged
