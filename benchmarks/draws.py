"""What moment-exact draws buy: the error of a mean-field fit against the number of its fixed draws.

Each fit is compared with the same model's fit on 2,048 Latin-hypercube draws. The error is the root
mean square over coordinates and seeds of the means (in sds) and log sds.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.keys import host_generator
from vbppl.core.numerics.draws import FixedDraws, normal_draws

KINDS = {"independent": "#999999", "latin_hypercube": "#0072b2", "auto": "#d55e00"}
NUMBERS = (8, 16, 32, 64, 128)
SEEDS = 4


@vb.model
def regression(x, y):
    beta = vb.sample("beta", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


@vb.model
def groups(count, group, number):
    mu = vb.sample("mu", dist.Normal(0.0, 2.0))
    tau = vb.sample("tau", dist.HalfNormal(1.0))
    with vb.plate("group", number):
        rate = vb.sample("rate", dist.Normal(mu, tau))
    with vb.plate("row", len(count)):
        vb.sample("count", dist.Poisson(jnp.exp(rate[group])), obs=count)


@vb.model
def schools(sigma, y):
    mu = vb.sample("mu", dist.Normal(0.0, 5.0))
    tau = vb.sample("tau", dist.HalfNormal(5.0))
    with vb.plate("school", len(y)):
        theta = vb.sample("theta", dist.Normal(mu, tau))
        vb.sample("y", dist.Normal(theta, sigma), obs=y)


def models() -> dict[str, vb.Model]:
    """Four densities of 3, 10, 50 and 202 dimensions."""
    rng = np.random.RandomState(0)
    found = {}
    for dim, rows in ((3, 200), (50, 1000)):
        x = rng.randn(rows, dim)
        y = (rng.rand(rows) < 1 / (1 + np.exp(-x @ rng.randn(dim)))).astype(int)
        found[f"logistic regression, {dim} dims"] = regression(x, y)
    y, sigma = np.array([28.0, 8, -3, 7, -1, 1, 18, 12]), np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
    found["eight schools, 10 dims"] = vb.decenter(schools(sigma, y))
    group = np.repeat(np.arange(200), 5)
    found["Poisson groups, 202 dims"] = groups(rng.poisson(np.exp(1 + 0.5 * rng.randn(200))[group]), group, number=200)
    return found


@contextlib.contextmanager
def independent_draws() -> Iterator[None]:
    """Fixed draws without exact moments, which the library does not have: they serve to compare with alone."""

    def independent(self: FixedDraws, key: tuple[int, ...], draws: int, number: int) -> np.ndarray:
        rng = host_generator(np.array(key, np.uint32), f"draws {draws} {number}")
        return normal_draws(rng, draws, self.dim)

    kept, FixedDraws._set = FixedDraws._set, independent
    try:
        yield
    finally:
        FixedDraws._set = kept


def error(model: vb.Model, best: np.ndarray, number: int, kind: str, seeds: int) -> float:
    """The root mean square error of means and log sds on `number` draws."""
    errors = []
    for seed in range(seeds):
        alone = kind == "independent"
        method = vb.Deterministic(draws=number, kind="auto" if alone else kind)
        with independent_draws() if alone else contextlib.nullcontext():
            phi = np.asarray(vb.fit(model, "mean_field", method=method, seed=seed + 1).phi, np.float64)
        errors.append(np.stack([(phi[0] - best[0]) / np.exp(best[1]), phi[1] - best[1]]))
    return float(np.sqrt(np.mean(np.square(errors))))


def main(arguments: Sequence[str] = ()) -> None:
    """Print the table and save the picture."""
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(prog="benchmarks draws", description=__doc__)
    parser.add_argument("--out", default="benchmarks/draws.png")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="fits of each kind and number")
    options = parser.parse_args(arguments)
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)

    warnings.simplefilter("ignore", vb.VbpplWarning)
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), sharey=True, constrained_layout=True)
    print("| model | draws | " + " | ".join(f"{k}, rms error" for k in KINDS) + " |\n|---|--:|" + "--:|" * len(KINDS))
    for axis, (name, model) in zip(axes, models().items()):
        reference = vb.Deterministic(draws=2048, kind="latin_hypercube")
        best = np.asarray(vb.fit(model, "mean_field", method=reference).phi, np.float64)
        table = {kind: [error(model, best, n, kind, options.seeds) for n in NUMBERS] for kind in KINDS}
        for i, number in enumerate(NUMBERS):
            print(f"| {name} | {number} | " + " | ".join(f"{table[kind][i]:.4f}" for kind in KINDS) + " |")
        for kind, colour in KINDS.items():
            label = "whitened where possible" if kind == "auto" else kind.replace("_", " ")
            axis.loglog(NUMBERS, table[kind], "o-", color=colour, label=label, markersize=4)
        axis.set(title=name, xlabel="fixed draws")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("rms error of means (sd) and log sds")
    axes[1].legend(frameon=False, loc="lower left")
    figure.savefig(options.out, dpi=150)
    print(f"Saved {options.out}.", file=sys.stderr)
