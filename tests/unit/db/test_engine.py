from __future__ import annotations

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from beamwright.core.errors import ConfigError, ConflictError, FormatError, StorageError, UsageError
from beamwright.db import schema
from beamwright.db.engine import Database, insert_id, insert_new
from support.databases import Server


def put(database: Database, name: str) -> None:
    with database.begin() as conn:
        conn.execute(sa.insert(schema.workspace).values(name=name, value={"n": 1}))


def names(database: Database) -> list[str]:
    with database.read() as conn:
        return list(conn.execute(sa.select(schema.workspace.c.name).order_by("name")).scalars())


def test_a_committed_write_is_read_and_a_failed_one_is_not(database: Database) -> None:
    put(database, "kept")
    with pytest.raises(RuntimeError), database.begin() as conn:
        conn.execute(sa.insert(schema.workspace).values(name="lost", value={}))
        raise RuntimeError
    assert names(database) == ["kept"]


def test_a_reading_transaction_cannot_write(database: Database) -> None:
    with pytest.raises((StorageError, sa.exc.DBAPIError)), database.read() as conn:
        conn.execute(sa.insert(schema.workspace).values(name="x", value={}))
    assert names(database) == []


def test_a_reading_transaction_sees_one_state(database: Database) -> None:
    with database.read() as conn:
        assert conn.execute(sa.select(sa.func.count()).select_from(schema.workspace)).scalar() == 0
        put(database, "later")
        assert conn.execute(sa.select(sa.func.count()).select_from(schema.workspace)).scalar() == 0
    assert names(database) == ["later"]


def test_foreign_keys_are_enforced(database: Database) -> None:
    with pytest.raises(sa.exc.IntegrityError), database.begin() as conn:
        conn.execute(sa.insert(schema.chunk_file).values(chunk_id=1, file_id=1, role="raw"))


def test_a_savepoint_undoes_only_its_own_part(database: Database) -> None:
    with database.begin() as conn:
        conn.execute(sa.insert(schema.workspace).values(name="a", value={}))
        with pytest.raises(sa.exc.IntegrityError), conn.begin_nested():
            conn.execute(sa.insert(schema.workspace).values(name="b", value={}))
            conn.execute(sa.insert(schema.workspace).values(name="a", value={}))
    assert names(database) == ["a"]


def test_a_second_transaction_in_one_thread_is_refused_at_once(database: Database) -> None:
    with database.begin(), pytest.raises(UsageError, match="open already"), database.begin():
        pass
    put(database, "after")
    assert names(database) == ["after"]


def test_a_writer_that_waits_too_long_gets_a_clear_conflict(sqlite_database: Database) -> None:
    other = Database(sqlite_database.name, busy_seconds=0.05)
    with sqlite_database.begin(), pytest.raises(ConflictError, match="another process writes"):
        put(other, "x")
    other.close()


def test_a_row_locked_too_long_gives_a_clear_conflict(postgresql_database: Database) -> None:
    put(postgresql_database, "x")
    other = Database(postgresql_database.url, busy_seconds=0.05)
    change = sa.update(schema.workspace).values(value={"n": 2})
    with postgresql_database.begin() as conn:
        conn.execute(change)
        with pytest.raises(ConflictError, match="another process writes"), other.begin() as second:
            second.execute(change)
    other.close()


def test_threads_write_one_after_the_other(database: Database) -> None:
    threads = [threading.Thread(target=put, args=(database, f"t{i}")) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(database)) == 8


def test_sqlite_is_durable_and_in_safe_journal_mode(sqlite_database: Database) -> None:
    with sqlite_database.begin() as conn:
        values = {
            p: conn.exec_driver_sql(f"PRAGMA {p}").scalar()
            for p in ("synchronous", "foreign_keys", "journal_mode")
        }
        version = tuple(
            int(n) for n in str(conn.exec_driver_sql("SELECT sqlite_version()").scalar()).split(".")
        )
    assert values == {
        "synchronous": 2,
        "foreign_keys": 1,
        "journal_mode": "wal" if version >= (3, 51, 3) else "delete",
    }


def test_insert_new_leaves_rows_that_exist(database: Database) -> None:
    rows = [{"name": "a", "value": {"n": 1}}, {"name": "a", "value": {"n": 2}}, {"name": "b", "value": {}}]
    with database.begin() as conn:
        assert insert_new(conn, schema.workspace, rows) == 2
        assert insert_new(conn, schema.workspace, []) == 0
        assert conn.execute(
            sa.select(schema.workspace.c.value).where(schema.workspace.c.name == "a")
        ).scalar() == {"n": 1}


def test_insert_id_returns_the_new_key(database: Database) -> None:
    with database.begin() as conn:
        first = insert_id(conn, schema.tag, name="a", kind="json", version=0, created=1.0)
        second = insert_id(conn, schema.tag, name="b", kind="json", version=0, created=1.0)
    assert second == first + 1


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_bytes(b"these are notes, not tables" * 100)
    with pytest.raises(FormatError, match=r"notes\.db is no sound database"):
        put(Database(path), "x")


def test_a_path_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"missing.x\.db"):
        put(Database(tmp_path / "missing" / "x.db"), "x")


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(StorageError, match="cannot be reached") as caught:
        put(Database("postgresql://u:secret@127.0.0.1:1/name"), "x")
    assert "secret" not in str(caught.value)


def test_text_is_text_on_a_server_that_was_made_without_an_encoding(postgresql_server: Server) -> None:
    url = postgresql_server.url.set(database="plain")
    with postgresql_server.engine.connect() as conn:
        conn.exec_driver_sql("CREATE DATABASE plain TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    database = Database(url)
    database.migrate()
    database.check()
    put(database, "5 µm")
    assert names(database) == ["5 µm"]
    database.close()
    postgresql_server.drop(url)


def test_another_kind_of_database_is_refused() -> None:
    with pytest.raises(ConfigError, match="mysql"):
        Database("mysql://u:secret@host/name")


def test_open_finds_the_database_that_the_workspace_names(tmp_path: Path, sqlite_template: Path) -> None:
    (tmp_path / "beamwright.toml").write_text('format = 1\n[database]\nurl = "sqlite:///kept/here.db"\n')
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "here.db").write_bytes(sqlite_template.read_bytes())
    opened = Database.open(tmp_path)
    put(opened, "x")
    assert names(opened) == ["x"]
    opened.close()


def test_open_refuses_a_folder_that_is_no_workspace(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no workspace"):
        Database.open(tmp_path)
