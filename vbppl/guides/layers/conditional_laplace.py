"""A guide of hierarchies that conditions on the hyperparameters: the Laplace approximation of all else given these.

    e ~ N(0, I),    Conditional, Affine, SinhArcsinh: the hyperparameters, as in `conditionally_structured.py`,
    NewtonStep: all else, at its mode given the hyperparameters and with the curvature there.

What a hierarchy does to its rows, be it non-centred by hand or without location and scale (Beta, Gamma), is left to the
density itself: rows shrink, widen and lean with the hyperparameters as their Hessian does.
"""

from __future__ import annotations

import dataclasses

from vbppl.core.errors import ModelError, of_kind
from vbppl.core.pytree import pytree
from vbppl.core.types import PyTree
from vbppl.guides.base import Start
from vbppl.guides.gaussian import MeanField
from vbppl.guides.layers.affine import Affine
from vbppl.guides.layers.base import Layer, Layered
from vbppl.guides.layers.conditional import Conditional, distinct
from vbppl.guides.layers.newton_step import NewtonStep
from vbppl.guides.layers.sinh_arcsinh import SinhArcsinh
from vbppl.target.drivers import driving_order
from vbppl.target.target import Target


@pytree
class ConditionalLaplace(Layered):
    """Hyperparameters as in `vb.guides.ConditionallyStructured`; all else by a Laplace approximation given these.

    As INLA and TMB have it, but with an exact density: see `guides/layers/newton_step`. The blocks in which all else
    falls apart, given the hyperparameters, are found from the Hessian by the fit; where there are none, all are
    hyperparameters. Fitted on fixed draws alone, from a full-rank Gaussian.

    >>> import vbppl as vb
    >>> vb.guides.ConditionalLaplace()
    ConditionalLaplace(base=MeanField())

    Attributes:
      base: standard normals, which stay what they are.
      layers: `Conditional`, `Affine`, `SinhArcsinh`, `NewtonStep`; made by `over`.
    """

    base: MeanField = dataclasses.field(default_factory=MeanField)
    layers: tuple[Layer, ...] = dataclasses.field(default=(), repr=False)
    begins_standard = True

    def __post_init__(self) -> None:
        of_kind("base", self.base, isinstance(self.base, MeanField), "vb.MeanField()")
        is_layers = isinstance(self.layers, tuple) and all(isinstance(layer, Layer) for layer in self.layers)
        of_kind("layers", self.layers, is_layers, "a tuple of layers; () for those that a fit finds")

    def over(self, target: Target, blocks: tuple[tuple[int, ...], ...], is_chain: bool = False) -> ConditionalLaplace:
        """The same with its layers; what is in no block is a hyperparameter. In a chain a block may meet the next."""
        rows = {place for block in blocks for place in block}
        slots = {slot.name: range(slot.start, slot.stop) for slot in target.layout.slots}
        given = {name: [place for place in places if place not in rows] for name, places in slots.items()}
        drivers, driven = driving_order(target, given.items())
        hypers = distinct(drivers, driven)
        layers = Conditional(drivers, driven), Affine(hypers), SinhArcsinh(hypers)
        return dataclasses.replace(self, layers=(*layers, NewtonStep(hypers, blocks, is_chain)) if blocks else layers)

    def init(self, target: Target, start: Start) -> PyTree:
        if not self.layers:
            raise ModelError(
                "ConditionalLaplace finds its blocks on the way of a fit on fixed draws, and this is none.",
                mend="Leave the method to vb.fit, or use vb.guides.Structured or vb.FullRank by stochastic steps.",
            )
        return super().init(target, start)
