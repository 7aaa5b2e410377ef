"""What a way of fitting hands back, and the flat coordinates that all ways speak in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

import vbppl as vb
from benchmarks.posteriors.catalogue import Entry

DRAWS = 20_000  # of an answer: its means are then known to 0.007 of its sds
FEW = 5  # points at which the densities are compared


@dataclasses.dataclass(frozen=True)
class Posed:
    """A posterior to approximate: the entry of the catalogue, and its model applied to its data."""

    entry: Entry
    model: vb.Model


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came of a fit, in the model's own unconstrained coordinates, one after the other as its sites are.

    Attributes:
      z: draws, `(n, dim)`.
      costs: what `Clock.read` said when the answer was there.
      log_q: the log density of a Gaussian at `z`, `(n,)`, where there is one: the bound is the mean of log p - log q.
      gradients: how many of one point.
      says: what it says of itself, in a word or two; nothing where it says nothing.
      trace: bounds on the way, as (steps, `(z, log_q)`), if it was asked for.
      run: of the CPU seconds, those of the steps alone, if it was asked for.
      log_p: its own log densities at the first of `z`, in its own words, which must be ours up to rounding.
      more: what else goes into its row.
    """

    z: np.ndarray
    costs: dict[str, float]
    log_q: np.ndarray | None = None
    gradients: int | None = None
    says: str = ""
    trace: tuple[tuple[int, tuple[np.ndarray, np.ndarray]], ...] = ()
    run: float | None = None
    log_p: np.ndarray | None = None
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def gaussian(loc: Any, scale: Any, seed: int, n: int = DRAWS) -> tuple[np.ndarray, np.ndarray]:
    """Draws of a Gaussian and their log densities; `scale`: sds `(dim,)`, or a lower triangle `(dim, dim)`."""
    loc, scale = np.asarray(loc, np.float64), np.asarray(scale, np.float64)
    noise = np.random.default_rng(seed + 1).standard_normal((n, len(loc)))
    spread = noise * scale if scale.ndim == 1 else noise @ scale.T
    log_det = np.sum(np.log(np.abs(scale if scale.ndim == 1 else np.diagonal(scale))))
    log_q = -np.sum(noise**2, axis=1) / 2 - log_det - len(loc) / 2 * np.log(2 * np.pi)
    return loc + spread, log_q


def flat(target: vb.Target, values: Mapping[str, Any]) -> np.ndarray:
    """Unconstrained values by site, `(n, ...)` each, as one vector a draw."""
    parts = [np.asarray(values[slot.name], np.float64) for slot in target.layout.slots]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def triangle(factor: np.ndarray) -> np.ndarray:
    """A lower triangle `T` with `T T^T = factor factor^T`."""
    return np.linalg.qr(np.asarray(factor, np.float64).T)[1].T


def in_order(target: vb.Target, places: Mapping[str, Any]) -> np.ndarray:
    """Where each of our coordinates stands in another flat vector, whose places are given by site."""
    return flat(target, {name: np.asarray(place)[None] for name, place in places.items()})[0].astype(int)


def by_site(target: vb.Target, z: np.ndarray) -> dict[str, np.ndarray]:
    """Flat draws as unconstrained values by site, `(n, ...)` each."""
    slots = target.layout.slots
    return {slot.name: z[:, slot.start : slot.stop].reshape(-1, *slot.unconstrained) for slot in slots}
