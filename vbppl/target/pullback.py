"""A target seen through a layer: a bijection between the coordinates of a guide and those of the density.

A layer bends the flat vector, `z = layer(e)`, and a target seen through it has the density that makes draws of
`e`, once bent, draws of `z`:

    log density(e) = log density_target(z) + log |dz/de|.

So a Gaussian fitted to the pullback is the same approximation as that Gaussian, pushed through the layer, fitted
to the target. Here the layer's parameters `psi` stand still: a solver that knows Gaussians only needs no change.

A layer has two methods, both for one whole point `(dim,)`, and both get the target that it bends:

    forward_and_log_det(psi, e, target) -> (z, log |dz/de|)
    inverse_and_log_det(psi, z, target) -> (e, log |de/dz|)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vbppl.core.errors import ModelError
from vbppl.core.pytree import pytree
from vbppl.core.types import Array, PyTree
from vbppl.distributions.base import forwarded
from vbppl.target.density import Term, Terms
from vbppl.target.layout import Apart
from vbppl.target.target import unconstrained_and_log_det


@pytree
class Pullback:
    """`target`, in the coordinates before `layer`; like a `Target` in all that solvers, guides and reports ask for.

    Attributes:
      target: what is bent: a `Target`, or another `Pullback`.
      layer: the bijection: see the head of this file.
      psi: its parameters, which stay as they are.
    """

    target: Any
    layer: Any
    psi: PyTree

    def run(self, z: Any, rows: Mapping[str, Any] | None = None, shown: bool = False) -> Terms:
        """As `Target.run`; log |dz/de| is one more term, "layer 1", whose log density is zero."""
        if shown and self.layout.is_partly_shown(self.rows if rows is None else rows):
            raise ModelError(
                "a layer bends whole vectors, so a point that holds the rows shown alone has no image.",
                mend="Show all rows, or bend a guide of the rows themselves.",
            )
        z, log_det = self._forward(z.whole if isinstance(z, Apart) else z)
        terms = self.target.run(z, rows)
        # Not scaled by N/B: the layer bends the coordinates of every row, whichever are shown.
        number = 1 + sum(term.name.startswith("layer ") for term in terms.terms)
        bend = Term(jnp.zeros(()), log_det, None, None, name=f"layer {number}", scale=1.0, plates=())
        return dataclasses.replace(terms, terms=(*terms.terms, bend))

    def log_density(self, z: Any, rows: Mapping[str, Any] | None = None, jacobian: bool = True) -> Array:
        """As `Target.log_density`: a scalar, in nats."""
        # The supports' log |dx/dz| and the layer's belong together: the joint density on the supports has neither.
        z, log_det = self._forward(z)
        found = self.target.log_density(z, rows, jacobian)
        return found + log_det if jacobian else found

    def constrain(self, z: Any) -> dict[str, Array]:
        """The values of the latent and deterministic sites at `z`: `(dim,)`, or draws `(n, dim)`."""
        forward = self._forward if jnp.ndim(z) == 1 else jax.vmap(self._forward)
        return self.target.constrain(forward(jnp.asarray(z))[0])

    def complete(self, values: Mapping[str, Any], n: int, raw_key: Any = None) -> dict[str, Array]:
        """As `Target.complete`: values on the supports are not bent."""
        return self.target.complete(values, n, raw_key)

    def unconstrain(self, values: Mapping[str, Any]) -> Array:
        """The point that `constrain` maps to `values`: `(dim,)`, or `(n, dim)` for draws `(n, ...)`."""
        return self._unconstrained(values)[0]

    def log_det(self, values: Mapping[str, Any]) -> Array:
        """Log |dx/de| at `values`, through layer and supports: a scalar, or `(n,)` for draws."""
        return self._unconstrained(values)[1]

    def _unconstrained(self, values: Mapping[str, Any]) -> tuple[Array, Array]:
        z, log_det = unconstrained_and_log_det(self.target, values)
        e, its_log_det = self._inverse(z)
        return e, log_det - its_log_det  # the inverse tells log |de/dz|, so it is taken off

    def _forward(self, e: Any) -> tuple[Array, Array]:
        return self.layer.forward_and_log_det(self.psi, jnp.asarray(e), self.target)

    def _inverse(self, z: Array) -> tuple[Array, Array]:
        def one(z: Array) -> tuple[Array, Array]:
            return self.layer.inverse_and_log_det(self.psi, z, self.target)

        return one(z) if z.ndim == 1 else jax.vmap(one)(z)

    def __str__(self) -> str:
        return f"{self.target} seen through {type(self.layer).__name__}"

    # What does not look at a point is the bent target's own; what makes another target is seen through the same layer.

    dim, data_size, layout, sources = forwarded("dim", "data_size", "layout", "sources", to="target")
    model, params, parameterisations, rows = forwarded("model", "params", "parameterisations", "rows", to="target")

    def _seen(self, target: Any) -> Pullback:
        return dataclasses.replace(self, target=target)

    def replace(self, **changes: Any) -> Pullback:
        """As `Target.replace`, of what is bent."""
        return self._seen(self.target.replace(**changes))

    def showing(self, rows: Mapping[str, Any]) -> Pullback:
        return self._seen(self.target.showing(rows))

    def with_lengths(self, lengths: Mapping[str, int]) -> Pullback:
        return self._seen(self.target.with_lengths(lengths))

    def parts(self) -> Iterator[tuple[float, dict[str, Any]]]:
        return self.target.parts()
