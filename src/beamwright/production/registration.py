"""What an accepted report leaves in the database: files, collections, ledger, quarantined records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from beamwright.core.errors import ReportError
from beamwright.core.runs import EventKey
from beamwright.db import history, schema
from beamwright.db.engine import insert_id
from beamwright.production import jobs
from beamwright.production.accounts import TERMS

ACTOR = "importer"
Stamp = tuple[str, int, int]
_POSITION = ("run", "section", "event")


def known_records(conn: sa.Connection, unit: Any) -> dict[str, int | None]:
    """Return how many records of each input kind a unit holds, where that is known; nothing for a merge.

    A unit over whole collections holds what these hold.
    """
    known: dict[str, int | None] = dict(unit.definition.get("records") or {})
    link, collection = schema.unit_input, schema.collection
    query = (
        sa.select(sa.func.count(), sa.func.sum(collection.c.events))
        .join(collection, link.c.collection_id == collection.c.id)
        .where(link.c.unit_id == unit.id)
    )
    count, events = conn.execute(query).one()
    if count:
        known = {record: int(events) if n is None else n for record, n in known.items()}
    return known


def register(
    conn: sa.Connection, row: Any, report: Mapping[str, Any], stamps: Mapping[str, Stamp], now: float
) -> None:
    """Write everything that an accepted attempt gives; ``stamps`` holds path, inode and mtime by stream.

    Raises: ReportError when an output's name is taken.
    """
    unit = conn.execute(sa.select(schema.unit).where(schema.unit.c.id == row.unit_id)).one()
    parents = _parents(conn, unit)
    for output in sorted(report["outputs"], key=lambda o: str(o["stream"])):
        _register_output(conn, row, unit, output, stamps[output["stream"]], parents, now)
    payload = report["payload"]
    if payload["ledger"]:
        lines = [_ledger_line(row, line) for line in payload["ledger"]]
        conn.execute(sa.insert(schema.ledger), lines)
    if payload["quarantined"]:
        records = {(q["record"], q["key"]): _quarantined(row, q) for q in payload["quarantined"]}
        conn.execute(sa.insert(schema.quarantine), list(records.values()))


def _register_output(
    conn: sa.Connection,
    row: Any,
    unit: Any,
    output: Mapping[str, Any],
    stamp: Stamp,
    parents: list[int],
    now: float,
) -> None:
    stream, declared = output["stream"], unit.definition["streams"][output["stream"]]
    scope, name = jobs.declared_name(row.production, declared)
    _refuse_taken(conn, scope, name)
    is_bundle = jobs.is_bundle(unit.kind, stream)
    content = {key: output[key] for key in ("size", "sha256", "adler32", "uuid")}
    file_id = insert_id(
        conn,
        schema.file,
        scope=scope,
        name=name,
        kind="bundle" if is_bundle else "rntuple",
        tier=declared["tier"],
        attempt_id=row.id,
        lineage=_lineage(row, unit, stream),
        created=now,
        **content,
    )
    history.record(conn, "file", file_id, "registered", actor=ACTOR, at=now)
    if parents:
        rows = [{"file_id": file_id, "parent_id": parent} for parent in parents]
        conn.execute(sa.insert(schema.file_parent), rows)
    _add_replica(conn, file_id, row.farm, stamp, now)
    collection_id = None
    if not is_bundle:
        collection_id = _add_collection(conn, row, unit, output, declared["tier"], (scope, name), now)
        link = {"collection_id": collection_id, "file_id": file_id, "position": 0}
        conn.execute(sa.insert(schema.collection_file), [link])
    values = {"unit_id": unit.id, "stream": stream, "attempt_id": row.id, "file_id": file_id}
    events = {"collection_id": collection_id, "events": output["events"]}
    insert_id(conn, schema.output, **values, **events)


def _add_replica(conn: sa.Connection, file_id: int, farm: str, stamp: Stamp, now: float) -> None:
    """Add the replica that the wrapper put in place and the importer has read in full."""
    path, inode, mtime_ns = stamp
    place = {"endpoint": farm, "path": path, "state": "planned"}
    replica_id = insert_id(conn, schema.replica, file_id=file_id, inode=inode, mtime_ns=mtime_ns, **place)
    history.record(conn, "replica", replica_id, "planned", actor=ACTOR, at=now)
    for source, target in (("planned", "copying"), ("copying", "present")):
        history.move(conn, schema.replica, replica_id, source, target, actor=ACTOR, at=now)
    at: dict[str, Any] = {"at": now, "verified_by": ACTOR, "verified_at": now}
    history.move(conn, schema.replica, replica_id, "present", "verified", actor=ACTOR, **at)


def _add_collection(
    conn: sa.Connection,
    row: Any,
    unit: Any,
    output: Mapping[str, Any],
    tier: str,
    did: tuple[str, str],
    now: float,
) -> int:
    interval = {
        f"{end}_{part}": getattr(unit, f"{end}_{part}") for end in ("first", "last") for part in _POSITION
    }
    definition = unit.definition
    collection_id = insert_id(
        conn,
        schema.collection,
        scope=did[0],
        name=did[1],
        tier=tier,
        stream=output["stream"],
        state="building",
        events=output["events"],
        unit_id=unit.id,
        series=unit.series,
        release=row.task_release,
        config_hash=unit.config_hash,
        global_tag=definition.get("global_tag") or "",
        resolved_hash=unit.resolved_hash,
        is_mc=bool(definition.get("is_mc")),
        is_resampled=bool(definition.get("is_resampled")),
        created=now,
        **interval,
    )
    history.record(conn, "collection", collection_id, "building", actor=ACTOR, at=now)
    history.move(conn, schema.collection, collection_id, "building", "valid", actor=ACTOR, at=now)
    return collection_id


def _parents(conn: sa.Connection, unit: Any) -> list[int]:
    """Return the ids of the files that a unit reads, by name.

    Raises: ReportError when one is not registered.
    """
    names = sorted({str(item["name"]) for item in unit.definition["inputs"]})
    found = []
    for name in names:
        scope, _, rest = name.partition(":")
        query = sa.select(schema.file.c.id).where(schema.file.c.scope == scope, schema.file.c.name == rest)
        file_id = conn.execute(query).scalar()
        if file_id is None:
            hint = "the file must be registered before its unit's report can be taken in"
            raise ReportError(f"input {name} of unit {unit.key[:12]} is not registered", hint=hint)
        found.append(int(file_id))
    return found


def _refuse_taken(conn: sa.Connection, scope: str, name: str) -> None:
    query = sa.select(schema.file.c.id).where(schema.file.c.scope == scope, schema.file.c.name == name)
    if conn.execute(query).first() is not None:
        hint = "two units declare the same output: give one production or step another name"
        raise ReportError(f"the name {scope}:{name} is taken", hint=hint)


def _lineage(row: Any, unit: Any, stream: str) -> dict[str, Any]:
    """Return who made a file and under what; its inputs are in ``file_parent``."""
    definition = unit.definition
    return {
        "production": row.production,
        "step": definition["step"],
        "unit": unit.key,
        "stream": stream,
        "release": row.task_release,
        "config_hash": unit.config_hash,
        "global_tag": definition.get("global_tag") or "",
        "resolved_hash": unit.resolved_hash,
        "seeds": definition.get("seeds") or {},
    }


def _ledger_line(row: Any, line: Mapping[str, Any]) -> dict[str, Any]:
    series, first, last = line["interval"]
    ends = {f"first_{part}": value for part, value in zip(_POSITION, first, strict=True)}
    ends |= {f"last_{part}": value for part, value in zip(_POSITION, last, strict=True)}
    place = {"unit_id": row.unit_id, "attempt_id": row.id, "record": line["record"], "stream": line["stream"]}
    return place | {"series": series} | ends | {term: line[term] for term in TERMS}


def _quarantined(row: Any, entry: Mapping[str, Any]) -> dict[str, Any]:
    key = EventKey.parse(entry["key"])
    place = {"unit_id": row.unit_id, "attempt_id": row.id, "record": entry["record"], "series": key.series}
    position = {"run": key.run, "section": key.section, "event": key.event}
    return place | position | {name: str(entry[name]) for name in ("module", "error", "traceback")}
