"""The benchmarks' harness with a peer that is made up; the pages, whose tables are those of the committed results."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks import accuracy, harness, machine, report, suites
from benchmarks.__main__ import main, parsed
from benchmarks.harness import Measurement
from benchmarks.peers import PEERS, installed

FAKE = '''
"""A suite whose measurements do next to nothing."""
import os
from benchmarks.harness import Measurement, markdown, spread

def measurements(full):
    kinds = [(what, peer) for what in ("fine", "raises", "dies") for peer in ("vbppl", "absent")]
    return [Measurement("fake_suite", peer, "any", {"what": what}, 20.0) for what, peer in kinds]

def measure(seed, what):
    if what == "raises":
        raise ValueError("no such thing")
    if what == "dies":
        os._exit(3)
    print("this is not the answer")
    return {"found": 10 + seed}

def table(rows):
    return markdown(("what", "found"), [(row["what"], row.get("failed") or row["found"]) for row in rows])
'''


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A suite on the path of fresh processes, of a peer that nobody has."""
    package = harness.ROOT / "benchmarks"
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").write_text(f"__path__.append({str(package)!r})\n")
    (tmp_path / "benchmarks" / "fake_suite.py").write_text(FAKE)
    monkeypatch.setattr(harness, "ROOT", tmp_path)
    monkeypatch.setitem(PEERS, "absent", ("no-such-package-anywhere",))
    namespace: dict = {}
    exec(FAKE, namespace)
    monkeypatch.setitem(
        suites.SUITES,
        "fake_suite",
        type("Suite", (), {k: staticmethod(v) for k, v in namespace.items() if callable(v)}),
    )
    return tmp_path


def test_every_measurement_is_a_process_and_what_ends_badly_is_a_result(fake, capsys):
    out = fake / "results"
    main(["fake_suite", "--repetitions", "2", "--out", str(out), "--json", str(fake / "all.json")])
    rows = json.loads((out / "fake_suite.json").read_text())["rows"]
    assert [(row["what"], row["seed"]) for row in rows] == [(w, s) for s in (0, 1) for w in ("fine", "raises", "dies")]
    assert [row.get("found") for row in rows] == [10, None, None, 11, None, None]
    assert rows[1]["failed"] == "ValueError: no such thing"
    assert rows[2]["failed"].startswith("exit 3")
    said = capsys.readouterr()
    assert "absent is not installed here" in said.err
    assert "| fine | 11 |" in said.out and said.out.strip() in (out / "fake_suite.md").read_text().strip()
    assert json.loads((fake / "all.json").read_text())[0]["rows"] == rows
    main(["fake_suite", "--repetitions", "3", "--more", "--only", "fine", "--out", str(out)])
    assert len(json.loads((out / "fake_suite.json").read_text())["rows"]) == 7  # those that were there are kept


def test_a_peer_may_have_an_interpreter_of_its_own(fake, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho '{\"found\": 77}'\n")
    python.chmod(0o755)
    asked = [Measurement("fake_suite", peer, "any", {"what": "fine"}) for peer in ("absent", "vbppl")]
    assert [row["found"] for row in harness.run(asked, 1, {"absent": str(python)})] == [77, 10]


def test_what_is_not_known_is_refused():
    for wrong in (["no_suite"], ["--peers", "nobody"], ["--python", "nobody=python"], ["--quick", "--full"]):
        with pytest.raises(SystemExit):
            parsed(wrong)


def test_peers_are_asked_for_their_versions():
    assert installed("numpyro", sys.executable)["numpyro"]


@pytest.mark.parametrize("full", [False, True])
def test_every_suite_names_measurements_whose_settings_are_json(full):
    for name, suite in suites.SUITES.items():
        asked = suite.measurements(full)
        assert asked, name
        assert len({one.label for one in asked}) == len(asked)
        assert all(json.loads(json.dumps(dict(one.settings))) == dict(one.settings) for one in asked)


@pytest.mark.parametrize("page", ["README.md", "docs/benchmarks.md"])
def test_a_page_shows_what_the_committed_results_say(page):
    text = (report.ROOT / page).read_text()
    assert report.MARKED.search(text)
    assert report.filled(text) == text, "run python -m benchmarks.report"


def test_medians_races_and_targets_of_rows_that_are_made_up():
    def row(posterior, peer, how, cpu, mean, **more):
        found = {"posterior": posterior, "peer": peer, "how": how, "cpu": cpu, "mean": mean, "log_sd": 0.0}
        return found | {"right": mean < 0.1, "says": "", "seed": 0, "suite": "accuracy", **more}

    rows = [
        row("pumps", "vbppl", "mean field", 2.0, 0.02),
        row("pumps", "vbppl", "auto", 1.0, 0.2),
        row("pumps", "numpyro", "SVI, mean field", 9.0, 0.1, reached=8.0),
        row("lynx", "vbppl", "mean field", 4.0, 0.02),
        row("lynx", "numpyro", "SVI, mean field", 3.0, 0.1),
        row("lynx", "numpyro", "SVI, mean field", 5.0, 0.1, beyond=64.0),
        row("lynx", "pymc", "ADVI", 5.0, 0.0) | {"failed": "not done"},
    ]
    raced = accuracy.pairs(rows, "mean field", "numpyro", "SVI, mean field")
    assert raced == [("pumps", 2.0, 8.0, True), ("lynx", 4.0, 64.0, False)]
    said = accuracy.targets(rows)
    assert (
        "8.0 times as fast in the geometric mean of 2, 1 of them lower bounds (wanted 5); slower on none: met" in said
    )
    assert "pumps (mean 0.20, numpyro SVI, mean field 0.10)" in said  # a peer that is better is named
    assert accuracy.table(rows).count("not done") == 1


def test_results_that_a_run_writes_do_not_make_the_commit_dirty(tmp_path):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@y.z", *words], cwd=tmp_path, check=True)

    for folder in ("vbppl", "benchmarks/results"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file.py").write_text("1\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    (tmp_path / "benchmarks/results/file.py").write_text("2\n")
    clean = machine.commit(tmp_path)
    (tmp_path / "vbppl/file.py").write_text("2\n")
    assert machine.commit(tmp_path) == clean + "-dirty" and not clean.endswith("-dirty")
