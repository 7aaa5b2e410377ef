"""The suite: which posteriors there are, and how the reference of each is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

import vbppl as vb
from benchmarks.posteriors import data, further, hierarchies, kinds, mixtures, regressions, series

Exact = Callable[[int, np.random.Generator], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A posterior of the suite.

    Attributes:
      name: by which it is asked for.
      make: the model applied to its data; of a path where the data are in a file.
      exact: draws from the posterior itself, where that can be done; else NUTS.
      noncentred: sample in the coordinates of `vb.decenter` and map the draws back.
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
      label: of the part of the suite that it is of: "" or "further", whose limits of the bound are not known.
    """

    name: str
    make: Callable[..., vb.Model]
    exact: Exact | None = None
    noncentred: bool = False
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
    label: str = ""

    def model(self, path: Path | None = None) -> vb.Model:
        """The model applied to its data."""
        return self.make(path) if self.file else self.make()


ENTRIES = (
    Entry(
        "schools",
        lambda: hierarchies.eight_schools(*hierarchies.SCHOOLS),
        noncentred=True,
        hard=True,
        accept=0.95,
        fast=True,
    ),
    Entry(
        "schools-noncentred", lambda: hierarchies.eight_schools_noncentred(*hierarchies.SCHOOLS), accept=0.95, fast=True
    ),
    Entry("rats", lambda: hierarchies.rats(data.RATS_DAYS, data.RATS), points=4096),
    Entry("pumps", lambda: hierarchies.pumps(data.PUMP_HOURS, data.PUMP_FAILURES), fast=True),
    Entry("seeds", lambda: hierarchies.seeds(*data.SEEDS), noncentred=True, accept=0.95),
    Entry("surgical", lambda: hierarchies.surgical(*data.SURGERY), noncentred=True, accept=0.9),
    Entry("dyes", lambda: hierarchies.dyes(data.DYES), noncentred=True, accept=0.95),
    Entry("radon", hierarchies.radon_of, noncentred=True, file=True, points=4096),
    Entry("diabetes", regressions.diabetes, dense=True),
    Entry(
        "horseshoe",
        regressions.diabetes_horseshoe,
        noncentred=True,
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
        noncentred=True,
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
    Entry("peregrines", further.peregrines_of, label="further", noncentred=True),
    Entry("captures", further.captures_of, label="further"),
    Entry("dogs", further.dogs_of, label="further"),
    Entry("dogs-each", further.dogs_each_of, label="further", draws=2500, accept=0.9),
    Entry("losses", further.losses_of, label="further", draws=1500, accept=0.95),
    Entry("pilots", further.pilots_of, label="further", draws=1500, noncentred=True, dense=True, accept=0.95),
    Entry("surveys", further.surveys_of, label="further", exact=further.surveys_exactly, draws=50_000),
    Entry("frailty", kinds.frailty_of, label="further", draws=1500, noncentred=True, accept=0.95),
    Entry(
        "overdispersed-groups",
        kinds.overdispersed_groups_of,
        label="further",
        draws=1500,
        noncentred=True,
        accept=0.95,
        heavy=("phi",),
    ),
    Entry("zero-inflated", kinds.zero_inflated_of, label="further", dense=True),
    Entry("ordinal-groups", kinds.ordinal_groups_of, label="further", draws=1500, noncentred=True, accept=0.95),
    Entry("gamma-regression", kinds.gamma_regression_of, label="further", dense=True),
    Entry("beta-regression", kinds.beta_regression_of, label="further", dense=True),
    Entry("items", kinds.items_of, label="further", draws=1500, climb=0, noncentred=True, accept=0.95),
    Entry("shares", kinds.shares_of, label="further", heavy=("worth",)),
    Entry("dose-response", kinds.dose_response_of, label="further", dense=True, accept=0.95),
    Entry("robust", kinds.robust_of, label="further"),
    Entry("noisy-autoregression", kinds.noisy_autoregression_of, label="further", draws=1500, accept=0.95),
    Entry("oranges", lambda: kinds.oranges(kinds.ORANGE_DAYS, kinds.ORANGES), label="further", dense=True, accept=0.95),
    Entry("two-lines", kinds.two_lines_of, label="further"),
    Entry("slopes", kinds.slopes_of, label="further", draws=4000, noncentred=True, accept=0.95),
    Entry("meta-analysis", kinds.meta_analysis_of, label="further", draws=1500, noncentred=True, accept=0.95),
    Entry(
        "two-clusters",
        lambda: kinds.two_clusters(kinds.CLUSTERS),
        label="further",
        exact=kinds.two_clusters_exactly,
        draws=50_000,
    ),
    Entry("two-exponentials", kinds.two_exponentials_of, label="further", dense=True, accept=0.95),
    Entry("broken-stick", kinds.broken_stick_of, label="further", draws=5000, accept=0.95),
    Entry("unequal-groups", kinds.unequal_groups_of, label="further", draws=1500, noncentred=True, accept=0.95),
    Entry("crossed-counts", kinds.crossed_counts_of, label="further", draws=1500, noncentred=True, accept=0.95),
    Entry("noisy-inputs", kinds.noisy_inputs_of, label="further", draws=1500, climb=0, accept=0.95),
)
