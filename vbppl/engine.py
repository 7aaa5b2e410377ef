"""The stochastic fit as one compiled loop, driven in chunks from Python.

One step draws noise, evaluates the bound and its gradient, and updates the parameters. Steps run
inside one compiled program, `run_chunk`, a loop whose number of turns is data, so that one compilation
serves every chunk and every round. Between chunks Python has the word: progress, callback,
Ctrl-C, stopping.

Steps come in rounds. In each round the step size falls by half a cosine and the iterates of its
last half are averaged (Polyak and Juditsky 1992); the next round starts from that average with half
the step size. The fit ends when two successive averages agree to `TOLERANCE` posterior sds, or
when `MAX_ROUNDS` are spent, and the status says which.

Random numbers and schedules do not depend on what the steps find, so they are made ahead for as many
steps as the cache holds; the noise of a step is a function of the seed and the step's number. The
compiled step is the bare one, without a look at whether its numbers are finite: a look at every step
makes that of a small model a fifth dearer. If a chunk ends in something that is not finite, it is made
again by a second program, which is careful: there a step that is not finite changes nothing and is
counted, and the first such step is made once more to name the site.
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

from vbppl.aliases import Array, ArrayLike, PyTree
from vbppl.guides.base import Guide
from vbppl.keys import host_generator, named, wrap
from vbppl.objectives import ClosedForm, StickingTheLanding
from vbppl.optimise import AnnealedAdam, Optax
from vbppl.pytree import pytree, static
from vbppl.records import Fitted, Progress, Status
from vbppl.streams import Rows
from vbppl.target import Target

CHUNK = 1000
AHEAD = 2**19  # numbers made ahead at once: more fall out of the cache
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


@pytree
class Problem:
    """Everything a step reads and never changes."""

    target: Target
    guide: Guide
    objective: Any
    optimiser: Any
    stream: Rows
    strata: Any
    raw_key: ArrayLike
    draws: int = static()


@pytree
class Moving:
    """What a step moves. `params` is `{"guide": phi, "model": the model's params}`."""

    params: PyTree
    moments: PyTree
    mean: PyTree


@pytree
class State:
    """Where a fit stands: the number of steps done, what they moved, and the place in the rows' streams."""

    step: ArrayLike
    moving: Moving
    cursor: PyTree


@pytree
class Ahead:
    """What a step reads and never changes, made for many steps at once: random numbers and schedules."""

    noise: Array
    rows: dict[str, Array]
    rates: PyTree
    weight: Array


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
    watch: Callable[[Progress], None] | None = None,
) -> Fitted:
    """Maximise the bound from `phi` on; `watch` is called after each chunk."""
    optimiser = AnnealedAdam() if method.optimizer is None else Optax(method.optimizer)
    objective = StickingTheLanding() if method.sticking_the_landing else ClosedForm()
    strata = guide.strata(target, method.draws, host_generator(raw_key, "strata"))
    problem = Problem(target, guide, objective, optimiser, stream or Rows(), strata, raw_key, method.draws)
    driver = _Driver(problem, {"guide": phi, "model": target.params}, method, watch or (lambda progress: None))
    try:
        reason = driver.rounds()
    except KeyboardInterrupt:
        reason = "interrupted"
    return driver.fitted(reason)


class _Driver:
    """The Python side of the loop: rounds, chunks, records."""

    def __init__(self, problem: Problem, params: PyTree, method: Stochastic, watch: Callable[[Progress], None]):
        self.problem, self.method, self.watch = jax.device_put(problem), method, watch
        self.best = _on_host(params)
        self.state = first_state(problem, self.best)
        self.bounds: list[np.ndarray] = []
        self.shift, self.done, self.careful, self.bad = math.inf, 0, False, None
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
            if np.isfinite(np.concatenate(self.bounds)[-ROUND:]).mean() < 0.5:
                return "stuck"  # steps that are skipped agree perfectly
            if number > 0 and self.shift <= TOLERANCE:
                return "agreed"
        return "capped"

    def round(self, steps: int, size: float) -> None:
        """One round: anneal over `steps`, average its last half, go on from there."""
        schedule = jax.device_put(Schedule.of(self.done, steps, size))
        end = self.done + steps
        while self.done < end:
            self.chunk(min(self.method.every, end - self.done), schedule)
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
        self.watch(Progress(self.done, mean, time.perf_counter() - self.began, self.best))

    def fitted(self, reason: str) -> Fitted:
        """What the run leaves behind."""
        bounds = np.concatenate([*self.bounds, np.zeros(0)])
        skipped, first, guilty = int((~np.isfinite(bounds)).sum()), None, ()
        if self.bad is not None:
            first, guilty = self.blame(*self.bad)
        said = {
            "agreed": f"two rounds agree within {TOLERANCE} sd (last shift {self.shift:.3f})",
            "steps": "all steps asked for; convergence was not tested",
            "capped": f"still moving after {MAX_ROUNDS} rounds (last shift {self.shift:.3f} sd): not converged",
            "stuck": "more than half of the last steps were not finite: not converged",
            "interrupted": "interrupted: not converged",
        }[reason]
        gradients = self.done * _draws(self.problem)
        status = Status(reason, reason == "agreed", said, self.done, gradients, skipped, first, guilty)
        return Fitted(self.best, bounds, status)

    def blame(self, before: State, offset: int, schedule: Schedule) -> tuple[int, tuple[str, ...]]:
        """Make the first bad step again and ask each site of the model at its draws."""
        at, _ = run_chunk(self.problem, before, np.int32(offset), schedule, True)
        target = dataclasses.replace(self.problem.target, params=at.moving.params["model"])
        z, rows = _where(self.problem, at, schedule)
        return int(at.step), target.guilty_sites(np.asarray(z), rows)


@functools.partial(jax.jit, donate_argnames="state", static_argnames="careful")
def run_chunk(problem: Problem, state: State, steps: Array, schedule: Schedule, careful: bool) -> tuple[State, Array]:
    """`steps` steps (at most `CHUNK`); returns the state and the bound at each step, `(CHUNK,)`."""
    block = _block(problem, state, schedule)

    def turn(number: Array, carry: tuple[State, Array]) -> tuple[State, Array]:
        state, bounds = carry
        done = number * block
        ahead = _ahead(problem, state, schedule, block)

        def body(i: Array, carry: tuple[Moving, Array]) -> tuple[Moving, Array]:
            moving, bound = _step(problem, carry[0], jax.tree.map(lambda leaf: _at(leaf, i), ahead), careful)
            return moving, _set(carry[1], done + i, bound)

        count = jnp.minimum(block, steps - done)
        moving, bounds = jax.lax.fori_loop(0, count, body, (state.moving, bounds))
        return State(state.step + count, moving, problem.stream.after(state.cursor, count)), bounds

    return jax.lax.fori_loop(0, (steps + block - 1) // block, turn, (state, jnp.zeros(CHUNK)))


def _step(problem: Problem, moving: Moving, ahead: Ahead, careful: bool) -> tuple[Moving, Array]:
    def loss(params: PyTree) -> Array:
        target = dataclasses.replace(problem.target, params=params["model"])
        return -problem.objective(problem.guide, params["guide"], target, ahead.noise, ahead.rows)

    value, gradient = jax.value_and_grad(loss)(moving.params)
    params, moments = problem.optimiser.update(gradient, moving.moments, moving.params, ahead.rates)
    mean = jax.tree.map(lambda m, p: m + (p - m) * ahead.weight.astype(p.dtype), moving.mean, params)
    after = Moving(params, moments, mean)
    if not careful:
        return after, -value
    finite = _all_finite((value, gradient, after))
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, moving)
    return kept, jnp.where(finite, -value, jnp.nan)


def _all_finite(tree: PyTree) -> Array:
    floats = (leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact))
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in floats]).all()


def _at(leaf: Array, i: Array) -> Array:
    # `leaf[i]` would ask at every step whether `i` is negative.
    return jax.lax.dynamic_index_in_dim(leaf, i, keepdims=False, allow_negative_indices=False)


def _set(bounds: Array, i: Array, bound: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(bounds, bound.astype(bounds.dtype), i, 0, allow_negative_indices=False)


def _ahead(problem: Problem, state: State, schedule: Schedule, count: int) -> Ahead:
    """What the next `count` steps need and do not change; a step's part depends on its number alone."""
    key = wrap(problem.raw_key)
    steps = state.step + jnp.arange(count)
    noise_key = named(key, "noise")

    def noise(step: Array) -> Array:
        return problem.guide.noise(problem.strata, jax.random.fold_in(noise_key, step), problem.draws)

    rows = problem.stream.ahead(named(key, "rows"), state.cursor, count)
    rates = problem.optimiser.rates(steps, (steps - schedule.begin) / schedule.steps, schedule.size)
    # Before the window opens the weight is 1 and the mean is the last iterate.
    weight = 1 / jnp.maximum(steps - schedule.window + 1, 1)
    return Ahead(jax.vmap(noise)(steps), rows, rates, weight)


def _block(problem: Problem, state: State, schedule: Schedule) -> int:
    """For how many steps at a time random numbers are made: as many as `AHEAD` numbers allow."""
    one = jax.eval_shape(lambda state: _ahead(problem, state, schedule, 1), state)
    return int(np.clip(AHEAD // max(1, sum(leaf.size for leaf in jax.tree.leaves(one))), 1, CHUNK))


@jax.jit
def _where(problem: Problem, state: State, schedule: Schedule) -> tuple[Array, dict[str, Array]]:
    """The points `z`, `(draws, dim)`, and the rows at which a step evaluates the density."""
    ahead = jax.tree.map(lambda leaf: leaf[0], _ahead(problem, state, schedule, 1))
    params = state.moving.params
    target = dataclasses.replace(problem.target, params=params["model"])
    return problem.guide.points(params["guide"], target, ahead.noise, ahead.rows), ahead.rows


def first_state(problem: Problem, params: PyTree) -> State:
    """Where a fit begins: at `params`, with no step done."""
    moving = Moving(params, problem.optimiser.init(params), _on_host(params))
    return State(np.int32(0), moving, problem.stream.start())


def _draws(problem: Problem) -> int:
    """The draws that a step really makes: a point needs but one."""
    noise = jax.eval_shape(lambda raw: problem.guide.noise(problem.strata, wrap(raw), problem.draws), problem.raw_key)
    return noise.shape[0]


def _on_host(tree: PyTree) -> PyTree:
    return jax.tree.map(np.array, tree)


def _is_finite(tree: PyTree) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(_on_host(tree)))
