"""What several fits cost together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from vbppl.inference.solution import Solution, Status


def together(before: Solution, fits: Sequence[Solution]) -> Status:
    """The status of the first fit with what all of them cost."""
    every = [before.status, *(fit.status for fit in fits)]
    costs = {name: sum(getattr(status, name) for status in every) for name in ("gradients", "seconds", "compiling")}
    return dataclasses.replace(before.status, **costs)
