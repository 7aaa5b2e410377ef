"""How long people wait for a first answer, and after it: `python -m benchmarks latency`.

Beside each model stands its limit, the CPU seconds to trace and compile the batched value and gradient of the same
density written by hand, which nobody can answer sooner than, and NumPyro's `AutoNormal` (10,000 steps) and NUTS (1,000
+ 1,000, its defaults). Every figure comes from a fresh process and is CPU seconds over all threads with JAX imported.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Sequence
from typing import Any

from benchmarks.harness import Measurement, Row, finished
from benchmarks.waiting.models import cases

# By what is measured, whose it is.
WHAT = {"floor": "vbppl", "density": "vbppl", "fit": "vbppl", "svi": "numpyro", "nuts": "numpyro"}
QUICK = ("eight schools", "regression", "beta-binomial", "30 sites")
QUICK_PEERS = ("eight schools", "regression")
HEAD = (
    "| model | by hand | density | ratio | first fit | verdict | second | its gradients | SVI | NUTS |\n"
    "|---|--:|--:|--:|--:|---|--:|--:|--:|--:|"
)


def measurements(full: bool) -> list[Measurement]:
    """All of one model, then the next."""
    return [
        Measurement("latency", peer, what, {"model": name, "what": what}, 300.0)
        for name in cases()
        for what, peer in WHAT.items()
        if full or name in (QUICK if peer == "vbppl" else QUICK_PEERS)
    ]


def measure(seed: int, model: str, what: str) -> dict[str, Any]:
    """One of them, in this process, which has imported JAX and not yet vbppl; the data are the same for all seeds."""
    from benchmarks.waiting.process import MEASUREMENTS

    warnings.simplefilter("ignore")
    return MEASUREMENTS[what](cases()[model])


def table(rows: list[Row]) -> str:
    """Markdown: the models, then what is asked of a posterior for the first time."""
    lines, calls = [HEAD], []
    for name in dict.fromkeys(row["model"] for row in rows):
        some = {what: [row for row in rows if (row["model"], row["what"]) == (name, what)] for what in WHAT}
        floor, density = (_median(some[what], "cpu") for what in ("floor", "density"))
        answers = finished(some["fit"])
        verdict, gradients = (answers[-1]["verdict"], f"{answers[-1]['second_gradients']:,}") if answers else ("", "")
        cells = [name, _shown(floor), _shown(density), _shown(density / floor)]
        cells += [_cell(some["fit"]), verdict, _shown(_median(answers, "second"), 3), gradients]
        lines.append("| " + " | ".join([*cells, _cell(some["svi"]), _cell(some["nuts"])]) + " |")
        if answers:
            calls.append((name, answers))
    text = "\n".join(lines)
    if calls:
        asked = list(calls[0][1][0]["calls"])
        text += "\n\n| first call, CPU-s (programs) | " + " | ".join(asked) + " |\n|---|" + "--:|" * len(asked)
        for name, answers in calls:
            text += f"\n| {name} | " + " | ".join(_call(answers, call) for call in asked) + " |"
        text += f"\n\nImporting vbppl after JAX: {_median(calls[0][1], 'import'):.2f} CPU-s."
    return text


def _median(runs: Sequence[Row], key: str) -> float:
    values = [run[key] for run in runs if "failed" not in run]
    return statistics.median(values) if values else float("nan")


def _cell(runs: Sequence[Row]) -> str:
    """Seconds, or why there are none."""
    failed = [run["failed"] for run in runs if "failed" in run]
    return failed[0][:40] if failed else _shown(_median(runs, "cpu"))


def _call(answers: Sequence[Row], call: str) -> str:
    runs = [answer["calls"][call] for answer in answers]
    return "none" if runs[0]["cpu"] is None else f"{_median(runs, 'cpu'):.2f} ({runs[0]['programs']})"


def _shown(value: float, digits: int = 2) -> str:
    return "" if value != value else f"{value:.{digits}f}"
