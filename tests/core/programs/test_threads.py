"""How many threads the host's linear algebra has, as threadpoolctl counts them."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import threadpoolctl

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.programs.threads import SMALL, suited_to
from vbppl.fitting.plan import FULL_RANK_DIM

USERS = 2


def numbers():
    """Of each BLAS that is loaded and can be asked, which leaves out Apple's."""
    return {each["num_threads"] for each in threadpoolctl.threadpool_info() if each["internal_api"] == "openblas"}


@pytest.fixture(autouse=True)
def of_the_user():
    with threadpoolctl.threadpool_limits(USERS):
        if numbers() != {USERS}:
            pytest.skip("no OpenBLAS with several threads here")
        yield
        assert numbers() == {USERS}


def test_small_matrices_have_one_thread_and_large_ones_the_users_number():
    with suited_to(SMALL):
        assert numbers() == {1}
        with suited_to(SMALL + 1):
            assert numbers() == {USERS}
            with suited_to(2):
                assert numbers() == {USERS}
        assert numbers() == {1}
    assert numbers() == {USERS}


def test_every_full_rank_fit_that_nobody_asked_for_has_one_thread():
    assert SMALL >= FULL_RANK_DIM


def test_the_users_number_is_back_after_an_error():
    with pytest.raises(ZeroDivisionError), suited_to(2):
        1 / 0  # noqa: B018


def test_blocks_of_two_threads_that_overlap_leave_the_users_number():
    began, ended = threading.Event(), threading.Event()

    def other():
        with suited_to(2):
            began.set()
            ended.wait()

    thread = threading.Thread(target=other)
    with suited_to(2):
        thread.start()
        began.wait()
    assert numbers() == {1}  # the other still counts on it
    ended.set()
    thread.join()


def test_what_somebody_sets_meanwhile_stays():
    with suited_to(2):
        threadpoolctl.threadpool_limits(USERS + 1)
    assert numbers() == {USERS + 1}
    threadpoolctl.threadpool_limits(USERS)


@pytest.mark.parametrize(("rows", "expected"), [(10, {1}), (SMALL + 1, {1, USERS})])
def test_a_fit_runs_small_models_on_one_thread_and_gives_large_ones_all(rows, expected):
    seen = []

    @vb.model
    def rows_of(y):
        loc = vb.sample("loc", dist.Normal(np.zeros(2), 1.0).to_event(1))
        seen.append(next(iter(numbers())))
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Normal(loc[0] + loc[1], 1.0), obs=y)

    vb.fit(rows_of(np.zeros(rows)), "full_rank", callback=lambda _: seen.append(next(iter(numbers()))))
    assert set(seen[1:]) == expected  # its first run, abstract, is before the fit knows how large it is
