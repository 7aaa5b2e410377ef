"""A linear Gaussian model of rows, whose evidence and best guides are closed forms, and encoders for it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from scipy import stats

import vbppl as vb
import vbppl.distributions as dist

LOADINGS = np.array([[1.0, -0.5, 0.3, 0.8], [0.2, 0.9, -0.7, 0.1]], np.float32)
NOISE = 0.5
RNG = np.random.default_rng(0)
ROWS = (RNG.standard_normal((60, 2)) @ LOADINGS + NOISE * RNG.standard_normal((60, 4))).astype(np.float32)
NEW = (RNG.standard_normal((37, 2)) @ LOADINGS + NOISE * RNG.standard_normal((37, 4))).astype(np.float32)
EVIDENCE = stats.multivariate_normal(np.zeros(4), LOADINGS.T @ LOADINGS + NOISE**2 * np.eye(4))
PRECISION = np.eye(2) + LOADINGS @ LOADINGS.T / NOISE**2
GAIN = np.linalg.solve(PRECISION, LOADINGS / NOISE**2)  # the posterior's mean is GAIN x
# The best independent normals of a Gaussian have its mean and 1 / precision as variances.
BEST_SD = np.diag(PRECISION) ** -0.5


@vb.model
def linear(x):
    with vb.plate("row", len(x)):
        z = vb.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        vb.sample("x", dist.Normal(z @ LOADINGS, NOISE).to_event(1), obs=vb.subsample(x, 1))


def weights(loc=GAIN.T, sd=BEST_SD):
    return {"loc": np.asarray(loc, np.float32), "log_sd": np.log(np.asarray(sd, np.float32))}


def encode(w, x):
    return x @ w["loc"], jnp.exp(w["log_sd"]) * jnp.ones((len(x), 2))


@vb.guide
def program(x, init):
    with vb.plate("row", len(x)):
        loc, sd = encode(vb.param("encoder", init), vb.subsample(x, 1))
        vb.sample("z", dist.Normal(loc, sd).to_event(1))


KINDS = {
    "program": lambda x, init: program(x, init),
    "amortized": lambda x, init: vb.Amortized("z", encode, reads="x", params=init),
}
