"""What a user reads off a posterior, and by how much the guide has it wrong.

A guide lives in unconstrained space, but means and sds are read on the supports, and of contrasts between
coordinates: a direction in which the data narrow the posterior far below the sds of its coordinates. So these are
what is measured: each scalar of the latent and deterministic sites, and the principal directions of the correlations.

Of a scalar `x` with mean `mu` and sd `sigma` under the guide, and `M` and `V` weighted by `w = p / m` (mean one),

    mean error = (M - mu) / sigma,        log sd error = log(V / sigma^2) / 2,

and the influence of one draw on each gives the standard errors (Owen 2013, "Monte Carlo theory, methods and
examples", section 9.2):

    w (x - M) / sigma - own (x - mu) / (a sigma),
    [w ((x - M)^2 / V - 1) - own ((x - mu)^2 / sigma^2 - 1) / a] / 2,

where `own` tells the guide's own draws, a share `a`.

In many dims that is not enough. Where the conditional of the other coordinates changes with `x`, as in a funnel, the
further out `x` is, the more `log w` varies; few draws hold what the weights are worth there, and none of them may have
been drawn. But given `x` the sum of many small terms is nearly normal, so that to second order

    log p(x) / q(x) = E[log w | x] + Var[log w | x] / 2.

Both are regressed on `t = (x - mu) / sigma` and `t^2 - 1`; a coefficient `c` of the latter is a log sd error of
`-log(1 - 2 c) / 2`. It stands in the place of the average where it is sure to be one, too large, and the greater.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np

from vbppl.core.pytree import pytree, static
from vbppl.core.types import Shape
from vbppl.guides.layers.base import STRAIGHT, Bend
from vbppl.posterior.weighted_draws import WeightedDraws, values_of
from vbppl.target.axes import Axes, axes_of, coordinate_names
from vbppl.target.target import Target, shapes_of

MAX_NUMBERS = 2**26  # of all values; beyond it the coordinates alone are looked at
CHUNK = 2**17  # numbers that are weighed together: they stay in a processor's cache
DIRECTIONS, DIRECTION_DIM = 8, 128  # directions that are looked at; dims up to which they are
NARROW = 0.5  # the eigenvalue of the correlations below which a direction tells of more than its coordinates
BINS, LOOKED_AT = 20, 16  # of a quantity's distribution; quantities that an ideal judge looks at
LOG_SD_ERROR = 0.30  # of a log sd, with two standard errors: what makes a fit no good one
# Of errors by cumulants: by how much more than the weights show, beyond both errors, they cannot mend; how many
# standard errors one of many must be; the draws that they need; between which skewnesses log weights are near normal.
SURELY, SIGNIFICANT, MIN_DRAWS, SKEWED = 0.1, 4.0, 200, (-2.5, 1.5)
MANY_DIMS = 20
# Dims above which so few effective draws show no mean and no sd: of ten thousand sums of a few draws one is always off.
WEIGHTLESS_DIM, WEIGHTLESS = 512, 30.0
SMALLEST = 64  # units in the last place: a spread below it is none


@pytree
class Worst:
    """The worst of some numbers, with its standard error, and the quantity whose it is."""

    value: float
    name: str = static()
    se: float = 0.0


@dataclasses.dataclass(frozen=True)
class Errors:
    """The errors of a guide in each of its quantities, `(quantities,)` each.

    Attributes:
      mean: in sds of the guide; signed.
      mean_se: its standard error.
      log_sd: the log of the right sd over the guide's.
      log_sd_se: its standard error.
      name: of each by its number.
      unreached: the largest log sd error that the weights do not show, and so cannot mend; none, usually.
      compared: what `told_apart` is found by.
    """

    mean: np.ndarray
    mean_se: np.ndarray
    log_sd: np.ndarray
    log_sd_se: np.ndarray
    name: Callable[[int], str]
    compared: Callable[[], Worst]
    unreached: float = 0.0

    @functools.cached_property
    def told_apart(self) -> Worst:
        """How often an ideal judge tells a draw of the guide from one of the posterior by the best one quantity.

        One half is a perfect guide. No verdict depends on it, so that it is looked at where it is told.
        """
        return self.compared()


def errors(
    target: Target,
    draws: WeightedDraws,
    factor: np.ndarray | None,
    known: Callable[[], Mapping[str, np.ndarray]] | None = None,
) -> Errors:
    """By how much the guide is wrong in each quantity that has a spread.

    Args:
      target: what was fitted.
      draws: weighed.
      factor: of the guide's covariance, `(dim, dim)`, where it is known: for the directions.
      known: the values of the draws on the supports, where somebody has them.
    """
    columns, name = _columns(target, draws.z, factor, known)
    weights, own = draws.weights * len(draws), draws.own
    width = max(CHUNK // len(draws), 1)
    every = range(0, columns.shape[1], width)
    measured = _unmeasured if weightless(draws) else _measured
    blocks = [measured(columns[:, i : i + width].astype(np.float64), weights, own) for i in every]
    none = (np.zeros(0),) * 4
    mean, mean_se, log_sd, log_sd_se = (np.concatenate(parts) for parts in zip(none, *blocks))
    by_cumulants, its_se = (
        np.concatenate(parts)
        for parts in zip(none[:2], *(_by_cumulants(columns[:, i : i + width], draws) for i in every))
    )
    more = np.abs(by_cumulants) - np.abs(log_sd)
    beyond = more > SURELY + 2 * np.hypot(its_se, log_sd_se)
    worse = (more > 0) & (np.abs(by_cumulants) + 2 * its_se > LOG_SD_ERROR)
    log_sd, log_sd_se = np.where(worse, by_cumulants, log_sd), np.where(worse, its_se, log_sd_se)
    excess = np.maximum(np.abs(mean) - 2 * mean_se, np.abs(log_sd) - 2 * log_sd_se)
    compared, unreached = functools.partial(_told_apart, columns, draws, excess, name), np.abs(by_cumulants[beyond])
    return Errors(mean, mean_se, log_sd, log_sd_se, name, compared, float(unreached.max(initial=0.0)))


def weightless(draws: WeightedDraws) -> bool:
    """Whether in so many dims so few effective draws show no mean and no sd."""
    return draws.z.shape[1] > WEIGHTLESS_DIM and not draws.ess > WEIGHTLESS


def differences(
    target: Target, before: np.ndarray, after: np.ndarray, starts: np.ndarray, factor: np.ndarray | None
) -> Errors:
    """By how much what is read off `after` exceeds what is read off `before`, `(points, dim)` each: of pairs.

    As errors, in units of `before`. Pairs that have one of the `starts`, `(points,)`, in common are not independent.
    """
    (x, name), (y, _) = (_columns(target, z, factor) for z in (before, after))
    mu, sigma = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    sigma = np.where(sigma <= SMALLEST * np.finfo(jnp.result_type(float)).eps * np.abs(mu), np.nan, sigma)
    x, y = (x - mu) / sigma, (y - mu) / sigma
    mean, variance = y.mean(axis=0), y.var(axis=0)
    alike = np.unique(starts, return_inverse=True)[1]

    def error(influence: np.ndarray) -> np.ndarray:
        sums = np.zeros((alike.max() + 1, x.shape[1]))
        np.add.at(sums, alike, influence - influence.mean(axis=0))
        return np.sqrt((sums**2).sum(axis=0)) / len(x)

    log_sd_se = error(((y - mean) ** 2 / variance - x**2) / 2)
    return Errors(mean, error(y - x), np.log(variance) / 2, log_sd_se, name, lambda: Worst(0.5, "none"))


def _columns(
    target: Target,
    z: np.ndarray,
    factor: np.ndarray | None,
    known: Callable[[], Mapping[str, np.ndarray]] | None = None,
) -> tuple[np.ndarray, Callable[[int], str]]:
    """All quantities at `z`, `(draws, quantities)`, and what each is called: coordinates where values are too many."""
    outline, columns, axes = [], [], axes_of(target)
    few = target.layout.reported and len(z) * max(sum(map(math.prod, shapes_of(target).values())), 1) <= MAX_NUMBERS
    values = (known() if known else values_of(target, z)) if few else {}
    if values:
        for site, value in {**values, **_by_quantiles(target, z)}.items():
            told = functools.partial(_told, axes, site, value.shape[1:])
            outline.append((value[0].size, told))
            columns.append(value.reshape(len(value), -1))
    else:
        outline.append((target.dim, lambda i: coordinate_names(target)[i]))
        columns.append(z)
    directions = narrow_directions(factor)
    if len(directions):
        outline.append((len(directions), lambda i: _contrast(directions[i], target)))
        columns.append(z @ (directions / np.linalg.norm(directions, axis=1, keepdims=True)).T)
    ends = np.cumsum([size for size, _ in outline])

    def name(i: int) -> str:
        at = int(np.searchsorted(ends, i, side="right"))
        return outline[at][1](i - (ends[at - 1] if at else 0))

    return np.concatenate(columns, axis=1), name


def _by_quantiles(target: Target, z: np.ndarray) -> dict[str, np.ndarray]:
    """Of sites without mean or variance, what has both: the standard normal of which they are a function."""
    slots = [slot for slot in target.layout.slots if slot.name in target.layout.by_quantiles]
    return {slot.name: z[:, slot.start : slot.stop].reshape(-1, *slot.unconstrained) for slot in slots}


def _told(known: Axes, site: str, shape: Shape, i: int) -> str:
    return known.name(site, shape, tuple(map(int, np.unravel_index(i, shape))))


def narrow_directions(factor: np.ndarray | None) -> np.ndarray:
    """Directions in z, `(directions, dim)`, in which a normal is much narrower than its coordinates suggest.

    Eigenvectors of the least eigenvalues of its correlations: contrasts that the data know better than each part.
    """
    if factor is None or not 1 < len(factor) <= DIRECTION_DIM:
        return np.zeros((0, 0))
    sd = np.sqrt((factor**2).sum(axis=1))
    values, vectors = np.linalg.eigh((factor / sd[:, None]) @ (factor / sd[:, None]).T)
    narrow = np.flatnonzero(values < NARROW)[:DIRECTIONS]
    return (vectors[:, narrow] / sd[:, None]).T


def _contrast(direction: np.ndarray, target: Target) -> str:
    """A direction by the coordinates that make most of it."""
    heaviest = np.argsort(-np.abs(direction))[:3]
    every = coordinate_names(target)
    named = [every[i] for i in heaviest if abs(direction[i]) > 0.3 * np.abs(direction).max()]
    return f"the contrast of {', '.join(named)}"


def _measured(x: np.ndarray, weights: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, ...]:
    """Errors and their standard errors of columns `x`, `(draws, columns)`.

    NaN where there is no spread, of which nothing can be wrong; infinite where a value is not finite, so that
    nothing is known.
    """
    share = own.mean()
    mu, sigma = x[own].mean(axis=0), x[own].std(axis=0)
    # Rounding is no spread: of a constant nothing can be wrong.
    none = sigma <= SMALLEST * np.finfo(jnp.result_type(float)).eps * np.abs(mu)
    # Far out a value may overflow; where it weighs nothing that does not matter.
    x = np.where(np.isfinite(x) | (weights > 1e-9)[:, None], (x - mu) / np.where(none, np.nan, sigma), 0.0)
    w = weights[:, None]
    mean = (w * x).mean(axis=0)
    variance = (w * (x - mean) ** 2).mean(axis=0)
    to_mean = w * (x - mean) - np.where(own[:, None], x / share, 0.0)
    to_sd = (w * ((x - mean) ** 2 / variance - 1) - np.where(own[:, None], (x**2 - 1) / share, 0.0)) / 2
    root = np.sqrt(len(x))
    found = mean, to_mean.std(axis=0) / root, np.log(variance) / 2, to_sd.std(axis=0) / root
    return tuple(np.where(none | np.isfinite(sum(found)), each, np.inf) for each in found)


def _unmeasured(x: np.ndarray, weights: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, ...]:
    """The same where weights are worth next to nothing, so that no error is known of what has a spread."""
    none = np.ptp(x[own], axis=0) <= SMALLEST * np.finfo(jnp.result_type(float)).eps * np.abs(x[own].mean(axis=0))
    return (np.where(none, np.nan, np.inf),) * 4


def _by_cumulants(x: np.ndarray, draws: WeightedDraws) -> tuple[np.ndarray, np.ndarray]:
    """Log sd errors of columns `x` by the second equation at the head of this file, with their standard errors.

    NaN where it does not hold or is not needed: there is no spread, `log w` is far from normal, or dims are few.
    """
    unknown = np.full(x.shape[1], np.nan)
    if draws.z.shape[1] < MANY_DIMS:  # the weights do reach, and their averages need no assumption
        return unknown, unknown
    own = draws.own & np.isfinite(draws.log_p - draws.log_q)
    log_w, t = (draws.log_p - draws.log_q)[own], x[own].astype(np.float64)
    log_w = log_w - log_w.mean() if len(log_w) else log_w
    skewed = (log_w**3).mean() / (log_w**2).mean() ** 1.5 if len(log_w) >= MIN_DRAWS else np.nan
    if not SKEWED[0] < skewed < SKEWED[1]:
        return unknown, unknown
    t = (t - t.mean(axis=0)) / t.std(axis=0)
    square = t**2 - 1
    skew, kurtosis = (t * t * t).mean(axis=0), (square**2).mean(axis=0)
    # The part of t^2 - 1 that t does not tell, and what it explains.
    rest = square - skew * t
    size = (rest**2).mean(axis=0)
    fitted = (t.T @ log_w) / len(t) * t + (rest.T @ log_w) / len(t) / size * rest
    y = log_w[:, None] + (log_w[:, None] - fitted) ** 2 / 2
    y = y - y.mean(axis=0)
    c = (rest * y).mean(axis=0) / size
    residual = y - (t * y).mean(axis=0) * t - c * rest
    se = np.sqrt(((rest * residual) ** 2).mean(axis=0) / len(t)) / size
    left = np.maximum(1 - 2 * c, 1e-3)
    # Of a quantity that is itself far from normal a square tells little.
    sound = (np.abs(skew) < 1) & (kurtosis < 4) & (np.abs(c) > SIGNIFICANT * se)
    return np.where(sound, -np.log(left) / 2, np.nan), np.where(sound, se / left, np.nan)


def classifier_accuracy(draws: WeightedDraws) -> float:
    """How often the best possible judge tells a draw of the guide from one of the posterior: half is a perfect guide.

    `(1 + TV) / 2` with `TV = E_m[(q/m - p/m)_+]`: the side that is bounded.
    """
    guide = np.exp(draws.log_q - draws.log_proposal)
    return float(0.5 + min(np.maximum(guide - draws.weights * len(draws), 0).mean(), 1.0) / 2)


def _told_apart(columns: np.ndarray, draws: WeightedDraws, excess: np.ndarray, name: Callable[[int], str]) -> Worst:
    """The same of the one quantity by which it is easiest, among those that differ most.

    In bins of equal share under the guide. The sign of a bin's difference is from nine tenths of the draws and its
    size from the other, in turn: one and the same draws would find a difference where there is none.
    """
    looked = [i for i in np.argsort(-np.nan_to_num(excess, nan=-np.inf))[:LOOKED_AT] if np.isfinite(excess[i])]
    difference = draws.weights * len(draws) - np.exp(draws.log_q - draws.log_proposal)
    tenth, worst = np.arange(len(draws)) % 10, Worst(0.5, "none")
    for i in looked:
        x = np.nan_to_num(columns[:, i].astype(np.float64))
        edges = np.quantile(x[draws.own], np.arange(1, BINS) / BINS)
        counted = np.bincount(tenth * BINS + np.searchsorted(edges, x), difference, 10 * BINS).reshape(10, BINS)
        signs = np.sign(counted.sum(axis=0) - counted)
        value = float(0.5 + (signs * counted).sum() / len(draws) / 4)
        if value > worst.value:
            worst = Worst(min(value, 1.0), name(int(i)))
    return worst


def tail(
    target: Target,
    normal: tuple[np.ndarray, np.ndarray],
    log_density: Callable[[np.ndarray], np.ndarray],
    bend: Bend = STRAIGHT,
    along: np.ndarray | None = None,
) -> Worst:
    """How much wider than a normal guide the density is along its ridges, out to ten sds: the log of it.

    The ridge of a coordinate runs through the guide's conditional means of the others. Along it a Gaussian
    falls off by `t^2 / 2` at `t` sds, further out than any draw goes; a density with heavier tails does not. Both
    are compared by the sds of the quantities that vary along it, as a user sees them.

    Of a guide that bends a normal the ridges are those of the normal, and bent like its draws. `along` names the
    coordinates whose ridges are looked at; None for all.
    """
    loc, factor = normal
    along = np.arange(len(loc)) if along is None else along
    # E[z | z_i at t sds] = loc + t Cov[:, i] / sd_i: a row for each coordinate.
    ridges = factor[along] @ factor.T / np.linalg.norm(factor[along], axis=1, keepdims=True)
    straight = loc + T[:, None, None] * ridges
    z, log_det = (np.asarray(part, np.float64) for part in bend.there(straight.reshape(-1, len(loc))))
    log_p = (log_density(z) + log_det).reshape(len(T), -1)
    log_p, points = np.where(np.isfinite(log_p), log_p, -np.inf), z.reshape(straight.shape)
    values = values_of(target, z) if target.layout.reported else {}
    worst = Worst(0.0, "not looked at")
    sites = [slot.name for slot in target.layout.slots for _ in range(slot.start, slot.stop)]
    names = coordinate_names(target)
    for i, at in enumerate(along.tolist()):
        name, site = names[at], sites[at]
        if not np.isfinite(log_p[:, i]).any():
            return Worst(np.nan, "not looked at")
        x = values[site].reshape(len(T), len(ridges), -1)[:, i] if site in values else points[:, i, at, None]
        # A tail counts where it is one on both scales: that of tau may be heavy where that of log tau is not, and
        # the other way round; what is far out on one of them only, draws do reach.
        scales = [_ratio(np.asarray(each, np.float64), log_p[:, i]) for each in (x, T[:, None])]
        value = min(scales, key=lambda each: _badness(each) if np.isfinite(each) else np.inf)
        if np.isfinite(value) and _badness(value) > _badness(worst.value):
            worst = Worst(value, name)
    return worst


def unlike_a_normal(draws: WeightedDraws) -> np.ndarray:
    """Coordinates in which tails may be heavy: those whose fourth Hermite polynomials tell most of the log weights."""
    log_w = draws.log_p - draws.log_q
    own = draws.own & np.isfinite(log_w)
    t = (draws.z[own] - draws.z[own].mean(axis=0)) / np.maximum(draws.z[own].std(axis=0), 1e-300)
    fourth = t**4 - 6 * t**2 + 3
    told = np.abs((log_w[own] - log_w[own].mean()) @ fourth) / np.maximum(np.linalg.norm(fourth, axis=0), 1e-300)
    return np.argsort(-told)[:LOOKED_AT]


REACH = 10  # sds
T = np.linspace(-REACH, REACH, 4 * REACH + 1)  # half sds: the trapezoid's error for a normal is below 1e-7


def _badness(value: float) -> float:
    """Of a log ratio of widths: too narrow a guide is worse than one too wide."""
    return value if value > 0 else -value / 3.4


def _ratio(x: np.ndarray, log_p: np.ndarray) -> float:
    """The log of the sd of `x`, `(points, scalars)`, under the density along a ridge over that under the normal.

    Of the scalar that varies most along it, in units of itself.
    """
    x = np.where(np.isfinite(x), x, 0.0)
    p, q = (np.exp(log - np.logaddexp.reduce(log))[:, None] for log in (log_p, -(T**2) / 2))
    sds = [np.sqrt((w * (x - (w * x).sum(axis=0)) ** 2).sum(axis=0)) for w in (p, q)]
    moves = sds[1] > 0
    if not moves.any():
        return np.nan
    return float(np.log(sds[0][moves] / sds[1][moves])[np.argmax(sds[1][moves])])
