"""What every solver without stochastic steps owes: each field filled truly, and the last state to whoever stops it."""

from __future__ import annotations

import dataclasses
import time

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.keys import raw_key
from vbppl.core.watch import Watch
from vbppl.guides.gaussian import FullRank, MeanField
from vbppl.guides.low_rank import LowRank
from vbppl.inference.deterministic import fixed_draws, low_rank, mode_based, restarts
from vbppl.inference.deterministic.beyond import conditionally_structured, copula, mixture, series
from vbppl.inference.deterministic.problem import Deterministic, Problem
from vbppl.inference.solution import NotSearched, Searched
from vbppl.target.target import parameterisations_of

SOLVERS = {
    fixed_draws.solve_mean_field: MeanField,
    fixed_draws.solve_full_rank: FullRank,
    fixed_draws.solve_richest: FullRank,
    copula.solve_copula: vb.guides.Copula,
    low_rank.solve_low_rank: LowRank,
    mixture.solve_mixture: vb.guides.Mixture,
    conditionally_structured.solve_conditionally_structured: vb.guides.ConditionallyStructured,
    series.solve_series_or_blocks: vb.guides.ConditionalLaplace,
    mode_based.solve_laplace: vb.Laplace,
    mode_based.solve_pathfinder: vb.Pathfinder,
}
FEW = {"argvalues": SOLVERS, "ids": lambda solver: solver.__name__}
LOGISTIC = cases.logistic_regression(*cases.logistic_data())


@vb.model
def two_modes(weight=0.05):
    weights = jnp.array([weight, 1 - weight])
    vb.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(jnp.array([-12.0, 12.0]), 1.0)))


def problem(*models, start=None):
    targets = [model if isinstance(model, vb.Target) else vb.target(model) for model in models]
    keys = [raw_key(0)] * len(models)
    return Problem(targets, Deterministic(), parameterisations_of(targets[0])[None], start, keys)


def flat(solution):
    """All parameters, the mean first."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(solution.phi)])


def solve(solver, asked, watch=Watch()):
    asked = dataclasses.replace(asked, guide=SOLVERS[solver]())
    with np.errstate(all="ignore"):
        return solver(asked, watch)


@pytest.mark.parametrize("solver", **FEW)
def test_every_field_is_filled_truly(solver):
    began = time.perf_counter()
    (solution,) = solve(solver, problem(LOGISTIC))
    status = solution.status
    assert isinstance(solution.guide, SOLVERS[solver]) and np.isfinite(flat(solution)).all()
    assert solution.target.dim == 3
    assert status.converged and not status.was_cut_short and status.text
    assert status.steps == len(solution.bounds) > 1 and np.isfinite(solution.bounds).all()
    assert status.gradients > 512  # those of the starts count
    assert 0 < status.compiling + status.seconds <= 2 * (time.perf_counter() - began)
    assert status.decrement < 1e-3
    assert isinstance(solution.other_modes, Searched) and solution.other_modes.starts >= 3
    assert solution.other_modes.found == () and 0 <= solution.other_modes.spread < 0.1


@pytest.mark.parametrize("solver", **FEW)
def test_another_mode_is_told_with_its_place(solver):
    (solution,) = solve(solver, problem(two_modes()))
    (mode,) = solution.other_modes.held if solver is mixture.solve_mixture else solution.other_modes.found
    assert mode.lower == pytest.approx(np.log(19), abs=0.01) and mode.away == pytest.approx(24, abs=1)
    assert mode.place[0] == pytest.approx(-12, abs=0.05) and mode.place[1] == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("solver", **FEW)
def test_a_deadline_hands_back_the_last_state(solver):
    (solution,) = solve(solver, problem(LOGISTIC), Watch(deadline=time.perf_counter() - 1))
    status = solution.status
    assert status.reason == "deadline" and status.was_cut_short and not status.converged
    assert "not converged" in status.text and status.steps == len(solution.bounds) == 1
    assert isinstance(solution.guide, vb.MeanField if solver is fixed_draws.solve_richest else SOLVERS[solver])
    assert np.isfinite(flat(solution)).all() and isinstance(solution.other_modes, NotSearched)


@pytest.mark.parametrize("solver", **FEW)
def test_an_interrupt_hands_back_the_last_state_and_being_watched_moves_nothing(solver):
    seen = []
    (watched,) = solve(solver, problem(LOGISTIC), Watch(seen.append))
    (alone,) = solve(solver, problem(LOGISTIC))
    np.testing.assert_array_equal(flat(watched), flat(alone))
    assert [now.step for now in seen] == list(range(1, alone.status.steps + 1))

    def stop(now):
        if now.step == 3:
            raise KeyboardInterrupt

    (solution,) = solve(solver, problem(LOGISTIC), Watch(stop))
    assert solution.status.reason == "interrupted" and solution.status.steps == 3
    np.testing.assert_array_equal(solution.bounds, alone.bounds[:3])


@pytest.mark.parametrize("solver", **FEW)
def test_from_a_given_place_nothing_is_searched(solver):
    start = np.array([[[-11.0], [0.0]]])
    (solution,) = solve(solver, problem(two_modes(), start=start))
    assert isinstance(solution.other_modes, NotSearched) and "given" in solution.other_modes.why
    assert solution.guide.frame(solution.phi, solution.target)[0] == pytest.approx(-12, abs=0.05)


@pytest.mark.parametrize("solver", **FEW)
def test_targets_side_by_side_are_solved_as_if_alone(solver):
    x, y = cases.logistic_data()
    models = LOGISTIC, cases.logistic_regression(x, 1 - y)
    both = solve(solver, problem(*models))
    for model, found in zip(models, both, strict=True):
        (alone,) = solve(solver, problem(model))
        np.testing.assert_allclose(flat(found), flat(alone), atol=2e-3)
        assert found.status.converged


@pytest.mark.parametrize("guide", [vb.Laplace(), vb.Pathfinder()], ids=["laplace", "pathfinder"])
def test_a_normal_at_one_of_two_modes_is_not_called_good(guide):
    with pytest.warns(vb.VbpplWarning, match="another mode, 24 sd away"):
        assert vb.fit(two_modes(), guide).check().verdict == "poor"


def test_a_mode_that_two_starts_have_met_is_told_once_where_the_better_ended():
    ends = np.array([[[0.0], [0.0]], [[20.0], [0.0]], [[20.1], [0.0]], [[-30.0], [0.0]]])
    found = restarts.compare(ends, np.array([1.0, 2.5, 2.0, 4.0]), 0, lambda other: 5.0).found
    assert [float(mode.place[0, 0]) for mode in found] == [20.1, -30.0]
    assert [mode.lower for mode in found] == [1.0, 3.0]


def test_ends_without_a_valley_between_are_one_mode_and_a_gap_of_no_density_is_a_valley():
    ends = np.array([[[0.0], [0.0]], [[20.0], [0.0]]])
    value = np.array([1.0, 2.0])
    assert restarts.compare(ends, value, 0, lambda other: 0.05).found == ()
    assert len(restarts.compare(ends, value, 0, lambda other: np.nan).found) == 1
    assert len(restarts.compare(ends, value, 0, lambda other: np.inf).found) == 1


def test_many_data_get_one_start_and_a_note_says_so(monkeypatch):
    monkeypatch.setattr(restarts, "HEAVY", 10)
    (solution,) = solve(fixed_draws.solve_mean_field, problem(LOGISTIC))
    assert isinstance(solution.other_modes, NotSearched)
    assert [(note.topic, note.text) for note in solution.notes] == [
        ("modes", "not looked for: data of more than 10 numbers get one start")
    ]


def test_coordinates_are_chosen_and_the_target_is_the_one_fitted():
    model = cases.eight_schools(cases.SCHOOLS_SIGMA, cases.SCHOOLS_Y)
    rows = [parameterisations_of(cases.seen(vb.target(model), weight)) for weight in (1.0, 0.0)]
    both = dataclasses.replace(problem(model), parameterisations=np.stack(rows))
    (solution,) = solve(fixed_draws.solve_mean_field, both)
    assert solution.target.parameterisations["theta"].weight == 0.0
    assert [note.topic for note in solution.notes] == ["parameterisation"]


def nested(dim, narrow=0.3):
    """Half of it N(0, 1), half N(0, narrow^2): a Gaussian of either width has a bound of -log 2."""

    def log_density(z):
        one, other = (-jnp.sum(z**2) / 2 / sd**2 - dim * jnp.log(sd) for sd in (1.0, narrow))
        return jnp.logaddexp(one, other) - jnp.log(2.0) - dim / 2 * jnp.log(2 * jnp.pi)

    return vb.density(log_density, dim)


@pytest.mark.parametrize("dim", [10, 50])
def test_a_restart_in_width_finds_the_other_of_two_scales_where_weights_look_fine(dim):
    (solution,) = solve(fixed_draws.solve_full_rank, problem(nested(dim)))
    (mode,) = solution.other_modes.found
    assert mode.wider == pytest.approx(0.3, rel=0.03) or mode.wider == pytest.approx(1 / 0.3, rel=0.03)
    assert mode.lower == pytest.approx(0.0, abs=0.1) and mode.away < 0.5
    assert mode.factor @ mode.factor.T == pytest.approx(np.exp(mode.place[1, 0]) ** 2 * np.eye(dim), abs=0.1)
    said = str(mode)
    assert said.startswith("a restart in width found another scale: a normal 3.") and "nats lower" in said


def test_a_posterior_like_a_gaussian_pays_two_looks_at_each_width_and_finds_none(monkeypatch):
    (solution,) = solve(fixed_draws.solve_full_rank, problem(LOGISTIC))
    monkeypatch.setattr(fixed_draws, "widths", lambda work, state: (yield from ()) or state)
    (without,) = solve(fixed_draws.solve_full_rank, problem(LOGISTIC))
    assert solution.status.gradients - without.status.gradients == 4 * 32
    np.testing.assert_array_equal(solution.phi, without.phi)
    assert solution.other_modes.found == ()


@pytest.mark.parametrize("why", ["deadline", "interrupted"])
@pytest.mark.parametrize("solver", [fixed_draws.solve_full_rank, fixed_draws.solve_richest, mixture.solve_mixture])
def test_what_ends_a_restart_in_width_leaves_the_fit_converged(solver, why, monkeypatch):
    over = []

    class Ending(Watch):
        is_over = property(lambda self: bool(over))

    def widths(work, state):
        if why == "interrupted":
            raise KeyboardInterrupt
        over.append(True)
        yield state

    (whole,) = solve(fixed_draws.solve_full_rank, problem(LOGISTIC))
    monkeypatch.setattr(fixed_draws, "widths", widths)
    (solution,) = solve(solver, problem(LOGISTIC), Ending())
    assert solution.status.reason == why and solution.status.was_cut_short and solution.status.converged
    assert solution.status.text.startswith("at the optimum (") and "before all was looked at" in solution.status.text
    np.testing.assert_array_equal(np.ravel(flat(solution))[: whole.phi.size], np.ravel(whole.phi))
