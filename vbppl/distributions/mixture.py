"""Mixtures, with the choice of the component summed out."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.aliases import Array
from vbppl.distributions.base import Distribution, ExpandedDistribution, broadcast_batch
from vbppl.distributions.discrete import Categorical
from vbppl.errors import ModelError
from vbppl.pytree import pytree


@pytree
class MixtureSameFamily(Distribution):
    """`p(x) = sum_k mixing[k] component_k(x)`, over the last batch dimension of the components.

    >>> from vbppl.distributions.real import Normal
    >>> d = MixtureSameFamily(Categorical(probs=[0.3, 0.7]), Normal([-1.0, 1.0], 0.5))
    >>> d.batch_shape, round(float(d.mean), 4)
    ((), 0.4)
    """

    mixing_distribution: Categorical
    component_distribution: Distribution
    has_rsample: ClassVar[bool] = False

    def __post_init__(self):
        if not isinstance(_without_expand(self.mixing_distribution), Categorical):
            raise ModelError(
                f"the weights of a mixture are a Categorical, not {type(self.mixing_distribution).__name__}.",
                mend="Write MixtureSameFamily(dist.Categorical(probs=weights), components).",
            )
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
        shapes = {
            "weights": self.mixing_distribution.batch_shape,
            "components": self.component_distribution.batch_shape[:-1],
        }
        return broadcast_batch("MixtureSameFamily", shapes)

    @property
    def event_shape(self):
        return self.component_distribution.event_shape

    @property
    def event_dim(self):
        return self.component_distribution.event_dim

    @property
    def is_discrete(self):
        return self.component_distribution.is_discrete

    @property
    def dtype(self):
        return self.component_distribution.dtype

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

    def _average(self, values: Array) -> Array:
        weights = jnp.exp(self._log_weights())
        weights = weights.reshape(weights.shape + (1,) * self.event_dim)
        return self._fill(jnp.sum(weights * values, axis=-1 - self.event_dim))

    @property
    def mean(self):
        return self._average(self.component_distribution.mean)

    @property
    def variance(self):
        components = self.component_distribution
        between = components.mean - jnp.expand_dims(self.mean, -1 - self.event_dim)
        return self._average(components.variance + jnp.square(between))


def _without_expand(distribution: Distribution) -> Any:
    return distribution.base_dist if isinstance(distribution, ExpandedDistribution) else distribution
