from __future__ import annotations

import lzma
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from beamwright.core.errors import FormatError
from beamwright.db import migrations, moving, rows, schema
from beamwright.db.engine import Database
from beamwright.db.migrations import guards

# SQLite does not tell of what an index of an expression is.
pytestmark = pytest.mark.filterwarnings("ignore:.*expression-based index")


def test_the_revisions_give_exactly_the_tables(database: Database) -> None:
    with database.read() as conn:
        context = MigrationContext.configure(
            conn, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, schema.metadata) == []


def constraints(conn: sa.Connection) -> dict[str, object]:
    """What compare_metadata does not look at: the constraints of every table, however they were written."""
    found = sa.inspect(conn)
    return {
        table: {
            "columns": {(c["name"], str(c["type"]), c["nullable"]) for c in found.get_columns(table)},
            "primary": tuple(found.get_pk_constraint(table)["constrained_columns"]),
            "unique": {tuple(u["column_names"]) for u in found.get_unique_constraints(table)},
            "check": {str(c["sqltext"]) for c in found.get_check_constraints(table)},
            "foreign": {
                (tuple(f["constrained_columns"]), f["referred_table"]) for f in found.get_foreign_keys(table)
            },
            "indexes": {(i["name"], tuple(i["column_names"])) for i in found.get_indexes(table)},
        }
        for table in found.get_table_names()
        if table != "alembic_version"
    }


def test_constraints_are_the_same_as_well(sqlite_database: Database) -> None:
    made = sa.create_engine("sqlite://")
    with made.begin() as conn, sqlite_database.read() as migrated:
        schema.metadata.create_all(conn)
        assert constraints(migrated) == constraints(conn)
    made.dispose()


def test_head_is_the_last_revision(sqlite_database: Database) -> None:
    with sqlite_database.read() as conn:
        script = ScriptDirectory.from_config(migrations.config(conn))
    assert script.get_heads() == [migrations.HEAD]
    assert {revision.revision for revision in script.walk_revisions()} == migrations.known()


def test_every_guarded_table_exists() -> None:
    guarded = (*guards.APPEND_ONLY, *guards.APPEND_ONLY_SINCE_0002)
    assert set(guarded) <= set(schema.metadata.tables)
    assert {c.name for c in schema.iov.columns} - set(guards._IOV_KEPT) == {"id", "removed"}


def test_migrating_twice_does_nothing(sqlite_database: Database) -> None:
    before = sqlite_database.revision()
    sqlite_database.migrate()
    assert sqlite_database.revision() == before == migrations.HEAD


def test_a_failed_migration_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_connection: sa.Connection) -> None:
        raise RuntimeError("power went")

    monkeypatch.setattr("beamwright.db.migrations.versions.r0001_tables.guard", fail, raising=False)
    fresh = Database(tmp_path / "x.db")
    monkeypatch.setattr(guards, "guard", fail)
    with pytest.raises(RuntimeError, match="power went"):
        fresh.migrate()
    with fresh.read() as conn:
        assert sa.inspect(conn).get_table_names() == []
    fresh.close()


def test_a_newer_schema_is_refused_by_name(database: Database) -> None:
    with database.begin() as conn:
        conn.execute(sa.text("UPDATE alembic_version SET version_num = '9001'"))
    for refused in (database.check, database.migrate):
        with pytest.raises(FormatError, match="schema 9001") as caught:
            refused()
        assert "newer beamwright" in caught.value.hint


def test_an_empty_database_is_refused_until_migrated(tmp_path: Path) -> None:
    fresh = Database(tmp_path / "x.db")
    with pytest.raises(FormatError, match="schema none"):
        fresh.check()
    fresh.migrate()
    fresh.check()
    fresh.close()


def test_revisions_can_be_undone(postgresql_new: sa.URL) -> None:
    from alembic import command

    fresh = Database(postgresql_new)
    fresh.migrate()
    with fresh.begin() as conn:
        command.downgrade(migrations.config(conn), "base")
        assert sa.inspect(conn).get_table_names() == ["alembic_version"]
    fresh.migrate()
    fresh.check()
    fresh.close()


def test_two_that_migrate_at_once_do_it_once(tmp_path: Path) -> None:
    both = [Database(tmp_path / "x.db") for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(database.migrate) for database in both]:
            done.result()
    for database in both:
        database.check()
        database.close()


# A workspace's database as each released revision has left it.
RELEASED = {"0001": Path(__file__).parents[2] / "fixtures" / "workspace-0001.db.xz"}


def lines(conn: sa.Connection, shapes: list[rows.Shape]) -> dict[str, list[bytes]]:
    return {shape.name: list(rows.lines(rows.read(conn, shape))) for shape in shapes}


@pytest.fixture(params=["sqlite", "postgresql"])
def released(
    request: pytest.FixtureRequest, revision: str, tmp_path: Path
) -> Iterator[tuple[Database, list[rows.Shape]]]:
    """A database as a release has written it, and the tables that it knew."""
    path = tmp_path / "released.db"
    path.write_bytes(lzma.decompress(RELEASED[revision].read_bytes()))
    database = Database(path)
    with database.read() as conn:
        shapes = rows.shapes(conn)
        if request.param == "postgresql":
            url: sa.URL = request.getfixturevalue("postgresql_new")
            with moving.filling(url, revision) as there:
                for shape in shapes:
                    rows.write(there, shape, rows.read(conn, shape))
                rows.set_sequences(there, shapes)
            database = Database(url)
    yield database, shapes
    database.close()


def test_every_revision_but_the_last_was_released() -> None:
    assert set(RELEASED) == migrations.known() - {migrations.HEAD}


@pytest.mark.parametrize("revision", RELEASED)
def test_an_upgrade_keeps_every_row(released: tuple[Database, list[rows.Shape]], revision: str) -> None:
    database, shapes = released
    with database.read() as conn:
        before = lines(conn, shapes)
    assert database.revision() == revision and sum(map(len, before.values())) > 1000
    assert len([name for name, found in before.items() if found]) == len(shapes)
    with pytest.raises(FormatError, match=f"schema {revision}, not {migrations.HEAD}") as caught:
        database.check()
    assert caught.value.hint == "run `beamwright db upgrade`"
    database.migrate()
    database.check()
    with database.read() as conn:
        assert lines(conn, shapes) == before
        assert compare_metadata(MigrationContext.configure(conn), schema.metadata) == []
