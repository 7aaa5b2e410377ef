"""The pages keep their word: Python blocks run and print what is shown, set-up is one line, the hooks are CI's."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "RELEASING.md")]
PAGES = [page for page in [*PAGES, *sorted(ROOT.glob("docs/**/*.md"))] if page.exists()]

# A block after the comment `<!-- not run -->` is left out.
BLOCK = re.compile(r"^(<!-- not run -->\n+)?```(\w+) *\n(.*?)^```", re.MULTILINE | re.DOTALL)


# What a browser fetches of itself: scripts, styles, pictures.
ASKED = re.compile(r"""(?:src=|<link[^>]*href=)["'](https?://[^"'/]*)""")


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


def marked(page: Path) -> object:
    """A page, slow where it says so: `<!-- slow -->`."""
    return pytest.param(page, id=page.name, marks=[pytest.mark.slow] * ("<!-- slow -->" in page.read_text()))


@pytest.mark.parametrize("page", [marked(page) for page in PAGES])
def test_python_blocks_of_a_page_run_in_order_and_print_what_is_shown(page, tmp_path, monkeypatch, refresh):
    monkeypatch.chdir(tmp_path)
    changed = []
    for match, found in refresh.printed(page):
        if match["text"] is not None:
            changed += refresh.changes(match["text"], found)
    assert not changed, "\n".join(["run docs/refresh.py", *changed])
    for name in refresh.PICTURE.findall(page.read_text()):
        assert (tmp_path / name).exists(), f"no block of the page saves {name}"


def anchor(heading: str) -> str:
    """What Markdown calls a heading in links."""
    return re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).lower()).strip().replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {anchor(heading) for heading in re.findall(r"^#{1,3} (.*)$", page.read_text(), re.MULTILINE)}


def test_every_internal_link_leads_somewhere():
    lost = []
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        text = re.sub(r"^```.*?^```|`[^`\n]*`(?!\])", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, heading = link.partition("#")
            if re.match(r"\w+:", link):
                continue
            where = (page.parent / path).resolve() if path else page
            if not where.exists() or (heading and where.suffix == ".md" and heading not in anchors(where)):
                lost.append(f"{page.name}: {link}")
    assert not lost


def contents(page: Path) -> list[Path]:
    """The pages that a page's tables of contents name, each as often as it is named; patterns name what there is."""
    found = []
    for table in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        entries = [line for line in table.splitlines() if line and not line.startswith(":")]
        for entry in entries:
            named = sorted(page.parent.glob(f"{entry.rstrip()}.md"))
            assert named, f"{page.name} names {entry}, which is no page"
            found += named
    return found


def test_every_page_stands_in_the_contents_once():
    index = ROOT / "docs" / "index.md"
    listed = [page for entry in contents(index) for page in [entry, *contents(entry)]]
    assert sorted(listed) == sorted({*ROOT.glob("docs/**/*.md")} - {index})


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_can_be_searched(tmp_path):
    pytest.importorskip("sphinx", reason="pip install '.[docs]'")
    command = re.search(r"sphinx-build[^`\n]*", (ROOT / "CONTRIBUTING.md").read_text())[0]
    words = [str(tmp_path) if word.startswith("build/") else word for word in command.split()]
    built = subprocess.run([sys.executable, "-m", "sphinx", *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    index = (tmp_path / "searchindex.js").read_text()
    assert all(word in index for word in ("funnel", "minibatch", "pareto"))
    asked = {host for page in tmp_path.glob("**/*.html") for host in ASKED.findall(page.read_text())}
    assert not asked, "a page that is read asks other machines for nothing"


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
