"""Mirrors of conditions: version by version, checked by hash, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from beamwright.conditions import sharing, tags, versions
from beamwright.conditions.mirror import Mirror, move_source, take_snapshot
from beamwright.conditions.payload import Payload
from beamwright.conditions.sharing import DatabaseSource
from beamwright.conditions.snapshot import Snapshot
from beamwright.core.errors import (
    BeamwrightError,
    ChecksumError,
    ConditionsError,
    ConflictError,
    RemoteError,
    StateError,
    UnknownNameError,
)
from beamwright.core.runs import Interval
from beamwright.db import history, schema
from beamwright.db.engine import Database
from beamwright.db.migrations import guards
from beamwright.fsck import conditions as judged
from beamwright.fsck.model import Context
from beamwright.testing.strategies import intervals, payloads

numbers = count()


def constants(value: float) -> Payload:
    return Payload.arrays({"scale": np.array([float(value)])}, {"unit": "ns"})


def run(number: int) -> Interval:
    return Interval.runs("A", number, number)


def publish(db: Database, name: str, *rows: tuple[Interval, float], at: float, replace: bool = False) -> None:
    tag = f"{name}/Scale"
    with db.begin() as conn:
        tags.create_global_tag(conn, name, at)
        tags.create_tag(conn, tag, "arrays", at)
        named = [(i, tags.put_payload(conn, constants(v), at), "fitted", "") for i, v in rows]
        version = tags.append(conn, tag, named, at, replace=replace)
        tags.sweep(conn, name, {tag: version}, at)


@pytest.fixture
def elsewhere(database: Database, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    """Another database of the same kind, with three versions of a global tag in it."""
    if database.is_postgresql:
        server = request.getfixturevalue("postgresql_server")
        made = Database(server.take())
    else:
        template = request.getfixturevalue("sqlite_template")
        shutil.copyfile(template, tmp_path / "elsewhere.db")
        made = Database(tmp_path / "elsewhere.db")
    publish(made, "g", (run(1), 1.0), (Interval.runs("A", 2, 5), 2.0), at=10.0)
    publish(made, "g", (run(6), 3.0), at=20.0)
    publish(made, "g", (run(3), 4.0), at=30.0, replace=True)
    yield made
    made.close()
    if database.is_postgresql:
        server.give_back(made.url)


def pull(database: Database, source: Any, *only: str) -> list[tuple[int, int, int, int]]:
    found = source if hasattr(source, "payload") else DatabaseSource(source)
    return [
        (one.before, one.version, one.intervals, one.payloads)
        for one in Mirror(database, found, lambda: 99.0).pull(only)
    ]


def content(database: Database, name: str = "g") -> list[Any]:
    """All that a global tag says: each version of it, each version of its tags, each date, its history."""
    with database.read() as conn:
        row = conn.execute(sa.select(schema.global_tag).where(schema.global_tag.c.name == name)).one()
        found: list[Any] = [(row.state, row.version, row.merkle, row.created, row.frozen)]
        for version in range(row.version + 1):
            for tag, v in tags.members(conn, name, version).items():
                held = tags.intervals(conn, tag, v)
                found.append(
                    (tag, v, [(x.interval, x.payload_id, x.origin, x.added, x.removed) for x in held])
                )
        found += [versions.version_at(conn, name, at) for at in (10.0, 15.0, 20.0, 31.0)]
        found += [versions.tag_log(conn, f"{name}/Scale"), versions.global_log(conn, name)]
        return found


def judge(database: Database) -> list[Any]:
    with database.read() as conn:
        context = Context.__new__(Context)
        object.__setattr__(context, "conn", conn)
        checks = (judged.payload_hashes, judged.frozen_as_recorded, judged.no_overlap_no_gap)
        return [finding for check in checks for finding in check(context)]


def test_a_mirror_says_of_each_version_and_date_what_the_source_says(
    database: Database, elsewhere: Database
) -> None:
    assert pull(database, elsewhere) == [(0, 3, 6, 4)]
    assert content(database) == content(elsewhere)
    with database.read() as conn:
        assert tags.get_payload(conn, constants(4).id) == constants(4)
        global_tag = conn.execute(sa.select(schema.global_tag.c.id)).scalar_one()
        assert [entry.actor for entry in history.of(conn, "global_tag", global_tag)] == ["mirror"]
    assert judge(database) == []


def test_a_second_pull_brings_what_is_new_alone(database: Database, elsewhere: Database) -> None:
    pull(database, elsewhere)
    assert pull(database, elsewhere) == [(3, 3, 0, 0)]
    publish(elsewhere, "g", (run(7), 4.0), at=40.0)
    with elsewhere.begin() as conn:
        version = tags.withdraw(conn, "g/Scale", run(1), 50.0)
        tags.sweep(conn, "g", {"g/Scale": version}, 50.0)
    assert pull(database, elsewhere) == [(3, 5, 1, 0)]
    assert content(database) == content(elsewhere)


def test_a_frozen_global_tag_comes_with_its_hash_and_date(database: Database, elsewhere: Database) -> None:
    pull(database, elsewhere)
    with elsewhere.begin() as conn:
        root = tags.freeze(conn, "g", 60.0)
    pull(database, elsewhere)
    assert content(database)[0] == ("frozen", 3, root, 10.0, 60.0)
    assert judge(database) == []


def test_only_what_is_named_is_mirrored(database: Database, elsewhere: Database) -> None:
    publish(elsewhere, "other", (run(1), 9.0), at=40.0)
    assert len(pull(database, elsewhere, "other")) == 1
    with database.read() as conn:
        assert conn.execute(sa.select(schema.tag.c.name)).scalars().all() == ["other/Scale"]
    with pytest.raises(UnknownNameError, match="did you mean other"):
        pull(database, elsewhere, "othr")


def test_a_mirror_is_read_only_and_a_global_tag_of_ones_own_may_use_its_tags(
    database: Database, elsewhere: Database
) -> None:
    pull(database, elsewhere)
    with database.begin() as conn:
        mine = tags.put_payload(conn, constants(8), 70.0)
        for change in (
            lambda: tags.append(conn, "g/Scale", [(run(9), mine, "loaded", "")], 70.0),
            lambda: tags.withdraw(conn, "g/Scale", run(1), 70.0),
            lambda: tags.freeze(conn, "g", 70.0),
        ):
            with pytest.raises(StateError, match="is a mirror of the one at"):
                change()
        tags.create_tag(conn, "own/Offset", "arrays", 70.0)
        offset = tags.append(conn, "own/Offset", [(run(1), mine, "loaded", "")], 70.0)
        with pytest.raises(StateError, match="global tag g is a mirror"):
            tags.sweep(conn, "g", {"own/Offset": offset}, 70.0)
        tags.create_global_tag(conn, "own", 70.0)
        tags.sweep(conn, "own", {"own/Offset": offset} | tags.members(conn, "g"), 70.0)
        assert tags.resolve(conn, "own", ["Offset", "Scale"], run(1)).gaps == []


def test_a_name_that_is_taken_here_or_by_another_source_is_refused(
    database: Database, elsewhere: Database
) -> None:
    publish(database, "g", (run(1), 1.0), at=5.0)
    with pytest.raises(ConflictError, match="global tag g is made here"):
        pull(database, elsewhere)
    publish(elsewhere, "h", (run(1), 1.0), at=5.0)
    pull(database, elsewhere, "h")
    source = DatabaseSource(elsewhere)
    source.name = "https://new.example"
    with pytest.raises(ConflictError, match=r"not at https://new\.example.*--moved-from"):
        pull(database, source, "h")
    with database.begin() as conn:
        assert move_source(conn, elsewhere.name, source.name) == 2
    assert pull(database, source, "h") == [(1, 1, 0, 0)]


class Tampering(DatabaseSource):
    """Says something else in one place."""

    def __init__(self, database: Database, bad: str = "", shift: int = 0) -> None:
        super().__init__(database)
        self.bad, self.shift = bad, shift

    def payload(self, payload_id: str) -> Payload:
        found = super().payload(payload_id)
        return Payload(found.kind, found.data[:-8] + bytes(8)) if payload_id == self.bad else found

    def tag(self, name: str, since: int) -> Any:
        page = super().tag(name, since)
        for row in page["added"]:
            row[2] = [row[2][0] + self.shift, *row[2][1:]] if row[1][0] == 6 else row[2]
        return page


def test_a_tampered_payload_is_named_and_nothing_of_its_version_is_visible(
    database: Database, elsewhere: Database
) -> None:
    bad = constants(3).id
    with pytest.raises(ChecksumError, match=f"payload {bad} of .* has other content; it was not taken"):
        pull(database, Tampering(elsewhere, bad))
    with database.read() as conn:
        for table in (schema.tag, schema.iov, schema.global_tag):
            assert conn.execute(sa.select(table)).all() == []
        with pytest.raises(UnknownNameError):
            tags.get_payload(conn, bad)
    assert pull(database, elsewhere) == [(0, 3, 6, 4)]


def test_tampered_intervals_of_a_frozen_global_tag_are_found_by_its_hash(
    database: Database, elsewhere: Database
) -> None:
    with elsewhere.begin() as conn:
        tags.freeze(conn, "g", 60.0)
    with pytest.raises(ChecksumError, match="global tag g of .* is frozen as"):
        pull(database, Tampering(elsewhere, shift=1))
    with database.read() as conn:
        assert conn.execute(sa.select(schema.global_tag)).all() == []


@pytest.mark.parametrize("change", ["backwards", "overlap", "origin", "version", "form", "short", "sweeps"])
def test_versions_that_make_no_sense_are_refused(
    database: Database, elsewhere: Database, change: str
) -> None:
    class Wrong(DatabaseSource):
        def tag(self, name: str, since: int) -> Any:
            page = super().tag(name, since)
            first, second = page["added"][:2]
            if change == "backwards":
                first[1], first[2] = first[2], first[1]
            elif change == "overlap":
                first[1:3] = page["added"][-1][1:3]
            elif change == "origin":
                second[6] = "invented"
            elif change == "version":
                second[4] = 9
            elif change == "short":
                del first[3:]
            elif change == "form":
                page["format"] = 2
            return page

        def global_tag(self, name: str, since: int) -> Any:
            found = super().global_tag(name, since)
            if change == "sweeps":
                found["sweeps"] = [[*sweep[:1], "nowhere", 0, 1.0] for sweep in found["sweeps"]]
            return found

    said = {"backwards": "runs backwards", "overlap": "overlap", "origin": "invented", "version": "version 9"}
    with pytest.raises(BeamwrightError, match=said.get(change, "another form|make no sense")):
        pull(database, Wrong(elsewhere))
    with database.read() as conn:
        assert conn.execute(sa.select(schema.global_tag)).all() == []
        assert change == "sweeps" or conn.execute(sa.select(schema.iov)).all() == []


def test_a_source_that_was_set_back_is_refused(database: Database, elsewhere: Database) -> None:
    pull(database, elsewhere)
    with elsewhere.read() as conn:
        with pytest.raises(ConditionsError, match="has no version 4.*go up to 3"):
            sharing.global_tag(conn, "g", 4)
        with pytest.raises(ConditionsError, match="tag g/Scale has no version 4"):
            sharing.tag(conn, "g/Scale", 4)


def test_a_snapshot_is_taken_in_again_and_again_by_snapshots_alone(
    database: Database, elsewhere: Database
) -> None:
    with elsewhere.read() as conn:
        first = tags.export(conn, "g", [Interval.runs("A", 1, 3)], ["Scale"], 1)
        second = tags.export(conn, "g", [Interval.runs("A", 2, 6)], ["Scale"])
        asked = tags.resolve(conn, "g", ["Scale"], Interval.runs("A", 1, 6))
    with database.begin() as conn:
        for version, data in enumerate((first, second), 1):
            for _ in range(2):
                done = take_snapshot(conn, Snapshot.from_bytes(data), "g", "snapshot", 80.0)
                assert done.version == version
        assert tags.resolve(conn, "g", ["Scale"], Interval.runs("A", 1, 6)).hash == asked.hash
        with pytest.raises(StateError, match="mirror of the one at snapshots"):
            tags.withdraw(conn, "g/Scale", run(1), 90.0)
    assert judge(database) == []


def test_a_tampered_snapshot_is_refused_naming_the_payload(database: Database, elsewhere: Database) -> None:
    with elsewhere.read() as conn:
        data = bytearray(tags.export(conn, "g", [Interval.runs("A", 1, 6)], ["Scale"]))
    data[data.index(np.array([3.0]).tobytes())] ^= 1
    with pytest.raises(ChecksumError, match=f"payload {constants(3).id} of the snapshot"):
        with database.begin() as conn:
            take_snapshot(conn, Snapshot.from_bytes(bytes(data)), "g", "", 80.0)
    with database.read() as conn:
        assert conn.execute(sa.select(schema.global_tag)).all() == []


class Paged(DatabaseSource):
    """Gives pages of single versions."""

    def __init__(self, database: Database, conn: sa.Connection) -> None:
        super().__init__(database)
        self.conn = conn

    def index(self) -> Any:
        return sharing.index(self.conn)

    def global_tag(self, name: str, since: int) -> Any:
        return sharing.global_tag(self.conn, name, since)

    def tag(self, name: str, since: int) -> Any:
        return sharing.tag(self.conn, name, since, page=1)

    def payload(self, payload_id: str) -> Payload:
        return tags.get_payload(self.conn, payload_id)


steps = st.lists(st.tuples(intervals(), payloads(), st.booleans()), min_size=1, max_size=6)


@settings(max_examples=12)
@given(steps=steps)
def test_whatever_happens_at_the_source_the_mirror_follows(
    sqlite_template: Path, sqlite_database: Database, tmp_path: Path, steps: Any
) -> None:
    shutil.copyfile(sqlite_template, tmp_path / "source.db")
    source, name = Database(tmp_path / "source.db"), f"g{next(numbers)}"
    for at, (interval, payload, pulls) in enumerate(steps):
        with source.begin() as conn:
            tags.create_global_tag(conn, name, float(at))
            tags.create_tag(conn, f"{name}/Scale", "arrays", float(at))
            row = (interval, tags.put_payload(conn, payload, float(at)), "loaded", "")
            version = tags.append(conn, f"{name}/Scale", [row], float(at), replace=True)
            tags.sweep(conn, name, {f"{name}/Scale": version}, float(at))
        if pulls or at == len(steps) - 1:
            with source.read() as conn:
                paged = Paged(source, conn)
                paged.name = name
                Mirror(sqlite_database, paged, lambda: 99.0).pull()
    assert content(sqlite_database, name) == content(source, name)
    source.close()


class Cut(Paged):
    """Answers so many times, then never again."""

    left = 0

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise RemoteError("the connection was cut")

    def global_tag(self, name: str, since: int) -> Any:
        self._count()
        return super().global_tag(name, since)

    def tag(self, name: str, since: int) -> Any:
        self._count()
        return super().tag(name, since)

    def payload(self, payload_id: str) -> Payload:
        self._count()
        return super().payload(payload_id)


@pytest.mark.parametrize("each", [1, 2, 3, 4])
def test_wherever_it_is_cut_whole_versions_alone_are_visible_and_it_goes_on(
    database: Database, elsewhere: Database, each: int
) -> None:
    """Two more answers than the last time, so that each place is cut at and passed."""
    pulls = 0
    with elsewhere.read() as conn:
        source = Cut(elsewhere, conn)
        while True:
            source.left, pulls = each + 2 * pulls, pulls + 1
            try:
                Mirror(database, source, lambda: 99.0).pull()
                break
            except RemoteError:
                check_whole(database, conn)
    assert pulls > 1
    assert content(database) == content(elsewhere)


def check_whole(database: Database, source: sa.Connection) -> None:
    """Each version of the tag that is visible says what the source says; the global tag comes last."""
    with database.read() as conn:
        for name, version in conn.execute(sa.select(schema.tag.c.name, schema.tag.c.version)):
            for v in range(version + 1):
                mine, theirs = (tags.intervals(one, name, v) for one in (conn, source))
                assert [(x.interval, x.payload_id) for x in mine] == [
                    (x.interval, x.payload_id) for x in theirs
                ]
            assert len(tags.get_payloads(conn, {x.payload_id for x in tags.intervals(conn, name)})) <= 4
        assert conn.execute(sa.select(schema.global_tag)).all() == []


# --- killed while it writes


class Died(Exception):
    """Stands for the end of the process."""


def die_at(database: Database, target: int) -> list[int]:
    """Let a database fail before its n-th statement or commit; return the count so far."""
    count = [0]

    def step(*_: Any) -> None:
        count[0] += 1
        if count[0] == target:
            raise Died

    sa.event.listen(database._writer, "before_cursor_execute", step)
    sa.event.listen(database._writer, "commit", step)
    return count


def grown(source: Database) -> None:
    """Let the source add, replace, withdraw and freeze."""
    publish(source, "g", (run(7), 5.0), at=40.0)
    publish(source, "g", (run(2), 6.0), at=50.0, replace=True)
    with source.begin() as conn:
        tags.sweep(conn, "g", {"g/Scale": tags.withdraw(conn, "g/Scale", run(1), 60.0)}, 60.0)
        tags.freeze(conn, "g", 70.0)


@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_mirror_that_dies_at_any_statement_shows_whole_versions_alone_and_goes_on(
    sqlite_template: Path, tmp_path: Path, stride: int
) -> None:
    source = copied(sqlite_template, tmp_path / "source.db")
    for at, (where, value, replace) in enumerate(((run(1), 1.0, False), (run(2), 2.0, False)), 1):
        publish(source, "g", (where, value), at=10.0 * at, replace=replace)
    begun = copied(sqlite_template, tmp_path / "begun.db")
    pull(begun, source)
    before = content(begun)
    begun.close()
    grown(source)
    target, is_over = 1, False
    while not is_over:
        mirror = copied(tmp_path / "begun.db", tmp_path / f"{target}.db")
        with source.read() as conn:
            paged = Paged(source, conn)
            paged.name = source.name
            count = die_at(mirror, target)
            try:
                Mirror(mirror, paged, lambda: 99.0).pull()
            except Died:
                shown = content(mirror)
                assert shown[0] in (before[0], content(source)[0]), "a global tag is as it was, or whole"
                assert judge(mirror) == []
            is_over = count[0] < target
            count[0] = -(10**9)
            Mirror(mirror, paged, lambda: 99.0).pull()
        assert content(mirror) == content(source), f"died at {target}"
        mirror.close()
        target += stride
    assert target > 20
    source.close()


def copied(template: Path, path: Path) -> Database:
    shutil.copyfile(template, path)
    return Database(path)


def test_a_mirror_of_a_mirror_says_what_the_source_says(
    database: Database, elsewhere: Database, sqlite_template: Path, tmp_path: Path
) -> None:
    middle = copied(sqlite_template, tmp_path / "middle.db")
    pull(middle, elsewhere)
    assert pull(database, middle) == [(0, 3, 6, 4)]
    grown(elsewhere)
    assert pull(database, middle) == [(3, 3, 0, 0)], "what the one between has not"
    pull(middle, elsewhere)
    pull(database, middle)
    assert content(database) == content(middle) == content(elsewhere)
    assert content(database)[0][0] == "frozen" and judge(database) == []
    with pytest.raises(ConflictError, match="global tag g is made here"):
        pull(elsewhere, middle)
    with pytest.raises(ConflictError, match="is a mirror of the one at"):
        pull(database, elsewhere)
    middle.close()


def test_what_was_tampered_with_between_is_refused_by_name_at_the_far_end(
    database: Database, elsewhere: Database, sqlite_template: Path, tmp_path: Path
) -> None:
    middle, bad = copied(sqlite_template, tmp_path / "middle.db"), constants(4)
    pull(middle, elsewhere)
    with middle.begin() as conn:
        guards.release(conn, "payload")
        changed = sa.update(schema.payload).where(schema.payload.c.id == bad.id)
        conn.execute(changed.values(data=constants(5).data))
    with pytest.raises(ChecksumError, match=bad.id):
        pull(database, middle)
    with database.read() as conn:
        assert conn.execute(sa.select(schema.global_tag)).all() == []
    middle.close()
