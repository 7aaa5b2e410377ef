"""Encoders: unbiased over batches, exact where they can be, right for rows never seen, refused where they are wrong."""

from __future__ import annotations

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.errors import ModelError
from vbppl.guides.base import Start
from vbppl.inference.stochastic.objectives import ClosedForm, Inputs
from vbppl.target.target import Target

Y = np.random.RandomState(0).randn(8) * 1.2
quiet = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")


@vb.model
def scores(y):
    """Given y, z is N(0.8 y, 0.2): a linear encoder is exact."""
    with vb.plate("row", len(y)):
        z = vb.sample("z", dist.Normal(0.0, 1.0))
        vb.sample("y", dist.Normal(z, 0.5), obs=vb.subsample(y))


def linear(weights, y):
    return weights["slope"] * y, jnp.exp(weights["log_scale"])


START = {"slope": 0.0, "log_scale": 0.0}
GUIDE = vb.Amortized("z", linear, reads="y", params=START)


@vb.model
def shifted_scores(y):
    """A global, an amortised site and another local one."""
    shift = vb.sample("shift", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(y)):
        z = vb.sample("z", dist.Normal(shift, 1.0))
        scale = vb.sample("scale", dist.LogNormal(shift, 0.4))
        vb.sample("y", dist.Normal(z, scale), obs=vb.subsample(y))


@pytest.mark.parametrize("model", [scores, shifted_scores])
def test_minibatch_gradients_average_to_the_full_gradient_over_all_index_sets(model, x64):
    y, rng = Y[:6], np.random.default_rng(0)
    target = Target.of(model(y))
    target = target.replace(layout=target.layout.showing({"row": 2}))
    phi = jax.tree.map(
        lambda leaf: leaf + 0.3 * rng.standard_normal(np.shape(leaf)), GUIDE.init(target, Start(np.zeros(target.dim)))
    )
    noise = rng.standard_normal((3, target.dim))

    def estimate(phi, noise, rows):
        return ClosedForm()(GUIDE, Inputs(phi, target.replace(rows=rows), noise))[0]

    slope = jax.jit(jax.value_and_grad(estimate))
    shared = target.dim % 6  # the first coordinates; then the rows of one site after those of the other
    sets = [np.array(pair) for pair in itertools.combinations(range(6), 2)]
    sites = [np.arange(start, start + 6) for start in range(shared, target.dim, 6)]
    batches = [
        slope(phi, noise[:, np.concatenate([np.arange(shared), *(s[rows] for s in sites)])], {"row": rows})
        for rows in sets
    ]
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *batches)
    for one, other in zip(jax.tree.leaves(mean), jax.tree.leaves(slope(phi, noise, {}))):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-10)


rs = np.random.RandomState(0)
W = rs.randn(5, 2) * [2, 1]
Z = rs.randn(500, 2)
X = Z @ W.T + 0.5 * rs.randn(500, 5) + [1, -1, 0, 2, 0.5]


@vb.model
def linear_vae(x):
    """Case 10: with a linear encoder its best bound is the maximum likelihood of probabilistic PCA."""
    weights = vb.param("weights", 0.1 * np.random.RandomState(1).randn(2, 5))
    bias = vb.param("bias", np.zeros(5))
    sigma = vb.param("sigma", 1.0, constraint=dist.constraints.positive)
    with vb.plate("row", len(x)):
        z = vb.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        vb.sample("x", dist.Normal(z @ weights + bias, sigma).to_event(1), obs=vb.subsample(x, event_dim=1))


def affine(net, x):
    return x @ net["w"] + net["b"], jnp.exp(net["log_scale"]) * jnp.ones((len(x), 2))


NET = {"w": 0.1 * np.random.RandomState(2).randn(5, 2), "b": np.zeros(2), "log_scale": np.zeros(2)}
AFFINE = vb.Amortized("z", affine, reads="x", params=NET)


@pytest.fixture(scope="module")
def ppca():
    return vb.fit(linear_vae(X), AFFINE)


def best_by_hand():
    """Tipping and Bishop 1999, eq. 7 and 8: `sigma^2` is the mean of the eigenvalues left over."""
    values = np.sort(np.linalg.eigvalsh(np.cov(X.T, ddof=0)))[::-1]
    sigma2 = values[2:].mean()
    log_det = np.log(values[:2]).sum() + 3 * np.log(sigma2)
    return -(5 * np.log(2 * np.pi) + log_det + 5) / 2, np.sqrt(sigma2)


@pytest.mark.slow
def test_a_linear_vae_is_probabilistic_pca(ppca):
    bound, sigma = best_by_hand()
    assert bound == pytest.approx(-7.566155, abs=1e-6) and sigma == pytest.approx(0.48409, abs=1e-5)
    assert -7.57 <= ppca.elbo.value / 500 <= bound + 1e-4
    assert ppca.params["sigma"] == pytest.approx(sigma, rel=0.002)
    np.testing.assert_allclose(ppca.params["bias"], X.mean(axis=0), atol=0.01)
    assert ppca.check().verdict == "good" and ppca.status.converged


@pytest.mark.slow
def test_a_linear_vae_in_batches_is_nearly_so():
    posterior = vb.fit(linear_vae(X), AFFINE, batch_size=50)
    assert -7.60 <= posterior.elbo.value / 500 <= -7.566155 + 1e-4
    np.testing.assert_allclose(posterior.params["bias"], X.mean(axis=0), atol=0.03)


def exact_posterior(ppca, x):
    """Of rows `x` under the learnt params: mean and covariance, by linear algebra."""
    weights, bias, sigma = (np.asarray(ppca.params[name], float) for name in ("weights", "bias", "sigma"))
    covariance = np.linalg.inv(np.eye(2) + weights @ weights.T / sigma**2)
    return (x - bias) @ weights.T / sigma**2 @ covariance, covariance


NEW = np.random.RandomState(5).randn(64, 5) * 2


def test_rows_never_seen_are_encoded(ppca):
    mean, covariance = exact_posterior(ppca, NEW)
    found = ppca.encode(NEW)
    sd = np.sqrt(np.diag(covariance))
    assert np.abs((np.asarray(found.loc) - mean) / sd).max() < 0.1
    np.testing.assert_allclose(found.scale, np.broadcast_to(sd, (64, 2)), rtol=0.02)
    draws = np.asarray(found.sample(jax.random.key(0), (4000,)))
    assert np.abs(draws.mean(axis=0) - found.loc).max() < 5 * sd.max() / np.sqrt(4000)


@pytest.mark.parametrize("rows", [64, 500])
def test_predictions_for_other_rows_are_reconstructions_of_these(ppca, rows):
    """A guide fitted on some rows, asked about others: never the old rows' values, never the prior's."""
    x = np.random.RandomState(6).randn(rows, 5) * 2
    mean, covariance = exact_posterior(ppca, x)
    new = ppca.predict(linear_vae(x), n=2000)
    assert set(new) == {"z", "x"} and new["x"].shape == (2000, rows, 5)
    weights, bias, sigma = (np.asarray(ppca.params[name], float) for name in ("weights", "bias", "sigma"))
    sd = np.sqrt(np.diag(weights.T @ covariance @ weights) + sigma**2)
    off = (np.asarray(new["x"]).mean(axis=0) - mean @ weights - bias) / sd
    assert np.abs(off).max() < 5 / np.sqrt(2000) + 0.1  # the encoder's own error: at most 0.1 sd
    np.testing.assert_allclose(
        np.asarray(new["z"]).std(axis=0), np.broadcast_to(covariance.diagonal() ** 0.5, (rows, 2)), rtol=0.12
    )


def test_the_prior_is_sampled_with_what_was_learnt(ppca):
    """The marginal of a new row is `N(bias, weights' weights + sigma^2)`."""
    found = np.asarray(linear_vae(np.zeros((4000, 5))).sample(1, params=ppca.params)["x"][0], float)
    weights, sigma = np.asarray(ppca.params["weights"]), float(ppca.params["sigma"])
    covariance = weights.T @ weights + sigma**2 * np.eye(5)
    sd = np.sqrt(covariance.diagonal())
    assert np.abs((found.mean(axis=0) - ppca.params["bias"]) / sd).max() < 4 / np.sqrt(4000)
    error = (np.cov(found.T) - covariance) / np.outer(sd, sd)
    assert np.abs(error).max() < 5 * np.sqrt(2 / 4000)


def test_params_that_are_missing_are_named():
    with pytest.raises(ModelError, match="params lacks weights, bias"):
        linear_vae(X).sample(1, params={"sigma": 1.0})


@vb.model
def prior_alone(y):
    """The likelihood does not read z: what is left of the bound is minus the divergence."""
    mean = vb.sample("mean", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(y)):
        z = vb.sample("z", dist.Normal(-1.0, 1.0))
        vb.sample("w", dist.LogNormal(-1.0, 1.0))
        vb.sample("v", dist.MultivariateNormal(jnp.full(1, -1.0), jnp.eye(1)))
        vb.sample("y", dist.Normal(mean + 0 * z, 1.0), obs=vb.subsample(y))


def test_a_divergence_from_a_normal_prior_has_no_monte_carlo_error(x64):
    """Case 9, 5.306853 nats, for an encoded site and two of the table: N(2, 2) from N(-1, 1), each for 4 rows."""
    guide = vb.Amortized("z", lambda two, y: (two + 0 * y, jnp.asarray(2.0)), reads="y", params=np.array(2.0))
    target = Target.of(prior_alone(np.zeros(4)))
    phi = guide.init(target, Start(np.zeros(target.dim)))
    phi["local"] = np.stack([np.full(8, 2.0), np.full(8, np.log(2.0))])
    noise = np.random.default_rng(0).standard_normal((7, target.dim))
    noise[:, 0] = 0.0  # the shared site's
    bounds = guide.bound(phi, noise, target)
    assert np.std(bounds) < 1e-10 < np.std((drawn := guide.draw(phi, noise, target)).log_p - drawn.log_q)
    without = guide.bound(phi | {"local": np.stack([np.full(8, -1.0), np.zeros(8)])}, noise, target)
    np.testing.assert_allclose(without - bounds, 8 * 5.306853, rtol=1e-6)


def trained_on_few(module):
    """Fitted so far that it beats the best model without latent variables: five independent normals."""
    method = vb.Stochastic(optax.adam(0.05), steps=600, draws=1)
    posterior = vb.fit(linear_vae(X[:100]), vb.Amortized("z", module, reads="x"), method=method)
    independent = -(np.log(2 * np.pi * X[:100].var(axis=0)) + 1).sum() / 2
    assert posterior.elbo.value / 100 > independent + 0.5
    return posterior


class Encoder(eqx.Module):
    """Equinox: a module for one row."""

    trunk: eqx.nn.MLP

    def __call__(self, x):
        loc, raw = jnp.split(self.trunk(x), 2)
        return loc, jax.nn.softplus(raw)


@quiet
@pytest.mark.slow
def test_an_equinox_module_is_an_encoder():
    module = eqx.filter_vmap(Encoder(eqx.nn.MLP(5, 4, 8, 1, key=jax.random.key(0))))
    posterior = trained_on_few(module)
    trained = posterior.params["encoder"]
    assert type(trained) is type(module)
    np.testing.assert_allclose(trained(NEW)[0], posterior.encode(NEW).loc, rtol=1e-5)


class NnxEncoder(nnx.Module):
    """Flax NNX: rows along the first axis."""

    def __init__(self, rngs):
        self.hidden, self.out = nnx.Linear(5, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        loc, raw = jnp.split(self.out(jax.nn.tanh(self.hidden(x))), 2, axis=-1)
        return loc, jax.nn.softplus(raw)


@pytest.mark.slow
@quiet
def test_a_flax_nnx_module_is_an_encoder():
    module = NnxEncoder(nnx.Rngs(0))
    posterior = trained_on_few(module)
    np.testing.assert_allclose(posterior.params["encoder"](NEW)[0], posterior.encode(NEW).loc, rtol=1e-5)


def test_what_is_read_may_be_a_function_of_the_arguments_or_a_condition():
    def both(net, read):
        y, twice = read
        return net * (y + twice) / 3, jnp.asarray(0.5)

    target = Target.of(scores(Y))
    by_name = vb.Amortized("z", lambda net, y: (net * y, jnp.asarray(0.5)), reads="y", params=np.array(0.7))
    by_function = vb.Amortized("z", both, reads=lambda y: (y, 2 * y), params=np.array(0.7))
    rows = {"row": np.array([3, 1])}
    found = [
        g.conditional(g.init(target, Start(np.zeros(8))), np.zeros(0), target.replace(rows=rows))["z"][0]
        for g in (by_name, by_function)
    ]
    np.testing.assert_allclose(found, [0.7 * Y[[3, 1]]] * 2, rtol=1e-5)


REFUSED = {
    "for 8 rows the encoder returned loc": (lambda p, y: (jnp.zeros((8, 2)), 1.0), {}),
    "the encoder's scale must be positive and finite; the least is -3": (lambda p, y: (y, 0 * y - 3), {}),
    "the encoder returned ArrayImpl, not": (lambda p, y: y, {}),
    "no latent site of the model": (linear, {"site": "x"}),
    "an amortised site lies in one plate, rows": (linear, {"plate": "rows"}),
    "the guide reads 'x', which is none of its arguments": (linear, {"reads": "x"}),
    "the encoder reads an array of shape": (linear, {"reads": lambda y: y[:3]}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_an_encoder_is_refused_with_the_reason(message):
    encoder, changes = REFUSED[message]
    guide = vb.Amortized(**{"site": "z", "encoder": encoder, "reads": "y", "params": START} | changes)
    with pytest.raises(ModelError, match=message):
        vb.fit(scores(Y), guide)


def test_a_plain_function_needs_its_params():
    with pytest.raises(TypeError, match="plain function needs its parameters"):
        vb.Amortized("z", linear, reads="y")


@quiet
def test_rows_without_data_cannot_be_encoded_and_it_is_said(ppca):
    @vb.model
    def maybe(x, rows):
        with vb.plate("row", rows):
            z = vb.sample("z", dist.Normal(0.0, 1.0))
            vb.sample("x", dist.Normal(z, 0.5), obs=x)

    guide = vb.Amortized("z", linear, reads="x", params=START)
    posterior = vb.fit(maybe(Y, 8), guide, method=vb.Stochastic(steps=10, draws=1))
    with pytest.raises(ModelError, match="the guide reads 'x', which is None"):
        posterior.predict(maybe(None, 8))
    with pytest.raises(TypeError, match="has no encoder"):
        vb.fit(maybe(Y, 8)).encode(Y)


@vb.guide
def scores_program(y):
    weights = vb.param("weights", START)
    with vb.plate("row", len(y)):
        loc, scale = linear(weights, vb.subsample(y))
        vb.sample("z", dist.Normal(loc, scale))


@vb.guide
def scores_table(y):
    with vb.plate("row", len(y)):
        loc = vb.subsample(vb.param("loc", jnp.zeros(len(y))))
        scale = vb.subsample(vb.param("scale", jnp.ones(len(y)), constraint=dist.constraints.positive))
        vb.sample("z", dist.Normal(loc, scale))


MANY = np.random.RandomState(7).randn(64)


@pytest.fixture(scope="module")
def programmed():
    return vb.fit(scores(MANY), scores_program(MANY), batch_size=16, method=vb.Stochastic(steps=1000, draws=4))


def test_a_guide_program_in_batches_learns_the_exact_encoder(programmed):
    weights = programmed.params["weights"]
    assert weights["slope"] == pytest.approx(0.8, abs=0.02)
    assert np.exp(weights["log_scale"]) == pytest.approx(np.sqrt(0.2), rel=0.03)
    exact = -(np.log(2 * np.pi * 1.25) * 64 + (MANY**2).sum() / 1.25) / 2  # y ~ N(0, 1 + 0.25)
    assert programmed.elbo.value == pytest.approx(exact, abs=0.2)


@pytest.mark.parametrize("rows", [512, 64])
def test_a_guide_program_is_run_again_for_rows_never_seen(programmed, rows):
    """Fitted on 64 rows, asked about 512, or about 64 others: each row's own posterior is found."""
    y = np.random.RandomState(8).randn(rows)
    z = np.asarray(programmed.predict(scores(y), n=2000)["z"])
    assert z.shape == (2000, rows)
    assert np.abs(z.mean(axis=0) - 0.8 * y).max() < 0.02 * np.abs(y).max() + 5 * 0.45 / np.sqrt(2000)
    np.testing.assert_allclose(z.std(axis=0), np.sqrt(0.2), rtol=0.1)


@pytest.mark.slow
def test_a_table_of_rows_says_nothing_of_others_and_it_is_said():
    posterior = vb.fit(scores(MANY), scores_table(MANY), method=vb.Stochastic(steps=400, draws=1))
    with pytest.warns(vb.VbpplWarning, match=r"site 'z' has shape \(64,\) in the posterior and \(512,\) here"):
        new = posterior.predict(scores(np.full(512, 3.0)), n=200)
    assert abs(np.mean(new["z"])) < 5 / np.sqrt(200 * 512) and np.std(new["z"]) == pytest.approx(1, abs=0.02)
    same = posterior.predict(scores(MANY), n=200)
    assert "z" not in same and same["y"].shape == (200, 64)
