"""The table of a posterior: one line a scalar, then what the fit has to say about itself."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence

import numpy as np

COLUMNS = ("mean", "sd", "5%", "50%", "95%")
SHOWN = 12  # lines for one site, before the middle is left out


@dataclasses.dataclass(frozen=True)
class Summary:
    """Printed in a terminal it is a table of text; in a notebook, of HTML.

    Attributes:
      rows: for each scalar its name, mean, standard deviation and 5, 50, 95% quantiles.
      notes: lines to print under the table.
    """

    rows: tuple[tuple[str, tuple[float, ...]], ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        cells = [("", *COLUMNS), *((name, *map(_number, values)) for name, values in _shortened(self.rows))]
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]).rstrip()
            for row in cells
        ]
        return "\n".join([*lines, "", *self.notes])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{c}</th>" for c in ("", *COLUMNS))
        body = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            + "".join(f"<td>{_number(v)}</td>" for v in values)
            + "</tr>"
            for name, values in _shortened(self.rows)
        )
        notes = "<br>".join(html.escape(note) for note in self.notes)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{notes}</p>"


def summarise(draws: Mapping[str, np.ndarray], notes: Sequence[str]) -> Summary:
    """The table for `draws`, `(n, ...)` for each site."""
    rows = []
    for name, values in draws.items():
        values = np.asarray(values, np.float64)
        moments = np.stack([values.mean(0), values.std(0), *np.quantile(values, [0.05, 0.5, 0.95], axis=0)], axis=-1)
        rows += [(_label(name, index), tuple(moments[index].tolist())) for index in np.ndindex(values.shape[1:])]
    return Summary(tuple(rows), tuple(notes))


def _label(name: str, index: tuple[int, ...]) -> str:
    return f"{name}[{','.join(map(str, index))}]" if index else name


def _shortened(rows: Sequence[tuple[str, tuple[float, ...]]]) -> list[tuple[str, tuple]]:
    """Long sites keep their first and last lines; a line between says how many are left out."""
    sites: dict[str, list] = {}
    for row in rows:
        sites.setdefault(row[0].split("[")[0], []).append(row)
    shown: list[tuple[str, tuple]] = []
    for group in sites.values():
        if len(group) > SHOWN:
            hidden = len(group) - SHOWN + 1
            group = [*group[: SHOWN - 3], (f"... {hidden} more", ()), *group[-2:]]
        shown += [(name, values or ("",) * len(COLUMNS)) for name, values in group]
    return shown


def _number(value: float | str) -> str:
    """Four significant digits, without exponents where a person would not use them."""
    if isinstance(value, str):
        return value
    if not np.isfinite(value):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        digits = 3 if value == 0 else max(0, 3 - int(np.floor(np.log10(abs(value)))))
        return f"{value:.{min(digits, 4)}f}"
    return f"{value:.3e}"
