"""Around a solver: `prepare` looks at the data and makes its problem, `judge_solution` asks how good its solution is.

`prepare` is the second gate. It refuses what only numbers can tell: a start off the support, batches that do not add
up, an encoder whose output has the wrong shape.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from vbppl.core.errors import ModelError, VbpplWarning
from vbppl.core.keys import host_generator
from vbppl.core.plain_words import in_plain_words
from vbppl.core.watch import Watch
from vbppl.distributions.families.degenerate import ImproperUniform
from vbppl.fitting.plan import Plan
from vbppl.guides.base import Start
from vbppl.guides.gaussian import START_SD
from vbppl.guides.program import ProgramGuide
from vbppl.inference.deterministic import problem as deterministic
from vbppl.inference.initialization import InitializationError, climbed, starts_of
from vbppl.inference.solution import NotSearched, Solution, searched_both
from vbppl.inference.stochastic import minibatch
from vbppl.inference.stochastic import problem as stochastic
from vbppl.model.evaluation.values import latent_draws
from vbppl.model.trace import abstract_sites
from vbppl.posterior.judge import Ask, judge
from vbppl.posterior.posterior import Posterior
from vbppl.posterior.report import Report, Unjudged
from vbppl.target.axes import coordinate_names
from vbppl.target.batched import BLOCK
from vbppl.target.plain import is_plain
from vbppl.target.target import Target, check_numbers, error_somewhere, in_mode, model_of, reparameterised, settled

SEARCHED = 10_000  # dims up to which a stochastic fit looks for a good start
WARM_DRAWS = 512  # of a posterior to start from


def prepare(plan: Plan, targets: Sequence[Target], raw_keys: Sequence[np.ndarray]) -> Any:
    """All that the plan's solver needs: a `deterministic.Problem` for any number of fits, or a stochastic one for one.

    Raises:
      ModelError: the data, the start or the guide's own network do not fit the model; the message says where.
    """
    settings = plan.settings
    if isinstance(settings, deterministic.Deterministic):
        # All rows are shown, so what is read in parts elsewhere is read whole.
        targets = [minibatch.resolve_sources(target, plan.guide, plan.minibatches)[0] for target in targets]
        targets = targets if plan.parameterisations.size else [settled(target) for target in targets]
    for number, each in enumerate(targets):
        check_numbers(each, f"data set {number}: " if len(targets) > 1 else "")
    if isinstance(settings, deterministic.Deterministic):
        asked = {"tries_pseudo_data": plan.tries_pseudo_data, "guide": plan.guide}
        return deterministic.Problem(
            targets, settings, plan.parameterisations, _starts(plan, targets[0]), raw_keys, **asked
        )
    (target,), (raw,) = targets, raw_keys
    return _stochastic(plan, target, raw)


@contextlib.contextmanager
def explaining(targets: Sequence[Target]) -> Iterator[None]:
    """Where no start is found, say which number in a model is to blame, if one is; and what a leak of JAX's means."""
    try:
        yield
    except jax.errors.UnexpectedTracerError as error:
        raise in_plain_words(error, None) or error from error
    except InitializationError as error:
        found = next(filter(None, map(error_somewhere, targets)), None)
        raise error if found is None else found from error


def _starts(plan: Plan, target: Target) -> np.ndarray | None:
    """Mean and log sd to begin with in each of the coordinates, `(choices, 2, dim)`; None to look for starts."""
    # The same values lie elsewhere in other coordinates.
    places = [_place(plan.start, reparameterised(target, row)) for row in plan.parameterisations]
    return None if plan.start is None else np.array(places)


def _place(start: Any, target: Target) -> np.ndarray | None:
    """Mean and log sd of the Gaussian that the user wants to start from, `(2, dim)`, if any."""
    if start is None:
        return None
    draws = isinstance(start, Posterior)
    z = np.asarray(target.unconstrain(start._latent(WARM_DRAWS) if draws else start), np.float64)
    loc, sd = (z.mean(axis=0), z.std(axis=0)) if draws else (z, np.full_like(z, START_SD))
    outside = [name for name, value in zip(coordinate_names(target), loc) if not np.isfinite(value)]
    if outside:
        raise ModelError(
            "start does not lie inside the support.",
            site=outside[0],
            mend="Start from values strictly inside, such as a posterior's means.",
        )
    return np.stack([loc, np.log(np.maximum(sd, 1e-300))])


def from_prior(target: Target, raw: np.ndarray) -> tuple[dict[str, Any], float] | None:
    """Values of the latent sites where one of `BLOCK` draws of the prior climbs highest, and the log density there.

    None where there is no model, or the prior of a site cannot be drawn from.
    """
    sites = [] if is_plain(target.model) else abstract_sites(target.model).values()
    names = [slot.name for slot in target.layout.slots]
    if not sites or any(site.distribution == ImproperUniform.__name__ for site in sites):
        return None
    try:
        drawn = latent_draws(np.arange(BLOCK, dtype=np.uint32), target.model.loaded(), raw)
    except NotImplementedError:  # a distribution of the user's own without a sampler
        return None
    except Exception as error:  # one that fails must not cost the fit that stands
        text = f"the prior could not be drawn from, so no start was looked for there: {type(error).__name__}: {error}"
        warnings.warn(VbpplWarning(text), stacklevel=2)
        return None
    z, height = climbed(target, np.asarray(target.unconstrain({name: drawn[name] for name in names}), np.float64))
    values = target.constrain(z)
    return {name: values[name] for name in names}, height


def solved_from_prior(plan: Plan, problem: Any, watch: Watch, error: InitializationError) -> Solution:
    """Where no box holds a start, the solution from a draw of the prior; `error` where that is none either."""
    found = from_prior(problem.targets[0], problem.raw_keys[0]) if plan.start is None else None
    if found is None or not np.isfinite(found[1]):
        raise error
    again = prepare(dataclasses.replace(plan, start=found[0]), problem.targets, problem.raw_keys)
    (solution,) = plan.solve(dataclasses.replace(again, precision=problem.precision), watch)
    only = NotSearched("a draw of the prior was the only start")
    text = f"the boxes held none; one of {BLOCK} draws of the prior was taken"
    modes = searched_both(only, solution.other_modes)
    return dataclasses.replace(solution, other_modes=modes).noted("starts", text)


def _stochastic(plan: Plan, target: Target, raw: np.ndarray) -> stochastic.Problem:
    """Look at the data through the guide, and put together what the first step begins with."""
    target, guide = minibatch.resolve_sources(target, plan.guide, plan.minibatches)
    target = _as_learnt(plan.start, target)
    place = _place(plan.start, target)

    def found(few: Target) -> Start:
        """A good start is looked for on some rows, where it is worth the while."""
        looks = not isinstance(guide, ProgramGuide) and 0 < target.dim <= SEARCHED
        loc = starts_of(few, host_generator(raw, "start"), 1)[0] if looks else np.zeros(target.dim)
        return Start(loc, raw_key=raw)

    start = found if place is None else Start(place[0], place[1], raw)
    settings: Any = plan.settings
    warmed = functools.partial(_warmed, plan.start)
    return stochastic.prepare(target, guide, settings, plan.minibatches, start, raw, plan.checkpoint, warmed)


def _as_learnt(start: Any, target: Target) -> Target:
    """The target with the params and module states that a posterior has learnt, where they fit."""
    learns = bool(target.params) or target.layout.has_training_mode
    if not learns or not isinstance(start, Posterior) or not _alike(start.target.params, target.params):
        return target
    return in_mode(target.replace(params=start.target.params), model_of(start.target).states, None)


def _warmed(start: Any, phi: Any, guide: Any) -> Any:
    """The parameters of a posterior's guide in the place of the first ones, where it is of the same kind.

    Its parameters are taken over, but neither its noise nor its optimizer's moments: a warm start is a new fit.
    """
    if isinstance(start, Posterior) and start.guide.__class__ is guide.__class__ and _alike(start.phi, phi):
        return jax.tree.map(np.asarray, start.phi)
    return phi


def _alike(one: Any, other: Any) -> bool:
    """Have two pytrees of arrays the same structure and shapes?"""
    return jax.tree.map(np.shape, one) == jax.tree.map(np.shape, other)


def check_begun(solution: Solution, watch: Watch) -> Solution:
    """The solution, where there is one: who interrupts a fit before its first step is over interrupts all."""
    if solution.status.reason == "interrupted" and not solution.status.steps:
        raise KeyboardInterrupt
    if not watch.agreed:
        return solution
    return dataclasses.replace(solution, phi=watch.agreed(solution.phi))  # several processes, to the last bit


def judge_solution(
    solution: Solution, raw: np.ndarray, watch: Watch, at_first_look: Ask = lambda: False
) -> tuple[Solution, Report | Unjudged]:
    """The report, and the solution, which counts as interrupted where a person did not wait for the verdict."""
    watch.doing("judging")
    report = judge(solution, raw, watch, at_first_look)
    if isinstance(report, Report):  # the judge may have found of some modes that they hold nothing
        told = (note for note in report.notes if note.topic == "modes")
        notes = tuple(dict.fromkeys((*solution.notes, *told)))
        solution = dataclasses.replace(solution, other_modes=report.other_modes, notes=notes)
    if report.cut_short:
        text = f"{solution.status.text}; interrupted before it was judged"
        status = dataclasses.replace(solution.status, reason=report.cut_short, converged=False, text=text)
        solution = dataclasses.replace(solution, status=status)
    return solution, report
