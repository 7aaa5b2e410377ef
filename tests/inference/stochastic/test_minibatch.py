"""Batches add up to all rows, and a model in which they do not is told so before the first step."""

from __future__ import annotations

import warnings

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.keys import named, raw_key, wrap
from vbppl.inference.stochastic.minibatch import check_batches, minibatches_of
from vbppl.target.target import Target

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((60, 3)).astype(np.float32), RNG.standard_normal(60).astype(np.float32)


def statement(x, beta, y, scale=1.0):
    vb.sample("y", dist.Normal(x @ beta, scale), obs=y)


def inside(beta, x, y):
    with vb.plate("row", len(y)):
        statement(vb.subsample(x, event_dim=1), beta, vb.subsample(y))


def by_index(beta, x, y):
    with vb.plate("row", len(y)) as i:
        statement(x[i], beta, y[i])


def with_locals(beta, x, y):
    with vb.plate("row", len(y)):
        scale = vb.sample("scale", dist.LogNormal(0.0, 1.0))
        statement(vb.subsample(x, event_dim=1), beta, vb.subsample(y), scale)
        vb.factor("f", -(scale**2))


def in_a_plate_of_columns(beta, x, y):
    with vb.plate("row", len(y), dim=-2), vb.plate("column", 3):
        vb.sample("y", dist.Normal(vb.subsample(beta), 1.0), obs=vb.subsample(x))


def outside(beta, x, y):
    with vb.plate("row", len(y)):
        x, y = vb.subsample(x, event_dim=1), vb.subsample(y)
    statement(x, beta, y)


def factor_outside(beta, x, y):
    with vb.plate("row", len(y)):
        x, y = vb.subsample(x, event_dim=1), vb.subsample(y)
    vb.factor("y", -jnp.sum((x @ beta - y) ** 2))


def standardised(beta, x, y):
    with vb.plate("row", len(y)):
        x, y = vb.subsample(x, event_dim=1), vb.subsample(y)
        statement(x - x.mean(0), beta, y)


def always_the_first(beta, x, y):
    with vb.plate("row", len(y)) as i:
        statement(x[: len(i)], beta, y[: len(i)])


def weighed_twice(beta, x, y):
    with vb.plate("row", len(y)) as i:
        logs = dist.Normal(vb.subsample(x, event_dim=1) @ beta, 1.0).log_prob(vb.subsample(y))
        vb.factor("y", logs * len(y) / len(i))


def all_outside(beta, x, y):
    with vb.plate("row", len(y)):
        pass
    statement(x, beta, y)


def target_of(body):
    @vb.model
    def regression(x, y):
        body(vb.sample("beta", dist.Normal(jnp.zeros(3), 1.0).to_event(1)), x, y)

    return Target.of(regression(X, Y))


def check(body, batch_size):
    target = target_of(body)
    check_batches(target, minibatches_of(target, batch_size), np.zeros(target.dim, np.float32), raw_key(0))


RIGHT = [(inside, 7), (inside, 40), (by_index, 20), (with_locals, 20)]
RIGHT += [(in_a_plate_of_columns, {"row": 20}), (in_a_plate_of_columns, {"row": 20, "column": 1})]


@pytest.mark.parametrize("body, batch_size", RIGHT, ids=lambda v: getattr(v, "__name__", str(v)))
def test_a_right_model_passes_without_a_word(body, batch_size):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(body, batch_size)


@pytest.mark.parametrize("body", [outside, factor_outside], ids=lambda f: f.__name__)
def test_a_likelihood_outside_its_plate_is_an_error_that_names_it(body):
    with pytest.raises(vb.ModelError, match="site 'y': its log density over batches of plate 'row' does not add up"):
        check(body, 20)


def test_the_error_says_how_often_a_row_should_have_counted():
    with pytest.raises(vb.ModelError, match="it counts each row once, not 3 times, as 20 of 60 rows must"):
        check(outside, 20)


@pytest.mark.parametrize("body", [standardised, always_the_first, weighed_twice], ids=lambda f: f.__name__)
def test_a_density_that_depends_on_the_other_rows_is_a_warning(body):
    """Not an error: a network may mean to normalise over its batch."""
    with pytest.warns(vb.VbpplWarning, match="site 'y': .* depends on the rows that are shown with it"):
        check(body, 20)


def test_a_plate_without_data_is_a_warning():
    with pytest.warns(vb.VbpplWarning, match=r"None of the model's observed sites and factors \(y\) stands in plate"):
        check(all_outside, 20)


def test_a_forgotten_subsample_says_what_to_write():
    def forgotten(beta, x, y):
        with vb.plate("row", len(y)):
            statement(x, beta, y)

    with pytest.raises(vb.ModelError, match="site 'y': .* length 60, but plate 'row' has 20 rows there") as error:
        target = target_of(forgotten)
        target.log_density(np.zeros(3), {"row": np.arange(20)})
    assert "Show the same rows of the arrays: vb.subsample(array)" in str(error.value)


@pytest.mark.parametrize("length", [20, 30])
def test_the_gradients_of_an_epoch_average_to_the_full_gradient(length, x64):
    """Case 8 of acceptance.md, with batches that fill an epoch and with some that straddle two."""
    target = Target.of(cases.logistic_regression(*cases.logistic_data()))
    stream, z = minibatches_of(target, length), np.array([0.9, 1.8, 2.1])
    steps = 600 // length  # three epochs of 200 rows
    ahead = jax.jit(lambda raw, cursor: stream.ahead(named(wrap(raw), "rows"), cursor, steps))
    rows = ahead(raw_key(0), stream.start())["row"]
    found = jax.jit(jax.vmap(jax.grad(lambda z, i: target.log_density(z, {"row": i})), (None, 0)))(z, rows)
    x, y = cases.logistic_data()
    expected = x.T @ (y - 1 / (1 + np.exp(-x @ z))) - z
    np.testing.assert_allclose(found.mean(0), expected, rtol=1e-5)
    assert found.std(0).min() > 1.0  # one batch alone is far off


@vb.model
def cross(y):
    """Row and column effects, both few, seen through a table."""
    mu = vb.sample("mu", dist.Normal(0.0, 3.0))
    with vb.plate("row", y.shape[0], dim=-2):
        a = vb.sample("a", dist.Normal(0.0, 1.0))
    with vb.plate("column", y.shape[1]):
        b = vb.sample("b", dist.Normal(0.0, 1.0))
    with vb.plate("row", y.shape[0], dim=-2), vb.plate("column", y.shape[1]):
        vb.sample("y", dist.Normal(mu + a + b, 1.0), obs=vb.subsample(y))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")
def test_two_plates_subsampled_at_once_reach_the_best_mean_field():
    """The best mean field of a Gaussian has its means and the diagonal of its precision matrix."""
    table = np.random.default_rng(1).standard_normal((5, 4)) + 2
    design = np.stack([np.concatenate([[1], np.eye(5)[i], np.eye(4)[j]]) for i in range(5) for j in range(4)])
    precision = design.T @ design + np.diag([1 / 9, *[1] * 9])
    mean = np.linalg.solve(precision, design.T @ table.ravel())
    method = vb.Stochastic(steps=3000, draws=2)
    posterior = vb.fit(cross(table), "mean_field", batch_size={"row": 2, "column": 3}, method=method)
    loc, sd = cases.flat_moments(posterior)
    best = np.diag(precision) ** -0.5
    assert np.abs((loc - mean) / best).max() < 0.15
    np.testing.assert_allclose(sd, best, rtol=0.1)


@pytest.mark.slow
def test_prediction_of_another_number_of_rows_draws_their_own_values_and_says_so():
    @vb.model
    def rows_apart(y, n):
        mu = vb.sample("mu", dist.Normal(0.0, 1.0))
        with vb.plate("row", n):
            x = vb.sample("x", dist.Normal(mu, 1.0))
            vb.sample("y", dist.Normal(x, 1.0), obs=y if y is None else vb.subsample(y))

    method = vb.Stochastic(steps=50, draws=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = vb.fit(rows_apart(np.full(64, 3.0), 64), "mean_field", batch_size=16, method=method)
    with pytest.warns(vb.VbpplWarning, match=r"site 'x' has shape \(64,\) in the posterior and \(512,\) here"):
        new = posterior.predict(rows_apart(None, 512), n=8)
    assert new["x"].shape == new["y"].shape == (8, 512)
    draws = posterior.sample(3)
    with pytest.raises(vb.ModelError, match=r"x: site \(64,\), values \(3, 512\)"):
        posterior.log_prob({**draws, "x": np.zeros((3, 512))})
