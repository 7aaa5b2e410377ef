"""Laplace is the mode and the inverse Hessian there; Pathfinder keeps the best Gaussian on the way."""

from __future__ import annotations

import time
import warnings

import cases
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import vbppl as vb
import vbppl.distributions as dist
from vbppl.inference.deterministic import mode_based


def test_laplace_is_the_exact_posterior_of_a_gaussian_model():
    x, y = cases.quadratic_data()
    posterior = vb.fit(cases.linear_regression(x, y), vb.Laplace())
    exact = np.linalg.inv(x.T @ x / 0.25 + np.eye(3))
    assert np.allclose(posterior.covariance("beta"), exact, rtol=1e-4, atol=1e-6)
    assert posterior.elbo.value == pytest.approx(-13.129251, abs=1e-3)


def test_laplace_agrees_with_scipys_mode_and_a_numerical_hessian(x64):
    x, y = cases.logistic_data()
    sign = 2 * y - 1.0

    def negated(beta):
        return np.logaddexp(0, -sign * (x @ beta)).sum() + beta @ beta / 2

    mode = minimize(negated, np.zeros(3), tol=1e-12).x
    step = 1e-4 * np.eye(3)
    hessian = [
        [
            (negated(mode + a + b) - negated(mode + a - b) - negated(mode - a + b) + negated(mode - a - b)) / 4e-8
            for b in step
        ]
        for a in step
    ]
    posterior = vb.fit(cases.logistic_regression(x, y), vb.Laplace())
    assert np.allclose(posterior.mean()["beta"], mode, atol=1e-6)
    assert np.allclose(posterior.covariance("beta"), np.linalg.inv(hessian), rtol=1e-4)


def test_the_first_hessian_counts_as_compiling(monkeypatch):
    hessian = mode_based._hessian

    def slow(*args):
        time.sleep(0.5)
        return hessian(*args)

    monkeypatch.setattr(mode_based, "_hessian", slow)
    model = vb.model(lambda: vb.sample("x", dist.Normal(0.0, 1.0)))()
    first, second = (vb.fit(model, vb.Laplace()).status for _ in range(2))
    assert first.compiling > 0.5 and second.compiling == 0.0


def test_laplace_refuses_a_mode_at_infinity():
    model = cases.eight_schools(cases.SCHOOLS_SIGMA, cases.SCHOOLS_Y)
    with pytest.raises(vb.ModelError, match="needs a strict maximum"):
        vb.fit(model, vb.Laplace())


@pytest.mark.slow
def test_pathfinder_beats_laplace_where_the_mode_is_far_from_the_mass():
    model = vb.decenter(cases.eight_schools(cases.SCHOOLS_SIGMA, cases.SCHOOLS_Y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", vb.VbpplWarning)
        laplace, pathfinder = vb.fit(model, vb.Laplace()), vb.fit(model, vb.Pathfinder())
    assert pathfinder.elbo.value > laplace.elbo.value + 1
    assert pathfinder.check().verdict == laplace.check().verdict == "poor"


def test_pathfinder_is_close_on_a_gaussian_model():
    x, y = cases.quadratic_data()
    assert vb.fit(cases.linear_regression(x, y), vb.Pathfinder()).elbo.value == pytest.approx(-13.129251, abs=0.05)


def test_neither_is_fitted_by_stochastic_steps():
    model = cases.far_datum(np.array(10.0))
    for guide in (vb.Laplace(), vb.Pathfinder()):
        with pytest.raises(vb.ModelError, match="cannot fit by stochastic steps"):
            vb.fit(model, guide, method=vb.Stochastic())


def test_neither_can_learn_params():
    @vb.model
    def scaled(y):
        scale = vb.param("scale", 1.0, dist.constraints.positive)
        x = vb.sample("x", dist.Normal(0.0, 1.0))
        vb.sample("y", dist.Normal(x, scale), obs=y)

    with pytest.raises(vb.ModelError, match="cannot fit learnt params"):
        vb.fit(scaled(jnp.ones(())), vb.Laplace())


def test_the_density_is_seen_through_one_compiled_evaluation(compilations):
    x, y = cases.quadratic_data()
    model = cases.linear_regression(x, y)
    vb.fit(model, vb.Pathfinder())
    before = compilations()
    vb.fit(cases.linear_regression(x, y + 1), vb.Pathfinder(), seed=1)
    assert compilations() == before
