"""BlackJAX on the flat log density of the suite's models, as `vb.target` gives it.

Mean-field and full-rank VI: 10,000 steps of Adam at 0.01 with the default of five draws, in one compiled `scan`, which
is how its users make it fast. Pathfinder: its defaults, from a random point; several paths with importance resampling
from eight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import blackjax
import jax
import numpy as np
import optax
from blackjax.vi import fullrank_vi, meanfield_vi, multipathfinder, pathfinder

import vbppl as vb
from benchmarks.machine import Clock
from benchmarks.peers.answer import DRAWS, Answer, Posed, gaussian

STEPS, PATHS = 10_000, 8


def vi(posed: Posed, seed: int, which: Any) -> Answer:
    """`init` at zero and `step` in a scan."""
    clock = Clock()
    target = vb.target(posed.model)
    optimizer = optax.adam(1e-2)
    state = which.init(np.zeros(target.dim, np.float32), optimizer)

    @jax.jit
    def run(state, keys):
        return jax.lax.scan(lambda s, key: (which.step(key, s, target.log_density, optimizer)[0], None), state, keys)[0]

    state = jax.block_until_ready(run(state, jax.random.split(jax.random.key(seed), STEPS)))
    costs = clock.read()
    scale = (
        np.exp(state.rho) if which is meanfield_vi else fullrank_vi._unflatten_cholesky(state.chol_params, target.dim)
    )
    z, log_q = gaussian(state.mu, scale, seed)
    return Answer(z, costs, log_q, 5 * STEPS)


def path(posed: Posed, seed: int) -> Answer:
    """One path; its answer is a Gaussian."""
    clock = Clock()
    target = vb.target(posed.model)
    start = np.random.default_rng(seed).uniform(-2, 2, target.dim).astype(np.float32)
    approximate = jax.jit(lambda key, start: pathfinder.approximate(key, target.log_density, start))
    state, _ = jax.block_until_ready(approximate(jax.random.key(seed), start))
    costs = clock.read()
    z, log_q = pathfinder.sample(jax.random.key(seed + 1), state, DRAWS)
    return Answer(np.asarray(z, np.float64), costs, np.asarray(log_q, np.float64))


def paths(posed: Posed, seed: int) -> Answer:
    """Several, whose draws are weighed; it knows its Pareto k."""
    clock = Clock()
    target = vb.target(posed.model)
    starts = np.random.default_rng(seed).uniform(-2, 2, (PATHS, target.dim)).astype(np.float32)
    fit = blackjax.multipathfinder(target.log_density)
    state, _ = jax.jit(lambda key, starts: fit.init(key, starts, 1_000))(jax.random.key(seed), starts)
    k = float(multipathfinder.psis_weights(state)[1])
    z = jax.block_until_ready(fit.sample(jax.random.key(seed + 1), state, DRAWS))
    costs = clock.read()
    says = "good" if k < 0.7 else f"poor (Pareto k {k:.2f})"
    return Answer(np.asarray(z, np.float64), costs, says=says)


WAYS: dict[str, Callable[[Posed, int], Answer]] = {
    "VI, mean field": lambda posed, seed: vi(posed, seed, meanfield_vi),
    "VI, full rank": lambda posed, seed: vi(posed, seed, fullrank_vi),
    "Pathfinder": path,
    "Pathfinder, 8 paths": paths,
}
