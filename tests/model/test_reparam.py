"""Centred or not: another way to the same density, found where the scale is latent."""

from __future__ import annotations

import re

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats as st

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.errors import ModelError
from vbppl.distributions.location_scale import Parameterisation
from vbppl.distributions.transforms import ExpTransform
from vbppl.model.reparam import decenter, hierarchical_sites
from vbppl.target.batched import evaluate
from vbppl.target.target import parameterisations_of, settled, with_fixed_parameterisations

SCHOOLS = cases.eight_schools(cases.SCHOOLS_SIGMA, cases.SCHOOLS_Y)


@vb.model
def toy(y):
    tau = vb.sample("tau", dist.LogNormal(0.0, 0.3))
    theta = vb.sample("theta", dist.Normal(0.5, tau))
    vb.sample("y", dist.Normal(theta, 0.5), obs=y)


@vb.model
def nested():
    top = vb.sample("top", dist.Normal(0.0, 1.0))
    tau = vb.sample("tau", dist.HalfNormal(1.0))
    with vb.plate("cities", 2):
        city = vb.sample("city", dist.StudentT(4.0, top, tau))
        spread = vb.sample("spread", dist.HalfNormal(tau))
        with vb.plate("shops", 3):
            vb.sample("shop", dist.Normal(city, spread))
    vb.sample("event", dist.Laplace(top, jnp.array([1.0, 2.0, 3.0]) * tau).to_event(1))
    vb.sample("wide", dist.Gumbel(0.0, tau).expand((2,)).to_event(1).mask(True))


def non_centred():
    """Models where the scale of no latent location-scale site is latent."""

    @vb.model
    def by_hand(sigma):
        tau = vb.sample("tau", dist.HalfCauchy(5.0))
        with vb.plate("school", len(sigma)):
            z = vb.sample("z", dist.Normal(0.0, 1.0))
            vb.sample("y", dist.Normal(tau * z, sigma), obs=sigma)

    @vb.model
    def latent_mean_only():
        mu = vb.sample("mu", dist.Normal(0.0, 1.0))
        vb.sample("theta", dist.Normal(mu, 2.0))

    @vb.model
    def scale_of_the_data(y):
        sd = vb.sample("sd", dist.HalfNormal(1.0))
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Normal(0.0, sd), obs=y)

    @vb.model
    def learnt_scale():
        vb.sample("theta", dist.Normal(0.0, vb.param("sd", 1.0)))

    return by_hand(cases.SCHOOLS_SIGMA), latent_mean_only(), scale_of_the_data(np.zeros(3)), learnt_scale()


def test_hierarchical_sites_are_found():
    assert hierarchical_sites(SCHOOLS) == ("theta",)
    assert hierarchical_sites(cases.funnel()) == ("x",)
    assert hierarchical_sites(nested()) == ("city", "shop", "event", "wide")
    assert [hierarchical_sites(model) for model in non_centred()] == [()] * 4


def test_without_names_all_hierarchical_sites_are_meant():
    assert decenter(SCHOOLS).decentered == ("theta",)
    assert decenter(SCHOOLS, "mu").decentered == ("mu",)


def test_values_and_their_density_stay_as_they_are():
    prior, same = toy(2.0).sample(5, seed=1), decenter(toy(2.0)).sample(5, seed=1)
    assert list(prior) == list(same) and all(np.array_equal(prior[name], same[name]) for name in prior)
    del prior["y"]
    np.testing.assert_array_equal(decenter(toy(2.0)).log_joint(prior), toy(2.0).log_joint(prior))


@pytest.mark.parametrize("model", [SCHOOLS, nested()], ids=["schools", "nested"])
def test_coordinates_go_there_and_back_with_their_determinant(model, x64):
    target = vb.target(decenter(model))
    z = np.random.default_rng(0).normal(size=(3, target.dim))
    draws = target.constrain(z)
    np.testing.assert_allclose(target.unconstrain(draws), z, atol=1e-12)

    def flat(z):
        values = target.constrain(z)
        return jnp.concatenate([values[slot.name].reshape(-1) for slot in target.layout.slots])

    expected = np.linalg.slogdet(jax.jit(jax.vmap(jax.jacfwd(flat)))(z))[1]
    np.testing.assert_allclose(target.log_det(draws), expected, atol=1e-10)
    density = jax.vmap(target.log_density)(z)
    np.testing.assert_allclose(density, model.log_joint(draws) + expected, rtol=1e-12)


@pytest.mark.parametrize("model", [SCHOOLS, pytest.param(nested(), marks=pytest.mark.slow)], ids=["schools", "nested"])
def test_coordinates_that_are_compiled_in_are_the_same_coordinates(model, x64):
    for target in (vb.target(model), vb.target(decenter(model))):
        fixed = with_fixed_parameterisations(target)
        assert not fixed.layout.movable and not fixed.parameterisations
        for z in np.random.default_rng(0).normal(size=(3, target.dim)):
            np.testing.assert_allclose(fixed.log_density(z), target.log_density(z), rtol=1e-13)
            np.testing.assert_allclose(jax.grad(fixed.log_density)(z), jax.grad(target.log_density)(z), rtol=1e-11)


def test_a_density_whose_coordinates_are_settled_is_evaluated_with_them_compiled_in():
    """It is told no numbers by which they could change, and is the density that it was."""
    for target, weight in ((vb.target(SCHOOLS), 1.0), (vb.target(decenter(SCHOOLS)), 0.0)):
        chosen = settled(target)
        assert chosen.parameterisations["theta"].weight == weight and chosen.layout.movable == target.layout.movable
        assert parameterisations_of(target).size == 17 and not parameterisations_of(chosen).size
        z = np.random.default_rng(0).normal(size=(3, target.dim))
        (log_p, slope), (log_p_before, slope_before) = (evaluate(each, z) for each in (chosen, target))
        np.testing.assert_allclose(log_p, log_p_before, rtol=1e-5)
        np.testing.assert_allclose(slope, slope_before, rtol=1e-3, atol=1e-4)
        values = jax.jit(lambda target, z: target.constrain(z))(chosen, z[0])  # where its numbers are not known
        np.testing.assert_allclose(values["theta"], target.constrain(z[0])["theta"], rtol=1e-5)
    halfway = cases.seen(vb.target(SCHOOLS), 0.5)
    assert settled(halfway) is halfway  # these are numbers, and stay so


def test_in_the_new_coordinates_the_prior_is_standard(x64):
    """Given tau, `(theta - 0) / tau` is standard normal: the funnel is gone."""
    target = vb.target(decenter(cases.funnel()))
    z = np.random.default_rng(0).normal(size=(4, 10))
    expected = st.norm.logpdf(z[:, 0], 0.0, 3.0) + st.norm.logpdf(z[:, 1:]).sum(1)
    np.testing.assert_allclose(jax.vmap(target.log_density)(z), expected, rtol=1e-12)


def test_the_evidence_is_the_same_in_both_coordinates(x64):
    """By quadrature in one dimension: given tau, y is Normal(0.5, sqrt(tau^2 + 0.5^2))."""
    y = 2.0
    prior = st.lognorm(0.3)
    evidence, _ = scipy.integrate.quad(
        lambda tau: prior.pdf(tau) * st.norm.pdf(y, 0.5, np.sqrt(tau**2 + 0.25)), 0.0, np.inf
    )
    axis = np.linspace(-12.0, 12.0, 801)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    for model in (toy(y), decenter(toy(y))):
        density = jax.jit(jax.vmap(vb.target(model).log_density))(grid)
        np.testing.assert_allclose(np.exp(density).sum() * (axis[1] - axis[0]) ** 2, evidence, rtol=1e-8)


@pytest.mark.filterwarnings("ignore::vbppl.core.errors.VbpplWarning")
def test_the_bound_of_a_noncentred_fit_is_one_of_the_original_model():
    posterior = vb.fit(decenter(SCHOOLS), seed=0)
    draws = posterior.uncorrected().sample(4000, seed=1)
    terms = np.asarray(SCHOOLS.log_joint(draws) - posterior.log_prob(draws), np.float64)
    error = np.hypot(terms.std() / np.sqrt(len(terms)), posterior.elbo.se)
    assert abs(terms.mean() - posterior.elbo.value) < 4 * error


@pytest.mark.filterwarnings("ignore::vbppl.core.errors.VbpplWarning")
def test_auto_chooses_the_coordinates_by_the_bound_and_says_so():
    """The bounds are those of long full-rank fits: -32.6 centred, -31.5 non-centred, -31.4 by pseudo-data."""
    posterior = vb.fit(SCHOOLS, seed=0)
    assert posterior.target.layout.movable == ("theta",) and np.all(posterior.target.parameterisations["theta"].d > 0)
    choice = str(posterior.check().notes[0])
    said = r"parameterisation: theta by pseudo-data \(mean-field bound \d\.\d\d nats above theta non-centred\)"
    assert re.fullmatch(said, choice)
    assert choice in posterior.check().details
    assert -31.42 < posterior.elbo.value < -31.30  # the evidence is -31.311
    assert set(posterior.mean()) == {"mu", "tau", "theta"} and posterior.mean()["theta"].shape == (8,)


@pytest.mark.filterwarnings("ignore::vbppl.core.errors.VbpplWarning")
def test_auto_stays_centred_where_the_data_say_much_of_each_group():
    """Ten accurate schools: the centred coordinates are nearly independent a posteriori, the others not."""
    y = np.array([28.0, 8, -3, 7, -1, 1, 18, 12, 3, -9])
    posterior = vb.fit(cases.eight_schools(np.full(10, 0.5), y))
    seen = posterior.target.parameterisations["theta"]
    # By pseudo-data that are the data themselves, which draw each value to themselves as much as if it were centred.
    assert seen.weight == 1.0 or np.all(seen.d > 3.9)
    word = "centred" if seen.weight else "by pseudo-data"
    assert str(posterior.check().notes[0]).startswith(f"parameterisation: theta {word} (mean-field bound")


@pytest.mark.parametrize(
    "model, name, such",
    [
        (SCHOOLS, "tau", "mu, theta"),
        (SCHOOLS, "y", "mu, theta"),
        (SCHOOLS, "zeta", "mu, theta"),
        (cases.gamma_exponential(cases.WAITS), "rate", "none"),
    ],
    ids=["not location-scale", "observed", "unknown", "none"],
)
def test_only_a_location_scale_site_can_be_noncentred(model, name, such):
    with pytest.raises(ModelError) as error:
        decenter(model, name)
    assert str(error.value) == (
        f"site '{name}': only a latent site with a location and a scale can be non-centred.\n"
        f"  such sites of this model: {such}\n"
        "  To mend it: Name one of these."
    )


def test_a_function_that_mixes_or_bounds_a_location_scale_variable_is_none_itself():
    @vb.model
    def model():
        tau = vb.sample("tau", dist.HalfNormal(1.0))
        two = dist.Normal(0.0, tau).expand((2,)).to_event(1)
        vb.sample("mixed", dist.TransformedDistribution(two, dist.transforms.StickBreakingTransform()))
        vb.sample("positive", dist.TransformedDistribution(dist.HalfNormal(tau), ExpTransform()))

    assert hierarchical_sites(model()) == ()
    with pytest.raises(ModelError, match="such sites of this model: none"):
        decenter(model(), "mixed")


LINKED = {
    "LogNormal": (dist.LogNormal, np.exp),
    "wrapped": (lambda loc, s: dist.LogNormal(loc, s).expand((3,)).to_event(1).mask(True), np.exp),
    "exp": (lambda loc, s: dist.TransformedDistribution(dist.StudentT(4.0, loc, s), ExpTransform()), np.exp),
    "sigmoid": (
        lambda loc, s: dist.TransformedDistribution(dist.Normal(loc, s), dist.transforms.SigmoidTransform()),
        lambda u: 1 / (1 + np.exp(-u)),
    ),
    "two steps, of an event": (
        lambda loc, s: dist.TransformedDistribution(
            dist.Normal(loc, s).expand((3,)).to_event(1),
            [ExpTransform(), dist.transforms.AffineTransform(1.0, -2.0)],
        ),
        lambda u: 1 - 2 * np.exp(u),
    ),
}


@pytest.mark.parametrize(
    "family", ["LogNormal", *(pytest.param(name, marks=pytest.mark.slow) for name in LINKED if name != "LogNormal")]
)
def test_what_is_of_location_and_scale_in_its_supports_coordinates_is_seen_there(family, x64):
    """The map as a formula; the density as that of the values, and the map's determinant by numerical derivatives."""
    make, link = LINKED[family]

    @vb.model
    def model():
        loc, tau = vb.sample("loc", dist.Normal(0.0, 1.0)), vb.sample("tau", dist.HalfNormal(1.0))
        x = make(loc, tau)
        vb.sample("x", x if x.shape() else x.expand((3,)))

    target, rng = vb.target(model()), np.random.default_rng(0)
    assert target.layout.movable == target.layout.funnels == ("x",)
    for weight in (1.0, 0.0, 0.4):
        form = Parameterisation(np.asarray(weight), rng.normal(size=3), np.array([0.0, 0.5, 3.0]))
        target = target.replace(parameterisations={"x": form})
        z = 0.7 * rng.standard_normal(5)
        loc, scale = z[0], np.exp(z[1])
        q = 1 + form.d * scale**2
        u = (1 - weight) * loc + form.d * scale**2 / q * (form.y - loc) + scale ** (1 - weight) / np.sqrt(q) * z[2:]
        values = target.constrain(z)
        np.testing.assert_allclose(values["x"], link(u), rtol=1e-12)
        np.testing.assert_allclose(target.unconstrain(values), z, atol=1e-9)
        step = 1e-6 * np.eye(5)[2:]
        slope = (target.constrain(z + step)["x"] - target.constrain(z - step)["x"]).diagonal() / 2e-6
        expected = float(model().log_joint(values)) + z[1] + np.log(np.abs(slope)).sum()
        assert float(target.log_density(z)) == pytest.approx(expected, rel=1e-7)


def test_a_masked_log_normal_counts_by_its_map_alone_where_it_is_masked(x64):
    @vb.model
    def model():
        tau = vb.sample("tau", dist.HalfNormal(1.0))
        vb.sample("x", dist.LogNormal(0.0, tau).mask(np.array([True, False])))

    z, scale = np.array([-0.3, 0.8, 1.1]), np.exp(-0.3)
    expected = st.halfnorm.logpdf(scale) - 0.3 + st.norm.logpdf(0.8) + np.log(scale) + scale * 1.1
    assert float(vb.target(decenter(model())).log_density(z)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["auto", "full_rank"])
def test_a_log_normal_and_the_exponential_of_a_normal_are_fitted_alike(guide):
    def written(law, value):
        @vb.model
        def model(y):
            loc, tau = vb.sample("loc", dist.Normal(0.0, 1.0)), vb.sample("tau", dist.HalfNormal(1.0))
            with vb.plate("row", len(y)):
                vb.sample("y", dist.Poisson(3 * value(vb.sample("x", law(loc, tau)))), obs=y)

        return vb.fit(model(np.array([1, 3, 8, 2])), guide)

    one, other = written(dist.LogNormal, lambda x: x), written(dist.Normal, jnp.exp)
    assert one.check().log_evidence == pytest.approx(other.check().log_evidence, abs=0.02)
    assert one.elbo.value == pytest.approx(other.elbo.value, abs=0.02)
    assert type(one.guide) is type(other.guide)
    for name in ("loc", "tau"):
        assert one.mean()[name] == pytest.approx(other.mean()[name], abs=0.02 * other.sd()[name])
