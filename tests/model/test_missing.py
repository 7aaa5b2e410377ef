"""Observations of which some are missing: against Gaussian closed forms, and what is said where they cannot be."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import jit
from scipy import stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.distributions.rows import rows_of
from vbppl.target.axes import coordinate_names

N = 10
NAMES = [f"unit {i}" for i in range(N)]


@vb.model
def outcomes(x, y, names):
    """A straight line, of which some outcomes are missing."""
    beta = vb.sample("beta", dist.Normal(0.0, 2.0), sample_shape=(2,))
    with vb.plate("row", names):
        y = vb.sample("y", dist.Normal(beta[0] + beta[1] * x, 0.5), obs=y, obs_mask=~jnp.isnan(y))
        vb.sample("w", dist.Normal(y, 1.0), obs=2.0 * x)


def data():
    rng = np.random.default_rng(1)
    x = rng.normal(size=N)
    y = 0.5 - x + 0.5 * rng.normal(size=N)
    y[[2, 7]] = np.nan
    return x, y


@pytest.fixture(scope="module")
def fitted():
    x, y = data()
    return vb.fit(outcomes(x, y, NAMES), "full_rank")


def gaussian(x, y):
    """The posterior of the two coefficients and the two missing outcomes, by its precision matrix."""
    rows = [([1, 0, 0, 0], 0, 2.0), ([0, 1, 0, 0], 0, 2.0)]
    for i in range(N):
        where = {2: 2, 7: 3}.get(i)
        unit = np.eye(4)[where] if where else np.zeros(4)
        line, seen = np.array([1, x[i], 0, 0]), 0.0 if where else y[i]
        rows.append((line - unit, seen, 0.5))
        rows.append((unit, 2 * x[i] - seen, 1.0))
    design = np.array([row / sd for row, _, sd in ((np.array(r), v, s) for r, v, s in rows)])
    values = np.array([v / s for _, v, s in rows])
    covariance = np.linalg.inv(design.T @ design)
    return covariance @ design.T @ values, np.sqrt(np.diag(covariance))


def test_missing_outcomes_are_latent_and_have_their_gaussian_posterior(fitted):
    mean, sd = gaussian(*data())
    found = [np.concatenate([m["beta"], m["y_unobserved"]]) for m in (fitted.mean(), fitted.sd())]
    np.testing.assert_allclose(found, [mean, sd], atol=2e-3)
    assert [name for name, _ in fitted.summary().rows][2:] == ["y_unobserved[unit 2]", "y_unobserved[unit 7]"]


def test_what_is_predicted_has_imputations_in_the_place_of_what_is_missing(fitted):
    log_likelihood = np.asarray(fitted.log_likelihood(n=50)["y"])
    assert np.all(log_likelihood[:, [2, 7]] == 0) and np.all(log_likelihood[:, [0, 1]] != 0)
    new = np.asarray(fitted.predict()["y"])
    np.testing.assert_allclose(new[:, [2, 7]].mean(0), fitted.mean()["y_unobserved"], atol=0.06)
    draws = outcomes(*data(), NAMES).sample(3)
    np.testing.assert_array_equal(draws["y"][:, [2, 7]], draws["y_unobserved"])


@pytest.mark.slow
def test_of_other_data_what_is_missing_is_drawn_given_the_rest(fitted):
    x, y = data()
    with pytest.warns(vb.VbpplWarning, match="site 'y_unobserved' has shape"):
        other = fitted.predict(outcomes(x, np.where(np.arange(N) < 4, np.nan, x), NAMES))
    assert np.shape(other["y"]) == (1000, N) and np.all(np.isfinite(other["y"]))


@vb.model
def covariates(x, m):
    mu = vb.sample("mu", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(x)):
        vb.sample("x", dist.Normal(mu, 1.0), obs=x, obs_mask=m)


def test_other_data_of_which_as_many_are_missing_are_the_same_program():
    x, m = np.arange(5.0), np.arange(5) != 3
    one, other = covariates(x, m), covariates(x, np.arange(5) != 1)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert one.shapes().rows[2][:5] == ("x_unobserved", "latent", "Normal", "real", "(1,)")
    assert [row[0] for row in covariates(x, m | True).shapes().rows] == ["mu", "row", "x"]
    values = {"mu": 0.2, "x_unobserved": np.array([1.5])}
    by_hand = stats.norm.logpdf(0.2) + stats.norm.logpdf([0.0, 1.0, 2.0, 1.5, 4.0], 0.2).sum()
    np.testing.assert_allclose(one.log_joint(values), by_hand, rtol=1e-6)
    np.testing.assert_allclose(one.do(x=x).log_joint(values), stats.norm.logpdf([0.2, 1.3]).sum(), rtol=1e-6)


@vb.model
def counts(k, m, use=None):
    rate = vb.sample("rate", dist.Uniform(0.0, 1.0))
    with vb.plate("row", len(k)):
        seen = vb.sample("k", dist.Geometric(rate), obs=k, obs_mask=m)
        vb.sample("y", dist.Normal(0.0 if use is None else seen if use == "seen" else k, 1.0), obs=np.zeros(len(k)))


def test_counts_that_are_missing_are_left_out_and_drawn_in_predictions():
    k, m = np.array([3, -1, 2]), np.array([True, False, True])
    model = counts(k, m)
    expected = stats.geom(0.4, loc=-1).logpmf([3, 2]).sum() + 3 * stats.norm.logpdf(0)
    np.testing.assert_allclose(model.log_joint({"rate": 0.4}), expected, rtol=1e-6)
    draws = np.asarray(model.sample(400)["k"])
    assert np.all(draws >= 0) and abs(np.mean(draws[:, 1] == 0) - 0.5) < 0.1
    assert counts(k, m, "data").shapes().rows
    with pytest.raises(vb.ModelError) as told:
        counts(k, m, "seen")
    assert str(told.value) == (
        "site 'y': the values of 'k' that are missing are summed out, but 'y' is computed from them.\n"
        "  To mend it: Leave these rows out; or, where they do not count there either, compute with the data "
        "themselves and not with what the statement returns."
    )


ROWS = {
    "a family": dist.Normal(np.arange(6.0).reshape(2, 3), 2.0),
    "one for all": dist.Gamma(2.0, 1.0).expand((2, 3)),
    "vectors": dist.MultivariateNormal(np.arange(12.0).reshape(2, 3, 2), scale_tril=np.eye(2)),
    "an event": dist.Normal(np.arange(12.0).reshape(2, 3, 2), 1.0).to_event(1),
    "bounds": dist.Uniform(np.zeros(3), np.arange(1.0, 7.0).reshape(2, 3)),
    "truncated": dist.TruncatedDistribution(dist.Normal(np.arange(3.0), 1.0), low=np.zeros((2, 3))),
    "a mixture": dist.MixtureSameFamily(dist.Categorical([0.3, 0.7]), dist.Normal(np.ones((2, 3, 2)), 1.0)),
    "masked": dist.Normal(np.arange(6.0).reshape(2, 3), 1.0).mask(np.arange(6).reshape(2, 3) % 2 == 0),
}


SLOW = {"one for all", "bounds", "masked", "an event"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in ROWS])
def test_rows_of_a_batch_have_the_densities_of_the_batch(name):
    whole, at = ROWS[name], np.array([4, 1])
    some = rows_of(whole, at)
    assert (some.batch_shape, some.event_shape) == ((2,), whole.event_shape)
    x = jnp.full(whole.shape(), 0.5) + jnp.arange(6.0).reshape(2, 3, *(1,) * whole.event_dim) / 100
    taken = x.reshape(6, *whole.event_shape)[at]

    @jit
    def both(whole, some):
        each = jnp.broadcast_to(whole.log_prob(x), whole.batch_shape).reshape(6)[at]
        return each, some.log_prob(taken), some.support.forward(some.support.inverse(taken))

    expected, found, again = both(whole, some)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(again, taken, rtol=1e-5)
    assert jax.eval_shape(lambda: some.sample(jax.random.key(0), (3,))).shape == (3, 2, *whole.event_shape)


def refused(call):
    with pytest.raises((vb.ModelError, TypeError)) as told:
        call()
    return str(told.value)


@vb.model
def shown(y, m):
    mu = vb.sample("mu", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(mu, 1.0), obs=vb.subsample(y), obs_mask=vb.subsample(m))


@vb.model
def latent_mask(y):
    mu = vb.sample("mu", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(mu, 1.0), obs=y, obs_mask=y < mu)


@vb.model
def vectors(y, m):
    vb.sample("y", dist.Normal(np.zeros(3), 1.0).to_event(1), obs=y, obs_mask=m)


def test_what_cannot_be_is_told_with_its_mend():
    y, m = np.arange(5.0), np.arange(5) != 3
    assert refused(lambda: covariates(y, m[:4]).shapes()) == (
        "site 'x': obs_mask has shape (4,), but the batch of the site has shape (5,).\n"
        "  To mend it: Give one truth value for each row."
    )
    assert refused(lambda: covariates(y, m.astype(float)).shapes()) == (
        "site 'x': obs_mask holds float32, not truth values.\n"
        "  To mend it: True is observed: obs_mask=~jnp.isnan(y), or m.astype(bool)."
    )
    assert refused(lambda: latent_mask(y)) == (
        "site 'y': obs_mask does not follow from the model's data by plain arithmetic and comparisons, so that how "
        "many numbers are missing is not known before the run.\n"
        "  To mend it: Pass the mask as an argument of the model: m = ~np.isnan(y)."
    )
    assert refused(lambda: vb.fit(shown(y, m), batch_size=2)) == (
        "site 'y': plate 'row' shows its 5 rows in parts, but what is missing in all of them are latent numbers.\n"
        "  To mend it: Fit without batch_size=; or leave out rows of which only an outcome is missing: dist.mask(m)."
    )
    assert refused(lambda: vectors(y[:3], m[:3]).shapes()) == (
        "site 'y': obs_mask has shape (3,), but the batch of the site has shape ().\n"
        "  event: (3,)\n"
        "  To mend it: A part of an event cannot be missing: open a plate over it in the place of .to_event()."
    )


def test_what_is_missing_is_set_like_any_site():
    model = shown(np.array([1.0, np.nan, 0.5, np.nan]), np.array([True, False, True, False]))
    expected = stats.norm.logpdf(0.3) + stats.norm.logpdf([1.0, 0.1, 0.5, 0.2], 0.3).sum()
    some = model.condition(y_unobserved=np.array([0.1, 0.2])).log_joint({"mu": 0.3})
    np.testing.assert_allclose(some, expected, rtol=1e-6)
    cut = model.do(y_unobserved=np.array([0.1, 0.2])).log_joint({"mu": 0.3})
    np.testing.assert_allclose(cut, expected - stats.norm.logpdf([0.1, 0.2], 0.3).sum(), rtol=1e-6)


def test_blocks_that_divide_the_rows_are_refused_as_others_are():
    model = shown(np.array([1.0, np.nan, 0.5, np.nan]), np.array([True, False, True, False]))
    assert refused(lambda: vb.fit(model, "full_rank", batch_size=2)) == (
        "site 'y': plate 'row' shows its 4 rows in parts, but what is missing in all of them are latent numbers.\n"
        "  To mend it: Fit without batch_size=; or leave out rows of which only an outcome is missing: dist.mask(m)."
    )


@vb.model
def walk(y, size=2, scale=1.0):
    with vb.plate("series", size):

        def step(level, y):
            level = vb.sample("level", dist.Normal(level, 1.0))
            vb.sample("y", dist.Normal(level, scale), obs=y, obs_mask=~jnp.isnan(y))
            return level, None

        vb.scan(step, jnp.zeros(size), y)


@vb.model
def autoregression(y):
    def step(before, y):
        y = vb.sample("y", dist.Normal(0.5 * before, 1.0), obs=y, obs_mask=~jnp.isnan(y))
        return y, None

    vb.scan(step, 0.0, y)


def masked(y, there, word=None):
    def written(before, row):
        return vb.sample("y", dist.Normal(0.5 * before, 1.0), obs=row[0], obs_mask=row[1]), None

    def hidden(before, row):
        return vb.sample("y", dist.Normal(0.5 * before, 1.0), obs=row[0], **{word: row[1]}), None

    step = hidden if word else written
    return vb.model(lambda y, there: vb.scan(step, 0.0, (y, there)))(y, there)


@vb.model
def filled_up(y, at):
    gap = vb.sample("gap", dist.ImproperUniform(dist.constraints.real, (), (len(at),)))

    def step(before, y):
        vb.sample("y", dist.Normal(0.5 * before, 1.0), obs=y)
        return y, None

    vb.scan(step, 0.0, jnp.asarray(y).at[at].set(gap))


def with_gaps():
    y = np.random.default_rng(0).normal(size=(6, 2))
    y[[1, 2, 5], [0, 0, 1]] = np.nan
    return y


def test_outcomes_that_are_missing_in_steps_do_not_count_and_are_drawn():
    y, level = with_gaps(), np.linspace(-1, 1, 12).reshape(6, 2)
    expected = stats.norm.logpdf(np.diff(level, axis=0, prepend=0)).sum() + np.nansum(stats.norm.logpdf(y, level))
    np.testing.assert_allclose(walk(y).log_joint({"level": level}), expected, rtol=1e-6)
    draws = walk(y, scale=0.01).sample(20)
    np.testing.assert_allclose(draws["y"], draws["level"], atol=0.06)


@pytest.mark.slow
def test_outcomes_that_are_missing_in_steps_are_integrated_out(x64):
    """Against the density of the joint normal of what is there, and its conditional mean at what is not."""
    y = with_gaps()
    posterior = vb.fit(walk(y), "full_rank")
    steps = np.arange(1, 7)
    levels = np.minimum.outer(steps, steps)  # the covariance of a random walk
    evidence, means = 0.0, []
    for series in y.T:
        there = np.flatnonzero(~np.isnan(series))
        covariance = levels[np.ix_(there, there)] + np.eye(len(there))
        evidence += stats.multivariate_normal.logpdf(series[there], np.zeros(len(there)), covariance)
        means.append(levels[:, there] @ np.linalg.solve(covariance, series[there]))
    # The posterior is a Gaussian, so that the bound is the log evidence.
    np.testing.assert_allclose(posterior.elbo.value, evidence, atol=1e-6)
    np.testing.assert_allclose(posterior.mean()["level"], np.transpose(means), atol=1e-6)
    told = np.asarray(posterior.log_likelihood(n=5)["y"])
    np.testing.assert_array_equal(np.any(told != 0, axis=0), ~np.isnan(y))
    new = np.asarray(posterior.predict()["y"])[:, 1, 0]
    assert abs(new.mean() - means[0][1]) < 4 * new.std() / 1000**0.5


def test_what_is_missing_in_steps_and_computed_with_is_refused_with_its_mend():
    y, at = np.array([1.0, np.nan, 2.0]), np.array([1])
    assert refused(lambda: autoregression(y).shapes()) == (
        "site 'y': the values of 'y' that are missing are integrated out, but 'y' is computed from them.\n"
        "  To mend it: State them before the scan, without a density of their own, and observe what is filled up: "
        "gap = vb.sample('gap', dist.ImproperUniform(dist.constraints.real, (), (len(at),))), y = y.at[at].set(gap)."
    )
    expected = stats.norm.logpdf([1.0, 0.3, 2.0], [0.0, 0.5, 0.15]).sum()
    np.testing.assert_allclose(filled_up(y, at).log_joint({"gap": [0.3]}), expected, rtol=1e-6)


def test_what_is_missing_in_steps_is_looked_at_where_data_are_traced_and_where_the_word_is_hidden():
    y, level = with_gaps(), np.zeros((6, 2))
    expected = stats.norm.logpdf(level).sum() + np.nansum(stats.norm.logpdf(y))
    traced = jax.jit(lambda y: walk(y).log_joint({"level": level}))(y)
    np.testing.assert_allclose(traced, expected, rtol=1e-6)
    # Numbers stand where something is missing, so that nothing else would show what is computed from them.
    y, there = np.array([1.0, 0.0, 2.0]), np.array([True, False, True])
    assert "'y' is computed from them" in refused(lambda: jax.jit(lambda y: masked(y, there).log_joint({}))(y))
    assert "was not found when the model was applied" in refused(lambda: masked(y, there, "obs_" + "mask").shapes())


def test_side_by_side_go_data_of_which_as_many_are_missing():
    x = np.arange(3.0)
    some, none = covariates(x, np.array([True, False, True])), covariates(x, np.ones(3, bool))
    assert refused(lambda: vb.fit_many([some, none])) == (
        "data set 1 differs from the first in more than its numbers.\n"
        "  first: covariates(float64[3], bool[3]), 1 of 'x' missing\n"
        "  1: covariates(float64[3], bool[3]), 0 of 'x' missing\n"
        "  To mend it: Side by side go only fits of one model function to arrays of equal shapes; fit the others apart."
    )


def test_one_number_outside_of_plates_may_be_missing():
    @vb.model
    def one(y):
        vb.sample("y", dist.Normal(0.3, 2.0), obs=y, obs_mask=~jnp.isnan(y))

    target = vb.target(one(np.array(np.nan)))
    assert coordinate_names(target) == ("y_unobserved[0]",)
    np.testing.assert_allclose(target.log_density(np.array([1.1])), stats.norm.logpdf(1.1, 0.3, 2.0), rtol=1e-6)
