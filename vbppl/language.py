"""The words of a model: `sample`, `param`, `plate`, `subsample`, `deterministic`, `factor`.

A word does one thing: it builds a `Site` and asks the interpreter of the current run what its
value is. An interpreter is any function `Site -> Site`: one draws from the prior, one reads
values from a flat vector, one replays a posterior (see `trace.py`). A model therefore never knows
why it is run, and runs nest: a model inside a `sample` statement is run by the same interpreter
under a longer name.

Shapes are the field's own. A plate owns one batch dimension, counted from the right; inside a
plate every batch dimension must belong to a plate, outside all plates batch dimensions are free.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl import bijectors
from vbppl.aliases import Array, PyTree, Shape
from vbppl.distributions.foreign import as_distribution
from vbppl.errors import ModelError


@dataclasses.dataclass(frozen=True)
class Frame:
    """An open plate: `length` of its `size` rows are shown, along batch dimension `dim` (< 0)."""

    name: str
    size: int
    length: int
    dim: int


@dataclasses.dataclass(frozen=True)
class Site:
    """One statement of a model in one run.

    `kind` is "sample", "param", "deterministic", "factor" or "plate". `dist` belongs to samples,
    `constraint` to params, `size` and `subsample_size` to plates. `value` is None until the
    interpreter has answered.
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

    @property
    def scale(self) -> float:
        """How much the site's density counts: N/B for each plate that shows B of its N rows."""
        return math.prod(frame.size / frame.length for frame in self.frames)

    @property
    def shape(self) -> Shape:
        """The shape of a sample site's value: batch dimensions, then event dimensions."""
        return tuple(self.dist.batch_shape) + tuple(self.dist.event_shape)


Interpreter = Callable[[Site], Site]


class Program:
    """Something that `sample` can run as a part of the current model: see `models.Model`."""

    def inline(self) -> Any:
        """Run the function inside the current run and return what it returns."""
        raise TypeError("a Program says how it is run")


class Run:
    """One run of a model: its interpreter, the plates that are open, the sites met so far."""

    def __init__(self, interpreter: Interpreter):
        self.interpreter = interpreter
        self.sites: dict[str, Site] = {}
        self.frames: tuple[Frame, ...] = ()
        self.prefix = ""

    def ask(self, site: Site) -> Site:
        """Let the interpreter answer `site`, and remember the answer."""
        before = self.sites.get(site.name)
        if before is not None:
            raise ModelError(
                f"the name is used twice, by {_a(before.kind)} and then by {_a(site.kind)} statement.",
                site=site.name,
                mend="Give each statement its own name; for many like variables use a plate.",
            )
        self.sites[site.name] = site = self.interpreter(site)
        return site


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
def interpreted(wrap: Callable[[str, Interpreter], Interpreter]) -> Iterator[Run]:
    """Let `wrap(prefix, interpreter)` stand in for the current run's interpreter, for a while."""
    run = _run("a model inside a model")
    before, run.interpreter = run.interpreter, wrap(run.prefix, run.interpreter)
    try:
        yield run
    finally:
        run.interpreter = before


def _run(word: str) -> Run:
    run = _current.get()
    if run is None:
        raise ModelError(
            f"{word} was called outside a model.",
            mend="Put it into a function under @vb.model, and pass that function's value to vb.fit "
            "or call its .sample().",
        )
    return run


def sample(name: str, dist: Any, obs: Any = None, *, sample_shape: Shape = ()) -> Any:
    """State that `name` is distributed as `dist`; return its value in this run.

    Args:
      name: unique in the model.
      dist: a distribution (of vbppl, or any object with its members), or another model applied
        to its arguments, which then runs as a part of this one under `name/...`.
      obs: the observed value, of exactly the site's shape; None for a latent variable.
      sample_shape: independent copies to the left of the batch.

    Returns:
      the value, of shape `sample_shape + batch_shape + event_shape`, where inside plates the batch
      is expanded to the plates' rows. For a model: what its function returns.

    Raises:
      ModelError: the shapes of `dist`, the plates and `obs` disagree, or the name is taken.
    """
    run = _run(f"sample({name!r}, ...)")
    name = run.prefix + _checked(name)
    if isinstance(dist, Program):
        return _submodel(run, name, dist, obs)
    dist = as_distribution(dist, name)
    if sample_shape:
        dist = dist.expand_by(tuple(sample_shape))
    dist = _expanded(name, dist, run.frames)
    if obs is not None:
        obs = _observation(name, dist, obs, run.frames)
    site = Site("sample", name, value=obs, dist=dist, observed=obs is not None, frames=run.frames)
    return run.ask(site).value


def param(name: str, init: PyTree, constraint: Any = None) -> PyTree:
    """A value learnt by maximum marginal likelihood: no prior, one best value.

    Args:
      name: unique in the model.
      init: where the search starts, on the support: an array, or any pytree of arrays (a
        dictionary of weights, a module). Leaves that are not floating-point arrays are kept.
      constraint: the support of every leaf, from `vbppl.distributions.constraints`; real if None.

    Returns:
      the same kind of thing as `init`, holding the current values.
    """
    run = _run(f"param({name!r}, ...)")
    if callable(init) and not jax.tree.leaves(init):
        raise ModelError(
            f"init is a function ({init!r}), not a value.",
            site=run.prefix + name,
            mend="Pass the initial value itself.",
        )
    if not jax.tree.leaves(init):
        raise ModelError("init holds no array.", site=run.prefix + name, mend="Pass an initial value.")
    constraint = bijectors.real if constraint is None else constraint
    site = Site("param", run.prefix + _checked(name), value=init, constraint=constraint, frames=run.frames)
    return run.ask(site).value


def deterministic(name: str, value: Any) -> Any:
    """Keep `value`, a function of the other sites, among the results under `name`; return it."""
    run = _run(f"deterministic({name!r}, ...)")
    value = jax.tree.map(jnp.asarray, value)
    return run.ask(Site("deterministic", run.prefix + _checked(name), value=value, frames=run.frames)).value


def factor(name: str, log_weight: Any) -> None:
    """Multiply the joint density by `exp(log_weight)`, summed over its entries.

    Inside a plate that shows B of N rows it counts N/B times, like every density there.
    """
    run = _run(f"factor({name!r}, ...)")
    name, log_weight = run.prefix + _checked(name), jnp.asarray(log_weight)
    _owned(name, log_weight.shape, run.frames, "log_weight")
    run.ask(Site("factor", name, value=log_weight, observed=True, frames=run.frames))


class plate:  # a word of the language, so lower case
    """Rows that are independent given what is outside: `with plate("school", 8): ...`.

    The plate owns one batch dimension: the rightmost that is free, or `dim`. It yields its row
    indices, `(rows,)`. With `subsample_size` (or `fit(..., batch_size=...)`) a stochastic fit
    shows that many rows at each step, the same in model and guide, and weighs every density in
    the plate by `size / rows`; everything else (prior, prediction, log density) shows all rows.

    Args:
      name: of the plate; a second plate of the same name must have the same size.
      size: the total number of rows, an int.
      subsample_size: rows shown at a time; None for all.
      dim: the batch dimension, negative.
    """

    def __init__(self, name: str, size: int, subsample_size: int | None = None, dim: int | None = None):
        self._run = run = _run(f"plate({name!r}, ...)")
        name = run.prefix + _checked(name)
        size, subsample_size = _rows(name, size, subsample_size)
        indices = _shown_rows(run, name, size, subsample_size)
        length = size if indices is None else indices.shape[0]
        self._indices = indices
        self._frame = Frame(name, size, length, _dimension(name, dim, run.frames))

    def __enter__(self) -> Array:
        clash = [f for f in self._run.frames if f.dim == self._frame.dim]
        if clash:
            raise ModelError(
                f"plates '{clash[0].name}' and '{self._frame.name}' both own dim {self._frame.dim}.",
                mend="Give one of them another dim=..., or create the inner plate inside the outer one.",
            )
        self._outer = self._run.frames
        self._run.frames = (*self._run.frames, self._frame)
        return jnp.arange(self._frame.size) if self._indices is None else self._indices

    def __exit__(self, *exc_info: object) -> None:
        self._run.frames = self._outer


def subsample(array: Any, event_dim: int = 0) -> Array:
    """The rows of `array` that the open plates show: all of them where nothing is subsampled.

    Args:
      array: has the plates' sizes along their dims, to the left of `event_dim` event dimensions.
      event_dim: how many rightmost dimensions do not belong to the batch: 1 for a design matrix
        `(rows, columns)`.
    """
    run = _run("subsample(...)")
    array = jnp.asarray(array)
    for frame in run.frames:
        axis = frame.dim - event_dim
        if -axis > array.ndim or array.shape[axis] == 1:
            continue
        if array.shape[axis] != frame.size:
            raise ModelError(
                f"subsample got an array of shape {array.shape}, whose axis {axis} has "
                f"{array.shape[axis]} rows, but plate '{frame.name}' has {frame.size}.",
                mend="Pass the whole array, and event_dim= the number of dims right of the plate's.",
            )
        indices = run.sites[frame.name].value
        if indices is not None:
            array = jnp.take(array, indices, axis=axis)
    return array


def _checked(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise ModelError(f"a site's name must be a non-empty string, not {name!r}.")
    return name


def _a(kind: str) -> str:
    return f"a {kind}"


def _submodel(run: Run, name: str, program: Program, obs: Any) -> Any:
    if obs is not None:
        raise ModelError(
            "a model has no single value to observe.",
            site=name,
            mend="Condition it by the names of its sites: sample(name, other(x).condition(y=...)).",
        )
    before, run.prefix = run.prefix, name + "/"
    try:
        return program.inline()
    finally:
        run.prefix = before


def _expanded(name: str, dist: Any, frames: tuple[Frame, ...]) -> Any:
    """`dist` with its batch expanded to the rows of the open plates, after checking the shapes."""
    if not frames:
        return dist
    batch = tuple(dist.batch_shape)
    _owned(name, batch, frames, "the distribution's batch")
    depth = max(len(batch), *(-frame.dim for frame in frames))
    wanted = [1] * (depth - len(batch)) + list(batch)
    for frame in frames:
        wanted[frame.dim] = frame.length
    return dist if tuple(wanted) == batch else dist.expand(tuple(wanted))


def _owned(name: str, batch: Shape, frames: tuple[Frame, ...], what: str) -> None:
    """Inside plates every batch dimension longer than 1 must belong to one, with its length."""
    if not frames:
        return
    owner = {frame.dim: frame for frame in frames}
    for dim in range(-len(batch), 0):
        length, frame = batch[dim], owner.get(dim)
        if length == 1 or (frame is not None and frame.length == length):
            continue
        table = f"{what}: {batch}\n" + "\n".join(
            f"plate '{f.name}': dim {f.dim}, {f.length}" + (f" of {f.size}" if f.length != f.size else "") + " rows"
            for f in frames
        )
        if frame is None:
            raise ModelError(
                f"dim {dim} of {what} has length {length}, but no plate owns it.",
                site=name,
                details=table,
                mend=f"Open a plate over it (vb.plate(..., {length}, dim={dim})), or declare the dims from there "
                f"to the right a part of the event with .to_event({-dim}) outside the plates.",
            )
        raise ModelError(
            f"dim {dim} of {what} has length {length}, but plate '{frame.name}' shows {frame.length} rows there.",
            site=name,
            details=table,
            mend=_batch_mend(batch, dim, frame),
        )


def _batch_mend(batch: Shape, dim: int, frame: Frame) -> str:
    if frame.size == batch[dim]:
        return (
            "Show the same rows of the arrays: vb.subsample(array), or array[indices] with the indices "
            "that the plate yields."
        )
    left = [d for d in range(-len(batch), dim) if batch[d] == frame.length]
    if left:
        return f"Declare the rightmost dims a part of the event: .to_event({dim - left[-1]})."
    return f"Make the plate's size {batch[dim]}, or use arrays with {frame.length} rows."


def _observation(name: str, dist: Any, obs: Any, frames: tuple[Frame, ...]) -> Any:
    obs = obs if isinstance(obs, jax.Array) else np.asarray(obs)
    shape = tuple(dist.batch_shape) + tuple(dist.event_shape)
    if obs.dtype.kind not in "biufc" and not isinstance(obs, jax.Array):
        raise ModelError(f"obs holds {obs.dtype} values, not numbers.", site=name, mend="Encode it as numbers.")
    if tuple(obs.shape) == shape:
        return obs
    table = f"obs:   {tuple(obs.shape)}\nsite:  {shape} = batch {tuple(dist.batch_shape)} + event {tuple(dist.event_shape)}"
    table += "".join(f"\nplate '{f.name}': dim {f.dim}, {f.length} rows" for f in frames)
    raise ModelError(
        f"obs has shape {tuple(obs.shape)}, but the site has shape {shape}.",
        site=name,
        details=table,
        mend=_obs_mend(tuple(obs.shape), shape, frames),
    )


def _obs_mend(obs: Shape, shape: Shape, frames: tuple[Frame, ...]) -> str:
    if math.prod(obs) == math.prod(shape):
        return f"Reshape the observations: obs.reshape({shape})."
    if any(f.length != f.size and f.size in obs for f in frames):
        return "The plate shows a part of its rows: pass obs=vb.subsample(y)."
    if not shape or math.prod(shape) == 1:
        return "Put the statement into a plate over the observations: with vb.plate('rows', len(y)): ..."
    return "Make the plate, the parameters and the observations agree in length."


def _rows(name: str, size: Any, subsample_size: Any) -> tuple[int, int | None]:
    for what, value in (("size", size), ("subsample_size", subsample_size)):
        if value is None and what == "subsample_size":
            continue
        if isinstance(value, (jax.core.Tracer, bool)) or not hasattr(value, "__index__") or int(value) < 1:
            raise ModelError(
                f"plate '{name}': {what} must be a positive int known before the run, not {value!r}.",
                mend="Take it from the shape of the data: len(y), x.shape[0].",
            )
    size = int(size)
    if subsample_size is not None and int(subsample_size) > size:
        raise ModelError(f"plate '{name}': subsample_size is {subsample_size}, but it has only {size} rows.")
    return size, None if subsample_size is None else int(subsample_size)


def _shown_rows(run: Run, name: str, size: int, subsample_size: int | None) -> Array | None:
    """The indices of the rows to show, `(length,)`; None for all. Asked once for each name."""
    before = run.sites.get(name)
    if before is None:
        return run.ask(Site("plate", name, size=size, subsample_size=subsample_size, frames=run.frames)).value
    if before.kind != "plate" or before.size != size:
        other = f"a plate of {before.size} rows" if before.kind == "plate" else _a(before.kind) + " statement"
        raise ModelError(
            f"the name is used by {other} and by a plate of {size} rows.", site=name, mend="Rename one of the two."
        )
    return before.value


def _dimension(name: str, dim: int | None, frames: tuple[Frame, ...]) -> int:
    taken = {frame.dim for frame in frames}
    if dim is None:
        return next(d for d in range(-1, -len(taken) - 2, -1) if d not in taken)
    if dim >= 0:
        raise ModelError(f"plate '{name}': dim must be negative (counted from the right), not {dim}.")
    return dim
