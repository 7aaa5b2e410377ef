"""One process a measurement, all of a suite in turn, rows of what was found.

A suite is a module of this folder with three functions, and perhaps a fourth:

    measurements(full) -> list[Measurement]     what there is to measure, in the order in which it takes turns
    measure(seed, **settings) -> dict           one of them, in a fresh process; what it returns is written as JSON
    table(rows) -> str                          Markdown; a row is a dict of the measurement and what was found
    pictures(rows, stem) -> list[Path]          optional: draws `stem` + something + `.svg`

A row holds the measurement's `suite`, `peer`, `how` and settings, its `seed`, and what `measure` returned; where the
process did not end well, `failed` says why, and nothing else was found. Repetitions are the outermost loop, so that a
busy minute hits all; a repetition is another seed.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import statistics
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What one fresh process measures.

    Attributes:
      suite: the module whose `measure` is called.
      peer: whose work is measured: "vbppl", or a name of `peers.PEERS`.
      how: which of its ways.
      settings: keyword arguments of `measure`, beside the seed.
      seconds: by the wall, after which the process is ended; that is a result too.
      once: repetitions would say the same.
    """

    suite: str
    peer: str
    how: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float = 600.0
    once: bool = False

    @property
    def label(self) -> str:
        """In one line."""
        return " ".join([self.suite, *map(str, self.settings.values()), self.peer, self.how])

    def row(self, seed: int) -> Row:
        """What is known before anything is measured."""
        return {"suite": self.suite, "peer": self.peer, "how": self.how, **self.settings, "seed": seed}


def run(
    measurements: Sequence[Measurement],
    repetitions: int,
    pythons: Mapping[str, str],
    known: Iterable[Row] = (),
    found: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """All rows, those known first; `found` hears of each new one."""
    rows = list(known)
    for seed in range(repetitions):
        for measurement in measurements:
            asked = measurement.row(seed)
            if (measurement.once and seed) or any(asked.items() <= row.items() for row in rows):
                continue
            rows.append({**asked, **in_fresh_process(measurement, seed, pythons.get(measurement.peer, sys.executable))})
            found(rows[-1])
    return rows


def in_fresh_process(measurement: Measurement, seed: int, python: str) -> Row:
    """What `measure` returns there, or why it did not."""
    task = json.dumps({"suite": measurement.suite, "seed": seed, "settings": dict(measurement.settings)})
    command = [python, "-m", "benchmarks.harness", task]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=measurement.seconds)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {measurement.seconds:.0f} s"}
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):  # it died on the way
        return {"failed": f"exit {done.returncode}: {' '.join(done.stderr.splitlines()[-1:])}"}


def finished(rows: Iterable[Row], **settings: Any) -> list[Row]:
    """The rows with these settings that were measured to their end."""
    return [row for row in rows if "failed" not in row and settings.items() <= row.items()]


def median(rows: Iterable[Row], key: str) -> float:
    """Over the rows that have a number there; NaN if none has."""
    return statistics.median([row[key] for row in rows if row.get(key) is not None] or [float("nan")])


def spread(rows: Iterable[Row], key: str, form: str = ".1f") -> str:
    """The median, and from where to where the rows go if there are several."""
    values = [row[key] for row in rows if row.get(key) is not None]
    if not values:
        return ""
    middle = format(statistics.median(values), form)
    ends = [format(end, form) for end in (min(values), max(values))]
    return middle if len(values) == 1 or ends[0] == ends[1] else f"{middle} ({ends[0]}-{ends[1]})"


def markdown(head: Sequence[str], lines: Iterable[Sequence[Any]], texts: int = 1) -> str:
    """A table; the first `texts` columns are words, the others numbers."""
    rule = ["---"] * texts + ["--:"] * (len(head) - texts)
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in (head, rule, *lines))


def main(task: str) -> None:
    """In the fresh process: print what was found, as the last line."""
    asked = json.loads(task)
    try:
        measure = importlib.import_module(f"benchmarks.{asked['suite']}").measure
        found = measure(seed=asked["seed"], **asked["settings"])
    except Exception as error:  # a measurement that raises is a result, which the table shows
        traceback.print_exc()
        found = {"failed": f"{type(error).__name__}: {error}".partition("\n")[0][:300]}
    print("\n" + json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
