"""Telling a person who waits how far a fit is."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax

from vbppl.core.watch import Watch
from vbppl.inference.solution import Progress

PATIENCE = 2.0  # seconds before a bar appears by itself


@contextlib.contextmanager
def watching(
    progress: bool | None = None, callback: Callable[[Progress], None] | None = None, seconds: float | None = None
) -> Iterator[Watch]:
    """A watch that draws the bar and then calls `callback`, and that is over in so many `seconds`."""
    show = progress if progress is not None else sys.stderr.isatty()
    patience = 0.0 if progress else PATIENCE
    bar, session = (_Bar() if show else None), bool(jax.config.read("jax_enable_x64"))

    def tell(now: Progress) -> None:
        if bar is not None and now.seconds >= patience:
            bar.show(now)
        if callback is not None:
            with jax.enable_x64(session):  # whatever the fit is computed in
                callback(now)

    try:
        yield Watch.lasting(seconds, tell) if bar is not None or callback is not None else Watch.lasting(seconds)
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

            self.tqdm = tqdm(unit=" steps", desc=now.task)
        self.shown = True
        if self.tqdm is not None:
            self.tqdm.update(now.step - self.tqdm.n)
            self.tqdm.set_postfix_str(now.said)
        else:
            print(f"\r{now.task}: {now.step:,} steps, {now.said}, {now.seconds:.0f} s", end="", file=sys.stderr)

    def close(self) -> None:
        if self.tqdm is not None:
            self.tqdm.close()
        elif self.shown:
            print(file=sys.stderr)
