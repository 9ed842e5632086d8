"""Tags in the database: intervals that only grow, open and frozen global tags, and what they resolve to.

A tag is called ``<global tag>/<role>``; modules read roles. Version v of a tag holds the intervals added up
to v and not removed up to v, so that an old version answers for ever as it did. Version v of a global tag
uses, of each member, the version that its latest sweep up to v named.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

import sqlalchemy as sa

from beamwright.conditions import statements
from beamwright.conditions.payload import KINDS, Kind, Payload
from beamwright.conditions.snapshot import Piece, Snapshot, coalesce, hash_pieces, role_of
from beamwright.core.canonical import content_hash, merkle_root
from beamwright.core.errors import (
    ChecksumError,
    ConditionsError,
    ConflictError,
    StateError,
    UnknownNameError,
    nearest,
)
from beamwright.core.runs import Interval, Position, gaps, meeting, overlaps, union
from beamwright.db import history, schema
from beamwright.db.engine import batched, insert_new

Row = tuple[Interval, str, str, str]  # interval, payload id, origin, reason
Gap = tuple[str, Interval]  # role, interval

# So many separate places are looked at one by one; more than that by one statement for all.
_PLACES = 20

ORIGINS = ("initial", "fitted", "carried", "late", "loaded")


@dataclass(frozen=True)
class Validity:
    """An interval of a tag: its payload, where it comes from, and the versions of the tag that hold it."""

    id: int
    interval: Interval
    payload_id: str
    origin: str
    reason: str
    generation: int
    added: int
    removed: int | None


@dataclass(frozen=True)
class Resolution:
    """What roles resolve to over an interval: pieces clipped to it, and what is not covered."""

    pieces: list[Piece]
    gaps: list[Gap]

    @property
    def hash(self) -> str:
        return resolved_hash(self.pieces)


# --- payloads -------------------------------------------------------------------------------------


def put_payload(conn: sa.Connection, payload: Payload, now: float) -> str:
    """Store a payload, once; return its id."""
    row = {
        "id": payload.id,
        "kind": payload.kind,
        "size": len(payload.data),
        "data": payload.data,
        "created": now,
    }
    insert_new(conn, schema.payload, row)
    return payload.id


def get_payload(conn: sa.Connection, payload_id: str) -> Payload:
    """Return a payload; its bytes are checked against its id.

    Raises: UnknownNameError, ChecksumError.
    """
    return get_payloads(conn, [payload_id])[payload_id]


def get_payloads(conn: sa.Connection, payload_ids: Iterable[str]) -> dict[str, Payload]:
    """Return payloads by id; the bytes of each are checked against its id.

    Raises: UnknownNameError, ChecksumError.
    """
    table, wanted = schema.payload, sorted(set(payload_ids))
    found: dict[str, Payload] = {}
    for some in batched(wanted):
        rows = conn.execute(sa.select(table.c.id, table.c.kind, table.c.data).where(table.c.id.in_(some)))
        found |= {str(row.id): Payload(cast(Kind, row.kind), bytes(row.data)) for row in rows}
    for payload_id in wanted:
        if payload_id not in found:
            raise UnknownNameError("payload", payload_id)
        if found[payload_id].id != payload_id:
            raise ChecksumError(
                f"payload {payload_id} has other content", hint="restore the database from a backup"
            )
    return found


def kinds_of(conn: sa.Connection, payload_ids: Iterable[str]) -> dict[str, str]:
    """Return the kind of each payload that is there."""
    table = schema.payload
    found: dict[str, str] = {}
    for some in batched(sorted(set(payload_ids))):
        rows = conn.execute(sa.select(table.c.id, table.c.kind).where(table.c.id.in_(some)))
        found |= {str(row.id): str(row.kind) for row in rows}
    return found


# --- tags -----------------------------------------------------------------------------------------


def create_tag(conn: sa.Connection, name: str, kind: str, now: float) -> int:
    """Make a tag for payloads of one kind, or find it; return its id.

    Raises: ConflictError when it is there for another kind.
    """
    if kind not in KINDS:
        raise ConditionsError(f"{kind!r} is no kind of payload", hint=nearest(kind, KINDS))
    insert_new(conn, schema.tag, {"name": name, "kind": kind, "version": 0, "created": now})
    row = _tag(conn, name)
    if row.kind != kind:
        raise ConflictError(
            f"tag {name} holds payloads of kind {row.kind}, not {kind}", hint="use another name"
        )
    return int(row.id)


def append(
    conn: sa.Connection,
    tag: str,
    rows: Sequence[Row],
    now: float,
    generation: int = 0,
    replace: bool = False,
    source: str | None = None,
) -> int:
    """Add intervals to a tag as its next version; return that version.

    Rows that the tag holds already, exactly, are left out; with none left the version stays. ``replace`` cuts
    away what the new intervals cover, in the new version only. Of a mirror, only its ``source`` may add.

    Raises: ConflictError for overlaps, ConditionsError for an unknown origin or another kind of payload,
    StateError for a mirror.
    """
    row = _tag(conn, tag, lock=True)
    _check_own(conn, "tag", tag, source)
    _check_rows(conn, row, rows)
    held = _meeting(conn, row.id, int(row.version), union(interval for interval, *_ in rows))
    known = {(v.interval, v.payload_id, v.origin) for v in held}
    fresh = [r for r in rows if r[:3] not in known]
    if not fresh:
        return int(row.version)
    version = int(row.version) + 1
    new = sorted(interval for interval, *_ in fresh)
    cut = [v for v in held if meeting(new, v.interval)]
    if cut and not replace:
        there = f"{cut[0].interval} already ({cut[0].origin}, payload {cut[0].payload_id[:12]})"
        hint = "leave the interval out, or replace it, which makes a new generation"
        raise ConflictError(f"tag {tag} has constants for {there}", hint=hint)
    _cut(conn, row.id, cut, new, version, now)
    _insert(conn, row.id, fresh, version, generation, now)
    conn.execute(sa.update(schema.tag).where(schema.tag.c.id == row.id).values(version=version))
    return version


def withdraw(
    conn: sa.Connection, tag: str, interval: Interval, now: float, keep: Collection[str] = ()
) -> int:
    """Take what a tag holds in an interval out of its next version; return that version.

    What comes from one of the origins in ``keep`` stays. Older versions answer as before; with nothing to
    take out the version stays.
    """
    row = _tag(conn, tag, lock=True)
    _check_own(conn, "tag", tag)
    held = [v for v in _intervals(conn, row.id, int(row.version), interval) if v.origin not in keep]
    if not held:
        return int(row.version)
    version = int(row.version) + 1
    _cut(conn, row.id, held, [interval], version, now)
    conn.execute(sa.update(schema.tag).where(schema.tag.c.id == row.id).values(version=version))
    return version


def intervals(
    conn: sa.Connection, tag: str, version: int | None = None, overlapping: Interval | None = None
) -> list[Validity]:
    """Return the intervals of a version of a tag (the newest) in key order: all, or those that meet one.

    Raises: UnknownNameError, ConditionsError for a version that there is not yet.
    """
    row = _tag(conn, tag)
    wanted = row.version if version is None else version
    if not 0 <= wanted <= row.version:
        hint = f"its versions go up to {row.version}"
        raise ConditionsError(f"tag {tag} has no version {wanted}", hint=hint)
    return _intervals(conn, row.id, wanted, overlapping)


def tag_of(conn: sa.Connection, name: str) -> str:
    """Return the tag that a whole name means, or a role that only one tag has.

    Raises: UnknownNameError, ConditionsError where several tags have the role.
    """
    rows = conn.execute(sa.select(schema.tag.c.name).order_by(schema.tag.c.name)).scalars()
    names = [str(row) for row in rows]
    if name in names:
        return name
    found = [one for one in names if role_of(one) == name]
    if not found:
        raise UnknownNameError("tag", name, names)
    if len(found) > 1:
        raise ConditionsError(f"{name} is a role of {len(found)} tags", hint=f"name one: {', '.join(found)}")
    return found[0]


def version_of(conn: sa.Connection, tag: str) -> int:
    """Return the newest version of a tag; 0 when it has no interval."""
    return int(_tag(conn, tag).version)


# --- global tags ----------------------------------------------------------------------------------


def create_global_tag(conn: sa.Connection, name: str, now: float, actor: str = "conditions") -> int:
    """Make an open global tag, or find it; return its id."""
    table = schema.global_tag
    row = {"name": name, "state": "open", "version": 0, "merkle": None, "created": now, "frozen": None}
    if insert_new(conn, table, row):
        history.record(conn, "global_tag", _global(conn, name).id, "open", actor=actor, at=now)
    return int(_global(conn, name).id)


def sweep(
    conn: sa.Connection, global_tag: str, versions: Mapping[str, int], now: float, source: str | None = None
) -> int:
    """Let the global tag use these versions of these tags, as its next version; return that version.

    Nothing new means no new version. Members that are not named stay as they are.

    Raises: StateError when it is frozen, ConflictError when a role would get two tags, a tag an old version.
    """
    row = _global(conn, global_tag, lock=True)
    held = members(conn, global_tag)
    changed = {tag: version for tag, version in sorted(versions.items()) if held.get(tag) != version}
    if not changed:
        return int(row.version)
    if row.state != "open":
        raise StateError(f"global tag {global_tag} is {row.state}", hint="publish into an open one")
    _check_own(conn, "global_tag", global_tag, source)
    _check_members(conn, global_tag, held, changed)
    version = int(row.version) + 1
    rows = [
        {
            "global_tag_id": row.id,
            "version": version,
            "tag_id": _tag(conn, tag).id,
            "tag_version": v,
            "created": now,
        }
        for tag, v in changed.items()
    ]
    conn.execute(sa.insert(schema.global_tag_member), rows)
    conn.execute(sa.update(schema.global_tag).where(schema.global_tag.c.id == row.id).values(version=version))
    return version


def members(conn: sa.Connection, global_tag: str, version: int | None = None) -> dict[str, int]:
    """Return tag → tag version of a version of the global tag (the newest one)."""
    row = _global(conn, global_tag)
    return {name: tag_version for name, _, tag_version in _members(conn, row, version)}


def freeze(
    conn: sa.Connection, global_tag: str, now: float, actor: str = "conditions", reason: str = ""
) -> str:
    """Close the global tag for ever; return the Merkle hash over its members and all their intervals.

    A frozen one stays as it is.
    """
    row = _global(conn, global_tag, lock=True)
    if row.state == "frozen":
        return str(row.merkle)
    _check_own(conn, "global_tag", global_tag)
    found = merkle(conn, global_tag)
    history.move(
        conn,
        schema.global_tag,
        row.id,
        "open",
        "frozen",
        actor=actor,
        reason=reason,
        at=now,
        merkle=found,
        frozen=now,
    )
    return found


def merkle(conn: sa.Connection, global_tag: str) -> str:
    """Return the Merkle hash over the members of the newest version and all their intervals and payloads."""
    leaves = []
    for name, tag_id, version in _members(conn, _global(conn, global_tag), None):
        rows = [[*v.interval.document(), v.payload_id] for v in _intervals(conn, tag_id, version, None)]
        leaves.append(f"{name}:{content_hash(rows)}")
    return merkle_root(leaves)


# --- resolving ------------------------------------------------------------------------------------


def resolve(
    conn: sa.Connection, global_tag: str, reads: Iterable[str], interval: Interval, version: int | None = None
) -> Resolution:
    """Return what the roles resolve to over the interval, and which parts of it are not covered."""
    return _resolved(conn, _held(conn, global_tag, version), reads, interval)


def _held(conn: sa.Connection, global_tag: str, version: int | None) -> dict[str, tuple[int, int]]:
    """Return (tag id, tag version) by role."""
    found = _members(conn, _global(conn, global_tag), version)
    return {role_of(name): (tag_id, v) for name, tag_id, v in found}


def _resolved(
    conn: sa.Connection, held: Mapping[str, tuple[int, int]], reads: Iterable[str], interval: Interval
) -> Resolution:
    pieces: list[Piece] = []
    missing: list[Gap] = []
    for role in sorted(set(reads)):
        found = _intervals(conn, *held[role], interval) if role in held else []
        clipped = [
            (part, v.payload_id) for v in found if (part := v.interval.intersect(interval)) is not None
        ]
        pieces += [(role, part, payload_id) for part, payload_id in clipped]
        missing += [(role, gap) for gap in gaps(interval, [part for part, _ in clipped])]
    return Resolution(coalesce(pieces), missing)


def resolved_hash(pieces: Iterable[Piece]) -> str:
    """Return the conditions identity of what was resolved: the root over (role, interval, payload id)."""
    return hash_pieces(pieces)


def export(
    conn: sa.Connection,
    global_tag: str,
    intervals: Iterable[Interval],
    reads: Iterable[str],
    version: int | None = None,
    overrides: Mapping[str, str] | None = None,
) -> bytes:
    """Return the bytes of a snapshot of the roles over the intervals; what is not covered is not in it.

    ``overrides`` gives roles a payload that stands for every interval, whatever the global tag says.
    """
    wanted, forced = sorted(set(reads)), dict(overrides or {})
    asked, held = union(intervals), _held(conn, global_tag, version)
    pieces: list[Piece] = []
    for role in wanted:
        if role in forced:
            pieces += [(role, interval, forced[role]) for interval in asked]
        elif role in held:
            pieces += [
                (role, part, v.payload_id)
                for v in _meeting(conn, *held[role], asked)
                for interval in meeting(asked, v.interval)
                if (part := v.interval.intersect(interval)) is not None
            ]
    payloads = get_payloads(conn, (payload_id for _, _, payload_id in pieces))
    return Snapshot(global_tag, pieces, payloads).to_bytes()


# --- statements -----------------------------------------------------------------------------------


def _tag(conn: sa.Connection, name: str, lock: bool = False) -> Any:
    query = sa.select(schema.tag).where(schema.tag.c.name == name)
    row = conn.execute(query.with_for_update() if lock else query).first()
    if row is None:
        raise UnknownNameError("tag", name, conn.execute(sa.select(schema.tag.c.name)).scalars())
    return row


def _global(conn: sa.Connection, name: str, lock: bool = False) -> Any:
    query = sa.select(schema.global_tag).where(schema.global_tag.c.name == name)
    row = conn.execute(query.with_for_update() if lock else query).first()
    if row is None:
        raise UnknownNameError(
            "global tag", name, conn.execute(sa.select(schema.global_tag.c.name)).scalars()
        )
    return row


def _members(conn: sa.Connection, row: Any, version: int | None) -> list[tuple[str, int, int]]:
    """Return (tag, tag id, tag version): of each tag the latest row up to the version."""
    wanted = row.version if version is None else version
    if not 0 <= wanted <= row.version:
        hint = f"its versions go up to {row.version}"
        raise ConditionsError(f"global tag {row.name} has no version {wanted}", hint=hint)
    found = conn.execute(statements.members(), {"id": row.id, "version": wanted})
    return [(name, tag_id, v) for name, tag_id, v in found if v is not None]


def _intervals(
    conn: sa.Connection, tag_id: int, version: int, overlapping: Interval | None
) -> list[Validity]:
    return sorted(map(_validity, _rows(conn, tag_id, version, overlapping)), key=_place)


def _rows(conn: sa.Connection, tag_id: int, version: int, overlapping: Interval | None) -> list[Any]:
    """Return the rows of a version of a tag: all, or those that meet an interval."""
    known: dict[str, Any] = {"id": tag_id, "version": version}
    if overlapping is None:
        return list(conn.execute(statements.held(), known))
    known |= {"series": overlapping.series} | dict(zip(statements.FIRST, overlapping.first, strict=True))
    # No two of a version overlap: of those that begin before, only the last can reach into the interval.
    earlier = conn.execute(statements.earlier(), known)
    reaching = [row for row in earlier if interval_of(row).last >= overlapping.first]
    known |= dict(zip(statements.LAST, overlapping.last, strict=True))
    return [*reaching, *conn.execute(statements.inside(), known)]


def _place(v: Validity) -> tuple[str, Position]:
    return v.interval.series, v.interval.first


def _meeting(conn: sa.Connection, tag_id: int, version: int, asked: Sequence[Interval]) -> list[Validity]:
    """Return the intervals of a version of a tag that meet any of those asked for, which are a union."""
    if len(asked) <= _PLACES:
        found = {v.id: v for interval in asked for v in _intervals(conn, tag_id, version, interval)}
        return list(found.values())
    known: dict[str, Any] = {"id": tag_id, "version": version}
    rows: dict[int, Any] = {}
    for series, some in groupby(asked, key=lambda interval: interval.series):
        known |= {"series": series, "asked": statements.asked(some)}
        for query in (statements.reaching, statements.among):
            rows |= {row.id: row for row in conn.execute(query(conn.dialect.name), known)}
    return [v for v in map(_validity, rows.values()) if meeting(asked, v.interval)]


def interval_of(row: Any) -> Interval:
    """Read an interval out of a row that keeps it in columns."""
    first = (row.first_run, row.first_section, row.first_event)
    return Interval(row.series, first, (row.last_run, row.last_section, row.last_event))


def _validity(row: Any) -> Validity:
    place = (row.id, interval_of(row), row.payload_id)
    return Validity(*place, row.origin, row.reason, row.generation, row.added, row.removed)


def _check_own(conn: sa.Connection, kind: str, name: str, source: str | None = None) -> None:
    """Refuse to change what is a copy, unless on behalf of what it is a copy of.

    Raises: StateError.
    """
    table = schema.mirrored
    query = sa.select(table.c.source).where(table.c.kind == kind, table.c.name == name)
    found = conn.execute(query).scalar()
    if found is not None and found != source:
        message = f"{kind.replace('_', ' ')} {name} is a mirror of the one at {found}"
        raise StateError(message, hint="change it there, or make a global tag of your own with its tags")


def _check_rows(conn: sa.Connection, tag: Any, rows: Sequence[Row]) -> None:
    for one, other in overlaps(interval for interval, *_ in rows):
        raise ConflictError(
            f"two rows for tag {tag.name} overlap: {one} and {other}", hint="give each its own interval"
        )
    for _, _, origin, _ in rows:
        if origin not in ORIGINS:
            raise ConditionsError(f"{origin!r} is no origin of constants", hint=nearest(origin, ORIGINS))
    wanted = sorted({payload_id for _, payload_id, _, _ in rows})
    kinds = kinds_of(conn, wanted)
    for payload_id in wanted:
        if payload_id not in kinds:
            raise UnknownNameError("payload", payload_id)
        if kinds[payload_id] != tag.kind:
            message = (
                f"payload {payload_id[:12]} is of kind {kinds[payload_id]}; tag {tag.name} holds {tag.kind}"
            )
            raise ConditionsError(message, hint="put it under a tag of its kind")


def _cut(
    conn: sa.Connection,
    tag_id: int,
    cut: Sequence[Validity],
    new: Sequence[Interval],
    version: int,
    now: float,
) -> None:
    """End the intervals that new ones meet, and add what is left of them."""
    if not cut:
        return
    for some in batched([v.id for v in cut]):
        conn.execute(sa.update(schema.iov).where(schema.iov.c.id.in_(some)).values(removed=version))
    for v in cut:
        left = [
            (part, v.payload_id, v.origin, v.reason) for part in gaps(v.interval, meeting(new, v.interval))
        ]
        _insert(conn, tag_id, left, version, v.generation, now)


def _insert(
    conn: sa.Connection, tag_id: int, rows: Sequence[Row], version: int, generation: int, now: float
) -> None:
    common = {"tag_id": tag_id, "added": version, "removed": None, "generation": generation, "created": now}
    values = [
        common
        | {"series": interval.series, "payload_id": payload_id, "origin": origin, "reason": reason}
        | dict(zip(statements.FIRST, interval.first, strict=True))
        | dict(zip(statements.LAST, interval.last, strict=True))
        for interval, payload_id, origin, reason in rows
    ]
    if values:
        conn.execute(sa.insert(schema.iov), values)


def _check_members(
    conn: sa.Connection, global_tag: str, held: Mapping[str, int], changed: Mapping[str, int]
) -> None:
    roles = {role_of(tag): tag for tag in held}
    for tag, version in changed.items():
        other = roles.setdefault(role_of(tag), tag)
        if other != tag:
            message = f"global tag {global_tag} would have two tags for {role_of(tag)}: {other} and {tag}"
            raise ConflictError(message, hint="a role has one tag in a global tag")
        newest = version_of(conn, tag)
        if not held.get(tag, 1) <= version <= newest:
            message = f"global tag {global_tag} cannot use version {version} of {tag}"
            raise ConflictError(
                message, hint=f"it uses {held.get(tag, 'none')}; the tag's versions go up to {newest}"
            )
