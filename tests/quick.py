"""`jit` for programs that a test runs once: it compiles in two thirds of the time, and runs slower."""

from __future__ import annotations

import functools

import jax

# Only LLVM's optimisation is left out; what XLA makes of the formulas is the same.
OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

jit = functools.partial(jax.jit, compiler_options=OPTIONS)
