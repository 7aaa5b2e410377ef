"""What pictures share: quiet axes without a ground, colours that everyone can tell apart, on white and on black.

No setting of Matplotlib outlasts a picture. Nothing is imported before a picture is drawn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from vbppl.core.errors import of_kind

# Okabe and Ito (2008, "Color Universal Design"): told apart by eyes of every kind, and in print.
BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
COLOURS, MARKERS = (BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER), "os^Dv"
# The grey that is as far from white as from black: 4.5 and 4.2 times as bright or dark.
INK = "#767676"
FAINT = 0.28  # of it, for what stands behind: bands, references

STYLE: Mapping[str, Any] = MappingProxyType(
    {
        "figure.dpi": 150,
        "figure.facecolor": "none",
        "figure.constrained_layout.use": True,
        "axes.facecolor": "none",
        "font.size": 10,
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlepad": 10,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "legend.frameon": False,
        "legend.labelcolor": INK,
        "lines.solid_capstyle": "round",
    }
)


def matplotlib() -> Any:
    """The library.

    Raises:
      ImportError: it is not there; with the line that installs it.
    """
    try:
        import matplotlib
        import matplotlib.pyplot  # noqa: F401
    except ImportError as error:
        raise ImportError('Pictures need Matplotlib.\n  To mend it: pip install "vbppl[plots]"') from error
    return matplotlib


@contextlib.contextmanager
def settings(chosen: Mapping[str, Any]) -> Iterator[None]:
    """Some of Matplotlib's settings for a while, and no others.

    Its `rc_context` puts back all of them: also that pictures are shown, which a notebook sets as the first is made.
    """
    params = matplotlib().rcParams
    before = {name: params[name] for name in chosen}
    params.update(chosen)
    try:
        yield
    finally:
        params.update(before)


@contextlib.contextmanager
def one(ax: Any, width: float = 6.4, height: float = 4.0) -> Iterator[Any]:
    """Axes to draw on in this style: those given, or new ones."""
    library = matplotlib()
    of_kind("ax", ax, ax is None or isinstance(ax, library.axes.Axes), "axes of Matplotlib")
    with settings(STYLE):
        yield library.pyplot.subplots(figsize=(width, height))[1] if ax is None else ax


@contextlib.contextmanager
def several(
    count: int, axes: Any, width: float = 2.9, height: float = 2.3, most: int = 4, **how: Any
) -> Iterator[list[Any]]:
    """So many axes to draw on in this style: those given, or new ones in rows of at most `most`.

    Raises:
      ValueError: those given are of another number.
    """
    library = matplotlib()
    with settings(STYLE):
        if axes is None:
            columns = min(most, count) if count % 4 or most < 4 else 4
            rows = -(-count // columns)
            size = (width * columns, height * rows)
            figure, grid = library.pyplot.subplots(rows, columns, figsize=size, squeeze=False, **how)
            for spare in grid.flat[count:]:
                spare.remove()
            yield list(grid.flat[:count])
            if "inline" in library.get_backend():  # a notebook shows what a cell gives back, and what is open once more
                library.pyplot.close(figure)
        else:
            given = list(np.ravel(np.asarray(axes, object)))
            are = all(isinstance(each, library.axes.Axes) for each in given)
            of_kind("axes", axes, are, "axes of Matplotlib, one for each panel")
            if len(given) != count:
                raise ValueError(f"axes must be {count}, one for each panel, not {len(given)}.")
            yield given


LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def spans(axes: Any, quantiles: np.ndarray, at: Any, color: str = BLUE) -> None:
    """Of quantiles at `LEVELS`, `(5, columns)`, each at its height `at`: 90% thin, 50% thick, the median a dot."""
    low, quarter, middle, three, high = quantiles
    axes.hlines(at, low, high, color=color, lw=1.5)
    axes.hlines(at, quarter, three, color=color, lw=4)
    axes.plot(middle, at, "o", color="white", mec=color, mew=1.8, ms=5.5)


def rows(axes: Any, names: Sequence[str]) -> None:
    """Name the rows of `axes`, the first on top, without ticks."""
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(names) - 0.4, -0.7)


def plain(text: str) -> str:
    """A name as Matplotlib shows it and does not read it as mathematics."""
    return text.replace("$", r"\$")


def ends_of(draws: np.ndarray) -> list[float]:
    """Where numbers end by their nature, as far as can be seen: positive ones at 0, shares at 0 and 1."""
    low, high = draws.min(), draws.max()
    return [0.0, 1.0] if 0 <= low and high <= 1 else [0.0] if low >= 0 else []


def smoothed(draws: np.ndarray, grid: np.ndarray, ends: Sequence[float] | None = None) -> np.ndarray:
    """The density of `draws` at `grid`; that of numbers that end somewhere is not lost beyond it.

    A normal kernel 1.4 times as wide as Silverman's (1986, "Density Estimation", 3.4.2), reflected at the ends.
    """
    draws = draws[:: -(-len(draws) // MOST_DRAWS)]
    quarter, three = np.quantile(draws, (0.25, 0.75))
    width = 1.3 * min(draws.std(), (three - quarter) / 1.35 or draws.std()) * len(draws) ** -0.2
    width, ends = max(width, 1e-3 * (grid[-1] - grid[0])), ends_of(draws) if ends is None else ends
    places = [draws, *(2 * end - draws for end in ends)]
    found = sum(np.exp(-0.5 * ((grid[:, None] - each) / width) ** 2).sum(axis=1) for each in places)
    for end in ends:
        found = np.where(grid < end if end == 0 else grid > end, 0.0, found)
    return found / (len(draws) * width * np.sqrt(2 * np.pi))


MOST_DRAWS = 4000  # that a density is smoothed of


def density(axes: Any, draws: np.ndarray, grid: np.ndarray, color: str, **more: Any) -> np.ndarray:
    """Draw the smoothed density of `draws` over `grid`, and return it."""
    curve = smoothed(draws, grid)
    axes.fill_between(grid, curve, color=color, alpha=0.12, lw=0)
    axes.plot(grid, curve, **{"color": color, "lw": 2, **more})
    return curve


def bare(axes: Any) -> None:
    """A panel of densities: no vertical axis, and the ground at zero."""
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylim(0)


def ellipse(axes: Any, mean: np.ndarray, covariance: np.ndarray, share: float, **how: Any) -> None:
    """The ellipse that holds a `share` of a normal in two dimensions."""
    around = np.linspace(0, 2 * np.pi, 100)
    values, vectors = np.linalg.eigh(covariance)
    circle = np.sqrt(-2 * np.log1p(-share)) * np.stack([np.cos(around), np.sin(around)])
    x, y = mean[:, None] + vectors @ (np.sqrt(np.maximum(values, 0))[:, None] * circle)
    axes.plot(x, y, **how)
