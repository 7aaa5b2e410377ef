"""Judging amortised guides row by row: against a linear Gaussian model, whose evidence is a closed form."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest
from linear_rows import BEST_SD, EVIDENCE, GAIN, KINDS, LOADINGS, NEW, NOISE, PRECISION, ROWS, linear, program, weights
from scipy import stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core import watch
from vbppl.core.errors import ModelError
from vbppl.core.keys import raw_key
from vbppl.inference import bound
from vbppl.inference.stochastic import schedule
from vbppl.posterior import row_evidence
from vbppl.posterior.judge import judge
from vbppl.target.target import Target, with_data

quiet = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")
either = pytest.mark.parametrize("kind", KINDS)
either_in_time = pytest.mark.parametrize("kind", ["amortized", pytest.param("program", marks=pytest.mark.slow)])


def fitted(kind, init=None, **settings):
    """A fit that does not move unless it is told to."""
    settings = {"optimizer": optax.sgd(0.0), "steps": 1, "average": False, "draws": 1} | settings
    init = weights() if init is None else init
    return vb.fit(linear(ROWS), KINDS[kind](ROWS, init), method=vb.Stochastic(**settings), batch_size=20)


def other(kind, x, init=None):
    return {"model": linear(x), "guide": program(x, weights() if init is None else init) if kind == "program" else None}


@pytest.mark.slow
@quiet
@either
def test_each_rows_log_evidence_is_the_closed_form(kind):
    found = fitted(kind).log_evidence(**other(kind, NEW), n=20_000)
    # The relative variance of a weight is draws / ess - 1; the error of a log mean its root over draws.
    errors = np.sqrt(1 / found.ess - 1 / found.draws)
    assert found.values.shape == (37,) and errors.max() < 0.05
    assert np.all(np.abs(found.values - EVIDENCE.logpdf(NEW)) < 4.5 * errors + 1e-4)
    assert found.mean.value == pytest.approx(EVIDENCE.logpdf(NEW).mean(), abs=0.01)


@quiet
@pytest.mark.slow
def test_rows_and_draws_that_do_not_fill_a_chunk_count_once(monkeypatch):

    posterior = fitted("amortized")
    whole = posterior.log_evidence(linear(NEW), n=30_000)
    monkeypatch.setattr(row_evidence, "BLOCK", 10)
    monkeypatch.setattr(row_evidence, "NUMBERS", 10 * 1004 * 700)
    parts = posterior.log_evidence(linear(NEW), n=30_000)
    np.testing.assert_allclose(parts.values, whole.values, atol=0.08)
    assert parts.ess.max() <= 30_000 * 1.0001


@pytest.mark.slow
@quiet
@either
def test_the_amortisation_gap_is_what_a_spoilt_encoder_loses(kind):
    """KL between normals of one covariance is a quadratic form of the means, log ratios do the sds."""
    wide = 1.4
    spoilt = weights(sd=wide * BEST_SD)
    posterior = fitted(kind, spoilt)
    found = posterior.amortisation_gap(**other(kind, NEW, spoilt), rows=37)
    expected = 2 * (wide**2 / 2 - 0.5 - np.log(wide))
    assert found.mean.value == pytest.approx(expected, abs=4.5 * found.mean.se)
    assert found.mean.se < 0.03
    moved = weights(loc=GAIN.T * 0.8)
    off = NEW @ GAIN.T * 0.2
    found = fitted(kind, moved).amortisation_gap(**other(kind, NEW, moved), rows=37)
    np.testing.assert_allclose(found.rows, np.einsum("ri,ij,rj->r", off, PRECISION, off) / 2, atol=0.05)
    assert abs(fitted(kind).amortisation_gap(**other(kind, NEW)).mean.value) < 0.005


@quiet
@either_in_time
def test_rows_are_judged_one_by_one(kind):
    """The best independent normals of correlated posteriors are off by a known divergence."""
    good = fitted(kind)
    log_sd = good.check().log_weight_sd
    assert good.check().verdict == "good" and 0.1 < log_sd < 0.7
    assert abs(good.check().log_evidence - EVIDENCE.logpdf(ROWS).sum()) < 4 * good.elbo.se + 60 * 0.03
    poor = fitted(kind, weights(loc=GAIN.T * 0.3, sd=3 * BEST_SD)).check()
    assert poor.verdict == "poor" and "of the rows" in poor.reasons[0]
    assert any(line.startswith("judging: each row by itself") for line in poor.details)
    assert poor.mean_error.name == "not looked at"


@quiet
def test_rows_are_judged_while_there_is_time(monkeypatch):
    """By a clock that goes on by a second with each program that weighs rows: what was judged is what is told."""
    clock, weigh, posterior = [0.0], row_evidence._some_weights, fitted("amortized")

    def taking_a_second(*args):
        clock[0] += 1.0
        return weigh(*args)

    monkeypatch.setattr(row_evidence, "AT_ONCE", 20)
    monkeypatch.setattr(row_evidence, "_some_weights", taking_a_second)
    monkeypatch.setattr(watch.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(bound, "elbo", lambda *_: posterior.elbo)
    for deadline, seconds, said in (
        (-1.0, 1, "20 rows, 512 draws each; of 60, had there been time"),
        (2.5, 2, "40 rows"),
        (3.5, 3, "60"),
    ):
        clock[0] = 0.0
        card = judge(posterior.solution, raw_key(0), watch.Watch(deadline=deadline))
        assert clock[0] == card.seconds == seconds and f"the medians of {said}" in str(card.notes[0])
        assert card.verdict == "good" and abs(card.log_weight_sd - posterior.check().log_weight_sd) < 0.1


@quiet
def test_the_log_evidence_is_unknown_where_the_weights_of_rows_do_not_settle_down():
    """A guide that is far too narrow: its weights have no mean."""
    card = fitted("amortized", weights(sd=0.1 * BEST_SD)).check()
    assert card.pareto_k > 0.7
    assert np.isnan(card.log_evidence) and "log evidence unknown" in str(card)


@pytest.mark.slow
@quiet
def test_a_network_that_did_not_come_to_rest_is_advised_to_look_at_other_rows(monkeypatch):
    monkeypatch.setattr(schedule, "MAX_STEPS", 2000)
    method = vb.Stochastic(draws=1)
    posterior = vb.fit(linear(ROWS), KINDS["amortized"](ROWS, weights()), method=method, batch_size=5)
    card = posterior.check()
    assert posterior.status.reason == "capped" and card.verdict == "poor"
    assert any("validation=vb.inference.Validation(model(rows kept back))" in line for line in card.advice)


@quiet
@either_in_time
def test_validation_keeps_the_best_and_ends_when_it_stops_rising(kind):
    """From slopes that are too small the bound rises at first, and then goes up and down."""
    start = weights(loc=GAIN.T * 0.9)
    validation = vb.inference.Validation(*[v for v in other(kind, NEW, start).values() if v is not None], patience=3)
    posterior = fitted(kind, start, optimizer=optax.sgd(1e-3), steps=2000, every=10, draws=4, validation=validation)
    assert posterior.status.reason == "validated" and posterior.status.converged
    assert posterior.status.steps < 2000 and posterior.status.skipped == 0
    assert "has not risen for 3 looks" in posterior.status.text
    kept = posterior.params["encoder"]
    found, first = (exact_bound(*(np.float64(w[name]) for name in ("loc", "log_sd"))) for w in (kept, start))
    best = exact_bound(GAIN.T, np.log(BEST_SD))
    assert first < best - 1 and best - 0.5 < found <= best


@pytest.mark.slow
@quiet
def test_validation_rows_without_a_finite_bound_prove_nothing():
    validation = vb.inference.Validation(linear(np.full_like(NEW, np.nan)), patience=3)
    method = vb.Stochastic(optimizer=optax.sgd(0.0), steps=200, every=10, validation=validation, draws=1)
    status = vb.fit(linear(ROWS), KINDS["amortized"](ROWS, weights()), method=method, batch_size=20).status
    assert (status.reason, status.converged, status.steps) == ("validated", False, 30)
    assert "finite at no look" in status.text


@pytest.mark.slow
@quiet
def test_validation_gives_back_the_parameters_of_its_best_look():
    start, seen = weights(), []
    method = vb.Stochastic(
        optimizer=optax.adam(0.3),
        steps=60,
        every=10,
        average=False,
        validation=vb.inference.Validation(linear(NEW), patience=100),
        draws=1,
    )
    guide = KINDS["amortized"](ROWS, start)
    posterior = vb.fit(linear(ROWS), guide, method=method, batch_size=20, callback=seen.append)
    values = []
    for progress in seen:
        w = progress.params["guide"]["encoder"]
        values.append(exact_bound(*(np.asarray(leaf, np.float64) for leaf in w)))
    kept = posterior.params["encoder"]
    best = int(np.argmax(values))
    np.testing.assert_array_equal(kept["loc"], seen[best].params["guide"]["encoder"][0])


@pytest.mark.slow
@quiet
def test_validation_keeps_its_patience_for_the_time_after_the_warm_up():
    """From the optimum every step of a warm-up leads away at first: the first look is the best for long."""
    validation, warm_up = vb.inference.Validation(linear(NEW), patience=3), 200
    settings = {"optimizer": optax.sgd(1e-3), "steps": 1000, "every": 10, "draws": 4, "validation": validation}
    assert fitted("amortized", **settings, objective=vb.inference.Elbo(warm_up=warm_up)).status.steps > warm_up
    assert fitted("amortized", **settings | {"optimizer": optax.sgd(0.0)}).status.steps == 40


@pytest.mark.slow
@quiet
def test_a_validation_set_watches_a_gaussian_guide_of_minibatches():
    """Between its rounds such a fit carries a point of comparison, which is no state of a module."""

    @vb.model
    def level(y):
        mu = vb.sample("mu", dist.Normal(0.0, 10.0))
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Normal(mu, 2.0), obs=vb.subsample(y))

    y = 3 + 2 * np.random.default_rng(1).standard_normal(1200).astype(np.float32)
    method = vb.Stochastic(validation=vb.inference.Validation(level(y[1000:]), patience=2), draws=1)
    posterior = vb.fit(level(y[:1000]), "mean_field", batch_size=100, method=method)
    assert "the bound on the validation rows" in posterior.status.text
    # The best look is nearest to the validation rows, but no look is far from the posterior of the others.
    assert posterior.mean()["mu"] == pytest.approx(y[:1000].mean(), abs=4 * 2 / 1000**0.5)


def exact_bound(loc, log_sd):
    """The bound of the validation rows under `N(x loc, sd)`, in closed form."""
    mean, variance = NEW @ loc, np.exp(2 * log_sd)
    likelihood = stats.norm.logpdf(NEW, mean @ LOADINGS, NOISE).sum() - len(NEW) * ((LOADINGS**2).sum(1) @ variance) / (
        2 * NOISE**2
    )
    return likelihood - (mean**2 + variance - 1 - 2 * log_sd).sum() / 2


@pytest.mark.slow
@quiet
def test_what_cannot_be_judged_by_row_says_so():
    @vb.model
    def shared(x):
        mu = vb.sample("mu", dist.Normal(0.0, 1.0))
        with vb.plate("row", len(x)):
            vb.sample("x", dist.Normal(mu, 1.0), obs=x)

    posterior = vb.fit(shared(ROWS[:, 0]))
    with pytest.raises(ModelError, match="latent sites stand in one plate"):
        posterior.log_evidence()
    with pytest.raises(ModelError, match="applied to the new rows"):
        fitted("program").log_evidence(linear(NEW))
    with pytest.raises(TypeError, match="leave guide out"):
        fitted("amortized").log_evidence(linear(NEW), program(NEW, weights()))


def test_a_target_can_be_moved_to_other_rows_of_the_same_function_only():
    target = Target.of(linear(ROWS))
    assert with_data(target, linear(NEW)).dim == 2 * len(NEW)

    @vb.model
    def learning(x):
        vb.param("scale", 1.0)

    with pytest.raises(ModelError, match="has the params scale"):
        with_data(target, learning(ROWS))
    assert jax.tree.leaves(target.params) == []
