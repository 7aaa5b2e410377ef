"""The course of a stochastic fit: which rounds of steps it makes, and when it may stop.

First a round that travels: steps of 0.1 in whatever units `phi` has (but never shorter than in units of the
posterior), which fall by half a cosine to a hundredth. Then rounds that measure: steps of 0.01 posterior sds, all
alike, because only iterates of one step size can be stationary. Each round starts from the average
of the last half of the one before, and ends in a look at the trace of its own last half (`stopping.py`):

- it drifts: the next round is twice as long, and its first half travels, from 0.1 sds down;
- it does not: the next round is twice as long, its steps are 0.7 times as long, since the average of
  iterates that step about is off by something that shrinks with the step, and is a slower walk;
- it is settled, and its average agrees with that of the round before, made with other steps, within 0.02 sd: stop.

Where the last iterate is wanted instead of the average, a last round lands: its step size falls to a hundredth.

A race between step sizes was tried instead of the round that travels and before those that drift; it
chose well, cost 900 steps or more, and saved none: in units of the posterior one size serves. What has no such unit
races before the first round (`pace.py`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vbppl.core.numerics.convergence import Convergence, assess

FIRST = 1000  # steps
MOST = 64_000  # steps
TRAVELLED = 0.01  # the fraction of the step size that is left after the first round
STEADY = 0.1  # the same of rounds that measure
SHORTER = 0.5**0.5  # steps, where rounds are twice as long: so they hold more and more times of relaxation
AGREE = 0.02  # sds
FEWEST = 16  # rows of a trace that are worth a look
THIN = 10  # steps from one record of the iterates to the next
ROWS = 4096  # of a trace: about as many are kept however long a round is


class Round(NamedTuple):
    """One round: how the step size falls, and where the average begins; see `loop.Schedule`."""

    begin: int
    steps: int
    fall: int
    window: int
    size: float
    last: float
    power: float

    def looked_at(self, records: np.ndarray) -> np.ndarray:
        """Which of these records are kept for the look at the end: of the last half, every so manieth of too many.

        Args:
          records: their numbers; number `n` is made after step `n THIN`.
        """
        stride = max(1, (self.steps - self.window) // THIN // ROWS)
        return (records * THIN > self.begin + self.window) & (records % stride == 0)


@dataclasses.dataclass(frozen=True)
class Course:
    """Where a fit stands between two rounds.

    Attributes:
      asked: the number of steps to make, if that was asked for: one round that travels.
      average: whether the average is wanted, or the last iterate.
      least: the step from which on a fit may end; only then is it the objective itself that is maximised.
      landing: whether the round to come is the last, for the last iterate's sake.
      begin: the step at which the round to come begins.
      number: of that round, from 0.
      steps: its length.
      size: the step size of rounds that measure, in units of the usual.
      hot: whether the round to come travels.
      look: what the last trace said.
      shift: by how many sds the averages of the last two rounds differ.
      centre: the average of the last.
    """

    asked: int | None = None
    average: bool = True
    least: int = 0
    landing: bool = False
    begin: int = 0
    number: int = 0
    steps: int = FIRST
    size: float = 1.0
    hot: bool = True
    look: Convergence | None = None
    shift: float = np.inf
    centre: np.ndarray | None = None

    def round(self) -> Round:
        """The round to come."""
        if self.asked is not None or self.number == 0:
            steps = self.asked or self.steps
            return Round(self.begin, steps, steps, steps // 2, 1.0, TRAVELLED, 0.0)
        if self.landing:
            return Round(self.begin, FIRST, FIRST, FIRST // 2, STEADY * self.size, TRAVELLED, 1.0)
        half = self.steps // 2
        if self.hot:
            return Round(self.begin, self.steps, half, half, 1.0, STEADY * self.size, 1.0)
        return Round(self.begin, self.steps, 0, half, STEADY * self.size, 1.0, 1.0)

    def after(self, trace: np.ndarray) -> tuple[Course, str]:
        """The course after the round, and the reason for the end, or "".

        Args:
          trace: what `loop.watched` saw in the round's last half, `(rows, 2, numbers)`.
        """
        begin = self.begin + self.round().steps
        if self.landing or len(trace) < FEWEST:
            return dataclasses.replace(self, begin=begin), "settled" if self.landing else "steps"
        units = trace[:, 1].mean(axis=0)
        seen, centre = assess(trace[:, 0] / units), trace[:, 0].mean(axis=0)
        before = centre + np.inf if self.centre is None else self.centre
        waits = self.begin < self.least  # and what is seen says nothing of what is to come
        shift = float(np.max(np.abs(centre - before) / units, initial=0.0)) if centre.size else 0.0
        after = dataclasses.replace(
            self,
            begin=begin,
            number=self.number + 1,
            steps=self.steps * (1 if self.number == 0 or waits else 2),
            size=self.size * (1.0 if self.number == 0 or waits or seen.drifts else SHORTER),
            hot=seen.drifts,
            look=seen,
            shift=shift,
            centre=centre,
        )
        if self.asked is not None:
            return after, "steps"
        if self.number > 0 and not waits and seen.converged and shift <= AGREE:
            return (after, "settled") if self.average else (dataclasses.replace(after, landing=True), "")
        return after, "capped" if begin + after.steps > MOST + self.least else ""

    def said(self) -> str:
        """What the last look found, in words."""
        if self.look is None:
            return "convergence was not tested"
        parts = [f"R-hat {self.look.r_hat:.2f}", f"average known to {self.look.mcse:.2g} sd"]
        if self.look.drifts:
            to_go = f"about {self.look.to_go:.2g} sd to go" if np.isfinite(self.look.to_go) else "no end in sight"
            parts.append(f"drifting by {self.look.drift:.1f} standard errors, {to_go}")
        if np.isfinite(self.shift):
            parts.append(f"the last two rounds differ by {self.shift:.2g} sd")
        return ", ".join(parts)


PACES = tuple(0.25**k for k in range(5))
UNTRIED = PACES[2]
HEAT, FINALISTS, LONGER = 250, 2, 4  # steps; sizes; times a heat
LEAST = 10  # steps of a heat, however few the fit will make
SHARE = 2  # where the steps of the fit are given, the race takes one in so many at most, unless that leaves too few


def race(run: Callable[[float, int], float], asked: int | None) -> float:
    """The best of `PACES`.

    Args:
      run: makes so many steps at a pace, from the start, and gives the bound at their end; NaN if it is not finite.
      asked: the steps that the fit will make, if that is known.
    """
    shares = len(PACES) + FINALISTS * LONGER
    heat = HEAT if asked is None else int(np.clip(asked // (SHARE * shares), LEAST, HEAT))

    def ranked(paces: tuple[float, ...], steps: int) -> list[float]:
        bounds = [run(pace, steps) for pace in paces]
        scores = [bound if math.isfinite(bound) else -math.inf for bound in bounds]
        # Where none is finite the shortest steps are the safest.
        return [paces[i] for i in sorted(range(len(paces)), key=lambda i: (-scores[i], paces[i]))]

    finalists = tuple(ranked(PACES, heat)[:FINALISTS])
    return ranked(finalists, LONGER * heat)[0]
