"""What goes on from where a simpler family's fit has ended: one fit at a time, with the density and what both cost."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vbppl.core.watch import Watch
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.deterministic.state import CUT
from vbppl.inference.solution import Progress, Solution, Status
from vbppl.target.batched import Batch, BatchedDensity
from vbppl.target.target import parameterisations_of


def one_by_one(
    first: Sequence[Solution],
    watch: Watch,
    go_on: Callable[[int, Solution, Watch], Solution],
    as_it_is: Callable[[Solution], Solution],
) -> list[Solution]:
    """Each of the `first` solutions, by its number, as what it becomes; `as_it_is` where it cannot go on.

    With many fits nobody is told how each goes; once one was cut short, nobody waits for the rest.
    """
    # The fits go on one after the other, so that a bar of the whole would fill many times.
    heard, found, cut = watch if len(first) == 1 else Watch(deadline=watch.deadline), list[Solution](), ""
    for number, before in enumerate(first):
        if cut:
            status = dataclasses.replace(before.status, reason=cut, converged=False, text=CUT[cut])
            before = dataclasses.replace(before, status=status)
        sound = not before.status.was_cut_short and np.isfinite(before.phi).all()
        found.append(go_on(number, before, heard) if sound else as_it_is(before))
        cut = found[-1].status.reason if found[-1].status.was_cut_short else ""
    return found


class Continued:
    """One fit, its density in the coordinates where it stands, and the clock. Nothing here changes but counts."""

    def __init__(self, problem: Problem, number: int, before: Solution):
        """Get ready to go on from `before`, which is fitted to target `number` of the problem."""
        self.before, self.target, self.dim = before, before.target, before.target.dim
        self.raw, self.asked = problem.raw_keys[number], problem.settings.draws
        self.density, self._began = BatchedDensity([before.target]), time.perf_counter()

    def batch(self, count: int) -> Batch:
        """So many searches of the density."""
        return Batch(self.density, np.zeros(count, int), np.tile(parameterisations_of(self.target), (count, 1)))

    def evaluate(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log densities `(points,)` and gradients at `z`, `(points, dim)`, in float64."""
        log_p, gradient = self.batch(1)(z[None])
        return log_p[0], gradient[0]

    def rounding(self, bound: Any) -> Any:
        """By how much two bounds of this size may differ by rounding alone."""
        return self.batch(1).rounding(np.asarray(bound))

    def spent(self, solution: Solution, *others: Solution) -> Solution:
        """A solution, with what has been spent by now: by the fit before, from there, and by `others`."""
        every = [self.before.status, *(other.status for other in others)]
        # Of seconds those since the beginning, which hold what others have spent.
        status = dataclasses.replace(
            solution.status,
            gradients=sum(status.gradients for status in every) + int(self.density.gradients[0]),
            seconds=self.before.status.seconds + time.perf_counter() - self._began,
            compiling=sum(status.compiling for status in every) + self.density.compiling,
        )
        return dataclasses.replace(solution, status=status)

    def solution(self, guide: Any, phi: Any, bounds: Sequence[float], status: Status, **others: Any) -> Solution:
        """The end: a member of another family, after further `bounds`, in nats."""
        every = np.append(self.before.bounds, bounds)  # steps go on being counted
        status = dataclasses.replace(status, steps=len(every))
        return self.spent(dataclasses.replace(self.before, guide=guide, phi=phi, bounds=every, status=status, **others))

    def progress(self, phi: Any, bounds: Sequence[float], stage: str) -> Progress:
        """How it goes, after further `bounds`, in nats, of what is called `stage`."""
        seconds = self.before.status.seconds + time.perf_counter() - self._began
        params = {"guide": phi, "model": self.target.params}
        steps, bound = len(self.before.bounds) + len(bounds), bounds[-1] if bounds else np.nan
        return Progress(steps, bound, seconds, params, stage=stage)
