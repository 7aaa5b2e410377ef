"""Gaussian guides in unconstrained space: `z = loc + L noise`.

Mean-field has `L = diag(sd)`; full rank has `L = diag(sd) (I + A)` with `A` strictly lower
triangular: rows scaled by the diagonal, so that `A` has no units. The entropy is closed form,

    H = dim/2 (1 + log 2 pi) + sum log sd,

and no triangular system is solved in a step. All of `phi` is one array, so that an optimizer's
update is one fused operation: row 0 is `loc`, row 1 `log sd`, further rows are `A`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.numerics.draws import fresh_draws, normal_draws, whitened_draws
from vbppl.core.pytree import pytree
from vbppl.core.types import AnyArray, Array
from vbppl.guides.base import Apart, Guide
from vbppl.target.batched import evaluate
from vbppl.target.target import Target

START_SD = 0.1  # in unconstrained space, where a start is narrower than most posteriors


class Gaussian(Guide):
    """What mean-field and full rank share. They give `init`, `transform`, `residual`, `factor`."""

    def transform(self, phi: AnyArray, noise: AnyArray) -> AnyArray:
        """`loc + L noise_n` for `noise`, `(draws, dim)`."""
        raise NotImplementedError

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
        raise NotImplementedError

    def loc(self, phi: AnyArray) -> AnyArray:
        """The mean of `z`, `(dim,)`."""
        return phi[0]

    def entropy(self, phi: AnyArray) -> AnyArray:
        """`H = dim/2 (1 + log 2 pi) + sum log sd`, a scalar, in nats."""
        return phi.shape[-1] / 2 * (1 + math.log(2 * math.pi)) + phi[1].sum()

    def flat_log_prob(self, phi: Array, z: Array) -> Array:
        """The log density of `z`, `(draws, dim)`, in unconstrained space: `(draws,)`."""
        squares = (self.residual(phi, z) ** 2).sum(-1)
        return phi.shape[-1] / 2 - self.entropy(phi) - squares / 2

    def noise_dim(self, target: Target) -> int:
        """How many normals a draw takes in a step of a stochastic fit."""
        return target.dim

    def stratification(self, target: Target, draws: int, rng: np.random.Generator) -> np.ndarray:
        """For each normal of a draw an order of the strata, `(draws, noise_dim)`."""
        return orders_of_strata(rng, draws, self.noise_dim(target))

    def noise(self, stratification: Array, key: Array, draws: int) -> Array:
        """Standard normals, `(draws, noise_dim)`; with two draws or more each coordinate is stratified.

        Every draw is exactly normal, and independent over the coordinates: one random rotation moves
        a coordinate's strata together. Averages over the draws are much less noisy than those of independent ones
        (Buchholz, Wenzel and Mandt 2018, "Quasi-Monte Carlo Variational Inference").
        """
        return stratified_normals(stratification, key, draws)

    def points(self, phi: Array, target: Target, noise: Array, rows: Mapping[str, Array]) -> Array:
        """`transform`."""
        return self.transform(phi, noise)

    def bound(self, phi: Array, target: Target, noise: Array, rows: Mapping[str, Array]) -> Array:
        """`log p(z_n) + H`."""
        return _log_densities(target, self.transform(phi, noise), rows) + self.entropy(phi)

    def log_weights(
        self, phi: Array, target: Target, noise: Array, rows: Mapping[str, Array], density_phi: Array
    ) -> Array:
        """`log p(z_n) - log q(z_n)`, with `z_n` made with `phi` and `q` at `density_phi`."""
        z = self.transform(phi, noise)
        return _log_densities(target, z, rows) - self.flat_log_prob(density_phi, z)

    def fresh_bound(self, phi: np.ndarray, target: Target, rng: np.random.Generator, draws: int) -> np.ndarray:
        """`log p(z_n) + H` on one set of moment-exact draws."""
        z = self.transform(phi, fresh_draws(rng, draws, phi.shape[-1]).astype(phi.dtype))
        return evaluate(target, z)[0].astype(np.float64) + float(self.entropy(phi))

    def weighed_draws(
        self, phi: np.ndarray, target: Target, rng: np.random.Generator, draws: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """`log p - log q` at independent draws, and the draws."""
        noise = normal_draws(rng, draws, phi.shape[-1]).astype(phi.dtype)
        z = self.transform(phi, noise)
        log_q = phi.shape[-1] / 2 - float(self.entropy(phi)) - np.sum(noise.astype(np.float64) ** 2, axis=1) / 2
        return evaluate(target, z)[0] - log_q, z.astype(np.float64)

    def sample(self, phi: np.ndarray, target: Target, rng: np.random.Generator, draws: int) -> dict[str, Array]:
        """Independent draws, mapped onto the supports."""
        return target.constrain(self.transform(phi, normal_draws(rng, draws, phi.shape[-1]).astype(phi.dtype)))

    def quadrature(self, phi: np.ndarray, target: Target, rng: np.random.Generator, draws: int) -> dict[str, Array]:
        """Moment-exact draws: means and covariances of real sites are exact to rounding."""
        return target.constrain(self.transform(phi, whitened_draws(rng, draws, phi.shape[-1]).astype(phi.dtype)))

    def log_prob(self, phi: np.ndarray, target: Target, values: Mapping[str, Any]) -> Array:
        """`log q(z(x)) - log |dx/dz|`."""
        z, log_det = target.unconstrain(values), target.log_det(values)
        return self.flat_log_prob(jnp.asarray(phi), jnp.atleast_2d(z)).reshape(log_det.shape) - log_det

    def monitored(self, phi: Array) -> tuple[Array, Array]:
        """The means, whose units are the sds, and the log sds."""
        sd = self.sd(phi)
        return jnp.concatenate([self.loc(phi), jnp.log(sd)]), jnp.concatenate([sd, jnp.ones_like(sd)])

    def metric(self, phi: Array, power: Array, pace: Array) -> Array:
        """For `loc` the sd, once `power` is 1; until then no less than `sd^power`: a start may be far away."""
        log_sd = phi[1]
        means = jnp.exp(jnp.maximum(log_sd, power.astype(phi.dtype) * log_sd))
        return jnp.where(jnp.arange(phi.shape[0])[:, None] == 0, means, 1)


@pytree
class MeanField(Gaussian):
    """Independent normals in unconstrained space: `z = loc + sd * noise`; `phi` is `(2, dim)`.

    Where plates show a part of their rows, `phi` is a table of all coordinates of which a step reads, and
    draws noise for, those of the rows shown alone.

    >>> phi = np.array([[1.0, 2.0], [0.0, np.log(0.5)]])
    >>> MeanField().transform(phi, np.ones((1, 2))).tolist()
    [[2.0, 2.5]]
    """

    def init(self, target: Target, loc: np.ndarray) -> np.ndarray:
        """Around `loc`, with small standard deviations."""
        return np.stack([loc, np.full_like(loc, math.log(START_SD))])

    def noise_dim(self, target: Target) -> int:
        """One for each coordinate that is shown."""
        return target.layout.shown_dim

    def points(self, phi: Array, target: Target, noise: Array, rows: Mapping[str, Array]) -> Array:
        """The draws, `(draws, dim)`, with `loc` where a coordinate's row is not shown."""
        if not target.layout.is_partly_shown(rows):
            return self.transform(phi, noise)
        places = target.layout.places(rows)
        everywhere = jnp.broadcast_to(phi[0], (noise.shape[0], phi.shape[-1]))
        return everywhere.at[:, places].set(self.transform(phi[:, places], noise))

    def bound(self, phi: Array, target: Target, noise: Array, rows: Mapping[str, Array]) -> Array:
        """`log p(z_n) + H`, both weighted N/B where B of N rows are shown."""
        if not target.layout.is_partly_shown(rows):
            return super().bound(phi, target, noise, rows)
        part = phi[:, target.layout.places(rows)]
        z, weights = self.transform(part, noise), target.layout.weights(rows).astype(phi.dtype)
        constant = phi.shape[-1] / 2 * (1 + math.log(2 * math.pi))
        return shown_log_densities(target, z, rows) + constant + (weights * part[1]).sum()

    def log_weights(
        self, phi: Array, target: Target, noise: Array, rows: Mapping[str, Array], density_phi: Array
    ) -> Array:
        """`log p(z_n) - log q(z_n)`, both weighted N/B where B of N rows are shown."""
        if not target.layout.is_partly_shown(rows):
            return super().log_weights(phi, target, noise, rows, density_phi)
        places = target.layout.places(rows)
        part, density_part = phi[:, places], density_phi[:, places]
        z, weights = self.transform(part, noise), target.layout.weights(rows).astype(phi.dtype)
        log_q = -(self.residual(density_part, z) ** 2) / 2 - density_part[1] - math.log(2 * math.pi) / 2
        return shown_log_densities(target, z, rows) - log_q @ weights

    def of(self, loc: np.ndarray, factor: np.ndarray) -> np.ndarray:
        """The same mean and marginal variances."""
        return np.stack([loc, np.log(np.sum(factor**2, axis=1)) / 2])

    def transform(self, phi: AnyArray, noise: AnyArray) -> AnyArray:
        """`loc + sd * noise_n`."""
        return phi[0] + phi.__array_namespace__().exp(phi[1]) * noise

    def residual(self, phi: AnyArray, z: AnyArray) -> AnyArray:
        """`(z_n - loc) / sd`."""
        return (z - phi[0]) * phi.__array_namespace__().exp(-phi[1])

    def sd(self, phi: AnyArray) -> AnyArray:
        """`sd`, `(dim,)`."""
        return phi.__array_namespace__().exp(phi[1])

    def factor(self, phi: AnyArray) -> AnyArray:
        """`diag(sd)`."""
        return phi.__array_namespace__().diag(self.sd(phi))


@pytree
class FullRank(Gaussian):
    """A normal with any covariance: `z = loc + sd * (noise + A noise)`; `phi` is `(2 + dim, dim)`.

    >>> phi = np.array([[0.0, 0.0], [0.0, 0.0], [9.0, 9.0], [3.0, 9.0]])  # only A[1, 0] = 3 counts
    >>> FullRank().factor(phi).tolist()
    [[1.0, 0.0], [3.0, 1.0]]
    """

    def init(self, target: Target, loc: np.ndarray) -> np.ndarray:
        """Around `loc`, with small standard deviations and no correlations."""
        rows = [loc, np.full_like(loc, math.log(START_SD))]
        return np.concatenate([np.stack(rows), np.zeros((loc.size, loc.size), loc.dtype)])

    def of(self, loc: np.ndarray, factor: np.ndarray) -> np.ndarray:
        """The same mean and covariance: `factor^T = Q R` makes `L = R^T` lower triangular."""
        lower = np.linalg.qr(factor.T, mode="r").T  # pyright: ignore[reportAttributeAccessIssue] -- R alone
        lower = lower * np.sign(np.diagonal(lower))
        scale = np.diagonal(lower)[:, None]
        return np.concatenate([loc[None], np.log(scale).T, np.tril(lower / scale, -1)])

    def transform(self, phi: AnyArray, noise: AnyArray) -> AnyArray:
        """`loc + sd * (noise_n + A noise_n)`."""
        xp = phi.__array_namespace__()
        return phi[0] + xp.exp(phi[1]) * (noise + noise @ xp.tril(phi[2:], -1).T)

    def residual(self, phi: AnyArray, z: AnyArray) -> AnyArray:
        """`(I + A)^-1 ((z_n - loc) / sd)`, by forward substitution."""
        scaled = (z - phi[0]) * phi.__array_namespace__().exp(-phi[1])
        unit = jnp.tril(phi[2:], -1) + jnp.eye(phi.shape[-1], dtype=phi.dtype)
        return jax.scipy.linalg.solve_triangular(unit, scaled.T, lower=True, unit_diagonal=True).T

    def factor(self, phi: AnyArray) -> AnyArray:
        """`diag(sd) (I + A)`."""
        xp = phi.__array_namespace__()
        return xp.exp(phi[1])[:, None] * (xp.tril(phi[2:], -1) + xp.eye(phi.shape[-1], dtype=phi.dtype))

    def sd(self, phi: AnyArray) -> AnyArray:
        """The norms of the rows of `L`, `(dim,)`."""
        return (self.factor(phi) ** 2).sum(-1) ** 0.5


@pytree
class Laplace(FullRank):
    """The normal at the mode with the inverse Hessian there: quick, and blind to skewness."""


@pytree
class Pathfinder(FullRank):
    """The best normal on an L-BFGS path to the mode: quick, good as a start."""


def orders_of_strata(rng: np.random.Generator, draws: int, dim: int) -> np.ndarray:
    """For each coordinate an order of the strata, `(draws, dim)`."""
    return rng.permuted(np.broadcast_to(np.arange(draws)[:, None], (draws, dim)), axis=0)


def stratified_normals(stratification: Array | Apart, key: Array, draws: int) -> Array:
    """Standard normals of the shape of `stratification`, `(draws, dim)`: see `Gaussian.noise`."""
    if draws == 1 or isinstance(stratification, Apart):
        return jax.random.normal(key, stratification.shape)
    # The shift runs round the whole circle: within one stratum only, the strata of two
    # coordinates would meet in the same pairs at every step, and the bound would be biased.
    uniform = (stratification / draws + jax.random.uniform(key, stratification.shape[1:])) % 1.0
    # In 32 bits the sum can round up to 1, where the quantile is infinite.
    edge = jnp.finfo(uniform.dtype).eps / 4
    return jax.scipy.special.ndtri(jnp.clip(uniform, edge, 1 - 2 * edge))


def _log_densities(target: Target, z: Array, rows: Mapping[str, Array]) -> Array:
    return _over_draws(lambda point: target.log_density(point, rows), z)


def shown_log_densities(target: Target, z: Array, rows: Mapping[str, Array], normals: Any = None) -> Array:
    """`Target.shown_log_density` for each draw of `z`, `(draws, shown_dim)`: `(draws,)`."""
    return _over_draws(lambda point: target.shown_log_density(point, rows, normals), z)


def _over_draws(density: Callable[[Array], Array], z: Array) -> Array:
    # The barrier keeps XLA from making the draws anew inside every fusion that reads them:
    # half the compile time at 30 sites, and no slower steps.
    z = jax.lax.optimization_barrier(z)
    return density(z[0])[None] if z.shape[0] == 1 else jax.vmap(density)(z)
