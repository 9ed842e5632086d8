"""The first units of a task go ahead: until they have succeeded the others wait; what they needed counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from beamwright.db import history, schema

ACTOR = "submitter"
# The needs of the rest are those of the scouts, with room.
MEMORY_ROOM, WALL_ROOM, DISK_ROOM, LEAST_MB, LEAST_S = 1.5, 3.0, 2.0, 200, 60.0
OPEN_TASKS = ("active", "draining")
GONE = ("superseded", "cancelled", "split")


def startable(conn: sa.Connection) -> sa.ColumnElement[bool]:
    """Return the condition on jobs and their units that they may start: prepared, of a task that is at work,
    and a scout where the scouts of its task are still out.
    """
    task, job, unit = schema.task, schema.job, schema.unit
    stopped = conn.execute(sa.select(task.c.id).where(task.c.state.not_in(OPEN_TASKS))).scalars().all()
    gated = {row.id: scouts(conn, row) for row in _gated(conn)}
    conditions = [job.c.state == "prepared"]
    if stopped:
        conditions.append(unit.c.task_id.not_in(stopped))
    if gated:
        ahead = [row.id for rows in gated.values() for row in rows]
        conditions.append(sa.or_(unit.c.task_id.not_in(list(gated)), job.c.id.in_(ahead)))
    return sa.and_(*conditions)


def release(conn: sa.Connection, now: float) -> int:
    """Let the rest of each task go whose scouts have all succeeded; return how many tasks that were."""
    ready = [(row, found) for row in _gated(conn) if (found := scouts(conn, row)) and _are_done(row, found)]
    for row, found in ready:
        needs = measured(conn, [job.id for job in found])
        conn.execute(
            sa.update(schema.task).where(schema.task.c.id == row.id).values(released=now, needs=needs)
        )
        reason = f"{len(found)} scouts succeeded"
        history.record(conn, "task", row.id, "released", actor=ACTOR, reason=reason, at=now, data=needs)
    return len(ready)


def has_scouted(conn: sa.Connection) -> bool:
    """Tell whether the scouts of some task are all back."""
    return any((found := scouts(conn, row)) and _are_done(row, found) for row in _gated(conn))


def waiting(conn: sa.Connection, task_id: int) -> int:
    """Count the jobs of a task that wait for its scouts."""
    job, unit = schema.job, schema.unit
    row = next((row for row in _gated(conn) if row.id == task_id), None)
    if row is None:
        return 0
    query = sa.select(sa.func.count()).select_from(job).join(unit, job.c.unit_id == unit.c.id)
    ahead = [found.id for found in scouts(conn, row)]
    mine = (unit.c.task_id == task_id, job.c.state == "prepared", job.c.id.not_in(ahead))
    return int(conn.execute(query.where(*mine)).scalar_one())


def scouts(conn: sa.Connection, row: Any) -> Sequence[Any]:
    """Return the jobs of a task that go ahead, with their states."""
    job, unit = schema.job, schema.unit
    query = (
        sa.select(job.c.id, job.c.state)
        .join(unit, job.c.unit_id == unit.c.id)
        .where(unit.c.task_id == row.id, unit.c.config_version == row.config_version)
        .where(job.c.state.not_in(GONE))
        .order_by(job.c.id)
        .limit(int(row.config["step"]["scouts"]))
    )
    return conn.execute(query).all()


def measured(conn: sa.Connection, job_ids: Sequence[int]) -> dict[str, Any]:
    """Return what accepted attempts at jobs took, at most: memory, wall and CPU time, size of the outputs."""
    attempt, file = schema.attempt, schema.file
    mine = sa.and_(attempt.c.job_id.in_(job_ids), attempt.c.state == "accepted")
    most = sa.select(
        sa.func.max(attempt.c.max_rss_kb), sa.func.max(attempt.c.wall_s), sa.func.max(attempt.c.cpu_s)
    )
    rss_kb, wall_s, cpu_s = conn.execute(most.where(mine)).one()
    sizes = sa.select(sa.func.sum(file.c.size)).join(attempt, file.c.attempt_id == attempt.c.id)
    largest = max(conn.execute(sizes.where(mine).group_by(attempt.c.id)).scalars(), default=0)
    return {
        "memory_mb": max(LEAST_MB, round((rss_kb or 0) / 1024 * MEMORY_ROOM)),
        "wall_s": max(LEAST_S, (wall_s or 0.0) * WALL_ROOM),
        "cpu_s": cpu_s or 0.0,
        "output_bytes": int(largest),
        # Outputs are made in the scratch directory, beside what they are made of.
        "disk_mb": max(LEAST_MB, round(int(largest) / 1e6 * DISK_ROOM)),
    }


def _gated(conn: sa.Connection) -> list[Any]:
    """Return the tasks whose scouts are still out."""
    task = schema.task
    columns = (task.c.id, task.c.config, task.c.config_version)
    query = sa.select(*columns).where(task.c.released.is_(None), task.c.state.in_(OPEN_TASKS))
    return [row for row in conn.execute(query) if (row.config.get("step") or {}).get("scouts")]


def _are_done(row: Any, found: Sequence[Any]) -> bool:
    enough = len(found) >= int(row.config["step"]["scouts"])
    return enough and all(job.state in ("ok", "excluded") for job in found)
