"""The low-rank fit: the directions that a mean-field optimum lacks, and the best normal with these.

The fit goes in rounds of two parts:

1. *Directions* (`lanczos.spectrum`): the eigenvectors of the expected curvature that gain most, within the span of
   some Lanczos vectors and of the directions before.
2. *The rest* (`Search`): L-BFGS on fixed draws, over `loc` in units of the guide itself, `log sd` and `c`.

The directions are not free in the second part, and this is what makes the fit sound. On `draws < 2 dim` fixed
antithetic draws there are directions along which no draw lies; a free direction would turn there and be stretched
without end, at any rank. Here directions are chosen by the curvature at other draws, and the fixed draws are then
made to fit *them* (`lanczos.matched_draws`): second moment 1 along each, none between them and the rest of the
noise. This is done for every direction found that is worth its place, whether or not the rank has room for it: of
one that is stiff and left to chance the diagonal would fit the draws' gaps.

What the directions do in the second part is to follow the scales. A wide direction (`c > 0`) stays what it is in
`z`; a narrow one (`c < 0`) stays what it is in the precision of `z`. So a diagonal plus low rank, as a covariance or
as a precision, is met in one round or two; with directions held fixed in units of `sd`, twelve left 140 nats.

Rounds end when turning the directions would gain little. There are four times as many draws while these cost
more than that: their cost, in nats, is that of the Newton step that other sets of draws would make.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator

import jax.numpy as jnp
import numpy as np

from vbppl.core.keys import host_generator
from vbppl.core.numerics import lbfgs
from vbppl.core.numerics.draws import fresh_draws, whitened_draws
from vbppl.core.numerics.lanczos import GAIN, Density, Normal, Spectrum, gain, matched_draws, spectrum
from vbppl.core.special import NORMAL_ENTROPY
from vbppl.core.watch import Watch, last
from vbppl.guides.low_rank import LowRank, pack
from vbppl.inference.bound import Estimate
from vbppl.inference.deterministic.continued import Continued, one_by_one
from vbppl.inference.deterministic.fixed_draws import solve_mean_field
from vbppl.inference.deterministic.problem import DRAWS_A_DIRECTION, Problem, check_low_rank
from vbppl.inference.deterministic.state import CUT
from vbppl.inference.solution import Progress, Solution, Status
from vbppl.target.target import parameterisations_of

SPENT = 0.01  # part of what turning gained that may be left, while there are rounds to come
LOSS = 0.01  # part of what the directions gain that the draws may cost
FIRST_RANK, MAX_RANK = 8, 64
ROUNDS, STEPS, ROUGHLY = 16, 200, 1e-4
KRYLOV = 24  # Lanczos vectors beyond two for each direction
PROBES = 8  # draws for the curvature
STEEPEST = 1e-3  # the first guess of a stretch trusts no curvature below
MIN_DRAWS, MAX_DRAWS = 64, 2048
DRAW_NOISE = 0.1  # sds
SETS = 4
FEW_SETS, FRESH_SETS, FRESH_DRAWS = 4, 8, 128
SURE = 5.0  # standard errors

Function = Callable[[np.ndarray], tuple[float, np.ndarray]]


def bound_on(density: Density, start: Normal, noise: np.ndarray) -> Function:
    """The negated bound as a function of `(x, log sd, c)` with `loc = start.loc + L_start x`, up to a constant."""

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        at, spanning, upper = _moved(start, x)
        spread = at.factor_times(noise)
        log_p, gradient = density(at.loc + spread)
        scaled = np.exp(at.log_sd) * gradient
        out, back, widened = noise @ at.directions, scaled @ at.directions, np.expm1(at.stretch)
        # What the bound would gain if the directions were turned, and how `log sd` turns them: QR, backwards.
        slope = (scaled.T @ (out * widened) + noise.T @ (back * widened)) / len(noise)
        inner = -slope.T @ at.directions
        slope = slope + at.directions @ (np.tril(inner) + np.tril(inner, -1).T)
        turning = (np.linalg.solve(upper, slope.T).T * spanning) @ _follow(start)
        parts = [
            start.transposed_factor_times(gradient.mean(axis=0)),
            (gradient * spread).mean(axis=0) + 1 + turning,
            (back * out).mean(axis=0) * np.exp(at.stretch) + 1,
        ]
        return -float(log_p.mean() + at.log_det), -np.concatenate(parts)

    return value_and_gradient


def _moved(start: Normal, x: np.ndarray) -> tuple[Normal, np.ndarray, np.ndarray]:
    """The normal at `(x, log sd, c)`; the directions before they are made orthonormal; and `R` of that `Q R`."""
    dim = len(start.loc)
    loc, log_sd, stretch = start.loc + start.factor_times(x[:dim]), x[dim : 2 * dim], x[2 * dim :]
    spanning = np.exp(_follow(start) * (log_sd - start.log_sd)[:, None]) * start.directions
    directions, upper = np.linalg.qr(spanning)
    return Normal(loc, log_sd, directions, stretch), spanning, upper


def _follow(start: Normal) -> np.ndarray:
    """How directions follow the scales: -1 if `sd u` stays what it is (a wide one), 1 if `u / sd` does."""
    return np.where(start.stretch < 0, 1.0, -1.0)


@dataclasses.dataclass(frozen=True)
class Climb:
    """A low-rank fit on the way: a value; a round makes a new one.

    Attributes:
      at: where it stands.
      base: the fixed draws, before they are matched to directions, `(draws, dim)`.
      limit: how many directions there is room for.
      bound: on the fixed draws, in nats, up to a constant.
      decrement: the nats that a Newton step with these directions would still gain.
      turn: the nats that turning the directions would still gain.
      loss: the nats that the fixed draws cost, by how far others would move the optimum.
      draw_noise: how far they would, at the worst mean (in sds) or log sd.
      reason: "converged" or "capped".
      gradients: evaluations of the density so far.
      bounds: after each round, in nats.
      gained: the nats above the mean field before it, on fresh draws, with its standard error, once it has ended.
    """

    at: Normal
    base: np.ndarray
    limit: int
    bound: float = 0.0
    decrement: float = 0.0
    turn: float = np.inf
    loss: float = 0.0
    draw_noise: float = 0.0
    reason: str = "capped"
    gradients: int = 0
    bounds: tuple[float, ...] = ()
    gained: tuple[float, float] = (np.inf, 0.0)

    @property
    def draws(self) -> int:
        """How many fixed draws there are."""
        return len(self.base)


class Search:
    """What the rounds of one fit work with; nothing here changes but the generator and the count of gradients."""

    def __init__(
        self,
        density: Density,
        start: Normal,
        rank: int | None,
        rng: np.random.Generator,
        rounding: Callable[[float], float],
        draws: int | None = None,
    ):
        """Get ready; `draws` is None for as many as it takes, `rank` for as many directions as are worth it."""
        self._density, self.start, self.rank, self.rng, self.rounding = density, start, rank, rng, rounding
        self.draws, self.gradients = draws, 0
        self.most_draws = draws or MAX_DRAWS
        self.most_rank = min(rank or MAX_RANK, self.most_draws // DRAWS_A_DIRECTION, self.dim)
        # The order in which the generator is asked is a part of what a seed means.
        base = whitened_draws(rng, draws or MIN_DRAWS, self.dim)
        self.probes = whitened_draws(rng, PROBES, self.dim)
        self.first = Climb(start, base, min(rank or FIRST_RANK, self.most_rank))

    @property
    def dim(self) -> int:
        """Of the density."""
        return len(self.start.loc)

    def density(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The density, counted, in float64."""
        self.gradients += len(z)
        log_p, gradient = self._density(z)
        return np.asarray(log_p, np.float64), np.asarray(gradient, np.float64)

    def rounds(self) -> Generator[Climb, None, Climb]:
        """Each round turns the directions and then maximises over all the rest, until turning gains little."""
        climb = self.first
        for _ in range(ROUNDS):
            steps = KRYLOV + 2 * climb.limit - len(climb.at.stretch)
            found = spectrum(self.density, climb.at, self.probes, steps, self.rng)
            rank = climb.limit if self.rank else max(min(climb.limit, found.useful), 1)
            climb = dataclasses.replace(climb, turn=float(gain(found.curvature[:rank]).sum() - found.worth))
            grow = found.useful >= climb.limit < self.most_rank
            noisy = climb.loss > max(GAIN, LOSS * found.worth) or climb.draw_noise > DRAW_NOISE
            noisy = noisy and climb.draws < self.most_draws
            near = climb.decrement <= max(ROUGHLY, self.rounding(climb.bound))
            if climb.turn <= GAIN and near and not grow and not noisy:
                return self._compared(dataclasses.replace(climb, reason="converged"))
            # While turning gains more than the draws cost, more of them would only make the rounds dearer.
            if noisy and climb.turn <= max(GAIN, climb.loss / 4):
                climb = self._with_draws(climb, 4 * climb.draws)
            climb = self._climbed(self._with_draws(climb, DRAWS_A_DIRECTION * rank), found, rank)
            limit = min(2 * climb.limit, self.most_rank) if grow else climb.limit
            climb = dataclasses.replace(climb, limit=limit, gradients=self.gradients)
            yield climb
        return self._compared(climb)

    def _compared(self, climb: Climb) -> Climb:
        """What it has gained over the start, on draws that the fit has never seen."""
        gained = gain_over(self.density, climb.at, self.start, self.rng)
        return dataclasses.replace(climb, gained=gained, gradients=self.gradients)

    def _climbed(self, climb: Climb, found: Spectrum, rank: int) -> Climb:
        """Maximise over everything but the choice of directions, and ask what the draws cost."""
        stretch = -np.log(np.maximum(found.curvature[:rank], STEEPEST)) / 2
        start = Normal(climb.at.loc, climb.at.log_sd, found.directions[:, :rank], stretch)
        match = found.directions[:, : max(rank, min(found.useful, climb.draws // DRAWS_A_DIRECTION))]
        tolerance = max(ROUGHLY, SPENT * climb.turn if climb.turn > GAIN else 0.0)
        preconditioner = np.concatenate([np.ones(self.dim), np.full(self.dim + rank, 0.5)])
        x = np.concatenate([np.zeros(self.dim), start.log_sd, stretch])
        function = bound_on(self.density, start, matched_draws(climb.base, match))
        end = self._minimise(function, x, preconditioner, tolerance)
        at, bound = _moved(start, end.x[0])[0], -float(end.value[0])
        loss, draw_noise = self._cost_of_draws(climb.draws, at, start, end, match, preconditioner)
        there = {"at": at, "bound": bound, "decrement": float(end.decrement[0]), "loss": loss, "draw_noise": draw_noise}
        bounds = (*climb.bounds, bound + self.dim * NORMAL_ENTROPY)
        return dataclasses.replace(climb, bounds=bounds, **there)

    def _minimise(
        self, function: Function, x: np.ndarray, preconditioner: np.ndarray, tolerance: float
    ) -> lbfgs.Minima:
        """As a batch of one search."""

        def one(x: np.ndarray, searches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            found = [function(row) for row in x]
            return np.array([value for value, _ in found]), np.array([slope for _, slope in found]).reshape(x.shape)

        def rounding(value: np.ndarray) -> np.ndarray:
            return np.array([self.rounding(float(v)) for v in value])

        # No scale and no stretch changes by more than e^2 in one step.
        longest = lbfgs.no_longer_than(2.0, slice(self.dim, None))
        return lbfgs.minimise(
            one, x[None], lambda x, _: np.broadcast_to(preconditioner, x.shape), rounding, tolerance, STEPS, longest
        )

    def _cost_of_draws(
        self, draws: int, at: Normal, start: Normal, end: lbfgs.Minima, match: np.ndarray, preconditioner: np.ndarray
    ) -> tuple[float, float]:
        """What the fixed draws cost, in nats and in sds: other sets would move the optimum by a Newton step."""
        losses, moves = [], []
        for _ in range(SETS):
            # Twice as many: what sets of one size have in common would not show between them.
            noise = matched_draws(whitened_draws(self.rng, 2 * draws, self.dim), match)
            slope = bound_on(self.density, start, noise)(end.x[0])[1] - end.gradient[0]
            step = end.newton(slope[None], preconditioner[None], np.zeros(1, int))[0]
            losses.append(-step @ slope / 2)
            moves.append(np.append(start.factor_times(step[: self.dim]) / at.sd, step[self.dim : 2 * self.dim]))
        loss = float(np.mean(losses)) / 1.5  # half the variance more is that of the other sets
        return loss, float(np.sqrt(np.mean(np.square(moves), axis=0)).max())

    def _with_draws(self, climb: Climb, draws: int) -> Climb:
        """The same on no fewer draws than so many."""
        if draws <= climb.draws:
            return climb
        base = whitened_draws(self.rng, min(draws + draws % 2, self.most_draws), self.dim)
        return dataclasses.replace(climb, base=base)


def gain_over(density: Density, at: Normal, base: Normal, rng: np.random.Generator) -> Estimate:
    """How far the bound of `at` lies above that of `base`, in nats, with its standard error.

    Both see the same fresh draws, which the fit has never seen; the error is taken between sets. There are no more
    sets once it is beyond doubt on which side of nothing the gain lies.
    """
    gains = list[float]()
    while len(gains) < FEW_SETS or (len(gains) < FRESH_SETS and abs(np.mean(gains)) < SURE * Estimate.of(gains).se):
        noise = fresh_draws(rng, FRESH_DRAWS, len(at.loc))
        height, below = (density(q.loc + q.factor_times(noise))[0].mean() + q.log_det for q in (at, base))
        gains.append(height - below)
    return Estimate.of(gains)


def solve_low_rank(problem: Problem, watch: Watch = Watch()) -> list[Solution]:
    """Fit a low-rank guide to each target: mean field on few draws for all, then directions for each.

    Raises:
      ModelError: fixed draws are asked for on which the guide cannot be fitted.
    """
    check_low_rank(problem.settings, problem.guide.rank)
    few = dataclasses.replace(problem.settings, draws=problem.settings.draws or MIN_DRAWS)

    def go_on(number: int, before: Solution, watch: Watch) -> Solution:
        return _with_directions(problem, number, before, watch)

    def as_it_is(before: Solution) -> Solution:
        return _packed(before, Normal.mean_field(*np.asarray(before.phi, np.float64)), problem.guide.rank)

    return one_by_one(solve_mean_field(dataclasses.replace(problem, settings=few), watch), watch, go_on, as_it_is)


def _with_directions(problem: Problem, number: int, before: Solution, watch: Watch) -> Solution:
    """Add directions; if on fresh draws they gain nothing, finish mean field."""
    run = Continued(problem, number, before)

    def progress(climb: Climb) -> Progress:
        return run.progress(_phi(climb.at), climb.bounds, "low rank")

    first, rng = Normal.mean_field(*np.asarray(before.phi, np.float64)), host_generator(run.raw, "low rank")
    search = Search(run.evaluate, first, problem.guide.rank, rng, run.rounding, run.asked)
    climb, cut = last(search.rounds(), search.first, watch, progress)
    if cut:
        climb = dataclasses.replace(climb, reason=cut)
    gained, se = climb.gained
    if gained > max(2 * se, GAIN):
        return run.solution(LowRank(problem.guide.rank), _phi(climb.at), climb.bounds, _ended(climb, before.status))
    return _without_directions(problem, run, climb, watch)


def _without_directions(problem: Problem, run: Continued, climb: Climb, watch: Watch) -> Solution:
    """Mean field to the end, from where it was left."""
    before = run.before
    start, parameterisations = np.asarray(before.phi, np.float64)[None], parameterisations_of(before.target)[None]
    alone = Problem([before.target], problem.settings, parameterisations, start, [run.raw])
    (after,) = solve_mean_field(alone, watch)
    gained, se = climb.gained
    said = f"directions would gain {gained:.2g} ± {se:.1g} nats and were left out; mean field is {after.status.text}"
    status = dataclasses.replace(after.status, text=said)
    notes = (*before.notes, *after.notes)
    told = dataclasses.replace(after, status=status, other_modes=before.other_modes, notes=notes)
    after = run.spent(told, after)
    return _packed(after, Normal.mean_field(*np.asarray(after.phi, np.float64)), problem.guide.rank)


def _ended(climb: Climb, before: Status) -> Status:
    """How a fit with directions ended."""
    turn, rank, (gained, se) = f"{climb.turn:.1g} nats to gain by turning", len(climb.at.stretch), climb.gained
    said = {
        "converged": f"at the optimum of rank {rank} ({turn}), {gained:.1f} ± {se:.1f} nats above the first mean field",
        "capped": f"out of rounds with {turn} the directions: not converged",
        **CUT,
    }[climb.reason]
    noise = np.inf if np.isnan(climb.draw_noise) else climb.draw_noise
    said += f"; {climb.draws} fixed draws (others would move the answer by {noise:.2g} sd, {climb.loss:.2g} nats)"
    end = {"reason": climb.reason, "converged": climb.reason == "converged", "text": said}
    return dataclasses.replace(before, **end, draw_noise=noise, decrement=climb.decrement)


def _packed(solution: Solution, at: Normal, rank: int | None) -> Solution:
    """The same with a low-rank guide at `at`."""
    return dataclasses.replace(solution, guide=LowRank(rank), phi=_phi(at))


def _phi(at: Normal) -> np.ndarray:
    """`phi` of the guide; without directions there is one, along which nothing is stretched."""
    directions = (at.stretch, at.directions.T) if len(at.stretch) else (np.zeros(1), np.ones((1, len(at.loc))))
    return pack(at.loc, at.log_sd, *directions).astype(jnp.result_type(float))
