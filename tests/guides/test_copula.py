"""Bent margins: the Yeo-Johnson transformation against 50 digits, and the Gaussian copula that has them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy import integrate, stats

import vbppl as vb
from vbppl.guides.base import Start
from vbppl.guides.layers.base import unlayered
from vbppl.guides.layers.yeo_johnson import LIMIT, MAX_BEND, YeoJohnson, bent, straightened
from vbppl.target.target import density

POWERS = [-0.95, -0.5, -1e-3, -1e-9, 0.0, 1e-12, 0.1, 0.7, 0.95]
PLACES = [-300.0, -30.0, -3.0, -0.1, -1e-8, 0.0, 1e-12, 1e-3, 0.5, 2.0, 10.0, 100.0, 1e4]


def exact(v, p):
    """`T(v; p)` and `log T'` in 50 digits, as the textbook writes them."""
    with mpmath.workdps(50):
        v, p = mpmath.mpf(v), mpmath.mpf(p)
        sign, a = mpmath.sign(v), abs(v)
        r = 1 + sign * p
        return sign * ((1 + a) ** r - 1) / r, (r - 1) * mpmath.log(1 + a)


@pytest.mark.parametrize("p", POWERS)
def test_the_bend_its_slope_and_its_inverse_are_exact(p):
    for v in PLACES:
        t, log_slope = exact(v, p)
        more, found = bent(np.array(v), np.array(p))
        assert v + more == pytest.approx(float(t), rel=1e-12, abs=1e-300)
        assert found == pytest.approx(float(log_slope), rel=1e-13, abs=1e-300)
        less, back = straightened(np.array(float(t)), np.array(p))
        assert float(t) + less == pytest.approx(v, rel=1e-13, abs=1e-300)
        assert back == pytest.approx(float(log_slope), rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_bend_is_the_identity_bit_for_bit(dtype, x64):
    layer, e = YeoJohnson(), (30 * np.random.default_rng(0).standard_normal((1000, 3))).astype(dtype)
    psi = YeoJohnson.of(np.array([0.3, -7.0, 1e3]), np.array([0.1, 1.0, 7.0]), np.zeros(3)).astype(dtype)
    for go in (layer.forward_and_log_det, layer.inverse_and_log_det, jax.jit(layer.forward_and_log_det)):
        moved, log_det = go(psi, e)
        np.testing.assert_array_equal(moved, e)
        np.testing.assert_array_equal(log_det, 0.0)


@pytest.mark.slow
def test_slopes_are_finite_and_right_where_a_bend_begins_and_at_the_middle(x64):
    layer, psi = YeoJohnson(), np.zeros((3, 2))
    for e in (np.array([0.7, -0.4]), np.zeros(2)):
        for go in (layer.forward_and_log_det, layer.inverse_and_log_det):
            # Forwards dT/dp = (1 + a) log(1 + a) - a at p = 0, on both sides; backwards the same taken off.
            sign = 1 if go == layer.forward_and_log_det else -1
            a = np.abs(e)
            slope = jax.jacobian(lambda psi, go=go, e=e: go(psi, jnp.asarray(e))[0])(jnp.asarray(psi))[:, 2]
            np.testing.assert_allclose(np.diagonal(slope), sign * MAX_BEND * ((1 + a) * np.log1p(a) - a), atol=1e-12)
            np.testing.assert_allclose(jax.jacobian(lambda e, go=go: go(psi, e)[0])(jnp.asarray(e)), np.eye(2))


@pytest.mark.parametrize("p", [-LIMIT, -0.4, 0.0, 0.8])
def test_a_margin_integrates_to_one(p, x64):
    guide, target = vb.guides.Copula(vb.MeanField()), density(lambda z: -jnp.sum(z**2), 1)
    psi = YeoJohnson.of(np.array([0.2]), np.array([1.5]), np.array([p]))
    phi = vb.guides.Copula.of(guide.base, (np.array([-0.3]), np.array([[1.2]])), psi)
    ends = guide.bend(phi, np.array([[-15.0], [15.0]]), target)[0].ravel()
    z = np.linspace(*ends, 400_001)
    mass = integrate.simpson(np.exp(np.asarray(guide.log_prob(phi, z[:, None], target))), x=z)
    assert mass == pytest.approx(1, abs=1e-6)


def test_with_no_bend_it_is_the_gaussian_and_the_host_agrees_with_the_program(x64):
    target, rng = density(lambda z: -jnp.sum(z**2), 3), np.random.default_rng(1)
    guide, start = vb.guides.Copula(), Start(np.array([0.3, -1.0, 2.0]), np.log([0.5, 1.0, 2.0]))
    phi = guide.init(target, start)
    noise = rng.standard_normal((50, 3))
    drawn, plain = guide.draw(phi, noise, target), vb.FullRank().draw(phi["base"], noise, target)
    np.testing.assert_array_equal(drawn.z, plain.z)
    np.testing.assert_array_equal(drawn.log_q, plain.log_q)
    phi["layers"][0][2] = [0.5, -1.0, 3.0]
    drawn, inside = guide.draw(phi, noise, target), jax.jit(guide.draw)(phi, noise, target)
    np.testing.assert_allclose(drawn.z, inside.z, rtol=1e-12, atol=1e-13)  # numbers of order one
    np.testing.assert_allclose(drawn.log_q, inside.log_q, rtol=1e-12)
    base, base_phi, bend = unlayered(guide, phi, target)
    u, log_det = bend.back(np.asarray(drawn.z))
    np.testing.assert_allclose(u, base.transform(base_phi, noise), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(bend.there(u)[1], -log_det, rtol=1e-9)


def test_margins_are_those_of_bent_normals(x64):
    """The share of draws below a point is the normal's below where it comes from: four standard errors."""
    target, guide = density(lambda z: -jnp.sum(z**2), 2), vb.guides.Copula()
    psi = YeoJohnson.of(np.zeros(2), np.ones(2), np.array([0.9, -0.6]))
    phi = vb.guides.Copula.of(guide.base, (np.array([0.1, 0.0]), np.array([[1.0, 0.0], [0.8, 0.6]])), psi)
    z = np.asarray(guide.draw(phi, np.random.default_rng(2).standard_normal((40_000, 2)), target).z)
    for at, (loc, p) in enumerate([(0.1, 0.9), (0.0, -0.6)]):
        for v in (-1.0, 0.5, 2.0):
            share = stats.norm.cdf(v - loc)
            below = np.mean(z[:, at] < float(exact(v, p)[0]))
            assert abs(below - share) < 4 * np.sqrt(share * (1 - share) / len(z))
