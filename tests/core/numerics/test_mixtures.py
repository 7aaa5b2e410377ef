"""Steps of mixtures: slopes of the bound, the single Gaussian as a case, and what too few draws pretend."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vbppl.core.numerics import mixtures, natural_gradient, new_components
from vbppl.core.numerics.draws import fresh_draws, whitened_draws
from vbppl.core.numerics.mixtures import Components


def a_mixture(dim=2, seed=0):
    rng = np.random.default_rng(seed)
    factor = 0.3 * rng.standard_normal((3, dim, dim)) + np.eye(dim)
    return Components.of(np.log([0.2, 0.5, 0.3]), list(rng.standard_normal((3, dim))), list(factor))


def skewed(z):
    """Independent logs of gamma variables."""
    return np.sum(2 * z - np.exp(z), axis=-1), 2 - np.exp(z)


def by_scipy(at, z):
    parts = [
        weight * stats.multivariate_normal(loc, factor @ factor.T).pdf(z)
        for weight, loc, factor in zip(at.weights, at.loc, at.factor)
    ]
    return np.log(np.sum(parts, axis=0))


def test_density_and_moments_are_scipys_and_the_slope_of_the_density_is_the_numerical_one(monkeypatch):
    monkeypatch.setattr(mixtures, "CACHED", 0)  # so that 70 points are gone through in three pieces
    at, z = a_mixture(), np.random.default_rng(1).standard_normal((70, 2))
    np.testing.assert_allclose(at.log_density(z), by_scipy(at, z), rtol=1e-10)
    seen = mixtures.evaluate(lambda z: (np.zeros(z.shape[:2]), np.zeros(z.shape)), at, np.stack([z] * 3))
    points, step = at.points(np.stack([z] * 3)), 1e-5
    for axis in np.eye(2):
        ends = [at.log_density((points + sign * step * axis).reshape(-1, 2)) for sign in (1, -1)]
        slope = (ends[0] - ends[1]) / 2 / step
        got = -np.einsum("knd,kdj,j->kn", seen.whitened, np.linalg.inv(at.factor), axis)
        np.testing.assert_allclose(got.ravel(), slope, rtol=1e-7, atol=1e-9)
    big = at.points(np.stack([whitened_draws(np.random.default_rng(2), 20_000, 2)] * 3))
    mean, sd = at.moments()
    np.testing.assert_allclose(np.average(big.mean(axis=1), axis=0, weights=at.weights), mean, atol=1e-9)
    second = np.average((big**2).mean(axis=1), axis=0, weights=at.weights)
    np.testing.assert_allclose(np.sqrt(second - mean**2), sd, rtol=1e-9)


def test_the_density_keeps_its_digits_far_from_the_origin_and_with_components_far_apart():
    """Means of 1e8 sds, 1e4 sds apart: of squares that were multiplied out no digit would be left."""
    noise = np.random.default_rng(0).standard_normal((3, 20, 2))
    at = a_mixture()
    at = Components.of(np.log([0.2, 0.5, 0.3]), list(1e8 + 1e4 * at.loc), list(at.factor))
    own = np.log(at.weights) - np.linalg.slogdet(at.factor)[1] - np.log(2 * np.pi)
    expected = own[:, None] - np.sum(noise**2, axis=2) / 2
    np.testing.assert_allclose(at.log_density(at.points(noise).reshape(-1, 2)), expected.ravel(), atol=1e-6)


def test_for_one_component_a_step_is_that_of_full_rank():
    rng = np.random.default_rng(0)
    noise = whitened_draws(rng, 64, 3)[None]
    loc, factor = rng.standard_normal((1, 3)) / 3, np.eye(3)[None] * 0.5 + 0.1 * rng.standard_normal((1, 3, 3))
    one = mixtures.evaluate(skewed, Components.of(np.zeros(1), list(loc), list(factor)), noise)
    full = natural_gradient.evaluate(lambda z, searches: skewed(z), loc, factor, noise, np.arange(1))
    np.testing.assert_allclose(one.seen.mean_gradient, full.mean_gradient, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(one.seen.covariance_gradient, full.covariance_gradient, rtol=1e-9, atol=1e-12)
    assert one.decrement == pytest.approx(full.decrement[0], rel=1e-9)
    length = np.array([0.5])
    after = mixtures.moved(one, length, 1.0, np.arange(1))
    expected = natural_gradient.proposed(full, length)
    np.testing.assert_allclose(after.loc, expected[0], rtol=1e-9)
    np.testing.assert_allclose(after.factor, expected[1], rtol=1e-9)
    assert after.log_weights == pytest.approx([0.0])


def test_drifts_curvatures_and_weights_are_the_slopes_of_the_bound():
    """On 40,000 quantiles, where the slope of log q by its own parameters, whose mean is zero, is nearly so."""
    noise = np.stack([whitened_draws(np.random.default_rng(0), 40_000, 1)] * 2)
    at = Components.of(np.log([0.4, 0.6]), [np.array([-0.5]), np.array([0.9])], [np.array([[0.7]]), np.array([[0.4]])])
    seen, step = mixtures.evaluate(skewed, at, noise), 1e-4

    def bound(log_weights, loc, factor):
        return mixtures.evaluate(skewed, Components.of(log_weights, list(loc), list(factor)), noise).bound

    for k in range(2):
        one, weight = np.eye(2)[k][:, None], at.weights[k]
        right, left = (bound(at.log_weights, at.loc + sign * step * one, at.factor) for sign in (1, -1))
        by_loc = (right - left) / 2 / step
        assert weight * seen.seen.mean_gradient[k, 0] / at.factor[k, 0, 0] == pytest.approx(by_loc, abs=1e-3)
        wider, narrower = (at.factor * np.exp(sign * step * one)[:, :, None] for sign in (1, -1))
        by_log_sd = (bound(at.log_weights, at.loc, wider) - bound(at.log_weights, at.loc, narrower)) / 2 / step
        assert weight * seen.seen.covariance_gradient[k, 0, 0] == pytest.approx(by_log_sd, abs=1e-3)
        more, less = (at.log_weights + sign * step * one[:, 0] for sign in (1, -1))
        by_weight = (bound(more, at.loc, at.factor) - bound(less, at.loc, at.factor)) / 2 / step
        assert weight * (seen.seen.bound[k] - seen.bound) == pytest.approx(by_weight, abs=1e-3)


def test_weights_alone_go_to_their_optimum_without_gradients():
    """Of two far modes each takes its share."""
    at = Components.of(np.log([0.5, 0.5]), [np.array([-20.0]), np.array([20.0])], [np.eye(1), np.eye(1)])
    target = Components.of(np.log([0.9, 0.1]), list(at.loc), list(at.factor))

    def density(z):
        return target.log_density(z.reshape(-1, 1)).reshape(z.shape[:2]), np.zeros(z.shape)

    seen = mixtures.evaluate(density, at, np.stack([whitened_draws(np.random.default_rng(0), 64, 1)] * 2))
    best = mixtures.reweighed(seen)
    np.testing.assert_allclose(best.weights, [0.9, 0.1], rtol=1e-6)
    assert mixtures.rebound(seen, best) == pytest.approx(0.0, abs=1e-9)


def test_components_that_stand_still_are_asked_for_no_gradients_and_do_not_move():
    at, asked = a_mixture(), []

    def density(z):
        asked.append(z.shape[0])
        return skewed(z)

    noise = np.stack([whitened_draws(np.random.default_rng(k), 64, 2) for k in range(3)])
    seen = mixtures.evaluate(density, at, noise)
    end = mixtures.ascend(density, seen, 0.0, still=2, steps=3)
    assert asked[0] == 3 and set(asked[1:]) == {1}
    np.testing.assert_array_equal(end.at.loc[:2], at.loc[:2])
    assert end.bound > seen.bound
    # What was known of them has stayed true, and beside them the slopes are those of the whole mixture.
    np.testing.assert_allclose(end.f.ravel(), skewed(end.z)[0].ravel() - by_scipy(end.at, end.z.reshape(-1, 2)))
    whole = mixtures.evaluate(skewed, end.at, noise)
    np.testing.assert_allclose(end.seen.mean_gradient[2], whole.seen.mean_gradient[2], atol=1e-12)
    np.testing.assert_allclose(end.seen.covariance_gradient[2], whole.seen.covariance_gradient[2], atol=1e-12)


def climbed(draws, dim, count, seed=0):
    """Bounds of a mixture that has climbed on fixed draws: on these, and on fresh ones. The log evidence is 0."""
    rng = np.random.default_rng(seed)
    at = Components.of(np.zeros(count), list(0.5 * rng.standard_normal((count, dim))), [0.8 * np.eye(dim)] * count)
    noise = np.stack([whitened_draws(rng, draws, dim) for _ in range(count)])
    end = mixtures.ascend(skewed, mixtures.evaluate(skewed, at, noise), 0.0)
    fresh = np.stack([fresh_draws(rng, 4096, dim) for _ in range(count)])
    return end.bound, mixtures.evaluate(skewed, end.at, fresh).bound


def test_on_four_draws_a_dimension_the_fixed_bound_is_higher_than_on_sixteen_and_the_truth_is_lower():
    few, many = climbed(4 * 44, 44, 2), climbed(16 * 44, 44, 2)
    assert few[0] > many[0] + 0.1
    assert few[1] < many[1] - 0.05


def test_the_direction_of_a_split_is_that_of_the_skewness_and_of_the_tails():
    """For f = (u.e)^3 and f = (u.e)^4 for a unit vector u."""
    rng, u = np.random.default_rng(0), np.array([0.6, 0.0, -0.8])
    e = whitened_draws(rng, 512, 3)
    for power, at in ((3, 0), (4, 1)):
        h = power * (e @ u)[:, None] ** (power - 1) * u
        v = new_components.directions(e, h)[at]
        assert abs(v @ u) == pytest.approx(1.0, abs=0.02)


def test_what_weighs_too_much_is_the_total_variation():
    """Between N(0, 1) and N(1, 1): 2 Phi(1/2) - 1."""
    at = Components.of(np.zeros(1), [np.zeros(1)], [np.eye(1)])
    noise = whitened_draws(np.random.default_rng(0), 20_000, 1)[None]
    seen = mixtures.evaluate(lambda z: (-np.sum((z - 1) ** 2, axis=-1) / 2, 1 - z), at, noise)
    over, total = new_components.excess(seen)
    assert total == pytest.approx(2 * stats.norm.cdf(0.5) - 1, abs=2e-3)
    assert np.all(over[at.points(noise)[..., 0] < 0.5 - 1e-3] == 0)


def test_candidates_are_whole_mixtures_whose_old_components_come_first():
    at = a_mixture()
    noise = np.stack([whitened_draws(np.random.default_rng(k), 64, 2) for k in range(3)])
    seen = mixtures.evaluate(skewed, at, noise)
    found = new_components.candidates(seen, lambda z: skewed(z)[0])
    assert {each.what.split()[0] for each in found} >= {"component", "all", "part"}
    for each in found:
        assert each.at.weights.sum() == pytest.approx(1.0)
        np.testing.assert_array_equal(each.at.loc[: len(each.old)], at.loc[each.old])
        assert len(each.at) - len(each.old) in (1, 2) and np.isfinite(each.at.factor).all()


def test_a_component_without_volume_has_no_density_and_the_others_have_theirs():
    flat, round_ = np.diag([1.0, 0.0]), np.eye(2)
    log_each = Components.of(np.zeros(2), [np.zeros(2), np.ones(2)], [flat, round_]).log_each(np.zeros((1, 2)))
    assert np.isnan(log_each[0, 0])
    np.testing.assert_allclose(log_each[0, 1], stats.norm.logpdf(-1.0) * 2)
