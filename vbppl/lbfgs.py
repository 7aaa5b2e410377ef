"""L-BFGS on the host, for smooth functions whose values are rounded and may be infinite.

Three things differ from a textbook (Nocedal and Wright 2006, chapter 7): the initial inverse Hessian is
given by the caller at every point, so that coordinates need not have like scales; the line search
brackets by slopes and forgives differences of values below their rounding error; and a point where the function is not
finite only shortens the step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

MEMORY = 12
ARMIJO, CURVATURE = 1e-4, 0.9
TRIES = 30

ValueAndGradient = Callable[[np.ndarray], tuple[float, np.ndarray]]
Pairs = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass
class Minimum:
    """Where the search stands; `decrement = 1/2 g^T H^-1 g` is what a Newton step would still gain."""

    x: np.ndarray
    value: float
    gradient: np.ndarray
    decrement: float = np.inf
    pairs: Pairs = ()
    stuck: bool = False

    def newton(self, gradient: np.ndarray, diagonal: np.ndarray) -> np.ndarray:
        """The approximate Newton step `-H^-1 gradient`, from the curvature met on the way."""
        return -_inverse_hessian_times(gradient, self.pairs, diagonal)


def minimise(
    function: ValueAndGradient,
    x: np.ndarray,
    metric: Callable[[np.ndarray], np.ndarray],
    rounding: Callable[[float], float],
    tolerance: float,
    iterations: int,
    longest: Callable[[np.ndarray, np.ndarray], float],
    watch: Callable[[Minimum], None] = lambda at: None,
) -> Minimum:
    """Minimise `function` from `x`, `(n,)`, until `1/2 g^T H^-1 g <= tolerance`.

    Args:
      metric: the diagonal of an inverse Hessian guess at a point, `(n,)`.
      rounding: how far two values of this size may differ by rounding alone.
      longest: the largest multiple of a direction that is safe to try at a point.
    """
    at = Minimum(x, *function(x))
    for _ in range(iterations):
        direction = at.newton(at.gradient, metric(at.x))
        at.decrement = float(-at.gradient @ direction / 2)
        watch(at)
        if at.decrement <= tolerance and np.isfinite(at.value):
            return at
        found = _line_search(function, at, direction, rounding(at.value), longest(at.x, direction))
        if found is None:
            at.stuck = not at.pairs
            if at.stuck:
                return at
            at.pairs = ()  # forget the curvature and try the plain direction once
            continue
        step, change = found.x - at.x, found.gradient - at.gradient
        curved = step @ change > 1e-10 * np.linalg.norm(step) * np.linalg.norm(change)
        found.pairs = (*at.pairs[-MEMORY + 1 :], (step, change)) if curved else at.pairs
        at = found
    return at


def _inverse_hessian_times(vector: np.ndarray, pairs: Pairs, diagonal: np.ndarray) -> np.ndarray:
    """The two-loop recursion (Nocedal and Wright 2006, algorithm 7.4)."""
    vector, weights = vector.copy(), []
    for step, change in reversed(pairs):
        weights.append(step @ vector / (step @ change))
        vector -= weights[-1] * change
    if pairs:
        step, change = pairs[-1]
        diagonal = diagonal * (step @ change) / (change @ (diagonal * change))
    vector = diagonal * vector
    for (step, change), weight in zip(pairs, reversed(weights)):
        vector += (weight - change @ vector / (step @ change)) * step
    return vector


def _line_search(
    function: ValueAndGradient, at: Minimum, direction: np.ndarray, rounding: float, longest: float
) -> Minimum | None:
    """A step that satisfies the weak Wolfe conditions, by bisection (Lewis and Overton 2013, algorithm 2.6)."""
    slope = at.gradient @ direction
    if not slope < 0:
        return None
    low, high, length, best = 0.0, np.inf, min(1.0, longest), None
    for _ in range(TRIES):
        value, gradient = function(at.x + length * direction)
        new = Minimum(at.x + length * direction, value, gradient)
        finite = np.isfinite(value) and np.isfinite(gradient).all()
        if not finite or value > at.value + ARMIJO * length * slope + rounding:
            high = length
        elif gradient @ direction < CURVATURE * slope and length < longest:
            low, best = length, new
        else:
            return new
        length = (low + high) / 2 if np.isfinite(high) else min(2 * low, longest)
    return best
