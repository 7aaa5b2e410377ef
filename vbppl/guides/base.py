"""What a guide is: a family of distributions over a target's values, with parameters `phi`.

A guide is a frozen pytree that holds choices, never results. Its parameters `phi` are a pytree of
arrays made by `init`, and every method is a pure function of them:

    bound(phi, ...)         terms whose mean estimates E_q[log p - log q], closed forms used
    log_weights(phi, ...)   log p(z_n) - log q(z_n), draw by draw, nothing in closed form

Noise comes from outside (`noise`), so that the same draws can serve two guides, or be fixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vbppl.aliases import Array, PyTree
from vbppl.target import Target


class Guide:
    """The protocol. `rows` are the rows shown of subsampled plates, by the plate's name."""

    def init(self, target: Target, loc: np.ndarray) -> PyTree:
        """The parameters to start from, around the point `loc`, `(dim,)`."""
        raise NotImplementedError

    def strata(self, target: Target, draws: int, rng: np.random.Generator) -> PyTree:
        """What `noise` needs to spread `draws` draws evenly, made once a fit; nothing by default."""
        return ()

    def noise(self, strata: PyTree, key: Array, draws: int) -> Array:
        """What makes `draws` draws random, `(draws, ...)`."""
        raise NotImplementedError

    def points(self, phi: PyTree, target: Target, noise: Array, rows: Mapping[str, Array]) -> Array:
        """The draws in unconstrained space, `(draws, dim)`; where a row is not shown, any value."""
        raise NotImplementedError

    def bound(self, phi: PyTree, target: Target, noise: Array, rows: Mapping[str, Array]) -> Array:
        """Terms, `(draws,)`, whose mean is an unbiased estimate of the evidence lower bound."""
        raise NotImplementedError

    def log_weights(
        self, phi: PyTree, target: Target, noise: Array, rows: Mapping[str, Array], density_phi: PyTree
    ) -> Array:
        """`log p - log q` at draws made with `phi`, where `log q` uses `density_phi`: `(draws,)`."""
        raise NotImplementedError

    def fresh_bound(self, phi: PyTree, target: Target, rng: np.random.Generator, draws: int) -> np.ndarray:
        """Terms of the bound at new draws and all rows, `(draws,)`; they share one set of draws."""
        raise NotImplementedError

    def weighed_draws(
        self, phi: PyTree, target: Target, rng: np.random.Generator, draws: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Independent draws with their weights: `log p - log q`, `(draws,)`, and `z`, `(draws, dim)`."""
        raise NotImplementedError

    def sample(self, phi: PyTree, target: Target, rng: np.random.Generator, draws: int) -> dict[str, Array]:
        """Values of all latent and deterministic sites, `(draws, ...)`, one independent of the next."""
        raise NotImplementedError

    def quadrature(self, phi: PyTree, target: Target, rng: np.random.Generator, draws: int) -> dict[str, Array]:
        """Values whose averages are more exact than those of independent draws: for tables."""
        return self.sample(phi, target, rng, draws)

    def log_prob(self, phi: PyTree, target: Target, values: Mapping[str, Any]) -> Array:
        """The log density of `values` on the supports: a scalar, or `(n,)` for draws."""
        raise NotImplementedError

    @property
    def encoded_sites(self) -> tuple[str, ...]:
        """The latent sites that are read off data, whose rows may be new ones."""
        return ()

    def carried(
        self, phi: PyTree, target: Target, model: Any, rng: np.random.Generator, draws: int
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """What the guide says of the latent sites of `model`, the fitted one or the same with other data.

        Returns:
          draws by the site's name, `(draws, ...)`: values on the supports, and values in unconstrained space.
        """
        values = self.sample(phi, target, rng, draws)
        return {slot.name: values[slot.name] for slot in target.layout.slots}, {}

    def encode(self, phi: PyTree, data: Any) -> Any:
        """What the guide says of new rows."""
        raise TypeError(f"a {type(self).__name__} guide has no encoder; fit with guide=vb.Amortized(...).")

    def param_values(self, phi: PyTree) -> dict[str, Any]:
        """What is learnt beside the distribution of the latent sites, by name, shaped like its `init`."""
        return {}

    def shift(self, before: PyTree, after: PyTree) -> float:
        """How far `after` is from `before`: the greatest move of a mean in sds, or of a log sd."""
        raise NotImplementedError
