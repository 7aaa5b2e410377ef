"""`refine`: draws of chains that start from a fit, against closed forms and long references."""

from __future__ import annotations

import dataclasses
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import quick

import vbppl as vb
import vbppl.distributions as dist
from benchmarks.posteriors import hierarchies, store
from vbppl.core.watch import Watch
from vbppl.fitting import refine
from vbppl.guides.program import ProgramGuide
from vbppl.inference import sampling
from vbppl.inference.solution import Mode, Searched
from vbppl.posterior.judge import POINT
from vbppl.posterior.mcmc.report import judge_chains
from vbppl.posterior.report import Unjudged

pytest.importorskip("blackjax")
pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")

NOISE = 0.5


@vb.model
def regression(x, y=None):
    beta = vb.sample("beta", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    with vb.plate("row", x.shape[0]):
        vb.sample("y", dist.Normal(x @ beta, NOISE), obs=y)


def data(seed: int = 0, rows: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Two columns that are nearly one, so that mean field is poor."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 1)) + 0.1 * rng.normal(size=(rows, 2))
    return x, x @ [1.0, -0.5] + NOISE * rng.normal(size=rows)


def right(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of beta in closed form."""
    covariance = np.linalg.inv(np.eye(2) + x.T @ x / NOISE**2)
    return covariance @ x.T @ y / NOISE**2, covariance


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly():
    """The chains' program without LLVM's optimisation: what XLA makes of the formulas is the same."""
    patch = pytest.MonkeyPatch()
    patch.setattr(sampling, "compiler_options", lambda: quick.OPTIONS)
    sampling._program.cache_clear()
    yield
    patch.undo()
    sampling._program.cache_clear()


@pytest.fixture(scope="module")
def fitted():
    return vb.fit(regression(*data()), "mean_field", method=vb.Deterministic(draws=64))


@pytest.fixture(scope="module")
def refined(fitted):
    return vb.refine(fitted, n=1000)


def test_a_poor_mean_field_fit_becomes_right_and_says_so(fitted, refined):
    mean, covariance = right(*data())
    guide = fitted.uncorrected().sd()["beta"]
    assert np.all(guide < 0.5 * np.sqrt(np.diag(covariance)))
    error = refined.summary().rows
    for (label, row), exact, sd in zip(error, mean, np.sqrt(np.diag(covariance))):
        found_mean, found_sd, mc_error, bulk = row[0], row[1], row[5], row[6]
        assert abs(found_mean - exact) < 4 * mc_error, label
        # The sd of a normal's sd is sd / sqrt(2 n); antithetic chains are worth more for the mean only.
        assert abs(np.log(found_sd / sd)) < 4 / np.sqrt(2 * min(bulk, 1000)), label
    card = refined.check()
    assert card.verdict == "good" and not card.reasons and card.r_hat.value < 1.01
    assert card.divergences == 0 and min(card.ess_bulk.value, card.ess_tail.value) > 400
    card.require("good")


def test_all_that_a_posterior_says_is_of_the_draws(refined):
    mean, covariance = right(*data())
    np.testing.assert_allclose(refined.covariance(), covariance, atol=0.2 * covariance.max())
    x, y = data()
    predicted = refined.predict(regression(x), n=2000)["y"]
    sd = np.sqrt(np.einsum("ij,jk,ik->i", x, covariance, x) + NOISE**2)
    assert np.abs((predicted.mean(axis=0) - x @ mean) / sd).max() < 5 / np.sqrt(1000)
    assert refined.log_likelihood(n=7)["y"].shape == (7, 20) and refined.sample(5)["beta"].shape == (5, 2)
    found = refined.expectation(lambda site: site["beta"][0] > mean[0])
    assert abs(found.value - 0.5) < 4 * found.se and 0.003 < found.se < 0.02
    draws = refined.sample(4000)["beta"]
    assert len(np.unique(draws[:, 0])) > 3500  # each stands once, but for paths that ended where they began


def test_the_guide_alone_keeps_its_own_report(fitted, refined):
    alone = refined.uncorrected()
    assert alone.check().verdict == fitted.check().verdict != "good"
    np.testing.assert_array_equal(alone.mean()["beta"], fitted.uncorrected().mean()["beta"])
    assert refined.elbo == fitted.elbo


def test_the_card_has_at_most_eight_lines_and_says_what_was_done(refined):
    lines = refined.check().lines()
    assert len(lines) <= 8
    assert lines[0] == "verdict: good"
    assert lines[1].startswith("  worst R-hat 1.00") and lines[1].endswith("(limits 1.01 and 400)")
    assert lines[2].startswith("NUTS: 4 chains of 1,000 draws; 1,300 steps, ") and "divergences: 0" in lines[2]
    assert lines[3].startswith("the guide alone: verdict ")
    table = str(refined.summary())
    assert table.startswith("refined") and all(f in table for f in ("MC error", "bulk ESS", "tail ESS", "R-hat"))


def test_a_second_run_at_other_data_compiles_nothing_and_the_same_seed_gives_the_same_bits(refined, compilations):
    other = vb.fit(regression(*data(1)), "mean_field", method=vb.Deterministic(draws=64))
    vb.refine(other, n=50)
    before = compilations()
    once, twice = vb.refine(other, n=120, seed=3), vb.refine(other, n=120, seed=3, target_accept=0.9)
    assert compilations() == before
    np.testing.assert_array_equal(once.sample(9)["beta"], twice.sample(9)["beta"])
    assert not np.array_equal(once.sample(9)["beta"], vb.refine(other, n=120, seed=4).sample(9)["beta"])
    assert once.check().status.text == "4 chains of 120 draws"


def test_a_refined_posterior_can_be_refined_and_a_fit_can_start_from_it(refined):
    again = vb.refine(refined, n=200)
    assert again.uncorrected().check().verdict == refined.uncorrected().check().verdict
    warm = vb.fit(regression(*data()), "full_rank", start=refined)
    np.testing.assert_allclose(warm.mean()["beta"], right(*data())[0], atol=1e-3)


def test_few_draws_are_poor_and_the_card_says_how_many_to_ask_for(fitted):
    with pytest.warns(
        vb.errors.PoorFitWarning, match="the chains of vb.refine are poor: .*effective sample size of beta"
    ):
        few = vb.refine(fitted, n=50)
    card = few.check()
    assert card.verdict == "poor" and card.advice == ("vb.refine(posterior, n=1_000)",)


def test_time_that_is_over_in_the_warm_up_leaves_the_posterior_as_it_was(fitted):
    text = r"deadline in the warm-up, after 50 steps, before the first draw; the posterior is as it was\."
    with pytest.warns(vb.errors.NotConvergedWarning, match=text):
        assert vb.refine(fitted, seconds=1e-6) is fitted


def test_an_interrupt_gives_back_the_draws_so_far(fitted, monkeypatch):
    def tell(now):
        if len(now) >= 600:
            raise KeyboardInterrupt

    monkeypatch.setattr(refine, "watching", lambda *_: _entered(Watch(tell)))
    with pytest.warns(vb.errors.NotConvergedWarning, match="vb.refine: 4 chains of 600 draws, interrupted; "):
        cut = vb.refine(fitted)
    assert cut.check().cut_short == "interrupted" and cut.check().verdict == "good"


class _entered:
    """A context that gives a value."""

    def __init__(self, value):
        self.value = value

    def __enter__(self):
        return self.value

    def __exit__(self, *_):
        return None


def test_without_blackjax_the_message_says_what_to_install(fitted, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "blackjax"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "blackjax", None)
    with pytest.raises(ModuleNotFoundError) as error:
        vb.refine(fitted)
    text = 'vb.refine needs BlackJAX, which is not installed: pip install "vbppl[refine]" (or pip install blackjax).'
    assert str(error.value) == text


def chains(fitted, z: np.ndarray, diverged: float = 0.0) -> sampling.Chains:
    """As if these had been drawn, `(chains, draws, dim)`."""
    lost = np.random.default_rng(0).random(z.shape[:2]) < diverged
    frame = sampling.Frame(np.zeros(2), np.eye(2))
    return sampling.Chains(z, np.zeros(z.shape[:2]), lost, np.ones(z.shape[:2]), 0.5, 1300, 9000, frame)


def reasons(fitted, z, diverged=0.0, **changes):
    report = dataclasses.replace(fitted.report, **changes)
    found = judge_chains(fitted.solution, report, fitted.target, chains(fitted, z, diverged))
    assert found.verdict == ("poor" if found.reasons else "good") and len(found.lines()) <= 8
    return found.reasons, found.advice


def test_chains_that_disagree_diverge_or_stand_still_are_poor_for_these_reasons(fitted):
    z = np.random.default_rng(0).normal(size=(4, 500, 2))
    assert reasons(fitted, z) == ((), ())
    apart = z + 10 * np.arange(4)[:, None, None] * np.array([1, 0])
    why, what = reasons(fitted, apart)
    assert why[0].startswith("the chains differ in beta[0]: R-hat ") and "guide='auto'" in what[0]
    why, what = reasons(fitted, z, diverged=1.0)
    assert why == ("2,000 of 2,000 paths diverged: they could not follow the density where it bends most",)
    assert what == ("vb.refine(posterior, target_accept=0.999)",)
    still = np.broadcast_to(z[:, :1], z.shape)
    assert reasons(fitted, still)[0][0] == "the chains did not move"


def test_the_words_for_one_chain_promise_no_more_than_its_halves_tell(fitted):
    z = np.random.default_rng(0).normal(size=(1, 1000, 2))
    card = judge_chains(fitted.solution, fitted.report, fitted.target, chains(fitted, z))
    assert card.lines()[0] == "verdict: good as far as one chain can tell" and "NUTS: 1 chain of 1,000 draws;" in str(
        card
    )
    assert card.lines()[1].startswith("  worst R-hat of the halves of the one chain 1.0")
    why, _ = reasons(fitted, z + 10 * (np.arange(1000) < 500)[None, :, None])
    assert why[0].startswith("the halves of the one chain differ in beta[")
    # So few draws that weights would not be trusted: these weigh all the same.
    posterior = dataclasses.replace(
        fitted, report=judge_chains(fitted.solution, fitted.report, fitted.target, chains(fitted, z[:, :200]))
    )
    draws = posterior.resample(50, seed=1)["beta"]
    np.testing.assert_array_equal(draws, posterior.sample(50, seed=1)["beta"])


def test_a_mode_that_the_fit_has_met_and_no_chain_has_is_a_reason(fitted):
    z = np.random.default_rng(0).normal(size=(4, 500, 2))
    mode = Mode(0.5, 30.0, np.array([[30.0, 0.0], [0.0, 0.0]]))
    modes = Searched((mode,), 3, 1.0)
    why, _ = reasons(fitted, z, other_modes=modes)
    assert why == ("no chain came to the other mode, 30 sd away, whose bound is 0.5 nats lower",)
    z[0, :250, 0] += 30.0
    assert "no chain came" not in str(reasons(fitted, z, other_modes=modes)[0])


@vb.guide
def normals(x, y=None):
    loc = vb.param("loc", jnp.zeros(2))
    vb.sample("beta", dist.Normal(loc, 1.0).to_event(1))


def test_what_cannot_be_refined_is_refused_with_the_reason(fitted):
    model = regression(*data())
    point = dataclasses.replace(fitted, report=Unjudged(fitted.elbo, why=POINT))
    with pytest.raises(TypeError) as error:
        vb.refine(point)
    assert str(error.value) == f"{POINT}: fit another guide first, vb.fit(model)."
    guide = dataclasses.replace(fitted.solution, guide=ProgramGuide(normals(*data())))
    program = dataclasses.replace(fitted, solution=guide)
    with pytest.raises(vb.ModelError) as error:
        vb.refine(program)
    assert str(error.value) == (
        "a ProgramGuide holds a program of the user's, of which chains for these data say nothing.\n"
        "  To mend it: Refine a fit of the same model with guide='auto'."
    )
    with pytest.raises(TypeError, match=r"^posterior must be what vb\.fit gives back, not "):
        vb.refine(model)
    for given, text in (
        ({"n": 3}, "n must be at least 4, not 3."),
        ({"chains": 0}, "chains must be at least 1, not 0."),
        ({"target_accept": 1.0}, "target_accept must lie between 0 and 1, not 1.0."),
    ):
        with pytest.raises(ValueError) as error:
            vb.refine(fitted, **given)
        assert str(error.value) == text


def test_where_no_draw_has_a_density_no_chain_starts(fitted):
    lost = dataclasses.replace(fitted.solution, phi=np.asarray(fitted.phi) + np.array([[1e30], [0.0]], np.float32))
    with pytest.raises(vb.ModelError, match="no chain can start: of 128 places among the draws 0 have"):
        vb.refine(dataclasses.replace(fitted, solution=lost, corrects=False))


def test_eight_schools_meets_its_reference():
    fitted = vb.fit(hierarchies.eight_schools(*hierarchies.SCHOOLS))
    refined = vb.refine(fitted, n=1000)
    known = store.load()["schools"]["constrained"]
    card, rows = refined.check(), dict(refined.summary().rows)
    assert card.verdict == "good", card.reasons
    for at, name in enumerate(known["names"]):
        mean, sd, mc_error, bulk = (rows[name][i] for i in (0, 1, 5, 6))
        assert abs(mean - known["mean"][at]) < 4 * np.hypot(mc_error, known["mcse"][at]), name
        # The variance of a square of the heavier of these tails is within ten times that of a normal.
        assert abs(np.log(sd / known["sd"][at])) < 4 * np.sqrt(5 / min(bulk, 4000)), name


@vb.model
def place(y):
    mu = vb.sample("mu", dist.Normal(0.0, 1e4))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(mu, 0.1), obs=y)


@pytest.mark.slow
def test_a_fit_that_went_on_in_double_precision_is_refined_in_it_with_the_data_as_they_were_given():
    y = 2000.0 + 1e-5 + 0.1 * np.random.default_rng(0).normal(size=400)
    fitted = vb.fit(place(y), "full_rank", precision="float64")
    assert jnp.result_type(float) == np.float32 and fitted.solution.in_double is not None
    refined = vb.refine(fitted)
    draws = refined.sample(4000)["mu"]
    sd = 1 / np.sqrt(400 / 0.1**2 + 1e-8)
    assert draws.dtype == np.float32 and refined.check().verdict == "good"
    # 2,000 is known to 1.2e-4 in 32 bits, a fortieth of an sd, by which the draws are rounded in the end alone.
    assert abs(np.asarray(draws, np.float64).mean() - y.mean()) < 4 * sd / np.sqrt(400)
    assert abs(np.log(np.asarray(draws, np.float64).std() / sd)) < 4 / np.sqrt(800)


@vb.model
def learnt(x, y):
    noise = vb.param("noise", 1.0, constraint=dist.constraints.positive)
    slope = vb.sample("slope", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(slope * x, noise), obs=y)


@pytest.mark.slow
def test_params_stay_at_what_was_learnt_and_the_card_says_so():
    x, y = data()
    fitted = vb.fit(learnt(x[:, 0], y))
    refined = vb.refine(fitted, n=400)
    noise = float(refined.params["noise"])
    assert noise == float(fitted.params["noise"])
    precision = 1 + x[:, 0] @ x[:, 0] / noise**2
    assert abs(refined.mean()["slope"] - x[:, 0] @ y / noise**2 / precision) < 4 / np.sqrt(precision * 400)
    assert "params: noise stay at the values that the fit has learnt" in refined.check().lines()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_two_modes_that_chains_do_not_mix_between_are_poor():
    far = vb.density(lambda z: jnp.logaddexp(-0.5 * jnp.sum((z - 10) ** 2), -0.5 * jnp.sum((z + 10) ** 2)), dim=2)
    fitted = vb.fit(far)
    refined = vb.refine(fitted, n=300)
    assert refined.check().verdict == "poor" and refined.check().r_hat.value > 1.1


@pytest.mark.slow
def test_a_bare_density_that_bends_is_right_with_as_many_draws_as_the_card_asks_for():
    banana = vb.density(lambda z: -0.5 * z[0] ** 2 - 0.5 * (z[1] - z[0] ** 2) ** 2, dim=2)
    fitted = vb.fit(banana, "mean_field")
    assert vb.refine(fitted).check().advice == ("vb.refine(posterior, n=4_000)",)
    refined = vb.refine(fitted, n=4_000)
    assert refined.check().verdict == "good"
    # z1 = z0^2 + noise: mean 1, variance 2 + 1.
    rows = dict(refined.summary().rows)
    assert abs(rows["z[1]"][0] - 1) < 4 * rows["z[1]"][5] and abs(rows["z[1]"][1] - np.sqrt(3)) < 0.2
