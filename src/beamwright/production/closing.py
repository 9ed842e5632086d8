"""The end of tasks and productions: closing, what keeps them open, and the freeze."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from beamwright.catalog import datasets
from beamwright.conditions import tags
from beamwright.core.did import Did
from beamwright.core.errors import IntegrityError
from beamwright.core.runs import Interval
from beamwright.db import history, schema
from beamwright.production import chain, generating, inputs, inspection, scouting
from beamwright.production.tasks import ACTOR, Plan, Task
from beamwright.production.units import row_interval

# States of an attempt that is under way.
ACTIVE = ("leased", "submitted", "running", "reported")


def close(conn: sa.Connection, task: Task, is_balanced: bool, now: float) -> int:
    """Move a done task to draining and, when its ledger balances, to closed; return how many moves that
    took.
    """
    moves = 0
    if task.state == "active":
        history.move(conn, schema.task, task.id, "active", "draining", actor=ACTOR, at=now)
        moves += 1
    if is_balanced:
        history.move(
            conn,
            schema.task,
            task.id,
            "draining",
            "closed",
            actor=ACTOR,
            reason="all done and balanced",
            at=now,
        )
        _finish(conn, task.production_id, now)
        moves += 1
    return moves


def _finish(conn: sa.Connection, production_id: int, now: float) -> None:
    task, production = schema.task, schema.production
    left = sa.select(task.c.id).where(task.c.production_id == production_id, task.c.state != "closed")
    if conn.execute(left).first() is None:
        conn.execute(sa.update(production).where(production.c.id == production_id).values(finished=now))
        history.record(conn, "production", production_id, "finished", actor=ACTOR, at=now)


def is_finished(conn: sa.Connection, production_id: int) -> bool:
    """Tell whether all tasks are closed."""
    table = schema.production
    return conn.execute(sa.select(table.c.finished).where(table.c.id == production_id)).scalar() is not None


def in_flight(conn: sa.Connection, production_id: int) -> int:
    """Count the attempts under way, and the jobs that wait for a farm or for their time."""
    attempt, job, unit, task = schema.attempt, schema.job, schema.unit, schema.task
    mine = (
        sa.select(sa.func.count())
        .select_from(job)
        .join(unit, job.c.unit_id == unit.c.id)
        .join(task, unit.c.task_id == task.c.id)
        .where(task.c.production_id == production_id)
    )
    live = sa.select(attempt.c.id).where(attempt.c.job_id == job.c.id, attempt.c.state.in_(ACTIVE)).exists()
    wanted = sa.and_(job.c.state == "failed", job.c.wish.is_not(None))
    query = mine.where(sa.or_(live, scouting.startable(conn), wanted))
    return int(conn.execute(query).scalar_one()) + scouting.has_scouted(conn)


def obstacles(conn: sa.Connection, plan: Plan) -> list[str]:
    """Say what keeps a production from its end: failed jobs, held chains, missing runs, unbalanced
    ledgers.
    """
    job, unit = schema.job, schema.unit
    found = []
    for task in plan.tasks.values():
        query = sa.select(unit.c.key, job.c.state, job.c.reason).join(unit, job.c.unit_id == unit.c.id)
        query = query.where(unit.c.task_id == task.id, job.c.state.in_(("failed", "held"))).order_by(job.c.id)
        found += _alike(task, list(conn.execute(query)))
        found += _stopped(conn, task)
        if task.state == "draining":
            found.append(f"the ledger of step {task.step.name} does not balance")
        if task.step.kind == "calibrate":
            found += _held(conn, task.id)
        found += _gated(conn, plan, task)
        if task.step.kind == "generate" and task.state == "active":
            found += generating.obstacles(conn, plan, task)
    return found + _missing_runs(conn, plan)


def _gated(conn: sa.Connection, plan: Plan, task: Task) -> list[str]:
    """Name the runs that a verdict keeps from a step."""
    if not task.step.verdict or task.state != "active":
        return []
    datasets = [plan.spec.datasets()[name] for name in task.step.inputs]
    rows = [row for dataset in datasets for row in inputs.chunks(conn, dataset, without=task)]
    whole = {(r.series, r.number): Interval.runs(r.series, r.number, r.number) for r in rows}
    told = [inspection.gate(conn, task, interval) for interval in whole.values()]
    return [f"step {task.step.name}: {reason}" for reason in told if reason]


def _stopped(conn: sa.Connection, task: Task) -> list[str]:
    """Say that a task is held, or that its scouts have failed."""
    if task.state == "held":
        told = history.of(conn, "task", task.id)[-1]
        return [f"step {task.step.name} is held by {told.actor}: {told.reason or 'no reason given'}"]
    waiting = scouting.waiting(conn, task.id)
    if waiting:
        return [f"{waiting} jobs of step {task.step.name} wait for its scouts"]
    return []


def _alike(task: Task, rows: list[Any]) -> list[str]:
    """Name one job, by its unit, for each state and reason, and count the others that share them."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        groups.setdefault((row.state, row.reason), []).append(row.key[:12])
    return [
        f"job {keys[0]}{_others(keys)} of step {task.step.name} is {state}: {reason}"
        for (state, reason), keys in groups.items()
    ]


def _others(keys: list[str]) -> str:
    return f" (and {len(keys) - 1} alike)" if keys[1:] else ""


def declare_datasets(conn: sa.Connection, plan: Plan, now: float) -> None:
    """Make an open dataset for each stream that a step of an unfinished production writes events to."""
    if is_finished(conn, plan.id):
        return
    for did in _streams(plan):
        step, _, stream = did.name.partition(".")
        criteria = {"production": plan.spec.name, "step": step, "stream": stream}
        datasets.create(conn, did, criteria, now, ACTOR)


def _streams(plan: Plan) -> list[Did]:
    steps = plan.tasks.items()
    return [Did(plan.spec.name, f"{name}.{stream}") for name, task in steps for stream in task.facts.streams]


def freeze(conn: sa.Connection, plan: Plan, now: float) -> dict[str, str]:
    """Freeze the production's global tags and datasets; return name → Merkle hash of the tags.

    Raises: IntegrityError when an output's resolved hash is not what the frozen tag gives.
    """
    disagreeing = disagreements(conn, plan)
    if disagreeing:
        raise IntegrityError(
            f"units resolve otherwise now: {', '.join(disagreeing)}",
            hint="skip-backs after processing? redo these units, then freeze",
        )
    for did in _streams(plan):
        # What it mixes, its file names: data and simulation, one global tag for each.
        datasets.freeze(conn, did, now, reason=f"production {plan.spec.name} is done", allow_mixed=True)
    return {name: tags.freeze(conn, name, now) for name in sorted({d.global_tag for d in plan.spec.dataset})}


def disagreements(conn: sa.Connection, plan: Plan) -> list[str]:
    """Return the process units whose resolved hash is not what the global tag gives today."""
    unit = schema.unit
    found = []
    for task in plan.tasks.values():
        if task.step.kind not in ("process", "generate") or not task.facts.reads:
            continue
        for row in conn.execute(sa.select(unit).where(unit.c.task_id == task.id).order_by(unit.c.id)):
            resolution = tags.resolve(conn, row.definition["global_tag"], task.facts.reads, row_interval(row))
            if resolution.gaps or resolution.hash != row.resolved_hash:
                found.append(f"{task.step.name} {row_interval(row)}")
    return found


def _held(conn: sa.Connection, task_id: int) -> list[str]:
    return [
        f"chain link {link.interval} is held"
        for one in chain.read(conn, task_id)
        for link in one.links
        if link.state == "held"
    ]


def _missing_runs(conn: sa.Connection, plan: Plan) -> list[str]:
    run, found = schema.run, []
    for dataset in (one for one in plan.spec.dataset if not plan.spec.is_made(one)):
        rows = conn.execute(
            sa.select(run.c.series, run.c.number, run.c.state).where(run.c.tier == dataset.tier)
        )
        states = {(row.series, row.number): row.state for row in rows}
        for series, numbers in dataset.runs.items():
            for number in numbers:
                state = states.get((series, number), "not delivered")
                if state not in ("closed", "incomplete"):
                    found.append(f"run {series}:{number} of dataset {dataset.name} is {state}")
    return found
