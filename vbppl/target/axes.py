"""What scalars are called: the one place where an index is put into words, `alpha[Ramsey]`.

Labels of plates and of `dims=` belong to the model at hand and to no program: programs are shared by models that differ
in them alone, so they are looked up here, on the host, each time that something is told.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.tables import label, labels
from vbppl.core.types import Shape
from vbppl.model.labels.axes import owners
from vbppl.model.labels.names import Label, texts, values_at
from vbppl.model.missing.statement import SUFFIX
from vbppl.model.trace import Outline, named_outlines


@dataclasses.dataclass(frozen=True)
class Axes:
    """The names of the axes of all sites, and the labels along them.

    Attributes:
      dims: for each sample, param and deterministic site that is an array a name for each axis of its value: that of a
        plate, or by `dims=`, or None.
      labels: for each of these names its labels, where there are some.
      sizes: for each of these names how many entries there are.
    """

    dims: Mapping[str, tuple[str | None, ...]]
    labels: Mapping[str, tuple[Label, ...]]
    sizes: Mapping[str, int]

    def words(self, site: str, shape: Shape) -> tuple[Sequence[str] | None, ...]:
        """What stands along each axis of an array `shape` of a site; None where it is counted from 0."""
        dims = self.dims.get(site, ())
        if len(dims) != len(shape):
            return (None,) * len(shape)
        return tuple(self.words_along(dim or "", n) for dim, n in zip(dims, shape))

    def words_along(self, dim: str, size: int) -> Sequence[str] | None:
        """What the entries along one dim are called; None where they are counted from 0."""
        found = self.labels.get(dim)
        return texts(found) if found and len(found) == size else None

    def names(self, site: str, shape: Shape) -> list[str]:
        """The names of all scalars of a site, in order: `alpha[Ramsey]`, `w[0,3]`."""
        return labels(site, shape, self.words(site, shape))

    def full(self, site: str, shape: Shape) -> tuple[str, ...]:
        """A name for each axis, all different: those without one are numbered, as ArviZ does."""
        dims, found = self.dims.get(site, ()), []
        for axis in range(len(shape)):
            name = (dims[axis] if axis < len(dims) else None) or f"{site}_dim_{axis}"
            found.append(f"{name}_{found.count(name) + 1}" if name in found else name)
        return tuple(found)

    def along(self, site: str, shape: Shape) -> dict[str, Sequence[Label]]:
        """By the names of `full`, the labels along each axis; whole numbers from 0 where there are none."""
        dims, names = self.dims.get(site, ()), self.full(site, shape)
        known = [self.labels.get(dims[axis] or "") if axis < len(dims) else None for axis in range(len(shape))]
        return {
            name: each if each and len(each) == size else range(size) for name, each, size in zip(names, known, shape)
        }

    def name(self, site: str, shape: Shape, index: tuple[int, ...]) -> str:
        """The name of one of them."""
        return label(site, index, self.words(site, shape))


UNNAMED = Axes({}, {}, {})


def axes_of(target: Any) -> Axes:
    """Those of the model that a target belongs to.

    Raises:
      ModelError: one name stands for axes that differ in length or in labels.
    """
    return axes(target.model)


def axes(model: Any) -> Axes:
    """Those of a model applied to its arguments."""
    outlines = named_outlines(model)
    dims, labels, sizes = {}, {}, {}

    def put(name: str, size: int, given: Any, where: str) -> None:
        if sizes.setdefault(name, size) != size:
            problem = f"dim '{name}' has length {size} here, and {sizes[name]} elsewhere."
            raise ModelError(problem, site=where, mend="Give one of the two another name.")
        if given is None:
            return
        found = values_at(given, model.arrays, model.settings, f"'{name}' of site '{where}'")
        if found is not None and labels.setdefault(name, found) != found:
            raise ModelError(f"dim '{name}' has other labels here than elsewhere.", site=where, mend="Rename it.")

    for site in outlines.values():
        if site.kind == "plate":
            put(site.name, site.size, site.labels, site.name)
    for site in outlines.values():
        if site.kind in ("sample", "param", "deterministic") and isinstance(site.shape, tuple):
            dims[site.name] = own = axes_of_site(site)
            given = {dim.name: dim.labels for dim in site.dims}
            for dim, size in zip(own, site.shape):
                if dim in given:
                    put(dim, size, given[dim], site.name)
    for name, places in model.missing.items():
        if places is not None and len(places):  # what is missing is told by its rows
            axis, batch = f"{name}_missing", outlines[name].batch
            if batch:  # one number outside of plates has no row
                index = np.unravel_index(np.asarray(places), batch)
                rows = [texts(labels[dim]) if dim in labels else tuple(range(n)) for dim, n in zip(dims[name], batch)]
                each = zip(*([row[i] for i in part] for row, part in zip(rows, index)))
                labels[axis] = tuple(row[0] if len(row) == 1 else ",".join(map(str, row)) for row in each)
            dims[name + SUFFIX], sizes[axis] = (axis, *dims[name + SUFFIX][1:]), len(places)
    return Axes(dims, labels, sizes)


def axes_of_site(site: Outline) -> tuple[str | None, ...]:
    """For each axis of a site's value its name, or None."""
    event_dim, steps = len(site.event) if site.kind == "sample" else None, len(site.steps)
    return (None,) * steps + owners(site.name, site.shape[steps:], event_dim, site.frames, site.dims)


def coordinate_names(target: Any) -> tuple[str, ...]:
    """A name for each coordinate of the flat vector: `theta[3]`, `(dim,)`."""
    if not target.layout.slots:
        return ()
    known = axes_of(target)
    return tuple(name for slot in target.layout.slots for name in known.names(slot.name, slot.unconstrained))


def coordinate_name(target: Any, place: int) -> str:
    """The name of one of them."""
    return coordinate_names(target)[place]
