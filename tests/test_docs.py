"""The pages keep their word: Python blocks run, each set-up command is one line, the hooks are CI's."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]
PAGES = [page for page in [*PAGES, *sorted(ROOT.glob("docs/**/*.md"))] if page.exists()]

# A block after the comment `<!-- not run -->` is left out.
BLOCK = re.compile(r"^(<!-- not run -->\n+)?```(\w+) *\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """First line number and text of a page's fenced blocks in one language."""
    text = page.read_text()
    return [
        (text.count("\n", 0, match.start(3)), match[3])
        for match in BLOCK.finditer(text)
        if match[2] == language and not match[1]
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for line, code in blocks(page, "python"):
        # Empty lines in front let a traceback point into the page.
        exec(compile("\n" * line + code, str(page), "exec"), namespace)


def test_readme_begins_with_two_commands_of_one_line():
    (_, use), (_, check), *_ = blocks(ROOT / "README.md", "sh")
    assert use.count("\n") == check.count("\n") == 1
    assert "examples/" in use
    assert "pytest" in check


def test_hooks_are_the_commands_of_ci():
    hooks, script = (ROOT / ".pre-commit-config.yaml").read_text(), (ROOT / ".ci/run").read_text()
    linters = re.findall(r"entry: (\.venv/bin/(?:ruff|pyright)[^,\n]*)", hooks)
    assert linters == re.findall(r"^check (\.venv/bin/.*)$", script, re.MULTILINE)


def test_ci_can_be_run():
    assert os.access(ROOT / ".ci/run", os.X_OK)
