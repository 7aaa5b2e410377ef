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
from vbppl.core.programs.compiling import compiler_options, in_full_precision
from vbppl.core.programs.rerolling.rerolled import rerolled
from vbppl.core.types import Array
from vbppl.core.watch import Watch
from vbppl.guides.gaussian import FullRank
from vbppl.guides.layers.conditional_laplace import ConditionalLaplace
from vbppl.guides.layers.newton_step import NewtonStep
from vbppl.inference.deterministic.beyond.conditionally_structured import (
    Evaluate,
    Family,
    Search,
    solved_from_full_rank,
)
from vbppl.inference.deterministic.beyond.hessian_blocks import LOOKS, blocks_of, predicted_gain
from vbppl.inference.deterministic.problem import Problem
from vbppl.inference.solution import Mode, Solution
from vbppl.target.batched import BatchedDensity
from vbppl.target.target import Target

LINES, ROUNDS = 256, 3  # draws of the hyperparameters, and how often a line is drawn through the modes there
WAY, VALLEY = 33, 1.0  # points on the way from another mode, and the nats by which the density may fall there


@dataclasses.dataclass(frozen=True)
class Nested:
    """What stays as it is: the guide with its layers, the units of the hyperparameters, and where the step begins.

    Attributes:
      guide: the family.
      hyper: that of the hyperparameters by themselves, in the order of the layers.
      begins: "mean", "slope" and "log_sd" of the Newton step.
    """

    guide: ConditionalLaplace
    hyper: Family
    begins: dict[str, Any]

    @property
    def step(self) -> NewtonStep:
        """The layer of the rows."""
        return self.guide.layers[-1]  # pyright: ignore[reportReturnType] -- where there are blocks, the last is one


class NestedFamily:
    """The parameters in a flat vector, and the bound by the compiled program; counts what it was asked for."""

    def __init__(self, density: BatchedDensity, target: Target, nested: Nested, draws: int):
        """The family on a target, whose compiled program, for up to so many draws, is timed by its density."""
        self.nested, self._target, self._density, self._draws = nested, target, density, draws
        self.gradients = 0

    @property
    def dim(self) -> int:
        """How many means come first among the parameters: those of the hyperparameters."""
        return self.nested.hyper.dim

    @property
    def sizes(self) -> list[int]:
        """How many numbers there are of each kind: as of `Family`, then shifts and log scales of rows."""
        return [*self.nested.hyper.sizes, *[len(self.nested.step.rows)] * 2]

    @property
    def preconditioner(self) -> np.ndarray:
        """An inverse Hessian's diagonal, right where the density is normal."""
        return np.concatenate([self.nested.hyper.preconditioner, np.repeat([1.0, 0.5], self.sizes[-1])])

    def _split(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The parameters of the hyperparameters, shifts, and log scales."""
        rows = self.sizes[-1]
        return x[: -2 * rows], x[-2 * rows : -rows], x[-rows:]

    def phi(self, x: np.ndarray, dtype: Any) -> dict[str, Any]:
        """The parameters as the guide has them."""
        hyper, shift, log_scale = self._split(x)
        layers = self.nested.hyper.phi(hyper, dtype)["layers"]
        step = {**self.nested.begins, "shift": shift, "log_scale": log_scale}
        step = {name: np.asarray(part, dtype) for name, part in step.items()}
        return {"base": np.zeros((2, self._target.dim), dtype), "layers": (*layers, step)}

    def bent(self, x: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where noise goes, `(draws, dim)`, and log |det| of the way."""
        self.gradients += len(noise) * (1 + self.nested.step.products)
        z, log_det = self.nested.guide.bend(self.phi(x, np.float64), noise, self._target)
        return np.asarray(z, np.float64), np.asarray(log_det, np.float64)

    def bound(self, evaluate: Evaluate, x: np.ndarray, noise: np.ndarray) -> tuple[float, np.ndarray]:
        """The bound on these draws, without the normals' constant, and its gradient in `x`."""
        hyper, found = self._split(x)[0], list[np.ndarray]()

        def evaluate_rows(given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            value, slope, *others = self.with_rows(given, x, noise)
            found.extend(each / len(noise) for each in others)
            return value, slope

        value, gradient = self.nested.hyper.bound(evaluate_rows, hyper, noise[:, list(self.nested.step.given)])
        return value, np.concatenate([gradient, *found])

    def with_rows(self, given: np.ndarray, x: np.ndarray, noise: np.ndarray) -> list[np.ndarray]:
        """What `_with_rows` says of hyperparameters `(draws, hypers)` with the rows that `noise` makes."""
        step, (_, shift, log_scale), dtype = self.nested.step, self._split(x), jnp.result_type(float)
        psi = {**self.nested.begins, "shift": shift, "log_scale": log_scale}
        psi = {name: np.asarray(part, dtype) for name, part in psi.items()}
        draws, side = self._draws, math.gcd(self._draws, step.side(self._target))
        points = [_filled(part, draws, dtype) for part in (given, noise[:, step.rows])]
        with self._density.timed("nested", draws, side):
            asked = step, psi, self._target, *points, np.int32(-(-len(noise) // side)), side
            value, slope, *others = (np.asarray(each, np.float64) for each in _program()(*asked))
        # The density and its gradient; and these and the products with its Hessian at the step's beginning, twice.
        self.gradients += len(noise) * (1 + 2 * (1 + step.products))
        return [value[: len(noise)], slope[: len(noise)], *others]


def _filled(points: np.ndarray, count: int, dtype: Any) -> np.ndarray:
    """So many points, the last of them zeros."""
    return np.concatenate([points, np.zeros((count - len(points), points.shape[1]))]).astype(dtype)


@functools.cache
def _program() -> Any:
    """Compiled for the device at hand, once it is known."""
    return jax.jit(_with_rows, static_argnums=6, compiler_options=compiler_options())


def _with_rows(
    step: NewtonStep, psi: dict[str, Array], target: Target, given: Array, noise: Array, turns: Array, side: int
) -> tuple[Array, Array, Array, Array]:
    """At hyperparameters and noise of the rows, `(draws, ...)`, the log density where these lead and log |dx/de|.

    With its gradient by the hyperparameters, and those by shifts and log scales, summed over the first `turns` blocks
    of draws, which fit the cache; others are not looked at.
    """

    def one(given: Array, noise: Array, shift: Array, log_scale: Array) -> Array:
        x, log_det = step.rows_given({**psi, "shift": shift, "log_scale": log_scale}, given, noise, target)
        with in_full_precision():
            return rerolled(lambda given, x: target.run(step.apart(given, x, target)).log_density())(given, x) + log_det

    def some(given: Array, shift: Array, log_scale: Array, noise: Array) -> tuple[Array, Array]:
        values = jax.vmap(one, (0, 0, None, None))(given, noise, shift, log_scale)
        return values.sum(), values

    def add(i: Any, found: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        blocks = [jax.lax.dynamic_slice_in_dim(part, i * side, side) for part in (given, noise)]
        gradient = jax.value_and_grad(some, (0, 1, 2), has_aux=True)
        (_, values), (slope, shift, log_scale) = gradient(blocks[0], psi["shift"], psi["log_scale"], blocks[1])
        put = lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, i * side, 0)  # noqa: E731
        return put(found[0], values), put(found[1], slope), found[2] + shift, found[3] + log_scale

    nothing = jnp.zeros(len(given), noise.dtype), jnp.zeros_like(given), *(jnp.zeros_like(psi["shift"]),) * 2
    return jax.lax.fori_loop(0, turns, add, nothing)


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
        begins = self._first_line(guide, hyper)
        nested = Nested(guide, dataclasses.replace(hyper, order=np.arange(len(hyper.order))), begins)
        return guide, NestedFamily(self.density, self.target, nested, self.draws)

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
        nested, step, hyper = self.family.nested, self.family.nested.step, self.family.nested.hyper
        rng = host_generator(self.raw, "modes")
        noise, units = fresh_draws(rng, LINES, len(hyper.loc)), rng.standard_normal((LINES, len(step.rows)))
        given = hyper.loc + noise @ hyper.factor.T
        for _ in range(ROUNDS):
            psi = {**nested.begins, "shift": np.zeros(len(step.rows)), "log_scale": np.zeros(len(step.rows))}
            mode, factor = step.conditionals(psi, given, self.target)
            fine = np.isfinite(mode).all(axis=1)
            mean = mode[fine].mean(axis=0)
            by_noise = np.linalg.lstsq(noise[fine], mode[fine] - mean, rcond=None)[0].T
            slope = np.linalg.solve(hyper.factor.T, by_noise.T).T
            sd = np.exp(nested.begins["log_sd"]) * np.sqrt(step.variances(factor, units))
            begins = {"mean": mean - slope @ hyper.loc, "slope": slope, "log_sd": np.log(sd)}
            nested = dataclasses.replace(nested, begins=begins)
        self.family.gradients += ROUNDS * LINES * (1 + step.products)
        self.family.nested = nested


def solve_conditional_laplace(problem: Problem, watch: Watch = Watch()) -> list[Solution]:
    """Fit a conditional Laplace guide to each target, from the full-rank Gaussian.

    Raises:
      ModelError: fixed draws are asked for on which there is no maximum.
    """
    return solved_from_full_rank(problem, watch, NestedSearch)
