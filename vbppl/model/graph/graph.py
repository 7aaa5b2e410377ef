"""The graph of a model: each site with the sites that its numbers are computed from, found by following a trace.

The model is run once without numbers. The value of each site then stands for itself, and the site's own terms (the
log density of a sample, the value of a deterministic, the weight of a factor) are followed back to the values that they
come from: what a program computes, not what its text looks like.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from vbppl.core.programs.dependence import dependence
from vbppl.core.tables import Table, Tabled
from vbppl.core.types import Shape
from vbppl.model.arguments import name_of
from vbppl.model.control_flow.chain import written_out
from vbppl.model.graph import svg
from vbppl.model.graph.layout import Group, Leaf
from vbppl.model.handlers import at_point, log_probs
from vbppl.model.modules import parts
from vbppl.model.primitives import Site
from vbppl.model.trace import Outline, abstract_sites


@dataclasses.dataclass(frozen=True)
class Node:
    """A site of the graph.

    Attributes:
      name: of the site.
      kind: "latent", "summed out" (latent and discrete), "observed", "deterministic", "factor" or "param".
      distribution: the name of its family; empty where it has none.
      shape: batch and event; of a param of several arrays their shapes by name.
      plates: the names of those that it stands in, from the outermost.
      given: the names of the sites that it is computed from, in the order of the program.
    """

    name: str
    kind: str
    distribution: str
    shape: Shape | dict[str, Shape]
    plates: tuple[str, ...]
    given: tuple[str, ...]


@dataclasses.dataclass(frozen=True, repr=False)
class Graph(Tabled):
    """What depends on what. In a notebook it is a picture; printed, a table; and text for Mermaid and for Graphviz.

    Of more than 100 sites, of which nobody reads a picture, a notebook has the table; `svg` draws them when asked.

    Attributes:
      name: of the model.
      nodes: the sites in the order of the program.
      sizes: how many rows each plate has.
    """

    name: str
    nodes: tuple[Node, ...]
    sizes: dict[str, int]

    @property
    def edges(self) -> tuple[tuple[str, str], ...]:
        """Pairs of names: the second is computed from the first."""
        return tuple((parent, node.name) for node in self.nodes for parent in node.given)

    @property
    def mermaid(self) -> str:
        """The graph as a flowchart of Mermaid, which GitHub and documentation pages draw."""
        lines, keys = ["flowchart TD"], self._keys

        def write(box: _Box, depth: int) -> None:
            for member in box.members:
                if isinstance(member, _Box):
                    lines.append(f'{"  " * depth}subgraph {member.key}["{_mermaid(self._label(member))}"]')
                    write(member, depth + 1)
                    lines.append(f"{'  ' * depth}end")
                else:
                    below = f"<br/>{_mermaid(member.distribution)}" if member.distribution else ""
                    left, right = MERMAID[member.kind]
                    text = f'{left}"{_mermaid(member.name)}{below}"{right}'
                    lines.append(f"{'  ' * depth}{keys[member.name]}{text}")

        write(self._boxes, 1)
        lines += [f"  {keys[a]} --> {keys[b]}" for a, b in self.edges]
        for kind, name, how in STYLES:
            if seen := [keys[node.name] for node in self.nodes if node.kind == kind]:
                lines += [f"  classDef {name} {how}", f"  class {','.join(seen)} {name}"]
        return "\n".join(lines)

    @property
    def dot(self) -> str:
        """The graph in the language of Graphviz: `dot -Tsvg model.dot`."""
        lines, keys = [f"digraph {_dot(self.name)} {{"], self._keys

        def write(box: _Box, depth: int) -> None:
            tab = "  " * depth
            for member in box.members:
                if isinstance(member, _Box):
                    label = f"label={_dot(self._label(member))}; labelloc=b; labeljust=r;"
                    lines.append(f"{tab}subgraph cluster_{member.key} {{ {label}")
                    write(member, depth + 1)
                    lines.append(f"{tab}}}")
                else:
                    label = _dot("\n".join(filter(None, (member.name, member.distribution))))
                    lines.append(f"{tab}{keys[member.name]} [label={label}, {DOT[member.kind]}];")

        write(self._boxes, 1)
        return "\n".join([*lines, *(f"  {keys[a]} -> {keys[b]};" for a, b in self.edges), "}"])

    @property
    def svg(self) -> str:
        """The graph drawn, to stand in a page of HTML, in the colour of its text.

        Ellipses are random, the shaded ones observed; rectangles are computed, dots learnt, squares factors.
        """
        keys, labels = self._keys, {}
        symbols = {keys[n.name]: svg.Symbol(n.name, n.distribution, self._told(n), n.kind) for n in self.nodes}

        def grouped(box: _Box) -> Group:
            label = self._label(box) if box.key else ""
            if box.key:
                labels[box.key] = label
            members = [grouped(m) if isinstance(m, _Box) else leaf(keys[m.name]) for m in box.members]
            return Group(box.key, svg.text_width(label, svg.SMALL), tuple(members))

        def leaf(key: str) -> Leaf:
            return symbols[key].leaf(key)

        return svg.draw(grouped(self._boxes), symbols, labels, [(keys[a], keys[b]) for a, b in self.edges])

    @property
    def table(self) -> Table:
        """A line a site: its kind, its distribution, what it is computed from, and its plates."""
        rows = [(n.name, n.kind, n.distribution, ", ".join(n.given), ", ".join(n.plates)) for n in self.nodes]
        return Table(("site", "kind", "distribution", "given", "plates"), tuple(rows), align="<")

    def _repr_html_(self) -> str:
        if len(self.nodes) > MAX_SITES:
            return self.table._repr_html_()
        return f"<div style='overflow-x:auto'>{self.svg}</div>" if self.nodes else ""

    @property
    def _keys(self) -> dict[str, str]:
        return {node.name: f"n{at}" for at, node in enumerate(self.nodes)}

    @functools.cached_property
    def _boxes(self) -> _Box:
        return _boxed(self.nodes, iter(range(len(self.nodes))))

    def _label(self, box: _Box) -> str:
        return f"{box.plate} · {self.sizes[box.plate]:,}"

    def _told(self, node: Node) -> str:
        """What is told of a site when the mouse rests on it."""
        what = f"{node.name} ~ {node.distribution}" if node.distribution else f"{node.name}, {node.kind}"
        given = f" given {', '.join(node.given)}" if node.given else ""
        return f"{what}{given}; shape {node.shape}"


@dataclasses.dataclass
class _Box:
    """A plate with what stands in it; the outermost is no plate."""

    plate: str
    key: str
    members: list[Node | _Box]

    def names(self) -> Iterator[str]:
        """Of all sites in it."""
        for member in self.members:
            if isinstance(member, Node):
                yield member.name
            else:
                yield from member.names()


def _boxed(nodes: Sequence[Node], numbers: Iterator[int], depth: int = 0, plate: str = "", key: str = "") -> _Box:
    """The boxes of plates at one depth. Where one box for a plate would mean a circle, it is drawn twice."""
    units: list[list[Node]] = []
    paths = _paths(nodes)
    for node in nodes:
        inner = paths[node.name][depth : depth + 1]
        same = (u for u in reversed(units) if inner and paths[u[0].name][depth : depth + 1] == inner)
        home = next((unit for unit in same if not _leads_out_to(unit, node, units)), None)
        if home is None:
            units.append([node])
        else:
            home.append(node)
    members: list[Node | _Box] = []
    for unit in units:
        path = paths[unit[0].name]
        members.append(
            _boxed(unit, numbers, depth + 1, path[depth], f"p{next(numbers)}") if len(path) > depth else unit[0]
        )
    return _Box(plate, key, members)


def _paths(nodes: Sequence[Node]) -> dict[str, tuple[str, ...]]:
    """The plates of each site, from the outermost; the same plates in another order are the same box."""
    first: dict[frozenset[str], tuple[str, ...]] = {}
    return {node.name: first.setdefault(frozenset(node.plates), node.plates) for node in nodes}


def _leads_out_to(unit: Sequence[Node], node: Node, units: Sequence[Sequence[Node]]) -> bool:
    """Whether something outside `unit` that comes from it stands between it and `node`."""
    unit_of = {each.name: n for n, each_unit in enumerate(units) for each in each_unit}
    goal = next(n for n, each_unit in enumerate(units) if each_unit is unit)
    waiting = [unit_of[name] for name in node.given if unit_of.get(name, goal) != goal]
    seen = set(waiting)
    while waiting:
        for each in units[waiting.pop()]:
            for at in (unit_of[name] for name in each.given if name in unit_of):
                if at == goal:
                    return True
                if at not in seen:
                    seen.add(at)
                    waiting.append(at)
    return False


MAX_SITES = 100  # sites of a picture that a notebook draws without being asked
STYLES = (("observed", "observed", "fill:#88888855"), ("summed out", "discrete", "stroke-dasharray:4"))
MERMAID = {
    "latent": ("([", "])"),
    "observed": ("([", "])"),
    "summed out": ("([", "])"),
    "deterministic": ("[", "]"),
    "param": ("{{", "}}"),
    "factor": ("[[", "]]"),
}
DOT = {
    "latent": "shape=ellipse",
    "observed": 'shape=ellipse, style=filled, fillcolor="#d8d8d8"',
    "summed out": "shape=ellipse, style=dashed",
    "deterministic": "shape=box",
    "param": "shape=hexagon",
    "factor": "shape=box, peripheries=2",
}


def _mermaid(text: str) -> str:
    """A text in a quoted label; Mermaid's own code stands for what could mean something to it."""
    # Nothing stands after a backslash: with the next letter it would be a new line.
    return "".join(c if c.isalnum() or c in " _-" else f"#{ord(c)};" for c in text).replace("#92;", "#92;#8203;")


def _dot(text: str) -> str:
    for what, how in (("\0", "\N{REPLACEMENT CHARACTER}"), ("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n")):
        text = text.replace(what, how)
    return f'"{text}"'


KINDS = ("sample", "param", "deterministic", "factor")
_Terms: TypeAlias = dict[str, tuple[Any, Any]]


def graph_of(model: Any) -> Graph:
    """The graph of a `Model`: see `Model.graph`."""
    outlines = abstract_sites(model)
    names = [name for name, outline in outlines.items() if outline.kind in KINDS]
    leaves, structure = jax.tree.flatten(model)

    def run(leaves: Sequence[Any]) -> _Terms:
        return _terms(jax.tree.unflatten(structure, leaves), names)

    shapes = [jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]
    closed, terms = jax.make_jaxpr(run, return_shape=True)(shapes)
    atoms = iter(closed.jaxpr.outvars)
    own, stated = ({}, {})
    ends: list[str] = []
    for name in sorted(terms):
        values, said = terms[name]
        for _ in jax.tree.leaves(values):
            own[next(atoms)] = 1 << names.index(name)
        for _ in jax.tree.leaves(said):
            next(atoms)
        stated[name] = 0
        ends += [""] * len(jax.tree.leaves(values)) + [name] * len(jax.tree.leaves(said))
    for name, bits in zip(ends, dependence(closed.jaxpr, origins=own)):
        if name:
            stated[name] |= bits
    given = {name: [other for n, other in enumerate(names) if stated[name] >> n & 1] for name in names}
    nodes = tuple(_node(outlines[name], given[name]) for name in names)
    sizes = {outline.name: outline.size for outline in outlines.values() if outline.kind == "plate"}
    return Graph(name_of(model.function), nodes, sizes)


def _node(outline: Outline, given: Sequence[str]) -> Node:
    kind = outline.kind
    if kind == "sample":
        kind = "observed" if outline.observed else "summed out" if outline.states else "latent"
    plates = tuple(frame.name for frame in outline.frames)
    others = tuple(name for name in given if name != outline.name)
    return Node(outline.name, kind, outline.distribution, outline.shape, plates, others)


def _terms(model: Any, names: Sequence[str]) -> _Terms:
    """For each site its value, apart from what it was computed from, and what the site says of it."""
    somewhere, apart, said = at_point(0.0), {}, {}

    def state(name: str, value: Any, terms: Any) -> None:  # a site of a scan is stated at each step
        apart.setdefault(name, []).append(value)
        said.setdefault(name, []).append(terms)

    def interpret(site: Site) -> Site:
        stated = site.value
        site = somewhere(site)
        if site.kind == "param":
            found = parts(site.value)
            learnt = _apart(found.learnt)
            state(site.name, learnt, ())
            return dataclasses.replace(site, value=dataclasses.replace(found, learnt=learnt).made())
        if site.kind in ("sample", "deterministic"):
            site = dataclasses.replace(site, value=_apart(site.value))
            state(site.name, site.value, stated if site.kind == "deterministic" else (log_probs(site), stated))
        if site.kind == "factor":
            state(site.name, (), log_probs(site))
        return site

    with written_out():
        model.trace(interpret)
    return {name: (apart.get(name, ()), said.get(name, ())) for name in names}


def _apart(value: Any) -> Any:
    """The same numbers, as an operation's output of their own."""
    return jax.tree.map(lambda leaf: jax.lax.optimization_barrier(jnp.asarray(leaf)), value)
