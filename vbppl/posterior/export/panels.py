"""What stands in the panels of pictures: draws by their labels, clouds, and data made beside data seen."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from vbppl.core.errors import of_kind
from vbppl.posterior.export import style
from vbppl.posterior.export.style import BLUE, FAINT, INK
from vbppl.posterior.posterior import Posterior
from vbppl.posterior.report import Report

DRAWS, REPLICATES = 4000, 100


def checked(posterior: Any) -> None:
    """Refuse what is no posterior."""
    of_kind("posterior", posterior, isinstance(posterior, Posterior), "what vb.fit gave back")


def few(what: str, count: int, most: int, least: int = 1) -> None:
    """Refuse more than a picture can hold."""
    if not least <= count <= most:
        raise ValueError(
            f"names must choose {least} to {most} {what} for one picture, not {count}.\n"
            "  To mend it: name some of the sites, as in summary('mu', 'tau')."
        )


def flat(values: Mapping[str, np.ndarray], posterior: Posterior, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Draws of sites, `(n, ...)`, as draws of scalars, `(n,)`, under the labels of `summary`."""
    found = {}
    for name, rows in zip(names or posterior.target.layout.completed, posterior.summary(*names).sites):
        if name in values:
            columns = np.asarray(values[name], np.float64).reshape(len(values[name]), -1).T
            found.update(zip((label for label, _ in rows), columns))
    return found


def scalars(posterior: Posterior, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Draws of the scalars of some sites, of all if none is named; of weighted draws as many as they are worth."""
    report = posterior.report
    worth = DRAWS
    if posterior.is_corrected and isinstance(report, Report):
        worth = len(report.draws) if report.chains else max(int(report.draws.ess), 100)
    return flat(jax.tree.map(np.asarray, posterior.sample(min(worth, DRAWS))), posterior, names)


def given(reference: Any, posterior: Posterior, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Draws of the scalars from elsewhere.

    Raises:
      ValueError: draws of a site have another shape than `(n, ...)`.
    """
    if reference is None:
        return {}
    of_kind("reference", reference, isinstance(reference, Mapping), "a dict of draws by the sites' names")
    ours = posterior.sample(1)
    known = {name: np.asarray(value, float) for name, value in reference.items() if name in ours}
    for name, value in known.items():
        if value.ndim == 0 or value.shape[1:] != np.shape(ours[name])[1:]:
            shape = ", ".join(map(str, ("n", *np.shape(ours[name])[1:])))
            raise ValueError(f"reference: draws of '{name}' must have shape ({shape}), not {value.shape}.")
    return flat(known, posterior, names)


def is_of(posterior: Posterior, told: Any) -> bool:
    """Whether what a callback was told is of the guide that the posterior has."""
    phi = getattr(told, "params", {}).get("guide") if isinstance(getattr(told, "params", None), Mapping) else None
    return jax.tree.map(np.shape, phi) == jax.tree.map(np.shape, posterior.phi)


def legend(panel: Any) -> None:
    """What the lines of all panels mean, above them, clear of the data."""
    handles, labels = panel.get_legend_handles_labels()
    panel.figure.legend(handles, labels, loc="outside upper left", ncols=3, fontsize=9)


def cloud(panel: Any, x: np.ndarray, y: np.ndarray, reference: tuple[np.ndarray, np.ndarray] | None = None) -> None:
    """Draws in two dimensions with the ellipses of their moments; a reference behind."""
    if reference is not None:
        panel.scatter(*(each[-1000:] for each in reference), s=4, color=INK, alpha=FAINT, lw=0)
    panel.scatter(x[:1000], y[:1000], s=4, color=BLUE, alpha=0.35, lw=0)
    mean, covariance = np.array([x.mean(), y.mean()]), np.cov(x, y)
    for share in (0.5, 0.9):
        style.ellipse(panel, mean, covariance, share, color=BLUE, lw=1.4)


def name_sides(panel: Any, beside: str, below: str, is_lowest: bool, is_first: bool) -> None:
    """Names and numbers on the outer sides of a square of panels only."""
    if is_lowest:
        panel.set_xlabel(style.plain(beside))
    else:
        panel.set_xticklabels([])
    if is_first:
        panel.set_ylabel(style.plain(below))
    else:
        panel.set_yticklabels([])


def wide(low: float, high: float) -> tuple[float, float]:
    """Limits with room around."""
    return low - 0.15 * (high - low), high + 0.15 * (high - low)


def wrapped(text: str, width: int = 80) -> str:
    """A sentence in lines, as it stands under a picture."""
    return style.plain("\n".join(textwrap.wrap(text, width)))


def counts(axes: Any, made: np.ndarray, seen: np.ndarray) -> None:
    """The share of each whole number: of data made 50% and 90%, of those seen as bars."""
    values = np.unique(np.concatenate([made.ravel(), seen]))
    shares = np.stack([(made == value).mean(axis=1) for value in values], axis=1)
    low, quarter, middle, three, high = np.quantile(shares, style.LEVELS, axis=0)
    axes.bar(values, [(seen == value).mean() for value in values], width=0.7, color=INK, alpha=FAINT, label="seen")
    axes.vlines(values, low, high, color=BLUE, lw=1.5)
    axes.vlines(values, quarter, three, color=BLUE, lw=4, label="made by the model, 50% and 90%")
    axes.plot(values, middle, "o", color="white", mec=BLUE, mew=1.5, ms=4.5)
    axes.set_ylabel("share")
    axes.set_ylim(0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    above(axes)


def spreads(axes: Any, made: np.ndarray, seen: np.ndarray) -> None:
    """The density of numbers: of data made the band that holds 90%, of those seen a line, with a stroke for each."""
    seen = seen[np.isfinite(seen)]
    low, high = np.quantile(np.concatenate([seen, made[np.isfinite(made)][:100_000]]), (0.002, 0.998))
    grid = np.linspace(*wide(min(low, seen.min()), max(high, seen.max())), 256)
    ends = style.ends_of(np.concatenate([seen, made[np.isfinite(made)]]))
    curves = np.stack([style.smoothed(each[np.isfinite(each)], grid, ends) for each in made[:REPLICATES]])
    bottom, middle, top = np.quantile(curves, (0.05, 0.5, 0.95), axis=0)
    axes.fill_between(grid, bottom, top, color=BLUE, alpha=0.2, lw=0, label="made by the model, 90%")
    axes.plot(grid, middle, color=BLUE, lw=1.2)
    axes.plot(grid, style.smoothed(seen, grid, ends), color=style.ORANGE, lw=2, label="seen")
    if len(seen) <= 200:
        axes.plot(seen, np.zeros(len(seen)), "|", color=style.ORANGE, ms=9, mew=1.2, clip_on=False)
    style.bare(axes)
    above(axes)


def statistic(axes: Any, made: np.ndarray, seen: float, function: Callable[..., Any]) -> None:
    """A number of each data set made, and that of the data seen."""
    axes.hist(made, bins=min(40, max(len(made) // 12, 8)), color=BLUE, alpha=0.35, label="made by the model")
    axes.axvline(seen, color=style.ORANGE, lw=2, label="seen")
    larger = np.mean(made > seen) + np.mean(made == seen) / 2
    name = getattr(function, "__name__", "statistic")
    axes.set(xlabel=f"{style.plain(name)} of a data set; {larger:.0%} of those made are larger")
    style.bare(axes)
    above(axes)


def above(axes: Any) -> None:
    """The legend over the data, where nothing lies."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, fontsize=9, borderaxespad=0, handlelength=1.4)
