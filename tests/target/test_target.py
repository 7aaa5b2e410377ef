"""The waist: a log density on a flat real vector, against NumPyro, numerical derivatives, and BlackJAX's NUTS."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats as st
from quick import jit

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.errors import ModelError
from vbppl.target.axes import coordinate_names
from vbppl.target.batched import evaluate
from vbppl.target.density import nonfinite_sites
from vbppl.target.target import param_values

Y = np.array([[-0.1, 0.3], [0.0, 0.4], [0.2, 0.5], [0.1, 0.7]])


@vb.model
def normal_normal(y):
    """Case 2 of the known answers: two independent conjugate normals."""
    x = vb.sample("x", dist.Normal(np.array([0.0, 0.5]), 10**0.5).to_event(1))
    with vb.plate("row", 4):
        vb.sample("y", dist.Normal(x, np.array([6.0, 4.0]) ** -0.5).to_event(1), obs=y)


@vb.model
def all_supports():
    a = vb.sample("a", dist.Gamma(2.0, 1.0))
    b = vb.sample("b", dist.Uniform(-a, 2.0 * a))
    vb.sample("p", dist.Dirichlet(jnp.ones(3)))
    vb.sample("corr", dist.LKJCholesky(3, 2.0))
    with vb.plate("row", 2):
        vb.sample("c", dist.TruncatedNormal(b, 1.0, low=b))
        vb.sample("beta", dist.Beta(2.0, 3.0))


def free(values):
    """The entries of the values that determine the others."""
    corr = values["corr"][jnp.tril_indices(3, -1)]
    return jnp.concatenate([values["a"][None], values["b"][None], values["p"][:-1], corr, values["c"], values["beta"]])


def test_the_jacobian_is_the_determinant_of_the_map(x64):
    target = vb.target(all_supports())
    assert target.dim == 11

    @jit
    def run(z):
        determinant = jnp.linalg.slogdet(jax.jacfwd(lambda z: free(target.constrain(z)))(z))[1]
        values = target.constrain(z)
        with_it, without = target.log_density(z), target.log_density(z, jacobian=False)
        joint = all_supports().log_joint({slot.name: values[slot.name] for slot in target.layout.slots})
        return determinant, with_it - without, target.log_det(values), joint - without, target.unconstrain(values) - z

    for seed in range(3):
        determinant, difference, log_det, zero, zeros = run(np.random.default_rng(seed).normal(size=11))
        np.testing.assert_allclose(difference, determinant, rtol=1e-9)
        np.testing.assert_allclose(log_det, determinant, rtol=1e-9)
        np.testing.assert_allclose(zero, 0.0, atol=1e-10)
        np.testing.assert_allclose(zeros, 0.0, atol=1e-9)


@vb.model
def some_supports():
    a = vb.sample("a", dist.Gamma(2.0, 1.0))
    with vb.plate("row", 2):
        vb.sample("b", dist.Uniform(-a, 2.0 * a))
    vb.deterministic("double", {"a": 2 * a})


@pytest.mark.parametrize("bits", [32, 64])
def test_values_and_gradients_follow_the_bits(bits):
    with jax.enable_x64(bits == 64):
        target = vb.target(some_supports())
        z = np.random.default_rng(0).normal(size=(5, target.dim))
        log_p, gradient = evaluate(target, z)
        assert log_p.dtype == gradient.dtype == np.float64  # on the host, of numbers computed in the session's bits
        expected = [target.log_density(point) for point in z]
        assert expected[0].dtype == f"float{bits}"
        np.testing.assert_allclose(log_p, expected, rtol=1e-5 if bits == 32 else 1e-12)
        assert log_p.shape == (5,) and gradient.shape == (5, target.dim)
        assert np.all(np.isfinite(log_p)) and np.all(np.isfinite(gradient))
        draws = target.constrain(z)
        assert draws["double"]["a"].shape == (5,)
        assert all(draws[slot.name].shape == (5, *slot.shape) for slot in target.layout.slots)
        np.testing.assert_allclose(target.unconstrain(draws), z, atol=2e-5 if bits == 32 else 1e-9)


def test_the_density_in_z_has_the_mass_of_the_density_in_x(x64):
    @vb.model
    def bounded():
        vb.sample("x", dist.TruncatedNormal(0.3, 1.0, low=-1.0, high=2.0))

    density = jax.jit(vb.target(bounded()).log_density)
    mass, _ = scipy.integrate.quad(lambda z: np.exp(density(np.array([z]))), -30, 30)
    np.testing.assert_allclose(mass, 1.0, rtol=1e-7)


def test_the_sign_is_that_of_a_log_density(x64):
    z = np.array([0.2, 0.4])
    expected = st.norm.logpdf(z, [0.0, 0.5], 10**0.5).sum() + st.norm.logpdf(Y, z, np.array([6.0, 4.0]) ** -0.5).sum()
    np.testing.assert_allclose(vb.target(normal_normal(Y)).log_density(z), expected, rtol=1e-12)


def test_coordinates_have_names():
    names = coordinate_names(vb.target(all_supports()))
    assert names[:4] == ("a", "b", "p[0]", "p[1]")
    assert names[-2:] == ("beta[0]", "beta[1]")


def test_a_model_may_have_no_latent_site_at_all(x64):
    @vb.model
    def only_params(y):
        mu = vb.param("mu", 1.0)
        vb.sample("y", dist.Normal(mu, 1.0), obs=y)

    target = vb.target(only_params(np.array(3.0)))
    assert target.dim == 0 and coordinate_names(target) == ()
    np.testing.assert_allclose(target.log_density(np.zeros(0)), st.norm.logpdf(3.0, 1.0), rtol=1e-12)
    assert target.unconstrain({}).shape == (0,)
    assert param_values(target)["mu"] == 1.0


def test_data_are_arguments_of_the_density(compilations):
    z = np.zeros(2)
    first = vb.target(normal_normal(Y)).log_density(z)
    before = compilations()
    second = vb.target(normal_normal(Y + 1.0)).log_density(z)
    assert compilations() == before and first != second


def test_guilty_sites_are_named():
    @vb.model
    def model():
        x = vb.sample("x", dist.Normal(0.0, 1.0))
        vb.factor("good", -(x**2))
        vb.factor("bad", jnp.log(x))
        vb.factor("steep", jnp.sqrt(jnp.abs(x)))

    target = vb.target(model())
    assert nonfinite_sites(target, np.array([[1.0]])) == ()
    assert nonfinite_sites(target, np.array([[1.0], [-1.0]])) == ("bad",)
    assert nonfinite_sites(target, np.array([[0.0]])) == ("bad", "steep")


def test_errors_at_the_door():
    target = vb.target(normal_normal(Y))
    with pytest.raises(ValueError, match=r"z has shape \(3,\), not \(2,\); its coordinates are x\[2\]"):
        target.log_density(np.zeros(3))
    with pytest.raises(ModelError, match="the values lack the latent site x"):
        target.unconstrain({})
    with pytest.raises(ModelError, match=r"site 'x': the value given has shape \(2, 3, 4\)"):
        target.unconstrain({"x": np.zeros((2, 3, 4))})


@pytest.mark.slow
def test_nuts_of_blackjax_finds_the_conjugate_posterior():
    blackjax = pytest.importorskip("blackjax")
    target = vb.target(normal_normal(Y))

    @jax.jit
    def run(key):
        warm, draw = jax.random.split(key)
        adapt = blackjax.window_adaptation(blackjax.nuts, target.log_density)
        (state, settings), _ = adapt.run(warm, jnp.zeros(2), num_steps=300)
        nuts = blackjax.nuts(target.log_density, **settings)
        step = lambda state, key: (new := nuts.step(key, state)[0], new.position)  # noqa: E731
        return jax.lax.scan(step, state, jax.random.split(draw, 2000))[1]

    draws = np.asarray(target.constrain(run(jax.random.key(0)))["x"], np.float64)
    # By hand: the posterior precision is 0.1 + 4 * (6, 4), as in the known answers.
    squares = (draws - draws.mean(0)) ** 2
    for found, expected in ((draws, [0.049793, 0.475155]), (squares, np.array([0.203700, 0.249222]) ** 2)):
        batches = found.reshape(20, 100, 2).mean(1)
        assert np.all(np.abs(found.mean(0) - expected) < 4 * batches.std(0, ddof=1) / np.sqrt(20))


@pytest.mark.parametrize("size", [1, 4096])
def test_a_target_keeps_its_own_numbers_whatever_becomes_of_the_users_array(size):
    """On a CPU JAX can share the memory of an aligned array."""

    @vb.model
    def mean(y):
        x = vb.sample("x", dist.Normal(0.0, 1.0))
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Normal(x, 1.0), obs=y)

    given = np.zeros(size, np.float32)
    targets = vb.target(mean(given)), vb.target(mean(np.zeros(size)).condition(y=given))
    given[:] = 100.0
    right = st.norm.logpdf(0.0) * (size + 1)
    for target in targets:
        np.testing.assert_allclose(target.log_density(np.zeros(1)), right, rtol=1e-5)
