"""What a model reads from outside its arguments: changes are seen, or refused; so is hidden randomness."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import gc
import random
import weakref
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.model.handlers import from_prior


@dataclasses.dataclass
class Settings:
    """What a model reads at an attribute."""

    y: float = 0.0


G = {"y": np.array(1.0)}
LIST = [1.0]
NUMBER = 1.0
SETTINGS = Settings(1.0)


def conjugate(read):
    """One number with a standard normal prior and unit noise: its posterior mean is y / 2."""

    @vb.model
    def half():
        x = vb.sample("x", dist.Normal(0.0, 1.0))
        vb.sample("y", dist.Normal(x, 1.0), obs=jnp.asarray(read()))

    return half


def by_helper():
    return NUMBER


def put(what, value):
    if what == "helper":
        globals()["NUMBER"] = value
    elif what == "array":
        G["y"] = np.array(value)
    elif what == "list":
        LIST[0] = value
    else:
        SETTINGS.y = value


READS = {
    "helper": by_helper,
    "array": lambda: G["y"],
    "list": lambda: LIST[0],
    "attribute": lambda: SETTINGS.y,
}


@pytest.mark.parametrize("what", READS)
def test_what_has_changed_outside_is_seen_by_the_next_fit_and_what_has_not_compiles_nothing(what, compilations):
    half = conjugate(READS[what])
    for value in (1.0, 3.0):
        put(what, value)
        posterior = vb.fit(half())
        np.testing.assert_allclose(posterior.mean()["x"], value / 2, rtol=1e-5)
        before = compilations()
        vb.fit(half())
        assert compilations() == before


class Plain:
    """What a model reads at attributes of an object that is no dataclass, and of its class."""

    shared = 0.0

    def __init__(self):
        self.y, self.table, self.inner, self.reads = 1.0, {"y": 1.0}, Slots(), 0

    def __call__(self):
        return self.own()

    def own(self):
        self.reads += 1
        return self.y

    @property
    def same(self):
        return self.y


class Slots:
    __slots__ = ("y",)

    def __init__(self):
        self.y = 1.0


def y_of(thing):
    return thing.y


OBJECT = Plain()
AT_OBJECTS = {
    "OBJECT.y": (lambda: OBJECT.y, lambda: OBJECT),
    "OBJECT.y by a helper": (lambda: y_of(OBJECT), lambda: OBJECT),
    "OBJECT.y by a name": (lambda: getattr(OBJECT, "y"), lambda: OBJECT),  # noqa: B009
    "OBJECT.y of many": (lambda: [each.y for each in (OBJECT,)][0], lambda: OBJECT),
    "OBJECT.y by methods": (lambda: OBJECT.own(), lambda: OBJECT),
    "OBJECT.y by a call": (lambda: OBJECT(), lambda: OBJECT),
    "OBJECT.y by a property": (lambda: OBJECT.same, lambda: OBJECT),
    "OBJECT.inner.y": (lambda: OBJECT.inner.y, lambda: OBJECT.inner),
    "Plain.shared": (lambda: Plain.shared, lambda: Plain),
}


@pytest.mark.parametrize("what", AT_OBJECTS)
def test_attributes_of_any_object_are_seen_or_refused(what):
    read, of = AT_OBJECTS[what]
    name = what.split(" ")[0]
    setattr(of(), name.split(".")[-1], 1.0)
    before = conjugate(read)()
    setattr(of(), name.split(".")[-1], 3.0)
    after = conjugate(read)()
    assert dict(after.reads)[name] == "float 3.0" and "reads" not in str(after.reads)
    assert float(after.log_joint({"x": 0.0})) == pytest.approx(stats.norm.logpdf([0.0, 3.0]).sum(), rel=1e-6)
    with pytest.raises(vb.ModelError, match=f"^{name}, which the model reads from outside its arguments, has changed"):
        before.log_joint({"x": 0.0})


class Looked:
    """What a method without a name of its own reads of a module."""

    def __call__(self):
        return NUMBER

    def __getattr__(self, name):
        if name != "it":
            raise AttributeError(name)
        return NUMBER


LOOKED = Looked()
HELD = {
    "a deque": (lambda held: held[0], lambda: collections.deque([1.0]), lambda held: held.__setitem__(0, 3.0)),
    "a set": (max, lambda: {1.0}, lambda held: (held.clear(), held.add(3.0))),
    "parsed arguments": (lambda held: held.y, lambda: argparse.Namespace(y=1.0), lambda held: setattr(held, "y", 3.0)),
    "a call": (lambda held: held(), lambda: LOOKED, lambda held: put("helper", 3.0)),
    "an attribute made when asked for": (lambda held: held.it, lambda: LOOKED, lambda held: put("helper", 3.0)),
}


@pytest.mark.parametrize("what", HELD)
def test_what_is_held_in_any_way_is_seen_by_the_next_fit(what):
    read, made, change = HELD[what]
    put("helper", 1.0)
    held = made()
    half = conjugate(lambda: read(held))
    for value in 1.0, 3.0:
        expected = stats.norm.logpdf([0.0, value]).sum()
        assert float(half().log_joint({"x": 0.0})) == pytest.approx(expected, rel=1e-6)
        change(held)


def test_a_layer_of_nnx_that_a_model_closes_over_is_seen_by_the_next_fit():
    nnx = pytest.importorskip("flax.nnx")
    layer = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    half = conjugate(lambda: layer(jnp.zeros(1))[0])
    for value in 1.0, 3.0:
        layer.bias[...] = jnp.array([value])
        expected = stats.norm.logpdf([0.0, value]).sum()
        assert float(half().log_joint({"x": 0.0})) == pytest.approx(expected, rel=1e-6)


def test_attributes_of_an_argument_and_of_the_object_of_a_bound_method_are_seen():
    class Study:
        def __init__(self):
            self.y = 1.0

        def half(self):
            vb.sample("y", dist.Normal(vb.sample("x", dist.Normal(0.0, 1.0)), 1.0), obs=y_of(self))

    study = Study()
    for made in (lambda: vb.model(Study.half)(study), lambda: vb.model(study.half)()):
        study.y = 1.0
        before = made()
        study.y = 3.0
        assert float(made().log_joint({"x": 0.0})) == pytest.approx(stats.norm.logpdf([0.0, 3.0]).sum(), rel=1e-6)
        with pytest.raises(vb.ModelError, match=r"^(Study|)\.y, which the model reads"):
            before.shapes()


def test_a_closure_and_a_default_are_seen():
    y = 1.0
    closed = conjugate(lambda: y)
    by_default = [conjugate(partial(lambda y=value: y)) for value in (1.0, 3.0)]
    first = closed().reads
    y = 3.0
    assert closed().reads != first
    assert by_default[0]().reads != by_default[1]().reads
    assert "default 0" in by_default[0]().reads[0][0]


def test_a_model_in_use_is_refused_by_the_name_of_what_has_changed():
    put("array", 1.0)
    model = conjugate(READS["array"])()
    put("array", 3.0)
    with pytest.raises(vb.ModelError) as error:
        vb.fit(model)
    assert str(error.value) == (
        "G['y'], which the model reads from outside its arguments, has changed since the model was applied to them.\n"
        "  G['y']: float64[] ffe642da04dad63c then, float64[] 049eb9b55559397e now\n"
        "  To mend it: Pass it as an argument of the model, or apply the model again."
    )


def test_an_array_that_is_changed_in_place_is_seen_or_refused():
    """JAX converts a float64 array once, by its identity, while a program holds it."""
    values = np.array([1.0, 1.0])
    model = conjugate(lambda: values.mean())
    np.testing.assert_allclose(vb.fit(model()).mean()["x"], 0.5, rtol=1e-5)
    values[:] = 3.0  # NumPy alone reads it
    np.testing.assert_allclose(vb.fit(model()).mean()["x"], 1.5, rtol=1e-5)
    held = np.array(1.0)
    model = conjugate(lambda: held)
    first = vb.fit(model())
    held[...] = 3.0
    with pytest.raises(vb.ModelError) as error:
        vb.fit(model())
    np.testing.assert_allclose(first.mean()["x"], 0.5, rtol=1e-5)
    assert str(error.value) == (
        "held, which the model reads from outside its arguments, was changed in place, but JAX still holds the numbers "
        "that it had before.\n"
        "  To mend it: Pass it as an argument of the model, or put a new array there: held = np.array(...)."
    )


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("random", lambda: random.random()),
        ("np.random", lambda: np.random.normal()),
        ("RNG", lambda: RNG.normal()),
    ],
)
def test_hidden_randomness_is_refused(name, draw):
    with pytest.raises(vb.ModelError) as error:
        vb.fit(conjugate(draw)())
    assert str(error.value) == (
        f"the model draws from {name}, which would give the same numbers for ever: a model is run once and then "
        "compiled.\n"
        "  To mend it: Write vb.sample(...) for what is random in the model; draw fixed numbers outside, and pass them."
    )


def test_what_a_model_changes_itself_is_not_looked_at():
    seen, counts, n = [], {"runs": 0}, 0

    @vb.model
    def noting():
        nonlocal n
        n += 1
        counts["runs"] += 1
        seen.append(n)
        vb.sample("x", dist.Normal(0.0, 1.0))

    vb.fit(noting())
    before = n
    vb.fit(noting())
    assert n == before


def test_a_plain_density_is_looked_at_too():
    centre = np.array(1.0)
    bare = partial(lambda: vb.density(lambda z: -0.5 * jnp.sum((z - jnp.asarray(centre)) ** 2), 1))
    first = bare()
    centre = np.array(3.0)
    with pytest.raises(vb.ModelError, match="^centre, which the model reads"):
        vb.fit(first)


@pytest.mark.parametrize("method", ["auto", vb.Stochastic(steps=10)], ids=["fixed draws", "stochastic"])
def test_a_model_that_is_gone_is_let_go_with_its_data(method):
    def fitted():
        values = np.arange(3.0)

        def program(link):
            x = vb.sample("x", dist.Normal(0.0, 1.0))
            vb.factor("y", -jnp.sum((link(x) - jnp.asarray(values)) ** 2))

        def link(x):
            return 2.0 * x

        posterior = vb.fit(vb.model(program)(link), method=method)
        posterior.mean()
        return [weakref.ref(each) for each in (values, program, link)]

    gone = fitted()
    gc.collect()
    assert [each() for each in gone] == [None, None, None]


@vb.model
def wide(loc=0.0):
    return vb.sample("x", dist.Normal(loc, 10.0))


def chosen():
    return vb.sample("p", {"narrow": wide(1.0), "wide": wide()}["wide"])


def measured():
    size = vb.target(wide()).dim
    wide().shapes().rows.__len__()
    return vb.sample("p", dist.Normal(np.zeros(size), 1.0).to_event(1))


def simulated():
    return vb.sample("p", dist.Normal(0.0, wide().sample(100, seed=1)["x"].std()))


def weighed():
    vb.factor("f", vb.target(wide()).log_density(vb.sample("p", dist.Normal(0.0, 1.0))[None]))


def collected():
    parts, use = [], False
    parts.extend(map(wide, [1.0, 2.0]))
    parts.append(wide())
    spare = wide()
    parts.remove(parts[0])
    return vb.sample("p", spare if use else dist.Normal(0.0, 1.0))


def passed_on():
    return vb.sample("p", vb.model(lambda part: vb.sample("own", dist.Normal(0.0, 1.0)))(wide()))


def shown():
    print(wide())
    return vb.sample("p", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize("program", [chosen, measured, simulated, weighed, collected, passed_on, shown])
def test_a_part_may_be_applied_and_not_run(program):
    assert [name.split("/")[0] for name in vb.model(program)().sample(1)] == ["p"]


def lost():
    wide()


def in_a_loop():
    for loc in range(2):
        wide(float(loc))


def in_a_helper():
    lost()


def in_a_step():
    def step(carry, x):
        wide(x)
        return carry, vb.sample("s", dist.Normal(carry, 1.0))

    vb.scan(step, 0.0, np.zeros(3))


@pytest.mark.parametrize("program", [lost, in_a_loop, in_a_helper, in_a_step])
def test_a_part_that_is_a_statement_of_its_own_is_told(program):
    with pytest.raises(vb.ModelError, match="^wide.* stands as a statement of its own"):
        vb.model(program)().shapes()


WIDE = np.linspace(0.1, 2.0, 8)
TABLES = {"x": WIDE, "group": np.arange(8) % 2}


def scaled(a, n=0):
    return a * TABLES["x"] if n else again(a)


def again(a):  # the two name each other
    return scaled(a, 1) * WIDE / WIDE


@vb.model
def slope(scale=WIDE[:1]):
    return vb.sample("slope", dist.Normal(0.0, 1.0)) * scale[0] * 10


def crossed(y):
    level = vb.sample("level", dist.Normal(np.zeros(2), 1.0).to_event(1))
    vb.sample("y", dist.Normal(scaled(vb.sample("part", slope())) + level[TABLES["group"]], 1.0).to_event(1), obs=y)


Y = 0.5 * WIDE
DESIGN = np.stack([WIDE, TABLES["group"] == 0, TABLES["group"] == 1], axis=1)


@pytest.mark.parametrize("first", [False, True])
def test_wide_arrays_that_are_read_from_outside_serve_both_precisions_in_turn(first):
    """JAX keeps what it made of an array in the precision of a program, so a program of the other meets a view."""
    values = {"part/slope": 0.3, "level": np.array([0.5, -1.0])}
    whole = np.array([0.3, 0.5, -1.0])
    exact = stats.norm.logpdf(whole).sum() + stats.norm.logpdf(Y, DESIGN @ whole, 1.0).sum()
    for wide in (first, not first, first):
        with jax.enable_x64(wide):
            found = vb.model(crossed)(Y).log_joint(values)
            assert found.dtype == (np.float64 if wide else np.float32)
            np.testing.assert_allclose(found, exact, rtol=1e-14 if wide else 1e-6)


@pytest.mark.slow
def test_a_fit_in_double_precision_is_asked_in_the_sessions_whatever_its_model_reads():
    exact = np.linalg.solve(np.eye(3) + DESIGN.T @ DESIGN, DESIGN.T @ Y)
    vb.fit(vb.model(crossed)(Y), "full_rank")
    posterior = vb.fit(vb.model(crossed)(Y), "full_rank", precision="float64")
    np.testing.assert_allclose([posterior.mean()["part/slope"], *posterior.mean()["level"]], exact, atol=1e-7)
    np.testing.assert_allclose(posterior.predict()["y"].mean(axis=0), DESIGN @ exact, atol=4 * 2 / 1000**0.5)


def test_what_no_view_can_stand_for_is_refused_where_the_precision_has_changed():
    class Data:
        held = np.array([0.5, 1.5])

    @dataclasses.dataclass
    class Fields:
        held: np.ndarray

    data = Fields(Data.held)

    @vb.model
    def program():
        vb.sample("x", dist.Normal(data.held, 1.0).to_event(1))

    held = program().trace  # a program of the session's precision, which is kept
    kept = jax.make_jaxpr(lambda: [site.value for site in held(from_prior(jax.random.key(0))).values()])()
    with jax.enable_x64(True), pytest.raises(vb.ModelError, match=r"data\.held, which .* in another precision"):
        program().shapes()
    assert kept.consts
