"""Further posteriors, that no limit or rule of this library was chosen by: seven of posteriordb, 21 of textbooks.

The rule, written and committed before the first fit of any of them; none may be left out for what a fit says of it.

1. posteriordb: every posterior *without* stored reference draws (those with are the suite `posteriordb`) whose
   program has a latent scale of a prior, a discrete latent or a mean nonlinear in what is latent, and at most 70
   unconstrained dimensions and 1,000 numbers of data; its data are not in the suite before; no hidden Markov chain
   and no differential equation (that suite has them), no two components that may be exchanged (NUTS gives no
   reference of them); of programs on capture histories without effects of animals (M0, Mb, Mt) the one with the most
   parameters. Priors are those of the Stan program, flat ones too, and coordinates are its own, centred or not.
2. Textbooks (`kinds.py`): one model of each kind in this list, none of which is above or in the suite before:
   frailty, counts with random effects, zero inflation, ordinal with random effects, Gamma, Beta with varying
   precision, item responses with a latent scale of slopes, Dirichlet-multinomial, dose response, robust with latent
   degrees of freedom, autoregression under noise, growth curves with random asymptotes, two regressions, correlated
   slopes, meta-analysis with t effects, two clusters of data under a Cauchy likelihood, two exponentials, broken
   stick, groups with scales of their own, crossed counts, errors in variables. Data are simulated once, by NumPy's
   `default_rng` of the number in the list and by the model itself at values that stand in the code, or are published.

References are made as the suite's are; an answer is right by its limits too.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from scipy import special

import vbppl as vb
import vbppl.distributions as dist

# What follows is from posteriordb (https://github.com/stan-dev/posteriordb), facts of the publications that it names:
# Kéry (2010), peregrines and a capture history; Gelman and Hill (2007), dogs and pilots; a case study of Stan, losses
# of insurers; Lee and Wagenmakers (2013), surveys.
PEREGRINES = np.array(
    """26 33 32 34 22 30 24 24 28 28 36 43 36 36 44 57 56 49 63 84 59 87 91 100 121 132 151 149 145 221 209 198 251 258
    262 265 259 261 263 244""".split(),
    int,
)
HISTORIES = {"000": 150, "001": 24, "010": 18, "011": 32, "100": 2, "101": 2, "110": 3, "111": 6}
DOGS = """
1101010000000000000000000 1111111011111100000000000 1111100100110010100000000 1001100001010100000000000
1111111100000000000000000 1111110000110100000000000 1111101111110000000000000 1111111001100000000000000
1111101010010111000001001 1111011001010000000000000 1111111111000000100000000 1111100000110000000000000
1110010110000000000000000 1111010010000000000000000 1110100100000000000000000 1111111000000000000000000
1010111010000100000000000 1111010100000000000000000 1011110111000000000000000 1111001010010100000000000
1110000010000000000000000 1101010000000000110000000 1111111000000000000000000 1111111100010111001000000
1111110100001010000000000 1101000100100000000000000 1111010000000000000000000 1110101000101000000000000
1111001100010101010000000 1111000000101000000000000
"""
PREMIUMS = np.array([957.0, 3695, 6138, 17533, 29341, 37194, 46095, 51512, 52481, 56978])
LOSSES = np.array(
    """133 333 431 570 615 615 615 614 614 614 934 1746 2365 2579 2763 2966 2940 2978 2978 2030 4864 6880 8087 8595
    8743 8763 8762 4537 11527 15123 16656 17321 18076 18308 7564 16061 22465 25204 26517 27124 8343 19900 26732
    30079 31249 12565 26922 33867 38338 13437 26012 31677 12604 23446 12292""".split(),
    float,
)
PILOTS = np.array(
    """.375 0 .375 0 .333333 1 .125 1 .25 0 .5 .125 .5 1 .125 .857143 .5 .666667 .333333 0 .142857 1 0 1
    .142857 0 .714286 0 .285714 1 .142857 1 .428571 0 .285714 .857143 .857143 .857143 .142857 .75""".split(),
    float,
).reshape(5, 8)
SURVEYS = np.array([16, 18, 22, 25, 27])


@vb.model
def peregrines(year, counts):
    """`GLMM_Poisson_model`: a cubic trend with effects of years, centred."""
    alpha = vb.sample("alpha", dist.Uniform(-20.0, 20.0))
    beta = [vb.sample(f"beta{k}", dist.Uniform(-10.0, 10.0)) for k in (1, 2, 3)]
    sigma = vb.sample("sigma", dist.Uniform(0.0, 5.0))
    with vb.plate("year", len(year)):
        eps = vb.sample("eps", dist.Normal(0.0, sigma))
        trend = alpha + beta[0] * year + beta[1] * year**2 + beta[2] * year**3
        vb.sample("C", dist.Poisson(jnp.exp(trend + eps)), obs=counts)


def peregrines_of() -> vb.Model:
    """In posteriordb's units of years."""
    return peregrines((np.arange(40) - 19.5) * 0.08553989227683026, PEREGRINES)


@vb.model
def captures(seen):
    """`Mt_model`: how many animals there are, with a chance of capture for each occasion and 150 that may not exist."""
    omega = vb.sample("omega", dist.Uniform(0.0, 1.0))
    p = vb.sample("p", dist.Uniform(0.0, 1.0).expand((3,)).to_event(1))
    with vb.plate("animal", len(seen), dim=-2):
        z = vb.sample("z", dist.Bernoulli(omega))
        with vb.plate("occasion", 3):
            vb.sample("seen", dist.Bernoulli(p * z), obs=seen)


def captures_of() -> vb.Model:
    """All 237 rows."""
    return captures(np.array([[int(one) for one in h] for h, n in HISTORIES.items() for _ in range(n)]))


def _dogs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shocks and avoidances before each trial but the first, where every dog is shocked for sure, and its outcome."""
    y = np.array([[int(one) for one in dog] for dog in DOGS.split()])
    return np.cumsum(y, axis=1)[:, :-1], np.cumsum(1 - y, axis=1)[:, :-1], y[:, 1:]


@vb.model
def dogs(shocks, avoided, y):
    """`dogs_hierarchical`, which has no hierarchy: a chance that falls by a factor with every trial."""
    a, b = (vb.sample(name, dist.Uniform(0.0, 1.0)) for name in "ab")
    with vb.plate("dog", len(y), dim=-2), vb.plate("trial", y.shape[1]):
        vb.sample("y", dist.Bernoulli(a**shocks * b**avoided), obs=y)


def dogs_of() -> vb.Model:
    """Thirty dogs."""
    return dogs(*_dogs())


@vb.model
def dogs_each(shocks, avoided, y):
    """`dogs_nonhierarchical`, which has one: two factors a dog, correlated, non-centred by hand."""
    mu = vb.sample("mu", dist.Logistic(jnp.zeros(2), 1.0).to_event(1))
    sigma = vb.sample("sigma", dist.HalfNormal(jnp.ones(2)).to_event(1))
    correlation = vb.sample("L", dist.LKJCholesky(2, 2.0))
    with vb.plate("dog", len(y), dim=-2):
        with vb.plate("side", 2):
            z = vb.sample("z", dist.Normal(0.0, 1.0))
        logits = mu + z @ (sigma[:, None] * correlation)
        a, b = 1 / (1 + jnp.exp(-logits[:, :1])), 1 / (1 + jnp.exp(-logits[:, 1:]))
        with vb.plate("trial", y.shape[1]):
            vb.sample("y", dist.Bernoulli(a**shocks * b**avoided), obs=y)


def dogs_each_of() -> vb.Model:
    """Thirty dogs."""
    return dogs_each(*_dogs())


@vb.model
def losses(cohort, time, premium, loss):
    """`losscurve_sislob`: how insurers' losses grow, a ratio of losses for each year of contracts."""
    omega, theta = (vb.sample(name, dist.LogNormal(0.0, 0.5)) for name in ("omega", "theta"))
    mu = vb.sample("mu_LR", dist.Normal(0.0, 0.5))
    sd = vb.sample("sd_LR", dist.LogNormal(0.0, 0.5))
    noise = vb.sample("loss_sd", dist.LogNormal(0.0, 0.7))
    with vb.plate("year", len(premium)):
        ratio = vb.sample("LR", dist.LogNormal(mu, sd))
    grown = 1 - jnp.exp(-((time / theta) ** omega))
    with vb.plate("row", len(loss)):
        vb.sample("loss", dist.Normal(ratio[cohort] * premium[cohort] * grown, noise * premium[cohort]), obs=loss)


def losses_of() -> vb.Model:
    """Ten years of contracts, seen for ten years to one."""
    cohort = np.repeat(np.arange(10), np.arange(10, 0, -1))
    return losses(cohort, np.concatenate([np.arange(1.0, 11 - c) for c in range(10)]), PREMIUMS, LOSSES)


@vb.model
def pilots(y):
    """`pilots`: effects of treatments and of airports, both with a mean, centred."""
    mu = [vb.sample(f"mu_{name}", dist.Normal(0.0, 1.0)) for name in "ab"]
    sigma_a, sigma_b, sigma = (vb.sample(f"sigma_{name}", dist.Uniform(0.0, 100.0)) for name in "aby")
    with vb.plate("group", 5, dim=-2):
        a = vb.sample("a", dist.Normal(10 * mu[0], sigma_a))
    with vb.plate("airport", 8, dim=-1):
        b = vb.sample("b", dist.Normal(10 * mu[1], sigma_b))
        with vb.plate("group", 5, dim=-2):
            vb.sample("y", dist.Normal(a + b, sigma), obs=y)


def pilots_of() -> vb.Model:
    """Forty rates of success."""
    return pilots(PILOTS)


@vb.model
def surveys(most, k):
    """`Survey_model`: how many surveys were sent and how many of them come back, both unknown."""
    theta = vb.sample("theta", dist.Uniform(0.0, 1.0))
    n = vb.sample("n", dist.DiscreteUniform(1, most))
    with vb.plate("helper", len(k)):
        vb.sample("k", dist.Binomial(n, theta), obs=k)


def surveys_of() -> vb.Model:
    """Five helpers, at most 500 surveys."""
    return surveys(500, SURVEYS)


def surveys_exactly(draws: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws from a fine grid of the chance, n summed out, uniform within a cell."""
    theta, n = (np.arange(20_000) + 0.5) / 20_000, np.arange(SURVEYS.max(), 501)[:, None]
    total, most = SURVEYS.sum(), len(SURVEYS) * n
    known = special.gammaln(n + 1) * len(SURVEYS) - special.gammaln(n - SURVEYS + 1).sum(axis=1, keepdims=True)
    log_p = special.logsumexp(known + total * np.log(theta) + (most - total) * np.log1p(-theta), axis=0)
    weights = np.exp(log_p - log_p.max())
    return {"theta": rng.choice(theta, draws, p=weights / weights.sum()) + rng.uniform(-0.5, 0.5, draws) / 20_000}
