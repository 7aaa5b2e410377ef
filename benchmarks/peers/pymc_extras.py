"""pymc-extras on PyMC's models: Pathfinder of four paths with importance resampling, and deterministic ADVI."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from pymc_extras.inference import fit_dadvi, fit_pathfinder

import vbppl as vb
from benchmarks.machine import Clock
from benchmarks.peers.answer import Answer, Posed, gaussian, in_order
from benchmarks.peers.pymc import log_densities, site_of, written

K = 0.7


def pathfinder(posed: Posed, seed: int) -> Answer:
    """Its defaults, one path after another: its processes do not start within another's."""
    clock = Clock()
    model = written(posed)
    found = fit_pathfinder(model=model, random_seed=seed, progressbar=False, display_summary=False, concurrent=None)
    costs = clock.read(jax_compiles=False)
    with jax.enable_x64(True):
        target = vb.target(posed.model)
        latent = {slot.name: np.asarray(found.posterior[slot.name])[0] for slot in target.layout.slots}
        z = np.asarray(target.unconstrain(latent))
    k = float(found.sample_stats["pareto_k"])
    return Answer(z, costs, says="good" if k < K else f"poor (Pareto k {k:.2f})")


def dadvi(posed: Posed, seed: int) -> Answer:
    """Thirty fixed draws and trust regions; its Gaussian is read from the optimiser's result."""
    clock = Clock()
    model = written(posed)
    found = fit_dadvi(model=model, random_seed=seed, progressbar=False)
    costs = clock.read(jax_compiles=False)
    target, start = vb.target(posed.model), model.initial_point()
    places, at = {}, 0
    for name, value in start.items():
        places[site_of(name)] = np.arange(at, at + value.size).reshape(value.shape)
        at += value.size
    order = in_order(target, places)
    loc, log_sd = np.split(np.asarray(found.optimizer_result["x"]).ravel(), 2)
    z, log_q = gaussian(loc[order], np.exp(log_sd[order]), seed)
    says = "converged" if bool(np.all(found.optimizer_result["success"])) else "did not converge"
    return Answer(z, costs, log_q, says=says, log_p=log_densities(model, target, z))


WAYS: dict[str, Callable[[Posed, int], Answer]] = {"Pathfinder": pathfinder, "DADVI": dadvi}
