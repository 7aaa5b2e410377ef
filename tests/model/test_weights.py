"""Weights of rows and temperatures, `dist.weighted(w)`: what is fitted, predicted and judged."""

from __future__ import annotations

import jax
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


@vb.model
def in_part(y, w, known):
    mu = vb.sample("mu", dist.Normal(0.0, 1.0))
    with vb.plate("row", 12):
        vb.sample("y", dist.Normal(mu, 1.0).weighted(w), obs=y, obs_mask=known)


def test_a_missing_outcome_adds_nothing_and_has_its_own_distribution(x64):
    known, at = W < 3, (W == 3).sum()  # those with the largest weight are missing, some have none at all
    values = {"mu": 0.3, "y_unobserved": RNG.normal(size=at)}
    y, w = np.where(known, Y, np.nan), np.where(known, W, np.nan)
    right = stats.norm.logpdf(0.3) + (W * stats.norm.logpdf(Y, 0.3))[known].sum()
    right += stats.norm.logpdf(values["y_unobserved"], 0.3).sum()
    np.testing.assert_allclose(in_part(y, W, known).log_joint(values), right, rtol=1e-12)
    target = vb.target(in_part(y, w, known))  # nobody looks at a weight of what is missing
    value, slope = jax.value_and_grad(target.log_density)(target.unconstrain(values))
    np.testing.assert_allclose(value, right, rtol=1e-12)
    right = -0.3 + (W * (Y - 0.3))[known].sum() + (values["y_unobserved"] - 0.3).sum()
    np.testing.assert_allclose(slope[0], right, rtol=1e-9)


@pytest.mark.slow
def test_a_fit_with_missing_outcomes_is_that_of_the_rows_that_are_there():
    known = W < 3
    posterior = vb.fit(in_part(np.where(known, Y, np.nan), W, known), "full_rank")
    precision = 1.0 + W[known].sum()
    np.testing.assert_allclose(posterior.mean()["mu"], (W * Y)[known].sum() / precision, atol=1e-3)
    np.testing.assert_allclose(posterior.sd()["mu"], precision**-0.5, rtol=1e-2)
    # A missing outcome is N(mu, 1) whatever its weight.
    sd = np.sqrt(1.0 + 1.0 / precision)
    np.testing.assert_allclose(posterior.sd()["y_unobserved"], sd, rtol=1e-2)


def test_a_weight_that_is_masked_may_be_anything(x64):
    known = np.arange(12) != 4

    @vb.model
    def masked(w):
        mu = vb.sample("mu", dist.Normal(0.0, 1.0))
        with vb.plate("row", 12):
            vb.sample("y", dist.Normal(mu, 1.0).weighted(w).mask(known), obs=Y)

    target = vb.target(masked(np.where(known, W, np.nan)))
    value, slope = jax.value_and_grad(target.log_density)(jnp.full(1, 0.3))
    right = stats.norm.logpdf(0.3) + (W * stats.norm.logpdf(Y, 0.3))[known].sum()
    np.testing.assert_allclose(value, right, rtol=1e-12)
    np.testing.assert_allclose(slope[0], -0.3 + (W * (Y - 0.3))[known].sum(), rtol=1e-12)


def test_a_list_of_weights_and_a_guest_have_them_too():
    found = dist.Normal(0.0, 1.0).weighted([1.0, 2.0]).log_prob(0.5)
    np.testing.assert_allclose(found, np.array([1.0, 2.0]) * stats.norm.logpdf(0.5), rtol=1e-6)
    guest = vb.foreign(dist_there.Levy(0.0, 1.0), support=dist.constraints.positive).weighted(2.0)
    np.testing.assert_allclose(guest.log_prob(0.5), 2.0 * stats.levy.logpdf(0.5), rtol=1e-5)


@pytest.mark.slow
def test_weights_are_told_of_where_ranks_are_counted():
    """A weight of 9 makes the posterior too narrow for data that are drawn once."""

    @vb.model
    def line(w, y=None):
        mu = vb.sample("mu", dist.Normal(0.0, 1.0))
        vb.sample("y", dist.Normal(mu, 1.0).weighted(w), obs=y)

    found = vb.calibrate(line(9.0, y=0.0), n=200)
    assert found.weighted == ("y",) and "sds too small" in str(found)
    assert "the weights of 'y' count in fits, not in the data drawn" in str(found)


def test_a_weight_below_zero_is_refused():
    with pytest.raises(vb.ModelError, match=r"^site 'y': 1 of 12 values of weight is .*the first, at \[3\]") as caught:
        vb.fit(weighted(np.where(np.arange(12) == 3, -1.0, W), Y))
    assert "To mend it" in str(caught.value)


def test_a_weight_below_zero_inside_of_an_event_is_refused():
    @vb.model
    def event(w):
        mu = vb.sample("mu", dist.Normal(0.0, 1.0))
        vb.sample("y", dist.Normal(mu, 1.0).expand((3,)).weighted(w).to_event(1), obs=np.ones(3))

    with pytest.raises(vb.ModelError, match=r"^site 'y': 1 of 3 values of weight is .*the first, at \[1\], is -1"):
        vb.fit(event(np.array([1.0, -1.0, 2.0])))
