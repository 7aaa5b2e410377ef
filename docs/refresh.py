"""Print anew what a page shows: each ```text block holds what the Python block before it prints; then the pictures.

Run it from the root of the repository when the printed answers have changed: `python docs/refresh.py`, with the names
of pages for these alone. The test of the pages asks `changes` whether they have. A picture `pictures/NAME` is what a
block of its page saves as NAME.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# A Python block, and the text block that follows it if there is one; after `<!-- not run -->` a block is left out.
BLOCKS = re.compile(
    r"^(?P<skipped><!-- not run -->\n+)?```python *\n(?P<code>.*?)^```\n(?:\n```text\n(?P<text>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
PICTURE = re.compile(r"!\[[^\]]*\]\(pictures/([\w.]+)\)")
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d*)?(?:e[-+]?\d+)?")
# What these lines count depends on the machine and on the release of JAX, so their words alone are compared.
COUNTS = ("took ", "stopped: ", "restarts: ")
RELATIVE, ABSOLUTE = 0.05, 0.05  # nearer than this two figures say the same


def printed(page: Path) -> Iterator[tuple[re.Match, str]]:
    """Run the Python blocks of a page in order; each with what it prints."""
    text, namespace = page.read_text(), {"__name__": "__main__"}
    for match in BLOCKS.finditer(text):
        if match["skipped"]:
            continue
        found = io.StringIO()
        with contextlib.redirect_stdout(found):
            # Empty lines in front let a traceback point into the page.
            code = "\n" * text.count("\n", 0, match.start("code")) + match["code"]
            exec(compile(code, str(page), "exec"), namespace)
        yield match, found.getvalue().rstrip() + "\n"


def changes(shown: str, found: str) -> list[str]:
    """The lines of a text block that no longer say what is printed; figures may differ in their last digits."""
    before, now = shown.splitlines(), found.splitlines()
    if len(before) != len(now):
        return [f"{len(before)} lines are shown, {len(now)} printed:\n{found}"]
    return [f"shown:   {old}\nprinted: {new}" for old, new in zip(before, now) if not _says_the_same(old, new)]


def _says_the_same(old: str, new: str) -> bool:
    if [_words(line) for line in (old, new)] != [_words(old)] * 2:
        return False
    pairs = zip(*([float(n.replace(",", "")) for n in NUMBER.findall(line)] for line in (old, new)))
    near = (abs(a - b) <= ABSOLUTE + RELATIVE * max(abs(a), abs(b)) for a, b in pairs)
    return old.startswith(COUNTS) or all(near)


def _words(line: str) -> list[str]:
    return NUMBER.sub("#", line).split()


def main() -> None:
    pages = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]
    pages = [Path(name).resolve() for name in sys.argv[1:]] or [*pages, *sorted((ROOT / "docs").glob("**/*.md"))]
    for page in pages:
        text, moved = page.read_text(), 0
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # pages write files
            for match, found in printed(page):
                if match["text"] is not None:
                    start, end = (at + moved for at in match.span("text"))
                    text, moved = text[:start] + found + text[end:], moved + len(found) - len(match["text"])
            for name in PICTURE.findall(text):
                shutil.copy(name, page.parent / "pictures" / name)
        page.write_text(text)
    if ROOT / "README.md" in pages:
        picture = ROOT / "docs" / "eight_schools.png"
        subprocess.run([sys.executable, ROOT / "examples" / "eight_schools.py", "--out", picture], check=True)


if __name__ == "__main__":
    main()
