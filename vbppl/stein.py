"""Natural-gradient steps for a full-rank Gaussian on fixed draws, with Stein's estimate of the Hessian.

In the whitened coordinates of the current `q = N(loc, L L^T)`, with `z_n = loc + L e_n`,
`g_n` the gradient of the log density there and `h_n = L^T g_n`,

    h = mean h_n,    A = I + sym(mean h_n e_n^T)        (both are zero at the optimum)
    P = I - r A
    loc' = loc + r L P^-1 h,    L' = L P^-1/2

which is Newton's method with the expected Hessian, by Stein's lemma `E[Hess] = E[g e^T] L^-1`
(Khan and Lin 2017, "Conjugate-Computation Variational Inference"). On antithetic draws with second
moment I it is exact for every log density that is a polynomial of degree three or less.

Where `P` is not positive definite, an eigenvalue `x` of `r A` above 1/2 gives `1 / 4x` instead of
`1 - x`: this is smooth, and a longer step always widens more. (The square `1 - x + x^2/2` of Lin,
Schmidt and Khan 2020 turns round at 1, and at 2 it stands still, far from any optimum.)

The natural gradient's squared length, `|h|^2 / 2 + |A|^2 / 4`, estimates the nats still to gain.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

STEPS = 80
SHORTEST, LONGEST = 1e-4, 10.0
STALLS = 3

Density = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass
class Ascent:
    """A Gaussian on the way up: `factor` is any `L` with covariance `L L^T`."""

    loc: np.ndarray
    factor: np.ndarray
    bound: float
    drift: np.ndarray
    curvature: np.ndarray
    reason: str = "capped"

    @property
    def decrement(self) -> float:
        """The nats still to gain, to second order."""
        return float(self.drift @ self.drift / 2 + np.sum(self.curvature**2) / 4)

    @property
    def sd(self) -> np.ndarray:
        """The marginal standard deviations."""
        return np.sqrt(np.sum(self.factor**2, axis=1))


def look(density: Density, loc: np.ndarray, factor: np.ndarray, noise: np.ndarray) -> Ascent:
    """The bound (up to a constant), the drift `h` and the curvature `A` of a Gaussian."""
    log_p, gradient = density(loc + noise @ factor.T)
    h = gradient @ factor
    cross = h.T @ noise / len(noise)
    _, log_det = np.linalg.slogdet(factor)
    curvature = np.eye(len(loc)) + (cross + cross.T) / 2
    return Ascent(loc, factor, float(log_p.mean() + log_det), h.mean(axis=0), curvature)


def ascend(
    density: Density,
    loc: np.ndarray,
    factor: np.ndarray,
    noise: np.ndarray,
    rounding: Callable[[float], float],
    tolerance: float,
    watch: Callable[[Ascent], None],
) -> Ascent:
    """Natural-gradient steps from `N(loc, factor factor^T)`, each halved until the bound does not fall.

    Args:
      noise: fixed antithetic draws, `(draws, dim)`, with second moment I.
      rounding: by how much two bounds of this size may differ by rounding alone, in nats.
      tolerance: stop when this many nats are still to gain.

    Returns:
      the last Gaussian; `reason` is "converged", "rounding" (no step gains more than the rounding error),
      "capped" or "stuck".
    """
    at, r, stalls = look(density, loc, factor, noise), 1.0, 0
    for _ in range(STEPS):
        watch(at)
        if at.decrement <= tolerance and np.isfinite(at.bound):
            at.reason = "converged"
            return at
        new = _step(density, at, noise, r)
        while not (np.isfinite(new.decrement) and new.bound >= at.bound - rounding(at.bound)) and r > SHORTEST:
            r /= 2
            new = _step(density, at, noise, r)
        if r <= SHORTEST:
            at.reason = "stuck"
            return at
        if new.bound <= at.bound and new.decrement >= at.decrement:
            stalls, r = stalls + 1, r / 4
            if stalls == STALLS:
                at.reason = "rounding" if np.isfinite(at.bound) else "stuck"
                return at
            continue
        at, r = new, _next_length(at, new, r)
    return at


def _next_length(before: Ascent, after: Ascent, r: float) -> float:
    """The step that fits the curvature just met (Barzilai and Borwein 1988, in the natural metric).

    A step of `r` leaves `1 - r k` of the gradient; for a Gaussian density `k = 1`. A skewed one
    has larger `k` in some direction, where `r = 1` would swing to and fro.
    """
    inner = before.drift @ after.drift / 2 + np.sum(before.curvature * after.curvature) / 4
    k = (1 - inner / before.decrement) / r
    return float(np.clip(1 / k, 0.1, LONGEST)) if k > 1 / LONGEST else LONGEST


def draw_noise(density: Density, at: Ascent, sets: list[np.ndarray]) -> float:
    """How far other sets of draws would move the optimum: the worst mean (in sds) or log sd, root mean square."""
    moves = []
    for noise in sets:
        other = look(density, at.loc, at.factor, noise)
        # The difference: what `at` itself has still to go is not the draws' doing.
        drift, curvature = other.drift - at.drift, other.curvature - at.curvature
        means = (at.factor @ drift) / at.sd
        log_sds = np.sum((at.factor @ curvature) * at.factor, axis=1) / at.sd**2 / 2
        moves.append(np.concatenate([means, log_sds]))
    return float(np.sqrt(np.mean(np.square(moves), axis=0)).max())


def _step(density: Density, at: Ascent, noise: np.ndarray, r: float) -> Ascent:
    values, vectors = np.linalg.eigh(at.curvature)
    precision = 1 - r * values
    if precision.min(initial=1.0) <= 0:
        precision = np.where(r * values < 0.5, precision, 0.25 / np.maximum(r * values, 0.5))
    loc = at.loc + r * at.factor @ (vectors @ ((vectors.T @ at.drift) / precision))
    # The symmetric root: a triangular one would also turn the noise, and on fixed draws that changes the bound.
    factor = at.factor @ (vectors / np.sqrt(precision)) @ vectors.T
    with np.errstate(over="ignore", invalid="ignore"):
        return look(density, loc, factor, noise)
