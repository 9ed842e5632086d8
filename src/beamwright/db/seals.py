"""Seals over the history: Merkle roots of its lines, each chained to the one before, made behind the writers.

A line's number says nothing about when its transaction ends: a lower number may appear after a higher one was
read. Only lines up to a watermark are sealed, below which no transaction can add one any more.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from beamwright.core.canonical import content_hash, merkle_root
from beamwright.db import history
from beamwright.db.engine import Database, insert_id
from beamwright.db.schema import history as lines
from beamwright.db.schema import seal as table

LINES = 5000
PATIENCE_SECONDS = 30.0
_POLL_SECONDS = 0.02
_SHORTEST = 8
_LOCK = 0x7365616C
_COLUMNS = ("id", "at", "kind", "object", "source", "target", "actor", "reason", "data")

_pg_locks = sa.table("pg_locks", *map(sa.column, ("relation", "mode", "virtualtransaction")))


def watermark(database: Database, patience: float = PATIENCE_SECONDS) -> int:
    """Return a line's number up to which the history will not grow any more; 0 when that is not to be had.

    Whoever could still add a line below the newest one has locked the table by now, on PostgreSQL; when all
    of those have ended, nobody can. On SQLite there is one writer, whose lines come after all that are there.
    """
    with database.read() as conn:
        newest = history.last(conn)
    if not database.is_postgresql or not newest:
        return newest
    limit = time.monotonic() + patience
    older = writers(database)
    while older:
        if time.monotonic() > limit:
            return 0
        time.sleep(_POLL_SECONDS)
        older &= writers(database)
    return newest


def seal(database: Database, now: float, patience: float = PATIENCE_SECONDS, most: int | None = None) -> int:
    """Seal what is settled and not sealed yet, in at most so many seals; return the number of lines."""
    settled = watermark(database, patience)
    total = made = 0
    while made != most and (done := database.transact(lambda conn: _seal_some(conn, settled, now))):
        total, made = total + done, made + 1
    return total


def head(conn: sa.Connection) -> dict[str, Any] | None:
    """Return the newest seal; its ``chain`` stands for the whole history up to its last line."""
    row = conn.execute(sa.select(table).order_by(table.c.id.desc()).limit(1)).first()
    return row._asdict() if row else None


def leads_through(conn: sa.Connection, chain: str) -> bool:
    """Tell whether a head that was noted, or its beginning, is on the chain."""
    noted = table.c.chain.startswith(chain, autoescape=True)
    return len(chain) >= _SHORTEST and conn.execute(sa.select(table.c.id).where(noted)).first() is not None


def open_lines(conn: sa.Connection) -> int:
    """Return the number of lines after the newest seal."""
    newest = head(conn)
    query = sa.select(sa.func.count()).select_from(lines)
    return int(conn.execute(query.where(lines.c.id > (newest["last"] if newest else 0))).scalar_one())


def _seal_some(conn: sa.Connection, settled: int, now: float) -> int:
    if conn.dialect.name == "postgresql":
        conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    newest = head(conn) or {"last": 0, "chain": ""}
    first = newest["last"] + 1
    chosen = sa.select(lines).where(lines.c.id.between(first, settled)).order_by(lines.c.id)
    found = conn.execute(chosen.limit(LINES)).all()
    if not found:
        return 0
    last = settled if len(found) < LINES else found[-1].id
    root = _root(found)
    document = [newest["chain"], first, last, len(found), root]
    made = {"first": first, "last": last, "lines": len(found), "root": root}
    insert_id(conn, table, **made, chain=content_hash(document), created=now)
    return len(found)


def _root(found: Iterable[Any]) -> str:
    return merkle_root(content_hash([getattr(row, name) for name in _COLUMNS]) for row in found)


def writers(database: Database) -> set[str]:
    """Return the transactions that have written to the history, or are about to."""
    chosen = sa.select(_pg_locks.c.virtualtransaction).where(
        _pg_locks.c.relation == sa.cast(sa.literal(lines.name), sa.dialects.postgresql.REGCLASS),
        _pg_locks.c.mode == "RowExclusiveLock",
    )
    with database.read() as conn:
        return set(conn.execute(chosen).scalars())
