"""Modules taken apart and put together: what is learnt, what is carried, what is dropped out."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.errors import ModelError
from vbppl.model.modules import parts

ROWS = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32) + 2.0
SLOPES = np.array([1.0, -2.0, 0.5], np.float32)
Y = ROWS @ SLOPES + 0.7

quiet = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")


class Normed(nnx.Module):
    """Batch normalisation and dropout before a linear layer; both behave otherwise in training."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(3, momentum=0.9, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(3, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(self.drop(self.norm(x)))[:, 0]


class Tied(nnx.Module):
    """One layer under two names."""

    def __init__(self, rngs):
        self.one = nnx.Linear(3, 3, rngs=rngs)
        self.two = self.one


class Dropped(eqx.Module):
    """An Equinox layer with dropout after it, and a setting of its own."""

    layer: eqx.nn.Linear
    drop: eqx.nn.Dropout
    leak: float = 0.1

    def __call__(self, x, key=None):
        return self.drop(self.layer(x), key=key)[0]


def steps(n, **settings):
    return vb.Stochastic(optimizer=optax.sgd(0.0), steps=n, average=False, **settings, draws=1)


@pytest.mark.parametrize(
    "thing",
    [
        1.5,
        np.arange(3.0),
        {"w": np.ones((2, 3)), "n": 4, "name": "net"},
        eqx.nn.MLP(3, 1, 4, 1, key=jax.random.key(0)),
        Dropped(eqx.nn.Linear(3, 1, key=jax.random.key(0)), eqx.nn.Dropout(0.2)),
        Normed(nnx.Rngs(0)),
        {"encoder": Normed(nnx.Rngs(0)), "scale": jnp.ones(2)},
    ],
    ids=["float", "array", "dict", "eqx", "eqx_dropout", "nnx", "dict_of_nnx"],
)
def test_what_is_taken_apart_can_be_put_together(thing):
    again = parts(thing).made()
    assert type(again) is type(thing)
    one, other = (jax.tree.flatten(tree) for tree in (thing, again))
    assert one[1] == other[1]
    for before, after in zip(one[0], other[0]):
        if not hasattr(before, "dtype"):
            assert before == after
        elif not jnp.issubdtype(before.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(before, after)


def test_weights_are_learnt_and_settings_and_statistics_are_not():
    net = parts(Normed(nnx.Rngs(0)))
    assert net.names == ("norm/bias", "norm/scale", "out/bias", "out/kernel")
    assert [leaf.shape for leaf in net.state] == [(3,), (3,)]
    assert parts(Dropped(eqx.nn.Linear(3, 1, key=jax.random.key(0)), eqx.nn.Dropout(0.2))).names == (
        "layer/weight",
        "layer/bias",
    )


def test_shared_weights_of_a_graph_are_learnt_once():
    assert parts(Tied(nnx.Rngs(0))).names == ("one/bias", "one/kernel")
    made = parts(Tied(nnx.Rngs(0))).made()
    assert made.one is made.two


def regression(net):
    """Rows against a net that is called on all of them at once."""

    @vb.model
    def model(x, y=None):
        called = vb.param("net", net)
        loc = jax.vmap(called)(x)[:, 0] if isinstance(called, eqx.nn.Linear) else called(x)
        loc = loc[:, 0] if loc.ndim == 2 else loc
        with vb.plate("row", len(x)):
            vb.sample("y", dist.Normal(loc, 0.5), obs=y)

    return model


@quiet
@pytest.mark.parametrize(
    "net", [eqx.nn.Linear(3, 1, key=jax.random.key(0)), nnx.Linear(3, 1, rngs=nnx.Rngs(0))], ids=["eqx", "nnx"]
)
def test_a_linear_module_learns_least_squares_and_comes_back_callable(net):
    first = parts(net).learnt
    posterior = vb.fit(regression(net)(ROWS, Y), method=vb.Stochastic(optimizer=optax.adam(0.05), steps=1500, draws=1))
    learnt = posterior.params["net"]
    assert type(learnt) is type(net)
    value = jax.vmap(learnt)(ROWS) if isinstance(net, eqx.nn.Linear) else learnt(ROWS)
    np.testing.assert_allclose(np.asarray(value)[:, 0], Y, atol=1e-2)
    for before, after in zip(first, parts(net).learnt):
        np.testing.assert_array_equal(before, after)  # the user's own module is left alone
    new = posterior.predict(regression(net)(ROWS[:4]), n=2000)["y"]
    np.testing.assert_allclose(new.mean(0), Y[:4], atol=4 * 0.5 / np.sqrt(2000) + 1e-2)


@quiet
def test_batch_statistics_are_carried_from_step_to_step_and_used_at_evaluation():
    """Momentum 0.9: after n steps the mean is (1 - 0.9^n) times the batch's, whatever the weights."""
    posterior = vb.fit(regression(Normed(nnx.Rngs(0)))(ROWS, Y), method=steps(5))
    net = posterior.params["net"]
    np.testing.assert_allclose(net.norm.mean[...], (1 - 0.9**5) * ROWS.mean(0), rtol=1e-5)
    np.testing.assert_allclose(net.norm.var[...], 0.9**5 + (1 - 0.9**5) * ROWS.var(0), rtol=1e-4)
    assert net.drop.deterministic and net.norm.use_running_average
    # In evaluation: no dropout, the statistics that were carried. The ELBO is then a closed form.
    normed = (ROWS - np.asarray(net.norm.mean[...])) / np.sqrt(np.asarray(net.norm.var[...]) + 1e-5)
    loc = normed @ np.asarray(net.out.kernel[...])[:, 0] + np.asarray(net.out.bias[...])[0]
    expected = (-(((Y - loc) / 0.5) ** 2) / 2 - np.log(0.5 * np.sqrt(2 * np.pi))).sum()
    np.testing.assert_allclose(posterior.elbo.value, expected, rtol=1e-5)


@quiet
@pytest.mark.slow
def test_dropout_is_new_at_each_step_and_repeats_with_the_seed():
    fits = [vb.fit(regression(Normed(nnx.Rngs(0)))(ROWS, Y), method=steps(20), seed=s) for s in (0, 0, 1)]
    assert np.unique(fits[0].history).size > 15
    np.testing.assert_array_equal(fits[0].history, fits[1].history)
    assert not np.array_equal(fits[0].history, fits[2].history)
    assert fits[0].elbo.se == 0.0 and fits[0].elbo.value == fits[2].elbo.value


@quiet
def test_equinox_drops_out_with_the_key_of_the_step_and_not_at_evaluation():
    net = Dropped(eqx.nn.Linear(3, 1, key=jax.random.key(0)), eqx.nn.Dropout(0.5))

    @vb.model
    def model(x, y):
        called, key = vb.param("net", net), vb.prng_key()
        keys = None if key is None else jax.random.split(key, len(x))
        loc = jax.vmap(called, in_axes=(0, None if key is None else 0))(x, keys)
        with vb.plate("row", len(x)):
            vb.sample("y", dist.Normal(loc, 0.5), obs=y)

    posterior = vb.fit(model(ROWS, Y), method=steps(20))
    assert np.unique(posterior.history).size > 15
    assert posterior.params["net"].drop.inference and posterior.params["net"].leak == 0.1
    loc = ROWS @ np.asarray(net.layer.weight)[0] + np.asarray(net.layer.bias)[0]
    expected = (-(((Y - loc) / 0.5) ** 2) / 2 - np.log(0.5 * np.sqrt(2 * np.pi))).sum()
    np.testing.assert_allclose(posterior.elbo.value, expected, rtol=1e-5)


@quiet
@pytest.mark.parametrize(("net", "alike"), [(Normed(nnx.Rngs(0)), True), (nnx.Linear(3, 1, rngs=nnx.Rngs(0)), False)])
def test_running_statistics_come_with_the_weights_that_they_belong_to(net, alike):
    """Those of the last step belong to the last weights, not to an average."""
    first, last = (
        vb.fit(
            regression(net)(ROWS, Y),
            method=vb.Stochastic(optimizer=optax.adam(0.05), steps=40, average=average, draws=1),
        )
        for average in (True, False)
    )
    weights = zip(parts(first.params["net"]).learnt, parts(last.params["net"]).learnt, strict=True)
    assert all(np.array_equal(one, other) for one, other in weights) == alike


@quiet
def test_linen_keeps_its_statistics_in_a_mutable_value():
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x, train):
            return linen.Dense(1)(linen.BatchNorm(not train, momentum=0.9)(x))[:, 0]

    net = Net()
    variables = net.init(jax.random.key(0), ROWS, train=False)

    @vb.model
    def model(x, y):
        weights = vb.param("net", variables["params"])
        carried = vb.mutable("statistics", {"batch_stats": variables["batch_stats"]})
        train = vb.prng_key() is not None
        loc, new = net.apply({"params": weights, **carried}, x, train=train, mutable=["batch_stats"])
        carried.update(new)
        with vb.plate("row", len(x)):
            vb.sample("y", dist.Normal(loc, 0.5), obs=y)

    posterior = vb.fit(model(ROWS, Y), method=steps(3))
    found = posterior.target.model.states["statistics"]
    np.testing.assert_allclose(found[0], (1 - 0.9**3) * ROWS.mean(0), rtol=1e-5)
    assert set(posterior.params["net"]) == {"Dense_0", "BatchNorm_0"}


def test_a_mutable_value_must_keep_its_form_and_be_one_that_can_change():
    @vb.model
    def growing(y):
        carried = vb.mutable("carried", {"mean": jnp.zeros(2)})
        carried["more"] = jnp.zeros(3)
        x = vb.sample("x", dist.Normal(0.0, 1.0))
        vb.sample("y", dist.Normal(x, 1.0), obs=y)

    with pytest.raises(ModelError, match="other shapes"):
        vb.fit(growing(1.0), method=steps(2))

    @vb.model
    def plain():
        vb.mutable("carried", 1.0)

    with pytest.raises(ModelError, match="cannot change in place"):
        plain().shapes()


@pytest.mark.slow
@quiet
def test_an_encoder_with_batch_statistics_in_a_guide_program_and_in_an_amortised_guide():
    class Encoder(nnx.Module):
        def __init__(self, rngs):
            self.norm, self.out = nnx.BatchNorm(3, momentum=0.9, rngs=rngs), nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x):
            loc, log_sd = jnp.split(self.out(self.norm(x)), 2, axis=-1)
            return loc[:, 0], jnp.exp(log_sd[:, 0])

    @vb.model
    def model(x):
        with vb.plate("row", len(x)):
            z = vb.sample("z", dist.Normal(0.0, 1.0))
            vb.sample("x", dist.Normal(z[:, None] * jnp.ones(3), 1.0).to_event(1), obs=vb.subsample(x, 1))

    @vb.guide
    def guide(x):
        encoder = vb.param("encoder", Encoder(nnx.Rngs(0)))
        with vb.plate("row", len(x)):
            vb.sample("z", dist.Normal(*encoder(vb.subsample(x, 1))))

    for chosen in (guide(ROWS), vb.Amortized("z", Encoder(nnx.Rngs(0)), reads="x")):
        posterior = vb.fit(model(ROWS), chosen, method=steps(4))
        trained = posterior.params["encoder"]
        np.testing.assert_allclose(trained.norm.mean[...], (1 - 0.9**4) * ROWS.mean(0), rtol=1e-5)
        assert np.isfinite(posterior.elbo.value)


@quiet
def test_a_module_may_be_an_argument_of_the_model_and_a_second_fit_compiles_nothing(compilations):
    @vb.model
    def model(net, x, y):
        loc = vb.param("net", net)(x)
        with vb.plate("row", len(x)):
            vb.sample("y", dist.Normal(loc, 0.5), obs=y)

    nets, method = [Normed(nnx.Rngs(seed)) for seed in (0, 1)], steps(3)  # each transformation of Optax is its own
    vb.fit(model(nets[0], ROWS, Y), method=method)
    before = compilations()
    vb.fit(model(nets[1], ROWS, Y + 1), method=method)
    assert compilations() == before


def test_import_of_vbppl_imports_no_neural_library():
    code = "import sys, vbppl; assert not {'flax', 'equinox', 'haiku'} & set(sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert run.returncode == 0, run.stderr


def test_parts_cross_the_border_of_a_compiled_program():
    net = eqx.nn.MLP(3, 1, 4, 1, key=jax.random.key(0))
    doubled = jax.jit(lambda p: dataclasses.replace(p, learnt=jax.tree.map(lambda leaf: 2 * leaf, p.learnt)))(
        parts(net)
    )
    np.testing.assert_allclose(doubled.made().layers[0].weight, 2 * net.layers[0].weight)
