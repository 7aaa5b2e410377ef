"""Fits side by side: which lane belongs to which fit, in which coordinates it sees the density, on which draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from vbppl.draws import latin_hypercube, normal_draws, whitened_draws
from vbppl.evaluation import Density
from vbppl.keys import host_generator


@dataclasses.dataclass(frozen=True)
class Lanes:
    """Some lanes of `density`: `fits` and `centred` say whose they are and how they see it, `(lanes, ...)`."""

    density: Density
    fits: np.ndarray
    centred: np.ndarray

    def __len__(self) -> int:
        return len(self.fits)

    def __call__(self, z: np.ndarray, lanes: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Log densities and gradients at `z`, `(lanes, draws, dim)`, of all lanes or of some."""
        return self.density(z, self.fits[lanes], self.centred[lanes])

    def take(self, lanes: np.ndarray) -> Lanes:
        """Some of the lanes."""
        return Lanes(self.density, self.fits[lanes], self.centred[lanes])

    def rounding(self, value: np.ndarray) -> np.ndarray:
        """By how much two equal bounds of this size may differ, in nats: 16 units in the last place."""
        return 16 * float(np.finfo(self.density.dtype).eps) * np.maximum(np.abs(value), 1.0)


@dataclasses.dataclass(frozen=True)
class FixedNoise:
    """Sets of standard-normal draws, each a function of the fit's key, of its size and its number alone.

    `kind` is "auto" (whitened where there are at least two draws a dimension, else a Latin hypercube),
    "latin_hypercube" or "independent".
    """

    kind: str
    dim: int
    raw_keys: Sequence[np.ndarray]

    def __call__(self, fits: np.ndarray, draws: int, number: int = 0) -> np.ndarray:
        """Set `number` of `draws` draws for each of `fits`, `(fits, draws, dim)`."""
        keys = {int(fit): tuple(int(word) for word in self.raw_keys[fit]) for fit in fits}
        sets = {key: self._set(key, draws, number) for key in set(keys.values())}
        if len(sets) <= 1:
            shared = next(iter(sets.values()), np.zeros((draws, self.dim)))
            return np.broadcast_to(shared, (len(fits), draws, self.dim))
        return np.stack([sets[keys[int(fit)]] for fit in fits])

    def joined(self, fits: np.ndarray, draws: int) -> np.ndarray:
        """Sets 1 and 2 of half as many draws, as one; in one dimension, where they would be equal, a new one."""
        if self.dim == 1:
            return self(fits, draws)
        return np.concatenate([self(fits, draws // 2, 1), self(fits, draws // 2, 2)], axis=1)

    def _set(self, key: tuple[int, ...], draws: int, number: int) -> np.ndarray:
        rng = host_generator(np.array(key, np.uint32), f"draws {draws} {number}")
        if self.kind == "independent":
            return normal_draws(rng, draws, self.dim)
        if self.kind == "auto" and draws >= 2 * self.dim:
            return whitened_draws(rng, draws, self.dim)
        return latin_hypercube(rng, draws, self.dim)
