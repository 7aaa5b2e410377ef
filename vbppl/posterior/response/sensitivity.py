"""Sensitivity: how far the answer would move if a prior were wider, or a row of the data left out, to first order.

If a term `t(z)` of the log density counts `1 + w` times, the mean of any quantity `f` moves at the rate

    d E[f] / dw = Cov(f, t),        the covariance under the posterior.

A row left out is `t = log p(row | z)` with `w = -1` (the infinitesimal jackknife: Giordano et al. 2019, "A Swiss Army
Infinitesimal Jackknife"; Giordano and Broderick 2023, "The Bayesian Infinitesimal Jackknife for Variance"). A prior
whose scale is `e^s` times its own is, at `s = 0`, `t = -(x - loc) d log p / dx`; for a normal that is minus twice what
raising it to a power does (Kallioinen et al. 2023, "Detecting and diagnosing prior and likelihood sensitivity with
power-scaling"), and of priors that have no scale the latter is asked.

Where the guide is a normal, the covariance is that of linear response with third derivatives averaged to nothing,

    E[grad f]^T H^-1 E[grad t],        H = -E[Hess log density],

at its mean alone of a point (Giordano, Broderick and Jordan 2018, "Covariances, Robustness, and Variational Bayes").
One Hessian serves all terms, and each quantity takes one derivative along `H^-1 E[grad f]`, whatever the number of
rows. Elsewhere (weighted draws, chains, other guides) the covariance is that of the draws themselves.

It is a first-order answer: of a row that is alone in telling something it says too little, for in a linear regression
the mean moves by `1 / (1 - leverage)` times as much. Third derivatives would add a tenth in a logistic regression of 30
rows; draws of chains have them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.keys import host_generator
from vbppl.core.numerics.draws import latin_hypercube, whitened_draws
from vbppl.core.programs.compiling import in_batches
from vbppl.core.tables import Table, Tabled, labels, number
from vbppl.core.types import Array, PyTree
from vbppl.distributions.constraints.scalar import Positive
from vbppl.distributions.families.real import core_of
from vbppl.guides.base import Guide
from vbppl.guides.gaussian import normal_of
from vbppl.guides.noise import Nothing
from vbppl.inference import bound
from vbppl.posterior.report import Report, Unjudged
from vbppl.posterior.response.linear_response import is_mean_field
from vbppl.posterior.weighted_draws import values_of
from vbppl.target.axes import axes_of
from vbppl.target.batched import HEAVY
from vbppl.target.density import Term, Terms
from vbppl.target.target import Target, model_of

DENSE_DIM, AVERAGED, DRAWS = 512, 64, 4_000  # dims of a Hessian; draws that it is averaged over; of a covariance
MOST_NUMBERS = 2**26  # of rows times quantities
SHOWN = 8  # rows in the table
TOLD = 0.1  # sds that are put into words
PER_CENT = float(np.log(1.1))  # of a log scale: a prior that is a tenth wider


@dataclasses.dataclass(frozen=True, repr=False)
class Sensitivity(Tabled):
    """How far each quantity moves, in posterior sds, to first order; `(quantities,)` are in the order of `names`.

    Attributes:
      names: of the quantities: `mu`, `theta[3]`.
      sd: the posterior sd of each, the unit, `(quantities,)`.
      priors: for each latent site, per unit of the log of its prior's scale: `(quantities,)`. A prior that is a tenth
        wider moves the mean by about a tenth of that.
      rows: for each plate around observations, where the observations of one row are left out: `(rows, quantities)`.
        By its own name an observed site or factor that stands in no plate, as a whole: `(1, quantities)`.
      labels: what these rows are called: `y[3]`.
      how: from what it is found.
    """

    names: tuple[str, ...]
    sd: np.ndarray
    priors: Mapping[str, np.ndarray]
    rows: Mapping[str, np.ndarray]
    labels: Mapping[str, Sequence[str]]
    how: str

    @property
    def words(self) -> tuple[str, ...]:
        """Sentences on the priors and rows that move something by over a tenth of an sd, the farthest first."""
        found = [(self._farthest(move), text) for text, move in self._ordered_rows()]
        found += [
            (self._farthest(PER_CENT * move), f"with a prior of {n} 10% wider") for n, move in self.priors.items()
        ]
        found = [each for each in found if each[0] and abs(each[0][0][1]) >= TOLD]
        found.sort(key=lambda each: -abs(each[0][0][1]))
        return tuple(f"{text} {moves[0][0]} moves {moves[0][1]:+.2f} sd" for moves, text in found)

    @property
    def table(self) -> Table:
        """A line a prior, and one for each of the rows that move something farthest."""
        listed = [(f"prior of {name}, per log scale", move) for name, move in self.priors.items()]
        listed += self._ordered_rows()[:SHOWN]
        lines = []
        for text, move in listed:
            cells = [(name, f"{by:+.2f}") for name, by in self._farthest(move)]
            lines.append((text, *(cell for pair in cells for cell in pair)))
        left = sum(map(len, self.rows.values())) - SHOWN
        notes = [f"{self.how}; first order"]
        if left > 0:
            most = max(number(abs(self._farthest(move)[0][1])) for _, move in self._ordered_rows()[SHOWN : SHOWN + 1])
            notes.insert(0, f"{left:,} further rows, none of which moves anything by over {most} sd")
        head = ("", "moves", "sd", "and", "sd")
        return Table(head[: max(map(len, lines), default=1)], tuple(lines), (*self.words[:3], *notes), "<<><>")

    def _ordered_rows(self) -> list[tuple[str, np.ndarray]]:
        """As many as are shown, and all that are told of, and one more: those that move something farthest first."""
        every = [(np.abs(moves).max(axis=1), plate) for plate, moves in self.rows.items() if moves.size]
        found = []
        for far, plate in every:
            count = max(SHOWN + 1, int((far >= TOLD).sum()))
            found += [
                (far[i], f"without {self.labels[plate][i]}", self.rows[plate][i]) for i in np.argsort(-far)[:count]
            ]
        return [(text, move) for _, text, move in sorted(found, key=lambda each: -each[0])]

    def _farthest(self, move: np.ndarray) -> list[tuple[str, float]]:
        """The two quantities that move farthest, and by how much."""
        return [(self.names[i], float(move[i])) for i in np.argsort(-np.abs(move))[:2]]


class Sensitive:
    """The question that is answered here: a part of `Posterior`."""

    target: Target
    guide: Guide
    phi: PyTree
    report: Report | Unjudged
    is_corrected: bool

    def sd(self) -> dict[str, Any]:
        """See `Posterior`."""
        raise NotImplementedError

    def _of_a_point(self, names: Sequence[str]) -> tuple[str, ...]:
        """See `Framed`."""
        raise NotImplementedError

    def sensitivity(self, *names: str) -> Sensitivity:
        """How far the sites `names` (all if none) move, in sds, if a prior were wider or a row left out; no refit.

        >>> import numpy as np, vbppl as vb, vbppl.distributions as dist
        >>> @vb.model
        ... def heights(y):
        ...     mu = vb.sample("mu", dist.Normal(0.0, 1.0))
        ...     with vb.plate("person", len(y)):
        ...         vb.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> moved = vb.fit(heights(np.array([0.1, -0.2, 0.3, 5.0])), "full_rank").sensitivity()
        >>> moved.words
        ('without person[3] mu moves -1.77 sd', 'without person[1] mu moves +0.55 sd', \
'without person[0] mu moves +0.42 sd', 'without person[2] mu moves +0.33 sd')
        >>> moved.priors["mu"].round(2)  # per unit of the log of its scale
        array([0.93])

        The answer is to first order: exact in the limit of small changes, and too small for a row that is alone in
        telling something. Params, which have no prior, are held where they are. A mean-field guide and a point have
        no sds to go by, so theirs are those of the Hessian.

        Raises:
          ModelError: rows are read in parts; there are too many for the quantities asked for, or too many dims; the
            density has no strict maximum there; a site asked for is summed out, or a prior is a part of a sum over
            discrete sites; or there is no model.
          KeyError: there is no such site.
        """
        chosen = self._of_a_point(names)
        target, point = _checked_target(self.target, chosen), isinstance(self.guide.noise(self.target), Nothing)
        normal = None if point or self.is_corrected else normal_of(self.guide, self.phi)
        # What has too small sds of its own, or none, has no draws to go by.
        needs = point or (normal is not None and is_mean_field(self.guide))
        if needs and target.dim > DENSE_DIM:
            raise ModelError(
                f"sensitivity takes the Hessian in {target.dim:,} dims, and is for up to {DENSE_DIM}.",
                mend='Fit with "low_rank", or vb.refine the posterior: their draws are enough.',
            )
        if needs or (normal is not None and target.dim <= DENSE_DIM):
            at = np.asarray(self.phi, np.float64)[None] if normal is None else _points(normal, target)
            jacobian = not point or getattr(self.guide, "space", "") == "unconstrained"
            found, sd, how = _by_hessian(target, at, chosen, jacobian)
        else:
            found, sd, how = self._by_draws(target, chosen)
        if not needs:
            sds = self.sd()
            sd = np.concatenate([np.ravel(sds[name]) for name in chosen]).astype(np.float64)
        return _told(target, chosen, found, sd, how)

    def _by_draws(self, target: Target, names: tuple[str, ...]) -> tuple[_Moves, np.ndarray, str]:
        """By covariances of draws: those that are weighed, of chains, or of the guide."""
        if self.is_corrected and isinstance(self.report, Report):
            draws = self.report.draws
            z, weights = draws.z[draws.counting], draws.weights[draws.counting]
            weights, worth = weights / weights.sum(), draws.ess
        else:
            rng = host_generator(np.zeros(2, np.uint32), "sensitivity")
            z = bound.weighed_draws(self.guide, self.phi, target, rng, DRAWS).z
            weights, worth = np.full(len(z), 1 / len(z)), len(z)
        values = values_of(target, z)
        f = np.concatenate([values[name].reshape(len(z), -1) for name in names], axis=1).astype(np.float64)
        f = f - weights @ f
        dtype = jnp.result_type(float)
        found = _covariances(target, z.astype(dtype), np.asarray(weights[:, None] * f, dtype))
        return found, np.sqrt(weights @ f**2), f"from the covariances of {len(z):,} draws, worth {worth:,.0f}"


class _Moves(NamedTuple):
    """What moves with each term: of latent sites, of rows of plates, and of what stands outside; by their names."""

    priors: dict[str, Any]
    rows: dict[str, Any]
    whole: dict[str, Any]


def _checked_target(target: Target, names: Sequence[str]) -> Target:
    """The target, if its rows are at hand and few enough."""
    model_of(target)  # says so where there is none
    if target.sources:
        raise ModelError(
            f"sensitivity looks at each row, but the rows of {', '.join(target.sources)} are read in parts.",
            mend="Fit with the arrays themselves, where they fit into memory, without vb.Source or np.memmap.",
        )
    shapes = jax.eval_shape(target.constrain, jax.ShapeDtypeStruct((target.dim,), jnp.result_type(float)))
    scalars = sum(int(np.prod(shapes[name].shape)) for name in names)
    rows = sum(plate.size for plate in target.layout.plates)
    if rows * scalars > MOST_NUMBERS:
        raise ModelError(
            f"{rows:,} rows times {scalars:,} quantities do not fit in memory.",
            mend="Name the sites that matter: posterior.sensitivity('mu', 'tau').",
        )
    return target


def _points(normal: tuple[np.ndarray, np.ndarray], target: Target) -> np.ndarray:
    """Where derivatives are averaged: draws of a normal, exact in their moments."""
    (loc, factor), dim = normal, target.dim
    rng = host_generator(np.zeros(2, np.uint32), "sensitivity")
    draws = max(AVERAGED, 4 * dim if target.data_size <= HEAVY else 0)
    make = whitened_draws if draws >= 2 * dim else latin_hypercube
    return loc + make(rng, draws, dim) @ factor.T


def _by_hessian(target: Target, z: np.ndarray, names: tuple[str, ...], jacobian: bool) -> Any:
    """By one Hessian, averaged over the points `z`."""
    z = np.asarray(z, jnp.result_type(float))
    hessian, slopes = (np.asarray(each, np.float64) for each in _derivatives(target, z, names, jacobian))
    values, vectors = (
        np.linalg.eigh((hessian + hessian.T) / 2) if np.isfinite(hessian).all() else (np.full(1, np.nan), None)
    )
    if vectors is None or not values[0] > 0:
        raise ModelError(
            f"the log density has no strict maximum here: the least eigenvalue of its Hessian is {values[0]:.2g}.",
            mend="Look at posterior.check(), or vb.refine the posterior: of its draws sensitivity takes covariances.",
        )
    directions = vectors @ ((vectors.T @ slopes.T) / values[:, None])
    sd = np.sqrt(np.sum(slopes.T * directions, axis=0))
    found = _along(target, z, directions.astype(z.dtype).T)
    where = "at the mode" if len(z) == 1 else "averaged over the guide"
    return found, sd, f"from one Hessian, {where}"


@functools.partial(jax.jit, static_argnames=("names", "jacobian"))
def _derivatives(target: Target, z: Array, names: tuple[str, ...], jacobian: bool) -> tuple[Array, Array]:
    """Means over the points: of minus the Hessian, `(dim, dim)`, and of the slopes of the quantities, `(n, dim)`."""

    def density(z: Array) -> Array:
        return target.log_density(z, jacobian=jacobian)

    def values(z: Array) -> Array:
        found = target.run(z).reported
        return jnp.concatenate([jnp.ravel(found[name]).astype(z.dtype) for name in names])

    def one(total: PyTree, z: Array) -> tuple[PyTree, None]:
        columns = in_batches(lambda v: -jax.jvp(jax.grad(density), (z,), (v,))[1], jnp.eye(len(z), dtype=z.dtype), 64)
        return jax.tree.map(jnp.add, total, (columns, jax.jacrev(values)(z))), None

    size = len(jax.eval_shape(values, z[0]))
    zeros = jnp.zeros((target.dim, target.dim), z.dtype), jnp.zeros((size, target.dim), z.dtype)
    return jax.tree.map(lambda total: total / len(z), jax.lax.scan(one, zeros, z)[0])


@jax.jit
def _along(target: Target, z: Array, directions: Array) -> _Moves:
    """The derivative of each term along each direction, `(quantities, dim)`, averaged over the points."""

    def one(total: _Moves, z: Array) -> tuple[_Moves, None]:
        slope = jax.linearize(lambda z: _terms(target.run(z)), z)[1]
        return jax.tree.map(jnp.add, total, in_batches(slope, directions, 16)), None

    shapes = jax.eval_shape(lambda z: _terms(target.run(z)), z[0])
    zeros = jax.tree.map(lambda leaf: jnp.zeros((len(directions), *leaf.shape), leaf.dtype), shapes)
    return jax.tree.map(lambda total: total / len(z), jax.lax.scan(one, zeros, z)[0])


@jax.jit
def _covariances(target: Target, z: Array, weighted: Array) -> _Moves:
    """Of each quantity, centred and weighted, `(draws, quantities)`, with each term."""

    def one(total: _Moves, pair: tuple[Array, Array]) -> tuple[_Moves, None]:
        z, f = pair
        found = jax.tree.map(lambda t: jnp.multiply.outer(f, t), _terms(target.run(z)))
        return jax.tree.map(jnp.add, total, found), None

    shapes = jax.eval_shape(lambda z: _terms(target.run(z)), z[0])
    zeros = jax.tree.map(lambda leaf: jnp.zeros((weighted.shape[1], *leaf.shape), leaf.dtype), shapes)
    return jax.lax.scan(one, zeros, (z, weighted))[0]


def _terms(terms: Terms) -> _Moves:
    """What each prior adds as its scale grows, and what the observations of each row add: at one point."""
    found = _Moves({}, {}, {})
    for term in terms.terms:
        # A latent site has a distribution, an observed one and a factor have none.
        if term.is_summed:
            raise ModelError(
                "its prior depends on a discrete site and is summed with the observations, so that neither can be told "
                "apart.",
                site=term.name,
                mend="Fit again with another prior, or without a row, and compare.",
            )
        if term.dist is not None:
            found.priors[term.name] = _widened(term, terms.reported[term.name])
        elif not term.plates:
            found.whole[term.name] = term.log_density()
        else:
            dims = jnp.ndim(term.log_prob)
            for plate in term.plates:
                others = tuple(axis for axis in range(dims) if axis != dims + plate.dim)
                rows = jnp.sum(term.log_prob, axis=others)
                found.rows[plate.name] = found.rows.get(plate.name, 0.0) + rows * term.scale
    return found


def _widened(term: Term, value: Array) -> Array:
    """The derivative of the site's log prior by the log of its scale, up to a constant."""
    dist = term.dist
    if dist.location_scale is not None and core_of(dist).in_coordinates is None:
        loc = dist.location_scale[0]
    elif isinstance(dist.support, Positive):
        loc = 0.0
    else:
        # Has no scale: as of a normal, minus twice what a power does.
        return -2.0 * jnp.sum(dist.log_prob(value)) * term.scale
    slope = jax.grad(lambda value: jnp.sum(dist.log_prob(value)))(value)
    return -jnp.sum((value - loc) * slope) * term.scale


def _told(target: Target, names: tuple[str, ...], found: _Moves, sd: np.ndarray, how: str) -> Sensitivity:
    """In sds, with the names of all."""
    axes, dtype = axes_of(target), jnp.result_type(float)
    shapes = jax.eval_shape(target.constrain, jax.ShapeDtypeStruct((target.dim,), dtype))
    scalars = tuple(each for name in names for each in axes.names(name, shapes[name].shape))
    per_sd = np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > 0)
    priors = {name: np.asarray(move, np.float64) * per_sd for name, move in found.priors.items()}
    rows = {name: -(np.asarray(move, np.float64).T * per_sd) for name, move in found.rows.items()}
    rows |= {name: -(np.asarray(move, np.float64) * per_sd)[None] for name, move in found.whole.items()}
    called = {name: _called(name, len(rows[name]), axes) for name in found.rows}
    called |= {name: (name,) for name in found.whole}
    return Sensitivity(scalars, sd, priors, rows, called, how)


def _called(plate: str, size: int, axes: Any) -> Sequence[str]:
    return labels(plate, (size,), (axes.words_along(plate, size),))
