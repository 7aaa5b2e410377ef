"""A fit gives signs of life in a terminal, a notebook and a log; neither they nor a callback move it."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import sys
import textwrap
import threading
import time

import cases
import nbclient
import nbformat
import numpy as np
import pytest

import vbppl as vb
from vbppl.fitting import progress
from vbppl.inference.solution import Progress


def now(step, of=None, stage="full rank"):
    return Progress(step, -1.5, 0.1, {}, stage=stage, of=of)


@pytest.fixture
def quick(monkeypatch):
    """Waits of hundredths of a second in the place of seconds."""
    for display in (progress._Terminal, progress._Log):
        monkeypatch.setattr(display, "patience", 0.03)
        monkeypatch.setattr(display, "every", 0.02)


@pytest.fixture
def terminal(monkeypatch):
    """Makes a real terminal of stderr, within the test; gives a function that reads what was written to it."""
    ours, theirs = pty.openpty()
    stderr, seen = open(theirs, "w", buffering=1), []
    os.set_blocking(ours, False)

    def read():
        with contextlib.suppress(BlockingIOError):
            seen.append(os.read(ours, 1 << 16).decode())
        return "".join(seen)

    def opened():
        monkeypatch.setattr(sys, "stderr", stderr)
        monkeypatch.setenv("COLUMNS", "80")
        return read

    yield opened
    stderr.close()
    os.close(ours)


@pytest.fixture
def log(monkeypatch):
    """Makes a file of stderr, within the test; gives a function that reads what was written to it."""

    def opened():
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        return sys.stderr.getvalue

    return opened


@pytest.fixture
def told(monkeypatch):
    """All that a fit says it is doing."""
    said = []

    class Sign(progress._Sign):
        def __setattr__(self, name, value):
            if name == "doing":
                said.append(value)
            super().__setattr__(name, value)

    monkeypatch.setattr(progress, "_Sign", Sign)
    return said


def shown(read, pattern):
    """Waits until it is there, however busy the machine."""
    until = time.monotonic() + 60
    while not re.search(pattern, read()):
        assert time.monotonic() < until, read()
        time.sleep(0.01)


def test_a_terminal_has_one_line_that_is_written_over(quick, terminal):
    read = terminal()
    with progress.watching() as watch:
        watch.doing("compiling")
        shown(read, r"\rcompiling, 0\.\d+ s")
        watch.tell(now(1200))
        shown(read, r"\rfull rank: 1,200 steps, ELBO -1\.50, \d")
    shown(read, r"\rdone: 1,200 steps, ELBO -1\.50, [\d.]+ s *\r\n$")
    assert read().count("\n") == 1


def test_a_longer_line_leaves_nothing_behind_a_shorter_one(quick, terminal):
    read = terminal()
    with progress.watching() as watch:
        watch.doing("a" * 40)
        shown(read, "a{40}")
        watch.doing("b")
        shown(read, r"\rb, ")
    lines = read().split("\r")
    assert max(map(len, lines)) < 80
    assert any(line.startswith("b, ") and len(line) >= 40 for line in lines)


def test_a_line_is_never_longer_than_the_terminal(quick, terminal, monkeypatch):
    read = terminal()
    monkeypatch.setenv("COLUMNS", "20")
    with progress.watching(seconds=100.0) as watch:
        watch.doing("c" * 200)
        shown(read, r"\[")
    assert max(len(line.strip("\n")) for line in read().split("\r")) == 19


@pytest.mark.parametrize("step, of, bar", [(0, 4000, ""), (1000, 4000, "####"), (4000, 4000, "#" * 16)])
def test_a_bar_shows_what_is_left_where_that_is_known(quick, terminal, step, of, bar):
    read = terminal()
    with progress.watching(True) as watch:
        watch.tell(now(step, of))
        shown(read, "of 4,000 steps")
    assert f"\r[{bar:<16}] full rank: {step:,} of 4,000 steps" in read()


def test_the_time_that_is_left_is_known_from_the_deadline(terminal, monkeypatch):
    read, clock = terminal(), [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    sign = progress._Sign(progress._Terminal(), 0.0, 8.0)
    clock[0] += 4.0
    sign._display.show(sign.text, sign.done)
    shown(read, r"\r\[#{8} {8}\] reading the model, 4 s of 8 s")


@pytest.mark.parametrize("error", [BrokenPipeError, ValueError])
def test_a_stderr_that_nobody_reads_any_more_costs_no_fit(quick, error, monkeypatch):
    tried = threading.Event()

    class Broken(io.StringIO):
        def write(self, text):
            tried.set()
            raise error

    monkeypatch.setattr(sys, "stderr", Broken())
    with progress.watching() as watch:
        watch.doing("judging")
        assert tried.wait(60)


def test_a_closed_stderr_costs_no_fit(monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    for asked in (None, True):
        with progress.watching(asked) as watch:
            watch.tell(now(10))


def test_a_log_has_whole_lines(quick, log):
    read = log()
    with progress.watching() as watch:
        watch.tell(now(1200))
        shown(read, "full rank: 1,200")
    lines = read().splitlines()
    assert len(lines) >= 2 and lines[-1].startswith("vbppl: done: 1,200 steps")
    assert all(line.startswith("vbppl: ") for line in lines)


@pytest.mark.parametrize("kind", ["log", "terminal"])
def test_nobody_is_told_of_a_short_fit(kind, request):
    read = request.getfixturevalue(kind)()
    with progress.watching() as watch:
        watch.tell(now(10))
    assert read() == ""


def test_patience_is_of_two_seconds_before_a_screen_and_of_ten_in_a_log():
    assert progress._Terminal.patience == progress._Notebook.patience == 2.0
    assert progress._Log.patience == progress._Log.every == 10.0


@pytest.mark.parametrize("kind", ["log", "terminal"])
def test_false_means_never(quick, kind, request):
    read = request.getfixturevalue(kind)()
    with progress.watching(False, lambda told: None) as watch:
        watch.tell(now(10))
        time.sleep(0.1)
    assert read() == ""


def test_without_stderr_there_is_no_sign_and_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with progress.watching() as watch:
        watch.tell(now(10))


def test_only_the_first_of_several_processes_speaks(quick, log, monkeypatch):
    read = log()
    monkeypatch.setattr(progress.jax, "process_index", lambda: 1)
    with progress.watching() as watch:
        watch.tell(now(10))
        time.sleep(0.1)
    assert read() == ""


def test_a_fit_that_fails_says_where(quick, log):
    read = log()
    with pytest.raises(RuntimeError), progress.watching(True) as watch:
        watch.doing("judging")
        shown(read, "judging")
        raise RuntimeError
    assert re.search(r"vbppl: judging, broken off, [\d.]+ s\n$", read())


def test_nothing_draws_when_the_fit_is_over(quick, log):
    read = log()
    with progress.watching(True):
        shown(read, "reading")
    length = len(read())
    time.sleep(0.1)
    assert len(read()) == length


def test_the_callback_is_told_whether_or_not_there_is_a_sign(log):
    log()
    for asked in (True, False):
        seen = []
        with progress.watching(asked, seen.append) as watch:
            watch.tell(now(10))
        assert seen == [now(10)]


@pytest.mark.parametrize(
    "seconds, text", [(0.25, "0.25 s"), (14.4, "14 s"), (59.7, "1 min 0 s"), (200, "3 min 20 s"), (7260, "2 h 1 min")]
)
def test_times_are_said_as_people_say_them(seconds, text):
    assert progress._clock(seconds) == text


@pytest.mark.parametrize("method", ["auto", vb.Stochastic(steps=100)], ids=["auto", "stochastic"])
@pytest.mark.parametrize("guide", ["mean_field", pytest.param("full_rank", marks=pytest.mark.slow)])
def test_a_sign_changes_no_bit_of_the_answer(guide, method, log):
    read = log()
    model = cases.normal_normal(cases.PAIRS)
    shown, silent = (vb.fit(model, guide, method=method, progress=progress) for progress in (True, False))
    np.testing.assert_array_equal(shown.phi, silent.phi)
    np.testing.assert_array_equal(shown.history, silent.history)
    assert shown.elbo == silent.elbo
    of = "" if method == "auto" else " of 100"
    assert f"done: {shown.status.steps:,}{of} steps, ELBO" in read()


def test_a_fit_says_what_it_is_doing(told):
    vb.fit(cases.normal_normal(cases.PAIRS), "full_rank", progress=True)
    assert list(dict.fromkeys(told)) == ["reading the model", "compiling", "full rank", "judging", "done"]


def test_many_fits_say_how_far_they_are(told):
    vb.fit_many(cases.normal_normal(cases.PAIRS), seeds=[0, 1], progress=True)
    assert told[1:] == ["fitting 1 to 2 of 2", "judging fit 1 of 2", "judging fit 2 of 2", "done"]


def test_a_notebook_keeps_one_output_which_needs_no_widgets():
    source = """
    import numpy as np, time, vbppl as vb
    from vbppl.fitting import progress
    print(type(progress._display()).__name__)
    with progress.watching(True, seconds=60.0) as watch:
        watch.doing("<compiling>")
        time.sleep(0.5)
    """
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(textwrap.dedent(source))])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    printed, shown = notebook.cells[0].outputs
    assert printed["text"] == "_Notebook\n"
    assert re.fullmatch(r"done, 0\.\d+ s of 1 min 0 s", shown["data"]["text/plain"])
    assert re.fullmatch(r"<small>done, 0\.\d+ s of 1 min 0 s</small>", shown["data"]["text/html"])


def test_the_text_of_a_notebook_s_bar_is_escaped(monkeypatch):
    pages = []
    monkeypatch.setattr(progress._Notebook, "_put", lambda self, page, text: pages.append(page))
    progress._Notebook().show("a < b", 0.25)
    progress._Notebook().show("a < b", float("nan"))
    assert ' value="0.250"' in pages[0] and pages[0].endswith("</progress> a &lt; b")
    assert "value" not in pages[1]
