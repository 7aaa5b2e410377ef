"""What a stochastic fit maximises: estimates of the evidence lower bound.

    ELBO = E_q[log p(y, x) - log q(x)] = log p(y) - KL(q || posterior)

Each objective turns a guide, noise and rows into one number whose gradient is unbiased.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from vbppl.aliases import Array, ArrayLike, PyTree
from vbppl.guides.base import Guide
from vbppl.pytree import pytree
from vbppl.target import Target


class Objective:
    """The protocol: `__call__` for what depends on the parameters alone, `with_state` for what remembers.

    `rows` are the rows shown of subsampled plates, by the plate's name; `step` is the step's number, from 0.
    """

    def __call__(
        self,
        guide: Guide,
        phi: PyTree,
        target: Target,
        noise: Array,
        rows: Mapping[str, Array],
        step: ArrayLike = 0,
    ) -> Array:
        """The estimate, a scalar in nats."""
        raise NotImplementedError

    def with_state(
        self,
        guide: Guide,
        phi: PyTree,
        target: Target,
        noise: Array,
        rows: Mapping[str, Array],
        step: ArrayLike,
        state: PyTree,
    ) -> tuple[Array, PyTree]:
        """The estimate, and what the next step is to be handed as `state`; unchanged by default."""
        return self(guide, phi, target, noise, rows, step), state


@pytree
class ClosedForm(Objective):
    """The bound with every closed form there is: the entropy, or divergences from the prior."""

    def __call__(
        self,
        guide: Guide,
        phi: PyTree,
        target: Target,
        noise: Array,
        rows: Mapping[str, Array],
        step: ArrayLike = 0,
    ) -> Array:
        """The estimate, a scalar in nats."""
        return jnp.mean(guide.bound(phi, target, noise, rows))


@pytree
class StickingTheLanding(Objective):
    """`log p - log q` with the gradient through `log q`'s own parameters left out.

    The term that is dropped has mean zero; without it the gradient's variance vanishes where the
    guide equals the posterior (Roeder, Wu and Duvenaud 2017, "Sticking the Landing", eq. 7).
    """

    def __call__(
        self,
        guide: Guide,
        phi: PyTree,
        target: Target,
        noise: Array,
        rows: Mapping[str, Array],
        step: ArrayLike = 0,
    ) -> Array:
        """The estimate, a scalar in nats."""
        stopped = jax.lax.stop_gradient(phi)
        return jnp.mean(guide.log_weights(phi, target, noise, rows, stopped))
