"""Mixtures of full-rank Gaussians on fixed draws: components climb together, and more are added while these pay.

It begins with the full-rank fit and the other modes and widths that restarts have met, each at its own optimum; weights
by the evidence that each accounts for, never by the height of its density, since in many dims a narrow mode is high.
All climb together (`core/numerics/mixtures`). New components (`new_components`) climb a few steps while the old stand
still, at the price of their own draws; the best, with all that promise more beside it, climbs on with all. They are
kept where they gain on fresh draws: on few fixed ones a bound can rise while the truth falls.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Generator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from vbppl.core.keys import host_generator
from vbppl.core.numerics import mixtures, natural_gradient
from vbppl.core.numerics.draws import fresh_draws, whitened_draws
from vbppl.core.numerics.mixtures import Components, Evaluated
from vbppl.core.numerics.new_components import Candidate, candidates, excess, log_evidence_of
from vbppl.core.watch import Watch, last, result_of
from vbppl.guides.gaussian import FullRank, is_normal, normal_of
from vbppl.guides.mixture import Mixture
from vbppl.inference.bound import Estimate
from vbppl.inference.deterministic import fixed_draws
from vbppl.inference.deterministic.continued import Continued, one_by_one
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.deterministic.relabelling import SAME_MODE
from vbppl.inference.deterministic.restarts import away, in_width
from vbppl.inference.deterministic.state import MIN_DRAWS as MIN_DRAWS_IN_WIDTH
from vbppl.inference.deterministic.state import ended
from vbppl.inference.solution import Mode, Note, NotSearched, Progress, Searched, Solution

MIN_DRAWS, DRAWS_A_DIM, MAX_DRAWS = 128, 16, 2048  # draws of a component: at least, for each dim, and at most
SETS, FRESH = 4, 2048  # of fresh draws behind a choice; all of them together
FIRST = range(SETS)  # of the sets: those that are asked first
GAIN, LEFT, LESS = 0.01, 0.02, 0.0025  # nats that one more component must gain; to be gained, above which less will do
COMPONENTS, NEGLIGIBLE = 12, 0.002  # at most; the weight below which one is left out
FAR = 3.0  # nats that are lacking, from where on each component must gain its share of them: else none is an answer
NEAR = 0.03  # total variation that is near enough
ENOUGH, AT_LAST = 1e-3, 1e-5  # nats to gain at the end of an ascent, and of the last one
NEARLY = 0.1  # the same, where an ascent that is out of steps may count as ended
DEEPEST = 10.0  # nats below the mean log density among the first guide's draws: as low as a cliff leads
BEYOND = 0.9  # of a component's draws: with more of them beyond a cliff it has left the density
SAME = 0.25  # nats between components that are one
TRIED, CLIMBED, FAILURES = 3, 9, 2  # steps of all candidates, and of the best; failures in a row that are the end
CANDIDATES = 64  # numbers of sets of draws that are kept for the candidates of one turn
MATTERS = 0.05  # sds that other draws would move the answer, above which there may be more of them


class Where(NamedTuple):
    """Where a fit stands: a look at the mixture, the bounds so far, by how much draws matter, how many were tried."""

    seen: Evaluated
    bounds: tuple[float, ...]
    draw_noise: float = np.nan
    capped: bool = False
    tried: int = 0
    is_far: bool = False  # from an answer by more than components still to come may gain


Stage: TypeAlias = Generator[Where, None, Where]
Names: TypeAlias = Sequence[int] | None  # by which components get their fresh draws; their places by default


class _Tried(NamedTuple):
    """What may be better, a look at it, and the mixture with the best weights, with what its bound then promises to be.

    The first components are `old` ones of the mixture that it is to better, by their numbers there.
    """

    what: str
    old: np.ndarray
    seen: Evaluated
    at: Components
    promise: float

    @classmethod
    def of(cls, what: str, old: np.ndarray, seen: Evaluated) -> _Tried:
        """Of a look."""
        at = mixtures.reweighed(seen)
        return cls(what, old, seen, at, mixtures.rebound(seen, at))

    def whole(self) -> Evaluated:
        """With the best weights, and the slopes of all components: at no gradients."""
        return mixtures.evaluate(lambda z: (self.seen.log_p, self.seen.gradient), self.at, self.seen.noise)

    def names(self, last: int) -> list[int]:
        """Of the components: their numbers before, and of new ones those from `last` on."""
        return [*self.old.tolist(), *range(last, last + len(self.at) - len(self.old))]

    def beside(self, other: _Tried, now: Evaluated) -> _Tried:
        """With the new components of another, too, where that is known: at no gradients."""
        old, parts = np.intersect1d(self.old, other.old), []
        for look, k in [(now, old), *((one.seen, np.arange(len(one.old), len(one.at))) for one in (self, other))]:
            each = look.at.log_weights, look.at.loc, look.at.factor, look.noise, look.log_p, look.gradient
            parts.append([part[k] for part in each])
        log_weights, loc, factor, noise, log_p, gradient = (np.concatenate(part) for part in zip(*parts))
        at = Components.of(log_weights, list(loc), list(factor))
        return _Tried.of(self.what, old, mixtures.evaluate(lambda z: (log_p, gradient), at, noise))


def solve_mixture(problem: Problem, watch: Watch = Watch()) -> list[Solution]:  # noqa: B008 -- frozen
    """Fit a mixture to each target: of as many components as `problem.guide` asks for, or as pay."""

    def go_on(number: int, before: Solution, watch: Watch) -> Solution:
        return Ascent(problem, before, number).climbed(watch)

    return one_by_one(fixed_draws.solve_full_rank(problem, watch), watch, go_on, as_mixture)


def as_mixture(solution: Solution) -> Solution:
    """The same Gaussian, as a mixture of one."""
    phi = Mixture.of([np.asarray(solution.phi)], [0.0])
    return dataclasses.replace(solution, guide=Mixture(), phi=phi)


class Ascent(Continued):
    """What the stages of one fit work with: it begins with a Gaussian solution, or a mixture."""

    def __init__(self, problem: Problem, before: Solution, number: int = 0, budget: float = np.inf):
        """Get ready; once `budget` gradients are spent no more components are tried."""
        super().__init__(problem, number, before)
        self.budget = budget
        self.number, self.first = getattr(problem.guide, "components", None), components_of(before)
        self.draws = self.asked or max(MIN_DRAWS, min(DRAWS_A_DIM * self.dim, MAX_DRAWS // 2), 2 * self.dim)

    def climbed(self, watch: Watch, grows: bool = True) -> Solution:
        """The mixture that begins with the solution and the other modes that it met."""
        where, cut = last(self.stages(grows), Where(self.evaluated(self.first), ()), watch, self._progress)
        return self._solution(where, cut)

    def gained(self, after: Solution) -> Estimate:
        """By how many nats a mixture's bound lies above that of what it began with, on draws that chose nothing."""
        return self.gain(components_of(after), self.first, range(4 * SETS, 5 * SETS))

    @property
    def is_affordable(self) -> bool:
        """Is there any of the budget left?"""
        return bool(self.density.gradients[0] < self.budget)

    def log_p(self, z: np.ndarray) -> mixtures.Known:
        """Log densities and gradients at `z`, `(k, draws, dim)`; beyond a cliff the floor, and flat."""
        value, gradient = self.batch(len(z))(z)
        # On the floor alone a bound would grow with the width for ever.
        beyond = np.isneginf(value)
        beyond &= beyond.mean(axis=-1, keepdims=True) <= BEYOND
        if np.any(beyond):
            return np.where(beyond, self.floor, value), np.where(beyond[..., None], 0.0, gradient)
        return value, gradient

    @functools.cached_property
    def floor(self) -> float:
        """What stands for a log density of -inf, where no bound would be finite: weights make it zero again."""
        at = self.first
        draws = at.loc[:, None] + self.noise(list(range(len(at))), self.draws) @ np.swapaxes(at.factor, 1, 2)
        value = self.batch(len(at))(draws)[0]
        return float(np.mean(value[np.isfinite(value)])) - DEEPEST if np.isfinite(value).any() else np.nan

    def noise(self, numbers: list[int], draws: int) -> np.ndarray:
        """Fixed draws, a set for each number, `(numbers, draws, dim)`."""
        rngs = (host_generator(self.raw, f"component {number}, {draws} draws") for number in numbers)
        return np.stack([whitened_draws(rng, draws, self.dim) for rng in rngs])

    def evaluated(self, at: Components, draws: int | None = None) -> Evaluated:
        """A mixture, as fixed draws see it."""
        return mixtures.evaluate(self.log_p, at, self.noise(list(range(len(at))), draws or self.draws))

    def fresh(self, at: Components, number: int, most: int, names: Names = None) -> Evaluated:
        """The same on fresh draws, common to mixtures of up to `most` components where these have the same `names`."""
        draws, names = max(FRESH // SETS // most, 2 * self.dim, 32) // 2 * 2, names or range(len(at))
        rngs = (host_generator(self.raw, f"fresh {number} of component {k}") for k in names)
        return mixtures.evaluate(self.log_p, at, np.stack([fresh_draws(rng, draws, self.dim) for rng in rngs]))

    def gain(self, at: Components, other: Components, sets: range = FIRST, names: Names = None) -> Estimate:
        """By how many nats a mixture is better than another on common fresh draws: `names` of its components there."""
        most = max(len(at), len(other))
        gains = [self.fresh(at, n, most, names).bound - self.fresh(other, n, most).bound for n in sets]
        return Estimate.of(gains)

    def is_better(self, at: Components, other: Components, least: float, names: Names) -> bool:
        """Does a mixture surely gain over another `least` nats for each further component?"""
        gain, least = self.gain(at, other, names=names), least * (len(at) - len(other))
        if gain.value > least and not gain.is_sure(least):  # more draws may tell
            gain = self.gain(at, other, range(4 * SETS), names)
        return gain.is_sure(least)

    def worth(self, seen: Evaluated) -> float:
        """What one more component must gain, nats: of a ring each gains little, and all together much.

        The last one has no others after it.
        """
        if len(seen.at) == COMPONENTS - 1:
            return GAIN
        # The draws that a mixture was fitted to see less than it lacks, never more.
        every = [seen] if lacking(seen) > LEFT else [self.fresh(seen.at, n, len(seen.at)) for n in range(SETS)]
        return LESS if np.mean([lacking(each) for each in every]) > LEFT else GAIN

    # The stages

    def stages(self, grows: bool) -> Stage:
        """From the modes to the end."""
        where = Where(self.evaluated(self.begun()), ())
        where = yield from self.ascended(where)
        where = (yield from self.grown(where)) if grows else where
        if grows and self.number is None and np.any(few := where.seen.at.weights < NEGLIGIBLE):
            where = yield from self.ascended(where._replace(seen=self.evaluated(where.seen.at.take(~few))))
        where = where._replace(draw_noise=self.moves(where.seen))
        matters = (len(where.seen.at) > 1 or where.draw_noise > MATTERS) and 4 * self.draws <= MAX_DRAWS
        if matters and self.is_affordable:
            more = where._replace(seen=self.evaluated(where.seen.at, 4 * self.draws))
            more = yield from self.ascended(more, AT_LAST)
            where = where._replace(bounds=more.bounds)
            if self.gain(more.seen.at, where.seen.at).value > 0:
                where = more._replace(draw_noise=self.moves(more.seen))
        return where

    def begun(self) -> Components:
        """The solution and the other modes that restarts met, each at its own optimum, weighed by their evidence."""
        found = self.before.other_modes.found
        if not found:
            return self.first
        loc = np.stack([mode.place[0] for mode in found])
        factor = np.stack([np.diag(np.exp(m.place[1])) if m.factor is None else m.factor for m in found])
        noise, searches = self.noise([*range(1, len(found) + 1)], self.draws), np.arange(len(found))

        def density(z: np.ndarray, searches: np.ndarray) -> mixtures.Known:
            return self.log_p(z)

        at = natural_gradient.evaluate(density, loc, factor, noise, searches)
        at = natural_gradient.ascend(density, at, noise, self.rounding, np.full(len(found), ENOUGH))
        at = at.take(searches[np.isfinite(at.decrement) & np.isfinite(at.bound)])
        if not len(at.loc):  # the density is zero among the draws of each
            return self.first
        # The widths of the best mode were looked at by its fit; those of the others are for some hundred gradients.
        few = self.noise([*range(1, len(at.loc) + 1)], max(MIN_DRAWS_IN_WIDTH, 2 * self.dim))
        _, others = result_of(in_width(density, at, few, self.rounding))
        every = self.first
        for end in [ends.take(np.array([search])) for ends in (at, others) for search in range(len(ends.loc))]:
            # Two restarts may have met the same mode.
            same = end.take(np.zeros(len(every), int))
            if np.all(natural_gradient.divergence(every.loc, every.factor, same) > SAME):
                every = every.joined(Components.of(np.zeros(1), [*end.loc], [*end.factor]), 1 / (len(every) + 1))
        return mixtures.reweighed(self.evaluated(every))

    def ascended(self, where: Where, tolerance: float = ENOUGH) -> Stage:
        """All components together, to where nothing is left that these draws can tell."""
        begun, first = len(where.bounds), where.seen
        for seen in mixtures.ascents(self.log_p, first, tolerance):
            where = where._replace(seen=seen, bounds=(*where.bounds, seen.bound))
            yield where
        return where._replace(capped=len(where.bounds) - begun > mixtures.STEPS and where.seen.decrement > NEARLY)

    def grown(self, where: Where) -> Stage:
        """With new components, while they pay or until there are as many as were asked for."""
        failures, excluded, least = 0, set[str](), np.nan
        while failures < FAILURES and len(where.seen.at) < (self.number or COMPONENTS) and self.is_affordable:
            if self.number is None and (excess(where.seen)[1] < NEAR or where.is_far):
                break
            least = least if failures else self.worth(where.seen)
            best = yield from self.best_of(where, excluded, least)
            if best is None:
                break
            # Where each gains little, all have to move for one more: to where it can be told.
            tolerance = AT_LAST if least < GAIN else ENOUGH
            after = yield from self.ascended(where._replace(seen=best.whole(), tried=where.tried + 1), tolerance)
            if self.number or self.is_better(after.seen.at, where.seen.at, least, best.names(len(where.seen.at))):
                where, failures, excluded = self.looked_ahead(where, after), 0, set[str]()
            else:  # it would be the best once more
                where, failures = where._replace(tried=after.tried, bounds=after.bounds), failures + 1
                excluded.add(best.what)
        return where

    def looked_ahead(self, before: Where, after: Where) -> Where:
        """After a turn that gained: as many nats by each component to come would they all together be enough?"""
        lacks, room = lacking(after.seen), COMPONENTS - len(after.seen.at)
        each = (after.seen.bound - before.seen.bound) / max(len(after.seen.at) - len(before.seen.at), 1)
        return after._replace(is_far=self.number is None and lacks > max(FAR, room * each))

    def best_of(self, where: Where, excluded: set[str], least: float) -> Generator[Where, None, _Tried | None]:
        """What promises most after some steps of new components, if anything does: a candidate, or some together."""
        asked = candidates(where.seen, lambda z: self.log_p(z[None])[0][0])
        every = [self.tried(where, place, one) for place, one in enumerate(asked) if one.what not in excluded]
        every = yield from self.climbing(where, every, TRIED)
        if not every:
            return None
        first = self.joined(where, every, least)
        (best, *_) = yield from self.climbing(where, [first, *every[1:2]] if first is every[0] else [first], CLIMBED)
        return best if self.number or best.promise > where.seen.bound + least / 2 else None

    def climbing(self, where: Where, every: list[_Tried], steps: int) -> Generator[Where, None, list[_Tried]]:
        """After some steps of new components beside the old ones, those first that promise most."""
        climbed = []
        for one in every:
            if np.isfinite(one.promise):
                seen = mixtures.ascend(self.log_p, one.seen, 0.0, len(one.old), steps)
                climbed.append(_Tried.of(one.what, one.old, seen))
            yield where
        return sorted(climbed, key=lambda one: -one.promise)

    def joined(self, where: Where, every: list[_Tried], least: float) -> _Tried:
        """The first of what was tried, and all that is worth a component beside it."""
        now, room = every[0], (self.number or COMPONENTS) - len(where.seen.at)
        for other in every[1:]:
            if len(np.union1d(now.old, other.old)) == len(where.seen.at):  # they replace no component both
                both = now.beside(other, where.seen)
                if len(both.at) - len(where.seen.at) <= room and both.promise > now.promise + least:
                    now = both
        return now

    def tried(self, where: Where, place: int, each: Candidate) -> _Tried:
        """A candidate where it begins, with new draws for new components: those of the old ones are known."""
        seen, first = where.seen, CANDIDATES * (1 + where.tried) + 2 * place
        new = self.noise(list(range(first, first + len(each.at) - len(each.old))), seen.noise.shape[1])
        noise = np.concatenate([seen.noise[each.old], new])
        return _Tried.of(each.what, each.old, mixtures.evaluate(self.log_p, each.at, noise, (seen, each.old)))

    def moves(self, seen: Evaluated) -> float:
        """By how many sds other draws would move the mean of the mixture: the steps that they would make."""
        _, sd = seen.at.moments()
        moves = []
        for number in range(2):
            mean_gradient = self.fresh(seen.at, number, len(seen.at)).seen.mean_gradient - seen.seen.mean_gradient
            moves.append(seen.at.weights @ (seen.at.factor @ mean_gradient[..., None])[..., 0] / sd)
        return float(np.sqrt(np.mean(np.square(moves), axis=0)).max(initial=0.0))

    # What is told

    def _progress(self, where: Where) -> Progress:
        return self.progress(self.phi(where.seen.at), where.bounds, "mixture")

    def phi(self, at: Components) -> dict[str, np.ndarray]:
        """The parameters of the guide."""
        each = [FullRank().of(loc, factor).astype(self.density.dtype) for loc, factor in zip(at.loc, at.factor)]
        return Mixture.of(each, list(at.log_weights))

    def _solution(self, where: Where, cut: str) -> Solution:
        """What the fit leaves behind."""
        seen, left = where.seen, where.seen.decrement
        weights = ", ".join(f"{weight:.2f}" for weight in sorted(seen.at.weights, reverse=True))
        notes = [note for note in self.before.notes if note.topic != "guide"]
        notes.append(Note("guide", f"a mixture of {len(seen.at)} normals, weights {weights}"))
        if where.is_far:
            notes.append(
                Note("mixture", f"{lacking(seen):.0f} nats are lacking, more than further components may gain")
            )
        reason = cut or ("capped" if where.capped else "converged" if left <= ENOUGH else "flat")
        draws = f"{seen.noise.shape[1]} fixed draws a component"
        status = ended(reason, left, np.nan if cut else where.draw_noise, draws)
        others = {"other_modes": told(self.before.other_modes, seen.at, cut), "notes": tuple(notes)}
        return self.solution(Mixture(), self.phi(seen.at), where.bounds, status, **others)


def told(searched: Searched | NotSearched, at: Components, cut: str) -> Searched | NotSearched:
    """The modes that restarts have met: which of them are held by a component, and which are left."""
    if isinstance(searched, NotSearched) or (cut and len(at) == 1):
        return searched
    ends = np.stack([at.loc, np.log(np.sqrt(np.sum(at.factor**2, axis=2)))], axis=1)

    def is_held(mode: Mode) -> bool:
        return any(away(mode.place, end) <= SAME_MODE for end in ends)

    # A width that is left out gains nothing, and a mode so low holds too little to be missed.
    places = [mode for mode in searched.found if mode.factor is None]
    held = tuple(mode for mode in places if is_held(mode))
    left = tuple(mode for mode in places if not is_held(mode) and mode.lower < -np.log(NEGLIGIBLE))
    apart = [end for end in ends if away(ends[0], end) > SAME_MODE]
    if searched.orders > 1 and apart:  # it may be several of the equal modes that the guide holds, or not all
        held = (*held, Mode(0.0, away(ends[0], apart[0]), apart[0]))
        searched = dataclasses.replace(searched, orders=1, exchangeable=())
    return dataclasses.replace(searched, found=left, held=(*searched.held, *held))


def lacking(seen: Evaluated) -> float:
    """The nats by which a bound lies below the evidence, by the weights of its draws."""
    return log_evidence_of(seen) - seen.bound


def is_of_normals(solution: Solution) -> bool:
    """Is the guide a Gaussian or a mixture of such, and nothing that is bent?"""
    phi = solution.phi
    return isinstance(phi, dict) and "components" in phi or is_normal(solution.guide)


def components_of(solution: Solution) -> Components:
    """The Gaussian or the mixture that a solution is, in float64."""
    if isinstance(solution.phi, dict):
        return Mixture.normals(solution.phi)
    return Components.of(np.zeros(1), *zip(*[normal_of(solution.guide, solution.phi)]))
