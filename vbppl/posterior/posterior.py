"""What a fit gives back: a distribution over the latent sites, and how it came about."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vbppl.core.keys import host_generator, raw_key
from vbppl.core.pytree import pytree
from vbppl.core.types import Array, PyTree, Seed
from vbppl.guides import networks
from vbppl.guides.base import Guide
from vbppl.inference import bound
from vbppl.inference.bound import Estimate
from vbppl.inference.solution import Solution, Status
from vbppl.model import predictive
from vbppl.model.model import Model
from vbppl.posterior import row_evidence
from vbppl.posterior.correction import resample
from vbppl.posterior.linear_response import LinearResponse, is_mean_field, linear_response
from vbppl.posterior.optimality_gap import optimality_gap
from vbppl.posterior.report import Report, Unjudged
from vbppl.posterior.summary import Summary, summarise
from vbppl.target.density import packed_params
from vbppl.target.target import Target, model_of, param_values, with_data

VALUES = 2**24  # numbers that the draws behind a table may hold


@pytree
class Posterior:
    """What was solved and how good it is: a frozen pytree without hidden state.

    Values are on the sites' supports, by the sites' names; deterministic sites are included.

    Attributes:
      solution: what the solver gave back.
      report: how good it is; `check()` returns it.
    """

    solution: Solution
    report: Report | Unjudged

    @property
    def target(self) -> Target:
        """The density that was fitted, with its data."""
        return self.solution.target

    @property
    def guide(self) -> Guide:
        """The family."""
        return self.solution.guide

    @property
    def phi(self) -> PyTree:
        """The parameters of the guide."""
        return self.solution.phi

    @property
    def elbo(self) -> Estimate:
        """The evidence lower bound with its standard error, in nats: `log evidence >= elbo`.

        Of a MAP estimate, which has no bound, the log joint density at the mode.
        """
        return self.report.elbo

    @property
    def history(self) -> np.ndarray:
        """The noisy bound at each step, in nats, `(steps,)`; NaN where a step was skipped."""
        return self.solution.bounds

    @property
    def status(self) -> Status:
        """Why the fit ended, and what happened on the way."""
        return self.solution.status

    def sample(self, n: int = 1000, seed: Seed = 0) -> dict[str, Array]:
        """`n` independent draws: for each site `(n, ...)`."""
        _check_count(n)
        return bound.sample(self.guide, self.phi, self.target, host_generator(raw_key(seed), "posterior"), n)

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
        return bound.log_prob_of_values(self.guide, self.phi, self.target, values)

    @property
    def params(self) -> dict[str, Any]:
        """The learnt params of the model, and of a guide that has some, shaped like their `init`."""
        return {**param_values(self.target), **networks.param_values(self.guide, self.phi)}

    def summary(self, *names: str) -> Summary:
        """A table of means, sds and quantiles of the sites `names` (all if none); then the report card."""
        notes = [f"{type(self.guide).__name__} guide, {self.target.dim} dims"]
        notes += self.report.beside(self.solution).lines()
        return summarise(self._chosen(names), notes)

    def check(self, gap: bool = False) -> Report:
        """The report card: the verdict, why, and the numbers behind it.

        Args:
          gap: also bound how far below the best of its family the fit may lie, by four further fits.
        """
        if isinstance(self.report, Unjudged):
            raise TypeError(f"{self.report.why}.")
        card = self.report.beside(self.solution)
        if not gap:
            return card
        found = optimality_gap(self.target, self.guide, self.phi, self.elbo, np.zeros(2, np.uint32))
        return dataclasses.replace(card, gap=found)

    def linear_response(self, *names: str) -> LinearResponse:
        """Covariances of the sites `names` (all if none), corrected for what mean field leaves out.

        Where the posterior is near Gaussian they are right although the guide's own standard deviations are
        too small; `available` is False, with the reason, where the bound has no strict maximum.

        Raises:
          TypeError: the guide is not mean-field.
        """
        if not is_mean_field(self.guide):
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
        _check_count(n)
        return resample(self.solution, host_generator(raw_key(seed), "resample"), n)

    def predict(self, model: Model | None = None, n: int = 1000, seed: Seed = 0) -> dict[str, Array]:
        """Posterior predictive draws: what the model says of data not yet seen.

        Args:
          model: the same function applied to other arguments (other data, another number of rows,
            `y=None`); the fitted one if None.

        Returns:
          for each site that the posterior does not fix, observed and deterministic, `(n, ...)`. A site whose rows
          an encoder, or a guide program that has the model's own arguments, reads off `model` is one of them.
        """
        _check_count(n)
        model = model_of(self.target) if model is None else model
        predictive.check_in_memory(model)
        model = model.in_training(model_of(self.target).states, None)
        rng = host_generator(raw_key(seed), "posterior")
        values, z, anew = bound.transfer(self.guide, self.phi, self.target, model, rng, n)
        params, weights = packed_params(self.target), dict(zip(self.target.layout.movable, self.target.centred))
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
        _check_count(n)
        target, moved = self._moved(model, guide)
        return row_evidence.row_evidence(moved, self.phi, target, raw_key(seed), n)

    def amortisation_gap(
        self, model: Model | None = None, guide: Model | None = None, rows: int = 200, seed: Seed = 0
    ) -> row_evidence.AmortisationGap:
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
        return with_data(self.target, model), networks.with_data(self.guide, guide)

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
        return networks.encode(self.guide, self.phi, rows)

    def log_likelihood(self, n: int = 1000, seed: Seed = 0) -> dict[str, Array]:
        """The log density of each observation at `n` draws: `(n, rows)` for each observed site."""
        target = self.target
        model, params = model_of(target), packed_params(target)
        return predictive.log_likelihood(model, self._latent(n, seed), params, target.parts())

    def __repr__(self) -> str:
        return f"<Posterior of {self.target}: {type(self.guide).__name__}, ELBO {self.elbo}>"

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
        return jax.tree.map(np.asarray, bound.quadrature(self.guide, self.phi, self.target, rng, draws))


def _check_count(n: int) -> None:
    """Refuse to draw nothing."""
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}.")
