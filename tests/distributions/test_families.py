"""Families of which few numbers are asked for elsewhere, all in one program, against NumPyro and SciPy; and guests."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as theirs
import pytest
from mpmath import mp
from quick import jit
from scipy import special, stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.distributions.interop import as_bijector, as_distribution

TRIL = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, -0.6, 0.8]])
SCALE, MATRIX = TRIL @ TRIL.T, TRIL @ TRIL.T + 0.3 * np.eye(3)
MAP = np.array([[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 1], [0, 0, 1, 0.0]])
ONE, TWO, THREE = np.array([0.2, 0.5]), np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 9.0]]), np.array([-0.9, 0.3, 2.9])
COUNTS, WEIGHTS = np.arange(4), np.array([0.3, 0.7])

# What both libraries have under one name, the arguments, and where to ask.
BOTH = {
    "OrderedLogistic": (lambda d: d.OrderedLogistic(0.3, np.array([-1.0, 0.5, 2.0])), COUNTS),
    "DiscreteUniform": (lambda d: d.DiscreteUniform(2, 6), COUNTS + 2),
    "ZeroInflatedPoisson": (lambda d: d.ZeroInflatedPoisson(0.3, 2.0), COUNTS),
    "ZeroInflatedNegativeBinomial2": (lambda d: d.ZeroInflatedNegativeBinomial2(2.0, 3.0, gate_logits=0.3), COUNTS),
    "Kumaraswamy": (lambda d: d.Kumaraswamy(2.0, 0.7), ONE),
    "VonMises": (lambda d: d.VonMises(0.5, 2.0), THREE),
    "AsymmetricLaplace": (lambda d: d.AsymmetricLaplace(0.5, 2.0, 0.7), THREE),
    "DirichletMultinomial": (lambda d: d.DirichletMultinomial(np.array([1.0, 2.0, 0.5]), 7), np.array([1, 4, 2])),
    "MultivariateStudentT": (lambda d: d.MultivariateStudentT(4.0, np.ones(3), TRIL), TWO),
    "LowRank": (lambda d: d.LowRankMultivariateNormal(np.ones(3), TRIL[:, :2], 0.5 * np.ones(3)), TWO),
    "MatrixNormal": (lambda d: d.MatrixNormal(np.ones((2, 3)), TRIL[:2, :2], TRIL), TWO),
    "Wishart": (lambda d: d.Wishart(5.0, SCALE), MATRIX),
    "InverseWishart": (lambda d: d.InverseWishart(5.0, SCALE), MATRIX),
    "GaussianRandomWalk": (lambda d: d.GaussianRandomWalk(0.5, 3), TWO),
    "CAR": (lambda d: d.CAR(np.ones(4), 0.7, 2.0, MAP), np.arange(4.0)),
    "ZeroSumNormal": (lambda d: d.ZeroSumNormal(0.5, (2, 3)), np.array([[1.0, -2.0, 1.0], [-1.0, 2.0, -1.0]])),
    "NegativeBinomial probs": (lambda d: d.NegativeBinomial(3.0, probs=0.3), COUNTS),
    "NegativeBinomial logits": (lambda d: d.NegativeBinomial(3.0, logits=0.3), COUNTS),
    "BetaProportion": (lambda d: d.BetaProportion(0.3, 4.0), ONE),
    "LogUniform": (lambda d: d.LogUniform(0.1, 4.0), ONE),
    "TruncatedCauchy": (lambda d: d.TruncatedCauchy(0.5, 2.0, low=-1.0, high=3.0), THREE),
    "Mixture": (lambda d: d.Mixture(d.Categorical(WEIGHTS), [d.Normal(0.0, 1.0), d.Laplace(1.0, 2.0)]), THREE),
    "BernoulliLogits": (lambda d: d.BernoulliLogits(0.3), COUNTS[:2]),
    "BinomialProbs": (lambda d: d.BinomialProbs(0.3, 5), COUNTS),
    "CategoricalLogits": (lambda d: d.CategoricalLogits(np.array([0.3, 0.1, 1.0])), COUNTS[:3]),
    "MultinomialProbs": (lambda d: d.MultinomialProbs(WEIGHTS, 7), np.array([3, 4])),
    "GeometricLogits": (lambda d: d.GeometricLogits(0.3), COUNTS),
}


def test_densities_are_numpyros():
    pairs = {name: (make(dist), make(theirs), x) for name, (make, x) in BOTH.items()}
    found = jit(lambda: {name: ours.log_prob(x) for name, (ours, _, x) in pairs.items()})()
    expected = jit(lambda: {name: other.log_prob(x) for name, (_, other, x) in pairs.items()})()
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-5, atol=1e-5, err_msg=name)


TAILED = {
    "LogLogistic": (dist.LogLogistic(2.0, 3.0), stats.fisk(3.0, scale=2.0), [0.0, 0.5, 2.0, 40.0]),
    "LogUniform": (dist.LogUniform(0.5, 4.0), stats.loguniform(0.5, 4.0), [0.6, 2.0, 3.9]),
}


def test_a_log_uniform_has_its_moments():
    high = np.array([0.5001, 1.3, 3.7, 4e5])
    means, variances = jit(lambda d: (d.mean, d.variance))(dist.LogUniform(0.5, high))
    for top, mean, variance in zip(map(mp.mpf, high), means, variances):
        width = mp.log(top / 0.5)
        right = (top - 0.5) / width
        np.testing.assert_allclose(mean, float(right), rtol=2e-6)
        # The bounds' logarithms round to 6e-8, which of a width of 2e-4 is 3e-4.
        rtol = 1e-3 if top < 1 else 5e-6
        np.testing.assert_allclose(variance, float((top**2 - 0.25) / (2 * width) - right**2), rtol=rtol)


def test_a_negative_binomial_of_far_logits_has_its_density_and_slope():
    def density(logits, x):
        return dist.NegativeBinomialLogits(2.5, logits).log_prob(x)

    def exact(logits, x):  # log C(x + r - 1, x) + r log(1 - p) + x log p
        log_p, log_rest = -mp.log1p(mp.exp(-mp.mpf(logits))), -mp.log1p(mp.exp(mp.mpf(logits)))
        return float(mp.log(mp.binomial(x + 1.5, x)) + 2.5 * log_rest + x * log_p)

    logits, x = np.array([0.5, -100.0, -100.0, -500.0, 100.0, 500.0]), np.array([4, 0, 3, 1, 5, 0])
    values, slopes = jit(jax.vmap(jax.value_and_grad(density)))(logits, x)
    with mp.workdps(300):
        right = [exact(*each) for each in zip(logits.tolist(), x.tolist())]
    np.testing.assert_allclose(values, right, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        slopes, x - (x + 2.5) * special.expit(logits), rtol=1e-5, atol=1e-37
    )  # the least of 32 bits


@pytest.mark.slow
def test_a_negative_binomial_of_logits_is_fitted_at_any_positive_count():
    y = np.array([1, 2, 0, 5, 3, 1])

    @vb.model
    def counts(y, r=None):
        a = vb.sample("a", dist.Normal(0.0, 1.0))
        r = vb.sample("r", dist.LogNormal(0.0, 0.5)) if r is None else r
        with vb.plate("row", 6):
            vb.sample("y", dist.NegativeBinomial(r, logits=a), obs=y)

    def posterior(x, r):  # on a grid: the density of each count is SciPy's, whose p is that of tails
        likelihood = stats.nbinom.logpmf(y, r[..., None], special.expit(-x)[..., None]).sum(-1)
        return likelihood + stats.norm.logpdf(x)

    grid = np.linspace(-5, 5, 2001)
    weight = np.exp(posterior(grid, np.full(2001, 2.5)))
    mean = (grid * weight).sum() / weight.sum()
    found = vb.fit(counts(y, 2.5))
    np.testing.assert_allclose(found.mean()["a"], mean, atol=5e-3)
    assert "NegativeBinomialLogits" in str(counts(y, 2.5).shapes())
    x, r = np.meshgrid(np.linspace(-5, 4, 301), np.exp(np.linspace(-3, 3, 301)), indexing="ij")
    weight = np.exp(posterior(x, r) + stats.lognorm.logpdf(r, 0.5)) * r  # by log r
    assert vb.fit(counts(y)).mean()["a"] == pytest.approx((x * weight).sum() / weight.sum(), abs=0.03)


@pytest.mark.parametrize("name", TAILED)
def test_a_monotone_function_of_a_number_has_the_tails_and_quantiles_of_it(name):
    ours, exact, x = TAILED[name]
    x, q = np.array(x), np.array([0.1, 0.5, 0.9])
    cdf, below, above, quantiles = jit(lambda x: (ours.cdf(x), ours.log_cdf(x), ours.log_survival(x), ours.icdf(q)))(x)
    np.testing.assert_allclose(cdf, exact.cdf(x), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(below, exact.logcdf(x), rtol=2e-5)
    np.testing.assert_allclose(above, exact.logsf(x), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(quantiles, exact.ppf(q), rtol=1e-5)


def test_a_falling_function_turns_the_tails():
    d = dist.TransformedDistribution(dist.Exponential(2.0), dist.transforms.AffineTransform(3.0, -1.0))
    np.testing.assert_allclose(d.cdf(2.0), np.exp(-2.0), rtol=1e-5)
    np.testing.assert_allclose(d.icdf(np.exp(-2.0)), 2.0, rtol=1e-5)


def test_what_sums_to_zero_goes_there_and_back_without_stretching():
    for dims, shape in [(1, (2, 4)), (2, (2, 3, 5))]:
        support = dist.constraints.zero_sum(dims)
        z = np.random.default_rng(0).normal(size=support.unconstrained_shape(shape)).astype("f4")
        x, log_det = support.forward_and_log_det(z)
        assert x.shape == shape and support.constrained_shape(z.shape) == shape and not np.any(log_det)
        for axis in range(-dims, 0):
            np.testing.assert_allclose(x.sum(axis), 0.0, atol=1e-5)
        np.testing.assert_allclose(support.inverse(x), z, atol=1e-5)
        np.testing.assert_allclose(np.sum(x**2), np.sum(z**2), rtol=1e-5)
        assert np.all(support.check(x)) and not np.any(support.check(x + 0.1))


@vb.model
def graded(x, y):
    slope = vb.sample("slope", dist.Normal(0.0, 2.0))
    cut = vb.sample(
        "cut", dist.TransformedDistribution(dist.Normal(np.zeros(2), 3.0), dist.transforms.OrderedTransform())
    )
    effect = vb.sample("effect", dist.ZeroSumNormal(1.0, (3,)))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.OrderedLogistic(slope * x + effect[0], cut), obs=y)


@pytest.mark.slow
def test_a_model_of_grades_is_fitted_and_predicted():
    rng = np.random.default_rng(0)
    x = rng.normal(size=300)
    y = np.digitize(1.5 * x + rng.logistic(size=300), [-1.0, 1.0])
    posterior = vb.fit(graded(x, y))
    assert abs(posterior.mean()["slope"] - 1.5) < 0.5
    np.testing.assert_allclose(posterior.mean()["effect"].sum(), 0.0, atol=1e-4)
    assert set(np.unique(posterior.predict()["y"])) == {0, 1, 2}


@vb.model
def guest(y):
    shape = vb.sample("shape", dist.HalfNormal(1.0))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Gompertz(shape, 1.0), obs=y)


def test_what_only_numpyro_has_is_a_guest_under_our_name(monkeypatch):
    assert dist.Gompertz is theirs.Gompertz and "Gompertz" not in dist.__all__
    y = np.array([0.3, 1.0])
    expected = stats.halfnorm.logpdf(0.5) + theirs.Gompertz(0.5, 1.0).log_prob(y).sum()
    np.testing.assert_allclose(guest(y).log_joint({"shape": 0.5}), expected, rtol=1e-5)
    with pytest.raises(AttributeError) as told:
        dist.Nrmal  # noqa: B018
    assert str(told.value) == (
        "neither vbppl.distributions nor NumPyro's have Nrmal.\n  To mend it: Did you mean dist.Normal?"
    )
    monkeypatch.setitem(sys.modules, "numpyro.distributions", None)
    with pytest.raises(AttributeError) as told:
        dist.Gompertz  # noqa: B018
    assert str(told.value) == (
        "vbppl.distributions has no Gompertz of its own, and NumPyro, whose distributions serve too, is not here.\n"
        "  To mend it: See dist.__all__ for those that there are. Or: pip install numpyro"
    )
    assert not hasattr(dist, "gompertz")


def test_angles_and_factors_of_guests_have_supports():
    pair = dist.SineBivariateVonMises(0.0, 0.0, 1.0, 1.0, 0.5)
    assert str(as_distribution(pair, "x").support) == f"independent(interval({-np.pi}, {np.pi}), 1)"
    assert str(as_bijector(theirs.constraints.softplus_lower_cholesky)) == "lower_cholesky"


def refused(make):
    with pytest.raises((vb.ModelError, TypeError)) as told:
        make()
    return str(told.value)


def test_what_does_not_fit_together_is_told():
    assert refused(lambda: dist.OrderedLogistic(0.0, 1.0)) == (
        "the cutpoints of OrderedLogistic are one number.\n"
        "  To mend it: Give a vector of them, one less than there are classes: dist.Normal(0, 3).expand((4,)) through "
        "dist.transforms.OrderedTransform()."
    )
    assert refused(lambda: dist.ZeroInflatedDistribution(dist.Normal(), 0.1)) == (
        "the base_dist of ZeroInflatedDistribution is Normal, which is not one of counts.\n"
        "  To mend it: Write ZeroInflatedDistribution(dist.Poisson(rate), gate=0.1)."
    )
    assert refused(lambda: dist.ZeroSumNormal(1.0, (1,))) == (
        "the event_shape of ZeroSumNormal is (1,); its numbers have a sum of zero.\n"
        "  To mend it: Give at least two numbers along each axis: event_shape=(5,)."
    )
    assert refused(lambda: dist.MixtureGeneral(dist.Categorical(WEIGHTS), [dist.Normal()])) == (
        "there are 2 weights of a mixture, and 1 components.\n"
        "  Normal: event ()\n"
        "  To mend it: Give a weight for each component, and components with events of one shape."
    )
    assert refused(lambda: dist.NegativeBinomial(3.0)) == (
        "NegativeBinomial takes exactly one of probs, logits.\n"
        "  To mend it: Write NegativeBinomial(total_count, probs=...)."
    )
    mixed = dist.MixtureGeneral(dist.Categorical(WEIGHTS), [dist.Normal(), dist.Exponential()])
    assert str(mixed.support) == "real"
    assert jax.eval_shape(mixed.sample, jax.random.key(0)).shape == () and jnp.isfinite(mixed.log_prob(-1.0))


ZERO = [dist.NegativeBinomial2(0.0, 2.0), dist.NegativeBinomialProbs(3.0, probs=0.0)]


@pytest.mark.parametrize("one", ZERO, ids=["mean", "probs"])
def test_negative_binomials_of_mean_zero_are_zero(one):
    """NaN before: the rate of the Gamma is infinite, and so were its slopes where an exposure is 0."""
    np.testing.assert_array_equal(jax.jit(lambda d: d.log_prob(np.array([0, 3])))(one), [0.0, -np.inf])
    assert one.mean == 0


@pytest.mark.slow
@pytest.mark.parametrize("one", ZERO, ids=["mean", "probs"])
def test_tails_and_draws_of_negative_binomials_of_mean_zero(one):
    found = jax.jit(lambda d: (d.cdf(0), d.log_cdf(0), d.log_survival(0), d.sample(jax.random.key(0))))(one)
    np.testing.assert_array_equal(found, [1.0, 0.0, -np.inf, 0.0])


def test_the_slopes_of_a_negative_binomial_at_mean_zero():
    # p(0) = (a / (a + m))^a, whose slopes at m = 0 are -1 in m and 0 in a.
    slopes = jax.jit(jax.grad(lambda m, a: dist.NegativeBinomial2(m, a).log_prob(0), (0, 1)))(0.0, 2.0)
    np.testing.assert_allclose(slopes, [-1.0, 0.0])
