"""The file of references: numbers by posterior, in `reference.json` beside this file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("reference.json")


def load() -> dict[str, Any]:
    """All references there are, by name."""
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def save(name: str, reference: dict[str, Any]) -> None:
    """Put the reference of one posterior into the file; a line for each list keeps differences readable."""
    every = {**load(), name: reference}
    ordered = {name: every[name] for name in sorted(every)}
    blocks = []
    for key, value in ordered.items():
        lines = [f"  {json.dumps(k)}: {_text(v)}" for k, v in value.items()]
        blocks.append(f"{json.dumps(key)}: {{\n" + ",\n".join(lines) + "\n}")
    FILE.write_text("{\n" + ",\n".join(blocks) + "\n}\n")


def rounded(values: Any, digits: int = 6) -> list[float]:
    """To some significant digits."""
    return [float(f"{value:.{digits}g}") for value in np.asarray(values, float)]


def _text(value: Any) -> str:
    if isinstance(value, dict) and any(isinstance(inner, (list, dict)) for inner in value.values()):
        inner = (f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
        return "{\n" + ",\n".join(inner) + "\n  }"
    return json.dumps(value)
