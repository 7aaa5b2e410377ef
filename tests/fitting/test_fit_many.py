"""Many fits side by side are the single fits, whatever their neighbours, and compile as little as one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cases
import jax.numpy as jnp
import numpy as np
import pytest

import vbppl as vb
import vbppl.distributions as dist

pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")

X = np.linspace(-1, 1, 40)
COUNTS = [np.random.default_rng(seed).poisson(np.exp(0.8 + 1.2 * X)) for seed in range(5)]


def test_each_fit_is_the_single_fit_of_its_data():
    many = vb.fit_many(cases.poisson_regression, [{"x": X, "y": y} for y in COUNTS])
    for posterior, y in zip(many, COUNTS):
        alone = vb.fit(cases.poisson_regression(X, y))
        np.testing.assert_allclose(posterior.phi, alone.phi, atol=1e-4)
        assert posterior.elbo.value == pytest.approx(alone.elbo.value, abs=1e-4)
        assert posterior.check().verdict == alone.check().verdict


def test_a_fit_does_not_depend_on_its_neighbours(x64):
    """One of them has data so extreme that it needs many more steps and draws."""
    datasets = [(X, COUNTS[0]), (X, 50 * COUNTS[1]), (X, np.zeros(40, int))]
    for guide in ("mean_field", "full_rank"):
        together = vb.fit_many(cases.poisson_regression, datasets, guide)
        apart = [vb.fit_many(cases.poisson_regression, [data, data], guide)[0] for data in datasets]
        for one, other in zip(together, apart):
            np.testing.assert_allclose(one.phi, other.phi, atol=1e-9)


@pytest.mark.slow
def test_one_model_from_many_seeds_is_as_many_single_fits():
    model = cases.eight_schools(cases.SCHOOLS_SIGMA, cases.SCHOOLS_Y)
    # By name: "auto" would go on alone, where its answer is not good.
    many = vb.fit_many(model, guide="mean_field", seeds=[0, 1, 3])
    for seed, posterior in zip([0, 1, 3], many):
        np.testing.assert_allclose(posterior.phi, vb.fit(model, "mean_field", seed=seed).phi, atol=2e-3)
    assert not np.array_equal(many[0].phi, many[1].phi)


def test_models_with_conditions_go_side_by_side():
    model = cases.far_datum(np.array(0.0))
    many = vb.fit_many([model.condition(y=y) for y in (1.0, 10.0)])
    assert [float(p.mean()["x"]) for p in many] == pytest.approx([0.8, 8.0], abs=1e-3)  # 4/5 of y, in closed form


@vb.model
def grouped(y):
    mu = vb.sample("mu", dist.Normal(0.0, 5.0))
    tau = vb.sample("tau", dist.HalfNormal(5.0))
    with vb.plate("group", 6):
        theta = vb.sample("theta", dist.Normal(mu, tau))
        vb.sample("y", dist.Normal(theta, 1.0), obs=y)


@pytest.mark.slow
def test_each_fit_chooses_its_own_coordinates():
    """Groups far apart, known to a hundredth of their spread, and groups that are all alike."""
    apart, alike = np.array([-300.0, -100, -20, 30, 150, 290]), np.full(6, 2.0)
    many = vb.fit_many(grouped, [(apart,), (alike,)])
    assert [float(posterior.target.parameterisations["theta"].weight) for posterior in many] == [1.0, 0.0]


def test_a_second_batch_of_equal_shapes_compiles_nothing(compilations):
    vb.fit_many(cases.poisson_regression, [(X, y) for y in COUNTS])
    before = compilations()
    vb.fit_many(cases.poisson_regression, [(X, y + 1) for y in COUNTS])
    assert compilations() == before


def test_a_hundred_fits_take_few_programs(compilations):
    @vb.model
    def own(y):
        x = vb.sample("x", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        with vb.plate("row", 3):
            vb.sample("y", dist.Normal(x.sum(), 1.0), obs=y)

    before = compilations()
    vb.fit_many(own, [(np.full(3, float(i)),) for i in range(100)])
    assert compilations() - before <= 3  # side by side, and one by one for the report cards, with their values


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vb.fit_many(cases.far_datum), "needs data sets"),
        (lambda: vb.fit_many(cases.far_datum, [(1.0,), (np.zeros(2),)]), "data set 1 differs from the first"),
        (lambda: vb.fit_many(cases.far_datum, [(1.0,)], seeds=[1, 2]), "1 data sets and 2 seeds"),
        (lambda: vb.fit_many(cases.far_datum, [(1.0,)], "meanfield"), "guide must be"),
        (lambda: vb.fit_many(cases.far_datum, [(1.0,), (np.nan,)]), "site 'y': data set 1: obs is NaN."),
        (
            lambda: vb.fit_many(cases.far_datum, [(1.0,)], vb.guides.Flow(cases.Same(shape=(1,)))),
            "cannot fit a Flow guide(.|\\n)*Use vb.fit with method='auto' .*, one model at a time",
        ),
    ],
)
def test_what_cannot_go_side_by_side_is_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()


LEAKS = """
import sys, warnings
sys.path.insert(0, "tests")
warnings.simplefilter("ignore")
import cases, numpy, vbppl as vb
model = cases.logistic_regression(*cases.logistic_data())
many = vb.fit_many(model, seeds=range(16))
for seed in (0, 7, 15):
    numpy.testing.assert_allclose(many[seed].phi, vb.fit(model, seed=seed).phi, atol=1e-3)
print("sixteen", len(many))
"""


@pytest.mark.slow
def test_sixteen_seeds_leak_no_tracer():
    run = subprocess.run(
        [sys.executable, "-c", LEAKS],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "JAX_CHECK_TRACER_LEAKS": "1"},
    )
    assert run.stdout == "sixteen 16\n", run.stderr
