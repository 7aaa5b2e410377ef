"""Random covariance matrices, with densities in the entries on and below the diagonal."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.scipy.special as special
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.pytree import pytree, set_field
from vbppl.core.special import LOG_TWO
from vbppl.core.types import Array, ArrayLike, Shape
from vbppl.distributions.base import Distribution, exactly_one
from vbppl.distributions.constraints.matrix import positive_definite
from vbppl.distributions.families.multivariate import factor_of_inverse
from vbppl.distributions.samplers import log_gamma


class _Wishart(Distribution):
    """What both share: exactly one of `scale_matrix`, `rate_matrix` (its inverse) and `scale_tril` (its factor)."""

    concentration: ArrayLike
    scale_matrix: ArrayLike | None
    rate_matrix: ArrayLike | None
    scale_tril: ArrayLike
    event_dim = 2
    parameter_dims: ClassVar[dict[str, int]] = {"scale_tril": 2}
    support = positive_definite

    def __post_init__(self):
        given = exactly_one(self, "scale_matrix", "rate_matrix", "scale_tril")
        super().__post_init__()
        matrix, name = getattr(self, given), type(self).__name__
        if np.ndim(matrix) < 2 or np.shape(matrix)[-1] != np.shape(matrix)[-2]:
            raise ModelError(f"the {given} of {name} has shape {np.shape(matrix)}.", mend="Give a square matrix.")
        if given != "scale_tril":
            matrix = jnp.asarray(matrix, jnp.result_type(matrix, 0.0))
            factor = jnp.linalg.cholesky(matrix) if given == "scale_matrix" else factor_of_inverse(matrix)
            set_field(self, "scale_tril", factor)
            set_field(self, given, None)

    @property
    def event_shape(self):
        return np.shape(self.scale_tril)[-2:]

    def _bartlett(self, key: Array, shape: Shape) -> Array:
        """The Cholesky factor of a standard Wishart: normals below roots of Chi2 (Bartlett 1933)."""
        key_below, key_diagonal = jax.random.split(key)
        size = shape[-1]
        half = 0.5 * (jnp.asarray(self.concentration, self.dtype)[..., None] - jnp.arange(size, dtype=self.dtype))
        log_diagonal = log_gamma(key_diagonal, half, shape[:-1], self.dtype)
        below = jnp.tril(jax.random.normal(key_below, shape, self.dtype), -1)
        return below + jnp.eye(size, dtype=self.dtype) * jnp.exp(0.5 * (log_diagonal + LOG_TWO))[..., None, :]

    def _log_norm(self) -> Array:
        """The part of the density without the matrix and the scale."""
        size, df = self.event_shape[-1], jnp.asarray(self.concentration, self.dtype)
        return 0.5 * df * size * LOG_TWO + special.multigammaln(0.5 * df, size)


def _log_det(factor: Array) -> Array:
    """Half the logarithm of the determinant of the matrix with this factor."""
    return jnp.sum(jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)), axis=-1)


def _solve(factor: ArrayLike, matrix: ArrayLike) -> Array:
    """`factor^-1 matrix`, for a lower triangular factor."""
    dtype = jnp.result_type(factor, matrix)
    shape = np.broadcast_shapes(np.shape(factor), np.shape(matrix))
    factor, matrix = (jnp.broadcast_to(jnp.asarray(part, dtype), shape) for part in (factor, matrix))
    return jax.lax.linalg.triangular_solve(factor, matrix, left_side=True, lower=True)


@pytree
class Wishart(_Wishart):
    """The sum of `concentration` products `z z'` of normal vectors with covariance `scale_matrix`, `(..., K, K)`.

    `log p(X) = (concentration - K - 1) / 2 log det X - trace(scale_matrix^-1 X) / 2 + ...`; the concentration is more
    than `K - 1`, and need not be whole. In the place of `scale_matrix`: its inverse, `rate_matrix`, or its Cholesky
    factor, `scale_tril`.
    """

    concentration: ArrayLike
    scale_matrix: ArrayLike | None = None
    rate_matrix: ArrayLike | None = None
    scale_tril: ArrayLike = None  # once made, always given

    def _sample(self, key, shape):
        factor = jnp.asarray(self.scale_tril, self.dtype) @ self._bartlett(key, shape)
        return factor @ jnp.swapaxes(factor, -1, -2)

    def log_prob(self, x):
        factor, df, size = jnp.linalg.cholesky(x), jnp.asarray(self.concentration, self.dtype), self.event_shape[-1]
        trace = jnp.sum(jnp.square(_solve(self.scale_tril, factor)), axis=(-2, -1))
        powers = (df - size - 1.0) * _log_det(factor) - df * _log_det(jnp.asarray(self.scale_tril))
        return powers - 0.5 * trace - self._log_norm()

    def _moments(self):
        df, factor = jnp.asarray(self.concentration, self.dtype)[..., None, None], jnp.asarray(self.scale_tril)
        scale = factor @ jnp.swapaxes(factor, -1, -2)
        diagonal = jnp.diagonal(scale, axis1=-2, axis2=-1)
        return df * scale, lambda: df * (jnp.square(scale) + diagonal[..., :, None] * diagonal[..., None, :])


@pytree
class InverseWishart(_Wishart):
    """A matrix whose inverse is `Wishart(concentration, rate_matrix=scale_matrix)`.

    In the place of `scale_matrix`: its inverse, `rate_matrix`, or its Cholesky factor, `scale_tril`.

    `log p(X) = -(concentration + K + 1) / 2 log det X - trace(scale_matrix X^-1) / 2 + ...`
    """

    concentration: ArrayLike
    scale_matrix: ArrayLike | None = None
    rate_matrix: ArrayLike | None = None
    scale_tril: ArrayLike = None  # once made, always given

    def _sample(self, key, shape):
        scale = jnp.swapaxes(jnp.broadcast_to(jnp.asarray(self.scale_tril, self.dtype), shape), -1, -2)
        root = _solve(self._bartlett(key, shape), scale)
        return jnp.swapaxes(root, -1, -2) @ root

    def log_prob(self, x):
        factor, df, size = jnp.linalg.cholesky(x), jnp.asarray(self.concentration, self.dtype), self.event_shape[-1]
        trace = jnp.sum(jnp.square(_solve(factor, self.scale_tril)), axis=(-2, -1))
        powers = df * _log_det(jnp.asarray(self.scale_tril)) - (df + size + 1.0) * _log_det(factor)
        return powers - 0.5 * trace - self._log_norm()

    def _moments(self):
        left = jnp.asarray(self.concentration, self.dtype)[..., None, None] - self.event_shape[-1]
        factor = jnp.asarray(self.scale_tril)
        scale = factor @ jnp.swapaxes(factor, -1, -2)
        mean = jnp.where(left > 1, scale / jnp.where(left > 1, left - 1.0, 1.0), jnp.inf)

        def variance():
            diagonal = jnp.diagonal(scale, axis1=-2, axis2=-1)
            both = diagonal[..., :, None] * diagonal[..., None, :]
            some = jnp.where(left > 3, left, 4.0)
            found = (some + 1.0) * jnp.square(scale) + (some - 1.0) * both
            return jnp.where(left > 3, found / (some * jnp.square(some - 1.0) * (some - 3.0)), jnp.inf)

        return mean, variance
