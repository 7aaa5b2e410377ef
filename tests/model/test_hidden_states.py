"""Hidden states of a scan: densities, draws and probabilities against sums over all paths, in plates, with masks."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import vbppl as vb
import vbppl.distributions as dist
from vbppl.model.control_flow import hidden
from vbppl.target import discrete

RNG = np.random.default_rng(3)
TRANSITIONS = np.array([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.25, 0.25, 0.5]])
LOC = np.array([-1.0, 0.5, 2.0])
Y = RNG.normal(0.5, 1.5, size=5)


def log_normal(x, loc, scale):
    return -0.5 * ((x - loc) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)


def by_paths(initial, transition, emission, length):
    """Log of the sum over all paths, and the probability of each state at each step; everything in logarithms.

    `transition(t, i, j)` and `emission(t, path)` are log densities; the latter may look at the whole path so far.
    """
    states, paths, weights = len(initial), [], []
    for path in itertools.product(range(states), repeat=length):
        steps = (transition(t, path[t - 1], path[t]) for t in range(1, length))
        weights.append(initial[path[0]] + sum(steps) + sum(emission(t, path[: t + 1]) for t in range(length)))
        paths.append(path)
    weights, paths = np.array(weights), np.array(paths)
    shares = np.exp(weights - np.logaddexp.reduce(weights))
    smoothed = np.stack([[shares[paths[:, t] == k].sum() for k in range(states)] for t in range(length)])
    return np.logaddexp.reduce(weights), smoothed


@vb.model
def hidden_markov(y, transitions=TRANSITIONS, is_real=None):
    loc = vb.sample("loc", dist.Normal(LOC, 0.5).to_event(1))
    s = vb.sample("s", dist.HalfNormal(1.0))
    is_real = np.ones(len(y), bool) if is_real is None else is_real

    def step(state, given):
        y, is_real = given
        state = vb.sample("state", dist.Categorical(jnp.asarray(transitions)[state]))
        vb.sample("y", dist.Normal(loc[state], s).mask(is_real), obs=y)
        vb.deterministic("mean", loc[state])
        return state, None

    vb.scan(step, 0, (y, is_real))


POINT = {"loc": np.array([-0.8, 0.3, 2.2]), "s": np.array(0.9)}
PRIOR = log_normal(POINT["loc"], LOC, 0.5).sum() + np.log(2) + log_normal(POINT["s"], 0.0, 1.0)


def paths_of(y, is_real=None):
    is_real = np.ones(len(y), bool) if is_real is None else is_real
    return by_paths(
        np.log(TRANSITIONS[0]),
        lambda t, i, j: np.log(TRANSITIONS[i, j]),
        lambda t, path: log_normal(y[t], POINT["loc"][path[-1]], POINT["s"]) * is_real[t],
        len(y),
    )


def test_density_and_probabilities_are_sums_over_all_paths():
    model, (evidence, smoothed) = hidden_markov(Y), paths_of(Y)
    target = vb.target(model)
    assert target.layout.summed == ("state",) and target.dim == 4
    np.testing.assert_allclose(model.log_joint(POINT), PRIOR + evidence, rtol=1e-6)
    z = target.unconstrain(POINT)
    np.testing.assert_allclose(target.log_density(z) - target.log_det(POINT), PRIOR + evidence, rtol=1e-6)
    draws = {name: value[None] for name, value in POINT.items()}
    np.testing.assert_allclose(discrete.probabilities(target, "state", draws, 1), smoothed, atol=1e-5)
    # Given the states nothing is summed.
    states = np.array([0, 1, 1, 2, 0])
    expected = np.log(TRANSITIONS[[0, *states[:-1]], states]).sum()
    expected += log_normal(Y, POINT["loc"][states], POINT["s"]).sum()
    np.testing.assert_allclose(model.log_joint({**POINT, "state": states}), PRIOR + expected, rtol=1e-6)


@pytest.mark.slow
def test_states_are_drawn_jointly_given_the_rest():
    n = 4000
    draws = {name: np.repeat(value[None], n, axis=0) for name, value in POINT.items()}
    found = discrete.completed(vb.target(hidden_markov(Y)), draws, n, np.zeros(2, np.uint32))
    np.testing.assert_array_equal(found["mean"], POINT["loc"].astype(np.float32)[np.asarray(found["state"])])
    # How often each pair of the first two states comes, against the weights of all paths.
    paths = np.array(list(itertools.product(range(3), repeat=5)))
    before = np.concatenate([np.zeros((len(paths), 1), int), paths[:, :-1]], axis=1)
    weights = (np.log(TRANSITIONS[before, paths]) + log_normal(Y, POINT["loc"][paths], POINT["s"])).sum(axis=1)
    shares = np.exp(weights - np.logaddexp.reduce(weights))
    state = np.asarray(found["state"])
    for t, i, j in itertools.product(range(4), range(3), range(3)):
        share = shares[(paths[:, t] == i) & (paths[:, t + 1] == j)].sum()
        seen = np.mean((state[:, t] == i) & (state[:, t + 1] == j))
        assert abs(seen - share) < 4 * np.sqrt(share * (1 - share) / n) + 4 / n  # of rare pairs, a few


@pytest.mark.slow
def test_what_is_masked_does_not_count():
    is_real = np.array([True, True, False, True, False])
    y = np.where(is_real, Y, np.nan)
    evidence, _ = paths_of(Y, is_real)
    np.testing.assert_allclose(hidden_markov(y, is_real=is_real).log_joint(POINT), PRIOR + evidence, rtol=1e-6)


@vb.model
def many(y, inside):
    loc = vb.sample("loc", dist.Normal(LOC, 0.5).to_event(1))

    def step(state, y):
        if inside:
            with vb.plate("sequence", 2):
                return stated(state, y)
        return stated(state, y)

    def stated(state, y):
        state = vb.sample("state", dist.Categorical(jnp.asarray(TRANSITIONS)[state]))
        vb.sample("y", dist.Normal(loc[state], 1.0), obs=y)
        return state, None

    if inside:
        vb.scan(step, jnp.zeros(2, int), y)
        return
    with vb.plate("sequence", 2):
        vb.scan(step, jnp.zeros(2, int), y)


@pytest.mark.slow
@pytest.mark.parametrize("inside", [True, False])
def test_each_row_of_a_plate_has_states_of_its_own(inside):
    y = RNG.normal(size=(4, 2))
    expected = log_normal(POINT["loc"], LOC, 0.5).sum()
    smoothed = []
    for row in y.T:
        evidence, probabilities = by_paths(
            np.log(TRANSITIONS[0]),
            lambda t, i, j: np.log(TRANSITIONS[i, j]),
            lambda t, path, row=row: log_normal(row[t], POINT["loc"][path[-1]], 1.0),
            4,
        )
        expected += evidence
        smoothed.append(probabilities)
    model, point = many(y, inside), {"loc": POINT["loc"]}
    np.testing.assert_allclose(model.log_joint(point), expected, rtol=1e-6)
    found = discrete.probabilities(vb.target(model), "state", {"loc": POINT["loc"][None]}, 1)
    np.testing.assert_allclose(found, np.stack(smoothed, axis=1), atol=1e-5)


@pytest.mark.slow
def test_switching_dynamics():
    """A continuous state whose density hangs on the hidden one, and an observation of both."""

    @vb.model
    def switching(y):
        drift = vb.sample("drift", dist.Normal(0.0, 1.0))

        def step(before, y):
            state, level = before
            state = vb.sample("state", dist.Bernoulli(jnp.where(state == 1, 0.8, 0.3)))
            level = vb.sample("level", dist.Normal(level + drift * state, 0.5 + state))
            vb.sample("y", dist.Normal(level, jnp.where(state == 1, 0.5, 1.0)), obs=y)
            return (state, level), level

        _, levels = vb.scan(step, (0, 0.0), y)
        vb.deterministic("levels", levels)

    y, level, drift = RNG.normal(size=4), np.array([0.1, 0.7, 0.2, -0.4]), 0.4
    before = np.concatenate([[0.0], level[:-1]])
    to_one = np.array([0.3, 0.8])
    transitions = np.log(np.stack([1 - to_one, to_one], axis=1))

    def emission(t, path):
        state = path[-1]
        return log_normal(level[t], before[t] + drift * state, 0.5 + state) + log_normal(
            y[t], level[t], (1.0, 0.5)[state]
        )

    evidence, _ = by_paths(transitions[0], lambda t, i, j: transitions[i, j], emission, 4)
    expected = log_normal(drift, 0.0, 1.0) + evidence
    model, target = switching(y), vb.target(switching(y))
    np.testing.assert_allclose(model.log_joint({"drift": drift, "level": level}), expected, rtol=1e-5)
    assert target.layout.movable == () and target.dim == 5
    np.testing.assert_allclose(target.constrain(np.r_[drift, level])["levels"], level, rtol=1e-6)
    np.testing.assert_allclose(target.log_density(np.r_[drift, level]), expected, rtol=1e-5)


@pytest.mark.slow
def test_two_hidden_sites_and_an_observed_autoregression():
    @vb.model
    def pair(y):
        def step(before, y):
            state, last = before
            state = vb.sample("state", dist.Categorical(jnp.asarray(TRANSITIONS)[state]))
            kind = vb.sample("kind", dist.Bernoulli(0.2 + 0.2 * state))
            vb.sample("y", dist.Normal(jnp.asarray(LOC)[state] + 0.5 * last, 1.0 + kind), obs=y)
            return (state, y), None

        vb.scan(step, (0, 0.0), y)

    before = np.concatenate([[0.0], Y[:-1]])

    def emission(t, path):
        chance = 0.2 + 0.2 * path[-1]
        loc = LOC[path[-1]] + 0.5 * before[t]
        plain, wide = (log_normal(Y[t], loc, scale) for scale in (1.0, 2.0))
        return np.logaddexp(np.log(1 - chance) + plain, np.log(chance) + wide)

    evidence, smoothed = by_paths(np.log(TRANSITIONS[0]), lambda t, i, j: np.log(TRANSITIONS[i, j]), emission, 5)
    np.testing.assert_allclose(pair(Y).log_joint({}), evidence, rtol=1e-6)
    np.testing.assert_allclose(discrete.probabilities(vb.target(pair(Y)), "state", {}, 1), smoothed, atol=1e-5)


@pytest.mark.slow
def test_one_step_and_a_far_observation():
    np.testing.assert_allclose(hidden_markov(Y[:1]).log_joint(POINT), PRIOR + paths_of(Y[:1])[0], rtol=1e-6)
    # Beyond what numbers of 32 bits hold as probabilities, and with a transition that cannot be.
    y = np.array([0.0, 40.0, -35.0])
    np.testing.assert_allclose(hidden_markov(y).log_joint(POINT), PRIOR + paths_of(y)[0], rtol=1e-5)


def said(function, *arguments):
    with pytest.raises(vb.ModelError) as error:
        vb.target(vb.model(function)(*arguments))
    return str(error.value)


def test_messages():
    def second_order():
        def step(before, y):
            state = vb.sample("state", dist.Bernoulli(0.2 + 0.3 * before[0] + 0.3 * before[1]))
            vb.sample("y", dist.Normal(state, 1.0), obs=y)
            return (state, before[0]), None

        vb.scan(step, (0, 0), np.zeros(4))

    assert said(second_order) == (
        "site 'state': the carry of the scan knows more than the last value of this discrete site, which is summed "
        "out: what a step hands on is made of what the step before has made of it.\n"
        "  To mend it: Hand on the site's own value. Where a step looks at two states before it, let one site be the "
        "pair of both: a Categorical over all pairs."
    )

    def used_after():
        def step(state, y):
            state = vb.sample("state", dist.Bernoulli(0.2 + 0.3 * state))
            vb.sample("y", dist.Normal(state, 1.0), obs=y)
            return state, state

        _, states = vb.scan(step, 0, np.zeros(4))
        vb.deterministic("total", states.sum())

    assert said(used_after) == (
        "site 'state': what the scan gives back of this discrete site is used after it, but the site is summed out "
        "step by step.\n"
        "  To mend it: Use the state inside of the step alone; vb.deterministic there keeps what is made of it."
    )

    def outside():
        def step(state, y):
            with vb.plate("row", 2):
                state = vb.sample("state", dist.Bernoulli(0.2 + 0.3 * state))
            vb.sample("y", dist.Normal(state.sum(), 1.0), obs=y)
            return state, None

        vb.scan(step, jnp.zeros(2, int), np.zeros(4))

    assert said(outside) == (
        "site 'y': it stands outside of plate 'row', and depends on the discrete site 'state' inside: all rows of "
        "'state' meet in it, and their joint values are too many to sum.\n"
        "  To mend it: Put 'y' into plate 'row'."
    )

    def coupled():
        def step(state, y):
            with vb.plate("row", 3):
                state = vb.sample("state", dist.Bernoulli(0.1 + 0.8 * jnp.mean(1.0 * state)))
                vb.sample("y", dist.Normal(state, 1.0), obs=y)
            return state, None

        vb.scan(step, jnp.zeros(3, int), np.zeros((4, 3)))

    assert said(coupled) == (
        "site 'state': a row of it depends on other rows of the discrete sites around it (among 'state'), which are "
        "summed out row by row.\n"
        "  To mend it: Compute each row from its own row of the discrete sites: no sum, shift or index along their "
        "plate."
    )

    def too_many():
        def step(state, y):
            first = vb.sample("first", dist.Categorical(jnp.ones(40) / 40))
            second = vb.sample("second", dist.Categorical(jnp.ones(40) / 40))
            vb.sample("y", dist.Normal(first + second + state, 1.0), obs=y)
            return first, None

        vb.scan(step, 0, np.zeros(4))

    assert said(too_many) == (
        "site 'first': the hidden states of a step have 1,600 joint values, first (40) x second (40); the limit is "
        "1,024, and a step looks at all pairs of them.\n"
        "  To mend it: Give them fewer values, or let one of them be continuous."
    )


@pytest.fixture(scope="module")
def fitted():
    rng, states, n = np.random.default_rng(0), [0], 60
    for _ in range(n):
        states.append(rng.choice(3, p=TRANSITIONS[states[-1]]))
    y = rng.normal(3 * LOC[states[1:]], 0.7)
    return vb.fit(separated(y), "full_rank"), np.array(states[1:]), y


@vb.model
def separated(y=None, n=None):
    s = vb.sample("s", dist.LogNormal(0.0, 0.5))

    def step(state, y):
        state = vb.sample("state", dist.Categorical(jnp.asarray(TRANSITIONS)[state]))
        vb.sample("y", dist.Normal(3 * jnp.asarray(LOC)[state], s), obs=y)
        return state, None

    vb.scan(step, 0, y, length=n)


@pytest.mark.slow
def test_a_fit_finds_the_states_and_is_run_on(fitted):
    posterior, states, y = fitted
    assert posterior.report.verdict == "good"
    found = posterior.probabilities("state")
    assert found.shape == (60, 3) and np.mean(found.argmax(axis=1) == states) > 0.95
    draws = posterior.sample(500)
    assert draws["state"].shape == (500, 60)
    np.testing.assert_allclose(np.mean(draws["state"] == 1, axis=0), found[:, 1], atol=0.1)
    # One step ahead, one after the other: their sum is the density of all.
    rows = posterior.log_likelihood(20)["y"]
    s = posterior.sample(20)["s"]
    prior = dist.LogNormal(0.0, 0.5).log_prob(s)
    assert rows.shape == (20, 60)
    np.testing.assert_allclose(rows.sum(axis=1), separated(y).log_joint({"s": s}) - prior, rtol=1e-4)
    ahead = posterior.predict(separated(n=63), n=500)
    np.testing.assert_array_equal(ahead["state"][:, :60], draws["state"])
    chances = np.eye(3)[np.asarray(draws["state"])[:, -1]].mean(axis=0) @ TRANSITIONS
    shares = np.array([np.mean(np.asarray(ahead["state"])[:, 60] == k) for k in range(3)])
    np.testing.assert_allclose(shares, chances, atol=4 * 0.5 / np.sqrt(500))


@pytest.mark.parametrize(("by_step", "rows"), [(False, ()), (True, (2,))])
def test_the_filters_own_slopes_are_numerical_ones_and_so_are_the_slopes_of_these(by_step, rows, x64):
    rng = np.random.default_rng(0)
    tables = hidden.Tables(
        jnp.array(rng.normal(size=(3, *rows))),
        jnp.array(rng.normal(size=(3, 3, *rows))),
        jnp.array(rng.normal(size=(2, 3, *rows))),
        jnp.array(rng.normal(size=(2, 3, 3, *rows))) if by_step else None,
    )
    weights = rng.normal(size=(3, *rows)), rng.normal(size=(3, 3, *rows))

    def weighed(tables):
        with hidden.slopes_backward():
            found = hidden.forward(tables)
        return jnp.sum(weights[0] * found.increments) + jnp.sum(weights[1] * found.alphas)

    check_grads(jax.jit(weighed), (tables,), order=1, modes=["rev"])
    check_grads(jax.jit(lambda tables: jax.grad(weighed)(tables).same), (tables,), order=1, modes=["fwd"])


def test_points_side_by_side_have_the_slopes_of_each_by_itself(x64):
    rng = np.random.default_rng(0)
    shapes = {"first": (3, 2), "same": (3, 3, 2), "of_new": (2, 3, 2), "of_both": (2, 3, 3, 2)}
    tables = hidden.Tables(**{name: jnp.array(rng.normal(size=shape)) for name, shape in shapes.items()})

    def evidence(x):  # all but the first step's table are one for all points
        with hidden.slopes_backward():
            return jnp.sum(hidden.forward(tables._replace(first=x)).increments)

    slopes, x = jax.jit(jax.grad(evidence)), rng.normal(size=(2, 2, *shapes["first"]))  # two groups of two points
    found = jax.jit(jax.vmap(jax.vmap(jax.grad(evidence))))(x)
    np.testing.assert_allclose(found, [[slopes(one) for one in group] for group in x], rtol=1e-12)
    # Forward over reverse, many directions at one point: as Laplace asks.
    x, step = x[0, 0], rng.normal(size=shapes["first"])
    along = jnp.sum(jax.jit(jax.hessian(evidence))(x) * step, axis=(2, 3))
    np.testing.assert_allclose(along, (slopes(x + 1e-5 * step) - slopes(x - 1e-5 * step)) / 2e-5, atol=1e-8)


def test_a_state_that_cannot_be_has_no_slope_and_spoils_none(x64):
    wall = jnp.log(jnp.array([[1.0, 0.0], [0.5, 0.5]]))  # once in 0, never in 1
    tables = hidden.Tables(jnp.log(jnp.array([0.5, 0.5])), wall, jnp.array([[-1.0, -2.0], [-jnp.inf, -0.5]]), None)

    def evidence(of_new):
        with hidden.slopes_backward():
            return jnp.sum(hidden.forward(tables._replace(of_new=of_new)).increments)

    value, slope = jax.value_and_grad(evidence)(tables.of_new)
    np.testing.assert_allclose(value, np.log(0.5 * 0.5 * 0.5) - 2.5)  # the only path: 1, 1, 1
    np.testing.assert_allclose(slope, [[0.0, 1.0], [0.0, 1.0]], atol=1e-15)
