"""The compiled loop of a stochastic fit: what a step reads, what it moves, and many steps in one program.

Steps run inside one compiled program, `run_chunk`, a loop whose number of turns is data, so that one
compilation serves every chunk and every phase. An accelerator asks the host before each turn of such a loop, which
takes it longer than a small step (20 us beside 9 us on an H100): there steps go in groups of a fixed length, and those
beyond the end change nothing.

Random numbers and schedules do not depend on what the steps find, so they are made ahead for as many
steps as the cache holds; the noise of a step is a function of the seed and the step's number. The
compiled step is the bare one, without a look at whether its numbers are finite: a look at every step
makes that of a small model a fifth dearer. A second program, compiled only where a chunk ends in
something that is not finite, is careful: there a step that is not finite changes nothing and is counted.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vbppl.core import devices
from vbppl.core.keys import named, wrap
from vbppl.core.programs.compiling import compiler_options, on_accelerator
from vbppl.core.pytree import pytree, static
from vbppl.core.types import Array, ArrayLike, PyTree
from vbppl.data.source import spread
from vbppl.guides.base import Guide
from vbppl.inference.stochastic.objectives import Inputs, Objective
from vbppl.inference.stochastic.schedule import THIN, Phase
from vbppl.target.target import Target

CHUNK = 1000
WATCHED = 256  # numbers of an iterate in a record
AHEAD = 2**19  # numbers made ahead at once: more fall out of the cache


@pytree
class Setup:
    """Everything a step reads and never changes.

    Attributes:
      target: the density; its params are those of the carry.
      guide: the family.
      objective: what is maximised.
      optimizer: how.
      minibatches: which rows are shown: `shuffle.Minibatches`, or some of them `Prefetched`.
      noise: from a step's key to the noise of its draws; see `guides/noise.py`.
      raw_key: of the whole fit.
      mesh: of the devices over which the rows of a step are split; None for one device.
    """

    target: Target
    guide: Guide
    objective: Objective
    optimizer: Any
    minibatches: Any
    noise: Any
    raw_key: ArrayLike
    mesh: Mesh | None = static(default=None)


@pytree
class Carry:
    """What a step moves.

    Attributes:
      params: `{"guide": phi, "model": the model's params}`.
      moments: the optimizer's.
      mean: the average of the params since the phase's window opened.
      objective_state: what the objective hands from step to step without learning it (running averages of a
        network, say); nothing by default.
    """

    params: PyTree
    moments: PyTree
    mean: PyTree
    objective_state: PyTree = ()


@pytree
class Position:
    """Where the compiled loop stands: the number of steps done, what they moved, and the place in the rows."""

    step: ArrayLike
    carry: Carry
    cursor: PyTree


@pytree
class Ahead:
    """What a step reads and never changes, made for many steps at once: random numbers and schedules."""

    step: Array
    noise: Array
    rows: dict[str, Array]
    rates: PyTree
    weight: Array


def run_chunk(
    setup: Setup, position: Position, steps: ArrayLike, phase: Phase, careful: bool
) -> tuple[Position, Array, Array]:
    """`steps` steps, at most `CHUNK`, in one program.

    Returns:
      the position, the bound at each step, `(CHUNK,)`, and what `monitored` sees after each step whose number is a
      multiple of `THIN`, `(CHUNK // THIN + 1, 2, numbers)`.
    """
    return program(on_accelerator())(setup, position, steps, phase, careful)


@functools.cache
def program(in_whole_groups: bool) -> Any:
    """`run_chunk` as compiled for a processor, or `in_whole_groups` for an accelerator."""
    chunk = functools.partial(_chunk, in_whole_groups)
    options = {"donate_argnames": "position", "static_argnames": "careful", "compiler_options": compiler_options()}
    return jax.jit(chunk, **options)


def _chunk(
    in_whole_groups: bool, setup: Setup, position: Position, steps: Array, phase: Phase, careful: bool
) -> tuple[Position, Array, Array]:
    block, first = _block(setup, position, phase), position.step // THIN

    def turn(number: Array, carry: tuple[Position, Array, Array]) -> tuple[Position, Array, Array]:
        position, bounds, trace = carry
        done = number * block
        # Random numbers are made on every device alike: they are few, and to share the work means to wait.
        ahead = devices.everywhere(_ahead(setup, position, phase, block), setup.mesh)
        count = jnp.minimum(block, steps - done)
        # Groups of steps end where the step's number is a multiple of `THIN`, however chunks and blocks lie.
        lead = position.step % THIN

        def body(i: Array, carry: tuple[Carry, Array]) -> tuple[Carry, Array]:
            moving, bound = _step(setup, carry[0], jax.tree.map(lambda leaf: _at(leaf, i), ahead), careful)
            return moving, _set(carry[1], done + i, bound)

        def group(number: Array, carry: tuple[Carry, Array, Array]) -> tuple[Carry, Array, Array]:
            moving, bounds, trace = carry
            begin, end = jnp.maximum(number * THIN - lead, 0), jnp.minimum((number + 1) * THIN - lead, count)

            def spare(turn: Array, carry: tuple[Carry, Array]) -> tuple[Carry, Array]:
                i = number * THIN - lead + turn
                at, counts = jnp.clip(i, begin, end - 1), (begin <= i) & (i < end)
                moving, bounds = body(at, carry)
                kept = jax.tree.map(lambda new, old: jnp.where(counts, new, old), moving, carry[0])
                return kept, _set(bounds, done + at, jnp.where(counts, bounds[done + at], carry[1][done + at]))

            (first_turn, last_turn), turn = ((0, THIN), spare) if in_whole_groups else ((begin, end), body)
            moving, bounds = jax.lax.fori_loop(first_turn, last_turn, turn, (moving, bounds))
            return moving, bounds, _set(trace, position.step // THIN - first + number, monitored(setup, moving.params))

        groups = (lead + count + THIN - 1) // THIN
        moving, bounds, trace = jax.lax.fori_loop(0, groups, group, (position.carry, bounds, trace))
        return Position(position.step + count, moving, setup.minibatches.after(position.cursor, count)), bounds, trace

    one = jax.eval_shape(lambda params: monitored(setup, params), position.carry.params)
    carry = (position, jnp.zeros(CHUNK), jnp.zeros((CHUNK // THIN + 1, *one.shape), one.dtype))
    return devices.everywhere(jax.lax.fori_loop(0, (steps + block - 1) // block, turn, carry), setup.mesh)


def monitored(setup: Setup, params: PyTree) -> Array:
    """Some of the numbers that the stop rules look at, each with its unit: `(2, numbers)`.

    Of a Gaussian guide they are means, in posterior sds, and log sds; of more than `WATCHED` every so manieth.
    """
    values, units = setup.guide.monitored(params["guide"])
    learnt = jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves((params["model"], values[:0]))])
    both = jnp.stack([jnp.concatenate([values, learnt]), jnp.concatenate([units, 1 + jnp.abs(learnt)])])
    return both[:, :: max(1, -(-both.shape[1] // WATCHED))]


def _step(setup: Setup, carry: Carry, ahead: Ahead, careful: bool) -> tuple[Carry, Array]:
    rows = spread(ahead.rows, setup.mesh)

    def loss(params: PyTree) -> tuple[Array, PyTree]:
        target = setup.target.replace(params=params["model"], rows=rows)
        inputs = Inputs(params["guide"], target, ahead.noise, ahead.step, carry.objective_state)
        bound, state = setup.objective(setup.guide, inputs)
        # What is handed on is not learnt: no gradient flows from step to step.
        return -bound, jax.lax.stop_gradient(state)

    (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(carry.params)

    def scale(power: Array, unknown: Array) -> PyTree:
        learnt = jax.tree.map(lambda leaf: unknown.astype(leaf.dtype), carry.params["model"])
        return {"guide": setup.guide.step_scale(carry.params["guide"], power, unknown), "model": learnt}

    params, moments = setup.optimizer.update(gradient, carry.moments, carry.params, ahead.rates, scale)
    # Polyak's average as a running mean: at weight 1 it is the last iterate.
    mean = jax.tree.map(lambda m, p: m + (p - m) * ahead.weight.astype(p.dtype), carry.mean, params)
    after = Carry(params, moments, mean, state)
    if not careful:
        return after, -value
    # All or nothing: a gradient that is finite at some coordinates only would tear the parameters apart.
    finite = _all_finite((value, gradient, after))
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, carry)
    return kept, jnp.where(finite, -value, jnp.nan)


def _all_finite(tree: PyTree) -> Array:
    floats = (leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact))
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in floats]).all()


def _at(leaf: Array, i: Array) -> Array:
    # `leaf[i]` would ask at every step whether `i` is negative.
    return jax.lax.dynamic_index_in_dim(leaf, i, keepdims=False, allow_negative_indices=False)


def _set(rows: Array, i: Array, row: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(rows, row.astype(rows.dtype), i, 0, allow_negative_indices=False)


def _ahead(setup: Setup, position: Position, phase: Phase, count: int) -> Ahead:
    """What the next `count` steps need and do not change; a step's part depends on its number alone."""
    key = wrap(setup.raw_key)
    steps = position.step + jnp.arange(count)
    noise_key = named(key, "noise")
    # Keys by purpose and by the step's number: neither blocks nor chunks move a bit.
    rows = setup.minibatches.ahead(named(key, "rows"), position.cursor, count)
    rates = setup.optimizer.rates(steps, phase.fallen(steps), phase.step_size, phase.last, phase.power)
    noise = jax.vmap(lambda step: setup.noise(jax.random.fold_in(noise_key, step)))(steps)
    return Ahead(steps, noise, rows, rates, phase.weights(steps))


def _block(setup: Setup, position: Position, phase: Phase) -> int:
    """For how many steps at a time random numbers are made: as many as `AHEAD` numbers allow."""
    # Counted on shapes alone; rows from the host are there already and are not counted.
    one = jax.eval_shape(lambda position: _ahead(setup, position, phase, 1), position)
    made = setup.minibatches.made + sum(leaf.size for leaf in jax.tree.leaves((one.noise, one.rates, one.weight)))
    return int(np.clip(AHEAD // made, 1, min(CHUNK, setup.minibatches.most)))


@jax.jit
def points_of(setup: Setup, position: Position, phase: Phase) -> tuple[Array, dict[str, Array]]:
    """The points `z`, `(draws, dim)`, of a step, with 0 where a row is not shown, and its rows."""
    ahead = jax.tree.map(lambda leaf: leaf[0], _ahead(setup, position, phase, 1))
    params = position.carry.params
    target = setup.target.replace(params=params["model"], rows=ahead.rows)
    z = setup.guide.draw(params["guide"], ahead.noise, target).z
    if setup.guide.noise(target).is_of_rows and target.layout.is_partly_shown(ahead.rows):
        z = jnp.zeros((len(z), target.dim), z.dtype).at[:, target.layout.places(ahead.rows)].set(z)
    return z, ahead.rows


def first_position(setup: Setup, params: PyTree, state: PyTree = ()) -> Position:
    """Where a fit begins: at `params`, with no step done."""
    carry = Carry(params, setup.optimizer.init(params), jax.tree.map(np.array, params), state)
    return Position(np.int32(0), carry, setup.minibatches.start())


def draws_a_step(setup: Setup) -> int:
    """The draws that a step really makes: a point needs but one."""
    return jax.eval_shape(lambda raw: setup.noise(wrap(raw)), setup.raw_key).shape[0]
