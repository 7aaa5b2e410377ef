"""A conditional Laplace guide on fixed draws: hyperparameters, shifts and scales climb together, by L-BFGS.

The guide (`guides/layers/conditional_laplace`) makes the hyperparameters `p` as a conditionally structured Gaussian
does, and the rest from one Newton step given these, `x = mode(p) + R(p)^-T (c + exp(s) e)`. The bound is

    J = mean [l(p, x) + log |dp/de_p| + sum s - sum log R_ii(p)],

whose gradient goes through mode and `R`, which hold first and second derivatives of the density: a program of its own,
by automatic differentiation, one for each model, whatever its data.

Where the step begins, `x0 = m + B p`, is no parameter: it is the line through the modes that the step itself finds at
draws of `p`, three times over, and matters only as far as one step leaves something open.

Draws are whitened and antithetic, so the noise of rows is orthogonal to that of hyperparameters and to its squares and
products, and neither `c`, `s` nor the hyperparameters can fit chance correlations. See `conditionally_structured.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core.keys import host_generator
from vbppl.core.numerics.draws import fresh_draws
from vbppl.core.programs.compiling import compiler_options, in_full_precision, on_accelerator
from vbppl.core.pytree import pytree
from vbppl.core.types import AnyArray, Array
from vbppl.core.watch import Watch
from vbppl.guides.gaussian import FullRank
from vbppl.guides.layers.conditional_laplace import ConditionalLaplace
from vbppl.guides.layers.newton_step import NewtonStep, solved
from vbppl.inference.deterministic.beyond.conditionally_structured import (
    Evaluate,
    Family,
    Search,
    solved_from_full_rank,
)
from vbppl.inference.deterministic.beyond.hessian_blocks import LOOKS, blocks_of, predicted_gain
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.solution import Mode, Solution
from vbppl.target.batched import Density, points_side_by_side
from vbppl.target.target import Target

LINES, ROUNDS = 256, 3  # draws of the hyperparameters, and how often a line is drawn through the modes there
WAY, VALLEY = 33, 1.0  # points on the way from another mode, and the nats by which the density may fall there


@pytree
class Nested:
    """What stays as it is: the guide with its layers, the units of the hyperparameters, and where the step begins.

    Attributes:
      guide: the family.
      loc: of the hyperparameters, in the order of the layers, in a Gaussian fit.
      factor: of their covariance there, lower triangular.
      begins: "mean", "slope" and "log_sd" of the Newton step.
    """

    guide: ConditionalLaplace
    loc: AnyArray
    factor: AnyArray
    begins: dict[str, Any]

    @property
    def step(self) -> NewtonStep:
        """The layer of the rows."""
        return self.guide.layers[-1]  # pyright: ignore[reportReturnType] -- where there are blocks, the last is one

    def psis(self, x: AnyArray, sizes: tuple[int, ...]) -> tuple[Any, ...]:
        """The layers' parameters from a flat vector: in a compiled program, or on the host."""
        xp, size = x.__array_namespace__(), self.factor.shape[-1]
        parts, ends = [], np.cumsum(sizes)
        for start, stop in zip([0, *ends], ends):
            parts.append(x[int(start) : int(stop)])
        move, diagonal, below, slope, bow, _, bend, shift, log_scale = parts
        # `M`, lower triangular, by where each of its numbers stands.
        at = np.full((size, size), -1)
        at[np.tril_indices(size, -1)] = np.arange(size, size * (size + 1) // 2)
        at[np.diag_indices(size)] = np.arange(size)
        inner = xp.concatenate([xp.exp(diagonal), below, xp.zeros_like(x[:1])])[at]
        loc, factor = self.loc + self.factor @ move, self.factor @ inner
        log_sd = xp.log(factor[np.diag_indices(size)])
        unit = xp.tril(factor * xp.exp(-log_sd)[:, None], -1)
        drivers = len(self.guide.layers[0].drivers)  # pyright: ignore[reportAttributeAccessIssue] -- a Conditional
        shape = (size - drivers, drivers)
        frame = xp.stack([loc, xp.log((factor**2).sum(-1)) / 2])
        return (
            {"slope": slope.reshape(shape), "bow": bow.reshape(shape)},
            xp.concatenate([xp.stack([loc, log_sd]), unit]),
            xp.concatenate([frame, bend.reshape(3, size)]),
            {**self.begins, "shift": shift, "log_scale": log_scale},
        )


class NestedFamily:
    """The parameters in a flat vector, and the bound by the compiled program; counts what it was asked for."""

    def __init__(self, density: Density, target: Target, nested: Nested, hyper: Family):
        """The family on a target, whose compiled programs are timed by its density."""
        self.nested, self._target, self._hyper, self._density = nested, target, hyper, density
        self.gradients = 0

    @property
    def dim(self) -> int:
        """How many means come first among the parameters: those of the hyperparameters."""
        return self._hyper.dim

    @property
    def sizes(self) -> list[int]:
        """How many numbers there are of each kind: as of `Family`, then shifts and log scales of rows."""
        return [*self._hyper.sizes, *[len(self.nested.step.rows)] * 2]

    @property
    def metric(self) -> np.ndarray:
        """An inverse Hessian's diagonal, right where the density is normal."""
        return np.concatenate([self._hyper.metric, np.repeat([1.0, 0.5], self.sizes[-1])])

    def phi(self, x: np.ndarray, dtype: Any) -> dict[str, Any]:
        """The parameters as the guide has them."""
        psis = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), self.nested.psis(x, tuple(self.sizes)))
        return {"base": np.zeros((2, self._target.dim), dtype), "layers": psis}

    def log_weights(self, evaluate: Evaluate, x: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """`log p - log q` at draws, `(draws,)`, without the normals' constant."""
        z, log_det = self.nested.guide.bend(self.phi(x, np.float64), noise, self._target)
        self.gradients += len(noise) * (1 + self.nested.step.width)
        return evaluate(np.asarray(z))[0] + log_det + (noise**2).sum(axis=1) / 2

    def bound(self, evaluate: Evaluate, x: np.ndarray, noise: np.ndarray) -> tuple[float, np.ndarray]:
        """The bound on these draws, without the normals' constant, and its gradient in `x`."""
        dtype, sizes = jnp.result_type(float), tuple(self.sizes)
        side = math.gcd(len(noise), points_side_by_side(self._target.data_size, on_accelerator()))
        nested = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), self.nested)
        asked = nested, self._target, x.astype(dtype), noise.astype(dtype), sizes, side
        with self._density.timed("nested", len(noise), sizes, side):
            value, gradient = (np.asarray(each, np.float64) / len(noise) for each in _program()(*asked))
        # The density and its gradient; and these and the products with its Hessian at the step's beginning, twice.
        self.gradients += len(noise) * (1 + 2 * (1 + self.nested.step.width))
        return float(value), gradient


@functools.cache
def _program() -> Any:
    """Compiled for the device at hand, once it is known."""
    return jax.jit(_total, static_argnums=(4, 5), compiler_options=compiler_options())


def _total(
    nested: Nested, target: Target, x: Array, noise: Array, sizes: tuple[int, ...], side: int
) -> tuple[Array, Array]:
    """The sum of the bound's terms over draws, and its gradient, in blocks of draws that fit the cache."""

    def one(psis: Any, e: Array) -> Array:
        z, total = e, jnp.zeros((), e.dtype)
        for layer, psi in zip(nested.guide.layers, psis):
            z, log_det = layer.forward_and_log_det(psi, z, target)
            total = total + log_det
        with in_full_precision():
            return target.run(z).log_density() + total

    def some(x: Array, block: Array) -> Array:
        return jax.vmap(one, in_axes=(None, 0))(nested.psis(x, sizes), block).sum()

    def add(found: Any, block: Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, found, jax.value_and_grad(some)(x, block)), None

    nothing = jnp.zeros((), x.dtype), jnp.zeros_like(x)
    return jax.lax.scan(add, nothing, noise.reshape(-1, side, noise.shape[-1]))[0]


class NestedSearch(Search):
    """From a Gaussian to a conditional Laplace guide.

    Attributes:
      promised: the nats by which it is predicted to gain; not a number where there are no blocks.
    """

    words, stage = "a conditional Laplace guide", "rows"

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Those in which all but the hyperparameters falls apart; none where it does not."""
        last = self.guide.layers[-1]
        return last.blocks if isinstance(last, NewtonStep) else ()

    def _made(self) -> tuple[Any, Any]:
        rng, gradient = host_generator(self.raw, "blocks"), lambda z: self.evaluate(z)[1]
        self.promised, blocks = np.nan, ()
        if self._goes_on:
            blocks = blocks_of(self.target, self._normal, gradient, rng.standard_normal(self.target.dim))
        guide = ConditionalLaplace().over(self.target, blocks)
        layer = guide.layers[0]
        hyper = Family.around(layer.drivers, layer.driven, (), self._normal)  # pyright: ignore[reportAttributeAccessIssue] -- a Conditional
        if not blocks:
            return guide, hyper
        noise = fresh_draws(rng, LOOKS, self.target.dim)
        self.promised = predicted_gain(blocks, self._normal, gradient, noise)
        nested = Nested(guide, hyper.loc, hyper.factor, self._first_line(guide, hyper))
        return guide, NestedFamily(self.density, self.target, nested, hyper)

    def climbed(self, watch: Watch) -> tuple[Solution, np.ndarray]:
        if self.blocks:
            self._draw_lines()
        solution, x = super().climbed(watch)
        return self._with_modes(solution), x

    def _with_modes(self, solution: Solution) -> Solution:
        """The same, after a look which of the modes that restarts of the Gaussian met are none in this guide's noise.

        As restarts have it, what lies apart is another mode only if the density falls on the way. In coordinates that a
        hierarchy bends most ends of restarts lie on one ridge, and straight ways between them do not.
        """
        modes, phi, guide = solution.other_modes, solution.phi, solution.guide
        if not modes.found or not self.blocks:
            return solution

        def is_apart(mode: Mode) -> bool:
            e, _ = guide.straighten(phi, mode.place[:1], self.target)
            z, log_det = guide.bend(phi, np.linspace(1, 0, WAY)[:, None] * np.asarray(e, np.float64), self.target)
            height = self.evaluate(np.asarray(z))[0] + log_det
            return not height.min() >= height[0] - VALLEY

        found = tuple(mode for mode in modes.found if is_apart(mode))
        return dataclasses.replace(solution, other_modes=dataclasses.replace(modes, found=found))

    def _plain(self, noise: np.ndarray) -> np.ndarray:
        loc, factor = self._normal
        log_det = np.linalg.slogdet(factor)[1]
        return self.evaluate(loc + noise @ factor.T)[0] + log_det + (noise**2).sum(axis=1) / 2

    def _first_line(self, guide: ConditionalLaplace, hyper: Family) -> dict[str, np.ndarray]:
        """The Gaussian's own: mean of rows given hyperparameters, and their conditional sds."""
        rows = guide.layers[-1].rows  # pyright: ignore[reportAttributeAccessIssue] -- a NewtonStep
        order, size = np.concatenate([hyper.order, rows]), len(hyper.order)
        loc = self._normal[0][order]
        factor = np.asarray(FullRank().factor(FullRank().of(loc, self._normal[1][order])))
        slope = np.linalg.solve(factor[:size, :size].T, factor[size:, :size].T).T
        sd = np.linalg.norm(factor[size:, size:], axis=1)
        return {"mean": loc[size:] - slope @ loc[:size], "slope": slope, "log_sd": np.log(sd)}

    def _draw_lines(self) -> None:
        """Move the beginning of the step to the line through the modes that it finds."""
        nested, step = self.family.nested, self.family.nested.step
        noise = fresh_draws(host_generator(self.raw, "modes"), LINES, len(nested.loc))
        given = nested.loc + noise @ nested.factor.T
        for _ in range(ROUNDS):
            psi = {**nested.begins, "shift": np.zeros(len(step.rows)), "log_scale": np.zeros(len(step.rows))}
            mode, factor = step.conditionals(psi, given, self.target)
            fine = np.isfinite(mode).all(axis=1)
            mean = mode[fine].mean(axis=0)
            by_noise = np.linalg.lstsq(noise[fine], mode[fine] - mean, rcond=None)[0].T
            slope = np.linalg.solve(nested.factor.T, by_noise.T).T
            inverse = solved(factor[..., None, :, :], np.broadcast_to(np.eye(step.width), factor.shape))
            variance = np.median((inverse**2).sum(axis=-1), axis=0)
            sd = np.exp(nested.begins["log_sd"]) * np.sqrt(variance.ravel()[np.flatnonzero(step.table[1])])
            begins = {"mean": mean - slope @ nested.loc, "slope": slope, "log_sd": np.log(sd)}
            nested = dataclasses.replace(nested, begins=begins)
        self.family.gradients += ROUNDS * LINES * (1 + step.width)
        self.family.nested = nested


def solve_conditional_laplace(problem: Problem, watch: Watch = Watch()) -> list[Solution]:
    """Fit a conditional Laplace guide to each target, from the full-rank Gaussian.

    Raises:
      ModelError: fixed draws are asked for on which there is no maximum.
    """
    return solved_from_full_rank(problem, watch, NestedSearch)
