"""What makes draws random, as a value: standard normals, keys, or nothing.

A guide says which it needs (`Guide.noise`), and a noise knows how to make draws, in two places. On the host, by
NumPy's generator: independent ones, ones with exact moments for tables, and ones for errors between sets. In the
steps of a stochastic fit, from a key: `stratified` and `unstratified` give what is called with the key of a step.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.numerics.draws import antithetic_draws, fresh_draws, latin_hypercube, normal_draws, whitened_draws
from vbppl.core.pytree import pytree, static
from vbppl.core.types import AnyArray, Array, Shape
from vbppl.data.rows import lengths_of
from vbppl.target.layout import Layout

FEW = 32  # draws, fewer of which as quantiles are no sample of a normal
WHITENED = 32  # dims up to which the draws of rows are whitened: it costs draws dim^2


class Noise:
    """The protocol. A set of draws is an array whose first axis is the draws."""

    # Do other rows have noise of their own? Then rows can be gone through in blocks, each with its share.
    is_of_rows = False
    # Does a draw of the noise make one point of each component of a mixture?
    picks = False
    # Can draws have exact moments? If not, the bound needs a control variate in their place.
    has_exact_moments = True
    # Must one run draw all rows that are in memory, because they share its random numbers?
    is_drawn_whole = False
    # How many numbers of the data times draws are looked at together outside the steps; None for a few draws.
    numbers_at_once: int | None = None

    def independent(self, rng: np.random.Generator, draws: int) -> np.ndarray:
        """Draws of which none knows of another."""
        raise NotImplementedError

    def exact(self, rng: np.random.Generator, draws: int) -> np.ndarray:
        """Draws whose averages are more exact than those of independent ones, where there are such: for tables."""
        return self.independent(rng, draws)

    def fresh(self, rng: np.random.Generator, draws: int) -> np.ndarray:
        """The same, but never one set twice: for errors taken between sets."""
        return self.independent(rng, draws)

    def stratified(self, rng: np.random.Generator, draws: int) -> Any:
        """A function of a step's key to draws that are spread as evenly as can be: a pytree, made once a fit."""
        return self.unstratified(draws)

    def unstratified(self, draws: int) -> Any:
        """A function of a step's key to draws that are independent of each other."""
        raise NotImplementedError

    def of_rows(self, whole: np.ndarray) -> np.ndarray:
        """The part of draws of all rows that belongs to the rows shown; all, where rows have no noise of their own."""
        return whole


@pytree
class Normals(Noise):
    """`dim` standard normals a draw, `(draws, dim)`.

    Attributes:
      dim: how many.
      picks: see `Noise`.
    """

    dim: int = static()
    picks: bool = static(default=False)

    def independent(self, rng: np.random.Generator, draws: int) -> np.ndarray:
        return normal_draws(rng, draws, self.dim)

    def exact(self, rng: np.random.Generator, draws: int) -> np.ndarray:
        # Components are picked at random, and no moments of what was picked are exact.
        return normal_draws(rng, draws, self.dim) if self.picks else whitened_draws(rng, draws, self.dim)

    def fresh(self, rng: np.random.Generator, draws: int) -> np.ndarray:
        return normal_draws(rng, draws, self.dim) if self.picks else fresh_draws(rng, draws, self.dim)

    def stratified(self, rng: np.random.Generator, draws: int) -> Stratified:
        return Stratified(orders_of_strata(rng, draws, self.dim))

    def unstratified(self, draws: int) -> Independent:
        return Independent((draws, self.dim))


@pytree
class RowNormals(Normals):
    """Standard normals site after site, those of local sites for the rows shown alone.

    Attributes:
      layout: the sites.
      local: the names of those that have normals of their own in each row.
      rows: of plates that show a part, by the plate's name.
    """

    layout: Layout = static(default=Layout((), (), (), (), ()))
    local: tuple[str, ...] = static(default=())
    rows: Any = None

    is_of_rows = True

    @classmethod
    def of(cls, layout: Layout, local: tuple[str, ...], rows: Any) -> RowNormals:
        """Those of the rows shown."""
        empty = cls(0, layout=layout, local=local, rows=dict(rows))
        return dataclasses.replace(empty, dim=sum(map(math.prod, empty.shapes().values())))

    def shapes(self) -> dict[str, Shape]:
        """The shape of each site's normals in a draw."""
        lengths = lengths_of(self.rows)
        return {s.name: s.shown(lengths) if s.name in self.local else s.unconstrained for s in self.layout.slots}

    def fresh(self, rng: np.random.Generator, draws: int) -> np.ndarray:
        # A few quantiles have too light tails, by which all rows would be wrong alike: .6 nats an image of a VAE.
        if draws < FEW:
            return antithetic_draws(rng, draws, self.dim)
        return (fresh_draws if self.dim <= WHITENED else latin_hypercube)(rng, draws, self.dim)

    def of_rows(self, whole: np.ndarray) -> Any:
        """What `whole`, noise of all rows, holds for these: all of the shared sites'."""
        slots = self.layout.slots
        taken = [np.ravel(s.indices(self.rows)) if s.name in self.local else np.arange(s.start, s.stop) for s in slots]
        return whole[:, np.concatenate([np.zeros(0, int), *taken])]


@pytree
class Keys(Noise):
    """A key a draw, as raw data `(draws, 2)`: for programs, which draw themselves.

    All rows have the same ones: what rows share must be the same for all, and a program's own keys part the rest.
    """

    is_of_rows = True
    has_exact_moments = False
    is_drawn_whole = True
    numbers_at_once = 2**24

    def independent(self, rng: np.random.Generator, draws: int) -> np.ndarray:
        return rng.integers(0, 2**32, size=(draws, 2), dtype=np.uint32)

    def unstratified(self, draws: int) -> Independent:
        return Independent((draws,), keys=True)


@pytree
class Nothing(Noise):
    """A point needs none: `(draws, 0)`, and in a step one draw is as good as many."""

    def independent(self, rng: np.random.Generator, draws: int) -> np.ndarray:
        return np.zeros((draws, 0))

    def unstratified(self, draws: int) -> Independent:
        return Independent((1, 0))


@pytree
class Stratified:
    """Normals each coordinate of which is stratified over the draws of a step.

    Every draw is exactly normal, and independent over the coordinates: one random rotation moves
    a coordinate's strata together. Averages over the draws are much less noisy than those of independent ones
    (Buchholz, Wenzel and Mandt 2018, "Quasi-Monte Carlo Variational Inference").

    Attributes:
      orders: for each normal of a draw an order of the strata, `(draws, dim)`.
    """

    orders: AnyArray

    def __call__(self, key: Array) -> Array:
        """The noise of the step with this key, `(draws, dim)`."""
        draws, dim = self.orders.shape
        if draws == 1:
            return jax.random.normal(key, (1, dim))
        # The shift runs round the whole circle: within one stratum only, the strata of two
        # coordinates would meet in the same pairs at every step, and the bound would be biased.
        uniform = (self.orders / draws + jax.random.uniform(key, (1, dim))) % 1.0
        # In 32 bits the sum can round up to 1, where the quantile is infinite.
        edge = jnp.finfo(uniform.dtype).eps / 4
        return jax.scipy.special.ndtri(jnp.clip(uniform, edge, 1 - 2 * edge))


@pytree
class Independent:
    """Independent normals of this shape, or so many keys."""

    shape: tuple[int, ...] = static()
    keys: bool = static(default=False)

    def __call__(self, key: Array) -> Array:
        """The noise of the step with this key: of `shape`, or raw keys `(draws, 2)`."""
        if self.keys:
            return jax.random.key_data(jax.random.split(key, self.shape))
        return jax.random.normal(key, self.shape)


def orders_of_strata(rng: np.random.Generator, draws: int, dim: int) -> np.ndarray:
    """For each coordinate an order of the strata, `(draws, dim)`."""
    return rng.permuted(np.broadcast_to(np.arange(draws)[:, None], (draws, dim)), axis=0)
