"""A guide written in the words of the language, with `param` and `sample` statements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vbppl import programs
from vbppl.aliases import Array, PyTree
from vbppl.guides.base import Guide
from vbppl.pytree import pytree
from vbppl.target import Target


@pytree
class ProgramGuide(Guide):
    """What `vb.fit(model, guide=my_guide(x))` makes of a guide program; `phi` holds its params."""

    program: Any  # a `Model` under `@vb.guide`; how it is written stays below the waist

    def init(self, target: Target, loc: np.ndarray) -> PyTree:
        """The params' own initial values; `loc` is not used."""
        return programs.first_params(self.program, target)

    def noise(self, strata: PyTree, key: Array, draws: int) -> Array:
        """A key for each draw, as raw data `(draws, 2)`."""
        return jax.random.key_data(jax.random.split(key, draws))

    def points(self, phi: PyTree, target: Target, noise: Array) -> Array:
        """The guide's draws, mapped back from the supports."""
        return target.unconstrain(_over(noise, lambda key: programs.draw(self.program, phi, target, key)))

    def bound(self, phi: PyTree, target: Target, noise: Array, rows: Mapping[str, Array]) -> Array:
        """Per draw: closed-form divergences where they hold, `log p - log q` elsewhere."""
        return _over(noise, lambda key: programs.bound(self.program, phi, target, key, rows))

    def log_weights(
        self, phi: PyTree, target: Target, noise: Array, rows: Mapping[str, Array], density_phi: PyTree
    ) -> Array:
        """Per draw: `log p(x) - log q(x)`."""
        return _over(noise, lambda key: programs.log_weight(self.program, phi, density_phi, target, key, rows))

    def fresh_bound(self, phi: PyTree, target: Target, rng: np.random.Generator, draws: int) -> np.ndarray:
        """Terms of the bound at independent draws, by the better of two ways and all between.

        The bound with closed forms and `log p - log q` have one mean; their difference is a
        control variate. Where the guide is the posterior, or has no data to average over, no
        variance is left.
        """
        terms, weights = (np.asarray(part, np.float64) for part in _bounds(self, phi, target, _raw_keys(rng, draws)))
        difference = terms - weights
        spread = difference.var()
        if not spread > 0:  # none, or not finite
            return terms
        return terms - np.mean((terms - terms.mean()) * difference) / spread * difference

    def weighed_draws(
        self, phi: PyTree, target: Target, rng: np.random.Generator, draws: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """`log p - log q` at independent runs of the guide, and where they lie in unconstrained space."""
        log_weights, z = _weighed(self, phi, target, _raw_keys(rng, draws))
        return np.asarray(log_weights, np.float64), np.asarray(z, np.float64)

    def sample(self, phi: PyTree, target: Target, rng: np.random.Generator, draws: int) -> dict[str, Array]:
        """Independent runs of the guide, and the model's deterministic sites at them."""
        return target.in_order(_draw(self.program, phi, target, _raw_keys(rng, draws)))

    def log_prob(self, phi: PyTree, target: Target, values: Mapping[str, Any]) -> Array:
        """The guide's log density."""
        return programs.log_prob(self.program, phi, values)


def _raw_keys(rng: np.random.Generator, draws: int) -> np.ndarray:
    return rng.integers(0, 2**32, size=(draws, 2), dtype=np.uint32)


def _over(raw_keys: Array, function: Any) -> Any:
    return jax.vmap(lambda raw: function(jax.random.wrap_key_data(raw)))(raw_keys)


@jax.jit
def _bounds(guide: ProgramGuide, phi: PyTree, target: Target, raw_keys: Array) -> tuple[Array, Array]:
    return guide.bound(phi, target, raw_keys, {}), guide.log_weights(phi, target, raw_keys, {}, phi)


@jax.jit
def _weighed(guide: ProgramGuide, phi: PyTree, target: Target, raw_keys: Array) -> tuple[Array, Array]:
    return guide.log_weights(phi, target, raw_keys, {}, phi), guide.points(phi, target, raw_keys)


@jax.jit
def _draw(program: Any, phi: PyTree, target: Target, raw_keys: Array) -> dict[str, Array]:
    return _over(raw_keys, lambda key: programs.draw(program, phi, target, key))
