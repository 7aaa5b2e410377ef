"""Run a model under an interpreter and keep the answers."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vbppl.aliases import Array, ArrayLike, Shape
from vbppl.distributions.location_scale import location_scale
from vbppl.errors import ModelError
from vbppl.keys import named, wrap
from vbppl.language import Interpreter, Run, Site, running
from vbppl.modules import Parts, mutable_parts, parts, shapes_of
from vbppl.shapes import Frame, check_value


def trace(function: Callable[[], Any], interpreter: Interpreter) -> dict[str, Site]:
    """The sites of one run of `function`, in the order of its statements."""
    with running(Run(interpreter)) as run:
        try:
            function()
        except NEEDS_NUMBERS as error:
            raise _needs_numbers(error, list(run.sites)) from error
    return run.sites


NEEDS_NUMBERS = (
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.ConcretizationTypeError,
)


def _needs_numbers(error: Exception, met: list[str]) -> ModelError:
    """Say in the words of the language what JAX means: a run that is compiled has no numbers."""
    here = traceback.extract_tb(error.__traceback__)
    own = [f for f in here if not any(f"/{house}/" in f.filename for house in ("vbppl", "jax", "numpy"))]
    where = f"{own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else str(error).splitlines()[0]
    if isinstance(error, jax.errors.TracerBoolConversionError):
        what, mend = "Python's `if`, `while`, `and` or `not`", "Write jnp.where(condition, a, b), or jax.lax.cond."
    elif isinstance(error, jax.errors.TracerArrayConversionError):
        what, mend = "NumPy", "Use jax.numpy: jnp.exp(x) for np.exp(x), jnp.asarray(table)[i] for table[i]."
    else:
        what, mend = "a Python number", "Leave out float() and int(), and take sizes from the shapes of arrays."
    after = f", after site '{met[-1]}'" if met else ""
    return ModelError(f"{what} met a value that has no number yet{after}.", details=where, mend=mend)


def from_prior(key: Array) -> Interpreter:
    """Draw every site that has no value from its distribution, each with a key of its own name."""

    def interpret(site: Site) -> Site:
        if site.kind == "sample" and site.value is None:
            with at_site(site):
                return dataclasses.replace(site, value=site.dist.sample(named(key, site.name)))
        return site

    return interpret


def drawn_anew(interpreter: Interpreter) -> Interpreter:
    """Forget the observations, so that `interpreter` draws them: for predictive draws."""

    def interpret(site: Site) -> Site:
        if site.kind == "sample" and site.observed:
            site = dataclasses.replace(site, value=None, observed=False)
        return interpreter(site)

    return interpret


def given(values: Mapping[str, Any], interpreter: Interpreter) -> Interpreter:
    """Take the values of unobserved sites and of params from `values`; ask `interpreter` for the rest."""

    def interpret(site: Site) -> Site:
        if site.kind == "sample" and site.value is None and site.name in values:
            value = jnp.asarray(values[site.name])
            check_value(site.name, value, site.shape, site.frames)
            return dataclasses.replace(site, value=value)
        if site.kind == "param" and site.name in values:
            value = values[site.name]
            return dataclasses.replace(site, value=value.made() if isinstance(value, Parts) else value)
        return interpreter(site)

    return interpret


def required(site: Site) -> Site:
    """The interpreter that has no values: it says which site lacks one."""
    if site.kind == "sample" and site.value is None:
        mend = f"Add {site.name!r} to the values: an array of shape {site.shape}, or draws (n, ...) of it."
        raise ModelError("no value was given for this site.", site=site.name, mend=mend)
    return site


def at_point(coordinate: ArrayLike) -> Interpreter:
    """The interpreter for runs whose shapes are wanted: each latent site where all its `z` are `coordinate`."""

    def interpret(site: Site) -> Site:
        if site.kind != "sample" or site.value is not None:
            return site
        with at_site(site):
            if site.dist.is_discrete:
                return from_prior(jax.random.key(0))(site)
            support = site.dist.support
            z = jnp.full(support.unconstrained_shape(site.shape), coordinate, jnp.result_type(float))
            return dataclasses.replace(site, value=support.forward(z))

    return interpret


def of_the_right_shape(site: Site) -> Site:
    """The interpreter for runs whose shapes alone are wanted: some point of each site's support."""
    return at_point(0.0)(site)


def with_rows(site: Site, rows: Mapping[str, Any]) -> Site:
    """The plate's site, showing `rows` of it; all where none are named."""
    return dataclasses.replace(site, value=rows.get(site.name))


def showing(rows: Mapping[str, Any], interpreter: Interpreter) -> Interpreter:
    """Let plates show `rows`, where these name them; ask `interpreter` for the rest."""

    def interpret(site: Site) -> Site:
        return with_rows(site, rows) if site.kind == "plate" else interpreter(site)

    return interpret


def with_params(site: Site, unconstrained: tuple[Array, ...]) -> Site:
    """The param's site, with the trainable leaves of its `init` replaced by the current values."""
    learnt = tuple(site.constraint.forward(leaf) for leaf in unconstrained)
    return dataclasses.replace(site, value=dataclasses.replace(parts(site.value), learnt=learnt).made())


def trainable(init: Any) -> list[Any]:
    """The leaves of a param's `init` that are learnt."""
    return list(parts(init).learnt)


def in_mode(interpreter: Interpreter, states: Mapping[str, tuple], raw_key: Array | None) -> Interpreter:
    """Hand modules out with their own `states`, in training mode with a `raw_key`, in evaluation mode with None.

    What a module or a mutable value has become in the run is in its site's value afterwards.
    """
    key = None if raw_key is None else wrap(raw_key)

    def interpret(site: Site) -> Site:
        if site.kind == "key":
            return dataclasses.replace(site, value=None if key is None else named(key, site.name))
        if site.kind not in ("param", "mutable"):
            return interpreter(site)
        site = interpreter(site)
        found = parts_of(site)
        if site.name in states:
            found = dataclasses.replace(found, state=states[site.name])
        elif not found.is_moody:
            return site
        return dataclasses.replace(site, value=found.in_mode(None if key is None else named(key, site.name)))

    return interpret


def parts_of(site: Site) -> Parts:
    """The value of a param or of a mutable site, taken apart; all numbers of the latter are state."""
    return mutable_parts(site.value) if site.kind == "mutable" else parts(site.value)


def states_of(sites: Mapping[str, Site]) -> dict[str, tuple]:
    """What runs in training mode change, by the sites' names: batch statistics, mutable values."""
    found = {site.name: parts_of(site).state for site in sites.values() if site.kind in ("param", "mutable")}
    return {name: state for name, state in found.items() if state}


@contextlib.contextmanager
def at_site(site: Site) -> Iterator[None]:
    """Name `site` in errors of its distribution, which does not know where it stands."""
    try:
        yield
    except ModelError as error:
        if error.site is not None:
            raise
        raise ModelError(error.what, site=site.name, details=error.details, mend=error.mend) from None


@dataclasses.dataclass(frozen=True)
class Outline:
    """What is known of a site without numbers: everything here is static.

    `shape` is `batch + event`; `unconstrained` is the shape of a continuous site's slice of the flat
    vector. `distribution` is the name of the class, without the wrappers around it. A latent site of a
    `location_scale` family is `hierarchical` if its scale depends on other latent sites;
    `is_moody` is true of what behaves otherwise in training than in evaluation.
    """

    kind: str
    name: str
    observed: bool
    frames: tuple[Frame, ...]
    size: int = 0
    subsample_size: int | None = None
    sources: tuple[str, ...] = ()
    shape: Any = ()
    batch: Shape = ()
    event: Shape = ()
    unconstrained: Shape = ()
    distribution: str = ""
    is_discrete: bool = False
    has_rsample: bool = False
    location_scale: bool = False
    hierarchical: bool = False
    is_moody: bool = False

    @classmethod
    def of(cls, site: Site) -> Outline:
        """The outline of an answered site."""
        place = (site.kind, site.name, site.observed, site.frames, site.size, site.subsample_size, site.sources)
        if site.kind in ("param", "mutable", "key"):
            is_moody = site.kind == "key" or parts_of(site).is_moody
            return cls(*place, shape=shapes_of(site.value), is_moody=is_moody)
        if site.kind != "sample":
            return cls(*place, shape=jax.tree.map(jnp.shape, site.value))
        dist, core = site.dist, site.dist
        while hasattr(core, "base_dist"):
            core = core.base_dist
        with at_site(site):
            free = () if site.observed or dist.is_discrete else tuple(dist.support.unconstrained_shape(site.shape))
            shapes = (site.shape, tuple(dist.batch_shape), tuple(dist.event_shape), free)
            movable = not site.observed and location_scale(dist) is not None
            return cls(*place, *shapes, type(core).__name__, dist.is_discrete, dist.has_rsample, movable)


def abstract_sites(model: Any) -> dict[str, Outline]:
    """The sites of a run of a `Model` with shapes in the place of numbers: nothing is computed or compiled.

    What has been found is kept for models of the same function and shapes, as their compiled programs are.
    """
    leaves, structure = jax.tree.flatten(model)
    shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    return dict(_abstract_sites(structure, shapes, jnp.result_type(float)))


@functools.lru_cache(maxsize=256)
def _abstract_sites(structure: Any, shapes: tuple[jax.ShapeDtypeStruct, ...], dtype: Any) -> dict[str, Outline]:
    found: dict[str, Outline] = {}

    def scales(coordinate: Array, leaves: Any) -> dict[str, Any]:
        sites = jax.tree.unflatten(structure, leaves).trace(at_point(coordinate))
        found.update({name: Outline.of(site) for name, site in sites.items()})
        parts = {name: location_scale(sites[name].dist) for name, site in found.items() if site.location_scale}
        return {name: loc_and_scale[1] for name, loc_and_scale in parts.items() if loc_and_scale is not None}

    jaxpr, outputs = jax.make_jaxpr(scales, return_shape=True)(jax.ShapeDtypeStruct((), dtype), shapes)
    for name, depends in zip(sorted(outputs), _depend_on_first_argument(jaxpr.jaxpr)):
        found[name] = dataclasses.replace(found[name], hierarchical=depends)
    return found


def _depend_on_first_argument(jaxpr: Any) -> list[bool]:
    """Which outputs of a program depend on its first argument: followed through its equations."""
    first, reached = jaxpr.invars[0], {jaxpr.invars[0]}

    def is_reached(atom: Any) -> bool:
        return isinstance(atom, type(first)) and atom in reached

    for equation in jaxpr.eqns:
        if any(map(is_reached, equation.invars)):
            reached.update(equation.outvars)
    return [is_reached(atom) for atom in jaxpr.outvars]


def log_density(site: Site) -> Array:
    """What a site adds to the log joint density, a scalar: summed over its rows, times N/B."""
    if site.kind not in ("sample", "factor"):
        return jnp.zeros(())
    return _scaled(jnp.sum(_log_probs(site)), site.scale)


def _log_probs(site: Site) -> Array:
    return site.dist.log_prob(site.value) if site.kind == "sample" else site.value


def by_row(site: Site, plate: str) -> Array:
    """What a site inside `plate` adds to the log joint density for each row shown, `(rows,)`, unscaled."""
    if [frame.name for frame in site.frames] != [plate]:
        where = ", ".join(frame.name for frame in site.frames) or "no plate"
        raise ModelError(
            f"the site stands in {where}, not in the plate '{plate}' alone, so its density is not a sum over rows.",
            site=site.name,
            mend="Importance weights by row are for models all of whose sites stand in one plate, as in a VAE.",
        )
    log_prob = _log_probs(site)
    frame, dims = site.frames[0], jnp.ndim(log_prob)
    return jnp.sum(log_prob, axis=tuple(axis for axis in range(dims) if axis != dims + frame.dim))


def log_joint(sites: Mapping[str, Site]) -> Array:
    """The log joint density of a run, a scalar.

    What has one shape and one weight is added up row by row first, and then summed in one pass.
    """
    alike: dict[tuple[tuple[int, ...], float], Array] = {}
    for site in sites.values():
        if site.kind in ("sample", "factor"):
            log_probs = jnp.asarray(_log_probs(site))
            kind = (log_probs.shape, site.scale)
            alike[kind] = alike[kind] + log_probs if kind in alike else log_probs
    terms = [_scaled(jnp.sum(log_probs), scale) for (_, scale), log_probs in alike.items()]
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
