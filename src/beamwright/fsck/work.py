"""Invariants of jobs, attempts and the history."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from beamwright.core import states
from beamwright.db import schema
from beamwright.fsck.model import Context, Finding

_STATEFUL = {
    "run": schema.run,
    "task": schema.task,
    "job": schema.job,
    "attempt": schema.attempt,
    "chain": schema.chain_link,
    "replica": schema.replica,
    "dataset": schema.dataset,
    "collection": schema.collection,
    "global_tag": schema.global_tag,
}
_ACTIVE = ("leased", "submitted", "running")
_GRACE_S = 600.0


def single_output(context: Context) -> Iterator[Finding]:
    """Invariant 1: one output, and one valid collection, per unit and stream, from accepted attempts only."""
    output, collection = schema.output, schema.collection
    for table, noun in ((output, "accepted outputs"), (collection, "valid collections")):
        live = [table.c.state == "valid"] if table is collection else []
        query = (
            sa.select(table.c.unit_id, table.c.stream, sa.func.count().label("number"))
            .where(table.c.unit_id.is_not(None), *live)
            .group_by(table.c.unit_id, table.c.stream)
            .having(sa.func.count() > 1)
        )
        for row in context.conn.execute(query):
            yield f"unit {row.unit_id}", f"has {row.number} {noun} of stream {row.stream}"
    yield from _outputs_of_others(context)
    yield from _two_accepted(context)


def _outputs_of_others(context: Context) -> Iterator[Finding]:
    output, attempt, job = schema.output, schema.attempt, schema.job
    query = (
        sa.select(
            output.c.unit_id, output.c.stream, attempt.c.id, attempt.c.state, job.c.unit_id.label("owner")
        )
        .join(attempt, output.c.attempt_id == attempt.c.id)
        .join(job, attempt.c.job_id == job.c.id)
        .where(sa.or_(attempt.c.state != "accepted", job.c.unit_id != output.c.unit_id))
    )
    for row in context.conn.execute(query):
        whose = f"attempt {row.id}, which is {row.state} and of unit {row.owner}"
        yield f"unit {row.unit_id}", f"has its output of stream {row.stream} from {whose}"


def _two_accepted(context: Context) -> Iterator[Finding]:
    attempt = schema.attempt
    query = sa.select(attempt.c.job_id).where(attempt.c.state == "accepted")
    for job in context.conn.execute(query.group_by(attempt.c.job_id).having(sa.func.count() > 1)).scalars():
        yield f"job {job}", "has more than one accepted attempt"


def ok_jobs(context: Context) -> Iterator[Finding]:
    """Invariant 4: the accepted attempt exists, has reported, and its lease is in the history."""
    job, attempt, history = schema.job, schema.attempt, schema.history
    leases = sa.select(history.c.object).where(history.c.kind == "attempt", history.c.target == "leased")
    leased = set(context.conn.execute(leases).scalars())
    query = sa.select(job.c.id, attempt.c.id.label("attempt"), attempt.c.nonce, attempt.c.report_sha256)
    accepted = sa.and_(attempt.c.job_id == job.c.id, attempt.c.state == "accepted")
    for row in context.conn.execute(query.join(attempt, accepted, isouter=True).where(job.c.state == "ok")):
        if row.attempt is None:
            yield f"job {row.id}", "is ok without an accepted attempt"
        elif str(row.attempt) not in leased:
            yield (
                f"job {row.id}",
                f"was done by attempt {row.attempt} ({row.nonce[:12]}), which was never leased",
            )
        elif not row.report_sha256:
            yield f"job {row.id}", f"is ok by attempt {row.attempt}, which has no report"


def allowed_transitions(context: Context) -> Iterator[Finding]:
    """Invariant 5: each line follows the table and the line before it; the last one is the present state."""
    history = schema.history
    query = sa.select(history).where(history.c.kind.in_(_STATEFUL)).order_by(history.c.id)
    lines: dict[str, dict[str, list[Any]]] = {kind: defaultdict(list) for kind in _STATEFUL}
    for row in context.conn.execute(query):
        if row.source is not None or row.target in states.TABLES[row.kind]:
            lines[row.kind][row.object].append(row)
    for kind, table in _STATEFUL.items():
        present = {str(r.id): r.state for r in context.conn.execute(sa.select(table.c.id, table.c.state))}
        for name in sorted(set(present) | set(lines[kind])):
            for problem in _history_problems(kind, lines[kind][name], present.get(name)):
                yield f"{kind} {name}", problem


def _history_problems(kind: str, lines: list[Any], present: str | None) -> Iterator[str]:
    state: str | None = None
    for position, line in enumerate(lines):
        if line.source is None and position:
            yield f"was created twice, as {state} and as {line.target}"
        if line.source is not None and not states.allowed(kind, line.source, line.target):
            yield f"went from {line.source} to {line.target}, which no table allows"
        if line.source is not None and state is not None and line.source != state:
            yield f"was {state} and then went from {line.source} to {line.target}"
        state = line.target
    if present is None:
        yield "has a history and is not there"
    elif present != (state if lines else states.INITIAL[kind]):
        yield f"is {present}; its history ends with {state or 'nothing'}"


def handled_in_time(context: Context) -> Iterator[Finding]:
    """Invariant 7: no attempt is under way long after its deadline."""
    attempt = schema.attempt
    late = sa.and_(attempt.c.state.in_(_ACTIVE), attempt.c.deadline < context.now - _GRACE_S)
    for row in context.conn.execute(sa.select(attempt).where(late)):
        overdue = context.now - row.deadline
        yield f"attempt {row.id}", f"is {row.state} {overdue:.0f} s after its deadline, and nobody handled it"


def reports_once(context: Context) -> Iterator[Finding]:
    """Invariant 8: nothing was registered or accepted twice, and no report served two attempts."""
    history, attempt = schema.history, schema.attempt
    for kind, target in (("attempt", "accepted"), ("file", "registered")):
        query = sa.select(history.c.object).where(history.c.kind == kind, history.c.target == target)
        twice = query.group_by(history.c.object).having(sa.func.count() > 1)
        for name in context.conn.execute(twice).scalars():
            yield f"{kind} {name}", f"was {target} more than once"
    reports = sa.select(attempt.c.report_sha256).where(attempt.c.report_sha256.is_not(None))
    shared = reports.group_by(attempt.c.report_sha256).having(sa.func.count() > 1)
    for digest in context.conn.execute(shared).scalars():
        yield f"report {digest[:12]}", "was taken in for more than one attempt"
