"""What the examples' pictures share: quiet axes, colours that everyone can tell apart, one way to be run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

# Okabe and Ito (2008): told apart by eyes of every kind, and in print.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
INK, GREY, PALE = "#222222", "#767676", "#D8D8D8"

STYLE = {
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.solid_capstyle": "round",
}


def picture(width: float, height: float, **layout) -> tuple:
    """A figure and its axes, in this style; `layout` goes to `plt.subplots`."""
    plt.rcParams.update(STYLE)
    return plt.subplots(figsize=(width, height), **layout)


def intervals(axes, draws: np.ndarray, at, color: str = BLUE) -> None:
    """For each column of `draws`, `(n, columns)`: 90% thin, 50% thick, the median a dot, at heights `at`."""
    low, quarter, middle, three, high = np.quantile(draws, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    axes.hlines(at, low, high, color=color, lw=1.5)
    axes.hlines(at, quarter, three, color=color, lw=4)
    axes.plot(middle, at, "o", color="white", mec=color, mew=1.8, ms=5.5)


def rows(axes, names) -> None:
    """Name the rows of `axes`, the first on top, without ticks."""
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(names) - 0.4, -0.7)


def density(axes, draws: np.ndarray, grid: np.ndarray, color: str) -> np.ndarray:
    """Draw the smoothed density of `draws` over `grid`, and return it."""
    width = 1.3 * min(draws.std(), np.subtract(*np.quantile(draws, [0.75, 0.25])) / 1.35) * len(draws) ** -0.2
    curve = np.exp(-(((grid[:, None] - draws) / width) ** 2) / 2).mean(1) / (width * np.sqrt(2 * np.pi))
    axes.fill_between(grid, curve, color=color, alpha=0.12, lw=0)
    axes.plot(grid, curve, color=color, lw=2)
    return curve


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
