"""A posterior for ArviZ: the numbers against closed forms, and ArviZ's own functions on it as they are."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
from scipy import stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.posterior.report import Unjudged

xarray, arviz_stats = pytest.importorskip("xarray"), pytest.importorskip("arviz_stats")
pytestmark = [
    pytest.mark.filterwarnings("ignore:Estimated shape parameter"),
    pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning"),
]

RNG = np.random.default_rng(4)
X = np.stack([np.ones(30), np.linspace(0.5, 2.5, 30)], axis=1)  # so that the two coefficients are correlated
Y = X @ [0.4, 1.6] + RNG.normal(size=30)
FEATURES, DAYS = ["constant", "dose"], np.arange("2024-03-01", "2024-03-31", dtype="M8[D]")


@vb.model
def line(x, features, days, y):
    beta = vb.sample("beta", dist.Normal(0.0, 2.0), sample_shape=(x.shape[1],), dims={"feature": features})
    with vb.plate("day", days):
        vb.deterministic("fitted", x @ beta)
        vb.sample("y", dist.Normal(x @ beta, 1.0), obs=y)


def exact_elpd(x, y):
    """Of each row given the others: a normal linear model with known variance, prior sd 2."""
    found = []
    for i in range(len(y)):
        others = np.arange(len(y)) != i
        covariance = np.linalg.inv(np.eye(x.shape[1]) / 4 + x[others].T @ x[others])
        mean = covariance @ x[others].T @ y[others]
        found.append(stats.norm.logpdf(y[i], x[i] @ mean, np.sqrt(1 + x[i] @ covariance @ x[i])))
    return np.array(found)


def approximate(tree):
    log_p, log_q = tree.sample_stats.log_p, tree.sample_stats.log_q
    return arviz_stats.loo_approximate_posterior(tree, log_p, log_q, pointwise=True)


@pytest.fixture(scope="module")
def posterior():
    return vb.fit(line(X, FEATURES, DAYS, Y), vb.Laplace())


@pytest.fixture(scope="module")
def mean_field():
    return vb.fit(line(X, FEATURES, DAYS, Y), "mean_field")


@pytest.fixture(scope="module")
def tree(posterior):
    return vb.to_arviz(posterior, "all")


def test_groups_have_dims_and_coordinates(tree):
    assert list(tree.children) == [
        *("posterior", "sample_stats", "observed_data", "constant_data"),
        *("log_likelihood", "log_prior", "posterior_predictive", "prior", "prior_predictive"),
    ]
    assert tree.posterior.beta.dims == ("chain", "draw", "feature") and tree.posterior.fitted.dims[2:] == ("day",)
    assert dict(tree.posterior.sizes) == {"chain": 1, "draw": 1000, "feature": 2, "day": 30}
    assert tree.posterior.feature.values.tolist() == FEATURES
    assert np.array_equal(tree.observed_data.day, DAYS) and np.allclose(tree.observed_data.y, Y)
    assert list(tree.constant_data) == ["x"] and tree.constant_data.x.dims == ("day", "feature")
    assert set(tree.prior) == {"beta", "fitted"} and set(tree.posterior_predictive) == set(tree.prior_predictive) == {
        "y"
    }
    for name in ("log_likelihood", "posterior_predictive", "prior_predictive"):
        assert tree[name].y.dims == ("chain", "draw", "day")
    assert tree.attrs["verdict"] == "good" and tree.attrs["inference_library"] == "vbppl"
    assert "not a number" in tree.sample_stats.attrs["r_hat"]


def test_densities_are_those_of_closed_forms(posterior, tree):
    beta = tree.posterior.beta.values[0].astype(np.float64)
    log_prior = stats.norm.logpdf(beta, 0, 2)
    log_likelihood = stats.norm.logpdf(Y, beta @ X.T, 1)
    assert np.allclose(tree.log_prior.beta[0], log_prior, atol=1e-4)
    assert np.allclose(tree.log_likelihood.y[0], log_likelihood, atol=1e-4)
    assert np.allclose(tree.sample_stats.log_p[0], log_prior.sum(1) + log_likelihood.sum(1), atol=1e-3)
    covariance = np.linalg.inv(np.eye(2) / 4 + X.T @ X)  # the posterior is normal, and so is Laplace's
    normal = stats.multivariate_normal(covariance @ X.T @ Y, covariance)
    assert np.allclose(tree.sample_stats.log_q[0], normal.logpdf(beta), atol=1e-2)


def test_draws_are_those_of_sample(posterior, tree):
    assert np.array_equal(tree.posterior.beta[0], posterior.sample(1000)["beta"])
    few = vb.to_arviz(posterior, n=7, seed=3)
    assert np.array_equal(few.posterior.beta[0], posterior.sample(7, 3)["beta"])


def test_nothing_is_computed_that_was_not_asked_for(posterior, tree, compilations):
    before = compilations()
    assert list(vb.to_arviz(posterior, seed=1).children) == list(tree.children)[:4]
    vb.to_arviz(posterior, ["prior", "log_likelihood"], seed=2)
    assert compilations() == before


def test_arviz_leaves_rows_out_as_the_closed_form_does(tree):
    found = arviz_stats.loo(tree, pointwise=True)
    assert np.abs(found.elpd_i.values - exact_elpd(X, Y)).max() < 0.04
    assert (found.pareto_k.values < 0.5).all()


def test_its_correction_makes_a_wrong_guide_right(posterior):
    covariance = posterior.covariance("beta")  # here a normal that is off, and too wide
    phi = posterior.guide.of(posterior.mean()["beta"] + 0.1, 1.3 * np.linalg.cholesky(covariance)).astype(np.float32)
    off = dataclasses.replace(posterior, solution=dataclasses.replace(posterior.solution, phi=phi))
    tree, exact = vb.to_arviz(off, "log_likelihood", n=4000), exact_elpd(X, Y)
    plain, corrected = (each.elpd - exact.sum() for each in (arviz_stats.loo(tree), approximate(tree)))
    assert abs(plain) > 1 and abs(corrected) < 0.1


def test_weighted_draws_are_the_posteriors_own(mean_field):
    tree = vb.to_arviz(mean_field, "log_likelihood")
    assert np.array_equal(tree.sample_stats.log_p, tree.sample_stats.log_q)
    covariance = np.linalg.inv(np.eye(2) / 4 + X.T @ X)
    assert np.allclose(np.cov(tree.posterior.beta[0].T), covariance, rtol=0.2)
    assert "weighed" in tree.posterior.attrs["draws"]
    assert np.abs(approximate(tree).elpd_i.values - exact_elpd(X, Y)).max() < 0.05


def test_arviz_compares_models(tree):
    shuffled = np.stack([X[:, 0], np.resize([0.5, 2.5], 30)], axis=1)
    other = vb.to_arviz(vb.fit(line(shuffled, FEATURES, DAYS, Y), vb.Laplace()), "log_likelihood")
    found = {"line": approximate(tree), "shuffled": approximate(other)}
    table = arviz_stats.compare(found)
    exact = exact_elpd(X, Y).sum() - exact_elpd(shuffled, Y).sum()
    assert table.index[0] == "line" and abs(found["line"].elpd - found["shuffled"].elpd - exact) < 0.15


def test_arviz_summarises_and_scales_by_powers(posterior, tree):
    table = arviz_stats.summary(tree, var_names=["beta"], round_to="none")
    assert list(table.index) == ["beta[constant]", "beta[dose]"]
    assert np.allclose(table["mean"], posterior.mean()["beta"], atol=0.05)
    sensitivity = arviz_stats.psense_summary(tree, var_names=["beta"])
    assert list(sensitivity.index) == list(table.index)


def test_a_tree_goes_into_a_file_and_back(tree, tmp_path):
    pytest.importorskip("h5netcdf")
    tree.to_netcdf(tmp_path / "fit.nc")
    back = xarray.open_datatree(tmp_path / "fit.nc", engine="h5netcdf")
    assert np.array_equal(back.posterior.beta, tree.posterior.beta) and back.attrs["verdict"] == "good"


def test_models_in_models_and_axes_without_names():
    @vb.model
    def inner(y):
        w = vb.sample("w", dist.MultivariateNormal(np.zeros(2), np.eye(2)), dims=("side",))
        vb.deterministic("both", w[:, None] * w, dims=("side", "side"))
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Normal(w.sum(), 1.0), obs=y)

    @vb.model
    def outer(data):
        vb.sample("in", inner(data["y"]))

    tree = vb.to_arviz(vb.fit(outer({"y": Y, "x": X}), vb.Laplace()), n=5)
    assert tree.posterior["in.both"].dims == ("chain", "draw", "side", "side_2")
    assert tree.observed_data["in.y"].dims == ("in.row",)
    assert list(tree.constant_data) == ["data_x"] and tree.constant_data.data_x.dims == ("in.row", "side")


def test_an_argument_may_be_called_as_its_plate_is():
    @vb.model
    def towns(towns, town, y):
        with vb.plate("town", towns):
            alpha = vb.sample("alpha", dist.Normal(0.0, 1.0))
        with vb.plate("house", len(y)):
            vb.sample("y", dist.Normal(alpha[town], 1.0), obs=y)

    tree = vb.to_arviz(vb.fit(towns(["Anoka", "Ramsey"], np.array([0, 1, 1]), np.zeros(3)), "mean_field"))
    assert tree.constant_data.town_data.values.tolist() == [0, 1, 1]
    assert tree.posterior.town.values.tolist() == ["Anoka", "Ramsey"]


def test_a_plain_density_has_draws_alone():
    found = vb.fit(vb.density(lambda z: -(z @ z) / 2, 2), vb.Laplace())
    tree = vb.to_arviz(found, n=5)
    assert list(tree.children) == ["posterior", "sample_stats"] and tree.posterior.z.dims[2:] == ("z_dim_0",)
    with pytest.raises(vb.ModelError, match="there is no model"):
        vb.to_arviz(found, "log_likelihood")


def test_what_cannot_be_given_is_refused(posterior, monkeypatch):
    with pytest.raises(ValueError, match="groups must be among 'log_likelihood', .*, or 'all', not 'posteriors'"):
        vb.to_arviz(posterior, "posteriors")
    with pytest.raises(TypeError, match="a point"):
        vb.to_arviz(dataclasses.replace(posterior, report=Unjudged(posterior.elbo, why="there is only a point")))
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(
        ModuleNotFoundError, match=r'needs xarray, which .*\n  To mend it: pip install "vbppl\[arviz\]"'
    ):
        vb.to_arviz(posterior)


@pytest.mark.slow  # the compilation of NUTS
def test_chains_stay_chains(posterior):
    refined = vb.refine(posterior, n=100, chains=3)
    tree = vb.to_arviz(refined, "log_likelihood")
    assert dict(tree.posterior.sizes) == {"chain": 3, "draw": 100, "feature": 2, "day": 30}
    table = arviz_stats.summary(tree, var_names=["beta"], round_to="none")
    assert refined.check().r_hat.value >= table["r_hat"].max() - 0.01 and np.isfinite(table["r_hat"]).all()
    assert refined.check().r_hat.name.startswith(("beta[", "fitted[2024-03-"))


@pytest.mark.slow
def test_arviz_draws_it(tree, tmp_path):
    plots = pytest.importorskip("arviz_plots")
    for name, more in {"forest": {}, "ppc_dist": {}, "ppc_pit": {}, "pair": {"var_names": ["beta"]}}.items():
        getattr(plots, f"plot_{name}")(tree, backend="matplotlib", **more).savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
