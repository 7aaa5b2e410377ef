"""Draws of gamma variables and of counts, with no random number made inside of a loop.

Whoever rejects proposals until one is accepted makes random numbers in a loop, where XLA compiles their generator
anew: .5 to .8 CPU seconds for each statement of a prior, in whose draws all wait for the slowest. So of gamma variables
as many proposals are made at once as leave nothing to chance, and the first that is accepted is taken; a count is found
from one uniform number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vbppl.core.types import Array, ArrayLike, Shape

# Of proposals at least .951 are accepted, so that all are rejected at most once in 7e7 draws, and the last is taken:
# a tenth of what a uniform number in single precision, which has 2^23 values, can tell.
PROPOSALS = 6


def log_gamma(key: Array, concentration: ArrayLike, shape: Shape, dtype: Any) -> Array:
    """Draws of `log x`, `(*shape)`, where `x` has a gamma distribution of rate one.

    Marsaglia and Tsang (2000), "A simple method for generating gamma variables"; for a concentration `a` below one, of
    `a + 1` times `u^(1/a)`. Slopes in `a` are those of the quantile at which a draw lies.
    """
    a = jnp.broadcast_to(jnp.asarray(concentration, dtype), shape)
    key_normal, key_uniform, key_boost = jax.random.split(key, 3)
    proposals = PROPOSALS, *shape
    x, u = jax.random.normal(key_normal, proposals, dtype), jax.random.uniform(key_uniform, proposals, dtype)
    return _log_gamma(a, x, u, jax.random.exponential(key_boost, shape, dtype))


@jax.custom_jvp
def _log_gamma(a: Array, x: Array, u: Array, boost: Array) -> Array:
    d = jnp.where(a < 1, a + 1, a) - 1 / 3
    root = 1 + x / jnp.sqrt(9 * d[None])
    log_v = 3 * jnp.log(jnp.maximum(root, jnp.finfo(root.dtype).tiny))
    accepted = (root > 0) & (jnp.log(u) < 0.5 * x**2 + d[None] * (1 - root**3 + log_v))
    number = jax.lax.broadcasted_iota(int, accepted.shape, 0)
    first = jnp.min(jnp.where(accepted, number, PROPOSALS - 1), axis=0, keepdims=True)
    taken = jnp.sum(jnp.where(number == first, log_v, 0), axis=0)
    return jnp.log(d) + taken - jnp.where(a < 1, boost / a, 0)


@_log_gamma.defjvp
def _slope(primals: Any, tangents: Any) -> tuple[Array, Array]:
    log_x = _log_gamma(*primals)
    x = jnp.maximum(jnp.exp(log_x), jnp.finfo(log_x.dtype).tiny)
    slope = jax.lax.random_gamma_grad(primals[0], x)  # pyright: ignore[reportCallIssue] -- its stub names an argument more
    return log_x, tangents[0] * slope / x


def log_beta(key: Array, a: ArrayLike, b: ArrayLike, shape: Shape, dtype: Any) -> tuple[Array, Array]:
    """Draws of `log x` and `log (1 - x)`, where `x` has a beta distribution: the shares of two gamma variables."""
    both = jnp.stack([jnp.broadcast_to(jnp.asarray(each, dtype), shape) for each in (a, b)])
    log_x, log_y = log_gamma(key, both, both.shape, dtype)
    total = jnp.logaddexp(log_x, log_y)
    return log_x - total, log_y - total


def count(key: Array, mode: Array, ratio: Callable[[Array], Array], dtype: Any) -> Array:
    """Draws of whole numbers from 0 on, of the shape of `mode`, whose probabilities fall on both sides of it.

    By inversion from the mode outwards (Kemp 1986, "A modal method for generating binomial variables"; Kemp and Kemp
    1991, "Poisson random variate generation"), in about six sds of steps. The probabilities are made from that of the
    mode, twice: first for their sum, so that no special function is needed and none can be off.

    Args:
      mode: the likeliest count; -1 is drawn, which no count is, where it is NaN or below zero.
      ratio: that of the probability of `k + 1` to that of `k`; zero from the largest count on.
    """
    least = jnp.finfo(dtype).eps / 64
    mode = jnp.where(mode >= 0, mode, -1.0)  # a NaN would be below no end, and the search without one

    def further(step: Array, up: Array, down: Array) -> tuple[Array, Array]:
        below = mode - step
        return up * ratio(mode + step - 1), jnp.where(below < 0, 0, down / ratio(below))

    def add(state: Any) -> Any:
        step, up, down, total = state
        up, down = further(step, up, down)
        return step + 1, up, down, total + up + down

    def take(state: Any) -> Any:
        step, up, down, left, found = state
        up, down = further(step, up, down)
        between = left - up
        found = jnp.where((left >= 0) & (between < 0), mode + step, found)
        found = jnp.where((between >= 0) & (between - down < 0), mode - step, found)
        return step + 1, up, down, between - down, found

    one = jnp.ones(mode.shape, dtype)
    begun = jnp.ones((), dtype), one, one
    total = jax.lax.while_loop(lambda state: jnp.any(state[1] + state[2] > least), add, (*begun, one))[-1]
    left = jax.random.uniform(key, mode.shape, dtype) * total - 1  # after the mode's own share
    # What rounding leaves over stays at the mode.
    goes_on = (lambda state: jnp.any((state[3] >= 0) & (state[1] + state[2] > least))), take
    return jax.lax.while_loop(*goes_on, (*begun, left, mode))[-1]
