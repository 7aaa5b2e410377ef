"""The full-rank bound on fixed draws, maximised by natural-gradient steps over `loc` and any factor `L`.

What draws these are is a part of the result, so most of the way is made on few of them: the ascent stops at
`ROUGHLY`, other draws are looked at, and only where they would change little the last nats are climbed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np

from vbppl.core.numerics import natural_gradient
from vbppl.core.numerics.draws import FixedDraws
from vbppl.core.numerics.natural_gradient import Iterates
from vbppl.inference.deterministic.state import MAX_DRAWS, Run, Stage, State

ROUGHLY = 1e-3  # nats to gain that are well spent on more draws first


class Probe(NamedTuple):
    """What two other sets of `draws` together say of the Gaussians."""

    at: Iterates
    draws: int


@dataclasses.dataclass(frozen=True)
class FullRankClimb:
    """The full-rank family, for the loop that lets the draws grow."""

    run: Run

    @property
    def fewest(self) -> int:
        """How many draws to begin with: two a dimension, since with fewer the bound has no maximum."""
        return self.run.fewest(2 * self.run.dim)

    @property
    def noise(self) -> FixedDraws:
        """Its draws, with exact moments."""
        return self.run.noise

    def begin(self, state: State, fits: np.ndarray, noise: np.ndarray) -> Iterates:
        """The Gaussians as `noise` sees them."""
        return self._evaluated(state, fits, state.loc[fits], state.factor[fits], noise)

    def climb(
        self, state: State, fits: np.ndarray, noise: np.ndarray, at: Any
    ) -> Generator[State, None, tuple[State, Iterates]]:
        """Until little is left beside what other draws would change."""
        return (yield from self._ascended(state, fits, noise, at, np.full(len(fits), ROUGHLY)))

    def probe(self, state: State, fits: np.ndarray, at: Any, draws: int) -> tuple[list[np.ndarray], Any]:
        """How far two other sets of draws would move each optimum, and what they see."""
        size = min(2 * draws, max(MAX_DRAWS, draws))
        sets = [self.run.noise(fits, size, half) for half in (1, 2)]
        probes = [self._evaluated(state, fits, at.loc, at.factor, noise) for noise in sets]
        return [natural_gradient.moves(at, other) for other in probes], Probe(Iterates.joined(probes), 2 * size)

    def settle(self, state: State, fits: np.ndarray, noise: np.ndarray, at: Any, settled: np.ndarray) -> Stage:
        """Climb to the end, where the draws matter no more."""
        if not settled.any():
            return state
        fits = fits[settled]
        # To come nearer to the optimum than a hundredth of what the draws leave open is in vain.
        enough = np.maximum(self.run.tolerance, (state.draw_noise[fits] / 100) ** 2 / 2)
        state, _ = yield from self._ascended(state, fits, noise[settled], at.take(settled), enough)
        return state

    def resume(self, state: State, fits: np.ndarray, noise: np.ndarray, probe: Any, wanting: np.ndarray) -> Iterates:
        """The Gaussians as the next draws see them: they have been looked at, where these are the two sets together."""
        at = probe.at.take(wanting)
        # In one dimension both sets are the same quantiles: their union is no new set, and a larger one is used.
        if probe.draws == noise.shape[1] and self.run.dim > 1:
            return at
        return self._evaluated(state, fits, at.loc, at.factor, noise)

    def _evaluated(
        self, state: State, fits: np.ndarray, loc: np.ndarray, factor: np.ndarray, noise: np.ndarray
    ) -> Iterates:
        return natural_gradient.evaluate(self.run.batch(state, fits), loc, factor, noise, np.arange(len(fits)))

    def _ascended(
        self, state: State, fits: np.ndarray, noise: np.ndarray, first: Iterates, tolerance: np.ndarray
    ) -> Generator[State, None, tuple[State, Iterates]]:
        batch, at = self.run.batch(state, fits), first
        for at in natural_gradient.ascents(batch, first, noise, batch.rounding, tolerance):
            if len(at.moved):
                moved = fits[at.moved]
                x = np.concatenate([at.loc[at.moved], state.log_sd[moved]], axis=1)
                state = state.put(moved, x=x, factor=at.factor[at.moved]).with_bounds(moved, at.bound[at.moved])
                yield state
        # Steps that gain nothing are the optimum's sign only where little is left to gain.
        far = (at.reason == "rounding") & (at.decrement > np.maximum(ROUGHLY, batch.rounding(at.bound)))
        at = dataclasses.replace(at, reason=np.where(far, "stuck", at.reason))
        return state.put(fits, decrement=at.decrement, reason=at.reason), at
