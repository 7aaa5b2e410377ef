"""Relatives of the multivariate normal: heavy tails, few factors, rows and columns."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.scipy.special as special
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.pytree import pytree, set_field
from vbppl.core.special import HALF_LOG_TWO_PI, betaln
from vbppl.core.types import Array, ArrayLike
from vbppl.distributions.base import Distribution
from vbppl.distributions.constraints.matrix import real_matrix
from vbppl.distributions.constraints.vector import real_vector
from vbppl.distributions.families.multivariate import check_loc, solve_lower
from vbppl.distributions.samplers import log_gamma


def _log_diagonal(factor: ArrayLike) -> Array:
    """The logarithm of the determinant of a triangular matrix."""
    return jnp.sum(jnp.log(jnp.diagonal(jnp.asarray(factor), axis1=-2, axis2=-1)), axis=-1)


@pytree
class MultivariateStudentT(Distribution):
    """`loc + scale_tril z sqrt(df / v)`, where `z` is standard normal and `v` is `Chi2(df)`: one `v` for all of it."""

    df: ArrayLike
    loc: ArrayLike = 0.0
    scale_tril: ArrayLike = None
    event_dim = 1
    parameter_dims: ClassVar[dict[str, int]] = {"loc": 1, "scale_tril": 2}
    support = real_vector

    def __post_init__(self):
        super().__post_init__()
        check_loc(self, "scale_tril")

    @property
    def event_shape(self):
        return np.shape(self.scale_tril)[-1:]

    def _sample(self, key, shape):
        key_normal, key_gamma = jax.random.split(key)
        half = 0.5 * jnp.asarray(self.df, self.dtype)
        log_spread = 0.5 * (jnp.log(half) - log_gamma(key_gamma, half, shape[:-1], self.dtype))
        noise = jax.random.normal(key_normal, shape, self.dtype) * jnp.exp(log_spread)[..., None]
        moved = self.loc + jnp.einsum("...ij,...j->...i", jnp.asarray(self.scale_tril, self.dtype), noise)
        return jnp.clip(moved, jnp.finfo(self.dtype).min, jnp.finfo(self.dtype).max)

    def log_prob(self, x):
        df, size = jnp.asarray(self.df, self.dtype), self.event_shape[-1]
        # Gamma(df / 2) / Gamma((df + K) / 2), whose logarithms are large, is a Beta function over Gamma(K / 2).
        log_norm = betaln(0.5 * df, 0.5 * size) - special.gammaln(0.5 * size) + 0.5 * size * jnp.log(np.pi * df)
        square = jnp.sum(jnp.square(solve_lower(self.scale_tril, x - self.loc)), axis=-1)
        return -0.5 * (df + size) * jnp.log1p(square / df) - log_norm - _log_diagonal(self.scale_tril)

    def _moments(self):
        df = jnp.asarray(self.df, self.dtype)[..., None]
        mean = jnp.where(df > 1, self.loc, jnp.nan)

        def variance():
            square = jnp.sum(jnp.square(self.scale_tril), axis=-1)
            heavy = jnp.where(df > 1, jnp.inf, jnp.nan)
            return jnp.where(df > 2, square * df / jnp.where(df > 2, df - 2.0, 1.0), heavy)

        return mean, variance


@pytree
class LowRankMultivariateNormal(Distribution):
    """A normal vector with mean `loc` and covariance `cov_factor cov_factor' + diag(cov_diag)`.

    `loc` and `cov_diag` are `(..., K)`, the factor `(..., K, rank)`.
    """

    loc: ArrayLike
    cov_factor: ArrayLike
    cov_diag: ArrayLike
    event_dim = 1
    parameter_dims: ClassVar[dict[str, int]] = {"loc": 1, "cov_factor": 2, "cov_diag": 1}
    support = real_vector

    def __post_init__(self):
        super().__post_init__()
        shape, diagonal = np.shape(self.cov_factor), np.shape(self.cov_diag)
        if len(shape) < 2 or diagonal[-1:] != shape[-2:-1] or np.shape(self.loc)[-1:] not in ((), (1,), diagonal[-1:]):
            raise ModelError(
                "the parameters of LowRankMultivariateNormal do not fit together.",
                details=f"loc: {np.shape(self.loc)}\ncov_factor: {shape}\ncov_diag: {diagonal}",
                mend="Give loc and cov_diag the shape (..., K) and cov_factor the shape (..., K, rank).",
            )
        if np.ndim(self.loc) == 0:
            set_field(self, "loc", jnp.reshape(self.loc, (1,)))

    @property
    def event_shape(self):
        return np.shape(self.cov_diag)[-1:]

    def _sample(self, key, shape):
        key_factor, key_own = jax.random.split(key)
        factor = jnp.asarray(self.cov_factor, self.dtype)
        common = jax.random.normal(key_factor, (*shape[:-1], factor.shape[-1]), self.dtype)
        own = jnp.sqrt(self.cov_diag) * jax.random.normal(key_own, shape, self.dtype)
        return self.loc + jnp.einsum("...ir,...r->...i", factor, common) + own

    def log_prob(self, x):
        # In units of the diagonal; the rest is a matrix of the size of the rank (Woodbury).
        root = jnp.sqrt(jnp.asarray(self.cov_diag, self.dtype))
        factor, u = jnp.asarray(self.cov_factor, self.dtype) / root[..., None], (x - self.loc) / root
        inner = jnp.linalg.cholesky(jnp.swapaxes(factor, -1, -2) @ factor + jnp.eye(factor.shape[-1], dtype=self.dtype))
        explained = solve_lower(inner, jnp.einsum("...ir,...i->...r", factor, u))
        square = jnp.sum(jnp.square(u), axis=-1) - jnp.sum(jnp.square(explained), axis=-1)
        half_log_det = jnp.sum(jnp.log(root), axis=-1) + _log_diagonal(inner)
        return -0.5 * square - half_log_det - HALF_LOG_TWO_PI * root.shape[-1]

    def _moments(self):
        return self.loc, lambda: jnp.sum(jnp.square(self.cov_factor), axis=-1) + self.cov_diag


@pytree
class MatrixNormal(Distribution):
    """`loc + scale_tril_row Z scale_tril_column'`, `(..., n, m)`, where all entries of `Z` are standard normal."""

    loc: ArrayLike
    scale_tril_row: ArrayLike
    scale_tril_column: ArrayLike
    event_dim = 2
    parameter_dims: ClassVar[dict[str, int]] = {"loc": 2, "scale_tril_row": 2, "scale_tril_column": 2}
    support = real_matrix

    def __post_init__(self):
        super().__post_init__()
        rows, columns = np.shape(self.scale_tril_row), np.shape(self.scale_tril_column)
        if min(len(rows), len(columns), np.ndim(self.loc)) < 2 or np.shape(self.loc)[-2:] != (rows[-1], columns[-1]):
            raise ModelError(
                "the parameters of MatrixNormal do not fit together.",
                details=f"loc: {np.shape(self.loc)}\nscale_tril_row: {rows}\nscale_tril_column: {columns}",
                mend="Give loc the shape (..., n, m), and the factors (..., n, n) and (..., m, m).",
            )

    @property
    def event_shape(self):
        return np.shape(self.loc)[-2:]

    def _sample(self, key, shape):
        noise = jax.random.normal(key, shape, self.dtype)
        rows, columns = (jnp.asarray(f, self.dtype) for f in (self.scale_tril_row, self.scale_tril_column))
        return self.loc + rows @ noise @ jnp.swapaxes(columns, -1, -2)

    def log_prob(self, x):
        rows, columns = (jnp.asarray(f, self.dtype) for f in (self.scale_tril_row, self.scale_tril_column))
        # The columns of the transposed matrix are vectors that the factor of the rows moves.
        half = solve_lower(rows[..., None, :, :], jnp.swapaxes(x - self.loc, -1, -2))
        u = solve_lower(columns[..., None, :, :], jnp.swapaxes(half, -1, -2))
        n, m = self.event_shape
        half_log_det = m * _log_diagonal(rows) + n * _log_diagonal(columns) + n * m * HALF_LOG_TWO_PI
        return -0.5 * jnp.sum(jnp.square(u), axis=(-2, -1)) - half_log_det

    def _moments(self):
        def variance():
            rows, columns = (jnp.sum(jnp.square(f), -1) for f in (self.scale_tril_row, self.scale_tril_column))
            return rows[..., :, None] * columns[..., None, :]

        return self.loc, variance
