"""Verdicts on runs: versioned rows, by an algorithm or by a person who says why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from beamwright.core.errors import ConflictError, UnknownNameError, UsageError, nearest
from beamwright.db import history, schema
from beamwright.db.engine import insert_id
from beamwright.quality.checks import Judgement, Past
from beamwright.quality.references import References, TrendLimits, check_whole, read_references

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


def check_place(conn: sa.Connection, series: str, run: int, tier: str, subject: str, is_new: bool) -> None:
    """Refuse a verdict on a run that is not there, or, unless it is meant, on what nothing was judged by yet.

    Raises: UnknownNameError with the nearest run, tier or subject.
    """
    table, verdict = schema.run, schema.verdict
    there = sa.select(table.c.id).where(table.c.series == series, table.c.number == run)
    if conn.execute(there.limit(1)).first() is None:
        rows = conn.execute(sa.select(table.c.series, table.c.number).distinct().limit(10_000))
        raise UnknownNameError("run", f"{series}/{run}", {f"{row.series}/{row.number}" for row in rows})
    rows = conn.execute(sa.select(verdict.c.tier, verdict.c.subject).distinct())
    known = {(row.tier, row.subject) for row in rows}
    if is_new or not known or (tier, subject) in known:
        return
    tiers = {name for name, _ in known}
    if tier not in tiers:
        error = UnknownNameError("tier of verdicts", tier, tiers)
    else:
        judged = {name for on, name in known if on == tier}
        error = UnknownNameError(f"subject of verdicts on tier {tier}", subject, judged)
    error.hint += " (--new begins one)"
    raise error


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


def past_values(conn: sa.Connection, series: str, run: int, tier: str, trends: Sequence[TrendLimits]) -> Past:
    """Return what earlier runs had of the quantities whose trends are followed, in run order."""
    table, wanted = schema.verdict, {(one.subject, *one.key) for one in trends}
    found: dict[tuple[str, str, str], dict[int, float]] = defaultdict(dict)
    if not wanted:
        return {}
    where = (
        table.c.series == series, table.c.tier == tier, table.c.run < run,
        table.c.subject.in_(sorted({one.subject for one in trends})),
    )  # fmt: skip
    newest = sa.select(table.c.run).where(*where).distinct().order_by(table.c.run.desc())
    runs = conn.execute(newest.limit(2 * max(one.runs for one in trends))).scalars().all()
    query = sa.select(table).where(*where, table.c.run >= min(runs, default=run))
    for row in conn.execute(query.order_by(table.c.run, table.c.version)):
        for check in row.checks:
            key = (row.subject, check["name"], check["quantity"])
            if key in wanted and check["value"] is not None:
                found[key][row.run] = check["value"]
    return {key: sorted(values.items()) for key, values in found.items()}


def standing(
    conn: sa.Connection, series: str, run: int, tier: str, subjects: Iterable[str]
) -> dict[str, str]:
    """Return what stands on each subject of a run now; what was never judged is unknown."""
    found = {}
    for subject in subjects:
        present = current(conn, series, run, tier, subject)
        found[subject] = present.value if present is not None else "unknown"
    return found


def unjudged(conn: sa.Connection, runs: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return the runs on which no verdict stands, good or bad: nothing of them is to leave the house.

    Where every subject is unknown nobody has judged: there was nothing to judge by.
    """
    table, later = schema.verdict, schema.verdict.alias()
    key = (table.c.series, table.c.run, table.c.tier, table.c.subject)
    newer = sa.select(later.c.id).where(
        *(later.c[column.name] == column for column in key), later.c.version > table.c.version
    )
    query = sa.select(table.c.series, table.c.run).distinct()
    judged = {
        (row.series, row.run)
        for row in conn.execute(query.where(table.c.value != "unknown", ~newer.exists()))
    }
    return sorted(set(runs) - judged)


def subjects(conn: sa.Connection, tier: str) -> set[str]:
    """Return what was ever judged on a tier."""
    table = schema.verdict
    return set(conn.execute(sa.select(table.c.subject).where(table.c.tier == tier).distinct()).scalars())


def put_references(
    conn: sa.Connection, experiment: str, text: str, source: str, *, author: str, reason: str, now: float
) -> References:
    """Let references stand in the place of those that an experiment's code brings, from now on.

    Raises: ConfigError, ConflictError where the version is not higher than the one that stands.
    """
    found, table = check_whole(read_references(text, source)), schema.reference
    if not reason.strip():
        raise UsageError("references need a reason", hint="say what has changed")
    newest = sa.select(sa.func.max(table.c.version)).where(table.c.experiment == experiment)
    present = int(conn.execute(newest).scalar() or 0)
    if found.version <= present:
        message = f"{source} is version {found.version} of the references of {experiment}; {present} stands"
        raise ConflictError(message, hint=f"raise its version to {present + 1}")
    values = {"experiment": experiment, "version": found.version, "text": text, "hash": found.hash}
    insert_id(conn, table, **values, author=author, reason=reason, created=now)
    data = {"version": found.version, "hash": found.hash}
    history.record(conn, "reference", experiment, "put", actor=author, reason=reason, at=now, data=data)
    return found


def references_of(conn: sa.Connection, experiment: str, version: int | None = None) -> References | None:
    """Return the references that were put for an experiment: the newest, or one version."""
    table = schema.reference
    query = sa.select(table.c.text).where(table.c.experiment == experiment)
    if version is not None:
        query = query.where(table.c.version == version)
    text = conn.execute(query.order_by(table.c.version.desc()).limit(1)).scalar()
    return read_references(text, f"references of {experiment}") if text is not None else None


def reference_log(conn: sa.Connection, experiment: str | None = None) -> list[dict[str, Any]]:
    """Return the versions of references that were put, the newest first."""
    table = schema.reference
    query = sa.select(table).order_by(table.c.experiment, table.c.version.desc())
    query = query if experiment is None else query.where(table.c.experiment == experiment)
    return [dict(row) for row in conn.execute(query).mappings()]


def good_runs(
    conn: sa.Connection, subject: str, tier: str, as_of: float | None = None
) -> list[tuple[str, int]]:
    """Return the runs (series, number) that are, or were at a time, good for a subject.

    Raises: UnknownNameError for a subject of which no verdict speaks, where there are verdicts on the tier.
    """
    table, known = schema.verdict, subjects(conn, tier)
    if known and subject not in known:
        raise UnknownNameError(f"subject of verdicts on tier {tier}", subject, known)
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
