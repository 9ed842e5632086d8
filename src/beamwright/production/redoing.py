"""Outputs whose constants have changed since: which they are, and doing them again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from beamwright.conditions import tags
from beamwright.core.runs import Interval
from beamwright.db import history, schema
from beamwright.production.interventions import Why, reopen, supersede_jobs
from beamwright.production.tasks import Plan
from beamwright.production.units import row_interval

GONE = ("superseded", "cancelled", "split", "excluded")


@dataclass(frozen=True)
class Stale:
    """A unit whose outputs do not stand any more, and why; ``collections`` are its valid outputs."""

    unit_id: int
    step: str
    interval: Interval
    state: str
    reason: str
    collections: tuple[str, ...]


def stale(conn: sa.Connection, plan: Plan, global_tag: str = "") -> list[Stale]:
    """Return what resolves otherwise now than when it was made, and all that was made from it, by unit.

    With a global tag: what resolves otherwise under that one, of what was made under it.
    """
    units = _units(conn, plan)
    reasons = dict.fromkeys(_orphans(conn, plan), "its input was done again")
    made_under = [row for row in units if global_tag in ("", row.definition.get("global_tag"))]
    reasons |= {row.id: found for row in made_under if (found := _difference(conn, row))}
    _spread(conn, {row.id: row for row in units}, reasons)
    return _told(conn, plan, units, reasons)


def otherwise(conn: sa.Connection, plan: Plan, global_tag: str) -> list[Stale]:
    """Return what was made under other global tags and would get other constants under this one."""
    reasons = {}
    units = [row for row in _units(conn, plan) if row.definition.get("global_tag") not in (None, global_tag)]
    for row in units:
        reads = row.definition["reads"]
        found = tags.resolve(conn, global_tag, reads, row_interval(row)) if reads else None
        if found is not None and not found.gaps and found.hash != row.resolved_hash:
            reasons[row.id] = f"it was made with other constants, under {row.definition['global_tag']}"
    return _told(conn, plan, units, reasons)


def _told(conn: sa.Connection, plan: Plan, units: Sequence[Any], reasons: dict[int, str]) -> list[Stale]:
    names = _collections(conn, reasons)
    steps = {task.id: step for step, task in plan.tasks.items()}
    return [
        Stale(row.id, steps[row.task_id], row_interval(row), row.job_state, reasons[row.id], names[row.id])
        for row in units
        if row.id in reasons
    ]


def redo(conn: sa.Connection, plan: Plan, why: Why) -> list[Stale]:
    """Supersede what is stale and open its steps again; return what will be done anew.

    The outputs stay on disk and in the catalogue, as superseded.
    """
    found = stale(conn, plan)
    supersede(conn, [one.unit_id for one in found], why)
    for step in sorted({one.step for one in found}):
        reopen(conn, plan.tasks[step], why)
    return found


def supersede(conn: sa.Connection, unit_ids: Sequence[int], why: Why) -> None:
    """Let units and the collections that they wrote count no more."""
    supersede_jobs(conn, unit_ids, why)
    collection = schema.collection
    wanted = sa.select(collection.c.id).where(
        collection.c.unit_id.in_(unit_ids), collection.c.state == "valid"
    )
    ids = conn.execute(wanted).scalars().all()
    history.move_all(
        conn, collection, ids, "valid", "superseded", actor=why.actor, reason=why.reason, at=why.now
    )


def _units(conn: sa.Connection, plan: Plan) -> list[Any]:
    unit, job = schema.unit, schema.job
    ids = [task.id for task in plan.tasks.values()]
    query = (
        sa.select(unit, job.c.state.label("job_state"))
        .join(job, job.c.unit_id == unit.c.id)
        .where(
            unit.c.task_id.in_(ids),
            unit.c.kind.in_(("process", "merge", "generate")),
            job.c.state.not_in(GONE),
        )
        .order_by(unit.c.id)
    )
    return list(conn.execute(query))


def _orphans(conn: sa.Connection, plan: Plan) -> list[int]:
    """Return the units that were planned on a collection just before it was superseded."""
    unit, job, link, collection = schema.unit, schema.job, schema.unit_input, schema.collection
    ids = [task.id for task in plan.tasks.values()]
    query = (
        sa.select(unit.c.id)
        .join(job, job.c.unit_id == unit.c.id)
        .join(link, link.c.unit_id == unit.c.id)
        .join(collection, collection.c.id == link.c.collection_id)
        .where(unit.c.task_id.in_(ids), job.c.state.not_in(GONE), collection.c.state == "superseded")
        .distinct()
    )
    return list(conn.execute(query).scalars())


def _difference(conn: sa.Connection, row: Any) -> str:
    """Say how a unit's conditions differ from what its global tag gives now; nothing when they do not."""
    reads = row.definition["reads"]
    if row.kind not in ("process", "generate") or not reads:
        return ""
    found = tags.resolve(conn, row.definition["global_tag"], reads, row_interval(row))
    if found.gaps:
        return f"{', '.join(sorted({role for role, _ in found.gaps}))} does not cover it any more"
    return "" if found.hash == row.resolved_hash else "it resolves to other constants now"


def _spread(conn: sa.Connection, units: dict[int, Any], reasons: dict[int, str]) -> None:
    """Add the units that share an input with a stale one, and those that read its outputs."""
    link, output = schema.unit_input, schema.output
    inputs = conn.execute(sa.select(link).where(link.c.unit_id.in_(list(units)))).all()
    made = sa.select(output.c.unit_id, output.c.collection_id).where(output.c.unit_id.in_(list(units)))
    makers = {row.collection_id: row.unit_id for row in conn.execute(made) if row.collection_id is not None}
    siblings: dict[tuple[Any, ...], list[int]] = {}
    readers: dict[int, list[int]] = {}
    for row in inputs:
        key = (units[row.unit_id].task_id, row.chunk_id, row.collection_id)
        siblings.setdefault(key, []).append(row.unit_id)
        if row.collection_id in makers:
            readers.setdefault(makers[row.collection_id], []).append(row.unit_id)
    keys: dict[int, list[tuple[Any, ...]]] = {}
    for key, members in siblings.items():
        for unit_id in members:
            keys.setdefault(unit_id, []).append(key)
    waiting = sorted(reasons)
    while waiting:
        unit_id = waiting.pop()
        beside = [other for key in keys.get(unit_id, ()) for other in siblings[key]]
        fresh = dict.fromkeys(beside, "it shares an input with a unit that is done again")
        fresh |= dict.fromkeys(readers.get(unit_id, ()), "it was made from what is done again")
        new = {other: reason for other, reason in fresh.items() if other not in reasons}
        reasons |= new
        waiting += sorted(new)


def _collections(conn: sa.Connection, unit_ids: Iterable[int]) -> dict[int, tuple[str, ...]]:
    table = schema.collection
    ids = list(unit_ids)
    found: dict[int, tuple[str, ...]] = dict.fromkeys(ids, ())
    query = sa.select(table).where(table.c.unit_id.in_(ids), table.c.state == "valid").order_by(table.c.id)
    for row in conn.execute(query):
        found[row.unit_id] += (f"{row.scope}:{row.name}",)
    return found
