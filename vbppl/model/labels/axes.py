"""Which axes of a site's value plates own, and what the others are called: `dims=`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.types import Shape
from vbppl.model.labels.names import Labels, sized
from vbppl.model.shapes import Frames


@dataclasses.dataclass(frozen=True)
class Dim:
    """The name of an axis, and what stands along it; None where only the name is given."""

    name: str
    labels: Labels | None = None
    size: int | None = None


def as_dims(site: str, dims: Any, arguments: Mapping[int, int]) -> tuple[Dim, ...]:
    """What was given as `dims`: a name, several, or a dict from names to labels.

    Raises:
      ModelError: it is none of these, or a name stands twice with different labels.
    """
    if dims is None:
        return ()
    dims = (dims,) if isinstance(dims, str) else dims
    if not isinstance(dims, (list, tuple, Mapping)) or not all(isinstance(name, str) and name for name in dims):
        raise ModelError(
            f"dims must be names of axes, or a dict from these to labels, not {dims!r:.80}.",
            site=site,
            mend="Write dims=('feature',), or dims={'feature': ['age', 'weight']}.",
        )
    if not isinstance(dims, Mapping):
        return tuple(map(Dim, dims))
    return tuple(_dim(site, name, labels, arguments) for name, labels in dims.items())


def _dim(site: str, name: str, labels: Any, arguments: Mapping[int, int]) -> Dim:
    if labels is None:
        return Dim(name)
    found = sized(f"dim '{name}' of site '{site}'", labels, arguments)
    if found is None:
        mend = f"Write dims={{{name!r}: ['a', 'b', ...]}}, a label for each entry; or the name alone, dims=({name!r},)."
        raise ModelError(f"the labels of dim '{name}' are {labels!r:.80}.", site=site, mend=mend)
    return Dim(name, found[1], found[0])


def with_dims(site: Any, dims: Any, arguments: Mapping[int, int]) -> Any:
    """A sample, param or deterministic site with the names of the axes of its value, checked against it."""
    if dims is None:
        return site
    found = as_dims(site.name, dims, arguments)
    if not (site.kind == "sample" or jax.tree_util.treedef_is_leaf(jax.tree.structure(site.value))):
        what = f"dims names axes of an array, but the value is a {type(site.value).__name__}."
        raise ModelError(what, site=site.name, mend="Leave dims out, or make a param of each array.")
    if site.kind == "sample":
        owners(site.name, site.shape, len(site.dist.event_shape), site.frames, found)
    else:
        owners(site.name, np.shape(site.value), None, site.frames, found)
    return dataclasses.replace(site, dims=found)


def owners(
    site: str, shape: Shape, event_dim: int | None, frames: Frames, dims: Sequence[Dim] = ()
) -> tuple[str | None, ...]:
    """For each axis of a value the plate that owns it, or its name by `dims`, or None.

    Args:
      site: whose value it is.
      shape: of the value.
      event_dim: how many of its rightmost axes are of the event; None where that is not known.
      frames: the plates around it.
      dims: names of the axes that are no plate's, from left to right.

    Raises:
      ModelError: there are not as many names as such axes, or they have other lengths than their labels.
    """
    if event_dim is None:
        event_dim = (len(dims) if frames else len(shape)) if dims else _event_dim(shape, frames)
    found: list[str | None] = [None] * len(shape)
    for frame in frames:
        axis = len(shape) - event_dim + frame.dim
        if 0 <= axis and shape[axis] == frame.length:
            found[axis] = frame.name
    # Inside plates an axis of the batch that is no plate's has length 1, and is nobody's.
    free = range(len(shape) - event_dim, len(shape)) if frames else range(len(shape))
    wrong = len(dims) != len(free) or any(dim.size not in (None, shape[axis]) for dim, axis in zip(dims, free))
    if dims and wrong:
        raise _disagree(site, shape, [shape[axis] for axis in free], frames, dims)
    for dim, axis in zip(dims, free):
        found[axis] = dim.name
    return tuple(found)


def _event_dim(shape: Shape, frames: Frames) -> int:
    """The fewest axes of an event that leave to plates what is theirs; 0 where no number does."""
    for event_dim in range(len(shape) + 1):
        owned = {len(shape) - event_dim + frame.dim: frame.length for frame in frames}
        if all(owned.get(axis, 1) == shape[axis] for axis in range(len(shape) - event_dim)):
            return event_dim
    return 0


def _disagree(site: str, shape: Shape, free: Sequence[int], frames: Frames, dims: Sequence[Dim]) -> ModelError:
    said = ", ".join(dim.name if dim.size is None else f"{dim.name} ({dim.size} labels)" for dim in dims)
    owned = ", ".join(f"plate '{frame.name}': {frame}" for frame in frames)
    count = f"{len(free)} ax{'es' if len(free) != 1 else 'is'}"
    lengths = f", of length {', '.join(map(str, free))}," if free else ""
    return ModelError(
        f"dims names {said}, but {count}{lengths} of its value {'are' if len(free) != 1 else 'is'} no plate's.",
        site=site,
        details=f"value: {tuple(shape)}" + (f"\n{owned}" if owned else ""),
        mend="Name each axis that no plate owns, from left to right; plates name theirs themselves.",
    )
