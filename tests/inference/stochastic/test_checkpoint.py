"""A checkpoint is all or nothing, belongs to one fit, and a killed fit goes on from it bit for bit."""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import cases
import jax
import linear_rows
import ml_dtypes
import numpy as np
import optax
import pytest
from optima import LOGISTIC

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core import archive
from vbppl.core.watch import Watch
from vbppl.data.shuffle import Minibatches
from vbppl.guides.base import Start
from vbppl.inference.stochastic import checkpoint, svi
from vbppl.inference.stochastic.early_stopping import Ending, StopRule
from vbppl.inference.stochastic.problem import prepare
from vbppl.target.target import Target

pytestmark = pytest.mark.filterwarnings("ignore::vbppl.VbpplWarning")

PAIRS = cases.normal_normal(cases.PAIRS)
METHOD = vb.Stochastic(steps=400, every=50, draws=2)


class KilledError(Exception):
    """What stops a fit in this process."""


def killed(after, path, model=PAIRS, method=METHOD, **settings):
    """A fit that ends in the middle, after so many chunks; they all were written."""
    seen = []

    def callback(progress):
        seen.append(progress)
        if len(seen) > after:
            raise KilledError

    with pytest.raises(KilledError):
        vb.fit(model, "mean_field", method=method, checkpoint=path, callback=callback, **settings)


def same(first, second):
    np.testing.assert_array_equal(first.phi, second.phi)
    np.testing.assert_array_equal(first.history, second.history)
    np.testing.assert_array_equal(first.elbo, second.elbo)
    assert first.status == second.status
    told = [[line for line in each.report.lines() if not line.startswith("took")] for each in (first, second)]
    assert told[0] == told[1]


@pytest.fixture(autouse=True)
def _every_chunk(monkeypatch):
    monkeypatch.setattr(checkpoint, "SPARING", 0)


def test_arrays_and_text_come_back_as_they_were(tmp_path):
    arrays = {
        "a/b": np.arange(6.0).reshape(2, 3),
        "half": np.arange(3).astype(ml_dtypes.bfloat16),
        "none": np.zeros((0, 2)),
        "one": np.asarray(np.int32(7)),
    }
    archive.write(tmp_path / "x", {"text": "ü", "infinite": np.inf, "nothing": None}, arrays)
    meta, found = archive.read(tmp_path / "x")
    assert meta == {"text": "ü", "infinite": np.inf, "nothing": None}
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_writing_that_breaks_off_leaves_the_good_file(tmp_path, monkeypatch):
    path = tmp_path / "x"
    archive.write(path, {"number": 1}, {"a": np.zeros(3)})

    def broken(file, **arrays):
        file.write(b"PK half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(OSError, match="no space"):
        archive.write(path, {"number": 2}, {"a": np.zeros(3)})
    assert archive.read(path)[0] == {"number": 1}


@pytest.mark.parametrize("damage", ["truncated", "flipped", "text", "empty", "pickle", "one array"])
def test_a_damaged_file_is_refused_and_left_alone(tmp_path, damage):
    path = tmp_path / "run"
    killed(3, path)
    whole = path.read_bytes()
    middle, npy = len(whole) // 2, io.BytesIO()
    np.save(npy, np.array([None]))
    damaged = {
        "truncated": whole[:middle],
        "flipped": whole[:middle] + bytes(b ^ 255 for b in whole[middle : middle + 200]) + whole[middle + 200 :],
        "text": b"not a checkpoint",
        "empty": b"",
        "pickle": pickle.dumps({"a": 1}),
        "one array": npy.getvalue(),
    }[damage]
    path.write_bytes(damaged)
    with pytest.raises(vb.ModelError, match="cannot be read as a checkpoint") as error:
        vb.fit(PAIRS, "mean_field", method=METHOD, checkpoint=path)
    assert "left as it is" in str(error.value) and "pickle" not in str(error.value)
    assert path.read_bytes() == damaged
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


WRONG = {
    "a missing field": (lambda meta, arrays: meta.pop("reported"), "it lacks 'reported'"),
    "a missing array": (lambda meta, arrays: arrays.pop("bounds"), "it lacks 'bounds'"),
    "no schedule": (lambda meta, arrays: meta.update(schedule=3), "'int' object is not iterable"),
    "an unknown field": (lambda meta, arrays: meta["schedule"].update(more=1), "it lacks 'more'"),
    "a string for a number": (lambda meta, arrays: meta.update(reported="x"), "it holds 'x' as reported"),
    "a string in the schedule": (lambda meta, arrays: meta["schedule"].update(number="x"), "it holds 'x' as number"),
    "another shape": (lambda meta, arrays: arrays.update(bounds=np.zeros(3)), "it holds (3,) bounds of 150 steps"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_well_formed_file_of_wrong_content_is_refused_and_left_alone(tmp_path, name):
    path, (spoil, said) = tmp_path / "run", WRONG[name]
    killed(3, path)
    meta, arrays = archive.read(path)
    spoil(meta, arrays)
    archive.write(path, meta, arrays)
    before = path.read_bytes()
    with pytest.raises(vb.ModelError) as error:
        vb.fit(PAIRS, "mean_field", method=METHOD, checkpoint=path)
    assert str(error.value) == (
        f"{path} cannot be read as a checkpoint of a fit: {said}.\n"
        "  To mend it: It was left as it is. Move it away, or give another path, to begin anew."
    )
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["run"]


def test_two_fits_on_one_path_are_one_too_many(tmp_path):
    path, told = tmp_path / "run", []

    def other(progress):
        with pytest.raises(vb.ModelError) as error:
            vb.fit(PAIRS, "mean_field", method=METHOD, checkpoint=path)
        told.append(str(error.value))

    vb.fit(PAIRS, "mean_field", method=METHOD, checkpoint=path, callback=other)
    assert set(told) == {
        f"{path} is the checkpoint of a fit that is running.\n  To mend it: Wait for it to end, or give another path."
    }
    assert os.listdir(tmp_path) == ["run"]


def test_a_full_disk_is_warned_of_and_the_fit_goes_on_and_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "run"
    killed(3, path)
    before, whole = path.read_bytes(), vb.fit(PAIRS, "mean_field", method=METHOD)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive.np, "savez", full)
    with pytest.warns(vb.VbpplWarning) as said:
        same(vb.fit(PAIRS, "mean_field", method=METHOD, checkpoint=path), whole)
    assert str(said[0].message) == (
        f"the checkpoint {path} could not be written: [Errno 28] No space left on device. The fit goes on without it; "
        "the file holds what it held before."
    )
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["run"]


OTHERS = {
    "seed": {"seed": 1},
    "guide": {"guide": "full_rank"},
    "steps": {"method": vb.Stochastic(steps=500, every=50, draws=2)},
    "draws": {"method": vb.Stochastic(steps=400, every=50, draws=3)},
    "data": {"model": cases.normal_normal(cases.PAIRS + 0.1)},
    "sites": {"model": cases.far_datum(np.array(10.0))},
    "program of a step": {"method": vb.Stochastic(steps=400, every=50, draws=2, sticking_the_landing=True)},
    "start": {"method": vb.Stochastic(optax.adam(1e-2), steps=400, every=50, draws=2)},
}


def test_another_warm_up_is_another_fit(tmp_path):
    """Its numbers are data: the program of a step is the same."""
    path = tmp_path / "run"

    def fit(warm_up, **settings):
        guide = linear_rows.KINDS["amortized"](linear_rows.ROWS, linear_rows.weights())
        method = vb.Stochastic(
            optax.sgd(1e-3), steps=20, every=10, objective=vb.inference.Elbo(warm_up=warm_up), draws=1
        )
        vb.fit(linear_rows.linear(linear_rows.ROWS), guide, method=method, checkpoint=path, **settings)

    def stop(progress):
        if progress.step == 20:
            raise KilledError

    with pytest.raises(KilledError):
        fit(15, callback=stop)
    with pytest.raises(vb.ModelError, match="the checkpoint of another fit: objective disagrees"):
        fit(5)


@pytest.mark.parametrize("name", OTHERS)
def test_another_fits_file_is_refused_with_what_disagrees_and_left_alone(tmp_path, name):
    path = tmp_path / "run"
    killed(3, path)
    before = path.read_bytes()
    settings = {"model": PAIRS, "guide": "mean_field", "method": METHOD} | OTHERS[name]
    with pytest.raises(vb.ModelError, match="is the checkpoint of another fit") as error:
        vb.fit(settings.pop("model"), settings.pop("guide"), checkpoint=path, **settings)
    assert f"\n  {name}: " in str(error.value)
    assert path.read_bytes() == before


def test_a_file_of_another_jax_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "run"
    killed(3, path)
    monkeypatch.setattr(archive.jax, "__version__", "0.0.1")
    with pytest.raises(vb.ModelError, match="JAX disagrees"):
        vb.fit(PAIRS, "mean_field", method=METHOD, checkpoint=path)


def test_a_missing_folder_is_named_before_the_first_step(tmp_path):
    with pytest.raises(vb.ModelError, match="there is no such folder"):
        vb.fit(PAIRS, "mean_field", method=METHOD, checkpoint=tmp_path / "none" / "run")


@pytest.mark.parametrize("after", [1, 5])
@pytest.mark.parametrize(
    "method",
    [
        METHOD,
        vb.Stochastic(optax.adam(optax.linear_schedule(0.1, 0.0, 400)), steps=400, every=50, average=False, draws=1),
    ],
    ids=["ours", "optax"],
)
def test_a_fit_that_was_stopped_goes_on_to_the_same_bits(tmp_path, after, method):
    killed(after, tmp_path / "run", method=method)
    resumed = vb.fit(PAIRS, "mean_field", method=method, checkpoint=tmp_path / "run")
    same(resumed, vb.fit(PAIRS, "mean_field", method=method))


def test_minibatches_and_rounds_go_on_to_the_same_bits(tmp_path):
    method = vb.Stochastic(draws=16, every=300)
    killed(6, tmp_path / "run", LOGISTIC, method, batch_size=20, seed=1)
    resumed = vb.fit(LOGISTIC, "mean_field", method=method, batch_size=20, seed=1, checkpoint=tmp_path / "run")
    same(resumed, vb.fit(LOGISTIC, "mean_field", method=method, batch_size=20, seed=1))
    assert resumed.status.steps > 1800


def test_skipped_steps_are_remembered(tmp_path):
    model, method = cases.rooted(np.array(1.5)), vb.Stochastic(steps=700, every=100, draws=1)
    killed(5, tmp_path / "run", model, method)
    resumed = vb.fit(model, "mean_field", method=method, checkpoint=tmp_path / "run")
    same(resumed, vb.fit(model, "mean_field", method=method))
    assert resumed.status.skipped and resumed.status.nonfinite_sites == ("root",)


def test_a_finished_fit_gives_its_posterior_again_without_a_step(tmp_path):
    first = vb.fit(PAIRS, "mean_field", method=METHOD, checkpoint=tmp_path / "run")
    seen = []
    again = vb.fit(PAIRS, "mean_field", method=METHOD, checkpoint=tmp_path / "run", callback=seen.append)
    same(first, again)
    assert not seen


def test_a_fit_on_fixed_draws_writes_nothing(tmp_path):
    vb.fit(PAIRS, checkpoint=tmp_path / "run")
    assert not list(tmp_path.iterdir())


class Best(StopRule):
    """Keeps the best bound and where it was seen, and ends after six chunks."""

    def first(self):
        return {"best": np.float64(-np.inf), "where": np.int64(-1), "chunks": np.int64(0)}

    def check(self, memory, progress):
        memory = memory | {"chunks": memory["chunks"] + np.int64(1)}
        if progress.elbo > memory["best"]:
            memory |= {"best": np.float64(progress.elbo), "where": np.int64(progress.step)}
        return memory, Ending("patience", True, f"best at {memory['where']}") if memory["chunks"] == 6 else None


def test_stop_rules_remember_what_they_have_seen(tmp_path):
    start = Start(np.zeros(2, np.float32))
    made = prepare(Target.of(PAIRS), vb.MeanField(), METHOD, Minibatches(), start, np.zeros(2, np.uint32))

    def run(tell=lambda progress: None, **settings):
        return svi.solve(dataclasses.replace(made, stop_rules=(Best(),), **settings), Watch(tell))[0]

    def stop(progress):
        if progress.step == 200:
            raise KilledError

    with pytest.raises(KilledError):
        run(stop, checkpoint=tmp_path / "run")
    resumed, whole = run(checkpoint=tmp_path / "run"), run()
    assert resumed.status == whole.status
    assert (whole.status.reason, whole.status.steps) == ("patience", 300)
    np.testing.assert_array_equal(resumed.bounds, whole.bounds)


@pytest.mark.slow
def test_a_validation_set_goes_on_looking_where_it_stood(tmp_path):
    """Its best parameters were seen before the fit was stopped, and its patience ends after."""
    start, path = linear_rows.weights(loc=linear_rows.GAIN.T * 0.5), tmp_path / "run"

    def fit(patience=8, **settings):
        validation = vb.inference.Validation(linear_rows.linear(linear_rows.NEW), patience=patience)
        method = vb.Stochastic(optimizer=optax.sgd(2e-3), steps=2000, every=10, validation=validation, draws=1)
        guide = linear_rows.KINDS["amortized"](linear_rows.ROWS, start)
        return vb.fit(linear_rows.linear(linear_rows.ROWS), guide, method=method, batch_size=20, **settings)

    whole, seen = fit(), []
    assert whole.status.reason == "validated"
    best = int(re.search(r"at step ([0-9,]+)", whole.status.text)[1].replace(",", ""))

    def stop(progress):
        if progress.step == best + 30:
            raise KilledError

    with pytest.raises(KilledError):
        fit(checkpoint=path, callback=stop)
    with pytest.raises(vb.ModelError, match="the checkpoint of another fit: validation disagrees"):
        fit(patience=9, checkpoint=path)
    resumed = fit(checkpoint=path, callback=seen.append)
    assert seen[0].step == best + 30 and resumed.status == whole.status
    assert str(resumed.status) == str(whole.status)
    for one, other in zip(jax.tree.leaves(resumed.phi), jax.tree.leaves(whole.phi), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_step_size_that_was_chosen_is_not_chosen_again(tmp_path, monkeypatch):
    """What is learnt without a unit moves in steps of the size that the file says."""

    @vb.model
    def learnt(y):
        loc = vb.param("loc", 0.0)
        x = vb.sample("x", dist.Normal(loc, 1.0))
        vb.sample("y", dist.Normal(x, 1.0), obs=y)

    def stop(progress):
        raise KilledError

    def fit(**settings):
        return vb.fit(learnt(2.0), "mean_field", method=vb.Stochastic(steps=2000, draws=1), **settings)

    whole = fit()
    with pytest.raises(KilledError):
        fit(checkpoint=tmp_path / "run", callback=stop)
    monkeypatch.setattr(svi, "successive_halving", None)
    same(fit(checkpoint=tmp_path / "run"), whole)
    assert whole.status.gradients == 2000 + 13 * (2000 // 26)


CHILD = """
import sys, warnings
sys.path.insert(0, "tests")
warnings.simplefilter("ignore")
import numpy as np
import vbppl as vb
from vbppl.inference.stochastic import checkpoint
from optima import LOGISTIC
checkpoint.SPARING = 0
method = vb.Stochastic(draws=4, every=20, steps=6000)
path = None if sys.argv[1] == "none" else sys.argv[1]
posterior = vb.fit(LOGISTIC, "mean_field", method=method, batch_size=20, checkpoint=path)
np.savez(sys.argv[2], phi=posterior.phi, history=posterior.history, elbo=posterior.elbo)
"""


def child(path, out):
    """A process that fits, with a checkpoint at `path`, and puts its answer into `out`."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(out)],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[3])},
        stderr=subprocess.PIPE,
    )


def kill_often(tmp_path, kills, seed):
    """Kill a fit at random moments after it has begun to write; then let it end, and one that is never killed."""
    rng, path = random.Random(seed), tmp_path / "run"
    done = 0
    for _ in range(kills):
        process, written = child(path, tmp_path / "killed.npz"), path.stat().st_mtime_ns if path.exists() else 0
        while process.poll() is None and not (path.exists() and path.stat().st_mtime_ns != written):
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.2))
        if process.poll() is None:
            process.kill()
            done += 1
        process.communicate()
        archive.read(path)  # whole, whenever the blow fell
    for out, name in ((path, "killed.npz"), ("none", "whole.npz")):
        process = child(out, tmp_path / name)
        _, said = process.communicate()
        assert process.returncode == 0, said.decode()
    resumed, whole = np.load(tmp_path / "killed.npz"), np.load(tmp_path / "whole.npz")
    for name in whole:
        np.testing.assert_array_equal(resumed[name], whole[name])
    return done


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on_bit_for_bit_in_another(tmp_path):
    assert kill_often(tmp_path, kills=1, seed=0) == 1


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_no_bit(tmp_path):
    assert kill_often(tmp_path, kills=20, seed=1) >= 10
