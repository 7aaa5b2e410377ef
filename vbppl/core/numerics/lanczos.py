"""Directions: a normal with few correlated ones, and which of them it lacks, from differences of gradients.

Of a normal with `L = diag(sd) (I + U (e^c - 1) U^T)` and a Gaussian density, the bound knows orthonormal
directions `U` by their curvatures `rho_k = u_k^T R u_k` alone, where `R = -sd E_q[Hess log p] sd`. The best stretch
is `c_k = -1/2 log rho_k`, and the direction then gains

    g(rho) = (rho - 1 - log rho) / 2   nats.

This is convex, so the best directions are eigenvectors of `R` at *both* ends of its spectrum. They come from Lanczos
vectors with full reorthogonalisation (Saad 2011, "Numerical Methods for Large Eigenvalue Problems", chapter 6);
`R v` is a difference of gradients, averaged over a few draws, and exact for a Gaussian density.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

GAIN = 0.05  # nats that a direction must be worth
REACH = 0.1  # of an sd to both sides, for the difference of gradients
FLATTEST = 1e-6  # curvatures below cannot be told from zero

Density = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Normal:
    """`N(loc, L L^T)` with `L = diag(sd) (I + U (e^c - 1) U^T)`.

    Attributes:
      loc: `(dim,)`.
      log_sd: `(dim,)`; of the diagonal, not the marginals.
      directions: `U`, orthonormal, `(dim, rank)`.
      stretch: `c`, `(rank,)`.
    """

    loc: np.ndarray
    log_sd: np.ndarray
    directions: np.ndarray
    stretch: np.ndarray

    @classmethod
    def mean_field(cls, loc: np.ndarray, log_sd: np.ndarray) -> Normal:
        """Without directions."""
        return cls(loc, log_sd, np.zeros((len(loc), 0)), np.zeros(0))

    @property
    def log_det(self) -> float:
        """`log |det L|`."""
        return float(self.log_sd.sum() + self.stretch.sum())

    @property
    def sd(self) -> np.ndarray:
        """The marginal standard deviations, `(dim,)`."""
        return np.exp(self.log_sd) * np.sqrt(1 + self.directions**2 @ np.expm1(2 * self.stretch))

    def factor_times(self, noise: np.ndarray) -> np.ndarray:
        """`L noise_n` for `noise`, `(..., dim)`."""
        return np.exp(self.log_sd) * (noise + (noise @ self.directions * np.expm1(self.stretch)) @ self.directions.T)

    def transposed_factor_times(self, slope: np.ndarray) -> np.ndarray:
        """`L^T slope` for `slope`, `(dim,)`."""
        scaled = np.exp(self.log_sd) * slope
        return scaled + self.directions @ (np.expm1(self.stretch) * (scaled @ self.directions))


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """What the curvature says of a normal.

    Attributes:
      curvature: `rho` of each direction found, those that gain most first, `(found,)`.
      directions: `(dim, found)`, orthonormal.
      worth: the nats that the normal's own directions gain over its diagonal.
    """

    curvature: np.ndarray
    directions: np.ndarray
    worth: float

    @property
    def useful(self) -> int:
        """How many directions would gain more than `GAIN`."""
        return int(np.sum(gain(self.curvature) > GAIN))


def gain(curvature: np.ndarray) -> np.ndarray:
    """The nats that directions of these curvatures are worth: `(rho - 1 - log rho) / 2`."""
    rho = np.maximum(curvature, FLATTEST)
    return (rho - 1 - np.log(rho)) / 2


def spectrum(density: Density, at: Normal, noise: np.ndarray, steps: int, rng: np.random.Generator) -> Spectrum:
    """The extreme curvatures of the density at `at`, from its directions and `steps` Lanczos vectors."""
    basis = at.directions.T
    images = _curvature_times(density, at, noise, basis)
    worth = float(at.stretch.sum() - np.sum((basis * images).sum(axis=1) * np.expm1(2 * at.stretch)) / 2)
    vector = rng.standard_normal(len(at.loc))
    for _ in range(min(steps, len(at.loc) - len(basis))):
        new = _orthonormal(vector, basis)
        if new is None:  # the space is invariant: go on from a vector outside
            new = _orthonormal(rng.standard_normal(len(at.loc)), basis)
        if new is None:
            break
        vector = _curvature_times(density, at, noise, new[None])[0]
        basis, images = np.vstack([basis, new]), np.vstack([images, vector])
    inner = basis @ images.T
    values, turns = np.linalg.eigh((inner + inner.T) / 2)
    order = np.argsort(-gain(values), kind="stable")
    return Spectrum(values[order], basis.T @ turns[:, order], worth)


def _orthonormal(vector: np.ndarray, basis: np.ndarray) -> np.ndarray | None:
    size = np.linalg.norm(vector)
    for _ in range(2):  # twice is enough (Kahan, in Parlett 1980)
        vector = vector - basis.T @ (basis @ vector)
    rest = np.linalg.norm(vector)
    return vector / rest if rest > 1e-8 * size else None


def _curvature_times(density: Density, at: Normal, noise: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """`R v` for each row of `vectors`, `(n, dim)`."""
    if not len(vectors):
        return np.zeros_like(vectors)
    sd = np.exp(at.log_sd)
    z, moves = at.loc + at.factor_times(noise), (REACH * sd * vectors)[:, None]
    points = np.stack([z + moves, z - moves])  # (2, n, draws, dim)
    gradient = density(points.reshape(-1, len(sd)))[1].reshape(points.shape)
    rise = gradient[1] - gradient[0]
    # A draw at which the density is not finite says nothing; where none is left, the curvature is taken for 1.
    finite = np.isfinite(rise).all(axis=-1, keepdims=True)
    count = finite.sum(axis=1)
    mean = np.where(finite, rise, 0.0).sum(axis=1) / np.maximum(count, 1)
    return np.where(count > 0, sd * mean / (2 * REACH), vectors)


def matched_draws(noise: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """The antithetic draws `noise`, moved a little: `(draws, dim)`.

    Their second moment is I along `directions`, `(dim, n)`, and 0 between these and the rest, exactly; the
    marginal variances are 1 as nearly as that allows. Needs `draws >= 2 n`. With `2 dim` whitened
    draws or more there is nothing to move.
    """
    if len(noise) >= 2 * len(directions):
        return noise
    half = noise[: len(noise) // 2]
    variance = np.maximum(1 - np.sum(directions**2, axis=1), 1e-12)  # of what is left in each coordinate
    for last in (False, False, False, True):
        left, _, right = np.linalg.svd(half @ directions, full_matrices=False)
        along = np.sqrt(len(half)) * left @ right
        across = half - (half @ directions) @ directions.T
        across -= along @ (along.T @ across) / len(half)
        if not last:
            across *= np.sqrt(variance / np.maximum(np.mean(across**2, axis=0), 1e-12))
        half = across + along @ directions.T
    return np.concatenate([half, -half])
