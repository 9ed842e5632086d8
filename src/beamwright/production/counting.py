"""How a task stands: its jobs by state, its rate and end, its failures by class, node and farm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from beamwright.db import schema, views

# A rate is taken over the last so many seconds in which something ended.
RATE_S = 3600.0
MESSAGES_SHOWN = 5
FAILURES_SHOWN = 100
LEFT = ("prepared", "submitted", "running")
Row = dict[str, Any]


def shown_state(state: str, label: str | None, step: Mapping[str, Any]) -> str:
    """Return the name of a job's state: the user's own, while it stands for the one that the job is in."""
    declared = {item["name"]: item["stands_for"] for item in step.get("state") or ()}
    return label if label and declared.get(label) == state else state


def states(conn: sa.Connection, task_id: int) -> dict[str, int]:
    """Count the units of a task by the state of their jobs."""
    job, unit = schema.job, schema.unit
    query = sa.select(job.c.state, sa.func.count()).join(unit, job.c.unit_id == unit.c.id)
    found = conn.execute(query.where(unit.c.task_id == task_id).group_by(job.c.state).order_by(job.c.state))
    return {str(state): int(number) for state, number in found}


def summary(conn: sa.Connection, task: Any, now: float) -> Row:
    """Return how a task (a row) stands: states, attempts, failures, rate, estimated end, CPU efficiency."""
    job, unit = schema.job, schema.unit
    query = (
        sa.select(job.c.state, job.c.label, sa.func.count())
        .join(unit, job.c.unit_id == unit.c.id)
        .where(unit.c.task_id == task.id)
        .group_by(job.c.state, job.c.label)
    )
    states: dict[str, int] = {}
    left = 0
    for state, label, number in conn.execute(query):
        name = shown_state(state, label, task.config.get("step") or {})
        states[name] = states.get(name, 0) + number
        left += number if state in LEFT else 0
    tried = _attempts(conn, task.id, now)
    rate = tried["recent"] / tried["over_s"] if tried["over_s"] else 0.0
    return {
        "states": dict(sorted(states.items())),
        "attempts": tried["states"],
        "failures": tried["failures"],
        "jobs_per_s": rate,
        "left": left,
        "end_in_s": left / rate if rate and left else None,
        "cpu_efficiency": tried["cpu_s"] / tried["wall_s"] if tried["wall_s"] else None,
        "cpu_s": tried["cpu_s"],
        "messages": tried["messages"],
        "composition": composition(conn, task.id),
        "needs": task.needs,
        **({"generated": generated(conn, task.id)} if task.kind == "generate" else {}),
    }


def generated(conn: sa.Connection, task_id: int) -> Row:
    """Return what was requested of a task that generates, what was created, and what failed, by class.

    ``planned`` counts what its units are asked for, done or not; of the failures the first are named.
    """
    unit, job, line = schema.unit, schema.job, schema.ledger
    mine = (unit.c.task_id == task_id, job.c.state.not_in(("superseded", "split")))
    planned = sa.func.sum(unit.c.last_event - unit.c.first_event + 1)
    asked = sa.select(planned).join(job, job.c.unit_id == unit.c.id).where(*mine)
    columns = (sa.func.max(line.c.requested).label("requested"), sa.func.max(line.c.created).label("made"))
    each = sa.select(*columns).join(unit, line.c.unit_id == unit.c.id).join(job, job.c.unit_id == unit.c.id)
    done = each.where(*mine).group_by(line.c.unit_id).subquery()
    sums = conn.execute(sa.select(sa.func.sum(done.c.requested), sa.func.sum(done.c.made))).one()
    failures = _failed_events(conn, mine)
    return {
        "planned": int(conn.execute(asked).scalar() or 0),
        "requested": int(sums[0] or 0),
        "created": int(sums[1] or 0),
        "failed": dict(sorted(Counter(row["class"] for row in failures).items())),
        "failures": failures[:FAILURES_SHOWN],
    }


def _failed_events(conn: sa.Connection, mine: Sequence[sa.ColumnElement[bool]]) -> list[Row]:
    """Return the events that could not be generated, in key order; their class is that of the exception."""
    bad, unit, job = schema.quarantine, schema.unit, schema.job
    query = sa.select(bad).join(unit, bad.c.unit_id == unit.c.id).join(job, job.c.unit_id == unit.c.id)
    rows = conn.execute(query.where(*mine).order_by(bad.c.series, bad.c.run, bad.c.section, bad.c.event))
    return [
        {"key": f"{r.series}:{r.run}:{r.section}:{r.event}", "class": r.error.partition(":")[0]}
        | {"module": r.module, "error": r.error}
        for r in rows
    ]


def _attempts(conn: sa.Connection, task_id: int, now: float) -> Row:
    """Return the attempts at a task by state and failure class, what they took, how many went well lately."""
    attempt, job, unit = schema.attempt, schema.job, schema.unit
    is_recent = sa.and_(attempt.c.state == "accepted", attempt.c.ended > now - RATE_S)
    names = (attempt.c.state, attempt.c.failure_class, attempt.c.message)
    query = (
        sa.select(
            *names,
            sa.func.count().label("number"),
            sa.func.sum(attempt.c.cpu_s).label("cpu_s"),
            sa.func.sum(attempt.c.wall_s).label("wall_s"),
            sa.func.count(sa.case((is_recent, 1))).label("recent"),
            sa.func.min(sa.case((is_recent, attempt.c.leased))).label("first"),
        )
        .join(job, attempt.c.job_id == job.c.id)
        .join(unit, job.c.unit_id == unit.c.id)
        .where(unit.c.task_id == task_id)
        .group_by(*names)
    )
    rows = conn.execute(query).all()
    first = min((row.first for row in rows if row.first is not None), default=now)
    return {
        "states": _sums(rows, "state"),
        "failures": _sums([row for row in rows if row.failure_class], "failure_class"),
        "cpu_s": sum(row.cpu_s or 0.0 for row in rows),
        "wall_s": sum(row.wall_s or 0.0 for row in rows),
        "recent": sum(row.recent for row in rows),
        "over_s": min(RATE_S, now - first),
        "messages": _messages(rows),
    }


def _sums(rows: Sequence[Any], name: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        key = str(getattr(row, name))
        found[key] = found.get(key, 0) + int(row.number)
    return dict(sorted(found.items()))


def _messages(rows: Sequence[Any]) -> list[Row]:
    """Return the messages that most failures had."""
    failed = [row for row in rows if row.failure_class]
    most = sorted(failed, key=lambda row: (-row.number, row.failure_class, row.message or ""))
    return [
        {"failure": r.failure_class, "message": r.message or "", "attempts": r.number}
        for r in most[:MESSAGES_SHOWN]
    ]


def failures(conn: sa.Connection, task_id: int | None = None) -> list[Row]:
    """Return the failed attempts, of one task or of all, by task, farm, node and class."""
    attempt, job, unit, task = schema.attempt, schema.job, schema.unit, schema.task
    production = schema.production
    names = (production.c.name.label("production"), task.c.step, attempt.c.farm, attempt.c.host)
    columns = (*names, attempt.c.failure_class)
    query = (
        sa.select(*columns, sa.func.count().label("attempts"))
        .join(job, attempt.c.job_id == job.c.id)
        .join(unit, job.c.unit_id == unit.c.id)
        .join(task, unit.c.task_id == task.c.id)
        .join(production, task.c.production_id == production.c.id)
        .where(attempt.c.failure_class.is_not(None))
        .group_by(*columns)
        .order_by(*columns)
    )
    if task_id is not None:
        query = query.where(task.c.id == task_id)
    return [dict(row._mapping) for row in conn.execute(query)]


def ended(conn: sa.Connection, task_id: int | None = None) -> int:
    """Count the attempts, at one task or at all, that have ended: what failures are a share of."""
    attempt, job, unit = schema.attempt, schema.job, schema.unit
    query = sa.select(sa.func.count()).select_from(attempt).where(attempt.c.ended.is_not(None))
    if task_id is not None:
        query = query.join(job, attempt.c.job_id == job.c.id).join(unit, job.c.unit_id == unit.c.id)
        query = query.where(unit.c.task_id == task_id)
    return int(conn.execute(query).scalar_one())


def composition(conn: sa.Connection, task_id: int) -> list[Row]:
    """Return what a task's valid outputs were made with: configuration versions, releases, global tags."""
    collection, unit = schema.collection, schema.unit
    names = (unit.c.config_version, collection.c.release, collection.c.global_tag)
    query = (
        sa.select(
            *names, sa.func.count().label("collections"), sa.func.sum(collection.c.events).label("events")
        )
        .join(unit, collection.c.unit_id == unit.c.id)
        .where(unit.c.task_id == task_id, collection.c.state == "valid")
        .group_by(*names)
        .order_by(*names)
    )
    return [dict(row._mapping) for row in conn.execute(query)]


def find_jobs(conn: sa.Connection, key: str) -> list[Row]:
    """Return the jobs whose units' keys begin so."""
    job, unit, task, production = schema.job, schema.unit, schema.task, schema.production
    taken = ("kind", "stream", "resolved_hash")
    told = ("state", "label", "failures", "reason", "memory_mb", "wall_s", "avoid")
    query = (
        sa.select(
            unit, task.c.step, task.c.config, production.c.name.label("production"), job.c.id.label("job_id"),
            *(job.c[name] for name in told),
        )
        .join(job, job.c.unit_id == unit.c.id)
        .join(task, unit.c.task_id == task.c.id)
        .join(production, task.c.production_id == production.c.id)
        .where(unit.c.key >= key, unit.c.key < key + "g")
        .order_by(unit.c.key)
        .limit(1000)
    )  # fmt: skip
    return [
        {"id": r.job_id, "unit_id": r.id, "unit": r.key, "production": r.production, "step": r.step}
        | {"interval": views.interval_of(dict(r._mapping)), "definition": r.definition}
        | {name: getattr(r, name) for name in (*taken, *told)}
        | {"state": shown_state(r.state, r.label, r.config.get("step") or {})}
        for r in conn.execute(query)
    ]


FLYING = ("leased", "submitted", "running")


def open_tasks(conn: sa.Connection, now: float) -> list[Row]:
    """Return the tasks that are not closed, each with its summary."""
    task, production = schema.task, schema.production
    query = sa.select(task, production.c.name.label("production"))
    query = query.join(production, task.c.production_id == production.c.id).order_by(task.c.id)
    rows = conn.execute(query.where(task.c.state != "closed")).all()
    return [{"task": f"{r.production}/{r.step}", "state": r.state} | summary(conn, r, now) for r in rows]


def busy(conn: sa.Connection) -> dict[tuple[str, str], int]:
    """Count the attempts under way by farm and state."""
    attempt = schema.attempt
    columns = (attempt.c.farm, attempt.c.state)
    query = sa.select(*columns, sa.func.count()).where(attempt.c.state.in_(FLYING)).group_by(*columns)
    return {(farm, state): number for farm, state, number in conn.execute(query)}
