"""Writing many rows at once, column by column: COPY on PostgreSQL, statements of many rows on SQLite."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from typing import Any, NoReturn

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import REGCLASS

from beamwright.core.errors import ConflictError, StorageError

_SPECIAL = re.compile(r"[\\\t\n\r]")
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_NULL = r"\N"
_LATE = object()

# SQLite works on so many rows at once while other threads go on; it takes so many values in a statement.
_ROWS, _VALUES = 500, 30_000

# Kibibytes of its cache, and pages of its log after which it brings them into the file.
_WIDE, _NARROW = (1 << 18, 1 << 15), (2000, 1000)


@dataclass(frozen=True)
class Rows:
    """Rows in the form in which their database takes them; one column may be filled in late."""

    table: sa.Table
    names: tuple[str, ...]
    late: str | None
    number: int
    content: list[Any]


def prepare(dialect: str, table: sa.Table, columns: Mapping[str, Any], late: str | None = None) -> Rows:
    """Bring rows into the form of a database; needs no connection.

    ``columns`` are each a sequence of values, or one value for all rows; at least one is a sequence. JSON is
    text already, flags are bool. ``late`` is a column of integers that ``put`` gets.
    """
    number = next(len(values) for values in columns.values() if _is_many(values))
    make = _lines if dialect == "postgresql" else _flat
    names = tuple(column.name for column in table.c if column.name in columns or column.name == late)
    return Rows(table, names, late, number, make(table, names, columns, number) if number else [])


def put(conn: sa.Connection, rows: Rows, late: Sequence[int] = ()) -> None:
    """Insert rows, with the values of the late column.

    Raises: sqlalchemy.exc.IntegrityError when a row breaks a constraint; then none is there.
    """
    if rows.number:
        (_copy if conn.dialect.name == "postgresql" else _insert)(conn, rows, late)


def load(conn: sa.Connection, table: sa.Table, columns: Mapping[str, Any]) -> None:
    """Insert rows, given as columns like those of ``prepare``.

    Raises: sqlalchemy.exc.IntegrityError when a row breaks a constraint; then none is there.
    """
    put(conn, prepare(conn.dialect.name, table, columns))


def widen(conn: sa.Connection, is_wide: bool = True) -> None:
    """Let a connection to SQLite hold the pages of large indexes, or end it.

    Otherwise each is written twice in a transaction, and once more into the file when it ends; what is
    committed stands in the log, synced, either way.
    """
    if conn.dialect.name == "sqlite":
        kibibytes, pages = _WIDE if is_wide else _NARROW
        conn.exec_driver_sql(f"PRAGMA cache_size=-{kibibytes}")
        conn.exec_driver_sql(f"PRAGMA wal_autocheckpoint={pages}")
        if not is_wide:
            conn.exec_driver_sql("PRAGMA shrink_memory")


def analyse(conn: sa.Connection, tables: Iterable[sa.Table]) -> None:
    """Let PostgreSQL look at tables that have grown: until it does, it plans for what they were."""
    if conn.dialect.name != "postgresql":
        return
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


def _flat(table: sa.Table, names: Sequence[str], columns: Mapping[str, Any], number: int) -> list[Any]:
    """Return all values, row by row; those of a late column are None."""
    width = len(names)
    found = [None] * (width * number)
    for at, name in enumerate(names):
        values = columns.get(name)
        if values is not None:
            found[at::width] = values if _is_many(values) else [values] * number
    return found


def _insert(conn: sa.Connection, rows: Rows, late: Sequence[int]) -> None:
    width, values = len(rows.names), rows.content
    if rows.late is not None:
        values[rows.names.index(rows.late) :: width] = late
    at_once = max(1, min(_ROWS, _VALUES // width))
    for start in range(0, rows.number, at_once):
        part = tuple(values[start * width : (start + at_once) * width])
        conn.exec_driver_sql(_statement(rows.table, rows.names, len(part) // width), part)


@lru_cache(64)
def _statement(table: sa.Table, names: tuple[str, ...], number: int) -> str:
    """Return the statement that inserts so many rows; the order of its columns is the table's."""
    one = _single(table, names)
    values = one[one.rindex("(") :]
    return one + f", {values}" * (number - 1)


@lru_cache(256)
def _single(table: sa.Table, names: tuple[str, ...]) -> str:
    return str(sa.insert(table).compile(dialect=sqlite.dialect(paramstyle="qmark"), column_keys=list(names)))


def _lines(table: sa.Table, names: Sequence[str], columns: Mapping[str, Any], number: int) -> list[str]:
    """Return the lines of COPY without a late column, which comes first."""
    texts = [
        _texts(table.c[name], v) if _is_many(v) else repeat(next(iter(_texts(table.c[name], [v]))), number)
        for name in names
        if (v := columns.get(name, _LATE)) is not _LATE
    ]
    return list(map("\t".join, zip(*texts, strict=True)))


def _copy(conn: sa.Connection, rows: Rows, late: Sequence[int]) -> None:
    from psycopg import sql

    first = [] if rows.late is None else [rows.late]
    names = [*first, *(name for name in rows.names if name != rows.late)]
    listed = sql.SQL(", ").join(map(sql.Identifier, names))
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(rows.table.name), listed)
    lines = [f"{n}\t{line}" for n, line in zip(late, rows.content, strict=True)] if first else rows.content
    driver = conn.connection.driver_connection
    assert driver is not None
    with driver.cursor() as cursor:
        try:
            with cursor.copy(statement) as copy:
                copy.write("\n".join(lines) + "\n")
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
    is_full = sqlstate == "53100"
    hint = "make room where its files lie, then give the same again" if is_full else "check that it runs"
    raise StorageError(f"the database server ended a load: {error}", hint=hint) from error
