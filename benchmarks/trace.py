"""What a model costs before it runs, by its size: `python -m benchmarks trace`.

Latent sites one after the other (a Normal each, with two rows seen through it), and a chain (`vb.scan`) of so many
steps with an observation each: CPU seconds of tracing, lowering and compiling values and gradients at 32 points side by
side, beside the same density by hand. Each size is a fresh process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine
from benchmarks.waiting.process import cpu

SIZES = {"sites": (10, 100, 1000), "chain": (100, 1000, 10_000)}
HEAD = (
    "| model | size | who | trace | lower | compile | in all, ms a site or step | ratio |\n"
    "|---|--:|---|--:|--:|--:|--:|--:|"
)
POINTS = 32


def _model(kind: str, size: int) -> tuple[Any, Callable[..., Any], int, tuple[np.ndarray, ...]]:
    """The model applied to its data, its density by hand `(z, *data)`, the dimension, the data."""
    import vbppl as vb
    import vbppl.distributions as dist

    rng = np.random.default_rng(0)

    @vb.model
    def sites(y):
        for i in range(size):
            x = vb.sample(f"x_{i}", dist.Normal(0.0, 1.0))
            with vb.plate(f"row_{i}", 2):
                vb.sample(f"y_{i}", dist.Normal(x, 1.0), obs=y[i])

    def sites_by_hand(z, y):
        total = 0.0
        for i in range(size):
            total += -0.5 * z[i] ** 2 + jnp.sum(-0.5 * (y[i] - z[i]) ** 2)
        return total

    @vb.model
    def chain(y):
        def step(level, y):
            level = vb.sample("level", dist.Normal(level, 1.0))
            vb.sample("y", dist.Normal(level, 1.0), obs=y)
            return level, None

        vb.scan(step, 0.0, y)

    def chain_by_hand(z, y):
        before = jnp.concatenate([jnp.zeros(1), z[:-1]])
        return jnp.sum(-0.5 * (z - before) ** 2 - 0.5 * (y - z) ** 2)

    if kind == "sites":
        data = (rng.standard_normal((size, 2)).astype(np.float32),)
        return sites(*data), sites_by_hand, size, data
    data = (np.cumsum(rng.standard_normal(size)).astype(np.float32),)
    return chain(*data), chain_by_hand, size, data


def measured(kind: str, size: int, who: str) -> dict[str, float]:
    """CPU seconds of tracing, lowering, compiling, in this process."""
    from vbppl.target.target import Target

    model, by_hand, dim, data = _model(kind, size)
    points = np.zeros((POINTS, dim), np.float32)
    jax.jit(lambda x: x + 1)(0.0)  # the backend has started
    times = [cpu()]
    if who == "by hand":
        traced = jax.jit(jax.vmap(jax.value_and_grad(by_hand), (0, *(None for _ in data)))).trace(points, *data)
    else:

        def one(target: Any, z: Any) -> Any:
            return jax.value_and_grad(target.log_density)(z)

        traced = jax.jit(jax.vmap(one, (None, 0))).trace(Target.of(model), points)
    times.append(cpu())
    lowered = traced.lower()
    times.append(cpu())
    lowered.compile({"xla_backend_optimization_level": 2} if jax.default_backend() == "cpu" else None)
    times.append(cpu())
    return dict(zip(("trace", "lower", "compile"), np.diff(times).tolist()))


def main(arguments: Sequence[str] = ()) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks trace", description=__doc__)
    parser.add_argument("--one", nargs=3, metavar=("KIND", "SIZE", "WHO"), help="one measurement, in this process")
    parser.add_argument("--most", type=int, default=10_000, help="sites or steps")
    options = parser.parse_args(arguments)
    if options.one:
        kind, size, who = options.one
        print(json.dumps(measured(kind, int(size), who)))
        return
    print(f"{machine.described()}; CPU seconds\n\n{HEAD}", flush=True)
    for kind, sizes in SIZES.items():
        for size in (size for size in sizes if size <= options.most):
            totals: dict[str, float] = {}
            for who in ("by hand", "vbppl"):
                command = [sys.executable, "-m", "benchmarks", "trace", "--one", kind, str(size), who]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    print(f"| {kind} | {size:,} | {who} | {done.stderr.strip().splitlines()[-1]} |", flush=True)
                    continue
                found = json.loads(done.stdout.splitlines()[-1])
                totals[who] = sum(found.values())
                ratio = f"{totals[who] / totals['by hand']:.1f}" if "by hand" in totals else ""
                each = " | ".join(f"{found[part]:.2f}" for part in ("trace", "lower", "compile"))
                print(f"| {kind} | {size:,} | {who} | {each} | {1000 * totals[who] / size:.1f} | {ratio} |", flush=True)
