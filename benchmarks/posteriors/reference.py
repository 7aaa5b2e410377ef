"""How the reference is made: `python -m benchmarks posteriors -- --reference [names]`, slow, in float64.

Draws of the posterior come from BlackJAX's NUTS after window adaptation, four chains from four starts (a
short climb by SciPy's L-BFGS from a random point), or from an exact sampler where there is one. A
centred hierarchy is sampled in the coordinates of `vb.decenter` and its draws mapped back. Split R-hat and
effective sample sizes are BlackJAX's. What is stored of each scalar, in unconstrained space and on the
supports: mean, sd, their Monte Carlo standard errors, median, half the width of the central 68.27%
interval. Then come the limits of the bound (`limits.py`), also in the non-centred coordinates.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import scipy
from blackjax.diagnostics import effective_sample_size, potential_scale_reduction
from scipy import optimize

import vbppl as vb
from benchmarks.posteriors import store
from benchmarks.posteriors.catalogue import Entry
from benchmarks.posteriors.limits import limit
from vbppl.core.tables import label
from vbppl.target.axes import coordinate_names
from vbppl.target.target import Target

CHAINS = 4
CACHE = Path("build/posteriors")


def make(entry: Entry, path: Path | None, seed: int = 0) -> dict[str, Any]:
    """The reference of one posterior, as it is stored."""
    model, began = entry.model(path), time.perf_counter()
    target = vb.target(model)
    rng = np.random.default_rng([seed, *entry.name.encode()])
    if entry.exact:
        values = entry.exact(CHAINS * entry.draws, rng)
        z, made = np.asarray(target.unconstrain(values)), {"by": "exact draws", "draws": CHAINS * entry.draws}
    else:
        z, made = sample(entry, model, rng)
    made["seconds"] = round(time.perf_counter() - began)
    chains = z.reshape(CHAINS, -1, target.dim)
    named = dict(zip(coordinate_names(target), np.moveaxis(chains, -1, 0)))
    on_support = _scalars(target.constrain(z))
    CACHE.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(CACHE / f"{entry.name}.npz", z=z.astype(np.float32))
    found = {
        "dim": target.dim,
        "made": made,
        "versions": {"blackjax": blackjax.__version__, "jax": jax.__version__, "scipy": scipy.__version__},
        "unconstrained": _table(named),
        "constrained": _table(on_support),
    }
    if not entry.exact:
        rows = found["unconstrained"]
        made["rhat"], made["ess"] = float(np.max(rows.pop("rhat"))), int(np.min(rows["ess"]))
        found["constrained"].pop("rhat")
    return found


def limits(entry: Entry, path: Path | None, seed: int = 0) -> dict[str, Any]:
    """The limits of the bound, in each choice of coordinates: by the non-centred sites, joined by commas."""
    model, found = entry.model(path), {}
    target = vb.target(model)
    z = np.load(CACHE / f"{entry.name}.npz")["z"].astype(float)
    rng = np.random.default_rng([seed + 1, *entry.name.encode()])
    z = z[rng.permutation(len(z))[:10_000]]
    latent = {name: value for name, value in target.constrain(z).items() if name in _latent(target)}
    for other in {(): model, vb.decenter(model).decentered: vb.decenter(model)}.values():
        there = vb.target(other)
        moved = np.asarray(there.unconstrain(latent))
        moved = moved[np.isfinite(moved).all(axis=1)]
        found[",".join(other.decentered)] = {
            name: dict(zip(("elbo", "se", "above"), limit(there, moved, name == "full_rank", entry.points, rng)))
            for name in ("mean_field", "full_rank")
        }
    return found


def sample(entry: Entry, model: vb.Model, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, Any]]:
    """Draws by NUTS in the unconstrained coordinates of `model`, `(chains * draws, dim)`, and how they were made."""
    target, inner = vb.target(model), vb.target(vb.decenter(model) if entry.noncentred else model)
    # Centred, the way up leads to a scale of zero: climb non-centred.
    climbing = vb.target(vb.decenter(model))
    values = climbing.constrain(np.stack([_start(climbing, entry, rng) for _ in range(CHAINS)]))
    starts = inner.unconstrain({name: values[name] for name in _latent(inner)})
    keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), CHAINS)
    z, gradients, divergences = jax.block_until_ready(_run(entry, inner, keys, starts))
    z = np.asarray(z).reshape(-1, target.dim)
    if entry.noncentred:
        values = inner.constrain(z)
        z = np.asarray(target.unconstrain({name: values[name] for name in _latent(target)}))
    made = {
        "by": "NUTS",
        "chains": CHAINS,
        "warmup": entry.warmup,
        "draws": entry.draws,
        "accept": entry.accept,
        "mass": "dense" if entry.dense else "diagonal",
        "coordinates": "non-centred" if entry.noncentred else "the model's",
        "gradients": int(gradients.sum()),
        "divergences": int(divergences.sum()),
    }
    return z, made


def _run(entry: Entry, target: Target, keys: jax.Array, starts: jax.Array) -> Any:
    adaptation = blackjax.window_adaptation(
        blackjax.nuts,
        target.log_density,
        is_mass_matrix_diagonal=not entry.dense,
        target_acceptance_rate=entry.accept,
        adaptation_info_fn=lambda state, info, adaptation: info.num_integration_steps,
    )
    kernel = blackjax.nuts.build_kernel()

    @jax.jit
    @jax.vmap
    def chain(key, start):
        warm_key, draw_key = jax.random.split(key)
        (state, parameters), warm = adaptation.run(warm_key, start, num_steps=entry.warmup)

        def step(state, key):
            state, info = kernel(key, state, target.log_density, **parameters)
            return state, (state.position, info.num_integration_steps, info.is_divergent)

        _, (z, steps, diverged) = jax.lax.scan(step, state, jax.random.split(draw_key, entry.draws))
        return z, steps.sum() + warm.sum(), diverged.sum()

    return chain(keys, starts)


def _start(target: Target, entry: Entry, rng: np.random.Generator) -> np.ndarray:
    """Uphill from a random point near zero."""
    evaluate = jax.jit(jax.value_and_grad(target.log_density))

    def loss(z):
        value, slope = evaluate(z)
        fine = np.isfinite(value) and np.isfinite(slope).all()
        return (-float(value), -np.asarray(slope)) if fine else (1e100, np.zeros(target.dim))

    z = rng.uniform(-1, 1, target.dim)
    if entry.start:
        z = np.asarray(target.unconstrain({**target.constrain(z), **dict(entry.start)}))
    if not entry.climb:
        return z
    return optimize.minimize(loss, z, jac=True, method="L-BFGS-B", options={"maxiter": entry.climb}).x


def _latent(target: Target) -> list[str]:
    return [slot.name for slot in target.layout.slots]


def _scalars(values: dict[str, Any]) -> dict[str, np.ndarray]:
    """Each scalar of each site by its name, `(chains, draws)`."""
    found = {}
    for name, value in values.items():
        value = np.asarray(value)
        for index in np.ndindex(value.shape[1:]):
            found[label(name, index)] = value[(slice(None), *index)].reshape(CHAINS, -1)
    return {name: chains for name, chains in found.items() if np.ptp(chains)}  # a Cholesky factor's zeros tell nothing


def _table(scalars: dict[str, np.ndarray]) -> dict[str, list]:
    """What is stored of each scalar, from draws `(chains, draws)`."""
    x = np.stack(list(scalars.values()))
    mean, sd = x.mean(axis=(1, 2)), x.std(axis=(1, 2))
    halves = x.reshape(len(x), 2 * CHAINS, -1)
    squares = (halves - mean[:, None, None]) ** 2
    ess, ess_of_square = (_per_scalar(effective_sample_size, part) for part in (halves, squares))
    low, median, high = np.quantile(x.reshape(len(x), -1), [0.158655, 0.5, 0.841345], axis=1)
    return {
        "names": list(scalars),
        "mean": store.rounded(mean),
        "sd": store.rounded(sd),
        "mcse": store.rounded(sd / np.sqrt(ess), 3),
        "sd_mcse": store.rounded(squares.std(axis=(1, 2)) / (2 * sd * np.sqrt(ess_of_square)), 3),
        "median": store.rounded(median),
        "spread": store.rounded((high - low) / 2),
        "ess": [int(value) for value in ess],
        "rhat": store.rounded(_per_scalar(potential_scale_reduction, halves)),
    }


def _per_scalar(diagnostic: Any, x: np.ndarray) -> np.ndarray:
    return np.atleast_1d(diagnostic(jnp.moveaxis(jnp.asarray(x), 0, -1)))
