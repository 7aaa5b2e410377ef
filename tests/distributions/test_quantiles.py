"""Heavy-tailed sites by the quantiles of their priors: the map against mpmath, and its inverse and slope."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import vbppl.distributions as dist
from vbppl.distributions.quantiles import by_quantiles

AT = np.array([-8.0, -4.0, -1.0, -0.4, -1e-3, 1e-3, 0.3, 0.6, 2.0, 5.0, 8.0])
CASES = [(dist.Cauchy(0.0, 2.5), 2), (dist.HalfCauchy(0.1), 1)]


def quantile(d, halves, z):
    """`F^-1(Phi(z))` to sixty digits, by the complement in the upper tail."""
    with mpmath.workdps(60):
        below = mpmath.ncdf(mpmath.mpf(float(z)))
        t = mpmath.tan(mpmath.pi * (below - 0.5)) if halves == 2 else mpmath.tan(mpmath.pi * below / 2)
        return float(t * mpmath.mpf(float(np.float32(d.scale))))


@pytest.mark.parametrize(("d", "halves"), CASES)
def test_the_value_is_the_quantile_to_single_precision(d, halves):
    exact = [quantile(d, halves, np.float32(z)) for z in AT]
    # A relative error of z^2 units in the last place is what a rounding of z itself makes.
    np.testing.assert_allclose(by_quantiles(d).forward(AT.astype(np.float32)), exact, rtol=2e-5)


@pytest.mark.parametrize(("d", "halves"), CASES)
def test_the_prior_of_its_coordinate_is_a_standard_normal(d, halves, x64):
    value, log_det = jax.jit(by_quantiles(d).forward_and_log_det)(AT)
    np.testing.assert_allclose(d.log_prob(value) + log_det, -(AT**2) / 2 - np.log(2 * np.pi) / 2, rtol=1e-9)
    slope = jax.jit(jax.vmap(jax.grad(lambda z: by_quantiles(d).forward(z))))(AT)
    np.testing.assert_allclose(log_det, np.log(slope), rtol=1e-9)
    np.testing.assert_allclose(by_quantiles(d).inverse(value), AT, rtol=1e-9)


@pytest.mark.parametrize(("d", "halves"), CASES)
def test_far_out_nothing_overflows(d, halves):
    z = np.array([-40.0, -13.0, 13.0, 40.0], np.float32)
    value, log_det = jax.jit(by_quantiles(d).forward_and_log_det)(z)
    slopes = jax.jit(jax.vmap(jax.grad(lambda z: d.log_prob(by_quantiles(d).forward(z)))))(z)
    assert np.isfinite([value, log_det, slopes]).all() and (halves == 2 or (value > 0).all())


def test_wrappers_are_looked_through_and_other_families_have_none():
    wrapped = dist.Cauchy(jnp.arange(3.0), 1.0).expand([2, 3]).to_event(1)
    np.testing.assert_allclose(by_quantiles(wrapped).forward(jnp.zeros((2, 3))), np.tile(np.arange(3.0), (2, 1)))
    assert by_quantiles(dist.Normal(0.0, 1.0)) is None and by_quantiles(dist.StudentT(3.0)) is None
