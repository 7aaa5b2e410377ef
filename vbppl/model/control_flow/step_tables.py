"""A step with hidden states as tables: at each value of the state before and of its own, for all steps at once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp

from vbppl.core.errors import ModelError
from vbppl.core.programs.dependence import dependence
from vbppl.core.types import Array
from vbppl.model.control_flow.carries import StepProgram
from vbppl.model.control_flow.hidden import States, Tables


class Kept(NamedTuple):
    """A leaf of the carry before each step: its values, and whether there is an axis for steps, and one for values."""

    leaf: Array
    by_step: bool
    by_value: bool


@dataclasses.dataclass(frozen=True)
class HiddenProgram:
    """One step, as `StepProgram`, whose last argument is the number of the joint value of the hidden states.

    Attributes:
      closed, carried, inputs, length: as there.
      init: the first carry.
      states: what is hidden.
    """

    closed: Any
    carried: int
    inputs: tuple[Array, ...]
    length: int
    init: Sequence[Array]
    states: States

    @functools.cached_property
    def _bits(self) -> tuple[list[int], int, int]:
        """For each output what reaches it: the leaves of the carry, inputs of the step, the state; the latter two."""
        of_step, of_state = 1 << self.carried, 1 << self.carried + 1
        own = [1 << place for place in range(self.carried)]
        found = dependence(self.closed.jaxpr, [*own, *(of_step for _ in self.inputs), of_state])
        return found, of_step, of_state

    @functools.cached_property
    def stateful(self) -> set[int]:
        """The leaves of the carry that know the state.

        Raises:
          ModelError: one of them knows the state before the last, too.
        """
        bits, _, of_state = self._bits
        found, more = set(), {i for i in range(self.carried) if bits[i] & of_state}
        while more - found:
            found |= more
            more = {i for i in range(self.carried) if any(bits[i] >> j & 1 for j in found)}
        if any(bits[i] >> j & 1 for i in found for j in found):
            name = next(iter(self.states.hidden))
            raise ModelError(
                "the carry of the scan knows more than the last value of this discrete site, which is summed out: "
                "what a step hands on is made of what the step before has made of it.",
                site=name,
                mend="Hand on the site's own value. Where a step looks at two states before it, let one site be the "
                "pair of both: a Categorical over all pairs.",
            )
        return found

    def dependent(self) -> list[bool]:
        """For each output whether it depends on the states."""
        bits, _, of_state = self._bits
        wanted = of_state | sum(1 << i for i in self.stateful)
        return [bool(each & wanted) for each in bits]

    def plain(self) -> StepProgram:
        """The step without states, for what does not depend on them: its outputs, without carries that know states."""
        step, stateful = jax.extend.core.jaxpr_as_fun(self.closed), self.stateful
        known = [i for i in range(self.carried) if i not in stateful]

        def without(*flat: Array) -> list[Array]:
            carry = dict(enumerate(self.init)) | dict(zip(known, flat))
            made = step(*(carry[i] for i in range(self.carried)), *flat[len(known) :], jnp.zeros((), jnp.int32))
            return [made[i] for i in known] + made[self.carried :]

        shapes = [self.closed.in_avals[i] for i in (*known, *range(self.carried, len(self.closed.in_avals) - 1))]
        arguments = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in shapes]
        return StepProgram(jax.make_jaxpr(without)(*arguments), len(known), self.inputs, self.length)

    def tables(self, outputs: Sequence[int], carries: Sequence[tuple[Array, int | None]]) -> Tables:
        """The sum of the log densities at the places `outputs`, which have the rows of the states.

        Args:
          outputs: of the step.
          carries: what its leaves without states are before each step, in order.
        """
        plain, stateful = iter(carries), self.stateful
        known = {i: next(plain) for i in range(self.carried) if i not in stateful}
        first = self._at([Kept(leaf, False, False) for leaf in self.init], outputs, 0)
        # What each value of the state before leaves in the carry: of the steps, and then of what comes after them.
        made = self._at(
            [self._kept(known, i, slice(0, -1)) for i in range(self.carried)],
            sorted(stateful),
            slice(0, -1),
        )
        left = {i: Kept(each.leaf, each.by_step, each.by_state) for i, each in zip(sorted(stateful), made)}
        carry = [left.get(i) or self._kept(known, i, slice(1, None)) for i in range(self.carried)]
        return self._summed(first, self._at(carry, outputs, slice(1, None)))

    def _kept(self, known: Mapping[int, tuple[Array, int | None]], i: int, steps: slice) -> Kept:
        leaf, axis = known.get(i, (self.init[i], None))
        return Kept(leaf[steps] if axis == 0 else leaf, axis == 0, False)

    def _at(self, carry: Sequence[Kept], outputs: Sequence[int], steps: slice | int) -> list[Made]:
        """Some outputs: at each step, each value before, and each value now, of which they depend."""
        step = jax.extend.core.jaxpr_as_fun(self.closed)
        inputs = [leaf[steps] for leaf in self.inputs]
        bits, of_step, of_state = self._bits
        one = isinstance(steps, int)
        by_step = of_step | sum(1 << i for i, kept in enumerate(carry) if kept.by_step)
        by_value = sum(1 << i for i, kept in enumerate(carry) if kept.by_value)
        on = [
            (not one and bool(bits[i] & by_step), bool(bits[i] & by_value), bool(bits[i] & of_state)) for i in outputs
        ]

        def found(*flat: Array) -> list[Array]:
            made = step(*flat)
            return [made[i] for i in outputs]

        def axes(values: Sequence[bool]) -> list[int | None]:
            return [0 if each else None for each in values]

        count, rest = self.states.count, [False] * len(inputs)
        found = jax.vmap(found, axes([*(False for _ in carry), *rest, True]), axes([each[2] for each in on]))
        if by_value:
            inside = axes([*(kept.by_value for kept in carry), *rest, False])
            found = jax.vmap(found, inside, axes([each[1] for each in on]), axis_size=count)
        if not one:
            inside = axes([*(kept.by_step for kept in carry), *(True for _ in inputs), False])
            found = jax.vmap(found, inside, axes([each[0] for each in on]), axis_size=self.length - 1)
        leaves = found(*(kept.leaf for kept in carry), *inputs, jnp.arange(count, dtype=jnp.int32))
        return [Made(leaf, *each) for leaf, each in zip(leaves, on)]

    def _summed(self, first: Sequence[Made], after: Sequence[Made]) -> Tables:
        count, rows = self.states.count, self.states.rows
        dtype = jnp.result_type(*(made.leaf for made in first))
        begun = sum((made.whole()[0, 0] for made in first), jnp.zeros((count, *rows), dtype))
        of_new, of_both = jnp.zeros((self.length - 1, count, *rows), dtype), None
        same = jnp.zeros((count, count, *rows), dtype)
        for made in after:
            whole = made.whole()
            if not made.by_step:
                same = same + whole[0]
            elif not made.by_value:
                of_new = of_new + whole[:, 0]
            else:
                of_both = whole if of_both is None else of_both + whole
        if of_both is not None:
            of_both = jnp.broadcast_to(of_both, (self.length - 1, count, count, *rows))
        return Tables(begun, same, of_new, of_both)


class Made(NamedTuple):
    """An output, with an axis for each of these that it depends on, in this order."""

    leaf: Array
    by_step: bool
    by_value: bool
    by_state: bool

    def whole(self) -> Array:
        """With all three axes, of length 1 where there is none."""
        shape = iter(jnp.shape(self.leaf))
        leading = [next(shape) if has else 1 for has in (self.by_step, self.by_value, self.by_state)]
        return jnp.reshape(self.leaf, (*leading, *shape))
