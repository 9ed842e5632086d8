"""Which keys collections really cover: one that was made of several inputs has holes between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from beamwright.core.runs import EVENT_MAX, Interval
from beamwright.db import schema
from beamwright.db.engine import batched


def covered(conn: sa.Connection, wanted: Sequence[tuple[int | None, Interval]]) -> list[Interval]:
    """Return the intervals that collections, given as (unit, interval), cover.

    A unit with several inputs takes these as a whole, and what lies between them is none of its own: a run
    that is done again under another release is in no merge of those around it.
    """
    inputs = _inputs(conn, {unit for unit, _ in wanted if unit is not None})
    found: list[Interval] = []
    for unit, interval in wanted:
        parts = inputs.get(unit or 0, [])
        found += covered(conn, parts) if len(parts) > 1 else [interval]
    return found


def _inputs(conn: sa.Connection, units: Collection[int]) -> dict[int, list[tuple[int | None, Interval]]]:
    """Return per unit what it takes: collections with the units that made them, and chunks."""
    link, collection, chunk, run = schema.unit_input, schema.collection, schema.chunk, schema.run
    ends = [
        collection.c[f"{end}_{part}"] for end in ("first", "last") for part in ("run", "section", "event")
    ]
    made = sa.select(link.c.unit_id, collection.c.unit_id.label("maker"), collection.c.series, *ends)
    made = made.join(collection, link.c.collection_id == collection.c.id)
    given = sa.select(link.c.unit_id, run.c.series, run.c.number, chunk.c.first_section, chunk.c.last_section)
    given = given.join(chunk, link.c.chunk_id == chunk.c.id).join(run, chunk.c.run_id == run.c.id)
    found: defaultdict[int, list[tuple[int | None, Interval]]] = defaultdict(list)
    for part in batched(sorted(units)):
        for row in conn.execute(made.where(link.c.unit_id.in_(part))):
            found[row.unit_id].append((row.maker, _interval(row)))
        for row in conn.execute(given.where(link.c.unit_id.in_(part))):
            first, last = (row.number, row.first_section, 0), (row.number, row.last_section, EVENT_MAX)
            found[row.unit_id].append((None, Interval(row.series, first, last)))
    return found


def _interval(row: Any) -> Interval:
    first = (row.first_run, row.first_section, row.first_event)
    return Interval(row.series, first, (row.last_run, row.last_section, row.last_event))
