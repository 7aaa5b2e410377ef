"""Every public distribution against sixty digits, from ordinary to extreme parameters, in both dtypes.

The rule of all tolerances here: a formula is right if it is the exact value of arguments that differ from the given
ones by a few roundings. So an error is measured in

    eps (1 + |f| + sum_i |t_i df / dt_i|),

where `eps` is the rounding of the dtype and `f` the exact value: one nat's rounding, that of the result, and what the
rounding of each argument `t_i` moves. At most ROUNDINGS of them are allowed, which is what a dozen operations make;
a formula whose large terms cancel makes thousands. Of a probability, a quantile or a moment the relative error is
measured, without the 1; a mean may be zero, so there the sd stands in its place.

The distribution functions of Gamma, InverseGamma, Chi2 and Beta are JAX's incomplete functions, which have no such
precision, and are compared with SciPy's at ordinary parameters in `test_distributions.py`.
"""

from __future__ import annotations

import functools
import math

import exact
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from exact import EXACT, high
from mpmath import mp, mpf
from quick import jit

import vbppl.distributions as dist

ROUNDINGS = 16
DTYPES = {32: np.float32, 64: np.float64}
QUANTILES = [1e-20, 1e-10, 1e-3, 0.3, 0.5, 0.75, 0.999, 1 - 2.0**-20]
NEEDS_NO_CASE = {"Distribution"}  # the protocol
# The digits are made once for both dtypes, so the second one costs its programs alone: they are a minute.
DOUBLE_SLOWLY = [32, pytest.param(64, marks=pytest.mark.slow)]


# Their slopes compile for long, and are made of a distribution function whose slopes are asked in the fast suite.
LONG_SLOPES = {"IntervalCensoredDistribution", "TwoSidedTruncatedDistribution", "TruncatedNormal, one bound"}


def by_speed(names, more=frozenset(exact.MORE)):
    """The names; the formulas of those that fewer models use are asked for in the slow suite."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in more)) for name in names]


@pytest.fixture(autouse=True)
def sixty_digits():
    with mp.workdps(exact.DIGITS):
        yield


def nearest(value, dtype):
    """The number in the dtype, infinite beyond its range."""
    value, largest = mpf(value), float(np.finfo(dtype).max)
    return math.copysign(math.inf, value) if abs(value) > largest else float(value)


def roundings(found, value, scale, dtype):
    """The error of `found` in roundings of the dtype, where `scale` is one of 1; infinite if it is no number."""
    value, info = nearest(value, dtype), np.finfo(dtype)
    if math.isnan(value):
        return 0.0 if np.isnan(found) else math.inf
    if math.isinf(value) or math.isinf(found):  # so is what is next to the largest number
        near = (
            abs(value) > 0.25 * float(info.max) and abs(found) > 0.25 * float(info.max) and (found > 0) == (value > 0)
        )
        return 0.0 if near else math.inf
    error = abs(float(found) - value) / (float(info.eps) * (float(scale)) + float(info.tiny))
    return math.inf if math.isnan(error) else error


def assert_right(errors, where):
    worst = int(np.argmax(errors))
    assert errors[worst] <= ROUNDINGS, f"{errors[worst]:.3g} roundings at {where[worst]}"


@functools.cache
def conditioned(name):
    """The log densities of a case, each with its condition: made once for both dtypes."""
    case = EXACT[name]
    return [exact.value_and_condition(case.log_prob, case, row) for row in case.rows]


def test_no_distribution_is_without_its_digits():
    classes = {name for name in dist.__all__ if isinstance(getattr(dist, name), type)}
    assert {name.partition(",")[0].partition(" ")[0] for name in EXACT} == classes - NEEDS_NO_CASE


@pytest.mark.parametrize("bits", DOUBLE_SLOWLY)
@pytest.mark.parametrize("name", by_speed(EXACT))
def test_log_densities_are_exact_to_rounding(name, bits):
    case, dtype = EXACT[name], DTYPES[bits]
    with jax.enable_x64(bits == 64):
        found = jit(lambda *row: case.make(*row[:-1]).log_prob(row[-1]))(*case.columns(dtype))
    assert found.dtype == dtype
    errors = [
        roundings(f, value, 1 + abs(value) + condition, dtype)
        for f, (value, condition) in zip(np.asarray(found), conditioned(name))
    ]
    assert_right(errors, case.rows)


SLOPED = {name: case for name, case in EXACT.items() if len({*case.fixed, *case.tied}) < len(case.rows[0])}


@functools.cache
def exact_slopes(name):
    """Of some rows of a case, by row and place, `t df/dt` for each argument, and what its rounding is measured by."""
    case, found = EXACT[name], {}
    for n in range(0, len(case.rows), max(1, len(case.rows) // 16)):
        row, paths = case.rows[n], exact.measured(case, case.rows[n])
        sizes = [abs(exact.read(row, path)) for path in paths]
        if max(sizes, default=1) > 1e18 or min(sizes, default=1) < 1e-18:
            continue  # JAX's derivative of a quotient has squares, which must be numbers in 32 bits
        for path in (path for path in paths if path[0] not in case.tied):
            inner = lambda *at, path=path: exact.slope(case.log_prob, at, path)  # noqa: E731
            value, curved = exact.value_and_condition(inner, case, row)
            found[n, path] = value, 1 + abs(value) + curved + conditioned(name)[n][1]
    return found


@pytest.mark.parametrize("bits", DOUBLE_SLOWLY)
@pytest.mark.parametrize("name", by_speed(SLOPED, LONG_SLOPES.union(exact.MORE)))
def test_slopes_are_exact_to_rounding(name, bits):
    """The slope in a relative change of each argument, whose own condition is that of its slopes in all the others."""
    case, dtype = EXACT[name], DTYPES[bits]
    places = [n for n in range(len(case.rows[0])) if n not in case.fixed]

    @jit
    def slopes(*row):
        total = lambda *row: jnp.sum(case.make(*row[:-1]).log_prob(row[-1]))  # noqa: E731
        return jax.grad(total, argnums=places)(*row)

    with jax.enable_x64(bits == 64):
        found = [np.asarray(slope, float) for slope in slopes(*case.columns(dtype))]
    errors, where = [], []
    for (n, path), (value, scale) in exact_slopes(name).items():
        f, t = found[places.index(path[0])][(n, *path[1:])], exact.read(case.rows[n], path)
        if math.isfinite(nearest(value / mpf(t), np.float32)):
            errors.append(roundings(f * t, value, scale, dtype))
            where.append((case.rows[n], path, f, float(value / mpf(t))))
    assert_right(errors, where)


SUMMARIES = {name: case for name, case in EXACT.items() if case.mean or case.variance}


def leaves(value):
    """The numbers of nested lists, in order."""
    return [exact.read(value, path) for path in exact.entries(value)]


@pytest.mark.parametrize("bits", DOUBLE_SLOWLY)
@pytest.mark.parametrize("name", by_speed(SUMMARIES))
def test_moments_are_exact_to_rounding(name, bits):
    case, dtype = EXACT[name], DTYPES[bits]
    rows = case.parameters()
    with jax.enable_x64(bits == 64):
        columns = [np.asarray(column, dtype) for column in zip(*rows)]
        found = jit(lambda *row: (case.make(*row).mean, case.make(*row).variance))(*columns)
    errors, where = [], []
    for n, row in enumerate(rows):
        for what, function, all_found in zip(("mean", "variance"), (case.mean, case.variance), found):
            if function is None:
                continue
            for k, f in enumerate(np.ravel(np.asarray(all_found)[n])):
                one = lambda *at, function=function, k=k: leaves(function(*at))[k]  # noqa: E731
                value, condition = exact.value_and_condition(one, case, row)
                finite = mpf(0) if math.isinf(nearest(value, dtype)) else abs(value) + condition
                if what == "mean" and case.variance:  # a mean of zero is known to its sd's rounding
                    finite += abs(leaves(case.variance(*map(high, row)))[k]) ** 0.5
                errors.append(roundings(f, value, finite, dtype))
                where.append((what, row, f, float(value)))
    assert_right(errors, where)


CDFS = {name: case for name, case in EXACT.items() if case.cdf}


@pytest.mark.parametrize("bits", DOUBLE_SLOWLY)
@pytest.mark.parametrize("name", by_speed(CDFS))
def test_distribution_functions_are_exact_to_rounding(name, bits):
    case, dtype = EXACT[name], DTYPES[bits]
    with jax.enable_x64(bits == 64):
        found = np.asarray(jit(lambda *row: case.make(*row[:-1]).cdf(row[-1]))(*case.columns(dtype)))
    errors, where = [], []
    for n in range(0, len(case.rows), max(1, len(case.rows) // 60)):
        row, f = case.rows[n], found[n]
        value, condition = exact.value_and_condition(case.cdf, case, row)
        if condition * float(np.finfo(dtype).eps) > 0.1 * abs(value):
            continue  # the arguments' rounding makes it another number
        errors.append(roundings(f, value, abs(value) + condition, dtype))
        where.append((row, f, float(value)))
    assert_right(errors, where)


WITHOUT_LOG_TAILS = ("TruncatedNormal", "TruncatedNormal, one bound")  # what they have is the logarithm of `cdf`


@pytest.mark.parametrize("bits", DOUBLE_SLOWLY)
@pytest.mark.parametrize("name", by_speed(name for name in CDFS if name not in WITHOUT_LOG_TAILS))
def test_log_tails_are_exact_to_rounding_where_the_probability_is_no_number(name, bits):
    case, dtype = EXACT[name], DTYPES[bits]
    both = lambda *row: (d := case.make(*row[:-1])) and (d.log_cdf(row[-1]), d.log_survival(row[-1]))  # noqa: E731
    with jax.enable_x64(bits == 64):
        found = [np.asarray(tail) for tail in jit(both)(*case.columns(dtype))]
    errors, where = [], []
    with mp.workdps(120):
        below = [case.cdf(*map(high, row)) for row in case.rows]
        told = [n for n, tail in enumerate(below) if min(tail, 1 - tail) > mpf(10) ** -90]  # beyond, the digits end
        for n in told[:: max(1, len(told) // 16)]:
            row = case.rows[n]
            for f, log_tail in (
                (found[0], lambda *at: mpmath.log(case.cdf(*at))),
                (found[1], lambda *at: mpmath.log(1 - case.cdf(*at))),
            ):
                value, condition = exact.value_and_condition(log_tail, case, row)
                errors.append(roundings(f[n], value, 1e-2 + abs(value) + condition, dtype))
                where.append((row, f[n], float(value)))
    assert errors
    assert_right(errors, where)


QUANTILED = {name: case for name, case in EXACT.items() if case.icdf}


@pytest.mark.parametrize("bits", DOUBLE_SLOWLY)
@pytest.mark.parametrize("name", by_speed(QUANTILED))
def test_quantiles_are_exact_to_rounding(name, bits):
    case, dtype = EXACT[name], DTYPES[bits]
    rows = [(*row, exact.single(q)) for row in case.parameters() for q in QUANTILES]
    with jax.enable_x64(bits == 64):
        columns = [np.asarray(column, dtype) for column in zip(*rows)]
        found = np.asarray(jit(lambda *row: case.make(*row[:-1]).icdf(row[-1]))(*columns))
    errors, where = [], []
    for f, row in zip(found, rows):
        value, condition = exact.value_and_condition(case.icdf, case, row)
        finite = mpf(0) if math.isinf(nearest(value, dtype)) else abs(value) + condition
        errors.append(roundings(f, value, finite, dtype))
        where.append((row, f, float(value)))
    assert_right(errors, where)


@pytest.mark.parametrize("bits", DOUBLE_SLOWLY)
@pytest.mark.parametrize("name", exact.DIVERGENCES)
def test_divergences_are_exact_to_rounding(name, bits):
    (family, parameters, rows, formula), dtype = exact.DIVERGENCES[name], DTYPES[bits]
    with jax.enable_x64(bits == 64):
        columns = [np.asarray(column, dtype) for column in zip(*rows)]
        found = jit(lambda *row: dist.kl_divergence(family(*row[:parameters]), family(*row[parameters:])))(*columns)
    case = exact.Exact(family, rows, formula)
    errors = []
    for f, row in zip(np.asarray(found), rows):
        value, condition = exact.value_and_condition(formula, case, row)
        errors.append(roundings(f, value, 1 + abs(value) + condition, dtype))
    assert_right(errors, list(zip(rows, found)))
