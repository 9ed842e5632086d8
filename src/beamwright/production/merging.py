"""Which collections are merged together: groups depend on inputs alone, whatever the order of arrival."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from beamwright.db import schema
from beamwright.db.engine import batched
from beamwright.production.inputs import collections
from beamwright.production.progress import Progress
from beamwright.production.spec import split_input
from beamwright.production.tasks import Task
from beamwright.production.units import row_interval


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


@dataclass(frozen=True)
class Group:
    """Collections that are merged together, and the units whose place that takes."""

    rows: list[Any]
    replaces: tuple[Any, ...] = ()


def closed_groups(progress: Progress, task: Task, name: str) -> list[Group]:
    """Return the groups of collections of ``step.stream`` that a task can merge now and has not merged.

    A late or redone collection makes a new version of the one unit that it falls in; others stay as they are.
    """
    head, stream = split_input(name)
    new = {row.id for row in progress.new_collections(task, name)}
    if not new:
        return []
    rows = collections(progress.conn, progress.plan.tasks[head].id, stream)
    made = _made(progress.conn, task.id, stream)
    target, found = round(task.step.target_mb * 1e6), []
    for (series, *_), members in sorted(compatible(rows).items()):
        done, is_complete = progress.finished_prefix(head, series)
        ready = [row for row in members if row.first_run in done]
        falling, rest = _fall(ready, new, made, is_complete)
        known = sizes(progress.conn, [row.id for row in ready])
        found += falling
        for part, ends in rest:
            found += [Group(part[one]) for one in cut([known[row.id] for row in part], target, ends)]
    return found


def _fall(
    ready: Sequence[Any], new: set[int], made: Sequence[tuple[Any, set[int]]], is_complete: bool
) -> tuple[list[Group], list[tuple[list[Any], bool]]]:
    """Sort new collections into those that fall into a unit and stretches of others; with each stretch goes
    whether nothing can follow in it.
    """
    falls: dict[int, list[Any]] = {}
    stretches: list[tuple[list[Any], bool]] = [([], is_complete)]
    mine = [(unit, ids) for unit, ids in made if ids & {row.id for row in ready}]
    for row in ready:
        place = next((i for i, (u, ids) in enumerate(mine) if row.id in ids or _meets(u, row)), None)
        if place is not None:
            falls.setdefault(place, []).append(row)
            stretches[-1] = (stretches[-1][0], True)
            stretches.append(([], is_complete))
        else:
            stretches[-1][0].append(row)
    again = [Group(rows, (mine[i][0],)) for i, rows in falls.items() if any(row.id in new for row in rows)]
    return again, [stretch for stretch in stretches if stretch[0]]


def _meets(unit: Any, row: Any) -> bool:
    return row_interval(unit).intersect(row_interval(row)) is not None


def _made(conn: sa.Connection, task_id: int, stream: str) -> list[tuple[Any, set[int]]]:
    """Return the units of a merge that stand, with the ids of their collections."""
    unit, job, link = schema.unit, schema.job, schema.unit_input
    query = sa.select(unit, job.c.state).join(job, job.c.unit_id == unit.c.id).order_by(unit.c.id)
    mine = (unit.c.task_id == task_id, unit.c.stream == stream, job.c.state != "superseded")
    rows = conn.execute(query.where(*mine)).all()
    inputs: dict[int, set[int]] = defaultdict(set)
    for part in batched([row.id for row in rows]):
        for unit_id, collection_id in conn.execute(
            sa.select(link.c.unit_id, link.c.collection_id).where(link.c.unit_id.in_(part))
        ):
            inputs[unit_id].add(collection_id)
    return [(row, inputs[row.id]) for row in rows]


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
    """Return the bytes of collections, by their row numbers."""
    link, file = schema.collection_file, schema.file
    query = sa.select(link.c.collection_id, sa.func.sum(file.c.size)).join(file, link.c.file_id == file.c.id)
    rows = conn.execute(query.where(link.c.collection_id.in_(ids)).group_by(link.c.collection_id))
    return {collection_id: int(total) for collection_id, total in rows}
