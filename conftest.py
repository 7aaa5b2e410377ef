"""How the tests compile, before anything is compiled; and what pytest's way to import would break."""

from __future__ import annotations

import os

# Most of a test's time is compiling programs that run once: below LLVM's highest level that is a quarter of the whole.
# Densities and stochastic steps name their own level (`target/batched.compiler_options`), here as for every user.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()

import vbppl

# The words of the root that are called like a wing.

WORDS = {name: getattr(vbppl, name) for name in ("model", "target")}


def pytest_collection_finish() -> None:
    """Give the words back: pytest makes every module that it collects an attribute of its package, over `vb.model`."""
    for name, word in WORDS.items():
        setattr(vbppl, name, word)
