"""Mean field in many dims: as exact as in few, by few gradients, under a verdict that knows its limits."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

import vbppl as vb
import vbppl.distributions as dist
from vbppl.posterior import quantities
from vbppl.posterior.weighted_draws import WeightedDraws
from vbppl.target.batched import points_side_by_side
from vbppl.target.target import Target

SD = np.geomspace(1e-3, 1.0, 100)


def independent(z):
    return -0.5 * jnp.sum(((z - 0.5) / SD) ** 2)


def test_coordinates_a_hundred_times_narrower_than_the_start_take_few_steps():
    posterior = vb.fit(vb.density(independent, len(SD)), "mean_field", progress=False).uncorrected()
    np.testing.assert_allclose(posterior.sd()["z"], SD, rtol=1e-3)
    assert np.all(np.abs(posterior.mean()["z"] - 0.5) < 1e-3 * SD)
    # By sd^2 as it stands, whatever the draws show of the curvature, it takes 24.
    assert posterior.status.steps <= 18


def test_weights_that_are_worth_nothing_accuse_no_mean_in_many_dims():
    rng, dim = np.random.default_rng(0), 600
    z, log_q = rng.standard_normal((448, dim)), np.zeros(448)
    # The draws are the target's own, so no mean is off; the weights are noise, one of which is all that counts.
    draws = WeightedDraws.of(z, log_q + 30 * rng.standard_normal(448), log_q, log_q, np.ones(448, bool))
    found = quantities.errors(vb.density(lambda z: -0.5 * jnp.sum(z**2), dim), draws, None)
    assert draws.ess < 3
    assert np.isinf(found.mean_se).all() and np.isinf(found.log_sd_se).all()


@vb.model
def groups(count, group, number):
    with vb.plate("group", number):
        rate = vb.sample("rate", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(count)):
        vb.sample("count", dist.Poisson(jnp.exp(rate[group])), obs=count)


@vb.model
def regression(x, y):
    beta = vb.sample("beta", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def side_by_side(model):
    target = Target.of(model)
    return points_side_by_side(target.data_size, False, target.layout)


def test_few_points_go_side_by_side_where_each_makes_numbers_of_its_own_and_many_where_a_matrix_serves_all():
    group = np.repeat(np.arange(2_000), 5)
    assert side_by_side(groups(np.ones(len(group), int), group, 2_000)) == 4
    assert side_by_side(regression(np.ones((100, 20_000), np.float32), np.ones(100))) == 32
    assert side_by_side(regression(np.ones((200_000, 8), np.float32), np.ones(200_000))) == 4  # heavy
    assert side_by_side(regression(np.ones((100, 3), np.float32), np.ones(100))) == 32
