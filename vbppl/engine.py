"""The stochastic fit as one compiled loop, driven in chunks from Python.

One step draws noise, evaluates the bound and its gradient, and updates the parameters. Steps run
inside one compiled program, `_run_chunk`, a loop whose number of turns is data, so that one compilation
serves every chunk and every round. Between chunks Python has the word: progress, callback,
Ctrl-C, stopping.

Steps come in rounds. In each round the step size falls by half a cosine and the iterates of its
last half are averaged (Polyak and Juditsky 1992); the next round starts from that average with half
the step size. The fit ends when two successive averages agree to `TOLERANCE` posterior sds, or
when `MAX_ROUNDS` are spent, and the status says which.

A step whose bound or gradient is not finite changes nothing and is counted. Since the noise of a step depends only
on the seed and the step's number, the first such step is made again afterwards to name the site.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.aliases import Array, PyTree
from vbppl.guides.base import Guide
from vbppl.keys import host_generator, named, wrap
from vbppl.objectives import ClosedForm, StickingTheLanding
from vbppl.optimise import AnnealedAdam, Optax
from vbppl.pytree import pytree, static
from vbppl.records import Fitted, Progress, Status
from vbppl.streams import Rows
from vbppl.target import Target

CHUNK = 500
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
      every: steps between two looks of progress and callback, at most 500.
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


@pytree
class Problem:
    """Everything a step reads and never changes."""

    target: Target
    guide: Guide
    objective: Any
    optimiser: Any
    stream: Rows
    strata: Any
    raw_key: Array
    draws: int = static()


@pytree
class State:
    """Everything a step changes. `params` is `{"guide": phi, "model": the model's params}`."""

    step: Array
    params: PyTree
    moments: PyTree
    mean: PyTree
    cursor: PyTree
    skipped: Array


@pytree
class Schedule:
    """A round: its first step, its number of steps, where its average begins, its step size."""

    begin: Any
    steps: Any
    window: Any
    size: Any

    @classmethod
    def of(cls, begin: int, steps: int, size: float) -> Schedule:
        """The round of `steps` steps from step `begin` on, averaged over its last half."""
        return cls(np.int32(begin), np.int32(steps), np.int32(begin + steps // 2), np.float64(size))


def run(
    target: Target,
    guide: Guide,
    phi: PyTree,
    method: Stochastic,
    raw_key: np.ndarray,
    stream: Rows | None = None,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> Fitted:
    """Maximise the bound from `phi` on; `watch` is called after each chunk."""
    optimiser = AnnealedAdam() if method.optimizer is None else Optax(method.optimizer)
    objective = StickingTheLanding() if method.sticking_the_landing else ClosedForm()
    strata = guide.strata(target, method.draws, host_generator(raw_key, "strata"))
    problem = Problem(target, guide, objective, optimiser, stream or Rows(), strata, raw_key, method.draws)
    driver = _Driver(problem, {"guide": phi, "model": target.params}, method, watch)
    try:
        reason = driver.rounds()
    except KeyboardInterrupt:
        reason = "interrupted"
    return driver.fitted(reason)


class _Driver:
    """The Python side of the loop: rounds, chunks, records."""

    def __init__(self, problem: Problem, params: PyTree, method: Stochastic, watch: Callable[[Progress], None]):
        self.problem, self.method, self.watch = problem, method, watch
        self.best = jax.tree.map(np.array, params)
        self.state = _first_state(problem, self.best)
        self.bounds: list[np.ndarray] = []
        self.shift, self.done, self.bad = math.inf, 0, None
        self.began = time.perf_counter()

    def rounds(self) -> str:
        """Run rounds until they agree; returns the reason for the end."""
        if self.method.steps is not None:
            self.round(self.method.steps, 1.0)
            return "steps"
        for number in range(MAX_ROUNDS):
            before = self.best
            self.round(ROUND, 0.5 ** min(number, 4))
            self.shift = self.problem.guide.shift(before["guide"], self.best["guide"])
            if number > 0 and self.shift <= TOLERANCE:
                return "agreed"
        return "capped"

    def round(self, steps: int, size: float) -> None:
        """One round: anneal over `steps`, average its last half, go on from there."""
        schedule = Schedule.of(self.done, steps, size)
        end = self.done + steps
        while self.done < end:
            self.chunk(min(self.method.every, end - self.done), schedule)
        self.best = jax.tree.map(np.array, self.state.mean if self.method.average else self.state.params)
        self.state = dataclasses.replace(self.state, params=self.best)

    def chunk(self, steps: int, schedule: Schedule) -> None:
        """Some steps in one call of the compiled loop."""
        before = jax.tree.map(np.array, self.state)
        self.state, bounds = _run_chunk(self.problem, self.state, np.int32(steps), schedule)
        bounds = np.asarray(bounds)[:steps]
        self.done += steps
        self.bounds.append(bounds)
        if self.bad is None and not np.isfinite(bounds).all():
            self.bad = (before, int(np.argmax(~np.isfinite(bounds))), schedule)
        finite = bounds[np.isfinite(bounds)]
        self.best = jax.tree.map(np.array, self.state.params)
        mean = float(finite.mean()) if finite.size else math.nan
        self.watch(Progress(self.done, mean, time.perf_counter() - self.began, self.best))

    def fitted(self, reason: str) -> Fitted:
        """What the run leaves behind."""
        skipped, first, guilty = int(self.state.skipped), None, ()
        if self.bad is not None:
            first, guilty = self.blame()
        said = {
            "agreed": f"two rounds agree within {TOLERANCE} sd (last shift {self.shift:.3f})",
            "steps": "all steps asked for; convergence was not tested",
            "capped": f"still moving after {MAX_ROUNDS} rounds (last shift {self.shift:.3f} sd): not converged",
            "interrupted": "interrupted: not converged",
        }[reason]
        gradients = self.done * self.problem.draws
        status = Status(reason, reason == "agreed", said, self.done, gradients, skipped, first, guilty)
        bounds = np.concatenate(self.bounds) if self.bounds else np.zeros(0)
        return Fitted(self.best, bounds, status)

    def blame(self) -> tuple[int, tuple[str, ...]]:
        """Make the first bad step again and ask each site of the model at its draws."""
        before, offset, schedule = self.bad
        at, _ = _run_chunk(self.problem, before, np.int32(offset), schedule)
        target = dataclasses.replace(self.problem.target, params=at.params["model"])
        z, rows = _where(self.problem, at)
        return int(at.step), target.guilty_sites(np.asarray(z), rows)


@functools.partial(jax.jit, donate_argnames="state")
def _run_chunk(problem: Problem, state: State, steps: Array, schedule: Schedule) -> tuple[State, Array]:
    """`steps` steps (at most `CHUNK`); returns the state and the bound at each step, `(CHUNK,)`."""

    def body(i: Array, carry: tuple[State, Array]) -> tuple[State, Array]:
        state, bound = _step(problem, carry[0], schedule)
        return state, carry[1].at[i].set(bound)

    return jax.lax.fori_loop(0, steps, body, (state, jnp.zeros(CHUNK)))


def _step(problem: Problem, state: State, schedule: Schedule) -> tuple[State, Array]:
    noise, rows, cursor = _randomness(problem, state)

    def loss(params: PyTree) -> Array:
        target = dataclasses.replace(problem.target, params=params["model"])
        return -problem.objective(problem.guide, params["guide"], target, noise, rows)

    value, gradient = jax.value_and_grad(loss)(state.params)
    progress = (state.step - schedule.begin) / schedule.steps
    update, moments = problem.optimiser.update(gradient, state.moments, state.params, progress, schedule.size)
    # A NaN or an infinity anywhere in the gradient makes the sum of its squares not finite.
    squares = sum(jnp.sum(g * g) for g in jax.tree.leaves(gradient))
    finite = jnp.isfinite(value + squares)

    def keep(new: Array, old: Array) -> Array:
        return jnp.where(finite, new, old)

    params = jax.tree.map(lambda p, u: keep(p + u, p), state.params, update)
    count = jnp.maximum(state.step - schedule.window + 1, 1)
    # Before the window opens count is 1 and the mean is the last iterate.
    mean = jax.tree.map(lambda m, p: m + (p - m) / count.astype(p.dtype), state.mean, params)
    moments = jax.tree.map(keep, moments, state.moments)
    skipped = state.skipped + jnp.where(finite, 0, 1)
    return State(state.step + 1, params, moments, mean, cursor, skipped), jnp.where(finite, -value, jnp.nan)


def _randomness(problem: Problem, state: State) -> tuple[Array, dict[str, Array], PyTree]:
    """The noise and the rows of a step, and where the rows' streams stand next."""
    key = wrap(problem.raw_key)
    noise = problem.guide.noise(problem.strata, jax.random.fold_in(named(key, "noise"), state.step), problem.draws)
    rows, cursor = problem.stream(named(key, "rows"), state.cursor)
    return noise, rows, cursor


@jax.jit
def _where(problem: Problem, state: State) -> tuple[Array, dict[str, Array]]:
    """The points `z`, `(draws, dim)`, and the rows at which a step evaluates the density."""
    noise, rows, _ = _randomness(problem, state)
    target = dataclasses.replace(problem.target, params=state.params["model"])
    return problem.guide.points(state.params["guide"], target, noise), rows


def _first_state(problem: Problem, params: PyTree) -> State:
    moments = problem.optimiser.init(params)
    return State(np.int32(0), params, moments, jax.tree.map(np.array, params), problem.stream.start(), np.int32(0))
