"""A model applied to its arguments is a value: what can be asked of it, and what runs when."""

from __future__ import annotations

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
import scipy.stats as st
from numpyro.handlers import condition as condition_there
from numpyro.handlers import do as do_there
from numpyro.handlers import seed as seeded
from numpyro.handlers import trace as traced
from numpyro.infer.util import log_density

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.errors import ModelError
from vbppl.model.trace import abstract_sites

SIGMA = np.array([15.0, 10.0, 16.0])
Y = np.array([28.0, 8.0, -3.0])
runs: list[str] = []


def schools(lib, dist, sigma, y=None):
    mu = lib.sample("mu", dist.Normal(0.0, 5.0))
    with lib.plate("school", len(sigma)):
        theta = lib.sample("theta", dist.Normal(mu, 2.0))
        lib.sample("y", dist.Normal(theta, sigma), obs=y)


@vb.model
def eight_schools(sigma, y=None):
    runs.append("eight_schools")
    schools(vb, dist, sigma, y)


def schools_there(sigma, y=None):
    schools(numpyro, numpyro.distributions, sigma, y)


@vb.model
def scale_prior(loc):
    mu = vb.sample("mu", dist.Normal(loc, 1.0))
    with vb.plate("row", 3):
        return vb.sample("sd", dist.LogNormal(mu, 1.0))


@vb.model
def middle(loc, known=None):
    inner = scale_prior(loc)
    sd = vb.sample("scales", inner if known is None else inner.condition(mu=known))
    return vb.deterministic("double", 2.0 * sd)


@vb.model
def outer(y):
    a = vb.sample("a", middle(0.0, known=1.0))
    b = vb.sample("b", middle(3.0))
    with vb.plate("row", 3):
        vb.sample("y", dist.Normal(a + b, 1.0), obs=y)


def log_normal(x, mu):
    return st.lognorm.logpdf(x, 1.0, scale=np.exp(mu)).sum()


VALUES = {"mu": 1.0, "theta": np.array([0.5, -1.0, 2.0])}


def test_applying_a_model_runs_nothing():
    before = len(runs)
    repr(eight_schools(SIGMA, y=Y))
    assert len(runs) == before


def test_a_model_prints_as_the_call_that_made_it():
    shown = repr(eight_schools(SIGMA, y=Y).condition(theta=Y).do(mu=0.0))
    assert shown == "eight_schools(float64[3], y=float64[3]).condition(theta).do(mu)"
    assert repr(eight_schools) == "<model eight_schools(sigma, y=None)>"
    assert eight_schools.__name__ == "eight_schools"


@pytest.mark.parametrize("args, kwargs", [((), {}), ((SIGMA, Y, 1), {}), ((SIGMA,), {"z": 1})])
def test_wrong_arguments_fail_at_once(args, kwargs):
    before = len(runs)
    with pytest.raises(TypeError, match=r"^eight_schools\(sigma, y=None\): "):
        eight_schools(*args, **kwargs)
    assert len(runs) == before


def test_the_table_of_shapes():
    table = """
site    kind      distribution  support  batch  event  plates
mu      latent    Normal        real     ()     ()
school  plate     3 rows
theta   latent    Normal        real     (3,)   ()     school[3]@-1
y       observed  Normal        real     (3,)   ()     school[3]@-1
"""
    assert str(eight_schools(SIGMA, y=Y).shapes()) == repr(eight_schools(SIGMA, y=Y).shapes()) == table.strip()


def test_the_prior_has_its_moments():
    draws = eight_schools(SIGMA, y=Y).sample(4000, seed=1)
    assert {n: d.shape for n, d in draws.items()} == {"mu": (4000,), "theta": (4000, 3), "y": (4000, 3)}
    for name, variance in (("mu", 25.0), ("theta", 29.0), ("y", 29.0 + SIGMA**2)):
        d = np.asarray(draws[name], np.float64)
        assert np.all(np.abs(d.mean(0)) < 4 * np.sqrt(variance / 4000))
        assert np.all(np.abs(d.var(0) / variance - 1) < 4 * np.sqrt(2 / 4000))


def test_the_same_seed_gives_the_same_draws():
    model = eight_schools(SIGMA)
    first, again, other = (model.sample(3, seed=s)["y"] for s in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, model.sample(3, seed=jax.random.key(7))["y"])
    assert not np.any(first == other)


def test_the_log_joint_is_that_of_scipy(x64):
    expected = st.norm.logpdf(1.0, 0, 5) + st.norm.logpdf(VALUES["theta"], 1.0, 2).sum()
    expected += st.norm.logpdf(Y, VALUES["theta"], SIGMA).sum()
    np.testing.assert_allclose(eight_schools(SIGMA, y=Y).log_joint(VALUES), expected, rtol=1e-12)
    conditioned = eight_schools(SIGMA).condition(y=Y)
    np.testing.assert_allclose(conditioned.log_joint(VALUES), expected, rtol=1e-12)


def test_the_log_joint_of_draws_is_that_of_each(x64):
    model = eight_schools(SIGMA, y=Y)
    # Three draws of three schools: the first axis is that of the draws.
    draws = {name: model.sample(3)[name] for name in ("mu", "theta")}
    one = [model.log_joint({name: value[i] for name, value in draws.items()}) for i in range(3)]
    np.testing.assert_allclose(model.log_joint(draws), one, rtol=1e-12)


def test_the_log_joint_reads_params_once_for_all_draws(x64):
    @vb.model
    def model():
        sd = vb.param("sd", np.ones(2))
        vb.deterministic("twice", 2 * vb.sample("x", dist.Normal(jnp.zeros(2), sd)))

    x = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    values = {"x": x, "sd": np.array([1.0, 10.0]), "twice": 2 * x}
    np.testing.assert_allclose(model().log_joint(values), st.norm.logpdf(x, 0, [1, 10]).sum(1), rtol=1e-12)


def test_condition_is_that_of_numpyro(x64):
    model = eight_schools(SIGMA, y=Y).condition(theta=VALUES["theta"]).condition({"y": -Y})
    there = condition_there(condition_there(schools_there, {"theta": VALUES["theta"]}), {"y": -Y})
    expected, _ = log_density(there, (SIGMA,), {}, {"mu": 1.0})
    np.testing.assert_allclose(model.log_joint({"mu": 1.0}), expected, rtol=1e-12)


def test_do_cuts_the_site_and_leaves_the_rest_as_in_numpyro(x64):
    values = {"mu": 1.0, "y": Y}
    sites = traced(seeded(do_there(condition_there(schools_there, values), {"theta": VALUES["theta"]}), 0)).get_trace(
        SIGMA
    )
    expected = sum(sites[n]["fn"].log_prob(sites[n]["value"]).sum() for n in ("mu", "y"))
    model = eight_schools(SIGMA, y=Y).do(theta=VALUES["theta"])
    np.testing.assert_allclose(model.log_joint({"mu": 1.0}), expected, rtol=1e-12)
    draws = model.sample(5)
    np.testing.assert_array_equal(draws["theta"], np.broadcast_to(VALUES["theta"], (5, 3)))
    assert model.shapes().rows[2][:2] == ("theta", "deterministic")


def test_do_sets_a_deterministic_site_too():
    draws = middle(0.0).do(double=np.zeros(3)).sample(2)
    np.testing.assert_array_equal(draws["double"], np.zeros((2, 3)))


def test_submodels_nest_with_their_conditions(x64):
    y = np.array([1.0, 2.0, 3.0])
    model = outer(y)
    assert list(abstract_sites(model)) == [
        *("a/scales/mu", "a/scales/row", "a/scales/sd", "a/double"),
        *("b/scales/mu", "b/scales/row", "b/scales/sd", "b/double"),
        *("row", "y"),
    ]
    a, b, mu = np.array([0.5, 1.0, 2.0]), np.array([2.0, 1.0, 3.0]), 2.5
    expected = st.norm.logpdf(1.0, 0, 1) + log_normal(a, 1.0)
    expected += st.norm.logpdf(mu, 3, 1) + log_normal(b, mu) + st.norm.logpdf(y, 2 * a + 2 * b, 1).sum()
    values = {"a/scales/sd": a, "b/scales/mu": mu, "b/scales/sd": b}
    np.testing.assert_allclose(model.log_joint(values), expected, rtol=1e-12)
    changed = model.condition({"b/scales/mu": mu}).do({"a/scales/sd": a})
    expected -= log_normal(a, 1.0)
    np.testing.assert_allclose(changed.log_joint({"b/scales/sd": b}), expected, rtol=1e-12)


def test_conditions_of_the_outer_model_win(x64):
    model = outer(Y).condition({"a/scales/mu": 0.0})
    before = outer(Y).log_joint({"a/scales/sd": np.ones(3), "b/scales/mu": 0.0, "b/scales/sd": np.ones(3)})
    after = model.log_joint({"a/scales/sd": np.ones(3), "b/scales/mu": 0.0, "b/scales/sd": np.ones(3)})
    change = st.norm.logpdf([0.0, 1.0], 0, 1) + [log_normal(np.ones(3), mu) for mu in (0.0, 1.0)]
    np.testing.assert_allclose(after - before, change[0] - change[1], rtol=1e-9)


@vb.model
def rows(n):
    with vb.plate("rows", n, subsample_size=2):
        x = vb.sample("x", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        vb.sample("y", dist.Normal(x.sum(-1), 1.0))


@pytest.mark.parametrize("change", ["condition", "do"])
def test_values_set_inside_a_plate_show_the_same_rows(change, x64):
    x, y, shown = np.arange(8.0).reshape(4, 2), np.arange(4.0), np.array([3, 1])
    model = getattr(rows(4).condition(y=y), change)(x=x)
    expected = st.norm.logpdf(y[shown], x[shown].sum(1), 1).sum()
    if change == "condition":
        expected += st.norm.logpdf(x[shown]).sum()
    np.testing.assert_allclose(vb.target(model).log_density(np.zeros(0), {"rows": shown}), 2 * expected, rtol=1e-12)


def test_submodels_stand_inside_plates_and_hold_them(x64):
    @vb.model
    def part():
        with vb.plate("inner", 2, subsample_size=1):
            return vb.sample("x", dist.Normal(0.0, 1.0))

    @vb.model
    def whole():
        with vb.plate("inner", 3):
            x = vb.sample("part", part())
            assert vb.sample("again", part()).shape == x.shape

    target = vb.target(whole())
    assert [(slot.name, slot.shape) for slot in target.layout.slots] == [("part/x", (2, 3)), ("again/x", (2, 3))]
    z = np.arange(12.0) / 10
    shown = target.log_density(z, {"part/inner": np.array([1]), "again/inner": np.array([0])})
    expected = 2 * st.norm.logpdf(z.reshape(4, 3)[[1, 2]]).sum()
    np.testing.assert_allclose(shown, expected, rtol=1e-12)


@vb.model
def counted(data, setting="a", table=None):
    runs.append("counted")
    x = vb.sample("x", dist.Normal(0.0, 1.0))
    vb.factor("f", x * jnp.sum(jnp.asarray(data)) * (2.0 if setting == "a" else 1.0))


def python_runs(model, **values):
    before = len(runs)
    result = float(model.log_joint({"x": 1.0, **values}))
    return len(runs) - before, result


def test_data_are_arguments_of_the_compiled_program_and_settings_are_not(compilations):
    python_runs(counted(np.ones(3)))
    before = compilations()
    ran, value = python_runs(counted(np.ones(3) * 2))
    assert (ran, compilations()) == (0, before)
    np.testing.assert_allclose(value, st.norm.logpdf(1.0) + 12.0, rtol=1e-6)
    ran, value = python_runs(counted(np.ones(3), setting="b"))
    assert ran > 0
    np.testing.assert_allclose(value, st.norm.logpdf(1.0) + 3.0, rtol=1e-6)


def test_equal_settings_of_other_types_are_other_settings():
    seen = []

    @vb.model
    def model(flag):
        seen.append(flag)
        vb.sample("x", dist.Normal(0.0, 1.0))

    for flag in (1, 1.0, True, 1):
        model(flag).log_joint({"x": 0.0})
    assert {type(flag) for flag in seen} == {int, float, bool}


class Column:
    """What a pandas column is to us: numbers behind `__array__`, and no pytree."""

    def __init__(self, numbers):
        self.numbers = numbers

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.numbers, dtype)

    __hash__ = None


@pytest.mark.parametrize(
    "data, total",
    [
        (Column([1.0, 2.0]), 3.0),
        ([1.0, 2.0], 3.0),
        ((jnp.array(1.0), 2), 3.0),
        (np.float32(3.0), 3.0),
        (np.array([True, True]), 2.0),
        (3, 3.0),
    ],
)
def test_data_come_in_many_kinds(data, total):
    _, value = python_runs(counted(data, table={"k": [None, Column([0.0])], "name": "text"}))
    np.testing.assert_allclose(value, st.norm.logpdf(1.0) + 2 * total, rtol=1e-6)


def test_an_integer_of_numpy_is_a_size():
    @vb.model
    def groups(n):
        with vb.plate("group", n):
            vb.sample("x", dist.Normal(0.0, 1.0))

    assert groups(np.array([0, 2, 1]).max() + 1).sample(1)["x"].shape == (1, 3)


def test_none_and_nested_arguments_come_back_as_they_were():
    kept = []

    @vb.model
    def model(a, b=None, *, c):
        kept.append((b, c))
        vb.factor("f", a["x"].sum())

    model({"x": np.ones(2)}, c=(None, "s", {"k": [1.5]})).shapes()
    assert kept == [(None, (None, "s", {"k": [1.5]}))]


def test_a_partial_is_a_function_too():
    model = vb.model(functools.partial(schools, vb, dist))
    assert repr(model(SIGMA)) == "schools(float64[3])"
    assert set(model(SIGMA).sample(1)) == {"mu", "theta", "y"}


def test_a_model_that_is_made_a_model_again_is_the_same():
    once = eight_schools(SIGMA, y=Y).log_joint(VALUES)
    # A partial of a decorated function, a whole one too, and a decorated one decorated again. What is closed over is of
    # this precision alone: JAX converts an array once, by its identity.
    sigma, y = SIGMA.copy(), Y.copy()
    partial, whole = functools.partial(eight_schools, sigma), functools.partial(eight_schools, sigma, y=y)
    for again in (vb.model(partial)(y=y), vb.model(whole)(), vb.model(eight_schools)(sigma, y=y)):
        assert again.log_joint(VALUES) == once


def test_a_model_applied_in_another_may_be_changed_asked_or_stated_before_it_is_forgotten():
    @vb.model
    def part(x):
        return vb.sample("y", dist.Normal(x, 1.0))

    @vb.model
    def whole():
        vb.factor("elsewhere", part(1.0).log_joint({"y": 3.0}))
        inside = part(2.0)

        def step(carry, x):
            return carry + vb.sample("part", inside), x

        vb.sample("changed", part(0.0).condition(y=2.0))
        vb.scan(step, 0.0, np.arange(3.0))

    assert set(whole().sample(1)) == {"changed/y", "part/y"}
    # log N(3 | 1, 1) + log N(2 | 0, 1) + 3 log N(2 | 2, 1)
    values = {"part/y": np.full(3, 2.0)}
    np.testing.assert_allclose(whole().log_joint(values), -4.0 - 2.5 * np.log(2 * np.pi), rtol=1e-6)


def test_the_table_of_shapes_has_the_log_density_of_each_site(x64):
    model = eight_schools(SIGMA, y=Y)
    found = {row[0]: float(row[-1]) for row in model.shapes(at=VALUES).rows if row[0] != "school"}
    right = {
        "mu": st.norm(0, 5).logpdf(1.0),
        "theta": st.norm(1.0, 2.0).logpdf(VALUES["theta"]).sum(),
        "y": st.norm(VALUES["theta"], SIGMA).logpdf(Y).sum(),
    }
    assert found == pytest.approx(right, rel=5e-4)  # four digits are shown
    drawn = {name: value[0] for name, value in model.sample(1, seed=3).items() if name != "y"}
    assert model.shapes(at=3).rows == model.shapes(at=drawn).rows
    with pytest.raises(ModelError, match="^site 'theta': no value was given"):
        model.shapes(at={"mu": 1.0})
    with pytest.raises(ModelError, match="has no site 'nu'"):
        model.shapes(at={**VALUES, "nu": 1.0})


def test_models_are_pytrees():
    model = eight_schools(SIGMA, y=Y).condition(mu=1.0)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, model)
    assert repr(doubled) == repr(model)
    np.testing.assert_array_equal(doubled.arguments[0][0], 2 * SIGMA)
    joint = jax.jit(lambda m, v: m.log_joint(v))(model, {"theta": VALUES["theta"]})
    np.testing.assert_allclose(joint, model.log_joint({"theta": VALUES["theta"]}), rtol=1e-6)


def test_abstract_runs_leak_no_tracers():
    with jax.checking_leaks():
        vb.target(outer(Y))
        eight_schools(SIGMA).condition(y=Y).shapes()


def test_abstract_runs_compile_nothing(compilations):
    before = compilations()
    eight_schools(SIGMA, y=Y).shapes()
    eight_schools(SIGMA).condition(y=Y)
    assert compilations() == before


def test_a_site_without_a_prior_cannot_be_drawn_but_has_a_shape():
    @vb.model
    def improper():
        vb.sample("x", dist.ImproperUniform(dist.constraints.positive, (), ()))

    assert abstract_sites(improper())["x"].shape == ()
    assert vb.target(improper()).dim == 1
    with pytest.raises(ModelError, match="^site 'x': ImproperUniform has no total mass"):
        improper().sample(1)


def test_a_model_and_its_function_can_be_pickled_by_name():
    import cases

    for thing in (cases.eight_schools, cases.Nested.inner):
        assert pickle.loads(pickle.dumps(thing)) is thing
    model = cases.eight_schools(SIGMA, y=Y).condition(mu=1.0)
    copy = pickle.loads(pickle.dumps(model))
    assert repr(copy) == repr(model) and jax.tree.structure(copy) == jax.tree.structure(model)
    np.testing.assert_array_equal(copy.log_joint({"tau": 1.0, "theta": Y}), model.log_joint({"tau": 1.0, "theta": Y}))


def test_a_pickled_source_keeps_its_shape_and_says_that_its_data_are_elsewhere():
    copy = pickle.loads(pickle.dumps(vb.Source(np.zeros((10, 2)))))
    assert copy.shape == (10, 2)
    with pytest.raises(ModelError, match="Apply the model to its data again"):
        copy.load()


def test_a_notebook_shows_a_model_with_its_shapes_and_a_wrong_one_with_its_error():
    @vb.model
    def wrong(y):
        vb.sample("y", dist.Normal(0.0, 1.0), obs=y)

    @vb.model
    def right(y):
        vb.sample("y", dist.Normal(0.0, 1.0).expand([3]), obs=y)

    assert "<table>" in right(Y)._repr_html_() and "right(float64[3])" in right(Y)._repr_html_()
    assert "<table>" in right(Y).shapes()._repr_html_()
    assert "obs has shape (3,)" in wrong(Y)._repr_html_()
