"""Files that hold arrays: whole, or as they were."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vbppl.core import archive
from vbppl.core.errors import ModelError


def test_what_is_written_is_read(tmp_path):
    arrays = {"a": np.arange(3), "b": np.float32(2.5)[None]}
    archive.write(tmp_path / "x", {"number": 1}, arrays)
    meta, found = archive.read(tmp_path / "x")
    assert meta == {"number": 1} and found.keys() == arrays.keys()
    assert all(np.array_equal(found[name], arrays[name]) and found[name].dtype == arrays[name].dtype for name in arrays)


def test_two_writers_of_one_path_leave_one_whole_file(tmp_path):
    path = tmp_path / "x"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: archive.write(path, {"number": i}, {"a": np.full(10_000, i)}), range(20)))
    meta, found = archive.read(path)
    assert np.all(found["a"] == meta["number"])
    assert os.listdir(tmp_path) == ["x"]


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "x"
    archive.write(path, {"number": 1}, {})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        archive.write(path, {"number": 2}, {})
    assert archive.read(path)[0] == {"number": 1} and os.listdir(tmp_path) == ["x"]


@pytest.mark.skipif(os.name != "posix", reason="links and modes are those of POSIX")
def test_a_link_goes_on_pointing_and_a_file_may_be_read_as_any_other(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "x")
    archive.write(tmp_path / "link", {"number": 1}, {})
    (tmp_path / "usual").write_text("")
    assert (tmp_path / "link").is_symlink() and archive.read(tmp_path / "x")[0] == {"number": 1}
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("x", "usual")}
    assert len(modes) == 1


def test_a_path_that_cannot_be_written_is_told_at_once(tmp_path):
    with pytest.raises(archive.ModelError, match="x cannot be written: .*No such file") as error:
        with archive.locked(tmp_path / "none" / "x"):
            pass
    assert "To mend it: Give another path." in str(error.value)


def bomb() -> bytes:
    """A small file that unfolds to 64 MiB, by the format of ZIP."""
    file = io.BytesIO()
    np.savez_compressed(file, meta=np.zeros(1 << 26, np.uint8))
    return file.getvalue()


def overlapping() -> bytes:
    """Two names for the bytes of one array: a central directory may point to one place as often as it likes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        writer.writestr("meta.npy", bytes(1000))
        again = writer.getinfo("meta.npy")
        writer.filelist += [again] * 50
    return file.getvalue()


def huge() -> bytes:
    """An array whose head says 32 TiB."""
    file, head = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (1 << 45,)})
    with zipfile.ZipFile(file, "w") as writer:
        writer.writestr("meta.npy", head.getvalue())
    return file.getvalue()


def deep() -> bytes:
    """A text of lists in lists."""
    file = io.BytesIO()
    np.savez(file, meta=np.frombuffer(b"[" * 200_000 + b"]" * 200_000, np.uint8))
    return file.getvalue()


HOSTILE = {
    bomb: "its arrays are compressed or encrypted, as this package writes none",
    overlapping: "its arrays overlap",
    huge: "Unable to allocate 32.0 TiB",
    deep: "maximum recursion depth exceeded",
}


@pytest.mark.parametrize("made", HOSTILE)
def test_a_file_that_would_exhaust_the_machine_is_refused(tmp_path, made):
    path, content = tmp_path / "x", made()
    path.write_bytes(content)
    assert len(content) < 1 << 20
    for given in (None, content):
        with pytest.raises(ModelError, match="x cannot be read as a checkpoint of a fit: ") as error:
            archive.read(path, given)
        assert HOSTILE[made] in str(error.value)
