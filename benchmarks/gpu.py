"""Fits on the accelerator beside the same fits on the processor: `python -m benchmarks gpu`, at most eight minutes.

First whole fits, in a process for each platform: what a user waits for, how far the two answers are apart, and what
the host asks of the device: programs launched, arrays sent and fetched, the kernels that these became, and the share
of the time in which the device computes. Then the loops of `overhead`, `minibatch` and `vae` as they stand. Without an
accelerator the script runs on the processor alone and says so.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

import vbppl as vb
from benchmarks import machine, minibatch, models, vae
from benchmarks.posteriors import regressions

SECONDS = 480  # for all
SHORT = {
    "overhead": ["--budget", "0.5"],
    "minibatch": ["--repetitions", "5", "--no-memory"],
    "vae": ["--turns", "10", "--no-memory"],
}


def wide(rows: int = 100_000, columns: int = 100) -> vb.Model:
    """A logistic regression that is worth a device."""
    return models.logistic(*minibatch.data(rows, columns))


def million(steps: int = 4000) -> vb.Posterior:
    """A million rows, by batches of 1,024."""
    x, y = minibatch.data(1_000_000, 100)
    method = vb.Stochastic(steps=steps)
    return vb.fit(minibatch.logistic(x, y), "mean_field", batch_size=minibatch.BATCH, method=method)


def epoch() -> vb.Posterior:
    """An epoch of an autoencoder's training on 60,000 images."""
    sizes, guide = vae.parts(vae.HIDDEN, vae.LATENT)
    x = vae.images("")
    method = vb.Stochastic(optax.adam(vae.RATE), steps=len(x) // vae.BATCH, draws=1)
    return vb.fit(vae.vae(x, sizes), guide, batch_size=vae.BATCH, method=method)


FITS: dict[str, Callable[[], vb.Posterior]] = {
    "eight schools": lambda: vb.fit(models.cases()[0].model),
    "diabetes, raw columns": lambda: vb.fit(regressions.diabetes()),
    "breast cancer, 31 dims": lambda: vb.fit(regressions.breast_cancer()),
    "logistic 100,000 x 100": lambda: vb.fit(wide()),
    "logistic 10^6 x 100, 4,000 steps of 1,024": million,
    "autoencoder, one epoch": epoch,
}


def traced(call: Callable[[], Any]) -> dict[str, float]:
    """What a profile of `call` shows: programs launched, copies and kernels on the device, its busy seconds."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # a trace of Python slows it down several times
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            call()
        (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        planes = list(jax.profiler.ProfileData.from_file(path).planes)
    found = {"launches": 0, "sent": 0, "fetched": 0, "kernels": 0, "busy": 0.0}
    for plane in planes:
        for line in plane.lines:
            for event in line.events:
                if plane.name.startswith("/host"):
                    found["launches"] += "ExecuteHelper" in event.name
                elif line.name.startswith("Stream"):
                    found[{"MemcpyH2D": "sent", "MemcpyD2H": "fetched"}.get(event.name, "kernels")] += 1
                    found["busy"] += event.duration_ns / 1e9
    return found


def measured(name: str) -> dict[str, Any]:
    """The first fit of this process, the second, and a third under the profiler."""
    fit, found = FITS[name], {"name": name}
    for which in ("first", "second"):
        began = time.perf_counter()
        posterior = fit()
        found[which] = time.perf_counter() - began
    found |= traced(fit)
    found |= {"gradients": posterior.status.gradients, "verdict": posterior.check().verdict}
    if not isinstance(posterior.guide, vb.Amortized):  # whose millions of latent numbers are not compared
        plain = posterior.uncorrected()
        for key, values in (("mean", plain.mean()), ("sd", plain.sd())):
            found[key] = np.concatenate([np.ravel(values[name]) for name in sorted(values)]).tolist()
    return found


def table(platforms: dict[str, list[dict[str, Any]]]) -> None:
    """Print the fits, one row for each platform."""
    counted = "gradients | launches | sent | fetched | kernels"
    print(f"| fit | where | first, s | second, s | {counted} | busy | verdict | apart, sd |")
    print("|---|---|" + "--:|" * 8 + "---|--:|")
    first = {row["name"]: row for row in next(iter(platforms.values()))}
    for name in FITS:
        for platform, rows in platforms.items():
            for row in (row for row in rows if row["name"] == name):
                apart = "" if row is first[name] or "mean" not in row else f"{distance(first[name], row):.3f}"
                counts = " | ".join(
                    f"{row[key]:,.0f}" for key in ("gradients", "launches", "sent", "fetched", "kernels")
                )
                share = f"{100 * row['busy'] / row['second']:.0f}%" if row["busy"] else ""
                print(
                    f"| {name} | {platform} | {row['first']:.2f} | {row['second']:.3f} | {counts} | {share}"
                    f" | {row['verdict']} | {apart} |"
                )


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of a mean, in sds, or of a log sd."""
    sd = np.array(one["sd"])
    means = np.abs(np.array(one["mean"]) - np.array(other["mean"])) / sd
    return float(max(means.max(), np.abs(np.log(np.array(other["sd"]) / sd)).max()))


def fits_on(platform: str, seconds: float) -> list[dict[str, Any]]:
    """The rows of a fresh process on `platform`, as far as it came."""
    environment = {**os.environ, "JAX_PLATFORMS": platform}
    command = [sys.executable, "-m", "benchmarks", "gpu", "--", "--only-fits"]
    rows = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        deadline = time.monotonic() + seconds
        for line in process.stdout:
            rows.append(json.loads(line))
            if time.monotonic() > deadline:
                print(f"No more fits on {platform}: {seconds:.0f} s are over.")
                process.kill()
    return rows


def main(arguments: list[str]) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser("python -m benchmarks gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all")
    parser.add_argument("--only-fits", action="store_true", help="the fits on this process's platform, as JSON lines")
    options = parser.parse_args(arguments)
    if options.only_fits:
        warnings.simplefilter("ignore", vb.VbpplWarning)
        for name in FITS:
            print(json.dumps(measured(name)), flush=True)
        return
    began, device = time.monotonic(), jax.default_backend()
    if device == "cpu":
        print("No accelerator here: the processor alone.")
    print(f"{machine.described()}; {jax.devices()[0].device_kind}\n", flush=True)
    found, seconds = {"cpu": fits_on("cpu", options.seconds / 4)}, options.seconds / 4
    if device != "cpu":
        name = {"gpu": "cuda"}.get(device, device)
        found[name] = fits_on(name, seconds)
    table(found)
    for suite, short in SHORT.items():
        left = options.seconds - (time.monotonic() - began)
        print(f"\n## {suite}\n", flush=True)
        try:
            subprocess.run([sys.executable, "-m", "benchmarks", suite, "--", *short], timeout=max(left, 1.0))
        except subprocess.TimeoutExpired:
            print(f"Cut off: the {options.seconds:.0f} s are over.")
