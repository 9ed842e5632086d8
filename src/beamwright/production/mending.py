"""Merges that failed because of what they were given: which components are bad, and making them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from beamwright import durable
from beamwright.db import history, schema
from beamwright.production import redoing
from beamwright.production.interventions import Why, reopen
from beamwright.production.tasks import Plan

ACTOR = "planner"


@dataclass(frozen=True)
class Broken:
    """A failed merge with its bad components, rows of ``_components``, each with what is wrong with it."""

    unit: Any
    bad: list[tuple[Any, str]]


def broken(conn: sa.Connection, plan: Plan) -> list[tuple[Any, list[Any]]]:
    """Return the merges that failed for good because of an input, each with its components."""
    unit, job = schema.unit, schema.job
    ids = [task.id for task in plan.tasks.values() if task.step.kind == "merge"]
    query = sa.select(unit, job.c.id.label("job_id")).join(job, job.c.unit_id == unit.c.id)
    failed = (unit.c.task_id.in_(ids), job.c.state == "failed", job.c.reason.like("input:%"))
    rows = conn.execute(query.where(*failed).order_by(unit.c.id)).all()
    return [(row, _components(conn, int(row.id))) for row in rows]


def examine(unit: Any, components: Sequence[Any]) -> Broken:
    """Read a merge's components in full and compare them with the catalogue; no transaction is open."""
    return Broken(unit, [(row, wrong) for row in components if (wrong := _wrong(row))])


def reset(conn: sa.Connection, plan: Plan, found: Broken, now: float) -> int:
    """Have the bad components made again, and the merge after them; return how many components there were."""
    names = ", ".join(f"{row.scope}:{row.name} {wrong}" for row, wrong in found.bad)
    why = Why(ACTOR, f"its component {names}", now)
    tasks = {task.id: task for task in plan.tasks.values()}
    for row, wrong in found.bad:
        at: dict[str, Any] = {"actor": ACTOR, "at": now, "reason": wrong}
        history.move(conn, schema.replica, row.replica_id, "verified", "suspect", **at)
        history.move(conn, schema.replica, row.replica_id, "suspect", "lost", **at)
        history.move(conn, schema.collection, row.collection_id, "valid", "bad", **at)
        redoing.supersede(conn, [row.unit_id], Why(ACTOR, f"its output {wrong}", now))
        reopen(conn, tasks[row.task_id], why)
    redoing.supersede(conn, [found.unit.id], why)
    return len(found.bad)


def _components(conn: sa.Connection, unit_id: int) -> list[Any]:
    """Return the files that a merge takes, with their collections, replicas and the units that wrote them."""
    link, collection, file = schema.unit_input, schema.collection, schema.file
    member, replica, unit = schema.collection_file, schema.replica, schema.unit
    query = (
        sa.select(
            file.c.scope, file.c.name, file.c.size, file.c.sha256, replica.c.path,
            replica.c.id.label("replica_id"), collection.c.id.label("collection_id"),
            unit.c.id.label("unit_id"), unit.c.task_id,
        )
        .join(member, member.c.file_id == file.c.id)
        .join(collection, collection.c.id == member.c.collection_id)
        .join(link, link.c.collection_id == collection.c.id)
        .join(unit, collection.c.unit_id == unit.c.id)
        .join(replica, replica.c.file_id == file.c.id)
        .where(link.c.unit_id == unit_id, replica.c.state == "verified", collection.c.state == "valid")
        .order_by(link.c.position)
    )  # fmt: skip
    return list(conn.execute(query))


def _wrong(row: Any) -> str:
    """Say what is wrong with a file, or nothing."""
    try:
        digest = durable.hash_file(Path(row.path))
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if (digest.size, digest.sha256) == (row.size, row.sha256) else "is not what was registered"
