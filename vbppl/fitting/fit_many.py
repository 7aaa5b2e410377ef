"""Many fits at once: a model function applied to many data sets, or one model from many seeds.

A deterministic fit is linear algebra around one compiled evaluation, so a hundred fits of equal shapes
advance side by side, and cost little more than one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vbppl.core import devices
from vbppl.core.errors import ModelError, of_kind
from vbppl.core.keys import raw_key
from vbppl.core.types import Seed
from vbppl.core.watch import Watch
from vbppl.fitting.advice import check_proper
from vbppl.fitting.call import call_of, circumstances
from vbppl.fitting.plan import GuideName, check_call, plan
from vbppl.fitting.prepare import check_begun, explaining, judge_solution, prepare
from vbppl.fitting.progress import watching
from vbppl.guides.base import Guide
from vbppl.inference.deterministic.problem import Deterministic
from vbppl.inference.solution import Solution
from vbppl.model.model import Model, ModelFunction, check_applied
from vbppl.model.outside.numpyro import refuse_handlers
from vbppl.posterior.posterior import Posterior
from vbppl.target.target import Target

AT_ONCE = 256  # fits that advance side by side


def fit_many(
    model: ModelFunction[...] | Model | Sequence[Model],
    datasets: Sequence[Mapping[str, Any] | tuple[Any, ...]] | None = None,
    guide: GuideName | Guide = "auto",
    *,
    method: Deterministic | None = None,
    seeds: Seed | Sequence[Seed] = 0,
    progress: bool | None = None,
) -> list[Posterior]:
    """Fit a model to many data sets of equal shapes, or from many seeds, side by side.

    Each posterior is the one that `vb.fit` gives with the same data and seed, to rounding, but a poor one is left
    as it is: no mixture, no second try in other coordinates, no warning; see its report.

    >>> import vbppl as vb, vbppl.distributions as dist
    >>> @vb.model
    ... def one_number(y):
    ...     x = vb.sample("x", dist.Normal(0.0, 1.0))
    ...     vb.sample("y", dist.Normal(x, 1.0), obs=y)
    >>> posteriors = vb.fit_many(one_number, [{"y": 1.0}, {"y": 4.0}])
    >>> [f"{posterior.mean()['x']:.2f}" for posterior in posteriors]
    ['0.50', '2.00']

    Args:
      model: a model function, with `datasets`; or one model applied to its arguments, with many `seeds`; or
        several applied models.
      datasets: for each fit the arguments of the model function: a dict of them by name, or a tuple.
      guide: "auto", or one that is fitted without stochastic steps: "mean_field", "full_rank", `vb.Laplace()`, ...
      method: how the fixed draws are made; the session's precision is used.
      seeds: one for all fits, or one for each.
      progress: as in `vb.fit`.

    Returns:
      the posteriors, in order; fewer, the last one marked as interrupted, where a person interrupts.

    Raises:
      ModelError: the data sets differ in shape, the model cannot be fitted on fixed draws, or one has no posterior.
    """
    check_call(None, progress, None)
    refuse_handlers("vb.fit_many")
    models, seeds = _each(model, datasets, seeds)
    raws = [raw_key(seed, "each of seeds") for seed in seeds]
    posteriors: list[Posterior] = []
    method = Deterministic() if method is None else method
    with watching(progress) as watch:
        where, given = circumstances(), {"guide": guide, "method": method}
        for solution, raw in zip(solved_side_by_side(models, guide, method, raws, watch), raws):
            solution = solution if posteriors else check_begun(solution, watch)
            watch.doing(f"judging fit {len(posteriors) + 1:,} of {len(models):,}")
            call = call_of(fit_many, "[model]", raw, given, end="[0]")
            judged = judge_solution(solution, raw, Watch())
            check_proper(*judged, details=f"data set: {len(posteriors)}")
            posteriors.append(Posterior(*judged, calls=(where, *call)))
            if posteriors[-1].status.was_cut_short:
                break
    return posteriors


def solved_side_by_side(
    models: Sequence[Model], guide: GuideName | Guide, method: Deterministic, raws: Sequence[np.ndarray], watch: Watch
) -> Iterator[Solution]:
    """The solution for each model, not judged yet; they end early where a person interrupts."""
    targets = [Target.of(_checked(each, number, models[0])) for number, each in enumerate(models)]
    planned = plan(targets[0], guide, method)
    for begin in range(0, len(targets), AT_ONCE):
        part = slice(begin, begin + AT_ONCE)
        watch.doing(f"fitting {begin + 1:,} to {min(part.stop, len(targets)):,} of {len(targets):,}")
        # What is not finite is told by the status.
        shown = targets[part]
        with np.errstate(all="ignore"), explaining(shown), devices.together(), planned.threads(targets[0]):
            solutions = planned.solve(prepare(planned, shown, raws[part]), Watch())
        yield from solutions
        if any(solution.status.was_cut_short for solution in solutions):
            return


def _each(model: Any, datasets: Any, seeds: Any) -> tuple[list[Model], list[Seed]]:
    """A model and a seed for each fit."""
    several_seeds = isinstance(seeds, (list, tuple, range))
    if isinstance(model, ModelFunction):
        if datasets is None:
            raise ModelError(
                f"{model!r} needs data sets.", mend="Give a dict of its arguments for each fit: [{...}, {...}]."
            )
        of_kind("datasets", datasets, isinstance(datasets, Iterable), "a list of the arguments of each fit")
        _check_datasets(datasets)
        # A float that differs from one data set to the next is data.
        data = [jax.tree.map(lambda leaf: np.asarray(leaf) if isinstance(leaf, float) else leaf, d) for d in datasets]
        models = [model(**each) if isinstance(each, Mapping) else model(*each) for each in data]
    elif datasets is not None:
        mend = "Give the function under @vb.model itself with them, or the applied models alone."
        raise ModelError("datasets belong to a model function, but the model is applied already.", mend=mend)
    elif isinstance(model, (list, tuple)):
        models = list(model)
    else:
        check_applied(model)
        models = [model] * (len(seeds) if several_seeds else 1)
    seeds = list(seeds) if several_seeds else [seeds] * len(models)
    if len(models) != len(seeds) or not models:
        raise ModelError(
            f"{len(models)} data sets and {len(seeds)} seeds are not one of each for each fit.",
            mend="Give as many seeds as data sets, or one for all.",
        )
    return models, seeds


def _check_datasets(datasets: Any) -> None:
    if isinstance(datasets, Mapping):
        first = next(iter(datasets), "y")
        raise ModelError(
            f"datasets is one dict, of {', '.join(map(str, datasets))}, not one for each fit.",
            mend=f"Take it apart along its first axis: [{{{first!r}: row}} for row in {first}].",
        )
    for number, each in enumerate(datasets):
        if not isinstance(each, (Mapping, tuple, list)):
            raise ModelError(
                f"data set {number} is of type {type(each).__name__}, not the arguments of the model function.",
                mend="Give for each fit a dict of its arguments, {'y': row}, or a tuple, (row,).",
            )
    if not len(datasets):
        raise ModelError("there are no data sets.", mend="Give a dict of the arguments for each fit: [{...}, {...}].")


def _told(model: Model) -> str:
    missing = [f"{len(places)} of '{name}' missing" for name, places in model.missing.items() if places is not None]
    return ", ".join([repr(model), *missing])


def _checked(model: Model, number: int, first: Model) -> Model:
    """The model, after checking that it is of the same shapes as the first."""
    check_applied(model)
    shapes = [[np.shape(leaf) for leaf in jax.tree.leaves(each)] for each in (model, first)]
    if shapes[0] != shapes[1] or jax.tree.structure(model) != jax.tree.structure(first):
        raise ModelError(
            f"data set {number} differs from the first in more than its numbers.",
            details=f"first: {_told(first)}\n{number}: {_told(model)}",
            mend="Side by side go only fits of one model function to arrays of equal shapes; fit the others apart.",
        )
    return model
