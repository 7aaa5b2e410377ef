"""What a guide is: a family of distributions over a target's values, with parameters `phi`.

A guide is a frozen pytree that holds choices, never results. Its parameters `phi` are a pytree of arrays made by
`init`, and every method is a pure function of them. A family is written by two formulas, in unconstrained space,

    z = transform(phi, noise),        log q(z) = log_prob(phi, z),

from which `draw` and `bound` follow; who knows better (an entropy in closed form, draws on the supports) says so.
What makes draws random comes from outside (`noise`), so that the same draws can serve two guides, or be fixed. The
target is an argument, since nested and encoded guides need it; it carries the rows shown (`target.rows`).

A method may be called inside a compiled program, with tracers, or on the host, with NumPy's arrays. On the host the
density is asked for by the one compiled evaluation that everything shares, so that nothing else is compiled.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.keys import host_generator
from vbppl.core.types import AnyArray, Array, PyTree
from vbppl.guides.noise import Noise, Normals
from vbppl.target.batched import evaluate
from vbppl.target.target import Target

FRAMED = 1024  # draws behind a guide's frame


class Start(NamedTuple):
    """Where a fit begins.

    Attributes:
      loc: a point in unconstrained space, `(dim,)`.
      log_sd: of how wide the guide shall be there, `(dim,)`; None for narrow.
      raw_key: for what is drawn at random.
    """

    loc: np.ndarray
    log_sd: np.ndarray | None = None
    raw_key: np.ndarray = np.zeros(2, np.uint32)

    def generator(self, purpose: str) -> np.random.Generator:
        """NumPy's generator for this purpose."""
        return host_generator(self.raw_key, purpose)

    def of(self, places: np.ndarray) -> Start:
        """The part of some coordinates."""
        return Start(self.loc[places], None if self.log_sd is None else self.log_sd[places], self.raw_key)


class Draws(NamedTuple):
    """Weighed draws.

    Attributes:
      z: in unconstrained space, `(draws, dim)`; of a guide that knows rows, of the rows shown alone.
      log_q: the guide's log density there, `(draws,)`.
      log_weight: the logs of weights that sum to one, `(draws,)`.
      log_p: the target's log density, where the guide's own run has met it; None where it is still to be asked for.
      values: the draws on the supports, by the site's name, where the guide draws there.
    """

    z: AnyArray
    log_q: AnyArray
    log_weight: AnyArray
    log_p: AnyArray | None = None
    values: Mapping[str, AnyArray] | None = None


class Guide:
    """The protocol: `init`, `log_prob`, and `transform` or `draw`; the rest has defaults."""

    def init(self, target: Target, start: Start) -> PyTree:
        """The parameters to begin with."""
        raise NotImplementedError

    def transform(self, phi: PyTree, noise: AnyArray) -> AnyArray:
        """The draws `z`, `(draws, dim)`, that `noise` makes."""
        raise NotImplementedError

    def log_prob(self, phi: PyTree, z: AnyArray, target: Target) -> AnyArray:
        """The log density of `z`, `(draws, dim)`, in unconstrained space: `(draws,)`."""
        raise NotImplementedError

    def draw(self, phi: PyTree, noise: AnyArray, target: Target) -> Draws:
        """What `noise` makes, with densities and weights."""
        return _draw(self, phi, noise, target)

    def noise(self, target: Target) -> Noise:
        """What makes draws random; `dim` normals by default."""
        return Normals(target.dim)

    def bound(self, phi: PyTree, noise: AnyArray, target: Target) -> AnyArray:
        """Terms, `(draws,)`, whose mean estimates the evidence lower bound `E_q[log p - log q]` without bias."""
        drawn = self.draw(phi, noise, target)
        log_p = log_densities(target, drawn.z) if drawn.log_p is None else drawn.log_p
        count = len(drawn.log_weight)
        weights = drawn.log_weight.__array_namespace__().exp(drawn.log_weight + math.log(count))
        return weights * (log_p - drawn.log_q)

    def frame(self, phi: PyTree, target: Target) -> tuple[AnyArray, AnyArray]:
        """Mean and sd of each coordinate of `z`, `(dim,)` each; by default of some draws, always the same."""
        rng = np.random.default_rng(0)
        drawn = self.draw(phi, in_dtype_of(phi, self.noise(target).exact(rng, FRAMED)), target)
        weights, z = np.exp(np.asarray(drawn.log_weight, np.float64)), np.asarray(drawn.z, np.float64)
        mean = weights @ z
        return mean, np.sqrt(weights @ (z - mean) ** 2)

    def monitored(self, phi: PyTree) -> tuple[Array, Array]:
        """What a stop rule should look at, and the unit of each number: both `(numbers,)`.

        A difference over its unit is in posterior sds, as far as the guide knows them; by default all
        numbers of `phi`, where a difference is relative.
        """
        values = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(phi)] or [jnp.zeros(0)])
        return values, 1 + jnp.abs(values)

    def step_scale(self, phi: PyTree, power: Array, unknown: Array) -> PyTree:
        """How long a unit step is for each number of `phi`, broadcastable to it; by default all are alike.

        Args:
          phi: the parameters.
          power: 0 for steps that can travel far, 1 for steps in units of the posterior.
          unknown: the unit of numbers of which nobody knows what the posterior's would be: the weights of networks.
        """
        return jax.tree.map(lambda leaf: unknown.astype(leaf.dtype), phi)


class RowWise(Guide):
    """What a guide can say besides if it weighs rows one by one; the target's `rows` are those shown."""

    def divergences(self, phi: PyTree, noise: Array, target: Target) -> dict[str, tuple[Array, Array]]:
        """What each latent site costs in `bound`: `(draws, rows, coordinates)` nats, and its scale N/B, `(draws,)`."""
        raise NotImplementedError

    def values(self, phi: PyTree, noise: Array, target: Target) -> dict[str, Array]:
        """The latent sites at the rows shown, `(draws, rows, *event)`."""
        raise NotImplementedError

    def row_log_weights(self, phi: PyTree, values: dict[str, Array], target: Target) -> Array:
        """`log p - log q` of each row shown at `values`, nothing in closed form: `(draws, rows)`."""
        raise NotImplementedError

    def normals(self, phi: PyTree, target: Target) -> dict[str, tuple[Array, Array]]:
        """Mean and sd of each row shown in unconstrained space, `(rows, ...)` for each latent site."""
        raise NotImplementedError


def row_wise(guide: Guide) -> RowWise:
    """The guide, if it weighs rows one by one.

    Raises:
      ModelError: it does not.
    """
    if isinstance(guide, RowWise):
        return guide
    raise ModelError(
        f"{type(guide).__name__} does not weigh rows one by one.", mend="Write the guide as a function under @vb.guide."
    )


@functools.partial(jax.jit, inline=True)
def _draw(guide: Guide, phi: PyTree, noise: Array, target: Target) -> Draws:
    z = guide.transform(phi, noise)
    return Draws(z, guide.log_prob(phi, z, target), uniform_weights(z))


def uniform_weights(z: AnyArray) -> AnyArray:
    """Log weights, `(draws,)`, that are all alike."""
    return z.__array_namespace__().full(len(z), -math.log(len(z)), dtype=z.dtype)


def log_densities(target: Target, z: AnyArray) -> AnyArray:
    """The target's log density at `z`, `(draws, dim)`: `(draws,)`; see the head of this file."""
    if is_traced((target, z)):
        return over_draws(target.log_density, z)
    return evaluate(target, np.asarray(z))[0]


def over_draws(density: Callable[..., Array], z: Array, *beside: PyTree) -> Array:
    """`density` of each row of `z`, and of what stands beside it."""
    # The barrier keeps XLA from making the draws anew inside every fusion that reads them:
    # half the compile time at 30 sites, and no slower steps.
    z = jax.lax.optimization_barrier(z)
    if len(z) > 1:
        return jax.vmap(density)(z, *beside)
    return density(z[0], *jax.tree.map(lambda leaf: leaf[0], beside))[None]


def joined(parts: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """What several parts of a guide have `monitored`, as one."""
    values, units = zip(*parts)
    return jnp.concatenate(values), jnp.concatenate(units)


def is_traced(tree: PyTree) -> bool:
    """Is this inside a compiled program?"""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def in_dtype_of(phi: PyTree, noise: np.ndarray) -> np.ndarray:
    """Noise from the host, in double precision, in the precision of `phi`; keys as they are."""
    leaves = [leaf for leaf in jax.tree.leaves(phi) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    dtype = jnp.result_type(*leaves) if leaves else jnp.result_type(float)
    return noise.astype(dtype) if np.issubdtype(noise.dtype, np.floating) else noise


def averaged(states: PyTree) -> PyTree:
    """States after each of some draws as one: floats averaged, the rest as after the first."""
    return jax.tree.map(
        lambda leaf: jnp.mean(leaf, axis=0) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf[0], states
    )
