"""What a fit without stochastic steps is asked for: how its draws are made, and all else that its solver needs.

Every solver of this folder is one function, `(problem, watch) -> list[Solution]`, with a solution for each target:

    fixed_draws.solve_mean_field, fixed_draws.solve_full_rank, fixed_draws.solve_richest (the one of these two that is
    worth its while), copula.solve_copula, mixture.solve_mixture,
    conditionally_structured.solve_conditionally_structured, series.solve_series_or_blocks, low_rank.solve_low_rank,
    mode_based.solve_laplace, mode_based.solve_pathfinder
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from vbppl.core.errors import ModelError, one_of, whole_number
from vbppl.target.target import Target

DRAWS_A_DIRECTION = 4  # of a low-rank guide, at least
ARRAYS = 12  # of two draws a dimension that a full-rank fit holds: measured, 280 MB in 1,000 dims, half of it arrays


@dataclasses.dataclass(frozen=True)
class Deterministic:
    """Fixed moment-exact draws of all rows, maximised to the end.

    Attributes:
      draws: how many to begin with, an even number; None for enough. They grow while they matter.
      kind: "auto" (whitened where there are enough of them, of mean field in at most 64 dims; else a Latin hypercube)
        or "latin_hypercube". Full rank needs "auto".
      precision: "float64" fits in double precision whatever the session's is, and gives back a posterior in the
        session's; None for the session's.
    """

    draws: int | None = None
    kind: Literal["auto", "latin_hypercube"] = "auto"
    precision: Literal["float64"] | None = None

    def __post_init__(self) -> None:
        if self.draws is not None and ((draws := whole_number("draws", self.draws, None)) < 2 or draws % 2):
            raise ValueError(f"draws come in antithetic pairs: an even number from 2 on, not {self.draws}.")
        one_of("kind", self.kind, "auto", "latin_hypercube")
        one_of("precision", self.precision, None, "float64")


@dataclasses.dataclass(frozen=True)
class Problem:
    """All that a solver needs; the fits of several targets advance side by side.

    Attributes:
      targets: the densities, alike in structure and shapes, one for each fit.
      settings: how the draws are made.
      parameterisations: those to choose from, as `Layout.packed` writes them: `(choices, numbers)`.
      start: mean and log sd to begin with in each of the coordinates, `(choices, 2, dim)`; None to look for starts.
      raw_keys: of each fit, `(fits, 2)`.
      precision: "float64" where this is the second half of a fit that rounding limits, whose targets are in double
        precision; None for the session's.
      tries_pseudo_data: whether movable sites may be seen by pseudo-data too.
      guide: the family that is asked for, where its solver serves several.
      standing: the bound of an answer that stands, in nats: a Gaussian that stays clearly below it is not finished.
    """

    targets: Sequence[Target]
    settings: Deterministic
    parameterisations: np.ndarray
    start: np.ndarray | None
    raw_keys: Sequence[np.ndarray]
    precision: str | None = None
    tries_pseudo_data: bool = False
    guide: Any = None
    standing: float = -np.inf

    @property
    def dim(self) -> int:
        """Of each target."""
        return self.targets[0].dim


def check_full_rank(settings: Deterministic, dim: int) -> None:
    """Refuse fixed draws on which a full-rank guide has no maximum, and more dimensions than fit in memory."""
    # Along a direction that no draw has, a factor would be stretched without end: see `natural_gradient`.
    few = (
        f"a full-rank guide of {dim} dimensions cannot be fitted on {settings.draws} fixed draws: "
        f"with fewer draws than dimensions the bound has no maximum, and below {2 * dim} no exact moments."
    )
    other = f"a full-rank guide needs draws with exact second moments, and {settings.kind!r} draws have none."
    _check(settings, 2 * dim, few, other)
    needed, there = 8 * ARRAYS * 2 * dim**2, _memory()
    if needed > there:
        raise ModelError(
            f"a full-rank guide of {dim:,} dimensions takes about {needed / 1e9:,.0f} GB while it is fitted, and there "
            f"are {there / 1e9:,.0f}.",
            mend="Fit guide='low_rank' or guide='mean_field'.",
        )


def _memory() -> float:
    """The bytes of this machine, as far as it says."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else math.inf


def check_low_rank(settings: Deterministic, rank: int | None) -> None:
    """Refuse fixed draws on which a low-rank guide cannot be fitted."""
    rank = rank or 1
    # As many equations as directions fix the second moments; the rest is what keeps the marginals normal.
    few = (
        f"a guide of rank {rank} cannot be fitted on {settings.draws} fixed draws: they cannot have exact second "
        f"moments along {rank} directions and enough freedom beside."
    )
    other = f"a low-rank guide needs draws that are matched to its directions, and {settings.kind!r} draws are not."
    _check(settings, DRAWS_A_DIRECTION * rank, few, other)


def _check(settings: Deterministic, least: int, few: str, other: str) -> None:
    """Refuse draws that are fewer than `least`, or of another kind than whitened ones."""
    if settings.draws is not None and settings.draws < least:
        raise ModelError(few, mend=f"Give at least {least} draws, or leave draws=None.")
    if settings.kind != "auto":
        raise ModelError(other, mend="Leave kind='auto', or fit a mean-field guide.")
