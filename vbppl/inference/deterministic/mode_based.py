"""Gaussians from the path to a mode: Laplace's approximation and Pathfinder.

Both climb the log density itself by L-BFGS. Laplace takes the last point and the inverse of the
exact Hessian there. Pathfinder looks at every point on the way, builds the Gaussian
`N(z + H grad l(z), H)` with the inverse Hessian estimate `H` that L-BFGS has there, and keeps the one with
the highest bound (Zhang, Carpenter, Gelman and Vehtari 2022, "Pathfinder: Parallel Quasi-Newton
Variational Inference", algorithm 1): where a density's mode lies far from its mass, an early point
is better than the last.

They are quick and rough; the report card says how rough.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.keys import host_generator
from vbppl.core.numerics import lbfgs, natural_gradient
from vbppl.core.numerics.draws import whitened_draws
from vbppl.core.types import Array
from vbppl.guides.gaussian import FullRank, Laplace, Pathfinder
from vbppl.inference.solution import Progress, Solution, Status
from vbppl.target.batched import Batch, Density
from vbppl.target.target import Target

STEPS = 1000
DRAWS = 32


def run(
    target: Target,
    guide: Laplace | Pathfinder,
    starts: np.ndarray,
    raw_key: np.ndarray,
    watch: Callable[[Progress], None] | None = None,
) -> Solution:
    """Fit `guide` from the best of `starts`, `(starts, dim)`."""
    climb = _Climb(target, starts.astype(np.float64), watch, keep_path=isinstance(guide, Pathfinder))
    best = int(np.argmin(climb.ends.value))
    if isinstance(guide, Laplace):
        loc, factor = _laplace(target, climb.ends.x[best])
        text = "the mode and the inverse Hessian there"
    else:
        loc, factor = climb.best_on_the_path(host_generator(raw_key, "pathfinder"))
        text = f"the best of {len(climb.path)} Gaussians on the way to the mode"
    converged = bool(climb.ends.decrement[best] <= climb.tolerance or climb.ends.stuck[best])
    phi = FullRank().of(loc, factor).astype(climb.dtype)
    said = text if converged else f"{text}; the mode was not reached in {STEPS} steps"
    gradients = int(climb.lanes.density.gradients.sum())
    status = Status("mode" if converged else "capped", converged, said, len(climb.values), gradients)
    return Solution({"guide": phi, "model": target.params}, np.array(climb.values), status)


class _Climb:
    """The way uphill from each start, all side by side, and the Gaussians passed on it."""

    def __init__(self, target: Target, starts: np.ndarray, watch: Callable[[Progress], None] | None, keep_path: bool):
        self.target, self.watch, self.keep_path = target, watch, keep_path
        self.dtype = jnp.result_type(float)
        self.tolerance = max(1e-10, float(jnp.finfo(self.dtype).eps))
        self.path: list[tuple[np.ndarray, np.ndarray]] = []  # mean and factor
        self.values: list[float] = []
        self.began = time.perf_counter()
        centred = np.broadcast_to(np.asarray(target.centred), (len(starts), *np.shape(target.centred)))
        self.lanes = Batch(Density([target]), np.zeros(len(starts), int), centred)
        self.ends = lbfgs.minimise(
            self._negated, starts, np.ones_like, self._rounding, self.tolerance, STEPS, _longest, self._note
        )

    def best_on_the_path(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Mean and factor of the Gaussian with the highest bound among those passed."""
        dim = self.target.dim
        noise = whitened_draws(rng, max(DRAWS, 2 * dim), dim)[None]
        one, best = self.lanes.take(np.zeros(1, int)), None
        for loc, factor in self.path:
            found = natural_gradient.evaluate(one, loc[None], factor[None], noise, np.zeros(1, int))
            if np.isfinite(found.bound[0]) and (best is None or found.bound[0] > best.bound[0]):
                best = found
        if best is None:
            raise ModelError("Pathfinder found no Gaussian with a finite bound on its way.", mend="Use guide='auto'.")
        return best.loc[0], best.factor[0]

    def _negated(self, z: np.ndarray, lanes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_p, gradient = self.lanes(z[:, None], lanes)
        return -log_p[:, 0], -gradient[:, 0]

    def _rounding(self, value: np.ndarray) -> np.ndarray:
        return 16 * float(jnp.finfo(self.dtype).eps) * np.maximum(np.abs(value), 1.0)

    def _note(self, at: lbfgs.Minima, going: np.ndarray) -> None:
        if self.keep_path:
            for lane in going[at.has_curvature(going)]:
                self._pass(at, lane)
        best = going[np.argmin(at.value[going])]
        self.values.append(-float(at.value[best]))
        if self.watch is not None:
            phi = FullRank().of(at.x[best], np.eye(self.target.dim)).astype(self.dtype)
            params = {"guide": phi, "model": self.target.params}
            self.watch(Progress(len(self.values), self.values[-1], time.perf_counter() - self.began, params))

    def _pass(self, at: lbfgs.Minima, lane: int) -> None:
        """Remember `N(z + H grad l(z), H)` at the point that a climb passes."""
        dim = self.target.dim
        lanes, vectors = np.full(dim + 1, lane), np.concatenate([np.eye(dim), at.gradient[lane][None]])
        *inverse, step = at.newton(vectors, np.ones((dim + 1, dim)), lanes)
        inverse = -np.stack(inverse)
        values, vectors = np.linalg.eigh((inverse + inverse.T) / 2)
        if values[0] > 0:
            self.path.append((at.x[lane] + step, vectors * np.sqrt(values)))


def _longest(z: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """The first direction is the bare gradient, which has no scale: no coordinate moves by more than 10."""
    return 10 / np.maximum(np.abs(direction).max(axis=1, initial=0.0), 1e-300)


def _laplace(target: Target, mode: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    precision = -np.asarray(_hessian(target, mode.astype(jnp.result_type(float))), np.float64)
    values, vectors = np.linalg.eigh((precision + precision.T) / 2)
    if not values[0] > 0:
        raise ModelError(
            f"Laplace's approximation needs a strict maximum; the Hessian at the point reached has the eigenvalue "
            f"{-values[0]:.3g} in a direction of {target.layout.coordinates[int(np.abs(vectors[:, 0]).argmax())]}.",
            mend="Use guide='auto': the mode of a centred hierarchy may lie at infinity.",
        )
    return mode, vectors / np.sqrt(values)


@jax.jit
def _hessian(target: Target, z: Array) -> Array:
    return jax.hessian(target.log_density)(z)
