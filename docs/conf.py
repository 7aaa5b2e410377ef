"""How Sphinx makes the site of the pages in this folder: `sphinx-build -W --keep-going docs build/site`.

Nothing is executed and nothing is fetched: what a block prints stands in its page, put there by `refresh.py` and held
to it by `tests/test_docs.py`. Formulas become MathML, which browsers set by themselves, so that a page that is read
asks no other machine for anything either.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path

from docutils.nodes import SkipNode
from docutils.utils.math import MathError, latex2mathml
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "vbppl"
author = "The vbppl authors"
version = release = re.search(r'__version__ = "(.*)"', (ROOT / "vbppl/__init__.py").read_text())[1]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"vbppl {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = html_show_sphinx = False
pygments_style, pygments_dark_style = "friendly", "monokai"
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

default_role = "literal"  # docstrings mark code as pages do, by one backtick
autodoc_typehints = "none"  # the signature has them
autodoc_member_order = "bysource"
napoleon_use_ivar = True
python_maximum_signature_line_length = 88
# A page that the table of contents names by a pattern may not have been written yet.
suppress_warnings = ["toc.empty_glob"]

LOG = logging.getLogger(__name__)
TOO_MUCH = re.compile(r"(?<![`\\])([*|])")  # of a docstring outside code: neither emphasis nor a substitution


def math(writer, node) -> None:
    """A formula as MathML, in the line or set apart."""
    is_block = node.tagname == "math_block"
    try:
        formula = latex2mathml.tex2mathml(node.astext(), as_block=is_block)
    except MathError as error:
        LOG.warning("%s in %s", error, node.astext(), location=node)
        raise SkipNode from None
    writer.body.append(f'<div class="formula">{formula}</div>' if is_block else str(formula))
    raise SkipNode


def with_paths(app, name, source) -> None:
    """Let links to pages outside this folder lead to the files themselves."""
    source[0] = re.sub(
        r"\]\((\.\./[A-Z\w./]+\.md)\)", lambda found: outside(found, app.srcdir / f"{name}.md"), source[0]
    )


def outside(found: re.Match, page: Path) -> str:
    """The link, where it stays in the folder, else a path."""
    stays = (page.parent / found[1]).resolve().is_relative_to(ROOT / "docs")
    return found[0] if stays else f"](path:{found[1]})"


def as_restructured_text(app, what, name, thing, options, lines) -> None:
    """Let a docstring mean what it says: outside code `|x|` and `*` are themselves; a module's is not for users."""
    if what == "module":
        lines.clear()
    for at, line in enumerate(lines):
        is_code = line.lstrip().startswith((">>>", "..."))
        if not is_code:
            parts = re.split(r"(`[^`]*`)", line)
            lines[at] = "".join(part if part.startswith("`") else TOO_MUCH.sub(r"\\\1", part) for part in parts)


class Names(SphinxDirective):
    """A table of the public names of a module, each with the first sentence on it or on its class."""

    required_arguments = 1

    def run(self) -> list:
        """The table, as nodes."""
        module = importlib.import_module(self.arguments[0])
        lines = ["| name | what |", "|---|---|", *(self.line(name, getattr(module, name)) for name in module.__all__)]
        return self.parse_text_to_nodes("\n".join(lines))

    @staticmethod
    def line(name: str, thing: object) -> str:
        """Of one name; of a class with what it is made from."""
        made = isinstance(thing, type)
        kind = thing if made else type(thing)
        fields = ", ".join(inspect.signature(kind).parameters) if made else ""
        is_wrapped = not made and kind.__name__ == "Independent"
        what = f"`{thing.base.describe()}`, over an event of {thing.dims} dims" if is_wrapped else inspect.getdoc(kind)
        what = " ".join(what.partition("\n\n")[0].split()).replace("|", "\\|")
        return f"| `{name}{f'({fields})' if fields else ''}` | {what} |"


def setup(app) -> dict:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", inline_renderers=(math, None), block_renderers=(math, None))
    app.add_directive("names", Names)
    app.connect("source-read", with_paths)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=100)  # before Napoleon
    return {"parallel_read_safe": True}
