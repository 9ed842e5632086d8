"""What an accepted report leaves in the database: files, collections, ledger, quarantined records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from beamwright.core.balance import TERMS
from beamwright.core.errors import ReportError
from beamwright.core.runs import EventKey
from beamwright.db import history, schema, writing
from beamwright.db.engine import batched, insert_ids
from beamwright.production import jobs

ACTOR = "importer"
Stamp = tuple[str, int, int]
_POSITION = ("run", "section", "event")
# What a collection has from its unit as it stands there.
_COPIED = (
    "series",
    "config_hash",
    "resolved_hash",
    *(f"{e}_{p}" for e in ("first", "last") for p in _POSITION),
)
_copied = attrgetter(*_COPIED)
# What replicas have gone through that a wrapper put in place and the importer has read in full.
_PLACED = ("copying", "present", "verified")


@dataclass(frozen=True)
class Accepted:
    """A report that is to be registered: its attempt and unit, and path, inode and mtime by stream."""

    row: Any
    unit: Any
    report: Mapping[str, Any]
    stamps: Mapping[str, Stamp]


def known_records(conn: sa.Connection, units: Sequence[Any]) -> dict[int, dict[str, int | None]]:
    """Return, by unit, how many records of each input kind it holds, where that is known; nothing for a
    merge.

    A unit over whole collections holds what these hold.
    """
    link, collection = schema.unit_input, schema.collection
    query = (
        sa.select(link.c.unit_id, sa.func.sum(collection.c.events))
        .join(collection, link.c.collection_id == collection.c.id)
        .group_by(link.c.unit_id)
    )
    known: dict[int, dict[str, int | None]] = {u.id: dict(u.definition.get("records") or {}) for u in units}
    for part in batched([u.id for u in units if None in known[u.id].values()]):
        for unit_id, events in conn.execute(query.where(link.c.unit_id.in_(part))):
            known[unit_id] = {r: int(events) if n is None else n for r, n in known[unit_id].items()}
    return known


def register(conn: sa.Connection, accepted: Sequence[Accepted], now: float) -> None:
    """Write everything that accepted attempts give.

    Raises: ReportError when an output's name is taken or an input is not registered.
    """
    outputs = [output for one in accepted for output in _outputs(one)]
    _refuse_taken(conn, [output.did for output in outputs])
    files = insert_ids(conn, schema.file, [_file(output, now) for output in outputs])
    _record(conn, "file", files, "registered", now)
    _add_parents(conn, accepted, outputs, files)
    _add_replicas(conn, outputs, files, now)
    collections = _add_collections(conn, outputs, files, now)
    rows = [
        {"unit_id": output.unit.id, "attempt_id": output.row.id, "stream": output.stream, "file_id": file_id}
        | {"collection_id": collections.get(file_id), "events": output.content["events"]}
        for output, file_id in zip(outputs, files, strict=True)
    ]
    writing.insert(conn, schema.output, rows)
    lines = [_ledger_line(one.row, line) for one in accepted for line in one.report["payload"]["ledger"]]
    writing.insert(conn, schema.ledger, lines)
    records = {
        (one.row.id, q["record"], q["key"]): _quarantined(one.row, q)
        for one in accepted
        for q in one.report["payload"]["quarantined"]
    }
    writing.insert(conn, schema.quarantine, list(records.values()))


@dataclass(frozen=True)
class _Output:
    """One output on its way into the catalogue; ``sources`` are the UUIDs that a pointer skim leads into."""

    row: Any
    unit: Any
    stream: str
    did: tuple[str, str]
    declared: Mapping[str, Any]
    content: Mapping[str, Any]
    stamp: Stamp
    sources: tuple[str, ...]
    kind: str


def _outputs(one: Accepted) -> list[_Output]:
    """Return the outputs of an attempt in the order of their streams."""
    declared, payload = one.unit.definition["streams"], one.report["payload"]
    sources = {str(o["stream"]): tuple(o.get("sources") or ()) for o in payload["outputs"]}
    found = []
    for content in sorted(one.report["outputs"], key=lambda o: str(o["stream"])):
        stream = str(content["stream"])
        did = jobs.declared_name(one.row.production, declared[stream])
        stamp = one.stamps[stream]
        kind = jobs.file_kind(one.unit.kind, stream, declared[stream])
        more = (declared[stream], content, stamp, sources.get(stream, ()), kind)
        found.append(_Output(one.row, one.unit, stream, did, *more))
    return found


def _record(
    conn: sa.Connection, kind: str, ids: Iterable[int], target: str, now: float, then: Sequence[str] = ()
) -> None:
    history.record_all(conn, kind, ids, target, actor=ACTOR, at=now, then=then)


def _file(output: _Output, now: float) -> dict[str, Any]:
    content, lineage = output.content, _lineage(output.row, output.unit, output.stream)
    if output.sources:
        lineage["sources"] = sorted(output.sources)
    return {
        "scope": output.did[0],
        "name": output.did[1],
        "created": now,
        "kind": output.kind,
        "tier": output.declared["tier"],
        "attempt_id": output.row.id,
        "lineage": lineage,
        "size": content["size"],
        "sha256": content["sha256"],
        "adler32": content["adler32"],
        "uuid": content["uuid"],
    }


def _add_parents(
    conn: sa.Connection, accepted: Sequence[Accepted], outputs: Sequence[_Output], files: Sequence[int]
) -> None:
    """Name what the outputs were made from, and what pointer skims lead into: both must be known."""
    known = _named(conn, [one.unit for one in accepted])
    inputs = {one.unit.id: _parents(one.unit, known) for one in accepted}
    sources = _sources(conn, sorted({uuid for output in outputs for uuid in output.sources}))
    rows = []
    for output, child in zip(outputs, files, strict=True):
        parents = {*inputs[output.unit.id], *(sources[uuid] for uuid in output.sources)}
        rows += [{"file_id": child, "parent_id": parent} for parent in sorted(parents)]
    writing.insert(conn, schema.file_parent, rows)


def _add_replicas(conn: sa.Connection, outputs: Sequence[_Output], files: Sequence[int], now: float) -> None:
    """Add the replicas that the wrappers put in place and the importer has read in full."""
    read = {"verified_by": ACTOR, "verified_at": now}
    rows = []
    for output, file_id in zip(outputs, files, strict=True):
        path, inode, mtime_ns = output.stamp
        place = {"endpoint": output.row.farm, "path": path, "inode": inode, "mtime_ns": mtime_ns}
        rows.append({"file_id": file_id, "state": "verified"} | place | read)
    _record(conn, "replica", insert_ids(conn, schema.replica, rows), "planned", now, _PLACED)


def _add_collections(
    conn: sa.Connection, outputs: Sequence[_Output], files: Sequence[int], now: float
) -> dict[int, int]:
    """Make a collection of each output of events; return their ids by file."""
    events = [(o, file_id) for o, file_id in zip(outputs, files, strict=True) if o.kind == "rntuple"]
    ids = insert_ids(conn, schema.collection, [_collection(output, now) for output, _ in events])
    made = {file_id: collection_id for (_, file_id), collection_id in zip(events, ids, strict=True)}
    links = [{"collection_id": c, "file_id": f, "position": 0} for f, c in made.items()]
    writing.insert(conn, schema.collection_file, links)
    _record(conn, "collection", ids, "building", now, ("valid",))
    return made


def _collection(output: _Output, now: float) -> dict[str, Any]:
    unit, definition = output.unit, output.unit.definition
    values = {
        "scope": output.did[0],
        "name": output.did[1],
        "stream": output.stream,
        "state": "valid",
        "unit_id": unit.id,
        "tier": output.declared["tier"],
        "events": output.content["events"],
        "global_tag": definition.get("global_tag") or "",
        "release": output.row.task_release,
        "is_mc": bool(definition.get("is_mc")),
        "is_resampled": bool(definition.get("is_resampled")),
        "created": now,
    }
    return values | dict(zip(_COPIED, _copied(unit), strict=True))


def _named(conn: sa.Connection, units: Sequence[Any]) -> dict[str, int]:
    """Return the ids of the files that units read, by name, as far as they are registered."""
    wanted: dict[str, set[str]] = {}
    for unit in units:
        for item in unit.definition["inputs"]:
            scope, _, rest = str(item["name"]).partition(":")
            wanted.setdefault(scope, set()).add(rest)
    return {f"{scope}:{name}": i for scope, names in wanted.items() for name, i in _ids(conn, scope, names)}


def _ids(conn: sa.Connection, scope: str, names: Iterable[str]) -> Iterator[tuple[str, int]]:
    found = writing.among(conn, _of_scope(), schema.file.c.name, sorted(names), {"scope": scope})
    yield from ((row.name, int(row.id)) for row in found)


@cache
def _of_scope() -> sa.Select[Any]:
    file = schema.file
    return sa.select(file.c.name, file.c.id).where(file.c.scope == sa.bindparam("scope"))


def _parents(unit: Any, known: Mapping[str, int]) -> list[int]:
    """Return the ids of the files that a unit reads, by name.

    Raises: ReportError when one is not registered.
    """
    names = sorted({str(item["name"]) for item in unit.definition["inputs"]})
    missing = [name for name in names if name not in known]
    if missing:
        hint = "the file must be registered before its unit's report can be taken in"
        raise ReportError(f"input {missing[0]} of unit {unit.key[:12]} is not registered", hint=hint)
    return [known[name] for name in names]


def _sources(conn: sa.Connection, uuids: list[str]) -> dict[str, int]:
    """Return the ids of the files of these UUIDs.

    Raises: ReportError when one is not registered.
    """
    file, known = schema.file, dict[str, int]()
    query = sa.select(file.c.id, file.c.uuid).order_by(file.c.id.desc())
    for part in batched(uuids):
        known |= {row.uuid: int(row.id) for row in conn.execute(query.where(file.c.uuid.in_(part)))}
    missing = sorted(set(uuids) - known.keys())
    if missing:
        hint = "a pointer skim leads into files of the catalogue"
        raise ReportError(
            f"the file {missing[0]}, which a pointer skim leads into, is not registered", hint=hint
        )
    return known


def _refuse_taken(conn: sa.Connection, dids: list[tuple[str, str]]) -> None:
    """Refuse names that files have, or that two of the outputs share."""
    wanted: dict[str, set[str]] = {}
    taken = [f"{scope}:{name}" for (scope, name), n in Counter(dids).items() if n > 1]
    for scope, name in dids:
        wanted.setdefault(scope, set()).add(name)
    taken += [f"{scope}:{name}" for scope, names in wanted.items() for name, _ in _ids(conn, scope, names)]
    if taken:
        hint = "two units declare the same output: give one production or step another name"
        raise ReportError(f"the name {taken[0]} is taken", hint=hint)


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
    counts = {term: line[term] for term in TERMS} | {"requested": line.get("requested")}
    return place | {"series": series} | ends | counts


def _quarantined(row: Any, entry: Mapping[str, Any]) -> dict[str, Any]:
    key = EventKey.parse(entry["key"])
    place = {"unit_id": row.unit_id, "attempt_id": row.id, "record": entry["record"], "series": key.series}
    position = {"run": key.run, "section": key.section, "event": key.event}
    return place | position | {name: str(entry[name]) for name in ("module", "error", "traceback")}
