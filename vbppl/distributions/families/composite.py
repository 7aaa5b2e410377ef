"""The distribution of a function of a random variable, where the function has an inverse."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.pytree import pytree, set_field
from vbppl.core.special import all_rightmost, sum_rightmost
from vbppl.core.types import Array
from vbppl.distributions.base import Distribution, ExpandedDistribution, Wrapper, broadcast_batch, forwarded
from vbppl.distributions.constraints.base import Bijector, as_float
from vbppl.distributions.constraints.compose import Chain
from vbppl.distributions.constraints.scalar import Affine
from vbppl.distributions.families.finite import Categorical


@pytree
class TransformedDistribution(Wrapper):
    """`x = forward(z)`, where `z` is drawn from `base_distribution`: `log p(x) = log p(z) - log |dx / dz|`.

    `transforms` is one map or several, the first one first.

    >>> import vbppl.distributions as dist
    >>> round(float(TransformedDistribution(dist.Normal(0.0, 1.0), dist.transforms.ExpTransform()).log_prob(1.0)), 4)
    -0.9189
    """

    base_distribution: Distribution
    transforms: tuple[Bijector, ...]
    location_scale: ClassVar[None] = None  # that of `z` says nothing about what becomes of it

    def __post_init__(self):
        super().__post_init__()
        given = self.transforms
        transforms = tuple(given) if isinstance(given, (list, tuple)) else (given,)
        if not all(isinstance(transform, Bijector) for transform in transforms):
            raise ModelError(
                f"the transforms of TransformedDistribution are {given!r}, which are not maps.",
                mend="Give it one of dist.transforms, as ExpTransform(), or a list of them.",
            )
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
    def event_shape(self):
        return tuple(self._chain.constrained_shape(self.base_dist.shape()))[len(self.batch_shape) :]

    @property
    def event_dim(self):
        return self.base_dist.event_dim + self._chain.event_dim - self._chain.unconstrained_dim

    @property
    def support(self):
        return Chain((self.base_dist.support, *self.transforms))

    def _sample(self, key, shape):
        z = self.base_dist._sample(key, tuple(self._chain.unconstrained_shape(shape)))
        return self._chain.forward(z)

    def log_prob(self, x):
        chain = self._chain
        x = as_float(x)
        inside = chain.check(x)
        z = chain.inverse(chain.replaced(x, ~inside))
        log_det = chain.forward_and_log_det(z)[1]
        dims = self.event_dim - chain.event_dim
        log_prob = self.base_dist.log_prob(z) - sum_rightmost(log_det, dims)
        return jnp.where(all_rightmost(inside, dims), log_prob, -jnp.inf)

    def _moments(self):
        affine = [transform for transform in self.transforms if isinstance(transform, Affine)]
        if len(affine) < len(self.transforms):
            raise self._no("mean and variance")
        scale = math.prod(transform.scale for transform in affine)
        return self._chain.forward(self.base_dist.mean), lambda: self.base_dist.variance * jnp.square(scale)


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


@pytree
class MixtureSameFamily(Distribution):
    """`p(x) = sum_k mixing[k] component_k(x)`, over the last batch dimension of the components.

    >>> from vbppl.distributions import Normal
    >>> d = MixtureSameFamily(Categorical(probs=[0.3, 0.7]), Normal([-1.0, 1.0], 0.5))
    >>> d.batch_shape, round(float(d.mean), 4)
    ((), 0.4)
    """

    mixing_distribution: Categorical
    component_distribution: Distribution
    has_rsample = False

    def __post_init__(self):
        if not isinstance(_without_expand(self.mixing_distribution), Categorical):
            raise ModelError(
                f"the weights of a mixture are a Categorical, not {type(self.mixing_distribution).__name__}.",
                mend="Write MixtureSameFamily(dist.Categorical(probs=weights), components).",
            )
        if not isinstance(self.component_distribution, Distribution):
            raise ModelError(
                f"the component_distribution of a mixture is a {type(self.component_distribution).__name__}, which is "
                "not a distribution.",
                mend="Let its last batch dimension count them: dist.Normal(jnp.array([-1.0, 1.0]), 0.5).",
            )
        super().__post_init__()
        if self.component_distribution.batch_shape[-1:] != (self._components,):
            raise ModelError(
                "the weights and the components of a mixture differ in number.",
                details=f"weights: {self._components}\ncomponents: {self.component_distribution.batch_shape}",
                mend="Give the components a batch whose last dimension counts them.",
            )

    @property
    def _components(self) -> int:
        return _without_expand(self.mixing_distribution)._classes

    @property
    def batch_shape(self):
        components = self.component_distribution.batch_shape[:-1]
        shapes = {"weights": self.mixing_distribution.batch_shape, "components": components}
        return broadcast_batch("MixtureSameFamily", shapes)

    event_shape, event_dim, is_discrete, dtype = forwarded(
        "event_shape", "event_dim", "is_discrete", "dtype", to="component_distribution"
    )

    @property
    def support(self):
        support = self.component_distribution.support
        if any(np.ndim(bound) for bound in jax.tree.leaves(support)):
            raise ModelError(
                "the components of a mixture have different supports, so no one map leads onto their union.",
                mend="Use components with one support, or observe this site.",
            )
        return support

    def _log_weights(self) -> Array:
        return _without_expand(self.mixing_distribution)._log_probs()

    def _sample(self, key, shape):
        key_index, key_draws = jax.random.split(key)
        batch, event = shape[: len(shape) - self.event_dim], shape[len(shape) - self.event_dim :]
        index = self.mixing_distribution._sample(key_index, batch)
        index = index.reshape(*batch, 1, *(1 for _ in event))
        draws = self.component_distribution._sample(key_draws, (*batch, self._components, *event))
        return jnp.take_along_axis(draws, index, axis=len(batch)).squeeze(len(batch))

    def log_prob(self, x):
        x = jnp.expand_dims(x, -1 - self.event_dim)
        each = self._log_weights() + self.component_distribution.log_prob(x)
        possible = jnp.any(each > -jnp.inf, axis=-1)
        # Where no component is possible the gradient of logsumexp is nan.
        total = jax.nn.logsumexp(jnp.where(possible[..., None], each, 0.0), axis=-1)
        return jnp.where(possible, total, -jnp.inf)

    def _moments(self):
        weights, components, at = jnp.exp(self._log_weights()), self.component_distribution, -1 - self.event_dim
        weights = weights.reshape(weights.shape + (1,) * self.event_dim)
        mean = jnp.sum(weights * components.mean, axis=at)

        def variance():
            between = jnp.square(components.mean - jnp.expand_dims(mean, at))
            return jnp.sum(weights * (components.variance + between), axis=at)

        return mean, variance


def _without_expand(distribution: Distribution) -> Any:
    return distribution.base_dist if isinstance(distribution, ExpandedDistribution) else distribution
