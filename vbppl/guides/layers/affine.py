"""Location and scale of what other layers have bent: `z = loc + L e`, with `L` triangular in an order that is given."""

from __future__ import annotations

import numpy as np

from vbppl.core.pytree import pytree, static
from vbppl.core.types import AnyArray, Array, PyTree
from vbppl.guides.base import Start
from vbppl.guides.gaussian import FullRank
from vbppl.guides.layers.base import Layer, among
from vbppl.target.target import Target

FULL_RANK = FullRank()


@pytree
class Affine(Layer):
    """`psi` are the parameters of `FullRank` in this order: what comes first depends on nothing that comes later.

    Attributes:
      order: the coordinates that are moved, each once.
    """

    order: tuple[int, ...] = static()
    takes_many = True

    def init(self, target: Target, start: Start) -> np.ndarray:
        return FULL_RANK.init(target, start.of(np.array(self.order)))

    def forward_and_log_det(self, psi: AnyArray, e: AnyArray, target: Target | None) -> tuple[AnyArray, AnyArray]:
        return among(self.order, lambda e: (FULL_RANK.transform(psi, e), self._log_det(psi, e)), e)

    def inverse_and_log_det(self, psi: AnyArray, z: AnyArray, target: Target | None) -> tuple[AnyArray, AnyArray]:
        xp = psi.__array_namespace__()
        solve = lambda z: xp.linalg.solve(FULL_RANK.factor(psi), (z - psi[0]).T).T  # noqa: E731
        return among(self.order, lambda z: (solve(z), -self._log_det(psi, z)), z)

    def step_scale(self, psi: Array, power: Array, unknown: Array) -> PyTree:
        return FULL_RANK.step_scale(psi, power, unknown)

    @staticmethod
    def _log_det(psi: AnyArray, points: AnyArray) -> AnyArray:
        """The same for every point."""
        return psi[1].sum() + 0 * points[..., 0]
