"""The limit of the bound: the best Gaussians of a target, by long optimisation that shares no code with the engine.

In the coordinates `z = m + C (a + T e)`, with `m` and `C C^T` the mean and covariance of reference draws
(for mean field `C` is diagonal), SciPy's L-BFGS maximises

    mean_n l(z_n) + log |det C| + sum log diag T + dim/2 (1 + log 2 pi)

over `a` and `T` (lower triangular, or diagonal) in float64, on thousands of fixed draws `e_n`: a
scrambled Sobol' sequence through the normal quantiles, antithetic and whitened. Several starts: around the
mean and around single draws, wide and narrow. The optimum is then evaluated on fresh draws. What is stored brackets the
limit: the fresh value is below it but for its standard error, and the maximum on the fixed draws is, in the mean,
above it.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, special
from scipy.stats import qmc

from vbppl.core.types import Array
from vbppl.target.target import Target

BLOCK = 64
REPLICATES = 8
SEARCH = 8  # the starts are compared on this part of the draws
NARROW = 0.3


class Limit(NamedTuple):
    """The bound at the optimum on fresh draws, its standard error, and how far above it the fixed draws claim to be."""

    elbo: float
    se: float
    above: float


def limit(target: Target, draws: np.ndarray, full_rank: bool, points: int, rng: np.random.Generator) -> Limit:
    """The best Gaussian's bound; `draws` of the posterior, `(n, dim)`, set the coordinates."""
    problems = [
        _Problem(target, loc, scale * _frame(draws, full_rank), full_rank)
        for loc, scale in [(draws.mean(axis=0), 1.0), (draws.mean(axis=0), NARROW)]
        + [(draws[i], NARROW) for i in rng.integers(len(draws), size=2)]
    ]
    noise = _noise(target.dim, max(points // SEARCH, 4 * target.dim), rng)
    found = [problem.solve(problem.start(), noise, steps=150) for problem in problems]
    best = int(np.argmin([result.fun for result in found]))
    problem, noise = problems[best], _noise(target.dim, points, rng)
    result = problem.solve(found[best].x, noise, steps=1500)
    fresh = [problem.bound(result.x, _noise(target.dim, points, rng, whiten=False)) for _ in range(REPLICATES)]
    elbo, se = float(np.mean(fresh)), float(np.std(fresh, ddof=1) / np.sqrt(REPLICATES))
    return Limit(elbo, se, -float(result.fun) - elbo)


class _Problem:
    """The negated bound as a function of a flat vector `(a, log diag T[, below the diagonal of T])`."""

    def __init__(self, target: Target, loc: np.ndarray, frame: np.ndarray, full_rank: bool):
        self.target, self.loc, self.frame, self.full_rank = target, loc, frame, full_rank
        self.dim = target.dim
        self.below = np.tril_indices(self.dim, -1)
        self.constant = np.sum(np.log(np.diagonal(frame))) + self.dim / 2 * (1 + np.log(2 * np.pi))

    def start(self) -> np.ndarray:
        return np.zeros(2 * self.dim + (len(self.below[0]) if self.full_rank else 0))

    def unpack(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shift, log_diagonal = x[: self.dim], x[self.dim : 2 * self.dim]
        factor = np.diag(np.exp(log_diagonal))
        factor[self.below] = x[2 * self.dim :] if self.full_rank else 0.0
        return shift, log_diagonal, factor

    def loss(self, x: np.ndarray, noise: np.ndarray) -> tuple[float, np.ndarray]:
        shift, log_diagonal, factor = self.unpack(x)
        z = self.loc + (shift + noise @ factor.T) @ self.frame.T
        log_p, mean_slope, outer = (np.asarray(part) for part in _mean_and_slopes(self.target, z, noise))
        slope, outer = self.frame.T @ mean_slope, self.frame.T @ outer
        gradient = [slope, np.diagonal(outer) * np.exp(log_diagonal) + 1.0]
        gradient += [outer[self.below]] if self.full_rank else []
        value, gradient = log_p + self.constant + log_diagonal.sum(), np.concatenate(gradient)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return 1e100, np.zeros_like(x)
        return -value, -gradient

    def solve(self, x: np.ndarray, noise: np.ndarray, steps: int) -> Any:
        options = {"maxiter": steps, "maxfun": 2 * steps, "maxcor": 30, "ftol": 1e-13, "gtol": 1e-6, "maxls": 40}
        with np.errstate(over="ignore", invalid="ignore"):
            return optimize.minimize(self.loss, x, (noise,), method="L-BFGS-B", jac=True, options=options)

    def bound(self, x: np.ndarray, noise: np.ndarray) -> float:
        """The mean of `log p - log q`, which varies less than `log p` alone."""
        shift, log_diagonal, factor = self.unpack(x)
        z = self.loc + (shift + noise @ factor.T) @ self.frame.T
        log_p = float(_mean_and_slopes(self.target, z, noise)[0])
        return log_p + self.constant + log_diagonal.sum() + (np.mean(np.sum(noise**2, axis=1)) - self.dim) / 2


def _frame(draws: np.ndarray, full_rank: bool) -> np.ndarray:
    """The factor of the draws' covariance, or the diagonal one that a Gaussian's mean-field fit would have."""
    covariance = np.atleast_2d(np.cov(draws, rowvar=False))
    if full_rank:
        return np.linalg.cholesky(covariance)
    return np.diag(np.diagonal(np.linalg.inv(covariance)) ** -0.5)


def _noise(dim: int, points: int, rng: np.random.Generator, whiten: bool = True) -> np.ndarray:
    half = 2 ** int(np.ceil(np.log2(points / 2)))
    uniform = qmc.Sobol(dim, seed=rng).random(half)
    normal = special.ndtri(np.clip(uniform, 1e-12, 1 - 1e-12))
    if whiten:
        normal = normal @ np.linalg.inv(np.linalg.cholesky(normal.T @ normal / half)).T
    return np.concatenate([normal, -normal])


@functools.partial(jax.jit)
def _mean_and_slopes(target: Target, z: Array, noise: Array) -> tuple[Array, Array, Array]:
    """The means of `l(z_n)`, its gradient `g_n`, and `g_n e_n^T`; some points at a time."""
    evaluate = jax.vmap(jax.value_and_grad(target.log_density))

    def add(total, part):
        z, noise = part
        log_p, slopes = evaluate(z)
        return (total[0] + log_p.sum(), total[1] + slopes.sum(axis=0), total[2] + slopes.T @ noise), None

    block = min(BLOCK, len(z))
    blocks = (z.reshape(-1, block, z.shape[1]), noise.reshape(-1, block, z.shape[1]))
    zero = (jnp.zeros(()), jnp.zeros(z.shape[1]), jnp.zeros((z.shape[1], z.shape[1])))
    total, _ = jax.lax.scan(add, zero, blocks)
    return jax.tree.map(lambda sums: sums / len(z), total)
