"""Whatever a column can hold goes from one database to the other and back to the letter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from beamwright.db import rows
from beamwright.db.engine import Database

# PostgreSQL holds every text but NUL; half pairs are no text at all.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
LINES = st.text("\\\t\n\r\b\f\vNnrtx0'\";. aé日", max_size=12)
WORDS = st.one_of(TEXT, LINES)
NUMBERS = st.integers(-(2**63), 2**63 - 1)
REALS = st.floats(allow_nan=False, width=64)
ROWS = st.lists(
    st.tuples(WORDS, st.none() | WORDS, st.none() | NUMBERS, st.none() | REALS, st.none() | st.booleans(),
              st.none() | st.binary(max_size=20)),
    unique_by=lambda row: row[0], max_size=8,
)  # fmt: skip

metadata = sa.MetaData()
TABLE = sa.Table(
    "anything",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("text", sa.Text),
    sa.Column("number", sa.BigInteger),
    sa.Column("real", sa.Float(53)),
    sa.Column("flag", sa.Boolean),
    sa.Column("data", sa.LargeBinary),
)
COLUMNS = (
    ("name", "text"),
    ("text", "text"),
    ("number", "int"),
    ("real", "real"),
    ("flag", "flag"),
    ("data", "bytes"),
)
SHAPE = rows.Shape("anything", COLUMNS, ("name",))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, postgresql_cluster: str) -> Iterator[list[Database]]:
    server = Database(postgresql_cluster)
    with server.begin() as conn:
        conn.exec_driver_sql("CREATE SCHEMA anything")
    path: Path = tmp_path_factory.mktemp("rows") / "rows.db"
    made = [Database(path), server]
    for database in made:
        with database.begin() as conn:
            if database.is_postgresql:
                conn.exec_driver_sql("SET LOCAL search_path TO anything")
            metadata.create_all(conn)
            assert rows.shapes(conn) == [SHAPE]
    yield made
    with server.begin() as conn:
        conn.exec_driver_sql("DROP SCHEMA anything CASCADE")
    for database in made:
        database.close()


@settings(max_examples=60)
@given(ROWS)
def test_lines_are_the_same_on_both_and_give_the_same_values(
    both: list[Database], given: list[object]
) -> None:
    sqlite, postgresql = both
    names = [name for name, _ in COLUMNS]
    with sqlite.begin() as one, postgresql.begin() as other:
        other.exec_driver_sql("SET LOCAL search_path TO anything")
        for conn in (one, other):
            conn.execute(sa.delete(TABLE))
        if given:
            one.execute(sa.insert(TABLE), [dict(zip(names, row, strict=True)) for row in given])  # type: ignore[call-overload]
        rows.write(other, SHAPE, rows.read(one, SHAPE))
        lines = b"".join(rows.read(one, SHAPE))
        assert lines == b"".join(rows.read(other, SHAPE))
        assert rows.compare(one, other, SHAPE)["rows"] == len(given) == lines.count(b"\n")
        wanted = one.execute(sa.select(TABLE)).all()
        found = other.execute(sa.select(TABLE)).all()
        assert sorted(map(repr, found)) == sorted(map(repr, wanted)) or set(found) == set(wanted)
        one.execute(sa.delete(TABLE))
        rows.write(one, SHAPE, rows.read(other, SHAPE))
        assert b"".join(rows.read(one, SHAPE)) == lines


@settings(max_examples=100)
@given(ROWS)
def test_keys_of_lines_order_as_they_are_read(rows_given: list[tuple[str, *tuple[object, ...]]]) -> None:
    names = sorted((row[0] for row in rows_given), key=str.encode)
    encode = [rows._ENCODE[kind] for _, kind in COLUMNS]
    lines = [
        ("\t".join(put(v) for put, v in zip(encode, (name, *row[1:]), strict=True)) + "\n").encode()
        for name, row in zip(names, rows_given, strict=True)
    ]
    keys = [rows.sort_key(SHAPE)(line) for line in lines]
    assert keys == sorted(keys) == [(name.encode(),) for name in names]
