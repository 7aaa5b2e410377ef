"""Simulation-based calibration: is the posterior right on average, over data that the model itself makes?

Draw parameters from the prior and data from the model, fit, and ask which rank the true parameter has among
draws of its posterior. If model and inference are right, the ranks are uniform (Talts, Betancourt, Simpson,
Vehtari and Gelman 2018, "Validating Bayesian Inference Algorithms with Simulation-Based Calibration",
theorem 1). All fits advance side by side.

Uniformity is tested by Neyman's smooth test: with `u` the rank scaled to (0, 1) and `b_j` the first four
orthonormal Legendre polynomials, `sum_j (sum_i b_j(u_i))^2 / n` is chi-square with four degrees of freedom.
The first two terms have a meaning of their own: a bias of the means, and sds that are too small or too large.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from vbppl.core.errors import ModelError, whole_number
from vbppl.core.keys import host_generator, raw_key
from vbppl.core.tables import Table, Tabled
from vbppl.core.types import Seed
from vbppl.fitting.fit_many import solved_side_by_side
from vbppl.fitting.plan import GuideName, check_call
from vbppl.fitting.progress import watching
from vbppl.guides.base import Guide
from vbppl.inference.bound import sample
from vbppl.inference.deterministic.problem import Deterministic
from vbppl.model.model import Model, check_applied
from vbppl.model.trace import abstract_sites
from vbppl.target.axes import axes_of
from vbppl.target.target import Target

DRAWS = 127  # of each posterior: a rank is one of 128
LEVEL = 0.01  # of the test of all scalars together
UNCONVERGED = 0.05  # of the fits may end without converging
BANDS = 400  # simulations behind the band of the picture


@dataclasses.dataclass(frozen=True, repr=False)
class Calibration(Tabled):
    """The ranks of the true parameters, and what they say.

    Attributes:
      names: a label for each scalar, `(scalars,)`.
      ranks: how many of the posterior's draws lie below the truth, `(n, scalars)`.
      draws: how many draws there were of each posterior.
      unconverged: how many of the fits did not converge.
      weighted: the sites with weights, which count in the fits and not in draws: ranks are even only where all are 1.
    """

    names: tuple[str, ...]
    ranks: np.ndarray
    draws: int
    unconverged: int
    weighted: tuple[str, ...] = ()

    @property
    def components(self) -> np.ndarray:
        """The scaled sums of the four Legendre polynomials, each standard normal if all is right: `(scalars, 4)`."""
        u = 2 * (self.ranks + 0.5) / (self.draws + 1) - 1
        # The variance of a discrete rank is a little smaller than that of a uniform variable; 128 ranks: 6e-5.
        polynomials = (u, (3 * u**2 - 1) / 2, (5 * u**3 - 3 * u) / 2, (35 * u**4 - 30 * u**2 + 3) / 8)
        scaled = [np.sqrt(2 * j + 3) * values.sum(axis=0) for j, values in enumerate(polynomials)]
        return np.stack(scaled, axis=1) / np.sqrt(len(u))

    @property
    def p_values(self) -> np.ndarray:
        """The probability of ranks as uneven as these, if all is right, `(scalars,)`."""
        half = np.sum(self.components**2, axis=1) / 2
        return np.exp(-half) * (1 + half)  # the tail of chi-square with 4 degrees of freedom

    @property
    def are_even(self) -> np.ndarray:
        """Of which scalars the ranks are not uneven, at 1% for all of them together, `(scalars,)`."""
        return self.p_values * len(self.names) >= LEVEL

    @property
    def band(self) -> np.ndarray:
        """How far from the uniform one 95% of distribution functions of uniform ranks stay throughout, `(draws,)`."""
        at = np.arange(1, self.draws + 1) / (self.draws + 1)
        return _band(len(self.ranks), self.draws) * np.sqrt(at * (1 - at) / len(self.ranks))

    @property
    def passed(self) -> bool:
        """Whether no scalar's ranks are uneven, at 1% for all of them together (Bonferroni), of fits that converged."""
        return bool(self.are_even.all() and self.unconverged <= UNCONVERGED * len(self.ranks))

    @property
    def table(self) -> Table:
        """A line a scalar, then the verdict."""
        told = zip(self.names, self.p_values, self.components)
        rows = [(name, f"{p:.4f}", self._says(p, bias, spread)) for name, p, (bias, spread, *_) in told]
        verdict = "passed" if self.passed else "not calibrated"
        notes = [f"{verdict}: {len(self.ranks)} fits, {self.draws + 1} ranks, {len(self.names)} scalars"]
        notes += [f"{self.unconverged} fits did not converge"] * bool(self.unconverged)
        sites = ", ".join(f"'{name}'" for name in self.weighted)
        if sites:
            notes.append(
                f"the weights of {sites} count in fits, not in the data drawn: ranks are even only where they are 1"
            )
        return Table(("", "p-value", "says"), tuple(rows), tuple(notes), align="<><")

    def _says(self, p: float, bias: float, spread: float) -> str:
        if p * len(self.names) >= LEVEL:
            return "uniform"
        words = []
        if abs(bias) > 3:
            words.append(f"means too {'low' if bias > 0 else 'high'}")
        if abs(spread) > 3:
            words.append(f"sds too {'small' if spread > 0 else 'large'}")
        return ", ".join(words) or "of another shape"


def calibrate(
    model: Model,
    n: int = 1000,
    *,
    fitted: Model | None = None,
    guide: GuideName | Guide = "auto",
    draws: int = DRAWS,
    seed: Seed = 0,
    progress: bool | None = None,
) -> Calibration:
    """Draw parameters and data from `model`, fit all the data sets, and test the ranks of the parameters.

    >>> import vbppl as vb, vbppl.distributions as dist
    >>> @vb.model
    ... def one_number(y=None):
    ...     x = vb.sample("x", dist.Normal(0.0, 1.0))
    ...     vb.sample("y", dist.Normal(x, 1.0), obs=y)
    >>> vb.calibrate(one_number(y=0.0), n=200).passed
    True

    Args:
      model: a model applied to data of the shapes wanted; the numbers of its observations do not matter.
      n: how many data sets.
      fitted: the model that is fitted, where it is not the one that makes the data.
      guide: as in `vb.fit`.
      draws: of each posterior.
      seed: an int or a JAX key.
      progress: as in `vb.fit`.

    Raises:
      ModelError: the model observes nothing, or cannot be fitted on fixed draws.
    """
    check_applied(model)
    check_applied(model if fitted is None else fitted, "fitted")
    whole_number("draws", draws)
    check_call(None, progress, None)
    raw, fitted = raw_key(seed), model if fitted is None else fitted
    observed = [name for name in Target.of(model).layout.observed if name in model.sample(1)]
    if not observed:
        raise ModelError("the model observes nothing, so there is nothing to learn from.", mend="Give it data.")
    truth = jax.tree.map(np.asarray, model.sample(n, seed))
    models = [fitted.condition({name: truth[name][i] for name in observed}) for i in range(n)]
    latent = [slot.name for slot in Target.of(models[0]).layout.slots if slot.name in truth]
    ranks, unconverged = [], 0
    with watching(progress) as watch:
        for i, fit in enumerate(solved_side_by_side(models, guide, Deterministic(), [raw] * n, watch)):
            unconverged += not fit.status.converged
            values = sample(fit.guide, fit.phi, fit.target, host_generator(raw, f"ranks {i}"), draws)
            below = [(np.asarray(values[name]) < truth[name][i]).sum(axis=0).ravel() for name in latent]
            ranks.append(np.concatenate(below))
            if fit.status.was_cut_short:
                raise KeyboardInterrupt
    known = axes_of(Target.of(models[0]))
    names = [each for name in latent for each in known.names(name, truth[name].shape[1:])]
    weighted = tuple(name for name, site in abstract_sites(fitted).items() if site.counts == "weighted")
    return Calibration(tuple(names), np.array(ranks), draws, unconverged, weighted)


def _band(n: int, draws: int) -> float:
    """The half-width, in pointwise sds, of a band that holds 95% of uniform ranks' ECDFs, by simulation."""
    rng = np.random.default_rng(0)
    at = np.arange(1, draws + 1) / (draws + 1)
    widest = [
        (
            np.abs(np.cumsum(rng.multinomial(n, np.full(draws + 1, 1 / (draws + 1))))[:-1] / n - at)
            / np.sqrt(at * (1 - at) / n)
        ).max()
        for _ in range(BANDS)
    ]
    return float(np.quantile(widest, 0.95))
