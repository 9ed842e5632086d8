from __future__ import annotations

import pytest
import sqlalchemy as sa

from beamwright.core.errors import StateError, UnknownNameError
from beamwright.db import history, schema
from beamwright.db.engine import Database, insert_id, insert_ids
from beamwright.db.migrations import guards


def new_run(conn: sa.Connection, number: int = 1) -> int:
    return insert_id(
        conn,
        schema.run,
        series="A",
        number=number,
        tier="raw",
        state="announced",
        version=1,
        expected=None,
        end_marker=False,
        is_mc=False,
        conditions={},
        created=0.0,
    )


def state(conn: sa.Connection, id: int) -> str:
    return str(conn.execute(sa.select(schema.run.c.state).where(schema.run.c.id == id)).scalar())


def test_a_move_changes_state_and_values_and_writes_history(database: Database) -> None:
    with database.begin() as conn:
        run = new_run(conn)
        history.record(conn, "run", run, "announced", actor="intake", at=1.0, data={"by": "notice"})
        history.move(
            conn, schema.run, run, "announced", "open", actor="intake", reason="data", at=2.0, version=2
        )
        lines = history.of(conn, "run", run)
        assert conn.execute(sa.select(schema.run.c.version, schema.run.c.state)).one() == (2, "open")
    assert [(line.source, line.target, line.at, line.reason) for line in lines] == [
        (None, "announced", 1.0, ""),
        ("announced", "open", 2.0, "data"),
    ]
    assert lines[0].data == {"by": "notice"}


def test_a_move_that_the_table_does_not_hold_is_refused(database: Database) -> None:
    with database.begin() as conn:
        run = new_run(conn)
        with pytest.raises(StateError, match="run A/1 is announced and cannot become closed"):
            history.move(conn, schema.run, run, "announced", "closed", actor="x", at=1.0)
        assert state(conn, run) == "announced"
        assert history.of(conn, "run", run) == []


def test_a_move_from_another_state_than_the_actual_one_is_refused(database: Database) -> None:
    with database.begin() as conn:
        run = new_run(conn)
        with pytest.raises(StateError, match="run A/1 is announced, not open"):
            history.move(conn, schema.run, run, "open", "closed", actor="x", at=1.0)
        assert history.of(conn, "run", run) == []


def test_a_move_of_nothing_says_so(database: Database) -> None:
    with database.begin() as conn, pytest.raises(UnknownNameError, match="no run is called '77'"):
        history.move(conn, schema.run, 77, "open", "closed", actor="x", at=1.0)


def test_many_rows_move_together(database: Database) -> None:
    with database.begin() as conn:
        runs = [new_run(conn, n) for n in range(5)]
        history.move_all(conn, schema.run, runs, "announced", "open", actor="x", at=1.0)
        assert {state(conn, run) for run in runs} == {"open"}
        assert all(len(history.of(conn, "run", run)) == 1 for run in runs)


def test_many_rows_do_not_move_when_one_cannot(database: Database) -> None:
    with pytest.raises(StateError, match="is open, not announced"), database.begin() as conn:
        runs = [new_run(conn, n) for n in range(3)]
        history.move(conn, schema.run, runs[1], "announced", "open", actor="x", at=1.0)
        history.move_all(conn, schema.run, runs, "announced", "open", actor="x", at=1.0)
    with database.read() as conn:
        assert conn.execute(sa.select(sa.func.count()).select_from(schema.history)).scalar() == 0


def test_history_can_neither_be_changed_nor_deleted(database: Database) -> None:
    with database.begin() as conn:
        history.record(conn, "run", 1, "announced", actor="x", at=1.0)
    for statement in (sa.update(schema.history).values(actor="somebody"), sa.delete(schema.history)):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), database.begin() as conn:
            conn.execute(statement)


def test_an_interval_can_be_ended_once_and_nothing_else(database: Database) -> None:
    with database.begin() as conn:
        conn.execute(sa.insert(schema.payload).values(id="p", kind="json", size=2, data=b"{}", created=0.0))
        tag = insert_id(conn, schema.tag, name="t", kind="json", version=1, created=0.0)
        ends = {
            "first_run": 1,
            "first_section": 0,
            "first_event": 0,
            "last_run": 2,
            "last_section": 0,
            "last_event": 0,
        }
        conn.execute(
            sa.insert(schema.iov).values(
                tag_id=tag,
                series="A",
                payload_id="p",
                added=1,
                origin="initial",
                reason="",
                generation=0,
                created=0.0,
                **ends,
            )
        )
    for values in ({"last_run": 9}, {"removed": 2, "payload_id": "q"}, {"removed": None}):
        with pytest.raises(sa.exc.DBAPIError, match="append-only|only be ended"), database.begin() as conn:
            conn.execute(sa.update(schema.iov).values(values))
    with database.begin() as conn:
        conn.execute(sa.update(schema.iov).values(removed=2))
    with pytest.raises(sa.exc.DBAPIError), database.begin() as conn:
        conn.execute(sa.update(schema.iov).values(removed=3))


def test_guards_can_be_released_for_one_table(database: Database) -> None:
    with database.begin() as conn:
        history.record(conn, "run", 1, "announced", actor="x", at=1.0)
        guards.release(conn, "history")
        assert conn.execute(sa.delete(schema.history)).rowcount == 1


def test_rows_move_each_in_its_own_way(database: Database) -> None:
    with database.begin() as conn:
        one, two, three = (new_run(conn, n) for n in range(3))
        history.move(conn, schema.run, two, "announced", "open", actor="x", at=1.0)
        moves = [
            history.Move(one, "announced", "open", "data", {"version": 7}),
            history.Move(two, "open", "closed"),
            history.Move(three, "announced", "open", "", {"version": 8}),
        ]
        history.move_each(conn, schema.run, moves, actor="intake", at=2.0)
        rows = conn.execute(sa.select(schema.run.c.state, schema.run.c.version).order_by(schema.run.c.id))
        assert rows.all() == [("open", 7), ("closed", 1), ("open", 8)]
        assert [line.reason for line in history.of(conn, "run", one)] == ["data"]
        with pytest.raises(StateError, match="run A/1 is closed, not announced"):
            again = [history.Move(one, "open", "closed"), history.Move(two, "announced", "open")]
            history.move_each(conn, schema.run, again, actor="x", at=3.0)


def test_rows_that_go_on_at_once_have_every_step_in_their_history(database: Database) -> None:
    with database.begin() as conn:
        one, two = (new_run(conn, n) for n in range(2))
        moves = [
            history.Move(one, "announced", "open", "data", {"version": 3}, (("closed", "all"), ("open", ""))),
            history.Move(two, "announced", "open"),
        ]
        history.move_each(conn, schema.run, moves, actor="intake", at=2.0)
        rows = conn.execute(sa.select(schema.run.c.state, schema.run.c.version).order_by(schema.run.c.id))
        assert rows.all() == [("open", 3), ("open", 1)]
        lines = [(line.source, line.target, line.reason) for line in history.of(conn, "run", one)]
        assert lines == [("announced", "open", "data"), ("open", "closed", "all"), ("closed", "open", "")]
        newest = conn.execute(
            sa.select(schema.history.c.object).order_by(schema.history.c.id.desc()).limit(4)
        )
        assert list(newest.scalars())[::-1] == [str(one), str(two), str(one), str(one)]
        with pytest.raises(StateError, match="run A/1 is open and cannot become announced"):
            wrong = [history.Move(two, "open", "closed", then=(("open", ""), ("announced", "")))]
            history.move_each(conn, schema.run, wrong, actor="x", at=3.0)
        with pytest.raises(StateError, match="run A/0 is open, not announced, and was not made closed"):
            missed = [history.Move(one, "announced", "open", then=(("closed", ""),))]
            history.move_each(conn, schema.run, missed, actor="x", at=3.0)


def test_things_made_and_moved_on_at_once_have_every_step_in_their_history(database: Database) -> None:
    with database.begin() as conn:
        way = ("copying", "present")
        history.record_all(conn, "replica", [7, 8], "planned", actor="x", at=1.0, then=way)
        assert [(line.source, line.target) for line in history.of(conn, "replica", 8)] == [
            (None, "planned"), ("planned", "copying"), ("copying", "present"),
        ]  # fmt: skip
        with pytest.raises(StateError, match="cannot become verified"):
            history.record_all(conn, "replica", [9], "planned", actor="x", at=1.0, then=("verified",))


def test_ids_of_many_new_rows_come_in_their_order(database: Database) -> None:
    rows = [
        {"series": "A", "number": n, "tier": "raw", "state": "announced", "version": 1, "conditions": {},
         "end_marker": False, "is_mc": False, "is_resampled": False, "created": 0.0}
        for n in (5, 3, 9)
    ]  # fmt: skip
    with database.begin() as conn:
        ids = insert_ids(conn, schema.run, rows)
        found = {row.id: row.number for row in conn.execute(sa.select(schema.run.c.id, schema.run.c.number))}
        assert [found[i] for i in ids] == [5, 3, 9] and insert_ids(conn, schema.run, []) == []


def test_what_cannot_move_is_called_by_its_name(database: Database) -> None:
    common = {"state": "frozen", "query": {}, "created": 0.0}
    with database.begin() as conn:
        table = schema.dataset
        one = insert_id(conn, table, scope="ana", name="phi", version=2, **common)
        with pytest.raises(StateError, match="dataset ana:phi@2 is frozen and cannot become open"):
            history.move(conn, table, one, "frozen", "open", actor="x", at=1.0)
