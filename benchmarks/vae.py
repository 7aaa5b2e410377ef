"""A variational autoencoder against the best loop by hand and against NumPyro: `python -m benchmarks vae`.

The net is a multilayer perceptron 784-400-20, batches of 128 of MNIST's size (random pixels unless `--data` names
an archive with `xtr`), Adam, closed-form divergence. All three make the same step: indices without replacement,
rows gathered from an array on the device, one draw a row. They take turns, so that a busy machine slows all of
them; a ratio is the median of the ratios of neighbours. Peak memory is that of a fresh process for each, beyond the
user's images.

`--train-minutes M --data mnist.npz` instead trains 784-200-200-50 for M minutes in all, half of them with the
evidence lower bound and half with five importance-weighted draws, and reports the test log likelihood by 5,000
importance samples. A pixel is white with the probability of its intensity, drawn once before training: as
in the images of Salakhutdinov and Murray (2008) that the literature reports on, but other draws. `--threshold` makes a
pixel white above half of full intensity instead, which leaves easier images.
"""

from __future__ import annotations

import argparse
import functools
import math
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import vbppl as vb
import vbppl.distributions as dist
from benchmarks import machine
from vbppl.core.keys import host_generator, raw_key
from vbppl.data.shuffle import Minibatches
from vbppl.guides.base import Start
from vbppl.inference.stochastic import step
from vbppl.inference.stochastic.objectives import ClosedForm
from vbppl.inference.stochastic.optimizers import Optax
from vbppl.target.target import Target

PIXELS, HIDDEN, LATENT, BATCH = 784, (400,), 20, 128
CHUNK, TURNS = 50, 15
RATE = 1e-3


def layers(key: Any, *sizes: int) -> list[dict[str, np.ndarray]]:
    """Weights of a perceptron with these sizes: normal, variance 2 over the number of inputs."""
    rng = np.random.default_rng(key)
    pairs = zip(sizes[:-1], sizes[1:])
    return [
        {"w": (rng.standard_normal((i, o)) * math.sqrt(2 / (i + o))).astype(np.float32), "b": np.zeros(o, np.float32)}
        for i, o in pairs
    ]


def mlp(weights: list[dict[str, Any]], x: Any) -> Any:
    """The perceptron, with rectified layers between."""
    for layer in weights[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ weights[-1]["w"] + weights[-1]["b"]


def encode(weights: list[dict[str, Any]], x: Any) -> tuple[Any, Any]:
    """Mean and sd of each row's latent vector."""
    loc, log_sd = jnp.split(mlp(weights, x), 2, axis=-1)
    return loc, jnp.exp(log_sd)


@vb.model
def vae(x, decoder):
    """A standard normal prior, a perceptron, black or white pixels. `decoder`: the sizes of its layers."""
    weights = vb.param("decoder", layers(1, *decoder))
    with vb.plate("row", len(x)):
        z = vb.sample("z", dist.Normal(0.0, 1.0).expand([decoder[0]]).to_event(1))
        vb.sample("x", dist.Bernoulli(logits=mlp(weights, z)).to_event(1), obs=vb.subsample(x, 1))


def parts(hidden: tuple[int, ...], latent: int) -> tuple[tuple[int, ...], vb.Amortized]:
    """The sizes of the decoder, and the guide."""
    encoder = layers(0, PIXELS, *hidden, 2 * latent)
    return (latent, *hidden[::-1], PIXELS), vb.Amortized("z", encode, reads="x", params=encoder)


class Ours:
    """The compiled loop of vbppl."""

    def __init__(self, x: np.ndarray):
        sizes, guide = parts(HIDDEN, LATENT)
        target = Target.of(vae(x, sizes))
        target = target_showing(target, BATCH)
        shown = target.replace(rows={"row": np.arange(BATCH, dtype=np.int32)})
        noise = guide.noise(shown).stratified(host_generator(raw_key(0), "strata"), 1)
        phi = guide.init(target, Start(np.zeros(target.dim, np.float32)))
        stream = Minibatches((("row", len(x), BATCH),))
        optimizer = Optax(optax.adam(RATE))
        self.setup = jax.device_put(step.Setup(target, guide, ClosedForm(), optimizer, stream, noise, raw_key(0)))
        self.position = step.first_position(self.setup, {"guide": phi, "model": target.params})
        self.phase = step.Phase(0, 10**6, 10**6, 10**6).as_data()

    def chunk(self) -> float:
        """Make `CHUNK` more steps; the mean bound of a row."""
        found = step.run_chunk(self.setup, self.position, np.int32(CHUNK), self.phase, careful=False)
        self.position, bounds, _ = found
        return float(np.asarray(bounds)[:CHUNK].mean()) / self.setup.minibatches.plates[0][1]


def target_showing(target: Target, batch: int) -> Target:
    """The target that shows so many rows at a time."""
    return target.replace(layout=target.layout.showing({"row": batch}))


class ByHand:
    """The limit: a `scan` over shuffled indices, written for this one model."""

    def __init__(self, x: np.ndarray):
        self.x, self.adam = jnp.asarray(x), optax.adam(RATE)
        params = (layers(0, PIXELS, *HIDDEN, 2 * LATENT), layers(1, LATENT, *HIDDEN, PIXELS))
        params = jax.tree.map(jnp.asarray, params)
        self.carry, self.key = (params, self.adam.init(params)), jax.random.key(0)
        self.rng, self.left = np.random.default_rng(0), np.zeros(0, np.int32)

        def loss(params, x, key):
            loc, log_sd = jnp.split(mlp(params[0], x), 2, axis=-1)
            sd = jnp.exp(log_sd)
            logits = mlp(params[1], loc + sd * jax.random.normal(key, loc.shape))
            likelihood = jnp.sum(x * logits - jax.nn.softplus(logits))
            return -(likelihood - jnp.sum(sd**2 + loc**2 - 1 - 2 * log_sd) / 2) / len(x)

        @functools.partial(jax.jit, donate_argnums=0)
        def run(carry, x, rows, keys):
            def step(carry, at):
                params, moments = carry
                value, slope = jax.value_and_grad(loss)(params, x[at[0]], at[1])
                update, moments = self.adam.update(slope, moments, params)
                return (optax.apply_updates(params, update), moments), -value

            return jax.lax.scan(step, carry, (rows, keys))

        self.run = run

    def rows(self) -> np.ndarray:
        """The indices of the next chunk, each row once an epoch."""
        while len(self.left) < CHUNK * BATCH:
            self.left = np.append(self.left, self.rng.permutation(len(self.x)).astype(np.int32))
        taken, self.left = np.split(self.left, [CHUNK * BATCH])
        return taken.reshape(CHUNK, BATCH)

    def chunk(self) -> float:
        """Make `CHUNK` more steps; the mean bound of a row."""
        self.key, key = jax.random.split(self.key)
        self.carry, bounds = self.run(self.carry, self.x, self.rows(), jax.random.split(key, CHUNK))
        return float(np.asarray(bounds).mean())


class NumPyro(ByHand):
    """NumPyro's `SVI.update` in a scan written by hand, which is how its users make it fast."""

    def __init__(self, x: np.ndarray):
        import numpyro
        import numpyro.distributions as peer
        from numpyro.infer import SVI, TraceMeanField_ELBO

        def net(name, weights, x):
            learnt = [
                {part: numpyro.param(f"{name}_{i}_{part}", value) for part, value in layer.items()}
                for i, layer in enumerate(weights)
            ]
            return mlp(learnt, x)

        encoder, decoder = layers(0, PIXELS, *HIDDEN, 2 * LATENT), layers(1, LATENT, *HIDDEN, PIXELS)

        def model(x):
            with numpyro.plate("row", len(x)):
                z = numpyro.sample("z", peer.Normal(0.0, 1.0).expand([LATENT]).to_event(1))
                logits = net("decoder", decoder, z)
                numpyro.sample("x", peer.Bernoulli(logits=logits).to_event(1), obs=x)

        def guide(x):
            loc, log_sd = jnp.split(net("encoder", encoder, x), 2, axis=-1)
            with numpyro.plate("row", len(x)):
                numpyro.sample("z", peer.Normal(loc, jnp.exp(log_sd)).to_event(1))

        svi = SVI(model, guide, optax.adam(RATE), TraceMeanField_ELBO())
        self.x = jnp.asarray(x)
        self.carry, self.key = svi.init(jax.random.key(0), self.x[:BATCH]), jax.random.key(0)
        self.rng, self.left = np.random.default_rng(0), np.zeros(0, np.int32)

        @functools.partial(jax.jit, donate_argnums=0)
        def run(state, x, rows, keys):
            return jax.lax.scan(lambda state, at: svi.update(state, x[at]), state, rows)

        self.run = run

    def chunk(self) -> float:
        """Make `CHUNK` more steps; the mean bound of a row."""
        self.carry, losses = self.run(self.carry, self.x, self.rows(), None)
        return -float(np.asarray(losses).mean()) / BATCH


CONTENDERS: dict[str, Callable[[np.ndarray], Any]] = {"by hand": ByHand, "vbppl": Ours, "NumPyro": NumPyro}


def images(path: str, which: str = "xtr", drawn: bool = False) -> np.ndarray:
    """Black and white images, `(rows, 784)`: of an archive, by threshold or drawn once, or random ones."""
    if path:
        found = np.load(path)[which]
        black = (
            255 * np.random.default_rng(zlib.crc32(which.encode())).random(found.shape, np.float32) if drawn else 127
        )
        return (found > black).astype(np.float32)
    return (np.random.default_rng(0).random((60_000, PIXELS), np.float32) < 0.13).astype(np.float32)


def seconds(contender: Any) -> float:
    """Of a chunk."""
    began = time.perf_counter()
    contender.chunk()
    return time.perf_counter() - began


def peak_memory(name: str, path: str) -> float:
    """Of a fresh process that makes some chunks, in MB."""
    command = [sys.executable, "-m", "benchmarks", "vae", "--", "--only", name, "--data", path]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def compare(path: str, turns: int, memory: bool = True) -> None:
    """Print the table."""
    x, contenders = images(path), {}
    for name, make in CONTENDERS.items():
        try:
            contenders[name] = make(x)
        except ImportError:
            print(f"{name} cannot be imported here.")
    print("bound of a row after the first chunks:")
    for name, contender in contenders.items():
        values = [contender.chunk() for _ in range(4)]
        print(f"  {name}: {', '.join(f'{value:.1f}' for value in values)}", flush=True)
    times = np.array([[seconds(contender) for contender in contenders.values()] for _ in range(turns)])
    print("\n| loop | images a second | time over by hand | peak memory, MB |\n|---|--:|--:|--:|")
    for i, name in enumerate(contenders):
        speed, ratio = CHUNK * BATCH / np.median(times[:, i]), np.median(times[:, i] / times[:, 0])
        held = f"{peak_memory(name, path):,.0f}" if memory else ""
        print(f"| {name} | {speed:,.0f} | {ratio:.3f} | {held} |", flush=True)


def train(path: str, minutes: float, numbers: list[int], test_rows: int, seed: int, drawn: bool) -> None:
    """Train with each number of draws, and print what it has reached."""
    x, test = images(path, drawn=drawn), images(path, "xte", drawn)
    x, kept = x[:55_000], x[55_000:57_000]
    rng = np.random.default_rng(seed)
    test = test[rng.permutation(len(test))[:test_rows]]
    pixels = "pixels drawn once" if drawn else "pixels above 127 white"
    print(f"784-200-200-50, batch {BATCH}, Adam {RATE} falling to a hundredth; {pixels}")
    for draws in numbers:
        objective = None if draws == 1 else vb.inference.ImportanceWeighted()
        sizes, guide = parts((200, 200), 50)
        steps = int(minutes / len(numbers) * 60 / seconds_a_step(vae(x, sizes), guide, draws, objective))
        optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps, 0.01))
        method = vb.Stochastic(
            optimizer=optimizer, steps=steps, draws=draws, objective=objective, average=False,
            every=min(1000, max(1, steps // 20)), validation=vb.inference.Validation(vae(kept, sizes), patience=10),
        )  # fmt: skip
        began, spent = time.perf_counter(), time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", vb.VbpplWarning)
            posterior = vb.fit(vae(x, sizes), guide, batch_size=BATCH, method=method, seed=seed, progress=False)
        epochs = posterior.status.steps * BATCH / len(x)
        took, spent = (time.perf_counter() - began) / 60, (time.process_time() - spent) / 60
        print(f"\nK = {draws}: {epochs:.1f} epochs in {took:.1f} minutes, {spent:.1f} CPU minutes")
        print(posterior.check(), flush=True)
        print(f"test bound {vb_bound(posterior, test, sizes):.2f} nats an image")
        print(f"test log likelihood {posterior.log_evidence(vae(test, sizes))}")
        print(f"on test images {posterior.amortisation_gap(vae(test, sizes), rows=100)}", flush=True)


def vb_bound(posterior: vb.Posterior, test: np.ndarray, sizes: tuple[int, ...]) -> float:
    """The evidence lower bound of a test image: the mean of single importance weights."""
    return float(np.mean([posterior.log_evidence(vae(test, sizes), n=1, seed=s).values.mean() for s in range(20)]))


def seconds_a_step(model: vb.Model, guide: Any, draws: int, objective: Any) -> float:
    """Measured on a short fit, which compiles what the long one uses."""
    target = target_showing(Target.of(model), BATCH)
    objective = objective or ClosedForm()
    noise = guide.noise(target.replace(rows={"row": np.arange(BATCH, dtype=np.int32)}))
    rng = host_generator(raw_key(0), "strata")
    noise = noise.unstratified(draws) if objective.needs_independent_draws else noise.stratified(rng, draws)
    phi = guide.init(target, Start(np.zeros(target.dim, np.float32)))
    stream, adam = Minibatches((("row", len(model.arrays[0]), BATCH),)), Optax(optax.adam(RATE))
    setup = jax.device_put(step.Setup(target, guide, objective, adam, stream, noise, raw_key(0)))
    position = step.first_position(setup, {"guide": phi, "model": target.params})
    phase, spent = step.Phase(0, 10**6, 10**6, 10**6).as_data(), []
    for _ in range(4):
        began = time.perf_counter()
        position, bounds, _ = step.run_chunk(setup, position, np.int32(100), phase, careful=False)
        np.asarray(bounds)
        spent.append(time.perf_counter() - began)
    return float(np.median(spent[1:])) / 100


def main(arguments: list[str]) -> None:
    """Print the table, or train."""
    parser = argparse.ArgumentParser("python -m benchmarks vae", description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="", help="an archive with uint8 images: xtr, xte, (rows, 784)")
    parser.add_argument("--turns", type=int, default=TURNS, help="chunks that each loop makes")
    parser.add_argument("--train-minutes", type=float, default=0.0, help="train instead, for so many minutes")
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 5], help="draws a row and step, in turn")
    parser.add_argument("--test-rows", type=int, default=1000, help="test images whose log likelihood is estimated")
    parser.add_argument("--threshold", action="store_true", help="white above half of full intensity")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory, a process for each loop")
    parser.add_argument("--only", choices=CONTENDERS, help="make some chunks of one loop; print its peak memory")
    options = parser.parse_args(arguments)
    if options.only:
        x, memory = images(options.data), machine.Memory()
        contender = CONTENDERS[options.only](x)
        for _ in range(4):
            contender.chunk()
        print(memory.peak())
        return
    print(f"{machine.described()}\n")
    if options.train_minutes:
        drawn = not options.threshold
        train(options.data, options.train_minutes, options.draws, options.test_rows, options.seed, drawn)
    else:
        compare(options.data, options.turns, not options.no_memory)
