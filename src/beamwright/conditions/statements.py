"""What is asked again and again, as statements that are put together once: that takes longer than to ask.

Each goes by index to what it wants, whatever the number of sweeps, intervals and versions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from beamwright.core.runs import Interval
from beamwright.db import schema

ENDS = ("run", "section", "event")
FIRST = tuple(f"first_{name}" for name in ENDS)
LAST = tuple(f"last_{name}" for name in ENDS)


@cache
def members() -> sa.Select[Any]:
    """From tag to tag by index, and of each the newest row: the number of sweeps does not count."""
    member = schema.global_tag_member
    further, rows, (id, wanted) = member.alias(), member.alias(), _parameters("id", "version")
    first = sa.select(sa.func.min(member.c.tag_id).label("tag_id")).where(member.c.global_tag_id == id)
    tags = first.cte("tags", recursive=True)
    step = sa.select(sa.func.min(further.c.tag_id)).where(
        further.c.global_tag_id == id, further.c.tag_id > tags.c.tag_id
    )
    tags = tags.union_all(sa.select(step.scalar_subquery()).where(tags.c.tag_id.is_not(None)))
    newest = sa.select(rows.c.tag_version).where(
        rows.c.global_tag_id == id, rows.c.tag_id == tags.c.tag_id, rows.c.version <= wanted
    )
    used = newest.order_by(rows.c.version.desc()).limit(1).scalar_subquery()
    query = sa.select(schema.tag.c.name, tags.c.tag_id, used.label("tag_version"))
    return query.join(tags, schema.tag.c.id == tags.c.tag_id).order_by(schema.tag.c.name)


@cache
def held() -> sa.Select[Any]:
    """Return the question for the intervals that a tag has at a version."""
    return sa.select(schema.iov).where(*_present(schema.iov))


def _present(table: Any) -> list[sa.ColumnElement[bool]]:
    """Return the conditions that an interval belongs to a version of a tag."""
    id, version = _parameters("id", "version")
    kept = sa.or_(table.c.removed.is_(None), table.c.removed > version)
    # The sum keeps the index of versions, of little use here, out of the database's choice.
    return [table.c.tag_id == id, table.c.added + 0 <= version, kept]


@cache
def earlier() -> sa.Select[Any]:
    """The intervals that begin in the last run of those that begin before."""
    table, first = schema.iov, _parameters(*FIRST)
    # The run numbers alone let the index work; the whole positions decide.
    before = _in_series(held()).where(table.c.first_run <= first[0], _begin() < sa.tuple_(*first))
    newest = before.with_only_columns(table.c.first_run).order_by(table.c.first_run.desc()).limit(1)
    return before.where(table.c.first_run == newest.correlate(None).scalar_subquery())


@cache
def inside() -> sa.Select[Any]:
    """The intervals that begin inside."""
    first, last = _parameters(*FIRST), _parameters(*LAST)
    runs = schema.iov.c.first_run.between(first[0], last[0])
    places = (_begin() >= sa.tuple_(*first), _begin() <= sa.tuple_(*last))
    return _in_series(held()).where(runs, *places)


@cache
def reaching(dialect: str) -> sa.Select[Any]:
    """The intervals that begin before any of many places, in the last run of those that do."""
    table, asked = schema.iov, _asked(dialect)
    first = sa.tuple_(*(asked.c[name] for name in FIRST))
    other = table.alias()
    newest = (
        _in_series(sa.select(other.c.first_run).where(*_present(other)), other)
        .where(other.c.first_run <= asked.c.first_run, _begin(other) < first)
        .order_by(other.c.first_run.desc())
        .limit(1)
        .correlate(asked)
    )
    before = sa.and_(table.c.first_run == newest.scalar_subquery(), _begin() < first)
    return _in_series(held()).join(asked, before)


@cache
def among(dialect: str) -> sa.Select[Any]:
    """The intervals that begin inside any of many places."""
    table, asked = schema.iov, _asked(dialect)
    first, last = (sa.tuple_(*(asked.c[name] for name in names)) for names in (FIRST, LAST))
    runs = table.c.first_run.between(asked.c.first_run, asked.c.last_run)
    return _in_series(held()).join(asked, sa.and_(runs, _begin() >= first, _begin() <= last))


def asked(places: Iterable[Interval]) -> str:
    """Return many places as those statements take them: one parameter, however many they are."""
    return json.dumps([[*one.first, *one.last] for one in places])


def _asked(dialect: str) -> sa.CTE:
    """Return the parameter ``asked`` as a table."""
    given = sa.bindparam("asked", type_=sa.Text)
    parts: list[sa.ColumnElement[int]]
    if dialect == "postgresql":
        rows = sa.func.jsonb_array_elements(sa.cast(given, JSONB)).table_valued(sa.column("value", JSONB))
        parts = [sa.cast(rows.c.value[n].astext, sa.BigInteger) for n in range(6)]
    else:
        rows = sa.func.json_each(given).table_valued("value")
        parts = [sa.func.json_extract(rows.c.value, f"$[{n}]", type_=sa.BigInteger) for n in range(6)]
    named = (part.label(name) for part, name in zip(parts, (*FIRST, *LAST), strict=True))
    return sa.select(*named).cte("places")


def _in_series(query: sa.Select[Any], table: Any = schema.iov) -> sa.Select[Any]:
    return query.where(table.c.series == sa.bindparam("series", type_=sa.Text))


def _begin(table: Any = schema.iov) -> Any:
    return sa.tuple_(*(table.c[name] for name in FIRST))


def _parameters(*names: str) -> list[sa.BindParameter[int]]:
    return [sa.bindparam(name, type_=sa.BigInteger) for name in names]
