"""Jobs that many move at once, in any order: every move is counted, and nobody sees a deadlock."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from beamwright import fsck
from beamwright.agents.intake import Intake
from beamwright.agents.submitter import Submitter
from beamwright.core.errors import ConflictError, StateError
from beamwright.db import archive, history, schema
from beamwright.db.engine import Database
from beamwright.production import handling
from beamwright.production.interventions import Why
from beamwright.production.workspace import Workspace
from kill import production
from support.toy_production import ToyProduction, deliver, experiment
from support.waiting import wait_for

WRITERS = 25
# Where all wait for each other, nobody may be given up because the machine is slow.
SLOW_MACHINE_S = 120.0
NOW = 1_000.0
AS: dict[str, Any] = {"actor": "w", "at": NOW}


def with_jobs(database: Database, folder: Path, number: int) -> list[int]:
    """Make a task with so many prepared jobs; return their ids."""
    for chunk in range(production.CHUNKS):
        (folder / f"chunk{chunk}").write_bytes(production.raw_bytes(chunk))
    with database.begin() as conn:
        production.populate(conn, folder)
        places = [((1, n, 0), (1, n, 5)) for n in range(100, 100 + number)]
        return production.add_units(
            conn, "pass", [production.unit_row("pass", "process", at, [], ("dst",)) for at in places]
        )


def hold_and_release(conn: sa.Connection, order: list[int], actor: str) -> None:
    for source, target in (("prepared", "held"), ("held", "prepared")):
        for id in order:
            history.move(conn, schema.job, id, source, target, actor=actor, at=NOW)


def deadlocks(database: Database) -> int:
    with database.read() as conn:
        return int(
            conn.exec_driver_sql(
                "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
            ).scalar_one()
        )


def lines_of(database: Database, ids: list[int]) -> Counter[tuple[str, str]]:
    with database.read() as conn:
        found = [e for id in ids for e in history.of(conn, "job", id) if e.actor.startswith("w")]
    return Counter((entry.actor, entry.object) for entry in found)


@pytest.mark.parametrize("turns", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_25_writers_move_the_same_jobs_in_any_order_and_every_move_is_counted(
    postgresql_database: Database, tmp_path: Path, turns: int
) -> None:
    ids = with_jobs(postgresql_database, tmp_path, 3)
    gate, before = threading.Barrier(WRITERS), deadlocks(postgresql_database)

    def work(writer: int) -> int:
        database = Database(postgresql_database.url, busy_seconds=SLOW_MACHINE_S)
        chosen = random.Random(writer)
        gate.wait()
        for _ in range(turns):
            order = chosen.sample(ids, len(ids))  # every writer locks the jobs in an order of its own
            database.transact(lambda conn, order=order: hold_and_release(conn, order, f"w{writer}"))
        database.close()
        return turns

    with ThreadPoolExecutor(WRITERS) as pool:
        done = list(pool.map(work, range(WRITERS)))
    assert done == [turns] * WRITERS, "nobody saw an error"
    # The server tells what it counted a moment later.
    wait_for(lambda: deadlocks(postgresql_database) > before, what="the orders did lead to deadlocks")
    told = lines_of(postgresql_database, ids)
    assert told == {(f"w{writer}", str(id)): 2 * turns for writer in range(WRITERS) for id in ids}
    with postgresql_database.read() as conn:
        assert set(conn.execute(sa.select(schema.job.c.state)).scalars()) == {"prepared"}


MOVERS = """
import os, random, sys
from beamwright.db import history, schema
from beamwright.db.engine import Database

path, writers, turns = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ids = [int(word) for word in sys.argv[4:]]
gate, children = os.pipe(), []
for writer in range(writers):
    child = os.fork()
    if child == 0:
        os.close(gate[1])
        os.read(gate[0], 1)  # returns when the parent lets go of the other end
        database, chosen = Database(path, busy_seconds=120), random.Random(writer)
        def work(conn):
            for source, target in (("prepared", "held"), ("held", "prepared")):
                for id in chosen.sample(ids, len(ids)):
                    history.move(conn, schema.job, id, source, target, actor=f"w{writer}", at=1.0)
        for turn in range(turns):
            database.transact(work)
        os._exit(0)
    children.append(child)
os.close(gate[1])
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def test_25_processes_move_the_jobs_of_one_file_and_every_move_is_counted(
    sqlite_database: Database, tmp_path: Path
) -> None:
    ids = with_jobs(sqlite_database, tmp_path, 3)
    given = [sqlite_database.name, str(WRITERS), "4", *map(str, ids)]
    done = subprocess.run([sys.executable, "-c", MOVERS, *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = lines_of(sqlite_database, ids)
    assert told == {(f"w{writer}", str(id)): 8 for writer in range(WRITERS) for id in ids}


def test_a_backup_that_is_taken_while_jobs_move_is_of_one_moment(database: Database, tmp_path: Path) -> None:
    ids, is_over = with_jobs(database, tmp_path, 3), threading.Event()

    def work(id: int) -> int:
        own, turns = Database(database.url, busy_seconds=SLOW_MACHINE_S), 0
        while not is_over.is_set():
            for source, target in (("prepared", "held"), ("held", "prepared")):
                own.transact(
                    partial(history.move, table=schema.job, id=id, source=source, target=target, **AS)
                )
            turns += 1
        own.close()
        return turns

    with ThreadPoolExecutor(len(ids)) as pool:
        writers = [pool.submit(work, id) for id in ids]
        try:
            saved = [archive.write(database, tmp_path / f"{n}.zip", NOW) for n in range(3)]
        finally:
            is_over.set()
        assert all(one.result() for one in writers)
    for one in saved:
        target = sa.URL.create("sqlite", database=f"{one.path}.db")
        archive.restore(archive.read(one.path), target, lambda text: None)
        restored = Database(target)
        with restored.read() as conn:
            for id in ids:
                state = conn.scalar(sa.select(schema.job.c.state).where(schema.job.c.id == id))
                assert state == history.of(conn, "job", id)[-1].target
        assert fsck.run(restored, tmp_path, on_storage=False) == []
        restored.close()
    numbers = [tally["rows"] for one in saved for shape, tally in one.tables if shape.name == "history"]
    assert numbers == sorted(set(numbers)), "others wrote between one and the next"


def test_a_command_that_meets_a_deadlock_does_its_work_all_the_same(
    postgresql_database: Database, tmp_path: Path
) -> None:
    workspace = Workspace.create(tmp_path / "workspace")
    workspace.use_database(postgresql_database.url.set(drivername="postgresql").render_as_string())
    first, second = with_jobs(postgresql_database, tmp_path, 2)
    with postgresql_database.read() as conn:
        keys = [row.key for row in handling.of_units(conn, unit_ids(conn, [first, second]))]
    said = ["job", "hold", *keys, "--reason", "its node is hot", "--json", "-w", str(workspace.root)]
    before = deadlocks(postgresql_database)
    with postgresql_database.begin() as conn:
        conn.exec_driver_sql("SET LOCAL deadlock_timeout = '100s'")  # let the other find it first
        conn.exec_driver_sql("SET LOCAL lock_timeout = '100s'")
        lock(conn, second)
        command = subprocess.Popen(
            [sys.executable, "-m", "beamwright.cli.main", *said], stdout=subprocess.PIPE, text=True
        )
        wait_until_blocked(postgresql_database)
        lock(conn, first)
    told = [json.loads(line) for line in command.communicate()[0].splitlines()]
    assert command.returncode == 0 and [row["is"] for row in told] == ["held", "held"]
    wait_for(lambda: deadlocks(postgresql_database) > before)


def unit_ids(conn: sa.Connection, jobs: list[int]) -> list[int]:
    return list(conn.execute(sa.select(schema.job.c.unit_id).where(schema.job.c.id.in_(jobs))).scalars())


def lock(conn: sa.Connection, job: int) -> None:
    conn.execute(sa.select(schema.job.c.id).where(schema.job.c.id == job).with_for_update())


def wait_until_blocked(database: Database) -> None:
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"

    def is_blocked() -> bool:
        with database.read() as conn:
            return bool(conn.exec_driver_sql(waiting).scalar())

    wait_for(is_blocked, what="nobody waits")


def test_who_decided_on_what_somebody_moved_meanwhile_decides_anew(
    database: Database, tmp_path: Path
) -> None:
    (id,) = with_jobs(database, tmp_path, 1)
    seen: list[str] = []

    def late(conn: sa.Connection) -> None:
        seen.append(conn.execute(sa.select(schema.job.c.state).where(schema.job.c.id == id)).scalar_one())
        if len(seen) == 1:  # as if it had been read before somebody else's transaction ended
            history.move(conn, schema.job, id, "held", "prepared", actor="w", at=NOW)
        history.move(conn, schema.job, id, seen[-1], "held", actor="w", at=NOW)

    database.transact(late)
    assert seen == ["prepared", "prepared"]
    with database.read() as conn:
        assert [entry.target for entry in history.of(conn, "job", id)] == ["prepared", "held"]


def test_what_never_comes_true_is_told_in_bounded_time(database: Database, tmp_path: Path) -> None:
    (id,) = with_jobs(database, tmp_path, 1)
    tries: list[int] = []

    def wrong(conn: sa.Connection) -> None:
        tries.append(1)
        history.move(conn, schema.job, id, "held", "prepared", actor="w", at=NOW)

    with pytest.raises(StateError, match="is prepared, not held"):
        database.transact(wrong)
    assert 1 < len(tries) < 10


def test_a_delivery_waits_while_another_keeps_the_database(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "workspace")
    delivery = deliver(tmp_path / "raw", 1, 1, range(4))
    inbox = workspace.root / "inbox"
    (inbox / "one.json").write_text(json.dumps(delivery.document()))
    workspace.db = Database(workspace.database_url, busy_seconds=0.1)  # type: ignore[misc]
    intake, other = Intake(workspace, experiment), Database(workspace.database_url)
    with other.begin(), pytest.raises(ConflictError, match="another process writes"):
        intake.turn()
    assert [path.name for path in inbox.rglob("*.json")] == ["one.json"], "it is not refused"
    assert intake.turn() == 1 and (inbox / "done" / "one.json").exists()
    other.close()
    workspace.db.close()


def test_a_production_goes_on_when_a_person_moves_a_job_that_is_just_being_leased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, held = ToyProduction(tmp_path), list[Any]()
    decide = Submitter.decide

    def overtaken(submitter: Submitter, now: float) -> list[tuple[int, str]]:
        """Decide as ever; then somebody holds one of the jobs before the lease is written."""
        pairs = decide(submitter, now)
        if pairs and not held:
            with submitter.workspace.db.begin() as conn:
                held.extend(handling.of_units(conn, unit_ids(conn, [pairs[0][0]])))
                handling.move_jobs(conn, "hold", held, Why("ann", "wait", now))
        return pairs

    def release(done: int) -> None:
        with made.workspace.db.begin() as conn:
            rows = handling.of_units(conn, [row.unit_id for row in held])
            if [row.state for row in rows] == ["held"]:
                handling.move_jobs(conn, "release", rows, Why("ann", "go on", NOW))

    monkeypatch.setattr(Submitter, "decide", overtaken)
    made.produce(on_turn=release)
    (row,) = made.rows(schema.job, schema.job.c.id == held[0].id)
    assert row.state == "ok"
    made.workspace.db.close()
