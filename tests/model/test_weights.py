"""Weights of rows and temperatures, `dist.weighted(w)`: what is fitted, predicted and judged."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist_there
import pytest
from numpyro.handlers import scale as scaled_there
from numpyro.infer.util import log_density
from scipy import stats

import vbppl as vb
import vbppl.distributions as dist

RNG = np.random.default_rng(0)
Y = RNG.normal(1.0, 1.0, 12)
W = RNG.integers(0, 4, 12).astype(float)


@vb.model
def weighted(w, y):
    mu = vb.sample("mu", dist.Normal(0.0, 1.0))
    with vb.plate("row", 12):
        vb.sample("y", dist.Normal(mu, 1.0).weighted(vb.subsample(w)), obs=vb.subsample(y))


@pytest.fixture(scope="module")
def posterior():
    return vb.fit(weighted(W, Y), "mean_field")


def test_rows_that_count_so_often_are_rows_that_stand_there_so_often(posterior):
    again = np.repeat(Y, W.astype(int))
    precision = 1.0 + len(again)
    assert posterior.report.verdict == "good"
    np.testing.assert_allclose(posterior.mean()["mu"], again.sum() / precision, atol=1e-4)
    np.testing.assert_allclose(posterior.sd()["mu"], precision**-0.5, rtol=1e-3)
    # log N(y | 0, I + 1 1') of the rows as often as they stand there: the evidence of counts is that of repeated rows.
    evidence = stats.multivariate_normal(np.zeros(len(again)), np.eye(len(again)) + 1.0).logpdf(again)
    assert posterior.elbo.value == pytest.approx(evidence, abs=5e-3)


def test_predictions_know_nothing_of_weights_and_likelihoods_count_them(posterior):
    new = posterior.predict(n=4000)["y"]
    sd = np.sqrt(1.0 + posterior.sd()["mu"] ** 2)
    assert np.abs(new.std(axis=0) / sd - 1.0).max() < 4 / np.sqrt(2 * 4000) + 0.01
    right = W * stats.norm.logpdf(Y, np.asarray(posterior.sample(50, seed=3)["mu"])[:, None])
    np.testing.assert_allclose(posterior.log_likelihood(50, seed=3)["y"], right, atol=1e-4)


def test_rows_that_are_shown_in_part_have_their_own_weights(x64):
    rows, z = np.array([1, 4, 7]), np.array([0.3])
    found = vb.target(weighted(W, Y)).log_density(z, {"row": rows})
    right = stats.norm.logpdf(0.3) + 12 / 3 * (W[rows] * stats.norm.logpdf(Y[rows], 0.3)).sum()
    np.testing.assert_allclose(found, right, rtol=1e-12)


def there(y):
    tau = numpyro.sample("tau", dist_there.HalfNormal(1.0))
    with numpyro.plate("row", 5):
        with scaled_there(scale=0.5):
            theta = numpyro.sample("theta", dist_there.Normal(1.0, tau))
        with scaled_there(scale=2.0):
            numpyro.sample("y", dist_there.Normal(theta, 1.0), obs=y)


@vb.model
def tempered(y):
    tau = vb.sample("tau", dist.HalfNormal(1.0))
    with vb.plate("row", 5):
        theta = vb.sample("theta", dist.Normal(1.0, tau).weighted(0.5))
        vb.sample("y", dist.Normal(theta, 1.0).weighted(2.0), obs=y)


@pytest.mark.slow
def test_the_density_is_that_of_numpyros_handler_in_all_coordinates(x64):
    values = {"tau": 0.7, "theta": RNG.normal(size=5)}
    right = log_density(there, (Y[:5],), {}, values)[0]
    model = tempered(Y[:5])
    np.testing.assert_allclose(model.log_joint(values), right, rtol=1e-12)
    for seen in (model, vb.decenter(model, "theta")):
        target = vb.target(seen)
        z = target.unconstrain(values)
        np.testing.assert_allclose(target.log_density(z) - target.log_det(values), right, rtol=1e-12)


def test_what_counts_nothing_may_be_missing():
    y = np.where(W == 0, np.nan, Y)
    target, whole = vb.target(weighted(W, y)), vb.target(weighted(W, Y))
    np.testing.assert_allclose(target.log_density(jnp.ones(1)), whole.log_density(jnp.ones(1)), rtol=1e-6)


def test_a_weight_below_zero_is_refused():
    with pytest.raises(vb.ModelError, match=r"^site 'y': 1 of 12 values of weight is .*the first, at \[3\]") as caught:
        vb.fit(weighted(np.where(np.arange(12) == 3, -1.0, W), Y))
    assert "To mend it" in str(caught.value)
