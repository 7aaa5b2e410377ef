"""The graph of a model: what is computed from what, and how it is written and drawn."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vbppl as vb
import vbppl.distributions as dist
from vbppl.model.graph.graph import MAX_SITES, Graph, Node
from vbppl.model.graph.layout import Place, meets

Y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def parents(model):
    return {node.name: set(node.given) for node in model.graph().nodes}


def test_eight_schools_is_the_graph_that_every_textbook_draws():
    graph = cases.eight_schools(SIGMA, y=Y).graph()
    assert [(n.name, n.kind, n.distribution, n.given, n.plates) for n in graph.nodes] == [
        ("mu", "latent", "Normal", (), ()),
        ("tau", "latent", "HalfCauchy", (), ()),
        ("theta", "latent", "Normal", ("mu", "tau"), ("school",)),
        ("y", "observed", "Normal", ("theta",), ("school",)),
    ]
    assert graph.sizes == {"school": 8}
    assert graph.mermaid.splitlines() == [
        "flowchart TD",
        '  n0(["mu<br/>Normal"])',
        '  n1(["tau<br/>HalfCauchy"])',
        '  subgraph p0["school #183; 8"]',
        '    n2(["theta<br/>Normal"])',
        '    n3(["y<br/>Normal"])',
        "  end",
        "  n0 --> n2",
        "  n1 --> n2",
        "  n2 --> n3",
        "  classDef observed fill:#88888855",
        "  class n3 observed",
    ]
    assert '  subgraph cluster_p0 { label="school · 8"; labelloc=b; labeljust=r;' in graph.dot
    assert "n0 -> n2;" in graph.dot and graph.dot.count("{") == graph.dot.count("}") == 2


def test_every_kind_of_site_is_in_it_with_what_it_is_computed_from():
    @vb.model
    def model(y):
        slope = vb.param("slope", {"w": np.zeros(2), "b": 0.0})
        net = vb.sample("net", vb.prior_over({"w": np.zeros((2, 3))}, dist.Normal(0.0, 1.0)))
        seen = vb.sample("seen", dist.Normal(slope["b"], 1.0), obs=y[0])
        scale = vb.deterministic("scale", jnp.exp(net["w"].sum()))
        kind = vb.sample("kind", dist.Bernoulli(0.5), obs=1)
        vb.factor("pull", -(scale**2) * kind)
        with vb.plate("row", 3):
            vb.sample("y", dist.Normal(seen + slope["w"].sum(), scale), obs=y)

    graph = model(np.zeros(3)).graph()
    assert {node.name: (node.kind, set(node.given)) for node in graph.nodes} == {
        "slope": ("param", set()),
        "net/w": ("latent", set()),
        "seen": ("observed", {"slope"}),  # the numbers that it gives back are its own
        "scale": ("deterministic", {"net/w"}),
        "kind": ("observed", set()),
        "pull": ("factor", {"scale", "kind"}),
        "y": ("observed", {"seen", "slope", "scale"}),
    }


def test_it_follows_what_is_computed_and_not_what_is_named():
    @vb.model
    def model(y):
        a, b = vb.sample("a", dist.Normal(0.0, 1.0)), vb.sample("b", dist.Normal(0.0, 1.0))
        c = vb.sample("c", dist.Normal(0.0 * a.shape[0] if a.ndim else 1.0, 1.0))
        (state, _), _ = jax.lax.scan(lambda s, _: ((s[0] + s[1], s[1]), None), (a, b), None, length=3)
        left, right = jax.jit(lambda x, y: (jnp.sin(x), jnp.cos(y)))(a, c)
        vb.sample("scan", dist.Normal(state, 1.0), obs=y)
        vb.sample("left", dist.Normal(left, 1.0), obs=y)
        vb.sample("right", dist.Normal(right, 1.0), obs=y)
        vb.sample("mixed", dist.Normal(jnp.where(a > 0, b, 0.0), 1.0), obs=y)
        vb.sample("difference", dist.Normal(0.0, 1.0), obs=y - c)

    assert parents(model(0.5)) == {
        **{"a": set(), "b": set(), "c": set(), "scan": {"a", "b"}, "left": {"a"}, "right": {"c"}},
        **{"mixed": {"a", "b"}, "difference": {"c"}},
    }


def test_a_condition_and_an_intervention_change_it():
    model = cases.eight_schools(SIGMA, y=Y)
    assert {n.name: n.kind for n in model.condition(mu=1.0).graph().nodes}["mu"] == "observed"
    cut = {n.name: (n.kind, n.given) for n in model.do(theta=Y).graph().nodes}
    assert cut["theta"] == ("deterministic", ()) and cut["y"] == ("observed", ("theta",))


def test_a_part_of_a_model_and_distributions_around_others_are_followed():
    @vb.model
    def inner(loc):
        return vb.sample("x", dist.Normal(loc, 1.0))

    @vb.model
    def outer(y):
        a, b = vb.sample("a", dist.Normal(0.0, 1.0)), vb.sample("b", dist.HalfNormal(1.0))
        x = vb.sample("part", inner(a))
        each = dist.Normal(jnp.stack([x, a]), jnp.ones(2))
        vb.sample("mixture", dist.MixtureSameFamily(dist.Categorical(jnp.ones(2) / 2), each), obs=y)
        vb.sample("event", dist.Normal(jnp.zeros(2), b).to_event(1), obs=jnp.zeros(2))

    assert parents(outer(0.0)) == {
        **{"a": set(), "b": set(), "part/x": {"a"}, "mixture": {"part/x", "a"}, "event": {"b"}},
    }


def boxes(graph):
    """The labels of the plates in DOT, each with the names inside, by their depth."""
    found, open_ = [], []
    for line in graph.dot.splitlines()[1:]:
        if head := re.search(r'subgraph \w+ \{ label="(\w+) ·', line):
            open_.append((head[1], []))
            found.append(open_[-1])
        elif node := re.search(r'n\d+ \[label="(\w+)', line):
            for _, inside in open_:
                inside.append(node[1])
        elif line.strip() == "}" and open_:
            open_.pop()
    return found


def test_plates_stand_inside_plates_and_crossed_ones_in_the_order_of_the_program():
    @vb.model
    def model():
        rows, columns = vb.plate("rows", 2, dim=-2), vb.plate("columns", 3, dim=-1)
        with rows:
            a = vb.sample("a", dist.Normal(0.0, 1.0))
            with columns:
                b = vb.sample("b", dist.Normal(a, 1.0))
        with columns:
            c = vb.sample("c", dist.Normal(0.0, 1.0))
            with rows:
                vb.sample("d", dist.Normal(b + c, 1.0))

    assert boxes(model().graph()) == [("rows", ["a", "b", "d"]), ("columns", ["b", "d"]), ("columns", ["c"])]


def test_a_plate_is_drawn_twice_where_one_box_would_make_a_circle():
    @vb.model
    def model():
        with (rows := vb.plate("rows", 2)):
            a, b = vb.sample("a", dist.Normal(0.0, 1.0)), vb.sample("b", dist.Normal(0.0, 1.0))
        total = vb.sample("total", dist.Normal(a.sum(), 1.0))
        with rows:
            vb.sample("c", dist.Normal(total, 1.0))
            vb.sample("d", dist.Normal(b, 1.0))

    graph = model().graph()
    assert boxes(graph) == [("rows", ["a", "b"]), ("rows", ["c", "d"])]
    ET.fromstring(graph.svg)


def rectangles(graph):
    """Of each symbol in the picture its name and its box."""
    root, found = ET.fromstring(graph.svg), {}
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        name = next(t.text for t in group if t.tag.endswith("text"))
        for shape in group:
            at = {key: float(value) for key, value in shape.attrib.items() if re.fullmatch(r"-?[\d.]+", value)}
            if shape.tag.endswith("ellipse"):
                found[name] = (at["cx"] - at["rx"], at["cx"] + at["rx"], at["cy"] - at["ry"], at["cy"] + at["ry"])
    return found


def test_in_the_picture_nothing_covers_another_and_lines_go_down():
    @vb.model
    def model(y):
        xs = [vb.sample("x0", dist.Normal(0.0, 1.0))]
        for t in range(1, 9):
            xs.append(vb.sample(f"x{t}", dist.Normal(xs[-1] + xs[t // 2] + xs[0], 1.0)))
        with vb.plate("rows", 3):
            for t in range(9):
                vb.sample(f"y{t}", dist.Normal(xs[t], 1.0), obs=y)

    graph = model(np.zeros(3)).graph()
    found = rectangles(graph)
    assert len(found) == 18
    names = list(found)
    for n, one in enumerate(names):
        for other in names[:n]:
            (a, b, c, d), (e, f, g, h) = found[one], found[other]
            assert b <= e or f <= a or d <= g or h <= c, (one, other)
    assert all(found[a][3] <= found[b][2] for a, b in graph.edges)


def test_lines_go_straight_past_what_is_beside_them_and_round_what_is_in_their_way():
    place = Place(0.0, 0.0, 10.0, 10.0)
    assert meets((-5.0, 5.0), (15.0, 5.0), place, 0.0) and meets((5.0, -5.0), (5.0, 15.0), place, 0.0)
    assert meets((-5.0, 0.0), (5.0, 12.0), place, 0.0) and not meets((-5.0, 5.0), (4.0, 20.0), place, 0.0)
    assert not meets((-5.0, 5.0), (-1.0, 5.0), place, 0.0) and meets((-5.0, 5.0), (-1.0, 5.0), place, 2.0)

    @vb.model
    def model():
        a = vb.sample("a", dist.Normal(0.0, 1.0))
        b = vb.sample("b", dist.Normal(a, 1.0))
        vb.sample("c", dist.Normal(a + b, 1.0))

    ways = [path.get("d") for path in ET.fromstring(model().graph().svg) if path.get("fill") == "none"]
    assert sorted("Q" in way for way in ways if way) == [False, False, True]


ODD = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12) | st.sampled_from(
    [
        'a"b',
        "<b>",
        "end",
        "x --> y",
        "]]) end",
        "\\",
        "#35;",
        "a\nb",
        "`",
        "Größe 温度",
        "%%",
        "\x00",
        "\u202e",
        "</svg>",
    ]
)


@given(st.lists(ODD, min_size=4, max_size=4, unique=True))
@settings(max_examples=60, deadline=None)
def test_names_of_any_kind_break_no_notation(names):
    first, second, plate, family = names
    nodes = Node(first, "latent", family, (), (), ()), Node(second, "observed", family, (2,), (plate,), (first,))
    graph = Graph(family, nodes, {plate: 2})
    assert all(element.tag.rpartition("}")[2] in SHAPES for element in ET.fromstring(graph.svg).iter())
    lines = graph.mermaid.split("\n")
    assert len(lines) == 8 and lines[0] == "flowchart TD" and lines[5] == "  n0 --> n1"
    assert all(re.fullmatch(r' *(n\d\(\["[^"]*"\]\)|subgraph p0\["[^"]*"\])', line) for line in lines[1:4])
    assert not re.search("[<>]", "".join(lines[1:4]).replace("<br/>", ""))
    quoted = re.findall(r'"((?:[^"\\]|\\.)*)"', graph.dot, re.DOTALL)
    told = [re.sub(r"\\(.)", lambda c: {"n": "\n"}.get(c[1], c[1]), text) for text in quoted]
    clean = [name.replace("\0", "\ufffd") for name in (first, second, plate, family)]
    assert told[:4] == [clean[3], f"{clean[0]}\n{clean[3]}", f"{clean[2]} · 2", f"{clean[1]}\n{clean[3]}"]


SHAPES = {"svg", "g", "title", "text", "path", "rect", "ellipse", "circle"}


def test_printed_it_is_a_table_and_in_a_notebook_a_picture():
    graph = cases.eight_schools(SIGMA, y=Y).graph()
    assert str(graph).splitlines()[3] == "theta  latent    Normal        mu, tau  school"
    page = graph._repr_html_()
    assert page.startswith("<div") and "<svg" in page and "currentColor" in page and "<script" not in page
    assert "theta ~ Normal given mu, tau; shape (8,)" in page


@pytest.mark.parametrize("kind", ["param", "factor"])
def test_a_model_without_random_numbers_has_a_graph_too(kind):
    @vb.model
    def model():
        vb.param("w", 1.0) if kind == "param" else vb.factor("w", 0.0)

    assert [node.kind for node in model().graph().nodes] == [kind]
    ET.fromstring(model().graph().svg)


def test_a_model_without_sites_has_an_empty_picture():
    @vb.model
    def model():
        pass

    ET.fromstring(model().graph().svg)
    assert model()._repr_html_() and model().graph().mermaid == "flowchart TD"


def test_of_more_sites_than_a_picture_shows_a_notebook_has_the_table():
    nodes = tuple(
        Node(f"x{n}", "latent", "Normal", (), (), tuple(f"x{m}" for m in range(n))) for n in range(MAX_SITES + 1)
    )
    page = Graph("chain", nodes, {})._repr_html_()
    assert page.startswith("<table>") and f"x{MAX_SITES}" in page


def test_a_long_chain_whose_sites_all_reach_its_end_is_drawn_soon():
    # Each line to the end passes every layer: as many spots as pairs of sites. It took 4 s where layers, links and
    # sweeps were multiplied; numbers of calls would be those of the code, so the clock is asked, with much to spare.
    nodes = [Node(f"x{n}", "latent", "Normal", (), (), (f"x{n - 1}",) if n else ()) for n in range(50)]
    last = Node("y", "observed", "Normal", (), (), tuple(node.name for node in nodes))
    start = time.process_time()
    ET.fromstring(Graph("chain", (*nodes, last), {}).svg)
    assert time.process_time() - start < 3.0


def test_a_line_meets_the_boxes_that_its_points_are_in():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 100, (300, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 30, (300, 2))], 1)
    ends = rng.uniform(0, 130, (300, 2, 2)).round()
    ends[:100, 1, 0], ends[100:150, 1, 1] = ends[:100, 0, 0], ends[100:150, 0, 1]  # straight down, and across
    shares = np.linspace(0, 1, 5001)[:, None]
    for (start, end), box in zip(ends, boxes):
        points = start + shares * (end - start)
        inside = np.all((points > box[:2] - 5) & (points < box[2:] + 5), 1)
        found = meets(tuple(start), tuple(end), Place(box[0], box[1], *(box[2:] - box[:2])), 5.0)
        assert found or not inside.any()
        if found and not inside.any():  # a corner that no point is in
            nearer = np.all((points > box[:2] - 5.02) & (points < box[2:] + 5.02), 1)
            assert nearer.any()
