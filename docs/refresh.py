"""Print anew what the README shows: each ```text block holds what the Python block before it prints; then the picture.

Run it from the root of the repository when the printed answers have changed: `python docs/refresh.py`.
"""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCKS = re.compile(r"(^```python\n)(.*?)(^```\n)(\n```text\n)?((?(4).*?^```\n))", re.MULTILINE | re.DOTALL)


def main() -> None:
    page, namespace = ROOT / "README.md", {}

    def refreshed(match: re.Match) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(match[2], namespace)
        text = f"\n```text\n{printed.getvalue().rstrip()}\n```\n" if match[4] else ""
        return match[1] + match[2] + match[3] + text

    page.write_text(BLOCKS.sub(refreshed, page.read_text()))
    picture = ROOT / "docs" / "eight_schools.png"
    subprocess.run([sys.executable, ROOT / "examples" / "eight_schools.py", "--out", picture], check=True)


if __name__ == "__main__":
    main()
