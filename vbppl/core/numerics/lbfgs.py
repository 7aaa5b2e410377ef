"""L-BFGS on the host, for smooth functions whose values are rounded and may be infinite.

Many searches advance side by side; a function is asked for all of them at once. Three things
differ from a textbook (Nocedal and Wright 2006, chapter 7): the initial inverse Hessian is given by
the caller at every point, so that coordinates need not have like scales; the line search brackets by
slopes and forgives differences of values below their rounding error; and a point where the function is not
finite only shortens the step.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import NamedTuple, TypeAlias

import numpy as np

from vbppl.core.watch import end_of

MEMORY = 12
ARMIJO, CURVATURE = 1e-4, 0.9
TRIES = 30

# `f(x, searches) -> value, gradient`: `(k, n)` and the numbers of the searches, `(k,)`, to `(k,)` and `(k, n)`.
Function = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Minima(NamedTuple):
    """Where each search stands: a value; a step makes a new one.

    Attributes:
      x: `(searches, n)`.
      value: `(searches,)`.
      gradient: `(searches, n)`.
      decrement: `1/2 g^T H^-1 g`, what a Newton step would still gain, `(searches,)`.
      stuck: no step improves the value, `(searches,)`.
      going: the numbers of the searches that are still on their way.
      steps: the last steps, oldest first, with zeros where there are none yet, `(searches, MEMORY, n)`.
      changes: those of the gradient on them.
    """

    x: np.ndarray
    value: np.ndarray
    gradient: np.ndarray
    decrement: np.ndarray
    stuck: np.ndarray
    going: np.ndarray
    steps: np.ndarray
    changes: np.ndarray

    @classmethod
    def at(cls, x: np.ndarray, value: np.ndarray, gradient: np.ndarray) -> Minima:
        """The beginning of searches from `x`."""
        searches, nothing = len(x), np.zeros((len(x), MEMORY, x.shape[1]))
        begun = np.full(searches, np.inf), np.zeros(searches, bool), np.arange(searches)
        return cls(x, value, gradient, *begun, nothing, nothing)

    def newton(self, gradient: np.ndarray, diagonal: np.ndarray, searches: np.ndarray) -> np.ndarray:
        """The approximate Newton step `-H^-1 gradient` of each search, from the curvature met on the way."""
        return -_inverse_hessian_times(gradient, self.steps[searches], self.changes[searches], diagonal)

    def has_curvature(self, searches: np.ndarray) -> np.ndarray:
        """Which searches know anything beyond the diagonal, `(searches,)`."""
        return np.any(self.changes[searches, -1], axis=-1)

    def moved(self, searches: np.ndarray, x: np.ndarray, value: np.ndarray, gradient: np.ndarray) -> Minima:
        """The same with `searches` at `x`, after learning from the way there."""
        step, change = x - self.x[searches], gradient - self.gradient[searches]
        # Where the gradient changed against the step, a pair would spoil the positive definiteness of H.
        least = 1e-10 * np.sqrt(np.sum(step**2, axis=1)) * np.sqrt(np.sum(change**2, axis=1))
        curved = np.sum(step * change, axis=1) > least
        there = {"x": x, "value": value, "gradient": gradient}
        return self._replace(
            steps=_pushed(self.steps, searches[curved], step[curved]),
            changes=_pushed(self.changes, searches[curved], change[curved]),
            **{name: put(getattr(self, name), searches, rows) for name, rows in there.items()},
        )

    def lost(self, searches: np.ndarray) -> Minima:
        """The same after directions that led nowhere: without the curvature met, or stuck where there was none."""
        if not len(searches):
            return self
        steps, changes = (put(pairs, searches, np.zeros(1)) for pairs in (self.steps, self.changes))
        stuck = put(self.stuck, searches, ~self.has_curvature(searches))
        return self._replace(stuck=stuck, steps=steps, changes=changes)


# Each step's `Minima`; what is sent back are searches to leave where they are.
Steps: TypeAlias = Generator[Minima, np.ndarray | None, None]


def put(array: np.ndarray, searches: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A copy with other rows in some searches."""
    array = array.copy()
    array[searches] = rows
    return array


def _pushed(pairs: np.ndarray, searches: np.ndarray, new: np.ndarray) -> np.ndarray:
    """A copy with one more vector in some searches, for which the oldest makes room."""
    return put(pairs, searches, np.concatenate([pairs[searches, 1:], new[:, None]], axis=1))


def unscaled(x: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """A preconditioner for coordinates of like scales: ones."""
    return np.ones_like(x)


def no_longer_than(most: float, places: slice = slice(None)) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A `longest` by which none of these numbers moves by more than `most` in one step."""

    def longest(x: np.ndarray, direction: np.ndarray) -> np.ndarray:
        return most / np.maximum(np.abs(direction[:, places]).max(axis=1, initial=0.0), 1e-300)

    return longest


def descend(
    function: Function,
    x: np.ndarray,
    preconditioner: Callable[[np.ndarray, np.ndarray], np.ndarray],
    rounding: Callable[[np.ndarray], np.ndarray],
    tolerance: float,
    iterations: int,
    longest: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Steps:
    """Minimise `function` from each row of `x`, `(searches, n)`, until `1/2 g^T H^-1 g <= tolerance`.

    Args:
      preconditioner: the diagonal of an inverse Hessian guess at points with their gradients, `(k, n)` each.
      rounding: how far two values of this size may differ by rounding alone, `(k,)`.
      longest: the largest multiple of a direction that is safe to try at a point, `(k,)`.

    Yields:
      where the searches stand, once for each step and once at the end, where none is `going` any more. Those that
      are sent back in answer are left where they are.
    """
    at = Minima.at(x, *function(x, np.arange(len(x))))
    for _ in range(iterations):
        searches = at.going
        if not len(searches):
            break
        direction = at.newton(at.gradient[searches], preconditioner(at.x[searches], at.gradient[searches]), searches)
        at = at._replace(decrement=put(at.decrement, searches, -np.sum(at.gradient[searches] * direction, axis=1) / 2))
        left = yield at
        # A start that is not finite has no decrement to speak of, whatever the formula gives.
        going = ~((at.decrement[searches] <= tolerance) & np.isfinite(at.value[searches]))
        if left is not None and len(left):
            going &= ~np.isin(searches, left)
        searches, direction = searches[going], direction[going]
        limit = longest(at.x[searches], direction)
        found, *there = _line_search(function, at, searches, direction, rounding(at.value[searches]), limit)
        # Where the direction led nowhere, the plain direction is tried once: the curvature may be the cause.
        at = at.moved(searches[found], *there).lost(searches[~found])
        at = at._replace(going=searches[~at.stuck[searches]])
    yield at._replace(going=at.going[:0])


minimise = end_of(descend)


def _inverse_hessian_times(
    vector: np.ndarray, steps: np.ndarray, changes: np.ndarray, diagonal: np.ndarray
) -> np.ndarray:
    """The compact form of the inverse Hessian (Nocedal and Wright 2006, equation 7.24), search by search.

    `H = G + [S, G Y] [[R^-T (D + Y^T G Y) R^-1, -R^-T], [-R^-1, 0]] [S^T; Y^T G]`, with `R` the upper
    triangle of `S^T Y`, `D` its diagonal, and `G` the given diagonal scaled to the last curvature met.
    """
    products = steps @ changes.swapaxes(1, 2)
    curvature = np.diagonal(products, axis1=1, axis2=2)
    empty = curvature == 0
    weighed = changes * diagonal[:, None]
    squares = changes @ weighed.swapaxes(1, 2)
    scale = np.where(empty[:, -1], 1.0, curvature[:, -1] / np.where(empty[:, -1], 1.0, squares[:, -1, -1]))[:, None]
    index = np.arange(steps.shape[1])
    # Pairs that are not there yet are zero: ones on the diagonal keep R invertible and leave them without effect.
    upper, inner = np.triu(products), squares * scale[..., None]
    upper[:, index, index] += empty
    inner[:, index, index] += curvature
    along = np.linalg.solve(upper, steps @ vector[..., None])
    across = np.linalg.solve(upper.swapaxes(1, 2), inner @ along - scale[..., None] * (weighed @ vector[..., None]))
    corrections = steps.swapaxes(1, 2) @ across - scale[..., None] * (weighed.swapaxes(1, 2) @ along)
    return scale * diagonal * vector + corrections[..., 0]


def _line_search(
    function: Function,
    at: Minima,
    searches: np.ndarray,
    direction: np.ndarray,
    rounding: np.ndarray,
    longest: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps that satisfy the weak Wolfe conditions, by bisection (Lewis and Overton 2013, algorithm 2.6).

    Returns:
      in which searches there is one, `(searches,)`, and for these `x`, values and gradients.
    """
    start, slope = at.value[searches], np.sum(at.gradient[searches] * direction, axis=1)
    low, high, length = np.zeros(len(searches)), np.full(len(searches), np.inf), np.minimum(1.0, longest)
    x, values, gradients = at.x[searches], start.copy(), at.gradient[searches]
    found, searching = np.zeros(len(searches), bool), slope < 0
    for _ in range(TRIES):
        k = np.flatnonzero(searching)
        if not len(k):
            break
        tried = at.x[searches[k]] + length[k, None] * direction[k]
        value, gradient = function(tried, searches[k])
        finite = np.isfinite(value) & np.isfinite(gradient).all(axis=1)
        # Not finite counts as too far: the way back is always open, since the search began at a finite point.
        too_far = ~finite | (value > start[k] + ARMIJO * length[k] * slope[k] + rounding[k])
        steep = np.sum(gradient * direction[k], axis=1) < CURVATURE * slope[k]
        too_short = ~too_far & steep & (length[k] < longest[k])
        better = k[~too_far]
        x[better], values[better], gradients[better] = tried[~too_far], value[~too_far], gradient[~too_far]
        found[better] = True
        searching[k[~too_far & ~too_short]] = False
        high[k[too_far]], low[k[too_short]] = length[k[too_far]], length[k[too_short]]
        bounded = np.isfinite(high[k])
        length[k] = np.where(bounded, (low[k] + np.where(bounded, high[k], 0)) / 2, np.minimum(2 * low[k], longest[k]))
    return found, x[found], values[found], gradients[found]
