"""The table of a posterior: one line a scalar, then what the fit has to say about itself; and data frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from vbppl.core.errors import ModelError, needed, yes_or_no
from vbppl.core.numerics import mcmc
from vbppl.core.tables import Table, Tabled, number
from vbppl.core.types import Seed
from vbppl.posterior.correction import mc_error, variance, weighted_quantile
from vbppl.target.axes import UNNAMED, Axes, axes_of
from vbppl.target.target import Target

COLUMNS = ("mean", "sd", "5%", "50%", "95%")
QUANTILES = (0.05, 0.5, 0.95)
MORE = {"": (), "corrected": ("MC error",), "refined": ("MC error", "bulk ESS", "tail ESS", "R-hat")}
SHOWN = 12  # lines for one site, before the middle is left out
LEARNT = 1000  # numbers of a learnt param that are named one by one; of a network's more, nobody reads them


@dataclasses.dataclass(frozen=True, repr=False)
class Summary(Tabled):
    """Printed in a terminal it is a table of text; in a notebook, of HTML.

    Attributes:
      sites: for each site its rows: for each scalar its label and mean, sd and 5, 50, 95% quantiles; then, of
        weighted draws, the Monte Carlo error of the mean, and of chains their effective sizes and R-hat too.
      notes: lines to print under the table.
      kind: "corrected" of weighted draws, "refined" of chains, "" of a guide.
      learnt: for each learnt param that is an array its rows: label and value, as it has no sd.
    """

    sites: tuple[tuple[tuple[str, tuple[float, ...]], ...], ...]
    notes: tuple[str, ...] = ()
    kind: str = ""
    learnt: tuple[tuple[tuple[str, float], ...], ...] = ()

    @property
    def rows(self) -> tuple[tuple[str, tuple[float, ...]], ...]:
        """The rows of all sites, one after the other."""
        return tuple(row for site in self.sites for row in site)

    @property
    def table(self) -> Table:
        """What is shown: a long site keeps its first and last lines, and one between says how many are left out."""
        rows: list[tuple[str, ...]] = []
        # By site, not by what the labels begin with: sites of their own may be called w[0], w[1] and so on.
        sites = [[(name, *map(number, values)) for name, values in site] for site in self.sites]
        for lines in (*sites, *([(name, number(value), "learnt") for name, value in param] for param in self.learnt)):
            if len(lines) > SHOWN:
                hidden = len(lines) - SHOWN + 1
                lines = [*lines[: SHOWN - 3], (f"... {hidden} more",), *lines[-2:]]
            rows += lines
        return Table((self.kind, *COLUMNS, *MORE[self.kind]), tuple(rows), self.notes)

    def to_dataframe(self) -> Any:
        """All rows as a data frame of pandas: a line a scalar, its columns those of the table.

        Learnt params have a value, in the column "mean", and NaN in the others.

        Raises:
          ModuleNotFoundError: pandas is not installed.
        """
        pandas = needed("pandas", "Summary.to_dataframe", "pandas")
        columns = [*COLUMNS, *MORE[self.kind]]
        points = [(name, (value, *[np.nan] * (len(columns) - 1))) for param in self.learnt for name, value in param]
        names, values = zip(*self.rows, *points) if self.rows or points else ((), ())
        return pandas.DataFrame(list(values), index=list(names), columns=columns)


class Framed:
    """Draws as a data frame: a part of `Posterior`."""

    target: Target

    def sample(self, n: int = 1000, seed: Seed = 0) -> dict[str, Any]:
        """Draws: see `Posterior`."""
        raise NotImplementedError

    def to_dataframe(self, *names: str, n: int = 1000, seed: Seed = 0, long: bool = False) -> Any:
        """Draws of the sites `names` (all if none) as a data frame of pandas.

        >>> import numpy as np, vbppl as vb, vbppl.distributions as dist
        >>> @vb.model
        ... def towns(town):
        ...     with vb.plate("town", town):
        ...         vb.sample("alpha", dist.Normal(0.0, 1.0))
        >>> posterior = vb.fit(towns(["Anoka", "Ramsey"]), "mean_field")
        >>> list(posterior.to_dataframe(n=500).columns)
        ['alpha[Anoka]', 'alpha[Ramsey]']

        Args:
          names: of sites.
          n: how many draws.
          seed: of the draws: those of `sample(n, seed)`.
          long: False for a column a scalar, `alpha[Ramsey]`, and a line a draw. True for a line a scalar and draw,
            with the columns "draw", "site", one for each dim (the labels along it), and "value".

        Raises:
          ModuleNotFoundError: pandas is not installed.
          KeyError: there is no such site.
        """
        pandas = needed("pandas", "posterior.to_dataframe", "pandas")
        yes_or_no("long", long)
        draws, axes, frames = self.sample(n, seed), axes_of(self.target), []
        for name in self._checked(names):
            values = np.asarray(draws[name])
            shape, flat = values.shape[1:], values.reshape(n, -1)
            if not long:
                frames.append(pandas.DataFrame(flat, columns=axes.names(name, shape)))
                continue
            at = np.indices(values.shape).reshape(values.ndim, -1)
            along = {dim: np.asarray(each)[i] for (dim, each), i in zip(axes.along(name, shape).items(), at[1:])}
            frames.append(pandas.DataFrame({"draw": at[0], "site": name, **along, "value": values.ravel()}))
        if not long:
            return pandas.concat(frames, axis=1).rename_axis("draw")
        found = pandas.concat(frames, ignore_index=True)
        return found[[column for column in found.columns if column != "value"] + ["value"]]

    def _checked(self, names: Sequence[str]) -> Sequence[str]:
        """The names asked for, all if none, after checking that there are such sites."""
        known = self.target.layout.completed
        unknown = [name for name in names if not isinstance(name, str) or name not in known]
        if unknown:
            raise KeyError(f"no site is called {unknown[0]!r:.80}; the posterior has {', '.join(known)}.")
        return tuple(names) or known

    def _of_a_point(self, names: Sequence[str]) -> tuple[str, ...]:
        """As `_checked`, of those that have derivatives: not what is summed out, nor what is computed from it."""
        chosen, known = self._checked(names), self.target.layout.reported
        if names and (lost := [name for name in chosen if name not in known]):
            raise ModelError(
                "the site is summed out, or computed from one that is, so it has no derivative.",
                site=lost[0],
                mend="Ask for the others; posterior.probabilities(name) tells how sure a discrete site is.",
            )
        return tuple(name for name in chosen if name in known)


def learnt_rows(params: Mapping[str, Any], axes: Axes) -> tuple[tuple[tuple[str, float], ...], ...]:
    """For each param that is an array of not too many numbers its labels and values; `params` as `packed_params`."""
    arrays = {name: np.asarray(each.learnt[0]) for name, each in params.items() if _is_short(each)}
    return tuple(tuple(zip(axes.names(name, x.shape), x.ravel().tolist())) for name, x in arrays.items())


def not_shown(params: Mapping[str, Any]) -> list[str]:
    """A line on the params that have no rows: networks, and arrays of many numbers."""
    long = {name: sum(np.size(leaf) for leaf in each.learnt) for name, each in params.items() if not _is_short(each)}
    return [f"learnt besides: {', '.join(f'{name} ({n:,} numbers)' for name, n in long.items())}"] if long else []


def _is_short(param: Any) -> bool:
    return param.names == ("",) and np.size(param.learnt[0]) <= LEARNT


def summarise(
    draws: Mapping[str, np.ndarray],
    notes: Sequence[str],
    weights: np.ndarray | None = None,
    chains: int = 0,
    axes: Axes = UNNAMED,
    params: Mapping[str, Any] = MappingProxyType({}),
) -> Summary:
    """The table for `draws`, `(n, ...)` for each site; with Monte Carlo errors of weighted draws and of chains.

    Under it stand the learnt `params`, as of `packed_params`.
    """
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
        sites.append(tuple(zip(axes.names(name, values.shape[1:]), map(tuple, np.stack(columns, axis=-1).tolist()))))
    kind = "refined" if chains else "corrected" if weights is not None else ""
    return Summary(tuple(sites), (*not_shown(params), *notes), kind, learnt_rows(params, axes))
