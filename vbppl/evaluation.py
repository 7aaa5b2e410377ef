"""The one compiled evaluation of a target: its log density and gradient at many points.

Everything outside the stochastic loop (start, fit on fixed draws, bound, report card) asks this one
program, always with the same shapes, so the model is traced and compiled once.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.aliases import Array
from vbppl.target import Target

BLOCK = 32  # points that are evaluated side by side
CALL = 512  # points that one call of the compiled evaluation can take
HEAVY = 10**6  # numbers in the data, above which intermediate values of a whole block fill the memory


def evaluate(target: Target, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The log density and its gradient at any number of points `z`, `(points, dim)`, on the host.

    Returns:
      log densities `(points,)` and gradients `(points, dim)`.
    """
    z = np.asarray(z, jnp.result_type(float))
    side_by_side = BLOCK // 8 if target.data_size > HEAVY else BLOCK
    calls = []
    for start in range(0, len(z), CALL):
        part = z[start : start + CALL]
        padded = np.concatenate([part, np.broadcast_to(part[-1], (CALL - len(part), target.dim))])
        blocks = np.int32(-(-len(part) // side_by_side))
        log_p, gradient = _value_and_gradient(target, padded, blocks, side_by_side)
        calls.append((np.asarray(log_p)[: len(part)], np.asarray(gradient)[: len(part)]))
    log_ps, gradients = zip(*calls)
    return np.concatenate(log_ps), np.concatenate(gradients)


@functools.partial(jax.jit, static_argnames="side_by_side")
def _value_and_gradient(target: Target, z: Array, blocks: Array, side_by_side: int) -> tuple[Array, Array]:
    """The first `blocks` blocks of `z`, `(CALL, dim)`: how many is data, so that one program serves all numbers."""
    evaluate_block = jax.vmap(jax.value_and_grad(target.log_density))

    def body(i: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        at = i * side_by_side
        log_p, gradient = evaluate_block(jax.lax.dynamic_slice_in_dim(z, at, side_by_side))
        update = jax.lax.dynamic_update_slice_in_dim
        return update(found[0], log_p, at, 0), update(found[1], gradient, at, 0)

    return jax.lax.fori_loop(0, blocks, body, (jnp.zeros_like(z, shape=(CALL,)), jnp.zeros_like(z)))
