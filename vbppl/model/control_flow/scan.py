"""The word `scan`: a step with statements inside, run along a sequence.

The step is traced once, whatever the length, under a run of its own that asks the interpreter of the run around it: so
all that walks sites (priors, densities, conditions, posteriors) knows scans without being told. What leaves the
trace is, of each site, its value, its distribution and what the interpreter said of it; along a new leading axis they
make one site of the run around. The carry before each step is found first (`carries`), then everything else for all
steps side by side.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from vbppl.core.errors import ModelError, of_kind, whole_number
from vbppl.core.types import Array, PyTree
from vbppl.data.source import Source
from vbppl.distributions.stacked import Stacked
from vbppl.model.arguments import numbers_of
from vbppl.model.control_flow.carries import StepProgram, carries_of
from vbppl.model.control_flow.steps import Step, at_step
from vbppl.model.primitives import Run, Site, run_of, running

SHOWN = 2  # steps that a run looks at where these stand for all


_written_out: contextvars.ContextVar[bool] = contextvars.ContextVar("vbppl_written_out", default=False)


@contextlib.contextmanager
def written_out() -> Iterator[None]:
    """Let scans run their first two steps one after the other, without a program of their own.

    For what looks at the statements and not at numbers: the second step stands for all that come after it.
    """
    token = _written_out.set(True)
    try:
        yield
    finally:
        _written_out.reset(token)


def scan(
    step: Callable[[Any, Any], tuple[Any, Any]],
    init: PyTree,
    xs: PyTree = None,
    length: int | None = None,
    **foreign: Any,
) -> tuple[Any, Any]:
    """Run `step` along a sequence: a chain of states, a filter, a recursion, with `sample` statements inside.

    A site keeps its name, and its value gets the steps as its first axis. Compiling takes as long for ten thousand
    steps as for ten. Let the carry hold the states themselves: where these are known, all steps are computed side by
    side, and only what depends on its own past without end goes from one step to the next.

    Args:
      step: `(carry, x) -> (carry, y)`, in the words of the language: `sample`, `deterministic`, `factor`, `plate`,
        another `scan`; not `param`, which is stated outside.
      init: the first carry: a pytree of arrays, whose shapes stay.
      xs: a pytree of arrays; each step gets the entries of one place along their first axes. Observations come in
        here, and are given to `sample` as `obs=`; None stands for those that are not there.
      length: the number of steps, where `xs` does not tell.

    Returns:
      the last carry, and the `y` of all steps along a new first axis.

    Raises:
      ModelError: the carry changes its shape, the lengths disagree, or a statement cannot stand inside.

    >>> import numpy as np, vbppl as vb, vbppl.distributions as dist
    >>> @vb.model
    ... def local_level(n, y=None):
    ...     def step(level, y):
    ...         level = vb.sample("level", dist.Normal(level, 0.5))
    ...         vb.sample("y", dist.Normal(level, 1.0), obs=y)
    ...         return level, None
    ...
    ...     vb.scan(step, 0.0, y, length=n)
    >>> posterior = vb.fit(local_level(4, np.array([0.3, 0.9, 1.1, 1.7])), "full_rank")
    >>> print(posterior.mean()["level"].round(2))  # as the Kalman smoother says
    [0.4  0.79 1.11 1.31]
    >>> posterior.predict(local_level(6))["level"].shape  # run on by two steps
    (1000, 6)
    """
    run = run_of("scan(...)")
    for name in foreign:
        mend = FOREIGN.get(name, "Write scan(step, init, xs, length=n).")
        raise TypeError(f"scan has no argument {name}=.\n  To mend it: {mend}")
    of_kind("step", step, callable(step), "a function (carry, x) -> (carry, y)")
    leaves, structure = jax.tree.flatten(xs)
    leaves = [_entries(leaf) for leaf in leaves]
    length = _length([leaf.shape[0] for leaf in leaves], length)
    carry = jax.tree.map(lambda leaf: numbers_of("", "init", leaf), init)
    chain = _Chain(run, step, structure, length)
    if _written_out.get():
        return chain.write_out(carry, leaves)
    return chain.trace(carry, leaves)


# What others' scans take, and what says it here.
FOREIGN: Mapping[str, str] = {
    "reverse": "Turn xs round, x[::-1], and what comes back.",
    "history": "Let the carry hold the values of earlier steps that a step needs.",
    "unroll": "Leave it out: steps are computed side by side where that can be.",
}


def _entries(leaf: Any) -> Array:
    if isinstance(leaf, Source):
        mend = "Take the rows outside of the scan, with vb.subsample, and give it arrays."
        raise ModelError(f"xs of a scan holds '{leaf.name}', which is read in parts.", mend=mend)
    leaf = numbers_of("", "xs", leaf)
    if not leaf.ndim:
        mend = "Give xs arrays with the steps along their first axes; what is the same at each step needs no xs."
        raise ModelError("xs of a scan holds a single number, which has no steps.", mend=mend)
    return leaf


def _length(found: list[int], length: Any) -> int:
    length = length if length is None else whole_number("length", length)
    sizes = dict.fromkeys(found if length is None else (length, *found))
    if len(sizes) == 1 and next(iter(sizes)) > 0:
        return next(iter(sizes))
    if not sizes:
        raise ModelError("scan is not told how many steps there are.", mend="Give it xs, or length=n.")
    said = f"xs: {', '.join(map(str, found))}" + (f"\nlength: {length}" if length is not None else "")
    mend = "Give each array of xs the steps along its first axis, at least one, and leave length out."
    raise ModelError("scan is told different numbers of steps.", details=said, mend=mend)


class _StepRun(Run):
    """The run of one step: its statements ask the interpreter of the run around it."""

    def __init__(self, outer: Run, step: Step):
        super().__init__(outer.interpreter, outer.arguments)
        self.frames, self.prefix, self.step = outer.frames, outer.prefix, step
        self.sites = {name: site for name, site in outer.sites.items() if site.kind == "plate"}
        self.before = {site.name: site.sources for site in self.sites.values()}

    def ask(self, site: Site) -> Site:
        if site.kind in REFUSED:
            raise ModelError(
                f"a {site.kind} statement cannot stand in a step of a scan.", site=site.name, mend=REFUSED[site.kind]
            )
        return super().ask(dataclasses.replace(site, step=self.step))

    def check_sources(self) -> None:
        """Rows that are read in parts are read outside."""
        for site in self.sites.values():
            if set(site.sources) - set(self.before.get(site.name, ())):
                mend = "Call vb.subsample before the scan, and give it the rows as xs."
                raise ModelError("rows of a source are read in a step of a scan.", site=site.name, mend=mend)


REFUSED: Mapping[str, str] = {
    "param": "State it before the scan: its value may be used in each step.",
    "mutable": "State it before the scan, and hand what changes from step to step on in the carry.",
    "key": "Ask for it before the scan, and give each step a key of its own: xs=jax.random.split(key, n).",
}


@dataclasses.dataclass(frozen=True)
class _Chain:
    """A scan in a run."""

    run: Run
    step: Callable[[Any, Any], tuple[Any, Any]]
    structure: Any  # of xs
    length: int

    @property
    def outer(self) -> Step | None:
        """The step in which it stands, of a scan around it."""
        return self.run.step if isinstance(self.run, _StepRun) else None

    def at(
        self, carry: Any, x: list[Array], index: Array, slices: dict[int, Array] | None
    ) -> tuple[Any, Any, _StepRun]:
        """One step: the next carry, what it gives back, and its run."""
        inner = _StepRun(self.run, Step(index, self.length, self.outer, slices))
        try:
            with running(inner):
                found = self.step(carry, self.structure.unflatten(x))
        except Exception:
            self.run.sites |= inner.sites  # so that it can be told after which site it happened
            raise
        if not isinstance(found, tuple) or len(found) != 2:
            mend = "End it with return carry, y; y may be None."
            raise ModelError(f"the step of a scan returned {_kind(found)}, not a carry and a y.", mend=mend)
        inner.check_sources()
        return *found, inner

    def write_out(self, carry: Any, xs: list[Array]) -> tuple[Any, Any]:
        """The first two steps, one after the other."""
        y = None
        for index in range(min(SHOWN, self.length)):
            carry, y, inner = self.at(carry, [leaf[index] for leaf in xs], jnp.asarray(index), None)
            if not index:
                self._check_names(inner)
            self.run.sites |= inner.sites
        return carry, jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (self.length, *jnp.shape(leaf))), y)

    def trace(self, carry: Any, xs: list[Array]) -> tuple[Any, Any]:
        """The last carry, and what the steps give back; their sites become sites of the run."""
        carry, wholes = self._settled(carry, xs)
        leaves, structure = jax.tree.flatten(carry)
        first: dict[str, Any] = {}
        keys = list(wholes)

        def step(*flat: Array) -> tuple[Any, Any, Any]:
            carried, x = flat[: len(leaves)], list(flat[len(leaves) : len(leaves) + len(xs)])
            index, *slices = flat[len(leaves) + len(xs) :]
            after, y, inner = self.at(structure.unflatten(carried), x, index, dict(zip(keys, slices)))
            after = [_cast(new, old) for new, old in zip(jax.tree.leaves(after), leaves)]
            sites = [_Answer.of(site) for site in inner.sites.values() if site.kind != "plate"]
            first.update(y=jax.tree.structure(y), sites=sites)
            first["plates"] = {site.name: site for site in inner.sites.values() if site.kind == "plate"}
            self._check_names(inner)
            return after, jax.tree.map(jnp.asarray, y), [answer.leaves for answer in sites]

        inputs = (*xs, jnp.arange(self.length), *(jnp.asarray(at_step(self.outer, whole)) for whole in wholes.values()))
        shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        shapes += [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf in inputs]
        program = StepProgram(jax.make_jaxpr(step)(*shapes), len(leaves), inputs, self.length)
        carries, last = carries_of(program, leaves)
        found = iter(zip(program.at_all(carries), self._changing(program, carries)))
        for _ in leaves:
            next(found)
        y = first["y"].unflatten([next(found)[0] for _ in range(first["y"].num_leaves)])
        self.run.sites |= first["plates"]
        for answer in first["sites"]:
            site = answer.stacked([next(found) for _ in answer.leaves], self.length)
            self.run.sites[site.name] = site
        return structure.unflatten(last), y

    def _changing(self, program: StepProgram, carries: Any) -> list[bool]:
        """Whether each output may differ from step to step."""
        moving = 1 << program.carried
        for place, (_, axis) in enumerate(carries):
            moving |= 1 << place if axis == 0 else 0
        return [bool(bits & moving) for bits in program.reached_by]

    def _settled(self, carry: Any, xs: list[Array]) -> tuple[Any, dict[int, Any]]:
        """The first carry in the dtypes that the steps give it; and what the steps read of arrays of all steps."""
        for _ in range(3):
            wholes: dict[int, Any] = {}

            def step(carry: Any, x: list[Array], index: Array, wholes: dict[int, Any] = wholes) -> Any:
                after, _, inner = self.at(carry, x, index, None)
                wholes |= inner.step.wholes
                return jax.tree.map(jnp.asarray, after)

            x = [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf in xs]
            after = jax.eval_shape(step, carry, x, jax.ShapeDtypeStruct((), jnp.arange(1).dtype))
            _check_carry(carry, after)
            before, carry = carry, jax.tree.map(_wide_enough, carry, after)
            if all(a.dtype == b.dtype for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(carry))):
                break
        return carry, wholes

    def _check_names(self, inner: _StepRun) -> None:
        for site in inner.sites.values():
            if site.kind != "plate":
                self.run.check_name(site)


def _wide_enough(leaf: Array, after: Any) -> Array:
    """The array in a dtype that holds what a step makes of it, and that does not give way to others any more."""
    same = leaf.dtype == after.dtype
    return jax.lax.convert_element_type(leaf, leaf.dtype if same else jnp.promote_types(leaf.dtype, after.dtype))


def _cast(new: Any, old: Array) -> Array:
    new = jnp.asarray(new)
    return new if new.dtype == old.dtype else new.astype(old.dtype)


def _check_carry(before: Any, after: Any) -> None:
    shapes = [jax.tree.map(jnp.shape, carry) for carry in (before, after)]
    if shapes[0] == shapes[1] and jax.tree.structure(before) == jax.tree.structure(after):
        return
    raise ModelError(
        "the carry of a scan changes from one step to the next.",
        details=f"before: {shapes[0]}\nafter:  {shapes[1]}",
        mend="Let the step return a carry of the structure and the shapes of init; begin with jnp.zeros(...) of these.",
    )


def _kind(found: Any) -> str:
    return f"a tuple of {len(found)}" if isinstance(found, tuple) else type(found).__name__


@dataclasses.dataclass(frozen=True)
class _Answer:
    """What leaves the trace of a step of one site.

    Attributes:
      site: without its numbers.
      rest: how value, distribution and what was told are put together again: for each its structure, and its leaves
        with None in the place of what the trace has computed.
      shapes: batch and event of its distribution.
      leaves: what the trace has computed, in order.
    """

    site: Site
    rest: tuple[tuple[Any, list[Any]], ...]
    shapes: tuple[Any, ...]
    leaves: Sequence[Array]

    @classmethod
    def of(cls, site: Site) -> _Answer:
        parts = [jax.tree.flatten(part) for part in (site.value, site.dist, site.told)]
        leaves = [leaf for own, _ in parts for leaf in own if isinstance(leaf, jax.core.Tracer)]
        rest = tuple(
            (tree, [None if isinstance(leaf, jax.core.Tracer) else leaf for leaf in own]) for own, tree in parts
        )
        shapes = (tuple(site.dist.batch_shape), tuple(site.dist.event_shape)) if site.kind == "sample" else ()
        return cls(dataclasses.replace(site, value=None, dist=None, told=None, step=None), rest, shapes, leaves)

    def stacked(self, found: list[tuple[Array, bool]], length: int) -> Site:
        """The site of all steps, from what each of these leaves is at all steps, and whether it changes."""
        computed = iter(found)
        value, dist, told = ([next(computed) if leaf is None else (leaf, None) for leaf in own] for _, own in self.rest)
        trees = [tree for tree, _ in self.rest]

        def whole(leaf: Any, changes: bool | None) -> Array:
            return jnp.broadcast_to(leaf, (length, *jnp.shape(leaf))) if changes is None else leaf

        value, told = (tree.unflatten([whole(*leaf) for leaf in own]) for tree, own in zip(trees[::2], (value, told)))
        if self.shapes:
            # What is the same at each step stands once, as a step has it.
            once = trees[1].unflatten([leaf[0] if changes is False else leaf for leaf, changes in dist])
            axes = tuple(0 if changes else None for _, changes in dist)
            dist = Stacked(once, axes, length, *self.shapes)
        return dataclasses.replace(
            self.site, value=value, dist=dist if self.shapes else None, told=told, steps=(length, *self.site.steps)
        )
