"""What `sample(name, dist, obs=y, obs_mask=m)` states.

Continuous entries where the mask is false are a latent site `<name>_unobserved` of shape `(missing, *event)`, in the
order of the rows, with the distributions of their rows; the value of the statement has them in their places. Discrete
ones are summed out, and in a step of a scan continuous ones integrated, which is to leave them out: they may not be
computed with, and are drawn in predictions.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.types import ArrayLike
from vbppl.distributions.rows import rows_of
from vbppl.model.shapes import Frames, as_numbers

SUFFIX = "_unobserved"


def mask_of(name: str, dist: Any, obs_mask: Any, frames: Frames) -> ArrayLike:
    """`obs_mask` as an array, after checking that it holds one truth for each event of the site."""
    mask = obs_mask if isinstance(obs_mask, jax.core.Tracer) else as_numbers(obs_mask, "obs_mask", name)
    batch = tuple(dist.batch_shape)
    if mask.dtype != bool:
        raise ModelError(
            f"obs_mask holds {mask.dtype}, not truth values.",
            site=name,
            mend="True is observed: obs_mask=~jnp.isnan(y), or m.astype(bool).",
        )
    if mask.shape in ((), batch):
        return mask if mask.shape == batch else (np.full if isinstance(mask, np.ndarray) else jnp.full)(batch, mask)
    whole = mask.shape == (*batch, *dist.event_shape)
    raise ModelError(
        f"obs_mask has shape {mask.shape}, but the batch of the site has shape {batch}.",
        site=name,
        details=f"event: {tuple(dist.event_shape)}" if dist.event_shape else "",
        mend="A part of an event cannot be missing: open a plate over it in the place of .to_event()."
        if whole and not frames
        else "A part of an event cannot be missing: mask whole rows, m.all(axis=-1), or make its numbers a batch."
        if whole
        else "Give one truth value for each row.",
    )


def partly_observed(run: Any, site: Any, mask: ArrayLike) -> Any:
    """The value of the statement of an observed `site`: what was observed, and what is latent in its place.

    Args:
      run: the current one; it knows which entries are missing.
      mask: true where the value was observed, of the batch shape.
    """
    dist, obs = site.dist, site.value
    site = dataclasses.replace(site, dist=dist.mask(mask))
    if dist.is_discrete or is_left_out(run, mask):
        said, answer = run.handler(dataclasses.replace(site, kind="missing")), run.ask(site)
        if said.value is not obs:  # the run that finds out what is computed from them
            return said.value
        if site.name not in run.missing:
            raise _not_found(site)
        return answer.value
    _check_place(run, site)
    if isinstance(mask, np.ndarray):  # the function closes over it
        at: Any = np.flatnonzero(~mask)
    elif site.name in run.missing:
        at = run.missing[site.name]
    else:
        said = run.handler(type(site)("missing", site.name, value=mask, frames=site.frames))
        if said.value is None:  # the run that finds out
            return dist.support.replaced(jnp.asarray(obs, dist.dtype), ~jnp.asarray(mask))
        raise _not_found(site)
    if not len(at):
        return run.ask(site).value
    # It stands in no plate: what is given for it has no rows of theirs.
    within, run.frames = run.frames, ()
    latent = run.ask(type(site)("sample", site.name + SUFFIX, dist=rows_of(dist, at))).value
    run.frames = within
    answer = run.ask(site)
    if answer.kind != "sample":  # it was set from outside
        return answer.value
    value = jnp.asarray(answer.value, jnp.result_type(answer.value, latent))
    whole = value.reshape(-1, *dist.event_shape).at[at].set(latent).reshape(value.shape)
    if not answer.observed:  # a draw is one of the whole
        run.sites[site.name] = dataclasses.replace(answer, value=whole)
    return whole


def _check_place(run: Any, site: Any) -> None:
    """Numbers that are missing are latent in all rows at once, so a part of these has none."""
    partial = [frame for frame in site.frames if run.sites[frame.name].value is not None]
    if partial:
        raise ModelError(
            f"plate '{partial[0].name}' shows its {partial[0].size} rows in parts, but what is missing in all of them "
            "are latent numbers.",
            site=site.name,
            mend="Fit without batch_size=; or leave out rows of which only an outcome is missing: dist.mask(m).",
        )


def is_left_out(run: Any, mask: ArrayLike) -> bool:
    """Whether numbers that are missing are integrated out: in a step of a scan, which does not know how many."""
    return getattr(run, "step", None) is not None and not isinstance(mask, np.ndarray)


def _not_found(site: Any) -> ModelError:
    return ModelError(
        "which values are missing was not found when the model was applied.",
        site=site.name,
        mend="Write obs_mask= in the model's function itself, and pass the mask as an argument.",
    )
