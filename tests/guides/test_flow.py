"""Flows: bijections of FlowJAX as guides, held to integrals, to numerical derivatives, and to refusing what is none."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import Same, flow_of_flowjax
from scipy import integrate, stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.pytree import pytree, static
from vbppl.guides.base import Start
from vbppl.guides.layers.flow import Flow
from vbppl.target.guide_program import network_value
from vbppl.target.target import Target


def banana(z):
    return -(z[0] ** 2) / 2 - (z[1] - z[0] ** 2 / 2) ** 2


# Given `z[0]` the other is normal, so that all is known: 2 pi / sqrt 2, and moments of a normal.
BANANA = {"log_evidence": np.log(2 * np.pi) - np.log(2) / 2, "mean": [0.0, 0.5], "sd": [1.0, 1.0]}


@vb.model
def few_groups(y):
    tau = vb.sample("tau", dist.HalfNormal(1.0))
    with vb.plate("group", len(y)):
        theta = vb.sample("theta", dist.Normal(0.0, tau))
        vb.sample("y", dist.Normal(theta, 0.5), obs=y)


Y = np.array([0.3, -0.6, 1.4])


@pytest.mark.slow
def test_a_flow_of_flowjax_is_within_a_fiftieth_nat_of_a_banana_and_right_about_it():
    posterior = vb.fit(vb.density(banana, 2), flow_of_flowjax(2))
    assert posterior.check().verdict == "good" and posterior.status.converged
    assert -4 * posterior.elbo.se < BANANA["log_evidence"] - posterior.elbo.value < 0.02
    np.testing.assert_allclose(posterior.mean()["z"], BANANA["mean"], atol=0.05)
    np.testing.assert_allclose(posterior.sd()["z"], BANANA["sd"], rtol=0.07)


@pytest.mark.slow
def test_a_flow_of_a_model_samples_predicts_is_stored_and_goes_on(tmp_path):
    guide = flow_of_flowjax(4)
    posterior = vb.fit(few_groups(Y), guide, method=vb.Stochastic(steps=4000))
    # Given tau each theta is normal and is summed out.
    prior = lambda tau: 2 * stats.norm.pdf(tau)  # noqa: E731
    weight = lambda tau: prior(tau) * np.prod(stats.norm.pdf(Y, 0, np.hypot(tau, 0.5)))  # noqa: E731
    evidence = integrate.quad(weight, 0, 12)[0]
    mean = integrate.quad(lambda tau: tau * weight(tau), 0, 12)[0] / evidence
    gap = np.log(evidence) - np.array([posterior.elbo.value, vb.fit(few_groups(Y), "full_rank").elbo.value])
    assert -4 * posterior.elbo.se < gap[0] < gap[1] / 2
    assert abs(posterior.mean()["tau"] - mean) < 0.1 * posterior.sd()["tau"]
    draws = posterior.sample(50, seed=1)
    assert np.all(draws["tau"] > 0) and posterior.predict(few_groups(Y), n=7)["y"].shape == (7, 3)

    path = tmp_path / "fit.npz"
    vb.save(posterior, path)
    with pytest.raises(vb.ModelError, match="whose guide has code"):
        vb.load(path, few_groups(Y))
    again = vb.load(path, few_groups(Y), guide=guide)
    np.testing.assert_array_equal(again.log_prob(draws), posterior.log_prob(draws))
    with pytest.raises(vb.ModelError, match="parameters"):
        vb.load(path, few_groups(Y), guide=flow_of_flowjax(4, nn_width=8))
    with pytest.raises(vb.ModelError, match="guide with another log density"):
        vb.load(path, few_groups(Y), guide=flow_of_flowjax(4, nn_activation=jnp.tanh))

    still = vb.Stochastic(steps=1, optimizer=optax.sgd(0.0))
    warm = vb.fit(few_groups(Y), guide, start=posterior, method=still)
    np.testing.assert_allclose(warm.log_prob(draws), posterior.log_prob(draws), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_the_density_of_a_flow_is_the_change_of_variables_by_numerical_derivatives(x64):
    guide, target, h = flow_of_flowjax(3), vb.density(lambda z: -jnp.sum(z**2), 3), 1e-5
    phi = guide.init(target, Start(np.array([0.3, -2.0, 5.0]), np.log([0.5, 2.0, 1.0])))
    rng = np.random.default_rng(0)
    phi = jax.tree.map(lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape), phi)
    for noise in rng.standard_normal((5, 3)):
        z = lambda e: np.asarray(guide.draw(phi, e[None], target).z)[0]  # noqa: E731
        jacobian = np.stack([(z(noise + h * axis) - z(noise - h * axis)) / (2 * h) for axis in np.eye(3)])
        expected = stats.norm.logpdf(noise).sum() - np.linalg.slogdet(jacobian)[1]
        assert float(guide.draw(phi, noise[None], target).log_q[0]) == pytest.approx(expected, abs=1e-6)
        assert float(guide.log_prob(phi, z(noise)[None], target)[0]) == pytest.approx(expected, abs=1e-6)


@pytree
class Kept:
    """As Paramax's `NonTrainable`: holds what is not trainable, and a setting."""

    tree: Any
    word: Any = max  # no data: a network's activation is none either


@pytree
class Moved:
    """A shift that stays, then one that is learnt."""

    kept: Kept
    shift: Any
    shape: tuple = static(default=(2,))
    cond_shape: None = None

    def transform_and_log_det(self, e):
        return e + self.kept.tree["by"] + self.shift, jnp.zeros(())

    def inverse_and_log_det(self, v):
        return v - self.kept.tree["by"] - self.shift, jnp.zeros(())


def test_what_is_marked_as_not_trainable_stays_under_weight_decay(monkeypatch):
    monkeypatch.setitem(sys.modules, "paramax", SimpleNamespace(NonTrainable=Kept))
    guide = Flow(Moved(Kept({"by": jnp.array([3.0, -1.0])}), jnp.array([5.0, 5.0])))
    psi = guide.init(vb.density(banana, 2), Start(np.zeros(2, np.float32)))["layers"][0]
    decay = optax.adamw(0.01, weight_decay=10.0)
    # A gradient of zero, as Paramax has it of what it marks.
    updates, _ = decay.update(jax.tree.map(np.zeros_like, psi), decay.init(psi), psi)
    found = network_value(guide.layers[0].network, optax.apply_updates(psi, updates))
    np.testing.assert_array_equal(found.kept.tree["by"], [3.0, -1.0])
    np.testing.assert_allclose(found.shift, 4.5)
    assert found.kept.word is max


@pytest.mark.slow
def test_what_flowjax_marks_as_not_trainable_stays_under_weight_decay():
    paramax, bijections = pytest.importorskip("paramax"), pytest.importorskip("flowjax.bijections")
    fixed = paramax.non_trainable(bijections.Affine(jnp.array([1.0, 2.0]), jnp.array([0.5, 2.0])))
    with pytest.raises(TypeError, match="weights to learn"):
        Flow(fixed)
    free = bijections.Affine(jnp.array([5.0, 5.0]), jnp.array([1.0, 1.0]))
    guide = Flow(bijections.Chain([fixed, free]))
    decay = vb.Stochastic(steps=20, optimizer=optax.adamw(0.01, weight_decay=10.0))
    posterior = vb.fit(vb.density(banana, 2), guide, method=decay)
    found = network_value(guide.layers[0].network, posterior.solution.phi["layers"][0]).bijections
    for before, after in zip(jax.tree.leaves(fixed), jax.tree.leaves(found[0]), strict=True):
        np.testing.assert_array_equal(before, after)
    assert np.all(found[1].loc < 5.0)


def test_a_flow_says_which_bijection_it_has():
    assert repr(Flow(Same(weight=np.zeros((40, 30), np.float32)))) == "Flow(Same of shape (4,), 1,200 weights)"


@pytest.mark.slow
def test_the_block_of_the_page_runs():
    flow_of_flowjax(2)  # where FlowJAX is installed; the page itself is run without it
    page = (Path(__file__).parents[2] / "docs" / "choosing_a_guide.md").read_text()
    blocks = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "vb.fit" in block]
    names = {}
    for block in (blocks[0], *(block for block in blocks if "flowjax" in block)):
        exec(block, names)
    assert names["posterior"].check().verdict == "good" and type(names["posterior"].guide) is Flow


def one_way(v):
    raise NotImplementedError("no closed form")


@pytest.mark.parametrize(
    "given, words",
    [
        (Same(shape=(3,)), r"shape \(3,\) and cond_shape None.*4 latent numbers"),
        (Same(cond_shape=(2,)), r"cond_shape \(2,\).*\n.*Give one of shape \(4,\) without conditions"),
        (Same(back=one_way), r"no inverse_and_log_det.\n  no closed form\n.*goes both ways"),
        (Same(shape=()), r"must be a bijection of FlowJAX of shape \(dim,\)"),
        (SimpleNamespace(bijection=Same()), "of a distribution its .bijection"),
        (Same(weight=None), "with arrays of finite floats as weights to learn"),
        (1, "the flow's bijection must be a bijection of FlowJAX"),
        (Same(shape=2), r"must be a bijection of FlowJAX of shape \(dim,\)"),
        (Same(weight=np.arange(3)), "the flow's bijection must be.*with arrays of finite floats as weights"),
        (Same(weight=np.array(np.nan)), "the flow's bijection must be.*with arrays of finite floats as weights"),
        (
            Same(back=lambda v: (v, jnp.zeros(4))),
            r"inverse_and_log_det of the flow's bijection returns shapes \(\(4,\), \(4,\)\).*\n.*a sum",
        ),
        (Same(back=lambda v: (v, jnp.zeros(1))), r"returns shapes \(\(4,\), \(1,\)\) at a point of shape \(4,\)"),
        (Same(back=lambda v: (v[:3], jnp.zeros(()))), r"returns shapes \(\(3,\), \(\)\)"),
    ],
)
def test_what_is_no_bijection_of_the_model_is_refused(given, words):
    with pytest.raises((TypeError, vb.ModelError), match=words):
        Flow(given).init(Target.of(few_groups(Y)), Start(np.zeros(4, np.float32)))


def test_a_flow_has_no_fixed_draws():
    with pytest.raises(vb.ModelError, match="a Flow guide: its draws are not those of a Gaussian"):
        vb.fit(few_groups(Y), Flow(Same()), method=vb.Deterministic())
