"""The host reads the rows that are asked for, in whatever way the user's object allows, and never all of them."""

from __future__ import annotations

import threading
import time

import jax
import numpy as np
import pytest

import vbppl as vb
from vbppl.data.readers import Batches, Indexing, Sorting, Taking, prefetched, reader_of

TABLE = np.arange(30.0).reshape(10, 3)
ASKED = np.array([7, 2, 2, 9, 0])


class Counted:
    """A random-access data set that keeps count of what it is asked for."""

    def __init__(self, by_array: bool):
        self.by_array, self.asked = by_array, []

    def __len__(self):
        return len(TABLE)

    def __getitem__(self, i):
        self.asked.append(i)
        if not self.by_array:
            i = i.__index__()  # as a list does: an array of several is no index
        return {"x": TABLE[i], "y": TABLE[i].sum(-1)}


class Increasing:
    """As an HDF5 data set: indices must increase, and no row be asked for twice."""

    shape, dtype = TABLE.shape, TABLE.dtype

    def __len__(self):
        return len(TABLE)

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("loaded whole")

    def __getitem__(self, i):
        assert np.all(np.diff(np.atleast_1d(i)) > 0), "indices must be in increasing order"
        return TABLE[i]


@pytest.mark.parametrize("data, kind", [(TABLE, Taking), (Increasing(), Sorting)])
def test_an_array_gives_the_rows_asked_for_in_their_order(data, kind):
    reader = reader_of(data)
    assert isinstance(reader, kind) and reader.size == 10
    np.testing.assert_array_equal(reader.read(ASKED), TABLE[ASKED])


@pytest.mark.parametrize("count", [1, 2, 3, 70_001])
def test_rows_that_are_gathered_side_by_side_come_in_their_order(count):
    table = np.random.default_rng(0).standard_normal((50_000, 3), np.float32)
    indices = np.random.default_rng(1).integers(0, len(table), count)
    np.testing.assert_array_equal(Taking(table).read(indices), table[indices])


def test_a_row_that_is_not_there_is_an_error():
    for indices in ([10], [-1, 3]):
        with pytest.raises(IndexError, match="of 10"):
            Taking(TABLE).read(np.array(indices))


class Reusing:
    """A data set, and a loader of batches, that write every answer into the same memory."""

    def __init__(self, rows):
        self.room = np.zeros((rows, 3))

    def __len__(self):
        return len(TABLE)

    def __getitem__(self, i):
        self.room[...] = TABLE[i]
        return self.room if np.ndim(i) else self.room[0]

    def __iter__(self):
        for start in range(0, len(TABLE), len(self.room)):
            self.room[...] = TABLE[start : start + len(self.room)]
            yield self.room


def test_what_was_read_outlives_a_buffer_that_is_written_over():
    reader, batches = Indexing(Reusing(2)), Batches(iter(Reusing(2)))
    first, following = reader.read(np.array([7, 3])), batches.following("x", None, 3, 10)
    reader.read(np.array([1, 2]))
    batches.following("x", None, 3, 10)
    np.testing.assert_array_equal(first, TABLE[[7, 3]])
    np.testing.assert_array_equal(following, TABLE[:3])
    row_by_row = Indexing(Reusing(1))
    assert not row_by_row.by_array
    np.testing.assert_array_equal(row_by_row.read(np.array([7, 3])), TABLE[[7, 3]])


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices have memory of their own")
def test_what_was_read_is_not_copied_again_on_its_way_to_the_device():
    rows = Taking(TABLE.astype(np.float32)).read(ASKED)
    assert jax.device_put(rows).unsafe_buffer_pointer() == rows.ctypes.data


@pytest.mark.parametrize("by_array", [True, False])
def test_a_data_set_is_asked_for_many_rows_at_once_only_if_it_understands(by_array):
    data = Counted(by_array)
    reader = reader_of(data)
    assert isinstance(reader, Indexing) and reader.by_array == by_array
    data.asked.clear()
    rows = reader.read(ASKED)
    assert len(data.asked) == (1 if by_array else len(ASKED))
    np.testing.assert_array_equal(rows["x"], TABLE[ASKED])
    np.testing.assert_array_equal(rows["y"], TABLE[ASKED].sum(1))


def test_a_data_set_that_answers_an_array_with_one_row_is_asked_row_by_row():
    class Last:
        def __len__(self):
            return 10

        def __getitem__(self, i):
            return TABLE[int(np.max(i))]

    np.testing.assert_array_equal(reader_of(Last()).read(ASKED), TABLE[ASKED])


def loader(*lengths):
    """A list of batches of these lengths: rows of TABLE in order."""
    ends = np.cumsum(lengths)
    return [(TABLE[end - n : end], np.arange(end - n, end)) for n, end in zip(lengths, ends)]


def taken(reader, *counts, size=10):
    return [reader.following("rows", None, count, size)[1].tolist() for count in counts]


@pytest.mark.parametrize("lengths", [(10,), (5, 5), (4, 4, 2), (1, 2, 3, 4), (1,) * 10])
def test_batches_are_cut_anew_and_epochs_follow_one_another(lengths):
    reader = Batches(loader(*lengths))
    rows = np.concatenate(taken(reader, 4, 4, 4, 4, 4, 1, 9))
    np.testing.assert_array_equal(rows, np.tile(np.arange(10), 3))


def test_batches_can_be_sought():
    reader = Batches(loader(4, 4, 2))
    taken(reader, 7)
    assert reader.following("rows", 23, 4, 10)[1].tolist() == [3, 4, 5, 6]
    assert reader.following("rows", 27, 4, 10)[1].tolist() == [7, 8, 9, 0]
    assert reader.following("rows", 0, 2, 10)[1].tolist() == [0, 1]


@pytest.mark.parametrize("size", [3, 9, 15, 100])
def test_an_epoch_that_does_not_have_the_plates_rows_is_an_error_with_both_numbers(size):
    """3 is `len` of the loader: the number of its batches."""
    reader = Batches(loader(4, 4, 2))
    with pytest.raises(vb.ModelError, match=rf"an epoch of source 'rows' has 10 rows, but its plate says {size}"):
        taken(reader, 11, size=size)


def test_a_ragged_last_batch_that_a_loader_drops_is_a_warning():
    reader = Batches(loader(4, 4))
    with pytest.warns(vb.VbpplWarning, match="has 8 rows, but its plate says 10; the last 2 seem to be dropped by it"):
        assert taken(reader, 9) == [[0, 1, 2, 3, 4, 5, 6, 7, 0]]


def test_a_generator_that_ends_says_that_it_cannot_be_repeated():
    reader = Batches(iter(loader(5, 5)))
    with pytest.raises(
        vb.ModelError, match="source 'rows' ended after 10 rows of a plate of 10, before the fit did"
    ) as error:
        taken(reader, 6, 6)
    assert "not a generator" in str(error.value)


def test_a_generator_without_end_has_no_epochs():
    def endless():
        while True:
            yield from loader(5, 5)

    assert taken(Batches(endless()), 6, 6) == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 0, 1]]


def test_arrays_of_a_batch_must_have_the_same_rows():
    with pytest.raises(vb.ModelError, match="the same number of rows, one at least, along axis 0") as error:
        Batches([(np.zeros((4, 3)), np.zeros(5))])
    assert "(4, 3), (5,)" in str(error.value)


def test_nothing_to_read_is_an_error():
    with pytest.raises(vb.ModelError, match="a source yields no batch"):
        Batches(iter(()))


def test_the_next_is_made_while_one_is_used():
    making, made = threading.Event(), []

    def make(i):
        made.append((i, threading.current_thread().name))
        making.set()
        return 10 * i

    ahead = prefetched(make, range(3))
    assert next(ahead) == 0
    making.clear()
    assert making.wait(5) or len(made) == 2  # without anyone asking for it
    assert list(ahead) == [10, 20]
    assert all(name.startswith("vbppl-reader") for _, name in made)


def test_no_more_is_made_than_one_ahead():
    made = []
    ahead = prefetched(lambda i: made.append(i) or i, range(100))
    next(ahead)
    time.sleep(0.05)
    assert made == [0, 1]
    ahead.close()


def test_an_error_of_the_thread_comes_out_where_the_rows_are_used():
    ahead = prefetched(lambda i: 1 // (1 - i), range(3))
    assert next(ahead) == 1
    with pytest.raises(ZeroDivisionError):
        next(ahead)
