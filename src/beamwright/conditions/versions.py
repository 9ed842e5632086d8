"""The past of conditions: what each version changed, what held at a date, what differs, what is missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from beamwright.conditions import tags
from beamwright.conditions.tags import Validity
from beamwright.core.errors import ConditionsError, UnknownNameError
from beamwright.core.runs import Interval, gaps, meeting, overlaps
from beamwright.db import schema

Row = dict[str, Any]


def version_at(conn: sa.Connection, global_tag: str, at: float) -> int:
    """Return the version that a global tag had at a time; 0 before its first sweep.

    Raises: UnknownNameError, ConditionsError when it did not exist yet.
    """
    table, member = schema.global_tag, schema.global_tag_member
    row = conn.execute(sa.select(table).where(table.c.name == global_tag)).first()
    if row is None:
        raise UnknownNameError("global tag", global_tag, conn.execute(sa.select(table.c.name)).scalars())
    if row.created > at:
        raise ConditionsError(f"global tag {global_tag} did not exist then", hint="name a later date")
    then = sa.select(member.c.version).where(member.c.global_tag_id == row.id, member.c.created <= at)
    return int(conn.execute(then.order_by(member.c.version.desc()).limit(1)).scalar() or 0)


def tag_log(conn: sa.Connection, tag: str) -> list[Row]:
    """Return what each version of a tag added and took out, the newest first."""
    table, name = schema.iov, schema.tag
    query = sa.select(table).join(name, table.c.tag_id == name.c.id).where(name.c.name == tag)
    rows = conn.execute(query.order_by(table.c.id)).all()
    found: dict[int, Row] = defaultdict(lambda: {"at": None, "added": [], "removed": [], "reason": ""})
    for row in rows:
        entry = found[row.added]
        entry["at"], entry["reason"] = row.created, entry["reason"] or row.reason
        entry["added"].append(f"{tags.interval_of(row)} {row.origin} {row.payload_id[:10]}")
        if row.removed is not None:
            found[row.removed]["removed"].append(f"{tags.interval_of(row)} {row.payload_id[:10]}")
    return [{"version": version} | found[version] for version in sorted(found, reverse=True)]


def global_log(conn: sa.Connection, global_tag: str) -> list[Row]:
    """Return what each sweep of a global tag took up, the newest first."""
    member, name, tag = schema.global_tag_member, schema.global_tag, schema.tag
    query = (
        sa.select(member, tag.c.name.label("tag"))
        .join(name, member.c.global_tag_id == name.c.id)
        .join(tag, member.c.tag_id == tag.c.id)
        .where(name.c.name == global_tag)
        .order_by(member.c.version.desc(), tag.c.name)
    )
    found: dict[int, Row] = {}
    for row in conn.execute(query):
        entry = found.setdefault(row.version, {"version": row.version, "at": row.created, "tags": {}})
        entry["tags"][row.tag] = row.tag_version
    return list(found.values())


def diff(old: Sequence[Validity], new: Sequence[Validity]) -> list[Row]:
    """Return where two versions of a tag give different payloads; none is where one does not cover."""
    same = {(v.interval, v.payload_id) for v in old} & {(v.interval, v.payload_id) for v in new}
    before = [v for v in old if (v.interval, v.payload_id) not in same]
    after = [v for v in new if (v.interval, v.payload_id) not in same]
    found = sorted(_differences(before, after), key=lambda row: row[0])
    return [{"interval": str(i), "old": one, "new": other} for i, one, other in found]


def _differences(
    before: Sequence[Validity], after: Sequence[Validity]
) -> Iterator[tuple[Interval, str | None, str | None]]:
    payloads = {w.interval: w.payload_id for w in after}
    old, new = sorted(v.interval for v in before), sorted(payloads)
    for v in before:
        for met in meeting(new, v.interval):
            common = v.interval.intersect(met)
            if common is not None and v.payload_id != payloads[met]:
                yield common, v.payload_id, payloads[met]
        for gap in gaps(v.interval, meeting(new, v.interval)):
            yield gap, v.payload_id, None
    for w in after:
        for gap in gaps(w.interval, meeting(old, w.interval)):
            yield gap, None, w.payload_id


def holes(held: Sequence[Interval]) -> list[Interval]:
    """Return what lies between the first and the last interval of each series and is not covered."""
    found = []
    for series in sorted({interval.series for interval in held}):
        mine = [interval for interval in held if interval.series == series]
        whole = Interval(series, min(i.first for i in mine), max(i.last for i in mine))
        found += gaps(whole, mine)
    return found


def report(conn: sa.Connection, global_tag: str) -> list[Row]:
    """Return the gaps and overlaps of each member of a global tag."""
    rows = []
    for tag, version in tags.members(conn, global_tag).items():
        held = [v.interval for v in tags.intervals(conn, tag, version)]
        rows += [{"tag": tag, "problem": "gap", "interval": str(hole)} for hole in holes(held)]
        rows += [
            {"tag": tag, "problem": "overlap", "interval": f"{one} and {other}"}
            for one, other in overlaps(held)
        ]
    return rows
