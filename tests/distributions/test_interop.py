"""Distributions of other libraries, and imitations of their ways of being called."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions
import pytest
from quick import jit

import vbppl.distributions as dist
from vbppl.core.errors import ModelError
from vbppl.distributions.interop import as_bijector, as_distribution, foreign


class Keyed:
    """FlowJAX's way: `shape` is an attribute, the key comes first."""

    shape = (2,)

    def sample(self, key, sample_shape=(), condition=None):
        return jax.random.normal(key, (*sample_shape, 2))

    def log_prob(self, x):
        return jnp.sum(dist.Normal().log_prob(x), -1)


class Seeded:
    """TFP's and distrax's way: a seed by keyword, and shapes that are no tuples."""

    batch_shape, event_shape = [1], []

    def sample(self, sample_shape=(), seed=None):
        return jax.random.normal(seed, (*sample_shape, 1))

    def log_prob(self, x):
        return dist.Normal().log_prob(x)


class Single:
    """distreqx's way: one draw at a time."""

    event_shape = (2,)

    def sample(self, key):
        return jax.random.normal(key, (2,))

    def log_prob(self, x):
        assert x.shape == (2,)
        return jnp.sum(dist.Normal().log_prob(x))


@pytest.mark.parametrize("cls", [Keyed, Seeded, Single])
def test_every_calling_convention_is_understood(cls):
    d = foreign(cls(), support=dist.constraints.real)

    @jit
    def run(key):
        draws = d.expand((3,)).sample(key, (4,))
        return draws, d.expand((3,)).log_prob(draws)

    draws, log_prob = run(jax.random.key(0))
    assert draws.shape == (4, 3, *d.event_shape) and np.unique(draws).size == draws.size
    assert log_prob.shape == (4, 3)
    assert d.support.event_dim == len(d.event_shape) and not d.is_discrete


def test_an_unknown_support_is_asked_for():
    with pytest.raises(ModelError, match=r"(?s)Keyed.*vb.foreign\(dist, support=constraints.positive\)"):
        _ = as_distribution(Keyed(), "x").support


def stranger(name, **parts):
    """A distribution or a map of another library: its class has that name, and it consists of those parts."""
    members = {"sample": Seeded.sample, "log_prob": Seeded.log_prob, "event_shape": ()}
    made = type(name, (), members if "bijections" not in parts and "of" not in parts else {})()
    vars(made).update(parts)
    return made


def mapping(name, **parts):
    return stranger(name, of=None, **parts)


NORMAL, EXP, SHIFT = stranger("Normal"), mapping("Exp"), mapping("Shift")
TFP_CHAIN = mapping("Chain", bijectors=[EXP, SHIFT])  # the last one first
FLOWJAX_CHAIN = mapping("Chain", bijections=[SHIFT, EXP])  # the first one first
FLOW = mapping("Invert", bijection=mapping("Scan", bijection=mapping("MaskedAutoregressive")))


@pytest.mark.parametrize(
    "theirs, support",
    [
        (stranger("HalfStudentT", loc=1.0), "greater_than_eq(1.0)"),
        (stranger("JohnsonSU"), "real"),
        (stranger("Sample", distribution=stranger("Gamma")), "positive"),
        (stranger("Independent", distribution=NORMAL), "real"),
        (stranger("TransformedDistribution", distribution=NORMAL, bijector=EXP), "positive"),
        (stranger("Transformed", distribution=NORMAL, bijector=TFP_CHAIN), "positive"),
        (stranger("Transformed", base_dist=stranger("StandardNormal"), bijection=FLOWJAX_CHAIN), "positive"),
        (stranger("Transformed", base_dist=stranger("StandardNormal"), bijection=FLOW), "real"),
        (stranger("VonMises"), f"interval({-np.pi}, {np.pi})"),
        (stranger("Uniform01", experimental_default_event_space_bijector=lambda: mapping("Sigmoid")), "unit_interval"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_a_support_is_known_by_the_names_of_the_parts(theirs, support):
    assert str(as_distribution(theirs, "x").support) == support


def test_no_support_is_guessed_where_a_map_is_not_known():
    for theirs in (
        stranger("Transformed", distribution=NORMAL, bijector=mapping("Lambda")),
        stranger("Transformed", distribution=stranger("Gamma"), bijector=SHIFT),
        stranger("Transformed", distribution=NORMAL, bijector=mapping("Invert", bijection=EXP)),
    ):
        with pytest.raises(ModelError, match="is not known"):
            _ = as_distribution(theirs, "x").support


def test_every_constraint_of_numpyro_that_has_a_name_of_ours_is_found():
    theirs = pytest.importorskip("numpyro.distributions").constraints
    bounds = {"greater_than": (1.0,), "less_than": (1.0,), "interval": (0.0, 2.0), "multinomial": (3,)}
    bounds |= {"integer_greater_than": (2,), "integer_interval": (0, 4), "greater_than_eq": (1.0,)}
    bounds |= {"less_than_eq": (1.0,), "independent": (theirs.positive, 1), "zero_sum": (2,)}
    for name in dist.constraints.__all__:
        constraint = getattr(theirs, name)
        constraint = constraint(*bounds[name]) if name in bounds else constraint
        ours = getattr(dist.constraints, name)
        if name == "independent":
            ours, bounds[name] = ours, (dist.constraints.positive, 1)
        assert str(as_bijector(constraint)) == str(ours(*bounds[name]) if name in bounds else ours), name


@pytest.mark.parametrize("value, words", [(3.0, r"a float \(3.0\)"), (np.zeros(2), "of shape"), (None, "None")])
def test_what_is_no_distribution_is_refused_by_site(value, words):
    with pytest.raises(ModelError, match=rf"site 'mu'.*must be a distribution.*{words}"):
        as_distribution(value, "mu")


def test_a_class_without_parameters_is_refused():
    with pytest.raises(ModelError, match="Give it its parameters"):
        as_distribution(dist.Normal, "mu")


def test_ours_pass_untouched():
    d = dist.Normal(0.0, 1.0)
    assert as_distribution(d, "mu") is d and as_bijector(dist.constraints.positive) is dist.constraints.positive


NUMPYRO = {
    "Normal": (lambda d: d.Normal(0.0, 2.0), "real"),
    "Uniform": (lambda d: d.Uniform(0.0, np.float32(3.0)), "interval(0.0, 3.0)"),
    "Gamma": (lambda d: d.Gamma(2.0, jnp.ones(3)), "positive"),
    "Dirichlet": (lambda d: d.Dirichlet(jnp.ones((2, 3))), "simplex"),
    "event": (lambda d: d.HalfNormal(jnp.ones((2, 3))).to_event(1), "independent(positive, 1)"),
    "LKJ": (lambda d: d.LKJCholesky(3, 1.0), "corr_cholesky"),
    "Poisson": (lambda d: d.Poisson(3.0), "nonnegative_integer"),
    "Categorical": (lambda d: d.Categorical(jnp.ones(3) / 3), "integer_interval(0, 2)"),
}


SLOW = {"Gamma", "LKJ", "Poisson", "Dirichlet"}  # their samplers compile for seconds


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in NUMPYRO])
def test_numpyros_distributions_serve_as_they_are(name):
    numpyro = pytest.importorskip("numpyro.distributions")
    make, support = NUMPYRO[name]
    theirs = make(numpyro)
    ours = as_distribution(theirs, "x")
    assert (ours.batch_shape, ours.event_shape) == (theirs.batch_shape, theirs.event_shape)
    assert ours.is_discrete == theirs.is_discrete and ours.has_rsample == theirs.has_rsample
    assert str(ours.support) == support

    @jit
    def run(d):
        x = d.sample(jax.random.key(0), (2,))
        return x, d.log_prob(x), theirs.log_prob(x), d.support.check(x)

    x, log_prob, reference, on_support = run(ours)
    assert np.all(on_support) and x.shape == ours.shape((2,))
    np.testing.assert_allclose(log_prob, reference, rtol=1e-5)


class Shell(numpyro.distributions.Distribution):
    """A user's distribution below NumPyro's base, which says of no attribute that it is a parameter."""

    support = numpyro.distributions.constraints.real_vector

    def __init__(self, loc, radius):
        self.loc, self.radius = loc, radius
        super().__init__(batch_shape=loc.shape[:-1], event_shape=loc.shape[-1:])

    def sample(self, key, sample_shape=()):
        return jnp.zeros(sample_shape + self.shape())

    def log_prob(self, x):
        return -jnp.square(jnp.linalg.norm(x - self.loc, axis=-1) - self.radius)


def test_a_users_subclass_of_numpyros_keeps_its_attributes_and_they_are_data():
    x, loc = jnp.array([1.0, 2.0]), jnp.array([0.5, -1.0])
    guest = as_distribution(Shell(loc, 2.0), "shell")
    density = jax.jit(lambda guest, x: guest.log_prob(x))
    assert density(guest, x) == pytest.approx(-((np.hypot(0.5, 3.0) - 2.0) ** 2), rel=1e-5)
    moved = jax.tree.map(lambda leaf: leaf + 1.0, guest)
    assert density(moved, x + 1.0) == pytest.approx(-((np.hypot(0.5, 3.0) - 3.0) ** 2), rel=1e-5)
    slope = jax.grad(lambda radius: as_distribution(Shell(loc, radius), "shell").log_prob(x))(2.0)
    assert slope == pytest.approx(2 * (np.hypot(0.5, 3.0) - 2.0), rel=1e-5)


def test_numpyros_helpers_stand_where_they_do_there():
    assert dist.util is numpyro.distributions.util
    with pytest.raises(AttributeError, match="no attribute 'utils'"):
        dist.utils  # noqa: B018
