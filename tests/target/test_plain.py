"""A plain function in the place of a model: what is said where it is none, and what of it is data."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vbppl as vb
from vbppl.core.errors import ModelError
from vbppl.target.axes import coordinate_names


def standard(z):
    return -0.5 * jnp.sum(z**2)


def test_it_adds_nothing_to_the_function(x64):
    z = np.array([0.3, -2.0])
    np.testing.assert_array_equal(vb.density(lambda z: standard(z) + 7.0, 2).log_density(z), standard(z) + 7.0)


def test_its_one_site_is_called_z():
    target = vb.density(standard, 3)
    assert target.dim == 3 and coordinate_names(target) == ("z[0]", "z[1]", "z[2]")
    assert set(target.constrain(np.zeros(3))) == {"z"}
    assert set(target.run(np.zeros(3)).by_site()) == {"z", "density"}


def test_there_is_no_model_to_predict_with():
    posterior = vb.fit(vb.density(standard, 2), "mean_field")
    assert posterior.sample(5)["z"].shape == (5, 2)
    assert "plain_density(standard, 2)" in repr(posterior)
    for ask in (posterior.predict, posterior.log_likelihood):
        with pytest.raises(ModelError, match="there is no model"):
            ask()


def test_arrays_of_a_partial_are_data(compilations):
    def shifted(loc, z):
        return standard(z - loc)

    z = np.zeros(2)
    first = vb.density(jax.tree_util.Partial(shifted, np.array([1.0, 0.0])), 2).log_density(z)
    before = compilations()
    second = vb.density(jax.tree_util.Partial(shifted, np.array([2.0, 0.0])), 2).log_density(z)
    assert compilations() == before
    np.testing.assert_allclose([first, second], [-0.5, -2.0])


def test_errors_at_the_door():
    with pytest.raises(ModelError, match=r"shape \(2,\) at one point z of shape \(2,\)"):
        vb.density(lambda z: z, 2)
    for dim in (0, 2.0, True):
        with pytest.raises(ValueError, match="dim must be a whole number"):
            vb.density(standard, dim)
    with pytest.raises(TypeError, match="log_density must be a function of a vector, not 3"):
        vb.density(3, 2)
