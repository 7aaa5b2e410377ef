"""Trying some finds steps that are neither so long that a network breaks nor so short that it stands still."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vbppl as vb
import vbppl.distributions as dist
from vbppl.inference.stochastic.schedule import FINALISTS, LONGER, STEP_SIZES, TRIAL_STEPS, successive_halving

pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")


def chosen(run, asked):
    """The size that is chosen where `run` tells the bound, and nobody looks at the states between."""

    def trial(size, steps):
        yield
        return run(size, steps)

    def size():
        found.append((yield from successive_halving(trial, asked)))

    found = []
    assert len(list(size())) == len(STEP_SIZES) + FINALISTS  # a place after each try at which the fit can end
    return found[0]


def test_the_two_best_of_a_heat_run_again_and_the_better_wins():
    runs = []

    def run(size, steps):
        runs.append((size, steps))
        if steps == TRIAL_STEPS:
            return {
                STEP_SIZES[0]: math.nan,
                STEP_SIZES[1]: -5.0,
                STEP_SIZES[2]: -3.0,
                STEP_SIZES[3]: -2.0,
                STEP_SIZES[4]: -9.0,
            }[size]
        return {STEP_SIZES[3]: -1.5, STEP_SIZES[2]: -1.0}[size]

    size = chosen(run, None)
    assert size == STEP_SIZES[2]
    assert runs == [(size, TRIAL_STEPS) for size in STEP_SIZES] + [
        (STEP_SIZES[3], LONGER * TRIAL_STEPS),
        (STEP_SIZES[2], LONGER * TRIAL_STEPS),
    ]


def test_where_no_bound_is_finite_the_shortest_steps_are_taken():
    assert chosen(lambda size, steps: -math.inf, None) == STEP_SIZES[-1]


@pytest.mark.parametrize("asked", [260, 1000, 5000])
def test_a_race_takes_at_most_half_as_many_steps_as_are_asked_for(asked):
    steps = []
    chosen(lambda size, count: steps.append(count) or -size, asked)
    assert sum(steps) <= asked / 2 and len(steps) == len(STEP_SIZES) + FINALISTS


def layers(seed, *sizes):
    rng = np.random.default_rng(seed)
    pairs = zip(sizes[:-1], sizes[1:])
    return [(rng.standard_normal((a, b)) * np.sqrt(2 / (a + b)), np.zeros(b)) for a, b in pairs]


def mlp(weights, x):
    for w, b in weights[:-1]:
        x = jax.nn.relu(x @ w + b)
    return x @ weights[-1][0] + weights[-1][1]


@vb.model
def wide_decoder(x):
    weights = vb.param("decoder", layers(0, 2, 300, x.shape[1]))
    with vb.plate("row", len(x)):
        z = vb.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        vb.sample("x", dist.Bernoulli(logits=mlp(weights, z)).to_event(1), obs=vb.subsample(x, 1))


def encode(weights, x):
    loc, log_sd = jnp.split(mlp(weights, x), 2, axis=-1)
    return loc, jnp.exp(log_sd)


@pytest.mark.slow  # a minute; the vae of test_examples.py trains a network in the fast set
def test_networks_are_trained_without_a_step_size_as_well_as_with_a_good_one():
    """Steps of 0.1 make it overflow at once; of those given to Adam here, 0.01 is the best."""
    rng = np.random.default_rng(0)
    x = rng.random((500, 40)) < 1 / (1 + np.exp(-mlp(layers(7, 2, 30, 40), 2 * rng.standard_normal((500, 2)))))
    x = x.astype(np.float32)

    def bound(**settings):
        guide = vb.Amortized("z", encode, reads="x", params=layers(1, 40, 300, 4))
        return vb.fit(wide_decoder(x), guide, batch_size=50, method=vb.Stochastic(steps=1500, **settings, draws=1))

    ours = bound()
    by_hand = [bound(optimizer=optax.adam(optax.cosine_decay_schedule(r, 1500, 0.01))) for r in (0.1, 0.01, 0.001)]
    assert ours.status.skipped == 0
    assert ours.elbo.value > np.nanmax([fit.elbo.value for fit in by_hand]) - 0.2 * len(x)
    assert "step size: " in "\n".join(ours.check().details)
    assert ours.status.steps == len(ours.history) == 1500
    assert ours.status.gradients == 1500 + (5 + 2 * 4) * (1500 // 26)


@vb.model
def scores(y):
    level = vb.sample("level", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(y)):
        z = vb.sample("z", dist.Normal(level, 1.0))
        vb.sample("y", dist.Normal(z, 0.5), obs=vb.subsample(y))


@pytest.mark.parametrize(
    "guide", ["mean_field", vb.guides.Structured("row"), pytest.param("full_rank", marks=pytest.mark.slow)], ids=str
)
def test_what_moves_in_posterior_sds_needs_no_choice_of_a_step_size(guide):
    posterior = vb.fit(scores(np.linspace(-1, 1, 10)), guide, method=vb.Stochastic(steps=100, draws=1))
    assert posterior.status.gradients == 100 and "step size" not in "\n".join(posterior.check().details)


def scaled(weight, y):
    return weight * y, jnp.ones_like(y)


def test_all_sizes_and_lengths_that_are_tried_share_one_program(compilations):
    def fit(steps, seed):
        guide = vb.Amortized("z", scaled, reads="y", params=0.5)
        return vb.fit(scores(np.linspace(-1, 1, 10)), guide, method=vb.Stochastic(steps=steps, draws=1), seed=seed)

    fit(300, 0)
    before = compilations()
    assert fit(4000, 1).status.gradients > 4000
    assert compilations() == before


@pytest.mark.filterwarnings("error::DeprecationWarning")
def test_a_generator_that_can_be_read_once_is_left_to_the_fit():
    y = np.random.default_rng(0).normal(2.0, 1.0, 50).astype(np.float32)

    @vb.model
    def learnt(y, size):
        with vb.plate("row", size):
            vb.sample("y", dist.Normal(vb.param("loc", 0.0), 1.0), obs=vb.subsample(y))

    batches = (y[10 * (i % 5) : 10 * (i % 5) + 10] for i in range(1100))
    posterior = vb.fit(learnt(batches, 50), batch_size=10, method=vb.Stochastic(steps=1000, draws=1))
    assert posterior.status.gradients == 1000
    assert "untried, as a source can be read only once" in "\n".join(posterior.check().details)


def test_a_deadline_ends_the_search_for_a_step_size():
    guide = vb.Amortized("z", scaled, reads="y", params=0.5)
    seen = []
    posterior = vb.fit(scores(np.linspace(-1, 1, 10)), guide, seconds=1e-6, callback=seen.append)
    assert (posterior.status.reason, posterior.status.steps, seen) == ("deadline", 0, [])
    assert posterior.status.gradients == TRIAL_STEPS * 16  # of the first try
