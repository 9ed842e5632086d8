from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sqlalchemy as sa

from beamwright.conditions import tags
from beamwright.conditions.payload import Payload
from beamwright.conditions.snapshot import Snapshot
from beamwright.core.errors import (
    ChecksumError,
    ConditionsError,
    ConflictError,
    FormatError,
    NotCoveredError,
    StateError,
    UnknownNameError,
)
from beamwright.core.runs import Interval
from beamwright.db import history, schema
from beamwright.db.engine import Database
from beamwright.db.migrations import guards


def constants(value: float) -> Payload:
    return Payload.arrays({"scale": np.array([float(value)])}, {"unit": "ns"})


def run(number: int) -> Interval:
    return Interval.runs("A", number, number)


def put(
    conn: sa.Connection, tag: str, *rows: tuple[Interval, float], replace: bool = False, generation: int = 0
) -> int:
    tags.create_tag(conn, tag, "arrays", 1.0)
    named = [(i, tags.put_payload(conn, constants(v), 1.0), "fitted", "") for i, v in rows]
    return tags.append(conn, tag, named, 1.0, generation=generation, replace=replace)


def publish(
    conn: sa.Connection, global_tag: str, role: str, *rows: tuple[Interval, float], replace: bool = False
) -> int:
    tags.create_global_tag(conn, global_tag, 1.0)
    tag = f"{global_tag}/{role}"
    return tags.sweep(conn, global_tag, {tag: put(conn, tag, *rows, replace=replace)}, 1.0)


def test_a_payload_is_stored_once_and_read_back(database: Database) -> None:
    with database.begin() as conn:
        assert tags.put_payload(conn, constants(1), 1.0) == tags.put_payload(conn, constants(1), 2.0)
        assert tags.get_payload(conn, constants(1).id) == constants(1)
        with pytest.raises(UnknownNameError, match="no payload is called"):
            tags.get_payload(conn, "0" * 64)


def test_a_tampered_payload_is_not_used(database: Database) -> None:
    with database.begin() as conn:
        payload_id = tags.put_payload(conn, constants(1), 1.0)
        guards.release(conn, "payload")
        conn.execute(sa.update(schema.payload).values(data=constants(2).data))
        with pytest.raises(ChecksumError, match=payload_id):
            tags.get_payload(conn, payload_id)


def test_a_tag_is_found_again_and_keeps_its_kind(database: Database) -> None:
    with database.begin() as conn:
        assert tags.create_tag(conn, "t", "arrays", 1.0) == tags.create_tag(conn, "t", "arrays", 2.0)
        with pytest.raises(ConflictError, match="holds payloads of kind arrays"):
            tags.create_tag(conn, "t", "json", 1.0)


def test_overlaps_are_refused_and_nothing_is_added(database: Database) -> None:
    with database.begin() as conn:
        assert put(conn, "t", (run(1), 1.0)) == 1
        for rows in ([(Interval.sections("A", 1, 5, 6), 2.0)], [(run(2), 2.0), (run(2), 3.0)]):
            with pytest.raises(ConflictError, match="already|overlap"):
                put(conn, "t", *rows)
        assert tags.version_of(conn, "t") == 1


def test_replacing_cuts_in_the_new_version_only(database: Database) -> None:
    with database.begin() as conn:
        put(conn, "t", (Interval.runs("A", 1, 9), 1.0))
        assert put(conn, "t", (Interval.runs("A", 4, 5), 2.0), replace=True, generation=1) == 2
        now = [
            (str(v.interval), v.payload_id == constants(2).id, v.generation)
            for v in tags.intervals(conn, "t")
        ]
        assert now == [("A:1..3", False, 0), ("A:4..5", True, 1), ("A:6..9", False, 0)]
        assert [str(v.interval) for v in tags.intervals(conn, "t", version=1)] == ["A:1..9"]


def test_appending_the_same_rows_again_changes_nothing(database: Database) -> None:
    with database.begin() as conn:
        assert put(conn, "t", (run(1), 1.0)) == put(conn, "t", (run(1), 1.0)) == 1
        assert put(conn, "t", (run(1), 1.0), (run(2), 1.0)) == 2
        assert len(tags.intervals(conn, "t")) == 2


def test_only_what_overlaps_is_returned_when_asked(database: Database) -> None:
    with database.begin() as conn:
        put(conn, "t", *((Interval.sections("A", n, 10, 20), float(n)) for n in range(1, 6)))
        found = tags.intervals(conn, "t", overlapping=Interval("A", (2, 20, 7), (4, 9, 0)))
        assert [v.interval.first[0] for v in found] == [2, 3]


def test_another_kind_an_unknown_payload_and_an_unknown_origin_are_refused(database: Database) -> None:
    with database.begin() as conn:
        put(conn, "t", (run(1), 1.0))
        other = tags.put_payload(conn, Payload.json({}), 1.0)
        with pytest.raises(ConditionsError, match="is of kind json"):
            tags.append(conn, "t", [(run(2), other, "fitted", "")], 1.0)
        with pytest.raises(UnknownNameError, match="payload"):
            tags.append(conn, "t", [(run(2), "f" * 64, "fitted", "")], 1.0)
        with pytest.raises(ConditionsError, match="did you mean fitted"):
            tags.append(conn, "t", [(run(2), constants(1).id, "fited", "")], 1.0)
        with pytest.raises(UnknownNameError, match="did you mean t"):
            tags.append(conn, "tt", [], 1.0)


def test_each_sweep_is_a_version_and_old_ones_answer_as_before(database: Database) -> None:
    with database.begin() as conn:
        assert publish(conn, "g", "Scale", (run(1), 1.0)) == 1
        assert publish(conn, "g", "Scale", (run(2), 2.0)) == 2
        assert publish(conn, "g", "Offset", (run(1), 3.0)) == 3
        assert tags.members(conn, "g") == {"g/Scale": 2, "g/Offset": 1}
        assert tags.members(conn, "g", version=1) == {"g/Scale": 1}
        assert tags.resolve(conn, "g", ["Scale"], run(2), version=1).gaps == [("Scale", run(2))]
        assert tags.resolve(conn, "g", ["Scale"], run(2)).gaps == []
        with pytest.raises(ConditionsError, match="no version 9"):
            tags.members(conn, "g", version=9)


def test_a_sweep_with_nothing_new_makes_no_version(database: Database) -> None:
    with database.begin() as conn:
        publish(conn, "g", "Scale", (run(1), 1.0))
        assert tags.sweep(conn, "g", {"g/Scale": 1}, 2.0) == 1


def test_a_role_has_one_tag_and_a_tag_does_not_go_back(database: Database) -> None:
    with database.begin() as conn:
        publish(conn, "g", "Scale", (run(1), 1.0))
        put(conn, "other/Scale", (run(1), 1.0))
        with pytest.raises(ConflictError, match="two tags for Scale"):
            tags.sweep(conn, "g", {"other/Scale": 1}, 1.0)
        publish(conn, "g", "Scale", (run(2), 1.0))
        for version in (1, 7):
            with pytest.raises(ConflictError, match=f"cannot use version {version}"):
                tags.sweep(conn, "g", {"g/Scale": version}, 1.0)


def test_a_global_tag_can_use_the_tags_of_another(database: Database) -> None:
    with database.begin() as conn:
        publish(conn, "prompt", "Scale", (run(1), 1.0))
        tags.create_global_tag(conn, "again", 1.0)
        tags.sweep(conn, "again", {"prompt/Scale": 1}, 1.0)
        here, there = (tags.resolve(conn, name, ["Scale"], run(1)) for name in ("prompt", "again"))
    assert here.hash == there.hash


def test_freezing_closes_a_global_tag_with_its_hash(database: Database) -> None:
    with database.begin() as conn:
        publish(conn, "g", "Scale", (run(1), 1.0))
        root = tags.freeze(conn, "g", 5.0)
        assert tags.freeze(conn, "g", 6.0) == root == tags.merkle(conn, "g")
        put(conn, "g/Scale", (run(2), 2.0))
        assert tags.merkle(conn, "g") == root
        with pytest.raises(StateError, match="is frozen"):
            tags.sweep(conn, "g", {"g/Scale": 2}, 7.0)
        tag_id = conn.execute(sa.select(schema.global_tag.c.id)).scalar_one()
        assert [entry.target for entry in history.of(conn, "global_tag", tag_id)] == ["open", "frozen"]


def test_the_merkle_hash_knows_every_interval_and_payload(database: Database) -> None:
    with database.begin() as conn:
        publish(conn, "g", "Scale", (run(1), 1.0))
        first = tags.merkle(conn, "g")
        publish(conn, "g", "Scale", (run(1), 2.0), replace=True)
        second = tags.merkle(conn, "g")
        publish(conn, "g", "Scale", (run(2), 2.0))
    assert len({first, second, tags_merkle(database)}) == 3


def tags_merkle(database: Database) -> str:
    with database.begin() as conn:
        publish(conn, "g", "Scale", (run(2), 2.0))
        return tags.merkle(conn, "g")


def test_a_carried_interval_has_the_hash_of_one_that_was_never_cut(database: Database) -> None:
    with database.begin() as conn:
        publish(conn, "cut", "Scale", (run(1), 1.0), (run(2), 1.0))
        publish(conn, "whole", "Scale", (Interval.runs("A", 1, 2), 1.0))
        asked = Interval.runs("A", 1, 2)
        one, other = (tags.resolve(conn, name, ["Scale"], asked) for name in ("cut", "whole"))
    assert one.hash == other.hash
    assert one.pieces == [("Scale", asked, constants(1).id)]


def test_a_snapshot_holds_what_was_asked_for_and_its_bytes_know_no_version(database: Database) -> None:
    with database.begin() as conn:
        publish(conn, "g", "Scale", (run(1), 1.0))
        publish(conn, "g", "Offset", (run(1), 5.0))
        before = tags.export(conn, "g", [run(1)], ["Scale"])
        publish(conn, "g", "Scale", (run(2), 2.0))
        assert tags.export(conn, "g", [run(1)], ["Scale"]) == before
        snapshot = Snapshot.from_bytes(tags.export(conn, "g", [run(1), run(2)], ["Offset", "Scale"]))
    assert snapshot.roles == ("Offset", "Scale")
    arrays, document = snapshot.constants(snapshot.resolve("Scale", ("A", (2, 0, 0)))[1])
    assert arrays["scale"].tolist() == [2.0] and document == {"unit": "ns"}
    with pytest.raises(NotCoveredError, match=r"Offset of global tag g does not cover A:2"):
        snapshot.pieces(["Offset"], run(2))
    with pytest.raises(NotCoveredError, match="did you mean Scale"):
        snapshot.pieces(["Scal"], run(2))


def test_an_override_stands_for_the_whole_interval(database: Database) -> None:
    with database.begin() as conn:
        publish(conn, "g", "Scale", (run(1), 1.0))
        forced = tags.put_payload(conn, constants(7), 1.0)
        data = tags.export(
            conn, "g", [run(1), run(5)], ["Scale", "New"], overrides={"Scale": forced, "New": forced}
        )
    snapshot = Snapshot.from_bytes(data)
    assert snapshot.pieces(["New", "Scale"], run(5)) == [("New", run(5), forced), ("Scale", run(5), forced)]


def test_a_snapshot_cuts_where_any_role_changes(database: Database) -> None:
    with database.begin() as conn:
        publish(
            conn, "g", "Scale", (Interval.sections("A", 1, 0, 9), 1.0), (Interval.sections("A", 1, 10), 2.0)
        )
        publish(
            conn, "g", "Offset", (Interval.sections("A", 1, 0, 4), 1.0), (Interval.sections("A", 1, 5), 2.0)
        )
        snapshot = Snapshot.from_bytes(tags.export(conn, "g", [run(1)], ["Scale", "Offset"]))
    assert [str(part) for part in snapshot.boundaries(["Scale", "Offset"], run(1))] == [
        "A:1..1:4",
        "A:1:5..1:9",
        "A:1:10..1",
    ]
    assert len(snapshot.boundaries(["Scale"], run(1))) == 2
    assert snapshot.boundaries([], run(1)) == [run(1)]


def test_a_damaged_snapshot_is_refused(database: Database) -> None:
    with database.begin() as conn:
        publish(conn, "g", "Scale", (run(1), 1.0))
        data = tags.export(conn, "g", [run(1)], ["Scale"])
    for damaged in (data[:40], b"junk" + data, data.replace(b'"format":1', b'"format":9')):
        with pytest.raises(FormatError):
            Snapshot.from_bytes(damaged)
    flipped = bytearray(data)
    flipped[data.index(np.array([1.0]).tobytes())] ^= 1
    with pytest.raises(ChecksumError, match="other content"):
        Snapshot.from_bytes(bytes(flipped)).constants(constants(1).id)


def test_two_that_append_at_once_each_get_a_version(database: Database) -> None:
    with database.begin() as conn:
        put(conn, "t", (run(100), 1.0))

    def append(number: int) -> int:
        with database.begin() as conn:
            return put(conn, "t", (run(number), float(number)))

    with ThreadPoolExecutor(4) as pool:
        versions = sorted(pool.map(append, range(8)))
    with database.read() as conn:
        assert versions == list(range(2, 10))
        assert len(tags.intervals(conn, "t")) == 9


def test_of_two_that_append_the_same_interval_at_once_one_is_refused(database: Database) -> None:
    with database.begin() as conn:
        tags.create_tag(conn, "t", "arrays", 1.0)

    def append(number: int) -> str:
        try:
            with database.begin() as conn:
                put(conn, "t", (run(1), float(number)))
        except ConflictError as error:
            return error.message
        return ""

    with ThreadPoolExecutor(2) as pool:
        outcomes = sorted(pool.map(append, (1, 2)))
    assert outcomes[0] == ""
    assert "has constants for A:1..1 already" in outcomes[1]
