"""`scan`: densities of chains against NumPy and NumPyro, what their states are called, and where they are run on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as nd
import pytest
from numpyro.contrib.control_flow import scan as numpyro_scan
from numpyro.infer.util import log_density as numpyro_density
from scipy import stats

import vbppl as vb
import vbppl.distributions as dist
from vbppl.model.predictive import observed

RNG = np.random.default_rng(1)
LEVELS = np.array([0.3, 0.9, 1.1, 1.7, 1.2, 0.4])


@vb.model
def local_level(n=None, y=None):
    def step(level, y):
        level = vb.sample("level", dist.Normal(level, 0.5))
        vb.sample("y", dist.Normal(level, 1.0), obs=y)
        return level, level**2

    last, squares = vb.scan(step, 0.0, y, length=n)
    vb.deterministic("last", last)
    vb.deterministic("squares", squares)


def kalman(y, q, r):
    """Log evidence, smoothed means and variances of a local level that begins at 0 (Durbin and Koopman, 4.3 to 4.5)."""
    mean, var, evidence, filtered = 0.0, 0.0, 0.0, []
    for value in y:
        var = var + q
        total = var + r
        evidence -= 0.5 * (np.log(2 * np.pi * total) + (value - mean) ** 2 / total)
        mean, var = mean + var / total * (value - mean), var * r / total
        filtered.append((mean, var))
    smoothed = [filtered[-1]]
    for mean, var in filtered[-2::-1]:
        gain = var / (var + q)
        after = smoothed[-1]
        smoothed.append((mean + gain * (after[0] - mean), var + gain**2 * (after[1] - var - q)))
    return evidence, *map(np.array, zip(*smoothed[::-1]))


@pytest.fixture(scope="module")
def fitted():
    return vb.fit(local_level(y=LEVELS), "full_rank")


def test_evidence_and_states_are_those_of_the_kalman_smoother(fitted):
    evidence, mean, var = kalman(LEVELS, 0.25, 1.0)
    assert fitted.report.verdict == "good"
    # The posterior is Gaussian, so the bound is the evidence.
    assert abs(fitted.elbo.value - evidence) < 2e-3
    np.testing.assert_allclose(fitted.mean()["level"], mean, atol=2e-3)
    np.testing.assert_allclose(fitted.sd()["level"], np.sqrt(var), rtol=0.02)
    names = [name for name, _ in fitted.summary("level").rows]
    assert names == [f"level[{t}]" for t in range(6)]
    np.testing.assert_allclose(fitted.sample(5)["squares"], fitted.sample(5)["level"] ** 2)


def test_a_fitted_chain_is_run_on(fitted):
    drawn, found = fitted.sample(4000), fitted.predict(local_level(9), n=4000)
    np.testing.assert_array_equal(found["level"][:, :6], drawn["level"])
    assert found["y"].shape == (4000, 9) and found["last"].shape == (4000,)
    # What a loop hands on and what it gives out may be fused with different operations: to the last bits.
    np.testing.assert_allclose(found["last"], found["level"][:, 8], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found["squares"], found["level"] ** 2)
    # Each step adds the innovation's variance, 0.25; four standard errors of a variance are 9%.
    last = kalman(LEVELS, 0.25, 1.0)[2][-1]
    np.testing.assert_allclose(found["level"][:, 6:].var(axis=0), last + 0.25 * np.arange(1, 4), rtol=0.1)
    # A shorter one is cut, and then nothing of it is new.
    shorter = fitted.predict(local_level(4), n=10)
    assert shorter.keys() == {"y", "last", "squares"} and shorter["y"].shape == (10, 4)


def test_rows_of_log_likelihood_and_exports(fitted, tmp_path):
    level = fitted.sample(1000, seed=0)["level"]
    expected = -0.5 * (np.log(2 * np.pi) + (LEVELS - level) ** 2)
    np.testing.assert_allclose(fitted.log_likelihood(1000)["y"], expected, atol=1e-5)
    vb.save(fitted, tmp_path / "level.npz")
    again = vb.load(tmp_path / "level.npz", local_level(y=LEVELS))
    np.testing.assert_array_equal(again.sample(10)["level"], fitted.sample(10)["level"])
    tree = vb.to_arviz(fitted)
    assert tree["posterior"]["level"].shape[-1] == tree["observed_data"]["y"].shape[-1] == 6


def words(scan, sample, plate, dist):
    """Models in words that both libraries have."""

    def second_order(y):
        a = sample("a", dist.Normal(0.0, 0.5).expand((2,)).to_event(1))
        s = sample("s", dist.HalfNormal(1.0))

        def step(lags, y):
            y = sample("y", dist.Normal(a[0] * lags[0] + a[1] * lags[1], s), obs=y)
            return (y, lags[0]), None

        scan(step, (0.0, 0.0), y)

    def in_one_array(y):
        a = sample("a", dist.Normal(0.0, 0.5).expand((2,)).to_event(1))

        def step(lags, y):
            y = sample("y", dist.Normal(jnp.dot(a, lags), 1.0), obs=y)
            return jnp.stack([y, lags[0]]), None

        scan(step, jnp.zeros(2), y)

    def volatility(y):
        a = sample("a", dist.Uniform(0.0, 1.0))
        b = sample("b", dist.Uniform(0.0, 1.0 - a))

        def step(before, y):
            variance = 0.1 + a * before[0] ** 2 + b * before[1]
            y = sample("y", dist.Normal(0.0, jnp.sqrt(variance)), obs=y)
            return (y, variance), variance

        scan(step, (0.0, 1.0), y)

    def rows_inside(y):
        s = sample("s", dist.HalfNormal(1.0))

        def step(level, y):
            with plate("row", 3):
                level = sample("level", dist.Normal(level, s))
                sample("y", dist.StudentT(4.0, level, 1.0).mask(jnp.array([True, False, True])), obs=y)
            return level, None

        scan(step, jnp.zeros(3), y)

    def supports(y):
        def step(before, y):
            rate, low = before
            rate = sample("rate", dist.Gamma(3.0, 3.0 / rate))
            low = sample("low", dist.Uniform(low, low + 1.0))
            share = sample("share", dist.Dirichlet(jnp.ones(3) + rate))
            sample("y", dist.Poisson(rate * (share[0] + low)), obs=y)
            return (rate, low), share

        scan(step, (1.0, 0.0), y)

    def counting(y):
        s = sample("s", dist.HalfNormal(1.0))

        def step(carry, y):
            level, t = carry
            level = sample("level", dist.Normal(level + 0.1 * t, s))
            sample("y", dist.Normal(level, 1.0), obs=y)
            return (level, t + 1), None

        scan(step, (0.0, 0), y)

    return locals()


def numpyro_sample(name, fn, obs=None):
    return numpyro.sample(name, fn, obs=obs)


OURS = words(vb.scan, vb.sample, vb.plate, dist)
THEIRS = words(numpyro_scan, numpyro_sample, numpyro.plate, nd)
DATA = {
    "second_order": RNG.normal(size=7),
    "in_one_array": RNG.normal(size=7),
    "volatility": RNG.normal(size=7),
    "rows_inside": RNG.normal(size=(5, 3)),
    "supports": RNG.poisson(2.0, 6),
    "counting": RNG.normal(size=5),
}


FAST = ("second_order",)


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in DATA]
)
def test_densities_are_numpyros(name):
    model = vb.model(OURS[name])(DATA[name])
    target = vb.target(model)
    latent = [slot.name for slot in target.layout.slots]
    values = {site: draws for site, draws in model.sample(8, seed=3).items() if site in latent}
    mine = model.log_joint(values)
    data = jnp.asarray(DATA[name])
    theirs = jax.jit(jax.vmap(lambda point: numpyro_density(THEIRS[name], (data,), {}, point)[0]))(values)
    np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-4)
    # The flat density is the same, and its way back.
    z = target.unconstrain(values)
    flat = jax.vmap(target.log_density)(z) - target.log_det(values)
    np.testing.assert_allclose(flat, mine, rtol=1e-5, atol=1e-4)
    for site, draws in target.constrain(z).items():
        if site in latent:
            np.testing.assert_allclose(draws, values[site], rtol=1e-4, atol=1e-5)


@vb.model
def nested(y, tau=0.7):
    """Days of hours, in a plate of stations."""
    s = vb.sample("s", dist.HalfNormal(1.0))
    with vb.plate("station", 2):

        def day(carry, ys):
            level = vb.sample("level", dist.Normal(carry, s))

            def hour(h, y):
                h = vb.sample("hour", dist.Normal(0.5 * h + level, tau))
                vb.sample("y", dist.Normal(h, 1.0), obs=y)
                return h, h

            last, hours = vb.scan(hour, jnp.zeros(2), ys)
            vb.deterministic("mean", hours.mean(axis=0))
            return level + last, None

        vb.scan(day, jnp.zeros(2), y)


@pytest.mark.slow
def test_scans_in_scans_in_plates():
    y = RNG.normal(size=(3, 4, 2))
    model = nested(y)
    draws = {name: np.asarray(x, float)[0] for name, x in model.sample(1, seed=2).items()}
    s, level, hour = draws["s"], draws["level"], draws["hour"]
    assert level.shape == (3, 2) and hour.shape == (3, 4, 2) and draws["mean"].shape == (3, 2)

    def normal(x, loc, scale):
        return np.sum(-0.5 * ((x - loc) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi))

    before = np.concatenate([np.zeros((3, 1, 2)), hour[:, :-1]], axis=1)
    carried = np.concatenate([np.zeros((1, 2)), (level + hour[:, -1])[:-1]])
    expected = np.log(2) + normal(s, 0.0, 1.0) + normal(level, carried, s)
    expected += normal(hour, 0.5 * before + level[:, None], 0.7) + normal(y, hour, 1.0)
    found = model.log_joint({name: draws[name] for name in ("s", "level", "hour")})
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(draws["mean"], hour.mean(axis=1), rtol=1e-5)
    assert model.graph().edges == (
        ("s", "level"),
        ("hour", "level"),
        ("level", "hour"),
        ("hour", "y"),
        ("hour", "mean"),
    )


def test_not_centred_means_innovations():
    model = local_level(y=LEVELS)
    values = {"level": np.cumsum(LEVELS)}
    noncentred = vb.target(vb.decenter(model, "level"))
    z = noncentred.unconstrain(values)
    np.testing.assert_allclose(z, np.diff(np.cumsum(LEVELS), prepend=0.0) / 0.5, rtol=1e-5)
    np.testing.assert_allclose(noncentred.constrain(z)["level"], values["level"], rtol=1e-5)
    density = noncentred.log_density(z) - noncentred.log_det(values)
    np.testing.assert_allclose(density, model.log_joint(values), rtol=1e-5)


def test_conditions_and_interventions_are_read_step_by_step():
    model = local_level(6)
    values = {"level": np.cumsum(LEVELS)}
    whole = local_level(y=LEVELS).log_joint(values)
    np.testing.assert_allclose(model.condition(y=LEVELS).log_joint(values), whole, rtol=1e-6)
    held = model.do(level=values["level"]).sample(3)
    np.testing.assert_allclose(held["level"], np.broadcast_to(values["level"], (3, 6)), rtol=1e-6)
    np.testing.assert_array_equal(observed(model.condition(y=LEVELS))["y"], LEVELS.astype(np.float32))


@pytest.mark.slow
def test_minibatches_of_sequences():
    @vb.model
    def sequences(y):
        s = vb.sample("s", dist.HalfNormal(1.0))
        with vb.plate("sequence", 5):

            def step(level, y):
                level = vb.sample("level", dist.Normal(level, s))
                vb.sample("y", dist.Normal(level, 1.0), obs=y)
                return level, None

            shown = vb.subsample(y)
            vb.scan(step, jnp.zeros(shown.shape[-1]), shown)

    y = RNG.normal(size=(4, 5))
    target = vb.target(sequences(y))
    z = RNG.normal(size=target.dim)
    # Every pair of rows once: the mean of N/B times their densities is the density.
    target = target.with_lengths({"sequence": 2})
    pairs = [np.array([i, j]) for i in range(5) for j in range(i)]
    found = np.mean([target.log_density(z, {"sequence": pair}) for pair in pairs])
    np.testing.assert_allclose(found, vb.target(sequences(y)).log_density(z), rtol=1e-5)


@pytest.mark.slow
def test_a_guide_program_may_scan():
    @vb.guide
    def chain(y):
        def step(before, _):
            loc, weight = before
            level = vb.sample("level", dist.Normal(weight * loc, 0.5))
            return (level, weight), None

        vb.scan(step, (0.0, vb.param("weight", 0.9)), length=6)

    from vbppl.target import guide_program

    target, program = vb.target(local_level(y=LEVELS)), chain(LEVELS)
    params = guide_program.first_params(program, target)
    drawn = guide_program.drawn(program, params, target, jax.random.key(0))
    level = np.asarray(drawn.values["level"], float)
    before = np.concatenate([[0.0], level[:-1]])
    log_q = np.sum(-0.5 * ((level - 0.9 * before) / 0.5) ** 2 - np.log(0.5) - 0.5 * np.log(2 * np.pi))
    np.testing.assert_allclose(drawn.log_q, log_q, rtol=1e-5)
    np.testing.assert_allclose(drawn.log_p, local_level(y=LEVELS).log_joint({"level": level}), rtol=1e-5)


def test_float64_is_kept():
    with jax.enable_x64(True):
        found = local_level(y=LEVELS).log_joint({"level": np.cumsum(LEVELS)})
        assert found.dtype == np.float64
        level = np.cumsum(LEVELS)
        z = np.concatenate([np.diff(level, prepend=0.0) / 0.5, LEVELS - level])
        expected = -0.5 * np.sum(z**2) - 6 * np.log(2 * np.pi) - 6 * np.log(0.5)
        np.testing.assert_allclose(found, expected, rtol=1e-13)


def said(function, *arguments):
    with pytest.raises((vb.ModelError, TypeError, ValueError)) as error:
        vb.model(function)(*arguments).shapes()
    return str(error.value)


def stated(step, init=0.0, xs=None, length=3):
    return lambda: vb.scan(step, init, xs, length=length)


def x_then(what):
    """A step with a site, and then something."""

    def step(carry, x):
        carry = vb.sample("x", dist.Normal(carry, 1.0))
        what(carry)
        return carry, None

    return stated(step)


MESSAGES = {
    "param": (
        x_then(lambda x: vb.param("w", 1.0)),
        "site 'w': a param statement cannot stand in a step of a scan.\n"
        "  To mend it: State it before the scan: its value may be used in each step.",
    ),
    "mutable": (
        x_then(lambda x: vb.mutable("m", {"a": 0.0})),
        "site 'm': a mutable statement cannot stand in a step of a scan.\n"
        "  To mend it: State it before the scan, and hand what changes from step to step on in the carry.",
    ),
    "prng_key": (
        x_then(lambda x: vb.prng_key()),
        "site 'key': a key statement cannot stand in a step of a scan.\n"
        "  To mend it: Ask for it before the scan, and give each step a key of its own: xs=jax.random.split(key, n).",
    ),
    "the name twice": (
        x_then(lambda x: vb.sample("x", dist.Normal(0.0, 1.0))),
        "site 'x': the name is used twice, by two sample statements.\n"
        "  To mend it: Give each statement its own name; for many like variables use a plate.",
    ),
    "a name from outside": (
        lambda: (vb.sample("x", dist.Normal(0.0, 1.0)), x_then(lambda x: None)()),
        "site 'x': the name is used twice, by two sample statements.\n"
        "  To mend it: Give each statement its own name; for many like variables use a plate.",
    ),
    "the carry's shape": (
        stated(lambda c, x: (jnp.zeros(2), None)),
        "the carry of a scan changes from one step to the next.\n  before: ()\n  after:  (2,)\n"
        "  To mend it: Let the step return a carry of the structure and the shapes of init; "
        "begin with jnp.zeros(...) of these.",
    ),
    "no pair": (
        stated(lambda c, x: c),
        "the step of a scan returned DynamicJaxprTracer, not a carry and a y.\n"
        "  To mend it: End it with return carry, y; y may be None.",
    ),
    "lengths": (
        lambda: vb.scan(lambda c, x: (c, x), 0.0, (np.zeros(3), np.zeros(4)), length=3),
        "scan is told different numbers of steps.\n  xs: 3, 4\n  length: 3\n"
        "  To mend it: Give each array of xs the steps along its first axis, at least one, and leave length out.",
    ),
    "no length": (
        lambda: vb.scan(lambda c, x: (c, x), 0.0),
        "scan is not told how many steps there are.\n  To mend it: Give it xs, or length=n.",
    ),
    "a number as xs": (
        lambda: vb.scan(lambda c, x: (c, x), 0.0, 3.0),
        "xs of a scan holds a single number, which has no steps.\n"
        "  To mend it: Give xs arrays with the steps along their first axes; "
        "what is the same at each step needs no xs.",
    ),
    "shapes in a step": (
        x_then(lambda x: vb.sample("y", dist.Normal(x, 1.0), obs=np.zeros(3))),
        "site 'y': obs has shape (3,), but the site has shape ().\n  obs:  (3,)\n  site: () = batch () + event ()\n"
        "  To mend it: Put the statement into a plate over the observations: with vb.plate('rows', 3): ...",
    ),
    "jax.lax.scan": (
        lambda: jax.lax.scan(lambda c, x: (vb.sample("x", dist.Normal(c, 1.0)), None), 0.0, None, length=3),
        "site 'x': the sample statement stands inside jax.vmap, scan, cond, jit or grad, "
        "which its value cannot leave.\n"
        "  To mend it: Write a plate in the place of vmap, and vb.scan(step, init, xs) in the place of jax.lax.scan.",
    ),
    "another library's keyword": (
        lambda: vb.scan(lambda c, x: (c, x), 0.0, np.zeros(3), reverse=True),
        "scan has no argument reverse=.\n  To mend it: Turn xs round, x[::-1], and what comes back.",
    ),
    "no function": (
        lambda: vb.scan(3, 0.0, np.zeros(3)),
        "step must be a function (carry, x) -> (carry, y), not 3.",
    ),
}


@pytest.mark.parametrize("what", MESSAGES)
def test_messages(what):
    model, expected = MESSAGES[what]
    assert said(model) == expected


def test_observations_off_their_support_are_named_before_anything_compiles():
    @vb.model
    def counts(y):
        def step(rate, y):
            rate = vb.sample("rate", dist.LogNormal(jnp.log(rate), 0.1))
            vb.sample("y", dist.Poisson(rate), obs=y)
            return rate, None

        vb.scan(step, 1.0, y)

    with pytest.raises(vb.ModelError) as error:
        vb.fit(counts(np.array([1.0, 2.0, -3.0, 0.0])))
    assert str(error.value) == (
        "site 'y': 1 of 4 values of obs is off its support, nonnegative_integer; the first, at [2], is -3.\n"
        "  To mend it: Look for mistakes in these rows, or choose a distribution whose support holds them."
    )
    with pytest.raises(vb.ModelError) as error:
        counts(np.ones(4)).log_joint({"rate": np.ones(3)})
    assert str(error.value) == (
        "site 'rate': the value given has shape (3,), but the site has shape (4,).\n"
        "  value: (3,)\n  site:  (4,)\n"
        "  To mend it: Give one value of the site's shape; model.shapes() prints the shapes of all sites."
    )


def test_vectors_and_parameters_of_unlike_shapes_in_steps_of_rows():
    """Both asked arrays of all steps, side by side, to broadcast as those of one step do."""
    tril, y = jnp.array([[1.1, 0.0], [0.4, 0.7]]), np.arange(6).reshape(2, 3)

    @vb.model
    def rows(y):
        with vb.plate("row", 3):

            def step(x, inputs):
                y, concentration = inputs
                x = vb.sample("x", dist.MultivariateNormal(x, scale_tril=tril))
                vb.sample("y", dist.NegativeBinomial2(jnp.exp(x[:, 0]), concentration), obs=y)
                return x, None

            vb.scan(step, jnp.zeros((3, 2)), (y, jnp.array([0.5, 2.0])))

    x = RNG.normal(size=(2, 3, 2))
    moved = np.diff(np.concatenate([np.zeros((1, 3, 2)), x]), axis=0)
    expected = stats.multivariate_normal.logpdf(moved, [0, 0], np.asarray(tril @ tril.T)).sum()
    for t, size in enumerate((0.5, 2.0)):
        expected += stats.nbinom.logpmf(y[t], size, size / (size + np.exp(x[t, :, 0]))).sum()
    np.testing.assert_allclose(rows(y).log_joint({"x": x}), expected, rtol=1e-5)


def test_scans_in_scans_are_of_lengths_of_their_own():
    """That both had one length was taken for granted where a site's location was looked at."""

    @vb.model
    def triples():
        def inner(x, _):
            return vb.sample("x", dist.Normal(0.5 * x, 1.0)), None

        vb.scan(lambda x, _: vb.scan(inner, x, length=3), 0.0, length=2)

    x = RNG.normal(size=(2, 3))
    expected = stats.norm.logpdf(x.ravel() - 0.5 * np.append(0.0, x.ravel()[:-1])).sum()
    np.testing.assert_allclose(triples().log_joint({"x": x}), expected, rtol=1e-5)


def test_numpyros_history_may_stay_where_the_carry_looks_two_steps_back():
    @vb.model
    def second_order(y):
        a = vb.sample("a", dist.Normal(np.zeros(2), 1.0).to_event(1))

        def step(before, y):
            vb.sample("y", dist.Normal(a[0] * before[0] + a[1] * before[1], 1.0), obs=y)
            return (before[1], y), None

        vb.scan(step, (y[0], y[1]), y[2:], history=2)

    y, a = np.array([0.3, -0.4, 1.0, 0.2, 0.9]), np.array([0.2, 0.7])
    expected = stats.norm.logpdf(a).sum() + stats.norm.logpdf(y[2:], a[0] * y[:-2] + a[1] * y[1:-1]).sum()
    np.testing.assert_allclose(second_order(y).log_joint({"a": a}), expected, rtol=1e-6)
