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


@pytest.mark.slow
def test_bound_and_gap_add_up_to_the_log_evidence_at_every_moment(example):
    _, found = example("bound_and_gap")
    for fit in found["fits"].values():
        np.testing.assert_allclose(fit["bounds"] + fit["gaps"], found["log_evidence"], atol=1e-6)
        assert len(fit["gaps"]) >= 100 and fit["gaps"].min() > -1e-9
        assert fit["gaps"][-1] < 0.05 * fit["gaps"][0]
    mean_field, full_rank = (fit["gaps"][-1] for fit in found["fits"].values())
    assert abs(mean_field - found["smallest_mean_field_gap"]) < 0.01
    assert full_rank < 0.01


def grid_moments(log_density, *axes):
    """Means and sds of each coordinate under a density on a grid: `(coordinates,)` each."""
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    weight = special.softmax(log_density(grid))
    mean = weight @ grid
    return mean, np.sqrt(weight @ (grid - mean) ** 2)


@pytest.mark.slow
def test_radon_agrees_with_the_integral_over_two_sds(example):
    _, found = example("radon")
    counties, uranium, county, floor, y = found["data"]
    # Given both sds all else is normal: base, slope, floor, and the counties about their line.
    fixed = np.stack([np.ones_like(y), uranium[county], floor], axis=1)
    design = np.concatenate([fixed, np.eye(len(counties))[county]], axis=1)
    square, product = design.T @ design, design.T @ y
    log_weight, means, squares = [], [], []
    grid = [(b, w) for b in np.linspace(0.02, 0.36, 35) for w in np.linspace(0.66, 0.80, 15)]
    for between, within in grid:
        prior = np.append(np.full(3, 1 / 4), np.full(len(counties), between**-2))
        precision = square / within**2 + np.diag(prior)
        covariance = np.linalg.inv(precision)
        means.append(covariance @ product / within**2)
        squares.append(np.diag(covariance)[:3] + means[-1][:3] ** 2)
        log_weight.append(
            (means[-1] @ product / within**2 - y @ y / within**2 - np.linalg.slogdet(precision)[1]) / 2
            + np.log(prior).sum() / 2 - len(y) * np.log(within) - (between**2 + within**2) / 2
        )  # fmt: skip
    weight, means = special.softmax(log_weight), np.array(means)
    mean, found_mean, found_sd = weight @ means, found["posterior"].mean(), found["posterior"].sd()
    sd = np.sqrt(weight @ np.array(squares) - mean[:3] ** 2)
    for i, name in enumerate(("base", "by_uranium", "upstairs")):
        assert abs(found_mean[name] - mean[i]) < 0.1 * sd[i], name
        assert found_sd[name] == pytest.approx(sd[i], rel=0.1), name
    level = mean[0] + mean[1] * uranium + mean[3:]
    np.testing.assert_array_less(np.abs(found_mean["level"] - level), 0.1 * found_sd["level"])
    assert abs(found_mean["between"] - weight @ np.array(grid)[:, 0]) < 0.005
    tree = found["tree"]
    assert tree.posterior["level"].sel(county="Ramsey").shape == (1, 500)
    assert "county_data" in tree.constant_data


@pytest.mark.slow
def test_model_comparison_leaves_houses_out_as_a_linear_model_does(example):
    _, found = example("model_comparison")
    _, _, _, floor, y = importlib.import_module("radon").load()
    # A linear model with flat priors leaves a row out in closed form, through its leverage (Student's t with n - 3).
    design = np.stack([np.ones_like(y), floor], axis=1)
    leverage = np.einsum("ni,ij,nj->n", design, np.linalg.inv(design.T @ design), design)
    left = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    n = len(y)
    variance = (left @ left - left**2 / (1 - leverage)) / (n - 3)
    scale = np.sqrt(variance / (1 - leverage))
    exact = stats.t.logpdf(left / (1 - leverage), n - 3, scale=scale).sum()
    assert abs(found["loo"]["alike"].elpd - exact) < 1.0
    assert list(found["table"].index) == ["shared", "apart", "alike"]
    assert all(each.check().verdict == "good" for each in found["posteriors"].values())


@pytest.mark.slow
def test_minibatches_find_the_mode_of_all_rows(example):
    _, found = example("million_rows")
    assert np.abs((found["mean"] - found["mode"]) / found["sds"]).max() < 0.1
    np.testing.assert_allclose(found["sd"], found["sds"], rtol=0.05)
    assert found["posterior"].status.converged


@pytest.mark.slow
def test_survival_agrees_with_the_integral(example):
    module, found = example("survival")
    weeks, censored, drug = module.weeks, module.censored, module.drug

    def log_density(grid):
        base, effect, shape = grid.T[:, :, None]
        scale = np.exp(base + effect * drug)
        law = stats.weibull_min(shape, scale=scale)
        each = np.where(censored, law.logsf(weeks), law.logpdf(weeks))
        prior = stats.norm.logpdf(grid[:, 0], 2) + stats.norm.logpdf(grid[:, 1]) + stats.lognorm.logpdf(grid[:, 2], 0.5)
        return each.sum(1) + prior

    mean, sd = grid_moments(
        log_density, np.linspace(1.4, 3.2, 40), np.linspace(-0.2, 2.8, 40), np.linspace(0.6, 2.3, 40)
    )
    for i, name in enumerate(("base", "effect", "shape")):
        assert abs(found["posterior"].mean()[name] - mean[i]) < 0.1 * sd[i], name
        assert found["posterior"].sd()[name] == pytest.approx(sd[i], rel=0.1), name
    factors = [fit.quantiles(0.5)["times longer"] for fit in found["fits"].values()]
    assert factors[0] > factors[1] > factors[2]


@pytest.mark.slow
def test_the_change_point_is_where_the_sum_over_years_has_it(example):
    _, found = example("change_point")
    # Both rates integrate in closed form; 500 draws leave .01 of total variation.
    assert np.abs(found["share"] - found["exact"]).sum() / 2 < 0.02
    assert found["posterior"].check().verdict == "good"


def test_item_response_agrees_with_bugs(example):
    _, found = example("item_response")
    mean = found["posterior"].mean()
    # The LSAT example of BUGS (volume 1), by 10,000 draws of a sampler: hardness about its mean, and the spread.
    known = [-1.259, 0.476, 1.235, 0.168, -0.625]
    np.testing.assert_allclose(mean["hardness"] - mean["hardness"].mean(), known, atol=0.02)
    assert abs(mean["spread"] - 0.76) < 0.015
    assert abs(found["posterior"].sd()["spread"] - 0.069) < 0.005


@pytest.mark.slow
def test_gaussian_process_agrees_with_the_integral(example):
    _, found = example("gaussian_process")
    x, y = found["data"]
    square = (x[:, None] - x) ** 2

    def log_density(grid):
        logs = np.zeros(len(grid))
        for i, (height, length, noise) in enumerate(grid):
            covariance = height**2 * np.exp(-square / (2 * length**2)) + noise**2 * np.eye(len(x))
            factor = np.linalg.cholesky(covariance)
            white = np.linalg.solve(factor, y)
            logs[i] = -(white @ white) / 2 - np.log(np.diag(factor)).sum()
        prior = stats.halfnorm.logpdf(grid, scale=[2, 1, 1])[:, [0, 2]].sum(1) + stats.lognorm.logpdf(grid[:, 1], 1.0)
        return logs + prior

    mean, sd = grid_moments(
        log_density, np.linspace(0.4, 3.6, 25), np.linspace(0.3, 2.0, 25), np.linspace(0.18, 0.52, 20)
    )
    for i, name in enumerate(("height", "length", "noise")):
        assert abs(found["posterior"].mean()[name] - mean[i]) < 0.1 * sd[i], name
        assert found["posterior"].sd()[name] == pytest.approx(sd[i], rel=0.15), name
    assert found["inside"] > 0.8


@pytest.mark.slow
def test_of_networks_the_outer_weights_alone_are_held_by_a_normal(example):
    _, found = example("bayesian_network")
    assert found["fits"]["all weights"].check().verdict == "poor"
    outer, (x, y, inner, bias) = found["fits"]["outer weights"], found["data"]
    assert outer.check().verdict == "good"
    # Given the noise the curve is that of a ridge regression, in closed form.
    noise = float(outer.mean()["noise"])
    hidden, at = (np.tanh(each[:, None] * inner + bias) for each in (x, found["new"]))
    precision = hidden.T @ hidden / noise**2 + np.eye(len(inner)) * len(inner) / 4
    curve = at @ np.linalg.solve(precision, hidden.T @ y) / noise**2
    sd = np.sqrt(np.einsum("ni,ij,nj->n", at, np.linalg.inv(precision), at))
    draws = found["curves"]["outer weights"]
    # 200 draws: four standard errors of their mean.
    np.testing.assert_array_less(np.abs(draws.mean(0) - curve), 4 * sd / np.sqrt(200) + 0.05 * sd)
    assert np.median(draws.std(0) / sd) == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_missing_values_are_kept_as_latent_ones(example):
    _, found = example("missing_data")
    fits = found["fits"]
    mean, sd = ({name: fit.mean()["by_mass"] for name, fit in fits.items()}, fits["kept, as latent"].sd()["by_mass"])
    assert abs(mean["kept, as latent"] - mean["nothing missing"]) < sd
    assert mean["left out"] < mean["nothing missing"] - 2 * sd
    # 145 people: three standard errors around 90% of them.
    assert abs(found["inside"] - 0.9) < 3 * np.sqrt(0.9 * 0.1 / 145)
    assert all(fit.check().verdict == "good" for fit in fits.values())


@pytest.mark.slow
def test_calibration_tells_right_from_wrong(example):
    _, found = example("calibration")
    assert [result.passed for result in found.values()] == [True, False, False]


@pytest.mark.slow
def test_the_workflow_agrees_with_the_integral(example):
    module, found = example("workflow")

    def log_density(grid):
        logits = grid[:, :1] + grid[:, 1:] * (module.celsius - 20) / 10
        each = stats.binom.logpmf(module.damaged, module.RINGS, special.expit(logits))
        return each.sum(1) + stats.norm.logpdf(grid, [-2, 0], 1.5).sum(1)

    mean, sd = grid_moments(log_density, np.linspace(-5, -1, 200), np.linspace(-5, 1.5, 200))
    for i, name in enumerate(("at_20", "per 10 degrees")):
        assert abs(found["posterior"].mean()[name] - mean[i]) < 0.1 * sd[i], name
        assert found["posterior"].sd()[name] == pytest.approx(sd[i], rel=0.1), name
    assert found["calibrated"].passed
    assert found["page"].read_text().startswith("<!")


@pytest.mark.slow
def test_the_level_of_the_nile_agrees_with_the_kalman_filter(example):
    module, found = example("nile")
    # By maximum likelihood the variances are 1,469 and 15,099 (Durbin and Koopman 2012, section 2.10).
    top = [module.kalman(module.FLOW / 100, np.sqrt(w) / 100, np.sqrt(15_099) / 100) for w in (1_300, 1_469, 1_650)]
    assert np.argmax(top) == 1
    means, sds = module.exact(module.FLOW / 100)
    for name, mean, sd in zip(("wander", "noise"), means, sds, strict=True):
        assert abs(found["posterior"].mean()[name] - mean) < 0.1 * sd, name
        assert found["posterior"].sd()[name] == pytest.approx(sd, rel=0.06), name
    assert found["ahead"]["flow"].std(0)[-1] > found["ahead"]["flow"].std(0)[0]


@pytest.mark.slow
def test_good_enough_agrees_with_the_integral(example):
    module, found = example("good_enough")
    concentration, rate = module.concentration, module.rate

    def log_density(grid):
        fastest, half, noise = grid.T[:, :, None]
        each = stats.norm.logpdf(rate, fastest * concentration / (half + concentration), noise)
        prior = stats.norm.logpdf(grid[:, 0], 200, 100) + stats.halfnorm.logpdf(grid[:, 1:], scale=[1, 30]).sum(1)
        return each.sum(1) + prior

    mean, sd = grid_moments(log_density, np.linspace(170, 270, 60), np.linspace(0.02, 0.17, 60), np.linspace(5, 35, 40))
    for i, name in enumerate(("fastest", "half", "noise")):
        for which, near in (("vb.fit", 0.1), ("vb.refine", 0.12)):
            assert abs(found["fits"][which].mean()[name] - mean[i]) < near * sd[i], (which, name)
    assert found["fits"]["mean field"].sd()["half"] < 0.7 * sd[1]
    assert found["fits"]["vb.refine"].check().verdict == "good"
