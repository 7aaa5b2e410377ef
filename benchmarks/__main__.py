"""The door: `python -m benchmarks NAME`, where NAME is one of the files here that measure something."""

import importlib
import sys

NAMES = (
    "draws",
    "gpu",
    "latency",
    "low_rank",
    "minibatch",
    "overhead",
    "porting",
    "posteriordb",
    "posteriors",
    "refine",
    "sbibm",
    "stan_examples",
    "stopping",
    "trace",
    "vae",
    "verdict",
)

if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
    sys.exit(f"usage: python -m benchmarks {{{','.join(NAMES)}}} [options]")
importlib.import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:])
