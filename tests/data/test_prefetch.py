"""What a fit is fed with from the host are the rows of its stream, however they are portioned."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import vbppl as vb
from vbppl.core.keys import named, raw_key, wrap
from vbppl.data import prefetch
from vbppl.data.prefetch import Prefetcher
from vbppl.data.shuffle import Minibatches

TABLE = np.arange(20.0, dtype=np.float32).reshape(10, 2)
STREAM = Minibatches((("column", 7, 2), ("row", 10, 4)))


def prefetcher(monkeypatch, steps):
    source = vb.Source(TABLE).named("x")
    monkeypatch.setattr(prefetch, "BYTES", steps * (4 * 8 + 4 * 6))
    made = Prefetcher(STREAM, {"row": [source]}, raw_key(3))
    assert made.steps == steps
    return made


def expected(cursor, steps):
    """The stream's own rows."""
    ahead = jax.jit(lambda raw, cursor: STREAM.ahead(named(wrap(raw), "rows"), cursor, steps))
    return jax.tree.map(np.asarray, ahead(raw_key(3), cursor))


@pytest.mark.parametrize("steps", [3, 20, *(pytest.param(steps, marks=pytest.mark.slow) for steps in (1, 5, 11))])
def test_feeds_hold_the_rows_of_the_stream_and_what_the_source_has_there(monkeypatch, steps):
    cursor = (np.array([2, 5], np.int32), np.array([1, 8], np.int32))
    rows, counts, found = expected(cursor, 11), [], {"column": [], "row": [], "x": []}
    for feed, count in prefetcher(monkeypatch, steps).feeds(cursor, 11):
        shown = feed.ahead(None, feed.begin, feed.most)
        assert feed.most == steps
        counts.append(count)
        found["column"].append(np.asarray(shown["column"])[:count])
        found["row"].append(np.asarray(shown["row"].indices)[:count])
        found["x"].append(np.asarray(shown["row"].blocks["x"])[:count])
    assert sum(counts) == 11
    found = {name: np.concatenate(parts) for name, parts in found.items()}
    np.testing.assert_array_equal(found["column"], rows["column"])
    np.testing.assert_array_equal(found["row"], rows["row"])
    np.testing.assert_array_equal(found["x"], TABLE[rows["row"]])


@pytest.mark.slow
def test_a_part_of_a_feed_is_cut_out_where_the_cursor_stands(monkeypatch):
    feed, _ = next(prefetcher(monkeypatch, 9).feeds(STREAM.start(), 9))
    cursor = STREAM.after(STREAM.start(), 5)
    shown = feed.ahead(None, cursor, 3)
    np.testing.assert_array_equal(shown["row"].indices, expected(cursor, 3)["row"])
    np.testing.assert_array_equal(shown["row"].blocks["x"], TABLE[expected(cursor, 3)["row"]])
    assert [at.tolist() for at in feed.after(cursor, 2)] == [at.tolist() for at in STREAM.after(cursor, 2)]
