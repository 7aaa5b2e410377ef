"""Draws with the densities that weigh them: of a guide's own, and of points far out that its draws never reach.

Weights of a guide's own draws cannot show what it does not reach. So one draw in four lies anywhere along the radii of
the guide's ellipsoid, and all are weighed together, as draws of one mixture with a known density (Hesterberg 1995,
"Weighted Average Importance Sampling and Defensive Mixture Distributions"; Owen and Zhou 2000, "Safe and Effective
Importance Sampling"). With `z = loc + L e` and `r = |e|`, the far draws have a uniform direction and

    r log-uniform on sqrt(dim) (0.05, 200),
    log g(e) = -dim log r - log log(200 / 0.05) - log(2 pi^(dim/2) / Gamma(dim/2)),

so that narrow cores are met as well as wide surroundings.

In doubt more draws are taken, and half of those come from Student's t with 5 degrees of freedom around the weighted
moments of the first (Cappe, Douc, Guillin, Marin and Robert 2008, "Adaptive importance sampling in general mixture
classes"): weights of heavy tails stay bounded, and a guide that is too narrow is not asked again for what it lacks.

All are draws of one mixture, `m = a q + b g + c t` with the shares that were drawn, and `w = p / m`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vbppl.core.numerics import psis
from vbppl.core.numerics.draws import fresh_draws
from vbppl.core.pytree import pytree
from vbppl.core.types import Array, PyTree
from vbppl.guides.base import Guide, in_dtype_of, is_traced
from vbppl.guides.gaussian import normal_of
from vbppl.guides.layers.base import STRAIGHT, Bend, unlayered
from vbppl.guides.noise import Normals
from vbppl.inference import bound
from vbppl.inference.bound import log_prob, weighed_draws
from vbppl.target.batched import evaluate
from vbppl.target.target import Target

OWN = 0.75  # of the draws: the guide's own
MIN_RADIUS, MAX_RADIUS = 0.05, 200.0  # radii of the far draws, in units of sqrt(dim) sds
FREEDOM = 5.0  # of Student's t
FAR_DIM = 128  # dims beyond which a radius meets nothing
FLAT = 0.1  # the largest weights' rise, as a share of those below, under which they have no tail
# The same, under which it is too small to move their sum, whatever its shape: far draws are among them, so that no
# weight of a guide that is nearly right stands out. Of 504 fits with known errors 53 had a k above .7 so, and of none
# was the evidence off by .01 nats. Means and sds are another matter: those of a Cauchy variable do not settle down.
LITTLE = 1.0
ROUNDED = 0.01  # of a coordinate: what the way to its support and back may change
KEPT = 2**22  # numbers of the draws that a report holds on to
TRUSTED_K = 0.7  # the tail's shape
NOTHING, FEW = 1e-12, 10  # of the whole weight; effective draws that have no moments yet
ENOUGH = 300  # effective draws


def values_of(target: Target, z: np.ndarray) -> dict[str, np.ndarray]:
    """The values of all sites at `z`, `(draws, dim)`, on the host."""
    found = target.constrain(z.astype(jnp.result_type(float)))
    return {name: np.asarray(value) for name, value in found.items()}


def told_apart(target: Target, z: np.ndarray, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """At which of the points `z` their `values` on the supports still tell where they are, `(draws,)`.

    Where they do not, the density is one of rounded numbers: a non-centred `mu + tau z` with `tau = 1e-11` is `mu`
    whatever `z`, and its log density does not fall with `z`.
    """
    if not target.layout.reported:
        return np.ones(len(z), bool)
    again = np.asarray(target.unconstrain({slot.name: values[slot.name] for slot in target.layout.slots}), np.float64)
    return np.all(np.abs(again - z) <= ROUNDED * (1 + np.abs(z)), axis=1)


@pytree
class WeightedDraws:
    """Draws in unconstrained space, and what they weigh.

    Attributes:
      z: the draws, `(draws, dim)`.
      log_p: the target's log density at each, `(draws,)`, in nats; not finite where there is none.
      log_q: the guide's; where blocks were drawn again (`inference/redrawn`), `log_p` less the log of what they weigh.
      log_proposal: that of the mixture they come from.
      log_weight: of each, Pareto-smoothed: the exponentials sum to one.
      pareto_k: the shape of the tail of the weights; minus infinity where the largest are all but even.
      log_evidence: the log of the mean weight, in nats.
      own: which of them are the guide's own, `(draws,)`.
      rise: by how much the largest weight exceeds those below the tail, as a share of them.
    """

    z: np.ndarray
    log_p: np.ndarray
    log_q: np.ndarray
    log_proposal: np.ndarray
    log_weight: np.ndarray
    pareto_k: float
    log_evidence: float
    own: np.ndarray
    rise: float = math.inf

    @classmethod
    def none(cls, dim: int) -> WeightedDraws:
        """No draws."""
        nothing = np.zeros(0)
        return cls(np.zeros((0, dim)), nothing, nothing, nothing, nothing, np.nan, np.nan, np.zeros(0, bool))

    @classmethod
    def of(
        cls, z: np.ndarray, log_p: np.ndarray, log_q: np.ndarray, log_proposal: np.ndarray, own: np.ndarray
    ) -> WeightedDraws:
        """Draws of a proposal with their weights."""
        # A draw without a density weighs nothing, but counts: the average weight is over all draws.
        smoothed = psis.smooth(np.where(np.isfinite(log_p), log_p - log_proposal, -np.inf))
        shape = smoothed.shape if smoothed.rise > FLAT else -np.inf
        known = smoothed.log_weights, shape, smoothed.log_mean
        return cls(z, log_p, log_q, log_proposal, *known, own, smoothed.rise)

    def __len__(self) -> int:
        return len(self.z)

    @property
    def weights(self) -> np.ndarray:
        """Of each draw, `(draws,)`; they sum to one."""
        return np.exp(self.log_weight)

    @property
    def ess(self) -> float:
        """The effective number of draws."""
        return float(1 / np.sum(self.weights**2)) if len(self) and np.isfinite(self.log_weight).any() else 0.0

    @property
    def trusted(self) -> bool:
        """Whether averages with these weights can be told: their tail settles down, and they are enough."""
        return self.pareto_k < TRUSTED_K and self.ess >= ENOUGH

    @property
    def tells_evidence(self) -> bool:
        """Whether the average weight itself can be told, which needs less."""
        return self.trusted or (self.rise <= LITTLE and self.ess >= ENOUGH)

    @property
    def unweighed(self) -> WeightedDraws:
        """The guide's own, each of which weighs the same: the guide itself as an answer."""
        mine = self.own & np.isfinite(self.log_p)
        return dataclasses.replace(self, log_weight=np.where(mine, -np.log(max(mine.sum(), 1)), -np.inf))

    @property
    def worth(self) -> str:
        """Why not, in words."""
        return f": {len(self):,} draws are worth {self.ess:,.0f}, with a Pareto k of {self.pareto_k:.2f}"

    @property
    def lost(self) -> float:
        """The share of the guide's own draws at which the density is not finite."""
        return float(np.mean(~np.isfinite(self.log_p[self.own]))) if self.own.any() else np.nan

    @property
    def without_number(self) -> float:
        """The same, but for those beyond a cliff: there the density is zero, and so is their weight, which is right."""
        return float(np.mean(~(self.log_p[self.own] < np.inf))) if self.own.any() else np.nan

    @property
    def log_weight_sd(self) -> float:
        """The standard deviation of `log p - log q` over the guide's own draws, in nats."""
        ratio = (self.log_p - self.log_q)[self.own]
        return float(ratio[np.isfinite(ratio)].std()) if np.isfinite(ratio).any() else np.nan

    @property
    def counting(self) -> np.ndarray:
        """Those that weigh anything: elsewhere a value may be infinite, and infinity times nothing is no number."""
        return self.weights > NOTHING

    def chosen(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Which draws stand for `n` of the posterior: each as often as it weighs, rounded at random, in any order."""
        shares = np.cumsum(self.weights)
        at = rng.permutation(np.arange(n) + rng.uniform()) / n
        return np.searchsorted(shares / shares[-1], at).clip(max=len(self) - 1)

    def few(self) -> WeightedDraws:
        """As many as a report holds on to, evenly out of all, in the session's dtype."""
        most = max(KEPT // max(self.z.shape[1], 1), 1)
        every = slice(None, None, -(-len(self) // most) if len(self) else 1)
        some = self
        if len(self) > most:
            parts = (self.z, self.log_p, self.log_q, self.log_proposal, self.own)
            some = WeightedDraws.of(*(part[every] for part in parts))
        # The guide made them in this dtype, so nothing is lost.
        return dataclasses.replace(some, z=some.z.astype(jnp.result_type(float)))


@dataclasses.dataclass(frozen=True)
class Ellipsoid:
    """A place and a shape, `loc + L e`: `loc` `(dim,)` and `L` `(dim, dim)`."""

    loc: np.ndarray
    factor: np.ndarray

    @classmethod
    def around(cls, z: np.ndarray, weights: np.ndarray) -> Ellipsoid:
        """By the moments of weighted draws; by those of each coordinate where the draws are few."""
        loc = weights @ z
        covariance = (z - loc).T @ ((z - loc) * weights[:, None])
        diagonal = np.diag(np.diagonal(covariance))
        if 1 / np.sum(weights**2) < 4 * len(loc):
            covariance = diagonal
        return cls(loc, np.linalg.cholesky(covariance + 1e-9 * diagonal + 1e-300 * np.eye(len(loc))))

    @property
    def dim(self) -> int:
        """Of the space."""
        return len(self.loc)

    def at(self, e: np.ndarray) -> np.ndarray:
        """The points `(draws, dim)` that belong to `e`."""
        return self.loc + e @ self.factor.T

    def residual(self, z: np.ndarray) -> np.ndarray:
        """The `e` that belong to points."""
        return (z - self.loc) @ self._inverse.T

    @functools.cached_property
    def _inverse(self) -> np.ndarray:
        # A report asks for many densities: by one product each, where a solver would factorise anew.
        return np.linalg.inv(self.factor)

    @property
    def log_volume(self) -> float:
        """Log |det L|."""
        return float(np.log(np.abs(np.diagonal(self.factor))).sum())

    def log_normal(self, z: np.ndarray) -> np.ndarray:
        """The log density of the normal with these moments."""
        squares = (self.residual(z) ** 2).sum(axis=1)
        return -0.5 * squares - self.dim / 2 * math.log(2 * math.pi) - self.log_volume

    def far(self, rng: np.random.Generator, draws: int) -> np.ndarray:
        """Points with uniform directions and log-uniform, stratified radii."""
        direction = rng.standard_normal((draws, self.dim))
        direction /= np.sqrt((direction**2).sum(axis=1, keepdims=True))
        strata = (rng.permutation(draws) + rng.random(draws)) / draws
        radius = math.sqrt(self.dim) * MIN_RADIUS * (MAX_RADIUS / MIN_RADIUS) ** strata
        return self.at(radius[:, None] * direction)

    def log_far(self, z: np.ndarray) -> np.ndarray:
        """Their log density: `g` at the head of this file."""
        radius = np.sqrt((self.residual(z) ** 2).sum(axis=1))
        sphere = math.log(2) + self.dim / 2 * math.log(math.pi) - math.lgamma(self.dim / 2)
        with np.errstate(divide="ignore"):
            inside = -self.dim * np.log(radius) - math.log(math.log(MAX_RADIUS / MIN_RADIUS)) - sphere - self.log_volume
        unit = math.sqrt(self.dim)
        return np.where((radius >= unit * MIN_RADIUS) & (radius <= unit * MAX_RADIUS), inside, -np.inf)

    def student(self, rng: np.random.Generator, draws: int) -> np.ndarray:
        """Points of Student's t around it."""
        scale = np.sqrt(FREEDOM / rng.chisquare(FREEDOM, (draws, 1)))
        return self.at(scale * fresh_draws(rng, draws, self.dim))

    def log_student(self, z: np.ndarray) -> np.ndarray:
        """Their log density."""
        squares, dim = (self.residual(z) ** 2).sum(axis=1), self.dim
        constant = math.lgamma((FREEDOM + dim) / 2) - math.lgamma(FREEDOM / 2) - dim / 2 * math.log(FREEDOM * math.pi)
        return constant - (FREEDOM + dim) / 2 * np.log1p(squares / FREEDOM) - self.log_volume


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Points of the guide and of what surrounds it, with their log densities; `weighed` makes draws of them.

    `parts` are those of which they were joined, or which these are with other densities: their values are known.
    """

    target: Target
    z: np.ndarray
    log_p: np.ndarray
    log_q: np.ndarray
    own: np.ndarray
    proposals: tuple[tuple[int, Callable[[np.ndarray], np.ndarray]], ...] = ()
    parts: tuple[Drawn, ...] = ()

    @functools.cached_property
    def values(self) -> Mapping[str, np.ndarray]:
        """On the supports, `(draws, ...)` of each site; of what was joined only where it is not known yet."""
        if not any("values" in part.__dict__ for part in self.parts):
            return values_of(self.target, self.z)
        each = [part.values for part in self.parts]
        return each[0] if len(each) == 1 else {name: np.concatenate([one[name] for one in each]) for name in each[0]}

    def weighed(self) -> WeightedDraws:
        """As draws of the mixture that has as many of each."""
        log_m = math.log(self.own.mean()) + self.log_q
        for count, log_density in self.proposals:
            log_m = np.logaddexp(log_m, math.log(count / len(self.z)) + log_density(self.z))
        return WeightedDraws.of(self.z, self.log_p, self.log_q, log_m, self.own)

    def without_rounded(self) -> Drawn:
        """The same, but that points which rounding cannot tell apart have no density."""
        log_p = np.where(told_apart(self.target, self.z, self.values), self.log_p, -np.inf)
        return dataclasses.replace(self, log_p=log_p, parts=(self,))

    def weighs_like(self, other: WeightedDraws) -> bool:
        """Whether `other`, the same points with other densities, would be judged alike."""
        mine, changed = self.weighed(), self.log_p != other.log_p
        moved = np.abs(mine.weights - other.weights).max(initial=0.0)
        return not np.any(changed & self.own) and mine.pareto_k == other.pareto_k and bool(moved <= NOTHING)

    def joined(self, other: Drawn) -> Drawn:
        """These and others."""
        fields = (
            np.concatenate([getattr(each, name) for each in (self, other)]) for name in ("z", "log_p", "log_q", "own")
        )
        proposals = (*self.proposals, *other.proposals)
        return Drawn(self.target, *fields, proposals=proposals, parts=(self, other))


@dataclasses.dataclass(frozen=True)
class Bent:
    """A normal, seen through layers or as it is: what needs no compiled program to be drawn from and weighed."""

    straight: Ellipsoid
    bend: Bend

    @classmethod
    def of(cls, guide: Guide, phi: PyTree, target: Target) -> Bent | None:
        """The guide as such a normal; None where it is none."""
        base, base_phi, bend = unlayered(guide, phi, target)
        normal = normal_of(base, base_phi)
        return cls(Ellipsoid(*normal), bend) if normal else None

    def at(self, e: np.ndarray) -> np.ndarray:
        """The points `(draws, dim)` that belong to `e`."""
        return np.asarray(self.bend.there(self.straight.at(e))[0], np.float64)

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """Its log density, `(draws,)`."""
        u, log_det = (np.asarray(part, np.float64) for part in self.bend.back(z))
        return self.straight.log_normal(u) + log_det


def log_prob_of_values(guide: Guide, phi: PyTree, target: Target, values: Mapping[str, Any]) -> Array:
    """The guide's log density of `values` on the supports, without a program of its own where it needs none."""
    bent = Bent.of(guide, phi, target) if not is_traced(phi) and reaches_out(guide, target) else None
    return bound.log_prob_of_values(guide, phi, target, values, None if bent is None else bent.log_density)


def draw(guide: Guide, phi: PyTree, target: Target, rng: np.random.Generator, draws: int) -> Drawn:
    """So many draws: three in four of them the guide's own, the others far out where there is an ellipsoid."""
    if not reaches_out(guide, target):
        return _own(guide, phi, target, rng, draws)
    own = _own(guide, phi, target, rng, round(OWN * draws) // 2 * 2)
    bent = Bent.of(guide, phi, target)
    is_normal = bent is not None and bent.bend is STRAIGHT
    around = bent.straight if bent and is_normal else Ellipsoid.around(own.z, np.full(len(own.z), 1 / len(own.z)))
    count = draws - len(own.z)
    return own.joined(_others(guide, phi, target, around.far(rng, count), around.log_far))


def draw_more(
    guide: Guide, phi: PyTree, target: Target, rng: np.random.Generator, draws: int, known: WeightedDraws
) -> Drawn:
    """So many further draws, half of them where the weights of the first say that the posterior is."""
    if not reaches_out(guide, target) or known.ess < FEW:
        return draw(guide, phi, target, rng, draws)
    nearer, count = Ellipsoid.around(known.z, known.weights), draws // 4 * 2
    more = draw(guide, phi, target, rng, draws - count)
    return more.joined(_others(guide, phi, target, nearer.student(rng, count), nearer.log_student))


def reaches_out(guide: Guide, target: Target) -> bool:
    """Is the guide one of whole points, in so few dims that other points can be put beside its own?"""
    noise = guide.noise(target)
    return isinstance(noise, Normals) and not noise.is_of_rows and 0 < target.dim <= FAR_DIM


def _own(guide: Guide, phi: PyTree, target: Target, rng: np.random.Generator, draws: int) -> Drawn:
    bent = Bent.of(guide, phi, target) if reaches_out(guide, target) else None
    if bent is None:
        log_p, log_q, z = weighed_draws(guide, phi, target, rng, draws)
    else:
        z = _rounded(phi, bent.at(fresh_draws(rng, draws, target.dim)))
        log_p, log_q = evaluate(target, z)[0], bent.log_density(z)
    return Drawn(target, z, log_p, log_q, np.ones(len(z), bool))


def _others(
    guide: Guide, phi: PyTree, target: Target, z: np.ndarray, log_density: Callable[[np.ndarray], np.ndarray]
) -> Drawn:
    """Points that are not the guide's."""
    z, bent = _rounded(phi, z), Bent.of(guide, phi, target)
    log_q = bent.log_density(z) if bent else np.asarray(log_prob(guide, phi, z, target), np.float64)
    return Drawn(target, z, evaluate(target, z)[0], log_q, np.zeros(len(z), bool), ((len(z), log_density),))


def _rounded(phi: PyTree, z: np.ndarray) -> np.ndarray:
    """The points as the density sees them: their own density is then asked for at the same place."""
    return np.asarray(in_dtype_of(phi, z), np.float64)
