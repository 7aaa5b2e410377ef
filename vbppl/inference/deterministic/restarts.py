"""Where a fit on fixed draws begins: several starts, in each of the coordinates, all of them side by side.

Each goes most of the way to its optimum of the mean-field bound; the highest is kept. The ends of the others are
looked at once more: those that lie far off, with a valley between, are other modes; but not those that differ only in
the order of exchangeable parts (`relabelling`).

From the optimum a full-rank fit restarts once more with the same means, four times as wide and as narrow (`widths`): of
two scales, one inside the other, a Gaussian fits either, and in ten dims and more draws of one never meet the other.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from vbppl.core.keys import host_generator
from vbppl.core.numerics import mixtures, natural_gradient
from vbppl.core.numerics.mixtures import Components
from vbppl.core.numerics.natural_gradient import Iterates
from vbppl.core.special import NORMAL_ENTROPY
from vbppl.guides.gaussian import START_SD
from vbppl.inference.bound import WORTHWHILE, Estimate
from vbppl.inference.deterministic import mean_field
from vbppl.inference.deterministic.relabelling import (
    SAME_MODE,
    SHARES,
    VALLEY,
    InOneOrder,
    in_better_order,
    in_one_order,
)
from vbppl.inference.deterministic.state import Run, Stage, State
from vbppl.inference.initialization import ONE_START_DIM, find_starts, no_initialization
from vbppl.inference.solution import Mode, Note, NotSearched, Searched
from vbppl.target.batched import HEAVY, Batch
from vbppl.target.target import reparameterised

STARTS = 3  # searches; above `ONE_START_DIM` there is one
START_TOLERANCE = 1e-2  # nats to gain that decide between starts and coordinates no more
EQUAL = 1.0  # nats by which the bounds of one mode in two orders may differ, on few draws and not quite at their ends
WIDER = np.array([4.0, 0.25])  # times as wide as the optimum, where an ascent begins anew
WIDTHS_DIM = 64  # up to here two looks at each are a small part of what a fit costs
LOOKS, NEARLY = 30, 1e-2  # at a further ascent; nats to gain at its end
ELSEWHERE, LOWER = 0.25, 3.0  # nats: KL from the optimum; how much lower a bound may be to matter


def restarts(run: Run, state: State) -> Stage:
    """Go most of the way to the mean-field optimum from each start in each of the coordinates; keep the best."""
    parameterisations, count = run.problem.parameterisations, len(run.problem.targets)
    fits = np.repeat(np.arange(count), len(parameterisations))
    every = Batch(run.density, fits, np.tile(parameterisations, (count, 1)))
    problem = run.problem
    if problem.start is None:
        rngs = [host_generator(problem.raw_keys[fit], "start") for fit in every.fits]
        points, found = find_starts(every, run.dim, rngs, 1 if _is_heavy(run) else STARTS)
        _check_found(run, every, points, found)
        starts = np.concatenate([points, np.full_like(points, np.log(START_SD))], axis=-1)
    else:
        starts = np.tile(problem.start.reshape(len(parameterisations), 1, 2 * run.dim), (count, 1, 1))
    starts_each = starts.shape[1]
    batch = every.take(np.repeat(np.arange(len(every)), starts_each))
    noise = run.noise(batch.fits, mean_field.fewest(run))
    x = mean_field.shrink_sds(batch, starts.reshape(len(batch), 2 * run.dim), noise)
    state, at = yield from mean_field.descended(state, batch, x, noise, START_TOLERANCE, run.is_dear)
    shape = (count, len(parameterisations), starts_each)
    value = np.where(np.isfinite(at.value), at.value, np.inf).reshape(shape)
    ends = at.x.reshape(*shape, -1)
    if problem.start is None and not _is_heavy(run) and problem.targets[0].layout.summed:
        state, ends, value = yield from _in_better_order(run, state, ends, value)
    for fit in range(count):
        option, start = map(int, np.unravel_index(int(np.argmin(value[fit])), value.shape[1:]))
        state = state.put(np.array([fit]), x=ends[fit, option, start], parameterisations=parameterisations[option])
        searched = _searched(run, state, fit, ends[fit, option], value[fit, option], start)
        notes = _notes(run, fit, option, -value[fit].min(axis=1), searched)
        state = state.with_modes(fit, searched).with_notes(fit, *notes)
    return state


def _in_better_order(
    run: Run, state: State, ends: np.ndarray, value: np.ndarray
) -> Generator[State, None, tuple[State, np.ndarray, np.ndarray]]:
    """One more of the ends, `(fits, parameterisations, starts, 2 dim)`, where another order of parts lifts the best."""
    begun = {}
    for fit in range(len(ends)):
        option, start = map(int, np.unravel_index(int(np.argmin(value[fit])), value.shape[1:]))
        end, parameterisations = ends[fit, option, start], run.problem.parameterisations[option]
        target = reparameterised(run.problem.targets[fit], parameterisations)
        one = Batch(run.density, np.array([fit]), parameterisations[None])
        loc = in_better_order(target, one.at, end[: run.dim])
        if loc is not None:
            begun[fit] = option, np.concatenate([loc, end[run.dim :]])
    if not begun:
        return state, ends, value
    fits, (options, x) = np.array([*begun]), map(np.array, zip(*begun.values()))
    batch = Batch(run.density, fits, run.problem.parameterisations[options])
    noise = run.noise(fits, mean_field.fewest(run))
    x = mean_field.shrink_sds(batch, x, noise)
    state, at = yield from mean_field.descended(state, batch, x, noise, START_TOLERANCE)
    ends = np.concatenate([ends, ends[:, :, :1]], axis=2)
    value = np.concatenate([value, np.full_like(value[:, :, :1], np.inf)], axis=2)
    ends[fits, options, -1], value[fits, options, -1] = at.x, np.where(np.isfinite(at.value), at.value, np.inf)
    return state, ends, value


def _check_found(run: Run, batch: Batch, points: np.ndarray, found: np.ndarray) -> None:
    """Refuse to go on where a target has a finite density at no start, in none of the coordinates."""
    for fit, target in enumerate(run.problem.targets):
        mine = np.flatnonzero(batch.fits == fit)
        if not found[mine].any():
            which = f"data set {fit}: " if len(run.problem.targets) > 1 else ""
            raise no_initialization(target, points[mine[0], 0], which)


def _is_heavy(run: Run) -> bool:
    """Are data or dims so many that the time is better spent on one start?"""
    return run.problem.targets[0].data_size > HEAVY or run.dim > ONE_START_DIM


def _searched(
    run: Run, state: State, fit: int, ends: np.ndarray, value: np.ndarray, best: int
) -> Searched | NotSearched:
    """The other modes among the `ends` of the starts, `(starts, 2 dim)`, at negated bounds `value`."""
    if run.problem.start is not None:
        return NotSearched("the fit began from the one place that was given")
    if _is_heavy(run):
        what = (
            f"more than {ONE_START_DIM:,} dims" if run.dim > ONE_START_DIM else f"data of more than {HEAVY:,} numbers"
        )
        return NotSearched(f"{what} get one start")

    ends, orders, sites = _in_one_order(run, state, fit, ends.reshape(len(ends), 2, -1), value, best)

    def valley(other: int) -> float:
        x = (SHARES[..., None] * ends[other] + (1 - SHARES[..., None]) * ends[best]).reshape(len(SHARES), -1)
        batch = run.batch(state, np.full(len(x), fit))
        noise = run.noise(batch.fits, mean_field.fewest(run))
        return mean_field.negated_bound(batch, noise)(x, np.arange(len(x)))[0].max() - value[other]

    found = compare(ends, value, best, valley)
    return dataclasses.replace(found, orders=orders, exchangeable=sites)


def _in_one_order(run: Run, state: State, fit: int, ends: np.ndarray, value: np.ndarray, best: int) -> InOneOrder:
    """The ends, `(starts, 2, dim)`, in the order of parts of the best where they are the same but for that."""
    rivals = _rivals(ends, value, best)
    if not rivals and not run.problem.targets[fit].layout.summed:
        return InOneOrder(ends)
    target = reparameterised(run.problem.targets[fit], state.parameterisations[fit])
    one = run.batch(state, np.array([fit]))
    equal = [other for other in rivals if value[other] - value[best] <= EQUAL]
    return in_one_order(target, one.at, run.problem.raw_keys[fit], ends, best, equal)


def _rivals(ends: np.ndarray, value: np.ndarray, best: int) -> list[int]:
    """Which ends lie far from the best, at bounds that matter beside it."""
    return [
        int(other)
        for other in np.flatnonzero(np.isfinite(value) & (np.arange(len(ends)) != best))
        if away(ends[best], ends[other]) > SAME_MODE and value[other] - value[best] < mean_field.RIVAL
    ]


def compare(ends: np.ndarray, value: np.ndarray, best: int, valley: Callable[[int], float]) -> Searched:
    """Which ends of several searches are modes of their own.

    Args:
      ends: mean and log sd, `(starts, 2, dim)`.
      value: their negated bounds, infinite where there is none, `(starts,)`.
      best: the end that is kept.
      valley: by how many nats the bound falls below another end on the way there from the best.
    """
    reached, far = np.isfinite(value), _rivals(ends, value, best)
    found = []
    for other in far:
        # A mode that two searches have met is told once, where the better of them ended.
        higher = [end for end in far if (value[end], end) < (value[other], other)]
        if any(away(ends[end], ends[other]) <= SAME_MODE for end in higher):
            continue
        # Ends that lie apart may lie on one ridge. Two modes have a valley between them, if only of no density.
        if not valley(other) <= VALLEY:
            found.append(Mode(float(value[other] - value[best]), away(ends[best], ends[other]), ends[other]))
    spread = float(np.ptp(value[reached])) if reached.any() else np.inf
    return Searched(tuple(found), len(ends), spread)


def widths(run: Run, state: State) -> Stage:
    """Restart full-rank fits from their optimum with other widths; what ends elsewhere is another mode."""
    fits = np.flatnonzero(state.is_full & np.isin(state.reason, ("converged", "rounding")))
    if not len(fits) or _is_heavy(run):
        return state
    noise, batch = run.noise(fits, run.fewest(2 * run.dim)), run.batch(state, fits)
    unknown = np.zeros((len(fits), run.dim)), np.zeros((len(fits), run.dim, run.dim))
    home = Iterates.at(state.loc[fits], state.factor[fits], _height(state, fits), *unknown)
    origins, at = yield from in_width(batch, home, noise, batch.rounding, state)
    for number, fit in enumerate(fits[origins].tolist()):
        state = _with_width(run, state, fit, at.take(np.array([number])))
    return state


def in_width(
    density: natural_gradient.Density,
    home: Iterates,
    noise: np.ndarray,
    rounding: Callable[[np.ndarray], np.ndarray],
    state: Any = None,
) -> Generator[Any, None, tuple[np.ndarray, Iterates]]:
    """Ascents from Gaussians at their optima, `home`, once more at the same means, four times as wide and as narrow.

    Two looks at each show whether the way leads home, which for a Gaussian density the first step does.

    Yields:
      `state` after each step, which has not changed.

    Returns:
      from which of `home` each began that ended elsewhere, and where.
    """
    origins, scale = np.repeat(np.arange(len(home.loc)), len(WIDER)), np.tile(WIDER, len(home.loc))
    if not 1 < home.loc.shape[1] <= WIDTHS_DIM:
        return origins[:0], home.take(origins[:0])
    at = natural_gradient.evaluate(
        density, home.loc[origins], scale[:, None, None] * home.factor[origins], noise[origins], origins
    )
    for steps_ahead in (1, LOOKS):

        def of_these(
            z: np.ndarray, searches: np.ndarray, origins: np.ndarray = origins
        ) -> tuple[np.ndarray, np.ndarray]:
            return density(z, origins[searches])

        steps = natural_gradient.ascents(of_these, at, noise[origins], rounding, np.full(len(origins), NEARLY))
        for step in itertools.islice(steps, steps_ahead + 1):
            at = step
            yield state
        left = np.flatnonzero(_promises(home.take(origins), at))
        origins, at = origins[left], at.take(left)
    return origins, at


def _promises(home: Iterates, at: Iterates) -> np.ndarray:
    """Which ascents lead elsewhere than home, and to bounds that matter beside those there."""
    sound = np.isfinite(at.decrement) & np.isfinite(at.bound)
    is_high = at.bound + np.minimum(at.decrement, LOWER) > home.bound - LOWER
    chosen = np.flatnonzero(sound & is_high)
    # Where the next step leads, rather than where it stands: most of the way home is behind it by then.
    nearer = natural_gradient.divergence(
        *natural_gradient.proposed(at.take(chosen), np.ones(len(chosen))), home.take(chosen)
    )
    now = natural_gradient.divergence(at.loc[chosen], at.factor[chosen], home.take(chosen))
    promises = np.zeros(len(at.loc), bool)
    promises[chosen] = np.minimum(nearer, now) > ELSEWHERE
    return promises


def _height(state: State, fits: np.ndarray) -> np.ndarray:
    """The bounds of full-rank fits, without the normals' constant, `(fits,)`."""
    constant = state.loc.shape[1] * NORMAL_ENTROPY
    return np.array([state.bounds[fit][-1] for fit in fits]) - constant


def _with_width(run: Run, state: State, fit: int, other: Iterates) -> State:
    """The state with the normal `other` among the other modes of a fit, if it gains anything beside the optimum."""
    one, searched = np.array([fit]), state.other_modes[fit]
    height, here = _height(state, one)[0], (state.loc[fit], state.factor[fit])
    known = [mode.factor for mode in searched.found if mode.factor is not None]
    apart = [Iterates.at(other.loc, factor[None], *other.seen[2:]) for factor in known]
    if any(natural_gradient.divergence(other.loc, other.factor, each)[0] < ELSEWHERE for each in apart):
        return state
    both = Components.of(np.array([height, other.bound[0]]), [here[0], other.loc[0]], [here[1], other.factor[0]])
    batch, gains = run.batch(state, np.array([fit, fit])), []
    for number in (3, 4):
        noise = run.noise(np.array([fit, fit]), max(256, 4 * run.dim), number)
        seen = mixtures.evaluate(batch, both, noise)
        alone = float(np.mean(seen.log_p[0] - seen.log_each[0, :, 0]))
        gains.append(mixtures.rebound(seen, mixtures.reweighed(seen)) - alone)
    if not Estimate.of(gains).least > WORTHWHILE:
        return state
    _, log_dets = np.linalg.slogdet(np.stack([here[1], other.factor[0]]))
    place = np.stack([other.loc[0], np.log(other.sd[0])])
    shift = away(np.stack([here[0], np.log(np.sqrt(np.sum(here[1] ** 2, axis=1)))]), place)
    wider = float(np.exp((log_dets[1] - log_dets[0]) / run.dim))
    mode = Mode(float(height - other.bound[0]), shift, place, other.factor[0], wider)
    if isinstance(searched, NotSearched):
        return state.with_modes(fit, Searched((mode,), 1, 0.0))
    return state.with_modes(fit, dataclasses.replace(searched, found=(*searched.found, mode)))


def away(end: np.ndarray, other: np.ndarray) -> float:
    """How far apart two normals lie, `(2, dim)` each, in sds of the wider one."""
    scale = np.exp(np.maximum(end[1], other[1]))
    return float((np.abs(end[0] - other[0]) / scale).max(initial=0.0))


def _notes(run: Run, fit: int, chosen: int, bounds: np.ndarray, searched: Searched | NotSearched) -> list[Note]:
    """What was chosen, by `bounds` of each of the coordinates, and what was left out."""
    notes = []
    if len(bounds) > 1:
        names = ", ".join(run.problem.targets[fit].layout.funnels)
        other, gain = 1 - chosen, bounds[chosen] - bounds[1 - chosen]
        kept, left = (("centred", "non-centred")[i] for i in (chosen, other))
        notes.append(Note("parameterisation", f"{names} {kept} (mean-field bound {gain:.2f} nats above {left})"))
    if run.problem.start is None and isinstance(searched, NotSearched):
        notes.append(Note("modes", f"not looked for: {searched.why}"))
    return notes
