"""What a poor fit is told: the cause, where the model's own numbers show one, before all that may be tried.

Only where a fit is poor or unknown is anything looked at: draws of the guide that have lost their density are run once
more, statement by statement; and what may be an index is read with its bounds checked.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vbppl.core import devices
from vbppl.core.errors import ModelError
from vbppl.core.keys import host_generator
from vbppl.inference.solution import Solution
from vbppl.model.model import Model
from vbppl.model.trace import advice_of_indices
from vbppl.posterior.report import AnyReport, Report
from vbppl.target.axes import coordinate_names
from vbppl.target.target import error_somewhere

TRIED = 3  # draws that are run again
RUN_AWAY, LOOKED_AT = 30.0, 100  # how far draws of a coordinate lie that may be flat; of how many such at most


class Cause(NamedTuple):
    """What is wrong with a model, and how to mend it."""

    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.what}. To mend it: {self.mend}"


NEAR, FAR = (-30.0, -1.0, 1.0, 30.0), (-1e4, 1e4)  # where such a coordinate is put


def check_proper(solution: Solution, report: AnyReport, details: str = "") -> None:
    """Refuse a posterior that has no total mass, since nothing says where one of its coordinates lies.

    Only where a fit is poor and draws have run away along a coordinate is the density looked at. That coordinate counts
    for nothing where the slope in it is zero to the last bit and the density stays the same to the last bit, which
    rounding cannot feign; and it has no mass where the Jacobian of its support does not fall on both sides, as that
    of a bounded support does. Who is in doubt (a density that is not finite) is not refused.

    Raises:
      ModelError: so it is; the message names the site.
    """
    target = solution.target
    if not isinstance(report, Report) or report.verdict not in ("poor", "unknown") or target.sources:
        return
    z = np.asarray(report.draws.z[report.draws.own])
    if report.cut_short or solution.status.was_cut_short or not len(z) or z.shape[1] != target.dim:
        return
    with np.errstate(invalid="ignore"):
        suspects = np.flatnonzero(~(np.abs(z).max(axis=0) < RUN_AWAY))[:LOOKED_AT]
    if not len(suspects):
        return
    joint = jax.jit(jax.vmap(jax.value_and_grad(functools.partial(target.log_density, jacobian=False))))
    whole, values = jax.jit(jax.vmap(target.log_density)), jax.jit(jax.vmap(target.constrain))
    base = host_generator(np.zeros(2, np.uint32), "flat").standard_normal((TRIED, target.dim))
    for i in suspects:
        at = np.tile(base, (1, len(NEAR) + len(FAR))).reshape(-1, target.dim)
        at[:, i] = np.tile([*NEAR, *FAR], TRIED)
        height, slope = (np.asarray(part) for part in joint(at))
        height, near = height.reshape(TRIED, -1), slope[:, i].reshape(TRIED, -1)[:, : len(NEAR)]
        if np.any(near) or not np.isfinite(height[:, : len(NEAR)]).all():
            continue
        # The exponential of what lies very far is infinite, and tells nothing; on a line what lies there is told.
        is_line = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(values(at)))
        known = height if is_line else np.where(np.isfinite(height), height, height[:, :1])
        outward = np.diff(np.asarray(whole(at)).reshape(TRIED, -1)[:, [1, 0, 2, 3]], axis=1)[:, [0, 2]]
        if np.all(known == known[:, :1]) and (outward >= 0).all(axis=0).any():
            raise _improper(coordinate_names(target)[i], details)


def _improper(label: str, details: str) -> ModelError:
    return ModelError(
        f"nothing in the model says where {label} lies: its prior is masked or improper, and no observation that "
        "counts depends on it. So there is no posterior.",
        site=label.partition("[")[0],
        details=details,
        mend="Give the site a prior that counts, or observe what depends on it.",
    )


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
