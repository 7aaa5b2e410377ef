"""The invariants of the house, as ARCHITECTURE.md promises them: the order of the wings, the waist, the sizes."""

from __future__ import annotations

import ast
import functools
import inspect
import io
import re
import subprocess
import sys
import tokenize
import traceback
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import vbppl as vb
import vbppl.distributions as dist
from vbppl.guides.base import Guide

PACKAGE = Path(vb.__file__).parent

# The wings in a line: a wing imports only from wings to its left. `data` and `distributions` share a step and do not
# know each other.
WINGS = ("core", "data", "distributions", "model", "target", "guides", "inference", "posterior", "fitting")
STEP = {"core": 0, "data": 1, "distributions": 1, **{wing: n for n, wing in enumerate(WINGS[3:], 2)}}

# Above the waist nobody knows how a model is written. The door lets a `Model` in, and a posterior hands one to
# `predictive`, which runs it at draws.
SEES_MODELS = {"fitting", "posterior/posterior.py", "posterior/by_row.py"}
SEES_MODELS |= {f"posterior/export/{name}.py" for name in ("same_model", "storage", "plots", "page", "arviz")}

# Where mathematics and traps are densest, comments say why: at least four for a hundred lines of code.
HARD = (
    "core/numerics",
    "target/batched.py",
    "target/density.py",
    "target/guide_program.py",
    "inference/deterministic",
    "inference/stochastic/step.py",
    "inference/stochastic/svi.py",
    "posterior/judge.py",
)

ROOT = PACKAGE / "__init__.py"  # stands above all wings, as does `python -m vbppl`
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path not in (ROOT, PACKAGE / "__main__.py"))
FOLDERS = sorted({path.parent for path in FILES})


@cache
def parse(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(), str(path))


def place(path: Path) -> str:
    """Where a file stands in the package."""
    return path.relative_to(PACKAGE).as_posix()


def wing(path: Path) -> str:
    """The wing of a file."""
    return path.relative_to(PACKAGE).parts[0]


def locate(module: str) -> Path:
    """The file of `vbppl.a.b`."""
    stem = PACKAGE.joinpath(*module.split(".")[1:])
    return stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py")


def modules(node: ast.AST) -> list[str]:
    """The modules that an import statement names."""
    if isinstance(node, ast.ImportFrom):
        return ["vbppl" if node.level else node.module]  # a relative import would go through the root
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


def imports(path: Path) -> list[Path]:
    """The files of vbppl that a file imports, anywhere in it; `from vbppl.core import keys` is `core/keys.py`."""
    files = []
    for node in ast.walk(parse(path)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        for module in modules(node):
            if module.split(".")[0] == "vbppl":
                inner = [locate(f"{module}.{name}") for name in names]
                files += [file for file in inner if file.exists()] or [locate(module)]
    return files


@functools.cache
def pairs() -> list[tuple[Path, Path]]:
    """Every file with each file that it imports."""
    return [(path, other) for path in FILES for other in imports(path)]


def nodes(*types: type[ast.AST]) -> list[tuple[str, ast.AST]]:
    """The syntax nodes of these types in all files, each with the place where it stands."""
    return [
        (f"{place(path)}:{node.lineno}", node)
        for path in FILES
        for node in ast.walk(parse(path))
        if isinstance(node, types)
    ]


def pages() -> list[Path]:
    """The page of each folder."""
    return [folder / "__init__.py" for folder in FOLDERS]


def test_the_wings_are_these():
    assert {path.relative_to(PACKAGE).parts[0] for path in FILES} == set(WINGS)
    top = {path.name for path in PACKAGE.iterdir()} - {"__pycache__"}
    assert len(top) <= 12, top


def test_a_wing_imports_only_from_wings_to_its_left():
    def allowed(here: str, there: str) -> bool:
        return here == there or STEP[there] < STEP[here]

    wrong = [(path, other) for path, other in pairs() if other == ROOT or not allowed(wing(path), wing(other))]
    assert not [f"{place(path)} imports {place(other)}" for path, other in wrong]


# How a page names a file: in backticks, or as the first word of an indented line.
MENTION = r"(?:`|^ {{4}}){}(?:\.py|/)?(?:`| )"


def test_inside_a_folder_imports_follow_the_order_of_its_page():
    backwards = []
    for page in pages():
        text = ast.get_docstring(parse(page)) or ""
        members = {path.stem for path in page.parent.glob("*.py") if path.name != "__init__.py"}
        members |= {inner.name for inner in page.parent.iterdir() if (inner / "__init__.py").exists()}
        order = {name: found.start() for name in members if (found := re.search(MENTION.format(name), text, re.M))}
        assert members == set(order), f"{place(page)} should name {sorted(members - set(order))}"

        def member(path: Path, folder: Path = page.parent) -> str:
            return path.relative_to(folder).parts[0].removesuffix(".py")

        inside = [
            (path, other) for path, other in pairs() if page.parent in path.parents and page.parent in other.parents
        ]
        backwards += [
            f"{place(path)} imports {place(other)}"
            for path, other in inside
            if "__init__" not in (path.stem, other.stem) and order[member(other)] > order[member(path)]
        ]
    assert not backwards


def test_imports_name_the_defining_file():
    def through_a_page(node: ast.AST) -> bool:
        """`from vbppl.core import keys` names a file, `from vbppl import fit` goes through a page."""
        found = [m for m in modules(node) if m.split(".")[0] == "vbppl" and locate(m).name == "__init__.py"]
        return any(not locate(f"{m}.{alias.name}").is_file() for m in found for alias in node.names)

    through = [where for where, node in nodes(ast.Import, ast.ImportFrom) if through_a_page(node)]
    assert not [where for where in through if "__init__.py" not in where]


def test_no_import_goes_in_a_circle():
    trail, done = [], set()

    def visit(path: Path) -> None:
        assert path not in trail, " -> ".join(map(place, [*trail, path]))
        if path not in done:
            trail.append(path)
            for other in imports(path):
                visit(other)
            done.add(trail.pop())

    for path in FILES:
        visit(path)


def sees_models(path: Path) -> bool:
    return wing(path) in SEES_MODELS or place(path) in SEES_MODELS


def test_the_waist_hides_how_a_model_is_written():
    above = [path for path in FILES if STEP[wing(path)] > STEP["target"] and not sees_models(path)]
    assert not [place(path) for path in above if any(wing(other) == "model" for other in imports(path))]
    reads = [
        f"{place(path)}:{node.lineno}"
        for path in above
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Attribute) and node.attr == "model" and "target" in ast.unparse(node.value)
    ]
    assert not reads


def test_a_folder_holds_what_a_head_can_hold():
    counts = {place(folder): len(list(folder.glob("*.py"))) - 1 for folder in FOLDERS}
    assert not {name: count for name, count in counts.items() if count > 11}


def test_files_fit_in_the_head():
    sizes = {place(path): len(path.read_text().splitlines()) for path in FILES}
    assert not {name: size for name, size in sizes.items() if size > 400}


def body_lines(function: ast.FunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_functions_fit_on_a_screen():
    sizes = sorted(((body_lines(node), node.name, where) for where, node in nodes(ast.FunctionDef)), reverse=True)
    assert sizes[0][0] <= 45, [size for size in sizes if size[0] > 45]
    assert sizes[len(sizes) // 20][0] <= 30, sizes[: len(sizes) // 20 + 1]


def test_classes_fit_on_a_page_or_four():
    sizes = [(node.end_lineno - node.lineno + 1, node.name, where) for where, node in nodes(ast.ClassDef)]
    assert not [size for size in sizes if size[0] > 250]


def test_functions_take_at_most_eight_arguments():
    def count(node: ast.FunctionDef) -> int:
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        return len([name for name in names if name not in ("self", "cls")])

    many = [(node.name, where, count(node)) for where, node in nodes(ast.FunctionDef) if count(node) > 8]
    assert [name for name, _, _ in many] == ["fit"], many


def counted(path: Path) -> tuple[int, int]:
    """Lines of code and lines with a comment; docstrings and blank lines are neither."""
    text, code, comments = path.read_text(), set(), set()
    strings = {
        line
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, node.end_lineno + 1)
    }
    layout = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments.add(token.start[0])
        elif token.type not in layout:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - strings), len(comments)


def test_there_is_no_more_code_than_was_promised():
    # The house was to shrink to 8,800 lines; it grows only by what a user can see, each time by as much as that takes.
    assert sum(counted(path)[0] for path in FILES) <= 26_100


@pytest.mark.parametrize("room", HARD)
def test_where_it_is_hard_comments_say_why(room):
    where = PACKAGE / room
    for path in [where] if where.suffix else sorted(where.glob("[!_]*.py")):
        code, comments = counted(path)
        assert comments >= 0.04 * code, f"{place(path)}: {comments} comments in {code} lines"


def test_no_assert_on_input():
    assert not [where for where, _ in nodes(ast.Assert)], "raise an error that says how to mend it"


def test_dtypes_follow_the_inputs():
    def names_float32(node: ast.AST) -> bool:
        return any(getattr(node, field, None) == "float32" for field in ("attr", "id", "value"))

    assert not [where for where, node in nodes(ast.Attribute, ast.Name, ast.Constant) if names_float32(node)]


def test_modules_begin_with_one_sentence():
    first_lines = {path: (ast.get_docstring(parse(path)) or "").partition("\n\n")[0] for path in FILES}
    assert not [place(path) for path, line in first_lines.items() if not line.endswith((".", ":", "?"))]


def test_public_things_say_what_they_are():
    public = [node for path in FILES for node in parse(path).body if hasattr(node, "name") and node.name[0] != "_"]
    overloads = [node for node in public if "overload" in map(ast.unparse, node.decorator_list)]
    assert not [node.name for node in public if node not in overloads and not ast.get_docstring(node)]


def guide_classes() -> set[str]:
    def below(kind: type) -> set[type]:
        return {kind, *(one for inner in kind.__subclasses__() for one in below(inner))}

    return {kind.__name__ for kind in below(Guide) if kind.__module__.startswith("vbppl.guides")}


def test_nobody_outside_asks_of_which_kind_a_guide_is():
    """`isinstance`, `type(...)`, `match` and flags that say the kind; the table of solvers is one of the three."""
    kinds, asked = guide_classes() - {"Guide"}, []
    for path in FILES:
        if wing(path) in ("guides", "distributions", "model"):
            continue
        for node in ast.walk(parse(path)):
            text = ast.unparse(node) if isinstance(node, (ast.Call, ast.match_case, ast.Compare)) else ""
            named = set(re.findall(r"\w+", text)) & kinds
            is_check = text.startswith(("isinstance(", "issubclass(")) and named
            is_type = re.match(r"\w+\.get\(type\(|type\([^)]*\) (is|in|not|==)", text) and re.search(
                "guide|family", text
            )
            if is_check or is_type or (isinstance(node, ast.match_case) and named):
                asked.append(f"{place(path)}:{node.lineno if hasattr(node, 'lineno') else ''} {text}")
    assert len(asked) <= 3, asked


def test_the_guide_protocol_has_at_most_nine_members():
    members = [name for name in vars(Guide) if not name.startswith("_")]
    assert len(members) <= 9, members


def test_the_root_lists_at_most_45_names_in_the_order_of_the_wings():
    def step(name: str) -> int:
        thing = getattr(vb, name)
        module = thing.__name__ if inspect.ismodule(thing) else thing.__module__
        return STEP[module.split(".")[1]]

    names = [name for name in vb.__all__ if not name.startswith("__")]
    steps = [step(name) for name in names]
    assert len(names) <= 45
    assert steps == sorted(steps), list(zip(steps, names))


@pytest.mark.parametrize("method", [vb.Deterministic(), vb.Stochastic(steps=20)], ids=["deterministic", "stochastic"])
def test_a_gradient_passes_at_most_fifteen_frames_on_its_way_to_the_users_function(method):
    deepest: list[int] = []

    @vb.model
    def watched(y):
        own = [frame.filename for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(PACKAGE)]
        deepest.append(len(own))
        mu = vb.sample("mu", dist.Normal(0.0, 1.0))
        with vb.plate("row", len(y)):
            vb.sample("y", dist.Normal(mu, 1.0), obs=y)

    vb.fit(watched(np.array([0.3, -0.1])), "mean_field", method=method)
    assert max(deepest) <= 15, deepest


IMPORT = """
import sys, jax
compiled, settings = [], dict(jax.config.values)
jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
import vbppl
heavy = {"arviz_base", "blackjax", "matplotlib", "numpyro", "IPython", "scipy.optimize", "sklearn"} & set(sys.modules)
assert not heavy, heavy
assert not compiled, compiled
assert settings == jax.config.values
"""


def test_import_is_light_and_changes_nothing():
    run = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert run.returncode == 0, run.stderr
