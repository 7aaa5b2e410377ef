"""Newton's method with exact Hessian-vector products: for bounds on which L-BFGS gives up.

A trust region around each point, and in it conjugate gradients (Steihaug 1983, "The Conjugate Gradient
Method and Trust Regions in Large Scale Optimization"), cut short where they no longer pay: at
`|r| <= min(1/2, sqrt |g|) |g|`. All in coordinates scaled by the preconditioner, in which a Gaussian density without
correlations has the identity for its Hessian.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import numpy as np

STEPS, PRODUCTS = 60, 200
SHRINK, GROW = 0.25, 0.75  # shares of the predicted gain below and above which the region changes


class Found(NamedTuple):
    """Where the search ended: the point, its value, the nats that a Newton step would still gain, and why."""

    x: np.ndarray
    value: float
    decrement: float
    reason: str


def minimise(*problem: Any) -> Found:
    """The end of `descend`."""
    *_, found = descend(*problem)
    return found


def descend(
    function: Callable[[np.ndarray], tuple[float, np.ndarray]],
    hessian_times: Callable[[np.ndarray, np.ndarray], np.ndarray],
    x: np.ndarray,
    preconditioner: Callable[[np.ndarray], np.ndarray],
    rounding: Callable[[float], float],
    tolerance: float,
) -> Iterator[Found]:
    """Minimise `function` from `x`, `(n,)`, until `1/2 g^T H^-1 g <= tolerance`.

    Args:
      hessian_times: the Hessian at a point times a vector.
      preconditioner: the diagonal of an inverse Hessian guess at a point, `(n,)`.
      rounding: how far two values of this size may differ by rounding alone.

    Yields:
      where the search stands before each step, with no reason yet, and once at the end.
    """
    yield (yield from _steps(function, hessian_times, x, preconditioner, rounding, tolerance))


def _steps(
    function: Any,
    hessian_times: Any,
    x: np.ndarray,
    preconditioner: Any,
    rounding: Callable[[float], float],
    tolerance: float,
) -> Generator[Found, None, Found]:
    value, gradient = function(x)
    radius, decrement = float(np.sqrt(len(x))), np.inf
    for _ in range(STEPS):
        if not np.isfinite(value) or not np.isfinite(gradient).all():
            return Found(x, value, np.inf, "stuck")
        # Up to `PRODUCTS` products are ahead, which may be dear: before each step whoever watches can end the search.
        yield Found(x, value, decrement, "")
        scale = np.sqrt(preconditioner(x))
        step, predicted, inside = _steihaug(
            lambda v, at=x, scale=scale: scale * hessian_times(at, scale * v), scale * gradient, radius
        )
        # A step that the region cut short says nothing of how much is left.
        if inside:
            decrement = float(-(scale * gradient) @ step / 2)
            if decrement <= tolerance:
                return Found(x, value, decrement, "converged")
        new = x + scale * step
        new_value, new_gradient = function(new)
        gained = value - new_value + rounding(value)
        if not np.isfinite(new_value) or gained < SHRINK * predicted:
            radius = float(np.linalg.norm(step)) / 4
        elif gained > GROW * predicted and not inside:
            radius *= 2
        if np.isfinite(new_value) and gained > 0 and np.isfinite(new_gradient).all():
            still = np.linalg.norm(scale * new_gradient) >= np.linalg.norm(scale * gradient)
            if predicted <= rounding(value) and still:
                return Found(x, value, decrement, "rounding" if decrement <= rounding(value) else "stuck")
            x, value, gradient = new, new_value, new_gradient
        elif radius < 1e-10:
            return Found(x, value, decrement, "stuck")
    return Found(x, value, decrement, "capped")


def _steihaug(
    hessian_times: Callable[[np.ndarray], np.ndarray], gradient: np.ndarray, radius: float
) -> tuple[np.ndarray, float, bool]:
    """The step in the ball, the gain that the quadratic model predicts, and whether it ended inside."""
    length = float(np.linalg.norm(gradient))
    step, rest, direction = np.zeros_like(gradient), gradient.copy(), -gradient
    bent = np.zeros_like(gradient)  # the Hessian times the step
    for _ in range(PRODUCTS):
        if np.linalg.norm(rest) <= min(0.5, length**0.5) * length * 1e-1 or length == 0:
            return step, float(-(gradient @ step + step @ bent / 2)), True
        product = hessian_times(direction)
        curvature = direction @ product
        along = (rest @ rest) / curvature if curvature > 0 else np.inf
        if not np.linalg.norm(step + along * direction) < radius:
            along = _to_the_edge(step, direction, radius)
            step, bent = step + along * direction, bent + along * product
            return step, float(-(gradient @ step + step @ bent / 2)), False
        step, bent = step + along * direction, bent + along * product
        new = rest + along * product
        direction, rest = -new + (new @ new) / (rest @ rest) * direction, new
    return step, float(-(gradient @ step + step @ bent / 2)), False


def _to_the_edge(step: np.ndarray, direction: np.ndarray, radius: float) -> float:
    """The positive multiple of `direction` that leads from `step` to the edge of the ball."""
    a, b, c = direction @ direction, step @ direction, step @ step - radius**2
    return float((-b + np.sqrt(max(b * b - a * c, 0.0))) / a)
