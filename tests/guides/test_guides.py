"""Guides against SciPy's normals, known modes and closed forms; their noise against the normal law."""

from __future__ import annotations

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.guides.base import Start
from vbppl.guides.gaussian import START_SD, FullRank, MeanField
from vbppl.guides.low_rank import STRETCHED, LowRank, pack
from vbppl.guides.noise import Stratified
from vbppl.guides.structured import Structured
from vbppl.inference import bound
from vbppl.target.target import Target

DIM = 4
RNG = np.random.default_rng(0)
LOC, LOWER = RNG.standard_normal(DIM), np.tril(RNG.standard_normal((DIM, DIM))) + 2 * np.eye(DIM)
SD = np.linalg.norm(LOWER, axis=1)
ROOT = SD[:, None] * linalg.sqrtm(LOWER @ LOWER.T / np.outer(SD, SD))
GAUSSIANS = [(MeanField(), np.diag(np.diagonal(LOWER))), (FullRank(), LOWER), (LowRank(DIM), ROOT)]
IDS = ["mean_field", "full_rank", "low_rank"]


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
    np.testing.assert_allclose(guide.log_prob(phi, z), normal.logpdf(z), rtol=1e-10)
    np.testing.assert_allclose(guide.entropy(phi), normal.entropy(), rtol=1e-12)
    np.testing.assert_allclose(guide.sd(phi), np.sqrt(np.diag(normal.cov)), rtol=1e-12)
    np.testing.assert_allclose(guide.loc(phi), LOC)


@pytest.mark.parametrize(("guide", "factor"), GAUSSIANS, ids=IDS)
def test_the_start_is_narrow_and_around_the_point(guide, factor):
    phi = guide.init(Target.of(flat(DIM)), Start(LOC))
    np.testing.assert_allclose(guide.loc(phi), LOC)
    stretched = STRETCHED if isinstance(guide, LowRank) else 0.0
    sds = np.linalg.svd(guide.factor(phi), compute_uv=False)
    np.testing.assert_allclose(sds, START_SD * np.exp(stretched), rtol=1e-6)


@pytest.mark.parametrize(("guide", "factor"), GAUSSIANS, ids=IDS)
def test_what_a_stop_rule_watches_is_in_sds_of_a_mean_and_in_logs_of_an_sd(guide, factor):
    def moves(before, after):
        (old, unit), (new, _) = guide.monitored(before), guide.monitored(after)
        return np.max(np.abs((new - old) / unit))

    before, sds = guide.of(LOC, factor), np.linalg.norm(factor, axis=1)
    moved = guide.of(LOC + 0.3 * sds * (np.arange(DIM) == 2), factor)
    assert moves(before, moved) == pytest.approx(0.3, rel=1e-5)


def low_rank_by_hand(rng, dim, rank):
    """A `phi` of rank `rank` whose rows span the directions without being orthonormal, and its dense factor."""
    directions, sd = rng.standard_normal((rank, dim)), np.exp(rng.standard_normal(dim))
    stretch = np.linspace(-1.0, 1.5, rank)
    # Gram and Schmidt, one after the other, as a textbook has it.
    unit = []
    for row in directions:
        rest = row - sum((row @ u) * u for u in unit)
        unit.append(rest / np.linalg.norm(rest))
    inner = np.eye(dim) + sum(np.expm1(c) * np.outer(u, u) for c, u in zip(stretch, unit))
    return pack(rng.standard_normal(dim), np.log(sd), stretch, directions), sd[:, None] * inner


def test_a_low_rank_guide_is_a_diagonal_stretched_along_its_directions(x64):
    phi, factor = low_rank_by_hand(np.random.default_rng(1), 12, 3)
    normal, noise = stats.multivariate_normal(phi[0], factor @ factor.T), RNG.standard_normal((5, 12))
    guide = LowRank(3)
    for z in (guide.transform(phi, noise), jax.jit(guide.transform)(phi, noise)):
        np.testing.assert_allclose(z, phi[0] + noise @ factor.T, atol=1e-12)
        np.testing.assert_allclose(guide.residual(phi, z), noise, atol=1e-10)
        np.testing.assert_allclose(guide.log_prob(phi, z), normal.logpdf(z), rtol=1e-10)
    np.testing.assert_allclose(guide.entropy(phi), normal.entropy(), rtol=1e-12)
    np.testing.assert_allclose(guide.sd(phi), np.sqrt(np.diag(normal.cov)), rtol=1e-12)


def test_fewer_directions_than_correlations_keep_mean_and_marginal_sds():
    guide = LowRank(1)
    phi = guide.of(LOC, LOWER)
    np.testing.assert_allclose(guide.sd(phi), SD, rtol=1e-12)
    np.testing.assert_allclose(guide.loc(phi), LOC)


def test_directions_at_random_and_shakes_of_a_point_follow_the_seed():
    target, keys = Target.of(flat(DIM)), [np.array([0, seed], np.uint32) for seed in (1, 1, 2)]
    first, again, other = (LowRank(2).init(target, Start(LOC, raw_key=key)) for key in keys)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_rank_below_one_is_refused():
    with pytest.raises(ValueError, match=r"rank must be at least 1, not 0; rank 0 is vb.MeanField()"):
        vb.LowRank(0)


@vb.model
def one_factor(loadings):
    """Normals that share one factor: correlations of rank one, all scales different."""
    covariance = jnp.diag(loadings**2) + jnp.outer(loadings, loadings)
    vb.sample("z", dist.MultivariateNormal(jnp.arange(len(loadings)) * 1.0, covariance))


def test_a_stochastic_low_rank_fit_finds_one_factor():
    loadings = np.array([0.01, 1.0, 3.0, 0.2, 10.0, 1.0])
    posterior = vb.fit(one_factor(loadings), vb.LowRank(1), method=vb.Stochastic(draws=16))
    assert posterior.elbo.value == pytest.approx(0.0, abs=0.02)  # the density is normalised
    np.testing.assert_allclose(posterior.sd()["z"], loadings * 2**0.5, rtol=0.03)
    assert posterior.status.converged, posterior.status


@pytest.mark.slow
def test_a_low_rank_guide_takes_minibatches():
    x, y = cases.logistic_data()
    model = cases.logistic_regression(x, y)
    full = vb.fit(model, "full_rank")
    shown = vb.fit(model, vb.LowRank(3), batch_size=50, method=vb.Stochastic(draws=16))
    means, sds = cases.flat_moments(full)
    low_means, low_sds = cases.flat_moments(shown)
    assert np.abs((low_means - means) / sds).max() < 0.1
    assert np.abs(np.log(low_sds / sds)).max() < 0.1


@vb.model
def groups(y):
    mu = vb.sample("mu", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with vb.plate("row", len(y)):
        theta = vb.sample("theta", dist.Normal(mu[0], jnp.exp(mu[1] / 4)))
        vb.sample("y", dist.Normal(theta, 0.8), obs=vb.subsample(y))


GROUPS_Y = np.array([0.5, -1.0, 2.0, 0.3])
SHARED = np.array([[0.8, 0.0], [0.3, 0.6]])  # the factor of the shared block, and the rows' sds
ROW_SD = np.array([0.5, 0.6, 0.7, 0.8])


def constant(pair, y):
    return pair["loc"] + 0 * y, pair["scale"] * ROW_SD


def block_of(guide):
    return guide.of(np.array([0.4, -0.2]), SHARED)


def suite():
    """Guides for `groups`, with a `phi` whose mean and covariance are known."""
    factor = np.block([[SHARED, np.zeros((2, 4))], [np.zeros((4, 2)), np.diag(ROW_SD)]])
    loc = np.r_[0.4, -0.2, np.full(4, 0.9)]
    diagonal = np.diag(np.linalg.norm(factor, axis=1))
    table = np.stack([loc[2:], np.log(ROW_SD)])
    net = {"encoder": (np.array(0.9), np.array(1.0))}
    amortized = vb.Amortized("theta", constant, reads="y", params={"loc": 0.0, "scale": 1.0})
    return {
        "mean_field": (MeanField(), MeanField().of(loc, factor), loc, diagonal),
        "full_rank": (FullRank(), FullRank().of(loc, factor), loc, factor),
        "structured": (Structured("row"), {"shared": block_of(FullRank()), "local": table}, loc, factor),
        "amortized": (amortized, {"shared": block_of(FullRank()), "local": np.zeros((2, 0)), **net}, loc, factor),
    }


@pytest.mark.parametrize("name", suite())
def test_every_guide_weighs_its_draws_by_the_normal_that_it_is(name, x64):
    guide, phi, loc, factor = suite()[name]
    target, normal = Target.of(groups(GROUPS_Y)), stats.multivariate_normal(loc, factor @ factor.T)
    drawn = bound.weighed_draws(guide, phi, target, np.random.default_rng(3), 4000)
    log_weights, z = drawn.log_weights, drawn.z
    expected = jax.vmap(target.log_density)(z) - normal.logpdf(z)
    np.testing.assert_allclose(log_weights, expected, rtol=1e-9, atol=1e-9)
    standard = np.linalg.solve(factor, (z - loc).T)
    assert np.abs(standard.mean(axis=1)).max() < 4.5 / np.sqrt(4000)
    assert np.abs(np.cov(standard) - np.eye(6)).max() < 4.5 * np.sqrt(2 / 4000)
    values = target.constrain(z[:5])
    log_prob = bound.log_prob_of_values(guide, phi, target, {name: values[name] for name in ("mu", "theta")})
    np.testing.assert_allclose(log_prob, normal.logpdf(z[:5]), rtol=1e-9)


@pytest.mark.parametrize("name", suite())
def test_the_bound_of_every_guide_is_the_mean_of_its_log_weights(name, x64):
    guide, phi, _, _ = suite()[name]
    target, rng = Target.of(groups(GROUPS_Y)), np.random.default_rng(4)
    log_weights = bound.weighed_draws(guide, phi, target, rng, 20_000).log_weights
    fresh = np.array([bound.fresh_bound(guide, phi, target, rng, 256).mean() for _ in range(8)])
    noise = guide.noise(target).stratified(rng, 16)(jax.random.key(0))
    stepwise = np.asarray(guide.bound(phi, noise, target))
    error = np.hypot(log_weights.std() / np.sqrt(20_000), fresh.std() / np.sqrt(7))
    assert abs(fresh.mean() - log_weights.mean()) < 4.5 * error
    assert abs(stepwise.mean() - log_weights.mean()) < 4.5 * stepwise.std() / 4 + 4.5 * error


def drawn(draws, keys, dim=3):
    spread = MeanField().noise(Target.of(flat(dim))).stratified(np.random.default_rng(0), draws)
    noise = jax.jit(jax.vmap(spread))
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
    stratification = np.sort((uniform * draws).astype(int), axis=1)
    np.testing.assert_array_equal(stratification, np.broadcast_to(np.arange(draws)[:, None], stratification.shape))


def test_noise_is_finite_at_the_edges_of_the_uniform(monkeypatch):
    noise = Stratified(np.array([[0, 0], [1, 1]]))
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: np.array([0.0, 1.0 - 2.0**-24], np.float32))
    assert np.isfinite(noise(jax.random.key(0))).all()


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
    check_mode(space, seed, vb.Stochastic(draws=1))


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
