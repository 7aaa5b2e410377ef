# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnknownMemberType=false
"""What users write, as type checkers see it: `.ci/run` asks Pyright, strictly, a slow test asks mypy; nothing is run.

What is unknown of members is so in JAX (`jnp.zeros`).
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import vbppl as vb
import vbppl.distributions as dist
from vbppl.fitting.calibration import Calibration

Numbers = NDArray[np.float64]


@vb.model
def eight_schools(sigma: Numbers, y: Numbers | None = None, scale: float = 5.0) -> None:
    mu = vb.sample("mu", dist.Normal(0.0, scale))
    tau = vb.sample("tau", dist.HalfCauchy(scale))
    with vb.plate("school", len(sigma)) as rows:
        theta = vb.sample("theta", dist.Normal(mu, tau))
        vb.sample("y", dist.Normal(theta, sigma[rows]), obs=y)
    vb.deterministic("spread", jnp.max(theta) - jnp.min(theta))
    shape: tuple[int, ...] = theta.shape
    vb.factor("penalty", -0.0 * len(shape))


@vb.model
def part(n: int) -> jax.Array:
    return vb.sample("x", dist.Normal(jnp.zeros(n), 1.0).to_event(1))


@vb.model
def whole(n: int) -> None:
    inner = vb.sample("part", part(n))  # what another model returns is whatever its function does
    vb.sample("y", dist.Normal(inner, 1.0).to_event(1))


@vb.guide
def by_hand(sigma: Numbers, y: Numbers | None = None) -> None:
    loc = vb.param("loc", jnp.zeros(()))
    scale = vb.param("scale", 1.0, constraint=dist.constraints.positive)
    vb.sample("mu", dist.Normal(loc, scale))
    vb.sample("tau", dist.LogNormal(loc, scale))


def bare(z: jax.Array) -> jax.Array:
    return -0.5 * jnp.sum(z**2)


def fits(sigma: Numbers, y: Numbers, path: Path) -> vb.Posterior:
    model = eight_schools(sigma, y=y)
    prior: dict[str, jax.Array] = model.sample(10)
    print(prior["mu"].shape, model.log_joint({"mu": 0.0, "tau": 1.0, "theta": y}), model.condition(mu=0.0))
    posterior = vb.fit(model, "full_rank", method=vb.Deterministic(kind="auto"), precision="session", seconds=2.0)
    vb.fit(model, by_hand(sigma, y), method=vb.Stochastic(steps=100))
    vb.fit(model, vb.MAP("unconstrained"), start=posterior)
    vb.fit(vb.decenter(model, "theta"), vb.guides.Structured("school"))
    vb.fit_many(eight_schools, [{"sigma": sigma, "y": y}], guide="mean_field")
    vb.fit(vb.density(bare, 2))
    vb.save(posterior, path)
    return vb.load(path, model)


def answers(posterior: vb.Posterior, sigma: Numbers) -> float:
    posterior.check().require("good")
    card: vb.inference.Status = posterior.status
    print(posterior.summary("mu"), card.reason, posterior.params["loc"])
    draws = posterior.sample(100, seed=jax.random.key(0))
    predicted: dict[str, jax.Array] = posterior.predict(eight_schools(sigma), n=10)
    refined: vb.Posterior = vb.refine(posterior, n=200)
    share = refined.expectation(lambda site: site["tau"] > 1.0)
    widths: np.ndarray = posterior.quantiles([0.05, 0.95])["tau"]
    print(draws["theta"], predicted["y"].shape, share.value, widths.shape)
    gap: Calibration = vb.calibrate(eight_schools(sigma), n=10)
    print(gap)
    return posterior.elbo.value - posterior.elbo.se
