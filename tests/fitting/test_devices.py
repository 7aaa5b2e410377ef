"""The same fit on one device, on eight, and by four processes: the answer is that of one device.

Devices are counted when JAX starts, so these fits run in processes of their own (`spread.py`); `timeout` ends one that
hangs, since `jax.distributed` takes SIGTERM for itself.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import vbppl as vb
from vbppl.data.padded import PaddedRows
from vbppl.data.source import mesh_of

SLOW = pytest.mark.slow
SCRIPT, ROOT = Path(__file__).with_name("spread.py"), Path(__file__).parents[2]
PATIENCE = 600  # seconds


def started(*options, script=SCRIPT):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(script), *map(str, options)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process):
    """What a process has printed, once it has ended."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return process.returncode, out, err


def together(*options, processes=4, script=SCRIPT):
    """Several processes that work together, by what they have printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = [*options, "--processes", processes, "--port", port]
    return [started(*shared, "--number", number, script=script) for number in range(processes)]


def found(process):
    """The cases that a process has run, by their names."""
    code, out, err = ended(process)
    assert code == 0, err[-3000:]
    return {case.pop("case"): case for case in map(json.loads, filter(lambda line: line[:1] == "{", out.splitlines()))}


def assert_alike(one, other, atol):
    assert one.keys() == other.keys()
    for case, numbers in one.items():
        for name, value in numbers.items():
            np.testing.assert_allclose(other[case][name], value, atol=atol, rtol=0, err_msg=f"{case}: {name}")


def test_eight_devices_give_the_answer_of_one():
    """On fixed draws and in minibatches, of rows that devices do not divide; both in one process."""
    both = found(started("few", "--devices", 8, "--beside", "--double"))
    one = {name: numbers for name, numbers in both.items() if "shared" not in name}
    many = {name.removeprefix("shared "): numbers for name, numbers in both.items() if "shared" in name}
    assert_alike(one, many, 1e-6)


CASES = ("fixed", "minibatch", "vae", "predicted", "many")


@SLOW
@pytest.mark.parametrize(("precision", "atol"), [("--double", 1e-6), ("--single", 2e-4)], ids=["float64", "float32"])
def test_four_processes_and_eight_devices_give_the_answer_of_one(precision, atol):
    # In 32 bits a thousandth of an sd, the least of which is 0.2; and the bound, of 150 nats, to its last places.
    one = found(started(*CASES, precision))
    assert_alike(one, found(started(*CASES, precision, "--devices", 8)), atol)
    everybody = [found(process) for process in together(*CASES, precision)]
    assert all(each == everybody[0] for each in everybody)  # to the bit
    assert_alike(one, everybody[0], atol)


@SLOW
def test_rows_of_sources_are_read_by_their_processes(tmp_path):
    one = found(started("source", "--double", "--folder", tmp_path))
    everybody = [found(process) for process in together("source", "--double", "--folder", tmp_path, processes=2)]
    assert_alike(one, everybody[0], 1e-6)
    assert everybody[0] == everybody[1]


@SLOW
def test_a_process_that_dies_ends_the_others_and_a_checkpoint_goes_on(tmp_path):
    whole = [found(process) for process in together("kept", "--double", "--folder", tmp_path / "none", processes=2)]
    (tmp_path / "some").mkdir()
    options = ("kept", "--double", "--folder", tmp_path / "some")
    first, second = together(*options, "--die", 1, processes=2)
    code, _, err = ended(first)
    assert ended(second)[0] == -signal.SIGKILL
    assert code != 0
    assert "process 0 of 2 waits for another one in vain: it has ended." in err
    assert "start all of them again: with checkpoint=... a fit by stochastic steps goes on from where it was." in err
    assert (tmp_path / "some" / "fit.ckpt").exists()
    again = [found(process) for process in together(*options, processes=2)]
    assert again == whole


@SLOW
def test_the_example_of_many_processes_runs():
    code, out, err = ended(started("--processes", 4, script=ROOT / "examples" / "many_processes.py"))
    assert code == 0, err
    told = [line.partition("slopes")[2] for line in out.splitlines() if line.startswith("process")]
    assert len(told) == 4
    assert len(set(told)) == 1
    slopes = np.array(told[0].partition("[")[2].partition("]")[0].split(), float)
    np.testing.assert_allclose(slopes, [1.0, -1.0, 0.5], atol=4 * 0.5 / np.sqrt(10_001))


@SLOW
def test_a_process_needs_less_than_a_third_of_the_memory_of_one(tmp_path):
    """Ten million rows of twenty numbers, of which each process maps its own."""
    rows = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", np.float32, (10_000_000, 21))
    rng = np.random.default_rng(0)
    for at in range(0, len(rows), 100_000):
        rows[at : at + 100_000] = rng.normal(size=(100_000, 21))
    rows.flush()
    alone = found(started("memory", "--folder", tmp_path))["memory"]
    everybody = [found(process)["memory"] for process in together("memory", "--folder", tmp_path)]
    assert max(each["peak"] for each in everybody) < alone["peak"] / 3, (alone["peak"], [e["peak"] for e in everybody])
    for each in everybody:
        atol = 1e-3 * np.exp(alone["log sd slope"][0])
        np.testing.assert_allclose(each["mean slope"], alone["mean slope"], atol=atol)


def test_on_one_device_a_shard_is_the_array():
    x, (y, scale) = vb.shard(np.arange(6.0).reshape(3, 2), (np.arange(3), 2.0))
    np.testing.assert_array_equal(x, np.arange(6.0).reshape(3, 2))
    assert (y.shape, scale.shape) == ((3,), ())
    assert isinstance(vb.shard(np.zeros(4)), jax.Array)


def test_rows_that_are_filled_up_look_like_the_array():
    rows = PaddedRows(jax.numpy.arange(8.0).reshape(4, 2), 3)
    whole = np.arange(6.0).reshape(3, 2)
    assert (rows.shape, rows.ndim, len(rows), len(list(rows))) == ((3, 2), 2, 3, 3)
    np.testing.assert_array_equal(np.asarray(rows), whole)
    np.testing.assert_array_equal(jax.numpy.asarray(rows) + 1, whole + 1)
    np.testing.assert_array_equal(rows[1:], whole[1:])


NO_ROWS = "there are no rows to split over the devices.\n  To mend it: Give arrays with rows: x, y = vb.shard(x, y)."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((3.0,), NO_ROWS),
        ((np.zeros((0, 2)),), NO_ROWS),
        ((np.array(["a"]),), "an array of <U1 cannot be put on a device: its values are no numbers."),
        (
            (np.array([2**40]),),
            "an array of int64 cannot be put on a device: its values are no numbers that int32 holds.",
        ),
    ],
)
def test_what_cannot_be_split_is_refused(data, message):
    with pytest.raises(vb.ModelError) as error:
        vb.shard(*data)
    assert str(error.value) == message


def test_batches_of_an_iterator_cannot_be_split():
    with pytest.raises(vb.ModelError) as error:
        vb.shard(vb.Source([np.zeros(3)]))
    assert str(error.value) == (
        "the batches of an iterator cannot be split over devices.\n"
        "  To mend it: Give something with a length and rows by index, such as a memory map."
    )


def test_an_iterator_beside_a_source_that_is_split_is_refused():
    with pytest.raises(vb.ModelError, match="an iterator of batches stands beside a source that is split"):
        mesh_of([vb.Source([np.zeros(3)]), vb.shard(vb.Source(np.zeros(3)))])
