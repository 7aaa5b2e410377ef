"""Amortised guides: a network reads a row and says where its latent variable lies.

    q(z_i | y_i) = N(loc(y_i), scale(y_i)^2),    z_i = loc(y_i) + scale(y_i) * noise

The encoder's parameters are shared by all rows, so that their number does not grow with the rows, and
rows never seen are encoded by the same call (Kingma and Welling 2014, "Auto-Encoding Variational Bayes").
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError, of_kind
from vbppl.core.pytree import pytree, set_field, static
from vbppl.core.types import Array, PyTree
from vbppl.data.rows import lengths_of
from vbppl.data.source import shown_of
from vbppl.guides.base import Start
from vbppl.guides.gaussian import FullRank, Gaussian
from vbppl.guides.structured import GAUSSIAN, Moments, RowGuide
from vbppl.target import guide_program
from vbppl.target.layout import Slot
from vbppl.target.target import Target, model_of

TRIED = 64  # rows that the encoder is tried on before the fit


@pytree
class Amortized(RowGuide):
    """An encoder for one latent site of a plate; everything else as in `vb.guides.Structured`.

    >>> import vbppl as vb, vbppl.distributions as dist
    >>> @vb.model
    ... def scores(y):
    ...     with vb.plate("row", len(y)):
    ...         z = vb.sample("z", dist.Normal(0.0, 1.0))
    ...         vb.sample("y", dist.Normal(z, 0.5), obs=vb.subsample(y))
    >>> def encode(weights, y):  # all rows at once: y is (rows,)
    ...     return weights["slope"] * y, jnp.exp(weights["log_scale"]) * jnp.ones_like(y)
    >>> guide = vb.Amortized("z", encode, reads="y", params={"slope": 0.0, "log_scale": 0.0})
    >>> posterior = vb.fit(scores(np.linspace(-1.0, 1.0, 8)), guide)
    >>> new = posterior.encode(np.array([5.0]))  # of rows never seen: the exact posterior is N(4, 0.447)
    >>> print(f"{new.loc[0]:.2f} {new.scale[0]:.2f}")
    4.00 0.45
    >>> posterior.predict(scores(np.full(3, 5.0)), n=10)["z"].shape  # by the encoder, at these rows
    (10, 3)
    >>> scores(np.zeros(100)).sample(2, params=posterior.params)["y"].shape  # from the prior, as learnt
    (2, 100)

    Attributes:
      site: the name of the latent site.
      encoder: a function `(params, rows) -> (loc, scale)`, with `params`; or a module, called as
        `module(rows)`, whose own arrays are the parameters (Equinox, Flax NNX: any pytree that can be called).
        It gets all rows of a batch at once, and returns the mean and the *standard deviation*, positive,
        of each row's `z` in unconstrained space, `(rows, ...)` each.
      reads: the name of the model's argument that the encoder reads; or a function of the model's arguments
        that returns an array, or a pytree of arrays, with the rows along the first axis.
      params: of an encoder that is a plain function: where they start, any pytree of arrays.
      plate: the name of the plate; the site's own if it is in one plate only.
      shared: the guide of the sites that all rows share.
    """

    site: str = static()
    encoder: Any = static()
    reads: str | Callable[..., Any] = static()
    params: Any = None
    plate: str | None = static(default=None)
    shared: Gaussian = FullRank()

    def __post_init__(self) -> None:
        of_kind("site", self.site, isinstance(self.site, str), "the name of a latent site")
        of_kind(
            "encoder", self.encoder, callable(self.encoder), "a function (params, rows) -> (loc, scale), or a module"
        )
        is_read = isinstance(self.reads, str) or callable(self.reads)
        of_kind("reads", self.reads, is_read, "the name of an argument of the model, or a function of them")
        of_kind("plate", self.plate, self.plate is None or isinstance(self.plate, str), "the name of a plate, or None")
        of_kind("shared", self.shared, isinstance(self.shared, Gaussian), GAUSSIAN)
        if self.params is None:
            if not any(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(self.encoder)):
                raise TypeError(
                    "an encoder that is a plain function needs its parameters: "
                    "vb.Amortized(site, encoder, reads, params=...), called as encoder(params, rows)."
                )
            set_field(self, "params", self.encoder)
            set_field(self, "encoder", _called)
        set_field(self, "params", guide_program.network(self.params))

    def local_plates(self, target: Target) -> tuple[str, ...]:
        return (self._slot(target).plates[0],)

    def init(self, target: Target, start: Start) -> PyTree:
        # The encoder's own parameters, after trying it on some rows; the rest narrow, around the start.
        slot = self._slot(target)
        if guide_program.NETWORK in target.layout.params:
            raise ModelError(
                "the name belongs to the guide's encoder.", site=guide_program.NETWORK, mend="Rename the model's param."
            )
        phi = super().init(target, start) | self.params.initial_params()
        plates = [p for p in target.layout.plates if p.sources or p.name in slot.plates]
        first = target.showing({p.name: np.arange(min(TRIED, p.size)) for p in plates}).rows
        self._check(phi, guide_program.read(model_of(target), self.reads), self.shown(target, first), slot)
        return phi

    def conditional(self, phi: PyTree, shared: Array, target: Target) -> Moments:
        # The encoder at the rows shown; a table for other sites in its plate.
        shape = self._slot(target).shown(lengths_of(target.rows))
        loc, scale = (jnp.broadcast_to(part, shape) for part in self.encoded(phi, self.shown(target, target.rows)))
        return {**super().conditional(phi, shared, target), self.site: (loc, scale)}

    def encoded(self, phi: PyTree, data: Any) -> tuple[Array, Array]:
        """`loc` and `scale` of the rows `data`, as the encoder returns them."""
        return self.encoder(guide_program.network_value(self.params, phi), data)

    def table(self, target: Target) -> list[Slot]:
        # The other sites in the plate.
        return [slot for slot in super().table(target) if slot.name != self.site]

    def shown(self, target: Target, rows: Mapping[str, Array]) -> Any:
        """What the encoder reads of the rows shown."""
        plate = self._slot(target).plates[0]
        return shown_of(guide_program.read(model_of(target), self.reads), plate, rows.get(plate))

    def _slot(self, target: Target) -> Slot:
        """The site's slot, after checking that it lies in the one plate that owns its first axis."""
        slots = {slot.name: slot for slot in target.layout.slots}
        if self.site not in slots:
            raise ModelError(
                "Amortized names this site, but it is no latent site of the model.",
                site=self.site,
                details=f"the latent sites: {', '.join(slots) or 'none'}",
            )
        slot = slots[self.site]
        if slot.plates != (self.plate or "".join(slot.plates[:1]),) or slot.axes != (0,):
            raise ModelError(
                f"an amortised site lies in one plate, {self.plate or 'whose rows the encoder reads'}; "
                f"this one lies in {', '.join(slot.plates) or 'none'}.",
                site=self.site,
                mend="Amortise a site of a single plate; for others write a guide program under @vb.guide.",
            )
        return slot

    def _check(self, phi: PyTree, data: Any, first: Any, slot: Slot) -> None:
        """Try the encoder on the `first` rows of `data`: shapes, and a scale that is one."""
        size, refused = slot.unconstrained[0], functools.partial(ModelError, site=slot.name)
        wrong = [jnp.shape(leaf) for leaf in jax.tree.leaves(data) if jnp.shape(leaf)[:1] != (size,)]
        if wrong:
            raise refused(
                f"the encoder reads an array of shape {wrong[0]}, but plate '{slot.plates[0]}' has {size} rows.",
                mend="Read arrays that have the plate's rows along their first axis.",
            )
        shape, found = (min(TRIED, size), *slot.unconstrained[1:]), self.encoded(phi, first)
        if not isinstance(found, tuple) or len(found) != 2:
            raise refused(
                f"the encoder returned {type(found).__name__}, not (loc, scale).",
                mend="Return two arrays: the mean and the standard deviation of each row's z.",
            )
        loc, scale = map(np.asarray, found)
        if loc.shape != shape or scale.shape not in (shape, ()):
            raise refused(
                f"for {shape[0]} rows the encoder returned loc {loc.shape} and scale {scale.shape}, not {shape}.",
                mend="An encoder gets all rows of a batch at once; a module for one row needs jax.vmap.",
            )
        if not (np.isfinite(loc).all() and np.isfinite(scale).all() and (scale > 0).all()):
            raise refused(
                f"the encoder's scale must be positive and finite; the least is {scale.min():.3g}.",
                mend="Return a standard deviation, not its log: jnp.exp(log_scale), or jax.nn.softplus(...).",
            )


def _called(module: Any, rows: Any) -> Any:
    return module(rows)
