"""What a fit will do, chosen before anything is computed: `plan`.

A plan follows from types, shapes, the numbers that a user gave and one abstract run of the model. It evaluates and
compiles nothing, so whatever can be refused without looking at data is refused here, at once. What needs a look at
the data comes next, in `prepare.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from vbppl.core.errors import ModelError, of_kind, one_of
from vbppl.core.programs.threads import suited_to
from vbppl.core.types import PathLike
from vbppl.data.shuffle import Minibatches
from vbppl.guides.base import Guide
from vbppl.guides.copula import Copula
from vbppl.guides.gaussian import FullRank, Laplace, MeanField, Pathfinder
from vbppl.guides.layers.conditional_laplace import ConditionalLaplace
from vbppl.guides.layers.conditionally_structured import ConditionallyStructured, resolved
from vbppl.guides.low_rank import LowRank
from vbppl.guides.mixture import Mixture
from vbppl.guides.program import ProgramGuide
from vbppl.guides.structured import Structured
from vbppl.inference.deterministic import fixed_draws, low_rank, mode_based
from vbppl.inference.deterministic.beyond import conditionally_structured, copula, mixture, series
from vbppl.inference.deterministic.problem import Deterministic, check_full_rank, check_low_rank
from vbppl.inference.solution import Solution
from vbppl.inference.stochastic import svi
from vbppl.inference.stochastic.minibatch import minibatches_of
from vbppl.inference.stochastic.settings import Stochastic
from vbppl.model.arguments import name_of
from vbppl.model.model import Model, ModelFunction, check_applied
from vbppl.model.shapes import as_numbers
from vbppl.model.trace import abstract_sites
from vbppl.posterior.posterior import Posterior
from vbppl.posterior.report import AnyReport
from vbppl.target.target import Target, owned, parameterisations_of, settled

FULL_RANK_DIM = 512  # up to here "auto" means full rank, beyond low rank
STOCHASTIC_FULL_RANK_DIM = 50  # where the steps are stochastic

Method: TypeAlias = Literal["auto"] | Deterministic | Stochastic
Start: TypeAlias = Posterior | Mapping[str, Any] | None
GuideName: TypeAlias = Literal["auto", "mean_field", "full_rank", "low_rank", "copula"]
AnyGuide: TypeAlias = GuideName | Guide | Model


class Solver(NamedTuple):
    """How a family is fitted to a fixed density of all rows.

    Attributes:
      solve: from a problem and a watch to a solution for each of the problem's fits.
      check: refuses settings with which there is no maximum, from the dimension and the guide.
      climbs: it climbs to a mode, so that a request for stochastic steps makes no sense.
    """

    solve: Callable[..., list[Solution]]
    check: Callable[[Deterministic, int, Any], None] = lambda settings, dim, guide: None
    climbs: bool = False


# The one table of solvers. A guide that stands here can be fitted to a fixed density of all rows, without stochastic
# steps; every other guide, and whatever is shown in part or learnt, is fitted by stochastic steps.
SOLVERS: Mapping[type[Guide], Solver] = MappingProxyType(
    {
        MeanField: Solver(fixed_draws.solve_mean_field),
        FullRank: Solver(fixed_draws.solve_full_rank, lambda settings, dim, _: check_full_rank(settings, dim)),
        LowRank: Solver(low_rank.solve_low_rank, lambda settings, _, guide: check_low_rank(settings, guide.rank)),
        Copula: Solver(copula.solve_copula, copula.check_copula),
        Mixture: Solver(mixture.solve_mixture, lambda settings, dim, _: check_full_rank(settings, dim)),
        ConditionallyStructured: Solver(
            conditionally_structured.solve_conditionally_structured,
            lambda settings, dim, _: check_full_rank(settings, dim),
        ),
        ConditionalLaplace: Solver(series.solve_series_or_blocks),
        Laplace: Solver(mode_based.solve_laplace, climbs=True),
        Pathfinder: Solver(mode_based.solve_pathfinder, climbs=True),
    }
)
GUIDES: Mapping[str, Callable[[], Guide]] = MappingProxyType(
    {"mean_field": MeanField, "full_rank": FullRank, "low_rank": LowRank, "copula": Copula}
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a fit will do.

    Attributes:
      guide: the family; where `solve` chooses between two by what they gain, the richer one.
      solve: from a problem and a watch to a solution for each of the problem's fits.
      settings: the method's, which also say which kind of problem there is.
      parameterisations: the coordinates to choose from, as `Layout.packed` writes them, `(choices, numbers)`.
      minibatches: the plates of which a part is shown at a time; none, where all rows are.
      start: where the user wants to begin.
      is_automatic: the guide was left to us, so more may be tried where the answer is poor.
      checkpoint: a file in which a stochastic fit keeps itself.
      tries_pseudo_data: movable sites may be seen by pseudo-data too: `inference/deterministic/pseudo_data.py`.
      normal: while the answer is bettered, the last normal or mixture of such, with its report; none before.
      structured: the parameters of a normal whose hyperparameters were structured after a first look at it, what came
        of that, and its report, where it was not good by itself.
    """

    guide: Guide
    solve: Callable[..., Any]
    settings: Deterministic | Stochastic
    parameterisations: np.ndarray
    minibatches: Minibatches
    start: Start = None
    is_automatic: bool = False
    checkpoint: PathLike | None = None
    tries_pseudo_data: bool = False
    normal: tuple[Solution, AnyReport] | None = None
    structured: tuple[Any, Solution, AnyReport] | None = None

    def threads(self, target: Target) -> contextlib.AbstractContextManager[Any]:
        """While this is solved: those that suit the linear algebra of a solver on the host; of others, as they are."""
        # Tall matrices of few columns are small: by two threads that of a QR took 147 ms in the place of 4.
        is_tall = self.solve in (fixed_draws.solve_mean_field, low_rank.solve_low_rank)
        is_on_host = isinstance(self.settings, Deterministic)
        return suited_to(1 if is_tall else target.dim) if is_on_host else contextlib.nullcontext()


def plan(
    target: Target,
    guide: AnyGuide = "auto",
    method: Method = "auto",
    batch_size: int | Mapping[str, int] | None = None,
    start: Start = None,
    checkpoint: PathLike | None = None,
) -> Plan:
    """Choose guide, solver, coordinates and minibatches for `target`.

    Raises:
      ModelError: the choices do not go together; the message says which, and what would.
      TypeError, ValueError: one of them is none.
    """
    is_path = checkpoint is None or isinstance(checkpoint, (str, os.PathLike))
    of_kind("checkpoint", checkpoint, is_path, "the path of a file")
    _check_start(start, target)
    _check_validation(method, target)
    minibatches = minibatches_of(target, batch_size)
    family, is_automatic = _guide(guide, target, minibatches), isinstance(guide, str) and guide == "auto"
    solver = SOLVERS.get(type(family))
    settings = _settings(method, family, solver, _why_not_deterministic(target, family, solver, minibatches))
    solve, is_deterministic = svi.solve, isinstance(settings, Deterministic)
    if solver is not None and isinstance(settings, Deterministic):
        solver.check(settings, target.dim, family)
        solve = _richest(solver.solve, target) if is_automatic else solver.solve
    # Whoever uses vb.decenter has chosen.
    may_move = is_automatic and is_deterministic and all(each.weight == 1 for each in target.parameterisations.values())
    goes_on = is_deterministic and not is_automatic and not (solver is not None and solver.climbs)
    parameterisations = parameterisations_to_choose(target, may_move, start if goes_on else None)
    return Plan(family, solve, settings, parameterisations, minibatches, start, is_automatic, checkpoint, may_move)


def _richest(solve: Callable[..., Any], target: Target) -> Callable[..., Any]:
    """What is done where the choice is ours: full rank has to be worth its while, and in many dims a series is met."""
    solve = fixed_draws.solve_richest if solve is fixed_draws.solve_full_rank else solve
    is_long = solve is low_rank.solve_low_rank and series.is_series(target)
    return functools.partial(series.solve_series, otherwise=solve) if is_long else solve


def _guide(guide: AnyGuide, target: Target, minibatches: Minibatches) -> Guide:
    """The family that was asked for, or the richest that is worth a try."""
    if isinstance(guide, Guide):
        return resolved(guide, target)
    if isinstance(guide, Model):
        return ProgramGuide(guide.with_arrays(owned))
    if isinstance(guide, str) and guide == "auto":
        if target.layout.params or minibatches.plates or not target.dim:
            return _stochastic_guide(target, minibatches)
        if target.dim > FULL_RANK_DIM:
            return LowRank()
        return FullRank() if target.dim > 1 else MeanField()
    if isinstance(guide, str) and guide in GUIDES:
        return GUIDES[guide]()
    if isinstance(guide, type) and issubclass(guide, Guide):
        raise TypeError(
            f"guide is the class {guide.__name__}, not a guide.\n"
            f"  To mend it: Call it, with the arguments that it takes: {guide.__name__}(...)."
        )
    if isinstance(guide, ModelFunction):
        raise TypeError(
            f"guide is the function {guide!r} itself.\n  To mend it: Apply it to the arguments of the model."
        )
    names = ", ".join(map(repr, ("auto", *GUIDES)))
    raise ValueError(
        f"guide must be one of {names}, or a guide, not {guide!r:.80}.\n"
        "  To mend it: Take one of these, vb.MeanField() or its like, or a function under @vb.guide, applied."
    )


def _stochastic_guide(target: Target, minibatches: Minibatches) -> Guide:
    """Full rank for what all rows share, if it is not too much; rows that are shown in part are independent."""
    shown = {name for name, _, _ in minibatches.plates}
    local = shown & {plate for slot in target.layout.slots for plate in slot.plates}
    shared = sum(slot.stop - slot.start for slot in target.layout.slots if not local & set(slot.plates))
    guide = FullRank() if 1 < shared <= STOCHASTIC_FULL_RANK_DIM else MeanField()
    return Structured(tuple(sorted(local)), guide) if local else guide


def _settings(method: Method, guide: Guide, solver: Solver | None, why_not: str) -> Deterministic | Stochastic:
    """Deterministic wherever it can be: a guide of the table, no learnt params, all rows."""
    if isinstance(method, Deterministic) and why_not:
        raise ModelError(
            f"the deterministic method cannot fit {why_not}.",
            mend="Use vb.fit with method='auto' or vb.Stochastic(), one model at a time.",
        )
    if solver is not None and solver.climbs and (why_not or isinstance(method, Stochastic)):
        raise ModelError(
            f"{type(guide).__name__} climbs to the mode of a fixed density; it cannot fit "
            f"{why_not or 'by stochastic steps'}.",
            mend="Use guide='full_rank', or leave the method to vb.fit.",
        )
    if isinstance(method, (Deterministic, Stochastic)):
        return method
    if isinstance(method, str) and method == "auto":
        return Stochastic() if why_not else Deterministic()
    raise ValueError(f"method must be 'auto', vb.Deterministic(...) or vb.Stochastic(...), not {method!r:.80}.")


def _why_not_deterministic(target: Target, guide: Guide, solver: Solver | None, minibatches: Minibatches) -> str:
    if solver is None:
        return f"a {type(guide).__name__} guide: its draws are not those of a Gaussian"
    if target.layout.params:
        return f"learnt params ({', '.join(target.layout.params)})"
    if target.layout.has_training_mode:
        return "modules that behave otherwise in training than in evaluation"
    if minibatches.plates:
        return f"minibatches (plate '{minibatches.plates[0][0]}')"
    return "" if target.dim else "a model without latent sites"


def parameterisations_to_choose(target: Target, is_free: bool, start: Start) -> np.ndarray:
    """The coordinates to choose from, `(choices, numbers)`: centred and not, where the choice `is_free`, else settled.

    A guide that was asked for goes on in those of the posterior from which it starts.
    """
    layout, given = target.layout, parameterisations_of(target)
    is_chosen = any(each.weight != 1 for each in target.parameterisations.values())
    if isinstance(start, Posterior) and not is_chosen:
        settled_alike = dataclasses.replace(start.target.layout, is_settled=layout.is_settled)
        there = layout.packed(start.target.parameterisations) if settled_alike == layout else given
        if np.any(there != given):
            return there[None]
    if not is_free:
        return parameterisations_of(settled(target))[None]
    if not layout.funnels:
        return given[None]
    # Where the scale is known, the non-centred form is a linear map, which changes nothing but the way there.
    weights = {name: float(name not in layout.funnels) for name in layout.movable}
    return np.stack([given, layout.packed(layout.centred_by(weights, given.dtype))])


def _check_start(start: Any, target: Target) -> None:
    if not (start is None or isinstance(start, (Posterior, Mapping))):
        raise TypeError(f"start must be a posterior, or a dict of values by the sites' names, not {start!r}.")
    known, own = {*target.layout.completed}, {slot.name: slot.shape for slot in target.layout.slots}
    for name, value in start.items() if isinstance(start, Mapping) else ():
        if name not in known and name not in own:
            close = difflib.get_close_matches(name, own, n=1)
            mend = f"Did you mean '{close[0]}'?" if close else "Name latent sites of the model."
            raise ModelError(f"start has a value for '{name}', which is no latent site.", mend=mend)
        shape = as_numbers(value, "start", name).shape if name in own else None
        if shape is not None and shape != own[name]:
            mend = "Give one value of the site's shape, such as posterior.mean() has."
            raise ModelError(f"start has shape {shape}, but the site has shape {own[name]}.", site=name, mend=mend)


def _check_validation(method: Any, target: Target) -> None:
    """The rows kept back belong to the function that is fitted."""
    validation = getattr(method, "validation", None)
    if validation is None:
        return
    check_applied(validation.model, "validation.model")
    check_applied(validation.model if validation.guide is None else validation.guide, "validation.guide")
    if isinstance(target.model, Model) and validation.model.function is not target.model.function:
        names = [name_of(model.function) for model in (validation.model, target.model)]
        raise ModelError(
            f"the validation set is one of {names[0]}, but {names[1]} is fitted.",
            mend=f"Apply the same function to the rows kept back: vb.inference.Validation({names[1]}(...)).",
        )
    try:
        abstract_sites(validation.model)
    except ModelError as error:
        raise ModelError(f"in the validation set: {error.what}", **error.rest) from error


# What other libraries call an argument, and what says it here.
ARGUMENTS: Mapping[Any, str] = MappingProxyType(
    dict.fromkeys(("num_steps", "steps", "n_steps", "epochs"), "method=vb.Stochastic(steps=10_000)")
    | dict.fromkeys(("rng_key", "key", "random_seed", "random_state"), "seed=0, or seed=jax.random.key(0)")
    | dict.fromkeys(("lr", "learning_rate", "step_size"), "method=vb.Stochastic(optimizer=optax.adam(1e-2))")
    | dict.fromkeys(("optimizer", "optim"), "method=vb.Stochastic(optimizer=optax.adam(1e-2))")
    | dict.fromkeys(("num_samples", "draws", "n_samples"), "vb.fit(model).sample(1000)")
    | dict.fromkeys(("progress_bar", "progressbar"), "progress=True")
)


def check_call(
    seconds: Any,
    progress: Any,
    callback: Any,
    precision: Any = "auto",
    foreign: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Refuse arguments of `fit` that are not what they should be, or that it does not have, before anything is done."""
    for name in foreign:
        mend = f"Write {ARGUMENTS[name]}." if name in ARGUMENTS else "help(vb.fit) lists its arguments."
        raise TypeError(f"fit has no argument {name}=.\n  To mend it: {mend}")
    is_number = isinstance(seconds, (int, float, np.number)) and not isinstance(seconds, bool)
    if seconds is not None and not (is_number and seconds > 0):
        raise ValueError(f"seconds must be a positive number, or None for no limit, not {seconds!r}.")
    one_of("precision", precision, "auto", "session", "float64")
    one_of("progress", progress, True, False, None)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function that takes a vb.inference.Progress, not {callback!r}.")
