"""The waist: a model as a log density on a flat real vector.

Below this file is how a model is written, above it how it is approximated, and nothing else
crosses. A `Target` is what remains of a model when only its density matters:

    log_density(z) = log joint(x(z)) + log |dx/dz|,    z in R^dim,

where `x(z)` maps each slice of `z` onto the support of its site by the bijector that *is* the
site's `support`. The map is evaluated while the model runs, so a support may depend on what was
drawn before it (`Uniform(0, a)` with `a` latent). Only shapes are fixed in advance, by one
abstract run: they make the `Layout`.

A target is a pytree: the data are its leaves, the layout and the function are static. The density
is compiled as an inner function of whatever program uses it, so the model's Python code runs once
for all of them.

There are two makers: `target(model)`, and `density(f, dim)` for a plain function of a vector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from vbppl.core import devices
from vbppl.core.errors import ModelError, yes_or_no
from vbppl.core.pytree import pytree, static
from vbppl.core.types import AnyArray, Array, Shape
from vbppl.data import rows as rows_of
from vbppl.data.source import Source
from vbppl.distributions.location_scale import Parameterisation
from vbppl.model import trace
from vbppl.model.model import Model, check_applied
from vbppl.model.outside.numpyro import refuse_handlers
from vbppl.target import discrete
from vbppl.target.axes import axes
from vbppl.target.density import Terms, constrained, constrained_draws, log_density, made_params, run, unconstrained
from vbppl.target.layout import Apart, Layout, marginal_sites
from vbppl.target.plain import is_plain, plain_density


@pytree
class Target:
    """A log density on a flat real vector.

    >>> import vbppl as vb, vbppl.distributions as dist
    >>> @vb.model
    ... def flat_scale():
    ...     vb.sample("sd", dist.HalfNormal(1.0))
    >>> target = vb.target(flat_scale())
    >>> target.dim
    1
    >>> print(f"{target.log_density(np.zeros(1)):.4f}")  # at sd = 1: log(2 phi(1)) + log 1
    -0.7258

    Attributes:
      model: what the density belongs to, with its data.
      params: the current unconstrained values of the model's params, by name.
      parameterisations: how each of the layout's `movable` sites is seen, by name.
      rows: of plates that show a part unless other rows are asked for; none, usually.
      layout: the shapes.
    """

    model: Model
    params: dict[str, Any]
    parameterisations: dict[str, Parameterisation]
    rows: dict[str, Any]
    layout: Layout = static()

    @classmethod
    def of(cls, model: Any) -> Target:
        """Look at one abstract run of `model`, put its data on the device, keep the shapes; a target stays as it is."""
        if hasattr(model, "log_density"):
            return model
        check_applied(model)
        layout = Layout.of(marginal_sites(model), model.decentered)
        axes(model)  # says so where labels are wrong
        if layout.params:
            trace.check_numbers(model, observations=False)  # before their program compiles
        model = model.with_arrays(owned)
        weights = {name: float(name not in model.decentered) for name in layout.movable}
        forms = layout.centred_by(weights, jnp.result_type(float))
        return cls(model, model.initial_params() if layout.params else {}, forms, {}, layout)

    def replace(self, **changes: Any) -> Target:
        """The same density with other `params`, `parameterisations`, `rows`, `model` or `layout`, not checked."""
        return dataclasses.replace(self, **changes)

    def __str__(self) -> str:
        return repr(self.model)

    @property
    def dim(self) -> int:
        """The length of the flat vector."""
        return self.layout.dim

    @property
    def data_size(self) -> int:
        """How many numbers the data hold: what an evaluation of the density costs grows with it."""
        held = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(self.rows or self.model))
        return held if self.rows else held + self.layout.tables + rows_of.numbers(self.layout.plates, self.sources)

    @property
    def sources(self) -> dict[str, Source]:
        """What is read in parts, by the names of the model's arguments."""
        return self.model.sources

    def parts(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """Sets of rows that fit in memory, with weights: `(weight, rows)`. One, of all rows, without sources.

        The weights sum to 1, and the weighted mean of `log_density(z, rows)` is the density at all rows.
        """
        return rows_of.parts(self.layout.plates, self.sources)

    def showing(self, rows: Mapping[str, Any]) -> Target:
        """The density of these rows, where none are asked for."""
        return self.replace(rows=self._read(rows))

    def with_lengths(self, lengths: Mapping[str, int]) -> Target:
        """The same density, whose plates show so many rows, by their names; all of the others."""
        return self.replace(layout=self.layout.showing(lengths))

    def log_density(self, z: Any, rows: Mapping[str, Array] | None = None, jacobian: bool = True) -> Array:
        """The log density at `z`, `(dim,)`, in nats: a scalar.

        Args:
          z: a point.
          rows: the indices of the rows of plates that show a part, as those of sources must, by the plate's name.
          jacobian: False leaves log |dx/dz| out: the log joint density on the supports.
        """
        yes_or_no("jacobian", jacobian)
        return log_density(self, self.layout.flat(z), self._read(rows), jacobian=jacobian)

    def run(self, z: Any, rows: Mapping[str, Any] | None = None, shown: bool = False) -> Terms:
        """The terms of the log density at one point, before they are summed: all sums are reductions of these.

        Args:
          z: a point `(dim,)`; where `shown`, of the coordinates of the rows shown alone, `(shown_dim,)`: the slots
            one after the other, each of the shape `slot.shown(lengths)`. Or all coordinates, as `Apart`.
          rows: as in `log_density`.
          shown: which of the two `z` is.
        """
        z = z if isinstance(z, Apart) else jnp.asarray(z) if shown else self.layout.flat(z)
        return run(self, z, self._read(rows), shown)

    def _read(self, rows: Mapping[str, Any] | None) -> dict[str, Any]:
        """`rows`, checked, together with what sources hold there; on the host, where there are sources."""
        return rows_of.checked(self.layout.plates, self.sources, self.rows if rows is None else rows)

    def constrain(self, z: Any) -> dict[str, Array]:
        """The values of the latent and deterministic sites at `z`: `(dim,)`, or draws `(n, dim)`."""
        z, target = self.layout.flat(z, batched=True), as_evaluated(self)
        values = constrained(target, z) if z.ndim == 1 else constrained_draws(z, target)
        return self.layout.in_order(devices.readable(values))

    def complete(self, values: Mapping[str, Any], n: int, raw_key: Any = None) -> dict[str, Array]:
        """Draws of `constrain`, `(n, ...)`, with the discrete sites, drawn given the rest, and what depends on them.

        Args:
          values: of all latent sites that are not summed out.
          n: how many draws.
          raw_key: of the draws; None for the same at each call.
        """
        if not self.layout.summed:
            return dict(values)
        raw = np.zeros(2, np.uint32) if raw_key is None else np.asarray(raw_key, np.uint32)
        return discrete.completed(loaded(self) if self.sources else self, values, n, raw)

    def unconstrain(self, values: Mapping[str, Any]) -> Array:
        """The `z` that `constrain` maps to `values`: `(dim,)`, or `(n, dim)` for draws `(n, ...)`."""
        return unconstrained(self, self.layout.latent_values(values))[0]

    def log_det(self, values: Mapping[str, Any]) -> Array:
        """Log |dx/dz| at `values`: a scalar, or `(n,)` for draws."""
        return self._unconstrained(values)[1]

    def _unconstrained(self, values: Mapping[str, Any]) -> tuple[Array, Array]:
        return unconstrained(as_evaluated(self), self.layout.latent_values(values))


def unconstrained_and_log_det(target: Any, values: Mapping[str, Any]) -> tuple[Array, Array]:
    """`unconstrain(values)` and `log_det(values)` of any kind of target, by one run of the model."""
    return target._unconstrained(values)


def probabilities(target: Any, name: str, values: Mapping[str, Any], n: int) -> np.ndarray:
    """The probability of each value of a discrete site, `(*shape, values)`: the mean over `n` draws of the others."""
    return discrete.probabilities(_unbent(target), name, values, n)


def _unbent(target: Any) -> Any:
    """The density without layers, of which values on the supports know nothing, with its sources read whole."""
    target = _without_layers(target)
    return loaded(target) if target.sources else target


def _without_layers(target: Any) -> Any:
    while hasattr(target, "target"):
        target = target.target
    return target


def log_conditional(target: Any, values: Mapping[str, Any], many: bool) -> Any:
    """The log density of discrete sites among `values`, which must have all or none, given the rest; 0 of none."""
    layout = target.layout
    if not (met := [name for name in layout.summed if name in values]):
        return 0.0
    if lost := [name for name in layout.summed if name not in values]:
        mend = "Give all discrete sites, or none: the others are summed out only together."
        raise ModelError(f"the values have '{met[0]}', but not '{lost[0]}'.", site=lost[0], mend=mend)
    return discrete.log_conditional(_unbent(target), values, many)


def owned(leaf: Any) -> Any:
    """The data on the device, and nobody else's: on a CPU `device_put` would share the user's memory."""
    return leaf if isinstance(leaf, Source) else devices.put(np.array(leaf) if isinstance(leaf, np.ndarray) else leaf)


def target(model: Model) -> Target:
    """The flat log density of `model`; works as it is in BlackJAX, Optimistix and the like."""
    check_applied(model)
    refuse_handlers("vb.target")
    found = Target.of(model.loaded())
    discrete.check_rows(found)
    return found


def density(log_density: Callable[[Array], Any], dim: int) -> Target:
    """A target made of a plain log density on R^dim, which need not be normalised: for `vb.fit`, in a model's place.

    >>> import vbppl as vb
    >>> bare = vb.density(lambda z: -0.5 * jnp.sum((z - 3.0) ** 2), dim=2)
    >>> posterior = vb.fit(bare, "full_rank")
    >>> print(posterior.mean()["z"].round(2), posterior.sd()["z"].round(2))
    [3. 3.] [1. 1.]

    Args:
      log_density: from `z`, `(dim,)`, to a scalar, in nats; differentiable by JAX. Numbers that it closes over
        are compiled in; those of a `jax.tree_util.Partial`, or of another callable pytree, are data.
      dim: the length of `z`. The one latent site is called "z".

    Raises:
      ModelError: it does not return a scalar.
      TypeError: `log_density` is no function.
      ValueError: `dim` is no whole number from 1 on.
    """
    if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) or dim < 1:
        raise ValueError(f"dim must be a whole number, at least 1, not {dim!r}.")
    if not callable(log_density):
        raise TypeError(f"log_density must be a function of a vector, not {log_density!r:.80}.")
    return Target.of(plain_density(log_density, int(dim)))


def model_of(target: Any) -> Model:
    """The model that a target belongs to.

    Raises:
      ModelError: there is none: it was made of a plain function.
    """
    if is_plain(target.model):
        raise ModelError(
            "there is no model: the density was given as a plain function, which says nothing of data.",
            mend="Take draws by posterior.sample(); to predict, write the density as a function under @vb.model.",
        )
    return target.model


def has_model(target: Any) -> bool:
    """Does it belong to a model, rather than to a plain function?"""
    return not is_plain(target.model)


# What is said of every target, whether it is seen through a layer or not, is a function of it.


def shapes_of(target: Any) -> dict[str, Shape]:
    """The shapes of what `constrain` gives at a point, by the site's name; of equal targets the model runs once."""
    target = as_evaluated(_without_layers(target))
    found = constrained.eval_shape(target, jax.ShapeDtypeStruct((target.dim,), jnp.result_type(float)))
    return {name: value.shape for name, value in found.items()}


def loaded(target: Any, names: Container[str] | None = None) -> Any:
    """The density with its sources (those called `names`) read whole."""
    return with_data(target, target.model.loaded(names))


def check_numbers(target: Any, which: str = "") -> None:
    """Refuse, before anything is fitted, what the numbers of the data alone show to be wrong; `which` of several.

    Raises:
      ModelError: there is no density, or no number yet, or an observation or parameter is off its support.
    """
    if is_plain(target.model):
        return
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(target.model)):
        raise ModelError(
            f"the data of {target.model!r} have no numbers yet: vb.fit stands inside jax.jit, vmap or grad.",
            mend="Call it outside of them; vb.fit_many fits many data sets side by side.",
        )
    if not (target.layout.slots or target.layout.params or target.layout.observed):
        raise ModelError(
            f"{target.model!r} has no sample statement, so there is nothing to fit.",
            mend='State what is unknown, x = vb.sample("x", dist.Normal(0.0, 1.0)), and what was observed, with obs=y.',
        )
    trace.check_numbers(target.model, which=which)
    discrete.check_rows(_without_layers(target))


def error_somewhere(target: Any, z: Any = None) -> ModelError | None:
    """What a run at `z`, or at some point, shows to be wrong with the numbers in the model, where it is not finite."""
    if is_plain(target.model) or target.sources or not all(map(devices.is_here, jax.tree.leaves(target.model))):
        return None
    names = [slot.name for slot in target.layout.slots]
    values = {} if z is None else target.constrain(z)
    return trace.error_somewhere(target.model, {name: values[name] for name in names if name in values})


def with_fixed_parameterisations(target: Any) -> Any:
    """The same density, with coordinates compiled in where these are plain: cheaper, but a program for each."""
    kept = {n: s for n, s in target.parameterisations.items() if np.any(s.d) or np.asarray(s.weight) not in (0.0, 1.0)}
    noncentred = tuple(n for n in target.layout.movable if n not in kept and not target.parameterisations[n].weight)
    layout = dataclasses.replace(target.layout, movable=tuple(kept), fixed_noncentred=noncentred)
    return target.replace(layout=layout, parameterisations=kept)


def settled(target: Any) -> Any:
    """The same density, whose coordinates programs have compiled in; as it is where some are not plain."""
    layout = dataclasses.replace(target.layout, is_settled=True)
    return target if with_fixed_parameterisations(target).layout.movable else target.replace(layout=layout)


def as_evaluated(target: Any) -> Any:
    """The same density as its programs know it, so that the model is traced once for all of them."""
    is_here = not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(target.parameterisations))
    return with_fixed_parameterisations(target) if target.layout.is_settled and is_here else target


def seen_by_quantiles(target: Any, names: tuple[str, ...]) -> Any:
    """The same density, with these heavy-tailed sites seen by the quantiles of their priors."""
    layout = target.layout
    movable, funnels = (tuple(n for n in each if n not in names) for each in (layout.movable, layout.funnels))
    layout = dataclasses.replace(layout, by_quantiles=names, movable=movable, funnels=funnels)
    return target.replace(layout=layout, parameterisations={name: target.parameterisations[name] for name in movable})


def reparameterised(target: Any, row: AnyArray) -> Any:
    """The same density, whose movable sites are seen as a row of numbers, if it has any, says: see `Layout.packed`."""
    if not row.size:
        return target
    return target.replace(parameterisations=target.layout.unpacked(row.astype(jnp.result_type(float))))


def parameterisations_of(target: Any) -> np.ndarray:
    """How the movable sites of a density are seen, as a row of numbers, `(numbers,)`."""
    return target.layout.packed(target.parameterisations)


def in_mode(target: Any, states: Mapping[str, Any], raw_key: Array | None) -> Any:
    """The density with `states` in its modules, as the steps of a fit have left them.

    Args:
      raw_key: for the modules' random streams in a step, where they are in training mode; None for evaluation
        mode, in which they are once the fit has ended.
    """
    return target.replace(model=target.model.in_training(states, raw_key))


def with_data(target: Any, model: Model) -> Any:
    """The density of the same function at other data, with these params and states."""
    mine = model_of(target)
    check_applied(model)
    other = Target.of(dataclasses.replace(model, states=mine.states, decentered=mine.decentered))
    other = seen_by_quantiles(other, target.layout.by_quantiles)
    if other.layout.params != target.layout.params:
        theirs, own = (", ".join(each.layout.params) or "none" for each in (other, target))
        raise ModelError(
            f"{model!r} has the params {theirs}, but those of the fitted model are {own}.",
            mend="Apply the function that was fitted to the other data.",
        )
    # Pseudo-data belong to rows: where there are others, nothing is made up of them.
    forms = {
        name: mine if np.shape(mine.y) == np.shape(new.y) else dataclasses.replace(new, weight=mine.weight)
        for name, new in other.parameterisations.items()
        for mine in [target.parameterisations.get(name, new)]
    }
    return target.replace(model=other.model, layout=other.layout, parameterisations=forms, rows={})


def param_values(target: Any) -> dict[str, Any]:
    """The current values of the params, on their supports, shaped like their `init`."""
    return made_params(target.model, target.params)
