"""Pseudo-data coordinates: a third way to see hierarchical sites, by a rule, beside centred and decentred ones.

Of each row of a movable site the rest of the density is summed up by one observation `y` of precision `d`; the map in
`distributions/location_scale.py` then takes what these say out of the row. Where the rest is normal given the hypers,
as in eight schools, `(y, d)` are the data themselves, and what is left is independent of the hypers.

The rule, at the medians `x` of a fit, with the gradient `g` and the diagonal `H` of the Hessian of the log density by
the site's values, and `g0` and `H0` those of its prior, `-(x - loc) / scale^2` and `-1 / scale^2` of a normal one:

    d = H0 - H,    y = x + (g - g0) / d.

It is not learnt: by the bound, pseudo-data would rather fit its draws. Sites are gone through from the last to the
first, each seen centred and those behind it by their pseudo-data already: what these then tell of it is what is left
when they are averaged over. So a chain of sites gets the messages of its backward filter.

The Hessian comes from differences of the gradient that is compiled already: of all rows at once, with two patterns of
signs. Where the two disagree, rows speak to each other, and are moved one after the other if they are few.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from vbppl.distributions.location_scale import Coordinates
from vbppl.inference.deterministic import mean_field
from vbppl.inference.deterministic.restarts import FIRST
from vbppl.inference.deterministic.state import Stage, State, Work
from vbppl.inference.solution import Note
from vbppl.target.batched import Batch
from vbppl.target.density import Prior, priors_at
from vbppl.target.target import Target, in_coordinates

LEAST, MOST = 1e-2, 1e4  # precisions, in those of the prior: below nothing is told, and above a row is centred
STEP = 0.25  # sds between a median and where the gradient is asked
ALIKE = 0.02  # of a Hessian's diagonal, within which two patterns of signs say the same
ALONE = 128  # rows that are moved one after the other
GAIN = 0.02  # nats


def pseudo_data(work: Work, state: State) -> Stage:
    """See movable sites by pseudo-data where the mean-field bound then gains, on common new draws."""
    yield from ()
    layout = work.problem.targets[0].layout
    is_one = [not modes.found and np.isfinite(x).all() for modes, x in zip(state.other_modes, state.x)]
    fits = np.flatnonzero(is_one)  # what is told of a row at one mode is wrong at another
    # Where all scales are known the map is linear: a full-rank guide is the same in any coordinates.
    if not (work.problem.pseudo_data and layout.funnels and len(fits)):
        return state
    before = work.batch(state, fits)
    rows, x = by_rule(before, work.problem.targets, state.x[fits])
    new = ~np.any([np.all(rows == row, axis=1) for row in work.problem.coordinates], axis=0)
    new &= np.isfinite(x).all(axis=1)
    fits, before, rows, x = fits[new], before.take(new), rows[new], x[new]
    if not len(fits):
        return state
    lanes, draws = Batch(work.density, fits, rows), mean_field.fewest(work)
    noise = work.noise(fits, draws)
    steps = mean_field.descend(lanes, mean_field.narrowed(lanes, x, noise), noise, FIRST)
    at = next(steps)
    while len(at.going):
        yield state  # until it is known to be better, it is not the answer
        at = next(steps)
    noise = work.noise(fits, 2 * draws, 5)
    bounds = [
        -mean_field.negated_bound(some, noise)(x, np.arange(len(fits)))[0]
        for some, x in ((before, state.x[fits]), (lanes, at.x))
    ]
    for number, (fit, nats) in enumerate(zip(fits.tolist(), (bounds[1] - bounds[0]).tolist())):
        if nats > GAIN:
            how, left = (in_words(layout.unpacked(some.coordinates[number])) for some in (lanes, before))
            texts = [", ".join(f"{name} {word}" for name, word in words.items()) for words in (how, left)]
            said = Note("coordinates", f"{texts[0]} (mean-field bound {nats:.2f} nats above {texts[1]})")
            # In the place of what was said of the two that are left.
            told = [*(list(notes) for notes in state.notes)]
            told[fit] = [*(note for note in told[fit] if note.topic != said.topic), said]
            state = state.put(np.array([fit]), x=at.x[number], coordinates=rows[number])
            state = dataclasses.replace(state, notes=tuple(map(tuple, told)))
    return state


def by_rule(lanes: Batch, targets: Sequence[Target], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pseudo-data at the medians of mean-field guides `x`, `(lanes, 2 dim)`: rows of coordinates, and `x` in them."""
    layout, (loc, log_sd) = targets[0].layout, np.split(x, 2, axis=1)
    z, log_sd, sites = loc.copy(), log_sd.copy(), _sites(lanes, targets, loc)
    seen = [layout.in_coordinates(dict.fromkeys(layout.movable, 1.0), float) for _ in lanes.fits]
    slots = {slot.name: slot for slot in layout.slots}
    for name, site in sites.items():
        part = slice(slots[name].start, slots[name].stop)
        z[:, part], log_sd[:, part] = site.value, log_sd[:, part] + np.log(np.abs(site.stretch))
    for name in reversed(layout.movable):
        slot, site = slots[name], sites[name]
        part = slice(slot.start, slot.stop)
        rows = np.stack([layout.packed(each) for each in seen])
        gradient, hessian = _slopes(Batch(lanes.density, lanes.fits, rows), z, part, STEP * np.exp(log_sd[:, part]))
        d = (site.curvature - hessian) * site.scale**2
        d = np.where(d >= LEAST, np.minimum(d, MOST), 0.0) / site.scale**2  # not a number is nothing
        y = np.where(d > 0, site.value + (gradient - site.slope) / np.where(d > 0, d, 1.0), 0.0)
        q = 1 + d * site.scale**2
        away = site.value - site.loc - (1 - 1 / q) * (y - site.loc)
        z[:, part] = away * np.sqrt(q) / site.scale
        log_sd[:, part] += np.log(q) / 2 - np.log(site.scale)
        for lane, own in enumerate(seen):
            shape = slot.unconstrained
            own[name] = Coordinates(np.zeros(()), y[lane].reshape(shape), d[lane].reshape(shape))
    return np.stack([layout.packed(each) for each in seen]), np.concatenate([z, log_sd], axis=1)


def _sites(lanes: Batch, targets: Sequence[Target], loc: np.ndarray) -> dict[str, Prior]:
    """The movable sites at the medians, in float64, `(lanes, size)` each."""
    each = [
        priors_at(in_coordinates(targets[fit], row), at.astype(lanes.density.dtype))
        for fit, row, at in zip(lanes.fits, lanes.coordinates, loc)
    ]
    return jax.tree.map(lambda *parts: np.stack(parts).reshape(len(parts), -1).astype(np.float64), *each)


def _slopes(lanes: Batch, z: np.ndarray, part: slice, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gradient at `z`, `(lanes, dim)`, and the Hessian's diagonal, by one site's coordinates, `(lanes, size)`."""
    size = step.shape[1]
    signs = np.ones((1, size)) if size == 1 else np.stack([np.ones(size), np.where(np.arange(size) % 3 % 2, -1.0, 1.0)])

    def second(patterns: np.ndarray) -> np.ndarray:
        points = np.repeat(z[:, None], 2 * len(patterns), axis=1)
        points[:, :, part] += step[:, None] * np.concatenate([patterns, -patterns])
        points = points.astype(lanes.density.dtype).astype(np.float64)  # the steps that are really taken
        away = np.split(points[:, :, part], 2, axis=1)
        slope = np.split(lanes(points)[1][:, :, part], 2, axis=1)
        return (slope[0] - slope[1]) / np.where(patterns == 0, np.nan, away[0] - away[1])

    gradient, found = lanes(z[:, None])[1][:, 0, part], second(signs)
    spread, high = np.ptp(found, axis=1), np.abs(found).max(axis=1)
    if np.all(spread <= ALIKE * high):
        return gradient, found.mean(axis=1)
    if size > ALONE:
        return gradient, np.where(spread <= ALIKE * high, found.mean(axis=1), np.nan)
    return gradient, np.nanmean(second(np.eye(size)), axis=1)


def in_words(coordinates: Mapping[str, Coordinates]) -> dict[str, str]:
    """How movable sites are seen, each in a word or two."""
    plain = {1.0: "centred", 0.0: "decentred"}
    return {
        name: "by pseudo-data" if np.any(seen.d) else plain.get(float(seen.weight), "halfway")
        for name, seen in coordinates.items()
    }
