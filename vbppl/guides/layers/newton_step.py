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

All blocks are asked for at once: blocks of `K` cost `K` products with the Hessian, however many there are. The step is
no longer than `3 sqrt(K)` in its own norm; a pivot of `R` is no less than .1 in units of `sd`, and where nothing is
finite the step is zero and `H` that of the units.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.pytree import pytree, static
from vbppl.core.types import AnyArray, Array, PyTree
from vbppl.guides.base import Start, is_traced
from vbppl.guides.gaussian import start_log_sd
from vbppl.guides.layers.base import Layer
from vbppl.target.batched import CALL, compiler_options, in_full_precision, on_accelerator, points_side_by_side
from vbppl.target.layout import Apart
from vbppl.target.target import Target

LONGEST = 3.0  # the step, in its own norm, for each root of a coordinate
LEAST_PIVOT = 1e-2  # squared, in units of `sd`


@pytree
class NewtonStep(Layer):
    """`psi` is `{"mean": m, "slope": B, "log_sd": units, "shift": c, "log_scale": s}`, in the order of the blocks.

    Attributes:
      given: the coordinates that stay where they are.
      blocks: the others, in blocks: none of one moves the gradient of another, given the first.
    """

    given: tuple[int, ...] = static()
    blocks: tuple[tuple[int, ...], ...] = static()
    takes_many = True

    @property
    def rows(self) -> np.ndarray:
        """The coordinates that move, block after block."""
        return np.array([*itertools.chain.from_iterable(self.blocks)], int)

    @property
    def width(self) -> int:
        """The size of the largest block."""
        return max(map(len, self.blocks))

    @property
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Which of the `rows` stands where in each block, and whether any does, `(blocks, width)` each."""
        number, held = itertools.count(), np.array([np.arange(self.width) < len(block) for block in self.blocks])
        at = np.array([[next(number) if is_held else 0 for is_held in row] for row in held])
        return at, held

    def init(self, target: Target, start: Start) -> PyTree:
        rows, p = self.rows, np.array(self.given, int)
        nothing = np.zeros_like(start.loc[rows])
        slope = np.zeros((len(rows), len(p)), start.loc.dtype)
        units = start_log_sd(start)[rows]
        return {"mean": start.loc[rows], "slope": slope, "log_sd": units, "shift": nothing, "log_scale": nothing}

    def forward_and_log_det(self, psi: PyTree, e: AnyArray, target: Target) -> tuple[AnyArray, AnyArray]:
        e, mode, factor = self._seen(psi, e, target)
        xp, blocks = (
            factor.__array_namespace__(),
            self._in_blocks(psi["shift"] + _exp(psi["log_scale"]) * e[..., self.rows]),
        )
        away = self._in_rows(solved(factor, blocks, transposed=True))
        parts = e[..., np.array(self.given, int)], mode + _exp(psi["log_sd"]) * away
        return xp.concatenate(parts, axis=-1)[..., self._places], self._log_det(psi, factor)

    def inverse_and_log_det(self, psi: PyTree, z: AnyArray, target: Target) -> tuple[AnyArray, AnyArray]:
        z, mode, factor = self._seen(psi, z, target)
        away = self._in_blocks((z[..., self.rows] - mode) * _exp(-psi["log_sd"]))
        xp = factor.__array_namespace__()
        noise = self._in_rows((factor * away[..., None]).sum(-2))  # R^T away
        parts = z[..., np.array(self.given, int)], _exp(-psi["log_scale"]) * (noise - psi["shift"])
        return xp.concatenate(parts, axis=-1)[..., self._places], -self._log_det(psi, factor)

    def step_scale(self, psi: PyTree, power: Array, unknown: Array) -> PyTree:
        one, sd = jnp.ones_like(psi["shift"]), jnp.exp(psi["log_sd"])
        return {"mean": sd, "slope": sd[:, None], "log_sd": one, "shift": one, "log_scale": one}

    def conditional(self, psi: PyTree, given: Array, target: Target) -> tuple[Array, Array]:
        """Mode `(rows,)` and `R`, `(blocks, width, width)`, in units of `sd`, at one `given`: in a compiled program."""
        (at, held), x0 = self.table, psi["mean"] + psi["slope"] @ given
        sd = jnp.exp(psi["log_sd"]).astype(x0.dtype)

        def gradient(x: Array) -> Array:
            return jax.grad(lambda x: target.run(self._apart(given, x, target)).log_density())(x)

        # In each pattern one coordinate of every block moves, by its unit: their answers do not meet.
        patterns = np.zeros((self.width, len(self.rows)), bool)
        for place in range(self.width):
            patterns[place, at[held[:, place], place]] = True
        both_at = jax.vmap(lambda v: jax.jvp(gradient, (x0,), (v,)), out_axes=(None, 0))
        with in_full_precision():
            slope, columns = both_at(jnp.where(patterns, sd, 0.0))
        slope, columns = sd * slope, -sd * columns
        both = held[:, :, None] & held[:, None, :]
        hessian = jnp.where(both, jnp.moveaxis(columns[:, at], 0, -1), jnp.eye(self.width, dtype=sd.dtype))
        slope = jnp.where(held, slope[at], 0.0)
        # In place of what is not finite, before it is used, as even an unused branch would spoil a gradient.
        sound = jnp.isfinite(slope).all(-1) & jnp.isfinite(hessian).all((-2, -1))
        slope = jnp.where(sound[:, None], slope, 0.0)
        hessian = jnp.where(sound[:, None, None], hessian, jnp.eye(self.width, dtype=sd.dtype))
        factor = modified_cholesky((hessian + hessian.swapaxes(-2, -1)) / 2)
        step = solved(factor, slope)
        step = jnp.where(jnp.isfinite(step).all(-1, keepdims=True), step, 0.0)  # far out it may overflow
        longest = LONGEST * np.sqrt(held.sum(-1))
        length = jnp.sqrt(jnp.maximum((step**2).sum(-1), 1e-12))
        step = step * jnp.minimum(1.0, longest / length)[:, None]
        return x0 + sd * self._in_rows(solved(factor, step, transposed=True)), factor

    def conditionals(self, psi: PyTree, given: np.ndarray, target: Target) -> tuple[np.ndarray, np.ndarray]:
        """The same at many, `(points, given)`, on the host in float64; one compiled program serves any number."""
        dtype, modes, factors = jnp.result_type(float), list[np.ndarray](), list[np.ndarray]()
        psi = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), psi)
        side = points_side_by_side(target.data_size, on_accelerator())
        for start in range(0, len(given), CALL):
            some = given[start : start + CALL]
            # Copies of the first point fill the call, in blocks that are never entered.
            points = np.broadcast_to(some[:1], (CALL, given.shape[1])).astype(dtype)
            points[: len(some)] = some
            found = _program()(self, psi, points, target, np.int32(-(-len(some) // side)), side)
            for parts, each in zip((modes, factors), found):
                parts.append(np.asarray(each, np.float64)[: len(some)])
        return np.concatenate(modes), np.concatenate(factors)

    def _seen(self, psi: PyTree, points: AnyArray, target: Target) -> tuple[AnyArray, AnyArray, AnyArray]:
        """Points, one `(dim,)` or many on the host, with mode and `R` of each."""
        if is_traced((psi, points, target)):
            return points, *self.conditional(psi, points[np.array(self.given, int)], target)
        points = np.asarray(points)
        given = points[..., np.array(self.given, int)].reshape(-1, len(self.given))
        mode, factor = self.conditionals(psi, given, target)
        shape = points.shape[:-1]
        return points, mode.reshape(*shape, -1), factor.reshape(*shape, *factor.shape[1:])

    @property
    def _places(self) -> np.ndarray:
        """From what is given and then the rows to the order of the coordinates."""
        return np.argsort([*self.given, *self.rows])

    def _apart(self, given: Array, x: Array, target: Target) -> Apart:
        """What is given and the rows as a point, slot by slot, none of which has both unless it must."""
        size, parts = len(self.given), []
        for slot in target.layout.slots:
            at = self._places[slot.start : slot.stop]
            whole = given[at] if (at < size).all() else x[at - size] if (at >= size).all() else None
            parts.append(jnp.concatenate([given, x])[at] if whole is None else whole)
        return Apart(tuple(parts))

    def _in_blocks(self, x: AnyArray) -> AnyArray:
        at, held = self.table
        return x[..., at] * held

    def _in_rows(self, blocks: AnyArray) -> AnyArray:
        return blocks.reshape(*blocks.shape[:-2], -1)[..., np.flatnonzero(self.table[1])]

    def _log_det(self, psi: PyTree, factor: AnyArray) -> AnyArray:
        xp = factor.__array_namespace__()
        pivots = xp.stack([factor[..., i, i] for i in range(self.width)])
        return (psi["log_sd"] + psi["log_scale"]).sum() - xp.log(pivots).sum((0, -1))


def _exp(x: AnyArray) -> AnyArray:
    return x.__array_namespace__().exp(x)


def solved(factor: AnyArray, b: AnyArray, transposed: bool = False) -> AnyArray:
    """`R^-1 b`, or `R^-T b`: `(..., width, width)` and `(..., width)`, written out, as blocks are many and small."""
    width, found = factor.shape[-1], dict[int, Any]()
    for i in range(width)[:: -1 if transposed else 1]:
        row = [factor[..., j, i] if transposed else factor[..., i, j] for j in range(width)]
        found[i] = (b[..., i] - sum(row[j] * x for j, x in found.items())) / row[i]
    return b.__array_namespace__().stack([found[i] for i in range(width)], axis=-1)


def modified_cholesky(matrix: Array) -> Array:
    """`R` with `R R^T = matrix`, `(..., width, width)`, whose squared pivots are at least `LEAST_PIVOT`."""
    width, r = matrix.shape[-1], dict[tuple[int, int], Array]()
    # Of a positive definite matrix the squares of a row of `R` sum to its diagonal; of others they may overflow.
    most = [jnp.sqrt(jnp.maximum(matrix[..., i, i], LEAST_PIVOT)) for i in range(width)]
    for j in range(width):
        left = matrix[..., j, j] - sum(r[j, k] ** 2 for k in range(j))
        r[j, j] = jnp.sqrt(jnp.maximum(left, LEAST_PIVOT))
        for i in range(j + 1, width):
            over = (matrix[..., i, j] - sum(r[i, k] * r[j, k] for k in range(j))) / r[j, j]
            r[i, j] = jnp.clip(over, -most[i], most[i])
    nothing = jnp.zeros_like(matrix[..., 0, 0])
    return jnp.stack([jnp.stack([r.get((i, j), nothing) for j in range(width)], -1) for i in range(width)], -2)


@functools.cache
def _program() -> Any:
    """Compiled for the device at hand, once it is known."""
    return jax.jit(_conditionals, static_argnums=5, compiler_options=compiler_options())


def _conditionals(
    layer: NewtonStep, psi: PyTree, given: Array, target: Target, turns: Array, side: int
) -> tuple[Array, Array]:
    """Mode and `R` in the first `turns` blocks of `side` points: how many is data, so one program serves any."""
    one = jax.vmap(lambda each: layer.conditional(psi, each, target))

    def body(i: Any, found: tuple[Array, Array]) -> tuple[Array, Array]:
        new = one(jax.lax.dynamic_slice_in_dim(given, i * side, side))
        put = lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, i * side, 0)  # noqa: E731
        return jax.tree.map(put, found, new)

    shapes = jax.eval_shape(one, given[:side])
    nothing = jax.tree.map(lambda each: jnp.zeros((len(given), *each.shape[1:]), each.dtype), shapes)
    return jax.lax.fori_loop(0, turns, body, nothing)
