"""A fit as one page: whole, well formed, without a network or a script, and with every name as it is."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

import vbppl as vb
import vbppl.distributions as dist

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
    assert vb.write_report(vb.fit(odd(np.array([0.3, 0.8])), "full_rank"), path) == path
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
    order += ["How to repeat it", "def odd(y):"]
    places = [page.index(words) for words in order]
    assert places == sorted(places)
    assert page.count("<svg") == 5  # forest, data, graph, history, weights


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
