"""A posterior answers in numbers that closed forms, SciPy and a Gaussian's own algebra confirm."""

from __future__ import annotations

import functools
import warnings

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import vbppl as vb
import vbppl.distributions as dist

pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")


@vb.model
def worked(x, y=None):
    """A regression with a deterministic site, a positive site, and a plate of its own."""
    slope = vb.sample("slope", dist.Normal(0.0, 1.0))
    noise = vb.sample("noise", dist.HalfNormal(1.0))
    vb.deterministic("doubled", 2 * slope)
    with vb.plate("row", len(x)):
        vb.sample("y", dist.Normal(slope * x, noise), obs=y)


@vb.model
def grouped(group, count, y=None):
    mu = vb.sample("mu", dist.Normal(0.0, 1.0))
    with vb.plate("group", count):
        level = vb.sample("level", dist.Normal(mu, 0.5))
    with vb.plate("row", len(group)):
        vb.sample("y", dist.Normal(level[group], 0.3), obs=y)


X = np.linspace(-1, 1, 30)
Y = 0.7 * X + 0.2 * np.sin(9.0 * np.arange(30))
EXACT = np.linalg.inv(cases.quadratic_data()[0].T @ cases.quadratic_data()[0] / 0.25 + np.eye(3))
MEAN = EXACT @ cases.quadratic_data()[0].T @ cases.quadratic_data()[1] / 0.25
MODELS = {
    "linear": cases.linear_regression(*cases.quadratic_data()),
    "flips": cases.beta_bernoulli(cases.FLIPS),
    "worked": worked(X, Y),
    "correlated": cases.correlated_pair(),
    "schools": cases.eight_schools(cases.SCHOOLS_SIGMA, cases.SCHOOLS_Y),
    "grouped": grouped(np.array([0, 0, 1, 1, 2]), 3, np.array([0.5, 0.7, -0.2, 0.0, 1.0])),
}


@functools.cache
def fit(name, guide="auto"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return vb.fit(MODELS[name], guide)


def test_mean_sd_and_covariance_are_exact_for_a_gaussian():
    posterior = fit("linear")
    np.testing.assert_allclose(posterior.mean()["beta"], MEAN, atol=1e-4)
    np.testing.assert_allclose(posterior.sd()["beta"], np.sqrt(np.diag(EXACT)), rtol=1e-3)
    np.testing.assert_allclose(posterior.covariance("beta"), EXACT, atol=1e-5)


def test_quantiles_are_those_of_the_normal():
    quantiles = fit("linear").quantiles([0.05, 0.5, 0.95])["beta"]
    exact = stats.norm.ppf([[0.05], [0.5], [0.95]], MEAN, np.sqrt(np.diag(EXACT)))
    assert quantiles.shape == (3, 3)
    # 4096 draws: four standard errors of a 5% quantile are 0.13 sd.
    np.testing.assert_allclose(quantiles, exact, atol=0.13 * np.sqrt(EXACT.max()))
    np.testing.assert_array_equal(fit("linear").quantiles(0.5)["beta"], quantiles[1])


def test_moments_on_the_support_are_those_of_quadrature():
    loc, sd = (float(m[0]) for m in cases.flat_moments(fit("flips")))
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    p, weights = special.expit(loc + sd * nodes), weights / weights.sum()
    mean = weights @ p
    assert fit("flips").mean()["p"] == pytest.approx(mean, abs=1e-4)
    assert fit("flips").mean()["p"] == pytest.approx(0.75, abs=1e-3)  # case 1
    assert fit("flips").sd()["p"] == pytest.approx(np.sqrt(weights @ (p - mean) ** 2), rel=2e-3)
    assert fit("flips").quantiles(0.9)["p"] == pytest.approx(special.expit(loc + sd * stats.norm.ppf(0.9)), abs=2e-3)


def test_covariance_of_several_sites_is_in_the_order_asked_for():
    posterior = fit("worked")
    matrix = posterior.covariance("noise", "slope")
    assert matrix.shape == (2, 2)
    assert matrix[0, 0] == pytest.approx(posterior.sd()["noise"] ** 2, rel=1e-6)
    assert matrix[1, 1] == pytest.approx(posterior.sd()["slope"] ** 2, rel=1e-6)
    np.testing.assert_allclose(matrix[::-1, ::-1], posterior.covariance("slope", "noise"))
    assert posterior.covariance("slope").shape == (1, 1)


def test_an_unknown_site_is_refused_with_the_names_there_are():
    with pytest.raises(KeyError, match="no site is called 'tau'; the posterior has slope, noise, doubled"):
        fit("worked").covariance("tau")
    with pytest.raises(KeyError, match="no site is called 'tau'"):
        fit("worked").summary("tau")


def test_samples_have_the_guides_distribution():
    draws = np.asarray(fit("linear").sample(4000, seed=1)["beta"], float)
    assert draws.shape == (4000, 3)
    for column, mean, sd in zip(draws.T, MEAN, np.sqrt(np.diag(EXACT))):
        assert stats.kstest((column - mean) / sd, "norm").pvalue > 1e-3
    # Four standard errors of a correlation.
    np.testing.assert_allclose(
        np.corrcoef(draws.T), EXACT / np.sqrt(np.outer(np.diag(EXACT), np.diag(EXACT))), atol=4 / np.sqrt(4000)
    )


def test_the_same_seed_gives_the_same_samples_and_another_seed_others():
    posterior = fit("linear")
    first, again, other = (np.asarray(posterior.sample(10, seed)["beta"]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    with pytest.raises(ValueError, match="n must be at least 1, not 0"):
        posterior.sample(0)


def test_deterministic_sites_are_included_and_consistent():
    posterior = fit("worked")
    draws = posterior.sample(50)
    assert set(draws) == {"slope", "noise", "doubled"}
    np.testing.assert_allclose(draws["doubled"], 2 * draws["slope"], rtol=1e-6)
    assert posterior.mean()["doubled"] == pytest.approx(2 * float(posterior.mean()["slope"]), rel=1e-5)


def test_log_prob_is_scipys_in_the_models_own_space():
    posterior = fit("flips")
    loc, sd = (float(m[0]) for m in cases.flat_moments(posterior))
    p = np.linspace(0.1, 0.9, 9)
    exact = stats.norm.logpdf(special.logit(p), loc, sd) - np.log(p * (1 - p))
    np.testing.assert_allclose(posterior.log_prob({"p": p}), exact, atol=1e-4)
    assert posterior.log_prob({"p": 0.5}).shape == ()
    beta = np.array([[0.9, 0.3, -0.6], [1.0, 0.5, -0.8]])
    np.testing.assert_allclose(
        fit("linear").log_prob({"beta": beta}), stats.multivariate_normal.logpdf(beta, MEAN, EXACT), atol=1e-2
    )


@pytest.mark.parametrize("name", ["linear", "flips", "worked", "grouped"])
def test_log_joint_less_log_prob_has_the_elbo_for_mean(name):
    posterior = fit(name)
    draws = posterior.sample(4000, seed=3)
    latent = {slot.name: draws[slot.name] for slot in posterior.target.layout.slots}
    terms = np.asarray(MODELS[name].log_joint(latent) - posterior.log_prob(latent), float)
    error = np.hypot(terms.std() / np.sqrt(len(terms)), posterior.elbo.se)
    assert terms.mean() == pytest.approx(posterior.elbo.value, abs=4 * error + 1e-4)


@functools.cache
def corrected():
    """Mean field of a correlated posterior, `N(MEAN, EXACT)`: its sds are two thirds of the right ones and less."""
    return vb.fit(MODELS["linear"], "mean_field")


def test_a_corrected_posterior_speaks_of_its_weighted_draws_everywhere():
    posterior, own = corrected(), corrected().uncorrected()
    assert posterior.check().verdict == "corrected" and posterior.is_corrected and not own.is_corrected
    sds, worth = np.sqrt(np.diag(EXACT)), posterior.report.draws.ess
    near = 4 * sds / np.sqrt(worth)
    with warnings.catch_warnings():
        warnings.simplefilter("error", vb.errors.RepeatedDrawsWarning)
        draws = np.asarray(posterior.sample(1000, seed=1)["beta"], float)
    low, high = posterior.quantiles([0.158655, 0.841345])["beta"]
    rows = dict(posterior.summary().rows)
    for sd in (posterior.sd()["beta"], draws.std(axis=0), (high - low) / 2, [rows[f"beta[{i}]"][1] for i in range(3)]):
        assert (np.abs(sd - sds) < 1.5 * near).all()
    for mean in (posterior.mean()["beta"], draws.mean(axis=0)):
        assert (np.abs(mean - MEAN) < 1.5 * near).all()
    np.testing.assert_allclose(posterior.covariance("beta"), EXACT, atol=0.1 * EXACT.max())
    assert rows["beta[0]"][-1] == pytest.approx(sds[0] / np.sqrt(worth), rel=0.3)
    assert (own.sd()["beta"] < 0.7 * sds).any()
    assert "corrected" in str(posterior.summary()) and "MC error" in str(posterior.summary())
    assert "MC error" not in str(own.summary())
    # The guide's density is the guide's, whatever is sampled.
    np.testing.assert_array_equal(posterior.log_prob({"beta": MEAN}), own.log_prob({"beta": MEAN}))


def test_an_expectation_is_weighed_and_has_an_error():
    posterior = corrected()
    square = posterior.expectation(lambda site: site["beta"] ** 2)
    mean, sd = posterior.mean()["beta"], posterior.sd()["beta"]
    np.testing.assert_allclose(square.value, mean**2 + sd**2, rtol=1e-4)
    assert square.value.shape == square.se.shape == (3,)
    positive = posterior.expectation(lambda site: site["beta"][0] > MEAN[0])
    assert positive.value == pytest.approx(0.5, abs=4 * positive.se) and 0.005 < positive.se < 0.02


def test_more_draws_than_the_weighted_ones_are_worth_are_repeated_and_said():
    posterior = corrected()
    worth = int(posterior.report.draws.ess)
    with pytest.warns(vb.errors.RepeatedDrawsWarning, match=f"worth {worth:,}: some stand more than once"):
        draws = np.asarray(posterior.sample(3 * worth)["beta"])[:, 0]
    assert len(draws) == 3 * worth > len(np.unique(draws))


def test_predictions_are_corrected_too_and_take_any_draws():
    posterior, (x, _) = corrected(), cases.quadratic_data()
    draws = {"beta": np.broadcast_to([1.0, 0.0, 0.0], (500, 3))}
    y = np.asarray(posterior.predict(seed=1, draws=draws)["y"], float)
    np.testing.assert_allclose(y.mean(axis=0), x @ [1.0, 0.0, 0.0], atol=4.5 * 0.5 / np.sqrt(500))
    with pytest.raises(KeyError, match="draws have no site 'beta'; the latent sites are beta"):
        posterior.predict(draws={"alpha": np.zeros(3)})
    # The correlations that mean field leaves out make the lines at the ends surer than it thinks, or less sure.
    y = np.asarray(posterior.predict(n=1000, seed=2)["y"], float)
    variance = np.einsum("ni,ij,nj->n", x, EXACT, x) + 0.25
    np.testing.assert_allclose(y.var(axis=0), variance, rtol=5 * np.sqrt(2 / 1000))


def test_resampled_draws_have_the_exact_moments_and_are_in_no_order():
    draws = np.asarray(fit("flips").resample(1500, seed=2)["p"], float)
    worth = fit("flips").report.draws.ess
    assert draws.mean() == pytest.approx(0.75, abs=4 * 0.1201 / np.sqrt(worth))
    assert draws.std() == pytest.approx(0.12010, abs=4 * 0.1201 / np.sqrt(worth))
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 4 / np.sqrt(1500)


def test_resampling_is_refused_where_the_weights_are_hopeless():
    with pytest.raises(ValueError, match=r"^importance weights cannot repair this guide: [\d,]+ draws are worth "):
        fit("schools", "mean_field").resample(1000)


def test_predictive_draws_on_the_same_rows_have_the_models_moments():
    posterior = fit("linear")
    x, _ = cases.quadratic_data()
    draws = np.asarray(posterior.predict(n=4096, seed=1)["y"], float)
    assert draws.shape == (4096, 20)
    variance = np.einsum("ni,ij,nj->n", x, EXACT, x) + 0.25
    np.testing.assert_allclose(draws.mean(axis=0), x @ MEAN, atol=4.5 * np.sqrt(variance.max() / 4096))
    np.testing.assert_allclose(draws.var(axis=0), variance, rtol=4.5 * np.sqrt(2 / 4096))


def test_predictive_draws_on_new_rows_follow_the_new_rows():
    new = np.array([[1.0, 0.0, 0.0], [1.0, 10.0, 100.0]])
    draws = fit("linear").predict(cases.linear_regression(new, np.zeros(2)), n=2048)["y"]
    assert draws.shape == (2048, 2)
    assert float(draws[:, 1].mean()) == pytest.approx(new[1] @ MEAN, abs=4 * np.sqrt(new[1] @ EXACT @ new[1] / 2048))


def test_predictive_draws_without_observations_are_those_of_the_model():
    draws = fit("worked").predict(worked(np.zeros(3)), n=512)
    assert draws["y"].shape == (512, 3)
    assert "slope" not in draws


def test_new_rows_of_a_latent_plate_are_drawn_from_their_prior_with_a_warning():
    with pytest.warns(vb.VbpplWarning, match="site 'level' has shape .3,. in the posterior and .5,. here"):
        draws = fit("grouped").predict(grouped(np.array([4]), 5), n=512)
    assert draws["level"].shape == (512, 5) and draws["y"].shape == (512, 1)


def test_log_likelihood_is_scipys():
    posterior = fit("linear")
    x, y = cases.quadratic_data()
    told = np.asarray(posterior.log_likelihood(7, seed=4)["y"], float)
    beta = np.asarray(posterior.sample(7, seed=4)["beta"], float)
    np.testing.assert_allclose(told, stats.norm.logpdf(y, beta @ x.T, 0.5), atol=1e-4)


def test_a_posterior_is_a_pytree_that_can_be_taken_apart_and_rebuilt():
    posterior = fit("linear")
    leaves, structure = jax.tree.flatten(posterior)
    rebuilt = jax.tree.unflatten(structure, leaves)
    assert str(rebuilt.check()) == str(posterior.check()) and rebuilt.elbo == posterior.elbo
    doubled = jax.tree.map(lambda leaf: leaf, posterior)
    np.testing.assert_array_equal(doubled.sample(3)["beta"], posterior.sample(3)["beta"])
    assert hash(structure) == hash(jax.tree.structure(doubled))


def test_a_posterior_goes_through_jit():
    posterior = fit("linear")
    value = jax.jit(lambda posterior, beta: posterior.log_prob({"beta": beta}))(posterior, jnp.asarray(MEAN))
    assert float(value) == pytest.approx(float(posterior.log_prob({"beta": MEAN})), abs=1e-4)


def test_the_table_does_not_depend_on_draws():
    assert str(fit("linear").summary()) == str(fit("linear").summary())


def test_printing_says_what_it_is_and_shows_the_card():
    posterior = fit("linear")
    assert repr(posterior).startswith("<Posterior of linear_regression(")
    assert "FullRank, ELBO -13.129 ± 0.000>" in repr(posterior)
    assert "verdict: good" in str(posterior) and "FullRank guide, 3 dims" in str(posterior)
    assert "<table>" in posterior._repr_html_() and "verdict: good" in posterior._repr_html_()


def test_a_map_estimate_has_no_card():
    point = vb.fit(cases.far_datum(np.array(10.0)), vb.MAP())
    with pytest.raises(TypeError, match="a MAP estimate is a point: there is no distribution to judge"):
        point.check()
    with pytest.raises(TypeError, match="a MAP estimate is a point and has no density"):
        point.log_prob({"x": 8.0})


@vb.model
def everything_large():
    vb.sample("x", dist.Normal(jnp.zeros(300), 1.0).to_event(1))


def test_hundreds_of_dimensions_keep_their_table_small():
    posterior = vb.fit(everything_large(), "mean_field")
    assert posterior.check().verdict == "good"
    np.testing.assert_allclose(posterior.sd()["x"], 1.0, rtol=1e-2)
    assert len(str(posterior.summary()).splitlines()) < 30
