"""Models of the suite in PyMC's words, by the name of their posterior: functions of the same arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pymc as pm


def schools(sigma: Any, y: Any) -> None:
    """Eight schools, centred."""
    mu, tau = pm.Normal("mu", 0.0, 5.0), pm.HalfCauchy("tau", 5.0)
    theta = pm.Normal("theta", mu, tau, shape=len(sigma))
    pm.Normal("y", theta, sigma, observed=y)


def schools_noncentred(sigma: Any, y: Any) -> None:
    """Eight schools, non-centred by hand."""
    mu, tau = pm.Normal("mu", 0.0, 5.0), pm.HalfCauchy("tau", 5.0)
    z = pm.Normal("z", 0.0, 1.0, shape=len(sigma))
    pm.Normal("y", mu + tau * z, sigma, observed=y)


def linear(x: Any, y: Any, prior_loc: Any, prior_sd: Any, noise_sd: float) -> None:
    """A linear regression on the raw scale of its columns."""
    beta, noise = pm.Normal("beta", prior_loc, prior_sd), pm.HalfNormal("noise", noise_sd)
    pm.Normal("y", x @ beta, noise, observed=y)


def beetles(killed: Any, exposed: Any, dose: Any) -> None:
    """Dose and response on the raw dose."""
    a, b = pm.Normal("a", 0.0, 100.0), pm.Normal("b", 0.0, 100.0)
    pm.Binomial("killed", exposed, logit_p=a + b * dose, observed=killed)


def pumps(hours: Any, failures: Any) -> None:
    """Failure rates."""
    alpha, beta = pm.Exponential("alpha", 1.0), pm.Gamma("beta", 0.1, 1.0)
    rate = pm.Gamma("rate", alpha, beta, shape=len(hours))
    pm.Poisson("failures", rate * hours, observed=failures)


MODELS: dict[str, Callable] = {
    "schools": schools,
    "schools-noncentred": schools_noncentred,
    "diabetes": linear,
    "beetles": beetles,
    "pumps": pumps,
}
