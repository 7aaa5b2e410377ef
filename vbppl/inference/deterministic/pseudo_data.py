"""Pseudo-data coordinates: a third way to see hierarchical sites, by a rule, beside centred and non-centred ones.

Of each row of a movable site the rest of the density is summed up by one observation `y` of precision `d`; the map in
`distributions/location_scale.py` then takes what these say out of the row. Where the rest is normal given the hypers,
as in eight schools, `(y, d)` are the data themselves, and what is left is independent of the hypers.

The rule, at the medians `x` of a fit, with the gradient `g` and the diagonal `H` of the Hessian of the log density by
the site's values, and `g0` and `H0` those of its prior, `-(x - loc) / scale^2` and `-1 / scale^2` of a normal one:

    d = H0 - H,    y = x + (g - g0) / d.

Of a multivariate normal all of these are blocks, `1 / scale^2` is the inverse of its covariance `T T'`, and what is
told is bounded in each direction by the eigenvalues of `T' d T`, as `d scale^2` is of a number. One that is no larger
than the rounding of `H0 - H` says nothing.

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

from vbppl.distributions.location_scale import Parameterisation
from vbppl.inference.deterministic import mean_field
from vbppl.inference.deterministic.restarts import START_TOLERANCE
from vbppl.inference.deterministic.state import Run, Stage, State
from vbppl.inference.solution import Note
from vbppl.target.batched import Batch
from vbppl.target.priors import Prior, priors_at
from vbppl.target.target import Target, reparameterised

# In those of the prior: below nothing is told, and above a row is centred.
MIN_PRECISION, MAX_PRECISION = 1e-2, 1e4
STEP = 0.25  # sds between a median and where the gradient is asked
ALIKE = 0.02  # of a Hessian's diagonal, within which two patterns of signs say the same
ALONE = 128  # rows that are moved one after the other
GAIN = 0.02  # nats


def pseudo_data(run: Run, state: State) -> Stage:
    """See movable sites by pseudo-data where the mean-field bound then gains, on common new draws."""
    yield from ()
    layout = run.problem.targets[0].layout
    is_one = [not modes.found and np.isfinite(x).all() for modes, x in zip(state.other_modes, state.x)]
    fits = np.flatnonzero(is_one)  # what is told of a row at one mode is wrong at another
    # Where all scales are known the map is linear: a full-rank guide is the same in any coordinates.
    if not (run.problem.tries_pseudo_data and layout.funnels and len(fits)):
        return state
    before = run.batch(state, fits)
    rows, x = by_rule(before, run.problem.targets, state.x[fits])
    new = ~np.any([np.all(rows == row, axis=1) for row in run.problem.parameterisations], axis=0)
    new &= np.isfinite(x).all(axis=1)
    fits, before, rows, x = fits[new], before.take(new), rows[new], x[new]
    if not len(fits):
        return state
    batch, draws = Batch(run.density, fits, rows), mean_field.fewest(run)
    noise = run.noise(fits, draws)
    steps = mean_field.descend(batch, mean_field.shrink_sds(batch, x, noise), noise, START_TOLERANCE)
    at = next(steps)
    while len(at.going):
        yield state  # until it is known to be better, it is not the answer
        at = next(steps)
    noise = run.noise(fits, 2 * draws, 5)
    bounds = [
        -mean_field.negated_bound(some, noise)(x, np.arange(len(fits)))[0]
        for some, x in ((before, state.x[fits]), (batch, at.x))
    ]
    for number, (fit, nats) in enumerate(zip(fits.tolist(), (bounds[1] - bounds[0]).tolist())):
        if nats > GAIN:
            how, left = (in_words(layout.unpacked(some.parameterisations[number])) for some in (batch, before))
            texts = [", ".join(f"{name} {word}" for name, word in words.items()) for words in (how, left)]
            said = Note("parameterisation", f"{texts[0]} (mean-field bound {nats:.2f} nats above {texts[1]})")
            # In the place of what was said of the two that are left.
            notes = [*(list(notes) for notes in state.notes)]
            notes[fit] = [*(note for note in notes[fit] if note.topic != said.topic), said]
            state = state.put(np.array([fit]), x=at.x[number], parameterisations=rows[number])
            state = dataclasses.replace(state, notes=tuple(map(tuple, notes)))
    return state


def by_rule(batch: Batch, targets: Sequence[Target], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pseudo-data at the medians of mean-field guides `x`, `(searches, 2 dim)`: parameterisations, and `x` in them."""
    layout, (loc, log_sd) = targets[0].layout, np.split(x, 2, axis=1)
    z, log_sd, sites = loc.copy(), log_sd.copy(), _sites(batch, targets, loc)
    forms = [layout.centred_by(dict.fromkeys(layout.movable, 1.0), float) for _ in batch.fits]
    slots = {slot.name: slot for slot in layout.slots}
    for name, site in sites.items():
        part, blocks = slice(slots[name].start, slots[name].stop), site.value.shape
        z[:, part] = site.value.reshape(len(z), -1)
        log_sd[:, part] = _log_sd(np.asarray(site.stretch), log_sd[:, part].reshape(blocks))
    for name in reversed(layout.movable):
        slot, site = slots[name], sites[name]
        part = slice(slot.start, slot.stop)
        rows = np.stack([layout.packed(each) for each in forms])
        gradient, hessian = np.asarray(site.slope), np.asarray(site.curvature)
        if 0 not in slot.pseudo_data_shapes[1]:  # else vectors are too long to be told anything
            step = STEP * np.exp(log_sd[:, part]).reshape(site.value.shape)
            gradient, hessian = _slopes(Batch(batch.density, batch.fits, rows), z, part, step)
        y, d, place, narrowed = _pseudo_data_of(site, gradient, hessian, float(np.finfo(batch.density.dtype).eps))
        z[:, part] = place.reshape(len(z), -1)
        log_sd[:, part] = _log_sd(narrowed, log_sd[:, part].reshape(site.value.shape))
        for search, own in enumerate(forms):
            precisions = d[search, :, : slot.pseudo_data_shapes[1][-2]] if slot.vector_dim else np.square(d[search])
            own[name] = Parameterisation(
                np.zeros(()), *(p.reshape(s) for p, s in zip((y[search], precisions), slot.pseudo_data_shapes))
            )
    return np.stack([layout.packed(each) for each in forms]), np.concatenate([z, log_sd], axis=1)


def _pseudo_data_of(site: Prior, gradient: np.ndarray, hessian: np.ndarray, eps: float) -> tuple[np.ndarray, ...]:
    """Pseudo-data and a factor of their precisions; the place in these coordinates, and its derivative by the value."""
    diagonal = np.diagonal(site.scale, axis1=-2, axis2=-1)
    singular = (diagonal == 0).any(axis=-1)[..., None, None]  # in 32 bits; such a place is none
    scale = np.where(singular, np.nan, site.scale)
    eigenvalues = _transposed(scale) @ (site.curvature - hessian) @ scale
    known = np.isfinite(eigenvalues).all(axis=(-2, -1), keepdims=True)  # what is not a number is nothing
    eigenvalues, axes = np.linalg.eigh(np.where(known, eigenvalues + _transposed(eigenvalues), 0.0) / 2)
    # Entries of H0 and H are off by eps of their sizes, so by Weyl's inequality no eigenvalue of `T' (H0 - H) T` is by
    # more than eps || |T|' (|H0| + |H|) |T| ||, which is far from small where a prior is narrow in one direction.
    sizes = _transposed(np.abs(scale)) @ (np.abs(site.curvature) + np.abs(hessian)) @ np.abs(scale)
    least = np.maximum(MIN_PRECISION, eps * np.linalg.norm(sizes, axis=(-2, -1)))[..., None]
    eigenvalues = np.where(eigenvalues >= least, np.minimum(eigenvalues, MAX_PRECISION), 0.0)
    rows, columns = np.sqrt(eigenvalues)[..., None] * _transposed(axes), scale @ axes
    away = _times(_transposed(columns), gradient - site.slope)
    away = np.where(eigenvalues > 0, away / np.where(eigenvalues > 0, eigenvalues, 1.0), 0.0)
    is_any, at = (
        (eigenvalues > 0).any(axis=-1, keepdims=True),
        np.linalg.solve(scale, (site.value - site.loc)[..., None]),
    )
    y = np.where(is_any, site.value + _times(columns, away), 0.0)
    # In the prior's own scale they lie at `at + axes away`, and what is seen of `at` is `upper' (at - mean)`.
    precision = np.eye(scale.shape[-1]) + _transposed(rows) @ rows
    upper = np.linalg.cholesky(precision[..., ::-1, ::-1])[..., ::-1, ::-1]
    drawn = _times(_transposed(rows) @ rows, at[..., 0] + _times(axes, away))
    place = _times(_transposed(upper), at[..., 0] - np.linalg.solve(precision, drawn[..., None])[..., 0])
    inverse = np.linalg.inv(scale)
    return y, rows @ inverse, place, _transposed(upper) @ inverse


def _times(matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (matrix @ x[..., None])[..., 0]


def _transposed(matrix: np.ndarray) -> np.ndarray:
    return np.swapaxes(matrix, -1, -2)


def _log_sd(slope: np.ndarray, log_sd: np.ndarray) -> np.ndarray:
    """The log sds of `slope x` for independent `x`, one after the other: `(searches, size)`."""
    with np.errstate(divide="ignore"):
        found = np.logaddexp.reduce(2 * (np.log(np.abs(slope)) + log_sd[..., None, :]), axis=-1) / 2
    return found.reshape(len(found), -1)


def _sites(batch: Batch, targets: Sequence[Target], loc: np.ndarray) -> dict[str, Prior]:
    """The movable sites at the medians, in float64, `(searches, size)` each."""
    each = [
        priors_at(reparameterised(targets[fit], row), at.astype(batch.density.dtype))
        for fit, row, at in zip(batch.fits, batch.parameterisations, loc)
    ]
    return jax.tree.map(lambda *parts: np.stack(parts).astype(np.float64), *each)


def _slopes(batch: Batch, z: np.ndarray, part: slice, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gradient at `z` and the blocks of the Hessian by one site's coordinates, as a `Prior` has them.

    Args:
      step: how far from `z` the gradient is asked, `(searches, blocks, dim)`.
    """
    _, blocks, dim = step.shape
    signs = np.ones((1, blocks))
    if blocks > 1:
        signs = np.stack([signs[0], np.where(np.arange(blocks) % 3 % 2, -1.0, 1.0)])

    def columns(signs: np.ndarray) -> np.ndarray:
        """By each of the signs, which are 0 of blocks that stand still: `(searches, signs, blocks, dim, dim)`."""
        moves = (signs[:, None, :, None] * np.eye(dim)[:, None]).reshape(len(signs) * dim, -1)
        points = np.repeat(z[:, None], 2 * len(moves), axis=1)
        points[:, :, part] += step.reshape(len(z), 1, -1) * np.concatenate([moves, -moves])
        points = points.astype(batch.density.dtype).astype(np.float64)  # the steps that are really taken
        shape = len(z), 2, len(signs), dim, blocks, dim
        away = np.diff(points[:, :, part].reshape(shape), axis=1)[:, 0]
        slope = np.diff(batch(points)[1][:, :, part].reshape(shape), axis=1)[:, 0]
        length = np.moveaxis(np.diagonal(away, axis1=2, axis2=4), -1, 2)  # of each column's own number
        return np.moveaxis(slope / np.where(length == 0, np.nan, length)[..., None], 2, -1)

    gradient, found = batch(z[:, None])[1][:, 0, part].reshape(step.shape), columns(signs)
    size = np.abs(found) * (step[..., None] * step[..., None, :])[:, None]  # in units of the steps, as all of a block
    spread = np.ptp(found, axis=1) * step[..., None] * step[..., None, :]
    alike = np.all(spread <= ALIKE * size.max(axis=(1, 3, 4))[..., None, None], axis=(-2, -1), keepdims=True)
    if alike.all():
        return gradient, found.mean(axis=1)
    if blocks * dim > ALONE:
        return gradient, np.where(alike, found.mean(axis=1), np.nan)
    return gradient, np.nanmean(columns(np.eye(blocks)), axis=1)


def in_words(parameterisations: Mapping[str, Parameterisation]) -> dict[str, str]:
    """How movable sites are parameterised, each in a word or two."""
    plain = {1.0: "centred", 0.0: "non-centred"}
    return {
        name: "by pseudo-data" if np.any(each.d) else plain.get(float(each.weight), "halfway")
        for name, each in parameterisations.items()
    }
