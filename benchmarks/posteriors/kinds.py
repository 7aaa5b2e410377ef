"""The textbooks' part of the further posteriors (`further.py` has the rule): a model a kind, and its data."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid

import vbppl as vb
import vbppl.distributions as dist


@vb.model
def frailty(x, t, is_censored):
    """Weibull times to an event with log-normal frailties of groups; some are censored."""
    shape = vb.sample("shape", dist.Gamma(2.0, 1.0))
    sigma = vb.sample("sigma", dist.HalfCauchy(1.0))
    a, b = (vb.sample(name, dist.Normal(0.0, 2.0)) for name in "ab")
    with vb.plate("group", len(t), dim=-2):
        u = vb.sample("u", dist.Normal(0.0, sigma))
        with vb.plate("row", t.shape[1]):
            law = dist.Weibull(jnp.exp(-(a + b * x + u) / shape), shape)
            vb.sample("t", dist.RightCensoredDistribution(law, is_censored), obs=t)


def frailty_of() -> vb.Model:
    """Fifteen groups of five, followed until time 1.5."""
    rng = np.random.default_rng(1)
    x, u = rng.standard_normal((15, 5)), 0.6 * rng.standard_normal((15, 1))
    t = np.exp(-(0.2 + 0.7 * x + u) / 1.4) * rng.weibull(1.4, (15, 5))
    return frailty(x, np.minimum(t, 1.5), t > 1.5)


@vb.model
def overdispersed_groups(x, y):
    """Negative binomial counts with an intercept for each group."""
    a, b = (vb.sample(name, dist.Normal(0.0, 2.0)) for name in "ab")
    phi = vb.sample("phi", dist.HalfCauchy(5.0))
    sigma = vb.sample("sigma", dist.HalfNormal(1.0))
    with vb.plate("group", len(y), dim=-2):
        u = vb.sample("u", dist.Normal(0.0, sigma))
        with vb.plate("row", y.shape[1]):
            vb.sample("y", dist.NegativeBinomial2(jnp.exp(a + b * x + u), phi), obs=y)


def overdispersed_groups_of() -> vb.Model:
    """Twenty groups of four."""
    rng = np.random.default_rng(2)
    x, u = rng.standard_normal((20, 4)), 0.5 * rng.standard_normal((20, 1))
    return overdispersed_groups(x, rng.negative_binomial(3, 3 / (3 + np.exp(1.0 + 0.4 * x + u))))


@vb.model
def zero_inflated(x, y):
    """Zero-inflated Poisson counts: a line for the log odds of an extra zero, one for the log rate."""
    zero, rate = (vb.sample(name, dist.Normal(jnp.zeros(2), 2.0).to_event(1)) for name in ("zero", "rate"))
    with vb.plate("row", len(y)):
        law = dist.ZeroInflatedPoisson(sigmoid(zero[0] + zero[1] * x), rate=jnp.exp(rate[0] + rate[1] * x))
        vb.sample("y", law, obs=y)


def zero_inflated_of() -> vb.Model:
    """Sixty counts of a low rate."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal(60)
    some = rng.random(60) > 1 / (1 + np.exp(1.0 - x))
    return zero_inflated(x, some * rng.poisson(np.exp(0.3 + 0.5 * x)))


@vb.model
def ordinal_groups(x, y):
    """Ordered logit in four grades with an intercept for each group."""
    b = vb.sample("b", dist.Normal(0.0, 2.0))
    sigma = vb.sample("sigma", dist.HalfCauchy(1.0))
    cuts = vb.sample("cuts", dist.ImproperUniform(dist.constraints.ordered_vector, (), (3,)))
    vb.factor("cuts_prior", jnp.sum(dist.Normal(0.0, 3.0).log_prob(cuts)))
    with vb.plate("group", len(y), dim=-2):
        u = vb.sample("u", dist.Normal(0.0, sigma))
        with vb.plate("row", y.shape[1]):
            vb.sample("y", dist.OrderedLogistic(b * x + u, cuts), obs=y)


def ordinal_groups_of() -> vb.Model:
    """Twelve groups of eight."""
    rng = np.random.default_rng(4)
    x, u = rng.standard_normal((12, 8)), 0.7 * rng.standard_normal((12, 1))
    return ordinal_groups(x, np.digitize(x + u + rng.logistic(size=(12, 8)), [-1.5, 0.0, 2.0]))


@vb.model
def gamma_regression(x, y):
    """Gamma outcomes with a log link and a latent shape."""
    a, b = (vb.sample(name, dist.Normal(0.0, 5.0)) for name in "ab")
    shape = vb.sample("shape", dist.HalfCauchy(5.0))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Gamma(shape, shape * jnp.exp(-a - b * x)), obs=y)


def gamma_regression_of() -> vb.Model:
    """Twenty-five rows."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal(25)
    return gamma_regression(x, rng.gamma(2.0, np.exp(1.0 + 0.5 * x) / 2))


@vb.model
def beta_regression(x, y):
    """Beta outcomes: a line for the logit of the mean, one for the log precision."""
    mean, precision = (vb.sample(name, dist.Normal(jnp.zeros(2), 3.0).to_event(1)) for name in ("mean", "precision"))
    with vb.plate("row", len(y)):
        at, worth = sigmoid(mean[0] + mean[1] * x), jnp.exp(precision[0] + precision[1] * x)
        vb.sample("y", dist.Beta(at * worth, (1 - at) * worth), obs=y)


def beta_regression_of() -> vb.Model:
    """Thirty rows."""
    rng = np.random.default_rng(6)
    x = rng.standard_normal(30)
    at, worth = 1 / (1 + np.exp(-0.5 - 0.8 * x)), np.exp(2.0 + 0.7 * x)
    return beta_regression(x, np.clip(rng.beta(at * worth, (1 - at) * worth), 1e-4, 1 - 1e-4))


@vb.model
def items(y):
    """Two-parameter item responses; the scales of slopes and difficulties are latent."""
    slope_sd, difficulty_sd = (vb.sample(name, dist.HalfNormal(1.0)) for name in ("slope_sd", "difficulty_sd"))
    with vb.plate("item", y.shape[1], dim=-1):
        slope = vb.sample("slope", dist.LogNormal(0.0, slope_sd))
        difficulty = vb.sample("difficulty", dist.Normal(0.0, difficulty_sd))
    with vb.plate("person", len(y), dim=-2):
        ability = vb.sample("ability", dist.Normal(0.0, 1.0))
        with vb.plate("item", y.shape[1], dim=-1):
            vb.sample("y", dist.Bernoulli(logits=slope * (ability - difficulty)), obs=y)


def items_of() -> vb.Model:
    """Thirty persons, six items."""
    rng = np.random.default_rng(7)
    ability, difficulty, slope = (
        rng.standard_normal((30, 1)),
        rng.standard_normal(6),
        np.exp(0.5 * rng.standard_normal(6)),
    )
    return items((rng.random((30, 6)) < 1 / (1 + np.exp(-slope * (ability - difficulty)))).astype(int))


@vb.model
def shares(counts):
    """Dirichlet-multinomial counts: shares and how much groups differ, with a half-Cauchy concentration."""
    share = vb.sample("share", dist.Dirichlet(jnp.ones(4)))
    worth = vb.sample("worth", dist.HalfCauchy(20.0))
    with vb.plate("group", len(counts)):
        vb.sample("counts", dist.DirichletMultinomial(worth * share, counts.sum(axis=1)), obs=counts)


def shares_of() -> vb.Model:
    """Ten groups of twenty."""
    rng = np.random.default_rng(8)
    p = rng.dirichlet(15.0 * np.array([0.5, 0.3, 0.15, 0.05]), 10)
    return shares(np.stack([rng.multinomial(20, each) for each in p]))


@vb.model
def dose_response(dose, y):
    """The Emax model."""
    bottom = vb.sample("bottom", dist.Normal(0.0, 5.0))
    top = vb.sample("top", dist.HalfNormal(10.0))
    half = vb.sample("half", dist.LogNormal(1.0, 1.5))
    sigma = vb.sample("sigma", dist.HalfCauchy(2.0))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(bottom + top * dose / (half + dose), sigma), obs=y)


def dose_response_of() -> vb.Model:
    """Five doses, six patients each, of which the highest is about the half-effective one."""
    rng, dose = np.random.default_rng(9), np.repeat([0.0, 0.5, 1.0, 2.0, 4.0], 6)
    return dose_response(dose, 1.0 + 5.0 * dose / (3.0 + dose) + rng.standard_normal(30))


@vb.model
def robust(x, y):
    """Regression with Student's t and latent degrees of freedom (Juárez and Steel 2010)."""
    a, b = (vb.sample(name, dist.Normal(0.0, 5.0)) for name in "ab")
    sigma = vb.sample("sigma", dist.HalfCauchy(2.0))
    nu = vb.sample("nu", dist.Gamma(2.0, 0.1))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.StudentT(nu, a + b * x, sigma), obs=y)


def robust_of() -> vb.Model:
    """Forty rows, three degrees of freedom."""
    rng = np.random.default_rng(10)
    x = rng.standard_normal(40)
    return robust(x, 1.0 + 0.5 * x + rng.standard_t(3, 40))


@vb.model
def noisy_autoregression(y):
    """A stationary autoregression seen under noise."""
    phi = vb.sample("phi", dist.Uniform(-1.0, 1.0))
    step, noise = (vb.sample(name, dist.HalfNormal(1.0)) for name in ("step", "noise"))

    def move(h, x):
        is_first, value = x
        h = vb.sample("h", dist.Normal(phi * h, jnp.where(is_first, step / jnp.sqrt(1 - phi**2), step)))
        vb.sample("y", dist.Normal(h, noise), obs=value)
        return h, None

    vb.scan(move, 0.0, (np.arange(len(y)) == 0, y))


def noisy_autoregression_of() -> vb.Model:
    """Forty times."""
    rng, h = np.random.default_rng(11), [0.0]
    for _ in range(40):
        h.append(0.8 * h[-1] + 0.6 * rng.standard_normal())
    return noisy_autoregression(np.array(h[1:]) + 0.5 * rng.standard_normal(40))


# Draper and Smith (1998), Applied Regression Analysis, ex. 24.N: trunks' circumferences in mm of five orange trees.
ORANGE_DAYS = np.array([118.0, 484, 664, 1004, 1231, 1372, 1582])
ORANGES = np.array(
    [
        [30.0, 58, 87, 115, 120, 142, 145],
        [33.0, 69, 111, 156, 172, 203, 203],
        [30.0, 51, 75, 108, 115, 139, 140],
        [32.0, 62, 112, 167, 179, 209, 214],
        [30.0, 49, 81, 125, 142, 174, 177],
    ]
)


@vb.model
def oranges(days, y):
    """Logistic growth with an asymptote for each tree."""
    top = vb.sample("top", dist.Normal(180.0, 50.0))
    top_sd = vb.sample("top_sd", dist.HalfCauchy(30.0))
    middle = vb.sample("middle", dist.Normal(700.0, 200.0))
    pace = vb.sample("pace", dist.LogNormal(5.8, 0.5))
    sigma = vb.sample("sigma", dist.HalfCauchy(10.0))
    with vb.plate("tree", len(y), dim=-2):
        each = vb.sample("each", dist.Normal(top, top_sd))
        with vb.plate("day", y.shape[1]):
            vb.sample("y", dist.Normal(each * sigmoid((days - middle) / pace), sigma), obs=y)


@vb.model
def two_lines(x, y):
    """A mixture of two regressions, in the order of their slopes."""
    share = vb.sample("share", dist.Beta(2.0, 2.0))
    slope = vb.sample("slope", dist.ImproperUniform(dist.constraints.ordered_vector, (), (2,)))
    vb.factor("slope_prior", jnp.sum(dist.Normal(0.0, 3.0).log_prob(slope)))
    start = vb.sample("start", dist.Normal(jnp.zeros(2), 3.0).to_event(1))
    sigma = vb.sample("sigma", dist.HalfNormal(jnp.full(2, 2.0)).to_event(1))
    with vb.plate("row", len(y)):
        law = dist.Normal(start + slope * x[:, None], sigma)
        vb.sample("y", dist.MixtureSameFamily(dist.Categorical(jnp.stack([share, 1 - share])), law), obs=y)


def two_lines_of() -> vb.Model:
    """Fifty rows on two lines that cross."""
    rng = np.random.default_rng(13)
    x, k = rng.uniform(-2, 2, 50), (rng.random(50) < 0.4).astype(int)
    return two_lines(x, np.array([0.5, 1.0])[k] + np.array([-1.0, 1.5])[k] * x + 0.6 * rng.standard_normal(50))


@vb.model
def slopes(x, y):
    """Correlated intercepts and slopes of groups, centred."""
    mean = vb.sample("mean", dist.Normal(jnp.zeros(2), 5.0).to_event(1))
    sd = vb.sample("sd", dist.HalfCauchy(jnp.ones(2)).to_event(1))
    correlation = vb.sample("L", dist.LKJCholesky(2, 2.0))
    sigma = vb.sample("sigma", dist.HalfCauchy(1.0))
    with vb.plate("group", len(y)):
        each = vb.sample("each", dist.MultivariateNormal(mean, scale_tril=sd[:, None] * correlation))
    with vb.plate("_group", len(y), dim=-2), vb.plate("row", y.shape[1]):
        vb.sample("y", dist.Normal(each[:, :1] + each[:, 1:] * x, sigma), obs=y)


def slopes_of() -> vb.Model:
    """Twelve groups of five."""
    rng = np.random.default_rng(14)
    x, e = rng.standard_normal((12, 5)), rng.standard_normal((12, 2))
    start, slope = 1 + 0.8 * e[:, :1], 0.5 + 0.5 * (0.6 * e[:, :1] + 0.8 * e[:, 1:])
    return slopes(x, start + slope * x + 0.7 * rng.standard_normal((12, 5)))


@vb.model
def meta_analysis(effect, se):
    """Effects of studies with Student's t between them, four degrees of freedom, centred."""
    mu = vb.sample("mu", dist.Normal(0.0, 2.0))
    tau = vb.sample("tau", dist.HalfCauchy(0.5))
    with vb.plate("study", len(se)):
        theta = vb.sample("theta", dist.StudentT(4.0, mu, tau))
        vb.sample("effect", dist.Normal(theta, se), obs=effect)


def meta_analysis_of() -> vb.Model:
    """Ten studies."""
    rng = np.random.default_rng(15)
    se = rng.uniform(0.1, 0.6, 10)
    return meta_analysis(0.3 + 0.3 * rng.standard_t(4, 10) + se * rng.standard_normal(10), se)


CLUSTERS = np.array([-4.1, -3.2, -2.9, 2.6, 3.3, 3.9, 4.4])


@vb.model
def two_clusters(y):
    """A Cauchy likelihood that two clusters of data pull apart: two modes of unlike mass."""
    mu = vb.sample("mu", dist.Normal(0.0, 5.0))
    scale = vb.sample("scale", dist.LogNormal(-0.5, 0.5))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.StudentT(1.0, mu, scale), obs=y)


def two_clusters_exactly(draws: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws from a fine grid of (mu, log scale), uniform within a cell."""
    mu, log_scale = np.arange(-9.0, 9.0, 0.02), np.arange(-4.0, 3.0, 0.02)
    log_p = -(mu[:, None] ** 2) / 50 - (log_scale + 0.5) ** 2 / 0.5
    for y in CLUSTERS:
        log_p = log_p - log_scale - np.log1p(((y - mu[:, None]) / np.exp(log_scale)) ** 2)
    weights = np.exp(log_p - log_p.max()).ravel()
    at = rng.choice(len(weights), size=draws, p=weights / weights.sum())
    jitter = rng.uniform(-0.01, 0.01, (2, draws))
    return {"mu": mu[at // len(log_scale)] + jitter[0], "scale": np.exp(log_scale[at % len(log_scale)] + jitter[1])}


@vb.model
def two_exponentials(t, y):
    """A sum of two decays, the slow one first."""
    pace = vb.sample("pace", dist.ImproperUniform(dist.constraints.positive_ordered_vector, (), (2,)))
    vb.factor("pace_prior", jnp.sum(dist.LogNormal(jnp.array([-1.0, 1.0]), 1.0).log_prob(pace)))
    size = vb.sample("size", dist.HalfNormal(jnp.full(2, 5.0)).to_event(1))
    sigma = vb.sample("sigma", dist.HalfCauchy(1.0))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(jnp.exp(-t[:, None] * pace) @ size, sigma), obs=y)


def two_exponentials_of() -> vb.Model:
    """Twenty-five times."""
    rng, t = np.random.default_rng(17), np.linspace(0.1, 6.0, 25)
    return two_exponentials(t, 2 * np.exp(-0.3 * t) + 3 * np.exp(-2 * t) + 0.2 * rng.standard_normal(25))


@vb.model
def broken_stick(x, y):
    """Two lines that meet at an unknown place."""
    a, left, right = (vb.sample(name, dist.Normal(0.0, 3.0)) for name in ("a", "left", "right"))
    turn = vb.sample("turn", dist.Uniform(-2.0, 2.0))
    sigma = vb.sample("sigma", dist.HalfCauchy(1.0))
    with vb.plate("row", len(y)):
        before = jnp.minimum(x - turn, 0.0)
        vb.sample("y", dist.Normal(a + left * before + right * (x - turn - before), sigma), obs=y)


def broken_stick_of() -> vb.Model:
    """Thirty rows."""
    rng, x = np.random.default_rng(18), np.linspace(-2, 2, 30)
    return broken_stick(
        x, 1 + 0.2 * np.minimum(x - 0.4, 0) + 1.2 * np.maximum(x - 0.4, 0) + 0.5 * rng.standard_normal(30)
    )


@vb.model
def unequal_groups(y):
    """Groups with means and log scales of their own, both drawn from a population, centred."""
    mean, log_scale = (vb.sample(name, dist.Normal(0.0, 2.0)) for name in ("mean", "log_scale"))
    mean_sd, log_scale_sd = (vb.sample(name, dist.HalfNormal(1.0)) for name in ("mean_sd", "log_scale_sd"))
    with vb.plate("group", len(y), dim=-2):
        loc = vb.sample("loc", dist.Normal(mean, mean_sd))
        wide = vb.sample("wide", dist.Normal(log_scale, log_scale_sd))
        with vb.plate("row", y.shape[1]):
            vb.sample("y", dist.Normal(loc, jnp.exp(wide)), obs=y)


def unequal_groups_of() -> vb.Model:
    """Ten groups of six."""
    rng = np.random.default_rng(19)
    loc, wide = 1 + 0.7 * rng.standard_normal((10, 1)), np.exp(0.5 * rng.standard_normal((10, 1)))
    return unequal_groups(loc + wide * rng.standard_normal((10, 6)))


@vb.model
def crossed_counts(y):
    """Poisson counts with effects of rows and of columns, centred."""
    mu = vb.sample("mu", dist.Normal(0.0, 2.0))
    row_sd, column_sd = (vb.sample(name, dist.HalfNormal(1.0)) for name in ("row_sd", "column_sd"))
    with vb.plate("over", len(y), dim=-2):
        row = vb.sample("row", dist.Normal(0.0, row_sd))
    with vb.plate("along", y.shape[1], dim=-1):
        column = vb.sample("column", dist.Normal(0.0, column_sd))
        with vb.plate("over", len(y), dim=-2):
            vb.sample("y", dist.Poisson(jnp.exp(mu + row + column)), obs=y)


def crossed_counts_of() -> vb.Model:
    """Six rows, eight columns, rare."""
    rng = np.random.default_rng(20)
    rate = np.exp(0.3 + 0.5 * rng.standard_normal((6, 1)) + 0.3 * rng.standard_normal(8))
    return crossed_counts(rng.poisson(rate))


@vb.model
def noisy_inputs(x, y):
    """A line through points that are measured with error both ways; the inputs' own spread is latent."""
    a, b = (vb.sample(name, dist.Normal(0.0, 3.0)) for name in "ab")
    middle = vb.sample("middle", dist.Normal(0.0, 3.0))
    spread, sigma = (vb.sample(name, dist.HalfCauchy(1.0)) for name in ("spread", "sigma"))
    with vb.plate("point", len(y)):
        true = vb.sample("true", dist.Normal(middle, spread))
        vb.sample("x", dist.Normal(true, 0.7), obs=x)
        vb.sample("y", dist.Normal(a + b * true, sigma), obs=y)


def noisy_inputs_of() -> vb.Model:
    """Twenty points."""
    rng = np.random.default_rng(21)
    true = 0.5 + 1.2 * rng.standard_normal(20)
    return noisy_inputs(true + 0.7 * rng.standard_normal(20), 1 + 0.8 * true + 0.4 * rng.standard_normal(20))
