"""Each invariant is shown to hold in a sound world and to be caught when it is broken."""

from __future__ import annotations

import ast
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

import beamwright.fsck
from beamwright import fsck
from beamwright.db import history, schema
from beamwright.db.engine import Database, insert_id
from beamwright.db.migrations import guards
from beamwright.fsck import Violation
from support.world import NOW, World

Plant = Callable[[World, sa.Connection], None]


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    return World(sqlite_database, tmp_path, kind="bundle").build()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world for tests that plant in the database alone, inside a transaction that is rolled back."""
    root = tmp_path_factory.mktemp("sound")
    if request.param == "postgresql":
        server = request.getfixturevalue("postgresql_server")
        url = server.take()
        database = Database(url)
        yield World(database, root, kind="bundle").build()
        database.close()
        server.give_back(url)
        return
    shutil.copyfile(request.getfixturevalue("sqlite_template"), root / "beamwright.db")
    database = Database(root / "beamwright.db")
    yield World(database, root, kind="bundle").build()
    database.close()


class Within:
    """A database as seen inside an open transaction."""

    def __init__(self, conn: sa.Connection) -> None:
        self.conn = conn

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        yield self.conn


def violations(world: World, deep: bool = False, now: float = NOW) -> list[Violation]:
    return fsck.run(world.db, world.root, deep=deep, now=now)


def numbers(found: list[Violation]) -> set[int]:
    return {violation.invariant for violation in found}


def output_path(world: World, name: str = "reco/dst.1") -> Path:
    with world.db.read() as conn:
        query = sa.select(schema.replica.c.path).join(schema.file).where(schema.file.c.name == name)
        return Path(conn.execute(query).scalar_one())


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_world_has_no_violation(database: Database, tmp_path: Path, deep: bool) -> None:
    assert violations(World(database, tmp_path, kind="bundle").build(), deep) == []


def test_an_empty_workspace_has_no_violation(sqlite_database: Database, tmp_path: Path) -> None:
    assert fsck.run(sqlite_database, tmp_path) == []


def test_every_check_has_a_number_and_a_title() -> None:
    found = [check.number for check in fsck.CHECKS]
    assert found == sorted(set(found))
    assert all(check.title for check in fsck.CHECKS)


def test_fsck_shares_no_code_with_what_it_checks() -> None:
    allowed = ("beamwright.core", "beamwright.db", "beamwright.event.validate", "beamwright.fsck")
    for path in Path(beamwright.fsck.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module if isinstance(node, ast.ImportFrom) else ""
            if module and module.startswith("beamwright"):
                assert module.startswith(allowed), f"{path.name} imports {module}"
                taken = {name.name for name in node.names} if module == "beamwright.db" else {"schema"}
                assert taken == {"schema"}, f"{path.name} imports {taken} of beamwright.db"


# --- planted in the database ---------------------------------------------------------------------


def copy_row(conn: sa.Connection, table: sa.Table, id: int, **changes: object) -> int:
    row = conn.execute(sa.select(table).where(table.c.id == id)).one()._asdict()
    return insert_id(conn, table, **{key: value for key, value in row.items() if key != "id"} | changes)


def change(table: sa.Table, **values: object) -> Plant:
    def plant(_world: World, conn: sa.Connection) -> None:
        first = conn.execute(sa.select(sa.func.min(table.c.id))).scalar_one()
        assert conn.execute(sa.update(table).where(table.c.id == first).values(values)).rowcount == 1

    return plant


def two_accepted(world: World, conn: sa.Connection) -> None:
    attempt = world.ids[f"attempt{world.ids['unit1']}"]
    copy_row(conn, schema.attempt, attempt, number=2, nonce="other", report_sha256="r2")


def second_collection(world: World, conn: sa.Connection) -> None:
    copy_row(conn, schema.collection, world.ids["collection1"], name="again")


def rejected_output(world: World, conn: sa.Connection) -> None:
    attempt = world.ids[f"attempt{world.ids['unit1']}"]
    conn.execute(sa.update(schema.attempt).where(schema.attempt.c.id == attempt).values(state="rejected"))


def shared_keys(world: World, conn: sa.Connection) -> None:
    link, unit = schema.unit_input, schema.unit
    conn.execute(
        sa.update(link).where(link.c.unit_id == world.ids["unit2"]).values(chunk_id=world.ids["chunk1"])
    )
    conn.execute(sa.update(unit).where(unit.c.id == world.ids["unit2"]).values(first_run=1, last_run=1))


def open_job(world: World, conn: sa.Connection) -> None:
    job = world.ids[f"job{world.ids['unit1']}"]
    conn.execute(sa.update(schema.job).where(schema.job.c.id == job).values(state="failed"))


def unnamed_quarantine(world: World, conn: sa.Connection) -> None:
    conn.execute(sa.delete(schema.quarantine).where(schema.quarantine.c.unit_id == world.ids["unit1"]))


def no_lease(world: World, conn: sa.Connection) -> None:
    leases = sa.and_(schema.history.c.kind == "attempt", schema.history.c.target == "leased")
    conn.execute(sa.delete(schema.history).where(leases))


def forbidden_step(world: World, conn: sa.Connection) -> None:
    values = {"at": NOW, "kind": "job", "object": "1", "actor": "x", "reason": "", "data": {}}
    conn.execute(sa.insert(schema.history).values(source="ok", target="running", **values))


def jump(world: World, conn: sa.Connection) -> None:
    values = {"at": NOW, "kind": "run", "object": "1", "actor": "x", "reason": "", "data": {}}
    conn.execute(sa.insert(schema.history).values(source="open", target="closed", **values))


def ghost(world: World, conn: sa.Connection) -> None:
    history.record(conn, "job", 999, "prepared", actor="x", at=NOW)


def overdue(world: World, conn: sa.Connection) -> None:
    attempt = world.ids[f"attempt{world.ids['unit1']}"]
    late = {"number": 2, "nonce": "late", "state": "leased", "deadline": NOW - 5000, "report_sha256": None}
    new = copy_row(conn, schema.attempt, attempt, **late)
    history.record(conn, "attempt", new, "leased", actor="x", at=NOW)


def accepted_twice(world: World, conn: sa.Connection) -> None:
    attempt = world.ids[f"attempt{world.ids['unit1']}"]
    values = {"at": NOW, "kind": "attempt", "object": str(attempt), "actor": "x", "reason": "", "data": {}}
    conn.execute(sa.insert(schema.history).values(source="reported", target="accepted", **values))


def shared_report(world: World, conn: sa.Connection) -> None:
    conn.execute(sa.update(schema.attempt).values(report_sha256="one for all"))


def stray_raw(world: World, conn: sa.Connection) -> None:
    conn.execute(sa.delete(schema.chunk_file))


def made_file(**values: object) -> Plant:
    def plant(world: World, conn: sa.Connection) -> None:
        conn.execute(sa.update(schema.file).where(schema.file.c.name == "reco/dst.1").values(values))

    return plant


def points_into(name: str, replica_state: str = "verified") -> Plant:
    """Let the merged file be a pointer skim that leads into a file of this name, or into an unknown UUID."""

    def plant(world: World, conn: sa.Connection) -> None:
        file, replica = schema.file, schema.replica
        conn.execute(sa.update(file).where(file.c.name == name).values(uuid=f"uuid of {name}"))
        named = sa.select(file.c.id).where(file.c.name == name)
        conn.execute(sa.update(replica).where(replica.c.file_id.in_(named)).values(state=replica_state))
        skim = file.c.name == "merged/dst"
        lineage = conn.execute(sa.select(file.c.lineage).where(skim)).scalar_one()
        led = lineage | {"sources": [f"uuid of {name}"]}
        conn.execute(sa.update(file).where(skim).values(lineage=led))

    return plant


def orphan(world: World, conn: sa.Connection) -> None:
    conn.execute(sa.delete(schema.file_parent))


def overlapping_interval(world: World, conn: sa.Connection) -> None:
    copy_row(
        conn, schema.iov, conn.execute(sa.select(sa.func.min(schema.iov.c.id))).scalar_one(), first_section=5
    )


def ended_interval(world: World, conn: sa.Connection) -> None:
    conn.execute(sa.update(schema.iov).values(removed=2))


@pytest.mark.parametrize(
    ("number", "plant", "words"),
    [
        (1, two_accepted, "more than one accepted attempt"),
        (1, second_collection, "2 valid collections of stream dst"),
        (1, rejected_output, "which is rejected"),
        (2, shared_keys, "is read by units"),
        (2, open_job, "is closed while job"),
        (2, change(schema.chunk, records={"event": 11}), "10 of 11 records were read"),
        (2, change(schema.collection, events=6), "of the 13 records of its inputs"),
        (3, change(schema.ledger, read=11), "does not balance"),
        (3, change(schema.ledger, created=1), "does not balance"),
        (3, change(schema.ledger, written=8), "does not balance"),
        (3, change(schema.ledger, filtered=1), "does not balance"),
        (3, change(schema.ledger, prescaled=1), "does not balance"),
        (3, change(schema.ledger, quarantined=0), "does not balance"),
        (3, change(schema.ledger, filtered=-2, written=11), "does not balance"),
        (3, change(schema.output, events=6), "wrote 7 to dst, which holds 6"),
        (3, unnamed_quarantine, "1 quarantined, 0 named"),
        (4, rejected_output, "without an accepted attempt"),
        (4, no_lease, "never leased"),
        (4, change(schema.attempt, report_sha256=None), "which has no report"),
        (5, forbidden_step, "which no table allows"),
        (5, jump, "was closed and then went from open"),
        (5, ghost, "has a history and is not there"),
        (5, change(schema.collection, state="superseded"), "its history ends with valid"),
        (7, overdue, "after its deadline"),
        (8, accepted_twice, "was accepted more than once"),
        (8, shared_report, "more than one attempt"),
        (9, made_file(sha256=""), "lacks sha256"),
        (9, made_file(adler32="xyz"), "lacks adler32"),
        (9, made_file(size=-1), "lacks size"),
        (9, made_file(attempt_id=None), "lacks producer"),
        (9, made_file(lineage={}), "lacks release, resolved conditions hash"),
        (9, orphan, "lacks inputs"),
        (9, stray_raw, "lacks delivery"),
        (10, change(schema.replica, verified_by=None), "nobody says"),
        (11, change(schema.replica, state="lost"), "has no verified replica"),
        (11, points_into("nothing"), "leads into uuid of nothing, which is in no catalogue"),
        (11, points_into("reco/dst.1"), "by the pointer skim p:merged/dst and was merged by unit"),
        (11, points_into("reco/dst.2", "lost"), "the pointer skim p:merged/dst and has no verified replica"),
        (20, change(schema.payload, data=b"other", size=5), "other content"),
        (20, change(schema.payload, size=1), "registered are 1"),
        (21, change(schema.global_tag, merkle="0" * 64), "not what its hash says"),
        (21, change(schema.collection, resolved_hash="0" * 64), "other conditions"),
        (22, overlapping_interval, "in one version"),
        (22, ended_interval, "does not cover"),
    ],
)
def test_a_planted_violation_is_caught(sound: World, number: int, plant: Plant, words: str) -> None:
    with sound.db.begin() as conn:
        for table in guards.APPEND_ONLY:
            guards.release(conn, table)
        plant(sound, conn)
        everything = fsck.run(Within(conn), sound.root, now=NOW)
        conn.rollback()
    found = [violation for violation in everything if violation.invariant == number]
    assert any(words in violation.message for violation in found), everything
    assert all(violation.document().keys() == {"invariant", "object", "message"} for violation in found)


def test_a_row_that_refers_to_nothing_is_found(world: World) -> None:
    with world.db.begin() as conn:
        conn.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
    engine = sa.create_engine(world.db.url)
    with engine.begin() as conn:
        conn.execute(sa.insert(schema.chunk_file).values(chunk_id=1, file_id=999, role="x"))
    engine.dispose()
    assert any(v.invariant == 23 and "refers to a row of file" in v.message for v in violations(world))


# --- planted on storage --------------------------------------------------------------------------


def test_a_lost_a_truncated_and_a_touched_file_are_found(world: World) -> None:
    for name, act, words in (
        ("reco/dst.1", lambda path: path.unlink(), "cannot be read"),
        ("reco/dst.2", lambda path: path.write_bytes(b"short"), "has 5 bytes"),
        ("merged/dst", lambda path: os.utime(path, (1, 1)), "was touched or replaced"),
    ):
        act(output_path(world, name))
        found = [v.message for v in violations(world) if v.object == f"file p:{name}"]
        assert len(found) == 1 and words in found[0]


def test_only_a_deep_look_finds_a_silent_flip(world: World) -> None:
    path = output_path(world)
    status = path.stat()
    with path.open("r+b") as stream:
        stream.write(b"E")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert violations(world) == []
    assert [(v.invariant, "has sha256" in v.message) for v in violations(world, deep=True)] == [(6, True)]


def test_a_deep_look_validates_the_content_of_our_own_files(
    sqlite_database: Database, tmp_path: Path
) -> None:
    found = violations(World(sqlite_database, tmp_path, kind="rntuple").build(), deep=True)
    assert len(found) == 3 and numbers(found) == {6}


def test_a_flipped_raw_file_is_found(world: World) -> None:
    (world.root / "raw" / "run1.raw").write_bytes(b"RAW data of run 1")
    assert violations(world) == []
    assert numbers(violations(world, deep=True)) == {6}


def test_files_that_nobody_knows_are_found(world: World) -> None:
    store = output_path(world).parent
    (store / "extra.root").write_bytes(b"x")
    (store.parent / ("f" * 32)).mkdir()
    (store.parent / ("f" * 32) / "dst.root").write_bytes(b"x")
    found = {v.object.rpartition("/")[2]: v.message for v in violations(world) if v.invariant == 17}
    assert "is none of them" in found["extra.root"]
    assert "belongs to no attempt" in found["dst.root"]


@pytest.mark.parametrize("state", ["running", "lost", "rejected", "superseded"])
def test_files_in_flight_and_in_quarantine_are_known(world: World, state: str) -> None:
    attempt = world.ids[f"attempt{world.ids['unit1']}"]
    with world.db.begin() as conn:
        values = {"number": 2, "nonce": "e" * 32, "state": "leased", "report_sha256": None}
        new = copy_row(conn, schema.attempt, attempt, **values)
        history.record(conn, "attempt", new, "leased", actor="x", at=NOW)
        steps = {"running": ["submitted", "running"], "lost": ["lost"]}.get(state, ["reported", state])
        for source, target in zip(["leased", *steps], steps, strict=False):
            history.move(conn, schema.attempt, new, source, target, actor="x", at=NOW)
    folder = output_path(world).parent.parent / ("e" * 32)
    folder.mkdir()
    (folder / "dst.root.part").write_bytes(b"x")
    assert violations(world) == []


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("indexes/*", "which is not there"),
        ("snapshots/*", "which is not there"),
        ("farms/*/store/*/*/report.json", "its report is gone"),
    ],
)
def test_what_rows_rest_on_must_be_there(world: World, pattern: str, words: str) -> None:
    next(world.root.glob(pattern)).unlink()
    assert [(v.invariant, words in v.message) for v in violations(world)] == [(23, True)]


def test_another_report_or_index_than_the_acknowledged_one_is_found(world: World) -> None:
    next(world.root.glob("farms/*/store/*/*/report.json")).write_bytes(b"other")
    next(world.root.glob("indexes/*")).write_bytes(b"other")
    assert ["another report" in v.message for v in violations(world)] == [True]
    assert len([v for v in violations(world, deep=True) if v.invariant == 23]) == 2


def test_fsck_changes_nothing(world: World) -> None:
    def state() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in world.root.rglob("*") if p.is_file() and "-shm" not in p.name}

    before = state()
    violations(world, deep=True)
    assert state() == before
