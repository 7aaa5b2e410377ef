"""Several modes become a mixture, whose weights, moments and evidence are those of the target."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import vbppl as vb
import vbppl.distributions as dist

pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")


@vb.model
def two_modes():
    """0.3 N(-6, 1) + 0.7 N(6, 1/2), and a second coordinate that leans on the first."""
    parts = dist.Normal(jnp.array([-6.0, 6.0]), jnp.array([1.0, 0.5]))
    x = vb.sample("x", dist.MixtureSameFamily(dist.Categorical(jnp.array([0.3, 0.7])), parts))
    vb.sample("y", dist.Normal(0.5 * x, 1.0))


@pytest.fixture(scope="module")
def posterior():
    return vb.fit(two_modes())


def test_both_modes_are_held_with_their_weights(posterior):
    assert type(posterior.guide).__name__ == "Mixture"
    weights = sorted(np.exp(posterior.phi["log_weights"]))
    assert weights == pytest.approx([0.3, 0.7], abs=0.01)
    assert posterior.elbo.value == pytest.approx(0.0, abs=0.01)  # the evidence is one
    assert posterior.check().log_evidence == pytest.approx(0.0, abs=0.01)


def test_it_is_never_called_good_because_restarts_cannot_see_every_mode(posterior):
    card = posterior.check()
    assert card.verdict == "corrected"
    assert "there are several modes" in card.reasons[0]
    assert any(str(note).startswith("guide: a mixture of 2 normals, weights 0.") for note in card.notes)


def test_moments_are_those_of_the_target(posterior):
    """Four standard errors of 4,096 draws; mean 0.3 (-6) + 0.7 6, variance 0.3 + 0.7/4 + 0.21 144."""
    mean, variance = 2.4, 0.3 + 0.7 * 0.25 + 0.3 * 0.7 * 144
    assert posterior.mean()["x"] == pytest.approx(mean, abs=4 * np.sqrt(variance / 4096))
    assert posterior.sd()["x"] == pytest.approx(np.sqrt(variance), rel=0.03)
    assert posterior.covariance("x", "y")[0, 1] == pytest.approx(variance / 2, rel=0.06)


def test_the_density_is_scipys(posterior):
    values = {"x": np.array([-6.5, 0.0, 6.2]), "y": np.array([-3.0, 0.0, 2.0])}
    x, y = values["x"], values["y"]
    expected = np.log(0.3 * stats.norm.pdf(x, -6, 1) + 0.7 * stats.norm.pdf(x, 6, 0.5))
    expected += stats.norm.logpdf(y, 0.5 * x, 1.0)
    got = np.asarray(posterior.log_prob(values))
    np.testing.assert_allclose(got[[0, 2]], expected[[0, 2]], atol=0.02)
    assert got[1] < -15  # between the modes there is next to nothing, and float32 of it


def test_draws_come_from_both_modes_and_repeat_with_the_seed(posterior):
    draws = np.asarray(posterior.sample(2000, seed=3)["x"])
    assert np.mean(draws < 0) == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 2000))
    np.testing.assert_array_equal(draws, posterior.sample(2000, seed=3)["x"])
    assert np.asarray(posterior.resample(500)["x"]).shape == (500,)
