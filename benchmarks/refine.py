"""What `vb.refine` costs beside a cold NUTS of NumPyro, on the same densities of the suite of posteriors.

Every figure comes from a fresh process and is CPU seconds over all threads, with compiling, without imports; and once
more in the same process. Both sample the same flat density: NumPyro in the coordinates in which the catalogue's
reference was sampled (`vb.decenter` for centred hierarchies), from its own starts, `fit` in those that it chooses.
Gradients are those of the chains, with their warm-up and
without the fit. Effective sizes are the smallest bulk ones of all scalars on the supports, and
errors the worst mean, in sds of the reference.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence

from benchmarks import machine

MODELS = "schools", "pumps", "seeds", "breast-cancer"
WAYS = {
    "refine": "fit + refine, 4 x 1,000",
    "numpyro": "NumPyro, 1,000 + 1,000",
    "four": "NumPyro, 4 x (1,000 + 1,000)",
}

CHILD = """
import json, resource, sys, warnings
import jax, numpy as np
import numpyro
from numpyro.infer import MCMC, NUTS
import blackjax.mcmc.nuts, blackjax.adaptation.step_size
import vbppl as vb
from benchmarks.posteriors import store
from benchmarks.posteriors.catalogue import ENTRIES
from vbppl.core.numerics import mcmc as worth
from vbppl.core.tables import label

warnings.simplefilter("ignore")
name, way, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
entry = next(entry for entry in ENTRIES if entry.name == name)
def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

found, began = {}, cpu()
if way == "refine":
    fitted = vb.fit(entry.model(), seed=seed)
    found["fit"] = cpu() - began
    refined = vb.refine(fitted, seed=seed)
    report = refined.check()
    target, z, chains = refined.target, np.asarray(report.draws.z), 4
    found |= {"verdict": report.verdict, "before": fitted.check().verdict, "divergences": report.divergences}
    found["gradients"] = report.status.gradients
else:
    chains = 4 if way == "four" else 1
    target = vb.target(vb.decenter(entry.model()) if entry.noncentred else entry.model())
    kernel = NUTS(potential_fn=lambda z: -target.log_density(z), target_accept_prob=0.8)
    how = {"num_chains": chains, "chain_method": "vectorized", "progress_bar": False}
    sampler = MCMC(kernel, num_warmup=1000, num_samples=1000, **how)
    start = np.random.default_rng(seed).uniform(-2, 2, (chains, target.dim)).astype(np.float32)
    start = start if chains > 1 else start[0]
    fields = ("num_steps", "diverging")
    sampler.run(jax.random.key(seed), init_params=start, extra_fields=fields)
    extra = sampler.get_extra_fields()
    z = np.asarray(sampler.get_samples())
    found |= {"gradients": int(extra["num_steps"].sum()), "divergences": int(extra["diverging"].sum())}
found["cpu"], began = cpu() - began, cpu()
if way == "refine":
    vb.refine(fitted, seed=seed + 1)
else:
    sampler.run(jax.random.key(seed + 1), init_params=start, extra_fields=fields)
    jax.block_until_ready(sampler.get_samples())
found["again"] = cpu() - began
if way != "refine":  # the same run once more, for what its warm-up took
    sampler.warmup(jax.random.key(seed), init_params=start, extra_fields=("num_steps",), collect_warmup=True)
    found["gradients"] += int(sampler.get_extra_fields()["num_steps"].sum())
values, known = target.constrain(z), store.load()[name]["constrained"]
flat = {}
for site, value in values.items():
    for index in np.ndindex(value.shape[1:]):
        flat[label(site, index)] = np.asarray(value[(slice(None), *index)], float)
x = np.stack([flat[name] for name in known["names"]], axis=1)
found["ess"] = float(np.nanmin(worth.ess_bulk(x.reshape(chains, -1, x.shape[1]))))
sd = np.where(np.array(known["sd"]) > 0, known["sd"], np.inf)
found["error"] = float(np.max(np.abs(x.mean(axis=0) - known["mean"]) / sd))
found["dim"] = target.dim
print(json.dumps(found))
"""


def measure(name: str, way: str, seed: int) -> dict:
    """One fresh process."""
    done = subprocess.run([sys.executable, "-c", CHILD, name, way, str(seed)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str] = ()) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks refine", description=__doc__)
    parser.add_argument("names", nargs="*", default=MODELS)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    print(machine.described(), "\n")
    print(
        "| posterior (dim) | how | CPU-s | again | gradients | min ESS | gradients / ESS | divergences | worst mean |"
    )
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|")
    for name in asked.names:
        for way, words in WAYS.items():
            x = measure(name, way, asked.seed)
            cpu = f"{x['cpu']:.1f}" + (f" (fit {x['fit']:.1f})" if "fit" in x else "")
            verdict = f", {x['before']} > {x['verdict']}" if "verdict" in x else ""
            cells = (f"{name} ({x['dim']})", words + verdict, cpu, f"{x['again']:.1f}", f"{x['gradients']:,}")
            more = (f"{x['ess']:,.0f}", f"{x['gradients'] / x['ess']:,.0f}", x["divergences"], f"{x['error']:.3f}")
            print("| " + " | ".join(map(str, (*cells, *more))) + " |", flush=True)
