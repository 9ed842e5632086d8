"""News of the history: each line once, whatever the order in which transactions end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import sqlalchemy as sa

from beamwright.db import history, news
from beamwright.db.engine import Database


def tell(conn: sa.Connection, target: str) -> None:
    history.record(conn, "job", 1, target, actor="a", at=0.0)


def write(database: Database, *targets: str) -> None:
    with database.begin() as conn:
        for target in targets:
            tell(conn, target)


def test_each_line_is_told_once_and_what_was_there_is_not(database: Database) -> None:
    write(database, "old")
    reader = news.Reader(database)
    assert reader.take() == set()
    write(database, "one", "two")
    assert reader.take() == {("job", "one"), ("job", "two")}
    assert reader.take() == reader.take() == set()
    write(database, "one")
    assert reader.take() == {("job", "one")}


@pytest.fixture
def others(postgresql_database: Database) -> Iterator[list[Database]]:
    """Two further writers on the same database: a thread has one transaction at each."""
    made = [Database(postgresql_database.url) for _ in range(2)]
    yield made
    for one in made:
        one.close()


def test_a_line_that_appears_after_one_with_a_higher_number_is_told(
    postgresql_database: Database, others: list[Database]
) -> None:
    reader = news.Reader(postgresql_database)
    with others[0].begin() as slow:
        tell(slow, "lower")
        write(postgresql_database, "higher")
        assert reader.take() == {("job", "higher")}
        assert reader.take() == set()
    assert reader.take() == {("job", "lower")}
    assert reader.take() == set()


def test_a_reader_that_begins_while_somebody_writes_misses_nothing(
    postgresql_database: Database, others: list[Database]
) -> None:
    with others[0].begin() as slow:
        tell(slow, "lower")
        write(postgresql_database, "higher")
        reader = news.Reader(postgresql_database)
        assert reader.take() == set()
    assert reader.take() == {("job", "lower")}


def test_what_is_remembered_stays_small_while_writers_follow_each_other(
    postgresql_database: Database, others: list[Database]
) -> None:
    reader, told, open_one = news.Reader(postgresql_database), set(), ExitStack()
    for number in range(20):  # at any moment somebody writes
        following = ExitStack()
        tell(following.enter_context(others[number % 2].begin()), str(number))
        open_one.close()
        open_one = following
        told |= reader.take()
        assert len(reader._seen) <= 3
    open_one.close()
    assert told | reader.take() == {("job", str(number)) for number in range(20)}
