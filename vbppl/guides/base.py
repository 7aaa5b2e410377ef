"""What a guide is: a family of distributions over a target's values, with parameters `phi`.

A guide is a frozen pytree that holds choices, never results. Its parameters `phi` are a pytree of
arrays made by `init`, and every method is a pure function of them:

    bound(phi, ...)         terms whose mean estimates E_q[log p - log q], closed forms used
    log_weights(phi, ...)   log p(z_n) - log q(z_n), draw by draw, nothing in closed form

Noise comes from outside (`noise`), so that the same draws can serve two guides, or be fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.pytree import pytree, static
from vbppl.core.types import Array, PyTree
from vbppl.target.target import Target

FEWEST = 4  # draws behind a term of the bound
MOST = 2**26  # numbers that draws of all rows may hold


class Transfer(NamedTuple):
    """Draws of latent sites for a model that may have other data, by the site's name, `(draws, ...)` each.

    Attributes:
      values: on the supports.
      z: in unconstrained space.
      anew: the sites that were read off the model's own data, so that they tell something new.
    """

    values: dict[str, Array]
    z: Mapping[str, Array] = MappingProxyType({})
    anew: tuple[str, ...] = ()


_PROGRAM = "Write the guide as a function under @vb.guide."


@pytree
class Apart:
    """Strata for draws that shall be independent of each other: only the shape of the noise, no order."""

    shape: tuple[int, ...] = static()

    @classmethod
    def of(cls, stratification: Any) -> Any:
        """In the place of `stratification`; guides that have none make independent draws anyway."""
        return cls(stratification.shape) if hasattr(stratification, "shape") else stratification


class Guide:
    """The protocol. `rows` are the rows shown of subsampled plates, by the plate's name."""

    def init(self, target: Target, loc: np.ndarray) -> PyTree:
        """The parameters to start from, around the point `loc`, `(dim,)`."""
        raise NotImplementedError

    def stratification(self, target: Target, draws: int, rng: np.random.Generator) -> PyTree:
        """What `noise` needs to spread `draws` draws evenly, made once a fit; nothing by default."""
        return ()

    def noise(self, stratification: PyTree, key: Array, draws: int) -> Array:
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

    def carried(self, phi: PyTree, target: Target, model: Any, rng: np.random.Generator, draws: int) -> Transfer:
        """What the guide says of the latent sites of `model`, the fitted one or the same with other data."""
        values = self.sample(phi, target, rng, draws)
        return Transfer({slot.name: values[slot.name] for slot in target.layout.slots})

    def encode(self, phi: PyTree, data: Any) -> Any:
        """What the guide says of new rows."""
        raise TypeError(f"a {type(self).__name__} guide has no encoder; fit with guide=vb.Amortized(...).")

    def param_values(self, phi: PyTree) -> dict[str, Any]:
        """What is learnt beside the distribution of the latent sites, by name, shaped like its `init`."""
        return {}

    def divergences(
        self, phi: PyTree, target: Target, noise: Array, rows: Mapping[str, Array]
    ) -> dict[str, tuple[Array, Array]]:
        """What each latent site costs in `bound`: `(draws, rows, coordinates)` nats, and its scale N/B, `(draws,)`."""
        raise ModelError(f"{type(self).__name__} does not tell the cost of a site.", mend=_PROGRAM)

    def values(self, phi: PyTree, target: Target, noise: Array, rows: Mapping[str, Array]) -> dict[str, Array]:
        """The latent sites at the rows shown, `(draws, rows, *event)`."""
        raise ModelError(f"{type(self).__name__} does not weigh rows one by one.", mend=_PROGRAM)

    def row_log_weights(
        self, phi: PyTree, target: Target, values: dict[str, Array], rows: Mapping[str, Array]
    ) -> Array:
        """`log p - log q` of each row shown at `values`: `(draws, rows)`."""
        raise ModelError(f"{type(self).__name__} does not weigh rows one by one.", mend=_PROGRAM)

    def normals(self, phi: PyTree, target: Target, rows: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
        """Mean and sd of each row shown in unconstrained space, `(rows, ...)` for each latent site."""
        raise ModelError(f"{type(self).__name__} has no normal for each row.", mend=_PROGRAM)

    def with_data(self, program: Any) -> Guide:
        """The guide at other data: a guide program applied to them. Others read the model's own data."""
        if program is not None:
            raise TypeError(f"a {type(self).__name__} guide reads the model's own data: leave guide out.")
        return self

    def network_size(self, phi: PyTree) -> int:
        """How many numbers of `phi` every row passes through."""
        return 0

    def has_training_mode(self) -> bool:
        """Whether it has modules that behave otherwise in training than in evaluation."""
        return False

    def first_states(self) -> dict[str, Any]:
        """What the first step finds in the guide's own modules."""
        return {}

    def in_training(self, states: Mapping[str, Any], raw_key: Array | None) -> Guide:
        """The guide with `states` in its modules, in training mode unless `raw_key` is None."""
        return self

    def next_states(
        self, phi: PyTree, target: Target, noise: Array, rows: Mapping[str, Array]
    ) -> dict[str, dict[str, Any]]:
        """What runs at the draws leave in the modules of guide and model: floats averaged over the draws."""
        states = jax.vmap(lambda z: target.next_states(z, rows))(self.points(phi, target, noise, rows))
        return {"guide": {}, "model": averaged(states)}

    def monitored(self, phi: PyTree) -> tuple[Array, Array]:
        """What a stop rule should look at, and the unit of each number: both `(numbers,)`.

        A difference over its unit is in posterior sds, as far as the guide knows them; by default all
        numbers of `phi`, where a difference is relative.
        """
        values = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(phi)] or [jnp.zeros(0)])
        return values, 1 + jnp.abs(values)

    def metric(self, phi: PyTree, power: Array, pace: Array) -> PyTree:
        """How long a unit step is for each number of `phi`, broadcastable to it; by default all are learnt at one pace.

        Args:
          phi: the parameters.
          power: 0 for steps that can travel far, 1 for steps in units of the posterior.
          pace: the unit of numbers of which nobody knows what the posterior's would be: the weights of networks.
        """
        return jax.tree.map(lambda leaf: pace.astype(leaf.dtype), phi)


def averaged(states: PyTree) -> PyTree:
    """States after each of some draws as one: floats averaged, the rest as after the first."""
    return jax.tree.map(
        lambda leaf: jnp.mean(leaf, axis=0) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf[0], states
    )


def blocks_of_rows(target: Target, draws: int) -> tuple[int, Iterable[tuple[dict[str, Any], float]]]:
    """All rows in blocks as large as a step's batch, each with its share of them, which are summed to the whole.

    And how many draws a block needs in the place of `draws` of all rows: each has draws of its own, so that few
    suffice where there are many blocks. What is read in parts is gone through in blocks that fit in memory.

    A term that all rows share counts once, a row's term N/n times in its block of n: so the sum over
    blocks, each times n/N, is the whole. Where several plates show a part there is one block, with all rows.
    """
    if target.model.sources:
        return draws, ((rows, share) for share, rows in target.parts())
    shown = target.layout.shown
    if len(shown) != 1:
        return max(draws, FEWEST), [({}, 1.0)]
    (name, length), size = *shown.items(), next(p.size for p in target.layout.plates if p.name in shown)
    starts = range(0, size, length)
    blocks = [({name: np.arange(s, min(s + length, size))}, min(length, size - s) / size) for s in starts]
    return max(draws // len(blocks), FEWEST), blocks
