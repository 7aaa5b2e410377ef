"""A poor fit is told its cause, where the model's own numbers show one: what, where, and how to mend it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.fitting.advice import advised, causes_of
from vbppl.target.target import error_somewhere


@vb.model
def negative_scale():
    a = vb.sample("a", dist.Normal(0.0, 1.0))
    vb.sample("x", dist.Normal(0.0, 2.0 * a))


@vb.model
def logarithm():
    a = vb.sample("a", dist.Normal(0.0, 1.0))
    vb.factor("w", jnp.log(a))


@vb.model
def smooth(x, y):
    length = vb.sample("length", dist.LogNormal(0.0, 1.0))
    kernel = jnp.exp(-0.5 * ((x[:, None] - x) / length) ** 2)
    vb.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), scale_tril=jnp.linalg.cholesky(kernel)), obs=y)


@vb.model
def fine(y):
    x = vb.sample("x", dist.Normal(0.0, 1.0))
    vb.sample("y", dist.Normal(x, 1.0), obs=y)


GRID = np.linspace(0, 5, 30)
AT_A_POINT = {
    "a scale": (
        negative_scale(),
        -np.ones(2),
        """
site 'x': scale is -2, off its support, positive.
  where a = -1.
  To mend it: Give positive numbers, as jnp.exp(a) is, or a site with a positive support.
""",
    ),
    "a logarithm": (
        logarithm(),
        -np.ones(1),
        """
site 'w': the logarithm of a negative number is NaN.
  where a = -1.
  To mend it: Keep it positive, as jnp.exp(a) and a ** 2 are.
""",
    ),
    "a kernel": (
        smooth(GRID, np.sin(GRID)),
        np.ones(1),
        """
site 'y': a matrix is not positive definite to rounding, so that its Cholesky factor is NaN.
  where length = 2.7183
  To mend it: Add to its diagonal, K + 1e-6 * jnp.eye(n), or vb.fit(..., precision='float64').
""",
    ),
}


@pytest.mark.parametrize("name", AT_A_POINT)
def test_what_makes_a_density_no_number_is_named_with_its_site_and_the_mend(name):
    model, z, told = AT_A_POINT[name]
    assert str(error_somewhere(vb.target(model), z)) == told.strip()


def test_where_nothing_is_wrong_nothing_is_said():
    assert error_somewhere(vb.target(fine(np.array(1.0))), np.zeros(1)) is None


def test_a_poor_fit_begins_with_the_cause():
    with pytest.warns(vb.VbpplWarning, match="To mend it: Keep it positive"):
        card = vb.fit(logarithm()).check()
    assert card.verdict == "poor"
    assert card.reasons[0].startswith("site 'w': the logarithm of a negative number is NaN, where a = -")
    assert card.advice[0] == "Keep it positive, as jnp.exp(a) and a ** 2 are"
    assert card.lines()[0].startswith(f"verdict: poor: {card.reasons[0]}, and ")


def test_a_poor_fit_of_indices_begins_with_the_index():
    @vb.model
    def groups(y, g):
        a = vb.sample("a", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Normal(a[g], 1.0), obs=y)

    posterior = vb.fit(groups(np.array([0.0, 3.0, -3.0]), np.array([0, 1, 2])))
    poor = dataclasses.replace(posterior.report, verdict="poor", reasons=("too wide",), advice=("a sampler",))
    causes = causes_of(groups(np.zeros(3), np.array([1, 2, 3])), posterior.solution, poor)
    card = advised(poor, causes)
    assert card.reasons[0].startswith("site 'y': index 3 is out of bounds for axis 0 with size 3")
    assert card.reasons[1:] == ("too wide",)
    assert card.advice == ("Count from 0, for instance by np.unique(groups, return_inverse=True)", "a sampler")


def test_a_start_that_is_never_finite_is_told_with_the_operation():
    @vb.model
    def hopeless(y):
        a = vb.sample("a", dist.Normal(0.0, 1.0))
        vb.sample("y", dist.Normal(a, 1.0), obs=y)
        vb.factor("w", jnp.sqrt(-jnp.exp(a)))

    with pytest.raises(vb.ModelError) as error:
        vb.fit(hopeless(np.array(1.0)))
    assert str(error.value) == (
        "site 'w': the root of a negative number is NaN.\n  where a = 0.3\n"
        "  To mend it: Keep it positive, as jnp.exp(a) and a ** 2 are."
    )


def solver(x):
    """Raises where a solver of differential equations would give up."""
    if np.any(np.abs(x) > 8):
        raise RuntimeError("the solver did not converge")
    return np.asarray(x)


@jax.custom_jvp
def solved(x):
    shape = jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))
    return jax.pure_callback(solver, shape, x, vmap_method="expand_dims")


solved.defjvp(lambda primals, tangents: (solved(*primals), tangents[0]))


def test_an_error_that_the_model_raises_at_a_wild_start_names_the_mend():
    @vb.model
    def equation(y):
        a = vb.sample("a", dist.Normal(0.0, 1.0))
        vb.sample("y", dist.Normal(solved(a), 1.0), obs=y)

    with pytest.raises(vb.ModelError) as error:
        vb.fit(equation(np.array(1.0)))
    assert str(error.value) == (
        "the model raised an error while its log density was computed.\n"
        "  RuntimeError: the solver did not converge\n"
        "  To mend it: A search for a start also tries wild values: there the model must give NaN, not raise, as a "
        "solver does with throw=False; or begin inside, vb.fit(model, start={...})."
    )


@pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")
def test_a_flat_prior_between_hard_walls_is_a_posterior():
    @vb.model
    def window():
        x = vb.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        vb.factor("walls", jnp.where(jnp.abs(x) < 1000.0, 0.0, -jnp.inf))

    assert vb.fit(window(), "mean_field").report.verdict == "poor"  # no Gaussian is one, but it is not refused


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")
def test_what_other_data_drown_in_rounding_still_counts():
    """Far from the answer a thousand rows in raw units are 1e12 nats, whose rounding hides any prior."""

    @vb.model
    def raw(y):
        mean, sd = vb.sample("mean", dist.Normal(0.0, 1e6)), vb.sample("sd", dist.HalfNormal(1e6))
        age = vb.sample("age", dist.Normal(40.0, 10.0))
        two = vb.sample("two", dist.Normal(0.0, 1.0))
        vb.factor("modes", jnp.logaddexp(-50 * (two - 2) ** 2, -50 * (two + 2) ** 2))
        vb.sample("smoker", dist.Bernoulli(logits=(age - 40) / 20), obs=1)
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Normal(mean, sd), obs=y)

    posterior = vb.fit(raw(np.random.default_rng(0).normal(5e4, 1e4, 1000)))
    x = np.linspace(-30, 110, 2001)
    weight = stats.norm.pdf(x, 40, 10) / (1 + np.exp(-(x - 40) / 20))
    assert posterior.mean()["age"] == pytest.approx(np.sum(x * weight) / weight.sum(), abs=1.0)
