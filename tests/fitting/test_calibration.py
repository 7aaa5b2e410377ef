"""Calibration passes a model that fits its own data, and catches one that does not, and says what is wrong."""

from __future__ import annotations

import cases
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.fitting.calibration import Calibration

LINEAR = cases.linear_regression(*cases.quadratic_data())


@vb.model
def normal(y, loc=0.0, sd=1.0, noise=1.0):
    x = vb.sample("x", dist.Normal(loc, sd))
    vb.sample("y", dist.Normal(x, noise), obs=y)


@pytest.mark.slow
def test_a_right_model_passes_at_the_level_it_claims():
    """Correlated coefficients, full rank, which is exact here; 3 scalars at 1% together, from 3 seeds."""
    passed = [vb.calibrate(LINEAR, n=300, seed=seed).passed for seed in range(3)]
    assert passed == [True] * 3  # by chance False once in 33 times; the seeds are fixed


def test_mean_field_on_correlated_coefficients_is_caught():
    found = vb.calibrate(LINEAR, n=300, guide="mean_field")
    assert not found.passed
    assert "sds too small" in str(found)


@pytest.mark.parametrize(
    ("fitted", "says"),
    [
        ({"loc": 1.0}, "means too high"),
        pytest.param({"loc": -1.0}, "means too low", marks=pytest.mark.slow),
        pytest.param({"noise": 0.5}, "sds too small", marks=pytest.mark.slow),
    ],
)
def test_a_wrong_model_is_caught_and_told(fitted, says):
    found = vb.calibrate(normal(0.0), n=500, fitted=normal(0.0, **fitted))
    assert not found.passed
    assert says in str(found)


def test_sds_that_are_too_large_are_told():
    found = vb.calibrate(LINEAR, n=300, fitted=cases.linear_regression(*cases.quadratic_data(), noise=1.0))
    assert not found.passed
    assert "sds too large" in str(found)


def test_ranks_count_the_draws_below_the_truth():
    """One observation: the truth's place in the exact posterior N(y/2, 1/2) is what the rank estimates."""
    found = vb.calibrate(normal(0.0), n=200, draws=511)
    truth = normal(0.0).sample(200)
    exact = stats.norm.cdf(truth["x"], np.asarray(truth["y"]) / 2, 0.5**0.5)
    # A rank of 511 draws is binomial about 511 u: four standard errors of the worst of 200 is five of one.
    np.testing.assert_allclose(found.ranks[:, 0] / 511, exact, atol=5 * 0.5 / np.sqrt(511))


def test_p_values_of_uniform_ranks_are_uniform():
    ranks = np.random.default_rng(0).integers(0, 128, size=(1000, 2000))
    p_values = Calibration(("x",) * 2000, ranks, 127, 0).p_values
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3


def test_the_first_components_are_standard_normal_for_uniform_ranks():
    ranks = np.random.default_rng(1).integers(0, 128, size=(1000, 2000))
    components = Calibration(("x",) * 2000, ranks, 127, 0).components
    np.testing.assert_allclose(components.mean(axis=0), 0.0, atol=4 / np.sqrt(2000))
    np.testing.assert_allclose(components.std(axis=0), 1.0, atol=4 / np.sqrt(4000))


def test_a_picture_has_a_panel_for_each_scalar(tmp_path):
    found = vb.calibrate(LINEAR, n=50)
    figure = vb.plot.calibration(found)
    figure.savefig(tmp_path / "ranks.png")
    assert [axis.get_title() for axis in figure.axes] == ["beta[0]", "beta[1]", "beta[2]"]
    assert (tmp_path / "ranks.png").stat().st_size > 1000


def test_a_model_that_observes_nothing_is_refused():
    @vb.model
    def silent():
        vb.sample("x", dist.Normal(jnp.zeros(2), 1.0).to_event(1))

    with pytest.raises(vb.ModelError, match="observes nothing"):
        vb.calibrate(silent(), n=10)


@pytest.mark.slow
def test_a_thousand_fits_of_a_skewed_model_are_calibrated():
    """A Poisson regression: full rank is off by less than 1% of an sd, and the test sees about 4%."""
    model = cases.poisson_regression(np.linspace(-1, 1, 40), cases.COUNTS)
    assert vb.calibrate(model).passed


def test_fits_that_do_not_converge_are_not_passed():
    ranks = np.random.default_rng(0).integers(0, 128, size=(100, 2))
    assert Calibration(("a", "b"), ranks, 127, unconverged=5).passed
    found = Calibration(("a", "b"), ranks, 127, unconverged=6)
    assert not found.passed and "6 fits did not converge" in str(found)
