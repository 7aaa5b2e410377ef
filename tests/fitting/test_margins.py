"""Shaped margins as a remedy and by name: known skewed posteriors, and what is left alone."""

from __future__ import annotations

import pickle

import cases
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.keys import raw_key
from vbppl.core.watch import Watch
from vbppl.fitting.plan import plan
from vbppl.fitting.prepare import judge_solution, prepare
from vbppl.fitting.remedies import margins
from vbppl.guides.gaussian import normal_of

pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")

SHAPES = np.array([0.3, 0.5, 1.0, 2.0, 5.0])
SEEN = np.array([-0.3, -0.15, 0.0, 0.1, 0.5, 0.9, 1.0, 1.1, 1.3, 0.5])


@vb.model
def gammas(shapes):
    with vb.plate("i", len(shapes)):
        vb.sample("x", dist.Gamma(shapes, 1.0))


@vb.model
def simplex(concentration):
    vb.sample("x", dist.Dirichlet(concentration))


@vb.model
def box(y):
    """Seen through noise of .25; the unit interval is a wall for most of them."""
    with vb.plate("i", len(y)):
        x = vb.sample("x", dist.Uniform(0.0, 1.0))
        vb.sample("y", dist.Normal(x, 0.25), obs=y)


def of_gammas():
    return gammas(SHAPES), SHAPES, np.sqrt(SHAPES)


def of_simplex(concentration=1.0, size=30):
    mean = 1 / size
    sd = np.sqrt(mean * (1 - mean) / (concentration * size + 1))
    return simplex(np.full(size, concentration)), np.full(size, mean), np.full(size, sd)


def of_box(y=SEEN):
    each = [stats.truncnorm(-m / 0.25, (1 - m) / 0.25, m, 0.25) for m in y]
    return box(y), np.array([x.mean() for x in each]), np.array([x.std() for x in each])


def errors(posterior, mean, sd):
    """The worst errors of means, in sds, and of log sds."""
    found, spread = posterior.mean()["x"], posterior.sd()["x"]
    return float(np.abs((found - mean) / sd).max()), float(np.abs(np.log(spread / sd)).max())


def is_bent(posterior):
    return isinstance(posterior.guide, vb.guides.Copula)


# A chi of 512 draws at eight looks: means are known to .05 sd and log sds to .05; a gamma of .3 is more than a power.
@pytest.mark.parametrize(
    ("case", "log_sd", "seed"),
    [(of_gammas, 0.15, 0)]
    + [
        pytest.param(*case, seed, marks=pytest.mark.slow)
        for case in ((of_gammas, 0.15), (of_simplex, 0.3))
        for seed in (1, 2)
    ],
)
def test_skewed_posteriors_are_answered(case, log_sd, seed):
    model, mean, sd = case()
    posterior = vb.fit(model, seed=seed)
    off = errors(posterior, mean, sd)
    assert posterior.report.verdict in ("good", "corrected"), posterior.report
    assert off[0] < 0.05 and off[1] < log_sd
    if is_bent(posterior):  # else the Gaussian was good already
        assert off[1] < 0.15 and -0.1 < posterior.elbo.value < 0.01  # both evidences are 1
        assert [n.topic for n in posterior.solution.notes].count("margins") == 1


def test_what_was_gained_is_told_and_the_tail_is_that_of_the_bent_guide():
    """Gammas of shapes .3 to 5, whose Gaussian is poor for the tails of the small ones."""
    posterior = vb.fit(of_gammas()[0])
    note = next(note for note in posterior.report.notes if note.topic == "margins")
    assert note.text.startswith("a Gaussian copula with shaped margins gains 0.") and note.text.endswith("nats, kept")
    assert is_bent(posterior)
    assert posterior.report.verdict == "good" and posterior.report.ess > 0.4
    assert abs(posterior.report.tail.value) < 0.35  # that of the normal is cut off at the walls


@pytest.fixture(scope="module")
def bent():
    return vb.fit(of_box()[0], "copula")


def test_by_name_it_answers_all_that_a_posterior_is_asked(bent):
    model, mean, sd = of_box()
    off = errors(bent, mean, sd)
    assert is_bent(bent) and bent.report.verdict == "good" and max(off) < 0.03
    draws = bent.sample(2000, seed=1)
    assert np.asarray(bent.log_prob(draws)).shape == (2000,)
    weights = np.asarray(model.log_joint(draws)) - np.asarray(bent.log_prob(draws))
    assert weights.mean() == pytest.approx(bent.elbo.value, abs=4 * weights.std() / np.sqrt(2000))
    below = stats.truncnorm(-SEEN[0] / 0.25, (1 - SEEN[0]) / 0.25, SEEN[0], 0.25).ppf(0.9)
    assert np.mean(draws["x"][:, 0] < below) == pytest.approx(0.9, abs=0.03)
    assert bent.predict(n=7)["y"].shape == (7, 10) and bent.resample(9)["x"].shape == (9, 10)
    assert "x[9]" in str(bent.summary()) and bent.covariance("x").shape == (10, 10)
    with pytest.raises(TypeError, match="linear response corrects a mean-field guide, not Copula"):
        bent.linear_response()
    again = pickle.loads(pickle.dumps(bent))
    np.testing.assert_array_equal(again.log_prob(draws), bent.log_prob(draws))


def test_side_by_side_and_from_where_another_ended_it_is_the_same(bent):
    ys = [SEEN, SEEN[::-1].copy()]
    one, other = vb.fit_many(box, [{"y": y} for y in ys], guide="copula")
    for posterior in (one, vb.fit(box(SEEN), "copula", start=bent)):
        assert is_bent(posterior) and posterior.report.verdict == "good"
        assert posterior.elbo.value == pytest.approx(bent.elbo.value, abs=0.01)
        np.testing.assert_allclose(posterior.mean()["x"], bent.mean()["x"], atol=0.01)
    np.testing.assert_allclose(other.mean()["x"], one.mean()["x"][::-1], atol=0.01)


def test_a_copula_without_correlations_and_one_in_float64(bent):
    _, mean, sd = of_box()
    for guide, precision in ((vb.guides.Copula(vb.MeanField()), "auto"), (vb.guides.Copula(), "float64")):
        posterior = vb.fit(box(SEEN), guide, precision=precision)
        assert is_bent(posterior) and max(errors(posterior, mean, sd)) < 0.03
        assert np.asarray(posterior.phi["layers"][0]).dtype == np.asarray(bent.phi["layers"][0]).dtype


@pytest.mark.slow
def test_stochastic_steps_shape_margins_too():
    _, mean, sd = of_box()
    posterior = vb.fit(box(SEEN), "copula", method=vb.Stochastic())
    assert posterior.status.converged and posterior.report.verdict == "good"
    assert max(errors(posterior, mean, sd)) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shares_of_nearly_nothing_are_met_in_float64(seed):
    """Dirichlet(.1) in 29 dims, poor before: logs of shares have exponential tails, to where 32 bits underflow."""
    model, mean, sd = of_simplex(0.1)
    posterior = vb.fit(model, seed=seed, precision="float64")
    off = errors(posterior, mean, sd)
    assert posterior.report.verdict in ("good", "corrected") and posterior.report.ess > 0.3
    assert off[0] < 0.1 and off[1] < 0.2 and posterior.elbo.value > -0.5


def climbed(model, guide="full_rank", seed=0):
    """A Gaussian in the model's own coordinates, its report, and what the remedy makes of them."""
    target, raw = vb.target(model), raw_key(seed)
    planned = plan(target, guide)
    problem = prepare(planned, [target], [raw])
    (before,) = planned.solve(problem, Watch())
    before, report = judge_solution(before, raw, Watch())
    return before, report, *margins.shape_margins(planned, problem, before, report, Watch())


@pytest.mark.parametrize(
    "model",
    [cases.logistic_regression(*cases.logistic_data()), cases.eight_schools(cases.SCHOOLS_SIGMA, cases.SCHOOLS_Y)],
    ids=["logistic regression", "centred hierarchy"],
)
def test_what_promises_nothing_costs_a_look_and_is_left_alone(model):
    """A Gaussian-like posterior; and a funnel, whose fault is dependence, which no margin mends."""
    before, report, after, card = climbed(model)
    assert after.guide is before.guide and after.phi is before.phi and card is report and after.notes == before.notes
    assert after.status.gradients == before.status.gradients + 512


def test_a_bend_that_gains_nothing_on_new_draws_is_not_kept(monkeypatch):
    monkeypatch.setattr(margins, "PROMISED", -np.inf)
    before, report, after, card = climbed(cases.eight_schools(cases.SCHOOLS_SIGMA, cases.SCHOOLS_Y))
    assert after.guide is before.guide and after.phi is before.phi and card is report
    (note,) = (note for note in after.notes if note.topic == "margins")
    assert note.text.startswith("a Gaussian copula") and note.text.endswith("too little to be kept")
    assert after.status.gradients > before.status.gradients + 4096  # what was spent is told


def test_a_time_that_is_over_leaves_the_gaussian():
    target, raw = vb.target(gammas(SHAPES)), raw_key(0)
    planned = plan(target)
    problem = prepare(planned, [target], [raw])
    (before,) = planned.solve(problem, Watch())
    before, report = judge_solution(before, raw, Watch())
    after, card = margins.shape_margins(planned, problem, before, report, Watch.lasting(1e-9))
    assert after.guide is before.guide and card is report and normal_of(after.guide, after.phi) is not None


def test_good_fits_pay_nothing(monkeypatch):
    """No remedy is tried where the answer is good, so a Gaussian-like model has the gradients it had."""
    model = cases.logistic_regression(*cases.logistic_data())
    with_rung = vb.fit(model).status.gradients
    monkeypatch.setattr("vbppl.fitting.escalate.REMEDIES", ())
    assert vb.fit(model).status.gradients == with_rung


def test_a_copula_of_what_is_normal_is_that_normal():
    """Nothing is skewed: the bends stay near zero, and the bound is the evidence."""
    y = jnp.array([1.0, 2.5, 0.5])

    @vb.model
    def normal(y):
        mu = vb.sample("mu", dist.Normal(0.0, 2.0))
        slope = vb.sample("slope", dist.Normal(0.0, 1.0))
        vb.sample("y", dist.Normal(mu + slope * jnp.arange(3.0), 1.0).to_event(1), obs=y)

    posterior = vb.fit(normal(y), "copula")
    design = np.stack([np.ones(3), np.arange(3.0)], axis=1)
    covariance = np.eye(3) + design @ np.diag([4.0, 1.0]) @ design.T
    assert posterior.elbo.value == pytest.approx(stats.multivariate_normal(np.zeros(3), covariance).logpdf(y), abs=2e-3)
    assert np.abs(np.tanh(posterior.phi["layers"][0][2])).max() < 0.02
