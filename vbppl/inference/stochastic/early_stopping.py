"""Early stopping: rows kept back, whose bound ends a fit when it has stopped rising."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.archive import digest
from vbppl.core.keys import host_generator, named, wrap
from vbppl.core.types import Array, PyTree
from vbppl.guides.base import Guide
from vbppl.inference.solution import Ending, Hook, Progress, Solution
from vbppl.target.target import Target

BLOCK = 1000  # rows at once


@dataclasses.dataclass(frozen=True)
class Validation:
    """Rows kept back, on which a fit looks after each chunk of steps: it ends when their bound has stopped rising.

    The parameters given back are those of the best look. The bound is the plain ELBO, whatever is
    maximised, with modules in evaluation mode and the same draws at every look.

    Attributes:
      model: the model, applied to the validation rows.
      guide: a guide program, applied to them; None for a guide that reads the model's own data.
      patience: looks without a rise after which the fit ends.
      draws: draws a row at each look.
    """

    model: Any
    guide: Any = None
    patience: int = 5
    draws: int = 4

    def __post_init__(self) -> None:
        if self.patience < 1 or self.draws < 1:
            raise ValueError(f"patience and draws must be at least 1, not {self.patience} and {self.draws}.")


class EarlyStopping(Hook):
    """The hook that keeps the best parameters seen on a validation set.

    `params` and `state` are the first ones; modules that have no training mode have no `state`. Patience begins at
    step `least`: while the objective still changes, the bound may fall in order to rise.
    """

    def __init__(
        self,
        guide: Guide,
        target: Target,
        validation: Validation,
        raw_key: np.ndarray,
        params: PyTree,
        state: PyTree = (),
        least: int = 0,
    ):
        self.guide, self.target, self.validation, self.raw_key = guide, target, validation, raw_key
        self.has_training_mode, self.least = bool(state), least
        self.best = {"value": np.float64(-math.inf), "step": np.int64(0), "params": params, "state": state}
        self.waited = np.int64(0)  # looks since the best, from step `least` on

    def after_chunk(self, progress: Progress) -> Ending | None:
        """Look; an `Ending` when the patience is spent."""
        phi, target = progress.params["guide"], dataclasses.replace(self.target, params=progress.params["model"])
        guide, state = self.guide, progress.state if self.has_training_mode else ()
        if state:
            target, guide = target.resting(state["model"]), guide.in_training(state["guide"], None)
        value = held_out_bound(guide, phi, target, self.raw_key, self.validation.draws)
        self.waited = self.waited + (progress.step > self.least)
        if value > self.best["value"]:
            step = np.int64(progress.step)
            self.best = {"value": np.float64(value), "step": step, "params": progress.params, "state": state}
            self.waited = np.int64(0)
        if self.waited < self.validation.patience:
            return None
        if not self.best["step"]:
            return Ending("validated", False, "the bound on the validation rows was finite at no look: not converged")
        return Ending("validated", True, self._said(f"has not risen for {self.waited} looks"))

    def fingerprint(self) -> str:
        """The rows kept back, and how they are looked at."""
        data = digest(*jax.tree.leaves((self.guide, self.target.model)))
        return f"rows {data}, patience {self.validation.patience}, {self.validation.draws} draws"

    def saved(self) -> PyTree:
        """The best, and how long ago it was."""
        return {"best": self.best, "waited": self.waited}

    def restore(self, saved: PyTree) -> None:
        """Go on from there."""
        self.best, self.waited = saved["best"], saved["waited"]

    def finish(self, fitted: Solution) -> Solution:
        """The best parameters seen in the place of the last."""
        if not self.best["step"]:
            return fitted
        status = fitted.status
        if status.reason != "validated":
            status = dataclasses.replace(status, text=f"{status.text}; {self._said('is kept at its best')}")
        return dataclasses.replace(fitted, params=self.best["params"], state=self.best["state"], status=status)

    def _said(self, what: str) -> str:
        value, step = self.best["value"], self.best["step"]
        return f"the bound on the validation rows {what}; best {value:,.1f} nats, at step {step:,}"


def held_out_bound(guide: Guide, phi: PyTree, target: Target, raw_key: np.ndarray, draws: int) -> float:
    """The evidence lower bound of all rows of `target`, in blocks; the same draws at each call."""
    plates = {slot.plates for slot in target.layout.slots}
    if len(plates) != 1 or len(next(iter(plates))) != 1:
        return float(_bound(guide, phi, target, guide.stratification(target, draws, _rng(raw_key)), raw_key, {}, draws))
    plate, total = target.layout.only_plate(), 0.0
    for start in range(0, plate.size, BLOCK):
        rows = np.arange(start, min(start + BLOCK, plate.size), dtype=np.int32)
        showing = target.with_lengths({plate.name: len(rows)})
        stratification = guide.stratification(showing, draws, _rng(raw_key))
        bound = _bound(guide, phi, showing, stratification, raw_key, showing.read({plate.name: rows}), draws)
        total += float(bound) * len(rows) / plate.size
    return total


@functools.partial(jax.jit, static_argnames="draws")
def _bound(
    guide: Guide,
    phi: PyTree,
    target: Target,
    stratification: PyTree,
    raw_key: Array,
    rows: dict[str, Array],
    draws: int,
) -> Array:
    noise = guide.noise(stratification, named(wrap(raw_key), "validation"), draws)
    return jnp.mean(guide.bound(phi, target, noise, rows))


def _rng(raw_key: np.ndarray) -> np.random.Generator:
    return host_generator(raw_key, "validation")
