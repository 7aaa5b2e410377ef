"""A fit as one page of HTML that stands alone: nothing is fetched, no script runs, and it reads on paper too."""

from __future__ import annotations

import contextlib
import functools
import html
import inspect
import io
import os
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vbppl.core.errors import of_kind
from vbppl.core.tables import badge, spaced
from vbppl.core.types import PathLike
from vbppl.inference.solution import NotSearched
from vbppl.model.arguments import name_of, told, told_of
from vbppl.model.model import Model
from vbppl.model.predictive import observed
from vbppl.posterior.export import panels, plots, style
from vbppl.posterior.posterior import Posterior
from vbppl.posterior.report import COLOURS, Report
from vbppl.target.plain import is_plain
from vbppl.target.target import model_of

FORESTS, SHOWN = 30, 3  # scalars in a forest; observed sites of which a picture is drawn
MOST_DATA, DRAWN = 2**18, 2**21  # numbers of a site of which one is drawn, and of all data sets made for it

LOOK = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
figure { margin: 1rem 0; overflow-x: auto; } figcaption { font-size: .9rem; opacity: .75; }
figure svg { max-width: 100%; height: auto; } figure.plot svg { min-width: 21rem; }
.wide { overflow-x: auto; } p, div { overflow-wrap: anywhere; }
table { border-collapse: collapse; white-space: nowrap; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .15rem .7rem; text-align: right; } thead th { border-bottom: 1px solid #8888; }
pre { overflow-x: auto; font-size: .85rem; padding: .7rem; border: 1px solid #8885; border-radius: .4rem; }
@media (max-width: 30rem) {
  table { font-size: .8rem; } th, td { padding: .15rem .3rem; } pre { white-space: pre-wrap; overflow-wrap: anywhere; }
}
@media print {
  :root { color-scheme: light; } body { margin: 0; max-width: none; font-size: 11pt; }
  figure, tr { break-inside: avoid; } figure.plot svg { min-width: 0; max-height: 8cm; width: auto; }
  h2 { break-after: avoid; } pre { white-space: pre-wrap; }
}
"""


def write_report(posterior: Posterior, path: PathLike) -> Path:
    """Write a fit as one page of HTML: verdict, table, pictures, the model, what was done, and how to repeat it.

    The page fetches nothing and runs no script, is light or dark as its reader's other pages are, and can be printed.
    Its pictures need Matplotlib: `pip install "vbppl[plots]"`.

    >>> import tempfile, vbppl as vb, vbppl.distributions as dist
    >>> @vb.model
    ... def one_number(y):
    ...     x = vb.sample("x", dist.Normal(0.0, 1.0))
    ...     vb.sample("y", dist.Normal(x, 1.0), obs=y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = vb.write_report(vb.fit(one_number(0.5)), f"{folder}/fit.html").read_text(encoding="utf-8")
    >>> "verdict: good" in page, "<script" in page
    (True, False)

    Args:
      posterior: what `vb.fit` gave back.
      path: of the file, which is written anew if it is there.

    Returns: the path.

    Raises:
      ImportError: Matplotlib is not there.
      OSError: the file cannot be written.
    """
    panels.checked(posterior)
    of_kind("path", path, isinstance(path, (str, os.PathLike)), "where the page goes, such as 'fit.html'")
    style.matplotlib()
    model = None if is_plain(posterior.target.model) else model_of(posterior.target)
    name = str(posterior.target)
    parts = [*_verdict(posterior), *_answer(posterior), *_data(posterior, model), *_model(model)]
    parts += [*_done(posterior), *_again(posterior, model)]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{_text(name)}</title>'
    head += f'<link rel="icon" href="data:,"><style>{LOOK}</style>'
    body = f"<main><h1>{_text(name)}</h1>{''.join(parts)}</main>"
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'
    Path(path).write_text(page, encoding="utf-8")
    return Path(path)


def _verdict(posterior: Posterior) -> Iterator[str]:
    report = posterior.report.beside(posterior.solution)
    if not isinstance(report, Report):
        yield spaced(str(report).splitlines())
        return
    looked = f"as far as was looked ({report.other_modes})" if isinstance(report.other_modes, NotSearched) else ""
    word = badge(f"verdict: {report.verdict}", COLOURS[report.verdict])
    yield f"<p>{word} {_text(report.other_modes.one_of + looked)}</p>"
    if report.reasons:
        yield f"<p>{_text('; '.join(report.reasons))}.</p>"
    rest = report.lines()[1:]
    yield spaced(line for line in rest if not line.startswith(("stopped: ", "took ")))


def _answer(posterior: Posterior) -> Iterator[str]:
    table = posterior.summary().table
    yield "<h2>The answer</h2>"
    yield f'<div class="wide">{type(table)(table.head, table.rows)._repr_html_()}</div>'
    names, count = [], 0
    for name, rows in zip(posterior.target.layout.completed, posterior.summary().sites):
        count += len(rows)
        if count <= FORESTS:
            names.append(name)
    if names and not isinstance(posterior.report, Report):
        return
    if names:
        some = "" if len(names) == len(posterior.target.layout.completed) else " Not all sites are drawn."
        yield _picture("forest", lambda: plots.forest(posterior, *names), f"Each number with its 50% and 90%.{some}")


def _data(posterior: Posterior, model: Model | None) -> Iterator[str]:
    if model is None or model.sources or not isinstance(posterior.report, Report):
        return
    sizes = {name: np.size(value) for name, value in observed(model).items() if 1 < np.size(value) <= MOST_DATA}
    if sizes:
        yield "<h2>Data that the model makes</h2>"
    for name, size in list(sizes.items())[:SHOWN]:
        n = min(max(DRAWN // size, 20), 200)
        caption = f"{name}: {n} data sets made by the fitted model, beside the one that was seen."
        yield _picture(f"data {name}", functools.partial(plots.predictive, posterior, name, n=n), caption)


def _model(model: Model | None) -> Iterator[str]:
    if model is None:
        return
    graph = model.graph()
    yield "<h2>The model</h2>"
    caption = "Shaded is observed; rectangles are computed, dots learnt, squares factors."
    yield f"<figure>{graph.svg}<figcaption>{caption}</figcaption></figure>"
    yield f'<div class="wide">{model.shapes()._repr_html_()}</div>'


def _done(posterior: Posterior) -> Iterator[str]:
    status, report = posterior.status, posterior.report
    yield "<h2>What was done</h2>"
    told = [f"{type(posterior.guide).__name__} guide, {posterior.target.dim} dims", f"stopped: {status}"]
    yield spaced([*told, *map(str, posterior.solution.notes)])
    if len(posterior.history):
        yield _picture("history", lambda: plots.history(posterior), "The bound on the log evidence at each step.")
    if isinstance(report, Report) and len(report.draws) and not report.chains:
        yield _picture("weights", lambda: plots.weights(posterior), "What each draw weighs.")
    yield "<h2>What it cost</h2>"
    cost = f"{status.seconds:.2g} s, {status.compiling:.2g} s of them compiling, and {report.seconds:.2g} s to judge it"
    yield f"<p>{cost}; {status.gradients:,} gradients in {status.steps:,} steps.</p>"


def _again(posterior: Posterior, model: Model | None) -> Iterator[str]:
    yield "<h2>How to repeat it</h2>"
    of, text = posterior.target.model, ""
    with contextlib.suppress(OSError, TypeError):  # written where no file is
        text = textwrap.dedent(inspect.getsource(of.function if model else of.arguments[0][0]))
    yield f"<pre>{_text(text)}</pre>" if text else ""
    notes = [line for line in posterior.calls if line.startswith("#")]
    lines = [*notes, *applied(of), *(line for line in posterior.calls if line not in notes)]
    yield f"<pre>{_text(chr(10).join(lines))}</pre>"
    yield "<p>The first lines say on what it was made and, by kind, shape and digest, of what data. The same give the "
    yield "same numbers; another kind of machine, or other versions, the same to rounding.</p>"


def applied(model: Model) -> Iterator[str]:
    """A model applied to its arguments, as Python: short settings as they are, data by their names and digests."""
    (args, kwargs), function = model.arguments, model.function
    names, data = [*inspect.signature(function).parameters], told(model.arguments, function)
    named = [*zip([*names, *(f"more_{i}" for i in range(len(args)))], args), *kwargs.items()]
    plain = {name: repr(x) for name, x in named if x is None or isinstance(x, (str, bool, int, float))}
    short = {str(name): text for name, text in plain.items() if len(text) <= 40}
    yield from (f"# {name}: {text:.100}" for name, text in data.items() if name not in short)
    words = [short.get(str(name), str(name)) for name, _ in named[: len(args)]]
    words += [f"{name}={short.get(name, name)}" for name in kwargs]
    if is_plain(model):
        yield f"model = vb.density({', '.join(words)})"
        return
    made = f"{name_of(function)}({', '.join(words)})"
    for word, values in (("condition", model.conditions), ("do", model.interventions)):
        yield from (f"# {name}, of {word}: {told_of(np.asarray(x))}" for name, x in values.items() if np.ndim(x))
        numbers = {name: re.sub(r"\W", "_", name) if np.ndim(x) else np.asarray(x).item() for name, x in values.items()}
        given = ", ".join(f"{name!r}: {number}" for name, number in numbers.items())
        made += f".{word}({{{given}}})" if values else ""
    apart = "".join(f", {name!r}" for name in model.decentered)
    yield f"model = vb.decenter({made}{apart})" if apart else f"model = {made}"


def _picture(key: str, draw: Callable[[], Any], caption: str) -> str:
    """A picture of Matplotlib's as a part of the page; its words stay words, and its names are those of no other."""
    library, out = style.matplotlib(), io.StringIO()
    with style.settings({"svg.fonttype": "none", "svg.hashsalt": key}):
        drawn = draw()
        figure = drawn if hasattr(drawn, "savefig") else drawn.figure
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        library.pyplot.close(figure)
    picture = re.sub('<g id="[^"]*"', "<g", out.getvalue())  # names that nothing asks for, and every picture has
    return f"<figure class='plot'>{picture[picture.index('<svg') :]}<figcaption>{_text(caption)}</figcaption></figure>"


def _text(text: str) -> str:
    return html.escape(text)
