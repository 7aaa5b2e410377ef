"""`fit` chooses guide and method by the model, refuses what cannot be, and repeats itself to the bit."""

from __future__ import annotations

import contextlib

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vbppl as vb
import vbppl.distributions as dist
from vbppl.inference import bound

pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")

X, Y = cases.logistic_data()
LOGISTIC = cases.logistic_regression(X, Y)
PAIRS = cases.normal_normal(cases.PAIRS)
FAR = cases.far_datum(np.array(10.0))


@vb.model
def with_param(y):
    scale = vb.param("scale", 1.0, constraint=dist.constraints.positive)
    loc = vb.sample("loc", dist.Normal(0.0, 1.0))
    vb.sample("y", dist.Normal(loc, scale).expand([len(y)]).to_event(1), obs=y)


@vb.guide
def far_guide(y):
    loc = vb.param("loc", 0.0)
    scale = vb.param("scale", 1.0, constraint=dist.constraints.positive)
    vb.sample("x", dist.Normal(loc, scale))


@vb.model
def nothing_latent(y):
    vb.sample("y", dist.Normal(0.0, 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            FAR,
            {"guide": far_guide(np.array(10.0))},
            "the deterministic method cannot fit a ProgramGuide guide: its draws are not those of a Gaussian.",
        ),
        (with_param(np.zeros(3)), {}, "the deterministic method cannot fit learnt params (scale)."),
        (LOGISTIC, {"batch_size": 20}, "the deterministic method cannot fit minibatches (plate 'row')."),
        (nothing_latent(1.0), {}, "the deterministic method cannot fit a model without latent sites."),
    ],
    ids=["program", "params", "minibatch", "nothing"],
)
def test_the_deterministic_method_is_refused_where_it_cannot_be(model, options, message):
    with pytest.raises(vb.ModelError) as error:
        vb.fit(model, method=vb.Deterministic(), **options)
    mend = "Use vb.fit with method='auto' or vb.Stochastic(), one model at a time."
    assert str(error.value) == f"{message}\n  To mend it: {mend}"


def test_an_unknown_guide_or_method_is_refused_with_the_choices():
    with pytest.raises(
        ValueError, match=r"^guide must be one of 'auto', 'mean_field', 'full_rank', .* not 'meanfield'"
    ):
        vb.fit(FAR, "meanfield")
    with pytest.raises(
        ValueError, match=r"^method must be 'auto', vb\.Determ.* or vb\.Stochastic\(\.\.\.\), not 'svi'\.$"
    ):
        vb.fit(FAR, method="svi")


@pytest.mark.parametrize(
    ("model", "guide"),
    [
        (FAR, vb.MeanField),
        (PAIRS, vb.MeanField),
        (LOGISTIC, vb.FullRank),
        (cases.correlated_pair(), vb.FullRank),
        (nothing_latent(1.0), vb.MeanField),
    ],
    ids=["one dimension", "independent", "correlated a little", "correlated", "none"],
)
def test_auto_means_full_rank_where_there_are_correlations_to_learn(model, guide):
    assert isinstance(vb.fit(model).guide, guide)


def test_a_model_without_latent_sites_has_its_log_density_for_elbo():
    posterior = vb.fit(nothing_latent(1.0))
    assert posterior.elbo.value == pytest.approx(-0.5 - 0.5 * np.log(2 * np.pi), abs=1e-5)
    assert posterior.sample(3) == {}
    assert posterior.check().verdict == "good"


def test_one_dimension_by_full_rank_is_mean_field():
    """In 32 bits a fit ends with 1e-7 nats to gain, which is `sqrt(2e-7)` sds."""
    np.testing.assert_allclose(vb.fit(FAR, "full_rank").phi[:2], vb.fit(FAR, "mean_field").phi, atol=5e-4)


@pytest.mark.parametrize("guide", ["mean_field", "full_rank"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_the_same_answer(guide):
    first, again, other = (vb.fit(LOGISTIC, guide, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.phi, again.phi)
    told = [[line for line in fit.check().lines() if not line.startswith("took")] for fit in (first, again)]
    assert first.elbo == again.elbo and told[0] == told[1]
    assert not np.array_equal(first.phi, other.phi)
    sd = cases.flat_moments(first)[1]
    assert np.abs((first.phi[0] - other.phi[0]) / sd).max() < 0.02


def test_a_seed_may_be_a_key_of_either_style():
    by_int = vb.fit(FAR, seed=7)
    for key in (jax.random.key(7), jax.random.PRNGKey(7)):
        np.testing.assert_array_equal(vb.fit(FAR, seed=key).phi, by_int.phi)


@pytest.mark.parametrize("seed", [-1, 1.5, "7", True, None])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises((TypeError, ValueError), match="^seed must "):
        vb.fit(FAR, seed=seed)


@pytest.mark.parametrize("guide", ["mean_field", "full_rank"])
def test_a_second_fit_of_equal_shapes_compiles_nothing(guide, compilations):
    vb.fit(LOGISTIC, guide)
    before = compilations()
    vb.fit(cases.logistic_regression(X[::-1] * 1.1, 1 - Y), guide, seed=5)
    assert compilations() == before


def test_the_models_python_code_runs_at_most_twice_at_the_first_fit_and_once_at_the_second():
    runs = []

    @vb.model
    def counted(y):
        runs.append(1)
        x = vb.sample("x", dist.Normal(0.0, 1.0))
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Normal(x, 1.0), obs=y)

    vb.fit(counted(np.zeros(5)))
    first = len(runs)
    vb.fit(counted(np.ones(5)))
    assert first <= 3  # for the shapes, for the density, and for the values on the supports
    assert len(runs) - first <= 1


@pytest.mark.parametrize("guide", ["mean_field", "full_rank"])
def test_start_from_a_posterior_ends_at_the_same_place_in_fewer_steps(guide):
    cold = vb.fit(LOGISTIC, guide)
    warm = vb.fit(LOGISTIC, guide, start=cold, seed=1)
    sd = cases.flat_moments(cold)[1]
    assert np.abs((warm.phi[0] - cold.phi[0]) / sd).max() < 0.02
    assert warm.status.steps < cold.status.steps


def test_start_from_values_begins_there():
    seen = []
    vb.fit(FAR, start={"x": 123.0}, callback=seen.append)
    assert seen[0].params["guide"][0] == pytest.approx(123.0)


def test_start_lacking_a_site_is_refused():
    with pytest.raises(vb.ModelError, match="lack the latent site b"):
        vb.fit(cases.poisson_regression(np.ones(3), np.ones(3)), start={"a": 0.0})


def test_start_picks_the_mode_that_is_fitted():
    for side in (-10.0, 10.0):
        assert vb.fit(cases.two_far_modes(), start={"x": side}).mean()["x"] == pytest.approx(side, abs=0.01)


@pytest.mark.parametrize("guide", ["mean_field", "full_rank"])
def test_a_callback_sees_every_step_and_changes_nothing(guide):
    seen = []
    monitored, alone = vb.fit(LOGISTIC, guide, callback=seen.append), vb.fit(LOGISTIC, guide)
    np.testing.assert_array_equal(monitored.phi, alone.phi)
    assert [now.step for now in seen] == list(range(1, monitored.status.steps + 1))
    assert [now.elbo for now in seen] == pytest.approx(list(monitored.history))
    assert all(a.seconds <= b.seconds for a, b in zip(seen, seen[1:]))


@pytest.mark.parametrize("method", ["auto", vb.Stochastic(steps=20)], ids=["fixed", "stochastic"])
def test_what_a_callback_raises_comes_out_as_it_is(method):
    mine = RuntimeError("mine")

    def fail(progress):
        raise mine

    with pytest.raises(RuntimeError) as caught:
        vb.fit(FAR, callback=fail, method=method)
    assert caught.value is mine and mine.__cause__ is None and not getattr(mine, "__notes__", ())


@pytest.mark.parametrize("method", ["auto", vb.Stochastic(steps=20)], ids=["fixed", "stochastic"])
@pytest.mark.parametrize("runs", [0, 1])
def test_an_interrupt_before_the_first_step_is_over_is_passed_on(runs, method):
    left = [None] * runs

    @vb.model
    def slow():
        if not left:
            raise KeyboardInterrupt
        left.pop()
        vb.sample("x", dist.Normal(0.0, 1.0))

    with pytest.raises(KeyboardInterrupt):
        vb.fit(slow(), method=method)


def test_an_interrupt_while_a_poor_answer_is_bettered_keeps_it():
    told: list[int] = []
    vb.fit(cases.two_far_modes(), callback=lambda progress: told.append(progress.step))
    first = vb.fit(cases.two_far_modes(), "mean_field").status.steps  # the other steps are those of something better

    def stop(progress):
        left.append(progress.step)
        if len(left) == len(told):
            raise KeyboardInterrupt

    left: list[int] = []
    posterior = vb.fit(cases.two_far_modes(), callback=stop)
    assert isinstance(posterior.guide, vb.MeanField)
    assert posterior.status.converged and posterior.status.steps == first
    assert posterior.check().verdict == "poor"
    assert "ended: interrupted while a better answer was looked for" in posterior.check().details


def test_an_unconverged_fit_warns():
    def stop(progress):
        raise KeyboardInterrupt

    with pytest.warns(vb.VbpplWarning, match="interrupted: not converged"):
        vb.fit(FAR, callback=stop)


def test_a_model_whose_data_were_forgotten_warns():
    @vb.model
    def forgetful(y=None):
        x = vb.sample("x", dist.Normal(0.0, 1.0))
        vb.sample("y", dist.Normal(x, 1.0), obs=y)

    with pytest.warns(vb.VbpplWarning, match="observes nothing.*Was the data argument forgotten"):
        vb.fit(forgetful())


def test_data_with_a_nan_name_the_site():
    with pytest.raises(vb.ModelError, match=r"^site 'y': 1 of 3 values of obs is NaN; the first, at \[1\]"):
        vb.fit(cases.linear_regression(np.ones((3, 2)), np.array([0.0, np.nan, 1.0])))


@pytest.mark.parametrize("wrong", [cases.far_datum, lambda y: y, None])
def test_what_is_not_a_model_applied_to_its_data_is_refused(wrong):
    with pytest.raises((vb.ModelError, TypeError)):
        vb.fit(wrong)


def test_integer_and_float_data_give_one_answer():
    whole = vb.fit(cases.beta_bernoulli(cases.FLIPS))
    real = vb.fit(cases.beta_bernoulli(cases.FLIPS.astype(float)))
    np.testing.assert_allclose(whole.phi, real.phi, atol=1e-5)


def test_jax_arrays_and_numpy_arrays_give_the_same_bits():
    np.testing.assert_array_equal(
        vb.fit(LOGISTIC).phi, vb.fit(cases.logistic_regression(jnp.asarray(X), jnp.asarray(Y))).phi
    )


def test_one_fit_in_double_precision_leaves_the_session_in_single():
    precise = vb.fit(FAR, method=vb.Deterministic(precision="float64"))
    assert precise.status.decrement < 1e-12  # out of reach in 32 bits
    assert precise.elbo.value == pytest.approx(-0.5 * np.log(2 * np.pi * 1.25) - 40.0, abs=1e-9)
    assert precise.phi.dtype == np.float32 and precise.sample(2)["x"].dtype == np.float32
    assert jnp.zeros(1).dtype == np.float32


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision must be None or 'float64', not 'half'"):
        vb.Deterministic(precision="half")


def test_a_warm_start_keeps_the_better_coordinates_wherever_the_values_lie():
    """The average of the schools lies at a thousand: non-centred, `theta` starts from `(theta - mu) / tau`."""

    @vb.model
    def far_schools(sigma, y):
        mu = vb.sample("mu", dist.Normal(1000.0, 50.0))
        tau = vb.sample("tau", dist.HalfCauchy(5.0))
        with vb.plate("school", len(sigma)):
            theta = vb.sample("theta", dist.Normal(mu, tau))
            vb.sample("y", dist.Normal(theta, sigma), obs=y)

    model = far_schools(cases.SCHOOLS_SIGMA, cases.SCHOOLS_Y + 1000)
    cold = vb.fit(model)
    warm = vb.fit(model, start=cold)
    assert cold.target.parameterisations["theta"].weight == warm.target.parameterisations["theta"].weight == 0.0
    assert warm.elbo.value == pytest.approx(cold.elbo.value, abs=0.05)


def test_auto_fits_where_only_one_kind_of_coordinates_has_a_start():
    @vb.model
    def walled():
        tau = vb.sample("tau", dist.HalfNormal(1.0))
        theta = vb.sample("theta", dist.Cauchy(1e9, tau))
        vb.factor("wall", jnp.where(jnp.abs(theta) < 100, -(theta**2) / 2, -jnp.inf))

    posterior = vb.fit(walled())
    assert posterior.target.parameterisations["theta"].weight == 1.0
    assert abs(posterior.mean()["theta"]) < 1.0
    assert posterior.check().verdict == "good" or "no start has a finite density there" in str(posterior.check())


@pytest.mark.parametrize("guide", ["auto", "full_rank"])
def test_an_interrupt_while_it_is_judged_does_not_lose_a_fit(guide, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    whole = vb.fit(LOGISTIC, guide)
    monkeypatch.setattr(bound, "elbo", interrupted)
    posterior = vb.fit(LOGISTIC, guide)
    np.testing.assert_array_equal(posterior.phi, whole.phi)
    assert posterior.status.reason == "interrupted" and not posterior.status.converged
    assert posterior.check().verdict == "poor" and "interrupted before it was judged" in str(posterior.summary())
    assert len(vb.fit_many(LOGISTIC, seeds=range(3))) == 1


def test_an_interrupt_gives_back_the_best_start_so_far():
    seen = []

    def stop(progress):
        seen.append(progress.elbo)
        if progress.step == 8:
            raise KeyboardInterrupt

    posterior = vb.fit(cases.two_far_modes(), "mean_field", callback=stop)
    assert posterior.elbo.value == pytest.approx(max(seen), abs=0.5)
    assert list(posterior.history) == sorted(posterior.history)


@vb.model
def learnt_level(y):
    level = vb.param("level", 0.1)
    x = vb.sample("x", dist.Normal(level, 1.0))
    vb.sample("y", dist.Normal(x, 1.0), obs=y)


def test_a_warm_start_takes_over_learnt_params_and_the_guides_own():
    first = vb.fit(learnt_level(np.array(5.0)), method=vb.Stochastic(steps=2000))
    assert first.params["level"] == pytest.approx(5.0, abs=0.3)  # the maximum of the marginal likelihood is y
    still = vb.Stochastic(optimizer=optax.sgd(0.0), steps=1, average=False)
    again = vb.fit(learnt_level(np.array(5.0)), method=still, start=first, seed=1)
    np.testing.assert_array_equal(again.params["level"], first.params["level"])
    np.testing.assert_array_equal(again.phi, first.phi)


def test_a_warm_start_of_another_family_begins_at_the_posteriors_place_and_width():
    first = vb.fit(LOGISTIC, "full_rank")
    still = vb.Stochastic(optimizer=optax.sgd(0.0), steps=1, average=False)
    again = vb.fit(LOGISTIC, "mean_field", method=still, start=first)
    # Of 512 draws: four standard errors of a mean, and of a log sd.
    np.testing.assert_allclose(again.mean()["beta"], first.mean()["beta"], atol=4 * first.sd()["beta"].max() / 512**0.5)
    np.testing.assert_allclose(np.log(again.sd()["beta"]), np.log(first.sd()["beta"]), atol=4 / 1024**0.5)


@pytest.mark.parametrize("method", [vb.Deterministic(), vb.Stochastic()], ids=["fixed draws", "stochastic"])
def test_when_the_time_is_over_there_is_what_has_been_reached_with_its_report(method):
    with pytest.warns(vb.VbpplWarning, match="deadline|time"):
        posterior = vb.fit(LOGISTIC, method=method, seconds=1e-9)
    assert posterior.status.reason == "deadline" and not posterior.status.converged
    assert posterior.report.verdict == "poor"
    assert np.isfinite(posterior.elbo.value) and np.isfinite(posterior.mean()["beta"]).all()


@pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")
def test_a_strict_session_may_fit():
    """Its settings are for the user's own code."""

    @vb.model
    def counted(y):
        logit = vb.sample("logit", dist.Normal(0.0, np.ones(2, np.float32)).to_event(1))
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Bernoulli(logits=logit.sum()), obs=vb.subsample(y))

    model = counted(np.array([1, 0, 1, 1], np.int32))
    strict = jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"), jax.transfer_guard("disallow")
    with contextlib.ExitStack() as session:
        for setting in strict:
            session.enter_context(setting)
        posterior = vb.fit(model)
        steps = vb.fit(model, batch_size=2, method=vb.Stochastic(steps=20))
        assert model.sample(5)["y"].shape == (5, 4)
        assert posterior.predict(n=5)["y"].shape == (5, 4)
    assert np.isfinite(steps.history).all()
