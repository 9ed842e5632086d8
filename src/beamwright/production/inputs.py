"""What steps read, as it stands in the database: chunks, collections, their files and verified replicas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from beamwright.core.errors import StateError, StorageError
from beamwright.core.messages import InputDoc
from beamwright.core.runs import Interval
from beamwright.db import schema
from beamwright.db.engine import batched
from beamwright.production.holes import Hole
from beamwright.production.spec import DatasetSpec
from beamwright.production.splitting import Item, hull
from beamwright.production.tasks import Task
from beamwright.production.units import row_interval


def chunks(conn: sa.Connection, dataset: DatasetSpec, *, without: Task | None = None) -> list[Any]:
    """Return the delivered chunks of a dataset in key order.

    ``without`` leaves out those that the task has units of, and those that have no record of the kind it
    reads.
    """
    run, chunk = schema.run, schema.chunk
    wanted = sa.or_(
        *[sa.and_(run.c.series == s, run.c.number.in_(numbers)) for s, numbers in dataset.runs.items()]
    )
    query = (
        _chunks()
        .where(run.c.tier == dataset.tier, wanted)
        .order_by(run.c.series, run.c.number, chunk.c.first_section)
    )
    if without is None:
        return list(conn.execute(query))
    query = query.where(~_has_unit(without.id, schema.unit_input.c.chunk_id == chunk.c.id))
    return [row for row in conn.execute(query) if row.records.get(without.facts.record)]


def chunk_of(conn: sa.Connection, datasets: Iterable[DatasetSpec], chunk_id: int) -> tuple[Any, DatasetSpec]:
    """Return a chunk with the dataset, among these, that it belongs to.

    Raises: StateError when it is in none of them.
    """
    row = conn.execute(_chunks().where(schema.chunk.c.id == chunk_id)).one()
    for dataset in datasets:
        if row.tier == dataset.tier and row.number in dataset.runs.get(row.series, ()):
            return row, dataset
    raise StateError(
        f"chunk {row.sequence} of run {row.series}/{row.number} left its dataset",
        hint="put the run back into the dataset",
    )


def _chunks() -> sa.Select[Any]:
    run, chunk = schema.run, schema.chunk
    columns = (run.c.series, run.c.number, run.c.state.label("run_state"), run.c.is_mc, run.c.is_resampled)
    return sa.select(chunk, *columns, run.c.tier).join(run, chunk.c.run_id == run.c.id)


def delivered(conn: sa.Connection, series: str, run: int, tier: str, sequence: int) -> bool:
    """Tell whether a chunk is registered."""
    table, chunk = schema.run, schema.chunk
    query = (
        sa.select(chunk.c.id)
        .join(table, chunk.c.run_id == table.c.id)
        .where(table.c.series == series, table.c.number == run)
    )
    return conn.execute(query.where(table.c.tier == tier, chunk.c.sequence == sequence)).first() is not None


def collections(
    conn: sa.Connection, task_id: int, stream: str, *, without_task: int | None = None
) -> list[Any]:
    """Return the valid collections that a task wrote to a stream, in key order."""
    collection, unit = schema.collection, schema.unit
    query = (
        sa.select(collection)
        .join(unit, collection.c.unit_id == unit.c.id)
        .where(unit.c.task_id == task_id, collection.c.stream == stream, collection.c.state == "valid")
        .order_by(
            collection.c.series, collection.c.first_run, collection.c.first_section, collection.c.first_event
        )
    )
    if without_task is not None:
        query = query.where(~_has_unit(without_task, schema.unit_input.c.collection_id == collection.c.id))
    return list(conn.execute(query))


def _has_unit(task_id: int, matches: sa.ColumnElement[bool]) -> sa.Exists:
    """What is superseded does not count: its input is to be taken up again."""
    unit, job = schema.unit, schema.job
    query = (
        sa.select(unit.c.id)
        .join(schema.unit_input, schema.unit_input.c.unit_id == unit.c.id)
        .join(job, job.c.unit_id == unit.c.id)
    )
    return query.where(unit.c.task_id == task_id, job.c.state != "superseded", matches).exists()


def with_edition(conn: sa.Connection, task: Task, item: Item, stream: str = "") -> Item:
    """Number an item after the superseded units of a task that its interval meets."""
    unit, job = schema.unit, schema.job
    query = (
        sa.select(unit)
        .join(job, job.c.unit_id == unit.c.id)
        .where(unit.c.task_id == task.id, unit.c.stream == stream, job.c.state == "superseded")
        .where(unit.c.series == item.interval.series, unit.c.first_run <= item.interval.last[0])
        .where(unit.c.last_run >= item.interval.first[0])
    )
    earlier = [
        row.definition.get("edition", 0) + 1
        for row in conn.execute(query)
        if row_interval(row).intersect(item.interval) is not None
    ]
    return replace(item, edition=max(earlier, default=0))


def chunk_item(conn: sa.Connection, row: Any, global_tag: str) -> Item:
    """Return the item of a chunk (a row of ``tasks.chunks``)."""
    interval = Interval.sections(row.series, row.number, row.first_section, row.last_section)
    file, link = schema.file, schema.chunk_file
    query = (
        sa.select(file, link.c.role).join(link, link.c.file_id == file.c.id).where(link.c.chunk_id == row.id)
    )
    files = conn.execute(query.order_by(link.c.role, file.c.name)).all()
    documents = tuple(_input(conn, f, "raw", row.reader, f.role, interval) for f in files)
    return Item(
        interval, documents, global_tag, row.is_mc, row.is_resampled, dict(row.records), chunk_ids=(row.id,)
    )


def chunks_item(conn: sa.Connection, rows: Sequence[Any], global_tag: str) -> Item:
    """Return one item of chunks in key order."""
    items = [chunk_item(conn, row, global_tag) for row in rows]
    records: Counter[str] = Counter()
    for item in items:
        records.update(item.records)
    return replace(
        items[0],
        interval=hull([item.interval for item in items]),
        inputs=tuple(document for item in items for document in item.inputs),
        records=dict(records),
        chunk_ids=tuple(row.id for row in rows),
    )


def chunk_sizes(conn: sa.Connection, ids: Sequence[int]) -> dict[int, int]:
    """Return the bytes of chunks' files."""
    link, file = schema.chunk_file, schema.file
    query = sa.select(link.c.chunk_id, sa.func.sum(file.c.size)).join(file, link.c.file_id == file.c.id)
    found: dict[int, int] = {}
    for part in batched(ids):
        found |= {
            chunk: int(size)
            for chunk, size in conn.execute(query.where(link.c.chunk_id.in_(part)).group_by(link.c.chunk_id))
        }
    return found


def collection_item(conn: sa.Connection, rows: Sequence[Any]) -> Item:
    """Return one item of collections in key order."""
    documents = tuple(d for row in rows for d in _collection_inputs(conn, row))
    interval = hull([row_interval(row) for row in rows])
    first = rows[0]
    return Item(
        interval,
        documents,
        first.global_tag,
        first.is_mc,
        first.is_resampled,
        {},
        collection_ids=tuple(row.id for row in rows),
    )


def item_of(conn: sa.Connection, datasets: Sequence[DatasetSpec | None], hole: Hole) -> Item | None:
    """Return the whole input that a hole is in, or None where it is not valid any more."""
    if hole.chunk_id is not None:
        row, dataset = chunk_of(conn, [one for one in datasets if one is not None], hole.chunk_id)
        return chunk_item(conn, row, dataset.global_tag)
    table = schema.collection
    query = sa.select(table).where(table.c.id == hole.collection_id, table.c.state == "valid")
    rows = conn.execute(query).all()
    return collection_item(conn, rows) if rows else None


def unit_outputs(conn: sa.Connection, unit_ids: Sequence[int], stream: str) -> tuple[InputDoc, ...]:
    """Return an accepted output of each unit, in the order of the units."""
    file, output, unit = schema.file, schema.output, schema.unit
    documents = []
    for unit_id in unit_ids:
        query = (
            sa.select(file, unit)
            .join(output, output.c.file_id == file.c.id)
            .join(unit, unit.c.id == output.c.unit_id)
        )
        row = conn.execute(query.where(output.c.unit_id == unit_id, output.c.stream == stream)).one()
        documents.append(_input(conn, row, "bundle", "", stream, row_interval(row)))
    return tuple(documents)


def index_file(conn: sa.Connection, chunk_id: int) -> str:
    """Return the name of a chunk's key index."""
    return str(
        conn.execute(sa.select(schema.chunk.c.index_file).where(schema.chunk.c.id == chunk_id)).scalar_one()
    )


def verified_path(conn: sa.Connection, file_id: int, name: str) -> str:
    """Return the path of a verified replica.

    Raises: StorageError when there is none.
    """
    replica = schema.replica
    query = (
        sa.select(replica.c.path)
        .where(replica.c.file_id == file_id, replica.c.state == "verified")
        .order_by(replica.c.id)
    )
    path = conn.execute(query).scalar()
    if path is None:
        raise StorageError(
            f"file {name} has no verified replica",
            hint="`beamwright explain` tells what became of its replicas",
        )
    return str(path)


def _collection_inputs(conn: sa.Connection, row: Any) -> list[InputDoc]:
    file, link = schema.file, schema.collection_file
    query = (
        sa.select(file)
        .join(link, link.c.file_id == file.c.id)
        .where(link.c.collection_id == row.id)
        .order_by(link.c.position)
    )
    return [_input(conn, f, "rntuple", "", row.stream, row_interval(row)) for f in conn.execute(query)]


def _input(conn: sa.Connection, file: Any, kind: str, reader: str, role: str, interval: Interval) -> InputDoc:
    name = f"{file.scope}:{file.name}"
    return {
        "path": verified_path(conn, file.id, name),
        "name": name,
        "sha256": file.sha256,
        "size": file.size,
        "kind": kind,
        "reader": reader,
        "role": role,
        "interval": interval.document(),
    }
