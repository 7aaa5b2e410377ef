"""How costs grow: with columns, rows, sites, fits and devices, each beside the limit by hand.

Seconds are CPU seconds of a fresh process's first answer, compiling included, report included. By hand stands a
compiled value and gradient of the same density, 32 points side by side, of which as many gradients are counted as the
fit took: whoever knew all else beforehand would pay that. NumPyro's is the usual recipe: `AutoNormal`, Adam at 0.01,
10,000 steps of one draw.

    columns   a Poisson hierarchy with five counts a group, and a logistic regression of 200 rows
    rows      a logistic regression of ten columns
    sites     normals one after the other, each with two rows of its own; by hand in a loop, and as one array
    fits      `vb.fit_many` of a regression of three dims, and `vb.fit` one after the other once it has compiled
    devices   a logistic regression of 100,000 rows that `vb.shard` puts on so many simulated devices: of two cores no
              speed is to be had; what it costs to be many is what is looked at
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import vbppl as vb
from benchmarks import draws, models, trace
from benchmarks.harness import Measurement, Row, finished, markdown, median
from benchmarks.machine import Clock

POINTS, STEPS, TIMED = 32, 10_000, 5
HIERARCHY, REGRESSION = "Poisson hierarchy", "logistic regression"
COUNTS, ROWS, COLUMNS = 5, 200, 10
OURS, HAND, STACKED, SVI = "vbppl", "by hand", "by hand, one array", "NumPyro SVI"
# What was wanted: CPU seconds by columns, and times the seconds by hand by sites.
WANTED = {1_000: 1.0, 10_000: 4.0, 100_000: 30.0}
WANTED_SITES = {100: 1.5, 300: 2.0, 1_000: 2.0}
# By axis its sizes: those of a quick look, then the others.
SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "columns": ((1_000, 10_000), (100_000,)),
    "rows": ((1_000, 100_000), (10_000, 1_000_000)),
    "sites": ((10, 100), (300, 1_000)),
    "fits": ((1, 16), (4, 64)),
    "devices": ((1, 4), (2, 8)),
}
MOST_SVI = {"columns": 10_000, "rows": 10_000}  # sizes that it is measured up to in a quick look
WAYS = {"columns": ("mean_field", "low_rank"), "rows": ("auto",)}


def measurements(full: bool) -> list[Measurement]:
    """Axis by axis, size by size, all ways of a size next to each other."""
    found = []
    for axis, (quick, more) in SIZES.items():
        for size in sorted((*quick, *more) if full else quick):
            for model in (HIERARCHY, REGRESSION) if axis == "columns" else ("",):
                for peer, how, guide in _ways(axis, size, full):
                    settings = {"axis": axis, "model": model, "size": size, "how": how, "guide": guide}
                    found.append(Measurement("scaling", peer, how, settings, 1200.0 if full else 200.0))
    return found


def _ways(axis: str, size: int, full: bool) -> list[tuple[str, str, str]]:
    """Whose work, which way and which guide."""
    if axis in ("fits", "devices"):
        return [("vbppl", OURS, "auto")]
    if axis == "sites":
        return [("vbppl", HAND, ""), ("vbppl", STACKED, ""), ("vbppl", OURS, "mean_field")]
    guides = WAYS[axis] if full or size < 10_000 else WAYS[axis][:1]
    ours = [("vbppl", HAND, ""), *(("vbppl", OURS, guide) for guide in guides)]
    return [*ours, ("numpyro", SVI, "")] if full or size <= MOST_SVI[axis] else ours


def measure(seed: int, axis: str, model: str, size: int, how: str, guide: str) -> dict[str, Any]:
    """One fit, or one way by hand, in this process."""
    warnings.simplefilter("ignore", vb.VbpplWarning)
    if axis == "devices":
        jax.config.update("jax_num_cpu_devices", size)
    jax.block_until_ready(jnp.zeros(3) + 1)  # the device is awake
    if axis == "fits":
        return _many(size, seed)
    posed, log_density, dim = _posed(axis, model, size)
    if how in (HAND, STACKED):
        return _by_hand(_stacked if how == STACKED else log_density, dim, posed.arrays)
    if how == SVI:
        return _svi(posed, seed)
    clock = Clock()
    posterior = vb.fit(posed, guide, seed=seed, progress=False)
    costs, status = clock.read(), posterior.status
    told = {"gradients": status.gradients, "says": posterior.check().verdict, "dim": dim}
    return costs | told | {"bound": posterior.uncorrected().elbo.value, "converged": status.converged}


def _posed(axis: str, model: str, size: int) -> tuple[vb.Model, Callable[..., Any], int]:
    """The model, its density by hand `(z, *arrays)`, its dims."""
    rng = np.random.default_rng(0)
    if axis == "sites":
        posed, by_hand, dim, _ = trace.model_of("sites", size)
        return posed, by_hand, dim
    if model == HIERARCHY:
        group = np.repeat(np.arange(size - 2), COUNTS)
        counts = rng.poisson(np.exp(1 + 0.5 * rng.standard_normal(size - 2))[group])
        return draws.groups(counts, group, number=size - 2), _hierarchy_by_hand, size
    rows, columns = (ROWS, size) if axis == "columns" else (100_000 if axis == "devices" else size, COLUMNS)
    # Log odds of unit size, whatever the number of columns.
    x = rng.standard_normal((rows, columns), np.float32) * np.float32(2 / np.sqrt(columns))
    y = (rng.random(rows) < 1 / (1 + np.exp(-x @ rng.standard_normal(columns)))).astype(np.float32)
    data = vb.shard(x, y) if axis == "devices" and size > 1 else (x, y)
    return models.logistic(*data), models.logistic_by_hand, columns


def _hierarchy_by_hand(z: Any, counts: Any, group: Any) -> Any:
    """Of `draws.groups`."""
    tau, rate = jnp.exp(z[1]), z[2:]
    prior = models.normal(z[0], 0.0, 2.0) + models.normal(tau, 0.0, 1.0) + z[1]
    seen = rate[group]
    return prior + jnp.sum(models.normal(rate, z[0], tau)) + jnp.sum(counts * seen - jnp.exp(seen))


def _stacked(z: Any, y: Any) -> Any:
    """Of the sites, as one array."""
    return -0.5 * jnp.sum(z**2) - 0.5 * jnp.sum((y - z[:, None]) ** 2)


def _by_hand(log_density: Callable[..., Any], dim: int, data: Any) -> dict[str, Any]:
    """What compiling costs, and a gradient after that."""
    evaluate = jax.jit(jax.vmap(jax.value_and_grad(log_density), (0, *(None for _ in data))))
    points = 0.1 * np.random.default_rng(0).standard_normal((POINTS, dim)).astype(np.float32)
    data = [jnp.asarray(part, jnp.result_type(float) if part.dtype.kind == "f" else None) for part in data]
    clock = Clock()
    jax.block_until_ready(evaluate(points, *data))
    costs = clock.read()
    clock = Clock()
    for _ in range(TIMED):
        jax.block_until_ready(evaluate(points, *data))
    return costs | {"a_gradient": clock.read()["cpu"] / TIMED / POINTS, "dim": dim}


def _svi(posed: vb.Model, seed: int) -> dict[str, Any]:
    """NumPyro's usual recipe."""
    import numpyro
    from numpyro.infer import SVI as Fit
    from numpyro.infer import Trace_ELBO, autoguide

    from benchmarks.peers.numpyro import model_of

    function, args, kwargs = model_of(posed)
    clock = Clock()
    fit = Fit(function, autoguide.AutoNormal(function), numpyro.optim.Adam(1e-2), Trace_ELBO())
    losses = np.asarray(fit.run(jax.random.key(seed), STEPS, *args, progress_bar=False, **kwargs).losses)
    return clock.read() | {"gradients": STEPS, "bound": float(-losses[-100:].mean())}


def _many(count: int, seed: int) -> dict[str, Any]:
    """So many data sets together, and then each alone, compiled already."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, 200, 3))
    y = (rng.random((count, 200)) < 1 / (1 + np.exp(-x @ np.ones(3)))).astype(float)
    clock = Clock()
    fits = vb.fit_many(models.logistic, [{"x": a, "y": b} for a, b in zip(x, y)], seeds=seed)
    costs, again = clock.read(), Clock()
    vb.fit_many(models.logistic, [{"x": a, "y": b} for a, b in zip(x, np.roll(y, 1, 1))], seeds=seed)
    together = again.read()["cpu"]
    vb.fit(models.logistic(x[0], y[0]), progress=False)  # compiles
    again, some = Clock(), list(zip(x, np.roll(y, 1, 1)))[:8]
    for a, b in some:
        vb.fit(models.logistic(a, b), progress=False)
    spent = again.read()["cpu"] / len(some)
    told = {"gradients": sum(each.status.gradients for each in fits), "again": together, "alone": spent * count}
    return costs | told | {"converged": all(each.status.converged for each in fits)}


def table(rows: list[Row]) -> str:
    """A table for each axis, and what failed."""
    parts = [_columns(rows), _rows(rows), _sites(rows), _fits(rows), _devices(rows)]
    failed = [f"- {_label(row)}, {row['how']} {row['guide']}: {row['failed']}" for row in rows if "failed" in row]
    return "\n\n".join(filter(None, [*parts, "Without an answer:\n\n" + "\n".join(failed) if failed else ""]))


def _label(row: Row) -> str:
    return f"{row['axis']} {row['model']} {row['size']:,}".replace("  ", " ")


def _sizes(rows: list[Row], axis: str) -> list[tuple[str, int]]:
    return sorted({(row["model"], row["size"]) for row in finished(rows, axis=axis)})


def hand_seconds(rows: list[Row], gradients: float, **where: Any) -> float:
    """CPU seconds by hand of as many gradients, compiling included."""
    some = finished(rows, how=HAND, **where)
    return median(some, "cpu") + gradients * median(some, "a_gradient")


def _columns(rows: list[Row]) -> str:
    head = ("columns", "guide", "CPU-s", "wanted", "gradients", "by hand", "ratio", "NumPyro SVI", "MB", "its MB")
    head = (*head, "bound", "its bound", "verdict")
    lines = [
        line
        for model, size in _sizes(rows, "columns")
        for guide in WAYS["columns"]
        for line in _line(rows, "columns", model, size, guide, WANTED if guide == "mean_field" else {})
    ]
    return f"Columns.\n\n{markdown(head, lines, texts=2)}" if lines else ""


def _rows(rows: list[Row]) -> str:
    head = ("rows", "guide", "CPU-s", "wanted", "gradients", "by hand", "ratio", "NumPyro SVI", "MB", "its MB")
    head = (*head, "bound", "its bound", "verdict")
    lines = [
        line for model, size in _sizes(rows, "rows") for line in _line(rows, "rows", model, size, WAYS["rows"][0], {})
    ]
    return f"Rows, ten columns.\n\n{markdown(head, lines, texts=2)}" if lines else ""


def _line(rows: list[Row], axis: str, model: str, size: int, guide: str, wanted: dict[int, float]) -> list[tuple]:
    """Of one size; none where vbppl has not been measured."""
    where = {"axis": axis, "model": model, "size": size}
    ours, peer = finished(rows, how=OURS, guide=guide, **where), finished(rows, how=SVI, **where)
    if not ours:
        return []
    spent, gradients = median(ours, "cpu"), median(ours, "gradients")
    limit, goal = hand_seconds(rows, gradients, **where), wanted.get(size)
    missed = "" if goal is None else f"{goal:g}" + (" **missed**" if spent > goal else "")
    numbers = (f"{spent:.1f}", missed, f"{gradients:,.0f}", _shown(limit), _shown(spent / limit))
    theirs = (
        _shown(median(peer, "cpu")),
        _shown(median(ours, "memory"), ",.0f"),
        _shown(median(peer, "memory"), ",.0f"),
    )
    bounds = (_shown(median(ours, "bound"), ",.2f"), _shown(median(peer, "bound"), ",.2f"))
    return [(f"{model} {size:,}".strip(), guide, *numbers, *theirs, *bounds, ours[0]["says"])]


def _sites(rows: list[Row]) -> str:
    head = ("sites", "first fit", "loop by hand", "ratio", "wanted", "one array by hand", "programs", "gradients")
    lines = []
    for _, size in _sizes(rows, "sites"):
        fit, loop, one = (finished(rows, axis="sites", size=size, how=how) for how in (OURS, HAND, STACKED))
        ratio, goal = median(fit, "cpu") / median(loop, "cpu"), WANTED_SITES.get(size)
        missed = "" if goal is None else f"{goal:g}" + (" **missed**" if ratio > goal else "")
        cells = (_shown(median(some, "cpu"), ".2f") for some in (fit, loop))
        counts = (_shown(median(fit, "programs"), ".0f"), _shown(median(fit, "gradients"), ",.0f"))
        lines.append((f"{size:,}", *cells, _shown(ratio), missed, _shown(median(one, "cpu"), ".2f"), *counts))
    return (
        f"Sites: CPU seconds of a first fit, and to compile values and gradients.\n\n{markdown(head, lines)}"
        if lines
        else ""
    )


def _fits(rows: list[Row]) -> str:
    head = ("fits", "first, CPU-s", "again together", "one after the other", "ratio", "gradients", "MB")
    lines = []
    for _, size in _sizes(rows, "fits"):
        some = finished(rows, axis="fits", size=size)
        first, again, alone = (median(some, key) for key in ("cpu", "again", "alone"))
        counts = (_shown(median(some, "gradients"), ",.0f"), _shown(median(some, "memory"), ".0f"))
        lines.append((size, f"{first:.2f}", f"{again:.3f}", f"{alone:.3f}", f"{alone / again:.1f}", *counts))
    return f"Fits side by side.\n\n{markdown(head, lines)}" if lines else ""


def _devices(rows: list[Row]) -> str:
    head = ("devices", "CPU-s", "wall, s", "of it compiling", "gradients", "MB", "bound")
    lines = []
    for _, size in _sizes(rows, "devices"):
        some = finished(rows, axis="devices", size=size)
        cells = (_shown(median(some, key)) for key in ("cpu", "wall", "compiling"))
        counts = (_shown(median(some, "gradients"), ",.0f"), _shown(median(some, "memory"), ".0f"))
        lines.append((size, *cells, *counts, _shown(median(some, "bound"), ",.2f")))
    return f"Simulated devices, 100,000 rows.\n\n{markdown(head, lines)}" if lines else ""


def _shown(value: float, form: str = ".1f") -> str:
    return "" if np.isnan(value) else format(value, form)


def pictures(rows: list[Row], stem: Path) -> list[Path]:
    """CPU seconds against columns and sites."""
    import matplotlib.pyplot as plt

    panels = [("columns", HIERARCHY), ("columns", REGRESSION), ("rows", ""), ("sites", "")]
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.8), sharey=True, constrained_layout=True)
    for axis, (name, model) in zip(axes, panels):
        guide = {"columns": "mean_field", "rows": "auto", "sites": "mean_field"}[name]
        sizes = [size for kind, size in _sizes(rows, name) if kind == model]
        ways = {OURS: ("#d55e00", "o"), HAND: ("#888888", "s"), STACKED: ("#cccccc", "s"), SVI: ("#0072b2", "^")}
        for how, (colour, mark) in ways.items():
            there = [(size, _seconds(rows, name, model, size, how, guide)) for size in sizes]
            there = [point for point in there if not np.isnan(point[1])]
            if there:
                axis.loglog(*zip(*there), mark + "-", color=colour, label=how, markersize=5)
        axis.set(title=f"{name}, {model}" if model else name, xlabel=name)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("CPU seconds, cold")
    marks = {line.get_label(): line for axis in axes for line in axis.lines}
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=len(marks), frameon=False)
    path = stem.with_name(stem.name + "-growth.svg")
    with plt.rc_context({"svg.hashsalt": "vbppl"}):  # the same rows draw the same file
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return [path]


def _seconds(rows: list[Row], axis: str, model: str, size: int, how: str, guide: str) -> float:
    """By hand of as many gradients as the fit took, but for sites, where compiling is what is compared."""
    where = {"axis": axis, "model": model, "size": size}
    if how == HAND and axis != "sites":
        return hand_seconds(rows, median(finished(rows, how=OURS, guide=guide, **where), "gradients"), **where)
    return median(finished(rows, how=how, guide=guide if how == OURS else "", **where), "cpu")
