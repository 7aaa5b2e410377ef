"""`fit`: from a model to a posterior, in the five steps that every fit takes."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import Never

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import NotConvergedWarning, PoorFitWarning, VbpplWarning
from vbppl.core.keys import raw_key
from vbppl.core.types import PathLike, Seed
from vbppl.fitting.escalate import escalate
from vbppl.fitting.plan import AnyGuide, Method, Start, check_call, plan
from vbppl.fitting.prepare import explaining, judged, prepare
from vbppl.fitting.progress import watching
from vbppl.inference.deterministic.problem import Deterministic
from vbppl.inference.solution import Progress
from vbppl.model.model import Model
from vbppl.model.trace import advice_of_indices
from vbppl.posterior.posterior import Posterior
from vbppl.target.target import Target


def fit(
    model: Model,
    guide: AnyGuide = "auto",
    *,
    method: Method = "auto",
    seed: Seed = 0,
    batch_size: int | Mapping[str, int] | None = None,
    start: Start = None,
    seconds: float | None = None,
    progress: bool | None = None,
    callback: Callable[[Progress], None] | None = None,
    checkpoint: PathLike | None = None,
    **foreign: Never,
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
      model: a function under `@vb.model`, applied to its arguments; or a bare density, `vb.density(log_density, dim)`.
      guide: "auto", "mean_field", "full_rank", "low_rank", a guide object (`vb.FullRank()`), or a function
        under `@vb.guide` applied to its arguments.
      method: "auto": `vb.Deterministic()`, on fixed draws to the end, where the guide is Gaussian, all rows are shown
        and no params are learnt, else `vb.Stochastic()`. Either can be given.
      seed: an int or a JAX key; the same seed gives the same bits on the same machine.
      batch_size: rows of a plate shown at each step: for the only plate, or by plates' names.
      start: where to begin: a posterior, whose guide's parameters, learnt params and networks are taken over where
        they fit; or values of all latent sites.
      seconds: by the clock, after which the best so far is returned, with its report; compiling is not cut short.
      progress: True or False for a progress bar; None for one only where a person watches a long fit.
      callback: called after each chunk of steps with a `vb.Progress`; it cannot move the fit.
      checkpoint: a file in which a stochastic fit keeps itself while it runs; a fit that was killed goes on from
        it to the same bits. A fit on fixed draws writes none: it depends on its seed alone and is done anew.

    Returns:
      the posterior; its `status` says why the fit ended. Ctrl-C ends a fit as `seconds` do.

    Raises:
      ModelError: the model does not mean what it says; the message names the site.
    """
    check_call(seconds, progress, callback, foreign)
    raw = raw_key(seed)
    with watching(progress, callback, seconds) as watch, precision_of(method):
        target = Target.of(model)
        planned = plan(target, guide, method, batch_size, start, checkpoint)
        with explaining([target]):
            problem = prepare(planned, [target], [raw])
            (solution,) = planned.solve(problem, watch)
        solution, report = judged(solution, raw, watch)
        solution, report = escalate(planned, problem, solution, report, watch)
    posterior = in_session_precision(Posterior(solution, report), model)
    _warn(posterior, model)
    return posterior


@contextlib.contextmanager
def precision_of(method: Method) -> Iterator[None]:
    """Compute in the method's own precision, for this fit alone; what is not finite is told by the status.

    Half of a fit is on the host, so what it sends to the device is meant, whatever a guard says of the user's own code.
    """
    double = isinstance(method, Deterministic) and method.precision == "float64"
    precision = jax.enable_x64(True) if double else contextlib.nullcontext()
    with np.errstate(all="ignore"), jax.transfer_guard("allow"), precision:
        yield


def in_session_precision(posterior: Posterior, model: Model) -> Posterior:
    """The same posterior, to be used in the session's dtype; its report is that of the fit."""
    dtype = jnp.result_type(float)
    if np.asarray(posterior.target.centred).dtype == dtype:
        return posterior
    target = Target.of(model).replace(centred=np.asarray(posterior.target.centred, dtype))
    phi = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), posterior.phi)
    return dataclasses.replace(posterior, solution=dataclasses.replace(posterior.solution, target=target, phi=phi))


def _warn(posterior: Posterior, model: Model) -> None:
    """Say aloud what a user must not overlook."""
    status, report, said = posterior.status, posterior.report, []
    if _forgot_data(model, posterior.target):
        text = f"{model!r} observes nothing: every sample statement is a latent variable."
        said.append(VbpplWarning(f"{text} Was the data argument forgotten?"))
    elif name := _forgotten(model, posterior.target):
        text = f"site '{name}' of {model!r} is latent, since the argument {name} is None."
        said.append(VbpplWarning(f"{text} Was it forgotten?"))
    if (not status.converged and status.reason != "steps") or status.skipped:
        said.append(NotConvergedWarning(f"the fit of {model!r}: {status}."))
    elif report.verdict in ("poor", "unknown"):
        text = f"the fit of {model!r} is {report.verdict}: {'; '.join(report.reasons)}. See posterior.check()."
        said.append(PoorFitWarning(text))
    if report.verdict == "poor" and (advice := _advice(model)):
        said.append(PoorFitWarning(f"the fit of {model!r}: {advice}."))
    for warning in said:
        warnings.warn(warning, stacklevel=3)


def _advice(model: Model) -> str:
    """What an index out of range may have done, where there are integers that may be indices."""
    arrays = () if not isinstance(model, Model) or model.sources else model.arrays
    return advice_of_indices(model) if any(np.asarray(a).dtype.kind in "iu" for a in arrays) else ""


def _forgotten(model: Model, target: Target) -> str:
    """A latent site of the same name as an argument that is None, in a model that observes others."""
    if not isinstance(model, Model) or not isinstance(model.function, FunctionType):
        return ""
    args, kwargs = model.arguments
    call = inspect.signature(model.function).bind(*args, **kwargs)
    call.apply_defaults()
    latent = {slot.name for slot in target.layout.slots}
    return next((name for name, value in call.arguments.items() if value is None and name in latent), "")


def _forgot_data(model: Model, target: Target) -> bool:
    """Nothing is observed, although the model has an argument that is None: data, most likely."""
    if target.layout.observed or target.layout.params or not isinstance(model, Model) or model.conditions:
        return False
    args, kwargs = model.arguments
    given = [*args, *kwargs.values(), *(getattr(model.function, "__defaults__", None) or ())]
    return any(value is None for value in given)
