"""Posteriors that no Gaussian fits, through plain `vb.fit` in float32: right, and known to be so, from three seeds.

The references are quadrature over the hyperparameters, rows integrated out in closed form or on a grid of their own;
nothing here is from this library. `python tests/test_beyond_gaussian.py [CASE ...]` prints how close each fit comes.

`ess` is the share of the guide's own draws that count when weighed, in the middle one of five sets of 20,000: how near
the guide itself is, whatever the verdict. 0 is not asked: of survival, whose bound lies .14 nats low, .35 to .62 count,
seed by seed, and of the shift, where some draws meet a density of zero, .59 to .74 (of single sets .17 to .75).

Not among them: golf putts and rare events, which come out good while few of the guide's own draws count, and the bare
funnel in ten dims without data, which is told to be poor.
"""

from __future__ import annotations

import dataclasses
import sys
import time
import warnings
from collections.abc import Callable

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import vbppl as vb
import vbppl.distributions as dist

MEAN = 0.1  # sds
DRAWS, SETS = 100_000, 5


@dataclasses.dataclass(frozen=True)
class Exact:
    """The log evidence, and mean and sd of each value: of a scalar, or of each of a site's numbers."""

    log_evidence: float
    moments: dict[str, tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Case:
    """A posterior with its answer, how far the worst log sd may be off, and the share of draws that must count."""

    model: Callable[[], vb.Model]
    exact: Callable[[], Exact]
    log_sd: float
    ess: float


def on_grid(log_p, volume, **values):
    """Of a log density at the cells of a grid, or of each value its mean and variance there."""
    log_p = np.ravel(log_p)
    weights = np.exp(log_p - log_p.max())
    log_evidence = float(log_p.max() + np.log(weights.sum() * volume))
    weights /= weights.sum()
    moments = {}
    for name, value in values.items():
        mean, variance = value if isinstance(value, tuple) else (value, 0.0)
        mean = np.reshape(mean, (len(weights), -1))
        variance = np.broadcast_to(np.reshape(variance, (-1, 1)) if np.ndim(variance) == 0 else variance, mean.shape)
        middle = weights @ mean
        moments[name] = (middle, np.sqrt(weights @ (variance + (mean - middle) ** 2)))
    return Exact(log_evidence, moments)


# --- Hierarchies of normal rows --------------------------------------------------------------------------------------


@vb.model
def groups(y, error, mu_sd, prior):
    """Effects with known errors."""
    mu, tau = vb.sample("mu", dist.Normal(0.0, mu_sd)), vb.sample("tau", prior)
    with vb.plate("group", len(y)):
        vb.sample("y", dist.Normal(vb.sample("theta", dist.Normal(mu, tau)), error), obs=y)


def groups_exactly(y, error, mu_sd, log_prior, low, high):
    """Over log tau; given it mu and theta are normal."""
    u = np.linspace(low, high, 40_001)
    tau, s2 = np.exp(u)[:, None], error**2
    v = s2 + tau**2
    a, b, c = (1 / v).sum(1), (y / v).sum(1), (y**2 / v).sum(1)
    var = 1 / (a + mu_sd**-2.0)
    mu = b * var
    log_p = -0.5 * (np.log(2 * np.pi * v).sum(1) + c) + mu**2 / var / 2 + np.log(var) / 2 - np.log(mu_sd)
    shrink = tau**2 / v
    theta = shrink * y + (1 - shrink) * mu[:, None], shrink * s2 + (1 - shrink) ** 2 * var[:, None]
    return on_grid(log_p + log_prior(tau[:, 0]) + u, u[1] - u[0], mu=(mu, var[:, None]), tau=tau, theta=theta)


def of_groups(y, error, mu_sd, prior, log_prior, low=-14.0, high=8.0):
    y, error = np.asarray(y, float), np.broadcast_to(np.asarray(error, float), np.shape(y))
    return (
        lambda: groups(y, error, mu_sd, prior),
        lambda: groups_exactly(y, error, mu_sd, log_prior, low, high),
    )


THREE = np.array([1.0, 4.0, -3.0]), 2.0, 10.0


def uniform(tau):
    return np.where(tau < 50, -np.log(50), -np.inf)


# --- Rows with a likelihood of their own -----------------------------------------------------------------------------


def times_of_death():
    """Nine groups of four, followed until time 2."""
    rng = np.random.default_rng(3)
    times = np.exp(-0.5 * rng.standard_normal((9, 1))) * rng.weibull(1.3, (9, 4))
    return np.minimum(times, 2.0), times > 2.0


@vb.model
def survival(times, is_censored):
    """Weibull times whose log hazards have effects of groups."""
    mu, tau = vb.sample("mu", dist.Normal(0.0, 2.0)), vb.sample("tau", dist.HalfNormal(1.0))
    shape = vb.sample("shape", dist.LogNormal(0.0, 0.5))
    with vb.plate("group", len(times), dim=-2):
        effect = vb.sample("effect", dist.Normal(mu, tau))
        with vb.plate("one", times.shape[1]):
            law = dist.Weibull(jnp.exp(-effect / shape), shape)
            vb.sample("times", dist.RightCensoredDistribution(law, is_censored), obs=times)


def survival_exactly():
    times, is_censored = times_of_death()
    died = (~is_censored).sum(1)
    mu, u, w = np.linspace(-2.5, 2.5, 81), np.linspace(-6, 1.5, 121), np.linspace(-0.8, 1.3, 61)
    m, v, k = np.meshgrid(mu, u, w, indexing="ij")
    log_p = stats.norm.logpdf(m, 0, 2) + stats.halfnorm.logpdf(np.exp(v)) + v + stats.norm.logpdf(k, 0, 0.5)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    effect = mu[:, None, None] + np.exp(u)[:, None] * nodes
    for at, shape in enumerate(np.exp(w)):
        for group in range(len(times)):
            log_times = np.log(times[group][~is_censored[group]])
            own = died[group] * np.log(shape) + (shape - 1) * log_times.sum()
            hazard = (times[group] ** shape).sum()
            log_l = died[group] * effect - np.exp(effect) * hazard + np.log(weights) - np.log(2 * np.pi) / 2
            log_p[:, :, at] += own + special.logsumexp(log_l, axis=-1)
    volume = (mu[1] - mu[0]) * (u[1] - u[0]) * (w[1] - w[0])
    return on_grid(log_p, volume, mu=m, tau=np.exp(v), shape=np.exp(k))


# --- Few parameters --------------------------------------------------------------------------------------------------


@vb.model
def wall(y):
    """A mean that cannot be below zero, and data that are: the mode lies at the wall."""
    mean = vb.sample("mean", dist.HalfNormal(1.0))
    vb.sample("y", dist.Normal(mean, 0.1), obs=y)


def wall_exactly(y=-0.3):
    var = 1 / (1 + 100)
    mean, sd = 100 * y * var, np.sqrt(var)
    law = stats.truncnorm(-mean / sd, np.inf, mean, sd)
    evidence = stats.norm.logpdf(y, 0, np.sqrt(1.01)) + np.log(2) + stats.norm.logsf(0, mean, sd)
    return Exact(float(evidence), {"mean": (np.array([law.mean()]), np.array([law.std()]))})


X = np.linspace(-1.5, 1.5, 20)
COUNTS = np.random.default_rng(5).negative_binomial(1.0, 1 / (1 + np.exp(1.0 + 0.5 * X)))


@vb.model
def counts(x, y):
    """More spread than Poisson's, by a concentration of which little is known."""
    a, b = (vb.sample(name, dist.Normal(0.0, 2.0)) for name in "ab")
    size = vb.sample("size", dist.HalfNormal(10.0))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.NegativeBinomial2(jnp.exp(a + b * x), size), obs=y)


def counts_exactly():
    a, b, v = np.linspace(-1, 4, 90), np.linspace(-2, 3, 90), np.linspace(-3, 4, 140)
    ga, gb, gv = np.meshgrid(a, b, v, indexing="ij")
    size = np.exp(gv)
    log_p = stats.norm.logpdf(ga, 0, 2) + stats.norm.logpdf(gb, 0, 2) + stats.halfnorm.logpdf(size, scale=10) + gv
    for x, y in zip(X, COUNTS):
        log_p += stats.nbinom.logpmf(y, size, size / (size + np.exp(ga + gb * x)))
    return on_grid(log_p, (a[1] - a[0]) * (b[1] - b[0]) * (v[1] - v[0]), a=ga, b=gb, size=size)


SHIFTED = 2.0 + np.exp(0.3 + 0.6 * np.random.default_rng(6).standard_normal(15))


@vb.model
def shifted(y):
    """Log-normal beyond a shift that no support bounds."""
    shift, mu = vb.sample("shift", dist.Normal(0.0, 3.0)), vb.sample("mu", dist.Normal(0.0, 2.0))
    sigma, away = vb.sample("sigma", dist.HalfNormal(1.0)), y - shift
    law = dist.LogNormal(mu, sigma).log_prob(jnp.where(away > 0, away, 1.0))
    vb.factor("y", jnp.sum(jnp.where(away > 0, law, -jnp.inf)))


def shifted_exactly():
    """Over the distance of the shift from the least datum, and sigma; given both mu is normal."""
    w, v = np.linspace(-7, 3, 1200), np.linspace(-3, 1.5, 400)
    gw, gv = np.meshgrid(w, v, indexing="ij")
    shift, sigma = SHIFTED.min() - np.exp(gw), np.exp(gv)
    logs, n = np.log(SHIFTED - shift[..., None]), len(SHIFTED)
    var = 1 / (n / sigma**2 + 1 / 4)
    mu = var * logs.sum(-1) / sigma**2
    log_l = -n * (np.log(2 * np.pi) / 2 + gv) - logs.sum(-1) - (logs**2).sum(-1) / sigma**2 / 2
    log_p = log_l + mu**2 / var / 2 + np.log(var) / 2 - np.log(2)
    log_p += stats.norm.logpdf(shift, 0, 3) + gw + stats.halfnorm.logpdf(sigma) + gv
    both = (mu.reshape(-1, 1), var.reshape(-1, 1))
    return on_grid(log_p, (w[1] - w[0]) * (v[1] - v[0]), shift=shift, sigma=sigma, mu=both)


# --- Bare densities --------------------------------------------------------------------------------------------------


def log_normal(z, loc=0.0, sd=1.0):
    return jnp.sum(-(((z - loc) / sd) ** 2) / 2 - jnp.log(sd) - jnp.log(2 * jnp.pi) / 2)


def of_density(log_density, dim, mean, sd, log_evidence=0.0):
    mean, sd = (np.broadcast_to(np.asarray(each, float), dim) for each in (mean, sd))
    return lambda: vb.density(log_density, dim), lambda: Exact(log_evidence, {"z": (mean, sd)})


def banana(z):
    return log_normal(z[0]) + log_normal(z[1], z[0] ** 2 - 1) + log_normal(z[2:])


def of_banana(dim):
    return of_density(banana, dim, 0.0, [1.0, 3**0.5, *np.ones(dim - 2)])


def two_scales(z):
    return jnp.logaddexp(log_normal(z), log_normal(z, 0.0, 0.3)) - jnp.log(2)


RADIUS, THICKNESS = 2.5, 0.4


def ring(z):
    return -(((jnp.sqrt(jnp.sum(z**2) + 1e-9) - RADIUS) / THICKNESS) ** 2) / 2


def of_ring():
    r = np.linspace(0, 8, 200_001)
    density = r * np.exp(-(((r - RADIUS) / THICKNESS) ** 2) / 2)
    sd = np.sqrt(np.trapezoid(density * r**2, r) / np.trapezoid(density, r) / 2)
    return of_density(ring, 2, 0.0, sd, float(np.log(2 * np.pi * np.trapezoid(density, r))))


def of_pairs(seed):
    """Sbibm's two scales of one observation, within a wide box."""
    y = np.random.default_rng(seed).uniform(-6, 6, 2)

    def log_density(z):
        return jnp.logaddexp(log_normal(z, y), log_normal(z, y, 0.1)) - jnp.log(2)

    return of_density(log_density, 2, y, np.sqrt(1.01 / 2))


CASES = {
    "eight schools": Case(
        *of_groups(cases.SCHOOLS_Y, cases.SCHOOLS_SIGMA, 5.0, dist.HalfCauchy(5.0), stats.halfcauchy(scale=5).logpdf),
        0.02,
        0.96,
    ),
    "three groups, half-normal": Case(
        *of_groups(*THREE, dist.HalfNormal(10.0), stats.halfnorm(scale=10).logpdf), 0.04, 0.96
    ),
    "three groups, half-Cauchy": Case(
        *of_groups(*THREE, dist.HalfCauchy(25.0), stats.halfcauchy(scale=25).logpdf, high=30), 0.09, 0.95
    ),
    "three groups, uniform": Case(*of_groups(*THREE, dist.Uniform(0.0, 50.0), uniform, high=np.log(50)), 0.1, 0.87),
    "tight child": Case(
        *of_groups([1.0], 1.0, 10.0, dist.LogNormal(-3.0, 1.0), stats.lognorm(1.0, scale=np.exp(-3)).logpdf), 0.02, 0.93
    ),
    "survival": Case(lambda: survival(*times_of_death()), survival_exactly, 0.04, 0.0),
    "counts": Case(lambda: counts(X, COUNTS), counts_exactly, 0.05, 0.98),
    "shifted": Case(lambda: shifted(SHIFTED), shifted_exactly, 0.24, 0.0),
    "wall": Case(lambda: wall(-0.3), wall_exactly, 0.04, 0.9),
    "banana, 2": Case(*of_banana(2), 0.08, 0.9),
    "banana, 10": Case(*of_banana(10), 0.08, 0.9),
    "banana, 50": Case(*of_banana(50), 0.08, 0.9),
    "ring": Case(*of_ring(), 0.05, 0.8),
    "two scales, 10": Case(*of_density(two_scales, 10, 0.0, np.sqrt(1.09 / 2)), 0.02, 0.9),
    "two scales, 50": Case(*of_density(two_scales, 50, 0.0, np.sqrt(1.09 / 2)), 0.02, 0.9),
    **{f"pair {k}": Case(*of_pairs(k), 0.02, 0.9) for k in range(4)},
}


@dataclasses.dataclass(frozen=True)
class Came:
    """What a fit came to: errors, the share of the guide's own draws that count, nats from the evidence, costs."""

    verdict: str
    mean: float
    log_sd: float
    ess: float
    gap: float
    off: float
    gradients: int
    seconds: float
    guide: str


def came(case: Case, seed: int) -> Came:
    """A fit against its answer: the worst mean in sds and the worst log sd, the share of draws that count, nats."""
    exact, began = case.exact(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", vb.VbpplWarning)
        posterior = vb.fit(case.model(), seed=seed)
    seconds, card = time.process_time() - began, posterior.check()
    answer, own = posterior.sample(DRAWS, seed=seed + 1), posterior.uncorrected()
    off = []
    for name, (mean, sd) in exact.moments.items():
        x = np.asarray(answer[name], float).reshape(DRAWS, -1)
        off.append((np.abs((x.mean(0) - mean) / sd).max(), np.abs(np.log(x.std(0) / sd)).max()))
    means, log_sds = np.array(off).max(axis=0)
    draws = own.sample(DRAWS, seed=seed + 2)
    model, log_q = case.model(), own.log_prob(draws)
    log_p = jax.vmap(model.log_density)(draws["z"]) if hasattr(model, "log_density") else model.log_joint(draws)
    log_w = np.asarray(log_p - log_q, float)
    w = np.exp(log_w - log_w.max())
    # Of one set a single weight can be most of the squares, as far out in a banana's arms: of .96 it then makes .39.
    ess = np.median([each.sum() ** 2 / (each**2).sum() / len(each) for each in np.split(w, SETS)])
    evidence = np.log(w.mean()) + log_w.max() - exact.log_evidence
    guide = type(posterior.guide).__name__
    gap = log_w.mean() - exact.log_evidence
    return Came(card.verdict, means, log_sds, ess, gap, evidence, posterior.status.gradients, seconds, guide)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", CASES)
def test_what_no_gaussian_fits_is_answered(name, seed):
    case = CASES[name]
    found = came(case, seed)
    assert found.verdict in ("good", "corrected"), found
    assert found.mean < MEAN and found.log_sd < case.log_sd + 0.05 and found.ess > case.ess - 0.1, found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["banana, 2", "banana, 10", "ring"])
def test_bananas_and_rings_are_held_within_a_fiftieth_of_a_nat(name, seed):
    """The mean over 100,000 draws of the guide; three standard errors of it are .002."""
    assert -0.02 - 0.004 < came(CASES[name], seed).gap < 0.004


if __name__ == "__main__":
    for name in sys.argv[1:] or CASES:
        for seed in range(3):
            found = came(CASES[name], seed)
            each = f"{found.mean:.2f} sd, {found.log_sd:.2f} log sd, ESS {found.ess:.2f}"
            nats = f"bound {found.gap:+.3f}, evidence {found.off:+.3f}"
            more = f"{nats}, {found.gradients:,} gradients, {found.seconds:.1f} CPU-s"
            print(f"{name}, seed {seed}: {found.verdict}, {each}, {more}, {found.guide}", flush=True)
