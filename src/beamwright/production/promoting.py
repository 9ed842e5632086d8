"""Promoting pointer skims of a workspace: the deep copy becomes a collection with its lineage."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import sqlalchemy as sa

from beamwright import durable
from beamwright.catalog.files import ENDPOINT
from beamwright.core.did import Did
from beamwright.core.errors import ConflictError, ValidationError
from beamwright.db import history, schema
from beamwright.db.engine import insert_id
from beamwright.event import pointer
from beamwright.event.validate import validate_file
from beamwright.production.access import source_files, valid_collection
from beamwright.production.workspace import Workspace

ACTOR = "promote"
COPIED = ("release", "config_hash", "global_tag", "resolved_hash")


@dataclass(frozen=True)
class Promoted:
    """A deep copy in the catalogue: its name, file and verdict."""

    name: Did
    file: Path
    verdict: dict[str, Any]


def promote(workspace: Workspace, name: str, output: Path, made: Did | None = None) -> Promoted:
    """Write the deep copy of a pointer skim, prove it, and register it; ``made`` is its name.

    Raises: UnknownNameError, ConflictError where the name or the file is taken, ConfigError where the
    collection is no pointer skim.
    """
    with workspace.db.read() as conn:
        files = valid_collection(conn, name).files
        target = made or _default_name(Did.parse(name))
        _refuse_taken(conn, target)
    output = output.absolute()
    if output.exists():
        raise ConflictError(f"{output} exists already", hint="name another file, or remove it")
    temporary = output.with_name(f".{output.name}{durable.PARTIAL}")
    temporary.unlink(missing_ok=True)
    try:
        pointer.promote(files, temporary, source_files(workspace))
        verdict = _proved(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        durable.link_new(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
    try:
        with workspace.db.begin() as conn:
            _register(conn, Did.parse(name), target, output, verdict, workspace.clock.now())
    except BaseException:
        output.unlink()
        raise
    return Promoted(target, output, verdict | {"file": output.name})


def _default_name(skim: Did) -> Did:
    path = PurePosixPath(skim.name)
    return Did(skim.scope, str(path.with_name(f"{path.stem}.deep{path.suffix}")))


def _proved(path: Path) -> dict[str, Any]:
    verdict = validate_file(path)
    if not verdict["valid"]:
        raise ValidationError(
            f"the deep copy does not prove right: {verdict['problems'][0]}", hint="check the disk, try again"
        )
    return verdict


def _refuse_taken(conn: sa.Connection, name: Did) -> None:
    for table in (schema.file, schema.collection):
        taken = sa.select(table.c.id).where(table.c.scope == name.scope, table.c.name == name.name)
        if conn.execute(taken).first() is not None:
            raise ConflictError(f"the name {name} is taken", hint="give the deep copy another with --name")


def _register(
    conn: sa.Connection, skim: Did, name: Did, path: Path, verdict: dict[str, Any], now: float
) -> None:
    """Write file, replica and collection, and what they were made of: the skim and what it leads into."""
    _refuse_taken(conn, name)
    parent, files = _skim(conn, skim)
    place = {"scope": name.scope, "name": name.name, "tier": parent.tier, "created": now}
    content = {key: verdict[key] for key in ("size", "sha256", "adler32", "uuid")}
    lineage = {key: getattr(parent, key) for key in COPIED} | {"stream": parent.stream, "promoted": str(skim)}
    file_id = insert_id(
        conn, schema.file, kind="rntuple", attempt_id=None, lineage=lineage, **place, **content
    )
    history.record(conn, "file", file_id, "registered", actor=ACTOR, at=now)
    link = schema.file_parent
    ancestors = {
        ancestor for file in files for ancestor in (file.id, *_led_into(conn, file.id, file.lineage))
    }
    for ancestor in sorted(ancestors):
        conn.execute(sa.insert(link).values(file_id=file_id, parent_id=ancestor))
    _add_replica(conn, file_id, path, now)
    _add_collection(conn, parent, place, file_id, verdict["events"], now)


def _skim(conn: sa.Connection, name: Did) -> tuple[Any, list[Any]]:
    """Return the collection of a skim and its files; it must still be valid."""
    collection, link, file = schema.collection, schema.collection_file, schema.file
    query = sa.select(collection).where(collection.c.scope == name.scope, collection.c.name == name.name)
    row = conn.execute(query.where(collection.c.state == "valid")).first()
    if row is None:
        raise ConflictError(f"collection {name} is not valid any more", hint="see what replaced it")
    members = sa.select(file.c.id, file.c.lineage).join(link, link.c.file_id == file.c.id)
    return row, [*conn.execute(members.where(link.c.collection_id == row.id).order_by(link.c.position))]


def _led_into(conn: sa.Connection, file_id: int, lineage: dict[str, Any]) -> list[int]:
    link, file = schema.file_parent, schema.file
    sources = lineage.get("sources", [])
    query = sa.select(file.c.id).join(link, link.c.parent_id == file.c.id)
    return [*conn.execute(query.where(link.c.file_id == file_id, file.c.uuid.in_(sources))).scalars()]


def _add_replica(conn: sa.Connection, file_id: int, path: Path, now: float) -> None:
    status = path.stat()
    replica = schema.replica
    place = {"endpoint": ENDPOINT, "path": str(path), "inode": status.st_ino, "mtime_ns": status.st_mtime_ns}
    replica_id = insert_id(conn, replica, file_id=file_id, state="planned", **place)
    history.record(conn, "replica", replica_id, "planned", actor=ACTOR, at=now)
    for source, target in (("planned", "copying"), ("copying", "present")):
        history.move(conn, replica, replica_id, source, target, actor=ACTOR, at=now)
    read: dict[str, Any] = {"verified_by": ACTOR, "verified_at": now}
    history.move(conn, replica, replica_id, "present", "verified", actor=ACTOR, at=now, **read)


def _add_collection(
    conn: sa.Connection, parent: Any, place: dict[str, Any], file_id: int, events: int, now: float
) -> None:
    collection = schema.collection
    ends = [f"{end}_{part}" for end in ("first", "last") for part in ("run", "section", "event")]
    names = (*COPIED, *ends, "series", "stream", "is_mc", "is_resampled")
    copied = {name: getattr(parent, name) for name in names}
    values = place | copied | {"events": events, "unit_id": None, "state": "building"}
    made = insert_id(conn, collection, **values)
    link = {"collection_id": made, "file_id": file_id, "position": 0}
    conn.execute(sa.insert(schema.collection_file).values(link))
    history.record(conn, "collection", made, "building", actor=ACTOR, at=now)
    history.move(conn, collection, made, "building", "valid", actor=ACTOR, at=now)
