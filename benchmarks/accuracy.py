"""Real posteriors with long references: how far off is what each library answers, after how long, and does it know?

Each fit is a fresh process that begins with its imports done and nothing compiled. The answer is compared on the
supports with the references of `benchmarks/posteriors`: the worst mean in sds, the worst log sd (medians and central
intervals of sites without a usable variance). The bound of a Gaussian is taken by the same code for all: log p - log q
at 20,000 draws, our density, float64; "nats" are those below the best Gaussian of the family in the model's own
coordinates. Who has its own words for the model is asked for its density at five of its draws, which must be ours.

`reached` are the CPU seconds until the bound was first within 0.1 nat of the family's best: of a whole fit by vbppl; of
NumPyro's SVI those of the call less the steps after that, which only somebody who knows the limit could leave out. A
run that was not there after its 10,000 steps is followed to 100,000, or as far as 20 more CPU seconds lead.
"""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path
from typing import Any

import jax
import numpy as np

import vbppl as vb
from benchmarks.harness import Measurement, Row, finished, markdown, median, spread
from benchmarks.peers.answer import Answer, Posed
from benchmarks.posteriors import store
from benchmarks.posteriors.catalogue import ENTRIES
from benchmarks.posteriors.table import RIGHT, RIGHT_LOG_SD, errors, is_right, scalars

NEAR = 0.1  # nats
AS_GOOD = 0.05  # sds, and logs of sds: a peer's error that is less by more than this is better
CUT = 1e3  # where the picture ends
NO_NUMBER = 1e9  # in the place of an error that is not finite
NEARLY_ALL = 0.9  # of the posteriors, which a way is to be asked for that the README shows
QUICK = ("schools-noncentred", "beetles")
LONG = ("SVI, mean field, tuned", "SVI, full rank, tuned", "Pathfinder, 8 paths")  # ways that a quick look leaves out
SLOW = ("pymc", "pymc-extras", "pyro")  # which a quick look asks for one posterior, by their first way
# By peer, its ways; those of PyMC and Pyro exist for the models that are written in their words.
WAYS: dict[str, tuple[str, ...]] = {
    "vbppl": ("auto", "mean field", "full rank"),
    "numpyro": ("SVI, mean field", "SVI, full rank", "SVI, mean field, tuned", "SVI, full rank, tuned", "NUTS"),
    "blackjax": ("VI, mean field", "VI, full rank", "Pathfinder", "Pathfinder, 8 paths"),
    "pymc": ("ADVI", "ADVI, full rank"),
    "pymc-extras": ("Pathfinder", "DADVI"),
    "pyro": ("SVI, mean field", "SVI, full rank"),
}
MODULES = {"vbppl": "ours", "pymc-extras": "pymc_extras"}
# NumPyro takes the transformed Beta of this one to live on the whole line: another posterior.
OTHER_IN_NUMPYRO = ("volatility",)
TRANSLATED = ("schools", "schools-noncentred", "diabetes", "beetles", "pumps")


def measurements(full: bool) -> list[Measurement]:
    """All ways of one posterior, then the next."""
    known = store.load()
    plain = [entry.name for entry in ENTRIES if not (entry.file or entry.label) and entry.name in known]
    names = [name for name in plain if full or name in QUICK]
    return [
        Measurement("accuracy", peer, how, {"posterior": name, "peer": peer, "how": how}, 300.0 if full else 120.0)
        for name in names
        for peer, ways in WAYS.items()
        for how in ways
        if _can(peer, name) and (full or _quick(peer, name, how))
    ]


def _quick(peer: str, posterior: str, how: str) -> bool:
    return how not in LONG and (peer not in SLOW or (posterior, how) == (QUICK[0], WAYS[peer][0]))


def _can(peer: str, posterior: str) -> bool:
    if peer == "numpyro":
        return posterior not in OTHER_IN_NUMPYRO
    return peer in ("vbppl", "blackjax") or posterior in TRANSLATED


def measure(seed: int, posterior: str, peer: str, how: str) -> dict[str, Any]:
    """One fit, compared with its reference."""
    way = importlib.import_module(f"benchmarks.peers.{MODULES.get(peer, peer)}").WAYS[how]
    entry = next(entry for entry in ENTRIES if entry.name == posterior)
    jax.block_until_ready(jax.numpy.zeros(3) + 1)  # the device is awake
    answer: Answer = way(Posed(entry, entry.model()), seed)
    reference = store.load()[posterior]
    with jax.enable_x64(True):
        target = vb.target(entry.model())
        values = scalars(target.constrain(answer.z))
        off = errors(entry, reference["constrained"], values)
        found = {"dim": target.dim, **answer.costs, "gradients": answer.gradients, "says": answer.says}
        found |= {"right": is_right(entry, reference["constrained"], values), **_told(off), **answer.more}
        found |= _bounds(answer, target, reference["limits"][""][family(how)]["elbo"])
    return found


def _told(off: Any) -> dict[str, Any]:
    """A number that is not finite would be no JSON."""
    cut = {name: float(min(getattr(off, name), NO_NUMBER)) for name in ("mean", "log_sd")}
    return cut | {"worst": off.mean_name, "widest": off.log_sd_name}


def family(how: str) -> str:
    """Of Gaussians: the limit that a way is measured against."""
    return "mean_field" if "mean field" in how or how in ("ADVI", "DADVI") else "full_rank"


def _bounds(answer: Answer, target: vb.Target, limit: float) -> dict[str, Any]:
    """The bound, how far it is from the limit of its family, and when it came near."""
    found: dict[str, Any] = {"limit": limit}
    if answer.log_p is not None:
        ours = np.asarray(jax.vmap(target.log_density)(answer.z[: len(answer.log_p)]))
        found["apart"] = float(np.max(np.abs(ours - answer.log_p) / (1 + np.abs(ours))))
    if answer.log_q is not None:
        found["bound"], found["bound_se"] = _bound(target, answer.z, answer.log_q)
    if answer.trace:
        way = [(steps, _bound(target, *there)[0] - limit) for steps, there in answer.trace]
        found["way"] = [(steps, round(nats, 4)) for steps, nats in way]
        found["steps"] = next((steps for steps, nats in way if nats > -NEAR), None)
        share = (found["steps"] or way[-1][0]) / (answer.gradients or 1) - 1
        found["reached" if found["steps"] else "beyond"] = answer.costs["cpu"] + (answer.run or 0.0) * share
    return found


def _bound(target: vb.Target, z: np.ndarray, log_q: np.ndarray) -> tuple[float, float]:
    """The mean of log p - log q, and its standard error; minus infinity, as a number, where a density is not finite."""
    ratios = np.concatenate([np.asarray(_log_densities(target, part)) for part in np.array_split(z, 20)]) - log_q
    if not np.isfinite(ratios).all():
        return -1e9, 0.0
    return float(ratios.mean()), float(ratios.std() / np.sqrt(len(ratios)))


@jax.jit
def _log_densities(target: vb.Target, z: np.ndarray) -> jax.Array:
    return jax.vmap(target.log_density)(z)


def table(rows: list[Row]) -> str:
    """By way, against the clock, then every fit."""
    failed = [f"- {row['posterior']}, {row['peer']}, {row['how']}: {row['failed']}" for row in rows if "failed" in row]
    parts = [_by_way(rows), targets(rows), _against_the_clock(rows), _every(rows)]
    return "\n\n".join([*parts, *(["Without an answer:", "\n".join(failed)] if failed else [])])


def ways(rows: list[Row]) -> list[tuple[str, str]]:
    """Library and way of those that were measured, in the order of the suite."""
    there = {(row["peer"], row["how"]) for row in finished(rows)}
    return [(peer, how) for peer, every in WAYS.items() for how in every if (peer, how) in there]


def posteriors(rows: list[Row]) -> list[str]:
    """Those that were measured, in the order of the suite."""
    there = {row["posterior"] for row in finished(rows)}
    return [entry.name for entry in ENTRIES if entry.name in there]


def nats(row: Row) -> float | None:
    """Below the best of the family; less than nothing where the answer is richer than that."""
    return row["limit"] - row["bound"] if "bound" in row else None


def _by_way(rows: list[Row]) -> str:
    """A line for each library's way."""
    head = (
        "library",
        "way",
        "fits",
        "right",
        "worst mean, sd",
        "worst log sd",
        "within 0.1 nat",
        "CPU-s",
        "calls itself good",
    )
    lines = []
    for peer, how in ways(rows):
        some = finished(rows, peer=peer, how=how)
        gaps = [gap for gap in map(nats, some) if gap is not None]
        good = [row for row in some if row["says"] in ("good", "converged")]
        wrong = sum(not row["right"] for row in good)
        lines.append(
            (
                peer,
                how,
                len(some),
                sum(row["right"] for row in some),
                _error(some, "mean"),
                _error(some, "log_sd"),
                f"{sum(gap < NEAR for gap in gaps)} of {len(gaps)}" if gaps else "",
                spread(some, "cpu"),
                f"{len(good)}, {wrong} wrong" if any(row["says"] for row in some) else "says nothing",
            )
        )
    return markdown(head, lines, texts=2)


def pairs(rows: list[Row], ours: str, peer: str, theirs: str) -> list[tuple[str, float, float, bool]]:
    """By posterior our CPU seconds and theirs; whether they came there, or theirs are but a lower bound."""
    found = []
    for name in posteriors(rows):
        mine = finished(rows, posterior=name, peer="vbppl", how=ours)
        other = finished(rows, posterior=name, peer=peer, how=theirs)
        if mine and other:
            arrived = [row["reached"] for row in other if "reached" in row]
            there = bool(arrived) or theirs == "NUTS"
            seconds = (
                float(np.median(arrived)) if arrived else max(median(other, "cpu"), _or_zero(median(other, "beyond")))
            )
            found.append((name, median(mine, "cpu"), seconds, there))
    return found


def _or_zero(value: float) -> float:
    return 0.0 if np.isnan(value) else value


RACES = (
    ("mean field", "numpyro", "SVI, mean field"),
    ("full rank", "numpyro", "SVI, full rank"),
    ("auto", "numpyro", "NUTS"),
)


def _against_the_clock(rows: list[Row]) -> str:
    """Cold CPU seconds to within 0.1 nat of the family's best bound, and to a verdict."""
    head = ["posterior"]
    for ours, _, theirs in RACES:
        head += [f"vbppl, {ours}", f"NumPyro, {theirs}", "ratio"]
    cells: dict[str, dict[int, tuple[float, float, bool]]] = {}
    for at, race in enumerate(RACES):
        for name, mine, other, there in pairs(rows, *race):
            cells.setdefault(name, {})[at] = mine, other, there
    lines = []
    for name, found in cells.items():
        line = [name]
        for at in range(len(RACES)):
            mine, other, there = found.get(at, (np.nan, np.nan, True))
            more = "" if there else "> "
            line += (
                ["", "", ""] if np.isnan(mine) else [f"{mine:.1f}", f"{more}{other:.1f}", f"{more}{other / mine:.1f}"]
            )
        lines.append(line)
    return f"Cold CPU seconds: to within 0.1 nat of the family's best bound; to a verdict.\n\n{markdown(head, lines)}"


def _error(rows: list[Row], key: str) -> str:
    return spread(rows, key, ".2f").replace(format(NO_NUMBER, ".2f"), "no number")


def targets(rows: list[Row]) -> str:
    """What was to be reached, and what was."""
    lines = []
    for ours, peer, theirs in RACES:
        raced = pairs(rows, ours, peer, theirs)
        ratios, bounds = [other / mine for _, mine, other, _ in raced], sum(not there for *_, there in raced)
        if not ratios:
            continue
        slower = [name for name, mine, other, _ in raced if mine > other]
        mean, wanted = float(np.exp(np.mean(np.log(ratios)))), 1.0 if theirs == "NUTS" else 5.0
        met = not slower and mean >= wanted
        lines.append(
            f"- vbppl {ours} against NumPyro {theirs}: {mean:.1f} times as fast in the geometric mean of "
            f"{len(ratios)}, {bounds} of them lower bounds (wanted {wanted:g}); slower on "
            f"{', '.join(slower) or 'none'}: {'met' if met else '**missed**'}."
        )
    behind = behind_peers(rows)
    lines.append(
        f"- Errors of plain `vb.fit` within {AS_GOOD} of the best variational peer's, or better: "
        + (f"**missed** on {'; '.join(behind)}." if behind else f"met on all {len(posteriors(rows))}.")
    )
    short = [
        f"{row['posterior']} by {row['how']} ({nats(row):.2f})"
        for row in finished(rows, peer="vbppl")
        if "bound" in row and nats(row) > NEAR
    ]
    lines.append(f"- Bounds of vbppl over {NEAR} nat below the best of the family: {', '.join(short) or 'none'}.")
    return "\n".join(lines)


def behind_peers(rows: list[Row]) -> list[str]:
    """Posteriors where a variational peer has a smaller error, by more than is allowed."""
    behind = []
    for name in posteriors(rows):
        some = finished(rows, posterior=name)
        for key in ("mean", "log_sd"):
            ours = median((row for row in some if (row["peer"], row["how"]) == ("vbppl", "auto")), key)
            others = [row for row in some if row["peer"] != "vbppl" and row["how"] != "NUTS"]
            best = min(others, key=lambda row: row[key], default=None)
            if best and ours > best[key] + AS_GOOD:
                behind.append(f"{name} ({key} {ours:.2f}, {best['peer']} {best['how']} {best[key]:.2f})")
    return behind


def _every(rows: list[Row]) -> str:
    """Every posterior by every way."""
    head = (
        "posterior",
        "library",
        "way",
        "right",
        "worst mean, sd",
        "worst log sd",
        "nats below",
        "CPU-s",
        "programs",
        "gradients",
        "MB",
        "says",
    )
    lines = []
    for name in posteriors(rows):
        for peer, how in ways(rows):
            some = finished(rows, posterior=name, peer=peer, how=how)
            if not some:
                continue
            gaps = [{"nats": gap} for gap in map(nats, some) if gap is not None]
            right = sum(row["right"] for row in some)
            lines.append(
                (
                    name,
                    peer,
                    how,
                    ("yes" if right else "no") if len(some) == 1 else f"{right} of {len(some)}",
                    _error(some, "mean"),
                    _error(some, "log_sd"),
                    spread(gaps, "nats", ".2f"),
                    spread(some, "cpu"),
                    spread(some, "programs", ".0f"),
                    spread(some, "gradients", ",.0f"),
                    spread(some, "memory", ".0f"),
                    "; ".join(dict.fromkeys(filter(None, (row["says"] for row in some)))),
                )
            )
    return markdown(head, lines, texts=4)


SHORT = (
    ("vbppl", "auto"),
    ("numpyro", "SVI, mean field"),
    ("numpyro", "SVI, full rank"),
    ("numpyro", "NUTS"),
    ("blackjax", "VI, full rank"),
    ("pymc", "ADVI"),
)


def short(rows: list[Row]) -> str:
    """The README's table: of ways that nearly all posteriors were asked for; no answer is none that is right."""
    head = (
        "",
        "posteriors",
        "right",
        "median error of the worst mean, sd",
        "of the worst log sd",
        "CPU seconds, cold",
        "its own verdict",
    )
    lines = []
    for peer, how in SHORT:
        asked = [row for row in rows if (row["peer"], row["how"]) == (peer, how)]
        some = finished(asked)
        if some and len(asked) >= NEARLY_ALL * len(finished(rows, peer="vbppl", how="auto")):
            told = sum((row["says"] in ("good", "corrected")) == row["right"] for row in some)
            numbers = [
                format(median(some, key), form) for key, form in (("mean", ".2f"), ("log_sd", ".2f"), ("cpu", ".1f"))
            ]
            says = f"right on {told} of {len(some)}" if any(row["says"] for row in some) else "none"
            lines.append((f"{peer}, {how}", len(asked), sum(row["right"] for row in some), *numbers, says))
    return markdown(head, lines)


COLOURS = {
    "vbppl": "#d55e00",
    "numpyro": "#0072b2",
    "blackjax": "#009e73",
    "pymc": "#cc79a7",
    "pymc-extras": "#e69f00",
    "pyro": "#56b4e9",
}


def pictures(rows: list[Row], stem: Path) -> list[Path]:
    """Errors against what they cost, a point a fit: lower left is better."""
    import matplotlib.pyplot as plt

    marks = dict(zip(dict.fromkeys(how for _, how in ways(rows)), itertools.cycle("oDs^v<>P*XphHd8")))
    figure, axis = plt.subplots(figsize=(8.5, 5.2), constrained_layout=True)
    for peer, how in ways(rows):
        some = finished(rows, peer=peer, how=how)
        off = [min(max(row["mean"] / RIGHT, row["log_sd"] / RIGHT_LOG_SD), CUT) for row in some]
        axis.scatter(
            [row["cpu"] for row in some],
            off,
            marker=marks[how],
            color=COLOURS[peer],
            s=70 if peer == "vbppl" else 34,
            alpha=0.8,
            linewidths=0,
            label=f"{peer}: {how}",
        )
    axis.axhline(1.0, color="#888888", linewidth=0.8)
    axis.set(xscale="log", yscale="log", xlabel="CPU seconds of a first fit, compiling included")
    axis.set_ylabel(f"worst error over what counts as right\n({RIGHT} sd of a mean, {RIGHT_LOG_SD} of a log sd)")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    path = stem.with_name(stem.name + "-errors.svg")
    with plt.rc_context({"svg.hashsalt": "vbppl"}):  # the same rows draw the same file
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return [path]
