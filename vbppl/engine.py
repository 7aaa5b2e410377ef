"""The stochastic fit: one compiled loop (`loop.py`), driven in chunks from Python.

One step draws noise, evaluates the bound and its gradient, and updates the parameters. Between
chunks of steps Python has the word: progress, callback, hooks, Ctrl-C, stopping.

Steps come in rounds. In each round the step size falls by half a cosine and the iterates of its
last half are averaged (Polyak and Juditsky 1992); the next round starts from that average with half
the step size. The fit ends when two successive averages agree to `TOLERANCE` posterior sds, or
when `MAX_ROUNDS` are spent, and the status says which.

If a chunk ends in something that is not finite, it is made again with care: then a step that is not
finite changes nothing and is counted, and the first such step is made once more to name the site.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from vbppl.aliases import PyTree
from vbppl.guides.base import Guide
from vbppl.keys import host_generator
from vbppl.loop import CHUNK, Problem, Schedule, State, draws_a_step, first_state, run_chunk, where
from vbppl.objectives import ClosedForm, Objective, StickingTheLanding
from vbppl.optimise import AnnealedAdam, Optax
from vbppl.records import Ending, Fitted, Hook, Progress, Status
from vbppl.streams import Rows
from vbppl.target import Target

ROUND = 1000
MAX_ROUNDS = 20
TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True)
class Stochastic:
    """Stochastic gradients of the bound: fresh draws at every step, minibatches if asked for.

    Attributes:
      optimizer: any Optax transformation, used as it is; None for annealed Adam.
      steps: exactly so many steps; None to go on until two rounds agree.
      draws: draws a step; two or more are stratified in every coordinate.
      sticking_the_landing: leave the score term out of the gradient, whose variance then vanishes
        where the guide equals the posterior.
      average: return the average of the last iterates, not the last one.
      every: steps between two looks of progress and callback, at most 1,000.
    """

    optimizer: Any = None
    steps: int | None = None
    draws: int = 1
    sticking_the_landing: bool = False
    average: bool = True
    every: int = CHUNK

    def __post_init__(self) -> None:
        if not 1 <= self.every <= CHUNK:
            raise ValueError(f"every must lie between 1 and {CHUNK}, not {self.every}.")
        if self.draws < 1 or (self.steps is not None and self.steps < 1):
            raise ValueError(f"draws and steps must be at least 1, not {self.draws} and {self.steps}.")
        if self.optimizer is not None and not hasattr(self.optimizer, "update"):
            raise TypeError(
                f"optimizer must be an Optax transformation such as optax.adam(1e-2), not {self.optimizer!r}."
            )


def run(
    target: Target,
    guide: Guide,
    phi: PyTree,
    method: Stochastic,
    raw_key: np.ndarray,
    stream: Rows | None = None,
    watch: Callable[[Progress], None] | None = None,
    hooks: Sequence[Hook] = (),
    objective: Objective | None = None,
    state: PyTree = (),
) -> Fitted:
    """Maximise the bound from `phi` on.

    Args:
      target: the density.
      guide: the family.
      phi: its parameters to start from.
      method: the settings.
      raw_key: of the whole fit.
      stream: which rows are shown; None for all.
      watch: called after each chunk.
      hooks: called after each chunk, after `watch`; the first that answers ends the fit.
      objective: what is maximised; None for the one that `method` says.
      state: what `objective` is handed at the first step.
    """
    optimiser = AnnealedAdam() if method.optimizer is None else Optax(method.optimizer)
    objective = objective or (StickingTheLanding() if method.sticking_the_landing else ClosedForm())
    strata = guide.strata(target, method.draws, host_generator(raw_key, "strata"))
    problem = Problem(target, guide, objective, optimiser, stream or Rows(), strata, raw_key, method.draws)
    first = first_state(problem, _on_host({"guide": phi, "model": target.params}), _on_host(state))
    driver = _Driver(problem, first, method, watch or (lambda progress: None), hooks)
    try:
        reason = driver.rounds()
    except KeyboardInterrupt:
        reason = "interrupted"
    fitted = driver.fitted(reason)
    for hook in hooks:
        fitted = hook.finish(fitted)
    return fitted


class _Driver:
    """The Python side of the loop: rounds, chunks, records."""

    def __init__(
        self,
        problem: Problem,
        first: State,
        method: Stochastic,
        watch: Callable[[Progress], None],
        hooks: Sequence[Hook],
    ):
        self.problem, self.method, self.watch, self.hooks = jax.device_put(problem), method, watch, hooks
        self.state, self.best = first, first.moving.params
        self.ending: Ending | None = None
        self.bounds: list[np.ndarray] = []
        self.shift, self.done, self.careful, self.bad = math.inf, 0, False, None
        self.began = time.perf_counter()

    def rounds(self) -> str:
        """Run rounds until they agree; returns the reason for the end."""
        if self.method.steps is not None:
            self.round(self.method.steps, 1.0)
            return "hook" if self.ending else "steps"
        for number in range(MAX_ROUNDS):
            before = self.best
            self.round(ROUND, 0.5 ** min(number, 4))
            if self.ending:
                return "hook"
            self.shift = self.problem.guide.shift(before["guide"], self.best["guide"])
            if np.isfinite(np.concatenate(self.bounds)[-ROUND:]).mean() < 0.5:
                return "stuck"  # steps that are skipped agree perfectly
            if number > 0 and self.shift <= TOLERANCE:
                return "agreed"
        return "capped"

    def round(self, steps: int, size: float) -> None:
        """One round: anneal over `steps`, average its last half, go on from there."""
        schedule = jax.device_put(Schedule.of(self.done, steps, size))
        end = self.done + steps
        while self.done < end and not self.ending:
            self.chunk(min(self.method.every, end - self.done), schedule)
        if self.ending:
            return  # within a round the average may be of no use
        moving = self.state.moving
        self.best = _on_host(moving.mean if self.method.average else moving.params)
        self.state = dataclasses.replace(self.state, moving=dataclasses.replace(moving, params=self.best))

    def chunk(self, steps: int, schedule: Schedule) -> None:
        """Some steps in one call of the compiled loop; with care if they end in something not finite."""
        before = _on_host(self.state)
        self.state, bounds = run_chunk(self.problem, self.state, np.int32(steps), schedule, self.careful)
        if not self.careful and not _is_finite((self.state.moving, bounds)):
            self.careful = True
            self.state, bounds = run_chunk(self.problem, before, np.int32(steps), schedule, True)
        bounds = np.asarray(bounds)[:steps]
        finite = np.isfinite(bounds)
        if self.bad is None and not finite.all():
            self.bad = (before, int(np.argmin(finite)), schedule)
        self.done += steps
        self.bounds.append(bounds)
        self.best = _on_host(self.state.moving.params)
        mean = float(bounds[finite].mean()) if finite.any() else math.nan
        now = Progress(self.done, mean, time.perf_counter() - self.began, self.best, _on_host(self.state.moving.state))
        self.watch(now)
        answers = [hook.after_chunk(now) for hook in self.hooks]
        self.ending = next(filter(None, answers), None)

    def fitted(self, reason: str) -> Fitted:
        """What the run leaves behind."""
        bounds = np.concatenate([*self.bounds, np.zeros(0)])
        skipped, first, guilty = int((~np.isfinite(bounds)).sum()), None, ()
        if self.bad is not None:
            first, guilty = self.blame(*self.bad)
        ending = self.ending or self.ended(reason)
        gradients = self.done * draws_a_step(self.problem)
        status = Status(ending.reason, ending.converged, ending.text, self.done, gradients, skipped, first, guilty)
        return Fitted(self.best, bounds, status, _on_host(self.state.moving.state))

    def ended(self, reason: str) -> Ending:
        """What there is to say about an end for this reason."""
        said = {
            "agreed": f"two rounds agree within {TOLERANCE} sd (last shift {self.shift:.3f})",
            "steps": "all steps asked for; convergence was not tested",
            "capped": f"still moving after {MAX_ROUNDS} rounds (last shift {self.shift:.3f} sd): not converged",
            "stuck": "more than half of the last steps were not finite: not converged",
            "interrupted": "interrupted: not converged",
        }[reason]
        return Ending(reason, reason == "agreed", said)

    def blame(self, before: State, offset: int, schedule: Schedule) -> tuple[int, tuple[str, ...]]:
        """Make the first bad step again and ask each site of the model at its draws."""
        at, _ = run_chunk(self.problem, before, np.int32(offset), schedule, True)
        target = dataclasses.replace(self.problem.target, params=at.moving.params["model"])
        z, rows = where(self.problem, at, schedule)
        return int(at.step), target.guilty_sites(np.asarray(z), rows)


def _on_host(tree: PyTree) -> PyTree:
    return jax.tree.map(np.array, tree)


def _is_finite(tree: PyTree) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(_on_host(tree)))
