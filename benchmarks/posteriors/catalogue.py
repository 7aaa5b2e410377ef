"""The suite: which posteriors there are, and how the reference of each is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

import vbppl as vb
from benchmarks.posteriors import data, hierarchies, mixtures, regressions, series

Exact = Callable[[int, np.random.Generator], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A posterior of the suite.

    Attributes:
      name: by which it is asked for.
      make: the model applied to its data; of a path where the data are in a file.
      exact: draws from the posterior itself, where that can be done; else NUTS.
      decentred: sample in the coordinates of `vb.decenter` and map the draws back.
      dense: a dense mass matrix.
      draws: of each of the four chains, after the warm-up; a quarter of the exact draws.
      warmup: steps of adaptation.
      accept: the acceptance rate aimed at.
      points: fixed draws on which the limits of the bound are found.
      climb: steps of L-BFGS from a random point near zero to the start of a chain.
      start: values of some sites there, where a random point would overflow.
      heavy: sites without a usable variance: compared by medians and central intervals.
      hard: no Gaussian can be right here, in these coordinates, so the verdict must not be "good".
      file: the data come from a file.
      fast: among the few that the tests always run.
    """

    name: str
    make: Callable[..., vb.Model]
    exact: Exact | None = None
    decentred: bool = False
    dense: bool = False
    draws: int = 2500
    warmup: int = 1000
    accept: float = 0.85
    points: int = 16384
    climb: int = 300
    start: tuple[tuple[str, float], ...] = ()
    heavy: tuple[str, ...] = ()
    hard: bool = False
    file: bool = False
    fast: bool = False

    def model(self, path: Path | None = None) -> vb.Model:
        """The model applied to its data."""
        return self.make(path) if self.file else self.make()


ENTRIES = (
    Entry(
        "schools",
        lambda: hierarchies.eight_schools(*hierarchies.SCHOOLS),
        decentred=True,
        hard=True,
        accept=0.95,
        fast=True,
    ),
    Entry(
        "schools-noncentred", lambda: hierarchies.eight_schools_noncentred(*hierarchies.SCHOOLS), accept=0.95, fast=True
    ),
    Entry("rats", lambda: hierarchies.rats(data.RATS_DAYS, data.RATS), points=4096),
    Entry("pumps", lambda: hierarchies.pumps(data.PUMP_HOURS, data.PUMP_FAILURES), fast=True),
    Entry("seeds", lambda: hierarchies.seeds(*data.SEEDS), decentred=True, accept=0.95),
    Entry("surgical", lambda: hierarchies.surgical(*data.SURGERY), decentred=True, accept=0.9),
    Entry("dyes", lambda: hierarchies.dyes(data.DYES), decentred=True, accept=0.95),
    Entry("radon", hierarchies.radon_of, decentred=True, file=True, points=4096),
    Entry("diabetes", regressions.diabetes, dense=True),
    Entry(
        "horseshoe",
        regressions.diabetes_horseshoe,
        decentred=True,
        hard=True,
        accept=0.95,
        points=4096,
        heavy=("local", "tau"),
    ),
    Entry("breast-cancer", regressions.breast_cancer, dense=True, points=4096),
    Entry("iris", regressions.iris, dense=True),
    Entry("beetles", regressions.beetles_of, dense=True, fast=True),
    Entry("stack-loss", regressions.stack_loss_of, dense=True),
    Entry(
        "salmonella",
        lambda: regressions.salmonella(data.SALMONELLA_DOSES, data.SALMONELLA),
        decentred=True,
        start=(("b", 0.3), ("c", 0.0)),
        dense=True,
    ),
    Entry("dugongs", lambda: regressions.dugongs(*data.DUGONGS), dense=True),
    Entry("puromycin", regressions.puromycin_of, dense=True),
    Entry(
        "separation",
        lambda: regressions.separation(*regressions.SEPARATED),
        exact=regressions.separation_exactly,
        draws=50_000,
        hard=True,
        heavy=("a", "b"),
    ),
    Entry("nile", series.nile, exact=series.nile_exactly, draws=2_000, points=4096),
    Entry("lynx", series.lynx, dense=True),
    Entry("volatility", series.volatility, accept=0.9, points=4096),
    Entry("nile-process", series.nile_process, dense=True, draws=1500, points=4096),
    Entry("coal", series.coal, draws=1500, accept=0.9, points=4096),
    Entry("lynx-hare", series.lynx_hare, dense=True, draws=1500, points=4096),
    Entry("faithful", mixtures.faithful, dense=True),
    Entry("galaxies", mixtures.galaxies, dense=True),
    Entry("answers", mixtures.answers, points=4096),
    Entry("funnel", mixtures.funnel, exact=mixtures.funnel_exactly, draws=50_000, hard=True, heavy=("x",), fast=True),
    Entry(
        "two-modes",
        lambda: mixtures.two_modes(mixtures.TWO_WEIGHTS, mixtures.TWO_LOCS),
        exact=mixtures.two_modes_exactly,
        draws=50_000,
        hard=True,
        fast=True,
    ),
)
