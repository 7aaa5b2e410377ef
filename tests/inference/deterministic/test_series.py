"""Series given their hyperparameters: chains of blocks, their factor, where they are found, and exact posteriors."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vbppl as vb
import vbppl.distributions as dist
from benchmarks.posteriors import series
from vbppl.core import watch
from vbppl.core.keys import raw_key
from vbppl.core.numerics.lbfgs import TRIES
from vbppl.fitting.plan import plan
from vbppl.fitting.prepare import prepare
from vbppl.guides.layers.elimination import Factor
from vbppl.guides.layers.newton_step import NewtonStep
from vbppl.inference.deterministic import fixed_draws, low_rank
from vbppl.inference.deterministic.beyond.series import SeriesSearch, chain_of, is_chain, is_series, solve_series
from vbppl.inference.deterministic.beyond.series import begun as at_start
from vbppl.target.axes import coordinate_names
from vbppl.target.batched import evaluate

pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")


@vb.model
def local_level(y=None, n=None):
    noise = vb.sample("noise", dist.HalfNormal(2.0))
    walk = vb.sample("walk", dist.HalfNormal(1.0))
    start = vb.sample("start", dist.Normal(0.0, 5.0))

    def step(level, y):
        level = vb.sample("level", dist.Normal(level, walk))
        vb.sample("y", dist.Normal(level, noise), obs=y)
        return level, None

    vb.scan(step, start, y, length=n)


def walked(steps, noise=1.0, walk=0.3):
    rng = np.random.default_rng(0)
    return np.cumsum(walk * rng.standard_normal(steps)) + noise * rng.standard_normal(steps)


def filtered(y, log_noise, log_walk):
    """Log density of `y` and both log scales, the level integrated out by a Kalman filter, at many scales at once."""
    noise, walk = np.exp(2 * log_noise), np.exp(2 * log_walk)
    mean, variance = np.zeros_like(noise), np.full_like(noise, 25.0)
    log_p = np.log(2 / np.pi) - np.log(2.0) - noise / 8 - walk / 2 + log_noise + log_walk
    for value in y:
        variance = variance + walk
        total = variance + noise
        log_p -= (np.log(2 * np.pi * total) + (value - mean) ** 2 / total) / 2
        mean = mean + variance / total * (value - mean)
        variance = variance * noise / total
    return log_p


def exactly(y, loc, spread):
    """Log evidence, and mean and sd of both scales, by quadrature in a box around `loc`."""
    axes = [np.linspace(m - 6 * s, m + 6 * s, 81) for m, s in zip(loc, spread)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    log_p = filtered(y, *grid.T)
    weights = np.exp(log_p - log_p.max())
    evidence = log_p.max() + np.log(weights.sum() * np.prod([axis[1] - axis[0] for axis in axes]))
    weights /= weights.sum()
    mean = weights @ np.exp(grid)
    return evidence, mean, np.sqrt(weights @ (np.exp(grid) - mean) ** 2)


def test_the_factor_of_a_chain_is_one_of_its_matrix(x64):
    rng, count, width = np.random.default_rng(0), 5, 2
    size = count * width
    lower = np.tril(rng.normal(size=(size, size))) * np.kron(
        np.eye(count) + np.eye(count, k=-1), np.ones((width, width))
    ) + 4 * np.eye(size)
    matrix = lower @ lower.T
    blocks = matrix.reshape(count, width, count, width).swapaxes(1, 2)
    at = np.arange(count)
    made = jax.jit(Factor.of)(jnp.asarray(blocks[at, at]), jnp.asarray(blocks[at[1:], at[:-1]]))
    factor = jax.tree.map(np.asarray, made)
    units = np.eye(size).reshape(size, count, width)
    inverse = factor.solve_transposed(units).reshape(size, size).T
    np.testing.assert_allclose(inverse @ inverse.T, np.linalg.inv(matrix), atol=1e-12)
    np.testing.assert_allclose(factor.solve(units).reshape(size, size).T, inverse.T, atol=1e-12)
    np.testing.assert_allclose(factor.times_transposed(units).reshape(size, size).T @ inverse, np.eye(size), atol=1e-12)
    assert factor.log_det() == pytest.approx(np.linalg.slogdet(matrix)[1] / 2, rel=1e-12)
    b = rng.normal(size=(count, width))
    for solve in (Factor.solve, Factor.solve_transposed):  # by a loop of JAX's as by NumPy
        np.testing.assert_allclose(solve(made, jnp.asarray(b)), solve(factor, b), atol=1e-12)


def bent(z):
    """A scale, and a walk of five numbers under it whose ends are far from normal."""
    log_walk, x = z[0], z[1:]
    walk = -(jnp.diff(x, prepend=0.0) ** 2).sum() * jnp.exp(-2 * log_walk) / 2 - 5 * log_walk
    return walk - log_walk**2 / 2 - jnp.sum(jnp.exp(x) - x)


def test_a_chain_of_blocks_is_a_bijection_with_its_own_log_det(x64):
    target, rng = vb.density(bent, 6), np.random.default_rng(1)
    layer = NewtonStep((0,), ((1, 2), (3, 4), (5,)), is_chain=True)
    shapes = {"mean": 5, "slope": (5, 1), "log_sd": 5, "shift": 5, "log_scale": 5}
    psi = {name: 0.3 * rng.standard_normal(shape) for name, shape in shapes.items()}
    e, h = rng.standard_normal((2, 6)), 1e-6
    z, log_det = layer.forward_and_log_det(psi, e, target)
    both = [[layer.forward_and_log_det(psi, e + sign * h * way, target)[0] for sign in (1, -1)] for way in np.eye(6)]
    jacobian = np.stack([(up - down) / (2 * h) for up, down in both], axis=-1)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-6)
    back, inverse = layer.inverse_and_log_det(psi, z, target)
    np.testing.assert_allclose(back, e, atol=1e-9)
    np.testing.assert_allclose(inverse, -log_det, atol=1e-12)
    # `R R^T` is the Hessian where the step begins.
    given = z[:1, 0]
    factor = layer.conditionals(psi, z[:, :1], target)[1]
    x0, sd = psi["mean"] + psi["slope"] @ given, np.exp(psi["log_sd"])
    hessian = -jax.hessian(bent)(jnp.concatenate([given, x0]))[1:, 1:] * sd * sd[:, None]
    assert factor.log_det()[0] == pytest.approx(np.linalg.slogdet(hessian)[1] / 2, rel=1e-6)


@vb.model
def loop(y):
    """An AR(2) as a loop of Python's, each value a site of its own, with its scale latent."""
    scale = vb.sample("scale", dist.HalfNormal(1.0))
    before, last = 0.0, 0.0
    for i in range(len(y)):
        before, last = last, vb.sample(f"x{i}", dist.Normal(0.6 * last - 0.3 * before, scale))
        vb.sample(f"y{i}", dist.Normal(last, 1.0), obs=y[i])


@vb.model
def by_innovations(y):
    scale = vb.sample("scale", dist.HalfNormal(1.0))
    z = vb.sample("z", dist.Normal(jnp.zeros(len(y)), 1.0).to_event(1))
    vb.sample("y", dist.Normal(jnp.cumsum(scale * z), 1.0).to_event(1), obs=y)


@vb.model
def groups(y):
    scale = vb.sample("scale", dist.HalfNormal(1.0))
    with vb.plate("group", len(y)):
        mean = vb.sample("mean", dist.Normal(0.0, scale))
        vb.sample("y", dist.Normal(mean, 1.0), obs=y)


@vb.model
def side_by_side(y):
    """Seven walks with one scale."""
    scale = vb.sample("scale", dist.HalfNormal(1.0))
    with vb.plate("walk", y.shape[1]):

        def step(x, y):
            x = vb.sample("x", dist.Normal(x, scale))
            vb.sample("y", dist.Normal(x, 1.0), obs=y)
            return x, None

        vb.scan(step, jnp.zeros(y.shape[1]), y)


def found(model):
    target, rng = vb.target(model), np.random.default_rng(0)
    place = 0.1 * rng.standard_normal(target.dim)
    chain = chain_of(target, lambda z: evaluate(target, z)[1], place, rng)
    if isinstance(chain, str):
        return chain
    names = coordinate_names(target)
    return [tuple(names[place] for place in block) for block in chain.blocks]


def test_a_chain_is_found_by_how_far_a_step_is_felt():
    assert found(local_level(np.zeros(40))) == [(f"level[{i}]",) for i in range(40)]
    assert found(by_innovations(np.zeros(40))) == "a step meets others that are far from it"


@pytest.mark.slow
def test_chains_are_found_in_loops_and_side_by_side_and_not_where_there_are_none():
    pairs = [(f"x{i}", f"x{i + 1}") for i in range(0, 20, 2)]
    assert found(loop(np.zeros(20))) == pairs
    assert found(groups(np.zeros(40))) == "no step meets another"
    assert found(side_by_side(np.zeros((20, 7)))) == [(f"x[{t},{i}]",) for i in range(7) for t in range(20)]


def test_what_a_search_has_cost_that_came_to_nothing_is_told(monkeypatch):
    target = vb.target(local_level(walked(20)))
    monkeypatch.setattr(
        SeriesSearch, "begin", lambda self, watch: (self.evaluate(np.zeros((64, self.dim))) is None, "")
    )
    problem = prepare(plan(target, "mean_field"), [target], [raw_key(0)])
    (alone,) = fixed_draws.solve_mean_field(problem)
    (found,) = solve_series(problem, otherwise=fixed_draws.solve_mean_field)
    assert found.status.gradients >= alone.status.gradients + 64 and found.status.converged


def test_a_search_for_a_mode_hears_the_deadline_at_each_of_its_steps(monkeypatch):
    """By a clock that goes on by a second with each Newton step to the mode of the series, and not between."""
    clock, conditionals = [0.0], NewtonStep.conditionals

    def taking_a_second(*args):
        clock[0] += 1.0
        return conditionals(*args)

    target = vb.target(local_level(walked(20)))
    problem = prepare(plan(target, vb.guides.ConditionalLaplace()), [target], [raw_key(0)])
    monkeypatch.setattr(watch.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(NewtonStep, "conditionals", taking_a_second)
    monkeypatch.setattr("vbppl.inference.deterministic.beyond.series.NEAR", 0.0)  # forty steps, each time
    monkeypatch.setattr(SeriesSearch, "_marginal", lambda self, given: (-(given**4).sum(axis=1), -4 * given**3))
    for begun, deadline, at_most in ((0.0, 0.5, 1.0), (10.0, 13.5, 14.0), (100.0, 145.5, 146.0 + TRIES)):
        clock[0] = begun
        (found,) = solve_series(problem, watch.Watch(deadline=deadline), otherwise=fixed_draws.solve_mean_field)
        assert found.status.reason == "deadline" and not found.status.converged
        assert deadline < clock[0] <= at_most


def test_in_many_dims_a_series_is_planned_as_one():
    many = vb.target(local_level(np.zeros(600)))
    assert is_series(many) and plan(many).solve.func is solve_series
    assert plan(many, "low_rank").solve is low_rank.solve_low_rank
    assert not is_series(vb.density(lambda z: -jnp.sum(z**2), 40))


@vb.model
def smooth(y):
    scale, x = vb.sample("scale", dist.LogNormal(0.0, 1.0)), jnp.arange(len(y)) / 4
    kernel = scale**2 * jnp.exp(-0.5 * (x[:, None] - x) ** 2) + 1e-2 * jnp.eye(len(x))
    vb.sample(
        "y", dist.Normal(vb.sample("f", dist.MultivariateNormal(jnp.zeros(len(x)), kernel)), 1).to_event(1), obs=y
    )


@vb.model
def grouped(y):
    scale = vb.sample("scale", dist.LogNormal(0.0, 1.0))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(vb.sample("theta", dist.Normal(0.0, scale)), 1.0), obs=y)


@pytest.mark.parametrize(
    "write, expected", [(local_level, True), (grouped, False), pytest.param(smooth, False, marks=pytest.mark.slow)]
)
def test_what_may_be_a_series_is_told_from_fields_and_groups_where_a_fit_stands_in_other_coordinates(write, expected):
    target = vb.target(write(walked(20)))
    problem, layout = prepare(plan(target), [target], [raw_key(0)]), target.layout
    row = layout.packed(layout.centred_by(dict.fromkeys(layout.movable, 0.0), float))
    start = np.full((1, 2, target.dim), -1.0)
    moved = dataclasses.replace(problem, parameterisations=row[None], start=start)
    assert is_series(target) and is_chain(problem, at_start(moved)) == expected


@pytest.fixture(scope="module")
def long():
    """A local level of 600 steps, with its exact answer."""
    y = walked(600)
    posterior = vb.fit(local_level(y))
    z = np.log(np.stack([posterior.mean()[name] for name in ("noise", "walk")]))
    spread = [posterior.sd()[name] / posterior.mean()[name] for name in ("noise", "walk")]
    return y, posterior, exactly(y, z, spread)


@pytest.mark.slow
def test_a_long_local_level_is_right(long):
    _, posterior, (evidence, mean, sd) = long
    assert isinstance(posterior.guide, vb.guides.ConditionalLaplace) and posterior.report.verdict == "good"
    assert posterior.report.log_evidence == pytest.approx(evidence, abs=0.02)
    for name, right, spread in zip(("noise", "walk"), mean, sd):
        assert posterior.mean()[name] == pytest.approx(right, abs=0.05 * spread)
        assert np.log(posterior.sd()[name] / spread) == pytest.approx(0.0, abs=0.08)


@pytest.mark.slow
def test_a_series_runs_on_and_is_stored(long, tmp_path):
    y, posterior, _ = long
    ahead = posterior.predict(local_level(n=610), n=200)
    assert ahead["level"].shape == (200, 610)
    # The variance of a forecast grows by that of a step.
    spread = np.var(ahead["level"][:, 609]) - np.var(ahead["level"][:, 599])
    assert spread == pytest.approx(10 * float(np.mean(posterior.sample(2000)["walk"] ** 2)), rel=0.6)
    vb.save(posterior, tmp_path / "level.npz")
    again = vb.load(tmp_path / "level.npz", local_level(y))
    np.testing.assert_array_equal(again.sample(3)["level"], posterior.sample(3)["level"])


@pytest.mark.slow
def test_the_nile_is_right():
    """Against exact draws: `benchmarks/posteriors/series.nile_exactly`."""
    posterior, right = vb.fit(series.nile()), series.nile_exactly(4000, np.random.default_rng(0))
    assert posterior.report.verdict == "good"
    for name, draws in right.items():
        sd = draws.std(axis=0)
        assert np.abs((posterior.mean()[name] - draws.mean(axis=0)) / sd).max() < 0.1
        assert np.abs(np.log(posterior.sd()[name] / sd)).max() < 0.15
