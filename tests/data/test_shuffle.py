"""Every row is shown once an epoch, in an order that is as good as random."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.data.shuffle import ROUNDS, Minibatches, permuted


@functools.partial(jax.jit, static_argnums=(0, 3))
def ahead(stream, seed, cursor, steps):
    return stream.ahead(jax.random.key(seed), cursor, steps)["row"]


@settings(max_examples=3, deadline=None)  # each size is a program of its own
@given(st.data(), st.integers(1, 70), st.integers(0, 2**31 - 1))
def test_every_row_is_shown_once_an_epoch_whatever_the_sizes(data, size, seed):
    length = data.draw(st.integers(1, size))
    stream = Minibatches((("row", size, length),))
    epochs = np.asarray(ahead(stream, seed, stream.start(), 3 * size)).reshape(-1, size)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(size), (3 * length, 1)))


@pytest.mark.parametrize(
    "size", [1, 2, 3, 16, 17, 100_003, *(pytest.param(size, marks=pytest.mark.slow) for size in (5, 1000, 65_536))]
)
def test_any_keys_name_a_permutation(size):
    keys = np.random.default_rng(size).integers(0, 2**32, (1, ROUNDS), np.uint32)
    shown = jax.jit(permuted, static_argnums=3)(keys, np.zeros(size, int), np.arange(size), size)
    np.testing.assert_array_equal(np.sort(shown), np.arange(size))


def test_one_step_at_a_time_shows_what_many_at_once_show():
    stream = Minibatches((("row", 10, 4),))
    cursor, alone = stream.start(), []
    for _ in range(12):
        alone.append(np.asarray(ahead(stream, 3, cursor, 1))[0])
        cursor = stream.after(cursor, 1)
    np.testing.assert_array_equal(alone, ahead(stream, 3, stream.start(), 12))
    np.testing.assert_array_equal(cursor[0], np.asarray(stream.after(stream.start(), 12)[0]))
    assert cursor[0].tolist() == [4, 8]  # 48 places: four epochs of ten, and eight rows


def test_a_row_is_as_likely_at_one_place_as_at_another():
    size, seeds = 7, 4000
    keys = np.random.default_rng(0).integers(0, 2**32, (seeds, 1, ROUNDS), np.uint32)
    shown = np.asarray(jax.vmap(lambda k: permuted(k, np.zeros(size, int), np.arange(size), size))(keys))
    counts = np.stack([np.bincount(column, minlength=size) for column in shown.T])
    assert stats.chisquare(counts.ravel()).pvalue > 1e-4
    # Two neighbours in the stream are any ordered pair of different rows.
    pairs = np.bincount(shown[:, 0] * size + shown[:, 1], minlength=size**2).reshape(size, size)
    assert np.all(np.diag(pairs) == 0)
    assert stats.chisquare(pairs[~np.eye(size, dtype=bool)]).pvalue > 1e-4


def test_two_plates_and_two_epochs_are_shuffled_apart():
    stream = Minibatches((("a", 50, 50), ("b", 50, 50)))
    shown = stream.ahead(jax.random.key(0), stream.start(), 2)
    orders = [tuple(np.asarray(order).tolist()) for rows in shown.values() for order in rows]
    assert len(set(orders)) == 4


@pytest.mark.slow
def test_model_and_guide_see_the_same_rows():
    """Each row has its own latent and its own param: the guide can only be right about the rows that it is shown."""
    y = np.linspace(-2.0, 2.0, 8)

    @vb.model
    def rows_apart(y):
        with vb.plate("row", len(y)):
            x = vb.sample("x", dist.Normal(0.0, 1.0))
            vb.sample("y", dist.Normal(x, 1.0), obs=vb.subsample(y))

    @vb.guide
    def guide(y):
        loc = vb.param("loc", np.zeros(len(y)))
        with vb.plate("row", len(y)):
            vb.sample("x", dist.Normal(vb.subsample(loc), 0.5**0.5))

    posterior = vb.fit(rows_apart(y), guide(y), batch_size=3, method=vb.Stochastic(draws=4))
    np.testing.assert_allclose(posterior.params["loc"], y / 2, atol=0.05)


def test_32_and_64_bits_show_the_same_rows(x64):
    stream = Minibatches((("row", 50, 7),))
    wide = ahead(stream, 1, stream.start(), 20)
    with jax.enable_x64(False):
        narrow = ahead(stream, 1, stream.start(), 20)
    np.testing.assert_array_equal(wide, narrow)
