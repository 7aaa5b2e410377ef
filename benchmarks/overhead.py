"""One step of the compiled loop against the best loop we can write by hand: `python -m benchmarks overhead`.

Both do the same job: the same draws (bit for bit), the same flat parameters, the same annealed
Adam, the bound at every step; the bounds of the first steps are compared before anything is
timed. The loop by hand has the density written out (`models.py`), and nothing that is there for the user's peace: it does not look for
steps that are not finite, does not average the iterates, and its number of steps is fixed.

Times are medians over repetitions in which the two take turns, so that a busy machine slows both;
the ratio is the median of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import models
from vbppl import engine
from vbppl.engine import CHUNK, Schedule, Stochastic
from vbppl.guides.gaussian import FullRank, MeanField
from vbppl.keys import host_generator, raw_key
from vbppl.target import Target

ROUND = 10_000  # steps over which the step size falls, in both


def by_hand(log_density: Callable, full_rank: bool, draws: int, strata: np.ndarray) -> Callable:
    """A compiled function `(carry, first step, key, data) -> (carry, bounds)` that makes `CHUNK` steps."""

    def noise(key, step):
        key = jax.random.fold_in(key, step)
        if draws == 1:
            return jax.random.normal(key, strata.shape)
        uniform = (strata / draws + jax.random.uniform(key, strata.shape[1:])) % 1.0
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

    @jax.jit
    def run(carry, first, key, data):
        steps = first + jnp.arange(CHUNK)
        rate = 0.1 * (0.01 + 0.99 * (1 + jnp.cos(jnp.pi * steps / ROUND)) / 2) / (1 - 0.9 ** (steps + 1))
        unbias = 1 / (1 - 0.99 ** (steps + 1))

        def step(carry, ahead):
            (phi, m, v, mean), (noise, rate, unbias, weight) = carry, ahead
            value, gradient = jax.value_and_grad(loss)(phi, noise, data)
            m, v = 0.9 * m + 0.1 * gradient, 0.99 * v + 0.01 * gradient**2
            phi = phi - rate * m / (jnp.sqrt(v * unbias) + 1e-8)
            return (phi, m, v, mean + weight * (phi - mean)), -value

        weight = 1 / jnp.maximum(steps - ROUND // 2 + 1, 1)
        return jax.lax.scan(step, carry, (jax.vmap(noise, (None, 0))(key, steps), rate, unbias, weight))

    return run


class ByHand:
    """The loop by hand, ready to go on."""

    def __init__(self, case, guide, draws, strata, phi):
        self.run = by_hand(case.log_density, isinstance(guide, FullRank), draws, strata)
        self.carry, self.first, self.data = (phi, 0 * phi, 0 * phi, phi), 0, case.data
        self.key = jax.random.fold_in(jax.random.key(0), zlib.crc32(b"noise"))

    def chunk(self):
        """`CHUNK` more steps; the bounds."""
        self.carry, bounds = self.run(self.carry, np.int32(self.first), self.key, self.data)
        self.first += CHUNK
        return bounds.block_until_ready()


class Engine:
    """The compiled loop of vbppl, ready to go on."""

    def __init__(self, target, guide, draws, strata, phi):
        from vbppl.objectives import ClosedForm
        from vbppl.optimise import AnnealedAdam
        from vbppl.streams import Rows
        problem = engine.Problem(target, guide, ClosedForm(), AnnealedAdam(), Rows(), strata, raw_key(0), draws)
        self.problem = jax.device_put(problem)
        self.state = engine._first_state(problem, {"guide": phi, "model": {}})
        self.schedule = jax.device_put(Schedule.of(0, ROUND, 1.0))

    def chunk(self):
        """`CHUNK` more steps; the bounds."""
        self.state, bounds = engine._run_chunk(self.problem, self.state, np.int32(CHUNK), self.schedule, False)
        return bounds.block_until_ready()

def timed(loop):
    wall, cpu = time.perf_counter(), time.process_time()
    loop.chunk()
    return (time.perf_counter() - wall) / CHUNK * 1e6, (time.process_time() - cpu) / CHUNK * 1e6


def measured(case, guide, draws, repetitions):
    target = Target.of(case.model)
    strata = guide.strata(target, draws, host_generator(raw_key(0), "strata"))
    phi = guide.init(target, np.zeros(target.dim, np.float32))
    ours, hand = Engine(target, guide, draws, strata, phi), ByHand(case, guide, draws, strata, phi)
    a, b = np.asarray(ours.chunk()), np.asarray(hand.chunk())
    print(abs(a - b).max(), a[-1])
    ratios, rows = [], []
    for _ in range(repetitions):
        (w1, c1), (w2, c2) = timed(ours), timed(hand)
        rows.append((w1, w2, c1, c2))
    r = np.array(rows)
    med = np.median(r, 0)
    print(f"| {case.name} | {type(guide).__name__} | {draws} | {med[1]:.2f} | {med[0]:.2f} | {np.median(r[:,0]/r[:,1]):.3f} | cpu {np.median(r[:,2]/r[:,3]):.3f} | min {r[:,0].min()/r[:,1].min():.3f}", flush=True)

if __name__ == "__main__":
    import sys
    for case in models.cases():
        if len(sys.argv)>1 and sys.argv[1] not in case.name: continue
        for guide in (MeanField(), FullRank()):
            for draws in (1, 16):
                measured(case, guide, draws, 9 if "logis" in case.name else 41)
