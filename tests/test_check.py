"""`python -m vbppl check` says what a report needs; and the wheel works where nothing else is installed."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

import vbppl as vb
from vbppl import __main__ as check

ROOT = Path(__file__).parents[1]


def test_it_names_versions_devices_precision_caches_and_extras_and_fits(capsys):
    assert check.main(["check"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"vbppl {vb.__version__}, Python {sys.version.split()[0]} on ")
    assert f"jax {jax.__version__}, " in out and f"numpy {np.__version__}, " in out
    assert re.search(r"^devices: 1 of kind cpu \(cpu\), \d+ processors$", out, re.M)
    assert "\nprecision: float32 (JAX's 64 bits are off" in out
    assert "\ncompiled programs: compiled anew in each process" in out
    assert "\nextra plots: matplotlib " in out
    assert re.search(r"^a fit: mean 8\.000, sd 0\.447, good, in [\d.]+ s\nAll is well\.$", out, re.M)
    assert len(out.splitlines()) < 20 and max(map(len, out.splitlines()[:2])) < 120


def test_it_says_so_where_the_answer_is_wrong_or_a_package_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(check, "one_number", lambda y: vb.density(lambda z: -((z[0] - y) ** 2), 1))
    monkeypatch.setattr(check, "_version", lambda package: None)
    assert check.main(["check"]) == 1
    out = capsys.readouterr().out
    assert 'extra plots: missing matplotlib: pip install "vbppl[plots]"' in out
    assert "Traceback" in out and out.endswith("Not well. Please put all of the above into the report.\n")


def test_it_looks_into_the_folder_of_compiled_programs(tmp_path, monkeypatch):
    (tmp_path / "program").write_bytes(bytes(2_000_000))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        assert check.cache() == f"1 files, 2 MB in {tmp_path}"
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_templates_ask_for_it_and_the_version_is_one():
    for page in (".github/ISSUE_TEMPLATE/wrong.md", "CONTRIBUTING.md", "RELEASING.md"):
        assert "python -m vbppl check" in (ROOT / page).read_text(), page
    assert f"\nversion: {vb.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.slow  # a minute and more, and the network: JAX is installed once again
def test_the_wheel_works_where_nothing_else_is_installed(tmp_path):
    def run(*command: str | Path) -> str:
        found = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path)
        assert found.returncode == 0, found.stdout + found.stderr
        return found.stdout

    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("vbppl-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"vbppl/py.typed", "vbppl/__main__.py", "vbppl/core/archive.py"} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"vbppl"}, "only the package"
    run(sys.executable, "-m", "venv", "bare")
    bare = tmp_path / "bare" / "bin" / "python"
    run(bare, "-m", "pip", "install", "-q", wheel)
    assert run(bare, "-m", "vbppl", "check").endswith("All is well.\n")
