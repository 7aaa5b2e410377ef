"""One step of Newton's method towards the mode of some coordinates given the others: a conditional Laplace layer.

With `p` the coordinates given, and `x` the others in blocks that do not interact given `p`,

    x0 = m + B p,    g, H = gradient and blocks of the negative Hessian of l(p, .) at x0,    R R^T = H,
    mode = x0 + R^-T R^-1 g,    x = mode + R^-T (c + exp(s) e),    log |dx/de| = sum s - sum log R_ii.

At `c = s = 0` that is the Laplace approximation of `x` given `p`, by which integrated Laplace methods have the marginal
density of `p` (Rue, Martino and Chopin 2009, "Approximate Bayesian inference for latent Gaussian models by using
integrated nested Laplace approximations"; Kristensen et al. 2016, "TMB: automatic differentiation and Laplace
approximation"; Margossian et al. 2020, "Hamiltonian Monte Carlo using an adjoint-differentiated Laplace
approximation"). These iterate to the mode; here one step is a bijection in `e`, whatever `mode` and `R` are as
functions of `p`: so the density of a draw is exact whether or not the step has converged, and bound and weights count
what the approximation costs.

All blocks are asked for at once: blocks of `K` cost `K` products with the Hessian, however many there are. Blocks in a
chain, each of which meets the next, as of a series in time, have a block tridiagonal `H`: it costs `3 K` products, as
the answers of every third block do not overlap (Curtis, Powell and Reid 1974), and is factorised in `elimination`. The
step is no longer than 3 for each root of a coordinate, in its own norm, in a block or in the whole chain; a pivot of
`R` is no less than .1 in units of `sd`, and where nothing is finite the step is zero and `H` that of the units.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.programs.rerolling.rerolled import rerolled
from vbppl.core.pytree import pytree, static
from vbppl.core.types import AnyArray, Array, PyTree
from vbppl.guides.base import Guide, Start, is_traced
from vbppl.guides.gaussian import start_log_sd
from vbppl.guides.layers.base import Layer, Layered, taken
from vbppl.guides.layers.elimination import Factor
from vbppl.target.batched import BUFFER, CALL, compiler_options, in_full_precision, on_accelerator, points_side_by_side
from vbppl.target.layout import Apart
from vbppl.target.target import Target

MAX_STEP = 3.0  # the step, in its own norm, for each root of a coordinate
TOGETHER = 2**18  # coordinates of all points that are looked at together


@pytree
class NewtonStep(Layer):
    """`psi` is `{"mean": m, "slope": B, "log_sd": units, "shift": c, "log_scale": s}`, in the order of the blocks.

    Attributes:
      given: the coordinates that stay where they are.
      blocks: the others, in blocks: none of one moves the gradient of another, given the first.
      is_chain: but that each block may meet the next.
    """

    given: tuple[int, ...] = static()
    blocks: tuple[tuple[int, ...], ...] = static()
    is_chain: bool = static(default=False)
    takes_many = True

    @property
    def rows(self) -> np.ndarray:
        """The coordinates that move, block after block."""
        return _rows(self.blocks)

    @property
    def width(self) -> int:
        """The size of the largest block."""
        return self.table[0].shape[1]

    @property
    def products(self) -> int:
        """How many products with the Hessian it takes."""
        return self.width * self.colours

    @property
    def evaluations(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride] -- nobody sets it
        return 1 + self.products

    @property
    def colours(self) -> int:
        """How many kinds of blocks are moved one after the other, since their answers overlap."""
        return min(len(self.blocks), 3) if self.is_chain else 1

    @property
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Which of the `rows` stands where in each block, and whether any does, `(blocks, width)` each."""
        return _table(self.blocks)

    def side(self, target: Target) -> int:
        """How many points are looked at together: a power of two."""
        most = points_side_by_side(target.data_size, on_accelerator())
        return most if on_accelerator() else min(most, 1 << max(int(np.log2(TOGETHER / target.dim)), 2))

    def init(self, target: Target, start: Start) -> PyTree:
        rows, p = self.rows, np.array(self.given, int)
        nothing = np.zeros_like(start.loc[rows])
        slope = np.zeros((len(rows), len(p)), start.loc.dtype)
        units = start_log_sd(start)[rows]
        return {"mean": start.loc[rows], "slope": slope, "log_sd": units, "shift": nothing, "log_scale": nothing}

    def forward_and_log_det(self, psi: PyTree, e: AnyArray, target: Target) -> tuple[AnyArray, AnyArray]:
        def forward(e: AnyArray, mode: AnyArray, factor: Factor) -> tuple[AnyArray, AnyArray]:
            rows = self._moved(psi, taken(e, self.rows), mode, factor)
            return self._joined(taken(e, np.array(self.given, int)), rows), self._log_det(psi, factor)

        return self._seen(psi, e, target, forward)

    def inverse_and_log_det(self, psi: PyTree, z: AnyArray, target: Target) -> tuple[AnyArray, AnyArray]:
        def inverse(z: AnyArray, mode: AnyArray, factor: Factor) -> tuple[AnyArray, AnyArray]:
            away = (taken(z, self.rows) - mode) * _exp(-psi["log_sd"])
            noise = self._in_rows(factor.times_transposed(self._in_blocks(away)))
            parts = taken(z, np.array(self.given, int)), _exp(-psi["log_scale"]) * (noise - psi["shift"])
            return self._joined(*parts), -self._log_det(psi, factor)

        return self._seen(psi, z, target, inverse)

    def step_scale(self, psi: PyTree, power: Array, unknown: Array) -> PyTree:
        one, sd = jnp.ones_like(psi["shift"]), jnp.exp(psi["log_sd"])
        return {"mean": sd, "slope": sd[:, None], "log_sd": one, "shift": one, "log_scale": one}

    def rows_given(self, psi: PyTree, given: Array, noise: Array, target: Target) -> tuple[Array, Array]:
        """Where noise of the rows, `(rows,)`, goes at one `given`, and log |dx/de|: in a compiled program."""
        mode, factor = self.conditional(psi, given, target)
        return self._moved(psi, noise, mode, factor), self._log_det(psi, factor)

    def _moved(self, psi: PyTree, noise: AnyArray, mode: AnyArray, factor: Factor) -> AnyArray:
        noise = psi["shift"] + _exp(psi["log_scale"]) * noise
        return mode + _exp(psi["log_sd"]) * self._in_rows(factor.solve_transposed(self._in_blocks(noise)))

    def conditional(self, psi: PyTree, given: Array, target: Target) -> tuple[Array, Factor]:
        """Mode `(rows,)` and `R`, in units of `sd`, at one `given`: in a compiled program."""
        (at, held), x0 = self.table, psi["mean"] + psi["slope"] @ given
        sd = jnp.exp(psi["log_sd"]).astype(x0.dtype)

        @rerolled
        def density(x: Array) -> Array:
            return target.run(self.apart(given, x, target)).log_density()

        gradient = jax.grad(density)

        # In each pattern one coordinate of every block moves, or of every third, by its unit: answers do not meet.
        patterns = np.zeros((self.colours, self.width, len(self.rows)), bool)
        for colour, place in itertools.product(range(self.colours), range(self.width)):
            mine = np.arange(len(at))[colour :: self.colours]
            patterns[colour, place, at[mine[held[mine, place]], place]] = True
        both_at = jax.vmap(lambda v: jax.jvp(gradient, (x0,), (v,)), out_axes=(None, 0))
        with in_full_precision():
            slope, columns = both_at(jnp.where(patterns.reshape(-1, len(self.rows)), sd, 0.0))
        slope, columns = self._in_blocks(sd * slope), self._in_blocks(-sd * columns)
        # In place of what is not finite, before it is used, as even an unused branch would spoil a gradient.
        diagonal, below = self._hessian(columns)
        sound = jnp.isfinite(slope).all(-1) & jnp.isfinite(diagonal).all((-2, -1))
        slope = jnp.where(sound[:, None], slope, 0.0)
        diagonal = jnp.where(sound[:, None, None], diagonal, jnp.eye(self.width, dtype=sd.dtype))
        below = None if below is None else jnp.where(jnp.isfinite(below), below, 0.0)
        factor = Factor.of((diagonal + diagonal.swapaxes(-2, -1)) / 2, below)
        step = self._shortened(factor.solve(slope))
        return x0 + sd * self._in_rows(factor.solve_transposed(step)), factor

    def _hessian(self, columns: Array) -> tuple[Array, Array | None]:
        """The blocks on the diagonal, and those under it in a chain, from the answers `(products, blocks, width)`."""
        held = self.table[1]
        columns = columns.reshape(self.colours, self.width, *columns.shape[1:])
        mine = np.arange(len(held)) % self.colours == np.arange(self.colours)[:, None]
        # `[block, row, column]`: of the answers to a block's colour those of its own rows, and of the next block's.
        both = held[:, :, None] & held[:, None, :]
        own = jnp.where(mine[:, None, :, None], columns, 0.0).sum(0)
        diagonal = jnp.where(both, jnp.moveaxis(own, 0, -1), jnp.eye(self.width, dtype=columns.dtype))
        if not self.is_chain:
            return diagonal, None
        next_one = jnp.where(mine[:, None, :-1, None], columns[:, :, 1:], 0.0).sum(0)
        both = held[1:, :, None] & held[:-1, None, :]
        return diagonal, jnp.where(both, jnp.moveaxis(next_one, 0, -1), 0.0)

    def _shortened(self, step: Array) -> Array:
        """No longer than it may be, block by block or in the whole chain; none where it is not finite."""
        held = self.table[1]
        step = jnp.where(jnp.isfinite(step).all(-1, keepdims=True), step, 0.0)  # far out it may overflow
        squares, counts = (step**2).sum(-1), held.sum(-1)
        if self.is_chain:
            squares, counts = squares.sum(-1, keepdims=True), counts.sum(keepdims=True)
        length = jnp.sqrt(jnp.maximum(squares, 1e-12))
        return step * jnp.minimum(1.0, MAX_STEP * np.sqrt(counts) / length)[:, None]

    def conditionals(self, psi: PyTree, given: np.ndarray, target: Target) -> tuple[np.ndarray, Factor]:
        """The same at many, `(points, given)`, on the host in float64; one compiled program serves any number."""
        dtype, found = jnp.result_type(float), list[Any]()
        psi = {name: np.asarray(psi[name], dtype) for name in ("mean", "slope", "log_sd")}
        side = self.side(target)
        call = max(min(CALL, BUFFER // target.dim // side * side), side)
        for start in range(0, len(given), call):
            some = given[start : start + call]
            # Copies of the first point fill the call, in blocks that are never entered.
            points = np.broadcast_to(some[:1], (call, given.shape[1])).astype(dtype)
            points[: len(some)] = some
            parts = _program()(self, psi, points, target, np.int32(-(-len(some) // side)), side)
            found.append(jax.tree.map(lambda each, n=len(some): np.asarray(each, np.float64)[:n], parts))
        return jax.tree.map(lambda *parts: np.concatenate(parts), *found)

    def variances(self, factor: Factor, noise: np.ndarray) -> np.ndarray:
        """Of the rows in units of `sd`, medians over points with a factor and `noise` `(points, rows)`: `(rows,)`."""
        if self.is_chain:  # of the squares of draws, whose median is .455 of their mean
            away = factor.solve_transposed(self._in_blocks(noise))
            return self._in_rows(np.median(away**2, axis=0)) / 0.455
        units = np.eye(self.width)[:, None, None] * np.ones((1, *factor.pivot.shape[:2], 1))
        return self._in_rows(np.median((factor.solve_transposed(units) ** 2).sum(axis=0), axis=0))

    def _seen(self, psi: PyTree, points: AnyArray, target: Target, move: Any) -> tuple[AnyArray, AnyArray]:
        """What `move` makes of points, one `(dim,)` or many on the host, with mode and `R` of each."""
        if is_traced((psi, points, target)):
            return move(points, *self.conditional(psi, points[np.array(self.given, int)], target))
        points, found = np.asarray(points), list[Any]()
        flat, most = points.reshape(-1, points.shape[-1]), max(BUFFER // points.shape[-1], 1)
        # In many dims the factors of all points would fill the memory.
        for some in (flat[start : start + most] for start in range(0, max(len(flat), 1), most)):
            found.append(move(some, *self.conditionals(psi, some[:, np.array(self.given, int)], target)))
        z, log_det = (np.concatenate(parts) for parts in zip(*found))
        return z.reshape(points.shape), log_det.reshape(points.shape[:-1])

    def _joined(self, given: AnyArray, rows: AnyArray) -> AnyArray:
        """What is given and the rows, in the order of the coordinates."""
        return taken(given.__array_namespace__().concatenate([given, rows], axis=-1), _places(self.given, self.blocks))

    def apart(self, given: Array, x: Array, target: Target) -> Apart:
        """What is given and the rows as a point, slot by slot, none of which has both unless it must."""
        size, parts, places = len(self.given), [], _places(self.given, self.blocks)
        for slot in target.layout.slots:
            at = places[slot.start : slot.stop]
            whole = given[at] if (at < size).all() else taken(x, at - size) if (at >= size).all() else None
            parts.append(jnp.concatenate([given, x])[at] if whole is None else whole)
        return Apart(tuple(parts))

    def _in_blocks(self, x: AnyArray) -> AnyArray:
        at, held = self.table
        return x.reshape(*x.shape[:-1], *at.shape) if held.all() else x[..., at] * held

    def _in_rows(self, blocks: AnyArray) -> AnyArray:
        flat, held = blocks.reshape(*blocks.shape[:-2], -1), self.table[1]
        return flat if held.all() else flat[..., np.flatnonzero(held)]

    def _log_det(self, psi: PyTree, factor: Factor) -> AnyArray:
        return (psi["log_sd"] + psi["log_scale"]).sum() - factor.log_det()


def step_to_blocks(guide: Guide) -> NewtonStep | None:
    """The last layer of a guide, where it is a step to blocks that do not meet."""
    last = guide.layers[-1] if isinstance(guide, Layered) and guide.layers else None
    return last if isinstance(last, NewtonStep) and not last.is_chain else None


def _exp(x: AnyArray) -> AnyArray:
    return x.__array_namespace__().exp(x)


@functools.lru_cache(maxsize=64)
def _rows(blocks: tuple[tuple[int, ...], ...]) -> np.ndarray:
    return np.array([*itertools.chain.from_iterable(blocks)], int)


@functools.lru_cache(maxsize=64)
def _table(blocks: tuple[tuple[int, ...], ...]) -> tuple[np.ndarray, np.ndarray]:
    width, number = max(map(len, blocks)), itertools.count()
    held = np.array([np.arange(width) < len(block) for block in blocks])
    return np.array([[next(number) if is_held else 0 for is_held in row] for row in held]), held


@functools.lru_cache(maxsize=64)
def _places(given: tuple[int, ...], blocks: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """From what is given and then the rows to the order of the coordinates."""
    return np.argsort([*given, *_rows(blocks)])


@functools.cache
def _program() -> Any:
    """Compiled for the device at hand, once it is known."""
    return jax.jit(_conditionals, static_argnums=5, compiler_options=compiler_options())


def _conditionals(
    layer: NewtonStep, psi: PyTree, given: Array, target: Target, turns: Array, side: int
) -> tuple[Array, Factor]:
    """Mode and `R` in the first `turns` blocks of `side` points: how many is data, so one program serves any."""
    one = jax.vmap(lambda each: layer.conditional(psi, each, target))

    def body(i: Any, found: tuple[Array, Factor]) -> tuple[Array, Factor]:
        new = one(jax.lax.dynamic_slice_in_dim(given, i * side, side))
        put = lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, i * side, 0)  # noqa: E731
        return jax.tree.map(put, found, new)

    shapes = jax.eval_shape(one, given[:side])
    nothing = jax.tree.map(lambda each: jnp.zeros((len(given), *each.shape[1:]), each.dtype), shapes)
    return jax.lax.fori_loop(0, turns, body, nothing)
