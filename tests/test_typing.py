"""Type checkers see what users write: strictly without an error, and refuse what is wrong, line by line.

`.ci/run` asks Pyright, for which the files themselves say what is expected where; this is the second opinion.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import vbppl as vb

HERE = Path(__file__).parent / "typing"


def refused(text: str, word: str) -> set[tuple[str, int]]:
    """The file and line of each place where `word` stands behind."""
    return {(Path(name).name, int(line)) for name, line in re.findall(rf"^(.*?):(\d+): {word}", text, re.MULTILINE)}


@pytest.mark.slow  # 50 s, of which mypy reads JAX for most
def test_mypy_refuses_the_lines_that_pyright_refuses_and_no_other():
    pytest.importorskip("mypy")
    files = [str(path) for path in sorted(HERE.glob("*.py"))]
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=silent", *files],
        capture_output=True,
        text=True,
        cwd=HERE.parents[1],
    )
    expected = {
        (path.name, number)
        for path in HERE.glob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if "# pyright: ignore" in line
    }
    assert len(expected) > 15 and refused(run.stdout, "error") == expected, run.stdout + run.stderr


def test_every_name_of_the_root_says_what_it_is():
    said = {name: getattr(vb, name).__doc__ or "" for name in vb.__all__}
    assert not [name for name, text in said.items() if not text.partition("\n")[0].strip()]


def test_a_model_function_shows_the_signature_of_the_function():
    import inspect

    @vb.model
    def two(y, sigma=1.0):
        """Two arguments."""

    assert str(inspect.signature(two)) == "(y, sigma=1.0)" and two.__doc__ == "Two arguments."
