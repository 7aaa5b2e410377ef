"""What users would take instead, by what is installed of it: `pip install ".[peers]"`.

    numpyro     stochastic VI with autoguides, and NUTS
    blackjax    mean-field and full-rank VI, Pathfinder
    pymc        ADVI and full-rank ADVI
    pymc_extras Pathfinder and deterministic ADVI for PyMC's models
    pyro        stochastic VI with autoguides, on PyTorch
    in_pymc     the models that are written in PyMC's words
    in_pyro     the models that are written in Pyro's words

Each of the first five has `WAYS`, by name a function of `(posterior, seed)` that fits and returns an `Answer`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

# What must be importable of each, by the names of distributions.
PEERS: dict[str, tuple[str, ...]] = {
    "numpyro": ("numpyro",),
    "blackjax": ("blackjax",),
    "pymc": ("pymc", "pytensor"),
    "pymc-extras": ("pymc-extras", "pymc"),
    "pyro": ("pyro-ppl", "torch"),
}
_ASK = """
import importlib.metadata, json, sys
found = {}
for package in sys.argv[1:]:
    try:
        found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def installed(peer: str, python: str = sys.executable) -> dict[str, str] | None:
    """The versions of a peer's packages in that interpreter's environment; None where one is not installed."""
    command: Sequence[str] = [python, "-c", _ASK, *PEERS[peer]]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found if len(found) == len(PEERS[peer]) else None
