"""The schedule of a stochastic fit: which phases of steps it makes, and when it may stop.

First a phase that travels: steps of 0.1 in whatever units `phi` has (but never shorter than in units of the
posterior), which fall by half a cosine to a hundredth. Then phases that measure: steps of 0.01 posterior sds, all
alike, because only iterates of one step size can be stationary. Each phase starts from the average
of the last half of the one before, and ends in a look at the trace of its own last half (`convergence.py`):

- it drifts: the next phase is twice as long, and its first half travels, from 0.1 sds down;
- it does not: the next phase is twice as long, its steps are 0.7 times as long, since the average of
  iterates that step about is off by something that shrinks with the step, and is a slower walk;
- it is settled, and its average agrees with that of the phase before, made with other steps, within 0.02 sd: stop.

Where the last iterate is wanted instead of the average, a last phase lands: its step size falls to a hundredth.

To try several step sizes was tried instead of the phase that travels and before those that drift; it
chose well, cost 900 steps or more, and saved none: in units of the posterior one size serves. For what has no such
unit a size is chosen before the first phase (`successive_halving`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.numerics.convergence import Convergence, assess
from vbppl.core.pytree import pytree
from vbppl.core.types import Array

Handed = TypeVar("Handed")

FIRST_STEPS = 1000  # steps
MAX_STEPS = 64_000  # steps
TRAVELLED = 0.01  # the fraction of the step size that is left after the first phase
STEADY = 0.1  # the same of phases that measure
SHORTER = 0.5**0.5  # steps, where phases are twice as long: so they hold more and more times of relaxation
AGREE = 0.02  # sds
MIN_TRACE_ROWS = 16  # rows of a trace that are worth a look
THIN = 10  # steps from one record of the iterates to the next
RENEWED = 250  # steps between two renewals of an anchor at least
ROWS = 4096  # of a trace: about as many are kept however long a phase is


@pytree
class Phase:
    """Some steps whose sizes follow one formula, and whose last ones are averaged.

    Attributes:
      begin: its first step.
      steps: how many there are.
      fall: over how many of them the step size falls; after that it stays.
      window: after how many the average begins.
      step_size: by what the optimizer's step sizes are multiplied.
      last: the fraction of the step size that is left after the fall.
      power: how far steps are measured in the guide's own units at the beginning, 0 to 1; at the end of the
        fall they are so altogether.
    """

    begin: Any
    steps: Any
    fall: Any
    window: Any
    step_size: Any = 1.0
    last: Any = TRAVELLED
    power: Any = 0.0

    def as_data(self) -> Phase:
        """The same on the device: a compiled loop takes its numbers as data, so that all phases share one program."""
        whole = (np.int32(n) for n in (self.begin, self.steps, self.fall, self.window))
        return jax.device_put(Phase(*whole, *(np.float64(x) for x in (self.step_size, self.last, self.power))))

    def fallen(self, steps: Array) -> Array:
        """The part of the fall that lies behind each step, 0 to 1."""
        return jnp.clip((steps - self.begin) / jnp.maximum(self.fall, 1), 0.0, 1.0)

    def weights(self, steps: Array) -> Array:
        """How much each step's iterate weighs in the running average; 1 until the window opens: the last iterate."""
        return 1 / jnp.maximum(steps - (self.begin + self.window) + 1, 1)

    def looked_at(self, records: np.ndarray) -> np.ndarray:
        """Which of these records are kept for the look at the end: of the last half, every so manieth of too many.

        Args:
          records: their numbers; number `n` is made after step `n THIN`.
        """
        stride = max(1, (self.steps - self.window) // THIN // ROWS)
        return (records * THIN > self.begin + self.window) & (records % stride == 0)

    def renewals(self) -> tuple[int, ...]:
        """After which steps within it an anchor is renewed: never so often that all rows cost more than the steps."""
        parts = next((parts for parts in (4, 2) if self.steps >= parts * RENEWED), 1)
        return tuple(self.begin + self.steps * part // parts for part in range(1, parts))


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Where a fit stands between two phases.

    Attributes:
      asked: the number of steps to make, if that was asked for: one phase that travels.
      average: whether the average is wanted, or the last iterate.
      warm_up: the step from which on a fit may end; only then is it the objective itself that is maximised.
      landing: whether the phase to come is the last, for the last iterate's sake.
      begin: the step at which the phase to come begins.
      number: of that phase, from 0.
      steps: its length.
      step_size: the step size of phases that measure, in units of the usual.
      travels: whether the phase to come travels.
      convergence: what the last trace said.
      shift: by how many sds the averages of the last two phases differ.
      centre: the average of the last.
    """

    asked: int | None = None
    average: bool = True
    warm_up: int = 0
    landing: bool = False
    begin: int = 0
    number: int = 0
    steps: int = FIRST_STEPS
    step_size: float = 1.0
    travels: bool = True
    convergence: Convergence | None = None
    shift: float = np.inf
    centre: np.ndarray | None = None

    def phase(self) -> Phase:
        """The phase to come."""
        if self.asked is not None or self.number == 0:
            steps = self.asked or self.steps
            return Phase(self.begin, steps, steps, steps // 2, 1.0, TRAVELLED, 0.0)
        if self.landing:
            return Phase(
                self.begin, FIRST_STEPS, FIRST_STEPS, FIRST_STEPS // 2, STEADY * self.step_size, TRAVELLED, 1.0
            )
        half = self.steps // 2
        if self.travels:
            return Phase(self.begin, self.steps, half, half, 1.0, STEADY * self.step_size, 1.0)
        return Phase(self.begin, self.steps, 0, half, STEADY * self.step_size, 1.0, 1.0)

    def after(self, trace: np.ndarray) -> tuple[Schedule, str]:
        """The schedule after the phase, and the reason for the end, or "".

        Args:
          trace: what `step.monitored` saw in the phase's last half, `(rows, 2, numbers)`.
        """
        begin = self.begin + self.phase().steps
        if self.landing or len(trace) < MIN_TRACE_ROWS:
            return dataclasses.replace(self, begin=begin), "settled" if self.landing else "steps"
        units = trace[:, 1].mean(axis=0)
        convergence, centre = assess(trace[:, 0] / units), trace[:, 0].mean(axis=0)
        before = centre + np.inf if self.centre is None else self.centre
        waits = self.begin < self.warm_up  # and what is seen says nothing of what is to come
        shift = float(np.max(np.abs(centre - before) / units, initial=0.0)) if centre.size else 0.0
        after = dataclasses.replace(
            self,
            begin=begin,
            number=self.number + 1,
            steps=self.steps * (1 if self.number == 0 or waits else 2),
            step_size=self.step_size * (1.0 if self.number == 0 or waits or convergence.drifts else SHORTER),
            travels=convergence.drifts,
            convergence=convergence,
            shift=shift,
            centre=centre,
        )
        if self.asked is not None:
            return after, "steps"
        if self.number > 0 and not waits and convergence.converged and shift <= AGREE:
            return (after, "settled") if self.average else (dataclasses.replace(after, landing=True), "")
        return after, "capped" if begin + after.steps > MAX_STEPS + self.warm_up else ""

    def said(self) -> str:
        """What the last look found, in words."""
        if self.convergence is None:
            return "convergence was not tested"
        parts = [f"R-hat {self.convergence.r_hat:.2f}", f"average known to {self.convergence.mcse:.2g} sd"]
        if self.convergence.drifts:
            to_go = (
                f"about {self.convergence.to_go:.2g} sd to go"
                if np.isfinite(self.convergence.to_go)
                else "no end in sight"
            )
            parts.append(f"drifting by {self.convergence.drift:.1f} standard errors, {to_go}")
        if np.isfinite(self.shift):
            parts.append(f"the last two phases differ by {self.shift:.2g} sd")
        return ", ".join(parts)


STEP_SIZES = tuple(0.25**k for k in range(5))
UNTRIED_STEP_SIZE = STEP_SIZES[2]
TRIAL_STEPS, FINALISTS, LONGER = (
    250,
    2,
    4,
)  # steps of a trial; sizes left for the second trial, which is so many times as long
MIN_TRIAL_STEPS = 10  # however few the fit will make
SHARE = 2  # where the steps of the fit are given, trying takes one in so many at most, unless that leaves too few


def successive_halving(
    run: Callable[[float, int], Generator[Handed, None, float]], asked: int | None
) -> Generator[Handed, None, float]:
    """The best of `STEP_SIZES`: all are tried, the better ones longer (Jamieson and Talwalkar 2016).

    Args:
      run: makes so many steps of a size, from the start, and returns the bound at their end, NaN if it is not finite;
        it yields where the fit stands, which is handed on.
      asked: the steps that the fit will make, if that is known.
    """
    shares = len(STEP_SIZES) + FINALISTS * LONGER
    trial_steps = (
        TRIAL_STEPS if asked is None else int(np.clip(asked // (SHARE * shares), MIN_TRIAL_STEPS, TRIAL_STEPS))
    )

    step_sizes = list(STEP_SIZES)
    for steps in (trial_steps, LONGER * trial_steps):
        scores = {}
        for step_size in step_sizes:
            bound = yield from run(step_size, steps)
            scores[step_size] = bound if math.isfinite(bound) else -math.inf
        # Where none is finite the shortest steps are the safest.
        step_sizes = sorted(step_sizes, key=lambda step_size, scores=scores: (-scores[step_size], step_size))[
            :FINALISTS
        ]
    return step_sizes[0]
