"""Minibatch gradients without most of their noise: a batch is compared with itself at a point where all rows are known.

At an anchor `a` the log density `l` of all rows and its gradient are computed once. With `T` and `T_B` the first-order
expansions around `a` of `l` and of the density `l_B` of a batch, a step maximises the bound of

    l_B(z) - T_B(z) + T(z),    T(z) = l(a) + grad l(a)^T (z - a),

which has the mean of `l_B`, because `T_B` has the mean `T`, and whose gradient is noisy only as far as the
*curvature* of batches differs, times the way from the anchor: of N rows in batches of B, seen at the width
of the posterior, about `sqrt(dim / B)` instead of `sqrt(N / B)` posterior sds (Johnson and Zhang 2013, "Accelerating
Stochastic Gradient Descent using Predictive Variance Reduction"; Baker et al. 2019, "Control Variates for
Stochastic Gradient MCMC"). It costs one more point a step, and all rows once a round.

Far from the posterior the way from an anchor is long and the comparison worse than none, so the first round has
no anchor. Latent sites of the rows themselves gain nothing by it, and learnt params would move the expansion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.pytree import pytree
from vbppl.core.types import Array, ArrayLike, PyTree
from vbppl.data.shuffle import Minibatches
from vbppl.guides.base import Guide
from vbppl.guides.gaussian import Gaussian
from vbppl.inference.stochastic.objectives import Objective
from vbppl.target.batched import evaluate
from vbppl.target.target import Target


@pytree
class ControlVariate(Objective):
    """The objective `inner` with a batch compared with itself at an anchor; the state is the anchor."""

    inner: Objective

    def __call__(
        self,
        guide: Guide,
        phi: PyTree,
        target: Target,
        noise: Array,
        rows: Mapping[str, Array],
        step: ArrayLike = 0,
    ) -> Array:
        """The estimate without an anchor."""
        return self.inner(guide, phi, target, noise, rows, step)

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
        """The estimate, and the anchor as it was: the fit moves it between rounds."""
        bound, _ = self.inner.with_state(guide, phi, target, noise, rows, step, ())
        at = state["at"]
        value, slope = jax.value_and_grad(lambda z: target.log_density(z, rows))(at)
        away = jnp.mean(guide.points(phi, target, noise, rows), axis=0) - at
        # Before there is an anchor, its share is 0.
        return bound + state["share"] * (state["value"] - value + (state["slope"] - slope) @ away), state


def can_anchor(target: Target, stream: Minibatches) -> bool:
    """Is there something to gain: rows shown in part, and latent sites that are not theirs alone?"""
    shown = {name for name, _, _ in stream.plates}
    local = any(shown & set(slot.plates) for slot in target.layout.slots)
    return bool(shown and target.dim and not local and not target.params)


def no_anchor(dim: int) -> dict[str, np.ndarray]:
    """The state before the first round has ended."""
    zeros = np.zeros(dim, jnp.result_type(float))
    return {"at": zeros, "value": zeros.sum(), "slope": zeros, "share": zeros.sum()}


def anchors(target: Target, guide: Gaussian) -> Callable[[PyTree], PyTree]:
    """What finds the anchor for the round to come: the state at the mean of a guide with parameters `phi`.

    A place where the density is not finite is no anchor.
    """

    def anchor(phi: PyTree) -> PyTree:
        at = np.asarray(guide.loc(phi))
        value, slope = evaluate(target, at[None])
        found = {"at": at, "value": value[0], "slope": slope[0], "share": np.ones((), at.dtype)}
        return found if all(np.isfinite(part).all() for part in found.values()) else no_anchor(len(at))

    return anchor
