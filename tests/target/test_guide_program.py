"""Guide programs beside their models: closed-form divergences only where they hold."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.errors import ModelError
from vbppl.guides.layers.sinh_arcsinh import SinhArcsinh
from vbppl.model.evaluation.starts import initial_params
from vbppl.model.trace import abstract_sites
from vbppl.target import guide_program
from vbppl.target.density import made_params
from vbppl.target.pullback import Pullback

positive = dist.constraints.positive
FLIPS = np.array([1, 1, 1, 1, 1, 1, 1, 1, 0, 0])
LOG_EVIDENCE = -6.20456  # case 1: the beta function B(9, 3)


@vb.model
def coin(flips):
    p = vb.sample("p", dist.Beta(1.0, 1.0))
    with vb.plate("flip", len(flips)):
        vb.sample("flips", dist.Bernoulli(p), obs=flips)


@vb.guide
def beta(a, b):
    vb.sample("p", dist.Beta(vb.param("a", a, constraint=positive), vb.param("b", b, constraint=positive)))


@functools.partial(jax.jit, static_argnames="draws")
def terms(guide, target, rows=None, draws=2000):
    """At independent draws of the guide, each `(draws, ...)`: the bound's terms, the log weights, the values."""
    phi, target = initial_params(guide), target.showing(rows or {})

    def one(key):
        drawn = guide_program.drawn(guide, phi, target, key)
        return guide_program.bound(guide, phi, target, key), drawn.log_p - drawn.log_q, drawn.values

    return jax.vmap(one)(jax.random.split(jax.random.key(3), draws))


def same_mean(one, two):
    one, two = np.asarray(one, np.float64), np.asarray(two, np.float64)
    error = np.sqrt((one.var() + two.var()) / len(one))
    return abs(one.mean() - two.mean()) < 4 * error + 1e-9


def test_the_bound_of_a_conjugate_guide_is_that_of_case_1(x64):
    target = vb.target(coin(FLIPS))
    bound, weights, draws = terms(beta(np.array(9.0), np.array(3.0)), target)
    np.testing.assert_allclose(weights, LOG_EVIDENCE, atol=1e-5)
    assert same_mean(bound, weights)
    # The divergence part has no noise, so what is left is the likelihood's.
    grid = np.linspace(1e-9, 1 - 1e-9, 200_001)
    divergence = np.trapezoid(st.beta(9, 3).pdf(grid) * st.beta(9, 3).logpdf(grid), grid)
    likelihood = st.bernoulli.logpmf(FLIPS, np.asarray(draws["p"])[:, None]).sum(1)
    np.testing.assert_allclose(bound, likelihood - divergence, rtol=1e-6)

    bound, weights, _ = terms(beta(np.array(2.0), np.array(2.0)), target)
    assert same_mean(bound, weights) and weights.std() > 0.1


def test_a_guide_inside_the_prior_of_normals_has_no_noise_at_all(x64):
    @vb.model
    def prior():
        vb.sample("x", dist.Normal(-1.0, 1.0))

    @vb.guide
    def guide():
        vb.sample("x", dist.Normal(2.0, 2.0))

    bound, _, _ = terms(guide(), vb.target(prior()), draws=20)
    np.testing.assert_allclose(bound, -5.306853, atol=1e-6)


@vb.model
def family(y):
    parent = vb.sample("parent", dist.Normal(0.0, 1.0))
    with vb.plate("row", 3):
        child = vb.sample("child", dist.Normal(parent, 0.5))
        vb.sample("y", dist.Normal(child, 1.0), obs=y)


@vb.guide
def parent_first():
    parent = vb.sample("parent", dist.Normal(0.3, 0.8))
    with vb.plate("row", 3):
        vb.sample("child", dist.Normal(0.5 * parent, 0.7))


@vb.guide
def child_first():
    with vb.plate("row", 3):
        child = vb.sample("child", dist.Normal(0.2, 0.7))
    vb.sample("parent", dist.Normal(child.sum() / 2, 0.8))


@pytest.mark.parametrize("guide", [parent_first, child_first])
def test_the_order_of_the_guide_does_not_bias_the_bound(guide, x64):
    target = vb.target(family(np.array([1.0, 2.0, -0.5])))
    bound, weights, _ = terms(guide(), target)
    assert same_mean(bound, weights)
    if guide is parent_first:
        assert bound.std() < weights.std()


def test_log_weights_are_log_joint_less_log_prob(x64):
    target = vb.target(family(np.array([1.0, 2.0, -0.5])))
    guide, key = child_first(), jax.random.key(5)
    drawn = guide_program.drawn(guide, {}, target, key)
    values = {name: drawn.values[name] for name in ("parent", "child")}
    by_hand = st.norm.logpdf(values["child"], 0.2, 0.7).sum()
    by_hand += st.norm.logpdf(values["parent"], values["child"].sum() / 2, 0.8)
    np.testing.assert_allclose(drawn.log_p - drawn.log_q, target.model.log_joint(values) - by_hand, rtol=1e-10)
    np.testing.assert_allclose(guide_program.log_prob_at(guide, {}, target, drawn.z), by_hand, rtol=1e-10)


@vb.model
def rows_of(y):
    mu = vb.sample("mu", dist.Normal(0.0, 1.0))
    with vb.plate("row", 4):
        z = vb.sample("z", dist.Normal(mu, 1.0))
        vb.sample("y", dist.Normal(z, 1.0), obs=vb.subsample(y))


@vb.guide
def guide_of_rows(y):
    vb.sample("mu", dist.Normal(0.1, 0.5))
    with vb.plate("row", 4):
        loc = vb.subsample(vb.param("loc", np.arange(4.0)))
        vb.sample("z", dist.Normal(loc + vb.subsample(y), 0.9))


def test_model_and_guide_show_the_same_rows_and_the_bound_stays_unbiased(x64):
    y = np.array([0.5, -1.0, 2.0, 0.0])
    target, guide = vb.target(rows_of(y)), guide_of_rows(y)
    full, full_weights, _ = terms(guide, target)
    assert same_mean(full, full_weights)
    pairs = [terms(guide, target, {"row": np.array(pair)}) for pair in ((0, 3), (1, 2))]
    for part in (0, 1):
        assert same_mean(np.mean([pair[part] for pair in pairs], axis=0), full)


def test_a_deterministic_site_of_the_guide_is_no_value_of_the_model(x64):
    @vb.model
    def model():
        scale = vb.param("scale", 2.0)
        vb.deterministic("twice", 2 * vb.sample("x", dist.Normal(0.0, scale)))

    @vb.guide
    def guide():
        vb.deterministic("scale", -1.0)
        vb.sample("x", dist.Normal(0.0, 1.0))

    draw = guide_program.drawn(guide(), {}, vb.target(model()), jax.random.key(0)).values
    assert set(draw) == {"x", "twice"}
    np.testing.assert_allclose(draw["twice"], 2 * draw["x"])


@vb.guide
def observing():
    vb.sample("p", dist.Beta(2.0, 2.0))
    vb.sample("flips", dist.Bernoulli(0.5), obs=1)


@vb.guide
def weighing():
    vb.factor("f", vb.sample("p", dist.Beta(2.0, 2.0)))


@pytest.mark.parametrize("guide", [observing, weighing])
def test_a_guide_has_no_data(guide):
    with pytest.raises(ModelError, match="a guide has no data"):
        guide_program.check(vb.target(coin(FLIPS)), abstract_sites(guide()))


@vb.guide
def tempered():
    vb.sample("p", dist.Beta(2.0, 2.0).weighted(2.0))


@vb.guide
def half_masked():
    vb.sample("p", dist.Beta(2.0, 2.0).expand((1,)).mask(np.array([False])).to_event(1))


@pytest.mark.parametrize(("guide", "word", "what"), [(tempered, "weighted(w)", ()), (half_masked, "mask(m)", (1,))])
def test_a_site_of_a_guide_counts_once(guide, word, what):
    @vb.model
    def model():
        vb.sample("p", dist.Beta(1.0, 1.0).expand(what).to_event() if what else dist.Beta(1.0, 1.0))

    with pytest.raises(ModelError, match="^site 'p': a guide's distribution is one to draw from") as caught:
        vb.fit(model(), guide())
    assert f"Leave .{word} to the model" in str(caught.value)


def test_draws_of_a_guide_must_be_differentiable():
    @vb.guide
    def guide():
        vb.sample("p", dist.Beta(2.0, jnp.exp(vb.param("b", 0.0))))

    guide_program.check(vb.target(coin(FLIPS)), abstract_sites(guide()))
    assert float(made_params(guide(), {"b": (np.array(0.5),)})["b"]) == 0.5


def test_a_guide_program_is_refused_on_a_target_seen_through_a_layer():
    bent = Pullback(vb.target(coin(FLIPS)), SinhArcsinh(), None)
    with pytest.raises(ModelError, match="speaks of values on the supports"):
        vb.fit(bent, beside(), method=vb.Stochastic(steps=10))


@vb.guide
def beside():
    vb.sample("p", dist.Beta(2.0, 2.0))
