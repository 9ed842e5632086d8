"""Writing many rows at once: COPY on PostgreSQL, one prepared statement on SQLite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import sqlalchemy as sa

from beamwright.core.errors import ConflictError, StorageError

Values = Sequence[Any]


def load(conn: sa.Connection, table: sa.Table, columns: Sequence[str], rows: Iterable[Values]) -> None:
    """Insert rows, given as values in the order of ``columns``; JSON is text already, flags are bool.

    Raises: sqlalchemy.exc.IntegrityError when one breaks a constraint; then none is there.
    """
    if conn.dialect.name == "postgresql":
        _copy(conn, table, columns, rows)
        return
    found = list(rows)
    if found:
        statement = sa.insert(table).compile(dialect=conn.dialect, column_keys=list(columns))
        names = statement.positiontup or []
        place = [columns.index(name) for name in names]
        ordered = found if place == list(range(len(columns))) else [[row[n] for n in place] for row in found]
        conn.exec_driver_sql(str(statement), [tuple(row) for row in ordered])


def reserve(conn: sa.Connection, table: sa.Table, number: int) -> list[int]:
    """Return so many ids for new rows, which nobody else will get."""
    if number <= 0:
        return []
    if conn.dialect.name == "postgresql":
        sequence = sa.func.pg_get_serial_sequence(table.name, "id")
        many = sa.func.generate_series(1, number).table_valued("n")
        drawn = sa.select(sa.func.nextval(sa.cast(sequence, sa.Text)).label("id")).select_from(many)
        return [int(found) for found in conn.execute(drawn).scalars()]
    # The one writer of SQLite holds the lock already, and no row of these tables is ever deleted.
    last = int(conn.execute(sa.select(sa.func.max(table.c.id))).scalar() or 0)
    return list(range(last + 1, last + number + 1))


def _copy(conn: sa.Connection, table: sa.Table, columns: Sequence[str], rows: Iterable[Values]) -> None:
    from psycopg import sql

    names = sql.SQL(", ").join(sql.Identifier(name) for name in columns)
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table.name), names)
    driver = conn.connection.driver_connection
    assert driver is not None
    with driver.cursor() as cursor:
        try:
            with cursor.copy(statement) as copy:
                for row in rows:
                    copy.write_row(row)
        except driver.Error as error:
            _raise(error)


def _raise(error: Exception) -> NoReturn:
    """Give what the driver says of a broken constraint the form that it has elsewhere."""
    sqlstate = str(getattr(error, "sqlstate", None) or "")
    if sqlstate.startswith("23"):
        raise sa.exc.IntegrityError("COPY", None, error) from error
    if sqlstate in ("40001", "40P01", "55P03"):
        raise ConflictError("others write the same rows", hint="try again", again=True) from error
    raise StorageError(f"the database ended a load: {error}", hint="check that the server runs") from error
