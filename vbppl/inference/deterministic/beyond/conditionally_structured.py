"""A conditionally structured Gaussian on fixed draws: all its parameters climb together, by L-BFGS.

The guide (`guides/conditionally_structured`) is, with its coordinates in the order drivers `g`, driven `x`, rows `r`,

    t = (g, exp(a) x + B (g^2 - 1), r),  a = 4 tanh(A g / 4),       y = L t,
    z_j = loc_j + s_j T(y_j / s_j)  for drivers and driven,  z_j = loc_j + y_j  for rows,

with `s_j = |L_j|`, the norm of a row of `L`, and the sinh-arcsinh bend `T`. The bound is

    J = mean [l(z) + sum a + sum log T'] + log |det L|,

a smooth function on fixed draws. The density's gradient at `z` comes from the one compiled evaluation; from there to
the parameters it is a few lines of algebra, backwards (`Family.bound`).

Parameters are in units of the Gaussian that it starts from: `loc = loc_0 + L_0 m`, `L = L_0 M`, `M` lower triangular
with a positive diagonal. So L-BFGS begins with a metric that is right for a Gaussian density, whatever its scales.

Draws are whitened, at least four a dimension, and antithetic. The noise of rows is then orthogonal to that of the
hyperparameters and, as an odd function, to their squares and products: `L` cannot fit the draws' chance correlations
with what the conditional layer makes of these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np

from vbppl.core.keys import host_generator
from vbppl.core.numerics import lbfgs
from vbppl.core.numerics.draws import fresh_draws, whitened_draws
from vbppl.core.watch import Watch, last
from vbppl.guides.gaussian import FullRank, Gaussian
from vbppl.guides.layers.conditional import MOST as MOST_LOG_SD
from vbppl.guides.layers.conditionally_structured import ConditionallyStructured, hyperparameters_of
from vbppl.guides.layers.sinh_arcsinh import log_cosh
from vbppl.inference.bound import Estimate
from vbppl.inference.deterministic.continued import Continued, one_by_one
from vbppl.inference.deterministic.fixed_draws import solve_full_rank
from vbppl.inference.deterministic.problem import Problem, check_full_rank
from vbppl.inference.deterministic.state import ended
from vbppl.inference.solution import Progress, Solution

FEWEST, A_DIMENSION = 1024, 4  # draws, and for each dimension
# Of L-BFGS, and nats still to gain: too few by what it has met of the curvature. At 1e-3 a density of the family was
# left .014 nats away, at 1e-4 .001, for a third more gradients.
STEPS, ENOUGH = 40, 1e-4
SETS = 4  # of other draws, by which the draws' noise is told, and the gain

# `(points, dim)` to log densities `(points,)` and gradients `(points, dim)`.
Evaluate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Parts(NamedTuple):
    """The parameters by name, in the guide's order; or their gradients."""

    loc: np.ndarray
    factor: np.ndarray
    slope: np.ndarray
    bow: np.ndarray
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
    """Where the parameters are in a flat vector, and what they make of noise: `order`, `drivers`, `hypers` counted."""

    order: np.ndarray
    drivers: int
    hypers: int
    loc: np.ndarray
    factor: np.ndarray

    @classmethod
    def around(cls, places: tuple[tuple[int, ...], ...], normal: tuple[np.ndarray, np.ndarray]) -> Family:
        """In units of a normal `(loc, factor)`; `places` are those of drivers, driven, rows."""
        order = np.array([place for some in places for place in some], int)
        # Triangular in this order, so that what a driver is depends on its own noise and on drivers' alone.
        lower = FullRank().factor(FullRank().of(normal[0][order], normal[1][order]))
        return cls(order, len(places[0]), len(places[0]) + len(places[1]), normal[0][order], np.asarray(lower))

    @property
    def dim(self) -> int:
        """Of the space."""
        return len(self.loc)

    @property
    def sizes(self) -> list[int]:
        """How many numbers there are of each kind: means, log diagonal, what is below it, slopes, bows, bends."""
        pairs = (self.hypers - self.drivers) * self.drivers
        return [self.dim, self.dim, self.dim * (self.dim - 1) // 2, pairs, pairs, 3 * self.hypers]

    @property
    def metric(self) -> np.ndarray:
        """An inverse Hessian's diagonal, right where the density is the normal itself."""
        return np.repeat([1.0, 0.5, 1.0, 0.5, 0.5, 1.0], self.sizes)

    def parts(self, x: np.ndarray) -> Parts:
        """The parameters."""
        move, diagonal, below, slope, bow, bend = np.split(x, np.cumsum(self.sizes)[:-1])
        inner, shape = np.diag(np.exp(diagonal)), (self.hypers - self.drivers, self.drivers)
        inner[np.tril_indices(self.dim, -1)] = below
        loc, factor = self.loc + self.factor @ move, self.factor @ inner
        return Parts(loc, factor, slope.reshape(shape), bow.reshape(shape), bend.reshape(3, self.hypers))

    def gradient(self, x: np.ndarray, by: Parts) -> np.ndarray:
        """The gradient in `x` from that in the parameters."""
        diagonal = np.exp(x[self.dim : 2 * self.dim])
        # Above its diagonal `M` is zero, whatever its slope there.
        inner = self.factor.T @ by.factor
        whole = [self.factor.T @ by.loc, np.diagonal(inner) * diagonal, inner[np.tril_indices(self.dim, -1)]]
        return np.concatenate([*whole, by.slope.ravel(), by.bow.ravel(), by.bend.ravel()])

    def log_weights(self, evaluate: Evaluate, x: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """`log p - log q` at draws, `(draws,)`, without the normals' constant."""
        there = self.moved(self.parts(x), noise)
        return evaluate(there.z)[0] + there.log_det + (noise**2).sum(axis=1) / 2

    def moved(self, at: Parts, noise: np.ndarray) -> Moved:
        """Noise on its way to `z`."""
        drivers, hypers = self.drivers, self.hypers
        log_sd = MOST_LOG_SD * np.tanh(noise[:, :drivers] @ at.slope.T / MOST_LOG_SD)
        t = noise.copy()
        t[:, drivers:hypers] *= np.exp(log_sd)
        t[:, drivers:hypers] += (noise[:, :drivers] ** 2 - 1) @ at.bow.T
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
        drivers, hypers, count, bent = self.drivers, self.hypers, len(noise), there.bent
        # Each `by_...` is the slope of every draw's term; a row of `L` moves `s` besides what it moves in `y`.
        g, x, v, sd = noise[:, :drivers], noise[:, drivers:hypers], there.v, there.sd
        by_hyper, root, tanh = by_z[:, :hypers], np.sqrt(1 + v**2), np.tanh(bent.scaled)
        slope, cosh = np.exp(bent.log_slope), np.exp(log_cosh(bent.scaled))
        by_skew = by_hyper * sd * cosh + tanh / bent.tail
        by_tail = by_hyper * sd * (bent.value - bent.tail * bent.scaled * cosh) - tanh * bent.scaled
        by_v = by_hyper * sd * slope + tanh / (bent.tail * root) - v / root**2
        by_sd = (by_hyper * bent.value - by_v * v / sd).mean(axis=0)
        by_y = np.concatenate([by_v / sd, by_z[:, hypers:]], axis=1)
        by_factor = by_y.T @ there.t / count + np.diag(1 / np.diagonal(at.factor))
        by_factor[:hypers] += (by_sd / sd)[:, None] * at.factor[:hypers]
        by_t = (by_y @ at.factor)[:, drivers:hypers]
        by_log_sd = (by_t * np.exp(there.log_sd) * x + 1) * (1 - (there.log_sd / MOST_LOG_SD) ** 2)
        tails = (by_tail * bent.below).mean(axis=0), (by_tail * ~bent.below).mean(axis=0)
        bend = np.stack([by_skew.mean(axis=0), *tails])
        return Parts(by_z.mean(axis=0), by_factor, by_log_sd.T @ g / count, by_t.T @ (g**2 - 1) / count, bend)

    def phi(self, x: np.ndarray, dtype: Any) -> dict[str, Any]:
        """The parameters as the guide has them."""
        at = self.parts(x)
        sd = np.linalg.norm(at.factor[: self.hypers], axis=1)
        bend = np.concatenate([np.stack([at.loc[: self.hypers], np.log(sd)]), at.bend])
        affine = FullRank().of(at.loc, at.factor)
        layers = ({"slope": at.slope.astype(dtype), "bow": at.bow.astype(dtype)}, affine.astype(dtype))
        return {"base": np.zeros((2, self.dim), dtype), "layers": (*layers, bend.astype(dtype))}


class Climb(NamedTuple):
    """Where a fit stands: the parameters, the bounds so far, without the constant, and the nats still to gain."""

    x: np.ndarray
    bounds: tuple[float, ...]
    decrement: float
    draw_noise: float = np.nan
    reason: str = "capped"


class Gain(NamedTuple):
    """What the bound gains, and how many times as much log weights then vary."""

    bound: Estimate
    spread: float

    def __str__(self) -> str:
        return f"{self.bound.in_words}, log weights vary {self.spread:.2f} times as much"

    def is_sure(self, least: float) -> bool:
        """Is it so much, beyond two standard errors, and do weights not vary more?"""
        return self.bound.is_sure(least) and self.spread <= 1


class Search(Continued):
    """From a Gaussian to a conditionally structured one: what one fit works with. Nothing here changes but counts."""

    def __init__(self, problem: Problem, number: int, before: Solution):
        """Get ready to go on from `before`, a Gaussian, fitted to target `number` of the problem."""
        super().__init__(problem, number, before)
        guide = cast(Gaussian, before.guide)
        phi = np.asarray(before.phi, np.float64)
        self.family = Family.around(hyperparameters_of(self.target), (guide.loc(phi), np.asarray(guide.factor(phi))))
        self.draws = self.asked or max(FEWEST, A_DIMENSION * self.dim)
        self._noise = whitened_draws(host_generator(self.raw, "conditional"), self.draws, self.dim)
        self.first = Climb(np.zeros(sum(self.family.sizes)), (), np.inf)

    def climbed(self, watch: Watch) -> tuple[Solution, np.ndarray]:
        """The solution at the end, and its parameters."""
        with np.errstate(all="ignore"):  # what is not finite only shortens a step
            climb, cut = last(self._steps(), self.first, watch, self._progress)
        return self._solution(climb._replace(reason=cut) if cut else climb), climb.x

    def at_start(self) -> Solution:
        """The Gaussian itself as a member of the family, after what ended its own fit."""
        return dataclasses.replace(self._solution(self.first), status=self.before.status)

    def compared(self, x: np.ndarray) -> Gain:
        """What is gained over the Gaussian, on common new draws."""
        gains, weights = list[float](), list[tuple[np.ndarray, np.ndarray]]()
        for number in range(SETS):
            rng = host_generator(self.raw, f"conditional, compared {number}")
            noise = fresh_draws(rng, self.draws // 2, self.dim)
            rich, plain = (self.family.log_weights(self.evaluate, at, noise) for at in (x, self.first.x))
            gains.append(float(np.mean(rich - plain)))
            weights.append((rich, plain))
        # A better bound whose weights vary more has fitted its draws, or made a tail too light.
        sds = np.std(np.concatenate(weights, axis=1), axis=1)
        return Gain(Estimate.of(gains), float(sds[0] / sds[1]))

    def _steps(self) -> Any:
        metric, family = self.family.metric, self.family

        def negated(x: np.ndarray, lanes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            value, gradient = family.bound(self.evaluate, x[0], self._noise)
            return -np.array([value]), -gradient[None]

        # No scale changes by more than e in one step.
        longest = lbfgs.no_longer_than(1.0, slice(self.dim, None))
        bounds = ()
        steps = lbfgs.descend(
            negated, self.first.x[None], lambda x: metric[None], self.rounding, ENOUGH, STEPS, longest
        )
        at = next(steps)
        while len(at.going):
            bounds = (*bounds, -float(at.value[0]))
            yield Climb(at.x[0], bounds, float(at.decrement[0]))
            at = next(steps)
        climb = Climb(at.x[0], bounds, float(at.decrement[0]))
        reason = "stuck" if at.stuck[0] else "converged" if climb.decrement <= ENOUGH else "capped"
        return climb._replace(reason=reason, draw_noise=self._draw_noise(at, metric))

    def _draw_noise(self, at: lbfgs.Minima, metric: np.ndarray) -> float:
        """How far other draws would move a mean, in sds, or a log sd, at the worst."""
        # The curvature met on the way tells how far a slope that is not zero there would move the optimum.
        moves = []
        for number in range(2):
            rng = host_generator(self.raw, f"conditional, looked {number}")
            noise = whitened_draws(rng, self.draws, self.dim)
            slope = -self.family.bound(self.evaluate, at.x[0], noise)[1] - at.gradient[0]
            moves.append(at.newton(slope[None], metric[None], np.zeros(1, int))[0][: 2 * self.dim])
        return float(np.sqrt(np.mean(np.square(moves), axis=0)).max())

    def _phi(self, climb: Climb) -> dict[str, Any]:
        return self.family.phi(climb.x, self.density.dtype)

    def _progress(self, climb: Climb) -> Progress:
        return self.progress(self._phi(climb), self._bounds(climb), "hyperparameters")

    def _bounds(self, climb: Climb) -> list[float]:
        return [bound + self.dim / 2 * (1 + np.log(2 * np.pi)) for bound in climb.bounds]

    def _solution(self, climb: Climb) -> Solution:
        draws, of = f"{self.draws} fixed draws", " of a conditionally structured Gaussian"
        status = ended(climb.reason, climb.decrement, climb.draw_noise, draws, of)
        return self.solution(ConditionallyStructured().over(self.target), self._phi(climb), self._bounds(climb), status)


def solve_conditionally_structured(problem: Problem, watch: Watch = Watch()) -> list[Solution]:
    """Fit a conditionally structured Gaussian to each target, from the full-rank one.

    Raises:
      ModelError: fixed draws are asked for on which there is no maximum.
    """
    check_full_rank(problem.settings, problem.dim)

    def go_on(number: int, before: Solution, watch: Watch) -> Solution:
        return Search(problem, number, before).climbed(watch)[0]

    def as_it_is(before: Solution) -> Solution:
        return Search(problem, 0, before).at_start()

    return one_by_one(solve_full_rank(problem, watch), watch, go_on, as_it_is)
