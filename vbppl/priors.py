"""A prior over all weights of a module: a Bayesian neural network in one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from vbppl.aliases import Shape
from vbppl.errors import ModelError
from vbppl.language import Program, sample
from vbppl.modules import parts


@dataclasses.dataclass(frozen=True)
class PriorOver(Program):
    """What `prior_over` returns: stands in a `sample` statement."""

    module: Any
    prior: Any

    def inline(self) -> Any:
        """Sample each array of weights as a site of its own name, and put the module together."""
        found = parts(self.module)
        if not found.names:
            raise ModelError("the module holds no array of floating-point numbers, so there is nothing to sample.")
        _check_names(self.prior, found.names)
        drawn = tuple(sample(name, self._of(name, jnp.shape(leaf))) for name, leaf in zip(found.names, found.learnt))
        return dataclasses.replace(found, learnt=drawn).in_mode(None)

    def _of(self, name: str, shape: Shape) -> Any:
        """The prior of one array, all of it one event."""
        prior: Any = self.prior
        if isinstance(prior, Mapping):
            prior = dict(prior)[name]
        elif callable(prior) and not hasattr(prior, "log_prob"):
            prior = self.prior(name, shape)
        before = (*prior.batch_shape, *prior.event_shape)
        if before != shape:
            try:
                prior = prior.expand(shape[: len(shape) - len(prior.event_shape)])
            except (ModelError, ValueError):
                raise ModelError(
                    f"the prior of '{name}' has shape {before}, but these weights have shape {shape}.",
                    mend="Give a scalar prior, or one of the weights' own shape.",
                ) from None
        dims = len(prior.batch_shape)
        return prior.to_event(dims) if dims else prior


def prior_over(module: Any, prior: Any) -> PriorOver:
    """A prior over all weights of `module`; `sample` returns the same kind of module, holding drawn weights.

    >>> import jax, vbppl as vb, vbppl.distributions as dist
    >>> net = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)}
    >>> @vb.model
    ... def bayesian(x, y=None):
    ...     weights = vb.sample("net", vb.prior_over(net, dist.Normal(0.0, 1.0)))
    ...     vb.sample("y", dist.Normal(x @ weights["w"] + weights["b"], 0.1).to_event(), obs=y)
    >>> {name: draws.shape for name, draws in bayesian(jnp.ones((5, 3))).sample(4).items()}
    {'net/b': (4, 2), 'net/w': (4, 3, 2), 'y': (4, 5, 2)}

    Args:
      module: a pytree of arrays, or a module of Equinox or Flax NNX. It is in evaluation mode, so nothing
        is dropped out, and batch statistics stay as they are.
      prior: a distribution, for every weight; a dictionary of distributions by the arrays' names
        (`"layers/0/weight"`); or a function `(name, shape) -> distribution`.
    """
    return PriorOver(module, prior)


def _check_names(prior: Any, names: tuple[str, ...]) -> None:
    if isinstance(prior, Mapping) and set(prior) != set(names):
        raise ModelError(
            f"the dictionary of priors has {', '.join(sorted(prior))}.",
            details=f"the module's arrays: {', '.join(names)}",
            mend="Name each array of the module once; a function (name, shape) -> distribution may be shorter.",
        )
