"""What a person does to jobs and tasks: hold, release, cancel, retry, ignore; each with a reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa

from beamwright.core import states
from beamwright.core.errors import StateError, UnknownNameError
from beamwright.db import history, schema
from beamwright.db.engine import batched
from beamwright.production import redoing
from beamwright.production.interventions import Why
from beamwright.production.tasks import plan

Verb = Literal["hold", "release", "cancel", "retry", "ignore"]

DONE: Mapping[Verb, str] = {
    "hold": "held", "release": "released", "cancel": "cancelled", "retry": "retried", "ignore": "ignored",
}  # fmt: skip
# From which states each verb moves a job, and where to.
MOVES: Mapping[Verb, Mapping[str, str]] = {
    "hold": dict.fromkeys(("prepared", "submitted", "running", "failed"), "held"),
    "release": {"held": "prepared"},
    "cancel": dict.fromkeys(("prepared", "submitted", "running", "failed", "held"), "cancelled"),
    "retry": {"failed": "prepared", "cancelled": "superseded"},
    "ignore": {"failed": "excluded"},
}
FRESH: Mapping[str, Any] = {"failures": 0, "not_before": 0.0, "wish": None}


def of_units(conn: sa.Connection, unit_ids: Sequence[int]) -> list[Any]:
    """Return the jobs of units, with the task and the key of each unit."""
    job, unit = schema.job, schema.unit
    query = sa.select(job, unit.c.key, unit.c.task_id).join(unit, job.c.unit_id == unit.c.id)
    rows = [row for part in batched(list(unit_ids)) for row in conn.execute(query.where(unit.c.id.in_(part)))]
    return sorted(rows, key=lambda row: int(row.id))


def of_task(conn: sa.Connection, task_id: int, verb: Verb, failure: str = "") -> list[Any]:
    """Return the jobs of a task that a verb would move; with ``failure`` those that last failed like that."""
    job, unit = schema.job, schema.unit
    query = (
        sa.select(job, unit.c.key, unit.c.task_id)
        .join(unit, job.c.unit_id == unit.c.id)
        .where(unit.c.task_id == task_id, job.c.state.in_(list(MOVES[verb])))
        .order_by(job.c.id)
    )
    if failure:
        query = query.where(job.c.reason.startswith(f"{failure}:", autoescape=True))
    return list(conn.execute(query))


def move_jobs(conn: sa.Connection, verb: Verb, rows: Sequence[Any], why: Why, label: str = "") -> list[Any]:
    """Move jobs as the verb says; return them as they were.

    ``label`` is a state that the task's file declares. A job that is ignored is left out with the approval of
    ``why.actor``: its records are accounted for as quarantined.
    Raises: StateError when one is in no state for it, UnknownNameError for a label that is not declared.
    """
    moves = MOVES[verb]
    for row in rows:
        if row.state not in moves:
            able = " or ".join(moves)
            message = f"job {row.key[:12]} is {row.state}, and only one that is {able} can be {DONE[verb]}"
            raise StateError(message, hint=f"`beamwright explain {row.key[:12]}` tells more")
        if label:
            _check_label(conn, row.task_id, label, moves[row.state])
    is_fresh = verb in ("retry", "release")
    values = {"label": label or None, "reason": why.reason} | (dict(FRESH) if is_fresh else {})
    found = [history.Move(row.id, row.state, moves[row.state], why.reason, values) for row in rows]
    history.move_each(conn, schema.job, found, actor=why.actor, at=why.now)
    if is_fresh:
        for task_id in sorted({int(row.task_id) for row in rows}):
            _reopen(conn, task_id, why)
    return list(rows)


def move_task(conn: sa.Connection, task: Any, verb: Literal["hold", "release"], why: Why) -> None:
    """Stop a task, so that none of its jobs starts; or let it go on. What runs, runs on.

    Raises: StateError.
    """
    source, target = ("active", "held") if verb == "hold" else ("held", "active")
    if not states.allowed("task", task.state, target):
        what = f"task {task.production}/{task.step} is {task.state}"
        message = f"{what}, and only one that is {source} can be {DONE[verb]}"
        raise StateError(message, hint="`beamwright task ls` shows the states")
    history.move(conn, schema.task, task.id, source, target, actor=why.actor, reason=why.reason, at=why.now)


def outdated(conn: sa.Connection, task: Any, runs: Sequence[tuple[str, int]] = ()) -> list[Any]:
    """Return the finished units of a task that another configuration made; or, with ``runs``, all of them."""
    job, unit = schema.job, schema.unit
    query = (
        sa.select(job, unit.c.key, unit.c.task_id, unit.c.series, unit.c.first_run, unit.c.config_hash)
        .join(unit, job.c.unit_id == unit.c.id)
        .where(unit.c.task_id == task.id, job.c.state == "ok")
        .order_by(job.c.id)
    )
    rows = conn.execute(query).all()
    if runs:
        return [row for row in rows if (row.series, row.first_run) in runs]
    return [row for row in rows if row.config_hash != task.config_hash]


def redo(conn: sa.Connection, task: Any, rows: Sequence[Any], why: Why) -> list[redoing.Stale]:
    """Let finished units, and all that was made from them, be done anew; return what was made from them.

    The outputs stay on disk and in the catalogue, as superseded.
    """
    ids = [int(row.unit_id) for row in rows]
    redoing.supersede(conn, ids, why)
    if ids:
        _reopen(conn, int(task.id), why)
    return redoing.redo(conn, plan(conn, int(task.production_id)), why)


def _check_label(conn: sa.Connection, task_id: int, label: str, target: str) -> None:
    config = conn.execute(sa.select(schema.task.c.config).where(schema.task.c.id == task_id)).scalar_one()
    declared = {item["name"]: item["stands_for"] for item in (config.get("step") or {}).get("state") or ()}
    if label not in declared:
        raise UnknownNameError("state of its task's own", label, declared)
    if declared[label] != target:
        message = f"state {label} stands for {declared[label]}, and the job becomes {target}"
        raise StateError(message, hint="the task file says what each state stands for")


def _reopen(conn: sa.Connection, task_id: int, why: Why) -> None:
    """Let a closed task and its production take up work again."""
    task, production = schema.task, schema.production
    row = conn.execute(sa.select(task).where(task.c.id == task_id)).one()
    if row.state == "closed":
        history.move(conn, task, task_id, "closed", "active", actor=why.actor, reason=why.reason, at=why.now)
    conn.execute(sa.update(production).where(production.c.id == row.production_id).values(finished=None))
