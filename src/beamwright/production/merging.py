"""Which collections are merged together: groups depend on inputs alone, whatever the order of arrival."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from beamwright.db import schema
from beamwright.production.closing import expected_runs, run_complete
from beamwright.production.inputs import collections
from beamwright.production.tasks import Plan


def finished_prefix(conn: sa.Connection, plan: Plan, step: str, series: str) -> tuple[list[int], bool]:
    """Return the runs of a series, in order, up to the first that ``step`` has not finished, and whether
    these are all.
    """
    expected = [number for s, number in expected_runs(plan, step) if s == series]
    done: list[int] = []
    for number in expected:
        if not run_complete(conn, plan, step, series, number):
            return done, False
        done.append(number)
    return done, True


def cut(sizes: Sequence[int], target: int, is_complete: bool) -> list[slice]:
    """Cut a sequence of sizes into groups that close when they reach the target; the last closes when
    nothing more comes.
    """
    groups, start, total = [], 0, 0
    for position, size in enumerate(sizes):
        total += size
        if total >= target:
            groups.append(slice(start, position + 1))
            start, total = position + 1, 0
    if is_complete and start < len(sizes):
        groups.append(slice(start, len(sizes)))
    return groups


def closed_groups(conn: sa.Connection, plan: Plan, step: str, head: str, stream: str) -> list[list[Any]]:
    """Return the groups of collections of ``head.stream`` that ``step`` can merge now and has not merged."""
    task = plan.tasks[step]
    rows = collections(conn, plan.tasks[head].id, stream)
    used = {row.id for row in rows} - {
        row.id for row in collections(conn, plan.tasks[head].id, stream, without_task=task.id)
    }
    target = round(task.step.target_mb * 1e6)
    found = []
    for (series, *_), members in sorted(_compatible(rows).items()):
        done, is_complete = finished_prefix(conn, plan, head, series)
        ready = [row for row in members if row.first_run in done]
        sizes = _sizes(conn, [row.id for row in ready])
        for group in cut([sizes[row.id] for row in ready], target, is_complete):
            if not any(row.id in used for row in ready[group]):
                found.append(ready[group])
    return found


def _compatible(rows: Sequence[Any]) -> dict[tuple[Any, ...], list[Any]]:
    """Sort collections into groups that may be merged: one release, configuration, global tag and kind of
    data.
    """
    groups: dict[tuple[Any, ...], list[Any]] = defaultdict(list)
    for row in rows:
        groups[row.series, row.release, row.config_hash, row.global_tag, row.is_mc, row.is_resampled].append(
            row
        )
    return groups


def _sizes(conn: sa.Connection, ids: Sequence[int]) -> dict[int, int]:
    link, file = schema.collection_file, schema.file
    query = sa.select(link.c.collection_id, sa.func.sum(file.c.size)).join(file, link.c.file_id == file.c.id)
    rows = conn.execute(query.where(link.c.collection_id.in_(ids)).group_by(link.c.collection_id))
    return {collection_id: int(total) for collection_id, total in rows}
