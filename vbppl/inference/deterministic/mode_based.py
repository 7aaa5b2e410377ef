"""Gaussians from the path to a mode: Laplace's approximation and Pathfinder.

Both climb the log density itself by L-BFGS, from several starts. Laplace takes the highest end and the inverse of
the exact Hessian there. Pathfinder looks at every point on the way, builds the Gaussian
`N(z + H grad l(z), H)` with the inverse Hessian estimate `H` that L-BFGS has there, and keeps the one with
the highest bound (Zhang, Carpenter, Gelman and Vehtari 2022, "Pathfinder: Parallel Quasi-Newton
Variational Inference", algorithm 1): where a density's mode lies far from its mass, an early point
is better than the last.

They are quick and rough; the report says how rough. The ends of the other climbs are compared with the one kept:
those that lie far off, with a valley between, are other modes.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.keys import host_generator
from vbppl.core.numerics import lbfgs, natural_gradient
from vbppl.core.numerics.draws import whitened_draws
from vbppl.core.types import Array
from vbppl.core.watch import Watch, last
from vbppl.guides.gaussian import START_SD, FullRank, Gaussian, Laplace, Pathfinder
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.deterministic.relabelling import SAME_MODE, SHARES
from vbppl.inference.deterministic.restarts import STARTS, compare
from vbppl.inference.initialization import starts_of
from vbppl.inference.solution import NotSearched, Progress, Searched, Solution, Status
from vbppl.target.axes import coordinate_name
from vbppl.target.batched import Batch, BatchedDensity, in_full_precision
from vbppl.target.target import Target

STEPS = 1000
DRAWS = 32


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The Gaussian at the end of a fit: mean and factor, the number of its climb, a word on it, other modes."""

    loc: np.ndarray
    factor: np.ndarray
    climb: int
    text: str
    other_modes: Searched | NotSearched


@dataclasses.dataclass(frozen=True)
class Climb:
    """Some climbs to modes, side by side: a value.

    Attributes:
      at: where they stand.
      heights: the log density of the highest that was still climbing at each step.
      passed: of Pathfinder, the Gaussians on the way: the number of the climb, mean and factor.
      chosen: what the fit ends with, once it has ended.
    """

    at: lbfgs.Minima
    heights: tuple[float, ...] = ()
    passed: tuple[tuple[int, np.ndarray, np.ndarray], ...] = ()
    chosen: Chosen | None = None


Stage: TypeAlias = Generator[Climb, None, Climb]


def solve_laplace(problem: Problem, watch: Watch = Watch()) -> list[Solution]:
    """The normal at the highest mode of each target, with the inverse Hessian there.

    Raises:
      ModelError: the highest point reached is no strict maximum.
    """
    return [_solved(_Run(problem, number), watch, Laplace(), _laplace) for number in range(len(problem.targets))]


def solve_pathfinder(problem: Problem, watch: Watch = Watch()) -> list[Solution]:
    """The best normal on the way to a mode of each target.

    Raises:
      ModelError: none of them has a finite bound.
    """
    return [_solved(_Run(problem, number), watch, Pathfinder(), _pathfinder) for number in range(len(problem.targets))]


class _Run:
    """What the stages of one fit work with. Nothing here changes but the density's counts."""

    def __init__(self, problem: Problem, number: int):
        self.target, self.raw_key, self.dim = problem.targets[number], problem.raw_keys[number], problem.dim
        self.density, self.begun_at = BatchedDensity([self.target]), time.perf_counter()
        self.is_given = problem.start is not None
        if problem.start is None:
            starts = starts_of(self.target, host_generator(self.raw_key, "start"), STARTS, self.density)
        else:
            starts = problem.start[:1, 0]
        self.starts = starts.astype(np.float64)
        self.tolerance = max(1e-10, float(np.finfo(self.density.dtype).eps))

    def batch(self, count: int) -> Batch:
        """So many searches, all of the one target."""
        return Batch.of(self.target, count, self.density)

    def heights(self, z: np.ndarray) -> np.ndarray:
        """The log densities at `z`, `(points, dim)`."""
        return self.batch(1).at(z)[0]

    def climbed(self, keep_path: bool) -> Stage:
        """To the end from each start."""
        batch = self.batch(len(self.starts))

        def negated(z: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            log_p, gradient = batch(z[:, None], numbers)
            return -log_p[:, 0], -gradient[:, 0]

        # The first direction is the bare gradient, which has no scale.
        longest = lbfgs.no_longer_than(10.0)
        steps = lbfgs.descend(negated, self.starts, lbfgs.unscaled, batch.rounding, self.tolerance, STEPS, longest)
        at = next(steps)
        climb = Climb(at)
        while len(at.going):
            heights = (*climb.heights, -float(at.value[at.going].min()))
            passed = (*climb.passed, *_passed(at)) if keep_path else ()
            climb = Climb(at, heights, passed)
            yield climb
            at = next(steps)
        return dataclasses.replace(climb, at=at)

    def progress(self, climb: Climb) -> Progress:
        """What to tell of a step: the highest point, with the spread that nobody knows yet."""
        going = climb.at.going
        phi = self.phi(climb.at.x[going[np.argmin(climb.at.value[going])]], np.eye(self.dim))
        params = {"guide": phi, "model": self.target.params}
        return Progress(len(climb.heights), climb.heights[-1], time.perf_counter() - self.begun_at, params)

    def phi(self, loc: np.ndarray, factor: np.ndarray) -> np.ndarray:
        """The parameters of a guide."""
        return FullRank().of(loc, factor).astype(self.density.dtype)


def _solved(run: _Run, watch: Watch, guide: Gaussian, stage: Callable[[_Run], Stage]) -> Solution:
    nowhere = Climb(lbfgs.Minima.at(run.starts, np.zeros(len(run.starts)), np.zeros_like(run.starts)))
    climb, cut = last(stage(run), nowhere, watch, run.progress)
    # Where L-BFGS is stuck no step gains more than rounding: that is the mode, as far as the dtype knows it.
    chosen, at = climb.chosen or _point_reached(run, climb), climb.at
    mode_reached = bool(at.decrement[chosen.climb] <= run.tolerance or at.stuck[chosen.climb])
    text = chosen.text if mode_reached or cut else f"{chosen.text}; the mode was not reached in {STEPS} steps"
    status = Status(
        cut or ("mode" if mode_reached else "capped"),
        mode_reached and not cut,
        f"{text}: not converged" if cut else text,
        steps=len(climb.heights),
        gradients=int(run.density.gradients.sum()),
        seconds=time.perf_counter() - run.begun_at,
        compiling=run.density.compiling,
        decrement=float(at.decrement[chosen.climb]),
    )
    phi = run.phi(chosen.loc, chosen.factor)
    return Solution(run.target, guide, phi, np.array(climb.heights), status, chosen.other_modes)


def _point_reached(run: _Run, climb: Climb) -> Chosen:
    """What there is where the climb was cut short: to ask for a Hessian there might take long."""
    best = int(np.argmin(climb.at.value))
    why = NotSearched("the climbs were cut short before their ends had been compared")
    return Chosen(climb.at.x[best], START_SD * np.eye(run.dim), best, "cut short on the way to the mode", why)


def _laplace(run: _Run) -> Stage:
    climb = yield from run.climbed(keep_path=False)
    x, height = climb.at.x, -climb.at.value
    # The highest point, not the greatest mass: this is what Laplace's approximation says it is.
    best = int(np.argmax(height))
    values, vectors = _precision(run, x[best])
    if not (values[0] > 0 and _is_known(values, vectors, run.density.dtype)):
        where = coordinate_name(run.target, int(np.abs(vectors[:, 0]).argmax()))
        found = f"has the eigenvalue {-values[0]:.3g}" + (", which is rounding," if values[0] > 0 else "")
        raise ModelError(
            "Laplace's approximation needs a strict maximum; the Hessian at the point reached "
            f"{found} in a direction of {where}.",
            mend="Use guide='auto': the mode of a centred hierarchy may lie at infinity.",
        )
    factor = vectors / np.sqrt(values)
    ends = Ends(x.copy(), np.tile(factor, (len(x), 1, 1)), height + np.linalg.slogdet(factor)[1])
    # Most climbs end at one mode; a Hessian is dear, and only the others need one.
    for other in np.flatnonzero(np.abs((x - x[best]) / np.linalg.norm(factor, axis=1)).max(axis=1) > SAME_MODE):
        values, vectors = _precision(run, x[other])
        ends.bound[other] = -np.inf  # without a strict maximum there is no mode
        if values[0] > 0:
            ends.factor[other] = vectors / np.sqrt(values)
            ends.bound[other] = height[other] - np.log(values).sum() / 2
    text = "the mode and the inverse Hessian there"
    return dataclasses.replace(climb, chosen=_chosen(run, climb, ends, best, text))


def _pathfinder(run: _Run) -> Stage:
    climb = yield from run.climbed(keep_path=True)
    count, dim = climb.at.x.shape
    rng, one = host_generator(run.raw_key, "pathfinder"), run.batch(1)
    noise = whitened_draws(rng, max(DRAWS, 2 * dim), dim)[None]
    ends = Ends(climb.at.x.copy(), np.tile(np.eye(dim), (count, 1, 1)), np.full(count, -np.inf))
    # The same draws for all, so that the bounds can be compared.
    for number, loc, factor in climb.passed:
        (bound,) = natural_gradient.evaluate(one, loc[None], factor[None], noise, np.zeros(1, int)).bound
        if np.isfinite(bound) and bound > ends.bound[number]:
            ends.loc[number], ends.factor[number], ends.bound[number] = loc, factor, bound
    if not np.isfinite(ends.bound).any():
        raise ModelError("Pathfinder found no Gaussian with a finite bound on its way.", mend="Use guide='auto'.")
    text = f"the best of {len(climb.passed)} Gaussians on the way to the mode"
    return dataclasses.replace(climb, chosen=_chosen(run, climb, ends, int(np.argmax(ends.bound)), text))


class Ends(NamedTuple):
    """The Gaussian of each climb, and its bound, up to a constant."""

    loc: np.ndarray
    factor: np.ndarray
    bound: np.ndarray


def _chosen(run: _Run, climb: Climb, ends: Ends, best: int, text: str) -> Chosen:
    """One of the ends, and which of the others are other modes."""
    if run.is_given:
        searched = NotSearched("the climb began from the one place that was given")
    else:
        x, height = climb.at.x, -climb.at.value

        # Between the ends of the climbs, not the means: an early Gaussian may lie far from the mode it leads to.
        def valley(other: int) -> float:
            between = run.heights(SHARES * x[other] + (1 - SHARES) * x[best])
            return float(min(height[best], height[other]) - between.min())

        log_sd = np.log(np.linalg.norm(ends.factor, axis=2))
        searched = compare(np.stack([ends.loc, log_sd], axis=1), -ends.bound, best, valley)
    return Chosen(ends.loc[best], ends.factor[best], best, text, searched)


def _passed(at: lbfgs.Minima) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """`N(z + H grad l(z), H)` at the points that the climbs pass."""
    dim, passed = at.x.shape[1], []
    for number in at.going[at.has_curvature(at.going)].tolist():
        vectors = np.concatenate([np.eye(dim), at.gradient[number][None]])
        *inverse, step = at.newton(vectors, np.ones((dim + 1, dim)), np.full(dim + 1, number))
        inverse = -np.stack(inverse)
        # Symmetric only to rounding, and next to a singular start not even positive definite.
        values, vectors = np.linalg.eigh((inverse + inverse.T) / 2)
        if values[0] > 0:
            passed.append((number, at.x[number] + step, vectors * np.sqrt(values)))
    return passed


def _precision(run: _Run, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, the least first, and eigenvectors of the negated Hessian."""
    with run.density.timed("Hessian"):
        precision = -np.asarray(_hessian(run.target, z.astype(jnp.result_type(float))), np.float64)
    return np.linalg.eigh((precision + precision.T) / 2)


def _is_known(values: np.ndarray, vectors: np.ndarray, dtype: Any) -> bool:
    """Whether a positive definite matrix is so beyond rounding, in units in which its diagonal is one.

    On a ridge that rises for ever, as of a centred hierarchy whose scale goes to zero, the least eigenvalue is noise.
    """
    half = vectors * np.sqrt(values)
    half = half / np.linalg.norm(half, axis=1, keepdims=True)
    return bool(np.linalg.svd(half, compute_uv=False)[-1] ** 2 > np.finfo(dtype).eps)


@jax.jit
def _hessian(target: Target, z: Array) -> Array:
    with in_full_precision():
        return jax.hessian(target.log_density)(z)
