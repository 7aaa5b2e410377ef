"""The few shared formulas whose obvious form is wrong at an edge: in value, or in gradient.

`jnp.where(ok, f(x), other)` differentiates `f` at *every* `x`, and `0 * nan` is `nan`. So a formula
that must survive an edge needs two `where`s: one that moves the argument away from the edge, and
one that puts the right value back. The gradient at the edge is then zero, which an optimizer survives.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.special
import numpy as np

from vbppl.core.types import Array, ArrayLike

HALF_LOG_TWO_PI = 0.9189385332046727
NORMAL_ENTROPY = HALF_LOG_TWO_PI + 0.5  # of a standard normal, in nats
LOG_TWO = 0.6931471805599453
TOGETHER = 4096  # numbers of which the calls of a function are made one
FEW = 8  # values of a variable that are summed one by one
KNOWN = 4.0  # concentrations up to which no term of a Gamma's density is large where its mass is
FAR = 2.0**30  # 1 + FAR^2 is FAR^2 to rounding
# `B_2k / (2k (2k - 1))`: of the series of `log Gamma` in odd powers of `1 / t`.
STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400)


def safe_log(y: ArrayLike) -> Array:
    """`log y`, which is `-inf` for `y <= 0`, with gradient zero there."""
    inside = jnp.greater(y, 0)
    return jnp.where(inside, jnp.log(jnp.where(inside, y, 1.0)), -jnp.inf)


def log_sum(x: Array, axis: int) -> Array:
    """`log sum exp`, with finite slopes where some numbers, or all of them, are minus infinity."""
    if x.shape[axis] <= FEW:
        # One by one, so that XLA computes a row's terms and their sum in one loop: 0.9 ms in the place of 6 for the
        # 100,000 rows of a mixture of three, and the slopes in 2.3 in the place of 9.
        parts = [jax.lax.index_in_dim(x, i, axis, keepdims=False) for i in range(x.shape[axis])]
        top = functools.reduce(jnp.maximum, parts)
    else:
        parts, top = None, jnp.max(x, axis=axis)
    top = jax.lax.stop_gradient(jnp.where(top == -jnp.inf, 0.0, top))
    if parts is None:
        total = jnp.sum(jnp.exp(x - jnp.expand_dims(top, axis)), axis=axis)
    else:
        total = functools.reduce(jnp.add, [jnp.exp(part - top) for part in parts])
    return jnp.where(jnp.isnan(total), total, safe_log(total)) + top


def xlogy(x: ArrayLike, y: ArrayLike) -> Array:
    """`x log y` for `y >= 0`, where `0 log 0 = 0`, with finite gradients at `y = 0`.

    At `x = 0 < y` the derivative in `x` is `log y`, as it must be: a concentration of exactly one is common.

    >>> float(xlogy(0.0, 0.0)), float(xlogy(2.0, 0.0))
    (0.0, -inf)
    """
    edge = jnp.equal(y, 0)
    return jnp.where(edge, zero_times_log(x), x * jnp.log(jnp.where(edge, 1.0, y)))


def xlog1py(x: ArrayLike, y: ArrayLike) -> Array:
    """`x log(1 + y)` for `y >= -1`, where `0 log 0 = 0`, with finite gradients at `y = -1`."""
    edge = jnp.equal(y, -1)
    return jnp.where(edge, zero_times_log(x), x * jnp.log1p(jnp.where(edge, 0.0, y)))


def zero_times_log(x: ArrayLike) -> Array:
    """`x log 0`, which is 0 at `x = 0`."""
    return jnp.where(jnp.equal(x, 0), 0.0, jnp.where(jnp.greater(x, 0), -jnp.inf, jnp.inf))


def log1mexp(x: ArrayLike) -> Array:
    """`log(1 - exp(-x))` for `x > 0`, accurate for small and for large `x`.

    Source: Maechler (2012), "Accurately computing log(1 - exp(-|a|))".

    >>> float(log1mexp(800.0)), round(float(log1mexp(1e-6)), 3)
    (-0.0, -13.816)
    """
    small = jnp.less(x, LOG_TWO)
    near = jnp.log(-jnp.expm1(-jnp.where(small, x, LOG_TWO)))
    far = jnp.log1p(-jnp.exp(-jnp.where(small, LOG_TWO, x)))
    return jnp.where(small, near, far)


def log1p_square(u: ArrayLike) -> Array:
    """`log(1 + u^2)`, where `u^2` would overflow: beyond FAR it is `2 log |u|` to rounding."""
    return jnp.log1p(jnp.square(jnp.clip(u, -FAR, FAR))) + 2.0 * jnp.log(jnp.maximum(jnp.abs(u) / FAR, 1.0))


def inverse_mills(t: Array) -> Array:
    """`phi(t) / Phi(t)` of a standard normal for `t <= -5`, by its continued fraction (Abramowitz and Stegun 26.2.14).

    >>> print(f"{inverse_mills(jnp.asarray(-10.0)):.4f}")
    10.0981
    """
    ratio = -t
    for k in range(14, 0, -1):
        ratio = k / ratio - t
    return ratio


def log_ndtr(t: ArrayLike) -> Array:
    """`log Phi(t)` of a standard normal: JAX's is known to 12 places from -20 down, and to 4 of its own at 7.

    >>> print(f"{log_ndtr(-20.0):.4f}")
    -203.9172
    """
    t = jnp.asarray(t, jnp.result_type(t, 0.0))
    far = t < -5.0
    tail = jnp.where(far, t, -5.0)
    beyond = -0.5 * jnp.square(tail) - HALF_LOG_TWO_PI - jnp.log(inverse_mills(tail))
    up = t > 0
    above = jnp.log1p(-0.5 * jax.scipy.special.erfc(jnp.where(up, t, 0.0) * np.sqrt(0.5).item()))
    below = jax.scipy.special.log_ndtr(jnp.where(far | up, 0.0, t))
    return jnp.where(far, beyond, jnp.where(up, above, below))


def betaln(a: ArrayLike, b: ArrayLike) -> Array:
    """`log B(a, b) = log Gamma(a) + log Gamma(b) - log Gamma(a + b)` to rounding: JAX's is off by 1e-7 for `b > 8`.

    With `log Gamma(t) = (t - 1/2) log t - t + log(2 pi) / 2 + delta(t)` the large terms cancel on paper (Didonato and
    Morris 1992, "Algorithm 708", section 3); of `delta` there is left `delta(a) + delta(b) - delta(a + b)`.

    >>> round(float(jnp.exp(-betaln(3.0, 4.0))), 3)
    60.0
    """
    powers = (0.5 - a) * jnp.log1p(b / a) - b * jnp.log1p(a / b) - 0.5 * jnp.log(b)
    return powers + HALF_LOG_TWO_PI + _stirling_error(a) + _stirling_error(b) - _stirling_error(a + b)


def log_gamma_divergence(c: ArrayLike, a: ArrayLike) -> Array:
    """`log Gamma(c) - log Gamma(a) - (c - a) digamma(a)` less the deviance of `c` from `a`, its large part."""
    a = jnp.asarray(a, jnp.result_type(a, c, 0.0))
    at_a, slope = jax.jvp(_stirling_error, (a,), (jnp.ones_like(a),))
    return 0.5 * deviance(1.0, c / a, jnp.log(c / a)) + _stirling_error(c) - at_a - (c - a) * slope


def _stirling_error(t: ArrayLike) -> Array:
    """`delta(t)` above for `t > 0`: by its series from 8 on (its next term is below 1e-16), else by that at `t + 8`.

    `delta(t) = delta(t + 8) - 8 + (t - 1/2) log((t + 8) / t) - log(t (t + 1) ... (t + 7) / (t + 8)^8)`. XLA writes
    `gammaln` and `digamma` out in hundreds of operations, wherever they are used; and as each division and logarithm
    is a loop of its own, to be compiled on its own, there are as few of these here as can be.
    """
    return _stirling(jnp.asarray(t, jnp.result_type(t, 0.0)))


def _parts_of_stirling(t: Array) -> tuple[Array, Array, Array, Array, Sequence[Array]]:
    """Where `t` is shifted, from what, `1 / (t + 8)` or `1 / t`, `log((t + 8) / t)`, factors of `t ... (t + 7)`."""
    small = t < 8.0
    low = jnp.where(small, t, 1.0)
    inverse = 1.0 / jnp.where(small, low + 8.0, t)
    pairs = low * (low + 7.0)  # `(t + 1) (t + 6) = t (t + 7) + 6`, and so on
    return small, low, inverse, jnp.log(low + 8.0) - jnp.log(low), (pairs + 6.0, pairs + 10.0, pairs + 12.0)


def _polynomial(coefficients: Sequence[float], x: Array) -> Array:
    return functools.reduce(lambda sum_, each: sum_ * x + each, reversed(coefficients), jnp.zeros_like(x))


@jax.custom_jvp
def _stirling(t: Array) -> Array:
    small, low, inverse, log_ratio, (one, two, three) = _parts_of_stirling(t)
    power = jnp.square(jnp.square(jnp.square(inverse)))
    shift = (low - 0.5) * log_ratio - 8.0 - jnp.log(low * (low + 7.0) * one * two * three * power)
    return _polynomial(STIRLING, jnp.square(inverse)) * inverse + jnp.where(small, shift, 0.0)


@_stirling.defjvp
def _slope_of_stirling(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (t,), (by_t,) = primals, tangents
    small, low, inverse, log_ratio, (one, two, three) = _parts_of_stirling(t)
    rising = (low + 7.0) * one * two * three  # times t: the product above
    its_slope = one * two * three + (low + 7.0) * (2.0 * low + 7.0) * (one * two + two * three + one * three)
    shift = log_ratio - 0.5 * inverse - (0.5 * rising + low * its_slope) / (low * rising)
    square = jnp.square(inverse)
    series = _polynomial([-(2 * k + 1) * each for k, each in enumerate(STIRLING)], square) * square
    return _stirling(t), (series + jnp.where(small, shift, 0.0)) * by_t


def log_factorial_error(x: Array) -> Array:
    """`log x! - (x log x - x)`, which is 0 at `x = 0`: what a sum of deviances leaves of a count's density."""
    some = jnp.greater(x, 0)
    t = jnp.where(some, x, 1.0)
    return jnp.where(some, _stirling_error(t) + HALF_LOG_TWO_PI + 0.5 * jnp.log(t), 0.0)


def deviance(x: ArrayLike, mean: ArrayLike, log_mean: ArrayLike) -> Array:
    """`x log(x / mean) + mean - x` for `x >= 0`, to rounding of itself: how far a count lies from its mean, in nats.

    With `v = (x - mean) / (x + mean)` the logarithm is `2 atanh v`, whose leading term cancels on paper (Loader 2000,
    "Fast and accurate computation of binomial probabilities"): at counts of 1e7 the terms themselves round to whole
    nats in 32 bits. Where the square of `mean` underflows, which is in its slope, its logarithm stands in.

    >>> print(f"{deviance(10_002_000.0, 1e7, jnp.log(1e7)):.4f}")
    0.2000
    """
    dtype = jnp.result_type(x, mean, log_mean, 0.0)
    return _deviance(*jnp.broadcast_arrays(*(jnp.asarray(part, dtype) for part in (x, mean, log_mean))))


def _deviance_and_logarithm(x: Array, mean: Array, log_mean: Array) -> tuple[Array, Array]:
    """The deviance, and `log(x / mean)`, which is its slope in `x`."""
    some, ordinary = x > 0, mean > 1e-15
    count, safe = jnp.where(some, x, 1.0), jnp.where(ordinary, mean, 1.0)
    v = jnp.where(ordinary, (count - safe) / (count + safe), 1.0)
    near = jnp.abs(v) < 0.1
    v = jnp.where(near, v, 0.0)
    square = jnp.square(v)
    series = square * _polynomial([1.0 / odd for odd in range(3, 19, 2)], square)  # the next term is below 1e-17
    nothing = log_mean == -jnp.inf
    far = jnp.log(count / safe) - jnp.where(ordinary | nothing, 0.0, log_mean)
    logarithm = jnp.where(near, 2.0 * v * (1.0 + series), jnp.where(nothing, jnp.inf, far))
    value = jnp.where(near, (count - mean) * v + 2.0 * count * v * series, count * logarithm + mean - count)
    return jnp.where(some, value, mean), jnp.where(some, logarithm, 0.0)


@jax.custom_jvp
def _deviance(x: Array, mean: Array, log_mean: Array) -> Array:
    return _deviance_and_logarithm(x, mean, log_mean)[0]


@_deviance.defjvp
def _slopes_of_deviance(primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]) -> Any:
    # Written down they are three products; of all that stands above JAX would make three times as much to compile.
    (x, mean, _), (by_x, by_mean, by_log_mean) = primals, tangents
    value, logarithm = _deviance_and_logarithm(*primals)
    logarithm = jnp.where(logarithm < jnp.inf, logarithm, 0.0)  # of a count that cannot be, whose tangent may be 0
    ordinary = mean > 1e-15
    in_mean = jnp.where(ordinary, (mean - x) / jnp.where(ordinary, mean, 1.0), 1.0)
    return value, logarithm * by_x + in_mean * by_mean - jnp.where(ordinary, 0.0, x) * by_log_mean


def log_split(counts: Sequence[Array], probs: Sequence[Array], logs: Sequence[Array]) -> Array:
    """`log n! - sum_k log x_k! + sum_k x_k log p_k`, of counts `x_k` with sum `n` and probabilities with sum one.

    The mean counts have the sum `n` too, so that all large terms are deviances, which do not cancel.
    """
    total = sum(counts[1:], counts[0])
    log_total = jnp.log(jnp.where(total > 0, total, 1.0))
    deviances = at_once(deviance, *((x, total * p, log_total + log_p) for x, p, log_p in zip(counts, probs, logs)))
    of_all, *of_each = at_once(log_factorial_error, (total,), *((x,) for x in counts))
    return of_all - sum(of_each) - sum(deviances)


def at_once(function: Callable[..., Any], *calls: Sequence[ArrayLike]) -> list[Any]:
    """`[function(*call) for call in calls]`, compiled once where that is what it costs: an elementwise function.

    Of a few numbers all calls are one, on the numbers of all of them side by side. Of many each is on its own, since
    there the copies would cost more. The function may return several arrays.
    """
    arguments = [jnp.broadcast_arrays(*(jnp.asarray(part) for part in call)) for call in calls]
    sizes = [call[0].size for call in arguments]
    if sum(sizes) > TOGETHER:
        return [function(*call) for call in arguments]
    found = function(*(jnp.concatenate([part.reshape(-1) for part in parts]) for parts in zip(*arguments)))
    stops = np.cumsum(sizes)[:-1].tolist()

    def apart(column: Array) -> list[Array]:
        return [part.reshape(call[0].shape) for part, call in zip(jnp.split(column, stops), arguments)]

    return list(zip(*map(apart, found))) if isinstance(found, tuple) else apart(found)


def log_gamma_term(a: ArrayLike, mean: ArrayLike, log_mean: ArrayLike) -> Array:
    """`a log mean - mean - log Gamma(a)` for `a > 0`: at `a` of 1e6 each term rounds to nats, their sum is small."""
    if isinstance(a, (int, float)) and 0.0 < a <= KNOWN:  # a number in the program's text, as of most priors
        return float(a) * jnp.asarray(log_mean) - mean - math.lgamma(a)
    return jnp.log(a) - deviance(a, mean, log_mean) - log_factorial_error(jnp.asarray(a))


def log_cosh(x: ArrayLike) -> Array:
    """`log cosh x`, for any `x`."""
    return jax.nn.softplus(-2.0 * x) + x - LOG_TWO


def sum_rightmost(x: ArrayLike, dims: int) -> Array:
    """The sum over the `dims` rightmost dimensions."""
    return x if dims == 0 else jnp.sum(x, axis=tuple(range(-dims, 0)))


# From which concentration on densities of Gamma and Beta are near enough to normal for `tails`. Series and fractions
# lose digits in proportion to it: in 32 bits JAX's are off by 0.002 at 1e4, and at 1e7 are no probabilities.
LARGE = 30.0
SMALL = 1e-4  # a tail below it is summed in logarithms; it may be the difference of rounded numbers


def tails(log_density: Callable[[Array], Array], x: ArrayLike, mean: ArrayLike, sd: ArrayLike) -> tuple[Array, Array]:
    """The probabilities below and above `x` of a density that is near to a normal, by Gauss-Legendre quadrature.

    The tail in which `x` lies is summed over nine sds, from `x` outwards: there all terms are positive.
    """
    x, mean, sd = jnp.broadcast_arrays(
        *(jnp.asarray(part, jnp.result_type(x, mean, sd, 0.0)) for part in (x, mean, sd))
    )
    nodes, weights = (jnp.asarray(part, x.dtype) for part in np.polynomial.legendre.leggauss(32))
    below = x < mean
    half = jnp.where(below, -4.5, 4.5) * sd
    points = x + half * (nodes.reshape(-1, *(1,) * x.ndim) + 1.0)
    tail = 4.5 * sd * jnp.tensordot(weights, jnp.exp(log_density(points)), 1)
    return jnp.where(below, tail, 1.0 - tail), jnp.where(below, 1.0 - tail, tail)


def log_tail(log_mass: Callable[[Array], Array], like: Array, steps: int = 0) -> Array:
    """`log` of the integral of `exp(log_mass(s))` over `s > 0`, which falls from the beginning on, and ever faster.

    By Gauss-Legendre quadrature over the first 40 nats, in logarithms: of what is too small for a number too.

    Args:
      log_mass: concave, elementwise.
      like: an array of the shape and dtype of the answer.
      steps: of Newton's towards where the 40 nats are over, for a tail that begins near its mode and straightens later.
    """

    def slope(s: Array) -> Array:
        return jax.jvp(log_mass, (s,), (jnp.ones_like(s),))[1]

    start, info = jnp.zeros_like(like), jnp.finfo(like.dtype)
    falls, bends = jax.jvp(slope, (start,), (jnp.ones_like(like),))
    falls, bends = jnp.maximum(-falls, info.tiny), jnp.maximum(-bends, 0.0)
    # Where it is straight (and its second derivative perhaps no number) the integral is closed.
    straight = ~(bends > 16.0 * info.eps * jnp.square(falls))
    length = 80.0 / (falls + jnp.sqrt(jnp.square(falls) + 80.0 * jnp.where(straight, 0.0, bends)))
    for _ in range(steps):
        left = 40.0 - (log_mass(start) - log_mass(length))
        more = jnp.maximum(left, 0.0) / jnp.maximum(-slope(length), info.tiny)
        length = length + jnp.where(jnp.isfinite(left) & jnp.isfinite(more), more, 0.0)
    length = jax.lax.stop_gradient(length)  # where to stop is no part of the answer
    nodes, weights = np.polynomial.legendre.leggauss(48)
    at = jnp.asarray(0.5 * (nodes + 1.0), like.dtype).reshape(-1, *(1,) * like.ndim)
    log_weights = jnp.asarray(np.log(0.5 * weights), like.dtype).reshape(-1, *(1,) * like.ndim)
    masses = log_mass(length * at)
    masses = jnp.where(masses < jnp.inf, masses, -jnp.inf)  # of a point that underflows to an edge
    whole = jax.scipy.special.logsumexp(masses + log_weights, axis=0) + jnp.log(length)
    return jnp.where(straight, log_mass(start) - jnp.log(falls), whole)


def log_of_tail(tail: Array, other: Array, beyond: Callable[[Array], Array]) -> Array:
    """`log tail`, where `tail + other = 1` and either may have been rounded away.

    Args:
      tail: the probability.
      other: the probability of the opposite.
      beyond: the logarithm of `tail` where it is small, given where that is.
    """
    far, large = tail < SMALL, tail > 0.5
    near = jnp.where(large, jnp.log1p(-jnp.where(large, other, 0.0)), jnp.log(jnp.where(far | large, 1.0, tail)))
    return jnp.where(far, beyond(far), near)


def sum_of_others(x: Array) -> Array:
    """For each entry of the last dimension the sum of all others: `1 - p` of one near 1, whose difference is lost."""
    nothing = jnp.zeros_like(x[..., :1])
    before = jnp.concatenate([nothing, jnp.cumsum(x[..., :-1], axis=-1)], axis=-1)
    after = jnp.concatenate([jax.lax.cumsum(x[..., 1:], axis=x.ndim - 1, reverse=True), nothing], axis=-1)
    return before + after


def all_rightmost(x: ArrayLike, dims: int) -> Array:
    """Whether all are true along the `dims` rightmost dimensions."""
    return x if dims == 0 else jnp.all(x, axis=tuple(range(-dims, 0)))
