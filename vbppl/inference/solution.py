"""What a fit tells: while it runs, why it ended, and what it leaves behind."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from vbppl.core.types import PyTree


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a callback is told between the steps of a fit.

    Attributes:
      step: the steps done.
      elbo: the current estimate of the bound, in nats.
      seconds: since the first step.
      params: the current parameters, `{"guide": phi, "model": unconstrained params}`.
      state: what the objective hands from step to step besides, if anything.
    """

    step: int
    elbo: float
    seconds: float
    params: PyTree
    state: PyTree = ()


@dataclasses.dataclass(frozen=True)
class Status:
    """Why a fit ended, and what happened on the way.

    Attributes:
      reason: one word: why it ended.
      converged: whether it ended by its own rule.
      text: the same in a sentence, with the numbers.
      steps: steps taken.
      gradients: evaluations of the model's gradient, one for each draw.
      skipped: steps that were not finite and therefore changed nothing.
      first_skipped: the number of the first of them.
      guilty: the sites whose density or gradient was not finite there.
      draw_noise: by how many sds another set of fixed draws would move the answer.
      rivals: other modes met by restarts: the nats by which their bound is lower, and how many sds away.
      decrement: the nats still to gain, to second order; not a number where it is not known.
      starts: how many restarts there were.
      spread: by how many nats their bounds differ.
      seconds: what the fit took by the clock.
      compiling: how many of them went into the first call of a new program.
      r_hat: of the last round's iterates, where there were rounds.
      mcse: the standard error of their average, in posterior sds.
    """

    reason: str
    converged: bool
    text: str
    steps: int
    gradients: int
    skipped: int = 0
    first_skipped: int | None = None
    nonfinite_sites: tuple[str, ...] = ()
    other_modes: tuple[tuple[float, float], ...] = ()
    draw_noise: float = 0.0
    decrement: float = float("nan")
    starts: int = 1
    spread: float = 0.0
    seconds: float = dataclasses.field(default=0.0, compare=False)
    compiling: float = dataclasses.field(default=0.0, compare=False)
    r_hat: float | None = None
    mcse: float | None = None

    def __str__(self) -> str:
        text = f"{self.text}; {self.steps:,} steps, {self.gradients:,} gradients"
        if self.skipped:
            where = f" in site {', '.join(self.guilty)}" if self.nonfinite_sites else ""
            text += (
                f"; {self.skipped:,} steps were not finite and skipped (first at step {self.first_skipped:,}{where})"
            )
        return text


@dataclasses.dataclass(frozen=True)
class Solution:
    """The end of a fit.

    Attributes:
      params: as in `Progress`, on the host.
      bounds: the bound at each step, in nats.
      status: why the fit ended.
      state: as in `Progress`, on the host.
      guide: the family that was chosen, where the fit chose it.
      centred: the coordinates that were chosen, likewise.
      choices: what was chosen and why, in words.
      elsewhere: mean and log sd of the other modes that restarts met, `(modes, 2, dim)`.
    """

    params: PyTree
    bounds: np.ndarray
    status: Status
    state: PyTree = ()
    guide: Any = None
    centred: np.ndarray | None = None
    choices: tuple[str, ...] = ()
    elsewhere: Any = ()


@dataclasses.dataclass(frozen=True)
class Ending:
    """Why a hook ends a fit: the `reason`, `converged` and `text` of its status."""

    reason: str
    converged: bool
    text: str


class Hook:
    """Has the word after each chunk of steps: to look, to end the fit, to choose what it gives back.

    A hook lives for one fit; what it remembers, it keeps in itself. For checkpoints it says so in `saved`.
    """

    def after_chunk(self, progress: Progress) -> Ending | None:
        """Called after each chunk; an `Ending` ends the fit."""
        return None

    def fingerprint(self) -> str:
        """What must be alike for a fit to go on from a checkpoint, besides what `saved` says."""
        return ""

    def saved(self) -> PyTree:
        """What a checkpoint must keep: a pytree of arrays, of the same structure, shapes and dtypes at all times."""
        return ()

    def restore(self, saved: PyTree) -> None:
        """Remember what `saved` said when the checkpoint was written."""

    def finish(self, fitted: Solution) -> Solution:
        """The last word, however the fit ended: for instance the best state seen in the place of the last."""
        return fitted
