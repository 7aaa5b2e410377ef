"""How long the steps of learnt numbers are: a race between sizes.

The means of a Gaussian guide move in posterior sds, and one step size serves them all. The weights of a network, and
whatever else is learnt, have no such unit: 0.1 can be much too long, 0.0004 much too short. So five sizes, each a
quarter of the one before, run from the same start, on the same rows and with the same noise, over a stretch in which
their steps fall to a hundredth; the two with the highest bound run again, four times as long, and the better one
is taken (successive halving: Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter
Optimization"). A bound that is not finite loses.

A generator cannot be read twice: there the middle size is taken without a race.

They run one after the other, through the program that the fit itself is compiled to: side by side under `vmap` they
would ask for a second program, whose compilation costs more than the race.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

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
