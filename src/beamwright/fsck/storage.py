"""Invariants of files: what the catalogue says and what lies on storage. Only reads; hashes for itself."""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from beamwright.core.settings import Settings, read_settings
from beamwright.db import schema
from beamwright.event.validate import validate_file
from beamwright.fsck import pointers
from beamwright.fsck.model import Context, Finding

_IN_FLIGHT = ("leased", "submitted", "running", "reported", "lost", "killed")
_QUARANTINE = ("rejected", "superseded")
_REPORT = "report.json"
_HEX64, _HEX8 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{8}")
_BLOCK = 1 << 20
_SHOWN = 3


def unchanged(context: Context) -> Iterator[Finding]:
    """Invariant 6: each verified replica is there as it was registered; deep: to the last byte."""
    file, replica = schema.file, schema.replica
    columns = (
        file.c.scope,
        file.c.name,
        file.c.kind,
        file.c.size,
        file.c.sha256,
        file.c.adler32,
        file.c.uuid,
    )
    query = sa.select(*columns, file.c.id.label("file_id"), replica).join(
        replica, replica.c.file_id == file.c.id
    )
    here = sa.and_(replica.c.state == "verified", replica.c.endpoint.in_(_here(context)))
    rows = context.conn.execute(query.where(here)).all()
    for row in context.each(rows) if context.deep else rows:
        for problem in _replica_problems(context, row):
            yield f"file {row.scope}:{row.name}", f"{row.path} {problem}"


def _replica_problems(context: Context, row: Any) -> Iterator[str]:
    try:
        status = os.stat(row.path)
    except OSError as error:
        yield f"cannot be read: {error.strerror}"
        return
    if status.st_size != row.size:
        yield f"has {status.st_size} bytes, registered are {row.size}"
    elif row.mtime_ns is not None and (status.st_ino, status.st_mtime_ns) != (row.inode, row.mtime_ns):
        yield "was touched or replaced after it was verified"
    if context.deep and status.st_size == row.size:
        yield from _content_problems(context, row)


def _content_problems(context: Context, row: Any) -> Iterator[str]:
    sha256, adler32 = _hashes(Path(row.path))
    if (sha256, adler32) != (row.sha256, row.adler32):
        yield f"has sha256 {sha256[:12]}, registered is {row.sha256[:12]}"
    elif row.kind == "rntuple":
        output = schema.output
        events = context.conn.execute(
            sa.select(output.c.events).where(output.c.file_id == row.file_id)
        ).scalar()
        expected = {"events": events, "uuid": row.uuid}
        known = {name: value for name, value in expected.items() if value is not None}
        yield from validate_file(row.path, known)["problems"]


def complete_metadata(context: Context) -> Iterator[Finding]:
    """Invariant 9: checksums, and for what we made: producer, inputs or a seed, release, conditions."""
    file, parent = schema.file, schema.file_parent
    parents = set(context.conn.execute(sa.select(parent.c.file_id).distinct()).scalars())
    delivered = set(context.conn.execute(sa.select(schema.chunk_file.c.file_id).distinct()).scalars())
    seeded = _seeded(context)
    for row in context.conn.execute(sa.select(file)):
        source = parents if row.attempt_id not in seeded or not row.lineage.get("seeds") else {row.id}
        lacks = [*_lacking_sums(row), *_lacking_origin(row, source, delivered)]
        if lacks:
            yield f"file {row.scope}:{row.name}", f"lacks {', '.join(lacks)}"


def _seeded(context: Context) -> set[int]:
    """Return the attempts that generate: what they make comes from a seed."""
    attempt, job, unit = schema.attempt, schema.job, schema.unit
    query = sa.select(attempt.c.id).join(job, attempt.c.job_id == job.c.id)
    query = query.join(unit, job.c.unit_id == unit.c.id).where(unit.c.kind == "generate")
    return set(context.conn.execute(query).scalars())


def _lacking_sums(row: Any) -> Iterator[str]:
    if row.size < 0:
        yield "size"
    if not _HEX64.fullmatch(row.sha256):
        yield "sha256"
    if not _HEX8.fullmatch(row.adler32):
        yield "adler32"


def _lacking_origin(row: Any, parents: set[int], delivered: set[int]) -> Iterator[str]:
    if "registered" in row.lineage:
        return  # somebody else made it, and said so
    if row.kind == "raw":
        if row.id not in delivered:
            yield "delivery"
        return
    if row.attempt_id is None and not row.lineage.get("promoted"):
        yield "producer"
    if row.id not in parents:
        yield "inputs"
    if not row.lineage.get("release"):
        yield "release"
    if "resolved_hash" not in row.lineage:
        yield "resolved conditions hash"


def verified_by_somebody(context: Context) -> Iterator[Finding]:
    """Invariant 10: a verified replica says who read it in full, and when."""
    replica = schema.replica
    nobody = sa.or_(replica.c.verified_by.is_(None), replica.c.verified_at.is_(None))
    for row in context.conn.execute(sa.select(replica).where(replica.c.state == "verified", nobody)):
        yield f"replica {row.id}", f"{row.path} is verified, and nobody says to have read it"


def live_files(context: Context) -> Iterator[Finding]:
    """Invariant 11: a file of a valid collection, or delivered, has a verified replica."""
    file, replica, link, collection = schema.file, schema.replica, schema.collection_file, schema.collection
    verified = sa.select(replica.c.file_id).where(replica.c.state == "verified")
    valid = sa.select(link.c.file_id).join(collection, link.c.collection_id == collection.c.id)
    live = sa.or_(
        file.c.id.in_(valid.where(collection.c.state == "valid")),
        file.c.id.in_(sa.select(schema.chunk_file.c.file_id)),
    )
    there = sa.select(sa.func.min(replica.c.endpoint)).where(
        replica.c.file_id == file.c.id, replica.c.state.in_(("present", "suspect"))
    )
    columns = (file.c.scope, file.c.name, file.c.lineage, there.scalar_subquery().label("endpoint"))
    query = sa.select(*columns).where(live, file.c.id.not_in(verified)).order_by(file.c.id)
    registered: dict[str | None, list[str]] = defaultdict(list)
    for row in context.conn.execute(query):
        if "registered" in row.lineage:  # made elsewhere, and perhaps never read: by the million
            registered[row.endpoint].append(f"{row.scope}:{row.name}")
        else:
            yield f"file {row.scope}:{row.name}", "is in use and has no verified replica"
    for endpoint, names in sorted(registered.items(), key=lambda item: item[0] or ""):
        yield _never_read(endpoint, names)
    yield from pointers.led_into(context)


def _never_read(endpoint: str | None, names: list[str]) -> Finding:
    some = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    what = f"registered files ({len(names)})"
    if endpoint is None:
        return what, f"are in use and lie nowhere: {some}"
    told = f"are in use, lie at {endpoint}, and nobody has verified them: {some}"
    return what, f"{told} (`beamwright file verify --at {endpoint}` reads them)"


def nothing_unknown(context: Context) -> Iterator[Finding]:
    """Invariant 17: every file in a farm's store is a replica, a report, in flight, or in quarantine.

    Of other endpoints the listings tell.
    """
    yield from _listed_otherwise(context)
    if context.on_storage:
        yield from _unknown_here(context)


def _unknown_here(context: Context) -> Iterator[Finding]:
    replica, attempt = schema.replica, schema.attempt
    kept = sa.select(replica.c.path).where(
        replica.c.state != "deleted", replica.c.endpoint.in_(_here(context))
    )
    replicas = set(context.conn.execute(kept).scalars())
    query = sa.select(attempt.c.nonce, attempt.c.state, attempt.c.id)
    attempts = {row.nonce: row for row in context.conn.execute(query)}
    for store in sorted(context.root.glob("farms/*/store")):
        for path in _files_below(store):
            problem = None if str(path) in replicas else _stranger(path, attempts)
            if problem:
                yield str(path.relative_to(context.root)), problem


def _listed_otherwise(context: Context) -> Iterator[Finding]:
    """What all listings of an endpoint over the declared time hold otherwise than the catalogue does now."""
    table = schema.listing
    apart = _settings(context).reconcile.apart_s
    for endpoint in context.conn.execute(sa.select(table.c.endpoint).distinct()).scalars().all():
        mine = sa.select(table.c.id, table.c.taken).where(table.c.endpoint == endpoint)
        rows = context.conn.execute(mine.order_by(table.c.taken)).all()
        earlier = [row.taken for row in rows if row.taken <= rows[-1].taken - apart]
        if earlier:
            ids = [row.id for row in rows if row.taken >= earlier[-1]]
            yield from _agreed(context, endpoint, ids)


def _agreed(context: Context, endpoint: str, listings: list[int]) -> Iterator[Finding]:
    said, replica = schema.listing_finding, schema.replica
    columns = (said.c.path, said.c.kind)
    votes = sa.select(*columns).where(said.c.listing_id.in_(listings)).group_by(*columns)
    agreed = votes.having(sa.func.count() == len(listings)).subquery()
    now = sa.and_(replica.c.endpoint == endpoint, replica.c.path == agreed.c.path)
    query = sa.select(agreed, replica.c.state).join(replica, now, isouter=True)
    for row in context.conn.execute(query):
        if row.kind == "dark" and row.state in (None, "deleted", "lost"):
            yield f"{endpoint} {row.path}", "lies there and is in no catalogue"
        elif row.kind == "lost" and row.state in ("present", "verified", "suspect"):
            yield f"{endpoint} {row.path}", f"is {row.state} in the catalogue and in no listing"
        elif row.kind == "differs" and row.state in ("present", "verified"):
            yield f"{endpoint} {row.path}", f"is {row.state} and of another size in every listing"


def _here(context: Context) -> list[str]:
    """Return the endpoints whose files we can look at: our own and the farms'."""
    farms = {path.name for path in context.root.glob("farms/*")}
    return sorted({"local", *farms, *_settings(context).farm})


def _settings(context: Context) -> Settings:
    path = context.root / "beamwright.toml"
    return read_settings(path.read_text(), str(path)) if path.is_file() else Settings()


def _stranger(path: Path, attempts: dict[str, Any]) -> str | None:
    owner = next((attempts[part] for part in path.parts if part in attempts), None)
    if owner is None:
        return "belongs to no attempt and is in no catalogue"
    if owner.state in (*_IN_FLIGHT, *_QUARANTINE) or path.name == _REPORT:
        return None
    return f"lies beside the outputs of attempt {owner.id}, which is {owner.state}, and is none of them"


def acknowledged(context: Context) -> Iterator[Finding]:
    """Invariant 23: the database is sound, and the files that its rows rest on are there."""
    yield from _database_problems(context)
    if not context.on_storage:
        return
    yield from _indexes(context)
    yield from _snapshots(context)
    yield from _reports(context)


def _database_problems(context: Context) -> Iterator[Finding]:
    if context.conn.dialect.name != "sqlite":
        return
    for row in context.conn.exec_driver_sql("PRAGMA integrity_check"):
        if row[0] != "ok":
            yield "database", str(row[0])
    for row in context.conn.exec_driver_sql("PRAGMA foreign_key_check"):
        yield f"database, table {row[0]}", f"row {row[1]} refers to a row of {row[2]} that is not there"


def _indexes(context: Context) -> Iterator[Finding]:
    chunk = schema.chunk
    for row in context.conn.execute(
        sa.select(chunk.c.id, chunk.c.index_file).where(chunk.c.index_file != "")
    ):
        yield from _named_by_hash(context, f"chunk {row.id}", context.root / "indexes" / row.index_file)


def _snapshots(context: Context) -> Iterator[Finding]:
    unit, seen = schema.unit, set()
    for row in context.conn.execute(sa.select(unit.c.id, unit.c.definition).order_by(unit.c.id)):
        snapshot = (row.definition or {}).get("snapshot")
        if snapshot and snapshot["file"] not in seen:
            seen.add(snapshot["file"])
            yield from _named_by_hash(
                context, f"unit {row.id}", context.root / "snapshots" / snapshot["file"]
            )


def _named_by_hash(context: Context, owner: str, path: Path) -> Iterator[Finding]:
    if not path.is_file():
        yield owner, f"needs {path.relative_to(context.root)}, which is not there"
    elif context.deep and _hashes(path)[0] != path.stem:
        yield owner, f"needs {path.relative_to(context.root)}, whose content is not what its name says"


def _reports(context: Context) -> Iterator[Finding]:
    """The signed report of an accepted attempt lies in the directory of its outputs."""
    attempt, file, replica = schema.attempt, schema.file, schema.replica
    query = (
        sa.select(attempt.c.id, attempt.c.report_sha256, replica.c.path)
        .join(file, file.c.attempt_id == attempt.c.id)
        .join(replica, replica.c.file_id == file.c.id)
        .where(attempt.c.state == "accepted", replica.c.state == "verified")
    )
    found = {
        row.id: (row.report_sha256, Path(row.path).parent / _REPORT) for row in context.conn.execute(query)
    }
    for attempt_id, (digest, path) in sorted(found.items()):
        if not path.is_file():
            yield f"attempt {attempt_id}", "is accepted, and its report is gone"
        elif digest and _hashes(path)[0] != digest:
            yield f"attempt {attempt_id}", "is accepted with another report than the one that lies there"


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent) / name for name in sorted(names))


def _hashes(path: Path) -> tuple[str, str]:
    sha256, adler32 = hashlib.sha256(), 1
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            sha256.update(block)
            adler32 = zlib.adler32(block, adler32)
    return sha256.hexdigest(), f"{adler32:08x}"
