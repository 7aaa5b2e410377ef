"""Make the pages of examples in docs/gallery/, each with its picture: `python docs/pictures.py radon`, or all.

Each is run at its full setting in a process of its own. Its page has the text that it begins with, what it printed, the
program as it stands in examples/, and its picture: at most 900 pixels wide, of 128 colours, and below 60 kB.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "gallery"
WIDTH, COLOURS, MOST = 900, 128, 60_000


def names() -> list[str]:
    """Every example that draws a picture."""
    scripts = sorted((ROOT / "examples").glob("[!_]*.py"))
    return [each.stem for each in scripts if "_style.run" in each.read_text()]


def small(picture: Path, out: Path) -> None:
    """The same picture, in few pixels and colours."""
    whole = Image.open(picture).convert("RGB")
    for width in range(WIDTH, 300, -50):
        size = (width, round(whole.height * width / whole.width))
        whole.resize(size, Image.Resampling.LANCZOS).quantize(COLOURS, Image.Quantize.MAXCOVERAGE).save(
            out, optimize=True
        )
        if out.stat().st_size < MOST:
            return


def page(name: str, printed: str) -> str:
    """The page of an example."""
    script = (ROOT / "examples" / f"{name}.py").read_text()
    head = re.match(r"# %% \[markdown\]\n((?:#.*\n)+)", script)
    if head is None:
        raise ValueError(f"{name}.py must begin with a text: # %% [markdown]")
    title, _, text = re.sub("^# ?", "", head[1], flags=re.MULTILINE).partition("\n")
    text = re.sub(r"`(\w+)\.py`", r"[`\1.py`](\1.md)", text).strip()
    said = re.sub(r"\n*The picture is in .*|(?<=The report is in ).*(?=/)", "", printed).strip("\n")
    first = script.count("\n", 0, script.index("# %%\n")) + 2
    return f"""{title}

{text}

![{title.strip("# ")}]({name}.png)

It prints:

```text
{said}
```

The program, `examples/{name}.py`:

```{{literalinclude}} ../../examples/{name}.py
:language: python
:lines: {first}-
```
"""


def main(chosen: list[str]) -> None:
    """Each in a process of its own, from its own folder."""
    FOLDER.mkdir(exist_ok=True)
    for name in chosen or names():
        with tempfile.TemporaryDirectory() as made:
            picture = Path(made) / f"{name}.png"
            command = [sys.executable, f"{name}.py", "--out", str(picture)]
            ran = subprocess.run(command, cwd=ROOT / "examples", check=True, stdout=subprocess.PIPE, text=True)
            small(picture, FOLDER / f"{name}.png")
        (FOLDER / f"{name}.md").write_text(page(name, ran.stdout))
        print(f"{name}: {ran.stdout.count(chr(10))} lines printed")


if __name__ == "__main__":
    main(sys.argv[1:])
