"""The words against NumPyro's: each model is written once, for both libraries, so that only the imports differ."""

from __future__ import annotations

import functools
import itertools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions
import pytest
import scipy.stats
from numpyro.handlers import seed as seeded
from numpyro.handlers import trace as traced
from numpyro.infer.util import log_density, potential_energy, unconstrain_fn

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.errors import ModelError
from vbppl.model.trace import abstract_sites
from vbppl.target.target import param_values

RNG = np.random.default_rng(0)
SIGMA = np.array([15.0, 10.0, 16.0, 11.0])
Y4 = np.array([28.0, 8.0, -3.0, 7.0])
Y34 = RNG.normal(size=(3, 4))
X = RNG.normal(size=(6, 2))
Y6 = RNG.normal(size=6)
COUNTS = np.array([0, 3, 1, 2, 5, 1])


def eight_schools(lib, dist):
    mu = lib.sample("mu", dist.Normal(0.0, 5.0))
    tau = lib.sample("tau", dist.HalfCauchy(5.0))
    with lib.plate("school", 4):
        theta = lib.sample("theta", dist.Normal(mu, tau))
        lib.sample("y", dist.Normal(theta, SIGMA), obs=Y4)


def nested_plates(lib, dist):
    with lib.plate("column", 4):
        a = lib.sample("a", dist.Normal(0.0, 1.0))
        with lib.plate("row", 3):
            b = lib.sample("b", dist.Gamma(2.0, 1.0))
            lib.sample("y", dist.Normal(a, b), obs=Y34)


def crossed_plates_with_dims(lib, dist):
    rows, columns = lib.plate("rows", 3, dim=-2), lib.plate("columns", 4, dim=-1)
    with rows:
        a = lib.sample("a", dist.Normal(0.0, 1.0))
    with columns:
        b = lib.sample("b", dist.Normal(0.0, 1.0))
    with columns, rows:
        lib.sample("y", dist.Normal(a + b, 1.0), obs=Y34)


def two_plates_in_one_statement(lib, dist):
    with lib.plate("rows", 4) as i, lib.plate("columns", 3) as j:
        x = lib.sample("x", dist.Exponential(jnp.ones((3, 4))))
        lib.sample("y", dist.Normal(x + i - j[:, None], 1.0), obs=Y34)


def a_gap_between_dims(lib, dist):
    with lib.plate("far", 3, dim=-3):
        a = lib.sample("a", dist.LogNormal(0.0, 1.0))
    with lib.plate("far", 3, dim=-3), lib.plate("near", 4):
        lib.sample("y", dist.Poisson(a), obs=COUNTS[:4] + np.zeros((3, 1, 4), int))


def events_in_plates(lib, dist):
    w = lib.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with lib.plate("rows", 6):
        lib.sample("x", dist.Normal(w, 1.0).to_event(1), obs=X)
        lib.sample("z", dist.MultivariateNormal(w, covariance_matrix=jnp.array([[1.0, 0.5], [0.5, 2.0]])))


def expanded_and_masked(lib, dist):
    w = lib.sample("w", dist.StudentT(4.0, 0.0, 1.0).expand([2]))
    with lib.plate("rows", 6):
        lib.sample("y", dist.Normal(X @ w, 1.0).mask(COUNTS > 1), obs=Y6)


def sample_shapes(lib, dist):
    w = lib.sample("w", dist.Normal(0.0, jnp.array([1.0, 2.0])), sample_shape=(3,))
    lib.sample("v", dist.Normal(w.sum(), 1.0).expand((2, 1)), sample_shape=(4,))


def factors_in_plates(lib, dist):
    mu = lib.sample("mu", dist.Normal(0.0, 1.0))
    lib.factor("outside", -(mu**2))
    with lib.plate("rows", 6):
        lib.factor("scalar", -mu)
        lib.factor("each", -jnp.abs(mu - Y6))


def random_bounds(lib, dist):
    a = lib.sample("a", dist.Gamma(3.0, 1.0))
    b = lib.sample("b", dist.Uniform(0.0, a))
    with lib.plate("rows", 4):
        lib.sample("c", dist.Uniform(b, a + 1.0))


def constrained_vectors(lib, dist):
    p = lib.sample("p", dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))
    corr = lib.sample("corr", dist.LKJCholesky(3, 2.0))
    sd = lib.sample("sd", dist.HalfNormal(1.0).expand([3]).to_event(1))
    with lib.plate("rows", 4):
        lib.sample("k", dist.Categorical(p), obs=np.array([0, 2, 1, 2]))
        lib.sample("y", dist.MultivariateNormal(p, scale_tril=sd[:, None] * corr), obs=Y34.T)


def deterministic_sites(lib, dist):
    a = lib.sample("a", dist.Beta(2.0, 3.0))
    with lib.plate("rows", 6):
        b = lib.deterministic("b", a * Y6)
        lib.sample("y", dist.Laplace(b, 1.0), obs=Y6)
    return b


MODELS = {
    function.__name__: function
    for function in (
        eight_schools,
        nested_plates,
        crossed_plates_with_dims,
        two_plates_in_one_statement,
        a_gap_between_dims,
        events_in_plates,
        expanded_and_masked,
        sample_shapes,
        factors_in_plates,
        random_bounds,
        constrained_vectors,
        deterministic_sites,
    )
}


def ours(function):
    def model():
        return function(vb, vb.distributions)

    return vb.model(model)()


def theirs(function):
    def model():
        return function(numpyro, numpyro.distributions)

    return model


@pytest.mark.parametrize("name", MODELS)
def test_shapes_are_those_of_numpyro(name):
    sites = {}
    jax.eval_shape(lambda key: sites.update(traced(seeded(theirs(MODELS[name]), key)).get_trace()), jax.random.key(0))
    outlines = {n: o for n, o in abstract_sites(ours(MODELS[name])).items() if o.kind in ("sample", "factor")}
    assert {n for n, s in sites.items() if s["type"] == "sample"} == set(outlines)
    for n, outline in outlines.items():
        frames = {(f.name, f.dim, f.size) for f in sites[n]["cond_indep_stack"]}
        assert {(f.name, f.dim, f.size) for f in outline.frames} == frames
        if outline.kind == "sample":
            assert outline.shape == sites[n]["value"].shape
            assert not frames or outline.batch == sites[n]["fn"].batch_shape


@pytest.mark.parametrize("name", MODELS)
def test_densities_and_maps_are_those_of_numpyro(name, x64):
    model, peer = ours(MODELS[name]), theirs(MODELS[name])
    target = vb.target(model)

    @jax.jit
    def both(z):
        values = target.constrain(z)
        free = {slot.name: values[slot.name] for slot in target.layout.slots}
        theirs_z = unconstrain_fn(peer, (), {}, free)
        flat = jnp.concatenate([jnp.ravel(theirs_z[slot.name]) for slot in target.layout.slots])
        mine = model.log_joint(free), target.log_density(z), target.unconstrain(free), z
        return mine, (log_density(peer, (), {}, free)[0], -potential_energy(peer, (), {}, theirs_z), flat, flat)

    z = np.random.default_rng(3).normal(size=target.dim)
    for mine, expected in zip(*both(z)):
        np.testing.assert_allclose(mine, expected, rtol=1e-9, atol=1e-9)


def subsampled(lib, dist):
    """Local and global variables under one plate of which three rows are shown."""
    mu = lib.sample("mu", dist.Normal(0.0, 1.0))
    with lib.plate("rows", 6, subsample_size=3) as i:
        scale = lib.sample("scale", dist.HalfNormal(1.0))
        lib.sample("y", dist.Normal(mu, scale), obs=lib.subsample(Y6, event_dim=0))
        lib.sample("k", dist.Poisson(jnp.exp(mu)), obs=jnp.asarray(COUNTS)[i])
        lib.factor("each", mu * scale)


def crossed_and_subsampled(lib, dist):
    rows = lib.plate("rows", 3, subsample_size=2, dim=-2)
    columns = lib.plate("columns", 4, subsample_size=2, dim=-1)
    with rows:
        a = lib.sample("a", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with columns:
        b = lib.sample("b", dist.Gamma(2.0, 1.0))
    with columns, rows:
        lib.sample("y", dist.Normal(a[..., 0] + a[..., 1], b), obs=lib.subsample(Y34, event_dim=0))


def nested_and_subsampled(lib, dist):
    with lib.plate("columns", 4, subsample_size=2):
        a = lib.sample("a", dist.Normal(0.0, 1.0))
        with lib.plate("rows", 3):
            lib.sample("y", dist.Normal(a, 1.0), obs=lib.subsample(Y34, event_dim=0))


SHOWN = [
    (subsampled, {"rows": 3}, {"mu": (), "scale": (-1, "rows")}),
    (crossed_and_subsampled, {"rows": 2, "columns": 2}, {"a": (0, "rows"), "b": (-1, "columns")}),
    (nested_and_subsampled, {"columns": 2}, {"a": (-1, "columns")}),
]


@pytest.mark.parametrize("function, lengths, local", SHOWN, ids=lambda v: getattr(v, "__name__", ""))
def test_rows_shown_count_as_in_numpyro(function, lengths, local, x64):
    model = ours(function)
    target = vb.target(model)
    z = np.random.default_rng(1).normal(size=target.dim)
    values = target.constrain(z)
    rows = {name: jnp.array([2, 0, 1])[:length] for name, length in lengths.items()}
    shown = {
        name: jnp.take(values[name], rows[at[1]], axis=at[0]) if at else values[name] for name, at in local.items()
    }
    there = jax.jit(lambda values: log_density(seeded(theirs(function), 0), (), {}, values)[0])
    expected = there({**shown, **rows})
    np.testing.assert_allclose(target.log_density(z, rows, jacobian=False), expected, rtol=1e-10)


@pytest.mark.parametrize("function, lengths, local", SHOWN, ids=lambda v: getattr(v, "__name__", ""))
def test_all_sets_of_rows_together_give_the_full_density_and_gradient(function, lengths, local, x64):
    target = vb.target(ours(function))
    z = np.random.default_rng(2).normal(size=target.dim)
    both = jax.jit(jax.value_and_grad(lambda z, rows: target.log_density(z, rows)))
    sizes = {plate.name: plate.size for plate in target.layout.plates}
    sets = [list(itertools.combinations(range(sizes[name]), length)) for name, length in lengths.items()]
    each = [both(z, dict(zip(lengths, map(np.array, chosen)))) for chosen in itertools.product(*sets)]
    value, gradient = (np.mean(parts, axis=0) for parts in zip(*each))
    full_value, full_gradient = both(z, {})
    np.testing.assert_allclose(value, full_value, rtol=1e-12)
    np.testing.assert_allclose(gradient, full_gradient, rtol=1e-10, atol=1e-12)


def test_rows_must_name_plates():
    target = vb.target(ours(subsampled))
    with pytest.raises(ModelError, match="rows names 'row', but the model's plates are rows"):
        target.log_density(np.zeros(target.dim), {"row": [0]})
    with pytest.raises(ModelError, match="must be some integers in one dimension, not float"):
        target.log_density(np.zeros(target.dim), {"rows": [0.5]})
    target.log_density(np.zeros(target.dim), {"rows": [0, 5]})


def test_a_plate_yields_its_indices():
    @vb.model
    def model():
        with vb.plate("a", 3) as i, vb.plate("b", 2) as j:
            vb.deterministic("i", i)
            vb.deterministic("j", j)

    values = model().sample(1)
    np.testing.assert_array_equal(values["i"], [[0, 1, 2]])
    np.testing.assert_array_equal(values["j"], [[0, 1]])


def test_a_plate_object_may_be_entered_again_one_time_after_another():
    @vb.model
    def model():
        plate = vb.plate("rows", 3)
        with plate:
            a = vb.sample("a", vb.distributions.Normal(0.0, 1.0))
        with plate:
            vb.sample("b", vb.distributions.Normal(a, 1.0))
        with vb.plate("rows", 3):
            vb.sample("c", vb.distributions.Normal(a, 1.0))

    assert {name: value.shape for name, value in model().sample(2).items()} == dict.fromkeys("abc", (2, 3))


def test_an_error_inside_a_plate_leaves_the_run_as_it_was():
    @vb.model
    def inner():
        raise ArithmeticError

    @vb.model
    def model():
        for plate in (vb.plate("rows", 3), vb.plate("rows", 3)):
            try:
                with plate:
                    vb.sample("inner", inner())
            except ArithmeticError:
                pass
        vb.sample("x", vb.distributions.Normal(jnp.zeros(5), 1.0))

    assert model().sample(1)["x"].shape == (1, 5)
    with pytest.raises(ModelError, match="outside a model"):
        vb.sample("x", vb.distributions.Normal(0.0, 1.0))


def test_an_error_in_a_run_leaves_no_run_behind():
    @vb.model
    def model():
        with vb.plate("rows", 3):
            raise ArithmeticError

    for _ in range(2):
        with pytest.raises(ArithmeticError):
            model().sample(1)
    with pytest.raises(ModelError, match="outside a model"):
        vb.plate("rows", 3)


def test_threads_do_not_meet():
    barrier, results = threading.Barrier(2, timeout=30), {}

    def run(letter):
        @vb.model
        def model():
            barrier.wait()
            with vb.plate("rows", 2):
                barrier.wait()
                vb.sample(letter, vb.distributions.Normal(0.0, 1.0))

        results[letter] = list(abstract_sites(model()))

    threads = [threading.Thread(target=run, args=(letter,)) for letter in "ab"]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert results == {"a": ["rows", "a"], "b": ["rows", "b"]}


def test_an_observed_value_comes_back_as_an_array():
    seen = []

    @vb.model
    def model(y):
        with vb.plate("rows", 3):
            seen.append(vb.sample("y", vb.distributions.Poisson(1.0), obs=y))

    abstract_sites(model([1, 2, 3]))
    assert isinstance(seen[0], jax.Array) and seen[0].dtype.kind == "i"


def test_subsample_takes_rows_to_the_left_of_events(x64):
    @vb.model
    def model():
        with vb.plate("rows", 6):
            x = vb.subsample(X, event_dim=1)
            constant = vb.subsample(np.ones((1, 2)), event_dim=1)
            vb.factor("f", (x * constant).sum(-1))

    shown = vb.target(model()).log_density(np.zeros(0), {"rows": np.array([4, 1])})
    np.testing.assert_allclose(shown, 3 * (X[4].sum() + X[1].sum()), rtol=1e-12)


def test_a_param_returns_what_it_was_given():
    @vb.model
    def model():
        net = vb.param("net", {"w": np.ones((2, 3)), "name": 3, "b": [0.5, np.zeros(2)]})
        vb.deterministic("w", net["w"])
        assert net["name"] == 3 and isinstance(net["b"], list)
        vb.factor("f", -(net["b"][0] ** 2) + vb.param("k", 2))

    target = vb.target(model())
    assert len(target.params["net"]) == 3
    values = param_values(target)
    assert values["net"]["name"] == 3 and values["net"]["b"][0] == 0.5 and values["k"] == 2.0


def test_a_module_keeps_its_own_settings():
    @vb.distributions.base.pytree
    class Dropout:
        rate: float
        weight: np.ndarray

    @vb.model
    def model():
        assert vb.param("net", Dropout(0.5, np.ones(3))).rate == 0.5

    assert len(vb.target(model()).params["net"]) == 1


def test_params_have_supports():
    constraints = vb.distributions.constraints

    @vb.model
    def model():
        vb.param("sd", 2.0, constraints.positive)
        vb.param("p", np.array([0.2, 0.3, 0.5]), constraint=constraints.simplex)
        vb.param("theirs", 2.0, constraint=numpyro.distributions.constraints.positive)

    target = vb.target(model())
    np.testing.assert_allclose(target.params["sd"][0], np.log(2), rtol=1e-6)
    assert target.params["p"][0].shape == (2,)
    np.testing.assert_allclose(param_values(target)["p"], [0.2, 0.3, 0.5], rtol=1e-5)
    np.testing.assert_allclose(param_values(target)["theirs"], 2.0, rtol=1e-6)


def program(words, d):
    """NumPyro's own handlers around statements of either library."""

    def model(y, known, weight):
        mu = words.sample("mu", d.Normal(0.0, 1.0))
        with numpyro.handlers.mask(mask=known), words.plate("row", 3), numpyro.handlers.scale(scale=weight):
            words.sample("y", d.Normal(mu, 1.0), obs=y)
        with numpyro.handlers.scale(scale=2.0), numpyro.handlers.mask(mask=False):
            words.sample("z", d.Normal(mu, 1.0), obs=y[0])
        words.sample("again", d.Normal(mu, 1.0), obs=y[0])

    return model


def test_numpyros_mask_and_scale_are_heard_as_there():
    y, known, weight = np.array([1.0, 5.0, 2.0]), np.array([True, False, True]), np.array([0.5, 1.0, 2.0])
    found = vb.model(program(vb, dist))(y, known, weight).log_joint({"mu": 0.3})
    theirs, _ = log_density(program(numpyro, numpyro.distributions), (y, known, weight), {}, {"mu": 0.3})
    rows = weight * known * scipy.stats.norm.logpdf(y, 0.3)
    right = scipy.stats.norm.logpdf(0.3) + rows.sum() + scipy.stats.norm.logpdf(1.0, 0.3)
    np.testing.assert_allclose([found, theirs], right, rtol=1e-6)


def test_a_handler_of_numpyros_in_and_around_a_scan():
    def chain(y, known, around=1.0):
        def step(level, value):
            with numpyro.handlers.mask(mask=value[1]):
                return vb.sample("y", dist.Normal(level, 1.0), obs=value[0]), None

        with numpyro.handlers.scale(scale=around):
            vb.scan(step, 0.0, (y, known))

    y, known = np.array([1.0, 1.5, -0.5]), np.array([True, False, True])
    right = 0.5 * (scipy.stats.norm.logpdf(1.0) + scipy.stats.norm.logpdf(-0.5, 1.5))
    np.testing.assert_allclose(vb.model(chain)(y, known, 0.5).log_joint({}), right, rtol=1e-6)
    with pytest.raises(ModelError) as error:
        vb.model(chain)(y, known, np.ones(3)).log_joint({})
    assert str(error.value) == (
        "site 'y': NumPyro's scale of many numbers stands around a scan.\n"
        "  To mend it: Give each step its own, among the xs, and write scale in the step."
    )


def test_a_handler_of_numpyros_that_would_do_nothing_is_refused():
    @vb.model
    def chain(y):
        def step(level, value):
            return vb.sample("y", dist.Normal(level, 1.0)), None

        with numpyro.handlers.condition(data={"y": y}):
            vb.scan(step, 0.0, y)

    @vb.model
    def weight():
        with vb.handlers.mask(mask=False):
            vb.factor("w", 1.0)

    with pytest.raises(ModelError, match="site 'y': NumPyro's condition stands around the sample statement"):
        chain(np.zeros(3)).log_joint({})
    with pytest.raises(ModelError, match=r"site 'w': NumPyro's mask .*\n.*jnp.where\(m, log_weight, 0.0\)"):
        weight().log_joint({})
    with pytest.raises(AttributeError, match="no attribute 'plate_stack': two plates"):
        vb.plate_stack  # noqa: B018


def test_a_param_may_be_given_by_a_function_of_a_key_and_is_the_same_in_each_run():
    @vb.model
    def net():
        w = vb.param("w", lambda key: {"a": jax.random.normal(key, (3,)), "b": jnp.zeros(())})
        vb.sample("y", dist.Normal(w["a"].sum() + w["b"], 1.0), obs=1.0)

    (first, _), (again, _) = net().initial_params()["w"], jax.jit(lambda: net().initial_params()["w"])()
    assert first.shape == (3,) and len({*np.asarray(first).tolist()}) == 3
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(net().log_joint({}), scipy.stats.norm.logpdf(1.0, float(first.sum())), rtol=1e-5)


def test_numpyros_handlers_around_a_run_are_no_business_of_it():
    @vb.model
    def coin(y):
        vb.sample("y", dist.Bernoulli(0.25), obs=y)

    with numpyro.handlers.seed(rng_seed=0):
        assert coin(1).log_joint({}) == pytest.approx(np.log(0.25))


def test_sizes_from_data_are_known_where_the_data_are_closed_over(x64):
    def groups(k, y):
        with vb.plate("group", len(np.unique(k))):
            mean = vb.sample("mean", dist.Normal(0.0, 1.0))
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Normal(mean[k], 1.0), obs=y)

    k, y, mean = np.array([0, 0, 1, 2]), np.arange(4.0), np.array([0.3, -1.0, 2.0])
    model = vb.model(functools.partial(groups, k, y))()
    expected = scipy.stats.norm.logpdf(mean).sum() + scipy.stats.norm.logpdf(y, mean[k]).sum()
    assert model.log_joint({"mean": mean}) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind, given", [("condition", {"data": {"mu": 2.0}}), ("scale", {"scale": 2.0})])
def test_numpyros_handlers_around_a_whole_model_or_a_fit_are_refused(kind, given):
    @vb.model
    def part():
        vb.sample("mu", dist.Normal(0.0, 1.0))

    handler = getattr(vb.handlers, kind)
    with pytest.raises(ModelError, match=f"{kind} stands around the call of part, and does nothing"):
        handler(seeded(part, 0), **given)()
    calls = {"vb.fit": vb.fit, "vb.fit_many": lambda model: vb.fit_many([model]), "model.sample": vb.Model.sample}
    calls |= {"model.log_joint": lambda model: model.log_joint({"mu": 0.3}), "vb.target": vb.target}
    for what, call in calls.items():
        with handler(**given), pytest.raises(ModelError, match=f"{kind} stands around {what}, and does nothing"):
            call(part())

    def theirs():  # where a model of ours is a term, what is around is NumPyro's own
        numpyro.factor("ours", part().log_joint({"mu": 0.3}))

    found, _ = log_density(handler(theirs, **given), (), {}, {})
    np.testing.assert_allclose(found, given.get("scale", 1.0) * scipy.stats.norm.logpdf(0.3), rtol=1e-6)
