"""Where rounding limits a fit on fixed draws, it goes on in double precision by itself, and says so."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st

import vbppl as vb
import vbppl.distributions as dist
from vbppl.fitting.precision import _lost_draws

pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")

X = np.linspace(0, 2, 40)
Y = np.random.default_rng(1).poisson(1e6 * np.exp(-X))


@vb.model
def counts(x, y):
    a = vb.sample("a", dist.Normal(0.0, 10.0))
    b = vb.sample("b", dist.Normal(0.0, 10.0))
    with vb.plate("row", len(x)):
        vb.sample("y", dist.Poisson(jnp.exp(a + b * x)), obs=y)


@vb.model
def sums(x, y):
    """The same posterior, by a sum of 2e8 nats: the last place of which is worth 16."""
    a = vb.sample("a", dist.Normal(0.0, 10.0))
    b = vb.sample("b", dist.Normal(0.0, 10.0))
    vb.factor("y", jnp.sum(y * (a + b * x) - jnp.exp(a + b * x)))


def right():
    """Mean and sds by Newton's method: with 10^7 counts the posterior is normal."""
    x, w = np.stack([np.ones(40), X], axis=1), np.array([np.log(1e6), -1.0])
    for _ in range(20):
        rate = np.exp(x @ w)
        precision = x.T @ (rate[:, None] * x) + np.eye(2) / 100
        w = w + np.linalg.solve(precision, x.T @ (Y - rate) - w / 100)
    return w, np.sqrt(np.diagonal(np.linalg.inv(precision)))


@pytest.fixture(scope="module")
def refined():
    return vb.fit(sums(X, Y.astype(float)))


@pytest.mark.parametrize("name", ["counts", "sums"])
def test_large_counts_have_right_sds_in_a_session_of_32_bits(name, refined):
    posterior = refined if name == "sums" else vb.fit(counts(X, Y))
    mean, sd = right()
    assert posterior.report.verdict == "good"
    np.testing.assert_allclose([posterior.sd()[site] for site in "ab"], sd, rtol=0.01)
    # Of a place at 13.8 in 32 bits the last digit is worth 0.002 sds.
    np.testing.assert_allclose([posterior.mean()[site] for site in "ab"], mean, atol=0.02 * sd[0])


def test_a_second_half_in_double_precision_is_said_and_leaves_the_session_in_single(refined):
    (note,) = [note for note in refined.check().notes if note.topic == "precision"]
    assert str(note) == (
        "precision: rounding in float32 moves the log density by 6.3 nats, so it went on in float64 "
        "(precision='session' leaves that out)"
    )
    assert str(note) in refined.check().details
    assert refined.check().other_modes.starts == 3  # of the first half
    assert refined.status.steps == len(refined.history)
    assert refined.phi.dtype == np.float32
    assert {draws.dtype for draws in refined.sample(3).values()} == {np.dtype(np.float32)}
    assert {draws.dtype for draws in refined.predict(n=3).values()} <= {np.dtype(np.float32), np.dtype(np.int32)}
    assert refined.log_prob(refined.sample(3)).dtype == jnp.zeros(1).dtype == np.float32


def test_a_second_such_fit_compiles_nothing(refined, compilations):
    before = compilations()
    vb.fit(sums(X, Y[::-1].astype(float)))
    assert compilations() == before


def test_the_sessions_precision_is_kept_on_request(refined):
    posterior = vb.fit(sums(X, Y.astype(float)), precision="session")
    assert not [note for note in posterior.check().notes if note.topic == "precision"]
    assert posterior.report.verdict != "good"


def test_a_whole_fit_may_be_asked_for_in_double_precision():
    precise = vb.fit(counts(X, Y), precision="float64")
    assert precise.status.decrement < 1e-12  # out of reach in 32 bits
    assert precise.phi.dtype == jnp.zeros(1).dtype == np.float32


def test_a_precision_that_is_none_is_refused():
    with pytest.raises(ValueError) as error:
        vb.fit(counts(X, Y), precision="half")
    assert str(error.value) == "precision must be 'auto', 'session' or 'float64', not 'half'."


@vb.model
def smooth(x, y):
    length = vb.sample("length", dist.LogNormal(0.0, 1.0))
    scale, noise = vb.sample("scale", dist.HalfNormal(1.0)), vb.sample("noise", dist.HalfNormal(1.0))
    kernel = scale**2 * jnp.exp(-0.5 * ((x[:, None] - x) / length) ** 2) + noise**2 * jnp.eye(len(x))
    vb.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), kernel), obs=y)


@pytest.mark.slow
def test_a_kernel_that_is_singular_in_32_bits_is_fitted():
    """A sine with noise of 0.001: in 32 bits the Cholesky factor of most draws does not exist."""
    x = np.linspace(0, 5, 30)
    model = smooth(x, np.sin(x) + 0.001 * np.random.default_rng(0).normal(size=30))
    by_itself, double = vb.fit(model), vb.fit(model, precision="float64")
    assert by_itself.report.verdict == "good"
    for name, mean in double.mean().items():
        assert by_itself.mean()[name] == pytest.approx(float(mean), abs=0.05 * float(double.sd()[name]))


def test_what_a_fit_in_double_precision_has_learnt_is_kept():
    """`y ~ N(x, s)` with `x ~ N(0, 1)`: the best `s` is the rows' spread about their mean."""

    @vb.model
    def learnt(y):
        s = vb.param("s", 1.0, constraint=dist.constraints.positive)
        x = vb.sample("x", dist.Normal(0.0, 1.0))
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Normal(x, s), obs=y)

    y = np.random.default_rng(0).normal(0.0, 3.0, 200)
    posterior = vb.fit(learnt(y), precision="float64")
    assert posterior.params["s"].dtype == np.float32
    assert posterior.params["s"] == pytest.approx(y.std(), rel=0.01)
    assert posterior.predict(seed=1)["y"].std() == pytest.approx(y.std(), rel=0.05)


def test_an_answer_that_the_sessions_dtype_has_no_places_for_is_poor_and_says_so():
    @vb.model
    def far(y):
        mu = vb.sample("mu", dist.Normal(0.0, 1e7))
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Normal(mu, 0.01), obs=y)

    seen = set()
    y = 1e6 + 0.01 * np.random.default_rng(0).normal(size=100)
    report = vb.fit(far(y), callback=lambda _: seen.add(jnp.ones(()).dtype)).check()
    assert report.verdict == "poor"
    assert "in float32, which the posterior is given back in, the places of mu lie" in report.reasons[0]
    assert seen == {jnp.zeros(1).dtype}  # a callback sees the session as it is


@vb.model
def field(x, y):
    """A smooth field, seen with noise at its points: pseudo-data are then the data, and the guide nearly right."""
    scale, length = vb.sample("scale", dist.LogNormal(0.0, 1.0)), vb.sample("length", dist.LogNormal(0.0, 1.0))
    kernel = scale**2 * jnp.exp(-0.5 * ((x[:, None] - x) / length) ** 2) + 1e-6 * jnp.eye(len(x))
    f = vb.sample("f", dist.MultivariateNormal(jnp.zeros(len(x)), kernel))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(f, 0.3), obs=y)


def by_quadrature(x, y):
    """Log evidence, and means and sds of scale and length, on a grid of their logarithms, the field integrated out."""
    logs = np.linspace(-5, 5, 161)
    square = (x[:, None] - x) ** 2
    height = np.array(
        [
            [
                st.multivariate_normal.logpdf(
                    y, cov=np.exp(2 * s - square / (2 * np.exp(2 * k))) + (1e-6 + 0.09) * np.eye(len(x))
                )
                + st.norm.logpdf([s, k]).sum()
                for k in logs
            ]
            for s in logs
        ]
    )
    mass = np.exp(height - height.max())
    found = [np.average(np.exp(logs), weights=mass.sum(axis=axis)) for axis in (1, 0)]
    squares = [np.average(np.exp(2 * logs), weights=mass.sum(axis=axis)) for axis in (1, 0)]
    evidence = height.max() + np.log(mass.sum() * (logs[1] - logs[0]) ** 2)
    return evidence, np.array(found), np.sqrt(squares - np.square(found))


@pytest.mark.slow
def test_a_part_of_the_posterior_that_rounding_cuts_off_is_found():
    """Where the scale is large the prior's factor does not exist in 32 bits, and the density is no number."""
    x = np.linspace(0, 5, 40)
    y = np.sin(x) + 0.3 * np.random.default_rng(0).normal(size=40)
    posterior = vb.fit(field(x, y))
    evidence, mean, sd = by_quadrature(x, y)
    (note,) = [note for note in posterior.check().notes if note.topic == "precision"]
    assert "so it went on in float64" in str(note)
    assert posterior.report.verdict == "good"
    assert posterior.report.log_evidence == pytest.approx(evidence, abs=0.02)
    draws = posterior.sample(4000)
    for name, where, wide in zip(("scale", "length"), mean, sd):
        assert abs(draws[name].mean() - where) < 0.15 * wide
        assert draws[name].std() == pytest.approx(wide, rel=0.2)
    short = vb.fit(field(x, y), precision="session")  # whatever else rounding does, this is seen
    assert "have no density for rounding in float32" in _lost_draws(short.solution, short.report, field(x, y))


def test_a_density_that_is_zero_in_any_precision_does_not_bring_double_precision():
    """A wall that the model keeps silent about: the guide's draws beyond it have no density, and that is right."""

    @vb.model
    def walled(y):
        x = vb.sample("x", dist.Normal(0.0, 1.0))
        vb.factor("wall", jnp.where(x > 0, 0.0, -jnp.inf))
        vb.sample("y", dist.Normal(x, 1.0), obs=y)

    posterior = vb.fit(walled(0.5))
    assert not [note for note in posterior.check().notes if note.topic == "precision"]
