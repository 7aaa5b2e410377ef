"""Fits on one device and on several, for `test_devices.py`: a script, since devices are counted when JAX starts.

    python spread.py CASES [--devices 8] [--processes 4 --number 0 --port 12345] [--double]

prints for each case a line of JSON: its name, then means, log sds and the bound, by what they are called. `--beside`
runs each on one device too, in the same process; `--die 1` kills process 1 on the way.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import vbppl as vb
import vbppl.distributions as dist

ROWS, GROUPS, PIXELS = 101, 5, 6  # neither 8 devices nor 4 processes divide the rows
RNG = np.random.default_rng(0)
DATA = {"x": RNG.normal(size=(ROWS, 2)), "group": RNG.integers(0, GROUPS, ROWS)}
DATA["y"] = DATA["x"] @ [1.0, -0.5] + RNG.normal(size=GROUPS)[DATA["group"]] + 0.5 * RNG.normal(size=ROWS)
IMAGES = (RNG.random((ROWS, PIXELS)) < 0.2 + 0.6 * RNG.integers(0, 2, (ROWS, 1))).astype(float)


@vb.model
def hierarchy(x, y, group, groups):
    slope = vb.sample("slope", dist.Normal(0.0, 1.0).expand((2,)).to_event(1))
    spread = vb.sample("spread", dist.HalfNormal(1.0))
    with vb.plate("group", groups):
        level = vb.sample("level", dist.Normal(0.0, spread))
    with vb.plate("row", len(y)):
        mean = vb.subsample(x, event_dim=1) @ slope + level[vb.subsample(group)]
        vb.sample("y", dist.Normal(mean, 0.5), obs=vb.subsample(y))


@vb.model
def autoencoder(images):
    weights = vb.param(
        "decoder", {"w": 0.1 * np.arange(2.0 * PIXELS).reshape(2, PIXELS) / PIXELS, "b": np.zeros(PIXELS)}
    )
    with vb.plate("image", len(images)):
        z = vb.sample("z", dist.Normal(0.0, 1.0).expand((2,)).to_event(1))
        pixels = dist.Bernoulli(logits=z @ weights["w"] + weights["b"]).to_event(1)
        vb.sample("pixels", pixels, obs=vb.subsample(images, event_dim=1))


def encode(weights, images):
    return images @ weights["w"], jnp.exp(weights["s"]) * jnp.ones((len(images), 2))


def encoder():
    first = {"w": np.ones((PIXELS, 2)) / PIXELS, "s": np.zeros(2)}
    return vb.Amortized("z", encode, reads="images", params=first)


def told(posterior: vb.Posterior, *names: str) -> dict:
    mean, sd = posterior.mean(), posterior.sd()
    found = {f"mean {name}": np.asarray(mean[name]).tolist() for name in names}
    found |= {f"log sd {name}": np.log(sd[name]).tolist() for name in names}
    return found | {"bound": posterior.elbo.value}


def applied(data: dict) -> vb.Model:
    return hierarchy(data["x"], data["y"], data["group"], GROUPS)


def fixed(shared, data):
    return told(vb.fit(applied(shared(data)), "mean_field"), "slope", "spread", "level")


def minibatch(shared, data):
    posterior = vb.fit(applied(shared(data)), "mean_field", batch_size={"row": 30}, method=vb.Stochastic(steps=60))
    return told(posterior, "slope", "spread", "level")


def vae(shared, data):
    posterior = vb.fit(autoencoder(shared(data)["images"]), encoder(), batch_size=20, method=vb.Stochastic(steps=50))
    weights = jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), posterior.params["decoder"])
    return weights | {"bound": posterior.elbo.value}


def predicted(shared, data):
    posterior = vb.fit(applied(shared(data)), "mean_field")
    drawn, likelihood = posterior.predict(n=8)["y"], posterior.log_likelihood(n=8)["y"]
    return {"y": np.asarray(drawn).tolist(), "likelihood": np.asarray(likelihood).tolist()}


def many(shared, data):
    sets = [{"x": data["x"], "y": data["y"] + k, "group": data["group"], "groups": GROUPS} for k in range(3)]
    fits = vb.fit_many(hierarchy, [shared(each) for each in sets], "mean_field")
    return {f"{k} {name}": value for k, each in enumerate(fits) for name, value in told(each, "level").items()}


def source(shared, data):
    arrays = hierarchy(*(np.asarray(data[name]) for name in ("x", "y", "group")), GROUPS)
    x, y, group = (vb.Source(each) for each in arrays.arrays)
    if shared is not alone:
        x, y, group = vb.shard(x, y, group)
    steps = vb.Stochastic(steps=60)
    # 30 rows are not shared evenly by four processes.
    posterior = vb.fit(hierarchy(x, y, group, GROUPS), "mean_field", batch_size={"row": 30}, method=steps)
    likelihood = np.asarray(posterior.log_likelihood(n=8)["y"]).tolist()
    return told(posterior, "slope", "spread", "level") | {"likelihood": likelihood}


def kept(shared, data):
    """A fit that keeps itself in a file, and is killed on the way where that is asked for."""

    def watch(now: vb.inference.Progress) -> None:
        if now.step >= 60 and ASKED.die == ASKED.number:
            os.kill(os.getpid(), signal.SIGKILL)

    path = ASKED.folder / "fit.ckpt" if ASKED.folder.exists() else None
    steps = vb.Stochastic(steps=100, every=20)
    model, batch = applied(shared(data)), {"row": 30}
    posterior = vb.fit(model, "mean_field", batch_size=batch, method=steps, callback=watch, checkpoint=path)
    return told(posterior, "slope", "spread", "level")


@vb.model
def slopes(x, y):
    slope = vb.sample("slope", dist.Normal(0.0, 1.0).expand((2,)).to_event(1))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(vb.subsample(x, event_dim=1) @ slope, 1.0), obs=vb.subsample(y))


@vb.model
def line(x, y):
    slope = vb.sample("slope", dist.Normal(0.0, 1.0).expand((20,)).to_event(1))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(vb.subsample(x, event_dim=1) @ slope, 1.0), obs=vb.subsample(y))


def few(shared, data):
    """What is quick to compile: on fixed draws, and in minibatches."""
    x, y = (shared(data)[name] for name in ("x", "y"))
    numbers = told(vb.fit(slopes(x, y), "mean_field"), "slope")
    steps = told(vb.fit(slopes(x, y), "mean_field", batch_size=30, method=vb.Stochastic(steps=40)), "slope")
    return numbers | {f"{name} in minibatches": value for name, value in steps.items()}


def memory(shared, data):
    """The peak of a process that fits rows of a memory map, of which it loads its own."""
    table = np.load(ASKED.folder / "rows.npy", mmap_mode="r")
    ends = np.linspace(0, len(table), ASKED.processes + 1).astype(int)
    mine = slice(ends[ASKED.number], ends[ASKED.number + 1])
    x, y = table[mine, 1:], table[mine, 0]
    x, y = vb.shard(x, y) if ASKED.processes > 1 else (np.array(x), np.array(y))
    posterior = vb.fit(line(x, y), "mean_field", batch_size=1000, method=vb.Stochastic(steps=50))
    return told(posterior, "slope") | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10}


CASES = {case.__name__: case for case in (fixed, minibatch, vae, predicted, many, few, source, kept, memory)}


def alone(given):
    """All rows, on one device."""
    return given


def on_many(given):
    """The rows of this process, over all devices."""
    rows = np.array_split(np.arange(ROWS), ASKED.processes)[ASKED.number]
    names = [name for name, value in given.items() if np.ndim(value)]
    return given | dict(zip(names, vb.shard([given[name][rows] for name in names])))


def main() -> None:
    warnings.simplefilter("ignore")
    jax.config.update("jax_enable_x64", ASKED.double)
    if ASKED.processes > 1:
        brief = {"heartbeat_timeout_seconds": 20, "shutdown_timeout_seconds": 20}
        jax.distributed.initialize(f"127.0.0.1:{ASKED.port}", ASKED.processes, ASKED.number, **brief)
    else:
        jax.config.update("jax_num_cpu_devices", ASKED.devices)
    data = {**DATA, "images": IMAGES}
    shared = on_many if ASKED.devices > 1 or ASKED.processes > 1 else alone
    for name in ASKED.cases:
        print(json.dumps({"case": name, **CASES[name](shared if not ASKED.beside else alone, data)}), flush=True)
        if ASKED.beside:
            print(json.dumps({"case": f"shared {name}", **CASES[name](shared, data)}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--port", default="0")
    parser.add_argument("--double", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--single", dest="double", action="store_false")
    parser.add_argument("--beside", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--die", type=int)
    ASKED = parser.parse_args()
    main()
