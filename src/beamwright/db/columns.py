"""The kinds of columns that all tables are made of, and the registry that the tables enter."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}

metadata = sa.MetaData(naming_convention=NAMING)

Label = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def identity() -> sa.Column[int]:
    """Return the column ``id`` of a table whose rows are numbered."""
    return sa.Column("id", Id, primary_key=True, autoincrement=True)


def reference(name: str, target: str, **options: Any) -> sa.Column[int]:
    """Return a column that names a row of another table."""
    options.setdefault("nullable", False)
    return sa.Column(name, Id, sa.ForeignKey(target), **options)


def text(name: str, **options: Any) -> sa.Column[str]:
    """Return a column of text."""
    options.setdefault("nullable", False)
    return sa.Column(name, sa.Text, **options)


def label(name: str, **options: Any) -> sa.Column[str]:
    """Return a column of names: they are sorted by their characters, wherever the database stands.

    So an index finds what begins with some text, as it does for any text on SQLite.
    """
    options.setdefault("nullable", False)
    return sa.Column(name, Label, **options)


def integer(name: str, **options: Any) -> sa.Column[int]:
    """Return a column of 64-bit numbers."""
    options.setdefault("nullable", False)
    return sa.Column(name, sa.BigInteger, **options)


def flag(name: str) -> sa.Column[bool]:
    """Return a column that is true or false."""
    return sa.Column(name, sa.Boolean(create_constraint=False), nullable=False, default=False)


def document(name: str, **options: Any) -> sa.Column[Any]:
    """Return a column of JSON documents, as text."""
    options.setdefault("nullable", False)
    return sa.Column(name, sa.JSON(none_as_null=True), **options)


def moment(name: str, **options: Any) -> sa.Column[float]:
    """Return a column of seconds since the epoch."""
    options.setdefault("nullable", False)
    return sa.Column(name, sa.Float(53), **options)


def interval() -> list[sa.Column[Any]]:
    """Return the columns of an interval: series and six numbers."""
    names = ("first_run", "first_section", "first_event", "last_run", "last_section", "last_event")
    return [text("series"), *(integer(name) for name in names)]


DIGITS = 8


def start_of_hash(column: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """Return the first digits of a hash.

    Their index takes a fifth of the room that one of whole hashes does. New hashes come anywhere in it, so
    that it is its size that a long registration feels.
    """
    return sa.func.substr(column, sa.literal_column("1"), sa.literal_column(str(DIGITS)))


def begins(column: sa.ColumnElement[str], text: str) -> sa.ColumnElement[bool]:
    """Return the condition on the start of a hash that its index finds: it begins like this text."""
    start, first = start_of_hash(column), text[:DIGITS]
    return start == first if len(first) == DIGITS else start.between(first, first + "g")


def known(column: str) -> sa.Index:
    """Return an index of the rows that have a value in a column; most have none, and cost nothing."""
    is_known = sa.column(column).is_not(None)
    return sa.Index(None, column, sqlite_where=is_known, postgresql_where=is_known)
