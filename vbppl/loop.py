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

from vbppl.aliases import Array, ArrayLike, PyTree
from vbppl.guides.base import Guide
from vbppl.keys import named, wrap
from vbppl.objectives import Objective
from vbppl.pytree import pytree, static
from vbppl.streams import Rows
from vbppl.target import Target

CHUNK = 1000
AHEAD = 2**19  # numbers made ahead at once: more fall out of the cache


@pytree
class Problem:
    """Everything a step reads and never changes."""

    target: Target
    guide: Guide
    objective: Objective
    optimiser: Any
    stream: Rows
    strata: Any
    raw_key: ArrayLike
    draws: int = static()


@pytree
class Moving:
    """What a step moves.

    Attributes:
      params: `{"guide": phi, "model": the model's params}`.
      moments: the optimiser's.
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
    moving: Moving
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
    """A round: its first step, its number of steps, where its average begins, its step size."""

    begin: Any
    steps: Any
    window: Any
    size: Any

    @classmethod
    def of(cls, begin: int, steps: int, size: float) -> Schedule:
        """The round of `steps` steps from step `begin` on, averaged over its last half."""
        return cls(np.int32(begin), np.int32(steps), np.int32(begin + steps // 2), np.float64(size))


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
    def loss(params: PyTree) -> tuple[Array, PyTree]:
        target = dataclasses.replace(problem.target, params=params["model"])
        shown = (ahead.noise, ahead.rows, ahead.step, moving.state)
        bound, state = problem.objective.with_state(problem.guide, params["guide"], target, *shown)
        return -bound, jax.lax.stop_gradient(state)

    (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(moving.params)
    params, moments = problem.optimiser.update(gradient, moving.moments, moving.params, ahead.rates)
    mean = jax.tree.map(lambda m, p: m + (p - m) * ahead.weight.astype(p.dtype), moving.mean, params)
    after = Moving(params, moments, mean, state)
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
    return Ahead(steps, jax.vmap(noise)(steps), rows, rates, weight)


def _block(problem: Problem, state: State, schedule: Schedule) -> int:
    """For how many steps at a time random numbers are made: as many as `AHEAD` numbers allow."""
    one = jax.eval_shape(lambda state: _ahead(problem, state, schedule, 1), state)
    return int(np.clip(AHEAD // max(1, sum(leaf.size for leaf in jax.tree.leaves(one))), 1, CHUNK))


@jax.jit
def where(problem: Problem, state: State, schedule: Schedule) -> tuple[Array, dict[str, Array]]:
    """The points `z`, `(draws, dim)`, and the rows at which a step evaluates the density."""
    ahead = jax.tree.map(lambda leaf: leaf[0], _ahead(problem, state, schedule, 1))
    params = state.moving.params
    target = dataclasses.replace(problem.target, params=params["model"])
    return problem.guide.points(params["guide"], target, ahead.noise), ahead.rows


def first_state(problem: Problem, params: PyTree, state: PyTree = ()) -> State:
    """Where a fit begins: at `params`, with no step done."""
    moving = Moving(params, problem.optimiser.init(params), jax.tree.map(np.array, params), state)
    return State(np.int32(0), moving, problem.stream.start())


def draws_a_step(problem: Problem) -> int:
    """The draws that a step really makes: a point needs but one."""
    noise = jax.eval_shape(lambda raw: problem.guide.noise(problem.strata, wrap(raw), problem.draws), problem.raw_key)
    return noise.shape[0]
