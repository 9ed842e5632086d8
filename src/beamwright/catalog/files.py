"""Files: registering what is delivered, and where every file comes from and goes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

import sqlalchemy as sa

from beamwright.core.did import Did
from beamwright.core.errors import ConflictError, UnknownNameError
from beamwright.db import history, schema
from beamwright.db.columns import begins
from beamwright.db.engine import insert_id
from beamwright.durable import Digest

ACTOR = "intake"
ENDPOINT = "local"
_NEAR = 500

Direction = Literal["ancestors", "descendants"]


@dataclass(frozen=True)
class Replica:
    """A file at an endpoint."""

    endpoint: str
    path: str
    state: str
    verified_by: str | None
    verified_at: float | None


@dataclass(frozen=True)
class File:
    """A registered file with its replicas."""

    id: int
    did: Did
    kind: str
    tier: str
    size: int
    sha256: str
    adler32: str
    uuid: str | None
    attempt_id: int | None
    lineage: dict[str, Any]
    replicas: tuple[Replica, ...]


@dataclass(frozen=True)
class Relative:
    """A file in somebody's lineage; ``distance`` counts generations."""

    id: int
    did: Did
    tier: str
    sha256: str
    distance: int


def register_delivered(
    conn: sa.Connection, delivery: Mapping[str, Any], path: str, digest: Digest, now: float
) -> int:
    """Register a raw file with its replica; return its id. Content that is known already stays one file.

    Raises: ConflictError when the name is taken by other content.
    """
    did = delivered_name(delivery, path)
    file_id = _known(conn, digest) or _named(conn, did, digest)
    if file_id is None:
        file_id = insert_id(
            conn,
            schema.file,
            scope=did.scope,
            name=did.name,
            kind="raw",
            size=digest.size,
            sha256=digest.sha256,
            adler32=digest.adler32,
            uuid=None,
            tier=delivery["tier"],
            attempt_id=None,
            lineage={"delivered": {"series": delivery["series"], "run": delivery["run"]}},
            created=now,
        )
        history.record(conn, "file", file_id, "registered", actor=ACTOR, at=now)
    _add_replica(conn, file_id, path, now)
    return file_id


def delivered_name(delivery: Mapping[str, Any], path: str) -> Did:
    """Return the name of a delivered file: ``tier:series/run/name``."""
    return Did(delivery["tier"], f"{delivery['series']}/{delivery['run']}/{PurePath(path).name}")


def show(conn: sa.Connection, did: Did | str) -> File:
    """Return a file.

    Raises: UnknownNameError with the nearest name of that scope.
    """
    wanted = Did.parse(did) if isinstance(did, str) else did
    table = schema.file
    row = conn.execute(
        sa.select(table).where(table.c.scope == wanted.scope, table.c.name == wanted.name)
    ).first()
    if row is None:
        raise UnknownNameError("file", str(wanted), _near(conn, wanted))
    return _file(conn, row)


def _near(conn: sa.Connection, wanted: Did) -> list[str]:
    """Return names of a scope around one that is not there, however many it has."""
    name = schema.file.c.name
    there = sa.select(name).where(schema.file.c.scope == wanted.scope).limit(_NEAR)
    after = conn.execute(there.where(name >= wanted.name).order_by(name)).scalars().all()
    before = conn.execute(there.where(name < wanted.name).order_by(name.desc())).scalars().all()
    return [f"{wanted.scope}:{found}" for found in (*before, *after)]


def lineage(conn: sa.Connection, file_id: int, direction: Direction) -> list[Relative]:
    """Return the files that a file was made from, or those made from it, nearest first."""
    link, file = schema.file_parent, schema.file
    here, there = (
        (link.c.file_id, link.c.parent_id) if direction == "ancestors" else (link.c.parent_id, link.c.file_id)
    )
    start = sa.select(there.label("id"), sa.literal(1).label("distance")).where(here == file_id)
    walk = start.cte("walk", recursive=True)
    walk = walk.union(sa.select(there, walk.c.distance + 1).join(walk, here == walk.c.id))
    nearest = (
        sa.select(walk.c.id, sa.func.min(walk.c.distance).label("distance")).group_by(walk.c.id).subquery()
    )
    query = (
        sa.select(file.c.id, file.c.scope, file.c.name, file.c.tier, file.c.sha256, nearest.c.distance)
        .join(nearest, nearest.c.id == file.c.id)
        .order_by(nearest.c.distance, file.c.scope, file.c.name)
    )
    return [Relative(r.id, Did(r.scope, r.name), r.tier, r.sha256, r.distance) for r in conn.execute(query)]


def _file(conn: sa.Connection, row: Any) -> File:
    table = schema.replica
    found = conn.execute(sa.select(table).where(table.c.file_id == row.id).order_by(table.c.id))
    replicas = tuple(Replica(r.endpoint, r.path, r.state, r.verified_by, r.verified_at) for r in found)
    did = Did(row.scope, row.name)
    return File(
        row.id,
        did,
        row.kind,
        row.tier,
        row.size,
        row.sha256,
        row.adler32,
        row.uuid,
        row.attempt_id,
        row.lineage,
        replicas,
    )


def _known(conn: sa.Connection, digest: Digest) -> int | None:
    table = schema.file
    same = (table.c.sha256 == digest.sha256, table.c.size == digest.size, table.c.kind == "raw")
    chosen = sa.select(table.c.id).where(begins(table.c.sha256, digest.sha256), *same)
    found: int | None = conn.execute(chosen.order_by(table.c.id)).scalar()
    return found


def _named(conn: sa.Connection, did: Did, digest: Digest) -> int | None:
    table = schema.file
    row = conn.execute(sa.select(table).where(table.c.scope == did.scope, table.c.name == did.name)).first()
    if row is not None:
        message = f"file {did} is registered with sha256 {row.sha256[:12]}, this one has {digest.sha256[:12]}"
        raise ConflictError(message, hint="new content needs a new name")
    return None


def _add_replica(conn: sa.Connection, file_id: int, path: str, now: float) -> None:
    """Add the replica that intake has read in full, if the path is new."""
    table = schema.replica
    row = conn.execute(sa.select(table).where(table.c.endpoint == ENDPOINT, table.c.path == path)).first()
    if row is not None and row.file_id == file_id:
        return
    if row is not None:
        message = f"{path} was delivered as another file (file {row.file_id})"
        raise ConflictError(message, hint="a path keeps its content: deliver new content under a new path")
    place = {"endpoint": ENDPOINT, "path": path, "state": "planned"}
    replica_id = insert_id(conn, table, file_id=file_id, **place)
    history.record(conn, "replica", replica_id, "planned", actor=ACTOR, at=now)
    for source, target in (("planned", "copying"), ("copying", "present")):
        history.move(conn, table, replica_id, source, target, actor=ACTOR, at=now)
    values: dict[str, Any] = {"at": now, "verified_by": ACTOR, "verified_at": now}
    history.move(conn, table, replica_id, "present", "verified", actor=ACTOR, **values)


def holders(conn: sa.Connection, file_id: int) -> list[Did]:
    """Return the pointer skims that lead into a file: as long as a replica of one is left, it must stay."""
    file, link, replica = schema.file, schema.file_parent, schema.replica
    uuid = conn.execute(sa.select(file.c.uuid).where(file.c.id == file_id)).scalar()
    kept = sa.select(replica.c.file_id).where(replica.c.file_id == file.c.id, replica.c.state != "deleted")
    children = sa.select(file.c.scope, file.c.name, file.c.lineage).join(link, link.c.file_id == file.c.id)
    children = children.where(link.c.parent_id == file_id, kept.exists())
    rows = conn.execute(children.order_by(file.c.scope, file.c.name))
    return [Did(row.scope, row.name) for row in rows if uuid and uuid in row.lineage.get("sources", ())]
