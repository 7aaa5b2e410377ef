"""The order of the rooms, the waist and the sizes, as the house promises them (ARCHITECTURE.md)."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "vbppl"

# The wings, in a line: a wing imports only from wings to its left. `data` and `distributions` share a step and do not
# know each other. Inside a wing imports make no circle.
WINGS = ("core", "data", "distributions", "model", "target", "guides", "inference", "posterior", "fitting")
STEP = {wing: number for number, wing in enumerate(WINGS)}

# Above the waist nobody knows how a model is written; the door may name a `Model`.
NAMES_MODELS = {"fitting"}

# The dtype follows the inputs; a file that must name float32 stands here, with the reason.
NAMES_FLOAT32: set[str] = set()

ROOT = PACKAGE / "__init__.py"  # stands above all floors
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != ROOT)


@cache
def parse(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(), str(path))


def room(path: Path) -> str:
    """The room of a file: its own name, or its folder's."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


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
    """The files of vbppl that a file imports, anywhere in it; `from vbppl import keys` is `keys.py`."""
    files = []
    for node in ast.walk(parse(path)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        for module in modules(node):
            if module.split(".")[0] == "vbppl":
                inner = [locate(f"{module}.{name}") for name in names]
                files += [file for file in inner if file.exists()] or [locate(module)]
    return files


def pairs() -> list[tuple[Path, Path]]:
    """Every file with each file that it imports."""
    return [(path, other) for path in FILES for other in imports(path)]


def nodes(*types: type[ast.AST]) -> list[tuple[str, ast.AST]]:
    """The syntax nodes of these types in all files, each with the place where it stands."""
    return [
        (f"{path.relative_to(PACKAGE)}:{node.lineno}", node)
        for path in FILES
        for node in ast.walk(parse(path))
        if isinstance(node, types)
    ]


def test_every_room_has_a_floor():
    homeless = {room(path) for path in FILES} - set(FLOOR)
    assert not homeless, "a new room needs its place in FLOORS and in ARCHITECTURE.md"


def test_imports_name_the_defining_file():
    def through_root(node):
        """`from vbppl import keys` names a file, `from vbppl import fit` goes through the root."""
        roots = [m for m in modules(node) if m.split(".")[0] == "vbppl" and locate(m).name == "__init__.py"]
        return any(not locate(f"{m}.{alias.name}").is_file() for m in roots for alias in node.names)

    through_a_root = [place for place, node in nodes(ast.Import, ast.ImportFrom) if through_root(node)]
    assert not [place for place in through_a_root if "__init__.py" not in place]


def test_rooms_import_downwards():
    def allowed(here, there):
        return FLOOR[there] < FLOOR[here] or here == there or FLOOR[here] == FLOOR[there] == 0

    steps = {(room(path), room(other)) for path, other in pairs() if other != ROOT}
    assert not [f"{here} imports {there}" for here, there in steps if not allowed(here, there)]


def test_no_import_goes_in_a_circle():
    trail, done = [], set()

    def visit(path):
        assert path not in trail, " -> ".join(p.stem for p in [*trail, path])
        if path not in done:
            trail.append(path)
            for other in imports(path):
                visit(other)
            done.add(trail.pop())

    for path in FILES:
        visit(path)


def test_the_waist_hides_how_a_model_is_written():
    above = [path for path in FILES if FLOOR[room(path)] > FLOOR["target"] and room(path) not in SEES_MODELS]
    assert not [path.name for path in above if WRITING & set(map(room, imports(path)))]


def test_files_fit_in_the_head():
    assert not [path.name for path in FILES if len(path.read_text().splitlines()) > 400]


def test_functions_fit_on_a_screen():
    def lines(function):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        return body[-1].end_lineno - body[0].lineno + 1 if body else 0

    sizes = [(lines(node), node.name, place) for place, node in nodes(ast.FunctionDef)]
    longest = sorted(sizes, reverse=True)
    assert longest[0][0] <= 60, longest[:3]
    assert longest[len(sizes) // 20][0] <= 30, longest[: len(sizes) // 20 + 1]


def test_no_assert_on_input():
    assert not [place for place, _ in nodes(ast.Assert)], "raise an error that says how to mend it"


def test_dtypes_follow_the_inputs():
    def names_float32(node):
        return any(getattr(node, field, None) == "float32" for field in ("attr", "id", "value"))

    named = [place for place, node in nodes(ast.Attribute, ast.Name, ast.Constant) if names_float32(node)]
    assert {place.partition(":")[0] for place in named} <= NAMES_FLOAT32, named


def test_modules_begin_with_one_sentence():
    first_lines = {path: (ast.get_docstring(parse(path)) or "").partition("\n")[0] for path in FILES}
    assert not [path.name for path, line in first_lines.items() if not line.endswith((".", ":", "?"))]


def test_public_things_say_what_they_are():
    public = [node for path in FILES for node in parse(path).body if hasattr(node, "name") and node.name[0] != "_"]
    assert not [node.name for node in public if not ast.get_docstring(node)]


def test_root_lists_at_most_forty_names_in_the_order_of_the_floors():
    import vbppl

    def floor(name):
        thing = getattr(vbppl, name)
        module = thing.__name__ if inspect.ismodule(thing) else thing.__module__
        return FLOOR[module.split(".")[1]]

    names = [name for name in vbppl.__all__ if not name.startswith("__")]
    floors = [floor(name) for name in names]
    assert len(names) <= 40
    assert floors == sorted(floors), list(zip(floors, names))


IMPORT = """
import sys, jax
compiled, settings = [], dict(jax.config.values)
jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
import vbppl
heavy = {"arviz_base", "matplotlib", "numpyro", "scipy.optimize", "sklearn", "tqdm"} & set(sys.modules)
assert not heavy, heavy
assert not compiled, compiled
assert settings == jax.config.values
"""


def test_import_is_light_and_changes_nothing():
    run = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert run.returncode == 0, run.stderr
