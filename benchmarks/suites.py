"""The suites: each a module or an object with `measurements`, `table` and perhaps `pictures` (see `harness.py`)."""

from __future__ import annotations

from typing import Any

from benchmarks import accuracy, latency, sbibm, scaling, trace
from benchmarks.printed import Printed

# In the order in which they run: those that compare first.
COMPARING = {"accuracy": accuracy, "sbibm": sbibm, "latency": latency, "scaling": scaling, "trace": trace}
SUITES: dict[str, Any] = COMPARING | {
    suite.name: suite
    for suite in (
        Printed("verdict", ("--only", "gamma"), ("--json", "build/verdict.json")),
        Printed("overhead", ("--model", "schools", "--budget", "0.3")),
        Printed("draws", ("--seeds", "1", "--out", "build/draws.png"), ("--out", "build/draws.png")),
        Printed("minibatch", ("--rows", "100000", "--draws", "16", "--repetitions", "3", "--no-memory")),
        Printed("vae", ("--turns", "5", "--no-memory")),
        Printed("stopping", ("--fits", "200", "--seeds", "1", "--first-seed", "100"), ("--first-seed", "100")),
    )
}
# Scripts with options of their own, after `--`; those that are no suites need a file or an accelerator, or look inside.
SCRIPTS = tuple(sorted({name for name, suite in SUITES.items() if isinstance(suite, Printed)})) + (
    "gpu",
    "low_rank",
    "porting",
    "posteriordb",
    "posteriors",
    "refine",
    "stan_examples",
)
