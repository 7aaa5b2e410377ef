"""The objectives are unbiased, and sticking the landing is without variance at the exact posterior."""

from __future__ import annotations

import itertools

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate, special, stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.errors import ModelError
from vbppl.guides.base import Start
from vbppl.guides.gaussian import FullRank, MeanField
from vbppl.guides.program import ProgramGuide
from vbppl.guides.structured import Structured
from vbppl.inference.stochastic.objectives import ClosedForm, Elbo, ImportanceWeighted, Inputs, StickingTheLanding
from vbppl.target.target import Target

WAITS = Target.of(cases.gamma_exponential(cases.WAITS))
PAIRS = Target.of(cases.normal_normal(cases.PAIRS))
EXACT_PAIRS = np.array([[0.049793, 0.475155], np.log([0.203700, 0.249222])])
KEYS = 20_000


def exact_bound(loc, log_sd):
    """`E_q[log p]` of case 3 by quadrature, `log p = -(3 rate) + 3 log rate - 3 rate`, plus the entropy."""

    def integrand(e):
        z = loc + np.exp(log_sd) * e
        return stats.norm.pdf(e) * (3 * z - 6 * np.exp(z))

    return integrate.quad(integrand, -12, 12)[0] + 0.5 * np.log(2 * np.pi * np.e) + log_sd


def bound(objective, guide, phi, target, noise, rows=None, count=0):
    """The objective's estimate where these rows are shown."""
    return objective(guide, Inputs(phi, target.replace(rows=rows or {}), noise, count))[0]


def gradients(objective, guide, phi, target, draws, keys):
    noise = guide.noise(target).stratified(np.random.default_rng(0), draws)

    @jax.jit
    @jax.vmap
    def gradient(key):
        return jax.value_and_grad(lambda phi: bound(objective, guide, phi, target, noise(key)))(phi)

    return [np.asarray(leaf, float) for leaf in gradient(jax.random.split(jax.random.key(1), keys))]


@pytest.mark.parametrize("draws", [1, 16, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("objective", [ClosedForm(), StickingTheLanding()], ids=["closed", "sticking"])
def test_bound_and_gradient_are_unbiased(objective, draws):
    phi, step = np.array([[-0.5], [-0.3]]), 1e-5
    values, slopes = gradients(objective, MeanField(), jnp.asarray(phi), WAITS, draws, KEYS)
    expected = [
        (exact_bound(-0.5 + step, -0.3) - exact_bound(-0.5 - step, -0.3)) / (2 * step),
        (exact_bound(-0.5, -0.3 + step) - exact_bound(-0.5, -0.3 - step)) / (2 * step),
    ]
    found = np.column_stack([values, slopes.reshape(KEYS, 2)])
    error = np.abs(found.mean(axis=0) - [exact_bound(-0.5, -0.3), *expected])
    assert np.all(error < 4.5 * found.std(axis=0) / np.sqrt(KEYS)), error


def test_stratified_draws_are_less_noisy_than_independent_ones():
    phi = jnp.array([[-0.5], [-0.3]])
    one, sixteen = (gradients(ClosedForm(), MeanField(), phi, WAITS, n, 2000)[1].std(axis=0) for n in (1, 16))
    assert np.all(sixteen < one / 4)  # what independent draws would have


@pytest.mark.parametrize("guide", [MeanField(), FullRank()], ids=["mean_field", "full_rank"])
def test_sticking_the_landing_has_no_variance_at_the_exact_posterior(guide, x64):
    # Bayes' rule for each coordinate: precision 0.1 + 4 n, mean by precisions.
    precision = 0.1 + 4 * np.array([6.0, 4.0])
    loc = (0.1 * np.array([0.0, 0.5]) + np.array([6.0, 4.0]) * cases.PAIRS.sum(axis=0)) / precision
    phi = jnp.asarray(guide.of(loc, np.diag(precision**-0.5)))
    target = Target.of(cases.normal_normal(cases.PAIRS))
    values, slopes = gradients(StickingTheLanding(), guide, phi, target, 1, 100)
    assert values.std() < 1e-12
    assert np.abs(slopes).max() < 1e-10
    assert gradients(ClosedForm(), guide, phi, target, 1, 100)[1].std(axis=0).max() > 0.1


def test_minibatch_gradients_average_to_the_full_gradient_over_all_index_sets(x64):
    x, y = (values[:8] for values in cases.logistic_data())
    target, noise = Target.of(cases.logistic_regression(x, y)), np.array([[0.3, -1.0, 0.7]])
    phi = jnp.array([[0.9, 1.8, 2.1], [-1.5, -1.5, -1.3]])
    sets = np.array(list(itertools.combinations(range(8), 3)))
    slope = jax.jit(jax.grad(lambda phi, rows: bound(ClosedForm(), MeanField(), phi, target, noise, rows)))
    full = slope(phi, {})
    batches = jax.vmap(lambda rows: slope(phi, {"row": rows}))(sets)
    assert len(sets) == special.comb(8, 3)
    np.testing.assert_allclose(batches.mean(axis=0), full, rtol=1e-5)
    assert np.abs(batches - full).max() > 0.1


@pytest.mark.slow
def test_a_plate_of_latents_weighs_its_rows_and_their_entropy(x64):
    """A step draws noise for the rows that are shown alone; they, and their entropies, count N/B times."""

    @vb.model
    def rows_apart(y):
        with vb.plate("row", len(y)):
            x = vb.sample("x", dist.Normal(0.0, 1.0))
            vb.sample("y", dist.Normal(x, 1.0), obs=vb.subsample(y))

    y = np.array([0.5, -1.0, 2.0, 0.0])
    target, table = Target.of(rows_apart(y)), jnp.stack([jnp.asarray(y) / 2, jnp.full(4, -0.3)])
    guide, phi = Structured("row", MeanField()), {"shared": jnp.zeros((2, 0)), "local": table}
    noise = jnp.array([[0.3, -1.0, 0.7, 0.1]])
    sets = np.array(list(itertools.combinations(range(4), 2)))
    slope = jax.grad(lambda phi, noise, rows: bound(ClosedForm(), guide, phi, target, noise, rows))
    batches = jax.vmap(lambda rows: slope(phi, noise[:, rows], {"row": rows})["local"])(sets)
    np.testing.assert_allclose(batches.mean(axis=0), slope(phi, noise, {})["local"], rtol=1e-10)


def test_params_of_the_model_are_learnt_by_the_same_gradient():
    """With `x` marginal, `y ~ N(0, 1 + scale^2)`; at the exact posterior the bound's slope is the evidence's."""

    @vb.model
    def scaled(y):
        scale = vb.param("scale", 1.0, constraint=dist.constraints.positive)
        x = vb.sample("x", dist.Normal(0.0, scale))
        vb.sample("y", dist.Normal(x, 1.0), obs=y)

    target = Target.of(scaled(3.0))
    phi = np.array([[1.5], [np.log(0.5) / 2]])

    def loss(raw, noise):
        at = target.replace(params={"scale": (raw,)})
        return bound(ClosedForm(), MeanField(), phi, at, noise)

    noise = np.random.default_rng(0).standard_normal((200_000, 1))
    found = float(jax.grad(loss)(jnp.asarray(0.0), np.concatenate([noise, -noise])))

    def evidence(raw):
        return stats.norm.logpdf(3.0, scale=np.sqrt(1 + np.exp(2 * raw)))

    expected = (evidence(1e-5) - evidence(-1e-5)) / 2e-5
    assert found == pytest.approx(expected, abs=4 * 0.71 / np.sqrt(200_000))  # sd of (x^2 - 1) antithetic: 0.71


LOADINGS = np.array([[1.0, -0.5, 0.3], [0.2, 0.9, -0.7]])
IMAGES = np.array([[0.5, -1.0, 0.2], [1.5, 0.3, -0.4], [-0.7, 0.6, 1.1]])
ENCODER = {"loc": np.array([[0.4, 0.1], [-0.2, 0.5], [0.1, -0.3]]), "log_sd": np.array([-0.2, 0.1])}


@vb.model
def linear_rows(x):
    """Case 10's kind: rows of a linear Gaussian model, whose evidence is a closed form."""
    loadings = vb.param("loadings", LOADINGS)
    with vb.plate("row", len(x)):
        z = vb.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        vb.sample("x", dist.Normal(z @ loadings, 0.8).to_event(1), obs=vb.subsample(x, 1))


def encode(w, x):
    return x @ w["loc"], jnp.exp(w["log_sd"]) * jnp.ones((len(x), 2))


@vb.guide
def encoding(x):
    w = vb.param("encoder", ENCODER)
    with vb.plate("row", len(x)):
        vb.sample("z", dist.Normal(*encode(w, vb.subsample(x, 1))).to_event(1))


def encoders():
    return {"program": ProgramGuide(encoding(IMAGES)), "amortized": vb.Amortized("z", encode, "x", params=ENCODER)}


ROW_EVIDENCE = stats.multivariate_normal(np.zeros(3), LOADINGS.T @ LOADINGS + 0.64 * np.eye(3)).logpdf(IMAGES)


def by_rows(objective, kind, draws, keys, rows=None, step=0):
    """Values and gradients `(keys, ...)` of the bound in the guide's and the model's parameters."""
    target, guide = Target.of(linear_rows(IMAGES)), encoders()[kind]
    phi, noise = guide.init(target, Start(np.zeros(6))), guide.noise(target.replace(rows=rows or {}))
    rng = np.random.default_rng(0)
    noise = noise.unstratified(draws) if objective.needs_independent_draws else noise.stratified(rng, draws)

    def loss(both, key):
        at = target.replace(params=both["model"])
        return bound(objective, guide, both["guide"], at, noise(key), rows, step)

    slopes = jax.jit(jax.vmap(lambda key: jax.value_and_grad(loss)({"guide": phi, "model": target.params}, key)))
    values, found = slopes(jax.random.split(jax.random.key(2), keys))
    leaves = {part: [leaf.reshape(keys, -1) for leaf in jax.tree.leaves(found[part])] for part in found}
    return np.asarray(values, float), {part: np.concatenate(each, axis=1) for part, each in leaves.items()}


def row_divergences():
    """KL of the encoder from the prior in closed form, `(rows, 2)`, and the expected log likelihood, a scalar."""
    loc, sd = IMAGES @ ENCODER["loc"], np.exp(ENCODER["log_sd"])
    divergences = (sd**2 + loc**2 - 1) / 2 - np.log(sd)
    likelihood = stats.norm.logpdf(IMAGES, loc @ LOADINGS, 0.8).sum() - 3 * (sd**2 @ (LOADINGS**2).sum(1)) / (2 * 0.64)
    return divergences, likelihood


encoder = pytest.mark.parametrize("kind", ["program", "amortized"])


@pytest.mark.slow
@encoder
def test_the_importance_weighted_bound_rises_from_the_elbo_to_the_evidence(kind, x64):
    divergences, likelihood = row_divergences()
    found = {k: by_rows(ImportanceWeighted(), kind, k, 4000)[0] for k in (1, 4, 64)}
    means = {k: v.mean() for k, v in found.items()}
    errors = {k: 4.5 * v.std() / np.sqrt(len(v)) for k, v in found.items()}
    assert abs(means[1] - (likelihood - divergences.sum())) < errors[1]
    assert means[1] + errors[1] < means[4] - errors[4]
    assert means[4] + errors[4] < means[64] - errors[64]
    assert ROW_EVIDENCE.sum() - 0.1 < means[64] < ROW_EVIDENCE.sum() + errors[64]


@pytest.mark.slow
@encoder
def test_doubly_reparametrised_gradients_have_the_mean_of_the_plain_ones_and_less_noise(kind, x64):
    values, plain = by_rows(ImportanceWeighted(doubly=False), kind, 8, 20_000)
    same, doubly = by_rows(ImportanceWeighted(), kind, 8, 20_000)
    np.testing.assert_allclose(same, values, rtol=1e-10)
    for part in ("guide", "model"):
        error = np.sqrt((plain[part].var(0) + doubly[part].var(0)) / 20_000)
        # The same draws are behind both, so this is on the safe side.
        np.testing.assert_array_less(np.abs(plain[part].mean(0) - doubly[part].mean(0)), 4.5 * error + 1e-9)
    np.testing.assert_allclose(doubly["model"], plain["model"], rtol=1e-8, atol=1e-10)
    assert doubly["guide"].var(0).sum() < 0.7 * plain["guide"].var(0).sum()


@pytest.mark.slow
def test_minibatches_of_the_weighted_bound_average_to_the_whole(x64):
    whole = by_rows(ImportanceWeighted(), "program", 5, 6000)[0]
    pairs = ({"row": np.array(pair)} for pair in ([0, 1], [0, 2], [1, 2]))
    parts = [by_rows(ImportanceWeighted(), "program", 5, 6000, pair)[0] for pair in pairs]
    pooled = np.mean(parts, axis=0)
    assert abs(pooled.mean() - whole.mean()) < 4.5 * np.sqrt((pooled.var() + whole.var()) / 6000)
    assert np.std([part.mean() for part in parts]) > 0.1


@pytest.mark.slow
@encoder
def test_warm_up_and_free_bits_change_the_divergence_alone(kind, x64):
    divergences, likelihood = row_divergences()

    def mean(objective, step=0):
        values, _ = by_rows(objective, kind, 1, 4000, step=step)
        return values.mean(), 4.5 * values.std() / np.sqrt(4000)

    for step, share in ((0, 0.1), (4, 0.5), (9, 1.0), (500, 1.0)):
        found, error = mean(Elbo(warm_up=10), step)
        assert abs(found - (likelihood - share * divergences.sum())) < error
    floor = divergences.mean(0).mean()  # between the two coordinates
    assert divergences.mean(0).min() < floor < divergences.mean(0).max()
    found, error = mean(Elbo(free_bits=floor))
    assert abs(found - (likelihood - 3 * np.maximum(divergences.mean(0), floor).sum())) < error
    plain, _ = by_rows(ClosedForm(), kind, 1, 10)
    np.testing.assert_allclose(by_rows(Elbo(), kind, 1, 10)[0], plain, rtol=1e-10)


def test_a_fit_that_stops_by_itself_does_not_stop_during_the_warm_up():
    """The exact posterior of a row is N(0.8 y, 0.2); while the divergence counts less, the slope is nearer to 1."""

    @vb.model
    def scores(y):
        with vb.plate("row", len(y)):
            z = vb.sample("z", dist.Normal(0.0, 1.0))
            vb.sample("y", dist.Normal(z, 0.5), obs=vb.subsample(y))

    def encode(weights, y):
        return weights["slope"] * y, jnp.exp(weights["log_sd"]) * jnp.ones_like(y)

    guide = vb.Amortized("z", encode, reads="y", params={"slope": 0.5, "log_sd": -1.0})
    method = vb.Stochastic(objective=vb.inference.Elbo(warm_up=40_000), draws=4)
    posterior = vb.fit(scores(np.linspace(-2.0, 2.0, 40)), guide, method=method)
    assert posterior.status.reason == "settled" and posterior.status.steps > 40_000
    assert posterior.params["encoder"]["slope"] == pytest.approx(0.8, abs=0.01)
    assert np.exp(posterior.params["encoder"]["log_sd"]) == pytest.approx(0.2**0.5, rel=0.02)


def test_an_objective_of_rows_refuses_a_model_whose_rows_share_a_latent_site():
    with pytest.raises(ModelError, match="latent sites stand in one plate"):
        guide = vb.guides.Structured("row")
        target = Target.of(shared_mean(np.zeros(4)))
        noise = np.zeros((2, 5))
        bound(ImportanceWeighted(), guide, guide.init(target, Start(np.zeros(5))), target, noise)
    with pytest.raises(ModelError, match="under @vb.guide"):
        bound(ImportanceWeighted(), MeanField(), np.zeros((2, 1)), WAITS, np.zeros((2, 1)))


@vb.model
def shared_mean(y):
    mu = vb.sample("mu", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(y)):
        x = vb.sample("x", dist.Normal(mu, 1.0))
        vb.sample("y", dist.Normal(x, 1.0), obs=y)


@pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")
def test_any_chain_of_optax_and_any_objective_can_be_fitted():
    """A step of SGD behind a clip to norm 1 moves the parameters by exactly the step size."""
    start = vb.Amortized("z", encode, "x", params=jax.tree.map(np.float32, ENCODER))
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.125))
    method = vb.Stochastic(optimizer=clipped, steps=1, draws=3, objective=ImportanceWeighted(), average=False)
    posterior = vb.fit(linear_rows(IMAGES), start, method=method)
    before, after = (
        jax.tree.leaves(({"e": ENCODER}, LOADINGS)),
        jax.tree.leaves(({"e": posterior.params["encoder"]}, posterior.params["loadings"])),
    )
    moved = np.sqrt(sum(np.sum((np.asarray(a) - b) ** 2) for a, b in zip(after, before)))
    np.testing.assert_allclose(moved, 0.125, rtol=1e-4)
    with pytest.raises(ValueError, match="give one of the two"):
        vb.Stochastic(objective=Elbo(), sticking_the_landing=True, draws=1)
