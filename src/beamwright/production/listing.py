"""Lists of jobs: of some states, steps, failures, farms, a page at a time, however many there are."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from beamwright.core.errors import UnknownNameError
from beamwright.core.messages import FAILURES
from beamwright.core.states import states
from beamwright.db import schema, views, writing
from beamwright.production.counting import shown_state

PAGE = 1000
Row = dict[str, Any]
_OF_UNIT = ("kind", "stream", "resolved_hash")
_OF_JOB = ("failures", "reason", "not_before")


@dataclass(frozen=True)
class Wanted:
    """Which jobs are asked for: those of which all of this is true; what is empty is not asked.

    ``states`` may hold states that task files declare. ``failure``, ``farm`` and ``since`` are of one
    attempt: how it failed, where it was, when it was leased or ended. ``after`` is a job's id: those made
    later.
    """

    tasks: tuple[int, ...] | None = None
    states: tuple[str, ...] = ()
    failure: str = ""
    farm: str = ""
    since: float | None = None
    after: int = 0


def tasks(conn: sa.Connection, step: str = "", name: str = "") -> tuple[int, ...] | None:
    """Return the tasks of a step, of any production, or of the name ``production/step``; None for all.

    Raises: UnknownNameError.
    """
    task, production = schema.task, schema.production
    if not step and not name:
        return None
    query = sa.select(task.c.id, task.c.step, production.c.name).join(production)
    rows = conn.execute(query.order_by(task.c.id)).all()
    for kind, asked, known in (
        ("step", step, {row.step for row in rows}),
        ("task", name, {f"{row.name}/{row.step}" for row in rows}),
    ):
        if asked and asked not in known:
            raise UnknownNameError(kind, asked, known)
    return tuple(r.id for r in rows if step in ("", r.step) and name in ("", f"{r.name}/{r.step}"))


def check(conn: sa.Connection, wanted: Wanted) -> None:
    """Refuse states, failures and farms that no job could have.

    Raises: UnknownNameError.
    """
    known = states("job")
    if set(wanted.states) - known:
        known = known | _declared(conn)
    for state in wanted.states:
        if state not in known:
            raise UnknownNameError("state of jobs", state, known)
    if wanted.failure and wanted.failure not in FAILURES:
        raise UnknownNameError("failure class", wanted.failure, FAILURES)
    attempt = schema.attempt
    is_there = sa.select(attempt.c.id).where(attempt.c.farm == wanted.farm).limit(1)
    if wanted.farm and conn.execute(is_there).first() is None:
        farms = conn.execute(sa.select(attempt.c.farm).distinct()).scalars()
        raise UnknownNameError("farm with attempts", wanted.farm, set(farms))


def number(conn: sa.Connection, wanted: Wanted) -> int:
    """Count the jobs."""
    query = _chosen(wanted, sa.func.count(schema.job.c.id))
    return int(conn.execute(query).scalar_one())


def page(conn: sa.Connection, wanted: Wanted, limit: int) -> list[Row]:
    """Return the first so many of the jobs, in the order in which they were made."""
    id = schema.job.c.id
    ids = list(conn.execute(_chosen(wanted, id).order_by(id).limit(limit)).scalars())
    found = {row.id: row for row in writing.among(conn, _whole(), id, ids)}
    return [_row(found[one]) for one in ids]


def jobs(conn: sa.Connection, wanted: Wanted, limit: int | None = None) -> Iterator[Row]:
    """Yield the jobs, at most so many of them; a page of them is held at a time."""
    left = sys.maxsize if limit is None else limit
    while left > 0:
        rows = page(conn, wanted, min(PAGE, left))
        yield from rows
        left = left - len(rows) if len(rows) == PAGE else 0
        wanted = replace(wanted, after=rows[-1]["id"]) if rows else wanted


def _chosen(wanted: Wanted, what: sa.ColumnElement[Any]) -> sa.Select[Any]:
    job, unit = schema.job, schema.unit
    query = sa.select(what).where(job.c.id > wanted.after) if wanted.after else sa.select(what)
    query = query.select_from(job)
    if wanted.tasks is not None:
        query = query.join(unit, job.c.unit_id == unit.c.id).where(unit.c.task_id.in_(wanted.tasks))
    if wanted.states:
        own = [state for state in wanted.states if state not in states("job")]
        built_in = job.c.state.in_([state for state in wanted.states if state not in own])
        query = query.where(sa.or_(built_in, job.c.label.in_(own)) if own else built_in)
    tried = _tried(wanted)
    if tried is not None:  # joined, since SQLite would go through them once for each job
        query = query.join(tried, tried.c.job_id == job.c.id)
    return query


def _tried(wanted: Wanted) -> sa.Subquery | None:
    """Return the jobs of the attempts that are asked for; None where any may be."""
    attempt = schema.attempt
    conditions = [attempt.c.failure_class == wanted.failure] if wanted.failure else []
    conditions += [attempt.c.farm == wanted.farm] if wanted.farm else []
    if wanted.since is not None:
        conditions.append(sa.or_(attempt.c.leased >= wanted.since, attempt.c.ended >= wanted.since))
    return sa.select(attempt.c.job_id).where(*conditions).distinct().subquery() if conditions else None


def _whole() -> sa.Select[Any]:
    job, unit, task, production = schema.job, schema.unit, schema.task, schema.production
    own = task.c.config[("step", "state")].label("own_states")
    columns = [column for column in unit.c if column.name not in ("id", "definition")]
    told = (job.c[name] for name in ("id", "unit_id", "state", "label", *_OF_JOB))
    return (
        sa.select(*told, *columns, task.c.step, production.c.name.label("production"), own)
        .select_from(job)
        .join(unit, job.c.unit_id == unit.c.id)
        .join(task, unit.c.task_id == task.c.id)
        .join(production, task.c.production_id == production.c.id)
    )


def _row(row: Any) -> Row:
    """Return a job as it is told; ``state`` is the user's own where one is declared and meant."""
    named = {"id": row.id, "unit_id": row.unit_id, "unit": row.key}
    named |= {
        "production": row.production,
        "step": row.step,
        "interval": views.interval_of(dict(row._mapping)),
    }
    state = shown_state(row.state, row.label, {"state": row.own_states})
    return named | {"state": state} | {name: getattr(row, name) for name in (*_OF_UNIT, *_OF_JOB)}


def _declared(conn: sa.Connection) -> set[str]:
    """Return the states that task files declare."""
    configs: Sequence[dict[str, Any]] = conn.execute(sa.select(schema.task.c.config)).scalars().all()
    return {item["name"] for config in configs for item in (config.get("step") or {}).get("state") or ()}
