"""Discrete latent sites are summed out: against sums over all their values in NumPy."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.errors import ModelError

Y = np.array([-1.3, 0.4, 2.2, 1.9])
PSI, LOCS = 0.3, np.array([-1.0, 0.5, 2.0])
WEIGHTS = np.array([0.2, 0.5, 0.3])
locs_of, weights = jnp.asarray(LOCS, jnp.float32), jnp.asarray(WEIGHTS, jnp.float32)


def normal(y, loc, scale=1.0):
    return stats.norm.logpdf(y, loc, scale)


def coin(k, p):
    return np.log(p) if k else np.log1p(-p)


@vb.model
def mixture(y):
    locs = vb.sample("locs", dist.Normal(0.0, 3.0).expand((3,)).to_event(1))
    with vb.plate("row", len(y)):
        z = vb.sample("z", dist.Categorical(WEIGHTS))
        vb.sample("y", dist.Normal(locs[z], 1.0), obs=y)


def of_mixture(locs):
    rows = [logsumexp([np.log(w) + normal(y, loc) for w, loc in zip(WEIGHTS, locs)]) for y in Y]
    return normal(locs, 0.0, 3.0).sum() + sum(rows)


@vb.model
def two_sites_in_a_row(y):
    a = vb.sample("a", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(y)):
        z = vb.sample("z", dist.Bernoulli(PSI))
        c = vb.sample("c", dist.Categorical(WEIGHTS))
        vb.sample("y", dist.Normal(a * z + locs_of[c] * (1 + z), 1.0), obs=y)


def of_two_sites(a):
    def row(y):
        pairs = itertools.product(range(2), range(3))
        return logsumexp([coin(z, PSI) + np.log(WEIGHTS[c]) + normal(y, a * z + LOCS[c] * (1 + z)) for z, c in pairs])

    return normal(a, 0.0) + sum(map(row, Y))


@vb.model
def a_chain_in_a_row(y, w):
    a = vb.sample("a", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(y)):
        one = vb.sample("one", dist.Bernoulli(PSI))
        two = vb.sample("two", dist.Bernoulli(jnp.where(one, 0.9, 0.2)))
        vb.sample("w", dist.Normal(a * two, 0.5), obs=w)
        three = vb.sample("three", dist.Categorical(jnp.where((two == 1)[:, None], weights, weights[::-1])))
        vb.sample("y", dist.Normal(locs_of[three], 1.0), obs=y)


def of_chain(a):
    def each(y, w, one, two, three):
        states = coin(one, PSI) + coin(two, 0.9 if one else 0.2) + np.log((WEIGHTS if two else WEIGHTS[::-1])[three])
        return states + normal(w, a * two, 0.5) + normal(y, LOCS[three])

    states = list(itertools.product(range(2), range(2), range(3)))
    return normal(a, 0.0) + sum(logsumexp([each(y, w, *s) for s in states]) for y, w in zip(Y, Y[::-1]))


@vb.model
def nested_plates(y):
    a = vb.sample("a", dist.Normal(0.0, 1.0))
    with vb.plate("group", y.shape[0], dim=-2):
        kind = vb.sample("kind", dist.Categorical(WEIGHTS))
        with vb.plate("row", y.shape[1], dim=-1):
            outlier = vb.sample("outlier", dist.Bernoulli(jnp.where(kind == 0, 0.5, 0.1)))
            vb.sample("y", dist.Normal(a + locs_of[kind], 1.0 + 4.0 * outlier), obs=y)


TABLE = np.array([[0.3, -2.0, 1.1], [5.0, 0.2, 0.0]])


def of_nested(a):
    def row(y, kind):
        p = 0.5 if kind == 0 else 0.1
        return logsumexp([coin(k, p) + normal(y, a + LOCS[kind], 1.0 + 4.0 * k) for k in range(2)])

    groups = [[np.log(WEIGHTS[k]) + sum(row(y, k) for y in group) for k in range(3)] for group in TABLE]
    return normal(a, 0.0) + sum(map(logsumexp, groups))


@vb.model
def outside_of_plates(y):
    a = vb.sample("a", dist.Normal(0.0, 1.0))
    regime = vb.sample("regime", dist.Bernoulli(PSI))
    parts = vb.sample("parts", dist.Bernoulli(0.4).expand((2,)))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(a + regime + 2.0 * parts[0] * parts[1], 1.0), obs=y)
    with vb.plate("other", 2):
        vb.sample("x", dist.Bernoulli(jnp.where(regime, 0.8, 0.3)), obs=np.array([1, 0]))


def of_outside(a):
    def each(regime, one, two):
        of_states = coin(regime, PSI) + coin(one, 0.4) + coin(two, 0.4)
        x = coin(1, 0.8 if regime else 0.3) + coin(0, 0.8 if regime else 0.3)
        return of_states + x + normal(Y, a + regime + 2.0 * one * two).sum()

    return normal(a, 0.0) + logsumexp([each(*bits) for bits in itertools.product(range(2), repeat=3)])


@vb.model
def zero_inflated(counts):
    log_rate = vb.sample("a", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(counts)):
        is_zero = vb.sample("is_zero", dist.Bernoulli(PSI))
        vb.sample("counts", dist.Poisson(jnp.exp(log_rate) * (1 - is_zero)), obs=counts)


COUNTS = np.array([0, 3, 0, 1])


def of_zero_inflated(a):
    p = PSI * (COUNTS == 0) + (1 - PSI) * stats.poisson.pmf(COUNTS, np.exp(a))
    return normal(a, 0.0) + np.log(p).sum()


VOTES = np.array([[0, 0, 1], [2, 2, 2], [1, 0, 1], [2, 1, 2]])  # items, annotators


@vb.model
def dawid_skene(votes):
    with vb.plate("annotator", votes.shape[1], dim=-1):
        skill = vb.sample("skill", dist.Normal(0.0, 1.0))
    with vb.plate("item", votes.shape[0], dim=-2):
        truth = vb.sample("truth", dist.Categorical(WEIGHTS))
        with vb.plate("annotator", votes.shape[1], dim=-1):
            logits = skill[:, None] * (jnp.arange(3) == truth[..., None])
            vb.sample("votes", dist.Categorical(logits=logits), obs=votes)


def of_dawid_skene(skill):
    def item(votes, truth):
        logits = skill[:, None] * (np.arange(3) == truth)
        return np.log(WEIGHTS[truth]) + (logits[np.arange(3), votes] - logsumexp(logits, axis=1)).sum()

    return normal(skill, 0.0).sum() + sum(logsumexp([item(votes, k) for k in range(3)]) for votes in VOTES)


CAUGHT, MOST = np.array([[2, 3], [0, 1], [4, 4]]), np.array([5, 2, 4])


@vb.model
def counts_of_animals(caught):
    a = vb.sample("a", dist.Normal(0.0, 1.0))
    with vb.plate("place", 3, dim=-2):
        there = vb.sample("there", dist.Binomial(MOST[:, None], PSI))
        with vb.plate("visit", 2, dim=-1):
            vb.sample("caught", dist.Binomial(there, jax.nn.sigmoid(a)), obs=caught)


def of_counts(a):
    p, total = 1 / (1 + np.exp(-a)), normal(a, 0.0)
    for caught, most in zip(CAUGHT, MOST):
        each = [stats.binom.pmf(n, most, PSI) * stats.binom.pmf(caught, n, p).prod() for n in range(most + 1)]
        total += np.log(sum(each))
    return total


@vb.model
def spike_and_slab(y):
    with vb.plate("row", len(y)):
        slab = vb.sample("slab", dist.Bernoulli(PSI))
        a = vb.sample("a", dist.Normal(0.0, jnp.where(slab, 3.0, 0.1)))
        vb.sample("y", dist.Normal(a, 1.0), obs=y)


def of_spike(a):
    prior = [logsumexp([coin(k, PSI) + normal(each, 0.0, (0.1, 3.0)[k]) for k in range(2)]) for each in a]
    return sum(prior) + normal(Y, a).sum()


@vb.model
def a_prior_at_an_edge(y):
    """A chance of exactly zero, and a transition that cannot be undone."""
    a = vb.sample("a", dist.Normal(0.0, 1.0))
    survival = jax.nn.sigmoid(a)
    moves = jnp.stack([jnp.stack([survival, 1.0 - survival]), jnp.array([0.0, 1.0])])
    with vb.plate("row", len(y)):
        one = vb.sample("one", dist.Categorical(jnp.array([1.0, 0.0])))
        two = vb.sample("two", dist.Categorical(moves[one]))
        vb.sample("y", dist.Bernoulli(jnp.where(two == 0, 0.6, 0.0)), obs=y)


def of_edge(a):
    survival = 1 / (1 + np.exp(-a))
    return normal(a, 0.0) + np.log(survival * 0.6) * 2 + np.log(survival * 0.4 + 1 - survival) * 2


CASES = {
    "mixture": (mixture(Y), of_mixture, "locs", np.array([-0.7, 0.3, 1.5])),
    "two sites": (two_sites_in_a_row(Y), of_two_sites, "a", 0.7),
    "chain": (a_chain_in_a_row(Y, Y[::-1]), of_chain, "a", 0.7),
    "nested": (nested_plates(TABLE), of_nested, "a", 0.7),
    "outside": (outside_of_plates(Y), of_outside, "a", 0.7),
    "zero-inflated": (zero_inflated(COUNTS), of_zero_inflated, "a", 0.7),
    "dawid-skene": (dawid_skene(VOTES), of_dawid_skene, "skill", np.array([0.5, 2.0, -0.3])),
    "counts": (counts_of_animals(CAUGHT), of_counts, "a", 0.7),
    "spike and slab": (spike_and_slab(Y), of_spike, "a", np.array([0.2, -0.1, 1.5, 2.0])),
    "edge": (a_prior_at_an_edge(np.array([1, 0, 0, 1])), of_edge, "a", 0.7),
}


IN_HASTE = {"xla_backend_optimization_level": 0}


DEAR = ("counts", "edge", "outside")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in DEAR)) for n in CASES])
def test_the_density_is_the_sum_over_all_values(name):
    model, evidence, site, at = CASES[name]
    both = jax.value_and_grad(lambda model, x: model.log_joint({site: x}), argnums=1)
    value, slope = jax.jit(both, compiler_options=IN_HASTE)(model, jnp.asarray(at))
    np.testing.assert_allclose(value, evidence(at), rtol=3e-6)
    flat = np.atleast_1d(at).astype(float)
    steps = 1e-5 * np.eye(len(flat))
    ends = [[evidence((flat + sign * step).reshape(np.shape(at))) for sign in (1, -1)] for step in steps]
    numerical = [(up - down) / 2e-5 for up, down in ends]
    np.testing.assert_allclose(np.atleast_1d(slope), numerical, rtol=2e-4, atol=1e-5)


@vb.model
def mixture_by_hand(y):
    locs = vb.sample("locs", dist.Normal(0.0, 3.0).expand((3,)).to_event(1))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.MixtureSameFamily(dist.Categorical(WEIGHTS), dist.Normal(locs, 1.0)), obs=y)


@pytest.fixture(scope="module")
def drawn_rows():
    rng = np.random.default_rng(1)
    z = rng.choice(3, 60, p=WEIGHTS)
    return z, np.array([-4.0, 0.0, 4.0])[z] + rng.normal(size=60)


@pytest.fixture(scope="module")
def fitted(drawn_rows):
    start = {"locs": np.array([-4.0, 0.0, 4.0])}
    return vb.fit(mixture(drawn_rows[1]), vb.Laplace(), start=start)


def test_a_mixture_is_that_of_the_distribution(fitted, drawn_rows):
    by_hand = vb.target(mixture_by_hand(drawn_rows[1]))
    z = np.array([0.3, -1.0, 2.0])
    np.testing.assert_allclose(fitted.target.log_density(z), by_hand.log_density(z), rtol=2e-6)
    # The mode of the same density: where the gradient of the other is zero.
    slope = jax.grad(by_hand.log_density)(jnp.asarray(fitted.mean()["locs"], jnp.float32))
    np.testing.assert_allclose(slope, 0.0, atol=0.05)


def responsibilities(locs, y):
    logits = np.log(WEIGHTS) + stats.norm.logpdf(y[:, None], locs[..., None, :])
    return np.exp(logits - logsumexp(logits, axis=-1, keepdims=True))


def test_discrete_sites_are_drawn_again_given_the_rest(fitted, drawn_rows):
    _, y = drawn_rows
    draws = fitted.sample(1000, seed=2)
    assert draws["z"].shape == (1000, 60) and draws["z"].dtype == jnp.int32
    truth = responsibilities(np.asarray(draws["locs"]), y).mean(axis=0)
    shares = np.stack([(np.asarray(draws["z"]) == k).mean(axis=0) for k in range(3)], axis=-1)
    assert np.abs(shares - truth).max() < 4 * np.sqrt(0.25 / 1000)
    table = fitted.probabilities("z", n=200, seed=2)
    assert table.shape == (60, 3)
    np.testing.assert_allclose(table, responsibilities(np.asarray(fitted.sample(200, 2)["locs"]), y).mean(0), atol=1e-5)
    assert fitted.sample(3, seed=2)["z"].tolist() == fitted.sample(3, seed=2)["z"].tolist()
    assert (np.asarray(fitted.sample(200, seed=3)["z"]) != np.asarray(fitted.sample(200, seed=2)["z"])).any()


def test_a_rows_likelihood_is_the_marginal_one(fitted, drawn_rows):
    draws, found = fitted.sample(5, seed=4), fitted.log_likelihood(5, seed=4)["y"]
    each = np.log(WEIGHTS) + stats.norm.logpdf(drawn_rows[1][:, None], np.asarray(draws["locs"])[:, None, :])
    np.testing.assert_allclose(found, logsumexp(each, axis=-1), rtol=1e-5)


@pytest.mark.slow
def test_densities_stand_on_one_footing(fitted):
    """With and without the discrete sites, the log joint less the guide's log density is the same."""
    draws = fitted.uncorrected().sample(20, seed=5)
    model = fitted.target.model
    whole = model.log_joint(draws) - fitted.log_prob(draws)
    rest = {"locs": draws["locs"]}
    np.testing.assert_allclose(whole, model.log_joint(rest) - fitted.log_prob(rest), rtol=1e-5)


def test_what_is_told_of_discrete_sites(fitted):
    assert [site[0][0] for site in fitted.summary().sites] == ["locs[0]", "z[0]"]
    assert fitted.mean()["z"].shape == (60,)
    row = next(line for line in str(fitted.target.model.shapes()).splitlines() if line.startswith("z "))
    assert row.split() == "z summed out (3) Categorical integer_interval(0, 2) (60,) () row[60]@-1".split()
    graph = fitted.target.model.graph()
    assert [node.kind for node in graph.nodes] == ["latent", "summed out", "observed"]
    assert "class n1 discrete" in graph.mermaid and "dashed" in graph.dot and "dasharray" in graph.svg
    with pytest.raises(KeyError, match="no site that is summed out is called 'locs'; those of the model: z"):
        fitted.probabilities("locs")
    predicted = fitted.predict(n=7)
    assert {name: value.shape for name, value in predicted.items()} == {"y": (7, 60)}
    assert list(fitted.to_dataframe("z", n=2).columns)[:2] == ["z[0]", "z[1]"]


def test_a_stored_posterior_draws_the_same(fitted, tmp_path):
    vb.save(fitted, tmp_path / "mixture.vbppl")
    again = vb.load(tmp_path / "mixture.vbppl", fitted.target.model)
    np.testing.assert_array_equal(again.sample(4)["z"], fitted.sample(4)["z"])


def test_rows_that_are_left_out_move_the_rest(fitted, drawn_rows):
    """By the slopes of the rows' likelihoods and the inverse Hessian of the sum, in NumPy; it was a KeyError."""
    y, at, h = drawn_rows[1], np.asarray(fitted.mean()["locs"], np.float64), 1e-4 * np.eye(3)

    def slopes(locs):
        return responsibilities(locs, y) * (y[:, None] - locs)

    hessian = np.stack([(slopes(at + e).sum(0) - slopes(at - e).sum(0)) / 2e-4 for e in h]) - np.eye(3) / 9.0
    expected = slopes(at) @ np.linalg.inv(hessian) / np.sqrt(np.diag(np.linalg.inv(-hessian)))
    found = fitted.sensitivity()
    assert found.names == ("locs[0]", "locs[1]", "locs[2]")
    np.testing.assert_allclose(found.rows["row"], expected, atol=0.05)
    with pytest.raises(ModelError) as error:
        fitted.sensitivity("z")
    assert str(error.value) == (
        "site 'z': the site is summed out, or computed from one that is, so it has no derivative.\n"
        "  To mend it: Ask for the others; posterior.probabilities(name) tells how sure a discrete site is."
    )


@pytest.mark.slow
def test_arviz_has_the_discrete_sites_and_the_rows_of_their_likelihoods():
    pytest.importorskip("xarray")
    posterior = vb.fit(dawid_skene(VOTES), vb.MeanField(), method=vb.Stochastic(steps=20))
    tree = vb.to_arviz(posterior, ["log_likelihood", "log_prior"], n=6)
    assert dict(tree.posterior.truth.sizes) == {"chain": 1, "draw": 6, "item": 4, "truth_dim_1": 1}
    assert dict(tree.log_likelihood.votes.sizes) == {"chain": 1, "draw": 6, "item": 4}
    skills = tree.posterior.skill.values[0]
    expected = [of_dawid_skene(skill) - normal(skill, 0.0).sum() for skill in skills]
    np.testing.assert_allclose(tree.log_likelihood.votes.values[0].sum(axis=-1), expected, rtol=1e-5)
    np.testing.assert_array_equal(tree.posterior.truth.values[0], posterior.sample(6)["truth"])


@vb.model
def rows_in_part(y):
    loc = vb.sample("loc", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(y), subsample_size=2):
        z = vb.sample("z", dist.Bernoulli(PSI))
        vb.sample("y", dist.Normal(loc * z, 1.0), obs=vb.subsample(y))


def test_batches_of_rows_average_to_the_whole():
    target, z = vb.target(rows_in_part(Y)), np.array([0.7])
    batches = [target.log_density(z, {"row": np.array(rows)}) for rows in ([0, 3], [1, 2])]
    rows = [np.log(PSI * stats.norm.pdf(y, 0.7) + (1 - PSI) * stats.norm.pdf(y)) for y in Y]
    np.testing.assert_allclose(np.mean(batches), normal(0.7, 0.0) + sum(rows), rtol=1e-6)


def test_priors_are_drawn_as_ever():
    draws = mixture(Y).sample(4)
    assert draws["z"].shape == (4, 4) and draws["y"].shape == (4, 4)


def told(text):
    """What `vb.target` says of a model, whole."""

    def checked(model):
        def test():
            with pytest.raises(ModelError) as error:
                vb.target(model())
            assert str(error.value) == text.strip()

        return test

    return checked


@told(
    """
site 'y': a row of it depends on other rows of the discrete sites around it (among 'z'), which are summed out row by \
row.
  To mend it: Compute each row from its own row of the discrete sites: no sum, shift or index along their plate.
"""
)
@vb.model
def test_rows_that_mix():
    with vb.plate("row", 4):
        z = vb.sample("z", dist.Bernoulli(PSI))
        vb.sample("y", dist.Normal(z - z.mean(), 1.0), obs=Y)


@told(
    """
site 'y': it stands outside of plate 'row', and depends on the discrete site 'z' inside: all rows of 'z' meet in it, \
and their joint values are too many to sum.
  To mend it: Put 'y' into plate 'row', or let it depend on what 'z' depends on, such as its probabilities.
"""
)
@vb.model
def test_a_site_outside_that_depends_on_one_inside():
    with vb.plate("row", 4):
        z = vb.sample("z", dist.Bernoulli(PSI))
    vb.sample("y", dist.Normal(jnp.sum(z), 1.0), obs=2.0)


@told(
    """
site 'u': 'z' (plate a) and 'u' (plate b) meet in one statement, so that every row of the one meets every row of the \
other: their joint values are too many to sum.
  To mend it: Put one of the two plates inside the other, or make one of the two sites continuous.
"""
)
@vb.model
def test_plates_that_cross():
    with vb.plate("a", 2, dim=-1):
        z = vb.sample("z", dist.Bernoulli(PSI))
    with vb.plate("b", 2, dim=-2):
        u = vb.sample("u", dist.Bernoulli(PSI))
        with vb.plate("a", 2, dim=-1):
            vb.sample("y", dist.Normal(z + u, 1.0), obs=Y.reshape(2, 2))


@told(
    """
site 'x': its support depends on the discrete site 'z', which is summed out: it has no one value in the sum.
  To mend it: Give it a support that is the same for all values of 'z'.
"""
)
@vb.model
def test_a_support_that_depends_on_a_discrete_site():
    with vb.plate("row", 4):
        z = vb.sample("z", dist.Bernoulli(PSI))
        vb.sample("x", dist.Uniform(0.0, 1.0 + z))


@told(
    """
site 'y': summing out would need 729,000,000 joint values of z0 (30) x z1 (30) x z2 (30) x z3 (30) x z4 (30) x z5 (30) \
in 4 rows, 2,916,000,000 numbers; the limit is 67,108,864.
  To mend it: Let fewer discrete sites meet in one statement, give them fewer values, or put independent ones into a \
plate; write a state that is handed on from step to step with vb.scan.
"""
)
@vb.model
def test_too_many_joint_values():
    with vb.plate("row", 4):
        z = [vb.sample(f"z{i}", dist.Categorical(jnp.ones(30) / 30)) for i in range(6)]
        vb.sample("y", dist.Normal(sum(z), 1.0), obs=Y)


@told(
    """
site 'z': 40 numbers of 2 values each have 2^40 values together, more than the 1,048,576 that can be summed.
  To mend it: Put them into a plate if they are independent: with vb.plate(...), where each is summed alone.
"""
)
@vb.model
def test_too_many_numbers_in_a_row():
    z = vb.sample("z", dist.Bernoulli(PSI).expand((40,)))
    vb.sample("y", dist.Normal(jnp.sum(z), 1.0), obs=2.0)


@told(
    """
site 'y': what is missing of it, 'y_unobserved', depends on the discrete site 'z', which is summed out row by row, and \
the missing numbers of all rows of plate 'row' are one site.
  To mend it: Leave out what was not seen, dist.mask(m) in the place of obs_mask=m; predict draws it.
"""
)
def test_missing_numbers_of_rows_with_discrete_sites():
    @vb.model
    def rows(y, seen):
        with vb.plate("row", 4):
            z = vb.sample("z", dist.Bernoulli(PSI))
            vb.sample("y", dist.Normal(z, 1.0), obs=y, obs_mask=seen)

    return rows(Y, Y > 0.0)


def total_from_data():
    @vb.model
    def animals(total):
        with vb.plate("row", 4):
            vb.sample("z", dist.Binomial(total, PSI))

    return animals(np.full(4, 3))


test_a_total_that_is_data = told(
    """
site 'z': how many values Binomial has is computed from data or other sites, so that nobody can count them before the \
run.
  To mend it: Pass it as an int (total_count=10), not as an array: ints are a part of the program.
"""
)(total_from_data)


@told(
    """
site 'z': plate 'row' shows 2 of its 4 rows, but 'z' is summed out over all of them together: of some rows alone \
there is no unbiased estimate.
  To mend it: Show all rows of 'row' (no batch_size or subsample_size for it), and subsample a plate around 'z', if \
there is one.
"""
)
def test_rows_inside_a_sum_are_shown_whole():
    @vb.model
    def regime(y):
        z = vb.sample("z", dist.Bernoulli(PSI))
        with vb.plate("row", 4):
            vb.sample("y", dist.Normal(z, 1.0), obs=vb.subsample(y))

    vb.target(regime(Y)).log_density(np.zeros(0), {"row": np.array([0, 1])})


def test_numpyros_word_for_it_is_understood():
    @vb.model
    def coin(infer):
        vb.sample("z", dist.Bernoulli(PSI), infer=infer)

    assert vb.target(coin({"enumerate": "parallel"})).layout.summed == ("z",)
    assert vb.target(coin({})).layout.summed == ("z",)  # as an example writes it that sums or does not
    with pytest.raises(ModelError) as error:
        vb.target(coin({"enumerate": "sequential"}))
    assert str(error.value) == (
        "site 'z': infer is {'enumerate': 'sequential'}, of which only {'enumerate': 'parallel'} has a meaning here.\n"
        "  To mend it: Leave it out: discrete latent sites are summed out anyway."
    )


@vb.model
def cormack_jolly_seber(caught):
    """Animals marked at the first occasion: alive or not at each later one, and seen or not."""
    survival = vb.sample("survival", dist.Beta(1.0, 1.0))
    seen = vb.sample("seen", dist.Beta(1.0, 1.0))
    with vb.plate("animal", caught.shape[0]):
        alive = 1
        for t in range(1, caught.shape[1]):
            alive = vb.sample(f"alive_{t}", dist.Bernoulli(survival * alive))
            vb.sample(f"caught_{t}", dist.Bernoulli(seen * alive), obs=caught[:, t])


def of_histories(caught, survival, seen):
    """The forward algorithm, in NumPy."""
    total = 0.0
    for history in caught:
        alive, dead = 1.0, 0.0
        for each in history[1:]:
            alive, dead = alive * survival * (seen if each else 1 - seen), (dead + alive * (1 - survival)) * (1 - each)
        total += np.log(alive + dead)
    return total


@pytest.mark.slow
def test_histories_of_500_animals():
    rng = np.random.default_rng(3)
    alive = np.cumprod(np.column_stack([np.ones(500), rng.random((500, 6)) < 0.8]), axis=1)
    caught = (alive * (rng.random((500, 7)) < 0.6)).astype(int)
    posterior = vb.fit(cormack_jolly_seber(caught))
    assert posterior.report.verdict == "good"
    target = posterior.target.model
    at = {"survival": jnp.asarray(0.7), "seen": jnp.asarray(0.5)}
    np.testing.assert_allclose(target.log_joint(at), of_histories(caught, 0.7, 0.5), rtol=3e-6)
    assert abs(posterior.mean()["survival"] - 0.8) < 4 * posterior.sd()["survival"]
    assert abs(posterior.mean()["seen"] - 0.6) < 4 * posterior.sd()["seen"]
    draws = posterior.sample(20)
    found = np.stack([np.asarray(draws[f"alive_{t}"]) for t in range(1, 7)], axis=-1)
    # Nobody lives again, and who is seen is alive: in every draw, since the sites are drawn jointly.
    assert (np.diff(found, axis=-1) <= 0).all() and (found >= caught[:, 1:]).all()


@pytest.mark.slow
def test_a_mixture_of_100_000_rows_is_fitted_in_batches():
    rng = np.random.default_rng(0)
    z = rng.choice(3, 100_000, p=WEIGHTS)
    y = (np.array([-4.0, 0.0, 4.0])[z] + rng.normal(size=100_000)).astype(np.float32)
    start = {"locs": np.array([-4.0, 0.0, 4.0])}
    posterior = vb.fit(subsampled_mixture(y), "full_rank", batch_size=1000, start=start)
    np.testing.assert_allclose(posterior.mean()["locs"], [-4.0, 0.0, 4.0], atol=0.05)
    states = posterior.probabilities("z", n=20).argmax(axis=-1)
    assert (states == z).mean() > 0.96
    whole = vb.fit(mixture(y), vb.Laplace(), start=start)
    np.testing.assert_allclose(posterior.mean()["locs"], whole.mean()["locs"], atol=0.3 * whole.sd()["locs"].max())


@vb.model
def subsampled_mixture(y):
    locs = vb.sample("locs", dist.Normal(0.0, 3.0).expand((3,)).to_event(1))
    with vb.plate("row", len(y)):
        z = vb.sample("z", dist.Categorical(WEIGHTS))
        vb.sample("y", dist.Normal(locs[z], 1.0), obs=vb.subsample(y))


@pytest.mark.slow
def test_chains_walk_on_the_marginal_density(fitted):
    refined = vb.refine(fitted, n=200)
    assert refined.sample(50)["z"].shape == (50, 60)
    np.testing.assert_allclose(refined.mean()["locs"], fitted.mean()["locs"], atol=3 * fitted.sd()["locs"].max())
