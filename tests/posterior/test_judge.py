"""The report card says `good` of good fits and of no others, and its numbers agree with quadrature."""

from __future__ import annotations

import dataclasses
import functools
import re
import warnings

import cases
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.keys import raw_key
from vbppl.core.watch import Watch
from vbppl.inference import bound
from vbppl.posterior import judge

pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")

SCHOOLS = (cases.SCHOOLS_SIGMA, cases.SCHOOLS_Y)
MODELS = {
    "beta-bernoulli": cases.beta_bernoulli(cases.FLIPS),
    "normal-normal": cases.normal_normal(cases.PAIRS),
    "gamma-exponential": cases.gamma_exponential(cases.WAITS),
    "linear": cases.linear_regression(*cases.quadratic_data()),
    "correlated": cases.correlated_pair(),
    "poisson": cases.poisson_regression(np.linspace(-1, 1, 40), cases.COUNTS),
    "logistic": cases.logistic_regression(*cases.logistic_data()),
    "shifted": cases.logistic_regression(*cases.logistic_data(), 1e6),
    "schools": cases.eight_schools(*SCHOOLS),
    "funnel": cases.funnel(),
    "two modes": cases.two_far_modes(),
}


@functools.cache
def fit(name, guide, seed=0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return vb.fit(MODELS[name], guide, seed=seed)


@vb.model
def many(scales):
    vb.sample("x", dist.Normal(jnp.zeros(len(scales)), scales).to_event(1))


@vb.model
def nearly_normal(count, quartic):
    """Independent normals, each a little flattened: `- quartic x^4 / 24`."""
    x = vb.sample("x", dist.Normal(jnp.zeros(count), 1.0).to_event(1))
    vb.factor("flat", -quartic / 24 * (x**4).sum())


@vb.model
def student(freedom):
    vb.sample("x", dist.StudentT(freedom, 0.0, 1.0))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("name", "guide"),
    [
        ("beta-bernoulli", "mean_field"),
        ("normal-normal", "mean_field"),
        ("normal-normal", "full_rank"),
        ("gamma-exponential", "mean_field"),
        ("linear", "full_rank"),
        ("correlated", "full_rank"),
        ("poisson", "full_rank"),
        ("logistic", "full_rank"),
        ("shifted", "full_rank"),
    ],
)
def test_a_guide_that_fits_is_called_good(name, guide, seed):
    card = fit(name, guide, seed).check()
    assert (card.verdict, card.reasons, card.advice) == ("good", (), ()), card


@pytest.mark.parametrize(
    ("name", "guide"),
    [
        ("correlated", "mean_field"),  # its sds are less than half of the right ones
        ("linear", "mean_field"),
        ("schools", "mean_field"),  # centred
        ("schools", "full_rank"),
        ("funnel", "mean_field"),
        ("funnel", "full_rank"),
        ("two modes", "mean_field"),
        ("two modes", "full_rank"),
    ],
)
def test_a_guide_that_cannot_fit_is_not_called_good_and_the_card_says_why(name, guide):
    card = fit(name, guide).check()
    assert card.verdict in ("corrected", "poor")
    assert card.reasons and card.advice
    text = str(card)
    assert card.reasons[0] in text and all(step in text for step in card.advice[:2])
    assert set(card.reasons) <= set(card.details) and len(card.lines()) <= 8


@pytest.mark.parametrize("seed", range(10))
def test_two_far_modes_are_told_of_from_every_seed(seed):
    card = fit("two modes", "mean_field", seed).check()
    assert card.verdict == "poor"
    assert re.match("a restart found another mode, 2[01] sd away", card.reasons[0])  # sds to a twentieth


def test_a_poor_fit_warns_with_the_reasons():
    with pytest.warns(vb.VbpplWarning, match="is poor: a restart found another mode, 2[01] sd away"):
        vb.fit(cases.two_far_modes(), "mean_field")


def test_a_good_fit_says_nothing(recwarn):
    vb.fit(cases.normal_normal(cases.PAIRS))
    assert not [w for w in recwarn if issubclass(w.category, vb.VbpplWarning)]


@pytest.mark.parametrize("guide", ["mean_field", "full_rank"])
def test_a_hundred_dimensions_each_a_little_off_stay_good(guide):
    """The spread of `log w` grows with the square root of the dimensions, though no marginal is worse."""
    card = vb.fit(nearly_normal(100, 0.1), guide).check()
    assert card.log_weight_sd > 0.1
    assert card.verdict == "good", card


@vb.model
def many_groups(seen):
    mu = vb.sample("mu", dist.Normal(0.0, 1.0))
    tau = vb.sample("tau", dist.HalfNormal(1.0))
    with vb.plate("group", len(seen)):
        x = vb.sample("x", dist.Normal(mu, tau))
        vb.sample("seen", dist.Normal(x, 0.5), obs=seen)


SEEN = np.random.default_rng(0).normal(0.3, np.hypot(0.5, 0.4), 600)


def test_where_so_many_dims_leave_no_draw_that_counts_the_card_says_so_and_what_tells_more():
    @vb.model
    def counts(seen):
        mu = vb.sample("mu", dist.Normal(0.0, 2.0))
        tau = vb.sample("tau", dist.HalfNormal(1.0))
        with vb.plate("group", len(seen)):
            vb.sample("seen", dist.Poisson(jnp.exp(vb.sample("x", dist.Normal(mu, tau)))), obs=seen)

    rng = np.random.default_rng(0)
    card = vb.fit(counts(rng.poisson(np.exp(2.6 + 0.5 * rng.standard_normal(600)))), "mean_field").check()
    assert card.verdict == "unknown" and card.draws.ess < 30, card
    assert re.fullmatch(r"no error could be measured in 602 dims: 448 draws are worth .*", card.reasons[0])
    assert card.advice[0].startswith("posterior.linear_response('mu', 'tau'), ") and "vb.refine" in card.advice[1]


@pytest.mark.slow
def test_what_such_a_card_advises_finds_the_sds_that_mean_field_has_not():
    """Against a grid: given mu and tau a row is seen with variance tau^2 + 0.25."""
    posterior = vb.fit(many_groups(SEEN), "mean_field")
    mu, tau = np.meshgrid(np.linspace(0.1, 0.5, 201), np.linspace(0.15, 0.65, 201), indexing="ij")
    log_p = stats.norm.logpdf(mu) + stats.halfnorm.logpdf(tau)
    log_p += stats.norm.logpdf(SEEN, mu[..., None], np.hypot(tau, 0.5)[..., None]).sum(axis=-1)
    weights = np.exp(log_p - log_p.max())
    weights /= weights.sum()
    right = [np.sqrt((weights * (x - (weights * x).sum()) ** 2).sum()) for x in (mu, tau)]
    own = [float(posterior.uncorrected().sd()[name]) for name in ("mu", "tau")]
    assert np.all(np.log(np.array(right) / own) > 0.2)
    np.testing.assert_allclose(posterior.linear_response("mu", "tau").sd, right, rtol=0.1)


def test_scales_a_million_apart_are_good():
    card = vb.fit(many(jnp.logspace(-3, 3, 7))).check()
    assert card.verdict == "good" and card.log_weight_sd < 1e-3


def test_a_heavy_tail_makes_the_weights_uneven():
    """One dimension of Student t is fitted well in its body; weighed far out, its sd of 1.41 is found."""
    posterior = vb.fit(student(4.0))
    assert float(posterior.uncorrected().sd()["x"]) < 1.25
    draws = posterior.check().draws
    assert np.sqrt(draws.weights @ draws.z[:, 0].astype(float) ** 2) == pytest.approx(np.sqrt(2), rel=0.1)


@pytest.mark.parametrize(
    ("name", "guide", "evidence"),
    [
        ("normal-normal", "full_rank", -6.603657),
        ("linear", "full_rank", -13.129251),
        ("poisson", "full_rank", -67.30166),
        ("logistic", "full_rank", -72.1275),
        ("beta-bernoulli", "mean_field", special.betaln(9, 3)),
        ("poisson", "mean_field", -67.30166),
    ],
)
def test_log_evidence_by_psis_is_that_of_quadrature(name, guide, evidence):
    card = fit(name, guide).check()
    if np.isfinite(card.log_evidence):
        se = np.sqrt((1 / card.ess - 1) / len(card.draws))
        assert card.log_evidence == pytest.approx(evidence, abs=4 * se + 1e-4)
        assert card.elbo.value - 4 * card.elbo.se <= evidence + 1e-5
    assert np.isfinite(card.log_evidence) == card.draws.tells_evidence


@pytest.mark.parametrize("beyond", [-np.inf, np.nan])
def test_draws_beyond_a_cliff_weigh_nothing_and_count_but_those_without_a_number_are_an_error(beyond):
    """A half-normal seen by N(1, 0.7^2): the mean weight is over all draws, its own mean over those inside."""

    @vb.model
    def half():
        x = vb.sample("x", dist.Normal(0.0, 1.0))
        vb.factor("right", jnp.where(x > 0, 0.0, beyond))

    posterior = vb.fit(cases.far_datum(np.array(0.0)))
    phi = np.array([[1.0], [np.log(0.7)]], np.float32)
    card = judge.judge(dataclasses.replace(posterior.solution, target=vb.target(half()), phi=phi), raw_key(0))
    assert card.draws.lost == pytest.approx(stats.norm.cdf(-1 / 0.7), abs=0.02)
    assert card.draws.log_evidence == pytest.approx(np.log(0.5), abs=0.06)
    if np.isnan(beyond):
        assert card.verdict == "poor"
        assert card.reasons[0].endswith("% of the guide's draws have no finite density")
    else:
        assert card.verdict == "corrected"
        assert card.reasons[0].endswith("% of the guide's draws have a density of zero")
        inside = card.draws.counting
        mean = card.draws.weights[inside] @ card.draws.z[inside, 0]
        assert mean == pytest.approx(np.sqrt(2 / np.pi), abs=4 * 0.6 / np.sqrt(card.draws.ess))
        assert f"log evidence {card.log_evidence:.3f}" in str(card)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_guide_that_never_meets_the_support_is_poor_and_not_an_error():
    @vb.model
    def nowhere():
        x = vb.sample("x", dist.Normal(0.0, 1.0))
        vb.factor("far", jnp.where(x > 100, 0.0, -jnp.inf))

    posterior = vb.fit(cases.far_datum(np.array(0.0)))
    phi = np.array([[0.0], [0.0]], np.float32)
    card = judge.judge(dataclasses.replace(posterior.solution, target=vb.target(nowhere()), phi=phi), raw_key(0))
    assert card.verdict == "poor"
    assert card.reasons[0] == "100.0% of the guide's draws have a density of zero"
    assert np.isnan(card.log_evidence) and "log evidence unknown" in str(card)


def test_the_numbers_of_the_card_agree_with_quadrature():
    """Mean field N(0, s^2) for a bivariate normal of correlation 0.9: everything is a Gaussian integral."""
    card = fit("correlated", "mean_field").check()
    precision = np.linalg.inv([[1.0, 0.9], [0.9, 1.0]]) * 0.435890**2
    # log w = const + e^T (I - precision) e / 2 for e ~ N(0, I): its variance is the squared norm of the matrix, halved.
    assert card.log_weight_sd == pytest.approx(np.sqrt(np.sum((np.eye(2) - precision) ** 2) / 2), rel=0.1)
    assert card.elbo.value == pytest.approx(-0.830366, abs=4 * card.elbo.se + 1e-4)


def test_the_errors_are_those_of_the_exact_posterior():
    """A normal a little off: weighing must find the right mean and sd."""
    posterior = vb.fit(many(jnp.array([1.0, 1.0])), "mean_field")
    phi = np.array([[0.3, 0.0], np.log([1.0, 1.4])], np.float32)
    card = judge.judge(dataclasses.replace(posterior.solution, phi=phi), raw_key(0))
    assert (card.mean_error.name, card.log_sd_error.name) == ("x[0]", "x[1]")
    assert card.mean_error.value == pytest.approx(0.3, abs=0.06)
    assert card.log_sd_error.value == pytest.approx(-np.log(1.4), abs=0.06)
    assert card.verdict == "corrected"
    assert card.log_evidence == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize(
    ("name", "guide", "exact"), [("logistic", "full_rank", -72.13746), ("funnel", "mean_field", None)]
)
def test_the_standard_error_of_the_elbo_is_calibrated(name, guide, exact):
    posterior = fit(name, guide)
    estimates = [bound.elbo(posterior.guide, posterior.phi, posterior.target, raw_key(seed)) for seed in range(40)]
    values, errors = np.array([e.value for e in estimates]), np.array([e.se for e in estimates])
    z = (values - (values.mean() if exact is None else exact)) / errors
    # With 8 sets of draws z is Student t with 7 degrees of freedom: sd sqrt(7/5) = 1.18.
    assert 0.6 < z.std() < 1.9
    if exact is not None:
        assert abs(values.mean() - exact) < 2e-3


def test_the_elbo_is_that_of_quadrature():
    phi = fit("beta-bernoulli", "mean_field").phi
    loc, sd = float(phi[0, 0]), float(np.exp(phi[1, 0]))

    def integrand(z):
        return stats.norm.pdf(z, loc, sd) * (9 * z - 12 * np.logaddexp(0, z) - stats.norm.logpdf(z, loc, sd))

    exact = integrate.quad(integrand, loc - 10 * sd, loc + 10 * sd)[0]
    estimate = fit("beta-bernoulli", "mean_field").elbo
    assert estimate.value == pytest.approx(exact, abs=max(4 * estimate.se, 5e-5))


def test_an_estimate_prints_with_its_error():
    assert str(bound.Estimate(-1.23456, 0.0123)) == "-1.235 ± 0.012"


def test_the_card_is_escaped_in_a_notebook():
    card = dataclasses.replace(fit("linear", "full_rank").check(), reasons=("a<b",), advice=("c>d",))
    assert "a&lt;b" in card._repr_html_() and "c&gt;d" in card._repr_html_()


@pytest.mark.parametrize(("freedom", "verdicts"), [(1.0, {"poor"}), (2.0, {"poor", "corrected"}), (30.0, {"good"})])
def test_a_heavy_tail_is_seen_where_no_draw_goes(freedom, verdicts):
    """A Cauchy variable and one of 2 degrees of freedom have no variance at all."""
    card = vb.fit(student(np.array(freedom))).check()
    assert card.verdict in verdicts, card


def test_what_correlations_would_do_to_mean_field_is_exact_for_a_gaussian():
    x, _ = cases.quadratic_data()
    precision = x.T @ x / 0.25 + np.eye(3)
    ratios = np.sqrt(np.diag(np.linalg.inv(precision)) * np.diag(precision))
    card = fit("linear", "mean_field").check()
    assert [each.name for each in card.widened] == [f"beta[{i}]" for i in np.argsort(-ratios)]
    np.testing.assert_allclose([each.value for each in card.widened], np.sort(ratios)[::-1], rtol=1e-3)
    scaled = precision / np.sqrt(np.outer(np.diag(precision), np.diag(precision)))
    assert card.least_eigenvalue == pytest.approx(np.linalg.eigvalsh(scaled)[0], rel=1e-3)


def test_a_mean_field_fit_whose_only_fault_is_correlation_is_corrected_by_weighing_the_normal_that_has_them():
    posterior = fit("linear", "mean_field")
    card, x = posterior.check(), cases.quadratic_data()[0]
    exact = np.linalg.inv(x.T @ x / 0.25 + np.eye(3))
    assert card.verdict == "corrected" and card.ess > 0.6
    np.testing.assert_allclose(posterior.sd()["beta"], np.sqrt(np.diag(exact)), rtol=0.08)
    np.testing.assert_allclose(posterior.covariance("beta"), exact, atol=0.1 * np.abs(exact).max())
    assert (posterior.uncorrected().sd()["beta"] < 0.7 * np.sqrt(np.diag(exact))).any()


def test_doubts_whose_draws_would_outlast_the_time_are_not_looked_into():
    def one_pair(z):  # correlated by .8
        return -0.5 * (z[0] ** 2 - 1.6 * z[0] * z[1] + z[1] ** 2) / 0.36 - 0.5 * jnp.sum(z[2:] ** 2)

    solution = vb.fit(vb.density(one_pair, 600), "mean_field").solution
    whole = judge.judge(solution, raw_key(0), Watch.lasting(3600.0))
    over_soon = type("OverSoon", (Watch,), {"is_over_in": lambda self, seconds: seconds > 0})()
    brief = judge.judge(solution, raw_key(0), over_soon)
    assert len(whole.draws) > len(brief.draws) == judge.MIN_DRAWS_WIDE and not over_soon.is_over
    assert "as the time was over" in brief.notes[0].text and brief.verdict != "good"


def test_restarts_on_one_ridge_are_not_other_modes():
    """Columns that are nearly equal: restarts end many mean-field sds apart, and there is one mode."""

    @vb.model
    def ridge(x, y):
        beta = vb.sample("beta", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Normal(x @ beta, 0.1), obs=y)

    t = np.linspace(-1, 1, 50)
    for seed in range(5):
        posterior = vb.fit(ridge(np.stack([t, t + 0.001 * t**2], axis=1), t), seed=seed)
        assert posterior.check().other_modes.found == ()


def test_the_card_is_html_in_a_notebook():
    page = fit("schools", "full_rank").check()._repr_html_()
    assert re.match("<p><b style='[^']*background:#cf222e[^']*'>verdict: poor</b>", page) and "try: " in page
    assert "<details><summary>details</summary><div" in page


def test_a_first_look_that_is_not_good_leaves_doubts_open_and_is_whole_where_time_is_over():
    """Of a banana."""
    target = vb.density(lambda z: -(z[0] ** 2) / 2 - (z[1] - z[0] ** 2) ** 2 / 2, 2)
    solution = vb.fit(target, "full_rank").solution
    looks = [
        judge.judge(solution, raw_key(0), watch, at_first_look=lambda: True)
        for watch in (Watch(), Watch(deadline=-1.0))
    ]
    assert [len(look.draws) for look in looks] == 2 * [judge.DRAWS] and len(
        judge.judge(solution, raw_key(0)).draws
    ) > judge.DRAWS
    assert [bool(look.notes) for look in looks] == [False, True] and looks[1].notes[0].topic == "judging"
    assert all("nan" not in str(look) and look.verdict != "good" for look in looks)
    assert " alone: " in str(looks[1]) and " alone: " not in str(looks[0])
