"""Pseudo-data: the rule against conjugate formulas, the coordinates against derivatives, and fits in them."""

from __future__ import annotations

import pickle

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st

import vbppl as vb
import vbppl.distributions as dist
from vbppl.distributions.location_scale import Parameterisation
from vbppl.inference.deterministic.pseudo_data import by_rule
from vbppl.target.batched import Batch, BatchedDensity
from vbppl.target.target import parameterisations_of, reparameterised, with_data

pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")

SIGMA, Y = cases.SCHOOLS_SIGMA, cases.SCHOOLS_Y
EVIDENCE = -31.311  # of eight schools, by quadrature over tau, with mu and theta integrated out


def with_pseudo_data(target, **pairs):
    """A target whose sites are seen by (y, d)."""
    seen = dict(target.parameterisations)
    for name, (y, d) in pairs.items():
        seen[name] = Parameterisation(np.zeros(()), np.asarray(y), np.asarray(d))
    return target.replace(parameterisations=seen)


def ruled(model, loc, sd=0.3):
    """The coordinates that the rule gives at `loc`, by name, and the medians in them."""
    target = vb.target(model)
    batch = Batch(BatchedDensity([target]), np.zeros(1, int), parameterisations_of(target)[None])
    rows, x = by_rule(batch, [target], np.concatenate([loc, np.full(target.dim, np.log(sd))])[None])
    return reparameterised(target, rows[0]).parameterisations, x[0, : target.dim]


@vb.model
def schools(y, sigma, shown=None):
    mu = vb.sample("mu", dist.Normal(0.0, 5.0))
    tau = vb.sample("tau", dist.LogNormal(0.0, 1.0))
    with vb.plate("school", len(y), subsample_size=shown):
        theta = vb.sample("theta", dist.Normal(mu, tau))
        vb.sample("y", dist.Normal(theta, vb.subsample(sigma)), obs=vb.subsample(y))


def test_with_the_data_as_pseudo_data_rows_are_standard_normal_whatever_the_hypers(x64):
    """And what is left of the density is that of mu, tau and the data with theta integrated out, by SciPy."""
    target = with_pseudo_data(vb.target(schools(Y, SIGMA)), theta=(Y, SIGMA**-2.0))
    for z in np.random.default_rng(0).normal(size=(5, 10)) * np.array([5.0, 2.0, *np.ones(8)]):
        marginal = st.norm.logpdf(Y, z[0], np.hypot(np.exp(z[1]), SIGMA)).sum()
        right = st.norm.logpdf(z[0], 0, 5) + st.norm.logpdf(z[1]) + marginal + st.norm.logpdf(z[2:]).sum()
        assert float(target.log_density(z)) == pytest.approx(right, rel=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_the_map_is_a_bijection_with_its_determinant(weight, x64):
    target, rng = vb.target(schools(Y, SIGMA)), np.random.default_rng(1)
    seen = Parameterisation(np.asarray(weight), rng.normal(size=8), rng.exponential(size=8) * (np.arange(8) > 1))
    target = target.replace(parameterisations={"theta": seen})
    z = rng.normal(size=(3, 10))
    draws = target.constrain(z)
    np.testing.assert_allclose(target.unconstrain(draws), z, atol=1e-12)

    def flat(z):
        values = target.constrain(z)
        return jnp.concatenate([values[slot.name].reshape(-1) for slot in target.layout.slots])

    expected = np.linalg.slogdet(jax.jit(jax.vmap(jax.jacfwd(flat)))(z))[1]
    np.testing.assert_allclose(target.log_det(draws), expected, atol=1e-10)
    joint = schools(Y, SIGMA).log_joint(draws) + expected
    np.testing.assert_allclose(jax.vmap(target.log_density)(z), joint, rtol=1e-12)


def test_without_precision_pseudo_data_change_no_bit():
    target, z = vb.target(schools(Y, SIGMA)), np.linspace(-2, 2, 10).astype(np.float32)
    value_and_slope = jax.jit(lambda target, z: jax.value_and_grad(target.log_density)(z))
    for weight in (0.0, 0.5, 1.0):
        plain = cases.seen(target, weight)
        other = plain.replace(
            parameterisations={"theta": Parameterisation(plain.parameterisations["theta"].weight, Y, np.zeros(8))}
        )
        both = [value_and_slope(each, z) for each in (plain, other)]
        assert both[0][0] == both[1][0] and np.array_equal(both[0][1], both[1][1])


def test_a_wide_scale_loses_nothing_where_there_are_no_pseudo_data():
    """Its square is beyond 32 bits: zero times infinity would be no number."""
    target, z = cases.seen(vb.target(schools(Y, SIGMA)), 0.0), np.zeros(10, np.float32)
    z[1] = 50.0
    assert np.isfinite(jax.grad(target.log_density)(z)).all()


def test_the_rule_finds_the_data_of_eight_schools():
    seen, z = ruled(cases.eight_schools(SIGMA, Y), np.array([4.0, 1.0, *np.linspace(2, 7, 8)]))
    np.testing.assert_allclose(seen["theta"].y, Y, atol=0.02)
    np.testing.assert_allclose(seen["theta"].d, SIGMA**-2.0, rtol=0.01)
    assert seen["theta"].weight == 0.0
    # The medians are the same place.
    tau, y, d = np.exp(1.0), Y, SIGMA**-2.0
    r = d * tau**2 / (1 + d * tau**2)
    np.testing.assert_allclose(4 + r * (y - 4) + tau / np.sqrt(1 + d * tau**2) * z[2:], np.linspace(2, 7, 8), atol=1e-3)


def test_sites_hear_of_data_through_the_sites_behind_them():
    """By conjugacy a shop tells of its city what is left when it is averaged over: precision 1 / (spread^2 + sd^2)."""

    @vb.model
    def chain(y):
        tau, spread = (vb.sample(name, dist.LogNormal(0.0, 1.0)) for name in ("tau", "spread"))
        with vb.plate("cities", 2, dim=-2):
            city = vb.sample("city", dist.Normal(1.0, tau))
            with vb.plate("shops", 3, dim=-1):
                shop = vb.sample("shop", dist.Normal(city, spread))
                vb.sample("y", dist.Normal(shop, 0.7), obs=y)

    y = np.array([[1.0, 2.0, 4.0], [-1.0, 0.5, 0.0]])
    seen, _ = ruled(chain(y), np.array([0.1, 0.2, 1.5, 0.3, *np.linspace(-1, 2, 6)]))
    np.testing.assert_allclose(seen["shop"].y, y, atol=1e-3)
    np.testing.assert_allclose(seen["shop"].d, np.full((2, 3), 0.7**-2), rtol=1e-3)
    np.testing.assert_allclose(seen["city"].y, y.mean(axis=1, keepdims=True), atol=1e-3)
    np.testing.assert_allclose(seen["city"].d, np.full((2, 1), 3 / (np.exp(0.4) + 0.49)), rtol=1e-3)


def test_rows_that_speak_to_each_other_are_moved_one_by_one():
    x = np.random.default_rng(2).normal(size=(30, 3)) @ np.array([[1.0, 0.8, 0.0], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]])

    @vb.model
    def ridge(x, y):
        tau = vb.sample("tau", dist.LogNormal(0.0, 1.0))
        beta = vb.sample("beta", dist.Normal(0.0, tau).expand([3]).to_event(1))
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Normal(x @ beta, 2.0), obs=y)

    seen, _ = ruled(ridge(x, x @ np.ones(3)), np.array([0.0, 0.9, 1.1, 1.0]))
    np.testing.assert_allclose(seen["beta"].d, np.diag(x.T @ x) / 4, rtol=1e-3)


@pytest.mark.parametrize("family", [dist.Laplace, dist.Cauchy, lambda loc, scale: dist.StudentT(3.0, loc, scale)])
def test_a_prior_that_is_not_normal_is_no_data(family):
    @vb.model
    def bare():
        tau = vb.sample("tau", dist.LogNormal(0.0, 1.0))
        vb.sample("x", family(jnp.zeros(2), tau).to_event(1))

    seen, _ = ruled(bare(), np.array([0.3, 0.4, -0.2]), sd=0.01)
    assert np.all(seen["x"].d == 0.0)


def test_a_tight_child_gets_no_data_at_all():
    """Data of precision 1 say less than a hundredth of what a prior of sd e^-3 does."""

    @vb.model
    def tight(y):
        mu = vb.sample("mu", dist.Normal(0.0, 10.0))
        tau = vb.sample("tau", dist.LogNormal(-3.0, 1.0))
        with vb.plate("row", len(y)):
            x = vb.sample("x", dist.Normal(mu, tau))
            vb.sample("y", dist.Normal(x, 1.0), obs=y)

    seen, _ = ruled(tight(np.array([1.0, 2.0])), np.array([1.5, -3.0, 1.5, 1.51]))
    assert np.all(seen["x"].d == 0.0) and np.all(seen["x"].y == 0.0) and seen["x"].weight == 0.0


def test_rows_that_are_shown_bring_their_pseudo_data():
    target = with_pseudo_data(vb.target(schools(Y, SIGMA, 3)), theta=(Y, SIGMA**-2.0))
    z, rows = np.linspace(-1, 1, 10).astype(np.float32), np.array([6, 0, 3])
    shown, every = target.run(z, {"school": rows}), target.with_lengths({"school": 8}).run(z, {"school": np.arange(8)})
    for name in ("theta", "y"):
        np.testing.assert_allclose(shown[name].log_prob, every[name].log_prob[rows], rtol=1e-6)
    part = target.run(np.concatenate([z[:2], z[2:][rows]]), {"school": rows}, shown=True)
    np.testing.assert_allclose(part.log_density(), shown.log_density(), rtol=1e-6)


def test_other_rows_have_none():
    target = with_pseudo_data(vb.target(schools(Y, SIGMA)), theta=(Y, SIGMA**-2.0))
    assert np.all(with_data(target, schools(Y + 1, SIGMA)).parameterisations["theta"].d == SIGMA**-2.0)
    other = with_data(target, schools(Y[:3], SIGMA[:3])).parameterisations["theta"]
    assert other.weight == 0.0 and other.d.shape == (3,) and not other.d.any()


@pytest.fixture(scope="module")
def posterior():
    fitted = vb.fit(cases.eight_schools(SIGMA, Y))
    assert np.all(fitted.target.parameterisations["theta"].d > 0)
    return fitted


def test_the_evidence_is_the_same_however_a_site_is_seen(posterior):
    noncentred = vb.fit(vb.decenter(cases.eight_schools(SIGMA, Y)))
    assert not noncentred.target.parameterisations["theta"].d.any()
    for each in (
        posterior,
        noncentred,
    ):  # where the guide is the posterior but for .003 nats, the bound is the evidence
        known = np.nan_to_num(each.report.log_evidence, nan=each.elbo.value)
        assert known == pytest.approx(EVIDENCE, abs=0.02)
    assert EVIDENCE - 0.02 < posterior.elbo.value < EVIDENCE + 4 * posterior.elbo.se
    assert posterior.status.gradients < 40_000  # non-centred alone 47,000: fewer draws matter


def test_a_posterior_in_these_coordinates_does_all_that_others_do(posterior):
    guide = posterior.uncorrected()
    draws = guide.sample(4000, seed=1)
    terms = np.asarray(cases.eight_schools(SIGMA, Y).log_joint(draws) - posterior.log_prob(draws), np.float64)
    assert abs(terms.mean() - posterior.elbo.value) < 4 * np.hypot(terms.std() / 4000**0.5, posterior.elbo.se)
    again = pickle.loads(pickle.dumps(posterior))
    np.testing.assert_array_equal(again.sample(5)["theta"], posterior.sample(5)["theta"])
    assert posterior.predict(n=7)["y"].shape == posterior.log_likelihood(7)["y"].shape == (7, 8)
    with pytest.warns(vb.VbpplWarning, match="its rows are new"):
        assert posterior.predict(cases.eight_schools(SIGMA[:3]), n=7)["y"].shape == (7, 3)
    warm = vb.fit(cases.eight_schools(SIGMA, Y), start=posterior)
    assert warm.elbo.value == pytest.approx(posterior.elbo.value, abs=0.03)


@pytest.mark.slow
def test_many_fits_have_their_own(posterior):
    many = vb.fit_many(cases.eight_schools, [{"sigma": SIGMA, "y": y} for y in (Y, -Y)])
    for y, each in zip((Y, -Y), many):
        np.testing.assert_allclose(each.target.parameterisations["theta"].y, y, atol=0.05)
    assert many[0].elbo.value == pytest.approx(-31.40, abs=0.01)  # the best Gaussian: many fits do not climb on


@pytest.mark.slow
def test_a_child_whose_scale_is_known_and_tight_has_its_answer():
    """Rounding hides it beside its parent; against quadrature over the one number that there is."""

    @vb.model
    def shadow(y):
        mu = vb.sample("mu", dist.Normal(0.0, 10.0))
        x = vb.sample("x", dist.Normal(mu, 1e-6))
        with vb.plate("row", len(y)):
            vb.sample("y", dist.StudentT(1.0, x, 0.3), obs=y)

    y, grid = np.array([1.0, 2.0, 2.5, 0.3]), np.linspace(-10, 15, 100_001)
    weight = st.norm.pdf(grid, 0, 10) * st.cauchy.pdf(y[:, None], grid, 0.3).prod(axis=0)
    mean = np.sum(grid * weight) / weight.sum()
    sd = np.sqrt(np.sum((grid - mean) ** 2 * weight) / weight.sum())
    posterior = vb.fit(shadow(y))
    assert posterior.check().verdict == "good"
    assert abs(posterior.mean()["x"] - mean) < 0.1 * sd and posterior.sd()["x"] == pytest.approx(sd, rel=0.1)
    log_evidence = np.log(weight.sum() * (grid[1] - grid[0]))
    assert log_evidence - 0.15 < posterior.elbo.value <= log_evidence


def test_log_normal_rows_under_a_latent_scale_are_fitted_as_quadrature_has_them():
    """Counts with rates `3 x`: each row is integrated over the normal of log x, for each scale."""
    y = np.array([1, 3, 8, 2])

    @vb.model
    def model(y):
        tau = vb.sample("tau", dist.HalfNormal(1.0))
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Poisson(3 * vb.sample("x", dist.LogNormal(0.0, tau))), obs=y)

    tau = np.linspace(0, 6, 1201)[1:]
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    rows = st.poisson.pmf(y, 3 * np.exp(tau[:, None, None] * nodes[:, None])) * weights[:, None] / weights.sum()
    density = st.halfnorm.pdf(tau) * rows.sum(axis=1).prod(axis=-1)
    evidence = np.trapezoid(density, tau)
    mean = np.trapezoid(tau * density, tau) / evidence
    sd = np.sqrt(np.trapezoid((tau - mean) ** 2 * density, tau) / evidence)
    posterior = vb.fit(model(y))
    assert posterior.check().verdict in ("good", "corrected")
    assert posterior.check().log_evidence == pytest.approx(np.log(evidence), abs=0.02)
    assert posterior.mean()["tau"] == pytest.approx(mean, abs=0.1 * sd)
    assert np.log(posterior.sd()["tau"] / sd) == pytest.approx(0, abs=0.15)


@pytest.mark.slow
def test_the_rule_says_the_same_of_a_log_normal_as_of_the_normal_of_its_logarithm(x64):
    def written(law, value):
        @vb.model
        def model():
            mu, tau = vb.sample("mu", dist.Normal(0.0, 1.0)), vb.sample("tau", dist.HalfNormal(1.0))
            with vb.plate("row", 3):
                rate = value(vb.sample("x", law(mu, tau)))
                vb.sample("y", dist.Poisson(3 * rate), obs=np.array([1, 8, 2]))

        return ruled(model(), np.array([0.2, -0.4, 0.1, 0.6, -0.2]))

    (one, at), (other, there) = written(dist.LogNormal, lambda x: x), written(dist.Normal, jnp.exp)
    np.testing.assert_allclose(at, there, atol=1e-6)
    for part in ("y", "d"):
        np.testing.assert_allclose(getattr(one["x"], part), getattr(other["x"], part), rtol=1e-6)
