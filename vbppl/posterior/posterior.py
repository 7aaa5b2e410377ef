"""What a fit gives back: a distribution over the latent sites, and how it came about."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import of_kind, yes_or_no
from vbppl.core.keys import host_generator, raw_key
from vbppl.core.pytree import pytree, static
from vbppl.core.types import Array, PyTree, Seed
from vbppl.distributions.location_scale import Parameterisation
from vbppl.guides import networks
from vbppl.guides.base import Guide
from vbppl.inference import bound
from vbppl.inference.bound import Estimate
from vbppl.inference.solution import Solution, Status, in_its_precision
from vbppl.model import predictive
from vbppl.model.model import Model
from vbppl.posterior.by_row import ByRow, check_count
from vbppl.posterior.correction import Expectation, check_levels, expectation, resampled, variance, weighted_quantile
from vbppl.posterior.optimality_gap import optimality_gap
from vbppl.posterior.report import Report, Unjudged
from vbppl.posterior.response.linear_response import LinearResponse, is_mean_field, linear_response
from vbppl.posterior.response.sensitivity import Sensitive
from vbppl.posterior.summary import Framed, Summary, summarise
from vbppl.posterior.weighted_draws import log_prob_of_values, values_of
from vbppl.target.axes import axes_of
from vbppl.target.density import packed_params
from vbppl.target.target import Target, model_of, param_values

VALUES = 2**24  # numbers that the draws behind a table may hold


@pytree
class Posterior(ByRow, Framed, Sensitive):
    """What was solved and how good it is: a frozen pytree without hidden state.

    Values are on the sites' supports, by the sites' names; deterministic sites are included.
    It speaks of the best answer that there is: of the draws of chains where it was refined, of those that the judge has
    weighed where the verdict is "corrected", else through the guide.

    Attributes:
      solution: what the solver gave back.
      report: how good it is; `check()` returns it.
      corrects: whether a correction is used where there is one.
      calls: what made it, as lines of Python to be run again with `model`.
    """

    solution: Solution
    report: Report | Unjudged
    corrects: bool = static(default=True)
    calls: tuple[str, ...] = static(default=())

    @property
    def is_corrected(self) -> bool:
        """Does it speak of weighted draws, or of those of chains, in the place of the guide's?"""
        return self.corrects and self.report.replaces_guide

    def uncorrected(self) -> Posterior:
        """The guide alone, whatever the verdict."""
        calls = (*self.calls, "posterior = posterior.uncorrected()") if self.calls and self.corrects else self.calls
        return dataclasses.replace(self, corrects=False, report=self.report.of_guide, calls=calls)

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

    @in_its_precision
    def sample(self, n: int = 1000, seed: Seed = 0) -> dict[str, Any]:
        """`n` draws: for each site `(n, ...)`; the same for the same `seed`, an int or a JAX key.

        Independent ones of the guide; of weighted draws each as often as it weighs, of chains each once. Of these there
        is a limited number: beyond what they are worth some are repeated, which a warning says. Discrete latent sites,
        which the fit sums out, are drawn given the rest.
        """
        check_count(n)
        return self.target.complete(self._latent(n, seed), n, raw_key(seed))

    def mean(self) -> dict[str, np.ndarray | np.floating]:
        """The mean of each site; exact where the guide is Gaussian, not corrected, and the site is real."""
        values, weights = _table_draws(self)
        return {name: np.tensordot(weights, np.asarray(x, np.float64), 1)[()] for name, x in values.items()}

    def sd(self) -> dict[str, np.ndarray | np.floating]:
        """The standard deviation of each site; exact where `mean` is."""
        values, weights = _table_draws(self)
        return {name: np.sqrt(variance(np.asarray(x, np.float64), weights))[()] for name, x in values.items()}

    def quantiles(self, q: float | Sequence[float]) -> dict[str, np.ndarray]:
        """Quantiles of each site, `(..., )` for a number `q` and `(len(q), ...)` for several."""
        check_levels(q)
        values, weights = _table_draws(self)
        return {name: weighted_quantile(np.asarray(x, np.float64), weights, q) for name, x in values.items()}

    def expectation(self, f: Callable[[dict[str, Array]], Array]) -> Expectation:
        """The mean of a function of the sites, with its Monte Carlo error.

        >>> import vbppl as vb, vbppl.distributions as dist
        >>> @vb.model
        ... def one_number():
        ...     vb.sample("x", dist.Normal(1.0, 1.0))
        >>> positive = vb.fit(one_number()).expectation(lambda site: site["x"] > 0.0)
        >>> print(f"{positive.value:.2f}")  # Phi(1) = 0.841
        0.84

        Args:
          f: from one value of each site, `{"mu": (), "theta": (8,), ...}`, to an array; JAX maps it over the draws.
        """
        return expectation(f, *_table_draws(self), self.report.chains)

    def covariance(self, *names: str) -> np.ndarray:
        """The covariance matrix of all scalars of the sites `names` (all sites if none), in order."""
        values, weights = _table_draws(self)
        columns = [np.asarray(values[name], np.float64) for name in self._checked(names)]
        flat = np.concatenate([column.reshape(len(column), -1) for column in columns], axis=1)
        return np.atleast_2d(np.cov(flat, rowvar=False, ddof=0, aweights=weights))

    def log_prob(self, values: Mapping[str, Any]) -> Array:
        """The guide's log density at `values`, never corrected: a scalar, or `(n,)` for draws.

        Stands on the same footing as `model.log_joint`: the mean over draws of `posterior.uncorrected()` of
        `log_joint - log_prob` is the ELBO.
        """
        of_kind("values", values, isinstance(values, Mapping), "a dict of values by the sites' names")
        return log_prob_of_values(self.guide, self.phi, self.target, values)

    @property
    def params(self) -> dict[str, Any]:
        """The learnt params of the model, and of a guide that has some, shaped like their `init`."""
        return {**param_values(self.target), **networks.param_values(self.guide, self.phi)}

    def summary(self, *names: str) -> Summary:
        """A table of means, sds and quantiles of the sites `names` (all if none); then the report card.

        Learnt params stand under the sites, by their labels: a value without an sd. Those of networks are counted.

        Raises:
          KeyError: there is no such site or param.
        """
        params = {n: each for n, each in packed_params(self.target).items() if not names or n in map(str, names)}
        sites = tuple(name for name in names if str(name) not in params)
        notes = [f"{type(self.guide).__name__} guide, {self.target.dim} dims"]
        notes += self.report.beside(self.solution).lines()
        values, weights = _table_draws(self)
        shares = weights if self.is_corrected else None
        chosen = {name: values[name] for name in (self._checked(sites) if sites or not names else ())}
        return summarise(chosen, notes, shares, self.report.chains, axes_of(self.target), params)

    def check(self, gap: bool = False) -> Report:
        """The report card: the verdict, why, and the numbers behind it; a TypeError of a point, which has none.

        Args:
          gap: also bound how far below the best of its family the fit may lie, by four further fits.
        """
        yes_or_no("gap", gap)
        if isinstance(self.report, Unjudged):
            raise TypeError(f"{self.report.why}.")
        report = self.report.beside(self.solution)
        if not gap:
            return report
        found = optimality_gap(self.target, self.guide, self.phi, self.elbo, np.zeros(2, np.uint32))
        return dataclasses.replace(report, gap=found)

    def linear_response(self, *names: str) -> LinearResponse:
        """Covariances of the sites `names` (all if none), corrected for what mean field leaves out.

        Where the posterior is near Gaussian they are right although the guide's own standard deviations are
        too small; `available` is False, with the reason, where the bound has no strict maximum.

        Raises:
          TypeError: the guide is not mean-field.
          ModelError: a site asked for is summed out.
        """
        if not is_mean_field(self.guide):
            raise TypeError(f"linear response corrects a mean-field guide, not {type(self.guide).__name__}.")
        loc, log_sd = np.asarray(self.phi, np.float64)
        rng = host_generator(np.zeros(2, np.uint32), "linear response")
        return linear_response(self.target, loc, log_sd, self._of_a_point(names), rng)

    @in_its_precision
    def resample(self, n: int = 1000, seed: Seed = 0) -> dict[str, Any]:
        """`n` draws of `seed` weighed by importance, whatever the verdict: as `sample` of weighted draws or of chains.

        Raises:
          ValueError: the weights cannot be trusted; the message says by how much.
        """
        check_count(n)
        if isinstance(self.report, Unjudged) or not (self.report.chains or self.report.draws.trusted):
            worth = "" if isinstance(self.report, Unjudged) else self.report.draws.worth
            raise ValueError(f"importance weights cannot repair this guide{worth}. See posterior.check().")
        found = resampled(self.target, self.report.draws, host_generator(raw_key(seed), "resample"), n)
        return self.target.complete(found, n, raw_key(seed))

    @in_its_precision
    def predict(
        self, model: Model | None = None, n: int = 1000, seed: Seed = 0, draws: Mapping[str, Any] | None = None
    ) -> dict[str, Array]:
        """Posterior predictive draws: what the model says of data not yet seen.

        Args:
          model: the same function applied to other arguments (other data, another number of rows,
            `y=None`); the fitted one if None.
          n: how many.
          seed: of what is drawn.
          draws: values of the latent sites to predict from, `(draws, ...)` each, in the place of the posterior's own.

        Returns:
          for each site that the posterior does not fix, observed and deterministic, `(n, ...)`. A site whose rows
          an encoder, or a guide program that has the model's own arguments, reads off `model` is one of them.
        """
        check_count(n)
        model = model_of(self.target) if model is None else model
        of_kind("draws", draws, draws is None or isinstance(draws, Mapping), "a dict of draws by the sites' names")
        predictive.check_in_memory(model)
        model = model.in_training(model_of(self.target).states, None)
        values, z, anew = _transfer(self, model, n, seed, draws)
        forms = {name: Parameterisation(each.weight) for name, each in self.target.parameterisations.items()}
        return predictive.predict(model, values, packed_params(self.target), raw_key(seed), n, z, forms, anew)

    @in_its_precision
    def log_likelihood(self, n: int = 1000, seed: Seed = 0) -> dict[str, Array]:
        """The log density of each observation, in nats, at `n` draws of `seed`: `(n, rows)` for each observed site.

        Discrete latent sites are summed out: what depends on one has a log density for each row of it. Where several
        observed sites do, each is given those before it, so that their sum is the density of all.
        """
        check_count(n)
        latent, params = self._latent(n, seed), packed_params(self.target)
        return predictive.log_likelihood(model_of(self.target), latent, params, self.target.parts())

    def __repr__(self) -> str:
        return f"<Posterior of {self.target}: {type(self.guide).__name__}, ELBO {self.elbo}>"

    def __str__(self) -> str:
        return str(self.summary())

    def _repr_html_(self) -> str:
        return _page(self)

    def _latent(self, n: int, seed: Seed = 0) -> dict[str, Any]:
        """Draws of all but what depends on discrete sites."""
        if self.is_corrected and isinstance(self.report, Report):
            return resampled(self.target, self.report.draws, host_generator(raw_key(seed), "resample"), n)
        return bound.sample(self.guide, self.phi, self.target, host_generator(raw_key(seed), "posterior"), n)


def _transfer(
    posterior: Posterior, model: Model, n: int, seed: Seed, draws: Mapping[str, Any] | None
) -> networks.Transfer:
    """Draws of the latent sites at the data of `model`: those given, the guide's at these data, or the answer's."""
    layout = posterior.target.layout
    names = [*(slot.name for slot in layout.slots), *layout.summed]
    if draws is None:
        rng = host_generator(raw_key(seed), "posterior")
        read_anew = networks.at_other_data(posterior.guide, posterior.phi, posterior.target, model, rng, n)
        if read_anew is not None:
            return read_anew
        draws = posterior.sample(n, seed)
    missing = [name for name in names if name not in draws]
    if missing:
        raise KeyError(f"draws have no site {missing[0]!r}; the latent sites are {', '.join(names)}.")
    return networks.Transfer({name: jnp.asarray(draws[name]) for name in names})


def _page(posterior: Posterior) -> str:
    """What a notebook shows of it: the table, and the report card below."""
    table = dataclasses.replace(posterior.summary(), notes=())._repr_html_()
    report = posterior.report.beside(posterior.solution)._repr_html_()
    return f"<p>{html.escape(repr(posterior)[1:-1])}</p>{table}{report}"


@in_its_precision
def _table_draws(posterior: Posterior) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Draws with weights that sum to one; moment-exact ones of the guide. The same at each call."""
    target, numbers = posterior.target, np.zeros(2, np.uint32)
    most = int(np.clip(VALUES // max(target.dim + target.layout.tables, 1), 256, 4096)) // 2 * 2
    if posterior.is_corrected and isinstance(posterior.report, Report):
        draws = posterior.report.draws
        at, weights = np.flatnonzero(draws.counting), draws.weights[draws.counting]
        if target.layout.summed and len(at) > most:  # each has a value in every row
            at, weights = draws.chosen(host_generator(numbers, "table"), most), np.ones(most)
        values = target.complete(values_of(target, draws.z[at]), len(at))
        return jax.tree.map(np.asarray, values), weights / weights.sum()
    values = bound.quadrature(posterior.guide, posterior.phi, target, host_generator(numbers, "table"), most)
    return jax.tree.map(np.asarray, target.complete(values, most)), np.full(most, 1 / most)
