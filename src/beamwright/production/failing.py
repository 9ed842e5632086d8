"""What follows when attempts end badly: for their jobs by the rules of their tasks, and for the tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa

from beamwright.db import history, schema, writing
from beamwright.production.jobs import HOST, OPERATOR
from beamwright.production.rules import RetryRule, Verdict, decide, own_limits

# A task is judged by so many of its latest attempts before it is stopped.
RUNAWAY_WINDOW = 20
# What says nothing against the job: it is made ready again without having failed.
_NO_FAULT = ("lost", "node", "submit")
_BEGUN = ("submitted", "running")
_NEEDED = ("id", "unit_id", "state", "failures", "memory_mb", "wall_s", "avoid")


@dataclass(frozen=True)
class Failure:
    """An attempt that has ended badly: why, and on which node, as far as that is known."""

    attempt_id: int
    job_id: int
    failure_class: str
    message: str
    host: str | None = None

    @property
    def reason(self) -> str:
        return f"{self.failure_class}: {self.message}"


def lose(
    conn: sa.Connection, rows: Sequence[Any], lost: Sequence[Failure], *, tries: int, actor: str, now: float
) -> None:
    """Declare attempts (rows of ``in_flight``) lost, and do what follows for their jobs."""
    moves = []
    for row, one in zip(rows, lost, strict=True):
        values = {"ended": now, "failure_class": one.failure_class, "message": one.message, "host": one.host}
        moves.append(history.Move(row.id, row.state, "lost", one.message, values))
    history.move_each(conn, schema.attempt, moves, actor=actor, at=now)
    fail(conn, lost, tries=tries, actor=actor, now=now)


def fail(conn: sa.Connection, found: Sequence[Failure], *, tries: int, actor: str, now: float) -> None:
    """Fail the jobs, each of another attempt, or make them ready again, as the rules of their tasks say.

    A job that is not under way, or whose later attempt is, stays as it is.
    """
    if not found:
        return
    rows = _jobs(conn, [one.job_id for one in found])
    newest = _newest(conn, list(rows))
    found = [one for one in found if newest.get(one.job_id) == one.attempt_id]
    earlier = failures(conn, [one.job_id for one in found])
    steps = _steps(conn, {rows[one.job_id].task_id for one in found})
    moves, failed = [], dict[int, None]()
    for one in found:
        row = rows[one.job_id]
        rules, step = steps[row.task_id]
        verdict = decide(rules, one.failure_class, one.message, earlier[one.job_id], tries)
        move = _move(row, one, verdict, step, now)
        moves.append(move)
        if move.target == "failed":
            failed[row.task_id] = None
    history.move_each(conn, schema.job, moves, actor=actor, at=now)
    for task_id in failed:
        _stop_runaway(conn, task_id, steps[task_id][1], actor, now)


def failures(conn: sa.Connection, job_ids: Sequence[int]) -> dict[int, Counter[str]]:
    """Count ended attempts by job and failure class, from where a job was last made ready by hand."""
    names = [str(job_id) for job_id in job_ids]
    restarted = writing.among(conn, _restarted(), schema.history.c.object, names)
    since = {int(row.object): row.at for row in restarted}
    counts: dict[int, Counter[str]] = {job_id: Counter() for job_id in job_ids}
    for job_id, failure_class, leased in writing.among(conn, _failed(), schema.attempt.c.job_id, job_ids):
        if leased >= since.get(job_id, 0.0):
            counts[job_id][failure_class] += 1
    return counts


@cache
def _restarted() -> sa.Select[Any]:
    line = schema.history
    query = sa.select(line.c.object, sa.func.max(line.c.at).label("at")).group_by(line.c.object)
    return query.where(line.c.kind == "job", line.c.actor == OPERATOR)


@cache
def _failed() -> sa.Select[Any]:
    attempt = schema.attempt
    columns = (attempt.c.job_id, attempt.c.failure_class, attempt.c.leased)
    return sa.select(*columns).where(attempt.c.failure_class.is_not(None))


def _jobs(conn: sa.Connection, ids: Sequence[int]) -> dict[int, Any]:
    """Return the jobs under way, with their task and what their units may use."""
    return {row.id: row for row in writing.among(conn, _under_way(), schema.job.c.id, ids)}


@cache
def _under_way() -> sa.Select[Any]:
    job, unit = schema.job, schema.unit
    columns = [job.c[name] for name in _NEEDED]
    query = sa.select(*columns, unit.c.task_id, unit.c.definition["limits"].label("limits"))
    return query.join(unit, job.c.unit_id == unit.c.id).where(job.c.state.in_(_BEGUN))


def _newest(conn: sa.Connection, job_ids: Sequence[int]) -> dict[int, int]:
    """Return the newest attempt of each job."""
    found = writing.among(conn, _latest(), schema.attempt.c.job_id, job_ids)
    return {row.job_id: row.newest for row in found}


@cache
def _latest() -> sa.Select[Any]:
    attempt = schema.attempt
    query = sa.select(attempt.c.job_id, sa.func.max(attempt.c.id).label("newest"))
    return query.group_by(attempt.c.job_id)


def _steps(conn: sa.Connection, task_ids: set[int]) -> dict[int, tuple[list[RetryRule], dict[str, Any]]]:
    """Return the retry rules and the steps of tasks as they are configured now."""
    task = schema.task
    query = sa.select(task.c.id, task.c.config).where(task.c.id.in_(sorted(task_ids)))
    steps = {row.id: row.config.get("step") or {} for row in conn.execute(query)}
    return {
        task_id: ([RetryRule.model_validate(rule) for rule in step.get("retry", ())], step)
        for task_id, step in steps.items()
    }


def _move(row: Any, one: Failure, verdict: Verdict, step: Mapping[str, Any], now: float) -> history.Move:
    """Return the way of a job whose attempt has ended badly."""
    is_again, reason = verdict.what == "again", one.reason
    limits = (row.limits or {}) | own_limits(step)
    again = {"not_before": now + verdict.delay_s} | _other_needs(row, limits, verdict, one.host)
    if is_again and one.failure_class in _NO_FAULT:
        return history.Move(row.id, row.state, "prepared", reason, again)
    wish = "split" if verdict.what == "split" else None
    values = {"failures": row.failures + 1, "wish": wish, "reason": reason} | (again if is_again else {})
    then: tuple[tuple[str, str], ...] = ()
    if is_again:
        then = (("prepared", f"tried again after {reason}"),)
    elif verdict.what == "hold":
        then, values["label"] = (
            (("held", f"held by a rule of its task after {reason}"),),
            verdict.label or None,
        )
    return history.Move(row.id, row.state, "failed", reason, values, then)


def _other_needs(row: Any, limits: Mapping[str, Any], verdict: Verdict, host: str | None) -> dict[str, Any]:
    """Return the columns of a job that change with what it needs at its next attempt."""
    changed: dict[str, Any] = {}
    if verdict.memory > 1:
        changed["memory_mb"] = round((row.memory_mb or limits.get("memory_mb", 0)) * verdict.memory)
    if verdict.wall > 1:
        changed["wall_s"] = (row.wall_s or limits.get("wall_s", 0.0)) * verdict.wall
    if verdict.avoids_node and host and HOST.fullmatch(host):
        changed["avoid"] = sorted({*(row.avoid or ()), host})
    return changed


def _stop_runaway(conn: sa.Connection, task_id: int, step: Mapping[str, Any], actor: str, now: float) -> None:
    """Hold a task of whose latest attempts too many have failed."""
    limit = float(step.get("max_failed", 1.0))
    if limit >= 1.0:
        return
    unit, job, attempt, task = schema.unit, schema.job, schema.attempt, schema.task
    query = (
        sa.select(attempt.c.failure_class)
        .join(job, attempt.c.job_id == job.c.id)
        .join(unit, job.c.unit_id == unit.c.id)
        .where(unit.c.task_id == task_id, attempt.c.ended.is_not(None))
        .order_by(attempt.c.id.desc())
        .limit(RUNAWAY_WINDOW)
    )
    found = list(conn.execute(query).scalars())
    failed = sum(name is not None for name in found)
    state = conn.execute(sa.select(task.c.state).where(task.c.id == task_id)).scalar_one()
    if state == "active" and len(found) >= RUNAWAY_WINDOW and failed > limit * len(found):
        reason = f"{failed} of the last {len(found)} attempts failed, more than {limit:.0%}"
        history.move(conn, task, task_id, "active", "held", actor=actor, reason=reason, at=now)
