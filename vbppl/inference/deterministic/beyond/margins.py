"""Margins bent on fixed draws: a Gaussian in bent coordinates, and the bend itself, climb together.

The layer `z = c + s T((u - c) / s; p)` (`guides/layers/yeo_johnson`) is frozen in `c` and `s`, the means and sds of the
Gaussian before it, and `u ~ N(loc, L L^T)`. In `u` the target has the density and the gradient

    l_u = l(z) + sum log T',        g_u = g T' + (d log T' / dv) / s,

with which the natural-gradient step of full rank is what it was. A bend `p_i` moves `u_i` by `f_i = s (dT/dp) / T'`.
What of this is constant or linear in `u_i`, `loc` and `L` can do: with `y = (u_i - loc_i) / S_i`, `S` the marginal sds,
and `f_i = sum_k a_ik He_k(y) / sqrt(k!)`, a step of `p_i` takes `a_i0` off `loc_i`, and the share `a_i1 / S_i` off row
`i` of `L`. The rest is orthogonal to them in the natural metric, so that all three are one natural-gradient step:

    slope_i   = mean(g_i s dT/dp + d log T' / dp) - a_i0 mean(g_u) - a_i1 / S_i (1 + mean(g_u (u_i - loc_i)))
    fisher_ij = (Sigma^-1)_ij sum_{k>1} a_ik a_jk rho_ij^k + [i = j] sum_{k>1} k a_ik^2 / S_i^2,

with `rho` the correlations of `Sigma = L L^T`: the scores of two fields, `f_i` along `e_i` and `f_j` along `e_j`, have
the product `(Sigma^-1)_ij E[f_i f_j]`, and `E[f_i'^2]` more where they are one. With the diagonal for independent
coordinates alone, .577 for a normal, steps in a narrow posterior go much too far: for the stack losses 30 looks gained
nothing.

`p += r fisher^-1 slope`, and bends add `slope^T fisher^-1 slope / 2` to the nats still to gain. With the slopes of two
sets of draws that know nothing of each other in the two places this is free of the draws' noise: the gain that the
first step predicts, for the price of a look.

For a mean-field base every coordinate is a Gaussian of its own, and its search one of a batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator

import numpy as np

from vbppl.core.numerics import natural_gradient
from vbppl.core.numerics.natural_gradient import Iterates
from vbppl.guides.layers.yeo_johnson import LIMIT, bent

LOOKS, ENOUGH = 30, 1e-3  # at the draws; nats still to gain
MIN_LENGTH, MAX_LENGTH = 1e-3, 4.0
MAX_BEND_STEP = 0.5  # that a bend goes in one step
ORDER = 7  # of the Hermite polynomials by which a bend is told from a Gaussian's moves
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
# He_k(y) / sqrt(k!) at the nodes, with their weights: `(nodes, ORDER + 1)`.
HERMITE = np.polynomial.hermite_e.hermevander(NODES, ORDER) / np.sqrt(np.cumprod([1.0, *range(1, ORDER + 1)]))
WEIGHED = HERMITE * WEIGHTS[:, None] / np.sqrt(2 * np.pi)

# The target's log density, `(draws,)`, and gradient, `(draws, dim)`, at `z`, `(draws, dim)`.
Density = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Frame:
    """Where and in what units margins are bent: `c` and `s`, `(dim,)` each."""

    centre: np.ndarray
    scale: np.ndarray

    def bend(self, u: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`z` and log |dz/du| for points `u`, `(draws, dim)`: `(draws, dim)` and `(draws,)`."""
        more, log_slope = bent((u - self.centre) / self.scale, p)
        return u + self.scale * more, log_slope.sum(axis=1)


@dataclasses.dataclass(frozen=True)
class Bent:
    """A Gaussian in bent coordinates as some draws see it: a value; a step makes a new one.

    Attributes:
      at: the Gaussian, one search; or one in each coordinate, `dim` searches of one dimension.
      p: the bends, `(dim,)`.
      bound: in nats, without the normals' constant.
      slope: of the bound in each bend that `loc` and `L` make up for as far as they can, `(dim,)`.
      fisher: its natural metric, `(dim, dim)`.
      shift: by how much a bend moves the mean, and by what share the sd, of what it bends: `(2, dim)`.
      reason: why the ascent ended.
    """

    at: Iterates
    p: np.ndarray
    bound: float
    slope: np.ndarray
    fisher: np.ndarray
    shift: np.ndarray
    reason: str = "capped"

    @property
    def decrement(self) -> float:
        """The nats still to gain, to second order."""
        return float(self.at.decrement.sum() + self.slope @ self.step / 2)

    @property
    def step(self) -> np.ndarray:
        """Of the bends, where it is one in the natural metric, `(dim,)`."""
        return np.linalg.solve(self.fisher, self.slope)

    def inner(self, other: Bent) -> float:
        """The product of two gradients whose square is the decrement."""
        product = np.sum(self.at.mean_gradient * other.at.mean_gradient) / 2
        product += np.sum(self.at.covariance_gradient * other.at.covariance_gradient) / 4
        return float(product + self.step @ other.slope / 2)

    def promised(self, other: Bent) -> float:
        """The nats that bending would gain, as two sets of draws at one Gaussian predict it."""
        return float(self.step @ other.slope / 2)

    @property
    def normal(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean, `(dim,)`, and factor, `(dim, dim)`, of the Gaussian."""
        factor = self.at.factor[0] if len(self.at.loc) == 1 else np.diag(self.at.factor.ravel())
        return self.at.loc.ravel(), factor

    @classmethod
    def joined(cls, one: Bent, other: Bent) -> Bent:
        """What equally many draws saw, as one look at all of them."""
        bound, slope = (one.bound + other.bound) / 2, (one.slope + other.slope) / 2
        return dataclasses.replace(one, at=Iterates.joined([one.at, other.at]), bound=bound, slope=slope)

    def moves(self, other: Bent) -> np.ndarray:
        """How far the draws of `other`, at the same place, would move means (in sds), log sds and bends."""
        bends = np.linalg.solve(self.fisher, other.slope - self.slope)
        return np.append(natural_gradient.moves(self.at, other.at), bends)

    def moved(self, length: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean and factor, as a batch, and the bends, after a step."""
        loc, factor = natural_gradient.proposed(self.at, np.full(len(self.at.loc), length))
        p = np.clip(self.p + np.clip(length * self.step, -MAX_BEND_STEP, MAX_BEND_STEP), -LIMIT, LIMIT)
        mean, share = self.shift * (p - self.p)
        rows = np.exp(-share).reshape(*loc.shape, 1)  # the same to first order, and never negative
        return loc - mean.reshape(loc.shape), factor * rows, p


def in_batch(loc: np.ndarray, factor: np.ndarray, is_full: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean and factor as a batch: of one search, or of one for each coordinate."""
    return (loc[None], factor[None]) if is_full else (loc[:, None], np.diagonal(factor)[:, None, None])


def evaluate(
    density: Density, frame: Frame, loc: np.ndarray, factor: np.ndarray, p: np.ndarray, noise: np.ndarray
) -> Bent:
    """What draws `(draws, dim)` see at a Gaussian, `(searches, ...)`, and bends `(dim,)`."""
    seen: dict[str, np.ndarray] = {}

    def bent_density(points: np.ndarray, searches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # One search of all coordinates, or a search for each: the points are the same.
        u = points[0] if len(loc) == 1 else points[..., 0].T
        z, log_det = frame.bend(u, p)
        log_p, gradient = density(z)
        v = (u - frame.centre) / frame.scale
        # (r - 1) log(1 + |v|) has the slope p / (1 + |v|) in v, on either side.
        whole = gradient * np.exp(bent(v, p)[1]) + p / (1 + np.abs(v)) / frame.scale
        seen.update(v=v, y=u - loc.ravel(), by_z=gradient, by_u=whole, bound=log_p + log_det)
        return np.broadcast_to(log_p + log_det, points.shape[:2]), whole[None] if len(loc) == 1 else whole.T[..., None]

    searches = noise[None] if len(loc) == 1 else noise.T[..., None]
    at = natural_gradient.evaluate(bent_density, loc, factor, searches, np.arange(len(loc)))
    coefficients = _hermite(frame, loc.ravel(), at.sd.ravel(), p)
    shift = coefficients[:2] / np.array([np.ones_like(p), at.sd.ravel()])
    direct = seen["by_z"] * frame.scale * _by_p(seen["v"], p) + np.sign(seen["v"]) * np.log1p(np.abs(seen["v"]))
    slope = direct.mean(axis=0) - shift[0] * seen["by_u"].mean(axis=0)
    slope -= shift[1] * (1 + (seen["by_u"] * seen["y"]).mean(axis=0))
    fisher = _fisher(factor[0] if len(loc) == 1 else np.diag(factor.ravel()), coefficients)
    # A bend at its limit has nothing to gain beyond it.
    stays = (np.abs(p) >= LIMIT) & (slope * p > 0)
    slope, fisher = np.where(stays, 0.0, slope), np.where(stays | stays[:, None], np.eye(len(p)), fisher)
    bound = float(seen["bound"].mean() + np.linalg.slogdet(factor)[1].sum())
    return Bent(at, p, bound, slope, fisher, shift)


def _by_p(v: np.ndarray, p: np.ndarray) -> np.ndarray:
    """`dT/dp`, elementwise."""
    r, log_a = 1 + np.sign(v) * p, np.log1p(np.abs(v))
    power = np.exp(r * log_a)
    return power * log_a / r - (power - 1) / r**2


def _hermite(frame: Frame, loc: np.ndarray, sd: np.ndarray, p: np.ndarray) -> np.ndarray:
    """`a`, `(ORDER + 1, dim)`: by quadrature over each margin of the Gaussian."""
    v = (loc + sd * NODES[:, None] - frame.centre) / frame.scale
    return WEIGHED.T @ (frame.scale * _by_p(v, p) * np.exp(-bent(v, p)[1]))


def _fisher(factor: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """The metric of the bends, `(dim, dim)`: see the head of this file."""
    sd = np.sqrt(np.sum(factor**2, axis=1))
    scaled = factor / sd[:, None]
    correlation, inverse = scaled @ scaled.T, np.linalg.inv(scaled)
    # In units of the sds: a covariance in others may not be invertible in 64 bits.
    a, product = coefficients / sd, np.zeros_like(correlation)
    for k in range(2, ORDER + 1):
        product += np.outer(a[k], a[k]) * correlation**k
    orders = np.arange(2, ORDER + 1)
    return inverse.T @ inverse * product + np.diag(np.sum(orders[:, None] * a[2:] ** 2, axis=0))


def ascent(
    density: Density, frame: Frame, first: Bent, noise: np.ndarray, rounding: float
) -> Generator[Bent, None, Bent]:
    """Joint steps from `first`, each halved until the bound does not fall by more than `rounding`; returns the end."""
    at, length = first, 1.0
    for _ in range(LOOKS):
        if at.decrement <= ENOUGH:
            return dataclasses.replace(at, reason="converged")
        new = evaluate(density, frame, *at.moved(length), noise)
        if not (np.isfinite(new.decrement) and new.bound >= at.bound - rounding):
            if (length := length / 2) < MIN_LENGTH:
                return dataclasses.replace(at, reason="stuck")
            continue
        # Barzilai and Borwein: a step of `length` leaves `1 - length k` of the gradient.
        k = (1 - at.inner(new) / at.decrement) / length
        at, length = new, float(np.clip(1 / k, 0.1, MAX_LENGTH)) if k > 1 / MAX_LENGTH else MAX_LENGTH
        yield at
    return at
