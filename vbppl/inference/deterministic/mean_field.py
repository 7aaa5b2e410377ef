"""The mean-field bound on fixed draws, maximised by L-BFGS over `x = (loc, log sd)`.

    J(x) = -mean log p(loc + sd e_n) - sum log sd

with the gradient `-mean g_n` in `loc` and `-mean g_n sd e_n - 1` in `log sd`. At a Gaussian density's
optimum the Hessian is `diag(1 / sd^2, 2)`, and its inverse is the preconditioner at every point.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Generator
from typing import Any

import numpy as np

from vbppl.core.numerics import lbfgs
from vbppl.core.numerics.draws import FixedDraws
from vbppl.inference.deterministic.state import Run, Stage, State
from vbppl.inference.solution import Note
from vbppl.target.batched import Batch

STEPS = 300
WHITENED_DIM = 64  # up to here there are at least two draws a dimension, so that their second moment is exact
NARROWINGS = 6
RIVAL = 10.0  # nats below the best, within which an end matters
PROMISED, PATIENCE = 10.0, 8  # times what a search promises, or has gained in so many steps, that it may gain at most


def fewest(run: Run) -> int:
    """How many draws to begin with."""
    return run.fewest(2 * run.dim if run.dim <= WHITENED_DIM else 0)


def _halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What belongs to the means, and to the log sds, `(searches, dim)` each: `np.split` takes 15 times as long."""
    dim = x.shape[1] // 2
    return x[:, :dim], x[:, dim:]


def negated_bound(batch: Batch, noise: np.ndarray) -> lbfgs.Function:
    """`J` of `x`, `(k, 2 dim)`, for the searches named, on draws `(searches, draws, dim)`."""

    def value_and_gradient(x: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        loc, log_sd = _halves(x)
        spread = np.exp(log_sd)[:, None] * noise[chosen]
        log_p, gradient = batch(loc[:, None] + spread, chosen)
        slope = np.concatenate([gradient.mean(axis=1), (gradient * spread).mean(axis=1) + 1], axis=1)
        return -log_p.mean(axis=1) - log_sd.sum(axis=1), -slope

    return value_and_gradient


def shrink_sds(batch: Batch, x: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The same means with sds small enough for the bound to be finite, if there are such."""
    x, everyone = x.copy(), np.arange(len(batch))
    for _ in range(NARROWINGS):
        value, gradient = negated_bound(batch, noise)(x, everyone)
        wide = ~(np.isfinite(value) & np.isfinite(gradient).all(axis=1))
        if not wide.any():
            break
        x[wide, x.shape[1] // 2 :] -= np.log(10)
    return x


def descend(batch: Batch, x: np.ndarray, noise: np.ndarray, tolerance: float) -> lbfgs.Steps:
    """Go down from `x`, `(searches, 2 dim)`, until `tolerance` nats are left; yields each step, and the end."""
    # No standard deviation grows or shrinks by more than e^2 in one step.
    longest = lbfgs.no_longer_than(2.0, slice(x.shape[1] // 2, None))
    scaled = by_curvature if x.shape[1] > 2 * WHITENED_DIM else lambda x, _: preconditioner(x)
    return lbfgs.descend(negated_bound(batch, noise), x, scaled, batch.rounding, tolerance, STEPS, longest)


def descended(
    state: State, batch: Batch, x: np.ndarray, noise: np.ndarray, tolerance: float, is_dear: bool = False
) -> Generator[State, None, tuple[State, lbfgs.Minima]]:
    """The same as a stage: a fit stands where the best of its searches does; if `is_dear`, hopeless ones are left."""
    steps, values, left = descend(batch, x, noise, tolerance), collections.deque(maxlen=PATIENCE + 1), np.zeros(0, int)
    at = next(steps)
    while len(at.going):
        fits = np.unique(batch.fits[at.going])
        value = np.where(np.isfinite(at.value), at.value, np.inf)
        # Searches that have ended count too: one of them may be the best.
        best = np.array([mine[np.argmin(value[mine])] for mine in (np.flatnonzero(batch.fits == f) for f in fits)])
        state = state.put(fits, x=at.x[best], parameterisations=batch.parameterisations[best])
        state = state.with_bounds(fits, -at.value[best])
        yield state
        values.append(value)
        given_up = _hopeless(batch.fits, at, list(values)) if is_dear else left[:0]
        left, at = np.concatenate([left, given_up]), steps.send(given_up)
    for fit, count in zip(*np.unique(batch.fits[left], return_counts=True)):
        said = f"{count} of {np.sum(batch.fits == fit)} searches were left unfinished, far below one that had ended"
        state = state.with_notes(int(fit), Note("starts", said))
    return state, at


def _hopeless(fits: np.ndarray, at: lbfgs.Minima, values: list[np.ndarray]) -> np.ndarray:
    """Searches far below one of the same fit that has ended, which promise and have gained little beside that.

    The best that is on its way stays, until two of its fit have ended.

    Args:
      fits: the fit of each search, `(searches,)`.
      values: after each of the last steps, oldest first, `(searches,)` each.
    """
    if len(values) <= PATIENCE:
        return at.going[:0]
    left, now = [], values[-1]
    with np.errstate(invalid="ignore"):
        reached = now - PROMISED * np.maximum(at.decrement, values[0] - now)
    for fit in np.unique(fits[at.going]):
        mine = np.flatnonzero(fits == fit)
        going, ended = np.intersect1d(mine, at.going), np.setdiff1d(mine, at.going)
        ended = ended[np.isfinite(now[ended])]
        going = np.delete(going, np.argmin(now[going])) if len(ended) < 2 else going
        left += [search for search in going if reached[search] > now[ended].min(initial=np.inf) + RIVAL]
    return np.array(left, int)


@dataclasses.dataclass(frozen=True)
class MeanFieldFamily:
    """The mean-field `Family`: L-BFGS to the end on any draws, since other draws change little."""

    run: Run

    @property
    def fewest(self) -> int:
        """How many draws to begin with."""
        return fewest(self.run)

    @property
    def noise(self) -> FixedDraws:
        """Its draws: in many dims none are whitened, which costs dim^3 and takes exact margins for exact products."""
        noise = self.run.noise
        return noise if self.run.dim <= WHITENED_DIM else dataclasses.replace(noise, kind="latin_hypercube")

    def begin(self, *where: Any) -> None:
        """Nothing is needed beside the state, at the beginning and with more draws."""

    resume = begin

    def climb(
        self, state: State, fits: np.ndarray, noise: np.ndarray, at: Any
    ) -> Generator[State, None, tuple[State, lbfgs.Minima]]:
        """To the end: another set of draws changes little, so that no step is wasted."""
        batch, tolerance = self.run.batch(state, fits), self.run.tolerance
        state, at = yield from descended(state, batch, state.x[fits], noise, tolerance)
        state = state.put(fits, x=at.x, decrement=at.decrement, reason=reason(batch, at, tolerance))
        return state, at

    def probe(self, state: State, fits: np.ndarray, at: Any, draws: int) -> tuple[list[np.ndarray], Any]:
        """How far two other sets of draws would move each optimum."""
        # Twice as many: what sets of one size have in common would not show between them.
        batch, sets = self.run.batch(state, fits), [self.noise(fits, 2 * draws, half) for half in (1, 2)]
        return [moves(batch, at, noise) for noise in sets], None

    def settle(self, state: State, *where: Any) -> Stage:
        """They are at the optimum already."""
        yield from ()
        return state


def moves(batch: Batch, at: lbfgs.Minima, noise: np.ndarray) -> np.ndarray:
    """How far other draws would move the optima: the means, in sds, and the log sds, `(searches, 2 dim)`."""
    everyone = np.arange(len(batch))
    gradient = negated_bound(batch, noise)(at.x, everyone)[1]
    # The difference: what `at` itself has still to go is not the draws' doing.
    step = at.newton(gradient - at.gradient, preconditioner(at.x), everyone)
    loc, log_sd = _halves(step)
    return np.concatenate([loc * np.exp(-at.x[:, loc.shape[1] :]), log_sd], axis=1)


def preconditioner(x: np.ndarray) -> np.ndarray:
    """The inverse Hessian of the bound at a Gaussian density's optimum: `(sd^2, 1/2)`."""
    _, log_sd = _halves(x)
    return np.concatenate([np.exp(2 * log_sd), np.full_like(log_sd, 0.5)], axis=1)


def by_curvature(x: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """The same far from the optimum: `(1 / h, log(h sd^2) / 2)`, by the mean curvature `h` that the draws show.

    The gradient in `log sd` is `h sd^2 - 1`, and the optimum's `sd` is `h^(-1/2)`. Where `sd` is a hundred times too
    wide, as a start is for what ten thousand rows share, a plain step would be ten thousand times too long, and all
    others are cut with it. Where `h` is small or negative nothing is known of a width, and the guess stays.
    """
    _, log_sd = _halves(x)
    excess = np.maximum(_halves(gradient)[1], 0.0)
    in_log_sd = np.where(excess > 1e-6, np.log1p(excess) / np.maximum(excess, 1e-6), 1.0) / 2
    return np.concatenate([np.exp(2 * log_sd) / (1 + excess), in_log_sd], axis=1)


def reason(batch: Batch, at: lbfgs.Minima, tolerance: float) -> np.ndarray:
    """Why each search ended: "converged", "rounding", "capped" or "stuck", `(searches,)`."""
    near = at.decrement <= batch.rounding(at.value)
    stuck = np.where(near, "rounding", "stuck")
    ended = np.where(at.decrement <= tolerance, "converged", np.where(at.stuck, stuck, "capped"))
    return np.where(np.isfinite(at.value), ended, "stuck").astype(object)
