"""Some of the distributions in a batch, as a batch of their own: those of the rows whose values are missing."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.pytree import is_array, pytree, set_field, static
from vbppl.core.types import Array, ArrayLike, Shape
from vbppl.distributions.base import (
    Distribution,
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
    Wrapper,
    parameters,
)


def rows_of(dist: Any, at: Array) -> Any:
    """Those at the places `at`, `(k,)`, counted through the batch: a distribution of batch shape `(k,)`.

    Of a family the parameters are taken, so that what is known of it (its location and scale) stays known.

    >>> from vbppl.distributions import Normal
    >>> rows_of(Normal([1.0, 2.0, 3.0], 0.5), np.array([2, 0])).loc.tolist()
    [3.0, 1.0]
    """
    batch = tuple(dist.batch_shape)
    return _taken(dist, batch, len(batch), at).expand((len(at),))


def _taken(dist: Any, shape: Shape, dims: int, at: Array) -> Any:
    """The same of one whose batch broadcasts to `shape`, of which the first `dims` are counted through."""
    if isinstance(dist, ExpandedDistribution):
        return _taken(dist.base_dist, shape, dims, at)
    if isinstance(dist, Independent):
        inner, own = dist.base_dist, dist.reinterpreted_batch_ndims
        more = tuple(inner.batch_shape)[len(inner.batch_shape) - own :]
        taken = _taken(inner, (*shape, *more), dims, at)
        return Independent(taken.expand((len(at), *shape[dims:], *more)), own)
    if isinstance(dist, MaskedDistribution):
        taken = _taken(dist.base_dist, shape, dims, at)
        # A weight is of an outcome that was seen; what was not has its distribution, and adds nothing.
        return taken if dist.weight is not None else taken.mask(_part(dist.counted, 0, shape, dims, at))
    is_ours = type(dist).__module__.startswith("vbppl.distributions.families")
    given = parameters(dist) if is_ours else {"": dist}
    if not all(isinstance(value, (int, float)) or is_array(value) for value in given.values()):
        return _Rows(dist.expand(shape), at, dims)
    new = jax.tree.unflatten(jax.tree.structure(dist), jax.tree.leaves(dist))
    for name, value in given.items():
        set_field(new, name, _part(value, dist.parameter_dims.get(name, 0), shape, dims, at))
    return new


def _part(value: ArrayLike, own: int, shape: Shape, dims: int, at: Array) -> ArrayLike:
    """A parameter at these places; `own` rightmost dimensions of it are no batch. One for all stays as it is."""
    if np.ndim(value) == own or np.shape(value) == ():
        return value
    event = np.shape(value)[np.ndim(value) - own :]
    wide = jnp.broadcast_to(value, (*shape, *event))
    return wide.reshape(-1, *shape[dims:], *event)[at]


@pytree
class _Rows(Wrapper):
    """The same of any distribution: it is asked for all rows."""

    base_dist: Distribution
    at: ArrayLike
    dims: int = static()
    location_scale: ClassVar[None] = None

    @property
    def batch_shape(self):
        return (len(self.at), *self.base_dist.batch_shape[self.dims :])

    @property
    def support(self):
        support, shape = self.base_dist.support, self.base_dist.batch_shape
        bounds = [leaf for leaf in jax.tree.leaves(support) if np.ndim(leaf)]
        if bounds and support.event_dim:
            raise ModelError(
                f"the support {support} has bounds for each row, of which some cannot be taken.",
                mend="Give all rows the same support, or leave the rows out whose values are missing.",
            )
        return jax.tree.map(lambda leaf: _part(leaf, 0, shape, self.dims, self.at), support)

    def _sample(self, key, shape):
        lead = shape[: len(shape) - len(self.shape())]
        draws = self.base_dist.sample(key, lead)
        return jnp.take(self._flat(draws, len(lead), self.event_dim), self.at, axis=len(lead))

    def log_prob(self, x):
        lead = np.shape(x)[: np.ndim(x) - len(self.shape())]
        shape = (*lead, *self.base_dist.shape())
        rest = self._flat(self.base_dist.support.feasible(shape, jnp.result_type(x, 0.0)), len(lead), self.event_dim)
        whole = rest.at[(*(slice(None) for _ in lead), self.at)].set(x)
        log_prob = self.base_dist.log_prob(whole.reshape(shape))
        log_prob = jnp.broadcast_to(log_prob, (*lead, *self.base_dist.batch_shape))
        return jnp.take(self._flat(log_prob, len(lead), 0), self.at, axis=len(lead))

    def _flat(self, x: Array, lead: int, event_dim: int) -> Array:
        """With the rows along one axis, after `lead` others."""
        batch = self.base_dist.batch_shape
        more = (*batch[self.dims :], *x.shape[x.ndim - event_dim :])
        return x.reshape(*x.shape[:lead], math.prod(batch[: self.dims]), *more)

    def _moments(self):
        mean, variance = (self._flat(m, 0, self.event_dim) for m in (self.base_dist.mean, self.base_dist.variance))
        return mean[self.at], variance[self.at]
