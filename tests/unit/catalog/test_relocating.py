"""A workspace's folder that was moved or copied: its database learns where the files are, file by file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa

from beamwright import fsck
from beamwright.catalog import relocating
from beamwright.core.errors import ConflictError, UsageError
from beamwright.db import history, schema
from beamwright.db.engine import Database
from support.world import NOW, World

LATER = NOW + 50


@pytest.fixture
def places(database: Database, tmp_path: Path) -> tuple[Database, str, str]:
    """A world that was made in one folder, all of which is in another one now."""
    old, new = tmp_path / "here", tmp_path / "there_50%"
    World(database, old, kind="bundle").build()
    attempt, unit = schema.attempt, schema.unit
    with database.begin() as conn:
        for row in conn.execute(sa.select(attempt)).all():
            folder = f"{old}/farms/{row.farm}/jobs/{row.nonce[:2]}/{row.nonce}"
            conn.execute(sa.update(attempt).where(attempt.c.id == row.id).values(directory=folder))
        definition = {"inputs": [{"path": f"{old}/farms/near/store/a b.root"}], "not": f"{old}er/x"}
        conn.execute(sa.update(unit).where(unit.c.id == 1).values(definition=definition))
    shutil.move(old, new)
    return database, str(old), str(new)


def paths(db: Database) -> list[str]:
    with db.read() as conn:
        return list(conn.execute(sa.select(schema.replica.c.path).order_by(schema.replica.c.id)).scalars())


def relocate(db: Database, old: str, new: str) -> dict[str, int]:
    with db.read() as conn:
        found = list(relocating.look(conn, old, new))
        assert all(one.is_right for one in found)
    with db.begin() as conn:
        return relocating.settle(conn, found, old, new, LATER, "ann")


def test_everything_is_named_where_it_is_now(places: tuple[Database, str, str]) -> None:
    db, old, new = places
    assert {v.invariant for v in fsck.run(db, Path(new), now=LATER)} >= {6}
    before = paths(db)
    with db.read() as conn:
        assert relocating.former_root(conn) == old
    counts = relocate(db, old, new)
    assert paths(db) == [path.replace(old, new, 1) for path in before]
    with db.read() as conn:
        attempts = conn.execute(sa.select(schema.attempt.c.directory)).scalars().all()
        assert all(directory.startswith(f"{new}/farms/") for directory in attempts)
        (definition,) = conn.execute(
            sa.select(schema.unit.c.definition).where(schema.unit.c.id == 1)
        ).scalars()
        assert definition == {"inputs": [{"path": f"{new}/farms/near/store/a b.root"}], "not": f"{old}er/x"}
        assert counts == {"replicas": len(before), "attempts": len(attempts), "units": 1}
        line = history.of(conn, "replica", 1)[-1]
        assert (line.target, line.actor, line.reason) == ("relocated", "ann", f"from {old} to {new}")
        assert relocating.former_root(conn) == new
    assert [v.document() for v in fsck.run(db, Path(new), deep=True, now=LATER)] == []
    with db.read() as conn:
        assert list(relocating.look(conn, old, new)) == []


def test_a_file_that_is_not_as_registered_is_named(places: tuple[Database, str, str]) -> None:
    db, old, new = places
    first, second = (Path(path.replace(old, new, 1)) for path in paths(db)[:2])
    first.unlink()
    second.write_bytes(second.read_bytes()[::-1])
    with db.read() as conn:
        wrong = {
            one.path: relocating.differs(one) for one in relocating.look(conn, old, new) if not one.is_right
        }
    assert wrong[str(first)] == "it is not there"
    assert "it has sha256" in wrong[str(second)]
    assert len(wrong) == 2


def test_what_is_gone_is_not_looked_for(places: tuple[Database, str, str]) -> None:
    db, old, new = places
    Path(paths(db)[0].replace(old, new, 1)).unlink()
    with db.begin() as conn:
        conn.execute(sa.update(schema.replica).where(schema.replica.c.id == 1).values(state="lost"))
    relocate(db, old, new)
    assert all(path.startswith(new) for path in paths(db))


def test_replicas_that_others_changed_meanwhile_stay_as_they_are(places: tuple[Database, str, str]) -> None:
    db, old, new = places
    with db.read() as conn:
        found = list(relocating.look(conn, old, new))
    elsewhere = sa.update(schema.replica).where(schema.replica.c.id == 2)
    with db.begin() as conn:
        conn.execute(elsewhere.values(path="/elsewhere"))
    before = paths(db)
    with pytest.raises(ConflictError, match="changed the replicas"), db.begin() as conn:
        relocating.settle(conn, found, old, new, LATER, "ann")
    with db.begin() as conn:
        conn.execute(elsewhere.values(path=found[0].path))
    with pytest.raises(ConflictError, match="registered already"), db.begin() as conn:
        relocating.settle(conn, found, old, new, LATER, "ann")
    assert paths(db)[:1] + paths(db)[2:] == before[:1] + before[2:]


@pytest.mark.parametrize("old", ["there", "/a"])
def test_the_old_place_is_another_one(sqlite_database: Database, old: str) -> None:
    with sqlite_database.read() as conn:
        assert relocating.former_root(conn) is None
        with pytest.raises(UsageError, match="is not another place"):
            list(relocating.look(conn, old, "/a"))
