"""The contract of a target, for each kind: a model in its coordinates, a plain function, one seen through a layer."""

from __future__ import annotations

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.pytree import pytree
from vbppl.target.axes import coordinate_names
from vbppl.target.batched import evaluate
from vbppl.target.density import nonfinite_sites
from vbppl.target.pullback import Pullback
from vbppl.target.target import Target, param_values, with_fixed_parameterisations

Y = np.array([0.5, -1.0, 2.0])
PRECISION, LOC = np.array([[2.0, 0.8, 0.0], [0.8, 1.0, 0.1], [0.0, 0.1, 1.5]]), np.array([1.0, -2.0, 0.5])


@vb.model
def hierarchy(y):
    tau = vb.sample("tau", dist.HalfNormal(2.0))
    with vb.plate("row", len(y)):
        theta = vb.sample("theta", dist.Normal(0.0, tau))
        vb.sample("y", dist.Normal(theta, 1.0), obs=y)
    vb.deterministic("largest", jnp.max(theta))
    vb.factor("soft", -0.1 * jnp.sum(theta) ** 2)


def gaussian(z):
    away = z - jnp.asarray(LOC, z.dtype)
    return -0.5 * away @ jnp.asarray(PRECISION, z.dtype) @ away


@pytree
class Bend:
    """The sinh-arcsinh map of each coordinate (Jones and Pewsey 2009): `z = sinh((arcsinh e + skew) / tail)`."""

    def forward_and_log_det(self, psi, e, target):
        inner = (jnp.arcsinh(e) + psi[0]) / psi[1]
        slope = jnp.cosh(inner) / psi[1] / jnp.sqrt(1.0 + e**2)
        return jnp.sinh(inner), jnp.sum(jnp.log(slope))

    def inverse_and_log_det(self, psi, z, target):
        inner = psi[1] * jnp.arcsinh(z) - psi[0]
        slope = jnp.cosh(inner) * psi[1] / jnp.sqrt(1.0 + z**2)
        return jnp.sinh(inner), jnp.sum(jnp.log(slope))


def bent(target):
    """The target seen through a layer whose bend differs from coordinate to coordinate."""
    return Pullback(target, Bend(), np.stack([np.linspace(-0.3, 0.4, target.dim), np.linspace(0.8, 1.2, target.dim)]))


def targets():
    """Each kind of target by its name."""
    model = vb.target(hierarchy(Y))
    return {
        "model": model,
        "non-centred": cases.seen(model, 0.0),
        "half centred": cases.seen(model, 0.5),
        "compiled-in coordinates": with_fixed_parameterisations(cases.seen(model, 0.0)),
        "plain": vb.density(gaussian, 3),
        "bent model": bent(model),
        "bent plain": bent(vb.density(gaussian, 3)),
        "twice bent": bent(bent(vb.density(gaussian, 3))),
    }


NAMES = tuple(targets())


@pytest.fixture(params=NAMES)
def target(request, x64):
    """Each kind of target, in float64."""
    return targets()[request.param]


def point(target, seed=0):
    return np.random.default_rng(seed).normal(size=target.dim)


def test_points_and_values_are_each_others_images(target):
    z = np.stack([point(target, seed) for seed in range(4)])
    values = target.constrain(z)
    np.testing.assert_allclose(target.unconstrain(values), z, atol=1e-9)
    for name, value in target.constrain(z[1]).items():
        np.testing.assert_allclose(value, values[name][1], rtol=1e-12)


def test_log_det_is_the_determinant_of_the_map_to_the_values(target):
    def free(z):
        values = target.constrain(z)
        return jnp.concatenate([jnp.ravel(values[slot.name]) for slot in target.layout.slots])

    z = point(target)
    determinant = np.linalg.slogdet(jax.jacfwd(free)(z))[1]
    np.testing.assert_allclose(target.log_det(target.constrain(z)), determinant, rtol=1e-9)
    change = target.log_density(z) - target.log_density(z, jacobian=False)
    np.testing.assert_allclose(change, determinant, rtol=1e-9)


def test_the_sites_terms_add_up_to_the_log_density(target):
    z = point(target)
    terms = target.run(z)
    expected = target.log_density(z)
    np.testing.assert_allclose(sum(terms.by_site().values()), expected, rtol=1e-12)
    np.testing.assert_allclose(terms.log_density(), expected, rtol=1e-12)
    np.testing.assert_allclose(terms.log_joint(), target.log_density(z, jacobian=False), rtol=1e-12)
    for name, value in target.constrain(z).items():
        np.testing.assert_allclose(terms.reported[name], value, rtol=1e-12)
    assert set(terms.reported) == set(target.constrain(z))


def test_many_points_at_once_give_what_each_gives_alone(target):
    z = np.stack([point(target, seed) for seed in range(3)])
    log_p, gradient = evaluate(target, z)
    for i in range(3):
        value, slope = jax.value_and_grad(target.log_density)(z[i])
        np.testing.assert_allclose(log_p[i], value, rtol=1e-10)
        np.testing.assert_allclose(gradient[i], slope, rtol=1e-9, atol=1e-12)


def test_gradients_are_those_of_differences(target):
    z, step = point(target), 1e-5
    each = step * np.eye(target.dim)
    numerical = [(target.log_density(z + e) - target.log_density(z - e)) / (2 * step) for e in each]
    np.testing.assert_allclose(jax.grad(target.log_density)(z), numerical, rtol=1e-6, atol=1e-7)


def test_a_target_is_a_pytree_with_labels(target):
    again = jax.tree.unflatten(jax.tree.structure(target), jax.tree.leaves(target))
    np.testing.assert_array_equal(again.log_density(point(target)), target.log_density(point(target)))
    assert len(coordinate_names(target)) == target.dim
    assert (list(target.parts()), target.sources, param_values(target)) == ([(1.0, {})], {}, {})
    assert nonfinite_sites(target, point(target)[None]) == ()


def test_the_waist_is_narrow_and_every_kind_has_all_of_it():
    members = {name for name in vars(Target) if not name.startswith("_")} - {"of"}
    assert len(members) <= 13, members
    assert members | {"model", "params", "parameterisations", "rows", "layout"} <= set(
        dir(bent(vb.density(gaussian, 3)))
    )


def test_coordinates_do_not_change_what_is_said_of_the_values(x64):
    """The joint density is a function of the values alone, however they are seen."""
    first = targets()["model"]
    values = first.constrain(point(first))
    for name in ("non-centred", "half centred", "compiled-in coordinates", "bent model"):
        other = targets()[name]
        joint = other.log_density(other.unconstrain(values), jacobian=False)
        np.testing.assert_allclose(joint, first.log_density(point(first), jacobian=False), rtol=1e-10)


@pytest.mark.parametrize("name", ["plain", "bent plain", pytest.param("bent model", marks=pytest.mark.slow)])
def test_every_kind_is_fitted_judged_and_summarised(name):
    posterior = vb.fit(targets()[name], "full_rank")
    assert posterior.report.verdict in ("good", "corrected", "unknown", "poor")
    assert posterior.elbo.value < np.inf and "z" in str(posterior) or "tau" in str(posterior)
    if name == "plain":
        # The reference is the normal distribution itself: mean, covariance, and the log of its normalising constant.
        covariance = np.linalg.inv(PRECISION)
        np.testing.assert_allclose(posterior.mean()["z"], LOC, atol=1e-4)
        np.testing.assert_allclose(posterior.covariance("z"), covariance, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(
            posterior.elbo.value, -st.multivariate_normal(LOC, covariance).logpdf(LOC), atol=1e-4
        )
        assert posterior.report.verdict == "good"
