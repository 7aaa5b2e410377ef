"""What one run of a model at a point gives, site by site and before anything is summed: `Terms`.

The log density in the flat vector is one sum of many parts,

    log density(z) = sum over sites of  N/B (sum of log p(x_i | before) + sum of log |dx/dz|_i),

and everybody above needs it summed in another way: over everything, site by site, row by row, without the
log |dx/dz|, or with some sites' parts replaced by a divergence in closed form. So the model is run once, the
parts are kept, and each of these is a reduction of them. What a program does not ask for costs it nothing: `run`
is compiled as an inner function, and the compiler drops what is not read.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.programs.compiling import OverDraws
from vbppl.core.programs.rerolling.rerolled import rerolled
from vbppl.core.pytree import pytree, static
from vbppl.core.special import NORMAL_ENTROPY
from vbppl.core.types import Array
from vbppl.distributions.kl import kl_by_coordinate, kl_divergence, normal_beside
from vbppl.distributions.location_scale import Parameterisation, bijector_of, log_prob_at, moved_and_link, vector_dim
from vbppl.distributions.quantiles import QUANTILES, by_quantiles
from vbppl.model.arguments import leading_draws
from vbppl.model.control_flow.hidden import Counted
from vbppl.model.control_flow.steps import at_step, value_at
from vbppl.model.enumeration.marginal import summed_out
from vbppl.model.enumeration.support import Support
from vbppl.model.handlers import Answer, answered, at_point, at_rows, log_probs, states_of
from vbppl.model.model import Model
from vbppl.model.modules import Parts, parts
from vbppl.model.primitives import Handler, Site, subsample
from vbppl.model.shapes import Frame
from vbppl.model.trace import abstract_sites, summed, values_of
from vbppl.target.layout import Apart, Layout, sliced


@pytree
class Term:
    """What one statement adds to a log density, before it is summed.

    Attributes:
      log_prob: the log density of its value, in the distribution's batch shape; a factor's value.
      log_det: of a latent site log |dx/dz|, in the shape of its batch or of its slice of `z`; None of others.
      dist: the distribution of a latent site, None of others.
      bijector: the one from `z` to the value, where that is not the distribution's support; None elsewhere.
      name: the site's.
      scale: N/B, how much the term counts.
      plates: the plates around the site.
    """

    log_prob: Array
    log_det: Array | None
    dist: Any
    bijector: Any
    name: str = static()
    scale: float = static()
    plates: tuple[Frame, ...] = static()

    @property
    def is_summed(self) -> bool:
        """Whether it is a latent site whose density is a part of a sum over discrete ones, which has another term."""
        return isinstance(self.dist, Counted)

    def log_density(self) -> Array:
        """What the site adds to the log joint density, a scalar: summed over its rows, times N/B."""
        return summed([(self.log_prob, self.scale)])

    def total_log_det(self) -> Array:
        """What its coordinates add to the log density, a scalar."""
        return jnp.zeros(()) if self.log_det is None else jnp.sum(self.log_det) * self.scale

    def by_row(self, plate: str) -> Array:
        """What the site adds to the log joint density for each row shown of its only plate, `(rows,)`, unscaled.

        Raises:
          ModelError: it stands in another plate, or in several.
        """
        if [frame.name for frame in self.plates] != [plate]:
            where = ", ".join(frame.name for frame in self.plates) or "no plate"
            raise ModelError(
                f"the site stands in {where}, not in the plate '{plate}' alone, so its density is not a sum over rows.",
                site=self.name,
                mend="Importance weights by row are for models all of whose sites stand in one plate, as in a VAE.",
            )
        frame, dims = self.plates[0], jnp.ndim(self.log_prob)
        return jnp.sum(self.log_prob, axis=tuple(axis for axis in range(dims) if axis != dims + frame.dim))

    def beside(self, loc: Array, sd: Array) -> Any:
        """What the site's value is distributed as if its `z` is `N(loc, sd)`, if that has a closed-form divergence."""
        if isinstance(self.bijector, QUANTILES):
            return None
        if self.bijector is not None:
            # An affine map of a normal is a normal, whatever the family of the prior.
            if vector_dim(self.dist):
                return normal_beside(self.dist, self.bijector.forward(loc), sd, self.bijector.matrix * sd[..., None, :])
            moved, _ = moved_and_link(self.bijector)
            loc, sd = moved.forward(loc), moved.scale * sd
        return normal_beside(self.dist, loc, sd)


@pytree
class Terms:
    """The terms of one run at one point, in the order of the model's statements; all sums are in nats.

    Attributes:
      terms: of each sample and factor statement.
      reported: the values of latent and deterministic sites, by name.
      states: what the run has left in modules and mutable values, by the sites' names.
    """

    terms: tuple[Term, ...]
    reported: dict[str, Any]
    states: dict[str, Any]

    def __getitem__(self, name: str) -> Term:
        return next(term for term in self.terms if term.name == name)

    def log_joint(self) -> Array:
        """The log joint density on the supports, a scalar."""
        return summed([(term.log_prob, term.scale) for term in self.terms])

    def log_density(self) -> Array:
        """The log density in the flat vector, a scalar: the log joint density and log |dx/dz|."""
        return sum((term.total_log_det() for term in self.terms if term.log_det is not None), self.log_joint())

    def by_site(self) -> dict[str, Array]:
        """What each site adds to `log_density`: scalars by the sites' names."""
        return {term.name: term.log_density() + term.total_log_det() for term in self.terms}

    def by_row(self, plate: str) -> Array:
        """The log density of each row shown of the plate in which every site stands, `(rows,)`, unscaled.

        Raises:
          ModelError: a site stands elsewhere.
        """
        each = [term.by_row(plate) for term in self.terms]
        total = sum(each[1:], each[0])
        # Axes of an event come last whether a log det has them or not, so the rows are always the leading numbers.
        log_dets = (term.log_det for term in self.terms if term.log_det is not None)
        return sum((part.reshape(len(total), -1).sum(axis=1) for part in log_dets), total)

    def with_normals(self, normals: Mapping[str, tuple[Array, Array]]) -> Array:
        """The log density where some sites' slices of `z` are drawn from normals independently of all else: a scalar.

        Their terms are replaced by their means over that normal where these have a closed form,

            E[log p + log |dx/dz|] = -KL(N(loc, sd), prior) - entropy,

        so that nothing is left to chance.

        Args:
          normals: by the sites' names `(loc, sd)`, each of the slice's shape.
        """
        total = jnp.zeros(())
        for term in self.terms:
            q = term.beside(*normals[term.name]) if term.name in normals else None
            if q is None:
                total += term.log_density() + term.total_log_det()
            else:
                # The caller adds the entropy of all of q by itself, so it is taken off here.
                entropy = jnp.sum(jnp.log(normals[term.name][1]) + NORMAL_ENTROPY)
                total -= (jnp.sum(kl_divergence(q, term.dist)) + entropy) * term.scale
        return total

    def divergences(self, normals: Mapping[str, tuple[Array, Array]]) -> dict[str, tuple[Array, Array]]:
        """For each site of `normals` its divergence from the prior, `(rows, coordinates)` nats, and its scale N/B.

        Raises:
          ModelError: it has no closed form.
        """
        found = {}
        for name, normal in normals.items():
            term = self[name]
            q = term.beside(*normal)
            if q is None:
                raise ModelError(
                    f"the divergence of a normal from {type(term.dist).__name__} has no closed form.",
                    site=name,
                    mend="Use the plain bound: warm-up and free bits need the divergence of each site by itself.",
                )
            cost = kl_by_coordinate(q, term.dist)
            found[name] = (cost.reshape(math.prod(term.dist.batch_shape), -1), jnp.asarray(term.scale))
        return found


def terms_of(sites: Mapping[str, Site]) -> tuple[Term, ...]:
    """The terms of a run's sites."""

    def term(site: Site) -> Term:
        # The distribution of an observed site is not kept: nobody compares it with another, and it holds data.
        dist = None if site.observed else site.dist
        place = (site.name, site.scale, site.frames)
        log_det, bijector, log_prob = (site.kind == "sample" and site.told) or (None, None, None)
        log_prob = log_probs(site) if log_prob is None else log_prob
        return Term(jnp.asarray(log_prob), log_det, dist, bijector, *place)

    return tuple(term(site) for site in sites.values() if site.kind in ("sample", "factor"))


class Evaluable(Protocol):
    """What a run reads of a target."""

    @property
    def model(self) -> Model: ...
    @property
    def params(self) -> dict[str, Any]: ...
    @property
    def parameterisations(self) -> dict[str, Parameterisation]: ...
    @property
    def layout(self) -> Layout: ...


def _form_of(target: Evaluable, site: Site, rows: Mapping[str, Any]) -> Parameterisation | None:
    """How a site is seen, at the rows shown; None of one that cannot be moved, or not any more."""
    form = target.parameterisations.get(site.name)
    if form is None:
        return None
    weight, y, d = map(jnp.asarray, (form.weight, at_step(site.step, form.y), at_step(site.step, form.d)))
    y, d = (_at_rows_shown(site, part) for part in (y, d)) if rows else (y, d)
    return Parameterisation(weight, y, d)


def _bijector(target: Evaluable, site: Site, form: Parameterisation | None) -> Any:
    """From a site's slice of the flat vector onto its values."""
    if site.name in target.layout.by_quantiles:
        return by_quantiles(site.dist)
    return bijector_of(site.dist, form, site.name in target.layout.fixed_noncentred)


def _at_rows_shown(site: Site, part: Array) -> Array:
    """What a site has for every row, of the shape of its slice, at the rows shown."""
    return subsample(part, event_dim=part.ndim - len(site.dist.batch_shape))


# Inlined: the model's Python code runs once for all programs that contain it, and each of them is optimised as one.
@functools.partial(jax.jit, static_argnames="shown", inline=True)
def run(target: Evaluable, z: Array | Apart, rows: dict[str, Array], shown: bool) -> Terms:
    """The terms of a run at `z`, which holds every row's coordinates, or the shown ones alone."""
    slices = sliced(target.layout, z, rows if shown else {})

    reading = _reading(target, slices, rows, shown)

    def once(summing: Callable[[Handler], Handler]) -> tuple[dict[str, Site], Any]:
        sites = target.model.trace(at_rows(rows, summing(reading), target.params))
        return sites, _states(target, sites)

    if target.layout.summed:
        sites, states = summed_out(once, target.layout.summed)
    else:
        sites = target.model.trace(at_rows(rows, reading, target.params))
        states = _states(target, sites)
    found = values_of({name: sites[name] for name in target.layout.reported if name in sites})
    return Terms(terms_of(sites), found, states)


def _reading(target: Evaluable, slices: Mapping[str, Array], rows: Mapping[str, Array], shown: bool) -> Handler:
    """The handler that reads values off slices of `z`, and tells log |dx/dz| and other bijectors than supports."""

    def value_of(site: Site) -> Answer:
        # The support may depend on what was drawn before, so it is asked here and not in advance.
        form = _form_of(target, site, rows)
        bijector = _bijector(target, site, form)
        part = at_step(site.step, slices[site.name])
        if rows and not shown:
            part = _at_rows_shown(site, part)
        value, log_det = bijector.forward_and_log_det(part)
        if site.name not in (*target.layout.movable, *target.layout.fixed_noncentred, *target.layout.by_quantiles):
            return Answer(value, (log_det, None, None))
        is_affine = site.name not in target.layout.by_quantiles
        log_prob = log_prob_at(site.dist, form, bijector, part, value) if is_affine else site.dist.log_prob(value)
        if site.step is not None:  # with one shape for all steps
            bijector = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, jnp.shape(value)), bijector)
        return Answer(value, (log_det, bijector, log_prob))

    return answered(value_of)


def _states(target: Evaluable, sites: Mapping[str, Site]) -> dict[str, Any]:
    # Only what has a training mode changes its states, and only there are they sure to be arrays.
    return states_of(sites) if target.layout.has_training_mode else {}


@functools.partial(jax.jit, static_argnames="jacobian", inline=True)
@rerolled
def log_density(target: Evaluable, z: Array, rows: dict[str, Array], jacobian: bool) -> Array:
    """The log density at `z`, compiled as one program where nothing is compiled around it: a scalar."""
    terms = run(target, z, rows, False)
    return terms.log_density() if jacobian else terms.log_joint()


def nonfinite_sites(target: Any, z: Any) -> tuple[str, ...]:
    """The sites whose log density or gradient is not finite at one of the points `z`, `(n, dim)`."""
    finite = _finite_sites(target, target.layout.flat(z, batched=True))
    return tuple(name for name, ok in finite.items() if not np.all(ok))


@jax.jit
def _finite_sites(target: Any, z: Array) -> dict[str, Array]:
    def densities(z: Array) -> dict[str, Array]:
        return target.run(z).by_site()

    def one(z: Array) -> dict[str, Array]:
        # One site at a time: in a shared backward pass, zero times another site's infinity would be NaN.
        values = densities(z)
        slopes = {name: jax.grad(lambda z, name=name: densities(z)[name])(z) for name in values}
        return {name: jnp.isfinite(value) & jnp.isfinite(slopes[name]).all() for name, value in values.items()}

    return jax.vmap(one)(z)


@jax.jit
def constrained(target: Evaluable, z: Array) -> dict[str, Array]:
    """The values of the latent and deterministic sites at a point `(dim,)`."""
    return run(target, z, {}, False).reported


constrained_draws = OverDraws(lambda z, target: run(target, z, {}, False).reported, side_by_side=None)


def unconstrained(target: Evaluable, values: dict[str, Array]) -> tuple[Array, Array]:
    """The `z` at one value for each latent site, and log |dx/dz|; or at draws of them."""
    # Draws are told from one value by their shapes, which only the sites' outlines know.
    if leading_draws(abstract_sites(target.model), values) is None:
        return _unconstrained(values, target)
    return _unconstrained_draws(values, target)


def unconstrained_at(
    values: Mapping[str, Array], target: Evaluable, rows: Mapping[str, Array] = MappingProxyType({})
) -> tuple[Array, Array]:
    """The `z` of the rows shown, and log |dx/dz|, at one value for each site."""
    dtype = jnp.result_type(float)

    def value_of(site: Site) -> Answer | Array:
        if site.name in target.layout.summed:  # no slice depends on it
            return Support.of(site).value(jnp.zeros((), int))
        value = value_at(site, values[site.name])
        bijector = _bijector(target, site, _form_of(target, site, rows))
        # Log |dx/dz| is asked at the image, by the formula of the way there: no bijector has two of them.
        z = jnp.asarray(bijector.inverse(value), dtype)
        return Answer(value, (z, bijector.forward_and_log_det(z)[1]))

    sites = target.model.trace(at_rows(rows, answered(value_of), target.params))
    told = [site.told for site in sites.values() if site.told is not None]
    log_det = sum((jnp.sum(each) for _, each in told), jnp.zeros(()))
    parts = [z.reshape(-1) for z, _ in told]
    return jnp.concatenate(parts) if parts else jnp.zeros(0, dtype), log_det


_unconstrained, _unconstrained_draws = jax.jit(unconstrained_at), OverDraws(unconstrained_at, side_by_side=None)


def packed_params(target: Evaluable) -> dict[str, Parts]:
    """The current values of the params, taken apart, so that they may cross the border of a compiled program."""
    return _packed_params(target.model, target.params) if target.layout.params else {}


@jax.jit
def _packed_params(model: Model, params: dict[str, Any]) -> dict[str, Parts]:
    sites = model.trace(at_rows({}, at_point(0.0), params))
    return {site.name: parts(site.value) for site in sites.values() if site.kind == "param"}


def made_params(model: Model, params: Mapping[str, Any]) -> dict[str, Any]:
    """The params of a program on their supports, shaped like their `init`, from their unconstrained values."""
    packed = _packed_params(model, dict(params)) if params else {}
    return {name: value.made() for name, value in packed.items()}


def initial_states(target: Evaluable) -> dict[str, Any]:
    """What the first step of a fit finds in modules and mutable values."""
    return target.model.initial_states()
