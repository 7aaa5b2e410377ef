"""A layout as SVG to stand in a page: in the page's own colour, without script, styles or names that could clash."""

from __future__ import annotations

import dataclasses
import html
import math
import unicodedata
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from vbppl.model.graph.layout import Group, Leaf, Line, Place, lay, leaves, meets, routes

MAX_CHARACTERS = 32  # characters of a name that are drawn
SIZE, SMALL = 13.0, 11.0  # of letters
ROUND, HEAD = 16.0, (9.0, 3.6)  # the radius of a bend; length and half width of an arrow's head
NARROW, WIDE = "fijlrtI.,:;'|![]() ", "mwMWQO@%"
Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Symbol:
    """How a site is drawn: its name, what stands under it, what is told of it on asking, and its kind."""

    name: str
    below: str
    tip: str
    kind: str

    def leaf(self, key: str) -> Leaf:
        """The box that it needs."""
        width = max(text_width(self.name, SIZE), text_width(self.below, SMALL))
        if self.kind in MARKS:
            return Leaf(key, max(width, 12.0) + 4, 34.0)
        return Leaf(key, max(width * (1.0 if self.kind == "deterministic" else 1.15) + 26, 62.0), 44.0)

    def anchor(self, place: Place, towards: Point) -> Point:
        """Where a line that comes from a point ends."""
        (x, y), (px, py) = place.centre, towards
        if self.kind in MARKS:
            y = place.y + (place.height - 7 if self.kind == "param" else 7)
            reach = 7 / max(math.hypot(px - x, py - y), 1e-9)
        elif self.kind == "deterministic":
            reach = min(place.width / 2 / max(abs(px - x), 1e-9), place.height / 2 / max(abs(py - y), 1e-9))
        else:
            reach = 1 / max(math.hypot((px - x) / (place.width / 2), (py - y) / (place.height / 2)), 1e-9)
        return x + (px - x) * reach, y + (py - y) * reach

    def drawn(self, place: Place) -> str:
        """The symbol at its place."""
        (x, y), width, height = place.centre, place.width, place.height
        name = _text(x, y + (4.5 if not self.below else -1.5), _short(self.name), SIZE)
        if self.kind in MARKS:
            top = self.kind == "factor"
            shape = MARKS[self.kind].format(x=_n(x), y=_n(place.y + height - 7), left=_n(x - 4), top=_n(place.y + 3))
            name = _text(x, place.y + (height - 4 if top else 13), _short(self.name), SIZE)
        elif self.kind == "deterministic":
            shape = f'<rect x="{_n(place.x)}" y="{_n(place.y)}" width="{_n(width)}" height="{_n(height)}" {OUTLINE}/>'
        else:
            dashes = ' stroke-dasharray="4 3"' if self.kind == "summed out" else ""
            seen = 'fill="currentColor" fill-opacity=".2"' if self.kind == "observed" else f'fill="none"{dashes}'
            stroke = 'stroke="currentColor" stroke-width="1.2"'
            shape = f'<ellipse cx="{_n(x)}" cy="{_n(y)}" rx="{_n(width / 2)}" ry="{_n(height / 2)}" {seen} {stroke}/>'
        below = _text(x, y + 13, _short(self.below), SMALL, 'fill-opacity=".7"') if self.below else ""
        return f"<g><title>{_escaped(self.tip)}</title>{shape}{name}{below}</g>"


OUTLINE = 'fill="none" stroke="currentColor" stroke-width="1.2"'
MARKS = {
    "param": '<circle cx="{x}" cy="{y}" r="4" fill="currentColor"/>',
    "factor": '<rect x="{left}" y="{top}" width="8" height="8" fill="currentColor"/>',
}


def text_width(text: str, size: float) -> float:
    """About how wide a text is, in a font of which nothing is known."""
    units = 0.0
    for letter in _short(text):
        wide = letter in WIDE or letter.isupper()
        units += 0.36 if letter in NARROW else 0.78 if wide else 0.6
        units += 0.45 if unicodedata.east_asian_width(letter) in "WF" else 0.0
    return units * size


def draw(box: Group, symbols: Mapping[str, Symbol], labels: Mapping[str, str], lines: Sequence[Line]) -> str:
    """The picture: `symbols` are by the keys of the leaves, `labels` by those of the groups inside `box`."""
    laid = lay(box, lines)
    ways = routes(laid, lines, box)
    parts = [_plate(laid.places[key], label, ways.values()) for key, label in labels.items()]
    for (a, b), way in ways.items():
        start = symbols[a].anchor(laid.places[a], way[1])
        end = symbols[b].anchor(laid.places[b], way[-2])
        parts.append(_arrow([start, *way[1:-1], end]))
    parts += [symbols[leaf.key].drawn(laid.places[leaf.key]) for leaf in leaves(box)]
    width, height = math.ceil(laid.width), math.ceil(laid.height)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'{head} role="img" style="font-family:system-ui,sans-serif;color:inherit">{"".join(parts)}</svg>'


def _plate(place: Place, label: str, ways: Collection[Sequence[Point]]) -> str:
    """A plate, its label at the foot where fewer lines pass."""
    width, y = text_width(label, SMALL), place.y + place.height - 9
    right = Place(place.x + place.width - 10 - width, y - SMALL, width, SMALL)
    left = dataclasses.replace(right, x=place.x + 10)

    def passed(spot: Place) -> int:
        return sum(meets(start, end, spot, 2.0) for way in ways for start, end in zip(way, way[1:]))

    at_left = passed(left) < passed(right)
    size = f'width="{_n(place.width)}" height="{_n(place.height)}"'
    box = f'<rect x="{_n(place.x)}" y="{_n(place.y)}" {size} rx="9" {OUTLINE} stroke-opacity=".45"/>'
    x, side = (left.x, "start") if at_left else (right.x + width, "end")
    return box + _text(x, y, _short(label), SMALL, 'fill-opacity=".8"', side)


def _arrow(way: Sequence[Point]) -> str:
    """A line through points, with its corners rounded, and a head at its end."""
    points = [np.array(point) for point in way]
    along = _unit(points[-1] - points[-2])
    across, tip = np.array([-along[1], along[0]]), points[-1]
    points[-1] = tip - along * HEAD[0] * 0.8
    path = f"M{_at(points[0])}"
    for before, point, after in zip(points, points[1:], points[2:]):
        near = min(ROUND, np.linalg.norm(point - before) / 2, np.linalg.norm(after - point) / 2)
        path += f"L{_at(point - near * _unit(point - before))}Q{_at(point)} {_at(point + near * _unit(after - point))}"
    path += f"L{_at(points[-1])}"
    left, right = (tip - along * HEAD[0] + side * across * HEAD[1] for side in (1, -1))
    head = f'<path d="M{_at(tip)}L{_at(left)}L{_at(right)}Z" fill="currentColor"/>'
    return f'<path d="{path}" fill="none" stroke="currentColor" stroke-opacity=".8"/>{head}'


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


def _text(x: float, y: float, text: str, size: float, more: str = "", side: str = "middle") -> str:
    where = f'x="{_n(x)}" y="{_n(y)}" text-anchor="{side}" font-size="{size:g}"'
    return f'<text {where} fill="currentColor" {more}>{_escaped(text)}</text>'


def _short(text: str) -> str:
    """A text that fits a symbol."""
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 9]}…{text[-8:]}"


def _escaped(text: str) -> str:
    """The text without what means something in a page, or cannot stand in one."""
    return html.escape("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text))


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _at(point: np.ndarray) -> str:
    return f"{_n(point[0])} {_n(point[1])}"
