"""A mixture of full-rank Gaussians: one for each mode that the restarts found.

Where the modes lie apart, the weights that maximise the bound are proportional to `exp(ELBO_k)`, the
evidence that each component accounts for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.numerics.draws import normal_draws
from vbppl.core.pytree import pytree
from vbppl.core.types import Array
from vbppl.guides.base import Guide
from vbppl.guides.gaussian import FullRank
from vbppl.target.batched import evaluate
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

    def flat_log_prob(self, phi: Mapping[str, Any], z: Any) -> Array:
        """The log density of `z`, `(draws, dim)`, in unconstrained space: `(draws,)`."""
        return _flat_log_prob(dict(phi), jnp.asarray(z))

    def weighed_draws(
        self, phi: Mapping[str, Any], target: Target, rng: np.random.Generator, draws: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """`log p - log q` at independent draws, and the draws."""
        z = self._draw(phi, rng, draws)
        return evaluate(target, z)[0] - np.asarray(self.flat_log_prob(phi, z), np.float64), z.astype(np.float64)

    def fresh_bound(self, phi: Mapping[str, Any], target: Target, rng: np.random.Generator, draws: int) -> np.ndarray:
        """`log p - log q` at independent draws."""
        return self.weighed_draws(phi, target, rng, draws)[0]

    def sample(self, phi: Mapping[str, Any], target: Target, rng: np.random.Generator, draws: int) -> dict[str, Array]:
        """Independent draws, mapped onto the supports."""
        return target.constrain(self._draw(phi, rng, draws))

    def log_prob(self, phi: Mapping[str, Any], target: Target, values: Mapping[str, Any]) -> Array:
        """`log q(z(x)) - log |dx/dz|`."""
        z, log_det = target.unconstrain(values), target.log_det(values)
        return self.flat_log_prob(phi, jnp.atleast_2d(z)).reshape(log_det.shape) - log_det

    def _draw(self, phi: Mapping[str, Any], rng: np.random.Generator, draws: int) -> np.ndarray:
        weights = np.exp(np.asarray(phi["log_weights"], np.float64))
        chosen = rng.choice(len(weights), size=draws, p=weights / weights.sum())
        noise = normal_draws(rng, draws, phi["components"].shape[-1]).astype(phi["components"].dtype)
        each = np.stack([FullRank().transform(component, noise) for component in phi["components"]])
        return each[chosen, np.arange(draws)]


@jax.jit
def _flat_log_prob(phi: dict[str, Array], z: Array) -> Array:
    each = jax.vmap(FullRank().flat_log_prob, (0, None))(phi["components"], z)
    return jax.scipy.special.logsumexp(phi["log_weights"][:, None] + each, axis=0)
