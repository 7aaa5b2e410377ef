"""What a fit gives back: a distribution over the latent sites, and how it came about."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vbppl.core.keys import host_generator, raw_key
from vbppl.core.numerics import psis
from vbppl.core.pytree import pytree, static
from vbppl.core.types import Array, PyTree, Seed
from vbppl.guides.base import Guide
from vbppl.guides.gaussian import MeanField
from vbppl.inference.bound import Estimate
from vbppl.inference.solution import Status
from vbppl.model import predictive
from vbppl.model.model import Model
from vbppl.posterior import row_evidence
from vbppl.posterior.linear_response import LinearResponse, linear_response
from vbppl.posterior.optimality_gap import optimality_gap
from vbppl.posterior.report import Report
from vbppl.posterior.summary import Summary, summarise
from vbppl.target.target import Target

POOL = 20  # draws that are weighed at first for one that is asked for
MOST_LOST = 0.03  # of the weight, to draws that would be needed more than once
VALUES = 2**24  # numbers that the draws behind a table may hold


@pytree
class Posterior:
    """A guide with its fitted parameters: a frozen pytree without hidden state.

    Values are on the sites' supports, by the sites' names; deterministic sites are included.

    Attributes:
      target: the density that was fitted, with its data.
      guide: the family.
      phi: its parameters.
      elbo: the evidence lower bound with its standard error, in nats: `log evidence >= elbo`. Not a number
        for a MAP estimate, which has none.
      history: the noisy bound at each step, in nats, `(steps,)`; NaN where a step was skipped.
      status: why the fit ended, and what happened on the way.
      report: how good it is; `check()` returns it.
    """

    target: Target
    guide: Guide
    phi: PyTree
    elbo: Estimate
    history: np.ndarray
    status: Status = static()
    report: Report | None = static(default=None)

    def sample(self, n: int = 1000, seed: Seed = 0) -> dict[str, Array]:
        """`n` independent draws: for each site `(n, ...)`."""
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}.")
        return self.guide.sample(self.phi, self.target, host_generator(raw_key(seed), "posterior"), n)

    def mean(self) -> dict[str, np.ndarray | np.floating]:
        """The mean of each site; exact where the guide is Gaussian and the site is real."""
        return {name: np.mean(draws, axis=0, dtype=np.float64) for name, draws in self._table_draws().items()}

    def sd(self) -> dict[str, np.ndarray | np.floating]:
        """The standard deviation of each site; exact where `mean` is."""
        return {name: np.std(draws, axis=0, dtype=np.float64) for name, draws in self._table_draws().items()}

    def quantiles(self, q: float | Sequence[float]) -> dict[str, np.ndarray]:
        """Quantiles of each site, `(..., )` for a number `q` and `(len(q), ...)` for several."""
        return {name: np.quantile(np.asarray(d, np.float64), q, axis=0) for name, d in self._table_draws().items()}

    def covariance(self, *names: str) -> np.ndarray:
        """The covariance matrix of all scalars of the sites `names` (all sites if none), in order."""
        columns = [np.asarray(draws, np.float64) for draws in self._chosen(names).values()]
        flat = np.concatenate([column.reshape(len(column), -1) for column in columns], axis=1)
        return np.atleast_2d(np.cov(flat, rowvar=False, ddof=0))

    def log_prob(self, values: Mapping[str, Any]) -> Array:
        """The posterior's log density at `values`: a scalar, or `(n,)` for draws.

        Stands on the same footing as `model.log_joint`: the mean over draws of
        `log_joint - log_prob` is the ELBO.
        """
        return self.guide.log_prob(self.phi, self.target, values)

    @property
    def params(self) -> dict[str, Any]:
        """The learnt params of the model, and of a guide that has some, shaped like their `init`."""
        return {**self.target.param_values(), **self.guide.param_values(self.phi)}

    def summary(self, *names: str) -> Summary:
        """A table of means, sds and quantiles of the sites `names` (all if none); then the report card."""
        notes = [f"{type(self.guide).__name__} guide, {self.target.dim} dims"]
        notes += self.report.lines() if self.report else [f"log joint at the mode {self.elbo.value:.3f} nats"]
        return summarise(self._chosen(names), notes)

    def check(self, gap: bool = False) -> Report:
        """The report card: the verdict, why, and the numbers behind it.

        Args:
          gap: also bound how far below the best of its family the fit may lie, by four further fits.
        """
        if self.report is None:
            raise TypeError("a MAP estimate is a point: there is no distribution to judge.")
        if not gap:
            return self.report
        found = optimality_gap(self.target, self.guide, self.phi, self.elbo, np.zeros(2, np.uint32))
        return dataclasses.replace(self.report, gap=found)

    def linear_response(self, *names: str) -> LinearResponse:
        """Covariances of the sites `names` (all if none), corrected for what mean field leaves out.

        Where the posterior is near Gaussian they are right although the guide's own standard deviations are
        too small; `available` is False, with the reason, where the bound has no strict maximum.

        Raises:
          TypeError: the guide is not mean-field.
        """
        if not isinstance(self.guide, MeanField):
            raise TypeError(f"linear response corrects a mean-field guide, not {type(self.guide).__name__}.")
        loc, log_sd = np.asarray(self.phi, np.float64)
        rng = host_generator(np.zeros(2, np.uint32), "linear response")
        return linear_response(self.target, loc, log_sd, self._checked(names), rng)

    def resample(self, n: int = 1000, seed: Seed = 0) -> dict[str, Array]:
        """`n` draws of the posterior itself, by importance resampling: all different, never copies.

        Draws of the guide are weighed, and the weights Pareto-smoothed. A draw of weight `w` is taken
        `n w` times, rounded up or down at random, and never twice: what a weight exceeds 1/n by is cut
        off. The number weighed grows until that is at most three per cent of the whole.

        Raises:
          ValueError: the weights cannot be trusted; the message says by how much.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}.")
        rng = host_generator(raw_key(seed), "resample")
        log_weights, z = np.zeros(0), np.zeros((0, self.target.dim))
        for pool in (POOL * n, 3 * POOL * n):
            more, new = self.guide.weighed_draws(self.phi, self.target, rng, pool)
            log_weights, z = np.append(log_weights, more), np.append(z, new, axis=0)
            smoothed = psis.smooth(np.where(np.isfinite(log_weights), log_weights, -np.inf))
            kept, lost = psis.capped(np.exp(smoothed.log_weights), 1 / n)
            if smoothed.usable and lost <= MOST_LOST:
                # Systematic: to take the heaviest draws once only would bring back the guide's sds.
                shares = np.cumsum(kept)
                at = rng.permutation(np.arange(n) + rng.uniform()) / n
                return self.target.constrain(z[np.searchsorted(shares / shares[-1], at)])
        raise ValueError(
            f"importance weights cannot repair this guide: Pareto k {smoothed.shape:.2f}, and {lost:.1%} of the weight "
            f"of {len(z):,} draws lies in a few that {n} different ones cannot hold. See posterior.check()."
        )

    def predict(self, model: Model | None = None, n: int = 1000, seed: Seed = 0) -> dict[str, Array]:
        """Posterior predictive draws: what the model says of data not yet seen.

        Args:
          model: the same function applied to other arguments (other data, another number of rows,
            `y=None`); the fitted one if None.

        Returns:
          for each site that the posterior does not fix, observed and deterministic, `(n, ...)`. A site whose rows
          an encoder, or a guide program that has the model's own arguments, reads off `model` is one of them.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}.")
        model = self.target.model if model is None else model
        predictive.check_in_memory(model)
        model = model.in_training(self.target.model.states, None)
        rng = host_generator(raw_key(seed), "posterior")
        values, z, anew = self.guide.carried(self.phi, self.target, model, rng, n)
        params, weights = self.target.packed_params(), self.target.weights()
        return predictive.predict(model, values, params, raw_key(seed), n, z, weights, anew)

    def log_evidence(
        self, model: Model | None = None, guide: Model | None = None, n: int = 5000, seed: Seed = 0
    ) -> row_evidence.RowEvidence:
        """The log evidence of each row by itself, by importance sampling: the test log likelihood of a VAE.

        For models all of whose sites stand in one plate. The estimate is a bound that rises with `n`.

        Args:
          model: the same function applied to other rows; the fitted ones if None.
          guide: where the guide is a program, it applied to them.
          n: draws a row; they are made in chunks, so that memory does not grow with them.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}.")
        target, moved = self._moved(model, guide)
        return row_evidence.row_evidence(moved, self.phi, target, raw_key(seed), n)

    def amortisation_gap(
        self, model: Model | None = None, guide: Model | None = None, rows: int = 200, seed: Seed = 0
    ) -> row_evidence.Gap:
        """What the encoder loses against the best normal of each row, in nats a row.

        Args:
          model: the same function applied to other rows; the fitted ones if None.
          guide: where the guide is a program, it applied to them.
          rows: how many to look at, chosen at random.
        """
        target, moved = self._moved(model, guide)
        return row_evidence.amortisation_gap(moved, self.phi, target, raw_key(seed), rows)

    def _moved(self, model: Model | None, guide: Model | None) -> tuple[Target, Guide]:
        """Target and guide at other rows."""
        if model is None:
            return self.target, self.guide
        return self.target.with_data(model), self.guide.with_data(guide)

    def encode(self, rows: Any) -> Any:
        """What an amortised guide says of rows that it may never have seen.

        Args:
          rows: what the encoder reads, with the rows along the first axis.

        Returns:
          a `Normal` with the `loc` and `scale` of each row's latent variable in unconstrained space,
          `(rows, ...)`; its `sample(key, (n,))` draws from it.

        Raises:
          TypeError: the guide has no encoder.
        """
        return self.guide.encode(self.phi, rows)

    def log_likelihood(self, n: int = 1000, seed: Seed = 0) -> dict[str, Array]:
        """The log density of each observation at `n` draws: `(n, rows)` for each observed site."""
        target = self.target
        return predictive.log_likelihood(target.model, self._latent(n, seed), target.packed_params(), target.parts())

    def __repr__(self) -> str:
        return f"<Posterior of {self.target.model!r}: {type(self.guide).__name__}, ELBO {self.elbo}>"

    def __str__(self) -> str:
        return str(self.summary())

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    def _latent(self, n: int, seed: Seed) -> dict[str, Array]:
        draws = self.sample(n, seed)
        return {slot.name: draws[slot.name] for slot in self.target.layout.slots}

    def _checked(self, names: Sequence[str]) -> Sequence[str]:
        """The names asked for, all if none, after checking that there are such sites."""
        known = self.target.layout.reported
        unknown = [name for name in names if name not in known]
        if unknown:
            raise KeyError(f"no site is called {unknown[0]!r}; the posterior has {', '.join(known)}.")
        return tuple(names) or known

    def _chosen(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        draws = self._table_draws()
        return {name: draws[name] for name in self._checked(names)}

    def _table_draws(self) -> dict[str, np.ndarray]:
        """Moment-exact draws, the same at each call; fewer for very large models."""
        draws = int(np.clip(VALUES // max(self.target.dim, 1), 256, 4096)) // 2 * 2
        rng = host_generator(np.zeros(2, np.uint32), "table")
        return jax.tree.map(np.asarray, self.guide.quadrature(self.phi, self.target, rng, draws))
