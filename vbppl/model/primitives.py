"""The words of a model: `sample`, `param`, `plate`, `subsample`, `deterministic`, `factor`.

A word does one thing: it builds a `Site` and asks the handler of the current run what its
value is. A handler is any function `Site -> Site`: one draws from the prior, one reads
values from a flat vector, one replays a posterior (see `handlers.py`). A model therefore never knows
why it is run, and runs nest: a model inside a `sample` statement is run by the same handler
under a longer name.

Shapes are the field's own, and strict: see `shapes.py`.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, overload

import jax
import jax.core
import jax.numpy as jnp
from jax.extend.core import get_opaque_trace_state

from vbppl.core.errors import ModelError, of_kind, whole_number
from vbppl.core.types import Array, PyTree, Shape
from vbppl.data.source import RowBlock, Source
from vbppl.distributions.base import Distribution
from vbppl.distributions.constraints.scalar import real
from vbppl.distributions.interop import as_bijector, as_distribution
from vbppl.model.arguments import (
    changing,
    check_keywords,
    made_by_key,
    numbers_of,
    refuse_function,
    submodel,
    without_infer,
)
from vbppl.model.labels.axes import Dim, with_dims
from vbppl.model.labels.names import Labels, sized
from vbppl.model.missing.statement import mask_of, partly_observed
from vbppl.model.outside.numpyro import check_handlers, handlers_around, heard
from vbppl.model.shapes import (
    Frame,
    check_owned,
    check_plate,
    check_transforms,
    expanded,
    observation,
    plate_dim,
    plate_rows,
    plated,
    shown_rows,
    source_frame,
    take_rows,
    take_shown,
)


@dataclasses.dataclass(frozen=True)
class Site:
    """One statement of a model in one run.

    `kind` is "sample", "param", "deterministic", "factor", "plate", "mutable" or "key". `dist` belongs to samples,
    `constraint` to params, `size`, `subsample_size` and `labels` to plates, and `sources`, the names of what is
    read in parts along the plate; `dims` name the axes of a value that are no plate's. `value` is None at first.
    `step` is that of the `scan` that a statement stands in, while the step runs; afterwards all that it holds has the
    steps as leading axes, of the lengths `steps`. `told` is what the handler says of its answer beyond the value.
    """

    kind: str
    name: str
    value: Any = None
    dist: Any = None
    observed: bool = False
    frames: tuple[Frame, ...] = ()
    constraint: Any = None
    size: int = 0
    subsample_size: int | None = None
    sources: tuple[str, ...] = ()
    labels: Labels | None = None
    dims: tuple[Dim, ...] = ()
    step: Any = None
    steps: Shape = ()
    told: Any = None

    @property
    def scale(self) -> float:
        """How much the site's density counts: N/B for each plate that shows B of its N rows."""
        return math.prod(frame.size / frame.length for frame in self.frames)

    @property
    def shape(self) -> Shape:
        """The shape of a sample site's value: batch dimensions, then event dimensions."""
        return tuple(self.dist.batch_shape) + tuple(self.dist.event_shape)

    @property
    def whole_shape(self) -> Shape:
        """The same for all steps of the scans around it."""
        return self.shape if self.step is None else (*self.step.lengths, *self.shape)


Handler = Callable[[Site], Site]
NONE: Mapping[Any, Any] = MappingProxyType({})


class Program:
    """Something that `sample` can run as a part of the current model: see `model.Model`."""

    def inline(self) -> Any:
        """Run the function inside the current run and return what it returns."""
        raise TypeError("a Program says how it is run")


class Run:
    """One run of a model: its handler, the plates that are open, the sites met so far."""

    def __init__(self, handler: Handler, arguments: Mapping[int, int] = NONE, missing: Mapping[str, Any] = NONE):
        self.handler = handler
        self.arguments = arguments  # the arrays that may be labels: by their identity, their number
        self.missing = missing  # which entries of sites are, where some are
        self.applied: list[Any] = []  # references to models applied in the run that may be dropped at once
        self.dropped: list[str] = []  # the names of those that were
        self.sites: dict[str, Site] = {}
        self.frames: tuple[Frame, ...] = ()
        self.prefix = ""
        self.within = get_opaque_trace_state()  # of JAX: what transforms stand around the run
        self.handlers = self.around_step = handlers_around()  # of NumPyro

    def ask(self, site: Site) -> Site:
        """Let the handler answer `site`, and remember the answer."""
        check_transforms(site.kind, site.name, self.within)
        check_handlers(site.kind, site.name, self.handlers)
        self.check_name(site)
        try:
            self.sites[site.name] = site = self.handler(site)
        except KeyError as error:
            if error.args != (site.name,):
                raise
            raise changing(site.name) from error
        return site

    def check_name(self, site: Site) -> None:
        """A statement needs a name of its own."""
        before = self.sites.get(site.name)
        if before is not None:
            same = before.kind == site.kind
            kinds = f"two {site.kind} statements" if same else f"a {before.kind} and a {site.kind} statement"
            raise ModelError(
                f"the name is used twice, by {kinds}.",
                site=site.name,
                mend="Give each statement its own name; for many like variables use a plate.",
            )


_current: contextvars.ContextVar[Run | None] = contextvars.ContextVar("vbppl_run", default=None)


@contextlib.contextmanager
def running(run: Run) -> Iterator[Run]:
    """Make `run` the one that the words speak to."""
    token = _current.set(run)
    try:
        yield run
    finally:
        _current.reset(token)


@contextlib.contextmanager
def interpreted(wrap: Callable[[str, Handler], Handler]) -> Iterator[Run]:
    """Let `wrap(prefix, handler)` stand in for the current run's handler, for a while."""
    run = run_of("a model inside a model")
    before, run.handler = run.handler, wrap(run.prefix, run.handler)
    try:
        yield run
    finally:
        run.handler = before


def current() -> Run | None:
    """The run of a model that is being made just now."""
    return _current.get()


def run_of(word: str) -> Run:
    """The current run, which `word` speaks to."""
    run = _current.get()
    if run is None:
        raise ModelError(
            f"{word} was called outside a model.",
            mend="Put it into a function under @vb.model; vb.fit(my_model(x)) or my_model(x).sample() then runs it.",
        )
    return run


@overload
def sample(
    name: str, dist: Distribution, obs: Any = None, *, obs_mask: Any = None, sample_shape: Shape = (), dims: Any = None
) -> Array: ...
@overload
def sample(
    name: str, dist: Any, obs: Any = None, *, obs_mask: Any = None, sample_shape: Shape = (), dims: Any = None
) -> Any: ...
def sample(
    name: str,
    dist: Any = None,
    obs: Any = None,
    *,
    obs_mask: Any = None,
    sample_shape: Shape = (),
    dims: Any = None,
    **foreign: Any,
) -> Any:
    """State that `name` is distributed as `dist`; return its value in this run.

    Args:
      name: unique in the model.
      dist: a distribution (of vbppl, or any object with its members), or another model applied
        to its arguments, which then runs as a part of this one under `name/...`. A discrete latent site with finitely
        many values is summed out by a fit, exactly, and drawn again afterwards: NumPyro's
        `infer={"enumerate": "parallel"}` asks for just that, and may stand here.
      obs: the observed value, of exactly the site's shape; None for a latent variable.
      obs_mask: true where `obs` was observed, one truth value for each row. What is missing is imputed as a latent site
        `<name>_unobserved` of shape `(missing, *event)`; missing whole numbers, and all in steps, do not count.
      sample_shape: independent copies to the left of the batch.
      dims: names of the axes that no plate owns: `("feature",)`, or with labels `{"feature": ["age", "weight"]}`.

    Returns:
      the value, of shape `sample_shape + batch_shape + event_shape`, where inside plates the batch
      is expanded to the plates' rows. For a model: what its function returns.

    Raises:
      ModelError: the shapes of `dist`, the plates, `obs` and `dims` disagree, or the name is taken.

    >>> import numpy as np, vbppl as vb, vbppl.distributions as dist
    >>> @vb.model
    ... def regression(x, features, y):
    ...     beta = vb.sample("beta", dist.Normal(0.0, 1.0), sample_shape=(2,), dims={"feature": features})
    ...     vb.sample("y", dist.Normal(x @ beta, 1.0).to_event(1), obs=y)
    >>> x, y = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]), np.array([0.1, 1.2, 1.9])
    >>> [name for name, _ in vb.fit(regression(x, ["constant", "dose"], y)).summary().rows]
    ['beta[constant]', 'beta[dose]']
    """
    run, name = run_and_name("sample", name)
    check_keywords("sample", name, without_infer(name, foreign), "sample(name, dist, obs=y)")
    if isinstance(dist, Program):
        return submodel(run, name, dist, obs)
    refuse_function(name, dist)
    dist = as_distribution(dist, name)
    if not isinstance(sample_shape, tuple) or sample_shape:
        dist = dist.expand_by(sample_shape)
    dist = expanded(name, heard(name, dist, run.handlers, run.around_step), run.frames)
    if obs is not None:
        obs = observation(name, dist, obs, run.frames)
    site = Site("sample", name, value=obs, dist=dist, observed=obs is not None, frames=run.frames)
    site = with_dims(site, dims, run.arguments)
    if obs is not None and obs_mask is not None:
        return partly_observed(run, site, mask_of(name, dist, obs_mask, run.frames))
    return run.ask(site).value


def param(name: str, init: PyTree = None, constraint: Any = None, *, dims: Any = None, **foreign: Any) -> PyTree:
    """A value learnt by maximum marginal likelihood: no prior, one best value.

    Args:
      name: unique in the model.
      init: where the search starts, on the support: a number, an array, or any pytree of arrays
        (a dictionary of weights, a module of Equinox or Flax NNX). Other leaves, a module's own settings too,
        are kept, and what Paramax marks as not trainable. A module is in training mode while a fit makes steps, and in
        evaluation mode elsewhere. Or a function of a key that gives this.
      constraint: the support of every leaf, from `vbppl.distributions.constraints`; real if None.
      dims: where `init` is an array, what its axes that no plate owns are called, as in `sample`.

    Returns:
      the same kind of thing as `init`, holding the current values.

    Raises:
      ModelError: `init` holds no numbers, `dims` are not those of an array, or the name is taken.

    >>> import numpy as np, vbppl as vb, vbppl.distributions as dist
    >>> @vb.model
    ... def drifting(y):
    ...     noise = vb.param("noise", np.ones(2), dist.constraints.positive, dims={"side": ["left", "right"]})
    ...     x = vb.sample("x", dist.Normal(0.0, 1.0))
    ...     vb.sample("y", dist.Normal(x, noise).to_event(1), obs=y)
    >>> posterior = vb.fit(drifting(np.array([0.5, 2.0])), "mean_field", method=vb.Stochastic(steps=50))
    >>> [label for label, _ in posterior.summary().learnt[0]]
    ['noise[left]', 'noise[right]']
    """
    run, name = run_and_name("param", name)
    check_keywords("param", name, foreign, "param(name, init, constraint, dims=...)")
    init = made_by_key(name, init)
    init = float(init) if isinstance(init, int) and not isinstance(init, bool) else init
    if not jax.tree.leaves(init):
        mend = f"Write where the search begins: vb.param({name!r}, 0.0)."
        raise ModelError(f"init is {init!r}: it holds no number.", site=name, mend=mend)
    support = real if constraint is None else as_bijector(constraint)
    if support is None:
        mend = "Take one from vbppl.distributions.constraints, such as constraints.positive."
        raise ModelError(f"constraint is {constraint!r}, which is not a constraint.", site=name, mend=mend)
    site = Site("param", name, value=init, constraint=support, frames=run.frames)
    return run.ask(with_dims(site, dims, run.arguments)).value


def deterministic(name: str, value: Any, *, dims: Any = None) -> Any:
    """Keep `value`, a function of the other sites, among the results under `name`; return it.

    Args:
      name: unique in the model.
      value: a number or an array.
      dims: what the axes that no plate owns are called, as in `sample`.
    """
    run, name = run_and_name("deterministic", name)
    site = Site("deterministic", name, numbers_of(name, "value", value), frames=run.frames)
    return run.ask(with_dims(site, dims, run.arguments)).value


def factor(name: str, log_weight: Any) -> None:
    """Multiply the joint density by `exp(log_weight)`, in nats, summed over its entries; `name` is unique.

    Inside plates it is a weight for each row: a scalar counts once a row, and N/B times that where
    B of N rows are shown.
    """
    run, name = run_and_name("factor", name)
    of_kind("log_weight", log_weight, log_weight is not None, "a number or an array of numbers")
    log_weight = numbers_of(name, "log_weight", log_weight)
    check_owned(name, "log_weight", log_weight.shape, run.frames)
    log_weight = jnp.broadcast_to(log_weight, plated(log_weight.shape, run.frames))
    run.ask(Site("factor", name, value=log_weight, observed=True, frames=run.frames))


class plate:  # a word of the language, so lower case
    """Rows that are independent given what is outside: `with plate("school", 8): ...`.

    The plate owns one batch dimension: the rightmost that is free, or `dim`. It yields its row
    indices, `(rows,)`. With `subsample_size` (or `fit(..., batch_size=...)`) a stochastic fit
    shows that many rows at each step, the same in model and guide, and weighs every density in
    the plate by `size / rows`; everything else (prior, prediction, log density) shows all rows.

    Args:
      name: of the plate; a second plate of the same name must have the same size.
      size: the total number of rows, an int; or a label for each, of which summaries, report cards and ArviZ then speak
        (`alpha[Ramsey]`): a list, an array of strings, dates or numbers, an index of pandas, a coordinate of xarray.
      subsample_size: rows shown at a time; None for all.
      dim: the batch dimension, negative.
    """

    def __init__(self, name: str, size: Any, subsample_size: int | None = None, dim: int | None = None):
        run, name = run_and_name("plate", name)
        self._run = run
        size, labels = sized(f"plate '{name}'", size, run.arguments) or (size, None)
        size, subsample_size = plate_rows(name, size, subsample_size)
        site = Site("plate", name, frames=run.frames, size=size, subsample_size=subsample_size, labels=labels)
        shown = shown_rows(run, site)
        indices = shown.indices if isinstance(shown, RowBlock) else shown
        length = size if indices is None else indices.shape[0]
        self._indices = indices
        self._frame = Frame(name, size, length, plate_dim(name, dim, run.frames))

    def __enter__(self) -> Array:
        check_plate(self._frame, self._run.frames)
        self._outer = self._run.frames
        self._run.frames = (*self._run.frames, self._frame)
        return jnp.arange(self._frame.size) if self._indices is None else self._indices

    def __exit__(self, *exc_info: object) -> None:
        self._run.frames = self._outer


def subsample(array: Any, event_dim: Any = 0) -> Any:
    """The rows of `array` that the open plates show: all of them where nothing is subsampled.

    Args:
      array: has the plates' sizes along their dims, to the left of `event_dim` event dimensions; or
        a source (see `vb.Source`), whose rows may also be a pytree of arrays.
      event_dim: how many rightmost dimensions do not belong to the batch: 1 for a design matrix
        `(rows, columns)`. For a source of pytrees one number for all, or a pytree of numbers.
    """
    run = run_of("subsample(...)")
    shown = [run.sites[frame.name].value for frame in run.frames]
    if not isinstance(array, Source):
        array, event_dim = numbers_of("", "array", array, whole=True), whole_number("event_dim", event_dim, 0)
        return take_rows(array, run.frames, shown, event_dim)
    frame = source_frame(array, run.frames, event_dim)
    plate = run.sites[frame.name]
    if array.name not in plate.sources:
        run.sites[frame.name] = dataclasses.replace(plate, sources=(*plate.sources, array.name))
    return take_shown(array, frame, run.frames, shown, event_dim)


def run_and_name(word: str, name: Any) -> tuple[Run, str]:
    """The current run, and the name of a site in it: longer inside a model that is a part of another."""
    run = run_of(f"{word}({name!r}, ...)")
    if not isinstance(name, str) or not name:
        mend = f'Put a name first: vb.{word}("x", ...).'
        raise ModelError(f"a site's name must be a non-empty string, not {name!r:.80}.", mend=mend)
    return run, run.prefix + name
