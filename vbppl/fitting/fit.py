"""`fit`: fill the defaults in and walk the path once, from a model to a posterior."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.archive import PathLike
from vbppl.core.errors import ModelError, VbpplWarning
from vbppl.core.keys import host_generator, raw_key
from vbppl.core.types import Seed
from vbppl.data.shuffle import Minibatches
from vbppl.fitting.escalate import FULL_RANK_DIM, climb, is_poor, judged
from vbppl.fitting.progress import watcher
from vbppl.guides.base import Guide
from vbppl.guides.gaussian import START_SD, FullRank, Gaussian, Laplace, MeanField, Pathfinder
from vbppl.guides.low_rank import LowRank
from vbppl.guides.program import ProgramGuide
from vbppl.guides.structured import Structured
from vbppl.inference.deterministic import mode_based
from vbppl.inference.deterministic.fixed_draws import STARTS
from vbppl.inference.deterministic.problem import Deterministic, Problem
from vbppl.inference.initialization import starts_of
from vbppl.inference.solution import Hook, Progress
from vbppl.inference.stochastic import minibatch, svi
from vbppl.inference.stochastic.early_stopping import EarlyStopping
from vbppl.inference.stochastic.objectives import InTraining, Objective
from vbppl.inference.stochastic.settings import Stochastic
from vbppl.model.model import Model, check_applied
from vbppl.posterior.posterior import Posterior
from vbppl.target.target import Target

STOCHASTIC_FULL_RANK_DIM = 50  # where the steps are stochastic
SEARCHED = 10_000  # dims up to which a stochastic fit looks for a good start
WARM_DRAWS = 512  # of a posterior to start from
Method = str | Deterministic | Stochastic
GUIDES = {"mean_field": MeanField, "full_rank": FullRank, "low_rank": LowRank}


def fit(
    model: Model,
    guide: str | Guide | Model = "auto",
    *,
    method: Method = "auto",
    seed: Seed = 0,
    batch_size: int | Mapping[str, int] | None = None,
    start: Posterior | Mapping[str, Any] | None = None,
    progress: bool | None = None,
    callback: Callable[[Progress], None] | None = None,
    checkpoint: PathLike | None = None,
) -> Posterior:
    """Approximate the posterior of `model` by a guide, and say how good it is.

    >>> import vbppl as vb, vbppl.distributions as dist
    >>> @vb.model
    ... def one_number(y):
    ...     x = vb.sample("x", dist.Normal(0.0, 1.0))
    ...     vb.sample("y", dist.Normal(x, 0.5), obs=y)
    >>> posterior = vb.fit(one_number(np.array(10.0)))
    >>> print(f"{posterior.mean()['x']:.3f} {posterior.sd()['x']:.3f}")
    8.000 0.447

    Args:
      model: a function under `@vb.model`, applied to its arguments.
      guide: "auto", "mean_field", "full_rank", "low_rank", a guide object (`vb.FullRank()`), or a function
        under `@vb.guide` applied to its arguments.
      method: "auto": on fixed draws to the end (`vb.Deterministic()`) where the guide is Gaussian, all
        rows are shown and no params are learnt, else `vb.Stochastic()`. Either can be given.
      seed: an int or a JAX key; the same seed gives the same bits on the same machine.
      batch_size: rows of a plate shown at each step: for the only plate, or by plates' names.
      start: a posterior, or values of all latent sites, to start from.
      progress: True or False for a progress bar; None for one only where a person watches a long fit.
      callback: called after each chunk of steps with a `vb.Progress`.
      checkpoint: a file in which a stochastic fit keeps itself while it runs; a fit that was killed goes on from
        it to the same bits, one that had ended returns its posterior again. A fit on fixed draws writes none:
        it depends on its seed alone and is done anew.

    Returns:
      the posterior; its `status` says why the fit ended.

    Raises:
      ModelError: the model does not mean what it says; the message names the site.
    """
    raw = raw_key(seed)
    check_applied(model)
    with watcher(progress, callback) as watch:
        if isinstance(method, Deterministic) and method.precision:
            with jax.enable_x64(True):
                posterior = _fit_once(model, guide, method, raw, batch_size, start, watch, checkpoint)
            posterior = _in_session_precision(posterior, model)
        else:
            posterior = _fit_once(model, guide, method, raw, batch_size, start, watch, checkpoint)
    _warn(posterior)
    return posterior


def _in_session_precision(posterior: Posterior, model: Model) -> Posterior:
    """The same posterior, to be used in the session's dtype; its report is that of the fit."""
    dtype = jnp.result_type(float)
    centred = np.asarray(posterior.target.centred, dtype)
    target = dataclasses.replace(Target.of(model), centred=centred)
    phi = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), posterior.phi)
    return dataclasses.replace(posterior, target=target, phi=phi)


# What is not finite is told by the status and the report card, not by warnings from NumPy.
@np.errstate(all="ignore")
def _fit_once(
    model: Model,
    guide: str | Guide | Model,
    method: Method,
    raw: np.ndarray,
    batch_size: int | Mapping[str, int] | None,
    start: Posterior | Mapping[str, Any] | None,
    watch: Callable[[Progress], None] | None,
    checkpoint: PathLike | None,
) -> Posterior:
    """One fit, from a model to its posterior and report card."""
    target = Target.of(model)
    stream = minibatch.stream_of(target, batch_size)
    guides = _guides(guide, target, stream)
    target, chosen = minibatch.resolve_sources(target, guides[-1], stream)
    method = _method(method, target, chosen, stream)
    where = _start(start, target)
    if isinstance(chosen, (Laplace, Pathfinder)):
        fitted = mode_based.run(target, chosen, _starts(where, target, raw, STARTS), raw, watch)
    elif isinstance(method, Deterministic):
        problem = problem_for(target, guide, method, start)
        return climb(target, problem, raw, watch, automatic=isinstance(guide, str) and guide == "auto")
    else:
        loc = _first_loc(where, target, chosen, stream, raw).astype(jnp.result_type(float))
        minibatch.check_batches(target, stream, loc, raw)
        phi = jax.tree.map(np.asarray, chosen.init(target, loc))
        objective, states = _in_training(method, target, chosen, raw)
        prefetcher, hooks = (
            minibatch.prefetcher_of(target, stream, raw),
            _hooks(method, target, chosen, raw, phi, states),
        )
        parts = (target, chosen, phi, method, raw, stream, prefetcher, watch, hooks, objective, states, checkpoint)
        fitted = svi.run(*parts)
        if states:
            target, chosen = target.resting(fitted.state["model"]), chosen.in_training(fitted.state["guide"], None)
    return judged(target, dataclasses.replace(fitted, guide=chosen), raw)


def _in_training(method: Stochastic, target: Target, guide: Guide, raw: np.ndarray) -> tuple[Objective, Any]:
    """The objective and its first state: modules are in training mode where that makes a difference."""
    objective = method.chosen_objective()
    if not (target.layout.has_training_mode or guide.has_training_mode()):
        return objective, ()
    return InTraining(objective, raw), {"guide": guide.first_states(), "model": target.first_states()}


def _hooks(method: Stochastic, target: Target, guide: Guide, raw: np.ndarray, phi: Any, states: Any) -> list[Hook]:
    """Who has the word after each chunk of steps: the validation set, if there is one."""
    validation = method.validation
    if validation is None:
        return []
    guide, other = guide.with_data(validation.guide), target.with_data(validation.model)
    first, least = {"guide": phi, "model": target.params}, method.chosen_objective().warm_up_steps
    return [EarlyStopping(guide, other, validation, raw, first, states, least)]


def problem_for(
    target: Target,
    guide: str | Guide | Model,
    method: Deterministic,
    start: Posterior | Mapping[str, Any] | None = None,
) -> Problem:
    """What a deterministic fit is to look for: the guides and coordinates to choose from, and where to begin.

    Raises:
      ModelError: the guide is not a Gaussian, or the model learns params.
    """
    guides = _guides(guide, target, Minibatches())
    if isinstance(guides[-1], (Laplace, Pathfinder)):
        raise ModelError(f"{type(guides[-1]).__name__} is not fitted on fixed draws.", mend="Use vb.fit for it.")
    _method(method, target, guides[-1], Minibatches())
    gaussians = tuple(guide for guide in guides if isinstance(guide, Gaussian))
    centred = _coordinates(guide, target)
    # The same values lie elsewhere in other coordinates.
    begin = [_start(start, dataclasses.replace(target, centred=row)) for row in centred] if start is not None else None
    return Problem(gaussians, method, centred, None if begin is None else np.array(begin))


def _coordinates(guide: str | Guide | Model, target: Target) -> np.ndarray:
    """The coordinates to choose from, `(choices, movable sites)`: both, where the guide is chosen too."""
    given = np.asarray(target.centred)[None]
    if isinstance(guide, str) and guide == "auto" and given.size and given.all():
        return np.concatenate([given, np.zeros_like(given)])
    return given


def _warn(posterior: Posterior) -> None:
    """Say aloud what a user must not overlook."""
    status, model = posterior.status, posterior.target.model
    if _forgot_data(posterior.target):
        said = "observes nothing: every sample statement is a latent variable. Was the data argument forgotten?"
        warnings.warn(VbpplWarning(f"{model!r} {said}"), stacklevel=3)
    if (not status.converged and status.reason != "steps") or status.skipped:
        warnings.warn(VbpplWarning(f"the fit of {model!r}: {status}."), stacklevel=3)
    elif posterior.report is not None and is_poor(posterior):
        reasons = "; ".join(posterior.report.reasons)
        warnings.warn(VbpplWarning(f"the fit of {model!r} is poor: {reasons}. See posterior.check()."), stacklevel=3)


def _guides(guide: str | Guide | Model, target: Target, stream: Minibatches) -> tuple[Guide, ...]:
    """The guides to choose from, the simplest first."""
    if isinstance(guide, Guide):
        return (guide,)
    if isinstance(guide, Model):
        return (ProgramGuide(guide),)
    if guide == "auto":
        if target.layout.params or stream.plates or not target.dim:
            return (_stochastic_guide(target, stream),)
        if target.dim > FULL_RANK_DIM:
            return (LowRank(),)
        return (MeanField(), FullRank()) if target.dim > 1 else (MeanField(),)
    if isinstance(guide, str) and guide in GUIDES:
        return (GUIDES[guide](),)
    raise ValueError(
        f"guide must be 'auto', {', '.join(map(repr, GUIDES))}, a guide such as vb.MeanField(), or a function "
        f"under @vb.guide applied to its arguments; not {guide!r}."
    )


def _stochastic_guide(target: Target, stream: Minibatches) -> Guide:
    """Full rank for what all rows share, if it is not too much; rows that are shown in part are independent."""
    shown = {name for name, _, _ in stream.plates}
    local = shown & {plate for slot in target.layout.slots for plate in slot.plates}
    shared = sum(slot.stop - slot.start for slot in target.layout.slots if not local & set(slot.plates))
    guide = FullRank() if 1 < shared <= STOCHASTIC_FULL_RANK_DIM else MeanField()
    return Structured(tuple(sorted(local)), guide) if local else guide


def _method(method: Method, target: Target, guide: Guide, stream: Minibatches) -> Deterministic | Stochastic:
    """Deterministic wherever it can be: a Gaussian guide, no learnt params, all rows."""
    why_not = _why_not_deterministic(target, guide, stream)
    if isinstance(method, Deterministic) and why_not:
        raise ModelError(
            f"the deterministic method cannot fit {why_not}.", mend="Use method='auto' or vb.Stochastic()."
        )
    if isinstance(guide, (Laplace, Pathfinder)) and (why_not or isinstance(method, Stochastic)):
        raise ModelError(
            f"{type(guide).__name__} climbs to the mode of a fixed density; it cannot fit "
            f"{why_not or 'by stochastic steps'}.",
            mend="Use guide='full_rank', or leave the method to vb.fit.",
        )
    if isinstance(method, (Deterministic, Stochastic)):
        return method
    if method == "auto":
        return Stochastic(draws=16) if why_not else Deterministic()
    raise ValueError(f"method must be 'auto', vb.Deterministic(...) or vb.Stochastic(...), not {method!r}.")


def _why_not_deterministic(target: Target, guide: Guide, stream: Minibatches) -> str:
    if not isinstance(guide, Gaussian):
        return f"a {type(guide).__name__} guide: its draws are not those of a Gaussian"
    if target.layout.params:
        return f"learnt params ({', '.join(target.layout.params)})"
    if target.layout.has_training_mode:
        return "modules that behave otherwise in training than in evaluation"
    if stream.plates:
        return f"minibatches (plate '{stream.plates[0][0]}')"
    return "" if target.dim else "a model without latent sites"


def _start(start: Posterior | Mapping[str, Any] | None, target: Target) -> np.ndarray | None:
    """Mean and log sd of the Gaussian that the user wants to start from, `(2, dim)`, if any."""
    if start is None:
        return None
    draws = isinstance(start, Posterior)
    z = np.asarray(target.unconstrain(start.sample(WARM_DRAWS) if draws else start), np.float64)
    loc, sd = (z.mean(axis=0), z.std(axis=0)) if draws else (z, np.full_like(z, START_SD))
    outside = [name for name, value in zip(target.layout.coordinates, loc) if not np.isfinite(value)]
    if outside:
        raise ModelError(
            "start does not lie inside the support.",
            site=outside[0],
            mend="Start from values strictly inside, such as a posterior's means.",
        )
    return np.stack([loc, np.log(np.maximum(sd, 1e-300))])


def _starts(where: np.ndarray | None, target: Target, raw: np.ndarray, count: int) -> np.ndarray:
    """Where to begin, `(starts, dim)`: at the point that the user wants, or at some that lie apart."""
    if where is not None or not target.dim:
        return np.zeros((1, target.dim)) if where is None else where[:1]
    return starts_of(target, host_generator(raw, "start"), count)


def _first_loc(
    where: np.ndarray | None, target: Target, guide: Guide, stream: Minibatches, raw: np.ndarray
) -> np.ndarray:
    """Where a stochastic fit begins, `(dim,)`: a good start is looked for on some rows, where it is worth the while."""
    if where is not None:
        return where[0]
    if isinstance(guide, ProgramGuide) or target.dim > SEARCHED:
        return np.zeros(target.dim)
    few = minibatch.few_rows(target, stream, raw)
    return minibatch.at_rest(target, stream, _starts(None, few, raw, 1)[0])


def _forgot_data(target: Target) -> bool:
    """Nothing is observed, although the model has an argument that is None: data, most likely."""
    if target.layout.observed or target.layout.params or target.model.conditions:
        return False
    args, kwargs = target.model.arguments
    given = [*args, *kwargs.values(), *(getattr(target.model.function, "__defaults__", None) or ())]
    return any(value is None for value in given)
