"""Natural-gradient steps for full-rank Gaussians on fixed draws, with Stein's estimate of the Hessian.

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
Many searches advance side by side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from vbppl.core.numerics.lbfgs import put
from vbppl.core.watch import end_of

STEPS = 80
MIN_LENGTH, MAX_LENGTH = 1e-4, 10.0
STALLS = 3

# `density(z, searches) -> log_p, gradient`: `(k, draws, dim)` to `(k, draws)` and `(k, draws, dim)`.
Density = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Iterates:
    """Gaussians on the way up: a value; a step makes a new one.

    Attributes:
      loc: `(searches, dim)`.
      factor: any `L` with covariance `L L^T`, `(searches, dim, dim)`.
      bound: up to a constant, in nats, `(searches,)`.
      mean_gradient: `h`, `(searches, dim)`.
      covariance_gradient: `A`, `(searches, dim, dim)`.
      reason: why each ended, `(searches,)`.
      moved: the numbers of the searches that the last step moved.
    """

    loc: np.ndarray
    factor: np.ndarray
    bound: np.ndarray
    mean_gradient: np.ndarray
    covariance_gradient: np.ndarray
    reason: np.ndarray
    moved: np.ndarray

    @classmethod
    def at(cls, *seen: Any) -> Iterates:
        """The beginning of ascents from Gaussians as the draws see them: the first five fields."""
        searches = len(seen[0])
        return cls(*seen, reason=np.full(searches, "capped", dtype=object), moved=np.arange(searches))

    @property
    def seen(self) -> tuple[Any, ...]:
        """The Gaussians, and what the draws say of them."""
        return self.loc, self.factor, self.bound, self.mean_gradient, self.covariance_gradient

    @property
    def decrement(self) -> np.ndarray:
        """The nats still to gain, to second order, `(searches,)`."""
        return np.sum(self.mean_gradient**2, axis=1) / 2 + np.sum(self.covariance_gradient**2, axis=(1, 2)) / 4

    @property
    def sd(self) -> np.ndarray:
        """The marginal standard deviations, `(searches, dim)`."""
        return np.sqrt(np.sum(self.factor**2, axis=2))

    @classmethod
    def joined(cls, parts: Sequence[Iterates]) -> Iterates:
        """What equally many draws saw at the same Gaussians, as one look at all of them."""
        averages = (np.mean(each, axis=0) for each in list(zip(*(part.seen for part in parts)))[2:])
        return cls.at(parts[0].loc, parts[0].factor, *averages)

    def take(self, searches: np.ndarray) -> Iterates:
        """Some searches, as they stand."""
        return Iterates.at(*(field[searches] for field in self.seen))

    def put(self, searches: np.ndarray, new: Iterates, chosen: np.ndarray) -> Iterates:
        """The same with `searches[chosen]` where `new` is."""
        moved = searches[chosen]
        fields = (put(field, moved, other[chosen]) for field, other in zip(self.seen, new.seen))
        return Iterates(*fields, reason=self.reason, moved=moved)


def evaluate(
    density: Density, loc: np.ndarray, factor: np.ndarray, noise: np.ndarray, searches: np.ndarray
) -> Iterates:
    """The bound (up to a constant), and its gradients `h` and `A` of Gaussians, on `(searches, draws, dim)`."""
    log_p, gradient = density(loc[:, None] + noise @ factor.swapaxes(1, 2), searches)
    h = gradient @ factor
    cross = h.swapaxes(1, 2) @ noise / noise.shape[1]
    _, log_det = np.linalg.slogdet(factor)
    covariance_gradient = np.eye(loc.shape[1]) + (cross + cross.swapaxes(1, 2)) / 2
    return Iterates.at(loc, factor, log_p.mean(axis=1) + log_det, h.mean(axis=1), covariance_gradient)


def ascents(
    density: Density,
    at: Iterates,
    noise: np.ndarray,
    rounding: Callable[[np.ndarray], np.ndarray],
    tolerance: np.ndarray,
) -> Iterator[Iterates]:
    """Natural-gradient steps, each halved until the bound does not fall.

    Args:
      at: where to begin, as these draws see it.
      noise: fixed antithetic draws, `(searches, draws, dim)`, with second moment I.
      rounding: by how much two bounds of this size may differ by rounding alone, in nats, `(searches,)`.
      tolerance: stop when this many nats are still to gain, `(searches,)`.

    Yields:
      the Gaussians after each step, and once more at the end: `reason` is then "converged", "rounding" (no step
      gains more than the rounding error), "capped" or "stuck".
    """
    searches = np.arange(len(noise))
    length, stalls, steps = np.ones(len(noise)), np.zeros(len(noise), int), np.zeros(len(noise), int)
    reason = np.where(np.isfinite(at.decrement), "capped", "stuck").astype(object)
    at = dataclasses.replace(at, reason=reason, moved=searches)
    yield at
    while True:
        before, reason = at.take(searches), at.reason.copy()
        done = (before.decrement <= tolerance[searches]) & np.isfinite(before.bound)
        reason[searches[done]] = "converged"
        going = ~done & (reason[searches] == "capped") & (steps[searches] < STEPS)
        searches, before = searches[going], before.take(np.flatnonzero(going))
        if not len(searches):
            yield dataclasses.replace(at, reason=reason, moved=searches)
            return
        new = evaluate(density, *proposed(before, length[searches]), noise[searches], searches)
        # Near the optimum two bounds differ by rounding alone: there the natural gradient decides.
        sound = np.isfinite(new.decrement) & (new.bound >= before.bound - rounding(before.bound))
        idle = sound & (new.bound <= before.bound) & (new.decrement >= before.decrement)
        gains = sound & ~idle
        # Steps that only look for a length are not counted: they are bounded by `MIN_LENGTH`.
        steps[searches] += sound
        stalls[searches] += idle
        given_up = ~sound & (length[searches] <= MIN_LENGTH)
        reason[searches[given_up | (idle & ~np.isfinite(before.bound))]] = "stuck"
        reason[searches[idle & (stalls[searches] == STALLS) & np.isfinite(before.bound)]] = "rounding"
        shorter = length[searches] / np.where(idle, 4, 2)
        length[searches] = np.where(gains, next_length(before, new, length[searches]), shorter)
        at = dataclasses.replace(at.put(searches, new, gains), reason=reason)
        yield at


ascend = end_of(ascents)


def next_length(before: Iterates, after: Iterates, r: np.ndarray) -> np.ndarray:
    """The steps that fit the curvature just met (Barzilai and Borwein 1988, in the natural metric).

    A step of `r` leaves `1 - r k` of the gradient; for a Gaussian density `k = 1`. A skewed one
    has larger `k` in some direction, where `r = 1` would swing to and fro.
    """
    inner = np.sum(before.mean_gradient * after.mean_gradient, axis=1) / 2
    inner += np.sum(before.covariance_gradient * after.covariance_gradient, axis=(1, 2)) / 4
    k = (1 - inner / before.decrement) / r
    slow = ~(k > 1 / MAX_LENGTH)
    return np.where(slow, MAX_LENGTH, np.clip(1 / np.where(slow, 1.0, k), 0.1, MAX_LENGTH))


def moves(at: Iterates, other: Iterates) -> np.ndarray:
    """How far the draws of `other`, at the same Gaussians, would move the optima.

    Returns:
      the means, in sds, and the log sds, `(searches, 2 dim)`.
    """
    # The difference: what `at` itself has still to go is not the draws' doing.
    h, a = other.mean_gradient - at.mean_gradient, other.covariance_gradient - at.covariance_gradient
    means = (at.factor @ h[..., None])[..., 0] / at.sd
    log_sds = np.sum((at.factor @ a) * at.factor, axis=2) / at.sd**2 / 2
    return np.concatenate([means, log_sds], axis=1)


def proposed(at: Iterates, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where steps of length `r`, `(searches,)`, lead: means `(searches, dim)` and factors `(searches, dim, dim)`."""
    values, vectors = np.linalg.eigh(at.covariance_gradient)
    scaled = r[:, None] * values
    precision = np.where(scaled < 0.5, 1 - scaled, 0.25 / np.maximum(scaled, 0.5))
    precision = np.where((1 - scaled).min(axis=1, keepdims=True, initial=1.0) > 0, 1 - scaled, precision)
    turned = (vectors.swapaxes(1, 2) @ at.mean_gradient[..., None])[..., 0] / precision
    loc = at.loc + r[:, None] * (at.factor @ (vectors @ turned[..., None]))[..., 0]
    # The symmetric root: a triangular one would also turn the noise, and on fixed draws that changes the bound.
    return loc, at.factor @ (vectors / np.sqrt(precision)[:, None]) @ vectors.swapaxes(1, 2)


def divergence(loc: np.ndarray, factor: np.ndarray, other: Iterates) -> np.ndarray:
    """`KL(N(loc, factor factor^T) || other)` in nats, `(searches,)`."""
    inverse = np.linalg.inv(other.factor)
    ratio, shift = inverse @ factor, (inverse @ (loc - other.loc)[..., None])[..., 0]
    squares = np.sum(ratio**2, axis=(1, 2)) + np.sum(shift**2, axis=1)
    return (squares - loc.shape[1]) / 2 - np.linalg.slogdet(ratio)[1]
