"""Mirrors of conditions: another database's global tags, copied version by version and checked by hash.

Payloads come first, each checked against its id and stored for good; then whole versions of tags, then of the
global tag, each in one transaction. What is cut halfway goes on from what is there, and nothing that is not
whole is ever visible.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa

from beamwright.conditions import tags
from beamwright.conditions.payload import KINDS, Payload
from beamwright.conditions.sharing import FORMAT, Document, Source
from beamwright.conditions.snapshot import Snapshot
from beamwright.core.errors import (
    BeamwrightError,
    ChecksumError,
    ConflictError,
    FormatError,
    UnknownNameError,
)
from beamwright.core.runs import Interval, overlaps
from beamwright.db import history, schema
from beamwright.db.engine import Database, batched, insert_new

ACTOR = "mirror"
SNAPSHOTS = "snapshots"
_AT_ONCE = 64
_KEY = ("series", "first_run", "first_section", "first_event", "added")
_COLUMNS = (
    "tag_id", "series", "first_run", "first_section", "first_event", "last_run", "last_section", "last_event",
    "payload_id", "added", "removed", "origin", "reason", "generation", "created",
)  # fmt: skip


@dataclass(frozen=True)
class Pulled:
    """What a pull of one global tag brought."""

    global_tag: str
    before: int
    version: int
    state: str
    intervals: int
    payloads: int

    def document(self) -> Document:
        """Return a JSON-ready form."""
        return dict(vars(self))


class Mirror:
    """Copies global tags of a source into a database, and goes on from what is there."""

    def __init__(self, database: Database, source: Source, now: Callable[[], float]) -> None:
        self._database = database
        self._source = source
        self._now = now
        self._intervals = self._payloads = 0

    def pull(self, only: Collection[str] = ()) -> list[Pulled]:
        """Bring the global tags (all, or those that are named) up to date; what is new is checked.

        Raises: ChecksumError naming what was tampered with, RemoteError, ConflictError where a name is taken.
        """
        try:
            names = [row["global_tag"] for row in _checked(self._source.index(), self._source)["global_tags"]]
            for name in only:
                if name not in names:
                    raise UnknownNameError(f"global tag of {self._source.name}", name, names)
            return [self._pull(name) for name in names if not only or name in only]
        except BeamwrightError:
            raise
        except (LookupError, TypeError, ValueError) as error:
            message = f"{self._source.name} gives conditions that make no sense: {error!r}"
            raise FormatError(
                message, hint="check what serves there; nothing of it is visible here"
            ) from error

    def _pull(self, name: str) -> Pulled:
        self._intervals = self._payloads = 0
        before = self._version(schema.global_tag, name)
        document = _checked(self._source.global_tag(name, before), self._source)
        needed = dict(document["tags"])
        for _, tag, version, _ in document["sweeps"]:
            needed[tag] = max(version, needed.get(tag, 0))
        for tag, version in sorted(needed.items()):
            self._pull_tag(tag, version)
        given: dict[str, Any] = {"document": document, "source": self._source.name, "now": self._now()}
        version = self._database.transact(partial(_take_sweeps, name=name, **given))
        return Pulled(name, before, version, document["state"], self._intervals, self._payloads)

    def _pull_tag(self, name: str, needed: int) -> None:
        version = self._version(schema.tag, name)
        while version < needed:
            page = _checked(self._source.tag(name, version), self._source)
            if page["version"] <= version:
                raise FormatError(f"{self._source.name} gives no version of tag {name} after {version}")
            self._fetch(row[3] for row in page["added"])
            given: dict[str, Any] = {"page": page, "source": self._source.name, "now": self._now()}
            version = self._database.transact(partial(_take_versions, name=name, **given))
            self._intervals += len(page["added"])

    def _fetch(self, payload_ids: Iterable[str]) -> None:
        wanted = sorted(set(payload_ids))
        with self._database.read() as conn:
            there = tags.kinds_of(conn, wanted)
        for some in batched([one for one in wanted if one not in there], _AT_ONCE):
            found = [self._payload(payload_id) for payload_id in some]
            self._database.transact(partial(self._put, found=found))
            self._payloads += len(found)

    def _put(self, conn: sa.Connection, found: Iterable[Payload]) -> None:
        for payload in found:
            tags.put_payload(conn, payload, self._now())

    def _payload(self, payload_id: str) -> Payload:
        payload = self._source.payload(payload_id)
        if payload.id != payload_id:
            raise ChecksumError(
                f"payload {payload_id} of {self._source.name} has other content; it was not taken",
                hint="mirror again; if it stays so, the source or something on the way changes it",
                payload=payload_id,
            )
        return payload

    def _version(self, table: sa.Table, name: str) -> int:
        """Return the version that is here, 0 when there is none; what is made here is no mirror."""
        with self._database.read() as conn:
            found = conn.execute(sa.select(table.c.version).where(table.c.name == name)).scalar()
            if found is not None:
                _check_mirrored(conn, table.name, name, self._source.name)
        return int(found or 0)


def move_source(conn: sa.Connection, old: str, new: str) -> int:
    """Let mirrors of one source go on from the same source under another name; return how many did."""
    table = schema.mirrored
    return conn.execute(sa.update(table).where(table.c.source == old).values(source=new)).rowcount


def take_snapshot(conn: sa.Connection, snapshot: Snapshot, name: str, reason: str, now: float) -> Pulled:
    """Put the conditions of a snapshot under a global tag of this name, which only snapshots change.

    Raises: ChecksumError naming a payload that is not what its id says, ConflictError where the name is
    taken.
    """
    before = _make_global_tag(conn, name, now, SNAPSHOTS, now)
    rows: dict[str, list[tags.Row]] = {}
    for role, interval, payload_id in snapshot:
        tags.put_payload(conn, snapshot.payload(payload_id), now)
        rows.setdefault(f"{name}/{role}", []).append((interval, payload_id, "loaded", reason))
    versions = {}
    for tag, some in sorted(rows.items()):
        _make_tag(conn, tag, snapshot.payload(some[0][1]).kind, now, SNAPSHOTS, now)
        versions[tag] = tags.append(conn, tag, some, now, replace=True, source=SNAPSHOTS)
    version = tags.sweep(conn, name, versions, now, source=SNAPSHOTS)
    count = sum(map(len, rows.values()))
    return Pulled(
        name, before, version, "open", count, len({row[1] for some in rows.values() for row in some})
    )


# --- statements -----------------------------------------------------------------------------------


def _take_versions(conn: sa.Connection, name: str, page: Document, source: str, now: float) -> int:
    """Write the versions of a page; return the tag's version, which is another's where one was quicker."""
    rows = [(Interval.from_document(row[:3]), *row[3:]) for row in page["added"]]
    ended = [(Interval.from_document(row[:3]), *row[3:]) for row in page["ended"]]
    _check_page(f"tag {name} of {source}", page, rows)
    tag_id, version = _make_tag(conn, name, page["kind"], page["created"], source, now)
    if version != page["since"]:
        return version
    values = [(tag_id, i.series, *i.first, *i.last, *rest) for i, *rest in rows]
    _insert(conn, schema.iov, _COLUMNS, values)
    _end(conn, tag_id, ended, f"tag {name} of {source}")
    table = schema.tag
    conn.execute(sa.update(table).where(table.c.id == tag_id).values(version=page["version"]))
    return int(page["version"])


def _insert(conn: sa.Connection, table: sa.Table, names: Sequence[str], rows: Sequence[Any]) -> None:
    if rows:
        conn.execute(sa.insert(table), [dict(zip(names, row, strict=True)) for row in rows])


def _check_page(what: str, page: Document, rows: Sequence[Any]) -> None:
    """Refuse intervals that cannot be those of the page's versions.

    Raises: FormatError.
    """
    if page["kind"] not in KINDS:
        raise FormatError(f"{what} holds {page['kind']!r}, which is no kind of payload")
    for interval, _, added, removed, origin, *_ in rows:
        is_inside = page["since"] < added <= page["version"] and (removed is None or removed > added)
        if not is_inside or origin not in tags.ORIGINS:
            raise FormatError(f"{what} has {interval} in version {added} to {removed}, {origin}")
    for one, other in overlaps(interval for interval, _, _, removed, *_ in rows if removed is None):
        raise FormatError(f"{what} has {one} and {other}, which overlap")


def _end(conn: sa.Connection, tag_id: int, ended: Sequence[Any], what: str) -> None:
    """End intervals that are here; each must be."""
    if not ended:
        return
    table = schema.iov
    same = [table.c[name] == sa.bindparam(f"of_{name}") for name in _KEY]
    statement = sa.update(table).where(table.c.tag_id == tag_id, table.c.removed.is_(None), *same)
    places = [
        dict(zip((f"of_{name}" for name in _KEY), (interval.series, *interval.first, added), strict=True))
        | {"at": removed}
        for interval, added, removed in ended
    ]
    done = conn.execute(statement.values(removed=sa.bindparam("at")), places).rowcount
    if done != len(ended):
        raise FormatError(f"{what} ends {len(ended)} intervals, of which {done} are here")


def _take_sweeps(conn: sa.Connection, name: str, document: Document, source: str, now: float) -> int:
    """Write the sweeps of a global tag; the Merkle hash of a frozen one must come out again."""
    table = schema.global_tag
    version = _make_global_tag(conn, name, document["created"], source, now)
    if version != document["since"]:
        return version
    newest = max((sweep[0] for sweep in document["sweeps"]), default=version)
    if newest != document["version"]:
        raise FormatError(
            f"global tag {name} of {source} gives sweeps up to {newest} of {document['version']}"
        )
    row = conn.execute(sa.select(table).where(table.c.name == name)).one()
    ids = {found.name: found.id for found in conn.execute(sa.select(schema.tag))}
    sweeps = [(row.id, v, ids[tag], tag_version, at) for v, tag, tag_version, at in document["sweeps"]]
    columns = ("global_tag_id", "version", "tag_id", "tag_version", "created")
    _insert(conn, schema.global_tag_member, columns, sweeps)
    version = int(document["version"])
    conn.execute(sa.update(table).where(table.c.id == row.id).values(version=version))
    if document["state"] == "frozen" and row.state == "open":
        _freeze(conn, row.id, name, document, source, now)
    return version


def _freeze(conn: sa.Connection, row_id: int, name: str, document: Document, source: str, now: float) -> None:
    found = tags.merkle(conn, name)
    if found != document["merkle"]:
        raise ChecksumError(
            f"global tag {name} of {source} is frozen as {document['merkle']}, and what came is {found}",
            hint="ask the source for its `beamwright fsck`; nothing of this version is visible here",
        )
    values = {"merkle": found, "frozen": document["frozen"]}
    moved = (schema.global_tag, row_id, "open", "frozen")
    history.move(conn, *moved, actor=ACTOR, reason=f"frozen at {source}", at=now, **values)


def _make_tag(
    conn: sa.Connection, name: str, kind: str, created: float, source: str, now: float
) -> tuple[int, int]:
    """Make a mirrored tag, or find it, and lock it; return its id and version."""
    table = schema.tag
    row = {"name": name, "kind": kind, "version": 0, "created": created}
    if insert_new(conn, table, row):
        _mark(conn, "tag", name, source, now)
    _check_mirrored(conn, "tag", name, source)
    found = conn.execute(sa.select(table).where(table.c.name == name).with_for_update()).one()
    return int(found.id), int(found.version)


def _make_global_tag(conn: sa.Connection, name: str, created: float, source: str, now: float) -> int:
    """Make a mirrored global tag, or find it, and lock it; return its version."""
    table = schema.global_tag
    row = {"name": name, "state": "open", "version": 0, "merkle": None, "created": created, "frozen": None}
    is_new = insert_new(conn, table, row)
    found = conn.execute(sa.select(table).where(table.c.name == name).with_for_update()).one()
    if is_new:
        _mark(conn, "global_tag", name, source, now)
        history.record(
            conn, "global_tag", found.id, "open", actor=ACTOR, reason=f"mirror of {source}", at=now
        )
    _check_mirrored(conn, "global_tag", name, source)
    return int(found.version)


def _mark(conn: sa.Connection, kind: str, name: str, source: str, now: float) -> None:
    values = {"kind": kind, "name": name, "source": source, "created": now}
    conn.execute(sa.insert(schema.mirrored).values(values))


def _check_mirrored(conn: sa.Connection, kind: str, name: str, source: str) -> None:
    table = schema.mirrored
    query = sa.select(table.c.source).where(table.c.kind == kind, table.c.name == name)
    found = conn.execute(query).scalar()
    if found == source:
        return
    what = f"{kind.replace('_', ' ')} {name}"
    if found is None:
        raise ConflictError(
            f"{what} is made here; the one at {source} cannot take its place",
            hint="name the global tags that you want, or use a workspace for mirrors alone",
        )
    raise ConflictError(
        f"{what} is a mirror of the one at {found}, not at {source}",
        hint=f"if that is the same source at another address, add --moved-from {found}",
    )


def _checked(document: Document, source: Source) -> Document:
    if document.get("format") != FORMAT:
        raise FormatError(
            f"{source.name} gives conditions in another form", hint="use a release that knows it"
        )
    return document
