"""The document of a production as text: what ``demo`` prints at its end."""

from __future__ import annotations

from typing import Any

from beamwright.report import text
from beamwright.report.document import TERMS, flat_figures, ledger_totals

Row = dict[str, Any]


def lines(document: Row) -> list[str]:
    """Return the final account of a production."""
    parts = [
        _titled("Runs and steps", grid_lines(document["grid"])),
        _titled("Collections", _collections(document)),
        _titled(
            "Ledger: read (or created) = written + filtered + prescaled + quarantined", _ledger(document)
        ),
        _titled("Calibration, run by run", _links(document)),
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
    simulated = " (simulated)" if row["is_mc"] else ""
    return f"{row['series']}/{row['run']}{chunk}{simulated}"


def cell_text(cell: Row | None) -> str:
    """Return the state of a cell, with its units where there are several."""
    if cell is None:
        return " "
    return f"{cell['state']} {cell['done']}/{cell['total']}" if cell["total"] > 1 else str(cell["state"])


def _titled(title: str, body: list[str]) -> list[str]:
    return ["", title, *("  " + line for line in body)] if body else []


def _collections(document: Row) -> list[str]:
    rows = [
        [
            c["name"],
            c["stream"],
            c["events"],
            c["size"],
            (c["sha256"] or "")[:12],
            _some(c["parents"]),
        ]
        for c in document["collections"]
    ]
    return text.table(("collection", "stream", "events", "bytes", "sha256", "parents"), rows) if rows else []


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 2 else f"{names[0]} and {len(names) - 1} more"


def _ledger(document: Row) -> list[str]:
    totals = ledger_totals(document["ledger"])
    rows = [
        [t["step"], t["record"], t["stream"], *(t[term] for term in TERMS), t["balanced"]] for t in totals
    ]
    return text.table(("step", "record", "stream", *TERMS, "balanced"), rows) if rows else []


def _links(document: Row) -> list[str]:
    rows = [
        [
            link["step"],
            f"{link['series']}/{link['run']}",
            link["state"],
            _short(link["start"]),
            _short(link["result"]),
            _figures(link["figures"]),
            link["reason"],
        ]
        for link in document["calibration"]
    ]
    return (
        text.table(("step", "run", "state", "starts from", "gives", "figures", "reason"), rows)
        if rows
        else []
    )


def _figures(figures: Any) -> str:
    shown = [(name, value) for name, value in flat_figures(figures) if isinstance(value, int | float)]
    return ", ".join(f"{name} {text.shown(value)}" for name, value in shown)


def _short(constants: Any) -> str:
    if not isinstance(constants, dict):
        return text.shown(constants)
    return ", ".join(f"{name.rpartition('/')[2]} {str(value)[:8]}" for name, value in constants.items())


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
    return text.table(("key", "step", "module", "error"), rows) if rows else []
