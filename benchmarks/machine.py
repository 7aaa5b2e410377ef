"""What a measurement must say of the machine and the code it was made with."""

from __future__ import annotations

import os
import platform
import subprocess

import jax
import optax

import vbppl as vb


def described() -> str:
    """Versions, cores, load and commit, in one line."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    versions = f"Python {platform.python_version()}, JAX {jax.__version__}, Optax {optax.__version__}"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    where = f"{jax.default_backend()}, {len(os.sched_getaffinity(0))} cores, load {load}"
    return f"vbppl {vb.__version__} ({commit or 'no git'}), {versions}; {where}"
