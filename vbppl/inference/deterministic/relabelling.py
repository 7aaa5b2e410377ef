"""Modes that are one and the same but for the order of exchangeable parts, such as the components of a mixture.

Where a density stays the same whenever two parts change their places, in all sites that have such an axis at once, a
posterior has as many equal modes as the parts have orders, and none of them says anything that the others do not
("label switching"; Stephens 2000, "Dealing with label switching in mixture models"). What is looked at is the log joint
density on the supports: coordinates need not be symmetric (a simplex by stick breaking is not).

Which axes belong together is read off two ends: a permutation of them leads from one to the other. That two ends look
alike proves nothing, so the density itself is asked: at some points around, and at these with two parts exchanged.
Parts that are exchangeable in pairs are so in any order, hence few pairs are enough.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from vbppl.core.keys import host_generator
from vbppl.inference.bound import WORTHWHILE
from vbppl.target.target import has_model

POINTS, AROUND = 3, 0.5  # where the density is asked, and how far from the mode, unconstrained
FINITE = 2  # of these points at least
FEW_PARTS = 12  # of which all pairs are tried for a better order
UNITS = 16  # in the last place of each coordinate, by which a point may come back from its support elsewhere

Density = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
Values = dict[str, np.ndarray]
IsNear = Callable[[np.ndarray], bool]


class Exchange(NamedTuple):
    """Which axes of which sites hold the parts, `{site: axes}`, and a permutation of these."""

    axes: dict[str, tuple[int, ...]]
    order: np.ndarray

    @property
    def sites(self) -> tuple[str, ...]:
        """Those that have such axes."""
        return tuple(name for name, axes in self.axes.items() if axes)

    @classmethod
    def of_all(cls, values: Values, size: int) -> Exchange:
        """All axes of this length, in all sites together, as they are."""
        axes = {n: tuple(a for a, own in enumerate(value.shape[1:]) if own == size) for n, value in values.items()}
        return cls(axes, np.arange(size))

    def of(self, values: Values, order: np.ndarray) -> Values:
        """Draws of values, `(n, ...)`, with the parts in this order."""
        return {name: permuted(value, self.axes[name], order) for name, value in values.items()}

    def all_of(self, values: Values, orders: list[np.ndarray]) -> Values:
        """The same in each of these orders, one after the other, `(orders n, ...)`."""
        each = [self.of(values, order) for order in orders]
        return {name: np.concatenate([one[name] for one in each]) for name in values}


def permuted(value: np.ndarray, axes: tuple[int, ...], order: np.ndarray) -> np.ndarray:
    """Draws of a value, `(n, ...)`, with another order along some axes behind the first."""
    for axis in axes:
        value = np.take(value, order, axis=axis + 1)
    return value


class Relabelled(NamedTuple):
    """An end with its parts in another order, `(dim,)`; in how many orders the density is the same; of which sites."""

    loc: np.ndarray
    orders: int
    sites: tuple[str, ...]


def relabelled(
    target: Any, density: Density, raw: np.ndarray, best: np.ndarray, other: np.ndarray, is_near: IsNear
) -> Relabelled | None:
    """The end `other`, in the order of parts that brings it to `best`, `(dim,)` each, if there is one.

    Args:
      target: whose coordinates they are in.
      density: log densities `(n,)` and gradients at points `(n, dim)`.
      raw: the key of the fit.
      is_near: whether a point is the best one, but for what a search leaves open.

    Returns:
      None too where the density is no model's: entries of a plain vector are no parts that have names.
    """
    if not has_model(target):
        return None
    here, there = _values(target, best[None]), _values(target, other[None])
    for exchange in _exchanges(here, there):
        loc = np.asarray(target.unconstrain(exchange.of(there, exchange.order)), np.float64)[0]
        if is_near(loc):
            classes = _classes(target, density, raw, best, exchange)
            if all(classes[i] == classes[j] for i, j in enumerate(exchange.order)):
                return Relabelled(loc, _orders(target, best, exchange, classes, is_near), exchange.sites)
    return None


def exchangeable(
    target: Any, density: Density, raw: np.ndarray, best: np.ndarray, is_near: IsNear
) -> tuple[int, tuple[str, ...]]:
    """In how many orders of parts the density is the same, and of which sites, where no other end has shown it.

    Looked at is what a discrete site that is summed out may count: all axes of one length together, or those of all
    sites but one.
    """
    here = _values(target, best[None]) if target.layout.summed else {}
    for size in sorted({size for value in here.values() for size in value.shape[1:] if size > 1}):
        every = Exchange.of_all(here, size)
        for left_out in ("", *(every.sites if len(every.sites) > 1 else ())):
            exchange = every._replace(axes={**every.axes, left_out: ()})
            classes = _classes(target, density, raw, best, exchange)
            if (orders := _orders(target, best, exchange, classes, is_near)) > 1:
                return orders, exchange.sites
    return 1, ()


def in_better_order(target: Any, density: Density, best: np.ndarray) -> np.ndarray | None:
    """The point, `(dim,)`, with parts exchanged by pairs while the log joint density rises; None where none helps.

    A prior that tells parts apart which the data cannot makes one order of them right and leaves the others modes: a
    climb ends at whichever lay nearest.
    """
    here, moved = _values(target, best[None]), False
    sizes = {size for value in here.values() for size in value.shape[1:] if 1 < size <= FEW_PARTS}
    for size in sorted(sizes if target.layout.summed else ()):
        exchange = Exchange.of_all(here, size)
        pairs = [np.arange(size), *(_swapped(size, i, j) for i, j in itertools.combinations(range(size), 2))]
        for _ in range(size):
            every = exchange.all_of(here, pairs)
            joint, unsure = _log_joint(target, density, every)
            top = int(np.argmax(np.where(np.isfinite(joint), joint, -np.inf)))
            if not joint[top] - joint[0] > max(WORTHWHILE, unsure[top] + unsure[0]):
                break
            here, moved = {name: value[top : top + 1] for name, value in every.items()}, True
    return np.asarray(target.unconstrain(here), np.float64)[0] if moved else None


def _swapped(size: int, i: int, j: int) -> np.ndarray:
    order = np.arange(size)
    order[[i, j]] = j, i
    return order


def _log_joint(target: Any, density: Density, values: Values) -> tuple[np.ndarray, np.ndarray]:
    """The log joint density at draws of values, `(n,)`, and by how much rounding may change it."""
    z, log_det = np.asarray(target.unconstrain(values)), np.asarray(target.log_det(values), np.float64)
    eps, z = UNITS * float(np.finfo(z.dtype).eps), z.astype(np.float64)
    height, gradient = density(z)
    return height - log_det, eps * (np.maximum(np.abs(height), 1.0) + np.abs(gradient * z).sum(axis=1))


def _orders(target: Any, best: np.ndarray, exchange: Exchange, classes: list[int], is_near: IsNear) -> int:
    """In how many orders of parts, within their classes, the mode `best` lies apart from where it is."""
    pairs = [(i, j) for i, j in itertools.combinations(range(len(classes)), 2) if classes[i] == classes[j]]
    if not pairs:
        return 1
    swaps = [_swapped(len(classes), i, j) for i, j in pairs]
    images = np.asarray(target.unconstrain(exchange.all_of(_values(target, best[None]), swaps)), np.float64)
    # Two parts at one place are the same in either order: a component too many makes no further mode.
    alike = _joined(len(classes), [pair for pair, image in zip(pairs, images) if is_near(image)])
    return _factorials(classes) // _factorials(alike)


def _factorials(classes: list[int]) -> int:
    return math.prod(math.factorial(classes.count(each)) for each in set(classes))


def _joined(size: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """For each part the first of those to which pairs connect it."""
    first = list(range(size))
    for i, j in pairs:
        low, high = sorted((first[i], first[j]))
        first = [low if each == high else each for each in first]
    return first


def _values(target: Any, z: np.ndarray) -> Values:
    """Values of the latent sites at `z`, `(n, dim)`."""
    values = target.constrain(z)
    return {slot.name: np.asarray(values[slot.name]) for slot in target.layout.slots}


def _exchanges(here: Values, there: Values) -> Iterator[Exchange]:
    """Permutations that may lead from the values `there` to those `here`, `(1, ...)`."""
    seen = set()
    for name, value in here.items():
        for axis, size in enumerate(value.shape[1:]):
            rows, others = (np.moveaxis(each[name][0], axis, 0).reshape(size, -1) for each in (here, there))
            nearest = np.abs(rows[:, None] - others[None]).sum(axis=-1).argmin(axis=1)
            if size < 2 or (tuple(nearest) in seen) or sorted(nearest) != list(range(size)):
                continue
            seen.add(tuple(nearest))
            yield Exchange({n: _axes(here[n], there[n], nearest) for n in here}, nearest)


def _axes(here: np.ndarray, there: np.ndarray, order: np.ndarray) -> tuple[int, ...]:
    """Along which axes a value must be permuted to come nearest: both of a matrix of transitions, none of others."""
    fitting = [axis for axis, size in enumerate(here.shape[1:]) if size == len(order)]
    some = itertools.chain(*(itertools.combinations(fitting, n) for n in range(len(fitting) + 1)))
    return min(some, key=lambda axes: float(np.abs(permuted(there, axes, order) - here).sum()))


def _classes(target: Any, density: Density, raw: np.ndarray, best: np.ndarray, exchange: Exchange) -> list[int]:
    """For each part the first of those with which it may change its place."""
    size = len(exchange.order)
    pairs = sorted({(min(p), max(p)) for i in range(size) for p in ((i, i + 1), (i, exchange.order[i]))})
    pairs = [(i, j) for i, j in pairs if i < j < size]
    orders = [np.arange(size), *(_swapped(size, i, j) for i, j in pairs)]
    rng = host_generator(raw, "relabelling")
    values = _values(target, best + AROUND * rng.standard_normal((POINTS, len(best))))
    joint, unsure = (
        each.reshape(len(orders), POINTS) for each in _log_joint(target, density, exchange.all_of(values, orders))
    )
    # A point without a density tells nothing, but too few others would not tell an asymmetry from chance.
    with np.errstate(invalid="ignore"):
        same = np.abs(joint - joint[0]) <= unsure + unsure[0]
    known = np.isfinite(joint).all(axis=0)
    agreed = (same | ~known).all(axis=1)[1:] & (known.sum() >= FINITE)
    return _joined(size, itertools.compress(pairs, agreed))
