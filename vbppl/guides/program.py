"""A guide written in the words of the language, with `param` and `sample` statements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.pytree import pytree
from vbppl.core.types import Array, PyTree
from vbppl.guides.base import MOST, Guide, Transfer, averaged, blocks_of_rows
from vbppl.target import guide_program
from vbppl.target.target import Target

SIDE_BY_SIDE = 2**24  # numbers in the data, times draws that are evaluated together


@pytree
class ProgramGuide(Guide):
    """What `vb.fit(model, guide=my_guide(x))` makes of a guide program; `phi` holds its params."""

    program: Any  # a `Model` under `@vb.guide`; how it is written stays below the waist

    def init(self, target: Target, loc: np.ndarray) -> PyTree:
        """The params' own initial values; `loc` is not used."""
        return guide_program.first_params(self.program, target)

    def noise(self, stratification: PyTree, key: Array, draws: int) -> Array:
        """A key for each draw, as raw data `(draws, 2)`."""
        return jax.random.key_data(jax.random.split(key, draws))

    def points(self, phi: PyTree, target: Target, noise: Array, rows: Mapping[str, Array]) -> Array:
        """The guide's draws, mapped back from the supports."""
        if not target.layout.is_partly_shown(rows):
            return target.unconstrain(_over(noise, lambda key: guide_program.draw(self.program, phi, target, key)))
        shown = _over(noise, lambda key: guide_program.shown_points(self.program, phi, target, key, rows))
        return jnp.zeros((len(noise), target.dim), shown.dtype).at[:, target.layout.places(rows)].set(shown)

    def bound(self, phi: PyTree, target: Target, noise: Array, rows: Mapping[str, Array]) -> Array:
        """Per draw: closed-form divergences where they hold, `log p - log q` elsewhere."""
        return _over(noise, lambda key: guide_program.bound(self.program, phi, target, key, rows))

    def log_weights(
        self, phi: PyTree, target: Target, noise: Array, rows: Mapping[str, Array], density_phi: PyTree
    ) -> Array:
        """Per draw: `log p(x) - log q(x)`."""
        return _over(noise, lambda key: guide_program.log_weight(self.program, phi, density_phi, target, key, rows))

    def divergences(
        self, phi: PyTree, target: Target, noise: Array, rows: Mapping[str, Array]
    ) -> dict[str, tuple[Array, Array]]:
        """Closed forms coordinate by coordinate, `log q - log p` elsewhere."""
        return _over(noise, lambda key: guide_program.divergences(self.program, phi, target, key, rows))

    def values(self, phi: PyTree, target: Target, noise: Array, rows: Mapping[str, Array]) -> dict[str, Array]:
        """The draws themselves."""
        return _over(noise, lambda key: guide_program.latent_values(self.program, phi, key, rows))

    def row_log_weights(
        self, phi: PyTree, target: Target, values: dict[str, Array], rows: Mapping[str, Array]
    ) -> Array:
        """Row by row, nothing in closed form."""
        return jax.vmap(lambda one: guide_program.row_log_weights(self.program, phi, target, one, rows))(values)

    def normals(self, phi: PyTree, target: Target, rows: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
        """Where the program's distributions are normal, or log-normal."""
        return guide_program.normals(self.program, phi, target, rows)

    def with_data(self, program: Any) -> Guide:
        """The program applied to other data, with these states."""
        return ProgramGuide(guide_program.reapplied(self.program, program))

    def network_size(self, phi: PyTree) -> int:
        """All of it."""
        return sum(np.size(leaf) for leaf in jax.tree.leaves(phi))

    def has_training_mode(self) -> bool:
        """Whether a module of the program behaves otherwise in training."""
        return guide_program.has_training_mode(self.program)

    def first_states(self) -> dict[str, Any]:
        """The program's own."""
        return guide_program.states_at_first(self.program)

    def in_training(self, states: Mapping[str, Any], raw_key: Array | None) -> ProgramGuide:
        """The program with them."""
        return ProgramGuide(self.program.in_training(states, raw_key))

    def next_states(
        self, phi: PyTree, target: Target, noise: Array, rows: Mapping[str, Array]
    ) -> dict[str, dict[str, Any]]:
        """Of guide and model, run one after the other."""
        return averaged(_over(noise, lambda key: guide_program.next_states(self.program, phi, target, key, rows)))

    def fresh_bound(self, phi: PyTree, target: Target, rng: np.random.Generator, draws: int) -> np.ndarray:
        """Terms of the bound at independent draws, by the better of two ways and all between.

        The bound with closed forms and `log p - log q` have one mean; their difference is a
        control variate. Where the guide is the posterior, or has no data to average over, no
        variance is left.
        """
        draws, blocks = blocks_of_rows(target, draws)
        terms, weights = np.zeros(draws), np.zeros(draws)
        for rows, share in blocks:  # each with draws of its own
            parts = _bounds(self, phi, target, _raw_keys(rng, draws), rows)
            terms, weights = (whole + share * np.asarray(part) for whole, part in zip((terms, weights), parts))
        difference = terms - weights
        spread = difference.var()
        if not spread > 0:  # none, or not finite
            return terms
        return terms - np.mean((terms - terms.mean()) * difference) / spread * difference

    def weighed_draws(
        self, phi: PyTree, target: Target, rng: np.random.Generator, draws: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """`log p - log q` at independent runs of the guide, and where they lie in unconstrained space."""
        draws = min(draws, max(MOST // max(target.dim, 1), 1))
        keys, log_weights, z = _raw_keys(rng, draws), np.zeros(draws), np.zeros((draws, target.dim))
        for share, rows in target.parts():
            part, at = _weighed(self, phi, target, keys, rows)
            log_weights += share * np.asarray(part, np.float64)
            shown = target.layout.shown_places(rows)
            z[:, shown] = at[:, shown]
        return log_weights, z

    def sample(self, phi: PyTree, target: Target, rng: np.random.Generator, draws: int) -> dict[str, Array]:
        """Independent runs of the guide, and the model's deterministic sites at them; sources are read in parts."""
        if target.model.sources:
            return target.constrain(self._all_points(phi, target, _raw_keys(rng, draws)))
        return target.in_order(_draw(self.program, phi, target, _raw_keys(rng, draws)))

    def _all_points(self, phi: PyTree, target: Target, keys: np.ndarray) -> np.ndarray:
        """Where runs of the guide lie in unconstrained space, at all rows, which are gone through in parts."""
        z = np.zeros((len(keys), target.dim), jnp.result_type(float))
        for _, rows in target.parts():
            shown = target.layout.shown_places(rows)
            z[:, shown] = np.asarray(_points(self, phi, target, keys, rows))[:, shown]
        return z

    def carried(self, phi: PyTree, target: Target, model: Any, rng: np.random.Generator, draws: int) -> Transfer:
        """The guide run again where `model` has other data of the arguments that both share."""
        again = guide_program.moved(self.program, phi, target.model, model)
        if again is None:
            return super().carried(phi, target, model, rng, draws)
        values = _draw_alone(again, phi, _raw_keys(rng, draws))
        return Transfer(values, anew=tuple(s.name for s in target.layout.slots if s.plates))

    def log_prob(self, phi: PyTree, target: Target, values: Mapping[str, Any]) -> Array:
        """The guide's log density."""
        return guide_program.log_prob(self.program, phi, values)

    def param_values(self, phi: PyTree) -> dict[str, Any]:
        """The program's own params."""
        return guide_program.param_values(self.program, phi)


def _raw_keys(rng: np.random.Generator, draws: int) -> np.ndarray:
    return rng.integers(0, 2**32, size=(draws, 2), dtype=np.uint32)


def _over(raw_keys: Array, function: Any) -> Any:
    return jax.vmap(lambda raw: function(jax.random.wrap_key_data(raw)))(raw_keys)


@jax.jit
def _bounds(
    guide: ProgramGuide, phi: PyTree, target: Target, raw_keys: Array, rows: dict[str, Any]
) -> tuple[Array, Array]:
    def both(raw_keys: Array) -> tuple[Array, Array]:
        return guide.bound(phi, target, raw_keys, rows), guide.log_weights(phi, target, raw_keys, rows, phi)

    return _few_at_once(both, target, raw_keys)


@jax.jit
def _weighed(
    guide: ProgramGuide, phi: PyTree, target: Target, raw_keys: Array, rows: dict[str, Any]
) -> tuple[Array, Array]:
    def both(raw_keys: Array) -> tuple[Array, Array]:
        return guide.log_weights(phi, target, raw_keys, rows, phi), guide.points(phi, target, raw_keys, rows)

    return _few_at_once(both, target, raw_keys)


@jax.jit
def _points(guide: ProgramGuide, phi: PyTree, target: Target, raw_keys: Array, rows: dict[str, Any]) -> Array:
    return _few_at_once(lambda keys: guide.points(phi, target, keys, rows), target, raw_keys)


def _few_at_once(function: Any, target: Target, raw_keys: Array) -> Any:
    """`function` of all keys, of which no more are looked at together than the memory holds rows for."""
    side_by_side = max(SIDE_BY_SIDE // max(target.data_size, 1), 1)
    if side_by_side >= len(raw_keys):
        return function(raw_keys)
    one = jax.lax.map(lambda raw: function(raw[None]), raw_keys, batch_size=side_by_side)
    return jax.tree.map(lambda leaf: leaf[:, 0], one)


@jax.jit
def _draw_alone(program: Any, phi: PyTree, raw_keys: Array) -> dict[str, Array]:
    return _over(raw_keys, lambda key: guide_program.draw_alone(program, phi, key))


@jax.jit
def _draw(program: Any, phi: PyTree, target: Target, raw_keys: Array) -> dict[str, Array]:
    return _over(raw_keys, lambda key: guide_program.draw(program, phi, target, key))
