"""Hidden states of a scan, summed out by the forward algorithm, drawn again backward, and told by their probabilities.

The step is a program of the state's value `new` and of the carry. What the carry keeps of the state follows from its
value alone, so that for each value `old` of the state before there is one carry: the log density of a step is a table
of `(old, new)`, made for all steps side by side, and only

    alpha[t, new] = log sum over old of exp(alpha[t - 1, old] + table[t, old, new])

goes from step to step, in logarithms and normalised (Rabiner 1989, "A tutorial on hidden Markov models", III A). What
it is divided by is the density of a step's observations given those before. Posterior states are drawn from the last to
the first (Frühwirth-Schnatter 1994); their probabilities are the slopes of the log sum. In plates each row has a state
of its own: all rows have the same value at a time, and tables have the rows behind.

Steps come one after the other. By an associative scan (Hassan, Särkkä and García-Fernández 2021, "Temporal
parallelization of inference in hidden Markov models") they need not, but it multiplies tables where this adds vectors:
with three states and 10^4 steps a gradient took two cores 4.7 times the CPU time, and 32 seconds to compile for 1.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp

from vbppl.core.errors import ModelError
from vbppl.core.pytree import pytree, static
from vbppl.core.special import log_sum
from vbppl.core.types import Array, Shape
from vbppl.distributions.base import Distribution
from vbppl.distributions.constraints.scalar import real

MAX_STATES = 1024  # values of all states of a step together


@dataclasses.dataclass(frozen=True)
class Hidden:
    """What a handler tells of a discrete site in a scan that is to be summed out.

    Attributes:
      support: counts its values: see `enumeration.support`.
      key: where its values are to be drawn, given all else.
      smoothed: whether the probabilities of its values are asked for.
      checked: whether to draw any values, others in each row, and look whether rows see those of other rows.
    """

    support: Any
    key: Any = None
    smoothed: bool = False
    checked: bool = False


@pytree
class Counted(Distribution):
    """That of a latent site whose density is a part of the sum over discrete ones: here it adds nothing."""

    batch: Shape = static()
    event: Shape = static()
    support = real

    @property
    def batch_shape(self):
        return self.batch

    @property
    def event_shape(self):
        return self.event

    def log_prob(self, x):
        return jnp.zeros(self.batch)


class Unknown:
    """What a scan would give back that depends on a state which is summed out: any use of it says so."""

    def __init__(self, site: str):
        self.site = site

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        self._refuse()

    def _refuse(self, *_: Any) -> NoReturn:
        raise ModelError(
            "what the scan gives back of this discrete site is used after it, but the site is summed out step by step.",
            site=self.site,
            mend="Use the state inside of the step alone; vb.deterministic there keeps what is made of it.",
        )

    __jax_array__ = __array__ = __getitem__ = __iter__ = __len__ = __float__ = __int__ = __bool__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __pow__ = __rpow__ = __neg__ = __matmul__ = __rmatmul__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse


class Tables(NamedTuple):
    """The log densities of all steps: the sum of these at each step, for rows behind.

    Attributes:
      first: of the first step, `(values, *rows)`.
      same: of `(old, new)`, at each step after it, `(values, values, *rows)`.
      of_new: of `new`, step by step after the first, `(length - 1, values, *rows)`.
      of_both: of both, `(length - 1, values, values, *rows)`; or None.
    """

    first: Array
    same: Array
    of_new: Array
    of_both: Array | None

    def at(self, alpha: Array, of_both: Array | None) -> Array:
        """The log density of `(old, new)`, but for what depends on `new` alone."""
        joint = alpha[:, None] + self.same
        return joint if of_both is None else joint + of_both


class Forward(NamedTuple):
    """Attributes:
    alphas: log probabilities of the state given the observations up to each step, `(length, values, *rows)`.
    increments: the log density of each step's observations given those before, `(length, *rows)`.
    """

    alphas: Array
    increments: Array


def forward(tables: Tables) -> Forward:
    """The filter."""
    return _with_own_slopes(tables) if _backward.get() else _filter(tables)[0]


_backward: contextvars.ContextVar[bool] = contextvars.ContextVar("vbppl_backward", default=False)


@contextlib.contextmanager
def slopes_backward() -> Iterator[None]:
    """Let filters have slopes of their own, for a program that asks for a gradient and for no forward derivative.

    Those that JAX finds store each step's terms and go through them again, which for eight states takes 3.5 times as
    long, and as long again to compile.
    """
    token = _backward.set(True)
    try:
        yield
    finally:
        _backward.reset(token)


def _points_behind(run: Callable[..., Any]) -> Callable[..., Any]:
    """Let `run` have points that are evaluated side by side as one more of the rows, the last.

    JAX would put them in front of a step's few states, which takes twice as long: loops in a step go along the last.
    """

    def with_points(*inputs: Any) -> Any:
        leaves, structure = jax.tree.flatten(inputs)  # JAX's rule for slopes takes None for a leaf
        made: list[Any] = []  # how what `run` makes is put together

        def plain(*leaves: Array) -> list[Array]:
            found, whole = jax.tree.flatten(run(*structure.unflatten(leaves)))
            made.append(whole)
            return found

        flat = jax.custom_batching.custom_vmap(plain)

        @flat.def_vmap
        def of_points(_: int, batched: list[bool], *leaves: Array) -> tuple[list[Array], list[bool]]:
            if not any(batched):  # as where one point has many directions
                return (same := plain(*leaves)), [False] * len(same)
            behind = [jnp.moveaxis(leaf, 0, -1) if has else leaf[..., None] for leaf, has in zip(leaves, batched)]
            found = [jnp.moveaxis(leaf, -1, 0) for leaf in flat(*behind)]
            return found, [True] * len(found)

        found = flat(*leaves)
        return made[-1].unflatten(found)

    return with_points


def _filter(tables: Tables) -> tuple[Forward, Array]:
    """With the log probabilities of each state given the observations before its step, of all but the first."""
    shapes = [leaf.shape[leaf.ndim - tables.first.ndim :] for leaf in jax.tree.leaves(tables)]

    def normalised(alpha: Array) -> tuple[Array, Array]:
        total = log_sum(alpha, 0)
        return alpha - finite(total), total

    def step(alpha: Array, inputs: Any) -> tuple[Array, tuple[Array, Array, Array]]:
        of_new, of_both = inputs
        predicted = log_sum(tables.at(alpha, of_both), 0)
        alpha, total = normalised(predicted + of_new)
        return alpha, (alpha, total, predicted)

    alpha, total = normalised(jnp.broadcast_to(tables.first, jnp.broadcast_shapes(*shapes)))
    _, (alphas, totals, predicted) = jax.lax.scan(step, alpha, (tables.of_new, tables.of_both))
    return Forward(jnp.concatenate([alpha[None], alphas]), jnp.concatenate([total[None], totals])), predicted


def finite(log_p: Array) -> Array:
    """What may be subtracted: 0 where all are minus infinity."""
    return jnp.where(jnp.isfinite(log_p), log_p, 0.0)


def _back(kept: tuple[Tables, Array, Array], slopes: Forward) -> tuple[Tables]:
    """The slopes in the tables, from those in `alphas` and `increments`, from the last step to the first."""
    tables, alphas, predicted = kept

    def of_unnormalised(of_alpha: Array, of_increment: Array, alpha: Array) -> Array:
        return of_alpha + (of_increment - jnp.sum(of_alpha, 0)) * jnp.exp(alpha)

    def step(after: tuple[Array, Array], inputs: Any) -> tuple[tuple[Array, Array], tuple[Array, Array | None]]:
        (of_alpha, of_same), (before, now, predicted, of_both, by_alpha, by_increment) = after, inputs
        of_new = of_unnormalised(of_alpha + by_alpha, by_increment, now)
        joint = jnp.exp(tables.at(before, of_both) - finite(predicted)) * of_new
        return (jnp.sum(joint, 1), of_same + joint), (of_new, None if of_both is None else joint)

    inputs = (alphas[:-1], alphas[1:], predicted, tables.of_both, slopes.alphas[1:], slopes.increments[1:])
    nothing = jnp.zeros_like(alphas[0]), jnp.zeros_like(alphas, shape=(len(alphas[0]), *alphas.shape[1:]))
    (of_alpha, of_same), (of_new, of_both) = jax.lax.scan(step, nothing, inputs, reverse=True)
    first = of_unnormalised(of_alpha + slopes.alphas[0], slopes.increments[0], alphas[0])
    return (Tables(first, of_same, of_new, of_both),)


def _kept(tables: Tables) -> tuple[Forward, tuple[Tables, Array, Array]]:
    found, predicted = _filter_of_points(tables)
    return found, (tables, found.alphas, predicted)


_filter_of_points = _points_behind(_filter)
_with_own_slopes = jax.custom_vjp(lambda tables: _filter_of_points(tables)[0])
_with_own_slopes.defvjp(_kept, _points_behind(_back))


def drawn(tables: Tables, key: Array) -> Array:
    """States from the last to the first: the number of the value of each, `(length, *rows)`."""
    alphas = forward(tables).alphas
    noise = jax.random.gumbel(key, alphas.shape, alphas.dtype)

    def step(after: Array, inputs: Any) -> tuple[Array, Array]:
        alpha, noise, of_both = inputs
        joint = jnp.broadcast_to(tables.at(alpha, of_both), (len(alpha), *alpha.shape))
        logits = jnp.take_along_axis(joint, after[None, None], axis=1)[:, 0]
        state = jnp.argmax(logits + noise, axis=0)
        return state, state

    last = jnp.argmax(alphas[-1] + noise[-1], axis=0)
    _, states = jax.lax.scan(step, last, (alphas[:-1], noise[:-1], tables.of_both), reverse=True)
    return jnp.concatenate([states, last[None]])


def along(tables: Tables, path: Array) -> Array:
    """The log density of each step where the states are those of a path, `(length, *rows)`."""

    def picked(before: Array, now: Array, of_new: Array, of_both: Array | None) -> Array:
        both = tables.same if of_both is None else tables.same + of_both
        new = jnp.take_along_axis(both, before[None, None], axis=0)[0] + of_new
        return jnp.take_along_axis(new, now[None], axis=0)[0]

    first = jnp.take_along_axis(tables.first, path[:1], axis=0)
    return jnp.concatenate([first, jax.vmap(picked)(path[:-1], path[1:], tables.of_new, tables.of_both)])


def smoothed(tables: Tables) -> Array:
    """The probability of each value at each step given all observations, `(length, values, *rows)`."""

    def total(extra: Array) -> Array:
        more = tables._replace(first=tables.first + extra[0], of_new=tables.of_new + extra[1:])
        return jnp.sum(forward(more).increments)

    return jax.grad(total)(jnp.zeros((len(tables.of_new) + 1, *tables.first.shape), tables.first.dtype))


class States:
    """The joint values of all hidden sites of a step, counted through."""

    def __init__(self, hidden: Mapping[str, Hidden], frames: Sequence[Any]):
        self.hidden = hidden
        self.count = 1
        for each in hidden.values():
            self.count *= each.support.count
        self.frames = sorted(frames, key=lambda frame: frame.dim)
        self.plates = [frame.name for frame in self.frames]
        self.rows = tuple(frame.length for frame in self.frames)

    @classmethod
    def of(cls, sites: Mapping[str, Any]) -> States:
        """Those of the sites that a handler has told to be `Hidden`.

        Raises:
          ModelError: they stand in different plates, or have too many joint values.
        """
        (name, first), *others = sites.items()
        for other, site in others:
            if {frame.name for frame in site.frames} != {frame.name for frame in first.frames}:
                where = [", ".join(frame.name for frame in each.frames) or "none" for each in (first, site)]
                raise ModelError(
                    f"'{name}' (plate {where[0]}) and '{other}' (plate {where[1]}) are hidden states of one step, in "
                    "different plates.",
                    site=other,
                    mend="Put both into the same plates, or each into a scan of its own.",
                )
        found = cls({each: site.told for each, site in sites.items()}, first.frames)
        if found.count > MAX_STATES:
            sizes = " x ".join(f"{each} ({site.told.support.count})" for each, site in sites.items())
            raise ModelError(
                f"the hidden states of a step have {found.count:,} joint values, {sizes}; the limit is "
                f"{MAX_STATES:,}, and a step looks at all pairs of them.",
                site=name,
                mend="Give them fewer values, or let one of them be continuous.",
            )
        return found

    @property
    def name(self) -> str:
        """Of the first site."""
        return next(iter(self.hidden))

    @property
    def key(self) -> Any:
        """Where they are to be drawn."""
        return self.hidden[self.name].key

    def check_inside(self, sites: Sequence[Any]) -> None:
        """What depends on the states stands in their plates."""
        for site in sites:
            around = {frame.name for frame in site.frames}
            if outside := [plate for plate in self.plates if plate not in around]:
                raise ModelError(
                    f"it stands outside of plate '{outside[0]}', and depends on the discrete site '{self.name}' "
                    f"inside: all rows of '{self.name}' meet in it, and their joint values are too many to sum.",
                    site=site.name,
                    mend=f"Put '{site.name}' into plate '{outside[0]}'.",
                )

    def factor(self, site: Any, tables: Tables, told: dict[str, Any]) -> Any:
        """What is left of the states: the log density of each step given those before, under the first one's name."""
        if self.hidden[self.name].smoothed:
            told = {**told, "smoothed": self.probabilities(smoothed(tables))}
        increments = self.in_batch(forward(tables).increments)
        frames, steps = tuple(self.frames), (len(increments), *site.steps)
        changes = {"value": increments, "told": told, "observed": True, "frames": frames, "steps": steps}
        return dataclasses.replace(site, kind="factor", **changes)

    def own(self, joint: Array) -> dict[str, Array]:
        """For each site the number of its own value."""
        found = {}
        for name, each in self.hidden.items():
            found[name], joint = joint % each.support.count, joint // each.support.count
        return found

    def anything(self, key: Array, length: int) -> Array:
        """Any joint values, `(length, *rows)`."""
        return jax.random.randint(key, (length, *self.rows), 0, self.count)

    def values(self, joint: Array) -> dict[str, Array]:
        """The values of each site in all steps, from those that were drawn, `(length, *rows)`."""
        return {
            name: jax.vmap(lambda index, support=self.hidden[name].support: support.values(index, self.plates))(index)
            for name, index in self.own(joint).items()
        }

    def probabilities(self, table: Array) -> dict[str, Array]:
        """For each site `(length, *shape, values)`, from the joint probabilities `(length, values, *rows)`."""
        found, numbers = {}, self.own(jnp.arange(self.count))
        for name, each in self.hidden.items():
            one = jax.nn.one_hot(numbers[name], each.support.count, dtype=table.dtype, axis=0)
            mine = jnp.moveaxis(jnp.tensordot(one, table, (1, 1)), 0, 1)
            found[name] = jax.vmap(lambda part, each=each: each.support.by_number(part, self.plates))(mine)
        return found

    def by_row(self, site: Any, log_prob: Array) -> Array:
        """A log density, in the batch shape of a site, in each row of the states: `rows`."""
        dims = [frame.dim for frame in self.frames]
        if not set(dims) <= {frame.dim for frame in site.frames}:
            return jnp.sum(log_prob)  # of use only where it does not depend on the states
        kept = [log_prob.ndim + dim for dim in dims]
        for frame in site.frames:
            if frame.dim not in dims and frame.length != frame.size:
                raise ModelError(
                    f"plate '{frame.name}' shows {frame.length} of its {frame.size} rows, but the hidden state "
                    f"'{next(iter(self.hidden))}' is summed out over all of them together.",
                    site=site.name,
                    mend=f"Show all rows of '{frame.name}'; subsample a plate around the state, if there is one.",
                )
        return jnp.sum(log_prob, axis=tuple(axis for axis in range(log_prob.ndim) if axis not in kept))

    def in_batch(self, table: Array, leading: int = 1) -> Array:
        """A table with the rows behind as the batch of a site in their plates."""
        shape = dict(zip((frame.dim for frame in self.frames), table.shape[leading:]))
        dims = range(min(shape, default=0), 0)
        return table.reshape(*table.shape[:leading], *(shape.get(dim, 1) for dim in dims))
