"""The distribution of a function of a random variable, where the function has an inverse."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.pytree import pytree, set_field
from vbppl.core.special import all_rightmost, sum_rightmost
from vbppl.core.types import Array, ArrayLike
from vbppl.distributions.base import Distribution, ExpandedDistribution, Wrapper, broadcast_batch, forwarded
from vbppl.distributions.constraints.base import Bijector, as_float
from vbppl.distributions.constraints.compose import Chain
from vbppl.distributions.constraints.scalar import Affine, Positive, Power, Real, SoftplusPositive, UnitInterval
from vbppl.distributions.families.finite import Categorical
from vbppl.distributions.families.real import LocationScale, core_of


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
    location_scale = Distribution.location_scale  # that of `z` says nothing yet about what becomes of it

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

    @property
    def in_coordinates(self):
        is_known = isinstance(core_of(self.base_dist), LocationScale)
        return self.base_dist if is_known and all(type(part) in _BY_NUMBER for part in self.transforms) else None

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

    @property
    def _rises(self) -> Array:
        """Whether `x` rises with `z`, a number, wherever that is."""
        rises = jnp.asarray(True)
        for part in self.transforms:
            if type(part) not in _MONOTONE or self.event_dim:
                raise self._no("cdf")
            if isinstance(part, (Affine, Power)):
                rises ^= jnp.less(part.scale if isinstance(part, Affine) else part.exponent, 0)
        return rises

    def _of_base(self, x: Any, rising: str, falling: str, below: float, above: float) -> Array:
        """What the base says of `z`, by the one name where `x` rises with it and by the other where it falls."""
        rises, (low, high), x = self._rises, _bounds(self.support), as_float(x)
        under, over = x <= low, x >= high
        z = self._chain.inverse(self.support.replaced(x, under | over))
        found = jnp.where(rises, getattr(self.base_dist, rising)(z), getattr(self.base_dist, falling)(z))
        return jnp.where(under, below, jnp.where(over, above, found))

    def cdf(self, x):
        return jnp.exp(self.log_cdf(x))

    def log_cdf(self, x):
        return self._of_base(x, "log_cdf", "log_survival", -jnp.inf, 0.0)

    def log_survival(self, x):
        return self._of_base(x, "log_survival", "log_cdf", 0.0, -jnp.inf)

    def icdf(self, q):
        q = jnp.asarray(q, self.dtype)
        return self._chain.forward(self.base_dist.icdf(jnp.where(self._rises, q, 1.0 - q)))

    def _moments(self):
        affine = [transform for transform in self.transforms if isinstance(transform, Affine)]
        if len(affine) < len(self.transforms):
            raise self._no("mean and variance")
        scale = math.prod(transform.scale for transform in affine)
        return self._chain.forward(self.base_dist.mean), lambda: self.base_dist.variance * jnp.square(scale)


_BY_NUMBER = (Real, Affine, Positive, SoftplusPositive, UnitInterval)  # from all real numbers
_MONOTONE = (*_BY_NUMBER, Power)


def _bounds(support: Any) -> tuple[ArrayLike, ArrayLike]:
    """Between which numbers the image of increasing and decreasing maps lies, as far as they say it by themselves."""
    last = support.parts[-1]
    if isinstance(last, UnitInterval):
        return 0.0, 1.0
    return (0.0, jnp.inf) if isinstance(last, (Positive, Power)) else (-jnp.inf, jnp.inf)


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


class _Mixture(Distribution):
    """What mixtures share: weights, and what their components say, along a last axis."""

    mixing_distribution: Categorical
    has_rsample = False

    def _check_weights(self) -> None:
        if not isinstance(_without_expand(self.mixing_distribution), Categorical):
            name = type(self).__name__
            raise ModelError(
                f"the weights of a mixture are a Categorical, not {type(self.mixing_distribution).__name__}.",
                mend=f"Write {name}(dist.Categorical(probs=weights), components).",
            )

    @property
    def _components(self) -> int:
        return _without_expand(self.mixing_distribution)._classes

    def _log_weights(self) -> Array:
        return _without_expand(self.mixing_distribution)._log_probs()

    def _total(self, each: Array) -> Array:
        """The logarithm of the weighted sum of exponentials."""
        each = self._log_weights() + each
        possible = jnp.any(each > -jnp.inf, axis=-1)
        # Where no component is possible the gradient of logsumexp is nan.
        total = jax.nn.logsumexp(jnp.where(possible[..., None], each, 0.0), axis=-1)
        return jnp.where(possible, total, -jnp.inf)

    def _moments_of(self, means: Array, variances: Any) -> tuple[Array, Any]:
        """Those of the components along the axis before the event's."""
        weights, at = jnp.exp(self._log_weights()), -1 - self.event_dim
        weights = weights.reshape(weights.shape + (1,) * self.event_dim)
        mean = jnp.sum(weights * means, axis=at)

        def variance():
            between = jnp.square(means - jnp.expand_dims(mean, at))
            return jnp.sum(weights * (variances() + between), axis=at)

        return mean, variance


@pytree
class MixtureSameFamily(_Mixture):
    """`p(x) = sum_k mixing[k] component_k(x)`, over the last batch dimension of the `component_distribution`.

    `mixing_distribution` is a `Categorical` with a probability for each.

    >>> from vbppl.distributions import Normal
    >>> d = MixtureSameFamily(Categorical(probs=[0.3, 0.7]), Normal([-1.0, 1.0], 0.5))
    >>> d.batch_shape, round(float(d.mean), 4)
    ((), 0.4)
    """

    mixing_distribution: Categorical
    component_distribution: Distribution

    def __post_init__(self):
        self._check_weights()
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

    def _sample(self, key, shape):
        key_index, key_draws = jax.random.split(key)
        batch, event = shape[: len(shape) - self.event_dim], shape[len(shape) - self.event_dim :]
        index = self.mixing_distribution._sample(key_index, batch)
        index = index.reshape(*batch, 1, *(1 for _ in event))
        draws = self.component_distribution._sample(key_draws, (*batch, self._components, *event))
        return jnp.take_along_axis(draws, index, axis=len(batch)).squeeze(len(batch))

    def log_prob(self, x):
        x = jnp.expand_dims(x, -1 - self.event_dim)
        return self._total(self.component_distribution.log_prob(x))

    def _moments(self):
        components = self.component_distribution
        return self._moments_of(components.mean, lambda: components.variance)

    def cdf(self, x):
        return jnp.exp(self.log_cdf(x))

    def log_cdf(self, x):
        return self._total(self.component_distribution.log_cdf(jnp.expand_dims(x, -1)))

    def log_survival(self, x):
        return self._total(self.component_distribution.log_survival(jnp.expand_dims(x, -1)))


@pytree
class MixtureGeneral(_Mixture):
    """`p(x) = sum_k mixing[k] p_k(x)`, over `component_distributions` of any families, with events of one shape.

    `mixing_distribution` is a `Categorical` with a probability for each.

    >>> from vbppl.distributions import Laplace, Normal
    >>> d = MixtureGeneral(Categorical(probs=[0.3, 0.7]), [Normal(-1.0, 1.0), Laplace(1.0, 0.5)])
    >>> round(float(d.mean), 4)
    0.4
    """

    mixing_distribution: Categorical
    component_distributions: tuple[Distribution, ...]

    def __post_init__(self):
        self._check_weights()
        parts = self.component_distributions
        if not isinstance(parts, (list, tuple)) or not all(isinstance(part, Distribution) for part in parts):
            raise ModelError(
                f"the component_distributions of MixtureGeneral are {parts!r:.60}, not a list of distributions.",
                mend="Write MixtureGeneral(dist.Categorical(probs=[0.3, 0.7]), [dist.Normal(), dist.Laplace()]).",
            )
        if len(parts) != self._components or len({part.event_shape for part in parts}) != 1:
            table = "\n".join(f"{type(part).__name__}: event {part.event_shape}" for part in parts)
            raise ModelError(
                f"there are {self._components} weights of a mixture, and {len(parts)} components.",
                details=table,
                mend="Give a weight for each component, and components with events of one shape.",
            )
        set_field(self, "component_distributions", tuple(parts))

    @property
    def batch_shape(self):
        shapes = {f"component {k}": part.batch_shape for k, part in enumerate(self.component_distributions)}
        return broadcast_batch("MixtureGeneral", {"weights": self.mixing_distribution.batch_shape, **shapes})

    @property
    def event_shape(self):
        return self.component_distributions[0].event_shape

    @property
    def event_dim(self):
        return self.component_distributions[0].event_dim

    dtype = property(lambda self: jnp.result_type(*(part.dtype for part in self.component_distributions)))
    is_discrete = property(lambda self: all(part.is_discrete for part in self.component_distributions))

    @property
    def support(self):
        supports = [part.support for part in self.component_distributions]
        if len({str(support) for support in supports}) == 1 and not any(map(jax.tree.leaves, supports)):
            return supports[0]
        widest = [support for support in supports if str(support) in ("real", "nonnegative_integer")]
        if not widest:
            raise ModelError(
                "the components of a mixture have different supports, so no one map leads onto their union.",
                details="\n".join(map(str, supports)),
                mend="Use components with one support, or one of which is real; or observe this site.",
            )
        return widest[0]

    def _each(self, what: str, x: Any) -> Array:
        return jnp.stack(jnp.broadcast_arrays(*(getattr(part, what)(x) for part in self.component_distributions)), -1)

    def _sample(self, key, shape):
        key_index, *keys = jax.random.split(key, self._components + 1)
        index = self.mixing_distribution._sample(key_index, shape[: len(shape) - self.event_dim])
        index = index.reshape(*index.shape, *(1,) * self.event_dim)
        draws = [part._sample(each, shape) for part, each in zip(self.component_distributions, keys)]
        return sum(
            (jnp.where(index == k, draw, 0) for k, draw in enumerate(draws[1:], 1)), jnp.where(index == 0, draws[0], 0)
        )

    def log_prob(self, x):
        return self._total(self._each("log_prob", x))

    def _moments(self):
        def along(name):
            each = [jnp.broadcast_to(getattr(part, name), self.shape()) for part in self.component_distributions]
            return jnp.stack(each, -1 - self.event_dim)

        return self._moments_of(along("mean"), lambda: along("variance"))

    def cdf(self, x):
        return jnp.exp(self.log_cdf(x))

    def log_cdf(self, x):
        return self._total(self._each("log_cdf", x))

    def log_survival(self, x):
        return self._total(self._each("log_survival", x))


def _without_expand(distribution: Distribution) -> Any:
    return distribution.base_dist if isinstance(distribution, ExpandedDistribution) else distribution
