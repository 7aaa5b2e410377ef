"""PyMC's automatic differentiation variational inference, `pm.fit` with its defaults: 10,000 steps, float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pymc as pm

import vbppl as vb
from benchmarks.machine import Clock
from benchmarks.peers.answer import FEW, Answer, Posed, by_site, gaussian, in_order, triangle
from benchmarks.peers.in_pymc import MODELS

STEPS = 10_000


def written(posed: Posed) -> pm.Model:
    """The model in PyMC's words on the same data."""
    args, kwargs = posed.model.arguments
    with pm.Model() as model:
        MODELS[posed.entry.name](*map(np.asarray, args), **kwargs)
    return model


def site_of(value: str) -> str:
    """The site of a variable of PyMC's unconstrained space: `tau_log__` is that of `tau`."""
    return value.removesuffix("_log__")


def log_densities(model: pm.Model, target: vb.Target, z: np.ndarray) -> np.ndarray:
    """Of PyMC's model at the first draws."""
    places, log_density = by_site(target, z[:FEW]), model.compile_logp()
    names = [variable.name for variable in model.value_vars]
    return np.array([log_density({name: places[site_of(name)][i] for name in names}) for i in range(FEW)], float)


def advi(posed: Posed, seed: int, method: str) -> Answer:
    """Building the model counts, as it does for all."""
    clock = Clock()
    model = written(posed)
    found = pm.fit(STEPS, method=method, random_seed=seed, progressbar=False, model=model)
    loc, spread = found.mean.eval(), (found.std if method == "advi" else found.cov).eval()
    costs = clock.read(jax_compiles=False)
    target = vb.target(posed.model)
    places = {
        site_of(name): np.arange(at.start, at.stop).reshape(shape) for name, (_, at, shape, _) in found.ordering.items()
    }
    order = in_order(target, places)
    scale = spread[order] if method == "advi" else triangle(np.linalg.cholesky(spread)[order])
    z, log_q = gaussian(loc[order], scale, seed)
    return Answer(z, costs, log_q, STEPS, log_p=log_densities(model, target, z))


WAYS: dict[str, Callable[[Posed, int], Answer]] = {
    "ADVI": lambda posed, seed: advi(posed, seed, "advi"),
    "ADVI, full rank": lambda posed, seed: advi(posed, seed, "fullrank_advi"),
}
