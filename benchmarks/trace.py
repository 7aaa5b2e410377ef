"""What a model costs before it runs, by its size: `python -m benchmarks trace`.

Latent sites one after the other (a Normal each, with two rows seen through it), and a chain (`vb.scan`) of so many
steps with an observation each: CPU seconds of tracing, lowering and compiling values and gradients at 32 points side by
side, beside the same density by hand. Each is a fresh process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Measurement, Row, finished, markdown, median
from benchmarks.waiting.process import cpu

SIZES = {"sites": (10, 100, 1000), "chain": (100, 1000, 10_000)}
QUICK = 100  # sites or steps, in a quick look
PARTS = ("trace", "lower", "compile")
POINTS = 32


def measurements(full: bool) -> list[Measurement]:
    """Size by size."""
    return [
        Measurement("trace", "vbppl", who, {"kind": kind, "size": size, "who": who}, 1200.0)
        for kind, sizes in SIZES.items()
        for size in sizes
        if full or size <= QUICK
        for who in ("by hand", "vbppl")
    ]


def model_of(kind: str, size: int) -> tuple[Any, Callable[..., Any], int, tuple[np.ndarray, ...]]:
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


def measure(seed: int, kind: str, size: int, who: str) -> dict[str, float]:
    """CPU seconds of tracing, lowering, compiling, in this process; nothing in it is drawn anew."""
    from vbppl.target.target import Target

    model, by_hand, dim, data = model_of(kind, size)
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
    return dict(zip(PARTS, np.diff(times).tolist())) | {"cpu": times[-1] - times[0]}


def table(rows: list[Row]) -> str:
    """A line for each, with its ratio to the one by hand."""
    lines = []
    for row in dict.fromkeys((row["kind"], row["size"], row["who"]) for row in finished(rows)):
        kind, size, who = row
        some, hand = (finished(rows, kind=kind, size=size, who=w) for w in (who, "by hand"))
        parts = (f"{median(some, part):.2f}" for part in PARTS)
        total = median(some, "cpu")
        ratio = f"{total / median(hand, 'cpu'):.1f}" if hand else ""
        lines.append((kind, f"{size:,}", who, *parts, f"{1000 * total / size:.1f}", ratio))
    failed = [f"- {row['kind']} {row['size']:,}, {row['who']}: {row['failed']}" for row in rows if "failed" in row]
    head = ("model", "size", "who", *PARTS, "in all, ms a site or step", "ratio")
    return "\n".join([markdown(head, lines), *(["", "Without an answer:", "", *failed] if failed else [])])
