"""The conditional Laplace guide: its density, what falls into blocks, what it gains, and where `auto` tries it."""

from __future__ import annotations

import dataclasses
import pickle

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_slopes
from scipy import special, stats

import vbppl as vb
import vbppl.distributions as dist
from benchmarks.posteriors import hierarchies
from vbppl.core.errors import ModelError
from vbppl.core.keys import raw_key
from vbppl.fitting.escalate import REMEDIES
from vbppl.fitting.plan import plan
from vbppl.fitting.remedies.rows import condition_rows
from vbppl.guides.base import Start
from vbppl.guides.layers.elimination import modified_cholesky
from vbppl.guides.layers.newton_step import NewtonStep
from vbppl.guides.layers.yeo_johnson import YeoJohnson
from vbppl.inference.deterministic.beyond.conditional_laplace import NestedSearch
from vbppl.inference.deterministic.beyond.hessian_blocks import blocks_of, predicted_gain
from vbppl.inference.deterministic.problem import Deterministic, Problem
from vbppl.target.axes import coordinate_names
from vbppl.target.batched import BatchedDensity, evaluate
from vbppl.target.layout import Apart
from vbppl.target.pullback import Pullback

pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")
SCHOOLS = -31.3113  # their log evidence, by quadrature over tau (`test_conditionally_structured.schools_exactly`)


def wavy(z):
    """A scale, and what one Newton step does not bring to its mode: far from a normal given the scale."""
    p, x = z
    return -(p**2) / 2 - jnp.exp(p) * (jnp.sqrt(1 + (x - p) ** 2) + 0.3 * jnp.sin(2 * x))


@pytest.fixture(scope="module")
def step():
    """A layer with any parameters, which begins far from the modes."""
    psi = {"mean": [1.5], "slope": [[-0.7]], "log_sd": [0.2], "shift": [0.3], "log_scale": [-0.2]}
    return NewtonStep((0,), ((1,),)), {name: np.array(value) for name, value in psi.items()}


def test_the_density_is_exact_where_newton_has_not_converged(step, x64):
    layer, psi = step
    target, p = vb.density(wavy, 2), np.linspace(-6.5, 6.5, 53)
    mode, _ = layer.conditionals(psi, p[:, None], target)
    slope = evaluate(target, np.stack([p, mode[:, 0]], axis=1))[1][:, 1]
    assert np.abs(slope[np.abs(p) < 2]).max() > 0.3  # at a mode it were zero
    # As a Jacobian of differences.
    e, h = np.array([[0.3, -1.2], [-1.0, 0.4], [1.5, 2.0]]), 1e-6
    z, log_det = layer.forward_and_log_det(psi, e, target)
    steps = [h * np.eye(2)[i] for i in range(2)]
    ways = [
        layer.forward_and_log_det(psi, e + d, target)[0] - layer.forward_and_log_det(psi, e - d, target)[0]
        for d in steps
    ]
    jacobian = np.stack(ways, axis=-1) / (2 * h)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-7)
    np.testing.assert_allclose(layer.inverse_and_log_det(psi, z, target)[0], e, atol=1e-9)
    # As an integral over a grid, in the two dims of z.
    x = np.linspace(-200, 200, 8001)
    grid = np.stack(np.meshgrid(p, x, indexing="ij"), axis=-1).reshape(-1, 2)
    back, inverse = layer.inverse_and_log_det(psi, grid, target)
    density = np.exp(stats.norm.logpdf(back).sum(axis=1) + inverse)
    assert density.sum() * (p[1] - p[0]) * (x[1] - x[0]) == pytest.approx(1.0, abs=1e-6)


def test_where_nothing_is_finite_or_concave_the_layer_is_still_a_bijection(step, x64):
    layer, psi = step

    def nowhere(z):
        """Without a number, convex, or so steep that the step overflows."""
        steep = jnp.where(z[0] < -2, 1e308 * z[1], z[1] ** 2)
        return -(z[0] ** 2) / 2 + jnp.where(z[0] > 0, jnp.log(-1.0 + 0 * z[1]), steep)

    target = vb.density(nowhere, 2)
    e = np.array([[1.0, 2.0], [-1.0, 2.0], [-3.0, 2.0], [1e6, -3.0]])
    z, log_det = layer.forward_and_log_det(psi, e, target)
    back, inverse = layer.inverse_and_log_det(psi, z, target)
    assert np.isfinite(z).all() and np.isfinite(log_det).all()
    np.testing.assert_allclose(back, e, rtol=1e-9)
    np.testing.assert_allclose(inverse, -log_det, rtol=1e-12)
    # Whatever the matrix, no number overflows; of a positive definite one it is Cholesky's factor.
    wild = jnp.array([[1.0, 1e30, 1e30], [1e30, -1e30, 1e30], [1e30, 1e30, 3.0]])
    assert np.isfinite(modified_cholesky(wild)).all()
    good = np.array([[2.0, 0.5, -0.3], [0.5, 1.0, 0.2], [-0.3, 0.2, 0.7]])
    np.testing.assert_allclose(modified_cholesky(jnp.asarray(good)), np.linalg.cholesky(good), atol=1e-12)


def schools_by_hand(y=cases.SCHOOLS_Y):
    return hierarchies.eight_schools_noncentred(np.asarray(cases.SCHOOLS_SIGMA, float), np.asarray(y, float))


@vb.model
def slopes(x, y):
    """Lines of groups, non-centred by hand: rows of two, a mean, two scales, a correlation and a noise."""
    mean = vb.sample("mean", dist.Normal(jnp.zeros(2), 2.0).to_event(1))
    tau = vb.sample("tau", dist.HalfNormal(jnp.ones(2)).to_event(1))
    corr = vb.sample("corr", dist.LKJCholesky(2, 2.0))
    noise = vb.sample("noise", dist.HalfNormal(1.0))
    z = vb.sample("z", dist.Normal(jnp.zeros((len(y), 2)), 1.0).to_event(2))  # no plate
    line = mean + z @ (tau[:, None] * corr).T
    vb.sample("y", dist.Normal(line[:, :1] + line[:, 1:] * x, noise).to_event(2), obs=y)


@vb.model
def crossed(y):
    """Two kinds of groups, each of which meets all of the other."""
    one, other = vb.sample("one", dist.HalfNormal(1.0)), vb.sample("other", dist.HalfNormal(1.0))
    a = vb.sample("a", dist.Normal(jnp.zeros(y.shape[0]), 1.0).to_event(1))
    b = vb.sample("b", dist.Normal(jnp.zeros(y.shape[1]), 1.0).to_event(1))
    vb.sample("y", dist.Normal(one * a[:, None] + other * b, 1.0).to_event(2), obs=y)


def found(model, log_tau=0.1):
    """The blocks of a model by names of their coordinates, around a normal that is no fit; `tau` drawn so small."""
    target = vb.target(model)
    rng, dim = np.random.default_rng(0), target.dim
    normal, noise = (0.1 * rng.standard_normal(dim), 0.3 * np.eye(dim)), rng.standard_normal(dim)
    noise[[name.startswith("tau") for name in coordinate_names(target)]] = log_tau / 0.3
    blocks = blocks_of(target, normal, lambda z: evaluate(target, z)[1], noise)
    return [tuple(coordinate_names(target)[place] for place in block) for block in blocks]


def test_blocks_are_what_does_not_interact_given_the_others_with_plates_or_without():
    rng = np.random.default_rng(1)
    seven, pairs = slopes(rng.normal(size=4), rng.normal(size=(7, 4))), [(f"z[{i},0]", f"z[{i},1]") for i in range(7)]
    assert found(seven) == pairs
    # Where scales are that small the likelihood has no say: only the mirror image shows that parts of lines meet.
    assert found(seven, -6.0) == pairs
    # With few groups their mean is one of the block.
    three = hierarchies.eight_schools_noncentred(np.ones(3), np.array([0.3, 1.0, -0.2]))
    assert found(three) == [("mu", "z[0]", "z[1]", "z[2]")]
    # Of crossed groups those with the most neighbours are given.
    assert found(crossed(rng.normal(size=(3, 8)))) == [(f"b[{i}]",) for i in range(8)]


def test_where_nothing_drives_anything_no_gradient_is_asked_for():
    target = vb.target(cases.logistic_regression(*cases.logistic_data()))

    def never(z):
        raise AssertionError

    assert blocks_of(target, (np.zeros(3), np.eye(3)), never, np.zeros(3)) == ()


@pytest.mark.parametrize(("slope", "variance"), [(0.3, 1.0), (0.5, 2.0)])
def test_the_predicted_gain_is_that_of_a_scale_that_moves(slope, variance, x64):
    """Of `x | p ~ N(0, exp(2 slope p))` against a normal: `(v e^{2 slope^2} - log v - 1) / 2` on average."""
    target = vb.density(lambda z: -(z[0] ** 2) / 2 - z[1] ** 2 * jnp.exp(-2 * slope * z[0]) / 2 - slope * z[0], 2)
    normal = np.zeros(2), np.diag([1.0, np.sqrt(variance)])
    noise = special.ndtri((np.arange(4000) + 0.5) / 4000)[:, None] * np.ones(2)
    gain = predicted_gain(((1,),), normal, lambda z: evaluate(target, z)[1], noise)
    assert gain == pytest.approx((variance * np.exp(2 * slope**2) - np.log(variance) - 1) / 2, rel=2e-3)


@pytest.fixture(scope="module")
def schools():
    model = schools_by_hand()
    conditional = vb.fit(model, vb.guides.ConditionalLaplace())
    return vb.fit(model, "full_rank"), conditional, vb.fit(cases.eight_schools(cases.SCHOOLS_SIGMA, cases.SCHOOLS_Y))


def test_eight_schools_by_hand_reach_their_evidence_as_if_written_centred(schools):
    plain, posterior, centred = schools
    assert posterior.report.verdict == "good"
    assert posterior.elbo.value == pytest.approx(SCHOOLS, abs=0.02) and plain.elbo.value < SCHOOLS - 0.15
    assert posterior.report.log_evidence == pytest.approx(SCHOOLS, abs=0.02)
    # Of the fit of the centred model the weights' tail has a shape of above 0.7, at hardly any spread.
    known = np.nan_to_num(centred.report.log_evidence, nan=centred.elbo.value)
    assert posterior.report.log_evidence == pytest.approx(known, abs=0.02)
    # Mean 3.598 and sd 3.220 by the same quadrature.
    assert posterior.mean()["tau"] == pytest.approx(3.598, abs=0.1)
    assert np.log(posterior.sd()["tau"] / 3.220) == pytest.approx(0, abs=0.06)


def test_where_rows_promise_little_weighted_draws_are_the_answer():
    """A step for each row would gain the same model .08 nats, for six seconds of compiling."""
    posterior = vb.fit(schools_by_hand())
    assert posterior.report.verdict in ("good", "corrected")
    assert posterior.report.log_evidence == pytest.approx(SCHOOLS, abs=0.02)


def test_a_k_beyond_reach_means_nothing_where_weights_are_all_but_even(schools):
    """At this seed the largest weights have a shape of about 1, and the effective draws are what could be."""
    posterior = vb.fit(schools_by_hand(), vb.guides.ConditionalLaplace(), seed=1)
    own = posterior.report.draws.own.mean()
    assert posterior.report.ess > 0.95 * own and posterior.report.verdict == "good"
    assert posterior.elbo.value == pytest.approx(SCHOOLS, abs=0.01)


def test_its_posterior_samples_predicts_weighs_and_is_pickled_like_the_others(schools):
    _, posterior, _ = schools
    draws = posterior.sample(5)
    log_q = np.asarray(posterior.log_prob(draws))
    assert posterior.predict(n=3)["y"].shape == (3, 8) and np.shape(draws["theta"]) == (5, 8)
    z = posterior.target.unconstrain(draws)
    host = posterior.guide.log_prob(posterior.phi, np.asarray(z), posterior.target)
    np.testing.assert_allclose(log_q, host - np.asarray(posterior.target.log_det(draws)), atol=2e-3)
    guide, phi = pickle.loads(pickle.dumps((posterior.guide, posterior.phi)))
    assert guide.layers[-1].blocks == posterior.guide.layers[-1].blocks == tuple((place,) for place in range(2, 10))
    np.testing.assert_array_equal(guide.log_prob(phi, np.asarray(z), posterior.target), host)


def test_the_noise_of_rows_is_orthogonal_to_that_of_hyperparameters_and_to_what_these_make(schools):
    before = schools[0].solution
    search = NestedSearch(Problem([before.target], Deterministic(), np.zeros((1, 0)), None, [raw_key(0)]), 0, before)
    assert search.promised == pytest.approx(0.07, abs=0.04) and len(search.blocks) == 8
    hypers, rows = search._noise[:, :2], search._noise[:, 2:]
    for made in (*hypers.T, *(hypers**2 - 1).T, hypers.prod(axis=1)):
        assert np.abs(rows.T @ made / len(rows)).max() < 1e-12  # shifts `c` cannot fit it
        assert np.abs((rows**2 - 1).mean(axis=0)).max() < 1e-12  # nor scales `s`


def test_many_fits_are_each_what_one_is(schools):
    models = [schools_by_hand(), schools_by_hand(cases.SCHOOLS_Y[::-1])]
    many = vb.fit_many(models, guide=vb.guides.ConditionalLaplace())
    assert many[0].elbo.value == pytest.approx(schools[1].elbo.value, abs=0.01)
    assert all(isinstance(each.guide, vb.guides.ConditionalLaplace) for each in many)


@vb.model
def normal_given_its_scale():
    """Rows that are normal given a scale, which is log-normal whatever these do; its evidence is 1."""
    s = vb.sample("s", dist.LogNormal(0.0, 1.0))
    with vb.plate("row", 8):
        z = vb.sample("z", dist.Normal(0.0, 1.0))
    vb.factor("pull", jnp.sum(jnp.log1p(s**2) / 2 - (s * z) ** 2 / 2))


@pytest.mark.slow
def test_what_is_of_the_family_is_met_and_its_weights_are_trusted_whatever_their_k():
    plain, posterior = vb.fit(normal_given_its_scale(), "full_rank"), vb.fit(normal_given_its_scale())
    assert plain.elbo.value < -0.5 and isinstance(posterior.guide, vb.guides.ConditionalLaplace)
    assert posterior.elbo.value == pytest.approx(0.0, abs=0.005) and posterior.report.verdict == "good"
    assert posterior.report.log_weight_sd < 0.05 and posterior.report.draws.trusted
    assert posterior.report.log_evidence == pytest.approx(0.0, abs=0.01)


def test_the_rung_costs_nothing_where_sites_move_or_nothing_drives(schools, monkeypatch):
    remedy, verdicts = next(each for each in REMEDIES if each[0] is condition_rows)
    assert verdicts == ("poor", "unknown", "corrected")
    monkeypatch.setattr(BatchedDensity, "__call__", None)
    moved = dataclasses.replace(schools[2].solution, guide=vb.FullRank(), phi=np.zeros((12, 10)))
    nothing = vb.density(lambda z: -jnp.sum(z**2), 2)
    planned = plan(vb.target(cases.eight_schools(cases.SCHOOLS_SIGMA, cases.SCHOOLS_Y)))
    for before in (moved, dataclasses.replace(moved, target=nothing, phi=np.zeros((4, 2)))):
        assert remedy(planned, None, before, schools[2].report, None) == (before, schools[2].report)


def test_by_stochastic_steps_it_says_what_serves():
    with pytest.raises(ModelError, match="finds its blocks on the way of a fit on fixed draws"):
        vb.fit(schools_by_hand(), vb.guides.ConditionalLaplace(), method=vb.Stochastic(steps=10))


HITS = np.array([18, 17, 16, 15, 14, 14, 13, 12, 11, 11, 10, 10, 10, 10, 10, 9, 8, 7])


@vb.model
def baseball(y):
    """Hits of 18 players in 45 at bats (Efron and Morris 1975)."""
    mean, log_size = vb.sample("mean", dist.Uniform(0.0, 1.0)), vb.sample("log_size", dist.Exponential(1.5))
    with vb.plate("player", len(y)):
        share = vb.sample("share", dist.Beta(mean * jnp.exp(log_size), (1 - mean) * jnp.exp(log_size)))
        vb.sample("y", dist.Binomial(45, share), obs=y)


@pytest.mark.slow
def test_what_depends_on_hyperparameters_alone_is_not_differentiated_by_rows():
    """By rows a Beta's constant has no slope; asked for, its third derivatives took five times as long to compile."""
    target = vb.target(baseball(HITS))
    layer, z = NewtonStep((0, 1), tuple((place,) for place in range(2, 20))), np.linspace(-1, 1, 20)
    psi = layer.init(target, Start(np.zeros(20, np.float32)))
    program = jax.make_jaxpr(jax.grad(lambda p: layer.conditional(psi, p, target)[1].pivot.sum()))(jnp.zeros(2))
    assert "polygamma" not in str(program)
    apart = Apart((jnp.asarray(z[:1]), jnp.asarray(z[1:2]), jnp.asarray(z[2:])))
    for density in (target, Pullback(target, YeoJohnson(), np.zeros((3, 20)))):
        assert float(density.run(apart).log_density()) == pytest.approx(float(density.log_density(z)), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_baseball_is_right(seed):
    u, v = np.meshgrid(special.expit(np.linspace(-4, 2.5, 1201)), np.linspace(1e-4, 18, 3001), indexing="ij")
    a, b = u * np.exp(v), (1 - u) * np.exp(v)
    log_p = stats.expon.logpdf(v, scale=1 / 1.5) + np.log(u * (1 - u))
    log_p += sum(stats.betabinom.logpmf(hits, 45, a, b) for hits in HITS)
    weights = np.exp(log_p - log_p.max())
    log_evidence = log_p.max() + np.log(weights.sum() * (6.5 / 1200) * (18 / 3000))
    weights /= weights.sum()
    mean = np.sum(weights * v)
    sd = np.sqrt(np.sum(weights * (v - mean) ** 2))
    posterior = vb.fit(baseball(HITS), seed=seed)
    assert posterior.report.verdict == "good" and posterior.report.ess > 0.6
    assert posterior.report.log_evidence == pytest.approx(log_evidence, abs=0.02)
    assert posterior.mean()["log_size"] == pytest.approx(mean, abs=0.07 * sd)
    assert np.log(posterior.sd()["log_size"] / sd) == pytest.approx(0, abs=0.12)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_sleep_study_noncentred_by_hand_has_its_evidence(seed):
    posterior = vb.fit(random_slopes.by_hand(random_slopes.REACTION, random_slopes.DAYS), seed=seed)
    exact, own = random_slopes.ALL_SUBJECTS, posterior.report.draws.own.mean()
    assert isinstance(posterior.guide, vb.guides.ConditionalLaplace) and posterior.report.verdict == "good"
    assert posterior.elbo.value == pytest.approx(exact, abs=0.07) and posterior.report.ess > 0.8 * own
    known = np.nan_to_num(posterior.report.log_evidence, nan=exact)
    assert known == pytest.approx(exact, abs=0.02)
