"""Rounds follow from what the last trace said: they travel, measure, and end for the reason they give."""

from __future__ import annotations

import numpy as np
import pytest

from vbppl.inference.stochastic.schedule import AGREE, FIRST_STEPS, MAX_STEPS, ROWS, Schedule

UNITS = np.array([2.0, 1.0])


def trace(noise=0.1, slope=0.0, level=0.0, rows=50, seed=0):
    """A record of two numbers, in their units: white noise around a line."""
    rng = np.random.default_rng(seed)
    series = level + noise * rng.standard_normal((rows, 2)) + slope * np.linspace(-0.5, 0.5, rows)[:, None]
    return np.stack([series * UNITS, np.broadcast_to(UNITS, series.shape)], axis=1)


def gone(*traces, **settings):
    """The schedule after rounds with these traces, and the last reason."""
    schedule, reason = Schedule(**settings), ""
    for record in traces:
        assert not reason
        schedule, reason = schedule.after(record)
    return schedule, reason


def test_the_first_round_travels_and_measures_nothing():
    plan = Schedule().phase()
    assert (plan.begin, plan.steps, plan.fall, plan.power) == (0, FIRST_STEPS, FIRST_STEPS, 0.0)
    assert gone(trace())[1] == ""


@pytest.mark.parametrize("steps", [1000, 50_000, 1_000_000])
def test_a_look_is_at_the_last_half_of_a_round_and_never_at_more_than_some_thousand_records(steps):
    plan = Schedule(asked=steps).phase()
    records = np.arange(1, steps // 10 + 1)
    kept = records[plan.looked_at(records)]
    assert kept[0] * 10 > steps // 2 and kept[-1] * 10 > 0.99 * steps
    assert len(kept) == steps // 20 if steps <= 80_000 else ROWS <= len(kept) < 2 * ROWS
    assert len(set(np.diff(kept))) == 1


def test_two_rounds_that_are_still_and_agree_end_the_fit():
    schedule, reason = gone(trace(noise=0.02), trace(noise=0.02, seed=1))
    assert reason == "settled"
    assert schedule.shift <= AGREE
    assert "R-hat" in schedule.said() and "drifting" not in schedule.said()


def test_no_round_that_begins_before_the_objective_has_settled_ends_the_fit_or_shortens_its_steps():
    still = [trace(noise=0.02, seed=seed) for seed in range(6)]
    schedule, reason = gone(*still[:4], warm_up=3 * FIRST_STEPS + 1)
    assert (schedule.begin, schedule.steps, schedule.step_size, reason) == (4 * FIRST_STEPS, FIRST_STEPS, 1.0, "")
    assert gone(*still[:5], warm_up=3 * FIRST_STEPS + 1)[1] == "settled"


def test_rounds_that_are_still_but_disagree_go_on():
    """In units of its sd of 2 the first number moved by 0.05."""
    schedule, reason = gone(trace(noise=0.02), trace(noise=0.02, level=0.05, seed=1))
    assert reason == ""
    assert schedule.shift == pytest.approx(0.05, abs=0.01)


def test_a_drift_makes_the_next_round_longer_and_hot():
    schedule, _ = gone(trace(noise=0.02), trace(noise=0.02, slope=1.0))
    plan = schedule.phase()
    assert schedule.travels and schedule.convergence.drifts
    assert (plan.steps, plan.fall, plan.step_size, plan.power) == (2 * FIRST_STEPS, FIRST_STEPS, 1.0, 1.0)
    assert "no end in sight" in schedule.said() or "to go" in schedule.said()


def test_noise_makes_the_next_round_longer_and_its_steps_shorter():
    schedule, reason = gone(trace(noise=0.02), trace(noise=1.0))
    plan = schedule.phase()
    assert reason == "" and not schedule.travels
    assert (plan.begin, plan.steps, plan.fall) == (2 * FIRST_STEPS, 2 * FIRST_STEPS, 0)
    assert plan.step_size == pytest.approx(0.1 * 0.5**0.5)


def test_rounds_end_at_the_cap_and_not_beyond():
    schedule, reason = Schedule(), ""
    while not reason:
        schedule, reason = schedule.after(trace(noise=1.0))
    assert reason == "capped"
    assert MAX_STEPS / 2 < schedule.begin <= MAX_STEPS


def test_as_many_steps_as_asked_for_are_one_round():
    schedule, reason = gone(trace(noise=0.02), asked=777)
    assert (reason, schedule.begin) == ("steps", 777)
    assert schedule.convergence.r_hat < 1.1


def test_too_short_a_round_says_that_nothing_was_tested():
    schedule, reason = gone(trace(rows=3), asked=60)
    assert reason == "steps"
    assert schedule.said() == "convergence was not tested"


def test_where_the_last_iterate_is_wanted_a_last_round_lands():
    schedule, reason = gone(trace(noise=0.02), trace(noise=0.02, seed=1), average=False)
    plan = schedule.phase()
    assert reason == "" and schedule.landing
    assert (plan.fall, plan.last, plan.power) == (plan.steps, 0.01, 1.0)
    assert schedule.after(trace(noise=0.02))[1] == "settled"
