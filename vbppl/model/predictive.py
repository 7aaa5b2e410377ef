"""Running a model forward at the draws of a posterior."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core import devices
from vbppl.core.errors import ModelError, VbpplWarning, of_kind
from vbppl.core.keys import wrap
from vbppl.core.programs.compiling import OverDraws
from vbppl.core.types import AnyArray, Array
from vbppl.distributions.location_scale import Parameterisation, bijector_of
from vbppl.model.control_flow.steps import at_step, key_at
from vbppl.model.enumeration.marginal import likelihoods
from vbppl.model.handlers import answered, at_point, at_rows, drawn_anew, given, required
from vbppl.model.missing.statement import SUFFIX
from vbppl.model.model import Model
from vbppl.model.primitives import Site
from vbppl.model.shapes import take_rows
from vbppl.model.trace import Outline, abstract_sites, summed_sites, values_of


def predict(
    model: Model,
    draws: Mapping[str, Array],
    params: Mapping[str, Any],
    raw_key: np.ndarray,
    n: int = 1,
    z: Mapping[str, Array] | None = None,
    forms: Mapping[str, Parameterisation] | None = None,
    anew: Sequence[str] = (),
) -> dict[str, Array]:
    """Draws of everything in `model` that the posterior does not fix, `(n, ...)` for each site.

    Observed sites are drawn anew. A latent site whose rows are others than the posterior's (a new
    school) is drawn from its prior given the rest, with a warning. A scan of more steps than the
    posterior's is run on from its last state, of fewer it is cut.

    Args:
      model: the fitted model, or the same function with other data.
      draws: of the posterior, `(n, ...)` for each latent site.
      n: the number of draws of a model that has no latent site at all.
      z: draws of further latent sites in unconstrained space.
      forms: how sites in `z` are seen that can be seen in other coordinates.
      anew: sites that are reported although their draws are given.
    """
    z = dict(z or {})
    sites = abstract_sites(model)
    given_shapes = {name: np.shape(value)[1:] for name, value in {**draws, **z}.items()}
    latent = {n: s for n, s in sites.items() if s.kind == "sample" and n in given_shapes}
    if given_shapes and not latent:
        raise ModelError(
            f"{model!r} has none of the posterior's sites ({', '.join(given_shapes)}).",
            mend="Predict with the function that was fitted, applied to other data.",
        )
    changed = [n for n, s in latent.items() if given_shapes[n] != (s.unconstrained if n in z else s.shape)]
    begun = {n: draws[n] for n in changed if n in draws and _is_run_on(given_shapes[n], latent[n])}
    changed = [name for name in changed if name not in begun]
    for name in changed:
        may_change = bool(latent[name].frames) or name.removesuffix(SUFFIX) in model.missing
        _say_drawn_from_prior(name, given_shapes[name], latent[name], may_change)
    draws = {**draws, **{name: _as_long(value, latent[name].shape[0]) for name, value in begun.items()}}
    kept, z = ({name: part[name] for name in latent if name in part and name not in changed} for part in (draws, z))
    counts = {name: np.shape(value)[0] for name, value in {**draws, **z}.items()}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise ValueError(f"draws must be as many of each site, not {said}.")
    n = next(iter(counts.values()), n)
    lengths = {name: np.int32(given_shapes[name][0]) for name in begun}
    new = devices.readable(
        _forward((np.arange(n, dtype=np.uint32), kept, z), model, dict(forms or {}), dict(params), lengths, raw_key)
    )
    fixed = {*kept, *z} - set(anew) - {name for name in begun if given_shapes[name][0] < latent[name].shape[0]}
    return {name: new[name] for name in sites if name in new and name not in fixed}


def observed(model: Model) -> dict[str, np.ndarray]:
    """What the model observes: the value of each observed site, all rows."""
    return {name: np.asarray(value) for name, value in devices.readable(_observed(model.loaded())).items()}


@jax.jit
def _observed(model: Model) -> dict[str, Array]:
    sites = model.trace(at_point(0.0))
    return {name: jnp.asarray(site.value) for name, site in sites.items() if site.kind == "sample" and site.observed}


def check_in_memory(model: Model) -> None:
    """Say so if it is no model, or some of its data are read in parts."""
    of_kind("model", model, hasattr(model, "sources"), "the model function applied to its arguments")
    if model.sources:
        name = next(iter(model.sources))
        raise ModelError(
            f"'{name}' is read in parts, and prediction runs the model at all rows at once.",
            mend="Apply the model to arrays of the rows that you want: posterior.predict(my_model(x[:100], ...)).",
        )


def log_likelihood(
    model: Model,
    draws: Mapping[str, Array],
    params: Mapping[str, Any],
    parts: Iterable[tuple[float, dict[str, Any]]] = ((1.0, {}),),
    keepdims: bool = False,
) -> dict[str, AnyArray]:
    """The log density of each observation at each draw, `(n, *batch)` for each observed site.

    Where it depends on discrete sites without draws, these are summed out: that of each of their rows, `(n, *rows)`, or
    to `keepdims` with 1 along the plates inside of these. `parts` are the sets of rows to go through, as `Target.parts`
    gives them.
    """
    found = _by_site(_log_likelihood, model, draws, params, parts)
    if keepdims:
        return found
    kept = {name: axes_kept(each, model, name) for name, each in found.items()}
    return {n: each.reshape((len(each), *(each.shape[1 + axis] for axis in kept[n]))) for n, each in found.items()}


def axes_kept(values: AnyArray, model: Model, name: str) -> list[int]:
    """The axes of a site's batch along which `values`, `(n, *batch)`, have not been summed."""
    return _kept(values, abstract_sites(model)[name])


def _kept(values: AnyArray, site: Outline) -> list[int]:
    return [axis for axis, size in enumerate(values.shape[1:]) if size == site.batch[axis]]


def log_prior(
    model: Model,
    draws: Mapping[str, Array],
    params: Mapping[str, Any],
    parts: Iterable[tuple[float, dict[str, Any]]] = ((1.0, {}),),
) -> dict[str, AnyArray]:
    """The same of each latent site, given those that it depends on: the density on its support, `(n, *batch)`."""
    return _by_site(_log_prior, model, draws, params, parts)


def observations(model: Model) -> dict[str, np.ndarray]:
    """What was observed, by the names of the sites."""
    return {name: np.asarray(value) for name, value in devices.readable(_observations(model)).items()}


@jax.jit
def _observations(model: Model) -> dict[str, Array]:
    sites = model.trace(at_point(0.0))
    return {name: site.value for name, site in sites.items() if site.kind == "sample" and site.observed}


def _by_site(
    densities: OverDraws,
    model: Model,
    draws: Mapping[str, Array],
    params: Mapping[str, Any],
    parts: Iterable[tuple[float, dict[str, Any]]],
) -> dict[str, AnyArray]:
    sites = abstract_sites(model)
    latent = {n: draws[n] for n, s in sites.items() if s.kind == "sample" and not s.observed and n in draws}
    found: dict[str, np.ndarray] = {}
    for _, rows in parts:
        shown = {name: _at_rows(values, sites[name], rows) for name, values in latent.items()}
        n = next((len(values) for values in shown.values()), 1)
        part = devices.readable(densities((np.arange(n), shown), model, dict(params), rows))
        if not rows:
            return part
        for name, values in part.items():
            kept = _kept(values, _showing(sites[name], rows))
            batch = [size if axis in kept else 1 for axis, size in enumerate(sites[name].batch)]
            whole = found.setdefault(name, np.empty((len(values), *batch), values.dtype))
            at = [slice(None)] * whole.ndim
            for frame in sites[name].frames:
                if frame.name in rows and len(sites[name].batch) + frame.dim in kept:  # a stretch of rows in order
                    first = int(rows[frame.name].indices[0])
                    at[frame.dim] = slice(first, first + len(rows[frame.name].indices))
            whole[tuple(at)] = values
    return found


def _showing(site: Outline, rows: Mapping[str, Any]) -> Outline:
    """The site where these rows are shown."""
    batch = list(site.batch)
    for frame in site.frames:
        if frame.name in rows:
            batch[frame.dim] = len(rows[frame.name].indices)
    return dataclasses.replace(site, batch=tuple(batch))


def _at_rows(values: AnyArray, site: Outline, rows: Mapping[str, Any]) -> AnyArray:
    """Draws of a latent site, `(n, *batch, *event)`, at the rows shown of the plates around it."""
    frames = [frame for frame in site.frames if frame.name in rows]
    return take_rows(jnp.asarray(values), frames, [rows[frame.name] for frame in frames], len(site.event))


def _is_run_on(before: tuple[int, ...], site: Outline) -> bool:
    """Whether a site of a scan differs from the posterior's in the number of steps alone."""
    return bool(site.steps) and len(before) == len(site.shape) and before[1:] == site.shape[1:]


def _as_long(values: AnyArray, length: int) -> AnyArray:
    """Draws of the steps of a scan, `(n, steps, ...)`, cut or filled up to a number of steps."""
    values = values[:, :length]
    missing = length - values.shape[1]
    return jnp.concatenate([values, jnp.repeat(values[:, -1:], missing, axis=1)], axis=1) if missing else values


def _say_drawn_from_prior(name: str, before: tuple[int, ...], site: Outline, may_change: bool) -> None:
    if not may_change:
        raise ModelError(
            f"the posterior's values have shape {before}, but this model's site has shape {site.shape}.",
            site=name,
            mend="Only the rows of a plate may change in number between fit and prediction.",
        )
    warnings.warn(
        VbpplWarning(
            f"site '{name}' has shape {before} in the posterior and {site.shape} here: its rows are new, "
            "and are drawn from their prior given the other sites."
        ),
        stacklevel=4,
    )


def _predicted(
    draw: tuple[Array, dict[str, Array], dict[str, Array]],
    model: Model,
    forms: dict[str, Parameterisation],
    params: dict[str, Any],
    lengths: dict[str, Array],
    raw_key: Array,
) -> dict[str, Array]:
    """All values of a run, with the draw's own key for what it does not have.

    Of the sites in `lengths` there are so many steps of a scan; those after them are drawn forward.
    """
    number, values, z = draw
    key = jax.random.fold_in(wrap(raw_key), number)
    whole = {name: value for name, value in values.items() if name not in lengths}

    def value_of(site: Site) -> Array:
        if site.name in z:
            return bijector_of(site.dist, forms.get(site.name)).forward(at_step(site.step, z[site.name]))
        drawn = site.dist.sample(key_at(key, site.name, site.step))
        if site.name not in lengths:
            return drawn
        known = at_step(site.step, values[site.name])
        return jnp.where(site.step.outermost.index < lengths[site.name], known, drawn)

    return values_of(model.trace(drawn_anew(given({**whole, **params}, answered(value_of)))))


def _densities(
    draw: tuple[Array, dict[str, Array]], model: Model, params: dict[str, Any], rows: dict[str, Any]
) -> dict[str, Array]:
    """The log densities of what is observed, given a draw of all else, of which there may be nothing but a number.

    Discrete sites that are not drawn are summed out.
    """
    values = {**draw[1], **params}
    if summed := summed_sites(sites := abstract_sites(model), values):
        found = likelihoods(lambda summing: (model.trace(at_rows(rows, summing(given(values, required)))), ()), summed)
        for name in (n for n, s in sites.items() if s.kind == "sample" and s.observed and n not in found):
            raise ModelError(
                "it is observed in a scan whose hidden states are summed out inside of a scan that sums out others, so "
                "that its density has no steps of its own.",
                site=name,
                mend="Take the sum of all, model.log_joint(values).",
            )
        return found
    return _log_probs(draw, model, params, rows, observed=True)


def _priors(
    draw: tuple[Array, dict[str, Array]], model: Model, params: dict[str, Any], rows: dict[str, Any]
) -> dict[str, Array]:
    """Those of what is not."""
    return _log_probs(draw, model, params, rows, observed=False)


def _log_probs(draw: Any, model: Model, params: dict[str, Any], rows: Any, observed: bool) -> dict[str, Array]:
    sites = model.trace(at_rows(rows, given({**draw[1], **params}, required)))
    found = [s for s in sites.values() if s.kind == "sample" and s.observed == observed]
    return {s.name: jnp.broadcast_to(s.dist.log_prob(s.value), s.dist.batch_shape) for s in found}


_forward, _log_likelihood, _log_prior = OverDraws(_predicted), OverDraws(_densities), OverDraws(_priors)
