"""What is asked of a fitted guide, whatever its family: draws, their weights, and the bound, by which choices are made.

Each is a function over the protocol of guides. A guide that knows rows is gone through in blocks of them, each with
its share of all, so that neither many rows nor what is read from files has to be in memory at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core import devices
from vbppl.core.errors import ModelError
from vbppl.core.keys import host_generator
from vbppl.core.programs.compiling import ByWork, in_batches
from vbppl.core.types import AnyArray, Array, PyTree
from vbppl.guides.base import Draws, Guide, in_dtype_of, is_traced
from vbppl.guides.layers.base import evaluations_of
from vbppl.guides.networks import network_size
from vbppl.guides.noise import Noise
from vbppl.guides.structured import AT_ONCE
from vbppl.target.batched import HEAVY, evaluate
from vbppl.target.target import Target, log_conditional, unconstrained_and_log_det

SETS, FEWEST_SETS = 8, 4
WORK = 4e8  # draws times numbers in the data
ENOUGH, FEW = 2e7, 32  # the same of a bound, with the draws of a set that it has in any case
NUMBERS = 2**23  # that intermediate values of a block of rows may hold
MIN_DRAWS = 4  # draws behind a term of the bound
MAX_NUMBERS = 2**26  # numbers that draws of all rows may hold
AT_ONCE_IN_SETS = 2**20  # numbers of the sets that are evaluated together
WORTHWHILE = 0.05  # nats that a richer guide must gain to be kept


class Estimate(NamedTuple):
    """A value with its Monte Carlo standard error, both in nats."""

    value: float
    se: float

    @classmethod
    def of(cls, sets: Sequence[float]) -> Estimate:
        """The mean of what independent sets of draws say, and how much they differ."""
        return cls(float(np.mean(sets)), float(np.std(sets, ddof=1) / np.sqrt(len(sets))))

    def is_sure(self, least: float = WORTHWHILE) -> bool:
        """Is a gain so great, and beyond two standard errors?"""
        return bool(least < self.value < np.inf and self.value > 2 * self.se)

    @property
    def least(self) -> float:
        """Less two standard errors."""
        return self.value - 2 * self.se

    @property
    def in_words(self) -> str:
        """For a note."""
        return f"{self.value:z.2f} ± {self.se:.2f} nats"

    def __str__(self) -> str:
        return f"{self.value:z.3f} ± {self.se:.3f}"

    def _repr_html_(self) -> str:
        return f"<p>{self} nats</p>"


class Gain(NamedTuple):
    """What the bound gains, and how many times as much log weights then vary."""

    bound: Estimate
    spread: float

    def __str__(self) -> str:
        return f"{self.bound.in_words}, log weights vary {self.spread:.2f} times as much"

    def is_sure(self, least: float) -> bool:
        """Is it so much, beyond two standard errors, and do weights not vary more?"""
        return self.bound.is_sure(least) and self.spread <= 1


class Weighed(NamedTuple):
    """Independent draws `z`, `(draws, dim)`, and the log densities of target and guide there, `(draws,)`: float64."""

    log_p: np.ndarray
    log_q: np.ndarray
    z: np.ndarray

    @property
    def log_weights(self) -> np.ndarray:
        """`log p - log q`."""
        return self.log_p - self.log_q


def elbo(guide: Guide, phi: PyTree, target: Target, raw_key: np.ndarray) -> Estimate:
    """The evidence lower bound at all rows, from fresh draws.

    Independent sets of draws; within a set the draws are moment-exact where the guide can, so the
    standard error is taken between the sets, never within one. Where a single draw is dear, as of all rows of an
    autoencoder, a set is one draw: many rows average enough.
    """
    cost, sets = work(guide, phi, target), SETS
    if cost > WORK:
        target, draws, sets = _in_long_blocks(target), 1, FEWEST_SETS
    else:
        draws = 32 if target.data_size > HEAVY else int(np.clip(4 * target.dim, 256, 1024))
        # Where a draw is dear, as of a long series, an estimate that is this good already is not worth more.
        draws = int(np.clip(ENOUGH / (SETS * max(cost, 1)), min(draws, FEW), draws))
        draws = int(np.clip(WORK / max(cost, 1), MIN_DRAWS, draws)) // 2 * 2  # antithetic pairs
    rng = host_generator(raw_key, "elbo")
    noise = guide.noise(target)
    if noise.picks or noise.is_of_rows or not noise.has_exact_moments:
        means = np.array([fresh_bound(guide, phi, target, rng, draws).mean() for _ in range(sets)])
    else:  # a call of the density for several
        drawn = [in_dtype_of(phi, noise.fresh(rng, draws)) for _ in range(sets)]
        together = max(AT_ONCE_IN_SETS // max(draws * target.dim, 1), 1)
        parts = [np.concatenate(drawn[i : i + together]) for i in range(0, sets, together)]
        terms = [np.asarray(guide.bound(phi, part, target), np.float64) for part in parts]
        means = np.concatenate(terms).reshape(sets, draws).mean(axis=1)
    return Estimate(float(means.mean()), float(means.std(ddof=1) / np.sqrt(sets)))


def work(guide: Guide, phi: PyTree, target: Target) -> float:
    """What one draw costs at all rows, in numbers touched: data, each row's way through networks, the guide's own."""
    rows = max((plate.size for plate in target.layout.plates), default=1)
    weights = sum(np.size(leaf) for leaf in jax.tree.leaves(target.params)) + network_size(guide, phi)
    return target.data_size * (1 + evaluations_of(guide)) + rows * weights


def fresh_bound(guide: Guide, phi: PyTree, target: Target, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Terms of the bound at new draws and all rows, `(draws,)`; they share one set of draws.

    Where draws have no exact moments, by the better of two ways and all between: the bound with closed forms
    and `log p - log q` have one mean, so that their difference is a control variate. Where the guide is the
    posterior, or has no data to average over, no variance is left.
    """
    whole = guide.noise(target)
    if whole.picks:
        return weighed_draws(guide, phi, target, rng, draws).log_weights
    draws, blocks = blocks_of_rows(target, draws) if whole.is_of_rows else (draws, [({}, 1.0)])
    terms, weights = np.zeros(draws), np.zeros(draws)
    for rows, share in blocks:  # each with draws of its own
        showing = target.showing(rows) if rows else target
        noise = guide.noise(showing)
        drawn = in_dtype_of(phi, noise.fresh(rng, draws))
        if not noise.has_exact_moments:
            parts = _both_ways(guide, phi, drawn, showing, _side_by_side(whole, target))
            terms, weights = (sum_ + share * np.asarray(part) for sum_, part in zip((terms, weights), parts))
        else:
            terms += share * np.asarray(guide.bound(phi, drawn, showing), np.float64)
    # By regression on the difference, whose mean is zero.
    difference = terms - weights
    spread = difference.var()
    if whole.has_exact_moments or not spread > 0:  # none, or not finite
        return terms
    return terms - np.mean((terms - terms.mean()) * difference) / spread * difference


def weighed_draws(guide: Guide, phi: PyTree, target: Target, rng: np.random.Generator, draws: int) -> Weighed:
    """Independent draws of all sites and rows, with their log densities."""
    noise = guide.noise(target)
    if not noise.is_of_rows:
        drawn = _independent(guide, phi, target, rng, draws)
        log_p = evaluate(target, np.asarray(drawn.z))[0] if drawn.log_p is None else np.asarray(drawn.log_p)
        return Weighed(*(np.asarray(part, np.float64) for part in (log_p, drawn.log_q, drawn.z)))
    draws = min(draws, max(MAX_NUMBERS // max(target.dim, 1), 1))
    whole = in_dtype_of(phi, noise.independent(rng, draws))
    log_p, log_q, z = np.zeros(draws), np.zeros(draws), np.zeros((draws, target.dim))
    for rows, share in _stretches(noise, target):
        showing = target.showing(rows) if rows else target
        # The same draw of what rows share in every block: the weights are those of whole draws.
        part = guide.noise(showing).of_rows(whole)
        p, q, at = _weigh(guide, phi, part, showing, _side_by_side(noise, target))
        log_p, log_q = log_p + share * np.asarray(p, np.float64), log_q + share * np.asarray(q, np.float64)
        z[:, target.layout.shown_places(rows)] = at
    return Weighed(log_p, log_q, z)


def sample(guide: Guide, phi: PyTree, target: Target, rng: np.random.Generator, draws: int) -> dict[str, Array]:
    """Values of all latent and deterministic sites, `(draws, ...)`, one independent of the next."""
    noise = guide.noise(target)
    if not noise.is_of_rows:
        return target.constrain(_independent(guide, phi, target, rng, draws).z)
    return _values(guide, phi, target, in_dtype_of(phi, noise.independent(rng, draws)))


def quadrature(guide: Guide, phi: PyTree, target: Target, rng: np.random.Generator, draws: int) -> dict[str, Array]:
    """Values whose averages are more exact than those of independent draws: for tables."""
    noise = guide.noise(target)
    if noise.picks:
        return sample(guide, phi, target, rng, draws)
    drawn = in_dtype_of(phi, noise.exact(rng, draws))
    if not noise.is_of_rows:
        return target.constrain(guide.draw(phi, drawn, target).z)
    return _values(guide, phi, target, drawn)


def log_prob_of_values(
    guide: Guide,
    phi: PyTree,
    target: Target,
    values: Mapping[str, Any],
    on_host: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Array:
    """The guide's log density of `values` on the supports: a scalar, or `(n,)` for draws.

    `on_host` is its log density of points `(n, dim)`, where none needs to be compiled.
    """
    for plate in target.layout.plates:
        if plate.sources:
            raise _read_in_parts(plate.sources[0])
    z, log_det = unconstrained_and_log_det(target, values)
    if on_host is None or is_traced((z, log_det)):
        found = _log_prob_of_values(guide, phi, z, log_det, target)
    else:
        points, its_log_det = (np.asarray(each, np.float64) for each in devices.on_host((z, log_det)))
        found = jnp.asarray(on_host(np.atleast_2d(points)).reshape(its_log_det.shape) - its_log_det, log_det.dtype)
    return found + log_conditional(target, values, jnp.ndim(log_det) > 0) if target.layout.summed else found


@ByWork
def _log_prob_of_values(guide: Guide, phi: PyTree, z: Array, log_det: Array, target: Target) -> Array:
    return guide.log_prob(phi, jnp.atleast_2d(z), target).reshape(log_det.shape) - log_det


def blocks_of_rows(target: Target, draws: int) -> tuple[int, Iterable[tuple[dict[str, Any], float]]]:
    """All rows in blocks as large as a step's batch, each with its share of them, which are summed to the whole.

    And how many draws a block needs in the place of `draws` of all rows: each has draws of its own, so that few
    suffice where there are many blocks. What is read in parts is gone through in blocks that fit in memory.

    A term that all rows share counts once, a row's term N/n times in its block of n: so the sum over
    blocks, each times n/N, is the whole. Where several plates show a part there is one block, with all rows.
    """
    if target.sources:
        return draws, ((rows, share) for share, rows in target.parts())
    shown = target.layout.shown
    if len(shown) != 1:
        return draws if draws == 1 else max(draws, MIN_DRAWS), [({}, 1.0)]
    (name, length), size = *shown.items(), next(p.size for p in target.layout.plates if p.name in shown)
    starts = range(0, size, length)
    blocks = [({name: np.arange(s, min(s + length, size))}, min(length, size - s) / size) for s in starts]
    return draws if draws == 1 else max(draws // len(blocks) // 2 * 2, MIN_DRAWS), blocks  # antithetic pairs


def _in_long_blocks(target: Target) -> Target:
    """The target showing as many rows at once as memory allows, where that is more than a step's batch."""
    shown = target.layout.shown
    if target.sources or len(shown) != 1:
        return target
    (name, length), size = *shown.items(), next(p.size for p in target.layout.plates if p.name in shown)
    return target.with_lengths({name: min(max(length, NUMBERS // (1000 + target.data_size // size)), size)})


def _stretches(noise: Noise, target: Target) -> Iterable[tuple[dict[str, Any], float]]:
    """Blocks of rows for draws of them all: those of a program have to be drawn together, as far as they are here."""
    if noise.is_drawn_whole:
        return ((rows, share) for share, rows in target.parts())
    return blocks_of_rows(target, 1)[1]


def _side_by_side(noise: Noise, target: Target) -> int:
    """How many draws are looked at together: no more than the memory holds rows for."""
    return max(noise.numbers_at_once // max(target.data_size, 1), 1) if noise.numbers_at_once else AT_ONCE


def _independent(guide: Guide, phi: PyTree, target: Target, rng: np.random.Generator, draws: int) -> Draws:
    """Independent draws, all of one weight: of a mixture's components one is picked for each."""
    noise = guide.noise(target)
    uniform = rng.random(draws) if noise.picks else None
    drawn = guide.draw(phi, in_dtype_of(phi, noise.independent(rng, draws)), target)
    if uniform is None:
        return drawn
    weights = np.exp(np.asarray(drawn.log_weight, np.float64)[::draws])
    cumulative = np.cumsum(weights / weights.sum())
    chosen = np.searchsorted(cumulative / cumulative[-1], uniform, side="right")
    at = chosen * draws + np.arange(draws)
    return Draws(drawn.z[at], drawn.log_q[at], np.full(draws, -np.log(draws)))


def _values(guide: Guide, phi: PyTree, target: Target, whole: AnyArray) -> dict[str, Array]:
    """All latent and deterministic sites at draws of all rows, which are gone through in parts where they are read."""
    side = _side_by_side(guide.noise(target), target)
    if not target.sources:
        z, values = _drawn(guide, phi, whole, target, side)
        return target.constrain(z) if values is None else target.layout.in_order(devices.readable(values))
    z = np.zeros((len(whole), target.dim), jnp.result_type(float))
    for _, rows in target.parts():
        showing = target.showing(rows)
        at, _ = _drawn(guide, phi, guide.noise(showing).of_rows(whole), showing, side)
        z[:, target.layout.shown_places(rows)] = np.asarray(at)
    return target.constrain(z)


def _few_at_once(function: Any, noise: Array, side_by_side: int) -> Any:
    """`function` of all draws of the noise, of which so many are looked at together."""
    if side_by_side >= len(noise):
        return function(noise)
    one = in_batches(lambda e: function(e[None]), noise, side_by_side)
    return jax.tree.map(lambda leaf: leaf[:, 0], one)


@functools.partial(jax.jit, static_argnames="side_by_side")
def _weigh(guide: Guide, phi: PyTree, noise: Array, target: Target, side_by_side: int) -> tuple[Any, Array, Array]:
    def some(noise: Array) -> tuple[Any, Array, Array]:
        drawn = guide.draw(phi, noise, target)
        return drawn.log_p, drawn.log_q, drawn.z

    return _few_at_once(some, noise, side_by_side)


@functools.partial(jax.jit, static_argnames="side_by_side")
def _both_ways(guide: Guide, phi: PyTree, noise: Array, target: Target, side_by_side: int) -> tuple[Array, Array]:
    def some(noise: Array) -> tuple[Array, Array]:
        drawn = guide.draw(phi, noise, target)
        return guide.bound(phi, noise, target), drawn.log_p - drawn.log_q

    return _few_at_once(some, noise, side_by_side)


@functools.partial(jax.jit, static_argnames="side_by_side")
def _drawn(
    guide: Guide, phi: PyTree, noise: Array, target: Target, side_by_side: int
) -> tuple[Array, Mapping[str, Array] | None]:
    def some(noise: Array) -> tuple[Array, Mapping[str, Array] | None]:
        drawn = guide.draw(phi, noise, target)
        return drawn.z, drawn.values

    return _few_at_once(some, noise, side_by_side)


def log_prob(guide: Guide, phi: PyTree, z: AnyArray, target: Target) -> AnyArray:
    """The guide's log density of `z`, `(draws, dim)`, in unconstrained space: `(draws,)`."""
    if guide.noise(target).picks:  # a mixture's is computed on the host, without a program for each number of draws
        return guide.log_prob(phi, z, target)
    return _log_prob(guide, phi, z, target)


_log_prob = ByWork(lambda guide, phi, z, target: guide.log_prob(phi, jnp.asarray(z), target))


def _read_in_parts(name: str) -> ModelError:
    return ModelError(
        f"the guide reads '{name}' in parts, and its density is that of all rows at once.",
        mend="Load the data: np.asarray(...); or weigh row by row: posterior.log_evidence().",
    )
