"""A target seen through a layer, against the change of variables by automatic derivatives and by its mass."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.errors import ModelError
from vbppl.guides.layers.sinh_arcsinh import SinhArcsinh
from vbppl.target.pullback import Pullback

Y = np.array([0.5, -1.0, 2.0])


@vb.model
def scales(y):
    sd = vb.sample("sd", dist.HalfNormal(2.0))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(vb.sample("theta", dist.Normal(0.0, 1.0)), sd), obs=vb.subsample(y))


TARGET = vb.target(scales(Y))
LAYER = SinhArcsinh()
PSI = np.random.default_rng(0).normal(size=(5, TARGET.dim)) * 0.3


def test_its_density_is_that_of_the_change_of_variables(x64):
    pulled = Pullback(TARGET, LAYER, PSI)
    e = np.random.default_rng(1).normal(size=TARGET.dim)
    matrix = jax.jacfwd(lambda e: LAYER.forward_and_log_det(PSI, e, TARGET)[0])(e)
    z, _ = LAYER.forward_and_log_det(PSI, e, TARGET)
    expected = TARGET.log_density(z) + np.linalg.slogdet(matrix)[1]
    np.testing.assert_allclose(pulled.log_density(e), expected, rtol=1e-10)


def test_its_mass_is_that_of_the_target(x64):
    target = vb.density(lambda z: -0.5 * jnp.sum((z - 1.0) ** 2), 1)
    pulled = Pullback(target, LAYER, np.array([[0.3], [-0.2], [0.4], [-0.1], [0.3]]))
    density = jax.jit(pulled.log_density)
    mass, _ = scipy.integrate.quad(lambda e: np.exp(density(np.array([e]))), -30, 30, limit=200)
    np.testing.assert_allclose(mass, np.sqrt(2 * np.pi), rtol=1e-7)


def test_a_bend_of_all_rows_is_not_counted_n_over_b_times(x64):
    """Half of the rows shown: the density is N/B times theirs, and the layer's part is as it was."""
    rows, e = {"row": np.array([2, 0])}, np.random.default_rng(4).normal(size=TARGET.dim)
    z, log_det = LAYER.forward_and_log_det(PSI, e, TARGET)
    pulled = Pullback(TARGET, LAYER, PSI)
    np.testing.assert_allclose(pulled.log_density(e, rows), TARGET.log_density(z, rows) + log_det, rtol=1e-10)
    np.testing.assert_allclose(pulled.showing(rows).run(e).log_density(), pulled.log_density(e, rows), rtol=1e-10)
    with pytest.raises(ModelError, match="bends whole vectors"):
        pulled.run(e[:3], rows, shown=True)
