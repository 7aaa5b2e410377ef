"""Short chains leave right draws as they are, and tell of wrong ones how wrong they are at least."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import vbppl as vb
import vbppl.distributions as dist
from benchmarks.posteriors.kinds import items_of
from vbppl.core.keys import raw_key
from vbppl.core.numerics.draws import fresh_draws
from vbppl.core.watch import Watch
from vbppl.posterior import judge, quantities, short_chains
from vbppl.posterior.quantities import SIGNIFICANT
from vbppl.posterior.report import error_reasons
from vbppl.posterior.short_chains import STEPS
from vbppl.posterior.weighted_draws import Ellipsoid, WeightedDraws

ROWS = 4


@vb.model
def funnel():
    v = vb.sample("v", dist.Normal(0.0, 1.0))
    vb.sample("x", dist.Normal(jnp.zeros(ROWS), jnp.exp(v)).to_event(1))


def of_funnel(rng, count):
    """Exact draws."""
    v = rng.standard_normal((count, 1))
    return np.concatenate([v, np.exp(v) * rng.standard_normal((count, ROWS))], axis=1)


def alike(z):
    """Draws of one weight each."""
    nothing = np.zeros(len(z))
    return WeightedDraws.of(z, nothing, nothing, nothing, np.ones(len(z), bool))


def test_chains_leave_exact_draws_of_a_funnel_as_they_are():
    """Averages of place, of ripples and of the tails over 5 x 2,000 pairs do not move."""
    target, moves = vb.target(funnel()), []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        z = of_funnel(rng, 2_000)
        with np.errstate(invalid="ignore", over="ignore"):  # as in `judge`
            after = short_chains.moved(target, z, Ellipsoid.around(z, np.full(2_000, 5e-4)), rng, Watch())
        each = [np.concatenate([np.tanh(at), np.sin(3 * at), np.abs(at[:, :1]) > 2], axis=1) for at in (z, after)]
        moves.append(each[1] - each[0])
        assert np.mean(np.any(z != after, axis=1)) > 0.7
    moved = np.concatenate(moves)
    assert np.all(np.abs(moved.mean(axis=0)) < 4.5 * moved.std(axis=0) / len(moved) ** 0.5)  # of 11: 1e-4


def test_right_draws_are_not_accused_and_errors_are_standard():
    """Of 25 sets of exact normal draws: scores of means and log sds have sd 1, so that beyond 4 is one in 16,000."""
    scales = np.array([0.1, 1.0, 30.0])
    target = vb.density(lambda z: -0.5 * jnp.sum((z / jnp.asarray(scales, z.dtype)) ** 2), 3)
    scores = []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        z = scales * rng.standard_normal((256, 3))
        after = short_chains.moved(target, z, Ellipsoid.around(z, np.full(256, 1 / 256)), rng, Watch())
        found = quantities.differences(target, z, after, np.arange(256), None)
        scores.append([found.mean / found.mean_se, found.log_sd / found.log_sd_se])
    assert np.std(scores) == pytest.approx(1.0, abs=4 / (2 * 150) ** 0.5)
    assert np.abs(scores).max() < SIGNIFICANT


def test_a_density_that_rounding_makes_infinite_draws_no_chain_to_itself():
    """As of a Gamma whose x is 0, far out, and x^(-1/2) infinite; steps are long enough to come there."""
    rng = np.random.default_rng(0)
    z = np.log(rng.gamma(0.5, size=(400, 3)))
    target = vb.density(lambda z: jnp.sum(jnp.where(z < -30, jnp.inf, 0.5 * z - jnp.exp(z))), 3)
    with np.errstate(invalid="ignore", over="ignore"):
        after = short_chains.moved(target, z, Ellipsoid(np.zeros(3), 20 * np.eye(3)), rng, Watch())
    assert after.min() > -30 and np.any(after != z)


def test_starts_in_common_count_once():
    """Draws that stand for ten each are worth a tenth: standard errors are the root of ten larger."""
    target, rng = vb.density(lambda z: -0.5 * jnp.sum(z**2), 1), np.random.default_rng(0)
    few = rng.standard_normal((200, 1))
    after = few + rng.standard_normal((200, 1))
    one = quantities.differences(target, few, after, np.arange(200), None)
    ten = quantities.differences(target, *(np.repeat(z, 10, axis=0) for z in (few, after)), np.arange(2000) // 10, None)
    np.testing.assert_allclose(ten.mean_se, one.mean_se, rtol=1e-6)
    np.testing.assert_allclose(ten.log_sd_se, one.log_sd_se, rtol=1e-6)


def test_few_starts_are_not_mirror_images_of_each_other(monkeypatch):
    """Draws are antithetic: 128 of 1,536, evenly in their order, were 64 pairs, and errors 1.2 times as told."""
    z, seen = fresh_draws(np.random.default_rng(0), 1_536, 2), []
    monkeypatch.setattr(short_chains, "moved", lambda _, z, *__: seen.append(z) or z)
    for seed in range(5):
        target, rng = vb.density(lambda z: -0.5 * jnp.sum(z**2), 2), np.random.default_rng(seed)
        short_chains.errors_by_chains(target, alike(z), None, 128, rng, Watch())
        mirrored = np.any(np.all(np.abs(seen[-1][:, None] + seen[-1]) < 1e-12, axis=2), axis=1)
        assert len(np.unique(seen[-1], axis=0)) == 128 and mirrored.mean() < 0.3  # .08 by chance


def test_where_time_is_over_chains_end_with_their_last_whole_move(monkeypatch):
    target, asked = vb.density(lambda z: -0.5 * jnp.sum(z**2), 2), []
    over = type("Over", (Watch,), {"is_over": property(lambda _: asked.append(1) or len(asked) > STEPS + 3)})()
    z = np.random.default_rng(0).standard_normal((50, 2))
    cut = short_chains.moved(target, z, Ellipsoid(np.zeros(2), np.eye(2)), np.random.default_rng(1), over)
    monkeypatch.setattr(short_chains, "MOVES", 1)
    one = short_chains.moved(target, z, Ellipsoid(np.zeros(2), np.eye(2)), np.random.default_rng(1), Watch())
    np.testing.assert_array_equal(cut, one)
    assert len(asked) == STEPS + 4 and np.any(one != z)


@pytest.mark.parametrize("narrow, accused", [(0.8, False), (0.6, True)])
def test_a_scale_too_narrow_is_told_and_not_exaggerated(narrow, accused):
    """In one of 20 dims draws are too narrow, by log(1 / .8) = .22, which is within the limit of .30, or .51."""
    target, rng = vb.density(lambda z: -0.5 * jnp.sum(z**2), 20), np.random.default_rng(1)
    z = rng.standard_normal((1_000, 20))
    z[:, 7] *= narrow
    found = short_chains.errors_by_chains(target, alike(z), None, 1_000, rng, Watch())
    assert 0.7 * -np.log(narrow) < found.log_sd[7] < -np.log(narrow) + 4 * (found.log_sd_se[7] + 1 / 2_000**0.5)
    off, _ = error_reasons(found, beyond=0.0)
    assert bool(off) == accused and all("z[7]" in each for each in off)


def test_an_answer_that_chains_move_is_poor_whatever_its_weights_said():
    @vb.model
    def line():
        vb.sample("slope", dist.Normal(jnp.zeros(3), 2.0).to_event(1))

    posterior = vb.fit(line())
    solution, card = posterior.solution, posterior.check()
    found = judge._Found(solution, card.elbo, card.tail, judge.Curvature(), None)
    assert judge._after_chains(found, card, 10_000, raw_key(0), Watch()) is card and card.verdict == "good"
    draws = dataclasses.replace(card.draws, z=card.draws.z * np.array([1.0, 0.4, 1.0]))
    half = dataclasses.replace(card, draws=draws, log_weight_sd=0.5)
    accused = judge._after_chains(found, half, 10_000, raw_key(0), Watch())
    assert accused.verdict == "poor" and accused.advice and "Markov chains" in accused.reasons[0]
    assert "the sd of slope[1] is off by" in accused.reasons[0]
    assert np.isnan(accused.log_evidence)  # by weights that have been seen to be wrong
    alike = dataclasses.replace(half, log_weight_sd=0.1)  # .005 nats apart: chains are not asked
    assert judge._after_chains(found, alike, 10_000, raw_key(0), Watch()) is alike
    late = judge._after_chains(found, half, 10_000, raw_key(0), Watch(deadline=0.0))
    assert late.verdict == "good" and "the time was over" in late.notes[0].text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")
@pytest.mark.parametrize(
    "guide, seed", [*((vb.guides.ConditionalLaplace(), seed) for seed in range(3)), ("auto", 1)], ids=str
)
def test_item_responses_whose_slopes_have_a_latent_scale_are_not_called_good(guide, seed):
    """By NUTS with the abilities integrated out, `slope_sd` has mean .415 and sd .368: two standard errors .02."""
    posterior = vb.fit(items_of(), guide, seed=seed)
    off = abs(posterior.mean()["slope_sd"] - 0.415) / 0.368, abs(np.log(posterior.sd()["slope_sd"] / 0.368))
    assert posterior.check().verdict != "good" or (off[0] < 0.25 and off[1] < 0.3)
