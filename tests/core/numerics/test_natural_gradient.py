"""Natural-gradient steps against Gaussians, against SciPy's optimum of a Gauss-Hermite bound, and on bad ground."""

from __future__ import annotations

import types

import numpy as np
import pytest
from scipy import optimize

from vbppl.core.numerics import natural_gradient
from vbppl.core.numerics.draws import whitened_draws

EPS = float(np.finfo(float).eps)


def ascend(density, loc, factor, draws=64, seed=0, tolerance=1e-10, watch=lambda at: None, eps=EPS):
    """Natural-gradient steps on fresh whitened draws, of one search."""
    noise = whitened_draws(np.random.default_rng(seed), draws, len(loc))[None]
    at, first = None, look(density, np.asarray(loc, float), np.asarray(factor, float), noise[0])
    for at in natural_gradient.ascents(
        in_batch(density),
        first,
        noise,
        lambda value: 16 * eps * np.maximum(np.abs(value), 1.0),
        np.array([tolerance]),
    ):
        if len(at.moved):
            watch(only(at))
    return only(at)


def look(density, loc, factor, noise):
    return natural_gradient.evaluate(in_batch(density), loc[None], factor[None], noise[None], np.zeros(1, int))


def in_batch(density):
    """A density of points `(n, dim)` as one of batches of them."""

    def of_many(z, searches):
        log_p, gradient = zip(*(density(points) for points in z))
        return np.array(log_p), np.array(gradient)

    return of_many


def only(at):
    """The only search of a batch."""
    fields = ("loc", "factor", "bound", "mean_gradient", "covariance_gradient", "reason", "decrement", "sd")
    return types.SimpleNamespace(**{name: getattr(at, name)[0] for name in fields}, all=at)


def draw_noise(density, at, sets):
    """The root mean square of the worst quantity's move over several sets of draws."""
    moves = [natural_gradient.moves(at, look(density, at.loc[0], at.factor[0], noise))[0] for noise in sets]
    return np.sqrt(np.mean(np.square(moves), axis=0)).max()


def gaussian(mean, covariance):
    precision = np.linalg.inv(covariance)

    def density(z):
        gradient = -(z - mean) @ precision
        return ((z - mean) * gradient).sum(axis=1) / 2, gradient

    return density


def covariance_of(at):
    return at.factor @ at.factor.T


def random_covariance(dim, rng):
    root = rng.normal(size=(dim, dim))
    return root @ root.T + 0.1 * np.eye(dim)


@pytest.mark.parametrize(("dim", "draws"), [(1, 2), (2, 4), (5, 10), (20, 64)])
def test_a_gaussian_is_reached_in_one_step_from_anywhere(dim, draws):
    rng = np.random.default_rng(dim)
    mean, covariance = 10 * rng.normal(size=dim), random_covariance(dim, rng)
    # From a covariance below the target's the full step is exact; above it, it overshoots and is damped.
    start = 0.5 * np.linalg.cholesky(covariance)
    seen = []
    at = ascend(gaussian(mean, covariance), np.zeros(dim), start, draws, watch=seen.append)
    assert (at.reason, len(seen)) == ("converged", 2)
    np.testing.assert_allclose(at.loc, mean, atol=1e-6)
    np.testing.assert_allclose(covariance_of(at), covariance, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("start_sd", [1e-3, 0.1, 10.0, 1e3])
def test_a_correlation_of_0_99998_is_found_from_any_scale(start_sd):
    covariance = np.array([[1.0, 0.99998], [0.99998, 1.0]])
    at = ascend(gaussian(np.array([5.0, -5.0]), covariance), np.zeros(2), start_sd * np.eye(2))
    assert at.reason == "converged"
    np.testing.assert_allclose(at.loc, [5.0, -5.0], atol=1e-4)
    np.testing.assert_allclose(covariance_of(at), covariance, atol=1e-4)


def test_scales_a_million_apart_are_no_obstacle():
    scales = np.array([1e-3, 1.0, 1e3])
    covariance = np.outer(scales, scales) * np.array([[1, 0.9, 0], [0.9, 1, -0.3], [0, -0.3, 1]])
    at = ascend(gaussian(scales, covariance), np.zeros(3), np.diag(scales))
    np.testing.assert_allclose(
        covariance_of(at) / np.outer(scales, scales), covariance / np.outer(scales, scales), atol=1e-5
    )
    np.testing.assert_allclose(at.loc / scales, 1.0, atol=1e-5)


def test_the_decrement_is_the_kl_divergence_left_to_second_order():
    rng = np.random.default_rng(3)
    covariance = random_covariance(3, rng)
    root = np.linalg.cholesky(covariance)
    shift, spread = 0.02 * rng.normal(size=3), 0.02 * rng.normal(size=(3, 3))
    loc, factor = root @ shift, root @ (np.eye(3) + (spread + spread.T) / 2)
    ratio = np.linalg.inv(covariance) @ factor @ factor.T
    kl = (np.trace(ratio) - 3 - np.linalg.slogdet(ratio)[1] + shift @ shift) / 2
    noise = whitened_draws(rng, 64, 3)
    assert look(gaussian(np.zeros(3), covariance), loc, factor, noise).decrement[0] == pytest.approx(kl, rel=0.1)


# One-dimensional and two-dimensional skewed densities: logs of gamma variables, correlated by a shear.
def log_gamma(z):
    """A log gamma(3) density: skewed to the left, log-concave."""
    return 3 * z[:, 0] - np.exp(z[:, 0]), 3 - np.exp(z)


def sheared(z):
    """Two log gammas, shapes 2 and 5, of `z_0` and `z_1 - z_0`."""
    u, v = z[:, 0], z[:, 1] - z[:, 0]
    dv = 5 - np.exp(v)
    return 2 * u - np.exp(u) + 5 * v - np.exp(v), np.stack([2 - np.exp(u) - dv, dv], axis=1)


def best_gaussian(density, dim):
    """Mean and covariance that maximise the bound by a product Gauss-Hermite rule, by SciPy."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    grid = np.stack(np.meshgrid(*[nodes] * dim), axis=-1).reshape(-1, dim)
    weight = np.prod(np.stack(np.meshgrid(*[weights] * dim), axis=-1), axis=-1).ravel() / (2 * np.pi) ** (dim / 2)
    lower = np.tril_indices(dim, -1)

    def split(x):
        factor = np.diag(np.exp(x[dim : 2 * dim]))
        factor[lower] = x[2 * dim :]
        return x[:dim], factor

    def loss(x):
        loc, factor = split(x)
        return -(weight @ density(loc + grid @ factor.T)[0]) - x[dim : 2 * dim].sum()

    start = np.zeros(2 * dim + len(lower[0]))
    loc, factor = split(optimize.minimize(loss, start, tol=1e-12).x)
    return loc, factor @ factor.T


@pytest.mark.parametrize(("density", "dim"), [(log_gamma, 1), (sheared, 2)])
def test_a_skewed_density_is_fitted_as_scipy_fits_its_gauss_hermite_bound(density, dim):
    loc, covariance = best_gaussian(density, dim)
    at = ascend(density, np.zeros(dim), 0.1 * np.eye(dim), draws=2048)
    sd = np.sqrt(np.diag(covariance))
    assert at.reason == "converged"
    np.testing.assert_allclose((at.loc - loc) / sd, 0.0, atol=0.01)
    np.testing.assert_allclose((covariance_of(at) - covariance) / np.outer(sd, sd), 0.0, atol=0.01)


@pytest.mark.parametrize("start", [0.0, 0.5, 3.0])
def test_a_start_of_wrong_curvature_is_left_behind(start):
    """Between two modes at -4 and 4 the density is convex: a plain Newton step would run the wrong way."""

    def density(z):
        x = z[:, 0]
        pull = 4 * np.tanh(4 * x)
        return np.logaddexp(-((x - 4) ** 2) / 2, -((x + 4) ** 2) / 2), (pull - x)[:, None]

    at = ascend(density, np.array([start]), np.array([[0.1]]), draws=64)
    # From the saddle itself the one-mode optimum cannot be reached by symmetry: the wide Gaussian is one too.
    assert at.reason == "converged"
    if start:
        assert at.loc[0] == pytest.approx(4.0, abs=0.02) and covariance_of(at)[0, 0] == pytest.approx(1.0, abs=0.02)
    else:
        assert covariance_of(at)[0, 0] > 4


def test_indefinite_curvature_in_two_dimensions_is_recovered_from():
    """The ring where `|z| = 5` has convex directions nearly everywhere inside."""

    def density(z):
        radius = np.sqrt((z**2).sum(axis=1) + 1e-12)
        return -((radius - 5) ** 2) / 2 - z[:, 0] ** 2, -z * ((radius - 5) / radius)[:, None] - 2 * z * [1.0, 0.0]

    at = ascend(density, np.array([0.3, 0.2]), 0.1 * np.eye(2), draws=256)
    assert at.reason == "converged"
    assert abs(at.loc[1]) == pytest.approx(5.0, abs=0.1)


def test_the_bound_never_falls_on_the_way():
    bounds = []
    ascend(sheared, np.array([3.0, -3.0]), np.diag([2.0, 0.01]), watch=lambda at: bounds.append(at.bound))
    assert len(bounds) > 3
    assert np.diff(bounds).min() > -1e-12


def test_a_density_that_is_minus_infinity_at_some_draws_shortens_the_step():
    def density(z):  # exponential: nothing below zero
        inside = z[:, 0] > 0
        return np.where(inside, -z[:, 0] + 2 * np.log(np.where(inside, z[:, 0], 1.0)), -np.inf), np.where(
            inside[:, None], 2 / np.where(inside[:, None], z, 1.0) - 1, np.nan
        )

    at = ascend(density, np.array([2.0]), np.array([[0.1]]))
    assert np.isfinite(at.bound) and np.isfinite(at.factor).all()
    assert at.reason in ("stuck", "rounding", "converged")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_start_without_a_finite_bound_is_reported_as_stuck(value):
    at = ascend(lambda z: (np.full(len(z), value), np.full_like(z, np.nan)), np.zeros(2), np.eye(2))
    assert at.reason == "stuck"


def test_an_improper_density_ends_without_an_error_and_is_not_called_converged():
    at = ascend(lambda z: (np.zeros(len(z)), np.zeros_like(z)), np.zeros(2), np.eye(2))
    assert at.reason in ("capped", "stuck")


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_float32_densities_with_a_large_constant_are_fitted_all_the_same(offset):
    covariance = np.array([[1.0, 0.9], [0.9, 1.0]])
    exact = gaussian(np.array([1.0, 2.0]), covariance)

    def density(z):
        log_p, gradient = exact(z.astype(np.float32).astype(float))
        return (log_p + offset).astype(np.float32).astype(float), gradient.astype(np.float32).astype(float)

    eps = float(np.finfo(np.float32).eps)
    at = ascend(density, np.zeros(2), 0.1 * np.eye(2), tolerance=eps, eps=eps)
    assert at.reason in ("converged", "rounding")
    np.testing.assert_allclose(at.loc, [1.0, 2.0], atol=1e-3)
    np.testing.assert_allclose(covariance_of(at), covariance, atol=1e-3)


def test_draw_noise_is_the_scatter_of_the_optima_over_sets_of_draws():
    rng = np.random.default_rng(0)
    ends = [ascend(sheared, np.zeros(2), 0.5 * np.eye(2), draws=32, seed=seed) for seed in range(60)]
    locs = np.array([at.loc for at in ends])
    log_sds = np.log([at.sd for at in ends])
    sd = np.exp(log_sds.mean(axis=0))
    scatter = max((locs.std(axis=0) / sd).max(), log_sds.std(axis=0).max())
    sets = [whitened_draws(rng, 32, 2) for _ in range(4)]
    told = np.sqrt(np.mean([draw_noise(sheared, at.all, sets) ** 2 for at in ends[:20]]))
    # A move from one set's optimum to another's has the noise of both: sqrt(2) times the scatter.
    assert scatter / 2 < told / np.sqrt(2) < 2 * scatter


def test_draws_make_no_difference_to_a_gaussian():
    rng = np.random.default_rng(0)
    density = gaussian(np.ones(3), random_covariance(3, rng))
    at = ascend(density, np.zeros(3), np.eye(3))
    sets = [whitened_draws(rng, 32, 3) for _ in range(4)]
    assert draw_noise(density, at.all, sets) < 1e-12
    # Nor on the way: what is left to climb is not the draws' doing.
    noise = whitened_draws(rng, 32, 3)
    assert draw_noise(density, look(density, np.zeros(3), np.eye(3), noise), sets) < 1e-12


def test_a_step_leaves_the_state_before_it_alone():
    noise = whitened_draws(np.random.default_rng(0), 64, 2)[None]
    first = look(sheared, np.array([3.0, -3.0]), np.diag([2.0, 0.01]), noise[0])
    states = list(natural_gradient.ascents(in_batch(sheared), first, noise, lambda value: 1e-14, np.array([1e-10])))
    assert first.loc.tolist() == [[3.0, -3.0]] and first.reason.tolist() == ["capped"]
    assert len({id(state.loc) for state in states[:-1]}) == len(states) - 1
    bounds = [float(state.bound[0]) for state in states]
    assert bounds == sorted(bounds) and len(set(bounds)) > 3


def test_the_decrement_is_half_the_squared_length_in_the_fisher_metric_and_so_is_the_product_of_steps():
    """A step of `r` leads `r^2` decrements of KL away; the product is the one that belongs to this length."""
    rng, eye = np.random.default_rng(3), np.eye(4)
    mean_gradient, covariance_gradient = rng.standard_normal((2, 1, 4)), rng.standard_normal((2, 1, 4, 4))
    covariance_gradient = covariance_gradient + covariance_gradient.swapaxes(2, 3)
    here = np.zeros((1, 4)), eye[None] + np.tril(rng.standard_normal((4, 4)))[None], np.zeros(1)
    before, after = (natural_gradient.Iterates.at(*here, h, a) for h, a in zip(mean_gradient, covariance_gradient))
    r = np.full(1, 1e-4)
    far = natural_gradient.divergence(*natural_gradient.proposed(before, r), before)
    assert far / r**2 == pytest.approx(before.decrement, rel=1e-3)
    longer, shorter = (
        natural_gradient.Iterates.at(
            *here, mean_gradient[0] + sign * mean_gradient[1], covariance_gradient[0] + sign * covariance_gradient[1]
        ).decrement
        for sign in (1, -1)
    )
    kept = (longer - shorter) / 4 / before.decrement  # of the gradient, after a step of 1: by polarisation
    expected = np.clip(1 / (1 - kept), 0.1, 10.0) if (kept < 0.9).all() else 10.0
    assert natural_gradient.next_length(before, after, np.ones(1)) == pytest.approx(expected, rel=1e-12)
