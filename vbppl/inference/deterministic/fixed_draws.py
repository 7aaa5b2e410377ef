"""The deterministic fit: the bound on fixed, moment-exact draws, maximised to the end.

With the noise `e_n` fixed, the bound of a Gaussian guide

    J(loc, L) = mean log p(loc + L e_n) + log |det L| + const

is an ordinary smooth function, and can be maximised until it is (Giordano, Ingram and Broderick
2023, "Black Box Variational Inference with a Deterministic Objective", eq. 3). Nothing is left to
choose: the fit ends when an estimate of the nats still to gain is negligible.

1. Every start, in every kind of coordinates, climbs most of the way by L-BFGS on the mean-field bound
   (`restarts.py`), all of them side by side. The highest bound wins; the others may be other modes.
2. Full rank goes on from there by natural-gradient steps (`full_rank.py`), mean field by L-BFGS to the end
   (`mean_field.py`).
3. How much do the draws matter? Two new sets of twice as many would move the optimum by their own Newton
   steps. Where that is more than `DRAW_NOISE` sds, the two sets together are the next draws.

Everything outside the model's own density is linear algebra in float64 on the host, around the one compiled
evaluation. All fits of a call advance side by side, so a hundred data sets cost little more than one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from vbppl.core.numerics import natural_gradient
from vbppl.core.watch import Watch, last
from vbppl.inference.bound import WORTHWHILE, Estimate
from vbppl.inference.deterministic import mean_field
from vbppl.inference.deterministic.full_rank import FullRankFamily
from vbppl.inference.deterministic.mean_field import MeanFieldFamily
from vbppl.inference.deterministic.problem import Problem, check_full_rank
from vbppl.inference.deterministic.pseudo_data import pseudo_data
from vbppl.inference.deterministic.restarts import restarts, widths
from vbppl.inference.deterministic.state import CUT, MAX_DRAWS, Family, Run, Stage, State
from vbppl.inference.solution import Note, Solution

DRAW_NOISE, IN_MANY_DIMS = 0.01, 0.05  # sds; the worst of more than `MANY_DIMS` means and log sds
MANY_DIMS = 512
ROOM = 2**22  # numbers that a fit's draws may hold, beyond which there are no more: what others would change is told
CLEARLY = 0.5  # nats below a bound that stands: few draws lift a top, and by noise they may lower it too


def solve_mean_field(problem: Problem, watch: Watch = Watch()) -> list[Solution]:
    """Fit a mean-field guide to each target."""
    return _run_stages(problem, watch, _to_mean_field)


def solve_full_rank(problem: Problem, watch: Watch = Watch()) -> list[Solution]:
    """Fit a full-rank guide to each target.

    Raises:
      ModelError: fixed draws are asked for on which there is no maximum.
    """
    check_full_rank(problem.settings, problem.dim)
    return _run_stages(problem, watch, _to_full_rank, _in_width, is_full=True)


def solve_richest(problem: Problem, watch: Watch = Watch()) -> list[Solution]:
    """Fit the richer of the two to each target, where it surely gains something over the simpler one.

    Raises:
      ModelError: fixed draws are asked for on which there is no maximum.
    """
    check_full_rank(problem.settings, problem.dim)
    return _run_stages(problem, watch, _to_full_rank, _in_width, _to_the_richest)


# From the state at the end, and the mean-field one at which the family had begun.
Check: TypeAlias = Callable[[Run, State, State], Stage]


def _run_stages(
    problem: Problem, watch: Watch, to_the_end: Callable[[Run, State], Stage], *checks: Check, is_full: bool = False
) -> list[Solution]:
    """Restarts, another parameterisation, and `to_the_end` of one family; then `checks` of what that has found.

    What cuts a stage short hands back its last whole state, which is the answer; what cuts a check short leaves the
    answer as it was before that.
    """
    run, state = Run(problem), State.first(problem)
    news = run.progress if len(problem.targets) == 1 else None
    if is_full:  # whoever asks for full rank gets it, whenever the fit is cut short
        state = state.put(_everyone(state), is_full=True)
    begun = state
    for stage in (restarts, pseudo_data, to_the_end):
        begun = state
        state, cut = last(stage(run, state), state, watch, news)
        if cut:
            return run.solutions(state.cut_short(cut))
    for check in checks if "behind" not in state.reason else ():
        steps = check(run, state, begun)
        after, cut = last(steps, state, watch, news if check is not _in_width else None)  # no steps of the fit
        if cut:
            return [_ended_late(solution, cut) for solution in run.solutions(state)]
        state = after
    return run.solutions(state)


def _ended_late(solution: Solution, cut: str) -> Solution:
    """A solution that had come to its own end, when something cut its checks short."""
    text = f"{solution.status.text}; {CUT[cut].partition(':')[0]} before all was looked at that is beside it"
    return dataclasses.replace(solution, status=dataclasses.replace(solution.status, reason=cut, text=text))


def _to_mean_field(run: Run, state: State) -> Stage:
    return (yield from _maximise(MeanFieldFamily(run), state, _everyone(state)))


def _to_full_rank(run: Run, state: State) -> Stage:
    return (yield from _maximise(FullRankFamily(run), state.in_full_rank(), _everyone(state)))


def _in_width(run: Run, state: State, begun: State) -> Stage:
    return (yield from widths(run, state))


def _to_the_richest(run: Run, state: State, begun: State) -> Stage:
    """Back to mean field, and there to the end, where full rank does not surely gain what it is worth."""
    gain = [each.least for each in _gains(run, state, begun.x)]
    enough = np.array(gain) >= WORTHWHILE  # a gain that is no number is none
    for fit, nats in enumerate(gain):
        kept, left = "full rank, {:.2f} nats above mean field", "mean field; full rank would gain {:.2f} nats"
        said = kept.format(nats) if enough[fit] else left.format(max(nats, 0.0))
        state = state.with_notes(fit, Note("guide", said))
    back = np.flatnonzero(~enough)
    state = state.put(back, x=begun.x[back], is_full=False)
    return (yield from _maximise(MeanFieldFamily(run), state, back))


def _everyone(state: State) -> np.ndarray:
    return np.arange(len(state.x))


def _maximise(family: Family, state: State, fits: np.ndarray) -> Stage:
    """Maximise the bound of `fits` in one family, with more draws while they matter: see `Family`."""
    draws = family.fewest
    noise = family.noise(fits, draws)
    at = family.begin(state, fits, noise)
    while len(fits):
        state, at = yield from family.climb(state, fits, noise, at)
        # The top on these draws lies above that on others, on average: who is far below here stays there.
        tops = [state.bounds[fit][-1] + state.decrement[fit] for fit in fits if state.bounds[fit]]
        if tops and max(tops) < family.run.problem.standing - CLEARLY:
            return state.put(fits, reason="behind")
        moves, probe = family.probe(state, fits, at, draws)
        state = state.put(fits, draws=draws, draw_noise=_worst(np.array(moves)))
        wanting = _want_more(family.run, state, fits, draws)
        state = yield from family.settle(state, fits, noise, at, ~wanting)
        fits, draws = fits[wanting], min(4 * draws, max(MAX_DRAWS, draws))
        noise = family.noise.joined(fits, draws)
        at = family.resume(state, fits, noise, probe, wanting)
    return state


def _want_more(run: Run, state: State, fits: np.ndarray, draws: int) -> np.ndarray:
    """Which fits' draws still matter, where there may be more of them."""
    if draws >= MAX_DRAWS or min(4 * draws, MAX_DRAWS) * run.dim > ROOM or run.problem.settings.draws:
        return np.zeros(len(fits), bool)
    # The worst of so many is far from all others: in 1,000 dims a shared scale asked for 2,048 draws, for .016 sds.
    enough = DRAW_NOISE if run.dim <= MANY_DIMS else IN_MANY_DIMS
    return (state.draw_noise[fits] > enough) & (state.reason[fits] != "stuck")


def _worst(moves: np.ndarray) -> np.ndarray:
    """The greatest root mean square of a quantity's moves, `(sets, searches, quantities)` to `(searches,)`."""
    return np.sqrt(np.mean(np.square(moves), axis=0)).max(axis=1, initial=0.0)


def _gains(run: Run, state: State, simple: np.ndarray) -> list[Estimate]:
    """The nats that full rank gains over mean field at `simple`, on common new draws, for each fit."""
    fits, gains = _everyone(state), []
    batch = run.batch(state, fits)
    for number in (3, 4):
        noise = run.noise(fits, int(state.draws.max()), number)
        rich = natural_gradient.evaluate(batch, state.loc, state.factor, noise, fits).bound
        gains.append(rich + mean_field.negated_bound(batch, noise)(simple, fits)[0])
    return [Estimate.of(sets) for sets in zip(*gains)]
