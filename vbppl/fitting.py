"""`fit`: fill the defaults in and walk the path once, from a model to a posterior."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl import diagnostics, engine, fixed_draws, modes
from vbppl.aliases import Seed
from vbppl.engine import Stochastic
from vbppl.errors import ModelError, VbpplWarning
from vbppl.evaluation import HEAVY
from vbppl.fixed_draws import Deterministic
from vbppl.guides.base import Guide
from vbppl.guides.gaussian import FullRank, Gaussian, Laplace, MeanField, Pathfinder
from vbppl.guides.point import MAP
from vbppl.guides.program import ProgramGuide
from vbppl.keys import host_generator, raw_key
from vbppl.models import Model, check_applied
from vbppl.posterior import Posterior
from vbppl.progress import watcher
from vbppl.records import Progress
from vbppl.reparam import decenter, hierarchical_sites
from vbppl.start import find_starts
from vbppl.streams import Rows
from vbppl.target import Target

FULL_RANK_DIM = 512  # up to here "auto" means full rank
STOCHASTIC_FULL_RANK_DIM = 50  # where the steps are stochastic
Method = str | Deterministic | Stochastic
STARTS = 3
GUIDES = {"mean_field": MeanField, "full_rank": FullRank}


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
      guide: "auto", "mean_field", "full_rank", a guide object (`vb.FullRank()`), or a function
        under `@vb.guide` applied to its arguments.
      method: "auto": on fixed draws to the end (`vb.Deterministic()`) where the guide is Gaussian, all
        rows are shown and no params are learnt, else `vb.Stochastic()`. Either can be given.
      seed: an int or a JAX key; the same seed gives the same bits on the same machine.
      batch_size: rows of a plate shown at each step: for the only plate, or by plates' names.
      start: a posterior, or values of all latent sites, to start from.
      progress: True or False for a progress bar; None for one only where a person watches a long fit.
      callback: called after each chunk of steps with a `vb.Progress`.

    Returns:
      the posterior; its `status` says why the fit ended.

    Raises:
      ModelError: the model does not mean what it says; the message names the site.
    """
    raw = raw_key(seed)
    check_applied(model)
    with watcher(progress, callback) as watch:
        posterior = _fit_once(model, guide, method, raw, batch_size, start, watch)
        if guide == "auto" and _is_poor(posterior) and not model.decentered:
            posterior = _in_other_coordinates(posterior, method, raw, batch_size, start, watch)
    _warn(posterior)
    return posterior


# What is not finite is told by the status and the report card, not by warnings from NumPy.
@np.errstate(all="ignore")
def _fit_once(
    model: Model,
    guide: str | Guide | Model,
    method: Method,
    raw: np.ndarray,
    batch_size: int | Mapping[str, int] | None,
    start: Posterior | Mapping[str, Any] | None,
    watch: Callable[[Progress], None],
) -> Posterior:
    """One fit, from a model to its posterior and report card."""
    target = Target.of(model)
    stream = _stream(target, batch_size)
    guide = _guide(guide, target, stream)
    method = _method(method, target, guide, stream)
    starts = _starts(start, target, guide, method, raw)
    if isinstance(guide, (Laplace, Pathfinder)):
        fitted = modes.run(target, guide, starts, raw, watch)
    elif isinstance(method, Deterministic):
        # `_method` has made sure that the guide is Gaussian.
        fitted = fixed_draws.run(target, guide, starts, method, raw, watch)  # pyright: ignore[reportArgumentType]
    else:
        phi = jax.tree.map(np.asarray, guide.init(target, starts[0]))
        fitted = engine.run(target, guide, phi, method, raw, stream, watch)
    target = dataclasses.replace(target, params=fitted.params["model"])
    phi, status = fitted.params["guide"], fitted.status
    elbo = diagnostics.elbo(guide, phi, target, raw)
    report = None if isinstance(guide, MAP) else diagnostics.judge(guide, phi, target, elbo, status, raw)
    return Posterior(target, guide, phi, elbo, fitted.bounds, status, report)


def _in_other_coordinates(
    before: Posterior,
    method: Method,
    raw: np.ndarray,
    batch_size: int | Mapping[str, int] | None,
    start: Posterior | Mapping[str, Any] | None,
    watch: Callable[[Progress], None],
) -> Posterior:
    """Fit again with hierarchical sites decentred, if there are any; keep the higher bound, and say so."""
    model = before.target.model
    names = hierarchical_sites(model)
    if not names or before.status.reason == "interrupted":
        return before
    after = _fit_once(decenter(model, *names), "auto", method, raw, batch_size, start, watch)
    bounds = f"ELBO {after.elbo} decentred, {before.elbo} centred"
    better = after.elbo.value > before.elbo.value
    chosen = after if better else before
    note = f"coordinates: {', '.join(names)} {'decentred' if better else 'left centred'} ({bounds})"
    report: Any = chosen.report  # there is one for every guide but MAP
    advice = tuple(step for step in report.advice if "decenter" not in step)
    return dataclasses.replace(chosen, report=dataclasses.replace(report, choices=(note,), advice=advice))


def _is_poor(posterior: Posterior) -> bool:
    return posterior.report is not None and posterior.report.verdict == "poor"


def _warn(posterior: Posterior) -> None:
    """Say aloud what a user must not overlook."""
    status, model = posterior.status, posterior.target.model
    if _forgot_data(posterior.target):
        said = "observes nothing: every sample statement is a latent variable. Was the data argument forgotten?"
        warnings.warn(VbpplWarning(f"{model!r} {said}"), stacklevel=3)
    if (not status.converged and status.reason != "steps") or status.skipped:
        warnings.warn(VbpplWarning(f"the fit of {model!r}: {status}."), stacklevel=3)
    elif posterior.report is not None and _is_poor(posterior):
        reasons = "; ".join(posterior.report.reasons)
        warnings.warn(VbpplWarning(f"the fit of {model!r} is poor: {reasons}. See posterior.check()."), stacklevel=3)


def _guide(guide: str | Guide | Model, target: Target, stream: Rows) -> Guide:
    if isinstance(guide, Guide):
        return guide
    if isinstance(guide, Model):
        return ProgramGuide(guide)
    if guide == "auto":
        deterministic = not target.layout.params and not stream.plates
        most = FULL_RANK_DIM if deterministic else STOCHASTIC_FULL_RANK_DIM
        return FullRank() if 1 < target.dim <= most else MeanField()
    if isinstance(guide, str) and guide in GUIDES:
        return GUIDES[guide]()
    raise ValueError(
        f"guide must be 'auto', {', '.join(map(repr, GUIDES))}, a guide such as vb.MeanField(), or a function "
        f"under @vb.guide applied to its arguments; not {guide!r}."
    )


def _method(method: Method, target: Target, guide: Guide, stream: Rows) -> Deterministic | Stochastic:
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


def _why_not_deterministic(target: Target, guide: Guide, stream: Rows) -> str:
    if not isinstance(guide, Gaussian):
        return f"a {type(guide).__name__} guide: its draws are not those of a Gaussian"
    if target.layout.params:
        return f"learnt params ({', '.join(target.layout.params)})"
    if stream.plates:
        return f"minibatches (plate '{stream.plates[0][0]}')"
    return "" if target.dim else "a model without latent sites"


def _stream(target: Target, batch_size: int | Mapping[str, int] | None) -> Rows:
    """The plates shown in part: by `batch_size`, or by the model's own `subsample_size`."""
    plates = {plate.name: plate for plate in target.layout.plates}
    if isinstance(batch_size, int):
        if len(plates) != 1:
            raise ModelError(
                f"batch_size={batch_size} needs a model with one plate; this one has {', '.join(plates) or 'none'}.",
                mend="Name the plate: batch_size={'rows': 256}.",
            )
        batch_size = dict.fromkeys(plates, batch_size)
    sizes = {name: plate.subsample_size for name, plate in plates.items()} | dict(batch_size or {})
    for name, size in sizes.items():
        if name not in plates:
            raise ModelError(f"batch_size names '{name}', but the model's plates are {', '.join(plates) or 'none'}.")
        if size is not None and not 0 < size <= plates[name].size:
            raise ModelError(f"plate '{name}' has {plates[name].size} rows; it cannot show {size}.")
    shown = ((n, plates[n].size, s) for n, s in sizes.items() if s is not None and s < plates[n].size)
    return Rows(tuple(shown))


def _starts(
    start: Posterior | Mapping[str, Any] | None, target: Target, guide: Guide, method: object, raw: np.ndarray
) -> np.ndarray:
    """Where to begin, `(starts, dim)`: several where the method can use them."""
    dtype = jnp.result_type(float)
    if start is not None:
        values = start.mean() if isinstance(start, Posterior) else start
        z = np.asarray(target.unconstrain(values), dtype)
        outside = [name for name, value in zip(target.layout.coordinates, z) if not np.isfinite(value)]
        if outside:
            raise ModelError(
                "start does not lie inside the support.",
                site=outside[0],
                mend="Start from values strictly inside, such as a posterior's means.",
            )
        return z[None]
    if isinstance(guide, ProgramGuide) or target.dim == 0:
        return np.zeros((1, target.dim), dtype)
    count = STARTS if isinstance(method, Deterministic) and target.data_size <= HEAVY else 1
    return find_starts(target, host_generator(raw, "start"), count).astype(dtype)


def _forgot_data(target: Target) -> bool:
    """Nothing is observed, although the model has an argument that is None: data, most likely."""
    if target.layout.observed or target.layout.params or target.model.conditions:
        return False
    args, kwargs = target.model.arguments
    given = [*args, *kwargs.values(), *(getattr(target.model.function, "__defaults__", None) or ())]
    return any(value is None for value in given)
