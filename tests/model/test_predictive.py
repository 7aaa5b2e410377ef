"""Running a model forward at the draws of a posterior."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats as st

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.errors import ModelError, VbpplWarning
from vbppl.core.keys import raw_key
from vbppl.model.predictive import log_likelihood, predict

X = np.array([0.0, 1.0, 2.0])
Y = np.array([0.5, 1.0, 4.0])


@vb.model
def line(x, y=None):
    slope = vb.sample("slope", dist.Normal(0.0, 1.0))
    sd = vb.param("sd", 1.0)
    with vb.plate("row", len(x)):
        mean = vb.deterministic("mean", slope * x)
        vb.sample("y", dist.Normal(mean, sd), obs=y)


@vb.model
def groups(n, y=None):
    mu = vb.sample("mu", dist.Normal(0.0, 1.0))
    with vb.plate("group", n):
        theta = vb.sample("theta", dist.Normal(mu, 0.01))
        vb.sample("y", dist.Normal(theta, 0.01), obs=y)


DRAWS = {"slope": np.linspace(-2.0, 2.0, 200)}
PARAMS = {"sd": np.array(0.001)}


def test_predictions_follow_each_draw_and_the_learnt_params():
    new = predict(line(X, y=Y), DRAWS, PARAMS, raw_key(0))
    assert set(new) == {"mean", "y"}
    np.testing.assert_allclose(new["mean"], DRAWS["slope"][:, None] * X, rtol=1e-5)
    assert np.all(np.abs(new["y"] - new["mean"]) < 6 * 0.001)
    assert not np.any(np.diff(new["y"] - new["mean"], axis=0) == 0)


def test_new_data_may_have_another_number_of_rows():
    new = predict(line(np.arange(7.0)), DRAWS, PARAMS, raw_key(0))
    assert new["y"].shape == (200, 7)


def test_do_holds_in_predictions():
    new = predict(line(X).do(y=Y), DRAWS, PARAMS, raw_key(0))
    np.testing.assert_allclose(new["y"], np.broadcast_to(Y, (200, 3)), rtol=1e-6)


def test_new_groups_are_drawn_from_their_prior_and_it_is_said():
    draws = {"mu": np.full(50, 3.0), "theta": np.zeros((50, 2))}
    with pytest.warns(VbpplWarning, match=r"site 'theta' has shape \(2,\) in the posterior and \(4,\) here"):
        new = predict(groups(4), draws, {}, raw_key(1))
    assert new["theta"].shape == new["y"].shape == (50, 4)
    assert np.all(np.abs(new["theta"] - 3.0) < 0.1)
    assert np.all(np.abs(predict(groups(2), draws, {}, raw_key(1))["y"]) < 0.1)


@pytest.mark.filterwarnings("ignore::vbppl.core.errors.VbpplWarning")
def test_predictions_need_no_latent_site_that_is_kept():
    @vb.model
    def rows(n, y=None):
        with vb.plate("row", n):
            theta = vb.sample("theta", dist.Normal(0.0, 1.0))
            vb.sample("y", dist.Normal(theta, vb.param("sd", 1.0)), obs=y)

    assert predict(rows(4), {"theta": np.zeros((50, 2))}, {}, raw_key(1))["y"].shape == (50, 4)

    @vb.model
    def only_params(y):
        vb.sample("y", dist.Normal(vb.param("mu", 0.0), 1.0), obs=y)

    new = predict(only_params(np.array(3.0)), {}, {"mu": np.array(50.0)}, raw_key(1), n=20)["y"]
    assert new.shape == (20,) and np.all(new > 40) and len(np.unique(new)) == 20
    found = log_likelihood(only_params(np.array(3.0)), {}, {"mu": np.array(2.0)})["y"]
    np.testing.assert_allclose(found, [st.norm.logpdf(1.0)], rtol=1e-6)


def test_another_model_is_refused():
    with pytest.raises(ModelError, match="has none of the posterior's sites"):
        predict(groups(2), DRAWS, {}, raw_key(0))
    with pytest.raises(ModelError, match="^site 'mu': the posterior's values have shape"):
        predict(groups(2), {"mu": np.zeros((5, 3)), "theta": np.zeros((5, 2))}, {}, raw_key(0))


def test_the_log_likelihood_is_that_of_each_observation(x64):
    found = log_likelihood(line(X, y=Y), DRAWS, {"sd": np.array(2.0)})
    expected = st.norm.logpdf(Y, DRAWS["slope"][:, None] * X, 2.0)
    np.testing.assert_allclose(found["y"], expected, rtol=1e-12)


def test_masked_observations_and_whole_vectors_are_rows_too(x64):
    @vb.model
    def model(y):
        x = vb.sample("x", dist.Normal(0.0, 1.0))
        with vb.plate("row", 3):
            vb.sample("y", dist.Normal(x, 1.0).mask(np.array([True, False, True])), obs=y)
            vb.sample("v", dist.Normal(x, np.ones(2)).to_event(1), obs=np.ones((3, 2)))

    found = log_likelihood(model(Y), {"x": np.zeros(2)}, {})
    np.testing.assert_allclose(found["y"], [st.norm.logpdf(Y) * [1, 0, 1]] * 2, rtol=1e-12)
    np.testing.assert_allclose(found["v"], np.full((2, 3), 2 * st.norm.logpdf(1.0)), rtol=1e-12)


def test_draws_of_unequal_numbers_are_refused_by_name():
    posterior = vb.fit(groups(2, np.zeros(2)))
    with pytest.raises(ValueError, match="as many of each site, not 20 of mu, 3 of theta"):
        posterior.predict(draws={"mu": np.zeros(20), "theta": np.zeros((3, 2))})
