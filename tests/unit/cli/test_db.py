"""The commands of the database as an operator calls them."""

from __future__ import annotations

import lzma
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from beamwright.core.errors import ConflictError
from beamwright.core.settings import DEFAULT_SETTINGS, Settings, read_settings, with_database
from beamwright.db import claims, schema
from beamwright.db.engine import Database
from beamwright.db.migrations import guards
from beamwright.production.workspace import Workspace
from support.world import NOW, World

Call = Callable[..., Any]


FIXTURE = Path(__file__).parents[2] / "fixtures" / "workspace-0001.db.xz"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    workspace = Workspace.create(tmp_path / "workspace")
    World(workspace.db, workspace.root, kind="bundle").build()
    monkeypatch.chdir(workspace.root)
    yield workspace
    workspace.db.close()


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    workspace = Workspace.create(tmp_path / "older")
    (workspace.root / "beamwright.db").write_bytes(lzma.decompress(FIXTURE.read_bytes()))
    monkeypatch.chdir(workspace.root)
    return workspace


def test_an_older_database_names_the_command_that_upgrades_it_and_is_left_alone(
    older: Workspace, call: Call
) -> None:
    before = (older.root / "beamwright.db").read_bytes()
    for command in (["run", "ls"], ["fsck"], ["task", "ls"], ["db", "check"], ["db", "backup"]):
        done = call(*command)
        assert done.code == 4 and "schema 0001, not 0002" in done.err and "beamwright db upgrade" in done.err
    assert (older.root / "beamwright.db").read_bytes() == before
    assert call("db", "show", "--json").document["schema"] == "0001"


def test_an_upgrade_backs_up_first_and_keeps_all(older: Workspace, call: Call) -> None:
    assert call("db", "upgrade", "--dry-run").code == 0
    done = call("db", "upgrade", "--json")
    assert done.code == 0 and done.document["from"] == "0001" and done.document["to"] == "0002"
    assert Path(done.document["backup"]).is_file()
    assert len(call("run", "ls", "--json").rows) == 3
    faults = call("db", "check", "--json").rows
    assert [(fault["invariant"], fault["object"]) for fault in faults] == [
        (3, "unit 1")
    ]  # as it was released
    assert "already" in call("db", "upgrade").err
    restored = call("db", "restore", done.document["backup"], "--to", "again.db", "--json")
    assert restored.code == 0 and restored.document["rows"] == 1663


def test_a_newer_database_is_refused_by_name(world: Workspace, call: Call) -> None:
    with world.db.begin() as conn:
        conn.execute(sa.text("UPDATE alembic_version SET version_num = '9001'"))
    for command in (["run", "ls"], ["db", "upgrade"], ["db", "check"]):
        done = call(*command)
        assert done.code == 4 and "9001" in done.err and "newer beamwright" in done.err, command


def test_show_tells_where_and_what(world: Workspace, call: Call) -> None:
    found = call("db", "show", "--json").document
    assert found["database"].endswith("beamwright.db") and found["schema"] == found["current"] == "0002"
    assert found["history"] > 0 and found["sealed"] == 0 and found["backed-up"] is None


def test_a_lost_guard_is_a_fault(world: Workspace, call: Call) -> None:
    assert call("db", "check").code == 0
    with world.db.begin() as conn:
        guards.release(conn, "ledger")
    done = call("db", "check")
    assert done.code == 12 and "table ledger has lost the guard" in done.out


def test_a_move_switches_the_settings_after_it_has_verified(
    world: Workspace, call: Call, postgresql_new: sa.URL
) -> None:
    target = postgresql_new.set(drivername="postgresql").render_as_string()
    assert call("db", "move", target, "--dry-run").code == 0
    assert Workspace.open(world.root).settings == world.settings
    runs = call("run", "ls", "--json").out
    done = call("db", "move", target, "--json")
    assert done.code == 0 and "every row was verified" in done.err
    assert Workspace.open(world.root).db.is_postgresql
    assert call("run", "ls", "--json").out == runs
    assert call("fsck").code == 0
    assert call("db", "move", "back.db").code == 0
    assert call("run", "ls", "--json").out == runs and call("fsck").code == 0
    assert {table.name for table in schema.metadata.sorted_tables}
    done = call("db", "move", target)
    assert done.code == 3 and "not empty" in done.err


def test_a_list_that_is_registered_while_everything_moves_loses_nothing(
    world: Workspace, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was acknowledged is where the settings lead; the rest is refused, and the list given again."""
    from beamwright.catalog import registering
    from beamwright.catalog.writers import Source

    told: list[int] = []
    monkeypatch.setattr(registering, "BATCH", 100)

    def records() -> Iterator[tuple[int, dict[str, Any]]]:
        for n in range(4 * registering.BATCH):
            if n == 3 * registering.BATCH:
                assert moved.wait(120)
            name = f"{n:064x}"
            yield n, {"name": f"mc:{n}", "size": 1, "sha256": name, "adler32": name[-8:], "tier": "dst"}

    def progress(done: int) -> None:
        told.append(done)
        if len(told) == 1:
            assert call("db", "move", tmp_path / "new.db").code == 0
            moved.set()

    moved = threading.Event()
    with pytest.raises(ConflictError, match="was moved"):
        registering.register(world.db, "file", records(), Source("list", NOW), progress)
    again = Workspace.open(world.root)
    assert again.database_url.database == str(tmp_path / "new.db")
    with again.db.read() as conn:
        here = conn.execute(sa.select(sa.func.count()).where(schema.file.c.scope == "mc")).scalar_one()
    assert here == told[-1] == registering.BATCH
    moved.set()
    outcome = registering.register(again.db, "file", records(), Source("list", NOW))
    assert (outcome.new, outcome.equal) == (3 * registering.BATCH, registering.BATCH)
    again.db.close()


def test_a_copied_workspace_names_its_own_files(world: Workspace, call: Call, tmp_path: Path) -> None:
    world.db.close()
    old, new = world.root, tmp_path / "copy"
    shutil.copytree(old, new)
    assert call("db", "relocate", "-w", new).code == 2  # no attempt tells where it was
    told = call("db", "relocate", "-w", new, "--from", old, "--dry-run", "--json")
    assert (
        told.code == 0
        and "nothing was changed" in told.err
        and set(told.document) == {"from", "to", "replicas"}
    )
    told = call("db", "relocate", "-w", new, "--from", tmp_path / "nowhere")
    assert told.code == 2 and f"names no file below {tmp_path}/nowhere" in told.err
    told = call("db", "relocate", "-w", new, "--from", f"{old}/", "--json")
    assert told.code == 0 and told.document["replicas"] > 2
    shutil.rmtree(old)
    assert call("fsck", "--deep", "-w", new).err.count("invariant 6") == 0
    copied = Workspace.open(new)
    with copied.db.read() as conn:
        found = conn.execute(sa.select(schema.replica.c.path)).scalars().all()
        assert found and all(Path(path).is_relative_to(new) and Path(path).is_file() for path in found)
    copied.db.close()


def test_a_copy_with_a_damaged_file_stays_as_it_was(world: Workspace, call: Call, tmp_path: Path) -> None:
    world.db.close()
    old, new = world.root, tmp_path / "copy"
    shutil.copytree(old, new)
    (new / "raw" / "run1.raw").write_bytes(b"?")
    before = (new / "beamwright.db").read_bytes()
    told = call("db", "relocate", "-w", new, "--from", old, "--json")
    assert told.code != 0 and "nothing was changed" in told.err
    assert [row["path"] for row in told.rows] == [str(new / "raw" / "run1.raw")]
    assert (new / "beamwright.db").read_bytes() == before


def test_a_copy_that_names_the_database_of_the_original_is_refused(
    world: Workspace, call: Call, tmp_path: Path
) -> None:
    world.db.close()
    new = tmp_path / "copy"
    shutil.copytree(world.root, new)
    text = with_database((new / "beamwright.toml").read_text(), f"sqlite:///{world.root}/beamwright.db")
    (new / "beamwright.toml").write_text(text)
    told = call("db", "relocate", "-w", new, "--from", world.root)
    assert told.code != 0 and "the settings name" in told.err and "sqlite:///beamwright.db" in told.err


def test_a_workspace_at_work_is_not_moved(world: Workspace, call: Call) -> None:
    with world.lock():
        done = call("db", "move", "other.db")
    assert done.code == 3 and "in use by process" in done.err
    with world.db.begin() as conn:
        claims.take(conn, "planner", "process 7", world.clock.now(), 600)
    done = call("db", "move", "other.db")
    assert done.code == 3 and "process 7 works" in done.err
    assert Workspace.open(world.root).settings == world.settings and not (world.root / "other.db").exists()


def test_a_password_does_not_get_into_the_settings(world: Workspace, call: Call) -> None:
    done = call("db", "move", "postgresql://u:secret@host/name")
    assert done.code == 2 and ".pgpass" in done.err and "secret" not in done.err


def test_backup_restore_and_drill(world: Workspace, call: Call) -> None:
    assert call("db", "drill").code == 2
    saved = call("db", "backup", "--json").document
    assert [row["backup"] for row in call("db", "backups", "--json").rows] == [saved["backup"]]
    done = call("db", "drill", "--json")
    assert done.code == 0 and done.document["faults"] == [] and done.document["rows"] == saved["rows"]
    assert call("db", "show", "--json").document["drilled"] is not None
    assert call("db", "restore", saved["backup"]).code == 3
    (world.root / "beamwright.db").rename(world.root / "damaged.db")
    for left in world.root.glob("beamwright.db-*"):
        left.unlink()
    assert call("db", "restore", saved["backup"]).code == 0
    assert call("fsck").code == 0


def test_a_drill_finds_what_the_backup_holds_and_the_database_lost(world: Workspace, call: Call) -> None:
    call("db", "backup")
    with world.db.begin() as conn:
        guards.release(conn, "history")
        conn.execute(sa.delete(schema.history).where(schema.history.c.id == 4))
    done = call("db", "drill")
    assert done.code == 12 and "history 4" in done.out
    done = call("fsck")
    assert done.code == 12 and "was restored in a drill and is not as it should be" in done.out


def test_a_drill_finds_what_was_broken_when_the_backup_was_taken(world: Workspace, call: Call) -> None:
    with world.db.begin() as conn:
        conn.execute(sa.update(schema.job).where(schema.job.c.id == 1).values(state="failed"))
    call("db", "backup")
    done = call("db", "drill", "--json")
    assert done.code == 12 and {fault["invariant"] for fault in done.document["faults"]} >= {5}


def test_a_damaged_backup_fails_its_drill_and_that_is_kept(world: Workspace, call: Call) -> None:
    path = Path(call("db", "backup", "--json").document["backup"])
    data = bytearray(path.read_bytes())
    data[data.index(b"tables/history") + 100] ^= 1
    path.write_bytes(data)
    assert call("db", "drill").code == 12
    assert call("db", "show", "--json").document["drill-failed"] is not None


def test_a_cut_backup_fails_its_drill_and_is_listed_as_damaged(world: Workspace, call: Call) -> None:
    path = Path(call("db", "backup", "--json").document["backup"])
    path.write_bytes(path.read_bytes()[:-300])
    done = call("db", "drill", "--json")
    assert done.code == 12 and "no sound backup" in done.document["faults"][0]["message"]
    (row,) = call("db", "backups", "--json").rows
    assert row["schema"] == "damaged" and "no sound backup" in row["fault"]
    assert call("db", "backup", world.root / "nowhere" / "x.zip").code == 9


def test_seal_and_verify(world: Workspace, call: Call) -> None:
    done = call("db", "seal", "--json").document
    assert done["sealed"] > 0 and done["open"] == 0
    assert call("db", "verify").code == 0
    assert call("db", "verify", "--head", done["head"]).code == 0
    assert call("db", "verify", "--head", "0" * 64).code == 12
    with world.db.begin() as conn:
        guards.release(conn, "history")
        conn.execute(sa.update(schema.history).where(schema.history.c.id == 4).values(actor="nobody"))
    for command in (["db", "verify"], ["fsck"], ["db", "check"]):
        found = call(*command)
        assert found.code == 12 and "a line was changed" in found.out


def test_the_settings_change_in_one_line_only() -> None:
    text = with_database(DEFAULT_SETTINGS, "postgresql://me@host/name")
    changed = [
        (a, b) for a, b in zip(DEFAULT_SETTINGS.splitlines(), text.splitlines(), strict=True) if a != b
    ]
    assert changed == [('url = "sqlite:///beamwright.db"', 'url = "postgresql://me@host/name"')]


@pytest.mark.parametrize(
    "text", ["", "format = 1\n", "[database]\n\n[site]\nname = 'x'\n", "[site]\nname = 'x'"]
)
def test_settings_that_did_not_name_a_database_do_so(text: str) -> None:
    found = read_settings(with_database(text, "sqlite:///x.db"))
    wanted: Settings = read_settings(text)
    assert found.database.url == "sqlite:///x.db" and found.site == wanted.site


def test_a_world_backed_up_long_ago_needs_a_drill(sqlite_database: Database, tmp_path: Path) -> None:
    from beamwright import fsck
    from beamwright.db import operations

    operations.note(sqlite_database, "a.zip", "backed-up", "operator", NOW, {})
    assert fsck.run(sqlite_database, tmp_path, now=NOW + 29 * 86_400) == []
    (found,) = fsck.run(sqlite_database, tmp_path, now=NOW + 31 * 86_400)
    assert found.invariant == 24 and "30 days" in found.message
    operations.note(sqlite_database, "a.zip", "drilled", "operator", NOW + 30 * 86_400, {})
    assert fsck.run(sqlite_database, tmp_path, now=NOW + 31 * 86_400) == []
    (tmp_path / "beamwright.toml").write_text("[database]\ndrill_days = 0.5\n")
    assert [found.invariant for found in fsck.run(sqlite_database, tmp_path, now=NOW + 31 * 86_400)] == [24]
