"""A whole database goes to another one, row by row, or not at all; backups come back as they were."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from beamwright.core.errors import (
    ChecksumError,
    ConflictError,
    FormatError,
    IntegrityError,
    StorageError,
)
from beamwright.db import archive, claims, history, migrations, moving, rows, schema
from beamwright.db.engine import Database, insert_id
from beamwright.db.migrations import guards
from support.waiting import wait_for
from support.world import NOW, World

AWKWARD = (
    "a tab\t, a line\n, a return\r, a backslash \\, \\N, \\., µ → 日本, \x0b\x0c\x08'; DROP TABLE file; --"
)


def fill(database: Database, root: Path) -> Database:
    World(database, root, kind="bundle").build()
    with database.begin() as conn:
        conn.execute(
            sa.insert(schema.workspace).values(name=AWKWARD, value={"text": AWKWARD, "n": [1e22, 1e-7]})
        )
        conn.execute(sa.insert(schema.workspace).values(name="", value={}))
        for number, size in enumerate((1.5, 1e15, 1e16, -0.0, 0.1 + 0.2, 5e-324, 1.7976931348623157e308)):
            run = {"series": "B", "number": 2**62 + number, "tier": "raw", "state": "announced", "version": 1}
            flags = {"end_marker": number % 2 == 0, "is_mc": False, "is_resampled": True}
            insert_id(
                conn, schema.run, **run, **flags, expected=None, luminosity=size, conditions={}, created=size
            )
        conn.execute(
            sa.insert(schema.payload).values(id="zz", kind="b", size=5, data=bytes(range(256)), created=0.0)
        )
    return database


def contents(database: Database) -> dict[str, list[tuple[object, ...]]]:
    with database.read() as conn:
        return {
            table.name: [
                tuple(row) for row in conn.execute(sa.select(table).order_by(*table.primary_key.columns))
            ]
            for table in schema.metadata.sorted_tables
        }


@pytest.fixture
def source(database: Database, tmp_path: Path) -> Database:
    return fill(database, tmp_path)


@pytest.fixture
def target(request: pytest.FixtureRequest, source: Database, tmp_path: Path) -> sa.URL:
    """An empty database of the other kind."""
    if source.is_postgresql:
        return sa.URL.create("sqlite", database=str(tmp_path / "target.db"))
    url: sa.URL = request.getfixturevalue("postgresql_new")
    return url


def test_every_row_arrives_as_it_was(source: Database, target: sa.URL) -> None:
    before = contents(source)
    verified = moving.move(source, target, NOW)
    moved = Database(target)
    moved.check()
    assert contents(moved) == contents(source)
    assert {name: len(found) for name, found in before.items()} == {n: t["rows"] for n, t in verified.items()}
    moved.close()


def test_guards_sequences_and_indexes_are_there_after_the_move(source: Database, target: sa.URL) -> None:
    moving.move(source, target, NOW)
    moved = Database(target)
    with moved.begin() as conn:
        number = insert_id(conn, schema.tag, name="new", kind="json", version=0, created=1.0)
        assert number > max(
            conn.execute(sa.select(schema.tag.c.id).where(schema.tag.c.name != "new")).scalars()
        )
        history.record(conn, "run", 1, "seen", actor="x", at=NOW)
        assert all(guards.has_guard(conn, table) for table in guards.guarded())
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), moved.begin() as conn:
        conn.execute(sa.update(schema.history).values(actor="nobody"))
    moved.close()


def test_a_file_moves_to_another_file(sqlite_database: Database, tmp_path: Path) -> None:
    fill(sqlite_database, tmp_path)
    moving.move(sqlite_database, sa.URL.create("sqlite", database=str(tmp_path / "target.db")), NOW)
    moved = Database(tmp_path / "target.db")
    assert contents(moved) == contents(sqlite_database)
    moved.close()


def test_there_and_back_is_the_same_to_the_letter(
    sqlite_database: Database, postgresql_new: sa.URL, tmp_path: Path
) -> None:
    fill(sqlite_database, tmp_path)
    there = moving.move(sqlite_database, postgresql_new, NOW)
    server = Database(postgresql_new)
    back = sa.URL.create("sqlite", database=str(tmp_path / "back.db"))
    assert moving.move(server, back, NOW) == there
    server.close()


def test_a_database_in_use_is_not_moved(source: Database, target: sa.URL) -> None:
    with source.begin() as conn:
        claims.take(conn, "planner", "process 7", NOW, 60)
    with pytest.raises(ConflictError, match="process 7 works in database"):
        moving.move(source, target, NOW + 1)
    moving.move(source, target, NOW + 61)


def test_nobody_writes_while_it_moves(source: Database, target: sa.URL) -> None:
    told: list[str] = []

    def intrude(message: str) -> None:
        told.append(message)
        if len(told) == 1:
            other = Database(source.url, busy_seconds=0.05)
            with pytest.raises(ConflictError, match="another process writes"), other.begin() as conn:
                conn.execute(sa.insert(schema.workspace).values(name="late", value={}))
            other.close()

    moving.move(source, target, NOW, intrude)
    assert told


def test_nobody_writes_where_everything_was_moved_from(source: Database, target: sa.URL) -> None:
    """Neither those who opened it before, nor those who waited for the move to end."""
    switched, waiting, errors = threading.Event(), threading.Event(), list[BaseException]()

    def write() -> None:
        other = Database(source.url, busy_seconds=300)
        try:
            if source.is_postgresql:
                with other.begin() as conn:
                    waiting.set()  # it is past its beginning when it begins to wait
                    conn.execute(sa.insert(schema.workspace).values(name="late", value={}))
            else:
                waiting.set()
                with other.begin() as conn:
                    conn.execute(sa.insert(schema.workspace).values(name="late", value={}))
        except ConflictError as error:
            errors.append(error)
        other.close()

    late = threading.Thread(target=write)

    def meanwhile(message: str) -> None:
        if not waiting.is_set():
            late.start()
            assert waiting.wait(60)

    before = contents(source)
    moving.move(source, target, NOW, meanwhile, switched.set)
    late.join(60)
    assert switched.is_set() and "was moved" in str(errors[0])
    with pytest.raises(ConflictError, match="nothing is written into it any more"), source.begin() as conn:
        conn.execute(sa.insert(schema.workspace).values(name="later", value={}))
    assert contents(source) == before
    moved = Database(target)
    assert contents(moved) == before
    with moved.begin() as conn:
        conn.execute(sa.insert(schema.workspace).values(name="there", value={}))
    moved.close()


def test_a_move_that_cannot_be_told_of_leaves_the_database_in_use(source: Database, target: sa.URL) -> None:
    def fail() -> None:
        raise OSError("the settings cannot be written")

    with pytest.raises(OSError, match="settings"):
        moving.move(source, target, NOW, switch=fail)
    with source.begin() as conn:
        conn.execute(sa.insert(schema.workspace).values(name="later", value={}))


def test_a_target_that_holds_something_is_left_alone(source: Database, target: sa.URL) -> None:
    moving.move(source, target, NOW)
    moved = Database(target)
    with moved.begin() as conn:
        conn.execute(sa.insert(schema.workspace).values(name="mine", value={}))
    before = contents(moved)
    with pytest.raises(ConflictError, match=r"not empty|exists already"):
        moving.move(source, target, NOW)
    assert contents(moved) == before
    moved.close()


@pytest.mark.parametrize("at", ["write", pytest.param("read", marks=pytest.mark.slow)])
def test_an_interrupted_move_leaves_nothing_and_can_be_repeated(
    source: Database, target: sa.URL, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real, calls = contents(source), getattr(rows, at), []

    def fail(*args: object) -> object:
        calls.append(args)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(rows, at, fail)
        with pytest.raises(KeyboardInterrupt):
            moving.move(source, target, NOW)
    assert contents(source) == before
    moving.move(source, target, NOW)


def test_a_row_that_arrives_otherwise_is_named_and_nothing_is_kept(
    source: Database, target: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = rows.write

    def bend(conn: sa.Connection, shape: rows.Shape, blocks: object) -> None:
        real(conn, shape, blocks)  # type: ignore[arg-type]
        if shape.name == "run":
            conn.execute(sa.update(schema.run).where(schema.run.c.id == 2).values(version=99))

    with monkeypatch.context() as patch:
        patch.setattr(rows, "write", bend)
        with pytest.raises(IntegrityError, match="table run differs from row 2 on"):
            moving.move(source, target, NOW)
    moving.move(source, target, NOW)


def test_text_that_postgresql_cannot_hold_is_refused_by_table(
    sqlite_database: Database, postgresql_new: sa.URL
) -> None:
    with sqlite_database.begin() as conn:
        conn.execute(sa.insert(schema.workspace).values(name="nul\0", value={}))
    with pytest.raises(FormatError, match="table workspace holds a value"):
        moving.move(sqlite_database, postgresql_new, NOW)


MOVE = """
import sys
import sqlalchemy as sa
from beamwright.db import moving
from beamwright.db.engine import Database
source, target = map(sa.make_url, sys.argv[1:])
moving.move(Database(source), target, 1e9, lambda text: print(text, flush=True))
"""


@pytest.mark.parametrize("tables", [6])
def test_a_killed_move_leaves_nothing_under_the_name(source: Database, target: sa.URL, tables: int) -> None:
    before = contents(source)
    child = subprocess.Popen(
        [sys.executable, "-c", MOVE, address(source.url), address(target)],
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    for _ in range(tables):
        child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert contents(source) == before
    if source.is_postgresql:
        assert not Path(str(target.database)).exists()
    wait_for_end(source.url if source.is_postgresql else target)
    moving.move(source, target, NOW)


def address(url: sa.URL) -> str:
    return url.render_as_string(hide_password=False)


def wait_for_end(url: sa.URL) -> None:
    """The server ends a session soon after its client died."""
    database = Database(url)
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid() AND state <> 'idle'"
    )

    def is_alone() -> bool:
        with database.read() as conn:
            return not conn.exec_driver_sql(query).scalar()

    wait_for(is_alone)
    database.close()


# --- backups -------------------------------------------------------------------------------------


def test_a_backup_is_restored_to_the_letter(source: Database, target: sa.URL, tmp_path: Path) -> None:
    saved = archive.write(source, tmp_path / "saved.zip", NOW)
    before = contents(source)
    with source.begin() as conn:
        conn.execute(sa.insert(schema.workspace).values(name="later", value={}))
    archive.restore(archive.read(saved.path), target, lambda text: None)
    restored = Database(target)
    assert contents(restored) == before
    restored.close()


def test_a_backup_is_of_one_moment_while_others_write(source: Database, tmp_path: Path) -> None:
    done = []

    def write(shape: rows.Shape) -> None:
        with source.begin() as conn:
            conn.execute(sa.insert(schema.workspace).values(name=f"while {shape.name}", value={}))
        done.append(shape.name)

    real = rows.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "read", lambda conn, shape: (write(shape), real(conn, shape))[1])
        saved = archive.write(source, tmp_path / "saved.zip", NOW)
    held = {shape.name: tally["rows"] for shape, tally in saved.tables}
    assert held["workspace"] == 2 and len(done) > 20


def test_what_grew_only_is_compared_with_the_live_database(database: Database, tmp_path: Path) -> None:
    fill(database, tmp_path)
    saved = archive.write(database, tmp_path / "saved.zip", NOW)
    with database.begin() as conn:
        history.record(conn, "run", 1, "seen", actor="x", at=NOW)
    with database.read() as conn:
        assert archive.lost_since(saved, conn) == []
    with database.begin() as conn:
        guards.release(conn, "history")
        guards.release(conn, "payload")
        conn.execute(sa.delete(schema.history).where(schema.history.c.id == 3))
        conn.execute(sa.update(schema.history).where(schema.history.c.id == 5).values(actor="nobody"))
        conn.execute(sa.delete(schema.payload).where(schema.payload.c.id == "zz"))
    with database.read() as conn:
        assert set(archive.lost_since(saved, conn)) == {"history 3", "history 5", "payload zz"}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"tables/history") + 200] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def no_archive(path: Path) -> None:
    path.write_bytes(b"no zip at all")


def rewritten(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        manifest = json.loads(members["manifest.json"])
        change(manifest)
        members["manifest.json"] = json.dumps(manifest).encode()
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)

    return spoil


def rename_column(manifest: dict[str, object]) -> None:
    manifest["tables"][0]["columns"][0][0] = "name; DROP TABLE file"  # type: ignore[index]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (flip, r"sound backup|damaged|other content"),
        (cut, "no sound backup"),
        (no_archive, "no sound backup"),
        (rewritten(lambda m: m.update(revision="9001")), "schema 9001; this beamwright knows"),
        (rewritten(lambda m: m.update(format=7)), "form is 7"),
        (rewritten(lambda m: m.pop("tables")), "no sound backup"),
        (rewritten(rename_column), "not as in schema"),
        (rewritten(lambda m: m["tables"].pop()), "not as in schema"),
        (rewritten(lambda m: m["tables"][3].update(rows=1)), "other content than the 1"),
    ],
)
def test_a_spoilt_backup_is_refused_and_leaves_nothing(
    sqlite_database: Database, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    path = archive.write(fill(sqlite_database, tmp_path), tmp_path / "saved.zip", NOW).path
    spoil(path)
    target = tmp_path / "restored.db"
    with pytest.raises((FormatError, ChecksumError), match=message):
        archive.restore(archive.read(path), sa.URL.create("sqlite", database=str(target)), lambda text: None)
    assert not list(tmp_path.glob("*restored*")) and not list(tmp_path.glob(".*"))


def test_an_existing_backup_is_never_overwritten(sqlite_database: Database, tmp_path: Path) -> None:
    path = archive.write(sqlite_database, tmp_path / "saved.zip", NOW).path
    before = path.read_bytes()
    with pytest.raises(ConflictError, match="exists already"):
        archive.write(sqlite_database, path, NOW)
    assert path.read_bytes() == before


def test_a_backup_has_the_same_bytes_for_the_same_rows(sqlite_database: Database, tmp_path: Path) -> None:
    fill(sqlite_database, tmp_path)
    one, other = (archive.write(sqlite_database, tmp_path / f"{n}.zip", NOW).path for n in "ab")
    assert one.read_bytes() == other.read_bytes()


BACKUP = """
import sys
from beamwright.db import archive, rows
from beamwright.db.engine import Database
from pathlib import Path
real = rows.read
def read(conn, shape):
    print(shape.name, flush=True)
    return real(conn, shape)
rows.read = read
archive.write(Database(sys.argv[1]), Path(sys.argv[2]), 1.0)
"""


@pytest.mark.parametrize("tables", [1, 30])
def test_a_killed_backup_leaves_no_file_under_its_name(
    sqlite_database: Database, tmp_path: Path, tables: int
) -> None:
    fill(sqlite_database, tmp_path)
    path = tmp_path / "saved.zip"
    child = subprocess.Popen(
        [sys.executable, "-c", BACKUP, sqlite_database.name, str(path)], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    for _ in range(tables):
        child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not path.exists() or archive.read(path).rows > 0
    path.unlink(missing_ok=True)
    assert archive.read(archive.write(sqlite_database, path, NOW).path).rows > 0


def test_a_backup_without_room_leaves_nothing(sqlite_database: Database, tmp_path: Path) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
    done = subprocess.run(
        [sys.executable, "-c", limited + BACKUP, sqlite_database.name, str(tmp_path / "saved.zip")],
        capture_output=True,
        text=True,
    )
    assert "StorageError" in done.stderr and "cannot be written" in done.stderr
    assert not list(tmp_path.glob("*saved*")) and not list(tmp_path.glob(".*part*"))


def test_a_session_that_is_lost_while_it_copies_is_named(
    postgresql_database: Database, tmp_path: Path
) -> None:
    with postgresql_database.begin() as conn:
        conn.execute(
            sa.insert(schema.workspace), [{"name": f"{n}", "value": {"x": "y" * 5000}} for n in range(2000)]
        )
    with (
        pytest.raises(StorageError, match="lost"),
        postgresql_database.read() as conn,
    ):
        number = conn.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        blocks = rows.read(conn, next(shape for shape in rows.shapes(conn) if shape.name == "workspace"))
        next(blocks)
        with postgresql_database.begin() as other:
            other.exec_driver_sql("SELECT pg_terminate_backend(%s)", (number,))
        list(blocks)


def test_a_missing_backup_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no backup .*nowhere\.zip"):
        archive.read(tmp_path / "nowhere.zip")


def test_the_shapes_are_the_same_on_both_databases(
    sqlite_database: Database, postgresql_database: Database
) -> None:
    with sqlite_database.read() as one, postgresql_database.read() as other:
        assert rows.shapes(one) == rows.shapes(other)
        assert {shape.name for shape in rows.shapes(one)} == set(schema.metadata.tables)
        assert migrations.current(one) == migrations.current(other)
