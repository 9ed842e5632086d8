"""Writing many rows that are all different, and finding them again: what the agents do all the time.

Statements are compiled once for a table and its columns, and values go to the driver as they are: SQLAlchemy
looks at each value of each row, which takes longer than the database.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import psycopg

from beamwright.db import bulk

# COPY pays for itself from so many rows on.
_MANY = 10
_AT_ONCE = 500
_ENCODE = json.JSONEncoder().encode


def insert(
    conn: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]], ids: Sequence[int] = ()
) -> None:
    """Insert rows of the same columns, with ids where they are given; documents are encoded here.

    Raises: sqlalchemy.exc.IntegrityError.
    """
    if not rows:
        return
    if conn.dialect.name == "postgresql" and len(rows) < _MANY and not ids:
        conn.execute(sa.insert(table), list(rows))
        return
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    if ids:
        columns["id"] = ids
    bulk.load(conn, table, _defaults(table) | encoded(table, columns))


def encoded(table: sa.Table, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return columns with their documents as text."""
    kinds = _documents(table)
    return {name: documents(values) if name in kinds else values for name, values in columns.items()}


def documents(values: Sequence[Any]) -> list[str | None]:
    """Return documents as text."""
    return [None if value is None else _ENCODE(value) for value in values]


def update_each(
    conn: sa.Connection,
    table: sa.Table,
    where: Mapping[str, Sequence[Any]],
    values: Mapping[str, Sequence[Any]],
) -> int:
    """Set columns of many rows, each row's own values, where it has others; return how many rows that were.

    Both are columns of one length; documents are text already.
    """
    given = {f"_{name}": column for name, column in where.items()}
    columns = given | {f"new_{name}": column for name, column in values.items()}
    text, order = _update(conn.dialect.name, table, tuple(where), tuple(values))
    if order is not None:
        rows: list[Any] = list(zip(*(columns[name] for name in order), strict=True))
    else:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return conn.exec_driver_sql(text, rows).rowcount


def among(
    conn: sa.Connection,
    query: sa.Select[Any],
    column: sa.Column[Any],
    values: Sequence[Any],
    parameters: Mapping[str, Any] = MappingProxyType({}),
) -> list[Any]:
    """Return the rows of a query whose column has one of the values; these are no part of the statement.

    A query that is asked again and again is made once: then so is everything that follows from it.
    """
    some = _some(query, column)
    parts = (values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE))
    return [row for part in parts for row in conn.execute(some, {"among": part, **parameters}).all()]


@lru_cache(128)
def _some(query: sa.Select[Any], column: sa.Column[Any]) -> sa.Select[Any]:
    return query.where(column.in_(sa.bindparam("among", expanding=True)))


@cache
def _update(
    dialect: str, table: sa.Table, where: tuple[str, ...], names: tuple[str, ...]
) -> tuple[str, tuple[str, ...] | None]:
    """Return the text of a statement, and the order of its parameters where they go by place."""
    conditions = [table.c[name] == sa.bindparam(f"_{name}") for name in where]
    new: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in names}
    statement = sa.update(table).where(*conditions).values(new)
    by_place = dialect == "sqlite"
    kind: sa.Dialect = sqlite.dialect(paramstyle="qmark") if by_place else psycopg.dialect()  # type: ignore[no-untyped-call]
    made = statement.compile(dialect=kind)
    return str(made), tuple(made.positiontup or ()) if by_place else None


@cache
def _documents(table: sa.Table) -> frozenset[str]:
    return frozenset(column.name for column in table.c if isinstance(column.type, sa.JSON))


@cache
def _defaults(table: sa.Table) -> dict[str, Any]:
    """Return the values of columns that rows need not have."""
    columns = [(column.name, column.default) for column in table.c]
    return {name: default.arg for name, default in columns if isinstance(default, sa.ColumnDefault)}
