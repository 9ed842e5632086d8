"""Units of work and their jobs in the database: exactly once is per unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from beamwright.core import garbage
from beamwright.core.canonical import content_hash
from beamwright.core.runs import Interval
from beamwright.db import bulk, history, schema, writing
from beamwright.production import seeds
from beamwright.production.tasks import ACTOR, Task

_POSITION = ("run", "section", "event")


@dataclass(frozen=True)
class UnitPlan:
    """A unit to be made; ``chunk_ids`` and ``collection_ids`` are its inputs in order.

    ``edition`` counts how often the same work was asked for anew, ``round`` the rounds of a calibration.
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
    round: int = 1


def unit_key(task: Task, unit: UnitPlan) -> str:
    """Return the unit's identity: the content hash of what makes it one unit and no other."""
    inputs = [[i["name"], i["sha256"]] for i in unit.definition["inputs"]]
    edition: list[Any] = [unit.edition] if unit.edition else []
    edition += ["round", unit.round] if unit.round > 1 else []
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
    with garbage.put_off():
        planned = {unit_key(task, unit): unit for unit in units}
        known = _known(conn, list(planned))
        new = {key: unit for key, unit in planned.items() if key not in known}
        ids = _write_units(conn, task, new, now)
        made = list(new.values())
        _write_inputs(conn, ids, made)
        seeds.claim(conn, task, dict(zip(ids, made, strict=True)))
        jobs = bulk.reserve(conn, schema.job, len(ids))
        state = {"state": "prepared", "failures": 0, "not_before": 0.0, "reason": "", "created": now}
        priorities = [unit.priority for unit in made]
        bulk.load(conn, schema.job, {"id": jobs, "unit_id": ids, "priority": priorities} | state)
        history.record_all(conn, "job", jobs, "prepared", actor=ACTOR, at=now)
    return ids


def _known(conn: sa.Connection, keys: Sequence[str]) -> set[str]:
    """Return the keys of which there are units."""
    column = schema.unit.c.key
    return {row.key for row in writing.among(conn, sa.select(column), column, keys)}


def _write_units(conn: sa.Connection, task: Task, units: Mapping[str, UnitPlan], now: float) -> list[int]:
    """Write units, given by key; return their ids."""
    made = list(units.values())
    ids = bulk.reserve(conn, schema.unit, len(made))
    names = ("kind", "record", "stream", "resolved_hash", "priority")
    columns: dict[str, Any] = {name: [getattr(unit, name) for unit in made] for name in names}
    columns |= {"id": ids, "key": list(units), "task_id": task.id, "created": now}
    columns |= {"config_version": task.config_version, "config_hash": task.config_hash}
    columns |= {"definition": writing.documents([unit.definition for unit in made])}
    columns |= {"series": [unit.interval.series for unit in made]}
    for end in ("first", "last"):
        parts = zip(*[getattr(unit.interval, end) for unit in made], strict=True)
        columns |= {f"{end}_{name}": list(part) for name, part in zip(_POSITION, parts, strict=False)}
    bulk.load(conn, schema.unit, columns)
    return ids


def _write_inputs(conn: sa.Connection, ids: Sequence[int], units: Sequence[UnitPlan]) -> None:
    """Write what units read, the chunks of each before its collections."""
    rows: list[tuple[int, int | None, int | None, int]] = []
    for unit_id, unit in zip(ids, units, strict=True):
        pairs = [*((chunk, None) for chunk in unit.chunk_ids), *((None, one) for one in unit.collection_ids)]
        rows += [(unit_id, *pair, position) for position, pair in enumerate(pairs)]
    names = ("unit_id", "chunk_id", "collection_id", "position")
    if rows:
        bulk.load(conn, schema.unit_input, dict(zip(names, zip(*rows, strict=True), strict=True)))


def interval_columns(interval: Interval) -> dict[str, Any]:
    """Return an interval as the columns that tables keep it in."""
    first = {f"first_{n}": v for n, v in zip(_POSITION, interval.first, strict=True)}
    return (
        {"series": interval.series}
        | first
        | {f"last_{n}": v for n, v in zip(_POSITION, interval.last, strict=True)}
    )


def row_interval(row: Any) -> Interval:
    """Read an interval out of a row that keeps it in columns."""
    return Interval(
        row.series,
        (row.first_run, row.first_section, row.first_event),
        (row.last_run, row.last_section, row.last_event),
    )
