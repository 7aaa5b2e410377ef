"""The terms of one run and their reductions, against SciPy, closed forms and Monte Carlo."""

from __future__ import annotations

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st
from quick import jit

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.errors import ModelError
from vbppl.target.target import with_fixed_parameterisations

Y = np.array([[0.3, -0.2], [1.0, 0.5], [-0.7, 0.1], [0.2, 2.0], [0.0, -1.0]])


@vb.model
def rows(y):
    """All sites in one plate: a latent positive scale and a latent vector for each row."""
    with vb.plate("row", len(y)):
        width = vb.sample("width", dist.LogNormal(0.2, 0.5))
        x = vb.sample("x", dist.Normal(jnp.zeros(2), width[..., None]).to_event(1))
        vb.sample("y", dist.Normal(x, 0.7).to_event(1), obs=vb.subsample(y, event_dim=1))


def by_hand(z, i):
    """The log density of row `i` in `z`, which holds first all log widths and then all vectors: SciPy's."""
    log_width, x = z[: len(Y)][i], z[len(Y) :].reshape(len(Y), 2)[i]
    prior = st.norm.logpdf(log_width, 0.2, 0.5) + st.norm.logpdf(x, 0.0, np.exp(log_width)).sum()
    return prior + st.norm.logpdf(Y[i], x, 0.7).sum()


def test_rows_and_sites_are_those_by_hand(x64):
    target = vb.target(rows(Y))
    z = np.random.default_rng(0).normal(size=target.dim)
    each = np.array([by_hand(z, i) for i in range(len(Y))])
    terms = target.run(z)
    np.testing.assert_allclose(terms.by_row("row"), each, rtol=1e-10)
    np.testing.assert_allclose(terms.log_density(), each.sum(), rtol=1e-12)
    np.testing.assert_allclose(terms.by_site()["width"], st.norm.logpdf(z[: len(Y)], 0.2, 0.5).sum(), rtol=1e-10)


def test_rows_shown_count_for_all_in_sums_and_for_themselves_by_row(x64):
    target, shown = vb.target(rows(Y)), np.array([3, 1])
    z = np.random.default_rng(1).normal(size=target.dim)
    each = np.array([by_hand(z, i) for i in shown])
    terms = target.run(z, {"row": shown})
    np.testing.assert_allclose(terms.by_row("row"), each, rtol=1e-10)
    np.testing.assert_allclose(terms.log_density(), 5 / 2 * each.sum(), rtol=1e-12)
    # The shown coordinates alone are the same point.
    short = z[np.asarray(target.layout.places({"row": shown}))]
    again = target.run(short, {"row": shown}, shown=True)
    np.testing.assert_allclose(again.by_row("row"), each, rtol=1e-10)
    np.testing.assert_allclose(again.with_normals({}), terms.log_density(), rtol=1e-12)


def test_a_site_outside_the_plate_has_no_rows():
    @vb.model
    def shared(y):
        loc = vb.sample("loc", dist.Normal(0.0, 1.0))
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Normal(loc, 1.0), obs=y)

    with pytest.raises(ModelError, match="'loc'[^$]*stands in no plate, not in the plate 'row' alone"):
        vb.target(shared(np.zeros(3))).run(np.zeros(1)).by_row("row")


@vb.model
def priors(scale):
    vb.sample("normal", dist.Normal(jnp.array([0.5, -1.0]), scale).to_event(1))
    vb.sample("positive", dist.LogNormal(0.3, scale))
    vb.sample("joint", dist.MultivariateNormal(jnp.zeros(2), covariance_matrix=jnp.array([[1.0, 0.6], [0.6, 2.0]])))
    vb.sample("gamma", dist.Gamma(2.0, 1.0))


def normals_of(target):
    """A normal for each site's slice of `z`, and for the vector as a whole."""
    rng = np.random.default_rng(3)
    loc, sd = rng.normal(size=target.dim), np.exp(0.3 * rng.normal(size=target.dim))
    parts = {
        s.name: tuple(jnp.asarray(v[s.start : s.stop].reshape(s.unconstrained)) for v in (loc, sd))
        for s in slots(target)
    }
    return loc, sd, parts


def slots(target):
    return target.layout.slots


def gaussian_kl(loc, covariance, prior_loc, prior_covariance):
    """The textbook formula, on matrices: `(tr + quadratic form - k + log determinants) / 2`."""
    inverse, gap = np.linalg.inv(prior_covariance), prior_loc - loc
    dets = np.linalg.slogdet(prior_covariance)[1] - np.linalg.slogdet(covariance)[1]
    return 0.5 * (np.trace(inverse @ covariance) + gap @ inverse @ gap - len(loc) + dets)


def test_divergences_are_the_textbooks(x64):
    target = vb.target(priors(1.5))
    loc, sd, parts = normals_of(target)
    del parts["gamma"]
    found = target.run(loc).divergences(parts)
    priors_of = {
        "normal": (np.array([0.5, -1.0]), 1.5**2 * np.eye(2)),
        "positive": (np.array([0.3]), np.array([[1.5**2]])),  # of the logarithm, which is normal
        "joint": (np.zeros(2), np.array([[1.0, 0.6], [0.6, 2.0]])),
    }
    for name, (prior_loc, prior_covariance) in priors_of.items():
        slot = next(s for s in slots(target) if s.name == name)
        at = slice(slot.start, slot.stop)
        expected = gaussian_kl(loc[at], np.diag(sd[at] ** 2), prior_loc, prior_covariance)
        cost, scale = found[name]
        assert scale == 1.0
        np.testing.assert_allclose(np.sum(cost), expected, rtol=1e-10)
    assert found["normal"][0].shape == (1, 2)  # one row, each coordinate by itself


def test_a_normal_against_a_gamma_has_no_closed_form():
    target = vb.target(priors(1.5))
    loc, _, parts = normals_of(target)
    with pytest.raises(ModelError, match="Gamma has no closed form"):
        target.run(loc).divergences({"gamma": parts["gamma"]})


@pytest.mark.parametrize("weight", [1.0, 0.0, 0.5])
def test_with_normals_is_the_mean_over_them(weight, x64):
    """The mean of the log density over draws of the normals, within four standard errors."""

    @vb.model
    def hierarchy(y):
        mu = vb.sample("mu", dist.Normal(1.0, 2.0))
        tau = vb.sample("tau", dist.LogNormal(0.0, 0.5))
        with vb.plate("row", len(y)):
            theta = vb.sample("theta", dist.Normal(mu, tau))
            vb.sample("y", dist.Normal(theta, 1.0), obs=y)

    target = vb.target(hierarchy(np.array([0.5, -1.0, 2.0])))
    target = cases.seen(target, weight)
    rng = np.random.default_rng(5)
    loc, sd = rng.normal(size=3), np.exp(0.3 * rng.normal(size=3))
    # Only theta is averaged over: given mu and tau, which stay, its slice is independent of all else.
    head = np.array([0.7, -0.4])
    draws = loc + sd * rng.normal(size=(40_000, 3))

    @jax.jit
    def prior_terms(draws):
        def one(theta):
            return target.run(jnp.concatenate([head, theta])).by_site()["theta"]

        return jax.vmap(one)(draws)

    sampled = np.asarray(prior_terms(draws))
    terms = target.run(np.concatenate([head, loc]))
    normals = {"theta": (jnp.asarray(loc), jnp.asarray(sd))}
    averaged = terms.with_normals(normals) - (terms.log_density() - terms.by_site()["theta"])
    error = sampled.std() / len(sampled) ** 0.5
    assert abs(averaged - sampled.mean()) < 4 * error
    # And without chance: the entropy of the normals is what is added back.
    entropy = st.norm.entropy(loc, sd).sum()
    divergence = np.sum(terms.divergences(normals)["theta"][0])
    np.testing.assert_allclose(averaged, -divergence - entropy, rtol=1e-10)


def test_one_run_serves_every_reduction():
    """The function runs once to see the shapes and once for all programs that contain it."""
    runs = []

    @vb.model
    def counted(y):
        runs.append(1)
        with vb.plate("row", len(y)):
            x = vb.sample("x", dist.Normal(0.0, 1.0))
            vb.sample("y", dist.Normal(x, 1.0), obs=y)

    target = vb.target(counted(np.zeros(4)))
    seen, z = len(runs), np.zeros(4, np.float32)
    target.log_density(z)
    target.log_density(z, jacobian=False)
    jax.jit(lambda target, z: target.run(z).by_row("row"))(target, z)
    jax.jit(lambda target, z: target.run(z).by_site())(target, z)
    target.constrain(z)
    assert len(runs) == seen + 1


FAMILIES = {
    "normal": (dist.Normal, st.norm),
    "student": (lambda loc, scale: dist.StudentT(4.0, loc, scale), st.t(4)),
    "cauchy": (dist.Cauchy, st.cauchy),
    "laplace": (dist.Laplace, st.laplace),
    "logistic": (dist.Logistic, st.logistic),
    "gumbel": (dist.Gumbel, st.gumbel_r),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_noncentred_density_falls_with_z_in_32_bits_however_small_the_scale(family):
    """Where `mu + tau z` is `mu`: beside the prior of mu and tau it is that of `z` itself, by SciPy."""
    make, standard = FAMILIES[family]

    @vb.model
    def hierarchy(rows):
        mu = vb.sample("mu", dist.Normal(0.0, 5.0))
        tau = vb.sample("tau", dist.LogNormal(0.0, 1.0))
        with vb.plate("row", len(rows)):
            vb.sample("x", make(mu, tau).expand([len(rows), 2]).to_event(1).mask(True))

    target = vb.target(vb.decenter(hierarchy(np.zeros(2))))
    value_and_slope = jit(jax.value_and_grad(lambda z, seen: seen.log_density(z)))
    for log_tau in (0.0, -25.0, -60.0):
        z = np.array([4.0, log_tau, -2.0, 0.5, 1.0, 3.0])
        right = st.norm.logpdf(4.0, 0, 5) + st.norm.logpdf(log_tau) + standard.logpdf(z[2:]).sum()
        for seen in (target, with_fixed_parameterisations(target)):
            value, slope = value_and_slope(z, seen)
            assert float(value) == pytest.approx(right, rel=1e-5)
            assert np.isfinite(slope).all()


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_density_between_the_coordinates_is_that_of_the_value(weight, x64):
    @vb.model
    def pair():
        tau = vb.sample("tau", dist.HalfNormal(1.0))
        vb.sample("x", dist.Normal(3.0, tau))

    z = np.array([0.4, -0.7])
    tau, scale = np.exp(0.4), np.exp(0.4 * (1 - weight))
    right = st.halfnorm.logpdf(tau) + 0.4 + st.norm.logpdf((1 - weight) * 3 + scale * z[1], 3, tau) + np.log(scale)
    assert float(cases.seen(vb.target(pair()), weight).log_density(z)) == pytest.approx(right, rel=1e-12)
