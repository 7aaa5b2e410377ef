"""Suites that are scripts of their own: what each prints is its table, measured whole in one fresh process."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
from typing import Any

from benchmarks.harness import Measurement, Row
from benchmarks.machine import Clock


@dataclasses.dataclass(frozen=True)
class Printed:
    """A module with `main(arguments)` as a suite.

    Attributes:
      name: the module.
      quick: its arguments for a look within a minute or two.
      full: those of the figures that are committed.
      seconds: for one run.
    """

    name: str
    quick: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    seconds: float = 7200.0

    def measurements(self, full: bool) -> list[Measurement]:
        """One, of everything that it prints."""
        settings = {"name": self.name, "arguments": list(self.full if full else self.quick)}
        return [Measurement("printed", "vbppl", self.name, settings, self.seconds, once=True)]

    def table(self, rows: list[Row]) -> str:
        """What it printed."""
        return "\n\n".join(_shown(row) for row in rows)


def _shown(row: Row) -> str:
    asked = " ".join(["python -m benchmarks", row["name"], *(["--", *row["arguments"]] if row["arguments"] else [])])
    if "failed" in row:
        return f"`{asked}`: {row['failed']}"
    return f"`{asked}`; {row['cpu']:.0f} CPU-s\n\n{row['text'].strip()}"


def measure(seed: int, name: str, arguments: list[str]) -> dict[str, Any]:
    """Run it; its seeds are its own."""
    clock, said = Clock(), io.StringIO()
    with contextlib.redirect_stdout(said):
        importlib.import_module(f"benchmarks.{name}").main(arguments)
    return {"text": said.getvalue(), **clock.read()}
