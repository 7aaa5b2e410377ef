"""Minibatch gradients without most of their noise: a batch is compared with itself at a point where all rows are known.

At an anchor `a` the log density `l` of all rows and its gradient are computed once. With `T` and `T_B` the first-order
expansions around `a` of `l` and of the density `l_B` of a batch, a step maximises the bound of

    l_B(z) - T_B(z) + T(z),    T(z) = l(a) + grad l(a)^T (z - a),

which has the mean of `l_B`, because `T_B` has the mean `T`, and whose gradient is noisy only as far as the
*curvature* of batches differs, times the way from the anchor: of N rows in batches of B, seen at the width
of the posterior, about `sqrt(dim / B)` instead of `sqrt(N / B)` posterior sds (Johnson and Zhang 2013, "Accelerating
Stochastic Gradient Descent using Predictive Variance Reduction"; Baker et al. 2019, "Control Variates for
Stochastic Gradient MCMC"). It costs one more point a step, and all rows once a phase.

Far from the posterior the way from an anchor is long and the comparison worse than none, so at first there is none.
Latent sites of the rows themselves gain nothing by it, and learnt params would move the expansion.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.pytree import pytree
from vbppl.core.types import Array, PyTree
from vbppl.data.shuffle import Minibatches
from vbppl.guides.base import Guide
from vbppl.inference.stochastic.objectives import Inputs, Objective
from vbppl.target.batched import evaluate
from vbppl.target.target import Target


@pytree
class ControlVariate(Objective):
    """The objective `inner` with a batch compared with itself at an anchor; the state is the anchor.

    It is handed on as it was: the fit renews it at the end of a phase, and within long ones.
    """

    inner: Objective

    def __call__(self, guide: Guide, inputs: Inputs) -> tuple[Array, PyTree]:
        bound, _ = self.inner(guide, inputs)
        anchor = inputs.state
        value, slope = jax.value_and_grad(inputs.target.log_density)(anchor["at"])
        away = jnp.mean(guide.draw(inputs.phi, inputs.noise, inputs.target).z, axis=0) - anchor["at"]
        # `T - T_B` at the mean of the draws, since both are linear. Before there is an anchor, its share is 0.
        change = anchor["value"] - value + (anchor["slope"] - slope) @ away
        return bound + anchor["share"] * change, anchor


def can_anchor(target: Target, guide: Guide, minibatches: Minibatches) -> bool:
    """Is there something to gain: rows shown in part, and latent sites that are not theirs alone?"""
    shown = {name for name, _, _ in minibatches.plates}
    local = any(shown & set(slot.plates) for slot in target.layout.slots)
    is_flat = not guide.noise(target).is_of_rows
    return bool(shown and target.dim and is_flat and not local and not target.params)


def no_anchor(dim: int) -> dict[str, np.ndarray]:
    """The state before the first round has ended."""
    zeros = np.zeros(dim, jnp.result_type(float))
    return {"at": zeros, "value": zeros.sum(), "slope": zeros, "share": zeros.sum()}


def anchor_at(guide: Guide, phi: PyTree, target: Target) -> dict[str, np.ndarray]:
    """The state at the mean of the guide; a place where the density is not finite is no anchor."""
    at = np.asarray(guide.frame(phi, target)[0])
    value, slope = evaluate(target, at[None])
    found = {"at": at, "value": value[0], "slope": slope[0], "share": np.ones((), at.dtype)}
    return found if all(np.isfinite(part).all() for part in found.values()) else no_anchor(len(at))
