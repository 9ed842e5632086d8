"""The document of a production as text: what ``demo`` prints at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from beamwright.core.balance import terms_among
from beamwright.report import text
from beamwright.report.document import ledger_totals

Row = dict[str, Any]
SHOWN = 10


def lines(document: Row) -> list[str]:
    """Return the final account of a production."""
    parts = [
        _titled("Runs and steps", grid_lines(document["grid"])),
        _titled("Collections", _collections(document)),
        _titled(
            "Ledger: read (or created, or requested) = written + filtered + prescaled + quarantined",
            _ledger(document),
        ),
        _titled("Calibration, run by run", link_lines(document["calibration"])),
        *(_section(section) for section in document["figures"]),
        _titled("Verdicts", _verdicts(document)),
        _titled("Quarantine", _quarantine(document)),
    ]
    return [line for part in parts for line in part]


def grid_lines(grid: Row) -> list[str]:
    """Return the run × step grid as a table."""
    steps = [column["step"] for column in grid["columns"]]
    rows = [[chunk_name(row), *(cell_text(row["cells"].get(step)) for step in steps)] for row in grid["rows"]]
    return text.table(["run", *steps], rows) if rows else []


def chunk_name(row: Row) -> str:
    """Return a row of the grid by name."""
    chunk = f" chunk {row['sequence']}" if row["sequence"] != 1 else ""
    kind = _kind(row)
    return f"{row['series']}/{row['run']}{chunk}" + (f" ({kind})" if kind != "data" else "")


def _kind(row: Row) -> str:
    return "resampled" if row.get("is_resampled") else "simulation" if row.get("is_mc") else "data"


def cell_text(cell: Row | None) -> str:
    """Return the state of a cell, with its units where there are several."""
    if cell is None:
        return " "
    return f"{cell['state']} {cell['done']}/{cell['total']}" if cell["total"] > 1 else str(cell["state"])


def _titled(title: str, body: list[str]) -> list[str]:
    return ["", title, *("  " + line for line in body)] if body else []


def _collections(document: Row) -> list[str]:
    """Return the collections in the order of the steps that made them."""
    order = {step["step"]: number for number, step in enumerate(document["steps"])}
    found = sorted(document["collections"], key=lambda c: (order.get(c["step"], len(order)), c["name"]))
    rows = [
        [c["name"], c["events"], c["size"], (c["sha256"] or "")[:12], _kind(c), _some(c["parents"])]
        for c in found
    ]
    columns = ("collection", "events", "bytes", "sha256", "kind", "parents")
    return text.table(columns, rows) if rows else []


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more" if names else ""


def _ledger(document: Row) -> list[str]:
    totals, terms = ledger_totals(document["ledger"]), terms_among(document["ledger"])
    rows = [
        [t["step"], t["record"], t["stream"], t["kind"], *(t.get(term, 0) for term in terms), t["balanced"]]
        for t in totals
    ]
    return text.table(("step", "record", "stream", "kind", *terms, "balanced"), rows) if rows else []


def link_lines(links: Sequence[Row]) -> list[str]:
    """Return the run × constant table: what each run started from, what it gave, and why."""
    roles = sorted({role for link in links for role in (link["result"] or {})})
    is_again = any(link["generation"] for link in links)
    rows = [
        [
            link["step"],
            chunk_name(link),
            *([link["generation"]] if is_again else []),
            link["state"],
            *(_constants(link["start"].get(role), (link["result"] or {}).get(role)) for role in roles),
            link["reason"],
        ]
        for link in links
    ]
    columns = ("step", "run", *(["generation"] if is_again else []), "state", *roles, "why")
    return text.table(columns, rows) if rows else []


def _constants(before: str | None, after: str | None) -> str:
    if before is None and after is None:
        return ""
    if after is None:
        return f"{str(before)[:8]} → …"
    if before == after:
        return f"{after[:8]} kept"
    return f"{(before or '–')[:8]} → {after[:8]}"


def _section(section: Row) -> list[str]:
    values = [
        [v["name"], v["value"], v["unit"], v["expected"], _limits(v), v["verdict"]] for v in section["values"]
    ]
    body = (
        text.table(("figure", "value", "unit", "answer key", "limits", "verdict"), values) if values else []
    )
    for table in section["tables"]:
        body += ["", table["title"], *text.table(table["columns"], table["rows"], indent="  ")]
    return _titled(section["title"], body)


def _limits(value: Row) -> str:
    ends = [text.shown(value[end]) if value[end] is not None else "" for end in ("low", "high")]
    return "…".join(ends) if any(ends) else ""


def _verdicts(document: Row) -> list[str]:
    rows = [
        [f"{v['series']}/{v['run']}", v["tier"], v["subject"], v["value"], v["reason"]]
        for v in document["quality"]
    ]
    return text.table(("run", "tier", "of", "verdict", "why"), rows) if rows else []


def _quarantine(document: Row) -> list[str]:
    rows = [[q["key"], q["step"], q["module"], q["error"]] for q in document["quarantine"]]
    more = (
        [f"and {len(rows) - SHOWN} more: `beamwright report --json` lists all"] if len(rows) > SHOWN else []
    )
    return [*text.table(("key", "step", "module", "error"), rows[:SHOWN]), *more] if rows else []
