"""How a stochastic fit goes on from a file: what is written of it, when, and what makes a fit the same.

The state of a fit is a value, and a checkpoint is all of it. Between chunks of steps it is written; a fit that is
killed reads it and goes on to the same bits, because noise and rows are functions of the seed and the step's number.
"""

from __future__ import annotations

import dataclasses
import os
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vbppl.core import archive, devices
from vbppl.core.errors import ModelError, VbpplWarning
from vbppl.core.numerics.convergence import Convergence
from vbppl.core.programs.compiling import on_accelerator
from vbppl.core.types import PathLike, PyTree
from vbppl.inference.stochastic.early_stopping import Ending
from vbppl.inference.stochastic.schedule import Phase, Schedule
from vbppl.inference.stochastic.step import Position, Setup, program

SPARING = 10  # writing a checkpoint may take this fraction of the time: one in ten


@dataclasses.dataclass(frozen=True)
class State:
    """Where a fit stands between two chunks of steps.

    Attributes:
      position: of the compiled loop, on the host.
      schedule: which phase it is in.
      bounds: the bound at each step so far, `(steps,)`.
      trace: the records of the phase so far that are kept for the look at its end, `(rows, 2, numbers)`.
      memories: what each stop rule remembers.
      reported: at which step the last chunk began.
      careful: whether steps are looked at one by one, since one was not finite.
      ending: why the fit has ended, once it has.
      step_size: for what is learnt without a unit, once it was chosen.
      trial_steps: the steps that this took.
      first_skipped: the number of the first step that was not finite.
      nonfinite_sites: the sites whose density or gradient was not finite there.
      seconds: what the fit has taken so far.
      compiling: how many of them went into first calls of new programs.
    """

    position: Position
    schedule: Schedule
    bounds: np.ndarray
    trace: np.ndarray
    memories: tuple[PyTree, ...] = ()
    reported: int = 0
    careful: bool = False
    ending: Ending | None = None
    step_size: float | None = None
    trial_steps: int = 0
    first_skipped: int | None = None
    nonfinite_sites: tuple[str, ...] = ()
    seconds: float = 0.0
    compiling: float = 0.0


# Fields that JSON holds as they are; the others have a form of their own.
SHAPED = ("position", "schedule", "bounds", "trace", "memories", "ending")
PLAIN = tuple(field.name for field in dataclasses.fields(State) if field.name not in SHAPED)


class NoCheckpoint:
    """No checkpoint."""

    def restored(self, first: State) -> State:
        """The state to begin with: the first."""
        return first

    def save(self, state: State) -> None:
        """Nothing."""

    def locked(self) -> AbstractContextManager[None]:
        """Nothing is locked."""
        return nullcontext()


class Checkpoint:
    """A file that holds the state of one fit; where several processes fit `together`, the first reads and writes it."""

    def __init__(self, path: PathLike, fingerprint: dict[str, str], together: bool = False):
        self.path, self.due, self.fingerprint, self.together = path, 0.0, fingerprint, together
        if not Path(path).absolute().parent.is_dir():
            raise ModelError(f"checkpoint={os.fspath(path)!r}: there is no such folder.", mend="Make it first.")

    def restored(self, first: State) -> State:
        """The state that the file holds, if there is one, else the first.

        Raises:
          ModelError: the file is another fit's, or none.
        """
        content = devices.first_reads(self.path) if self.together else None
        if not (os.path.exists(self.path) if content is None else content):
            return first
        meta, arrays = archive.read(self.path, content)
        with archive.refused(self.path):
            found, schedule = dict(meta["fingerprint"]), dict(meta["schedule"])
        archive.check(self.path, found, self.fingerprint)
        with archive.refused(self.path):
            fields = {name: meta[name] for name in PLAIN}
            schedule["centre"] = arrays["centre"] if meta["centred"] else None
            found = schedule["convergence"]
            schedule["convergence"] = archive.typed(Convergence, found) if found else None
            fields["schedule"] = archive.typed(Schedule, schedule)
            fields["nonfinite_sites"] = tuple(fields["nonfinite_sites"])
            fields["ending"] = archive.typed(Ending, meta["ending"]) if meta["ending"] else None
            fields |= {name: archive.unpack(getattr(first, name), name, arrays) for name in ("position", "memories")}
            state = archive.typed(State, fields | {name: arrays[name] for name in ("bounds", "trace")})
            if state.bounds.shape != (int(state.position.step),) or state.trace.ndim != 3:
                raise ValueError(f"it holds {state.bounds.shape} bounds of {int(state.position.step)} steps")
            return state

    def locked(self) -> AbstractContextManager[None]:
        """While no other fit may write to the file."""
        return nullcontext() if self.is_followed else archive.locked(self.path)

    @property
    def is_followed(self) -> bool:
        """Does another process read and write?"""
        return self.together and jax.process_index() > 0

    def save(self, state: State) -> None:
        """Write, unless the time since the last writing is short in comparison with what that took."""
        began = time.perf_counter()
        if self.is_followed or (began < self.due and state.ending is None):
            return
        schedule, meta = dataclasses.asdict(state.schedule), {name: getattr(state, name) for name in PLAIN}
        centre = schedule.pop("centre")
        meta |= {"fingerprint": self.fingerprint, "schedule": schedule, "centred": centre is not None}
        meta["ending"] = dataclasses.asdict(state.ending) if state.ending else None
        arrays = {"bounds": state.bounds, "trace": state.trace, "centre": np.zeros(0) if centre is None else centre}
        arrays |= archive.pack(state.position, "position") | archive.pack(state.memories, "memories")
        try:
            archive.write(self.path, meta, arrays)
        except OSError as error:  # a full disk, say, is no reason to lose the fit
            text = f"the checkpoint {os.fspath(self.path)} could not be written: {error}. The fit goes on without it"
            warnings.warn(VbpplWarning(f"{text}; the file holds what it held before."), stacklevel=2)
        ended = time.perf_counter()
        self.due = ended + SPARING * (ended - began)


def fingerprint(problem: Any, setup: Setup, first: State) -> dict[str, str]:
    """What makes a fit this one; each entry by the name that a message will call it."""
    layout = setup.target.layout
    phase = Phase(0, 1, 1, 1).as_data()
    text = program(on_accelerator()).lower(setup, first.position, np.int32(1), phase, False).as_text()
    return {
        **archive.machine(),
        "sites": ", ".join(f"{slot.name}{list(slot.shape)}" for slot in layout.slots),
        "observed": ", ".join(layout.observed),
        "params": ", ".join(layout.params),
        "plates": ", ".join(f"{plate.name}[{plate.size}]" for plate in layout.plates),
        "rows shown": str(problem.minibatches),
        "guide": type(setup.guide).__name__,
        "objective": f"{type(setup.objective).__name__} {archive.digest(*jax.tree.leaves(setup.objective))}",
        "draws": str(problem.settings.draws),
        "steps": str(problem.settings.steps),
        "average": str(first.schedule.average),
        "seed": str(np.asarray(problem.raw_key).tolist()),
        "data": devices.digest((setup.target, setup.guide, setup.minibatches), setup.mesh),
        "start": archive.digest(*jax.tree.leaves(first.position)),
        "validation": ", ".join(rule.fingerprint() for rule in problem.stop_rules),
        "program of a step": archive.digest(text),
    }
