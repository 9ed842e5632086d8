"""The production as pictures: the graph of its steps, and who worked on what when."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from beamwright.core.runs import Interval
from beamwright.report import svg
from beamwright.report.markup import Markup, tag

Row = dict[str, Any]
BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y = 148, 48, 72, 20
LANE, BAR = 18, 11


def graph(document: Row) -> Markup:
    """Draw datasets and steps from left to right, with the streams that run between them."""
    nodes = _nodes(document)
    places = _places(nodes)
    width = max(x for x, _ in places.values()) + BOX_WIDTH + 8
    height = max(y for _, y in places.values()) + BOX_HEIGHT + 8
    edges = [_edge(places, source, target, streams) for source, target, streams in _joined(nodes)]
    boxes = [_box(name, node, *places[name]) for name, node in nodes.items()]
    style = f"min-width:{width * 0.72:.0f}px;max-width:{width}px"
    return tag(
        "svg",
        tag("title", "the steps of the production"),
        edges,
        boxes,
        viewBox=f"0 0 {width} {height}",
        role="img",
        class_="graph",
        style=style,
    )


def _nodes(document: Row) -> dict[str, Row]:
    nodes: dict[str, Row] = {}
    for dataset in document["production"]["datasets"]:
        runs = sum(len(numbers) for numbers in dataset["runs"].values())
        kind = ", simulated" if dataset["is_mc"] else ", resampled" if dataset["is_resampled"] else ""
        text = f"{runs} run{'s' if runs != 1 else ''}, {dataset['tier']}{kind}"
        nodes[dataset["name"]] = {"inputs": [], "class": "dataset", "text": text}
    for step in document["steps"]:
        done = sum(count for state, count in step["jobs"].items() if state in ("ok", "superseded"))
        text = f"{step['kind']} · {done}/{sum(step['jobs'].values())} jobs"
        nodes[step["step"]] = {"inputs": step["inputs"], "class": step["kind"], "text": text}
    return nodes


def _places(nodes: dict[str, Row]) -> dict[str, tuple[int, int]]:
    """Return where each box stands: its column is the longest way to it."""
    depth: dict[str, int] = {}
    for name, node in nodes.items():
        depth[name] = 1 + max((depth.get(i.partition(".")[0], 0) for i in node["inputs"]), default=-1)
    columns: dict[int, list[str]] = defaultdict(list)
    for name, column in depth.items():
        columns[column].append(name)
    tallest = max(len(names) for names in columns.values())
    places = {}
    for column, names in columns.items():
        start = (tallest - len(names)) * (BOX_HEIGHT + GAP_Y) // 2
        for row, name in enumerate(names):
            places[name] = (4 + column * (BOX_WIDTH + GAP_X), 4 + start + row * (BOX_HEIGHT + GAP_Y))
    return places


def _joined(nodes: dict[str, Row]) -> list[tuple[str, str, str]]:
    """Return each pair of boxes once, with all the streams that run between them."""
    found: dict[tuple[str, str], list[str]] = {}
    for target, node in nodes.items():
        for name in node["inputs"]:
            source, _, stream = name.partition(".")
            found.setdefault((source, target), []).append(stream)
    known = [(source, target, [s for s in streams if s]) for (source, target), streams in found.items()]
    return [(source, target, _stream_label(streams)) for source, target, streams in known if source in nodes]


def _stream_label(streams: list[str]) -> str:
    text = ", ".join(streams)
    return text if len(text) <= 11 else f"{len(streams)} streams" if len(streams) > 1 else f"{text[:10]}…"


def _edge(places: dict[str, tuple[int, int]], source: str, target: str, stream: str) -> Markup:
    x1, y1 = places[source][0] + BOX_WIDTH, places[source][1] + BOX_HEIGHT // 2
    x2, y2 = places[target][0], places[target][1] + BOX_HEIGHT // 2
    half = (x2 - x1) // 2
    curve = f"M{x1} {y1}C{x1 + half} {y1} {x2 - half} {y2} {x2 - 2} {y2}"
    label = tag("text", stream, x=x2 - 7, y=y2 - 5, class_="stream end") if stream else ""
    return tag("g", tag("path", d=curve, class_="edge"), label)


def _box(name: str, node: Row, x: int, y: int) -> Markup:
    return tag(
        "g",
        tag("rect", x=x, y=y, width=BOX_WIDTH, height=BOX_HEIGHT, rx=9, class_=f"box {node['class']}"),
        tag("text", name, x=x + BOX_WIDTH / 2, y=y + 20, class_="name middle"),
        tag("text", node["text"], x=x + BOX_WIDTH / 2, y=y + 37, class_="small middle"),
    )


def timeline(document: Row) -> Markup:
    """Draw when each unit was worked on: a lane per chunk, a colour per step."""
    steps = [step["step"] for step in document["steps"]]
    bars = [bar for unit in document["units"] for bar in _spans(unit)]
    if not bars:
        return tag("p", "no attempt has ended yet", class_="empty")
    start, end = min(bar["from"] for bar in bars), max(bar["to"] for bar in bars)
    lanes = _lanes(document, bars)
    left, width = 128, 900
    scale = (width - left - 10) / max(end - start, 1e-3)
    height = 30 + LANE * sum(len(rows) for _, rows in lanes)
    parts: list[Markup] = []
    for value in svg.ticks(0.0, end - start, 8):
        x = left + value * scale
        parts.append(tag("line", x1=x, x2=x, y1=2, y2=height - 24, class_="gridline"))
        parts.append(tag("text", f"{svg.number(value)} s", x=x, y=height - 8, class_="tick middle"))
    y = 4
    for label, rows in lanes:
        parts.append(tag("text", label, x=left - 8, y=y + 10, class_="tick end"))
        for row in rows:
            parts += [_bar(bar, left + (bar["from"] - start) * scale, scale, y, steps) for bar in row]
            y += LANE
    return tag(
        "svg",
        tag("title", "units of work over time"),
        parts,
        viewBox=f"0 0 {width} {height}",
        role="img",
        class_="timeline",
    )


def _spans(unit: Row) -> list[Row]:
    tries = [a for a in unit["attempts"] if a["ended"] and (a["started"] or a["leased"])]
    return [
        {"unit": unit, "attempt": a, "from": a["started"] or a["leased"], "to": a["ended"]} for a in tries
    ]


def _lanes(document: Row, bars: list[Row]) -> list[tuple[str, list[list[Row]]]]:
    """Return per chunk its rows of bars, as many as overlap; units over several chunks stand at the end."""
    owned: dict[str, list[Row]] = {_lane_name(row): [] for row in document["grid"]["rows"]}
    for bar in bars:
        hit = [row for row in document["grid"]["rows"] if _touches(bar["unit"], row)]
        name = _lane_name(hit[0]) if len(hit) == 1 else "several"
        owned.setdefault(name, []).append(bar)
    return [(name, _packed(held)) for name, held in owned.items() if held]


def _lane_name(row: Row) -> str:
    return f"{row['series']} {row['run']}" + (f" · {row['sequence']}" if row["sequence"] != 1 else "")


def _touches(unit: Row, row: Row) -> bool:
    whole = Interval.sections(row["series"], row["run"], row["first_section"], row["last_section"])
    return Interval.from_document(unit["interval"]).intersect(whole) is not None


def _packed(bars: list[Row]) -> list[list[Row]]:
    rows: list[list[Row]] = []
    for bar in sorted(bars, key=lambda b: (b["from"], b["to"])):
        free = next((row for row in rows if row[-1]["to"] <= bar["from"]), None)
        if free is None:
            rows.append([bar])
        else:
            free.append(bar)
    return rows


def _bar(bar: Row, x: float, scale: float, y: int, steps: list[str]) -> Markup:
    unit, attempt = bar["unit"], bar["attempt"]
    colour = steps.index(unit["step"]) % svg.COLOURS
    taken = f"{bar['to'] - bar['from']:.2f} s, {attempt['state']}"
    what = f"{unit['step']} {unit['kind']} on {attempt['farm']}: {taken}"
    failed = " bad" if attempt["state"] in ("rejected", "lost", "killed") or attempt["failure_class"] else ""
    width = max((bar["to"] - bar["from"]) * scale, 1.5)
    return tag(
        "rect", tag("title", what), x=x, y=y, width=width, height=BAR, rx=2, class_=f"c{colour} bar{failed}"
    )
