"""What is handed from step to step, found for all steps at once where the flow of numbers allows it.

A step is a program from the carry and the inputs of a step to the next carry. Where the next carry is made of the
step's own values alone, as in a Markov chain whose states are known, it is known for all steps after one look at them
side by side; where it is handed on for `k` steps (the lags of an autoregression), after `k` looks. Only what depends
on itself without end goes through a loop, and only that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp

from vbppl.core.programs.dependence import dependence
from vbppl.core.types import Array

LOOKS = 4  # at all steps side by side; what would take more goes through the loop


@dataclasses.dataclass(frozen=True)
class StepProgram:
    """One step: from the leaves of the carry, then those of a step's inputs, to those of the next carry, then answers.

    Attributes:
      closed: the program.
      carried: how many leaves the carry has.
      inputs: the inputs of all steps, along a leading axis.
      length: the number of steps.
    """

    closed: Any
    carried: int
    inputs: tuple[Array, ...]
    length: int

    def at_all(self, carries: Sequence[tuple[Array, int | None]]) -> list[Array]:
        """All outputs of all steps, `(length, ...)`, where the carry before each step is known.

        Args:
          carries: for each leaf its values and the axis of the steps, None where it is the same at each.
        """
        axes = (*(axis for _, axis in carries), *(0 for _ in self.inputs))
        each = jax.vmap(jax.extend.core.jaxpr_as_fun(self.closed), axes, axis_size=self.length)
        return list(each(*(leaf for leaf, _ in carries), *self.inputs))

    @property
    def reached_by(self) -> list[int]:
        """For each output which leaves of the carry reach it, as bits; the bit after those is that of the inputs."""
        own = [1 << place for place in range(self.carried)]
        return dependence(self.closed.jaxpr, [*own, *(1 << self.carried for _ in self.inputs)])


def carries_of(program: StepProgram, init: Sequence[Array]) -> tuple[list[tuple[Array, int | None]], list[Array]]:
    """Each leaf of the carry before each step, with the axis of the steps; and the last carry."""
    jaxpr, count = program.closed.jaxpr, program.carried
    kept = {i for i in range(count) if jaxpr.outvars[i] is jaxpr.invars[i]}
    reached = program.reached_by
    needs = {i: {j for j in range(count) if reached[i] >> j & 1} - kept for i in range(count) if i not in kept}
    looped, looks = _looped(needs)
    known: dict[int, tuple[Array, int | None]] = {i: (init[i], None) for i in kept}
    last = dict(enumerate(init))
    if looped:
        after, before = _loop(program, init, looped)
        known |= {i: (leaf, 0) for i, leaf in zip(looped, before)}
        last.update(zip(looped, after))
    for look in looks:
        found = program.at_all([known.get(i, (init[i], None)) for i in range(count)])
        for i in look:
            known[i] = jnp.concatenate([init[i][None], found[i][:-1]]), 0
            last[i] = found[i][-1]
    return [known[i] for i in range(count)], [last[i] for i in range(count)]


def _looped(needs: dict[int, set[int]]) -> tuple[list[int], list[list[int]]]:
    """The leaves of the carry that need the loop; the others in the order in which looks find them."""

    def before(leaves: set[int]) -> set[int]:
        found = set(leaves)
        while more := set().union(*(needs[i] for i in found)) - found:
            found |= more
        return found

    looped = before({i for i in needs if i in before(needs[i])})
    looks: list[list[int]] = []
    done = set(looped)
    while left := [i for i in needs if i not in done]:
        looks.append([i for i in left if needs[i] <= done])
        done |= set(looks[-1])
    return (sorted(looped), looks) if len(looks) <= LOOKS else (sorted(needs), [])


def _loop(program: StepProgram, init: Sequence[Array], looped: list[int]) -> tuple[list[Array], list[Array]]:
    """Some leaves of the carry, which need no others: the last, and those before each step."""
    step = jax.extend.core.jaxpr_as_fun(program.closed)

    def body(carry: list[Array], inputs: tuple[Array, ...]) -> tuple[list[Array], list[Array]]:
        whole = dict(enumerate(init)) | dict(zip(looped, carry))
        made = step(*(whole[i] for i in range(program.carried)), *inputs)
        return [made[i] for i in looped], carry

    return jax.lax.scan(body, [init[i] for i in looped], program.inputs, length=program.length)
