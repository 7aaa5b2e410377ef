"""Pyro on PyTorch: autoguides, Adam at 0.01, 10,000 calls of `SVI.step`, as its tutorials have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import SVI, Trace_ELBO, autoguide
from pyro.infer.mcmc.util import initialize_model

import vbppl as vb
from benchmarks.machine import Clock
from benchmarks.peers.answer import FEW, Answer, Posed, by_site, flat, gaussian, in_order, triangle
from benchmarks.peers.in_pyro import MODELS

STEPS = 10_000


def svi(posed: Posed, seed: int, kind: Any) -> Answer:
    """From nothing."""
    args, _ = posed.model.arguments
    tensors = [torch.as_tensor(np.asarray(value, np.float32)) for value in args]
    model = MODELS[posed.entry.name]
    pyro.set_rng_seed(seed)
    clock = Clock()
    pyro.clear_param_store()
    guide = kind(model)
    fit = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    for _ in range(STEPS):
        fit.step(*tensors)
    costs = clock.read(jax_compiles=False)
    target = vb.target(posed.model)
    z, log_q = gaussian(*_moments(guide, target), seed)
    return Answer(z, costs, log_q, STEPS, log_p=_log_densities(model, tensors, target, z))


def _moments(guide: Any, target: vb.Target) -> tuple[np.ndarray, np.ndarray]:
    """Of the guide's Gaussian, in our order of the sites."""
    with torch.no_grad():
        if isinstance(guide, autoguide.AutoNormal):
            loc, scale = (
                flat(target, {slot.name: getattr(part, slot.name).numpy()[None] for slot in target.layout.slots})[0]
                for part in (guide.locs, guide.scales)
            )
            return loc, scale
        posterior = guide.get_posterior()
        places = guide._unpack_latent(torch.arange(guide.latent_dim, dtype=torch.float64))
        order = in_order(target, {site["name"]: place.numpy() for site, place in places})
        return posterior.loc.numpy()[order], triangle(posterior.scale_tril.numpy()[order])


def _log_densities(model: Callable, tensors: list, target: vb.Target, z: np.ndarray) -> np.ndarray:
    """Of Pyro's model at the first draws."""
    _, potential, _, _ = initialize_model(model, model_args=tuple(tensor.double() for tensor in tensors))
    places = by_site(target, z[:FEW])
    points = [{name: torch.as_tensor(x[i]) for name, x in places.items()} for i in range(FEW)]
    return np.array([-float(potential(point)) for point in points])


WAYS: dict[str, Callable[[Posed, int], Answer]] = {
    "SVI, mean field": lambda posed, seed: svi(posed, seed, autoguide.AutoNormal),
    "SVI, full rank": lambda posed, seed: svi(posed, seed, autoguide.AutoMultivariateNormal),
}
