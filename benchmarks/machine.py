"""What a measurement must say of the machine and the code it was made with."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

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


class Memory:
    """What this process holds from now on, in MB. Linux only."""

    def __init__(self):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of what was done before
        self.before = self._kilobytes("VmRSS")

    def peak(self) -> float:
        """The most that it held, beyond what it held at first."""
        return (self._kilobytes("VmHWM") - self.before) / 1024

    def _kilobytes(self, name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))
