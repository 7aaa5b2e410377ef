"""L-BFGS against SciPy's, closed forms, and functions that are rounded, infinite or badly scaled."""

from __future__ import annotations

import types

import numpy as np
import pytest
from scipy import optimize

from vbppl.core.numerics.lbfgs import descend, minimise, unscaled


def search(function, x, preconditioner=None, rounding=1e-15, tolerance=1e-10, iterations=300, watch=None):
    """Minimise from one start, with an identity metric and no bound on the step."""
    for at in descend(
        in_batch(function),
        np.asarray(x, float)[None],
        lambda x, _: np.stack([preconditioner(row) for row in x]) if preconditioner else np.ones_like(x),
        lambda value: rounding * np.maximum(np.abs(value), 1.0),
        tolerance,
        iterations,
        lambda x, direction: np.full(len(x), np.inf),
    ):
        if watch and len(at.going):
            watch(only(at))
    return only(at)


def in_batch(function):
    """A function of one point as one of many."""

    def of_many(x, searches):
        values, gradients = zip(*(function(row) for row in x))
        return np.array(values), np.array(gradients)

    return of_many


def only(at):
    """The only search of a batch."""
    return types.SimpleNamespace(
        x=at.x[0],
        value=at.value[0],
        decrement=at.decrement[0],
        stuck=at.stuck[0],
        newton=lambda gradient, diagonal: at.newton(gradient[None], diagonal[None], np.zeros(1, int))[0],
    )


def quadratic(hessian, centre):
    def function(x):
        gradient = hessian @ (x - centre)
        return float((x - centre) @ gradient / 2), gradient

    return function


def rosenbrock(x):
    return float(optimize.rosen(x)), optimize.rosen_der(x)


def count(function):
    """The function, counting its calls in `calls`."""

    def counted(x):
        counted.calls += 1
        return function(x)

    counted.calls = 0
    return counted


@pytest.mark.parametrize("dim", [2, 10])
def test_rosenbrock_is_minimised_at_scipys_cost(dim):
    function, start = count(rosenbrock), np.tile([-1.2, 1.0], dim // 2)
    ours = search(function, start)
    theirs = optimize.minimize(optimize.rosen, start, jac=optimize.rosen_der, method="L-BFGS-B", tol=1e-12)
    np.testing.assert_allclose(ours.x, theirs.x, atol=1e-4)
    assert ours.decrement <= 1e-10 and not ours.stuck
    assert function.calls <= 2.5 * theirs.nfev


def test_scales_a_million_apart_cost_nothing_where_the_metric_knows_them():
    scales = np.logspace(-3, 3, 12)  # standard deviations: curvatures 1e12 apart
    function = count(quadratic(np.diag(scales**-2.0), centre=np.arange(12.0) * scales))
    at = search(function, np.zeros(12), preconditioner=lambda x: scales**2)
    np.testing.assert_allclose(at.x / scales, np.arange(12.0), atol=1e-4)
    assert function.calls <= 3


def test_an_ill_conditioned_quadratic_is_solved_where_the_metric_knows_only_its_diagonal():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    scales = np.logspace(-3, 3, 20)
    hessian = (rotation * np.logspace(0, 4, 20)) @ rotation.T / np.outer(scales, scales)
    centre = scales * rng.normal(size=20)
    at = search(
        quadratic(hessian, centre), np.zeros(20), preconditioner=lambda x: 1 / np.diag(hessian), iterations=1000
    )
    gap = quadratic(hessian, centre)(at.x)[0]
    assert gap < 1e-8  # of about 1e4 at the start
    assert not at.stuck


def test_the_decrement_is_newtons_on_a_quadratic_that_the_metric_inverts():
    sd, centre = np.array([0.1, 3.0, 50.0]), np.array([1.0, -2.0, 30.0])
    function, seen = quadratic(np.diag(sd**-2), centre), []
    search(function, np.zeros(3), preconditioner=lambda x: sd**2, watch=lambda at: seen.append(at.decrement))
    assert seen[0] == pytest.approx(function(np.zeros(3))[0])  # a Newton step gains all there is
    assert seen[-1] < 1e-10


def test_the_newton_step_is_the_inverse_hessian_times_the_gradient_once_the_curvature_is_known():
    rng = np.random.default_rng(1)
    root = rng.normal(size=(4, 4))
    hessian = root @ root.T + np.eye(4)
    at = search(quadratic(hessian, rng.normal(size=4)), np.zeros(4), tolerance=1e-16)
    gradient = rng.normal(size=4)
    step = at.newton(gradient, np.ones(4))
    np.testing.assert_allclose(step, -np.linalg.solve(hessian, gradient), rtol=0.2, atol=0.05)


def test_a_region_where_the_function_is_infinite_only_shortens_the_step():
    def barrier(x):  # minimum at 1, infinite from 0 down; the first unit step lands there
        if x[0] <= 0:
            return np.inf, np.array([np.nan])
        return float(x[0] - np.log(x[0])), 1 - 1 / x

    at = search(barrier, [1e-3 + 4.0], preconditioner=lambda x: np.full(1, 100.0))
    assert at.x[0] == pytest.approx(1.0, abs=1e-4)
    assert not at.stuck


@pytest.mark.parametrize("bad", [(np.nan, np.zeros(2)), (0.0, np.full(2, np.nan)), (-np.inf, np.zeros(2))])
def test_a_point_whose_value_or_gradient_is_not_finite_is_never_accepted(bad):
    def holed(x):
        value, gradient = rosenbrock(x)
        return bad if x[0] > 1.2 or x[0] < -1.3 else (value, gradient)

    at = search(holed, [-1.2, 1.0])
    np.testing.assert_allclose(at.x, 1.0, atol=1e-4)


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6])
def test_values_rounded_to_float32_do_not_keep_it_from_the_minimum(offset):
    """The additive constant eats up the digits of the value; the gradient keeps its own."""
    sd = np.array([0.01, 1.0, 100.0])
    centre = np.array([0.3, -5.0, 700.0])

    def rounded(x):
        value, gradient = quadratic(np.diag(sd**-2), centre)(x)
        return float(np.float32(value + offset)), gradient.astype(np.float32).astype(float)

    eps = float(np.finfo(np.float32).eps)
    at = search(rounded, np.zeros(3), rounding=16 * eps, tolerance=eps, preconditioner=lambda x: 4 * sd**2)
    assert np.abs((at.x - centre) / sd).max() < 1e-3
    assert not at.stuck


def test_noise_below_the_rounding_ends_the_search_at_the_noise():
    noise = np.random.default_rng(0)
    clean = quadratic(np.eye(3), np.ones(3))

    def noisy(x):
        value, gradient = clean(x)
        return value + 1e-6 * noise.normal(), gradient + 1e-5 * noise.normal(size=3)

    at = search(noisy, np.full(3, 10.0), rounding=1e-5, tolerance=1e-14)
    assert clean(at.x)[0] < 1e-5


def test_a_constant_function_is_at_its_minimum_at_once():
    at = search(lambda x: (7.0, np.zeros(3)), np.ones(3))
    assert (at.decrement, at.stuck) == (0.0, False)
    np.testing.assert_array_equal(at.x, 1.0)


def test_a_gradient_that_lies_is_reported_as_stuck():
    at = search(lambda x: (float(x @ x), -2 * x), np.ones(2))
    assert at.stuck
    np.testing.assert_array_equal(at.x, 1.0)


def test_a_start_that_is_not_finite_is_reported_as_stuck():
    at = search(lambda x: (np.nan, np.full(2, np.nan)), np.ones(2))
    assert at.stuck


def test_too_few_iterations_are_told_by_the_decrement():
    at = search(rosenbrock, [-1.2, 1.0], iterations=5)
    assert at.decrement > 1e-10 and not at.stuck


def test_no_step_is_longer_than_allowed():
    visited = []

    def function(x):
        visited.append(x.copy())
        return quadratic(np.eye(1), np.array([100.0]))(x)

    minimise(
        in_batch(function),
        np.zeros((1, 1)),
        unscaled,
        lambda value: np.full(len(value), 1e-15),
        1e-10,
        300,
        lambda x, direction: 2 / np.abs(direction[:, 0]),
    )
    assert np.abs(np.diff(np.concatenate(visited))).max() <= 2 + 1e-9
    assert visited[-1] == pytest.approx(100.0, abs=1e-4)


def test_without_coordinates_there_is_nothing_to_do():
    assert search(lambda x: (1.0, np.zeros(0)), np.zeros(0)).decrement == 0.0


def test_a_step_leaves_the_state_before_it_alone():
    states = list(
        descend(
            in_batch(rosenbrock),
            np.array([[-1.2, 1.0], [1.0, 1.0]]),
            unscaled,
            lambda value: 1e-15 * np.maximum(np.abs(value), 1.0),
            1e-10,
            300,
            lambda x, direction: np.full(len(x), np.inf),
        )
    )
    values = [float(at.value[0]) for at in states]
    assert values == sorted(values, reverse=True) and values[0] == rosenbrock(np.array([-1.2, 1.0]))[0]
    assert states[0].x[0].tolist() == [-1.2, 1.0] and not states[0].steps.any()
    assert [len(at.going) for at in states[:3]] == [2, 1, 1] and len(states[-1].going) == 0
