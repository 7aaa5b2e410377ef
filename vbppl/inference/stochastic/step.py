"""The compiled loop of a stochastic fit: what a step reads, what it moves, and many steps in one program.

Steps run inside one compiled program, `run_chunk`, a loop whose number of turns is data, so that one
compilation serves every chunk and every round.

Random numbers and schedules do not depend on what the steps find, so they are made ahead for as many
steps as the cache holds; the noise of a step is a function of the seed and the step's number. The
compiled step is the bare one, without a look at whether its numbers are finite: a look at every step
makes that of a small model a fifth dearer. A second program, compiled only where a chunk ends in
something that is not finite, is careful: there a step that is not finite changes nothing and is counted.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.keys import named, wrap
from vbppl.core.pytree import pytree, static
from vbppl.core.types import Array, ArrayLike, PyTree
from vbppl.guides.base import Guide
from vbppl.inference.stochastic.objectives import Objective
from vbppl.inference.stochastic.schedule import THIN
from vbppl.target.target import Target

CHUNK = 1000
WATCHED = 256  # numbers of an iterate in a record
AHEAD = 2**19  # numbers made ahead at once: more fall out of the cache


@pytree
class Problem:
    """Everything a step reads and never changes."""

    target: Target
    guide: Guide
    objective: Objective
    optimizer: Any
    stream: Any  # `streams.Rows`, or a `feeds.Feed` of them
    stratification: Any
    raw_key: ArrayLike
    draws: int = static()


@pytree
class Carry:
    """What a step moves.

    Attributes:
      params: `{"guide": phi, "model": the model's params}`.
      moments: the optimizer's.
      mean: the average of the params since the round's window opened.
      state: what the objective hands from step to step without learning it (running averages of a
        network, say); nothing by default.
    """

    params: PyTree
    moments: PyTree
    mean: PyTree
    state: PyTree = ()


@pytree
class State:
    """Where a fit stands: the number of steps done, what they moved, and the place in the rows' streams."""

    step: ArrayLike
    moving: Carry
    cursor: PyTree


@pytree
class Ahead:
    """What a step reads and never changes, made for many steps at once: random numbers and schedules."""

    step: Array
    noise: Array
    rows: dict[str, Array]
    rates: PyTree
    weight: Array


@pytree
class Schedule:
    """A round of steps.

    Attributes:
      begin: its first step.
      fall: over how many steps from there the step size falls; after that it stays.
      window: the step from which on the iterates are averaged.
      size: by what the optimizer's step sizes are multiplied.
      last: the fraction of the step size that is left after the fall.
      power: how far steps are measured in the guide's own units at the beginning, 0 to 1; at the end of the
        fall they are so altogether.
    """

    begin: Any
    fall: Any
    window: Any
    size: Any
    last: Any
    power: Any

    @classmethod
    def of(
        cls, begin: int, fall: int, window: int, size: float = 1.0, last: float = 0.01, power: float = 0.0
    ) -> Schedule:
        """From step `begin` on; the average begins at step `begin + window`."""
        return cls(np.int32(begin), np.int32(fall), np.int32(begin + window), *map(np.float64, (size, last, power)))

    def fallen(self, steps: Array) -> Array:
        """The part of the fall that lies behind each step, 0 to 1."""
        return jnp.clip((steps - self.begin) / jnp.maximum(self.fall, 1), 0.0, 1.0)


@functools.partial(jax.jit, donate_argnames="state", static_argnames="careful")
def run_chunk(
    problem: Problem, state: State, steps: Array, schedule: Schedule, careful: bool
) -> tuple[State, Array, Array]:
    """`steps` steps, at most `CHUNK`.

    Returns:
      the state, the bound at each step, `(CHUNK,)`, and what `monitored` sees after each step whose number is a
      multiple of `THIN`, `(CHUNK // THIN + 1, 2, numbers)`.
    """
    block, first = _block(problem, state, schedule), state.step // THIN

    def turn(number: Array, carry: tuple[State, Array, Array]) -> tuple[State, Array, Array]:
        state, bounds, trace = carry
        done = number * block
        ahead = _ahead(problem, state, schedule, block)
        count = jnp.minimum(block, steps - done)
        # Groups of steps end where the step's number is a multiple of `THIN`, however chunks and blocks lie.
        lead = state.step % THIN

        def body(i: Array, carry: tuple[Carry, Array]) -> tuple[Carry, Array]:
            moving, bound = _step(problem, carry[0], jax.tree.map(lambda leaf: _at(leaf, i), ahead), careful)
            return moving, _set(carry[1], done + i, bound)

        def group(number: Array, carry: tuple[Carry, Array, Array]) -> tuple[Carry, Array, Array]:
            moving, bounds, trace = carry
            begin, end = jnp.maximum(number * THIN - lead, 0), jnp.minimum((number + 1) * THIN - lead, count)
            moving, bounds = jax.lax.fori_loop(begin, end, body, (moving, bounds))
            return moving, bounds, _set(trace, state.step // THIN - first + number, monitored(problem, moving.params))

        groups = (lead + count + THIN - 1) // THIN
        moving, bounds, trace = jax.lax.fori_loop(0, groups, group, (state.moving, bounds, trace))
        return State(state.step + count, moving, problem.stream.after(state.cursor, count)), bounds, trace

    one = jax.eval_shape(lambda params: monitored(problem, params), state.moving.params)
    carry = (state, jnp.zeros(CHUNK), jnp.zeros((CHUNK // THIN + 1, *one.shape), one.dtype))
    return jax.lax.fori_loop(0, (steps + block - 1) // block, turn, carry)


def monitored(problem: Problem, params: PyTree) -> Array:
    """Some of the numbers that the stop rules look at, each with its unit: `(2, numbers)`.

    Of a Gaussian guide they are means, in posterior sds, and log sds; of more than `WATCHED` every so manieth.
    """
    values, units = problem.guide.monitored(params["guide"])
    learnt = jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves((params["model"], values[:0]))])
    both = jnp.stack([jnp.concatenate([values, learnt]), jnp.concatenate([units, 1 + jnp.abs(learnt)])])
    return both[:, :: max(1, -(-both.shape[1] // WATCHED))]


def _step(problem: Problem, moving: Carry, ahead: Ahead, careful: bool) -> tuple[Carry, Array]:
    def loss(params: PyTree) -> tuple[Array, PyTree]:
        target = dataclasses.replace(problem.target, params=params["model"])
        shown = (ahead.noise, ahead.rows, ahead.step, moving.state)
        bound, state = problem.objective.with_state(problem.guide, params["guide"], target, *shown)
        return -bound, jax.lax.stop_gradient(state)

    (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(moving.params)

    def metric(power: Array, pace: Array) -> PyTree:
        learnt = jax.tree.map(lambda leaf: pace.astype(leaf.dtype), moving.params["model"])
        return {"guide": problem.guide.metric(moving.params["guide"], power, pace), "model": learnt}

    params, moments = problem.optimizer.update(gradient, moving.moments, moving.params, ahead.rates, metric)
    mean = jax.tree.map(lambda m, p: m + (p - m) * ahead.weight.astype(p.dtype), moving.mean, params)
    after = Carry(params, moments, mean, state)
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


def _set(rows: Array, i: Array, row: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(rows, row.astype(rows.dtype), i, 0, allow_negative_indices=False)


def _ahead(problem: Problem, state: State, schedule: Schedule, count: int) -> Ahead:
    """What the next `count` steps need and do not change; a step's part depends on its number alone."""
    key = wrap(problem.raw_key)
    steps = state.step + jnp.arange(count)
    noise_key = named(key, "noise")

    def noise(step: Array) -> Array:
        return problem.guide.noise(problem.stratification, jax.random.fold_in(noise_key, step), problem.draws)

    rows = problem.stream.ahead(named(key, "rows"), state.cursor, count)
    rates = problem.optimizer.rates(steps, schedule.fallen(steps), schedule.size, schedule.last, schedule.power)
    # Before the window opens the weight is 1 and the mean is the last iterate.
    weight = 1 / jnp.maximum(steps - schedule.window + 1, 1)
    return Ahead(steps, jax.vmap(noise)(steps), rows, rates, weight)


def _block(problem: Problem, state: State, schedule: Schedule) -> int:
    """For how many steps at a time random numbers are made: as many as `AHEAD` numbers allow."""
    one = jax.eval_shape(lambda state: _ahead(problem, state, schedule, 1), state)
    made = problem.stream.made + sum(leaf.size for leaf in jax.tree.leaves((one.noise, one.rates, one.weight)))
    return int(np.clip(AHEAD // made, 1, min(CHUNK, problem.stream.most)))


@jax.jit
def where(problem: Problem, state: State, schedule: Schedule) -> tuple[Array, dict[str, Array]]:
    """The points `z`, `(draws, dim)`, and the rows at which a step evaluates the density."""
    ahead = jax.tree.map(lambda leaf: leaf[0], _ahead(problem, state, schedule, 1))
    params = state.moving.params
    target = dataclasses.replace(problem.target, params=params["model"])
    return problem.guide.points(params["guide"], target, ahead.noise, ahead.rows), ahead.rows


def first_state(problem: Problem, params: PyTree, state: PyTree = ()) -> State:
    """Where a fit begins: at `params`, with no step done."""
    moving = Carry(params, problem.optimizer.init(params), jax.tree.map(np.array, params), state)
    return State(np.int32(0), moving, problem.stream.start())


def draws_a_step(problem: Problem) -> int:
    """The draws that a step really makes: a point needs but one."""
    noise = jax.eval_shape(
        lambda raw: problem.guide.noise(problem.stratification, wrap(raw), problem.draws), problem.raw_key
    )
    return noise.shape[0]
