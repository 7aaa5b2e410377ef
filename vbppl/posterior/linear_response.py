"""Linear response: the covariances that a mean-field fit misses, from how it would answer a nudge.

A mean-field optimum `eta = (loc, log sd)` moves when the log density is tilted by `t f`; to first
order in `t`, the mean of any quantity then moves by

    Cov(f1, f2) = (d E_q[f1] / d eta)^T  H^-1  (d E_q[f2] / d eta),      H = Hess J(eta),

where `J` is the negated bound on fixed draws `z_n = loc + sd e_n` (Giordano, Broderick and Jordan
2018, "Covariances, Robustness, and Variational Bayes", theorem 1). For a Gaussian density these are
the exact covariances, which mean field alone cannot have. With `H_n = Hess l(z_n)` and `s_n = sd e_n`,

    H_loc,loc = -mean H_n,   H_loc,sd = -mean H_n diag(s_n),
    H_sd,sd   = -mean diag(s_n) H_n diag(s_n) - diag(mean s_n g_n).

Up to `DENSE_DIM` dimensions `H` is formed and factored; beyond, each quantity is solved for by
conjugate gradients on Hessian-vector products. Where `H` is not positive definite there is no
linear response, and none is made up.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.numerics.draws import latin_hypercube, whitened_draws
from vbppl.core.types import Array
from vbppl.target.batched import hessian_times
from vbppl.target.target import Target

DENSE_DIM = 128
DRAWS = 64
CG_STEPS, CG_TOLERANCE = 500, 1e-6
SMALLEST = 1e-8  # of the largest eigenvalue, in units of the guide's own sds


@dataclasses.dataclass(frozen=True)
class LinearResponse:
    """Covariances of constrained quantities by linear response.

    Attributes:
      names: a label for each scalar, in order.
      covariance: `(scalars, scalars)`; empty where it is not available.
      reason: why it is not available; empty where it is.
    """

    names: tuple[str, ...]
    covariance: np.ndarray
    reason: str = ""

    @property
    def available(self) -> bool:
        """Is there an answer?"""
        return not self.reason

    @property
    def sd(self) -> np.ndarray:
        """The standard deviation of each scalar, `(scalars,)`."""
        if self.reason:
            raise ValueError(f"linear response is not available: {self.reason}.")
        return np.sqrt(np.diagonal(self.covariance))

    def __str__(self) -> str:
        if self.reason:
            return f"linear response is not available: {self.reason}"
        width = max(map(len, self.names), default=0)
        return "\n".join(f"{name.ljust(width)}  sd {sd:.4g}" for name, sd in zip(self.names, self.sd))


def linear_response(
    target: Target, loc: np.ndarray, log_sd: np.ndarray, names: Sequence[str], rng: np.random.Generator
) -> LinearResponse:
    """Covariances of all scalars of the sites `names` at the mean-field optimum `(loc, log_sd)`."""
    dim, dtype = target.dim, jnp.result_type(float)
    draws = max(DRAWS, 4 * dim) if dim <= DENSE_DIM else DRAWS
    make = whitened_draws if draws >= 2 * dim else latin_hypercube
    noise = make(rng, draws, dim).astype(dtype)
    eta = np.concatenate([loc, log_sd]).astype(dtype)
    labels, slopes = _slopes(target, eta, noise, tuple(names))
    # In units of the guide's own sds the Hessian of a Gaussian density with no correlations is the identity.
    units = np.concatenate([np.exp(log_sd), np.full(dim, 0.5**0.5)])
    scaled = slopes.astype(np.float64) * units
    if dim <= DENSE_DIM:
        solved, reason = _solve_densely(target, eta, noise, units, scaled)
    else:
        solved, reason = _solve_by_cg(target, eta, noise, units, scaled)
    return LinearResponse(labels, scaled @ solved if not reason else np.zeros((0, 0)), reason)


def _solve_densely(
    target: Target, eta: np.ndarray, noise: np.ndarray, units: np.ndarray, slopes: np.ndarray
) -> tuple[np.ndarray, str]:
    hessian = np.asarray(_hessian(target, eta, noise), np.float64) * units[:, None] * units
    if not np.isfinite(hessian).all():
        return slopes.T, "the Hessian of the bound is not finite"
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    if values[0] <= SMALLEST * values[-1]:
        return slopes.T, f"the Hessian of the bound is not positive definite (least eigenvalue {values[0]:.2g})"
    return vectors @ ((vectors.T @ slopes.T) / values[:, None]), ""


def _solve_by_cg(
    target: Target, eta: np.ndarray, noise: np.ndarray, units: np.ndarray, slopes: np.ndarray
) -> tuple[np.ndarray, str]:
    solved = np.zeros_like(slopes)
    for i, slope in enumerate(slopes):
        x, rest, direction = np.zeros_like(slope), slope.copy(), slope.copy()
        for _ in range(CG_STEPS):
            if rest @ rest <= CG_TOLERANCE**2 * (slope @ slope):
                break
            product = units * np.asarray(hessian_times(target, eta, noise, (units * direction).astype(eta.dtype)))
            curvature = direction @ product
            if not curvature > 0:
                return solved.T, f"the Hessian of the bound is not positive definite (curvature {curvature:.2g})"
            length = (rest @ rest) / curvature
            x, new = x + length * direction, rest - length * product
            direction, rest = new + (new @ new) / (rest @ rest) * direction, new
        else:
            return solved.T, f"conjugate gradients did not converge in {CG_STEPS} steps"
        solved[i] = x
    return solved.T, ""


@functools.partial(jax.jit, static_argnames="names")
def _mean_slopes(target: Target, eta: Array, noise: Array, names: tuple[str, ...]) -> dict[str, Array]:
    def means(eta: Array) -> dict[str, Array]:
        loc, log_sd = jnp.split(eta, 2)
        values = target.constrain(loc + jnp.exp(log_sd) * noise)
        return {name: values[name].mean(axis=0) for name in names}

    return jax.jacrev(means)(eta)


def _slopes(
    target: Target, eta: np.ndarray, noise: np.ndarray, names: tuple[str, ...]
) -> tuple[tuple[str, ...], np.ndarray]:
    """`d E_q[f] / d eta` for each scalar `f` of the sites: their labels, and `(scalars, 2 dim)`."""
    slopes = _mean_slopes(target, eta, noise, names)
    labels = tuple(
        f"{name}[{','.join(map(str, index))}]" if index else name
        for name in names
        for index in np.ndindex(slopes[name].shape[:-1])
    )
    return labels, np.concatenate([np.asarray(slopes[name]).reshape(-1, len(eta)) for name in names])


@jax.jit
def _hessian(target: Target, eta: Array, noise: Array) -> Array:
    """All columns, some at a time: forward over reverse."""
    columns = jnp.eye(len(eta), dtype=eta.dtype)
    return jax.lax.map(lambda v: hessian_times(target, eta, noise, v), columns, batch_size=8)
