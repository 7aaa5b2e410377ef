"""Run examples and put their pictures, made small, into docs/gallery/: `python docs/pictures.py radon`, or all.

A picture here is at most 900 pixels wide, of 64 colours, and below 60 kB; the example draws it at its full size.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
WIDTH, COLOURS, MOST = 900, 64, 60_000


def names() -> list[str]:
    """Every example that draws a picture."""
    scripts = sorted((ROOT / "examples").glob("[!_]*.py"))
    return [each.stem for each in scripts if "_style.run" in each.read_text()]


def small(picture: Path, out: Path) -> None:
    """The same picture, in few pixels and colours."""
    whole = Image.open(picture).convert("RGB")
    for width in range(WIDTH, 300, -50):
        size = (width, round(whole.height * width / whole.width))
        whole.resize(size, Image.Resampling.LANCZOS).quantize(COLOURS).save(out, optimize=True)
        if out.stat().st_size < MOST:
            return


def main(chosen: list[str]) -> None:
    """Each in a process of its own, from its own folder."""
    folder = ROOT / "docs" / "gallery"
    folder.mkdir(exist_ok=True)
    for name in chosen or names():
        with tempfile.TemporaryDirectory() as made:
            picture = Path(made) / f"{name}.png"
            command = [sys.executable, f"{name}.py", "--out", str(picture)]
            subprocess.run(command, cwd=ROOT / "examples", check=True)
            small(picture, folder / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
