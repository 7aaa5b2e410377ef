"""The copula fit: a Gaussian to its end, and from there the margins, where bending them promises anything.

Bends are third moments, so they are shaped on more draws than a Gaussian needs: at least 512, and eight a dimension.
The two halves of these are the two looks that predict what bending gains; together they are the first step's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping
from typing import Any

import jax
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.keys import host_generator
from vbppl.core.numerics.draws import FixedDraws, fresh_draws
from vbppl.core.special import NORMAL_ENTROPY
from vbppl.core.watch import Watch, last
from vbppl.guides.copula import Copula
from vbppl.guides.gaussian import correlations_of
from vbppl.guides.layers.yeo_johnson import YeoJohnson
from vbppl.inference.bound import Estimate
from vbppl.inference.deterministic.beyond import margins
from vbppl.inference.deterministic.beyond.margins import Bent, Frame
from vbppl.inference.deterministic.continued import Continued, one_by_one
from vbppl.inference.deterministic.fixed_draws import solve_full_rank, solve_mean_field
from vbppl.inference.deterministic.problem import Deterministic, Problem, check_full_rank
from vbppl.inference.deterministic.state import ended
from vbppl.inference.solution import Progress, Solution

MIN_DRAWS, DRAWS_A_DIM, MAX_DRAWS = 512, 8, 2048  # draws
DRAW_NOISE = 0.1  # sds by which other draws may move the answer before there are more
FRESH_SETS, FRESH_DRAWS = 8, 256  # of a comparison on new draws


def check_copula(settings: Deterministic, dim: int, guide: Copula) -> None:
    """Refuse a base that has no solver, and draws on which a full-rank one has no maximum."""
    correlations = correlations_of(guide.base)
    if correlations == "all":
        check_full_rank(settings, dim)
    elif correlations != "none":
        raise ModelError(
            f"the margins of a {type(guide.base).__name__} guide cannot be shaped on fixed draws.",
            mend="Use vb.guides.Copula(vb.FullRank()) or vb.guides.Copula(vb.MeanField()); or method=vb.Stochastic().",
        )


def solve_copula(problem: Problem, watch: Watch = Watch()) -> list[Solution]:  # noqa: B008 -- frozen
    """Fit a Gaussian copula to each target: the Gaussians side by side, then the margins of each.

    Raises:
      ModelError: fixed draws are asked for on which the Gaussian has no maximum.
    """
    guide = problem.guide or Copula()
    check_copula(problem.settings, problem.dim, guide)
    solve = solve_full_rank if correlations_of(guide.base) == "all" else solve_mean_field

    def go_on(number: int, before: Solution, watch: Watch) -> Solution:
        after, bent = Margins(problem, number, before).shaped(watch)
        return unbent(after) if bent is None else after

    return one_by_one(solve(problem, watch), watch, go_on, unbent)


def unbent(before: Solution) -> Solution:
    """The copula that a Gaussian is: with margins as they are."""
    loc, sd = (np.asarray(part, np.float64) for part in before.guide.frame(np.asarray(before.phi, np.float64)))
    psi = YeoJohnson.of(loc, np.maximum(sd, 1e-300), np.zeros_like(loc)).astype(before.phi.dtype)
    return dataclasses.replace(before, guide=Copula(before.guide), phi={"base": before.phi, "layers": (psi,)})


@dataclasses.dataclass(frozen=True)
class Climb:
    """Where the margins of one fit stand.

    Attributes:
      at: the Gaussian and the bends.
      draws: how many fixed draws there are.
      bounds: after each step, in nats.
      draw_noise: by how many sds other draws would move the answer.
    """

    at: Bent
    draws: int
    bounds: tuple[float, ...] = ()
    draw_noise: float = np.nan


class Margins(Continued):
    """What shaping the margins of one Gaussian works with."""

    def __init__(self, problem: Problem, number: int, before: Solution):
        super().__init__(problem, number, before)
        guide, self._noise = before.guide, FixedDraws(problem.settings.kind, self.dim, [self.raw])
        phi = np.asarray(before.phi, np.float64)
        self._normal, self._is_full = (guide.loc(phi), guide.factor(phi)), correlations_of(guide) == "all"
        self._frame = Frame(*guide.frame(phi))
        # Each half has exact second moments too, where there are correlations.
        least = 4 * self.dim if self._is_full else 0
        self._draws = max(self.asked or max(MIN_DRAWS, min(DRAWS_A_DIM * self.dim, MAX_DRAWS)), least)

    def shaped(self, watch: Watch = Watch(), gate: float = -np.inf) -> tuple[Solution, Bent | None]:  # noqa: B008
        """The copula at the end, and its bends; the Gaussian and None where less than `gate` nats are promised."""
        batch, flat = margins.in_batch(*self._normal, self._is_full), np.zeros(len(self._frame.centre))
        halves = [self._evaluate(*batch, flat, noise) for noise in self._sets(self._draws // 2)]
        first = Bent.joined(*halves)
        if not (halves[0].promised(halves[1]) >= gate and np.isfinite(first.bound)):
            return self.spent(self.before), None
        climb = Climb(first, self._draws)
        climb, cut = last(self._climbed(climb), climb, watch, self._progress)
        return self._solution(climb, cut), climb.at

    def gain(self, bent: Bent) -> Estimate:
        """What the bound has gained over the Gaussian's, on common new draws."""
        gains, (loc, factor) = list[float](), self._normal
        for number in range(FRESH_SETS):
            noise = fresh_draws(host_generator(self.raw, f"margins {number}"), FRESH_DRAWS, len(loc))
            plain = self.evaluate(loc + noise @ factor.T)[0].mean() + np.linalg.slogdet(factor)[1]
            gains.append(self._evaluate(bent.at.loc, bent.at.factor, bent.p, noise).bound - plain)
        return Estimate.of(gains)

    def _climbed(self, climb: Climb) -> Generator[Climb, None, Climb]:
        """To the end, with four times the draws while they matter."""
        constant = len(climb.at.p) * NORMAL_ENTROPY
        while True:
            noise = np.concatenate(self._sets(climb.draws // 2))
            steps = margins.ascent(self.evaluate, self._frame, climb.at, noise, float(self.rounding(climb.at.bound)))
            while True:
                try:
                    at = next(steps)
                except StopIteration as end:
                    climb = dataclasses.replace(climb, at=end.value)
                    break
                climb = dataclasses.replace(climb, at=at, bounds=(*climb.bounds, at.bound + constant))
                yield climb
            # Twice as many in all as the answer rests on, and others than those.
            others = [self._look_again(climb.at, noise) for noise in self._sets(climb.draws, 3)]
            noise = max(np.sqrt(np.mean([climb.at.moves(other) ** 2 for other in others], axis=0)))
            climb = dataclasses.replace(climb, draw_noise=float(noise))
            if not (noise > DRAW_NOISE and climb.draws < MAX_DRAWS and self.asked is None):
                return climb
            climb = dataclasses.replace(climb, draws=min(4 * climb.draws, MAX_DRAWS))
            first = [self._look_again(climb.at, noise) for noise in self._sets(climb.draws // 2)]
            climb = dataclasses.replace(climb, at=Bent.joined(*first))

    def _sets(self, draws: int, number: int = 1) -> list[np.ndarray]:
        """Two sets of so many draws, `(draws, dim)` each."""
        return [self._noise(np.zeros(1, int), draws, each)[0] for each in (number, number + 1)]

    def _evaluate(self, loc: np.ndarray, factor: np.ndarray, p: np.ndarray, noise: np.ndarray) -> Bent:
        return margins.evaluate(self.evaluate, self._frame, loc, factor, p, noise)

    def _look_again(self, bent: Bent, noise: np.ndarray) -> Bent:
        return self._evaluate(bent.at.loc, bent.at.factor, bent.p, noise)

    def _phi(self, bent: Bent) -> Mapping[str, Any]:
        psi = YeoJohnson.of(self._frame.centre, self._frame.scale, bent.p)
        phi = {"base": self.before.guide.of(*bent.normal), "layers": (psi,)}
        return jax.tree.map(lambda leaf: leaf.astype(self.before.phi.dtype), phi)

    def _progress(self, climb: Climb) -> Progress:
        return self.progress(self._phi(climb.at), climb.bounds, "bent margins")

    def _solution(self, climb: Climb, cut: str) -> Solution:
        draws, of = f"{climb.draws} fixed draws", " of a Gaussian copula"
        status = ended(cut or climb.at.reason, climb.at.decrement, climb.draw_noise, draws, of)
        return self.solution(Copula(self.before.guide), self._phi(climb.at), climb.bounds, status)
