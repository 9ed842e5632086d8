"""Invariants of conditions: hashes, intervals and global tags, resolved here anew."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from beamwright.core.canonical import canonical_json, content_hash, merkle_root
from beamwright.core.runs import Interval, after, gaps
from beamwright.db import schema
from beamwright.fsck.model import Context, Finding, interval_of

Piece = tuple[Interval, str]


def payload_hashes(context: Context) -> Iterator[Finding]:
    """Invariant 20: kind and bytes of a payload hash to its id."""
    for row in context.conn.execute(sa.select(schema.payload)):
        data = bytes(row.data)
        if hashlib.sha256(row.kind.encode() + b"\0" + data).hexdigest() != row.id:
            yield f"payload {row.id[:12]}", "has other content than its name says"
        if len(data) != row.size:
            yield f"payload {row.id[:12]}", f"has {len(data)} bytes, registered are {row.size}"


def frozen_as_recorded(context: Context) -> Iterator[Finding]:
    """Invariant 21: the Merkle hash of a frozen global tag, and what its outputs resolve to."""
    for row in _frozen(context):
        if _merkle(context, row) != row.merkle:
            yield f"global tag {row.name}", "is frozen, and its content is not what its hash says"
    for output in _outputs(context):
        found = _resolve(context, output)
        if output.is_frozen and not found.missing and found.hash != output.resolved_hash:
            yield (
                f"collection {output.name}",
                f"was made with other conditions than {output.global_tag} resolves to",
            )


def no_overlap_no_gap(context: Context) -> Iterator[Finding]:
    """Invariant 22: intervals of a version do not overlap, and outputs lie where there are constants."""
    table, tag = schema.iov, schema.tag
    rows: dict[str, list[Any]] = defaultdict(list)
    for row in context.conn.execute(sa.select(table, tag.c.name).join(tag, table.c.tag_id == tag.c.id)):
        rows[row.name].append(row)
    for name, held in sorted(rows.items()):
        for one, other in _overlapping(held):
            yield f"tag {name}", f"holds {interval_of(one)} and {interval_of(other)} in one version"
    for output in _outputs(context):
        for role, gap in _resolve(context, output).missing:
            yield (
                f"collection {output.name}",
                f"lies in {gap}, which {role} of {output.global_tag} does not cover",
            )


class _Output:
    """A valid collection of a process unit that reads conditions."""

    def __init__(self, row: Any) -> None:
        self.name = f"{row.scope}:{row.name}"
        self.interval = interval_of(row)
        self.global_tag = row.global_tag
        self.tag_id = row.tag_id
        self.is_frozen = row.tag_state == "frozen"
        self.resolved_hash = row.resolved_hash
        self.reads = sorted((row.definition or {}).get("reads") or [])


class _Resolved:
    """What an output's roles resolve to: its hash, and the parts that nothing covers."""

    def __init__(self, pieces: dict[str, list[Piece]], whole: Interval) -> None:
        self.missing = [(r, gap) for r, found in pieces.items() for gap in gaps(whole, [i for i, _ in found])]
        rows = [[r, *interval.document(), p] for r, found in pieces.items() for interval, p in _joined(found)]
        self.hash = merkle_root(canonical_json(row).decode() for row in rows)


def _outputs(context: Context) -> list[_Output]:
    collection, unit, global_tag = schema.collection, schema.unit, schema.global_tag
    query = (
        sa.select(
            collection,
            unit.c.definition,
            global_tag.c.id.label("tag_id"),
            global_tag.c.state.label("tag_state"),
        )
        .join(unit, collection.c.unit_id == unit.c.id)
        .join(global_tag, global_tag.c.name == collection.c.global_tag)
        .where(collection.c.state == "valid", unit.c.kind == "process")
    )
    return [found for row in context.conn.execute(query).all() if (found := _Output(row)).reads]


def _resolve(context: Context, output: _Output) -> _Resolved:
    pieces: dict[str, list[Piece]] = {role: [] for role in output.reads}
    for name, tag_id, version in _members(context, output.tag_id):
        role = name.rpartition("/")[2]
        if role in pieces:
            for interval, payload_id in _valid(context, tag_id, version):
                common = interval.intersect(output.interval)
                if common is not None:
                    pieces[role].append((common, payload_id))
    return _Resolved(pieces, output.interval)


def _frozen(context: Context) -> list[Any]:
    table = schema.global_tag
    return list(
        context.conn.execute(sa.select(table).where(table.c.state == "frozen").order_by(table.c.name))
    )


def _merkle(context: Context, global_tag: Any) -> str:
    leaves = []
    for name, tag_id, version in _members(context, global_tag.id):
        rows = [[*interval.document(), payload] for interval, payload in _valid(context, tag_id, version)]
        leaves.append(f"{name}:{content_hash(rows)}")
    return merkle_root(leaves)


def _members(context: Context, global_tag_id: int) -> list[tuple[str, int, int]]:
    """Return (tag, tag id, tag version) of the newest version of a global tag."""
    table, tag = schema.global_tag_member, schema.tag
    query = sa.select(table, tag.c.name).join(tag, table.c.tag_id == tag.c.id)
    newest: dict[str, tuple[str, int, int]] = {}
    rows = context.conn.execute(query.where(table.c.global_tag_id == global_tag_id).order_by(table.c.version))
    for row in rows:
        newest[row.name] = (row.name, row.tag_id, row.tag_version)
    return sorted(newest.values())


def _valid(context: Context, tag_id: int, version: int) -> list[Piece]:
    """Return (interval, payload) of a version of a tag in order."""
    table = schema.iov
    rows = context.conn.execute(sa.select(table).where(table.c.tag_id == tag_id))
    held = [r for r in rows if r.added <= version and (r.removed is None or r.removed > version)]
    return sorted((interval_of(row), row.payload_id) for row in held)


def _joined(pieces: list[Piece]) -> Iterator[Piece]:
    """Join neighbours with one payload, as the resolved hash does."""
    ordered = sorted(pieces)
    while ordered:
        interval, payload = ordered.pop(0)
        while ordered and ordered[0][1] == payload and ordered[0][0].first == after(interval.last):
            interval = Interval(interval.series, interval.first, ordered.pop(0)[0].last)
        yield interval, payload


def _overlapping(rows: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Return pairs that overlap in keys and in versions."""
    active: list[Any] = []
    for row in sorted(rows, key=lambda r: (interval_of(r), r.added)):
        active = [
            r for r in active if r.series == row.series and interval_of(r).last >= interval_of(row).first
        ]
        for other in active:
            ends = [r.removed for r in (row, other) if r.removed is not None]
            if max(row.added, other.added) < min(ends, default=max(row.added, other.added) + 1):
                yield other, row
        active.append(row)
