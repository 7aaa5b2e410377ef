"""Plates as batch dimensions, and the checks that a site's shapes agree with them.

A plate owns one batch dimension, counted from the right. Inside plates every batch dimension longer
than 1 must belong to a plate and have its length; outside all plates batch dimensions are free. The
field broadcasts silently where these rules fail, and an `(N, 1)` against an `(N,)` becomes
`(N, N)` observations: so here each disagreement is an error that shows the shapes and the mend.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend.core import get_opaque_trace_state

from vbppl.core.errors import ModelError, whole_number
from vbppl.core.plain_words import TOO_LARGE
from vbppl.core.types import Array, Shape
from vbppl.data.padded import is_padded, without_padding
from vbppl.data.source import RowBlock, Source, places_of, split_rows
from vbppl.distributions.base import Distribution, parameters


@dataclasses.dataclass(frozen=True)
class Frame:
    """An open plate: `length` of its `size` rows are shown, along batch dimension `dim` (< 0)."""

    name: str
    size: int
    length: int
    dim: int

    def __str__(self) -> str:
        rows = f"{self.length} of {self.size}" if self.length != self.size else str(self.size)
        return f"dim {self.dim}, {rows} row{'s' * (self.size != 1)}"


Frames = Sequence[Frame]


def plated(batch: Shape, frames: Frames) -> Shape:
    """`batch`, widened to the rows of the open plates."""
    depth = max(len(batch), *(-frame.dim for frame in frames), 0)
    wide = [1] * (depth - len(batch)) + list(batch)
    for frame in frames:
        wide[frame.dim] = frame.length
    return tuple(wide)


def all_rows(batch: Shape, frames: Frames) -> Shape:
    """`batch` as it is where the plates show all of their rows."""
    whole = list(batch)
    for frame in frames:
        whole[frame.dim] = frame.size
    return tuple(whole)


def expanded(site: str, dist: Distribution, frames: Frames) -> Distribution:
    """`dist` with its batch expanded to the rows of the open plates, after checking that it fits."""
    if not frames:
        return dist
    batch = tuple(dist.batch_shape)
    check_owned(site, "the distribution's batch", batch, frames, _parameter_shapes(dist))
    return dist.expand(plated(batch, frames))


def check_transforms(kind: str, site: str, within: Any) -> None:
    """A statement must stand under the transforms of JAX that stand around the whole run, `within`, and no others."""
    if get_opaque_trace_state() != within:
        raise ModelError(
            f"the {kind} statement stands inside jax.vmap, scan, cond, jit or grad, which its value cannot leave.",
            site=site,
            mend="Write a plate in the place of vmap, and vb.scan(step, init, xs) in the place of jax.lax.scan.",
        )


def check_plate(frame: Frame, frames: Frames) -> None:
    """An open plate owns its name and its dim alone."""
    for other in frames:
        if other.name == frame.name:
            mend = "Close it first, or give the inner plate its own name."
            raise ModelError(f"plate '{frame.name}' ({frame}) stands inside itself.", mend=mend)
        if other.dim == frame.dim:
            raise ModelError(
                f"plates '{other.name}' and '{frame.name}' both own dim {frame.dim}.",
                details="\n".join(f"plate '{f.name}': {f}" for f in (other, frame)),
                mend="Give one of them another dim=..., or create the inner plate inside the outer one.",
            )


def plate_rows(name: str, size: Any, subsample_size: Any) -> tuple[int, int | None]:
    """The sizes of a plate as ints, after checking them."""
    given = {"size": size} if subsample_size is None else {"size": size, "subsample_size": subsample_size}
    for what, value in given.items():
        if isinstance(value, jax.core.Tracer):
            raise ModelError(
                f"plate '{name}': {what} must be an int known before the run, but it is computed from data.",
                mend="Take it from the shape of the data (len(y)), or pass an int to the model: n=int(k.max()) + 1.",
            )
        if not 1 <= _index(value) < 2**31:
            raise ModelError(
                f"plate '{name}': {what} must be a positive int below 2^31, not {value!r:.80}.",
                mend="Take it from the shape of the data: len(y), x.shape[0].",
            )
    if subsample_size is not None and int(subsample_size) > int(size):
        raise ModelError(
            f"plate '{name}': subsample_size is {subsample_size}, but the plate has only {size} rows.",
            mend="Leave subsample_size out, or make it smaller.",
        )
    return int(size), None if subsample_size is None else int(subsample_size)


def plate_dim(name: str, dim: int | None, frames: Frames) -> int:
    """The batch dimension of a plate: the one asked for, or the rightmost that is free."""
    taken = {frame.dim for frame in frames}
    if dim is None:
        return next(d for d in range(-1, -len(taken) - 2, -1) if d not in taken)
    if _index(dim) >= 0:
        problem = f"plate '{name}': dim must be a negative int (counted from the right), not {dim!r:.80}."
        raise ModelError(problem, mend="The rightmost batch dim is -1, the next -2.")
    return int(dim)


def _index(value: Any) -> int:
    """`value` where it is one whole number, an array of one too; else 0."""
    try:
        return 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return 0


def check_owned(site: str, what: str, batch: Shape, frames: Frames, parts: Sequence[tuple[str, Any]] = ()) -> None:
    """Inside plates every batch dimension longer than 1 must belong to one, with its length."""
    owner = {frame.dim: frame for frame in frames}
    for dim in range(-1, -len(batch) - 1, -1) if frames else ():
        length, frame = batch[dim], owner.get(dim)
        if length == 1 or (frame is not None and frame.length == length):
            continue
        table = _table([*parts, (what, batch), *_plate_rows(frames)])
        if frame is None:
            problem = f"dim {dim} of {what} has length {length}, but no plate owns it."
            raise ModelError(problem, site=site, details=table, mend=_unowned_mend(batch, dim, frames, parts))
        problem = f"dim {dim} of {what} has length {length}, but plate '{frame.name}' has {_rows(frame.length)} there."
        raise ModelError(problem, site=site, details=table, mend=_owned_mend(batch, dim, frame))


def observation(site: str, dist: Distribution, obs: Any, frames: Frames) -> Array:
    """`obs` as an array, after checking that it has exactly the shape of the site."""
    if not isinstance(obs, jax.Array):
        obs = as_numbers(obs, "obs", site)
    if jnp.issubdtype(obs.dtype, np.complexfloating):
        mend = "Observe real numbers: jnp.abs(y), or y.real and y.imag as two sites."
        raise ModelError("obs holds complex numbers, but distributions are of real ones.", site=site, mend=mend)
    batch, event = tuple(dist.batch_shape), tuple(dist.event_shape)
    if obs.shape == (*batch, *event):
        return jnp.asarray(obs)
    site_shape = f"{(*batch, *event)} = batch {batch} + event {event}"
    raise ModelError(
        f"obs has shape {obs.shape}, but the site has shape {(*batch, *event)}.",
        site=site,
        details=_table([("obs", obs.shape), ("site", site_shape), *_plate_rows(frames)]),
        mend=_obs_mend(obs.shape, batch, event, frames),
    )


def as_numbers(value: Any, what: str, site: str | None = None) -> np.ndarray:
    """`value` as an array of numbers that the session can hold; `what` it is called, and the site it belongs to."""
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        mend = "Pad them to one length, and let what is padding not count: dist.Normal(...).mask(is_real)."
        raise ModelError(f"the rows of {what} differ in length.", site=site, mend=mend) from None
    if array.dtype.kind not in "biufc":
        raise ModelError(f"{what} holds {_kind(array)}, not numbers.", site=site, mend=_encoding(array))
    check_range(array, what, site)
    return array


def _encoding(array: np.ndarray) -> str:
    if array.dtype.kind in "mM":
        return "Count the time from the first: (t - t[0]) / np.timedelta64(1, 'D') is in days."
    if array.dtype.kind == "O":
        return "Make it numbers, np.asarray(column, float), where None becomes NaN; encode words with np.unique."
    return "Encode it as numbers, for instance with np.unique(column, return_inverse=True)."


def check_range(array: np.ndarray, what: str, site: str | None = None) -> None:
    """Refuse whole numbers that the session's integers cannot hold: they would wrap, without a word."""
    held = np.dtype(jax.dtypes.canonicalize_dtype(array.dtype))
    if array.dtype.kind not in "iu" or held == array.dtype or not array.size:
        return
    limits = np.iinfo(held)
    if int(array.min()) >= limits.min and int(array.max()) <= limits.max:
        return
    off = (array < limits.min) | (array > limits.max)
    first = tuple(int(i) for i in np.argwhere(off)[0]) if array.ndim else ()
    place = f" at [{', '.join(map(str, first))}]" if first else ""
    raise ModelError(
        f"{what} holds the integer {int(array[first])}{place}, beyond the {held.itemsize * 8} bits of {held}.",
        site=site,
        details=f"{off.sum()} of {off.size} values lie outside {limits.min} ... {limits.max}" if first else "",
        mend=TOO_LARGE,
    )


def check_value(site: str, value: Any, shape: Shape, frames: Frames) -> None:
    """A value that stands in for a site's own must have exactly the site's `shape`."""
    if tuple(jnp.shape(value)) == shape:
        return
    raise ModelError(
        f"the value given has shape {tuple(jnp.shape(value))}, but the site has shape {shape}.",
        site=site,
        details=_table([("value", tuple(jnp.shape(value))), ("site", shape), *_plate_rows(frames)]),
        mend="Give one value of the site's shape; model.shapes() prints the shapes of all sites.",
    )


def shown_rows(run: Any, site: Any) -> Array | RowBlock | None:
    """The rows of a plate to show: indices `(length,)`, or a `RowBlock`; None for all. Asked once for each name."""
    name, before = site.name, run.sites.get(site.name)
    if before is None:
        return run.ask(site).value
    if before.kind != "plate" or before.size != site.size:
        other = f"a plate of {before.size} rows" if before.kind == "plate" else f"a {before.kind} statement"
        problem = f"the name is used by {other} and by a plate of {site.size} rows."
        raise ModelError(problem, site=name, mend="Rename one of the two.")
    if None not in (before.labels, site.labels) and before.labels != site.labels:
        raise ModelError("two plates of this name have different labels.", site=name, mend="Rename one of the two.")
    run.sites[name] = dataclasses.replace(before, labels=site.labels or before.labels)
    return before.value


def take_rows(array: Array, frames: Frames, rows: Sequence[Array | RowBlock | None], event_dim: int) -> Array:
    """The rows shown of an array that has all rows of the plates, left of `event_dim` dimensions."""
    for frame, shown in zip(frames, rows):
        axis = frame.dim - event_dim
        if -axis > array.ndim or (array.shape[axis] == 1 and frame.size != 1):
            continue
        if array.shape[axis] != frame.size:
            raise ModelError(
                f"axis {axis} of the array given to subsample has length {array.shape[axis]}, "
                f"but plate '{frame.name}' has {_rows(frame.size)}.",
                details=_table([("array", array.shape), *_plate_rows(frames)]),
                mend="Pass the whole array, with event_dim= the number of dims to the right of the plates'.",
            )
        if shown is not None:
            array = _taken(array, frame, shown, axis)
    return array


def _taken(array: Array, frame: Frame, shown: Array | RowBlock, axis: int) -> Array:
    # The indices are the fit's own, and checked where a user gives them. To fill what lies outside
    # with NaN, as `jnp.take` does, would cost a fifth of a step.
    indices = places_of(frame.name, shown)
    taken = array.at[(..., indices, *[slice(None)] * (-axis - 1))].get(mode="promise_in_bounds")
    return split_rows(taken, shown, axis)


def source_frame(source: Source, frames: Frames, event_dim: Any) -> Frame:
    """The open plate along which the rows of `source` run."""
    dims = {own - len(shape) - 1 for shape, own in zip(source.outline.shapes, _event_dims(source, event_dim))}
    found = [frame for frame in frames if {frame.dim} == dims]
    if not found:
        wants = ", ".join(map(str, sorted(dims)))
        raise ModelError(
            f"the rows of '{source.name}' run along batch dim {wants}, which no open plate owns.",
            details=_table([(source.name, source), ("event_dim", event_dim), *_plate_rows(frames)]),
            mend="Call vb.subsample inside its plate, with event_dim= the number of dims to the right of the plates'.",
        )
    frame = found[0]
    if source.outline.size not in (None, frame.size):
        raise ModelError(
            f"'{source.name}' has {_rows(len(source))}, but plate '{frame.name}' has {_rows(frame.size)}.",
            mend=f"Make the plate's size len({source.name}).",
        )
    return frame


def take_shown(
    source: Source, frame: Frame, frames: Frames, shown: Sequence[Array | RowBlock | None], event_dim: Any
) -> Any:
    """The rows of `source` that its plate, `frame`, shows; along the other plates its arrays are whole."""
    part = shown[frames.index(frame)]
    if part is None:
        block = source.unread((frame.size,))
    elif isinstance(part, RowBlock) and source.name in part.blocks:
        block = jax.tree.map(without_padding, part.blocks[source.name], is_leaf=is_padded)
    else:
        raise ModelError(
            f"plate '{frame.name}' shows some of its rows, but those of '{source.name}' were not read.",
            mend="Give model and guide the same sources, and read each in one plate only.",
        )
    others = [(other, rows) for other, rows in zip(frames, shown) if other is not frame]
    leaves, structure = jax.tree.flatten(block)
    taken = [
        take_rows(jnp.asarray(leaf), [f for f, _ in others], [r for _, r in others], own)
        for leaf, own in zip(leaves, _event_dims(source, event_dim))
    ]
    return jax.tree.unflatten(structure, taken)


def _event_dims(source: Source, event_dim: Any) -> list[int]:
    leaves, structure = jax.tree.flatten(event_dim)
    leaves = [whole_number("event_dim", leaf, 0) for leaf in leaves]
    if isinstance(event_dim, (int, np.integer)):
        return leaves * len(source.outline.shapes)
    if structure != source.outline.structure:
        raise ModelError(
            f"event_dim={event_dim} does not have the structure of the rows of '{source.name}'.",
            details=_table([("rows", source.outline.structure), ("event_dim", structure)]),
        )
    return leaves


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count != 1)}"


def _kind(array: np.ndarray) -> str:
    return "strings" if array.dtype.kind in "US" else f"{array.dtype} values"


def _plate_rows(frames: Frames) -> list[tuple[str, Any]]:
    return [(f"plate '{frame.name}'", frame) for frame in frames]


def _parameter_shapes(dist: Any) -> list[tuple[str, Any]]:
    """The shapes of the parameters, where there are several that could have made the batch."""
    while hasattr(dist, "base_dist"):
        dist = dist.base_dist
    shapes = {name: np.shape(value) for name, value in parameters(dist).items() if hasattr(value, "shape")}
    return [*shapes.items()] if len(set(shapes.values())) > 1 else []


def _table(rows: Sequence[tuple[str, Any]]) -> str:
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join((name + ":").ljust(width) + str(value) for name, value in rows)


def _unowned_mend(batch: Shape, dim: int, frames: Frames, parts: Sequence[tuple[str, Any]]) -> str:
    length = batch[dim]
    if tuple(n for n in batch if n != 1) == tuple(f.length for f in frames):
        return "Drop the dims of length 1 from the parameters, for instance with loc.squeeze(-1) or loc[:, 0]."
    columns = [name for name, shape in parts if isinstance(shape, tuple) and len(shape) > 1 and shape[-1] == 1]
    if columns:
        return f"Drop the last dim of {columns[0]}: {columns[0]}.squeeze(-1). It broadcasts to {batch} otherwise."
    return f"Open a plate over it, vb.plate(..., {length}, dim={dim}); or move it to the right and write .to_event(1)."


def _owned_mend(batch: Shape, dim: int, frame: Frame) -> str:
    if frame.length != frame.size == batch[dim]:
        return "Show the same rows of the arrays: vb.subsample(array), or array[i] where the plate yields i."
    left = [d for d in range(-len(batch), dim) if batch[d] == frame.length]
    if left:
        return f"Make the dims to the right of the plate's rows a part of the event: .to_event({dim - left[-1]})."
    return (
        f"Make the plate's size {batch[dim]}, or use arrays with {_rows(frame.length)}. If each row is a vector "
        f"of {batch[dim]}, write .to_event(1)."
    )


def _obs_mend(obs: Shape, batch: Shape, event: Shape, frames: Frames) -> str:
    shape = (*batch, *event)
    partial = [frame for frame in frames if frame.length != frame.size]
    if partial and obs == (*all_rows(batch, frames), *event):
        words = f"y, event_dim={len(event)}" if event else "y"
        return f"The plate shows a part of its rows; show the same of the data: obs=vb.subsample({words})."
    if [n for n in obs if n != 1] == [n for n in shape if n != 1]:
        return f"Reshape it: obs=y.reshape({shape})."
    if obs == shape[::-1]:
        return "Transpose it: obs=y.T."
    extra = len(obs) - len(shape)
    if extra == 1 and obs[extra:] == shape:
        return f"Put the statement into a plate over the observations: with vb.plate('rows', {obs[0]}): ..."
    if len(frames) == 1 and not event and len(obs) == 1:
        return f"Make the size of plate '{frames[0].name}' {obs[0]}, or pass {_rows(frames[0].length)} of observations."
    return "Make the plates, the parameters and the observations agree in length."
