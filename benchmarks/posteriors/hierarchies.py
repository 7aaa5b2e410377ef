"""Posteriors with hierarchies: groups that share a distribution, centred and not."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

import vbppl as vb
import vbppl.distributions as dist
from benchmarks.posteriors import data


@vb.model
def eight_schools(sigma, y):
    """Effects of coaching; the scale between schools hardly known, so a funnel when centred."""
    mu = vb.sample("mu", dist.Normal(0.0, 5.0))
    tau = vb.sample("tau", dist.HalfCauchy(5.0))
    with vb.plate("school", len(sigma)):
        theta = vb.sample("theta", dist.Normal(mu, tau))
        vb.sample("y", dist.Normal(theta, sigma), obs=y)


@vb.model
def eight_schools_noncentred(sigma, y):
    """The same, non-centred by hand."""
    mu = vb.sample("mu", dist.Normal(0.0, 5.0))
    tau = vb.sample("tau", dist.HalfCauchy(5.0))
    with vb.plate("school", len(sigma)):
        theta = vb.deterministic("theta", mu + tau * vb.sample("z", dist.Normal(0.0, 1.0)))
        vb.sample("y", dist.Normal(theta, sigma), obs=y)


@vb.model
def rats(days, weights):
    """Growth curves, a line a rat (BUGS volume 1)."""
    alpha_mean = vb.sample("alpha_mean", dist.Normal(250.0, 100.0))
    beta_mean = vb.sample("beta_mean", dist.Normal(0.0, 20.0))
    alpha_sd = vb.sample("alpha_sd", dist.HalfNormal(50.0))
    beta_sd = vb.sample("beta_sd", dist.HalfNormal(5.0))
    noise = vb.sample("noise", dist.HalfNormal(50.0))
    with vb.plate("rat", weights.shape[0], dim=-2):
        alpha = vb.sample("alpha", dist.Normal(alpha_mean, alpha_sd))
        beta = vb.sample("beta", dist.Normal(beta_mean, beta_sd))
        with vb.plate("day", weights.shape[1], dim=-1):
            vb.sample("weight", dist.Normal(alpha + beta * (days - 22.0), noise), obs=weights)


@vb.model
def pumps(hours, failures):
    """Failure rates of pumps (BUGS volume 1)."""
    alpha = vb.sample("alpha", dist.Exponential(1.0))
    beta = vb.sample("beta", dist.Gamma(0.1, 1.0))
    with vb.plate("pump", len(hours)):
        rate = vb.sample("rate", dist.Gamma(alpha, beta))
        vb.sample("failures", dist.Poisson(rate * hours), obs=failures)


@vb.model
def seeds(r, n, seed, root):
    """Germination with overdispersion, centred; the scale of the plates' effects is small (BUGS volume 1)."""
    b = vb.sample("b", dist.Normal(jnp.zeros(4), 2.0).to_event(1))
    sigma = vb.sample("sigma", dist.HalfNormal(1.0))
    with vb.plate("plate", len(r)):
        effect = vb.sample("effect", dist.Normal(0.0, sigma))
        logits = b[0] + b[1] * seed + b[2] * root + b[3] * seed * root + effect
        vb.sample("r", dist.Binomial(n, logits=logits), obs=r)


@vb.model
def surgical(r, n):
    """Mortality in twelve hospitals (BUGS volume 1)."""
    mu = vb.sample("mu", dist.Normal(0.0, 5.0))
    sigma = vb.sample("sigma", dist.HalfNormal(2.0))
    with vb.plate("hospital", len(r)):
        logits = vb.sample("logits", dist.Normal(mu, sigma))
        vb.sample("r", dist.Binomial(n, logits=logits), obs=r)


@vb.model
def dyes(y):
    """Two components of variance, on the raw scale."""
    mean = vb.sample("mean", dist.Normal(1500.0, 200.0))
    between = vb.sample("between", dist.HalfNormal(100.0))
    within = vb.sample("within", dist.HalfNormal(100.0))
    with vb.plate("of_batch", y.shape[0], dim=-2):
        batch = vb.sample("batch", dist.Normal(mean, between))
        with vb.plate("sample", y.shape[1], dim=-1):
            vb.sample("y", dist.Normal(batch, within), obs=y)


@vb.model
def radon(county, floor, uranium, y, counties):
    """Radon in the houses of Minnesota: intercepts by county, explained by uranium (Gelman and Hill 2007, ch. 12)."""
    g = vb.sample("g", dist.Normal(jnp.zeros(2), 2.0).to_event(1))
    b = vb.sample("b", dist.Normal(0.0, 2.0))
    sigma_a = vb.sample("sigma_a", dist.HalfNormal(1.0))
    sigma = vb.sample("sigma", dist.HalfNormal(1.0))
    with vb.plate("county", counties):
        a = vb.sample("a", dist.Normal(g[0] + g[1] * uranium, sigma_a))
    with vb.plate("house", len(y)):
        vb.sample("y", dist.Normal(a[county] + b * floor, sigma), obs=y)


def radon_of(path):
    """The radon model on the 919 houses of `path`: an .npz with the columns of posteriordb's `radon_mn`."""
    columns = np.load(path)
    county = columns["county_idx"] - 1
    uranium = np.zeros(county.max() + 1)
    uranium[county] = columns["log_uppm"]
    return radon(county, columns["floor_measure"].astype(float), uranium, columns["log_radon"], len(uranium))


SCHOOLS = (data.SCHOOLS_SIGMA, data.SCHOOLS_Y)
