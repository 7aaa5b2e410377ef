"""Run a model under a handler and keep the answers."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
import weakref
from collections.abc import Container, Iterator, Mapping, Sequence
from types import FunctionType, MappingProxyType
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from vbppl.core import devices
from vbppl.core.errors import ModelError
from vbppl.core.plain_words import brief, in_plain_words
from vbppl.core.programs.compiling import compiler_options
from vbppl.core.programs.dependence import dependence
from vbppl.core.programs.nonfinite import first_nan
from vbppl.core.types import Array, ArrayLike, Shape
from vbppl.distributions.base import ExpandedDistribution, MaskedDistribution, Renamed
from vbppl.distributions.location_scale import vector_dim
from vbppl.distributions.stacked import first_step
from vbppl.model.arguments import missing_in
from vbppl.model.claims import SOMEWHERE, Claims, claims_of
from vbppl.model.control_flow.chain import written_out
from vbppl.model.enumeration.support import Support
from vbppl.model.handlers import at_point, at_site, given, log_probs, parts_of
from vbppl.model.labels.axes import Dim
from vbppl.model.labels.names import Labels
from vbppl.model.modules import shapes_of
from vbppl.model.outside.dropped import check_none_dropped
from vbppl.model.outside.reading import check
from vbppl.model.primitives import Handler, Run, Site, running
from vbppl.model.shapes import Frame

NOTHING: Mapping[Any, Any] = MappingProxyType({})


@contextlib.contextmanager
def traced(
    handler: Handler, arguments: Mapping[int, int] = NOTHING, missing: Mapping[str, Array] = NOTHING
) -> Iterator[dict[str, Site]]:
    """A run whose sites are noted in the order of their statements: what is done inside speaks to `handler`."""
    with running(Run(handler, arguments, missing)) as run:
        try:
            yield run.sites
            check_none_dropped(run.dropped)
        except Exception as error:
            after = next(reversed(run.sites), None)
            if (told := in_plain_words(error, after)) is not None:
                raise told from error
            if not isinstance(error, ModelError) and after is not None:
                error.add_note(f"It happened in the model, after site '{after}'.")
            raise


@dataclasses.dataclass(frozen=True)
class Outline:
    """What is known of a site without numbers: everything here is static.

    `shape` is `batch + event`; `unconstrained` that of a continuous site's slice of the flat vector. `distribution` is
    the name of the class, without the wrappers around it, and `support` where its numbers lie. A latent site of a
    `location_scale` family is `movable` if its location or scale depends on other latent sites, and `hierarchical` if
    its scale does; `steps` are the lengths of the scans around it. A latent discrete site has `states` values in each
    row, over which it is summed; or it is `unbounded`, with the reason and the mend. `of_summed` is true of what
    depends on such sites, once `layout.marginal_sites` has looked. `has_training_mode` is true of what behaves
    otherwise in training than in evaluation; `counts` is "masked" or "weighted" of what does not count once throughout.
    """

    kind: str
    name: str
    observed: bool
    frames: tuple[Frame, ...]
    size: int = 0
    subsample_size: int | None = None
    sources: tuple[str, ...] = ()
    labels: Labels | None = None
    dims: tuple[Dim, ...] = ()
    steps: Shape = ()
    shape: Any = ()
    batch: Shape = ()
    event: Shape = ()
    unconstrained: Shape = ()
    distribution: str = ""
    counts: str = ""
    support: str = ""
    is_discrete: bool = False
    has_rsample: bool = False
    location_scale: bool = False
    vector_dim: int = 0
    movable: bool = False
    hierarchical: bool = False
    states: int = 0
    unbounded: tuple[str, str] = ("", "")
    of_summed: bool = False
    has_training_mode: bool = False

    @classmethod
    def of(cls, site: Site) -> Outline:
        """The outline of an answered site."""
        place = (site.kind, site.name, site.observed, site.frames, site.size, site.subsample_size, site.sources)
        place = (*place, site.labels, site.dims, site.steps)
        if site.kind in ("param", "mutable", "key"):
            support = "" if site.constraint is None else site.constraint.of_numbers().describe()
            trains = site.kind == "key" or parts_of(site).has_training_mode
            return cls(*place, shape=shapes_of(site.value), support=support, has_training_mode=trains)
        if site.kind != "sample":
            return cls(*place, shape=jax.tree.map(jnp.shape, site.value))
        dist = site.dist
        core: Any = first_step(dist)
        counts = ""
        while hasattr(core, "base_dist") and (not isinstance(core, Renamed) or isinstance(core, ExpandedDistribution)):
            if isinstance(core, MaskedDistribution) and core.counted is not True:
                counts = counts or ("masked" if core.weight is None else "weighted")
            core = core.base_dist
        with at_site(site):
            _check_density(site, core)
            free = () if site.observed or dist.is_discrete else tuple(dist.support.unconstrained_shape(site.shape))
            shapes = (site.shape, tuple(dist.batch_shape), tuple(dist.event_shape), free)
            has_both = not site.observed and dist.location_scale is not None
            moves = has_both, vector_dim(dist) if has_both else 0
            named = (type(core).__name__, counts, dist.support.of_numbers().describe())
            made = cls(*place, *shapes, *named, dist.is_discrete, dist.has_rsample, *moves)
            return made if site.observed or not dist.is_discrete else made._counted(site)

    def _counted(self, site: Site) -> Outline:
        if site.steps:  # at the first step, as at all others
            site = dataclasses.replace(site, dist=first_step(site.dist), steps=())
        try:
            return dataclasses.replace(self, states=Support.of(site).count)
        except ModelError as error:  # draws of the prior need no such count
            return dataclasses.replace(self, unbounded=(error.what, error.mend))

    @property
    def values_summed(self) -> int:
        """Over how many values a discrete site is summed in all rows; in a scan over pairs, at each step."""
        rows = math.prod(frame.size for frame in self.frames)
        return rows * self.states ** (2 if self.steps else 1) * math.prod(self.steps)

    def row(self) -> tuple[str, ...]:
        """Its line in a table of shapes."""
        plates = ", ".join(f"{f.name}[{f.size}]@{f.dim}" for f in self.frames)
        if self.kind == "plate":
            return (self.name, "plate", f"{self.size} rows{', labelled' * bool(self.labels)}", "", "", "", plates)
        plates += f"{' ' * bool(plates)}dims {', '.join(dim.name for dim in self.dims)}" if self.dims else ""
        if self.kind != "sample":
            return (self.name, self.kind, "", self.support, "", str(self.shape), plates)
        kind = "observed" if self.observed else f"summed out ({self.states})" if self.states else "latent"
        return (self.name, kind, self.distribution, self.support, str(self.batch), str(self.event), plates)


def _check_density(site: Site, core: Any) -> None:
    """A density that is not ours has the batch shape: a longer one would be summed, in silence."""
    guest = getattr(core, "inner", None)  # another library's, or a plain class
    if guest is None and type(core).__module__.startswith("vbppl.distributions"):
        return
    if guest is None and hasattr(core, "check_density"):
        core.check_density(site.value)
    shape = jax.eval_shape(site.dist.log_prob, site.value).shape
    if shape != tuple(site.dist.batch_shape):
        raise ModelError(
            f"the log density of {type(guest or core).__name__} has shape {shape}, not that of the batch.",
            details=f"batch: {tuple(site.dist.batch_shape)}\nevent: {tuple(site.dist.event_shape)}",
            mend="Return one log density for each event: sum over the event's dimensions."
            + (" Its batch_shape must be the shape of its parameters, () by default." if guest is not None else ""),
        )


def abstract_sites(model: Any) -> dict[str, Outline]:
    """The sites of a run of a `Model` with shapes in the place of numbers: nothing is computed or compiled.

    What has been found is kept for models of the same function and shapes, as their compiled programs are.
    """
    return dict(_abstract_run(model)[0])


def named_outlines(model: Any) -> dict[str, Outline]:
    """The same, of a model that a fit has put modules' states into; what it reads from outside may have changed."""
    return dict(_abstract_run(dataclasses.replace(model, states={}, training=None), checks=False)[0])


def summed_sites(sites: Mapping[str, Outline], values: Container[str] = ()) -> list[str]:
    """The discrete latent sites that are summed out: those without one of the `values`."""
    return [name for name, site in sites.items() if site.states and name not in values]


def check_numbers(model: Any, observations: bool = True, which: str = "") -> None:
    """Refuse numbers of a `Model`'s data, or in its function, that its sites do not allow, before anything compiles.

    Args:
      observations: whether those are looked at too.
      which: of several data sets, to begin the message with.
    """
    leaves = jax.tree.leaves(model)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return
    leaves = [leaf if devices.is_here(leaf) else None for leaf in leaves]  # of others' rows NumPy knows nothing
    error, details = _abstract_run(model)[1].first_error(leaves, observations), ""
    if error is None and (missing := missing_in(model.arguments, model.function)):
        error, details = _abstract_run(model)[1].error_of_nan(leaves), missing
    if error is not None:
        mend = "Leave these rows out, or fill in what is missing." if details else error.mend
        raise ModelError(which + error.what, site=error.site, details=details, mend=mend)


def error_somewhere(model: Any, values: Mapping[str, Any] = MappingProxyType({})) -> ModelError | None:
    """What a run shows to be wrong with its numbers: for fits that found no finite density, or lost some draws.

    Args:
      values: of latent sites, where the run is made; of the others some point.
    """
    somewhere = given(values, at_point(SOMEWHERE))
    sites = model.trace(somewhere)
    # NaN is the fault of what made it, not of the site that meets it.
    claims = (claim for claim in claims_of(sites) if not np.isnan(np.asarray(claim.value)).any())
    error = next(filter(None, (claim.error() for claim in claims)), None)
    if error is None and (maker := first_nan(lambda model: log_joint(model.trace(somewhere)), model)):
        where = next((name for name, site in sites.items() if _is_nan(site)), None)
        what, mend = NAN_MENDS.get(maker, (f"JAX's '{maker}' gives NaN", "Keep its arguments where it is defined."))
        error = ModelError(f"{what}.", site=where, mend=mend)
    if error is None:
        return None
    latent = {name: np.asarray(s.value) for name, s in sites.items() if s.kind == "sample" and not s.observed}
    known = {name: value for name, value in latent.items() if not np.isnan(value).any()}
    point = ", ".join(f"{name} = {np.array2string(value, threshold=3, precision=4)}" for name, value in known.items())
    return ModelError(error.what, site=error.site, details=f"where {point}" if point else "", mend=error.mend)


def _is_nan(site: Site) -> bool:
    return site.kind in ("sample", "factor") and bool(np.isnan(np.asarray(log_probs(site))).any())


NAN_MENDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "cholesky": (
            "a matrix is not positive definite to rounding, so that its Cholesky factor is NaN",
            "Add to its diagonal, K + 1e-6 * jnp.eye(n), or vb.fit(..., precision='float64').",
        ),
        "log": ("the logarithm of a negative number is NaN", "Keep it positive, as jnp.exp(a) and a ** 2 are."),
        "sqrt": ("the root of a negative number is NaN", "Keep it positive, as jnp.exp(a) and a ** 2 are."),
    }
)


def _abstract_run(model: Any, checks: bool = True) -> tuple[dict[str, Outline], Claims]:
    if checks:
        check(model.reads, model.functions)
    leaves, structure = jax.tree.flatten(model)
    shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    try:
        return _abstract_sites(structure, shapes, jnp.result_type(float))
    except ModelError as error:
        raise brief(error) from error.__cause__


@functools.lru_cache(maxsize=256)
def _abstract_sites(structure: Any, shapes: tuple[jax.ShapeDtypeStruct, ...], dtype: Any) -> Any:
    found: dict[str, Outline] = {}
    heads: list[Any] = []

    def numbers(coordinate: Array, leaves: Any) -> tuple[dict[str, Any], list[Any]]:
        sites = jax.tree.unflatten(structure, leaves).trace(at_point(coordinate))
        found.update({name: Outline.of(site) for name, site in sites.items()})
        claims = list(claims_of(sites))
        heads[:] = [(claim.head, jax.tree.structure(claim.parts)) for claim in claims]
        pairs = {name: sites[name].dist.location_scale for name, site in found.items() if site.location_scale}
        return pairs, [claim.parts for claim in claims]

    closed, (pairs, _) = jax.make_jaxpr(numbers, return_shape=True)(jax.ShapeDtypeStruct((), dtype), shapes)
    depends = list(map(bool, dependence(closed.jaxpr, origins={closed.jaxpr.invars[0]: 1})))
    for name, by_loc, by_scale in zip(sorted(pairs), depends[::2], depends[1::2]):
        found[name] = dataclasses.replace(found[name], movable=by_loc or by_scale, hierarchical=by_scale)
    claims = Claims.of(heads, closed, 2 * len(pairs), depends)
    for function in jax.tree.unflatten(structure, shapes).functions:
        if isinstance(function, FunctionType):  # what it closed over goes with it
            weakref.finalize(function, claims.forget)
    return found, claims


class _ReachedError(Exception):
    """Ends a run at a statement."""


def advice_of_indices(model: Any) -> str:
    """What to say where the model reads an array outside its bounds, which JAX clamps; "" where it does not.

    One program of every read's check, and one for each site where that finds something: for fits that went wrong.
    """

    def run(model: Any, last: str) -> Array:
        somewhere, found = at_point(0.0), []

        def interpret(site: Site) -> Site:
            answer = somewhere(site)
            if site.kind in ("sample", "factor"):
                found.append(jnp.sum(log_probs(answer)))
            if site.name == last:
                raise _ReachedError
            return answer

        with contextlib.suppress(_ReachedError), written_out():
            model.trace(interpret)
        return sum(found, jnp.zeros(()))

    def wrong(last: str) -> str:
        checked = checkify.checkify(functools.partial(run, last=last), errors=checkify.index_checks)
        # Nothing but the checks is given back, so nothing else is compiled.
        checks = jax.jit(lambda model: checked(model)[0], compiler_options=compiler_options(0))
        try:
            with jax.transfer_guard("allow"):
                return checks(model).get() or ""
        except (NotImplementedError, ValueError):  # what cannot be checked says nothing
            return ""

    names = list(abstract_sites(model))
    if not names or not (what := wrong(names[-1])):
        return ""
    site = next(name for name in names if wrong(name))
    found = re.sub(
        r"^out-of-bounds indexing for array of shape (.*?): (.*?)\. ?$", r"\2 (shape \1)", what, flags=re.DOTALL
    )
    return (
        f"site '{site}': {found}; JAX reads the nearest entry instead, in silence. "
        "To mend it: Count from 0, for instance by np.unique(groups, return_inverse=True)"
    )


def log_joint(sites: Mapping[str, Site]) -> Array:
    """The log joint density of a run, a scalar."""
    return summed([(log_probs(site), site.scale) for site in sites.values() if site.kind in ("sample", "factor")])


def summed(log_probs: Sequence[tuple[ArrayLike, float]]) -> Array:
    """The sum of log probabilities, each with its weight N/B: a scalar.

    What has one shape and one weight is added up row by row first, and then summed in one pass.
    """
    alike: dict[tuple[tuple[int, ...], float], Array] = {}
    for each, scale in log_probs:
        each = jnp.asarray(each)
        kind = (each.shape, scale)
        alike[kind] = alike[kind] + each if kind in alike else each
    terms = [_scaled(jnp.sum(each), scale) for (_, scale), each in alike.items()]
    return sum(terms[1:], terms[0]) if terms else jnp.zeros(())


def values_of(sites: Mapping[str, Site]) -> dict[str, Array]:
    """The values of the sample and deterministic sites of a run."""
    return {
        name: jax.tree.map(jnp.asarray, site.value)
        for name, site in sites.items()
        if site.kind in ("sample", "deterministic")
    }


def _scaled(value: Array, scale: float) -> Array:
    return value if scale == 1.0 else value * scale
