"""Telling a person who waits how far a fit is."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

from vbppl.inference.solution import Progress

PATIENCE = 2.0  # seconds before a bar appears by itself

Watch = Callable[[Progress], None]


@contextlib.contextmanager
def watcher(progress: bool | None, callback: Watch | None) -> Iterator[Watch | None]:
    """A function to call after each chunk: it draws the bar, then calls `callback`; None where nobody watches."""
    show = progress if progress is not None else sys.stderr.isatty()
    patience = 0.0 if progress else PATIENCE
    bar = _Bar() if show else None

    def watch(now: Progress) -> None:
        if bar is not None and now.seconds >= patience:
            bar.show(now)
        if callback is not None:
            callback(now)

    try:
        yield watch if bar is not None or callback is not None else None
    finally:
        if bar is not None:
            bar.close()


class _Bar:
    """tqdm's bar where tqdm is installed, else one line that is written over."""

    def __init__(self) -> None:
        self.tqdm: Any = None
        self.shown = False

    def show(self, now: Progress) -> None:
        if not self.shown and importlib.util.find_spec("tqdm"):
            from tqdm.auto import tqdm

            self.tqdm = tqdm(unit=" steps", desc="fit")
        self.shown = True
        if self.tqdm is not None:
            self.tqdm.update(now.step - self.tqdm.n)
            self.tqdm.set_postfix_str(f"ELBO {now.elbo:.2f}")
        else:
            print(f"\rfit: {now.step:,} steps, ELBO {now.elbo:.2f}, {now.seconds:.0f} s", end="", file=sys.stderr)

    def close(self) -> None:
        if self.tqdm is not None:
            self.tqdm.close()
        elif self.shown:
            print(file=sys.stderr)
