"""The run × step grid: one row per delivered chunk, one column per step, and how far each cell is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from beamwright.db import views

Row = dict[str, Any]

# The worst state of a cell's units names the cell.
SEVERITY = (
    "failed",
    "held",
    "cancelled",
    "rejected",
    "running",
    "submitted",
    "prepared",
    "collecting",
    "accumulating",
    "fitted",
    "waiting",
    "invalidated",
    "excluded",
    "split",
    "carried",
    "accepted",
    "ok",
    "superseded",
)
DONE = frozenset({"ok", "superseded", "excluded", "split", "accepted", "carried"})
BAD = frozenset({"failed", "held", "cancelled", "rejected"})


def grid(conn: sa.Connection, production: Row) -> Row:
    """Return ``columns`` (steps) and ``rows`` (chunks) with a cell per step that the chunk goes through.

    A cell holds ``state``, ``done`` and ``total`` units, and ``counts`` by state.
    """
    tasks = views.tasks(conn, production["id"])
    chunks = {row["id"]: row for row in views.chunks(conn)}
    states = _states(conn, production["id"])
    rows = []
    for chunk_id, chunk in chunks.items():
        steps = _applicable(tasks, production["spec"], chunk)
        cells = {
            task["step"]: _cell(states[chunk_id, task["step"]])
            for task in tasks
            if (chunk_id, task["step"]) in states or (task["step"] in steps and task["state"] != "closed")
        }
        if cells:
            rows.append(_row(chunk, cells))
    columns = [{"step": task["step"], "kind": task["kind"], "state": task["state"]} for task in tasks]
    return {"columns": columns, "rows": rows}


def is_bad(cell: Row) -> bool:
    """Tell whether somebody must look at the cell."""
    return cell["state"] in BAD


def chunks_of_units(conn: sa.Connection) -> dict[int, frozenset[int]]:
    """Return per unit the chunks that its records come from, through any number of steps."""
    inputs, makers = views.unit_inputs(conn), views.makers(conn)
    found: dict[int, frozenset[int]] = {}

    def of(unit: int) -> frozenset[int]:
        if unit not in found:
            chunks: set[int] = set()
            for chunk, collection in inputs.get(unit, ()):
                if chunk is not None:
                    chunks.add(chunk)
                elif collection in makers:
                    chunks |= of(makers[collection])
            found[unit] = frozenset(chunks)
        return found[unit]

    # A unit's inputs are older than the unit, so the recursion is never deeper than the graph of steps.
    for unit in sorted(inputs):
        of(unit)
    return found


def _states(conn: sa.Connection, production_id: int) -> defaultdict[tuple[int, str], list[str]]:
    """Return the states that make up each cell: of links for a calibration, of jobs for all else."""
    states: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
    links = views.links(conn, production_id)
    newest = {
        (link["chunk_id"], link["step"]): link["state"]
        for link in sorted(links, key=lambda row: row["generation"])
    }
    for key, state in newest.items():
        states[key].append(state)
    chained = {step for _, step in newest}
    chunks = chunks_of_units(conn)
    for unit in views.units(conn, production_id):
        if unit["step"] not in chained and unit["kind"] not in ("collect", "fit"):
            for chunk_id in chunks.get(unit["id"], ()):
                states[chunk_id, unit["step"]].append(unit["state"] or "prepared")
    return states


def _cell(states: Iterable[str]) -> Row:
    counts = Counter(states)
    if not counts:
        return {"state": "waiting", "done": 0, "total": 0, "counts": {}}
    done = sum(number for state, number in counts.items() if state in DONE)
    worst = min(counts, key=SEVERITY.index)
    return {"state": worst, "done": done, "total": counts.total(), "counts": dict(sorted(counts.items()))}


def _row(chunk: Row, cells: dict[str, Row]) -> Row:
    names = ("series", "run", "sequence", "tier", "first_section", "last_section")
    return (
        {name: chunk[name] for name in names}
        | {name: bool(chunk[name]) for name in ("is_mc", "is_resampled")}
        | {"cells": cells}
    )


def _applicable(tasks: list[Row], spec: Row, chunk: Row) -> set[str]:
    """Return the steps that will take something of a chunk: by its dataset, then by its kinds of records."""
    facts = {task["step"]: (task["config"] or {}).get("facts", {}) for task in tasks}
    known = {dataset["name"] for dataset in spec.get("dataset", []) if _holds(dataset, chunk)}
    for step in spec.get("step", []):
        for name in step["inputs"]:
            head, _, stream = name.partition(".")
            if head in known and (stream or _has_records(facts.get(step["name"], {}), step["kind"], chunk)):
                known.add(step["name"])
    return known


def _holds(dataset: Row, chunk: Row) -> bool:
    return bool(dataset["tier"] == chunk["tier"] and chunk["run"] in dataset["runs"].get(chunk["series"], []))


def _has_records(facts: Row, kind: str, chunk: Row) -> bool:
    """Chains and generators have to do with every chunk; a path takes those with records of its kind."""
    record = facts.get("record", "")
    return kind in ("calibrate", "generate") or not record or chunk["records"].get(record, 0) != 0
