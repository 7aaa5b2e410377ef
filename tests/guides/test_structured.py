"""Guides with rows of their own: unbiased over batches, exact for Gaussians, noise for the rows shown alone."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.errors import ModelError
from vbppl.core.pytree import pytree
from vbppl.guides.base import Start
from vbppl.guides.gaussian import FullRank, Gaussian, MeanField
from vbppl.guides.structured import RowGuide, Structured, beside_rows
from vbppl.inference import bound
from vbppl.inference.stochastic.objectives import ClosedForm, Inputs, StickingTheLanding
from vbppl.target.target import Target

ROWS, BATCH, NOISE, SPREAD = 6, 2, 0.8, 0.7
Y = np.array([0.5, -1.0, 2.0, 0.3, 1.4, -0.2])


@vb.model
def groups(y):
    mu = vb.sample("mu", dist.Normal(0.0, 2.0))
    with vb.plate("row", len(y)):
        theta = vb.sample("theta", dist.Normal(mu, SPREAD))
        vb.sample("y", dist.Normal(theta, NOISE), obs=vb.subsample(y))


@vb.model
def rates(counts):
    """Local sites of two kinds; the event of one has another shape on its support than in `z`."""
    tilt = vb.sample("tilt", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(counts)):
        rate = vb.sample("rate", dist.Gamma(2.0, jnp.exp(tilt)))
        p = vb.sample("p", dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))
        vb.sample("counts", dist.Poisson(rate[:, None] * p).to_event(1), obs=vb.subsample(counts, event_dim=1))


COUNTS = np.random.RandomState(0).poisson(2.0, (ROWS, 3))


def estimate(objective, guide, phi, target, noise, rows):
    """The objective's value where these rows are shown."""
    return objective(guide, Inputs(phi, target.replace(rows=rows), noise))[0]


def noise_of(guide, target, draws):
    """The noise of a step that shows `BATCH` rows."""
    shown = target.replace(rows={"row": np.arange(BATCH)})
    return guide.noise(shown).stratified(np.random.default_rng(0), draws)


def somewhere(model, guide):
    """A target that shows `BATCH` rows, parameters that are no optimum, and noise for all coordinates."""
    target, rng = Target.of(model), np.random.default_rng(0)
    target = target.replace(layout=target.layout.showing({"row": BATCH}))
    start = guide.init(target, Start(np.zeros(target.dim)))
    phi = jax.tree.map(lambda leaf: jnp.asarray(leaf + 0.3 * rng.standard_normal(leaf.shape)), start)
    return target, phi, rng.standard_normal((3, target.dim))


def columns(target, rows):
    """Where the noise of `rows` stands among that of all rows: by hand, from the names of the coordinates."""
    sites = {slot.name: np.arange(slot.start, slot.stop).reshape(slot.unconstrained) for slot in target.layout.slots}
    return np.concatenate([np.ravel(at[rows] if name in ("theta", "rate", "p") else at) for name, at in sites.items()])


GUIDES = {
    "mean_field": MeanField(),
    "structured": Structured("row"),
    "mean_field_beside": Structured("row", MeanField()),
    "full_rank": FullRank(),
}
CASES = [
    pytest.param(
        model(data), guide, objective, id=f"{model.__name__}-{name}-{type(objective).__name__}",
        marks=[] if objective is CLOSED and (model is groups or name == "structured") else [pytest.mark.slow],
    )
    for CLOSED in [ClosedForm()]
    for (model, data), (name, guide), objective in itertools.product(
        [(groups, Y), (rates, COUNTS)], GUIDES.items(), [CLOSED, StickingTheLanding()]
    )
]  # fmt: skip


@pytest.mark.parametrize(("model", "guide", "objective"), CASES)
def test_minibatch_gradients_average_to_the_full_gradient_over_all_index_sets(model, guide, objective, x64):
    target, phi, noise = somewhere(model, guide)
    slope = jax.jit(jax.value_and_grad(lambda phi, noise, rows: estimate(objective, guide, phi, target, noise, rows)))
    found = []
    for rows in map(np.array, itertools.combinations(range(ROWS), BATCH)):
        # A flat guide draws all coordinates at every step; the others, those of the rows shown.
        part = noise if isinstance(guide, (FullRank, MeanField)) else noise[:, columns(target, rows)]
        found.append(slope(phi, part, {"row": rows}))
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *found)
    for one, other in zip(jax.tree.leaves(mean), jax.tree.leaves(slope(phi, noise, {})), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-10)
    assert np.std([value for value, _ in found]) > 0.1


@vb.model
def ratings(y):
    """Crossed plates with latent rows of each, a site in both, and one that all share."""
    level = vb.sample("level", dist.Normal(0.0, 1.0))
    users, items = vb.plate("user", 4, dim=-2), vb.plate("item", 3, dim=-1)
    with users:
        kind = vb.sample("kind", dist.Normal(level, 1.0))
    with items:
        good = vb.sample("good", dist.LogNormal(level, 0.5))
    with users, items:
        taste = vb.sample("taste", dist.Normal(kind, good))
        vb.sample("y", dist.Normal(taste, 0.7), obs=vb.subsample(y))


CROSSED = {"mean_field": MeanField(), "both": Structured(("user", "item")), "users_alone": Structured("user")}


@pytest.mark.parametrize("which", [pytest.param(each, marks=[pytest.mark.slow] * (each != "both")) for each in CROSSED])
def test_crossed_plates_that_both_show_a_part_are_unbiased_too(which, x64):
    guide = CROSSED[which]
    target, rng = Target.of(ratings(np.random.RandomState(0).randn(4, 3))), np.random.default_rng(0)
    target = target.replace(layout=target.layout.showing({"user": 2, "item": 2}))
    start = guide.init(target, Start(np.zeros(target.dim)))
    phi = jax.tree.map(lambda leaf: jnp.asarray(leaf + 0.3 * rng.standard_normal(leaf.shape)), start)
    slope = jax.jit(
        jax.value_and_grad(lambda phi, noise, rows: estimate(ClosedForm(), guide, phi, target, noise, rows))
    )
    noise, found = rng.standard_normal((1, target.dim)), []
    sites = {slot.name: np.arange(slot.start, slot.stop).reshape(slot.unconstrained) for slot in target.layout.slots}
    for users, items in itertools.product(itertools.combinations(range(4), 2), itertools.combinations(range(3), 2)):
        rows = {"user": np.array(users), "item": np.array(items)}
        shown = {"kind": sites["kind"][rows["user"]], "good": sites["good"][rows["item"]]}
        shown["taste"] = sites["taste"][np.ix_(rows["user"], rows["item"])]
        if which == "users_alone":
            shown["good"] = sites["good"]  # shared: all of it is drawn at every step
        parts = [np.ravel(shown.get(name, sites[name])) for name in sites]
        part = noise if which == "mean_field" else noise[:, np.concatenate(parts)]
        found.append(slope(phi, part, rows))
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *found)
    for one, other in zip(jax.tree.leaves(mean), jax.tree.leaves(slope(phi, noise, {})), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-10)


def test_a_step_draws_noise_for_the_rows_shown_alone():
    guide = Structured("row")
    target, _, _ = somewhere(rates(COUNTS), guide)
    assert noise_of(guide, target, 4)(jax.random.key(0)).shape == (4, 1 + BATCH * (1 + 2))


def test_mean_field_beside_rows_shown_in_part_is_structured():
    target = Target.of(rates(COUNTS))
    beside = beside_rows(MeanField(), target, ["row"])
    assert (beside.plates, type(beside.shared)) == (("row",), MeanField)
    assert type(beside_rows(MeanField(), target, [])) is MeanField
    assert type(beside_rows(FullRank(), target, ["row"])) is FullRank


def test_the_parts_of_a_guide_are_drawn_independently():
    """One key for two parts would make them equal (a known trap): correlations within four standard errors of 0."""
    target, phi, _ = somewhere(groups(Y), Structured("row"))
    guide = Structured("row")
    noise = noise_of(guide, target, 1)
    keys = jax.random.split(jax.random.key(1), 10_000)
    steps = np.asarray(jax.vmap(lambda key: noise(key)[0])(keys))
    draws = bound.sample(guide, phi, target, np.random.default_rng(1), 10_000)
    flat = np.column_stack([draws["mu"], draws["theta"]])
    for found in (steps, flat):
        correlations = np.corrcoef(found, rowvar=False) - np.eye(found.shape[1])
        assert np.abs(correlations).max() < 4.5 / np.sqrt(10_000)


X = np.linspace(-1.0, 2.0, 40)
LINE_Y = 0.5 + 1.5 * X + np.random.RandomState(1).randn(40)


@vb.model
def line_of_groups(x, y):
    """Linear and Gaussian throughout: two shared coordinates that are correlated, one local a row."""
    a = vb.sample("a", dist.Normal(0.0, 2.0))
    b = vb.sample("b", dist.Normal(0.0, 2.0))
    with vb.plate("row", len(y)):
        theta = vb.sample("theta", dist.Normal(a + b * vb.subsample(x), SPREAD))
        vb.sample("y", dist.Normal(theta, NOISE), obs=vb.subsample(y))


def line_of_groups_by_hand():
    """Precision and mean of `(a, b, theta...)`, and the log evidence."""
    design = np.column_stack([np.ones(40), X])
    to_theta = np.hstack([-design, np.eye(40)])  # theta - a - b x
    precision = np.diag(np.r_[0.25, 0.25, np.full(40, NOISE**-2)]) + to_theta.T @ to_theta / SPREAD**2
    mean = np.linalg.solve(precision, np.r_[0.0, 0.0, LINE_Y / NOISE**2])
    marginal = 4 * design @ design.T + (SPREAD**2 + NOISE**2) * np.eye(40)
    return precision, mean, stats.multivariate_normal(np.zeros(40), marginal).logpdf(LINE_Y)


@pytest.fixture(scope="module")
def line_posterior():
    with pytest.warns(vb.VbpplWarning, match="the sd of b"):  # independent rows make it too narrow
        return vb.fit(line_of_groups(X, LINE_Y), batch_size=10)


@pytest.mark.slow
def test_shared_sites_are_full_rank_beside_mean_field_rows_by_default(line_posterior):
    """The best such Gaussian of a Gaussian: its own mean, each block's covariance the inverse of its precision."""
    posterior = line_posterior
    precision, mean, evidence = line_of_groups_by_hand()
    block = np.linalg.inv(precision[:2, :2])
    sd = np.r_[np.sqrt(np.diag(block)), np.full(40, precision[2, 2] ** -0.5)]
    assert isinstance(posterior.guide, Structured) and isinstance(posterior.guide.shared, FullRank)
    found, sds = posterior.mean(), posterior.sd()
    flat = np.r_[found["a"], found["b"], found["theta"]]
    np.testing.assert_array_less(np.abs(flat - mean), 0.05 * sd)
    np.testing.assert_allclose(np.r_[sds["a"], sds["b"], sds["theta"]], sd, rtol=0.03)
    correlation = posterior.covariance("a", "b")[0, 1] / (sds["a"] * sds["b"])
    assert correlation == pytest.approx(block[0, 1] / np.sqrt(block[0, 0] * block[1, 1]), abs=0.03)
    log_dets = np.linalg.slogdet(block)[1] + 40 * np.log(1 / precision[2, 2])
    best = evidence - (-log_dets - np.linalg.slogdet(precision)[1]) / 2  # KL of two normals of one mean, trace 42
    assert posterior.elbo.value == pytest.approx(best, abs=0.02)


def gap_and_error(model, posterior):
    """The mean of `log_joint - log_prob` over draws, less the ELBO; its standard error."""
    draws = posterior.sample(4000, seed=3)
    latent = {slot.name: draws[slot.name] for slot in posterior.target.layout.slots}
    gap = np.asarray(model.log_joint(latent) - posterior.log_prob(latent))
    return gap.mean() - posterior.elbo.value, np.hypot(gap.std() / np.sqrt(len(gap)), posterior.elbo.se)


@pytest.mark.slow  # in the fast suite each guide is asked in `test_protocol.py`
def test_log_prob_stands_on_the_footing_of_log_joint(line_posterior):
    off, error = gap_and_error(line_of_groups(X, LINE_Y), line_posterior)
    assert abs(off) < 4.5 * error + 1e-3


@pytest.mark.slow  # derivatives of Gamma and Dirichlet compile for long
@pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")
def test_log_prob_stands_on_the_footing_of_log_joint_on_other_supports():
    posterior = vb.fit(rates(COUNTS), Structured("row"), method=vb.Stochastic(steps=300, draws=4))
    off, error = gap_and_error(rates(COUNTS), posterior)
    assert abs(off) < 4.5 * error + 1e-3


FEW = Y[:4]


@pytree
class Conditional(RowGuide):
    """The exact posterior of `groups(FEW)`: a normal for `mu`, and of each row a normal given `mu`."""

    shared: Gaussian = MeanField()
    is_factorised = False

    def local_plates(self, target):
        return ("row",)

    def conditional(self, phi, shared, target):
        precision = SPREAD**-2 + NOISE**-2
        y = jnp.asarray(FEW)
        return {"theta": ((shared / SPREAD**2 + y / NOISE**2) / precision, jnp.full(len(y), precision**-0.5))}


@pytest.mark.slow
def test_rows_that_follow_what_they_share_are_exact_where_the_posterior_does(x64):
    guide, target, variance = Conditional(), Target.of(groups(FEW)), SPREAD**2 + NOISE**2
    precision = 1 / 4 + len(FEW) / variance
    mean = FEW.sum() / variance / precision
    phi = {"shared": np.array([[mean], [-np.log(precision) / 2]]), "local": np.zeros((2, 0))}
    evidence = stats.multivariate_normal(np.zeros(4), 4 + variance * np.eye(4)).logpdf(FEW)
    weighed = bound.weighed_draws(guide, phi, target, np.random.default_rng(0), 50)
    np.testing.assert_allclose(weighed.log_weights, evidence, rtol=1e-9)
    np.testing.assert_allclose(guide.log_prob(phi, weighed.z, target), bound.evaluate(target, weighed.z)[0] - evidence)
    fresh = bound.fresh_bound(guide, phi, target, np.random.default_rng(1), 400)
    assert fresh.mean() == pytest.approx(evidence, abs=4.5 * fresh.std() / 20)
    loc, sd = guide.frame(phi, target)
    assert loc[0] == pytest.approx(mean, abs=0.02) and sd[0] == pytest.approx(precision**-0.5, rel=0.02)
    divergences = guide.divergences(phi, np.zeros((3, 1 + 4)), target)["theta"][0]
    assert divergences.shape == (3, 4, 1)


def test_a_plate_without_latent_sites_is_refused():
    with pytest.raises(ModelError, match="names the plate 'rows', which holds no latent site"):
        vb.fit(groups(Y), Structured("rows"), batch_size=2)
