"""Labels: what may be one, where it is told, that no program knows it."""

from __future__ import annotations

import pickle
import sys

import jax
import numpy as np
import pytest

import vbppl as vb
import vbppl.distributions as dist
from vbppl.model.labels.axes import Dim, owners
from vbppl.model.labels.names import texts
from vbppl.model.shapes import Frame
from vbppl.posterior.summary import learnt_rows, not_shown
from vbppl.target.axes import axes_of, coordinate_names
from vbppl.target.density import packed_params

X = np.array([[1.0, 0.2], [0.3, 1.0], [0.5, 0.5]])
Y = np.array([0.3, -0.1, 0.8])
TOWNS, FEATURES = ["Aitkin", "Anoka", "Becker"], ("constant", "dose")
# What `vb.plate` may be given in the place of 3: labels, and how they read.
AS_WORDS = {
    "list": (TOWNS, TOWNS),
    "tuple": (tuple(TOWNS), TOWNS),
    "strings": (np.array(TOWNS), TOWNS),
    "objects": (np.array(TOWNS, object), TOWNS),
    "years": (np.array([1990, 1991, 1995]), ["1990", "1991", "1995"]),
    "doses": (np.array([0.1, 0.2, 0.4], np.float32), ["0.1", "0.2", "0.4"]),
    "days": (
        np.array(["2020-01-31", "2020-02-01", "2021-01-01"], "M8[ns]"),
        ["2020-01-31", "2020-02-01", "2021-01-01"],
    ),
    "range": (range(1, 4), ["1", "2", "3"]),
    "flags of numpy": (jax.numpy.arange(3), ["0", "1", "2"]),
}


@vb.model
def towns(town, feature=None, y=Y):
    mu = vb.sample("mu", dist.Normal(0.0, 1.0))
    beta = vb.sample("beta", dist.Normal(0.0, 1.0), sample_shape=(2,), dims={"feature": feature})
    with vb.plate("town", town):
        alpha = vb.sample("alpha", dist.Normal(mu, 1.0))
        vb.deterministic("part", X * beta, dims="feature")
        vb.sample("y", dist.Normal(alpha + X @ beta, 1.0), obs=y)


@pytest.fixture(scope="module")
def posterior():
    return vb.fit(towns(TOWNS, FEATURES), "mean_field")


def told(town, feature=None):
    return coordinate_names(vb.target(towns(town, feature)))


@pytest.mark.parametrize("kind", AS_WORDS)
def test_a_plate_takes_labels_in_the_place_of_its_size(kind):
    given, words = AS_WORDS[kind]
    assert told(given) == ("mu", "beta[0]", "beta[1]", *(f"alpha[{word}]" for word in words))


def test_a_size_names_rows_by_number():
    assert told(3) == ("mu", "beta[0]", "beta[1]", "alpha[0]", "alpha[1]", "alpha[2]")
    assert vb.target(towns(3)).layout == vb.target(towns(TOWNS)).layout


def test_what_pandas_and_xarray_hold_are_labels():
    pd, xarray = pytest.importorskip("pandas"), pytest.importorskip("xarray")
    column = pd.Series(["Anoka", "Becker", "Anoka", "Aitkin"], dtype="category")
    held = [pd.Index(TOWNS), pd.Series(TOWNS), pd.Categorical(TOWNS), column.cat.categories]
    held += [xarray.DataArray(np.zeros(3), coords={"town": TOWNS}, dims="town").town]
    assert {told(each) for each in held} == {told(TOWNS)}
    assert told(pd.date_range("2020-01-31", periods=3))[3] == "alpha[2020-01-31]"
    assert told(pd.cut(Y, 3).categories)[3] == f"alpha[{pd.cut(Y, 3).categories[0]}]"
    assert told(pd.period_range("2020-01", periods=3, freq="M"))[3] == "alpha[2020-01]"
    with pytest.raises(vb.ModelError, match=r"Anoka \(2 times\)"):
        told(column)


def test_dims_name_the_axes_of_an_event():
    named = axes_of(vb.target(towns(TOWNS, FEATURES)))
    assert named.dims["part"] == ("town", "feature") and named.dims["beta"] == ("feature",)
    assert named.names("part", (3, 2))[:3] == ["part[Aitkin,constant]", "part[Aitkin,dose]", "part[Anoka,constant]"]
    assert named.labels == {"town": tuple(TOWNS), "feature": FEATURES} and named.sizes == {"town": 3, "feature": 2}


def test_a_value_of_fewer_coordinates_than_entries_counts_them():
    @vb.model
    def shares():
        vb.sample("p", dist.Dirichlet(np.ones(3)), dims={"party": ["red", "green", "blue"]})

    target = vb.target(shares())
    assert coordinate_names(target) == ("p[0]", "p[1]")  # three shares have two coordinates
    assert axes_of(target).names("p", (3,)) == ["p[red]", "p[green]", "p[blue]"]


def test_summaries_and_cards_speak_of_labels(posterior):
    rows = [name for name, _ in posterior.summary().rows]
    assert rows[:6] == ["mu", "beta[constant]", "beta[dose]", "alpha[Aitkin]", "alpha[Anoka]", "alpha[Becker]"]
    card = posterior.check()
    names = {card.mean_error.name, card.log_sd_error.name, card.tail.name, *(each.name for each in card.widened)}
    every = {*rows, "none", "not looked at"}
    assert not {name for name in names if not name.startswith("the contrast of ")} - every
    assert {*posterior.linear_response("alpha").names} == {f"alpha[{town}]" for town in TOWNS}


def test_other_labels_compile_nothing_and_are_not_mixed_up(posterior, compilations):
    before = compilations()
    other = vb.fit(towns(["a", "b", "c"], ("u", "v")), "mean_field")
    assert [name for name, _ in other.summary("beta", "alpha").rows] == [
        "beta[u]",
        "beta[v]",
        *"alpha[a] alpha[b] alpha[c]".split(),
    ]
    assert [name for name, _ in posterior.summary("beta").rows] == ["beta[constant]", "beta[dose]"]
    assert compilations() == before


def test_labels_outlive_pickles_starts_and_fits_side_by_side(posterior):
    def first(answer):
        return answer.summary("alpha").rows[0][0]

    assert first(pickle.loads(pickle.dumps(posterior))) == "alpha[Aitkin]"
    assert first(vb.fit(towns(["a", "b", "c"], FEATURES), "mean_field", start=posterior)) == "alpha[a]"
    many = vb.fit_many([towns(TOWNS, FEATURES), towns(["a", "b", "c"], FEATURES)], guide="mean_field")
    assert [first(each) for each in many] == ["alpha[Aitkin]", "alpha[a]"]
    at = vb.calibrate(towns(TOWNS, FEATURES), guide="mean_field", n=4, draws=9)
    assert "alpha[Aitkin]" in at.names


def test_a_list_that_shapes_the_model_is_a_setting():
    @vb.model
    def columns(names):
        for name in names:
            vb.sample(name, dist.Normal(0.0, 1.0))

    assert coordinate_names(vb.target(columns(["a", "b"]))) == ("a", "b")
    assert coordinate_names(vb.target(columns(["a", "c"]))) == ("a", "c")
    assert repr(columns(["a", "b"])) == "columns(['a', 'b'])"


def test_strings_given_one_by_one_are_settings():
    @vb.model
    def links(one, two, names):
        vb.sample(one + two, dist.Normal(0.0, 1.0), sample_shape=(2,), dims={"feature": names})

    assert coordinate_names(vb.target(links("a", "b", ["u", "v"]))) == ("ab[u]", "ab[v]")
    assert coordinate_names(vb.target(links("a", "c", names=("u", "v")))) == ("ac[u]", "ac[v]")
    assert vb.model(lambda one, two: vb.sample(one + two, dist.Normal(0.0, 1.0)))("a", "b").shapes().rows[0][0] == "ab"


@pytest.mark.parametrize(
    "read",
    [
        lambda names: ",".join(names),
        lambda names: f"{names}",
        lambda names: isinstance(names, list),
        lambda names: names == ["a"],
        lambda names: names[0],
        lambda names: "a" in names,
        lambda names: names.index("a"),
        lambda names: sorted(names),
        lambda names: np.unique(names),
        lambda names: names + ["b"],
        lambda names: pickle.dumps(names),
        lambda names: hash(names),
        lambda names: {**dict.fromkeys(names)},
    ],
)
def test_whatever_a_function_reads_of_a_list_it_gets(read):
    seen = []

    @vb.model
    def reads(names):
        seen.append(type(names))
        try:
            read(names)
        except TypeError:  # a list has no hash
            pass
        vb.sample("x", dist.Normal(0.0, 1.0))

    reads(["a"]).shapes()
    assert list in seen


def test_a_function_that_asks_for_their_number_alone_sees_no_labels():
    @vb.model
    def counts(names):
        assert len(names) == names.size == names.shape[0] == 3 and names is not None and names
        with vb.plate("row", len(names)):
            vb.sample("x", dist.Normal(0.0, 1.0))

    assert jax.tree.structure(counts(TOWNS)) == jax.tree.structure(counts(["a", "b", "c"]))


def test_long_arrays_outside_the_arguments_are_told_apart():
    def of(words):
        def rows():
            with vb.plate("row", words):
                vb.sample("x", dist.Normal(0.0, 1.0))

        return vb.model(rows)()

    words = np.array([f"w{i}" for i in range(2000)])
    before = of(words)
    words[1000] = "other"
    assert before.reads != of(words).reads and coordinate_names(vb.target(of(words)))[1000] == "x[other]"
    with pytest.raises(vb.ModelError, match="has changed since the model was applied"):
        before.shapes()


def test_a_model_in_a_model_passes_labels_on():
    @vb.model
    def inner(names):
        with vb.plate("row", names):
            vb.sample("x", dist.Normal(0.0, 1.0))

    @vb.model
    def outer(names, more):
        vb.sample("in", inner(names))
        vb.sample("fixed", inner(more))
        vb.sample("own", inner(["p", "q"]))

    target = vb.target(outer(TOWNS, np.array([7, 9])))
    expected = (*(f"in/x[{town}]" for town in TOWNS), "fixed/x[7]", "fixed/x[9]", "own/x[p]", "own/x[q]")
    assert coordinate_names(target) == expected


def test_conditions_and_interventions_keep_names(posterior):
    model = towns(TOWNS, FEATURES, None).condition(y=Y).do(beta=np.zeros(2))
    named = axes_of(vb.target(model))
    assert named.names("beta", (2,)) == ["beta[constant]", "beta[dose]"]
    assert named.dims["y"] == ("town",)


def test_rows_shown_in_part_keep_their_labels():
    @vb.model
    def rows(names, y):
        mu = vb.sample("mu", dist.Normal(0.0, 1.0))
        with vb.plate("row", names, subsample_size=2):
            z = vb.sample("z", dist.Normal(mu, 1.0))
            vb.sample("y", dist.Normal(z, 1.0), obs=vb.subsample(y))

    assert coordinate_names(vb.target(rows([*"abcd"], np.zeros(4)))) == ("mu", "z[a]", "z[b]", "z[c]", "z[d]")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b", "a"], r"labels stand more than once: a \(2 times\)"),
        (np.array([1, 1, 1]), r"labels stand more than once: 1 \(3 times\)"),
        (["a", 1, "1"], r"more than once: 1 \(2 times\)"),
        (["a", None, "b"], r"label 1 is missing \(None\)"),
        (np.array([0.0, np.nan, 1.0]), r"label 1 is missing \(nan\)"),
        (["a", object(), "b"], r"label 1 is <object .*, but labels are strings, numbers or dates"),
        ([], r"there are no labels in \[\]"),
        ({"a", "b", "c"}, "size must be a positive int|neither numbers nor hashable"),
        ("abc", "size must be a positive int"),
    ],
)
def test_what_is_no_labels_is_refused(labels, message):
    def outside():
        with vb.plate("town", labels):
            vb.sample("x", dist.Normal(0.0, 1.0))

    with pytest.raises(vb.ModelError, match=message):
        told(labels)
    with pytest.raises(vb.ModelError, match=message):
        vb.model(outside)().shapes()


def test_an_array_of_strings_that_is_read_must_be_numbers():
    @vb.model
    def reads(town):
        with vb.plate("row", len(town)):
            vb.sample("y", dist.Normal(0.0, 1.0), obs=town)

    with pytest.raises(vb.ModelError, match="argument town of reads holds strings, not numbers"):
        reads(np.array(TOWNS))


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        (("a", "b", "c"), r"dims names a, b, c, but 2 axes, of length 2, 3, of its value are no plate's"),
        ({"a": TOWNS, "b": None}, r"dims names a \(3 labels\), b, but 2 axes, of length 2, 3, of its value"),
        ({"a": 2, "b": None}, "the labels of dim 'a' are 2"),
        (7, "dims must be names of axes"),
        (("a", ""), "dims must be names of axes"),
        (("twice", "twice"), "dim 'twice' has length 3 here, and 2 elsewhere"),
    ],
)
def test_dims_that_do_not_fit_are_refused(dims, message):
    @vb.model
    def wrong():
        vb.sample("w", dist.Normal(0.0, 1.0), sample_shape=(2, 3), dims=dims)

    with pytest.raises(vb.ModelError, match=message):
        vb.target(wrong())


def test_one_name_means_one_set_of_labels():
    @vb.model
    def twice():
        vb.sample("w", dist.Normal(0.0, 1.0), sample_shape=(2,), dims={"feature": ["a", "b"]})
        vb.sample("v", dist.Normal(0.0, 1.0), sample_shape=(2,), dims={"feature": ["a", "c"]})

    with pytest.raises(vb.ModelError, match="site 'v': dim 'feature' has other labels here than elsewhere"):
        vb.target(twice())


@pytest.mark.parametrize(
    ("shape", "event_dim", "frames", "dims", "expected"),
    [
        ((8,), None, [("g", 8, -1)], (), ("g",)),
        ((8, 8), None, [("g", 8, -1)], (), ("g", None)),
        ((5, 8, 3), None, [("g", 8, -1), ("h", 5, -2)], (), ("h", "g", None)),
        ((5, 1), 0, [("h", 5, -2)], (), ("h", None)),
        ((8, 3, 2), 2, [("g", 8, -1)], ("a", "b"), ("g", "a", "b")),
        ((3, 2), 1, [], ("a", "b"), ("a", "b")),
        ((), None, [("g", 8, -1)], (), ()),
        ((7,), None, [("g", 8, -1)], (), (None,)),
    ],
)
def test_whose_each_axis_is(shape, event_dim, frames, dims, expected):
    frames = [Frame(name, size, size, dim) for name, size, dim in frames]
    assert owners("x", shape, event_dim, frames, [Dim(name) for name in dims]) == expected


def test_dates_read_as_days_where_they_are_days():
    days = np.array(["2020-01-01", "2020-01-01T06:30"], "M8[s]")
    assert texts(days) == ("2020-01-01", "2020-01-01T06:30:00")


def test_shapes_say_what_is_labelled():
    table = str(towns(TOWNS, FEATURES).shapes())
    assert "3 rows, labelled" in table and "dims feature" in table


def test_draws_as_a_data_frame(posterior):
    pd = pytest.importorskip("pandas")
    wide = posterior.to_dataframe(n=50, seed=3)
    draws = posterior.sample(50, 3)
    assert list(wide.columns) == [name for name, _ in posterior.summary().rows] and wide.index.name == "draw"
    assert np.array_equal(wide["alpha[Anoka]"], draws["alpha"][:, 1])
    long = posterior.to_dataframe("mu", "part", n=50, seed=3, long=True)
    assert list(long.columns) == ["draw", "site", "town", "feature", "value"] and len(long) == 50 * 7
    cell = long[(long.town == "Becker") & (long.feature == "dose")]
    assert np.array_equal(cell.value, draws["part"][:, 2, 1]) and np.array_equal(cell.draw, np.arange(50))
    assert long[long.site == "mu"].town.isna().all()
    table = posterior.summary("alpha").to_dataframe()
    assert table.loc["alpha[Anoka]", "sd"] == posterior.sd()["alpha"][1]
    assert isinstance(table, pd.DataFrame)
    with pytest.raises(KeyError, match="no site is called 'gamma'"):
        posterior.to_dataframe("gamma")
    with pytest.raises(TypeError, match="long must be True or False"):
        posterior.to_dataframe(long=2)


def test_without_pandas_the_message_says_how_to_install_it(posterior, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        ModuleNotFoundError, match=r'needs pandas, which .*\n  To mend it: pip install "vbppl\[pandas\]"'
    ):
        posterior.to_dataframe()


@vb.model
def learning(towns, y=None, rows=None):
    weights = vb.param("weights", np.zeros(2), dims={"dose": ["low", "high"]})
    net = vb.param("net", {"w": np.ones((2, 3))})
    with vb.plate("town", towns, subsample_size=rows):
        level = vb.subsample(vb.param("level", np.zeros((3, 2)), dims=("dose",)), event_dim=1)
        x = vb.sample("x", dist.Normal(level.sum(-1), 1.0))
        vb.sample("y", dist.Normal(x + weights.sum() + net["w"].sum(), 1.0), obs=None if y is None else vb.subsample(y))


def test_params_have_labels():
    target = vb.target(learning(["Anoka", "Bay", "Clay"], np.ones(3), rows=2))
    rows = learnt_rows(packed_params(target), axes_of(target))
    level = [f"level[{town},{dose}]" for town in ("Anoka", "Bay", "Clay") for dose in ("low", "high")]
    assert rows == (tuple((name, 0.0) for name in level), (("weights[low]", 0.0), ("weights[high]", 0.0)))
    assert not_shown(packed_params(target)) == ["learnt besides: net (6 numbers)"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")
def test_learnt_params_have_labels_and_stand_in_the_table():
    model = learning(["Anoka", "Bay", "Clay"], np.ones(3), rows=2)
    posterior = vb.fit(model, "mean_field", method=vb.Stochastic(steps=5))
    summary = posterior.summary()
    learnt = dict(row for param in summary.learnt for row in param)
    assert list(learnt)[:2] == ["level[Anoka,low]", "level[Anoka,high]"] and len(learnt) == 8
    assert learnt["weights[high]"] == float(posterior.params["weights"][1])
    assert learnt["level[Clay,low]"] == float(posterior.params["level"][2, 0])
    text = str(summary)
    assert "learnt besides: net (6 numbers)" in text and text.index("x[Clay]") < text.index("level[Anoka,low]")
    assert str(posterior.summary("weights")).count(" learnt\n") == 2 and not posterior.summary("weights").rows
    frame = posterior.summary("x", "weights").to_dataframe()
    assert list(frame.index) == ["x[Anoka]", "x[Bay]", "x[Clay]", "weights[low]", "weights[high]"]
    assert frame["mean"]["weights[low]"] == learnt["weights[low]"] and frame["sd"].isna().sum() == 2
    params = vb.to_arviz(posterior, n=10).params
    assert params["level"].dims == ("town", "dose") and params.town.values.tolist() == ["Anoka", "Bay", "Clay"]
    assert params["net.w"].shape == (2, 3) and params.weights.sel(dose="high") == posterior.params["weights"][1]
    with pytest.raises(KeyError, match="no site is called 'weight'"):
        posterior.summary("weight")


def test_dims_of_a_param_that_is_no_array_are_refused():
    @vb.model
    def wrong():
        vb.param("net", {"w": np.ones(2)}, dims=("dose",))
        vb.sample("x", dist.Normal(0.0, 1.0))

    with pytest.raises(vb.ModelError, match="site 'net': dims names axes of an array, but the value is a dict."):
        wrong().shapes()
