"""Gaussian guides in unconstrained space: `z = loc + L noise`.

Mean-field has `L = diag(sd)`; full rank has `L = diag(sd) (I + A)` with `A` strictly lower
triangular: rows scaled by the diagonal, so that `A` has no units. The entropy is closed form,

    H = dim/2 (1 + log 2 pi) + sum log sd,

and no triangular system is solved in a step. All of `phi` is one array, so that an optimizer's
update is one fused operation: row 0 is `loc`, row 1 `log sd`, further rows are `A`.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.pytree import pytree
from vbppl.core.special import NORMAL_ENTROPY
from vbppl.core.types import AnyArray, Array
from vbppl.guides.base import Draws, Guide, Start, log_densities, uniform_weights
from vbppl.target.target import Target

START_SD = 0.1  # in unconstrained space, where a start is narrower than most posteriors


class Gaussian(Guide):
    """What mean-field and full rank share: `transform` is `loc + L noise_n`.

    They give `init`, `transform`, `residual`, `factor` and `of`, and `sd` where it costs less than the factor.
    """

    def residual(self, phi: AnyArray, z: AnyArray) -> AnyArray:
        """`L^-1 (z_n - loc)`: the noise that makes `z`, `(draws, dim)`."""
        raise NotImplementedError

    def factor(self, phi: AnyArray) -> AnyArray:
        """`L`, lower triangular, `(dim, dim)`."""
        raise NotImplementedError

    def of(self, loc: np.ndarray, factor: np.ndarray) -> np.ndarray:
        """The `phi` with this mean and the covariance `factor factor^T`, as far as the family has it."""
        raise NotImplementedError

    def sd(self, phi: AnyArray) -> AnyArray:
        """The marginal standard deviations of `z`, `(dim,)`."""
        return (self.factor(phi) ** 2).sum(-1) ** 0.5

    def loc(self, phi: AnyArray) -> AnyArray:
        """The mean of `z`, `(dim,)`."""
        return phi[0]

    def entropy(self, phi: AnyArray) -> AnyArray:
        """`H = dim/2 (1 + log 2 pi) + sum log sd`, a scalar, in nats."""
        return phi.shape[-1] * NORMAL_ENTROPY + phi[1].sum()

    def log_prob(self, phi: AnyArray, z: AnyArray, target: Target | None = None) -> AnyArray:
        squares = (self.residual(phi, z) ** 2).sum(-1)
        return phi.shape[-1] / 2 - self.entropy(phi) - squares / 2

    def draw(self, phi: AnyArray, noise: AnyArray, target: Target) -> Draws:
        z, xp = self.transform(phi, noise), phi.__array_namespace__()
        # From the noise: no triangular system is solved, and on the host the squares are summed in double precision.
        squares = (noise.astype(float) ** 2).sum(-1)
        log_q = phi.shape[-1] / 2 - xp.asarray(self.entropy(phi), dtype=float) - squares / 2
        return Draws(z, log_q, uniform_weights(z))

    def bound(self, phi: AnyArray, noise: AnyArray, target: Target) -> AnyArray:
        # Its mean over moment-exact draws is that of `log p - log q`; over others it varies less.
        return log_densities(target, self.transform(phi, noise)) + self.entropy(phi)

    def frame(self, phi: AnyArray, target: Target | None = None) -> tuple[AnyArray, AnyArray]:
        return self.loc(phi), self.sd(phi)

    def monitored(self, phi: Array) -> tuple[Array, Array]:
        sd = self.sd(phi)
        return jnp.concatenate([self.loc(phi), jnp.log(sd)]), jnp.concatenate([sd, jnp.ones_like(sd)])

    def step_scale(self, phi: Array, power: Array, unknown: Array) -> Array:
        # For `loc` the sd, once `power` is 1; until then no less than `sd^power`: a start may be far away.
        log_sd = phi[1]
        means = jnp.exp(jnp.maximum(log_sd, power.astype(phi.dtype) * log_sd))
        return jnp.where(jnp.arange(phi.shape[0])[:, None] == 0, means, 1)


@pytree
class MeanField(Gaussian):
    """Independent normals in unconstrained space: `z = loc + sd * noise`; `phi` is `(2, dim)`.

    >>> phi = np.array([[1.0, 2.0], [0.0, np.log(0.5)]])
    >>> MeanField().transform(phi, np.ones((1, 2))).tolist()
    [[2.0, 2.5]]
    """

    def init(self, target: Target, start: Start) -> np.ndarray:
        return np.stack([start.loc, start_log_sd(start)])

    def of(self, loc: np.ndarray, factor: np.ndarray) -> np.ndarray:
        return np.stack([loc, np.log(np.sum(factor**2, axis=1)) / 2])

    def transform(self, phi: AnyArray, noise: AnyArray) -> AnyArray:
        return phi[0] + phi.__array_namespace__().exp(phi[1]) * noise

    def residual(self, phi: AnyArray, z: AnyArray) -> AnyArray:
        return (z - phi[0]) * phi.__array_namespace__().exp(-phi[1])

    def sd(self, phi: AnyArray) -> AnyArray:
        return phi.__array_namespace__().exp(phi[1])

    def factor(self, phi: AnyArray) -> AnyArray:
        return phi.__array_namespace__().diag(self.sd(phi))


@pytree
class FullRank(Gaussian):
    """A normal with any covariance: `z = loc + sd * (noise + A noise)`; `phi` is `(2 + dim, dim)`.

    >>> phi = np.array([[0.0, 0.0], [0.0, 0.0], [9.0, 9.0], [3.0, 9.0]])  # only A[1, 0] = 3 counts
    >>> FullRank().factor(phi).tolist()
    [[1.0, 0.0], [3.0, 1.0]]
    """

    def init(self, target: Target, start: Start) -> np.ndarray:
        size = start.loc.size
        return np.concatenate([np.stack([start.loc, start_log_sd(start)]), np.zeros((size, size), start.loc.dtype)])

    def of(self, loc: np.ndarray, factor: np.ndarray) -> np.ndarray:
        # The covariance `factor factor^T = R^T R` with `factor^T = Q R`: `L = R^T` up to the signs of its columns.
        lower = np.linalg.qr(factor.T, mode="r").T  # pyright: ignore[reportAttributeAccessIssue] -- R alone
        lower = lower * np.sign(np.diagonal(lower))
        scale = np.diagonal(lower)[:, None]
        return np.concatenate([loc[None], np.log(scale).T, np.tril(lower / scale, -1)])

    def transform(self, phi: AnyArray, noise: AnyArray) -> AnyArray:
        xp = phi.__array_namespace__()
        loc, sd = (xp.broadcast_to(part, noise.shape) for part in (phi[0], xp.exp(phi[1])))
        return loc + sd * (noise + noise @ xp.tril(phi[2:], -1).T)

    def residual(self, phi: AnyArray, z: AnyArray) -> AnyArray:
        # Forward substitution in a unit triangle: never an inverse.
        scaled = (z - phi[0]) * phi.__array_namespace__().exp(-phi[1])
        unit = jnp.tril(phi[2:], -1) + jnp.eye(phi.shape[-1], dtype=phi.dtype)
        return jax.scipy.linalg.solve_triangular(unit, scaled.T, lower=True, unit_diagonal=True).T

    def factor(self, phi: AnyArray) -> AnyArray:
        xp = phi.__array_namespace__()
        return xp.exp(phi[1])[:, None] * (xp.tril(phi[2:], -1) + xp.eye(phi.shape[-1], dtype=phi.dtype))


@pytree
class Laplace(FullRank):
    """The normal at the mode with the inverse Hessian there: quick, and blind to skewness."""


@pytree
class Pathfinder(FullRank):
    """The best normal on an L-BFGS path to the mode: quick, good as a start."""


def start_log_sd(start: Start) -> np.ndarray:
    """How wide a Gaussian begins, `(dim,)`."""
    if start.log_sd is None:
        return np.full_like(start.loc, math.log(START_SD))
    return start.log_sd.astype(start.loc.dtype)


def correlations_of(guide: Guide) -> str:
    """Which correlations a normal of this family has: "all", "none"; or "other", as what is no normal has."""
    return "all" if isinstance(guide, FullRank) else "none" if isinstance(guide, MeanField) else "other"


def is_normal(guide: Guide) -> bool:
    """Is this family one of normals?"""
    return isinstance(guide, Gaussian)


def normal_of(guide: Guide, phi: AnyArray) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean `(dim,)` and factor `(dim, dim)` of the normal that a guide is, in float64; None where it is none."""
    if not isinstance(guide, Gaussian):
        return None
    # First in float64: in 32 bits the sds of a fit that went wrong may all be zero, and the factor singular.
    phi = np.asarray(phi, np.float64)
    return phi[0], np.asarray(guide.factor(phi)) + 1e-300 * np.eye(phi.shape[-1])
