"""The one compiled evaluation of a density: its value and gradient at many points.

Outside the stochastic loop whoever needs value and gradient (starts, fits on fixed draws, weighed draws) asks this one
program, always with the same shapes, so the model is traced and compiled once. Products with the Hessian, and a bound's
own draws, are programs besides. Everything around them is linear algebra in float64 on the host.

Searches advance side by side, as a *batch*: several starts, several parameterisations, many data sets. A search has the
data of a fit and a parameterisation; a request is a block of draws for each search.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vbppl.core import devices
from vbppl.core.errors import ModelError
from vbppl.core.programs.compiling import compiler_options, in_full_precision, on_accelerator
from vbppl.core.programs.rerolling.rerolled import rerolled_at
from vbppl.core.programs.threads import suited_to
from vbppl.core.types import Array, ArrayLike
from vbppl.model.control_flow.hidden import slopes_backward
from vbppl.target.layout import Layout
from vbppl.target.target import Target, as_evaluated, parameterisations_of, reparameterised

BLOCK = 32  # points that are evaluated side by side
CALL = 512  # points that one call of the compiled evaluation can take
MANY_CALL = 4096  # the same where there are many data sets
BUFFER = 2**20  # numbers that a call's points may hold, whole blocks apart
ROWS = 16  # kinds of coordinates that one call can take
TOGETHER = 2**18  # numbers of many data sets that are looked at together
HEAVY = 10**6  # numbers in the data, above which intermediate values of a whole block fill the memory
WIDE = 16  # columns a row, from which on heavy data are a matrix and intermediate values few
SCATTERED = 2**12  # numbers of a point's own, a block of which do not fit a cache
TABLES = 2**18  # numbers summed over in a block, beside which its intermediate values do not fit a cache
ROOM = 2**29  # numbers that the intermediate values of a block may hold on an accelerator


def points_side_by_side(data_size: int, accelerated: bool, layout: Layout | None = None) -> int:
    """How many points are evaluated together: what fits a processor's cache, or what fills an accelerator.

    Data are read once for all points, but the tables over which rows sum are a point's own, and so are the numbers that
    each row, or each dimension, makes. Where data are little more than these, as in a hierarchy whose rows look up
    their groups, few points are quicker (50,000 rows of 10,000 groups: 0.6 ms a gradient, 32 side by side 1.4); where
    data are a wide matrix, many (200 rows of 100,000 columns: 2.2 ms, 4 side by side 8.5).
    """
    if accelerated:
        return 1 << int(np.log2(np.clip(ROOM // max(data_size, 1), 1, CALL)))
    tables, rows, dim = (layout.tables_of_rows, layout.observations, layout.dim) if layout else (0, 0, 0)
    heavy, own = data_size > HEAVY and not dim > WIDE * rows > 0, max(rows, dim)
    if heavy or (own > SCATTERED and data_size < 4 * own):
        return BLOCK // 8
    return 1 << int(np.log2(np.clip(TABLES // max(tables, 1), BLOCK // 8, BLOCK)))


def evaluate(target: Target, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The log density and its gradient at any number of points `z`, `(points, dim)`, in float64.

    What is read in parts is gone through once for all points.

    Returns:
      log densities `(points,)` and gradients `(points, dim)`.
    """
    log_p, gradient = np.zeros(len(z)), np.zeros(np.shape(z))
    for share, rows in target.parts():
        found = Batch.of(target.showing(rows) if rows else target).at(z)
        log_p, gradient = log_p + share * found[0], gradient + share * found[1]
    return log_p, gradient


def evaluation(target: Target) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """`evaluate` of the target, for many calls: what its leaves take to send is paid once."""
    return functools.partial(evaluate, target) if target.sources else Batch.of(target).at


class BatchedDensity:
    """The log density of one or many targets of the same structure and shapes, on the host.

    Attributes:
      gradients: how many gradients each target has been asked for, `(targets,)`.
      compiling: seconds of calls that were the first of their kind, most of which is compiling.
    """

    def __init__(self, targets: Sequence[Target]):
        targets = [as_evaluated(each) for each in targets]
        target = targets[0]
        leaves, structure = jax.tree.flatten(target)
        mesh = devices.mesh_of(leaves)
        self._structure, self._many, self._targets = _shared(target, structure), len(targets) > 1, targets
        # The leaves of all targets are stacked once and stay on the device: a call sends points and numbers only.
        if self._many:
            stacks = [np.stack(devices.on_host(list(parts))) for parts in zip(*map(jax.tree.leaves, targets))]
            leaves = [devices.put(stack, mesh) for stack in stacks]
        self._leaves, self._mesh = tuple(leaves), mesh
        self.dim, self.dtype = target.dim, np.dtype(jnp.result_type(float))
        accelerated, numbers = on_accelerator(), target.data_size
        self._size = numbers + self.dim  # rows that a matrix of the model may have
        self._side_by_side = points_side_by_side(numbers, accelerated and not self._many, target.layout)
        work = self._side_by_side * self._size
        room, most = (ROOM, MANY_CALL // self._side_by_side) if accelerated else (TOGETHER, 16)
        self._group = int(np.clip(room // work, 1, most)) if self._many else 0
        if self._many and mesh is not None:  # each device has fits of its own
            self._group = min(-(-self._group // mesh.size) * mesh.size, MANY_CALL // self._side_by_side)
        # A call's buffers are this long whatever it is asked: in very many dims they hold one block.
        one, most = self._side_by_side * max(self._group, 1), MANY_CALL if self._many else CALL
        self._call = int(np.clip(BUFFER // max(self.dim, 1), max(one, BLOCK), most)) // one * one
        # Coordinates go in a table with a row for each search of a call, since they may be as long as points.
        self._rows = self._call // self._side_by_side if self._many else ROWS
        self._kind = (self.dtype, *map(np.shape, self._leaves))
        self.gradients, self.compiling = np.zeros(len(targets), int), 0.0

    def __call__(self, z: np.ndarray, fits: np.ndarray, parameterisations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log densities `(searches, draws)` and gradients `(searches, draws, dim)`, float64.

        Args:
          z: points for each search, `(searches, draws, dim)`.
          fits: the target of each search, `(searches,)`.
          parameterisations: of its movable sites, `(searches, numbers)`: see `Layout.packed`.
        """
        if devices.spans_processes(self._mesh):  # whose linear algebra may differ in the last place
            z, parameterisations = devices.agreed((z, parameterisations))
        (searches, draws, dim), side = z.shape, self._side_by_side
        np.add.at(self.gradients, fits, draws)
        if self._many:
            # A block belongs to one target, so each search's draws fill whole blocks; copies of a draw fill the last.
            z = z[:, np.minimum(np.arange(-(-draws // side) * side), draws - 1)]
        padded = z.shape[1]
        z = z.reshape(searches * padded, dim)
        whole = np.repeat(fits, padded // side) if self._many else np.zeros(0, int)  # the target of each block
        moves, blocks, stop = parameterisations.shape[1] > 0, Blocks(side, self._group, self._mesh), 0
        log_p, gradient = np.empty(len(z)), np.empty(z.shape)
        # The points come from the host, and that is meant.
        with self.timed(side, self._group), devices.transfers_are_meant(), _own_errors(), suited_to(self._size):
            while stop < len(z):
                start, search = stop, stop // max(padded, 1)
                stop = min(start + self._call, len(z), (search + self._rows) * padded if moves else len(z))
                part, searches_of = slice(start, stop), np.arange(start, stop) // padded
                sent = self._sent(z[part], searches_of, whole[start // side : -(-stop // side)], parameterisations)
                found = self._structure.evaluate(self._leaves, *sent, blocks)
                log_p[part], gradient[part] = (np.asarray(leaf)[: stop - start] for leaf in found)
        return log_p.reshape(searches, padded)[:, :draws], gradient.reshape(searches, padded, dim)[:, :draws]

    def _sent(
        self, z: np.ndarray, searches: np.ndarray, fits: np.ndarray, parameterisations: np.ndarray
    ) -> tuple[Any, ...]:
        """What one call sends for points `(n, dim)` of `searches`, `(n,)`, in blocks of the targets `fits`."""
        count, call, side = len(z), self._call, self._side_by_side
        # Copies of the last point fill the call, so that nothing is evaluated where nobody asked.
        points = np.empty((call, self.dim), self.dtype)
        points[:count], points[count:] = z, z[-1]
        table, row = np.zeros((self._rows, parameterisations.shape[1]), self.dtype), np.zeros(call, np.int32)
        if parameterisations.shape[1]:
            row[:count], row[count:] = searches - searches[0], searches[-1] - searches[0]
            table[: row[-1] + 1] = parameterisations[searches[0] : searches[-1] + 1]
        owners = np.zeros(call // side, np.int32)
        owners[: len(fits)] = fits
        # Blocks beyond the last asked for are never entered, so a short request costs what it is.
        return points, (table, row), owners, np.int32(-(-count // (side * max(self._group, 1))))

    @contextlib.contextmanager
    def timed(self, *kind: Any) -> Iterator[None]:
        """Compiling is told from running by being the first call of its kind in this process."""
        began, kind = time.perf_counter(), (kind, self._kind)
        yield
        if kind not in self._structure.seen:
            self._structure.seen.add(kind)
            self.compiling += time.perf_counter() - began


@contextlib.contextmanager
def _own_errors() -> Iterator[None]:
    """Say what to do where the model itself raises an error while it is computed, as solvers that give up do."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        said = re.findall(r"^(?:\w+\.)*\w*(?:Error|Exception): .*$", str(error), re.MULTILINE)
        if "allback" not in str(error) or not said:
            raise
        raise ModelError(
            "the model raised an error while its log density was computed.",
            details=said[-1].partition(" [executable_name=")[0],  # some devices add their program's name
            mend="A search for a start also tries wild values: there the model must give NaN, not raise, as a solver "
            "does with throw=False; or begin inside, vb.fit(model, start={...}).",
        ) from error


class _Structure:
    """The static half of a target. Compared by identity, because it is compared at every call."""

    def __init__(self, tree: Any):
        self.seen: set[tuple] = set()  # the kinds of calls that have been compiled
        # Its own program, which goes when it goes: JAX keeps what a shared one has compiled.
        self.evaluate = jax.jit(
            functools.partial(_value_and_gradient, tree), static_argnums=5, compiler_options=compiler_options()
        )


# By the model's function and all the rest that is static. An entry does not keep the function, and goes with it.
_STRUCTURES: weakref.WeakKeyDictionary[Any, dict[Any, _Structure]] = weakref.WeakKeyDictionary()


def _shared(target: Target, tree: Any) -> _Structure:
    """The same object for equal structures, so that they share compiled programs."""
    known = _STRUCTURES.setdefault(target.model.function, {})
    if tree not in known:  # to make one is to make a program
        known[tree] = _Structure(tree)
    return known[tree]


class Blocks(NamedTuple):
    """How points are evaluated: so many side by side, of so many targets, on the devices of a mesh if there is one."""

    side_by_side: int
    group: int
    mesh: Mesh | None


def _value_and_gradient(
    structure: Any,
    leaves: tuple[Array, ...],
    z: Array,
    seen: tuple[Array, Array],
    fits: Array,
    turns: Array,
    blocks: Blocks,
) -> tuple[Array, Array]:
    """The first `turns` blocks of points, or groups of blocks: how many is data, so one program serves all numbers."""

    def log_density(leaves: Sequence[Array], z: Array, row: Array) -> Array:
        target: Target = jax.tree.unflatten(structure, leaves)
        with in_full_precision(), slopes_backward():
            return reparameterised(target, table[row]).run(z).log_density()

    (table, rows), (side_by_side, group, mesh) = seen, blocks

    one = [jax.eval_shape(lambda part: part[0], each) for each in (*(leaves if group else ()), z, rows)]
    density = rerolled_at(log_density, [*one[:-2]] if group else leaves, *one[-2:])
    evaluate_block = jax.vmap(jax.value_and_grad(density, argnums=1), in_axes=(None, 0, 0))

    # A loop over blocks rather than one vmap: its intermediate values fit the cache, and its length may be data.
    def body(i: ArrayLike, found: tuple[Array, Array]) -> tuple[Array, Array]:
        at, size = i * side_by_side * max(group, 1), side_by_side * max(group, 1)
        points, mine = (jax.lax.dynamic_slice_in_dim(part, at, size) for part in (z, rows))
        if group:
            # Side by side go blocks of several targets, each with its own data; one block never mixes targets.
            theirs = [leaf[jax.lax.dynamic_slice_in_dim(fits, i * group, group)] for leaf in leaves]
            blocks = points.reshape(group, side_by_side, -1), mine.reshape(group, side_by_side)
            spread = devices.constrained((theirs, *blocks), mesh and devices.along(mesh))  # fits, over the devices
            log_p, gradient = jax.vmap(evaluate_block)(*spread)
        else:
            log_p, gradient = evaluate_block(leaves, points, mine)
        update = jax.lax.dynamic_update_slice_in_dim
        return update(found[0], log_p.reshape(size), at, 0), update(found[1], gradient.reshape(size, -1), at, 0)

    nothing = jnp.zeros_like(z, shape=z.shape[:1]), jnp.zeros_like(z)
    if len(z) == side_by_side * max(group, 1):  # a single block, as on an accelerator, which is spared the loop
        return devices.everywhere(body(0, nothing), mesh)
    return devices.everywhere(jax.lax.fori_loop(0, turns, body, nothing), mesh)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Searches side by side: the fit to which each belongs, and its parameterisation, `(searches, ...)`."""

    density: BatchedDensity
    fits: np.ndarray
    parameterisations: np.ndarray

    @classmethod
    def of(cls, target: Target, count: int = 1, density: BatchedDensity | None = None) -> Batch:
        """So many searches of one target, as it is parameterised; `density` is that of the target."""
        parameterisations = np.tile(parameterisations_of(target), (count, 1))
        return cls(density or BatchedDensity([target]), np.zeros(count, int), parameterisations)

    def __len__(self) -> int:
        return len(self.fits)

    def __call__(self, z: np.ndarray, searches: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Log densities and gradients at `z`, `(searches, draws, dim)`, of all searches or of some."""
        return self.density(z, self.fits[searches], self.parameterisations[searches])

    def at(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log densities and gradients at `z`, `(points, dim)`, of the only search."""
        log_p, gradient = self(z[None])
        return log_p[0], gradient[0]

    def take(self, searches: np.ndarray) -> Batch:
        """Some of the searches."""
        return Batch(self.density, self.fits[searches], self.parameterisations[searches])

    def rounding(self, value: np.ndarray) -> np.ndarray:
        """By how much two equal bounds of this size may differ, in nats: 16 units in the last place."""
        return 16 * float(np.finfo(self.density.dtype).eps) * np.maximum(np.abs(value), 1.0)


def _negated_bound(target: Target, eta: Array, noise: Array) -> Array:
    loc, log_sd = jnp.split(eta, 2)
    return -jnp.mean(jax.vmap(target.log_density)(loc + jnp.exp(log_sd) * noise)) - jnp.sum(log_sd)


@jax.jit
def hessian_times(target: Target, eta: Array, noise: Array, vector: Array) -> Array:
    """The Hessian of the negated mean-field bound at `eta`, `(2 dim,)`, times `vector`."""
    # Forward over reverse: the Hessian itself, (2 dim, 2 dim), is never formed.
    gradient = jax.grad(lambda eta: _negated_bound(target, eta, noise))
    with in_full_precision():
        return jax.jvp(gradient, (eta,), (vector,))[1]
