"""Real posteriors with long references: how far off is what each library answers, after how long, and does it know?

Each fit is a fresh process that begins with its imports done and nothing compiled. The answer is compared on the
supports with the references of `benchmarks/posteriors`: the worst mean in sds, the worst log sd (medians and central
intervals of sites without a usable variance). The bound of a Gaussian is taken by the same code for all: log p - log q
at 20,000 draws, our density, float64; "nats" are those below the best Gaussian of the family in the model's own
coordinates. Who has its own words for the model is asked for its density at five of its draws, which must be ours.

`reached` are the CPU seconds until the bound was first within 0.1 nat of the family's best: of a whole fit by vbppl; of
NumPyro's SVI those of the call less the steps after that, which only somebody who knows the limit could leave out. A
run that was not there after its 10,000 steps is followed to 100,000, or as far as 20 more CPU seconds lead.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import vbppl as vb
from benchmarks.harness import Measurement, Row, finished, markdown, median, spread
from benchmarks.peers.answer import Answer, Posed
from benchmarks.posteriors import store
from benchmarks.posteriors.catalogue import ENTRIES
from benchmarks.posteriors.table import errors, is_right, scalars

NEAR = 0.1  # nats
QUICK = ("schools-noncentred", "pumps", "beetles", "diabetes")
# By peer, its ways; those of PyMC and Pyro exist for the models that are written in their words.
WAYS: dict[str, tuple[str, ...]] = {
    "vbppl": ("auto", "mean field", "full rank"),
    "numpyro": ("SVI, mean field", "SVI, full rank", "SVI, mean field, tuned", "SVI, full rank, tuned", "NUTS"),
    "blackjax": ("VI, mean field", "VI, full rank", "Pathfinder", "Pathfinder, 8 paths"),
    "pymc": ("ADVI", "ADVI, full rank"),
    "pymc-extras": ("Pathfinder", "DADVI"),
    "pyro": ("SVI, mean field", "SVI, full rank"),
}
MODULES = {"vbppl": "ours", "pymc-extras": "pymc_extras"}
# NumPyro takes the transformed Beta of this one to live on the whole line: another posterior.
OTHER_IN_NUMPYRO = ("volatility",)
TRANSLATED = ("schools", "schools-noncentred", "diabetes", "beetles", "pumps")


def measurements(full: bool) -> list[Measurement]:
    """All ways of one posterior, then the next."""
    names = [entry.name for entry in ENTRIES if not entry.file and (full or entry.name in QUICK)]
    return [
        Measurement("accuracy", peer, how, {"posterior": name, "peer": peer, "how": how}, 300.0)
        for name in names
        for peer, ways in WAYS.items()
        for how in ways
        if _can(peer, name) and (full or "tuned" not in how and "8" not in how)
    ]


def _can(peer: str, posterior: str) -> bool:
    if peer == "numpyro":
        return posterior not in OTHER_IN_NUMPYRO
    return peer in ("vbppl", "blackjax") or posterior in TRANSLATED


def measure(seed: int, posterior: str, peer: str, how: str) -> dict[str, Any]:
    """One fit, compared with its reference."""
    way = importlib.import_module(f"benchmarks.peers.{MODULES.get(peer, peer)}").WAYS[how]
    entry = next(entry for entry in ENTRIES if entry.name == posterior)
    jax.block_until_ready(jax.numpy.zeros(3) + 1)  # the device is awake
    answer: Answer = way(Posed(entry, entry.model()), seed)
    reference = store.load()[posterior]
    with jax.enable_x64(True):
        target = vb.target(entry.model())
        values = scalars(target.constrain(answer.z))
        off = errors(entry, reference["constrained"], values)
        found = {"dim": target.dim, **answer.costs, "gradients": answer.gradients, "says": answer.says}
        found |= {"right": is_right(entry, reference["constrained"], values), **_told(off), **answer.more}
        found |= _bounds(answer, target, reference["limits"][""], "full" in how or "Path" in how)
    return found


def _told(off: Any) -> dict[str, Any]:
    """A number that is not finite would be no JSON."""
    cut = {name: float(min(getattr(off, name), 1e9)) for name in ("mean", "log_sd")}
    return cut | {"worst": off.mean_name, "widest": off.log_sd_name}


def _bounds(answer: Answer, target: vb.Target, limits: Mapping[str, Any], full_rank: bool) -> dict[str, Any]:
    """The bound, how far it is from the limit of its family, and when it came near."""
    limit = limits["full_rank" if full_rank else "mean_field"]["elbo"]
    found: dict[str, Any] = {"limit": limit}
    if answer.log_p is not None:
        ours = np.asarray(jax.vmap(target.log_density)(answer.z[: len(answer.log_p)]))
        found["apart"] = float(np.max(np.abs(ours - answer.log_p) / (1 + np.abs(ours))))
    if answer.log_q is not None:
        found["bound"], found["bound_se"] = _bound(target, answer.z, answer.log_q)
    if answer.trace:
        way = [(steps, _bound(target, *there)[0] - limit) for steps, there in answer.trace]
        found["way"] = [(steps, round(nats, 4)) for steps, nats in way]
        found["steps"] = next((steps for steps, nats in way if nats > -NEAR), None)
        usual = answer.gradients or 1
        if found["steps"]:
            found["reached"] = answer.costs["cpu"] + (answer.run or 0.0) * (found["steps"] / usual - 1)
    return found


def _bound(target: vb.Target, z: np.ndarray, log_q: np.ndarray) -> tuple[float, float]:
    """The mean of log p - log q, and its standard error; minus infinity, as a number, where a density is not finite."""
    ratios = np.concatenate([np.asarray(_log_densities(target, part)) for part in np.array_split(z, 20)]) - log_q
    if not np.isfinite(ratios).all():
        return -1e9, 0.0
    return float(ratios.mean()), float(ratios.std() / np.sqrt(len(ratios)))


@jax.jit
def _log_densities(target: vb.Target, z: np.ndarray) -> jax.Array:
    return jax.vmap(target.log_density)(z)
