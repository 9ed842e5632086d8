"""What an accepted report leaves in the database: files, collections, ledger, quarantined records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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

    Raises: ReportError when an output's name is taken or an input is not registered.
    """
    unit = conn.execute(sa.select(schema.unit).where(schema.unit.c.id == row.unit_id)).one()
    outputs = {str(o["stream"]): o for o in sorted(report["outputs"], key=lambda o: str(o["stream"]))}
    payload = report["payload"]
    sources = {str(o["stream"]): list(o["sources"]) for o in payload["outputs"] if o.get("sources")}
    _Registration(conn, row, unit, outputs, sources, now).write(stamps)
    if payload["ledger"]:
        lines = [_ledger_line(row, line) for line in payload["ledger"]]
        conn.execute(sa.insert(schema.ledger), lines)
    if payload["quarantined"]:
        records = {(q["record"], q["key"]): _quarantined(row, q) for q in payload["quarantined"]}
        conn.execute(sa.insert(schema.quarantine), list(records.values()))


@dataclass(frozen=True)
class _Registration:
    """The outputs of one unit on their way into the catalogue, all of them step by step.

    ``sources`` are, by stream, the UUIDs of the files that pointer skims lead into.
    """

    conn: sa.Connection
    row: Any
    unit: Any
    outputs: Mapping[str, Mapping[str, Any]]
    sources: Mapping[str, list[str]]
    now: float

    def write(self, stamps: Mapping[str, Stamp]) -> None:
        names = {s: jobs.declared_name(self.row.production, self.declared(s)) for s in self.outputs}
        _refuse_taken(self.conn, list(names.values()))
        files = {stream: self._add_file(stream, names[stream]) for stream in self.outputs}
        self._record("file", files.values(), "registered")
        self._add_parents(files)
        self._add_replicas(files, stamps)
        events = [s for s in self.outputs if not jobs.is_bundle(self.unit.kind, s)]
        collections = {
            stream: self._add_collection(stream, names[stream], files[stream]) for stream in events
        }
        self._record("collection", collections.values(), "building")
        self._move(schema.collection, collections.values(), "building", "valid")
        self._add_outputs(files, collections)

    def declared(self, stream: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.unit.definition["streams"][stream]
        return found

    def _record(self, kind: str, ids: Iterable[int], target: str) -> None:
        history.record_all(self.conn, kind, ids, target, actor=ACTOR, at=self.now)

    def _move(self, table: sa.Table, ids: Iterable[int], source: str, target: str, **values: Any) -> None:
        history.move_all(self.conn, table, ids, source, target, actor=ACTOR, at=self.now, **values)

    def _add_file(self, stream: str, did: tuple[str, str]) -> int:
        is_bundle = jobs.is_bundle(self.unit.kind, stream)
        content = {key: self.outputs[stream][key] for key in ("size", "sha256", "adler32", "uuid")}
        lineage = _lineage(self.row, self.unit, stream)
        if stream in self.sources:
            lineage["sources"] = sorted(self.sources[stream])
        origin = {"attempt_id": self.row.id, "lineage": lineage}
        kind = {"kind": "bundle" if is_bundle else "rntuple", "tier": self.declared(stream)["tier"]}
        place = {"scope": did[0], "name": did[1], "created": self.now}
        return insert_id(self.conn, schema.file, **place, **kind, **origin, **content)

    def _add_parents(self, files: Mapping[str, int]) -> None:
        """Name what the outputs were made from, and what pointer skims lead into: both must be known."""
        inputs = _parents(self.conn, self.unit)
        rows = []
        for stream, child in files.items():
            parents = {*inputs, *_sources(self.conn, self.sources.get(stream, []))}
            rows += [{"file_id": child, "parent_id": parent} for parent in sorted(parents)]
        if rows:
            self.conn.execute(sa.insert(schema.file_parent), rows)

    def _add_replicas(self, files: Mapping[str, int], stamps: Mapping[str, Stamp]) -> None:
        """Add the replicas that the wrapper put in place and the importer has read in full."""
        ids = []
        for stream, file_id in files.items():
            path, inode, mtime_ns = stamps[stream]
            place = {"endpoint": self.row.farm, "path": path, "inode": inode, "mtime_ns": mtime_ns}
            ids.append(insert_id(self.conn, schema.replica, file_id=file_id, state="planned", **place))
        self._record("replica", ids, "planned")
        self._move(schema.replica, ids, "planned", "copying")
        self._move(schema.replica, ids, "copying", "present")
        read = {"verified_by": ACTOR, "verified_at": self.now}
        self._move(schema.replica, ids, "present", "verified", **read)

    def _add_collection(self, stream: str, did: tuple[str, str], file_id: int) -> int:
        unit, definition = self.unit, self.unit.definition
        ends = {f"{end}_{part}" for end in ("first", "last") for part in _POSITION}
        copied = {name: getattr(unit, name) for name in ends | {"series", "config_hash", "resolved_hash"}}
        flags = {name: bool(definition.get(name)) for name in ("is_mc", "is_resampled")}
        values = {"scope": did[0], "name": did[1], "stream": stream, "state": "building", "unit_id": unit.id}
        values |= {"tier": self.declared(stream)["tier"], "events": self.outputs[stream]["events"]}
        values |= {"global_tag": definition.get("global_tag") or "", "release": self.row.task_release}
        collection_id = insert_id(self.conn, schema.collection, **values, **copied, **flags, created=self.now)
        link = {"collection_id": collection_id, "file_id": file_id, "position": 0}
        self.conn.execute(sa.insert(schema.collection_file), [link])
        return collection_id

    def _add_outputs(self, files: Mapping[str, int], collections: Mapping[str, int]) -> None:
        common = {"unit_id": self.unit.id, "attempt_id": self.row.id}
        rows = [
            common
            | {"stream": stream, "file_id": file_id, "collection_id": collections.get(stream)}
            | {"events": self.outputs[stream]["events"]}
            for stream, file_id in files.items()
        ]
        if rows:
            self.conn.execute(sa.insert(schema.output), rows)


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


def _sources(conn: sa.Connection, uuids: list[str]) -> list[int]:
    """Return the ids of the files of these UUIDs.

    Raises: ReportError when one is not registered.
    """
    if not uuids:
        return []
    file = schema.file
    known = {row.uuid: int(row.id) for row in conn.execute(
        sa.select(file.c.id, file.c.uuid).where(file.c.uuid.in_(uuids)).order_by(file.c.id.desc())
    )}  # fmt: skip
    missing = sorted(set(uuids) - known.keys())
    if missing:
        hint = "a pointer skim leads into files of the catalogue"
        raise ReportError(
            f"the file {missing[0]}, which a pointer skim leads into, is not registered", hint=hint
        )
    return list(known.values())


def _refuse_taken(conn: sa.Connection, dids: list[tuple[str, str]]) -> None:
    file = schema.file
    same = sa.or_(*(sa.and_(file.c.scope == scope, file.c.name == name) for scope, name in dids))
    taken = conn.execute(sa.select(file.c.scope, file.c.name).where(same)).first() if dids else None
    if taken is not None:
        hint = "two units declare the same output: give one production or step another name"
        raise ReportError(f"the name {taken.scope}:{taken.name} is taken", hint=hint)


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
