"""Markov chains from where a fit ended: BlackJAX's NUTS where the posterior is nearly standard normal.

The chains move in `e`, where `z = loc + L e` with the mean and the covariance `L L^T` of the fit, so that their metric
is the identity and `L` is data. They advance side by side, `STEPS` at a call of one program, for which all else is data
too: the frame, the step size, the acceptance aimed at, whether it adapts. A second run of equal shapes compiles none.

In the warm-up the step size is adapted by dual averaging (Hoffman and Gelman 2014, "The No-U-Turn Sampler") on the
average acceptance of all chains. After each window of it the frame is set anew, from draws and gradients of all chains,
by the geometric mean of the covariance of `e` and the inverse covariance of its gradients: of a normal target that is
its covariance, however few the draws are, and of others the metric that minimises the Fisher divergence (Seyboldt,
Carlson and Carpenter 2024, "Preconditioning Hamiltonian Monte Carlo by Minimizing Fisher Divergence"). So a guide that
is too narrow, or has no correlations, slows the first steps of the warm-up only.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vbppl.core import devices
from vbppl.core.keys import wrap
from vbppl.core.programs.compiling import compiler_options, in_full_precision, on_accelerator
from vbppl.core.types import Array
from vbppl.core.watch import Watch, last
from vbppl.target.batched import evaluate
from vbppl.target.target import Target

STEPS = 50  # of each chain in a call
WINDOWS = 1, 1, 2, 2  # calls in the windows of the warm-up; after each but the last the frame is set anew
FIRST_STEP = 0.5  # in units of the posterior's sds
PRIOR = 5.0  # draws that say that a frame is right as it is
DRAWS_A_DIM = 4  # of a window for each dim, below which only the scales of a frame are set anew
MISSING = 'vb.refine needs BlackJAX, which is not installed: pip install "vbppl[refine]" (or pip install blackjax).'


class Frame(NamedTuple):
    """`z = loc + L e`: `loc` `(dim,)` and `L`, `(dim, dim)`, or `(dim,)` where it is diagonal."""

    loc: np.ndarray
    factor: np.ndarray

    def at(self, e: Any) -> Any:
        """The points that belong to `e`, `(..., dim)`."""
        return self.loc + (e * self.factor if self.factor.ndim == 1 else e @ self.factor.T)

    def residual(self, z: np.ndarray) -> np.ndarray:
        """The `e` that belong to points `(points, dim)`."""
        off = z - self.loc
        return off / self.factor if self.factor.ndim == 1 else np.linalg.solve(self.factor, off.T).T

    def slope(self, gradient: np.ndarray) -> np.ndarray:
        """The gradient in `e` of what has these gradients in `z`, `(points, dim)`."""
        return gradient * self.factor if self.factor.ndim == 1 else gradient @ self.factor

    def gradient(self, slope: np.ndarray) -> np.ndarray:
        """The gradient in `z` of what has these in `e`, `(points, dim)`."""
        return slope / self.factor if self.factor.ndim == 1 else np.linalg.solve(self.factor.T, slope.T).T

    def refined(self, e: np.ndarray, slope: np.ndarray) -> Frame:
        """The frame in which draws and their gradients, `(draws, dim)` each, are as those of a standard normal."""
        draws, dim = e.shape
        mean, kept = e.mean(axis=0), PRIOR / (draws + PRIOR)
        e, slope = e - mean, slope - slope.mean(axis=0)
        if self.factor.ndim == 1 or draws < DRAWS_A_DIM * dim:
            both = ((1 - kept) * (x**2).mean(axis=0) + kept for x in (e, slope))
            return Frame(self.at(mean), self.factor * (next(both) / next(both)) ** 0.25)
        covariance, of_slopes = ((1 - kept) * x.T @ x / draws + kept * np.eye(dim) for x in (e, slope))
        # X G X = C for G = K K^T: X = K^-T (K^T C K)^(1/2) K^-1.
        root = np.linalg.cholesky(of_slopes)
        values, vectors = np.linalg.eigh(root.T @ covariance @ root)
        half = np.linalg.solve(root.T, vectors * np.maximum(values, 0.0) ** 0.25)
        return Frame(self.at(mean), self.factor @ half)


class _Path(NamedTuple):
    """What a call tells of each step, `(chains, steps, ...)` each."""

    e: Any
    log_p: Any
    slope: Any
    diverged: Any
    gradients: Any
    acceptance: Any


@dataclasses.dataclass(frozen=True)
class Chains:
    """Where chains stand, and what they have drawn since the warm-up.

    Attributes:
      z: the draws, `(chains, draws, dim)`, float64.
      log_p: the log density there, `(chains, draws)`, in nats.
      diverged: which of them are the ends of divergent paths, `(chains, draws)`.
      acceptance: the average acceptance probability of each, `(chains, draws)`.
      step_size: in units of the frame.
      steps: of each chain, the warm-up included.
      gradients: of all chains.
      frame: in which they move.
      seconds: since the first step.
      cut_short: "interrupted" or "deadline", or "" where they came to their end.
      of: the steps that each is to make.
    """

    z: np.ndarray
    log_p: np.ndarray
    diverged: np.ndarray
    acceptance: np.ndarray
    step_size: float
    steps: int
    gradients: int
    frame: Frame
    seconds: float = 0.0
    cut_short: str = ""
    of: int | None = None

    stage = "chains"

    def again(self, target: Target, n: int, acceptance: float, raw_key: np.ndarray, watch: Watch) -> Chains:
        """Other draws in the place of these, from where these end; a cut in the warm-up leaves these."""
        other = sample(target, self.z[:, -1], self.frame, n, np.asarray(raw_key) ^ np.uint32(1), acceptance, watch)
        costs = {name: getattr(self, name) + getattr(other, name) for name in ("steps", "gradients", "seconds")}
        return dataclasses.replace(other if len(other) else self, cut_short=other.cut_short, **costs)

    def __len__(self) -> int:
        return self.z.shape[1]

    def after(self, path: _Path, log_step_size: Any, began: float) -> Chains:
        """The same after one more call."""
        return dataclasses.replace(
            self,
            step_size=float(np.exp(log_step_size)),
            steps=self.steps + STEPS,
            gradients=self.gradients + int(path.gradients.sum()),
            seconds=time.perf_counter() - began,
        )

    def with_draws(self, path: _Path, frame: Frame, n: int) -> Chains:
        """The same with the draws of a call, as far as there are to be `n`."""
        new = {
            "z": frame.at(path.e),
            "log_p": path.log_p,
            "diverged": path.diverged.astype(bool),
            "acceptance": path.acceptance,
        }
        left = n - len(self)
        joined = {name: np.concatenate([getattr(self, name), part[:, :left]], axis=1) for name, part in new.items()}
        return dataclasses.replace(self, frame=frame, **joined)

    @property
    def step(self) -> int:
        """As `Progress` has it."""
        return self.steps

    @property
    def said(self) -> str:
        """What a person is told besides the steps."""
        return f"{len(self)} draws, {self.diverged.sum()} divergences"


def blackjax() -> Any:
    """The kernel of NUTS, its state and dual averaging, of an optional dependency.

    Raises:
      ModuleNotFoundError: it is not installed; the message says how it is.
    """
    try:
        from blackjax.adaptation import step_size
        from blackjax.mcmc import hmc, nuts
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(MISSING, name=error.name) from error
    return nuts.build_kernel(), hmc.HMCState, step_size


def sample(
    target: Target, start: np.ndarray, frame: Frame, n: int, raw_key: np.ndarray, acceptance: float, watch: Watch
) -> Chains:
    """`n` draws of each of the chains that start at `start`, `(chains, dim)`, after a warm-up."""
    chains, dim = start.shape
    none = np.zeros((chains, 0))
    steps = STEPS * (sum(WINDOWS) + -(-n // STEPS))
    first = Chains(np.zeros((chains, 0, dim)), none, none.astype(bool), none, FIRST_STEP, 0, 0, frame, of=steps)
    walk = _walk(target, start, first, n, raw_key, acceptance)
    found, cut_short = last(walk, first, watch, lambda now: now)
    return dataclasses.replace(found, cut_short=cut_short if len(found) < n else "")


def _walk(
    target: Target, start: np.ndarray, now: Chains, n: int, raw_key: np.ndarray, acceptance: float
) -> Iterator[Chains]:
    """What `sample` has after each call of the program."""
    began, frame, (program, new_tuning) = time.perf_counter(), now.frame, _program()
    log_p, gradient = evaluate(target, start)
    state: Any = (frame.residual(start), log_p, frame.slope(gradient))
    target, dtype = devices.put(target), jnp.result_type(float)

    def call(adapts: bool) -> tuple[Any, Any, Any]:
        numbers = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), (state, tuning, frame, acceptance))
        with jax.transfer_guard("allow"):
            found = program(target, *numbers, raw_key, np.int32(now.steps), np.bool_(adapts))
            return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found)

    tuning = new_tuning(now.step_size)
    for number, window in enumerate(WINDOWS):
        paths = []
        for _ in range(window):
            state, tuning, path = call(True)
            paths.append(path)
            now = now.after(path, tuning.log_step_size, began)
            yield now
        if number < len(WINDOWS) - 1:
            e, slope = (
                np.concatenate([getattr(path, name) for path in paths], axis=1).reshape(-1, start.shape[1])
                for name in ("e", "slope")
            )
            before, frame = frame, frame.refined(e, slope)
            at, log_p, gradient = state
            state = (frame.residual(before.at(at)), log_p, frame.slope(before.gradient(gradient)))
            tuning = new_tuning(float(np.exp(tuning.log_step_size_avg)))
    while len(now) < n:
        state, tuning, path = call(False)
        now = now.after(path, tuning.log_step_size_avg, began).with_draws(path, frame, n)
        yield now


@functools.cache
def _program() -> Any:
    """`STEPS` steps of all chains as compiled, and how the tuning of a step size begins."""
    kernel, state, step_size = blackjax()

    def new_tuning(first: float) -> Any:
        log_step = np.log(first)
        return step_size.DualAveragingAdaptationState(log_step, log_step, 1.0, 0.0, np.log(10) + log_step)

    def steps(
        target: Target,
        start: Any,
        tuning: Any,
        frame: Frame,
        acceptance: Array,
        raw_key: Array,
        call: Array,
        adapts: Array,
    ) -> Any:
        _, update, _ = step_size.dual_averaging_adaptation(acceptance)

        def log_density(e: Array) -> Array:
            with in_full_precision():
                return target.log_density(frame.at(e))

        def step(carry: Any, key: Array) -> Any:
            now, tuning = carry
            size = jnp.exp(jnp.where(adapts, tuning.log_step_size, tuning.log_step_size_avg))
            one = lambda own: kernel(*own, log_density, size, jnp.ones_like(frame.loc))  # noqa: E731
            # A processor takes one chain after the other: as fast, no chain waits for the longest path of all, and
            # without the selects of a batched loop it compiles in two thirds of the time.
            every = functools.partial(jax.lax.map, one) if not on_accelerator() else jax.vmap(one)
            now, info = every((jax.random.split(key, len(now.position)), now))
            tuned = update(tuning, jnp.nan_to_num(info.acceptance_rate).mean())
            tuning = jax.tree.map(lambda new, old: jnp.where(adapts, new, old), tuned, tuning)
            path = (info.is_divergent, info.num_integration_steps, info.acceptance_rate)
            return (now, tuning), _Path(now.position, now.logdensity, now.logdensity_grad, *path)

        keys = jax.random.split(jax.random.fold_in(wrap(raw_key), call), STEPS)
        (end, tuning), path = jax.lax.scan(step, (state(*start), tuning), keys)
        return tuple(end), tuning, jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), path)

    return jax.jit(steps, compiler_options=compiler_options()), new_tuning
