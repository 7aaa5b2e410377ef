"""Posteriors of regressions: raw scales, correlated columns, outliers, curves, separated classes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

import vbppl as vb
import vbppl.distributions as dist
from benchmarks.posteriors import data


@vb.model
def linear(x, y, prior_loc, prior_sd, noise_sd):
    """A linear regression on the raw scale of its columns."""
    beta = vb.sample("beta", dist.Normal(prior_loc, prior_sd).to_event(1))
    noise = vb.sample("noise", dist.HalfNormal(noise_sd))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(x @ beta, noise), obs=y)


def diabetes():
    """Progress of diabetes on ten raw columns, some correlated above 0.9 (Efron et al. 2004; scikit-learn)."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True, scaled=False)
    x = np.column_stack([np.ones(len(y)), x])
    # A change of one column sd changes the response by a few hundred at most.
    prior_sd = np.concatenate([[1000.0], 300.0 / x[:, 1:].std(axis=0)])
    return linear(x, y, np.zeros(x.shape[1]), prior_sd, 100.0)


@vb.model
def horseshoe(x, y):
    """A sparse regression: heavy-tailed local scales, so many funnels (Carvalho, Polson and Scott 2010)."""
    tau = vb.sample("tau", dist.HalfCauchy(0.1))
    noise = vb.sample("noise", dist.HalfNormal(1.0))
    with vb.plate("column", x.shape[1]):
        local = vb.sample("local", dist.HalfCauchy(1.0))
        beta = vb.sample("beta", dist.Normal(0.0, tau * local))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(x @ beta, noise), obs=y)


def diabetes_horseshoe():
    """Standardised diabetes under a horseshoe."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    return horseshoe(x * np.sqrt(len(y)), (y - y.mean()) / y.std())


@vb.model
def logistic(x, y):
    """A logistic regression on standardised columns."""
    intercept = vb.sample("intercept", dist.Normal(0.0, 2.5))
    beta = vb.sample("beta", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Bernoulli(logits=intercept + x @ beta), obs=y)


def breast_cancer():
    """Wisconsin's tumours, 30 columns correlated up to 0.998 (Street et al. 1993; scikit-learn)."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return logistic((x - x.mean(axis=0)) / x.std(axis=0), y)


@vb.model
def softmax(x, y, classes):
    """Classes by linear scores, the first class as the zero."""
    with vb.plate("class", classes - 1):
        weights = vb.sample("weights", dist.Normal(jnp.zeros(x.shape[1]), 5.0).to_event(1))
    logits = jnp.concatenate([jnp.zeros((len(x), 1)), x @ weights.T], axis=1)
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Categorical(logits=logits), obs=y)


def iris():
    """Fisher's irises, raw centimetres; one class separated from the others (Fisher 1936; scikit-learn)."""
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    return softmax(np.column_stack([np.ones(len(y)), x]), y, 3)


@vb.model
def beetles(killed, exposed, dose):
    """Bliss's dose and response on the raw dose: intercept and slope correlate by -0.9998."""
    a = vb.sample("a", dist.Normal(0.0, 100.0))
    b = vb.sample("b", dist.Normal(0.0, 100.0))
    with vb.plate("dose", len(dose)):
        vb.sample("killed", dist.Binomial(exposed, logits=a + b * dose), obs=killed)


@vb.model
def stack_loss(y, x):
    """A regression with outliers: Student's t, its degrees of freedom latent, raw columns."""
    a = vb.sample("a", dist.Normal(0.0, 100.0))
    beta = vb.sample("beta", dist.Normal(jnp.zeros(3), 5.0).to_event(1))
    noise = vb.sample("noise", dist.HalfNormal(10.0))
    freedom = vb.sample("freedom", dist.Gamma(2.0, 0.1))
    with vb.plate("day", len(y)):
        vb.sample("y", dist.StudentT(freedom, a + x @ beta, noise), obs=y)


@vb.model
def salmonella(doses, counts):
    """Counts with overdispersion, dose on the raw scale (BUGS volume 1, "Salm")."""
    a = vb.sample("a", dist.Normal(0.0, 10.0))
    b = vb.sample("b", dist.Normal(0.0, 10.0))
    c = vb.sample("c", dist.Normal(0.0, 10.0))
    sigma = vb.sample("sigma", dist.HalfNormal(1.0))
    with vb.plate("dose", counts.shape[0], dim=-2), vb.plate("plate", counts.shape[1], dim=-1):
        extra = vb.sample("extra", dist.Normal(0.0, sigma))
        log_rate = a + b * jnp.log(doses + 10.0)[:, None] + c * doses[:, None] + extra
        vb.sample("y", dist.Poisson(jnp.exp(log_rate)), obs=counts)


@vb.model
def dugongs(length, age):
    """A growth curve that levels off (BUGS volume 2)."""
    alpha = vb.sample("alpha", dist.Normal(0.0, 10.0))
    beta = vb.sample("beta", dist.HalfNormal(10.0))
    gamma = vb.sample("gamma", dist.Uniform(0.5, 1.0))
    noise = vb.sample("noise", dist.HalfNormal(1.0))
    with vb.plate("dugong", len(age)):
        vb.sample("length", dist.Normal(alpha - beta * gamma**age, noise), obs=length)


@vb.model
def puromycin(rate, concentration, treated):
    """The Michaelis-Menten curve, twice (Bates and Watts 1988)."""
    v_max = vb.sample("v_max", dist.LogNormal(jnp.log(200.0) * jnp.ones(2), 1.0).to_event(1))
    half = vb.sample("half", dist.LogNormal(jnp.log(0.1) * jnp.ones(2), 1.0).to_event(1))
    noise = vb.sample("noise", dist.HalfNormal(50.0))
    with vb.plate("run", len(rate)):
        curve = v_max[treated] * concentration / (half[treated] + concentration)
        vb.sample("rate", dist.Normal(curve, noise), obs=rate)


@vb.model
def separation(x, y):
    """Two classes without overlap under Cauchy priors (Gelman et al. 2008): tails as heavy as the prior's."""
    a = vb.sample("a", dist.Cauchy(0.0, 10.0))
    b = vb.sample("b", dist.Cauchy(0.0, 2.5))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Bernoulli(logits=a + b * x), obs=y)


SEPARATED = (np.array([-1.5, -1.0, -0.8, -0.5, -0.1, 0.3, 0.6, 0.9, 1.2, 1.6]), np.array([0] * 5 + [1] * 5))


def separation_exactly(draws: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws from the posterior of `separation` itself: from the prior, each kept with its likelihood's probability."""
    x, y = SEPARATED
    kept: list[np.ndarray] = []
    while sum(map(len, kept)) < draws:
        a, b = 10.0 * rng.standard_cauchy(10**6), 2.5 * rng.standard_cauchy(10**6)
        log_likelihood = sum(-np.logaddexp(0.0, (1 - 2 * label) * (a + b * at)) for at, label in zip(x, y))
        kept.append(np.stack([a, b], axis=1)[np.log(rng.uniform(size=10**6)) < log_likelihood])
    a, b = np.concatenate(kept)[:draws].T
    return {"a": a, "b": b}


def beetles_of():
    """Bliss's table."""
    return beetles(data.BEETLES[0], data.BEETLES[1], data.BEETLES[2])


def stack_loss_of():
    """Brownlee's table."""
    return stack_loss(data.STACK_LOSS[0], data.STACK_LOSS[1:].T)


def puromycin_of():
    """Both runs."""
    return puromycin(data.PUROMYCIN[0], data.PUROMYCIN[1], data.PUROMYCIN[2].astype(int))
