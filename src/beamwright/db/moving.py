"""Moving a whole database: streamed table by table, verified row by row, all of it or nothing."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from beamwright.core.errors import ConflictError, IntegrityError, StorageError
from beamwright.db import migrations, rows, schema
from beamwright.db.engine import Database
from beamwright.durable import PARTIAL, fsync_directory, link_new

Told = Callable[[str], None]


def _quiet(_message: str) -> None:
    return None


def move(
    source: Database,
    target: sa.URL,
    now: float,
    tell: Told = _quiet,
    switch: Callable[[], object] = lambda: None,
) -> dict[str, dict[str, Any]]:
    """Copy every table into an empty database and verify it; return rows and sha256 by table.

    Nobody can write to the source meanwhile, nor when it was left: then ``switch`` says where everything is.
    Its tables are not changed. When anything goes wrong before that the target is left as it was.

    Raises: ConflictError when the source is in use or the target is not empty, FormatError, IntegrityError.
    """
    source.check()
    with standing_still(source, now) as here:
        with filling(target, migrations.HEAD) as there:
            verified = _copied(here, there, tell)
        switch()
        source.leave(here)
    return verified


def _copied(here: sa.Connection, there: sa.Connection, tell: Told) -> dict[str, dict[str, Any]]:
    found = rows.shapes(here)
    verified: dict[str, dict[str, Any]] = {}
    for shape in found:
        sent = rows.Tally()
        rows.write(there, shape, sent.through(rows.read(here, shape)))
        arrived = rows.Tally().over(rows.read(there, shape)).document()
        if arrived != sent.document():
            rows.compare(here, there, shape)
            raise IntegrityError(f"table {shape.name} arrived otherwise than it was sent", hint="try again")
        verified[shape.name] = arrived
        if sent.rows:
            tell(f"{shape.name}: {sent.rows} rows, the same on both sides")
    rows.set_sequences(there, found)
    return verified


@contextmanager
def standing_still(database: Database, now: float) -> Iterator[sa.Connection]:
    """Give a connection to a database that nobody else can write to meanwhile.

    Raises: ConflictError when agents hold claims, or writers do not come to an end.
    """
    with database.begin() as conn:
        if database.is_postgresql:
            from psycopg import sql

            tables = sql.SQL(", ").join(sql.Identifier(shape.name) for shape in rows.shapes(conn))
            statement = sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(tables)
            conn.exec_driver_sql(statement.as_string())
        held = sa.select(schema.claim).where(schema.claim.c.deadline > now).order_by(schema.claim.c.name)
        for row in conn.execute(held):
            message = f"{row.holder} works in database {database.name} (it holds {row.name!r})"
            raise ConflictError(message, hint="stop it, or wait until its claim has run out")
        yield conn


@contextmanager
def filling(url: sa.URL, revision: str) -> Iterator[sa.Connection]:
    """Give a connection to an empty database with the tables of a revision; kept when no error passes.

    Raises: ConflictError when the database is not empty.
    """
    fill = _filling_file if url.get_backend_name() == "sqlite" else _filling_server
    with fill(url) as conn:
        migrations.upgrade(conn, revision)
        yield conn


@contextmanager
def _filling_server(url: sa.URL) -> Iterator[sa.Connection]:
    target = Database(url)
    try:
        with target.begin() as conn:
            names = sa.inspect(conn).get_table_names()
            if names:
                message = f"database {target.name} is not empty: it has {len(names)} tables ({names[0]}, …)"
                raise ConflictError(message, hint="name an empty one (createdb NAME)")
            yield conn
    finally:
        target.close()


@contextmanager
def _filling_file(url: sa.URL) -> Iterator[sa.Connection]:
    final = Path(str(url.database))
    if final.exists():
        raise ConflictError(f"{final} exists already", hint="name a new file, or move that one away")
    if not final.parent.is_dir():
        raise StorageError(f"there is no folder {final.parent}", hint="make it first")
    part = final.parent / f".{final.name}.{secrets.token_hex(6)}{PARTIAL}"
    target = Database(part)
    try:
        with target.begin() as conn:
            yield conn
        target.close()  # writes the log back into the file and removes it
        publish(part, final)
    finally:
        target.close()
        for left in part.parent.glob(f"{part.name}*"):
            left.unlink()


def publish(part: Path, final: Path) -> None:
    """Give a finished file its name, durably.

    Raises: ConflictError when the name is taken.
    """
    descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        link_new(part, final)
    except FileExistsError as error:
        raise ConflictError(f"{final} exists already", hint="choose another name") from error
    fsync_directory(final.parent)


def totals(verified: Mapping[str, Mapping[str, Any]]) -> tuple[int, int]:
    """Return the numbers of tables and of rows."""
    return len(verified), sum(int(tally["rows"]) for tally in verified.values())
