from __future__ import annotations

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from beamwright.catalog.query import compile
from beamwright.catalog.vocabulary import COLLECTIONS, FILES, RUNS
from beamwright.core.errors import UsageError
from beamwright.db import schema
from beamwright.db.engine import Database, insert_id


@pytest.fixture
def numbers(database: Database) -> Database:
    with database.begin() as conn:
        for number in range(1, 13):
            insert_id(
                conn,
                schema.run,
                series="A" if number < 10 else "B",
                number=number,
                tier="raw" if number % 2 else "dst",
                state="open",
                version=1,
                expected=None,
                end_marker=number > 6,
                is_mc=number == 12,
                is_resampled=False,
                conditions={},
                created=float(number),
                livetime=number / 2,
            )
    return database


def found(database: Database, text: str) -> list[int]:
    with database.read() as conn:
        query = sa.select(schema.run.c.number).where(compile(text, RUNS)).order_by(schema.run.c.number)
        return list(conn.execute(query).scalars())


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("run == 3", [3]),
        ("run in 3..5", [3, 4, 5]),
        ("run in [1, 12, 77]", [1, 12]),
        ("series in ['B', 'C']", [10, 11, 12]),
        ("tier == 'dst' and run > 8", [10, 12]),
        ('tier=="dst"and run>8', [10, 12]),
        ("run < 2 or run >= 12", [1, 12]),
        ("not (run < 11 or is_mc)", [11]),
        ("is_mc", [12]),
        ("is_mc == false and run >= 11", [11]),
        ("run == 1 or run == 2 and tier == 'raw'", [1]),
        ("(run == 1 or run == 2) and tier == 'dst'", [2]),
        ("livetime >= 5.5", [11, 12]),
        ("livetime in 1.5..2.5", [3, 4, 5]),
        ("series ~ 'B*' and tier ~ '?st'", [10, 12]),
        ("series ~ 'b*'", []),
        ("series ~ '.'", []),
        ("run != 1 and run < 3", [2]),
        ("series == 'A'' or ''1'' == ''1'", None),
        ("series == \"x' OR '1'='1\"", []),
        ("  run == 3  ", [3]),
    ],
)
def test_an_expression_finds_what_it_says(numbers: Database, text: str, runs: list[int] | None) -> None:
    if runs is None:
        with pytest.raises(UsageError):
            compile(text, RUNS)
    else:
        assert found(numbers, text) == runs


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("teir == 'dst'", 1, "did you mean tier"),
        ("tier == 'dst' and rum > 3", 19, "did you mean run"),
        ("tier = 'dst'", 6, "write tier == value"),
        ("tier ; 'dst'", 6, "no part of the language"),
        ("tier == dst", 9, "text stands in quotes: 'dst'"),
        ("tier == 3", 9, "it holds text"),
        ("run == 'x'", 8, "it holds a number"),
        ("run == true", 8, "it holds a number"),
        ("is_mc == 1", 10, "true or false"),
        ("run in 3", 9, "'..' is missing"),
        ("run in [3", 10, "']' is missing"),
        ("(run == 3", 10, "')' is missing"),
        ("run == 3 run == 4", 10, "join conditions"),
        ("run", 4, "has no operator"),
        ("run ~ 3", 5, "~ compares text"),
        ("", 1, "a name is missing"),
        ("run == 3 and", 13, "a name is missing"),
        ("run == 3; drop table run", 9, "no part of the language"),
        ("series == 'open", 11, "has no end"),
    ],
)
def test_an_error_points_at_its_column(text: str, column: int, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        compile(text, RUNS)
    assert caught.value.data["column"] == column
    assert f"column {column}:" in caught.value.message
    assert words in str(caught.value)


def test_length_and_depth_are_bounded() -> None:
    for text in (
        "run == 1 or " * 1000 + "run == 1",
        "(" * 60 + "run == 1" + ")" * 60,
        "not " * 200 + "is_mc",
    ):
        with pytest.raises(UsageError, match="allowed|deeply"):
            compile(text, RUNS)


def test_a_range_field_is_met_or_not() -> None:
    meets = str(compile("run in 5..7", COLLECTIONS).compile(compile_kwargs={"literal_binds": True}))
    assert "last_run >= 5" in meets and "first_run <= 7" in meets


@given(st.text(max_size=60))
def test_any_text_is_an_expression_or_a_clear_error(text: str) -> None:
    try:
        compile(text, FILES)
    except UsageError as error:
        assert "column" in error.message or "characters" in error.message


@given(st.text(alphabet="run =<>~in[]()'\"3.,andotrxyz_-", max_size=40))
def test_text_that_looks_like_one_as_well(text: str) -> None:
    try:
        compile(text, RUNS)
    except UsageError as error:
        assert "column" in error.message
