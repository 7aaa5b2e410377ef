"""The pages keep their word: Python blocks run and print what is shown, set-up is one line, the hooks are CI's."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vbppl as vb
import vbppl.distributions as dist
from vbppl.guides.base import Guide
from vbppl.posterior.report import Report
from vbppl.posterior.summary import Summary

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
    """A page, slow where its first line says so."""
    return pytest.param(page, id=page.name, marks=[pytest.mark.slow] * page.read_text().startswith("<!-- slow -->"))


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


# Public names whose examples are still to be written: in the docstring, or in the Python block of their page in
# docs/reference. It shall stay empty.
WITHOUT_EXAMPLE: set[str] = set()


def public_names() -> dict[str, object]:
    modules = {"": vb, "distributions.": dist, "guides.": vb.guides, "inference.": vb.inference}
    every = {f"{at}{name}": getattr(module, name) for at, module in modules.items() for name in module.__all__}
    for at, module in {"plot.": vb.plot, "errors.": vb.errors}.items():  # what they define themselves
        own = {
            name: thing for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__
        }
        every |= {f"{at}{name}": thing for name, thing in own.items() if name[0].islower() == (at == "plot.")}
    return {name: thing for name, thing in every.items() if not inspect.ismodule(thing)}


def test_every_public_name_is_in_the_reference_and_has_an_example():
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", pages, re.MULTILINE | re.DOTALL))
    unlisted, without = set(), set()
    for name, thing in public_names().items():
        at, _, last = name.rpartition(".")
        if at != "distributions" and not re.search(rf"::\s(?:vbppl\.)?(?:{at}\.)?{last}$", pages, re.MULTILINE):
            unlisted.add(name)  # the page of distributions lists all that there are
        if ">>>" not in (thing.__doc__ or "") and not re.search(rf"\b{last}\b", code):
            without.add(name)
    assert not unlisted, "name them in a page of docs/reference"
    assert without == WITHOUT_EXAMPLE, "write an example into the docstring, or into the page of docs/reference"


# Made by other words than their class; and the protocol of guides, which `guides.base` describes once for all of them.
NOT_CALLED = ("Model", "Target", "Model.of", "Model.with_arrays", "Target.replace", "Target.with_lengths")
NOT_CALLED += ("distributions.Distribution",)


def public_calls() -> dict[str, tuple[object, str]]:
    """What a user may call, by its name, each with what is said of it: methods apart from those of guides."""
    calls = {}
    for name, thing in {**public_names(), "Report": Report, "Summary": Summary}.items():
        said = (thing.__doc__ or "") + (vb.plot.__doc__ if name.startswith("plot.") else "")
        if inspect.isclass(thing) and issubclass(thing, Exception):
            continue
        calls[name] = thing, said
        if inspect.isclass(thing) and not issubclass(thing, (Guide, dist.Distribution)):
            methods = {word: method for word, method in inspect.getmembers(thing, inspect.isroutine) if word[0] != "_"}
            calls |= {f"{name}.{word}": (method, inspect.getdoc(method) or "") for word, method in methods.items()}
    return {name: call for name, call in calls.items() if name not in NOT_CALLED}


def test_every_argument_of_a_public_call_is_described_and_every_error_named():
    unsaid, unnamed = [], []
    for name, (call, said) in public_calls().items():
        inner = inspect.unwrap(call)
        known = inspect.signature(inner).parameters if callable(inner) and not inspect.isbuiltin(inner) else {}
        words = [word for word in known if word not in ("self", "cls", "foreign") and word[0] != "_"]
        unsaid += [f"{name}: {word}" for word in words if not re.search(rf"\b{word}\b", said)]
        if inspect.isfunction(inner) or inspect.ismethod(inner):  # what constructors refuse, their pages say
            raised = re.findall(r"raise (\w+)\(", inspect.getsource(inner))
            unnamed += [f"{name}: {error}" for error in raised if error[0].isupper() and error not in said]
    assert not unsaid and not unnamed, "\n".join([*unsaid, *unnamed])


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
