"""Tables, as text for a terminal and as HTML for a notebook; what a scalar of an array is called in them."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np

Words: TypeAlias = Sequence["Sequence[str] | None"]  # for each axis what its entries are called; None: by their numbers


def label(name: str, index: tuple[int, ...], words: Words = ()) -> str:
    """The name of one scalar of an array.

    >>> label("theta", (3, 0)), label("mu", ())
    ('theta[3,0]', 'mu')
    >>> label("theta", (1, 0), (["north", "south"], None))
    'theta[south,0]'
    """
    said = (str(i) if each is None else each[i] for i, each in zip(index, words or (None,) * len(index)))
    return f"{name}[{','.join(said)}]" if index else name


def labels(name: str, shape: tuple[int, ...], words: Words = ()) -> list[str]:
    """The names of all scalars of an array, in order.

    >>> labels("w", (2,))
    ['w[0]', 'w[1]']
    """
    return [label(name, index, words) for index in np.ndindex(*shape)]


def number(value: float) -> str:
    """Four significant digits, without exponents where a person would not use them.

    >>> number(-12.3456), number(123456.0), number(0.00123456)
    ('-12.35', '1.235e+05', '0.0012')
    """
    if not np.isfinite(value):
        return str(float(value))
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        digits = 3 if value == 0 else max(0, 3 - int(np.floor(np.log10(abs(value)))))
        return f"{value:.{min(digits, 4)}f}"
    return f"{value:.3e}"


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells under a head, then lines of text.

    >>> print(Table(("", "mean"), (("mu", "1.5"), ("theta[0]", "-0.3"))))
              mean
    mu         1.5
    theta[0]  -0.3

    Attributes:
      head: a title for each column.
      rows: the cells; a row with fewer has nothing in the last columns.
      notes: lines under the table, with an empty one between.
      align: for each column "<" or ">"; the last goes on for all columns to the right.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    align: str = "<>"

    def __str__(self) -> str:
        full = [self.head, *self._filled()]
        widths = [max(len(row[i]) for row in full) for i in range(len(self.head))]
        lines = ["  ".join(f"{c:{self._side(i)}{w}}" for i, (c, w) in enumerate(zip(row, widths))) for row in full]
        return "\n".join([*(line.rstrip() for line in lines), *(["", *self.notes] if self.notes else [])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(self._html(i, cell, "th") for i, cell in enumerate(self.head))
        body = "".join(f"<tr>{''.join(self._html(i, c) for i, c in enumerate(row))}</tr>" for row in self._filled())
        notes = f"<p>{html_lines(self.notes)}</p>" if self.notes else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"

    def _html(self, column: int, cell: str, tag: str = "") -> str:
        tag = tag or ("td" if column else "th")  # the first column names its row
        left = " style='text-align:left'" if self._side(column) == "<" else ""
        return f"<{tag}{left}>{html.escape(cell)}</{tag}>"

    def _side(self, column: int) -> str:
        return self.align[min(column, len(self.align) - 1)]

    def _filled(self) -> list[tuple[str, ...]]:
        return [row + ("",) * (len(self.head) - len(row)) for row in self.rows]


class Tabled:
    """What is shown as its table: in a terminal, where it is named alone, in a notebook.

    Above a dataclass that writes no `repr` of its own: `@dataclasses.dataclass(frozen=True, repr=False)`.
    """

    @property
    def table(self) -> Table:
        """What is shown."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return str(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


def html_lines(lines: Iterable[str]) -> str:
    """Lines of text, escaped, one under the other."""
    return "<br>".join(map(html.escape, lines))


def spaced(lines: Iterable[str]) -> str:
    """Long lines of text, escaped, each told from the next where it takes several."""
    return "".join(f"<div style='margin:.35em 0'>{html.escape(line.strip())}</div>" for line in lines)


def badge(text: str, colour: str) -> str:
    """A word on a ground of its own colour, to be read on a light page and on a dark one."""
    style = f"color:#fff;background:{colour};padding:.1em .5em;border-radius:.4em"
    return f"<b style='{style}'>{html.escape(text)}</b>"


def folded(title: str, page: str) -> str:
    """A part of a page under a title that opens it; nothing where there is none."""
    return f"<details><summary>{html.escape(title)}</summary>{page}</details>" if page else ""
