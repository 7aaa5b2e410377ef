"""A bar is drawn only for a person who waits; a callback is always told; neither changes the fit."""

from __future__ import annotations

import importlib.util
import sys
import types

import cases
import numpy as np
import pytest

import vbppl as vb
from vbppl.fitting import progress
from vbppl.inference.solution import Progress

LATE = progress.PATIENCE + 1


def now(step, seconds=LATE):
    return Progress(step, -1.5, seconds, {})


class Bars(types.ModuleType):
    """In the place of tqdm: remembers what it is told."""

    def __init__(self):
        super().__init__("tqdm.auto")
        self.made, self.closed, self.texts = [], 0, []

    def tqdm(self, **options):
        self.made.append(options)
        self.n = 0
        return self

    def update(self, steps):
        self.n += steps

    def set_postfix_str(self, text):
        self.texts.append(text)

    def close(self):
        self.closed += 1


@pytest.fixture
def bars(monkeypatch):
    """A recording tqdm."""
    fake = Bars()
    monkeypatch.setitem(sys.modules, "tqdm.auto", fake)
    monkeypatch.setitem(sys.modules, "tqdm", types.ModuleType("tqdm"))
    sys.modules["tqdm"].__spec__ = importlib.util.spec_from_loader("tqdm", None)
    return fake


@pytest.fixture
def no_tqdm(monkeypatch):
    """As if tqdm were not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tqdm" else find(name))


def is_terminal(monkeypatch, answer):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: answer, raising=False)


def test_tqdm_shows_the_steps_and_the_bound_and_is_closed(bars):
    with progress.watching(True, None) as watch:
        watch.tell(now(10, seconds=0.0))
        watch.tell(now(30))
    assert len(bars.made) == 1 and bars.closed == 1
    assert bars.n == 30
    assert bars.texts == ["ELBO -1.50", "ELBO -1.50"]


def test_without_tqdm_one_line_is_written_over(no_tqdm, capsys):
    with progress.watching(True, None) as watch:
        watch.tell(now(1000, seconds=0.2))
        watch.tell(now(2000, seconds=3.0))
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "\rfit: 1,000 steps, ELBO -1.50, 0 s\rfit: 2,000 steps, ELBO -1.50, 3 s\n"


@pytest.mark.parametrize("asked", [False, None])
def test_nothing_is_shown_where_it_is_not_asked_for_and_nobody_watches(asked, bars, capsys, monkeypatch):
    is_terminal(monkeypatch, False)
    with progress.watching(asked, None) as watch:
        watch.tell(now(10))
    with progress.watching(asked, lambda told: None) as watch:
        watch.tell(now(10))
    assert not bars.made and capsys.readouterr() == ("", "")


def test_a_person_sees_a_bar_only_after_some_patience(bars, monkeypatch):
    is_terminal(monkeypatch, True)
    with progress.watching(None, None) as watch:
        watch.tell(now(10, seconds=progress.PATIENCE / 2))
        assert not bars.made
        watch.tell(now(20))
        assert bars.made and bars.n == 20


def test_false_means_never_even_for_a_person(bars, monkeypatch):
    is_terminal(monkeypatch, True)
    with progress.watching(False, lambda told: None) as watch:
        watch.tell(now(10))
    assert not bars.made


def test_a_bar_that_was_never_shown_leaves_no_line(no_tqdm, capsys, monkeypatch):
    is_terminal(monkeypatch, True)
    with progress.watching(None, None) as watch:
        watch.tell(now(10, seconds=0.0))
    assert capsys.readouterr().err == ""


def test_the_callback_is_told_whether_or_not_there_is_a_bar(bars):
    for asked in (True, False):
        seen = []
        with progress.watching(asked, seen.append) as watch:
            watch.tell(now(10))
        assert seen == [now(10)]


def test_the_bar_is_closed_where_the_fit_fails(bars):
    with pytest.raises(RuntimeError), progress.watching(True, None) as watch:
        watch.tell(now(10))
        raise RuntimeError
    assert bars.closed == 1


@pytest.mark.parametrize("guide", ["mean_field", "full_rank"])
def test_a_bar_changes_no_bit_of_the_answer(guide, bars):
    model = cases.normal_normal(cases.PAIRS)
    shown, silent = vb.fit(model, guide, progress=True), vb.fit(model, guide, progress=False)
    assert bars.n == shown.status.steps and bars.closed == 1
    np.testing.assert_array_equal(shown.phi, silent.phi)
    assert shown.elbo == silent.elbo
