"""The deterministic fit: the bound on fixed, moment-exact draws, maximised to the end.

With the noise `e_n` fixed, the bound of a Gaussian guide

    J(loc, L) = mean log p(loc + L e_n) + log |det L| + const

is an ordinary smooth function, and can be maximised until it is (Giordano, Ingram and Broderick
2023, "Black Box Variational Inference with a Deterministic Objective", eq. 3). Nothing is left to
choose: the fit ends when an estimate of the nats still to gain is negligible.

1. Every start, in every kind of coordinates, climbs most of the way by L-BFGS on the mean-field bound
   (`mean_field.py`), all of them side by side. The highest bound wins; the others are remembered as rivals.
2. Full rank goes on from there by natural-gradient steps (`stein.py`), mean field by L-BFGS to the end.
3. How much do the draws matter? Two new sets of twice as many would move the optimum by their own Newton
   steps. Where that is more than `DRAW_NOISE` sds, the two sets together are the next draws.

Everything outside the model's own density is linear algebra in float64 on the host, around the
one compiled evaluation (`evaluation.py`). All fits of a call advance side by side, so a hundred data sets
cost little more than one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np

from vbppl.core.keys import host_generator
from vbppl.core.numerics import batch_and_match, lbfgs, natural_gradient
from vbppl.core.numerics.draws import FixedDraws
from vbppl.guides.gaussian import START_SD, FullRank, MeanField
from vbppl.inference.deterministic import mean_field
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.initialization import find_starts, no_initialization
from vbppl.inference.solution import Progress, Solution, Status
from vbppl.target.batched import HEAVY, Batch, Density
from vbppl.target.target import Target

DRAW_NOISE = 0.01
FEWEST, MOST = 32, 2048
WHITENED_DIM = 64
STARTS = 3
FIRST = 1e-2  # nats to gain that decide between starts and coordinates no more
ROUGHLY = 1e-3  # nats to gain that are well spent on more draws first
SAME_MODE = 4.0  # sds
RIVAL = 10.0  # nats
VALLEY = 0.1  # nats that the bound falls between two modes
WORTHWHILE = 0.05  # nats that the richer guide must gain to be kept
Watch = Callable[[Progress], None]


def run(
    targets: Sequence[Target], problem: Problem, raw_keys: Sequence[np.ndarray], watch: Watch | None = None
) -> list[Solution]:
    """Maximise the bound for each of `targets`, which are alike in structure and shapes.

    `watch` is called after each step; it is for a single target.
    """
    problem.check(targets[0].dim)
    fits = _Fits(targets, problem, raw_keys, watch)
    try:
        fits.begin()
        fits.finish()
    except KeyboardInterrupt:
        fits.interrupt()
    return [fits.fitted(number) for number in range(len(targets))]


class _Fits:
    """Some fits on the way: where they stand, and what they have cost. Arrays have a row for each fit."""

    def __init__(
        self, targets: Sequence[Target], problem: Problem, raw_keys: Sequence[np.ndarray], watch: Watch | None
    ):
        self.targets, self.problem, self.raw_keys, self.watch = targets, problem, raw_keys, watch
        self.density = Density(targets)
        self.dim, self.dtype = targets[0].dim, self.density.dtype
        self.noise = FixedDraws(problem.method.kind, self.dim, raw_keys)
        self.tolerance = max(1e-12, float(np.finfo(self.dtype).eps))  # nats still to gain
        count = len(targets)
        self.x = np.zeros((count, 2 * self.dim))  # `(loc, log sd)` of the mean-field guide
        self.factor: dict[int, np.ndarray] = {}  # of the full-rank guide, once it has begun
        self.centred = np.tile(problem.centred[0], (count, 1))
        self.bound = np.full(count, -np.inf)
        self.reason = np.full(count, "capped", dtype=object)
        self.decrement, self.draw_noise = np.full(count, np.inf), np.full(count, np.inf)
        self.draws = np.zeros(count, int)
        self.starts, self.spread = 1, np.zeros(count)
        self.other_modes: list[tuple[tuple[float, float], ...]] = [()] * count
        self.elsewhere = [np.zeros((0, 2, self.dim))] * count
        self.bounds: list[list[float]] = [[] for _ in targets]
        self.choices: list[list[str]] = [[] for _ in targets]
        self.began = time.perf_counter()

    # The start.

    def begin(self) -> None:
        """Go most of the way to the mean-field optimum from each start in each coordinates; keep the best."""
        count, options = len(self.targets), len(self.problem.centred)
        every = self._lanes(np.repeat(np.arange(count), options), np.tile(self.problem.centred, (count, 1)))
        starts = self._starts(every)
        each = starts.shape[1]
        lanes = every.take(np.repeat(np.arange(len(every)), each))
        draws = self._fewest(2 * self.dim if self.dim <= WHITENED_DIM else 0)
        noise = self.noise(lanes.fits, draws)
        x = mean_field.narrowed(lanes, starts.reshape(len(lanes), 2 * self.dim), noise)
        at = self._minimise(lanes, x, noise, FIRST)
        value = np.where(np.isfinite(at.value), at.value, np.inf).reshape(count, options, each)
        for fit in range(count):
            option, start = np.unravel_index(int(np.argmin(value[fit])), (options, each))
            ends = at.x.reshape(count, options, each, -1)[fit, option]
            self.x[fit], self.bound[fit] = ends[start], -value[fit, option, start]
            self.centred[fit] = self.problem.centred[option]
            finite = value[fit, option][np.isfinite(value[fit, option])]
            self.starts, self.spread[fit] = each, np.ptp(finite) if len(finite) else np.inf
            self.other_modes[fit], self.elsewhere[fit] = self._rivals(fit, draws, ends, value[fit, option], int(start))
            self._say_coordinates(fit, int(option), -value[fit].min(axis=1))

    def _starts(self, lanes: Batch) -> np.ndarray:
        """Mean and log sd that each lane begins with, `(lanes, starts, 2 dim)`."""
        if self.problem.start is not None:
            each = self.problem.start.reshape(len(self.problem.centred), 1, 2 * self.dim)
            return np.tile(each, (len(self.targets), 1, 1))
        rngs = [host_generator(self.raw_keys[fit], "start") for fit in lanes.fits]
        count = STARTS if self.targets[0].data_size <= HEAVY else 1
        points, found = find_starts(lanes, self.dim, rngs, count)
        for fit in range(len(self.targets)):
            mine = np.flatnonzero(lanes.fits == fit)
            if not found[mine].any():
                which = f"data set {fit}: " if len(self.targets) > 1 else ""
                raise no_initialization(self.targets[fit], points[mine[0], 0], which)
        return np.concatenate([points, np.full_like(points, np.log(START_SD))], axis=-1)

    def _rivals(
        self, fit: int, draws: int, ends: np.ndarray, value: np.ndarray, best: int
    ) -> tuple[tuple[tuple[float, float], ...], np.ndarray]:
        """The other modes among the `ends` of the starts, `(starts, 2 dim)`: how much lower, how far away; where."""
        others = np.flatnonzero(np.isfinite(value) & (np.arange(len(ends)) != best))
        lower, scale = value[others] - value[best], np.exp(np.maximum(ends[others], ends[best])[:, self.dim :])
        away = (np.abs(ends[others] - ends[best])[:, : self.dim] / scale).max(axis=1, initial=0.0)
        found, where = [], []
        for other in np.flatnonzero((away > SAME_MODE) & (lower < RIVAL)):
            # Ends that lie apart may lie on one ridge. Two modes have a valley between them.
            shares = np.linspace(0, 1, 9)[1:-1, None]
            between = shares * ends[others[other]] + (1 - shares) * ends[best]
            lanes = self._lanes(np.full(len(between), fit))
            bounds = mean_field.negated_bound(lanes, self.noise(lanes.fits, draws))(between, np.arange(len(between)))[0]
            if not bounds.max() <= value[others[other]] + VALLEY:
                found.append((float(lower[other]), float(away[other])))
                where.append(ends[others[other]].reshape(2, self.dim))
        return tuple(found), np.reshape(where, (-1, 2, self.dim))

    def _say_coordinates(self, fit: int, chosen: int, bounds: np.ndarray) -> None:
        if len(bounds) > 1:
            names = ", ".join(self.targets[fit].layout.movable)
            other, gain = 1 - chosen, bounds[chosen] - bounds[1 - chosen]
            kept, left = ("centred" if self.problem.centred[i].any() else "decentred" for i in (chosen, other))
            self.choices[fit].append(f"coordinates: {names} {kept} (mean-field bound {gain:.2f} nats above {left})")

    # The end.

    def finish(self) -> None:
        """Maximise to the end, in the richest family that is worth its while."""
        everyone = np.arange(len(self.targets))
        if not isinstance(self.problem.guides[-1], FullRank):
            return self.mean_field(everyone)
        simple = self.x.copy()
        self.full_rank(everyone)
        if len(self.problem.guides) == 1:
            return None
        gain = self._gain_over(simple)
        for fit in everyone:
            self.choices[fit].append(f"guide: full rank, {gain[fit]:.2f} nats above mean field")
        back = ~(gain >= WORTHWHILE)  # a gain that is no number is none
        for fit in np.flatnonzero(back).tolist():
            del self.factor[fit]
            self.choices[fit][-1] = f"guide: mean field; full rank would gain {max(gain[fit], 0.0):.2f} nats"
        self.x[back] = simple[back]
        return self.mean_field(np.flatnonzero(back))

    def _gain_over(self, simple: np.ndarray) -> np.ndarray:
        """The nats that full rank surely gains over mean field at `simple`, on common new draws, `(fits,)`."""
        gains = np.array([self._gain_on(simple, number) for number in (3, 4)])
        return gains.mean(axis=0) - np.abs(np.diff(gains, axis=0))[0]  # less two standard errors of their mean

    def _gain_on(self, simple: np.ndarray, number: int) -> np.ndarray:
        fits = np.arange(len(self.targets))
        lanes, noise = self._lanes(fits), self.noise(fits, int(self.draws.max()), number)
        factor = np.stack([self.factor[fit] for fit in fits.tolist()])
        rich = natural_gradient.evaluate(lanes, self.x[:, : self.dim], factor, noise, fits).bound
        return rich + mean_field.negated_bound(lanes, noise)(simple, fits)[0]

    def mean_field(self, fits: np.ndarray) -> None:
        """Maximise over `loc` and `log sd`, with more draws while they matter."""
        draws = self._fewest(2 * self.dim if self.dim <= WHITENED_DIM else 0)
        noise = self.noise(fits, draws)
        while len(fits):
            lanes = self._lanes(fits)
            at = self._minimise(lanes, self.x[fits], noise, self.tolerance)
            self.x[fits], self.bound[fits] = at.x, -at.value
            self.decrement[fits], self.draws[fits] = at.decrement, draws
            self.reason[fits] = mean_field.reason(lanes, at, self.tolerance)
            self._newton(fits, lanes, noise, at)
            # Sets of twice as many: what sets of one size have in common would not show between them.
            halves = (self.noise(fits, 2 * draws, half) for half in (1, 2))
            self.draw_noise[fits] = _worst(np.array([mean_field.moves(lanes, at, half) for half in halves]))
            fits, draws = self._that_want_more(fits, draws)
            noise = self.noise.joined(fits, draws)

    def _newton(self, fits: np.ndarray, lanes: Batch, noise: np.ndarray, at: lbfgs.Minima) -> None:
        """Go on by Newton's method, in place, where L-BFGS has given up at a finite bound."""
        given_up = np.isin(self.reason[fits], ("capped", "stuck")) & np.isfinite(at.value)
        for lane in np.flatnonzero(given_up).tolist():
            fit, one = int(fits[lane]), np.array([lane])
            target = dataclasses.replace(self.targets[fit], centred=self.centred[fit].astype(self.dtype))
            found = mean_field.newton(lanes, target, at.x[lane], noise, one, self.tolerance)
            if found.value <= at.value[lane]:
                gradient = mean_field.negated_bound(lanes, noise)(found.x[None], one)[1]
                at.move(one, found.x[None], np.array([found.value]), gradient)
                at.decrement[lane] = found.decrement
                self.x[fit], self.bound[fit] = found.x, -found.value
                self.decrement[fit], self.reason[fit] = found.decrement, found.reason

    def full_rank(self, fits: np.ndarray) -> None:
        """Maximise over `loc` and any factor, from the mean-field optimum on, with more draws while they matter."""
        draws = self._fewest(2 * self.dim)
        lanes, noise = self._lanes(fits), self.noise(fits, draws)
        factor = np.stack([np.diag(sd) for sd in np.exp(self.x[fits, self.dim :])])
        at = natural_gradient.evaluate(lanes, self.x[fits, : self.dim], factor, noise, np.arange(len(fits)))
        while len(fits):
            self._ascend(fits, at, noise, np.full(len(fits), ROUGHLY))
            self._match(fits, at, noise)
            self.draws[fits] = draws
            size = min(2 * draws, max(MOST, draws))
            looks = [
                natural_gradient.evaluate(lanes, at.loc, at.factor, self.noise(fits, size, half), np.arange(len(fits)))
                for half in (1, 2)
            ]
            self.draw_noise[fits] = _worst(np.array([natural_gradient.moves(at, other) for other in looks]))
            more, draws = self._that_want_more(fits, draws)
            wanting = np.isin(fits, more)
            if not wanting.all():
                # To come nearer to the optimum than a hundredth of what the draws leave open is in vain.
                enough = np.maximum(self.tolerance, (self.draw_noise[fits] / 100) ** 2 / 2)
                self._ascend(fits[~wanting], at.take(~wanting), noise[~wanting], enough[~wanting])
            at, fits, lanes = natural_gradient.Iterates.joined(looks).take(wanting), more, lanes.take(wanting)
            noise = self.noise.joined(fits, draws)
            if 2 * size != draws or self.dim == 1:
                at = natural_gradient.evaluate(lanes, at.loc, at.factor, noise, np.arange(len(fits)))

    def _match(self, fits: np.ndarray, at: natural_gradient.Iterates, noise: np.ndarray) -> None:
        """Where no natural-gradient step improves the bound, match scores, and climb on from there, in place."""
        for lane in np.flatnonzero(at.reason == "stuck").tolist():
            one, lanes = np.array([lane]), self._lanes(fits[[lane]])
            begin = (at.loc[lane], at.factor[lane]) if np.isfinite(at.bound[lane]) else self._mean_field_of(fits[lane])

            def density(z: np.ndarray, lanes: Batch = lanes) -> tuple[np.ndarray, np.ndarray]:
                log_p, gradient = lanes(z[None])
                return log_p[0], gradient[0]

            def draws(step: int, fit: np.ndarray = fits[[lane]]) -> np.ndarray:
                return self.noise(fit, noise.shape[1], 10 + step)[0]

            loc, factor = batch_and_match.match(density, *begin, draws)
            new = natural_gradient.evaluate(lanes, loc[None], factor[None], noise[one], np.zeros(1, int))
            self._ascend(fits[one], new, noise[one], np.full(1, ROUGHLY))
            if np.isfinite(new.bound[0]) and not new.bound[0] < at.bound[lane]:
                at.put(one, new, np.ones(1, bool))
                at.reason[lane] = new.reason[0]
            self._keep(fits, at)

    def _mean_field_of(self, fit: int) -> tuple[np.ndarray, np.ndarray]:
        loc, log_sd = np.split(self.x[fit], 2)
        return loc, np.diag(np.exp(log_sd))

    def _ascend(
        self, fits: np.ndarray, at: natural_gradient.Iterates, noise: np.ndarray, tolerance: np.ndarray
    ) -> None:
        """Climb from `at` on, in place."""

        def watch(at: natural_gradient.Iterates, moved: np.ndarray) -> None:
            for lane in moved:
                self._note(int(fits[lane]), float(at.bound[lane]), at.loc[lane], at.factor[lane])

        lanes = self._lanes(fits)
        natural_gradient.ascend(lanes, at, noise, lanes.rounding, tolerance, watch)
        # Steps that gain nothing are the optimum's sign only where little is left to gain.
        far = (at.reason == "rounding") & (at.decrement > np.maximum(ROUGHLY, lanes.rounding(at.bound)))
        at.reason[far] = "stuck"
        self._keep(fits, at)

    def _keep(self, fits: np.ndarray, at: natural_gradient.Iterates) -> None:
        self.x[fits, : self.dim], self.bound[fits] = at.loc, at.bound
        self.decrement[fits], self.reason[fits] = at.decrement, at.reason
        self.factor.update(zip(fits.tolist(), at.factor))

    # What the stages share.

    def _lanes(self, fits: np.ndarray, centred: np.ndarray | None = None) -> Batch:
        return Batch(self.density, fits, self.centred[fits] if centred is None else centred)

    def _fewest(self, least: int) -> int:
        return self.problem.method.draws or max(FEWEST, least)

    def _minimise(self, lanes: Batch, x: np.ndarray, noise: np.ndarray, tolerance: float) -> lbfgs.Minima:
        def watch(at: lbfgs.Minima, going: np.ndarray) -> None:
            for fit in np.unique(lanes.fits[going]).tolist():
                mine = np.flatnonzero(lanes.fits == fit)  # those that have ended, too
                best = mine[np.argmin(np.where(np.isfinite(at.value[mine]), at.value[mine], np.inf))]
                loc, log_sd = np.split(at.x[best], 2)
                self.centred[fit] = lanes.centred[best]
                self._note(fit, -float(at.value[best]), loc, log_sd)

        return mean_field.minimise(lanes, x, noise, tolerance, watch)

    def _that_want_more(self, fits: np.ndarray, draws: int) -> tuple[np.ndarray, int]:
        """The fits whose draws still matter, and how many draws to give them."""
        wanting = (self.draw_noise[fits] > DRAW_NOISE) & (self.reason[fits] != "stuck")
        if draws >= MOST or self.problem.method.draws:
            wanting[:] = False
        return fits[wanting], min(4 * draws, max(MOST, draws))

    # What is told.

    def _note(self, fit: int, bound: float, loc: np.ndarray, scale: np.ndarray) -> None:
        """One step more; `scale` is a log sd, `(dim,)`, or a factor, `(dim, dim)`."""
        bound = bound + self.dim / 2 * (1 + np.log(2 * np.pi))
        self.bounds[fit].append(bound)
        # An interrupt may come at any time: what has been reached stands here.
        if scale.ndim == 1:
            self.x[fit] = np.concatenate([loc, scale])
        else:
            self.x[fit, : self.dim], self.factor[fit] = loc, scale
        if self.watch is not None:
            params = {"guide": self._phi(fit), "model": self.targets[fit].params}
            self.watch(Progress(len(self.bounds[fit]), bound, time.perf_counter() - self.began, params))

    def interrupt(self) -> None:
        """Stop where the fits stand."""
        self.reason[:] = "interrupted"
        self.draw_noise[:] = 0.0
        if not isinstance(self.problem.guides[0], FullRank):
            return
        for fit in range(len(self.targets)):
            self.factor.setdefault(fit, np.diag(np.exp(self.x[fit, self.dim :])))

    def _phi(self, fit: int) -> np.ndarray:
        loc, log_sd = np.split(self.x[fit], 2)
        phi = FullRank().of(loc, self.factor[fit]) if fit in self.factor else np.stack([loc, log_sd])
        return phi.astype(self.dtype)

    def fitted(self, fit: int) -> Solution:
        """What a fit leaves behind."""
        reason, left = self.reason[fit], self.decrement[fit]
        said = {
            "converged": f"at the optimum ({left:.0e} nats to gain)",
            "rounding": f"at the optimum to rounding ({left:.0e} nats to gain)",
            "capped": f"out of steps with {left:.2g} nats to gain: not converged",
            "stuck": f"no step improves the bound, yet {left:.2g} nats seem to be left: not converged",
            "interrupted": "interrupted: not converged",
        }[reason]
        # Draws at which the density is not finite would move the answer by who knows how much.
        noise = float(np.inf if np.isnan(self.draw_noise[fit]) else self.draw_noise[fit])
        if reason != "interrupted":
            said += f"; {self.draws[fit]} fixed draws (others would move the answer by {noise:.2g} sd)"
        status = Status(
            reason,
            reason in ("converged", "rounding"),
            said,
            steps=len(self.bounds[fit]),
            gradients=int(self.density.gradients[fit]),
            other_modes=self.other_modes[fit],
            draw_noise=noise,
            decrement=float(left),
            starts=self.starts,
            spread=float(self.spread[fit]),
            seconds=time.perf_counter() - self.began,
            compiling=self.density.compiling,
        )
        return Solution(
            {"guide": self._phi(fit), "model": self.targets[fit].params},
            np.array(self.bounds[fit]),
            status,
            guide=FullRank() if fit in self.factor else MeanField(),
            centred=self.centred[fit].astype(self.dtype),
            choices=tuple(self.choices[fit]),
            elsewhere=self.elsewhere[fit],
        )


def _worst(moves: np.ndarray) -> np.ndarray:
    """The greatest root mean square of a quantity's moves, `(sets, lanes, quantities)` to `(lanes,)`."""
    return np.sqrt(np.mean(np.square(moves), axis=0)).max(axis=1, initial=0.0)
