"""A lineage as an SVG picture: generations in columns, data flowing to the right, many alike drawn as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from beamwright.catalog.lineage import Graph, Key, Node
from beamwright.report.markup import Markup, tag

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 190, 44, 64, 16, 24
MOST = 12  # of a column; more that are alike are drawn as one
_LETTERS = 26

STYLE = """
svg { font: 12px system-ui, "DejaVu Sans", sans-serif; background: #fff; }
rect { fill: #fff; stroke: #5d6066; rx: 7; } text { fill: #1b1c1e; } .note { fill: #5d6066; font-size: 10px; }
path { fill: none; stroke: #8b8e94; stroke-width: 1.3; } .start rect { stroke-width: 3; }
.run rect, .chunk rect { fill: #e4eefa; } .file rect { fill: #f0f0ec; } .unit rect { fill: #fdf1d8; }
.payload rect { fill: #f1e8fb; } .collection rect { fill: #e3f4e8; } .dataset rect { fill: #cfeedd; }
@media (prefers-color-scheme: dark) {
  svg { background: #141517; } text { fill: #e9eaec; } .note { fill: #a9adb4; }
  rect { fill: #1d1f22; stroke: #a9adb4; }
  .run rect, .chunk rect { fill: #16293f; } .file rect { fill: #26282c; } .unit rect { fill: #382a10; }
  .payload rect { fill: #2c1f3d; } .collection rect, .dataset rect { fill: #16331f; }
}
"""


Place = tuple[float, float]


def picture(graph: Graph) -> str:
    """Return a lineage as the text of an SVG file."""
    nodes, edges, start = condensed(graph)
    columns = layered(nodes, edges)
    places = _placed(columns, edges)
    width = MARGIN * 2 + len(columns) * (WIDTH + GAP_X) - GAP_X
    height = MARGIN * 2 + max(len(column) for column in columns) * (HEIGHT + GAP_Y) - GAP_Y
    title = f"{graph.direction} of {nodes[start].kind} {nodes[start].name}"
    body = tag(
        "svg",
        tag("title", title),
        tag("style", Markup(STYLE)),
        [_edge(places[a], places[b]) for a, b in sorted(edges)],
        [_box(nodes[name], place, name == start) for name, place in sorted(places.items())],
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
    )
    return f"{body}\n"


def condensed(graph: Graph, most: int = MOST) -> tuple[dict[str, Node], set[tuple[str, str]], str]:
    """Return nodes and edges with things that are alike as one, where a generation has more than ``most``."""
    generations: dict[int, list[Node]] = defaultdict(list)
    for node in graph.ordered():
        generations[graph.distance[node.key]].append(node)
    drawn: dict[Key, str] = {}
    nodes: dict[str, Node] = {}
    for distance, generation in sorted(generations.items()):
        is_full = len(generation) > most
        alike: dict[str, list[Node]] = defaultdict(list)
        for node in generation:
            is_own = not is_full or node.key == graph.start or not node.like
            alike[f"{node.kind} {node.id}" if is_own else f"{node.kind} {distance} {node.like}"].append(node)
        for name, members in alike.items():
            drawn |= {node.key: name for node in members}
            nodes[name] = _joined(members)
    edges = {(drawn[a], drawn[b]) for a, b in graph.edges if drawn[a] != drawn[b]}
    return nodes, edges, drawn[graph.start]


def layered(nodes: dict[str, Node], edges: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Return the names in columns: each stands right of all that flow into it."""
    into: dict[str, set[str]] = {name: set() for name in nodes}
    for a, b in edges:
        into[b].add(a)
    place: dict[str, int] = {}
    left = dict.fromkeys(sorted(nodes))
    while left:
        ready = [name for name in left if all(a in place for a in into[name])]
        for name in ready or [_opened(left, into, place)]:
            place[name] = 1 + max((place.get(a, -1) for a in into[name]), default=-1)
            del left[name]
    columns: list[list[str]] = [[] for _ in range(1 + max(place.values()))]
    for name in sorted(nodes, key=lambda n: (nodes[n].kind, nodes[n].name)):
        columns[place[name]].append(name)
    return columns


def _opened(left: Iterable[str], into: dict[str, set[str]], place: dict[str, int]) -> str:
    """Return where a circle is opened: data make none, but many things that are drawn as one may.

    That is upstream of all else, where most comes in of what has its place.
    """

    def upstream(name: str) -> set[str]:
        found, waiting = set[str](), [name]
        while waiting:
            new = {a for a in into[waiting.pop()] if a not in place} - found
            found |= new
            waiting += new
        return found

    def order(name: str) -> tuple[bool, int, int, str]:
        above = upstream(name)
        return name not in above, len(above), -sum(a in place for a in into[name]), name

    return min(left, key=order)


def _placed(columns: list[list[str]], edges: Iterable[tuple[str, str]]) -> dict[str, Place]:
    """Give each name its place; a column is ordered by the middle of what flows into it."""
    into: dict[str, list[str]] = defaultdict(list)
    for a, b in sorted(edges):
        into[b].append(a)
    rows: dict[str, float] = {}
    highest = max(len(column) for column in columns)
    places: dict[str, Place] = {}
    for number, column in enumerate(columns):
        middles = {name: [rows[a] for a in into[name] if a in rows] for name in column}
        known = {name: sum(found) / len(found) if found else 0.0 for name, found in middles.items()}
        offset = (highest - len(column)) / 2
        for position, name in enumerate(sorted(column, key=lambda n: (known[n], n))):
            rows[name] = position + offset
            y = MARGIN + rows[name] * (HEIGHT + GAP_Y)
            places[name] = (MARGIN + number * (WIDTH + GAP_X), y)
    return places


def _joined(members: list[Node]) -> Node:
    first = members[0]
    if len(members) == 1:
        return first
    return Node(first.kind, first.id, f"{len(members)} {first.like}", "", first.like, len(members))


def _edge(one: Place, other: Place) -> Markup:
    x1, y1, x2, y2 = one[0] + WIDTH, one[1] + HEIGHT / 2, other[0], other[1] + HEIGHT / 2
    bend = GAP_X / 2
    return tag("path", d=f"M{x1:g} {y1:g}C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2:g} {y2:g}")


def _box(node: Node, place: Place, is_start: bool) -> Markup:
    x, y = place
    note = f"{node.kind}: {node.note}" if node.note else node.kind
    return tag(
        "g",
        tag("title", f"{node.kind} {node.name}" + (f" ({node.note})" if node.note else "")),
        tag("rect", x=x, y=y, width=WIDTH, height=HEIGHT),
        tag("text", _short(node.name), x=x + 9, y=y + 18),
        tag("text", _short(note, 32), x=x + 9, y=y + 34, class_="note"),
        class_=f"{node.kind} start" if is_start else node.kind,
    )


def _short(text: str, most: int = _LETTERS) -> str:
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-most // 2 :]}"
