"""Linear response gives the standard deviations that mean field cannot have, or says why not."""

from __future__ import annotations

import warnings

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vbppl as vb
import vbppl.distributions as dist
from vbppl.posterior.response import linear_response as room


def mean_field(model):
    """A mean-field fit whose verdict is not the point here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", vb.VbpplWarning)
        return vb.fit(model, "mean_field")


def test_the_covariance_of_a_gaussian_posterior_is_exact():
    x, y = cases.quadratic_data()
    response = mean_field(cases.linear_regression(x, y)).linear_response("beta")
    exact = np.linalg.inv(x.T @ x / 0.25 + np.eye(3))
    assert np.allclose(response.covariance, exact, rtol=1e-3, atol=1e-5)
    assert response.names == ("beta[0]", "beta[1]", "beta[2]")


def test_conjugate_gradients_agree_with_the_factored_hessian(monkeypatch):
    x, y = cases.quadratic_data()
    posterior = mean_field(cases.linear_regression(x, y))
    monkeypatch.setattr(room, "DENSE_DIM", 1)
    exact = np.linalg.inv(x.T @ x / 0.25 + np.eye(3))
    assert np.allclose(posterior.linear_response("beta").covariance, exact, rtol=2e-3, atol=1e-5)


def skewed(z):
    return jnp.sum(0.3 * z - jnp.exp(z)) - (z[0] - z[1]) ** 2 - jnp.cos(z[1] * z[2])


@pytest.mark.parametrize(("narrower", "off"), [(0.0, 0.02), (1.5, 1e-5)])
def test_differences_of_gradients_give_the_second_derivatives(narrower, off):
    """To the fourth order in half a standard deviation, here of up to 1.9, and of .4."""
    rng = np.random.default_rng(0)
    eta, noise = (rng.standard_normal(shape).astype(np.float32) for shape in (6, (64, 3)))
    eta[3:] -= narrower

    @jax.jit
    @jax.hessian
    def exact(eta):
        loc, log_sd = jnp.split(eta, 2)
        return -jnp.mean(jax.vmap(skewed)(loc + jnp.exp(log_sd) * noise)) - jnp.sum(log_sd)

    units = np.concatenate([np.exp(eta[3:]), np.full(3, 0.5**0.5)])
    hessian, found = exact(eta) * units[:, None] * units, room._by_differences(vb.density(skewed, 3), eta, noise)
    np.testing.assert_allclose(found, hessian, atol=off * np.abs(hessian).max())


@pytest.mark.parametrize(("correlation", "in_doubt"), [(0.9, 0), (0.99999, 1)])
def test_second_derivatives_are_compiled_only_where_differences_leave_a_doubt(correlation, in_doubt, monkeypatch):
    asked, hessian = [], room._hessian
    monkeypatch.setattr(room, "_hessian", lambda *args: asked.append(args) or hessian(*args))

    @vb.model
    def pair():
        vb.sample("z", dist.MultivariateNormal(jnp.zeros(2), jnp.array([[1.0, correlation], [correlation, 1.0]])))

    response = mean_field(pair()).linear_response()
    assert len(asked) == in_doubt
    assert response.sd == pytest.approx([1.0, 1.0], rel=1e-4 if not in_doubt else 0.02)


def test_a_bounded_quantity_is_measured_on_its_support():
    # The exact posterior is Beta(9, 3): sd 0.12010; the delta method would be off by several per cent.
    response = mean_field(cases.beta_bernoulli(cases.FLIPS)).linear_response("p")
    assert response.sd == pytest.approx([0.12010], rel=0.01)


def test_deterministic_sites_have_covariances_too():
    @vb.model
    def pair():
        z = vb.sample("z", dist.MultivariateNormal(jnp.zeros(2), jnp.array([[1.0, 0.9], [0.9, 1.0]])))
        vb.deterministic("difference", z[0] - z[1])

    # Var(z0 - z1) = 2 (1 - 0.9)
    assert mean_field(pair()).linear_response("difference").sd == pytest.approx([0.2**0.5], rel=1e-3)


def test_where_the_bound_has_no_strict_maximum_there_is_no_answer():
    @vb.model
    def flat_direction(y):
        a = vb.sample("a", dist.ImproperUniform(dist.constraints.real, (), ()))
        b = vb.sample("b", dist.ImproperUniform(dist.constraints.real, (), ()))
        vb.sample("y", dist.Normal(a + b, 1.0), obs=y)

    response = mean_field(flat_direction(np.array(1.0))).linear_response()
    assert not response.available
    assert "not positive definite" in str(response)
    with pytest.raises(ValueError, match="not positive definite"):
        _ = response.sd


def test_slopes_are_found_some_scalars_at_a_time(monkeypatch):
    x, y = cases.quadratic_data()
    posterior = mean_field(cases.linear_regression(x, y, 1.5))
    whole = posterior.linear_response().covariance
    monkeypatch.setattr(room, "AT_ONCE", 2)
    monkeypatch.setattr(room._mean_slopes, "_compiled", {})  # the number is a part of the program
    np.testing.assert_allclose(posterior.linear_response().covariance, whole, rtol=1e-5)


def test_more_scalars_than_fit_in_memory_are_refused_with_the_mend(monkeypatch):
    monkeypatch.setattr(room, "MOST_NUMBERS", 17)
    posterior = mean_field(cases.linear_regression(*cases.quadratic_data()))
    with pytest.raises(vb.ModelError, match="the covariances of 3 scalars in 3 dims do not fit in memory"):
        posterior.linear_response()


def test_it_is_a_table():
    response = mean_field(cases.correlated_pair()).linear_response()
    assert str(response).splitlines() == ["         sd", "z[0]  1.000", "z[1]  1.000"]
    assert "<td>1.000</td>" in response._repr_html_()


def test_it_corrects_mean_field_guides_only():
    with pytest.raises(TypeError, match="corrects a mean-field guide, not FullRank"):
        vb.fit(cases.correlated_pair(), "full_rank").linear_response()
