"""Verdicts on runs: versioned rows, by an algorithm or by a person who says why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from beamwright.core.errors import UsageError, nearest
from beamwright.db import history, schema
from beamwright.db.engine import insert_id
from beamwright.quality.checks import Judgement

VALUES = ("good", "bad", "unknown")
ALGORITHM = "algorithm"


@dataclass(frozen=True)
class Verdict:
    """A version of the verdict on (series, run, tier, subject)."""

    series: str
    run: int
    tier: str
    subject: str
    version: int
    value: str
    author: str
    reason: str
    checks: list[Any]
    unit_id: int | None
    created: float

    @property
    def is_by_person(self) -> bool:
        return not self.author.startswith(ALGORITHM)


def publish(
    conn: sa.Connection,
    series: str,
    run: int,
    tier: str,
    judgements: Iterable[Judgement],
    author: str,
    now: float,
    unit_id: int | None = None,
) -> int:
    """Store what an algorithm (``References.author``) found; return how many new versions that made.

    What is the same as before makes no version, and a person's verdict stays.
    """
    made = 0
    for found in judgements:
        present = current(conn, series, run, tier, found.subject)
        if present is not None and present.is_by_person:
            continue
        documents = [check.document() for check in found.checks]
        if present is not None and (present.value, present.author, present.checks) == (
            found.value,
            author,
            documents,
        ):
            continue
        key = (series, run, tier, found.subject)
        _insert(conn, key, present, found.value, author, found.reason, documents, now, unit_id)
        made += 1
    return made


def override(
    conn: sa.Connection,
    series: str,
    run: int,
    tier: str,
    subject: str,
    value: str,
    *,
    author: str,
    reason: str,
    now: float,
) -> Verdict:
    """Let a person decide; the reason is kept.

    Raises: UsageError without a reason or author, or for an unknown value.
    """
    if value not in VALUES:
        raise UsageError(f"{value!r} is no verdict", hint=nearest(value, VALUES))
    if not reason.strip():
        raise UsageError("a verdict by a person needs a reason", hint="say what was seen")
    if not author.strip() or author.startswith(ALGORITHM):
        raise UsageError(f"{author!r} is no person", hint="give the name of who decides")
    present = current(conn, series, run, tier, subject)
    return _insert(conn, (series, run, tier, subject), present, value, author, reason, [], now, None)


def current(
    conn: sa.Connection, series: str, run: int, tier: str, subject: str, as_of: float | None = None
) -> Verdict | None:
    """Return the newest version, or the one that was the newest at a time."""
    table = schema.verdict
    query = sa.select(table).where(
        table.c.series == series, table.c.run == run, table.c.tier == tier, table.c.subject == subject
    )
    if as_of is not None:
        query = query.where(table.c.created <= as_of)
    row = conn.execute(query.order_by(table.c.version.desc()).limit(1)).first()
    return _verdict(row) if row is not None else None


def history_of(conn: sa.Connection, series: str, run: int, tier: str, subject: str) -> list[Verdict]:
    """Return all versions, oldest first."""
    table = schema.verdict
    query = sa.select(table).where(
        table.c.series == series, table.c.run == run, table.c.tier == tier, table.c.subject == subject
    )
    return [_verdict(row) for row in conn.execute(query.order_by(table.c.version))]


def good_runs(
    conn: sa.Connection, subject: str, tier: str, as_of: float | None = None
) -> list[tuple[str, int]]:
    """Return the runs (series, number) that are, or were at a time, good for a subject."""
    table = schema.verdict
    considered = sa.and_(table.c.subject == subject, table.c.tier == tier)
    if as_of is not None:
        considered = sa.and_(considered, table.c.created <= as_of)
    newest = (
        sa.select(table.c.series, table.c.run, sa.func.max(table.c.version).label("version"))
        .where(considered)
        .group_by(table.c.series, table.c.run)
        .subquery()
    )
    same = sa.and_(
        table.c.series == newest.c.series, table.c.run == newest.c.run, table.c.version == newest.c.version
    )
    query = (
        sa.select(table.c.series, table.c.run).join(newest, same).where(considered, table.c.value == "good")
    )
    return [(row.series, row.run) for row in conn.execute(query.order_by(table.c.series, table.c.run))]


def _insert(
    conn: sa.Connection,
    key: tuple[str, int, str, str],
    present: Verdict | None,
    value: str,
    author: str,
    reason: str,
    checks: list[Any],
    now: float,
    unit_id: int | None,
) -> Verdict:
    series, run, tier, subject = key
    version = present.version + 1 if present else 1
    found = Verdict(series, run, tier, subject, version, value, author, reason, checks, unit_id, now)
    insert_id(conn, schema.verdict, **vars(found))
    name = f"{series}:{run}/{tier}/{subject}"
    data = {"version": version}
    history.record(conn, "verdict", name, value, actor=author, reason=reason, at=now, data=data)
    return found


def _verdict(row: Any) -> Verdict:
    return Verdict(
        row.series,
        row.run,
        row.tier,
        row.subject,
        row.version,
        row.value,
        row.author,
        row.reason,
        row.checks,
        row.unit_id,
        row.created,
    )
