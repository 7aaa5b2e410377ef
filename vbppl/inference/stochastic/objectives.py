"""What a stochastic fit maximises: estimates of the evidence lower bound.

    ELBO = E_q[log p(y, x) - log q(x)] = log p(y) - KL(q || posterior)

Each objective turns a guide, noise and rows into one number whose gradient is unbiased.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError, of_kind, yes_or_no
from vbppl.core.keys import named, wrap
from vbppl.core.pytree import pytree, static
from vbppl.core.types import Array, ArrayLike, PyTree
from vbppl.guides import networks
from vbppl.guides.base import Guide, log_densities, row_wise
from vbppl.target.target import Target, in_mode


@pytree
class Inputs:
    """What one step looks at.

    Attributes:
      phi: the guide's parameters.
      target: the density, with the model's params, which shows the rows of the step (`target.rows`).
      noise: what makes the draws random.
      count: the step's number, from 0.
      state: what the step before has handed on; `()` where nothing is.
    """

    phi: PyTree
    target: Target
    noise: Array
    count: ArrayLike = 0
    state: PyTree = ()

    @property
    def rows(self) -> dict[str, Any]:
        """The rows shown of subsampled plates, by the plate's name."""
        return self.target.rows


class Objective:
    """The protocol: one method, of a guide and the inputs of a step."""

    # The draws of a step must know nothing of each other: stratified ones would bias it.
    needs_independent_draws = False
    # An average of the log density and of what does not depend on it, so that a control variate for it serves.
    is_linear = False

    def __call__(self, guide: Guide, inputs: Inputs) -> tuple[Array, PyTree]:
        """The estimate, a scalar in nats, and what the next step is to be handed as `state`."""
        raise NotImplementedError

    @property
    def warm_up_steps(self) -> int:
        """The step from which on it stays what it is: no fit should end before."""
        return 0

    def at_rest(self, guide: Guide, target: Target, state: PyTree) -> tuple[Guide, Target]:
        """The `guide` and target as they are once the fit has ended with this state; as they were by default."""
        return guide, target


@pytree
class ClosedForm(Objective):
    """The bound with every closed form there is: the entropy, or divergences from the prior."""

    is_linear = True

    def __call__(self, guide: Guide, inputs: Inputs) -> tuple[Array, PyTree]:
        return jnp.mean(guide.bound(inputs.phi, inputs.noise, inputs.target)), inputs.state


@pytree
class StickingTheLanding(Objective):
    """`log p - log q` with the gradient through `log q`'s own parameters left out.

    The term that is dropped has mean zero; without it the gradient's variance vanishes where the
    guide equals the posterior (Roeder, Wu and Duvenaud 2017, "Sticking the Landing", eq. 7).
    """

    is_linear = True

    def __call__(self, guide: Guide, inputs: Inputs) -> tuple[Array, PyTree]:
        drawn = guide.draw(inputs.phi, inputs.noise, inputs.target)
        log_p = log_densities(inputs.target, drawn.z) if drawn.log_p is None else drawn.log_p
        # Not `drawn.log_q`: through that would flow the very gradient that is to be left out.
        log_q = guide.log_prob(jax.lax.stop_gradient(inputs.phi), drawn.z, inputs.target)
        weights = jnp.exp(drawn.log_weight + math.log(len(log_p)))  # exactly 1 where all are alike
        return jnp.mean(weights * (log_p - log_q)), inputs.state


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

    def __post_init__(self) -> None:
        for name in ("warm_up", "free_bits"):
            value = getattr(self, name)
            is_number = np.ndim(value) == 0 and isinstance(value, (int, float, np.number, jax.Array)) and value >= 0
            of_kind(name, value, bool(is_number and value < math.inf), "a number, not below 0")

    @property
    def warm_up_steps(self) -> int:
        return int(self.warm_up)

    def __call__(self, guide: Guide, inputs: Inputs) -> tuple[Array, PyTree]:
        share = jnp.minimum(1.0, (inputs.count + 1) / jnp.maximum(self.warm_up, 1))
        change, costs = jnp.zeros(()), row_wise(guide).divergences(inputs.phi, inputs.noise, inputs.target)
        for cost, scale in costs.values():
            each = jnp.mean(cost, axis=(0, 1))  # over draws and rows
            free = jnp.maximum(each, self.free_bits)
            change += scale[0] * cost.shape[1] * jnp.sum(each - share * free)
        return jnp.mean(guide.bound(inputs.phi, inputs.noise, inputs.target)) + change, inputs.state


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

    def __post_init__(self) -> None:
        yes_or_no("doubly", self.doubly)

    needs_independent_draws = True

    def __call__(self, guide: Guide, inputs: Inputs) -> tuple[Array, PyTree]:
        rows, target, phi = row_wise(guide), inputs.target, inputs.phi

        def weigh(values: PyTree, phi: PyTree, params: PyTree) -> Array:
            return rows.row_log_weights(phi, values, target.replace(params=params))

        values = rows.values(phi, inputs.noise, target)
        if not self.doubly:
            return _scaled_bound(weigh(values, phi, target.params), target), inputs.state
        fixed = jax.lax.stop_gradient((values, phi, target.params))
        log_weights, pull = jax.vjp(lambda values, params: weigh(values, fixed[1], params), fixed[0], fixed[2])
        shares = jax.nn.softmax(log_weights, axis=0)
        of_values, of_params = pull(shares)
        twice = {n: slope * shares.reshape(*shares.shape, *[1] * (slope.ndim - 2)) for n, slope in of_values.items()}
        # Its value does not matter, its gradient is the one wanted.
        surrogate = _inner(twice, values) + _inner(of_params, target.params)
        scale = target.layout.only_plate().size / log_weights.shape[1]
        bound = _scaled_bound(log_weights, target) + scale * (surrogate - jax.lax.stop_gradient(surrogate))
        return bound, inputs.state


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
    def needs_independent_draws(self) -> bool:
        return self.inner.needs_independent_draws

    @property
    def warm_up_steps(self) -> int:
        return self.inner.warm_up_steps

    def __call__(self, guide: Guide, inputs: Inputs) -> tuple[Array, PyTree]:
        key, state = named(wrap(jnp.asarray(self.raw_key)), "training"), inputs.state
        raw = jax.random.key_data(jax.random.fold_in(key, inputs.count))
        guide, target = networks.in_training(guide, state["guide"], raw), in_mode(inputs.target, state["model"], raw)
        bound, _ = self.inner(guide, dataclasses.replace(inputs, target=target))
        # The same run as the bound's, so the compiler makes it once.
        if not jax.tree.leaves(state):
            return bound, state
        return bound, _of_one_form(state, networks.next_states(guide, inputs.phi, inputs.noise, target))

    def at_rest(self, guide: Guide, target: Target, state: PyTree) -> tuple[Guide, Target]:
        # In evaluation mode, with what the steps have left.
        return networks.in_training(guide, state["guide"], None), in_mode(target, state["model"], None)


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
