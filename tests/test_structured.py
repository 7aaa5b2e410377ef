"""Guides with rows of their own: unbiased by row and batch, exact where the posterior is Gaussian, O(batch) draws."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vbppl as vb
import vbppl.distributions as dist
from vbppl.guides.gaussian import FullRank, MeanField
from vbppl.guides.structured import Structured
from vbppl.objectives import ClosedForm, StickingTheLanding
from vbppl.target import Target

ROWS, BATCH, NOISE, SPREAD = 6, 2, 0.8, 0.7
Y = np.array([0.5, -1.0, 2.0, 0.3, 1.4, -0.2])


@vb.model
def groups(y):
    mu = vb.sample("mu", dist.Normal(0.0, 2.0))
    with vb.plate("row", len(y)):
        theta = vb.sample("theta", dist.Normal(mu, SPREAD))
        vb.sample("y", dist.Normal(theta, NOISE), obs=vb.subsample(y))


@vb.model
def groups_of_simplices(counts):
    """Local sites of two kinds, one with an event whose unconstrained shape is another."""
    tilt = vb.sample("tilt", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(counts)):
        rate = vb.sample("rate", dist.Gamma(2.0, jnp.exp(tilt)))
        p = vb.sample("p", dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))
        vb.sample("counts", dist.Poisson(rate[:, None] * p).to_event(1), obs=vb.subsample(counts, event_dim=1))


COUNTS = np.random.RandomState(0).poisson(2.0, (ROWS, 3))


def problem(model, guide, seed=0):
    """A target that shows `BATCH` rows, parameters somewhere, and one noise for all coordinates."""
    target = Target.of(model)
    target = Target(target.model, target.params, target.layout.showing({"row": BATCH}))
    rng = np.random.default_rng(seed)
    phi = jax.tree.map(
        lambda leaf: jnp.asarray(leaf + 0.3 * rng.standard_normal(leaf.shape)), guide.init(target, np.zeros(target.dim))
    )
    return target, phi, rng.standard_normal((3, target.dim))


def columns(target, rows):
    """The coordinates that belong to `rows` and to no row, by the names of the coordinates."""
    names = target.layout.coordinates

    def belongs(name):
        inside = name.partition("[")[2].rstrip("]").split(",")
        return not inside[0] or name.startswith(("mu", "tilt")) or int(inside[0]) in set(np.asarray(rows).tolist())

    keep = [i for i, name in enumerate(names) if belongs(name)]
    site = {name: n for n, name in enumerate(dict.fromkeys(name.partition("[")[0] for name in names))}
    order = {int(row): place for place, row in enumerate(rows)}

    def place(i):
        inside = names[i].partition("[")[2].rstrip("]").split(",")
        row = order[int(inside[0])] if inside[0] else 0
        return (site[names[i].partition("[")[0]], row, i)

    return sorted(keep, key=place)


GUIDES = [MeanField(), Structured("row"), Structured("row", MeanField()), FullRank()]


@pytest.mark.parametrize("objective", [ClosedForm(), StickingTheLanding()], ids=["closed", "sticking"])
@pytest.mark.parametrize("guide", GUIDES, ids=["mean_field", "structured", "structured_mean_field", "full_rank"])
@pytest.mark.parametrize("model", [groups(Y), groups_of_simplices(COUNTS)], ids=["normal", "simplex"])
def test_minibatch_gradients_average_to_the_full_gradient_over_all_index_sets(model, guide, objective, x64):
    target, phi, noise = problem(model, guide)
    value_and_slope = jax.jit(jax.value_and_grad(lambda phi, noise, rows: objective(guide, phi, target, noise, rows)))
    sets = list(itertools.permutations(range(ROWS), BATCH))
    found = []
    for rows in sets:
        part = noise if isinstance(guide, FullRank) else noise[:, columns(target, rows)]
        found.append(value_and_slope(phi, part, {"row": np.array(rows)}))
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *found)
    full = value_and_slope(phi, noise, {})
    for one, other in zip(jax.tree.leaves(mean), jax.tree.leaves(full)):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-10)
    assert np.std([value for value, _ in found]) > 0.1
