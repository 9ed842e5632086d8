"""The past of conditions: dates under a clock that changes, gaps and overlaps, differences of versions."""

from __future__ import annotations

import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from beamwright.conditions import tags, versions
from beamwright.conditions.payload import Payload
from beamwright.conditions.tags import Validity
from beamwright.core.runs import EventKey, Interval, overlaps
from beamwright.db import schema
from beamwright.db.engine import Database
from beamwright.testing.strategies import intervals, probes

PROBES = probes()


def publish(conn: sa.Connection, run: int, at: float, replace: bool = False) -> int:
    tags.create_global_tag(conn, "g", at)
    tags.create_tag(conn, "g/Gain", "json", at)
    payload_id = tags.put_payload(conn, Payload.json([at]), at)
    row = (Interval.runs("A", run, run), payload_id, "loaded", "")
    return tags.sweep(conn, "g", {"g/Gain": tags.append(conn, "g/Gain", [row], at, replace=replace)}, at)


def test_a_clock_that_is_set_back_hides_no_version_and_changes_none(database: Database) -> None:
    with database.begin() as conn:
        said = {}
        for at in (100.0, 200.0, 150.0, 160.0):  # set back by some hours between the second and the third
            version = publish(conn, 1, at, replace=True)
            said[version] = tags.resolve(conn, "g", ["Gain"], Interval.runs("A", 1, 1), version).hash
        assert [versions.version_at(conn, "g", at) for at in (100.0, 149.0, 155.0, 170.0, 1e9)] == [
            1,
            1,
            3,
            4,
            4,
        ]
        for version, expected in said.items():
            assert tags.resolve(conn, "g", ["Gain"], Interval.runs("A", 1, 1), version).hash == expected


def test_a_clock_that_was_ahead_for_a_while_leaves_today_its_newest_version(database: Database) -> None:
    with database.begin() as conn:
        for run, at in enumerate((100.0, 9e9, 110.0)):
            publish(conn, run, at)
        assert [versions.version_at(conn, "g", at) for at in (105.0, 115.0, 1e10)] == [1, 3, 3]
        assert [row["version"] for row in versions.global_log(conn, "g")] == [3, 2, 1]


def test_gaps_and_overlaps_are_reported(database: Database) -> None:
    with database.begin() as conn:
        for run in (1, 2, 5):
            publish(conn, run, 1.0)
        assert versions.report(conn, "g") == [{"tag": "g/Gain", "problem": "gap", "interval": "A:3..4"}]
        row = dict(conn.execute(sa.select(schema.iov)).mappings().first() or {})
        planted = {"id": 99, "first_run": 2, "last_run": 4, "added": 3}
        conn.execute(sa.insert(schema.iov).values(row | planted))
        found = [(one["problem"], one["interval"]) for one in versions.report(conn, "g")]
        assert found == [("overlap", "A:2..2 and A:2..4")]


held = st.lists(st.tuples(intervals(), st.sampled_from("xy")), max_size=4).filter(
    lambda rows: not overlaps(interval for interval, _ in rows)
)


@given(held, held)
def test_two_versions_differ_where_a_position_has_another_payload(
    old: list[tuple[Interval, str]], new: list[tuple[Interval, str]]
) -> None:
    sides = [[Validity(0, i, p, "loaded", "", 0, 1, None) for i, p in side] for side in (old, new)]
    wanted = {}
    for position in PROBES:
        key = EventKey("A", *position)
        pair = tuple(next((p for i, p in side if i.contains(key)), None) for side in (old, new))
        wanted |= {position: pair} if pair[0] != pair[1] else {}
    rows = [(one, row) for row in versions.diff(*sides) for one in PROBES if _holds(row["interval"], one)]
    assert {position: (row["old"], row["new"]) for position, row in rows} == wanted


def _holds(text: str, position: tuple[int, int, int]) -> bool:
    """Tell whether an interval, as it is written, holds a position."""
    first, last = ([int(part) for part in end.split(":")] for end in text.removeprefix("A:").split(".."))
    return tuple(first) <= position and position[: len(last)] <= tuple(last)
