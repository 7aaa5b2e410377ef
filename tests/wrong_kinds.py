"""Good calls of all that is public, and the wrong kinds that stand in for each of their arguments in turn.

A call goes no farther than to where its arguments are looked at: a guide is begun, a validation set planned with.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from cases import Same

import vbppl as vb
import vbppl.distributions as dist
from vbppl.fitting.calibration import Calibration
from vbppl.fitting.plan import plan
from vbppl.guides.base import Start
from vbppl.guides.layers.yeo_johnson import YeoJohnson

WRONG = {
    "None": None,
    "a string": "a",
    "-1": -1,
    "2.5": 2.5,
    "nan": float("nan"),
    "an object": object(),
    "a list": ["a", object()],
    "an array": np.zeros((2, 3, 5)),
}
Y = np.array([0.3, -0.1, 0.5])


@vb.model
def mean(y):
    """A model that nothing is wrong with."""
    mu = vb.sample("mu", dist.Normal(0.0, 1.0))
    with vb.plate("rows", 3):
        vb.sample("y", dist.Normal(mu, 1.0), obs=y)


@vb.model
def by_row(y):
    """One latent number a row, which an encoder may read off."""
    with vb.plate("rows", len(y)):
        z = vb.sample("z", dist.Normal(0.0, 1.0))
        vb.sample("y", dist.Normal(z, 0.5), obs=vb.subsample(y))


@vb.model
def coins(y):
    """A discrete number a row."""
    mu = vb.sample("mu", dist.Normal(0.0, 1.0))
    with vb.plate("rows", len(y)):
        z = vb.sample("z", dist.Bernoulli(0.5))
        vb.sample("y", dist.Normal(mu + z, 1.0), obs=y)


def encoder(weight, y):
    """The `loc` and `scale` of each row's number, whatever `weight` holds."""
    return jnp.sum(weight) * y, jnp.ones_like(y)


@vb.model
def by_vector(y):
    """Two latent numbers a row."""
    with vb.plate("rows", len(y)):
        z = vb.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        vb.sample("y", dist.Normal(z.sum(-1), 0.5), obs=vb.subsample(y))


def encoder_of_two(weight, y):
    """Both numbers of a row read off it alike."""
    loc = jnp.stack([jnp.sum(weight) * y, y], axis=-1)
    return loc, jnp.ones_like(loc)


def inside(call: Callable[..., Any]) -> Callable[..., Any]:
    """The same call as a statement of a model, whose shapes are asked for."""

    def run(*args, **kwargs):
        return vb.model(lambda: call(*args, **kwargs))().shapes()

    return run


def in_a_plate(call: Callable[..., Any]) -> Callable[..., Any]:
    def statement(**kwargs):
        with vb.plate("rows", 3):
            call(**kwargs)

    return inside(statement)


def entered(*args, **kwargs):
    with vb.plate(*args, **kwargs):
        pass


def language() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Words of a model and functions of one."""
    normal, m, bare = dist.Normal(0.0, 1.0), mean(Y), vb.target(mean(Y))
    return {
        "Source": (vb.Source, {"data": Y}),
        "shard": (lambda data: vb.shard(data), {"data": Y}),
        "sample": (
            inside(vb.sample),
            {"name": "x", "dist": normal, "obs": 0.5, "obs_mask": True, "sample_shape": (), "dims": ()},
        ),
        "param": (inside(vb.param), {"name": "x", "init": 1.0, "constraint": dist.constraints.positive, "dims": ()}),
        "plate": (inside(entered), {"name": "x", "size": 3, "subsample_size": 3, "dim": -1}),
        "subsample": (in_a_plate(vb.subsample), {"array": Y, "event_dim": 0}),
        "scan": (inside(vb.scan), {"step": lambda carry, x: (carry, x), "init": 0.0, "xs": Y, "length": len(Y)}),
        "mutable": (inside(vb.mutable), {"name": "x", "init": {"mean": 0.0}}),
        "prng_key": (inside(vb.prng_key), {"name": "key"}),
        "prior_over": (
            inside(lambda module, prior: vb.sample("net", vb.prior_over(module, prior))),
            {"module": {"w": Y}, "prior": normal},
        ),
        "deterministic": (inside(vb.deterministic), {"name": "x", "value": 1.0, "dims": ()}),
        "factor": (inside(vb.factor), {"name": "x", "log_weight": 1.0}),
        "model": (vb.model, {"function": lambda: None}),
        "guide": (vb.guide, {"function": lambda: None}),
        "foreign": (vb.foreign, {"dist": normal, "support": dist.constraints.real}),
        "target": (vb.target, {"model": m}),
        "density": (vb.density, {"log_density": lambda z: -(z @ z), "dim": 2}),
        "decenter": (lambda model, names: vb.decenter(model, names), {"model": m, "names": "mu"}),
        "Model.sample": (m.sample, {"n": 3, "seed": 0, "params": {}}),
        "Model.log_joint": (m.log_joint, {"values": {"mu": 0.0}}),
        "Model.shapes": (m.shapes, {"at": {"mu": 0.0}}),
        "Model.condition": (lambda values: m.condition(values), {"values": {"mu": 0.0}}),
        "Model.do": (lambda values: m.do(values), {"values": {"mu": 0.0}}),
        "Target.log_density": (bare.log_density, {"z": np.zeros(1), "rows": None, "jacobian": True}),
        "Target.constrain": (bare.constrain, {"z": np.zeros(1)}),
        "Target.unconstrain": (bare.unconstrain, {"values": {"mu": 0.0}}),
        "Target.log_det": (bare.log_det, {"values": {"mu": 0.0}}),
    }


def guides() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Guides and methods, used in a fit: what they are made of may be looked at there."""
    m, rows, bare = mean(Y), by_row(Y), vb.target(by_row(Y))
    amortized = {"site": "z", "encoder": encoder, "reads": "y", "params": 0.8, "plate": None, "shared": vb.FullRank()}

    def fitted(make, **fixed):
        return lambda **kwargs: vb.fit(m, **{key: make(**kwargs) for key in fixed})

    def begun(make):
        return lambda **kwargs: make(**kwargs).init(bare, Start(np.zeros(3)))

    return {
        "LowRank": (fitted(vb.LowRank, guide=1), {"rank": 1}),
        "Copula": (fitted(vb.guides.Copula, guide=1), {"base": vb.FullRank(), "layers": (YeoJohnson(),)}),
        "Mixture": (fitted(vb.guides.Mixture, guide=1), {"components": 1}),
        "ConditionallyStructured": (
            fitted(vb.guides.ConditionallyStructured, guide=1),
            {"base": vb.MeanField(), "layers": ()},
        ),
        "ConditionalLaplace": (
            fitted(vb.guides.ConditionalLaplace, guide=1),
            {"base": vb.MeanField(), "layers": ()},
        ),
        "Flow": (begun(vb.guides.Flow), {"bijection": Same(shape=(3,))}),
        "Structured": (begun(vb.guides.Structured), {"plates": "rows", "shared": vb.FullRank()}),
        "Amortized": (begun(vb.Amortized), amortized),
        "Elbo": (vb.inference.Elbo, {"warm_up": 0, "free_bits": 0.0}),
        "ImportanceWeighted": (vb.inference.ImportanceWeighted, {"doubly": True}),
        "Validation": (
            lambda **kwargs: plan(bare, method=vb.Stochastic(validation=vb.inference.Validation(**kwargs))),
            {"model": rows, "guide": None, "patience": 5, "draws": 4},
        ),
        "MAP": (fitted(vb.MAP, guide=1), {"space": "constrained"}),
        "Deterministic": (
            fitted(vb.Deterministic, method=1),
            {"draws": 16, "kind": "auto", "precision": None},
        ),
        "Stochastic": (
            fitted(vb.Stochastic, method=1),
            {
                "steps": 20,
                "draws": 2,
                "sticking_the_landing": False,
                "objective": vb.inference.Elbo(),
                "optimizer": None,
            }
            | {"validation": None, "average": True, "every": 10},
        ),
        "fit": (
            vb.fit,
            {"model": m, "guide": "mean_field", "method": "auto", "seed": 0, "batch_size": None, "start": None}
            | {"seconds": 20.0, "precision": "auto", "progress": False, "callback": None, "checkpoint": None},
        ),
        "fit_many": (
            vb.fit_many,
            {
                "model": mean,
                "datasets": [{"y": Y}],
                "guide": "mean_field",
                "method": None,
                "seeds": 0,
                "progress": False,
            },
        ),
        "calibrate": (
            vb.calibrate,
            {"model": m, "n": 2, "fitted": m, "guide": "mean_field", "draws": 3, "seed": 0, "progress": False},
        ),
    }


@functools.cache
def fitted() -> tuple[Any, list[Any], Any]:
    """A posterior, what was told on the way to it, and one of an autoencoder."""
    told: list[Any] = []
    encoded = vb.fit(by_vector(Y), vb.Amortized("z", encoder_of_two, "y", 0.8), method=vb.Stochastic(steps=2))
    return vb.fit(mean(Y), callback=told.append), told, encoded


def answers() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """What a posterior is asked."""
    (p, _, encoded), where = fitted(), Path(tempfile.mkdtemp())
    d = vb.fit(coins(Y), vb.Laplace())
    vb.save(p, where / "x.npz")
    rows = by_vector(Y)
    return {
        "Posterior.sample": (p.sample, {"n": 3, "seed": 0}),
        "Posterior.resample": (p.resample, {"n": 3, "seed": 0}),
        "Posterior.predict": (p.predict, {"model": mean(Y), "n": 3, "seed": 0, "draws": None}),
        "Posterior.log_likelihood": (p.log_likelihood, {"n": 3, "seed": 0}),
        "Posterior.log_prob": (p.log_prob, {"values": {"mu": 0.0}}),
        "Posterior.quantiles": (p.quantiles, {"q": 0.5}),
        "Posterior.probabilities": (d.probabilities, {"name": "z", "n": 2, "seed": 0}),
        "Posterior.expectation": (p.expectation, {"f": lambda draw: draw["mu"]}),
        "Posterior.check": (p.check, {"gap": False}),
        "Posterior.covariance": (lambda names: p.covariance(names), {"names": "mu"}),
        "Posterior.linear_response": (lambda names: p.linear_response(names), {"names": "mu"}),
        "Posterior.sensitivity": (lambda names: p.sensitivity(names), {"names": "mu"}),
        "Posterior.summary": (lambda names: p.summary(names), {"names": "mu"}),
        "Posterior.to_dataframe": (
            lambda names, **more: p.to_dataframe(names, **more),
            {"names": "mu", "n": 3, "seed": 0, "long": False},
        ),
        "to_arviz": (vb.to_arviz, {"posterior": p, "groups": (), "n": 3, "seed": 0}),
        "Posterior.log_evidence": (encoded.log_evidence, {"model": rows, "guide": None, "n": 4, "seed": 0}),
        "Posterior.amortisation_gap": (encoded.amortisation_gap, {"model": rows, "guide": None, "rows": 2, "seed": 0}),
        "Posterior.encode": (encoded.encode, {"rows": Y}),
        "refine": (
            vb.refine,
            {"posterior": p, "n": 4, "chains": 1, "seed": 0, "target_accept": None, "seconds": 20.0, "progress": False},
        ),
        "save": (
            lambda posterior, path: vb.save(posterior, where / path if isinstance(path, str) else path),
            {"posterior": p, "path": "y.npz"},
        ),
        "load": (
            lambda path, model, guide: vb.load(where / path if isinstance(path, str) else path, model, guide),
            {"path": "x.npz", "model": mean(Y), "guide": None},
        ),
        "Report.require": (p.check().require, {"verdict": "corrected"}),
    }


def pictures() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Pictures of a posterior."""
    import matplotlib.pyplot as plt

    p, told, encoded = fitted()
    result = Calibration(("mu",), np.arange(8)[:, None], 7, 0)

    def on(axes: Any) -> Any:
        plt.close("all")
        return plt.figure().subplots() if axes is True else axes

    def named(draw: Callable[..., Any]) -> Callable[..., Any]:
        return lambda posterior, names, reference, axes: draw(posterior, names, reference=reference, axes=on(axes))

    good = {"posterior": p, "names": "mu", "reference": None}
    nowhere = "/nowhere/fit.html"

    def written(posterior: Any, path: Any) -> None:
        with contextlib.suppress(OSError):
            vb.write_report(posterior, nowhere if isinstance(path, str) else path)

    return {
        "write_report": (written, {"posterior": p, "path": nowhere}),
        "plot.history": (lambda posterior, ax: vb.plot.history(posterior, on(ax)), {"posterior": p, "ax": True}),
        "plot.marginals": (named(vb.plot.marginals), good | {"axes": True}),
        "plot.forest": (
            lambda posterior, names, reference, ax: vb.plot.forest(posterior, names, reference=reference, ax=on(ax)),
            good | {"ax": True},
        ),
        "plot.pair": (named(vb.plot.pair), {"posterior": encoded, "names": "z", "reference": None, "axes": None}),
        "plot.weights": (lambda posterior, ax: vb.plot.weights(posterior, on(ax)), {"posterior": p, "ax": True}),
        "plot.predictive": (
            lambda ax, **kwargs: vb.plot.predictive(ax=on(ax), **kwargs),
            {"posterior": p, "site": "y", "statistic": np.mean, "n": 3, "seed": 0, "ax": True},
        ),
        "plot.calibration": (
            lambda result, axes: vb.plot.calibration(result, on(axes)),
            {"result": result, "axes": True},
        ),
        "plot.latent_map": (
            lambda ax, **kwargs: vb.plot.latent_map(ax=on(ax), **kwargs),
            {"posterior": encoded, "site": "z", "rows": None, "groups": None, "ax": True},
        ),
        "plot.moving": (
            lambda names, axes, **kwargs: vb.plot.moving(
                kwargs.pop("posterior"), kwargs.pop("progress"), names, names, axes=on(axes), **kwargs
            ),
            {"posterior": p, "progress": told, "names": "mu", "panels": 1, "axes": True},
        ),
    }


def tried(calls: dict[str, tuple[Callable[..., Any], dict[str, Any]]]) -> Iterator[tuple[str, str, str, Any]]:
    """Function, argument, kind, and the error that the call raised, None if none."""
    for function, (call, good) in calls.items():
        for argument in good:
            for kind, value in WRONG.items():
                try:
                    call(**{**good, argument: value})
                except Exception as error:
                    yield function, argument, kind, error
                else:
                    yield function, argument, kind, None


def is_told(error: Any, function: str, argument: str) -> bool:
    """Whether it is an error of the package, one of Python's that names argument or function, or a site not found."""
    if isinstance(error, (vb.ModelError, KeyError)):
        return isinstance(error, vb.ModelError) or "no site" in str(error)
    words = (argument, function.rpartition(".")[2])
    return isinstance(error, (TypeError, ValueError)) and any(word in str(error) for word in words)
