"""The annealed Adam is Adam; an Optax transformation is used as it is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vbppl.inference.stochastic.optimizers import AnnealedAdam, Optax

GRADIENTS = np.random.default_rng(0).standard_normal((20, 3, 2)).astype(np.float32)
PARAMS = {"guide": np.ones((3, 2), np.float32)}


def walked(optimizer, fallen, last=0.01, metric=lambda power, pace: {"guide": 1.0}):
    """The params after one step for each gradient."""
    rates = optimizer.rates(jnp.arange(len(GRADIENTS)), fallen, 1.0, last, 0.5)
    params, moments = PARAMS, optimizer.init(PARAMS)
    for i, gradient in enumerate(GRADIENTS):
        now = jax.tree.map(lambda leaf, i=i: leaf[i], rates)
        params, moments = optimizer.update({"guide": gradient}, moments, params, now, metric)
    return params["guide"]


def by_optax(transformation):
    params, state = PARAMS, transformation.init(PARAMS)
    for gradient in GRADIENTS:
        update, state = transformation.update({"guide": gradient}, state, params)
        params = optax.apply_updates(params, update)
    return params["guide"]


def test_without_annealing_it_is_optax_adam():
    ours = walked(AnnealedAdam(first=0.1), jnp.zeros(20))
    np.testing.assert_allclose(ours, by_optax(optax.adam(0.1, b1=0.9, b2=0.99)), rtol=1e-5)


def test_the_step_size_falls_by_half_a_cosine():
    progress = jnp.arange(20) / 20
    schedule = optax.cosine_decay_schedule(0.1, decay_steps=20, alpha=0.01)
    expected = by_optax(optax.adam(schedule, b1=0.9, b2=0.99))
    np.testing.assert_allclose(walked(AnnealedAdam(), progress), expected, rtol=1e-5)


def test_a_step_is_as_long_as_the_metric_says():
    """For Adam a metric of 3 is a step size three times as long; it is asked with the power that was given."""
    ours = walked(AnnealedAdam(first=0.1), jnp.zeros(20), metric=lambda power, pace: {"guide": 6.0 * power * pace})
    np.testing.assert_allclose(ours, by_optax(optax.adam(0.3, b1=0.9, b2=0.99)), rtol=1e-5)


@pytest.mark.parametrize(
    "transformation",
    [
        optax.adam(1e-2),
        optax.sgd(1e-2, momentum=0.9),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(0.1, 0.0, 20), weight_decay=0.1)),
    ],
    ids=["adam", "momentum", "chain"],
)
def test_a_transformation_is_used_as_it_is(transformation):
    np.testing.assert_allclose(walked(Optax(transformation), jnp.zeros(20)), by_optax(transformation), rtol=1e-6)


def test_moments_and_params_keep_the_dtype_of_the_params(x64):
    optimizer = AnnealedAdam()
    rates = jax.tree.map(lambda leaf: leaf[0], optimizer.rates(jnp.arange(1), jnp.zeros(1), 1.0, 0.01, 1.0))
    moments = optimizer.init(PARAMS)
    after = optimizer.update({"guide": GRADIENTS[0]}, moments, PARAMS, rates, lambda power, pace: {"guide": 1.0})
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {np.dtype(PARAMS["guide"].dtype)}
