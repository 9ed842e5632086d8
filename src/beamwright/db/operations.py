"""What an operator asks of a database as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from beamwright.core.errors import ConflictError
from beamwright.db import history, migrations, rows, schema, seals
from beamwright.db.engine import Database
from beamwright.db.migrations import guards

_KIND = "database"


def note(database: Database, name: str, done: str, actor: str, now: float, data: Mapping[str, Any]) -> None:
    """Keep on record what was done to the database."""
    with database.begin() as conn:
        history.record(conn, _KIND, name, done, actor=actor, at=now, data=data)


def description(database: Database) -> dict[str, Any]:
    """Return where a database of any revision is, how large, and what is kept of it."""
    found: dict[str, Any] = {"database": database.name, "schema": database.revision()}
    found["current"] = migrations.HEAD
    with database.read() as conn:
        found |= {"server": _server(conn), "bytes": _size(conn)}
        if found["schema"] == migrations.HEAD:
            newest = seals.head(conn)
            found["history"] = history.last(conn)
            found |= {"sealed": newest["last"] if newest else 0, "head": newest["chain"] if newest else None}
            found |= {name: _latest(conn, name) for name in ("backed-up", "drilled", "drill-failed", "moved")}
    return found


def faults(database: Database) -> list[str]:
    """Return what is wrong with the schema itself: tables, columns or guards that are not there."""
    wanted = {t.name: {c.name for c in t.columns} for t in schema.metadata.sorted_tables}
    with database.read() as conn:
        found = {shape.name: {name for name, _ in shape.columns} for shape in rows.shapes(conn)}
        unguarded = [table for table in guards.guarded() if not guards.has_guard(conn, table)]
    texts = [f"table {name} is missing" for name in sorted(wanted.keys() - found.keys())]
    for name in sorted(wanted.keys() & found.keys()):
        texts += [f"column {name}.{column} is missing" for column in sorted(wanted[name] - found[name])]
    return texts + [f"table {name} has lost the guard that keeps it append-only" for name in unguarded]


def check_empty(url: sa.URL) -> None:
    """Refuse a target that cannot be reached or holds something already.

    Raises: ConflictError, StorageError.
    """
    if url.get_backend_name() == "sqlite":
        if Path(str(url.database)).exists():
            raise ConflictError(
                f"{url.database} exists already", hint="name a new file, or move that one away"
            )
        return
    target = Database(url)
    try:
        with target.read() as conn:
            names = sa.inspect(conn).get_table_names()
    finally:
        target.close()
    if names:
        raise ConflictError(f"database {target.name} has {len(names)} tables", hint="name an empty one")


def settings_form(url: sa.URL, root: Path) -> str:
    """Return an address as settings hold it: files below the workspace relative to it."""
    if url.get_backend_name() != "sqlite":
        return url.set(drivername="postgresql").render_as_string(hide_password=False)
    path = Path(str(url.database))
    shown = path.relative_to(root) if path.is_relative_to(root) else path
    return f"sqlite:///{shown}"


def _server(conn: sa.Connection) -> str:
    if conn.dialect.name == "postgresql":
        return f"PostgreSQL {conn.exec_driver_sql('SHOW server_version').scalar()}"
    return f"SQLite {conn.exec_driver_sql('SELECT sqlite_version()').scalar()}"


def _size(conn: sa.Connection) -> int:
    if conn.dialect.name == "postgresql":
        return int(conn.scalar(sa.select(sa.func.pg_database_size(sa.func.current_database()))) or 0)
    pages, size = (conn.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("page_count", "page_size"))
    return int(pages or 0) * int(size or 0)


def _latest(conn: sa.Connection, done: str) -> str | None:
    table = schema.history
    at = conn.scalar(sa.select(sa.func.max(table.c.at)).where(table.c.kind == _KIND, table.c.target == done))
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds") if at is not None else None
