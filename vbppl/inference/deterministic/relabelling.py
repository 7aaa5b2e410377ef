"""Modes that are one and the same but for the order of exchangeable parts, such as the components of a mixture.

Where a density stays the same whenever two parts change their places, in all sites that have such an axis at once, a
posterior has as many equal modes as the parts have orders, and none of them says anything that the others do not
("label switching"; Stephens 2000, "Dealing with label switching in mixture models"). What is looked at is the log joint
density on the supports: coordinates need not be symmetric (a simplex by stick breaking is not).

The density itself is asked, where the fit lies: at points within two of its sds, and at these with two parts exchanged.
Axes of one length belong together where only all of them at once can be exchanged (a `Block`); blocks that share
nothing multiply. Parts that may change their places, but would lead nowhere else, make no further mode.

In doubt nothing is folded, and the ends of starts stay several modes: where rounding hides 0.05 nats (double precision
is tried then), where there are too many ways to try, where symmetries overlap, and where two parts lie so near that
one cannot say whether they make two modes or one.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core import devices
from vbppl.core.errors import ModelError
from vbppl.core.keys import host_generator
from vbppl.inference.bound import WORTHWHILE
from vbppl.target.batched import evaluate
from vbppl.target.target import has_model

SDS = np.array([0.0, 0.5, 1.0, 2.0])  # of the fit, by which points lie from its mean, where the density is asked
FINITE = 2  # of these points at least
LEEWAY, ROUNDED = 0.05, 1e-6  # nats that rounding may hide at most, and that it is allowed at least
WAYS = 1500  # sets of axes and pairs of parts that are tried at most
PARTS = 16  # that an axis may have
FEW_PARTS = 12  # of which all pairs are tried for a better order
UNITS = 16  # in the last place of each coordinate, by which a point may come back from its support elsewhere
SAME_MODE = 4.0  # sds
VALLEY = 0.1  # nats that lie between two modes
SHARES = np.linspace(0, 1, 9)[1:-1, None]  # where between two modes a valley is looked for
WIDTH = math.log(2)  # by which two log sds of one mode may differ
DRAWS = 256  # that are relabelled for the sds of a relabelled normal

Density = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
Values = dict[str, np.ndarray]
Item = tuple[str, int]  # a site and one of its axes
Pair = tuple[int, int]


class Exchange(NamedTuple):
    """Which axes of which sites hold the parts, `{site: axes}`, and how many parts there are."""

    axes: dict[str, tuple[int, ...]]
    size: int

    @classmethod
    def along(cls, values: Values, items: Iterable[Item], size: int) -> Exchange:
        """Those axes, in all sites together."""
        items = list(items)
        return cls({name: tuple(axis for site, axis in items if site == name) for name in values}, size)

    def swapped(self, values: Values, pair: Pair) -> Values:
        """Draws of values, `(n, ...)`, with two parts exchanged."""
        order = np.arange(self.size)
        order[[*pair]] = pair[::-1]
        return {name: permuted(value, self.axes[name], order) for name, value in values.items()}


class Block(NamedTuple):
    """Parts that can be exchanged, and the pairs that can."""

    exchange: Exchange
    pairs: tuple[Pair, ...]

    @property
    def sites(self) -> tuple[str, ...]:
        """Those that have such axes."""
        return tuple(name for name, axes in self.exchange.axes.items() if axes)


class Doubtful(Exception):
    """How many equal modes there are cannot be said."""


class Coarse(Doubtful):
    """Nor can it in this dtype."""


def permuted(value: np.ndarray, axes: tuple[int, ...], order: np.ndarray) -> np.ndarray:
    """Draws of a value, `(n, ...)`, with another order along some axes behind the first."""
    for axis in axes:
        value = np.take(value, order, axis=axis + 1)
    return value


class InOneOrder(NamedTuple):
    """Ends of searches, `(starts, 2, dim)`, in the order of the best; how many orders are equal, and of what sites."""

    ends: np.ndarray
    orders: int = 1
    sites: tuple[str, ...] = ()


def in_one_order(
    target: Any, density: Density, raw: np.ndarray, ends: np.ndarray, best: int, others: Iterable[int]
) -> InOneOrder:
    """Ends that are the best one relabelled, in its order of parts.

    Args:
      target: whose coordinates they are in.
      density: log densities `(n,)` and gradients at points `(n, dim)`.
      raw: the key of the fit.
      ends: mean and log sd, `(starts, 2, dim)`.
      others: those that may be the best one in another order.

    Returns:
      the ends as they are where anything is in doubt, and where the density is no model's: entries of a plain vector
      are no parts that have names.
    """
    if not has_model(target):
        return InOneOrder(ends)
    try:
        return _Asked(target, density, raw).in_one_order(ends, best, others)
    except Coarse:
        pass
    except Doubtful:
        return InOneOrder(ends)
    if jnp.result_type(float) == np.float64:
        return InOneOrder(ends)
    with jax.enable_x64(True):
        double = jax.tree.map(_in_double, devices.readable(target))
        try:
            return _Asked(double, functools.partial(evaluate, double), raw).in_one_order(ends, best, others)
        except (Doubtful, TypeError, ModelError):  # a model may insist on its own dtype, and cannot be asked then
            return InOneOrder(ends)


def _in_double(leaf: Any) -> Any:
    return np.asarray(leaf, np.float64) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf


class _Asked(NamedTuple):
    """A target, its density, and the key of the fit."""

    target: Any
    density: Density
    raw: np.ndarray

    def in_one_order(self, ends: np.ndarray, best: int, others: Iterable[int]) -> InOneOrder:
        """See the function of this name."""
        blocks = self.blocks(ends[best])
        orders = [self.orders(block, ends[best]) for block in blocks]
        if (count := math.prod(orders)) == 1:
            return InOneOrder(ends)
        ends = ends.copy()
        for other in others:
            found = self.relabelled(blocks, ends[other], ends[best])
            ends[other] = ends[other] if found is None else found
        sites = [name for block, own in zip(blocks, orders) if own > 1 for name in block.sites]
        return InOneOrder(ends, count, tuple(slot.name for slot in self.target.layout.slots if slot.name in sites))

    def values(self, z: np.ndarray) -> Values:
        """Values of the latent sites at `z`, `(n, dim)`."""
        values = self.target.constrain(z)
        return {slot.name: np.asarray(values[slot.name]) for slot in self.target.layout.slots}

    def places(self, values: Values) -> np.ndarray:
        """Back from there."""
        return np.asarray(self.target.unconstrain(values), np.float64)

    def log_joint(self, values: Values) -> tuple[np.ndarray, np.ndarray]:
        """The log joint density at draws of values, `(n,)`, and by how much rounding may change it."""
        z, log_det = np.asarray(self.target.unconstrain(values)), np.asarray(self.target.log_det(values), np.float64)
        eps, z = UNITS * float(np.finfo(z.dtype).eps), z.astype(np.float64)
        height, gradient = self.density(z)
        return height - log_det, eps * (np.maximum(np.abs(height), 1.0) + np.abs(gradient * z).sum(axis=1))

    def agree(self, values: Values, images: list[Values]) -> np.ndarray:
        """Which images of draws of values, `(n, ...)`, have the same densities, `(images,)`."""
        with np.errstate(invalid="ignore"):
            joint, unsure = (each.reshape(1 + len(images), -1) for each in self.log_joint(_joined([values, *images])))
            off, unsure = np.abs(joint - joint[0])[1:], np.maximum(unsure + unsure[0], ROUNDED)[1:]
        # A point without a density on either side tells nothing; one without it on one side is a difference.
        finite = np.isfinite(joint)
        known, differ = (finite & finite[0])[1:], ((finite != finite[0])[1:] | (off > unsure)).any(axis=1)
        if ((known & (unsure > LEEWAY)).any(axis=1) & ~differ).any():
            raise Coarse
        same = (~known | (off <= unsure)).all(axis=1) & (known.sum(axis=1) >= min(FINITE, known.shape[1]))
        return same & ~differ

    def blocks(self, best: np.ndarray) -> list[Block]:
        """Which parts can be exchanged in which sites, as far as these share none."""
        rng = host_generator(self.raw, "relabelling")
        points = best[0] + SDS[:, None] * np.exp(best[1]) * rng.standard_normal((len(SDS), best.shape[1]))
        here, found = self.values(points), []
        for size in sorted({n for value in here.values() for n in value.shape[1:] if 1 < n <= PARTS}):
            items = _items(here, size)
            pairs = list(itertools.combinations(range(size), 2))
            if 2 ** len(items) * len(pairs) > WAYS:
                raise Doubtful
            found += self.blocks_of(here, items, pairs, size)
        sites = [name for block in found for name in block.sites]
        if len(sites) > len(set(sites)):
            raise Doubtful
        return found

    def blocks_of(self, here: Values, items: list[Item], pairs: list[Pair], size: int) -> list[Block]:
        """The same of axes of one length."""
        some = itertools.chain(*(itertools.combinations(items, n + 1) for n in range(len(items))))
        ways = list(itertools.product(some, pairs))
        for few in (slice(2, 3), slice(None)):  # one point tells most
            near = {name: value[few] for name, value in here.items()}
            images = [Exchange.along(here, way, size).swapped(near, pair) for way, pair in ways]
            ways = list(itertools.compress(ways, self.agree(near, images))) if ways else []
        exchanged = {pair: [frozenset(way) for way, own in ways if own == pair] for pair in pairs}
        least = {pair: [way for way in own if not any(each < way for each in own)] for pair, own in exchanged.items()}
        every = set(itertools.chain(*least.values()))
        for pair in pairs:
            # Whatever can be exchanged is made of these, each by itself; else they do not multiply.
            if len(exchanged[pair]) != 2 ** len(least[pair]) - 1:
                raise Doubtful
        if sum(map(len, every)) != len(frozenset().union(*every)):
            raise Doubtful
        return [
            Block(Exchange.along(here, sorted(way), size), tuple(pair for pair in pairs if way in least[pair]))
            for way in sorted(every, key=sorted)
        ]

    def orders(self, block: Block, best: np.ndarray) -> int:
        """In how many orders of its parts the mode `best` lies apart from where it is."""
        alike = [pair for pair in block.pairs if self.is_one_place(block, pair, best)]
        return _orders(block.exchange.size, block.pairs) // _orders(block.exchange.size, alike)

    def is_one_place(self, block: Block, pair: Pair, best: np.ndarray) -> bool:
        """Is the mode the same after an exchange: a component too many makes no further one."""
        image = self.moved(best, lambda values: block.exchange.swapped(values, pair))
        way = np.concatenate([[[0.0], [1.0]], SHARES])
        height = self.density((1 - way) * best[0] + way * image[0])[0]
        height = np.where(np.isfinite(height), height, -np.inf)
        has_valley = not height[:2].min() - height.min() <= VALLEY
        if has_valley and _sds_apart(best, image, np.maximum) > SAME_MODE:
            return False
        if not has_valley and _sds_apart(best, image, np.minimum) <= SAME_MODE:
            return True
        raise Doubtful

    def moved(self, end: np.ndarray, relabel: Callable[[Values], Values]) -> np.ndarray:
        """Mean and log sd, `(2, dim)`, of a normal with its parts in another order."""
        noise = host_generator(self.raw, "relabelled").standard_normal((DRAWS // 2, end.shape[1]))
        noise *= np.sqrt(len(noise) / np.maximum((noise**2).sum(axis=0), 1e-300))
        draws = end[0] + np.exp(end[1]) * np.concatenate([np.zeros_like(noise[:1]), noise, -noise])
        loc, *others = self.places(relabel(self.values(draws)))
        return np.stack([loc, np.log(np.maximum(np.std(others, axis=0), 1e-300))])

    def relabelled(self, blocks: list[Block], other: np.ndarray, best: np.ndarray) -> np.ndarray | None:
        """The end `other` with parts exchanged one pair after the other while it comes nearer to `best`, if it does."""
        swaps = [functools.partial(block.exchange.swapped, pair=pair) for block in blocks for pair in block.pairs]
        here, applied = self.values(other[:1]), []

        def distance(values: Values) -> np.ndarray:
            return (np.abs(self.places(values) - best[0]) / np.exp(best[1])).sum(axis=1)

        for _ in range(sum(block.exchange.size for block in blocks)):
            far = distance(_joined([here, *(swap(here) for swap in swaps)]))
            if not (nearest := int(np.argmin(np.where(np.isfinite(far), far, np.inf)))):
                break
            applied.append(swaps[nearest - 1])
            here = applied[-1](here)
        if not applied or not self.agree(self.values(other[:1]), [here])[0]:
            return None
        image = self.moved(other, lambda values: functools.reduce(lambda now, swap: swap(now), applied, values))
        is_best = _sds_apart(best, image, np.minimum) <= SAME_MODE and np.abs(best[1] - image[1]).max() <= WIDTH
        return image if is_best else None


def in_better_order(target: Any, density: Density, best: np.ndarray) -> np.ndarray | None:
    """The point, `(dim,)`, with parts exchanged by pairs while the log joint density rises; None where none helps.

    A prior that tells parts apart which the data cannot makes one order of them right and leaves the others modes: a
    climb ends at whichever lay nearest.
    """
    asked, moved = _Asked(target, density, np.zeros(0)), False
    here = asked.values(best[None])
    sizes = {size for value in here.values() for size in value.shape[1:] if 1 < size <= FEW_PARTS}
    for size in sorted(sizes if target.layout.summed else ()):
        exchange = Exchange.along(here, _items(here, size), size)
        for _ in range(size):
            every = _joined([here, *(exchange.swapped(here, p) for p in itertools.combinations(range(size), 2))])
            joint, unsure = asked.log_joint(every)
            top = int(np.argmax(np.where(np.isfinite(joint), joint, -np.inf)))
            if not joint[top] - joint[0] > max(WORTHWHILE, unsure[top] + unsure[0]):
                break
            here, moved = {name: value[top : top + 1] for name, value in every.items()}, True
    return asked.places(here)[0] if moved else None


def _items(values: Values, size: int) -> list[Item]:
    """All axes of this length."""
    return [(name, axis) for name, value in values.items() for axis, n in enumerate(value.shape[1:]) if n == size]


def _joined(each: list[Values]) -> Values:
    """Draws of values, one after the other."""
    return {name: np.concatenate([one[name] for one in each]) for name in each[0]}


def _orders(size: int, pairs: Iterable[Pair]) -> int:
    """How many orders exchanges of pairs lead to."""
    first, pairs = list(range(size)), set(pairs)
    for i, j in pairs:
        low, high = sorted((first[i], first[j]))
        first = [low if each == high else each for each in first]
    together = {(i, j) for i, j in itertools.combinations(range(size), 2) if first[i] == first[j]}
    if together != pairs:  # what follows from two exchanges did not show
        raise Doubtful
    return math.prod(math.factorial(first.count(each)) for each in set(first))


def _sds_apart(end: np.ndarray, other: np.ndarray, of_both: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    """How far apart two normals lie, `(2, dim)` each, in the smaller or the larger sd of both."""
    return float((np.abs(end[0] - other[0]) / np.exp(of_both(end[1], other[1]))).max(initial=0.0))
