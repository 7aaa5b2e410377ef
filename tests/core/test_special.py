"""The shared formulas against SciPy and fifty decimal digits, and their slopes where the obvious form has none."""

from __future__ import annotations

import decimal
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from vbppl.core import special

decimal.getcontext().prec = 60
EPS = {32: float(np.finfo(np.float32).eps), 64: float(np.finfo(np.float64).eps)}


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("name", ["xlogy", "xlog1py"])
def test_products_with_a_logarithm_are_scipys(name, bits):
    x = np.array([0.0, 0.0, 2.0, -1.5, 2.0, 1e-30])
    y = np.array([0.0, 3.0, 3.0, 0.2, 0.0, 1e-30]) - (name == "xlog1py")
    with jax.enable_x64(bits == 64):
        found = getattr(special, name)(jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(found, getattr(scipy.special, name)(x, y), rtol=4 * EPS[bits], atol=4 * EPS[bits])


@pytest.mark.parametrize("x", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("function, edge", [(special.xlogy, 0.0), (special.xlog1py, -1.0)])
def test_products_with_a_logarithm_have_slopes_at_the_edge(function, edge, x):
    assert np.all(np.isfinite(jax.grad(function, argnums=(0, 1))(x, edge)))


def test_at_zero_the_slope_of_x_log_y_is_log_y():
    np.testing.assert_allclose(jax.grad(special.xlogy)(0.0, 3.0), np.log(3.0), rtol=1e-6)


def test_the_safe_logarithm_is_the_logarithm_or_minus_infinity():
    y = np.array([-1.0, 0.0, 1e-30, 2.0], np.float32)
    np.testing.assert_allclose(special.safe_log(y), [-np.inf, -np.inf, np.log(np.float32(1e-30)), np.log(2)], rtol=1e-6)
    np.testing.assert_array_equal(jax.vmap(jax.grad(special.safe_log))(y), [0, 0, 1 / y[2], 0.5])


POSITIVE = [1e-12, 1e-4, 0.5, 0.6931, 0.6932, 1.0, 5.0, 30.0, 100.0]


@pytest.mark.parametrize("bits", [32, 64])
def test_log1mexp_is_exact_to_rounding_for_small_and_large_numbers(bits):
    with jax.enable_x64(bits == 64):
        x = jnp.asarray(POSITIVE)
        found, slopes = special.log1mexp(x), jax.vmap(jax.grad(special.log1mexp))(x)
    exact = [float((1 - (-Decimal(float(value))).exp()).ln()) for value in x]
    steep = [float(1 / (Decimal(float(value)).exp() - 1)) for value in x]
    smallest = float(jnp.finfo(found.dtype).tiny)
    np.testing.assert_allclose(found, exact, rtol=8 * EPS[bits], atol=smallest)
    np.testing.assert_allclose(slopes, steep, rtol=8 * EPS[bits], atol=smallest)


@pytest.mark.parametrize("bits", [32, 64])
def test_log_cosh_neither_overflows_nor_bends(bits):
    with jax.enable_x64(bits == 64):
        x = jnp.asarray([-1e4, -3.0, 0.0, 1e-3, 0.7, 80.0, 1e4])
        found, slopes = special.log_cosh(x), jax.vmap(jax.grad(special.log_cosh))(x)
    exact = [float(((Decimal(float(value)).exp() + (-Decimal(float(value))).exp()) / 2).ln()) for value in x]
    np.testing.assert_allclose(found, exact, rtol=4 * EPS[bits], atol=4 * EPS[bits])
    np.testing.assert_allclose(slopes, np.tanh(np.asarray(x, float)), rtol=4 * EPS[bits], atol=4 * EPS[bits])


def test_rightmost_dimensions_are_reduced_and_the_others_stay():
    x = np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(special.sum_rightmost(x, 2), [x[0].sum(), x[1].sum()])
    np.testing.assert_array_equal(special.all_rightmost(x > 3, 1), [[False, True, True], [True, True, True]])
    assert special.sum_rightmost(x, 0) is x


def test_the_constants_are_what_they_are_called():
    assert special.HALF_LOG_TWO_PI == pytest.approx(np.log(2 * np.pi) / 2, abs=1e-16)
    assert special.LOG_TWO == pytest.approx(np.log(2.0), abs=1e-16)
