"""Distributions of one number between bounds."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.special as special
import numpy as np

from vbppl.core.pytree import pytree
from vbppl.core.special import (
    HALF_LOG_TWO_PI,
    LARGE,
    betaln,
    inverse_mills,
    log1mexp,
    log_of_tail,
    log_split,
    log_tail,
    tails,
    zero_times_log,
)
from vbppl.core.types import Array, ArrayLike
from vbppl.distributions.base import Distribution
from vbppl.distributions.constraints.scalar import greater_than_eq, interval, less_than_eq, real, unit_interval
from vbppl.distributions.samplers import log_beta

TAIL = -5.0  # below it a normal's tail is best seen beside its density


@pytree
class Uniform(Distribution):
    """`p(x) = 1 / (high - low)` between `low` and `high`."""

    low: ArrayLike = 0.0
    high: ArrayLike = 1.0

    @property
    def support(self):
        return interval(self.low, self.high)

    def _sample(self, key, shape):
        return self.low + (self.high - self.low) * jax.random.uniform(key, shape, self.dtype)

    def _log_density(self, x):
        return -jnp.log(self.high - self.low)

    def _moments(self):
        return 0.5 * (self.low + self.high), jnp.square(self.high - self.low) / 12.0

    def cdf(self, x):
        return jnp.clip((x - self.low) / (self.high - self.low), 0.0, 1.0)

    def icdf(self, q):
        return self.low + (self.high - self.low) * q


@pytree
class Beta(Distribution):
    """`p(x) = x^(concentration1 - 1) (1 - x)^(concentration0 - 1) / B(concentration1, concentration0)`."""

    concentration1: ArrayLike
    concentration0: ArrayLike
    support = unit_interval

    def _sample(self, key, shape):
        a, b = (jnp.asarray(value, self.dtype) for value in (self.concentration1, self.concentration0))
        info = jnp.finfo(self.dtype)
        return jnp.clip(jnp.exp(log_beta(key, a, b, shape, self.dtype)[0]), info.tiny, 1 - info.epsneg)

    def _log_density(self, x):
        a, b = (jnp.asarray(value, self.dtype) for value in (self.concentration1, self.concentration0))
        first, last = jnp.equal(x, 0), jnp.equal(x, 1)
        inside = jnp.where(first | last, 0.5, x)
        logs = jnp.log(inside), jnp.log1p(-inside)
        # Gamma(t) = t! / t, so this is a split of `a + b`, whose large terms cancel on paper.
        split = log_split((a, b), (inside, 1.0 - inside), logs) + jnp.log(a / (a + b)) + jnp.log(b)
        # At an edge the density is finite for a concentration of one alone, and is then the other one.
        powers = jnp.where(first, zero_times_log(a - 1.0), zero_times_log(b - 1.0))
        return jnp.where(first | last, powers + jnp.log(jnp.where(first, b, a)), split - sum(logs))

    def _moments(self):
        a, b, total = self.concentration1, self.concentration0, self.concentration1 + self.concentration0
        return a / total, a * b / (jnp.square(total) * (total + 1.0))

    def cdf(self, x):
        # Seen from the end at which the density lies, where numbers are dense.
        a, b = (jnp.asarray(value, self.dtype) for value in (self.concentration1, self.concentration0))
        x, flip = jnp.clip(x, 0.0, 1.0), a > b
        a, b, x = jnp.where(flip, b, a), jnp.where(flip, a, b), jnp.where(flip, 1.0 - x, x)
        large, wide = a > LARGE, Beta(jnp.maximum(a, LARGE), jnp.maximum(b, LARGE))
        # Beside a large `b` it is a Gamma's but for `(a / b)^2` (Wise 1950, "The incomplete beta function as a contour
        # integral"), where that is less than what JAX's own loses.
        far = ~large & (jnp.finfo(self.dtype).eps * b**3 > 0.1 * a**2.5)
        near = ~large & ~far
        as_gamma = special.gammainc(jnp.where(far, a, 1.0), -(b + 0.5 * (a - 1.0)) * jnp.log1p(-jnp.where(far, x, 0.5)))
        own = special.betainc(jnp.where(near, a, 1.0), jnp.where(near, b, 1.0), jnp.where(near, x, 0.5))
        below = tails(wide.log_prob, x, wide.mean, jnp.sqrt(wide.variance))[0]
        found = jnp.where(large, below, jnp.where(far, as_gamma, own))
        return jnp.where(flip, 1.0 - found, found)

    def log_cdf(self, x):
        return log_beta_tail(self.concentration1, self.concentration0, x, 1.0 - x)

    def log_survival(self, x):
        return log_beta_tail(self.concentration0, self.concentration1, 1.0 - x, x)


def log_beta_tail(a: ArrayLike, b: ArrayLike, x: ArrayLike, rest: ArrayLike) -> Array:
    """The logarithm of the probability of at most `x = 1 - rest` of a `Beta(a, b)`; each is known where it is small."""
    dtype = Beta(a, b).dtype
    return _log_beta_tail(*jnp.broadcast_arrays(*(jnp.asarray(part, dtype) for part in (a, b, x, rest))))


@jax.custom_jvp
def _log_beta_tail(a: Array, b: Array, x: Array, rest: Array) -> Array:
    upper = x > 0.5  # seen from the end next to which `x` lies
    near = Beta(jnp.where(upper, b, a), jnp.where(upper, a, b)).cdf(jnp.where(upper, rest, x))
    beyond = lambda far: _log_beta_beyond(a, b, x, rest, far)  # noqa: E731
    return log_of_tail(jnp.where(upper, 1.0 - near, near), jnp.where(upper, near, 1.0 - near), beyond)


@_log_beta_tail.defjvp
def _slopes(primals, tangents):
    # JAX's own incomplete beta has none in the concentrations: of the smaller tail they are those of its quadrature.
    a, b, x, rest = primals
    found, other = _log_beta_tail(a, b, x, rest), _log_beta_tail(b, a, rest, x)
    small, inside = found < other, jnp.isfinite(found) & jnp.isfinite(other)

    def smaller(*parts: Array) -> Array:
        a, b, x, rest = parts
        (a, b), (x, rest) = ((jnp.where(small, u, v), jnp.where(small, v, u)) for u, v in ((a, b), (x, rest)))
        return _log_beta_beyond(a, b, x, rest, inside, steps=2)

    slope = jax.jvp(smaller, primals, tangents)[1]
    share = jnp.where(small, 1.0, -jnp.exp(jnp.where(inside, other - found, 0.0)))
    return found, jnp.where(inside, share * slope, 0.0)


def _log_beta_beyond(a: Array, b: Array, x: Array, rest: Array, far: Array, steps: int = 0) -> Array:
    """`log_beta_tail` by quadrature, where `far`."""
    inside = far & (x > 0) & (rest > 0)
    density = Beta(jnp.where(inside, a, 2.0), jnp.where(inside, b, 2.0))
    odds = jnp.where(inside, x, 0.1) / jnp.where(inside, rest, 0.9)

    def log_mass(s: Array) -> Array:  # per logit of x, in which it is concave, whatever the concentrations
        falling = odds * jnp.exp(-s)
        return density.log_prob(falling / (1.0 + falling)) + jnp.log(odds) - s - 2.0 * jnp.log1p(falling)

    return jnp.where(inside, log_tail(log_mass, odds, steps), jnp.where(x > 0, 0.0, -jnp.inf))


@pytree
class Kumaraswamy(Distribution):
    """The distribution on (0, 1) whose `cdf` is `1 - (1 - x^concentration1)^concentration0`."""

    concentration1: ArrayLike
    concentration0: ArrayLike
    support = unit_interval

    def _sample(self, key, shape):
        info = jnp.finfo(self.dtype)
        return jnp.clip(
            self.icdf(jax.random.uniform(key, shape, self.dtype, minval=info.tiny)), info.tiny, 1 - info.epsneg
        )

    def _log_density(self, x):
        a, b = self.concentration1, self.concentration0
        edge = jnp.equal(x, 0) | jnp.equal(x, 1)
        log_x = jnp.log(jnp.where(edge, 0.5, x))
        inside = jnp.log(a) + jnp.log(b) + (a - 1.0) * log_x + (b - 1.0) * log1mexp(-a * log_x)
        # As of a Beta, at an edge it is finite for a concentration of one alone.
        power = jnp.where(x < 0.5, zero_times_log(a - 1.0), zero_times_log(b - 1.0))
        return jnp.where(edge, power + jnp.log(a) + jnp.log(b), inside)

    def _moments(self):
        t, b = 1.0 / jnp.asarray(self.concentration1, self.dtype), jnp.asarray(self.concentration0, self.dtype)
        mean = b * jnp.exp(betaln(1.0 + t, b))
        return mean, lambda: b * jnp.exp(betaln(1.0 + 2.0 * t, b)) - jnp.square(mean)

    def cdf(self, x):
        return -jnp.expm1(self.log_survival(x))

    def log_cdf(self, x):
        above, some = -self.log_survival(x), x > 0
        small = jnp.log(self.concentration0) + self.concentration1 * jnp.log(jnp.where(some, x, 1.0))
        near = log1mexp(jnp.where(above > 0, above, 1.0))
        return jnp.where(some, jnp.where(small < -30.0, small, near), -jnp.inf)  # it may be smaller than any number

    def log_survival(self, x):
        inside = (x > 0) & (x < 1)
        log_x = jnp.log(jnp.where(inside, x, 0.5))
        return jnp.where(
            inside, self.concentration0 * log1mexp(-self.concentration1 * log_x), jnp.where(x > 0, -jnp.inf, 0.0)
        )

    def icdf(self, q):
        # (1 - (1 - q)^(1 / b))^(1 / a)
        rest = -jnp.log1p(-jnp.asarray(q, self.dtype)) / self.concentration0
        return jnp.exp(log1mexp(rest) / self.concentration1)


@pytree
class VonMises(Distribution):
    """An angle: `p(x) = exp(concentration cos(x - loc)) / (2 pi I_0(concentration))` between -pi and pi.

    Its mean is that of a direction, `loc`, and its variance the circular one, `1 - I_1 / I_0`.
    """

    loc: ArrayLike
    concentration: ArrayLike
    support = interval(-np.pi, np.pi)
    has_rsample = False

    def _log_density(self, x):
        k = jnp.asarray(self.concentration, self.dtype)
        # cos - 1, which of a large concentration is all that counts
        return -2.0 * k * jnp.square(jnp.sin(0.5 * (x - self.loc))) - 2.0 * HALF_LOG_TWO_PI - _log_i0e(k)

    def _moments(self):
        k = jnp.asarray(self.concentration, self.dtype)
        return self.loc, _circular_variance(k)

    def _sample(self, key, shape):
        """By rejection from a normal as wide as `sin^2(d / 2) >= (d / pi)^2` allows, cut off at -pi and pi."""
        k = jnp.broadcast_to(jnp.asarray(self.concentration, self.dtype), shape)
        flat = k < 1e-3  # where the normal has no end in sight
        scale = 0.5 * np.pi / jnp.sqrt(jnp.where(flat, 1.0, k))
        mass = special.erf(jnp.sqrt(2.0 * jnp.where(flat, 1.0, k)))

        def propose(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            key, found, done = carry
            key, key_place, key_accept = jax.random.split(key, 3)
            v = jax.random.uniform(key_place, shape, k.dtype, -1.0, 1.0)
            d = jnp.where(flat, np.pi * v, scale * 2**0.5 * special.erfinv(v * mass))
            excess = jnp.square(jnp.sin(0.5 * d)) - jnp.where(flat, 0.0, jnp.square(d / np.pi))
            accepted = jnp.log(jax.random.uniform(key_accept, shape, k.dtype)) < -2.0 * k * excess
            return key, jnp.where(done, found, d), done | accepted

        start = key, jnp.zeros(shape, k.dtype), jnp.zeros(shape, bool)
        angle = self.loc + jax.lax.while_loop(lambda carry: ~jnp.all(carry[2]), propose, start)[1]
        turned = angle - 2.0 * np.pi * jnp.round(angle / (2.0 * np.pi))
        return jnp.clip(turned, -jnp.asarray(np.pi, k.dtype), jnp.asarray(np.pi, k.dtype))


# The coefficients of I_1(k) / I_0(k) in powers of 1 / k, by Riccati's equation r' = 1 - r / k - r^2.
RATIO = [1.0]
for _m in range(1, 15):
    RATIO.append(0.5 * ((_m - 2) * RATIO[-1] - sum(RATIO[i] * RATIO[_m - i] for i in range(1, _m))))


def _circular_variance(k: Array) -> Array:
    """`1 - I_1(k) / I_0(k)`, of a large concentration by its series: the difference is lost there."""
    t, series = 1.0 / jnp.maximum(k, 50.0), 0.0
    for coefficient in reversed(RATIO[1:]):
        series = t * (series - coefficient)
    near = jnp.minimum(k, 50.0)
    return jnp.where(k > 50.0, series, 1.0 - special.i1e(near) / special.i0e(near))


@jax.custom_jvp
def _log_i0e(k: Array) -> Array:
    return jnp.log(special.i0e(k))


@_log_i0e.defjvp
def _slope_of_log_i0e(primals, tangents):
    return _log_i0e(*primals), -_circular_variance(*primals) * tangents[0]


@pytree
class TruncatedNormal(Distribution):
    """A normal with `loc` and `scale`, given that it lies between `low` and `high` (`None`: no bound)."""

    loc: ArrayLike = 0.0
    scale: ArrayLike = 1.0
    low: ArrayLike | None = None
    high: ArrayLike | None = None

    @property
    def support(self):
        if self.high is None:
            return real if self.low is None else greater_than_eq(self.low)
        return less_than_eq(self.high) if self.low is None else interval(self.low, self.high)

    def _window(self) -> _Window:
        low, high = -jnp.inf if self.low is None else self.low, jnp.inf if self.high is None else self.high

        def standard(bound: ArrayLike, origin: ArrayLike) -> Array:
            """`(bound - origin) / scale`; a gradient must not meet the infinite one."""
            finite = jnp.isfinite(bound) & jnp.isfinite(origin)
            away = jnp.where(finite, bound, 0.0) - jnp.where(finite, origin, 0.0)
            return jnp.where(finite, away / self.scale, bound - origin)

        a, b, width = standard(low, self.loc), standard(high, self.loc), standard(high, low)
        right = jnp.greater(low, self.loc)
        side = jnp.where(right, -1.0, 1.0)
        a, b = jnp.where(right, -b, a), jnp.where(right, -a, b)
        edge = jnp.where(right, low, high)
        return _Window(a, b, jnp.where(b > 0, self.loc, edge), edge, side, width)

    def _sample(self, key, shape):
        window = self._window()
        # Never 0, whose quantile is minus infinity where the window has no lower end.
        u = jnp.maximum(jax.random.uniform(key, shape, self.dtype), jnp.finfo(self.dtype).tiny)
        far = window.b < TAIL
        below, above = special.ndtr(window.a), special.ndtr(window.b)
        # Each branch gets an argument that it can bear where the other is taken, lest gradients be NaN.
        near = self.loc + self.scale * window.side * special.ndtri(jnp.where(far, 0.5, below + u * (above - below)))
        ratio = jnp.exp(-window.gap())
        # A window so narrow that the quantiles round to a few values is flat but for its slope.
        narrow = window.width * (1.0 + jnp.abs(window.b)) < jnp.finfo(self.dtype).eps ** (1 / 3)
        width = jnp.where(narrow, window.width, 0.0)
        down = width * u * (1.0 + 0.5 * jnp.where(narrow, window.b, 0.0) * width * (1.0 - u))
        near = jnp.where(narrow, window.edge - self.scale * window.side * down, near)
        beyond = _quantile_beyond(jnp.where(far, window.b, TAIL), jnp.where(far, u + (1.0 - u) * ratio, 0.5))
        return jnp.clip(jnp.where(far, window.place - self.scale * window.side * beyond, near), self.low, self.high)

    def _log_density(self, x):
        window = self._window()
        gap = window.side * (x - window.place) / self.scale
        return -0.5 * gap * (gap + 2.0 * jnp.minimum(window.b, 0.0)) - jnp.log(self.scale) - window.log_mass()

    def _moments(self):
        # By quadrature of positive terms; the closed form is a difference of terms that may be of any size.
        window = self._window()
        nodes, weights = (jnp.asarray(t, self.dtype) for t in np.polynomial.legendre.leggauss(64))
        b = jnp.minimum(window.b, 0.0)
        start = -jnp.clip(window.b, 0.0, 9.0)
        stop = jnp.minimum(window.length, 80.0 / (jnp.sqrt(jnp.square(b) + 80.0) - b))  # beyond: exp(-40)
        y = start + 0.5 * (stop - start) * (nodes.reshape(-1, *(1,) * b.ndim) + 1.0)
        density = jnp.exp(b * y - 0.5 * jnp.square(y)) * weights.reshape(-1, *(1,) * b.ndim)
        density = density / jnp.sum(density, axis=0)
        mean = jnp.sum(density * y, axis=0)
        variance = jnp.sum(density * jnp.square(y - mean), axis=0)
        return window.place - self.scale * window.side * mean, jnp.square(self.scale) * variance


class _Window(NamedTuple):
    """The bounds `a < b` of a standard normal on the side where its tail is small, so that `a <= 0`.

    All is measured from `place`, in the user's units: from `loc`, or where that lies outside from the bound next to it.
    Far out two logarithms of `1e6` would differ by one otherwise.
    `edge` is the bound that is seen as `b`, and `side` is -1 where the window is mirrored.
    """

    a: Array
    b: Array
    place: Array
    edge: Array
    side: Array
    width: ArrayLike

    @property
    def length(self) -> Array:
        """From the place down to `a`."""
        return jnp.where(self.b > 0, -self.a, self.width)

    def gap(self) -> Array:
        """`log Phi(b) - log Phi(a)`, infinite without a lower end."""
        finite = jnp.isfinite(self.a)
        a, length = jnp.where(finite, self.a, -1.0), jnp.where(finite, self.length, 1.0)
        gap = _log_mills(self.b) - _log_mills(a) - 0.5 * length * (a + jnp.minimum(self.b, 0.0))
        return jnp.where(finite, gap, jnp.inf)

    def log_mass(self) -> Array:
        """The logarithm of the mass over the density at the place, both of the standard normal."""
        middle = self.b - 0.5 * self.width
        narrow = self.width * (1.0 + jnp.abs(middle)) < 0.2
        width, middle = jnp.where(narrow, self.width, 0.1), jnp.where(narrow, middle, 0.0)
        gap = self.gap()
        whole = _log_mills(self.b) + log1mexp(jnp.where(narrow | ~jnp.isfinite(gap), 800.0, gap))
        # Of a narrow window the even moments about its middle: width sum_k He_2k(middle) (width / 2)^2k / (2k + 1)!
        m, h = jnp.square(middle), 0.25 * jnp.square(width)
        hermite = [m - 1, m * (m - 6) + 3, m * (m * (m - 15) + 45) - 15, m * (m * (m * (m - 28) + 210) - 420) + 105]
        series = h * (hermite[0] / 6 + h * (hermite[1] / 120 + h * (hermite[2] / 5040 + h * hermite[3] / 362880)))
        from_place = jnp.where(self.b > 0, middle, -0.5 * width)
        bend = 0.5 * from_place * (from_place + 2.0 * jnp.where(narrow, jnp.minimum(self.b, 0.0), 0.0))
        return jnp.where(narrow, jnp.log(width) + jnp.log1p(series) - bend, whole)


def _quantile_beyond(b: Array, ratio: Array) -> Array:
    """The `y` with `Phi(b - y) = ratio Phi(b)` for `b <= TAIL`, by Newton's steps on `log Phi`, which is concave."""
    log_ratio = jnp.log(ratio)
    y = -2.0 * log_ratio / (jnp.sqrt(jnp.square(b) - 2.0 * log_ratio) - b)
    for _ in range(3):
        y = jax.lax.stop_gradient(y)  # the last step alone has the right derivative, one over the slope
        slope = inverse_mills(b - y)
        y = y + (jnp.log(inverse_mills(b)) - jnp.log(slope) + y * (b - 0.5 * y) - log_ratio) / slope
    return y


def _log_mills(t: Array) -> Array:
    """`log(Phi(t) / phi(min(t, 0)))`: of a positive `t` the density is that in the middle."""
    far = t < TAIL
    near = jnp.clip(t, TAIL, 40.0)
    near = special.log_ndtr(near) + 0.5 * jnp.square(jnp.minimum(near, 0.0)) + HALF_LOG_TWO_PI
    return jnp.where(far, -jnp.log(inverse_mills(jnp.where(far, t, TAIL))), near)
