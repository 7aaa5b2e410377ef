"""Every public distribution's draws against SciPy's distribution functions, from ordinary to extreme parameters.

One program a family draws for all its parameters in 32 bits. The empirical distribution function may differ from the
exact one by Kolmogorov's bound at one in a million; a draw that stands for all numbers that round to it, or that lie
beyond the range of the dtype, counts anywhere among them.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from exact import EXACT
from scipy import stats

import vbppl.distributions as dist
from vbppl.core.errors import ModelError
from vbppl.core.programs.compiling import compiler_options
from vbppl.distributions.samplers import log_gamma

DRAWS = 100_000
BOUND = np.sqrt(-0.5 * np.log(1e-6 / 2) / DRAWS)
COVARIANCE = np.array([[2.0, 0.6], [0.6, 1.0]])


def truncated(loc, scale, low, high):
    return stats.truncnorm((low - loc) / scale, (high - loc) / scale, loc, scale)


def circular(loc, k):
    """Of angles between -pi and pi, where SciPy's go on from turn to turn."""
    turned = stats.vonmises(k, loc)
    return SimpleNamespace(cdf=lambda x: np.clip(turned.cdf(x) - turned.cdf(-np.pi), 0, 1))


# A family, its parameters, and SciPy's member of it: where its case says it, and these.
NUMBERS = {name: (case.make, case.parameters(), case.scipy) for name, case in EXACT.items() if case.scipy}
NUMBERS |= {
    "StudentT": (dist.StudentT, [(0.1, 0.0, 1.0), (1.0, 5.0, 1e-3), (7.0, 0.0, 1.0), (1e6, 0.0, 1e10)], stats.t),
    "LogNormal": (
        dist.LogNormal,
        [(0.0, 1.0), (-80.0, 1e-3), (0.0, 50.0)],
        lambda m, s: stats.lognorm(s, scale=np.exp(m)),
    ),
    "HalfNormal": (dist.HalfNormal, [(1.0,), (1e-30,), (1e30,)], lambda s: stats.halfnorm(scale=s)),
    "HalfCauchy": (dist.HalfCauchy, [(1.0,), (1e-30,), (1e30,)], lambda s: stats.halfcauchy(scale=s)),
    "Exponential": (dist.Exponential, [(1.0,), (1e-30,), (1e30,)], lambda r: stats.expon(scale=1 / r)),
    "Gamma": (
        dist.Gamma,
        [(2.5, 3.0), (1e-3, 1e10), (1e-3, 1e-10), (0.3, 1.0), (1.0, 1e30), (1e6, 1e-3)],
        lambda a, r: stats.gamma(a, scale=1 / r),
    ),
    "InverseGamma": (
        dist.InverseGamma,
        [(2.5, 3.0), (1e-3, 1e10), (1e-3, 1e-10), (0.3, 1.0), (1e6, 1e-3)],
        lambda a, r: stats.invgamma(a, scale=r),
    ),
    "Chi2": (dist.Chi2, [(0.01,), (1.0,), (30.0,), (1e6,)], stats.chi2),
    "Weibull": (
        dist.Weibull,
        [(1.0, 2.0), (1e10, 0.01), (1e-10, 0.01), (3.0, 1e4)],
        lambda s, k: stats.weibull_min(k, scale=s),
    ),
    "Pareto": (dist.Pareto, [(1.0, 2.0), (1e-10, 0.01), (1e10, 1e4)], lambda s, a: stats.pareto(a, scale=s)),
    "Uniform": (dist.Uniform, [(0.0, 1.0), (-1e30, 1e30), (1000.0, 1001.0)], lambda a, b: stats.uniform(a, b - a)),
    "Beta": (
        dist.Beta,
        [(2.5, 0.7), (1e-3, 1e-3), (1e-3, 1e3), (0.5, 1e6), (1e6, 1e6), (1.0, 1.0)],
        stats.beta,
    ),
    "TruncatedNormal": (
        dist.TruncatedNormal,
        [(0.0, 1.0, -1.0, 2.0), (0.0, 1.0, 13.0, 1e3), (0.0, 1.0, -30.0, -29.0), (0.0, 1.0, 0.0, 1e-3)]
        + [(-5.0, 0.1, 0.0, 10.0), (0.0, 1.0, -6.0, -4.5), (0.0, 1.0, 4.9, 5.1), (2.0, 1e6, -1.0, 1.0)],
        truncated,
    ),
    "TruncatedNormal low": (
        lambda loc, low: dist.TruncatedNormal(loc, 1.0, low=low),
        [(0.0, 13.0), (0.0, -1.0), (-1000.0, 0.0)],
        lambda loc, low: truncated(loc, 1.0, low, np.inf),
    ),
    "TruncatedNormal high": (
        lambda loc, high: dist.TruncatedNormal(loc, 1.0, high=high),
        [(0.0, -13.0), (0.0, 1.0)],
        lambda loc, high: truncated(loc, 1.0, -np.inf, high),
    ),
    "TruncatedNormal free": (dist.TruncatedNormal, [(3.0, 2.0)], stats.norm),
    "Bernoulli": (dist.Bernoulli, [(1e-30,), (0.01,), (0.3,), (1 - 2.0**-20,)], stats.bernoulli),
    "Bernoulli logits": (
        lambda t: dist.Bernoulli(logits=t),
        [(-80.0,), (1.0,), (80.0,)],
        lambda t: stats.bernoulli(1 / (1 + np.exp(-t))),
    ),
    "Binomial": (
        dist.Binomial,
        [
            (9, 0.3),
            (1, 0.5),
            (10**7, 1e-7),
            (10**7, 0.5),
            (2**30, 0.01),
            (10**7, 0.3),
            (10**7, 1 - 2.0**-20),
            (1000, 1e-30),
            (40, 0.9),
        ],
        stats.binom,
    ),
    "Geometric": (dist.Geometric, [(0.3,), (1e-6,), (1e-12,), (1 - 2.0**-20,)], lambda p: stats.geom(p, loc=-1)),
    "Geometric logits": (
        lambda t: dist.Geometric(logits=t),
        [(-13.0,), (0.0,), (80.0,)],
        lambda t: stats.geom(1 / (1 + np.exp(-t)), loc=-1),
    ),
    "Poisson": (
        dist.Poisson,
        [(0.0,), (1e-30,), (0.01,), (3.5,), (9.9,), (10.1,), (300.0,), (1e5,), (1e7,), (1e9,), (1e12,)],
        stats.poisson,
    ),
    "GammaPoisson": (
        dist.GammaPoisson,
        [(2.0, 0.5), (1e-3, 1e-6), (1e6, 1.0), (1e6, 1e6)],
        lambda a, r: stats.nbinom(a, r / (1 + r)),
    ),
    "NegativeBinomial2": (
        dist.NegativeBinomial2,
        [(3.0, 2.0), (1e6, 0.1), (5.0, 1e6)],
        lambda m, a: stats.nbinom(a, a / (a + m)),
    ),
    "BetaBinomial": (
        dist.BetaBinomial,
        [(2.0, 3.0, 7), (1e-3, 1e-3, 20), (1e6, 1e6, 1000)],
        lambda a, b, n: stats.betabinom(n, a, b),
    ),
    "DiscreteUniform": (dist.DiscreteUniform, [(0, 1), (-3, 6)], lambda a, b: stats.randint(a, b + 1)),
    "ZeroInflatedDistribution": (
        lambda gate, p: dist.ZeroInflatedDistribution(dist.Geometric(p), gate),
        [(0.25, 0.5), (0.0, 0.1), (1.0, 0.5)],
        lambda gate, p: SimpleNamespace(cdf=lambda x: gate + (1 - gate) * stats.geom(p, loc=-1).cdf(x)),
    ),
    "Kumaraswamy": (
        dist.Kumaraswamy,
        [(2.0, 0.7), (0.1, 5.0), (300.0, 1.0)],
        lambda a, b: SimpleNamespace(cdf=lambda x: 1 - (1 - np.clip(x, 0, 1) ** a) ** b),
    ),
    "VonMises": (dist.VonMises, [(0.0, 1e-4), (0.0, 2.0), (1.0, 1e3), (0.5, 1e6)], circular),
    "AsymmetricLaplace": (
        dist.AsymmetricLaplace,
        [(0.0, 1.0, 0.5), (3.0, 2.0, 4.0)],
        lambda m, s, k: stats.laplace_asymmetric(k, m, s),
    ),
    "SkewNormal": (
        dist.SkewNormal,
        [(0.0, 1.0, 0.0), (3.0, 2.0, -4.0), (0.0, 1.0, 1e3)],
        lambda m, s, a: stats.skewnorm(a, m, s),
    ),
    "HalfStudentT": (
        dist.HalfStudentT,
        [(0.5, 1.0), (7.0, 2.0)],
        lambda df, s: SimpleNamespace(cdf=lambda x: 2 * stats.t(df, 0, s).cdf(np.maximum(x, 0)) - 1),
    ),
    "ExpandedDistribution": (lambda loc: dist.Normal(0.0, 1.0).expand(np.shape(loc)), [(0.0,)], lambda _: stats.norm()),
    "Independent": (lambda loc: dist.Normal(loc, 1.0).to_event(1), [(0.0,), (3.0,)], stats.norm),
    "MaskedDistribution": (lambda loc: dist.Normal(loc, 1.0).mask(loc > 0), [(0.0,), (3.0,)], stats.norm),
    "Delta": (dist.Delta, [(0.0,), (-1e30,)], lambda v: SimpleNamespace(cdf=lambda x: x >= v)),
    "TransformedDistribution": (
        lambda loc: dist.TransformedDistribution(dist.Normal(loc, 1.0), dist.transforms.ExpTransform()),
        [(0.0,), (-80.0,)],
        lambda loc: stats.lognorm(1.0, scale=np.exp(loc)),
    ),
}


# With care, as users' programs are: of so many draws the loops run for longer than they compile.
@functools.partial(jax.jit, static_argnums=0, compiler_options=compiler_options())
def draw(make, parameters, key):
    d = make(*parameters)
    draws = d.sample(key, (DRAWS,))
    return draws, d.support.check(draws)


def assert_distributed(draws, cdf, where):
    """Kolmogorov's test of draws in 32 bits, each of which stands for the numbers between its neighbours."""
    values, counts = np.unique(draws, return_counts=True)
    found = np.cumsum(counts) / draws.size
    if np.issubdtype(draws.dtype, np.integer):
        below = above = np.asarray(cdf(values), float)
        largest = np.iinfo(draws.dtype).max
    else:
        wide = values.astype(float)
        with np.errstate(over="ignore"):  # next to the largest number
            gap = np.spacing(np.abs(values)).astype(float)
        below, above = (np.asarray(cdf(end), float) for end in (wide - gap, wide + gap))
        largest = np.finfo(draws.dtype).max
    above = np.where(values >= largest, 1.0, above)
    off = np.maximum(found - above, below - found)
    worst = int(np.argmax(off))
    assert off[worst] < BOUND, f"{where}: {found[worst]:.4f} up to {values[worst]}, not {below[worst]:.4f}"


# The samplers of these compile for several seconds, and are made of one that the fast suite draws from.
SLOW = {
    "HalfStudentT",
    "Kumaraswamy",
    "VonMises",
    "SkewNormal",
    "ZeroInflatedDistribution",
    "AsymmetricLaplace",
    "Binomial",
}
SLOW |= {
    "Binomial",
    "DiscreteUniform",
    "InverseGamma",
    "Chi2",
    "GammaPoisson",
    "NegativeBinomial2",
    "BetaBinomial",
    "Geometric logits",
    "Beta",
    "TruncatedNormal low",
    "TruncatedNormal high",
    "Dirichlet large",
    "Multinomial batch",
    "RightTruncatedDistribution",
    "TwoSidedTruncatedDistribution",
}


def with_slow(names):
    """The names, those of slow cases marked."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in names]


@pytest.mark.parametrize("name", with_slow(NUMBERS))
def test_draws_follow_the_distribution(name):
    make, rows, theirs = NUMBERS[name]
    columns = [np.asarray(column, np.float32) for column in zip(*rows)]
    draws, on_support = map(np.asarray, draw(make, columns, jax.random.key(0)))
    assert draws.shape == (DRAWS, len(rows)) and draws.dtype in (np.float32, np.int32)
    assert np.all(np.isfinite(draws)) and np.all(on_support)
    for n in range(len(rows)):
        exact = theirs(*(float(column[n]) for column in columns))
        assert_distributed(draws[:, n], exact.cdf, rows[n])


def whitened(draws):
    return np.linalg.solve(np.linalg.cholesky(COVARIANCE), draws.T).T


def correlations(size, eta):
    """Every correlation of an LKJ is a Beta on (-1, 1)."""
    shape = eta - 1 + size / 2
    return [stats.beta(shape, shape, loc=-1, scale=2)] * 3


def lower(draws):
    return np.stack([draws[:, 1, 0], draws[:, 2, 0], draws[:, 2, 1]], -1)


def mixture(x):
    return 0.25 * stats.norm(-1.0, 0.5).cdf(x) + 0.75 * stats.norm(2.0, 1.0).cdf(x)


def as_rows(x):
    return x[:, None]


NORMAL = dist.Normal(1.0, 2.0)
# A distribution, numbers made of each draw, and SciPy's distribution of each of them.
VECTORS = {
    "Dirichlet": (dist.Dirichlet([0.001, 0.5, 2.0]), None, [stats.beta(a, 2.501 - a) for a in (0.001, 0.5, 2.0)]),
    "Dirichlet large": (dist.Dirichlet([1e6, 3e6]), None, [stats.beta(1e6, 3e6), stats.beta(3e6, 1e6)]),
    "Multinomial": (dist.Multinomial(7, [0.2, 0.5, 0.3]), None, [stats.binom(7, p) for p in (0.2, 0.5, 0.3)]),
    "Multinomial large": (
        dist.Multinomial(10**7, logits=[0.0, 0.0, -14.0]),
        lambda x: x[:, 1:],
        [stats.binom(10**7, p / (2 + np.exp(-14))) for p in (1, np.exp(-14))],
    ),
    "Multinomial batch": (
        dist.Multinomial(7, probs=np.array([[0.2, 0.5, 0.3], [0.0, 0.1, 0.9]])),
        lambda x: x[:, 1],
        [stats.binom(7, p) for p in (0.0, 0.1, 0.9)],
    ),
    "Categorical": (
        dist.Categorical(logits=[0.0, 1.0, -1e30, 80.0, 79.0]),
        lambda x: x[:, None],
        [stats.rv_discrete(values=([3, 4], [1 / (1 + np.exp(-1)), 1 / (1 + np.e)]))],
    ),
    "MultivariateNormal": (dist.MultivariateNormal([0.0, 0.0], COVARIANCE), whitened, [stats.norm()] * 2),
    "LKJ": (dist.LKJ(3, 1.0), lower, correlations(3, 1.0)),
    "LKJCholesky": (
        dist.LKJCholesky(3, 1e3),
        lambda x: lower(x @ np.swapaxes(x, -1, -2)),
        correlations(3, 1e3),
    ),
    "LKJCholesky small": (
        dist.LKJCholesky(3, 0.01),
        lambda x: lower(x @ np.swapaxes(x, -1, -2))[:, :1],
        correlations(3, 0.01)[:1],
    ),
    "MixtureSameFamily": (
        dist.MixtureSameFamily(dist.Categorical([0.25, 0.75]), dist.Normal([-1.0, 2.0], [0.5, 1.0])),
        lambda x: x[:, None],
        [SimpleNamespace(cdf=mixture)],
    ),
    "RightCensoredDistribution": (dist.RightCensoredDistribution(NORMAL, True), as_rows, [stats.norm(1.0, 2.0)]),
    "LeftCensoredDistribution": (dist.LeftCensoredDistribution(NORMAL, True), as_rows, [stats.norm(1.0, 2.0)]),
    "IntervalCensoredDistribution": (dist.IntervalCensoredDistribution(NORMAL), None, [stats.norm(1.0, 2.0)] * 2),
    "LeftTruncatedDistribution": (
        dist.LeftTruncatedDistribution(NORMAL, 3.0),
        as_rows,
        [stats.truncnorm(1.0, np.inf, 1.0, 2.0)],
    ),
    "RightTruncatedDistribution": (
        dist.RightTruncatedDistribution(NORMAL, -3.0),
        as_rows,
        [stats.truncnorm(-np.inf, -2.0, 1.0, 2.0)],
    ),
    "TwoSidedTruncatedDistribution": (
        dist.TwoSidedTruncatedDistribution(dist.Normal(0.0, 1.0), 12.0, 13.0),
        as_rows,
        [stats.truncnorm(12.0, 13.0)],
    ),
    "TruncatedDistribution": (
        dist.TruncatedDistribution(dist.Exponential(2.0), 0.5, 3.0),
        as_rows,
        [stats.truncexpon(5.0, 0.5, 0.5)],
    ),
}
TRIL, MAP = np.linalg.cholesky(COVARIANCE), np.array([[0, 1, 1], [1, 0, 0], [1, 0, 0.0]])


def of_classes(make, cdf):
    edges = cdf(np.array([-np.inf, -1.5, 0.5, 2.0, np.inf]))
    classes = stats.rv_discrete(values=(np.arange(4), np.diff(edges)))
    return make(0.5, [-1.0, 1.0, 2.5]), as_rows, [classes]


MORE = {
    "OrderedLogistic": of_classes(dist.OrderedLogistic, stats.logistic.cdf),
    "OrderedProbit": of_classes(dist.OrderedProbit, stats.norm.cdf),
    "DirichletMultinomial": (
        dist.DirichletMultinomial([0.5, 2.0, 3.0], 20),
        None,
        [stats.betabinom(20, a, 5.5 - a) for a in (0.5, 2.0, 3.0)],
    ),
    "MultivariateStudentT": (dist.MultivariateStudentT(3.0, [0.0, 0.0], TRIL), whitened, [stats.t(3.0)] * 2),
    "LowRankMultivariateNormal": (
        dist.LowRankMultivariateNormal(0.0, TRIL[:, :1], COVARIANCE.diagonal() - TRIL[:, 0] ** 2 + 1e-6),
        whitened,
        [stats.norm()] * 2,
    ),
    "MatrixNormal": (
        dist.MatrixNormal(np.zeros((2, 2)), TRIL, np.array([[0.5, 0.0], [1.0, 2.0]])),
        lambda x: np.linalg.solve(TRIL, x @ np.linalg.inv([[0.5, 1.0], [0.0, 2.0]])).reshape(-1, 4),
        [stats.norm()] * 4,
    ),
    "Wishart": (
        dist.Wishart(3.5, COVARIANCE),
        lambda x: np.stack([x[:, 0, 0] / 2, x[:, 1, 1], np.linalg.solve(COVARIANCE, x).trace(axis1=1, axis2=2)], -1),
        [stats.chi2(3.5), stats.chi2(3.5), stats.chi2(7.0)],
    ),
    "InverseWishart": (
        dist.InverseWishart(3.5, COVARIANCE),
        lambda x: np.stack([x[:, 0, 0], x[:, 1, 1], (COVARIANCE @ np.linalg.inv(x)).trace(axis1=1, axis2=2)], -1),
        [stats.invgamma(1.25, scale=1.0), stats.invgamma(1.25, scale=0.5), stats.chi2(7.0)],
    ),
    "GaussianRandomWalk": (
        dist.GaussianRandomWalk(2.0, 3),
        lambda x: np.diff(x, axis=-1, prepend=0.0),
        [stats.norm(0.0, 2.0)] * 3,
    ),
    "CAR": (
        dist.CAR(1.0, 0.75, 2.0, MAP),
        lambda x: (x - 1.0) @ np.linalg.cholesky(2.0 * (np.diag(MAP.sum(0)) - 0.75 * MAP)),
        [stats.norm()] * 3,
    ),
    "ZeroSumNormal": (dist.ZeroSumNormal(2.0, (3,)), None, [stats.norm(0.0, 2.0 * np.sqrt(2 / 3))] * 3),
    "MixtureGeneral": (
        dist.MixtureGeneral(dist.Categorical([0.25, 0.75]), [NORMAL, dist.Laplace(-3.0, 0.5)]),
        as_rows,
        [SimpleNamespace(cdf=lambda x: 0.25 * stats.norm(1, 2).cdf(x) + 0.75 * stats.laplace(-3, 0.5).cdf(x))],
    ),
}
VECTORS |= MORE
SLOW |= {"LKJ", "LKJCholesky small", *MORE}
CANNOT = {"Distribution", "ImproperUniform"}  # the protocol, and what has no total mass


@pytest.mark.parametrize("name", with_slow(VECTORS))
def test_what_is_made_of_a_draw_follows_its_distribution(name):
    d, made, theirs = VECTORS[name]
    draws, on_support = map(np.asarray, draw(lambda: d, (), jax.random.key(0)))
    assert draws.shape == d.shape((DRAWS,)) and draws.dtype in (np.float32, np.int32)
    assert np.all(np.isfinite(draws)) and np.all(on_support)
    numbers = made(draws) if made else draws
    for n, exact in enumerate(theirs):
        assert_distributed(numbers[:, n], exact.cdf, (name, n))


@pytest.mark.parametrize("a", [0.2, 1.0, 7.0])
def test_draws_of_a_gamma_have_the_slope_of_their_quantile(a):
    """`dx/da = -(dF/da) / p` at the draw, with SciPy's distribution function."""
    log_x, slope = jax.value_and_grad(lambda a: log_gamma(jax.random.key(4), a, (), np.float32))(a)
    x, step = np.exp(np.float64(log_x)), 1e-4
    change = (stats.gamma.cdf(x, a + step) - stats.gamma.cdf(x, a - step)) / (2 * step)
    np.testing.assert_allclose(slope, -change / stats.gamma.pdf(x, a) / x, rtol=1e-3)


def test_no_distribution_is_without_draws():
    drawn = {name.partition(" ")[0] for name in [*NUMBERS, *VECTORS]}
    assert drawn == {name for name in dist.__all__ if isinstance(getattr(dist, name), type)} - CANNOT


def test_where_there_is_no_mass_nothing_is_drawn():
    with pytest.raises(ModelError, match="cannot be drawn from"):
        dist.ImproperUniform(dist.constraints.real, (), ()).sample(jax.random.key(0))


@pytest.mark.parametrize(
    "draw",
    [lambda x, key: dist.Poisson(x).sample(key), lambda x, key: dist.Binomial(10, x).sample(key)],
    ids=["Poisson", "Binomial"],
)
def test_a_parameter_that_is_nan_ends_the_search_and_gives_no_count(draw):
    drawn = jax.jit(draw)(np.array([np.nan, 0.4, -0.1, 0.0]), jax.random.key(3))
    np.testing.assert_array_equal(drawn[np.array([0, 2, 3])], [-1, -1, 0])
    assert 0 <= drawn[1] <= 10


def test_as_many_heads_miss_as_there_are_rare_tails():
    total, tails = 10**9, 2.0**-20  # single precision tells a billion coins by 64
    drawn = total - np.asarray(dist.Binomial(total, 1 - tails).sample(jax.random.key(0), (1000,)), np.int64)
    assert stats.kstest(drawn + np.random.default_rng(0).uniform(size=1000), rare_tails(total, tails)).pvalue > 1e-6


def rare_tails(total, chance):
    """The distribution function of a count plus a uniform number."""
    exact = stats.binom(total, chance)
    return lambda x: exact.cdf(np.floor(x) - 1) + (x - np.floor(x)) * exact.pmf(np.floor(x))
