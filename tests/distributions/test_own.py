"""A distribution and a support of one's own: whole they fit, and each step left out is told with its mend."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.pytree import pytree
from vbppl.distributions.constraints.base import Bijector


def sample(self, key, shape):
    return self.scale * jnp.sqrt(-2 * jnp.log(jax.random.uniform(key, shape, self.dtype)))


def log_density(self, x):
    return jnp.log(x) - 2 * jnp.log(self.scale) - (x / self.scale) ** 2 / 2


RAYLEIGH = {
    "__annotations__": {"scale": "ArrayLike"},
    "scale": 1.0,
    "support": dist.constraints.positive,
    "_sample": sample,
    "_log_density": log_density,
}


def rayleigh(without=(), decorate=pytree, **changed):
    members = {name: value for name, value in {**RAYLEIGH, **changed}.items() if name not in without}
    return decorate(type("Rayleigh", (dist.Distribution,), members))


class Plain:
    """The same without our base class."""

    support = dist.constraints.positive

    def __init__(self, scale):
        self.scale = jnp.asarray(scale)
        self.batch_shape = self.scale.shape

    def sample(self, key, sample_shape=()):
        return self.scale * jnp.sqrt(-2 * jnp.log(jax.random.uniform(key, (*sample_shape, *self.batch_shape))))

    def log_prob(self, x):
        return log_density(self, x)


def plain(*without, **changed):
    without = (*without, "__dict__", "__weakref__")  # these two belong to Plain alone
    members = {name: value for name, value in {**vars(Plain), **changed}.items() if name not in without}
    return type("Plain", (), members)


ABOVE = {
    "__annotations__": {"low": "ArrayLike"},
    "low": 0.0,
    "forward_and_log_det": lambda self, z: (self.low + jnp.exp(z), z),
    "inverse": lambda self, x: jnp.log(x - self.low),
    "check": lambda self, x: x > self.low,
}


def shifted(without=()):
    members = {name: value for name, value in ABOVE.items() if name != without}
    above = pytree(type("Above", (Bijector,), members))
    return rayleigh(
        support=property(lambda self: above(1.0)),
        _sample=lambda self, key, shape: 1.0 + sample(self, key, shape),
        _log_density=lambda self, x: log_density(self, x - 1.0),
    )


@vb.model
def model(distribution, y):
    x = vb.sample("x", distribution)
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(x, 1.0), obs=y)


@pytest.mark.parametrize("make", [rayleigh(), Plain, shifted()], ids=["ours", "plain", "own support"])
def test_in_ten_lines_it_is_a_distribution_as_any_other(make):
    low = 1.0 if make is not Plain and isinstance(vars(make).get("support"), property) else 0.0
    one = model(make(2.0), np.array([0.3, 1.2, 0.7]))
    for z in (-1.0, 0.0, 0.5):
        x = low + np.exp(z)
        exact = stats.rayleigh(low, 2.0).logpdf(x) + z + stats.norm(x).logpdf([0.3, 1.2, 0.7]).sum()
        assert vb.target(one).log_density(np.array([z])) == pytest.approx(exact, rel=1e-5)
    assert one.sample(2000)["x"].mean() == pytest.approx(stats.rayleigh(low, 2.0).mean(), abs=4 * 1.31 / 2000**0.5)


# What is left out, and what is told, whole.
LEFT_OUT = {
    "support": (
        lambda: rayleigh(["support"])(2.0),
        "site 'x': Rayleigh has no support.\n"
        "  To mend it: Write in the class where its values lie: support = dist.constraints.real.",
    ),
    "_sample": (
        lambda: rayleigh(["_sample"])(2.0),
        "site 'x': Rayleigh has no way of drawing.\n"
        "  To mend it: Write `def _sample(self, key, shape)` in its class, which returns draws of the whole shape.",
    ),
    "_log_density": (
        lambda: rayleigh(["_log_density"])(2.0),
        "site 'x': Rayleigh has no log density.\n"
        "  To mend it: Write `def _log_density(self, x)` in its class, which returns that of each event.",
    ),
    "@pytree": (
        lambda: rayleigh(decorate=lambda cls: cls)(2.0),
        "Rayleigh does not say which of its attributes are parameters.\n"
        "  To mend it: Write @pytree above it (from vbppl.core.pytree), and its parameters as fields: "
        "loc: float = 0.0.",
    ),
    "the field's type": (
        lambda: rayleigh(["__annotations__"])(2.0),
        "Rayleigh has no parameters, but some were given.\n"
        "  To mend it: Write them in the class as fields, each with a type: loc: float = 0.0.",
    ),
    "no __init__": (
        lambda: rayleigh(["__annotations__"], __init__=lambda self, scale: None)(2.0),
        "Rayleigh sets its parameters in an __init__ of its own.\n"
        "  To mend it: Leave it out, and write them in the class as fields: scale: float = 0.0.",
    ),
    "the shape in _sample": (
        lambda: rayleigh(_sample=lambda self, key, shape: jax.random.uniform(key))(np.ones(3)).to_event(),
        "site 'x': the draws of Rayleigh have the wrong shape.\n  returned: ()\n  wanted:   (3,)\n"
        "  To mend it: Let its `_sample` return draws of the whole shape that it is given, parameters broadcast.",
    ),
    "one number for each event": (
        lambda: rayleigh(_log_density=lambda self, x: jnp.sum(log_density(self, x)))(np.ones(3)).to_event(),
        "site 'x': the log densities of Rayleigh have the wrong shape.\n  returned: ()\n  wanted:   (3,)\n"
        "  To mend it: Let its `_log_density` return one number for each event: "
        "no sum over them, a constant broadcast to them.",
    ),
    "a value as support": (
        lambda: rayleigh(support=dist.constraints.interval)(2.0),
        "site 'x': the support of Rayleigh is the class Interval, not a constraint.\n"
        "  To mend it: Give a value of dist.constraints, such as interval(0.0, 1.0), or one of a class of your own "
        "below Bijector (from vbppl.distributions.constraints.base).",
    ),
    "plain: support": (
        lambda: plain("support")(2.0),
        "site 'x': the support of the foreign distribution Plain is not known.\n"
        "  To mend it: Wrap it: vb.foreign(dist, support=constraints.positive), with the support that it has.",
    ),
    "plain: sample": (
        lambda: plain("sample")(2.0),
        "site 'x': Plain has no sample, so it is not a distribution.\n  To mend it: Write "
        "`def sample(self, key, sample_shape=())` in its class: a distribution has both sample and log_prob.",
    ),
    "plain: log_prob": (
        lambda: plain("log_prob")(2.0),
        "site 'x': Plain has no log_prob, so it is not a distribution.\n  To mend it: Write "
        "`def log_prob(self, x)` in its class: a distribution has both sample and log_prob.",
    ),
    "plain: batch_shape": (
        lambda: plain(__init__=lambda self, scale: setattr(self, "scale", scale), batch_shape=())(np.ones(3)),
        "site 'x': the log density of Plain has shape (3,), not that of the batch.\n  batch: ()\n  event: ()\n"
        "  To mend it: Return one log density for each event: sum over the event's dimensions. "
        "Its batch_shape must be the shape of its parameters, () by default.",
    ),
    "support: forward_and_log_det": (
        lambda: shifted("forward_and_log_det")(2.0),
        "site 'x': the support Above has no map from the reals.\n"
        "  To mend it: Write `def forward_and_log_det(self, z)` in its class, which returns x and log |dx/dz|.",
    ),
    "support: inverse": (
        lambda: shifted("inverse")(2.0),
        "site 'x': the support Above has no way back to the reals.\n"
        "  To mend it: Write `def inverse(self, x)` in its class, which returns the z that is mapped to x.",
    ),
    "support: check": (
        lambda: shifted("check")(2.0),
        "site 'x': the support Above has no test.\n"
        "  To mend it: Write `def check(self, x)` in its class, which returns whether each event lies on the support.",
    ),
}


@pytest.mark.parametrize("step", LEFT_OUT)
def test_a_step_that_is_left_out_is_told(step):
    make, told = LEFT_OUT[step]
    with pytest.raises((vb.ModelError, TypeError)) as error:
        one = model(make(), np.array([0.3, 1.2, 0.7]))
        if step == "support: inverse":  # a fit meets it first where it looks at draws of the prior
            vb.target(one).unconstrain({"x": 2.0})
        one.sample(1)
        vb.target(one).log_density(np.zeros(1))
    assert str(error.value) == told
