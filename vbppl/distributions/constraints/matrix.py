"""Maps of vectors onto matrices, which they fill row by row from the triangle below the diagonal."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.pytree import pytree
from vbppl.core.special import LOG_TWO, log_cosh
from vbppl.core.types import Array
from vbppl.distributions.constraints.base import Bijector, Independent, as_float, like
from vbppl.distributions.constraints.scalar import real


def _below(z: Array, size: int) -> Array:
    """The `(size, size)` matrix with `z` below its diagonal, row by row, and zeros elsewhere."""
    where = np.zeros((size, size), int)
    where[np.tril_indices(size, -1)] = np.arange(size * (size - 1) // 2)
    if size < 2:
        return jnp.zeros((*z.shape[:-1], size, size), z.dtype)
    return jnp.where(np.tri(size, k=-1, dtype=bool), z[..., where], 0)


def _size(entries: int, diagonal: int) -> int:
    """The side of the triangle with that many entries; `diagonal` is 1 where the diagonal is among them."""
    size = (int(np.sqrt(8 * entries + 1)) + 1) // 2 - diagonal
    if size * (size - 1 + 2 * diagonal) // 2 != entries:
        raise ModelError(
            f"{entries} numbers do not fill a triangle.", mend="Give K (K + 1) / 2 or K (K - 1) / 2 of them."
        )
    return size


def _diagonal(x: Array) -> Array:
    return jnp.diagonal(x, axis1=-2, axis2=-1)


class _Matrix(Bijector):
    """What the matrix supports share: shapes, and the triangle that they fill."""

    event_dim = 2
    unconstrained_dim = 1
    has_diagonal = 1

    def unconstrained_shape(self, x_shape):
        return (*x_shape[:-2], x_shape[-1] * (x_shape[-1] - 1 + 2 * self.has_diagonal) // 2)

    def constrained_shape(self, z_shape):
        size = _size(z_shape[-1], self.has_diagonal)
        return (*z_shape[:-1], size, size)


@pytree
class LowerCholesky(_Matrix):
    """Lower triangular matrices with a positive diagonal: `exp` of the last `K` entries of `z`."""

    name = "lower_cholesky"

    def forward_and_log_det(self, z):
        z = as_float(z)
        size = _size(z.shape[-1], 1)
        below, diagonal = z[..., : z.shape[-1] - size], z[..., z.shape[-1] - size :]
        eye = np.eye(size, dtype=bool)
        x = jnp.where(eye, jnp.exp(diagonal)[..., None, :], _below(below, size))
        return x, jnp.sum(diagonal, axis=-1)

    def inverse(self, x):
        x = jnp.asarray(x)
        rows, columns = np.tril_indices(x.shape[-1], -1)
        return jnp.concatenate([x[..., rows, columns], jnp.log(_diagonal(x))], axis=-1)

    def check(self, x):
        eye = np.eye(np.shape(x)[-1], dtype=bool)
        return jnp.all(jnp.where(eye, x > 0, jnp.triu(x, 1) == 0), axis=(-2, -1))


@pytree
class CorrCholesky(_Matrix):
    """Cholesky factors of correlation matrices: lower triangular, positive diagonal, rows of length one.

    `x_ij = tanh(z_ij) prod_{k<j} sqrt(1 - tanh(z_ik)^2)` below the diagonal; on it, the rest of the length.
    """

    name = "corr_cholesky"
    has_diagonal = 0

    def forward_and_log_det(self, z):
        z = as_float(z)
        size = _size(z.shape[-1], 0)
        below = _below(z, size)
        log_left = -2.0 * log_cosh(below)  # log(1 - tanh^2), zero on and above the diagonal
        log_rest = 0.5 * (jnp.cumsum(log_left, axis=-1) - log_left)
        length = jnp.exp(jnp.maximum(log_rest, 0.5 * np.log(jnp.finfo(z.dtype).tiny)))
        x = jnp.where(np.eye(size, dtype=bool), length, jnp.tanh(below) * length)
        strict = np.tri(size, k=-1, dtype=bool)
        return x, jnp.sum(jnp.where(strict, log_left + log_rest, 0), axis=(-2, -1))

    def inverse(self, x):
        x = jnp.asarray(x)
        rest = jnp.flip(jnp.cumsum(jnp.flip(x * x, -1), axis=-1), -1)  # the squared length from here on
        rows, columns = np.tril_indices(x.shape[-1], -1)
        return jnp.arcsinh(x[..., rows, columns] / jnp.sqrt(rest[..., rows, columns + 1]))

    def check(self, x):
        tolerance = 1e-6 + np.shape(x)[-1] * jnp.finfo(jnp.result_type(x, 0.0)).eps
        unit = jnp.all(jnp.abs(jnp.sum(jnp.square(x), axis=-1) - 1) < tolerance, axis=-1)
        return LowerCholesky().check(x) & unit


class _Product(_Matrix):
    """What the products `x = L L'` share: `|dx / dL| = prod_i L_ii^(K - 1 - i)`, and `2 L_ii` with a diagonal."""

    factor: ClassVar[_Matrix]

    def forward_and_log_det(self, z):
        factor, log_det = self.factor.forward_and_log_det(z)
        size = factor.shape[-1]
        powers = np.arange(size - 1, -1, -1) + self.has_diagonal
        log_det += self.has_diagonal * size * LOG_TWO + jnp.log(_diagonal(factor)) @ like(powers, factor)
        return factor @ jnp.swapaxes(factor, -1, -2), log_det

    def inverse(self, x):
        return self.factor.inverse(jnp.linalg.cholesky(x))


@pytree
class PositiveDefinite(_Product):
    """Symmetric positive definite matrices: `L L'`, where `L` is a `lower_cholesky`."""

    name = "positive_definite"
    factor = LowerCholesky()

    def check(self, x):
        is_symmetric = jnp.all(jnp.abs(x - jnp.swapaxes(x, -1, -2)) <= 1e-5 * (1 + jnp.abs(x)), axis=(-2, -1))
        return is_symmetric & jnp.all(jnp.linalg.eigvalsh(x) > 0, axis=-1)


@pytree
class CorrMatrix(_Product):
    """Correlation matrices: `L L'`, where `L` is a `corr_cholesky`."""

    name = "corr_matrix"
    has_diagonal = 0
    factor = CorrCholesky()

    def check(self, x):
        unit = jnp.all(jnp.abs(_diagonal(x) - 1) < 1e-5, axis=-1)
        return PositiveDefinite().check(x) & unit


real_matrix = Independent(real, 2)
lower_cholesky = LowerCholesky()
corr_cholesky = CorrCholesky()
positive_definite = PositiveDefinite()
corr_matrix = CorrMatrix()
