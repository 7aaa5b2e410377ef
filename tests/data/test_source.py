"""Data that stay on the host give what the same data in memory give, bit for bit, and are never read whole."""

from __future__ import annotations

import resource

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core.keys import raw_key
from vbppl.data import rows as rows_of
from vbppl.data.prefetch import Prefetcher
from vbppl.data.shuffle import Minibatches
from vbppl.data.source import is_source
from vbppl.target.target import Target

SLOW = pytest.mark.slow
pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")
X, Y = cases.logistic_data()
X = X.astype(np.float32)
SHORT = {"guide": "mean_field", "batch_size": 24, "method": vb.Stochastic(steps=120, draws=2)}


class RandomAccess:
    """`__len__` and `__getitem__`, for an array of indices or for one alone."""

    def __init__(self, data, by_array=True):
        self.data, self.by_array = data, by_array

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        return self.data[i if self.by_array else i.__index__()]


class Loader:
    """Batches in an order of its own, another in each epoch; its length is the number of batches."""

    def __init__(self, *arrays, length=32):
        self.arrays, self.length, self.epoch = arrays, length, 0

    def __len__(self):
        return -(-len(self.arrays[0]) // self.length)

    def __iter__(self):
        self.epoch += 1
        order = np.random.default_rng(self.epoch).permutation(len(self.arrays[0]))
        for i in range(0, len(order), self.length):
            yield tuple(array[order[i : i + self.length]] for array in self.arrays)


@vb.model
def paired(rows, n):
    """The logistic regression of `cases`, whose rows are pairs."""
    beta = vb.sample("beta", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    with vb.plate("row", n):
        x, y = vb.subsample(rows, event_dim=(1, 0))
        vb.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


@pytest.fixture(scope="module")
def in_memory():
    return vb.fit(cases.logistic_regression(X, Y), **SHORT)


@pytest.fixture
def mapped(tmp_path):
    table = np.memmap(tmp_path / "x", np.float32, "w+", shape=X.shape)
    table[:] = X
    table.flush()
    return np.memmap(tmp_path / "x", np.float32, "r", shape=X.shape)


def sources(mapped):
    pairs = [(X[i], Y[i]) for i in range(len(Y))]
    return {
        "memory map": cases.logistic_regression(mapped, Y),
        "by arrays": cases.logistic_regression(RandomAccess(X), RandomAccess(Y)),
        "row by row": cases.logistic_regression(RandomAccess(X, by_array=False), Y),
        "wrapped": cases.logistic_regression(vb.Source(X), vb.Source(Y)),
        "pairs": paired(RandomAccess(pairs, by_array=False), n=len(Y)),
    }


@pytest.mark.parametrize(
    "kind",
    ["memory map", "row by row", "pairs", *(pytest.param(kind, marks=SLOW) for kind in ("by arrays", "wrapped"))],
)
def test_a_source_gives_the_same_bits_as_the_array(kind, mapped, in_memory):
    posterior = vb.fit(sources(mapped)[kind], **SHORT)
    np.testing.assert_array_equal(posterior.phi, in_memory.phi)
    np.testing.assert_array_equal(posterior.history, in_memory.history)


def test_what_is_said_of_all_rows_is_the_same(mapped, in_memory, monkeypatch):
    monkeypatch.setattr(rows_of, "PART", 3 * 64)  # three parts of 64 rows, and one of 8
    posterior = vb.fit(cases.logistic_regression(mapped, Y), **SHORT)
    assert posterior.elbo.value == pytest.approx(in_memory.elbo.value, rel=1e-5)
    ours, theirs = posterior.check(), in_memory.check()
    assert ours.verdict == theirs.verdict
    assert ours.log_weight_sd == pytest.approx(theirs.log_weight_sd, rel=1e-2)
    np.testing.assert_allclose(posterior.sample(5)["beta"], in_memory.sample(5)["beta"], rtol=1e-6)
    found, expected = posterior.log_likelihood(20)["y"], in_memory.log_likelihood(20)["y"]
    assert found.shape == (20, 200)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_parts_of_all_rows_add_up_to_the_density_and_its_gradient(mapped, monkeypatch, x64):
    monkeypatch.setattr(rows_of, "PART", 3 * 64)
    target, whole = Target.of(cases.logistic_regression(mapped, Y)), vb.target(cases.logistic_regression(X, Y))
    parts = list(target.parts())
    assert [len(rows["row"].indices) for _, rows in parts] == [50] * 4  # of equal length, where there is one
    both = jax.value_and_grad(lambda z, rows: target.log_density(z, rows))
    z = np.array([0.3, -1.0, 2.0])
    found = [both(z, rows) for _, rows in parts]
    shares = [share for share, _ in parts]
    expected = jax.value_and_grad(whole.log_density)(z)
    np.testing.assert_allclose(np.dot(shares, [value for value, _ in found]), expected[0], rtol=1e-6)
    np.testing.assert_allclose(np.dot(shares, [slope for _, slope in found]), expected[1], rtol=1e-6)


@pytest.mark.slow
def test_a_memory_map_larger_than_memory_need_be_is_not_loaded(tmp_path):
    rows, columns = 10**7, 100
    (tmp_path / "x").touch()
    with open(tmp_path / "x", "r+b") as file:
        file.truncate(4 * rows * columns)  # four gigabytes of holes
    table = np.memmap(tmp_path / "x", np.float32, "r", shape=(rows, columns))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    target = Target.of(cases.logistic_regression(table, np.zeros(rows, np.int8)))
    assert target.data_size == rows * (columns + 1)
    prefetcher = Prefetcher(Minibatches((("row", rows, 256),)), {"row": [target.model.sources["x"]]}, raw_key(0))
    for feed, count in prefetcher.feeds(prefetcher.stream.start(), 20):
        assert feed.rows["row"].blocks["x"].shape == (prefetcher.steps, 256, columns) and count == 20
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 400_000, f"{grown / 1000:.0f} megabytes"


def test_a_second_fit_with_other_data_compiles_nothing(mapped, compilations):
    vb.fit(cases.logistic_regression(RandomAccess(X), Y), **SHORT)
    before = compilations()
    vb.fit(cases.logistic_regression(RandomAccess(X[::-1].copy()), 1 - Y), **SHORT)
    assert compilations() == before


@pytest.mark.parametrize("length", [32, pytest.param(50, marks=SLOW)])
def test_an_iterator_of_batches_reaches_the_optimum_of_all_rows(length):
    """Batches of 32 leave one of 8 at the end of an epoch; the fit shows 24 rows at a time."""
    method = vb.Stochastic(steps=4000, draws=4)
    posterior = vb.fit(paired(Loader(X, Y, length=length), n=200), "mean_field", batch_size=24, method=method)
    best = vb.fit(cases.logistic_regression(X, Y), "mean_field")
    loc, sd = cases.flat_moments(posterior)
    best_loc, best_sd = cases.flat_moments(best)
    assert np.abs((loc - best_loc) / best_sd).max() < 0.1
    np.testing.assert_allclose(sd, best_sd, rtol=0.1)
    assert posterior.elbo.value == pytest.approx(best.elbo.value, abs=0.1)


def test_the_length_of_a_loader_is_not_taken_for_the_number_of_rows():
    @vb.model
    def careless(rows):
        beta = vb.sample("beta", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
        with vb.plate("row", len(rows)):
            x, y = vb.subsample(rows, event_dim=(1, 0))
            vb.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)

    with pytest.raises(vb.ModelError, match="'rows' yields batches, so it has no number of rows"):
        vb.fit(careless(Loader(X, Y)), batch_size=24)


def test_a_plate_of_another_size_than_the_iterators_epoch_is_an_error_with_both_numbers():
    with pytest.raises(vb.ModelError, match="an epoch of source 'rows' has 200 rows, but its plate says 7"):
        vb.fit(paired(Loader(X, Y), n=7), batch_size=2, method=vb.Stochastic(steps=200, draws=1))


def test_a_plate_of_another_size_than_the_source_is_an_error():
    with pytest.raises(vb.ModelError, match="'rows' has 200 rows, but plate 'row' has 100 rows"):
        vb.fit(paired(RandomAccess([(X[i], Y[i]) for i in range(200)], by_array=False), n=100), batch_size=10)


def test_all_rows_at_every_step_means_that_a_source_is_read_whole(mapped):
    found, expected = (vb.fit(cases.logistic_regression(x, Y), "mean_field") for x in (mapped, X))
    np.testing.assert_array_equal(found.phi, expected.phi)
    model = cases.logistic_regression(mapped, Y)
    values = {"beta": np.array([0.1, 0.2, 0.3])}
    np.testing.assert_array_equal(model.log_joint(values), cases.logistic_regression(X, Y).log_joint(values))
    assert model.sample(3)["y"].shape == (3, 200)


def test_an_error_of_the_users_source_comes_with_its_name_and_the_rows():
    class Broken(RandomAccess):
        def __getitem__(self, i):
            if np.any(np.asarray(i) == 123):
                raise OSError("disk on fire")
            return super().__getitem__(i)

    with pytest.raises(vb.ModelError, match="source 'x' failed: OSError: disk on fire") as error:
        vb.fit(cases.logistic_regression(Broken(X), Y), **SHORT)
    assert "rows " in str(error.value) and isinstance(error.value.__cause__, OSError)


def test_rows_that_change_their_shape_are_an_error():
    class Shrinking(RandomAccess):
        def __getitem__(self, i):
            rows = super().__getitem__(i)
            return rows[:-1] if np.size(i) > 10 else rows

    with pytest.raises(vb.ModelError, match="source 'x' gave rows of other shapes than before"):
        vb.fit(cases.logistic_regression(Shrinking(X), Y), **SHORT)


MISUSES = {
    "whole": (lambda x: x @ jnp.zeros(3), "'x' stays on the host and is read in parts"),
    "array": (lambda x: jnp.asarray(x), "'x' stays on the host and is read in parts"),
    "rows": (lambda x: x[jnp.arange(3)], "'x' stays on the host and is read in parts"),
    "event_dim": (lambda x: vb.subsample(x), "the rows of 'x' run along batch dim -2, which no open plate owns"),
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_a_source_can_be_subsampled_and_nothing_else(misuse):
    function, message = MISUSES[misuse]

    @vb.model
    def wrong(x):
        with vb.plate("row", len(x)):
            function(x)
            vb.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(vb.ModelError, match=message) as error:
        vb.fit(wrong(RandomAccess(X)), batch_size=10)
    assert "vb.subsample" in str(error.value)


@vb.model
def local_and_global(x, y):
    """A latent site for each row beside one for all."""
    mu = vb.sample("mu", dist.Normal(0.0, 1.0))
    with vb.plate("row", len(x)):
        x, y = vb.subsample(x, event_dim=1), vb.subsample(y)
        z = vb.sample("z", dist.Normal(mu, 1.0))
        vb.sample("y", dist.Normal(z + x.sum(-1), 1.0), obs=y)


@pytest.mark.slow
def test_latent_sites_of_the_rows_are_kept_for_all_of_them():
    y = X.sum(1) + np.linspace(-1, 1, 200, dtype=np.float32)
    found, expected = (vb.fit(local_and_global(x, y), **SHORT) for x in (RandomAccess(X), X))
    assert found.phi["local"].shape == (2, 200) and found.phi["shared"].shape == (2, 1)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-4), found.phi, expected.phi)
    assert found.elbo.value == pytest.approx(expected.elbo.value, rel=1e-5)


def test_an_iterator_cannot_say_which_rows_of_another_array_belong_to_its_own():
    @vb.model
    def mixed(rows, weight):
        beta = vb.sample("beta", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
        with vb.plate("row", len(weight)):
            x, y = vb.subsample(rows, event_dim=(1, 0))
            vb.factor("y", vb.subsample(weight) * dist.Bernoulli(logits=x @ beta).log_prob(y))

    with pytest.raises(vb.ModelError, match=r"plate 'row' shows the batches of an iterator \(rows\)") as error:
        vb.fit(mixed(Loader(X, Y), np.ones(200)), batch_size=10)
    assert "Let the iterator yield all that belongs to a row" in str(error.value)


@pytest.mark.slow
def test_model_and_guide_read_the_same_rows_of_one_source():
    """Each row has its own latent; the guide reads its mean from the same source, under another name."""
    y = RandomAccess(np.linspace(-2.0, 2.0, 40, dtype=np.float32))

    @vb.model
    def apart(y):
        with vb.plate("row", len(y)):
            x = vb.sample("x", dist.Normal(0.0, 1.0))
            vb.sample("y", dist.Normal(x, 1.0), obs=vb.subsample(y))

    @vb.guide
    def guide(data):
        slope = vb.param("slope", 0.0)
        with vb.plate("row", len(data)):
            vb.sample("x", dist.Normal(slope * vb.subsample(data), 0.5**0.5))

    method = vb.Stochastic(steps=1500, draws=4)
    posterior = vb.fit(apart(y), guide(y), batch_size=8, method=method)
    assert posterior.params["slope"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.slow
def test_sources_of_crossed_plates_and_of_one_axis_among_two():
    rng = np.random.default_rng(0)
    table = rng.standard_normal((12, 6)).astype(np.float32)
    rows, columns = RandomAccess(table.mean(1)), RandomAccess(table.mean(0))

    @vb.model
    def crossed(table, r, c):
        mu = vb.sample("mu", dist.Normal(0.0, 1.0))
        with vb.plate("row", 12, dim=-2), vb.plate("column", 6):
            loc = mu + vb.subsample(r)[:, None] + vb.subsample(c)
            vb.sample("y", dist.Normal(loc, 1.0), obs=vb.subsample(table))

    @vb.model
    def lying(table, r, c):
        """`r` lies along the first plate: it has one column."""
        mu = vb.sample("mu", dist.Normal(0.0, 1.0))
        with vb.plate("row", 12, dim=-2), vb.plate("column", 6):
            loc = mu + vb.subsample(r) + vb.subsample(c)
            vb.sample("y", dist.Normal(loc, 1.0), obs=vb.subsample(table))

    with pytest.raises(vb.ModelError):  # `r` has no axis for the columns: its rows would run along them
        vb.fit(crossed(table, rows, columns), batch_size={"row": 4, "column": 3})
    kwargs = {"guide": "mean_field", "batch_size": {"row": 4, "column": 3}, "method": vb.Stochastic(steps=60, draws=1)}
    wide = RandomAccess(table.mean(1)[:, None])
    found = vb.fit(lying(RandomAccess(table), wide, columns), **kwargs)
    expected = vb.fit(lying(table, table.mean(1)[:, None], table.mean(0)), **kwargs)
    np.testing.assert_allclose(found.phi, expected.phi, atol=1e-4)
    assert found.elbo.value == pytest.approx(expected.elbo.value, rel=1e-5)


def test_prediction_is_asked_for_arrays_of_the_rows_that_are_wanted(mapped):
    posterior = vb.fit(cases.logistic_regression(mapped, Y), **SHORT)
    with pytest.raises(vb.ModelError, match="'x' is read in parts, and prediction runs the model at all rows"):
        posterior.predict()
    assert posterior.predict(cases.logistic_regression(X[:7], Y[:7]), n=10)["y"].shape == (10, 7)


def test_a_deterministic_site_of_rows_that_are_not_all_there_is_left_out(mapped):
    @vb.model
    def with_logits(x, y):
        beta = vb.sample("beta", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
        vb.deterministic("length", jnp.linalg.norm(beta))
        with vb.plate("row", len(y)):
            logits = vb.deterministic("logits", vb.subsample(x, event_dim=1) @ beta)
            vb.sample("y", dist.Bernoulli(logits=logits), obs=vb.subsample(y))

    posterior = vb.fit(with_logits(mapped, Y), **SHORT)
    assert list(posterior.sample(2)) == ["beta", "length"]


def test_what_has_lost_its_data_says_so(mapped):
    target = jax.tree.map(lambda leaf: leaf, Target.of(cases.logistic_regression(mapped, Y)))
    with pytest.raises(vb.ModelError, match="the data of source 'x' are not here") as error:
        list(target.parts())
    assert "Apply the model to its data again" in str(error.value)


@pytest.mark.parametrize(
    "leaf", ["text", b"bytes", range(3), {1, 2}, np.zeros(3), np.float64(1.0), jnp.zeros(3), int, None, len, 3.0]
)
def test_settings_and_arrays_are_no_sources(leaf):
    assert not is_source(leaf)


def test_a_source_has_the_shape_and_the_dtype_that_its_rows_will_have():
    source = vb.Source(np.zeros((5, 3)))
    assert (source.shape, source.ndim, len(source), source.dtype) == ((5, 3), 2, 5, jnp.zeros(()).dtype)
    assert repr(source) == "<source of float64[5, 3]>"


def test_rows_that_do_not_exist_are_refused():
    target = vb.target(cases.logistic_regression(X, Y))
    for rows in ([200], [-1, 3]):
        with pytest.raises(vb.ModelError, match="of plate 'row', which has 200, from 0 on"):
            target.log_density(np.zeros(3), {"row": rows})


def test_a_fit_that_is_broken_off_and_resumed_is_fed_as_an_unbroken_one(mapped, in_memory, tmp_path):
    settings = {**SHORT, "method": vb.Stochastic(steps=120, draws=2, every=50)}
    looks = []

    def stop(progress):
        looks.append(progress.step)
        if len(looks) == 2:
            raise KeyboardInterrupt

    model = cases.logistic_regression(mapped, Y)
    vb.fit(model, **settings, callback=stop, checkpoint=tmp_path / "fit")
    resumed = vb.fit(
        model, **settings, callback=lambda progress: looks.append(progress.step), checkpoint=tmp_path / "fit"
    )
    assert resumed.status.steps == 120 and looks[-1] == 120 and len(looks) < 6
    np.testing.assert_array_equal(resumed.phi, in_memory.phi)


@vb.model
def scores(y):
    """A latent variable for each row."""
    with vb.plate("row", len(y)):
        z = vb.sample("z", dist.Normal(0.0, 1.0))
        vb.sample("y", dist.Normal(z, 0.5), obs=vb.subsample(y))


@vb.guide
def encoded_scores(y):
    slope, log_scale = vb.param("slope", 0.0), vb.param("log_scale", 0.0)
    with vb.plate("row", len(y)):
        vb.sample("z", dist.Normal(slope * vb.subsample(y), jnp.exp(log_scale)))


def encoder(weights, y):
    return weights["slope"] * y, jnp.exp(weights["log_scale"]) * jnp.ones_like(y)


GUIDES_OF_ROWS = {
    "amortised": lambda y: vb.Amortized("z", encoder, reads="y", params={"slope": 0.0, "log_scale": 0.0}),
    "program": encoded_scores,
    "structured": lambda y: vb.guides.Structured("row"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["amortised", *(pytest.param(kind, marks=SLOW) for kind in ("program", "structured"))])
def test_a_guide_with_local_sites_reads_a_source_as_it_reads_the_array(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(rows_of, "PART", 30)
    y = np.random.RandomState(0).randn(80).astype(np.float32)
    table = np.memmap(tmp_path / "y", np.float32, "w+", shape=y.shape)
    table[:] = y
    found, expected = (
        vb.fit(scores(data), GUIDES_OF_ROWS[kind](data), batch_size=16, method=vb.Stochastic(steps=50, draws=1))
        for data in (table, y)
    )
    for one, other in zip(jax.tree.leaves(found.phi), jax.tree.leaves(expected.phi)):
        np.testing.assert_array_equal(one, other)
    error = 4 * np.hypot(found.elbo.se, expected.elbo.se) + 1e-6 * abs(expected.elbo.value)  # float32 sums
    assert found.elbo.value == pytest.approx(expected.elbo.value, abs=error)
    assert found.check().verdict == expected.check().verdict
    if kind != "program":  # which draws rows of different parts by keys of their own
        likelihoods = [posterior.log_likelihood(5)["y"] for posterior in (found, expected)]
        np.testing.assert_allclose(*likelihoods, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.sample(7)["z"], expected.sample(7)["z"], rtol=1e-5, atol=1e-6)
    if kind == "amortised":
        rows = found.log_evidence(n=200)
        assert rows.values == pytest.approx(expected.log_evidence(n=200).values, abs=1e-4)


@SLOW  # the guide with local sites above reads part by part too
def test_a_guide_program_that_reads_a_source_draws_all_rows_part_by_part(monkeypatch):
    """What rows share is one draw in all parts, what is a row's own is independent of the rows of other parts."""
    monkeypatch.setattr(rows_of, "PART", 20)
    y = np.random.default_rng(0).normal(1.0, 1.0, 60).astype(np.float32)

    @vb.model
    def pooled(y):
        level = vb.sample("level", dist.Normal(0.0, 1.0))
        with vb.plate("row", len(y)):
            z = vb.sample("z", dist.LogNormal(level, 1.0))
            vb.sample("y", dist.Normal(jnp.log(z), 1.0), obs=vb.subsample(y))

    @vb.guide
    def guide(y):
        level = vb.sample("level", dist.Normal(vb.param("mean", 1.0), 0.5))
        with vb.plate("row", len(y)):
            vb.sample("z", dist.LogNormal(level + vb.param("slope", 0.5) * vb.subsample(y), 0.3))

    source = RandomAccess(y)
    posterior = vb.fit(pooled(source), guide(source), batch_size=6, method=vb.Stochastic(steps=20, draws=1))
    draws = {name: np.asarray(values, float) for name, values in posterior.sample(4000).items()}
    own = (np.log(draws["z"]) - draws["level"][:, None] - posterior.params["slope"] * y) / 0.3
    assert np.abs(own.mean(0)).max() < 5 / 4000**0.5
    assert np.abs(own.std(0) - 1).max() < 5 / 8000**0.5
    assert np.abs(np.corrcoef(own, rowvar=False) - np.eye(60)).max() < 5 / 4000**0.5
    assert draws["level"].std() == pytest.approx(0.5, abs=5 * 0.5 / 8000**0.5)
    likelihood = posterior.log_likelihood(10)["y"]
    assert likelihood.shape == (10, 60) and np.isfinite(likelihood).all()
    new = np.array([-4.0, 0.0, 4.0], np.float32)
    predicted = posterior.predict(pooled(new), n=4000)["z"]
    expected = posterior.params["mean"] + posterior.params["slope"] * new
    np.testing.assert_allclose(np.log(predicted).mean(0), expected, atol=5 * (0.5**2 + 0.3**2) ** 0.5 / 4000**0.5)
    with pytest.raises(vb.ModelError, match="reads 'y' in parts, and its density is that of all rows at once"):
        posterior.log_prob(posterior.sample(1))
