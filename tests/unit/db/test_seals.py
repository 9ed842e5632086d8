"""Seals stand for the history as it was: behind all writers, and whoever changes a line is found."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from beamwright.db import history, schema, seals
from beamwright.db.engine import Database
from beamwright.db.migrations import guards
from beamwright.fsck import system
from beamwright.fsck.model import Context

NOW = 1_000.0
TABLE = schema.history


def write(database: Database, number: int, name: str = "x") -> None:
    with database.begin() as conn:
        for _ in range(number):
            history.record(conn, "run", 1, "seen", actor=name, at=NOW, data={"µ": [1.5, None]})


def problems(database: Database) -> list[str]:
    with database.read() as conn:
        return [text for _, text in system.sealed(Context(conn, Path(), NOW, deep=False))]


def rows(database: Database) -> list[sa.Row[tuple[object, ...]]]:
    with database.read() as conn:
        return list(conn.execute(sa.select(schema.seal).order_by(schema.seal.c.id)))


def test_what_is_there_is_sealed_once(database: Database) -> None:
    write(database, 5)
    assert seals.seal(database, NOW) == 5
    assert seals.seal(database, NOW) == 0
    write(database, 2)
    assert seals.seal(database, NOW) == 2
    assert [(row.first, row.last, row.lines) for row in rows(database)] == [(1, 5, 5), (6, 7, 2)]
    assert problems(database) == []


def test_an_empty_history_has_no_seal(database: Database) -> None:
    assert seals.seal(database, NOW) == 0 and rows(database) == [] and problems(database) == []


def test_a_long_history_is_sealed_in_parts(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seals, "LINES", 4)
    write(sqlite_database, 10)
    assert seals.seal(sqlite_database, NOW, most=1) == 4
    assert seals.seal(sqlite_database, NOW) == 6
    assert [row.lines for row in rows(sqlite_database)] == [4, 4, 2]
    assert problems(sqlite_database) == []


def change(conn: sa.Connection) -> None:
    conn.execute(sa.update(TABLE).where(TABLE.c.id == 3).values(reason="another"))


def remove(conn: sa.Connection) -> None:
    conn.execute(sa.delete(TABLE).where(TABLE.c.id == 3))


def add(conn: sa.Connection) -> None:
    row = conn.execute(sa.select(TABLE).where(TABLE.c.id == 3)).one()._asdict()
    conn.execute(sa.insert(TABLE).values(row | {"id": 4}))


def swap(conn: sa.Connection) -> None:
    for one, other in ((2, 99), (3, 2), (99, 3)):
        conn.execute(sa.update(TABLE).where(TABLE.c.id == one).values(id=other))
    conn.execute(sa.update(TABLE).where(TABLE.c.id == 2).values(target="swapped"))


@pytest.mark.parametrize(
    ("plant", "message"),
    [(change, "a line was changed"), (remove, "1 lines were removed"), (add, "1 lines were added"),
     (swap, "a line was changed")],
)  # fmt: skip
def test_a_planted_line_is_found(
    database: Database, plant: Callable[[sa.Connection], None], message: str
) -> None:
    line = {"at": NOW, "kind": "run", "object": "1", "target": "seen", "actor": "x", "reason": "", "data": {}}
    with database.begin() as conn:  # the number 4 stays unused, as after a transaction that was given up
        conn.execute(sa.insert(TABLE), [{"id": number} | line for number in (1, 2, 3, 5)])
    seals.seal(database, NOW)
    assert problems(database) == []
    with database.begin() as conn:
        guards.release(conn, "history")
        plant(conn)
    assert any(message in text for text in problems(database))


@pytest.mark.parametrize("change", [{"root": "0" * 64}, {"lines": 3}, {"last": 2}, {"chain": "0" * 64}])
def test_a_seal_that_was_written_over_is_found(database: Database, change: dict[str, object]) -> None:
    for _ in range(3):
        write(database, 2)
        seals.seal(database, NOW)
    with database.begin() as conn:
        guards.release(conn, "seal")
        conn.execute(sa.update(schema.seal).where(schema.seal.c.id == 2).values(**change))
    assert problems(database)


def test_a_seal_cannot_be_changed_as_it_stands(database: Database) -> None:
    write(database, 1)
    seals.seal(database, NOW)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), database.begin() as conn:
        conn.execute(sa.delete(schema.seal))


def test_a_chain_that_was_written_anew_does_not_lead_through_a_noted_head(database: Database) -> None:
    write(database, 2)
    seals.seal(database, NOW)
    with database.read() as conn:
        noted = seals.head(conn)
    assert noted is not None
    with database.begin() as conn:
        for table in ("history", "seal"):
            guards.release(conn, table)
        conn.execute(sa.delete(schema.seal))
        conn.execute(sa.update(TABLE).where(TABLE.c.id == 1).values(actor="nobody"))
    seals.seal(database, NOW)
    assert problems(database) == []
    with database.read() as conn:
        assert not seals.leads_through(conn, noted["chain"])


def test_nothing_is_sealed_past_an_open_transaction(postgresql_database: Database) -> None:
    write(postgresql_database, 2)
    other = Database(postgresql_database.url)
    with other.begin() as conn:
        history.record(conn, "run", 1, "seen", actor="slow", at=NOW)
        write(postgresql_database, 2)  # has a higher number, and ends first
        assert seals.seal(postgresql_database, NOW, patience=0.1) == 0
        with postgresql_database.read() as reading:
            assert seals.open_lines(reading) == 4
    assert seals.seal(postgresql_database, NOW) == 5
    assert problems(postgresql_database) == []
    other.close()


def test_a_number_taken_before_its_transaction_has_an_identity_does_not_escape(
    postgresql_database: Database,
) -> None:
    """The number is drawn first and the row written later: what a horizon of transactions would miss."""
    other = Database(postgresql_database.url)
    with other.begin() as conn:
        conn.exec_driver_sql(
            "LOCK TABLE history IN ROW EXCLUSIVE MODE"
        )  # as an INSERT does before anything else
        drawn = conn.exec_driver_sql("SELECT nextval('history_id_seq')").scalar_one()
        write(postgresql_database, 3)
        assert seals.seal(postgresql_database, NOW, patience=0.1) == 0
        line = {
            "at": NOW,
            "kind": "run",
            "object": "1",
            "target": "seen",
            "actor": "slow",
            "reason": "",
            "data": {},
        }
        conn.execute(sa.insert(TABLE).values(id=drawn, **line))
    assert seals.seal(postgresql_database, NOW) == 4
    assert problems(postgresql_database) == []
    other.close()


def test_the_sealer_does_not_wait_for_writers_that_come_later(postgresql_database: Database) -> None:
    write(postgresql_database, 1)
    stop = threading.Event()
    threads = [threading.Thread(target=relay, args=(postgresql_database, stop)) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.2)
        assert seals.seal(postgresql_database, NOW, patience=10) > 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def relay(database: Database, stop: threading.Event) -> None:
    """Hold a transaction open at almost any time."""
    while not stop.is_set():
        with database.begin() as conn:
            history.record(conn, "run", 1, "seen", actor="relay", at=NOW)
            time.sleep(0.1)


WRITERS, SECONDS, PATIENCE_S = 8, 2.0, 120.0


def test_no_line_of_eight_writers_escapes(postgresql_database: Database) -> None:
    """Writers with short and long transactions, some rolled back, while two sealers are at work."""
    begun = time.monotonic()
    written, sealed = [0] * WRITERS, [0, 0]

    def is_on() -> bool:
        """For a while; where the machine is slow, until something was sealed."""
        passed = time.monotonic() - begun
        return passed < SECONDS or (not any(sealed) and passed < PATIENCE_S)

    def writing(number: int) -> None:
        while is_on():
            try:
                with postgresql_database.begin() as conn:
                    for _ in range(1 + number % 3):
                        history.record(conn, "run", number, "seen", actor=f"w{number}", at=NOW)
                        time.sleep(0.002 if number < 6 else 0.25)
                    if written[number] % 5 == 4:
                        written[number] += 1
                        raise RuntimeError("given up")
                    written[number] += 1
            except RuntimeError:
                pass

    def sealing(number: int) -> None:
        while is_on():
            sealed[number] += seals.seal(postgresql_database, NOW, patience=1.0)

    threads = [threading.Thread(target=writing, args=(n,)) for n in range(WRITERS)]
    threads += [threading.Thread(target=sealing, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    midway = sum(sealed)
    left = seals.seal(postgresql_database, NOW)
    with postgresql_database.read() as conn:
        total = conn.scalar(sa.select(sa.func.count()).select_from(TABLE))
        assert seals.open_lines(conn) == 0
    assert midway > 0 and midway + left == total
    assert problems(postgresql_database) == []
