"""A prior over a module's weights: sites of their own names, and a regression with a known answer."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.errors import ModelError

X = np.linspace(-1.0, 2.0, 20).astype(np.float32)[:, None] ** np.array([1, 2])
Y = (1 + X @ np.array([0.5, -0.8]) + 0.3 * np.sin(7 * np.arange(20))).astype(np.float32)


def bayesian(net, prior):
    @vb.model
    def model(x, y=None):
        called = vb.sample("net", vb.prior_over(net, prior))
        loc = called(x) if isinstance(called, nnx.Module) else jax.vmap(called)(x)
        with vb.plate("row", len(x)):
            vb.sample("y", dist.Normal(loc[:, 0], 0.5), obs=y)

    return model


@pytest.mark.parametrize(
    ("net", "weight", "bias"),
    [
        (eqx.nn.Linear(2, 1, key=jax.random.key(0)), "net/weight", "net/bias"),
        (nnx.Linear(2, 1, rngs=nnx.Rngs(0)), "net/kernel", "net/bias"),
    ],
    ids=["eqx", "nnx"],
)
def test_one_linear_layer_is_bayesian_linear_regression(net, weight, bias):
    """Case 4: a linear regression with prior N(0, 1) and noise 0.5, whose posterior is a closed form."""
    posterior = vb.fit(bayesian(net, dist.Normal(0.0, 1.0))(X, Y), "full_rank")
    design = np.column_stack([X, np.ones(20)])
    covariance = np.linalg.inv(design.T @ design / 0.25 + np.eye(3))
    mean = covariance @ design.T @ Y / 0.25
    found = np.append(np.ravel(posterior.mean()[weight]), posterior.mean()[bias])
    np.testing.assert_allclose(found, mean, atol=0.02 * np.sqrt(np.diag(covariance)).min())
    sds = np.append(np.ravel(posterior.sd()[weight]), posterior.sd()[bias])
    np.testing.assert_allclose(sds, np.sqrt(np.diag(covariance)), rtol=0.03)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")
def test_a_small_bayesian_network_fits_a_curve_and_predicts():
    net = eqx.nn.MLP(1, 1, 6, 1, activation=jnp.tanh, key=jax.random.key(0))
    x = np.linspace(-2.0, 2.0, 30)[:, None]
    y = np.tanh(2 * x[:, 0]) + 0.5 * np.random.default_rng(0).standard_normal(30)
    posterior = vb.fit(bayesian(net, dist.Normal(0.0, 1.5))(x, y), "mean_field")
    new = posterior.predict(bayesian(net, dist.Normal(0.0, 1.5))(np.array([[-1.5], [1.5]])))["y"]
    assert new.shape == (1000, 2)
    # The noise has sd 0.5 and some 10 rows lie near each end: a quarter of it is four standard errors or so.
    np.testing.assert_allclose(new.mean(0), np.tanh([-3.0, 3.0]), atol=0.4)
    assert np.all((new.std(0) > 0.5) & (new.std(0) < 0.75))


def test_priors_may_differ_from_array_to_array():
    net = {"w": jnp.zeros((50, 40)), "b": jnp.zeros(40)}

    def by_shape(name, shape):
        return dist.Normal(0.0, shape[0] ** -0.5) if name == "w" else dist.Normal(3.0, 0.1)

    def program(prior):
        @vb.model
        def model():
            weights = vb.sample("net", vb.prior_over(net, prior))
            assert set(weights) == {"w", "b"}

        return model()

    for prior in (by_shape, {"w": dist.Normal(0.0, 50**-0.5), "b": dist.Normal(np.full(40, 3.0), 0.1)}):
        draws = program(prior).sample(100)
        assert draws["net/w"].shape == (100, 50, 40)
        np.testing.assert_allclose(draws["net/w"].std(), 50**-0.5, rtol=4 / np.sqrt(2 * 200_000))
        np.testing.assert_allclose(draws["net/b"].mean(), 3.0, atol=4 * 0.1 / np.sqrt(4000))
    with pytest.raises(ModelError, match="the module's arrays: b, w"):
        program({"w": dist.Normal(0.0, 1.0)}).sample(1)
    with pytest.raises(ModelError, match="prior of 'b' has shape"):
        program(dist.Normal(np.zeros(7), 1.0)).sample(1)


def test_a_module_without_weights_has_no_prior():
    @vb.model
    def model():
        vb.sample("net", vb.prior_over({"n": 3}, dist.Normal(0.0, 1.0)))

    with pytest.raises(ModelError, match="nothing to sample"):
        model().shapes()
