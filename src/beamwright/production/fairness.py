"""Fair shares: whose jobs come next when productions and several analysts want the same slots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

import sqlalchemy as sa

from beamwright.core.owners import owner
from beamwright.core.settings import Analyses
from beamwright.db import schema
from beamwright.production import jobs

T = TypeVar("T")
Prepared = tuple[int, tuple[str, ...], str]


def prepared(
    conn: sa.Connection, now: float, limit: int, releases: Collection[str] | None, settings: Analyses
) -> list[Prepared]:
    """Return the jobs that may start now, in the order in which they should: by share, then by urgency."""
    owners = _owners(conn)
    if len(owners) < 2:
        return jobs.prepared(conn, now, limit, releases)
    queues = {name: jobs.prepared(conn, now, limit, releases, ids) for name, ids in owners.items()}
    return order(queues, _held(conn, owners), weights([n for n in queues if queues[n]], settings))[:limit]


def weights(owners: Collection[str], settings: Analyses) -> dict[str, float]:
    """Return everybody's share of the slots; productions (named "") have what analyses leave them."""
    own = {name: settings.weight_of(name) for name in owners if name}
    whole = sum(own.values())
    shares = {name: settings.share * weight / whole for name, weight in own.items()}
    return shares | ({"": 1.0 - settings.share} if "" in owners else {})


def order(queues: Mapping[str, Sequence[T]], held: Mapping[str, int], shares: Mapping[str, float]) -> list[T]:
    """Merge queues so that each next place goes to who has the least for their share. Pure."""
    taken = {name: held.get(name, 0) for name in queues}
    left = {name: list(reversed(queue)) for name, queue in queues.items() if queue}
    merged = []
    while left:
        name = min(left, key=lambda name: ((taken[name] + 1) / shares[name], name))
        merged.append(left[name].pop())
        taken[name] += 1
        if not left[name]:
            del left[name]
    return merged


def _owners(conn: sa.Connection) -> dict[str, list[int]]:
    """Return the unfinished productions of each owner."""
    table = schema.production
    found: dict[str, list[int]] = {}
    for row in conn.execute(sa.select(table.c.id, table.c.name).where(table.c.finished.is_(None))):
        found.setdefault(owner(row.name), []).append(row.id)
    return found


def _held(conn: sa.Connection, owners: Mapping[str, Sequence[int]]) -> Counter[str]:
    """Count the attempts in flight by owner."""
    attempt, job, unit, task = schema.attempt, schema.job, schema.unit, schema.task
    query = (
        sa.select(task.c.production_id, sa.func.count().label("n"))
        .select_from(attempt)
        .join(job, attempt.c.job_id == job.c.id)
        .join(unit, job.c.unit_id == unit.c.id)
        .join(task, unit.c.task_id == task.c.id)
        .where(attempt.c.state.in_(jobs.IN_FLIGHT))
        .group_by(task.c.production_id)
    )
    mine = {production: name for name, ids in owners.items() for production in ids}
    found: Counter[str] = Counter()
    for row in conn.execute(query):
        found[mine.get(row.production_id, "")] += row.n
    return found
