"""The low-rank guide: a diagonal, and `rank` directions along which it is wider or narrower."""

from __future__ import annotations

import numpy as np

from vbppl.core.errors import whole_number
from vbppl.core.pytree import pytree, static
from vbppl.core.types import AnyArray
from vbppl.guides.base import Start
from vbppl.guides.gaussian import Gaussian, start_log_sd
from vbppl.target.target import Target

STRETCHED = 2.0  # log of how much wider than the diagonal a direction begins
RANK = 8  # where nothing says how many: a stochastic fit cannot grow it


@pytree
class LowRank(Gaussian):
    """A normal with `rank` correlated directions: `z = loc + sd * (noise + U (e^c - 1) U^T noise)`.

    `U`, `(dim, rank)`, has orthonormal columns, so the covariance is `diag(sd) (I + U (e^2c - 1) U^T) diag(sd)`:
    scales stand apart from correlations, which have no units. A direction with `c > 0` is wider than the
    diagonal says (parameters that can trade against each other), one with `c < 0` narrower (a sum that the
    data know well); a diagonal plus `V V^T` has only the first kind. A draw needs `dim` normals, the
    factor is its own inverse's pattern (`c` to `-c`), and the entropy is `sum log sd + sum c` and a constant.

    `phi` is `(3 + rank, dim)`: `loc`, `log sd`, `c` in the first `rank` places of a row, and rows that
    span the directions: any full-rank `V`, of which `U` is the Cholesky orthonormalisation.

    >>> phi = np.array([[0.0, 0.0], [0.0, 0.0], [np.log(3.0), 9.0], [2.0, 2.0]])  # the 9 does not count
    >>> LowRank(1).factor(phi).round(6).tolist()
    [[2.0, 1.0], [1.0, 2.0]]

    Attributes:
      rank: the number of directions; None for as many as each gain 0.05 nats (8 in a stochastic fit).
    """

    rank: int | None = static(default=None)

    def __post_init__(self) -> None:
        if self.rank is not None and whole_number("rank", self.rank, 0) < 1:
            raise ValueError(f"rank must be at least 1, not {self.rank}; rank 0 is vb.MeanField().")

    def init(self, target: Target, start: Start) -> np.ndarray:
        # Directions at random, wide to begin with: one that is not stretched yet falls into the nearest narrow one,
        # and there are many of these beside one wide direction.
        loc, rank = start.loc, min(self.rank or RANK, start.loc.size)
        directions = start.generator("directions").standard_normal((rank, loc.size))
        return pack(loc, start_log_sd(start), np.full(rank, STRETCHED), directions).astype(loc.dtype)

    def of(self, loc: np.ndarray, factor: np.ndarray) -> np.ndarray:
        # Scales apart from correlations, of which the leading eigenvectors stay.
        sd = np.sqrt(np.sum(factor**2, axis=1))
        correlation = (factor / sd[:, None]) @ (factor / sd[:, None]).T
        values, vectors = np.linalg.eigh(correlation)
        # Those whose loss costs most, in nats: an eigenvalue of 1 needs no direction.
        chosen = np.argsort(values - np.log(values), kind="stable")[len(loc) - min(self.rank or RANK, len(loc)) :]
        values, vectors = values[chosen], vectors[:, chosen]
        log_sd = np.log(sd) - np.log1p(vectors**2 @ (values - 1)) / 2
        return pack(loc, log_sd, np.log(values) / 2, vectors.T)

    def transform(self, phi: AnyArray, noise: AnyArray) -> AnyArray:
        xp, (stretch, directions) = phi.__array_namespace__(), _directions(phi)
        return phi[0] + xp.exp(phi[1]) * (noise + (noise @ directions.T * xp.expm1(stretch)) @ directions)

    def residual(self, phi: AnyArray, z: AnyArray) -> AnyArray:
        # U^T U = I, so `c` to `-c` inverts the stretch.
        xp, (stretch, directions) = phi.__array_namespace__(), _directions(phi)
        scaled = (z - phi[0]) * xp.exp(-phi[1])
        return scaled + (scaled @ directions.T * xp.expm1(-stretch)) @ directions

    def factor(self, phi: AnyArray) -> AnyArray:
        xp, (stretch, directions) = phi.__array_namespace__(), _directions(phi)
        stretched = directions.T * xp.expm1(stretch) @ directions
        return xp.exp(phi[1])[:, None] * (xp.eye(phi.shape[-1], dtype=phi.dtype) + stretched)

    def sd(self, phi: AnyArray) -> AnyArray:
        xp, (stretch, directions) = phi.__array_namespace__(), _directions(phi)
        return xp.exp(phi[1]) * (1 + xp.expm1(2 * stretch) @ directions**2) ** 0.5

    def entropy(self, phi: AnyArray) -> AnyArray:
        return super().entropy(phi) + phi[2, : len(phi) - 3].sum()


def pack(loc: np.ndarray, log_sd: np.ndarray, stretch: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """`phi`, `(3 + rank, dim)`, from its parts; `directions` is `(rank, dim)`."""
    row = np.zeros_like(loc)
    row[: len(stretch)] = stretch
    return np.concatenate([np.stack([loc, log_sd, row]), directions])


def _directions(phi: AnyArray) -> tuple[AnyArray, AnyArray]:
    """`c`, `(rank,)`, and `U^T`, `(rank, dim)`."""
    xp, spanning = phi.__array_namespace__(), phi[3:]
    lower = xp.linalg.cholesky(spanning @ spanning.T)
    return phi[2, : len(phi) - 3], xp.linalg.solve(lower, spanning)
