"""Pointer skims: what they lead into stays. Only reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from beamwright.db import schema
from beamwright.fsck.model import Context, Finding


def led_into(context: Context) -> Iterator[Finding]:
    """Yield what valid pointer skims lead into and is unknown, gone, or merged away."""
    merged = _merge_inputs(context)
    for skim in _pointer_skims(context):
        uuids = set(skim.lineage["sources"])
        rows = _files(context, uuids)
        for uuid in sorted(uuids - {row.uuid for row in rows}):
            yield f"file {skim.scope}:{skim.name}", f"leads into {uuid}, which is in no catalogue"
        for row in rows:
            led = f"is led into by the pointer skim {skim.scope}:{skim.name}"
            if not row.verified:
                yield f"file {row.scope}:{row.name}", f"{led} and has no verified replica"
            if row.id in merged:
                yield f"file {row.scope}:{row.name}", f"{led} and was merged by unit {merged[row.id][:12]}"


def _pointer_skims(context: Context) -> list[Any]:
    file, link, collection = schema.file, schema.collection_file, schema.collection
    query = (
        sa.select(file.c.scope, file.c.name, file.c.lineage)
        .join(link, link.c.file_id == file.c.id)
        .join(collection, link.c.collection_id == collection.c.id)
        .where(collection.c.state == "valid", sa.cast(file.c.lineage, sa.Text).like('%"sources"%'))
    )
    return [row for row in context.conn.execute(query) if row.lineage.get("sources")]


def _files(context: Context, uuids: set[str]) -> list[Any]:
    file, replica = schema.file, schema.replica
    verified = sa.select(replica.c.id).where(replica.c.file_id == file.c.id, replica.c.state == "verified")
    columns = (file.c.id, file.c.scope, file.c.name, file.c.uuid, verified.exists().label("verified"))
    return [*context.conn.execute(sa.select(*columns).where(file.c.uuid.in_(uuids)))]


def _merge_inputs(context: Context) -> dict[int, str]:
    """Return the units that merge files into others, by the files' ids."""
    link, unit, member = schema.unit_input, schema.unit, schema.collection_file
    query = (
        sa.select(member.c.file_id, unit.c.key)
        .join(link, link.c.collection_id == member.c.collection_id)
        .join(unit, unit.c.id == link.c.unit_id)
        .where(unit.c.kind == "merge")
    )
    return {row.file_id: row.key for row in context.conn.execute(query)}
