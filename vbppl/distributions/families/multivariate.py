"""Distributions of vectors and matrices.

Densities are in the free coordinates of an event: the first `K - 1` entries of a simplex, the entries below
the diagonal of a correlation Cholesky factor. The log determinants of the supports are in the same ones.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import jax.scipy.special as special
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.pytree import pytree, set_field, static
from vbppl.core.special import HALF_LOG_TWO_PI, betaln, sum_of_others, xlogy
from vbppl.core.types import Array, ArrayLike
from vbppl.distributions.base import Distribution, exactly_one
from vbppl.distributions.constraints.integer import multinomial
from vbppl.distributions.constraints.matrix import corr_cholesky, corr_matrix
from vbppl.distributions.constraints.vector import real_vector, simplex
from vbppl.distributions.families.finite import Multinomial
from vbppl.distributions.samplers import log_beta, log_gamma


@pytree
class Dirichlet(Distribution):
    """`p(x) = Gamma(sum a) prod x_k^(a_k - 1) / Gamma(a_k)`, where `a` is `concentration`, `(..., K)`."""

    concentration: ArrayLike
    event_dim = 1
    parameter_dims: ClassVar[dict[str, int]] = {"concentration": 1}
    support = simplex

    def __post_init__(self):
        Distribution.__post_init__(self)
        if np.ndim(self.concentration) == 0:
            raise TypeError(f"Dirichlet needs a vector of concentrations, not the number {self.concentration!r}.")

    @property
    def event_shape(self):
        return np.shape(self.concentration)[-1:]

    def _sample(self, key, shape):
        concentration = jnp.asarray(self.concentration, self.dtype)
        x = jax.nn.softmax(log_gamma(key, concentration, shape, self.dtype), axis=-1)
        return jnp.maximum(x, jnp.finfo(self.dtype).tiny)

    def log_prob(self, x):
        inside = jnp.all(jnp.greater_equal(x, 0), axis=-1)
        x = jnp.where(inside[..., None], x, 1.0)
        a = jnp.asarray(self.concentration, self.dtype)
        log_norm = jnp.sum(special.gammaln(a), axis=-1) - special.gammaln(jnp.sum(a, axis=-1))
        return jnp.where(inside, jnp.sum(xlogy(a - 1.0, x), axis=-1) - log_norm, -jnp.inf)

    def _moments(self):
        a = jnp.asarray(self.concentration, self.dtype)
        total = jnp.sum(a, axis=-1, keepdims=True)
        return a / total, lambda: a / total * (sum_of_others(a) / total) / (total + 1.0)


@pytree
class DirichletMultinomial(Distribution):
    """Counts of each class among `total_count` draws, whose probabilities are `Dirichlet(concentration)`."""

    concentration: ArrayLike
    total_count: ArrayLike = 1
    event_dim = 1
    parameter_dims: ClassVar[dict[str, int]] = {"concentration": 1}

    @property
    def event_shape(self):
        return np.shape(self.concentration)[-1:]

    @property
    def support(self):
        return multinomial(self.total_count)

    def _sample(self, key, shape):
        key_probs, key_counts = jax.random.split(key)
        probs = Dirichlet(self.concentration)._sample(key_probs, shape)
        return Multinomial(self.total_count, probs)._sample(key_counts, shape)

    def _log_density(self, x):
        # n B(sum a, n) / prod x_k B(a_k, x_k) over the classes that occur: no term is of the size of `n`.
        a, total = jnp.asarray(self.concentration, self.dtype), jnp.asarray(self.total_count, self.dtype)
        each = _log_count_times_beta(jnp.broadcast_to(a, x.shape), x)
        return _log_count_times_beta(jnp.sum(a, axis=-1), total) - jnp.sum(each, axis=-1)

    def _moments(self):
        p, n = Dirichlet(self.concentration).mean, jnp.asarray(self.total_count, self.dtype)[..., None]
        total = jnp.sum(jnp.asarray(self.concentration, self.dtype), axis=-1, keepdims=True)
        return n * p, lambda: n * p * sum_of_others(p) * (n + total) / (1.0 + total)


def _log_count_times_beta(a: Array, x: Array) -> Array:
    """`log(x B(a, x))`, which is 0 at `x = 0`."""
    some = x > 0
    x = jnp.where(some, x, 1.0)
    return jnp.where(some, jnp.log(x) + betaln(a, x), 0.0)


@pytree
class MultivariateNormal(Distribution):
    """A normal vector with mean `loc`, of shape `(..., K)`, and `covariance_matrix = scale_tril scale_tril'`.

    Give exactly one of `covariance_matrix`, `precision_matrix` (its inverse) and `scale_tril` (its Cholesky
    factor), of shape `(..., K, K)`; only the factor is kept.
    """

    loc: ArrayLike = 0.0
    covariance_matrix: ArrayLike | None = None
    precision_matrix: ArrayLike | None = None
    scale_tril: ArrayLike = None  # once made, always given
    event_dim = 1
    parameter_dims: ClassVar[dict[str, int]] = {"loc": 1, "scale_tril": 2}
    support = real_vector

    def __post_init__(self):
        given = exactly_one(self, "covariance_matrix", "precision_matrix", "scale_tril")
        Distribution.__post_init__(self)
        matrix = getattr(self, given)
        check_loc(self, given)
        if given != "scale_tril":
            matrix = jnp.asarray(matrix, jnp.result_type(matrix, 0.0))
            factor = jnp.linalg.cholesky(matrix) if given == "covariance_matrix" else factor_of_inverse(matrix)
            set_field(self, "scale_tril", factor)
            set_field(self, given, None)
            set_field(self, "was_given", {given: matrix})  # no field: it lives as long as the run that looks at it

    @property
    def event_shape(self):
        return np.shape(self.scale_tril)[-1:]

    def _sample(self, key, shape):
        noise = jax.random.normal(key, shape, self.dtype)
        return self.loc + jnp.einsum("...ij,...j->...i", jnp.asarray(self.scale_tril, self.dtype), noise)

    @property
    def location_scale(self) -> tuple[ArrayLike, ArrayLike]:
        return self.loc, self.scale_tril

    def log_prob(self, x):
        return self.log_prob_of_standard(solve_lower(self.scale_tril, x - self.loc))

    def log_prob_of_standard(self, u: Array) -> Array:
        """The log density of `loc + scale_tril u`."""
        diagonal = jnp.diagonal(jnp.asarray(self.scale_tril), axis1=-2, axis2=-1)
        half_log_det = jnp.sum(jnp.log(diagonal), axis=-1) + HALF_LOG_TWO_PI * diagonal.shape[-1]
        return -0.5 * jnp.sum(jnp.square(u), axis=-1) - half_log_det

    def _moments(self):
        return self.loc, lambda: jnp.sum(jnp.square(self.scale_tril), axis=-1)


def check_loc(distribution: Any, given: str) -> None:
    """The matrix is square, and `loc` a vector that it moves, or one number for all of it."""
    loc, shape = np.shape(distribution.loc), np.shape(getattr(distribution, given))
    if len(shape) < 2 or shape[-1] != shape[-2] or loc[-1:] not in ((), (1,), shape[-1:]):
        raise ModelError(
            f"the parameters of {type(distribution).__name__} do not fit together.",
            details=f"loc: {loc}\n{given}: {shape}",
            mend=f"Give loc the shape (..., K) and {given} the shape (..., K, K).",
        )
    if not loc:
        set_field(distribution, "loc", jnp.reshape(distribution.loc, (1,)))


def factor_of_inverse(matrix: Array) -> Array:
    """The Cholesky factor of the inverse, without forming the inverse.

    With `J` the reversal of order and `J P J = C C'`, `P^-1 = (J C^-T J) (J C^-T J)'`, whose factor is lower
    triangular.
    """
    reversed_factor = jnp.linalg.cholesky(jnp.flip(matrix, (-2, -1)))
    eye = jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)
    inverse = jax.lax.linalg.triangular_solve(reversed_factor, eye, left_side=True, lower=True)
    return jnp.flip(jnp.swapaxes(inverse, -1, -2), (-2, -1))


def solve_lower(factor: ArrayLike, x: ArrayLike) -> Array:
    """`factor^-1 x` for a lower triangular `factor` `(..., K, K)` and vectors `x` `(..., K)`.

    One factor for many vectors makes one solve with many right-hand sides.
    """
    dtype = jnp.result_type(factor, x, 0.0)
    factor, x = jnp.asarray(factor, dtype), jnp.asarray(x, dtype)
    size = factor.shape[-1]
    if factor.ndim == 2:
        x = jnp.broadcast_to(x, (*x.shape[:-1], size))
        columns = x.reshape(-1, size).T
        return jax.lax.linalg.triangular_solve(factor, columns, left_side=True, lower=True).T.reshape(x.shape)
    batch = np.broadcast_shapes(factor.shape[:-2], x.shape[:-1])
    factor = jnp.broadcast_to(factor, (*batch, size, size))
    x = jnp.broadcast_to(x, (*batch, size))[..., None]
    return jax.lax.linalg.triangular_solve(factor, x, left_side=True, lower=True)[..., 0]


@pytree
class _Correlations(Distribution):
    """What the distributions of correlations share: events of shape `(dimension, dimension)`."""

    dimension: int = static()
    concentration: ArrayLike = 1.0
    sample_method: str = static(default="onion")
    event_dim = 2

    def __post_init__(self):
        if not isinstance(self.dimension, (int, np.integer)) or self.dimension < 2:
            name = type(self).__name__
            raise ModelError(
                f"the dimension of {name} must be an int of at least 2, not {self.dimension!r}.",
                mend=f"Write {name}(3, 1.0) for 3 x 3 matrices of concentration 1.",
            )
        Distribution.__post_init__(self)

    @property
    def event_shape(self):
        return (self.dimension, self.dimension)


@pytree
class LKJCholesky(_Correlations):
    """Cholesky factors `L` of correlations `R = L L'`, with density `det(R)^(concentration - 1)` in `R`.

    In `L`: `log p = sum_i (dimension - 1 - i + 2 (concentration - 1)) log L_ii` up to a constant;
    `concentration` 1 is uniform over `R`. An event has shape `(dimension, dimension)`. There is one way of
    drawing, whatever `sample_method` says.

    Source: Lewandowski, Kurowicka and Joe (2009), the "onion" construction: row `i` below the diagonal is a
    point of the unit ball in `i` dimensions, whose squared length is
    `Beta(i / 2, concentration + (dimension - 1 - i) / 2)`.
    """

    support = corr_cholesky

    def _shapes(self) -> tuple[Array, Array]:
        """The two Beta parameters of the squared length of the rows from the second on."""
        i = jnp.arange(1, self.dimension, dtype=self.dtype)
        concentration = jnp.asarray(self.concentration, self.dtype)[..., None]
        return 0.5 * i, concentration + 0.5 * (self.dimension - 1 - i)

    def _sample(self, key, shape):
        key_length, key_direction = jax.random.split(key)
        a, b = self._shapes()
        rows = (*shape[:-2], self.dimension - 1)
        squared = jnp.exp(log_beta(key_length, a, b, rows, self.dtype)[0])
        noise = jax.random.normal(key_direction, (*rows, self.dimension - 1), self.dtype)
        noise = jnp.where(np.tri(self.dimension - 1, dtype=bool), noise, 0.0)
        direction = noise / jnp.linalg.norm(noise, axis=-1, keepdims=True)
        below = jnp.sqrt(squared)[..., None] * direction
        diagonal = jnp.sqrt(jnp.maximum(1.0 - squared, jnp.finfo(self.dtype).tiny))
        x = jnp.zeros(shape, self.dtype).at[..., 0, 0].set(1.0).at[..., 1:, :-1].set(below)
        i = np.arange(1, self.dimension)
        return x.at[..., i, i].set(diagonal)

    def log_prob(self, x):
        a, b = self._shapes()
        diagonal = jnp.diagonal(x, axis1=-2, axis2=-1)[..., 1:]
        # The integral of (1 - r^2)^(b - 1) over the unit ball in 2 a dimensions.
        log_norm = a * np.log(np.pi) + special.gammaln(b) - special.gammaln(a + b)
        return jnp.sum(2.0 * (b - 1.0) * jnp.log(diagonal) - log_norm, axis=-1)


@pytree
class LKJ(_Correlations):
    """Correlation matrices `R`, `(dimension, dimension)`, with density proportional to `det(R)^(concentration - 1)`.

    `sample_method` may be what NumPyro knows; draws are the same.
    """

    support = corr_matrix

    @property
    def _factor(self) -> LKJCholesky:
        return LKJCholesky(self.dimension, self.concentration)

    def _sample(self, key, shape):
        factor = self._factor._sample(key, shape)
        return factor @ jnp.swapaxes(factor, -1, -2)

    def log_prob(self, x):
        # |dR / dL| = prod_i L_ii^(dimension - 1 - i)
        factor = jnp.linalg.cholesky(x)
        powers = jnp.arange(self.dimension - 1, -1, -1, dtype=factor.dtype)
        log_det = jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)) @ powers
        return self._factor.log_prob(factor) - log_det

    def _moments(self):
        # Each correlation is a Beta on (-1, 1) with both shapes `concentration - 1 + dimension / 2`.
        eye = jnp.eye(self.dimension, dtype=self.dtype)
        spread = 2.0 * jnp.asarray(self.concentration, self.dtype)[..., None, None] + (self.dimension - 1)
        return eye, lambda: (1.0 - eye) / spread
