"""Blocks drawn several times: weights against quadrature, and what the rule between two draws must not miss."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import vbppl as vb
from benchmarks.posteriors.further import dogs_each_of
from vbppl.guides.layers.newton_step import NewtonStep, step_to_blocks
from vbppl.inference.redrawn import redrawn
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


@pytest.mark.slow
def test_a_step_in_the_density_that_gradients_do_not_see_has_no_weight(guide):
    target = vb.density(lambda z: counted(z) - 5.0 * (z[1] > -1.0), 5)
    z, _, log_weight = redrawn(*guide, target, np.random.default_rng(0), 200)
    lost = ~np.isfinite(log_weight)
    assert 0.1 < lost.mean() < 0.9


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
