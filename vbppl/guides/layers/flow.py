"""A normalising flow: a bijection of another library, its weights learnt, between normals and a location and scale.

    e ~ N(m, s^2),    v = T(e; weights),    z = loc + L v,    log q(z) = log N(e) - log |dT/de| - log |L|

(Rezende and Mohamed 2015, "Variational inference with normalizing flows"). At the start `m = 0` and `s = 1`, and `loc`
and `L` are where a Gaussian would begin: so `T` bends numbers of order one. Splines are the identity beyond an
interval, and networks know no units.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError, of_kind
from vbppl.core.pytree import pytree, set_field
from vbppl.core.types import Array, PyTree
from vbppl.guides.base import Start, joined
from vbppl.guides.gaussian import MeanField
from vbppl.guides.layers.affine import Affine
from vbppl.guides.layers.base import Layer, Layered
from vbppl.target.guide_program import network, network_value, network_weights
from vbppl.target.target import Target

WAYS = ("transform_and_log_det", "inverse_and_log_det")
POINTS = 64  # at which a stop rule looks


@pytree
class Bijection(Layer):
    """FlowJAX's protocol as a layer; `psi` has the arrays of floats in it.

    Attributes:
      network: holds the bijection, taken apart: see `target/guide_program.network`.
    """

    network: Any

    def init(self, target: Target, start: Start) -> PyTree:
        psi = jax.tree.map(lambda leaf: np.asarray(leaf, start.loc.dtype), self.network.initial_params())
        bijection, dim = network_value(self.network, psi), target.dim
        if bijection.shape != (dim,) or bijection.cond_shape is not None:
            raise ModelError(
                f"the flow's bijection has shape {bijection.shape} and cond_shape {bijection.cond_shape}, "
                f"but the model has {dim} latent numbers in unconstrained space.",
                mend=f"Give one of shape ({dim},) without conditions: cond_shape None.",
            )
        for way in WAYS:
            try:
                found = jax.eval_shape(getattr(bijection, way), start.loc)
            except NotImplementedError as error:
                mend = "Take one that goes both ways: steps draw by one, the report weighs other points by the other."
                raise ModelError(f"the flow's bijection has no {way}.", details=str(error), mend=mend) from error
            shapes = tuple(leaf.shape for leaf in jax.tree.leaves(found))
            if shapes != ((dim,), ()):
                raise ModelError(
                    f"{way} of the flow's bijection returns shapes {shapes} at a point of shape ({dim},).",
                    mend=f"Return a point of shape ({dim},) and one log |det|, of shape (): a sum over coordinates.",
                )
        return psi

    def forward_and_log_det(self, psi: PyTree, e: Array, target: Target | None) -> tuple[Array, Array]:
        return network_value(self.network, psi).transform_and_log_det(e)

    def inverse_and_log_det(self, psi: PyTree, z: Array, target: Target | None) -> tuple[Array, Array]:
        return network_value(self.network, psi).inverse_and_log_det(z)

    def step_scale(self, psi: PyTree, power: Array, unknown: Array) -> PyTree:
        return jax.tree.map(lambda leaf: unknown.astype(leaf.dtype), psi)


@pytree
class Flow(Layered):
    """A normalising flow: any bijection of FlowJAX, fitted by stochastic steps.

    `vb.fit` never chooses it by itself. With weights enough it may follow shapes that no other guide has; it takes many
    more steps, what it finds may depend on the weights that it begins with, and it is judged as any other. FlowJAX
    (`pip install "vbppl[flow]"`) makes a bijection by `flowjax.flows.masked_autoregressive_flow(key,
    base_dist=flowjax.distributions.Normal(jnp.zeros(dim)), invert=False).bijection`, with `dim = vb.target(model).dim`;
    `invert=False`, since steps draw, and draws would be slow. What FlowJAX marks as not trainable stays, by any
    optimiser. Anything else with its methods serves if it is a pytree:

    >>> import jax.numpy as jnp, vbppl as vb
    >>> from vbppl.core.pytree import pytree
    >>> @pytree
    ... class Banana:
    ...     bend: float
    ...     shape, cond_shape = (2,), None
    ...
    ...     def transform_and_log_det(self, e):
    ...         return jnp.stack([e[0], e[1] + self.bend * e[0] ** 2]), jnp.zeros(())
    ...
    ...     def inverse_and_log_det(self, v):
    ...         return jnp.stack([v[0], v[1] - self.bend * v[0] ** 2]), jnp.zeros(())
    >>> curved = vb.density(lambda z: -(z[0] ** 2) / 2 - (z[1] - z[0] ** 2) ** 2 / 2, 2)
    >>> posterior = vb.fit(curved, vb.guides.Flow(Banana(jnp.array(0.0))))
    >>> f"{posterior.elbo.value:.2f}", f"{np.log(2 * np.pi):.2f}"  # the bound, and the log evidence
    ('1.84', '1.84')

    Args:
      bijection: from noise to all latent numbers in unconstrained space, for one point `(dim,)`: with `shape`,
        `cond_shape`, `transform_and_log_det(e)` and `inverse_and_log_det(v)`.

    Attributes:
      base: independent normals, standard ones at the start.
      layers: the bijection, and the location and scale of what it has bent.
    """

    layers: tuple[Bijection, Affine]
    begins_standard = True

    def __init__(self, bijection: Any) -> None:
        is_one = all(callable(getattr(bijection, way, None)) for way in WAYS) and hasattr(bijection, "cond_shape")
        shape, weights = getattr(bijection, "shape", None), network_weights(bijection)
        is_one = is_one and isinstance(shape, tuple) and len(shape) == 1 and len(weights) > 0
        is_one = is_one and all(np.all(np.isfinite(leaf)) for leaf in weights)
        words = (
            "a bijection of FlowJAX of shape (dim,), with arrays of finite floats as weights to learn; "
            "of a distribution its .bijection"
        )
        held = network(of_kind("the flow's bijection", bijection, is_one, words))
        words = "one map, in training and after it (no dropout)"
        of_kind("the flow's bijection", bijection, not held.has_training_mode, words)
        set_field(self, "base", MeanField())
        set_field(self, "layers", (Bijection(held), Affine(tuple(range(bijection.shape[0])))))

    def __repr__(self) -> str:
        (bijection,), _ = self.layers[0].network.arguments
        weights = sum(map(np.size, network_weights(bijection)))
        return f"Flow({type(bijection).__name__} of shape {bijection.shape}, {weights:,} weights)"

    def monitored(self, phi: PyTree) -> tuple[Array, Array]:
        # Where some points go, not the weights: these may wander together while the distribution stays.
        noise = np.random.default_rng(0).standard_normal((POINTS, phi["base"].shape[-1]))
        e = self.base.transform(phi["base"], jnp.asarray(noise, phi["base"].dtype))
        z, _ = self.bend(phi, e, None)  # pyright: ignore[reportArgumentType] -- these layers ask for none
        sd = jnp.std(z, axis=0)
        return joined([(jnp.mean(z, axis=0), sd), (jnp.log(sd), jnp.ones_like(sd))])
