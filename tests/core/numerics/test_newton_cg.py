"""Newton's method against closed forms and SciPy, on ground where L-BFGS gives up."""

from __future__ import annotations

import cases
import numpy as np
import pytest
from scipy import optimize

import vbppl as vb
from vbppl.core.numerics import newton_cg
from vbppl.core.numerics.draws import FixedDraws
from vbppl.inference.deterministic import mean_field
from vbppl.target.batched import Batch, BatchedDensity


def search(function, hessian, x, tolerance=1e-12):
    return newton_cg.minimise(
        function, lambda x, v: hessian(x) @ v, np.asarray(x, float), np.ones_like, lambda value: 1e-15, tolerance
    )


def test_a_quadratic_of_any_condition_is_minimised_to_rounding():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    hessian = (rotation * np.logspace(0, 5, 12)) @ rotation.T
    centre = rng.normal(size=12)

    def quadratic(x):
        gradient = hessian @ (x - centre)
        return float((x - centre) @ gradient / 2), gradient

    found = search(quadratic, lambda x: hessian, np.zeros(12))
    assert found.reason == "converged"
    np.testing.assert_allclose(found.x, centre, atol=1e-5)


@pytest.mark.parametrize("dim", [2, 6])
def test_rosenbrock_is_minimised_where_scipy_says(dim):
    found = search(lambda x: (float(optimize.rosen(x)), optimize.rosen_der(x)), optimize.rosen_hess, np.full(dim, -1.0))
    theirs = optimize.minimize(
        optimize.rosen,
        np.full(dim, -1.0),
        jac=optimize.rosen_der,
        hess=optimize.rosen_hess,
        method="trust-ncg",
        options={"gtol": 1e-9},
    )
    assert found.reason == "converged"
    np.testing.assert_allclose(found.x, theirs.x, atol=1e-4)


def test_negative_curvature_is_left_behind():
    """From beside the saddle of `x^4 / 4 - x^2 / 2 + y^2 / 2` to a minimum at `x = 1` or `-1`."""
    found = search(
        lambda x: (float(x[0] ** 4 / 4 - x[0] ** 2 / 2 + x[1] ** 2 / 2), np.array([x[0] ** 3 - x[0], x[1]])),
        lambda x: np.diag([3 * x[0] ** 2 - 1, 1.0]),
        [1e-3, 2.0],
    )
    assert found.reason == "converged"
    np.testing.assert_allclose(np.abs(found.x), [1.0, 0.0], atol=1e-5)


def test_a_value_that_is_infinite_only_shortens_the_step():
    def barrier(x):  # minimum at 1, infinite from 0 down
        return (np.inf, np.array([np.nan])) if x[0] <= 0 else (float(x[0] - np.log(x[0])), 1 - 1 / x)

    found = search(barrier, lambda x: np.array([[1 / x[0] ** 2]]), [3.0])
    assert found.reason == "converged" and found.x[0] == pytest.approx(1.0, abs=1e-5)


def test_a_start_that_is_not_finite_is_stuck():
    assert search(lambda x: (np.nan, np.full(2, np.nan)), lambda x: np.eye(2), np.zeros(2)).reason == "stuck"


def test_the_mean_field_optimum_is_reached_by_newton_alone(x64):
    """Case 7 of the known answers, from a start far away, without any step of L-BFGS."""
    target = vb.target(cases.logistic_regression(*cases.logistic_data()))
    searches, search = Batch(BatchedDensity([target]), np.zeros(1, int), np.zeros((1, 0))), np.zeros(1, int)
    noise = FixedDraws("auto", 3, [np.zeros(2, np.uint32)])(search, 256)
    *way, found = mean_field.newton(searches, target, np.array([0.0, 0, 0, -2, -2, -2]), noise, search, 1e-10)
    assert {step.reason for step in way} == {""}  # places before each step at which a deadline can end it
    assert found.reason == "converged"
    np.testing.assert_allclose(found.x[:3], [0.91710, 1.79013, 2.12508], atol=0.005)
    np.testing.assert_allclose(np.exp(found.x[3:]), [0.21006, 0.22795, 0.27451], rtol=0.01)


def test_a_fit_goes_on_by_newton_where_lbfgs_runs_out_of_steps(x64, monkeypatch):
    model = cases.linear_regression(*cases.quadratic_data())
    plain = vb.fit(model, "mean_field", start={"beta": np.zeros(3)})
    monkeypatch.setattr(mean_field, "STEPS", 3)
    short = vb.fit(model, "mean_field", start={"beta": np.zeros(3)})
    assert short.status.converged
    np.testing.assert_allclose(short.phi, plain.phi, atol=1e-4)


def test_rounding_is_claimed_only_where_little_is_left():
    """A slope of one whose values are lost in the rounding of a hundred thousand: not a minimum."""

    def slope(x):
        return 1e5 + float(np.abs(x[0])), np.array([-1.0])

    found = newton_cg.minimise(slope, lambda x, v: v, np.zeros(1), np.ones_like, lambda value: 0.1, 1e-10)
    assert found.reason not in ("converged", "rounding")
