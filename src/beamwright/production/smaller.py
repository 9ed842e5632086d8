"""Failed units that are to be cut in two: which they are, what they hold, and what takes their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from beamwright.db import history, schema
from beamwright.production.splitting import Item
from beamwright.production.tasks import ACTOR, Task
from beamwright.production.units import UnitPlan, add_units, row_interval


def wanted(conn: sa.Connection, task_id: int) -> list[Any]:
    """Return the units of a task whose failed jobs are to become smaller ones, with ``job_id``."""
    unit, job = schema.unit, schema.job
    query = sa.select(unit, job.c.id.label("job_id")).join(job, job.c.unit_id == unit.c.id)
    mine = (unit.c.task_id == task_id, job.c.state == "failed", job.c.wish == "split")
    return list(conn.execute(query.where(*mine).order_by(unit.c.id)))


def item_of(conn: sa.Connection, row: Any) -> Item:
    """Return what a unit takes, as an item that can be cut again."""
    link, definition = schema.unit_input, row.definition
    links = conn.execute(sa.select(link).where(link.c.unit_id == row.id).order_by(link.c.position)).all()
    return Item(
        row_interval(row),
        tuple(definition["inputs"]),
        definition.get("global_tag") or "",
        bool(definition.get("is_mc")),
        bool(definition.get("is_resampled")),
        {name: n for name, n in (definition.get("records") or {}).items() if n is not None},
        chunk_ids=tuple(one.chunk_id for one in links if one.chunk_id is not None),
        collection_ids=tuple(one.collection_id for one in links if one.collection_id is not None),
        edition=int(definition.get("edition") or 0),
    )


def take_place(conn: sa.Connection, task: Task, row: Any, children: Sequence[UnitPlan], now: float) -> int:
    """Let smaller units carry the range of a failed one; without any it stays failed. Return their number."""
    job = schema.job
    if len(children) < 2:
        values = {
            "wish": None,
            "reason": sa.func.substr(job.c.reason + " (it cannot be cut further)", 1, 4000),
        }
        conn.execute(sa.update(job).where(job.c.id == row.job_id).values(values))
        return 0
    at: dict[str, Any] = {"actor": ACTOR, "at": now}
    reason = f"cut into {len(children)} units"
    history.move(conn, job, row.job_id, "failed", "split", **at, reason=reason, wish=None)
    marked = [replace(one, definition=one.definition | {"split_from": row.key}) for one in children]
    return len(add_units(conn, task, marked, now))
