"""When a production will be done: what its steps have finished, at what rate, and what a deadline says."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from beamwright.db import schema
from beamwright.production.progress import Progress, expected_runs
from beamwright.production.tasks import Plan, Task

WINDOW = 0.5
"""The rate is that of the last so many of what was finished: the beginning of a production is slow."""


@dataclass(frozen=True)
class Projection:
    """How far a step is: runs done of those expected, runs an hour, when it is done (None: unknown)."""

    step: str
    done: int
    expected: int
    rate_h: float | None
    finish: float | None
    late_s: float | None = None

    def document(self) -> dict[str, Any]:
        return asdict(self)


def project(conn: sa.Connection, plan: Plan, now: float, deadline: float | None = None) -> list[Projection]:
    """Return the projection of each step; ``late_s`` is by how much it misses the deadline (early: < 0)."""
    progress = Progress(conn, plan)
    return [_step(conn, progress, task, now, deadline) for task in plan.tasks.values()]


def _step(
    conn: sa.Connection, progress: Progress, task: Task, now: float, deadline: float | None
) -> Projection:
    runs = expected_runs(progress.plan, task.step.name)
    left = [run for run in runs if not progress.is_complete(task.step.name, run)]
    times = _ends(conn, task.id)
    ends = sorted(times[run] for run in runs if run in times and run not in left)
    if not left:
        finish = ends[-1] if ends else now
        return Projection(task.step.name, len(runs), len(runs), None, finish, _late(finish, deadline))
    rate = _rate(ends, _start(conn, task.id), now)
    expected_end = now + len(left) / rate if rate else None
    per_hour = rate * 3600 if rate else None
    late = _late(expected_end, deadline)
    return Projection(task.step.name, len(runs) - len(left), len(runs), per_hour, expected_end, late)


def _late(finish: float | None, deadline: float | None) -> float | None:
    return None if finish is None or deadline is None else finish - deadline


def _rate(ends: list[float], start: float | None, now: float) -> float | None:
    """Return runs in a second over the last part of what was done, until now."""
    if not ends or start is None:
        return None
    first = int(len(ends) * (1 - WINDOW))
    since = ends[first - 1] if first else start
    return (len(ends) - first) / max(now - since, 1e-3)


def _ends(conn: sa.Connection, task_id: int) -> dict[tuple[str, int], float]:
    """Return when the last accepted work of each run ended."""
    attempt, job, unit = schema.attempt, schema.job, schema.unit
    query = (
        sa.select(unit.c.series, unit.c.first_run, sa.func.max(attempt.c.ended).label("ended"))
        .select_from(attempt.join(job, attempt.c.job_id == job.c.id).join(unit, job.c.unit_id == unit.c.id))
        .where(unit.c.task_id == task_id, attempt.c.state == "accepted", attempt.c.ended.is_not(None))
        .group_by(unit.c.series, unit.c.first_run)
    )
    return {(row.series, row.first_run): row.ended for row in conn.execute(query)}


def _start(conn: sa.Connection, task_id: int) -> float | None:
    """Return when the first work of a task was given out."""
    attempt, job, unit = schema.attempt, schema.job, schema.unit
    query = (
        sa.select(sa.func.min(attempt.c.leased))
        .select_from(attempt.join(job, attempt.c.job_id == job.c.id).join(unit, job.c.unit_id == unit.c.id))
        .where(unit.c.task_id == task_id)
    )
    found: float | None = conn.execute(query).scalar()
    return found
