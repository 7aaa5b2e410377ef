"""What a measurement must say of the machine and the code it was made with, and what it costs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import jax
import optax

import vbppl as vb

COMPILING = "backend_compile_duration"  # of tracing JAX tells too, but a trace within a trace twice


def described() -> str:
    """Versions, cores, load and commit, in one line."""
    versions = f"Python {platform.python_version()}, JAX {jax.__version__}, Optax {optax.__version__}"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    where = f"{jax.default_backend()}, {cores()}, load {load}"
    return f"vbppl {vb.__version__} ({commit()}), {versions}; {where}"


def cores() -> str:
    """How many this process may use, in words."""
    number = len(os.sched_getaffinity(0))
    return f"{number} core{'s' * (number > 1)}"


def commit(root: Path = Path(__file__).parents[1]) -> str:
    """Its short name, and `-dirty` where the code is not what was committed; results that a run writes are not code."""

    def said(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True).stdout.strip()

    changed = said("status", "--porcelain", "vbppl", "benchmarks", ":!benchmarks/results")
    return (said("rev-parse", "--short", "HEAD") or "no git") + ("-dirty" if changed else "")


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of those packages that this interpreter has."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


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


class Clock:
    """Costs since it was made: CPU and wall seconds, how many of the latter XLA compiled, and peak memory.

    CPU seconds are those of all threads, and of child processes that have ended.
    """

    def __init__(self):
        self.compiling, self.programs = 0.0, 0
        jax.monitoring.register_event_duration_secs_listener(self._heard)
        self.memory, self.cpu, self.wall = Memory(), _cpu(), time.perf_counter()

    def read(self, jax_compiles: bool = True) -> dict[str, float]:
        """What a row says of costs. Whoever reads has waited for the answer.

        What other libraries compile, in C by a program of its own, JAX knows nothing of: then nothing is said of it.
        """
        wall, cpu = time.perf_counter() - self.wall, _cpu() - self.cpu
        compiled = {"compiling": self.compiling, "programs": self.programs} if jax_compiles else {}
        return {"cpu": cpu, "wall": wall, **compiled, "memory": self.memory.peak()}

    def _heard(self, event: str, seconds: float, **_: object) -> None:
        if event.endswith(COMPILING):
            self.compiling += seconds
            self.programs += 1


def _cpu() -> float:
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in both)
