"""What a database gives to others: its global tags, what tags and sweeps are new since a version, payloads.

What is said of a version stays true for ever, so that whoever holds version v asks for what came after it.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import sqlalchemy as sa

from beamwright.client import Client
from beamwright.conditions import tags
from beamwright.conditions.payload import Kind, Payload
from beamwright.conditions.snapshot import role_of
from beamwright.core.errors import ConditionsError, UnknownNameError
from beamwright.core.runs import Interval
from beamwright.db import schema
from beamwright.db.engine import Database

Document = dict[str, Any]

FORMAT = 1
PAGE = 20_000
KIND_HEADER = "X-Beamwright-Kind"


class Source(Protocol):
    """Where conditions are mirrored from: a database, or a server of one."""

    name: str

    def index(self) -> Document:
        """List the global tags."""

    def global_tag(self, name: str, since: int) -> Document:
        """Give a global tag with its sweeps after a version."""

    def tag(self, name: str, since: int) -> Document:
        """Give the next versions of a tag after one, as many as make a page."""

    def payload(self, payload_id: str) -> Payload:
        """Give a payload, whose bytes nobody has checked."""


class DatabaseSource:
    """Another database that this process can open itself."""

    def __init__(self, database: Database) -> None:
        self.name = database.name
        self._database = database

    def index(self) -> Document:
        with self._database.read() as conn:
            return index(conn)

    def global_tag(self, name: str, since: int) -> Document:
        with self._database.read() as conn:
            return global_tag(conn, name, since)

    def tag(self, name: str, since: int) -> Document:
        with self._database.read() as conn:
            return tag(conn, name, since)

    def payload(self, payload_id: str) -> Payload:
        with self._database.read() as conn:
            return tags.get_payload(conn, payload_id)


class RemoteSource:
    """The server of a workspace elsewhere."""

    def __init__(self, client: Client) -> None:
        self.name = client.url
        self._client = client

    def index(self) -> Document:
        return self._client.document("/conditions/index.json")

    def global_tag(self, name: str, since: int) -> Document:
        return self._client.document(f"/conditions/global/{name}", {"since": since})

    def tag(self, name: str, since: int) -> Document:
        return self._client.document(f"/conditions/tag/{name}", {"since": since})

    def payload(self, payload_id: str) -> Payload:
        answer = self._client.get(f"/conditions/payload/{payload_id}")
        return Payload(cast(Kind, answer.headers.get(KIND_HEADER.lower(), "")), answer.body)


def index(conn: sa.Connection) -> Document:
    """List the global tags."""
    table = schema.global_tag
    return {"format": FORMAT, "global_tags": [_about(row) for row in conn.execute(_ordered(table))]}


def global_tag(conn: sa.Connection, name: str, since: int = 0) -> Document:
    """Describe a global tag: the version of each member, and the sweeps after version ``since``.

    Raises: UnknownNameError, ConditionsError when it has no version ``since``.
    """
    table, member, tag = schema.global_tag, schema.global_tag_member, schema.tag
    row = conn.execute(sa.select(table).where(table.c.name == name)).first()
    if row is None:
        raise UnknownNameError("global tag", name, conn.execute(sa.select(table.c.name)).scalars())
    _check_since("global tag", row, since)
    query = (
        sa.select(member.c.version, tag.c.name, member.c.tag_version, member.c.created)
        .join(tag, member.c.tag_id == tag.c.id)
        .where(member.c.global_tag_id == row.id, member.c.version > since)
        .order_by(member.c.version, tag.c.name)
    )
    sweeps = [list(sweep) for sweep in conn.execute(query)]
    return {
        "format": FORMAT,
        **_about(row),
        "since": since,
        "tags": tags.members(conn, name),
        "sweeps": sweeps,
    }


def tag(conn: sa.Connection, name: str, since: int = 0, page: int = PAGE) -> Document:
    """Give the versions of a tag after ``since``, in whole versions up to about ``page`` intervals.

    Raises: UnknownNameError, ConditionsError when it has no version ``since``.
    """
    table = schema.tag
    row = conn.execute(sa.select(table).where(table.c.name == name)).first()
    if row is None:
        raise UnknownNameError("tag", name, conn.execute(sa.select(table.c.name)).scalars())
    _check_since("tag", row, since)
    version = _end_of_page(conn, row, since, page)
    return {
        "format": FORMAT,
        "tag": name,
        "kind": row.kind,
        "created": row.created,
        "since": since,
        "version": version,
        "newest": int(row.version),
        "added": _added(conn, row.id, since, version),
        "ended": _ended(conn, row.id, since, version),
    }


def resolved(
    conn: sa.Connection,
    name: str,
    interval: Interval,
    version: int | None = None,
    roles: list[str] | None = None,
) -> Document:
    """Resolve an interval under a global tag, which may be named by its Merkle hash.

    Raises: UnknownNameError, ConditionsError.
    """
    known = _named(conn, name)
    wanted = roles or [role_of(tag) for tag in tags.members(conn, known, version)]
    found = tags.resolve(conn, known, wanted, interval, version)
    return {
        "format": FORMAT,
        "global_tag": known,
        "interval": interval.document(),
        "hash": found.hash,
        "pieces": [[role, part.document(), payload_id] for role, part, payload_id in found.pieces],
        "gaps": [[role, part.document()] for role, part in found.gaps],
    }


def has_payload(conn: sa.Connection, payload_id: str) -> bool:
    """Tell whether a payload is there."""
    return bool(tags.kinds_of(conn, [payload_id]))


def _named(conn: sa.Connection, name: str) -> str:
    table = schema.global_tag
    query = sa.select(table.c.name).where(table.c.merkle == name).order_by(table.c.id).limit(1)
    return str(conn.execute(query).scalar() or name)


def _about(row: Any) -> Document:
    names = ("state", "version", "merkle", "created", "frozen")
    return {"global_tag": row.name} | {name: getattr(row, name) for name in names}


def _ordered(table: sa.Table) -> sa.Select[Any]:
    return sa.select(table).order_by(table.c.name)


def _check_since(kind: str, row: Any, since: int) -> None:
    if not 0 <= since <= row.version:
        message = f"{kind} {row.name} has no version {since}"
        raise ConditionsError(message, hint=f"its versions go up to {row.version}; was it restored?")


def _end_of_page(conn: sa.Connection, row: Any, since: int, page: int) -> int:
    """Return the last whole version of a page; at least the next one, at most the newest."""
    table = schema.iov
    query = sa.select(table.c.added).where(table.c.tag_id == row.id, table.c.added > since)
    beyond = conn.execute(query.order_by(table.c.added).offset(page).limit(1)).scalar()
    return int(row.version) if beyond is None else max(int(beyond) - 1, since + 1)


def _added(conn: sa.Connection, tag_id: int, since: int, version: int) -> list[list[Any]]:
    table = schema.iov
    query = sa.select(table).where(table.c.tag_id == tag_id, table.c.added.between(since + 1, version))
    return [
        [
            *tags.interval_of(row).document(), row.payload_id, row.added,
            None if row.removed is None or row.removed > version else row.removed,
            row.origin, row.reason, row.generation, row.created,
        ]
        for row in conn.execute(query.order_by(table.c.id))
    ]  # fmt: skip


def _ended(conn: sa.Connection, tag_id: int, since: int, version: int) -> list[list[Any]]:
    table = schema.iov
    ended = table.c.removed.between(since + 1, version)
    query = sa.select(table).where(table.c.tag_id == tag_id, ended, table.c.added <= since)
    rows = conn.execute(query.order_by(table.c.id))
    return [[*tags.interval_of(row).document(), row.added, row.removed] for row in rows]
