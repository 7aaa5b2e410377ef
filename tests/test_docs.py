"""The pages keep their word: Python blocks run and print what is shown, set-up is one line, the hooks are CI's."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "RELEASING.md")]
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


@pytest.fixture(scope="module")
def refresh():
    """The script that prints the pages anew, as a module."""
    spec = importlib.util.spec_from_file_location("refresh", ROOT / "docs" / "refresh.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_of_a_page_run_in_order_and_print_what_is_shown(page, tmp_path, monkeypatch, refresh):
    monkeypatch.chdir(tmp_path)
    changed = []
    for match, found in refresh.printed(page):
        if match["text"] is not None:
            changed += refresh.changes(match["text"], found)
    assert not changed, "\n".join(["run docs/refresh.py", *changed])


def test_a_figure_may_move_in_its_last_digits_and_a_word_may_not(refresh):
    shown = "mu  4.473  1,024 draws\ntook 0.5 s"
    assert not refresh.changes(shown, "mu  4.481  1,030 draws\ntook 70.5 s")
    for other in ("mu  4.9  1,024 draws\ntook 0.5 s", "mu  4.473  1,024 steps\ntook 0.5 s", "mu  4.473  1,024 draws"):
        assert refresh.changes(shown, other)


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "vbppl" / "py.typed").exists()


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
