"""The document of a production: everything that its report shows and that ``demo --json`` writes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from beamwright.core.balance import imbalance, terms
from beamwright.core.runs import Interval
from beamwright.core.settings import Goals
from beamwright.db import views
from beamwright.report import grid as grids
from beamwright.report.latency import reached

Row = dict[str, Any]
FORMAT = 1


def build(
    conn: sa.Connection, production: Row, *, figures: list[Row] | None = None, workspace: Path | None = None,
    goals: Goals | None = None, now: float = 0.0,
) -> Row:  # fmt: skip
    """Return the document of one production; ``figures`` are those of its experiment.

    How long runs took is told where there are ``goals`` to hold it against.
    """
    identity = production["id"]
    units = views.units(conn, identity)
    attempts = views.attempts(conn, identity)
    lines = ledger(conn, identity)
    runs, made = _runs(conn, production), collections(conn, identity)
    shown = grids.grid(conn, production)
    return {
        "format": FORMAT,
        "production": _production(conn, production),
        "workspace": str(workspace) if workspace else None,
        "report": None,
        "summary": _summary(lines, runs, units, attempts, made),
        "runs": runs,
        "steps": _steps(conn, identity, production["spec"]),
        "grid": shown,
        "latency": reached(conn, production, shown, goals, now) if goals else [],
        "collections": made,
        "ledger": lines,
        "quarantine": [_quarantined(row) for row in views.quarantined(conn, identity)],
        "calibration": links(conn, identity),
        "conditions": _conditions(conn),
        "quality": [_verdict(row) for row in views.verdicts(conn)],
        "figures": figures or [],
        "units": _units(units, attempts),
    }


def _production(conn: sa.Connection, row: Row) -> Row:
    spec = row["spec"]
    wanted = {dataset["global_tag"] for dataset in spec.get("dataset", [])}
    tags = [tag for tag in views.global_tags(conn) if tag["name"] in wanted]
    return {
        "name": row["name"],
        "title": spec.get("title", ""),
        "experiment": row["experiment"],
        "release": row["release"],
        "spec_hash": row["spec_hash"],
        "global_tags": [{name: tag[name] for name in ("name", "state", "merkle")} for tag in tags],
        "datasets": [
            {key: dataset.get(key) for key in ("name", "tier", "runs", "global_tag", "is_mc", "is_resampled")}
            for dataset in spec.get("dataset", [])
        ],
        "created": row["created"],
        "finished": row["finished"],
    }


def _summary(
    lines: list[Row], runs: list[Row], units: list[Row], attempts: list[Row], collections: list[Row]
) -> Row:
    ended = [row["ended"] for row in attempts if row["ended"]]
    started = [row["leased"] for row in attempts]
    return {
        "units": len(units),
        "units_ok": sum(unit["state"] in grids.DONE for unit in units),
        "collections": len(collections),
        "delivered": _delivered(runs),
        "bytes": sum(c["size"] for c in collections),
        "ledger_lines": len(lines),
        "unbalanced": sum(not line["balanced"] for line in lines),
        "quarantined": sum(line["quarantined"] for line in lines),
        "attempts": len(attempts),
        "cpu_s": sum(row["cpu_s"] or 0.0 for row in attempts),
        "wall_s": max(ended) - min(started) if ended else 0.0,
        "farms": sorted({row["farm"] for row in attempts}),
    }


def _delivered(runs: list[Row]) -> dict[str, int]:
    """Return the delivered records by kind; resampled ones do not count."""
    counts: Counter[str] = Counter()
    for run in runs:
        for chunk in run["chunks"] if not run["is_resampled"] else ():
            counts.update(chunk["records"])
    return dict(sorted(counts.items()))


def balanced(line: Row) -> bool:
    """Tell whether a line accounts for every record."""
    return not imbalance(line)


def _runs(conn: sa.Connection, production: Row) -> list[Row]:
    files: dict[int, list[Row]] = defaultdict(list)
    for row in views.chunk_files(conn):
        files[row["chunk_id"]].append({key: row[key] for key in ("role", "name", "size", "sha256", "path")})
    chunks: dict[int, list[Row]] = defaultdict(list)
    for row in views.chunks(conn):
        names = ("sequence", "first_section", "last_section", "records", "reader")
        chunks[row["run_id"]].append({name: row[name] for name in names} | {"files": files[row["id"]]})
    wanted = _wanted_runs(production["spec"])
    return [
        {
            "series": row["series"],
            "number": row["number"],
            "tier": row["tier"],
            "state": row["state"],
            "version": row["version"],
            "is_mc": bool(row["is_mc"]),
            "is_resampled": bool(row["is_resampled"]),
            "chunks": chunks[row["id"]],
        }
        for row in views.runs(conn)
        if not wanted or (row["tier"], row["series"], row["number"]) in wanted
    ]


def _wanted_runs(spec: Row) -> set[tuple[str, str, int]]:
    return {
        (dataset["tier"], series, number)
        for dataset in spec.get("dataset", [])
        for series, numbers in dataset["runs"].items()
        for number in numbers
    }


def _steps(conn: sa.Connection, production_id: int, spec: Row) -> list[Row]:
    declared = {step["name"]: step for step in spec.get("step", [])}
    names = ("step", "kind", "state", "config_hash", "jobs")
    return [
        {name: task[name] for name in names}
        | {"inputs": declared.get(task["step"], {}).get("inputs", []), "uniform": bool(task["uniform"])}
        for task in views.tasks(conn, production_id)
    ]


def collections(
    conn: sa.Connection,
    production_id: int | None = None,
    ids: set[int] | None = None,
    states: Mapping[int, str] | None = None,
) -> list[Row]:
    """Return the collections of a production, or all, or those of some ids, with files and parents.

    ``states`` are those of another time than now.
    """
    files = views.files_of_collections(conn, ids)
    parents = views.parents(
        conn, None if ids is None else [f["id"] for found in files.values() for f in found]
    )
    rows = views.collections(conn, production_id, ids)
    rows = [row | {"state": states[row["id"]]} for row in rows] if states is not None else rows
    return [_collection(row, files.get(row["id"], []), parents) for row in rows]


def _collection(row: Row, files: list[Row], parents: dict[int, list[Row]]) -> Row:
    names = (
        "production",
        "tier",
        "stream",
        "step",
        "state",
        "events",
        "release",
        "config_hash",
        "global_tag",
        "resolved_hash",
    )
    return {
        "name": row["did"],
        **{name: row[name] for name in names},
        "series": row["series"],
        "interval": views.interval_of(row),
        "size": sum(file["size"] for file in files),
        "sha256": files[0]["sha256"] if len(files) == 1 else None,
        "files": [{key: file[key] for key in ("name", "size", "sha256", "uuid", "path")} for file in files],
        "parents": sorted({parent["name"] for file in files for parent in parents.get(file["id"], [])}),
        "is_mc": bool(row["is_mc"]),
        "is_resampled": bool(row["is_resampled"]),
    }


def ledger(conn: sa.Connection, production_id: int | None = None) -> list[Row]:
    """Return the ledger lines, each with the kind of its events: data, simulation or resampled."""
    kinds, made = views.kinds(conn), views.kinds_made(conn)
    return [
        {"step": row["step"], "record": row["record"], "stream": row["stream"], "unit": row["unit"]}
        | {"kind": made.get(row["unit_id"]) or kinds.get((row["series"], row["first_run"]), "data")}
        | {"interval": views.interval_of(row)}
        | {term: row[term] for term in terms(row)}
        | {"balanced": balanced(row)}
        for row in views.ledger_lines(conn, production_id)
    ]


def _quarantined(row: Row) -> Row:
    key = ":".join(str(row[name]) for name in ("series", "run", "section", "event"))
    return {"key": key} | {name: row[name] for name in ("step", "record", "module", "error")}


def links(conn: sa.Connection, production_id: int | None = None) -> list[Row]:
    """Return the links of all chains, in order."""
    return [_link(row) for row in views.links(conn, production_id)]


def ledger_totals(lines: list[Row]) -> list[Row]:
    """Return the sums of ledger lines per step, record kind, stream and kind of events: these never mix."""
    names = ("step", "record", "stream", "kind")
    sums: dict[tuple[str, ...], Row] = {}
    for line in lines:
        total = sums.setdefault(
            tuple(line[name] for name in names),
            dict.fromkeys(terms(line), 0) | {"units": 0, "balanced": True},
        )
        for term in terms(line):
            total[term] += line[term]
        total["units"] += 1
        total["balanced"] &= line["balanced"]
    return [dict(zip(names, key, strict=True)) | total for key, total in sums.items()]


def _link(row: Row) -> Row:
    names = (
        "step",
        "series",
        "run",
        "sequence",
        "generation",
        "state",
        "start",
        "result",
        "figures",
        "reason",
    )
    return {name: row[name] for name in names} | {"interval": views.interval_of(row)}


def flat_figures(told: Any) -> list[tuple[str, Any]]:
    """Return what one fit says of itself: statistics, decision and its own figures, by name."""
    if not isinstance(told, dict):
        return [("value", told)]
    own = told.get("figures") or {}
    found = [(key, told[key]) for key in ("statistics", "decision") if key in told]
    found += sorted(own.items()) if isinstance(own, dict) else []
    return [(name, value) for name, value in found if value is None or isinstance(value, int | float | str)]


def _conditions(conn: sa.Connection) -> list[Row]:
    """Return the intervals of every tag; tag versions depend on the order of sweeps and are left out."""
    return [
        {
            "tag": row["tag"],
            "kind": row["kind"],
            "interval": views.interval_of(row),
            "payload": row["payload_id"],
            "size": row["size"],
            "origin": row["origin"],
            "reason": row["reason"],
            "generation": row["generation"],
        }
        for row in views.validities(conn)
    ]


def _verdict(row: Row) -> Row:
    return {
        name: row[name]
        for name in ("series", "run", "tier", "subject", "value", "author", "reason", "checks")
    }


def _units(units: list[Row], attempts: list[Row]) -> list[Row]:
    tries: dict[int, list[Row]] = defaultdict(list)
    for row in attempts:
        tries[row["unit_id"]].append(_attempt(row))
    names = ("step", "kind", "stream", "key", "record", "config_hash", "resolved_hash")
    return [
        {name: unit[name] for name in names}
        | {
            "interval": views.interval_of(unit),
            "state": unit["state"] or "none",
            "attempts": tries[unit["id"]],
        }
        for unit in units
    ]


def _attempt(row: Row) -> Row:
    names = (
        "number",
        "nonce",
        "state",
        "farm",
        "host",
        "leased",
        "started",
        "ended",
        "cpu_s",
        "wall_s",
        "max_rss_kb",
        "exit_code",
        "failure_class",
        "message",
        "release",
        "timings",
    )
    return {name: row[name] for name in names}


def interval_text(document: list[Any]) -> str:
    """Return an interval of the document as people write it."""
    return str(Interval.from_document(document))
