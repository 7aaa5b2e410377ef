"""Coordinates in which a site of a location-scale family can be seen: centred, not, between, or by pseudo-data.

With a weight `w` for each site the flat vector holds `z` where

    value = (1 - w) loc + scale^(1 - w) z,

which is the value itself for `w = 1` (centred) and `(value - loc) / scale` for `w = 0` (Papaspiliopoulos,
Roberts and Sköld 2007, "A General Framework for the Parametrization of Hierarchical Models", section 2).
The weight is a number, not a property of the program, so one compiled density serves both.

Pseudo-data say how far each row is centred by itself: if of a row `y` had been observed with precision `d`, its value
would be distributed, given `loc` and `scale`, as

    value = loc + r (y - loc) + scale / sqrt(q) z,    q = 1 + d scale^2,  r = d scale^2 / q,

with `z` standard normal, for a normal prior. Where the likelihood is normal and (y, d) are the data themselves, `z` is
therefore independent of everything that `loc` and `scale` depend on, whatever their values; elsewhere nearly so.
`d = 0` is non-centred, a large `d` centred. It is a change of coordinates only: the density stays that of the model
(Tan 2021, "Use of model reparametrization to improve variational Bayes", has such an affine map). Both at once:

    value = (1 - w) loc + r (y - loc) + scale^(1 - w) / sqrt(q) z.

Of a multivariate normal the scale is its Cholesky factor `T`, with the diagonal `t`, and pseudo-data have a matrix of
precisions `D`. A vector is then distributed, given `loc` and `T`, as

    value = loc + T (m + C z),    C C' = (I + T' D T)^-1,  m = C C' T' D (y - loc),

with `C` lower triangular: `T C` goes from `T` to the Cholesky factor of `D^-1`, and at neither end turns as `T` does.
With a weight `w`, and the same in other units of the value,

    value = (1 - w) (loc + T t^-w C z) + w t^(1 - w) C z + T m.

The density of the value is asked at its standard form, straight from `z`,

    u = (value - loc) / scale = (scale^(1 - w) / sqrt(q) z - w loc) / scale + r / scale (y - loc),

where for `w = d = 0` only `z` is left. In 32 bits `loc + scale z` is `loc`, whatever `z`, where the scale is below
10^-7 of it: by a difference of such values a non-centred density would not fall with `z` at all.

What is of such a family only in the coordinates of its support, such as a log-normal in those of its logarithm, is
moved there, and goes on from there as everywhere: `value` above is then the coordinate, and so is what `y` is beside.
The density does not depend on whether a model says `LogNormal(loc, scale)`, or the exponential of a normal.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.pytree import pytree
from vbppl.core.special import sum_rightmost
from vbppl.core.types import Array, ArrayLike, Shape
from vbppl.distributions.base import Distribution, Wrapper
from vbppl.distributions.constraints.base import as_float
from vbppl.distributions.constraints.compose import Chain
from vbppl.distributions.constraints.scalar import Affine, Real, real
from vbppl.distributions.families.multivariate import MultivariateNormal, solve_lower
from vbppl.distributions.families.real import LocationScale, core_of

# Numbers in a vector, up to which it has pseudo-data: their precisions take dim^2 numbers, and dim^3 work.
MAX_VECTOR_DIM = 128


@pytree
class Parameterisation:
    """In which coordinates a site is seen: numbers among the data, so that one program serves all.

    Centred (the value itself), non-centred (`(value - loc) / scale`), between, or by pseudo-data, row by row.

    Attributes:
      weight: 1.0 if it is centred, 0.0 if not, or between.
      y: pseudo-data, of the shape of the site's slice of the flat vector; of no consequence where `d` is zero.
      d: their precisions, of the same shape; not below zero. Of vectors `(..., rank, dim)`, a factor: `D = d' d`.
    """

    weight: ArrayLike
    y: ArrayLike = 0.0
    d: ArrayLike = 0.0


def vector_dim(dist: Any) -> int:
    """How many numbers a matrix moves together: the dims of a multivariate normal; 0 where each is moved by itself."""
    core = core_of(dist)
    return core.event_shape[-1] if isinstance(core, MultivariateNormal) else 0


def precisions_shape(shape: Shape, dim: int) -> Shape:
    """The shape of `Parameterisation.d` for a slice of the flat vector of this shape, and that `vector_dim`."""
    return (*shape[:-1], dim if dim <= MAX_VECTOR_DIM else 0, dim) if dim else shape


def bijector_of(dist: Any, form: Parameterisation | None, noncentred: bool = False) -> Any:
    """The bijector from a site's slice of the flat vector onto its values: its support, where nothing is said.

    `noncentred` stands for a weight of 0 that is known when the program is compiled, and costs less.
    """
    if dist.location_scale is None or (form is None and not noncentred):
        return dist.support
    moved = _moved(dist, form)
    return moved if core_of(dist).in_coordinates is None else Chain((moved, dist.support.of_numbers()))


def moved_and_link(bijector: Any) -> tuple[Any, Any]:
    """The two parts of such a bijector: what moves and stretches, and the map from there onto the values."""
    return (bijector.parts[0], bijector.parts[1]) if isinstance(bijector, Chain) else (bijector, real)


def _moved(dist: Any, form: Parameterisation | None) -> Real:
    loc, scale = dist.location_scale
    if form is None:
        return AffineVectors(loc, jnp.asarray(scale)) if vector_dim(dist) else Affine(loc, scale)
    if vector_dim(dist):
        factor = jnp.asarray(scale)
        return MovedVectors(loc, factor, form.weight, *_pull_of_vectors(form, loc, factor))
    shape = jnp.broadcast_shapes(np.shape(loc), np.shape(scale), np.shape(form.d))
    loc, scale, log_unit = (jnp.broadcast_to(part, shape) for part in (loc, scale, jnp.log(scale)))
    weighted = form.weight * loc
    # Not the scale's square, which overflows at half of the way: zero times infinity would be no number.
    drawn = form.d * scale
    q = 1 + drawn * scale
    pulled, log_scale = drawn / q * (form.y - loc), log_unit - form.weight * log_unit - jnp.log(q) / 2
    return MovedNumbers(loc - weighted + scale * pulled, jnp.exp(log_scale), log_scale, weighted, log_unit, pulled)


@pytree
class MovedNumbers(Affine):
    """Numbers in coordinates that are data: `loc + scale z` is the value.

    Of the scale the log is known: its own logarithm would take as long to compile as the rest. The others are of the
    standard form: `w loc`, the log of the family's scale, and `r / scale (y - loc)`.
    """

    log_scale: ArrayLike
    weighted: ArrayLike
    log_unit: ArrayLike
    pulled: ArrayLike

    def forward_and_log_det(self, z):
        x = self.loc + self.scale * z
        return x, jnp.broadcast_to(self.log_scale, x.shape)

    def standard(self, z: Array) -> Array:
        """`(value - loc) / scale` of the family."""
        # Not divided by the scale, whose square in the slope is no number any more where it is small.
        return (self.scale * z - self.weighted) * jnp.exp(-self.log_unit) + self.pulled


@pytree
class AffineVectors(Real):
    """All vectors; `x = loc + factor z`, with a lower triangular factor. Log |dx/dz| is told number by number."""

    loc: ArrayLike
    factor: Array

    def forward_and_log_det(self, z):
        x = self.loc + _times(self.factor, as_float(z))
        return x, jnp.broadcast_to(self._log_diagonal, x.shape)

    def inverse(self, x):
        return solve_lower(self.factor, x - self.loc)

    @property
    def _log_diagonal(self) -> Array:
        return jnp.log(jnp.diagonal(self.factor, axis1=-2, axis2=-1))

    @property
    def matrix(self) -> Array:
        """The derivative of the value by `z`, lower triangular."""
        return self.factor


@pytree
class MovedVectors(AffineVectors):
    """Vectors in coordinates that are data: `factor` is `T`, `pull` and `shrunk` are `m` and `C`, or 0 and None."""

    weight: ArrayLike
    pull: ArrayLike
    shrunk: Array | None

    def forward_and_log_det(self, z):
        kept, narrow = self._kept_and_narrow(z)
        x = (1 - self.weight) * (self.loc + _times(self.factor, narrow)) + self.weight * kept
        log_det = (1 - self.weight) * self._log_diagonal
        if self.shrunk is not None:
            x = x + _times(self.factor, self.pull)
            log_det = log_det + jnp.log(jnp.diagonal(self.shrunk, axis1=-2, axis2=-1))
        return x, jnp.broadcast_to(log_det, x.shape)

    def inverse(self, x):
        x = x - (1 - self.weight) * self.loc
        if self.shrunk is None:
            return solve_lower(self._unshrunk, x)
        return solve_lower(self.shrunk, solve_lower(self._unshrunk, x - _times(self.factor, self.pull)))

    def standard(self, z: Array) -> Array:
        """`T^-1 (value - loc)`."""
        kept, narrow = self._kept_and_narrow(z)
        return (1 - self.weight) * narrow + self.weight * solve_lower(self.factor, kept - self.loc) + self.pull

    def _kept_and_narrow(self, z: ArrayLike) -> tuple[Array, Array]:
        """`t^(1 - w) C z` and `t^-w C z`: each is `C z` itself, to the last bit, where all depends on it."""
        z, log_diagonal = as_float(z), self._log_diagonal
        z = z if self.shrunk is None else _times(self.shrunk, z)
        return jnp.exp((1 - self.weight) * log_diagonal) * z, jnp.exp(-self.weight * log_diagonal) * z

    @property
    def _unshrunk(self) -> Array:
        """The derivative of the value by `C z`."""
        kept, narrow = (jnp.exp((power - self.weight) * self._log_diagonal)[..., None, :] for power in (1, 0))
        eye = jnp.eye(self.factor.shape[-1], dtype=self.factor.dtype)
        return (1 - self.weight) * self.factor * narrow + self.weight * kept * eye

    @property
    def matrix(self) -> Array:
        return self._unshrunk if self.shrunk is None else self._unshrunk @ self.shrunk


def _pull_of_vectors(form: Parameterisation, loc: ArrayLike, factor: Array) -> tuple[ArrayLike, Array | None]:
    """How far pseudo-data draw vectors to themselves, `m`, and narrow them, `C`; 0 and None where there are none."""
    if np.ndim(form.d) < 2 or not np.shape(form.d)[-2]:
        return 0.0, None
    d = jnp.asarray(form.d)
    drawn = d @ factor
    shrunk = _factor_of_inverse(drawn)
    away = _times(d, form.y - loc)
    return _times(shrunk, _times_transposed(shrunk, _times_transposed(drawn, away))), shrunk


@jax.custom_jvp
def _factor_of_inverse(rows: Array) -> Array:
    """The lower triangular `C` with `C C' = (I + B' B)^-1` for `rows` `B`, `(..., rank, dim)`.

    The inverse of `L` with `L' L = I + B' B`: what orthogonal columns leave of `B` over the identity, found from the
    last column to the first. `B' B` itself is never formed: where it is large and singular, a Cholesky factor of the
    sum would lose the identity to rounding.
    """
    dim = rows.shape[-1]
    eye = jnp.broadcast_to(jnp.eye(dim, dtype=rows.dtype), (*rows.shape[:-2], dim, dim))
    upper = jnp.linalg.qr(jnp.concatenate([rows, eye], axis=-2)[..., ::-1], mode="r")
    upper *= jnp.sign(jnp.diagonal(upper, axis1=-2, axis2=-1))[..., None]
    return jax.lax.linalg.triangular_solve(upper[..., ::-1, ::-1], eye, left_side=True, lower=True)


@_factor_of_inverse.defjvp
def _factor_of_inverse_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """`dC = -C P(S + S')` with `S = (B C)' dB C`, and `P` the lower triangle with half of the diagonal."""
    (rows,), (change,) = primals, tangents
    factor = _factor_of_inverse(rows)
    one_way = jnp.einsum("...ki,...kj->...ij", rows @ factor, change @ factor)
    both = one_way + one_way.swapaxes(-2, -1)
    half = jnp.asarray(np.tri(rows.shape[-1]) - np.eye(rows.shape[-1]) / 2, rows.dtype)
    return factor, -factor @ (half * both)


def _times(matrix: Array, x: Array) -> Array:
    return jnp.einsum("...ij,...j->...i", matrix, x)


def _times_transposed(matrix: Array, x: Array) -> Array:
    return jnp.einsum("...ji,...j->...i", matrix, x)


def log_prob_at(dist: Any, form: Parameterisation | None, moved: Any, z: Array, value: Array) -> Array:
    """The log density of the `value` that a slice `z` of the flat vector stands for in such coordinates.

    `moved` is the bijector that has made it.
    """
    log_det: ArrayLike = 0.0
    if isinstance(moved, Chain):
        moved, link = moved_and_link(moved)
        log_det = link.forward_and_log_det(moved.forward(z))[1]
    standard = _in_standard_units(dist, log_det)
    if standard is None:  # a family of the user's own: only it knows its density
        return dist.log_prob(value)
    return standard.log_prob(z if form is None else moved.standard(z))


@pytree
class _StandardUnits(Wrapper):
    """`base_dist`, whose density is asked at `u` in the place of `loc + scale u`."""

    base_dist: Distribution

    def log_prob(self, x):
        core: Any = self.base_dist
        if isinstance(core, MultivariateNormal):
            return core.log_prob_of_standard(x)
        standard = dataclasses.replace(core, loc=jnp.zeros_like(core.loc), scale=jnp.ones_like(core.scale))
        return standard.log_prob(x) - jnp.log(core.scale)


@pytree
class _Linked(Wrapper):
    """`base_dist`, of whose log density goes what the map onto the values adds to it, number by number."""

    base_dist: Distribution
    log_det: Array

    def log_prob(self, x):
        return self.base_dist.log_prob(x) - sum_rightmost(self.log_det, self.event_dim)


def _in_standard_units(dist: Any, log_det: ArrayLike = 0.0) -> Any:
    """The same in the wrappers around it; None where the family inside is not known to move and stretch.

    `log_det` is that of the map onto the values, for a family that is one `in_coordinates` only.
    """
    core = core_of(dist)
    if core.in_coordinates is not None:
        within = _in_standard_units(core.in_coordinates)
        inner = None if within is None else _Linked(within, log_det)
    else:
        inner = _StandardUnits(core) if isinstance(core, (LocationScale, MultivariateNormal)) else None
    if inner is None:
        return None
    return jax.tree.map(lambda part: inner if part is core else part, dist, is_leaf=lambda part: part is core)
