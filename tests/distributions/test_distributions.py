"""Every distribution against SciPy, against quadrature, and against its own draws."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import jit
from scipy import special, stats

import vbppl.distributions as dist
from vbppl.core.errors import ModelError
from vbppl.core.pytree import pytree
from vbppl.distributions.transforms import AffineTransform, ExpTransform, StickBreakingTransform

DRAWS = 20_000
REAL = np.array([-7.0, -1.3, 0.0, 0.4, 2.5, 30.0])
POSITIVE = np.array([1e-3, 0.2, 1.0, 2.7, 15.0, -1.0])
UNIT = np.array([1e-3, 0.3, 0.5, 0.9, -0.1, 1.1])
COUNTS = np.array([0, 1, 2, 5, 17, -1])

# Our distribution, SciPy's, and where to compare them.
CONTINUOUS = {
    "Normal": (dist.Normal(0.5, 2.0), stats.norm(0.5, 2.0), REAL),
    "StudentT": (dist.StudentT(9.0, 0.5, 2.0), stats.t(9.0, 0.5, 2.0), REAL),
    "Cauchy": (dist.Cauchy(0.5, 2.0), stats.cauchy(0.5, 2.0), REAL),
    "Laplace": (dist.Laplace(0.5, 2.0), stats.laplace(0.5, 2.0), REAL),
    "Logistic": (dist.Logistic(0.5, 2.0), stats.logistic(0.5, 2.0), REAL),
    "Gumbel": (dist.Gumbel(0.5, 2.0), stats.gumbel_r(0.5, 2.0), REAL),
    "LogNormal": (dist.LogNormal(0.5, 0.4), stats.lognorm(0.4, scale=np.exp(0.5)), POSITIVE),
    "HalfNormal": (dist.HalfNormal(2.0), stats.halfnorm(scale=2.0), POSITIVE),
    "HalfCauchy": (dist.HalfCauchy(2.0), stats.halfcauchy(scale=2.0), POSITIVE),
    "Exponential": (dist.Exponential(2.0), stats.expon(scale=0.5), POSITIVE),
    "Gamma": (dist.Gamma(2.5, 3.0), stats.gamma(2.5, scale=1 / 3.0), POSITIVE),
    "Gamma below one": (dist.Gamma(0.3, 3.0), stats.gamma(0.3, scale=1 / 3.0), POSITIVE),
    "InverseGamma": (dist.InverseGamma(9.0, 3.0), stats.invgamma(9.0, scale=3.0), POSITIVE),
    "Chi2": (dist.Chi2(3), stats.chi2(3), POSITIVE),
    "Weibull": (dist.Weibull(2.0, 1.5), stats.weibull_min(1.5, scale=2.0), POSITIVE),
    "Pareto": (dist.Pareto(0.5, 9.0), stats.pareto(9.0, scale=0.5), np.array([0.5, 0.6, 3.0, 0.4])),
    "Uniform": (dist.Uniform(0.2, 1.0), stats.uniform(0.2, 0.8), UNIT),
    "Beta": (dist.Beta(2.5, 0.7), stats.beta(2.5, 0.7), UNIT),
    "TruncatedNormal": (
        dist.TruncatedNormal(0.5, 2.0, low=-1.0, high=1.5),
        stats.truncnorm(-0.75, 0.5, 0.5, 2.0),
        np.array([-1.0, 0.0, 1.5, -1.1, 2.0]),
    ),
    "TruncatedNormal far out": (
        dist.TruncatedNormal(0.0, 1.0, low=4.0),
        stats.truncnorm(4.0, np.inf),
        np.array([4.0, 4.5, 9.0, 3.9]),
    ),
    "TruncatedNormal above": (
        dist.TruncatedNormal(0.0, 1.0, high=-1.0),
        stats.truncnorm(-np.inf, -1.0),
        np.array([-1.0, -4.5, 0.0]),
    ),
    "Transformed": (
        dist.TransformedDistribution(dist.Normal(0.0, 1.0), [AffineTransform(0.5, -0.4), ExpTransform()]),
        stats.lognorm(0.4, scale=np.exp(0.5)),
        POSITIVE,
    ),
    "Independent": (dist.Normal(0.5, 2.0).expand((1,)).to_event(0).expand((1,)), stats.norm(0.5, 2.0), REAL),
}
DISCRETE = {
    "Bernoulli": (dist.Bernoulli(0.3), stats.bernoulli(0.3), COUNTS),
    "Bernoulli logits": (dist.Bernoulli(logits=1.2), stats.bernoulli(1 / (1 + np.exp(-1.2))), COUNTS),
    "Binomial": (dist.Binomial(7, 0.3), stats.binom(7, 0.3), COUNTS),
    "Binomial logits": (dist.Binomial(7, logits=0.3), stats.binom(7, 1 / (1 + np.exp(-0.3))), COUNTS),
    "Categorical": (
        dist.Categorical([0.2, 0.5, 0.3]),
        stats.rv_discrete(values=([0, 1, 2], [0.2, 0.5, 0.3])),
        COUNTS,
    ),
    "Geometric": (dist.Geometric(0.3), stats.geom(0.3, loc=-1), COUNTS),
    "Geometric logits": (dist.Geometric(logits=0.3), stats.geom(1 / (1 + np.exp(-0.3)), loc=-1), COUNTS),
    "Poisson": (dist.Poisson(3.5), stats.poisson(3.5), COUNTS),
    "NegativeBinomial2": (dist.NegativeBinomial2(3.0, 2.0), stats.nbinom(2.0, 2.0 / 5.0), COUNTS),
    "GammaPoisson": (dist.GammaPoisson(2.0, 0.5), stats.nbinom(2.0, 1 / 3), COUNTS),
    "BetaBinomial": (dist.BetaBinomial(2.0, 3.0, 7), stats.betabinom(7, 2.0, 3.0), COUNTS),
}
CASES = CONTINUOUS | DISCRETE
HEAVY = {"Cauchy", "HalfCauchy"}
PROBABILITIES = [0.1, 0.5, 0.8]
Z = {"real": np.sinh(np.linspace(-20, 20, 8001)), "bounded": np.linspace(-60, 60, 8001)}

# The samplers of these take long to compile, and have a sibling that is drawn in the fast suite.
SLOW = {"InverseGamma", "Chi2", "Gamma below one", "GammaPoisson", "BetaBinomial", "Binomial logits"}
SLOW |= {
    "Beta",
    "Binomial",
    "NegativeBinomial2",
    "StudentT",
    "Geometric logits",
    "Bernoulli logits",
    "TruncatedNormal above",
    "Independent",
}


def with_slow(names, slow=frozenset(SLOW)):
    """The names, those of slow cases marked."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in names]


log_prob = jit(lambda d, x: d.log_prob(x))


@jit
def log_density_in_z(d, z):
    x, log_det = d.support.forward_and_log_det(z)
    return d.log_prob(x) + log_det


@jit
def examine(d, points, grid):
    """All that the tests of one case ask of it but draws, in one program; a discrete `grid` is of values."""
    x, log_det = (grid, 0.0) if d.is_discrete else d.support.forward_and_log_det(grid)
    log_probs = d.log_prob(jnp.concatenate([points, x]))
    found = {"log_prob": log_probs[: len(points)], "log_density": log_probs[len(points) :] + log_det}
    for name, where in {"mean": (), "variance": (), "cdf": (points,), "icdf": (np.array(PROBABILITIES),)}.items():
        try:
            value = getattr(d, name)
            found[name] = value(*where) if where else value
        except NotImplementedError as error:
            assert "no closed form" in str(error)
    return found


# Second ways into a class whose first one is in the fast suite.
SIBLINGS = {"Gamma below one", "Binomial logits", "Geometric logits", "TruncatedNormal above", "Independent"}


@pytest.fixture(scope="module", params=with_slow(CASES, SIBLINGS))
def case(request):
    """A case with its examination in float64; the tests of one case stand together, so it is made once."""
    ours, theirs, points = CASES[request.param]
    grid = np.arange(-2, 400) if ours.is_discrete else Z["real" if str(ours.support) == "real" else "bounded"]
    with jax.enable_x64(True):
        found = jax.tree.map(np.asarray, examine(ours, points.astype(float), grid))
    return SimpleNamespace(name=request.param, ours=ours, theirs=theirs, points=points, grid=grid, **found)


@functools.partial(jit, static_argnums=2)
def sample(d, key, shape=()):
    return d.sample(key, shape)


def test_the_density_has_mass_one_through_its_support(case):
    density = np.exp(case.log_density)
    mass = density.sum() if case.ours.is_discrete else np.trapezoid(density, case.grid)
    np.testing.assert_allclose(mass, 1.0, atol=1e-6 if case.ours.is_discrete else 1e-5)


def test_moments_and_quantiles_are_scipys(case):
    if case.name not in HEAVY | {"Transformed", "Categorical"}:
        moments = np.ravel([case.mean, case.variance])
        np.testing.assert_allclose(moments, [case.theirs.mean(), case.theirs.var()], rtol=2e-4)
    for name, reference in {"cdf": case.theirs.cdf(case.points), "icdf": case.theirs.ppf(PROBABILITIES)}.items():
        if hasattr(case, name):
            np.testing.assert_allclose(getattr(case, name), reference, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_slope_of_draws_far_out_is_that_of_their_mean(x64):
    """Moved by `loc`, the mean moves by `1 - (1 - variance / scale^2)` of it."""
    slope = jax.grad(lambda loc: jnp.mean(dist.TruncatedNormal(loc, 1.0, 13.0).sample(jax.random.key(0), (5000,))))(0.0)
    np.testing.assert_allclose(slope, stats.truncnorm(13.0, np.inf).var(), rtol=0.1)


@pytest.mark.parametrize("concentration", [0.3, 1, 4.0])
def test_a_gamma_of_a_known_concentration_is_scipys(concentration):
    """What is a number in the program's text, and not one that is computed with, has a shorter formula."""
    x = np.geomspace(1e-4, 50.0, 60).astype(np.float32)
    value, slope = jit(jax.vmap(jax.value_and_grad(dist.Gamma(concentration, 0.5).log_prob)))(x)
    there = x.astype(np.float64)
    terms = concentration * np.abs(np.log(0.5 * there)) + there / 2 + np.abs(np.log(there)) + 1
    exact = stats.gamma(concentration, scale=2.0).logpdf(there)
    np.testing.assert_array_less(np.abs(value - exact), 2 * np.finfo(np.float32).eps * terms)
    exact = (concentration - 1) / there - 0.5
    np.testing.assert_array_less(np.abs(slope - exact), 4 * np.finfo(np.float32).eps * (1 + concentration / there))


@pytest.mark.slow
def test_the_slopes_of_a_beta_binomial_are_those_of_its_gamma_functions(x64):
    """By the total and the count too, which are whole as a rule, and the second ones by the concentrations."""
    at = n, a, b, x = 20.0, 2.5, 0.7, 6.0

    def density(n, a, b, x):
        return dist.BetaBinomial(a, b, n)._log_density(x)

    psi = special.digamma
    by_total = psi(n + 1) - psi(n - x + 1) + psi(n - x + b) - psi(n + a + b)
    by_a = psi(x + a) - psi(n + a + b) - psi(a) + psi(a + b)
    by_b = psi(n - x + b) - psi(n + a + b) - psi(b) + psi(a + b)
    by_count = psi(n - x + 1) - psi(x + 1) + psi(x + a) - psi(n - x + b)
    np.testing.assert_allclose(jax.grad(density, range(4))(*at), [by_total, by_a, by_b, by_count], rtol=1e-12)
    second = jax.grad(jax.grad(density, 1), (1, 2))(*at)
    psi_1 = functools.partial(special.polygamma, 1)
    shared = psi_1(a + b) - psi_1(n + a + b)
    np.testing.assert_allclose(second, [shared + psi_1(x + a) - psi_1(a), shared], rtol=1e-11)
    # Of a concentration whose square is no number only what is finite: psi(x + a) and psi(a) are equal.
    slopes = jax.grad(density, (1, 2))(n, 1e-170, b, 0.0)
    np.testing.assert_allclose(slopes, [psi(b) - psi(n + b), 0.0], rtol=1e-12, atol=1e-15)


def test_a_support_holds_the_bounds_at_which_its_density_is_finite():
    for d, bound in [(dist.TruncatedNormal(0.0, 1.0, low=2.0), 2.0), (dist.Pareto(0.5, 9.0), 0.5)]:
        assert d.support.check(bound) and np.isfinite(d.log_prob(bound)) and not d.support.check(bound - 0.1)
    assert dist.TruncatedNormal(0.0, 1.0, high=-1.0).support.check(-1.0)


@pytest.mark.parametrize("x", [0, 3, 9])
def test_a_count_of_heads_is_exact_in_64_bits(x, x64):
    np.testing.assert_allclose(dist.Binomial(9, 0.9).log_prob(x), stats.binom(9, 0.9).logpmf(x), rtol=1e-13)


LEVELS = np.array([1e-3, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
LARGE_AND_SMALL = [0.5, 2.0, 10.0, 29.0, 31.0, 100.0, 3e3, 1e5, 1e6, 1e7]


@pytest.mark.parametrize("bits", [32, pytest.param(64, marks=pytest.mark.slow)])
def test_distribution_functions_keep_their_places_at_large_concentrations(bits):
    """JAX's own were off by 0.5 at 1e6, and no probabilities at 1e7."""
    dtype, eps = (np.float32, 2e-4) if bits == 32 else (np.float64, 1e-8)
    one = [(a, stats.gamma(a)) for a in LARGE_AND_SMALL]
    both = [(a, b, stats.beta(a, b)) for a in LARGE_AND_SMALL for b in LARGE_AND_SMALL if min(a, b) < 1e6]
    with jax.enable_x64(bits == 64):
        gamma = jit(jax.vmap(lambda a, x: (dist.Gamma(a).cdf(x), 1 - dist.InverseGamma(a).cdf(1 / x))))
        beta = jit(jax.vmap(lambda a, b, x: dist.Beta(a, b).cdf(x)))
        for function, cases in ((gamma, one), (beta, both)):
            x = np.array([np.clip(case[-1].ppf(LEVELS), 1e-30, 1 - 1e-6 if len(case) == 3 else None) for case in cases])
            x = x.astype(dtype)
            right = np.array([case[-1].cdf(each.astype(float)) for case, each in zip(cases, x)])
            columns = [np.array(column, dtype) for column in zip(*(case[:-1] for case in cases))]
            found = function(*columns, x)
            for each in np.reshape(found, (-1, *x.shape)):
                off = np.abs(each - right)
                assert off.max() < eps, (off.max(), cases[int(off.max(axis=1).argmax())])


@pytest.mark.slow
@pytest.mark.parametrize("shape", [2.0, 500.0])
def test_the_slope_of_a_distribution_function_is_the_density(shape, x64):
    for d, x in [(dist.Gamma(shape), shape * 1.02), (dist.Beta(shape, 2 * shape), 0.34), (dist.Beta(2.0, shape), 0.01)]:
        np.testing.assert_allclose(jax.grad(d.cdf)(x), np.exp(d.log_prob(x)), rtol=1e-5)


def test_a_mean_of_many_classes_is_cheap_and_does_not_ask_for_the_variance():
    """Of K classes the sums of all others took K^2 numbers: 16 GB here."""
    classes = 20_000
    for d, mean in [
        (dist.Dirichlet(np.ones((10, classes))), 1 / classes),
        (dist.Multinomial(10, np.full(classes, 1 / classes)), 10 / classes),
    ]:
        np.testing.assert_allclose(d.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(
        dist.Dirichlet(np.ones((10, classes))).variance, (1 - 1 / classes) / classes / (classes + 1), rtol=1e-5
    )
    np.testing.assert_allclose(d.variance, 10 / classes * (1 - 1 / classes), rtol=1e-5)

    class Mean(dist.Normal):
        def _moments(self):
            return self.loc, lambda: 1 / 0

    one = pytree(Mean)(2.0, 1.0)
    several = one.expand((3,))
    mixed = dist.MixtureSameFamily(dist.Categorical(np.full(3, 1 / 3)), several)
    moved = dist.TransformedDistribution(several.to_event(), AffineTransform(1.0, 2.0))
    for d, mean in [(one, 2.0), (several.to_event().mask(True), 2.0), (mixed, 2.0), (moved, 5.0)]:
        np.testing.assert_allclose(d.mean, mean)
        with pytest.raises(ZeroDivisionError):
            d.variance  # noqa: B018


def test_a_correlation_has_the_moments_of_its_beta(x64):
    marginal = stats.beta(1.7 + 1.0, 1.7 + 1.0, loc=-1, scale=2)
    d = dist.LKJ(4, 1.7)
    np.testing.assert_allclose(d.mean, np.eye(4))
    np.testing.assert_allclose(d.variance, marginal.var() * (1 - np.eye(4)), rtol=1e-12)


def grid(support, dims, far, points):
    axis = np.linspace(-far, far, points)
    z = np.stack(np.meshgrid(*[axis] * dims, indexing="ij"), -1).reshape(-1, dims)
    return z, (axis[1] - axis[0]) ** dims


@pytest.mark.parametrize(
    "d, dims, far, points",
    [
        (dist.Dirichlet([2.0, 0.7, 1.5]), 2, 30.0, 400),
        (dist.LKJCholesky(3, 1.7), 3, 7.0, 71),
        (dist.LKJ(3, 1.0), 3, 8.0, 71),
        (dist.LKJCholesky(2, 0.5), 1, 30.0, 4001),
        (dist.MultivariateNormal([1.0, 0.0], [[2.0, 0.6], [0.6, 1.0]]), 2, 12.0, 241),
        (
            dist.TransformedDistribution(
                dist.Normal(np.zeros(2), 1.0), [AffineTransform(1.0, 0.5), StickBreakingTransform()]
            ),
            2,
            6.0,
            121,
        ),
        (
            dist.MixtureSameFamily(dist.Categorical([0.2, 0.8]), dist.Normal([-1.0, 2.0], [0.5, 1.0])),
            0,
            12.0,
            2001,
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_multivariate_densities_integrate_to_one_through_their_support(d, dims, far, points, x64):
    z, cell = grid(d.support, max(dims, 1), far, points)
    z = z if dims else z[:, 0]
    np.testing.assert_allclose(np.sum(np.exp(log_density_in_z(d, z))) * cell, 1.0, atol=2e-4)


PRECISION = np.array([[2.0, 0.5, 0.1], [0.5, 1.0, 0.2], [0.1, 0.2, 1.5]])
COVARIANCE = np.linalg.inv(PRECISION)


@pytest.mark.parametrize(
    "given",
    [
        {"covariance_matrix": COVARIANCE},
        {"precision_matrix": PRECISION},
        {"scale_tril": np.linalg.cholesky(COVARIANCE)},
    ],
    ids=lambda given: next(iter(given)),
)
def test_a_normal_vector_is_scipys_whichever_matrix_is_given(given, x64):
    d = dist.MultivariateNormal(np.arange(3.0), **given)
    x = np.random.default_rng(0).normal(size=(4, 3))
    reference = stats.multivariate_normal(np.arange(3.0), COVARIANCE)
    np.testing.assert_allclose(log_prob(d, x), reference.logpdf(x), rtol=1e-9)
    stack = dist.MultivariateNormal(np.arange(3.0), **{name: np.stack([value] * 4) for name, value in given.items()})
    np.testing.assert_allclose(log_prob(stack, x), reference.logpdf(x), rtol=1e-9)
    draws = np.asarray(sample(d, jax.random.key(0), (DRAWS,)))
    np.testing.assert_allclose(np.cov(draws.T), COVARIANCE, atol=6 * COVARIANCE.max() / np.sqrt(DRAWS))
    np.testing.assert_allclose(d.variance, np.diag(COVARIANCE), rtol=1e-9)


def test_dirichlet_and_multinomial_are_scipys(x64):
    weights = np.array([0.2, 0.5, 0.3])
    alpha = np.array([2.0, 0.7, 1.5])
    np.testing.assert_allclose(
        log_prob(dist.Dirichlet(alpha), weights), stats.dirichlet(alpha).logpdf(weights), rtol=1e-9
    )
    counts = np.array([[1, 4, 2], [0, 7, 0], [1, 1, 1]])
    reference = stats.multinomial(7, weights).logpmf(counts)
    for given in ({"probs": weights}, {"logits": np.log(weights) + 3.0}):
        d = dist.Multinomial(7, **given)
        np.testing.assert_allclose(log_prob(d, counts), reference, rtol=1e-9)


def coin(logits):
    return dist.Bernoulli(logits=logits)


def coins(logits):
    return dist.Binomial(5, logits=logits)


def choice(p):
    return dist.Categorical(jnp.stack([p, 1.0 - p]))


def tail(loc):
    return dist.TruncatedNormal(loc, 1.0, low=9.0)


def mixed(rate):
    return dist.MixtureSameFamily(dist.Categorical([0.5, 0.5]), dist.Exponential(rate * jnp.ones(2)))


def transformed(loc):
    return dist.TransformedDistribution(dist.Normal(loc, 1.0), ExpTransform())


# How to make a distribution, of which parameters, where to ask, and its log density there.
EDGES = {
    "Gamma(1, 1) at 0": (dist.Gamma, (1.0, 1.0), 0.0, 0.0),
    "Exponential at 0": (dist.Exponential, (2.0,), 0.0, np.log(2.0)),
    "HalfNormal at 0": (dist.HalfNormal, (1.0,), 0.0, stats.halfnorm.logpdf(0.0)),
    "HalfNormal below 0": (dist.HalfNormal, (1.0,), -1.0, -np.inf),
    "HalfCauchy far out": (dist.HalfCauchy, (1.0,), 1e25, np.log(2 / np.pi) - 50 * np.log(10)),
    "LogNormal at 0": (dist.LogNormal, (0.0, 1.0), 0.0, -np.inf),
    "Beta(1, 1) at 0": (dist.Beta, (1.0, 1.0), 0.0, 0.0),
    "Beta(1, 1) at 1": (dist.Beta, (1.0, 1.0), 1.0, 0.0),
    "Beta(2, 2) near 0": (dist.Beta, (2.0, 2.0), 1e-30, np.log(6) - 30 * np.log(10)),
    "Uniform outside": (dist.Uniform, (0.0, 1.0), 2.0, -np.inf),
    "Weibull at 0": (dist.Weibull, (1.0, 1.0), 0.0, 0.0),
    "Pareto below": (dist.Pareto, (1.0, 1.0), 0.5, -np.inf),
    "Bernoulli sure": (coin, (100.0,), 1.0, 0.0),
    "Bernoulli surprised": (coin, (-100.0,), 1.0, -100.0),
    "Bernoulli(0) of 0": (dist.Bernoulli, (0.0,), 0.0, 0.0),
    "Bernoulli(1) of 1": (dist.Bernoulli, (1.0,), 1.0, 0.0),
    "Bernoulli(0) of 1": (dist.Bernoulli, (0.0,), 1.0, -np.inf),
    "Binomial(5, 0) of 0": (functools.partial(dist.Binomial, 5), (0.0,), 0.0, 0.0),
    "Binomial logits": (coins, (100.0,), 5.0, 0.0),
    "Poisson(0) of 0": (dist.Poisson, (0.0,), 0.0, 0.0),
    "Poisson(0) of 1": (dist.Poisson, (0.0,), 1.0, -np.inf),
    "Categorical impossible": (choice, (0.0,), 0.0, -np.inf),
    "Categorical certain": (choice, (0.0,), 1.0, 0.0),
    "TruncatedNormal far out": (tail, (0.0,), 9.5, stats.truncnorm(9, np.inf).logpdf(9.5)),
    "no component": (mixed, (1.0,), -1.0, -np.inf),
    "Transformed outside": (transformed, (0.0,), -1.0, -np.inf),
}


@functools.partial(jit, static_argnums=0)
def value_and_slopes(make, parameters, x):
    return jax.value_and_grad(lambda parameters, x: make(*parameters).log_prob(x), argnums=(0, 1))(parameters, x)


@pytest.mark.parametrize("name", EDGES)
def test_gradients_are_finite_at_the_edge(name):
    make, parameters, point, expected = EDGES[name]
    value, slopes = value_and_slopes(make, parameters, point)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=2e-6)
    assert np.all(np.isfinite(jax.tree.leaves(slopes))), slopes


def test_a_density_given_on_its_support_alone_is_zero_off_it_without_a_slope():
    @pytree
    class Triangle(dist.Distribution):
        """`p(x) = 2 (1 - x)` between 0 and 1."""

        support = dist.constraints.unit_interval

        def _log_density(self, x):
            return jnp.log(2 * (1 - x))

    values, slopes = jax.vmap(jax.value_and_grad(Triangle().log_prob))(jnp.array([0.5, 3.0]))
    np.testing.assert_allclose(values, [0.0, -np.inf], atol=1e-6)
    np.testing.assert_allclose(slopes, [-2.0, 0.0], atol=1e-6)


def test_a_concentration_of_one_still_has_its_slope():
    """d/da log Gamma(x; a, 1) = log x - digamma(a), and digamma(1) = -0.57721."""
    slope = jax.grad(lambda a: dist.Gamma(a, 1.0).log_prob(2.0))(1.0)
    np.testing.assert_allclose(slope, np.log(2.0) + np.euler_gamma, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("make", [dist.Gamma, dist.Beta], ids=["Gamma", "Beta"])
def test_draws_are_differentiable_in_the_parameters(make):
    """The derivative of the mean of many draws is that of the mean."""

    @jit
    def slope(a):
        return jax.grad(lambda a: jnp.mean(make(a, 1.5).sample(jax.random.key(0), (4000,))))(a)

    reference = jax.grad(lambda a: make(a, 1.5).mean)(2.0)
    np.testing.assert_allclose(slope(2.0), reference, rtol=0.05)


SHAPES = [
    lambda d: d.Normal(np.zeros((3, 1)), np.ones(4)),
    lambda d: d.Normal(0.0, 1.0).expand((3, 4)),
    lambda d: d.Normal(np.zeros((3, 4)), 1.0).to_event(1),
    lambda d: d.Normal(np.zeros((3, 4)), 1.0).to_event(),
    lambda d: d.Normal(np.zeros(3), 1.0).to_event(1).expand((5,)),
    lambda d: d.Normal(np.zeros((1, 3)), 1.0).expand((2, 3)).to_event(1),
    lambda d: d.Normal(np.zeros((4, 1)), 1.0).expand((2, 4, 3)).to_event(2).expand_by((6,)),
    lambda d: d.Normal(np.zeros(3), 1.0).mask(np.array([True, False, True])),
    lambda d: d.Normal(0.0, 1.0).expand((3,)).mask(False),
    lambda d: d.Dirichlet(np.ones((2, 3))),
    lambda d: d.Dirichlet(np.ones(3)).expand((4, 2)),
    lambda d: d.MultivariateNormal(np.zeros((2, 3)), np.eye(3)),
    lambda d: d.MultivariateNormal(0.0, scale_tril=np.stack([np.eye(3)] * 4)),
    lambda d: d.LKJCholesky(3, np.ones(2)),
    lambda d: d.Categorical(probs=np.full((2, 4), 0.25)),
    lambda d: d.Multinomial(5, logits=np.zeros((2, 4))),
    lambda d: d.Bernoulli(logits=np.zeros(3)).to_event(1),
    lambda d: d.MixtureSameFamily(d.Categorical(np.full((2, 4), 0.25)), d.Normal(np.zeros(4), 1.0)),
    lambda d: d.MixtureSameFamily(d.Categorical(np.full(2, 0.5)), d.Normal(np.zeros((2, 3)), 1).to_event(1)),
    lambda d: d.TransformedDistribution(d.Normal(0, 1), d.transforms.AffineTransform(np.zeros(3), 1)),
    lambda d: d.TransformedDistribution(d.Normal(np.zeros((2, 3)), 1), d.transforms.StickBreakingTransform()),
    lambda d: d.Delta(np.zeros((2, 3)), event_dim=1),
    lambda d: d.ImproperUniform(d.constraints.positive, (2,), (3,)),
]


@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_shapes_and_densities_are_numpyros(number):
    numpyro = pytest.importorskip("numpyro.distributions")
    ours, theirs = SHAPES[number](dist), SHAPES[number](numpyro)
    assert (ours.batch_shape, ours.event_shape) == (theirs.batch_shape, theirs.event_shape)
    assert ours.event_dim == len(ours.event_shape) and ours.is_discrete == theirs.is_discrete
    assert ours.support.event_dim == theirs.support.event_dim
    if not isinstance(ours, dist.ImproperUniform):
        draws = jax.eval_shape(lambda key: ours.sample(key, (2,)), jax.random.key(0))
        assert draws.shape == theirs.shape((2,)) == ours.shape((2,))

        @jit
        def both(z):
            x = ours.support.feasible(draws.shape) if ours.is_discrete else ours.support.forward(z)
            return ours.log_prob(x), theirs.log_prob(x)

        z = np.random.default_rng(0).normal(size=ours.support.unconstrained_shape(draws.shape))
        np.testing.assert_allclose(*both(z), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize(
    "base",
    [
        dist.Normal(0.0, 1.0),
        dist.Normal(np.zeros((2, 1)), 1.0),
        pytest.param(dist.Gamma(np.full((2, 1), 2.0), 1.0), marks=pytest.mark.slow),
        dist.TransformedDistribution(dist.Normal(np.zeros((2, 1)), 1.0), ExpTransform()),
        dist.MixtureSameFamily(dist.Categorical([0.5, 0.5]), dist.Normal(np.zeros((2, 1, 2)), 1.0)),
        pytest.param(dist.StudentT(5.0), marks=pytest.mark.slow),
    ],
    ids=lambda d: type(d).__name__,
)
def test_an_expanded_distribution_draws_independently(base):
    draws = np.asarray(sample(base.expand((2, 3)).to_event(1), jax.random.key(0), (5,)))
    assert draws.shape == (5, 2, 3) and np.unique(draws).size == draws.size


def test_a_parameter_may_be_a_list_of_numbers_or_of_what_is_not_yet_known():
    def log_prob(a, b):
        whole = dist.Normal([0.0, 1.0], (a, b)).log_prob(1.0).sum()
        matrix = dist.MultivariateNormal([a, 0.0], [[b, 0.5], [0.5, 2.0]]).log_prob(np.zeros(2))
        return whole + matrix + dist.Normal(0.0, 1.0).mask([a > 0, a < 0]).log_prob(a).sum()

    def reference(a, b):
        whole = stats.norm.logpdf(1.0, [0.0, 1.0], [a, b]).sum()
        matrix = stats.multivariate_normal.logpdf(np.zeros(2), [a, 0.0], [[b, 0.5], [0.5, 2.0]])
        return whole + matrix + stats.norm.logpdf(a)

    value, slope = jax.jit(jax.value_and_grad(log_prob))(1.5, 0.7)
    np.testing.assert_allclose(value, reference(1.5, 0.7), rtol=1e-6)
    np.testing.assert_allclose(slope, (reference(1.5 + 1e-6, 0.7) - reference(1.5 - 1e-6, 0.7)) / 2e-6, rtol=1e-4)


def test_a_list_of_numbers_compiles_nothing(compilations):
    before = compilations()
    assert isinstance(dist.Normal([0, 1], (1.0, 2.0)).scale, np.ndarray) and compilations() == before


def test_a_mask_hides_whatever_is_missing():
    def loss(loc):
        x = jnp.array([1.0, jnp.nan])
        return jnp.sum(dist.Normal(loc, 1.0).expand((2,)).mask(~jnp.isnan(x)).log_prob(x))

    value, slope = jax.jit(jax.value_and_grad(loss))(0.0)
    np.testing.assert_allclose([value, slope], [stats.norm.logpdf(1.0), 1.0], rtol=1e-6)


def test_a_distribution_passes_through_vmap_and_grad():
    stack = dist.Normal(jnp.arange(3.0), jnp.ones(3))
    np.testing.assert_allclose(jax.vmap(lambda d: d.log_prob(1.0))(stack), stack.log_prob(1.0))
    slope = jax.grad(lambda d: d.log_prob(1.0))(dist.Normal(0.0, 2.0))
    np.testing.assert_allclose(slope.loc, 0.25)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: dist.Bernoulli(), "exactly one of probs, logits; given: none"),
        (lambda: dist.Categorical(probs=[1.0], logits=[0.0]), "given: probs and logits"),
        (lambda: dist.Normal(np.zeros(3), np.ones(4)).batch_shape, r"loc: \(3,\)"),
        (lambda: dist.Normal(np.zeros(3), 1.0).expand((4,)), "does not expand"),
        (lambda: dist.Normal(0.0, 1.0).to_event(1), "to_event"),
        (lambda: dist.MultivariateNormal(np.zeros(3), np.eye(2)), "do not fit"),
        (lambda: dist.MixtureSameFamily(dist.Categorical([0.5, 0.5]), dist.Normal()), "differ in number"),
    ],
)
def test_errors_name_what_disagrees(make, words):
    with pytest.raises(ModelError, match=words):
        make()


def test_bounds_of_a_truncated_normal_may_be_infinite_row_by_row():
    bounds = low, high = np.array([0.0, -np.inf, -1.0, -np.inf]), np.array([np.inf, 2.0, 1.0, np.inf])
    x, z = np.array([0.5, 1.0, 0.25, 90.0]), np.array([0.3, -0.2, 0.4, 90.0])

    def right(loc, scale):
        return stats.truncnorm((low - loc) / scale, (high - loc) / scale, loc, scale).logpdf(x)

    def log_p(loc, scale):
        return dist.TruncatedNormal(loc, scale, low, high).log_prob(x)

    h = 1e-4
    slopes = [(right(0.3 + h, 30.0) - right(0.3 - h, 30.0)) / 2 / h, (right(0.3, 30 + h) - right(0.3, 30 - h)) / 2 / h]

    def mapped(z, low, high):
        support = dist.TruncatedNormal(0.3, 30.0, low, high).support
        x, log_det = support.forward_and_log_det(z)
        return x, log_det, support.inverse(x)

    @jit
    def all_of(z, low, loc, scale):
        both = jax.jvp(log_p, (loc, scale), (1.0, 0.0)), jax.jvp(log_p, (loc, scale), (0.0, 1.0))
        slope = jax.grad(lambda z, low: sum(map(jax.numpy.sum, mapped(z, low, high)[:2])), (0, 1))(z, low)
        return both, slope, mapped(z, low, high), mapped(z, *bounds)

    ((log_density, in_loc), (_, in_scale)), slope, *maps = all_of(z, low, 0.3, 30.0)
    np.testing.assert_allclose(log_density, right(0.3, 30.0), rtol=1e-5)
    np.testing.assert_allclose([in_loc, in_scale], slopes, rtol=2e-3, atol=1e-5)
    assert np.all(np.isfinite(slope))
    for x, log_det, back in maps:  # of bounds that are known while the program is traced, and that are not
        np.testing.assert_allclose(x, [np.exp(0.3), 2 - np.exp(-0.2), np.tanh(0.2), 90.0], rtol=1e-6)
        np.testing.assert_allclose(log_det, [0.3, -0.2, np.log(0.5 / np.cosh(0.2) ** 2), 0.0], rtol=1e-5)
        np.testing.assert_allclose(back, z, rtol=1e-5)
