"""Ranges of inputs whose units were given up while others of the same input stand: they are planned again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from beamwright.core.runs import Interval, gaps
from beamwright.db import schema
from beamwright.db.engine import batched
from beamwright.production.units import row_interval

_Input = tuple[int | None, int | None]


@dataclass(frozen=True)
class Hole:
    """A range of a chunk, or of a collection, that no unit has."""

    chunk_id: int | None
    collection_id: int | None
    interval: Interval


def holes(conn: sa.Connection, task_id: int) -> list[Hole]:
    """Return the ranges that superseded units of a process step leave between those that stand.

    Inputs of which no unit stands are taken up anew as a whole; units of several inputs leave no holes. They
    are looked for when units were superseded or made since the last time.
    """
    mark = _mark(conn)
    if not mark[0]:
        return []
    known = _known.setdefault(conn.engine, {})
    if task_id not in known or known[task_id][0] != mark:
        known[task_id] = (mark, _find(conn, task_id))
    return known[task_id][1]


_Mark = tuple[int, int]
_known: WeakKeyDictionary[sa.Engine, dict[int, tuple[_Mark, list[Hole]]]] = WeakKeyDictionary()


def _mark(conn: sa.Connection) -> _Mark:
    """Return what changes whenever a unit is superseded or made."""
    gone = sa.select(sa.func.count()).where(schema.job.c.state == "superseded").scalar_subquery()
    newest = sa.select(sa.func.max(schema.unit.c.id)).scalar_subquery()
    row = conn.execute(sa.select(gone, newest)).one()
    return int(row[0]), int(row[1] or 0)


def _find(conn: sa.Connection, task_id: int) -> list[Hole]:
    gone = _by_input(_units(conn, task_id, schema.job.c.state == "superseded"))
    if not gone:
        return []
    standing = _by_input(_standing(conn, task_id, list(gone)))
    return [
        Hole(*key, interval)
        for key in sorted(gone, key=str)
        if standing.get(key) and not any(row.inputs > 1 for row in standing[key])
        for interval in _left([row for row in gone[key] if row.inputs == 1], standing[key])
    ]


def _left(gone: Sequence[Any], standing: Sequence[Any]) -> list[Interval]:
    """Return what of the ranges of units is in none that stands, each part once."""
    taken = [row_interval(row) for row in standing]
    found: list[Interval] = []
    for row in gone:
        found += gaps(row_interval(row), [*taken, *found])
    return sorted(found)


def _by_input(rows: Iterable[Any]) -> dict[_Input, list[Any]]:
    found: dict[_Input, list[Any]] = defaultdict(list)
    for row in rows:
        found[row.chunk_id, row.collection_id].append(row)
    return found


def _standing(conn: sa.Connection, task_id: int, keys: Sequence[_Input]) -> list[Any]:
    link = schema.unit_input
    found: list[Any] = []
    for column, place in ((link.c.chunk_id, 0), (link.c.collection_id, 1)):
        ids = sorted({key[place] or 0 for key in keys if key[place] is not None})
        for part in batched(ids):
            found += _units(
                conn, task_id, schema.job.c.state.not_in(("superseded", "split")), column.in_(part)
            )
    return found


def _units(conn: sa.Connection, task_id: int, *which: sa.ColumnElement[bool]) -> Sequence[Any]:
    """Return the units of a process step with their inputs, and how many each has."""
    unit, link, job = schema.unit, schema.unit_input, schema.job
    other = link.alias()
    number = sa.select(sa.func.count()).where(other.c.unit_id == unit.c.id).scalar_subquery()
    names = ("run", "section", "event")
    columns = [unit.c[f"{end}_{name}"] for end in ("first", "last") for name in names]
    query = (
        sa.select(unit.c.series, *columns, link.c.chunk_id, link.c.collection_id, number.label("inputs"))
        .join(job, job.c.unit_id == unit.c.id)
        .join(link, link.c.unit_id == unit.c.id)
        .where(unit.c.task_id == task_id, unit.c.kind == "process", *which)
        .order_by(unit.c.id)
    )
    return conn.execute(query).all()
