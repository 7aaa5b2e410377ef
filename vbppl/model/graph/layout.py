"""Boxes in layers, boxes inside boxes, and lines between them that go round what is in their way.

The layered drawing of Sugiyama, Tagawa and Toda (1981, "Methods for Visual Understanding of Hierarchical System
Structures"), one group at a time from the innermost: longest paths give the layers, a line that skips layers holds a
place in each, barycentres order each layer, and places come from least squares under the least distances (pool
adjacent violators). A group is then one box in the group around it, with a port for each line across its border.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

GAP, LAYER, PADDING, LABEL = 22.0, 38.0, 16.0, 20.0  # between boxes, between layers, inside a group, and its label
SWEEPS, SPOTS = 12, 12_000  # at most; of so many spots in all
Line: TypeAlias = tuple[str, str]
Point: TypeAlias = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A box of this size."""

    key: str
    width: float
    height: float


@dataclasses.dataclass(frozen=True)
class Group:
    """A box around others, with a label at the foot that is so wide."""

    key: str
    label_width: float
    members: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a box lies: its upper left corner and its size."""

    x: float
    y: float
    width: float
    height: float

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of it."""
        return self.x + self.width / 2, self.y + self.height / 2

    def moved(self, x: float, y: float) -> Place:
        """The same elsewhere."""
        return dataclasses.replace(self, x=self.x + x, y=self.y + y)


@dataclasses.dataclass
class Laid:
    """A group as it was laid out, its upper left corner at 0.

    Attributes:
      places: of all boxes in it, by their keys.
      ways: for each line that touches it the points between its layers, in order.
      tops: where each line that comes in crosses its upper border.
      feet: where each line that goes out crosses its lower border.
    """

    width: float
    height: float
    places: dict[str, Place]
    ways: dict[Line, list[tuple[float, float]]]
    tops: dict[Line, float]
    feet: dict[Line, float]


@dataclasses.dataclass
class _Spot:
    """Something that stands in a layer: a box, or a line on its way."""

    width: float
    height: float = 0.0
    line: Line | None = None
    member: int = -1
    x: float = 0.0  # of its left side


# Below each layer, which of its spots are joined to which of the next one, and by which line.
Links: TypeAlias = list[list[tuple[_Spot, _Spot, Line]]]


def leaves(box: Leaf | Group) -> Iterator[Leaf]:
    """All boxes in a box that hold no others."""
    if isinstance(box, Leaf):
        yield box
    else:
        for member in box.members:
            yield from leaves(member)


def _contents(group: Group) -> Iterator[tuple[str, set[str]]]:
    """Each box in a group, with the leaves that it is or holds."""
    for member in group.members:
        yield member.key, {leaf.key for leaf in leaves(member)}
        if isinstance(member, Group):
            yield from _contents(member)


def lay(group: Group, lines: Sequence[Line]) -> Laid:
    """Lay out a group; `lines` are those that touch it, which together make no circle of its members."""
    inside = [_inner(member, lines) for member in group.members]
    owner = {leaf.key: n for n, member in enumerate(group.members) for leaf in leaves(member)}
    own = [(a, b) for a, b in lines if owner.get(a) != owner.get(b)]
    layers, links = _layered(inside, owner, own, _ranks(len(inside), owner, own))
    _order(layers, links, inside)
    _spread(layers, links, inside)
    return _placed(group, inside, layers, own)


def _inner(member: Leaf | Group, lines: Sequence[Line]) -> Laid:
    if isinstance(member, Leaf):
        return Laid(member.width, member.height, {}, {}, {}, {})
    keys = {leaf.key for leaf in leaves(member)}
    return lay(member, [line for line in lines if keys.intersection(line)])


def _ranks(count: int, owner: Mapping[str, int], lines: Sequence[Line]) -> list[int]:
    """The layer of each member: below all that it comes from, and what comes from nothing just above its first use."""
    after: list[set[int]] = [set() for _ in range(count)]
    before: list[set[int]] = [set() for _ in range(count)]
    for a, b in lines:
        if a in owner and b in owner:
            after[owner[a]].add(owner[b])
            before[owner[b]].add(owner[a])
    ranks, waiting, free = [0] * count, [len(each) for each in before], [n for n in range(count) if not before[n]]
    while free:
        n = free.pop()
        for m in after[n]:
            ranks[m], waiting[m] = max(ranks[m], ranks[n] + 1), waiting[m] - 1
            free += [m] * (not waiting[m])
    for n in range(count):
        if after[n] and not before[n]:
            ranks[n] = min(ranks[m] for m in after[n]) - 1
    return ranks


def _layered(
    inside: Sequence[Laid], owner: Mapping[str, int], lines: Sequence[Line], ranks: Sequence[int]
) -> tuple[list[list[_Spot]], Links]:
    """The spots of each layer, the first and the last of ports; and which are joined, below each layer."""
    depth = max(ranks, default=0) + 1
    layers: list[list[_Spot]] = [[] for _ in range(depth + 2)]
    boxes = [_Spot(laid.width, laid.height, member=n) for n, laid in enumerate(inside)]
    for spot, rank in zip(boxes, ranks):
        layers[rank + 1].append(spot)
    links: Links = [[] for _ in layers]
    for a, b in lines:
        first = ranks[owner[a]] + 1 if a in owner else -1
        last = ranks[owner[b]] + 1 if b in owner else depth + 2
        passing = [_Spot(8.0, line=(a, b)) for _ in range(first + 1, last)]
        for at, spot in enumerate(passing, first + 1):
            layers[at].append(spot)
        chain = [*([boxes[owner[a]]] if a in owner else []), *passing, *([boxes[owner[b]]] if b in owner else [])]
        for at, (upper, lower) in enumerate(zip(chain, chain[1:]), max(first, 0)):
            links[at].append((upper, lower, (a, b)))
    return layers, links


def _port(spot: _Spot, line: Line, inside: Sequence[Laid], is_top: bool) -> float:
    """How far from its left side a line meets a spot."""
    if spot.member < 0:
        return spot.width / 2
    laid = inside[spot.member]
    return (laid.tops if is_top else laid.feet).get(line, spot.width / 2)


def _order(layers: list[list[_Spot]], links: Links, inside: Sequence[Laid]) -> None:
    """Order each layer by the barycentres of the one before, down and up, and keep the order with fewest crossings."""
    where = {id(spot): n for layer in layers for n, spot in enumerate(layer)}
    best, fewest = [list(layer) for layer in layers], _crossings(where, links, inside)
    for sweep in range(_sweeps(layers)):
        down = sweep % 2 == 0
        for at in range(1, len(layers)) if down else reversed(range(len(layers) - 1)):
            pulls: dict[int, list[float]] = {}
            for upper, lower, line in links[at - down]:
                fixed, moving = (upper, lower) if down else (lower, upper)
                share = _port(fixed, line, inside, not down) / max(fixed.width, 1.0)
                pulls.setdefault(id(moving), []).append(where[id(fixed)] + share)
            mean = {id(spot): where[id(spot)] + 0.5 for spot in layers[at]}
            mean |= {key: sum(each) / len(each) for key, each in pulls.items()}
            layers[at].sort(key=lambda spot: mean[id(spot)])  # noqa: B023
            where.update((id(spot), n) for n, spot in enumerate(layers[at]))
        crossings = _crossings(where, links, inside)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
    layers[:] = best


def _sweeps(layers: Sequence[Sequence[_Spot]]) -> int:
    """How often to go down and up: a picture that nobody can follow is not worth minutes."""
    return max(2, min(SWEEPS, SPOTS // max(sum(map(len, layers)), 1)))


def _crossings(where: Mapping[int, int], links: Links, inside: Sequence[Laid]) -> int:
    """How many pairs of lines cross between layers."""
    count = 0
    for joined in links:
        pairs = []
        for upper, lower, line in joined:
            above = where[id(upper)] + _port(upper, line, inside, False) / max(upper.width, 1.0)
            below = where[id(lower)] + _port(lower, line, inside, True) / max(lower.width, 1.0)
            pairs.append((above, below))
        seen: list[float] = []
        for _, below in sorted(pairs):
            count += len(seen) - bisect.bisect_right(seen, below)
            bisect.insort(seen, below)
    return count


def _spread(layers: list[list[_Spot]], links: Links, inside: Sequence[Laid]) -> None:
    """Give each spot its place in its layer, near what it is joined to: above, below, and at last on both sides."""
    for layer in layers:
        _settle(layer, [0.0] * len(layer), [1.0] * len(layer))
    sweeps = 2 * _sweeps(layers)
    for sweep in range(sweeps):
        both = sweep >= sweeps - 2
        for at in range(len(layers)) if sweep % 2 == 0 else reversed(range(len(layers))):
            pulls: dict[int, list[tuple[float, float]]] = {}
            joined = [(lower, upper, line, True) for upper, lower, line in links[at - 1]] if at else []
            below = [(upper, lower, line, False) for upper, lower, line in links[at]]
            for spot, other, line, is_top in joined + below if both else joined if sweep % 2 == 0 else below:
                # A line on its way is held straighter than a box is drawn to its neighbours.
                weight = 4.0 if spot.member < 0 and other.member < 0 else 1.0
                to = other.x + _port(other, line, inside, not is_top) - _port(spot, line, inside, is_top)
                pulls.setdefault(id(spot), []).append((to, weight))
            wanted, weights = [], []
            for spot in layers[at]:
                own = pulls.get(id(spot), [(spot.x, 0.1)])
                weights.append(sum(weight for _, weight in own))
                wanted.append(sum(to * weight for to, weight in own) / weights[-1])
            _settle(layers[at], wanted, weights)


def _settle(layer: Sequence[_Spot], wanted: Sequence[float], weights: Sequence[float]) -> None:
    """The places nearest to those wanted that keep order and distance: least squares, by pooling."""
    offsets, at = [], 0.0
    for spot in layer:
        offsets.append(at)
        at += spot.width + GAP
    pools: list[list[float]] = []  # mean, weight, how many
    for want, offset, weight in zip(wanted, offsets, weights):
        pools.append([want - offset, weight, 1])
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            mean, weight, count = pools.pop()
            total = pools[-1][1] + weight
            pools[-1] = [(pools[-1][0] * pools[-1][1] + mean * weight) / total, total, pools[-1][2] + count]
    means = [mean for mean, _, count in pools for _ in range(int(count))]
    for spot, mean, offset in zip(layer, means, offsets):
        spot.x = mean + offset


def _placed(group: Group, inside: Sequence[Laid], layers: Sequence[Sequence[_Spot]], lines: Sequence[Line]) -> Laid:
    """The group with all that is in it at its place."""
    spots = [spot for layer in layers for spot in layer]
    left = min((spot.x for spot in spots), default=0.0) - PADDING
    width = max((spot.x + spot.width for spot in spots), default=0.0) - left + PADDING
    slack = max(group.label_width + 2 * PADDING - width, 0.0) / 2
    left, width = left - slack, width + 2 * slack
    laid = Laid(width, 0.0, {}, {line: [] for line in lines}, {}, {})
    y = PADDING
    for n, layer in enumerate(layers[1:-1]):
        height = max((spot.height for spot in layer), default=0.0)
        for spot in layer:
            x = spot.x - left
            if spot.line is not None:
                laid.ways[spot.line] += [(x + spot.width / 2, y + height / 2)]
            else:
                _take(laid, group.members[spot.member], inside[spot.member], x, y + (height - spot.height) / 2)
        y += height + LAYER * (n < len(layers) - 3)
    laid.height = y + PADDING + (LABEL if group.label_width else 0.0)
    for spots_of, ports, at in ((layers[0], laid.tops, 0.0), (layers[-1], laid.feet, laid.height)):
        for spot in spots_of:
            if spot.line is not None:
                ports[spot.line] = spot.x + spot.width / 2 - left
                laid.ways[spot.line] += [(ports[spot.line], at)]
    for way in laid.ways.values():
        way.sort(key=lambda point: point[1])  # lines go down
    return laid


def _take(laid: Laid, member: Leaf | Group, inner: Laid, x: float, y: float) -> None:
    """Put a member with all that is in it where it belongs."""
    laid.places[member.key] = Place(x, y, inner.width, inner.height)
    laid.places.update({key: place.moved(x, y) for key, place in inner.places.items()})
    for line, way in inner.ways.items():
        laid.ways.setdefault(line, []).extend((px + x, py + y) for px, py in way)


def routes(laid: Laid, lines: Sequence[Line], group: Group) -> dict[Line, list[tuple[float, float]]]:
    """For each line the points that it goes through, from centre to centre: as few as keep it off other boxes."""
    boxes, found = list(_contents(group)), {}
    corners = np.array([_corners(laid.places[key]) for key, _ in boxes])
    for a, b in lines:
        points = [laid.places[a].centre, *laid.ways.get((a, b), []), laid.places[b].centre]
        others = corners[[not inside.intersection((a, b)) for _, inside in boxes]]
        way, at = points[:1], 0
        while at < len(points) - 1:
            clear = (n for n in range(len(points) - 1, at + 1, -1) if not _meets(points[at], points[n], others, 2.0))
            at = next(clear, at + 1)
            way.append(points[at])
        found[a, b] = way
    return found


def meets(start: Point, end: Point, box: Place, margin: float) -> bool:
    """Whether a straight line meets a box, or passes so close by."""
    return _meets(start, end, np.array([_corners(box)]), margin)


def _corners(box: Place) -> tuple[float, float, float, float]:
    return box.x, box.y, box.x + box.width, box.y + box.height


def _meets(start: Point, end: Point, corners: np.ndarray, margin: float) -> bool:
    """The same of several boxes: is a part of it between both pairs of sides (Liang, Barsky 1984)."""
    begin, along = np.array(start), np.array(end) - np.array(start)
    along = np.where(np.abs(along) < 1e-9, 1e-9, along)
    one, other = ((corners[:, sides] + far - begin) / along for sides, far in (([0, 1], -margin), ([2, 3], margin)))
    first, last = np.minimum(one, other).max(axis=1), np.maximum(one, other).min(axis=1)
    return bool(np.any((first <= last) & (first <= 1) & (last >= 0)))
