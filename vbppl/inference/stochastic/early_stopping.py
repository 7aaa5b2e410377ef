"""Early stopping: rows kept back, whose bound ends a fit when it has stopped rising."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.archive import digest
from vbppl.core.errors import whole_number
from vbppl.core.keys import host_generator, named, wrap
from vbppl.core.types import Array, PyTree
from vbppl.guides import networks
from vbppl.guides.base import Guide
from vbppl.inference.solution import Progress
from vbppl.target.target import Target, in_mode, model_of

BLOCK = 1000  # rows at once


@dataclasses.dataclass(frozen=True)
class Ending:
    """Why a fit ends: the `reason`, `converged` and `text` of its status."""

    reason: str
    converged: bool
    text: str


class StopRule:
    """Looks after each chunk of steps: to end the fit, and to choose what it gives back.

    A rule is a value, and so is what it remembers: a pytree of arrays, of the same structure, shapes and dtypes at
    all times, which is handed from look to look and kept in checkpoints.
    """

    def first(self) -> PyTree:
        """What it remembers before the first look."""
        return ()

    def check(self, memory: PyTree, progress: Progress) -> tuple[PyTree, Ending | None]:
        """What it remembers then, and an `Ending` if the fit shall end."""
        raise NotImplementedError

    def choose(self, memory: PyTree, params: PyTree, state: PyTree, ending: Ending) -> tuple[PyTree, PyTree, Ending]:
        """The last word, however the fit ended: for instance the best parameters seen in the place of the last."""
        return params, state, ending

    def fingerprint(self) -> str:
        """What must be alike for a fit to go on from a checkpoint, besides what it remembers."""
        return ""


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
        whole_number("patience", self.patience)
        whole_number("draws", self.draws)


@dataclasses.dataclass(frozen=True)
class EarlyStopping(StopRule):
    """Keeps the best parameters seen on a validation set.

    Attributes:
      guide: at the validation rows.
      target: the density there.
      validation: what was asked for.
      raw_key: of the fit.
      params: the first ones.
      objective_state: the first one; modules that have no training mode have none.
      warm_up: the step at which patience begins: while the objective still changes, the bound may fall in order to
        rise.
    """

    guide: Guide
    target: Target
    validation: Validation
    raw_key: np.ndarray
    params: PyTree
    objective_state: PyTree = ()
    warm_up: int = 0

    def first(self) -> PyTree:
        best = {"value": np.float64(-math.inf), "step": np.int64(0)}
        best |= {"params": self.params, "state": self.objective_state}
        return {"best": best, "waited": np.int64(0)}  # looks since the best, from step `warm_up` on

    def check(self, memory: PyTree, progress: Progress) -> tuple[PyTree, Ending | None]:
        phi, target = progress.params["guide"], self.target.replace(params=progress.params["model"])
        guide, state, best = self.guide, progress.objective_state if self.objective_state else (), memory["best"]
        if state:
            target, guide = in_mode(target, state["model"], None), networks.in_training(guide, state["guide"], None)
        value = held_out_bound(guide, phi, target, self.raw_key, self.validation.draws)
        waited = memory["waited"] + np.int64(progress.step > self.warm_up)
        if value > best["value"]:
            step = np.int64(progress.step)
            best = {"value": np.float64(value), "step": step, "params": progress.params, "state": state}
            waited = np.int64(0)
        memory = {"best": best, "waited": waited}
        if waited < self.validation.patience:
            return memory, None
        if not best["step"]:
            said = "the bound on the validation rows was finite at no look: not converged"
            return memory, Ending("validated", False, said)
        return memory, Ending("validated", True, _said(best, f"has not risen for {waited} looks"))

    def choose(self, memory: PyTree, params: PyTree, state: PyTree, ending: Ending) -> tuple[PyTree, PyTree, Ending]:
        best = memory["best"]
        if not best["step"]:
            return params, state, ending
        if ending.reason != "validated":
            text = f"{ending.text}; {_said(best, 'is kept at its best')}"
            ending = dataclasses.replace(ending, text=text)
        return best["params"], best["state"], ending

    def fingerprint(self) -> str:
        data = digest(*jax.tree.leaves((self.guide, model_of(self.target))))
        return f"rows {data}, patience {self.validation.patience}, {self.validation.draws} draws"


def _said(best: dict[str, Any], what: str) -> str:
    return f"the bound on the validation rows {what}; best {best['value']:,.1f} nats, at step {best['step']:,}"


def held_out_bound(guide: Guide, phi: PyTree, target: Target, raw_key: np.ndarray, draws: int) -> float:
    """The evidence lower bound of all rows of `target`, in blocks; the same draws at each call."""
    plates = {slot.plates for slot in target.layout.slots}
    if len(plates) != 1 or len(next(iter(plates))) != 1:
        return float(_bound(guide, phi, target, guide.noise(target).spread(_rng(raw_key), draws), raw_key))
    plate, total = target.layout.only_plate(), 0.0
    for start in range(0, plate.size, BLOCK):
        rows = np.arange(start, min(start + BLOCK, plate.size), dtype=np.int32)
        showing = target.showing({plate.name: rows})
        noise = guide.noise(showing).spread(_rng(raw_key), draws)
        total += float(_bound(guide, phi, showing, noise, raw_key)) * len(rows) / plate.size
    return total


@jax.jit
def _bound(guide: Guide, phi: PyTree, target: Target, noise: Any, raw_key: Array) -> Array:
    return jnp.mean(guide.bound(phi, noise(named(wrap(raw_key), "validation")), target))


def _rng(raw_key: np.ndarray) -> np.random.Generator:
    return host_generator(raw_key, "validation")
