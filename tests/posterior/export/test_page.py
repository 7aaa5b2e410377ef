"""A fit as one page: whole, well formed, without a network or a script, and with every name as it is."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

import vbppl as vb
import vbppl.distributions as dist
from vbppl.core import archive
from vbppl.posterior.export.page import applied

ODD = "<b>\"&'$"


@vb.model
def odd(y):
    x = vb.sample(ODD, dist.Normal(0.0, 1.0))
    with vb.plate("r<w", len(y)):
        vb.sample("y<s>", dist.Normal(x, 1.0), obs=y)


class Checked(HTMLParser):
    """Opening and closing tags, ids and addresses of a page."""

    def __init__(self, page):
        super().__init__()
        self.open, self.ids, self.links = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "fit.html"
    before = dict(matplotlib.rcParams)
    assert vb.write_report(vb.fit(odd(np.array([0.3, 0.8])), "full_rank", seed=3), path) == path
    assert dict(matplotlib.rcParams) == before and not plt.get_fignums()
    return path.read_text(encoding="utf-8")


def test_it_is_whole_and_fetches_nothing(page):
    found = Checked(page)
    assert not found.open and len(set(found.ids)) == len(found.ids)
    assert all(link.startswith(("#", "data:")) for link in found.links)
    assert all(link[1:] in found.ids for link in found.links if link.startswith("#"))
    assert not re.search(r"<script|@import|url\((?!#)|<iframe", page)
    assert len(page) < 200_000


def test_the_verdict_comes_first_and_everything_is_told(page):
    order = ["verdict: good", "The answer", "Data that the model makes", "The model", "What was done", "What it cost"]
    order += ["How to repeat it", "def odd(y):", "# vbppl ", "# y: float[2] ", "model = odd(y)"]
    order += ["posterior = vb.fit(model, guide=&quot;full_rank&quot;, seed=3)"]
    places = [page.index(words) for words in order]
    assert places == sorted(places)
    assert page.count("<svg") == 5  # forest, data, graph, history, weights


@vb.model
def applied_to(names, x, scale=1.0, *, kind="a", y=None):
    with vb.plate("row", names):
        mu = vb.sample("mu", dist.Normal(0.0, scale))
        vb.sample("y", dist.Normal(mu + x, 1.0), obs=y)


def test_a_model_is_shown_as_it_was_applied():
    x = np.array([0.5, 0.25], np.float32)
    assert "\n".join(applied(applied_to(["a", "b"], x, 2.5, kind="c").condition(y=x).do(mu=x))) == (
        "# names: ['a', 'b']\n"
        f"# x: float[2] {archive.digest(x)}\n# y, of condition: float[2] {archive.digest(x)}\n"
        f"# mu, of do: float[2] {archive.digest(x)}\n"
        "model = applied_to(names, x, 2.5, kind='c').condition({'y': y}).do({'mu': mu})"
    )
    assert [*applied(vb.decenter(odd(x), ODD))][-1] == f"model = vb.decenter(odd(y), {ODD!r})"
    assert [*applied(vb.density(lambda z: -(z @ z), 2).model)][-1] == "model = vb.density(log_density, 2)"


def test_names_are_shown_as_they_are(page):
    assert html.escape(ODD) in page and '<b>"' not in page and "r&lt;w" in page and "<s>" not in page


@pytest.mark.slow
def test_what_is_no_distribution_or_no_model_has_a_page_too(tmp_path):
    point = vb.write_report(vb.fit(odd(np.array([0.3])), vb.MAP()), tmp_path / "point.html").read_text(encoding="utf-8")
    assert "a MAP estimate is a point" in point and "log joint at the mode" in point
    plain = vb.fit(vb.density(lambda z: -(z @ z), 1), "mean_field")
    page = vb.write_report(plain, str(tmp_path / "plain.html")).read_text(encoding="utf-8")
    assert "verdict: good" in page and "The model" not in page


def test_a_path_must_be_one():
    with pytest.raises(TypeError, match="posterior must be what vb.fit gave back"):
        vb.write_report(odd(np.array([0.3])), "fit.html")


def in_chromium(path, *options):
    """What headless Chromium makes of a page: its document, and what it was told on the console."""
    command = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if command is None:
        pytest.skip("no Chromium is installed here (apt-get install chromium)")
    # Console messages go to the log, whose other lines are of the browser itself.
    flags = "--headless --no-sandbox --disable-gpu --hide-scrollbars --enable-logging=stderr --dump-dom".split()
    run = subprocess.run([command, *flags, *options, path.as_uri()], capture_output=True, text=True, timeout=120)
    return run.stdout, [line for line in run.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
def test_a_browser_has_nothing_to_complain_of(page, tmp_path):
    path, broken = tmp_path / "fit.html", tmp_path / "broken.html"
    path.write_text(page, encoding="utf-8")
    broken.write_text("<!doctype html><script>console.error('heard')</script>")
    assert any("heard" in line for line in in_chromium(broken)[1])
    document, told = in_chromium(path)
    assert not told
    assert "verdict: good" in document and document.count("<svg") == 5


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1200])
def test_it_is_no_wider_than_the_screen(page, tmp_path, width):
    measure = "<script>document.title = document.documentElement.scrollWidth + ' of ' + window.innerWidth</script>"
    path = tmp_path / "measured.html"
    path.write_text(page.replace("</body>", measure + "</body>"), encoding="utf-8")
    document, _ = in_chromium(path, f"--window-size={width},900")
    found, shown = map(int, re.search(r"<title>(\d+) of (\d+)</title>", document).groups())
    assert found <= shown


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_seen_by_day_and_by_night(page, tmp_path, scheme):
    path, picture = tmp_path / "fit.html", tmp_path / "fit.png"
    path.write_text(page, encoding="utf-8")
    chosen = f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
    in_chromium(path, chosen, f"--screenshot={picture}", "--window-size=900,1400")
    seen = plt.imread(picture)[..., :3].mean(axis=-1)
    assert (np.median(seen) > 0.5) == (scheme == "light")  # the ground
    assert np.ptp(seen) > 0.5  # and what stands on it
