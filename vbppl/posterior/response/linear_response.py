"""Linear response: the covariances that a mean-field fit misses, from how it would answer a nudge.

A mean-field optimum `eta = (loc, log sd)` moves when the log density is tilted by `t f`; to first
order in `t`, the mean of any quantity then moves by

    Cov(f1, f2) = (d E_q[f1] / d eta)^T  H^-1  (d E_q[f2] / d eta),      H = Hess J(eta),

where `J` is the negated bound on fixed draws `z_n = loc + sd e_n` (Giordano, Broderick and Jordan
2018, "Covariances, Robustness, and Variational Bayes", theorem 1). For a Gaussian density these are
the exact covariances, which mean field alone cannot have. With `H_n = Hess l(z_n)` and `s_n = sd e_n`,

    H_loc,loc = -mean H_n,   H_loc,sd = -mean H_n diag(s_n),
    H_sd,sd   = -mean diag(s_n) H_n diag(s_n) - diag(mean s_n g_n).

Up to `DENSE_DIM` dimensions `H` is formed and factored. Columns of `H_n` are differences of the gradient, which is
compiled already, a quarter and half a standard deviation away, extrapolated to none (Richardson). Second derivatives,
a program of their own, are asked for only where these leave the least eigenvalue in doubt. Beyond, each quantity is
solved for by conjugate gradients on Hessian-vector products. Where `H` is not positive definite there is no linear
response, and none is made up.

`curvature` is the same with third derivatives averaged to nothing: `K = -sd E[Hess l] sd` has a diagonal of ones at
the optimum, and the covariance is `sd K^-1 sd`. It costs gradients only, so every mean-field fit is judged by it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.keys import host_generator
from vbppl.core.numerics.draws import latin_hypercube, whitened_draws
from vbppl.core.programs.compiling import ByWork, in_batches
from vbppl.core.tables import Table, Tabled, number
from vbppl.core.types import Array, PyTree
from vbppl.guides.base import Guide
from vbppl.guides.gaussian import MeanField
from vbppl.posterior.quantities import Worst, weightless
from vbppl.posterior.weighted_draws import WeightedDraws
from vbppl.target.axes import axes_of, coordinate_names
from vbppl.target.batched import HEAVY, evaluate, hessian_times
from vbppl.target.target import Target, shapes_of, with_fixed_parameterisations

DENSE_DIM = 128
DRAWS = 64
STEPS, WEIGHTS = (0.25, 0.5), (4 / 3, -1 / 3)  # sds, and what their differences count: errors of the fourth order
CLEAR = 1e-3  # the least eigenvalue, as a share of the largest, beside which the differences' rounding is nothing
CG_STEPS, CG_TOLERANCE = 500, 1e-6
SMALLEST = 1e-8  # of the largest eigenvalue, in units of the guide's own sds
AT_ONCE = 64  # scalars whose slopes are found side by side
MOST_NUMBERS = 2**26  # of the covariance and of the slopes: half a gigabyte each
CURVATURE_DIM, NAMED = 64, 5  # dims up to which curvature is looked at; coordinates that are named
FEW = 8  # sites, and numbers of one, for which nobody waits long


def is_mean_field(guide: Guide) -> TypeGuard[MeanField]:
    """Whether linear response has something to correct: the only question about a guide's family here."""
    return isinstance(guide, MeanField)


@dataclasses.dataclass(frozen=True, repr=False)
class LinearResponse(Tabled):
    """Covariances of constrained quantities by linear response.

    Attributes:
      names: a label for each scalar, in order.
      covariance: `(scalars, scalars)`; empty where it is not available.
      reason: why it is not available; empty where it is.
    """

    names: tuple[str, ...]
    covariance: np.ndarray
    reason: str = ""

    @property
    def available(self) -> bool:
        """Is there an answer?"""
        return not self.reason

    @property
    def sd(self) -> np.ndarray:
        """The standard deviation of each scalar, `(scalars,)`."""
        if self.reason:
            raise ValueError(f"{self._unavailable}.")
        return np.sqrt(np.diagonal(self.covariance))

    @property
    def table(self) -> Table:
        """The standard deviations."""
        if self.reason:
            return Table(("", "sd"), (), (self._unavailable,))
        return Table(("", "sd"), tuple((name, number(sd)) for name, sd in zip(self.names, self.sd)))

    @property
    def _unavailable(self) -> str:
        return f"linear response is not available: {self.reason}"

    def __repr__(self) -> str:
        return self._unavailable if self.reason else str(self.table)


def linear_response(
    target: Target, loc: np.ndarray, log_sd: np.ndarray, names: Sequence[str], rng: np.random.Generator
) -> LinearResponse:
    """Covariances of all scalars of the sites `names` at the mean-field optimum `(loc, log_sd)`.

    Raises:
      ModelError: there are so many scalars that their covariances do not fit in memory.
    """
    # Second derivatives in coordinates that are data take three times as long to compile.
    fixed, dim, dtype = with_fixed_parameterisations(target), target.dim, jnp.result_type(float)
    draws = max(DRAWS, 4 * dim) if dim <= DENSE_DIM else DRAWS
    # Fewer draws than two a dimension cannot have exact second moments.
    make = whitened_draws if draws >= 2 * dim else latin_hypercube
    noise = make(rng, draws, dim).astype(dtype)
    eta = np.concatenate([loc, log_sd]).astype(dtype)
    labels, slopes = _slopes(fixed, eta, noise, tuple(names))
    # In units of the guide's own sds the Hessian of a Gaussian density with no correlations is the identity.
    units = np.concatenate([np.exp(log_sd), np.full(dim, 0.5**0.5)])
    scaled = slopes.astype(np.float64) * units
    if dim <= DENSE_DIM:
        values, vectors = _eigen(_by_differences(target, eta, noise))
        if not values[0] > CLEAR * values[-1]:
            values, vectors = _eigen(np.asarray(_hessian(fixed, eta, noise), np.float64) * units[:, None] * units)
        solved, reason = _solve_densely(values, vectors, scaled)
    else:
        solved, reason = _solve_by_cg(fixed, eta, noise, units, scaled)
    return LinearResponse(labels, scaled @ solved if not reason else np.zeros((0, 0)), reason)


def _solve_densely(values: np.ndarray, vectors: np.ndarray, slopes: np.ndarray) -> tuple[np.ndarray, str]:
    if not np.isfinite(values).all():
        return slopes.T, "the Hessian of the bound is not finite"
    if values[0] <= SMALLEST * values[-1]:
        return slopes.T, f"the Hessian of the bound is not positive definite (least eigenvalue {values[0]:.2g})"
    return vectors @ ((vectors.T @ slopes.T) / values[:, None]), ""


def _eigen(hessian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, rising, and eigenvectors; not numbers where the Hessian is not finite."""
    if not np.isfinite(hessian).all():
        return np.full(len(hessian), np.nan), hessian
    return np.linalg.eigh((hessian + hessian.T) / 2)


def _by_differences(target: Target, eta: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """`H` in units of the guide's own sds, `(2 dim, 2 dim)`, by gradients alone."""
    (loc, log_sd), noise = np.split(eta.astype(np.float64), 2), noise.astype(np.float64)
    sd, draws, dim = np.exp(log_sd), *noise.shape
    found, half = np.zeros((2 * dim, 2 * dim)), 0.5**0.5
    signed = np.array([sign * step for step in STEPS for sign in (1, -1)])
    for j in range(dim):
        at = np.repeat(noise[None], len(signed), axis=0)
        at[:, :, j] += signed[:, None]
        points = (loc + sd * at).astype(eta.dtype).astype(np.float64)  # the steps that are really taken
        slope = (evaluate(target, points.reshape(-1, dim))[1] * sd).reshape(len(STEPS), 2, draws, dim)
        away = (points[::2, :, j] - points[1::2, :, j]) / sd[j]
        column = np.tensordot(WEIGHTS, (slope[:, 0] - slope[:, 1]) / away[..., None], 1)  # of sd H_n sd, `(draws, dim)`
        found[:dim, j] = -column.mean(axis=0)
        found[dim:, j] = -half * (noise * column).mean(axis=0)
        found[:dim, dim + j] = -half * (noise[:, j, None] * column).mean(axis=0)
        found[dim:, dim + j] = -(noise * column * noise[:, j, None]).mean(axis=0) / 2
    slope = evaluate(target, loc + sd * noise)[1] * sd
    found[dim:, dim:] -= np.diag((noise * slope).mean(axis=0)) / 2
    return found


def _solve_by_cg(
    target: Target, eta: np.ndarray, noise: np.ndarray, units: np.ndarray, slopes: np.ndarray
) -> tuple[np.ndarray, str]:
    solved = np.zeros_like(slopes)
    for i, slope in enumerate(slopes):
        x, rest, direction = np.zeros_like(slope), slope.copy(), slope.copy()
        for _ in range(CG_STEPS):
            if rest @ rest <= CG_TOLERANCE**2 * (slope @ slope):
                break
            product = units * np.asarray(hessian_times(target, eta, noise, (units * direction).astype(eta.dtype)))
            curvature = direction @ product
            # Here a step of negative curvature is no step but the end: see the head of this file.
            if not curvature > 0:
                return solved.T, f"the Hessian of the bound is not positive definite (curvature {curvature:.2g})"
            length = (rest @ rest) / curvature
            x, new = x + length * direction, rest - length * product
            direction, rest = new + (new @ new) / (rest @ rest) * direction, new
        else:
            return solved.T, f"conjugate gradients did not converge in {CG_STEPS} steps"
        solved[i] = x
    return solved.T, ""


def _slopes(
    target: Target, eta: np.ndarray, noise: np.ndarray, names: tuple[str, ...]
) -> tuple[tuple[str, ...], np.ndarray]:
    """`d E_q[f] / d eta` for each scalar `f` of the sites: their labels, and `(scalars, 2 dim)`."""
    shapes, known = shapes_of(target), axes_of(target)
    found = tuple(each for name in names for each in known.names(name, shapes[name]))
    if len(found) * max(len(found), len(eta)) > MOST_NUMBERS:
        raise ModelError(
            f"the covariances of {len(found):,} scalars in {target.dim:,} dims do not fit in memory.",
            mend="Name the sites that matter: posterior.linear_response('mu', 'tau').",
        )
    return found, np.asarray(_mean_slopes(target, eta, noise, names))


@functools.partial(ByWork, static_argnames="names")
def _mean_slopes(target: Target, eta: Array, noise: Array, names: tuple[str, ...]) -> Array:
    """Backwards from each scalar, some at a time: all at once would hold `(scalars, draws, dim)` numbers."""

    def means(eta: Array) -> Array:
        loc, log_sd = jnp.split(eta, 2)
        values = target.constrain(loc + jnp.exp(log_sd) * noise)
        return jnp.concatenate([values[name].mean(axis=0).reshape(-1) for name in names])

    mean, pull = jax.vjp(means, eta)
    one = lambda i: pull(jnp.zeros_like(mean).at[i].set(1))[0]  # noqa: E731
    return in_batches(one, jnp.arange(len(mean)), AT_ONCE)


@ByWork
def _hessian(target: Target, eta: Array, noise: Array) -> Array:
    """All columns, some at a time: forward over reverse."""
    columns = jnp.eye(len(eta), dtype=eta.dtype)
    return in_batches(lambda v: hessian_times(target, eta, noise, v), columns, 8)


class Curvature(NamedTuple):
    """Of a mean-field guide's bound, on average over the guide.

    Attributes:
      widened: the coordinates whose sds correlations would widen most, and by what factor.
      least: the least eigenvalue of `K`; not a number where it was not looked at.
      factor: `L`, where `L L^T` is the covariance by linear response; None where there is none.
    """

    widened: tuple[Worst, ...] = ()
    least: float = np.nan
    factor: np.ndarray | None = None


def curvature(guide: Guide, phi: PyTree, target: Target, raw_key: np.ndarray) -> Curvature:
    """What correlations would do to the sds of a mean-field guide: see `K` above."""
    if not is_mean_field(guide) or not 1 < target.dim <= CURVATURE_DIM or target.data_size > HEAVY:
        return Curvature()
    noise = whitened_draws(host_generator(raw_key, "curvature"), max(64, 4 * target.dim), target.dim)
    sd = np.asarray(guide.sd(phi), np.float64)
    # Stein's lemma: the expected Hessian from gradients, -E[Hess l] sd = -E[g e^T], exact in second moments.
    gradient = evaluate(target, np.asarray(guide.loc(phi), np.float64) + sd * noise)[1] * sd
    cross = -gradient.T @ noise / len(noise)
    if not np.isfinite(cross).all():
        return Curvature()
    values, vectors = np.linalg.eigh((cross + cross.T) / 2)
    # Along a direction of negative curvature the bound has no maximum, so there is no covariance to tell.
    if values[0] <= 0:
        return Curvature(least=float(values[0]))
    # The diagonal of K^-1: variances by linear response over those of the guide.
    ratios = np.sqrt(vectors**2 @ (1 / values))
    widest = np.argsort(-ratios)[:NAMED]
    names = coordinate_names(target)
    named = tuple(Worst(float(ratios[i]), names[i]) for i in widest)
    return Curvature(named, float(values[0]), sd[:, None] * vectors / np.sqrt(values))


def to_respond(guide: Guide, draws: WeightedDraws, target: Target) -> list[str]:
    """The advice, where draws tell nothing, to ask for the sds of the sites of few numbers in no plate, if few too."""
    few = [repr(slot.name) for slot in target.layout.slots if not slot.plates and slot.stop - slot.start <= FEW]
    asked = f"posterior.linear_response({', '.join(few)}), sds with correlations"
    return [asked] if is_mean_field(guide) and weightless(draws) and 0 < len(few) <= FEW else []
