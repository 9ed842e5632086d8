"""The sections of the HTML report, each out of its part of the document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from beamwright.core.balance import terms_among
from beamwright.report import drawing, latency, svg
from beamwright.report.document import flat_figures, interval_text, ledger_totals
from beamwright.report.markup import Content, Markup, tag

Row = dict[str, Any]
KINDS = {
    "good": "good",
    "balanced": "good",
    "unbalanced": "bad",
    "bad": "bad",
    "ok": "good",
    "accepted": "good",
    "closed": "good",
    "valid": "good",
    "frozen": "good",
    "fitted": "busy",
    "carried": "warn",
    "late": "warn",
    "held": "warn",
    "superseded": "warn",
    "incomplete": "warn",
    "excluded": "warn",
    "failed": "bad",
    "rejected": "bad",
    "cancelled": "bad",
    "lost": "bad",
    "killed": "bad",
    "running": "busy",
    "submitted": "busy",
    "collecting": "busy",
    "accumulating": "busy",
    "active": "busy",
    "open": "busy",
}


FOLDED, LONG = 12, 60
CONDITIONS = "Which payload is valid where, and how it came to be."
JOBS = "A lane per chunk, a colour per step: what ran when, and beside what else."


@dataclass(frozen=True)
class Part:
    """One section: its anchor, its heading, what it says first, and its content."""

    name: str
    title: str
    about: str
    body: Content


def all_sections(document: Row) -> list[Part]:
    """Return every section in the order of reading; those without content are left out by the page."""
    figures = {section["name"]: section for section in document["figures"]}
    placed = [
        _placed(document, name, figures.pop(name, None))
        for name in ("calibration", "quality", "physics", "matches")
    ]
    others = [Part(s["name"], s["title"], s["text"], drawn(s)) for s in figures.values()]
    return [
        Part(
            "grid",
            "Runs and steps",
            "How far each delivered chunk of a run is, step by step.",
            _grid(document),
        ),
        Part(
            "graph", "Production", "The graph of steps that the production file declares.", _graph(document)
        ),
        *placed,
        *others,
        Part(
            "collections",
            "Collections",
            "What came out: immutable sets of events over checksummed files.",
            _collections(document),
        ),
        Part(
            "ledger",
            "Ledger",
            "Every record is accounted for, per step and stream: "
            "read (or created, or requested of a generator) = written + filtered + prescaled + quarantined. "
            "Each term is counted where it happens; none is a difference.",
            _ledger(document),
        ),
        Part("conditions", "Conditions", CONDITIONS, _conditions(document)),
        *_latency(document),
        Part("jobs", "Jobs and timing", JOBS, _jobs(document)),
    ]


def outcome(document: Row) -> tuple[str, str]:
    """Return the state of the whole in one sentence, and its kind."""
    summary = document["summary"]
    states = [cell["state"] for row in document["grid"]["rows"] for cell in row["cells"].values()]
    failed = sum(KINDS.get(state) == "bad" for state in states)
    if failed or summary["unbalanced"]:
        text = (
            f"{failed} cells of the grid need attention, {summary['unbalanced']} ledger lines do not balance"
        )
        return text, "bad"
    if summary["units_ok"] < summary["units"] or not document["production"]["finished"]:
        return f"in work: {summary['units_ok']} of {summary['units']} units are done", "busy"
    quarantined = summary["quarantined"]
    rest = f"; {quarantined} in quarantine" if quarantined else ""
    return f"complete: {summary['units']} units done, every event accounted for{rest}", "good"


def tiles(document: Row) -> Markup:
    """Return the summary in numbers."""
    summary = document["summary"]
    chunks = sum(len(run["chunks"]) for run in document["runs"])
    delivered = summary["delivered"]
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in delivered.items())
    shown = [
        (len(document["runs"]), "", f"runs in {chunks} chunks"),
        (summary["units_ok"], f" / {summary['units']}", "units of work done"),
        (f"{sum(delivered.values()):,}", "", f"records delivered ({kinds})"),
        (summary["collections"], "", f"collections, {size(summary['bytes'])}"),
        (
            summary["ledger_lines"] - summary["unbalanced"],
            f" / {summary['ledger_lines']}",
            "ledger lines balance",
        ),
        (summary["quarantined"], "", "records in quarantine"),
        (
            f"{summary['wall_s']:.0f}",
            " s",
            f"on {len(summary['farms'])} farms, {summary['cpu_s']:.0f} s of CPU",
        ),
    ]
    cells = [
        tag("div", tag("b", value, tag("small", unit)), tag("span", name), class_="tile")
        for value, unit, name in shown
    ]
    return tag("div", cells, class_="tiles")


def drawn(section: Row | None) -> list[Markup]:
    """Return values, plots and tables of a section of the figures."""
    if section is None:
        return []
    parts = []
    if section["values"]:
        parts.append(tag("div", [_value(value) for value in section["values"]], class_="values"))
    if section["plots"]:
        parts.append(tag("div", [_plot(plot) for plot in section["plots"]], class_="plots"))
    small = [table for table in section["tables"] if _is_small(table)]
    large = [table for table in section["tables"] if not _is_small(table)]
    if small:
        parts.append(tag("div", [_figure_table(table) for table in small], class_="tables"))
    return parts + [_folded(table) for table in large]


def short(digest: str | None) -> str:
    """Return the part of a hash that tells it from others."""
    if not digest:
        return "–"
    head, colon, rest = digest.partition(":")
    return f"{head}:{rest[:12]}" if colon else digest[:12]


def size(count: float) -> str:
    """Return a number of bytes with its unit."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return ""


def time(seconds: float | None) -> str:
    """Return a time as people write it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S") if seconds else "–"


def cell_text(value: Any) -> str:
    """Return a number or text of a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 100_000 else str(value)
    return "–" if value is None else str(value)


def pill(state: str) -> Markup:
    """Return a state in its colour."""
    return tag("span", state, class_=f"pill {KINDS.get(state, '')}")


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Content]], numeric: Iterable[int] = (), **options: Any
) -> Markup:
    """Return a table in a card; columns in ``numeric`` stand right."""
    right = set(numeric)
    units = options.get("units") or [""] * len(columns)
    head = [
        tag("th", name, tag("small", unit) if unit else "", class_="n" if n in right else None)
        for n, (name, unit) in enumerate(zip(columns, units, strict=True))
    ]
    body = [
        tag("tr", [tag("td", c, class_="n" if n in right else None) for n, c in enumerate(row)])
        for row in rows
    ]
    caption = tag("caption", options["caption"]) if options.get("caption") else ""
    foot = options.get("foot", "")
    return tag(
        "div", tag("table", caption, tag("thead", tag("tr", head)), tag("tbody", body, foot)), class_="card"
    )


def _placed(document: Row, name: str, section: Row | None) -> Part:
    own = _chain(document) if name == "calibration" else _verdicts(document) if name == "quality" else []
    titles = {"calibration": "Calibration", "quality": "Quality", "physics": "Physics", "matches": "Matches"}
    title, about = (section["title"], section["text"]) if section else (titles[name], "")
    return Part(name, title, about, drawn(section) + own)


def _value(value: Row) -> Markup:
    limits = _limits(value)
    expected = f"answer key {cell_text(value['expected'])}" if value["expected"] is not None else ""
    notes = " · ".join(part for part in (expected, limits, value["note"]) if part)
    verdict = pill(value["verdict"]) if value["verdict"] else ""
    number = tag("b", cell_text(value["value"]), " ", value["unit"])
    return tag(
        "div", verdict, number, tag("span", value["name"]), tag("span", notes, class_="faint"), class_="value"
    )


def _limits(value: Row) -> str:
    low, high = value["low"], value["high"]
    if low is None and high is None:
        return ""
    if low is None:
        return f"at most {cell_text(high)}"
    return f"at least {cell_text(low)}" if high is None else f"{cell_text(low)} to {cell_text(high)}"


def _plot(figure: Row) -> Markup:
    verdict = pill(figure["verdict"]) if figure["verdict"] else ""
    note = tag("p", figure["note"]) if figure["note"] else ""
    return tag(
        "figure", tag("figcaption", figure["title"], verdict), svg.plot(figure), svg.legend(figure), note
    )


def _figure_table(figure: Row) -> Markup:
    numeric = [n for n in range(len(figure["columns"])) if _is_numeric(figure["rows"], n)]
    rows = [[pill(c) if c in ("good", "bad") else cell_text(c) for c in row] for row in figure["rows"]]
    drawn_table = table(figure["columns"], rows, numeric, caption=figure["title"], units=figure["units"])
    note = tag("p", figure["note"], class_="note") if figure["note"] else ""
    return tag("div", drawn_table, note)


def _is_small(figure: Row) -> bool:
    return len(figure["columns"]) <= 6 and len(figure["rows"]) <= FOLDED


def _folded(figure: Row) -> Markup:
    if len(figure["rows"]) <= FOLDED:
        return _figure_table(figure)
    title = f"{figure['title']}: {len(figure['rows'])} rows"
    return tag("details", tag("summary", title), _figure_table(figure))


def _is_numeric(rows: Sequence[Sequence[Any]], column: int) -> bool:
    cells = [row[column] for row in rows if row[column] is not None]
    return bool(cells) and all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in cells)


def _latency(document: Row) -> list[Part]:
    section = latency.drawn(document["latency"])
    return [Part(section["name"], section["title"], section["text"], drawn(section))] if section else []


def _grid(document: Row) -> Markup:
    columns = document["grid"]["columns"]
    head = [tag("th", "run"), [tag("th", c["step"], tag("small", c["kind"])) for c in columns]]
    rows = [
        tag(
            "tr",
            tag("td", _row_name(row)),
            [tag("td", _grid_cell(row["cells"].get(c["step"]))) for c in columns],
        )
        for row in document["grid"]["rows"]
    ]
    body = tag("table", tag("thead", tag("tr", head)), tag("tbody", rows), class_="grid")
    return tag("div", body, class_="card drawn")


def _row_name(row: Row) -> list[Content]:
    chunk = tag("span", f" chunk {row['sequence']}", class_="faint") if row["sequence"] != 1 else ""
    flags = _flags(row)
    tier = tag("span", row["tier"], class_="tagged") if row["tier"] != "raw" else ""
    return [
        tag("b", row["run"]),
        tag("span", f" series {row['series']}", class_="faint"),
        chunk,
        flags,
        tier,
    ]


def _grid_cell(cell: Row | None) -> Content:
    if cell is None:
        return ""
    count = tag("small", f" {cell['done']}/{cell['total']}") if cell["total"] > 1 else ""
    return tag("span", cell["state"], count, class_=f"cell pill {KINDS.get(cell['state'], '')}")


def _graph(document: Row) -> Markup | None:
    return tag("div", drawing.graph(document), class_="card drawn") if document["steps"] else None


def _chain(document: Row) -> list[Markup]:
    """Return what each chunk got from its predecessor and gave on, and what the fits say of themselves."""
    links = document["calibration"]
    roles = sorted({role for link in links for role in (link["result"] or {})})
    if not links:
        return []
    rows = [
        [
            link["step"],
            _chunk(link),
            pill(link["state"]),
            *(_constants(link["start"].get(role), link["result"].get(role)) for role in roles),
            tag("span", link["reason"], class_="faint"),
        ]
        for link in links
    ]
    caption = "Rolling constants: each chunk starts from what the one before it gave"
    chain = table(("step", "chunk", "state", *roles, "why"), rows, caption=caption)
    return [_unfolded(chain, len(rows), "the links of the chains"), *_fits(links)]


def _chunk(link: Row) -> Markup:
    tail = tag("span", f" chunk {link['sequence']}", class_="faint") if link["sequence"] != 1 else ""
    head = tag("span", f"series {link['series']} ", class_="faint")
    return tag("div", head, tag("b", link["run"]), tail, class_="w")


def _constants(before: str | None, after: str | None) -> Markup:
    """Return payloads as ``before → after``; constants that were kept are pale, what is to come is open."""
    if before is None and after is None:
        return Markup("")
    if after is None:
        return tag("div", tag("code", str(before)[:8]), " → …", class_="w faint")
    if before == after:
        return tag("div", tag("code", after[:8]), " kept", class_="w faint")
    return tag(
        "div", tag("code", (before or "–")[:8]), " → ", tag("code", after[:8], class_="new"), class_="w"
    )


def _fits(links: list[Row]) -> list[Markup]:
    """Return a folded table per calibration: a row per chunk, a column per figure."""
    names = sorted({name for link in links for name in (link["figures"] or {})})
    return [_fit(name, [link for link in links if name in (link["figures"] or {})]) for name in names]


def _fit(name: str, links: list[Row]) -> Markup:
    told = [dict(flat_figures(link["figures"][name])) for link in links]
    columns = list(dict.fromkeys(key for figures in told for key in figures))
    rows = [
        [_chunk(link), *(cell_text(figures.get(key)) for key in columns)]
        for link, figures in zip(links, told, strict=True)
    ]
    shown = table(("chunk", *columns), rows, range(1, len(columns) + 1))
    return tag("details", tag("summary", f"what the fits of {name} say, chunk by chunk"), shown)


def _verdicts(document: Row) -> list[Markup]:
    """Return the newest verdicts as a matrix, and the reasons of those that are not good."""
    verdicts = document["quality"]
    if not verdicts:
        return []
    subjects = sorted({(v["subject"], v["tier"]) for v in verdicts})
    held = {(v["series"], v["run"], v["subject"], v["tier"]): v for v in verdicts}
    rows = [
        [f"{series} {run}", *(_verdict(held.get((series, run, *subject))) for subject in subjects)]
        for series, run in dict.fromkeys((v["series"], v["run"]) for v in verdicts)
    ]
    caption = f"Verdicts by {', '.join(sorted({v['author'] for v in verdicts}))}"
    heads, tiers = zip(("run", ""), *subjects, strict=True)
    matrix = _unfolded(table(heads, rows, caption=caption, units=tiers), len(rows), "the verdicts")
    doubts = [
        [f"{v['series']} {v['run']}", v["tier"], v["subject"], pill(v["value"]), v["reason"]]
        for v in verdicts
        if v["value"] != "good"
    ]
    why = table(("run", "tier", "of", "verdict", "why"), doubts, caption="What is not good, and why")
    return [_unfolded(why, len(doubts), "what is not good, and why"), matrix] if doubts else [matrix]


def _unfolded(shown: Markup, rows: int, title: str) -> Markup:
    """Return a table as it is, or folded where it is very long."""
    return shown if rows <= LONG else tag("details", tag("summary", f"{title}: {rows} rows"), shown)


def _verdict(verdict: Row | None) -> Content:
    if verdict is None:
        return ""
    return tag(
        "span", verdict["value"], class_=f"pill {KINDS.get(verdict['value'], '')}", title=verdict["reason"]
    )


def _collections(document: Row) -> Content:
    """Return a table per step, the last step first; long ones are folded."""
    steps = [step["step"] for step in document["steps"]]
    made = {step: [c for c in document["collections"] if c["step"] == step] for step in reversed(steps)}
    return [_collections_of(step, found) for step, found in made.items() if found] or None


def _collections_of(step: str, found: list[Row]) -> Markup:
    records, stored = sum(c["events"] for c in found), size(sum(c["size"] for c in found))
    rows = [
        [
            [c["name"], _flags(c)],
            c["stream"],
            interval_text(c["interval"]),
            cell_text(c["events"]),
            size(c["size"]),
            tag("code", short(c["sha256"])),
            _parents(c["parents"]),
        ]
        for c in found
    ]
    columns = ("collection", "stream", "interval", "records", "size", "sha256", "parents")
    title = [tag("b", step), f" · {len(found)} collections · {records:,} records · {stored}"]
    return tag("details", tag("summary", title), table(columns, rows, (3, 4)), open=len(found) <= FOLDED)


def _flags(collection: Row) -> list[Markup]:
    names = [name for name, key in (("simulated", "is_mc"), ("resampled", "is_resampled")) if collection[key]]
    return [tag("span", name, class_="tagged") for name in names]


def _parents(names: list[str]) -> Content:
    if len(names) <= 2:
        return [tag("div", name) for name in names]
    return tag("details", tag("summary", f"{len(names)} files"), [tag("div", name) for name in names])


def _ledger(document: Row) -> Content:
    if not document["ledger"]:
        return None
    names, terms = ("step", "record", "stream", "kind"), terms_among(document["ledger"])
    rows = [
        [
            *(row[name] for name in names),
            *(f"{row.get(term, 0):,}" for term in terms),
            row["units"],
            _balance(row["balanced"]),
        ]
        for row in ledger_totals(document["ledger"])
    ]
    columns = (*names, *terms, "units", "balance")
    summary = table(columns, rows, range(4, 4 + len(terms) + 1))
    return [summary, _ledger_lines(document), _quarantine(document)]


def _balance(balanced: bool) -> Markup:
    return pill("balanced" if balanced else "unbalanced")


def _ledger_lines(document: Row) -> Markup:
    terms = terms_among(document["ledger"])
    rows = [
        [
            line["step"],
            line["record"],
            line["stream"],
            interval_text(line["interval"]),
            *(line.get(term, 0) for term in terms),
        ]
        for line in document["ledger"]
    ]
    lines = table(("step", "record", "stream", "interval", *terms), rows, range(4, 4 + len(terms)))
    return tag("details", tag("summary", f"all {len(rows)} lines"), lines)


def _quarantine(document: Row) -> Content:
    rows = [
        [tag("code", q["key"]), q["step"], q["record"], q["module"], q["error"]]
        for q in document["quarantine"]
    ]
    columns = ("key", "step", "record", "module", "error")
    return table(columns, rows, caption="Quarantine: records that a module could not process") if rows else ""


def _conditions(document: Row) -> Content:
    rows = [
        [
            row["tag"],
            interval_text(row["interval"]),
            pill(row["origin"]),
            tag("code", row["payload"][:12]),
            size(row["size"]),
            row["reason"],
        ]
        for row in document["conditions"]
    ]
    if not rows:
        return None
    resolved = [
        [c["name"], c["global_tag"], tag("code", short(c["resolved_hash"])), tag("code", short(c["release"]))]
        for c in document["collections"]
    ]
    detail = table(("collection", "global tag", "resolved hash", "release"), resolved)
    return [
        table(("tag", "interval", "origin", "payload", "size", "reason"), rows, (4,)),
        tag("details", tag("summary", "conditions and release of each collection"), detail),
    ]


def _jobs(document: Row) -> Content:
    if not document["units"]:
        return None
    lanes = tag("div", drawing.timeline(document), _step_key(document), class_="card drawn")
    return [
        lanes,
        _step_times(document),
        tag("details", tag("summary", "every attempt"), _attempts(document)),
    ]


def _step_key(document: Row) -> Markup:
    names = [step["step"] for step in document["steps"]]
    keys = [tag("span", tag("i", class_=f"key c{n % svg.COLOURS}"), name) for n, name in enumerate(names)]
    return tag("p", keys, class_="legend")


def _step_times(document: Row) -> Markup:
    rows = []
    for step in document["steps"]:
        tries = [a for u in document["units"] if u["step"] == step["step"] for a in u["attempts"]]
        cpu, wall = [a["cpu_s"] for a in tries if a["cpu_s"]], [a["wall_s"] for a in tries if a["wall_s"]]
        memory = max((a["max_rss_kb"] or 0 for a in tries), default=0)
        mean = sum(wall) / len(wall) if wall else 0.0
        cells = [
            f"{sum(cpu):.1f}",
            f"{sum(wall):.1f}",
            f"{mean:.2f}",
            f"{max(wall, default=0):.2f}",
            f"{memory / 1024:.0f}",
        ]
        rows.append([step["step"], step["kind"], pill(step["state"]), len(tries), *cells])
    columns = ("step", "kind", "state", "attempts", "CPU", "wall", "mean", "longest", "memory")
    return table(columns, rows, range(3, 9), units=("", "", "", "", "s", "s", "s", "s", "MB"))


def _attempts(document: Row) -> Markup:
    rows = [
        [
            u["step"],
            interval_text(u["interval"]),
            tag("code", u["key"][:12]),
            a["number"],
            pill(a["state"]),
            a["farm"],
            time(a["started"]),
            cell_text(a["wall_s"]),
            cell_text(a["cpu_s"]),
            a["failure_class"] or "",
            a["message"] or "",
        ]
        for u in document["units"]
        for a in u["attempts"]
    ]
    columns = (
        "step",
        "interval",
        "unit",
        "try",
        "state",
        "farm",
        "started",
        "wall s",
        "CPU s",
        "failure",
        "message",
    )
    return table(columns, rows, (3, 7, 8))
