"""What a poor fit is told: the cause, where the model's own numbers show one, before all that may be tried.

Only where a fit is poor or unknown is anything looked at: draws of the guide that have lost their density are run once
more, statement by statement; and what may be an index is read with its bounds checked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vbppl.core import devices
from vbppl.inference.solution import Solution
from vbppl.model.model import Model
from vbppl.model.trace import advice_of_indices
from vbppl.posterior.report import AnyReport, Report
from vbppl.target.target import error_somewhere

TRIED = 3  # draws that are run again


class Cause(NamedTuple):
    """What is wrong with a model, and how to mend it."""

    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.what}. To mend it: {self.mend}"


def causes_of(model: Any, solution: Solution, report: AnyReport) -> list[Cause]:
    """What the model's own numbers show to be wrong, where a fit is poor."""
    if not isinstance(report, Report) or report.verdict not in ("poor", "unknown") or report.cut_short:
        return []
    return [*_of_lost_draws(solution, report), *_of_indices(model, report)]


def advised(report: AnyReport, causes: Sequence[Cause]) -> AnyReport:
    """The report with the causes as its first reasons, and the mends as its first advice."""
    if not causes or not isinstance(report, Report):
        return report
    whats, mends = zip(*causes)
    return dataclasses.replace(report, reasons=(*whats, *report.reasons), advice=(*mends, *report.advice))


def _of_lost_draws(solution: Solution, report: Report) -> list[Cause]:
    """What is wrong at draws of the guide where the density is not finite."""
    draws = report.draws
    lost = np.flatnonzero(draws.own & ~np.isfinite(draws.log_p))[:TRIED]
    error = next(filter(None, (error_somewhere(solution.target, draws.z[i]) for i in lost)), None)
    if error is None:
        return []
    place = f", {error.details.splitlines()[0]}" if error.details else ""
    site = f"site '{error.site}': " if error.site else ""
    return [Cause(f"{site}{error.what.removesuffix('.')}{place}", error.mend.removesuffix("."))]


def _of_indices(model: Any, report: Report) -> list[Cause]:
    """What an index out of range may have done, where there are integers that may be indices."""
    arrays = () if not isinstance(model, Model) or model.sources or report.verdict != "poor" else model.arrays
    if not any(array.dtype.kind in "iu" for array in arrays) or not all(map(devices.is_here, arrays)):
        return []
    what, _, mend = advice_of_indices(model).partition(". To mend it: ")
    return [Cause(what, mend)] if what else []
