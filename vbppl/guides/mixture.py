"""A mixture of full-rank Gaussians: one for each mode that the restarts found.

Where the modes lie apart, the weights that maximise the bound are proportional to `exp(ELBO_k)`, the
evidence that each component accounts for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.pytree import pytree
from vbppl.core.types import AnyArray, Array
from vbppl.guides.base import Draws, Guide
from vbppl.guides.gaussian import FullRank
from vbppl.guides.noise import Noise, Normals
from vbppl.target.target import Target


@pytree
class Mixture(Guide):
    """Fixed components, made by the fit; `phi` is `{"log_weights": (k,), "components": (k, 2 + dim, dim)}`."""

    @staticmethod
    def of(components: list[np.ndarray], elbos: list[float]) -> dict[str, np.ndarray]:
        """The `phi` of the full-rank `components`, each weighed by the evidence that it accounts for."""
        bounds = np.array(elbos)
        log_weights = bounds - bounds.max()
        log_weights -= np.log(np.exp(log_weights).sum())
        return {"log_weights": log_weights.astype(components[0].dtype), "components": np.stack(components)}

    def noise(self, target: Target) -> Noise:
        return Normals(target.dim, picks=True)

    def draw(self, phi: Mapping[str, Any], noise: AnyArray, target: Target) -> Draws:
        # Every component at the same noise, one after the other: `k draws` points, weighed by their component.
        xp = noise.__array_namespace__()
        z = xp.concatenate([FullRank().transform(component, noise) for component in phi["components"]])
        log_weights = phi["log_weights"] - math.log(len(noise))
        return Draws(z, self.log_prob(phi, z, target), xp.repeat(log_weights, len(noise)))

    def log_prob(self, phi: Mapping[str, Any], z: Any, target: Target | None = None) -> Array:
        return _log_prob(dict(phi), jnp.asarray(z))


@jax.jit
def _log_prob(phi: dict[str, Array], z: Array) -> Array:
    each = jax.vmap(FullRank().log_prob, (0, None))(phi["components"], z)
    return jax.scipy.special.logsumexp(phi["log_weights"][:, None] + each, axis=0)
