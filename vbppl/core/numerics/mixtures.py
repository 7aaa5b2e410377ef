"""Natural-gradient steps for mixtures of full-rank Gaussians on fixed draws.

For `q = sum pi_k N(mu_k, L_k L_k^T)`, each component with its own whitened draws `e_kn`, `z_kn = mu_k + L_k e_kn`, and
`f = log p - log q` with the density of the whole mixture,

    F_k = mean_n f(z_kn),    J = sum pi_k F_k                       (the bound, stratified)
    h_k = mean_n L_k^T grad f(z_kn),    A_k = sym mean_n (L_k^T grad f) e_kn^T
    grad log q(z) = -sum_j rho_j(z) L_j^-T L_j^-1 (z - mu_j)        (rho: responsibilities)

and each component makes the step of `natural_gradient` with its own `h` and `A`, which for one component it is
(natural-gradient mixtures: Lin, Khan and Schmidt 2019, "Fast and Simple Natural-Gradient Variational Inference with
Mixture of Exponential-family Approximations"; the stratified bound: Morningstar et al. 2021). In the natural metric
`pi_k` cancels. The weights move in the same step, `log pi_k += F_k - J`, and cost no gradients.

What is still to gain is about `sum pi_k (|h_k|^2/2 + |A_k|^2/4) + Var_pi(F)/2`. On fixed draws `h` and `A` are not the
gradient of J (that of log q by its own parameters vanishes in expectation only), so an ascent also ends where no step
raises J: then nothing is left that so few draws could tell.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np

from vbppl.core.numerics.natural_gradient import Iterates, divergence, next_length, proposed
from vbppl.core.watch import end_of

STEPS, SCALES = 60, 6  # steps at most; halvings of one step
MAX_LENGTH = 4.0
LEVEL, STALLS = 1e-3, 4  # nats by which J may fall in a step; steps without so much of a rise that end an ascent
CACHED = 2**16  # numbers of whitened points that a processor's cache holds beside what is computed from them
TURNS, SETTLED = 30, 1e-5  # of the search for weights, at most; a move of the log weights that ends it

# `log_p` `(k, draws)` and its gradient `(k, draws, dim)`, and what gives them at `z`, `(k, draws, dim)`.
Known: TypeAlias = tuple[np.ndarray, np.ndarray]
Density: TypeAlias = Callable[[np.ndarray], Known]
# A look at a mixture, and the numbers of the components there that stand still.
Still: TypeAlias = "tuple[Evaluated, np.ndarray]"


@dataclasses.dataclass(frozen=True)
class Components:
    """A mixture: `log_weights` `(k,)`, `loc` `(k, dim)` and `factor` `(k, dim, dim)`."""

    log_weights: np.ndarray
    loc: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, log_weights: np.ndarray, loc: Sequence[np.ndarray], factor: Sequence[np.ndarray]) -> Components:
        """Weights that need not sum to one."""
        return cls(log_weights - log_sum(np.asarray(log_weights, float)), np.array(loc, float), np.array(factor, float))

    def __len__(self) -> int:
        return len(self.loc)

    @property
    def dim(self) -> int:
        """Of the space."""
        return self.loc.shape[1]

    @property
    def weights(self) -> np.ndarray:
        """They sum to one, `(k,)`."""
        return np.exp(self.log_weights)

    def take(self, chosen: np.ndarray | list[int]) -> Components:
        """Some of the components."""
        return Components.of(self.log_weights[chosen], list(self.loc[chosen]), list(self.factor[chosen]))

    def joined(self, other: Components, weight: float) -> Components:
        """These, and others that have `weight` of the whole."""
        log_weights = [self.log_weights + math.log1p(-weight), other.log_weights + math.log(weight)]
        parts = ([*getattr(self, name), *getattr(other, name)] for name in ("loc", "factor"))
        return Components.of(np.concatenate(log_weights), *parts)

    def points(self, noise: np.ndarray, first: int = 0) -> np.ndarray:
        """`z` of each component from number `first` on, `(k, draws, dim)`, from `noise` of that shape."""
        return self.loc[first:, None] + noise @ self.factor[first:].swapaxes(1, 2)

    def log_each(self, z: np.ndarray, score: np.ndarray | None = None) -> np.ndarray:
        """The log density of each component at `z`, `(points, k)`; the gradient of the mixture's goes into `score`.

        NaN of one that has no volume, as a step after a density without a total mass may make it.
        """
        log_det = np.linalg.slogdet(self.factor)[1]
        inverse = np.linalg.inv(np.where(np.isfinite(log_det)[:, None, None], self.factor, np.nan))
        rows, shift = inverse.reshape(-1, self.dim), (inverse @ (self.loc - self.loc[0])[..., None]).reshape(-1, 1)
        log_norm, log_each = -log_det - self.dim / 2 * math.log(2 * math.pi), np.empty((len(z), len(self)))
        # The way of all components is one product of matrices, for as many points as stay in a cache: 1.2 to 2.7 times
        # as quick as a product for each component and all points, and in less memory.
        size = max(CACHED // len(rows), 32)
        for start in range(0, len(z), size):
            part = slice(start, start + size)
            residual = (rows @ (z[part] - self.loc[0]).T - shift).reshape(len(self), self.dim, -1)
            log_each[part] = log_norm - np.sum(residual**2, axis=1).T / 2
            if score is not None:
                weighed = self.log_weights + log_each[part]
                residual *= np.exp(weighed - log_sum(weighed)[:, None]).T[:, None]
                score[part] = -(rows.T @ residual.reshape(len(rows), -1)).T
        return log_each

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """Of the mixture, `(points,)`."""
        return log_sum(self.log_weights + self.log_each(z))

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean `(dim,)` and sd of each coordinate `(dim,)`."""
        mean = self.weights @ self.loc
        squares = np.sum(self.factor**2, axis=2) + (self.loc - mean) ** 2
        return mean, np.sqrt(self.weights @ squares)


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """What fixed draws say of a mixture.

    Attributes:
      at: the mixture.
      noise: the draws, `(k, draws, dim)`.
      z: the points, of that shape.
      log_p: the target's log density at the points, `(k, draws)`.
      gradient: its gradient, `(k, draws, dim)`.
      log_each: the log density of each component there, `(k, draws, k)`.
      f: `log p - log q`, `(k, draws)`.
      whitened: `L_k^T grad f`, `(k, draws, dim)`; NaN of components that stand still, as their `h` and `A`.
      seen: `F`, `h` and `A` of each, as the iterates of a single Gaussian.
    """

    at: Components
    noise: np.ndarray
    z: np.ndarray
    log_p: np.ndarray
    gradient: np.ndarray
    log_each: np.ndarray
    f: np.ndarray
    whitened: np.ndarray
    seen: Iterates

    @property
    def bound(self) -> float:
        """J, in nats."""
        return float(self.at.weights @ self.seen.bound)

    @property
    def decrement(self) -> float:
        """The nats still to gain, to second order."""
        return self.left(0)

    def left(self, first: int) -> float:
        """The same by moving the components from number `first` on, and all weights."""
        weights, bound = self.at.weights, self.seen.bound
        return float(weights[first:] @ self.seen.decrement[first:] + weights @ (bound - self.bound) ** 2 / 2)


def evaluate(density: Density, at: Components, noise: np.ndarray, still: Still | None = None) -> Evaluated:
    """The bound of a mixture and its gradients on `noise`, `(k, draws, dim)`.

    Args:
      density: of the target.
      at: the mixture.
      noise: the draws of each component.
      still: where the first components have been looked at, if these are not to move: then the way of points to
        components is only gone where one of both is new.
    """
    first = 0 if still is None else len(still[1])
    z = at.points(noise[first:], first)
    (log_p, gradient), score = density(z), np.empty((len(z) * z.shape[1], at.dim))
    log_each = at.log_each(z.reshape(-1, at.dim), score).reshape(*z.shape[:2], -1)
    whitened = (gradient - score.reshape(z.shape)) @ at.factor[first:]
    cross = whitened.swapaxes(1, 2) @ noise[first:] / noise.shape[1]
    slopes = whitened.mean(axis=1), (cross + cross.swapaxes(1, 2)) / 2
    if still is not None:
        before, old = still
        known = [part[old] for part in (before.z, before.log_p, before.gradient)]
        theirs = at.take(np.arange(first, len(at))).log_each(known[0].reshape(-1, at.dim))
        theirs = theirs.reshape(*known[1].shape, len(z))
        known.append(np.concatenate([before.log_each[old][..., old], theirs], axis=2))
        z, log_p, gradient, log_each = (np.concatenate(pair) for pair in zip(known, (z, log_p, gradient, log_each)))
        whitened, *slopes = (np.insert(part, [0] * first, np.nan, axis=0) for part in (whitened, *slopes))
    f = log_p - log_sum(at.log_weights + log_each)
    seen = Iterates.at(at.loc, at.factor, f.mean(axis=1), *slopes)
    return Evaluated(at, noise, z, log_p, gradient, log_each, f, whitened, seen)


def reweighed(seen: Evaluated) -> Components:
    """The mixture with the weights that raise the bound most on draws that have been looked at: no gradients."""
    log_weights, top = seen.at.log_weights, seen.log_each.max(axis=2, keepdims=True)
    density, level = np.exp(seen.log_each - top), seen.log_p - top[..., 0]
    for _ in range(TURNS):
        # Of far components this is the optimum in one step; of near ones it goes there by degrees.
        f = (level - np.log(density @ np.exp(log_weights))).mean(axis=1)
        move = np.clip(f - np.exp(log_weights) @ f, -1, 1)
        log_weights = log_weights + move - log_sum(log_weights + move)
        if not np.abs(move).max() > SETTLED:
            break
    return dataclasses.replace(seen.at, log_weights=log_weights)


def rebound(seen: Evaluated, at: Components) -> float:
    """The bound of the mixture that was looked at with the weights of `at`."""
    f = seen.log_p - log_sum(at.log_weights + seen.log_each)
    return float(at.weights @ f.mean(axis=1))


def ascents(
    density: Density, first: Evaluated, tolerance: float, still: int = 0, steps: int = STEPS
) -> Iterator[Evaluated]:
    """Natural-gradient steps of components and weights, each halved until J does not fall.

    Args:
      density: of the target.
      first: a look at where to begin.
      tolerance: stop when this many nats are still to gain.
      still: so many of the first components stand still.
      steps: at most.

    Yields:
      each look, `first` among them.
    """
    moving = np.arange(still, len(first.at))
    known = (first, np.arange(still)) if still else None
    now, length, idle, best = first, np.ones(len(moving)), 0, first.bound
    yield now
    for _ in range(steps):
        if now.left(still) <= tolerance or idle >= STALLS or not np.isfinite(now.seen.decrement[moving]).all():
            return
        scale, new = 1.0, None
        for _ in range(SCALES):
            tried = evaluate(density, moved(now, length, scale, moving), first.noise, known)
            if tried.bound >= now.bound - LEVEL and np.isfinite(tried.seen.decrement[moving]).all():
                new = tried
                break
            scale /= 2
        # The normal end: see the head of this file.
        if new is None:
            return
        before, after = now.seen.take(moving), new.seen.take(moving)
        length = np.clip(next_length(before, after, length * scale), 0.1, MAX_LENGTH)
        idle = 0 if new.bound > best + LEVEL else idle + 1
        now, best = new, max(best, new.bound)
        yield now


ascend = end_of(ascents)


def moved(now: Evaluated, length: np.ndarray, scale: float, moving: np.ndarray) -> Components:
    """The mixture after a step: of `length` for each moving component, times `scale`, and in the weights."""
    before, room = now.seen.take(moving), max(1.0, now.at.dim / 4)
    r = length * scale
    while True:
        # Not far from where the draws have looked.
        loc, factor = proposed(before, r)
        far = ~(divergence(loc, factor, before) <= room) & (r > 1e-6)
        if not far.any():
            break
        r = np.where(far, r / 2, r)
    locs, factors = now.at.loc.copy(), now.at.factor.copy()
    locs[moving], factors[moving] = loc, factor
    move = min(1.0, scale) * np.clip(now.seen.bound - now.bound, -1, 1)
    return Components.of(now.at.log_weights + move, list(locs), list(factors))


def log_sum(values: np.ndarray) -> np.ndarray:
    """Log of the sum of exponentials along the last axis."""
    top = np.max(values, axis=-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.sum(np.exp(values - top), axis=-1)) + top[..., 0]
