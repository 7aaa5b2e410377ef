"""Good calls of all that is public, and the wrong kinds that stand in for each of their arguments in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import vbppl as vb
import vbppl.distributions as dist

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
    normal, m = dist.Normal(0.0, 1.0), mean(Y)
    return {
        "sample": (inside(vb.sample), {"name": "x", "dist": normal, "obs": 0.5, "sample_shape": ()}),
        "param": (inside(vb.param), {"name": "x", "init": 1.0, "constraint": dist.constraints.positive}),
        "plate": (inside(entered), {"name": "x", "size": 3, "subsample_size": 3, "dim": -1}),
        "subsample": (in_a_plate(vb.subsample), {"array": Y, "event_dim": 0}),
        "deterministic": (inside(vb.deterministic), {"name": "x", "value": 1.0}),
        "factor": (inside(vb.factor), {"name": "x", "log_weight": 1.0}),
        "model": (vb.model, {"function": lambda: None}),
        "guide": (vb.guide, {"function": lambda: None}),
        "foreign": (vb.foreign, {"dist": normal, "support": dist.constraints.real}),
        "target": (vb.target, {"model": m}),
        "density": (vb.density, {"log_density": lambda z: -(z @ z), "dim": 2}),
        "decenter": (lambda model: vb.decenter(model), {"model": m}),
        "Model.sample": (m.sample, {"n": 3, "seed": 0, "params": {}}),
        "Model.log_joint": (m.log_joint, {"values": {"mu": 0.0}}),
        "Model.condition": (lambda values: m.condition(values), {"values": {"mu": 0.0}}),
        "Model.do": (lambda values: m.do(values), {"values": {"mu": 0.0}}),
    }


def guides() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Guides and methods, used in a fit: what they are made of may be looked at there."""
    m = mean(Y)

    def fitted(make, **fixed):
        return lambda **kwargs: vb.fit(m, **{key: make(**kwargs) for key in fixed})

    return {
        "LowRank": (fitted(vb.LowRank, guide=1), {"rank": 1}),
        "MAP": (fitted(vb.MAP, guide=1), {"space": "constrained"}),
        "Deterministic": (
            fitted(vb.Deterministic, method=1),
            {"draws": 16, "kind": "auto", "precision": None},
        ),
        "Stochastic": (
            fitted(vb.Stochastic, method=1),
            {"steps": 20, "draws": 2, "sticking_the_landing": False, "objective": vb.Elbo(), "optimizer": None}
            | {"validation": None, "average": True, "every": 10},
        ),
        "fit": (
            vb.fit,
            {"model": m, "guide": "mean_field", "method": "auto", "seed": 0, "batch_size": None, "start": None}
            | {"seconds": 20.0, "progress": False, "callback": None, "checkpoint": None},
        ),
        "fit_many": (
            vb.fit_many,
            {"model": mean, "datasets": [{"y": Y}], "guide": "mean_field", "method": None, "seeds": 0},
        ),
        "calibrate": (vb.calibrate, {"model": m, "n": 2, "draws": 3, "seed": 0, "guide": "mean_field"}),
    }


def answers() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """What a posterior is asked."""
    p = vb.fit(mean(Y))
    return {
        "Posterior.sample": (p.sample, {"n": 3, "seed": 0}),
        "Posterior.resample": (p.resample, {"n": 3, "seed": 0}),
        "Posterior.predict": (p.predict, {"model": mean(Y), "n": 3, "seed": 0, "draws": None}),
        "Posterior.log_likelihood": (p.log_likelihood, {"n": 3, "seed": 0}),
        "Posterior.log_prob": (p.log_prob, {"values": {"mu": 0.0}}),
        "Posterior.quantiles": (p.quantiles, {"q": 0.5}),
        "Posterior.expectation": (p.expectation, {"f": lambda draw: draw["mu"]}),
        "Posterior.check": (p.check, {"gap": False}),
        "Posterior.covariance": (lambda name: p.covariance(name), {"name": "mu"}),
        "Posterior.linear_response": (lambda name: p.linear_response(name), {"name": "mu"}),
        "Posterior.summary": (lambda name: p.summary(name), {"name": "mu"}),
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
