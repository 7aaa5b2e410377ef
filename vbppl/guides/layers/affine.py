"""Location and scale of what other layers have bent: `z = loc + L e`, with `L` triangular in an order that is given."""

from __future__ import annotations

import numpy as np

from vbppl.core.pytree import pytree, static
from vbppl.core.types import AnyArray, Array, PyTree
from vbppl.guides.base import Start
from vbppl.guides.gaussian import FullRank
from vbppl.guides.layers.base import Layer
from vbppl.target.target import Target

FULL_RANK = FullRank()


@pytree
class Affine(Layer):
    """`psi` are the parameters of `FullRank` in this order: what comes first depends on nothing that comes later.

    Attributes:
      order: the coordinates, each once.
    """

    order: tuple[int, ...] = static()
    takes_many = True

    def init(self, target: Target, start: Start) -> np.ndarray:
        return FULL_RANK.init(target, start.of(np.array(self.order)))

    def forward_and_log_det(self, psi: AnyArray, e: AnyArray, target: Target | None) -> tuple[AnyArray, AnyArray]:
        moved = FULL_RANK.transform(psi, e[..., np.array(self.order)])
        return moved[..., np.argsort(self.order)], self._log_det(psi, e)

    def inverse_and_log_det(self, psi: AnyArray, z: AnyArray, target: Target | None) -> tuple[AnyArray, AnyArray]:
        xp = psi.__array_namespace__()
        away = z[..., np.array(self.order)] - psi[0]
        e = xp.linalg.solve(FULL_RANK.factor(psi), away.T).T
        return e[..., np.argsort(self.order)], -self._log_det(psi, z)

    def step_scale(self, psi: Array, power: Array, unknown: Array) -> PyTree:
        return FULL_RANK.step_scale(psi, power, unknown)

    @staticmethod
    def _log_det(psi: AnyArray, points: AnyArray) -> AnyArray:
        """The same for every point."""
        return psi[1].sum() + 0 * points[..., 0]
