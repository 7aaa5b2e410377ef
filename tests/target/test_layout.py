"""Where latent sites, and the rows shown of them, lie in the flat vector: against NumPy's indexing."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import vbppl as vb
import vbppl.distributions as dist


@vb.model
def crossed():
    vb.sample("level", dist.Normal(0.0, 1.0))
    users, items = vb.plate("user", 4, dim=-2), vb.plate("item", 3, dim=-1)
    with users:
        vb.sample("kind", dist.Normal(jnp.zeros((4, 1, 2)), 1.0).to_event(1))
    with users, items:
        vb.sample("share", dist.Dirichlet(jnp.ones(3)))


LAYOUT = vb.target(crossed()).layout
ROWS = [{"user": np.array([2, 0])}, {"item": np.array([1])}, {"user": np.array([3]), "item": np.array([2, 0])}]


@pytest.mark.parametrize("rows", ROWS, ids=["users", "items", "both"])
def test_the_places_of_rows_are_those_that_numpy_takes(rows):
    expected, weights = [], []
    for slot in LAYOUT.slots:
        at, whole = np.arange(slot.start, slot.stop).reshape(slot.unconstrained), slot.stop - slot.start
        for plate, axis in (("user", 0), ("item", 1)):
            if plate in rows and slot.name in (("kind", "share") if plate == "user" else ("share",)):
                at = np.take(at, rows[plate], axis=axis)
        expected.append(at.ravel())
        weights.append(np.full(at.size, whole / at.size))
    np.testing.assert_array_equal(LAYOUT.places(rows), np.concatenate(expected))
    np.testing.assert_allclose(LAYOUT.weights(rows), np.concatenate(weights))
    shown = LAYOUT.showing({name: len(indices) for name, indices in rows.items()})
    assert sum(np.prod(slot.shown(shown.shown)) for slot in shown.slots) == len(np.concatenate(expected))


def test_an_event_may_have_another_shape_in_the_flat_vector():
    share = LAYOUT.slots[-1]
    assert (share.shape, share.unconstrained, share.event_dim) == ((4, 3, 3), (4, 3, 2), 1)
    assert share.shown({"user": 2}) == (2, 3, 2) and share.weight({"user": 2, "item": 1}) == 6.0


def test_only_plates_with_latent_rows_are_partly_shown():
    assert LAYOUT.is_partly_shown({"item": np.array([0])})
    assert not LAYOUT.is_partly_shown({})
    assert LAYOUT.showing({"item": 3}).shown == {}
