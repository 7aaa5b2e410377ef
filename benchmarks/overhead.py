"""One step of the compiled loop against the best loop we can write by hand: `python -m benchmarks overhead`.

Both do the same job and give the same numbers, which is checked before anything is timed: the same
draws, bit for bit, the same flat parameters, the same annealed Adam, the average of the last
iterates, the bound at every step. The loop by hand is the limit: one `scan` over random numbers
and schedules that were made ahead in one batch, one array of parameters, a density written out for
the flat vector, and no look at anything at run time. Its step for eight schools is 16 fusions, as
many as that of the compiled loop. Dearer were, on eight schools with one draw a step: random numbers
made inside the loop (1.7 times), a look at every step whether its numbers are finite (1.2 times,
7 fusions more), Optax's own Adam (1.08 times, 4 fusions more).

Times are medians over repetitions in which the two take turns, so that a busy machine slows both;
a ratio is the median of the ratios of neighbours. A call of the compiled program counts as well,
spread over its steps.
"""

from __future__ import annotations

import argparse
import math
import time
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine, models
from vbppl.core.keys import host_generator, raw_key
from vbppl.data.shuffle import Minibatches
from vbppl.guides.base import Start
from vbppl.guides.gaussian import FullRank, Gaussian, MeanField
from vbppl.guides.noise import Stratified, orders_of_strata
from vbppl.inference.stochastic import step
from vbppl.inference.stochastic.objectives import ClosedForm
from vbppl.inference.stochastic.optimizers import AnnealedAdam
from vbppl.inference.stochastic.schedule import Phase
from vbppl.inference.stochastic.step import CHUNK
from vbppl.target.target import Target, with_fixed_parameterisations

STEPS = 10_000  # over which the step size falls
BUDGET = 1.5  # seconds for one row of the table, in each loop
HEAD = "| model | guide | draws | by hand, us | vbppl, us | ratio | ratio, CPU time |\n|---|---|--:|--:|--:|--:|--:|"


def by_hand(log_density: Callable, full_rank: bool, draws: int, orders: np.ndarray) -> Callable:
    """A compiled function `(carry, first step, key, data) -> (carry, bounds)` that makes `CHUNK` steps."""

    def noise(key, step):
        key = jax.random.fold_in(key, step)
        if draws == 1:
            return jax.random.normal(key, orders.shape)
        uniform = (orders / draws + jax.random.uniform(key, orders.shape[1:])) % 1.0
        edge = jnp.finfo(uniform.dtype).eps / 4
        return jax.scipy.special.ndtri(jnp.clip(uniform, edge, 1 - 2 * edge))

    def loss(phi, noise, data):
        spread = noise + noise @ jnp.tril(phi[2:], -1).T if full_rank else noise
        z = phi[0] + jnp.exp(phi[1]) * spread
        if draws == 1:
            log_p = log_density(z[0], *data)
        else:
            log_p = jnp.mean(jax.vmap(lambda point: log_density(point, *data))(z))
        entropy = phi.shape[1] / 2 * (1 + math.log(2 * math.pi)) + jnp.sum(phi[1])
        return -(log_p + entropy)

    def step(data, carry, ahead):
        (phi, m, v, mean), (noise, rate, unbias, weight) = carry, ahead
        value, gradient = jax.value_and_grad(loss)(phi, noise, data)
        m, v = 0.9 * m + 0.1 * gradient, 0.99 * v + 0.01 * gradient**2
        # Means move in sds where these are above 1.
        unit = jnp.where(jnp.arange(len(phi))[:, None] == 0, jnp.exp(jnp.maximum(phi[1], 0.0)), 1.0)
        phi = phi - rate * unit * m / (jnp.sqrt(v * unbias) + 1e-8)
        return (phi, m, v, mean + weight * (phi - mean)), -value

    @jax.jit
    def run(carry, first, key, data):
        steps = first + jnp.arange(CHUNK)
        cosine = 0.01 + 0.99 * (1 + jnp.cos(jnp.pi * steps / STEPS)) / 2
        left = [-jnp.expm1((steps + 1) * math.log(decay)) for decay in (0.9, 0.99)]  # 1 - decay^t
        rate, unbias = 0.1 * cosine / left[0], 1 / left[1]
        weight = 1 / jnp.maximum(steps - STEPS // 2 + 1, 1)
        ahead = (jax.vmap(noise, (None, 0))(key, steps), rate, unbias, weight)
        return jax.lax.scan(lambda carry, ahead: step(data, carry, ahead), carry, ahead)

    return run


class ByHand:
    """The loop by hand, at its first step."""

    def __init__(self, case: models.Case, guide: Gaussian, draws: int, orders: np.ndarray, phi: np.ndarray):
        self.run = by_hand(case.log_density, isinstance(guide, FullRank), draws, orders)
        self.carry, self.first, self.data = (phi, 0 * phi, 0 * phi, phi), 0, case.data
        self.key = jax.random.fold_in(jax.random.key(0), zlib.crc32(b"noise"))

    def chunk(self) -> np.ndarray:
        """Make `CHUNK` more steps; the bounds."""
        self.carry, bounds = self.run(self.carry, np.int32(self.first), self.key, self.data)
        self.first += CHUNK
        return np.asarray(bounds)


class Compiled:
    """The compiled loop of vbppl, at its first step."""

    def __init__(self, target: Target, guide: Gaussian, draws: int, orders: np.ndarray, phi: np.ndarray):
        target = with_fixed_parameterisations(target)
        parts = (target, guide, ClosedForm(), AnnealedAdam(), Minibatches(), Stratified(orders), raw_key(0))
        self.setup = jax.device_put(step.Setup(*parts))
        self.position = step.first_position(self.setup, {"guide": phi, "model": target.params})
        self.phase = Phase(0, STEPS, STEPS, STEPS // 2).as_data()

    def chunk(self) -> np.ndarray:
        """Make `CHUNK` more steps; the bounds."""
        found = step.run_chunk(self.setup, self.position, np.int32(CHUNK), self.phase, careful=False)
        self.position, bounds, _ = found
        return np.asarray(bounds)


def compare(case: models.Case, guide: Gaussian, draws: int, budget: float) -> str:
    """A row of the table."""
    target = Target.of(case.model)
    orders = orders_of_strata(host_generator(raw_key(0), "strata"), draws, target.dim)
    phi = guide.init(target, Start(np.zeros(target.dim, jnp.result_type(float))))
    hand, ours = ByHand(case, guide, draws, orders, phi), Compiled(target, guide, draws, orders, phi)
    # The two round differently, and the steps carry the difference on.
    np.testing.assert_allclose(ours.chunk()[:20], hand.chunk()[:20], rtol=1e-4)
    first = seconds(hand)[0]
    pairs = np.array([(seconds(hand), seconds(ours)) for _ in range(int(np.clip(budget / first, 7, 400)))])
    (hand_us, _), (ours_us, _) = np.median(pairs, axis=0) / CHUNK * 1e6
    ratio, cpu_ratio = np.median(pairs[:, 1] / pairs[:, 0], axis=0)
    names = f"{case.name} | {type(guide).__name__} | {draws}"
    return f"| {names} | {hand_us:.2f} | {ours_us:.2f} | {ratio:.2f} | {cpu_ratio:.2f} |"


def seconds(loop: Any) -> tuple[float, float]:
    """Wall and CPU time of a chunk."""
    wall, cpu = time.perf_counter(), time.process_time()
    loop.chunk()
    return time.perf_counter() - wall, time.process_time() - cpu


def main(arguments: list[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser("python -m benchmarks overhead", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="", help="only models whose name contains this")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for each loop and row")
    options = parser.parse_args(arguments)
    print(f"{machine.described()}; microseconds a step\n\n{HEAD}", flush=True)
    for case in models.cases():
        if options.model in case.name:
            for guide in (MeanField(), FullRank()):
                for draws in (1, 16):
                    print(compare(case, guide, draws, options.budget), flush=True)
