"""A scan in a run: the step is traced once, whatever the length, and what leaves the trace becomes sites of the run.

The step runs under a run of its own, which asks the handler of the run around it. The carry before each step is
found first (`carries`), then everything else for all steps side by side.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import jax
import jax.core
import jax.numpy as jnp

from vbppl.core.errors import ModelError
from vbppl.core.types import Array
from vbppl.model.control_flow.carries import StepProgram, carries_of
from vbppl.model.control_flow.hidden import Hidden, States, Tables, Unknown, along, drawn, forward
from vbppl.model.control_flow.step_sites import StepSite, Traced, counted, log_probs_by_row
from vbppl.model.control_flow.step_tables import HiddenProgram
from vbppl.model.control_flow.steps import Step, at_step, key_at
from vbppl.model.primitives import Handler, Run, Site, interpreted, running

SAME = 1e-3  # of a log density: what rounding may change
SHOWN = 2  # steps that a run looks at where these stand for all


_written_out: contextvars.ContextVar[bool] = contextvars.ContextVar("vbppl_written_out", default=False)


def is_written_out() -> bool:
    """Whether scans are to run their first steps without a program of their own."""
    return _written_out.get()


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


class _StepRun(Run):
    """The run of one step: its statements ask the handler of the run around it."""

    def __init__(self, outer: Run, step: Step):
        super().__init__(outer.handler, outer.arguments, outer.missing)
        self.frames, self.prefix, self.step, self.handlers = outer.frames, outer.prefix, step, outer.handlers
        self.applied, self.dropped = outer.applied, outer.dropped
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


Answers: TypeAlias = Mapping[str, Callable[[Site], Any]]
EMPTY: Answers = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Chain:
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
        self, carry: Any, x: list[Array], index: Array, slices: dict[int, Array] | None, answers: Answers = EMPTY
    ) -> tuple[Any, Any, _StepRun]:
        """One step: the next carry, what it gives back, and its run."""
        inner = _StepRun(self.run, Step(index, self.length, self.outer, slices))
        inner.handler = _holding(answers, _summing(inner.handler) if answers else inner.handler)
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
        carry, wholes, hidden = self._settled(carry, xs)
        if hidden:
            return self._without(hidden, carry, xs, wholes)
        leaves, structure = jax.tree.flatten(carry)
        closed, inputs, traced = self._program(carry, xs, wholes)
        program = StepProgram(closed, len(leaves), inputs, self.length)
        carries, last = carries_of(program, leaves)
        found = self._found(program, carries)
        y = traced.y.unflatten([next(found)[0] for _ in range(traced.y.num_leaves)])
        self.run.sites |= traced.plates
        for each in traced.sites:
            self.run.sites[each.site.name] = each.stacked([next(found) for _ in each.leaves], self.length)
        return structure.unflatten(last), y

    def _found(self, program: StepProgram, carries: Any) -> Iterator[tuple[Array, bool]]:
        """What the steps give after the carry, for all steps, and whether it differs between them."""
        pairs = zip(program.at_all(carries), self._changing(program, carries))
        return itertools.islice(pairs, program.carried, None)

    def _program(
        self, carry: Any, xs: list[Array], wholes: Mapping[int, Any], states: States | None = None
    ) -> tuple[Any, tuple[Array, ...], Traced]:
        """A step as a program, the inputs of all steps, and how what it gives is put together.

        With `states` its last argument is the number of their joint value, and it gives the log densities of its
        statements too, in the rows of the states.
        """
        leaves, structure = jax.tree.flatten(carry)
        traced: list[Traced] = []

        def step(*flat: Array) -> tuple[Any, Any, Any]:
            flat, number = (flat, jnp.zeros((), int)) if states is None else (flat[:-1], flat[-1])
            carried, (x, index, slices) = flat[: len(leaves)], _apart(flat[len(leaves) :], len(xs))
            answers = {} if states is None else _answers(states, number)
            cut = dict(zip(wholes, slices))
            after, y, inner = self.at(structure.unflatten(carried), x, index, cut, answers)
            after = [_cast(new, old) for new, old in zip(jax.tree.leaves(after), leaves)]
            self._check_names(inner)
            traced.append(Traced.of(y, list(inner.sites.values())))
            log_probs = log_probs_by_row(states, list(inner.sites.values()), number) if states else []
            return after, jax.tree.map(jnp.asarray, y), ([each.leaves for each in traced[-1].sites], log_probs)

        inputs = (*xs, jnp.arange(self.length), *(jnp.asarray(at_step(self.outer, whole)) for whole in wholes.values()))
        shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        shapes += [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf in inputs]
        shapes += [jax.ShapeDtypeStruct((), jnp.int32)] * (states is not None)
        return jax.make_jaxpr(step)(*shapes), inputs, traced[-1]

    def _without(self, hidden: Mapping[str, Site], carry: Any, xs: list[Array], wholes: Any) -> tuple[Any, Any]:
        """The same where discrete sites are hidden: see `hidden`."""
        states = States.of(hidden)
        leaves, structure = jax.tree.flatten(carry)
        closed, inputs, traced = self._program(carry, xs, wholes, states)
        program = HiddenProgram(closed, len(leaves), inputs, self.length, leaves, states)
        plain = program.plain()
        carries, last = carries_of(plain, [leaf for i, leaf in enumerate(leaves) if i not in program.stateful])
        depends = program.dependent()
        begin = len(depends) - len(traced.stated)
        moved = [begin + at for at, on in enumerate(depends[begin:]) if on]
        stated = [traced.stated[at - begin].site for at in moved]
        states.check_inside(stated)
        if states.key is not None:
            tables_of = functools.partial(program.tables, carries=carries)
            return self._drawn(states, tables_of, dict(zip(moved, stated)), carry, xs)
        tables = program.tables(moved, carries)
        found, on = self._found(plain, carries), iter(depends[len(leaves) :])
        unknown, known = Unknown(states.name), iter(last)
        y = [unknown if next(on) else leaf for leaf, _ in itertools.islice(found, traced.y.num_leaves)]
        self.run.sites |= traced.plates
        summed = {site.name for site in stated}
        for each in traced.sites:
            own = [(next(found), next(on)) for _ in each.leaves]
            site = self._left(each, own, each.site.name in summed, states)
            if each.site.name == states.name:
                site = states.factor(each.site, tables, self._likelihoods(program, carries, moved, stated))
            if site is not None:
                self.run.sites[site.name] = site
        rest = [unknown if i in program.stateful else next(known) for i in range(len(leaves))]
        return structure.unflatten(rest), traced.y.unflatten(y)

    def _drawn(
        self, states: States, tables: Callable[..., Tables], stated: dict[int, Site], carry: Any, xs: Any
    ) -> Any:
        """The same with values drawn for the states, so that nothing is hidden any more.

        `stated` are the statements that depend on them, by their places in the program that `tables` is made of.
        """
        key = key_at(states.key, states.name, self.outer)
        is_checked = states.hidden[states.name].checked
        path = states.anything(key, self.length) if is_checked else drawn(tables([*stated]), key)
        given = {name: functools.partial(_value_of, whole) for name, whole in states.values(path).items()}
        with interpreted(lambda _, handler: _holding(given, handler)):
            found = self.trace(carry, xs)
        # A scan inside that sums out states of its own has left another statement there than in the tables.
        now = {at: self.run.sites[site.name] for at, site in stated.items()}
        same = {at: site for at, site in now.items() if site.kind == stated[at].kind}
        if is_checked and same:
            told = along(tables([*same]), path)
            own = sum(jax.vmap(functools.partial(states.by_row, s))(_log_prob(s)) for s in same.values())
            apart = (jnp.abs(own - told) > SAME * (1.0 + jnp.abs(told))) | jnp.isneginf(own)
            mixed = jnp.any(jnp.isfinite(told) & apart)
            self.run.sites[states.name] = dataclasses.replace(self.run.sites[states.name], told={"mixed": mixed})
        return found

    def _left(self, each: StepSite, own: Any, is_summed: bool, states: States) -> Site | None:
        """What is left of a site of a step with hidden states; None where it is a part of the sum."""
        on = any(depends for _, depends in own)
        found = [pair for pair, _ in own]
        if not is_summed and not (on and each.site.kind == "deterministic"):
            return each.stacked(found, self.length)
        if each.site.kind != "sample" or each.site.observed or each.site.name in states.hidden:
            return None
        if any(depends for (_, depends), of_value in zip(own, each.are_values) if of_value):
            raise ModelError(
                f"its support depends on the discrete site '{states.name}', which is summed out: it has no one value "
                "in the sum.",
                site=each.site.name,
                mend=f"Give it a support that is the same for all values of '{states.name}'.",
            )
        return counted(each, found, self.length)

    def _likelihoods(
        self, program: HiddenProgram, carries: Any, moved: list[int], stated: list[Site]
    ) -> dict[str, Any]:
        """What each observed statement adds at each step, given the steps before and the statements before it.

        And what is there without any.
        """
        is_observed = {at: site.kind == "sample" and site.observed for at, site in zip(moved, stated)}
        seen = [at for at in moved if not is_observed[at]]
        before, found = forward(program.tables(seen, carries)).increments, {}
        told = {"likelihoods": found, "unobserved": program.states.in_batch(before)}
        for at, site in zip(moved, stated):
            if is_observed[at]:
                seen = sorted([*seen, at])
                after = forward(program.tables(seen, carries)).increments
                found[site.name], before = program.states.in_batch(after - before), after
        return told

    def _changing(self, program: StepProgram, carries: Any) -> list[bool]:
        """Whether each output may differ from step to step."""
        moving = 1 << program.carried
        for place, (_, axis) in enumerate(carries):
            moving |= 1 << place if axis == 0 else 0
        return [bool(bits & moving) for bits in program.reached_by]

    def _settled(self, carry: Any, xs: list[Array]) -> tuple[Any, dict[int, Any], dict[str, Site]]:
        """The first carry, in dtypes that stay; what steps read of arrays of all steps; and what is to be hidden."""
        for _ in range(3):
            wholes: dict[int, Any] = {}
            hidden: dict[str, Site] = {}

            def step(carry: Any, x: list[Array], index: Array, wholes: Any = wholes, hidden: Any = hidden) -> Any:
                after, _, inner = self.at(carry, x, index, None)
                wholes |= inner.step.wholes
                sites = inner.sites.values()
                hidden |= {s.name: dataclasses.replace(s, value=None) for s in sites if isinstance(s.told, Hidden)}
                return jax.tree.map(jnp.asarray, after)

            x = [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf in xs]
            after = jax.eval_shape(step, carry, x, jax.ShapeDtypeStruct((), jnp.arange(1).dtype))
            _check_carry(carry, after)
            before, carry = carry, jax.tree.map(_wide_enough, carry, after)
            if all(a.dtype == b.dtype for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(carry))):
                break
        return carry, wholes, hidden

    def _check_names(self, inner: _StepRun) -> None:
        for site in inner.sites.values():
            if site.kind != "plate":
                self.run.check_name(site)


def _apart(flat: Sequence[Array], count: int) -> tuple[list[Array], Array, list[Array]]:
    """The `xs` of a step, its number, and what was cut off for it."""
    index, *slices = flat[count:]
    return list(flat[:count]), index, slices


def _holding(answers: Answers, handler: Handler) -> Handler:
    """Let some latent sites have the values that `answers` find; ask `handler` for the rest."""
    if not answers:
        return handler

    def interpret(site: Site) -> Site:
        if site.kind == "sample" and site.value is None and site.name in answers:
            site = dataclasses.replace(site, value=answers[site.name](site))
        return handler(site)

    return interpret


def _answers(states: States, number: Array) -> Answers:
    """The values of the hidden sites at one joint value."""
    own = states.own(number)
    return {name: lambda _, name=name: states.hidden[name].support.value(own[name]) for name in own}


def _log_prob(site: Site) -> Array:
    return site.dist.log_prob(site.value) if site.kind == "sample" else site.value


def _value_of(whole: Array, site: Site) -> Any:
    # Drawn within a step of the scans around, if there are any: there is no part to be taken for these.
    return whole[site.step.index]


def _summing(handler: Handler) -> Handler:
    """Let scans inside sum out their hidden states, and not draw them: these depend on states around them."""

    def interpret(site: Site) -> Site:
        site = handler(site)
        return dataclasses.replace(site, told=Hidden(site.told.support)) if isinstance(site.told, Hidden) else site

    return interpret


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
