"""Where the fits of a deterministic solver stand: a value, with a row for each fit.

A stage of a solver is a generator of such states: it yields one after each step, so that the last one can be handed
back at any time, and returns the one it ends with. What the stages share is a `Run`; how the loop that lets draws grow
speaks with a family of guides is the protocol `Family`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Iterable
from typing import Any, Protocol, TypeAlias

import numpy as np

from vbppl.core.numerics.draws import FixedDraws
from vbppl.core.special import NORMAL_ENTROPY
from vbppl.guides.gaussian import FullRank, MeanField
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.solution import Note, NotSearched, Progress, Searched, Solution, Status
from vbppl.target.batched import Batch, BatchedDensity
from vbppl.target.target import reparameterised

MIN_DRAWS, MAX_DRAWS = 32, 2048  # draws
MIN_DEAR_DRAWS = 8  # draws to begin with where they are dear
DEAR = 50_000  # numbers in the data, above which a gradient is dear
LITTLE = 1e-3  # nats to gain: 0.045 sds
CUT = {"interrupted": "interrupted: not converged", "deadline": "out of time: not converged", "behind": "left behind"}


@dataclasses.dataclass(frozen=True)
class State:
    """Where some fits stand.

    Attributes:
      x: `(loc, log sd)` of the mean-field guide, `(fits, 2 dim)`.
      factor: of the full-rank guide, `(fits, dim, dim)`; `(fits, 0, 0)` while it is still that of the mean field.
      is_full: which fits have a full-rank guide, whose mean is `loc` too, `(fits,)`.
      parameterisations: of the movable sites, `(fits, numbers)`: see `Layout.packed`.
      decrement: the nats still to gain, `(fits,)`.
      draw_noise: by how many sds other draws would move the optimum, `(fits,)`.
      draws: how many there are, `(fits,)`.
      reason: why the fit ended, as far as it has, `(fits,)`.
      bounds: after each step, in nats: a tuple for each fit.
      other_modes: what the restarts found: one for each fit.
      notes: what was chosen: a tuple for each fit.
    """

    x: np.ndarray
    factor: np.ndarray
    is_full: np.ndarray
    parameterisations: np.ndarray
    decrement: np.ndarray
    draw_noise: np.ndarray
    draws: np.ndarray
    reason: np.ndarray
    bounds: tuple[tuple[float, ...], ...]
    other_modes: tuple[Searched | NotSearched, ...]
    notes: tuple[tuple[Note, ...], ...]

    @classmethod
    def first(cls, problem: Problem) -> State:
        """Before the first step."""
        count, dim = len(problem.targets), problem.dim
        return cls(
            x=np.zeros((count, 2 * dim)),
            factor=np.zeros((count, 0, 0)),
            is_full=np.zeros(count, bool),
            parameterisations=np.tile(problem.parameterisations[0], (count, 1)),
            decrement=np.full(count, np.inf),
            draw_noise=np.full(count, np.nan),
            draws=np.zeros(count, int),
            reason=np.full(count, "capped", dtype=object),
            bounds=((),) * count,
            other_modes=(NotSearched("the fit ended before its starts had been compared"),) * count,
            notes=((),) * count,
        )

    @property
    def loc(self) -> np.ndarray:
        """The means, `(fits, dim)`."""
        return self.x[:, : self.x.shape[1] // 2]

    @property
    def log_sd(self) -> np.ndarray:
        """The log sds of the mean-field guide, `(fits, dim)`."""
        return self.x[:, self.x.shape[1] // 2 :]

    def put(self, fits: np.ndarray, **rows: Any) -> State:
        """The same with other rows of some fields for `fits`."""
        new = {name: getattr(self, name).copy() for name in rows}
        for name, values in rows.items():
            new[name][fits] = values
        return dataclasses.replace(self, **new)

    def with_bounds(self, fits: Iterable[int], bounds: np.ndarray) -> State:
        """The same after one more step of `fits`, whose bounds, without the normals' constant, are `bounds`."""
        # The solvers leave out what does not depend on the parameters; a bound that is told has it.
        every, constant = list(self.bounds), self.x.shape[1] / 2 * NORMAL_ENTROPY
        for fit, bound in zip(fits, bounds):
            every[fit] = (*every[fit], float(bound) + constant)
        return dataclasses.replace(self, bounds=tuple(every))

    def with_modes(self, fit: int, searched: Searched | NotSearched) -> State:
        """The same once the ends of a fit's starts have been compared."""
        modes = list(self.other_modes)
        modes[fit] = searched
        return dataclasses.replace(self, other_modes=tuple(modes))

    def with_notes(self, fit: int, *new: Note) -> State:
        """The same with more notes on a fit."""
        notes = list(self.notes)
        notes[fit] += new
        return dataclasses.replace(self, notes=tuple(notes))

    def in_full_rank(self) -> State:
        """The same with full-rank guides, each of which is still the mean-field one."""
        factor = np.stack([np.diag(sd) for sd in np.exp(self.log_sd)])
        return dataclasses.replace(self, factor=factor, is_full=np.ones_like(self.is_full))

    def cut_short(self, why: str) -> State:
        """The same, ended from outside: nobody knows how far it was still to go."""
        return self.put(np.arange(len(self.x)), reason=why, draw_noise=np.nan)


Stage: TypeAlias = Generator[State, None, State]


class Run:
    """What the stages of one call work with: the problem, its density, its draws. Nothing here changes but counts."""

    def __init__(self, problem: Problem):
        self.problem, self.dim = problem, problem.dim
        self.density = BatchedDensity(problem.targets)
        self.noise = FixedDraws(problem.settings.kind, problem.dim, problem.raw_keys)
        # Below the unit in the last place nothing is left to gain, whatever the decrement says.
        self.tolerance = max(1e-12, float(np.finfo(self.density.dtype).eps))  # nats still to gain
        self.began = time.perf_counter()

    def batch(self, state: State, fits: np.ndarray) -> Batch:
        """Searches of some fits, in the coordinates in which they stand."""
        return Batch(self.density, fits, state.parameterisations[fits])

    def fewest(self, least: int) -> int:
        """How many draws to begin with: those asked for, else enough, and no fewer than `least`; 0 says nothing."""
        return self.problem.settings.draws or max(MIN_DEAR_DRAWS if self.is_dear and least else MIN_DRAWS, least)

    @property
    def is_dear(self) -> bool:
        """Does a gradient cost so much that a fit begins with few draws, and leaves a hopeless start?"""
        return self.problem.targets[0].data_size > DEAR

    def solutions(self, state: State) -> list[Solution]:
        """What each fit leaves behind."""
        return [self.solution(state, fit) for fit in range(len(self.problem.targets))]

    def phi(self, state: State, fit: int) -> np.ndarray:
        """The parameters of the guide of a fit."""
        if state.is_full[fit]:
            factor = state.factor[fit] if state.factor.size else np.diag(np.exp(state.log_sd[fit]))
            phi = FullRank().of(state.loc[fit], factor)
        else:
            phi = np.stack([state.loc[fit], state.log_sd[fit]])
        return phi.astype(self.density.dtype)

    def progress(self, state: State) -> Progress:
        """What to tell of the first fit, which is the only one where somebody listens."""
        params = {"guide": self.phi(state, 0), "model": self.problem.targets[0].params}
        bounds = state.bounds[0]
        bound, seconds = bounds[-1] if bounds else np.nan, time.perf_counter() - self.began
        return Progress(len(bounds), bound, seconds, params, stage="full rank" if state.is_full[0] else "mean field")

    def solution(self, state: State, fit: int) -> Solution:
        """What a fit leaves behind."""
        target = reparameterised(self.problem.targets[fit], state.parameterisations[fit])
        guide, status = FullRank() if state.is_full[fit] else MeanField(), self._status(state, fit)
        phi, bounds = self.phi(state, fit), np.array(state.bounds[fit])
        return Solution(target, guide, phi, bounds, status, state.other_modes[fit], state.notes[fit])

    def _status(self, state: State, fit: int) -> Status:
        left, noise = float(state.decrement[fit]), float(state.draw_noise[fit])
        return dataclasses.replace(
            ended(state.reason[fit], left, noise, f"{state.draws[fit]} fixed draws"),
            steps=len(state.bounds[fit]),
            gradients=int(self.density.gradients[fit]),
            seconds=time.perf_counter() - self.began,
            compiling=self.density.compiling,
        )


class Family(Protocol):
    """A family of Gaussians on fixed draws, as the loop speaks with it that gives a fit more draws while these matter.

    The loop is `fixed_draws._maximise`, and nobody else asks:

        noise = family.noise(fits, family.fewest)               few draws for each fit
        at = family.begin(state, fits, noise)                   where the fits stand, as these draws see it
        while there are fits:
            state, at = family.climb(state, fits, noise, at)    up on these draws, to their top or nearly
            moves, probe = family.probe(state, fits, at, draws) how far would other draws move each optimum?
            state = family.settle(state, fits, noise, at, done) to the very end, those that would move little
            fits, noise = the others, with four times as many draws
            at = family.resume(state, fits, noise, probe, more) where they stand, as the new draws see it

    A `state` has a row for every fit of the call, and the rows of others than `fits` are left alone. `noise`, `at` and
    `moves` have a row for each of `fits`, of which `done` and `more` choose some. What `at` and `probe` are is the
    family's own business: the loop hands them on and never looks inside. `climb` and `settle` yield each state that is
    whole; the others evaluate the draws once, and yield none.
    """

    @property
    def run(self) -> Run:
        """What all stages work with."""
        ...

    @property
    def fewest(self) -> int:
        """How many draws to begin with."""
        ...

    @property
    def noise(self) -> FixedDraws:
        """The draws of a fit, by their number."""
        ...

    def begin(self, state: State, fits: np.ndarray, noise: np.ndarray, /) -> Any:
        """Where the fits stand."""
        ...

    def climb(
        self, state: State, fits: np.ndarray, noise: np.ndarray, at: Any, /
    ) -> Generator[State, None, tuple[State, Any]]:
        """Up on these draws; returns with the state where the fits stand."""
        ...

    def probe(self, state: State, fits: np.ndarray, at: Any, draws: int, /) -> tuple[list[np.ndarray], Any]:
        """By how many sds each of two other sets of draws would move the optimum, `(fits, quantities)` each."""
        ...

    def settle(self, state: State, fits: np.ndarray, noise: np.ndarray, at: Any, done: np.ndarray, /) -> Stage:
        """To the very end, where `done`, `(fits,)`."""
        ...

    def resume(self, state: State, fits: np.ndarray, noise: np.ndarray, probe: Any, more: np.ndarray, /) -> Any:
        """Where the fits stand that want more draws: `more` says which of those that were probed."""
        ...


def ended(reason: str, left: float, noise: float, draws: str, of: str = "") -> Status:
    """Why a fit ended, in a sentence that names the number that decides, so that a reader can disagree.

    Args:
      reason: a word; "flat" where no step raises the bound, which for the family is a normal end.
      left: the nats still to gain.
      noise: by how many sds other draws would move the answer.
      draws: how many there are, in words.
      of: the family whose optimum it is.
    """
    # Where so little is left, a step that gains nothing is what rounding looks like, whatever the bound's size.
    reason = "rounding" if reason == "stuck" and left <= LITTLE else reason
    text = {
        "converged": f"at the optimum{of} ({left:.0e} nats to gain)",
        "rounding": f"at the optimum{of} to rounding ({left:.0e} nats to gain)",
        "flat": f"no step raises the bound ({left:.0e} nats to gain by its gradients)",
        "capped": f"out of steps with {left:.2g} nats to gain: not converged",
        "stuck": f"no step improves the bound, yet {left:.2g} nats seem to be left: not converged",
        **CUT,
    }[reason]
    if reason not in CUT:
        # Draws at which the density is not finite would move the answer by who knows how much.
        noise = np.inf if np.isnan(noise) else noise
        text += f"; {draws} (others would move the answer by {noise:.2g} sd)"
    converged = reason in ("converged", "rounding", "flat")
    return Status(reason, converged, text, 0, 0, draw_noise=noise, decrement=left)
