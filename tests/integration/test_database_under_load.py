"""Many writers at once, killed servers and full disks: what was acknowledged is there."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from beamwright.catalog import registering
from beamwright.catalog.writers import Source
from beamwright.core.canonical import sha256_hex
from beamwright.core.errors import BeamwrightError, ConflictError, StorageError
from beamwright.db import history, schema
from beamwright.db.engine import Database
from support.databases import Cluster, private_cluster

NOW = 1_000.0
WRITERS = 25


def record(name: str) -> dict[str, Any]:
    digest = sha256_hex(name.encode())
    return {"name": f"mc:{name}", "size": 5, "sha256": digest, "adler32": digest[:8], "tier": "dst"}


def records(names: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    return ((line, record(name)) for line, name in enumerate(names, 1))


def names(database: Database) -> list[str]:
    with database.read() as conn:
        return list(conn.execute(sa.select(schema.file.c.name)).scalars())


def everywhere(work: Callable[[int], None], number: int = WRITERS) -> list[Exception]:
    """Do work in as many threads, all beginning at once; return what went wrong."""
    gate = threading.Barrier(number)

    def at_once(writer: int) -> Exception | None:
        gate.wait()
        try:
            work(writer)
        except Exception as error:  # noqa: BLE001  told to the test
            return error
        return None

    with ThreadPoolExecutor(number) as pool:
        return [error for error in pool.map(at_once, range(number)) if error is not None]


# --- many writers --------------------------------------------------------------------------------


def test_25_writers_register_at_once_and_every_row_is_there(postgresql_database: Database) -> None:
    """Each registers files of its own, and all of them the same ones as well."""
    shared = [f"shared/{n}" for n in range(20)]
    acknowledged: list[str] = []

    def work(writer: int) -> None:
        database = Database(postgresql_database.url, busy_seconds=120.0)
        for turn in range(4):
            mine = [f"w{writer}/{turn}/{n}" for n in range(25)]
            mixed = random.Random(writer).sample(shared, len(shared)) + mine
            registering.register(database, "file", records(mixed), Source("list", NOW, f"w{writer}"))
            acknowledged.extend(mine)
        database.close()

    assert everywhere(work) == []
    found = names(postgresql_database)
    assert len(acknowledged) == WRITERS * 100
    assert sorted(found) == sorted([*acknowledged, *shared])


FORKED = """
import os, sys
import sqlalchemy as sa
from beamwright.db import history, schema
from beamwright.db.engine import Database, insert_new

path, writers, turns = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
gate = os.pipe()
children = []
for writer in range(writers):
    child = os.fork()
    if child == 0:
        os.close(gate[1])
        os.read(gate[0], 1)  # returns when the parent lets go of the other end
        database = Database(path, busy_seconds=120)  # the machine may be slow
        for turn in range(turns):
            with database.begin() as conn:
                insert_new(conn, schema.workspace, {"name": f"{writer}/{turn}", "value": {}})
                history.record(conn, "run", writer, "seen", actor="x", at=1.0)
            os.write(1, f"{writer}/{turn}\\n".encode())
        os._exit(0)
    children.append(child)
os.close(gate[1])
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def test_25_processes_write_to_one_file(sqlite_database: Database) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED, sqlite_database.name, str(WRITERS), "8"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with sqlite_database.read() as conn:
        found = set(conn.execute(sa.select(schema.workspace.c.name)).scalars())
        assert history.last(conn) == WRITERS * 8
    assert found == set(done.stdout.split()) and len(found) == WRITERS * 8


HOLDER = """
import sys, time
from beamwright.db.engine import Database
with Database(sys.argv[1]).begin():
    print("holds", flush=True)
    sys.stdin.read()
"""


def test_who_waits_too_long_is_told_who_writes(database: Database) -> None:
    if database.is_postgresql:
        with database.begin() as conn:
            conn.execute(sa.insert(schema.workspace).values(name="x", value={}))
        held: Any = Database(database.url)
        with held.begin() as conn, pytest.raises(ConflictError) as caught:
            conn.execute(sa.update(schema.workspace).values(value={"n": 1}))
            late(database)
        held.close()
        assert f"by beamwright {os.getpid()}@" in str(caught.value) and "server process" in str(caught.value)
    else:
        child = subprocess.Popen(
            [sys.executable, "-c", HOLDER, database.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(ConflictError) as caught:
            late(database)
        child.communicate()
        assert f"by process {child.pid}, python" in str(caught.value)
    assert "locked" not in str(caught.value) and "another process writes" in str(caught.value)


def late(database: Database, busy_seconds: float = 0.1) -> None:
    impatient = Database(database.url, busy_seconds=busy_seconds)
    try:
        with impatient.begin() as conn:
            conn.execute(sa.update(schema.workspace).values(value={"n": 2}))
    finally:
        impatient.close()


# --- killed servers ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mortal() -> Iterator[Cluster]:
    """A server that keeps its promises: every commit is on the disk."""
    with private_cluster("fsync=on") as made:
        yield made


@pytest.mark.parametrize("wait", [0.05, pytest.param(0.3, marks=pytest.mark.slow)])
def test_what_was_acknowledged_survives_the_death_of_the_server(mortal: Cluster, wait: float) -> None:
    url = sa.make_url(mortal.url).set(database=f"mortal{int(wait * 1000)}")
    engine = sa.create_engine(
        sa.make_url(mortal.url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as conn:
        conn.exec_driver_sql(f"CREATE DATABASE {url.database}")
    engine.dispose()
    database = Database(url)
    database.migrate()
    wanted = [f"f{n:06}" for n in range(60_000)]
    told = [0]
    killer = threading.Timer(wait, mortal.kill)

    def progress(done: int) -> None:
        if not told[0]:
            killer.start()
        told[0] = done

    with pytest.raises(BeamwrightError) as caught:
        registering.register(database, "file", records(wanted), Source("list", NOW, "x"), progress)
    killer.join()
    assert isinstance(caught.value, StorageError) and "database" in str(caught.value)
    assert 0 < told[0] < len(wanted)
    mortal.start()
    database = Database(url)
    found = names(database)
    assert set(wanted[: told[0]]) <= set(found) and len(found) == len(set(found))
    outcome = registering.register(database, "file", records(wanted), Source("list", NOW, "x"))
    assert outcome.equal == len(found) and outcome.new + outcome.equal == len(wanted)
    assert sorted(names(database)) == wanted
    database.close()


# --- full disks ----------------------------------------------------------------------------------

FULL = """
import resource, sys
import sqlalchemy as sa
from beamwright.core.errors import StorageError
from beamwright.db import schema
from beamwright.db.engine import Database
database = Database(sys.argv[1])
with database.begin() as conn:
    conn.execute(sa.insert(schema.workspace).values(name="before", value={}))
    print("before", flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
try:
    for number in range(1000):
        with database.begin() as conn:
            conn.execute(sa.insert(schema.workspace).values(name=str(number), value={"fill": "x" * 20_000}))
        print(number, flush=True)
except StorageError as error:
    print(error, file=sys.stderr)
    sys.exit(9)
"""


def test_a_full_disk_is_named_and_loses_nothing(sqlite_database: Database) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, sqlite_database.name], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    assert sqlite_database.name in done.stderr and "make room" in done.stderr
    with sqlite_database.read() as conn:
        assert set(conn.execute(sa.select(schema.workspace.c.name)).scalars()) == set(done.stdout.split())
        assert conn.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    with sqlite_database.begin() as conn:  # with room again, all goes on
        conn.execute(sa.insert(schema.workspace).values(name="after", value={}))


def test_a_killed_writer_leaves_what_it_acknowledged_and_no_lock(sqlite_database: Database) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", FORKED, sqlite_database.name, "3", "100000"], stdout=subprocess.PIPE,
        start_new_session=True, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    told = [child.stdout.readline() for _ in range(30)]
    time.sleep(0.05)
    os.killpg(child.pid, 9)
    told += child.stdout.read().splitlines()
    child.stdout.close()
    child.wait()
    late(sqlite_database, 60.0)  # the last of them may just be ending
    with sqlite_database.read() as conn:
        found = set(conn.execute(sa.select(schema.workspace.c.name)).scalars())
    assert {line.strip() for line in told} <= found and len(found) <= len(told) + 3
