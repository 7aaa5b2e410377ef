"""The decorators `model` and `guide`, and `Model`: a model applied to its arguments, as a value.

A `Model` is a pytree. The arrays among its arguments are its leaves: data, traced, never compiled
into a program. The function and all other arguments are static. Two models of the same function
whose arrays have equal shapes therefore share their compiled programs.
"""

from __future__ import annotations

import dataclasses
import functools
import html
import inspect
import sys
from collections.abc import Callable, Container, Mapping
from typing import Any, Generic, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core import devices
from vbppl.core.errors import ModelError, of_kind, whole_number
from vbppl.core.keys import raw_key
from vbppl.core.pickles import again, wrapper
from vbppl.core.pytree import pytree, set_field, static
from vbppl.core.tables import Table, folded, number
from vbppl.core.types import Array, Seed
from vbppl.data.source import Source, unpadded
from vbppl.model.arguments import (
    Static,
    by_name,
    name_of,
    no_such_site,
    plain_function,
    settled,
    shown,
    shown_to_run,
    split,
    value_of,
)
from vbppl.model.control_flow.steps import value_at
from vbppl.model.evaluation.starts import initial_params, initial_states
from vbppl.model.evaluation.values import joint_density, own_params, prior_draws, site_densities
from vbppl.model.graph.graph import Graph, graph_of
from vbppl.model.handlers import in_mode
from vbppl.model.labels.names import Names, by_identity
from vbppl.model.modules import crossing
from vbppl.model.outside.dropped import told_if_dropped
from vbppl.model.outside.numpyro import refuse_handlers
from vbppl.model.outside.reading import PLAIN, Reading, reading, unchanged
from vbppl.model.primitives import Handler, Program, Site, current, interpreted, subsample
from vbppl.model.shapes import all_rows, as_numbers
from vbppl.model.trace import abstract_sites, check_numbers, traced

P = ParamSpec("P")
NO_OBJECTS = (*PLAIN, tuple, list, type(None))  # arguments in which there is nothing that could change


class ModelFunction(Generic[P]):
    """A function under `@model` or `@guide`; applied to arguments it returns a `Model`."""

    def __init__(self, function: Callable[P, Any]):
        function = plain_function(function, ModelFunction)
        functools.update_wrapper(self, function)
        self._function = function
        self._signature = inspect.signature(function)
        self.again = again(function, type(self))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Model:
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name_of(self._function)}{self._signature}: {error}") from None
        refuse_handlers(f"the call of {name_of(self._function)}", self)
        run = current()
        new = settled(Model.of(self._function, args, kwargs), abstract_sites if run is None else None)
        if run is not None:
            name = name_of(self._function)
            run.applied.append(told_if_dropped(new, name, run.dropped.append, sys._getframe(1)))
        return new

    def __reduce__(self) -> Any:
        return self.again, ()

    def __repr__(self) -> str:
        return f"<model {name_of(self._function)}{self._signature}>"


def _rebuilt(function: Any, fields: dict[str, Any]) -> Model:
    model = object.__new__(Model)
    for name, value in fields.items():
        set_field(model, name, value)
    set_field(model, "function", function._function)
    return model


def model(function: Callable[P, Any]) -> ModelFunction[P]:
    """Make a function that speaks the words of the language a model.

    What the function reads from outside its arguments (globals, closures) becomes part of the compiled programs:
    arrays and numbers that have changed there mean other programs, so pass what changes often as an argument.

    >>> import vbppl as vb, vbppl.distributions as dist
    >>> @vb.model
    ... def coin(flips=None, n=10):
    ...     p = vb.sample("p", dist.Beta(1.0, 1.0))
    ...     with vb.plate("flip", n):
    ...         vb.sample("flips", dist.Bernoulli(p), obs=flips)
    >>> coin(n=3)
    coin(n=3)
    >>> coin(n=3).sample(5)["flips"].shape
    (5, 3)
    """
    return ModelFunction(function)


def guide(function: Callable[P, Any]) -> ModelFunction[P]:
    """Make a function a guide program: the model's arguments, `param` and `sample` statements.

    Each latent site of the model is sampled in the guide under the same name.
    """
    return ModelFunction(function)


@pytree
class Model(Program):
    """A model applied to its arguments. Nothing runs until it is asked to.

    Attributes:
      arrays: the arrays and sources among the arguments, in order: data.
      conditions: values of sites that count as observed.
      interventions: values of sites whose own density is cut out (`do`).
      decentered: sites that are fitted in other coordinates: see `reparam.py`.
      states: what the steps of a fit have left in modules and mutable values.
      training: raw key data while a fit makes steps; None elsewhere.
      missing: for each site of which entries are missing, which these are, None where they are left out: see
        `missing/places.py`.
      reads: what the function read from outside its arguments when it was applied: see `outside/reading.py`.
    """

    arrays: tuple[Any, ...]
    conditions: dict[str, Any]
    interventions: dict[str, Any]
    function: Callable[..., Any] = static()
    structure: Any = static()
    settings: tuple[Static, ...] = static()
    decentered: tuple[str, ...] = static(default=())
    states: dict[str, Any] = dataclasses.field(default_factory=dict)
    training: Any = None
    reads: Reading = static(default=())
    missing: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, function: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Model:
        """Split the arguments into arrays (data) and everything else (static)."""
        arrays, settings, structure = split((args, kwargs), function)
        new = cls(arrays, {}, {}, function, structure, settings)
        return dataclasses.replace(new, reads=reading(new.functions))

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """Its own, and those among its arguments; objects too, whose attributes it may read."""
        values = (value_of(setting) for setting in self.settings if not isinstance(setting, Names))
        return (self.function, *(value for value in values if not isinstance(value, NO_OBJECTS)))

    @property
    def arguments(self) -> tuple[tuple, dict[str, Any]]:
        """The positional and keyword arguments, as they were given."""
        return self._arguments(lambda setting, _: value_of(setting), lambda array: array)

    def _arguments(self, as_given: Callable[[Static, int], Any], as_array: Callable[[Any], Any]) -> Any:
        arrays, every = map(as_array, self.arrays), enumerate(self.settings)
        leaves = [next(arrays) if setting is None else as_given(setting, number) for number, setting in every]
        return jax.tree.unflatten(self.structure, leaves)

    @property
    def sources(self) -> dict[str, Source]:
        """The sources among the arguments, by their names."""
        return {leaf.name: leaf for leaf in self.arrays if isinstance(leaf, Source)}

    def with_arrays(self, change: Callable[[Any], Any]) -> Model:
        """The same model with each of its arrays and sources, its conditions' too, changed."""
        names = ("arrays", "conditions", "interventions", "states", "missing")
        parts = {name: getattr(self, name) for name in names}
        return dataclasses.replace(self, **jax.tree.map(change, parts, is_leaf=lambda leaf: isinstance(leaf, Source)))

    def loaded(self, names: Container[str] | None = None) -> Model:
        """The same model with its sources (those called `names`) read whole, for what needs all rows at once."""

        def load(leaf: Any) -> Any:
            return leaf.load() if isinstance(leaf, Source) and (names is None or leaf.name in names) else leaf

        return self.with_arrays(load) if self.sources else self

    def inline(self) -> Any:
        args, kwargs = self._arguments(shown_to_run, unpadded)
        if not self.conditions and not self.interventions:
            return self.function(*args, **kwargs)
        met: dict[str, str] = {}
        with interpreted(lambda prefix, handler: self._changed(prefix, handler, met)) as run:
            value = self.function(*args, **kwargs)
            self._check_names(run.prefix, met)
        return value

    def trace(self, handler: Handler) -> dict[str, Site]:
        """The sites of one run under `handler`."""
        handler, arrays = in_mode(handler, self.states, self.training), dict(by_identity(self.arrays))
        with unchanged(self.reads, self.functions) as function, traced(handler, arrays, self.missing) as sites:
            (self if function is self.function else dataclasses.replace(self, function=function)).inline()
        return sites

    def in_training(self, states: Mapping[str, Any], raw_key: Any) -> Model:
        """The same with `states` in its modules; in training mode unless `raw_key` is None."""
        return dataclasses.replace(self, states=dict(states), training=raw_key)

    def initial_params(self) -> dict[str, Any]:
        """The unconstrained initial values of the params, by name: see `evaluation.starts`."""
        return initial_params(self)

    @property
    def has_training_mode(self) -> bool:
        """Whether a module in it behaves otherwise in training than in evaluation."""
        return any(site.has_training_mode for site in abstract_sites(self).values())

    def initial_states(self) -> dict[str, Any]:
        """What the first step of a fit finds in modules and mutable values, by the sites' names."""
        return initial_states(self) if self.has_training_mode else {}

    def condition(self, values: Mapping[str, Any] | None = None, /, **named: Any) -> Model:
        """The same model with sites observed: `named` ones, `model.condition(y=...)`, or a dict `values` by names.

        It is what `obs=` in the model would do, so `sample` and `predict` draw these sites anew; to
        hold a site at a value there too, use `do`.
        """
        return self._with("conditions", {**by_name({} if values is None else values), **named})

    def do(self, values: Mapping[str, Any] | None = None, /, **named: Any) -> Model:
        """The same with sites set from outside, `values` or `named` ones: their own densities no longer count."""
        return self._with("interventions", {**by_name({} if values is None else values), **named})

    def sample(self, n: int = 1000, seed: Seed = 0, params: Mapping[str, Any] | None = None) -> dict[str, Array]:
        """`n` draws from the prior predictive distribution, alike for a `seed`; observed sites are drawn anew.

        Args:
          params: values of the model's params, such as `posterior.params`; if None they stand at their `init`.

        Returns: for each sample and deterministic site an array `(n, ...)`.
        """
        refuse_handlers("model.sample")
        of_kind("params", params, params is None or isinstance(params, Mapping), "a dict of values, posterior.params")
        check_numbers(whole := self.loaded(), observations=False)
        numbers = np.arange(whole_number("n", n), dtype=np.uint32)
        return prior_draws(numbers, whole, own_params(self, params or {}), raw_key(seed))

    def log_joint(self, values: Mapping[str, Any]) -> Array:
        """The log joint density of the data and `values`, on the sites' supports, all rows shown.

        Args:
          values: for each latent site a value of its shape, or draws `(n, ...)` of all of them; discrete ones that
            are left out are summed out. Params stand at their `init`, or as given; deterministic sites are not read.

        Returns: a scalar, or `(n,)`, in nats.

        Raises:
          ModelError: a site has no value, or one of another shape; a name is unknown or observed.
        """
        refuse_handlers("model.log_joint")
        return joint_density(*devices.put((self.loaded(), _as_values(values))))

    def __reduce__(self) -> Any:
        fields = {name: value for name, value in vars(self).items() if name != "function"}
        return _rebuilt, (wrapper(self.function) or ModelFunction(self.function), fields)

    def shapes(self, at: Seed | Mapping[str, Any] | None = None) -> Table:
        """The table of shapes: for each site its distribution with the support, its batch, event and plates.

        >>> import vbppl as vb, vbppl.distributions as dist
        >>> @vb.model
        ... def scale(y):
        ...     sd = vb.sample("sd", dist.Exponential(1.0))
        ...     vb.sample("y", dist.Normal(0.0, sd).expand((2,)), obs=y)
        >>> scale(np.array([1.0, -1.0])).shapes(at={"sd": 1.0})
        site  kind      distribution  support      batch  event  plates  log density
        sd    latent    Exponential   nonnegative  ()     ()             -1.000
        y     observed  Normal        real         (2,)   ()             -2.838

        Args:
          at: values of all latent sites, or the seed of a draw of the prior, `model.sample(1, seed)`: the table then
            has what each site adds to the log joint density there, in nats. It shows which is infinite or far off.

        Raises:
          ModelError: `at` lacks a site, has one of another shape, or a prior cannot be drawn from.
        """
        head = ("site", "kind", "distribution", "support", "batch", "event", "plates")
        rows = {name: site.row() for name, site in abstract_sites(self).items()}
        if at is not None:
            values, raw = (_as_values(at), None) if isinstance(at, Mapping) else ({}, raw_key(at, "at"))
            found = site_densities(*devices.put((self.loaded(), values, raw)))
            head += ("log density",)
            rows = {n: (*row, number(float(found[n]))) if n in found else row for n, row in rows.items()}
        return Table(head, tuple(rows.values()), align="<")

    def graph(self) -> Graph:
        """The graph of the model: each site with the sites that it is computed from, found by running the program.

        >>> import vbppl as vb, vbppl.distributions as dist
        >>> @vb.model
        ... def pair():
        ...     vb.sample("y", dist.Normal(2.0 * vb.sample("x", dist.Normal(0.0, 1.0)), 1.0))
        >>> pair().graph()
        site  kind    distribution  given  plates
        x     latent  Normal
        y     latent  Normal        x

        Returns: in a notebook a picture; `.svg`, `.mermaid` and `.dot` are the same as text.
        """
        return graph_of(self)

    def __repr__(self) -> str:
        args, kwargs = self.arguments
        given = [shown(a) for a in args] + [f"{k}={shown(v)}" for k, v in kwargs.items()]
        changes = [f".condition({', '.join(self.conditions)})"] * bool(self.conditions)
        changes += [f".do({', '.join(self.interventions)})"] * bool(self.interventions)
        return f"{name_of(self.function)}({', '.join(given)})" + "".join(changes)

    def _repr_html_(self) -> str:
        try:
            page = self.graph()._repr_html_() + folded("shapes", self.shapes()._repr_html_())
        except ModelError as error:  # to look at a model is no place to fail
            page = f"<pre>{html.escape(str(error))}</pre>"
        return f"<p><b>{html.escape(repr(self))}</b></p>{page}"

    def _with(self, what: str, values: dict[str, Any]) -> Model:
        values = {name: as_numbers(value, "the value given", name) for name, value in values.items()}
        new = dataclasses.replace(self, **{what: {**getattr(self, what), **values}})
        abstract_sites(new)  # checks names and shapes
        return new

    def _changed(self, prefix: str, handler: Handler, met: dict[str, str]) -> Handler:
        """The handler that answers for conditions and interventions first, and notes which statements it met."""

        def interpret(site: Site) -> Site:
            name = site.name.removeprefix(prefix)
            met[name] = site.kind
            if site.kind == "deterministic" and name in self.interventions:
                value = value_at(site, self.interventions[name], jnp.shape(site.value))
                return handler(dataclasses.replace(site, value=jnp.asarray(value)))
            if site.kind != "sample" or (name not in self.interventions and name not in self.conditions):
                return handler(site)
            cut = name in self.interventions
            value = self.interventions[name] if cut else self.conditions[name]
            batch, event = all_rows(site.dist.batch_shape, site.frames), site.dist.event_shape
            value = subsample(value_at(site, value, (*batch, *event)), event_dim=len(event))
            if cut:
                return handler(dataclasses.replace(site, kind="deterministic", value=value, dist=None))
            return handler(dataclasses.replace(site, value=value, observed=True))

        return interpret

    def _check_names(self, prefix: str, met: Mapping[str, str]) -> None:
        """Every condition must have `met` a sample statement; an intervention, also a deterministic one."""
        for name in (*self.conditions, *self.interventions):
            if name not in met:
                raise no_such_site(name, name_of(self.function), met)
            word = "do" if name in self.interventions else "condition"
            if met[name] != "sample" and (word, met[name]) != ("do", "deterministic"):
                mend = "Set sample sites; use do for deterministic ones, and arguments of the model for the rest."
                raise ModelError(f"{word} cannot set a {met[name]} statement.", site=prefix + name, mend=mend)


def check_applied(model: Any, argument: str = "") -> None:
    """Raise a `TypeError` that says what to write, unless `model` is a model applied to its arguments."""
    if isinstance(model, Model):
        return
    name = getattr(model, "__name__", "my_model")
    if isinstance(model, ModelFunction):
        problem = f"got the model function {model!r} itself"
        mend = f"Apply it to its arguments, which runs nothing yet: {name}(...)."
    elif callable(model):
        problem = f"got the plain function {name}"
        mend = f"Write @vb.model above it, and apply it to its arguments: {name}(...)."
    else:
        problem = f"got {type(model).__name__} {model!r:.80}"
        mend = "Write the model as a function under @vb.model, and apply it to its arguments: my_model(x, y=y)."
    which = argument and f"{argument}: "
    raise TypeError(f"{which}expected a model applied to its arguments, but {problem}.\n  To mend it: {mend}")


def _as_values(values: Any) -> dict[str, Any]:
    """Values of sites that a user gives, as arrays; networks as they cross into a program."""
    found = {}
    for name, value in by_name(values).items():
        plain = as_numbers(value, "the value given", name) if isinstance(value, (str, list, tuple)) else value
        found[name] = crossing(plain)
    return found
