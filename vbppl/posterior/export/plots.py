"""Pictures of a posterior: `vb.plot`. They need Matplotlib, `pip install "vbppl[plots]"`.

Every function draws a `posterior` on the axes `ax` that it is given, or on new ones, changes no setting, and gives back
what it has drawn on: axes where there is one panel, the figure where there are several. The ground is left clear and
the grey is that which is as far from white as from black, so that a picture may stand on a light page and on a dark
one; to save it with a ground, `figure.savefig(path, facecolor="white")`.

>>> import numpy as np, vbppl as vb, vbppl.distributions as dist
>>> @vb.model
... def line(x, y=None):
...     slope = vb.sample("slope", dist.Normal(0.0, 1.0))
...     sd = vb.sample("sd", dist.HalfNormal(1.0))
...     with vb.plate("row", len(x)):
...         vb.sample("y", dist.Normal(slope * x, sd), obs=y)
>>> posterior = vb.fit(line(np.arange(8.0), y=np.arange(8.0) / 2 + 0.1 * np.cos(np.arange(8))))
>>> vb.plot.forest(posterior).get_yticklabels()[0].get_text()
'slope'
>>> len(vb.plot.marginals(posterior).axes)
2
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vbppl.core.errors import of_kind, whole_number
from vbppl.core.keys import host_generator
from vbppl.inference.bound import sample
from vbppl.model import predictive as forward
from vbppl.posterior.export import panels as draw
from vbppl.posterior.export import style
from vbppl.posterior.export.style import BLUE, COLOURS, FAINT, GREEN, INK, MARKERS, ORANGE
from vbppl.posterior.posterior import Posterior
from vbppl.posterior.report import Report
from vbppl.posterior.weighted_draws import TRUSTED_K
from vbppl.target.target import model_of

PANELS, ROWS, PAIRS = 24, 60, 6  # the most of each in one picture
MIN_RANGE = 0.005  # nats that can be seen


def history(posterior: Posterior, ax: Any = None) -> Any:
    """The bound at each step, in nats, where the fit ended, and why.

    Of noisy bounds the moving average is drawn over them. First steps that lie far below are cut off, as is said.

    Returns: the axes.
    """
    draw.checked(posterior)
    bounds, status = np.asarray(posterior.history, np.float64), posterior.status
    with style.one(ax) as axes:
        steps = np.arange(1, len(bounds) + 1)
        known = np.isfinite(bounds)
        noisy = len(bounds) > 200 and not posterior.status.draw_noise
        axes.plot(steps[known], bounds[known], color=BLUE, lw=1 if noisy else 2, alpha=FAINT if noisy else 1)
        if noisy:
            window = max(len(bounds) // 50, 5)
            mean = np.convolve(bounds[known], np.ones(window) / window, "valid")
            axes.plot(steps[known][window - 1 :], mean, color=BLUE, lw=2)
        if known.any():
            late = bounds[known][known.sum() // 3 :]
            top, low = bounds[known].max(), np.quantile(late, 0.02)
            floor = low - 1.5 * max(top - low, 1e-3)
            if bounds[known].min() < floor:
                axes.set_ylim(floor, top + 0.08 * (top - floor))
                first = f"the first step is at {bounds[known][0]:,.4g}"
                axes.annotate(first, (0.99, 0.03), xycoords="axes fraction", ha="right", fontsize=9)
            elif top - bounds[known].min() < MIN_RANGE:  # what rounding moves is no movement
                axes.set_ylim(top - MIN_RANGE, top + MIN_RANGE)
            colour = GREEN if status.converged else ORANGE
            end = mean[-1] if noisy else bounds[known][-1]
            axes.plot(steps[known][-1], end, MARKERS[0], color=colour, ms=6, clip_on=False, zorder=3)
        what = "ELBO" if isinstance(posterior.report, Report) else "log joint at the mode"
        axes.set_title(f"{what} {posterior.elbo} nats")
        axes.ticklabel_format(useOffset=False)
        axes.set(xlabel=f"step\n{draw.wrapped(status.text)}", ylabel="bound, nats")
        if len(steps) > 1:
            axes.set_xlim(1, len(steps))
    return axes


def marginals(posterior: Posterior, *names: str, reference: Mapping[str, Any] | None = None, axes: Any = None) -> Any:
    """The density of each scalar: of the guide, of the corrected draws where there are some, of a reference.

    Args:
      names: the sites; all of them if none.
      reference: draws `(n, ...)` of some sites from elsewhere, such as a long run of a sampler; grey.
      axes: one for each scalar.

    Returns: the figure.

    Raises:
      ValueError: there are more than 24 scalars.
    """
    draw.checked(posterior)
    guide = draw.scalars(posterior.uncorrected(), names)
    known = draw.scalars(posterior, names) if posterior.is_corrected else {}
    theirs = draw.given(reference, posterior, names)
    draw.few("scalars", len(guide), PANELS)
    with style.several(len(guide), axes) as panels:
        for panel, (name, draws) in zip(panels, guide.items()):
            every = [each[name] for each in (guide, known, theirs) if name in each]
            low = min(np.quantile(each, 0.001) for each in every)
            high = max(np.quantile(each, 0.999) for each in every)
            grid = np.linspace(low - 0.05 * (high - low), high + 0.05 * (high - low), 256)
            if name in theirs:
                curve = style.smoothed(theirs[name], grid)
                panel.fill_between(grid, curve, color=INK, alpha=FAINT, lw=0, label="reference")
            how = {"ls": (0, (4, 1.5)), "lw": 1.3} if known else {}
            panel.plot(grid, style.smoothed(draws, grid), color=BLUE, label="guide", **{"lw": 1.8, **how})
            if name in known:
                word = "refined" if posterior.report.chains else "corrected"
                panel.plot(grid, style.smoothed(known[name], grid), color=ORANGE, lw=1.8, label=word)
            panel.set_title(style.plain(name), fontsize=10, pad=4)
            style.bare(panel)
        if axes is None and (known or theirs):
            draw.legend(panels[0])
    return panels[0].figure


def forest(posterior: Posterior, *names: str, reference: Mapping[str, Any] | None = None, ax: Any = None) -> Any:
    """Each scalar with its central 90% thin, its central 50% thick, and its median.

    Args:
      names: the sites; all of them if none.
      reference: draws `(n, ...)` of some sites from elsewhere; grey, below.

    Returns: the axes.

    Raises:
      ValueError: there are more than 60 scalars.
    """
    draw.checked(posterior)
    draws = draw.scalars(posterior, names)
    theirs = draw.given(reference, posterior, names)
    draw.few("scalars", len(draws), ROWS)
    with style.one(ax, 6.4, 0.9 + 0.3 * len(draws)) as axes:
        at = np.arange(len(draws))
        axes.axvline(0, color=INK, alpha=FAINT, lw=1.2, zorder=0)
        if theirs:
            kept = [n for n, name in enumerate(draws) if name in theirs]
            columns = [np.quantile(theirs[name], style.LEVELS) for name in draws if name in theirs]
            style.spans(axes, np.stack(columns, axis=1), np.array(kept) + 0.2, INK)
        columns = [np.quantile(each, style.LEVELS) for each in draws.values()]
        style.spans(axes, np.stack(columns, axis=1), at - 0.1 * bool(theirs))
        style.rows(axes, list(draws))
        axes.set_xlabel("median, 50% and 90%" + ("; reference in grey" if theirs else ""))
    return axes


def pair(posterior: Posterior, *names: str, reference: Mapping[str, Any] | None = None, axes: Any = None) -> Any:
    """Each scalar against each other: draws, and the ellipses that hold 50% and 90% of a normal with their moments.

    Args:
      names: the sites; all of them if none.
      reference: draws `(n, ...)` of some sites from elsewhere; grey, behind.
      axes: a square of them, `(scalars, scalars)`.

    Returns: the figure.

    Raises:
      ValueError: there are fewer than two scalars, or more than six.
    """
    draw.checked(posterior)
    draws = draw.scalars(posterior, names)
    theirs = draw.given(reference, posterior, names)
    draw.few("scalars", len(draws), PAIRS, 2)
    count, labels = len(draws), list(draws)
    with style.several(count**2, axes, 1.75, 1.75, count) as panels:
        square = np.array(panels, object).reshape(count, count)
        for row, below in enumerate(labels):
            for column, beside in enumerate(labels):
                panel = square[row, column]
                if column > row:
                    panel.set_axis_off()
                elif column == row:
                    x = draws[below]
                    grid = np.linspace(np.quantile(x, 0.002), np.quantile(x, 0.998), 200)
                    if below in theirs:
                        panel.fill_between(grid, style.smoothed(theirs[below], grid), color=INK, alpha=FAINT, lw=0)
                    style.density(panel, x, grid, BLUE, lw=1.6)
                    style.bare(panel)
                else:
                    behind = (theirs[beside], theirs[below]) if {beside, below} <= {*theirs} else None
                    draw.cloud(panel, draws[beside], draws[below], behind)
                panel.locator_params(nbins=3)
                draw.name_sides(panel, beside, below, row == count - 1, column == 0 < row)
    return panels[0].figure


def weights(posterior: Posterior, ax: Any = None) -> Any:
    """What the largest importance weights are worth: the share of each, in order, and the shape of their tail.

    Where the line is flat the draws count alike; where a few stand far above, averages hang on them: a Pareto k above
    .7.

    Returns: the axes.

    Raises:
      TypeError: nothing was weighed: a MAP estimate, draws of chains, or rows that were judged by themselves.
    """
    draw.checked(posterior)
    report = posterior.check()
    if report.chains or not len(report.draws):
        raise TypeError(f"no draws were weighed; the verdict is {report.verdict!r}.")
    shares = np.sort(report.draws.weights)[::-1]
    shares = shares[shares > 1e-12]
    with style.one(ax) as axes:
        rank, k = np.arange(1, len(shares) + 1), report.pareto_k
        good = k < TRUSTED_K
        axes.axhline(1 / len(report.draws), color=INK, lw=1.2, ls=(0, (4, 3)))
        axes.text(1, 0.92 / len(report.draws), "if all counted alike", va="top", fontsize=9)
        axes.plot(rank, shares, color=BLUE if good else ORANGE, lw=2)
        axes.set(xscale="log", yscale="log", xlabel="rank of the draw", ylabel="share of the whole weight")
        axes.set_ylim(
            min(shares[int(0.9 * len(shares))], 0.2 / len(report.draws)),
            min(3 * max(shares[0], 10 / len(report.draws)), 1.2),
        )
        tail = (
            "no tail of large weights" if k == -np.inf else f"Pareto k {k:.2f}, {'below' if good else 'not below'} .7"
        )
        axes.set_title(f"{tail}; {len(report.draws):,} draws are worth {report.draws.ess:,.0f}")
    return axes


def predictive(
    posterior: Posterior,
    site: str | None = None,
    statistic: Callable[[np.ndarray], Any] | None = None,
    n: int = 500,
    seed: int = 0,
    ax: Any = None,
) -> Any:
    """Data that the fitted model makes, beside the data that were seen.

    Args:
      site: which observed site; the only one if None.
      statistic: a number of one data set, such as `np.max`. Its values over data made by the model are drawn, with
        that of the data seen and the share of those that are larger. If None, all values are drawn as they are spread.
      n: how many data sets are made, by `seed`.

    Returns: the axes.

    Raises:
      KeyError: no observed site is called so, or there are several and none is named.
    """
    draw.checked(posterior)
    whole_number("n", n)
    of_kind("statistic", statistic, statistic is None or callable(statistic), "a function of one data set")
    observed = forward.observed(model_of(posterior.target))
    of_kind("site", site, site is None or isinstance(site, str), "the name of an observed site")
    if site not in observed and (site is not None or len(observed) != 1):
        raise KeyError(f"no site is observed that is called {site!r}; observed are {', '.join(observed) or 'none'}.")
    name = next(iter(observed)) if site is None else site
    seen = np.asarray(observed[name])
    made = np.asarray(posterior.predict(n=n, seed=seed)[name])
    with style.one(ax) as axes:
        if statistic is not None:
            draw.statistic(axes, np.array([float(statistic(each)) for each in made]), float(statistic(seen)), statistic)
        elif seen.dtype.kind in "biu" and len(np.unique(made)) <= 40:
            draw.counts(axes, made.reshape(n, -1), seen.ravel())
        else:
            draw.spreads(axes, made.reshape(n, -1).astype(float), seen.ravel().astype(float))
        if statistic is None:
            axes.set_xlabel(style.plain(name))
    return axes


def calibration(result: Any, axes: Any = None) -> Any:
    """Ranks of `vb.calibrate`: how far their distribution function is above the uniform one, and a band for all of it.

    Args:
      result: what `vb.calibrate` gave back.
      axes: one for each scalar.

    Returns: the figure. Scalars whose ranks are uneven are drawn in orange.
    """
    of_kind("result", result, hasattr(result, "ranks"), "what vb.calibrate gave back")
    names = result.names
    draw.few("scalars", len(names), ROWS)
    at, band = np.arange(1, result.draws + 1) / (result.draws + 1), result.band
    with style.several(len(names), axes, 2.6, 2.1, sharey=True) as panels:
        for panel, name, ranks, even in zip(panels, names, result.ranks.T, result.are_even):
            above = (ranks[:, None] < np.arange(1, result.draws + 1)).mean(axis=0) - at
            panel.fill_between(at, -band, band, color=INK, alpha=FAINT, lw=0)
            panel.axhline(0.0, color=INK, lw=0.8)
            panel.plot(at, above, color=BLUE if even else ORANGE, lw=1.6)
            panel.set_title(style.plain(name), fontsize=10, pad=4)
            panel.set_xlim(0, 1)
        figure = panels[0].figure
        if axes is None:
            figure.supxlabel("rank of the truth among the posterior's draws", fontsize=9, color=INK)
            figure.supylabel("ECDF above uniform", fontsize=9, color=INK)
    return figure


def latent_map(posterior: Posterior, site: str, rows: Any = None, groups: Any = None, ax: Any = None) -> Any:
    """Where rows lie in the space of a latent vector: the means of an autoencoder's numbers, or of any site by rows.

    Args:
      site: a latent site, `(rows, dims)`; of more than two dimensions the first two principal components are drawn.
      rows: data to encode, where the guide is `vb.Amortized`; the rows that were fitted if None.
      groups: a label for each row, `(rows,)`: a colour each, and its name at the middle of its rows.

    Returns: the axes.

    Raises:
      KeyError, ValueError: there is no such site, or it is not one vector a row.
    """
    draw.checked(posterior)
    of_kind("site", site, isinstance(site, str), "the name of a latent site")
    if rows is None and site not in posterior.target.layout.completed:
        raise KeyError(
            f"no site is called {site!r:.80}; the posterior has {', '.join(posterior.target.layout.completed)}."
        )
    where = np.asarray(posterior.mean()[site] if rows is None else posterior.encode(rows).loc, np.float64)
    if where.ndim != 2 or where.shape[1] < 2:
        raise ValueError(f"site must hold a vector a row, (rows, dims), but '{site}' has shape {where.shape}.")
    words = ("first number", "second number")
    if where.shape[1] > 2:
        centred = where - where.mean(axis=0)
        _, values, axes_ = np.linalg.svd(centred, full_matrices=False)
        where, part = centred @ axes_[:2].T, values**2 / np.sum(values**2)
        words = tuple(f"{word} principal component, {share:.0%}" for word, share in zip(("first", "second"), part))
    labels = np.zeros(len(where), int) if groups is None else np.asarray(groups)
    if labels.shape != (len(where),):
        raise ValueError(f"groups must hold one label for each of {len(where)} rows, not {labels.shape}.")
    with style.one(ax, 5.6, 5.2) as axes:
        for n, each in enumerate(np.unique(labels)):
            here = where[labels == each]
            colour, marker = COLOURS[n % len(COLOURS)], MARKERS[n // len(COLOURS) % len(MARKERS)]
            axes.scatter(*here.T, s=14, color=colour, marker=marker, alpha=0.6, lw=0)
            if groups is not None:
                box = {"boxstyle": "round,pad=0.25", "color": colour}
                middle = np.median(here, axis=0)
                axes.text(
                    *middle, style.plain(str(each)), color="white", weight="bold", ha="center", va="center", bbox=box
                )
        axes.set_aspect("equal", "datalim")
        axes.set(xlabel=words[0], ylabel=words[1], title=f"Where {style.plain(site)} lies")
    return axes


def moving(posterior: Posterior, progress: Sequence[Any], *names: str, panels: int = 6, axes: Any = None) -> Any:
    """The guide moving onto the posterior: a sheet of panels, each with the guide as it stood at a step.

    Behind them are draws of the posterior: the corrected ones where there are some, else those of the guide at the end.

    >>> import vbppl as vb, vbppl.distributions as dist
    >>> @vb.model
    ... def pair():
    ...     x = vb.sample("x", dist.Normal(0.0, 1.0))
    ...     vb.sample("y", dist.Normal(x, 1.0))
    >>> seen = []
    >>> posterior = vb.fit(pair(), "full_rank", callback=seen.append)  # vb.Stochastic(every=20): every 20 steps
    >>> len(vb.plot.moving(posterior, seen, panels=2).axes)
    2

    Args:
      progress: what a callback was told while the posterior was fitted.
      names: two scalars as `summary` calls them; the first two if none.
      panels: how many steps are drawn, evenly chosen among the logarithms of those told.

    Returns: the figure.

    Raises:
      ValueError: nothing was told of this guide, or two scalars are not named.
    """
    draw.checked(posterior)
    of_kind("progress", progress, isinstance(progress, Sequence), "a list of what a callback was told")
    told = [each for each in progress if draw.is_of(posterior, each)]
    if not told:
        raise ValueError("progress holds nothing told of this guide. To mend it: vb.fit(..., callback=seen.append).")
    steps = np.array([each.step for each in told], float)
    wanted = np.geomspace(max(steps[0], 1), steps[-1], whole_number("panels", panels))
    chosen = sorted({int(np.abs(steps - step).argmin()) for step in wanted})
    final = draw.scalars(posterior, ())
    x, y = names or (list(final) * 2)[:2]
    if not {str(x), str(y)} <= {*final}:
        raise ValueError(f"names must be two of {', '.join(final)}.")
    with style.several(len(chosen), axes, 2.5, 2.4, 3) as sheet:
        for panel, at in zip(sheet, chosen):
            phi = told[at].params["guide"]
            rng = host_generator(np.zeros(2, np.uint32), "moving")
            values = posterior.target.complete(sample(posterior.guide, phi, posterior.target, rng, 500), 500)
            here = draw.flat({name: np.asarray(value) for name, value in values.items()}, posterior, ())
            panel.scatter(final[x][:1200], final[y][:1200], s=4, color=INK, alpha=FAINT, lw=0)
            draw.cloud(panel, here[x], here[y])
            panel.set_title(f"step {told[at].step:,}", fontsize=10, pad=4)
            panel.set(xlabel=style.plain(x), ylabel=style.plain(y))
        low, high = np.quantile(np.stack([final[x], final[y]]), (0.002, 0.998), axis=1)
        for panel in sheet:
            panel.set(xlim=draw.wide(low[0], high[0]), ylim=draw.wide(low[1], high[1]))
            panel.label_outer()
    return sheet[0].figure
