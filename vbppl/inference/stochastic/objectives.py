"""What a stochastic fit maximises: estimates of the evidence lower bound.

    ELBO = E_q[log p(y, x) - log q(x)] = log p(y) - KL(q || posterior)

Each objective turns a guide, noise and rows into one number whose gradient is unbiased.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.keys import named, wrap
from vbppl.core.pytree import pytree, static
from vbppl.core.types import Array, ArrayLike, PyTree
from vbppl.guides.base import Apart, Guide
from vbppl.target.target import Target


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

    @property
    def warm_up_steps(self) -> int:
        """The step from which on it stays what it is: no fit should end before."""
        return 0

    def stratification(self, guide: Guide, target: Target, draws: int, rng: np.random.Generator) -> PyTree:
        """How the draws of a step are spread: as evenly as the guide can."""
        return guide.stratification(target, draws, rng)

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


@pytree
class Elbo(Objective):
    """The bound with closed forms, whose divergence counts less at first, or not below a floor.

    With `lik = E_q[log p(y | x)]` and `kl_j` the divergence of coordinate `j` of a latent site, averaged
    over the rows shown,

        lik - min(1, (step + 1) / warm_up) * rows * sum_j max(free_bits, kl_j).

    Both keep an amortised guide from giving up coordinates before the decoder has learnt to use them
    (Sonderby et al. 2016, "Ladder Variational Autoencoders", 2.3; Kingma et al. 2016, "Inverse
    Autoregressive Flow", C.8). A posterior's own ELBO is always the plain one.

    Attributes:
      warm_up: steps until the divergence counts in full.
      free_bits: nats a coordinate and row that cost nothing more.
    """

    warm_up: ArrayLike = 0
    free_bits: ArrayLike = 0.0

    @property
    def warm_up_steps(self) -> int:
        """When the divergence counts in full."""
        return int(self.warm_up)

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
        share = jnp.minimum(1.0, (step + 1) / jnp.maximum(self.warm_up, 1))
        change = jnp.zeros(())
        for cost, scale in guide.divergences(phi, target, noise, rows).values():
            each = jnp.mean(cost, axis=(0, 1))  # over draws and rows
            free = jnp.maximum(each, self.free_bits)
            change += scale[0] * cost.shape[1] * jnp.sum(each - share * free)
        return jnp.mean(guide.bound(phi, target, noise, rows)) + change


@pytree
class ImportanceWeighted(Objective):
    """For each row the log of the average of its weights over the draws of a step, summed over rows.

        sum_rows log (1/K) sum_k w_k,    w_k = p(y, x_k) / q(x_k),    K = `draws` of `vb.Stochastic`,

    a bound on the log evidence that rises with K (Burda, Grosse and Salakhutdinov 2016, "Importance
    Weighted Autoencoders", eq. 8). The plain gradient of the guide's parameters drowns in noise as K
    grows. The doubly reparametrised one is unbiased too and does not (Tucker et al. 2019, "Doubly
    Reparameterized Gradient Estimators", eq. 8): with shares `s_k = w_k / sum w`,

        sum_k s_k^2 (d log w_k / d x_k) (d x_k / d phi),

    if the draws are independent of each other: stratified ones would bias it.

    Attributes:
      doubly: use it.
    """

    doubly: bool = static(default=True)

    def stratification(self, guide: Guide, target: Target, draws: int, rng: np.random.Generator) -> PyTree:
        """None: independent draws."""
        return Apart.of(guide.stratification(target, draws, rng))

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

        def weigh(values: PyTree, phi: PyTree, params: PyTree) -> Array:
            return guide.row_log_weights(phi, dataclasses.replace(target, params=params), values, rows)

        values = guide.values(phi, target, noise, rows)
        if not self.doubly:
            return _scaled_bound(weigh(values, phi, target.params), target)
        fixed = jax.lax.stop_gradient((values, phi, target.params))
        log_weights, pull = jax.vjp(lambda values, params: weigh(values, fixed[1], params), fixed[0], fixed[2])
        shares = jax.nn.softmax(log_weights, axis=0)
        of_values, of_params = pull(shares)
        twice = {n: slope * shares.reshape(*shares.shape, *[1] * (slope.ndim - 2)) for n, slope in of_values.items()}
        # Its value does not matter, its gradient is the one wanted.
        surrogate = _inner(twice, values) + _inner(of_params, target.params)
        scale = target.layout.only_plate().size / log_weights.shape[1]
        return _scaled_bound(log_weights, target) + scale * (surrogate - jax.lax.stop_gradient(surrogate))


def _scaled_bound(log_weights: Array, target: Target) -> Array:
    draws, rows = log_weights.shape
    each = jax.nn.logsumexp(log_weights, axis=0) - math.log(draws)
    return jnp.sum(each) * (target.layout.only_plate().size / rows)


def _inner(one: PyTree, other: PyTree) -> Array:
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), jax.lax.stop_gradient(one), other)
    return sum(jax.tree.leaves(products), jnp.zeros(()))


@pytree
class InTraining(Objective):
    """`inner`, with modules in training mode: their random streams begun anew at each step, their states carried.

    The state is `{"guide": ..., "model": ...}`, what steps have left in the modules of each.
    """

    inner: Objective
    raw_key: ArrayLike

    @property
    def warm_up_steps(self) -> int:
        """When the inner one does."""
        return self.inner.warm_up_steps

    def stratification(self, guide: Guide, target: Target, draws: int, rng: np.random.Generator) -> PyTree:
        """The inner one's."""
        return self.inner.stratification(guide, target, draws, rng)

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
        """The estimate, and what the step leaves in the modules."""
        raw = jax.random.key_data(jax.random.fold_in(named(wrap(jnp.asarray(self.raw_key)), "training"), step))
        guide, target = guide.in_training(state["guide"], raw), target.training(state["model"], raw)
        bound = self.inner(guide, phi, target, noise, rows, step)
        # The same run as the bound's, so the compiler makes it once.
        if not jax.tree.leaves(state):
            return bound, state
        return bound, _of_one_form(state, guide.next_states(phi, target, noise, rows))


def _of_one_form(found: PyTree, left: PyTree) -> PyTree:
    """The states that a step has `left`, after checking that their arrays have the shapes of those it `found`."""
    for part, states in found.items():
        for name, before in states.items():
            then, now = ([jnp.shape(leaf) for leaf in state] for state in (before, left[part][name]))
            if then != now:
                raise ModelError(
                    "a step left arrays of other shapes in it than it found.",
                    site=name,
                    details=f"found: {then}\nleft: {now}",
                    mend="Put all that it will hold into `init`, and keep the shapes.",
                )
    return jax.tree.map(lambda before, after: after.astype(before.dtype), found, left)
