"""What the priors of sites are at a point that can be seen in other coordinates."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from vbppl.core import devices
from vbppl.core.programs.packed import Packed
from vbppl.core.programs.rerolling.rerolled import rerolled
from vbppl.core.pytree import pytree
from vbppl.core.types import Array
from vbppl.distributions.location_scale import moved_and_link, vector_dim
from vbppl.target.density import Evaluable, Term, run


@pytree
class Prior:
    """What a movable site's prior is at a point, block by block of what is moved together: a number, or a vector.

    All in the coordinates in which it has a location and a scale: those of its support.

    Attributes:
      value: the site's, `(blocks, dim)`, as `loc` and `slope`.
      loc: of its family.
      scale: of its family, or the Cholesky factor, `(blocks, dim, dim)`, as `curvature` and `stretch`.
      slope: the derivative of the site's own log density by its value.
      curvature: the second derivative.
      stretch: the derivative of the value by `z`.
    """

    value: Array
    loc: Array
    scale: Array
    slope: Array
    curvature: Array
    stretch: Array


def priors_at(target: Evaluable, z: Array) -> dict[str, Prior]:
    """The priors of the movable sites at a point `(dim,)`, given those before them, on the host."""
    kinds = devices.on_host(_priors_at(target, z)).tree()
    return {name: Prior(**{kind: parts[name] for kind, parts in kinds.items()}) for name in target.layout.movable}


@jax.jit
@rerolled
def _priors_at(target: Evaluable, z: Array) -> Packed:
    terms = run(target, z, {}, False)
    found = {name: _prior_at(terms[name], terms.reported[name]) for name in target.layout.movable}
    # Of one kind beside each other, as they are computed.
    kinds = {field.name: {n: getattr(p, field.name) for n, p in found.items()} for field in dataclasses.fields(Prior)}
    return Packed.of(kinds)


def _prior_at(term: Term, value: Array) -> Prior:
    moved, link = moved_and_link(term.bijector)

    def density(z: Array) -> Array:
        value, log_det = link.forward_and_log_det(z)
        return jnp.sum(term.dist.log_prob(value)) + jnp.sum(log_det)

    value, slope_at = link.inverse(value), jax.grad(density)
    (loc, scale), is_vector = term.dist.location_scale, vector_dim(term.dist) > 0
    shape = value.shape if is_vector else (*value.shape, 1)  # of blocks
    # Blocks are independent given what comes before, so a column of all of them comes at once.
    along = jnp.eye(shape[-1], dtype=value.dtype).reshape(-1, *(1,) * (len(shape) - 1), shape[-1])
    along = jnp.broadcast_to(along, (shape[-1], *shape)).reshape(-1, *value.shape)
    columns = jax.vmap(lambda ones: jax.jvp(slope_at, (value,), (ones,))[1])(along)
    curvature = jnp.stack([column.reshape(shape) for column in columns], axis=-1)
    scales = (scale, moved.matrix) if is_vector else (scale, moved.scale)
    scales = tuple(jnp.broadcast_to(each, (*value.shape, shape[-1]) if is_vector else value.shape) for each in scales)
    vectors = (value, jnp.broadcast_to(loc, value.shape), slope_at(value))
    dim = shape[-1]
    value, loc, slope = (each.reshape(-1, dim) for each in vectors)
    scale, stretch = (each.reshape(-1, dim, dim) for each in scales)
    return Prior(value, loc, scale, slope, curvature.reshape(-1, dim, dim), stretch)
