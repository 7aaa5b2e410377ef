"""The stop rules measure what they say, on traces whose drift, correlation and noise are known."""

from __future__ import annotations

import numpy as np
import pytest

from vbppl.core.numerics import convergence

ROWS, COLUMNS = 400, 2000


def autoregressive(rho, rows=ROWS, columns=COLUMNS, seed=0):
    """Stationary traces of sd 1 whose neighbours have the correlation `rho`."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((rows, columns)) * np.sqrt(1 - rho**2)
    trace = np.empty((rows, columns))
    trace[0] = rng.standard_normal(columns)
    for t in range(1, rows):
        trace[t] = rho * trace[t - 1] + noise[t]
    return trace


@pytest.mark.parametrize(("rho", "tolerance"), [(0.0, 0.06), (0.5, 0.06), (0.9, 0.2)])
def test_mcse_is_that_of_theory_for_autoregressive_traces(rho, tolerance):
    """Var(mean) = (1 + rho) / (1 - rho) / n; from few effective rows it is known to be taken too small."""
    theory = np.sqrt((1 + rho) / (1 - rho) / ROWS)
    found = convergence.mcse(autoregressive(rho))
    assert np.median(found) == pytest.approx(theory, rel=tolerance)


def test_mcse_of_alternating_noise_is_not_believed_to_be_below_that_of_independent_rows():
    assert np.median(convergence.mcse(autoregressive(-0.5))) >= 0.95 / np.sqrt(ROWS)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.95])
def test_r_hat_is_that_of_arviz_for_the_two_halves(rho):
    stats = pytest.importorskip("arviz_stats.base").array_stats
    trace = autoregressive(rho, columns=5) + np.linspace(0, 1, ROWS)[:, None]
    halves = np.stack([trace[: ROWS // 2], trace[ROWS // 2 :]])
    expected = [stats.rhat(column, method="identity") for column in np.moveaxis(halves, 2, 0)]
    np.testing.assert_allclose(convergence.split_r_hat(trace), expected, rtol=1e-10)


def test_r_hat_by_the_textbook():
    """Gelman and others 2013, equations 11.3 and 11.4, for two half chains written out."""
    trace = np.array([1.0, 2.0, 4.0, 3.0])[:, None]
    within = (np.var([1, 2], ddof=1) + np.var([4, 3], ddof=1)) / 2
    between = 2 * np.var([1.5, 3.5], ddof=1)
    expected = np.sqrt((within / 2 + between / 2) / within)
    assert convergence.split_r_hat(trace)[0] == pytest.approx(expected)


def test_what_moves_by_less_than_the_floor_agrees_with_itself():
    line = np.linspace(0, 1, 100)[:, None]
    assert convergence.split_r_hat(line)[0] > 1.9
    assert convergence.split_r_hat(1e-3 * line, floor=0.02)[0] < 1.0
    assert convergence.split_r_hat(np.zeros((100, 1)))[0] <= 1.0


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, 0.97])
def test_a_stationary_trace_is_seldom_said_to_drift(rho):
    """One column at a time the promise is one in a hundred; the slowest traces here are barely eight effective rows."""
    _, to_go = convergence.drifts(autoregressive(rho)[:, :1])
    alone = [convergence.drifts(column[:, None])[1][0] > 0 for column in autoregressive(rho).T[:500]]
    assert to_go.shape == (1,)
    assert np.mean(alone) <= 0.02 + 2 * np.sqrt(0.02 / 500)


def test_a_slow_drift_beneath_the_noise_is_seen():
    """One noise sd over the whole trace, from one end to the other."""
    trace = autoregressive(0.0, columns=200) + np.linspace(0, 1.0, ROWS)[:, None]
    assert np.mean([convergence.drifts(column[:, None])[1][0] > convergence.TO_GO for column in trace.T]) > 0.8


@pytest.mark.parametrize("keep", [0.7, 0.8, 0.9])
def test_how_far_it_is_to_go_is_extrapolated_from_two_horizons(keep):
    """An exponential approach to 0 from 1, by the factor `keep` in each quarter, without noise."""
    quarters = np.linspace(0, 4, ROWS, endpoint=False)
    trace = (keep**quarters)[:, None]
    last_quarter = trace[3 * ROWS // 4 :].mean()
    assert convergence.drifts(trace)[1][0] == pytest.approx(last_quarter, rel=0.01)


def test_a_straight_line_has_no_end_in_sight():
    assert convergence.drifts(np.linspace(0, 1, ROWS)[:, None])[1][0] > 100


def test_a_look_reports_the_worst_column():
    trace = 0.1 * autoregressive(0.0, columns=3)
    assert convergence.assess(trace).converged
    trace[:, 1] += np.linspace(0, 1, ROWS)
    found = convergence.assess(trace)
    assert found.drifts and not found.converged
    assert found.r_hat == pytest.approx(convergence.split_r_hat(trace, convergence.FLOOR)[1])


def test_an_average_that_is_too_noisy_is_not_settled():
    """Standard error 1 / sqrt(400) = 0.05 sd against the limit of 0.02."""
    found = convergence.assess(autoregressive(0.0, columns=3))
    assert found.r_hat < 1.1 and not found.drifts
    assert found.mcse == pytest.approx(0.05, rel=0.15)
    assert not found.converged


def test_a_shift_of_the_trace_changes_nothing():
    trace = autoregressive(0.5, columns=3)
    plain, shifted = convergence.assess(trace), convergence.assess(trace + 1e6)
    np.testing.assert_allclose(
        [shifted.drift, shifted.to_go, shifted.r_hat, shifted.mcse],
        [plain.drift, plain.to_go, plain.r_hat, plain.mcse],
        rtol=1e-4,
    )


def test_a_trace_of_nothing_is_settled():
    assert convergence.assess(np.zeros((100, 0))).converged
