"""The examples run, draw their pictures, and find what is known from elsewhere."""

from __future__ import annotations

import importlib
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from scipy import special, stats
from sklearn.decomposition import FactorAnalysis
from sklearn.mixture import GaussianMixture

import vbppl as vb

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def examples_can_be_imported(monkeypatch):
    """As when they are run from their own folder; the style of their pictures does not outlast them."""
    monkeypatch.syspath_prepend(EXAMPLES)
    with matplotlib.rc_context():
        yield


@pytest.fixture
def example(tmp_path):
    """`example(name)` is the module and what its `main` returns; its picture must be there."""

    def run(name, **options):
        module, out = importlib.import_module(name), tmp_path / f"{name}.png"
        found = module.main(quick=True, out=out, **options)
        assert out.read_bytes().startswith(b"\x89PNG") and out.stat().st_size > 10_000
        return module, found

    return run


@pytest.mark.filterwarnings("ignore:site 'theta':vbppl.VbpplWarning")
def test_eight_schools_agree_with_the_integral_over_tau(example):
    module, found = example("eight_schools")
    y, sigma = module.y, module.sigma
    # Given tau, mu and each theta are normal (Gelman et al., Bayesian Data Analysis, section 5.4).
    grid = np.linspace(1e-3, 120.0, 20_000)[:, None]
    variance = sigma**2 + grid**2
    precision = 1 / 25 + (1 / variance).sum(1)
    mu = (y / variance).sum(1) / precision
    log_weight = stats.norm.logpdf(y, 0, np.sqrt(variance)).sum(1) + stats.halfcauchy.logpdf(grid[:, 0], scale=5.0)
    log_weight += mu**2 * precision / 2 - np.log(25 * precision) / 2
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    theta = weight @ ((grid**2 * y + sigma**2 * mu[:, None]) / variance)

    mean, sd = found["posterior"].mean(), found["posterior"].sd()
    # The best Gaussian has a lighter tail of tau than the posterior, and so shrinks a little more.
    assert abs(mean["mu"] - weight @ mu) < 0.1 * sd["mu"]
    np.testing.assert_allclose(mean["theta"], theta, atol=0.15 * sd["theta"].max())
    assert np.argsort(mean["theta"]).tolist()[-2:] == np.argsort(theta).tolist()[-2:]
    # A ninth school varies more than the mean effect, and around it.
    assert abs(found["new"].mean() - mean["mu"]) < 4 * found["new"].std() / np.sqrt(len(found["new"]))
    assert found["new"].std() > sd["mu"]


def test_regression_agrees_with_the_integral_over_the_noise(example):
    _, found = example("regression")
    x, y = found["data"]
    design = np.column_stack([np.ones(len(y)), x])
    # Given the noise the weights are normal and the evidence is closed form: one integral is left.
    noise = np.linspace(0.55, 0.90, 200)
    values, vectors = np.linalg.eigh(design.T @ design)
    projected = vectors.T @ design.T @ y
    log_weight, means, squares = [], [], []
    for s in noise:
        precision = values / s**2 + 1
        weights = projected / s**2 / precision
        fitted = -len(y) * np.log(s) - y @ y / (2 * s**2) + (weights**2 * precision).sum() / 2
        log_weight.append(fitted - np.log(precision).sum() / 2 - s**2 / 2)
        means.append(vectors @ weights)
        squares.append((vectors**2 / precision).sum(1) + means[-1] ** 2)
    weight = np.exp(np.array(log_weight) - max(log_weight))
    weight /= weight.sum()
    mean = weight @ np.array(means)
    sd = np.sqrt(weight @ np.array(squares) - mean**2)

    posterior = found["posterior"]
    np.testing.assert_array_less(np.abs(posterior.mean()["slopes"] - mean[1:]), 0.05 * sd[1:])
    np.testing.assert_allclose(posterior.sd()["slopes"], sd[1:], rtol=0.05)
    assert abs(posterior.mean()["noise"] - weight @ noise) < 0.002
    # 92 people: two standard errors around 90% of them.
    assert abs(found["inside"] - 0.9) < 2 * np.sqrt(0.9 * 0.1 / 92)


@pytest.mark.slow
def test_quality_of_life_agrees_with_maximum_likelihood(example):
    _, found = example("quality_of_life")
    reference = FactorAnalysis(1, tol=1e-8, max_iter=10_000).fit(found["indicators"])
    loadings, scores = reference.components_[0], reference.transform(found["indicators"])[:, 0]
    sign = np.sign(loadings[0])
    mean, sd = found["posterior"].mean(), found["posterior"].sd()
    # The priors are weak beside 50 states, though not nothing: half a posterior sd.
    np.testing.assert_array_less(np.abs(mean["loadings"] - sign * loadings), 0.5 * sd["loadings"])
    assert np.corrcoef(mean["quality"], sign * scores)[0, 1] > 0.995


def test_factor_model_finds_the_truth_behind_simulated_indicators():
    module = importlib.import_module("quality_of_life")
    quality = stats.norm.ppf((np.arange(50) + 0.5) / 50)
    truth = {"first": 0.9, "others": np.array([0.7, -0.6, 0.3, 0.8]), "noise": np.full(5, 0.5)}
    model = module.factor_model(np.zeros((50, 5))).do(truth, quality=quality / quality.std())
    indicators = model.sample(1, seed=4)["indicators"][0]
    posterior = vb.fit(module.factor_model(indicators), "full_rank")
    mean, sd = posterior.mean(), posterior.sd()
    # Five loadings, each within three posterior sds of the truth; a negative one keeps its sign.
    off = (mean["loadings"] - np.append(truth["first"], truth["others"])) / sd["loadings"]
    assert np.abs(off).max() < 3
    assert mean["loadings"][2] < 0
    # Under the true loadings the scores explain 0.91 of the variance: a correlation of 0.95.
    assert np.corrcoef(mean["quality"], quality)[0, 1] > 0.92


@pytest.mark.slow
def test_variational_em_ends_where_the_classic_algorithms_do(example):
    _, found = example("variational_em")
    length, params = found["length"][:, None], found["mixture"].params
    peer = GaussianMixture(2, tol=1e-9, max_iter=2000, reg_covar=0, random_state=0).fit(length)
    order = np.argsort(peer.means_[:, 0])
    np.testing.assert_allclose(params["weights"], peer.weights_[order], atol=1e-3)
    np.testing.assert_allclose(params["loc"], peer.means_[order, 0], atol=2e-3)
    np.testing.assert_allclose(params["scale"], np.sqrt(peer.covariances_[order, 0, 0]), atol=2e-3)
    assert found["mixture"].elbo.value == pytest.approx(peer.score(length) * len(length), abs=0.01)

    # Any rotation of the loadings is as good, so what is compared does not depend on it.
    factors, readings = found["factors"], found["readings"]
    loadings, noise = (np.asarray(factors.params[name], float) for name in ("loadings", "noise"))
    covariance = loadings.T @ loadings + np.diag(noise**2)
    np.testing.assert_allclose(covariance, found["reference"].get_covariance(), atol=0.01)
    assert factors.elbo.value / len(readings) == pytest.approx(found["reference"].score(readings), abs=1e-3)
    assert factors.check().verdict == "good"


@pytest.mark.slow
@pytest.mark.parametrize("network", ["plain", "equinox", "nnx"])
def test_vae_beats_independent_pixels_on_unseen_digits(example, network):
    _, found = example("vae", network=network)
    # The limit of a model without hidden numbers: each pixel with its own odds, seen on the test images themselves.
    odds = found["test"].mean(axis=0)
    independent = special.xlogy(odds, odds).sum() + special.xlog1py(1 - odds, -odds).sum()
    evidence = found["evidence"].mean.value
    assert evidence > independent + 4 * found["evidence"].mean.se
    # The bound lies below the evidence, and the encoder's loss is a part of the difference.
    assert found["bound"] < evidence
    assert -0.05 < found["gap"].mean.value < evidence - found["bound"] + 4 * found["gap"].mean.se


def test_bound_and_gap_add_up_to_the_log_evidence_at_every_moment(example):
    _, found = example("bound_and_gap")
    for fit in found["fits"].values():
        np.testing.assert_allclose(fit["bounds"] + fit["gaps"], found["log_evidence"], atol=1e-6)
        assert len(fit["gaps"]) >= 100 and fit["gaps"].min() > -1e-9
        assert fit["gaps"][-1] < 0.05 * fit["gaps"][0]
    mean_field, full_rank = (fit["gaps"][-1] for fit in found["fits"].values())
    assert abs(mean_field - found["smallest_mean_field_gap"]) < 0.01
    assert full_rank < 0.01


@pytest.mark.slow
def test_beyond_a_gaussian_bounds_come_near_the_integral_over_a_grid(example):
    _, found = example("beyond_a_gaussian")
    for name, each in found.items():
        exact, gaussian, best = each["log_evidence"], each["gaussian"], each["best"]
        for posterior in (gaussian, best):
            assert posterior.elbo.value < exact + 4 * posterior.elbo.se + 1e-3, name
        assert best.check().verdict in ("good", "corrected"), name
    ring = found["ring"]
    assert ring["gaussian"].check().verdict == "poor"
    assert ring["best"].elbo.value > ring["log_evidence"] - 0.05
