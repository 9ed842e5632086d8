"""Why an answer is empty: values of its expression that nothing has, and the nearest ones that something has.

A value that nobody has yet is no mistake, so the answer stands; but most often it was mistyped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from beamwright.catalog import asking, query
from beamwright.catalog.asking import Question
from beamwright.catalog.query import Condition
from beamwright.catalog.vocabulary import Vocabulary
from beamwright.core.errors import TooSlowError, nearest

SECONDS = 2.0
_NEWEST, _MOST = 100_000, 2000

Looked = tuple[str, str, sa.ColumnElement[Any], Condition]


def unknown(
    conn: sa.Connection, question: Question, said: Mapping[str, str | None] | None = None
) -> list[str]:
    """Return in words which values nothing has; ``said`` are further fields with the value asked for."""
    known = asking.words(conn, question.subject, question.as_of)
    looked = [*_in_tree(known, question.where), *_said(known, said or {})]
    told = []
    for what, value, column, of in looked:
        try:
            with conn.begin_nested(), asking.bounded(conn, Question(question.subject, seconds=SECONDS)):
                if not _is_there(conn, column, of, value):
                    values = _newest(conn, column, of)
                    told.append(f"{what} {value!r}" + (f": {nearest(value, values)}" if values else ""))
        except TooSlowError:
            continue  # it would take longer to say than it is worth
    return list(dict.fromkeys(told))


def _in_tree(known: Vocabulary, where: str | None) -> Iterator[Looked]:
    """Yield the texts that an expression looks for as they are: what is told of them, and where to look."""
    for leaf in query.leaves(query.parse(where)) if where is not None else ():
        name = leaf.name.text
        if isinstance(leaf, query.Compared):
            if name in known.fields and (leaf.form == "list" or leaf.operator.text == "=="):
                texts = [token.value for token in leaf.values if isinstance(token.value, str)]
                yield from (looked for text in texts for looked in _said(known, {name: text}))
        elif name in known.functions:
            columns = known.functions[name].columns
            for parameter, token in known.functions[name].named(leaf).items():
                if parameter in columns and isinstance(token.value, str):
                    yield f"no verdict has the {parameter}", token.value, columns[parameter], sa.true()


def _said(known: Vocabulary, values: Mapping[str, str | None]) -> Iterator[Looked]:
    for name, value in values.items():
        field = known.fields[name]
        if value is not None and field.kind == "text" and not field.values:
            of = sa.true() if field.of is None else field.of
            yield f"no {known.table.name} has the {name}", value, field.column, of


def _is_there(conn: sa.Connection, column: sa.ColumnElement[Any], of: Condition, value: str) -> bool:
    return conn.execute(sa.select(sa.literal(1)).where(column == value, of).limit(1)).first() is not None


def _newest(conn: sa.Connection, column: sa.ColumnElement[Any], of: Condition) -> list[str]:
    """Return the different values of the newest rows; nothing where there are too many to be compared."""
    rows = sa.select(column.label("value")).where(of)
    table = getattr(column, "table", None)
    if isinstance(table, sa.Table) and "id" in table.c:
        rows = rows.order_by(table.c.id.desc())
    sample = rows.limit(_NEWEST).subquery()
    distinct = sa.select(sample.c.value).where(sample.c.value.is_not(None)).distinct()
    values = [str(row.value) for row in conn.execute(distinct.limit(_MOST + 1))]
    return values if len(values) <= _MOST else []
