"""The one compiled evaluation, against the density asked point by point."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.programs import compiling
from vbppl.target import batched
from vbppl.target.batched import evaluate


@vb.model
def curve(y):
    a = vb.sample("a", dist.Normal(0.0, 1.0))
    b = vb.sample("b", dist.HalfNormal(1.0))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.StudentT(4.0, a**3, b), obs=y)


TARGET = vb.target(curve(np.array([0.5, -1.0, 2.0])))
POINTS = np.random.default_rng(0).normal(size=(2 * batched.CALL + 1, TARGET.dim)).astype(np.float32)


@pytest.fixture(scope="module")
def one_by_one():
    """Density and gradient at each of `POINTS`, without any block."""
    both = jax.jit(jax.value_and_grad(TARGET.log_density))
    values, gradients = zip(*map(both, POINTS))
    return np.array(values), np.array(gradients)


@pytest.mark.parametrize("accelerated", [False, True], ids=["host", "accelerator"])
@pytest.mark.parametrize("number", [1, 31, 32, 33, batched.CALL, batched.CALL + 1, len(POINTS)])
def test_any_number_of_points_gives_what_each_gives_alone(number, accelerated, one_by_one, monkeypatch):
    monkeypatch.setattr(batched, "on_accelerator", lambda: accelerated)
    log_p, gradient = evaluate(TARGET, POINTS[:number])
    assert log_p.shape == (number,) and gradient.shape == (number, 2)
    np.testing.assert_allclose(log_p, one_by_one[0][:number], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, one_by_one[1][:number], rtol=1e-4, atol=1e-4)


def test_one_program_serves_every_number_of_points_and_other_data(compilations):
    evaluate(TARGET, POINTS[:1])
    other, before = vb.target(curve(np.zeros(3))), compilations()
    for number in (2, 100, len(POINTS)):
        evaluate(TARGET, POINTS[:number])
    assert np.all(evaluate(other, POINTS[:5])[0] != evaluate(TARGET, POINTS[:5])[0])
    assert compilations() == before


@pytest.mark.parametrize("number", [1, 5, 40])
def test_heavy_data_are_evaluated_few_points_at_a_time_with_the_same_answers(number, one_by_one, monkeypatch):
    monkeypatch.setattr(batched, "HEAVY", 2)
    log_p, gradient = evaluate(TARGET, POINTS[:number])
    np.testing.assert_allclose(log_p, one_by_one[0][:number], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, one_by_one[1][:number], rtol=1e-4, atol=1e-4)


def test_the_sizes_for_an_accelerator_fit_its_memory():
    assert [batched.points_side_by_side(size, True) for size in (0, 100, 10**7, 10**9)] == [512, 512, 32, 1]


@pytest.mark.parametrize("accelerated", [False, True], ids=["host", "accelerator"])
def test_many_targets_are_evaluated_each_with_its_own_data(accelerated, monkeypatch):
    monkeypatch.setattr(batched, "on_accelerator", lambda: accelerated)
    data = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    targets = [vb.target(curve(y)) for y in data]
    fits, z = np.array([2, 0, 1, 2]), POINTS[: 4 * 50].reshape(4, 50, 2)
    log_p, gradient = batched.BatchedDensity(targets)(z, fits, np.zeros((4, 0)))
    alone = [evaluate(targets[fit], points) for fit, points in zip(fits, z)]
    np.testing.assert_allclose(log_p, [found[0] for found in alone], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, [found[1] for found in alone], rtol=1e-4, atol=1e-4)


@vb.model
def product(x, y):
    beta = vb.sample("beta", dist.Normal(np.zeros(2, np.float32), 1.0).to_event(1))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(x @ beta, 1.0), obs=y)


@pytest.mark.parametrize(
    ("accelerated", "asked", "said"), [(True, None, "HIGHEST"), (False, None, "DEFAULT"), (True, "bfloat16", "DEFAULT")]
)
def test_products_on_an_accelerator_are_exact_unless_the_session_asks_for_others(accelerated, asked, said, monkeypatch):
    monkeypatch.setattr(compiling, "on_accelerator", lambda: accelerated)
    target = vb.target(product(np.ones((3, 2)), np.ones(3)))
    leaves, structure = jax.tree.flatten(target)
    seen = np.zeros((batched.ROWS, 0), np.float32), np.zeros(512, np.int32)
    at = (np.zeros((512, 2), np.float32), seen, np.zeros(1, np.int32))
    with jax.default_matmul_precision(asked):
        lowered = (
            batched._Structure(structure)
            .evaluate.lower(leaves, *at, np.int32(1), batched.Blocks(512, 0, None))
            .as_text()
        )
    products = [line for line in lowered.splitlines() if "dot_general" in line]
    assert len(products) == 2  # the value's and the gradient's
    assert all(said in line for line in products)


def test_one_point_that_is_not_finite_leaves_the_others_alone(one_by_one):
    points = POINTS[:40].copy()
    points[7] = np.nan
    log_p, gradient = evaluate(TARGET, points)
    assert np.isnan(log_p[7]) and np.isfinite(np.delete(log_p, 7)).all()
    np.testing.assert_allclose(np.delete(gradient, 7, 0), np.delete(one_by_one[1][:40], 7, 0), rtol=1e-4, atol=1e-4)


def test_the_answers_follow_the_dtype_of_the_session(x64):
    log_p, gradient = evaluate(vb.target(curve(np.zeros(3))), POINTS[:3])
    assert log_p.dtype == gradient.dtype == np.float64
