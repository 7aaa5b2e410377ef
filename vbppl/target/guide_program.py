"""The waist's second face: a guide written as a program, beside the model's density.

A guide program is run like a model, with its own params. Where a latent site has a closed-form
Kullback-Leibler divergence between its distributions in guide and model, the bound uses it:

    E_q[log p - log q] = E_q[log p(y | x)] - E_q[KL(q(x | before) || p(x | before))],

which is right only if nothing that the model's prior of the site depends on is drawn after the
site in the guide; the order of the statements is checked for that, and where it fails the site's
`log p - log q` is used.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.errors import ModelError
from vbppl.core.types import Array
from vbppl.data.source import RowBlock, Source, unpadded
from vbppl.distributions.kl import has_coordinates, has_kl, kl_by_coordinate, kl_divergence, normal_moments
from vbppl.model.control_flow.steps import key_at
from vbppl.model.enumeration.marginal import marginal
from vbppl.model.handlers import answered, at_rows, given, required, states_of
from vbppl.model.model import Model, guide
from vbppl.model.modules import parts
from vbppl.model.primitives import Handler, Site, param
from vbppl.model.trace import Outline, abstract_sites, values_of
from vbppl.target.density import Term, terms_of, unconstrained_at
from vbppl.target.target import Target


def bound(program: Model, phi: Any, target: Target, key: Array) -> Array:
    """One draw's term of the evidence lower bound, a scalar, with closed forms where they hold."""
    q, p = _terms(*_side_by_side(program, phi, target, key))
    closed = _closed_forms(q, p)
    pieces = []
    for name, term in p.items():
        # The guide's entropy and the prior's part together: both are gone from the sum where the form is closed.
        if name in closed:
            pieces.append(-jnp.sum(kl_divergence(q[name].dist, term.dist)) * term.scale)
        else:
            pieces.append(term.log_density() - (q[name].log_density() if name in q else 0.0))
    return sum(pieces, jnp.zeros(()))


def divergences(program: Model, phi: Any, target: Target, key: Array) -> dict[str, tuple[Array, float]]:
    """What the guide's sites cost in `bound`, not summed: for each site `(rows, coordinates)` nats, and N/B.

    A closed form that is a sum over an event's coordinates is given for each of them.
    """
    q, p = _terms(*_side_by_side(program, phi, target, key))
    closed = _closed_forms(q, p)
    found = {}
    for name, term in q.items():
        batch = len(term.dist.batch_shape)
        # A point's divergence is its log density, which has no coordinates to be told apart.
        if name in closed and has_coordinates(term.dist):
            cost = kl_by_coordinate(term.dist, p[name].dist)
        else:
            cost = term.log_prob - p[name].log_prob
        found[name] = (cost.reshape(math.prod(cost.shape[:batch]), -1), term.scale)
    return found


def latent_values(program: Model, phi: Any, key: Array, rows: Mapping[str, Array]) -> dict[str, Array]:
    """One draw of the guide's sites, at the rows shown, without a look at the model."""
    return _values(_drawn(program, phi, rows, key))


def normals(program: Model, phi: Any, target: Target) -> dict[str, tuple[Array, Array]]:
    """Mean and sd in unconstrained space of the guide's sites, `(rows, ...)` each.

    Raises:
      ModelError: a site depends on another one, or is not normal there.
    """
    # Of one site alone: then its distribution depends on no draw, and any key will do.
    q, p = _terms(*_side_by_side(program, phi, target, jax.random.key(0)))
    found = {}
    for name, term in q.items():
        moments = normal_moments(term.dist, p[name].dist)
        if moments is None or len(q) > 1:
            raise ModelError(
                f"the rows' normals can be read off a guide with one normal site only, not {type(term.dist).__name__}.",
                site=name,
                mend="Use vb.Amortized, or a guide with one Normal.",
            )
        found[name] = moments
    return found


def reapplied(before: Model, program: Model | None) -> Model:
    """`program`, the same function at other data, with the module states of `before`.

    Raises:
      ModelError: there is none, or another function.
    """
    if program is None or getattr(program, "function", None) is not before.function:
        raise ModelError(
            f"a guide program reads data of its own, so other rows need it applied to them, not {program!r:.80}.",
            mend=f"Pass guide={getattr(before.function, '__name__', 'my_guide')}(...), applied to the new rows.",
        )
    return program.in_training(before.states, None)


def row_log_weights(program: Model, phi: Any, target: Target, values: Mapping[str, Array]) -> Array:
    """`log p(y, x) - log q(x)` of each row shown of the one plate that holds every site, `(rows,)`."""
    q = _at_values(program, phi, target.rows, values)
    p = _model_at(target, values)
    plate = target.layout.only_plate().name
    of_p, of_q = ([term.by_row(plate) for term in terms_of(sites)] for sites in (p, q))
    return sum(of_p[1:], of_p[0]) - sum(of_q)


def next_states(program: Model, phi: Any, target: Target, key: Array) -> dict[str, dict[str, Any]]:
    """What one run of the guide, and of the model after it, leave in modules and mutable values."""
    q, p = _side_by_side(program, phi, target, key)
    return {"guide": states_of(q), "model": states_of(p)}


class Drawn(NamedTuple):
    """One run of a guide, and of the model at its draws, at the rows that the target shows.

    Attributes:
      z: where the draw lies in unconstrained space, `(shown_dim,)`.
      log_q: the guide's log density there, a scalar.
      log_p: the model's.
      values: the latent and deterministic sites on their supports.
    """

    z: Array
    log_q: Array
    log_p: Array
    values: dict[str, Array]


def drawn(program: Model, phi: Any, target: Target, key: Array) -> Drawn:
    """One draw of all latent and deterministic sites of the model."""
    q, p = _side_by_side(program, phi, target, key)
    z, log_det = unconstrained_at(_values(q), target, target.rows)
    # Both densities are known on the supports, so log |dx/dz| cancels in their difference: where a draw lies on an
    # edge, and it is infinite, it must not make a number out of none.
    log_det = jnp.where(jnp.isfinite(log_det), log_det, 0.0)
    values = values_of({name: site for name, site in p.items() if not site.observed})
    of_q, of_p = _terms(q, p)
    return Drawn(z, _total(of_q) + log_det, _total(of_p) + log_det, values)


def log_prob_at(program: Model, phi: Any, target: Target, z: Array) -> Array:
    """The guide's log density at `z`, as in `Drawn`, in unconstrained space."""
    found = target.run(z, shown=True)
    # The guide's density is known on the supports; log |dx/dz| takes it to the coordinates of `z`.
    (terms,) = _terms(_at_values(program, phi, target.rows, found.reported))
    log_dets = (jnp.sum(term.log_det) for term in found.terms if term.log_det is not None)
    return sum(log_dets, _total(terms))


def moved(program: Model, phi: Mapping[str, Any], target: Target, model: Model) -> Model | None:
    """The guide at the data of `model`, if it had the arguments of the fitted one and `model` has others.

    None where it had other arguments, or has params with an entry for each row: what it says of the rows that it
    was fitted on then tells nothing of others.
    """

    def same(one: Model, other: Model) -> bool:
        arguments = one.structure == other.structure and one.settings == other.settings
        return arguments and len(one.arrays) == len(other.arrays)

    def equal(one: Any, other: Any) -> bool:
        if isinstance(one, Source) or isinstance(other, Source):
            return isinstance(one, Source) and isinstance(other, Source) and one.same_data(other)
        return np.shape(one) == np.shape(other) and np.array_equal(np.asarray(one, np.asarray(other).dtype), other)

    fitted = target.model
    if not same(program, fitted) or not same(fitted, model) or not all(map(equal, program.arrays, fitted.arrays)):
        return None
    if all(map(equal, model.arrays, fitted.arrays)):
        return None
    # A param with an entry for each row of the old data would be read for other rows: its shape tells.
    again = dataclasses.replace(program, arrays=model.arrays)
    shapes = jax.tree.map(jnp.shape, again.initial_params())
    return again if shapes == jax.tree.map(jnp.shape, dict(phi)) else None


def first_params(program: Model, target: Target) -> dict[str, Any]:
    """The unconstrained initial values of the guide's params, after checking that guide and model agree."""
    if not isinstance(target, Target):
        raise ModelError(
            f"a guide program speaks of values on the supports, so it cannot be fitted to {target}.",
            mend="Fit it to the model itself; a layer bends what a Gaussian guide says of the unconstrained vector.",
        )
    check(target, abstract_sites(program))
    return program.initial_params()


NETWORK = "encoder"


def network(init: Any) -> Model:
    """What holds a network's parameters: a program with one param, so that the rules of `param` hold for it."""
    return init if isinstance(init, Model) else _network(init)


@guide
def _network(init: Any) -> None:
    param(NETWORK, init)


def network_weights(init: Any) -> tuple[Any, ...]:
    """The arrays of floats in it that are learnt, in order."""
    return parts(init).learnt


def network_value(program: Model, phi: Mapping[str, Any]) -> Any:
    """A network's params, shaped like their `init`, holding the current values."""
    return _at_values(program, phi, {}, {})[NETWORK].value


def network_states(program: Model, phi: Mapping[str, Any], call: Callable[[Any], Any]) -> dict[str, Any]:
    """What `call`, given the network's params, leaves in them."""
    sites = _at_values(program, phi, {}, {})
    call(sites[NETWORK].value)
    return states_of(sites)


def read(model: Model, reads: str | Callable[..., Any]) -> Any:
    """What a guide reads of the model's data: an argument, or the value of a conditioned site, by name; or a function.

    Raises:
      ModelError: there is no such argument, or it is None.
    """
    args, kwargs = unpadded(model.arguments)
    if callable(reads):
        return jax.tree.map(jnp.asarray, reads(*args, **kwargs))
    bound = inspect.signature(model.function).bind(*args, **kwargs)
    bound.apply_defaults()
    found = model.conditions.get(reads, bound.arguments.get(reads))
    if found is None:
        known = ", ".join(bound.arguments) or "none"
        what = "is None" if reads in bound.arguments else f"is none of its arguments ({known})"
        raise ModelError(
            f"the guide reads '{reads}', which {what} in {model!r}.",
            mend=f"Apply the model to rows with {reads}=..., or name the argument that the encoder reads.",
        )
    return jax.tree.map(jnp.asarray, found)


def check(target: Target, sites: Mapping[str, Outline]) -> None:
    """The guide must sample exactly the model's latent sites, each with the model's shape."""
    latent = {slot.name: slot.shape for slot in target.layout.slots}
    drawn = {s.name: s.shape for s in sites.values() if s.kind == "sample" and not s.observed}
    for name in (*latent, *drawn):
        if name in target.layout.summed:
            mend = "Leave it out of the guide; posterior.sample draws it given the rest."
            raise ModelError("the site is discrete, and summed out of the model.", site=name, mend=mend)
        if latent.get(name) != drawn.get(name):
            raise _disagreement(name, latent, drawn)
        if counts := sites[name].counts:
            mend = f"Leave {'.weighted(w)' if counts == 'weighted' else '.mask(m)'} to the model."
            raise ModelError(
                f"a guide's distribution is one to draw from, and may not be {counts}.", site=name, mend=mend
            )
        if not sites[name].has_rsample:
            raise ModelError(
                f"draws of {sites[name].distribution} are not differentiable in its parameters.",
                site=name,
                mend="Use a distribution whose draws are, such as a Normal or a transformed Normal, in the guide.",
            )
    for site in sites.values():
        if site.kind == "factor" or (site.kind == "sample" and site.observed):
            raise ModelError(
                f"a guide has no data: this {'factor' if site.kind == 'factor' else 'observed site'} is out of place.",
                site=site.name,
                mend="Leave it to the model; the guide samples the latent sites only.",
            )


def _disagreement(name: str, latent: Mapping[str, Any], drawn: Mapping[str, Any]) -> ModelError:
    names = dict.fromkeys((*latent, *drawn))
    width = max(map(len, names)) + 2
    rows = (f"{n + ':':{width}}model {latent.get(n, 'none')}, guide {drawn.get(n, 'none')}" for n in names)
    if name not in drawn:
        problem, mend = (
            "the guide does not sample this latent site of the model.",
            f'Add vb.sample("{name}", ...) to the guide.',
        )
    elif name not in latent:
        problem = "the guide samples a site that is no latent site of the model."
        mend = "Leave it out, or give it the name of the model's site."
    else:
        problem = f"the site has shape {latent[name]} in the model and {drawn[name]} in the guide."
        mend = "Open the same plates in the guide as in the model, or expand the guide's distribution."
    return ModelError(problem, site=name, details="\n".join(rows), mend=mend)


def _values(sites: Mapping[str, Site]) -> dict[str, Array]:
    return {name: site.value for name, site in sites.items() if site.kind == "sample"}


def _terms(*runs: Mapping[str, Site]) -> Iterator[dict[str, Term]]:
    """The terms of each run, by the sites' names."""
    return ({term.name: term for term in terms_of(sites)} for sites in runs)


def _total(terms: Mapping[str, Term]) -> Array:
    return sum((term.log_density() for term in terms.values()), jnp.zeros(()))


def _side_by_side(program: Model, phi: Any, target: Target, key: Array) -> tuple[dict[str, Site], dict[str, Site]]:
    """The sites of one guide run, and the model's sites at the same values and rows."""
    q = _drawn(program, phi, target.rows, key)
    # Deterministic sites of the guide are left behind: the model computes its own under the same names.
    return q, _model_at(target, _values(q))


def _at_values(program: Model, params: Any, rows: Mapping[str, Array], values: Mapping[str, Any]) -> dict[str, Site]:
    """The sites of a run, of guide or model, whose latent sites have these values."""
    return program.trace(at_rows(rows, given(values, required), params))


def _model_at(target: Target, values: Mapping[str, Any]) -> dict[str, Site]:
    """The sites of a run of the model, whose discrete sites are summed out."""

    def handler(summing: Callable[[Handler], Handler]) -> Handler:
        return at_rows(target.rows, summing(given(values, required)), target.params)

    return marginal(target.model, handler, target.layout.summed)


def _closed_forms(q: Mapping[str, Term], p: Mapping[str, Term]) -> set[str]:
    """The sites whose divergence may stand in closed form: see the head of this file."""
    drawn, latent, closed = list(q), [name for name in p if name in q], set()
    for name in latent:
        # Whether the prior of a site looks at an earlier site is not known, so each of them counts as a parent.
        parents_may_be = latent[: latent.index(name)]
        if all(drawn.index(parent) < drawn.index(name) for parent in parents_may_be):
            # In other plates the divergence would be counted for other rows.
            if has_kl(q[name].dist, p[name].dist) and q[name].plates == p[name].plates:
                closed.add(name)
    return closed


def _drawn(program: Model, params: Mapping[str, Any], rows: Mapping[str, Array], key: Array) -> dict[str, Site]:
    """Draws every site; where all rows are gone through in parts, what they share alike in each, and their own anew."""

    def value_of(site: Site) -> Array:
        # The rows of each part have noise of their own; what is outside must come out alike in every part.
        own = key
        for frame in site.frames:
            part = rows.get(frame.name)
            if isinstance(part, RowBlock) and part.number is not None:
                own = jax.random.fold_in(own, part.number)
        return site.dist.sample(key_at(own, site.name, site.step))

    return program.trace(at_rows(rows, answered(value_of), params))
