"""Modes that differ only in the order of exchangeable parts are one, and the card says so."""

import dataclasses
import itertools
import types
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.keys import raw_key
from vbppl.core.numerics import lbfgs
from vbppl.fitting.remedies.from_prior import _orders
from vbppl.inference.deterministic.mean_field import PATIENCE, _hopeless
from vbppl.inference.deterministic.relabelling import in_better_order, in_one_order
from vbppl.inference.solution import Searched, Solution, Status
from vbppl.target.batched import evaluate

RNG = np.random.default_rng(0)
Y = np.concatenate([RNG.normal(-3.0, 1.0, 12), RNG.normal(3.0, 1.0, 14), RNG.normal(0.0, 1.0, 8)])


@vb.model
def mixture(y, weights, means):
    locs = vb.sample("locs", dist.Normal(means, 4.0).to_event(1))
    slopes = vb.sample("slopes", dist.Normal(0.0, 1.0).expand((len(weights),)).to_event(1))
    vb.factor("unlike parts", jnp.sum(-((slopes - jnp.arange(len(weights))) ** 2)))  # an axis as long, of other things
    with vb.plate("row", len(y)):
        z = vb.sample("z", dist.Categorical(weights))
        vb.sample("y", dist.Normal(locs[z], 1.0), obs=y)


def ends_at(target, *places, sd=0.25):
    """Ends of searches, `(starts, 2, dim)`, at these values of some sites."""
    values = {name: np.stack([np.asarray(place[name], float) for place in places]) for name in places[0]}
    locs = np.asarray(target.unconstrain(values), np.float64)
    return np.stack([locs, np.full_like(locs, np.log(sd))], axis=1)


def in_order(model, ends, **options):
    target = vb.target(model)
    density = options.get("density", lambda z: evaluate(target, z))
    return in_one_order(target, density, raw_key(0), ends, 0, range(1, len(ends)))


def locs(*each):
    return [{"locs": np.array(one), "slopes": np.arange(3.0) / 1.5} for one in each]


@pytest.mark.parametrize(
    ("weights", "means", "orders"),
    [
        ([1 / 3, 1 / 3, 1 / 3], [0.0, 0.0, 0.0], 6),
        ([0.25, 0.5, 0.25], [0.0, 0.0, 0.0], 2),
        ([0.25, 0.5, 0.25], [0.0, 0.0, 1.0], 1),
        ([0.25, 0.3, 0.45], [0.0, 0.0, 0.0], 1),
    ],
    ids=["all", "two of three", "told apart by the prior", "told apart by the weights"],
)
def test_an_end_is_another_one_relabelled_where_the_density_is_the_same(weights, means, orders):
    model = mixture(Y, np.asarray(weights), np.asarray(means))
    ends = ends_at(vb.target(model), *locs([-3.0, 0.1, 3.0], [3.1, 0.1, -3.0]))
    found = in_order(model, ends)
    assert (found.orders, found.sites) == (orders, ("locs",) if orders > 1 else ())
    expected = ends_at(vb.target(model), *locs([-3.0, 0.1, 3.0], [-3.0, 0.1, 3.1])) if orders > 1 else ends
    np.testing.assert_allclose(found.ends, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("place", "sd", "orders"),
    [([-3.0, 3.0, 3.1], 0.25, 3), ([-3.0, 0.1, 3.0], 0.25, 6), ([-3.0, 0.1, 3.0], 1.0, 1)],
    ids=["a part too many", "apart", "in doubt: a valley between modes that overlap"],
)
def test_parts_at_one_place_make_no_further_orders_and_those_that_overlap_are_not_counted(place, sd, orders):
    model = mixture(Y, np.full(3, 1 / 3), np.zeros(3))
    assert in_order(model, ends_at(vb.target(model), *locs(place), sd=sd)).orders == orders


@vb.model
def wide_and_narrow():
    """Either of two numbers is wide, and the other one of two narrow peaks: four modes, in two pairs."""
    x = vb.sample("x", dist.Normal(0.0, 100.0).expand((2,)).to_event(1))
    one, two = (
        dist.Normal(30.0, 3.0).log_prob(w)
        + jnp.logaddexp(
            jnp.log(0.55) + dist.Normal(-4.0, 0.3).log_prob(n), jnp.log(0.45) + dist.Normal(4.0, 0.3).log_prob(n)
        )
        for w, n in ((x[0], x[1]), (x[1], x[0]))
    )
    vb.factor("peaks", jnp.logaddexp(one, two))


def test_the_sds_of_an_end_change_their_places_too():
    sds = np.log([[3.0, 0.3], [0.3, 3.0], [0.3, 3.0]])
    ends = np.stack([np.array([[30.0, -4.0], [4.0, 30.0], [-4.0, 31.0]]), sds], axis=1)
    found = in_order(wide_and_narrow(), ends)
    assert found.orders == 2
    np.testing.assert_array_equal(found.ends[:2], ends[:2])
    np.testing.assert_allclose(found.ends[2], [[31.0, -4.0], sds[0]], rtol=1e-5)


@vb.model
def apart(y, apart_by, sd, height):
    locs = vb.sample("locs", dist.Normal(jnp.array([-1.0, 1.0]) * apart_by, 5.0).to_event(1))
    vb.factor("height", height)
    with vb.plate("row", len(y)):
        z = vb.sample("z", dist.Categorical(jnp.array([0.5, 0.5])))
        vb.sample("y", dist.Normal(locs[z], sd), obs=y)


@pytest.mark.parametrize(
    "height",
    [pytest.param(0.0, marks=pytest.mark.slow), 3e6],
    ids=["in the session's dtype", "where it rounds to a quarter of a nat"],
)
@pytest.mark.parametrize(("by", "orders"), [(0.0, 2), (1.0, 1)], ids=["equal", "half a nat apart"])
def test_a_prior_that_tells_parts_apart_by_half_a_nat_is_seen_beside_sharp_data(by, orders, height):
    y = np.concatenate([RNG.normal(-3.0, 0.02, 30), RNG.normal(3.0, 0.02, 30)])
    model = apart(y, by, 0.02, height)
    ends = ends_at(vb.target(model), {"locs": [-3.0, 3.0]}, {"locs": [3.0, -3.0]}, sd=0.02 / np.sqrt(30))
    found = in_order(model, ends)
    assert found.orders == orders
    np.testing.assert_allclose(found.ends[1, 0], ends[0 if orders == 2 else 1, 0], atol=1e-5)


@vb.model
def two_mixtures(y, w, parts):
    a = vb.sample("a", dist.Normal(0.0, 5.0).expand((2,)).to_event(1))
    b = vb.sample("b", dist.Normal(0.0, 5.0).expand((parts,)).to_event(1))
    with vb.plate("row", len(y)):
        z = vb.sample("z", dist.Categorical(jnp.ones(2) / 2))
        vb.sample("y", dist.Normal(a[z], 0.5), obs=y)
    with vb.plate("other row", len(w)):
        u = vb.sample("u", dist.Categorical(jnp.ones(parts) / parts))
        vb.sample("w", dist.Normal(b[u], 0.5), obs=w)


def clusters(*means):
    return np.concatenate([RNG.normal(mean, 0.5, 20) for mean in means])


TWO_MIXTURES = [pytest.param(clusters(-2.0, 2.0), 4, marks=pytest.mark.slow), (clusters(-4.0, 0.0, 4.0), 12)]


@pytest.mark.parametrize(("w", "orders"), TWO_MIXTURES, ids=["2 and 2", "2 and 3"])
def test_orders_of_several_groups_of_parts_multiply(w, orders):
    centres, model = w.reshape(-1, 20).mean(axis=1), two_mixtures(clusters(-3.0, 3.0), w, len(w) // 20)
    places = {"a": [-3.0, 3.0], "b": centres}, {"a": [3.0, -3.0], "b": np.roll(centres, 1)}
    ends = ends_at(vb.target(model), *places, sd=0.1)
    found = in_order(model, ends)
    assert (found.orders, found.sites) == (orders, ("a", "b"))
    np.testing.assert_allclose(found.ends[1], found.ends[0], atol=1e-5)


def test_many_rows_are_not_taken_for_parts():
    @vb.model
    def rows():
        with vb.plate("row", 400):
            vb.sample("u", dist.Normal(0.0, 1.0))

    def density(z):
        raise AssertionError("no density is asked")

    assert in_order(rows(), np.zeros((1, 2, 400)), density=density).orders == 1


def test_an_order_that_is_impossible_is_another_one():
    @vb.model
    def ordered():
        x = vb.sample("x", dist.Normal(0.0, 5.0).expand((2,)).to_event(1))
        vb.factor("ordered", jnp.where(x[0] < x[1], 0.0, -jnp.inf))
        vb.factor("peaks", -50 * ((x.min() + 3) ** 2 + (x.max() - 3) ** 2))

    assert in_order(ordered(), ends_at(vb.target(ordered()), {"x": [-3.0, 3.0]}, sd=0.1)).orders == 1


def test_orders_are_counted_anew_where_a_start_from_the_prior_leads():
    y = np.concatenate([RNG.normal(-3.0, 0.02, 30), RNG.normal(3.0, 0.02, 30)])
    target, modes = vb.target(apart(y, 0.0, 0.02, 0.0)), Searched((), 3, 0.0, orders=6, exchangeable=("w",))
    end = ends_at(target, {"locs": [-3.0, 3.0]}, sd=0.02 / np.sqrt(30))[0]
    status = Status("converged", True, "", 0, 0)
    after = Solution(target, vb.MeanField(), end.astype(np.float32), np.zeros(1), status, modes, ())
    problem: Any = types.SimpleNamespace(raw_keys=[raw_key(0)])
    assert _orders(after, problem, modes) == (2, ("locs",))
    alone = dataclasses.replace(after, target=vb.target(apart(y, 1.0, 0.02, 0.0)))
    assert _orders(alone, problem, modes) == (1, ())


def test_of_hopeless_searches_the_best_goes_on_and_others_while_they_gain():
    fits, some = np.zeros(4, int), np.zeros((4, 1))
    at = lbfgs.Minima.at(some, np.array([0.0, 1000.0, 2000.0, 3000.0]), some)
    at = at._replace(decrement=np.full(4, 1e-3), going=np.array([1, 2, 3]))
    still = [at.value] * (PATIENCE + 1)
    assert _hopeless(fits, at, still).tolist() == [2, 3]
    assert _hopeless(fits, at, still[1:]).tolist() == []
    assert _hopeless(fits, at, [at.value + [0, 0, 0, 400.0], *still[1:]]).tolist() == [2]
    assert _hopeless(fits, at._replace(going=np.array([2, 3])), still).tolist() == [2, 3]


def test_a_better_order_is_found_where_the_prior_tells_parts_apart():
    means = np.array([-3.0, 0.0, 3.0])
    target = vb.target(mixture(Y, np.full(3, 1 / 3), means))
    z = np.asarray(target.unconstrain({"locs": np.array([0.2, 3.1, -3.0]), "slopes": np.ones(3)}), np.float64)
    values = target.constrain(in_better_order(target, lambda z: evaluate(target, z), z))
    best = max(itertools.permutations([0.2, 3.1, -3.0]), key=lambda locs: scipy.stats.norm.logpdf(locs, means, 4).sum())
    np.testing.assert_allclose(values["locs"], best, rtol=1e-6)
    assert (
        in_better_order(target, lambda z: evaluate(target, z), np.asarray(target.unconstrain(values), np.float64))
        is None
    )


@vb.model
def two(y):
    locs = vb.sample("locs", dist.Normal(0.0, 4.0).expand((2,)).to_event(1))
    with vb.plate("row", len(y)):
        z = vb.sample("z", dist.Bernoulli(0.5))
        vb.sample("y", dist.Normal(locs[z], 1.0), obs=y)


def test_one_labelling_is_described_and_its_evidence_times_the_orders_is_the_whole():
    y = Y[:26]
    posterior = vb.fit(two(y))
    report: Any = posterior.report
    assert (report.verdict, report.other_modes.orders, report.other_modes.found) == ("good", 2, ())
    assert "one of 2 equal modes, which differ in the order of locs alone" in str(report)
    grid = np.linspace(-8.0, 8.0, 641)
    each = scipy.stats.norm.logpdf(y, grid[:, None], 1.0) + np.log(0.5)
    log_p = np.logaddexp(each[:, None], each[None]).sum(axis=-1)
    log_p += np.add.outer(*[scipy.stats.norm.logpdf(grid, 0.0, 4.0)] * 2)
    whole = scipy.special.logsumexp(log_p) + 2 * np.log(grid[1] - grid[0])
    assert report.log_evidence + np.log(2) == pytest.approx(whole, abs=0.02)
    # By the same grid: the means where locs[0] is the lower one, or the higher.
    half = np.exp(log_p - log_p.max()) * (grid[:, None] < grid[None])
    means = np.array([np.sum(half * grid[:, None]), np.sum(half * grid[None])]) / half.sum()
    np.testing.assert_allclose(np.sort(posterior.mean()["locs"]), means, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_modes_that_are_truly_others_stay_others(seed):
    report: Any = vb.fit(wide_and_narrow(), seed=seed, guide="full_rank").report
    assert (report.verdict, report.other_modes.orders) == ("poor", 2)
    (other,) = report.other_modes.found
    assert other.lower == pytest.approx(np.log(0.55 / 0.45), abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("by", [1.0, 6.0])
def test_unequal_orders_are_not_told_as_equal(by):
    y = np.concatenate([RNG.normal(-3.0, 0.02, 150), RNG.normal(3.0, 0.02, 150)])
    report: Any = vb.fit(apart(y, by, 0.02, 0.0)).report
    assert report.other_modes.orders == 1


@pytest.mark.slow
@pytest.mark.parametrize(("w", "orders"), TWO_MIXTURES, ids=["2 and 2", "2 and 3"])
def test_a_fit_of_two_mixtures_knows_all_equal_modes(w, orders):
    report: Any = vb.fit(two_mixtures(clusters(-3.0, 3.0), w, len(w) // 20), guide="full_rank").report
    assert (report.verdict, report.other_modes.orders, report.other_modes.found) == ("good", orders, ())


@vb.model
def three(y):
    weights = vb.sample("weights", dist.Dirichlet(np.ones(3)))
    with vb.plate("component", 3):
        locs = vb.sample("locs", dist.Normal(0.0, 5.0))
        scale = vb.sample("scale", dist.HalfNormal(2.0))
    with vb.plate("row", len(y)):
        z = vb.sample("z", dist.Categorical(weights))
        vb.sample("y", dist.Normal(locs[z], scale[z]), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_mixture_of_100_000_rows_is_fitted_without_a_start(seed):
    rng = np.random.default_rng(seed)
    z = rng.choice(3, 100_000, p=[0.5, 0.3, 0.2])
    posterior = vb.fit(three((np.array([-4.0, 0.0, 4.0])[z] + rng.normal(size=len(z))).astype(np.float32)), seed=seed)
    report: Any = posterior.report
    assert (report.verdict, report.other_modes.orders) == ("good", 6)
    assert posterior.status.gradients < 6_000
    mean, sd = (
        {name: np.asarray(value) for name, value in each.items()} for each in (posterior.mean(), posterior.sd())
    )
    order = np.argsort(mean["locs"])
    for name, truth in (("locs", [-4.0, 0.0, 4.0]), ("weights", [0.5, 0.3, 0.2]), ("scale", [1.0, 1.0, 1.0])):
        assert np.all(np.abs(mean[name][order] - truth) < 4 * sd[name][order])
    states = posterior.probabilities("z", n=10).argmax(axis=-1)
    assert (np.argsort(order)[states] == z).mean() > 0.95
