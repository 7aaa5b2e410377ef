"""A normal whose scale and mean depend on others: what a latent scale does to the hyperparameters beside it.

With `g` some of the coordinates, the drivers, and `x` others, all of them standard normal,

    x <- exp(4 tanh(A g / 4)) x + B (g^2 - 1),    r <- exp(4 tanh(W g / 4)) r for rows, those of one site together.

So the sd of each driven coordinate is log-linear in the drivers, between e^-4 and e^4 where draws are many sds out, and
its mean is bowed; what is linear in `g` an `Affine` layer behind this one adds. Drivers may be driven themselves, by
those of them that are not: all depends on the noise `g` as it came, not on what became of it. The rows of a site are
many and each says little, so they widen together, by one number for each driver, as coefficients do with the noise
(Tan, Bhaskaran and Nott 2020, "Conditionally structured variational Gaussian approximation with importance weights";
Kock, Tan, Bansal and Nott 2025, "Variational inference for hierarchical models with conditional scale and skewness
corrections").
"""

from __future__ import annotations

import numpy as np

from vbppl.core.pytree import pytree, static
from vbppl.core.types import AnyArray, PyTree
from vbppl.guides.base import Start
from vbppl.guides.layers.base import Layer, among
from vbppl.target.target import Target

MAX_LOG_SD_CHANGE = 4.0  # that a log sd can change


@pytree
class Conditional(Layer):
    """`psi` is `{"slope": A, "bow": B}`, `(driven, drivers)` each, and where there are rows `"width": W`.

    Attributes:
      drivers: the coordinates that others depend on, first those that depend on nothing.
      driven: those that do, each in its own way; what is a driver too comes first, and depends on the first drivers.
      rows: those whose sds do, the coordinates of each tuple alike; `W` is `(len(rows), drivers)`.
    """

    drivers: tuple[int, ...] = static()
    driven: tuple[int, ...] = static()
    rows: tuple[tuple[int, ...], ...] = static(default=())
    takes_many = True

    def init(self, target: Target, start: Start) -> PyTree:
        nothing = np.zeros((len(self.driven), len(self.drivers)), start.loc.dtype)
        width = {"width": np.zeros((len(self.rows), len(self.drivers)), start.loc.dtype)} if self.rows else {}
        return {"slope": nothing, "bow": nothing, **width}

    def forward_and_log_det(self, psi: PyTree, e: AnyArray, target: Target | None) -> tuple[AnyArray, AnyArray]:
        log_sd, mean = self._given(psi, e)
        move = lambda x: (mean + log_sd.__array_namespace__().exp(log_sd) * x, log_sd.sum(-1))  # noqa: E731
        return among(self._moved, move, e)

    def inverse_and_log_det(self, psi: PyTree, z: AnyArray, target: Target | None) -> tuple[AnyArray, AnyArray]:
        e = z
        for _ in range(2):  # the first drivers stay where they are; then the others are known too
            log_sd, mean = self._given(psi, e)
            move = lambda x: (log_sd.__array_namespace__().exp(-log_sd) * (x - mean), -log_sd.sum(-1))  # noqa: B023, E731
            e, log_det = among(self._moved, move, z)
        return e, log_det

    @property
    def _moved(self) -> tuple[int, ...]:
        return (*self.driven, *(place for row in self.rows for place in row))

    def _given(self, psi: PyTree, e: AnyArray) -> tuple[AnyArray, AnyArray]:
        """Log sd and mean of what is moved, `(..., driven and rows)` each."""
        g = e[..., np.array(self.drivers, int)]
        xp, may = g.__array_namespace__(), allowed(self.drivers, self.driven)
        slope, bow = (psi[name] * may for name in ("slope", "bow"))
        log_sd, mean = MAX_LOG_SD_CHANGE * xp.tanh(g @ slope.T / MAX_LOG_SD_CHANGE), (g**2 - 1) @ bow.T
        if not self.rows:
            return log_sd, mean
        width = (MAX_LOG_SD_CHANGE * xp.tanh(g @ psi["width"].T / MAX_LOG_SD_CHANGE))[..., alike(self.rows)]
        return xp.concatenate([log_sd, width], axis=-1), xp.concatenate([mean, xp.zeros_like(width)], axis=-1)


def distinct(drivers: tuple[int, ...], driven: tuple[int, ...]) -> tuple[int, ...]:
    """All hyperparameters in their order: drivers, and what they drive and is none."""
    return tuple(dict.fromkeys(drivers + driven))


def allowed(drivers: tuple[int, ...], driven: tuple[int, ...]) -> np.ndarray:
    """Which driver may move what, `(driven, drivers)`: all, but that what is both moves nothing that is both."""
    return ~np.outer(np.isin(driven, drivers), np.isin(drivers, driven))


def alike(rows: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """Of each row's coordinate, in their order, the number of the tuple that it is in."""
    return np.repeat(np.arange(len(rows)), [len(row) for row in rows])
