"""How the tests compile, before anything is compiled; and what pytest's way to import would break."""

from __future__ import annotations

import gc
import importlib.metadata
import os

import pytest

# Most of a test's time is compiling programs that run once: below LLVM's highest level that is a quarter of the whole.
# Densities and stochastic steps name their own level (`target/batched.compiler_options`), here as for every user.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()

import vbppl

# By XLA's older code generator the tests take .8 of the CPU seconds. JAX 0.10, of the oldest Python, has it; of 0.12,
# which has not, an unknown flag ends the process. In one part, not in many for the cores that the other worker has, a
# program compiles in .9 of them; under 0.12 that saves nothing.
OLDER_GENERATOR = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def pytest_configure(config: pytest.Config) -> None:
    """Compile by the older generator where time counts; the long tests and newer JAX run what users run."""
    if config.option.markexpr == "not slow" and importlib.metadata.version("jaxlib").startswith("0.10."):
        os.environ["XLA_FLAGS"] += f" {OLDER_GENERATOR}"


# The words of the root that are called like a wing.

WORDS = {name: getattr(vbppl, name) for name in ("model", "target")}


def pytest_collection_finish() -> None:
    """Give the words back: pytest makes every module that it collects an attribute of its package, over `vb.model`.

    And spare the garbage collector what stays, the modules and tests, which it went through 30 times a second.
    """
    for name, word in WORDS.items():
        setattr(vbppl, name, word)
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
