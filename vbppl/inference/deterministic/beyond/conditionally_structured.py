"""A conditionally structured Gaussian on fixed draws: all its parameters climb together, by L-BFGS.

The guide (`guides/conditionally_structured`) is, with its coordinates in the order drivers `g`, driven `x`, rows `r`,

    t = (g, exp(a) x + B (g^2 - 1), exp(b) r),  a = 4 tanh(A g / 4),  b = 4 tanh(W g / 4),       y = L t,
    z_j = loc_j + s_j T(y_j / s_j)  for drivers and driven,  z_j = loc_j + y_j  for rows,

with `s_j = |L_j|`, the norm of a row of `L`, and the sinh-arcsinh bend `T`. The bound is

    J = mean [l(z) + sum a + sum b + sum log T'] + log |det L|,

a smooth function on fixed draws. The density's gradient at `z` comes from the one compiled evaluation; from there to
the parameters it is a few lines of algebra, backwards (`Family.bound`).

Parameters are in units of the Gaussian that it starts from: `loc = loc_0 + L_0 m`, `L = L_0 M`, `M` lower triangular
with a positive diagonal. So L-BFGS begins with a preconditioner that is right for a Gaussian density, whatever its
scales.

Draws are whitened, at least four a dimension, and antithetic. The noise of rows is then orthogonal to that of the
hyperparameters and, as an odd function, to their squares and products: `L` cannot fit the draws' chance correlations
with what the conditional layer makes of these.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np

from vbppl.core.keys import host_generator
from vbppl.core.numerics import lbfgs
from vbppl.core.numerics.draws import fresh_draws, whitened_draws
from vbppl.core.special import NORMAL_ENTROPY
from vbppl.core.watch import Watch, last
from vbppl.guides.gaussian import FullRank, Gaussian
from vbppl.guides.layers.conditional import MAX_LOG_SD_CHANGE, alike, allowed, distinct
from vbppl.guides.layers.conditionally_structured import ConditionallyStructured, hyperparameters_of
from vbppl.guides.layers.sinh_arcsinh import log_cosh
from vbppl.inference.bound import Estimate, Gain
from vbppl.inference.deterministic.continued import Continued, one_by_one
from vbppl.inference.deterministic.fixed_draws import solve_full_rank
from vbppl.inference.deterministic.problem import Problem, check_full_rank
from vbppl.inference.deterministic.state import ended
from vbppl.inference.solution import Progress, Solution

MIN_DRAWS, DRAWS_A_DIM = 1024, 4  # draws, and for each dimension
# Of L-BFGS, and nats still to gain: too few by what it has met of the curvature. At 1e-3 a density of the family was
# left .014 nats away, at 1e-4 .001, for a third more gradients.
STEPS, ENOUGH = 60, 1e-4
SETS = 4  # of other draws, by which the gain is told
LOOKED = 256  # of the draws, by which it is told how far others would move what a user reads

# `(points, dim)` to log densities `(points,)` and gradients `(points, dim)`.
Evaluate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Parts(NamedTuple):
    """The parameters by name, in the guide's order; or their gradients."""

    loc: np.ndarray
    factor: np.ndarray
    slope: np.ndarray
    bow: np.ndarray
    width: np.ndarray
    bend: np.ndarray


class Bent(NamedTuple):
    """The sinh-arcsinh bend at some `v`: what it is, its slope, and what both depend on."""

    value: np.ndarray
    log_slope: np.ndarray
    scaled: np.ndarray
    tail: np.ndarray
    below: np.ndarray

    @classmethod
    def of(cls, v: np.ndarray, bend: np.ndarray) -> Bent:
        """With `bend` the skews and the logs of both tails, `(3, hypers)`."""
        u = np.arcsinh(v) + bend[0]
        tail = np.exp(np.where(u < 0, bend[1], bend[2]))
        return cls(tail * np.sinh(u / tail), log_cosh(u / tail) - np.log1p(v**2) / 2, u / tail, tail, u < 0)


class Moved(NamedTuple):
    """What noise makes: points `z` in the target's order, log |det| of the way, and what was met on it."""

    z: np.ndarray
    log_det: np.ndarray
    log_sd: np.ndarray
    t: np.ndarray
    bent: Bent
    v: np.ndarray
    sd: np.ndarray


@dataclasses.dataclass(frozen=True)
class Family:
    """Where the parameters are in a flat vector, and what they make of noise: `order`, with so many `hypers` first.

    `may` says which driver moves which of these, `(driven, drivers)`; `alike` has of each row the number of its site.
    """

    order: np.ndarray
    may: np.ndarray
    hypers: int
    alike: np.ndarray
    loc: np.ndarray
    factor: np.ndarray
    gradients = 0  # besides what `evaluate` is asked for

    @classmethod
    def around(
        cls,
        drivers: tuple[int, ...],
        driven: tuple[int, ...],
        rows: tuple[tuple[int, ...], ...],
        normal: tuple[np.ndarray, np.ndarray],
    ) -> Family:
        """In units of a normal `(loc, factor)`; the others are places, those of rows site by site."""
        hypers = distinct(drivers, driven)
        order = np.array([*hypers, *(place for row in rows for place in row)], int)
        # Triangular in this order, so that what a driver is depends on its own noise and on drivers' alone.
        lower = FullRank().factor(FullRank().of(normal[0][order], normal[1][order]))
        return cls(order, allowed(drivers, driven), len(hypers), alike(rows), normal[0][order], np.asarray(lower))

    @property
    def dim(self) -> int:
        """Of the space."""
        return len(self.loc)

    @functools.cached_property
    def sizes(self) -> list[int]:
        """How many numbers of each kind: means, log diagonal, what is below it, slopes, bows, widths, bends."""
        pairs, widths = int(self.may.sum()), self._sites * self.drivers
        return [self.dim, self.dim, self.dim * (self.dim - 1) // 2, pairs, pairs, widths, 3 * self.hypers]

    @property
    def drivers(self) -> int:
        """How many there are; the first of them nothing drives."""
        return self.may.shape[1]

    @functools.cached_property
    def _sites(self) -> int:
        return len(np.unique(self.alike))

    @property
    def preconditioner(self) -> np.ndarray:
        """An inverse Hessian's diagonal, right where the density is the normal itself."""
        width = np.repeat(0.5 / np.bincount(self.alike), self.drivers) if len(self.alike) else []
        sizes = self.sizes
        ordinary = np.repeat([1.0, 0.5, 1.0, 0.5, 0.5], sizes[:5])
        return np.concatenate([ordinary, width, np.ones(sizes[-1])])

    def parts(self, x: np.ndarray) -> Parts:
        """The parameters."""
        move, diagonal, below, slope, bow, width, bend = np.split(x, np.cumsum(self.sizes)[:-1])
        inner, pairs = np.diag(np.exp(diagonal)), np.zeros((2, *self.may.shape))
        pairs[:, self.may] = slope, bow
        inner[np.tril_indices(self.dim, -1)] = below
        loc, factor = self.loc + self.factor @ move, self.factor @ inner
        wide = width.reshape(self._sites, self.drivers)
        return Parts(loc, factor, pairs[0], pairs[1], wide, bend.reshape(3, self.hypers))

    def gradient(self, x: np.ndarray, by: Parts) -> np.ndarray:
        """The gradient in `x` from that in the parameters."""
        diagonal = np.exp(x[self.dim : 2 * self.dim])
        # Above its diagonal `M` is zero, whatever its slope there.
        inner, may = self.factor.T @ by.factor, self.may
        whole = [self.factor.T @ by.loc, np.diagonal(inner) * diagonal, inner[np.tril_indices(self.dim, -1)]]
        return np.concatenate([*whole, by.slope[may], by.bow[may], by.width.ravel(), by.bend.ravel()])

    def bent(self, x: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where noise goes, `(draws, dim)`, and log |det| of the way."""
        there = self.moved(self.parts(x), noise)
        return there.z, there.log_det

    def moved(self, at: Parts, noise: np.ndarray) -> Moved:
        """Noise on its way to `z`."""
        drivers, hypers, free = self.drivers, self.hypers, self.hypers - len(self.may)
        slopes = np.concatenate([at.slope, at.width[self.alike]])
        log_sd = MAX_LOG_SD_CHANGE * np.tanh(noise[:, :drivers] @ slopes.T / MAX_LOG_SD_CHANGE)
        t = noise.copy()
        t[:, free:] *= np.exp(log_sd)
        t[:, free:hypers] += (noise[:, :drivers] ** 2 - 1) @ at.bow.T
        y, sd = t @ at.factor.T, np.linalg.norm(at.factor[:hypers], axis=1)
        v = y[:, :hypers] / sd
        bent = Bent.of(v, at.bend)
        z = at.loc + np.concatenate([sd * bent.value, y[:, hypers:]], axis=1)
        volume = np.log(np.diagonal(at.factor)).sum() + log_sd.sum(axis=1) + bent.log_slope.sum(axis=1)
        return Moved(z[:, np.argsort(self.order)], volume, log_sd, t, bent, v, sd)

    def bound(self, evaluate: Evaluate, x: np.ndarray, noise: np.ndarray) -> tuple[float, np.ndarray]:
        """The bound on these draws, without the normals' constant, and its gradient in `x`."""
        at = self.parts(x)
        there = self.moved(at, noise)
        log_p, by_z = evaluate(there.z)
        by = self._backwards(at, noise, by_z[:, self.order], there)
        return float(np.mean(log_p + there.log_det)), self.gradient(x, by)

    def _backwards(self, at: Parts, noise: np.ndarray, by_z: np.ndarray, there: Moved) -> Parts:
        """From the density's gradient at the draws to that of the bound in the parameters."""
        hypers, driven, count, bent = self.hypers, len(self.may), len(noise), there.bent
        # Each `by_...` is the slope of every draw's term; a row of `L` moves `s` besides what it moves in `y`.
        g, x, v, sd = noise[:, : self.drivers], noise[:, hypers - driven :], there.v, there.sd
        by_hyper, root, tanh = by_z[:, :hypers], np.sqrt(1 + v**2), np.tanh(bent.scaled)
        slope, cosh = np.exp(bent.log_slope), np.exp(log_cosh(bent.scaled))
        by_skew = by_hyper * sd * cosh + tanh / bent.tail
        by_tail = by_hyper * sd * (bent.value - bent.tail * bent.scaled * cosh) - tanh * bent.scaled
        by_v = by_hyper * sd * slope + tanh / (bent.tail * root) - v / root**2
        by_sd = (by_hyper * bent.value - by_v * v / sd).mean(axis=0)
        by_y = np.concatenate([by_v / sd, by_z[:, hypers:]], axis=1)
        by_factor = by_y.T @ there.t / count + np.diag(1 / np.diagonal(at.factor))
        by_factor[:hypers] += (by_sd / sd)[:, None] * at.factor[:hypers]
        by_t = (by_y @ at.factor)[:, hypers - driven :]
        by_log_sd = (by_t * np.exp(there.log_sd) * x + 1) * (1 - (there.log_sd / MAX_LOG_SD_CHANGE) ** 2)
        by_slopes = by_log_sd.T @ g / count
        by_width = np.zeros_like(at.width)
        np.add.at(by_width, self.alike, by_slopes[driven:])
        bend = np.stack([by.mean(axis=0) for by in (by_skew, by_tail * bent.below, by_tail * ~bent.below)])
        by_bow = by_t[:, :driven].T @ (g**2 - 1) / count
        return Parts(by_z.mean(axis=0), by_factor, by_slopes[:driven], by_bow, by_width, bend)

    def phi(self, x: np.ndarray, dtype: Any) -> dict[str, Any]:
        """The parameters as the guide has them."""
        at = self.parts(x)
        sd = np.linalg.norm(at.factor[: self.hypers], axis=1)
        bend = np.concatenate([np.stack([at.loc[: self.hypers], np.log(sd)]), at.bend])
        affine = FullRank().of(at.loc, at.factor)
        given = {"slope": at.slope, "bow": at.bow} | ({"width": at.width} if len(at.width) else {})
        layers = ({name: part.astype(dtype) for name, part in given.items()}, affine.astype(dtype), bend.astype(dtype))
        return {"base": np.zeros((2, self.dim), dtype), "layers": layers}


class Climb(NamedTuple):
    """Where a fit stands: the parameters, the bounds so far, without the constant, and the nats still to gain."""

    x: np.ndarray
    bounds: tuple[float, ...]
    decrement: float
    draw_noise: float = np.nan
    reason: str = "capped"


class Search(Continued):
    """From a Gaussian to a conditionally structured one: what one fit works with. Nothing here changes but counts.

    Attributes:
      words: what the family is called in what a user reads.
      stage: what its steps are for.
      guide: the family, over this target.
      family: the same with its parameters in a flat vector.
    """

    words, stage = "a conditionally structured Gaussian", "hyperparameters"

    def __init__(self, problem: Problem, number: int, before: Solution, goes_on: bool = True):
        """Get ready to go on from `before`, a Gaussian, fitted to target `number` of the problem; or to end with it."""
        super().__init__(problem, number, before)
        self._goes_on, self._normal = goes_on, self._gaussian(before)
        self.draws = self.asked or self._enough()
        self.guide, self.family = self._made()
        self._noise = self._whitened(host_generator(self.raw, "conditional"))
        self.first = Climb(np.zeros(sum(self.family.sizes)), (), np.inf)

    def _gaussian(self, before: Solution) -> tuple[np.ndarray, np.ndarray]:
        """Mean and factor of the Gaussian that it goes on from."""
        guide, phi = cast(Gaussian, before.guide), np.asarray(before.phi, np.float64)
        return guide.loc(phi), np.asarray(guide.factor(phi))

    def _enough(self) -> int:
        """How many draws there are, where no number was asked for."""
        return max(MIN_DRAWS, DRAWS_A_DIM * self.dim)

    def _whitened(self, rng: np.random.Generator) -> np.ndarray:
        """So many of them."""
        return whitened_draws(rng, self.draws, self.dim)

    def _made(self) -> tuple[Any, Any]:
        """The guide over the target, and its family around the Gaussian."""
        family = Family.around(*hyperparameters_of(self.target), self._normal)
        return ConditionallyStructured().over(self.target), family

    def climbed(self, watch: Watch) -> tuple[Solution, np.ndarray]:
        """The solution at the end, and its parameters."""
        with np.errstate(all="ignore"):  # what is not finite only shortens a step
            climb, cut = last(self._steps(), self.first, watch, self._progress)
        return self._solution(climb._replace(reason=cut) if cut else climb), climb.x

    def cut_short(self, why: str) -> Solution:
        """The family where it begins, ended from outside before its first step."""
        return self._solution(self.first._replace(reason=why))

    def at_start(self) -> Solution:
        """The Gaussian itself as a member of the family, after what ended its own fit."""
        return dataclasses.replace(self._solution(self.first), status=self.before.status)

    def compared(self, x: np.ndarray) -> Gain:
        """What is gained over the Gaussian, on common new draws."""
        gains, weights = list[float](), list[tuple[np.ndarray, np.ndarray]]()
        for number in range(SETS):
            noise = fresh_draws(host_generator(self.raw, f"conditional, compared {number}"), self.draws // 2, self.dim)
            rich, plain = self._log_weights(x, noise), self._plain(noise)
            gains.append(float(np.mean(rich - plain)))
            weights.append((rich, plain))
        # A better bound whose weights vary more has fitted its draws, or made a tail too light.
        sds = np.std(np.concatenate(weights, axis=1), axis=1)
        return Gain(Estimate.of(gains), float(sds[0] / sds[1]))

    def _plain(self, noise: np.ndarray) -> np.ndarray:
        """The same of the Gaussian."""
        return self._log_weights(self.first.x, noise)

    def _log_weights(self, x: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """`log p - log q` at draws, `(draws,)`, without the normals' constant."""
        z, log_det = self.family.bent(x, noise)
        return self.evaluate(z)[0] + log_det + (noise**2).sum(axis=1) / 2

    def _steps(self) -> Any:
        preconditioner, family, bounds = self.family.preconditioner, self.family, ()

        def negated(x: np.ndarray, searches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            value, gradient = family.bound(self.evaluate, x[0], self._noise)
            return -np.array([value]), -gradient[None]

        # No scale changes by more than e in one step.
        longest = lbfgs.no_longer_than(1.0, slice(family.dim, None))
        steps = lbfgs.descend(
            negated, self.first.x[None], lambda x, _: preconditioner[None], self.rounding, ENOUGH, STEPS, longest
        )
        at = next(steps)
        while len(at.going):
            bounds = (*bounds, -float(at.value[0]))
            yield Climb(at.x[0], bounds, float(at.decrement[0]))
            at = next(steps)
        climb = Climb(at.x[0], bounds, float(at.decrement[0]))
        reason = "stuck" if at.stuck[0] else "converged" if climb.decrement <= ENOUGH else "capped"
        return climb._replace(reason=reason, draw_noise=self._draw_noise(at, preconditioner))

    def _draw_noise(self, at: lbfgs.Minima, preconditioner: np.ndarray) -> float:
        """How far other draws would move a mean, in sds, or a log sd, at the worst."""
        # By the curvature met on the way, and all parameters at once: they make up for one another.
        moves, (mean, sd) = [], self._moments(at.x[0])
        for number in range(2):
            rng = host_generator(self.raw, f"conditional, looked {number}")
            slope = -self.family.bound(self.evaluate, at.x[0], self._whitened(rng))[1] - at.gradient[0]
            there = self._moments(at.x[0] + at.newton(slope[None], preconditioner[None], np.zeros(1, int))[0])
            moves.append([(there[0] - mean) / sd, np.log(there[1] / sd)])
        return float(np.nan_to_num(np.sqrt(np.mean(np.square(moves), axis=0)).max(), nan=np.inf, posinf=np.inf))

    def _moments(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and sd of each coordinate, by the same few draws whatever the parameters."""
        z, _ = self.family.bent(x, self._noise[:LOOKED])
        return z.mean(axis=0), z.std(axis=0)

    def spent(self, solution: Solution, *others: Solution) -> Solution:
        """Together with what the family asked for by a program of its own."""
        solution = super().spent(solution, *others)
        gradients = solution.status.gradients + self.family.gradients
        return dataclasses.replace(solution, status=dataclasses.replace(solution.status, gradients=gradients))

    def _phi(self, climb: Climb) -> dict[str, Any]:
        return self.family.phi(climb.x, self.density.dtype)

    def _progress(self, climb: Climb) -> Progress:
        return self.progress(self._phi(climb), self._bounds(climb), self.stage)

    def _bounds(self, climb: Climb) -> list[float]:
        return [bound + self.dim * NORMAL_ENTROPY for bound in climb.bounds]

    def _solution(self, climb: Climb) -> Solution:
        status = ended(
            climb.reason, climb.decrement, climb.draw_noise, f"{self.draws} fixed draws", f" of {self.words}"
        )
        return self.solution(self.guide, self._phi(climb), self._bounds(climb), status)


def solve_conditionally_structured(problem: Problem, watch: Watch = Watch()) -> list[Solution]:
    """Fit a conditionally structured Gaussian to each target, from the full-rank one.

    Raises:
      ModelError: fixed draws are asked for on which there is no maximum.
    """
    return solved_from_full_rank(problem, watch, Search)


def solved_from_full_rank(problem: Problem, watch: Watch, search_of: type[Search]) -> list[Solution]:
    """Full rank to each target, and from there a search; where the one was cut short, its Gaussian in the family."""
    check_full_rank(problem.settings, problem.dim)

    def go_on(number: int, before: Solution, watch: Watch) -> Solution:
        return search_of(problem, number, before).climbed(watch)[0]

    def as_it_is(before: Solution) -> Solution:
        return search_of(problem, 0, before, goes_on=False).at_start()

    return one_by_one(solve_full_rank(problem, watch), watch, go_on, as_it_is)
