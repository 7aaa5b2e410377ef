"""Signs of life: what a fit is doing, told to whoever waits for it.

In a terminal one line is written over, in a notebook one output, in a log whole lines follow each other. All are drawn
by a thread of their own, since compiling tells nothing and may take long.
"""

from __future__ import annotations

import contextlib
import html
import math
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax

from vbppl.core.watch import Watch
from vbppl.inference.solution import Progress

PATIENCE = 2.0  # seconds before a person is told who has not asked
OFTEN = 0.2  # seconds from one look of a screen to the next
SELDOM = 10.0  # seconds from one line of a log to the next
WIDTH = 16  # characters of a bar
UNREADABLE = contextlib.suppress(OSError, ValueError)  # a pipe or a file that nobody reads any more costs no fit


@contextlib.contextmanager
def watching(
    progress: bool | None = None, callback: Callable[[Progress], None] | None = None, seconds: float | None = None
) -> Iterator[Watch]:
    """A watch that gives signs of life and calls `callback`, and that is over in so many `seconds`."""
    sign = _Sign(_display(), 0.0 if progress else None, seconds) if _is_shown(progress) else None
    session = bool(jax.config.read("jax_enable_x64"))

    def tell(now: Any) -> None:
        if sign is not None:
            sign.doing, sign.news = now.stage, now
        if callback is not None:
            with jax.enable_x64(session):  # whatever the fit is computed in
                callback(now)

    if sign is None:
        yield Watch.lasting(seconds, tell) if callback is not None else Watch.lasting(seconds)
        return
    with sign:
        yield Watch.lasting(seconds, tell, lambda what: setattr(sign, "doing", what))


def _is_shown(progress: bool | None) -> bool:
    """Unasked only by the first of several processes, and where there is something to write to."""
    if progress is None:
        return sys.stderr is not None and not sys.stderr.closed and jax.process_index() == 0
    return progress


class _Sign:
    """A sign of life: a thread that shows the newest news again and again, from some time after it was entered.

    Attributes:
      doing: what is being done, in a few words.
      news: of the newest step, if there was one.
    """

    def __init__(self, display: _Display, patience: float | None, seconds: float | None) -> None:
        self.doing, self.news = "reading the model", None
        self._display, self._seconds = display, seconds
        self._patience = display.patience if patience is None else patience
        self._began, self._over = time.perf_counter(), threading.Event()
        self._shown = False
        self._thread = threading.Thread(target=self._show, name="vbppl.progress", daemon=True)

    def __enter__(self) -> _Sign:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        self._over.set()
        self._thread.join()
        if self._shown:
            self.doing = "done" if kind is None else f"{self.doing}, broken off"
            with UNREADABLE:
                self._display.end(self.text)

    def _show(self) -> None:
        over = self._over.wait(self._patience)
        with UNREADABLE:
            while not over:
                self._shown = True
                self._display.show(self.text, self.done)
                over = self._over.wait(self._display.every)

    @property
    def text(self) -> str:
        """Everything that is known, in a line."""
        spent = time.perf_counter() - self._began
        clock = _clock(spent) if self._seconds is None else f"{_clock(spent)} of {_clock(self._seconds)}"
        if (news := self.news) is None:
            return f"{self.doing}, {clock}"
        steps = f"{news.step:,} steps" if news.of is None else f"{news.step:,} of {news.of:,} steps"
        return f"{self.doing}: {steps}, {news.said}, {clock}"

    @property
    def done(self) -> float:
        """Which part of all there is to do lies behind, at least; nan if nobody knows."""
        parts = []
        if self._seconds is not None:
            parts.append((time.perf_counter() - self._began) / self._seconds)
        if (news := self.news) is not None and news.of is not None:
            parts.append(news.step / news.of)
        return min(max(parts), 1.0) if parts else math.nan


def _clock(seconds: float) -> str:
    """A time as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.2g} s" if seconds < 1 else f"{rest} s"


class _Display(Protocol):
    """Where a sign of life is seen."""

    patience: float
    every: float

    def show(self, text: str, done: float) -> None:
        """Show how things stand."""
        ...

    def end(self, text: str) -> None:
        """Show what stays."""
        ...


def _display() -> _Display:
    """The display that the user looks at."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if getattr(shell, "kernel", None) is not None:
        return _Notebook()
    stderr = sys.stderr
    return _Terminal() if stderr is not None and not stderr.closed and stderr.isatty() else _Log()


class _Terminal:
    """One line that is written over."""

    patience, every = PATIENCE, OFTEN
    width = 0

    def show(self, text: str, done: float) -> None:
        bar = "" if math.isnan(done) else f"[{'#' * int(done * WIDTH):<{WIDTH}}] "
        line = (bar + text)[: shutil.get_terminal_size().columns - 1]
        print("\r" + line.ljust(self.width), end="", file=sys.stderr, flush=True)
        self.width = len(line)

    def end(self, text: str) -> None:
        self.show(text, math.nan)
        print(file=sys.stderr, flush=True)


class _Log:
    """Whole lines, for a file that is read later or a job that is watched from afar."""

    patience, every = SELDOM, SELDOM

    def show(self, text: str, done: float) -> None:
        print(f"vbppl: {text}", file=sys.stderr, flush=True)

    def end(self, text: str) -> None:
        self.show(text, math.nan)


class _Notebook:
    """One output of a cell, whose text and bar are renewed; it needs no widgets."""

    patience, every = PATIENCE, OFTEN
    handle: Any = None

    def show(self, text: str, done: float) -> None:
        value = "" if math.isnan(done) else f' value="{done:.3f}"'
        self._put(f'<progress max="1"{value} style="vertical-align: middle"></progress> {html.escape(text)}', text)

    def end(self, text: str) -> None:
        self._put(html.escape(text), text)

    def _put(self, page: str, text: str) -> None:
        from IPython.display import display

        forms = {"text/html": f"<small>{page}</small>", "text/plain": text}
        if self.handle is None:
            self.handle = display(forms, raw=True, display_id=True)
        else:
            self.handle.update(forms, raw=True)
