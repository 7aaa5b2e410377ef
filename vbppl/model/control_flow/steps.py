"""Where in a scan a statement stands, while the step is traced once for all steps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from vbppl.core.keys import named
from vbppl.core.types import Array, Shape
from vbppl.model.shapes import check_value


class Step:
    """One step of a scan, in the trace that stands for all of them.

    What is known of all steps at once (a slice of the flat vector, draws of a posterior, conditions) is read through
    `take`. A step that indexed it would make the derivative of each step as long as the chain: so `take` notes, in a
    first trace, what is asked of it, and in the next one hands out what the loop has cut off for this step.

    Attributes:
      index: of the step, from 0.
      length: how many there are.
      outer: the step of the scan around this one.
    """

    def __init__(self, index: Array, length: int, outer: Step | None, slices: dict[int, Array] | None):
        self.index, self.length, self.outer, self.slices = index, length, outer, slices
        self.wholes: dict[int, Any] = {}

    @property
    def lengths(self) -> Shape:
        """The lengths of the scans, from the outermost."""
        return (*lengths_of(self.outer), self.length)

    @property
    def outermost(self) -> Step:
        """The step of the outermost scan."""
        return self if self.outer is None else self.outer.outermost

    def take(self, whole: Any) -> Array:
        """What an array (or a pytree) whose leading axes are those of the scans holds for this step."""
        return jax.tree.map(self._taken, whole)

    def _taken(self, whole: Any) -> Array:
        self.wholes[id(whole)] = whole  # kept, so that nothing else gets its number
        if self.slices is not None:
            return self.slices[id(whole)]
        return jnp.asarray(at_step(self.outer, whole))[self.index]


def lengths_of(step: Step | None) -> Shape:
    """The lengths of the scans around a statement."""
    return () if step is None else step.lengths


def at_step(step: Step | None, whole: Any) -> Any:
    """The part of `whole` that belongs to a step; all of it outside of scans."""
    return whole if step is None else step.take(whole)


def value_at(site: Any, whole: Any, shape: Shape | None = None) -> Any:
    """What `whole`, a value of all steps, holds for `site`, after checking its shape; `shape` is that of one step."""
    own = site.shape if shape is None else shape
    check_value(site.name, whole, (*lengths_of(site.step), *own), site.frames)
    return at_step(site.step, whole)


def key_at(key: Array, name: str, step: Step | None) -> Array:
    """The key of a site, in a scan one for each step."""
    return named(key, name) if step is None else jax.random.fold_in(key_at(key, name, step.outer), step.index)
