"""The waist: a model as a log density on a flat real vector.

Below this file is how a model is written, above it how it is approximated, and nothing else
crosses. A `Target` is what remains of a model when only its density matters:

    log_density(z) = log joint(x(z)) + log |dx/dz|,    z in R^dim,

where `x(z)` maps each slice of `z` onto the support of its site by the bijector that *is* the
site's `support`. The map is evaluated while the model runs, so a support may depend on what was
drawn before it (`Uniform(0, a)` with `a` latent). Only shapes are fixed in advance, by one
abstract run: they make the `Layout`.

A target is a pytree: the data are its leaves, the layout and the function are static. The density
is compiled as an inner function of whatever program uses it, so the model's Python code runs once
for all of them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.pytree import pytree, static
from vbppl.core.special import HALF_LOG_TWO_PI
from vbppl.core.types import Array, ArrayLike
from vbppl.data import rows as rows_of
from vbppl.data.source import Source
from vbppl.distributions.kl import kl_by_coordinate, kl_divergence, normal_beside
from vbppl.distributions.location_scale import coordinates
from vbppl.model.handlers import states_of, with_params, with_rows
from vbppl.model.model import Model, check_applied, leading_draws
from vbppl.model.modules import Parts, parts
from vbppl.model.primitives import Site, subsample
from vbppl.model.shapes import check_value
from vbppl.model.trace import abstract_sites, by_row, log_density, log_joint, values_of
from vbppl.target.layout import Layout, shown_slices


@pytree
class Target:
    """A log density on a flat real vector.

    >>> import vbppl as vb, vbppl.distributions as dist
    >>> @vb.model
    ... def flat_scale():
    ...     vb.sample("sd", dist.HalfNormal(1.0))
    >>> target = vb.target(flat_scale())
    >>> target.dim
    1
    >>> print(f"{target.log_density(np.zeros(1)):.4f}")  # at sd = 1: log(2 phi(1)) + log 1
    -0.7258

    Attributes:
      model: what the density belongs to, with its data.
      params: the current unconstrained values of the model's params, by name.
      centred: for each of the layout's `movable` sites 1.0 if it is centred, 0.0 if not.
      rows: of plates that show a part unless other rows are asked for; none, usually.
      layout: the shapes.
    """

    model: Model
    params: dict[str, Any]
    centred: ArrayLike
    rows: dict[str, Any]
    layout: Layout = static()

    @classmethod
    def of(cls, model: Model) -> Target:
        """Look at one abstract run of `model`, put its data on the device, keep the shapes."""
        check_applied(model)
        layout = Layout.of(abstract_sites(model), model.decentered)
        model = model.with_arrays(lambda leaf: leaf if isinstance(leaf, Source) else jax.device_put(leaf))
        centred = np.array([name not in model.decentered for name in layout.movable], jnp.result_type(float))
        return cls(model, model.initial_params() if layout.params else {}, centred, {}, layout)

    @property
    def dim(self) -> int:
        """The length of the flat vector."""
        return self.layout.dim

    @property
    def data_size(self) -> int:
        """How many numbers the data hold: what an evaluation of the density costs grows with it."""
        held = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(self.rows or self.model))
        return held if self.rows else held + rows_of.numbers(self.layout.plates, self.model.sources)

    def parts(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """Sets of rows that fit in memory, with weights: `(weight, rows)`. One, of all rows, without sources.

        The weights sum to 1, and the weighted mean of `log_density(z, rows)` is the density at all rows.
        """
        return rows_of.parts(self.layout.plates, self.model.sources)

    def showing(self, rows: Mapping[str, Any]) -> Target:
        """The density of these rows, where none are asked for."""
        return dataclasses.replace(self, rows=self.read(rows))

    def with_lengths(self, lengths: Mapping[str, int]) -> Target:
        """The same density, whose plates show so many rows, by their names; all of the others."""
        return dataclasses.replace(self, layout=self.layout.showing(lengths))

    def in_fixed_coordinates(self) -> Target:
        """The same density, whose coordinates are compiled in: cheaper, but a program for each choice of them."""
        layout, none = self.layout.fixed(self.centred), np.zeros(0, self.centred.dtype)
        return dataclasses.replace(self, centred=none, layout=layout)

    def log_density(self, z: Any, rows: Mapping[str, Array] | None = None, jacobian: bool = True) -> Array:
        """The log density at `z`, `(dim,)`, in nats: a scalar.

        Args:
          z: a point.
          rows: the indices of the rows of plates that show a part, as those of sources must, by the plate's name.
          jacobian: False leaves log |dx/dz| out: the log joint density on the supports.
        """
        return _log_density(self, self.layout.flat(z), self.read(rows), jacobian)

    def site_densities(self, z: Any, rows: Mapping[str, Any] | None = None) -> dict[str, Array]:
        """What each site adds to the log density at `z`, `(dim,)`, in nats: scalars by the sites' names."""
        return _site_densities(self, self.layout.flat(z), self.read(rows))

    def shown_log_density(
        self, z: Any, rows: Mapping[str, Array], normals: Mapping[str, tuple[Array, Array]] | None = None
    ) -> Array:
        """As `log_density`, of a `z` that holds the shown rows alone, `(shown_dim,)`: a scalar, in nats.

        Args:
          z: the slots one after the other, each of the shape `slot.shown(lengths)`.
          rows: of each plate that shows a part, the rows that `z` belongs to.
          normals: for sites whose slice of `z` is drawn from `N(loc, sd)` independently of all else, `(loc, sd)`,
            each of the slice's shape. Their log density is replaced by its mean over that normal where it has
            a closed form, `-KL(N(loc, sd), prior) - entropy`: nothing is left to chance.
        """
        return _shown_log_density(self, jnp.asarray(z), self.read(rows), dict(normals or {}))

    def nonfinite_sites(self, z: Any, rows: Mapping[str, Array] | None = None) -> tuple[str, ...]:
        """The sites whose log density or gradient is not finite at one of the points `z`, `(n, dim)`."""
        finite = _finite_sites(self, self.layout.flat(z, batched=True), self.read(rows))
        return tuple(name for name, ok in finite.items() if not np.all(ok))

    def read(self, rows: Mapping[str, Any] | None) -> dict[str, Any]:
        """`rows`, checked, together with what sources hold there; on the host, where there are sources."""
        return rows_of.checked(self.layout.plates, self.model.sources, self.rows if rows is None else rows)

    def constrain(self, z: Any) -> dict[str, Array]:
        """The values of the latent and deterministic sites at `z`: `(dim,)`, or draws `(n, dim)`."""
        return self.in_order(_constrain(self, self.layout.flat(z, batched=True)))

    def in_order(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """The latent and deterministic sites in the order of the model's statements, which JAX forgets."""
        return {name: values[name] for name in self.layout.reported}

    def unconstrain(self, values: Mapping[str, Any]) -> Array:
        """The `z` that `constrain` maps to `values`: `(dim,)`, or `(n, dim)` for draws `(n, ...)`."""
        return _unconstrain(self, self.layout.latent_values(values))[0]

    def shown_unconstrain(self, values: Mapping[str, Array], rows: Mapping[str, Array]) -> Array:
        """The `z` of `shown_log_density` at one value for each site, at the rows shown: `(shown_dim,)`."""
        return _unconstrained(self, values, rows)[0]

    def log_det(self, values: Mapping[str, Any]) -> Array:
        """Log |dx/dz| at `values`: a scalar, or `(n,)` for draws."""
        return _unconstrain(self, self.layout.latent_values(values))[1]

    def weights(self) -> dict[str, Array]:
        """For each site that can be seen centred or not its weight, 1.0 where it is centred."""
        return dict(zip(self.layout.movable, jnp.asarray(self.centred)))

    def param_values(self) -> dict[str, Any]:
        """The current values of the params, on their supports, shaped like their `init`."""
        return {name: value.made() for name, value in self.packed_params().items()}

    def packed_params(self) -> dict[str, Parts]:
        """The same, taken apart, so that they may cross the border of a compiled program."""
        return _param_values(self) if self.layout.params else {}

    def training(self, states: Mapping[str, Any], raw_key: Array) -> Target:
        """The density as a step of a fit sees it: modules in training mode, their random streams from `raw_key`."""
        return dataclasses.replace(self, model=self.model.in_training(states, raw_key))

    def resting(self, states: Mapping[str, Any]) -> Target:
        """The density as it is once the fit has ended, with what the steps have left in modules."""
        return dataclasses.replace(self, model=self.model.in_training(states, None))

    def first_states(self) -> dict[str, Any]:
        """What the first step finds in modules and mutable values."""
        return self.model.initial_states() if self.layout.has_training_mode else {}

    def next_states(self, z: Any, rows: Mapping[str, Array], shown: bool = False) -> dict[str, Any]:
        """What a run at `z` leaves in modules and mutable values; `shown`: a `z` as in `shown_log_density`."""
        return states_of(self.model.trace(_Reader(self, jnp.asarray(z), self.read(rows), shown)))

    def row_log_density(self, z: Any, rows: Mapping[str, Array]) -> Array:
        """The log density of each row shown of the only plate, `(rows,)`, unscaled; `z` as in `shown_log_density`."""
        return _row_log_density(self, jnp.asarray(z), self.read(rows))

    def divergences(
        self, z: Any, rows: Mapping[str, Array], normals: Mapping[str, tuple[Array, Array]]
    ) -> dict[str, tuple[Array, Array]]:
        """For each site of `normals` its divergence from the prior, `(rows, coordinates)` nats, and its scale N/B."""
        return _divergences(self, jnp.asarray(z), self.read(rows), dict(normals))

    def with_data(self, model: Model) -> Target:
        """The density of the same function at other data, with these params and states."""
        mine = self.model
        other = Target.of(dataclasses.replace(model, states=mine.states, decentered=mine.decentered))
        if other.layout.params != self.layout.params:
            theirs, own = (", ".join(each.layout.params) or "none" for each in (other, self))
            raise ModelError(
                f"{model!r} has the params {theirs}, but those of the fitted model are {own}.",
                mend="Apply the function that was fitted to the other data.",
            )
        return dataclasses.replace(other, params=self.params, centred=self.centred)


def target(model: Model) -> Target:
    """The flat log density of `model`; works as it is in BlackJAX, Optimistix and the like."""
    check_applied(model)
    return Target.of(model.loaded())


class _Reader:
    """Answers latent sites from slices of `z`, and sums log |dx/dz|."""

    def __init__(self, target: Target, z: Array, rows: Mapping[str, Array], shown: bool = False):
        self.slots = {slot.name: slot for slot in target.layout.slots}
        self.shown = shown_slices(target.layout, rows) if shown else None
        self.target, self.z, self.rows = target, z, rows
        self.log_dets: dict[str, Array] = {}
        self.parts: dict[str, Array] = {}  # of the log dets, not summed

    def __call__(self, site: Site) -> Site:
        if site.kind == "plate":
            return with_rows(site, self.rows)
        if site.kind == "param":
            return with_params(site, self.target.params[site.name])
        if site.kind != "sample" or site.value is not None:
            return site
        value, log_det = _coordinates(self.target, site).forward_and_log_det(self.slice_of(site.name))
        self.parts[site.name] = log_det
        self.log_dets[site.name] = jnp.sum(log_det) * site.scale
        return dataclasses.replace(site, value=value)

    def slice_of(self, name: str) -> Array:
        """The site's part of `z`, at the rows shown."""
        slot = self.slots[name]
        if self.shown is not None:
            start, shape = self.shown[name]
            return self.z[start : start + math.prod(shape)].reshape(shape)
        z = self.z[slot.start : slot.stop].reshape(slot.unconstrained)
        return subsample(z, event_dim=slot.event_dim) if self.rows else z


def _coordinates(target: Target, site: Site) -> Any:
    """The bijector from a site's slice of the flat vector onto its values."""
    weight = target.weights()[site.name] if site.name in target.layout.movable else None
    return coordinates(site.dist, weight, site.name in target.layout.fixed_decentred)


@functools.partial(jax.jit, static_argnames="jacobian", inline=True)
def _log_density(target: Target, z: Array, rows: dict[str, Array], jacobian: bool) -> Array:
    reader = _Reader(target, z, rows)
    total = log_joint(target.model.trace(reader))
    return sum(reader.log_dets.values(), total) if jacobian else total


@functools.partial(jax.jit, inline=True)
def _shown_log_density(
    target: Target, z: Array, rows: dict[str, Array], normals: dict[str, tuple[Array, Array]]
) -> Array:
    reader = _Reader(target, z, rows, shown=True)
    total = jnp.zeros(())
    for name, site in target.model.trace(reader).items():
        q = _beside(target, site, *normals[name]) if name in normals else None
        if q is None:
            total += log_density(site) + reader.log_dets.get(name, 0.0)
        else:
            entropy = jnp.sum(jnp.log(normals[name][1]) + HALF_LOG_TWO_PI + 0.5)
            total -= (jnp.sum(kl_divergence(q, site.dist)) + entropy) * site.scale
    return total


def _beside(target: Target, site: Site, loc: Array, sd: Array) -> Any:
    """What the site's value is distributed as if its `z` is `N(loc, sd)`, if that has a closed-form divergence."""
    if site.name in (*target.layout.movable, *target.layout.fixed_decentred):
        move = _coordinates(target, site)
        loc, sd = move.forward(loc), move.scale * sd
    return normal_beside(site.dist, loc, sd)


@functools.partial(jax.jit, inline=True)
def _row_log_density(target: Target, z: Array, rows: dict[str, Array]) -> Array:
    plate = target.layout.only_plate().name
    reader = _Reader(target, z, rows, shown=True)
    sites = target.model.trace(reader).values()
    terms = [by_row(site, plate) for site in sites if site.kind in ("sample", "factor")]
    total = sum(terms[1:], terms[0])
    return sum((part.reshape(len(total), -1).sum(axis=1) for part in reader.parts.values()), total)


@functools.partial(jax.jit, inline=True)
def _divergences(
    target: Target, z: Array, rows: dict[str, Array], normals: dict[str, tuple[Array, Array]]
) -> dict[str, tuple[Array, Array]]:
    sites, found = target.model.trace(_Reader(target, z, rows, shown=True)), {}
    for name, normal in normals.items():
        site = sites[name]
        q = _beside(target, site, *normal)
        if q is None:
            raise ModelError(
                f"the divergence of a normal from {type(site.dist).__name__} has no closed form.",
                site=name,
                mend="Use the plain bound: warm-up and free bits need the divergence of each site by itself.",
            )
        cost = kl_by_coordinate(q, site.dist)
        found[name] = (cost.reshape(math.prod(site.dist.batch_shape), -1), jnp.asarray(site.scale))
    return found


@functools.partial(jax.jit, inline=True)
def _site_densities(target: Target, z: Array, rows: dict[str, Any]) -> dict[str, Array]:
    reader = _Reader(target, z, rows)
    sites = target.model.trace(reader)
    return {
        name: log_density(site) + reader.log_dets.get(name, 0.0)
        for name, site in sites.items()
        if site.kind in ("sample", "factor")
    }


@jax.jit
def _finite_sites(target: Target, z: Array, rows: dict[str, Array]) -> dict[str, Array]:
    def densities(z: Array) -> dict[str, Array]:
        return _site_densities(target, z, rows)

    def one(z: Array) -> dict[str, Array]:
        # One site at a time: in a shared backward pass, zero times another site's infinity would be NaN.
        values = densities(z)
        slopes = {name: jax.grad(lambda z, name=name: densities(z)[name])(z) for name in values}
        return {name: jnp.isfinite(value) & jnp.isfinite(slopes[name]).all() for name, value in values.items()}

    return jax.vmap(one)(z)


@jax.jit
def _constrain(target: Target, z: Array) -> dict[str, Array]:
    def one(z):
        sites = target.model.trace(_Reader(target, z, {}))
        return values_of({name: site for name, site in sites.items() if not site.observed})

    return jax.vmap(one)(z) if z.ndim == 2 else one(z)


@jax.jit
def _unconstrain(target: Target, values: dict[str, Array]) -> tuple[Array, Array]:
    one = functools.partial(_unconstrained, target, rows={})
    draws = leading_draws(abstract_sites(target.model), values)
    return one(values) if draws is None else jax.vmap(one)(values)


def _unconstrained(target: Target, values: Mapping[str, Array], rows: Mapping[str, Array]) -> tuple[Array, Array]:
    """The `z` of the rows shown, and log |dx/dz|, at one value for each site."""
    parts, log_dets, dtype = [], [], jnp.result_type(float)

    def interpret(site: Site) -> Site:
        if site.kind == "plate":
            return with_rows(site, rows)
        if site.kind == "param":
            return with_params(site, target.params[site.name])
        if site.kind != "sample" or site.value is not None:
            return site
        value = values[site.name]
        check_value(site.name, value, site.shape, site.frames)
        bijector = _coordinates(target, site)
        z = jnp.asarray(bijector.inverse(value), dtype)
        parts.append(z.reshape(-1))
        log_dets.append(jnp.sum(bijector.forward_and_log_det(z)[1]))
        return dataclasses.replace(site, value=value)

    target.model.trace(interpret)
    return jnp.concatenate([jnp.zeros(0, dtype), *parts]), sum(log_dets, jnp.zeros(()))


@jax.jit
def _param_values(target: Target) -> dict[str, Parts]:
    sites = target.model.trace(_Reader(target, jnp.zeros(target.dim), {}))
    return {site.name: parts(site.value) for site in sites.values() if site.kind == "param"}
