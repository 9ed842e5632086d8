"""Datasets: named sets of collections, a query while open, a fixed list with a hash once frozen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from beamwright.catalog import query as language
from beamwright.catalog.vocabulary import COLLECTIONS
from beamwright.core.canonical import content_hash
from beamwright.core.did import Did
from beamwright.core.errors import ConflictError, UnknownNameError, UsageError, nearest
from beamwright.core.runs import Interval, overlaps
from beamwright.db import history, schema
from beamwright.db.engine import insert_id

ACTOR = "catalogue"

# What a query may say; ``where`` is an expression of ``catalog.query``.
CRITERIA = ("tier", "stream", "series", "production", "step", "is_mc", "is_resampled", "where")


@dataclass(frozen=True)
class Collection:
    """A collection as datasets see it."""

    id: int
    did: Did
    tier: str
    stream: str
    interval: Interval
    events: int
    release: str
    config_hash: str
    global_tag: str
    resolved_hash: str
    is_mc: bool
    is_resampled: bool


@dataclass(frozen=True)
class Dataset:
    """A version of a dataset."""

    id: int
    did: Did
    version: int
    state: str
    query: dict[str, Any]
    content_hash: str | None


def find_collections(conn: sa.Connection, criteria: Mapping[str, Any]) -> list[Collection]:
    """Return the valid collections that meet the criteria, in key order.

    Raises: UsageError for an unknown criterion or a wrong expression.
    """
    table = schema.collection
    chosen = sa.select(table).where(table.c.state == "valid", *_conditions(criteria))
    if {"production", "step"} & set(criteria):
        chosen = chosen.join(schema.unit, table.c.unit_id == schema.unit.c.id)
        chosen = chosen.join(schema.task, schema.unit.c.task_id == schema.task.c.id)
        chosen = chosen.join(schema.production, schema.task.c.production_id == schema.production.c.id)
    found = [_collection(row) for row in conn.execute(chosen)]
    return sorted(found, key=lambda c: (c.stream, c.interval, c.did))


def create(
    conn: sa.Connection, did: Did, criteria: Mapping[str, Any], now: float, actor: str = ACTOR
) -> Dataset:
    """Make an open dataset, or find it; after a frozen one this is its next version.

    Raises: ConflictError when an open one of this name has another query.
    """
    _conditions(criteria)
    latest = _latest(conn, did)
    if latest is not None and latest.state == "open":
        if latest.query != dict(criteria):
            raise ConflictError(
                f"dataset {did} is open with another query", hint="freeze it first, or use another name"
            )
        return latest
    dataset_id = insert_id(
        conn,
        schema.dataset,
        scope=did.scope,
        name=did.name,
        version=latest.version + 1 if latest else 1,
        state="open",
        query=dict(criteria),
        content_hash=None,
        created=now,
        frozen=None,
    )
    history.record(conn, "dataset", dataset_id, "open", actor=actor, at=now)
    return find(conn, did)


def find(conn: sa.Connection, did: Did, version: int | None = None) -> Dataset:
    """Return a dataset, its newest version unless another is asked for.

    Raises: UnknownNameError.
    """
    found = _latest(conn, did, version)
    if found is None:
        known = conn.execute(sa.select(schema.dataset.c.scope, schema.dataset.c.name))
        name = str(did) if version is None else f"{did}, version {version}"
        raise UnknownNameError("dataset", name, [f"{row.scope}:{row.name}" for row in known])
    return found


def collections(conn: sa.Connection, dataset: Dataset) -> list[Collection]:
    """Return what is in a dataset: by its query while it is open, by its list afterwards."""
    if dataset.state == "open":
        return find_collections(conn, dataset.query)
    table, link = schema.collection, schema.dataset_collection
    listed = sa.select(table).join(link, link.c.collection_id == table.c.id)
    found = [_collection(row) for row in conn.execute(listed.where(link.c.dataset_id == dataset.id))]
    return sorted(found, key=lambda c: (c.stream, c.interval, c.did))


def freeze(conn: sa.Connection, did: Did, now: float, actor: str = ACTOR, reason: str = "") -> str:
    """Fix the list of an open dataset; return its content hash.

    Raises: ConflictError when two of its collections hold the same input keys of one stream.
    """
    dataset = find(conn, did)
    if dataset.state == "frozen" and dataset.content_hash:
        return dataset.content_hash
    found = collections(conn, dataset)
    _check_single(did, found)
    content = hash_collections(conn, found)
    if found:
        rows = [{"dataset_id": dataset.id, "collection_id": c.id} for c in found]
        conn.execute(sa.insert(schema.dataset_collection), rows)
    values: dict[str, Any] = {"content_hash": content, "frozen": now}
    history.move(
        conn, schema.dataset, dataset.id, "open", "frozen", actor=actor, reason=reason, at=now, **values
    )
    return content


def hash_collections(conn: sa.Connection, found: Sequence[Collection]) -> str:
    """Return the hash over names and file contents of collections."""
    file, link = schema.file, schema.collection_file
    wanted = sa.select(link.c.collection_id, link.c.position, file.c.sha256).join(
        file, link.c.file_id == file.c.id
    )
    contents: dict[int, list[list[Any]]] = defaultdict(list)
    for row in conn.execute(wanted.where(link.c.collection_id.in_([c.id for c in found]))):
        contents[row.collection_id].append([row.position, row.sha256])
    return content_hash(sorted([str(c.did), sorted(contents[c.id])] for c in found))


def _conditions(criteria: Mapping[str, Any]) -> list[sa.ColumnElement[bool]]:
    table = schema.collection
    columns: dict[str, sa.ColumnElement[Any]] = {
        "production": schema.production.c.name,
        "step": schema.task.c.step,
        **{name: table.c[name] for name in ("tier", "stream", "series", "is_mc", "is_resampled")},
    }
    found = []
    for name, value in criteria.items():
        if name not in CRITERIA:
            raise UsageError(f"{name!r} is no criterion of a dataset", hint=nearest(name, CRITERIA))
        if name == "where":
            found.append(language.compile(value, COLLECTIONS))
        elif isinstance(value, list | tuple):
            found.append(columns[name].in_(list(value)))
        else:
            found.append(columns[name] == value)
    return found


def _latest(conn: sa.Connection, did: Did, version: int | None = None) -> Dataset | None:
    table = schema.dataset
    chosen = sa.select(table).where(table.c.scope == did.scope, table.c.name == did.name)
    if version is not None:
        chosen = chosen.where(table.c.version == version)
    row = conn.execute(chosen.order_by(table.c.version.desc()).limit(1)).first()
    if row is None:
        return None
    return Dataset(row.id, did, row.version, row.state, row.query, row.content_hash)


def _collection(row: Any) -> Collection:
    first = (row.first_run, row.first_section, row.first_event)
    return Collection(
        id=row.id,
        did=Did(row.scope, row.name),
        tier=row.tier,
        stream=row.stream,
        interval=Interval(row.series, first, (row.last_run, row.last_section, row.last_event)),
        events=row.events,
        release=row.release,
        config_hash=row.config_hash,
        global_tag=row.global_tag,
        resolved_hash=row.resolved_hash,
        is_mc=row.is_mc,
        is_resampled=row.is_resampled,
    )


def _check_single(did: Did, found: Sequence[Collection]) -> None:
    """One valid output per input key and stream."""
    groups: dict[tuple[str, bool], list[Interval]] = defaultdict(list)
    for c in found:
        groups[c.stream, c.is_resampled].append(c.interval)
    for (stream, _), intervals in sorted(groups.items()):
        for one, other in overlaps(intervals):
            raise ConflictError(
                f"dataset {did} holds {one} and {other} of stream {stream}: the same events twice",
                hint="narrow the query to one production and step, or supersede one of the collections",
            )
