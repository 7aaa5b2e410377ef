"""The bound of a guide at all rows, against a closed form: unbiased, however few draws a block of rows may have."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import gammaln

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.keys import raw_key
from vbppl.guides.base import Guide, Start
from vbppl.inference import bound
from vbppl.target.target import Target

ROWS, BATCH, LOC, SD = 20_000, 100, 0.1, 0.8
Y = np.random.default_rng(0).poisson(1.0, ROWS).astype(np.float32)


@vb.model
def counts(y):
    """Counts with a rate for each row."""
    with vb.plate("row", len(y)):
        x = vb.sample("x", dist.Normal(0.0, 1.0))
        vb.sample("y", dist.Poisson(jnp.exp(x)), obs=vb.subsample(y))


def table(target: Target) -> tuple[Guide, dict]:
    """One normal for each row."""
    guide = vb.guides.Structured("row")
    start = Start(np.full(target.dim, LOC), np.full(target.dim, np.log(SD)))
    return guide, guide.init(target, start)


def network(target: Target) -> tuple[Guide, dict]:
    """The same normals from an encoder with so many weights that even one draw of all rows is dear."""

    def encoder(weights, y):
        return weights["loc"] + 0 * y, SD + 0 * y

    weights = {"loc": np.float32(LOC), "idle": np.zeros(30_000, np.float32)}
    guide = vb.Amortized("x", encoder, reads="y", params=weights)
    return guide, guide.init(target, Start(np.zeros(target.dim)))


@pytest.mark.parametrize("make", [table, pytest.param(network, marks=pytest.mark.slow)])
def test_the_bound_of_many_rows_is_unbiased(make):
    """`E[exp x] = exp(LOC + SD^2 / 2)`: quantiles in the place of draws would be hundreds of nats above."""
    target = Target.of(counts(Y)).with_lengths({"row": BATCH})
    found = bound.elbo(*make(target), target, raw_key(0))
    likelihood = np.sum(Y * LOC - gammaln(Y + 1)) - ROWS * np.exp(LOC + SD**2 / 2)
    divergence = ROWS * ((SD**2 + LOC**2 - 1) / 2 - np.log(SD))
    assert abs(found.value - (likelihood - divergence)) < 4 * found.se
    assert found.se < 100
