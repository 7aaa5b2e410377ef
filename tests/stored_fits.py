"""Fits of every kind that a file must hold, made here and loaded in another process: `stored_fits.py FOLDER compare`.

Each gives its model anew, the guide where it holds code, and answers, which must be to the bit what they were.
"""

from __future__ import annotations

import dataclasses
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.pytree import pytree
from vbppl.guides.base import Guide

RNG = np.random.default_rng(0)
X = np.linspace(-1.0, 1.0, 30)
Y = 0.7 * X + 0.2 * np.sin(9.0 * np.arange(30))
GROUPS, SIZES = np.repeat(np.arange(6), 5), RNG.normal(size=30) + np.repeat(RNG.normal(size=6), 5)
IMAGES = (RNG.random((64, 12)) < 0.3).astype(np.float32)
STEPS = vb.Stochastic(steps=60, draws=4)


@vb.model
def line(x, y=None):
    slope = vb.sample("slope", dist.Normal(0.0, 1.0))
    noise = vb.sample("noise", dist.HalfNormal(1.0))
    vb.deterministic("doubled", 2 * slope)
    with vb.plate("row", len(x)):
        x = vb.subsample(x)
        vb.sample("y", dist.Normal(slope * x, noise), obs=None if y is None else vb.subsample(y))


@vb.model
def groups(group, count, y=None):
    mu, tau = vb.sample("mu", dist.Normal(0.0, 1.0)), vb.sample("tau", dist.HalfNormal(1.0))
    with vb.plate("group", count):
        level = vb.sample("level", dist.Normal(mu, tau))
    with vb.plate("row", len(group)):
        vb.sample("y", dist.Normal(level[group], 0.5), obs=y)


@vb.model
def two_humps():
    x = vb.sample("x", dist.Normal(0.0, 3.0))
    vb.factor("data", jnp.logaddexp(-2 * (x - 3) ** 2, -2 * (x + 3) ** 2))


@vb.model
def autoencoder(images, size):
    weights = vb.param("decoder", {"w": 0.1 * jnp.ones((2, 12)), "b": jnp.zeros(12)})
    with vb.plate("image", size):
        z = vb.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        logits = z @ weights["w"] + weights["b"]
        vb.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=vb.subsample(images, event_dim=1))


def encode(weights, images):
    hidden = images @ weights["w"]
    return hidden[..., :2], jnp.exp(0.1 * hidden[..., 2:])


def encoder() -> Any:
    return vb.Amortized("z", encode, reads="images", params={"w": 0.01 * jnp.ones((12, 4))})


def module_encoder() -> Any:
    import equinox as eqx

    class Net(eqx.Module):
        inner: eqx.nn.MLP

        def __call__(self, images):
            found = jax.vmap(self.inner)(images)
            return found[..., :2], jnp.exp(0.1 * found[..., 2:])

    return vb.Amortized("z", Net(eqx.nn.MLP(12, 4, 8, 1, key=jax.random.key(0))), reads="images")


def nnx_encoder() -> Any:
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.inner, self.norm = nnx.Linear(12, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)

        def __call__(self, images):
            found = self.norm(self.inner(images))
            return found[..., :2], jnp.exp(0.1 * found[..., 2:])

    return vb.Amortized("z", Net(nnx.Rngs(0)), reads="images")


@vb.guide
def program(x, y=None):
    loc, scale = (
        vb.param("loc", jnp.zeros(2)),
        vb.param("scale", 0.1 * jnp.ones(2), constraint=dist.constraints.positive),
    )
    vb.sample("slope", dist.Normal(loc[0], scale[0]))
    vb.sample("noise", dist.LogNormal(loc[1], scale[1]))


@pytree
class Own(Guide):
    """A family of the user's own."""

    def init(self, target, start):
        return {1: start.loc, 2: jnp.full_like(start.loc, -1.0)}  # keys that JSON has not

    def transform(self, phi, noise):
        return phi[1] + jnp.exp(phi[2]) * noise

    def log_prob(self, phi, z, target):
        e = (z - phi[1]) * jnp.exp(-phi[2])
        return -(e**2 / 2 + phi[2] + jnp.log(2 * jnp.pi) / 2).sum(-1)


class Case(NamedTuple):
    """A model made anew, how it is fitted, and the guide, where it holds code."""

    model: Any
    fit: Any
    guide: Any = None
    new: Any = None  # other data of the same model


def fitted(guide: Any = "auto", **how: Any) -> Any:
    return lambda model: vb.fit(model, guide() if callable(guide) else guide, **how)


def straight() -> Any:
    return line(X, Y)


def grouped() -> Any:
    return groups(GROUPS, 6, SIZES)


def images() -> Any:
    return autoencoder(IMAGES, 64)


def on_disk() -> Any:
    path = Path(sys.argv[1] if __name__ == "__main__" else "/nowhere") / "images.npy"
    return autoencoder(np.load(path, mmap_mode="r"), 64)


def literal() -> Any:
    return line(np.array([-1.0, -0.5, 0.0, 0.5, 1.0]), np.array([-0.7, -0.3, 0.1, 0.4, 0.6]))


LINE = {"new": lambda: line(np.linspace(2.0, 3.0, 4))}
CASES = {
    "auto": Case(straight, fitted(), **LINE),
    "mean_field": Case(straight, fitted("mean_field"), **LINE),
    "low_rank": Case(grouped, fitted("low_rank")),
    "copula": Case(straight, fitted("copula"), **LINE),
    "mixture": Case(two_humps, fitted(vb.guides.Mixture(2))),
    "laplace": Case(straight, fitted(vb.Laplace()), **LINE),
    "map": Case(straight, fitted(vb.MAP()), **LINE),
    "structured": Case(grouped, fitted(vb.guides.Structured("group"), method=STEPS)),
    "conditionally structured": Case(grouped, fitted(vb.guides.ConditionallyStructured())),
    "conditional laplace": Case(grouped, fitted(vb.guides.ConditionalLaplace())),
    "decentered": Case(lambda: vb.decenter(grouped(), "level"), fitted("mean_field")),
    "conditioned": Case(lambda: straight().condition(noise=0.3), fitted("mean_field")),
    "double": Case(straight, fitted("full_rank", precision="float64"), **LINE),
    "poor": Case(two_humps, fitted("full_rank")),
    "minibatch": Case(straight, fitted("full_rank", batch_size=10, method=STEPS), **LINE),
    "refined": Case(straight, lambda model: vb.refine(vb.fit(model, "mean_field"), n=100, chains=2), **LINE),
    "kept": Case(literal, lambda model: thinned(vb.refine(vb.fit(model, "mean_field"), n=30, chains=2)), **LINE),
    "density": Case(lambda: vb.density(bowl, 2), fitted("full_rank")),
    "encoder": Case(images, fitted(encoder, method=STEPS), encoder, lambda: autoencoder(IMAGES[:5], 5)),
    "encoder in minibatches": Case(images, fitted(encoder, batch_size=16, method=STEPS), encoder),
    "module": Case(images, fitted(module_encoder, method=STEPS), module_encoder, lambda: autoencoder(IMAGES[:5], 5)),
    "batch norm": Case(images, fitted(nnx_encoder, method=STEPS), nnx_encoder),
    "on disk": Case(on_disk, fitted(encoder, batch_size=16, method=STEPS), encoder, lambda: autoencoder(IMAGES[:5], 5)),
    "program": Case(straight, fitted(lambda: program(X, Y), method=STEPS), lambda: program(X, Y), **LINE),
    "own": Case(straight, fitted(Own, method=STEPS), Own, **LINE),
}


def bowl(z):
    return -0.5 * jnp.sum((z - 3.0) ** 2)


def answers(posterior: vb.Posterior, new: Any = None) -> dict[str, Any]:
    """All that a posterior says, as arrays and texts."""
    found: dict[str, Any] = {"summary": str(posterior.summary()), "status": str(posterior.status)}
    found |= {"elbo": np.array(posterior.elbo), "history": posterior.history, "verdict": posterior.report.verdict}
    found |= {"mean": posterior.mean(), "sd": posterior.sd(), "sample": posterior.sample(20, seed=1)}
    found["params"] = posterior.params
    if posterior.report.verdict != "unjudged":
        found["card"] = str(posterior.check()) + "\n".join(posterior.check().details)
    if not str(posterior.target).startswith("plain_density"):
        found["log_likelihood"] = posterior.log_likelihood(7, seed=2)
        if new or not posterior.target.sources:
            found["predict"] = posterior.predict(new() if new else None, n=7, seed=3)
    found["uncorrected"] = posterior.uncorrected().mean()
    leaves = jax.tree_util.tree_flatten_with_path(found)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves if not callable(leaf)}


def thinned(posterior: vb.Posterior, draws: int = 60) -> vb.Posterior:
    """The same, whose reports hold on to a few draws only: small enough for a file that is kept for ever."""

    def few(report: Any) -> Any:
        some = {name: leaf[:draws] for name, leaf in vars(report.draws).items() if isinstance(leaf, np.ndarray)}
        return dataclasses.replace(report, draws=dataclasses.replace(report.draws, **some))

    report = few(posterior.report)
    report = dataclasses.replace(report, fitted=few(report.fitted))
    return dataclasses.replace(posterior, report=report)


def made(name: str, folder: Path) -> vb.Posterior:
    """The fit of that name, saved, with its answers beside it."""
    return kept(CASES[name].fit(CASES[name].model()), name, folder)


def kept(posterior: vb.Posterior, name: str, folder: Path) -> vb.Posterior:
    """A posterior, saved under that name, with its answers beside it."""
    vb.save(posterior, folder / f"{name}.npz")
    np.savez(folder / f"{name} answers.npz", **answers(posterior, CASES[name].new))
    return posterior


def compared(name: str, folder: Path) -> vb.Posterior:
    """The same, loaded: every answer must be what it was."""
    case = CASES[name]
    posterior = vb.load(folder / f"{name}.npz", case.model(), case.guide and case.guide())
    now = answers(posterior, case.new)
    with np.load(folder / f"{name} answers.npz") as then:
        assert set(then.files) == set(now), set(then.files) ^ set(now)
        for each in then.files:
            np.testing.assert_array_equal(then[each], now[each], err_msg=f"{name}: {each}")
            assert then[each].dtype == now[each].dtype, f"{name}: {each}"
    return posterior


if __name__ == "__main__":
    import time

    warnings.simplefilter("ignore")
    _, where, which, *names = sys.argv
    np.save(Path(where) / "images.npy", IMAGES) if which == "make" else None
    for name in names or CASES:
        began = time.perf_counter()
        try:
            {"make": made, "compare": compared}[which](name, Path(where))
        except Exception as error:
            import traceback

            traceback.print_exc(limit=-4) if "-v" in sys.argv else None
            print("BROKEN", name, type(error).__name__, str(error)[:600])
        size = (Path(where) / f"{name}.npz").stat().st_size if (Path(where) / f"{name}.npz").exists() else 0
        print(f"{name}: {time.perf_counter() - began:.1f} s, {size:,} bytes", flush=True)
