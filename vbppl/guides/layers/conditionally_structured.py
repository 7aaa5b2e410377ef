"""A Gaussian for hierarchies: the hyperparameters' scales depend on one another, and each has two tails of its own.

    e ~ N(0, I),    Conditional: drivers move mean and sd of other hyperparameters, and the sds of rows,
    Affine: z = loc + L e,    SinhArcsinh: each hyperparameter is bent on its own.

Drivers are what prior scales depend on, and the noise. With few groups a Gaussian is wrong of them in two ways: their
own tails are not a normal's, and the sds of means grow with them. With many rows or coefficients it is wrong of the
noise: these are known the worse the larger it is, and if they may not say so, the noise itself seems known too well.
"""

from __future__ import annotations

import dataclasses

from vbppl.core.errors import of_kind
from vbppl.core.pytree import pytree
from vbppl.guides.base import Guide
from vbppl.guides.gaussian import MeanField
from vbppl.guides.layers.affine import Affine
from vbppl.guides.layers.base import Layer, Layered
from vbppl.guides.layers.conditional import Conditional, distinct
from vbppl.guides.layers.sinh_arcsinh import SinhArcsinh
from vbppl.target.drivers import driving_order
from vbppl.target.target import Target


@pytree
class ConditionallyStructured(Layered):
    """A full-rank Gaussian whose hyperparameters are bent, and depend on the scales among them.

    Hyperparameters are the latent sites outside plates; those on which the scale of a latent site depends, or whose
    support is not the whole real line, drive the others, first of all those on which any scale depends, be it of what
    was observed: they drive these others too. See the head of this file's module.

    Attributes:
      base: standard normals, which stay what they are.
      layers: `Conditional`, `Affine`, `SinhArcsinh`; found for a target by `over`.
    """

    base: MeanField = dataclasses.field(default_factory=MeanField)
    layers: tuple[Layer, ...] = ()
    begins_standard = True

    def __post_init__(self) -> None:
        of_kind("base", self.base, isinstance(self.base, MeanField), "vb.MeanField()")
        is_layers = isinstance(self.layers, tuple) and all(isinstance(layer, Layer) for layer in self.layers)
        of_kind("layers", self.layers, is_layers, "a tuple of layers; () for those that follow from the model")

    def over(self, target: Target) -> ConditionallyStructured:
        """The same with its layers, which follow from the model: nothing is evaluated."""
        drivers, driven, rows = hyperparameters_of(target)
        hypers = distinct(drivers, driven)
        order = (*hypers, *(place for row in rows for place in row))
        layers = Conditional(drivers, driven, rows), Affine(order), SinhArcsinh(hypers)
        return dataclasses.replace(self, layers=layers)


def resolved(guide: Guide, target: Target) -> Guide:
    """The guide with what follows from the model, where it leaves that open."""
    return guide.over(target) if isinstance(guide, ConditionallyStructured) and not guide.layers else guide


def hyperparameters_of(target: Target) -> tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """The places of drivers, of the hyperparameters that they drive, and of all the others, site by site."""
    layout, hypers, rows = target.layout, list[tuple[str, range]](), list[tuple[int, ...]]()
    for slot in layout.slots:
        places, one = range(slot.start, slot.stop), slot.stop - slot.start == 1
        # What moves with its own scale is a row, plate or not; a single one may be a hyperparameter all the same.
        is_hyper = not slot.plates and (one or slot.name not in layout.movable)
        if is_hyper:
            hypers.append((slot.name, places))
        else:
            rows.append(tuple(places))
    return (*driving_order(target, hypers), tuple(rows))
