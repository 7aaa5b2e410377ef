"""Results as files, and the tables of README and site made from those: `python -m benchmarks.report`.

A page shows a suite between `<!-- results: SUITE -->` and `<!-- end of results -->`; the README a few lines of all
between `<!-- results -->` and the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import vbppl as vb
from benchmarks import machine
from benchmarks.harness import ROOT, Row

FOLDER = ROOT / "benchmarks" / "results"
PACKAGES = ("jax", "jaxlib", "optax", "numpy")
MARKED = re.compile(r"(<!-- results(?:: (?P<suite>[\w-]+))? -->\n).*?(<!-- end of results -->)", re.DOTALL)


@dataclasses.dataclass
class Results:
    """The rows of one suite, where and with what they were measured, and the file that holds them."""

    suite: str
    size: str
    machine: dict[str, Any]
    versions: dict[str, str]
    rows: list[Row]
    file: Path

    @classmethod
    def of(cls, suite: str, options: argparse.Namespace, peers: Mapping[str, Mapping[str, str]]) -> Results:
        """New ones, with the rows of the file if more are to be added to it."""
        found = {"vbppl": vb.__version__} | machine.versions(PACKAGES)
        for versions in peers.values():
            found |= versions
        file, size = options.out / f"{suite}.json", "full" if options.full else "quick"
        before = json.loads(file.read_text())["rows"] if options.more and file.exists() else []
        return cls(suite, size, described(options.device), found, before, file)

    @classmethod
    def read(cls, file: Path) -> Results:
        """Those of a file."""
        return cls(**json.loads(file.read_text()), file=file)

    def add(self, row: Row) -> None:
        """One more row, written at once, so that nothing is lost when the rest is not waited for."""
        self.rows.append(row)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(each) for each in self.rows)
        head = {key: value for key, value in self.as_data().items() if key != "rows"}
        self.file.write_text(json.dumps(head, indent=1)[:-2] + f',\n "rows": [\n{lines}\n]}}\n')

    def as_data(self) -> dict[str, Any]:
        """All but the file."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "file"}

    def text(self, module: Any) -> str:
        """Where and with what, then the table."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        where = ", ".join(str(value) for value in self.machine.values())
        return f"{self.size}; {where}; {versions}\n\n{module.table(self.rows)}\n"

    def write(self, module: Any) -> None:
        """The table as Markdown, and the pictures."""
        self.file.with_suffix(".md").write_text(self.text(module))
        if hasattr(module, "pictures"):
            module.pictures(self.rows, self.file.with_suffix(""))


def described(device: str | None) -> dict[str, Any]:
    """The machine, and the commit that was measured."""
    commit = machine.commit()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    load = f"load {os.getloadavg()[0]:.1f} when it began"
    cores = f"{machine.cores()} of {model or platform.machine()}"
    found = {"commit": f"commit {commit}", "device": device or "cpu", "cores": cores, "load": load}
    return found | {"python": f"Python {platform.python_version()}"}


def summary(row: Row) -> str:
    """A line for whoever waits."""
    said = row.get("failed") or f"{row.get('cpu', float('nan')):.1f} CPU-s"
    words = ("suite", "posterior", "axis", "kind", "model", "size", "task", "peer", "how", "guide")
    named = [value for key, value in row.items() if key in words and value != ""]
    return f"{' '.join(map(str, dict.fromkeys(named)))}, seed {row['seed']}: {said}"


def filled(page: str, folder: Path = FOLDER) -> str:
    """The page with what the results say between its marks."""
    from benchmarks.suites import SUITES

    def shown(match: re.Match) -> str:
        if match["suite"]:
            file = folder / f"{match['suite']}.json"
            inside = Results.read(file).text(SUITES[match["suite"]]) if file.exists() else "Not run yet.\n"
        else:
            inside = readme(folder)
        return f"{match[1]}\n{inside.strip()}\n\n{match[3]}"

    return MARKED.sub(shown, page)


def readme(folder: Path = FOLDER) -> str:
    """The README's lines."""
    return importlib.import_module("benchmarks.accuracy").short(Results.read(folder / "accuracy.json").rows)


def main() -> None:
    """Fill README and site."""
    for page in (ROOT / "README.md", ROOT / "docs" / "benchmarks.md"):
        page.write_text(filled(page.read_text()))


if __name__ == "__main__":
    main()
