"""vbppl as its users call it: `vb.fit(model)`, and with each guide by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import jax
import numpy as np

import vbppl as vb
from benchmarks.machine import Clock
from benchmarks.peers.answer import DRAWS, Answer, Posed


def fit(posed: Posed, seed: int, guide: str) -> Answer:
    """What the posterior says by itself; the bound is that of the guide, which it has from fresh draws."""
    clock = Clock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", vb.VbpplWarning)  # the verdict says the same
        posterior = vb.fit(posed.model, guide, seed=seed)
    costs = clock.read()
    draws = posterior.sample(DRAWS, seed=seed + 1)
    with jax.enable_x64(True):
        target = vb.target(posed.model)
        latent = {slot.name: np.asarray(draws[slot.name], float) for slot in target.layout.slots}
        z = np.asarray(target.unconstrain(latent))
    noncentred = tuple(name for name, seen in posterior.target.parameterisations.items() if not seen.weight)
    bound = {"bound": posterior.elbo.value, "bound_se": posterior.elbo.se, "noncentred": ", ".join(noncentred)}
    more = {"guide": type(posterior.guide).__name__} | bound
    return Answer(z, costs, None, posterior.status.gradients, posterior.check().verdict, more=more)


WAYS: dict[str, Callable[[Posed, int], Answer]] = {
    "auto": lambda posed, seed: fit(posed, seed, "auto"),
    "mean field": lambda posed, seed: fit(posed, seed, "mean_field"),
    "full rank": lambda posed, seed: fit(posed, seed, "full_rank"),
}
