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

from vbppl import lbfgs, stein
from vbppl.aliases import Array
from vbppl.draws import whitened_draws
from vbppl.errors import ModelError
from vbppl.evaluation import evaluate
from vbppl.guides.gaussian import FullRank, Laplace, Pathfinder
from vbppl.keys import host_generator
from vbppl.records import Fitted, Progress, Status
from vbppl.target import Target

STEPS = 1000
DRAWS = 32


def run(
    target: Target,
    guide: Laplace | Pathfinder,
    starts: np.ndarray,
    raw_key: np.ndarray,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> Fitted:
    """Fit `guide` from the best of `starts`, `(starts, dim)`."""
    climb = _Climb(target, watch)
    ends = [climb.to_the_mode(start) for start in starts.astype(np.float64)]
    if isinstance(guide, Laplace):
        loc, factor = _laplace(target, min(ends, key=lambda at: at.value).x)
        text = "the mode and the inverse Hessian there"
    else:
        loc, factor = climb.best_on_the_path(host_generator(raw_key, "pathfinder"))
        text = f"the best of {len(climb.path)} Gaussians on the way to the mode"
    reached = min(ends, key=lambda at: at.value)
    converged = reached.decrement <= climb.tolerance or reached.stuck
    phi = FullRank().of(loc, factor).astype(climb.dtype)
    said = text if converged else f"{text}; the mode was not reached in {STEPS} steps"
    status = Status("mode" if converged else "capped", converged, said, len(climb.values), climb.gradients)
    return Fitted({"guide": phi, "model": target.params}, np.array(climb.values), status)


class _Climb:
    """The way uphill, remembered point by point."""

    def __init__(self, target: Target, watch: Callable[[Progress], None]):
        self.target, self.watch = target, watch
        self.dtype = jnp.result_type(float)
        self.tolerance = max(1e-10, float(jnp.finfo(self.dtype).eps))
        self.path: list[lbfgs.Minimum] = []
        self.values: list[float] = []
        self.gradients, self.began = 0, time.perf_counter()

    def to_the_mode(self, start: np.ndarray) -> lbfgs.Minimum:
        """The highest point reached from `start`."""
        ones = np.ones(self.target.dim)
        return lbfgs.minimise(
            self._negated, start, lambda z: ones, self._rounding, self.tolerance, STEPS, self._longest, self._note
        )

    def best_on_the_path(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Mean and factor of the Gaussian with the highest bound among those of all points passed."""
        noise = whitened_draws(rng, max(DRAWS, 2 * self.target.dim), self.target.dim)
        ones = np.ones(self.target.dim)
        best = None
        for at in self.path:
            if not at.pairs:
                continue
            inverse = -np.stack([at.newton(unit, ones) for unit in np.eye(self.target.dim)])
            values, vectors = np.linalg.eigh((inverse + inverse.T) / 2)
            if values[0] <= 0:
                continue
            loc = at.x + at.newton(at.gradient, ones)
            found = stein.look(self._density, loc, vectors * np.sqrt(values), noise)
            if np.isfinite(found.bound) and (best is None or found.bound > best.bound):
                best = found
        if best is None:
            raise ModelError("Pathfinder found no Gaussian with a finite bound on its way.", mend="Use guide='auto'.")
        return best.loc, best.factor

    def _density(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.gradients += len(z)
        log_p, gradient = evaluate(self.target, z)
        return log_p.astype(np.float64), gradient.astype(np.float64)

    def _negated(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        log_p, gradient = self._density(z[None])
        return -float(log_p[0]), -gradient[0]

    def _rounding(self, value: float) -> float:
        return 16 * float(jnp.finfo(self.dtype).eps) * max(abs(value), 1.0)

    def _longest(self, z: np.ndarray, direction: np.ndarray) -> float:
        """The first direction is the bare gradient, which has no scale: no coordinate moves by more than 10."""
        return 10 / max(np.abs(direction).max(initial=0.0), 1e-300)

    def _note(self, at: lbfgs.Minimum) -> None:
        self.path.append(at)
        self.values.append(-at.value)
        phi = FullRank().of(at.x, np.eye(self.target.dim)).astype(self.dtype)
        params = {"guide": phi, "model": self.target.params}
        self.watch(Progress(len(self.values), -at.value, time.perf_counter() - self.began, params))


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
