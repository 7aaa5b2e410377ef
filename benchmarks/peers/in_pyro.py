"""Models of the suite in Pyro's words, by the name of their posterior: functions of the same arguments, as tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch


def schools(sigma: Any, y: Any) -> None:
    """Eight schools, centred."""
    mu, tau = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(sigma)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def schools_noncentred(sigma: Any, y: Any) -> None:
    """Eight schools, non-centred by hand."""
    mu, tau = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(sigma)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * z, sigma), obs=y)


def linear(x: Any, y: Any, prior_loc: Any, prior_sd: Any, noise_sd: Any) -> None:
    """A linear regression on the raw scale of its columns."""
    beta = pyro.sample("beta", dist.Normal(prior_loc, prior_sd).to_event(1))
    noise = pyro.sample("noise", dist.HalfNormal(noise_sd))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, noise), obs=y)


def beetles(killed: Any, exposed: Any, dose: Any) -> None:
    """Dose and response on the raw dose."""
    a, b = (pyro.sample(name, dist.Normal(0.0, 100.0)) for name in "ab")
    with pyro.plate("dose", len(dose)):
        pyro.sample("killed", dist.Binomial(exposed, logits=a + b * dose), obs=killed)


def pumps(hours: Any, failures: Any) -> None:
    """Failure rates."""
    one = torch.tensor(1.0)
    alpha, beta = pyro.sample("alpha", dist.Exponential(one)), pyro.sample("beta", dist.Gamma(0.1 * one, one))
    with pyro.plate("pump", len(hours)):
        rate = pyro.sample("rate", dist.Gamma(alpha, beta))
        pyro.sample("failures", dist.Poisson(rate * hours), obs=failures)


MODELS: dict[str, Callable] = {
    "schools": schools,
    "schools-noncentred": schools_noncentred,
    "diabetes": linear,
    "beetles": beetles,
    "pumps": pumps,
}
