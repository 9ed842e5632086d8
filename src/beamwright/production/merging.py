"""Which collections are merged together: groups depend on inputs alone, whatever the order of arrival."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from beamwright.db import schema
from beamwright.production.inputs import collections
from beamwright.production.progress import Progress
from beamwright.production.spec import split_input
from beamwright.production.tasks import Task


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


def closed_groups(progress: Progress, task: Task, name: str) -> list[list[Any]]:
    """Return the groups of collections of ``step.stream`` that a task can merge now and has not merged."""
    head, stream = split_input(name)
    rows = collections(progress.conn, progress.plan.tasks[head].id, stream)
    new = {row.id for row in progress.new_collections(task, name)}
    target = round(task.step.target_mb * 1e6)
    found = []
    for (series, *_), members in sorted(compatible(rows).items()):
        done, is_complete = progress.finished_prefix(head, series)
        ready = [row for row in members if row.first_run in done]
        known = sizes(progress.conn, [row.id for row in ready])
        groups = cut([known[row.id] for row in ready], target, is_complete)
        found += [ready[group] for group in groups if all(row.id in new for row in ready[group])]
    return found


def compatible(rows: Sequence[Any]) -> dict[tuple[Any, ...], list[Any]]:
    """Sort collections into groups that may be merged: one release, configuration, global tag and kind of
    data.
    """
    groups: dict[tuple[Any, ...], list[Any]] = defaultdict(list)
    for row in rows:
        groups[row.series, row.release, row.config_hash, row.global_tag, row.is_mc, row.is_resampled].append(
            row
        )
    return groups


def sizes(conn: sa.Connection, ids: Sequence[int]) -> dict[int, int]:
    link, file = schema.collection_file, schema.file
    query = sa.select(link.c.collection_id, sa.func.sum(file.c.size)).join(file, link.c.file_id == file.c.id)
    rows = conn.execute(query.where(link.c.collection_id.in_(ids)).group_by(link.c.collection_id))
    return {collection_id: int(total) for collection_id, total in rows}
