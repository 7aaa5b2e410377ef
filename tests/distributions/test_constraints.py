"""Every bijector against the numerical determinant of its own map, at moderate and at extreme places."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import jit

from vbppl.core.errors import ModelError
from vbppl.distributions.constraints.base import independent
from vbppl.distributions.constraints.compose import Chain
from vbppl.distributions.constraints.integer import (
    boolean,
    integer_interval,
    multinomial,
    nonnegative_integer,
    positive_integer,
)
from vbppl.distributions.constraints.matrix import (
    corr_cholesky,
    corr_matrix,
    lower_cholesky,
    positive_definite,
    real_matrix,
)
from vbppl.distributions.constraints.scalar import (
    Affine,
    Positive,
    Power,
    greater_than,
    interval,
    less_than,
    nonnegative,
    positive,
    real,
    softplus_positive,
    unit_interval,
)
from vbppl.distributions.constraints.vector import ordered_vector, positive_ordered_vector, real_vector, simplex

# Each with the shape of one event.
CASES = {
    "real": (real, ()),
    "positive": (positive, ()),
    "nonnegative": (nonnegative, ()),
    "softplus_positive": (softplus_positive, ()),
    "greater_than": (greater_than(1.5), ()),
    "less_than": (less_than(-1.0), ()),
    "interval": (interval(-1.0, 3.0), ()),
    "unit_interval": (unit_interval, ()),
    "affine": (Affine(1.0, -2.0), ()),
    "power": (Chain((positive, Power(-0.5))), ()),
    "chain": (Chain((real, Affine(0.5, 1.5), Positive())), ()),
    "real_vector": (real_vector, (3,)),
    "independent": (independent(interval(0.0, np.array([1.0, 2.0, 3.0])), 1), (3,)),
    "simplex": (simplex, (4,)),
    "ordered_vector": (ordered_vector, (4,)),
    "positive_ordered_vector": (positive_ordered_vector, (4,)),
    "chain_of_vectors": (Chain((real_vector, simplex)), (3,)),
    "real_matrix": (real_matrix, (2, 2)),
    "lower_cholesky": (lower_cholesky, (3, 3)),
    "corr_cholesky": (corr_cholesky, (4, 4)),
    "positive_definite": (positive_definite, (3, 3)),
    "corr_matrix": (corr_matrix, (3, 3)),
}


def free_coordinates(name, x):
    """The entries of one event that determine the others."""
    if name in ("simplex", "chain_of_vectors"):
        return x[:-1]
    if name in ("lower_cholesky", "positive_definite"):
        return x[np.tril_indices(x.shape[-1])]
    if name in ("corr_cholesky", "corr_matrix"):
        return x[np.tril_indices(x.shape[-1], -1)]
    return x.reshape(-1)


@functools.cache
def examine(name):
    """Everything that the tests of one event look at, compiled once."""
    bijector, event = CASES[name]
    z_shape = bijector.unconstrained_shape(event)

    @jit
    def run(z):
        x, log_det = bijector.forward_and_log_det(z.reshape(z_shape))

        def free(z):
            return free_coordinates(name, bijector.forward(z.reshape(z_shape)))

        return x, log_det, jax.jacfwd(free)(z), bijector.inverse(x).reshape(-1), bijector.check(x)

    return run


def size(name):
    bijector, event = CASES[name]
    return int(np.prod(bijector.unconstrained_shape(event)))


@pytest.mark.parametrize("name", CASES)
def test_a_map_has_its_inverse_determinant_and_image(name, x64):
    @settings(max_examples=12, deadline=None, database=None, derandomize=True)
    @given(st.lists(st.floats(-4.0, 4.0), min_size=size(name), max_size=size(name)))
    def check(numbers):
        z = np.array(numbers)
        x, log_det, jacobian, back, on_support = map(np.asarray, examine(name)(z))
        np.testing.assert_allclose(back, z, atol=1e-7)
        np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-8)
        assert x.shape == CASES[name][1] and log_det.shape == on_support.shape == () and on_support

    check()


@pytest.mark.parametrize("name", CASES)
def test_shapes_are_told_without_running(name):
    bijector, event = CASES[name]
    z_shape = bijector.unconstrained_shape((5, *event))
    assert bijector.constrained_shape(z_shape) == (5, *event)
    x, log_det = jax.eval_shape(bijector.forward_and_log_det, jnp.zeros(z_shape))
    assert (x.shape, log_det.shape) == ((5, *event), (5,))
    assert jax.eval_shape(bijector.inverse, x).shape == z_shape
    assert bijector.event_dim == len(event)
    assert len(z_shape) == 1 + bijector.unconstrained_dim


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_finite_far_out_in_32_bits(name):
    bijector, event = CASES[name]
    z_shape = bijector.unconstrained_shape(event)
    far = 40.0 if name == "positive_definite" else 50.0  # exp(2 * 50) has no place in 32 bits
    corners = np.random.default_rng(0).choice([-far, 0.0, far], (40, size(name)))
    corners[:2] = [[far], [-far]]
    weights = np.linspace(-1.0, 2.0, int(np.prod(event)) + 1, dtype=np.float32)

    @jit
    @jax.vmap
    def run(z):
        def both(z):
            x, log_det = bijector.forward_and_log_det(z.reshape(z_shape))
            return jnp.append(x.reshape(-1), log_det)

        value, pull = jax.vjp(both, z)
        return value, pull(weights)[0]

    with jax.enable_x64(False):
        for value in run(jnp.asarray(corners, jnp.float32)):
            assert value.dtype == jnp.float32 and np.all(np.isfinite(value))


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (1.0, 2.0), (1e6, 1e6 + 1), (-3.0, 0.0)])
def test_a_bounded_value_never_touches_its_bounds(low, high):
    x = np.asarray(interval(low, high).forward(np.array([-1000.0, -50.0, 0.0, 50.0, 1000.0], np.float32)))
    assert np.all((np.float32(low) < x) & (x < np.float32(high)))
    assert greater_than(low).forward(-200.0) > low and less_than(high).forward(-200.0) < high


def test_gradients_reach_the_bounds():
    slope = jax.jit(jax.grad(lambda high: interval(0.0, high).forward(0.5)))(3.0)
    np.testing.assert_allclose(slope, 1 / (1 + np.exp(-0.5)), rtol=1e-6)


def test_zero_is_the_centre_of_the_simplex():
    np.testing.assert_allclose(simplex.forward(jnp.zeros(3)), 0.25, rtol=1e-6)


@pytest.mark.slow
def test_maps_are_those_of_numpyro():
    numpyro = pytest.importorskip("numpyro.distributions")
    names = "positive unit_interval simplex ordered_vector lower_cholesky corr_cholesky positive_definite"
    for name in names.split():
        z = np.random.default_rng(1).normal(size=size(name))
        z = z.reshape(CASES[name][0].unconstrained_shape(CASES[name][1]))
        theirs = numpyro.biject_to(getattr(numpyro.constraints, name))(z)
        np.testing.assert_allclose(CASES[name][0].forward(z), theirs, rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "support, inside, outside",
    [
        (boolean, [0, 1], [-1, 2, 0.5]),
        (nonnegative_integer, [0, 7], [-1, 1.5]),
        (positive_integer, [1, 7], [0, 1.5]),
        (integer_interval(2, 4), [2, 3, 4], [1, 5, 2.5]),
        (positive, [1.0], [0.0, -1.0, np.nan]),
        (nonnegative, [0.0], [-1.0, np.nan]),
        (interval(0.0, 2.0), [0.0, 2.0], [-0.1, 2.1]),
        (real, [0.0], [np.nan, np.inf]),
        (multinomial(3), [[1, 2], [0, 3]], [[1, 1], [-1, 4]]),
        (simplex, [[0.5, 0.5]], [[0.5, 0.6], [-0.5, 1.5]]),
        (corr_cholesky, [np.eye(2)], [np.ones((2, 2)), 2 * np.eye(2)]),
    ],
    ids=str,
)
def test_a_support_knows_its_members(support, inside, outside):
    @jit
    def ask(inside, outside):
        return support.check(inside), support(outside), support.check(support.feasible(np.shape(inside)))

    members, strangers, feasible = ask(np.array(inside), np.array(outside))
    assert np.all(members) and not np.any(strangers) and np.all(feasible)


def test_no_map_leads_to_a_discrete_support():
    with pytest.raises(ModelError, match="discrete"):
        nonnegative_integer.forward(0.0)


def test_supports_describe_themselves():
    assert str(interval(0.0, 2.0)) == "interval(0.0, 2.0)"
    assert str(independent(positive, 1)) == "independent(positive, 1)"
    assert str(greater_than(np.zeros(3, np.float32))) == "greater_than(float32[3])"


def test_bounds_pass_through_jit_and_vmap():
    run = jax.jit(jax.vmap(lambda bijector, z: bijector.forward(z)))
    x = run(interval(jnp.array([0.0, 1.0]), jnp.array([1.0, 3.0])), jnp.zeros(2))
    np.testing.assert_allclose(x, [0.5, 2.0])
