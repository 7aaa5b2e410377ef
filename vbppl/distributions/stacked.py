"""The distributions of all steps of a chain, one beside the other along a leading axis.

A step's distribution is a pytree, so those of all steps are one pytree whose arrays have one more axis, in front. What
does not change from step to step is held once. Every question is put to each step by itself: `jax.vmap` takes it there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vbppl.core.pytree import pytree, static
from vbppl.core.types import Shape
from vbppl.distributions.base import Distribution, Wrapper
from vbppl.distributions.constraints.base import Bijector


@pytree
class Stacked(Distribution):
    """`length` distributions, independent given what they depend on; the first batch axis tells them apart.

    >>> from vbppl.distributions import Normal
    >>> walk = Stacked(Normal(jnp.zeros(5), 1.0), (0, None), 5, (), ())
    >>> walk.batch_shape, walk.log_prob(jnp.ones(5)).shape
    ((5,), (5,))

    Attributes:
      base_dist: of one step, but for its arrays.
      axes: for each of its leaves 0 where it has the leading axis, None where it is that of every step.
      step_batch, step_event: the shapes of one step.
    """

    base_dist: Distribution
    axes: tuple[int | None, ...] = static()
    length: int = static()
    step_batch: Shape = static()
    step_event: Shape = static()

    def __post_init__(self) -> None:
        pass  # the arrays of a step's distribution have been looked at when it was made

    def each(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """The answer of each step's distribution, `question(distribution, *arguments)`, along the leading axis."""
        leaves, structure = jax.tree.flatten(self.base_dist)

        def ask(leaves: Sequence[Any], *arguments: Any) -> Any:
            return question(structure.unflatten(leaves), *arguments)

        in_axes = (list(self.axes), *(0 for _ in arguments))
        return jax.vmap(ask, in_axes, axis_size=self.length)(leaves, *arguments)

    @property
    def first(self) -> Distribution:
        """That of the first step, which is asked what is the same for all: arrays of all steps need not broadcast."""
        leaves, structure = jax.tree.flatten(self.base_dist)
        return structure.unflatten([leaf if axis is None else leaf[0] for leaf, axis in zip(leaves, self.axes)])

    @property
    def batch_shape(self):
        return (self.length, *self.step_batch)

    @property
    def event_shape(self):
        return self.step_event

    @property
    def event_dim(self):
        return len(self.step_event)

    @property
    def support(self):
        return EachSupport(self)

    @property
    def is_discrete(self):
        return self.first.is_discrete

    @property
    def has_rsample(self):
        return self.first.has_rsample

    @property
    def location_scale(self):
        one = core = first_step(self)
        while isinstance(core, Wrapper):
            core = core.base_dist
        if one.location_scale is None or core.event_dim:  # vectors have a matrix at each step, of which nobody knows
            return None
        return self.each(lambda d: tuple(jnp.broadcast_to(part, d.shape()) for part in d.location_scale))

    @property
    def dtype(self):
        return self.first.dtype

    def sample(self, key, sample_shape=()):
        draws = jax.vmap(lambda key: self.each(lambda d, k: d.sample(k), jax.random.split(key, self.length)))
        count = 1
        for size in sample_shape:
            count *= size
        return draws(jax.random.split(key, count)).reshape(*sample_shape, *self.shape())

    def log_prob(self, x):
        return self.each(lambda d, x: jnp.broadcast_to(d.log_prob(x), d.batch_shape), jnp.asarray(x))

    @property
    def mean(self):
        return self.each(lambda d: d.mean)

    @property
    def variance(self):
        return self.each(lambda d: d.variance)


@pytree
class EachSupport(Bijector):
    """The supports of the steps of a chain, each asked by itself."""

    chain: Stacked

    @property
    def event_dim(self):
        return len(self.chain.step_event)

    @property
    def unconstrained_dim(self):
        return self.chain.first.support.unconstrained_dim

    @property
    def is_discrete(self):
        return self.chain.is_discrete

    def forward_and_log_det(self, z):
        return self.chain.each(lambda d, z: d.support.forward_and_log_det(z), jnp.asarray(z))

    def inverse(self, x):
        return self.chain.each(lambda d, x: d.support.inverse(x), jnp.asarray(x))

    def check(self, x):
        return self.chain.each(lambda d, x: d.support.check(x), jnp.asarray(x))

    def unconstrained_shape(self, x_shape):
        return (x_shape[0], *self.chain.first.support.unconstrained_shape(x_shape[1:]))

    def constrained_shape(self, z_shape):
        shape = jax.eval_shape(self.forward, jnp.zeros(tuple(z_shape))).shape
        return tuple(shape)

    def describe(self):
        said = " at each step"
        return str(self.chain.first.support).removesuffix(said) + said


def first_step(dist: Any) -> Distribution:
    """The distribution of the first step, of scans in scans too."""
    while isinstance(dist, Stacked):
        dist = dist.first
    return dist
