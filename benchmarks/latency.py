"""How long people wait for a first answer, and after it: `python -m benchmarks latency`.

Beside each model stands its limit, the CPU seconds to trace and compile the batched value and gradient of the same
density written by hand, which nobody can answer sooner than, and, with `--peers`, NumPyro's `AutoNormal` (10,000 steps)
and NUTS (1,000 + 1,000, its defaults). Every figure comes from a fresh process and is CPU seconds over all threads with
JAX imported; repetitions are the outermost loop, so that a busy minute hits all alike; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import machine
from benchmarks.waiting.models import cases

OURS, PEERS = ("floor", "density", "fit"), ("svi", "nuts")
LIMIT = 300  # seconds by the clock, of one process
HEAD = (
    "| model | by hand | density | ratio | first fit | verdict | second | its gradients | SVI | NUTS |\n"
    "|---|--:|--:|--:|--:|---|--:|--:|--:|--:|"
)


def measure(what: str, name: str) -> dict[str, Any]:
    """One fresh process; where it fails, `failed` says why."""
    command = [sys.executable, "-m", "benchmarks.waiting.process", what, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {"failed": f"over {LIMIT} s"}
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def table(found: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]) -> str:
    """Markdown: the models, then what is asked of a posterior for the first time."""
    names, lines, calls = dict.fromkeys(name for name, _ in found), [HEAD], []
    for name in names:
        floor, density = (_median(found.get((name, what), ()), "cpu") for what in OURS[:2])
        answers = [one for one in found.get((name, "fit"), ()) if "failed" not in one]
        verdict, gradients = (answers[-1]["verdict"], f"{answers[-1]['second_gradients']:,}") if answers else ("", "")
        second = _median(answers, "second")
        cells = [name, _shown(floor), _shown(density), _shown(density / floor)]
        cells += [_cell(found.get((name, "fit"), ())), verdict, _shown(second, 3), gradients]
        lines.append("| " + " | ".join([*cells, *(_cell(found.get((name, what), ())) for what in PEERS)]) + " |")
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


def _median(runs: Sequence[Mapping[str, Any]], key: str) -> float:
    values = [run[key] for run in runs if "failed" not in run]
    return statistics.median(values) if values else float("nan")


def _cell(runs: Sequence[Mapping[str, Any]]) -> str:
    """Seconds, or why there are none."""
    failed = [run["failed"] for run in runs if "failed" in run]
    return failed[0][:40] if failed else _shown(_median(runs, "cpu"))


def _call(answers: Sequence[Mapping[str, Any]], call: str) -> str:
    runs = [answer["calls"][call] for answer in answers]
    return "none" if runs[0]["cpu"] is None else f"{_median(runs, 'cpu'):.2f} ({runs[0]['programs']})"


def _shown(value: float, digits: int = 2) -> str:
    return "" if value != value else f"{value:.{digits}f}"


def main(arguments: Sequence[str] = ()) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="benchmarks latency", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--model", default="", help="only models whose name contains this")
    parser.add_argument("--peers", action="store_true", help="NumPyro's SVI and NUTS beside")
    options = parser.parse_args(arguments)
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for _ in range(options.repetitions):
        for name in cases():
            for what in (*OURS, *(PEERS if options.peers else ())) if options.model in name else ():
                found.setdefault((name, what), []).append(measure(what, name))
    print(f"{machine.described()}; CPU seconds\n\n{table(found)}")
