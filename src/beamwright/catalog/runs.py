"""Runs as the detector delivers them: chunk by chunk, each once, closed when all is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from beamwright.catalog import files, measures
from beamwright.core.canonical import content_hash
from beamwright.core.errors import ConflictError, FormatError, UnknownNameError
from beamwright.core.runs import MEASURES
from beamwright.db import history, schema
from beamwright.db.engine import insert_id, insert_new
from beamwright.durable import Digest

ACTOR = "intake"
_MEASURED = (
    "each delivery says what the whole run is worth, or nothing; `beamwright run register --correct REASON`"
)

# What decides whether two deliveries of a chunk are the same one: everything but where the files lie.
_IDENTITY = (
    "series", "run", "tier", "sequence", "reader", "first_section", "last_section", "records", "is_mc",
    "end_marker",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run as it stands: identity, state, version, chunks that are there."""

    id: int
    series: str
    number: int
    tier: str
    state: str
    version: int
    is_mc: bool
    chunks: int
    records: dict[str, int]


@dataclass(frozen=True)
class Signs:
    """When a run began and when its newest chunk came."""

    number: int
    state: str
    begun: float
    last: float


def deliver(
    conn: sa.Connection,
    delivery: Mapping[str, Any],
    digests: Mapping[str, Digest],
    now: float,
    *,
    records: Mapping[str, int],
    index_file: str,
) -> int:
    """Register a delivered chunk with its run and files; return its id. Doing it again changes nothing.

    ``digests`` holds what each path was read as, ``records`` the numbers of records found. A chunk for a run
    that is closed opens the run again as a new version.

    Raises: ConflictError when the sequence number or the sections belong to a chunk with other content.
    """
    run_id = _run(conn, delivery, now)
    known = _same_chunk(conn, run_id, delivery)
    if known is not None:
        return known
    _check_sections(conn, run_id, delivery)
    _reopen(conn, run_id, delivery, now)
    chunk_id = _add_chunk(conn, run_id, delivery, records, index_file, now)
    _add_files(conn, chunk_id, delivery, digests, now)
    _close_if_complete(conn, run_id, now)
    return chunk_id


def give_up(conn: sa.Connection, series: str, number: int, tier: str, reason: str, now: float) -> None:
    """Flag an open run as incomplete: nothing more is waited for. A late chunk opens it again."""
    run = find(conn, series, number, tier)
    history.move(conn, schema.run, run.id, "open", "incomplete", actor=ACTOR, reason=reason, at=now)


def miss(
    conn: sa.Connection, series: str, number: int, tier: str, reason: str, now: float, **flags: bool
) -> None:
    """Enter a run that never came, as incomplete (``flags``: is_mc, is_resampled). A late chunk opens it."""
    identity: dict[str, Any] = {"series": series, "number": number, "tier": tier}
    if insert_new(conn, schema.run, _new_run(identity, flags, now)):
        run = find(conn, series, number, tier)
        history.record(conn, "run", run.id, "announced", actor=ACTOR, at=now)
        history.move(conn, schema.run, run.id, "announced", "open", actor=ACTOR, reason=reason, at=now)
        give_up(conn, series, number, tier, reason, now)


def signs(conn: sa.Connection, series: str, tier: str) -> list[Signs]:
    """Return when the runs of a series first and last gave a sign of life, by number."""
    table, chunk = schema.run, schema.chunk
    last = sa.func.max(chunk.c.created)
    query = (
        sa.select(table.c.number, table.c.state, table.c.created, last.label("last"))
        .join(chunk, chunk.c.run_id == table.c.id, isouter=True)
        .where(table.c.series == series, table.c.tier == tier)
        .group_by(table.c.id, table.c.number, table.c.state, table.c.created)
        .order_by(table.c.number)
    )
    rows = conn.execute(query)
    return [Signs(r.number, r.state, r.created, r.created if r.last is None else r.last) for r in rows]


def find(conn: sa.Connection, series: str, number: int, tier: str = "raw") -> Run:
    """Return a run.

    Raises: UnknownNameError, which names the runs of that series.
    """
    table = schema.run
    row = conn.execute(
        sa.select(table).where(table.c.series == series, table.c.number == number, table.c.tier == tier)
    ).first()
    if row is None:
        known = conn.execute(sa.select(table.c.series, table.c.number).where(table.c.tier == tier))
        raise UnknownNameError(f"{tier} run", f"{series}:{number}", [f"{s}:{n}" for s, n in known])
    return _summary(conn, row)


def listing(conn: sa.Connection, where: sa.ColumnElement[bool] | None = None) -> list[Run]:
    """Return runs in order of series, number and tier; ``where`` is a condition of ``catalog.query``."""
    table = schema.run
    query = sa.select(table).order_by(table.c.series, table.c.number, table.c.tier)
    return [_summary(conn, row) for row in conn.execute(query if where is None else query.where(where)).all()]


def number_of_chunks() -> sa.ColumnElement[int]:
    """Return the column ``chunks`` of a statement on runs: how many have come."""
    chunk = schema.chunk
    counted = sa.select(sa.func.count()).where(chunk.c.run_id == schema.run.c.id)
    return counted.correlate(schema.run).scalar_subquery().label("chunks")


def _summary(conn: sa.Connection, row: Any) -> Run:
    found = (
        conn.execute(sa.select(schema.chunk.c.records).where(schema.chunk.c.run_id == row.id)).scalars().all()
    )
    return Run(
        row.id, row.series, row.number, row.tier, row.state, row.version, row.is_mc, len(found), _total(found)
    )


def _total(counts: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for records in counts:
        for kind, number in records.items():
            total[kind] = total.get(kind, 0) + number
    return total


def _run(conn: sa.Connection, delivery: Mapping[str, Any], now: float) -> int:
    """Return the run of a delivery, locked; it is made when it is new."""
    table = schema.run
    identity = {"series": delivery["series"], "number": delivery["run"], "tier": delivery["tier"]}
    is_new = insert_new(conn, table, _new_run(identity, delivery, now))
    same = sa.and_(*(table.c[name] == value for name, value in identity.items()))
    row = conn.execute(sa.select(table).where(same).with_for_update()).one()
    if is_new:
        history.record(conn, "run", row.id, "announced", actor=ACTOR, at=now)
    if row.state == "announced":  # new, or registered before its first chunk came
        history.move(conn, table, row.id, "announced", "open", actor=ACTOR, reason="first chunk", at=now)
    for flag in ("is_mc", "is_resampled"):
        if bool(getattr(row, flag)) != bool(delivery.get(flag, False)):
            name = f"{row.series}:{row.number}"
            message = (
                f"run {name} is registered with {flag} {getattr(row, flag)}; this delivery says otherwise"
            )
            raise ConflictError(message, hint="real and simulated data are never mixed: use another series")
    _measured(conn, row, delivery, now)
    return int(row.id)


def _measured(conn: sa.Connection, row: Any, delivery: Mapping[str, Any], now: float) -> None:
    """Keep the measures of a delivery for a run that has none.

    Raises: ConflictError when it has others, and never had these.
    """
    said = {name: delivery[name] for name in MEASURES if delivery.get(name) is not None}
    for name, value in said.items():
        held = getattr(row, name)
        if held not in (None, value) and (name, value) not in measures.former(conn, [row.id]).get(row.id, ()):
            message = f"run {row.series}:{row.number} has {name} {held:g}; this delivery says {value:g}"
            raise ConflictError(message, hint=_MEASURED)
    new = {name: value for name, value in said.items() if getattr(row, name) is None}
    if new:
        measures.measure(conn, row.id, new, now, ACTOR)


def _new_run(identity: Mapping[str, Any], delivery: Mapping[str, Any], now: float) -> dict[str, Any]:
    return dict(identity) | {
        "state": "announced",
        "version": 1,
        "expected": None,
        "end_marker": False,
        "luminosity": delivery.get("luminosity"),
        "livetime": delivery.get("livetime"),
        "is_mc": bool(delivery.get("is_mc", False)),
        "is_resampled": bool(delivery.get("is_resampled", False)),
        "conditions": dict(delivery.get("conditions") or {}),
        "created": now,
    }


def delivery_hash(delivery: Mapping[str, Any]) -> str:
    """Return the identity of a delivery: what was delivered, wherever its files lie."""
    contents = sorted([f["role"], f["size"], f["sha256"]] for f in delivery["files"])
    return content_hash([{name: delivery.get(name) for name in _IDENTITY}, contents])


def _same_chunk(conn: sa.Connection, run_id: int, delivery: Mapping[str, Any]) -> int | None:
    table = schema.chunk
    query = sa.select(table).where(table.c.run_id == run_id, table.c.sequence == delivery["sequence"])
    row = conn.execute(query).first()
    if row is None:
        return None
    if row.delivery_hash != delivery_hash(delivery):
        raise ConflictError(
            f"chunk {row.sequence} of run {_name(delivery)} was delivered with other content",
            hint="deliver new data under the next sequence number",
        )
    return int(row.id)


def _check_sections(conn: sa.Connection, run_id: int, delivery: Mapping[str, Any]) -> None:
    table, first, last = schema.chunk, delivery["first_section"], delivery["last_section"]
    if first > last:
        message = f"the sections {first}..{last} of run {_name(delivery)} run backwards"
        raise FormatError(message, hint="exchange first_section and last_section")
    shared = sa.and_(table.c.first_section <= last, table.c.last_section >= first)
    row = conn.execute(sa.select(table).where(table.c.run_id == run_id, shared)).first()
    if row is not None:
        raise ConflictError(
            f"sections {first}..{last} of run {_name(delivery)} overlap chunk {row.sequence}, "
            f"which holds {row.first_section}..{row.last_section}",
            hint="each section belongs to one chunk: deliver only what is new",
        )


def _reopen(conn: sa.Connection, run_id: int, delivery: Mapping[str, Any], now: float) -> None:
    table = schema.run
    row = conn.execute(sa.select(table).where(table.c.id == run_id)).one()
    if row.state in ("closed", "incomplete"):
        reason = f"late chunk {delivery['sequence']}"
        version = row.version + 1
        history.move(
            conn, table, run_id, row.state, "open", actor=ACTOR, reason=reason, at=now, version=version
        )
    expected = dict(row.expected or {})
    if delivery.get("end_marker"):
        expected["chunks"] = max(delivery["sequence"], expected.get("chunks", 0))
    if delivery.get("expected"):
        expected["records"] = dict(delivery["expected"])
    marked = bool(row.end_marker or delivery.get("end_marker"))
    conn.execute(
        sa.update(table).where(table.c.id == run_id).values(expected=expected or None, end_marker=marked)
    )


def _add_chunk(
    conn: sa.Connection,
    run_id: int,
    delivery: Mapping[str, Any],
    records: Mapping[str, int],
    index_file: str,
    now: float,
) -> int:
    chunk_id = insert_id(
        conn,
        schema.chunk,
        run_id=run_id,
        sequence=delivery["sequence"],
        first_section=delivery["first_section"],
        last_section=delivery["last_section"],
        records=dict(records),
        reader=delivery["reader"],
        index_file=index_file,
        delivery_hash=delivery_hash(delivery),
        created=now,
    )
    data = {"run": _name(delivery), "sequence": delivery["sequence"]}
    history.record(conn, "chunk", chunk_id, "delivered", actor=ACTOR, at=now, data=data)
    return chunk_id


def _add_files(
    conn: sa.Connection, chunk_id: int, delivery: Mapping[str, Any], digests: Mapping[str, Digest], now: float
) -> None:
    rows = []
    for item in delivery["files"]:
        file_id = files.register_delivered(conn, delivery, item["path"], digests[item["path"]], now)
        rows.append({"chunk_id": chunk_id, "file_id": file_id, "role": item["role"]})
    if rows:
        conn.execute(sa.insert(schema.chunk_file), rows)


def _close_if_complete(conn: sa.Connection, run_id: int, now: float) -> None:
    """Close a run whose end marker has come and of whose chunks and records none is missing."""
    table, chunk = schema.run, schema.chunk
    row = conn.execute(sa.select(table).where(table.c.id == run_id)).one()
    query = sa.select(chunk.c.sequence, chunk.c.records).where(chunk.c.run_id == run_id)
    held = {row.sequence: row.records for row in conn.execute(query)}
    expected = row.expected or {}
    total = _total(held.values())
    is_short = any(total.get(kind, 0) < number for kind, number in expected.get("records", {}).items())
    chunks = expected.get("chunks")
    is_missing = not set(range(1, (chunks or 0) + 1)) <= set(held)
    if row.state == "open" and (row.end_marker or "records" in expected) and not (is_missing or is_short):
        reason = f"end marker, {len(held)} chunks"
        history.move(conn, table, run_id, "open", "closed", actor=ACTOR, reason=reason, at=now)


def _name(delivery: Mapping[str, Any]) -> str:
    return f"{delivery['series']}:{delivery['run']}"
