"""What several fits cost together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from vbppl.inference.solution import Solution, Status

COSTS = ("gradients", "seconds", "compiling")


def together(before: Solution, fits: Sequence[Solution]) -> Status:
    """The status of the first fit with what all of them cost."""
    every = [before.status, *(fit.status for fit in fits)]
    costs = {name: sum(getattr(status, name) for status in every) for name in COSTS}
    return dataclasses.replace(before.status, **costs)


def costing(before: Solution, after: Solution) -> Solution:
    """The solution `before` at the price of what came after it, which holds its own."""
    costs = {name: getattr(after.status, name) for name in COSTS}
    return dataclasses.replace(before, status=dataclasses.replace(before.status, **costs))
