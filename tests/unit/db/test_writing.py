from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from beamwright.db import schema, writing
from beamwright.db.engine import Database


def row(number: int) -> dict[str, Any]:
    names = {"series": "A", "number": number, "tier": "raw\t\\", "state": "announced", "version": 1}
    return names | {
        "end_marker": number % 2 == 0,
        "expected": None,
        "conditions": {"é": [number, None]},
        "created": 1,
    }


@pytest.mark.parametrize("count", [1, 700])
def test_rows_are_read_as_they_were_written(database: Database, count: int) -> None:
    rows = [row(number) for number in range(count)]
    with database.begin() as conn:
        writing.insert(conn, schema.run, rows)
        writing.insert(conn, schema.run, [])
        found = conn.execute(sa.select(schema.run).order_by(schema.run.c.number)).mappings().all()
    assert [{name: one[name] for name in rows[0]} for one in found] == rows
    assert not any(one["is_mc"] or one["is_resampled"] for one in found)


def test_each_row_gets_its_own_values_where_it_is_as_expected(database: Database) -> None:
    with database.begin() as conn:
        writing.insert(conn, schema.run, [row(number) for number in range(4)])
        ids = list(conn.execute(sa.select(schema.run.c.id).order_by(schema.run.c.number)).scalars())
        where = {"id": ids[:3], "state": ["announced", "open", "announced"]}
        documents = [{"n": 0}, {"n": 1}, None]
        new: dict[str, Any] = {"version": [5, 6, 7], "expected": writing.documents(documents)}
        assert writing.update_each(conn, schema.run, where, new) == 2
        query = sa.select(schema.run.c.version, schema.run.c.expected).order_by(schema.run.c.number)
        assert conn.execute(query).all() == [(5, {"n": 0}), (1, None), (7, None), (1, None)]


def test_a_row_that_breaks_a_constraint_is_refused(database: Database) -> None:
    with pytest.raises(sa.exc.IntegrityError), database.begin() as conn:
        writing.insert(conn, schema.run, [row(number % 20) for number in range(21)])
    with database.read() as conn:
        assert conn.execute(sa.select(sa.func.count()).select_from(schema.run)).scalar() == 0


def test_rows_are_found_among_many_values(database: Database) -> None:
    table = schema.run
    with database.begin() as conn:
        writing.insert(conn, table, [row(number) for number in range(1200)])
        query = sa.select(table.c.number)
        found = writing.among(conn, query, table.c.number, range(0, 4000, 2))
        assert sorted(one.number for one in found) == list(range(0, 1200, 2))
        assert writing.among(conn, query, table.c.number, []) == []
