"""A series given its hyperparameters: a conditional Laplace guide whose blocks are steps of a chain.

Given scales and coefficients the steps of a series speak to their neighbours alone, so the Hessian of the log density
by them is banded. Whether it is, and how far it reaches, is measured (`chain_of`): steps that lie far apart are moved
together, and the gradient tells how far from these it changes. In blocks of as many steps as that, a block meets the
next one alone, and a Newton step to all costs what a few gradients do (`guides/layers/newton_step`).

No Gaussian of all coordinates is fitted first. The hyperparameters begin at the maximum of their Laplace-approximate
marginal density, by which TMB and INLA have them,

    L(p) = l(p, x(p)) - log det R(p),    x(p) the mode of the series given p,    H = R R^T,

with the covariance that its curvature says. `L` is the bound at the one draw zero, and so is asked for by the program
that the bound has. From there all climb together.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vbppl.core.keys import host_generator
from vbppl.core.numerics import lbfgs
from vbppl.core.numerics.draws import whitened_draws
from vbppl.core.watch import Watch, last
from vbppl.guides.gaussian import START_SD
from vbppl.guides.layers.conditional import allowed
from vbppl.guides.layers.conditional_laplace import ConditionalLaplace
from vbppl.inference.deterministic.beyond.conditional_laplace import (
    Nested,
    NestedFamily,
    NestedSearch,
    solve_conditional_laplace,
)
from vbppl.inference.deterministic.beyond.conditionally_structured import Family
from vbppl.inference.deterministic.beyond.hessian_blocks import MAX_BLOCK_DIM, STEP, TIED, Blocks
from vbppl.inference.deterministic.problem import Problem, check_full_rank
from vbppl.inference.deterministic.state import Run, State
from vbppl.inference.initialization import find_starts, no_initialization
from vbppl.inference.solution import NotSearched, Solution
from vbppl.target.batched import Batch
from vbppl.target.drivers import drivers_of
from vbppl.target.target import Target, parameterisations_of

MIN_SERIES_STEPS = 16  # steps of a series
APART = 16  # steps that lie so far apart are moved together
MIN_DRAWS, MAX_DRAWS, DRAWS_A_HYPER = 64, 1024, 32  # draws, and for each hyperparameter
MAX_NUMBERS = 2**18  # that draws hold
UNITS = 64  # draws by which the sds of a series are told
NEWTON, NEAR = 40, 0.3  # steps to the mode of the series; a step, in sds, after which the next one brings it there
ASCENT, LITTLE, FAR = 60, 1e-3, 1.0  # steps of the hyperparameters, nats still to gain, and too many of them
COSTS = ("gradients", "seconds", "compiling")  # of a search that came to nothing, and of the fit in its place
ROUGH, NARROWEST = 0.02, 1e-2  # the first step of a difference; the least curvature that is believed

Gradient = Callable[[np.ndarray], np.ndarray]
Solve = Callable[[Problem, Watch], list[Solution]]


class Chain(NamedTuple):
    """The steps of a series in blocks, and about how wide each of its coordinates is, `(coordinates,)`."""

    blocks: Blocks
    sd: np.ndarray


def chain_of(target: Target, gradient: Gradient, place: np.ndarray, rng: np.random.Generator) -> Chain | str:
    """The blocks of the chain that a series is given all else, or why there is none.

    Args:
      target: the density.
      gradient: of it at points `(points, dim)`.
      place: where the Hessian is looked at, `(dim,)`.
      rng: by which coordinates are moved to either side.
    """
    table = _steps_of(target)
    if not len(table):
        return "there is no series, or nothing drives it"
    place_of, time, kind, other = table.T
    numbers = np.bincount(time).max()
    # Steps with all that they hold; or, of many series side by side, one series after the other.
    many = numbers > MAX_BLOCK_DIM
    order = np.lexsort((kind, time, other) if many else (other, kind, time))
    step = time + other * (time.max() + 1 + APART) if many else time
    places, step = place_of[order], step[order]
    steps, step = np.unique(step, return_inverse=True)
    reach, sd = _reach(gradient, place, places, step, rng)
    if not 0 < reach < APART // 2:
        return "no step meets another" if reach == 0 else "a step meets others that are far from it"
    blocks = tuple(tuple(map(int, places[step // reach == number])) for number in range(-(-len(steps) // reach)))
    width = max(map(len, blocks))
    if width > MAX_BLOCK_DIM:
        return f"a step meets {width} numbers beside it"
    return Chain(blocks, sd)


def _steps_of(target: Target) -> np.ndarray:
    """Of each coordinate of a series its place, its step, which series and which number there: `(coordinates, 4)`.

    A series is a site whose first axis is long, or many sites like one another, one stated after the other, as a loop
    makes them. None where no site beside it drives anything.
    """
    names, rows, kind = drivers_of(target), list[tuple[int, int, int, int]](), 0
    slots, taken = target.layout.slots, set[str]()
    for number, slot in enumerate(slots):
        size = slot.stop - slot.start
        if slot.name in taken or not size:
            continue
        if slot.unconstrained and slot.unconstrained[0] >= MIN_SERIES_STEPS:
            inner = size // slot.unconstrained[0]
            rows += [(slot.start + i, i // inner, kind, i % inner) for i in range(size)]
            taken.add(slot.name)
        else:
            alike = list[Any]()
            for each in slots[number:]:
                if each.unconstrained != slot.unconstrained or each.plates or each.name in names:
                    break
                alike.append(each)
            if len(alike) < MIN_SERIES_STEPS:
                continue
            rows += [(each.start + i, time, kind, i) for time, each in enumerate(alike) for i in range(size)]
            taken.update(each.name for each in alike)
        kind += 1
    drives = any(slot.name in names for slot in slots if slot.name not in taken)
    return np.array(rows if drives else [], int).reshape(-1, 4)


def _reach(
    gradient: Gradient, place: np.ndarray, places: np.ndarray, step: np.ndarray, rng: np.random.Generator
) -> tuple[int, np.ndarray]:
    """How many steps away from one that is moved the gradient changes, and the conditional sd of each coordinate."""
    dtype, length = jnp.result_type(float), ROUGH * (1 + np.abs(place[places]))
    for _ in range(2):  # by steps of any length first, and then in units of what these have shown
        ways = np.zeros((APART, len(place)))
        ways[step % APART, places] = length * rng.choice([-1.0, 1.0], size=len(places))
        points = np.concatenate([place + ways, place - ways]).astype(dtype).astype(np.float64)
        there, away = np.split(gradient(points), 2), np.split(points, 2)
        change, moved = (there[0] - there[1])[:, places], (away[0] - away[1])[:, places]
        own = np.arange(APART)[:, None] == step % APART
        curvature = np.abs((change * own).sum(axis=0) / (moved * own).sum(axis=0))
        sd = 1 / np.sqrt(np.maximum(np.nan_to_num(curvature, nan=1.0, posinf=1.0), NARROWEST))
        length = STEP * sd
    # In units in which a step changes its own slope by one; what is not finite may be anything.
    tied = ~(np.abs(change) * sd <= 2 * STEP * TIED)
    distance = np.abs(step % APART - np.arange(APART)[:, None])
    distance = np.minimum(distance, APART - distance)
    return int((distance * tied).max()), sd


class SeriesSearch(NestedSearch):
    """From a place to a conditional Laplace guide of a series."""

    words, stage = "a conditional Laplace guide of a series", "series"

    def __init__(self, problem: Problem, number: int, before: Solution, chain: Chain):
        """Get ready to go on from where `before` stands, which may be any guide, and is fitted to a target."""
        self._chain = chain
        check_full_rank(problem.settings, problem.dim - sum(map(len, chain.blocks)))
        super().__init__(problem, number, before)

    def _gaussian(self, before: Solution) -> tuple[np.ndarray, np.ndarray]:
        """Where it stands; nothing of all coordinates together."""
        return _middle(before), np.zeros((0, 0))

    def _enough(self) -> int:
        """So many draws, of which a step of the search looks at whole blocks."""
        least = max(MIN_DRAWS, DRAWS_A_HYPER * (self.dim - sum(map(len, self._chain.blocks))))
        return -(-int(np.clip(MAX_NUMBERS // self.dim, least, max(least, MAX_DRAWS))) // DRAWS_A_HYPER) * DRAWS_A_HYPER

    def _whitened(self, rng: np.random.Generator) -> np.ndarray:
        """Draws whose second moments are exact for the hyperparameters, whatever the number of steps."""
        noise, hypers = whitened_draws(rng, self.draws, self.dim), self.guide.layers[1].order  # pyright: ignore[reportAttributeAccessIssue] -- an Affine
        noise[:, list(hypers)] = whitened_draws(rng, self.draws, len(hypers))
        return noise

    def _made(self) -> tuple[Any, Any]:
        loc, self.promised = self._normal[0], np.inf
        guide = ConditionalLaplace().over(self.target, self._chain.blocks, is_chain=True)
        layer, step = guide.layers[0], guide.layers[-1]
        order, rows = np.array(step.given, int), step.rows  # pyright: ignore[reportAttributeAccessIssue] -- a NewtonStep
        may, many = allowed(layer.drivers, layer.driven), len(order)  # pyright: ignore[reportAttributeAccessIssue] -- a Conditional
        hyper = Family(np.arange(many), may, many, np.zeros(0, int), loc[order], np.eye(many))
        # Ten times as wide as each is given the others, so that no pivot is cut off before sds are known.
        begins = {
            "mean": loc[rows],
            "slope": np.zeros((len(rows), len(order))),
            "log_sd": np.log(10 * self._chain.sd),
        }
        return guide, NestedFamily(self.density, self.target, Nested(guide, hyper, begins), self.draws)

    def begin(self, watch: Watch) -> tuple[bool, str]:
        """Move the hyperparameters to the maximum of `L`, with the covariance there.

        Returns:
          whether one is reached, and what cut the way there short, if anything did.
        """
        hyper = self.family.nested.hyper

        def negated(move: np.ndarray, searches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            self._to_mode(hyper.loc + move[0], watch)
            value, gradient = self._marginal(hyper.loc + move)
            return -value, -gradient

        steps = lbfgs.descend(
            negated, np.zeros((1, hyper.dim)), lbfgs.unscaled, self.rounding, LITTLE, ASCENT, lbfgs.no_longer_than(1.0)
        )
        first = next(steps)
        at, cut = last(itertools.chain([first], steps), first, watch)
        if cut or not (at.decrement[0] <= FAR and np.isfinite(at.value[0])):
            return False, cut
        top, scale = hyper.loc + at.x[0], np.full(hyper.dim, ROUGH / STEP)
        self._to_mode(top, watch)
        for _ in range(2):  # by steps of any length first, and then in units of what these have shown
            if watch.is_over:
                return False, "deadline"
            ways = STEP * np.diag(scale)
            self._through_modes(dataclasses.replace(hyper, loc=top, factor=ways))
            up, down = np.split(self._marginal(top + np.concatenate([ways, -ways]))[1], 2)
            curvature = (down - up) / (2 * STEP) * scale  # in units of `scale`
            value, vector = np.linalg.eigh((curvature + curvature.T) / 2)
            factor = scale[:, None] * np.linalg.cholesky((vector / np.maximum(value, NARROWEST)) @ vector.T)
            scale = np.minimum(np.linalg.norm(factor, axis=1), 1.0)
        self._through_modes(dataclasses.replace(hyper, loc=top, factor=factor))
        return True, ""

    def _marginal(self, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`L` at hyperparameters `(points, hypers)`, and its gradient."""
        family = self.family
        nothing, zeros = np.zeros((len(given), self.dim)), np.zeros(sum(family.sizes))
        return family.with_rows(given, zeros, nothing)[:2]

    def _to_mode(self, given: np.ndarray, watch: Watch) -> None:
        """Move the beginning of the step to the mode given some hyperparameters, in units of the sds there.

        Where time is over it stops on the way: whoever asked ends with this step of the hyperparameters.
        """
        step, rng = self.family.nested.step, host_generator(self.raw, "units")
        noise = rng.standard_normal((UNITS, len(step.rows)))
        for _ in range(NEWTON):
            begins = self.family.nested.begins
            mode, factor = step.conditionals(begins, given[None], self.target)
            self.family.gradients += 1 + step.products
            log_sd = begins["log_sd"] + np.log(step.variances(factor, noise)) / 2
            far = np.abs((mode[0] - begins["mean"] - begins["slope"] @ given) * np.exp(-log_sd)).max()
            begins = {"mean": mode[0], "slope": np.zeros_like(begins["slope"]), "log_sd": log_sd}
            self.family.nested = dataclasses.replace(self.family.nested, begins=begins)
            if not far > NEAR or watch.is_over:
                break

    def _draw_lines(self) -> None:
        self._through_modes(self.family.nested.hyper)

    def _through_modes(self, hyper: Family) -> None:
        """Move the beginning of the step to the line through the modes on either side of each hyperparameter."""
        nested, ways = self.family.nested, np.concatenate([hyper.factor.T, -hyper.factor.T])
        for _ in range(2):
            mode = nested.step.conditionals(nested.begins, hyper.loc + ways, self.target)[0]
            up, down = np.split(mode, 2)
            slope = np.linalg.solve(hyper.factor.T, (up - down) / 2).T
            begins = {**nested.begins, "mean": mode.mean(axis=0) - slope @ hyper.loc, "slope": slope}
            nested = dataclasses.replace(nested, hyper=hyper, begins=begins)
            self.family.gradients += len(ways) * (1 + nested.step.products)
        self.family.nested = nested


def is_series(target: Target) -> bool:
    """Whether it may be one, by its shapes, with something that drives it."""
    return len(_steps_of(target)) > 0


def is_chain(problem: Problem, before: Solution) -> bool:
    """Whether what may be a series is one in the model's coordinates, by gradients about where a solution stands."""
    target, place = problem.targets[0], _middle(before)
    if is_series(target) and not np.array_equal(parameterisations_of(target), parameterisations_of(before.target)):
        place = np.asarray(target.unconstrain(before.target.constrain(place)), np.float64)
    return not isinstance(_chain_at(target, place, problem.raw_keys[0]), str)


def series_of(problem: Problem, number: int, before: Solution) -> SeriesSearch | str:
    """The search for a series from where a solution stands, or why there is no series."""
    found = _chain_at(before.target, _middle(before), problem.raw_keys[number])
    return found if isinstance(found, str) else SeriesSearch(problem, number, before, found)


def _chain_at(target: Target, place: np.ndarray, raw: np.ndarray) -> Chain | str:
    batch = Batch.of(target)
    return chain_of(target, lambda z: batch.at(z)[1], place, host_generator(raw, "series"))


def _middle(solution: Solution) -> np.ndarray:
    """Where its guide lies."""
    return np.asarray(solution.guide.frame(np.asarray(solution.phi, np.float64), solution.target)[0], np.float64)


def solve_series(problem: Problem, watch: Watch = Watch(), *, otherwise: Solve) -> list[Solution]:
    """Fit a series given its hyperparameters; where a target is none, or there are several, as `otherwise` does.

    Raises:
      ModelError: fixed draws are asked for on which the guide cannot be fitted.
    """
    if len(problem.targets) > 1 or not is_series(problem.targets[0]):
        return otherwise(problem, watch)
    search = series_of(problem, 0, begun(problem))
    if isinstance(search, str):
        return otherwise(problem, watch)
    begins_well, cut = search.begin(watch)
    if cut:
        return [search.cut_short(cut)]
    found = search.climbed(watch)[0] if begins_well else search.spent(search.before)
    if begins_well and (found.status.converged or found.status.was_cut_short):
        return [found]
    (after,) = otherwise(problem, watch)
    costs = {name: getattr(found.status, name) + getattr(after.status, name) for name in COSTS}
    return [dataclasses.replace(after, status=dataclasses.replace(after.status, **costs))]


def solve_series_or_blocks(problem: Problem, watch: Watch = Watch()) -> list[Solution]:
    """Fit a conditional Laplace guide: of a series, where a target is one and the only one, else of blocks.

    Raises:
      ModelError: fixed draws are asked for on which there is no maximum.
    """
    return solve_series(problem, watch, otherwise=solve_conditional_laplace)


def begun(problem: Problem) -> Solution:
    """A narrow guide at the best start, before any step of a fit."""
    run, state = Run(problem), State.first(problem)
    place = problem.start[0] if problem.start is not None else None
    if place is None:
        batch = run.batch(state, np.zeros(1, int))
        points, found = find_starts(batch, run.dim, [host_generator(problem.raw_keys[0], "start")], 1)
        if not found[0]:
            raise no_initialization(problem.targets[0], points[0, 0])
        place = np.stack([points[0, 0], np.full(run.dim, np.log(START_SD))])
    why = "a series begins from one place"
    return run.solution(state.put(np.zeros(1, int), x=place.ravel()).with_modes(0, NotSearched(why)), 0)
