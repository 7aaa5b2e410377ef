"""The distribution of a function of a random variable, where the function has an inverse."""

from __future__ import annotations

import jax.numpy as jnp

from vbppl.bijectors.base import Bijector
from vbppl.bijectors.chain import Chain
from vbppl.bijectors.scalar import Affine
from vbppl.distributions.base import Distribution
from vbppl.errors import ModelError
from vbppl.numerics import all_rightmost, sum_rightmost
from vbppl.pytree import pytree, set_field


@pytree
class TransformedDistribution(Distribution):
    """`x = forward(z)`, where `z` is drawn from `base_distribution`: `log p(x) = log p(z) - log |dx / dz|`.

    `transforms` is one map or several, the first one first.

    >>> from vbppl.distributions.real import Normal
    >>> from vbppl.bijectors.scalar import Positive
    >>> round(float(TransformedDistribution(Normal(0.0, 1.0), Positive()).log_prob(1.0)), 4)
    -0.9189
    """

    base_distribution: Distribution
    transforms: tuple[Bijector, ...]

    def __post_init__(self):
        transforms = (self.transforms,) if isinstance(self.transforms, Bijector) else tuple(self.transforms)
        set_field(self, "transforms", transforms)
        set_field(self, "base_distribution", _widen(self.base_distribution, self._chain))

    @property
    def _chain(self) -> Chain:
        return Chain(self.transforms)

    @property
    def base_dist(self) -> Distribution:
        """The distribution of `z`."""
        return self.base_distribution

    @property
    def batch_shape(self):
        return self.base_distribution.batch_shape

    @property
    def event_shape(self):
        return tuple(self._chain.constrained_shape(self.base_distribution.shape()))[len(self.batch_shape) :]

    @property
    def event_dim(self):
        return self.base_distribution.event_dim + self._chain.event_dim - self._chain.unconstrained_dim

    @property
    def is_discrete(self):
        return self.base_distribution.is_discrete

    @property
    def has_rsample(self):
        return self.base_distribution.has_rsample

    @property
    def dtype(self):
        return self.base_distribution.dtype

    @property
    def support(self):
        return Chain((self.base_distribution.support, *self.transforms))

    def _sample(self, key, shape):
        z = self.base_distribution._sample(key, tuple(self._chain.unconstrained_shape(shape)))
        return self._chain.forward(z)

    def log_prob(self, x):
        chain = self._chain
        x = jnp.asarray(x, jnp.result_type(x, 0.0))
        inside = chain.check(x)
        wide = inside.reshape(inside.shape + (1,) * chain.event_dim)
        z = chain.inverse(jnp.where(wide, x, chain.feasible(x.shape, x.dtype)))
        log_det = chain.forward_and_log_det(z)[1]
        dims = self.event_dim - chain.event_dim
        log_prob = self.base_distribution.log_prob(z) - sum_rightmost(log_det, dims)
        return jnp.where(all_rightmost(inside, dims), log_prob, -jnp.inf)

    @property
    def mean(self):
        self._affine("mean")
        return self._chain.forward(self.base_distribution.mean)

    @property
    def variance(self):
        variance = self.base_distribution.variance
        for transform in self._affine("variance"):
            variance = variance * jnp.square(transform.scale)
        return variance

    def _affine(self, what: str) -> tuple[Affine, ...]:
        """The transforms, where all are affine: only then moments have a closed form."""
        affine = tuple(transform for transform in self.transforms if isinstance(transform, Affine))
        if len(affine) < len(self.transforms):
            raise self._no(what)
        return affine


def _widen(base: Distribution, chain: Chain) -> Distribution:
    """`base`, over a batch that holds the transforms' parameters, with an event that holds what they mix."""
    z_shape = tuple(chain.unconstrained_shape(chain.constrained_shape(base.shape())))
    batch_dims = len(z_shape) - base.event_dim
    if z_shape[batch_dims:] != base.event_shape:
        raise ModelError(
            f"the transforms {chain} need events of shape {z_shape[batch_dims:]}.",
            details=f"{type(base).__name__}: {base.event_shape}",
            mend="Expand the base distribution before `.to_event`.",
        )
    base = base.expand(z_shape[:batch_dims])
    missing = chain.unconstrained_dim - base.event_dim
    if missing > len(base.batch_shape):
        raise ModelError(
            f"the transforms {chain} need events of {chain.unconstrained_dim} dimensions; expand the base."
        )
    return base.to_event(missing) if missing > 0 else base
