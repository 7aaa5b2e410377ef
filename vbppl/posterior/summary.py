"""The table of a posterior: one line a scalar, then what the fit has to say about itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from vbppl.core.numerics import mcmc
from vbppl.core.tables import Table, labels, number
from vbppl.posterior.correction import mc_error, variance, weighted_quantile

COLUMNS = ("mean", "sd", "5%", "50%", "95%")
QUANTILES = (0.05, 0.5, 0.95)
MORE = {"": (), "corrected": ("MC error",), "refined": ("MC error", "bulk ESS", "tail ESS", "R-hat")}
SHOWN = 12  # lines for one site, before the middle is left out


@dataclasses.dataclass(frozen=True)
class Summary:
    """Printed in a terminal it is a table of text; in a notebook, of HTML.

    Attributes:
      sites: for each site its rows: for each scalar its label and mean, sd and 5, 50, 95% quantiles; then, of
        weighted draws, the Monte Carlo error of the mean, and of chains their effective sizes and R-hat too.
      notes: lines to print under the table.
      kind: "corrected" of weighted draws, "refined" of chains, "" of a guide.
    """

    sites: tuple[tuple[tuple[str, tuple[float, ...]], ...], ...]
    notes: tuple[str, ...] = ()
    kind: str = ""

    @property
    def rows(self) -> tuple[tuple[str, tuple[float, ...]], ...]:
        """The rows of all sites, one after the other."""
        return tuple(row for site in self.sites for row in site)

    @property
    def table(self) -> Table:
        """What is shown: a long site keeps its first and last lines, and one between says how many are left out."""
        rows: list[tuple[str, ...]] = []
        # By site, not by what the labels begin with: sites of their own may be called w[0], w[1] and so on.
        for site in self.sites:
            lines = [(name, *map(number, values)) for name, values in site]
            if len(lines) > SHOWN:
                hidden = len(lines) - SHOWN + 1
                lines = [*lines[: SHOWN - 3], (f"... {hidden} more",), *lines[-2:]]
            rows += lines
        return Table((self.kind, *COLUMNS, *MORE[self.kind]), tuple(rows), self.notes)

    def __str__(self) -> str:
        return str(self.table)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


def summarise(
    draws: Mapping[str, np.ndarray], notes: Sequence[str], weights: np.ndarray | None = None, chains: int = 0
) -> Summary:
    """The table for `draws`, `(n, ...)` for each site; with Monte Carlo errors of weighted draws and of chains."""
    sites = []
    count = len(next(iter(draws.values()), ()))
    shares = np.full(count, 1 / max(count, 1)) if weights is None else weights
    for name, values in draws.items():
        values = np.asarray(values, np.float64)
        flat = values.reshape(len(values), int(np.prod(values.shape[1:])))
        mean = shares @ flat
        columns = [mean, np.sqrt(variance(flat, shares)), *weighted_quantile(flat, shares, QUANTILES)]
        if weights is not None:
            columns.append(mc_error(flat, shares, chains))
        if chains:
            each = flat.reshape(chains, count // chains, -1)
            columns += [mcmc.ess_bulk(each), mcmc.ess_tail(each), mcmc.r_hat(each)]
        sites.append(tuple(zip(labels(name, values.shape[1:]), map(tuple, np.stack(columns, axis=-1).tolist()))))
    return Summary(tuple(sites), tuple(notes), "refined" if chains else "corrected" if weights is not None else "")
