"""Log densities, distribution functions, quantiles and moments in sixty digits, from their textbooks, by mpmath.

A case is a family, a grid of its parameters and values from ordinary to extreme, and its formulas. All numbers of a
grid are exact in 32 bits, so that one reference serves both dtypes. The formulas know nothing of the support: the grids
lie on it, and `test_distributions.py` asks what is off it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import mpmath
import numpy as np
from mpmath import mp, mpf
from scipy import stats

import vbppl.distributions as dist

DIGITS = 60
STEP = mpf(10) ** -25  # of numerical derivatives, in the size of an argument; 35 digits are left
Row = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Exact:
    """A family, and where it is asked.

    Attributes:
      make: the distribution, of the parameters.
      rows: the parameters of each case and after them the value; numbers, vectors or matrices.
      log_prob, cdf: formulas of the parameters and the value.
      icdf: the formula of the parameters and a probability.
      mean, variance: formulas of the parameters.
      fixed: the numbers of the arguments that are counted, not measured: no derivative is asked in them.
      tied: those whose entries are tied, as on a simplex: no derivative in one entry is asked.
      scipy: of the parameters, SciPy's member of the family, which draws are held against; where there is none, and of
        vectors, what they follow stands in `tests/distributions/test_samplers.py`.
    """

    make: Callable[..., dist.Distribution]
    rows: list[Row]
    log_prob: Callable[..., Any]
    cdf: Callable[..., Any] | None = None
    icdf: Callable[..., Any] | None = None
    mean: Callable[..., Any] | None = None
    variance: Callable[..., Any] | None = None
    fixed: Sequence[int] = ()
    tied: Sequence[int] = ()
    scipy: Callable[..., Any] | None = None

    def columns(self, dtype: Any) -> list[np.ndarray]:
        """The parameters and the values, each over all rows."""
        return [np.asarray(column, dtype) for column in zip(*self.rows)]

    def parameters(self) -> list[Row]:
        """The different parameters among the rows."""
        return [row[:-1] for row in {repr(row[:-1]): row for row in self.rows}.values()]


def single(value: Any) -> Any:
    """The number, vector or matrix in 32 bits, as Python's floats, which hold it exactly; out of their range, NaN."""
    value, info = np.asarray(value, float), np.finfo(np.float32)
    fits = (value == 0) | ((np.abs(value) >= float(info.tiny)) & (np.abs(value) <= float(info.max)))
    return np.where(fits, value, np.nan).astype(np.float32).astype(float).tolist()


def grid(values: Callable[..., Any], *parameters: Sequence[Any]) -> list[Row]:
    """All combinations of the parameters, with `values(*parameters)` of each that 32 bits hold."""
    rows = []
    for combination in itertools.product(*parameters):
        combination = tuple(map(single, combination))
        rows += [(*combination, single(value)) for value in values(*combination)]
    return [row for row in rows if all(np.all(np.isfinite(part)) for part in row)]


def high(value: Any) -> Any:
    """Floats as numbers of sixty digits, in lists as they were."""
    return [high(part) for part in value] if isinstance(value, list) else mpf(value)


def entries(value: Any, path: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Where the numbers stand in nested lists."""
    if not isinstance(value, (list, tuple)):
        return [path]
    return [at for n, part in enumerate(value) for at in entries(part, (*path, n))]


def read(value: Any, path: tuple[int, ...]) -> Any:
    """The number at a place."""
    return read(value[path[0]], path[1:]) if path else value


def stretched(value: Any, path: tuple[int, ...], factor: Any) -> Any:
    """The same nested lists, with the number at a place times `factor`."""
    if not path:
        return value * factor
    return [stretched(part, path[1:], factor) if n == path[0] else part for n, part in enumerate(value)]


def slope(function: Callable[..., Any], arguments: Any, path: tuple[int, ...]) -> Any:
    """`t df/dt` in the argument `t` at that place: what the function moves by, for a relative change of `t`."""
    up, down = (function(*stretched(list(arguments), path, 1 + sign * STEP)) for sign in (1, -1))
    return (up - down) / (2 * STEP)


def measured(case: Exact, row: Row) -> list[tuple[int, ...]]:
    """The places of the numbers of a row that are not zero and not counts."""
    return [path for path in entries(row) if path[0] not in case.fixed and read(row, path) != 0]


def value_and_condition(function: Callable[..., Any], case: Exact, row: Row) -> tuple[Any, Any]:
    """The function, and the sum of `|t df/dt|` over its arguments."""
    arguments = tuple(map(high, row))
    return function(*arguments), sum((abs(slope(function, arguments, path)) for path in measured(case, row)), mpf(0))


def normal(x):
    return -x * x / 2 - mpmath.log(2 * mpmath.pi) / 2


def ndtr(x):
    return mpmath.erfc(-x / mpmath.sqrt(2)) / 2


def ndtri(q):
    with mp.workdps(80):
        return +(mpmath.sqrt(2) * mpmath.erfinv(2 * q - 1))


log, exp, loggamma, log1p, expm1 = mpmath.log, mpmath.exp, mpmath.loggamma, mpmath.log1p, mpmath.expm1
pi, sqrt, inf = mpmath.pi, mpmath.sqrt, mpf("inf")


def log_beta(a, b):
    return loggamma(a) + loggamma(b) - loggamma(a + b)


def xlogy(x, y):
    return mpf(0) if x == 0 else -inf if y == 0 else x * log(y)


def log_choose(n, x):
    return loggamma(n + 1) - loggamma(x + 1) - loggamma(n - x + 1)


def sigmoid(t):
    return 1 / (1 + exp(-t))


# The real line.

LOCS, SCALES = [0.0, -3.0, 1000.0], [1e-10, 1.0, 1e10]
UNITS = [0.0, 1e-6, 0.7, -1.0, 5.0, -12.0, 80.0, -80.0, 1e4, -1e4, 1e15, -1e25]


def on_the_line(loc, scale):
    return [loc + scale * u for u in UNITS]


def located(make, theirs, log_density, cdf, quantile, mean=None, variance=None):
    """A family of location and scale, of its standard member."""
    return Exact(
        make,
        grid(on_the_line, LOCS, SCALES),
        lambda loc, scale, x: log_density((x - loc) / scale) - log(scale),
        lambda loc, scale, x: cdf((x - loc) / scale),
        quantile and (lambda loc, scale, q: loc + scale * quantile(q)),
        None if mean is None else (lambda loc, scale: loc + scale * mean),
        None if variance is None else (lambda loc, scale: scale * scale * variance),
        scipy=theirs,
    )


def log_t(df, u):
    return loggamma((df + 1) / 2) - loggamma(df / 2) - log(df * pi) / 2 - (df + 1) / 2 * log1p(u * u / df)


REAL = {
    "Normal": located(dist.Normal, stats.norm, normal, ndtr, ndtri, mpf(0), mpf(1)),
    "Cauchy": located(
        dist.Cauchy,
        stats.cauchy,
        lambda u: -log(pi) - log1p(u * u),
        lambda u: mpmath.atan2(1, -u) / pi,
        lambda q: -mpmath.cot(pi * q),
    ),
    "Laplace": located(
        dist.Laplace,
        stats.laplace,
        lambda u: -abs(u) - log(2),
        lambda u: exp(u) / 2 if u < 0 else 1 - exp(-u) / 2,
        lambda q: log(2 * q) if q < 0.5 else -log(2 - 2 * q),
        mpf(0),
        mpf(2),
    ),
    "Logistic": located(
        dist.Logistic,
        stats.logistic,
        lambda u: -abs(u) - 2 * log1p(exp(-abs(u))),
        sigmoid,
        lambda q: log(q / (1 - q)),
        mpf(0),
        pi**2 / 3,
    ),
    "Gumbel": located(
        dist.Gumbel,
        stats.gumbel_r,
        lambda u: -u - exp(-u),
        lambda u: exp(-exp(-u)) if u > -20 else mpf(0),
        lambda q: -log(-log(q)),
        mpmath.euler,
        pi**2 / 6,
    ),
    "StudentT": Exact(
        dist.StudentT,
        grid(lambda df, loc, scale: on_the_line(loc, scale), [0.1, 1.0, 4.5, 40.0, 1e3, 1e6], [0.0, 5.0], [1e-10, 3.0]),
        lambda df, loc, scale, x: log_t(df, (x - loc) / scale) - log(scale),
        mean=lambda df, loc, scale: loc if df > 1 else mpf("nan"),
        variance=lambda df, loc, scale: scale**2 * df / (df - 2) if df > 2 else inf if df > 1 else mpf("nan"),
    ),
}

# Positive numbers.

RATES = [1e-10, 1.0, 1e10]
SHAPES = [1e-3, 0.5, 1.0, 2.5, 15.9, 16.1, 300.0, 1e4, 1e6]
FRACTIONS = [1e-20, 1e-3, 0.3, 0.99, 1.0, 1.001, 3.0, 40.0]


def around(mean, sd=0.0):
    """Values about a mean: fractions of it, and some standard deviations from it."""
    return [mean * f for f in FRACTIONS] + [m for m in (mean + k * sd for k in (-6, -2, 3, 8) if sd) if m > 0]


def log_gamma_density(a, rate, x):
    return a * log(rate) + (a - 1) * log(x) - rate * x - loggamma(a)


def gamma_values(a, rate):
    return around(a / rate, a**0.5 / rate)


POSITIVE = {
    "LogNormal": Exact(
        dist.LogNormal,
        grid(
            lambda loc, scale: [np.exp(loc + scale * u) for u in (-12, -3, -1e-3, 0, 1.5, 10)],
            [0.0, -60.0, 30.0],
            [1e-6, 0.5, 3.0, 9.5],
        ),
        lambda loc, scale, x: normal((log(x) - loc) / scale) - log(scale) - log(x),
        lambda loc, scale, x: ndtr((log(x) - loc) / scale),
        lambda loc, scale, q: exp(loc + scale * ndtri(q)),
        lambda loc, scale: exp(loc + scale**2 / 2),
        lambda loc, scale: expm1(scale**2) * exp(2 * loc + scale**2),
    ),
    "HalfNormal": Exact(
        dist.HalfNormal,
        grid(lambda s: [0.0, *(s * f for f in (*FRACTIONS, 1e4, 1e15))], SCALES),
        lambda s, x: normal(x / s) + log(2) - log(s),
        lambda s, x: mpmath.erf(x / s / sqrt(2)),
        lambda s, q: s * sqrt(2) * mpmath.erfinv(q),
        lambda s: s * sqrt(2 / pi),
        lambda s: s**2 * (1 - 2 / pi),
    ),
    "HalfCauchy": Exact(
        dist.HalfCauchy,
        grid(lambda s: [0.0, *(s * f for f in (*FRACTIONS, 1e4, 1e15, 1e25))], SCALES),
        lambda s, x: log(2 / pi) - log(s) - log1p((x / s) ** 2),
        lambda s, x: mpmath.atan(x / s) * 2 / pi,
        lambda s, q: s * mpmath.tan(q * pi / 2),
    ),
    "Exponential": Exact(
        dist.Exponential,
        grid(lambda r: [0.0, *(f / r for f in (*FRACTIONS, 1e4))], RATES),
        lambda r, x: log(r) - r * x,
        lambda r, x: -expm1(-r * x),
        lambda r, q: -log1p(-q) / r,
        lambda r: 1 / r,
        lambda r: 1 / r**2,
    ),
    "Gamma": Exact(
        dist.Gamma,
        grid(gamma_values, SHAPES, RATES),
        log_gamma_density,
        mean=lambda a, r: a / r,
        variance=lambda a, r: a / r**2,
    ),
    "InverseGamma": Exact(
        dist.InverseGamma,
        grid(lambda a, r: [1 / x for x in gamma_values(a, r)], SHAPES, RATES),
        lambda a, r, x: log_gamma_density(a, r, 1 / x) - 2 * log(x),
        mean=lambda a, r: r / (a - 1) if a > 1 else inf,
        variance=lambda a, r: r**2 / (a - 1) ** 2 / (a - 2) if a > 2 else inf,
    ),
    "Chi2": Exact(
        dist.Chi2,
        grid(lambda df: around(df, (2 * df) ** 0.5), [0.1, 1.0, 2.0, 30.0, 1e6]),
        lambda df, x: log_gamma_density(df / 2, mpf(0.5), x),
        mean=lambda df: df,
        variance=lambda df: 2 * df,
    ),
    "Weibull": Exact(
        dist.Weibull,
        grid(
            lambda s, k: [s * t ** (1 / k) for t in (1e-6, 0.01, 0.5, 1.0, 3.0, 60.0)],
            SCALES,
            [0.1, 0.7, 1.0, 2.0, 11.0, 1e3, 1e6],
        ),
        lambda s, k, x: log(k / s) + (k - 1) * log(x / s) - (x / s) ** k,
        lambda s, k, x: -expm1(-((x / s) ** k)),
        lambda s, k, q: s * (-log1p(-q)) ** (1 / k),
        lambda s, k: s * mpmath.gamma(1 + 1 / k),
        lambda s, k: s**2 * (mpmath.gamma(1 + 2 / k) - mpmath.gamma(1 + 1 / k) ** 2),
    ),
    "Pareto": Exact(
        dist.Pareto,
        grid(lambda s, a: [s * np.exp(min(t / a, 20.0)) for t in (0.0, 1e-3, 0.5, 1.0, 30.0)], SCALES, SHAPES),
        lambda s, a, x: log(a) + a * log(s) - (a + 1) * log(x),
        lambda s, a, x: -expm1(a * log(s / x)),
        lambda s, a, q: s * (1 - q) ** (-1 / a),
        lambda s, a: a * s / (a - 1) if a > 1 else inf,
        lambda s, a: s**2 * a / (a - 1) ** 2 / (a - 2) if a > 2 else inf,
    ),
}

# Between bounds.


def log_beta_density(a, b, x):
    return xlogy(a - 1, x) + xlogy(b - 1, 1 - x) - log_beta(a, b)


def beta_values(a, b):
    mean, sd = a / (a + b), (a * b / (a + b + 1)) ** 0.5 / (a + b)
    near = [mean + k * sd for k in (-6, -2, 0, 1, 5)]
    return [x for x in (1e-30, 1e-4, 0.5, 1 - 2.0**-10, 1 - 2.0**-23, *near) if 0 < x < 1 and np.float32(x) < 1]


def log_mass(a, b):
    """Of a standard normal between two places, of which the tails far out are mirrored to where they are small."""
    a, b = (-b, -a) if a > 0 else (a, b)
    return log(ndtr(b) - ndtr(a))


WINDOWS = [
    (loc, scale, low, high)
    for loc, scale, low, high in itertools.product(
        [0.0, 2.0], [1.0, 0.01], [-30.0, -1.0, -1e-4, 0.0, 1.0, 13.0], [1e-4, 0.5, 1.25, 14.0]
    )
    if low < high
]


def truncated_moment(order):
    def moment(loc, scale, low, high):
        a, b = (low - loc) / scale, (high - loc) / scale
        with mp.workdps(60):
            mass = log_mass(a, b)
            at_a, at_b = exp(normal(a) - mass), exp(normal(b) - mass)
            first = at_a - at_b
            second = 1 + a * at_a - b * at_b - first**2
        return loc + scale * first if order == 1 else scale**2 * second

    return moment


def window_rows():
    rows = []
    for window in WINDOWS:
        low, high = window[2:]
        at = [low, high, *(low + f * (high - low) for f in (1e-3, 0.5, 0.9))]
        rows += [tuple(map(single, (*window, x))) for x in at if low <= np.float32(x) <= high]
    return rows


BOUNDED = {
    "Uniform": Exact(
        dist.Uniform,
        [
            tuple(map(single, row))
            for row in [(0.0, 1.0, 0.3), (-1e10, 1e10, 5.0), (1000.0, 1000.0625, 1000.0), (0.0, 1e-20, 1e-21)]
        ],
        lambda low, high, x: -log(high - low),
        lambda low, high, x: (x - low) / (high - low),
        lambda low, high, q: low + (high - low) * q,
        lambda low, high: (low + high) / 2,
        lambda low, high: (high - low) ** 2 / 12,
    ),
    "Beta": Exact(
        dist.Beta,
        grid(beta_values, SHAPES, [1e-3, 0.7, 1.0, 2.0, 1e3, 1e6]),
        log_beta_density,
        mean=lambda a, b: a / (a + b),
        variance=lambda a, b: a * b / (a + b) ** 2 / (a + b + 1),
    ),
    "TruncatedNormal": Exact(
        dist.TruncatedNormal,
        window_rows(),
        lambda loc, scale, low, high, x: (
            normal((x - loc) / scale) - log(scale) - log_mass((low - loc) / scale, (high - loc) / scale)
        ),
        mean=truncated_moment(1),
        variance=truncated_moment(2),
    ),
    "TruncatedNormal, one bound": Exact(
        lambda loc, scale, low: dist.TruncatedNormal(loc, scale, low=low),
        grid(
            lambda loc, scale, low: [low, low + 1e-3, low + 1, low + 20],
            [0.0, 2.0, -1000.0],
            [1.0, 0.1, 100.0],
            [-30.0, -2.0, 0.0, 3.0, 13.0, 40.0],
        ),
        lambda loc, scale, low, x: normal((x - loc) / scale) - log(scale) - log(ndtr((loc - low) / scale)),
        mean=lambda loc, scale, low: truncated_moment(1)(loc, scale, low, mpf(10) ** 9),
        variance=lambda loc, scale, low: truncated_moment(2)(loc, scale, low, mpf(10) ** 9),
    ),
}

# Coins, classes and counts.

PROBS = [1e-30, 1e-7, 0.01, 0.3, 0.5, 0.99, 1 - 2.0**-20]
LOGITS = [-80.0, -20.0, -1.0, 0.0, 0.3, 17.0, 80.0]
TOTALS = [1, 9, 1000, 10**7]


def counts(mean, sd, most=10**7):
    """Counts about a mean and at the ends, as far as 32 bits hold them."""
    near = [np.floor(mean + k * sd) for k in (-8, -2, 0, 1, 6)]
    return sorted({float(x) for x in (0, 1, 5, most - 1, most, *near) if 0 <= x <= most})


def heads(name, given):
    """The three families of coins under one name of the parameter; `q` is `1 - p`, which must not round."""
    chance = (lambda p: p) if name == "probs" else lambda t: 1 / (1 + np.exp(-t))
    both = (lambda p: (p, 1 - p)) if name == "probs" else lambda t: (sigmoid(t), sigmoid(-t))

    def tosses(n, p):
        mean = n * chance(p)
        return counts(mean, (mean * (1 - chance(p))) ** 0.5, n)

    return {
        f"Bernoulli {name}": Exact(
            lambda p: dist.Bernoulli(**{name: p}),
            grid(lambda p: [0, 1], given),
            lambda p, x: log(both(p)[0] if x else both(p)[1]),
            mean=lambda p: both(p)[0],
            variance=lambda p: both(p)[0] * both(p)[1],
            fixed=(1,),
        ),
        f"Geometric {name}": Exact(
            lambda p: dist.Geometric(**{name: p}),
            grid(lambda p: [0, 1, 20, 10**7], given),
            lambda p, x: log(both(p)[0]) + x * log(both(p)[1]),
            mean=lambda p: both(p)[1] / both(p)[0],
            variance=lambda p: both(p)[1] / both(p)[0] ** 2,
            fixed=(1,),
        ),
        f"Binomial {name}": Exact(
            lambda n, p: dist.Binomial(n, **{name: p}),
            grid(tosses, TOTALS, given),
            lambda n, p, x: log_choose(n, x) + x * log(both(p)[0]) + (n - x) * log(both(p)[1]),
            mean=lambda n, p: n * both(p)[0],
            variance=lambda n, p: n * both(p)[0] * both(p)[1],
            fixed=(0, 2),
        ),
    }


def log_negative_binomial(a, rate, x):
    return loggamma(a + x) - loggamma(a) - loggamma(x + 1) + a * log(rate / (1 + rate)) - x * log1p(rate)


def gamma_counts(a, rate):
    return counts(a / rate, (a / rate * (1 + 1 / rate)) ** 0.5)


def beta_counts(a, b, n):
    return counts(n * a / (a + b), n * (a * b / (a + b + 1)) ** 0.5 / (a + b), n)


def weights(row):
    return [w / sum(row) for w in row]


CHANCES = [[0.203125, 0.5, 0.296875], [2.0**-100, 2.0**-20, 1 - 2.0**-20], [0.25, 0.25, 0.5]]
CLASS_LOGITS = [[0.0, 1.0, -1.0], [80.0, 0.0, -80.0], [1000.0, 999.0, 0.0]]
TALLIES = [[1, 4, 2], [0, 7, 0], [2_501_000, 2_499_000, 5_000_000], [0, 3, 9_999_997]]


def softmax(row):
    return weights([exp(t - max(row)) for t in row])


def log_multinomial(p, x):
    return loggamma(sum(x) + 1) + sum((xlogy(c, q) - loggamma(c + 1) for c, q in zip(x, p)), mpf(0))


def tallies(given):
    return [(float(sum(x)), p, single(x)) for p in map(single, given) for x in TALLIES]


def classes(name, given, chances):
    mean = lambda p: sum(k * q for k, q in enumerate(chances(p)))  # noqa: E731
    return {
        f"Categorical {name}": Exact(
            lambda p: dist.Categorical(**{name: p}),
            grid(lambda p: [0, 1, 2], given),
            lambda p, x: log(chances(p)[int(x)]),
            mean=mean,
            variance=lambda p: sum((k - mean(p)) ** 2 * q for k, q in enumerate(chances(p))),
            fixed=(1,),
        ),
        f"Multinomial {name}": Exact(
            lambda n, p: dist.Multinomial(n, **{name: p}),
            tallies(given),
            lambda n, p, x: log_multinomial(chances(p), x),
            mean=lambda n, p: [n * q for q in chances(p)],
            variance=lambda n, p: [n * q * (sum(chances(p)) - q) for q in chances(p)],
            fixed=(0, 2),
            tied=(1,) if name == "probs" else (),
        ),
    }


DISCRETE = {
    **heads("probs", PROBS),
    **heads("logits", LOGITS),
    **classes("probs", CHANCES, lambda p: p),
    **classes("logits", CLASS_LOGITS, softmax),
    "Poisson": Exact(
        dist.Poisson,
        grid(lambda r: counts(r, r**0.5), [1e-30, 1e-19, 1e-3, 1.0, 3.5, 300.0, 1e6, 9e6])
        + [(1e7, 10_006_324.0), (1e7, 12_000_000.0)],
        lambda r, x: x * log(r) - r - loggamma(x + 1),
        mean=lambda r: r,
        variance=lambda r: r,
        fixed=(1,),
    ),
    "GammaPoisson": Exact(
        dist.GammaPoisson,
        grid(gamma_counts, [1e-3, 0.7, 2.0, 300.0, 1e6], [1e-6, 0.01, 1.0, 50.0, 1e6]),
        log_negative_binomial,
        mean=lambda a, r: a / r,
        variance=lambda a, r: a / r * (1 + 1 / r),
        fixed=(2,),
    ),
    "NegativeBinomial2": Exact(
        dist.NegativeBinomial2,
        grid(lambda m, a: gamma_counts(a, a / m), [1e-6, 0.5, 30.0, 1e6], [1e-3, 0.7, 2.0, 300.0, 1e6, 1e12]),
        lambda m, a, x: log_negative_binomial(a, a / m, x),
        mean=lambda m, a: m,
        variance=lambda m, a: m + m**2 / a,
        fixed=(2,),
    ),
    "GammaPoisson, NegativeBinomialLogits": Exact(
        dist.NegativeBinomialLogits,
        grid(lambda a, t: gamma_counts(a, exp(-mpf(t))), [1e-3, 2.0, 1e6], [-14.0, 0.25, 14.0]),
        lambda a, t, x: log_negative_binomial(a, exp(-t), x),
        mean=lambda a, t: a * exp(t),
        variance=lambda a, t: a * exp(t) * (1 + exp(t)),
        fixed=(2,),
    ),
    "BetaBinomial": Exact(
        dist.BetaBinomial,
        grid(beta_counts, [1e-3, 0.7, 2.0, 1e3, 1e6], [1e-3, 1.0, 30.0, 1e6], [1, 20, 10**7]),
        lambda a, b, n, x: log_choose(n, x) + log_beta(x + a, n - x + b) - log_beta(a, b),
        mean=lambda a, b, n: n * a / (a + b),
        variance=lambda a, b, n: n * a * b * (a + b + n) / (a + b) ** 2 / (a + b + 1),
        fixed=(2, 3),
    ),
}

# Vectors and matrices.

CONCENTRATIONS = [[1e-3, 0.5, 2.0], [1.0, 1.0, 1.0], [300.0, 1e-3, 5.0], [1e6, 2e6, 5e5], [1e6, 1.0, 1e-3]]
SIMPLICES = [[0.25, 0.5, 0.25], [1e-20, 2.0**-10, 1 - 2.0**-10], [0.28515625, 0.572265625, 0.142578125]]


def dirichlet_variance(a):
    total = sum(a)
    return [t * sum(a[:k] + a[k + 1 :]) / total**2 / (total + 1) for k, t in enumerate(a)]


def log_normal_vector(loc, factor, x):
    u, value = [], mpf(0)
    for i, row in enumerate(factor):
        u.append((x[i] - loc[i] - sum(row[j] * u[j] for j in range(i))) / row[i])
        value += normal(u[i]) - log(row[i])
    return value


def cholesky(matrix):
    size, factor = len(matrix), [[mpf(0)] * len(matrix) for _ in matrix]
    for i, j in itertools.product(range(size), repeat=2):
        if j <= i:
            rest = matrix[i][j] - sum(factor[i][k] * factor[j][k] for k in range(j))
            factor[i][j] = sqrt(rest) if i == j else rest / factor[j][j]
    return factor


def log_lkj_norm(size, eta):
    """The integral of `det(R)^(eta - 1)` over correlation matrices, its logarithm (Lewandowski et al. 2009, (16))."""
    total = mpf(0)
    for k in range(1, size):
        total += (2 * eta - 2 + size - k) * (size - k) * log(2)
        total += (size - k) * log_beta(eta + mpf(size - k - 1) / 2, eta + mpf(size - k - 1) / 2)
    return total


def log_lkj(eta, matrix):
    factor = cholesky(matrix)
    return 2 * (eta - 1) * sum(log(factor[i][i]) for i in range(len(factor))) - log_lkj_norm(len(factor), eta)


def log_lkj_cholesky(eta, factor):
    size = len(factor)
    powers = [size - 1 - i + 2 * (eta - 1) for i in range(size)]
    return sum(p * log(factor[i][i]) for i, p in enumerate(powers)) - log_lkj_norm(size, eta)


FACTORS = [
    [[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, -0.6, 0.8]],
    [[1.0, 0.0, 0.0], [1 - 2.0**-12, 2.0**-6, 0.0], [0.3, 0.4, 0.75**0.5]],
]
TRILS = [*FACTORS, [[1e-10, 0.0, 0.0], [1.0, 1e5, 0.0], [-3.0, 2.0, 1e10]]]

VECTORS = {
    "Dirichlet": Exact(
        dist.Dirichlet,
        [(a, x) for a in map(single, CONCENTRATIONS) for x in map(single, SIMPLICES)],
        lambda a, x: sum(xlogy(t - 1, p) - loggamma(t) for t, p in zip(a, x)) + loggamma(sum(a)),
        mean=weights,
        variance=dirichlet_variance,
    ),
    "MultivariateNormal": Exact(
        lambda loc, factor: dist.MultivariateNormal(loc, scale_tril=factor),
        [
            (loc, factor, x)
            for loc in map(single, [[0.0, 0.0, 0.0], [1000.0, -1.0, 1e10]])
            for factor in map(single, TRILS)
            for x in map(single, [[0.0, 0.0, 0.0], [0.3, -2.0, 5.0], [1e4, 1e5, -1e6]])
        ],
        log_normal_vector,
        mean=lambda loc, factor: loc,
        variance=lambda loc, factor: [sum(t * t for t in row) for row in factor],
    ),
    "LKJCholesky": Exact(
        lambda eta: dist.LKJCholesky(3, eta),
        [(eta, factor) for eta in map(single, [1e-3, 0.5, 1.0, 3.0, 300.0, 1e6]) for factor in map(single, FACTORS)],
        log_lkj_cholesky,
        tied=(1,),
    ),
    "LKJ": Exact(
        lambda eta: dist.LKJ(3, eta),
        [
            (eta, matrix)
            for eta in map(single, [1e-3, 0.5, 1.0, 3.0, 300.0, 1e6])
            for matrix in map(single, [np.eye(3), [[1, 0.5, 0.25], [0.5, 1, -0.5], [0.25, -0.5, 1]]])
        ],
        log_lkj,
        tied=(1,),
        variance=lambda eta: [[0 if i == j else 1 / (2 * eta + 2) for i in range(3)] for j in range(3)],
    ),
}

# Made of others.


def log_mixture(w, loc, scale, x):
    return log(sum(p * exp(normal((x - m) / s)) / s for p, m, s in zip(w, loc, scale)))


def mixture_moment(order):
    def moment(w, loc, scale):
        mean = sum(p * m for p, m in zip(w, loc))
        spread = sum(p * (s * s + (m - mean) ** 2) for p, m, s in zip(w, loc, scale))
        return mean if order == 1 else spread

    return moment


def softplus_inverse(x):
    return log(expm1(x))


COMPOSITE = {
    "MixtureSameFamily": Exact(
        lambda w, loc, scale: dist.MixtureSameFamily(dist.Categorical(w), dist.Normal(loc, scale)),
        [
            (w, loc, scale, x)
            for w in map(single, [[0.25, 0.75], [1e-30, 1.0]])
            for loc in map(single, [[-1.0, 2.0], [0.0, 1e6]])
            for scale in map(single, [[1.0, 1e-6], [1e6, 1.0]])
            for x in map(single, [0.0, 2.0, -500.0, 1e6])
        ],
        log_mixture,
        mean=mixture_moment(1),
        variance=mixture_moment(2),
    ),
    "TransformedDistribution, exp": Exact(
        lambda loc, scale: dist.TransformedDistribution(dist.Normal(loc, scale), dist.transforms.ExpTransform()),
        grid(lambda loc, scale: [np.exp(loc + scale * u) for u in (-8, 0, 1, 5)], [0.0, -20.0], [1e-3, 1.0, 7.0]),
        lambda loc, scale, x: normal((log(x) - loc) / scale) - log(scale) - log(x),
    ),
    "TransformedDistribution, sigmoid": Exact(
        lambda loc: dist.TransformedDistribution(dist.Normal(loc, 1.0), dist.transforms.SigmoidTransform()),
        grid(lambda loc: [1e-30, 1e-5, 0.5, 0.875, 1 - 2.0**-20], [0.0, -30.0, 30.0]),
        lambda loc, x: normal(log(x / (1 - x)) - loc) - log(x) - log(1 - x),
    ),
    "TransformedDistribution, softplus": Exact(
        lambda loc: dist.TransformedDistribution(dist.Normal(loc, 1.0), dist.transforms.SoftplusTransform()),
        grid(lambda loc: [1e-30, 1e-5, 0.5, 3.0, 40.0, 1e4], [0.0, -30.0, 30.0]),
        lambda loc, x: normal(softplus_inverse(x) - loc) - log(-expm1(-x)),
    ),
    "TransformedDistribution, affine": Exact(
        lambda loc, scale: dist.TransformedDistribution(
            dist.Cauchy(0.0, 1.0), dist.transforms.AffineTransform(loc, scale)
        ),
        grid(on_the_line, LOCS, [-1e-10, 1.0, 1e10]),
        lambda loc, scale, x: -log(pi) - log1p(((x - loc) / scale) ** 2) - log(abs(scale)),
    ),
    "TransformedDistribution, power": Exact(
        lambda rate, power: dist.TransformedDistribution(dist.Exponential(rate), dist.transforms.PowerTransform(power)),
        grid(lambda rate, power: [(u / rate) ** power for u in (1e-3, 0.9, 30.0)], [1e-3, 2.0], [-1.0, 0.5, 3.0]),
        lambda rate, power, x: log(rate) - rate * x ** (1 / power) - log(abs(power)) + (1 / power - 1) * log(x),
    ),
    "Independent": Exact(
        lambda loc: dist.Normal(loc, 1.0).to_event(1),
        [(loc, x) for loc in map(single, [[0.0, 1.0], [-1e6, 3.0]]) for x in map(single, [[0.0, 0.0], [5.0, -80.0]])],
        lambda loc, x: sum(normal(t - m) for m, t in zip(loc, x)),
        mean=lambda loc: loc,
        variance=lambda loc: [mpf(1) for _ in loc],
    ),
    "ExpandedDistribution": Exact(
        lambda loc: dist.Normal(0.0, 2.0).expand(np.shape(loc)),
        [tuple(map(single, row)) for row in [(0.0, 3.0), (0.0, -100.0)]],
        lambda loc, x: normal(x / 2) - log(2),
        mean=lambda loc: mpf(0),
        variance=lambda loc: mpf(4),
    ),
    "RightCensoredDistribution": Exact(
        lambda loc: dist.RightCensoredDistribution(dist.Normal(loc, 1.0), loc > 0),
        [tuple(map(single, row)) for row in [(1.0, 3.0), (-1.0, 1.0), (5.0, 25.0)]],
        lambda loc, x: log(ndtr(loc - x)) if loc > 0 else normal(x - loc),
        mean=lambda loc: loc,
        variance=lambda loc: mpf(1),
    ),
    "LeftCensoredDistribution": Exact(
        lambda loc: dist.LeftCensoredDistribution(dist.Normal(loc, 1.0), loc > 0),
        [tuple(map(single, row)) for row in [(1.0, 3.0), (-1.0, 1.0), (5.0, -15.0)]],
        lambda loc, x: log(ndtr(x - loc)) if loc > 0 else normal(x - loc),
        mean=lambda loc: loc,
        variance=lambda loc: mpf(1),
    ),
    "IntervalCensoredDistribution": Exact(
        lambda loc: dist.IntervalCensoredDistribution(dist.Normal(loc, 1.0)),
        [tuple(map(single, row)) for row in [(0.5, [1.0, 2.0]), (0.5, [-3.0, 2.0]), (0.5, [20.0, 20.5])]],
        lambda loc, x: log(ndtr(loc - x[0]) - ndtr(loc - x[1])),
    ),
    **{
        name: Exact(
            lambda loc, low, high, make=make: make(dist.Normal(loc, 1.0), low, high),
            [
                tuple(map(single, row))
                for row in [(1.0, 0.5, 2.0, 1.5), (1.0, -9.0, -8.0, -8.5), (-1.0, 20.0, 99.0, 20.5)]
            ],
            lambda loc, low, high, x, mass=mass: normal(x - loc) - log(mass(low - loc, high - loc)),
        )
        for name, make, mass in (
            ("TruncatedDistribution", dist.TruncatedDistribution, lambda a, b: ndtr(-a) - ndtr(-b)),
            ("TwoSidedTruncatedDistribution", dist.TwoSidedTruncatedDistribution, lambda a, b: ndtr(-a) - ndtr(-b)),
            ("LeftTruncatedDistribution", lambda d, a, _: dist.LeftTruncatedDistribution(d, a), lambda a, _: ndtr(-a)),
            ("RightTruncatedDistribution", lambda d, _, b: dist.RightTruncatedDistribution(d, b), lambda _, b: ndtr(b)),
        )
    },
    "MaskedDistribution": Exact(
        lambda loc: dist.Normal(loc, 1.0).mask(loc > 0),
        [tuple(map(single, row)) for row in [(1.0, 3.0), (-1.0, 1.0), (5.0, 5.0)]],
        lambda loc, x: normal(x - loc) if loc > 0 else mpf(0),
        mean=lambda loc: loc,
        variance=lambda loc: mpf(1),
    ),
    "Delta": Exact(
        lambda v, height: dist.Delta(v, height),
        [tuple(map(single, row)) for row in [(1.0, 0.0, 1.0), (1e-30, -5.0, 1e-30), (-1e30, 2.0, -1e30)]],
        lambda v, height, x: height,
        mean=lambda v, height: v,
        variance=lambda v, height: mpf(0),
    ),
    "ImproperUniform": Exact(
        lambda unused: dist.ImproperUniform(dist.constraints.positive, np.shape(unused), ()),
        [tuple(map(single, row)) for row in [(0.0, 1.0), (0.0, 1e30)]],
        lambda unused, x: mpf(0),
    ),
}

# Those that fewer models use: asked at fewer places.


def phi_between(a, b):
    return ndtr(-a) - ndtr(-b) if a > 0 else ndtr(b) - ndtr(a)


def ordered(make, between, below):
    """Classes between cutpoints, of the noise's distribution function."""

    def edges(eta, cuts, k):
        return (cuts[int(k) - 1] - eta if k > 0 else -inf), (cuts[int(k)] - eta if k < len(cuts) else inf)

    def log_prob(eta, cuts, k):
        low, high = edges(eta, cuts, k)
        return log(below(-low) if high == inf else below(high) if low == -inf else between(low, high))

    def cdf(eta, cuts, k):
        return below(cuts[int(k)] - eta) if k < len(cuts) else mpf(1)

    def mean(eta, cuts):
        return sum(below(eta - c) for c in cuts)

    def variance(eta, cuts):
        return sum((2 * k + 1) * below(eta - c) for k, c in enumerate(cuts)) - mean(eta, cuts) ** 2

    cutpoints = [[-1.0, 0.5, 2.0], [-1.0, -1 + 2.0**-10, 11.0]]
    rows = grid(lambda *_: [0, 1, 2, 3], [0.0, 9.0, -3.0], cutpoints)
    return Exact(make, rows, log_prob, cdf, mean=mean, variance=variance, fixed=(2,))


def log_zero_inflated(gate, rate, x):
    poisson = x * log(rate) - rate - loggamma(x + 1)
    return log(gate + (1 - gate) * exp(-rate)) if x == 0 else log1p(-gate) + poisson


def standard_of(loc, factor, x):
    """The vector that a lower triangular factor moves to `x - loc`."""
    u = []
    for i, row in enumerate(factor):
        u.append((x[i] - loc[i] - sum(row[j] * u[j] for j in range(i))) / row[i])
    return u


def log_t_vector(df, loc, factor, x):
    size, square = len(x), sum(t * t for t in standard_of(loc, factor, x))
    norm = loggamma((df + size) / 2) - loggamma(df / 2) - mpf(size) / 2 * log(df * pi)
    return norm - sum(log(factor[i][i]) for i in range(size)) - (df + size) / 2 * log1p(square / df)


def squared(factor):
    """`L L'`."""
    return [[sum(a * b for a, b in zip(row, other)) for other in factor] for row in factor]


def kronecker(a, b):
    return [[p * q for p in row for q in other] for row in a for other in b]


def flat(matrix):
    return [entry for row in matrix for entry in row]


def trace_of(factor, inner):
    """The trace of `(L L')^-1 M M'`."""
    columns = [[row[k] for row in inner] for k in range(len(inner))]
    zero = [mpf(0)] * len(inner)
    return sum(t * t for column in columns for t in standard_of(zero, factor, column))


def half_log_det(factor):
    return sum(log(factor[i][i]) for i in range(len(factor)))


def log_wishart_norm(df, size):
    gammas = sum(loggamma((df - k) / 2) for k in range(size))
    return df * size / 2 * log(2) + mpf(size * (size - 1)) / 4 * log(pi) + gammas


def log_wishart(df, factor, x):
    size, root = len(x), cholesky(x)
    powers = (df - size - 1) * half_log_det(root) - df * half_log_det(factor)
    return powers - trace_of(factor, root) / 2 - log_wishart_norm(df, size)


def log_inverse_wishart(df, factor, x):
    size, root = len(x), cholesky(x)
    powers = df * half_log_det(factor) - (df + size + 1) * half_log_det(root)
    return powers - trace_of(root, factor) / 2 - log_wishart_norm(df, size)


def wishart_variance(df, factor):
    v = squared(factor)
    return [[df * (v[i][j] ** 2 + v[i][i] * v[j][j]) for j in range(len(v))] for i in range(len(v))]


ADJACENT = [[0, 1, 1], [1, 0, 0], [1, 0, 0]]


def car_factor(correlation, precision):
    matrix = [
        [precision * (sum(row) * (i == j) - correlation * row[j]) for j in range(3)] for i, row in enumerate(ADJACENT)
    ]
    return cholesky(matrix)


def log_car(loc, correlation, precision, x):
    factor = car_factor(correlation, precision)
    away = [t - m for t, m in zip(x, loc)]
    moved = [sum(factor[j][i] * away[j] for j in range(3)) for i in range(3)]
    return sum(normal(t) for t in moved) + half_log_det(factor)


def fall(k, u):
    return -u / k if u < 0 else u * k


PAIR, SMALL_TRILS = [[1.0, 0.0], [-0.5, 2.0]], [[[1.0, 0.0], [0.5, 0.75]], [[2.0, 0.0], [-3.0, 0.125]]]
MATRICES = [[[1.0, 0.5], [0.5, 2.0]], [[30.0, -1.0], [-1.0, 0.25]]]
ASYMMETRIES = grid(
    lambda loc, scale, k: [loc + scale * u for u in UNITS[:8]], [0.0, -3.0], [1.0, 1e10], [0.25, 1.0, 7.0]
)

MORE = {
    "OrderedLogistic": ordered(
        dist.OrderedLogistic, lambda a, b: sigmoid(b) - sigmoid(a) if a < 0 else sigmoid(-a) - sigmoid(-b), sigmoid
    ),
    "OrderedProbit": ordered(dist.OrderedProbit, phi_between, ndtr),
    "ZeroInflatedDistribution": Exact(
        lambda gate, rate: dist.ZeroInflatedDistribution(dist.Poisson(rate), gate),
        grid(lambda gate, rate: [0, 1, 5, 200], [0.25, 1e-7], [1e-3, 3.5, 300.0]),
        log_zero_inflated,
        mean=lambda gate, rate: (1 - gate) * rate,
        variance=lambda gate, rate: (1 - gate) * (rate + gate * rate**2),
        fixed=(2,),
    ),
    "DiscreteUniform": Exact(
        dist.DiscreteUniform,
        [tuple(map(single, row)) for row in [(0, 1, 1), (-3, 6, 2), (5, 10**7, 99)]],
        lambda low, high, x: -log(high - low + 1),
        lambda low, high, x: (x - low + 1) / (high - low + 1),
        mean=lambda low, high: (low + high) / 2,
        variance=lambda low, high: ((high - low + 1) ** 2 - 1) / 12,
        fixed=(0, 1, 2),
    ),
    "Kumaraswamy": Exact(
        dist.Kumaraswamy,
        grid(lambda a, b: [1e-20, 1e-3, 0.5, 0.875, 1 - 2.0**-20], [0.5, 2.5, 300.0], [0.7, 1.0, 5.0, 300.0]),
        lambda a, b, x: log(a * b) + (a - 1) * log(x) + (b - 1) * log1p(-(x**a)),
        lambda a, b, x: -expm1(b * log1p(-(x**a))),
        lambda a, b, q: (-expm1(log1p(-q) / b)) ** (1 / a),
        lambda a, b: b * exp(log_beta(1 + 1 / a, b)),
    ),
    "VonMises": Exact(
        dist.VonMises,
        grid(lambda loc, k: [-3.0, 0.125, 1.5, 3.0], [0.0, 1.5], [1e-3, 2.0, 1e3, 1e5]),
        lambda loc, k, x: k * mpmath.cos(x - loc) - log(2 * pi * mpmath.besseli(0, k)),
        mean=lambda loc, k: loc,
    ),
    "AsymmetricLaplace": Exact(
        dist.AsymmetricLaplace,
        ASYMMETRIES,
        lambda loc, s, k, x: -fall(k, (x - loc) / s) - log(s) - log(k + 1 / k),
        lambda loc, s, k, x: (
            k**2 / (1 + k**2) * exp((x - loc) / s / k) if x < loc else 1 - exp(-(x - loc) / s * k) / (1 + k**2)
        ),
        lambda loc, s, k, q: (
            loc + s * (k * log(q * (1 + 1 / k**2)) if q < k**2 / (1 + k**2) else -log((1 - q) * (1 + k**2)) / k)
        ),
        lambda loc, s, k: loc + s * (1 / k - k),
        lambda loc, s, k: s**2 * (1 / k**2 + k**2),
    ),
    "SkewNormal": Exact(
        dist.SkewNormal,
        grid(
            lambda loc, s, a: [loc + s * u for u in (0.0, 0.7, -1.0, 5.0, -12.0)], [0.0, -3.0], [1.0], [-4.0, 0.0, 50.0]
        ),
        lambda loc, s, a, x: log(2) + normal((x - loc) / s) + log(ndtr(a * (x - loc) / s)) - log(s),
        mean=lambda loc, s, a: loc + s * a / sqrt(1 + a * a) * sqrt(2 / pi),
        variance=lambda loc, s, a: s**2 * (1 - 2 / pi * a * a / (1 + a * a)),
    ),
    "HalfStudentT": Exact(
        dist.HalfStudentT,
        grid(lambda df, s: [0.0, *(s * f for f in FRACTIONS)], [0.5, 4.5, 1e6], [1e-10, 3.0]),
        lambda df, s, x: log_t(df, x / s) - log(s) + log(2),
        mean=lambda df, s: (
            s * 2 * sqrt(df / pi) / (df - 1) * exp(loggamma((df + 1) / 2) - loggamma(df / 2)) if df > 1 else inf
        ),
    ),
    "DirichletMultinomial": Exact(
        dist.DirichletMultinomial,
        [(a, 7.0, x) for a in map(single, CONCENTRATIONS[:4]) for x in map(single, [[1, 4, 2], [0, 7, 0]])],
        lambda a, n, x: (
            loggamma(n + 1)
            + loggamma(sum(a))
            - loggamma(n + sum(a))
            + sum(loggamma(c + t) - loggamma(t) - loggamma(c + 1) for c, t in zip(x, a))
        ),
        mean=lambda a, n: [n * t for t in weights(a)],
        variance=lambda a, n: [
            n * t * sum(a[:k] + a[k + 1 :]) / sum(a) ** 2 * (n + sum(a)) / (1 + sum(a)) for k, t in enumerate(a)
        ],
        fixed=(1, 2),
    ),
    "MultivariateStudentT": Exact(
        dist.MultivariateStudentT,
        [
            (df, single([1.0, 0.0, -1.0]), factor, single(x))
            for df in map(single, [0.5, 4.0, 1e6])
            for factor in map(single, FACTORS)
            for x in ([1.0, 0.0, -1.0], [0.3, -2.0, 5.0], [1e4, 1e5, -1e6])
        ],
        log_t_vector,
        mean=lambda df, loc, factor: loc if df > 1 else [mpf("nan")] * 3,
    ),
    "LowRankMultivariateNormal": Exact(
        dist.LowRankMultivariateNormal,
        [
            (single([1.0, 0.0, -1.0]), single([[1.0], [-2.0], [0.5]]), single(d), single(x))
            for d in ([1.0, 0.5, 2.0], [4.0, 4.0, 0.25])
            for x in ([1.0, 0.0, -1.0], [0.3, -2.0, 5.0])
        ],
        lambda loc, w, d, x: log_normal_vector(
            loc, cholesky([[a[0] * b[0] + d[i] * (i == j) for j, b in enumerate(w)] for i, a in enumerate(w)]), x
        ),
        mean=lambda loc, w, d: loc,
        variance=lambda loc, w, d: [a[0] ** 2 + t for a, t in zip(w, d)],
    ),
    "MatrixNormal": Exact(
        dist.MatrixNormal,
        [(single(PAIR), rows, columns, single(MATRICES[0])) for rows in map(single, SMALL_TRILS) for columns in [rows]],
        lambda loc, rows, columns, x: log_normal_vector(flat(loc), kronecker(rows, columns), flat(x)),
        mean=lambda loc, rows, columns: loc,
        variance=lambda loc, rows, columns: [
            [squared(rows)[i][i] * squared(columns)[j][j] for j in range(2)] for i in range(2)
        ],
    ),
    "Wishart": Exact(
        lambda df, factor: dist.Wishart(df, scale_tril=factor),
        [(df, f, x) for df in (1.5, 4.0, 300.0) for f in map(single, SMALL_TRILS) for x in map(single, MATRICES)],
        log_wishart,
        tied=(2,),
        mean=lambda df, factor: [[df * t for t in row] for row in squared(factor)],
        variance=wishart_variance,
    ),
    "InverseWishart": Exact(
        lambda df, factor: dist.InverseWishart(df, scale_tril=factor),
        [(df, f, x) for df in (1.5, 6.0, 300.0) for f in map(single, SMALL_TRILS) for x in map(single, MATRICES)],
        log_inverse_wishart,
        tied=(2,),
        mean=lambda df, factor: [[t / (df - 3) if df > 3 else inf for t in row] for row in squared(factor)],
    ),
    "GaussianRandomWalk": Exact(
        lambda scale: dist.GaussianRandomWalk(scale, 3),
        [(s, single(x)) for s in map(single, [1e-3, 1.0, 1e6]) for x in ([0.5, 1.0, -2.0], [0.0, 0.0, 1e4])],
        lambda s, x: sum(normal((b - a) / s) - log(s) for a, b in zip([0, *x], x)),
        variance=lambda s: [s * s, 2 * s * s, 3 * s * s],
    ),
    "CAR": Exact(
        lambda loc, correlation, precision: dist.CAR(loc, correlation, precision, np.array(ADJACENT)),
        [
            (single([1.0, 0.0, -1.0]), r, p, single(x))
            for r in map(single, [-0.5, 0.0, 0.875])
            for p in map(single, [1e-3, 2.0])
            for x in ([1.0, 0.0, -1.0], [0.5, 30.0, -2.0])
        ],
        log_car,
        mean=lambda loc, r, p: loc,
    ),
    "ZeroSumNormal": Exact(
        lambda scale: dist.ZeroSumNormal(scale, (3,)),
        [(s, single(x)) for s in map(single, [1e-3, 2.0]) for x in ([0.5, 1.0, -1.5], [0.0, 0.0, 0.0])],
        lambda s, x: -sum(t * t for t in x) / (2 * s * s) - 2 * log(s) - log(2 * pi),
        tied=(1,),
        variance=lambda s: [2 * s * s / 3] * 3,
    ),
    "MixtureGeneral": Exact(
        lambda w, loc, scale: dist.MixtureGeneral(
            dist.Categorical(w), [dist.Normal(loc, 1.0), dist.Laplace(0.0, scale)]
        ),
        [(single(w), 1.0, s, x) for w in ([0.25, 0.75], [1e-30, 1.0]) for s in (0.5, 2.0) for x in (0.5, -20.0, 40.0)],
        lambda w, loc, s, x: log(w[0] * exp(normal(x - loc)) + w[1] * exp(-abs(x) / s) / (2 * s)),
        mean=lambda w, loc, s: w[0] * loc,
        variance=lambda w, loc, s: w[0] * (1 + loc**2) + w[1] * 2 * s**2 - (w[0] * loc) ** 2,
    ),
}

EXACT = REAL | POSITIVE | BOUNDED | DISCRETE | VECTORS | COMPOSITE | MORE


# Divergences, of the parameters of both: grids of pairs that lie close and far, for concentrations of all sizes.


def log_gamma_bregman(c, a):
    return loggamma(c) - loggamma(a) - (c - a) * mpmath.digamma(a)


def dirichlet_divergence(a, b):
    each = sum(log_gamma_bregman(t, s) for s, t in zip(a, b))
    return each - log_gamma_bregman(sum(b), sum(a))


def normal_divergence(m, s, n, t):
    return ((s / t) ** 2 + ((m - n) / t) ** 2 - 1) / 2 - log(s / t)


def pairs(*parameters: Sequence[float]) -> list[Row]:
    return [tuple(map(single, row)) for row in itertools.product(*parameters)]


DIVERGENCES = {
    "Normal": (dist.Normal, 2, pairs([0.0, 1000.0], [1e-6, 1.0, 1e6], [0.0, 1000.5], [1e-6, 1.0]), normal_divergence),
    "LogNormal": (dist.LogNormal, 2, pairs([0.0, 5.0], [1e-3, 9.0], [1.0], [1e-3, 1.0]), normal_divergence),
    "Gamma": (
        dist.Gamma,
        2,
        pairs([1e-3, 2.5, 1e4, 1e6], [1.0, 1e5], [1e-3, 1.0, 1e4, 1e6, 1.001e6], [1.0, 1.0001]),
        lambda a, r, c, s: log_gamma_bregman(c, a) + c * log(r / s) + a * s / r - a,
    ),
    "Beta": (
        dist.Beta,
        2,
        # A concentration far below one beside 1e6 is left out: there the digammas themselves cancel.
        pairs([2.5, 1e6], [0.7, 1e4, 1e6], [0.1, 1.0, 1e6], [1.0, 1e4, 1.001e6]) + pairs([1e-3], [0.7], [0.1], [1.0]),
        lambda a, b, c, d: dirichlet_divergence([a, b], [c, d]),
    ),
    "Dirichlet": (
        dist.Dirichlet,
        1,
        [(a, b) for a in map(single, CONCENTRATIONS) for b in map(single, [*CONCENTRATIONS, [1.001e6, 2e6, 5e5]])],
        dirichlet_divergence,
    ),
}
