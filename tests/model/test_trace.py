"""Runs under the handlers: each answers its part, and a run is a plain table of sites."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import scipy.stats as st

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.errors import ModelError
from vbppl.model.handlers import drawn_anew, from_prior, given, required
from vbppl.model.trace import advice_of_indices, log_joint, traced, values_of


def trace(function, handler):
    """The sites of one run of `function`."""
    with traced(handler) as sites:
        function()
    return sites


def model():
    x = vb.sample("x", dist.Normal(0.0, 1.0))
    scale = vb.param("scale", 2.0)
    with vb.plate("rows", 3):
        vb.sample("y", dist.Normal(x, scale), obs=np.array([1.0, 2.0, 3.0]))
    vb.factor("f", 0.5)
    vb.deterministic("twice", 2 * x)


def test_sites_come_in_the_order_of_the_statements():
    sites = trace(model, from_prior(jax.random.key(0)))
    assert [(s.kind, s.observed) for s in sites.values()] == [
        *(("sample", False), ("param", False), ("plate", False), ("sample", True)),
        *(("factor", True), ("deterministic", False)),
    ]
    assert list(values_of(sites)) == ["x", "y", "twice"]
    assert [f.name for f in sites["y"].frames] == ["rows"] and sites["x"].frames == ()


def test_a_draw_depends_on_the_name_of_its_site_only():
    def alone():
        vb.sample("x", dist.Normal(0.0, 1.0))

    key = jax.random.key(3)
    assert trace(alone, from_prior(key))["x"].value == trace(model, from_prior(key))["x"].value


def test_given_values_are_taken_and_observations_stay(x64):
    sites = trace(model, given({"x": 0.5, "scale": 1.5, "y": np.zeros(3)}, required))
    expected = st.norm.logpdf(0.5) + st.norm.logpdf([1.0, 2.0, 3.0], 0.5, 1.5).sum() + 0.5
    np.testing.assert_allclose(log_joint(sites), expected, rtol=1e-12)
    assert log_joint({"twice": sites["twice"]}) == 0.0


def test_observations_can_be_drawn_anew():
    sites = trace(model, drawn_anew(given({"x": 0.5, "y": np.zeros(3)}, required)))
    assert not sites["y"].observed
    np.testing.assert_array_equal(sites["y"].value, np.zeros(3))


def test_an_empty_model_has_density_one():
    assert log_joint(trace(lambda: None, required)) == 0.0


def test_errors_of_a_distribution_learn_their_site():
    def improper():
        vb.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))

    with pytest.raises(ModelError, match="^site 'x': ImproperUniform has no total mass"):
        trace(improper, from_prior(jax.random.key(0)))


def test_errors_of_the_users_own_code_pass_through():
    def wrong():
        vb.deterministic("x", 1.0)
        raise TypeError("mine")

    with pytest.raises(TypeError, match="^mine") as caught:
        trace(wrong, required)
    assert caught.value.__notes__ == ["It happened in the model, after site 'x'."]


@vb.model
def groups(g, y, size=3):
    with vb.plate("group", size):
        a = vb.sample("a", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(a[g], 1.0), obs=y)


def test_an_index_out_of_range_is_named_with_its_site(compilations):
    index, y = np.array([1, 2, 3] * 4), np.zeros(12)
    assert advice_of_indices(groups(index, y)) == (
        "site 'y': index 3 is out of bounds for axis 0 with size 3 (shape (3,)); JAX reads the nearest entry instead, "
        "in silence. To mend it: Count from 0, for instance by np.unique(groups, return_inverse=True)"
    )
    before = compilations()
    assert advice_of_indices(groups(index - 1, y)) == "" and compilations() == before + 1
    assert advice_of_indices(groups(index, y, size=4)) == ""
