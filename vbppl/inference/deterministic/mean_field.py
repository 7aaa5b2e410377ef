"""The mean-field bound on fixed draws, maximised by L-BFGS over `x = (loc, log sd)`.

    J(x) = -mean log p(loc + sd e_n) - sum log sd

with the gradient `-mean g_n` in `loc` and `-mean g_n sd e_n - 1` in `log sd`. At a Gaussian density's
optimum the Hessian is `diag(1 / sd^2, 2)`, and its inverse is the metric at every point.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vbppl.core.numerics import lbfgs
from vbppl.core.numerics.newton_cg import Found
from vbppl.core.numerics.newton_cg import minimise as minimise_by_newton
from vbppl.target.batched import Batch, hessian_times
from vbppl.target.target import Target

STEPS = 300
NARROWINGS = 6


def negated_bound(lanes: Batch, noise: np.ndarray) -> lbfgs.Function:
    """`J` of `x`, `(k, 2 dim)`, for the lanes named, on draws `(lanes, draws, dim)`."""

    def value_and_gradient(x: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        loc, log_sd = np.split(x, 2, axis=1)
        spread = np.exp(log_sd)[:, None] * noise[chosen]
        log_p, gradient = lanes(loc[:, None] + spread, chosen)
        slope = np.concatenate([gradient.mean(axis=1), (gradient * spread).mean(axis=1) + 1], axis=1)
        return -log_p.mean(axis=1) - log_sd.sum(axis=1), -slope

    return value_and_gradient


def narrowed(lanes: Batch, x: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The same means with sds small enough for the bound to be finite, if there are such."""
    x, everyone = x.copy(), np.arange(len(lanes))
    for _ in range(NARROWINGS):
        value, gradient = negated_bound(lanes, noise)(x, everyone)
        wide = ~(np.isfinite(value) & np.isfinite(gradient).all(axis=1))
        if not wide.any():
            break
        x[wide, x.shape[1] // 2 :] -= np.log(10)
    return x


def minimise(
    lanes: Batch,
    x: np.ndarray,
    noise: np.ndarray,
    tolerance: float,
    watch: Callable[[lbfgs.Minima, np.ndarray], None],
) -> lbfgs.Minima:
    """Go down from `x`, `(lanes, 2 dim)`, until `tolerance` nats are left."""
    return lbfgs.minimise(negated_bound(lanes, noise), x, metric, lanes.rounding, tolerance, STEPS, _longest, watch)


def newton(lanes: Batch, target: Target, x: np.ndarray, noise: np.ndarray, lane: np.ndarray, tolerance: float) -> Found:
    """Go down from `x`, `(2 dim,)`, in one lane by Newton's method; `target` is what the lane sees."""
    function, draws = negated_bound(lanes, noise), noise[lane[0]].astype(lanes.density.dtype)

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = function(x[None], lane)
        return float(value[0]), gradient[0]

    def product(x: np.ndarray, vector: np.ndarray) -> np.ndarray:
        found = hessian_times(target, x.astype(draws.dtype), draws, vector.astype(draws.dtype))
        return np.asarray(found, np.float64)

    def rounding(value: float) -> float:
        return float(lanes.rounding(np.array(value)))

    return minimise_by_newton(value_and_gradient, product, x, lambda x: metric(x[None])[0], rounding, tolerance)


def moves(lanes: Batch, at: lbfgs.Minima, noise: np.ndarray) -> np.ndarray:
    """How far other draws would move the optima: the means, in sds, and the log sds, `(lanes, 2 dim)`."""
    everyone = np.arange(len(lanes))
    gradient = negated_bound(lanes, noise)(at.x, everyone)[1]
    # The difference: what `at` itself has still to go is not the draws' doing.
    step = at.newton(gradient - at.gradient, metric(at.x), everyone)
    loc, log_sd = np.split(step, 2, axis=1)
    return np.concatenate([loc * np.exp(-at.x[:, loc.shape[1] :]), log_sd], axis=1)


def metric(x: np.ndarray) -> np.ndarray:
    """The inverse Hessian of the bound at a Gaussian density's optimum: `(sd^2, 1/2)`."""
    _, log_sd = np.split(x, 2, axis=1)
    return np.concatenate([np.exp(2 * log_sd), np.full_like(log_sd, 0.5)], axis=1)


def reason(lanes: Batch, at: lbfgs.Minima, tolerance: float) -> np.ndarray:
    """Why each search ended: "converged", "rounding", "capped" or "stuck", `(lanes,)`."""
    near = at.decrement <= lanes.rounding(at.value)
    stuck = np.where(near, "rounding", "stuck")
    ended = np.where(at.decrement <= tolerance, "converged", np.where(at.stuck, stuck, "capped"))
    return np.where(np.isfinite(at.value), ended, "stuck").astype(object)


def _longest(x: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """No standard deviation grows or shrinks by more than e^2 in one step."""
    _, log_sd = np.split(direction, 2, axis=1)
    return 2 / np.maximum(np.abs(log_sd).max(axis=1, initial=0.0), 1e-300)
