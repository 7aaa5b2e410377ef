"""A single point: the posterior mode (MAP), for models whose mode is what is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.numerics import lbfgs
from vbppl.core.pytree import pytree, static
from vbppl.core.types import Array, PyTree
from vbppl.guides.base import Guide
from vbppl.target.batched import evaluate
from vbppl.target.target import Target

CLIMB = 200  # steps of L-BFGS before the fit
SHAKES = 3


@pytree
class MAP(Guide):
    """The maximum of the joint density: a point, so it has no spread and no evidence bound.

    The mode depends on the coordinates in which the density is written, so the space must be
    named: "constrained" maximises the density of the values on their supports, as a textbook
    would; "unconstrained" the density of `z`, which includes log |dx/dz|.
    """

    space: str = static(default="constrained")

    def __post_init__(self) -> None:
        if self.space not in ("constrained", "unconstrained"):
            raise ValueError(f"space must be 'constrained' or 'unconstrained', not {self.space!r}.")

    def init(self, target: Target, loc: np.ndarray) -> np.ndarray:
        """The mode in unconstrained space above `loc`, whichever mode is wanted.

        On its support a density may grow without bound towards the edge (a Dirichlet with
        concentrations below one). The mode inside is then a local one, and found from nearby only.
        """
        best, height = _climbed(target, loc.astype(np.float64))
        for shake in np.random.default_rng(0).standard_normal((SHAKES, loc.size)):
            # A start between two modes may end on the saddle between them: see whether it was one.
            other, its_height = _climbed(target, best + 0.5 * shake)
            best, height = (other, its_height) if its_height > height else (best, height)
        return best.astype(loc.dtype)

    def noise(self, stratification: PyTree, key: Array, draws: int) -> Array:
        """None is used."""
        return jnp.zeros((1,))

    def points(self, phi: Array, target: Target, noise: Array, rows: Mapping[str, Array]) -> Array:
        """The point, `(1, dim)`."""
        return phi[None]

    def bound(self, phi: Array, target: Target, noise: Array, rows: Mapping[str, Array]) -> Array:
        """The log joint density at the point, in the chosen space: `(1,)`."""
        return target.log_density(phi, rows, jacobian=self.space == "unconstrained")[None]

    def log_weights(
        self, phi: Array, target: Target, noise: Array, rows: Mapping[str, Array], density_phi: Array
    ) -> Array:
        """The same as `bound`: a point has no density of its own."""
        return self.bound(phi, target, noise, rows)

    def fresh_bound(self, phi: np.ndarray, target: Target, rng: np.random.Generator, draws: int) -> np.ndarray:
        """The log joint density at the point."""
        return np.asarray(jax.jit(self.bound)(phi, target, np.zeros(1), {}), np.float64)

    def sample(self, phi: np.ndarray, target: Target, rng: np.random.Generator, draws: int) -> dict[str, np.ndarray]:
        """The point, `draws` times."""
        values = target.constrain(phi)
        return {name: np.broadcast_to(np.asarray(v), (draws, *np.shape(v))) for name, v in values.items()}

    def log_prob(self, phi: np.ndarray, target: Target, values: Mapping[str, Any]) -> Array:
        """A point has no density."""
        raise TypeError("a MAP estimate is a point and has no density; fit with guide='full_rank' for one.")

    def monitored(self, phi: Array) -> tuple[Array, Array]:
        """The coordinates, in units of a hundredth: a point has no sd to compare with."""
        return phi, jnp.full_like(phi, 0.01)


def _climbed(target: Target, z: np.ndarray) -> tuple[np.ndarray, float]:
    """The mode above `z`, and the log density there."""
    tolerance = float(jnp.finfo(jnp.result_type(float)).eps)

    def negated(z: np.ndarray, lanes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_p, gradient = evaluate(target, z)
        return -log_p, -gradient

    def rounding(value: np.ndarray) -> np.ndarray:
        return 16 * tolerance * np.maximum(np.abs(value), 1.0)

    def longest(z: np.ndarray, direction: np.ndarray) -> np.ndarray:
        return 1 / np.maximum(np.abs(direction).max(axis=1, initial=0.0), 1e-300)

    at = lbfgs.minimise(negated, z[None], np.ones_like, rounding, tolerance, CLIMB, longest)
    return at.x[0], -float(at.value[0])
