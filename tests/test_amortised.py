"""Encoders: unbiased over batches, exact where they can be, right for rows never seen, refused where they are wrong."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vbppl as vb
import vbppl.distributions as dist
from vbppl.objectives import ClosedForm
from vbppl.target import Target

Y = np.random.RandomState(0).randn(8) * 1.2


@vb.model
def scores(y):
    """Given y, z is N(0.8 y, 0.2): a linear encoder is exact."""
    with vb.plate("row", len(y)):
        z = vb.sample("z", dist.Normal(0.0, 1.0))
        vb.sample("y", dist.Normal(z, 0.5), obs=vb.subsample(y))


def linear(weights, y):
    return weights["slope"] * y, jnp.exp(weights["log_scale"])


START = {"slope": 0.0, "log_scale": 0.0}
GUIDE = vb.Amortized("z", linear, reads="y", params=START)


@vb.model
def shifted_scores(y):
    """A global, an amortised site and another local one."""
    shift = vb.sample("shift", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(y)):
        z = vb.sample("z", dist.Normal(shift, 1.0))
        scale = vb.sample("scale", dist.LogNormal(shift, 0.4))
        vb.sample("y", dist.Normal(z, scale), obs=vb.subsample(y))


@pytest.mark.parametrize("model", [scores, shifted_scores])
def test_minibatch_gradients_average_to_the_full_gradient_over_all_index_sets(model, x64):
    y, rng = Y[:6], np.random.default_rng(0)
    target = Target.of(model(y))
    target = dataclasses.replace(target, layout=target.layout.showing({"row": 2}))
    phi = jax.tree.map(
        lambda leaf: leaf + 0.3 * rng.standard_normal(np.shape(leaf)), GUIDE.init(target, np.zeros(target.dim))
    )
    noise = rng.standard_normal((3, target.dim))
    slope = jax.jit(jax.value_and_grad(lambda phi, noise, rows: ClosedForm()(GUIDE, phi, target, noise, rows)))
    shared = target.dim % 6  # the first coordinates; then the rows of one site after those of the other
    sets = [np.array(pair) for pair in itertools.combinations(range(6), 2)]
    sites = [np.arange(start, start + 6) for start in range(shared, target.dim, 6)]
    batches = [
        slope(phi, noise[:, np.concatenate([np.arange(shared), *(s[rows] for s in sites)])], {"row": rows})
        for rows in sets
    ]
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *batches)
    for one, other in zip(jax.tree.leaves(mean), jax.tree.leaves(slope(phi, noise, {}))):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-10)
