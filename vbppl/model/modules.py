"""What of a value is learnt: arrays, dictionaries of them, and modules of the neural libraries taken apart.

`parts(thing)` splits anything that can stand in a `param` statement into arrays that are learnt, arrays that
the model's own run changes (batch statistics), arrays that stay, and the rest, which is no data. `made` puts it
together again: the same kind of thing. Two families are told apart:

- Flax NNX modules, or containers of them, are graphs: shared weights are learnt once. `nnx.Param` is learnt,
  random streams are reseeded at each step, every other variable is state.
- Everything else is a pytree, Equinox modules and the variables of Haiku and Linen too: arrays of floats are
  learnt. Python's floats are too, unless they are a module's own settings (a dropout rate). What Paramax (FlowJAX)
  marks as not trainable stays: a gradient of zero is not enough, since weight decay would move it.

A module is in its library's training mode while a fit makes steps, and in evaluation mode everywhere else. No
library is imported here: a module of Flax can only be met where Flax has been imported already.

The words `mutable` and `prng_key` give a model what modules have: state, and randomness in training.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vbppl.core.errors import ModelError, of_kind
from vbppl.core.keys import named
from vbppl.core.pytree import is_array, pytree, static
from vbppl.core.types import Array, Shape
from vbppl.model.primitives import Program, Site, run_and_name, sample


@pytree
class Parts:
    """A value taken apart. It may cross the border of a compiled program, which a module may not.

    Attributes:
      learnt: the arrays that are learnt, in order.
      state: the arrays that a run in training mode changes.
      fixed: all other arrays.
      names: of the learnt arrays: `layers/0/weight`.
      rest: how to put it together: a `_Tree` or a `_Graph`.
    """

    learnt: tuple[Any, ...]
    state: tuple[Any, ...]
    fixed: tuple[Any, ...]
    names: tuple[str, ...] = static()
    rest: Any = static()

    @property
    def has_training_mode(self) -> bool:
        """Whether it behaves otherwise in training than in evaluation."""
        return bool(self.state) or self.rest.has_training_mode

    def made(self) -> Any:
        """The value, put together again."""
        return self.rest.made(self.learnt, self.state, self.fixed)

    def in_mode(self, key: Array | None) -> Any:
        """The value in training mode, its random streams begun anew from `key`; in evaluation mode if None."""
        if not self.has_training_mode:
            return self.made()
        fixed = self.fixed if key is None else self.rest.reseeded(self.fixed, key)
        return self.rest.set_mode(self.rest.made(self.learnt, self.state, fixed), key is not None)


def parts(thing: Any) -> Parts:
    """Take apart what stands in a `param` statement.

    >>> parts({"weights": jnp.zeros((3, 2)), "layers": 2}).names
    ('weights',)
    """
    return _graph_parts(thing) if _is_graph(thing) else _tree_parts(thing, _role)


def crossing(value: Any) -> Any:
    """A value in a form that may cross the border of a compiled program, as a module may not."""
    own = any(isinstance(key, jax.tree_util.GetAttrKey) for path, _ in _leaves(value) for key in path)
    return parts(value) if own or _is_graph(value) else jax.tree.map(jnp.asarray, value)


def mutable_parts(thing: Any) -> Parts:
    """Take apart what stands in a `mutable` statement: every number in it is state."""

    def role(_: tuple, leaf: Any, stays: bool) -> str:
        return "state" if is_array(leaf) or isinstance(leaf, (int, float, complex)) else "setting"

    found = _tree_parts(thing, role)
    rest = dataclasses.replace(found.rest, has_training_mode=False)  # a container has no mode of its own
    return dataclasses.replace(found, state=tuple(map(jnp.asarray, found.state)), rest=rest)


def shapes_of(thing: Any) -> Any:
    """The shape of an array, or of each array that is learnt, by its name."""
    if hasattr(thing, "shape") or isinstance(thing, (int, float, complex)):
        return jnp.shape(thing)
    found = parts(thing)
    return dict(zip(found.names, (jnp.shape(leaf) for leaf in found.learnt)))


_ROLES = ("learnt", "state", "fixed", "setting")


@dataclasses.dataclass(frozen=True)
class _Tree:
    """A pytree's structure, and for each leaf where it is found: learnt, fixed, or `setting` itself."""

    structure: Any
    roles: tuple[str, ...]
    settings: tuple[Any, ...]
    has_training_mode: bool

    def made(self, learnt: tuple, state: tuple, fixed: tuple) -> Any:
        sources: dict[str, Any] = dict(zip(_ROLES, map(iter, (learnt, state, fixed, self.settings))))
        return jax.tree.unflatten(self.structure, [next(sources[role]) for role in self.roles])

    def reseeded(self, fixed: tuple, key: Array) -> tuple:
        return fixed

    def set_mode(self, thing: Any, training: bool) -> Any:
        return sys.modules["equinox"].nn.inference_mode(thing, value=not training) if self.has_training_mode else thing


def _tree_parts(thing: Any, role_of: Callable[[tuple, Any, bool], str]) -> Parts:
    leaves, structure = jax.tree_util.tree_flatten_with_path(thing)
    nodes = jax.tree.leaves(thing, is_leaf=_is_marked)
    stays = [_is_marked(node) for node in nodes for _ in jax.tree.leaves(node)]
    roles = tuple(role_of(path, leaf, stay) for (path, leaf), stay in zip(leaves, stays, strict=True))
    found = {kind: tuple(leaf for role, (_, leaf) in zip(roles, leaves) if role == kind) for kind in _ROLES}
    names = tuple(_name(path) for role, (path, _) in zip(roles, leaves) if role == "learnt")
    rest = _Tree(structure, roles, found["setting"], _has_inference_mode(thing))
    return Parts(found["learnt"], found["state"], found["fixed"], names, rest)


def _is_marked(node: Any) -> bool:
    """Whether all below it stays as it is, by Paramax."""
    return "paramax" in sys.modules and isinstance(node, sys.modules["paramax"].NonTrainable)


def _role(path: tuple, leaf: Any, stays: bool) -> str:
    """Floating-point arrays are learnt; Python's floats too, unless they are a module's own (a dropout rate)."""
    if isinstance(leaf, float):
        is_own = stays or any(isinstance(key, jax.tree_util.GetAttrKey) for key in path)
        return "setting" if is_own else "learnt"
    if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact) and not stays:
        return "learnt"
    return "fixed" if is_array(leaf) else "setting"


def _has_inference_mode(thing: Any) -> bool:
    """Whether an Equinox layer in it (dropout, say) has the flag `inference`."""
    if "equinox" not in sys.modules:
        return False
    return _holds(thing, lambda node: hasattr(node, "inference"))


@dataclasses.dataclass(frozen=True)
class _Graph:
    """An NNX graph: its definition and the structures of its three states."""

    definition: Any
    structures: tuple[Any, ...]
    has_training_mode: bool

    def made(self, learnt: tuple, state: tuple, fixed: tuple) -> Any:
        states = map(jax.tree.unflatten, self.structures, (learnt, state, fixed))
        return _nnx().merge(self.definition, *states)

    def reseeded(self, fixed: tuple, key: Array) -> tuple:
        leaves = _leaves(jax.tree.unflatten(self.structures[2], fixed))
        return tuple(_begun(named(key, _name(path)), leaf) for path, leaf in leaves)

    def set_mode(self, thing: Any, training: bool) -> Any:
        for _, node in _nnx().iter_graph(thing):
            if isinstance(node, _nnx().Module):
                (node.train if training else node.eval)()
        return thing


def _graph_parts(thing: Any) -> Parts:
    nnx = _nnx()

    def is_fixed(_: Any, variable: Any) -> bool:
        floats = jnp.issubdtype(variable.dtype, jnp.inexact)
        return isinstance(variable, nnx.RngState) or (isinstance(variable, nnx.Param) and not floats)

    definition, fixed, learnt, state = nnx.split(thing, is_fixed, nnx.Param, ...)
    # Pure: plain arrays. A variable remembers where it was traced, and may not be changed elsewhere.
    flat = [jax.tree_util.tree_flatten_with_path(nnx.as_pure(part)) for part in (learnt, state, fixed)]
    names = tuple(_name(path) for path, _ in flat[0][0])
    of_learnt, of_state, of_fixed = (tuple(leaf for _, leaf in leaves) for leaves, _ in flat)
    flags = ("deterministic", "use_running_average")
    has_training_mode = any(hasattr(node, flag) for _, node in nnx.iter_graph(thing) for flag in flags)
    rest = _Graph(definition, tuple(structure for _, structure in flat), has_training_mode)
    return Parts(of_learnt, of_state, of_fixed, names, rest)


def _begun(key: Array, leaf: Any) -> Any:
    """A random stream's key becomes `key`, its count zero; old-style keys are left alone."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return key
    return jnp.zeros_like(leaf) if jnp.issubdtype(leaf.dtype, jnp.unsignedinteger) and not leaf.shape else leaf


def _nnx() -> Any:
    return sys.modules["flax.nnx"]


def _is_graph(thing: Any) -> bool:
    """Whether an NNX module stands in it, at any depth."""
    if "flax.nnx" not in sys.modules:
        return False
    return _holds(thing, lambda node: isinstance(node, _nnx().Module))


def _holds(thing: Any, is_one: Callable[[Any], bool]) -> bool:
    """Whether a node of the pytree `thing` is one."""
    return any(map(is_one, jax.tree.leaves(thing, is_leaf=is_one)))


def _leaves(thing: Any) -> list[tuple[tuple, Any]]:
    return jax.tree_util.tree_flatten_with_path(thing)[0]


def _name(path: tuple) -> str:
    """`layers/0/weight` for the path of a leaf."""
    keys = (next(getattr(key, at) for at in ("name", "key", "idx") if hasattr(key, at)) for key in path)
    return "/".join(map(str, keys))


@dataclasses.dataclass(frozen=True)
class PriorOver(Program):
    """What `prior_over` returns: stands in a `sample` statement."""

    module: Any
    prior: Any

    def inline(self) -> Any:
        # Each array of weights becomes a site of its own name.
        found = parts(self.module)
        if not found.names:
            raise ModelError("the module holds no array of floating-point numbers, so there is nothing to sample.")
        if found.names == ("",):
            mend = "Name it: {'w': array}; or let a distribution expand to its shape, dist.Normal(0, 1).expand(...)."
            raise ModelError("the module is one array, without a name for its site.", mend=mend)
        _check_names(self.prior, found.names)
        drawn = tuple(sample(name, self._of(name, jnp.shape(leaf))) for name, leaf in zip(found.names, found.learnt))
        return dataclasses.replace(found, learnt=drawn).in_mode(None)

    def _of(self, name: str, shape: Shape) -> Any:
        """The prior of one array, all of it one event."""
        prior: Any = self.prior
        if isinstance(prior, Mapping):
            prior = dict(prior)[name]
        elif callable(prior) and not hasattr(prior, "log_prob"):
            prior = self.prior(name, shape)
        of_kind(f"the prior of '{name}'", prior, hasattr(prior, "log_prob"), "a distribution")
        before = (*prior.batch_shape, *prior.event_shape)
        if before != shape:
            try:
                prior = prior.expand(shape[: len(shape) - len(prior.event_shape)])
            except (ModelError, ValueError):
                raise ModelError(
                    f"the prior of '{name}' has shape {before}, but these weights have shape {shape}.",
                    mend="Give a scalar prior, or one of the weights' own shape.",
                ) from None
        dims = len(prior.batch_shape)
        return prior.to_event(dims) if dims else prior


def prior_over(module: Any, prior: Any) -> PriorOver:
    """A prior over all weights of `module`; `sample` returns the same kind of module, holding drawn weights.

    >>> import jax, vbppl as vb, vbppl.distributions as dist
    >>> net = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)}
    >>> @vb.model
    ... def bayesian(x, y=None):
    ...     weights = vb.sample("net", vb.prior_over(net, dist.Normal(0.0, 1.0)))
    ...     vb.sample("y", dist.Normal(x @ weights["w"] + weights["b"], 0.1).to_event(), obs=y)
    >>> {name: draws.shape for name, draws in bayesian(jnp.ones((5, 3))).sample(4).items()}
    {'net/b': (4, 2), 'net/w': (4, 3, 2), 'y': (4, 5, 2)}

    Args:
      module: a pytree of arrays, or a module of Equinox or Flax NNX. It is in evaluation mode, so nothing
        is dropped out, and batch statistics stay as they are.
      prior: a distribution, for every weight; a dictionary of distributions by the arrays' names
        (`"layers/0/weight"`); or a function `(name, shape) -> distribution`.
    """
    return PriorOver(module, prior)


def _check_names(prior: Any, names: tuple[str, ...]) -> None:
    if isinstance(prior, Mapping) and set(prior) != set(names):
        raise ModelError(
            f"the dictionary of priors has {', '.join(sorted(prior))}.",
            details=f"the module's arrays: {', '.join(names)}",
            mend="Name each array of the module once; a function (name, shape) -> distribution may be shorter.",
        )


def mutable(name: str, init: Any) -> Any:
    """A value that each step of a fit may change: batch statistics, moving averages.

    Args:
      name: unique in the model.
      init: what the first step finds: a container that can be changed in place, such as `{"mean": 0.0}`.

    Returns:
      a copy as the last step has left it. What the model puts into it, the next step finds there.
      Outside the steps of a fit, changes are forgotten.

    Raises:
      ModelError: `init` cannot be changed in place, or the name is taken.
    """
    run, name = run_and_name("mutable", name)
    if not jax.tree.leaves(init) or jax.tree_util.treedef_is_leaf(jax.tree.structure(init)):
        raise ModelError(
            f"init is {init!r:.80}, which the model cannot change in place.",
            site=name,
            mend='Wrap it: state = vb.mutable("state", {"mean": 0.0}), then state["mean"] = ...',
        )
    return run.ask(Site("mutable", name, value=jax.tree.map(lambda leaf: leaf, init), frames=run.frames)).value


def prng_key(name: str = "key") -> Any:
    """A key for the randomness of training, such as dropout: new at each step of a fit, elsewhere None.

    The keyword `key` of an Equinox layer, `rngs` of Linen, the key of Haiku's `apply`. Each `name` has its own.
    """
    run, name = run_and_name("prng_key", name)
    return run.ask(Site("key", name, frames=run.frames)).value
