"""Censored and truncated values: against SciPy's tails, closed forms, NumPyro, and quadrature."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import numpyro.distributions as theirs
import pytest
from quick import jit
from scipy import special, stats

import vbppl as vb
import vbppl.distributions as dist

TAILS = {
    "Gamma": (dist.Gamma, [(a, a * r) for a in (0.5, 5.0, 40.0, 1e3) for r in (1e-6, 0.01, 0.3, 0.97, 1.5, 6.0, 60.0)]),
    "InverseGamma": (dist.InverseGamma, [(a, 1 / (a * r)) for a in (0.5, 5.0, 40.0) for r in (1e-6, 0.3, 1.5, 60.0)]),
    "StudentT": (
        dist.StudentT,
        [
            (df, u)
            for df in (0.1, 1.0, 4.5, 40.0, 1e6)
            for u in (-1e30, -1e5, -30.0, -3.0, -0.5, 0.0, 1e-4, 0.3, 2.0, 12.0)
        ],
    ),
    "Beta": (
        dist.Beta,
        [(a, b, x) for a in (0.5, 3.0, 400.0) for b in (0.25, 1.0, 50.0) for x in (1e-10, 0.02, 0.5, 0.875)],
    ),
}


def below(name, *row):
    """The lower and the upper tail in a hundred digits."""
    parameters, x = row[:-1], mpmath.mpf(row[-1])
    if name == "Beta":
        a, b = map(mpmath.mpf, parameters)
        return mpmath.betainc(a, b, 0, x, regularized=True), mpmath.betainc(b, a, 0, 1 - x, regularized=True)
    if name == "StudentT":
        half = mpmath.mpf(parameters[0]) / 2
        tail = mpmath.betainc(half, 0.5, 0, half / (half + x * x / 2), regularized=True) / 2
        return (tail, 1 - tail) if x < 0 else (1 - tail, tail)
    a, x = mpmath.mpf(parameters[0]), 1 / x if name == "InverseGamma" else x
    lower = mpmath.gammainc(a, 0, x, regularized=True)
    upper = mpmath.gammainc(a, x, mpmath.inf, regularized=True)
    return (upper, lower) if name == "InverseGamma" else (lower, upper)


@pytest.mark.parametrize(
    "name", ["Gamma", *(pytest.param(n, marks=pytest.mark.slow) for n in ("InverseGamma", "Beta", "StudentT"))]
)
def test_log_tails_are_right_where_the_probability_is_no_number(name):
    family, rows = TAILS[name]
    rows = np.asarray(rows, np.float32)
    tails = jit(lambda *row: (family(*row[:-1]).log_cdf(row[-1]), family(*row[:-1]).log_survival(row[-1])))
    found = np.stack(tails(*rows.T), axis=-1)
    with mpmath.mp.workdps(100):
        exact = [
            [float(mpmath.log(tail)) if tail > 0 else -np.inf for tail in below(name, *map(float, r))] for r in rows
        ]
    told = np.isfinite(exact)  # the digits of mpmath end before the tails do
    assert told.sum() > 0.8 * told.size and np.min(np.array(exact)[told]) < -100
    np.testing.assert_allclose(found[told], np.array(exact)[told], rtol=2e-4, atol=2e-5)


COUNTS = {
    "Poisson": (dist.Poisson, stats.poisson, [(0.5,), (7.0,), (500.0,)]),
    "Binomial": (lambda n, p: dist.Binomial(n, p), stats.binom, [(1, 0.25), (20, 0.5), (1000, 0.01)]),
    "GammaPoisson": (
        lambda r, p: dist.GammaPoisson(r, p / (1 - p)),
        stats.nbinom,
        [(0.5, 0.25), (3.0, 0.5), (40.0, 0.9)],
    ),
    "BetaBinomial": (
        lambda a, b, n: dist.BetaBinomial(a, b, n),
        lambda a, b, n: stats.betabinom(n, a, b),
        [(0.5, 2.0, 7), (2.0, 0.5, 300), (40.0, 30.0, 100)],
    ),
    "Geometric": (dist.Geometric, stats.geom(0.5).dist, [(0.25,), (0.01,)]),
}


# Those of Beta and Gamma are slow to compile.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "Geometric")) for name in COUNTS]
)
def test_distribution_functions_of_counts_are_scipys(name):
    make, reference, cases = COUNTS[name]
    first = 1 if name == "Geometric" else 0  # SciPy counts the head too
    for parameters in cases:
        mean = reference(*parameters).mean() - first
        x = np.array([-1.0, 0.0, 1.0, 1.5, np.floor(mean), np.ceil(1.5 * mean), np.ceil(4 * mean), np.ceil(8 * mean)])
        d, frozen = make(*parameters), reference(*parameters)
        cdf, *tails = jit(lambda d, x: (d.cdf(x), d.log_cdf(x), d.log_survival(x)))(d, x)
        np.testing.assert_allclose(cdf, frozen.cdf(x + first), rtol=2e-4, atol=1e-6)
        for found, exact in zip(tails, (frozen.logcdf(x + first), frozen.logsf(x + first))):
            told = np.isfinite(exact) | (x < 0)
            np.testing.assert_allclose(np.asarray(found)[told], exact[told], rtol=2e-4, atol=1e-6)


def test_censored_densities_are_numpyros_where_it_has_digits():
    x, censored = np.array([0.3, 1.0, 0.8]), np.array([True, False, True])
    pairs = np.array([[0.5, 1.5], [1.0, 1.0], [0.2, 3.0], [0.4, 2.0], [0.7, 9.0]])
    left, right = np.array([0, 0, 1, 0, 1], bool), np.array([0, 0, 0, 1, 1], bool)
    mine, other = dist.Weibull(0.5, 1.5), theirs.Weibull(0.5, 1.5)
    for kind in ("LeftCensoredDistribution", "RightCensoredDistribution"):
        found, expected = (jit(getattr(m, kind)(d, censored).log_prob)(x) for m, d in ((dist, mine), (theirs, other)))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    found = jit(dist.IntervalCensoredDistribution(mine, left, right).log_prob)(pairs)
    expected = jit(theirs.IntervalCensoredDistribution(other, left, right).log_prob)(pairs)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-7)


def test_a_bound_that_is_not_looked_at_may_be_infinite_and_has_no_gradient():
    def total(scale):
        rows = jnp.array([[2.0, jnp.inf], [-jnp.inf, 1.0], [1.0, 2.0]])
        d = dist.IntervalCensoredDistribution(dist.Exponential(scale), jnp.array([0, 1, 0]), jnp.array([1, 0, 0]))
        return jnp.sum(d.log_prob(rows))

    by_hand = lambda r: -2 * r + jnp.log1p(-jnp.exp(-r)) + jnp.log(jnp.exp(-r) - jnp.exp(-2 * r))  # noqa: E731
    (found, slope), (expected, slope_by_hand) = (jit(jax.value_and_grad(f))(0.7) for f in (total, by_hand))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(slope, slope_by_hand, rtol=1e-5)


def test_a_censored_value_twenty_sds_out_counts_and_pulls():
    density = lambda loc: dist.RightCensoredDistribution(dist.Normal(loc, 1.0), True).log_prob(20.0)  # noqa: E731
    value, slope = jit(jax.value_and_grad(density))(0.0)
    np.testing.assert_allclose(value, stats.norm.logsf(20.0), rtol=1e-6)
    hazard = np.exp(stats.norm.logpdf(20.0) - stats.norm.logsf(20.0))
    np.testing.assert_allclose(slope, hazard, rtol=1e-5)


@vb.model
def lifetimes(time, censored):
    rate = vb.sample("rate", dist.Gamma(2.0, 10.0))
    with vb.plate("unit", len(time)):
        vb.sample("time", dist.RightCensoredDistribution(dist.Exponential(rate), censored), obs=time)


def test_a_fit_of_censored_lifetimes_is_the_conjugate_gamma():
    rng = np.random.default_rng(0)
    whole, end = rng.exponential(5.0, 60), 6.0
    time, censored = np.minimum(whole, end), whole > end
    posterior = vb.fit(lifetimes(time, censored), "mean_field")
    exact = stats.gamma(2.0 + (~censored).sum(), scale=1 / (10.0 + time.sum()))
    np.testing.assert_allclose(posterior.mean()["rate"], exact.mean(), atol=0.02 * exact.std())
    np.testing.assert_allclose(posterior.sd()["rate"], exact.std(), rtol=0.02)


@pytest.mark.slow
def test_counts_of_which_no_zero_is_seen():
    d, k = dist.LeftTruncatedDistribution(dist.Poisson(1.5), 1), np.arange(0, 9)
    expected = stats.poisson(1.5).pmf(k) * (k > 0) / (1 - np.exp(-1.5))
    log_prob, draws = jit(lambda key: (d.log_prob(k), d.sample(key, (4000,))))(jax.random.key(1))
    np.testing.assert_allclose(np.exp(log_prob), expected, rtol=1e-5)
    draws = np.asarray(draws)
    counts = np.bincount(draws, minlength=9)[:9]
    tail = 4000 - counts.sum()
    assert stats.chisquare([*counts[1:], tail], [*(4000 * expected[1:]), 4000 * (1 - expected.sum())]).pvalue > 1e-3


def test_draws_of_a_truncated_distribution_have_the_slope_of_its_quantiles():
    """Of an exponential beyond `low` a draw is low + (draw of the whole): it moves with the bound and the rate."""

    def draw(low, rate):
        return dist.LeftTruncatedDistribution(dist.Exponential(rate), low).sample(jax.random.key(3))

    low, rate = 2.0, 0.5
    drawn, slopes = jit(jax.value_and_grad(draw, argnums=(0, 1)))(low, rate)
    np.testing.assert_allclose(slopes, [1.0, -(drawn - low) / rate], rtol=1e-3)


def test_a_truncated_latent_has_the_support_between_its_bounds():
    assert repr(dist.TruncatedDistribution(dist.Gamma(2.0), high=3.0).support) == "interval(0.0, 3.0)"

    @vb.model
    def one():
        vb.sample("x", dist.TruncatedDistribution(dist.Exponential(1.0), high=3.0))

    posterior = vb.fit(one(), "mean_field")
    assert abs(posterior.mean()["x"] - stats.truncexpon(3.0).mean()) < 0.1


@pytest.mark.slow
def test_tails_of_a_beta_have_slopes_in_its_concentrations():
    """And so has a censored negative binomial of unknown concentration: against differences of SciPy's tails."""
    a, b, x = np.array(
        [(a, b, x) for a in (0.3, 3.0, 40.0) for b in (0.5, 9.0) for x in (1e-3, 0.3, 0.6, 0.95)], "f4"
    ).T
    found = jit(jax.vmap(jax.grad(lambda a, b, x: dist.Beta(a, b).log_cdf(x), (0, 1, 2))))(a, b, x)
    a, b, x = (each.astype(float) for each in (a, b, x))
    h, tail = 1e-5, lambda a, b: np.log(special.betainc(a, b, x))
    exact = [
        (tail(a + h, b) - tail(a - h, b)) / (2 * h),
        (tail(a, b + h) - tail(a, b - h)) / (2 * h),
        np.exp(stats.beta(a, b).logpdf(x) - tail(a, b)),
    ]
    np.testing.assert_allclose(found, exact, rtol=2e-3, atol=1e-5)
    k, c = 6, 2.5
    slope = jit(jax.grad(lambda c: dist.NegativeBinomial2(4.0, c).log_survival(k)))(c)
    above = lambda c: stats.nbinom(c, c / (c + 4.0)).logsf(k)  # noqa: E731
    assert abs(slope - (above(c + h) - above(c - h)) / (2 * h)) < 1e-4


LINES = {
    "Normal": (dist.Normal, stats.norm),
    "LogNormal": (dist.LogNormal, lambda loc, s: stats.lognorm(s, 0, np.exp(loc))),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "Normal")) for n in LINES])
def test_intervals_without_an_end_have_slopes_in_all_parameters(name):
    """Their densities are tails: against differences of SciPy's. Of everything, and of a bound at 0, nothing is NaN."""
    ours, exact = LINES[name]
    rows = np.array([[-np.inf, 1.0], [0.0, 1.0], [1.0, np.inf], [-np.inf, np.inf]])

    def log_prob(loc, scale):
        return dist.IntervalCensoredDistribution(ours(loc, scale)).log_prob(jnp.asarray(rows))

    def theirs(loc, scale):
        d = exact(loc, scale)
        return np.log(d.cdf(rows[:, 1]) - d.cdf(rows[:, 0]))

    found, slopes = jit(lambda loc, scale: (log_prob(loc, scale), jax.jacrev(log_prob, (0, 1))(loc, scale)))(0.3, 1.3)
    np.testing.assert_allclose(found, theirs(0.3, 1.3), atol=1e-5)
    h = 1e-4
    differences = [theirs(0.3 + h, 1.3) - theirs(0.3 - h, 1.3), theirs(0.3, 1.3 + h) - theirs(0.3, 1.3 - h)]
    np.testing.assert_allclose(slopes, np.array(differences) / (2 * h), atol=1e-4)


def test_counts_between_bounds_that_are_not_whole_or_are_none():
    k, whole = np.arange(9), stats.geom(0.25, loc=-1)
    for low, high in [(0.5, 4.5), (0.5, np.inf), (-np.inf, 4.0), (-1.5, 3.0)]:
        d = dist.TruncatedDistribution(dist.Geometric(0.25), low, high)
        expected = np.where((k >= low) & (k <= high), whole.pmf(k), 0) / (whole.cdf(high) - whole.cdf(np.ceil(low) - 1))
        log_prob, draws = jit(lambda key, d=d: (d.log_prob(k), d.sample(key, (500,))))(jax.random.key(1))
        np.testing.assert_allclose(np.exp(log_prob), expected, rtol=1e-5)
        assert np.min(draws) == max(np.ceil(low), 0) and np.max(draws) <= high
        assert abs(np.mean(np.asarray(draws) < 9) - expected.sum()) < 0.02
        np.testing.assert_allclose(np.bincount(draws, minlength=9)[:9] / 500, expected, atol=0.09)
    draws = jit(dist.TruncatedDistribution(dist.Normal(), -np.inf, 0.7).sample)(jax.random.key(2))
    assert np.isfinite(draws) and draws <= 0.7


def test_a_base_without_a_distribution_function_is_refused_by_name():
    with pytest.raises(vb.ModelError) as told:
        dist.RightCensoredDistribution(dist.Delta(3.0), True)
    assert str(told.value) == (
        "Delta has no cdf, of which RightCensoredDistribution is made.\n"
        "  To mend it: Take a base that has one, as dist.Normal, Gamma, Weibull or Poisson; or give its class a cdf."
    )


@pytest.mark.slow
def test_slopes_of_the_tails_of_a_t_and_a_beta_binomial_are_differences_of_scipys():
    h = 1e-4
    for make, exact, given, x in [
        (dist.StudentT, stats.t, (0.3,), -4.0),
        (dist.StudentT, stats.t, (6.0,), 1.5),
        (lambda a, b: dist.BetaBinomial(a, b, 20), lambda a, b: stats.betabinom(20, a, b), (2.0, 0.5), 7.0),
    ]:
        for tail, log_tail in [("log_cdf", "logcdf"), ("log_survival", "logsf")]:
            for n, one in enumerate(given):
                found = jit(jax.grad(lambda *at, m=make, t=tail, x=x: getattr(m(*at), t)(x), n))(*given)
                up, down = (getattr(exact(*given[:n], one + s * h, *given[n + 1 :]), log_tail)(x) for s in (1, -1))
                np.testing.assert_allclose(found, (up - down) / (2 * h), rtol=1e-3)
    slope = jit(jax.grad(dist.StudentT(3.0).log_cdf))
    for x in (0.0, -2.0, 4.0):
        np.testing.assert_allclose(slope(x), np.exp(stats.t(3).logpdf(x) - stats.t(3).logcdf(x)), rtol=1e-5)


def test_classes_have_tails_and_a_gumbel_has_slopes_where_it_has_no_mass():
    k, d = np.array([-1.0, 0.0, 0.5, 1.0, 2.0, 3.0]), dist.Categorical([0.25, 0.5, 0.25])
    np.testing.assert_allclose(d.cdf(k), [0, 0.25, 0.25, 0.75, 1, 1])
    np.testing.assert_allclose(d.log_survival(k), np.log(np.maximum([1, 0.75, 0.75, 0.25, 0, 0], 1e-300)) + LOG_OF_0)
    for x in (-50.0, -1e7):
        for name in ("cdf", "log_survival"):
            slopes = jax.grad(lambda *at, x=x, f=name: getattr(dist.Gumbel(*at), f)(x), (0, 1))(0.0, 1.0)
            np.testing.assert_array_equal(slopes, [0.0, 0.0])


LOG_OF_0 = np.array([0, 0, 0, 0, -np.inf, -np.inf])


@pytest.mark.slow
def test_a_truncated_distribution_has_the_tails_of_its_base_over_the_mass():
    d = dist.TruncatedDistribution(dist.Normal(1.0, 2.0), -1.0, 30.0)
    exact, x = stats.truncnorm(-1.0, 14.5, 1.0, 2.0), np.array([-2.0, -1.0, 0.0, 5.0, 25.0, 30.0, 40.0])
    for found, expected in [(d.log_cdf(x), exact.logcdf(x)), (d.log_survival(x), exact.logsf(x))]:
        np.testing.assert_allclose(np.asarray(found), expected, rtol=2e-5, atol=1e-6)
    k, counts = np.array([0.0, 1.0, 3.5, 7.0]), dist.LeftTruncatedDistribution(dist.Geometric(0.25), 1)
    np.testing.assert_allclose(counts.cdf(k), [0, 0.25, 1 - 0.75**3, 1 - 0.75**7], rtol=1e-5)


@vb.model
def seen_below(y, m):
    high = vb.sample("high", dist.Uniform(2.0, 4.0))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.TruncatedDistribution(dist.Exponential(1.0), high=high).mask(m), obs=y)


@pytest.mark.slow
def test_a_latent_bound_in_a_plate_under_a_mask_is_fitted_predicted_and_stored(tmp_path):
    """Each row that counts has `exp(-y) / (1 - exp(-high))`, whatever stands in the others."""
    y, m = np.array([0.5, 1.0, np.nan, 1.5, 0.1]), np.array([1, 1, 0, 1, 1], bool)
    model = seen_below(y, m)
    posterior = vb.fit(model, "mean_field")
    grid = np.linspace(2, 4, 4001)
    density = (1 - np.exp(-grid)) ** -4.0
    mean = np.trapezoid(grid * density, grid) / np.trapezoid(density, grid)
    np.testing.assert_allclose(posterior.mean()["high"], mean, atol=0.03)
    new = np.asarray(posterior.predict()["y"])
    assert np.all(new >= 0) and new.max() < 4 and np.all(np.isfinite(new))
    vb.save(posterior, tmp_path / "bound.npz")
    again = vb.load(tmp_path / "bound.npz", seen_below(y, m))
    np.testing.assert_array_equal(again.mean()["high"], posterior.mean()["high"])


def test_where_there_is_no_mass_a_truncated_draw_is_no_number():
    assert np.isnan(jit(dist.LeftTruncatedDistribution(dist.Uniform(0.0, 1.0), 2.0).sample)(jax.random.key(0)))
