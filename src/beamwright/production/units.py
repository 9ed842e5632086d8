"""Units of work and their jobs in the database: exactly once is per unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from beamwright.core.canonical import content_hash
from beamwright.core.runs import Interval
from beamwright.db import history, schema
from beamwright.db.engine import insert_id
from beamwright.production.tasks import ACTOR, Task


@dataclass(frozen=True)
class UnitPlan:
    """A unit to be made; ``chunk_ids`` and ``collection_ids`` are its inputs in order.

    ``edition`` counts how often the same work was asked for anew.
    """

    kind: str
    interval: Interval
    record: str
    definition: dict[str, Any]
    resolved_hash: str = ""
    stream: str = ""
    chunk_ids: tuple[int, ...] = ()
    collection_ids: tuple[int, ...] = ()
    priority: int = 0
    edition: int = 0


def unit_key(task: Task, unit: UnitPlan) -> str:
    """Return the unit's identity: the content hash of what makes it one unit and no other."""
    inputs = [[i["name"], i["sha256"]] for i in unit.definition["inputs"]]
    edition = [unit.edition] if unit.edition else []
    return content_hash(
        [
            task.production,
            task.step.name,
            unit.kind,
            unit.stream,
            unit.interval.document(),
            inputs,
            unit.record,
            task.config_version,
            task.config_hash,
            unit.resolved_hash,
            *edition,
        ]
    )


@dataclass(frozen=True)
class UnitJob:
    """How the job of a unit stands; ``figures`` are those of its accepted attempt."""

    state: str
    failures: int
    figures: dict[str, Any]


def unit_job(conn: sa.Connection, unit_id: int) -> UnitJob:
    """Return the state of a unit's job."""
    job, attempt = schema.job, schema.attempt
    row = conn.execute(sa.select(job).where(job.c.unit_id == unit_id)).one()
    accepted = sa.select(attempt.c.figures).where(attempt.c.job_id == row.id, attempt.c.state == "accepted")
    return UnitJob(row.state, row.failures, conn.execute(accepted).scalar() or {})


def ensure_unit(conn: sa.Connection, task: Task, unit: UnitPlan, now: float) -> int:
    """Make a unit with its job unless it is there; return its id."""
    add_units(conn, task, [unit], now)
    return int(
        conn.execute(
            sa.select(schema.unit.c.id).where(schema.unit.c.key == unit_key(task, unit))
        ).scalar_one()
    )


def add_units(conn: sa.Connection, task: Task, units: Sequence[UnitPlan], now: float) -> list[int]:
    """Make units with their jobs, prepared; a unit that is there already is left alone. Return the new
    units' ids.
    """
    made = []
    for unit in units:
        key = unit_key(task, unit)
        if conn.execute(sa.select(schema.unit.c.id).where(schema.unit.c.key == key)).first() is None:
            made.append(_add_unit(conn, task, unit, key, now))
    return made


def _add_unit(conn: sa.Connection, task: Task, unit: UnitPlan, key: str, now: float) -> int:
    common = {
        "kind": unit.kind,
        "record": unit.record,
        "stream": unit.stream,
        "resolved_hash": unit.resolved_hash,
    }
    unit_id = insert_id(
        conn,
        schema.unit,
        key=key,
        task_id=task.id,
        config_version=task.config_version,
        config_hash=task.config_hash,
        definition=unit.definition,
        priority=unit.priority,
        created=now,
        **common,
        **interval_columns(unit.interval),
    )
    inputs = [{"chunk_id": c, "collection_id": None} for c in unit.chunk_ids]
    inputs += [{"chunk_id": None, "collection_id": c} for c in unit.collection_ids]
    if inputs:
        conn.execute(
            sa.insert(schema.unit_input),
            [row | {"unit_id": unit_id, "position": i} for i, row in enumerate(inputs)],
        )
    job = {
        "unit_id": unit_id,
        "state": "prepared",
        "priority": unit.priority,
        "failures": 0,
        "not_before": 0.0,
        "reason": "",
    }
    job_id = insert_id(conn, schema.job, created=now, **job)
    history.record(conn, "job", job_id, "prepared", actor=ACTOR, at=now)
    return unit_id


def interval_columns(interval: Interval) -> dict[str, Any]:
    """Return an interval as the columns that tables keep it in."""
    names = ("run", "section", "event")
    first = {f"first_{n}": v for n, v in zip(names, interval.first, strict=True)}
    return (
        {"series": interval.series}
        | first
        | {f"last_{n}": v for n, v in zip(names, interval.last, strict=True)}
    )


def row_interval(row: Any) -> Interval:
    """Read an interval out of a row that keeps it in columns."""
    return Interval(
        row.series,
        (row.first_run, row.first_section, row.first_event),
        (row.last_run, row.last_section, row.last_event),
    )
