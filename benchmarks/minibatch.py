"""A step on a minibatch against the best loop we can write by hand, and NumPyro's: `python -m benchmarks minibatch`.

A logistic regression, mean field, Adam, batches of 1,024 rows. The loop by hand is the limit: one `scan` over indices,
noise and step sizes that were made ahead in one batch; its rows are gathered from data on the device, with
replacement, which needs no permutation. Beside it stands the same loop over contiguous blocks of data that
were shuffled beforehand: what a gather costs. vbppl is measured with the data on the device, and with the columns
on the host, read while the device computes: an array of NumPy, and rows that a class of the user's hands out, which
are copied once more because nobody knows what else is done with them. NumPyro's is its own `SVI` with `subsample_size`.

Times are medians over repetitions in which all take turns, so that a busy machine slows all; a ratio is
the median of the ratios of neighbours. Peak memory is that of a fresh process for each, beyond the user's data.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import vbppl as vb
import vbppl.distributions as dist
from benchmarks import machine
from vbppl.core.keys import raw_key
from vbppl.guides.base import Start
from vbppl.guides.gaussian import MeanField
from vbppl.inference.stochastic import minibatch, svi
from vbppl.inference.stochastic.objectives import ClosedForm
from vbppl.inference.stochastic.problem import prepare
from vbppl.inference.stochastic.schedule import Phase
from vbppl.target.target import Target

STEPS = 500
BATCH = 1024


@vb.model
def logistic(x, y):
    """A logistic regression."""
    beta = vb.sample("beta", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    with vb.plate("row", len(y)):
        x, y = vb.subsample(x, event_dim=1), vb.subsample(y)
        vb.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


class OnHost:
    """Rows that a user's own class hands out."""

    def __init__(self, table: np.ndarray):
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, i: np.ndarray) -> np.ndarray:
        return np.take(self.table, i, axis=0)


def by_hand(x: np.ndarray, y: np.ndarray, draws: int, gathered: bool) -> Callable[[], float]:
    """`STEPS` steps of the loop by hand at a call."""
    rows, dim = x.shape

    def loss(phi, noise, xb, yb):
        z = phi[0] + jnp.exp(phi[1]) * noise
        logits = z @ xb.T
        log_p = -jnp.sum(jax.nn.softplus((1 - 2 * yb) * logits), axis=1) * (rows / BATCH)
        prior = -jnp.sum(z**2, axis=1) / 2 - dim * math.log(2 * math.pi) / 2
        return -jnp.mean(log_p + prior) - jnp.sum(phi[1]) - dim / 2 * (1 + math.log(2 * math.pi))

    @jax.jit
    def run(carry, key, x, y):
        at, noise = jax.random.split(key)
        index = jax.random.randint(at, (STEPS, BATCH), 0, rows)
        steps = jnp.arange(STEPS)
        rate, unbias = 0.01 / (1 - 0.9 ** (steps + 1)), 1 / (1 - 0.99 ** (steps + 1))
        ahead = (jax.random.normal(noise, (STEPS, draws, dim)), index, rate, unbias)

        def step(carry, ahead):
            (phi, m, v, mean), (noise, index, rate, unbias) = carry, ahead
            if gathered:
                xb, yb = (a.at[index].get(mode="promise_in_bounds") for a in (x, y))
            else:
                xb, yb = (jax.lax.dynamic_slice_in_dim(a, index[0] // BATCH * BATCH, BATCH) for a in (x, y))
            value, gradient = jax.value_and_grad(loss)(phi, noise, xb, yb)
            m, v = 0.9 * m + 0.1 * gradient, 0.99 * v + 0.01 * gradient**2
            phi = phi - rate * m / (jnp.sqrt(v * unbias) + 1e-8)
            return (phi, m, v, mean + 0.01 * (phi - mean)), -value

        return jax.lax.scan(step, carry, ahead)

    phi = np.stack([np.zeros(dim, x.dtype), np.full(dim, -2.0, x.dtype)])
    state = {"carry": (phi, 0 * phi, 0 * phi, phi), "call": 0}
    x, y = jax.device_put((x, y))

    def call() -> float:
        state["carry"], bounds = run(state["carry"], jax.random.key(state["call"]), x, y)
        state["call"] += 1
        return float(np.mean(np.asarray(bounds)))

    return call


def ours(x: Any, y: np.ndarray, draws: int) -> Callable[[], float]:
    """`STEPS` steps of the compiled loop at a call."""
    target, raw = Target.of(logistic(x, y)), raw_key(0)
    settings, start = vb.Stochastic(draws=draws), Start(np.zeros(target.dim))
    # Without the control variate, which the others have not.
    made = prepare(target, MeanField(), settings, minibatch.minibatches_of(target, BATCH), start, raw)
    run, first = svi._begun(made)
    run = dataclasses.replace(run, setup=dataclasses.replace(run.setup, objective=ClosedForm()))
    carry = dataclasses.replace(first.position.carry, objective_state=())
    state = {"position": dataclasses.replace(first.position, carry=carry)}
    phase = Phase(0, 10**6, 10**6, 0).as_data()

    def call() -> float:
        state["position"], bounds, *_ = svi._steps(run, run.setup, state["position"], STEPS, phase, careful=False)
        return float(np.mean(np.asarray(bounds)))

    return call


def theirs(x: np.ndarray, y: np.ndarray, draws: int) -> Callable[[], float]:
    """A tenth of `STEPS` steps of NumPyro's at a call."""
    import numpyro
    import numpyro.distributions as distributions
    from numpyro.infer import SVI, Trace_ELBO, autoguide

    def model(x, y):
        beta = numpyro.sample("beta", distributions.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
        with numpyro.plate("row", len(y), subsample_size=BATCH):
            x, y = numpyro.subsample(x, event_dim=1), numpyro.subsample(y, event_dim=0)
            numpyro.sample("y", distributions.Bernoulli(logits=x @ beta), obs=y)

    svi = SVI(model, autoguide.AutoNormal(model), numpyro.optim.Adam(0.01), Trace_ELBO(num_particles=draws))
    x, y = jax.device_put((x, y))
    state = {"svi": svi.init(jax.random.key(0), x, y)}
    run = jax.jit(lambda state, x, y: jax.lax.scan(lambda s, _: svi.update(s, x, y), state, None, length=STEPS // 10))

    def call() -> float:
        state["svi"], losses = run(state["svi"], x, y)
        return -float(np.mean(np.asarray(losses)))

    return call


KINDS: dict[str, tuple[Callable[..., Callable[[], float]], float]] = {
    "by hand, gathered": (lambda x, y, draws: by_hand(x, y, draws, True), 1.0),
    "by hand, contiguous blocks": (lambda x, y, draws: by_hand(x, y, draws, False), 1.0),
    "vbppl, on the device": (ours, 1.0),
    "vbppl, an array on the host": (lambda x, y, draws: ours(vb.Source(x), y, draws), 1.0),
    "vbppl, a class on the host": (lambda x, y, draws: ours(OnHost(x), y, draws), 1.0),
    "NumPyro": (theirs, 0.1),
}


def data(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns of unit variance, and labels."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, columns), dtype=np.float32)
    p = 1 / (1 + np.exp(-x @ (rng.standard_normal(columns, dtype=np.float32) / math.sqrt(columns))))
    return x, (rng.random(rows) < p).astype(np.float32)


def peak_megabytes(kind: str, rows: int, columns: int, draws: int) -> float:
    """Of a fresh process, beyond the user's data."""
    arguments = [sys.executable, "-m", "benchmarks", "minibatch", "--", "--only", kind]
    arguments += ["--rows", str(rows), "--columns", str(columns), "--draws", str(draws)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser("python -m benchmarks minibatch", description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10**6)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--draws", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory, a process for each kind")
    parser.add_argument("--only", choices=[*KINDS], help="print the peak memory of one kind, in megabytes")
    options = parser.parse_args(arguments)
    x, y = data(options.rows, options.columns)
    if options.only:
        memory = machine.Memory()
        call = KINDS[options.only][0](x, y, options.draws[0])
        for _ in range(3):
            call()
        return print(json.dumps(memory.peak()))
    print(f"{machine.described()}; {options.rows:,} x {options.columns}, batches of {BATCH}\n")
    print("| draws | loop | us a step | to the limit | peak memory, MB |\n|--:|---|--:|--:|--:|", flush=True)
    for draws in options.draws:
        calls = {kind: (make(x, y, draws), share) for kind, (make, share) in KINDS.items()}
        times = {kind: [] for kind in calls}
        for repetition in range(options.repetitions + 1):
            for kind, (call, share) in calls.items():
                begin = time.perf_counter()
                call()
                if repetition:  # the first call compiles
                    times[kind].append((time.perf_counter() - begin) / (STEPS * share) * 1e6)
        limit = np.array(times["by hand, gathered"])
        for kind, found in times.items():
            size = (options.rows, options.columns, draws)
            memory = "" if options.no_memory else f"{peak_megabytes(kind, *size):.0f}"
            ratio = np.median(np.array(found) / limit)
            print(f"| {draws} | {kind} | {np.median(found):.0f} | {ratio:.2f} | {memory} |", flush=True)
