"""What the examples' pictures share: quiet axes, colours that everyone can tell apart, one way to be run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from vbppl.posterior.export import style
from vbppl.posterior.export.style import (  # noqa: F401
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    bare,
    density,
    ellipse,
    rows,
    smoothed,
)

# These stand on white: darker letters than those of `vb.plot`, and greys for what stands behind.
INK, GREY, PALE = "#222222", "#767676", "#D8D8D8"
WORDS = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor", "ytick.labelcolor")
PAPER = {**style.STYLE, "figure.facecolor": "white", "axes.titlelocation": "left", **dict.fromkeys(WORDS, INK)}


def picture(width: float, height: float, **layout) -> tuple:
    """A figure and its axes, in this style; `layout` goes to `plt.subplots`."""
    plt.rcParams.update(PAPER)
    return plt.subplots(figsize=(width, height), **layout)


def intervals(axes, draws, at, color: str = BLUE) -> None:
    """For each column of `draws`, `(n, columns)`: 90% thin, 50% thick, the median a dot, at heights `at`."""
    style.spans(axes, np.quantile(draws, style.LEVELS, axis=0), at, color)


def save(figure, out: str | Path) -> None:
    """Write the picture and say where."""
    figure.savefig(out)
    print(f"\nThe picture is in {out}.")


def run(main: Callable[..., object], file: str, **more: str) -> None:
    """Run an example from the command line: `--out` says where its picture goes; `more` options with their help."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default=Path(file).with_suffix(".png"), help="where the picture goes")
    parser.add_argument("--quick", action="store_true", help="fewer draws and steps")
    for name, text in more.items():
        parser.add_argument(f"--{name}", help=text)
    main(**{name: value for name, value in vars(parser.parse_args()).items() if value is not None})
