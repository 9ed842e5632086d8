"""Writing many rows at once, column by column: COPY on PostgreSQL, one prepared statement on SQLite."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, NoReturn

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import REGCLASS

from beamwright.core.errors import ConflictError, StorageError

_SPECIAL = re.compile(r"[\\\t\n\r]")
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_NULL = r"\N"


def load(conn: sa.Connection, table: sa.Table, columns: Mapping[str, Any]) -> None:
    """Insert rows, given as columns: each a sequence of values, or one value for all rows.

    At least one column is a sequence. JSON is text already, flags are bool.

    Raises: sqlalchemy.exc.IntegrityError when a row breaks a constraint; then none is there.
    """
    number = next(len(values) for values in columns.values() if _is_many(values))
    if number == 0:
        return
    if conn.dialect.name == "postgresql":
        _copy(conn, table, columns, number)
        return
    statement = sa.insert(table).compile(dialect=conn.dialect, column_keys=list(columns))
    ordered = [columns[name] for name in statement.positiontup or ()]
    rows = zip(*(v if _is_many(v) else repeat(v, number) for v in ordered), strict=True)
    conn.exec_driver_sql(str(statement), list(rows))


def analyse(conn: sa.Connection, tables: Iterable[sa.Table]) -> None:
    """Let PostgreSQL look at tables that have grown: until it does, it plans for what they were."""
    from psycopg import sql

    driver = conn.connection.driver_connection
    assert driver is not None
    with driver.cursor() as cursor:
        for table in tables:
            cursor.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(table.name)))


def reserve(conn: sa.Connection, table: sa.Table, number: int) -> list[int]:
    """Return so many ids for new rows, which nobody else will get."""
    if number <= 0:
        return []
    if conn.dialect.name == "postgresql":
        return _drawn(conn, table, number)
    # The one writer of SQLite holds the lock already, and no row of these tables is ever deleted.
    last = int(conn.execute(sa.select(sa.func.max(table.c.id))).scalar() or 0)
    return list(range(last + 1, last + number + 1))


def _drawn(conn: sa.Connection, table: sa.Table, number: int) -> list[int]:
    """Draw numbers from a sequence of PostgreSQL; they follow each other unless somebody else draws, too."""
    named = sa.func.pg_get_serial_sequence(table.name, "id")
    # A query of its own, as the name would be looked up anew for each number.
    sequence = sa.select(sa.cast(named, REGCLASS)).scalar_subquery()
    many = sa.func.generate_series(1, number).table_valued("n")
    drawn = sa.select(sa.func.nextval(sequence).label("id")).select_from(many).subquery()
    ends = (sa.func.min(drawn.c.id), sa.func.max(drawn.c.id))
    others = sa.case((ends[1] - ends[0] >= number, sa.func.array_agg(drawn.c.id)))
    first, last, scattered = conn.execute(sa.select(*ends, others)).one()
    return sorted(scattered) if scattered else list(range(first, last + 1))


def _is_many(values: Any) -> bool:
    return isinstance(values, list | tuple | range)


def _copy(conn: sa.Connection, table: sa.Table, columns: Mapping[str, Any], number: int) -> None:
    from psycopg import sql

    names = sql.SQL(", ").join(sql.Identifier(name) for name in columns)
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table.name), names)
    texts = [
        _texts(table.c[name], v) if _is_many(v) else repeat(next(iter(_texts(table.c[name], [v]))), number)
        for name, v in columns.items()
    ]
    block = "\n".join(map("\t".join, zip(*texts, strict=True))) + "\n"
    driver = conn.connection.driver_connection
    assert driver is not None
    with driver.cursor() as cursor:
        try:
            with cursor.copy(statement) as copy:
                copy.write(block)
        except driver.Error as error:
            _raise(error)


def _texts(column: sa.Column[Any], values: Sequence[Any]) -> Iterable[str]:
    """Return a column in COPY's text form."""
    if column.nullable and None in values:
        plain = [value for value in values if value is not None]
        found = iter(_texts(sa.Column(column.name, column.type, nullable=False), plain))
        return [_NULL if value is None else next(found) for value in values]
    if isinstance(column.type, sa.Boolean):
        return ["t" if value else "f" for value in values]
    if isinstance(column.type, sa.Integer):
        return map(str, values)
    if isinstance(column.type, sa.Float):
        return map(repr, map(float, values))
    return _escaped(values)


def _escaped(values: Sequence[str]) -> Iterator[str]:
    # Hardly any text needs it, and one look at all of them is quick.
    if _SPECIAL.search("".join(values)) is None:
        return iter(values)
    return (value.translate(_ESCAPES) for value in values)


def _raise(error: Exception) -> NoReturn:
    """Give what the driver says of a broken constraint the form that it has elsewhere."""
    sqlstate = str(getattr(error, "sqlstate", None) or "")
    if sqlstate.startswith("23"):
        raise sa.exc.IntegrityError("COPY", None, error) from error
    if sqlstate in ("40001", "40P01", "55P03"):
        raise ConflictError("others write the same rows", hint="try again", again=True) from error
    raise StorageError(f"the database ended a load: {error}", hint="check that the server runs") from error
