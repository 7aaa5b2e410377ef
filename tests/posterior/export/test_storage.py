"""A stored posterior says what it said, in any process, of the model that it belongs to and of no other."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.stats
import stored_fits as fits

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core import archive
from vbppl.guides.base import Guide
from vbppl.guides.layers.base import Layer
from vbppl.posterior.export.encoding import KNOWN
from vbppl.posterior.export.storage import POSTERIOR, _guide

pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder with the files of quick fits, and what they said."""
    folder = tmp_path_factory.mktemp("stored")
    posterior = fits.made("mean_field", folder)
    fits.made("map", folder)
    # The same normals as a family of the user's own.
    loc, log_sd = posterior.phi
    solution = dataclasses.replace(posterior.solution, guide=fits.Own(), phi={1: loc, 2: log_sd})
    fits.kept(dataclasses.replace(posterior, solution=solution), "own", folder)
    return folder


def told(call) -> str:
    with pytest.raises(vb.ModelError) as error:
        call()
    return str(error.value)


@pytest.mark.parametrize("name", ["mean_field", "map", "own"])
def test_it_says_what_it_said(stored, name):
    fits.compared(name, stored)


def test_it_says_so_in_another_process(stored):
    run = [sys.executable, fits.__file__, str(stored), "compare", "mean_field"]
    found = subprocess.run(run, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert found.returncode == 0 and "BROKEN" not in found.stdout, found.stdout + found.stderr


@pytest.mark.slow
def test_every_kind_of_fit_says_what_it_said_in_another_process(tmp_path):
    for which in ("make", "compare"):
        run = [sys.executable, fits.__file__, str(tmp_path), which]
        found = subprocess.run(run, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
        assert found.returncode == 0 and "BROKEN" not in found.stdout, found.stdout + found.stderr


def test_a_file_of_format_1_says_what_it_said():
    posterior = vb.load(HERE / "kept" / "format_1.npz", fits.literal())
    with np.load(HERE / "kept" / "format_1_answers.npz") as then:
        now = fits.answers(posterior, fits.CASES["kept"].new)
        for name in then.files:
            if then[name].dtype.kind == "f":  # another machine rounds otherwise
                np.testing.assert_allclose(now[name], then[name], rtol=1e-4, atol=1e-5, err_msg=name)
        assert str(then["['verdict']"]) == posterior.check().verdict == "poor"
    assert posterior.check().chains == 2 and posterior.uncorrected().check().chains == 0
    assert posterior.calls[-1].startswith("posterior = vb.refine(posterior, n=30")


def test_a_loaded_posterior_goes_on_as_the_start_of_a_fit_and_is_stored_again(stored, tmp_path):
    posterior = vb.load(stored / "mean_field.npz", fits.straight())
    vb.save(posterior, tmp_path / "again")
    again = vb.load(tmp_path / "again", fits.straight())
    np.testing.assert_array_equal(again.phi, posterior.phi)
    fitted = vb.fit(fits.straight(), "mean_field", start=again)
    np.testing.assert_allclose(fitted.mean()["slope"], posterior.mean()["slope"], atol=0.01)


def test_a_session_of_another_precision_rounds(stored, x64, tmp_path):
    posterior = vb.load(stored / "mean_field.npz", fits.straight())
    assert np.isclose(posterior.mean()["slope"], float(np.load(stored / "mean_field answers.npz")["['mean']['slope']"]))
    vb.save(posterior, tmp_path / "double")
    with jax.enable_x64(False):
        assert vb.load(tmp_path / "double", fits.straight()).sample(3)["slope"].dtype == np.float32


def test_the_file_can_be_read_without_the_package_and_holds_no_code(stored):
    with np.load(stored / "mean_field.npz", allow_pickle=False) as file:

        def no_constant(word):
            raise AssertionError(f"{word} is not JSON")

        head = json.loads(bytes(file["meta"]), parse_constant=no_constant)
        assert head["kind"] == "posterior" and head["format"] == 1
        assert head["meta"]["model"]["site"]["slope"] == "latent Normal () ()"
        assert head["meta"]["guide"] == {"dict": {"whole": {"class": "MeanField", "fields": {}}}}
        assert file["phi.whole"].shape == (2, 2)
        assert all(file[name].dtype.kind in "biuf" for name in file.files)


def test_every_guide_and_layer_has_a_form_in_a_file():
    def below(kind):
        return {kind, *(one for inner in kind.__subclasses__() for one in below(inner))}

    classes = {cls for kind in (Guide, Layer) for cls in below(kind) if cls.__module__.startswith("vbppl.guides")}
    assert {cls.__name__ for cls in classes if dataclasses.is_dataclass(cls)} - set(KNOWN) == {
        "Amortized",  # these hold code, and are given anew
        "Bijection",
        "Flow",
        "ProgramGuide",
    }


# The model that is given.


@vb.model
def line(x, y=None):
    """As `fits.line`, with a wider prior of the noise."""
    slope = vb.sample("slope", dist.Normal(0.0, 1.0))
    noise = vb.sample("noise", dist.HalfNormal(SCALE))
    vb.deterministic("doubled", 2 * slope)
    with vb.plate("row", len(x)):
        vb.sample("y", dist.Normal(slope * x, noise), obs=y)


SCALE = 2.0


@vb.model
def other(x, y=None):
    """As `fits.line`, with another prior of the slope and without noise."""
    slope = vb.sample("slope", dist.StudentT(4.0, 0.0, 1.0))
    with vb.plate("row", len(x)):
        vb.sample("y", dist.Normal(slope * x, 1.0), obs=y)


APPLY = "  To mend it: Apply the function that was fitted to the data of the fit; other data go to posterior.predict."
DIFFERENT = {
    "other sites": (
        lambda: other(fits.X, fits.Y),
        "  site 'slope': latent Normal () () in the file, latent StudentT () () here\n"
        "  site 'noise': latent HalfNormal () () in the file, nothing here\n"
        "  site 'doubled': deterministic () in the file, nothing here\n",
    ),
    "fewer rows": (
        lambda: fits.line(fits.X[:9], fits.Y[:9]),
        "  site 'row': plate 30 rows in the file, plate 9 rows here\n"
        "  site 'y': observed Normal (30,) () row[30]@-1 in the file, observed Normal (9,) () row[9]@-1 here\n"
        "  argument 'x': float[30] in the file, float[9] here\n"
        "  argument 'y': float[30] in the file, float[9] here\n",
    ),
    "other numbers": (
        lambda: fits.line(fits.X, 1.0001 * fits.Y),
        "  argument 'y': float[30] in both, but other numbers\n",
    ),
    "no data": (
        lambda: fits.line(fits.X),
        "  site 'y': observed Normal (30,) () row[30]@-1 in the file, latent Normal (30,) () row[30]@-1 here\n"
        "  argument 'y': float[30] in the file, nothing here\n",
    ),
    "conditioned": (
        lambda: fits.straight().condition(noise=0.5),
        "  site 'noise': latent HalfNormal () () in the file, observed HalfNormal () () here\n"
        "  condition 'noise': nothing in the file, float[] here\n",
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_another_model_is_refused_by_what_disagrees(stored, name):
    model, lines = DIFFERENT[name]
    path = stored / "mean_field.npz"
    text = told(lambda: vb.load(path, model()))
    assert text == f"{path} holds a posterior of line, but not of this model with these arguments.\n{lines}{APPLY}"


@vb.model
def with_settings(y, kinds=frozenset("abc"), count=3, *, scale=1.0):
    x = vb.sample("x", dist.Normal(0.0, scale))
    vb.sample("y", dist.Normal(x, float(count)), obs=y)


def test_the_same_arguments_in_other_words_are_the_same(tmp_path):
    y = np.array(1.0)
    vb.save(vb.fit(with_settings(y), "mean_field"), tmp_path / "x")
    same = [with_settings(y, frozenset("cba")), with_settings(y, count=np.int64(3)), with_settings(y, scale=1.0)]
    for model in (*same, with_settings(np.float32(y), count=3, scale=np.float64(1.0))):
        assert vb.load(tmp_path / "x", model).mean()["x"] > 0
    text = told(lambda: vb.load(tmp_path / "x", with_settings(y, frozenset("abd"), count=4, scale=1.00000001)))
    assert "argument 'kinds': frozenset of 'a', 'b', 'c' in the file, frozenset of 'a', 'b', 'd' here" in text
    assert (
        "argument 'count': 3 in the file, 4 here" in text
        and "argument 'scale': 1.0 in the file, 1.00000001 here" in text
    )


def test_other_code_is_seen_by_the_density(stored):
    text = told(lambda: vb.load(stored / "mean_field.npz", line(fits.X, fits.Y)))
    assert "mean_field.npz holds a posterior of a model with another log density.\n  site 'noise': " in text
    assert text.endswith(
        "To mend it: The code of the model, or what it reads, has changed: give the one that was fitted."
    )


def test_a_little_wider_prior_is_seen_on_the_same_machine(tmp_path, monkeypatch):
    vb.save(vb.fit(line(fits.X, fits.Y), "mean_field"), tmp_path / "x")
    monkeypatch.setitem(globals(), "SCALE", 2.02)  # log 1.01 = .00995 nats
    text = told(lambda: vb.load(tmp_path / "x", line(fits.X, fits.Y)))
    assert "SCALE, which the model reads: float 2.0 in the file, float 2.02 here" in text


@vb.model
def shifted(at, y):
    x = vb.sample("x", dist.Normal(0.0, 1.0))
    vb.sample("y", dist.Normal(x * (at - at[0]), 1.0).to_event(1), obs=y)


def test_data_that_differ_beyond_single_precision_are_others_where_the_fit_was_in_double(tmp_path):
    at, y = 1.7e9 + 10.0 * np.arange(3), np.array([0.0, 1.0, 2.0])  # seconds, which 32 bits round to 128
    assert np.array_equal(np.float32(at), np.float32(at + 1))
    double, single = tmp_path / "double", tmp_path / "single"
    vb.save(vb.fit(shifted(at, y), "mean_field", precision="float64"), double)
    vb.save(vb.fit(shifted(at, y), "mean_field", precision="session"), single)
    assert vb.load(double, shifted(at, y)).mean() and vb.load(single, shifted(at, y)).mean()
    assert "argument 'at': float[3] in both, but other numbers" in told(lambda: vb.load(double, shifted(at + 1, y)))
    assert vb.load(single, shifted(at + 1, y)).mean()  # to that fit they were the same


@vb.model
def many(y):
    """A prior beside which the sum over 50,000 rows is 46,000 nats below 0."""
    x = vb.sample("x", dist.Normal(0.0, SCALE))
    with vb.plate("row", len(y)):
        vb.sample("y", dist.Normal(x, 1.0), obs=y)


def test_another_prior_is_seen_beside_many_rows(tmp_path, monkeypatch):
    y = np.zeros(50_000, np.float32)
    vb.save(vb.fit(many(y), "mean_field"), tmp_path / "x")
    monkeypatch.setitem(globals(), "SCALE", 4.0)
    text = told(lambda: vb.load(tmp_path / "x", many(y)))
    # log N(0; 0, sd) by SciPy, at a point within .02 of 0.
    then, now = (scipy.stats.norm.logpdf(0.0, 0.0, sd) for sd in (2.0, 4.0))
    assert f"site 'x': {then:.3f}" in text and f"nats in the file, {now:.3f}" in text and "site 'y'" not in text


@vb.model
def in_parts(y):
    x = vb.sample("x", dist.Normal(0.0, 1.0))
    with vb.plate("row", 1000, subsample_size=20):
        vb.sample("y", dist.Normal(x, 1.0), obs=vb.subsample(y))


def test_other_rows_of_a_source_are_seen_wherever_they_stand(tmp_path):
    y = np.zeros(1000, np.float32)
    vb.save(vb.fit(in_parts(vb.Source(y)), "mean_field", method=vb.Stochastic(steps=20)), tmp_path / "x")
    y = np.where(np.arange(1000) < 900, y, 1.0)
    assert "site 'y': " in told(lambda: vb.load(tmp_path / "x", in_parts(vb.Source(y))))


def test_what_has_changed_outside_the_arguments_is_named(tmp_path, monkeypatch):
    vb.save(vb.fit(line(fits.X, fits.Y), "mean_field"), tmp_path / "x")
    monkeypatch.setitem(globals(), "SCALE", 0.5)
    text = told(lambda: vb.load(tmp_path / "x", line(fits.X, fits.Y)))
    assert "SCALE, which the model reads: float 2.0 in the file, float 0.5 here" in text


def test_what_is_no_model_or_no_posterior_is_refused(stored, tmp_path):
    with pytest.raises(TypeError, match="model: expected a model applied to its arguments, but got the model function"):
        vb.load(stored / "mean_field.npz", fits.line)
    with pytest.raises(TypeError, match="posterior must be what vb.fit gave back, not 3"):
        vb.save(3, tmp_path / "x")
    with pytest.raises(TypeError, match="path must be the path of a file, not 3"):
        vb.load(3, fits.straight())
    text = told(lambda: vb.save(vb.load(stored / "mean_field.npz", fits.straight()), tmp_path / "none" / "x"))
    assert text.endswith("there is no such folder.\n  To mend it: Make it first.")


# The guide, where it has code.


def test_a_guide_with_code_is_given_anew_and_no_other(stored):
    path, model = stored / "own.npz", fits.straight()
    assert told(lambda: vb.load(path, model)) == (
        f"{path} holds a posterior whose guide has code, which no file has: guide is of the class Own.\n"
        "  To mend it: Give the guide of the fit anew: vb.load(path, model, guide=...)."
    )
    assert told(lambda: vb.load(path, model, vb.MeanField())) == (
        f"{path} holds a posterior with another guide.\n  class: Own in the file, MeanField here\n"
        "  To mend it: Give the guide that the fit was given."
    )
    with pytest.raises(TypeError, match="guide must be the guide that the fit was given, not 3"):
        vb.load(path, model, 3)
    text = told(lambda: vb.load(stored / "mean_field.npz", model, vb.FullRank()))
    assert text == (
        f"{stored / 'mean_field.npz'} holds a posterior with another guide.\n"
        "  class: MeanField in the file, FullRank here\n  To mend it: Leave guide= out: the file has the guide."
    )


def test_a_guide_of_another_size_is_refused_and_the_same_may_be_given():
    form = {"whole": vb.LowRank(rank=1)}
    assert _guide("x", form, vb.LowRank(rank=1)) is _guide("x", form, None) is form["whole"]
    text = told(lambda: _guide("x", form, vb.LowRank(rank=3)))
    assert text.startswith("x holds a posterior with another guide.\n  rank: 1 in the file, 3 here\n")


def test_parameters_that_are_no_numbers_are_refused(stored, tmp_path):
    posterior = vb.load(stored / "mean_field.npz", fits.straight())
    odd = dataclasses.replace(posterior, solution=dataclasses.replace(posterior.solution, bounds=object()))
    assert told(lambda: vb.save(odd, tmp_path / "x")) == (
        "the posterior cannot be stored: bounds is of the class object, which has no form in a file."
    )
    assert not os.listdir(tmp_path)


# Damaged and foreign files.

MEND = "\n  To mend it: Give a file that vb.save of this version, or of an older one, has written."


def rewritten(path: Path, change) -> None:
    """The same file with another text beside its arrays."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    head = json.loads(bytes(arrays["meta"]))
    change(head)
    arrays["meta"] = np.frombuffer(json.dumps(head).encode(), np.uint8)
    np.savez(path.open("wb"), **arrays)


def unknown_class(head):
    head["meta"]["report"]["class"] = "Rapport"


def unknown_field(head):
    head["meta"]["report"]["fields"]["colour"] = "red"


REWRITTEN = {
    "newer": (
        lambda head: head.update(format=7),
        "its format is 7, which a newer vbppl has written, not 1",
    ),
    "a checkpoint": (lambda head: head.update(kind="checkpoint"), "it is a checkpoint"),
    "an unknown class": (unknown_class, "it holds a Rapport, which this version does not know"),
    "an unknown field": (unknown_field, "its Report has colour, which this version does not know"),
    "a missing part": (lambda head: head["meta"].pop("phi"), "it lacks 'phi'"),
    "a missing digest": (lambda head: head.pop("digest"), "it lacks 'digest'"),
    "other arrays": (lambda head: head.update(digest="0"), "its arrays are not those that were written"),
}


@pytest.mark.parametrize("name", REWRITTEN)
def test_a_file_of_other_content_is_refused(stored, tmp_path, name):
    path, (change, why) = tmp_path / "x.npz", REWRITTEN[name]
    path.write_bytes((stored / "mean_field.npz").read_bytes())
    rewritten(path, change)
    text = told(lambda: vb.load(path, fits.straight()))
    assert text == f"{path} cannot be read as a stored posterior: {why}.{MEND}"


# Forged ones: each field of the text in each other form, each array in other shapes and types, with the right digest.

DROPPED = object()
FORGED = [DROPPED, None, 0, -1, 1.5, "x", True, [], {}, {"list": []}, {"dict": {}}, [1, 2], 10**30]
FORGED += [{"array": "phi.whole", "jax": True}, {"number": "nan", "dtype": "float"}, {"class": "Status", "fields": {}}]


def places(form, at=()):
    """Where each part of a JSON text stands."""
    yield at
    parts = form.items() if isinstance(form, dict) else enumerate(form) if isinstance(form, list) else ()
    for key, part in parts:
        yield from places(part, (*at, key))


def altered(head, at, value):
    """The text with another value at one place."""
    head = json.loads(json.dumps(head))
    inner = head
    for key in at[:-1]:
        inner = inner[key]
    if value is DROPPED:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    return head


def forgeries(path):
    """Files that claim to be `path`: a name for each, its text and its arrays."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    head = json.loads(bytes(arrays.pop("meta")))
    for at in places(head):
        yield from ((f"{at} {value}", altered(head, at, value), arrays) for value in FORGED if at)
    for name, array in arrays.items():
        others = {"less": array.ravel()[:1], "none": array[:0], "more": np.zeros((7, *array.shape))}
        others |= {kind: np.zeros(array.shape, kind) for kind in ("complex", "U1", "int")}
        for word, other in others.items():
            forged = {**arrays, name: other}
            dtypes = {name: str(each.dtype) for name, each in forged.items()}
            yield f"{name} {word}", {**head, "dtypes": dtypes, "digest": archive.digest(*forged.values())}, forged


def check_forgeries(path, model, guide, forged, step):
    """Every one is loaded or refused by an error of ours that says which file it is; the rest says what it was."""
    refused, loaded = 0, 0
    for name, head, arrays in list(forgeries(path))[::step]:
        np.savez(forged.open("wb"), meta=np.frombuffer(json.dumps(head).encode(), np.uint8), **arrays)
        try:
            vb.load(forged, model, guide)
        except vb.ModelError as error:
            refused += 1
            assert str(forged) in str(error) or "in the file" in str(error), name
        except Exception as error:
            raise AssertionError(f"{name} escapes as {error!r:.200}") from error
        else:
            loaded += 1
    return refused, loaded


def test_forged_files_are_loaded_or_refused(stored, tmp_path):
    refused, loaded = check_forgeries(stored / "mean_field.npz", fits.straight(), None, tmp_path / "x.npz", 97)
    assert refused > 25 and loaded > 1  # another text of a note, say, is as good


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mean_field", "map", "own"])
def test_every_forged_file_is_loaded_or_refused(stored, tmp_path, name):
    case = fits.CASES[name]
    guide = case.guide and case.guide()
    refused, loaded = check_forgeries(stored / f"{name}.npz", case.model(), guide, tmp_path / "x.npz", 1)
    assert refused > 1000 and loaded > 100


@pytest.mark.slow
def test_forged_files_of_chains_are_loaded_or_refused(tmp_path):
    path = HERE / "kept" / "format_1.npz"
    refused, loaded = check_forgeries(path, fits.literal(), None, tmp_path / "x.npz", 2)
    assert refused > 1000 and loaded > 100


def bytes_of(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


DAMAGED = {
    "empty": (lambda whole: b"", "it is no archive, or was cut short"),
    "cut short": (lambda whole: whole[: len(whole) // 2], "it is no archive, or was cut short"),
    "a text": (lambda whole: b"no posterior", "it is no archive, or was cut short"),
    "a pickle": (lambda whole: pickle.dumps({"a": 1}), "it is no archive, or was cut short"),
    "another npz": (lambda whole: bytes_of(a=np.zeros(3)), "it is an archive that something else has written"),
    "objects": (lambda whole: bytes_of(meta=np.array([None])), "it holds things that are no numbers"),
    "other bits": (lambda whole: whole.replace(b'"format": 1', b'"format": 2', 1), "Bad CRC-32 for file 'meta.npy'"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_or_foreign_file_is_refused_and_left_alone(stored, tmp_path, name):
    path, (damage, why) = tmp_path / "x.npz", DAMAGED[name]
    path.write_bytes(damage((stored / "mean_field.npz").read_bytes()))
    before = path.read_bytes()
    text = told(lambda: vb.load(path, fits.straight()))
    assert text == f"{path} cannot be read as a stored posterior: {why}.{MEND}"
    assert path.read_bytes() == before


def test_a_file_that_is_not_there_is_told(tmp_path):
    text = told(lambda: vb.load(tmp_path / "x", fits.straight()))
    assert "cannot be read as a stored posterior: [Errno 2] No such file or directory" in text
    assert "it is no archive" in told(lambda: vb.load(tmp_path, fits.straight()))


def test_a_full_disk_leaves_the_old_file(stored, tmp_path, monkeypatch):
    posterior, path = vb.load(stored / "mean_field.npz", fits.straight()), tmp_path / "x"
    vb.save(posterior, path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        vb.save(posterior, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["x"]


def test_a_stored_posterior_is_no_checkpoint(stored):
    path = stored / "mean_field.npz"
    text = told(lambda: vb.fit(fits.straight(), "mean_field", method=fits.STEPS, checkpoint=path))
    assert f"{path} cannot be read as a checkpoint of a fit: it is a posterior." in text
    assert POSTERIOR.format == 1, "a new format needs a file in kept/, and the old one a reader"


# Pickles.


def mean_of(posterior) -> float:
    return float(posterior.mean()["slope"])


def test_models_and_posteriors_can_be_pickled(stored):
    posterior = vb.load(stored / "own.npz", fits.straight(), fits.Own())
    again = pickle.loads(pickle.dumps(posterior))
    assert mean_of(again) == mean_of(posterior)
    np.testing.assert_array_equal(again.predict(n=3)["y"], posterior.predict(n=3)["y"])


def test_what_has_no_name_is_refused_by_pickle_and_taken_by_cloudpickle():
    cloudpickle = pytest.importorskip("cloudpickle")

    @vb.model
    def local(y):
        x = vb.sample("x", dist.Normal(0.0, 1.0))
        vb.sample("y", dist.Normal(x, 0.5), obs=y)

    model = local(np.array(1.0))
    for thing in (local, model):
        with pytest.raises((AttributeError, pickle.PicklingError), match="local object .*local.again|local"):
            pickle.dumps(thing)
    again = cloudpickle.loads(cloudpickle.dumps(model))
    assert again.function is not model.function and repr(again) == "local(float64[])"
    assert float(again.log_joint({"x": 0.5})) == float(model.log_joint({"x": 0.5}))


SCRIPT = """
import sys, multiprocessing
import numpy as np, vbppl as vb, vbppl.distributions as dist

@vb.model
def here(y):
    x = vb.sample("x", dist.Normal(0.0, 1.0))
    vb.sample("y", dist.Normal(x, 0.5), obs=y)

def mean(posterior):
    return float(posterior.mean()["x"])

if __name__ == "__main__":
    from joblib import Parallel, delayed

    posterior = vb.fit(here(np.array(1.0)), "mean_field")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(mean, [posterior]) == [mean(posterior)]
    assert Parallel(n_jobs=2)(delayed(mean)(each) for each in [posterior] * 2) == [mean(posterior)] * 2
"""


@pytest.mark.slow
def test_a_script_hands_its_own_models_to_other_processes(tmp_path):
    pytest.importorskip("joblib")
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    run = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr


def test_load_takes_what_the_contract_says():
    assert list(inspect.signature(vb.save).parameters) == ["posterior", "path"]
    assert list(inspect.signature(vb.load).parameters) == ["path", "model", "guide"]
