"""The low-rank fit: the directions that a mean-field optimum lacks, and the best normal with these.

The fit goes in rounds of two parts:

1. *Directions* (`directions.look`): the eigenvectors of the expected curvature that gain most, within the span of
   some Lanczos vectors and of the directions before.
2. *The rest* (`Climb`): L-BFGS on fixed draws, over `loc` in units of the guide itself, `log sd` and `c`.

The directions are not free in the second part, and this is what makes the fit sound. On `draws < 2 dim` fixed
antithetic draws there are directions along which no draw lies; a free direction would turn there and be stretched
without end, at any rank. Here directions are chosen by the curvature at other draws, and the fixed draws are then
made to fit *them* (`directions.matched_draws`): second moment 1 along each, none between them and the rest of the
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
import time
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.keys import host_generator
from vbppl.core.numerics import lbfgs
from vbppl.core.numerics.draws import fresh_draws, whitened_draws
from vbppl.core.numerics.lanczos import GAIN, Density, Normal, Spectrum, gain, matched_draws, spectrum
from vbppl.guides.gaussian import MeanField
from vbppl.guides.low_rank import LowRank, pack
from vbppl.inference.deterministic import fixed_draws
from vbppl.inference.deterministic.fixed_draws import Watch
from vbppl.inference.deterministic.problem import Deterministic, Problem
from vbppl.inference.solution import Progress, Solution, Status
from vbppl.target.batched import evaluate
from vbppl.target.target import Target

SPENT = 0.01  # part of what turning gained that may be left, while there are rounds to come
LOSS = 0.01  # part of what the directions gain that the draws may cost
FIRST_RANK, MOST_RANK = 8, 64
ROUNDS, STEPS, ROUGHLY = 16, 200, 1e-4
KRYLOV = 24  # Lanczos vectors beyond two for each direction
PROBES = 8  # draws for the curvature
STEEPEST = 1e-3  # the first guess of a stretch trusts no curvature below
FEWEST, MOST, DRAWS_A_DIRECTION = 64, 2048, 4
DRAW_NOISE = 0.1  # sds
SETS = 4
FRESH_SETS, FRESH_DRAWS = 8, 128

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


class Climb:
    """A low-rank fit on the way.

    Attributes:
      at: where it stands.
      bound: on the fixed draws, in nats, up to a constant.
      decrement: the nats that a Newton step with these directions would still gain.
      turn: the nats that turning the directions would still gain.
      loss: the nats that the fixed draws cost, by how far others would move the optimum.
      draw_noise: how far they would, at the worst mean (in sds) or log sd.
      reason: "converged" or "capped".
      draws: how many fixed draws there are.
      gradients: evaluations of the density.
    """

    def __init__(
        self,
        density: Density,
        start: Normal,
        rank: int | None,
        rng: np.random.Generator,
        rounding: Callable[[float], float],
        watch: Callable[[Climb], None] = lambda climb: None,
        draws: int | None = None,
    ):
        """Get ready; `draws` is None for as many as it takes, `rank` for as many directions as are worth it."""
        self._density, self.rng, self.rounding, self.watch = density, rng, rounding, watch
        dim = len(start.loc)
        self.draws, self.most_draws = draws or FEWEST, draws or MOST
        most_rank = self.most_draws // DRAWS_A_DIRECTION
        self.rank, self.most_rank = rank, min(rank or MOST_RANK, most_rank, dim)
        self.limit = min(rank or FIRST_RANK, self.most_rank)
        self.at, self.bound, self.decrement, self.turn = start, 0.0, 0.0, np.inf
        self.loss, self.draw_noise, self.reason, self.gradients = 0.0, 0.0, "capped", 0
        self.base = whitened_draws(rng, self.draws, dim)
        self.probes = whitened_draws(rng, PROBES, dim)

    def run(self) -> Climb:
        """Go to the end."""
        for _ in range(ROUNDS):
            steps = KRYLOV + 2 * self.limit - len(self.at.stretch)
            found = spectrum(self.density, self.at, self.probes, steps, self.rng)
            rank = self.limit if self.rank else max(min(self.limit, found.useful), 1)
            self.turn = float(gain(found.curvature[:rank]).sum() - found.worth)
            grow = found.useful >= self.limit < self.most_rank
            noisy = self.loss > max(GAIN, LOSS * found.worth) or self.draw_noise > DRAW_NOISE
            noisy = noisy and self.draws < self.most_draws
            near = self.decrement <= max(ROUGHLY, self.rounding(self.bound))
            if self.turn <= GAIN and near and not grow and not noisy:
                self.reason = "converged"
                return self
            if noisy and self.turn <= max(GAIN, self.loss / 4):
                self._more_draws(4 * self.draws)
            self._climb(found, rank)
            self.limit = min(2 * self.limit, self.most_rank) if grow else self.limit
        return self

    def density(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The density, counted, in float64."""
        self.gradients += len(z)
        log_p, gradient = self._density(z)
        return np.asarray(log_p, np.float64), np.asarray(gradient, np.float64)

    def _climb(self, found: Spectrum, rank: int) -> None:
        """Maximise over everything but the choice of directions, and ask what the draws cost."""
        dim = len(self.at.loc)
        self._more_draws(DRAWS_A_DIRECTION * rank)
        stretch = -np.log(np.maximum(found.curvature[:rank], STEEPEST)) / 2
        start = Normal(self.at.loc, self.at.log_sd, found.directions[:, :rank], stretch)
        match = found.directions[:, : max(rank, min(found.useful, self.draws // DRAWS_A_DIRECTION))]
        metric = np.concatenate([np.ones(dim), np.full(dim + rank, 0.5)])
        tolerance = max(ROUGHLY, SPENT * self.turn if self.turn > GAIN else 0.0)
        function = bound_on(self.density, start, matched_draws(self.base, match))
        x = np.concatenate([np.zeros(dim), start.log_sd, stretch])
        end = self._minimise(function, x, metric, tolerance)
        self.at, self.bound, self.decrement = _moved(start, end.x[0])[0], -float(end.value[0]), float(end.decrement[0])
        self._measure_draws(start, end, match, metric)
        self.watch(self)

    def _minimise(self, function: Function, x: np.ndarray, metric: np.ndarray, tolerance: float) -> lbfgs.Minima:
        """In a single lane."""
        dim = len(self.at.loc)

        def one(x: np.ndarray, lanes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            found = [function(row) for row in x]
            return np.array([value for value, _ in found]), np.array([slope for _, slope in found]).reshape(x.shape)

        def longest(x: np.ndarray, direction: np.ndarray) -> np.ndarray:
            """No scale and no stretch changes by more than e^2 in one step."""
            return 2 / np.maximum(np.abs(direction[:, dim:]).max(axis=1), 1e-300)

        def rounding(value: np.ndarray) -> np.ndarray:
            return np.array([self.rounding(float(v)) for v in value])

        return lbfgs.minimise(
            one, x[None], lambda x: np.broadcast_to(metric, x.shape), rounding, tolerance, STEPS, longest
        )

    def _measure_draws(self, start: Normal, end: lbfgs.Minima, match: np.ndarray, metric: np.ndarray) -> None:
        """What the fixed draws cost: other sets would move the optimum by a Newton step."""
        dim, losses, moves = len(start.loc), [], []
        for _ in range(SETS):
            # Twice as many: what sets of one size have in common would not show between them.
            noise = matched_draws(whitened_draws(self.rng, 2 * self.draws, dim), match)
            slope = bound_on(self.density, start, noise)(end.x[0])[1] - end.gradient[0]
            step = end.newton(slope[None], metric[None], np.zeros(1, int))[0]
            losses.append(-step @ slope / 2)
            moves.append(np.append(start.factor_times(step[:dim]) / self.at.sd, step[dim : 2 * dim]))
        self.loss = float(np.mean(losses)) / 1.5  # half the variance more is that of the other sets
        self.draw_noise = float(np.sqrt(np.mean(np.square(moves), axis=0)).max())

    def _more_draws(self, draws: int) -> None:
        if draws > self.draws:
            self.draws = min(draws + draws % 2, self.most_draws)
            self.base = whitened_draws(self.rng, self.draws, len(self.at.loc))


def compare(
    density: Density, at: Normal, base: Normal, rng: np.random.Generator, draws: int = FRESH_DRAWS
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The bound of `at`, up to a constant, and its gain over `base`: each with its standard error, in nats.

    Both see the same fresh draws, which the fit has never seen; errors are taken between sets.
    """
    found = []
    for _ in range(FRESH_SETS):
        noise = fresh_draws(rng, draws, len(at.loc))
        bounds = [density(q.loc + q.factor_times(noise))[0].mean() + q.log_det for q in (at, base)]
        found.append((bounds[0], bounds[0] - bounds[1]))
    means, ses = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / np.sqrt(FRESH_SETS)
    return (float(means[0]), float(ses[0])), (float(means[1]), float(ses[1]))


def check(guide: LowRank, method: Deterministic) -> None:
    """Refuse draws on which a low-rank guide cannot be fitted."""
    rank = guide.rank or 1
    least = DRAWS_A_DIRECTION * rank
    if method.draws is not None and method.draws < least:
        raise ModelError(
            f"a guide of rank {rank} cannot be fitted on {method.draws} fixed draws: they cannot have exact second "
            f"moments along {rank} directions and enough freedom beside.",
            mend=f"Give at least {least} draws, or leave draws=None.",
        )
    if method.kind != "auto":
        raise ModelError(
            f"a low-rank guide needs draws that are matched to its directions, and {method.kind!r} draws are not.",
            mend="Leave kind='auto', or fit a mean-field guide.",
        )


def run(
    targets: Sequence[Target], problem: Problem, raw_keys: Sequence[np.ndarray], watch: Watch | None = None
) -> list[Solution]:
    """As `fixed_draws.run`, for a low-rank guide: mean field on few draws for all, then directions for each."""
    guide = problem.guides[-1]
    if not isinstance(guide, LowRank):
        raise TypeError(f"only a low-rank guide gets directions, not {type(guide).__name__}.")
    check(guide, problem.method)
    few = dataclasses.replace(problem.method, draws=problem.method.draws or FEWEST)
    begun = fixed_draws.run(targets, dataclasses.replace(problem, guides=(MeanField(),), method=few), raw_keys, watch)
    return [
        _with_directions(dataclasses.replace(target, centred=before.centred), guide, problem, before, raw, watch)
        for target, before, raw in zip(targets, begun, raw_keys)
    ]


def _with_directions(
    target: Target, guide: LowRank, problem: Problem, before: Solution, raw_key: np.ndarray, watch: Watch | None
) -> Solution:
    """Add directions; if on fresh draws they gain nothing, finish mean field."""
    first = Normal.mean_field(*np.asarray(before.params["guide"], np.float64))
    if before.status.reason == "interrupted" or not all(np.isfinite(part).all() for part in (first.loc, first.log_sd)):
        return _fitted(before, target, guide, first)
    note = _Note(before, target, watch)
    rng = host_generator(raw_key, "low rank")
    climb = Climb(lambda z: evaluate(target, z), first, guide.rank, rng, _rounding, note, problem.method.draws)
    try:
        _, (gained, se) = compare(climb.run().density, climb.at, first, rng)
    except KeyboardInterrupt:
        climb.reason, gained, se = "interrupted", np.inf, 0.0
    if gained > max(2 * se, GAIN):
        status = _status(climb, before.status, len(note.bounds), gained, se)
        return _fitted(
            dataclasses.replace(before, status=status, bounds=np.array(note.bounds)), target, guide, climb.at
        )
    start, centred = np.stack([first.loc, first.log_sd])[None], np.asarray(target.centred)[None]
    problem = dataclasses.replace(problem, guides=(MeanField(),), start=start, centred=centred)
    (after,) = fixed_draws.run([target], problem, [raw_key], watch)
    said = f"directions would gain {gained:.2g} ± {se:.1g} nats and were left out; mean field is {after.status.text}"
    gradients = before.status.gradients + climb.gradients + after.status.gradients
    status = dataclasses.replace(after.status, text=said, gradients=gradients, other_modes=before.status.other_modes)
    at = Normal.mean_field(*np.asarray(after.params["guide"], np.float64))
    return _fitted(dataclasses.replace(after, status=status), target, guide, at)


class _Note:
    """Remembers the bounds, and tells who watches."""

    def __init__(self, before: Solution, target: Target, watch: Watch | None):
        self.target, self.watch = target, watch
        self.bounds, self.began = list(before.bounds), time.perf_counter()

    def __call__(self, climb: Climb) -> None:
        self.bounds.append(climb.bound + self.target.dim / 2 * (1 + np.log(2 * np.pi)))
        if self.watch is not None:
            params = {"guide": _packed(climb.at), "model": self.target.params}
            self.watch(Progress(len(self.bounds), self.bounds[-1], time.perf_counter() - self.began, params))


def _rounding(value: float) -> float:
    """By how much two equal bounds of this size may differ, in nats: 16 units in the last place."""
    return 16 * float(jnp.finfo(jnp.result_type(float)).eps) * max(abs(value), 1.0)


def _fitted(fitted: Solution, target: Target, guide: LowRank, at: Normal) -> Solution:
    return dataclasses.replace(fitted, params={"guide": _packed(at), "model": target.params}, guide=guide)


def _status(climb: Climb, before: Status, steps: int, gained: float, se: float) -> Status:
    turn, rank, noise = f"{climb.turn:.1g} nats to gain by turning", len(climb.at.stretch), climb.draw_noise
    said = {
        "converged": f"at the optimum of rank {rank} ({turn}), {gained:.1f} ± {se:.1f} nats above the first mean field",
        "capped": f"out of rounds with {turn} the directions: not converged",
        "interrupted": "interrupted: not converged",
    }[climb.reason]
    noise = np.inf if np.isnan(noise) else noise
    said += f"; {climb.draws} fixed draws (others would move the answer by {noise:.2g} sd, {climb.loss:.2g} nats)"
    gradients = before.gradients + climb.gradients
    converged = climb.reason == "converged"
    return dataclasses.replace(
        before,
        reason=climb.reason,
        converged=converged,
        text=said,
        steps=steps,
        gradients=gradients,
        draw_noise=noise,
        decrement=climb.decrement,
    )


def _packed(at: Normal) -> np.ndarray:
    """`phi` of the guide; without directions there is one, along which nothing is stretched."""
    if len(at.stretch):
        phi = pack(at.loc, at.log_sd, at.stretch, at.directions.T)
    else:
        phi = pack(at.loc, at.log_sd, np.zeros(1), np.ones((1, len(at.loc))))
    return phi.astype(jnp.result_type(float))
