"""How a stochastic fit goes on from a file: what is written of it, when, and what makes a fit the same.

A driver is what `engine.run` drives a fit with. Between chunks of steps its place is written: the state of the
loop, the course of rounds, what hooks remember. A fit that is killed reads it and goes on to the same bits, because
noise and rows are functions of the seed and the step's number.
"""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vbppl.core import archive
from vbppl.core.archive import PathLike
from vbppl.core.errors import ModelError
from vbppl.core.numerics.convergence import Convergence
from vbppl.inference.solution import Ending
from vbppl.inference.stochastic.schedule import Course
from vbppl.inference.stochastic.step import Schedule, run_chunk

SPARING = 10  # writing a checkpoint may take this fraction of the time: one in ten
PLAIN = ("done", "careful", "reason", "first_skipped", "guilty", "pace", "raced")  # what is kept as it is


class NoCheckpoint:
    """No checkpoint."""

    def save(self, driver: Any) -> None:
        """Nothing."""


class Saver:
    """Writes a driver to a file between chunks; on the way in, restores it from the file if there is one."""

    def __init__(self, path: PathLike, driver: Any):
        self.path, self.due, self.fingerprint = path, 0.0, _fingerprint(driver)
        if not Path(path).absolute().parent.is_dir():
            raise ModelError(f"checkpoint={os.fspath(path)!r}: there is no such folder.", mend="Make it first.")
        if os.path.exists(path):
            meta, arrays = archive.read(path)
            archive.check(path, meta["fingerprint"], self.fingerprint)
            _restore(driver, meta, arrays)

    def save(self, driver: Any) -> None:
        """Write, unless the time since the last writing is short in comparison with what that took."""
        began = time.perf_counter()
        if began < self.due and not driver.reason:
            return
        course = dataclasses.asdict(driver.course)
        centre = course.pop("centre")
        meta = {
            "fingerprint": self.fingerprint,
            "course": course,
            "centred": centre is not None,
            **{name: getattr(driver, name) for name in PLAIN},
            "ending": dataclasses.asdict(driver.ending) if driver.ending else None,
            "seconds": time.perf_counter() - driver.began,
        }
        arrays = {"bounds": driver.bounds, "trace": driver.trace, "centre": np.zeros(0) if centre is None else centre}
        arrays |= archive.pack(driver.state, "state")
        for number, hook in enumerate(driver.hooks):
            arrays |= archive.pack(hook.saved(), f"hook {number}")
        archive.write(self.path, meta, arrays)
        ended = time.perf_counter()
        self.due = ended + SPARING * (ended - began)


def _restore(driver: Any, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Put a driver where the one was that wrote `meta` and `arrays`."""
    course = {**meta["course"], "centre": arrays["centre"] if meta["centred"] else None}
    course["look"] = Convergence(**course["look"]) if course["look"] else None
    driver.course = Course(**course)
    driver.state = archive.unpack(driver.state, "state", arrays)
    driver.best, driver.carried = driver.state.moving.params, driver.state.moving.state
    driver.bounds, driver.trace = arrays["bounds"], arrays["trace"]
    for name in PLAIN:
        setattr(driver, name, meta[name])
    driver.nonfinite_sites = tuple(driver.nonfinite_sites)
    driver.ending = Ending(**meta["ending"]) if meta["ending"] else None
    driver.began = time.perf_counter() - meta["seconds"]
    for number, hook in enumerate(driver.hooks):
        hook.restore(archive.unpack(hook.saved(), f"hook {number}", arrays))


def _fingerprint(driver: Any) -> dict[str, str]:
    """What makes a fit this one; each entry by the name that a message will call it."""
    (problem, _), layout = next(driver.fed(driver.state, 1)), driver.problem.target.layout
    schedule = Schedule.of(0, 1, 1)
    program = run_chunk.lower(problem, driver.state, np.int32(1), schedule, driver.careful).as_text()
    return {
        **archive.machine(),
        "sites": ", ".join(f"{slot.name}{list(slot.shape)}" for slot in layout.slots),
        "observed": ", ".join(layout.observed),
        "params": ", ".join(layout.params),
        "plates": ", ".join(f"{plate.name}[{plate.size}]" for plate in layout.plates),
        "rows shown": str(driver.problem.stream),
        "guide": type(problem.guide).__name__,
        "objective": f"{type(problem.objective).__name__} {archive.digest(*jax.tree.leaves(problem.objective))}",
        "draws": str(problem.draws),
        "steps": str(driver.method.steps),
        "average": str(driver.average),
        "seed": str(np.asarray(problem.raw_key).tolist()),
        "data": archive.digest(*jax.tree.leaves((problem.target, problem.guide, problem.stream))),
        "start": archive.digest(*jax.tree.leaves(driver.state)),
        "validation": ", ".join(hook.fingerprint() for hook in driver.hooks),
        "program of a step": archive.digest(program),
    }
