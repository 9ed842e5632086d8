"""Finding one thing by whatever name people have for it, and what stands around it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from beamwright.core.errors import UnknownNameError
from beamwright.core.runs import EventKey, Interval, Position
from beamwright.db import schema
from beamwright.db.columns import begins
from beamwright.db.views import Row, did, rows

SHORTEST = 6
LIMIT = 20


@dataclass(frozen=True)
class Found:
    """A thing: what kind it is, its row number (text for payloads), and its full name."""

    kind: str
    id: int | str
    name: str


def find(conn: sa.Connection, name: str) -> list[Found]:
    """Return what a name can mean: a DID, ``series/run``, ``production/step``, a name, a hash's start."""
    found = [*_by_name(conn, name), *_by_did(conn, name), *_by_slash(conn, name), *_by_job(conn, name)]
    return found or _by_hash(conn, name)


@dataclass(frozen=True)
class ReleaseUses:
    """What was made with a release."""

    productions: list[str]
    attempts: int
    collections: int


def releases(conn: sa.Connection, name: str) -> list[Found]:
    """Return the releases that begin like this, ``sha256:…`` or ``dev+…``."""
    if not name.startswith(("sha256:", "dev+")) or len(name) < SHORTEST + len("dev+"):
        return []
    columns = (schema.attempt.c.release, schema.collection.c.release, schema.production.c.release)
    found = {
        str(row[0])
        for column in columns
        for row in conn.execute(
            sa.select(column).where(column.startswith(name, autoescape=True)).distinct().limit(LIMIT)
        )
    }
    return [Found("release", one, one) for one in sorted(found)]


def uses_of_release(conn: sa.Connection, release: str) -> ReleaseUses:
    """Return how much was made with a release."""
    production, attempt, table = schema.production, schema.attempt, schema.collection
    named = sa.select(production.c.name).where(production.c.release == release).order_by(production.c.name)
    accepted = (attempt.c.release == release, attempt.c.state == "accepted")
    counts = [
        conn.execute(sa.select(sa.func.count()).where(*where)).scalar_one()
        for where in (accepted, (table.c.release == release,))
    ]
    return ReleaseUses([str(name) for name in conn.execute(named).scalars()], *counts)


def successor(conn: sa.Connection, collection_id: int) -> str | None:
    """Return the name of the collection that was decided to take the place of another."""
    table, new = schema.supersession, schema.collection
    chosen = (
        sa.select(did(new)).join(table, table.c.new_id == new.c.id).where(table.c.old_id == collection_id)
    )
    found: str | None = conn.execute(chosen).scalar()
    return found


def names(conn: sa.Connection) -> list[str]:
    """Return names that people may have meant: of runs, tasks, tags, productions, collections."""
    run, task, production = schema.run, schema.task, schema.production
    chosen: list[sa.Select[Any]] = [
        sa.select(run.c.series + "/" + sa.cast(run.c.number, sa.Text)),
        sa.select(production.c.name + "/" + task.c.step).join_from(task, production),
        *(sa.select(table.c.name) for table in (production, schema.tag, schema.global_tag)),
        sa.select(did(schema.collection)).limit(5000),
    ]
    return sorted(str(row[0]) for statement in chosen for row in conn.execute(statement))


def one(conn: sa.Connection, table: sa.Table, identity: int | str) -> Row:
    """Return the row with this id."""
    return rows(conn, sa.select(table).where(table.c.id == identity))[0]


def where(conn: sa.Connection, table: sa.Table, *order: sa.ColumnElement[Any], **values: Any) -> list[Row]:
    """Return the rows with these values, by id or as told."""
    chosen = sa.select(table).where(*(table.c[name] == value for name, value in values.items()))
    return rows(conn, chosen.order_by(*(order or (table.c.id,))))


def units_at(conn: sa.Connection, key: EventKey) -> list[Row]:
    """Return the units whose interval holds an event, with their step and production."""
    return units_in(conn, Interval(key.series, key.position, key.position))


def units_in(conn: sa.Connection, interval: Interval) -> list[Row]:
    """Return the units whose interval meets this one, with step, production and job state."""
    unit, task, production, job = schema.unit, schema.task, schema.production, schema.job
    chosen = (
        sa.select(
            unit.c.id,
            unit.c.key,
            unit.c.kind,
            unit.c.record,
            task.c.step,
            production.c.name.label("production"),
            job.c.state,
        )
        .select_from(unit.join(task).join(production).outerjoin(job))
        .where(*_meets(unit, interval))
        .order_by(task.c.id, unit.c.first_run, unit.c.first_section, unit.c.first_event, unit.c.id)
    )
    return rows(conn, chosen)


def quarantine_at(conn: sa.Connection, key: EventKey) -> list[Row]:
    """Return the quarantine rows of an event."""
    table = schema.quarantine
    at = (
        table.c.series == key.series,
        table.c.run == key.run,
        table.c.section == key.section,
        table.c.event == key.event,
    )
    return rows(conn, sa.select(table).where(*at).order_by(table.c.id))


def users_of_payload(conn: sa.Connection, payload_id: str) -> list[Row]:
    """Return the intervals of tags that name a payload, with tag name."""
    iov, tag = schema.iov, schema.tag
    chosen = sa.select(iov, tag.c.name.label("tag")).join_from(iov, tag, iov.c.tag_id == tag.c.id)
    return rows(conn, chosen.where(iov.c.payload_id == payload_id).order_by(tag.c.name, iov.c.id))


def global_tags_of(conn: sa.Connection, tag_id: int) -> list[str]:
    """Return the global tags that have a tag as a member."""
    member, table = schema.global_tag_member, schema.global_tag
    chosen = sa.select(table.c.name).distinct().join_from(member, table).where(member.c.tag_id == tag_id)
    return [str(row[0]) for row in conn.execute(chosen.order_by(table.c.name))]


def inputs_of(conn: sa.Connection, unit_id: int) -> list[str]:
    """Return the inputs of a unit by name: ``series/run/sequence`` of chunks, DIDs of collections."""
    link, chunk, run, collection = schema.unit_input, schema.chunk, schema.run, schema.collection
    chosen = (
        sa.select(run.c.series, run.c.number, chunk.c.sequence, did(collection))
        .select_from(
            link.outerjoin(chunk, link.c.chunk_id == chunk.c.id)
            .outerjoin(run)
            .outerjoin(collection, link.c.collection_id == collection.c.id)
        )
        .where(link.c.unit_id == unit_id)
        .order_by(link.c.position)
    )
    return [
        name or f"{series}/{number}/{sequence}" for series, number, sequence, name in conn.execute(chosen)
    ]


def users_of(conn: sa.Connection, **values: int) -> list[Row]:
    """Return the units that take a chunk (``chunk_id``) or a collection (``collection_id``)."""
    link, unit, task, job = schema.unit_input, schema.unit, schema.task, schema.job
    chosen = (
        sa.select(unit.c.key, unit.c.kind, task.c.step, job.c.state)
        .select_from(link.join(unit, link.c.unit_id == unit.c.id).join(task).outerjoin(job))
        .where(*(link.c[name] == value for name, value in values.items()))
        .order_by(task.c.id, unit.c.key)
    )
    return rows(conn, chosen)


def find_task(conn: sa.Connection, name: str) -> Any:
    """Return the row of the task ``production/step``.

    Raises: UnknownNameError.
    """
    task, production = schema.task, schema.production
    query = sa.select(task, production.c.name.label("production"), production.c.release.label("release"))
    rows = conn.execute(query.join(production, task.c.production_id == production.c.id)).all()
    known = {f"{row.production}/{row.step}": row for row in rows}
    if name not in known:
        raise UnknownNameError("task", name, known)
    return known[name]


def units_in_states(
    conn: sa.Connection, task_ids: Iterable[int], states: Iterable[str], limit: int
) -> tuple[list[Row], int]:
    """Return the first units of tasks whose jobs are in some states, and how many there are."""
    unit, task, job = schema.unit, schema.task, schema.job
    around = job.join(unit, job.c.unit_id == unit.c.id).join(task)
    conditions = (unit.c.task_id.in_(list(task_ids)), job.c.state.in_(list(states)))
    chosen = sa.select(unit.c.key, unit.c.kind, task.c.step, job.c.state).select_from(around)
    number = sa.select(sa.func.count()).select_from(around).where(*conditions)
    first = rows(conn, chosen.where(*conditions).order_by(job.c.id).limit(limit))
    return first, int(conn.execute(number).scalar_one())


def _by_name(conn: sa.Connection, name: str) -> list[Found]:
    tables = {"production": schema.production, "tag": schema.tag, "global tag": schema.global_tag}
    return [
        Found(kind, row[0], name)
        for kind, table in tables.items()
        for row in conn.execute(sa.select(table.c.id).where(table.c.name == name))
    ]


def _by_did(conn: sa.Connection, name: str) -> list[Found]:
    scope, colon, rest = name.partition(":")
    if not colon:
        return []
    tables = {"collection": schema.collection, "file": schema.file, "dataset": schema.dataset}
    return [
        Found(kind, row[0], name)
        for kind, table in tables.items()
        for row in conn.execute(sa.select(table.c.id).where(table.c.scope == scope, table.c.name == rest))
    ]


def _by_slash(conn: sa.Connection, name: str) -> list[Found]:
    parts = name.split("/")
    if len(parts) in (2, 3) and all(part.isdigit() for part in parts[1:]):
        return _runs(conn, parts[0], int(parts[1]), int(parts[2]) if len(parts) == 3 else None)
    if len(parts) != 2:
        return []
    task, production = schema.task, schema.production
    chosen = (
        sa.select(task.c.id).join(production).where(production.c.name == parts[0], task.c.step == parts[1])
    )
    return [Found("task", row[0], name) for row in conn.execute(chosen)]


def _runs(conn: sa.Connection, series: str, number: int, sequence: int | None) -> list[Found]:
    run, chunk = schema.run, schema.chunk
    is_run = (run.c.series == series, run.c.number == number)
    if sequence is None:
        found = conn.execute(sa.select(run.c.id, run.c.tier).where(*is_run).order_by(run.c.tier))
        return [Found("run", row.id, f"{series}/{number} ({row.tier})") for row in found]
    chosen = sa.select(chunk.c.id).join(run).where(*is_run, chunk.c.sequence == sequence)
    return [Found("chunk", row[0], f"{series}/{number}/{sequence}") for row in conn.execute(chosen)]


def _by_job(conn: sa.Connection, name: str) -> list[Found]:
    """A short number is that of a job, as messages of the system give it."""
    if not name.isdigit() or len(name) >= SHORTEST:
        return []
    unit, job = schema.unit, schema.job
    chosen = sa.select(unit.c.id, unit.c.key).join_from(unit, job).where(job.c.id == int(name))
    return [Found("unit", row.id, row.key) for row in conn.execute(chosen)]


def _by_hash(conn: sa.Connection, text: str) -> list[Found]:
    if len(text) < SHORTEST or not all(c in "0123456789abcdef-" for c in text):
        return []
    columns = {
        "unit": (schema.unit.c.id, schema.unit.c.key),
        "attempt": (schema.attempt.c.id, schema.attempt.c.nonce),
        "payload": (schema.payload.c.id, schema.payload.c.id.label("name")),
        "file": (schema.file.c.id, schema.file.c.sha256),
    }
    found = []
    for kind, (identity, hashed) in columns.items():
        chosen = sa.select(identity, hashed).where(*_begins(hashed, text)).order_by(hashed).limit(LIMIT)
        found += [Found(kind, row[0], str(row[1])) for row in conn.execute(chosen)]
    return found


def _begins(hashed: sa.ColumnElement[Any], text: str) -> list[sa.ColumnElement[bool]]:
    """Return the conditions that a hash begins like this: the range is what an index finds."""
    if hashed is schema.file.c.sha256:
        return [begins(schema.file.c.sha256, text), hashed.startswith(text)]
    within = [] if "-" in text else [hashed.between(text, text + "g")]
    return [*within, hashed.startswith(text)]


def _meets(table: Any, interval: Interval) -> Iterable[sa.ColumnElement[bool]]:
    yield table.c.series == interval.series
    yield _not_after(table, "first", interval.last)
    yield sa.not_(_before(table, "last", interval.first))


def _not_after(table: Any, end: str, position: Position) -> sa.ColumnElement[bool]:
    run, section, event = (table.c[f"{end}_{part}"] for part in ("run", "section", "event"))
    same_run = sa.and_(run == position[0], section < position[1])
    same_section = sa.and_(run == position[0], section == position[1], event <= position[2])
    return sa.or_(run < position[0], same_run, same_section)


def _before(table: Any, end: str, position: Position) -> sa.ColumnElement[bool]:
    run, section, event = (table.c[f"{end}_{part}"] for part in ("run", "section", "event"))
    same_run = sa.and_(run == position[0], section < position[1])
    same_section = sa.and_(run == position[0], section == position[1], event < position[2])
    return sa.or_(run < position[0], same_run, same_section)
