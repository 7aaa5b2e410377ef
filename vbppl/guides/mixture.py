"""A mixture of full-rank Gaussians: of several modes, of several widths, or of parts of one bent posterior.

Where components lie apart, the weights that maximise the bound are proportional to `exp(ELBO_k)`, the
evidence that each accounts for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import whole_number
from vbppl.core.numerics.mixtures import Components
from vbppl.core.pytree import pytree, static
from vbppl.core.types import AnyArray
from vbppl.guides.base import Draws, Guide, Start, is_traced
from vbppl.guides.gaussian import FullRank, normal_of
from vbppl.guides.noise import Noise, Normals
from vbppl.target.target import Target

STOCHASTIC = 4  # components


@pytree
class Mixture(Guide):
    """So many components, or None for as many as pay; in stochastic steps None means `STOCHASTIC`.

    `phi` is `{"log_weights": (k,), "components": (k, 2 + dim, dim)}`.
    """

    components: int | None = static(default=None)

    def __post_init__(self) -> None:
        if self.components is not None:
            whole_number("components", self.components)

    def init(self, target: Target, start: Start) -> dict[str, np.ndarray]:
        # Side by side along one diagonal, or they would stay together: equal components have equal gradients.
        one, count = FullRank().init(target, start), self.components or STOCHASTIC
        each = [one.copy() for _ in range(count)]
        for shift, component in zip(np.linspace(-1, 1, count) if count > 1 else [0.0], each):
            component[0] += shift * np.exp(component[1])
        return self.of(each, [0.0] * count)

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
        log_weights = normalised(phi["log_weights"]) - math.log(len(noise))
        return Draws(z, self.log_prob(phi, z, target), xp.repeat(log_weights, len(noise)))

    def log_prob(self, phi: Mapping[str, Any], z: Any, target: Target | None = None) -> AnyArray:
        if is_traced((phi, z)):
            each = jax.vmap(FullRank().log_prob, (0, None))(phi["components"], jnp.asarray(z))
            return jax.scipy.special.logsumexp(normalised(phi["log_weights"])[:, None] + each, axis=0)
        # On the host without a program, of which each number of draws would be another one.
        return self.normals(phi).log_density(np.asarray(z, np.float64))

    @staticmethod
    def normals(phi: Mapping[str, Any]) -> Components:
        """The mixture on the host, in float64."""
        each = [normal_of(FullRank(), part) for part in np.asarray(phi["components"])]
        return Components.of(np.asarray(phi["log_weights"], np.float64), *zip(*each))


def normalised(log_weights: AnyArray) -> AnyArray:
    """The log weights, `(k,)`, such that the weights sum to one: in steps each is a number of its own."""
    xp = log_weights.__array_namespace__()
    top = log_weights.max()
    return log_weights - top - xp.log(xp.exp(log_weights - top).sum())
