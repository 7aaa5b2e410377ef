"""`fit`: from a model to a posterior, in the five steps that every fit takes: plan, prepare, solve, judge, escalate."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, Literal, Never

from vbppl.core import devices
from vbppl.core.errors import NotConvergedWarning, PoorFitWarning, VbpplWarning
from vbppl.core.keys import raw_key
from vbppl.core.programs.threads import suited_to
from vbppl.core.types import PathLike, Seed
from vbppl.core.watch import Watch
from vbppl.data.source import mesh_of
from vbppl.fitting.advice import Cause, advised, causes_of, check_proper
from vbppl.fitting.call import call_of, circumstances
from vbppl.fitting.escalate import escalate, goes_on_at_once, judged_or_structured
from vbppl.fitting.plan import AnyGuide, Method, Plan, Start, check_call, plan
from vbppl.fitting.precision import computing_in, continued_in_float64, in_session_precision, requested_precision
from vbppl.fitting.prepare import check_begun, explaining, judge_solution, prepare, solved_from_prior
from vbppl.fitting.progress import watching
from vbppl.inference.initialization import InitializationError
from vbppl.inference.solution import Progress, Solution
from vbppl.model.model import Model
from vbppl.model.outside.numpyro import refuse_handlers
from vbppl.posterior.posterior import Posterior
from vbppl.posterior.report import AnyReport
from vbppl.target.target import Target


def fit(
    model: Model | Target,
    guide: AnyGuide = "auto",
    *,
    method: Method = "auto",
    seed: Seed = 0,
    batch_size: int | Mapping[str, int] | None = None,
    start: Start = None,
    seconds: float | None = None,
    precision: Literal["auto", "session", "float64"] = "auto",
    progress: bool | None = None,
    callback: Callable[[Progress], None] | None = None,
    checkpoint: PathLike | None = None,
    **foreign: Never,
) -> Posterior:
    """Approximate the posterior of `model` by a guide, and say how good it is.

    >>> import numpy as np, vbppl as vb, vbppl.distributions as dist
    >>> @vb.model
    ... def one_number(y):
    ...     x = vb.sample("x", dist.Normal(0.0, 1.0))
    ...     vb.sample("y", dist.Normal(x, 0.5), obs=y)
    >>> posterior = vb.fit(one_number(np.array(10.0)))
    >>> print(f"{posterior.mean()['x']:.3f} {posterior.sd()['x']:.3f}")
    8.000 0.447

    Args:
      model: a function under `@vb.model`, applied to its arguments; or a bare density, `vb.density(log_density, dim)`.
      guide: "auto", "mean_field", "full_rank", "low_rank", "copula", a guide object (`vb.FullRank()`), or a function
        under `@vb.guide` applied to its arguments.
      method: "auto": `vb.Deterministic()`, on fixed draws to the end, where there is a solver of that kind for the
        guide, all rows are shown and no params are learnt, else `vb.Stochastic()`. Either can be given.
      seed: an int or a JAX key; the same seed gives the same bits on the same machine.
      batch_size: rows of a plate shown at each step: for the only plate, or by plates' names.
      start: where to begin: a posterior, whose guide's parameters, learnt params and networks are taken over where
        they fit; or values of all latent sites.
      seconds: by the clock, after which the best so far is returned, with its report; compiling is not cut short.
      precision: "auto": the session's, and float64 from where rounding limits a fit on fixed draws, which the card
        says; "session": the session's only; or "float64", for this fit alone.
      progress: True or False for signs of life on stderr or in the notebook's cell; None for them only after 2 seconds,
        or, where stderr is no terminal, in a line every 10 seconds.
      callback: called after each chunk of steps with a `vb.inference.Progress`; it cannot move the fit. What it raises,
        `fit` raises; but a KeyboardInterrupt is Ctrl-C.
      checkpoint: a file in which a stochastic fit keeps itself while it runs; a fit that was killed goes on from
        it to the same bits. A fit on fixed draws writes none: it depends on its seed alone and is done anew.

    Returns:
      the posterior; its `status` says why the fit ended. Ctrl-C ends a fit as `seconds` do, with the last
      whole state; before the first step is over there is none, and it is raised.

    Raises:
      ModelError: the model does not mean what it says; the message names the site.
    """
    check_call(seconds, progress, callback, precision, foreign)
    given = {"guide": guide, "method": method, "batch_size": batch_size, "start": start, "seconds": seconds}
    raw, asked = raw_key(seed), requested_precision(method, precision)
    with watching(progress, callback, seconds) as watch, computing_in(asked), devices.together():
        refuse_handlers("vb.fit")
        target = Target.of(model)
        watch = _agreeing(watch, target)
        planned = plan(target, guide, method, batch_size, start, checkpoint)
        with explaining([target]), planned.threads(target):
            problem = prepare(planned, [target], [raw])
            watch.doing("compiling")
            try:
                (solution,) = planned.solve(problem, watch)
            except InitializationError as error:
                solution = solved_from_prior(planned, problem, watch, error)
        solution = check_begun(solution, watch)
        solution, report = judge_solution(solution, raw, watch, lambda: goes_on_at_once(planned, problem, solution))
        solution, report, causes = _bettered(planned, problem, solution, report, watch, model, precision)
    calls = (circumstances(), *call_of(fit, "model", seed, {**given, "precision": precision}))
    posterior = in_session_precision(Posterior(solution, advised(report, causes), calls=calls), model)
    _warn(posterior, model, causes)
    return posterior


def _agreeing(watch: Watch, target: Target) -> Watch:
    """The watch by which several processes, where the data are spread over some, decide alike."""
    return dataclasses.replace(watch, agreed=devices.agreed if devices.spans_processes(mesh_of(target)) else None)


def _bettered(
    planned: Plan, problem: Any, solution: Solution, report: AnyReport, watch: Watch, model: Any, precision: str
) -> tuple[Solution, AnyReport, Sequence[Cause]]:
    """The answer that stands or a better one, its report, and what is wrong with the model where it is poor."""
    watch = dataclasses.replace(watch, keeps=False)  # from here on there is an answer
    try:
        if precision == "auto":
            problem, solution, report = continued_in_float64(planned, problem, solution, report, model, watch)
        with computing_in(getattr(problem, "precision", None)), suited_to(solution.target.dim):
            if goes_on_at_once(planned, problem, solution):
                planned, solution, report = judged_or_structured(planned, problem, solution, report, watch)
            check_proper(solution, report)
            solution, report = escalate(planned, problem, solution, report, watch)
            return solution, report, causes_of(model, solution, report)
    except KeyboardInterrupt:
        if watch.agreed:
            raise
        return solution.noted("ended", "interrupted while a better answer was looked for"), report, ()


def _warn(posterior: Posterior, model: Model | Target, causes: Sequence[Cause]) -> None:
    """Say aloud what a user must not overlook."""
    status, report, said = posterior.status, posterior.report, []
    if _forgot_data(model, posterior.target):
        text = f"{model!r} observes nothing: every sample statement is a latent variable."
        said.append(VbpplWarning(f"{text} Was the data argument forgotten?"))
    elif name := _forgotten(model, posterior.target):
        text = f"site '{name}' of {model!r} is latent, since the argument {name} is None."
        said.append(VbpplWarning(f"{text} Was it forgotten?"))
    if (not status.converged and status.reason != "steps") or status.skipped:
        said.append(NotConvergedWarning(f"the fit of {model}: {status}."))
    elif report.verdict in ("poor", "unknown"):
        why = "; ".join(report.reasons[len(causes) :])
        said.append(PoorFitWarning(f"the fit of {model} is {report.verdict}: {why}. See posterior.check()."))
    said += [PoorFitWarning(f"the fit of {model}: {cause}.") for cause in causes]
    for warning in said:
        warnings.warn(warning, stacklevel=3)


def _forgotten(model: Model | Target, target: Target) -> str:
    """A latent site of the same name as an argument that is None, in a model that observes others."""
    if not isinstance(model, Model) or not isinstance(model.function, FunctionType):
        return ""
    args, kwargs = model.arguments
    call = inspect.signature(model.function).bind(*args, **kwargs)
    call.apply_defaults()
    latent = {slot.name for slot in target.layout.slots}
    return next((name for name, value in call.arguments.items() if value is None and name in latent), "")


def _forgot_data(model: Model | Target, target: Target) -> bool:
    """Nothing is observed, although the model has an argument that is None: data, most likely."""
    if target.layout.observed or target.layout.params or not isinstance(model, Model) or model.conditions:
        return False
    args, kwargs = model.arguments
    given = [*args, *kwargs.values(), *(getattr(model.function, "__defaults__", None) or ())]
    return any(value is None for value in given)
