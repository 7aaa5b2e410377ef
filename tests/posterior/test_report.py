"""A report is a value: it can be taken apart, kept, read by itself, and says what was not looked for."""

from __future__ import annotations

import dataclasses
import pickle
import re
import time

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy import stats

import vbppl as vb
from vbppl.core.keys import raw_key
from vbppl.core.watch import Watch
from vbppl.inference import bound
from vbppl.inference.solution import Mode, Note, NotSearched, Searched
from vbppl.posterior import judge, report

pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")


@pytest.fixture(scope="module")
def correlated():
    """A mean-field fit that is not good, so that it is judged by all of the draws."""
    return vb.fit(cases.correlated_pair(), "mean_field")


def other_modes(solution, found):
    return dataclasses.replace(solution, other_modes=found)


def test_judging_is_timed_apart_from_solving(correlated):
    began = time.perf_counter()
    card = judge.judge(correlated.solution, raw_key(0))
    assert 0 < card.seconds <= time.perf_counter() - began
    assert f"judging it {card.seconds:.2g} s" in str(card)


def test_the_draws_of_a_report_are_those_that_its_numbers_are_of():
    card = vb.fit(cases.eight_schools(cases.SCHOOLS_SIGMA, cases.SCHOOLS_Y), "full_rank").check()
    draws = card.draws
    assert draws.z.shape == (judge.IN_DOUBT[-1], 10)
    assert np.exp(draws.log_weight).sum() == pytest.approx(1.0)
    assert (draws.log_p - draws.log_q)[draws.own].std() == pytest.approx(card.log_weight_sd)
    assert 1 / np.sum(np.exp(2 * draws.log_weight)) / len(draws) == pytest.approx(card.ess)


def test_a_report_is_a_pytree_of_its_numbers(correlated):
    doubled = jax.tree.map(lambda leaf: 2 * leaf, correlated.report)
    assert doubled.ess == 2 * correlated.report.ess and doubled.verdict == correlated.report.verdict
    assert doubled.mean_error.name == correlated.report.mean_error.name


def test_another_mode_makes_a_solution_poor_and_is_told_with_its_numbers(correlated):
    found = Searched((Mode(1.5, 20.0, np.zeros((2, 2))),), starts=3, spread=1.5)
    solution = other_modes(correlated.solution, found)
    card = judge.judge(solution, raw_key(0))
    assert card.verdict == "poor"
    assert card.reasons[0] == "a restart found another mode, 20 sd away, whose bound is 1.5 nats lower"
    assert "restarts: 3, their bounds within 1.5 nats" in str(card)
    # Its places are arrays, which must not get into what a compiled program is found by.
    assert jax.jit(lambda solution: solution.phi + 1)(solution).shape == (2, 2)


@pytest.mark.parametrize(
    "share, moved, is_told",
    [(3e-4, 0.0, False), (0.03, 0.0, True), (3e-4, 3.0, True)],
    ids=["of no weight", "of three per cent", "not where it was met"],
)
def test_a_mode_counts_by_its_evidence_and_by_its_bound_where_that_is_not_known(share, moved, is_told):
    """Of two normals, whose shares are known: the other is skewed in x, so its bound lies below its evidence."""

    def log_density(z):
        x, y = z[0] - 15.0, z[1] + 3.0
        other = stats.norm.logpdf(jnp.exp(x) - 1.0, scale=0.5) + x - np.log(0.97725) + stats.norm.logpdf(y, scale=0.3)
        both = jnp.log1p(-share) + stats.norm.logpdf(z).sum(), jnp.log(share) + other
        return jnp.logaddexp(*both)

    solution = vb.fit(vb.density(log_density, 2), "full_rank", start={"z": np.zeros(2)}).solution
    place = np.array([[14.85 + moved, -3.0], np.log([0.55, 0.3])])
    mode = Mode(float(0.2 - np.log(share)), 15.0, place)
    card = judge.judge(other_modes(solution, Searched((mode,), 3, 8.0)), raw_key(0))
    assert card.other_modes.found == ((mode,) if is_told else ())
    assert card.verdict == ("poor" if is_told else "good")
    if not is_told:
        (note,) = (note.text for note in card.notes if note.topic == "modes")
        assert float(re.search("holds (.*) of the evidence", note)[1]) == pytest.approx(share, rel=0.4)


def test_modes_that_the_guide_holds_are_a_reason_but_not_fatal(correlated):
    held = (Mode(1.5, 20.0, np.zeros((2, 2))),)
    card = judge.judge(other_modes(correlated.solution, Searched((), 3, 1.5, held)), raw_key(0))
    assert any("there are several modes" in reason for reason in card.reasons)


def test_what_was_not_looked_for_is_told(correlated):
    card = judge.judge(other_modes(correlated.solution, NotSearched("one start was given")), raw_key(0))
    told = "verdict: corrected as far as was looked (other modes were not looked for: one start was given)"
    assert card.lines()[0].startswith(told)
    assert told in re.sub("<[^>]*>", "", card._repr_html_())


def test_notes_of_a_solution_are_shown_although_they_came_after_judging(correlated):
    later = vb.Posterior(correlated.solution.noted("parameterisation", "both were tried"), correlated.report)
    assert "parameterisation: both were tried" in later.check().details
    assert later.check().notes[-1] == Note("parameterisation", "both were tried")


def test_advice_that_was_followed_is_taken_back():
    card = vb.fit(cases.eight_schools(cases.SCHOOLS_SIGMA, cases.SCHOOLS_Y), "full_rank").check()
    assert card.advice == ("vb.decenter(model, 'theta'): the scale is latent", report.SAMPLER)
    assert card.without(report.DECENTER).advice == (report.SAMPLER,)


def test_an_interrupt_while_judging_keeps_the_solution(correlated, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bound, "elbo", interrupted)
    card = judge.judge(correlated.solution, raw_key(0))
    assert (card.verdict, card.cut_short) == ("poor", "interrupted")
    assert card.reasons == ("the fit was interrupted before it was judged",)
    assert np.isnan(card.elbo.value) and len(card.draws.z) == 0


def test_after_the_deadline_doubts_are_not_looked_into_with_more_draws():
    solution = vb.fit(cases.eight_schools(cases.SCHOOLS_SIGMA, cases.SCHOOLS_Y), "full_rank").solution
    card = judge.judge(solution, raw_key(0), Watch(deadline=0.0))
    assert len(card.draws) == judge.DRAWS
    assert any(note.text.startswith("by 2,048 draws only") for note in card.notes)


def test_judging_takes_no_more_evaluations_than_the_fit_or_three_thousand(correlated):
    assert len(correlated.report.draws) <= max(judge.CHEAP, correlated.status.gradients)


def test_a_script_can_require_a_verdict(correlated):
    correlated.report.require()
    with pytest.raises(vb.errors.PoorPosteriorError, match="the posterior is corrected, not 'good' or better: corr"):
        correlated.report.require("good")
    with pytest.raises(ValueError, match="verdict must be 'poor', 'unknown', 'corrected' or 'good', not 'fine'"):
        correlated.report.require("fine")


def test_a_point_is_unjudged():
    point = vb.fit(cases.far_datum(np.array(10.0)), vb.MAP())
    assert isinstance(point.report, report.Unjudged) and point.report.verdict == "unjudged"
    # log N(8; 0, 1) + log N(10; 8, 1/2)
    exact = -32 - 8 - np.log(2 * np.pi) - np.log(0.5)
    assert point.elbo.value == pytest.approx(exact, abs=1e-4)
    assert f"log joint at the mode {exact:.3f} nats" in str(point)
    assert "a MAP estimate is a point" in str(point.report) and "<p>" in point.report._repr_html_()


def test_bound_and_status_have_a_form_for_notebooks(correlated):
    assert correlated.elbo._repr_html_() == f"<p>{correlated.elbo} nats</p>"
    status = dataclasses.replace(correlated.status, text="a<b is off")
    assert "a&lt;b" in status._repr_html_() and "took" in correlated.check()._repr_html_()


def test_a_report_can_be_pickled(correlated):
    again = pickle.loads(pickle.dumps(correlated.report))
    assert str(again) == str(correlated.report)
    np.testing.assert_array_equal(again.draws.z, correlated.report.draws.z)
    assert pickle.loads(pickle.dumps(correlated.status)) == correlated.status


def test_a_posterior_can_be_pickled(correlated):
    again = pickle.loads(pickle.dumps(correlated))
    assert str(again) == str(correlated)
    np.testing.assert_array_equal(again.sample(3)["z"], correlated.sample(3)["z"])
