"""Read-only statements for what is shown: reports, listings, explanations.

Each returns plain dictionaries in an order that depends on names alone, never on row numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from beamwright.core.errors import UnknownNameError
from beamwright.db.schema import (
    attempt,
    chain,
    chain_link,
    chunk,
    chunk_file,
    collection,
    collection_file,
    dataset,
    dataset_collection,
    file,
    file_parent,
    global_tag,
    global_tag_member,
    history,
    iov,
    job,
    ledger,
    output,
    payload,
    production,
    quarantine,
    replica,
    run,
    tag,
    task,
    unit,
    unit_input,
    verdict,
)

Row = dict[str, Any]
INTERVAL = ("series", "first_run", "first_section", "first_event", "last_run", "last_section", "last_event")


def rows(conn: sa.Connection, statement: sa.Select[Any], **values: Any) -> list[Row]:
    """Return the result as dictionaries."""
    return [dict(row) for row in conn.execute(statement, values).mappings()]


def did(table: Any) -> sa.ColumnElement[str]:
    """Return the expression ``scope:name``."""
    expression: sa.ColumnElement[str] = table.c.scope + ":" + table.c.name
    return expression


def interval_of(row: Row) -> list[Any]:
    """Return the interval columns in the form of ``Interval.document``."""
    return [
        row["series"],
        [row["first_run"], row["first_section"], row["first_event"]],
        [row["last_run"], row["last_section"], row["last_event"]],
    ]


# --- productions, tasks, units, jobs --------------------------------------------------------------


def productions(conn: sa.Connection) -> list[Row]:
    """Return every production, by name."""
    return rows(conn, sa.select(production).order_by(production.c.name))


def find_production(conn: sa.Connection, name: str | None = None) -> Row:
    """Return the production of this name, or the only or latest one.

    Raises: UnknownNameError.
    """
    known = productions(conn)
    chosen = (
        [row for row in known if row["name"] == name]
        if name
        else sorted(known, key=lambda row: row["created"])[-1:]
    )
    if not chosen:
        raise UnknownNameError("production", name or "(any)", [row["name"] for row in known])
    return chosen[0]


def tasks(conn: sa.Connection, production_id: int | None = None, task_id: int | None = None) -> list[Row]:
    """Return the tasks, of one production or one of them, in the order of their production, with counts of
    jobs by state.
    """
    chosen = (
        sa.select(task, production.c.name.label("production"))
        .join(production)
        .order_by(production.c.name, task.c.id)
    )
    if production_id is not None:
        chosen = chosen.where(task.c.production_id == production_id)
    if task_id is not None:
        chosen = chosen.where(task.c.id == task_id)
    found = rows(conn, chosen)
    counts: dict[int, dict[str, int]] = defaultdict(dict)
    counted = (
        sa.select(unit.c.task_id, job.c.state, sa.func.count())
        .join(job)
        .where(unit.c.task_id.in_([row["id"] for row in found]))
        .group_by(unit.c.task_id, job.c.state)
    )
    for task_id, state, number in conn.execute(counted.order_by(job.c.state)):
        counts[task_id][state] = number
    return [{**row, "jobs": counts.get(row["id"], {})} for row in found]


def units(conn: sa.Connection, production_id: int | None = None) -> list[Row]:
    """Return units with their step, job state and reason, in key order; definitions are left out."""
    columns = [column for column in unit.c if column.name != "definition"]
    chosen = (
        sa.select(
            *columns,
            task.c.step,
            production.c.name.label("production"),
            job.c.id.label("job_id"),
            job.c.state,
            job.c.reason,
            job.c.failures,
            job.c.not_before,
        )
        .select_from(unit.join(task).join(production).outerjoin(job))
        .order_by(
            task.c.id, unit.c.stream, *(unit.c[name] for name in INTERVAL), unit.c.config_version, unit.c.key
        )
    )
    return rows(
        conn, chosen if production_id is None else chosen.where(task.c.production_id == production_id)
    )


def unit_inputs(conn: sa.Connection) -> dict[int, list[tuple[int | None, int | None]]]:
    """Return per unit its inputs as (chunk, collection)."""
    found: dict[int, list[tuple[int | None, int | None]]] = defaultdict(list)
    for unit_id, chunk_id, collection_id in conn.execute(
        sa.select(unit_input.c.unit_id, unit_input.c.chunk_id, unit_input.c.collection_id).order_by(
            unit_input.c.unit_id, unit_input.c.position
        )
    ):
        found[unit_id].append((chunk_id, collection_id))
    return found


def makers(conn: sa.Connection) -> dict[int, int]:
    """Return per collection the unit that made it."""
    chosen = sa.select(collection.c.id, collection.c.unit_id).where(collection.c.unit_id.is_not(None))
    return {row[0]: row[1] for row in conn.execute(chosen)}


def attempts(conn: sa.Connection, production_id: int | None = None, job_id: int | None = None) -> list[Row]:
    """Return attempts with the step and key of their unit."""
    chosen = (
        sa.select(
            attempt,
            job.c.state.label("job_state"),
            unit.c.id.label("unit_id"),
            unit.c.key.label("unit"),
            unit.c.stream,
            *(unit.c[name] for name in INTERVAL),
            task.c.step,
        )
        .select_from(attempt.join(job).join(unit).join(task))
        .order_by(task.c.id, unit.c.key, attempt.c.number)
    )
    if production_id is not None:
        chosen = chosen.where(task.c.production_id == production_id)
    return rows(conn, chosen if job_id is None else chosen.where(attempt.c.job_id == job_id))


def ledger_lines(conn: sa.Connection, production_id: int | None = None) -> list[Row]:
    """Return ledger lines with their step, in key order."""
    chosen = (
        sa.select(ledger, task.c.step, unit.c.key.label("unit"), production.c.name.label("production"))
        .select_from(ledger.join(unit, ledger.c.unit_id == unit.c.id).join(task).join(production))
        .order_by(task.c.id, ledger.c.record, ledger.c.stream, *(ledger.c[name] for name in INTERVAL))
    )
    return rows(
        conn, chosen if production_id is None else chosen.where(task.c.production_id == production_id)
    )


def quarantined(conn: sa.Connection, production_id: int | None = None) -> list[Row]:
    """Return quarantined records in key order."""
    keys = (quarantine.c.series, quarantine.c.run, quarantine.c.section, quarantine.c.event)
    chosen = (
        sa.select(quarantine, task.c.step)
        .select_from(quarantine.join(unit, quarantine.c.unit_id == unit.c.id).join(task))
        .order_by(task.c.id, quarantine.c.record, *keys)
    )
    return rows(
        conn, chosen if production_id is None else chosen.where(task.c.production_id == production_id)
    )


# --- runs, files, collections, datasets -----------------------------------------------------------


def runs(conn: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[Row]:
    """Return runs by series, number and tier."""
    return rows(conn, sa.select(run).where(*conditions).order_by(run.c.series, run.c.number, run.c.tier))


def kinds(conn: sa.Connection) -> dict[tuple[str, int], str]:
    """Return per (series, run number) whether its events are data, simulation or resampled."""
    chosen = sa.select(run.c.series, run.c.number, run.c.is_mc, run.c.is_resampled)
    return {
        (row.series, row.number): "resampled" if row.is_resampled else "simulation" if row.is_mc else "data"
        for row in conn.execute(chosen)
    }


def kinds_made(conn: sa.Connection) -> dict[int, str]:
    """Return the units whose outputs are simulation or resampled, with which: their runs may be data."""
    flags = (collection.c.is_mc, collection.c.is_resampled)
    chosen = sa.select(collection.c.unit_id, *flags).where(sa.or_(*flags), collection.c.unit_id.is_not(None))
    return {row.unit_id: "resampled" if row.is_resampled else "simulation" for row in conn.execute(chosen)}


def chunks(conn: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[Row]:
    """Return chunks with series, run number, tier and flag of their run."""
    chosen = sa.select(
        chunk,
        run.c.series,
        run.c.number.label("run"),
        run.c.tier,
        run.c.is_mc,
        run.c.is_resampled,
        run.c.version.label("run_version"),
    ).join(run)
    ordered = chosen.order_by(run.c.series, run.c.number, run.c.tier, chunk.c.sequence)
    return rows(conn, ordered.where(*conditions))


def chunk_files(conn: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[Row]:
    """Return the files of chunks, with role and physical path."""
    chosen = (
        sa.select(
            chunk_file.c.chunk_id,
            chunk_file.c.role,
            did(file).label("name"),
            file.c.size,
            file.c.sha256,
            replica.c.path,
        )
        .select_from(chunk_file.join(file).outerjoin(replica))
        .where(*conditions)
        .order_by(chunk_file.c.chunk_id, chunk_file.c.role, file.c.name)
    )
    return rows(conn, chosen)


def collections(
    conn: sa.Connection, production_id: int | None = None, ids: Iterable[int] | None = None
) -> list[Row]:
    """Return collections with production and step, by name; all, or those of some ids."""
    chosen = (
        sa.select(
            collection, did(collection).label("did"), task.c.step, production.c.name.label("production")
        )
        .select_from(
            collection.outerjoin(unit, collection.c.unit_id == unit.c.id)
            .outerjoin(task)
            .outerjoin(production)
        )
        .order_by(collection.c.scope, collection.c.name)
    )
    if ids is not None:
        chosen = chosen.where(collection.c.id.in_(list(ids)))
    return rows(
        conn, chosen if production_id is None else chosen.where(task.c.production_id == production_id)
    )


def collections_at(conn: sa.Connection, series: str, position: tuple[int, int, int]) -> list[int]:
    """Return the ids of the valid collections whose interval holds a key."""
    parts = ("run", "section", "event")
    first, last = ([collection.c[f"{end}_{part}"] for part in parts] for end in ("first", "last"))
    key = sa.tuple_(*(sa.literal(value) for value in position))
    chosen = sa.select(collection.c.id).where(
        collection.c.state == "valid",
        collection.c.series == series,
        collection.c.first_run <= position[0],
        sa.tuple_(*first) <= key,
        sa.tuple_(*last) >= key,
    )
    return list(conn.execute(chosen.order_by(collection.c.id)).scalars())


def collections_called(conn: sa.Connection, name: str) -> list[int]:
    """Return the ids of the collections of a name, ``scope:name``."""
    scope, _, rest = name.partition(":")
    chosen = sa.select(collection.c.id).where(collection.c.scope == scope, collection.c.name == rest)
    return list(conn.execute(chosen).scalars())


def files_of_collections(conn: sa.Connection, ids: Iterable[int] | None = None) -> dict[int, list[Row]]:
    """Return per collection, all or some, its files in order, each with name, checksum and physical path.

    Of several replicas of a file it is the best one: verified before present, then any other.
    """
    chosen = (
        sa.select(
            collection_file.c.collection_id,
            file.c.id,
            did(file).label("name"),
            file.c.size,
            file.c.sha256,
            file.c.uuid,
            replica.c.path,
            replica.c.state.label("replica"),
        )
        .select_from(collection_file.join(file).outerjoin(replica))
        .order_by(collection_file.c.collection_id, collection_file.c.position, replica.c.id)
    )
    if ids is not None:
        chosen = chosen.where(collection_file.c.collection_id.in_(list(ids)))
    found: dict[int, dict[int, Row]] = defaultdict(dict)
    for row in rows(conn, chosen):
        best = found[row["collection_id"]].setdefault(row["id"], row)
        if _rank(row["replica"]) < _rank(best["replica"]):
            found[row["collection_id"]][row["id"]] = row
    return {collection_id: list(files.values()) for collection_id, files in found.items()}


def _rank(state: str | None) -> int:
    return {"verified": 0, "present": 1}.get(state or "", 2)


def parents(conn: sa.Connection, file_ids: Iterable[int] | None = None) -> dict[int, list[Row]]:
    """Return per file its parents (id, name, kind), by name."""
    parent = file.alias("parent")
    chosen = (
        sa.select(file_parent.c.file_id, parent.c.id, did(parent).label("name"), parent.c.kind, parent.c.tier)
        .select_from(file_parent.join(parent, file_parent.c.parent_id == parent.c.id))
        .order_by(file_parent.c.file_id, parent.c.scope, parent.c.name)
    )
    if file_ids is not None:
        chosen = chosen.where(file_parent.c.file_id.in_(list(file_ids)))
    found: dict[int, list[Row]] = defaultdict(list)
    for row in rows(conn, chosen):
        found[row["file_id"]].append(row)
    return found


def children(conn: sa.Connection, file_id: int) -> list[Row]:
    """Return the files made from this one, by name."""
    chosen = (
        sa.select(file.c.id, did(file).label("name"), file.c.kind, file.c.tier)
        .select_from(file_parent.join(file, file_parent.c.file_id == file.c.id))
        .where(file_parent.c.parent_id == file_id)
        .order_by(file.c.scope, file.c.name)
    )
    return rows(conn, chosen)


def outputs(conn: sa.Connection, production_id: int | None = None, stream: str | None = None) -> list[Row]:
    """Return accepted outputs with unit, step, file and physical path."""
    chosen = (
        sa.select(
            output,
            task.c.step,
            unit.c.kind,
            unit.c.key.label("unit"),
            *(unit.c[name] for name in INTERVAL),
            file.c.sha256,
            did(file).label("name"),
            file.c.size,
            replica.c.path,
            job.c.state.label("job_state"),
        )
        .select_from(
            output.join(unit, output.c.unit_id == unit.c.id)
            .join(task)
            .join(job, job.c.unit_id == unit.c.id)
            .join(file, output.c.file_id == file.c.id)
            .outerjoin(replica)
        )
        .order_by(task.c.id, output.c.stream, *(unit.c[name] for name in INTERVAL), unit.c.key)
    )
    if production_id is not None:
        chosen = chosen.where(task.c.production_id == production_id)
    return rows(conn, chosen if stream is None else chosen.where(output.c.stream == stream))


def files(conn: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[Row]:
    """Return files, with name and physical path, by name."""
    chosen = sa.select(
        file, did(file).label("did"), replica.c.path, replica.c.state.label("replica"), replica.c.endpoint
    )
    chosen = chosen.select_from(file.outerjoin(replica)).where(*conditions)
    return rows(conn, chosen.order_by(file.c.scope, file.c.name, replica.c.id))


def datasets(conn: sa.Connection) -> list[Row]:
    """Return datasets with the number of collections that they list."""
    listed = sa.func.count(dataset_collection.c.collection_id).label("collections")
    chosen = sa.select(dataset, did(dataset).label("did"), listed).select_from(
        dataset.outerjoin(dataset_collection)
    )
    return rows(
        conn, chosen.group_by(dataset.c.id).order_by(dataset.c.scope, dataset.c.name, dataset.c.version)
    )


def dataset_members(conn: sa.Connection, dataset_id: int) -> list[Row]:
    """Return the collections that a dataset lists, by name."""
    names = (collection.c.tier, collection.c.stream, collection.c.state, collection.c.events)
    chosen = sa.select(did(collection).label("name"), *names).join(dataset_collection)
    chosen = chosen.where(dataset_collection.c.dataset_id == dataset_id)
    return rows(conn, chosen.order_by(collection.c.scope, collection.c.name))


# --- conditions, chains, quality ------------------------------------------------------------------


def validities(conn: sa.Connection, tag_name: str | None = None) -> list[Row]:
    """Return the intervals that the newest version of each tag holds, by tag and interval."""
    chosen = (
        sa.select(iov, tag.c.name.label("tag"), tag.c.kind, payload.c.size)
        .select_from(iov.join(tag, iov.c.tag_id == tag.c.id).join(payload, iov.c.payload_id == payload.c.id))
        .where(iov.c.removed.is_(None))
        .order_by(tag.c.name, *(iov.c[name] for name in INTERVAL))
    )
    return rows(conn, chosen if tag_name is None else chosen.where(tag.c.name == tag_name))


def tags(conn: sa.Connection) -> list[Row]:
    """Return tags with the number of intervals of their newest version."""
    held = sa.func.count(iov.c.id).label("intervals")
    joined = tag.outerjoin(iov, (iov.c.tag_id == tag.c.id) & iov.c.removed.is_(None))
    return rows(conn, sa.select(tag, held).select_from(joined).group_by(tag.c.id).order_by(tag.c.name))


def payloads(conn: sa.Connection) -> list[Row]:
    """Return payloads without their bytes, by id."""
    return rows(
        conn,
        sa.select(payload.c.id, payload.c.kind, payload.c.size, payload.c.created).order_by(payload.c.id),
    )


def global_tags(conn: sa.Connection) -> list[Row]:
    """Return global tags with the names of their newest members."""
    newest = (
        sa.select(
            global_tag_member.c.global_tag_id,
            tag.c.name,
            sa.func.max(global_tag_member.c.tag_version).label("version"),
        )
        .join(tag)
        .group_by(global_tag_member.c.global_tag_id, tag.c.name)
        .order_by(tag.c.name)
    )
    members: dict[int, dict[str, int]] = defaultdict(dict)
    for global_tag_id, name, version in conn.execute(newest):
        members[global_tag_id][name] = version
    found = rows(conn, sa.select(global_tag).order_by(global_tag.c.name))
    return [{**row, "tags": members.get(row["id"], {})} for row in found]


def links(conn: sa.Connection, production_id: int | None = None) -> list[Row]:
    """Return chain links with step, series, run and chunk, by step and interval."""
    keys = (chain_link.c.first_run, chain_link.c.first_section, chain_link.c.generation)
    chosen = (
        sa.select(chain_link, task.c.step, chunk.c.sequence, run.c.number.label("run"))
        .select_from(
            chain_link.join(chain, chain_link.c.chain_id == chain.c.id)
            .join(task, chain.c.task_id == task.c.id)
            .join(chunk, chain_link.c.chunk_id == chunk.c.id)
            .join(run, chunk.c.run_id == run.c.id)
        )
        .order_by(task.c.id, chain_link.c.series, *keys)
    )
    return rows(
        conn, chosen if production_id is None else chosen.where(task.c.production_id == production_id)
    )


def verdicts(conn: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[Row]:
    """Return the newest verdict on each subject of a run, by series, run, tier, subject."""
    keys = (verdict.c.series, verdict.c.run, verdict.c.tier, verdict.c.subject)
    version = sa.func.max(verdict.c.version).label("version")
    newest = sa.select(*keys, version).where(*conditions).group_by(*keys).subquery()
    matched = sa.and_(
        *(verdict.c[key.name] == newest.c[key.name] for key in keys), verdict.c.version == newest.c.version
    )
    return rows(conn, sa.select(verdict).join(newest, matched).order_by(*keys))


def history_of(conn: sa.Connection, kind: str, objects: Iterable[str]) -> list[Row]:
    """Return what happened to these objects, oldest first."""
    chosen = sa.select(history).where(history.c.kind == kind, history.c.object.in_(list(objects)))
    return rows(conn, chosen.order_by(history.c.id))
