"""Sites without variance are seen by the quantiles of their priors, where that is what an answer takes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import vbppl as vb
import vbppl.distributions as dist
from vbppl.target.drivers import heavy_tailed
from vbppl.target.target import seen_by_quantiles, with_data

X = np.array([-1.5, -1.0, -0.8, -0.5, -0.1, 0.3, 0.6, 0.9, 1.2, 1.6])
Y = (X > 0.1).astype(int)


@vb.model
def separation(x, y):
    """Two classes without overlap, so the posterior's tails are the prior's (Gelman et al. 2008)."""
    a = vb.sample("a", dist.Cauchy(0.0, 10.0))
    b = vb.sample("b", dist.Cauchy(0.0, 2.5))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Bernoulli(logits=a + b * x), obs=y)


def by_quadrature():
    """Quartiles of b and log evidence: both priors are uniform in their probabilities."""
    p = (np.arange(3000) + 0.5) / 3000
    a, b = 10 * np.tan(np.pi * (p - 0.5)), 2.5 * np.tan(np.pi * (p - 0.5))
    log_l = sum(-np.logaddexp(0, (1 - 2 * label) * (a[:, None] + b * at)) for at, label in zip(X, Y))
    weight = np.exp(log_l)
    cumulative = np.cumsum(weight.sum(0)) / weight.sum()
    return np.interp([0.25, 0.5, 0.75], cumulative, b), np.log(weight.mean())


@pytest.fixture(scope="module")
def posterior():
    return vb.fit(separation(X, Y))


def test_where_the_data_say_little_the_tails_are_right(posterior):
    quartiles, log_evidence = by_quadrature()
    assert posterior.report.verdict == "good" and posterior.target.layout.by_quantiles == ("a", "b")
    drawn = np.asarray(posterior.sample(8000, seed=1)["b"])
    np.testing.assert_allclose(np.quantile(drawn, [0.25, 0.5, 0.75]), quartiles, rtol=0.06)
    assert posterior.report.log_evidence == pytest.approx(log_evidence, abs=0.05)
    assert [note for note in posterior.report.notes if note.topic == "tails" and "kept" in note.text]


def test_they_stay_so_with_other_data_and_in_a_file(posterior, tmp_path):
    other = with_data(posterior.target, separation(X[:4], Y[:4]))
    assert other.layout.by_quantiles == ("a", "b")
    vb.save(posterior, tmp_path / "fit.npz")
    again = vb.load(tmp_path / "fit.npz", separation(X, Y))
    np.testing.assert_array_equal(again.sample(5, seed=0)["b"], posterior.sample(5, seed=0)["b"])
    draws = posterior.sample(50, seed=2)
    np.testing.assert_allclose(again.log_prob(draws), posterior.log_prob(draws), rtol=1e-5)


@vb.model
def horseshoe(y):
    tau = vb.sample("tau", dist.HalfCauchy(1.0))
    with vb.plate("row", len(y)):
        local = vb.sample("local", dist.HalfCauchy(1.0))
        with vb.plate("of_two", 2, dim=-2):
            beta = vb.sample("beta", dist.Cauchy(0.0, tau * local))
            vb.sample("y", dist.Normal(beta, 1.0), obs=jnp.stack([y, y]))


def test_the_density_of_values_does_not_depend_on_how_they_are_seen():
    target = vb.target(horseshoe(np.array([0.3, -2.0])))
    assert heavy_tailed(target) == ("tau", "local", "beta")
    seen = seen_by_quantiles(target, heavy_tailed(target))
    assert not seen.layout.movable and not seen.parameterisations
    z = np.random.default_rng(0).normal(size=target.dim)
    values = seen.constrain(z)
    joint = [float(each.log_density(each.unconstrain(values), jacobian=False)) for each in (target, seen)]
    assert joint[0] == pytest.approx(joint[1], rel=1e-5)
    np.testing.assert_allclose(seen.unconstrain(values), z, atol=1e-4)
    dets = float(seen.log_density(z)) - joint[1]
    assert float(seen.log_det(values)) == pytest.approx(dets, rel=1e-4)


def test_an_answer_that_is_good_is_left_as_it_is():
    @vb.model
    def mean(y):
        vb.sample("y", dist.Normal(vb.sample("mu", dist.Cauchy(0.0, 5.0)), 1.0).expand([20]).to_event(1), obs=y)

    posterior = vb.fit(mean(np.linspace(-1, 2, 20)))
    assert posterior.report.verdict == "good" and not posterior.target.layout.by_quantiles
