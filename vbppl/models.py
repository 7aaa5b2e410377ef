"""The decorators `model` and `guide`, and `Model`: a model applied to its arguments, as a value.

A `Model` is a pytree. The arrays among its arguments are its leaves: data, traced, never compiled
into a program. The function and all other arguments are static. Two models of the same function
whose arrays have equal shapes therefore share their compiled programs.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.aliases import Array, Seed
from vbppl.errors import ModelError
from vbppl.keys import raw_key, wrap
from vbppl.language import Interpreter, Program, Site, interpreted, subsample
from vbppl.pytree import is_array, pytree, static
from vbppl.trace import (
    check_shape,
    drawn_anew,
    from_prior,
    given,
    log_joint,
    required,
    trace,
    values_of,
)


class ModelFunction:
    """A function under `@model` or `@guide`; applied to arguments it returns a `Model`."""

    def __init__(self, function: Callable[..., Any]):
        functools.update_wrapper(self, function)
        self._function = function
        self._signature = inspect.signature(function)

    def __call__(self, *args: Any, **kwargs: Any) -> Model:
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.__name__}{self._signature}: {error}") from None
        return Model.of(self._function, args, kwargs)

    def __repr__(self) -> str:
        return f"<model {self.__name__}{self._signature}>"


def model(function: Callable[..., Any]) -> ModelFunction:
    """Make a function that speaks the words of the language a model.

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


def guide(function: Callable[..., Any]) -> ModelFunction:
    """Make a function a guide program: the model's arguments, `param` and `sample` statements.

    Each latent site of the model is sampled in the guide under the same name.
    """
    return ModelFunction(function)


@pytree
class Model(Program):
    """A model applied to its arguments. Nothing runs until it is asked to.

    Attributes:
      arrays: the arrays among the arguments, in order: data.
      conditions: values of sites that count as observed.
      interventions: values of sites whose own density is cut out (`do`).
    """

    arrays: tuple[Any, ...]
    conditions: dict[str, Any]
    interventions: dict[str, Any]
    function: Callable[..., Any] = static()
    structure: Any = static()
    others: tuple[Any, ...] = static()

    @classmethod
    def of(cls, function: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Model:
        """Split the arguments into arrays (data) and everything else (static)."""
        leaves, structure = jax.tree.flatten((args, kwargs))
        leaves = [_as_data(leaf) for leaf in leaves]
        others = tuple(_DATA if is_array(leaf) else _hashable(function, leaf) for leaf in leaves)
        arrays = tuple(leaf for leaf in leaves if is_array(leaf))
        return cls(arrays, {}, {}, function, structure, others)

    @property
    def arguments(self) -> tuple[tuple, dict[str, Any]]:
        """The positional and keyword arguments, as they were given."""
        arrays = iter(self.arrays)
        leaves = [next(arrays) if other is _DATA else other for other in self.others]
        return jax.tree.unflatten(self.structure, leaves)

    def inline(self) -> Any:
        """Run the function inside the current run; `sample("prior", model)` does it."""
        args, kwargs = self.arguments
        if not self.conditions and not self.interventions:
            return self.function(*args, **kwargs)
        with interpreted(self._changed) as run:
            value = self.function(*args, **kwargs)
            self._check_names(run.prefix, list(run.sites))
        return value

    def trace(self, interpreter: Interpreter) -> dict[str, Site]:
        """The sites of one run under `interpreter`."""
        return trace(self.inline, interpreter)

    def condition(self, values: Mapping[str, Any] | None = None, /, **named: Any) -> Model:
        """The same model with sites observed: `model.condition(y=...)`, or a dict of names."""
        return self._with("conditions", {**(values or {}), **named})

    def do(self, values: Mapping[str, Any] | None = None, /, **named: Any) -> Model:
        """The same model with sites set from outside: their own densities no longer count."""
        return self._with("interventions", {**(values or {}), **named})

    def sample(self, n: int = 1000, seed: Seed = 0) -> dict[str, Array]:
        """Draws from the prior predictive distribution; observed sites are drawn anew.

        Returns:
          for each sample and deterministic site an array `(n, ...)`.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}.")
        return _prior_draws(self, raw_key(seed), n)

    def log_joint(self, values: Mapping[str, Any]) -> Array:
        """The log joint density of the data and `values`, on the sites' supports, all rows shown.

        Args:
          values: for each latent site a value of its shape, or draws `(n, ...)` of all of them.

        Returns:
          a scalar, or `(n,)`. Params stand at their initial values unless `values` has them.
        """
        values = {name: jax.tree.map(jnp.asarray, value) for name, value in values.items()}
        return _log_joint(self, values)

    def shapes(self) -> Shapes:
        """The table of shapes: for each site its distribution, batch, event and plates."""
        return Shapes(abstract_sites(self))

    def __repr__(self) -> str:
        args, kwargs = self.arguments
        shown = [_shown(a) for a in args] + [f"{k}={_shown(v)}" for k, v in kwargs.items()]
        changes = [f".condition({', '.join(self.conditions)})"] * bool(self.conditions)
        changes += [f".do({', '.join(self.interventions)})"] * bool(self.interventions)
        return f"{self.function.__name__}({', '.join(shown)})" + "".join(changes)

    def _with(self, what: str, values: dict[str, Any]) -> Model:
        values = {name: _as_data(value) for name, value in values.items()}
        values = {name: value if is_array(value) else np.asarray(value) for name, value in values.items()}
        fields = {"conditions": self.conditions, "interventions": self.interventions}
        fields[what] = {**fields[what], **values}
        new = Model(self.arrays, **fields, function=self.function, structure=self.structure, others=self.others)
        new._check_names("", list(abstract_sites(new)))
        return new

    def _changed(self, prefix: str, interpreter: Interpreter) -> Interpreter:
        """The interpreter that answers for conditions and interventions first."""

        def interpret(site: Site) -> Site:
            name = site.name.removeprefix(prefix)
            if site.kind != "sample" or (name not in self.interventions and name not in self.conditions):
                return interpreter(site)
            cut = name in self.interventions
            value = self.interventions[name] if cut else self.conditions[name]
            value = subsample(value, event_dim=len(site.dist.event_shape))
            check_shape(site, value)
            if cut:
                return interpreter(Site("deterministic", site.name, value, frames=site.frames))
            return interpreter(Site("sample", site.name, value, site.dist, True, site.frames))

        return interpret

    def _check_names(self, prefix: str, met: list[str]) -> None:
        for name in (*self.conditions, *self.interventions):
            if prefix + name not in met:
                known = [m.removeprefix(prefix) for m in met if m.startswith(prefix)]
                close = difflib.get_close_matches(name, known, n=1)
                raise ModelError(
                    f"{self.function.__name__} has no site '{name}'.",
                    details=f"its sites: {', '.join(known)}",
                    mend=f"Did you mean '{close[0]}'?" if close else "Use one of these names.",
                )


class Shapes:
    """The shapes of a model's sites, printed as a table."""

    def __init__(self, sites: Mapping[str, Site]):
        self.rows = [_shape_row(site) for site in sites.values()]

    def __str__(self) -> str:
        header = ("site", "kind", "distribution", "batch", "event", "plates")
        rows = [header, *self.rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows)

    __repr__ = __str__


def abstract_sites(model: Model) -> dict[str, Site]:
    """The sites of a run with shapes in the place of numbers: nothing is computed or compiled."""
    found: dict[str, Site] = {}

    def run(model, raw):
        found.update(model.trace(from_prior(wrap(raw))))

    jax.eval_shape(run, model, jax.ShapeDtypeStruct((2,), np.uint32))
    return found


@functools.partial(jax.jit, static_argnames="n")
def _prior_draws(model: Model, raw: Array, n: int) -> dict[str, Array]:
    def draw(key):
        return values_of(model.trace(drawn_anew(from_prior(key))))

    return jax.vmap(draw)(jax.random.split(wrap(raw), n))


@jax.jit
def _log_joint(model: Model, values: dict[str, Any]) -> Array:
    def density(values):
        return log_joint(model.trace(given(values, required)))

    draws = leading_draws(abstract_sites(model), values)
    return density(values) if draws is None else jax.vmap(density)(values)


def leading_draws(sites: Mapping[str, Site], values: Mapping[str, Any]) -> int | None:
    """How many draws `values` holds along a leading axis; None where it holds single values."""
    for name, site in sites.items():
        if site.kind == "sample" and not site.observed and name in values:
            shape = jnp.shape(values[name])
            if shape[1:] == site.shape and len(shape) == len(site.shape) + 1:
                return shape[0]
            return None
    return None


class _Data:
    """Stands for an array among the static arguments."""

    def __repr__(self) -> str:
        return "<data>"


_DATA = _Data()


def _as_data(leaf: Any) -> Any:
    """Things that hold numbers (a pandas column, say) become arrays; text and the rest stay."""
    if is_array(leaf) or not hasattr(leaf, "__array__"):
        if not isinstance(leaf, (np.ndarray, np.generic)) or leaf.dtype.kind in "biufc":
            return leaf
    array = np.asarray(leaf)
    if array.dtype.kind not in "biufc":
        raise ModelError(
            f"an argument is an array of {array.dtype}, not of numbers.",
            mend="Encode categories as integers, for instance with np.unique(column, return_inverse=True).",
        )
    return array


def _hashable(function: Callable[..., Any], leaf: Any) -> Any:
    try:
        hash(leaf)
    except TypeError:
        raise ModelError(
            f"{function.__name__} got an argument of type {type(leaf).__name__} that is neither data nor hashable.",
            details=repr(leaf)[:200],
            mend="Pass arrays, numbers, strings, or containers of these.",
        ) from None
    return leaf


def _shown(value: Any) -> str:
    leaves = jax.tree.leaves(value)
    if is_array(value):
        return f"{value.dtype}{list(value.shape)}"
    return f"<{type(value).__name__}>" if any(is_array(leaf) for leaf in leaves) else repr(value)


def _shape_row(site: Site) -> tuple[str, ...]:
    plates = ", ".join(f"{f.name}[{f.size}]@{f.dim}" for f in site.frames)
    if site.kind != "sample":
        shape = "" if site.kind == "plate" else str(jax.tree.map(jnp.shape, site.value))
        return (site.name, site.kind, f"{site.size} rows" if site.kind == "plate" else "", "", shape, plates)
    kind = "observed" if site.observed else "latent"
    name = type(site.dist).__name__
    return (site.name, kind, name, str(tuple(site.dist.batch_shape)), str(tuple(site.dist.event_shape)), plates)
