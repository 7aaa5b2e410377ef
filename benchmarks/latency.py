"""How long a user waits for a first answer, against the compile floor.

The floor is the CPU time to trace and compile the batched value and gradient of the same density,
written by hand, with JAX already imported: nobody can answer sooner. Every figure comes from a fresh process
and is CPU seconds over all threads; medians of several, all in one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence

CHILD = """
import json, resource, sys, time, warnings
import numpy as np
import jax, jax.numpy as jnp

warnings.simplefilter("ignore")
y = np.array([28.0, 8, -3, 7, -1, 1, 18, 12]); sigma = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])

def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

def by_hand(z, y, sigma):
    mu, log_tau, theta = z[0], z[1], z[2:]
    tau = jnp.exp(log_tau)
    prior = -0.5 * (mu / 5) ** 2 - jnp.log1p((tau / 5) ** 2) + log_tau
    return prior + jnp.sum(-0.5 * ((theta - mu) / tau) ** 2 - log_tau - 0.5 * ((y - theta) / sigma) ** 2)

found = {}
if sys.argv[1] == "floor":
    before = cpu()
    batched = jax.jit(jax.vmap(jax.value_and_grad(by_hand), (0, None, None)))
    jax.block_until_ready(batched(np.zeros((32, 10), np.float32), y, sigma))
    found["cpu"] = cpu() - before
else:
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: compiled.append(seconds) if name.endswith("backend_compile_duration") else None
    )
    before = cpu()
    import vbppl as vb, vbppl.distributions as dist
    found["import"] = cpu() - before

    @vb.model
    def eight_schools(sigma, y=None):
        mu = vb.sample("mu", dist.Normal(0.0, 5.0))
        tau = vb.sample("tau", dist.HalfCauchy(5.0))
        with vb.plate("school", len(sigma)):
            theta = vb.sample("theta", dist.Normal(mu, tau))
            vb.sample("y", dist.Normal(theta, sigma), obs=y)

    before = cpu()
    vb.fit(eight_schools(sigma, y=y), sys.argv[1])
    found["cpu"], found["programs"] = cpu() - before, len(compiled)
    before, count = time.perf_counter(), len(compiled)
    posterior = vb.fit(eight_schools(sigma, y=y + 1), sys.argv[1], seed=1)
    found["again"], found["programs_again"] = time.perf_counter() - before, len(compiled) - count
    found["gradients"] = posterior.status.gradients
print(json.dumps(found))
"""
GUIDES = ("mean_field", "full_rank", "auto")


def measure(what: str) -> dict[str, float]:
    """One fresh process."""
    done = subprocess.run([sys.executable, "-c", CHILD, what], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str] = ()) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks latency", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    repetitions = parser.parse_args(arguments).repetitions
    runs: dict[str, list[dict[str, float]]] = {what: [] for what in ("floor", *GUIDES)}
    for _ in range(repetitions):  # interleaved, so that a busy minute hits all of them
        for what, found in runs.items():
            found.append(measure(what))

    def median(what: str, key: str) -> float:
        return statistics.median(found[key] for found in runs[what])

    floor = median("floor", "cpu")
    print(f"Eight schools, first answer in a fresh process; compile floor {floor:.2f} CPU-s\n")
    print("| guide | fit, CPU-s | x floor | programs | second fit, ms | programs again | its gradients |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for guide in GUIDES:
        first, again = median(guide, "cpu"), 1000 * median(guide, "again")
        counts = [int(median(guide, key)) for key in ("programs", "programs_again", "gradients")]
        print(
            f"| {guide} | {first:.2f} | {first / floor:.1f} | {counts[0]} | {again:.0f} | {counts[1]} | {counts[2]:,} |"
        )
    print(f"\nImporting vbppl after JAX: {median('auto', 'import'):.2f} CPU-s.")
