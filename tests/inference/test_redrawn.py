"""Blocks drawn several times: weights against quadrature, and what the rule between two draws must not miss."""

from __future__ import annotations

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import vbppl as vb
from benchmarks.posteriors.further import dogs_each_of
from vbppl.core.keys import raw_key
from vbppl.core.watch import Watch
from vbppl.guides.layers.newton_step import NewtonStep, step_to_blocks
from vbppl.inference.bound import Estimate
from vbppl.inference.redrawn import redrawn
from vbppl.inference.solution import NotSearched, Status
from vbppl.posterior.judge import _with_blocks_redrawn
from vbppl.posterior.report import Report
from vbppl.posterior.weighted_draws import WeightedDraws
from vbppl.target.batched import evaluate

COUNTS = np.array([0.0, 4.0, 1.0, 7.0])
DRAWS = 4_000


def counted(z):
    """Counts whose log rates have a latent spread: given it, blocks of one coordinate, each of them skewed."""
    rate = jnp.exp(z[0] / 2) * z[1:]
    return jnp.sum(COUNTS * rate - jnp.exp(rate)) - jnp.sum(z**2) / 2 - 2.5 * jnp.log(2 * jnp.pi)


def exactly():
    """Log evidence, and the means of the first coordinate and of the last, by quadrature over both."""
    p, x = np.linspace(-7, 7, 401), np.linspace(-9, 9, 901)
    rate = np.exp(p / 2)[:, None] * x
    each = np.exp(COUNTS[:, None, None] * rate - np.exp(rate) - x**2 / 2) / np.sqrt(2 * np.pi) * (x[1] - x[0])
    inner = each.sum(2)
    density = inner.prod(0) * np.exp(-(p**2) / 2) / np.sqrt(2 * np.pi) * (p[1] - p[0])
    mean = density / density.sum() @ np.stack([p, each[3] @ x / inner[3]], 1)
    return np.log(density.sum()), mean


@pytest.fixture(scope="module")
def guide():
    """A prior for the spread, and a Laplace approximation of the rest from zero, which one step does not reach."""
    step, nothing = NewtonStep((0,), ((1,), (2,), (3,), (4,))), np.zeros(4, np.float32)
    psi = {"mean": nothing, "slope": nothing[:, None], "log_sd": nothing, "shift": nothing, "log_scale": nothing}
    return vb.guides.ConditionalLaplace(layers=(step,)), step, {"base": np.zeros((2, 5), np.float32), "layers": (psi,)}


def test_redrawn_blocks_weigh_as_quadrature_says_and_vary_less(guide):
    target, rng = vb.density(counted, 5), np.random.default_rng(0)
    assert step_to_blocks(guide[0]) is guide[1] and step_to_blocks(vb.FullRank()) is None
    z, log_p, log_weight = redrawn(*guide, target, rng, DRAWS)
    log_evidence, mean = exactly()
    weight = np.exp(log_weight - log_evidence)
    se = weight.std() / np.sqrt(DRAWS)
    assert weight.mean() == pytest.approx(1.0, abs=4 * se) and se < 0.05
    np.testing.assert_allclose(log_p, evaluate(target, z)[0])
    for place, exact in zip((0, 4), mean):
        error = np.mean(weight * (z[:, place] - exact))
        assert error == pytest.approx(0.0, abs=4 * np.std(weight * (z[:, place] - exact)) / np.sqrt(DRAWS))
    # One draw of each block: weights of the guide as it is.
    e = rng.standard_normal((DRAWS, 5)).astype(np.float32)
    whole, log_det = guide[0].bend(guide[2], e, target)
    plain = evaluate(target, np.asarray(whole))[0] + log_det + (e**2).sum(1) / 2 + 2.5 * np.log(2 * np.pi)
    assert weight.std() < 0.8 * np.exp(plain - log_evidence).std()


@pytest.mark.parametrize("of", [lambda z: z[1] * z[2], lambda z: -5.0 * (z[1] > -1.0)], ids=["blocks meet", "a step"])
def test_what_gradients_or_blocks_miss_of_the_density_leaves_no_weight(guide, of):
    target = vb.density(lambda z: counted(z) + of(z), 5)
    assert np.isneginf(redrawn(*guide, target, np.random.default_rng(0), 200)[2]).all()


MISSED = "do not add up to the density: their weights are left out"


@pytest.mark.parametrize(("seconds", "noted"), [(5.0, ["as the time was over"]), (None, [MISSED])])
def test_a_report_stays_and_says_so_where_time_or_what_blocks_miss_forbids_another(guide, seconds, noted):
    target = vb.density(lambda z: counted(z) + z[1] * z[2], 5)
    status = Status("done", True, "", 0, 200_000, seconds=100.0)  # so that half a minute would go into redrawing
    solution = SimpleNamespace(guide=guide[0], phi=guide[2], target=target)
    known = Report(Estimate(0.0, 0.1), WeightedDraws.none(5), NotSearched("no"), log_weight_sd=1.0, status=status)
    again = _with_blocks_redrawn(SimpleNamespace(solution=solution), known, raw_key(0), Watch.lasting(seconds))
    assert [note.text.split(", ")[-1] for note in again.notes] == noted and again.verdict == known.verdict


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_spreads_of_many_rows_non_centred_by_hand_are_right(seed):
    # By quadrature over both effects of each dog, and importance sampling over the five hyperparameters, worth 2,900
    # draws: log evidence -281.303 +- .016, spreads .318 +- .196 and .410 +- .244, each known to .02 sd.
    posterior = vb.fit(dogs_each_of(), seed=seed)
    mean, sd = posterior.mean()["sigma"], posterior.sd()["sigma"]
    assert posterior.report.verdict in ("good", "corrected")
    # The guide alone is .2 sd and .25 log sd off.
    np.testing.assert_allclose((mean - [0.318, 0.410]) / [0.196, 0.244], 0, atol=0.12)
    np.testing.assert_allclose(np.log(sd / [0.196, 0.244]), 0, atol=0.17)
